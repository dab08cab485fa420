# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a host and its VMs use, from files laid out like a host's and from statistics as libvirt 9.0 gives them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.boundary.definitions import MODULES
from ansible_collections.bareforge.hypervisor.plugins.module_utils.engine.platform import Interface, Platform
from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import NotSupportedError
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.inventory import KvmInventory
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.metrics import (
    KvmMetrics,
    read_host,
    read_metrics,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.platform import KvmPlatform
from support.libvirt_in_memory import RUNNING, SHUTOFF, Host, Library

FILES = {
    "proc/stat": "cpu  1000 200 300 4000 500 60 70 80 90 10\ncpu0 1 2 3\n",
    "proc/loadavg": "0.52 1.25 2.00 1/234 5678\n",
    "proc/meminfo": "MemTotal: 4096000 kB\nMemFree: 1024000 kB\nMemAvailable: 2048000 kB\nSwapTotal: 2048 kB\nSwapFree: 1024 kB\n",
    "proc/diskstats": (
        " 254 0 vda 10 0 20 5 30 0 40 9 0 0 0\n 254 1 vda1 9 0 18 5 30 0 40 9 0 0 0\n   7 0 loop0 1 0 2 0 0 0 0 0 0 0 0\n"
    ),
    "proc/net/dev": (
        "Inter-|   Receive  |  Transmit\n face |bytes packets errs drop fifo frame compressed multicast|bytes ...\n"
        "    lo: 5 5 0 0 0 0 0 0 5 5 0 0 0 0 0 0\n"
        "  eno1:1000 10 1 2 0 0 0 0 2000 20 3 4 0 0 0 0\n"
    ),
    "sys/block/vda/size": "1\n",
    "sys/block/loop0/size": "1\n",
}
STATISTICS = {
    "state.state": RUNNING,
    "cpu.time": 12_345_678_901,
    "cpu.user": 2_000_000_000,
    "cpu.system": 1_000_000_000,
    "vcpu.current": 2,
    "balloon.current": 524288,
    "balloon.maximum": 1048576,
    "balloon.usable": 409600,
    "balloon.unused": 307200,
    "balloon.rss": 204800,
    "net.count": 1,
    "net.0.name": "bf0123456789ab",
    "net.0.rx.bytes": 100,
    "net.0.tx.bytes": 200,
    "net.0.rx.pkts": 1,
    "net.0.tx.pkts": 2,
    "net.0.rx.errs": 0,
    "net.0.tx.errs": 0,
    "net.0.rx.drop": 3,
    "net.0.tx.drop": 4,
    "block.count": 2,
    "block.0.name": "vda",
    "block.0.path": "/images/web1/root.qcow2",
    "block.0.rd.bytes": 4096,
    "block.0.wr.bytes": 8192,
    "block.0.rd.reqs": 5,
    "block.0.wr.reqs": 6,
    "block.0.capacity": 1 << 30,
    "block.0.allocation": 1 << 20,
    "block.1.name": "sda",
}


class Entry:
    def __init__(self, name: str) -> None:
        self._name = name

    def name(self) -> str:
        return self._name

    def UUIDString(self) -> str:
        return f"uuid-{self._name}"


class Connection:
    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []

    def getAllDomainStats(self, wanted: int, flags: int) -> list[tuple[Entry, dict[str, Any]]]:
        self.asked.append((wanted, flags))
        # As libvirt 9.0 does on the lab's server: the processor time of its own daemon, for a domain that is off.
        off = {
            "state.state": SHUTOFF,
            "balloon.maximum": 2048,
            "cpu.time": 23_060_000_000,
            "cpu.user": 1,
            "cpu.system": 1,
        }
        return [(Entry("web1"), dict(STATISTICS)), (Entry("db1"), off)]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setitem(sys.modules, "libvirt", Library(Host()))  # type: ignore[arg-type]
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_CLK_TCK": 100}[name])
    return str(tmp_path)


def test_what_the_host_uses(root: str) -> None:
    assert read_host(root) == {
        "cpu": {
            "user_seconds": 12.0,
            "system_seconds": 4.3,
            "idle_seconds": 40.0,
            "iowait_seconds": 5.0,
            "guest_seconds": 1.0,
        },
        "load": [0.52, 1.25, 2.0],
        "memory": {"size_mib": 4000, "available_mib": 2000, "free_mib": 1000, "swap_used_mib": 1},
        "disks": [
            {
                "device": "vda",
                "read_bytes": 10240,
                "written_bytes": 20480,
                "read_operations": 10,
                "write_operations": 30,
            }
        ],
        "interfaces": [
            {
                "device": "eno1",
                "received_bytes": 1000,
                "sent_bytes": 2000,
                "received_packets": 10,
                "sent_packets": 20,
                "received_errors": 1,
                "sent_errors": 3,
                "received_dropped": 2,
                "sent_dropped": 4,
            }
        ],
    }


def test_what_vms_use_in_one_call_that_waits_for_no_vm(root: str) -> None:
    connection = Connection()
    told = read_metrics(connection, root)
    wanted = (
        Library.VIR_DOMAIN_STATS_STATE
        | Library.VIR_DOMAIN_STATS_CPU_TOTAL
        | Library.VIR_DOMAIN_STATS_BALLOON
        | Library.VIR_DOMAIN_STATS_VCPU
        | Library.VIR_DOMAIN_STATS_INTERFACE
        | Library.VIR_DOMAIN_STATS_BLOCK
    )
    assert connection.asked == [(wanted, Library.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT)]
    assert told["time"] > 1_700_000_000
    off, web = told["vms"]
    assert (off["name"], off["power"], off["cpu"]["used_seconds"], off["disks"], off["nics"]) == (
        *("db1", "stopped", None, []),
        [],
    )
    assert off["memory"]["maximum_mib"] == 2
    assert (web["name"], web["uuid"], web["power"]) == ("web1", "uuid-web1", "running")
    assert web["cpu"] == {"count": 2, "used_seconds": 12.346, "user_seconds": 2.0, "system_seconds": 1.0}
    assert web["memory"] == {
        "size_mib": 512,
        "maximum_mib": 1024,
        "usable_mib": 400,
        "unused_mib": 300,
        "resident_mib": 200,
    }
    disk, empty = web["disks"]
    assert disk == {
        "device": "vda",
        "path": "/images/web1/root.qcow2",
        "read_bytes": 4096,
        "written_bytes": 8192,
        "read_operations": 5,
        "write_operations": 6,
        "capacity_bytes": 1 << 30,
        "allocated_bytes": 1 << 20,
    }
    assert (empty["device"], empty["read_bytes"]) == ("sda", None)
    (nic,) = web["nics"]
    assert nic == {
        "device": "bf0123456789ab",
        "received_bytes": 100,
        "sent_bytes": 200,
        "received_packets": 1,
        "sent_packets": 2,
        "received_errors": 0,
        "sent_errors": 0,
        "received_dropped": 3,
        "sent_dropped": 4,
    }


def test_a_platform_without_metrics_refuses_them() -> None:
    class Silent(Platform):
        NAME = "silent"

    definition = MODULES["host_info"]
    with pytest.raises(NotSupportedError, match="metrics: platform silent does not tell any"):
        definition.perform(Silent(), definition.parse({"platform": "silent", "kinds": [], "metrics": True}))
    assert "metrics" not in definition.perform(Silent(), definition.parse({"platform": "silent", "kinds": []}))


@pytest.mark.parametrize("interface", [KvmInventory, KvmMetrics])
def test_what_is_read_alone_is_a_part_of_the_platform_too(interface: type[Interface]) -> None:
    assert KvmPlatform.declared_capabilities() >= interface.CAPABILITIES
    assert [type(each) for each in KvmPlatform().interfaces].count(interface) == 1
