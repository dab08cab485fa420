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

from ..engine.inventory import InventoryReader
from ..engine.platform import Platform
from ..errors import NotSupportedError, Problem

PLATFORMS: Dict[str, str] = {
    "kvm": "kvm.platform:KvmPlatform",
    "proxmox": "proxmox.platform:ProxmoxPlatform",
}

INVENTORY_READERS: Dict[str, str] = {
    "kvm": "kvm.inventory:KvmInventory",
    "proxmox": "proxmox.inventory:ProxmoxInventory",
}
"""Each is also among the interfaces of its platform, but can be loaded without the others."""


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


def inventory_reader(name: str) -> Type[InventoryReader]:
    """Return the class that reads a platform's VMs for an inventory.

    Raises NotSupportedError for a platform that does not exist or has none.
    """
    if name not in INVENTORY_READERS:
        allowed = ", ".join(sorted(INVENTORY_READERS))
        raise NotSupportedError([Problem("platform", f"{name!r} is not allowed; allowed is {allowed}")])
    module, _colon, cls = INVENTORY_READERS[name].partition(":")
    return getattr(importlib.import_module(f"{__package__}.{module}"), cls)
