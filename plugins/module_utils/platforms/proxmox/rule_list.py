# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A list of firewall rules as Proxmox VE keeps one, in which ours have an identity and an order (PVE::API2::Firewall::Rules).

PVE tells rules by their place alone, and puts each new one before all others. Ours carry in their comment what they
belong to; those without such a comment are somebody else's, and keep their places behind ours.
"""

from __future__ import annotations

import json
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Tuple

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

IDENTITY = ("management", "rule", "acl", "part", "name")
NUMBER = "n"
"""What of the facts tells a rule from others, and its number among those that are otherwise the same."""

Content = Dict[str, str]


class Rule(NamedTuple):
    """A rule that shall be there.

    facts: what it belongs to.
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
        keyed = dict(numbered(wanted))
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

    def _present(self, kinds: Sequence[str]) -> Dict[Key, Tuple[int, Content]]:
        found: Dict[Key, Tuple[int, Content]] = {}
        for position, rule in enumerate(self.rules):
            facts = facts_of(rule)
            if facts is None or not any(kind in facts for kind in kinds):
                continue
            name, number, copy = _identity(facts), int(facts.get(NUMBER) or 0), 0
            while (name, number, copy) in found:
                copy += 1
            found[name, number, copy] = (position, content_of(rule))
        return found

    def _change(self, method: str, position: int, params: Mapping[str, Any]) -> None:
        self.session.ask(method, (*self.path, position), {**params, "digest": self.digest})
        self.read()

    def _order(self, keys: List[Key], kinds: Sequence[str]) -> None:
        """Move rules until ours stand in their order; those of others stay where they are among each other."""
        for first, second in reversed(list(zip(keys, keys[1:]))):
            present = self._present(kinds)
            if present[first][0] > present[second][0]:
                self._change("PUT", present[first][0], {"moveto": present[second][0]})


Key = Tuple[str, int, int]


def numbered(wanted: Iterable[Rule]) -> List[Tuple[Key, Content]]:
    """Return the keys and contents of rules that shall be there: those of the same facts are numbered in their comments."""
    counts: Dict[str, int] = {}
    found: List[Tuple[Key, Content]] = []
    for rule in wanted:
        name = _identity(rule.facts)
        number = counts.get(name, 0)
        counts[name] = number + 1
        facts = {**rule.facts, NUMBER: number} if number else dict(rule.facts)
        found.append(((name, number, 0), content_of({**rule.content, "comment": comment_of(facts)})))
    return found


def are_as_wanted(rules: Sequence[Mapping[str, Any]], wanted: Iterable[Rule]) -> bool:
    """Return whether rules of PVE are those that shall be there, all of them, in their order."""
    return [content_of(rule) for rule in rules] == [content for _key, content in numbered(wanted)]


def _identity(facts: Mapping[str, Any]) -> str:
    return json.dumps({name: facts[name] for name in IDENTITY if name in facts}, sort_keys=True)
