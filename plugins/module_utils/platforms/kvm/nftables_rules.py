# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The model's firewall and port ACLs in the words of nftables (libnftables-json(5)).

Nothing here touches the host: objects of the model come in, JSON commands go out.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from dataclasses import dataclass
from typing import Any, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

from ...model.firewall import SERVICES, Firewall, FirewallRule, PortAcl, PortAclRule
from ...model.network import Nat, PortForward, VirtualSwitch
from ...model.types import range_bounds
from ...transports.nftables import Command, replace_table

Expression = Dict[str, Any]

HOST_TABLE = ("inet", "bareforge")
PORT_TABLE = ("netdev", "bareforge")
ROUTING_TABLE = ("inet", "bareforge_routing")

# The bit in a packet's mark by which the routing table tells the firewall what it needs. A verdict to accept would not
# do: it ends the one table only, and the firewall's own default would drop the packet.
NEEDED_MARK = 0x02000000

# What the platform is managed through where the user names no ports: SSH.
MANAGEMENT_PORTS: Tuple[str, ...] = ("22",)

CHAINS = {"inbound": "input", "outbound": "output", "forward": "forward"}

# Numbers of the IANA registry, since names would be looked up in the host's /etc/protocols, which may be missing.
PROTOCOL_NUMBERS = {
    "icmp": 1,
    "igmp": 2,
    "tcp": 6,
    "udp": 17,
    "gre": 47,
    "esp": 50,
    "ah": 51,
    "icmpv6": 58,
    "vrrp": 112,
    "sctp": 132,
}
_FAMILY_OF_PROTOCOL = {"icmp": 4, "igmp": 4, "icmpv6": 6}

# The kernel keeps 128 bytes of a comment with its end, and of a log prefix.
_COMMENT_BYTES = 120
_LOG_PREFIX_BYTES = 100


def rule_digest(name: str) -> str:
    """Return what tells the rules made from one rule of the model from all others, 12 hexadecimal digits."""
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def rule_comment(name: str) -> str:
    """Return the comment that says which rule of the model a rule of the kernel was made from.

    The digest is the identity; the name behind it is for people. nft writes comments between quotes and escapes
    nothing, so that a quote in a name would keep others from loading what `nft list` printed.
    """
    return f"rule {rule_digest(name)} {_printable(name)}"[:_COMMENT_BYTES].rstrip()


def digest_of_comment(comment: Optional[str]) -> Optional[str]:
    """Return the digest in a comment made by :func:`rule_comment`, or None for another comment."""
    match = re.match(r"rule ([0-9a-f]{12})( |$)", comment or "")
    return match.group(1) if match else None


def rule_chain(name: str) -> str:
    """Return the name of the chain that holds the verdict of a rule that takes several rules of the kernel."""
    return f"rule_{rule_digest(name)}"


def _printable(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9 ._:/+-]", "_", text)


def ordered(rules: Iterable[FirewallRule]) -> List[FirewallRule]:
    """Return the rules in the order in which the kernel asks them."""
    return sorted(rules, key=lambda rule: (rule.position or 0, rule.name or ""))


# -- Matches ---------------------------------------------------------------------------------------------------------


def _match(left: Expression, right: Any, operator: str = "==") -> Expression:
    return {"match": {"op": operator, "left": left, "right": right}}


def _meta(key: str) -> Expression:
    return {"meta": {"key": key}}


def _field(protocol: str, field: str) -> Expression:
    return {"payload": {"protocol": protocol, "field": field}}


def _one_of(values: Sequence[Any]) -> Any:
    return values[0] if len(values) == 1 else {"set": list(values)}


def _ports(ports: Sequence[str]) -> Any:
    spans = [range_bounds(port) for port in ports]
    return _one_of([first if first == last else {"range": [first, last]} for first, last in _merged(spans)])


def _merged(spans: Iterable[Tuple[int, int]]) -> List[Tuple[int, int]]:
    # An anonymous set refuses intervals that overlap.
    result: List[Tuple[int, int]] = []
    for first, last in sorted(spans):
        if result and first <= result[-1][1] + 1:
            result[-1] = (result[-1][0], max(last, result[-1][1]))
        else:
            result.append((first, last))
    return result


