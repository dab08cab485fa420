# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Profiles of NetworkManager against NetworkManager itself, in a root folder and a network of its own.

Not part of `make test`: `.venv/bin/python -m pytest tests/network_manager`. The first run makes the root folder, which takes minutes.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from . import root as network_manager_root

SCENARIOS = ("uplink", "without_carrier", "internal_port", "dhcp", "linux_switch", "guarded")


@pytest.fixture(scope="module")
def root() -> Path:
    try:
        return network_manager_root.find_root()
    except network_manager_root.NoRoot as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_network_manager_does_what_its_profiles_say(root: Path, scenario: str) -> None:
    found = network_manager_root.run(root, scenario)
    print(f"NetworkManager {found.pop('version')}: {found}")
    assert found.get("failures", []) == []


def test_profiles_are_understood_as_they_are_meant(root: Path) -> None:
    found = network_manager_root.run(root, "profiles")
    assert found["bridge"] == ["yes", "0", "0", "no"]
    assert found["port"] == ["5 pvid untagged, 10-12, 20", "bridge", "1500"]
    assert found["active_backup"] == ["mode=active-backup,miimon=100,primary=eth2", "bond"]
    assert found["balance_tcp"] == ["mode=802.3ad,lacp_rate=fast,miimon=100,xmit_hash_policy=layer3+4", "bond"]
    assert found["app0"][1:3] == ["auto", "dhcp"]
    assert found["ovs0"] == [r"\:\:/0 fe80\:\:1 1", "999"]


def test_a_bond_carries_a_bridge(root: Path) -> None:
    if not network_manager_root.run(root, "bond")["run"]:
        pytest.skip("the kernel here makes no bonds, or bridges without VLAN filtering")
