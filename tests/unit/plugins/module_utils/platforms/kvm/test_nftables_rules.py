# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.document import KINDS
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.firewall import Firewall, FirewallRule, PortAcl
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.schema import Path as SchemaPath
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm import nftables_rules
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.nftables_rules import (
    HOST_TABLE,
    PORT_TABLE,
    firewall_commands,
    link_local_address,
    port_acl_commands,
    port_acl_removal,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.transports import nftables
from support import kernel_nftables

DATA = Path(__file__).resolve().parents[4] / "data" / "kvm_nftables"
MAC = "52:54:00:00:00:aa"
TAP = "bfunittest"


def cases(file: str) -> list[Any]:
    return [pytest.param(case, id=case["name"]) for case in yaml.safe_load((DATA / file).read_text(encoding="utf-8"))]


@pytest.fixture(autouse=True)
def kernel() -> None:
    kernel_nftables.require()


def firewall(**fields: Any) -> Firewall:
    return Firewall.parse(fields).complete(None)


def rule(**fields: Any) -> FirewallRule:
    return FirewallRule.parse({"name": "rule", **fields}).complete(None)


def host_chains(policy: Firewall, *rules: FirewallRule) -> dict[str, list[Any]]:
    return kernel_nftables.shown_as_text(firewall_commands(policy, rules), HOST_TABLE)


@pytest.mark.parametrize("case", cases("firewall_rules.yml"))
def test_firewall_rule(case: dict[str, Any]) -> None:
    item = rule(**case["rule"])
    assert item.problems_when_complete() == []
    comment = nftables_rules.rule_comment(str(item.name))
    found = {
        chain: [text for text, said in entries if said == comment]
        for chain, entries in host_chains(firewall(), item).items()
    }
    assert {chain: texts for chain, texts in found.items() if texts} == case["nft"]


@pytest.mark.parametrize("case", cases("port_acls.yml"))
def test_port_acl(case: dict[str, Any]) -> None:
    acl = PortAcl.parse({"vm": "v", "nic": "n", **case["acl"]}).complete(None)
    shown = kernel_nftables.shown_as_text(port_acl_commands(acl, MAC, TAP), PORT_TABLE, [TAP])
    assert [text for text, _comment in shown[f"from_{TAP}"]] == case["from"]
    assert [text for text, _comment in shown[f"to_{TAP}"]] == case["to"]


def test_management_and_what_ip_needs_stand_before_the_rules() -> None:
    chains = host_chains(
        firewall(management_sources=["192.0.2.0/24", "2001:db8::/32"], management_ports=["22", "2222"]), rule()
    )
    comments = [comment for _text, comment in chains["input"]]
    assert comments.index("management") > comments.index("neighbour discovery")
    assert comments[-3].startswith("rule ")
    assert [text for text, comment in chains["input"] if comment == "management"] == [
        "ip saddr 192.0.2.0/24 tcp dport { 22, 2222 } accept",
        "ip6 saddr 2001:db8::/32 tcp dport { 22, 2222 } accept",
    ]


def test_management_is_ssh_from_everywhere_unless_said() -> None:
    texts = [text for text, comment in host_chains(firewall())["input"] if comment == "management"]
    assert texts == ["tcp dport 22 accept"]


@pytest.mark.parametrize("default", ["deny", "allow"])
def test_policies_are_those_of_the_base_chains(default: str) -> None:
    policy = firewall(default_inbound=default, default_outbound=default, default_forward=default, log_denied=True)
    commands = firewall_commands(policy, [])
    policies = [entry["add"]["chain"]["policy"] for entry in commands if "chain" in entry.get("add", {})]
    assert policies == ["drop" if default == "deny" else "accept"] * 3
    ends = {chain: entries[-2:] for chain, entries in host_chains(policy).items()}
    for chain, entries in ends.items():
        if default == "deny":
            assert entries[0][0].endswith(f'log prefix "bareforge denied {chain}: " level info')
            assert entries[1] == ("drop", "default")
        else:
            assert ("drop", "default") not in entries


@pytest.mark.parametrize("policy", [None, firewall(enabled=False)])
def test_firewall_that_is_off_is_no_table(policy: Any) -> None:
    commands = firewall_commands(policy, [rule()])
    assert nftables.preview([*firewall_commands(firewall(), [rule()]), *commands], [HOST_TABLE]) == {HOST_TABLE: None}


def test_order_is_by_position_and_then_by_name() -> None:
    rules = [rule(name="b"), rule(name="a"), rule(name="z", position=1)]
    comments = [comment.split()[-1] for _text, comment in host_chains(firewall(), *rules)["input"][-5:-2]]
    assert comments == ["z", "a", "b"]


def test_comment_and_prefix_fit_into_the_kernel_whatever_the_name() -> None:
    names = ["a" * 100, "\u4e2d" * 100, '"; } flush ruleset', "\\" * 100]
    shown = nftables.preview(firewall_commands(firewall(), [rule(name=name, log=True) for name in names]), [HOST_TABLE])
    entries = [entry["rule"]["comment"] for entry in shown[HOST_TABLE] or [] if "rule" in entry]
    digests = [nftables_rules.digest_of_comment(comment) for comment in entries]
    assert sorted(filter(None, digests)) == sorted(nftables_rules.rule_digest(name) for name in names)


def test_port_acl_can_be_put_in_force_again_and_removed_twice() -> None:
    acl = PortAcl.parse({"vm": "v", "nic": "n", "allowed_ipv4": ["192.0.2.1"]}).complete(None)
    once = port_acl_commands(acl, MAC, TAP)
    first = nftables.preview(once, [PORT_TABLE], [TAP])[PORT_TABLE]
    assert first
    assert nftables.preview([*once, *once], [PORT_TABLE], [TAP])[PORT_TABLE] == first
    assert nftables.preview([*once, *port_acl_removal(TAP)], [PORT_TABLE], [TAP])[PORT_TABLE] == []
    assert nftables.preview([*port_acl_removal(TAP), *port_acl_removal(TAP)], [PORT_TABLE])[PORT_TABLE] == []


@pytest.mark.parametrize(
    ("mac", "address"),
    [("52:54:00:00:00:aa", "fe80::5054:ff:fe00:aa"), ("00:00:5e:00:53:01", "fe80::200:5eff:fe00:5301")],
)
def test_link_local_address_follows_from_the_mac(mac: str, address: str) -> None:
    assert link_local_address(mac) == address


PORTS = st.one_of(
    st.integers(1, 65535).map(str),
    st.tuples(st.integers(1, 65535), st.integers(1, 65535)).map(lambda pair: f"{min(pair)}-{max(pair)}"),
)
NETWORKS = st.one_of(
    st.tuples(st.ip_addresses(v=4), st.integers(0, 32)),
    st.tuples(st.ip_addresses(v=6), st.integers(0, 128)),
).map(lambda pair: network(*pair))


def network(address: Any, length: int) -> str:
    return str(ipaddress.ip_network((address, length), strict=False))


@st.composite
def firewall_rules(draw: st.DrawFn) -> dict[str, Any]:
    entry = KINDS["firewall_rule"].options()
    protocol = draw(
        st.sampled_from(["any", "tcp", "udp", "icmp", "icmpv6", "igmp", "vrrp", "esp", "ah", "gre", "sctp"])
    )
    fields: dict[str, Any] = {
        "name": draw(st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S"]), min_size=1, max_size=100)),
        "direction": draw(st.sampled_from(["inbound", "outbound", "forward"])),
        "action": draw(st.sampled_from(["allow", "deny", "reject"])),
        "sources": draw(st.lists(NETWORKS, max_size=6, unique=True)),
        "destinations": draw(st.lists(NETWORKS, max_size=6, unique=True)),
        "interfaces": draw(st.lists(st.from_regex(r"[a-z][a-z0-9.-]{0,14}", fullmatch=True), max_size=3, unique=True)),
        "position": draw(st.integers(1, 65535)),
        "log": draw(st.booleans()),
    }
    if draw(st.booleans()):
        fields["rate_limit"] = {"rate": draw(st.integers(1, 1_000_000)), "burst": draw(st.integers(1, 65535))}
    if draw(st.booleans()):
        fields["service"] = draw(st.sampled_from(list(entry["service"].type.type.choices)))  # type: ignore[attr-defined]
    else:
        fields["protocol"] = protocol
        if protocol in ("tcp", "udp", "sctp"):
            fields["ports"] = draw(st.lists(PORTS, max_size=6, unique=True))
    return fields


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(firewall_rules(), max_size=5, unique_by=lambda fields: fields["name"]))
def test_kernel_takes_every_rule_and_can_be_brought_back_to_what_it_showed(documents: list[dict[str, Any]]) -> None:
    items = []
    for fields in documents:
        problems: list[Any] = []
        item = FirewallRule.read(fields, SchemaPath("firewall_rule"), problems)
        if problems or item is None or item.complete(None).problems_when_complete():
            continue
        items.append(item.complete(None))
    shown = nftables.preview(firewall_commands(firewall(log_denied=True), items), [HOST_TABLE])[HOST_TABLE]
    assert shown is not None
    again = nftables.preview(nftables.as_commands(*HOST_TABLE, shown), [HOST_TABLE])[HOST_TABLE]
    assert without_sets_of_one(again) == without_sets_of_one(shown)


def without_sets_of_one(value: Any) -> Any:
    """A set of one element, such as two networks that the kernel has joined, comes back as the element."""
    if isinstance(value, dict):
        members = value.get("set")
        if isinstance(members, list) and len(members) == 1:
            return without_sets_of_one(members[0])
        return {name: without_sets_of_one(inner) for name, inner in value.items()}
    return [without_sets_of_one(inner) for inner in value] if isinstance(value, list) else value