def _networks(networks: Iterable[str], version: int) -> List[Any]:
    parsed = [ipaddress.ip_network(network) for network in networks]
    own = ipaddress.collapse_addresses(network for network in parsed if network.version == version)  # type: ignore[type-var]
    return [
        str(network.network_address)
        if network.prefixlen == network.max_prefixlen
        else {"prefix": {"addr": str(network.network_address), "len": network.prefixlen}}
        for network in own
    ]


def _address_match(version: int, field: str, networks: Sequence[str], operator: str = "==") -> Expression:
    return _match(_field("ip" if version == 4 else "ip6", field), _one_of(_networks(networks, version)), operator)


def _protocol_match(protocol: str, ports: Sequence[str]) -> List[Expression]:
    if protocol == "any":
        return []
    if ports:
        return [_match(_field(protocol, "dport"), _ports(ports))]
    return [_match(_meta("l4proto"), PROTOCOL_NUMBERS[protocol])]


def _address_matches(
    sources: Sequence[str], destinations: Sequence[str], protocol: str, family: str
) -> Iterator[List[Expression]]:
    """Yield, for each IP version that can match, the matches on addresses.

    family: the meta key that tells the IP version where no address does: `nfproto`, or `protocol` in family netdev.
    """
    only = _FAMILY_OF_PROTOCOL.get(protocol)
    if not sources and not destinations:
        names = {"nfproto": {4: "ipv4", 6: "ipv6"}, "protocol": {4: "ip", 6: "ip6"}}[family]
        yield [_match(_meta(family), names[only])] if only else []
        return
    for version in (4, 6):
        matches: List[Expression] = []
        if only not in (None, version):
            continue
        for field, networks in (("saddr", sources), ("daddr", destinations)):
            if not networks:
                continue
            if not _networks(networks, version):
                break
            matches.append(_address_match(version, field, networks))
        else:
            yield matches


# -- The host's firewall ---------------------------------------------------------------------------------------------


def firewall_commands(firewall: Optional[Firewall], rules: Iterable[FirewallRule]) -> List[Command]:
    """Return the commands that replace the host's table by one for this policy and these rules, in one transaction.

    firewall: complete; None or one that is not enabled means that there shall be no table.
    rules: complete, in any order.
    """
    family, table = HOST_TABLE
    if firewall is None or not firewall.enabled:
        return replace_table(family, table, None)
    content: List[Command] = []
    own = {"family": family, "table": table}
    policies = {
        "input": firewall.default_inbound,
        "forward": firewall.default_forward,
        "output": firewall.default_outbound,
    }
    for chain, policy in policies.items():
        base = {"type": "filter", "hook": chain, "prio": 0, "policy": "drop" if policy == "deny" else "accept"}
        content.append({"add": {"chain": {**own, "name": chain, **base}}})

    def add(chain: str, comment: str, *expressions: Expression) -> None:
        content.append({"add": {"rule": {**own, "chain": chain, "comment": comment, "expr": list(expressions)}}})

    for chain, expressions, comment in _always(firewall):
        add(chain, comment, *expressions)
    for rule in ordered(rules):
        if not rule.enabled:
            continue
        _add_rule(rule, content, add)
    for chain, policy in policies.items():
        if policy != "deny":
            continue
        # Behind the rules of the user, who may deny guests what lies behind NAT.
        add(chain, "needed by NAT", _is_marked(), {"accept": None})
        if firewall.log_denied:
            limit = {"limit": {"rate": 10, "per": "second", "burst": 20}}
            add(chain, "log what is denied", limit, _log_to(f"bareforge denied {chain}: "))
        # The policy says the same, but the kernel sets that of a new chain only after it has let go of the old chain
        # (nf_tables_commit), and would let anything through in between. Rules change over in one moment.
        add(chain, "default", {"drop": None})
    return replace_table(family, table, content)


