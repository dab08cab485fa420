# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Tests are counted from what the tools leave behind."""

from __future__ import annotations

import json
from pathlib import Path

from counts import Count, of_junit, of_run_report

JUNIT = """<testsuites><testsuite><testcase name="a"/><testcase name="b"><failure/></testcase><testcase name="c"><error/>
</testcase><testcase name="d"><skipped/></testcase><testcase name="e"><properties/></testcase></testsuite></testsuites>"""


def test_closing_line() -> None:
    assert str(Count(12, 0)) == "12 passed, 0 failed"
    assert str(Count(12, 3, 1)) == "12 passed, 3 failed, 1 skipped"


def test_junit_files_are_summed(tmp_path: Path) -> None:
    file = tmp_path / "junit.xml"
    file.write_text(JUNIT)
    assert of_junit([file, file]) == Count(4, 4, 2)


def test_junit_file_that_is_missing_or_cut_off_counts_as_nothing(tmp_path: Path) -> None:
    cut = tmp_path / "cut.xml"
    cut.write_text(JUNIT[:50])
    assert of_junit([cut, tmp_path / "missing.xml"]) == Count()


def test_steps_of_a_scenario(tmp_path: Path) -> None:
    events = [
        {"run": "1", "event": "begin", "playbook": "converge.yml"},
        {"run": "1", "event": "task", "task": "a", "host": "h", "outcome": "passed"},
        {"run": "1", "event": "end", "failures": 0},
        {"run": "2", "event": "begin", "playbook": "verify.yml"},
        {"run": "2", "event": "task", "task": "a", "host": "h", "outcome": "passed"},
        {"run": "2", "event": "task", "task": "b", "host": "h", "outcome": "skipped"},
        {"run": "2", "event": "task", "task": "c", "host": "h", "outcome": "failed"},
        {"run": "2", "event": "end", "failures": 1},
        {"run": "3", "event": "begin", "playbook": "destroy.yml"},
    ]
    file = tmp_path / "report.jsonl"
    file.write_text("".join(json.dumps(event) + "\n" for event in events))
    # Passed: converge, task a. Failed: task c, verify as a whole, and destroy, which was cut off.
    assert of_run_report(file) == Count(2, 3, 1)


def test_task_that_had_to_fail_and_was_rescued_is_no_step(tmp_path: Path) -> None:
    events = [
        {"run": "1", "event": "begin", "playbook": "verify.yml"},
        {"run": "1", "event": "task", "task": "refused", "host": "h", "outcome": "failed"},
        {"run": "1", "event": "task", "task": "and says so", "host": "h", "outcome": "passed"},
        {"run": "1", "event": "end", "failures": 0},
    ]
    file = tmp_path / "report.jsonl"
    file.write_text("".join(json.dumps(event) + "\n" for event in events))
    assert of_run_report(file) == Count(2, 0)
