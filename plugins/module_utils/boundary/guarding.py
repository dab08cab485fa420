# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One step of a guard on a node that is otherwise reached through an API: from a request to an answer, both plain data."""

from __future__ import annotations

import os
from typing import Any, Mapping

from ..model.schema import Plain


def answer(request: Mapping[str, Any]) -> Plain:
    """Do a step and return what comes of it.

    request: `step`: `arm` stores the undo of `parts` with its timer of `timeout` seconds, where the host is the one that
        `node` names, and returns its `token`; `confirm` and `undo` take that token.
    The answer has `result`, or `failure`, the result of a task that broke off: nothing is raised.
    """
    from ..errors import AuthenticateError
    from ..platforms.proxmox.node_guard import NodeGuard
    from .result import failure

    try:
        if os.geteuid() != 0:
            raise AuthenticateError("a guard needs root on the node", "Say ansible_become: true")
        guard = NodeGuard()
        step = request["step"]
        if step == "arm":
            guard.check(str(request["node"]))
            guard.recover()
            return {"result": guard.arm_parts(request["parts"], int(request["timeout"]))}
        {"confirm": guard.confirm, "undo": guard.undo}[step](str(request["token"]))
        return {"result": {}}
    except Exception as error:  # noqa: BLE001 - the one boundary: whatever it is, the controller is told in one sentence
        return {"failure": failure(error, int(request.get("verbosity") or 0))}
