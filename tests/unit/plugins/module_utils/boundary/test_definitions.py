# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the modules take: how arguments become a request, and how they are refused."""

from __future__ import annotations

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.boundary.definitions import MODULES
from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import NotSupportedError, ValidateError
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.document import KINDS, SECTIONS
from support.memory_platform import MemoryHost, MemoryPlatform, platform_without

HASH = "$6$saltsalt$abcdefghijklmnopqrstuvwxyz"


def problems_of(module, /, **arguments):
    with pytest.raises(ValidateError) as caught:
        MODULES[module].parse(arguments)
    return {problem.path: problem.message for problem in caught.value.problems}


def platform(document=None):
    return MemoryPlatform(MemoryHost.holding(document or {}))


def test_one_object_by_its_fields():
    call = MODULES["virtual_switch"].parse({"name": "br0", "uplinks": ["eno1"], "mtu": None, "bond": None})
    (switch,) = call.document.objects()
    assert (switch.name, switch.uplinks, switch.mtu) == ("br0", ("eno1",), None)


def test_options_that_ansible_gives_as_none_were_not_said():
    spec = MODULES["vm"].argument_spec()
    call = MODULES["vm"].parse({**dict.fromkeys(spec), "name": "web1", "memory": {"size": "1 GiB", "minimum": None}})
    (vm,) = call.document.objects()
    assert vm.memory.size == 1024
    assert {name for name, _entry, _value in vm.items()} == {"name", "memory"}
    assert call.operation.complete(None).shutdown_timeout == 180


def test_several_objects_each_with_its_state():
    call = MODULES["vm"].parse({"vms": [{"name": "a"}, {"name": "b", "state": "absent"}]})
    assert set(call.document.present["vm"]) == {("a",)}
    assert call.document.absent["vm"] == {("b",)}


def test_several_objects_absent():
    call = MODULES["port_acl"].parse(
        {"port_acls": [{"vm": "a", "nic": "e0"}, {"vm": "b", "nic": "e0"}], "state": "absent"}
    )
    assert call.document.absent["port_acl"] == {("a", "e0"), ("b", "e0")}


def test_absent_takes_the_key_alone():
    call = MODULES["virtual_network"].parse({"name": "app", "state": "absent"})
    assert call.document.absent["virtual_network"] == {("app",)}


def test_exact_prunes_the_kind():
    assert MODULES["firewall_rule"].parse({"firewall_rules": [], "exact": True}).document.exact == {"firewall_rule"}


