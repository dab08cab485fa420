# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One run at a time on a host."""

from __future__ import annotations

from typing import ContextManager

from ..file_lock import LOCK_TIMEOUT, file_lock

LOCK_FILE = "/run/bareforge.lock"


def host_lock(timeout: float = LOCK_TIMEOUT, path: str = LOCK_FILE) -> ContextManager[None]:
    """Hold the lock of the host.

    timeout: how many seconds another run is waited for.
    Raises ConnectError with the process that holds it.
    """
    return file_lock(path, timeout, "host", hint="Run the task as root (become: true)")
