# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Disk images: what they are, whether they can be trusted, and making them.

A foreign image is told by its first bytes and looked into here before qemu-img opens it, because qemu-img reads
whatever other file an image names as its backing file, data file or extent: with `/etc/shadow` there, the host's
secrets end up in a guest. qemu-img is given the format always and never left to guess.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import resource
import stat
import struct
import subprocess
import tarfile
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence
from xml.etree import ElementTree

from ...errors import ApplyError
from ...model.types import show

MIB = 1024 * 1024
QCOW2_MAGIC = b"QFI\xfb"
# qcow2 specification, "Header": version, backing file's offset and size, cluster bits, size, …, snapshots, features.
QCOW2_HEADER = struct.Struct(">4sIQIIQIIQQIIQQQQ")
EXTERNAL_DATA_FILE = 1 << 2
# The names that qemu-img has for the model's formats.
DRIVERS = {"qcow2": "qcow2", "raw": "raw", "vmdk": "vmdk", "vhdx": "vhdx", "vhd": "vpc"}
VMDK_ALLOWED = "allowed is one of type monolithicSparse or streamOptimized"
VMDK_SPARSE_CAPACITY = slice(12, 20)
COMMAND_SECONDS = 6 * 3600
PROBE_SECONDS = 60


class ImageError(Exception):
    """An image that is not taken; the message says why, without naming the image."""


@dataclass(frozen=True)
class Qcow2:
    """What the header of a qcow2 image says.

    size: of the disk, in bytes; backing: the file it refers to, or None.
    external_data: whether its data lies elsewhere; snapshots: the number of internal snapshots.
    """

    size: int
    backing: Optional[str]
    external_data: bool
    snapshots: int


def read_qcow2(path: str) -> Optional[Qcow2]:
    """Return the header of a qcow2 image, or None where the file is none. Raises OSError.

    Source: qcow2 specification in QEMU's docs/interop/qcow2.txt.
    """
    with open(path, "rb") as image:
        start = image.read(QCOW2_HEADER.size)
        if len(start) < 72 or start[:4] != QCOW2_MAGIC:
            return None
        fields = QCOW2_HEADER.unpack(start.ljust(QCOW2_HEADER.size, b"\0"))
        version, offset, length, size, snapshots = fields[1], fields[2], fields[3], fields[5], fields[11]
        incompatible = fields[13] if version >= 3 else 0
        backing = None
        if offset:
            image.seek(offset)
            backing = image.read(min(length, 1023)).decode("utf-8", "replace")
        return Qcow2(size, backing, bool(incompatible & EXTERNAL_DATA_FILE), snapshots)


def find_format(path: str) -> str:
    """Return the format of an image file by what stands in it: qcow2, vmdk, vhdx, vhd, ova or raw.

    Raises ImageError for what is none of these and no raw image either.
    """
    with open(path, "rb") as image:
        start = image.read(512)
        image.seek(0, os.SEEK_END)
        length = image.tell()
        image.seek(max(0, length - 512))
        end = image.read(512)
    if start[:4] == QCOW2_MAGIC:
        return "qcow2"
    if start[:4] in (b"KDMV", b"COWD") or start.lstrip().startswith(b"# Disk DescriptorFile"):
        return "vmdk"
    if start[:8] == b"vhdxfile":
        return "vhdx"
    if b"conectix" in (start[:8], end[:8]):
        return "vhd"
    if start[257:262] == b"ustar":
        return "ova"
    if length == 0 or length % 512:
        raise ImageError(f"its length of {length} bytes is that of no disk image")
    # Formats that qemu-img would find here and that nobody has asked for (luks, vdi, dmg, …) are not raw disks.
    found = str(_run_json(["qemu-img", "info", "--output=json", "--", path]).get("format"))
    if found != "raw":
        raise ImageError(f"its format is {found}; allowed is qcow2, raw, vmdk, vhdx, vhd or ova")
    return "raw"


def refuse_references(path: str, format: str) -> None:
    """Raise ImageError where an image refers to another file: a backing file, a data file, an extent."""
    if format == "qcow2":
        header = read_qcow2(path)
        if header is None:
            raise ImageError("it is no qcow2 image")
        if header.backing is not None:
            raise ImageError(f"it has the backing file {header.backing!a}; allowed is an image that stands alone")
        if header.external_data:
            raise ImageError("its data lies in another file; allowed is an image that stands alone")
    elif format == "vmdk":
        _refuse_vmdk_references(path)


