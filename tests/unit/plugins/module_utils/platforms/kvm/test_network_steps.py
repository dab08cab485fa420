# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Switches, networks and interfaces on a host in memory: second runs, deaths at every step, moves between implementations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.engine.platform import Platform
from ansible_collections.bareforge.hypervisor.plugins.module_utils.engine.runner import Request, gather, run
from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import ValidateError
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.document import Document
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.operation import Operation
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm import network_manager
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.network import KvmNetwork
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.open_vswitch import Edit
from support.network_host import Killed, NetworkHost, NetworkManagerHost

KINDS = ("virtual_switch", "virtual_network", "host_interface")
NOTHING: dict[str, Any] = {"virtual_switches": [], "virtual_networks": [], "host_interfaces": []}


class Everything(KvmNetwork):
    """The interface with all that it is written for, shown on a real host or not yet."""

    CAPABILITIES = KvmNetwork.CAPABILITIES | {
        "virtual_switch.type.nat",
        *(f"virtual_switch.nat.{name}" for name in ("dhcp", "gateway6", "port_forwards")),
        *(f"virtual_switch.{name}" for name in ("bond.balance_xor", "kvm.linux_bridge", "security", "vlan_aware")),
        *(f"virtual_network.{name}" for name in ("isolated", "bandwidth", "security", "kvm.dot1q_tunnel")),
        *(f"host_interface.{name}" for name in ("dhcp6", "accept_ra", "forwarding")),
    }


class OnlyNetwork(Platform):
    NAME = "kvm"
    INTERFACES = (Everything,)


def apply(document: dict[str, Any], *exact: str) -> Any:
    options = Operation.parse({"guard": {"enabled": False}})
    return run(OnlyNetwork(), Request(Document.parse(document, list(exact)), options, False))


def again(document: dict[str, Any]) -> None:
    assert apply(document)["changes"] == []
    assert apply(gather(OnlyNetwork(), KINDS))["changes"] == []


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NetworkHost:
    return with_commits(NetworkHost(tmp_path, monkeypatch), monkeypatch)


@pytest.fixture
def managed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NetworkHost:
    return with_commits(NetworkManagerHost(tmp_path, monkeypatch), monkeypatch)


def with_commits(made: NetworkHost, monkeypatch: pytest.MonkeyPatch) -> NetworkHost:
    commit = Edit.commit

    def stepping(self: Edit, what: str) -> None:
        made.commit()
        commit(self, what)

    monkeypatch.setattr(Edit, "commit", stepping)
    return made


def document(implementation: str, **switch: Any) -> dict[str, Any]:
    return {
        "virtual_switches": [{"name": "br0", "uplinks": ["eth1"], "kvm": {"implementation": implementation}, **switch}],
        "virtual_networks": [
            {"name": "app", "switch": "br0", "vlan": 10},
            {"name": "web", "switch": "br0", "isolated": True, "security": {"forged_transmits": False}},
        ],
        "host_interfaces": [
            {"name": "app0", "network": "app", "addresses": ["10.0.0.1/24"]},
            {"name": "web0", "network": "web", "dhcp6": True},
        ],
    }


BONDED = {"uplinks": ["eth1", "eth2"], "bond": {"mode": "active_backup", "primary": "eth2"}}
NAT = {
    "virtual_switches": [{"name": "nat0", "type": "nat", "nat": {"gateway": "10.9.0.1/24", "gateway6": "fd00::1/64"}}],
    "virtual_networks": [{"name": "inside", "switch": "nat0"}],
    "host_interfaces": [{"name": "in0", "network": "inside", "addresses": ["10.8.0.1/24"], "forwarding": True}],
}
CASES = {
    "openvswitch": document("openvswitch"),
    "openvswitch, bonded": document("openvswitch", **BONDED),
    "linux_bridge": document("linux_bridge", mtu=9000),
    "linux_bridge, bonded": document("linux_bridge", **BONDED),
    "nat": NAT,
}
cases = pytest.mark.parametrize("wanted", CASES.values(), ids=CASES)


@cases
def test_second_run_and_gathered_state_change_nothing_and_nothing_is_left(host: NetworkHost, wanted: Any) -> None:
    apply(wanted)
    again(wanted)
    apply(NOTHING, *KINDS)
    assert host.left() == []
    assert host.routing is None
    assert all(device.master is None for device in host.devices.values())


def dies(host: NetworkHost, at: int, wanted: dict[str, Any], *exact: str) -> bool:
    """Return whether a run died before its step of that number."""
    host.steps, host.last_step = [], at
    try:
        apply(wanted, *exact)
    except Killed:
        return True
    finally:
        host.last_step = 0
    return False


@cases
def test_killed_at_every_step_the_next_run_finishes(host: NetworkHost, wanted: Any) -> None:
    killed_at_every_step(host, wanted)


