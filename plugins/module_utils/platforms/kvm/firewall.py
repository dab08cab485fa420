# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The firewall of a KVM host: one table of nftables that is replaced as a whole.

What was asked is kept in one file, which is also what nft loads at boot. What is in force is read from the kernel. The
kernel comes first and the file second: if the process dies between them, the next run finds that the two differ and
makes the change again, and a host that is restarted instead comes back with the rules that it had.
"""

from __future__ import annotations

import json
import re
from typing import Any, Collection, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple

from ...engine.change import Change
from ...engine.platform import Context, Interface
from ...errors import Problem, ReadError, ValidateError
from ...model.document import State
from ...model.firewall import Firewall, FirewallRule
from ...model.schema import shown_as
from ...transports import nftables
from . import controller, systemd
from .host_files import read_json, write_json
from .nftables_rules import (
    HOST_TABLE,
    MANAGEMENT_PORTS,
    digest_of_comment,
    firewall_commands,
    rule_chain,
    rule_digest,
)

FIREWALL_FILE = "/etc/bareforge/firewall.json"
FIREWALL_UNIT = "bareforge-firewall.service"
FIREWALL_UNIT_TEXT = systemd.nftables_unit(
    "Firewall of the host, by Bareforge", FIREWALL_UNIT.partition(".")[0], FIREWALL_FILE
)

# IFNAMSIZ of the kernel less the end of the string; nft takes * at the end as a wildcard.
_INTERFACE_NAME = re.compile(r"[!-)+-.0-~]{1,15}")

Asked = Tuple[Optional[Firewall], Dict[str, FirewallRule]]


class KvmFirewall(Interface):
    """Reads and changes the host's firewall and its rules."""

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
            "firewall_rule.destinations",
            "firewall_rule.interfaces",
            "firewall_rule.log",
            "firewall_rule.rate_limit",
        }
    )

    def __init__(self, platform: Any) -> None:
        self.platform = platform

    # -- Reading ---------------------------------------------------------------------------------------------------

    def read(self, kinds: Collection[str], names: Mapping[str, Collection[str]]) -> State:
        firewall, rules = load_asked()
        state: State = {kind: {} for kind in kinds}
        if firewall is None and not rules:
            return state
        intact, intact_rules = _in_force(firewall, rules)
        if firewall is not None and "firewall" in state:
            state["firewall"][firewall.key] = firewall if intact else shown_as(firewall, enabled=None)
        if "firewall_rule" in state:
            for name, rule in rules.items():
                shown = rule if name in intact_rules else shown_as(rule, enabled=None)
                state["firewall_rule"][rule.key] = shown
        return state

    # -- Before a change -------------------------------------------------------------------------------------------

    def validate(self, change: Change, context: Context) -> Iterable[Problem]:
        item = change.after
        if isinstance(item, FirewallRule):
            for name in item.interfaces or ():
                if not _INTERFACE_NAME.fullmatch(name):
                    yield Problem(
                        item.place.field("interfaces").text,
                        f"{name!r} is not allowed; allowed is the name of a network interface, 1 to 15 characters "
                        "without blanks, '/' and '*'",
                    )
        firewall, rules = self._wanted(context)
        if isinstance(item, FirewallRule) and item.enabled and (firewall is None or not firewall.enabled):
            context.warn(f"{item.place.text} is kept and not in force, since the firewall is not enabled")
        yield from self._lockout(firewall, rules)

    @staticmethod
    def _lockout(firewall: Optional[Firewall], rules: Mapping[str, FirewallRule]) -> Iterator[Problem]:
        if firewall is None or not firewall.enabled:
            return
        connection = controller.controller_connection()
        if connection is None or controller.lets_in(firewall, rules.values(), connection):
            return
        ports = ", ".join(firewall.management_ports or MANAGEMENT_PORTS)
        sources = ", ".join(firewall.management_sources or ()) or "everywhere"
        yield Problem(
            "firewall",
            f"would lock the controller out: neither management (TCP ports {ports} from {sources}) nor a rule lets "
            f"it in, which comes from {connection.address} to port {connection.host_port} of {connection.host_address}",
        )

    def touches_management(self, change: Change, context: Context) -> bool:
        firewall, _rules = self._wanted(context)
        was: Optional[Firewall] = context.before.get("firewall", {}).get(()) or firewall  # type: ignore[assignment]
        if not any(item is not None and item.enabled is not False for item in (firewall, was)):
            return False
        if change.kind == "firewall":
            return True
        ports = (firewall.management_ports if firewall is not None else None) or MANAGEMENT_PORTS
        connection = controller.controller_connection()
        if connection is not None:
            ports = (*ports, str(connection.host_port))
        sides = (change.before, change.after)
        return any(isinstance(side, FirewallRule) and controller.reaches_ports(side, ports) for side in sides)

    @staticmethod
    def _wanted(context: Context) -> Asked:
        # A document that speaks of one of the two kinds only says nothing of the other, so that is not in the context.
        firewall, rules = load_asked()
        if "firewall" in context.wanted:
            firewall = context.wanted["firewall"].get(())  # type: ignore[assignment]
        if "firewall_rule" in context.wanted:
            rules = {
                str(item.name): item
                for item in context.wanted["firewall_rule"].values()
                if isinstance(item, FirewallRule)
            }
        return firewall, rules

    # -- Changing --------------------------------------------------------------------------------------------------

    def apply(self, changes: Sequence[Change], context: Context) -> None:
        firewall, rules = load_asked()
        for change in changes:
            context.begin(change)
            item = change.after
            if isinstance(item, Firewall):
                firewall = item
            elif isinstance(item, FirewallRule):
                rules[str(item.name)] = item
            else:
                rules.pop(str(change.key[0]), None)
        commands = firewall_commands(firewall, rules.values())
        nftables.run(commands)
        store_asked(firewall, rules, commands)
        systemd.install_unit(FIREWALL_UNIT, FIREWALL_UNIT_TEXT, systemd.NFTABLES_TARGET)
        for change in changes:
            context.done(change)


