# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The firewall of a node and of its cluster (PVE::API2::Firewall).

PVE has policies for the whole cluster, and rules for each node. One rule of the model is several of PVE's where it
speaks of both IP versions, of a service with several protocols, or of more ports and networks than one of them can
hold; their comments tell which. What management is always reachable from is the first of the node's rules.
"""

from __future__ import annotations

import ipaddress
import itertools
from typing import Any, Collection, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple

from ...engine.change import Change
from ...engine.platform import Context, Interface
from ...errors import Problem
from ...model.document import State
from ...model.firewall import SERVICES, Firewall, FirewallRule
from ...model.schema import shown_as
from ...model.types import range_bounds, show
from .rule_list import NUMBER, Rule, RuleList, are_as_wanted, content_of, facts_of

MANAGEMENT_PORTS = ("22", "8006")
"""SSH and the API with its web interface."""

TYPES = {"inbound": "in", "outbound": "out", "forward": "forward"}
ACTIONS = {"allow": "ACCEPT", "deny": "DROP", "reject": "REJECT"}
PROTOCOLS = {"icmpv6": "ipv6-icmp"}
LONGEST_LIST = 500
MOST_PORTS = 15
"""How long an address list may be, and how many numbers a port list may have, of which a range is two."""


class ProxmoxFirewall(Interface):
    """Reads and changes the firewall's policies and rules."""

    KINDS = ("firewall", "firewall_rule")
    CAPABILITIES = frozenset(
        {
            "firewall",
            "firewall.default_outbound",
            "firewall.default_forward",
            "firewall.log_denied",
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
        }
    )
    IN_ORDER = True

    def __init__(self, platform: Any) -> None:
        self.platform = platform
        self._rules: Optional[RuleList] = None
        self._cluster: Mapping[str, Any] = {}
        self._node: Mapping[str, Any] = {}

    def _path(self, *more: Any) -> Tuple[Any, ...]:
        return ("nodes", self.platform.session.node, "firewall", *more)

    # -- reading -------------------------------------------------------------------------------------------------------

    def read(self, kinds: Collection[str], names: Mapping[str, Collection[str]]) -> State:
        session = self.platform.session
        rules = self._rules = RuleList(session, self._path("rules"))
        rules.read()
        state: State = {kind: {} for kind in kinds}
        if "firewall" in state:
            self._cluster = session.get("cluster", "firewall", "options")
            self._node = session.ask("GET", self._path("options"), {}).data
            found = self._firewall(rules)
            state["firewall"] = {found.key: found}
        if "firewall_rule" in state:
            for rule in _rules_in(rules.rules):
                state["firewall_rule"].setdefault(rule.key, rule)
        return state

    def _firewall(self, rules: RuleList) -> Firewall:
        management = [rule for rule in rules.rules if "management" in (facts_of(rule) or {})]
        return Firewall(
            enabled=_is_on(self._cluster.get("enable")) and str(self._node.get("enable", 1)) != "0",
            default_inbound=_policy(self._cluster.get("policy_in") or "DROP"),
            default_outbound=_policy(self._cluster.get("policy_out") or "ACCEPT"),
            default_forward=_policy(self._cluster.get("policy_forward") or "ACCEPT"),
            management_sources=_sources(management) if management else None,
            management_ports=_ports(management, "dport") if management else None,
            log_denied=str(self._node.get("log_level_in") or "nolog") != "nolog",
        )

    # -- objections ----------------------------------------------------------------------------------------------------

    def validate(self, change: Change, context: Context) -> Iterable[Problem]:
        rule = change.after
        if not isinstance(rule, FirewallRule):
            return
        for name, message in _rule_problems(rule):
            yield Problem(rule.place.inner(name).text, message)

    def touches_management(self, change: Change, context: Context) -> bool:
        # What management is reachable from stands before all rules; only naming networks for it can go wrong.
        wanted = change.after
        if not isinstance(wanted, Firewall) or not wanted.enabled or not wanted.management_sources:
            return False
        return any(field in ("enabled", "management_sources", "management_ports") for field in change.fields)

    # -- changing ------------------------------------------------------------------------------------------------------

    def apply(self, changes: Sequence[Change], context: Context) -> None:
        for change in changes:
            context.begin(change)
        rules = self._rules
        if rules is None:
            rules = RuleList(self.platform.session, self._path("rules"))
            rules.read()
        policy = next((change for change in changes if isinstance(change.after, Firewall)), None)
        if policy is not None and isinstance(policy.after, Firewall) and policy.after.enabled:
            # The way in comes first, and what closes the others last.
            rules.sync(list(_management(policy.after)), ["management"])
        changed = {change.item.label: change.after for change in changes if change.kind == "firewall_rule"}
        if changed:
            present = {str(rule.name): rule for rule in _rules_in(rules.rules)}
            present.update({name: rule for name, rule in changed.items() if isinstance(rule, FirewallRule)})
            staying = [rule for name, rule in present.items() if name not in changed or changed[name] is not None]
            staying.sort(key=lambda rule: (rule.position or 0, str(rule.name)))
            wanted = [part for rule in staying for part in parts_of(rule)]
            if any("management" in (facts_of(rule) or {}) for rule in rules.rules):
                wanted = [*_kept_management(rules), *wanted]
            rules.sync(wanted, ["rule", "management"])
        if policy is not None and isinstance(policy.after, Firewall):
            self._set_options(policy.after, policy.fields)
        for change in changes:
            context.done(change)

    def _set_options(self, wanted: Firewall, fields: Collection[str]) -> None:
        session = self.platform.session
        cluster: Dict[str, Any] = {}
        node: Dict[str, Any] = {}
        for name, option in (("inbound", "in"), ("outbound", "out"), ("forward", "forward")):
            if f"default_{name}" in fields:
                cluster[f"policy_{option}"] = "ACCEPT" if getattr(wanted, f"default_{name}") == "allow" else "DROP"
        if "log_denied" in fields:
            node["log_level_in"] = "info" if wanted.log_denied else "nolog"
        if "enabled" in fields:
            node["enable"] = int(bool(wanted.enabled))
            if wanted.enabled and not _is_on(self._cluster.get("enable")):
                cluster["enable"] = 1
        if node:
            session.ask("PUT", self._path("options"), {**node, "digest": self._node.get("digest")})
        if cluster:
            digest = self._cluster.get("digest")
            session.ask("PUT", ("cluster", "firewall", "options"), {**cluster, "digest": digest})


