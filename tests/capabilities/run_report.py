# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a scenario of molecule did, as callback_plugins/run_report.py wrote it down: one line of JSON an event."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

# Of several hosts or loop items the worst counts; a task that was skipped on one host and ran on another has run.
_WORST_FIRST = ("failed", "passed", "skipped")


@dataclass
class PlaybookRun:
    """One run of ansible-playbook.

    playbook: file name, such as `verify.yml`.
    results: for every task by name, what became of it on every host: passed, failed or skipped.
    failures: how many tasks failed in the end, rescued ones not counted; None if the run was cut off.
    """

    playbook: str
    results: dict[str, list[str]] = field(default_factory=dict)
    failures: int | None = None

    @property
    def verifies(self) -> bool:
        """Return whether the tasks are tests."""
        return self.playbook.startswith("verify")

    def outcome_of_task(self, task: str) -> str:
        """Return passed, failed or skipped, or `not run` for a task that was not reached."""
        found = self.results.get(task, [])
        return next((outcome for outcome in _WORST_FIRST if outcome in found), "not run")

    def outcome(self) -> str:
        """Return whether the playbook as a whole passed or failed; one that was cut off has failed."""
        return "passed" if self.failures == 0 else "failed"

    def steps(self) -> list[str]:
        """Return what became of each task that is a test. One that had to fail, and was rescued, is none."""
        outcomes = [self.outcome_of_task(task) for task in self.results] if self.verifies else []
        return [outcome for outcome in outcomes if not (outcome == "failed" and self.outcome() == "passed")]


def read_run_report(file: Path) -> list[PlaybookRun]:
    """Return the playbooks that were run, in their order; none if nothing was written. A line cut off by a kill is left out."""
    runs: dict[str, PlaybookRun] = {}
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if event["event"] == "begin":
            runs[event["run"]] = PlaybookRun(event["playbook"])
        elif event["event"] == "task":
            runs[event["run"]].results.setdefault(event["task"], []).append(event["outcome"])
        elif event["event"] == "end":
            runs[event["run"]].failures = event["failures"]
    return list(runs.values())
