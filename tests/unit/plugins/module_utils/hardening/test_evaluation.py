# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import GuardError, ValidateError
from ansible_collections.bareforge.hypervisor.plugins.module_utils.hardening.evaluation import (
    HardeningFailed,
    Order,
    run,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.hardening.profile import (
    RuleException,
    overlay,
    parse_exceptions,
    parse_profile,
    profile_hash,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.hardening.target import (
    Finding,
    HardeningTarget,
    Setting,
    Step,
    Steps,
    Survey,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.schema import Value, option
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.types import Name

TODAY = "2026-11-25"


@dataclass(frozen=True)
class Knob(Setting):
    NAME = "knob"
    place: str | None = option(Value(Name()), "Where it is.", required=True)

    def name(self) -> str:
        return f"knob {self.place}"


@dataclass(frozen=True)
class Gauge(Knob):
    NAME = "gauge"
    SETTABLE = False


@dataclass
class Memory(HardeningTarget):
    """A host that is a mapping of knobs; stuck ones cannot be set, and deaf ones do not keep what is written."""

    SETTINGS = (Knob, Gauge)
    CONDITIONS = {"has": "the name of a knob"}

    knobs: dict = field(default_factory=dict)
    stuck: set = field(default_factory=set)
    deaf: set = field(default_factory=set)
    risky: set = field(default_factory=set)
    guards: list = field(default_factory=list)
    saved: dict = field(default_factory=dict)
    surveys: int = 0
    locked: int = 0

    def survey(self, settings, conditions):
        self.surveys += 1
        findings = {}
        for rule, setting in settings.items():
            value = self.knobs.get(setting.place)
            if value == "broken":
                findings[rule] = Finding(error="cannot be read")
            elif setting.place not in self.knobs:
                findings[rule] = Finding(missing="there is no such knob")
            else:
                findings[rule] = Finding.single(value)
        return Survey(findings, {c: any(value in self.knobs for value in c.values) for c in conditions})

    def lock(self):
        self.locked += 1
        return contextlib.nullcontext()

    def plan(self, wanted):
        return Steps(
            [Step((w.rule,), f"turn {w.setting.place}", w.setting.place, after=w.values[""][""]) for w in wanted]
        )

    def plan_revert(self, rules):
        return Steps(
            [
                Step((rule,), f"turn {place} back", place, after=value)
                for place, (rule, value) in self.saved.items()
                if rules is None or rule in rules
            ]
        )

    def guard(self, timeout):
        if "unguarded" in self.knobs:
            return None
        self.guards.append((timeout, dict(self.knobs)))
        return {"token": "t"}

    def undo(self, token):
        self.knobs = self.guards.pop()[1]

    def carry_out(self, steps, arm=None):
        errors = {}
        risky = [rule for step in steps.steps if step.target in self.risky for rule in step.rules]
        if arm and risky:
            arm(risky)
        for step in steps.steps:
            if step.target == "burning":
                raise RuntimeError("a fault of the driver")
            if step.target in self.stuck:
                errors.update({rule: "is stuck" for rule in step.rules})
                continue
            self.saved.setdefault(step.target, (step.rules[0], self.knobs[step.target]))
            if step.target not in self.deaf:
                self.knobs[step.target] = step.after
            step.done = True
        return errors


def rule(name, severity="medium", **fields):
    return {
        "id": name,
        "title": f"Knob {name} is right",
        "severity": severity,
        "rationale": "Because the test wants it so, and for no other reason.",
        "sources": ["dev-sec"],
        "tags": ["knobs", severity],
        "setting": {"kind": "knob", "place": name},
        "expected": {"equals": 1},
        **fields,
    }


def profile(*rules, **fields):
    return {
        "name": "test",
        "version": "1.0",
        "platform": "memory",
        "title": "A profile of knobs",
        "rules": list(rules),
        **fields,
    }


def checked(*rules, **fields):
    return parse_profile(profile(*rules, **fields), Memory, "memory")


def statuses(result):
    return {entry["id"]: entry["status"] for entry in result["rules"]}


def excepted(name, expires):
    return RuleException(rule=name, reason="Needed by the test", expires=expires)


def test_audit_tells_every_status_and_changes_nothing():
    host = Memory({"good": "1", "bad": "0", "odd": "broken", "old": "0", "let": "0"})
    rules = checked(
        rule("good"), rule("bad"), rule("odd"), rule("old"), rule("let"), rule("gone"),
        rule("skip", applies_when={"has": "nothing"}),
    )  # fmt: skip
    exceptions = (excepted("old", "2026-11-24"), excepted("let", "2026-11-25"))
    before = dict(host.knobs)
    result = run(host, rules, Order("audit", exceptions=exceptions, today=TODAY))
    assert statuses(result) == {
        "good": "pass", "bad": "fail", "odd": "error", "old": "fail", "let": "exception",
        "gone": "not_applicable", "skip": "not_applicable",
    }  # fmt: skip
    assert (host.knobs, host.surveys, host.locked) == (before, 1, 0)
    assert not result["changed"]
    assert result["warnings"] == ["rule old counts again: its exception expired on 2026-11-24"]
    entries = {entry["id"]: entry for entry in result["rules"]}
    assert entries["old"]["expired_exception"]["expires"] == "2026-11-24"
    assert "2026-11-24" in entries["old"]["message"]
    assert entries["let"]["exception"]["reason"] == "Needed by the test"
    assert entries["skip"]["message"] == "applies only where this holds: has: nothing"


def test_the_score_weighs_by_severity_and_never_rounds_up_to_all():
    host = Memory({name: "1" for name in "abcdefghij"} | {"z": "0"})
    result = run(host, checked(*[rule(n, "critical") for n in "abcdefghij"], rule("z", "low")), Order("audit"))
    assert result["score"]["percent"] == 99
    assert result["score"]["by_severity"]["critical"]["percent"] == 100
    assert result["score"]["by_severity"]["low"] == {
        "rules": 1, "applicable": 1, "followed": 0, "percent": 0,
        "counts": {"fail": 1, "error": 0, "fixed": 0, "pass": 0, "exception": 0, "not_applicable": 0},
    }  # fmt: skip
    assert result["score"]["by_severity"]["high"]["percent"] is None


def test_enforcing_mends_then_changes_nothing_then_is_reverted():
    host = Memory({"a": "0", "b": "1", "c": "7"})
    rules = checked(rule("a"), rule("b"), rule("c"))
    plan = run(host, rules, Order("enforce", check=True))
    assert plan["changed"]
    assert host.knobs == {"a": "0", "b": "1", "c": "7"}
    assert host.locked == 0
    assert [entry["id"] for entry in plan["rules"] if entry.get("planned")] == ["a", "c"]
    first = run(host, rules, Order("enforce"))
    assert first["changes"] == plan["changes"]
    assert first["diff"] == plan["diff"]
    assert statuses(first) == {"a": "fixed", "b": "pass", "c": "fixed"}
    assert next(entry for entry in first["rules"] if entry["id"] == "c")["before"] == "7"
    assert first["score"]["percent"] == 100
    again = run(host, rules, Order("enforce"))
    assert not again["changed"]
    assert again["changes"] == []
    part = run(host, rules, Order("revert", rules=["a"]))
    assert host.knobs == {"a": "0", "b": "1", "c": "1"}
    assert part["changed"]
    run(host, rules, Order("revert"))
    assert host.knobs == {"a": "0", "b": "1", "c": "7"}


def test_one_rule_that_fails_does_not_stop_the_others_and_the_task_fails_with_all_of_them():
    host = Memory({"a": "0", "b": "0", "c": "0", "g": "0"}, stuck={"a"}, deaf={"b"})
    rules = checked(rule("a"), rule("b"), rule("c"), rule("g", setting={"kind": "gauge", "place": "g"}))
    with pytest.raises(HardeningFailed) as caught:
        run(host, rules, Order("enforce"))
    result = caught.value.result
    assert statuses(result) == {"a": "error", "b": "error", "c": "fixed", "g": "fail"}
    assert caught.value.message == (
        "2 of 4 rules could not be enforced: a (is stuck); b (was set, and the host still shows 0)"
    )
    assert result["changed"]
    assert caught.value.details["changes_made"]


def test_what_only_people_can_mend_is_a_warning():
    host = Memory({"g": "0"})
    rules = checked(rule("g", setting={"kind": "gauge", "place": "g"}, set={"by_hand": "Ask the plumber."}))
    result = run(host, rules, Order("enforce"))
    assert statuses(result) == {"g": "fail"}
    assert result["warnings"] == ["rule g has to be mended by hand: Ask the plumber."]
    assert result["score"]["percent"] == 0


def test_a_step_that_fails_counts_although_the_setting_looks_right():
    host = Memory({"a": "0"}, stuck={"a"})

    def shown_right(steps):
        host.knobs["a"] = "1"
        return {"a": "the service did not start again"}

    host.carry_out = shown_right
    with pytest.raises(HardeningFailed) as caught:
        run(host, checked(rule("a")), Order("enforce"))
    assert statuses(caught.value.result) == {"a": "error"}


def test_exceptions_are_not_enforced_until_they_expire():
    host = Memory({"a": "0"})
    rules = checked(rule("a"))
    result = run(host, rules, Order("enforce", exceptions=(excepted("a", TODAY),), today=TODAY))
    assert not result["changed"]
    assert host.knobs == {"a": "0"}
    run(host, rules, Order("enforce", exceptions=(excepted("a", TODAY),), today="2026-11-26"))
    assert host.knobs == {"a": "1"}


def test_rules_and_tags_select():
    host = Memory({"a": "0", "b": "0", "c": "0"})
    rules = checked(rule("a", "high"), rule("b", "low"), rule("c", "low"))
    assert list(statuses(run(host, rules, Order("audit", rules=["c"], tags=["high"])))) == ["a", "c"]
    with pytest.raises(ValidateError) as caught:
        run(host, rules, Order("audit", rules=["x"], tags=["y"]))
    assert "rules[0]: 'x' is not a rule of profile test" in caught.value.message
    assert "tags[0]: 'y' is not a tag of the profile; known are high, knobs, low" in caught.value.message


def test_rules_are_enforced_in_their_order():
    host = Memory({"a": "0", "b": "0", "c": "0"})
    result = run(host, checked(rule("a", order=900), rule("b"), rule("c", order=1)), Order("enforce"))
    assert [change["target"] for change in result["changes"]] == ["c", "b", "a"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"severity": "urgent"}, "rules['a'].severity: 'urgent' is not allowed; allowed is critical, high, medium or low"),
        ({"tilte": "x"}, "rules['a'].tilte: unknown; known are id, title,"),
        ({"rationale": None}, "rules['a'].rationale: must be given"),
        ({"sources": ["CIS 1.1"]}, "rules['a'].sources[0]: 'CIS 1.1' is not allowed"),
        ({"setting": {"kind": "nob", "place": "a"}}, "rules['a'].setting.kind: 'nob' is not allowed; allowed are gauge, knob"),
        ({"setting": {"kind": "knob"}}, "rules['a'].setting.place: must be given"),
        ({"setting": {"kind": "knob", "place": "a", "plcae": 1}}, "rules['a'].setting.plcae: unknown; known are place"),
        ({"expected": {"not_equals": 0}}, "rules['a'].set.value: must be given, as it does not follow from not_equals"),
        ({"set": {"value": 2}}, "rules['a'].set.value: '2' is not what equals expects"),
        ({"set": {"valeu": 1}}, "rules['a'].set.valeu: unknown; allowed are by_hand, value"),
        ({"set": {"by_hand": "Turn it.", "value": 1}}, "rules['a'].set: by_hand stands alone"),
        (
            {"setting": {"kind": "gauge", "place": "a"}, "set": {"value": 1}},
            "rules['a'].set: gauge cannot be set; allowed is by_hand",
        ),
        ({"applies_when": {"hsa": "b"}}, "rules['a'].applies_when.hsa: unknown; known are has"),
        ({"applies_when": {"has": 1}}, "rules['a'].applies_when.has: 1 is not allowed; allowed is the name of a knob"),
        ({"undo": "never"}, "rules['a'].undo: 'never' is not allowed; allowed is restore or keep"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_rule_is_named(change, message):
    with pytest.raises(ValidateError) as caught:
        checked(rule("a", **change))
    assert message in caught.value.message


def test_what_is_wrong_with_a_profile_is_named_all_at_once():
    with pytest.raises(ValidateError) as caught:
        checked(
            rule("a"), rule("a"), rule("b", severity="bad"),
            version=1.0,
            exceptions=[
                {"rule": "x", "reason": "Long enough a reason", "expires": "2027-01-01"},
                {"rule": "a", "reason": "Long enough a reason", "expires": "never"},
                {"rule": "a", "reason": "short", "expires": "soon"},
            ],
        )  # fmt: skip
    text = caught.value.message
    for part in (
        "rules[1]: 'a' is listed twice",
        "rules['b'].severity",
        "version: 1.0 is not allowed",
        "exceptions[1].reviewed: must be given where an exception never expires",
        "exceptions[2].reason",
        "exceptions[2].expires: 'soon' is not allowed; allowed is a date such as 2027-01-31, or never",
    ):
        assert part in text, text


def test_a_profile_for_another_platform_is_refused():
    with pytest.raises(ValidateError, match="platform: 'other' is not allowed; the host's platform is memory"):
        checked(rule("a"), platform="other")


def test_exceptions_of_a_task_end_and_name_rules_of_the_profile():
    rules = checked(rule("a"))
    with pytest.raises(ValidateError) as caught:
        parse_exceptions(
            [
                {"rule": "b", "reason": "Long enough a reason", "expires": "2027-01-01"},
                {"rule": "a", "reason": "Long enough a reason", "expires": "never", "reviewed": TODAY},
            ],
            rules,
        )
    assert "exceptions[0].rule: 'b' is not a rule of the profile" in caught.value.message
    assert "exceptions[1].expires: never is for profiles" in caught.value.message


def test_an_overlay_replaces_adds_and_drops():
    base = profile(
        rule("a"), rule("b"), rule("c"),
        exceptions=[{"rule": "c", "reason": "Long enough a reason", "expires": "2027-01-01"}],
    )  # fmt: skip
    own = {"name": "own", "rules": [rule("b", "high"), rule("d")], "without": ["c"], "extends": "test"}
    result = overlay(base, own)
    assert [(entry["id"], entry["severity"]) for entry in result["rules"]] == [
        ("a", "medium"), ("b", "high"), ("d", "medium"),
    ]  # fmt: skip
    assert result["name"] == "own"
    assert result["version"] == "1.0"
    assert result["exceptions"] == []
    assert profile_hash(result) != profile_hash(base)


def test_what_could_cut_the_controller_off_waits_for_a_confirmation():
    host = Memory({"a": "0", "b": "0", "c": "0"}, risky={"b", "c"})
    rules = checked(rule("a"), rule("b"), rule("c"))
    assert "guard" not in run(host, rules, Order("enforce", check=True, guard=45))
    assert host.guards == []
    result = run(host, rules, Order("enforce", guard=45))
    assert result["guard"] == {"token": "t", "timeout": 45, "guarded": ["rule b", "rule c"]}
    assert "guard" not in run(host, rules, Order("enforce", guard=45))
    assert run(host, rules, Order("revert", guard=45))["guard"]["guarded"] == ["rule b", "rule c"]
    assert len(host.guards) == 2


def test_no_guard_where_nothing_is_at_risk_or_nobody_wants_one():
    host = Memory({"a": "0", "b": "0"}, risky={"b"})
    assert "guard" not in run(host, checked(rule("a")), Order("enforce", guard=45))
    assert "guard" not in run(host, checked(rule("b")), Order("enforce"))
    assert host.guards == []


def test_a_guarded_run_in_which_other_rules_fail_still_waits_for_a_confirmation():
    host = Memory({"a": "0", "b": "0"}, stuck={"a"}, risky={"b"})
    with pytest.raises(HardeningFailed) as caught:
        run(host, checked(rule("a"), rule("b")), Order("enforce", guard=45))
    assert caught.value.details["guard"]["token"] == "t"


def test_what_breaks_off_is_undone_at_once():
    host = Memory({"b": "0", "burning": "0"}, risky={"b"})
    with pytest.raises(RuntimeError):
        run(host, checked(rule("b"), rule("burning")), Order("enforce", guard=45))
    assert host.knobs == {"b": "0", "burning": "0"}


def test_a_platform_without_a_guard_says_so():
    host = Memory({"b": "0", "unguarded": "1"}, risky={"b"})
    with pytest.raises(GuardError) as caught:
        run(host, checked(rule("b")), Order("enforce", guard=45))
    assert "Say guard: {enabled: false}" in caught.value.sentence()
    assert host.knobs["b"] == "0"
