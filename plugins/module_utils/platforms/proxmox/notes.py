# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What of the model Proxmox VE has no field for: kept in the descriptions and comments of its own objects.

A VM's description ends with a comment of HTML, which the web interface does not show; an interface's comment has a
line for each fact. Both hold JSON, and all else in them belongs to whoever wrote it.
"""

from __future__ import annotations

import json
import re
from typing import Any, Dict, List, Mapping, Optional, Tuple

DESCRIPTION = re.compile(r"(?:\A|\n\n)<!-- bareforge (\{[^\n]*\}) -->\s*\Z")
LINE = re.compile(r"bareforge-([a-z]+) (.*)")


def split_description(text: Any) -> Tuple[Optional[str], Dict[str, Any]]:
    """Return what the user wrote, or None, and our facts; none where there are none or somebody has broken them."""
    whole = str(text or "")
    found = DESCRIPTION.search(whole)
    if not found:
        # PVE ends a description with a line break of its own.
        return (whole.rstrip("\n") or None), {}
    try:
        facts = json.loads(found.group(1))
    except ValueError:
        facts = {}
    return (whole[: found.start()] or None), facts if isinstance(facts, dict) else {}


def join_description(text: Optional[str], facts: Mapping[str, Any]) -> str:
    """Return a description with our facts at its end."""
    kept = {name: value for name, value in facts.items() if value not in (None, {}, [])}
    if not kept:
        return text or ""
    written = json.dumps(kept, sort_keys=True, separators=(",", ":")).replace("--", "-\\u002d")
    comment = f"<!-- bareforge {written} -->"
    return f"{text}\n\n{comment}" if text else comment


def is_free_of_notes(text: Optional[str]) -> bool:
    """Return whether a user's text cannot be taken for our facts."""
    return not DESCRIPTION.search(text or "")


class Comments:
    """The comment of an interface of the node: our facts by kind, and the lines of others.

    facts: (kind, value) in their order. others: all other lines.
    """

    def __init__(self, text: Any = "") -> None:
        self.facts: List[Tuple[str, Any]] = []
        self.others: List[str] = []
        for line in str(text or "").splitlines():
            found = LINE.fullmatch(line.strip())
            value: Any = None
            if found:
                try:
                    value = json.loads(found.group(2))
                except ValueError:
                    found = None
            if found:
                self.facts.append((found.group(1), value))
            elif line.strip():
                self.others.append(line)

    def all(self, kind: str) -> List[Any]:
        """Return the facts of a kind."""
        return [value for name, value in self.facts if name == kind]

    def first(self, kind: str) -> Any:
        """Return the first fact of a kind, or None."""
        return next(iter(self.all(kind)), None)

    def replace(self, kind: str, values: List[Any]) -> None:
        """Put facts in place of all of their kind."""
        self.facts = [fact for fact in self.facts if fact[0] != kind] + [(kind, value) for value in values]

    def text(self) -> str:
        """Return the whole comment."""
        lines = list(self.others)
        for kind, value in self.facts:
            lines.append(f"bareforge-{kind} {json.dumps(value, sort_keys=True, separators=(',', ':'))}")
        return "\n".join(lines)
