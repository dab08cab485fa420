# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One run at a time on a host, as far as this controller goes.

Proxmox VE has no lock that a client could hold over several calls. Runs from other controllers meet its digests and
the locks of its own tasks.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import time
from typing import Iterator, Optional

from ...errors import ConnectError

LOCK_TIMEOUT = 60.0


@contextlib.contextmanager
def run_lock(folder: Optional[str], address: str, timeout: float = LOCK_TIMEOUT) -> Iterator[None]:
    """Hold the lock of a host; the kernel lets go of it with the process, however that ends.

    folder: where lock files lie, None for no lock. address: what tells the host from others. timeout: seconds that another run is
    waited for.
    Raises ConnectError with the process that holds it.
    """
    if not folder:
        yield
        return
    name = hashlib.sha256(address.encode()).hexdigest()[:32]
    path = os.path.join(folder, f"bareforge-proxmox-{name}.lock")
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise ConnectError(f"the lock {path} cannot be opened: {error.strerror}") from error
    try:
        end = time.monotonic() + timeout
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= end:
                    holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
                    raise ConnectError(
                        f"another run, process {holder} on the controller, has held {path} for {timeout:.0f} s",
                        "Wait until it has ended, or end that process",
                    ) from None
            time.sleep(0.1)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
        yield
    finally:
        os.close(descriptor)