def _always(firewall: Firewall) -> Iterator[Tuple[str, List[Expression], str]]:
    """Yield (chain, expressions, comment) of the rules that stand before those of the user."""
    accept: Expression = {"accept": None}
    for chain in ("input", "output", "forward"):
        yield chain, [_match({"ct": {"key": "state"}}, ["established", "related"], "in"), accept], "established"
    yield "input", [_match(_meta("iifname"), "lo"), accept], "loopback"
    yield "output", [_match(_meta("oifname"), "lo"), accept], "loopback"
    for chain in ("input", "output"):
        yield from ((chain, [*matches, accept], comment) for matches, comment in _essential_icmp())
    # RFC 2131 and RFC 8415: the answers are no replies to connection tracking, since the question went to everyone.
    answers: Tuple[Tuple[int, int, int], ...] = ((4, 67, 68), (6, 547, 546))
    for version, server, client in answers:
        family = _match(_meta("nfproto"), "ipv4" if version == 4 else "ipv6")
        udp = [_match(_field("udp", "sport"), server), _match(_field("udp", "dport"), client)]
        yield "input", [family, *udp, accept], "DHCP client"
        udp = [_match(_field("udp", "sport"), client), _match(_field("udp", "dport"), server)]
        yield "output", [family, *udp, accept], "DHCP client"
    ports = _protocol_match("tcp", firewall.management_ports or MANAGEMENT_PORTS)
    for matches in _address_matches(firewall.management_sources or (), (), "tcp", "nfproto"):
        yield "input", [*matches, *ports, accept], "management"


def _essential_icmp() -> Iterator[Tuple[List[Expression], str]]:
    """Yield (matches, comment) of what IP does not work without (RFC 4890 section 4.4, RFC 1191)."""
    yield (
        [_match(_field("icmp", "type"), {"set": ["destination-unreachable", "time-exceeded", "parameter-problem"]})],
        "ICMP errors",
    )
    yield (
        [
            _match(
                _field("icmpv6", "type"),
                {"set": ["destination-unreachable", "packet-too-big", "time-exceeded", "parameter-problem"]},
            )
        ],
        "ICMPv6 errors",
    )
    # A router lowers the hop limit, so 255 shows that the sender is on the link (RFC 4861 section 11.2).
    discovery = ["nd-router-solicit", "nd-router-advert", "nd-neighbor-solicit", "nd-neighbor-advert"]
    yield (
        [_match(_field("icmpv6", "type"), {"set": discovery}), _match(_field("ip6", "hoplimit"), 255)],
        "neighbour discovery",
    )
    listeners = ["mld-listener-query", "mld-listener-report", "mld-listener-done", "mld2-listener-report"]
    yield (
        [
            _match(_field("ip6", "saddr"), {"set": [{"prefix": {"addr": "fe80::", "len": 10}}, "::"]}),
            _match(_field("icmpv6", "type"), {"set": listeners}),
        ],
        "multicast listeners",
    )


def _add_rule(rule: FirewallRule, content: List[Command], add: Any) -> None:
    name = rule.name or ""
    chain = CHAINS[rule.direction or "inbound"]
    comment = rule_comment(name)
    variants = list(_variants(rule))
    verdict = [*_limit(rule), *_log(rule), *_verdict(rule)]
    if rule.rate_limit is not None and len(variants) > 1:
        # Each limit of the kernel counts for itself, so the variants share the one in a chain of their own.
        family, table = HOST_TABLE
        content.append({"add": {"chain": {"family": family, "table": table, "name": rule_chain(name)}}})
        add(rule_chain(name), comment, *verdict)
        verdict = [{"jump": {"target": rule_chain(name)}}]
    for matches in variants:
        add(chain, comment, *matches, *verdict)


