# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is told of a host, from files laid out like a host's."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.host_facts import host_facts


class Connection:
    """Answers as libvirt 9.0 with QEMU 7.2 does on the lab's server."""

    def getInfo(self) -> list[object]:
        return ["x86_64", 2964, 2, 2000, 1, 1, 2, 1]

    def getLibVersion(self) -> int:
        return 9000000

    def getVersion(self) -> int:
        return 7002022


@pytest.fixture
def root(tmp_path: Path) -> Path:
    files = {
        "etc/os-release": 'NAME="Debian GNU/Linux"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
        "proc/meminfo": "MemTotal: 3035136 kB\nMemAvailable: 2097152 kB\nHugePages_Total: 4\nHugepagesize: 2048 kB\n",
        "sys/module/kvm_amd/parameters/nested": "1\n",
        "sys/class/net/eno1/device/vendor": "0x1af4\n",
        "sys/class/net/eno1/address": "52:54:00:00:00:01\n",
        "sys/class/net/eno1/mtu": "9000\n",
        "sys/class/net/eno1/operstate": "up\n",
        "sys/class/net/eno1/speed": "25000\n",
        "sys/class/net/eno2/device/vendor": "0x1af4\n",
        "sys/class/net/eno2/address": "52:54:00:00:00:02\n",
        "sys/class/net/eno2/mtu": "1500\n",
        "sys/class/net/eno2/operstate": "down\n",
        "sys/class/net/eno2/speed": "-1\n",
        "sys/class/net/br0/address": "52:54:00:00:00:03\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_facts_of_a_host(root: Path) -> None:
    facts = host_facts(Connection(), str(root))
    assert facts["operating_system"] == "Debian GNU/Linux 12 (bookworm)"
    assert (facts["libvirt_version"], facts["qemu_version"]) == ("9.0.0", "7.2.22")
    assert facts["cpu"] == {"count": 2, "numa_nodes": 1, "sockets": 1, "cores": 2, "threads": 1, "nested": True}
    assert facts["memory"] == {"size": 2964, "available": 2048, "hugepages": 4, "hugepage_size": 2}


def test_only_interfaces_on_a_bus_are_physical(root: Path) -> None:
    assert host_facts(Connection(), str(root))["interfaces"] == [
        {"name": "eno1", "mac": "52:54:00:00:00:01", "mtu": 9000, "link": True, "speed": 25000},
        {"name": "eno2", "mac": "52:54:00:00:00:02", "mtu": 1500, "link": False, "speed": None},
    ]


def test_a_host_without_the_kvm_module_tells_no_nested_option(root: Path) -> None:
    (root / "sys/module/kvm_amd/parameters/nested").unlink()
    assert host_facts(Connection(), str(root))["cpu"]["nested"] is None
