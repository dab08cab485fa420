# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a host was like before it was hardened, kept on the host so that it can be brought back, byte by byte.

`state.json` says what was changed for which rules; `originals/` holds the content of files that were changed in place,
each under its SHA-256. Both are written before the host is changed, so that a run that is killed can be reverted.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import os
import stat
from typing import Any, Dict, List, Optional

from ...errors import ReadError

DIRECTORY = "/var/lib/bareforge/hardening"
FORMAT = 1


def digest(content: Optional[bytes]) -> Optional[str]:
    """Return the SHA-256 of a file's content, or None where there is no file."""
    return None if content is None else hashlib.sha256(content).hexdigest()


def read_bytes(path: str) -> Optional[bytes]:
    """Return the content of a file, or None where it is not there."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


def sync_directory(path: str) -> None:
    """Make a rename or removal in a folder survive a crash."""
    number = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def new_name(path: str) -> str:
    """Return the name that a file has until it is complete; a second run uses the same one and so leaves none behind."""
    return os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.bareforge-new")


def replace_file(
    path: str, content: bytes, mode: int, uid: int = 0, gid: int = 0, modified_ns: Optional[int] = None
) -> None:
    """Put a file in place at once: a reader sees the old one or the new one, whole.

    mode: permission bits. modified_ns: its time of change in ns since 1970, or None for now.
    Extended attributes of a file that is replaced are kept.
    """
    temporary = new_name(path)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    number = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with open(number, "wb") as file:
        file.write(content)
        file.flush()
        os.fchown(number, uid, gid)
        os.fchmod(number, mode)
        _copy_attributes(path, number)
        if modified_ns is not None:
            os.utime(number, ns=(modified_ns, modified_ns))
        os.fsync(number)
    os.replace(temporary, path)
    sync_directory(os.path.dirname(path))


def _copy_attributes(path: str, number: int) -> None:
    try:
        names = os.listxattr(path)
    except OSError:
        return  # a new file, or a file system without attributes
    for name in names:
        os.setxattr(number, name, os.getxattr(path, name))


class SavedState:
    """The saved state of a host.

    files: by path: `original` (None where there was no file, else sha256, mode, uid, gid, modified_ns), `written` (SHA-256
        of everything written to it), `format` and `assignments` (by key: value, rules).
    permissions: by path: mode, uid, gid, rules. sysctls: by path below /proc/sys: value, rules.
    units: by name: state, active, rules. modules: by name: rules; those that were unloaded.
    pending: units whose restart or reload is due, by name: action, rules.
    guarded: files that were last changed under a guard, by path: `entry` of `files` before, `before` and `after` (SHA-256).
    """

    PARTS = ("files", "permissions", "sysctls", "units", "modules", "pending", "guarded")

    def __init__(self, directory: Optional[str] = None) -> None:
        self.directory = directory or DIRECTORY
        self.parts: Dict[str, Dict[str, Any]] = {part: {} for part in self.PARTS}

    @property
    def path(self) -> str:
        """The path of the state file."""
        return os.path.join(self.directory, "state.json")

    def load(self) -> SavedState:
        """Read the saved state; it is empty where nothing was saved. Raises ReadError where it cannot be understood."""
        content = read_bytes(self.path)
        if content is not None:
            try:
                data = json.loads(content)
                if data["format"] != FORMAT:
                    raise ReadError(f"{self.path} has format {data['format']!r}; this version reads {FORMAT}")
                self.parts = {part: dict(data[part]) for part in self.PARTS}
                self._take_note_of_undone()
            except (ValueError, KeyError, TypeError) as error:
                raise ReadError(f"{self.path} cannot be read: {error}") from None
        return self

    def _take_note_of_undone(self) -> None:
        """Forget changes that the guard has undone: it brings files back, and knows nothing of what is written here."""
        for path, record in self.parts["guarded"].items():
            if digest(read_bytes(path)) == record["before"] != record["after"]:
                self.parts["files"].pop(path, None)
                if record["entry"] is not None:
                    self.parts["files"][path] = record["entry"]
        self.parts["guarded"] = {}

    def copy(self) -> SavedState:
        """Return a copy that can be changed on its own."""
        other = SavedState(self.directory)
        other.parts = copy.deepcopy(self.parts)
        return other

    def is_empty(self) -> bool:
        """Return whether there is nothing to bring back."""
        return not any(self.parts.values())

    def rules(self) -> List[str]:
        """Return the ids of the rules for which something was changed."""
        found: Dict[str, None] = {}
        for part in ("permissions", "sysctls", "units", "modules"):
            for entry in self.parts[part].values():
                found.update(dict.fromkeys(entry["rules"]))
        for file in self.parts["files"].values():
            for assignment in file["assignments"].values():
                found.update(dict.fromkeys(assignment["rules"]))
        return list(found)

    def prepare(self) -> None:
        """Make the folder, readable for root alone."""
        os.makedirs(self.directory, mode=0o700, exist_ok=True)
        for path in (os.path.dirname(self.directory), self.directory):
            if stat.S_IMODE(os.stat(path).st_mode) & 0o022:
                os.chmod(path, 0o700)
        os.makedirs(os.path.join(self.directory, "originals"), mode=0o700, exist_ok=True)

    def save(self) -> None:
        """Write the state; where there is nothing to bring back any more, it goes with the originals."""
        originals = os.path.join(self.directory, "originals")
        if self.is_empty():
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)
        else:
            data = {"format": FORMAT, **self.parts}
            replace_file(self.path, json.dumps(data, indent=1, sort_keys=True).encode("utf-8"), 0o600)
        files = [*self.parts["files"].values(), *(record["entry"] for record in self.parts["guarded"].values())]
        used = {file["original"]["sha256"] for file in files if file and file["original"]}
        for name in os.listdir(originals):
            if name not in used:
                os.unlink(os.path.join(originals, name))

    def keep_original(self, content: bytes) -> str:
        """Keep the content of a file and return its SHA-256."""
        name = hashlib.sha256(content).hexdigest()
        path = self.original_path(name)
        if read_bytes(path) != content:
            replace_file(path, content, 0o600)
        return name

    def original_path(self, sha256: str) -> str:
        """Return where the content of a file is kept."""
        return os.path.join(self.directory, "originals", sha256)

    def original(self, sha256: str) -> bytes:
        """Return the content of a file as it was. Raises ReadError where it was lost or changed."""
        content = read_bytes(self.original_path(sha256))
        if content is None or hashlib.sha256(content).hexdigest() != sha256:
            raise ReadError(f"{self.original_path(sha256)} is missing or was changed")
        return content
