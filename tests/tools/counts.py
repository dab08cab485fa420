# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How many tests passed, failed and were skipped, read from what the tools leave behind."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from capabilities.run_report import read_run_report  # noqa: E402


@dataclass(frozen=True)
class Count:
    """Numbers of tests."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(self.passed + other.passed, self.failed + other.failed, self.skipped + other.skipped)

    def __str__(self) -> str:
        skipped = f", {self.skipped} skipped" if self.skipped else ""
        return f"{self.passed} passed, {self.failed} failed{skipped}"


def of_junit(files: Iterable[Path]) -> Count:
    """Return the test cases of JUnit files; a file that is missing or was not finished counts as nothing."""
    total = Count()
    for file in files:
        try:
            root = ElementTree.parse(file).getroot()
        except (FileNotFoundError, ElementTree.ParseError):
            continue
        for case in root.iter("testcase"):
            if case.find("failure") is not None or case.find("error") is not None:
                total += Count(failed=1)
            elif case.find("skipped") is not None:
                total += Count(skipped=1)
            else:
                total += Count(passed=1)
    return total


def of_run_report(file: Path) -> Count:
    """Return the steps of a scenario of molecule: every playbook that was run, and every task of those that verify."""
    total = Count()
    for run in read_run_report(file):
        for outcome in (run.outcome(), *run.steps()):
            total += Count(**{outcome: 1})
    return total