def killed_at_every_step(host: NetworkHost, wanted: Any) -> None:
    made = removed = 1
    while dies(host, made, wanted):
        step = host.steps[-1]
        apply(wanted)
        assert apply(wanted)["changes"] == [], f"making, killed at {step}"
        apply(NOTHING, *KINDS)
        assert host.left() == [], f"making, killed at {step}"
        made += 1
    while dies(host, removed, NOTHING, *KINDS):
        step = host.steps[-1]
        apply(NOTHING, *KINDS)
        assert host.left() == [], f"removing, killed at {step}"
        apply(wanted)
        removed += 1
    assert made > 6
    assert removed > 5
    assert host.routing is None


def moved(there: str, kind: str) -> dict[str, Any]:
    other = {"br-a": "br-b", "br-b": "br-a"}[there]
    return {
        "virtual_switches": [
            {"name": there, "uplinks": ["eth1"], "kvm": {"implementation": kind}},
            {"name": other, "state": "absent"},
        ],
        "virtual_networks": [{"name": "app", "switch": there, "vlan": 10}],
        "host_interfaces": [{"name": "app0", "network": "app", "addresses": ["10.0.0.1/24"]}],
    }


@pytest.mark.parametrize("kill", [False, True])
def test_an_uplink_moves_between_implementations_and_back(host: NetworkHost, kill: bool) -> None:
    moves_and_back(host, kill)


def moves_and_back(host: NetworkHost, kill: bool) -> None:
    first, second = moved("br-a", "openvswitch"), moved("br-b", "linux_bridge")
    apply(first)
    mac = host.devices["app0"].mac
    for wanted, before in ((second, first), (first, second)):
        at = 1
        while kill and dies(host, at, wanted):
            step = host.steps[-1]
            apply(wanted)
            assert apply(wanted)["changes"] == [], f"killed at {step}"
            apply(before)
            at += 1
        apply(wanted)
        again(wanted)
        linux = wanted is second
        assert host.devices["eth1"].master == ("br-b" if linux else "ovs-system")
        assert host.devices["app0"].kind == ("veth" if linux else "openvswitch")
        assert (host.devices["app0"].addresses, host.devices["app0"].mac) == (("10.0.0.1/24",), mac)
    apply(NOTHING, *KINDS)
    assert host.left() == []


def test_interfaces_on_a_linux_bridge_follow_their_network(host: NetworkHost) -> None:
    apply(document("linux_bridge"))
    port = host.devices[str(host.devices["app0"].peer)]
    assert (port.master, port.native, port.tagged, port.isolated) == ("br0", 10, set(), False)
    change = {"virtual_networks": [{"name": "app", "switch": "br0", "vlan": 20, "trunk": ["30-31"]}]}
    assert [entry["key"] for entry in apply(change)["changes"]] == ["app"]
    assert (port.native, port.tagged) == (20, {30, 31})
    again(change)
    apply({"virtual_networks": [{"name": "app", "switch": "br0", "vlan": 0, "trunk": [], "isolated": True}]})
    assert (port.native, port.tagged, port.isolated) == (1, set(), True)


@pytest.mark.parametrize(
    ("damage", "key"),
    [
        (lambda host: setattr(host.devices["eth1"], "master", None), "br0"),
        (lambda host: host.devices["eth1"].tagged.discard(77), "br0"),
        (lambda host: host.devices["br0"].settings.update(VLANFiltering="no"), "br0"),
        (lambda host: host.libvirt.clear(), "br0"),
        (lambda host: host.delete("app0"), "app0"),
        (lambda host: setattr(host.devices[host.devices["app0"].peer], "native", 11), "app0"),
        (lambda host: setattr(host.devices[host.devices["web0"].peer], "isolated", False), "web0"),
        (lambda host: (host.folder / "bareforge" / "guest_ports.json").write_text("{}"), "app"),
    ],
)
def test_what_somebody_breaks_on_a_linux_bridge_is_shown_and_mended(host: NetworkHost, damage: Any, key: str) -> None:
    whole = document("linux_bridge")
    apply(whole)
    damage(host)
    assert key in [change["key"] for change in apply(whole)["changes"]]
    again(whole)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"virtual_switches": [{"name": "br0", "bond": {"mode": "balance_slb"}, "uplinks": ["eth1", "eth2"]}]},
            "balance_slb",
        ),
        ({"virtual_networks": [{"name": "app", "switch": "br0", "vlan": 1}]}, "keeps untagged frames in VLAN 1"),
        ({"virtual_switches": [{"name": "br1", "uplinks": ["br0"]}]}, "a bridge"),
        ({"host_interfaces": [{"name": "eth2", "network": "app"}]}, "another network device"),
        (
            {"virtual_networks": [{"name": "t", "switch": "br0", "vlan": 5, "kvm": {"dot1q_tunnel": True}}]},
            "Linux bridge",
        ),
    ],
)
def test_what_a_linux_bridge_cannot_hold_is_refused_before_anything_changes(
    host: NetworkHost, change: Any, words: str
) -> None:
    apply(document("linux_bridge"))
    host.steps = []
    with pytest.raises(ValidateError, match=words):
        apply(change)
    assert host.steps == []