def _is_on(value: Any) -> bool:
    return str(value or "0") != "0"


def _policy(word: Any) -> str:
    return "allow" if word == "ACCEPT" else "deny"


# -- rules ---------------------------------------------------------------------------------------------------------------


def _rule_problems(rule: FirewallRule) -> Iterator[Tuple[str, str]]:
    if rule.direction == "forward" and rule.action == "reject":
        yield "action", "'reject' cannot be had of traffic that is forwarded; allowed are allow and deny"
    for name in rule.interfaces or ():
        if len(name) > 20 or not name.replace(".", "").replace("_", "").isalnum() or not name[0].isalpha():
            yield (
                "interfaces",
                f"{show(name)} is no name of an interface; allowed are at most 20 letters, digits, _ and .",
            )
    if rule.description and len(rule.description) > 200:
        yield "description", "is longer than 200 characters"


def parts_of(rule: FirewallRule) -> Iterator[Rule]:
    """Yield the rules of PVE that a rule of the model is."""
    facts = {"rule": rule.name, "position": rule.position, "description": rule.description, "service": rule.service}
    kept = {name: value for name, value in facts.items() if value not in (None, "")}
    base = {
        "type": TYPES[str(rule.direction)],
        "action": ACTIONS[str(rule.action)],
        "enable": int(rule.enabled is not False),
        "log": "info" if rule.log else None,
    }
    services = (
        list(SERVICES[rule.service]) if rule.service else [(str(rule.protocol or "any"), tuple(rule.ports or ()))]
    )
    for protocol, ports in services:
        word = PROTOCOLS.get(protocol, protocol)
        version = {"icmp": 4, "igmp": 4, "icmpv6": 6}.get(protocol)
        for source, destination in _address_pairs(rule, version):
            for dport, sport, interface in itertools.product(
                _port_lists(ports), _port_lists(rule.source_ports or ()), rule.interfaces or (None,)
            ):
                content = {
                    **base,
                    "proto": None if word == "any" else word,
                    "source": source,
                    "dest": destination,
                    "dport": dport,
                    "sport": sport,
                    "iface": interface,
                }
                yield Rule(kept, content)


