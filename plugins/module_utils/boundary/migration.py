# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One step of a migration on one of its two hosts: from a request in plain data to an answer in plain data."""

from __future__ import annotations

import os
from typing import Any, Mapping

from ..model.schema import Plain


def answer(request: Mapping[str, Any]) -> Plain:
    """Do a step and return what comes of it.

    request: `platform`, its name, and the step as the platform's `migration` interface has it.
    The answer has `result`, or `failure`, the result of a task that broke off: nothing is raised.
    """
    from ..errors import AuthenticateError, NotSupportedError, Problem
    from ..platforms.on_host import ON_HOST
    from .result import failure

    try:
        if os.geteuid() != 0:
            raise AuthenticateError("the task needs root on the host", "Say become: true")
        platform = ON_HOST[request["platform"]]()
        step = next((interface.step for interface in platform.interfaces if hasattr(interface, "step")), None)
        if step is None:
            raise NotSupportedError([Problem("destination", f"platform {platform.NAME} cannot move VMs")])
        return {"result": step(request)}
    except Exception as error:  # noqa: BLE001 - the one boundary: whatever it is, the controller is told in one sentence
        return {"failure": failure(error, int(request.get("verbosity") or 0))}
