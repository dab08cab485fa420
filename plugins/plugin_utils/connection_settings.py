# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How an API is reached: what a task or a configuration says, then what the inventory's variables say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.bareforge.hypervisor.plugins.module_utils.boundary.connection import ConnectionSettings
from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import Problem, ValidateError
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.schema import Path

PREFIX = "bareforge_"


def resolve(wanted: ConnectionSettings | None, variable: Callable[[str], Any], host: str) -> dict[str, Any]:
    """Return the settings that a platform of a host is made with.

    wanted: what is said of them; what it leaves open is taken from inventory variables, and then from the defaults.
    variable: returns an inventory variable of the host, templated and plain, or None. host: its name in the inventory.
    Raises ValidateError with the variables' names.
    """
    problems: list[Problem] = []
    told = {name: variable(f"{PREFIX}{name}") for name in ConnectionSettings.options()}
    known = ConnectionSettings.read(told, Path("connection"), problems)
    if problems or known is None:
        raise ValidateError(
            Problem(f"{PREFIX}{problem.path.removeprefix('connection.')}", problem.message) for problem in problems
        )
    known = known.complete(None)
    settings = wanted.complete(known) if wanted is not None else known
    values = {name: value for name, _entry, value in settings.items()}
    values.setdefault("host", variable("ansible_host") or host)
    return values