def _variants(rule: FirewallRule) -> Iterator[List[Expression]]:
    """Yield the matches of each rule of the kernel that it takes: one an IP version and protocol."""
    interface = "oifname" if rule.direction == "outbound" else "iifname"
    first = [_match(_meta(interface), _one_of(rule.interfaces))] if rule.interfaces else []
    kinds = SERVICES[rule.service] if rule.service else ((rule.protocol or "any", rule.ports or ()),)
    for protocol, ports in kinds:
        for addresses in _address_matches(rule.sources or (), rule.destinations or (), protocol, "nfproto"):
            yield [*first, *addresses, *_protocol_match(protocol, ports)]


def _limit(rule: FirewallRule) -> List[Expression]:
    if rule.rate_limit is None:
        return []
    limit = rule.rate_limit
    return [{"limit": {"rate": limit.rate, "per": limit.per, "burst": limit.burst}}]


def _log(rule: FirewallRule) -> List[Expression]:
    if not rule.log:
        return []
    return [_log_to(f"bareforge {_printable(rule.name or '')}"[:_LOG_PREFIX_BYTES] + ": ")]


def _log_to(prefix: str) -> Expression:
    # Not the default of warnings, which some hosts print on their console.
    return {"log": {"prefix": prefix, "level": "info"}}


def _verdict(rule: FirewallRule) -> List[Expression]:
    if rule.action == "reject":
        protocols = {protocol for protocol, _ports in SERVICES[rule.service]} if rule.service else {rule.protocol}
        # Clients give up at once on a reset; on an ICMP error many of them try again.
        return [{"reject": {"type": "tcp reset"}}] if protocols == {"tcp"} else [{"reject": None}]
    return [{"accept" if rule.action == "allow" else "drop": None}]


# -- Routing and NAT -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Routing:
    """What the host routes.

    nats: the switches of type nat, complete. routers: the interfaces between which it routes.
    closed: devices that were no part of any routing before we switched it on, and shall not become one by that.
    """

    nats: Tuple[VirtualSwitch, ...] = ()
    routers: Tuple[str, ...] = ()
    closed: Tuple[str, ...] = ()

    def is_empty(self) -> bool:
        """Return whether the host routes nothing for us."""
        return not self.nats and not self.routers

    def families(self) -> Tuple[int, ...]:
        """Return the IP versions that have to be forwarded."""
        if self.routers:
            return (4, 6)
        if not self.nats:
            return ()
        return (4, 6) if any(switch.nat and switch.nat.gateway6 for switch in self.nats) else (4,)


def routing_commands(routing: Routing) -> List[Command]:
    """Return the commands that replace the table of routing and NAT, in one transaction.

    The chains come before those of the firewall, let everything pass that is none of their business, and mark what NAT
    needs of the host and of forwarding.
    """
    family, table = ROUTING_TABLE
    if routing.is_empty():
        return replace_table(family, table, None)
    own = {"family": family, "table": table}
    content: List[Command] = []
    chains = [(hook, "filter", hook, -10) for hook in ("input", "forward", "output")]
    if routing.nats:
        chains += [("prerouting", "nat", "prerouting", -100), ("postrouting", "nat", "postrouting", 100)]
    for name, kind, hook, priority in chains:
        base = {"type": kind, "hook": hook, "prio": priority, "policy": "accept"}
        content.append({"add": {"chain": {**own, "name": name, **base}}})

    def add(chain: str, comment: str, *expressions: Expression) -> None:
        content.append({"add": {"rule": {**own, "chain": chain, "comment": comment, "expr": list(expressions)}}})

    for switch in routing.nats:
        if switch.nat is not None:
            _add_nat(str(switch.name), switch.nat, add)
    for expressions, comment in _forwarding(routing):
        add("forward", comment, *expressions)
    return replace_table(family, table, content)


