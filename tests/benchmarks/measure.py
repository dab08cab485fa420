# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Running playbooks with the time of every task, and the form in which a figure is printed."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PLUGINS = ROOT / "tests" / "benchmarks" / "plugins"


class BenchmarkError(Exception):
    """A run failed, so nothing was measured."""


@dataclass
class Figure:
    """One ratio.

    name: of the figure; ratio: a over b; goal: the bound; at_least: whether the ratio shall reach it or stay below it.
    detail: the two medians, as text.
    """

    name: str
    ratio: float
    goal: float
    at_least: bool
    detail: str

    @property
    def met(self) -> bool:
        """Whether the goal is met."""
        return self.ratio >= self.goal if self.at_least else self.ratio <= self.goal

    def __str__(self) -> str:
        sign = ">=" if self.at_least else "<="
        verdict = "met" if self.met else "missed"
        return f"bench {self.name} {self.ratio:.2f}x goal {sign}{self.goal:g}x {verdict}  ({self.detail})"


@dataclass
class TaskTime:
    """How long one task took on one host."""

    task: str
    seconds: float
    changed: bool


def run_playbook(
    plays: Sequence[dict[str, Any]], inventory: Path, command: Sequence[str] | None = None
) -> list[TaskTime]:
    """Run plays and return the time of every task in order.

    command: what takes the place of ansible-playbook.
    Raises BenchmarkError with the failed task's message if one fails: an aborted play looks fast.
    """
    with tempfile.TemporaryDirectory() as folder:
        playbook = Path(folder) / "play.json"
        playbook.write_text(json.dumps(list(plays)), encoding="utf-8")
        times = Path(folder) / "times"
        times.touch()
        done = subprocess.run(
            [
                *(command or [str(Path(sys.executable).with_name("ansible-playbook"))]),
                "-i",
                str(inventory),
                str(playbook),
            ],
            cwd=ROOT,
            env={
                **os.environ,
                "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
                "ANSIBLE_CALLBACK_PLUGINS": str(PLUGINS / "callback"),
                "ANSIBLE_CALLBACKS_ENABLED": "task_times",
                "ANSIBLE_LIBRARY": str(PLUGINS / "modules"),
                "ANSIBLE_ACTION_PLUGINS": str(PLUGINS / "action"),
                "BAREFORGE_TASK_TIMES": str(times),
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        entries = [json.loads(line) for line in times.read_text(encoding="utf-8").splitlines()]
        failed = [entry for entry in entries if entry["failed"]]
        if failed or done.returncode:
            reason = f"{failed[0]['task']}: {failed[0]['message']}" if failed else (done.stderr or done.stdout)[-2000:]
            raise BenchmarkError(reason)
        return [TaskTime(entry["task"], entry["seconds"], entry["changed"]) for entry in entries]


def median(values: Sequence[float]) -> float:
    """Return the median of times in seconds."""
    if not values:
        raise BenchmarkError("nothing was measured")
    return statistics.median(values)
