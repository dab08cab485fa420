# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The catalogue of backups in a directory: what is there, what builds on what, and what is whole.

A target has a mark (`.bareforge-backups.json`) and in it one directory a VM, with one directory a backup, in which the
entry (`backup.json`) lies beside the files that it describes. All of it is written in a directory of another name, brought
to the disk and renamed: a backup that is there under its own name is whole. An incremental backup's images name the images
before them as their backing files, relatively, so that the whole target can be moved and read by qemu-img alone.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from dataclasses import dataclass, field
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Set, Tuple

from ...errors import ApplyError, ReadError
from ...model.compute import Backup
from ...model.types import show
from . import disk_images
from .file_names import name_problem
from .host_files import read_json, write_json

FORMAT = 1
TARGET_MARK = ".bareforge-backups.json"
ENTRY = "backup.json"
PARTIAL = ".partial"
REMOVING = ".removing"
HASH_BLOCK = 4 * 1024 * 1024


@dataclass(frozen=True)
class StoredFile:
    """A file of a backup.

    kind: disk, domain, seed, nvram or tpm.
    name: of the disk, for disks; file: its path within the backup's directory.
    size: in bytes; sha256: its checksum in hexadecimal.
    virtual_size: of a disk, in bytes; target: the disk's name on its bus, such as vda.
    builds_on: whether a disk shows only what has changed since the backup before.
    """

    kind: str
    file: str
    size: int
    sha256: str
    name: Optional[str] = None
    virtual_size: Optional[int] = None
    target: Optional[str] = None
    builds_on: bool = False

    def to_data(self) -> Dict[str, Any]:
        """Return it as plain data."""
        return {name: value for name, value in vars(self).items() if value not in (None, False)}


@dataclass(frozen=True)
class Entry:
    """A backup as the catalogue describes it.

    id: what tells it from any other, also from one of the same name that was made later.
    number: its place among the VM's backups in this target; the clock is not relied on.
    parent, parent_id: the backup that an incremental one builds on.
    checkpoint: libvirt's checkpoint that was made along with it, or None.
    uuid, power, autostart: of the VM when the backup was made. created: in UTC, as ISO 8601.
    """

    vm: str
    name: str
    id: str
    number: int
    mode: str
    quiesce: bool
    created: str
    host: str
    uuid: str
    power: str
    autostart: bool = False
    parent: Optional[str] = None
    parent_id: Optional[str] = None
    checkpoint: Optional[str] = None
    tools: Mapping[str, str] = field(default_factory=dict)
    files: Tuple[StoredFile, ...] = ()

    def disks(self) -> List[StoredFile]:
        """Return the images of its disks."""
        return [file for file in self.files if file.kind == "disk"]

    def find(self, kind: str) -> Optional[StoredFile]:
        """Return the first file of a kind, or None."""
        return next((file for file in self.files if file.kind == kind), None)

    @property
    def size(self) -> int:
        """What its files take, in bytes."""
        return sum(file.size for file in self.files)

    def to_data(self) -> Dict[str, Any]:
        """Return it as it stands in its file."""
        data = {name: value for name, value in vars(self).items() if value is not None}
        return {
            "format": FORMAT,
            **data,
            "tools": dict(self.tools),
            "files": [file.to_data() for file in self.files],
        }

    @classmethod
    def from_data(cls, data: Any, path: str) -> Entry:
        """Return the entry in a file. Raises ReadError that names the file where it is none."""
        try:
            if data["format"] != FORMAT:
                raise ReadError(f"{path} has format {show(data['format'])}; this collection reads format {FORMAT}")
            known = {name: data[name] for name in cls.__dataclass_fields__ if name in data}
            files = tuple(StoredFile(**file) for file in known.pop("files"))
            entry = cls(**known, files=files)
            texts = (entry.vm, entry.name, entry.id, entry.mode, entry.created, *(file.file for file in files))
            if not all(isinstance(text, str) for text in texts) or not isinstance(entry.number, int):
                raise TypeError
            if any(not _is_inside(file.file) for file in files) or name_problem(entry.parent or "parent"):
                raise TypeError
        except (KeyError, TypeError, AttributeError) as error:
            raise ReadError(f"{path} is no entry of a backup", "Restore the file, or remove its directory") from error
        return entry

    def to_backup(self, target: str) -> Backup:
        """Return the backup as the model has it."""
        return Backup(vm=self.vm, name=self.name, target=target, mode=self.mode, quiesce=self.quiesce)


