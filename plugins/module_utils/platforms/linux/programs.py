# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Programs of a Linux host, run without a shell, and files that are there whole or not at all."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any, Mapping, Optional, Sequence

from ...errors import ApplyError, ReadError
from .saved_state import replace_file, sync_directory

ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    "SYSTEMD_COLORS": "0",
    # Else systemctl writes links below /etc/rc*.d that were not there before (systemd, docs/ENVIRONMENT.md).
    "SYSTEMCTL_SKIP_SYSV": "1",
}


def completed(
    argv: Sequence[str], timeout: float, stdin: str = "", environment: Optional[Mapping[str, str]] = None
) -> subprocess.CompletedProcess[str]:
    """Run a program with an argument list, and return what it printed and its status.

    timeout: in seconds. stdin: what it reads. environment: what it has beside :data:`ENVIRONMENT`.
    Raises OSError where it cannot be run, subprocess.TimeoutExpired.
    """
    return subprocess.run(
        list(argv),
        input=stdin,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=timeout,
        check=False,
        env={**ENVIRONMENT, **(environment or {})},
    )


def complaint_of(result: subprocess.CompletedProcess[str]) -> str:
    """Return what a program that failed said, on one line."""
    lines = [line.strip() for line in (result.stderr or result.stdout).split("\n") if line.strip()]
    return "; ".join(lines[:3]) or f"exit status {result.returncode}"


def run(argv: Sequence[str], stdin: str = "", what: Optional[str] = None, timeout: float = 120) -> str:
    """Run a program and return what it printed.

    stdin: what it reads, the only place for a secret. what: what did not work, for the message; its own words follow.
    timeout: in seconds.
    Raises ApplyError.
    """
    subject = what or f"{' '.join(argv)} failed"
    try:
        done = completed(argv, timeout, stdin)
    except subprocess.TimeoutExpired:
        raise ApplyError(f"{subject}: {argv[0]} was still busy after {timeout:.0f} s") from None
    except OSError as error:
        raise ApplyError(f"{subject}: {argv[0]} could not be run: {error.strerror or error}") from error
    if done.returncode != 0:
        raise ApplyError(f"{subject}: {complaint_of(done)}")
    return done.stdout


def read_text(path: str) -> Optional[str]:
    """Return the text of a file, bytes that are no UTF-8 as surrogates, or None where it is not there. Raises ReadError."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ReadError(f"{path} could not be read: {error.strerror or error}") from error


def write_text(path: str, text: str, mode: int = 0o644) -> None:
    """Put a file of root in place at once; the folders above it are made where they are missing. Raises ApplyError.

    mode: permission bits.
    """
    try:
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        replace_file(path, text.encode("utf-8", "surrogateescape"), mode)
    except OSError as error:
        raise ApplyError(f"{path} could not be written: {error.strerror or error}") from error


def remove(path: str) -> None:
    """Remove a file, if it is there, and make that last. Raises ApplyError."""
    try:
        os.unlink(path)
        sync_directory(os.path.dirname(path))
    except FileNotFoundError:
        return
    except OSError as error:
        raise ApplyError(f"{path} could not be removed: {error.strerror or error}") from error


def read_record(path: str) -> Any:
    """Return the data in a JSON file of ours, or an empty mapping where there is none. Raises ReadError."""
    text = read_text(path)
    if text is None:
        return {}
    try:
        data = json.loads(text)
    except ValueError as error:
        raise ReadError(f"{path} holds no JSON: {error}", "Remove the file and run again") from error
    if not isinstance(data, dict):
        raise ReadError(f"{path} is not what was written there", "Remove the file and run again")
    return data


def write_record(path: str, data: Any) -> None:
    """Replace a JSON file of ours, readable for root alone. Raises ApplyError."""
    write_text(path, json.dumps(data, indent=1, sort_keys=True) + "\n", 0o600)
