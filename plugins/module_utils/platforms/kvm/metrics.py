# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a KVM host and its VMs use: one call to libvirt, and four files of the kernel.

Counters grow from the host's boot, or a VM's start; a rate is the difference of two readings over that of their `time`.
Sources: virConnectGetAllDomainStats; proc(5); the kernel's Documentation/admin-guide/iostats.rst.
"""

from __future__ import annotations

import os
import time
from typing import Any, Dict, Iterator, List, Mapping, Optional

from ...engine.platform import Interface
from ...transports import libvirt as session
from . import domains

KIB_PER_MIB = 1024
NANOSECONDS = 1_000_000_000
CPU_TIMES = ("time", "user", "system")
SECTOR_BYTES = 512  # of /proc/diskstats, whatever the disk's own are


class KvmMetrics(Interface):
    """Tells what a KVM host and its VMs use."""

    CAPABILITIES = frozenset({"metrics"})

    def __init__(self, platform: Any = None) -> None:
        self.platform = platform

    def metrics(self) -> Dict[str, Any]:
        """Return what is used right now; see :func:`read_metrics`. Raises ReadError, ConnectError or AuthenticateError."""
        return session.read(read_metrics, "what the virtual machines use cannot be read")


def read_metrics(connection: Any, root: str = "/") -> Dict[str, Any]:
    """Return `time` (seconds since 1970), and what the `host` and its `vms` use; units stand in the names.

    root: where the host's file system begins. libvirt's exceptions pass.
    """
    libvirt = session.library()
    wanted = (
        libvirt.VIR_DOMAIN_STATS_STATE
        | libvirt.VIR_DOMAIN_STATS_CPU_TOTAL
        | libvirt.VIR_DOMAIN_STATS_BALLOON
        | libvirt.VIR_DOMAIN_STATS_VCPU
        | libvirt.VIR_DOMAIN_STATS_INTERFACE
        | libvirt.VIR_DOMAIN_STATS_BLOCK
    )
    # A VM whose QEMU does not answer is told with what is known without it.
    records = connection.getAllDomainStats(wanted, libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT)
    return {
        "time": round(time.time(), 3),
        "host": read_host(root),
        "vms": sorted((_vm(domain, facts) for domain, facts in records), key=lambda vm: str(vm["name"])),
    }


def _vm(domain: Any, facts: Mapping[str, Any]) -> Dict[str, Any]:
    power = domains.POWER.get(facts.get("state.state", 0), "stopped")
    # Of a domain without a process libvirt 9 tells the processor time of its own daemon.
    seconds = {} if power == "stopped" else {name: _seconds(facts.get(f"cpu.{name}")) for name in CPU_TIMES}
    return {
        "name": domain.name(),
        "uuid": domain.UUIDString(),
        "power": power,
        "cpu": {
            "count": facts.get("vcpu.current"),
            "used_seconds": seconds.get("time"),
            "user_seconds": seconds.get("user"),
            "system_seconds": seconds.get("system"),
        },
        "memory": {
            "size_mib": _mib(facts.get("balloon.current")),
            "maximum_mib": _mib(facts.get("balloon.maximum")),
            "usable_mib": _mib(facts.get("balloon.usable")),
            "unused_mib": _mib(facts.get("balloon.unused")),
            "resident_mib": _mib(facts.get("balloon.rss")),
        },
        "disks": [
            {
                "device": each.get("name"),
                "path": each.get("path"),
                "read_bytes": each.get("rd.bytes"),
                "written_bytes": each.get("wr.bytes"),
                "read_operations": each.get("rd.reqs"),
                "write_operations": each.get("wr.reqs"),
                "capacity_bytes": each.get("capacity"),
                "allocated_bytes": each.get("allocation"),
            }
            for each in _numbered(facts, "block")
        ],
        "nics": [
            {
                "device": each.get("name"),
                "received_bytes": each.get("rx.bytes"),
                "sent_bytes": each.get("tx.bytes"),
                "received_packets": each.get("rx.pkts"),
                "sent_packets": each.get("tx.pkts"),
                "received_errors": each.get("rx.errs"),
                "sent_errors": each.get("tx.errs"),
                "received_dropped": each.get("rx.drop"),
                "sent_dropped": each.get("tx.drop"),
            }
            for each in _numbered(facts, "net")
        ],
    }


def _numbered(facts: Mapping[str, Any], what: str) -> Iterator[Dict[str, Any]]:
    for number in range(int(facts.get(f"{what}.count", 0))):
        prefix = f"{what}.{number}."
        yield {name[len(prefix) :]: value for name, value in facts.items() if name.startswith(prefix)}


def _seconds(nanoseconds: Optional[int]) -> Optional[float]:
    return None if nanoseconds is None else round(nanoseconds / NANOSECONDS, 3)


def _mib(kib: Optional[int]) -> Optional[int]:
    return None if kib is None else kib // KIB_PER_MIB


def read_host(root: str = "/") -> Dict[str, Any]:
    """Return what the host itself uses, from /proc/stat, /proc/loadavg, /proc/meminfo, /proc/diskstats and /proc/net/dev.

    Disks are whole block devices of the host without partitions, loop and RAM devices.
    """
    ticks = os.sysconf("SC_CLK_TCK")
    cpu = [int(word) / ticks for word in _lines(root, "proc/stat")[0].split()[1:]]
    memory = {
        name: int(rest.split()[0])
        for name, _colon, rest in (line.partition(":") for line in _lines(root, "proc/meminfo"))
        if rest.split()
    }
    return {
        "cpu": {
            "user_seconds": cpu[0] + cpu[1],
            "system_seconds": cpu[2] + cpu[5] + cpu[6],
            "idle_seconds": cpu[3],
            "iowait_seconds": cpu[4],
            "guest_seconds": cpu[8] + cpu[9],
        },
        "load": [float(word) for word in _lines(root, "proc/loadavg")[0].split()[:3]],
        "memory": {
            "size_mib": memory["MemTotal"] // KIB_PER_MIB,
            "available_mib": memory["MemAvailable"] // KIB_PER_MIB,
            "free_mib": memory["MemFree"] // KIB_PER_MIB,
            "swap_used_mib": (memory["SwapTotal"] - memory["SwapFree"]) // KIB_PER_MIB,
        },
        "disks": list(_disks(root)),
        "interfaces": list(_interfaces(root)),
    }


def _lines(root: str, path: str) -> List[str]:
    with open(os.path.join(root, path), encoding="ascii", errors="replace") as file:
        return file.read().splitlines()


def _disks(root: str) -> Iterator[Dict[str, Any]]:
    for line in _lines(root, "proc/diskstats"):
        words = line.split()
        name = words[2]
        # Partitions have no entry of their own there.
        whole = os.path.isdir(os.path.join(root, "sys/block", name.replace("/", "!")))
        if whole and not name.startswith(("loop", "ram")):
            yield {
                "device": name,
                "read_bytes": int(words[5]) * SECTOR_BYTES,
                "written_bytes": int(words[9]) * SECTOR_BYTES,
                "read_operations": int(words[3]),
                "write_operations": int(words[7]),
            }


def _interfaces(root: str) -> Iterator[Dict[str, Any]]:
    for line in _lines(root, "proc/net/dev")[2:]:
        name, _colon, rest = line.partition(":")
        words = [int(word) for word in rest.split()]
        if name.strip() != "lo":
            yield {
                "device": name.strip(),
                "received_bytes": words[0],
                "sent_bytes": words[8],
                "received_packets": words[1],
                "sent_packets": words[9],
                "received_errors": words[2],
                "sent_errors": words[10],
                "received_dropped": words[3],
                "sent_dropped": words[11],
            }
