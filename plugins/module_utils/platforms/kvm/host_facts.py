# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is known of a KVM host beside its objects."""

from __future__ import annotations

import os
import platform
from typing import Any, Dict, List, Mapping, Optional

from . import maintenance, tuning


def host_facts(connection: Any, root: str = "/") -> Dict[str, Any]:
    """Return the host's versions, processors, memory, and physical interfaces.

    connection: a libvirt connection, for `getVersion`, `getLibVersion` and `getInfo` (virNodeGetInfo).
    root: where the host's file system begins; /etc/os-release, /proc and /sys are read below it.
    Memory is in MiB. Nested is None where the KVM module is not loaded.
    """
    _model, memory, processors, _mhz, nodes, sockets, cores, threads = connection.getInfo()
    release = _settings(os.path.join(root, "etc/os-release"))
    meminfo = _meminfo(os.path.join(root, "proc/meminfo"))
    return {
        "operating_system": release.get("PRETTY_NAME", ""),
        "kernel": platform.release(),
        "libvirt_version": version(connection.getLibVersion()),
        "qemu_version": version(connection.getVersion()),
        "cpu": {
            "count": processors,
            "numa_nodes": nodes,
            "sockets": sockets,
            "cores": cores,
            "threads": threads,
            "nested": _nested(root),
        },
        "memory": {
            "size": memory,
            "available": meminfo.get("MemAvailable", 0) // 1024,
            "hugepages": meminfo.get("HugePages_Total", 0),
            "hugepage_size": meminfo.get("Hugepagesize", 0) // 1024,
        },
        "tuning": tuning.facts(root),
        "maintenance": maintenance.facts(root),
        "interfaces": _physical_interfaces(os.path.join(root, "sys/class/net")),
    }


def version(number: int) -> str:
    # libvirt counts 1,000,000 x major + 1,000 x minor + release.
    return f"{number // 1000000}.{number // 1000 % 1000}.{number % 1000}"


def _text(path: str) -> Optional[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        # Some of these files are not on every host, and a link that is down refuses to tell its speed.
        return None


def _settings(path: str) -> Mapping[str, str]:
    pairs = (line.partition("=") for line in (_text(path) or "").splitlines() if "=" in line)
    return {name: value.strip('"') for name, _sign, value in pairs}


def _meminfo(path: str) -> Mapping[str, int]:
    pairs = (line.partition(":") for line in (_text(path) or "").splitlines())
    return {name: int(value.split()[0]) for name, _colon, value in pairs if value.split()}


def _nested(root: str) -> Optional[bool]:
    for module in ("kvm_amd", "kvm_intel"):
        value = _text(os.path.join(root, "sys/module", module, "parameters/nested"))
        if value is not None:
            return value.strip() in ("1", "Y")
    return None


def _physical_interfaces(folder: str) -> List[Dict[str, Any]]:
    interfaces = []
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        # Only what hangs on a bus has a device.
        if not os.path.exists(os.path.join(path, "device")):
            continue
        speed = (_text(os.path.join(path, "speed")) or "").strip()
        interfaces.append(
            {
                "name": name,
                "mac": (_text(os.path.join(path, "address")) or "").strip(),
                "mtu": int(_text(os.path.join(path, "mtu")) or 0),
                "link": (_text(os.path.join(path, "operstate")) or "").strip() == "up",
                "speed": int(speed) if speed.isdigit() else None,
            }
        )
    return interfaces
