# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The pytest plugin of the `capability` marker. tests/conftest.py loads it.

`@pytest.mark.capability("kvm", "vm.clone.linked", ran_against="real")` says that the test shows this. With
BAREFORGE_CAPABILITIES set to a file, what became of every marked test is written there as JSON. A test marked `real` must
not be skipped: where that happens it fails.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from capabilities.showings import Showing, ShowingError, of_mark

PROPERTY = "capability"
RECORD = pytest.StashKey["dict[str, Showing]"]()


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line(
        "markers", "capability(platform, *capabilities, ran_against): the test shows that the platform can do this"
    )
    config.stash[RECORD] = {}


def showings_of(item: pytest.Item) -> list[Showing]:
    """Return what a test's markers say. Raises ShowingError."""
    return [
        showing for mark in item.iter_markers("capability") for showing in of_mark(mark.args, mark.kwargs, item.nodeid)
    ]


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Refuse markers that say too little, and hand what the others say to the reports."""
    for item in session.items:
        try:
            for showing in showings_of(item):
                _record(session.config, showing)
                item.user_properties.append((PROPERTY, json.dumps(dataclasses.asdict(showing))))
        except ShowingError as error:
            raise pytest.UsageError(str(error)) from error


def _record(config: pytest.Config, showing: Showing) -> None:
    config.stash[RECORD][f"{showing.shown_by} {showing.platform} {showing.capability}"] = showing


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn the skip of a test marked `real` into a failure."""
    report = yield
    if report.skipped and any(showing.ran_against == "real" for showing in showings_of(item)):
        report.outcome = "failed"
        # A failure that was expected is a skip as well; pytest would not count it.
        vars(report).pop("wasxfail", None)
        report.longrepr = f"{item.nodeid} is marked to show a capability on the real thing and was skipped."
    return report


class Recorder:
    """Keeps what became of the marked tests, where all reports arrive: in the process that no worker is."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take a report of a phase; the worst of a test's phases counts."""
        for name, value in report.user_properties:
            if name == PROPERTY:
                showing = Showing(**json.loads(str(value)))
                key = f"{showing.shown_by} {showing.platform} {showing.capability}"
                known = self._config.stash[RECORD].get(key, showing)
                self._config.stash[RECORD][key] = dataclasses.replace(showing, outcome=_worse(known.outcome, report))


def _worse(outcome: str, report: Any) -> str:
    if "failed" in (outcome, report.outcome):
        return "failed"
    if "skipped" in (outcome, report.outcome):
        return "skipped"
    return "passed" if report.when == "call" or outcome == "passed" else outcome


def pytest_sessionstart(session: pytest.Session) -> None:
    """Start recording in the process that is no worker of pytest-xdist."""
    if not hasattr(session.config, "workerinput"):
        session.config.pluginmanager.register(Recorder(session.config), "capabilities-recorder")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write down what became of the marked tests."""
    file = os.environ.get("BAREFORGE_CAPABILITIES")
    if file and not hasattr(session.config, "workerinput"):
        records = [dataclasses.asdict(showing) for showing in session.config.stash[RECORD].values()]
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