@pytest.mark.parametrize(
    ("name", "arguments", "path", "words"),
    [
        ("vm", {}, "name", "must be given, or vms for several"),
        ("port_acl", {"vm": "web1"}, "nic", "must be given, or port_acls for several"),
        ("vm", {"name": "a", "vms": []}, "vms", "goes without name"),
        ("vm", {"vms": "a,b"}, "vms", "allowed is a list of mappings"),
        ("vm", {"name": "a", "exact": True}, "exact", "goes with vms and state: present only"),
        ("vm", {"vms": [], "exact": True, "state": "absent"}, "exact", "goes with vms and state: present only"),
        ("vm", {"name": "a", "state": "gathered", "power": "running"}, "power", "goes without state: gathered"),
        ("vm", {"name": "a", "state": "here"}, "state", "allowed is present, absent or gathered"),
        ("vm", {"name": "a", "colour": "red"}, "colour", "unknown; known are name, template"),
        ("vm", {"name": "a", "shutdown_timeout": -1}, "shutdown_timeout", "from 0 to 7200"),
        ("vm", {"name": "a", "wait_for": {"what": "luck"}}, "wait_for.what", "allowed is address or ssh"),
        ("vm", {"name": ["a"]}, "vm[0].name", "allowed is a name"),
        ("vm", {"name": "a", "nics": [{"name": "eth0", "network": 5}]}, "vm['a'].nics['eth0'].network", "allowed is"),
        ("vm", {"name": "a", "cpu": "two"}, "vm['a'].cpu", "allowed is a mapping"),
        ("firewall", {"management_sources": ["10.0.0.1/8"]}, "firewall.management_sources[0]", "no host bits set"),
        ("virtual_network", {"name": "app", "switch": "s", "vlan": 5000}, "virtual_network['app'].vlan", "0 to 4094"),
        ("virtual_network", {"name": "app", "vlan": 5}, "virtual_network['app'].switch", "must be given"),
        ("vm_snapshot", {"vm": "a", "name": "s", "memory": True, "state": "reverted"}, "memory", "goes without"),
        ("vm_snapshot", {"snapshots": [], "state": "reverted"}, "snapshots", "goes without state: reverted"),
        ("host", {}, "document", "must be given"),
        ("host", {"document": []}, "document", "allowed is a mapping"),
        ("host", {"document": {}, "kinds": ["vm"]}, "kinds", "goes with state: gathered only"),
        ("host", {"document": {}, "state": "gathered"}, "document", "goes without state: gathered"),
        ("host", {"document": {}, "exact": ["firewall"]}, "exact[0]", "allowed is storage_pool"),
        ("host", {"document": {"vm": []}}, "vm", "known are system, tuning, storage_pools"),
        ("host_info", {"kinds": ["vms"]}, "kinds[0]", "allowed is system"),
        ("guard", {}, "token", "must be given"),
        ("vm_info", {"connection": {"port": 0}}, "connection.port", "from 1 to 65535"),
    ],
)
def test_refused(name, arguments, path, words):
    assert words in problems_of(name, **arguments)[path]


def test_every_problem_is_told_at_once():
    found = problems_of("virtual_network", name="app", vlan=5000, colour="red", guard={"timeout": 1})
    assert set(found) == {
        "colour",
        "guard.timeout",
        "virtual_network['app'].switch",
        "virtual_network['app'].vlan",
    }


@pytest.mark.parametrize("hostile", ["a\nb", "a\x00b", "\u202eevil", "a" * 256, "..", ""])
def test_hostile_names_are_refused(hostile):
    assert problems_of("virtual_switch", name=hostile)


@pytest.mark.parametrize("text", ["$(reboot)", "a'b\"c", "../../etc/passwd", "{{ 7 * 7 }}", "a b"])
def test_text_that_is_only_odd_is_carried_through(text):
    (rule,) = MODULES["firewall_rule"].parse({"name": text, "description": text}).document.objects()
    assert (rule.name, rule.description) == (text, text)


def test_secrets_are_found_wherever_they_stand():
    vm = {"name": "a", "guest": {"user_data": "#cloud-config", "users": [{"name": "u", "password_hash": HASH}, 5]}}
    assert MODULES["vm"].secrets(vm) == ["#cloud-config", HASH] or MODULES["vm"].secrets(vm) == [HASH, "#cloud-config"]
    assert set(MODULES["vm"].secrets({"vms": [vm, "wrong"]})) == {"#cloud-config", HASH}
    assert set(MODULES["host"].secrets({"document": {"vms": [vm], "users": [{"password": "p"}]}})) == {
        "#cloud-config",
        HASH,
        "p",
    }
    assert MODULES["host"].secrets({"document": "wrong", "connection": {"password": "secret"}}) == ["secret"]


def test_a_secret_that_is_refused_is_not_quoted():
    (message,) = problems_of("vm", name="a", guest={"users": [{"name": "u", "password_hash": "plaintext"}]}).values()
    assert "plaintext" not in message
    assert "crypt(5)" in message


def test_secrets_carry_no_log_and_nothing_else_does():
    spec = MODULES["vm"].argument_spec()
    users = spec["guest"]["options"]["users"]["options"]
    assert users["password_hash"]["no_log"] is True
    assert users["name"]["no_log"] is False
    assert spec["connection"]["options"]["password"]["no_log"] is True


