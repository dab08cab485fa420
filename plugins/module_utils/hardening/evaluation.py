# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Audit, enforce and revert: a profile against a host."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Any, Collection, Dict, List, Mapping, Optional, Sequence, Tuple

from ..errors import ApplyError, GuardError, Problem, ValidateError
from ..model.schema import Plain
from ..model.types import show
from .expectation import CannotChoose, Found, show_found
from .profile import SEVERITIES, Check, CheckedProfile, RuleException, select
from .target import Condition, Finding, HardeningTarget, Step, Steps, Survey, Wanted

AUDIT, ENFORCE, REVERT = "audit", "enforce", "revert"
MODES = (AUDIT, ENFORCE, REVERT)

PASS, FAIL, FIXED, EXCEPTION, NOT_APPLICABLE, ERROR = "pass", "fail", "fixed", "exception", "not_applicable", "error"
STATUSES = (FAIL, ERROR, FIXED, PASS, EXCEPTION, NOT_APPLICABLE)

WEIGHTS = {"critical": 10, "high": 6, "medium": 3, "low": 1}
"""How much a rule counts in the score."""


@dataclass
class Order:
    """What a task asks for.

    mode: one of MODES. rules, tags: select rules; neither stands for all.
    exceptions: beside those of the profile. today: the day (ISO 8601) against which they expire.
    check: whether to stop after the plan.
    guard: after how many seconds without confirmation the host undoes what could cut the controller off; None for never.
    """

    mode: str
    rules: Sequence[str] = ()
    tags: Sequence[str] = ()
    exceptions: Tuple[RuleException, ...] = ()
    today: str = ""
    check: bool = False
    guard: Optional[int] = None


@dataclass
class Outcome:
    """What became of one rule."""

    check: Check
    status: str
    found: str
    message: Optional[str] = None
    before: Optional[str] = None
    planned: bool = False
    exception: Optional[RuleException] = None
    expired: Optional[RuleException] = None
    notes: List[str] = field(default_factory=list)

    def to_result(self) -> Plain:
        """Return the outcome as it stands in a task's result and in reports."""
        rule = self.check.rule
        result: Plain = {
            "id": rule.id,
            "title": rule.title,
            "severity": rule.severity,
            "status": self.status,
            "setting": self.check.setting.name(),
            "found": self.found,
            "expected": self.check.expectation.words(),
            "sources": list(rule.sources or ()),
            "tags": list(rule.tags or ()),
            "rationale": rule.rationale,
            "remedy": self.check.remedy(),
            "enforceable": self.check.settable,
        }
        if self.message:
            result["message"] = self.message
        if self.before is not None and self.before != self.found:
            result["before"] = self.before
        if self.planned:
            result["planned"] = True
        if self.notes:
            result["notes"] = list(self.notes)
        for name, exception in (("exception", self.exception), ("expired_exception", self.expired)):
            if exception is not None:
                result[name] = exception.to_document()
        return result


class HardeningFailed(ApplyError):
    """Some rules could not be enforced or reverted; the others were. `result` is the whole result of the task."""

    def __init__(self, message: str, result: Plain) -> None:
        super().__init__(message, None, **result, changes_made=result["changes"])
        self.result = result


def run(target: HardeningTarget, checked: CheckedProfile, order: Order) -> Plain:
    """Audit, enforce or revert a profile on a host, and return the task's result.

    The result has `changed`, `mode`, `rules` (one entry a rule), `score`, `changes`, `before` and `after` (the texts of a
    diff) and `host` (what is known of it), and `guard` where changes wait for a confirmation over a new connection.
    Raises ValidateError before anything was changed; HardeningFailed, which holds the result, where rules are left that
    should have been enforced or reverted and were not.
    """
    if order.mode not in MODES:
        raise ValidateError([Problem("mode", f"{show(order.mode)} is not allowed; allowed is {', '.join(MODES)}")])
    checks = select(checked, order.rules, order.tags)
    exceptions = order.exceptions + checked.exceptions()
    if order.mode == AUDIT:
        return _result(target, order, _judge_all(checks, _survey(target, checks), exceptions, order.today), Steps())
    with contextlib.nullcontext() if order.check else target.lock():
        if order.mode == REVERT:
            return _revert(target, checks, exceptions, order)
        return _enforce(target, checks, exceptions, order)


def _survey(target: HardeningTarget, checks: Sequence[Check]) -> Survey:
    conditions: Dict[Condition, None] = {}
    for check in checks:
        conditions.update(dict.fromkeys(check.conditions))
    return target.survey({check.id: check.setting for check in checks}, conditions)


def _judge_all(
    checks: Sequence[Check], survey: Survey, exceptions: Sequence[RuleException], today: str
) -> List[Outcome]:
    return [_judge(check, survey, exceptions, today) for check in checks]