def _add_nat(switch: str, nat: Nat, add: Any) -> None:
    inside, outside = _match(_meta("oifname"), switch), _match(_meta("oifname"), switch, "!=")
    if nat.dhcp is not None:
        ports = [_match(_field("udp", "sport"), 68), _match(_field("udp", "dport"), 67)]
        add("input", "DHCP server", _match(_meta("iifname"), switch), _match(_meta("nfproto"), "ipv4"), *ports, *_MARK)
        ports = [_match(_field("udp", "sport"), 67), _match(_field("udp", "dport"), 68)]
        add("output", "DHCP server", inside, _match(_meta("nfproto"), "ipv4"), *ports, *_MARK)
    for gateway in filter(None, (nat.gateway, nat.gateway6)):
        network = ipaddress.ip_interface(gateway).network
        source = _address_match(network.version, "saddr", [str(network)])
        add("postrouting", "NAT", source, outside, {"masquerade": None})
    local = _match({"fib": {"result": "type", "flags": ["daddr"]}}, "local")
    for forward in nat.port_forwards or ():
        version = ipaddress.ip_address(str(forward.to_address)).version
        start = [
            _match(_meta("nfproto"), f"ipv{version}"),
            _match(_meta("iifname"), switch, "!="),
            local,
        ]
        for port, target in _targets(forward):
            change: Dict[str, Any] = {"family": "ip" if version == 4 else "ip6", "addr": forward.to_address}
            if target is not None:
                change["port"] = target
            match = _match(_field(str(forward.protocol), "dport"), port)
            add("prerouting", f"forward {forward.label}", *start, match, {"dnat": change})


def _targets(forward: PortForward) -> Iterator[Tuple[Any, Optional[int]]]:
    """Yield (port or range, target port or None where it stays the same)."""
    first, last = range_bounds(str(forward.port))
    if forward.to_port is None or forward.to_port == forward.port:
        yield _ports([str(forward.port)]), None
        return
    # A range of targets would be used in any order.
    offset = range_bounds(forward.to_port)[0] - first
    for port in range(first, last + 1):
        yield port, port + offset


def _forwarding(routing: Routing) -> Iterator[Tuple[List[Expression], str]]:
    """Yield (expressions, comment) of the rules about what is forwarded."""
    accept: Expression = {"accept": None}
    drop: Expression = {"drop": None}
    inner = [str(switch.name) for switch in routing.nats]
    yield [_match({"ct": {"key": "state"}}, ["established", "related"], "in"), accept], "established"
    if inner:
        names = _one_of(inner)
        forwarded = _match({"ct": {"key": "status"}}, "dnat", "in")
        yield [_match(_meta("oifname"), names), forwarded, *_MARK, accept], "port forwards"
        yield [_match(_meta("oifname"), names), drop], "nothing else reaches the guests"
        for switch in routing.nats:
            gateways = [switch.nat.gateway, switch.nat.gateway6] if switch.nat else []
            for gateway in filter(None, gateways):
                network = ipaddress.ip_interface(gateway).network
                source = _address_match(network.version, "saddr", [str(network)])
                yield [_match(_meta("iifname"), switch.name), source, *_MARK, accept], "NAT"
        # From another address than those of the network, which NAT would let out as it is.
        yield [_match(_meta("iifname"), names), drop], "nothing else leaves"
    closed, routers = list(routing.closed), list(routing.routers)
    if closed:
        # Without the switch of the kernel that turns forwarding on, which knows no devices of IPv6, none of this passed.
        both = _one_of(sorted({*closed, *routers}))
        yield [_match(_meta("iifname"), _one_of(closed)), _match(_meta("oifname"), both), drop], "not routed"
        if routers:
            matches = [_match(_meta("iifname"), _one_of(routers)), _match(_meta("oifname"), _one_of(closed))]
            yield [*matches, drop], "not routed"


def _is_marked() -> Expression:
    return _match({"&": [_meta("mark"), NEEDED_MARK]}, NEEDED_MARK)


_MARK: Tuple[Expression, ...] = (
    {"mangle": {"key": {"meta": {"key": "mark"}}, "value": {"|": [{"meta": {"key": "mark"}}, NEEDED_MARK]}}},
)


# -- The filters on the ports of virtual machines --------------------------------------------------------------------


def port_chains(device: str) -> Tuple[str, str]:
    """Return the names of the chains for what a VM sends and for what it is sent, by the name of its tap device."""
    return f"from_{device}", f"to_{device}"


