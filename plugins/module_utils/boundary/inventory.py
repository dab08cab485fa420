# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reading a host for the inventory: from a request in plain data to an answer in plain data, in the worker or on the host."""

from __future__ import annotations

from typing import Any, List, Mapping

from ..model.schema import Plain


def answer(request: Mapping[str, Any]) -> Plain:
    """Return what a host's platform tells of its VMs.

    request: `platform`, its name; `sources`, `agent_timeout` and `settings` as InventoryReader.vms has them.
    The answer has `vms` and `warnings`, or `error` with `phase` and `message`: nothing is raised.
    """
    from ..errors import BareforgeError
    from ..platforms.registry import inventory_reader

    warnings: List[str] = []
    try:
        reader = inventory_reader(request["platform"])()
        vms = reader.vms(request["sources"], request["agent_timeout"], request["settings"], warnings)
        return {"vms": [vm.to_plain() for vm in vms], "warnings": warnings}
    except BareforgeError as error:
        return {"error": {"phase": error.phase, "message": error.sentence()}}
    except Exception as error:  # noqa: BLE001 - the one boundary: whatever it is, the controller is told in one sentence
        return {"error": {"phase": "internal", "message": f"{type(error).__name__}: {error}"}}
