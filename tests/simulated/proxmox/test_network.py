# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Switches, networks and the node's interfaces. The node's network is our own reading of PVE's: fakepve keeps no state for it."""

from __future__ import annotations

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import ApplyError, GuardError

shows = pytest.mark.capability


@shows(
    "proxmox",
    "virtual_switch",
    "virtual_switch.type.bridged",
    "virtual_switch.type.internal",
    "virtual_switch.type.private",
    "virtual_switch.mtu",
    "virtual_switch.vlan_aware",
    ran_against="our simulator",
)
def test_switches_are_bridges(node):
    node.settle(
        {
            "virtual_switches": [
                {"name": "outside", "uplinks": ["eno2"], "mtu": 9000},
                {"name": "inside", "type": "internal", "vlan_aware": False},
                {"name": "alone", "type": "private"},
            ]
        }
    )
    assert node.peer.interfaces["outside"]["bridge_ports"] == "eno2"
    assert node.peer.interfaces["outside"]["mtu"] == node.peer.interfaces["eno2"]["mtu"] == "9000"
    assert node.peer.interfaces["outside"]["bridge_vlan_aware"] == 1
    assert "bridge_vlan_aware" not in node.peer.interfaces["inside"]
    assert node.peer.applied == 1
    node.settle({"virtual_switches": [{"name": "outside", "mtu": 1500}, {"name": "alone", "state": "absent"}]})
    assert "mtu" not in node.peer.interfaces["outside"] and "mtu" not in node.peer.interfaces["eno2"]
    assert "alone" not in node.peer.interfaces


@pytest.mark.parametrize(
    ("bond", "mode"),
    [
        pytest.param(
            {"mode": "active_backup", "primary": "eno3"},
            "active-backup",
            marks=shows("proxmox", "virtual_switch.bond.active_backup", ran_against="our simulator"),
        ),
        pytest.param(
            {"mode": "balance_tcp", "lacp": "active"},
            "802.3ad",
            marks=shows(
                "proxmox", "virtual_switch.bond.balance_tcp", "virtual_switch.bond.lacp", ran_against="our simulator"
            ),
        ),
        pytest.param(
            {"mode": "balance_xor"},
            "balance-xor",
            marks=shows("proxmox", "virtual_switch.bond.balance_xor", ran_against="our simulator"),
        ),
    ],
)
def test_uplinks_are_bonded(node, bond, mode):
    node.settle({"virtual_switches": [{"name": "sw", "uplinks": ["eno2", "eno3"], "bond": bond}]})
    assert node.peer.interfaces["sw"]["bridge_ports"] == "bond0"
    assert node.peer.interfaces["bond0"]["bond_mode"] == mode
    assert node.peer.interfaces["bond0"]["slaves"] == "eno2 eno3"
    if "primary" in bond:
        assert node.peer.interfaces["bond0"]["bond-primary"] == "eno3"
    node.settle({"virtual_switches": [{"name": "sw", "uplinks": ["eno2"]}]})
    assert node.peer.interfaces["sw"]["bridge_ports"] == "eno2" and "bond0" not in node.peer.interfaces


def test_what_linux_bonds_cannot_do_is_refused(node):
    bond = {"mode": "balance_tcp", "lacp": "passive"}
    problems = node.problems({"virtual_switches": [{"name": "sw", "uplinks": ["eno2", "eno3"], "bond": bond}]})
    assert problems["virtual_switch['sw'].bond.lacp"].endswith("allowed are off and active")


SUBNETS = ["198.51.100.0/24", "2001:db8::/64"]
NETWORKS = {
    "virtual_switches": [{"name": "sw", "type": "internal"}],
    "virtual_networks": [
        {"name": "app", "switch": "sw", "vlan": 10, "subnets": SUBNETS},
        {"name": "many", "switch": "sw", "vlan": 5, "trunk": ["20-29", 100]},
    ],
}


def a_vm(**fields):
    return {"name": "web", "memory": {"size": 128}, "power": "stopped", **fields}


@shows("proxmox", "virtual_network", "virtual_network.vlan", "virtual_network.trunk", ran_against="our simulator")
def test_networks_are_what_adapters_carry(node):
    nics = [{"name": "e0", "network": "app"}, {"name": "e1", "network": "many"}]
    node.settle({**NETWORKS, "vms": [a_vm(nics=nics)]})
    config = node.vm("web").config
    assert config["net0"].endswith("bridge=sw,tag=10")
    assert config["net1"].endswith("bridge=sw,tag=5,trunks=20-29;100")
    assert node.gather("virtual_network")["virtual_networks"] == [
        {
            "name": "app",
            "switch": "sw",
            "vlan": 10,
            "trunk": [],
            "isolated": False,
            "subnets": ["198.51.100.0/24", "2001:db8::/64"],
        },
        {"name": "many", "switch": "sw", "vlan": 5, "trunk": ["100", "20-29"], "isolated": False, "subnets": []},
        {"name": "vmbr0", "switch": "vmbr0", "vlan": 0, "trunk": [], "isolated": False, "subnets": []},
    ]


