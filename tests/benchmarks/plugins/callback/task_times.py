# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Writes how long each task took, for the benchmarks."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = r"""
name: task_times
type: aggregate
short_description: Writes how long each task took
description: Appends one JSON object a task and host to the file named by the environment variable BAREFORGE_TASK_TIMES.
author: Bareforge contributors
"""


class CallbackModule(CallbackBase):
    """Appends one JSON object a task and host."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "task_times"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._began = 0.0

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        self._began = time.monotonic()

    def _write(self, result: Any, failed: bool) -> None:
        entry = {
            "host": result._host.get_name(),
            "task": result._task.get_name(),
            "seconds": time.monotonic() - self._began,
            "changed": bool(result._result.get("changed")),
            "failed": failed,
            "message": str(result._result.get("msg", ""))[:2000] if failed else "",
        }
        with open(os.environ["BAREFORGE_TASK_TIMES"], "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def v2_runner_on_ok(self, result: Any) -> None:
        self._write(result, False)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        self._write(result, True)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        self._write(result, True)
