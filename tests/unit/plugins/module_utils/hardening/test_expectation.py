# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import Problem
from ansible_collections.bareforge.hypervisor.plugins.module_utils.hardening.expectation import (
    ABSENT,
    LIST,
    MODE,
    TEXT,
    CannotChoose,
    chosen,
    parse_expectation,
    show_found,
    unmet,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.schema import Path


def parsed(value, kind=TEXT):
    problems: list[Problem] = []
    expectation = parse_expectation(value, {"": kind}, Path("expected"), problems)
    assert not problems, problems
    assert expectation is not None
    return expectation.parts[0][1]


def problems_of(value, kind=TEXT):
    problems: list[Problem] = []
    assert parse_expectation(value, {"": kind}, Path("expected"), problems) is None
    return [str(problem) for problem in problems]


@pytest.mark.parametrize(
    ("expected", "kind", "good", "bad"),
    [
        ({"equals": 1}, TEXT, ["1", "01"], ["0", None, "", "1 0"]),
        ({"equals": "no"}, TEXT, ["no"], ["yes", "No", None]),
        ({"not_equals": "off"}, TEXT, ["auto", None, ""], ["off"]),
        ({"one_of": [1, 2]}, TEXT, ["1", "2"], ["3", "12", None]),
        ({"at_least": 2}, TEXT, ["2", "99"], ["1", "-5", "many", None]),
        ({"at_least": 1, "at_most": 60}, TEXT, ["1", "60"], ["0", "61", None]),
        ({"at_most": "0640"}, MODE, ["0640", "0600", "0000"], ["0644", "0660", "4640", "0641", None]),
        ({"one_of": ["0440", "0400"]}, MODE, ["0440"], ["0444"]),
        ({"contains": ["nosuid"]}, LIST, [("rw", "nosuid")], [("rw",), (), None]),
        ({"excludes": ["hmac-sha1"]}, LIST, [("hmac-sha2-256",), ()], [("hmac-sha1",), None]),
        ({"only": ["a", "b"]}, LIST, [("a",), ("b", "a")], [("a", "c"), None]),
        ({"equals": ["mount"]}, LIST, [("mount",)], [("mount", "x"), ()]),
        ({"matches": "(?!root$).+"}, TEXT, ["libvirt-qemu"], ["root", "", None]),
        ({"absent": True}, TEXT, [None], ["", "1"]),
        ({"present": True}, TEXT, ["", "1"], [None]),
    ],
)
def test_operators(expected, kind, good, bad):
    comparisons = parsed(expected, kind)
    for value in good:
        assert not unmet(comparisons, value, kind), value
    for value in bad:
        assert unmet(comparisons, value, kind), value


@pytest.mark.parametrize(
    ("expected", "kind", "found", "wanted"),
    [
        ({"equals": 1}, TEXT, "0", "1"),
        ({"one_of": [1, 2]}, TEXT, "0", "1"),
        ({"at_least": 2}, TEXT, "1", "2"),
        ({"at_most": 4}, TEXT, "6", "4"),
        ({"at_least": 1, "at_most": 60}, TEXT, "120", "60"),
        ({"at_least": 1, "at_most": 60}, TEXT, "0", "1"),
        ({"at_least": 1, "at_most": 60}, TEXT, None, "60"),
        ({"at_most": "0640"}, MODE, "0755", "0640"),
        ({"at_most": "0640"}, MODE, "4604", "0600"),
        ({"excludes": ["b", "x"]}, LIST, ("a", "b", "c"), ("a", "c")),
        ({"only": ["a", "b"]}, LIST, ("c", "b"), ("b",)),
        ({"only": ["a", "b"]}, LIST, ("c",), ("a", "b")),
        ({"contains": ["x"]}, LIST, ("a",), ("a", "x")),
        ({"absent": True}, TEXT, "1", ABSENT),
    ],
)
def test_what_is_written_satisfies_and_changes_as_little_as_it_can(expected, kind, found, wanted):
    comparisons = parsed(expected, kind)
    value = chosen(comparisons, found, kind)
    assert value == wanted
    if value is not ABSENT:
        assert not unmet(comparisons, value, kind)


@pytest.mark.parametrize(
    ("expected", "kind", "found"),
    [
        ({"not_equals": "off"}, TEXT, "off"),
        ({"matches": "a+"}, TEXT, "b"),
        ({"present": True}, TEXT, None),
        ({"excludes": ["a"]}, LIST, ("a",)),
    ],
)
def test_what_is_open_is_not_guessed(expected, kind, found):
    with pytest.raises(CannotChoose):
        chosen(parsed(expected, kind), found, kind)


@pytest.mark.parametrize(
    ("expected", "kind", "message"),
    [
        ({}, TEXT, "expected: {} is not allowed; allowed is a mapping with equals,"),
        ({"equls": 1}, TEXT, "expected.equls: unknown for a text; allowed are equals, not_equals,"),
        ({"contains": ["a"]}, TEXT, "expected.contains: unknown for a text"),
        ({"at_least": "many"}, TEXT, "expected.at_least: 'many' is not allowed; allowed is a whole number"),
        ({"equals": True}, TEXT, "put yes and no in quotes"),
        ({"equals": "a\nb"}, TEXT, "expected.equals: 'a\\nb' is not allowed; allowed is one line"),
        ({"matches": "("}, TEXT, "expected.matches: '(' is not a regular expression"),
        ({"one_of": 1}, TEXT, "expected.one_of: 1 is not allowed; allowed is a list"),
        ({"absent": "yes"}, TEXT, "expected.absent: 'yes' is not allowed; allowed is true"),
        ({"at_most": "rw-r-----"}, MODE, "allowed are octal digits in quotes"),
        ({"equals": 1, "at_least": 1}, TEXT, "expected.equals: says all there is to expect"),
    ],
)
def test_what_is_wrong_is_named_with_what_is_allowed(expected, kind, message):
    assert any(message in text for text in problems_of(expected, kind)), problems_of(expected, kind)


def test_attributes_are_checked_by_name():
    problems: list[Problem] = []
    types = {"mode": MODE, "owner": TEXT}
    assert (
        parse_expectation({"mode": {"at_most": "0640"}, "own": {"equals": "root"}}, types, Path("e"), problems) is None
    )
    assert [str(problem) for problem in problems] == ["e.own: unknown; allowed are mode, owner"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "absent"),
        ("", "empty"),
        ((), "nothing"),
        (("a", "b"), "a, b"),
        ("a\x1b[31mb\u202e", "a\\x1b[31mb\\u202e"),
    ],
)
def test_found_values_are_shown_without_anything_invisible(value, shown):
    assert show_found(value) == shown