def _refuse_vmdk_references(path: str) -> None:
    # VMware's "Virtual Disk Format 5.0": a sparse extent with its descriptor inside is the only kind that stands alone.
    with open(path, "rb") as image:
        start = image.read(512)
        if start[:4] != b"KDMV":
            raise ImageError(f"it is a VMDK whose data lies in other files; {VMDK_ALLOWED}")
        (capacity,) = struct.unpack("<Q", start[VMDK_SPARSE_CAPACITY])
        offset, length = struct.unpack("<QQ", start[28:44])
        if capacity == 0:
            raise ImageError(f"it is a VMDK whose data lies in other files; {VMDK_ALLOWED}")
        image.seek(offset * 512)
        descriptor = image.read(min(length * 512, MIB)).partition(b"\0")[0].decode("latin-1")
    kind = re.search(r'^createType\s*=\s*"([^"]*)"', descriptor, re.MULTILINE | re.IGNORECASE)
    if kind is None or kind.group(1).lower() not in ("monolithicsparse", "streamoptimized"):
        shown = ascii(kind.group(1)) if kind else "unknown"
        raise ImageError(f"it is a VMDK of type {shown}; {VMDK_ALLOWED}")
    parent = re.search(r"^parentCID\s*=\s*([0-9a-fA-F]+)", descriptor, re.MULTILINE | re.IGNORECASE)
    if (parent and parent.group(1).lower() != "ffffffff") or "parentfilenamehint" in descriptor.lower():
        raise ImageError("it is a VMDK that builds on a parent; allowed is an image that stands alone")
    extents = re.findall(r"^(?:RW|RDONLY)\s.*$", descriptor, re.MULTILINE)
    if len(extents) != 1 or not re.match(r"RW\s+[0-9]+\s+SPARSE\s", extents[0]):
        raise ImageError("it is a VMDK of several extents; allowed is one")


@dataclass(frozen=True)
class Inspection:
    """What qemu-img says of an image: its driver, the disk's size and the size of its file in bytes."""

    driver: str
    size: int
    file_size: int


def inspect(path: str, format: str) -> Inspection:
    """Return what qemu-img says of an image whose format is known. Raises ImageError where it is not to be trusted."""
    info = _run_json(["qemu-img", "info", "--output=json", "-f", DRIVERS[format], "--", path])
    for key in ("backing-filename", "full-backing-filename"):
        if info.get(key):
            raise ImageError(f"it has the backing file {info[key]!a}; allowed is an image that stands alone")
    data = (info.get("format-specific") or {}).get("data") or {}
    if data.get("data-file"):
        raise ImageError("its data lies in another file; allowed is an image that stands alone")
    if data.get("corrupt"):
        raise ImageError("it is marked as corrupt")
    if info.get("encrypted"):
        raise ImageError("it is encrypted")
    return Inspection(str(info.get("format")), int(info["virtual-size"]), int(info.get("actual-size") or 0))


def measure(path: str) -> int:
    """Return how many bytes a copy of the disk in a qcow2 image, with all that it builds on, takes at most.

    It may be in use. Raises ImageError with what qemu-img says.
    """
    command = ["qemu-img", "measure", "--output=json", "-U", "-f", "qcow2", "-O", "qcow2", "--", path]
    return int(_run_json(command)["required"])


def medium_problem(path: str) -> Optional[str]:
    """Return why a file cannot be the image in a CD-ROM drive, or None where it can.

    Source: ECMA-119 (ISO 9660) 8.1, ECMA-167 2/9.1: both put volume descriptors at byte 32768, with a name in bytes 1 to 5.
    """
    # virt-aa-helper, which lets QEMU have the file, refuses paths with quotes and globs.
    if not os.path.isabs(path) or not all(c.isalnum() or c in "/ ._+-" for c in path):
        return f"{show(path)} is no path that a VM can be given; allowed are letters, digits, blanks and / . _ + -"
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return f"{show(path)} is no regular file on the host"
        with open(path, "rb") as image:
            image.seek(32768)
            start = image.read(6)[1:]
    except OSError as error:
        return f"{show(path)} cannot be read on the host: {error.strerror}"
    if start not in (b"CD001", b"BEA01"):
        return f"{show(path)} is no image of a CD or DVD: it has neither an ISO 9660 nor a UDF file system"
    return None


def ova_disk(path: str) -> tarfile.TarInfo:
    """Return the member of an OVA (DSP0243, an archive with one OVF descriptor) that is its disk.

    Raises ImageError where it has none or several, or where the descriptor cannot be read.
    """
    try:
        with tarfile.open(path, "r:") as archive:
            members = {member.name: member for member in archive if member.isreg()}
            descriptors = [member for name, member in members.items() if name.endswith(".ovf")]
            if len(descriptors) != 1 or descriptors[0].size > 4 * MIB:
                raise ImageError(f"it has {len(descriptors)} OVF descriptors; allowed is one of at most 4 MiB")
            content = archive.extractfile(descriptors[0])
            if content is None:
                raise AssertionError("not reached: content is None")
            names = list(_ovf_disks(content.read()))
    except (tarfile.TarError, EOFError) as error:
        raise ImageError(f"it cannot be read as a tar archive ({error})") from error
    if len(names) != 1:
        raise ImageError(f"it has {len(names)} disks; allowed is an OVA of one disk")
    if names[0] not in members:
        raise ImageError(f"its disk {names[0]!a} is not in it")
    return members[names[0]]