def _address_pairs(rule: FirewallRule, version: Optional[int]) -> Iterator[Tuple[Optional[str], Optional[str]]]:
    sources, destinations = tuple(rule.sources or ()), tuple(rule.destinations or ())
    if not sources and not destinations:
        yield None, None
        return
    for family in (4, 6):
        left = [network for network in sources if ipaddress.ip_network(network).version == family]
        right = [network for network in destinations if ipaddress.ip_network(network).version == family]
        if version not in (None, family) or (sources and not left) or (destinations and not right):
            continue
        yield from itertools.product(_address_lists(left), _address_lists(right))


def _address_lists(networks: Sequence[str]) -> List[Optional[str]]:
    lists: List[Optional[str]] = []
    for network in networks:
        if lists and len(f"{lists[-1]},{network}") <= LONGEST_LIST:
            lists[-1] = f"{lists[-1]},{network}"
        else:
            lists.append(network)
    return lists or [None]


def _port_lists(ports: Sequence[str]) -> List[Optional[str]]:
    lists: List[Optional[str]] = []
    count = 0
    for port in sorted(ports, key=range_bounds):
        size = 2 if "-" in port else 1
        text = port.replace("-", ":")
        if lists and count + size <= MOST_PORTS:
            lists[-1] = f"{lists[-1]},{text}"
            count += size
        else:
            lists.append(text)
            count = size
    return lists or [None]


def _rules_in(rules: Sequence[Mapping[str, Any]]) -> Iterator[FirewallRule]:
    """Yield the model's rules that are among PVE's."""
    groups: Dict[str, List[Mapping[str, Any]]] = {}
    for rule in rules:
        facts = facts_of(rule)
        if facts is not None and isinstance(facts.get("rule"), str):
            groups.setdefault(facts["rule"], []).append(rule)
    for name, group in groups.items():
        facts = facts_of(group[0]) or {}
        first = group[0]
        service = facts.get("service") if facts.get("service") in SERVICES else None
        words = {word: protocol for protocol, word in PROTOCOLS.items()}
        protocol = str(first.get("proto") or "any")
        found = FirewallRule(
            name=name,
            direction=next((word for word, kind in TYPES.items() if kind == first.get("type")), None),
            action=next((word for word, action in ACTIONS.items() if action == first.get("action")), None),
            service=service,
            protocol="any" if service else words.get(protocol, protocol),
            ports=() if service else _ports(group, "dport"),
            source_ports=_ports(group, "sport"),
            sources=_sources(group),
            destinations=_sources(group, "dest"),
            interfaces=tuple(sorted({str(rule["iface"]) for rule in group if rule.get("iface")})),
            position=int(facts.get("position") or 1000),
            log=str(first.get("log") or "nolog") != "nolog",
            enabled=_is_on(first.get("enable")),
            description=facts.get("description"),
        )
        yield found if _is_whole(found, group) else shown_as(found, direction=None)


def _is_whole(rule: FirewallRule, group: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether PVE's rules are those that the model's rule is: none is missing, doubled or changed by hand."""
    if rule.direction is None or rule.action is None:
        return False
    return are_as_wanted(group, parts_of(rule))


def _sources(group: Sequence[Mapping[str, Any]], field: str = "source") -> Tuple[str, ...]:
    found = {address for rule in group for address in str(rule.get(field) or "").split(",") if address}
    return tuple(sorted(found))


def _ports(group: Sequence[Mapping[str, Any]], field: str) -> Tuple[str, ...]:
    found = {port.replace(":", "-") for rule in group for port in str(rule.get(field) or "").split(",") if port}
    return tuple(sorted(found))


def _management(firewall: Firewall) -> Iterator[Rule]:
    rule = FirewallRule(
        name="management",
        direction="inbound",
        action="allow",
        protocol="tcp",
        ports=tuple(firewall.management_ports or MANAGEMENT_PORTS),
        sources=tuple(firewall.management_sources or ()),
    )
    for part in parts_of(rule):
        yield Rule({"management": True}, part.content)


def _kept_management(rules: RuleList) -> Iterator[Rule]:
    for rule in rules.rules:
        facts = facts_of(rule)
        if facts is not None and "management" in facts:
            yield Rule({name: value for name, value in facts.items() if name != NUMBER}, content_of(rule))
