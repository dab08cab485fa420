# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Shows a run as one line a step, with the time that has passed."""

from __future__ import annotations

DOCUMENTATION = r"""
name: progress
type: stdout
short_description: Shows a run as one line a step, with the time that has passed
version_added: 0.1.0
description:
  - Prints a line when a task starts, and one a host when it is done, with the time since the start of the run and the
    time that the task took. Skipped tasks are shown with O(show_skipped) only.
  - A failure is shown with its message, its hint and what had been changed by then.
author: Bareforge contributors (@bareforge)
options:
  show_skipped:
    description: Whether skipped tasks are shown.
    type: bool
    default: false
    ini:
      - section: callback_progress
        key: show_skipped
    env:
      - name: BAREFORGE_PROGRESS_SHOW_SKIPPED
requirements:
  - Set as stdout callback in the configuration.
"""

import time
from typing import Any

from ansible import constants
from ansible.plugins.callback import CallbackBase


def clock(seconds: float) -> str:
    """Return a duration as minutes and seconds, or hours, minutes and seconds."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:2}:{rest:02}"


class CallbackModule(CallbackBase):
    """One line a step."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "bareforge.hypervisor.progress"

    def __init__(self) -> None:
        super().__init__()
        self._run_began = time.monotonic()
        self._task_began = self._run_began

    def _line(self, text: str, color: str | None = None) -> None:
        self._display.display(f"[{clock(time.monotonic() - self._run_began)}] {text}", color=color)

    def v2_playbook_on_play_start(self, play: Any) -> None:
        self._line(f"== {play.get_name().strip() or 'play'}", constants.COLOR_HIGHLIGHT)

    def _task_starts(self, task: Any) -> None:
        self._task_began = time.monotonic()
        self._line(f"   {task.get_name().strip()}")

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        self._task_starts(task)

    def v2_playbook_on_handler_task_start(self, task: Any) -> None:
        self._task_starts(task)

    def _done(self, result: Any, word: str, color: str, more: str = "") -> None:
        took = time.monotonic() - self._task_began
        text = f"     {result._host.get_name()}: {word}"
        if took >= 1:
            text += f" after {took:.0f} s"
        self._line(f"{text}{more}", color)

    def v2_runner_on_ok(self, result: Any) -> None:
        if result._task.action in constants._ACTION_INCLUDE_TASKS:
            return
        changed = bool(result._result.get("changed"))
        changes = result._result.get("changes") or []
        more = "".join(
            f"\n             {change['action']} {change['kind'].replace('_', ' ')} {change['key']}"
            for change in changes
            if isinstance(change, dict) and {"action", "kind", "key"} <= set(change)
        )
        if result._task.action in constants._ACTION_DEBUG and result._result.get("msg"):
            more = f"\n{result._result['msg']}"
        color = constants.COLOR_CHANGED if changed else constants.COLOR_OK
        self._done(result, "changed" if changed else "ok", color, more)
        self._handle_warnings(result._result)
        if self._display.verbosity:
            self._display.display(self._dump_results(result._result))

    def v2_runner_on_skipped(self, result: Any) -> None:
        if self.get_option("show_skipped"):
            self._done(result, "skipped", constants.COLOR_SKIP)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        message = str(result._result.get("msg") or "no message").strip()
        more = f"\n{message}"
        for stream in ("stderr", "stdout"):
            if result._result.get(stream):
                more += f"\n{stream}: {str(result._result[stream]).strip()[-2000:]}"
        for item in result._result.get("results") or []:
            if isinstance(item, dict) and item.get("failed"):
                more += f"\n{item.get('item')}: {item.get('msg')}"
        self._done(result, "FAILED", constants.COLOR_ERROR, more)
        if self._display.verbosity:
            self._display.display(self._dump_results(result._result))

    def v2_runner_item_on_failed(self, result: Any) -> None:
        item = self._get_item_label(result._result)
        self._done(result, f"FAILED ({item})", constants.COLOR_ERROR, f"\n{result._result.get('msg')}")

    def v2_runner_on_unreachable(self, result: Any) -> None:
        self._done(result, "UNREACHABLE", constants.COLOR_UNREACHABLE, f"\n{result._result.get('msg')}")

    def v2_on_file_diff(self, result: Any) -> None:
        if result._result.get("diff"):
            text = self._get_diff(result._result["diff"])
            if text:
                self._display.display(text)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        for host in sorted(stats.processed):
            counts = stats.summarize(host)
            failed = counts["failures"] + counts["unreachable"]
            self._line(
                f"== {host}: {counts['ok']} ok, {counts['changed']} changed, {failed} failed",
                constants.COLOR_ERROR if failed else constants.COLOR_OK,
            )
