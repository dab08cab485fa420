# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Profiles of NetworkManager against NetworkManager itself, in a root folder and a network of its own.

Not part of `make test`: `.venv/bin/python -m pytest tests/network_manager`. The first run makes the root folder, which takes minutes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support import debian_root

PACKAGES = (
    *("network-manager", "dbus", "iproute2", "openvswitch-switch", "python3", "dnsmasq-base", "iputils-ping", "procps"),
)
EMPTY = (
    *("run", "tmp", "etc/NetworkManager/system-connections", "etc/NetworkManager/conf.d", "var/lib/NetworkManager"),
    *("var/lib/bareforge", "etc/bareforge"),
)
SCENARIOS = ("uplink", "without_carrier", "internal_port", "dhcp", "linux_switch", "guarded")


@pytest.fixture(scope="module")
def root() -> Path:
    try:
        return debian_root.find_root("network-manager", PACKAGES, "BAREFORGE_NETWORK_MANAGER_ROOT")
    except debian_root.NoRoot as reason:
        pytest.skip(str(reason))


def run(root: Path, scenario: str) -> Any:
    return debian_root.run(root, "tests/network_manager/scenarios.py", scenario, EMPTY)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_network_manager_does_what_its_profiles_say(root: Path, scenario: str) -> None:
    found = run(root, scenario)
    print(f"NetworkManager {found.pop('version')}: {found}")
    assert found.get("failures", []) == []


def test_profiles_are_understood_as_they_are_meant(root: Path) -> None:
    found = run(root, "profiles")
    assert found["bridge"] == ["yes", "0", "0", "no"]
    assert found["port"] == ["5 pvid untagged, 10-12, 20", "bridge", "1500"]
    assert found["active_backup"] == ["mode=active-backup,miimon=100,primary=eth2", "bond"]
    assert found["balance_tcp"] == ["mode=802.3ad,lacp_rate=fast,miimon=100,xmit_hash_policy=layer3+4", "bond"]
    assert found["app0"][1:3] == ["auto", "dhcp"]
    assert found["ovs0"] == [r"\:\:/0 fe80\:\:1 1", "999"]


def test_a_bond_carries_a_bridge(root: Path) -> None:
    if not run(root, "bond")["run"]:
        pytest.skip("the kernel here makes no bonds, or bridges without VLAN filtering")
