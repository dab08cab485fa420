# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a rule expects of a setting: operators, whether a found value satisfies them, and the value that would.

A found value is a text, a list of texts, or None where the setting is absent. Texts that are whole numbers are compared
as numbers, so that ``1`` in a profile equals ``1`` in ``/proc``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple, Union

from ..errors import Problem
from ..model.schema import Path
from ..model.types import is_allowed_in_text, show

Found = Union[None, str, Tuple[str, ...]]
"""A found value."""

TEXT = "text"
LIST = "list"
MODE = "mode"
"""The types of found values: a text, a list of texts, permission bits as octal digits."""


class _Absent:
    """Stands for "shall not be there", where None would mean "nothing to write"."""

    def __repr__(self) -> str:
        return "absent"


ABSENT = _Absent()


class CannotChoose(Exception):
    """No value to write follows from what a rule expects."""


def as_number(text: Any) -> Optional[int]:
    """Return the number that a text is, or None where it is none."""
    return int(text) if isinstance(text, str) and re.fullmatch(r"-?[0-9]{1,18}", text) else None


def as_mode(text: Any) -> int:
    """Return the permission bits of octal digits. Raises ValueError where they are none."""
    if not isinstance(text, str) or not re.fullmatch(r"[0-7]{3,5}", text):
        raise ValueError(text)
    return int(text, 8)


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, tuple) or isinstance(right, tuple):
        return isinstance(left, tuple) and isinstance(right, tuple) and left == right
    first, second = as_number(left), as_number(right)
    if first is not None and second is not None:
        return first == second
    return bool(left == right)


def _number_test(test: Callable[[int, int], bool]) -> Callable[[Found, Any], bool]:
    def holds(found: Found, operand: Any) -> bool:
        left, right = as_number(found), as_number(operand)
        return left is not None and right is not None and test(left, right)

    return holds


_at_most_number = _number_test(lambda left, right: left <= right)


def _at_most(found: Found, operand: Any, kind: str) -> bool:
    if kind == MODE:
        try:
            return not as_mode(found) & ~as_mode(operand)
        except ValueError:
            return False
    return _at_most_number(found, operand)


def _members(found: Found) -> Tuple[str, ...]:
    return found if isinstance(found, tuple) else () if found is None else (found,)


@dataclass(frozen=True)
class Operator:
    """One way to compare.

    operand: ``value``, ``values``, ``number``, ``pattern`` or ``true``: what stands behind it in a profile.
    types: the types of found values that it can be used with.
    holds: called with found value, operand and type.
    words: how it is put into words; ``{}`` is the operand.
    """

    operand: str
    types: Tuple[str, ...]
    holds: Callable[[Found, Any, str], bool]
    words: str


OPERATORS: Dict[str, Operator] = {
    "equals": Operator("value", (TEXT, LIST, MODE), lambda found, operand, kind: _same(found, operand), "{}"),
    "not_equals": Operator(
        "value", (TEXT, LIST, MODE), lambda found, operand, kind: not _same(found, operand), "anything but {}"
    ),
    "one_of": Operator(
        "values", (TEXT, MODE), lambda found, operand, kind: any(_same(found, value) for value in operand), "one of {}"
    ),
    "at_least": Operator(
        "number",
        (TEXT,),
        lambda found, operand, kind: _number_test(lambda left, right: left >= right)(found, operand),
        "at least {}",
    ),
    "at_most": Operator("number", (TEXT, MODE), _at_most, "at most {}"),
    "contains": Operator(
        "values",
        (LIST,),
        lambda found, operand, kind: all(value in _members(found) for value in operand),
        "{} among them",
    ),
    "excludes": Operator(
        "values",
        (LIST,),
        lambda found, operand, kind: found is not None and not any(value in found for value in operand),
        "none of {}",
    ),
    "only": Operator(
        "values",
        (LIST,),
        lambda found, operand, kind: found is not None and all(value in operand for value in _members(found)),
        "nothing but {}",
    ),
    "matches": Operator(
        "pattern",
        (TEXT,),
        lambda found, operand, kind: isinstance(found, str) and re.fullmatch(operand, found) is not None,
        "text matching {}",
    ),
    "absent": Operator("true", (TEXT, LIST), lambda found, operand, kind: found is None, "absent"),
    "present": Operator("true", (TEXT, LIST), lambda found, operand, kind: found is not None, "present"),
}