def _is_inside(path: str) -> bool:
    parts = path.split("/")
    return all(part not in ("", ".", "..") for part in parts)


class ChainError(Exception):
    """A backup of which something is missing or has changed; the message names the file."""


class Target:
    """A directory that backups lie in."""

    def __init__(self, path: str) -> None:
        self.path = path

    def identity(self) -> Optional[str]:
        """Return what tells this target from another that is mounted in the same place, or None. Raises ReadError."""
        mark = read_json(os.path.join(self.path, TARGET_MARK)) if os.path.isdir(self.path) else None
        return str(mark["id"]) if isinstance(mark, dict) and "id" in mark else None

    def prepare(self) -> str:
        """Make the directory and its mark where they are missing, and return its identity. Raises ApplyError."""
        try:
            # Only the last part: what is missing above it is more likely a file system that is not mounted.
            if not os.path.isdir(self.path):
                os.mkdir(self.path)
                disk_images.make_directory(self.path, 0o711)
        except OSError as error:
            raise ApplyError(f"{self.path} cannot be made: {error.strerror or error}") from error
        known = self.identity()
        if known is not None:
            return known
        known = str(uuid.uuid4())
        write_json(os.path.join(self.path, TARGET_MARK), {"format": FORMAT, "id": known})
        return known

    def vm(self, vm: str) -> str:
        """Return the directory of a VM's backups."""
        return os.path.join(self.path, vm)

    def folder(self, vm: str, name: str) -> str:
        """Return the directory of a backup."""
        return os.path.join(self.path, vm, name)

    def partial(self, vm: str, name: str) -> str:
        """Return the directory in which a backup is being made."""
        return os.path.join(self.path, vm, f".{name}{PARTIAL}")

    def vms(self) -> List[str]:
        """Return the VMs that there are backups of. Raises ReadError."""
        return [name for name in _folders(self.path) if not name.startswith(".") and name != "lost+found"]

    def entries(self, vm: str, skip_damaged: bool = False) -> List[Entry]:
        """Return a VM's backups, the oldest first.

        skip_damaged: whether an entry that cannot be read is left out.
        Raises ReadError that names a file which is damaged.
        """
        found: List[Entry] = []
        for name in _folders(self.vm(vm)):
            if name.startswith("."):
                continue
            try:
                entry = self._entry(vm, name)
            except ReadError:
                if not skip_damaged:
                    raise
                continue
            if entry is not None:
                found.append(entry)
        return sorted(found, key=lambda entry: (entry.number, entry.name))

    def _entry(self, vm: str, name: str) -> Optional[Entry]:
        path = os.path.join(self.folder(vm, name), ENTRY)
        data = read_json(path)
        if data is None:
            if os.path.isdir(self.folder(vm, name)):
                raise ReadError(f"{path} is missing", "Restore the file, or remove its directory")
            return None  # removed meanwhile
        entry = Entry.from_data(data, path)
        if (entry.vm, entry.name) != (vm, name):
            raise ReadError(
                f"{path} describes backup {show(entry.name)} of VM {show(entry.vm)}",
                "Move the directory to where it belongs",
            )
        return entry

    def finish(self, entry: Entry) -> None:
        """Give a backup whose files lie in its partial directory its own name, once all is on the disk. Raises OSError."""
        partial = self.partial(entry.vm, entry.name)
        for file in entry.files:
            disk_images.settle(os.path.join(partial, file.file))
        write_json(os.path.join(partial, ENTRY), entry.to_data())
        os.chmod(partial, 0o700)
        disk_images.settle(partial, directory=False)
        os.rename(partial, self.folder(entry.vm, entry.name))
        disk_images.settle(self.vm(entry.vm), directory=False)

    def remove(self, vm: str, name: str) -> None:
        """Remove a backup: it is gone at once, and its files after that. Raises OSError."""
        going = os.path.join(self.vm(vm), f".{name}{REMOVING}")
        shutil.rmtree(going, ignore_errors=True)
        try:
            os.rename(self.folder(vm, name), going)
        except FileNotFoundError:
            return
        disk_images.settle(self.vm(vm), directory=False)
        shutil.rmtree(going)
        self.tidy(vm)

    def clean(self, vm: str) -> None:
        """Remove what killed runs have left of a VM's backups."""
        for name in _folders(self.vm(vm)):
            if name.startswith(".") and name.endswith((PARTIAL, REMOVING)):
                shutil.rmtree(os.path.join(self.vm(vm), name), ignore_errors=True)
        self.tidy(vm)

    def tidy(self, vm: str) -> None:
        """Remove the directory of a VM that there are no backups of."""
        try:
            os.rmdir(self.vm(vm))
        except OSError:
            return  # there are some, or it was never there

    def chain(self, entry: Entry, entries: Sequence[Entry]) -> List[Entry]:
        """Return a backup and all that it builds on, the full one first.

        Raises ChainError that names the entry which is missing or was made anew.
        """
        known = {other.name: other for other in entries}
        found = [entry]
        while found[0].mode == "incremental":
            child = found[0]
            path = os.path.join(self.folder(child.vm, str(child.parent)), ENTRY)
            parent = known.get(str(child.parent))
            if parent is None:
                raise ChainError(f"{path}, which backup {show(child.name)} builds on, is missing")
            if parent.id != child.parent_id or parent.number >= child.number:
                raise ChainError(f"{path} is not the backup that {show(child.name)} builds on, but another of its name")
            found.insert(0, parent)
        return found

    def check_chain(self, chain: Sequence[Entry], checksums: bool) -> None:
        """Compare the files of a chain with what the catalogue says of them.

        checksums: whether their contents are read; otherwise their sizes and what they build on are compared.
        Raises ChainError that names the first file that is missing or differs.
        """
        for position, entry in enumerate(chain):
            for file in entry.files:
                path = os.path.join(self.folder(entry.vm, entry.name), file.file)
                check_file(path, file, checksums)
                if file.kind == "disk":
                    parent = chain[position - 1] if file.builds_on and position else None
                    check_backing(path, file, parent)


