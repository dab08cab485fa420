# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What tests of VMs use on the host: the guests' consoles and their agents. Copied there, so it imports nothing of the tests."""

from __future__ import annotations

import base64
import json
import os
import time
from typing import Any

CONSOLES = "/var/log/libvirt/bareforge"


def domain(name: str) -> Any:
    """Return a libvirt domain."""
    import libvirt

    libvirt.registerErrorHandler(lambda *_arguments: None, None)
    return libvirt.open("qemu:///system").lookupByName(name)


def console(name: str) -> str:
    """Return what a guest has written to its console since it started."""
    try:
        with open(os.path.join(CONSOLES, f"{name}.log"), encoding="utf-8", errors="replace") as log:
            return log.read()
    except FileNotFoundError:
        return ""


def wait_for(name: str, text: str, seconds: float = 600) -> str:
    """Wait until a guest's console shows a text, and return the console."""
    deadline = time.monotonic() + seconds
    while text not in console(name):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{name} has not said {text!r} within {seconds:.0f} s: {console(name)[-1500:]!r}")
        time.sleep(0.5)
    return console(name)


def ask_agent(name: str, command: str, arguments: Any = None, seconds: int = 60) -> Any:
    """Return the guest agent's answer to a command."""
    import libvirt_qemu

    request: dict[str, Any] = {"execute": command}
    if arguments is not None:
        request["arguments"] = arguments
    return json.loads(libvirt_qemu.qemuAgentCommand(domain(name), json.dumps(request), seconds, 0))["return"]


def guest(name: str, script: str, seconds: float = 240) -> str:
    """Run a shell script in a guest by its agent and return what it has written."""
    import libvirt

    deadline = time.monotonic() + seconds
    while True:
        try:
            started = ask_agent(
                name, "guest-exec", {"path": "/bin/sh", "arg": ["-c", script], "capture-output": True}, 20
            )
            break
        except libvirt.libvirtError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)
    while True:
        status = ask_agent(name, "guest-exec-status", {"pid": started["pid"]})
        if status["exited"]:
            text = base64.b64decode(status.get("out-data", "")) + base64.b64decode(status.get("err-data", ""))
            return text.decode("utf-8", "replace").strip()
        if time.monotonic() > deadline:
            raise TimeoutError(f"{script!r} in {name} did not end within {seconds:.0f} s")
        time.sleep(0.3)


def wait_in_guest(name: str, script: str, wanted: str, seconds: float = 180) -> str:
    """Run a shell script in a guest until its output holds a text, and return the output."""
    deadline = time.monotonic() + seconds
    while True:
        text = guest(name, script)
        if wanted in text or time.monotonic() > deadline:
            return text
        time.sleep(1)


def pci_devices(name: str) -> list[str]:
    """Return the PCI devices that a guest sees, as VENDOR:DEVICE, from QEMU itself."""
    import libvirt_qemu

    answer = json.loads(libvirt_qemu.qemuMonitorCommand(domain(name), json.dumps({"execute": "query-pci"}), 0))
    found: list[str] = []

    def walk(devices: Any) -> None:
        for device in devices:
            found.append(f"{device['id']['vendor']:04x}:{device['id']['device']:04x}")
            walk((device.get("pci_bridge") or {}).get("devices", []))

    for bus in answer["return"]:
        walk(bus["devices"])
    return found


def left_over(name: str) -> list[str]:
    """Return everything on the host that still carries a VM's name."""
    found = []
    places = (
        "/var/lib/libvirt",
        "/var/log/libvirt/bareforge",
        "/etc/libvirt/qemu",
        "/run/libvirt/qemu",
        "/var/lib/swtpm-localca",
    )
    for place in places:
        for directory, folders, files in os.walk(place):
            found.extend(os.path.join(directory, entry) for entry in folders + files if entry.split(".")[0] == name)
    return sorted(found)
