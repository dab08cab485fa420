# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What tests of VMs use on the host: the guests' consoles and their agents. Copied there, so it imports nothing of the tests."""

from __future__ import annotations

import base64
import contextlib
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


def monitor(name: str, command: str, arguments: Any = None) -> Any:
    """Return QEMU's own answer to a command of its monitor (QMP)."""
    import libvirt_qemu

    request: dict[str, Any] = {"execute": command}
    if arguments is not None:
        request["arguments"] = arguments
    return json.loads(libvirt_qemu.qemuMonitorCommand(domain(name), json.dumps(request), 0))["return"]


def process_id(name: str) -> int:
    """Return the process id of a VM's QEMU."""
    with open(f"/run/libvirt/qemu/{name}.pid", encoding="ascii") as file:
        return int(file.read())


def command_line(name: str) -> list[str]:
    """Return the command line of a VM's QEMU."""
    with open(f"/proc/{process_id(name)}/cmdline", "rb") as arguments:
        return arguments.read().decode("utf-8", "replace").split("\0")


def cgroup_files(name: str, *files: str) -> dict[str, list[str]]:
    """Return what stands in files of a VM's cgroup, and of the one below it that libvirt makes."""
    with open(f"/proc/{process_id(name)}/cgroup", encoding="utf-8") as line:
        scope = "/sys/fs/cgroup" + line.read().strip().partition("::")[2].partition(".scope")[0] + ".scope"
    found: dict[str, list[str]] = {}
    for entry in files:
        for folder in (scope, f"{scope}/libvirt"):
            with contextlib.suppress(FileNotFoundError), open(f"{folder}/{entry}", encoding="ascii") as file:
                found.setdefault(entry, []).append(file.read().strip())
    return found


# For a PC that has just been switched on: say each byte that follows on the first serial port, and stop.
# push cs; pop ds; call next; next: pop si; add si, 31; cld
# again: lodsb; test al, al; jz stop; mov ah, al; mov dx, 0x3fd; wait: in al, dx; test al, 0x20; jz wait
# mov al, ah; mov dx, 0x3f8; out dx, al; jmp again; stop: hlt; jmp stop
SAYS = bytes.fromhex("0e1fe800005e83c61ffcac84c0741288c4bafd03eca82074fb88e0baf803eeebe9f4ebfd")


def make_bootable_cd(path: str, text: str) -> None:
    """Write the image of a CD that boots, says a text on the serial port, and stops (El Torito)."""
    from io import BytesIO

    import pycdlib

    program = (SAYS + text.encode("ascii") + b"\r\n\0").ljust(2048, b"\0")
    image = pycdlib.PyCdlib()
    image.new()
    image.add_fp(BytesIO(program), len(program), "/BOOT.;1")
    image.add_eltorito("/BOOT.;1", boot_load_size=4)
    image.write(path)
    image.close()


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
