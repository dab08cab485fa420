# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One run at a time on a host."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from typing import Iterator

from ...errors import ConnectError

LOCK_FILE = "/run/bareforge.lock"
LOCK_TIMEOUT = 60.0


@contextlib.contextmanager
def host_lock(timeout: float = LOCK_TIMEOUT, path: str = LOCK_FILE) -> Iterator[None]:
    """Hold the lock of the host (flock(2)); the kernel lets go of it with the process, however that ends.

    timeout: how many seconds another run is waited for.
    Raises ConnectError with the process that holds it.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise ConnectError(
            f"{path} cannot be opened: {error.strerror}", "Run the task as root (become: true)"
        ) from error
    try:
        _take(descriptor, timeout, path)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, timeout: float, path: str) -> None:
    deadline = time.monotonic() + timeout
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
                raise ConnectError(
                    f"another run, process {holder} on the host, has held {path} for {timeout:.0f} s",
                    "Wait until it has ended, or end that process",
                ) from None
        time.sleep(0.1)