def backing_name(parent: str, file: str) -> str:
    """Return how an image names the one in another backup of the VM, relative to its own directory."""
    return os.path.join("..", parent, file)


def check_backing(path: str, file: StoredFile, parent: Optional[Entry]) -> None:
    """Raise ChainError where an image refers to another file than the one that it builds on.

    Whoever can write to the target could otherwise have a restored guest shown any file of the host.
    """
    header = disk_images.read_qcow2(path)
    if header is None:
        raise ChainError(f"{path} is no qcow2 image")
    before = next((disk for disk in parent.disks() if disk.name == file.name), None) if parent is not None else None
    expected = backing_name(parent.name, before.file) if parent is not None and before is not None else None
    if header.external_data or header.backing != expected:
        raise ChainError(f"{path} builds on {show(header.backing)}, and it should build on {show(expected)}")


def check_file(path: str, file: StoredFile, checksums: bool) -> None:
    """Raise ChainError where a file is missing or is not what it was."""
    try:
        size = os.stat(path, follow_symlinks=False).st_size
        if size != file.size:
            raise ChainError(f"{path} has {size} bytes, and it had {file.size}")
        found = checksum(path) if checksums else file.sha256
    except OSError as error:
        raise ChainError(f"{path} cannot be read: {error.strerror or error}") from error
    if found != file.sha256:
        raise ChainError(f"{path} has changed: its SHA-256 is {found}, and it was {file.sha256}")


