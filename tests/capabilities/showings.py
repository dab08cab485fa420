# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What shows that a platform can do something: marked tests, and steps of molecule that a manifest names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from capabilities.run_report import read_run_report

ROOT = Path(__file__).resolve().parents[2]
# From what proves most to what proves least.
RAN_AGAINST = ("real", "independent simulator", "our simulator")
MANIFEST = "capabilities.yml"
_MANIFEST_KEYS = {"platform", "capability", "task", "ran_against"}


class ShowingError(Exception):
    """A marker or a manifest that says too little or something that is not allowed."""


@dataclass(frozen=True)
class Showing:
    """One test or step that shows one capability.

    platform: its name, as in the registry.
    capability: as the platform declares it, such as `virtual_network.vlan`.
    ran_against: one of RAN_AGAINST.
    shown_by: the test's id, or `molecule/SCENARIO: TASK`.
    outcome: passed, failed, skipped or not run.
    """

    platform: str
    capability: str
    ran_against: str
    shown_by: str
    outcome: str = "not run"


def of_mark(arguments: tuple[Any, ...], options: Mapping[str, Any], shown_by: str) -> list[Showing]:
    """Return what `@pytest.mark.capability(platform, *capabilities, ran_against=...)` says.

    Raises ShowingError.
    """
    if len(arguments) < 2 or not all(isinstance(argument, str) and argument for argument in arguments):
        raise ShowingError(f"{shown_by}: the capability marker wants a platform and at least one capability, as text.")
    if set(options) != {"ran_against"} or options["ran_against"] not in RAN_AGAINST:
        raise ShowingError(f"{shown_by}: the capability marker wants ran_against, one of {', '.join(RAN_AGAINST)}.")
    platform, *names = arguments
    return [Showing(platform, name, options["ran_against"], shown_by) for name in names]


def scenarios() -> list[str]:
    """Return the names of molecule's scenarios that say what they show."""
    return sorted(path.parent.name for path in (ROOT / "molecule").glob(f"*/{MANIFEST}"))


def of_scenario(scenario: str, folder: Path | None = None, report: Path | None = None) -> list[Showing]:
    """Return what a scenario's manifest says, with what became of each step.

    folder: of the scenario, if it is not the one of that name in molecule/.
    report: what the callback wrote in a run; without it nothing has run.
    Raises ShowingError for a manifest that names a task which the scenario has not, or lacks something.
    """
    folder = folder or ROOT / "molecule" / scenario
    manifest = folder / MANIFEST
    where = f"molecule/{scenario}/{MANIFEST}"
    if not manifest.exists():
        return []
    entries = yaml.safe_load(manifest.read_text(encoding="utf-8"))
    if not isinstance(entries, list):
        raise ShowingError(f"{where}: a list is wanted, of entries with {', '.join(sorted(_MANIFEST_KEYS))}.")
    verifying = [run for run in read_run_report(report) if run.verifies] if report else []
    tasks = verify_tasks(folder)
    found: list[Showing] = []
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, dict) or set(entry) != _MANIFEST_KEYS:
            raise ShowingError(f"{where}: entry {number} wants exactly {', '.join(sorted(_MANIFEST_KEYS))}.")
        if entry["ran_against"] not in RAN_AGAINST:
            raise ShowingError(f"{where}: entry {number}: ran_against is one of {', '.join(RAN_AGAINST)}.")
        if entry["task"] not in tasks:
            raise ShowingError(f"{where}: entry {number}: no verify playbook has a task named {entry['task']!r}.")
        outcomes = [run.outcome_of_task(entry["task"]) for run in verifying]
        outcome = next((word for word in ("failed", "passed", "skipped") if word in outcomes), "not run")
        names = entry["capability"] if isinstance(entry["capability"], list) else [entry["capability"]]
        found.extend(
            Showing(entry["platform"], name, entry["ran_against"], f"molecule/{scenario}: {entry['task']}", outcome)
            for name in names
        )
    return found


def verify_tasks(folder: Path) -> set[str]:
    """Return the names of all tasks in a scenario's verify playbooks and task files."""
    names: set[str] = set()
    files = [*folder.glob("verify*.yml"), *folder.glob("tasks/**/*.yml"), *folder.glob("verify/**/*.yml")]
    for file in files:
        names.update(_task_names(yaml.safe_load(file.read_text(encoding="utf-8"))))
    return names


def _task_names(node: Any) -> Iterable[str]:
    if isinstance(node, list):
        for item in node:
            yield from _task_names(item)
    elif isinstance(node, dict):
        # A play has a name as well, but is no task.
        if isinstance(node.get("name"), str) and "hosts" not in node:
            yield node["name"]
        for key in ("tasks", "pre_tasks", "post_tasks", "block", "rescue", "always"):
            yield from _task_names(node.get(key))
