# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later


"""Which of the two keeps the host's interfaces: systemd-networkd or NetworkManager, as the host says it."""

from __future__ import annotations

import functools
import os

from .network_manager import NetworkManagerRenderer
from .network_renderer import NetworkRenderer
from .networkd_renderer import NetworkdRenderer
from .systemd import active_units

NETWORK_MANAGER_RUNS = "/run/NetworkManager"


@functools.lru_cache(maxsize=1)
def renderer() -> NetworkRenderer:
    """Return what keeps the host's interfaces. It is found out once for a process, which is a task.

    systemd-networkd wherever it runs, since it is what the platform was made for and files of it may be there already;
    NetworkManager where that runs and systemd-networkd does not. Where neither does, systemd-networkd is to come.
    Raises ReadError.
    """
    # Made when NetworkManager starts: where it is not there, no process is needed to know.
    if not os.path.isdir(NETWORK_MANAGER_RUNS):
        return NetworkdRenderer()
    active = active_units([NetworkdRenderer.UNIT, NetworkManagerRenderer.UNIT])
    is_managed = NetworkManagerRenderer.UNIT in active and NetworkdRenderer.UNIT not in active
    return NetworkManagerRenderer() if is_managed else NetworkdRenderer()
