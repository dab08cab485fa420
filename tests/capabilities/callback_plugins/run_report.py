# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Writes down what every task of a run did, for those who count and for those who check that a step was really run."""

from __future__ import annotations

DOCUMENTATION = r"""
name: run_report
type: notification
short_description: Writes what every task did to a file, one line of JSON an event
version_added: 0.1.0
description:
  - For the tests of this collection; see tests/capabilities/run_report.py, which reads it.
author:
  - Bareforge contributors (@bareforge)
options:
  file:
    description: Where to write; lines are appended. Nothing is written without it.
    type: path
    env:
      - name: BAREFORGE_RUN_REPORT
"""

import json
import os
import uuid
from typing import Any

from ansible.plugins.callback import CallbackBase


class CallbackModule(CallbackBase):
    """Appends a line of JSON an event."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "run_report"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._run = uuid.uuid4().hex

    def _write(self, event: str, **more: str | int) -> None:
        file = self.get_option("file")
        if file:
            with open(file, "a", encoding="utf-8") as output:
                output.write(json.dumps({"run": self._run, "event": event, **more}) + "\n")

    def _task(self, result: Any, outcome: str) -> None:
        self._write("task", task=str(result._task.get_name()), host=str(result._host.get_name()), outcome=outcome)

    def v2_playbook_on_start(self, playbook: Any) -> None:
        self._write("begin", playbook=os.path.basename(str(playbook._file_name)))

    def v2_runner_on_ok(self, result: Any) -> None:
        self._task(result, "passed")

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        # What was ignored has not shown anything either.
        self._task(result, "failed")

    def v2_runner_on_unreachable(self, result: Any) -> None:
        self._task(result, "failed")

    def v2_runner_on_skipped(self, result: Any) -> None:
        self._task(result, "skipped")

    def v2_playbook_on_stats(self, stats: Any) -> None:
        counts = [stats.summarize(host) for host in stats.processed]
        self._write("end", failures=sum(count["failures"] + count["unreachable"] for count in counts))
