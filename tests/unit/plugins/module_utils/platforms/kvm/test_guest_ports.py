# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Policies of networks, the hook that tells them to ports, and the filters seen by packets."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.network import VirtualNetwork, VirtualSwitch
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm import (
    guest_ports,
    guest_ports_hook,
    port_acl,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.libvirt_networks import GuestPort
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.linux_bridge import PortVlans
from ansible_collections.bareforge.hypervisor.plugins.module_utils.transports import nftables
from support import frames, kernel_nftables
from support.frames import IP4, OTHER_MAC, PEER4, PEER_MAC, UDP, VM4, VM_MAC


def switch(kind: str = "openvswitch", **fields: Any) -> VirtualSwitch:
    return VirtualSwitch.parse({"name": "br0", "kvm": {"implementation": kind}, **fields}).complete(None)


def network(**fields: Any) -> VirtualNetwork:
    return VirtualNetwork.parse({"name": "app", "switch": "br0", **fields}).complete(None)


@pytest.mark.parametrize(
    ("on_network", "on_switch", "expected"),
    [
        ({}, {}, {}),
        ({"vlan": 10}, {}, {}),
        ({"isolated": True}, {}, {"kind": "openvswitch", "isolated": True}),
        ({"security": {"forged_transmits": False}}, {}, {"kind": "openvswitch", "drop_forged": True}),
        ({}, {"security": {"mac_changes": False}}, {"kind": "openvswitch", "drop_others": True}),
        ({"security": {"mac_changes": True}}, {"security": {"mac_changes": False}}, {}),
        (
            {"security": {"mac_changes": True}},
            {"security": {"promiscuous": False}},
            {"kind": "openvswitch", "drop_others": True},
        ),
        ({"vlan": 7, "kvm": {"dot1q_tunnel": True}}, {}, {"kind": "openvswitch", "tunnel": True}),
    ],
)
def test_policies_on_open_vswitch(on_network: Any, on_switch: Any, expected: Any) -> None:
    assert guest_ports.policy_of(network(**on_network), switch(**on_switch)) == expected


def test_policies_on_a_linux_bridge_always_say_the_vlans() -> None:
    linux = switch("linux_bridge")
    assert guest_ports.policy_of(network(), linux) == {"kind": "linux_bridge", "vlan": 0, "trunk": []}
    policy = guest_ports.policy_of(network(vlan=5, trunk=["10-12"]), linux)
    assert policy == {"kind": "linux_bridge", "vlan": 5, "trunk": [[10, 12]]}
    assert guest_ports_hook.bridge_lines("tap0", {**policy, "isolated": True}) == [
        "vlan add dev tap0 vid 5 pvid untagged",
        "vlan add dev tap0 vid 10-12",
        "link set dev tap0 isolated on",
    ]
    # Networks on a bridge of somebody else are none of ours.
    assert guest_ports.policies_of([network(isolated=True)], {}) == {}


DOMAIN = """<domain><devices>
<interface type='bridge'><mac address='52:54:00:00:00:AA'/><source network='br0' portgroup='app' bridge='br0'/><target dev='tap0'/></interface>
<interface type='bridge'><mac address='52:54:00:00:00:bb'/><source network='br0' portgroup='other'/><target dev='tap1'/></interface>
<interface type='bridge'><mac address='52:54:00:00:00:cc'/><source bridge='br0'/><target dev='tap2'/></interface>
<interface type='user'/></devices></domain>"""


def test_the_hook_tells_each_port_by_its_port_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[list[str], str]] = []

    def run(argv: list[str], **options: Any) -> Any:
        ran.append((argv, options["input"]))
        return subprocess.CompletedProcess(argv, 0, "", "")

    monkeypatch.setattr(guest_ports_hook.subprocess, "run", run)
    policies = {"br0": {"app": {"kind": "openvswitch", "isolated": True, "tunnel": True, "drop_forged": True}}}
    (tmp_path / guest_ports_hook.POLICIES).write_text(json.dumps(policies))
    assert guest_ports_hook.main(str(tmp_path), DOMAIN) == 0
    assert ran[0][0][-3:] == ["tap0", "protected=true", "vlan_mode=dot1q-tunnel"]
    assert ran[1][0][0] == "/usr/sbin/nft"
    # nftables shows addresses in lower case.
    assert VM_MAC in ran[1][1]
    assert len(ran) == 2


def test_a_port_that_cannot_be_told_keeps_the_guest_from_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "no such device")
    monkeypatch.setattr(guest_ports_hook.subprocess, "run", lambda *_arguments, **_options: failed)
    (tmp_path / guest_ports_hook.POLICIES).write_text(json.dumps({"br0": {"app": {"kind": "linux_bridge", "vlan": 5}}}))
    assert guest_ports_hook.main(str(tmp_path), DOMAIN) == 1


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(guest_ports, "FOLDER", str(tmp_path))
    monkeypatch.setattr(guest_ports, "HOOK_FILE", str(tmp_path / "hook"))
    monkeypatch.setattr(port_acl, "_DAEMONS", ())
    return tmp_path


