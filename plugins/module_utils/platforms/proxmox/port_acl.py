# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Filters on the adapters of VMs: PVE's firewall of a VM (PVE::API2::Firewall::VM), of which the rules are each adapter's own.

Options of PVE hold for the whole VM: whether its adapters may send from other MAC addresses, and whether it may
announce itself as a router. What the model says of one adapter is a rule for that adapter where that can be, and
refused where two adapters of a VM would have to differ and cannot. The addresses that an adapter may use are an IP
set `ipfilter-netN`.
"""

from __future__ import annotations

import ipaddress
from typing import Any, Collection, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple

from ...engine.change import Change
from ...engine.platform import Context, Interface
from ...errors import Problem, ReadError
from ...model.document import State
from ...model.firewall import FirewallRule, PortAcl, PortAclRule
from ...model.schema import ModelObject, shown_as
from ...model.types import show
from ...transports.proxmox import Read
from .firewall import parts_of
from .guests import Guest
from .property_strings import join_nic
from .rule_list import Rule, RuleList, are_as_wanted, facts_of

DHCP_SERVER = (("udp", "67"), ("udp", "547"))
"""What answers of a DHCP and of a DHCPv6 server come from (RFC 2131, RFC 8415)."""

ROUTER = ("router-advertisement", "redirect")
EVERYTHING = {4: ("0.0.0.0/1", "128.0.0.0/1"), 6: ("::/1", "8000::/1")}
"""All addresses: an IP set takes no prefix of length 0, and whatever is not in it is dropped."""


class ProxmoxPortAcls(Interface):
    """Reads and changes the filters of adapters."""

    KINDS = ("port_acl",)
    CAPABILITIES = frozenset(
        {
            "port_acl",
            "port_acl.mac_spoofing",
            "port_acl.allowed_ipv4",
            "port_acl.allowed_ipv6",
            "port_acl.dhcp_guard",
            "port_acl.router_guard",
            "port_acl.rules",
        }
    )
    IN_ORDER = True

    def __init__(self, platform: Any) -> None:
        self.platform = platform

    def _path(self, guest: Guest, *more: Any) -> Tuple[Any, ...]:
        return ("nodes", self.platform.session.node, "qemu", guest.vmid, "firewall", *more)

    # -- reading -------------------------------------------------------------------------------------------------------

    def read(self, kinds: Collection[str], names: Mapping[str, Collection[str]]) -> State:
        session = self.platform.session
        guests = [
            guest
            for guest in self.platform.guests()
            if not guest.template and any(parts.get("firewall") == "1" for _key, _name, parts in guest.nics())
        ]
        reads = [Read(self._path(guest, what)) for guest in guests for what in ("rules", "options")]
        answers = iter(session.get_many(reads))
        found: Dict[Any, ModelObject] = {}
        for guest in guests:
            rules = sorted(next(answers), key=lambda rule: int(rule["pos"]))
            options = next(answers)
            for key, name, _parts in guest.nics():
                own = [rule for rule in rules if (facts_of(rule) or {}).get("acl") == name]
                if own:
                    acl = self._describe(guest, key, name, own, options)
                    found[acl.key] = acl
        return {"port_acl": found}

    def _describe(
        self, guest: Guest, key: str, name: str, rules: Sequence[Mapping[str, Any]], options: Mapping[str, Any]
    ) -> PortAcl:
        facts = [facts_of(rule) or {} for rule in rules]
        parts = [str(fact.get("part")) for fact in facts]
        last = dict(zip(parts, rules))
        addresses: List[str] = []
        if any(fact.get("addresses") for fact in facts):
            entries = self.platform.session.ask("GET", self._path(guest, "ipset", f"ipfilter-{key}"), {}).data
            addresses = [str(entry["cidr"]) for entry in entries]
        acl = PortAcl(
            vm=guest.name,
            nic=name,
            mac_spoofing=str(options.get("macfilter", 1)) == "0",
            allowed_ipv4=_allowed(addresses, 4),
            allowed_ipv6=_allowed(addresses, 6),
            dhcp_guard="dhcp" in parts,
            router_guard="router" in parts,
            default_inbound=_word(last.get("in")),
            default_outbound=_word(last.get("out")),
            rules=tuple(_rules_in(rules)),
        )
        whole = are_as_wanted(rules, _parts(acl, key)) and str(options.get("enable", 0)) == "1"
        return acl if whole else shown_as(acl, default_inbound=None)

    # -- objections ----------------------------------------------------------------------------------------------------

    def validate(self, change: Change, context: Context) -> Iterable[Problem]:
        acl = change.after
        if not isinstance(acl, PortAcl):
            return
        for other in context.wanted.get("port_acl", {}).values():
            if isinstance(other, PortAcl) and other.vm == acl.vm and other.nic != acl.nic:
                if other.mac_spoofing != acl.mac_spoofing:
                    yield Problem(
                        acl.place.field("mac_spoofing").text,
                        f"is {show(acl.mac_spoofing)}, and that of {other.place.text} is {show(other.mac_spoofing)}; Proxmox VE"
                        " has it for a VM as a whole",
                    )
        for rule in acl.rules or ():
            if rule.protocol in ("vrrp", "esp", "ah", "gre", "igmp") and rule.ports:
                yield Problem(
                    acl.place.field("rules").item(rule.label).field("ports").text, "go with tcp, udp and sctp only"
                )

    # -- changing ------------------------------------------------------------------------------------------------------

    def apply(self, changes: Sequence[Change], context: Context) -> None:
        by_vm: Dict[str, List[Change]] = {}
        for change in changes:
            by_vm.setdefault(str(change.key[0]), []).append(change)
        for vm, own in by_vm.items():
            for change in own:
                context.begin(change)
            self._change(vm, own, context)
            for change in own:
                context.done(change)
        self.platform.forget_guests()

    def _change(self, vm: str, changes: Sequence[Change], context: Context) -> None:
        guest = next((each for each in self.platform.guests() if each.name == vm and not each.template), None)
        if guest is None:
            raise ReadError(f"VM {show(vm)} is not there any more")
        keys = {name: key for key, name, _parts in guest.nics()}
        acls = {
            str(item.nic): item
            for item in context.wanted.get("port_acl", {}).values()
            if isinstance(item, PortAcl) and item.vm == vm and item.nic in keys
        }
        session = self.platform.session
        rules = RuleList(session, self._path(guest, "rules"))
        rules.read()
        for change in changes:
            key = keys.get(str(change.key[1]))
            if key is not None:
                self._set_addresses(guest, key, change.after if isinstance(change.after, PortAcl) else None)
        rules.sync([part for name, acl in sorted(acls.items()) for part in _parts(acl, keys[name])], ["acl"])
        options: Dict[str, Any] = {
            "enable": 1,
            "policy_in": "ACCEPT",
            "policy_out": "ACCEPT",
            "macfilter": int(not any(acl.mac_spoofing for acl in acls.values())),
            "radv": int(any(not acl.router_guard for acl in acls.values())),
        }
        if not acls:
            # Without a filter of ours the VM is as it was; rules of others keep it on.
            options = {"enable": int(bool(rules.rules)), "macfilter": 1, "radv": 0}
        session.ask("PUT", self._path(guest, "options"), options)
        config: Dict[str, Any] = {}
        for key, name, parts in guest.nics():
            wanted = "1" if name in acls else parts.get("firewall")
            if any(str(change.key[1]) == name and change.after is None for change in changes):
                wanted = None
            if parts.get("firewall") != wanted:
                config[key] = join_nic(
                    {**{part: value for part, value in parts.items() if part != "firewall"}, **_on(wanted)}
                )
        if config:
            session.ask("PUT", ("nodes", session.node, "qemu", guest.vmid, "config"), config)

    def _set_addresses(self, guest: Guest, key: str, acl: Optional[PortAcl]) -> None:
        session = self.platform.session
        name = f"ipfilter-{key}"
        sets = {str(entry["name"]) for entry in session.ask("GET", self._path(guest, "ipset"), {}).data}
        wanted = set(_entries(acl)) if acl is not None else set()
        if not wanted:
            if name in sets:
                session.ask("DELETE", self._path(guest, "ipset", name), {"force": 1})
            return
        present: set[str] = set()
        if name in sets:
            present = {str(entry["cidr"]) for entry in session.ask("GET", self._path(guest, "ipset", name), {}).data}
        else:
            session.ask("POST", self._path(guest, "ipset"), {"name": name})
        for cidr in sorted(wanted - present):
            session.ask("POST", self._path(guest, "ipset", name), {"cidr": cidr})
        for cidr in sorted(present - wanted):
            session.ask("DELETE", self._path(guest, "ipset", name, cidr), {})


def _on(firewall: Optional[str]) -> Dict[str, str]:
    return {"firewall": firewall} if firewall else {}


def _entries(acl: PortAcl) -> Iterator[str]:
    """Yield what an adapter may send from; none where it may send from everything."""
    if not acl.allowed_ipv4 and not acl.allowed_ipv6:
        return
    yield from acl.allowed_ipv4 or EVERYTHING[4]
    yield from acl.allowed_ipv6 or EVERYTHING[6]
    if acl.allowed_ipv6:
        yield "fe80::/10"


def _allowed(entries: Sequence[str], version: int) -> Tuple[str, ...]:
    own = [entry for entry in entries if ipaddress.ip_network(entry).version == version]
    if set(own) == set(EVERYTHING[version]):
        return ()
    return tuple(sorted(entry.partition("/")[0] for entry in own if entry != "fe80::/10"))


def _word(rule: Optional[Mapping[str, Any]]) -> Optional[str]:
    if rule is None:
        return None
    return "allow" if rule.get("action") == "ACCEPT" else "deny"


def _parts(acl: PortAcl, key: str) -> Iterator[Rule]:
    """Yield PVE's rules of a filter in their order."""
    base = {"iface": key, "enable": 1}
    if acl.dhcp_guard:
        for protocol, port in DHCP_SERVER:
            yield Rule(
                {"acl": acl.nic, "part": "dhcp"},
                {**base, "type": "out", "action": "DROP", "proto": protocol, "sport": port},
            )
    if acl.router_guard:
        for word in ROUTER:
            content = {**base, "type": "out", "action": "DROP", "proto": "ipv6-icmp", "icmp-type": word}
            yield Rule({"acl": acl.nic, "part": "router"}, content)
    for rule in acl.rules or ():
        like = FirewallRule(
            name=rule.name,
            direction=rule.direction,
            action=rule.action,
            protocol=rule.protocol,
            ports=rule.ports,
            sources=rule.remotes if rule.direction == "inbound" else (),
            destinations=rule.remotes if rule.direction == "outbound" else (),
            enabled=True,
        )
        for part in parts_of(like):
            yield Rule({"acl": acl.nic, "part": "rule", "name": rule.name}, {**part.content, "iface": key})
    limited = bool(acl.allowed_ipv4 or acl.allowed_ipv6)
    for part_name, policy in (("in", acl.default_inbound), ("out", acl.default_outbound)):
        facts: Dict[str, Any] = {"acl": acl.nic, "part": part_name}
        if limited and part_name == "in":
            facts["addresses"] = True
        yield Rule(facts, {**base, "type": part_name, "action": "ACCEPT" if policy == "allow" else "DROP"})


def _rules_in(rules: Sequence[Mapping[str, Any]]) -> Iterator[PortAclRule]:
    groups: Dict[str, List[Mapping[str, Any]]] = {}
    for rule in rules:
        facts = facts_of(rule) or {}
        if facts.get("part") == "rule" and isinstance(facts.get("name"), str):
            groups.setdefault(facts["name"], []).append(rule)
    for name, group in groups.items():
        first = group[0]
        inbound = first.get("type") == "in"
        remote = "source" if inbound else "dest"
        remotes = {address for rule in group for address in str(rule.get(remote) or "").split(",") if address}
        ports = {port.replace(":", "-") for rule in group for port in str(rule.get("dport") or "").split(",") if port}
        protocol = str(first.get("proto") or "any")
        yield PortAclRule(
            name=name,
            direction="inbound" if inbound else "outbound",
            action="allow" if first.get("action") == "ACCEPT" else "deny",
            protocol={"ipv6-icmp": "icmpv6"}.get(protocol, protocol),
            ports=tuple(sorted(ports)),
            remotes=tuple(sorted(remotes)),
        )