def test_a_bridge_of_somebody_else_is_left_alone(host: NetworkHost) -> None:
    from support.network_host import Device

    host.devices["br0"] = Device("bridge")
    with pytest.raises(ValidateError, match="another network device"):
        apply(document("linux_bridge"))
    assert gather(OnlyNetwork(), KINDS) == NOTHING


def without_isolation(whole: dict[str, Any]) -> dict[str, Any]:
    """Return a document without what NetworkManager cannot keep on a Linux bridge."""
    networks = [
        {name: value for name, value in entry.items() if name != "isolated"} for entry in whole["virtual_networks"]
    ]
    return {**whole, "virtual_networks": networks}


MANAGED_CASES = {
    "openvswitch": CASES["openvswitch"],
    "openvswitch, bonded": CASES["openvswitch, bonded"],
    "linux_bridge": without_isolation(CASES["linux_bridge"]),
    "linux_bridge, bonded": without_isolation(CASES["linux_bridge, bonded"]),
    "nat": {**NAT, "virtual_switches": [{"name": "nat0", "type": "nat", "nat": {"gateway": "10.9.0.1/24"}}]},
}
managed_cases = pytest.mark.parametrize("wanted", MANAGED_CASES.values(), ids=MANAGED_CASES)


@managed_cases
def test_with_network_manager_second_run_and_gathered_state_change_nothing(managed: NetworkHost, wanted: Any) -> None:
    apply(wanted)
    again(wanted)
    apply(NOTHING, *KINDS)
    assert managed.left() == []
    assert all(device.master is None for device in managed.devices.values())


@pytest.mark.parametrize("wanted", [MANAGED_CASES[name] for name in ("openvswitch", "linux_bridge, bonded", "nat")])
def test_with_network_manager_killed_at_every_step_the_next_run_finishes(managed: NetworkHost, wanted: Any) -> None:
    killed_at_every_step(managed, wanted)


@pytest.mark.parametrize("kill", [False, True])
def test_with_network_manager_an_uplink_moves_between_implementations_and_back(
    managed: NetworkHost, kill: bool
) -> None:
    moves_and_back(managed, kill)


def test_a_change_of_a_bridge_that_vms_are_on_is_made_while_it_is_in_use(managed: NetworkHost) -> None:
    apply(without_isolation(document("linux_bridge")))
    managed.steps = []
    change = {"virtual_switches": [{"name": "br0", "mtu": 8000}]}
    apply(change)
    assert "nmcli device reapply br0" in managed.steps
    assert not [step for step in managed.steps if "connection up" in step]
    assert managed.devices["br0"].mtu == 8000
    again(change)


def switch(name: str, **fields: Any) -> dict[str, Any]:
    return {"virtual_switches": [{"name": name, **fields}]}


NAT_GATEWAY = {"gateway": "10.9.0.1/24"}
DHCP = {"start": "10.9.0.10", "end": "10.9.0.20"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (switch("nat0", type="nat", nat={**NAT_GATEWAY, "dhcp": DHCP}), "gives out addresses only together with a NAT"),
        (
            switch("nat0", type="nat", nat={**NAT_GATEWAY, "gateway6": "fd00::1/64"}),
            "router advertisements only together",
        ),
        (switch("br0", vlan_aware=False), "false cannot be kept by NetworkManager"),
        ({"host_interfaces": [{"name": "app0", "network": "app", "accept_ra": True}]}, "allowed with dhcp6"),
        (
            {
                "virtual_networks": [{"name": "apart", "switch": "br0", "vlan": 7, "isolated": True}],
                "host_interfaces": [{"name": "apart0", "network": "apart"}],
            },
            "'apart' is isolated",
        ),
    ],
)
def test_what_network_manager_cannot_keep_is_refused_before_anything_changes(
    managed: NetworkHost, change: Any, words: str
) -> None:
    apply(without_isolation(document("linux_bridge")))
    managed.steps = []
    with pytest.raises(ValidateError, match=words):
        apply(change)
    assert managed.steps == []


def test_with_its_plugin_for_open_vswitch_network_manager_takes_no_port_of_ours(
    managed: NetworkHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = managed.folder / "libnm-device-plugin-ovs.so"
    plugin.touch()
    monkeypatch.setattr(network_manager, "OPEN_VSWITCH_PLUGIN", (str(plugin),))
    for wanted in (document("openvswitch"), MANAGED_CASES["nat"]):
        with pytest.raises(ValidateError, match="remove package NetworkManager-ovs"):
            apply(wanted)
    assert managed.steps == []
    apply(without_isolation(document("linux_bridge")))
