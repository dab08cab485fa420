# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Processes of the lab: running tools, locks between builders, daemons with a pid file, progress for the user."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from lab.errors import LabError

_STARTED = time.monotonic()


def progress(text: str) -> None:
    """Print one progress line with the seconds since this command began to standard error."""
    elapsed = int(time.monotonic() - _STARTED)
    print(f"[{elapsed // 60:3d}:{elapsed % 60:02d}] lab: {text}", file=sys.stderr, flush=True)


def run(argv: Sequence[str | os.PathLike[str]], *, log: Path | None = None, stdin: bytes | None = None) -> bytes:
    """Run ``argv`` and return its standard output; with ``log`` both outputs are appended to that file instead.

    Raises LabError with the last lines of the output if the program is missing or fails.
    """
    words = [os.fspath(word) for word in argv]
    began = 0
    try:
        if log is None:
            done = subprocess.run(words, input=stdin, capture_output=True, check=False)
            said = done.stderr or done.stdout
        else:
            with log.open("ab") as sink:
                sink.write(f"$ {shlex.join(words)}\n".encode())
                sink.flush()
                began = sink.tell()
                done = subprocess.run(words, input=stdin, stdout=sink, stderr=subprocess.STDOUT, check=False)
            said = b""
    except FileNotFoundError as error:
        raise LabError(f"{words[0]} is not installed: run `python3 tests/lab prerequisites --install`.") from error
    if done.returncode != 0:
        if log is not None:
            said = log.read_bytes()[began:]
        tail = b" / ".join(said.strip().splitlines()[-4:]).decode(errors="replace")
        where = f" (log: {log})" if log is not None else ""
        raise LabError(f"{words[0]} ended with status {done.returncode}{where}: {tail}")
    return done.stdout or b""


def as_root(argv: Sequence[str | os.PathLike[str]]) -> list[str]:
    """Return ``argv`` as root runs it: unchanged for root, behind ``sudo -n`` for everyone else."""
    words = [os.fspath(word) for word in argv]
    return words if os.geteuid() == 0 else ["sudo", "-n", *words]


@contextlib.contextmanager
def locked(path: Path, waiting_for: str) -> Iterator[None]:
    """Hold an exclusive lock on the file ``path``; say ``waiting_for`` once if another process has it.

    The kernel drops the lock with the process that holds it, so a killed builder blocks nobody.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(f"waiting for {waiting_for} in another process")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def command_line(pid: int) -> list[str]:
    """Return the words of the running process ``pid`` from /proc, or an empty list if there is none."""
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return []
    return [word.decode(errors="replace") for word in raw.split(b"\0")[:-1]]


def pid_of(pid_file: Path) -> int | None:
    """Return the pid in ``pid_file`` if that process is ours, otherwise None.

    Ours is a process whose own command line names this very pid file: a pid that the kernel has given to
    another program since then is never taken for ours.
    """
    try:
        pid = int(pid_file.read_text().strip())
    except (FileNotFoundError, ValueError):
        return None
    if pid <= 1 or os.fspath(pid_file) not in command_line(pid):
        return None
    return pid


def stop(pid_file: Path, *, patience: float = 20.0) -> bool:
    """End the process of ``pid_file`` (TERM, then KILL after ``patience`` seconds) and remove the file.

    Returns whether there was such a process. A foreign process under a recycled pid is left alone.
    """
    pid = pid_of(pid_file)
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
            if not wait_for_end(pid_file, patience):
                os.kill(pid, signal.SIGKILL)
                wait_for_end(pid_file, 10)
    pid_file.unlink(missing_ok=True)
    return pid is not None


def wait_for_end(pid_file: Path, patience: float) -> bool:
    """Wait until the process of ``pid_file`` is gone; returns False after ``patience`` seconds."""
    deadline = time.monotonic() + patience
    while (pid := pid_of(pid_file)) is not None:
        if _is_zombie(pid):
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def start_daemon(argv: Sequence[str], pid_file: Path, log: Path) -> int:
    """Start ``argv`` in a session of its own with its output in ``log`` and return its pid.

    ``pid_file`` must be one of the words of ``argv``, because that is how `pid_of` knows the process again.
    """
    if os.fspath(pid_file) not in argv:
        raise ValueError(f"{pid_file} is not a word of the command line {argv}")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as sink:
        child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, start_new_session=True)
    write_atomically(pid_file, f"{child.pid}\n")
    return child.pid


def write_atomically(path: Path, text: str, mode: int = 0o644) -> None:
    """Write ``text`` to ``path`` through a temporary name, so that a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w", encoding="utf-8") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    os.replace(beside, path)
