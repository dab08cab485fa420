# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The firewall, its rules, and filters on adapters: fakepve keeps them as PVE does, new rules first and nothing told apart."""

from __future__ import annotations

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import ApplyError, GuardError
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.proxmox.rule_list import RuleList

shows = pytest.mark.capability


def rules_of(node):
    return node.peer.firewall_config("host", "pve1")["rules"]


def short(rules):
    """Return rules as (type, action, protocol, ports, source)."""
    return [tuple(rule.get(name) for name in ("type", "action", "proto", "dport", "source")) for rule in rules]


@shows(
    "proxmox",
    "firewall",
    "firewall.default_outbound",
    "firewall.default_forward",
    "firewall.log_denied",
    ran_against="independent simulator",
)
def test_policies(node):
    wanted = {
        "enabled": True,
        "default_inbound": "deny",
        "default_outbound": "deny",
        "default_forward": "deny",
        "log_denied": True,
    }
    node.settle({"firewall": wanted})
    cluster = node.peer.firewall_config("cluster")["options"]
    assert (cluster["enable"], cluster["policy_out"], cluster["policy_forward"]) == (1, "DROP", "DROP")
    assert node.peer.firewall_config("host", "pve1")["options"]["log_level_in"] == "info"
    # Management is always reachable, before all rules.
    assert short(rules_of(node)) == [("in", "ACCEPT", "tcp", "22,8006", None)]
    node.settle({"firewall": {"management_sources": ["192.0.2.0/24", "2001:db8::/32"], "management_ports": ["8006"]}})
    assert short(rules_of(node)) == [
        ("in", "ACCEPT", "tcp", "8006", "192.0.2.0/24"),
        ("in", "ACCEPT", "tcp", "8006", "2001:db8::/32"),
    ]
    node.settle({"firewall": {"enabled": False}})
    assert node.peer.firewall_config("host", "pve1")["options"]["enable"] == 0
    # The cluster's switch is that of other nodes too.
    assert node.peer.firewall_config("cluster")["options"]["enable"] == 1


def test_naming_networks_for_management_needs_a_guard(node):
    document = {"firewall": {"enabled": True, "management_sources": ["192.0.2.0/24"]}}
    with pytest.raises(GuardError, match="firewall touches the path"):
        node.apply(document, guard={"enabled": True})
    assert rules_of(node) == []
    node.apply({"firewall": {"enabled": True}}, guard={"enabled": True})


@shows(
    "proxmox",
    "firewall_rule",
    "firewall_rule.direction.inbound",
    "firewall_rule.direction.outbound",
    "firewall_rule.direction.forward",
    "firewall_rule.action.allow",
    "firewall_rule.action.deny",
    "firewall_rule.action.reject",
    "firewall_rule.service",
    "firewall_rule.source_ports",
    "firewall_rule.destinations",
    "firewall_rule.interfaces",
    "firewall_rule.log",
    ran_against="independent simulator",
)
def test_rules_in_their_order(node):
    rules = [
        {"name": "last", "position": 9000, "action": "deny"},
        {"name": "dns", "service": "dns", "position": 10, "sources": ["192.0.2.0/24", "2001:db8::/32"]},
        {
            "name": "web",
            "protocol": "tcp",
            "ports": [80, "8000-8010"],
            "source_ports": ["1024-65535"],
            "interfaces": ["vmbr0"],
        },
        {
            "name": "out",
            "direction": "outbound",
            "action": "reject",
            "protocol": "udp",
            "destinations": ["203.0.113.1"],
            "log": True,
        },
        {
            "name": "through",
            "direction": "forward",
            "protocol": "icmpv6",
            "enabled": False,
            "description": "Ping & 'more'",
        },
    ]
    node.settle({"firewall_rules": rules})
    found = rules_of(node)
    assert short(found) == [
        ("in", "ACCEPT", "tcp", "53", "192.0.2.0/24"),
        ("in", "ACCEPT", "tcp", "53", "2001:db8::/32"),
        ("in", "ACCEPT", "udp", "53", "192.0.2.0/24"),
        ("in", "ACCEPT", "udp", "53", "2001:db8::/32"),
        ("out", "REJECT", "udp", None, None),
        ("forward", "ACCEPT", "ipv6-icmp", None, None),
        ("in", "ACCEPT", "tcp", "80,8000:8010", None),
        ("in", "DROP", None, None, None),
    ]
    assert found[-1]["action"] == "DROP" and found[4]["log"] == "info" and found[4]["dest"] == "203.0.113.1/32"
    assert found[5]["enable"] == 0
    assert node.apply(node.gather("firewall_rule"))["changes"] == []
    node.settle({"firewall_rules": [{"name": "last", "position": 1}, {"name": "web", "ports": [443]}]})
    assert rules_of(node)[0]["action"] == "DROP"
    node.settle({"firewall_rules": [{"name": "dns", "state": "absent"}]})
    assert len(rules_of(node)) == 4


def test_rules_of_others_keep_their_places(node):
    for number in (1, 2):
        rules_of(node).append(
            {"type": "in", "action": "ACCEPT", "proto": "tcp", "dport": str(number), "enable": 1, "comment": "by hand"}
        )
    node.apply(
        {
            "firewall_rules": [
                {"name": "b", "protocol": "tcp", "ports": [2000]},
                {"name": "a", "protocol": "tcp", "ports": [1000]},
            ]
        }
    )
    assert [rule["dport"] for rule in rules_of(node)] == ["1000", "2000", "1", "2"]
    node.apply({"firewall_rules": []}, exact=["firewall_rule"])
    assert [rule["dport"] for rule in rules_of(node)] == ["1", "2"]