def _judge(check: Check, survey: Survey, exceptions: Sequence[RuleException], today: str) -> Outcome:
    unmet = [condition for condition in check.conditions if not survey.conditions[condition]]
    if unmet:
        words = ", ".join(condition.words() for condition in unmet)
        return Outcome(check, NOT_APPLICABLE, "not looked at", f"applies only where this holds: {words}")
    finding = survey.findings[check.id]
    if finding.error is not None:
        outcome = Outcome(check, ERROR, "could not be read", finding.error)
    elif not finding.values:
        return Outcome(check, NOT_APPLICABLE, "not there", finding.missing, notes=finding.notes)
    else:
        outcome = Outcome(check, PASS, show_values(finding.values), notes=list(finding.notes))
        now, later = _unsatisfied(check, finding.values), _unsatisfied(check, finding.later)
        if now or later:
            outcome.status = FAIL
        if later:
            outcome.notes.append(
                f"after the next start: {show_values({place: finding.later[place] for place in later})}"
            )
    if outcome.status in (FAIL, ERROR):
        own = [exception for exception in exceptions if exception.rule == check.id]
        valid = [exception for exception in own if not exception.has_expired(today)]
        if valid:
            outcome.status = EXCEPTION
            outcome.exception = valid[0]
        elif own:
            outcome.expired = max(own, key=lambda exception: str(exception.expires))
            text = f"its exception expired on {outcome.expired.expires}"
            outcome.message = f"{outcome.message}; {text}" if outcome.message else text
    return outcome


def _unsatisfied(check: Check, values: Mapping[str, Mapping[str, Found]]) -> List[str]:
    return [place for place, found in values.items() if not check.expectation.satisfied(found, check.setting.types())]


def show_values(values: Mapping[str, Mapping[str, Found]]) -> str:
    """Return found values as they are shown to people; places with the same value are named together."""
    places: Dict[str, List[str]] = {}
    for place, found in values.items():
        text = "; ".join(
            f"{attribute}: {show_found(value)}" if attribute else show_found(value)
            for attribute, value in found.items()
        )
        places.setdefault(text, []).append(place)
    if list(places.values()) == [[""]]:
        return next(iter(places))
    return "; ".join(f"{text} ({', '.join(_few(names))})" for text, names in places.items())


def _few(names: Sequence[str], most: int = 6) -> List[str]:
    shown = [show_found(name) for name in names[:most]]
    return shown if len(names) <= most else [*shown, f"{len(names) - most} more"]


def _wanted(outcome: Outcome, finding: Finding) -> Optional[Wanted]:
    check = outcome.check
    if outcome.status != FAIL:
        return None
    if not check.settable:
        outcome.message = "has to be mended by hand" if not outcome.message else f"{outcome.message}; mend it by hand"
        return None
    values: Dict[str, Dict[str, Any]] = {}
    try:
        for found in (finding.later, finding.values):
            for place in _unsatisfied(check, found):
                values[place] = check.values_to_write(found[place])
    except CannotChoose:
        outcome.message = "what to write does not follow from what is expected; say it under set"
        return None
    return Wanted(check.id, check.setting, values, keep=check.rule.undo == "keep")


def _enforce(
    target: HardeningTarget, checks: Sequence[Check], exceptions: Sequence[RuleException], order: Order
) -> Plain:
    survey = _survey(target, checks)
    outcomes = _judge_all(checks, survey, exceptions, order.today)
    wanted = [_wanted(outcome, survey.findings[outcome.check.id]) for outcome in outcomes if outcome.status == FAIL]
    steps = target.plan([entry for entry in wanted if entry is not None])
    planned = {rule for step in steps.steps for rule in step.rules}
    if order.check or not steps.steps:
        for outcome in outcomes:
            outcome.planned = outcome.check.id in planned
            outcome.message = steps.errors.get(outcome.check.id, outcome.message)
        result = _result(target, order, outcomes, steps)
        return result if order.check else _finished(result, outcomes)
    failed, guard = _carry_out(target, steps, order)
    errors = {**steps.errors, **failed}
    first = {outcome.check.id: outcome for outcome in outcomes}
    after = _judge_all(checks, _survey(target, checks), exceptions, order.today)
    for outcome in after:
        rule = outcome.check.id
        outcome.before = first[rule].found
        if rule in errors:
            outcome.status, outcome.message = ERROR, errors[rule]
        elif outcome.status == PASS and first[rule].status in (FAIL, ERROR):
            outcome.status = FIXED
        elif outcome.status == FAIL and rule in planned:
            outcome.status, outcome.message = ERROR, f"was set, and the host still shows {outcome.found}"
        elif outcome.status == FAIL:
            outcome.message = first[rule].message
    return _finished(_result(target, order, after, steps, guard), after)


