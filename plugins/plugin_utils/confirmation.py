# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The second half of the guard: coming back over a new connection to confirm a change to the management path."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from ansible.errors import AnsibleConnectionFailure

from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import ConnectError, GuardError, one_line

PAUSE = 1.0
"""Seconds between two attempts to reach the host."""

MARGIN = 10.0
"""Seconds that the host is given, after its timer has ended, to undo, before it is asked whether it has."""

PATIENCE = 45.0
"""Seconds that it is asked for again where it does not answer: a busy host takes a while, and its answer is worth it."""

HINT = "Correct what cuts off the controller and run again"

MOST_NAMES = 6

UNREACHABLE = (ConnectError, AnsibleConnectionFailure)


def confirm(
    guard: dict[str, Any], reach: Callable[[str], None], sleep: Callable[[float], None] = time.sleep
) -> dict[str, Any]:
    """Confirm a guarded change and return the guard's part of the task's result.

    guard: what the engine returned: `token`, `timeout` in seconds, and `guarded`, the changes.
    reach: called with `confirmed` or `undone`; connects to the host anew and tells its guard. Raises ConnectError or
        AnsibleConnectionFailure where the host does not answer, and GuardError where the guard has run already.
    Raises GuardError where the change could not be confirmed, after the host had time to undo it.
    """
    began = time.monotonic()
    timeout = float(guard["timeout"])
    while True:
        try:
            reach("confirmed")
        except UNREACHABLE as error:
            if time.monotonic() - began + PAUSE > timeout:
                raise GuardError(*_undone(guard, reach, sleep, began, one_line(str(error)))) from error
            sleep(PAUSE)
        except GuardError as error:
            names = shown(guard["guarded"])
            raise GuardError(
                f"{names}: the change could not be confirmed within {timeout:.0f} s: {error.message}",
                "If the host is only slow, give it longer with guard: {timeout: SECONDS}",
            ) from error
        else:
            return {"guarded": guard["guarded"], "confirmed": True, "seconds": round(time.monotonic() - began, 1)}


def shown(names: Sequence[str]) -> str:
    """Return the names of what was guarded for a sentence; of many only the first."""
    return ", ".join(names if len(names) <= MOST_NAMES else [*names[:MOST_NAMES], f"{len(names) - MOST_NAMES} more"])


def _undone(
    guard: dict[str, Any], reach: Callable[[str], None], sleep: Callable[[float], None], began: float, reason: str
) -> tuple[str, str]:
    sleep(max(0.0, float(guard["timeout"]) + MARGIN - (time.monotonic() - began)))
    names = shown(guard["guarded"])
    message = f"{names}: after the change the host could not be reached within {guard['timeout']} s ({reason})"
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            reach("undone")
        except UNREACHABLE:
            if time.monotonic() + PAUSE > deadline:
                return (
                    message,
                    "It should have undone the change by itself, but does not answer yet; look at its console",
                )
            sleep(PAUSE)
        except GuardError as error:
            # Nothing is left to undo, which is what a guard that has done its work says.
            return f"{message}; {error.message}", HINT
        else:
            return f"{message}; the host undid the change and answers again", HINT