def test_each_kind_has_its_fields_as_options():
    for kind in ("virtual_switch", "virtual_network", "host_interface", "firewall", "firewall_rule", "port_acl", "vm"):
        assert set(KINDS[kind].options()) <= set(MODULES[kind].options())


def test_converge_and_converge_again():
    host = MemoryHost()
    definition = MODULES["virtual_switch"]
    call = definition.parse({"name": "br0", "uplinks": ["eno1"]})
    planned = definition.perform(MemoryPlatform(host), call, check=True)
    assert host.objects["virtual_switch"] == {}
    done = definition.perform(MemoryPlatform(host), call)
    assert planned["changes"] == done["changes"]
    assert planned["planned"] == done["planned"]
    assert done["changed"] is True
    assert definition.perform(MemoryPlatform(host), call)["changed"] is False


def test_gathered_objects_are_accepted_back():
    document = {"virtual_switches": [{"name": "br0"}, {"name": "br1", "type": "internal"}]}
    definition = MODULES["virtual_switch"]
    everything = definition.perform(platform(document), definition.parse({"state": "gathered"}))
    assert [each["name"] for each in everything["virtual_switches"]] == ["br0", "br1"]
    again = definition.parse({"virtual_switches": everything["virtual_switches"], "exact": True})
    assert definition.perform(platform(document), again)["changed"] is False
    one = definition.perform(platform(document), definition.parse({"state": "gathered", "name": "br1"}))
    assert [each["name"] for each in one["virtual_switches"]] == ["br1"]
    none = definition.perform(platform(document), definition.parse({"state": "gathered", "name": "br2"}))
    assert none == {"changed": False, "virtual_switches": []}


def test_a_kind_of_which_there_is_one_is_gathered_as_a_mapping():
    definition = MODULES["firewall"]
    gathered = definition.perform(
        platform({"firewall": {"default_inbound": "allow"}}), definition.parse({"state": "gathered"})
    )
    assert gathered["firewall"]["default_inbound"] == "allow"
    fields = definition.parse(gathered["firewall"])
    assert definition.perform(platform({"firewall": {"default_inbound": "allow"}}), fields)["changed"] is False


def test_host_gathers_what_it_takes_back():
    document = {"virtual_switches": [{"name": "br0"}], "virtual_networks": [{"name": "app", "switch": "br0"}]}
    definition = MODULES["host"]
    gathered = definition.perform(platform(document), definition.parse({"state": "gathered"}))
    assert set(gathered["document"]) <= set(SECTIONS.values())
    again = definition.parse({"document": gathered["document"]})
    assert definition.perform(platform(document), again)["changed"] is False
    some = definition.perform(platform(document), definition.parse({"state": "gathered", "kinds": ["virtual_switch"]}))
    assert set(some["document"]) == {"virtual_switches"}


def test_host_info_gathers_nothing_for_an_empty_list():
    definition = MODULES["host_info"]
    told = definition.perform(platform({"virtual_switches": [{"name": "br0"}]}), definition.parse({"kinds": []}))
    assert told["document"] == {}
    assert "vm.clone.linked" in told["capabilities"]
    everything = definition.perform(platform({"virtual_switches": [{"name": "br0"}]}), definition.parse({}))
    assert [each["name"] for each in everything["document"]["virtual_switches"]] == ["br0"]


def test_what_the_platform_lacks_is_refused_by_name():
    lesser = platform_without(["vm"])
    for name, arguments in (("vm", {"state": "gathered"}), ("vm_info", {}), ("vm", {"name": "a"})):
        with pytest.raises(NotSupportedError, match="platform memory does not have"):
            MODULES[name].perform(lesser(MemoryHost()), MODULES[name].parse(arguments))


def test_guard_needs_a_guard():
    unguarded = platform_without(guarded=False)
    with pytest.raises(NotSupportedError, match="has no guard"):
        MODULES["guard"].perform(unguarded(MemoryHost()), MODULES["guard"].parse({"token": "undo-1"}))