def _carry_out(target: HardeningTarget, steps: Steps, order: Order) -> Tuple[Dict[str, str], Plain]:
    """Carry out changes; return by rule why one failed, and the guard's part of the result, empty where none was armed."""
    guard: Plain = {}
    timeout = order.guard
    if timeout is None:
        return target.carry_out(steps), guard

    def arm(rules: Sequence[str]) -> None:
        armed = target.guard(timeout)
        if armed is None:
            raise GuardError(
                "the platform has no guard over logins", "Say guard: {enabled: false} to do it all the same"
            )
        guard.update(armed, timeout=timeout, guarded=[f"rule {rule}" for rule in dict.fromkeys(rules)])

    try:
        return target.carry_out(steps, arm), guard
    except Exception:
        if guard:
            # Nobody will confirm what has broken off: better at once than when the timer ends.
            with contextlib.suppress(GuardError):
                target.undo(guard["token"])
        raise


def _finished(result: Plain, outcomes: Sequence[Outcome]) -> Plain:
    """Return the result of enforcing, or raise it where enforcing has not done what it can do.

    What only people can mend is a warning: a host on which something is left to them is enforced all the same.
    """
    by_hand = [outcome for outcome in outcomes if outcome.status == FAIL and not outcome.check.settable]
    broken = [outcome for outcome in outcomes if outcome.status in (FAIL, ERROR) and outcome not in by_hand]
    if by_hand:
        words = [f"rule {outcome.check.id} has to be mended by hand: {outcome.check.remedy()}" for outcome in by_hand]
        result["warnings"] = [*result.get("warnings", ()), *words]
    if broken:
        text = "; ".join(f"{outcome.check.id} ({outcome.message or f'found {outcome.found}'})" for outcome in broken)
        raise HardeningFailed(f"{len(broken)} of {len(outcomes)} rules could not be enforced: {text}", result)
    return result


def _revert(
    target: HardeningTarget, checks: Sequence[Check], exceptions: Sequence[RuleException], order: Order
) -> Plain:
    everything = not order.rules and not order.tags
    steps = target.plan_revert(None if everything else [check.id for check in checks])
    errors = dict(steps.errors)
    guard: Plain = {}
    if not order.check:
        failed, guard = _carry_out(target, steps, order)
        errors.update(failed)
    outcomes = _judge_all(checks, _survey(target, checks), exceptions, order.today)
    planned = {rule for step in steps.steps for rule in step.rules}
    for outcome in outcomes:
        outcome.planned = order.check and outcome.check.id in planned
        if outcome.check.id in errors:
            outcome.status, outcome.message = ERROR, errors[outcome.check.id]
    result = _result(target, order, outcomes, steps, guard)
    if errors and not order.check:
        words = "; ".join(f"{rule} ({text})" for rule, text in sorted(errors.items()))
        raise HardeningFailed(f"{len(errors)} rules could not be reverted: {words}", result)
    return result


def score(outcomes: Collection[Mapping[str, Any]]) -> Plain:
    """Return how many rules are followed, over all and by severity.

    outcomes: entries with `severity` and `status`. Exceptions and rules that do not apply are counted apart. `percent`
    weighs the rules by their severity (WEIGHTS) and is rounded down, so that 100 means all; it is None where no rule applies.
    """

    def part(entries: Sequence[Mapping[str, Any]]) -> Plain:
        counts = {status: sum(entry["status"] == status for entry in entries) for status in STATUSES}
        applicable = [entry for entry in entries if entry["status"] in (PASS, FIXED, FAIL, ERROR)]
        followed = [entry for entry in applicable if entry["status"] in (PASS, FIXED)]
        whole = sum(WEIGHTS[entry["severity"]] for entry in applicable)
        reached = sum(WEIGHTS[entry["severity"]] for entry in followed)
        return {
            "rules": len(entries),
            "applicable": len(applicable),
            "followed": len(followed),
            "percent": reached * 100 // whole if whole else None,
            "counts": counts,
        }

    entries = list(outcomes)
    result = part(entries)
    result["by_severity"] = {
        severity: part([entry for entry in entries if entry["severity"] == severity]) for severity in SEVERITIES
    }
    return result


def _result(
    target: HardeningTarget, order: Order, outcomes: Sequence[Outcome], steps: Steps, guard: Optional[Plain] = None
) -> Plain:
    rules = [outcome.to_result() for outcome in outcomes]
    result: Plain = {
        "changed": any(step.done or order.check for step in steps.steps),
        "mode": order.mode,
        "rules": rules,
        "score": score(rules),
        "changes": [
            {"action": step.summary, "target": step.target, "rules": list(step.rules)}
            for step in steps.steps
            if step.done or order.check
        ],
        "diff": [_diff(step) for step in steps.steps if step.done or order.check],
        "host": target.describe(),
    }
    if guard:
        result["guard"] = guard
    expired = [outcome for outcome in outcomes if outcome.expired]
    if expired:
        result["warnings"] = [
            f"rule {outcome.check.id} counts again: its exception expired on {outcome.expired.expires}"
            for outcome in expired
            if outcome.expired
        ]
    return result


def _diff(step: Step) -> Plain:
    if step.before is None and step.after is None:
        return {"before_header": step.target, "after_header": step.target, "before": "", "after": f"{step.summary}\n"}
    return {
        "before_header": step.target,
        "after_header": step.target,
        "before": step.before or "",
        "after": step.after or "",
    }
