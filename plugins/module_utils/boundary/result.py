# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The result of a task: what it is made of when it went well, and when it did not."""

from __future__ import annotations

import os
import traceback
from typing import Mapping, Optional

from ..engine.platform import Platform
from ..errors import BareforgeError
from ..model.schema import Plain
from ..model.types import show
from .definitions import Call, ModuleDefinition, Progress

SHOW_TRACEBACK_FROM = 3
"""The verbosity (-vvv) from which a failure carries its traceback."""


def perform(
    definition: ModuleDefinition,
    platform: Platform,
    call: Call,
    check: bool = False,
    diff: bool = False,
    progress: Progress = None,
) -> Plain:
    """Do what a task asks for and return its result.

    check, diff: whether the task runs in check mode, and whether it shows the difference. The difference is the plan,
        so that it is the same in check mode and without.
    Raises the errors of :mod:`errors`. The platform's session is closed in any case.
    """
    try:
        result = definition.perform(platform, call, check, progress)
    finally:
        platform.close()
    planned = result.pop("planned", None)
    if diff and planned is not None:
        result["diff"] = {"before": _without_empty(result["before"]), "after": _without_empty(planned)}
    return result


def failure(error: Exception, verbosity: int = 0, host: Optional[str] = None) -> Plain:
    """Return the result of a task that broke off.

    verbosity: how often -v was given.
    host: the host's name, where it is known.
    """
    result: Plain = {"failed": True, "changed": False}
    if isinstance(error, BareforgeError):
        result.update(error.details)
        result.update(msg=error.sentence(host), phase=error.phase)
    else:
        where = f"{host}: " if host else ""
        result.update(msg=f"{where}{type(error).__name__}: {_first_line(error)} ({_place(error)})", phase="internal")
    result["changed"] = bool(result.get("changes_made"))
    if verbosity >= SHOW_TRACEBACK_FROM:
        result["exception"] = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    return result


def with_host(result: Mapping[str, object], host: Optional[str]) -> Plain:
    """Return a failed result that was made where the host's name is not known with that name in its message."""
    named = dict(result)
    if named.get("failed") and "phase" in named and host:
        named["msg"] = f"{host}: {named['msg']}"
    return named


def _without_empty(document: Plain) -> Plain:
    return {section: objects for section, objects in document.items() if objects}


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else show(error)


def _place(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return "place unknown"
    folder, name = os.path.split(frames[-1].filename)
    return f"{os.path.basename(folder)}/{name}, line {frames[-1].lineno}"
