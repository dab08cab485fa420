# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Text that matches a regular expression, made by walking Python's own parse of it."""

from __future__ import annotations

import re
from typing import Any, List

try:
    from re import _parser as parser  # type: ignore[attr-defined]
except ImportError:
    import sre_parse as parser

LONGEST_REPEAT = 6
"""How often what may repeat without limit is repeated at most beyond its least number."""


def matching_text(pattern: str, chooser: Any) -> str:
    """Return text that matches the whole of a regular expression.

    pattern: literals, sets, groups, branches and repeats; anything else raises TypeError.
    chooser: where choices come from, see support/generator.py.
    """
    text = "".join(_walk(parser.parse(pattern), chooser))
    if not re.fullmatch(pattern, text):
        raise AssertionError(f"{text!r} was made for {pattern!r} and does not match it")
    return text


def _walk(parsed: Any, chooser: Any) -> List[str]:
    result: List[str] = []
    for operation, argument in parsed:
        name = str(operation)
        if name == "LITERAL":
            result.append(chr(argument))
        elif name == "IN":
            result.append(chr(_one_of(argument, chooser)))
        elif name == "SUBPATTERN":
            result.extend(_walk(argument[-1], chooser))
        elif name == "BRANCH":
            result.extend(_walk(chooser.choice(argument[1]), chooser))
        elif name in ("MAX_REPEAT", "MIN_REPEAT"):
            least, most, inner = argument
            for _number in range(chooser.integer(least, min(int(most), least + LONGEST_REPEAT))):
                result.extend(_walk(inner, chooser))
        else:
            raise TypeError(f"{name} in a pattern: say here how text for it is made")
    return result


def _one_of(members: Any, chooser: Any) -> int:
    operation, argument = chooser.choice(list(members))
    if str(operation) == "LITERAL":
        return int(argument)
    if str(operation) == "RANGE":
        return int(chooser.integer(*argument))
    raise TypeError(f"{operation} in a set: say here how a character of it is chosen")