def load_asked() -> Asked:
    """Return what was last asked of the firewall: the policy, or None, and the rules by name. Raises ReadError."""
    data = read_json(FIREWALL_FILE)
    if data is None:
        return None, {}
    try:
        kept = data["bareforge"]
        firewall = None if kept["firewall"] is None else Firewall.parse(kept["firewall"])
        rules = [FirewallRule.parse(entry) for entry in kept["firewall_rules"]]
    except (KeyError, TypeError, ValidateError) as error:
        raise ReadError(
            f"{FIREWALL_FILE} is not what was written there: {error}", "Remove the file and run again"
        ) from error
    return firewall, {str(rule.name): rule for rule in rules}


def store_asked(
    firewall: Optional[Firewall], rules: Mapping[str, FirewallRule], commands: Sequence[nftables.Command]
) -> None:
    """Keep what was asked, and the commands that bring it back at boot. Raises ApplyError."""
    kept = {
        "firewall": None if firewall is None else firewall.to_document(),
        "firewall_rules": [rules[name].to_document() for name in sorted(rules)],
    }
    # nft reads the one key that it knows and leaves the other alone, so that both are in one file and never disagree.
    write_json(FIREWALL_FILE, {"bareforge": kept, **nftables.document(commands)})


Entries = Dict[str, List[str]]


def _in_force(firewall: Optional[Firewall], rules: Mapping[str, FirewallRule]) -> Tuple[bool, Collection[str]]:
    """Return whether the table is right apart from the rules of the model, and the names of those that are right."""
    commands = firewall_commands(firewall, rules.values())
    kept = read_json(FIREWALL_FILE) or {}
    lasting = kept.get("nftables") == commands and systemd.unit_is_installed(
        FIREWALL_UNIT, FIREWALL_UNIT_TEXT, systemd.NFTABLES_TARGET
    )
    shown = nftables.list_table(*HOST_TABLE)
    wanted = None
    if firewall is not None and firewall.enabled:
        wanted = nftables.preview(commands, [HOST_TABLE])[HOST_TABLE]
    digests = {rule_digest(name): name for name in rules}
    shown_rules, shown_frame = _split(shown, digests)
    wanted_rules, wanted_frame = _split(wanted, digests)
    intact = [digest for digest in digests if shown_rules.get(digest) == wanted_rules.get(digest)]
    whole = set(intact)
    # A rule that is missing or changed is its own fault; the order of the others and all else is the table's.
    same_frame = [entry for entry in shown_frame if entry not in digests or entry in whole] == [
        entry for entry in wanted_frame if entry not in digests or entry in whole
    ]
    return lasting and same_frame and (shown is None) == (wanted is None), {digests[digest] for digest in intact}


def _split(listing: Optional[Sequence[nftables.Command]], digests: Mapping[str, str]) -> Tuple[Entries, List[str]]:
    """Return the kernel's rules by the digest of the model's, and all of the table with the digests in their place."""
    rules: Entries = {}
    frame: List[str] = []
    chains = {rule_chain(name) for name in digests.values()}
    for entry in listing or ():
        text = json.dumps(entry, sort_keys=True)
        rule = entry.get("rule", {})
        digest = digest_of_comment(rule.get("comment"))
        if digest in digests:
            rules.setdefault(str(digest), []).append(text)
            frame.append(str(digest))
        elif entry.get("chain", {}).get("name") not in chains:
            frame.append(text)
    return rules, frame
