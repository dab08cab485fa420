# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Profiles: lists of rules, read from plain data and validated against what a platform can read and set.

The same schema serves every platform; what stands under `setting` depends on the platform's kinds of settings.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Type

from ..errors import Problem, ValidateError
from ..model.schema import FieldType, ModelObject, NestedList, Path, Plain, Value, Values, option
from ..model.types import Choice, Date, Integer, Pattern, Text, ValueType, show
from .expectation import ABSENT, CannotChoose, Expectation, Found, chosen, parse_expectation, parse_value, unmet
from .target import Condition, HardeningTarget, Setting, known_settings

SEVERITIES = ("critical", "high", "medium", "low")

IDENTIFIER = Pattern(
    r"[a-z0-9]+([._-][a-z0-9]+)*", "small letters and digits joined by single dots, dashes or underscores"
)
SOURCE = Pattern(
    r"[a-z0-9]+([.-][a-z0-9]+)*(:[A-Za-z0-9][A-Za-z0-9._-]*)?",
    "a catalogue in small letters and, after a colon, the id there, such as cis-debian12:5.1.20",
)
NEVER = "never"


class Mapped(FieldType):
    """A mapping whose fields depend on the platform; it is kept as it is until the platform is known."""

    def read(self, value: Any, path: Path, problems: List[Problem]) -> Any:
        if not isinstance(value, Mapping):
            problems.append(Problem(path.text, f"{show(value)} is not allowed; allowed is a mapping"))
            return None
        return value

    def argument(self) -> Plain:
        return {"type": "dict"}


class DateOrNever(ValueType):
    """A day, or the word never."""

    allowed = "a date such as 2027-01-31, or never"

    def parse(self, value: Any) -> str:
        try:
            return NEVER if value == NEVER else Date().parse(value)
        except ValueError:
            raise self.refuse(value) from None


@dataclass(frozen=True)
class RuleException(ModelObject):
    """A rule that is deliberately not followed."""

    rule: Optional[str] = option(Value(IDENTIFIER), "The id of the rule.", required=True)
    reason: Optional[str] = option(
        Value(Text(minimum=10, maximum=1000)),
        "Why it is not followed, in words that an auditor accepts.",
        required=True,
    )
    expires: Optional[str] = option(
        Value(DateOrNever()),
        "The last day on which it counts. From the next day on the rule counts as failed again. The word C(never) is for"
        " conflicts with what a hypervisor is for; it stands in profiles only, together with the day of a review.",
        required=True,
    )
    reviewed: Optional[str] = option(Value(Date()), "The day on which somebody last judged it.")
    approved_by: Optional[str] = option(Value(Text(minimum=1, maximum=200)), "Who accepted it.")

    def check(self) -> Any:
        """Yield what is wrong between the fields."""
        if self.expires == NEVER and not self.reviewed:
            yield "reviewed", "must be given where an exception never expires"

    def has_expired(self, today: str) -> bool:
        """Return whether it has expired on a day (ISO 8601)."""
        return self.expires != NEVER and str(self.expires) < today


class RuleExceptions(NestedList):
    """A list of exceptions. One rule may have several; the first that has not expired counts."""

    def __init__(self) -> None:
        super().__init__(RuleException)

    def read(self, value: Any, path: Path, problems: List[Problem]) -> Any:
        """Return the exceptions; append to problems what is wrong with them."""
        if not isinstance(value, (list, tuple)):
            problems.append(Problem(path.text, f"{show(value)} is not allowed; allowed is a list"))
            return None
        items = [RuleException.read(element, path.item(number), problems) for number, element in enumerate(value)]
        return tuple(item for item in items if item is not None)