def _ovf_disks(descriptor: bytes) -> Iterator[str]:
    try:
        if b"<!DOCTYPE" in descriptor:
            raise ImageError("its OVF descriptor has a document type, which can hide anything")
        root = ElementTree.fromstring(descriptor)
    except ElementTree.ParseError as error:
        raise ImageError(f"its OVF descriptor is no XML ({error})") from error

    def attribute(element: ElementTree.Element, name: str) -> Optional[str]:
        return next((value for key, value in element.attrib.items() if key.rpartition("}")[2] == name), None)

    files: Dict[Optional[str], Optional[str]] = {}
    for element in root.iter():
        if element.tag.rpartition("}")[2] == "File":
            if attribute(element, "compression") not in (None, "identity"):
                raise ImageError("its disk is compressed within the OVA; allowed is one that is not")
            files[attribute(element, "id")] = attribute(element, "href")
    for element in root.iter():
        if element.tag.rpartition("}")[2] == "Disk":
            reference = attribute(element, "fileRef")
            if reference is None:
                continue
            yield files.get(reference) or ""


def extract(archive_path: str, member: tarfile.TarInfo, target: str) -> None:
    """Write a member of a tar archive to a file; its name in the archive is not used. Raises OSError."""
    with open(archive_path, "rb") as archive, open(target, "wb") as output:
        archive.seek(member.offset_data)
        copy_bytes(archive, output, member.size)


def copy_bytes(source: Any, target: Any, length: int, block: int = MIB) -> None:
    """Copy a number of bytes between files, leaving holes for zeros. Raises OSError where the source ends early."""
    left = length
    while left > 0:
        data = source.read(min(block, left))
        if not data:
            raise OSError(f"it ends {left} bytes too early")
        write_sparse(target, data)
        left -= len(data)
    target.truncate()


def write_sparse(target: Any, data: bytes) -> None:
    """Write data at a file's position; a block of zeros becomes a hole. The file must be truncated at its end."""
    if data.count(0) == len(data):
        target.seek(len(data), os.SEEK_CUR)
    else:
        target.write(data)


def convert(source: str, format: str, target: str, preallocate: bool = False, foreign: bool = True) -> None:
    """Write the disk that is in an image, with all that it builds on, as a qcow2 image that stands alone.

    foreign: whether the image comes from elsewhere, so that qemu-img is limited in what it may take.
    Raises ImageError with what qemu-img says.
    """
    options = ["-o", "preallocation=falloc"] if preallocate else []
    run_tool(
        ["qemu-img", "convert", "-W", "-f", DRIVERS[format], "-O", "qcow2", *options, "--", source, target],
        limited=foreign,
    )


def write_raw(source: str, device: str) -> None:
    """Write the disk that is in a qcow2 image of ours, with all that it builds on, onto a block device.

    The device is at least as large; what the image does not hold is written as zeros. Raises ImageError.
    """
    run_tool(["qemu-img", "convert", "-n", "-W", "-f", "qcow2", "-O", "raw", "--", source, device])


def create(target: str, size: Optional[int], backing: Optional[str] = None, preallocate: bool = False) -> None:
    """Make a qcow2 image.

    size: of the disk in bytes; the backing file's where None.
    backing: a qcow2 image that it shows until it is written to.
    preallocate: whether its space is taken at once.
    Raises ImageError with what qemu-img says.
    """
    command = ["qemu-img", "create", "-q", "-f", "qcow2"]
    if backing is not None:
        command += ["-b", backing, "-F", "qcow2"]
    if preallocate:
        command += ["-o", "preallocation=falloc"]
    command += ["--", target]
    if size is not None:
        command.append(str(size))
    run_tool(command)


def copy(source: str, target: str) -> None:
    """Copy a qcow2 image that stands alone, sharing its blocks where the file system can (copy_file_range(2)).

    Raises OSError.
    """
    with open(source, "rb") as reading, open(target, "wb") as writing:
        end = os.fstat(reading.fileno()).st_size
        position = 0
        while position < end:
            try:
                position = os.lseek(reading.fileno(), position, os.SEEK_DATA)
                hole = os.lseek(reading.fileno(), position, os.SEEK_HOLE)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                break  # nothing but a hole up to the end
            position = _copy_range(reading.fileno(), writing.fileno(), position, hole)
        os.ftruncate(writing.fileno(), end)