Comparisons = Tuple[Tuple[str, Any], ...]


@dataclass(frozen=True)
class Expectation:
    """What is expected of a setting.

    parts: for every attribute of the setting (or for the one name '' where it has none) its comparisons, all of which
        must hold.
    """

    parts: Tuple[Tuple[str, Comparisons], ...]

    def words(self) -> str:
        """Return the expectation as it is shown to people."""
        texts = []
        for attribute, comparisons in self.parts:
            text = " and ".join(OPERATORS[name].words.format(show_found(operand)) for name, operand in comparisons)
            texts.append(f"{attribute}: {text}" if attribute else text)
        return "; ".join(texts)

    def satisfied(self, found: Mapping[str, Found], types: Mapping[str, str]) -> bool:
        """Return whether a setting satisfies it.

        found: the found value by attribute; types: the type of value by attribute.
        """
        return all(not unmet(comparisons, found.get(name), types[name]) for name, comparisons in self.parts)


def unmet(comparisons: Comparisons, found: Found, kind: str) -> List[str]:
    """Return the names of the comparisons that a found value does not satisfy."""
    return [name for name, operand in comparisons if not OPERATORS[name].holds(found, operand, kind)]


def show_found(value: Any) -> str:
    """Return a found value, or an operand, as it is shown to people: on one line, nothing invisible in it."""
    if value is None:
        return "absent"
    if value is True:
        return "true"
    if isinstance(value, tuple):
        return ", ".join(show_found(element) for element in value) if value else "nothing"
    text = "".join(
        character if is_allowed_in_text(character) else character.encode("unicode_escape").decode("ascii")
        for character in str(value)
    )
    return text if text else "empty"


def chosen(comparisons: Comparisons, found: Found, kind: str) -> Any:
    """Return the value to write where a found one does not satisfy the comparisons, or ABSENT.

    It stays as near to the found value as it can: only permission bits that are too many are taken away, only list
    entries that are not allowed are dropped.
    Raises CannotChoose where the operators leave it open.
    """
    operands = dict(comparisons)
    if "absent" in operands:
        return ABSENT
    if "equals" in operands:
        return operands["equals"]
    if "one_of" in operands:
        return operands["one_of"][0]
    if kind == MODE and "at_most" in operands:
        return format(as_mode(found) & as_mode(operands["at_most"]), "04o")
    if kind == LIST:
        return _chosen_list(operands, _members(found))
    number = as_number(found)
    low, high = as_number(operands.get("at_least")), as_number(operands.get("at_most"))
    if low is not None and (high is None or (number is not None and number < low)):
        return str(low)
    if high is not None:
        return str(high)
    raise CannotChoose


def _chosen_list(operands: Mapping[str, Any], found: Tuple[str, ...]) -> Tuple[str, ...]:
    if not operands.keys() & {"only", "excludes", "contains"}:
        raise CannotChoose
    kept = [value for value in found if value not in operands.get("excludes", ())]
    if "only" in operands:
        kept = [value for value in kept if value in operands["only"]]
        kept = kept or [value for value in operands["only"] if value not in operands.get("excludes", ())]
    kept.extend(value for value in operands.get("contains", ()) if value not in kept)
    if not kept:
        raise CannotChoose
    return tuple(kept)


def parse_value(value: Any) -> Union[str, Tuple[str, ...]]:
    """Return a value of a profile in the form of a found one.

    Raises ValueError with what is allowed.
    """
    if isinstance(value, (list, tuple)):
        return tuple(_parse_text(element) for element in value)
    return _parse_text(value)


