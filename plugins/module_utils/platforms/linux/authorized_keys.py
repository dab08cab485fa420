# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The public keys that let a user in (sshd(8), AUTHORIZED_KEYS FILE FORMAT), in a home folder that may be hostile.

A home folder belongs to its user, who can put links, pipes and other folders wherever we look. So every step is taken
from an open folder and follows no link, and what is written is written with the user's own rights: whatever it leads
to, nothing happens that the user could not have done without us.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import Callable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from ...errors import ApplyError
from ...model.access import SSH_KEY

FOLDER = ".ssh"
FILE = "authorized_keys"
OTHER_FILE = "authorized_keys2"
"""The second file that sshd reads by default: a key that is left there lets in as well."""
TEMPORARY = ".authorized_keys.bareforge-new"
MAXIMUM_BYTES = 1024 * 1024

_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Account(NamedTuple):
    """Whose keys: the user's ids and the home folder."""

    uid: int
    gid: int
    home: str


class _OddError(Exception):
    """What is there is not what sshd takes, or not what can be told as a list of keys."""


def read_keys(account: Account) -> Optional[Tuple[str, ...]]:
    """Return the keys of a user, sorted; None where what is there cannot be told as a list of plain keys.

    That is so where lines have options, where a link or a pipe stands in the place of a file, and where owner or modes
    are such that sshd does not take the keys (StrictModes in sshd_config(5)).
    """
    try:
        with _opened_folder(account) as folder:
            if folder is None:
                return ()
            if _read_file(account, folder, OTHER_FILE):
                return None
            return tuple(sorted(_read_file(account, folder, FILE)))
    except (_OddError, OSError):
        return None


@contextlib.contextmanager
def _opened_folder(account: Account) -> Iterator[Optional[int]]:
    with contextlib.ExitStack() as stack:
        try:
            home = os.open(account.home, _FOLDER_FLAGS)
            stack.callback(os.close, home)
            folder = os.open(FOLDER, _FOLDER_FLAGS, dir_fd=home)
            stack.callback(os.close, folder)
        except FileNotFoundError:
            yield None
            return
        for number in (home, folder):
            _refuse_if_loose(os.fstat(number), account)
        yield folder


def _refuse_if_loose(status: os.stat_result, account: Account) -> None:
    if status.st_uid not in (0, account.uid) or stat.S_IMODE(status.st_mode) & 0o022:
        raise _OddError


def _read_file(account: Account, folder: int, name: str) -> List[str]:
    try:
        number = os.open(name, _FILE_FLAGS, dir_fd=folder)
    except FileNotFoundError:
        return []
    with open(number, "rb") as file:
        status = os.fstat(number)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAXIMUM_BYTES:
            raise _OddError
        _refuse_if_loose(status, account)
        text = file.read(MAXIMUM_BYTES + 1).decode("utf-8", "surrogateescape")
    # What follows a key is its comment, blanks at its end included.
    lines = [line.lstrip(" \t") for line in text.split("\n")]
    keys = [line for line in lines if line.strip() and not line.startswith("#")]
    try:
        return list(dict.fromkeys(SSH_KEY.parse(key) for key in keys))
    except ValueError:
        raise _OddError from None


def write_keys(account: Account, keys: Sequence[str]) -> None:
    """Make a list of keys all that lets a user in by key: `.ssh` with mode 0700, the file with 0600, both the user's own.

    keys: in the form of the model; none removes the file.
    Raises ApplyError.
    """
    content = "".join(f"{key}\n" for key in keys).encode("utf-8")
    _write_as_user(account, lambda: _replace(account, content))


def with_line(account: Account, line: str, mark: str) -> None:
    """Add a line to what lets a user in by key, in the place of all that end with a mark; what else is there stays.

    line: a key with options, ending with the mark. Raises ApplyError.
    """
    _write_as_user(account, lambda: _exchange(account, mark, f"{line}\n".encode()))


def without_line(account: Account, mark: str) -> None:
    """Remove the lines that end with a mark from what lets a user in by key. Raises ApplyError."""
    _write_as_user(account, lambda: _exchange(account, mark, b""))


def _exchange(account: Account, mark: str, line: bytes) -> None:
    present = b""
    with _opened_folder(account) as folder:
        if folder is not None:
            try:
                number = os.open(FILE, _FILE_FLAGS, dir_fd=folder)
            except FileNotFoundError:
                number = -1
            if number >= 0:
                with open(number, "rb") as file:
                    status = os.fstat(number)
                    if not stat.S_ISREG(status.st_mode) or status.st_size > MAXIMUM_BYTES:
                        raise OSError(errno.EINVAL, "is no file of keys", FILE)
                    present = file.read(MAXIMUM_BYTES + 1)
    if present and not present.endswith(b"\n"):
        present += b"\n"
    ending = f" {mark}\n".encode()
    kept = b"".join(entry for entry in present.splitlines(keepends=True) if not entry.endswith(ending))
    if kept + line != present:
        _replace(account, kept + line, only=True)


def _write_as_user(account: Account, write: Callable[[], None]) -> None:
    problem = _as_user(account, write)
    if problem:
        raise ApplyError(f"the SSH keys below {account.home} could not be written: {problem}")


def _as_user(account: Account, write: Callable[[], None]) -> str:
    """Write with the rights of the user, in a process of its own; return what went wrong, or an empty text."""
    here, there = os.pipe()
    child = os.fork()
    if child == 0:
        message = b""
        try:
            os.close(here)
            if os.geteuid() == 0:
                os.setgroups([])
                # The real ids stay root's, so that the user can neither trace nor end this process.
                os.setegid(account.gid)
                os.seteuid(account.uid)
            write()
        except _OddError:
            message = f"{FOLDER}: its owner or its modes are such that sshd takes no keys from it".encode()
        except OSError as error:
            message = f"{error.filename or FOLDER}: {error.strerror or error}".encode("utf-8", "replace")
        except BaseException as error:  # noqa: BLE001 - nothing may get out of the child
            message = repr(error).encode("utf-8", "replace")
        finally:
            os.write(there, message[:1000])
            os._exit(1 if message else 0)
    os.close(there)
    with open(here, "rb") as stream:
        message = stream.read()
    status = os.waitpid(child, 0)[1]
    if message or status == 0:
        return message.decode("utf-8", "replace")
    return f"the process that writes them ended with status {status}"


def _replace(account: Account, content: bytes, only: bool = False) -> None:
    """Write the file of keys. only: whether the second file that sshd reads stays as it is."""
    os.umask(0o077)
    home = os.open(account.home, _FOLDER_FLAGS)
    try:
        folder = os.open(FOLDER, _FOLDER_FLAGS, dir_fd=home)
    except FileNotFoundError:
        if not content:
            return
        os.mkdir(FOLDER, 0o700, dir_fd=home)
        folder = os.open(FOLDER, _FOLDER_FLAGS, dir_fd=home)
    os.fchmod(folder, 0o700)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(TEMPORARY, dir_fd=folder)
    if content:
        number = os.open(
            TEMPORARY, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder
        )
        with open(number, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(number, 0o600)
            os.fsync(number)
        os.rename(TEMPORARY, FILE, src_dir_fd=folder, dst_dir_fd=folder)
    for name in (*(() if content else (FILE,)), *(() if only else (OTHER_FILE,))):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)
    os.fsync(folder)
