# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The platforms by name.

A platform is one folder here and one line in PLATFORMS; one that runs on the host has a second line in
`platforms/on_host.py`, since Ansible ships only what a module imports by name.
"""

from __future__ import annotations

import importlib
from typing import Dict, Type

from ..engine.platform import Platform
from ..errors import NotSupportedError, Problem

PLATFORMS: Dict[str, str] = {
    "kvm": "kvm.platform:KvmPlatform",
}


def platform_class(name: str) -> Type[Platform]:
    """Return the class of a platform.

    name: as in the inventory variable `bareforge_platform`.
    Raises NotSupportedError for a platform that does not exist.
    """
    if name not in PLATFORMS:
        raise NotSupportedError(
            [Problem("platform", f"{name!r} is not allowed; allowed is {', '.join(sorted(PLATFORMS))}")]
        )
    module, _colon, cls = PLATFORMS[name].partition(":")
    return getattr(importlib.import_module(f"{__package__}.{module}"), cls)
