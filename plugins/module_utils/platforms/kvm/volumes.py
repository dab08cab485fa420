# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The disks of VMs where they lie: qcow2 files in directories, and raw logical volumes.

A disk has its name once it is whole. What is on its way to that outside of the VM's own directory stands in a journal
in that directory, so that the run after one that was killed knows what to take away.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import Any, Dict, Iterable, List, Optional

from ...errors import ApplyError
from ...model.types import show
from . import block_devices, disk_images, host_files
from .disk_images import MIB, ImageError
from .file_names import DiskFile

JOURNAL = ".volumes"
PARTIAL = ".partial"
FULL = (errno.ENOSPC, errno.EDQUOT)
# What qemu-img and lvcreate say.
FULL_TEXTS = ("No space left on device", "Disk quota exceeded", "has insufficient free space")


def exists(file: DiskFile) -> bool:
    """Return whether there is a disk. Raises ReadError."""
    return block_devices.volume_exists(file.path) if file.is_block else os.path.lexists(file.path)


def size_at(path: str) -> Optional[int]:
    """Return the size of a disk in bytes, None where it cannot be read."""
    try:
        if path.startswith("/dev/"):
            return block_devices.device_size(path)
        header = disk_images.read_qcow2(path)
    except OSError:
        return None
    return header.size if header is not None else None


def make(
    file: DiskFile,
    size: Optional[int],
    thick: bool,
    template: Optional[str] = None,
    linked: bool = False,
) -> None:
    """Make a disk.

    size: in bytes; the template's where None. thick: whether a file takes its space at once.
    template: the qcow2 image that it shows, or None for an empty disk. linked: whether it refers to that image.
    Raises ImageError, OSError, ApplyError. Nothing is left where it fails.
    """
    if file.is_block:
        _make_volume(file, size, template)
        return

    def write(partial: str) -> None:
        if template is None:
            disk_images.create(partial, size, preallocate=thick)
        elif linked:
            disk_images.create(partial, size, backing=os.path.realpath(template))
        elif thick:
            disk_images.convert(template, "qcow2", partial, preallocate=True, foreign=False)
            grow(DiskFile(partial), size, thick)
        else:
            disk_images.copy(template, partial)
            grow(DiskFile(partial), size, thick)

    disk_images.make(file.path, write)


def _make_volume(file: DiskFile, size: Optional[int], template: Optional[str]) -> None:
    group, name = str(file.group), os.path.basename(file.path)
    needed = 0
    if template is not None:
        header = disk_images.read_qcow2(template)
        if header is None:
            raise ImageError(f"the template {template} is no qcow2 image")
        needed = header.size
    found = block_devices.read_lvm().groups.get(group)
    if found is None:
        raise ImageError(f"the volume group {show(group)} is not there any more")
    whole = -(-(size or needed) // found.extent) * found.extent
    partial = DiskFile(f"{file.path}{PARTIAL}", "raw", group)
    remove(partial)
    block_devices.create_volume(group, os.path.basename(partial.path), whole)
    try:
        if template is not None:
            disk_images.write_raw(template, partial.path)
        block_devices.write_zeros(partial.path, needed, whole - needed)
        block_devices.rename_volume(group, os.path.basename(partial.path), name)
    except BaseException:
        with contextlib.suppress(ApplyError):
            remove(partial)
        raise


def grow(file: DiskFile, size: Optional[int], thick: bool) -> None:
    """Make a disk that nobody uses meanwhile larger; one that is large enough is left as it is.

    size: in bytes. thick: whether a file takes the added space at once.
    Raises ImageError, OSError, ApplyError.
    """
    if size is None:
        return
    if file.is_block:
        block_devices.extend_volume(file.path, size)
        return
    header = disk_images.read_qcow2(file.path)
    if header is not None and size > header.size:
        disk_images.grow(file.path, size, preallocate=thick)


def remove(file: DiskFile) -> None:
    """Remove a disk; one that is not there is gone. Raises OSError, ApplyError."""
    if file.is_block:
        block_devices.remove_volume(file.path)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(file.path)


def file_at(path: str) -> DiskFile:
    """Return the disk at a path that stands in a domain."""
    if path.startswith("/dev/"):
        return DiskFile(path, "raw", path[len("/dev/") :].split("/", 1)[0])
    return DiskFile(path)


def explain(error: Exception, place: str, pool: Optional[str], file: DiskFile, needed: Optional[int]) -> ApplyError:
    """Return what is said of a disk that could not be made: of a pool that is full, its name and how many bytes.

    place: the disk's in the document. needed: the bytes that it could take at most, where that is known.
    """
    full = isinstance(error, OSError) and error.errno in FULL
    full = full or any(text in str(error) for text in FULL_TEXTS)
    if full:
        where = f"storage pool {show(pool)}" if pool else f"the directory {os.path.dirname(file.path)}"
        group = block_devices.read_lvm().groups.get(file.group) if file.group is not None else None
        free = group.free if group is not None else disk_images.free_bytes(os.path.dirname(file.path))
        wanted = f" of {needed} bytes" if needed else ""
        return ApplyError(f"{place}: {where} is full: a disk{wanted} does not fit, and {free} bytes are free")
    if isinstance(error, OSError):
        return ApplyError(f"{place}: {error.strerror or error} ({error.filename or file.path})")
    return ApplyError(f"{place}: {getattr(error, 'message', None) or error}")


def write_journal(directory: str, files: Iterable[DiskFile]) -> None:
    """Write down which disks outside of a VM's directory are being made or removed. Raises ApplyError."""
    entries = [file.path for file in files if os.path.dirname(file.path) != directory]
    if entries:
        host_files.write_json(os.path.join(directory, JOURNAL), {"unfinished": entries})


def forget_journal(directory: str) -> None:
    """Say that nothing is being made or removed any more. Raises ApplyError."""
    host_files.remove_file(os.path.join(directory, JOURNAL))


def clean_up(directory: str, whole: bool) -> None:
    """Remove what the journal of a VM's directory names.

    whole: whether the VM stays, so that only what is not whole yet goes: what is there under its own name is a disk.
    Raises OSError, ApplyError.
    """
    path = os.path.join(directory, JOURNAL)
    found: Any = host_files.read_json(path)
    entries: List[str] = found.get("unfinished", []) if isinstance(found, Dict) else []
    for entry in entries:
        file = file_at(entry)
        remove(DiskFile(f"{entry}{PARTIAL}", file.format, file.group))
        if not whole:
            remove(file)
    host_files.remove_file(path)


def mib(size: Optional[int]) -> Optional[int]:
    """Return a size in bytes in whole MiB."""
    return size // MIB if size is not None else None