def test_running_vms_follow_their_network_to_another_vlan(node):
    """A VLAN that a module reports as set and does not set is what users of others complain about."""
    node.apply({**NETWORKS, "vms": [a_vm(power="running", nics=[{"name": "e0", "network": "app"}])]})
    done = node.settle({"virtual_networks": [{"name": "app", "switch": "sw", "vlan": 11}]})
    assert done["changes"][0]["fields"] == ["vlan"]
    assert node.vm("web").config["net0"].endswith("bridge=sw,tag=11")
    assert node.vm("web").status == "running" and node.vm("web").pending == {}
    assert node.apply({"vms": [{"name": "web", "nics": [{"name": "e0", "network": "app"}]}]})["changes"] == []


def test_the_nodes_interfaces_follow_their_network(node):
    interfaces = [
        {"name": "storage", "network": "app", "addresses": ["198.51.100.9/24"]},
        {"name": "sw.5", "network": "many", "addresses": ["203.0.113.9/24"]},
    ]
    node.apply({**NETWORKS, "host_interfaces": interfaces})
    node.settle({"virtual_networks": [{"name": "app", "switch": "sw", "vlan": 11}]})
    assert node.peer.interfaces["storage"]["vlan-id"] == 11
    problems = node.problems(
        {"virtual_networks": [{"name": "app", "switch": "sw", "vlan": 0}, {"name": "many", "switch": "sw", "vlan": 6}]}
    )
    assert set(problems) == {"virtual_network['app'].vlan", "virtual_network['many'].vlan"}


def test_a_vlan_without_a_name_shows_and_stays(node):
    node.peer.add_vm(101, "foreign", config={"memory": 512, "net0": "virtio=BC:24:11:00:00:01,bridge=vmbr0,tag=77"})
    document = node.gather("vm", "virtual_network")
    assert document["vms"][0]["nics"] == [
        {
            "name": "net0",
            "network": "vmbr0.77",
            "mac": "bc:24:11:00:00:01",
            "model": "virtio",
            "connected": True,
            "addresses": [],
            "dns_servers": [],
        }
    ]
    assert "vmbr0.77" in [network["name"] for network in document["virtual_networks"]]
    # The VM can be changed without a word about its network.
    node.settle({"vms": [{"name": "foreign", "description": "Not ours"}]})
    assert node.apply({"virtual_networks": []}, exact=["virtual_network"])["changes"] == []


@shows("proxmox", "host_interface", "host_interface.mtu", ran_against="our simulator")
def test_the_nodes_interfaces(node):
    node.settle(
        {
            **NETWORKS,
            "virtual_networks": [*NETWORKS["virtual_networks"], {"name": "flat", "switch": "sw"}],
            "host_interfaces": [
                {"name": "storage", "network": "app", "addresses": ["198.51.100.9/24", "2001:db8::9/64"], "mtu": 1400},
                {"name": "sw.5", "network": "many", "addresses": ["203.0.113.9/24"]},
                {"name": "plain", "network": "flat", "addresses": ["192.0.2.129/25"]},
            ],
        }
    )
    interfaces = node.peer.interfaces
    assert (
        interfaces["storage"]["vlan-raw-device"],
        interfaces["storage"]["vlan-id"],
        interfaces["storage"]["mtu"],
    ) == ("sw", 10, "1400")
    assert interfaces["storage"]["cidr6"] == "2001:db8::9/64"
    assert interfaces["sw.5"]["cidr"] == "203.0.113.9/24"
    assert interfaces["sw"]["cidr"] == "192.0.2.129/25"
    # All that was one transaction.
    assert node.peer.applied == 1
    node.settle({"host_interfaces": [{"name": "plain", "network": "app", "addresses": ["198.51.100.10/24"]}]})
    assert "cidr" not in node.peer.interfaces["sw"] and node.peer.interfaces["plain"]["vlan-id"] == 10
    node.settle({"host_interfaces": [{"name": name, "state": "absent"} for name in ("plain", "storage", "sw.5")]})
    assert set(node.peer.interfaces) == {"eno1", "eno2", "eno3", "vmbr0", "sw"}


def test_what_pve_has_no_place_for_is_refused_by_name(node):
    node.apply({**NETWORKS, "virtual_networks": [*NETWORKS["virtual_networks"], {"name": "flat", "switch": "sw"}]})
    problems = node.problems(
        {
            "host_interfaces": [
                {"name": "a-b", "network": "app"},
                {"name": "two", "network": "app", "addresses": ["198.51.100.1/24", "198.51.100.2/24"]},
                {"name": "gate", "network": "many", "addresses": ["203.0.113.1/24"], "gateway4": "203.0.113.2"},
                {"name": "plain", "network": "flat", "mtu": 9000},
            ],
            "virtual_switches": [{"name": "vm-br", "type": "internal"}, {"name": "eno3"}],
        }
    )
    assert set(problems) == {
        "host_interface['a-b'].name",
        "host_interface['two'].addresses",
        "host_interface['gate'].gateway4",
        "host_interface['plain'].mtu",
        "virtual_switch['vm-br'].name",
        "virtual_switch['eno3'].name",
    }
    assert "host_interface['vmbr0']" in problems["host_interface['gate'].gateway4"]