@dataclass(frozen=True)
class Rule(ModelObject):
    """One rule: what is read, what is expected, and how to set it and undo that."""

    KIND = "rule"

    id: Optional[str] = option(Value(IDENTIFIER), "What tells it from other rules.", key=True)
    title: Optional[str] = option(
        Value(Text(minimum=5, maximum=150)), "One sentence without a full stop.", required=True
    )
    severity: Optional[str] = option(Value(Choice(*SEVERITIES)), "How bad it is to break it.", required=True)
    rationale: Optional[str] = option(
        Value(Text(multiline=True, minimum=20, maximum=2000)),
        "What an attacker gains where it is broken.",
        required=True,
    )
    sources: Optional[Sequence[str]] = option(
        Values(SOURCE, ordered=True, minimum=1), "Catalogues that ask for it, with their ids.", required=True
    )
    tags: Optional[Sequence[str]] = option(Values(IDENTIFIER, minimum=1), "Words to select rules by.", required=True)
    setting: Optional[Mapping[str, Any]] = option(
        Mapped(), "What is read and set: its kind and what that kind needs to know.", required=True
    )
    expected: Optional[Mapping[str, Any]] = option(Mapped(), "What it shall be.", required=True)
    set: Optional[Mapping[str, Any]] = option(
        Mapped(), "What is written, where it does not follow from what is expected; or how people mend it by hand."
    )
    undo: Optional[str] = option(
        Value(Choice("restore", "keep")),
        "Whether reverting brings back what was before or leaves the setting as it is.",
        default="restore",
    )
    remedy: Optional[str] = option(
        Value(Text(multiline=True, minimum=5, maximum=1000)), "How to mend it by hand, where that needs saying."
    )
    applies_when: Optional[Mapping[str, Any]] = option(
        Mapped(), "Conditions that must all hold for the rule to apply; of a list of values one is enough."
    )
    order: Optional[int] = option(
        Value(Integer(0, 1000)), "Rules are enforced by this number, then in the order of the profile.", default=500
    )


@dataclass(frozen=True)
class Profile(ModelObject):
    """A list of rules for the hosts of one platform, with the exceptions that come with it."""

    KIND = "profile"

    name: Optional[str] = option(Value(IDENTIFIER), "What it is called.", required=True)
    version: Optional[str] = option(
        Value(Pattern(r"[0-9]+(\.[0-9]+)*([-+.][0-9A-Za-z.]+)?", "a version such as 1.0, in quotes")),
        "Its version.",
        required=True,
    )
    platform: Optional[str] = option(Value(IDENTIFIER), "The platform whose settings it reads.", required=True)
    title: Optional[str] = option(Value(Text(minimum=5, maximum=150)), "What it is, in a few words.", required=True)
    description: Optional[str] = option(
        Value(Text(multiline=True, maximum=4000)), "What it is for and what it leaves out."
    )
    rules: Optional[Sequence[Rule]] = option(NestedList(Rule), "Its rules.", required=True)
    exceptions: Optional[Sequence[RuleException]] = option(
        RuleExceptions(), "Rules that are deliberately not followed."
    )


@dataclass(frozen=True)
class Check:
    """A rule that was found valid for a platform.

    setting: what it reads. expectation: what that shall be. by_hand: how people mend it where enforcing does not.
    write: what is written by attribute, where the profile says so; None stands for what follows from the expectation.
    """

    rule: Rule
    setting: Setting
    expectation: Expectation
    conditions: Tuple[Condition, ...] = ()
    by_hand: Optional[str] = None
    write: Optional[Mapping[str, Any]] = None

    @property
    def id(self) -> str:
        """The rule's id."""
        return str(self.rule.id)

    @property
    def settable(self) -> bool:
        """Whether enforcing can set it."""
        return self.by_hand is None and self.setting.SETTABLE

    def remedy(self) -> str:
        """Return how to mend it by hand."""
        return self.by_hand or self.rule.remedy or self.setting.remedy(self.expectation.words())

    def values_to_write(self, found: Mapping[str, Found]) -> Dict[str, Any]:
        """Return what to write by attribute, for the attributes that are not as expected.

        Raises CannotChoose where it does not follow from the expectation.
        """
        result: Dict[str, Any] = {}
        for attribute, comparisons in self.expectation.parts:
            kind = self.setting.types()[attribute]
            if unmet(comparisons, found.get(attribute), kind):
                if self.write is not None and attribute in self.write:
                    result[attribute] = self.write[attribute]
                else:
                    result[attribute] = chosen(comparisons, found.get(attribute), kind)
        return result


@dataclass(frozen=True)
class CheckedProfile:
    """A profile whose rules were found valid for a platform."""

    profile: Profile
    checks: Tuple[Check, ...]

    def exceptions(self) -> Tuple[RuleException, ...]:
        """Return the exceptions that come with the profile."""
        return tuple(self.profile.exceptions or ())