def test_policies_are_kept_for_the_hook_and_go_with_the_last(stored: Path) -> None:
    policies = {"br0": {"app": {"kind": "linux_bridge", "vlan": 5, "trunk": []}}}
    assert guest_ports.are_stored({})
    assert not guest_ports.are_stored(policies)
    guest_ports.store(policies)
    assert guest_ports.are_stored(policies)
    assert (stored / "hook").stat().st_mode & 0o777 == 0o755
    # The script stands by itself, away from the collection.
    script = str(stored / guest_ports.SCRIPT)
    done = subprocess.run([sys.executable, "-I", script], input="<domain/>", text=True, check=False, cwd="/", env={})
    assert done.returncode == 0
    for name in (guest_ports.POLICIES, guest_ports.SCRIPT, "hook"):
        kept = (stored / name).read_text()
        (stored / name).write_text("{}")
        assert not guest_ports.are_stored(policies), name
        (stored / name).write_text(kept)
    guest_ports.store({})
    assert list(stored.iterdir()) == []


def test_ports_that_run_are_told_and_those_that_differ_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest_ports.host_devices, "exists", lambda _name: True)
    told: dict[str, Any] = {}
    monkeypatch.setattr(guest_ports.linux_bridge, "put_ports", told.update)
    monkeypatch.setattr(guest_ports.linux_bridge, "is_isolated", lambda _port: False)
    monkeypatch.setattr(nftables, "list_table", lambda *_table: None)
    policies = {"br0": {"app": {"kind": "linux_bridge", "vlan": 5, "trunk": []}}}
    ports = [GuestPort("web", "br0", "app", "tap0", VM_MAC), GuestPort("db", "br0", "app", None, PEER_MAC)]
    guest_ports.tell(ports, policies)
    assert {port: wanted.vlans for port, wanted in told.items()} == {"tap0": PortVlans(5)}
    assert guest_ports.untold(ports, policies, {"tap0": PortVlans(5)}) == set()
    assert guest_ports.untold(ports, policies, {"tap0": PortVlans(6)}) == {("br0", "app")}
    assert guest_ports.untold(ports, {}, {}) == set()


def filtered(policy: dict[str, Any]) -> tuple[set[str], set[str]]:
    """Return what arrives of the frames that a VM sends, and of those that it is sent."""
    packet = frames.ipv4(VM4, PEER4, UDP, frames.udp(1000, 53))
    everyone = "ff:ff:ff:ff:ff:ff"
    sent = {
        "own": frames.ethernet(IP4, packet, source=VM_MAC, target=PEER_MAC),
        "forged": frames.ethernet(IP4, packet, source=OTHER_MAC, target=PEER_MAC),
    }
    received = {
        "own": frames.ethernet(IP4, packet, source=PEER_MAC, target=VM_MAC),
        "other": frames.ethernet(IP4, packet, source=PEER_MAC, target=OTHER_MAC),
        "everyone": frames.ethernet(IP4, packet, source=PEER_MAC, target=everyone),
        "group": frames.ethernet(IP4, packet, source=PEER_MAC, target="01:00:5e:00:00:05"),
    }

    def inside() -> tuple[set[str], set[str]]:
        subprocess.run(["sh", "-eu", "-c", frames.CABLES], check=True)
        for _time in range(2):
            nftables.run(guest_ports_hook.filter_commands("bftap", VM_MAC, policy))
        return frames.exchange("vm", "peer", sent), frames.exchange("peer", "vm", received)

    kernel_nftables.require()
    return nftables._in_network_namespace(inside)


@pytest.mark.parametrize(
    ("policy", "sent", "received"),
    [
        ({}, {"own", "forged"}, {"own", "other", "everyone", "group"}),
        ({"drop_forged": True}, {"own"}, {"own", "other", "everyone", "group"}),
        ({"drop_others": True}, {"own", "forged"}, {"own", "everyone", "group"}),
    ],
)
def test_filters_seen_by_packets(policy: Any, sent: set[str], received: set[str]) -> None:
    assert filtered(policy) == (sent, received)


def test_filters_that_nothing_asks_for_any_more_are_gone() -> None:
    kernel_nftables.require()
    strict = guest_ports_hook.filter_commands("bfunittest", VM_MAC, {"drop_forged": True, "drop_others": True})
    none = guest_ports_hook.filter_commands("bfunittest", VM_MAC, {})
    table = guest_ports_hook.TABLE
    shown = nftables.preview([*strict, *none], [table], ["bfunittest"])[table]
    assert [entry for entry in shown or () if "chain" in entry] == []