def _parse_text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ValueError(
            f"{show(value)} is not allowed; allowed is a text or a whole number (put yes and no in quotes)"
        )
    text = str(value)
    if len(text) > 4096 or not all(is_allowed_in_text(character) for character in text):
        raise ValueError(f"{show(value)} is not allowed; allowed is one line of text without invisible characters")
    return text


def parse_expectation(
    value: Any, types: Mapping[str, str], path: Path, problems: List[Problem]
) -> Optional[Expectation]:
    """Read what a rule expects.

    types: the type of value by attribute of the setting; the one name '' for a setting without attributes.
    Appends to problems what is wrong.
    """
    before = len(problems)
    parts: List[Tuple[str, Comparisons]] = []
    if not isinstance(value, Mapping) or not value:
        known = ", ".join(types) if "" not in types else ", ".join(OPERATORS)
        problems.append(Problem(path.text, f"{show(value)} is not allowed; allowed is a mapping with {known}"))
        return None
    if "" in types:
        parts.append(("", _parse_comparisons(value, types[""], path, problems)))
    else:
        for name, inner in value.items():
            place = path.field(name)
            if name not in types:
                problems.append(Problem(place.text, f"unknown; allowed are {', '.join(types)}"))
            elif not isinstance(inner, Mapping) or not inner:
                problems.append(
                    Problem(place.text, f"{show(inner)} is not allowed; allowed is a mapping such as {{equals: root}}")
                )
            else:
                parts.append((str(name), _parse_comparisons(inner, types[name], place, problems)))
    return Expectation(tuple(parts)) if len(problems) == before else None


def _parse_comparisons(value: Mapping[Any, Any], kind: str, path: Path, problems: List[Problem]) -> Comparisons:
    comparisons: List[Tuple[str, Any]] = []
    known = [name for name, operator in OPERATORS.items() if kind in operator.types]
    for name, operand in value.items():
        place = path.field(name)
        if name not in known:
            problems.append(Problem(place.text, f"unknown for a {kind}; allowed are {', '.join(known)}"))
            continue
        try:
            comparisons.append((str(name), _parse_operand(operand, OPERATORS[name].operand, kind)))
        except ValueError as error:
            problems.append(Problem(place.text, str(error)))
    names = {name for name, _operand in comparisons}
    exclusive = names & {"equals", "one_of", "absent"}
    if exclusive and len(names) > 1:
        first = sorted(exclusive)[0]
        problems.append(Problem(path.field(first).text, "says all there is to expect; drop the others beside it"))
    return tuple(comparisons)


def _parse_operand(operand: Any, form: str, kind: str) -> Any:
    if form == "true":
        if operand is not True:
            raise ValueError(f"{show(operand)} is not allowed; allowed is true")
        return True
    if form == "values":
        if not isinstance(operand, (list, tuple)) or not operand:
            raise ValueError(f"{show(operand)} is not allowed; allowed is a list")
        values = tuple(_parse_text(element) for element in operand)
        if kind == MODE:
            for element in values:
                _check_mode(element)
        return values
    if kind == LIST and form == "value":
        if not isinstance(operand, (list, tuple)):
            raise ValueError(f"{show(operand)} is not allowed; allowed is a list")
        return tuple(_parse_text(element) for element in operand)
    text = _parse_text(operand)
    if kind == MODE:
        _check_mode(text)
    elif form == "number" and as_number(text) is None:
        raise ValueError(f"{show(operand)} is not allowed; allowed is a whole number")
    elif form == "pattern":
        try:
            re.compile(text)
        except re.error as error:
            raise ValueError(f"{show(operand)} is not a regular expression: {error}") from None
    return text


def _check_mode(text: str) -> None:
    try:
        as_mode(text)
    except ValueError:
        raise ValueError(f'{show(text)} is not allowed; allowed are octal digits in quotes, such as "0640"') from None