def checksum(path: str) -> str:
    """Return the SHA-256 of a file in hexadecimal. Raises OSError."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(HASH_BLOCK), b""):
            digest.update(block)
    return digest.hexdigest()


def _folders(path: str) -> List[str]:
    try:
        return sorted(entry.name for entry in os.scandir(path) if entry.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ReadError(f"{path} cannot be read: {error.strerror or error}") from error


def ancestors(name: str, entries: Iterable[Entry]) -> Iterator[str]:
    """Yield the names of the backups that one builds on, the nearest first."""
    parents = {entry.name: entry.parent for entry in entries}
    seen: Set[str] = {name}
    parent = parents.get(name)
    while parent is not None and parent not in seen:
        yield parent
        seen.add(parent)
        parent = parents.get(parent)


def expired(entries: Sequence[Entry], keep: int, coming: Optional[str] = None, mode: str = "full") -> List[str]:
    """Return the names of the backups that go where only the last ones are kept, the newest first.

    entries: of one VM in one target. keep: how many are kept, at least 1.
    coming: the name of one that is about to be made, in mode, or is there already; it is one of those that are kept.
    What a kept backup builds on is kept too, however old it is.
    """
    order = [entry.name for entry in sorted(entries, key=lambda entry: entry.number)]
    last = order[-1] if order else None
    if coming is not None and coming not in order:
        order.append(coming)
    kept = set(order[-keep:]) | ({coming} if coming is not None else set())
    for name in list(kept):
        start = last if name == coming and mode == "incremental" and name != last else None
        if start is not None:
            kept.add(start)
            kept.update(ancestors(start, entries))
        kept.update(ancestors(name, entries))
    return [name for name in reversed(order) if name not in kept]


class KnownTargets:
    """The targets that backups of this host's VMs lie in, and what is being done right now."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._file = os.path.join(folder, "targets.json")

    def read(self) -> Dict[str, List[str]]:
        """Return the identities that were seen at each path. Raises ReadError."""
        data = read_json(self._file)
        known = data.get("targets") if isinstance(data, dict) else None
        return {str(path): list(ids) for path, ids in known.items()} if isinstance(known, dict) else {}

    def add(self, path: str, identity: str) -> None:
        """Remember a target. Raises ApplyError."""
        known = self.read()
        if identity not in known.get(path, []):
            known.setdefault(path, []).append(identity)
            write_json(self._file, {"targets": known})

    def job_path(self, vm: str) -> str:
        """Return the path of what is being done with a VM, for a run that comes after one that was killed."""
        return os.path.join(self.folder, f"{vm}.job.json")

    def jobs(self) -> List[Dict[str, Any]]:
        """Return what killed runs were doing. Raises ReadError."""
        try:
            names = sorted(name for name in os.listdir(self.folder) if name.endswith(".job.json"))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ReadError(f"{self.folder} cannot be read: {error.strerror or error}") from error
        found = [read_json(os.path.join(self.folder, name)) for name in names if not name.startswith(".")]
        return [job for job in found if isinstance(job, dict) and "vm" in job]


def describe(target: str, entry: Entry) -> Dict[str, Any]:
    """Return what the catalogue says of a backup, for the user."""
    return {
        "vm": entry.vm,
        "name": entry.name,
        "target": target,
        "mode": entry.mode,
        "parent": entry.parent,
        "created": entry.created,
        "host": entry.host,
        "quiesce": entry.quiesce,
        "size": entry.size,
        "disks": [{"name": disk.name, "virtual_size": disk.virtual_size, "size": disk.size} for disk in entry.disks()],
        "tools": dict(entry.tools),
    }