def profile_hash(data: Plain) -> str:
    """Return the SHA-256 of a profile's plain data, as it stands in reports."""
    text = json.dumps(data, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def parse_profile(data: Any, target: Type[HardeningTarget], platform: str) -> CheckedProfile:
    """Read a profile from plain data.

    target: what the platform brings. platform: its name; the profile must be for it.
    Raises ValidateError with every problem; the paths are those of the profile, such as `rules['a'].setting.key`.
    """
    problems: List[Problem] = []
    profile = Profile.read(data, Path(), problems)
    checks: List[Check] = []
    if profile is not None:
        if profile.platform is not None and profile.platform != platform:
            problems.append(
                Problem("platform", f"{show(profile.platform)} is not allowed; the host's platform is {platform}")
            )
        else:
            settings = known_settings(target)
            for rule in profile.rules or ():
                check = _check_rule(rule, settings, target.CONDITIONS, Path("rules").item(rule.id), problems)
                if check is not None:
                    checks.append(check)
        known = {rule.id for rule in profile.rules or ()}
        for number, exception in enumerate(profile.exceptions or ()):
            if exception.rule is not None and exception.rule not in known:
                place = Path("exceptions").item(number).field("rule")
                problems.append(Problem(place.text, f"{show(exception.rule)} is not a rule of this profile"))
    if problems or profile is None:
        raise ValidateError(problems)
    return CheckedProfile(profile, tuple(sorted(checks, key=_order)))


def _order(check: Check) -> int:
    return 500 if check.rule.order is None else check.rule.order


def _check_rule(
    rule: Rule,
    settings: Mapping[str, Type[Setting]],
    conditions: Mapping[str, str],
    path: Path,
    problems: List[Problem],
) -> Optional[Check]:
    before = len(problems)
    asked = _parse_conditions(rule.applies_when, conditions, path.field("applies_when"), problems)
    setting = _parse_setting(rule.setting, settings, path.field("setting"), problems)
    if setting is None or rule.expected is None:
        return None
    expectation = parse_expectation(rule.expected, setting.types(), path.field("expected"), problems)
    by_hand, write = _parse_set(rule.set, setting, path.field("set"), problems)
    if expectation is None or len(problems) > before:
        return None
    check = Check(rule, setting, expectation, asked, by_hand, write)
    if check.settable:
        _check_writable(check, path, problems)
    return check if len(problems) == before else None


def _parse_setting(
    value: Optional[Mapping[str, Any]], settings: Mapping[str, Type[Setting]], path: Path, problems: List[Problem]
) -> Optional[Setting]:
    if value is None:
        return None
    kind = value.get("kind")
    if not isinstance(kind, str) or kind not in settings:
        shown = "must be given" if kind is None else f"{show(kind)} is not allowed"
        problems.append(Problem(path.field("kind").text, f"{shown}; allowed are {', '.join(sorted(settings))}"))
        return None
    before = len(problems)
    setting = settings[kind].read({name: entry for name, entry in value.items() if name != "kind"}, path, problems)
    return setting if len(problems) == before else None


def _parse_conditions(
    value: Optional[Mapping[str, Any]], known: Mapping[str, str], path: Path, problems: List[Problem]
) -> Tuple[Condition, ...]:
    result: List[Condition] = []
    for name, operand in (value or {}).items():
        place = path.field(name)
        if name not in known:
            problems.append(Problem(place.text, f"unknown; known are {', '.join(sorted(known))}"))
            continue
        values = operand if isinstance(operand, (list, tuple)) else [operand]
        if not values or not all(isinstance(element, str) and 0 < len(element) <= 255 for element in values):
            problems.append(Problem(place.text, f"{show(operand)} is not allowed; allowed is {known[name]}, or a list"))
            continue
        result.append(Condition(str(name), tuple(str(element) for element in values)))
    return tuple(result)


def _parse_set(
    value: Optional[Mapping[str, Any]], setting: Setting, path: Path, problems: List[Problem]
) -> Tuple[Optional[str], Optional[Mapping[str, Any]]]:
    if value is None:
        return None, None
    attributes = [name for name in setting.types() if name]
    allowed = ["by_hand"] + (attributes or ["value"])
    for name in value:
        if name not in allowed:
            problems.append(Problem(path.field(name).text, f"unknown; allowed are {', '.join(allowed)}"))
    if "by_hand" in value:
        text = value["by_hand"]
        if len(value) > 1:
            problems.append(Problem(path.text, "by_hand stands alone: what people mend is not set"))
        if not isinstance(text, str) or not 5 <= len(text) <= 1000:
            problems.append(
                Problem(path.field("by_hand").text, f"{show(text)} is not allowed; allowed is how to mend it")
            )
            return None, None
        return str(text), None
    write: Dict[str, Any] = {}
    for name, operand in value.items():
        try:
            write["" if name == "value" else str(name)] = parse_value(operand)
        except ValueError as error:
            problems.append(Problem(path.field(name).text, str(error)))
    if not setting.SETTABLE:
        problems.append(Problem(path.text, f"{setting.NAME} cannot be set; allowed is by_hand"))
    return None, write


def _check_writable(check: Check, path: Path, problems: List[Problem]) -> None:
    """Append why what would be written cannot be, or does not satisfy the rule itself."""
    for attribute, comparisons in check.expectation.parts:
        kind = check.setting.types()[attribute]
        name = attribute or "value"
        place = path.field("set").field(name)
        if check.write is not None and attribute in check.write:
            value = check.write[attribute]
            wrong = unmet(comparisons, value, kind)
            if wrong:
                problems.append(Problem(place.text, f"{show(value)} is not what {wrong[0]} expects"))
        else:
            try:
                value = chosen(comparisons, "0777" if kind == "mode" else None, kind)
            except CannotChoose:
                operators = ", ".join(operator for operator, _operand in comparisons)
                if kind == "list" and any(operator == "excludes" for operator, _operand in comparisons):
                    continue  # what is kept follows from what is found
                problems.append(
                    Problem(place.text, f"must be given, as it does not follow from {operators}; or by_hand")
                )
                continue
        wrong_value = None if value is ABSENT else check.setting.check_wanted(attribute, value)
        if wrong_value:
            problems.append(Problem(place.text, wrong_value))


def parse_exceptions(value: Any, checked: CheckedProfile) -> Tuple[RuleException, ...]:
    """Read the exceptions of a task.

    Raises ValidateError with every problem, among them rules that the profile does not have.
    """
    problems: List[Problem] = []
    path = Path("exceptions")
    exceptions = RuleExceptions().read(value or [], path, problems) or ()
    known = {check.id for check in checked.checks}
    for number, exception in enumerate(exceptions):
        place = path.item(number)
        if exception.rule is not None and exception.rule not in known:
            problems.append(Problem(place.field("rule").text, f"{show(exception.rule)} is not a rule of the profile"))
        if exception.expires == NEVER:
            problems.append(
                Problem(place.field("expires").text, "never is for profiles; an exception of a task ends on a date")
            )
    if problems:
        raise ValidateError(problems)
    return tuple(exceptions)


def overlay(base: Plain, own: Plain) -> Plain:
    """Return a profile that extends another.

    base: the profile that is extended; own: what the extending one says, without `extends`.
    Fields of `own` count; its rules replace those of the same id and follow the others; its exceptions come first; the
    rules that its `without` lists are left out.
    """
    result = {**base, **{name: value for name, value in own.items() if name not in ("rules", "exceptions", "without")}}
    rules = {rule.get("id"): rule for rule in base.get("rules", []) if isinstance(rule, Mapping)}
    for name in own.get("without", ()):
        rules.pop(name, None)
    rules.update({rule.get("id"): rule for rule in own.get("rules", ()) if isinstance(rule, Mapping)})
    result["rules"] = list(rules.values())
    result["exceptions"] = list(own.get("exceptions", ())) + [
        exception
        for exception in base.get("exceptions", ())
        if isinstance(exception, Mapping) and exception.get("rule") in rules
    ]
    return result


def select(checked: CheckedProfile, rules: Sequence[str], tags: Sequence[str]) -> Tuple[Check, ...]:
    """Return the rules that a task is about.

    rules: ids; tags: a rule with any of them. Neither stands for all rules, both for those that are in either.
    Raises ValidateError for an id or a tag that the profile does not have.
    """
    problems = []
    ids = {check.id for check in checked.checks}
    known_tags = {tag for check in checked.checks for tag in check.rule.tags or ()}
    for number, name in enumerate(rules):
        if name not in ids:
            problems.append(
                Problem(f"rules[{number}]", f"{show(name)} is not a rule of profile {checked.profile.name}")
            )
    for number, tag in enumerate(tags):
        if tag not in known_tags:
            problems.append(
                Problem(
                    f"tags[{number}]",
                    f"{show(tag)} is not a tag of the profile; known are {', '.join(sorted(known_tags))}",
                )
            )
    if problems:
        raise ValidateError(problems)
    if not rules and not tags:
        return checked.checks
    return tuple(
        check for check in checked.checks if check.id in rules or any(tag in tags for tag in check.rule.tags or ())
    )