def _copy_range(source: int, target: int, start: int, end: int) -> int:
    ranged = getattr(os, "copy_file_range", None)
    while start < end:
        count = min(end - start, 256 * MIB)
        try:
            if ranged is None:
                raise OSError
            done = ranged(source, target, count, start, start)
        except OSError:
            ranged = None
            done = os.pwrite(target, os.pread(source, min(count, MIB), start), start)
        if done == 0:
            raise OSError("the file has become shorter while it was copied")
        start += done
    return end


def grow(path: str, size: int, preallocate: bool = False) -> None:
    """Make the disk in a qcow2 image, which nobody uses meanwhile, larger.

    size: in bytes; preallocate: whether the space that is added is taken at once.
    Raises ImageError with what qemu-img says.
    """
    options = ["--preallocation=falloc"] if preallocate else []
    run_tool(["qemu-img", "resize", "-q", "-f", "qcow2", *options, "--", path, str(size)])


def settle(path: str, directory: bool = True) -> None:
    """Bring a file, and the directory that it is in, to the disk (fsync(2))."""
    for target in [path, os.path.dirname(path)] if directory else [path]:
        descriptor = os.open(target, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def make(target: str, maker: Callable[[str], None], mode: int = 0o600) -> None:
    """Make a file under a partial name and give it its own name once it is whole and on the disk.

    maker: writes the file whose path it is given.
    """
    partial = f"{target}.partial"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(partial)
    try:
        maker(partial)
        os.chmod(partial, mode)
        settle(partial, directory=False)
        os.rename(partial, target)
        settle(os.path.dirname(target), directory=False)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise


def make_directory(path: str, mode: int) -> None:
    """Make a directory, or give one that is there the rights that it lacks, whatever the process's umask."""
    with contextlib.suppress(FileExistsError):  # several VMs are made at once
        os.makedirs(path)
        os.chmod(path, mode)
        return
    now = stat.S_IMODE(os.stat(path).st_mode)
    if now & mode != mode:
        os.chmod(path, now | mode)


def free_bytes(path: str) -> int:
    """Return the space that is left in the file system of a directory, or of the nearest one above that exists."""
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    usage = os.statvfs(path)
    return usage.f_bavail * usage.f_frsize


def require_space(path: str, needed: int, what: str) -> None:
    """Raise ApplyError where a file system does not have so many bytes left."""
    free = free_bytes(path)
    if needed > free:
        raise ApplyError(f"{what} needs {needed // MIB} MiB in {path}, and there are {free // MIB} MiB left")


def set_immutable(path: str, immutable: bool) -> bool:
    """Set or clear a file's immutable flag (FS_IOC_SETFLAGS, chattr +i); return whether the file system knows it.

    libvirt gives every image that a guest's disk builds on to the user that QEMU runs as, who could then change it.
    """
    import array
    import fcntl

    get_flags, set_flags, flag = 0x80086601, 0x40086602, 0x10
    descriptor = os.open(path, os.O_RDONLY)
    try:
        flags = array.array("l", [0])
        fcntl.ioctl(descriptor, get_flags, flags, True)
        wanted = flags[0] | flag if immutable else flags[0] & ~flag
        if wanted != flags[0]:
            fcntl.ioctl(descriptor, set_flags, array.array("l", [wanted]))
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _limit() -> None:
    # What OpenStack settled on after images that kept qemu-img busy for ever: bounded memory, bounded processor time.
    resource.setrlimit(resource.RLIMIT_AS, (4096 * MIB, 4096 * MIB))
    resource.setrlimit(resource.RLIMIT_CPU, (COMMAND_SECONDS, COMMAND_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def run_tool(command: Sequence[str], limited: bool = False, seconds: int = COMMAND_SECONDS) -> str:
    """Run one of QEMU's tools and return what it writes.

    limited: whether its memory and processor time are bounded, for images from elsewhere.
    Raises ImageError with what it says where it fails.
    """
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
    try:
        result = subprocess.run(
            list(command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            env=environment,
            preexec_fn=_limit if limited else None,
            check=False,
        )
    except FileNotFoundError as error:
        raise ImageError("qemu-img is missing on the host; install the package qemu-utils") from error
    except subprocess.TimeoutExpired as error:
        raise ImageError(f"qemu-img did not end within {seconds} s") from error
    if result.returncode:
        lines: List[str] = result.stderr.split("\n")
        message = " ".join(" ".join(lines).split()) or f"qemu-img ended with status {result.returncode}"
        raise ImageError(message[:400])
    return result.stdout


def _run_json(command: Sequence[str]) -> Dict[str, Any]:
    output = run_tool(command, limited=True, seconds=PROBE_SECONDS)
    try:
        return dict(json.loads(output))
    except ValueError as error:
        raise ImageError("qemu-img told nothing that could be understood") from error