def test_what_was_changed_by_hand_is_mended(node):
    rule = {
        "firewall_rules": [
            {"name": "web", "protocol": "tcp", "ports": [80], "sources": ["192.0.2.0/24", "2001:db8::/32"]}
        ]
    }
    node.apply(rule)
    rules_of(node)[0]["dport"] = "81"
    node.settle(rule)
    assert [each["dport"] for each in rules_of(node)] == ["80", "80"]
    del rules_of(node)[1]
    node.settle(rule)
    assert len(rules_of(node)) == 2


def test_long_lists_are_several_rules(node):
    sources = [f"10.{number}.0.0/16" for number in range(200)]
    node.settle(
        {"firewall_rules": [{"name": "many", "protocol": "tcp", "ports": list(range(1, 21)), "sources": sources}]}
    )
    found = rules_of(node)
    assert len(found) == 2 * len({rule["source"] for rule in found}) and all(
        len(rule["source"]) <= 512 for rule in found
    )
    assert node.gather("firewall_rule")["firewall_rules"][0]["sources"] == sorted(sources)


def test_a_change_of_somebody_else_meanwhile_is_a_conflict(node):
    node.apply({"firewall_rules": [{"name": "a", "protocol": "tcp", "ports": [1000]}]})
    platform = node.platform()
    rules = RuleList(platform.session, ("nodes", "pve1", "firewall", "rules"))
    rules.read()
    rules_of(node)[0]["dport"] = "1001"
    with pytest.raises(ApplyError, match="detected modified configuration") as caught:
        rules._change("DELETE", 0, {})
    assert "Somebody else has changed it meanwhile" in caught.value.sentence()
    assert len(rules_of(node)) == 1
    platform.close()


def test_forward_and_reject_are_refused(node):
    problems = node.problems({"firewall_rules": [{"name": "x", "direction": "forward", "action": "reject"}]})
    assert set(problems) == {"firewall_rule['x'].action"}


BASE = {
    "virtual_switches": [{"name": "sw", "type": "internal"}],
    "virtual_networks": [{"name": "app", "switch": "sw"}],
    "vms": [
        {
            "name": "web",
            "memory": {"size": 64},
            "power": "stopped",
            "nics": [{"name": "e0", "network": "app"}, {"name": "e1", "network": "app"}],
        }
    ],
}


@shows(
    "proxmox",
    "port_acl",
    "port_acl.mac_spoofing",
    "port_acl.allowed_ipv4",
    "port_acl.allowed_ipv6",
    "port_acl.dhcp_guard",
    "port_acl.router_guard",
    "port_acl.rules",
    ran_against="independent simulator",
)
def test_filters_on_adapters(node):
    node.apply(BASE)
    rules = [
        {"name": "web", "action": "allow", "protocol": "tcp", "ports": [80, 443], "remotes": ["192.0.2.0/24"]},
        {"name": "no-mail", "direction": "outbound", "protocol": "tcp", "ports": [25]},
    ]
    first = {"vm": "web", "nic": "e0", "allowed_ipv4": ["192.0.2.7"], "default_inbound": "deny", "rules": rules}
    node.settle({"port_acls": [first, {"vm": "web", "nic": "e1", "dhcp_guard": False, "router_guard": False}]})
    vm = node.vm("web")
    conf = node.peer.firewall_config("vm", vmid=vm.vmid)
    assert (conf["options"]["enable"], conf["options"]["macfilter"], conf["options"]["radv"]) == (1, 1, 1)
    assert {entry["cidr"] for entry in conf["ipset"]["ipfilter-net0"]} == {"192.0.2.7", "::/1", "8000::/1"}
    own = [rule for rule in conf["rules"] if rule["iface"] == "net0"]
    assert [(rule["type"], rule["action"]) for rule in own] == [
        *[("out", "DROP")] * 4, ("in", "ACCEPT"), ("out", "DROP"), ("in", "DROP"), ("out", "ACCEPT"),
    ]  # fmt: skip
    assert "firewall=1" in vm.config["net0"] and "firewall=1" in vm.config["net1"]
    node.settle(
        {"port_acls": [{"vm": "web", "nic": "e0", "allowed_ipv4": [], "allowed_ipv6": ["2001:db8::7"], "rules": []}]}
    )
    conf = node.peer.firewall_config("vm", vmid=vm.vmid)
    assert {entry["cidr"] for entry in conf["ipset"]["ipfilter-net0"]} == {
        "2001:db8::7",
        "fe80::/10",
        "0.0.0.0/1",
        "128.0.0.0/1",
    }
    problems = node.problems({"port_acls": [{"vm": "web", "nic": "e0", "mac_spoofing": True}]})
    assert "has it for a VM as a whole" in problems["port_acl['web/e0'].mac_spoofing"]
    node.settle({"port_acls": [{"vm": "web", "nic": nic, "mac_spoofing": True} for nic in ("e0", "e1")]})
    assert node.peer.firewall_config("vm", vmid=vm.vmid)["options"]["macfilter"] == 0
    node.settle({"port_acls": [{"vm": "web", "nic": nic, "state": "absent"} for nic in ("e0", "e1")]})
    conf = node.peer.firewall_config("vm", vmid=vm.vmid)
    assert conf["rules"] == [] and conf["ipset"] == {} and "firewall" not in node.vm("web").config["net0"]


def test_a_filter_that_somebody_has_taken_apart_is_mended(node):
    acl = {"port_acls": [{"vm": "web", "nic": "e0", "default_outbound": "deny"}]}
    node.apply({**BASE, **acl})
    conf = node.peer.firewall_config("vm", vmid=node.vm("web").vmid)
    del conf["rules"][0]
    conf["options"]["enable"] = 0
    node.settle(acl)
    assert conf["rules"][0]["sport"] == "67"
    assert node.peer.firewall_config("vm", vmid=node.vm("web").vmid)["options"]["enable"] == 1
