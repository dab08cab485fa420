# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What becomes of a VM in the inventory: its address, groups, variables and name."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.engine.inventory import (
    SOURCES,
    InventoryNic,
    InventoryVm,
    SeenAddress,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import ValidateError
from ansible_collections.bareforge.hypervisor.plugins.plugin_utils.inventory_contents import (
    GROUPINGS,
    AddressChoice,
    Shown,
    names_of,
)

NICS = (InventoryNic("eth0", network="app", vlan=10), InventoryNic("eth1", network="management", vlan=20))
SEEN = (
    SeenAddress("172.17.0.1", "agent", None),
    SeenAddress("2001:db8::50", "agent", "eth0"),
    SeenAddress("10.10.0.50", "agent", "eth0"),
    SeenAddress("10.20.0.50", "agent", "eth1"),
    SeenAddress("10.10.0.60", "lease", "eth0"),
    SeenAddress("10.10.0.70", "neighbour", "eth0"),
    SeenAddress("10.20.0.80", "document", "eth1"),
)
WEB = InventoryVm("web1", "running", nics=NICS, addresses=SEEN)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, "10.10.0.50"),
        ({"family": "ipv6"}, "2001:db8::50"),
        ({"sources": ["document", "agent"]}, "10.20.0.80"),
        ({"sources": ["neighbour"]}, "10.10.0.70"),
        ({"prefer": ["management"]}, "10.20.0.50"),
        ({"prefer": ["10.20.0.0/16"]}, "10.20.0.50"),
        ({"prefer": ["2001:db8::/32"]}, "2001:db8::50"),
        ({"prefer": ["storage", "management"]}, "10.20.0.50"),
        ({"prefer": ["storage"]}, "10.10.0.50"),
        ({"sources": ["lease", "document"], "prefer": ["management"]}, "10.20.0.80"),
        # A bridge of the guest's containers is nobody's way in, even where its network is preferred.
        ({"prefer": ["172.16.0.0/12"]}, "10.10.0.50"),
    ],
)
def test_which_address_a_vm_is_reached_by(options: dict[str, Any], wanted: str) -> None:
    choice = AddressChoice.parse(
        options.get("sources", SOURCES), options.get("prefer", []), options.get("family", "ipv4")
    )
    assert choice.choose(WEB) == wanted


def test_a_vm_without_an_address_has_none() -> None:
    choice = AddressChoice.parse(["lease"], [], "ipv4")
    assert choice.choose(InventoryVm("a", "running")) is None
    assert choice.choose(InventoryVm("a", "running", addresses=SEEN[:2])) is None


@pytest.mark.parametrize("text", ["10.0.0.1/8", "10.0.0.0/33", "", 7])
def test_networks_that_are_none_are_refused(text: Any) -> None:
    with pytest.raises(ValidateError, match=r"prefer_networks\[1\]: .* is not allowed; allowed is a network"):
        AddressChoice.parse(SOURCES, ["app", text], "ipv4")


def shown(vm: InventoryVm, hypervisor: str = "kvm01", address: str | None = None) -> Shown:
    return Shown(vm, hypervisor, "kvm", address)


def test_all_groups_of_a_vm() -> None:
    vm = InventoryVm("web1", "running", template="debian-12", tags=("blue", "web"), nics=NICS)
    assert list(shown(vm).groups(GROUPINGS)) == [
        "virtual_machines",
        "kvm_vms",
        "hypervisor_kvm01",
        "power_running",
        "network_app",
        "network_management",
        "vlan_10",
        "vlan_20",
        "template_debian-12",
        "tag_blue",
        "tag_web",
    ]


@pytest.mark.parametrize("word", GROUPINGS)
def test_only_the_wanted_groups_are_made(word: str) -> None:
    vm = InventoryVm("web1", "running", template="debian-12", tags=("web",), nics=NICS[:1])
    prefix = {"platform": "kvm_vms"}.get(word, f"{word}_")
    first, *rest = shown(vm).groups([word])
    assert first == "virtual_machines"
    assert len(rest) == 1
    assert rest[0].startswith(prefix)


def test_an_untagged_network_is_no_vlan() -> None:
    vm = InventoryVm("web1", "running", nics=(InventoryNic("eth0", network="lab", vlan=0), InventoryNic("eth1")))
    assert [group for group in shown(vm).groups(GROUPINGS) if group.startswith("vlan")] == []


def test_variables_are_plain_and_complete() -> None:
    vm = InventoryVm("web1", "running", "running", "u-1", True, "debian", "web1.example.org", nics=NICS, tags=("a",))
    variables = shown(vm, address="10.10.0.50").variables()
    about = variables.pop("bareforge_vm")
    assert variables == {"ansible_host": "10.10.0.50"}
    assert about == {
        "name": "web1",
        "hypervisor": "kvm01",
        "platform": "kvm",
        "power": "running",
        "state": "running",
        "uuid": "u-1",
        "managed": True,
        "template": "debian",
        "hostname": "web1.example.org",
        "description": None,
        "cpus": None,
        "memory": None,
        "tags": ["a"],
        "networks": ["app", "management"],
        "vlans": [10, 20],
        "nics": [
            {"name": "eth0", "mac": None, "network": "app", "vlan": 10, "trunk": []},
            {"name": "eth1", "mac": None, "network": "management", "vlan": 20, "trunk": []},
        ],
        "addresses": [],
    }
    assert "ansible_host" not in shown(vm).variables()


@pytest.mark.parametrize("said", ["-oProxyCommand=touch /tmp/x", "a b", "", "a" * 300, "{{ 1 }}", None])
def test_what_a_guest_says_of_its_name_has_to_be_a_name(said: Any) -> None:
    vm = InventoryVm("web1", "running", hostname=said)
    assert shown(vm).hostname is None
    assert shown(vm).variables()["bareforge_vm"]["hostname"] is None


def named(*vms: tuple[str, str], hypervisors: tuple[str, ...] = ("kvm01", "kvm02")) -> tuple[list[str], list[str]]:
    return names_of(
        [shown(InventoryVm(name, "running"), host) for name, host in vms], lambda each: each.vm.name, hypervisors
    )


def test_names_that_are_a_vms_own_stay() -> None:
    assert named(("web1", "kvm01"), ("db1", "kvm02")) == (["web1", "db1"], [])


def test_vms_of_one_name_are_all_called_by_their_hosts_too_whichever_comes_first() -> None:
    names, warnings = named(("web1", "kvm01"), ("db1", "kvm01"), ("web1", "kvm02"))
    assert names == ["web1.kvm01", "db1", "web1.kvm02"]
    assert warnings == ["VM 'web1' is on kvm01, kvm02 and is called by the names of VM and host"]
    assert named(("web1", "kvm02"), ("web1", "kvm01"))[0] == ["web1.kvm02", "web1.kvm01"]


def test_a_vm_with_the_name_of_a_hypervisor() -> None:
    names, warnings = named(("kvm02", "kvm01"))
    assert names == ["kvm02.kvm01"]
    assert warnings == ["VM 'kvm02' has the name of a hypervisor and is called by the names of VM and host"]


def test_names_that_still_meet_are_refused_and_named() -> None:
    with pytest.raises(ValidateError) as caught:
        named(("web1", "kvm01"), ("web1", "kvm02"), ("web1.kvm01", "kvm02"))
    assert caught.value.sentence() == (
        "host 'kvm01', VM 'web1': the name 'web1.kvm01' is another one's too; "
        "host 'kvm02', VM 'web1.kvm01': the name 'web1.kvm01' is another one's too. "
        "Tell them apart with the option hostnames"
    )
