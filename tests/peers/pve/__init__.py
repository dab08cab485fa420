# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A Proxmox VE API to test against: fakepve, an independent simulator, and our own reading of what it keeps no state for.

`PvePeer` is fakepve with stateful handlers beside its own, each from what pve-manager, qemu-server and pve-access-control do;
`Serving` runs it on 127.0.0.1 in a thread. Every request is checked against the vendor's description of the API; what does not
fit is answered with PVE's 400 and remembered in `violations`.

State of our own: the node's network with its staging, users, groups, roles and access control, the node's name resolution, time and
hosts, disks that are resized, added and taken off a VM's configuration, hot-plugging, imports, backups.
"""

from __future__ import annotations

from .peer import PvePeer
from .serving import Serving, certificate

__all__ = ["PvePeer", "Serving", "certificate"]
