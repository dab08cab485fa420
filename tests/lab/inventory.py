# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The lab's servers as an Ansible inventory: how to reach them, and nothing about what they should become."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from lab import images
from lab.errors import LabError
from lab.machine import USER
from lab.processes import write_atomically
from lab.topology import Lab


def inventory(lab: Lab) -> dict[str, Any]:
    """Return the inventory of the lab's running servers as plain data.

    Each host has its connection variables, ``lab_image_server`` (URL of the guest images as the host reaches it) and
    ``lab_images`` (name to ``url`` and ``checksum``). Raises LabError if no server runs.
    """
    running = [server for server in lab.machines() if server.running]
    if not running:
        raise LabError(f"no server runs in {lab.folder}: start one with `up NAME`.")
    base = lab.image_server_url()
    if base is None:
        raise LabError(f"the image server of {lab.folder} does not run: `up {running[0].name}` starts it.")
    offered = {
        name: {"url": f"{base}/{name}.qcow2", "checksum": f"sha256:{image.facts['sha256']}"}
        for name, image in lab.guest_images().items()
    }
    hosts = {}
    for server in running:
        hosts[server.name] = {
            "ansible_host": "127.0.0.1",
            "ansible_port": server.ssh_port,
            "ansible_user": USER,
            "ansible_ssh_private_key_file": str(images.ssh_key()),
            "ansible_ssh_common_args": shlex.join(_common_args(lab.folder / "known_hosts")),
            "ansible_python_interpreter": "/usr/bin/python3",
            "lab_image_server": base,
            "lab_images": offered,
        }
    return {"all": {"hosts": hosts}}


def _common_args(known_hosts: Path) -> list[str]:
    return [
        *("-F", "none", "-o", "IdentitiesOnly=yes", "-o", f"UserKnownHostsFile={known_hosts}"),
        *("-o", "GlobalKnownHostsFile=/dev/null", "-o", "StrictHostKeyChecking=yes"),
    ]


def write(lab: Lab, target: Path) -> None:
    """Write the inventory to ``target`` as JSON, which is YAML as well (YAML 1.2, section 1.2) and needs no library."""
    text = (
        "# Written by `python3 tests/lab inventory`: changes are lost.\n" + json.dumps(inventory(lab), indent=2) + "\n"
    )
    write_atomically(target, text)


def as_text(lab: Lab) -> str:
    """Return the inventory as text."""
    return json.dumps(inventory(lab), indent=2)
