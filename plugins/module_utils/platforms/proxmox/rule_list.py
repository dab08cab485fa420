# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A list of firewall rules as Proxmox VE keeps one, in which ours have an identity and an order (PVE::API2::Firewall::Rules).

PVE tells rules by their place alone, and puts each new one before all others. Ours carry in their comment what they belong to; those
without such a comment are somebody else's, and keep their places behind ours.
"""

from __future__ import annotations

import json
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ...errors import ApplyError
from ...transports.proxmox import ProxmoxSession

MARK = "bareforge "
FIELDS = (
    "type",
    "action",
    "iface",
    "source",
    "dest",
    "proto",
    "sport",
    "dport",
    "icmp-type",
    "log",
    "enable",
    "comment",
)

Content = Dict[str, str]


class Rule(NamedTuple):
    """A rule that shall be there.

    facts: what it belongs to, which is its identity together with the number among those of the same facts.
    content: its fields.
    """

    facts: Mapping[str, Any]
    content: Mapping[str, Any]


def comment_of(facts: Mapping[str, Any]) -> str:
    """Return a rule's comment with what it belongs to."""
    return MARK + json.dumps(facts, sort_keys=True, separators=(",", ":"))


def facts_of(rule: Mapping[str, Any]) -> Optional[Dict[str, Any]]:
    """Return what a rule of ours belongs to, or None for one of somebody else's."""
    comment = str(rule.get("comment") or "")
    if not comment.startswith(MARK):
        return None
    try:
        facts = json.loads(comment[len(MARK) :])
    except ValueError:
        return None
    return facts if isinstance(facts, dict) else None


def content_of(rule: Mapping[str, Any]) -> Content:
    """Return the fields of a rule in one form, whether it was read or is to be written."""
    content = {name: str(rule[name]) for name in FIELDS if rule.get(name) not in (None, "")}
    content.setdefault("enable", "0")
    if content.get("log") == "nolog":
        del content["log"]
    return content


class RuleList:
    """The rules at one place of the API.

    path: the parts of its path, up to `rules`.
    """

    def __init__(self, session: ProxmoxSession, path: Sequence[Any]) -> None:
        self.session = session
        self.path = tuple(path)
        self.rules: List[Mapping[str, Any]] = []

    def read(self) -> List[Mapping[str, Any]]:
        """Read the rules in their order."""
        self.rules = sorted(self.session.ask("GET", self.path, {}).data, key=lambda rule: int(rule["pos"]))
        return self.rules

    @property
    def digest(self) -> Optional[str]:
        """What the list as a whole is protected by."""
        return str(self.rules[0]["digest"]) if self.rules and self.rules[0].get("digest") else None

    def sync(self, wanted: Sequence[Rule], kinds: Sequence[str]) -> None:
        """Bring those rules of ours that tell one of some kinds to what is wanted, in that order.

        kinds: the names of facts by which rules are ours to change here, such as `rule`.
        New rules come before old ones go, so that nothing is open or shut in between that is neither before nor after.
        Raises ApplyError where somebody else changes the list at the same time.
        """
        keyed = _keyed([(rule.facts, _with_comment(rule)) for rule in wanted])
        present = self._present(kinds)
        for key, content in reversed(list(keyed.items())):
            if key not in present:
                self.session.ask("POST", self.path, {**content, "digest": None})
        if any(key not in present for key in keyed):
            self.read()
            present = self._present(kinds)
        for key, content in keyed.items():
            position, old = present.get(key, (-1, {}))
            if position < 0:
                raise ApplyError("a firewall rule that was made is not there")
            if old != content:
                params = {name: value for name, value in content.items() if old.get(name) != value}
                missing = [name for name in old if name not in content]
                if missing:
                    params["delete"] = ",".join(missing)
                self._change("PUT", position, params)
        self._order(list(keyed), kinds)
        for key, (position, _old) in sorted(self._present(kinds).items(), key=lambda entry: -entry[1][0]):
            if key not in keyed:
                self._change("DELETE", position, {})

    def _present(self, kinds: Sequence[str]) -> Dict[Tuple[str, int], Tuple[int, Content]]:
        ours = [
            (facts, (position, content_of(rule)))
            for position, rule in enumerate(self.rules)
            for facts in [facts_of(rule)]
            if facts is not None and any(kind in facts for kind in kinds)
        ]
        return _keyed(ours)

    def _change(self, method: str, position: int, params: Mapping[str, Any]) -> None:
        self.session.ask(method, (*self.path, position), {**params, "digest": self.digest})
        self.read()

    def _order(self, keys: List[Tuple[str, int]], kinds: Sequence[str]) -> None:
        """Move rules until ours stand in their order; those of others stay where they are among each other."""
        for first, second in reversed(list(zip(keys, keys[1:]))):
            present = self._present(kinds)
            if present[first][0] > present[second][0]:
                self._change("PUT", present[first][0], {"moveto": present[second][0]})


def _with_comment(rule: Rule) -> Content:
    return content_of({**rule.content, "comment": comment_of(rule.facts)})


def _identity(facts: Mapping[str, Any]) -> str:
    return json.dumps(
        {name: facts[name] for name in ("management", "rule", "acl", "part", "name") if name in facts}, sort_keys=True
    )


def _keyed(entries: Sequence[Tuple[Mapping[str, Any], Any]]) -> Dict[Tuple[str, int], Any]:
    counts: Dict[str, int] = {}
    found: Dict[Tuple[str, int], Any] = {}
    for facts, value in entries:
        name = _identity(facts)
        found[name, counts.get(name, 0)] = value
        counts[name] = counts.get(name, 0) + 1
    return found
