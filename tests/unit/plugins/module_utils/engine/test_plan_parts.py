# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Order, circles, batches and differences, where the operation tables do not look."""

from __future__ import annotations

import random

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.engine.change import (
    Change,
    difference,
    frozen_fields,
    not_taken,
    plain,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.engine.plan import (
    batches,
    circles,
    dependencies,
    names_to_read,
    order,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.engine.runner import gather
from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import NotSupportedError
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.compute import Vm
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.document import KINDS, Document
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.network import VirtualNetwork, VirtualSwitch
from support.memory_platform import MemoryHost, MemoryPlatform, platform_without


def switch(name, *uplinks):
    return VirtualSwitch.parse({"name": name, "uplinks": list(uplinks)}).complete(None)


def network(name, on):
    return VirtualNetwork.parse({"name": name, "switch": on}).complete(None)


def vm(**fields):
    return Vm.parse({"name": "web", "memory": {"size": 512}, **fields}).complete(None)


@pytest.mark.parametrize(
    ("waits", "expected"),
    [
        ([], []),
        ([set(), {0}, {1}], [0, 1, 2]),
        ([{1}, {0}, {1}], [0, 0, 2]),
        ([{2}, {0}, {1}, {0}], [0, 0, 0, 3]),
        ([{1}, {0}, {3}, {2}], [0, 0, 2, 2]),
        ([{1}, {2, 0}, {1}, {2}, {5}, {4, 3}], [0, 0, 0, 3, 4, 4]),
    ],
)
def test_circles(waits, expected):
    assert circles(waits) == expected


def test_a_long_chain_needs_no_recursion():
    waits = [{number + 1} for number in range(50_000)] + [set()]
    assert circles(waits) == list(range(50_001))
    waits[-1] = {0}
    assert set(circles(waits)) == {0}


def test_circles_are_those_of_reachability():
    source = random.Random(7)
    for _graph in range(200):
        size = source.randint(1, 9)
        waits = [set(source.sample(range(size), source.randint(0, min(size, 2)))) - {number} for number in range(size)]
        reach = [set(others) | {number} for number, others in enumerate(waits)]
        for _step in range(size):
            for number in range(size):
                reach[number] |= set().union(*(reach[other] for other in reach[number]))
        expected = [min(other for other in reach[number] if number in reach[other]) for number in range(size)]
        assert circles(waits) == expected


def test_order_holds_every_dependency_whatever_comes_first():
    source = random.Random(3)
    changes = [Change(None, switch(f"s{number}")) for number in range(6)]
    changes += [Change(None, network(f"n{number}", f"s{number % 6}")) for number in range(12)]
    changes += [Change(network(f"o{number}", f"p{number}"), None) for number in range(6)]
    changes += [Change(switch(f"p{number}"), None) for number in range(6)]
    first = order(changes)
    for _shuffle in range(50):
        source.shuffle(changes)
        result = order(changes)
        assert result == first
        for number, others in enumerate(dependencies(result)):
            assert all(other < number for other in others)


def test_batches_keep_together_what_does_not_wait():
    changes = order(
        [
            Change(None, switch("a")),
            Change(None, switch("b")),
            Change(None, network("n", "a")),
            Change(None, network("m", "x")),
        ]
    )
    runs = [[str(change) for change in run] for _owner, run in batches(changes, MemoryPlatform(MemoryHost()))]
    assert runs == [
        ["create virtual_switch['a']", "create virtual_switch['b']", "create virtual_network['m']"],
        ["create virtual_network['n']"],
    ]


def test_what_is_made_in_order_is_one_batch():
    class InOrder(MemoryPlatform):
        INTERFACES = tuple(type(cls.__name__, (cls,), {"IN_ORDER": True}) for cls in MemoryPlatform.INTERFACES)

    changes = order([Change(None, network("n", "a")), Change(None, switch("a"))])
    runs = [[str(change) for change in run] for _owner, run in batches(changes, InOrder(MemoryHost()))]
    assert runs == [["create virtual_switch['a']", "create virtual_network['n']"]]


def test_a_change_tells_itself():
    made = Change(None, switch("a"), ("uplinks",))
    gone = Change(switch("a"), None)
    other = Change(switch("a"), switch("a", "eth1"), ("uplinks",), frozenset({"power_cycle"}))
    assert (made.action, gone.action, other.action) == ("create", "delete", "update")
    assert str(other) == "update virtual_switch['a']"
    assert other.to_result() == {
        "kind": "virtual_switch",
        "key": "a",
        "action": "update",
        "fields": ["uplinks"],
        "needs": ["power_cycle"],
    }
    assert "needs" not in made.to_result()


@pytest.mark.parametrize(
    ("before", "after", "fields"),
    [
        ({}, {}, ()),
        ({"description": "a"}, {"description": "b"}, ("description",)),
        (
            {"nics": [{"name": "e0", "network": "n"}]},
            {"nics": [{"name": "e0", "network": "o"}]},
            ("nics['e0'].network",),
        ),
        ({"nics": [{"name": "e0", "network": "n"}]}, {}, ("nics",)),
        ({}, {"nics": []}, ()),
        ({"cpu": {"count": 1}}, {"cpu": {"count": 2, "shares": 5}}, ("cpu.count", "cpu.shares")),
        ({"guest": {"user_data": "a"}}, {"guest": {"user_data": "b"}}, ()),
        (
            {"disks": [{"name": "a", "size": 1}]},
            {"disks": [{"name": "a", "size": 1, "limits": {"read_iops": 5}}]},
            ("disks['a'].limits",),
        ),
        ({}, {"template": "t"}, ()),
    ],
)
def test_difference(before, after, fields):
    assert difference(vm(**before), vm(**after)) == fields


def test_a_new_object_differs_in_all_that_is_said():
    assert difference(None, vm(template="t", guest={"hostname": "a"})) == (
        "template",
        "secure_boot",
        "tpm",
        "cpu",
        "memory",
        "guest",
        "autostart",
        "power",
    )


def test_a_field_that_is_settled_is_frozen_only_where_it_is_told():
    assert frozen_fields(vm(template="t"), vm(template="u")) == [("template", "t", "u")]
    assert frozen_fields(vm(template="t"), vm(template="t")) == []
    assert frozen_fields(vm(), vm(template="u")) == []
    assert frozen_fields(vm(description="a"), vm(description="b")) == []


def test_what_did_not_take():
    asked = vm(nics=[{"name": "e0", "network": "n"}], description="x")
    shown = vm(nics=[{"name": "e0", "network": "n", "mac": "52:54:00:00:00:01"}], firmware="bios", description="y")
    assert [(path.text, new, old) for path, new, old in not_taken(None, asked, shown)] == [("description", "x", "y")]
    before = vm(description="y")
    cleared = vm()
    assert [(path.text, new, old) for path, new, old in not_taken(before, cleared, shown)][-1] == (
        "description",
        None,
        "y",
    )


def test_plain_values_have_no_secrets():
    guest = vm(guest={"hostname": "a", "user_data": "canary"}).guest
    assert plain((guest,)) == [{"hostname": "a", "users": [], "packages": []}]


def test_gathering_takes_kinds_that_the_platform_has():
    host = MemoryHost.holding({"users": [{"name": "anna"}], "roles": [{"name": "r", "privileges": []}]})
    assert set(gather(MemoryPlatform(host), ["user"])) == {"users"}
    several = [kind for kind, cls in KINDS.items() if cls.key_fields()]
    assert len(gather(MemoryPlatform(host))) == len(several), (
        "kinds of which there is one are left out where there is none"
    )
    with pytest.raises(NotSupportedError, match="user: platform memory does not have it"):
        gather(platform_without(["user"])(host), ["user", "role"])


@pytest.mark.parametrize(
    ("data", "exact", "names"),
    [
        (
            {"snapshots": [{"vm": "a", "name": "s"}, {"vm": "b", "name": "s", "state": "absent"}]},
            [],
            {"snapshot": {"a", "b"}, "vm": {"a", "b"}},
        ),
        ({"snapshots": []}, ["snapshot"], {}),
        ({"vms": [{"name": "a"}]}, [], {}),
    ],
)
def test_only_the_vms_of_snapshots_are_read(data, exact, names):
    assert names_to_read(Document.parse(data, exact)) == names
