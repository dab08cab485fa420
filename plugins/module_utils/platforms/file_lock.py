# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One run at a time, by a lock on a file."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from typing import Iterator, Optional

from ..errors import ConnectError

LOCK_TIMEOUT = 60.0


@contextlib.contextmanager
def file_lock(
    path: str, timeout: float, machine: str, make_folder: bool = False, hint: Optional[str] = None
) -> Iterator[None]:
    """Hold a lock (flock(2)); the kernel lets go of it with the process, however that ends.

    timeout: how many seconds another run is waited for. machine: where the file is, for the message.
    make_folder: whether the folder that it lies in is made. hint: what to do where it cannot be opened.
    Raises ConnectError, with the process that holds it where another one does.
    """
    try:
        if make_folder:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise ConnectError(f"the lock {path} cannot be opened: {error.strerror}", hint) from error
    try:
        _take(descriptor, timeout, path, machine)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, timeout: float, path: str, machine: str) -> None:
    deadline = time.monotonic() + timeout
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
                raise ConnectError(
                    f"another run, process {holder} on the {machine}, has held {path} for {timeout:.0f} s",
                    "Wait until it has ended, or end that process",
                ) from None
        time.sleep(0.1)