def port_acl_commands(acl: PortAcl, mac: str, device: str) -> List[Command]:
    """Return the commands that put a port ACL in force, in one transaction, whatever is in force now.

    acl: complete. mac: the NIC's address. device: the tap device, which must exist when the commands are carried out.

    Frames with a VLAN tag are filtered like others: the kernel takes the tag off before the chains see the frame, both
    ways, and a second tag below it is refused.
    """
    family, table = PORT_TABLE
    own = {"family": family, "table": table}
    outgoing, incoming = port_chains(device)
    commands: List[Command] = [{"add": {"table": {"family": family, "name": table}}}]
    for chain, hook in ((outgoing, "ingress"), (incoming, "egress")):
        base = {"type": "filter", "hook": hook, "dev": device, "prio": 0, "policy": "accept"}
        commands.append({"add": {"chain": {**own, "name": chain, **base}}})
        commands.append({"flush": {"chain": {**own, "name": chain}}})
    rules = {outgoing: _from_vm(acl, mac), incoming: _to_vm(acl)}
    for chain, entries in rules.items():
        for comment, expressions in entries:
            rule = {**own, "chain": chain, "comment": comment, "expr": expressions}
            commands.append({"add": {"rule": rule}})
    return commands


def port_acl_removal(device: str) -> List[Command]:
    """Return the commands that put the ACL of a tap device out of force, whether there is one or not."""
    family, table = PORT_TABLE
    commands: List[Command] = [{"add": {"table": {"family": family, "name": table}}}]
    for name in port_chains(device):
        chain = {"chain": {"family": family, "table": table, "name": name}}
        commands.extend(({"add": chain}, {"flush": chain}, {"delete": chain}))
    return commands


def link_local_address(mac: str) -> str:
    """Return the IPv6 link-local address that follows from a MAC address (RFC 4291 appendix A)."""
    parts = [int(part, 16) for part in mac.split(":")]
    identifier = [parts[0] ^ 2, *parts[1:3], 0xFF, 0xFE, *parts[3:]]
    return str(ipaddress.IPv6Address(bytes([0xFE, 0x80, *[0] * 6, *identifier])))


Rule = Tuple[str, List[Expression]]

_DROP: Expression = {"drop": None}
_ACCEPT: Expression = {"accept": None}


def _from_vm(acl: PortAcl, mac: str) -> Iterator[Rule]:
    if not acl.mac_spoofing:
        yield "mac_spoofing", [_match(_field("ether", "saddr"), mac, "!="), _DROP]
        yield "mac_spoofing", [_match(_field("arp", "saddr ether"), mac, "!="), _DROP]
    if _limits_addresses(acl) or acl.dhcp_guard or acl.router_guard or acl.rules or acl.default_outbound == "deny":
        # The chains see below one tag only: a second one would carry anything past all that follows.
        yield "nested VLAN", [_match(_meta("protocol"), {"set": [0x8100, 0x88A8]}), _DROP]
    if acl.allowed_ipv4:
        yield from _only_ipv4(acl.allowed_ipv4)
    if acl.allowed_ipv6:
        yield from _only_ipv6((*acl.allowed_ipv6, link_local_address(mac)))
    if acl.dhcp_guard:
        for family, server, client in (("ip", 67, 68), ("ip6", 547, 546)):
            version = _match(_meta("protocol"), family)
            yield "dhcp_guard", [version, _match(_field("udp", "sport"), server), _DROP]
            yield "dhcp_guard", [version, _match(_field("udp", "dport"), client), _DROP]
    if acl.router_guard:
        yield "router_guard", [_match(_field("icmp", "type"), {"set": ["redirect", "router-advertisement"]}), _DROP]
        yield "router_guard", [_match(_field("icmpv6", "type"), {"set": ["nd-router-advert", "nd-redirect"]}), _DROP]
        # RFC 7113: extension headers behind a fragment header hide from the chains what the receiver will put together.
        yield "router_guard", [_match({"exthdr": {"name": "frag", "field": "nexthdr"}}, {"set": [0, 43, 60]}), _DROP]
    yield from _rules(acl, "outbound", ["nd-router-solicit", "nd-neighbor-solicit", "nd-neighbor-advert"])