class TestTheManagementPath:
    MOVED = {"virtual_switches": [{"name": "vmbr0", "uplinks": ["eno2"]}]}

    def test_a_change_of_it_is_refused_without_a_guard(self, node):
        with pytest.raises(GuardError, match="virtual_switch\\['vmbr0'\\] touches the path"):
            node.apply(self.MOVED, guard={"enabled": True})
        assert node.peer.interfaces["vmbr0"]["bridge_ports"] == "eno1" and node.peer.staged is None

    def test_it_is_made_where_the_user_says_so(self, node):
        node.settle(self.MOVED)
        assert node.peer.interfaces["vmbr0"]["bridge_ports"] == "eno2"
        assert node.peer.interfaces["vmbr0"]["gateway"] == "192.0.2.1"

    def test_other_changes_need_none(self, node):
        node.apply(NETWORKS, guard={"enabled": True})
        node.apply({"virtual_networks": [{"name": "office", "switch": "vmbr0", "vlan": 3}]}, guard={"enabled": True})

    def test_exact_keeps_it(self, node):
        done = node.apply({"virtual_switches": [], "host_interfaces": []}, exact=["virtual_switch", "host_interface"])
        assert done["changes"] == []
        assert any("it carries the path that the host is managed through" in warning for warning in done["warnings"])


class TestWhatIsStaged:
    FOREIGN = {"vmbr7": {"type": "bridge", "method": "manual", "bridge_ports": ""}}

    def test_by_somebody_else_is_neither_applied_nor_dropped(self, node):
        node.peer.staged = {**node.peer.interfaces, **self.FOREIGN}
        problems = node.problems(NETWORKS)
        assert "somebody has staged and not applied" in problems["virtual_switch['sw']"]
        assert "vmbr7" in node.peer.staged

    def test_by_a_killed_run_of_ours_is_dropped_and_made_anew(self, node):
        node.apply(NETWORKS)
        node.peer.staged = {
            **node.peer.interfaces,
            "sw": {**node.peer.interfaces["sw"], "bridge_ports": "eno3", "comments": 'bareforge-run "0011"\n'},
        }
        problems = node.problems({"virtual_networks": [{"name": "app", "switch": "sw", "vlan": 3}]}, check=True)
        assert "behind which nobody can look" in problems["virtual_network['app']"]
        node.apply({**NETWORKS, "virtual_switches": [{"name": "sw", "type": "internal", "mtu": 1400}]})
        assert node.peer.staged is None
        assert node.peer.interfaces["sw"]["mtu"] == "1400" and not node.peer.interfaces["sw"].get("bridge_ports")

    def test_is_dropped_where_a_piece_is_refused(self, node):
        node.peer.fail("POST", "/network", 400, "no such thing", times=1)
        with pytest.raises(ApplyError, match="no such thing"):
            node.apply(NETWORKS)
        assert node.peer.staged is None

    def test_a_reload_that_fails_fails_the_task(self, node):
        node.peer.reload_error = "command 'ifreload -a' failed: exit code 1"
        with pytest.raises(
            ApplyError, match="the reload of the node's network: the task failed: command 'ifreload -a'"
        ):
            node.apply(NETWORKS)


def test_uplinks_and_gateway_change_hands_in_one_transaction(node):
    node.apply({"virtual_switches": [{"name": "left", "uplinks": ["eno2"]}, {"name": "right", "uplinks": ["eno3"]}]})
    applied = node.peer.applied
    node.settle(
        {
            "virtual_switches": [{"name": "left", "uplinks": ["eno3"]}, {"name": "right", "uplinks": ["eno2"]}],
            "virtual_networks": [{"name": "mgmt", "switch": "left", "vlan": 9}],
            "host_interfaces": [
                {"name": "vmbr0", "network": "vmbr0", "addresses": ["192.0.2.11/24"], "gateway4": ""},
                {"name": "left.9", "network": "mgmt", "addresses": ["198.51.100.4/24"], "gateway4": "198.51.100.1"},
            ],
        }
    )
    assert (
        node.peer.interfaces["left"]["bridge_ports"] == "eno3"
        and node.peer.interfaces["right"]["bridge_ports"] == "eno2"
    )
    assert node.peer.interfaces["left.9"]["gateway"] == "198.51.100.1" and not node.peer.interfaces["vmbr0"].get(
        "gateway"
    )
    assert node.peer.applied == applied + 1
