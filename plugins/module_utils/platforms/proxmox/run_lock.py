# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One run at a time on a host, as far as this controller goes.

Proxmox VE has no lock that a client could hold over several calls. Runs from other controllers meet its digests and
the locks of its own tasks.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from typing import ContextManager, Optional

from ..file_lock import LOCK_TIMEOUT, file_lock


def run_lock(folder: Optional[str], address: str, timeout: float = LOCK_TIMEOUT) -> ContextManager[None]:
    """Hold the lock of a host.

    folder: where lock files lie, None for no lock. address: what tells the host from others. timeout: seconds that another run is
    waited for.
    Raises ConnectError with the process that holds it.
    """
    if not folder:
        return contextlib.nullcontext()
    name = hashlib.sha256(address.encode()).hexdigest()[:32]
    return file_lock(os.path.join(folder, f"bareforge-proxmox-{name}.lock"), timeout, "controller", make_folder=True)