def _to_vm(acl: PortAcl) -> Iterator[Rule]:
    discovery = ["nd-router-advert", "nd-redirect", "nd-neighbor-solicit", "nd-neighbor-advert"]
    yield from _rules(acl, "inbound", discovery)


def _limits_addresses(acl: PortAcl) -> bool:
    return bool(acl.allowed_ipv4 or acl.allowed_ipv6)


def _only_ipv4(addresses: Sequence[str]) -> Iterator[Rule]:
    # A probe asks from 0.0.0.0 whether an address is free (RFC 5227), and so does a DHCP client for one (RFC 2131).
    sender = _field("arp", "saddr ip")
    yield "allowed_ipv4", [_match(sender, {"set": [*addresses, "0.0.0.0"]}, "!="), _DROP]
    yield "allowed_ipv4", [_match(_field("ip", "saddr"), {"set": [*addresses, "0.0.0.0"]}, "!="), _DROP]
    unset = _match(_field("ip", "saddr"), "0.0.0.0")
    yield "allowed_ipv4", [unset, _match(_field("ip", "daddr"), "255.255.255.255", "!="), _DROP]
    yield "allowed_ipv4", [unset, _match(_meta("l4proto"), PROTOCOL_NUMBERS["udp"], "!="), _DROP]
    yield "allowed_ipv4", [unset, _match(_field("udp", "dport"), 67, "!="), _DROP]


def _only_ipv6(addresses: Sequence[str]) -> Iterator[Rule]:
    # A host without an address yet solicits and joins groups from :: (RFC 4862, RFC 3810).
    yield "allowed_ipv6", [_match(_field("ip6", "saddr"), {"set": [*addresses, "::"]}, "!="), _DROP]
    not_icmp = [_match(_field("ip6", "saddr"), "::"), _match(_meta("l4proto"), PROTOCOL_NUMBERS["icmpv6"], "!=")]
    yield "allowed_ipv6", [*not_icmp, _DROP]
    # nftables has no name for the target address before version 1.0.8; it starts 8 bytes into both messages.
    target = {"payload": {"base": "th", "offset": 64, "len": 128}}
    numbers = {"set": [hex(int(ipaddress.IPv6Address(address))) for address in addresses]}
    advertisement = _match(_field("icmpv6", "type"), "nd-neighbor-advert")
    yield "allowed_ipv6", [advertisement, _match(target, numbers, "!="), _DROP]
    # Asking from :: whether an address is free keeps its owner from using it.
    detection = [_match(_field("ip6", "saddr"), "::"), _match(_field("icmpv6", "type"), "nd-neighbor-solicit")]
    yield "allowed_ipv6", [*detection, _match(target, numbers, "!="), _DROP]


def _rules(acl: PortAcl, direction: str, discovery: Sequence[str]) -> Iterator[Rule]:
    default = acl.default_inbound if direction == "inbound" else acl.default_outbound
    own = [rule for rule in acl.rules or () if rule.direction == direction]
    if own or default == "deny":
        # Without these no rule that allows anything could ever match a packet.
        yield "address resolution", [_match(_meta("protocol"), "arp"), _ACCEPT]
        yield "address resolution", [_match(_field("icmpv6", "type"), {"set": list(discovery)}), _ACCEPT]
    for rule in own:
        for matches in _port_variants(rule):
            yield rule_comment(rule.name or ""), [*matches, _ACCEPT if rule.action == "allow" else _DROP]
    if default == "deny":
        yield f"default_{direction}", [_DROP]


def _port_variants(rule: PortAclRule) -> Iterator[List[Expression]]:
    remotes = rule.remotes or ()
    protocol = rule.protocol or "any"
    sources, destinations = (remotes, ()) if rule.direction == "inbound" else ((), remotes)
    for addresses in _address_matches(sources, destinations, protocol, "protocol"):
        yield [*addresses, *_protocol_match(protocol, rule.ports or ())]
