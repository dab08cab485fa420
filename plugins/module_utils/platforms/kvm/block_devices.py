# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Block devices: what they carry, LVM's groups on them, and the logical volumes that are disks of VMs.

libvirt makes and starts volume groups, but it can neither enlarge one nor rename or enlarge a volume: that is done by
LVM's own tools here, with argument lists and their reports in JSON.
"""

from __future__ import annotations

import array
import errno
import fcntl
import json
import os
import stat
import subprocess
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Sequence, Tuple

from ...errors import ApplyError, BareforgeError, ReadError
from ...model.types import show
from ..linux import programs

BLKZEROOUT = 0x127F  # <linux/fs.h>
ZERO_STEP = 1 << 30
PROBE_SECONDS = 60
COMMAND_SECONDS = 600
PHYSICAL_VOLUME = "LVM2_member"

_ENVIRONMENT = {"LVM_SUPPRESS_FD_WARNINGS": "1"}


@dataclass(frozen=True)
class Group:
    """A volume group.

    extent, free: in bytes. devices: its physical volumes, as the kernel names them.
    """

    name: str
    extent: int
    free: int
    devices: Tuple[str, ...]


@dataclass(frozen=True)
class Lvm:
    """What LVM shows: its groups by name, and the group of each physical volume, empty where it is in none."""

    groups: Dict[str, Group]
    owners: Dict[str, str]


def run(command: Sequence[str], what: str, seconds: int = COMMAND_SECONDS, error: Any = ApplyError) -> str:
    """Run a program and return its output.

    command: an argument list, never a shell's line. what: what does not work where it fails.
    error: the exception that is raised then.
    """
    try:
        result = programs.completed(command, seconds, environment=_ENVIRONMENT)
    except FileNotFoundError as missing:
        raise error(
            f"{what}: the program {command[0]} is missing on the host", "The role kvm_host installs what pools need"
        ) from missing
    except subprocess.TimeoutExpired as late:
        raise error(f"{what}: {command[0]} did not end within {seconds} s") from late
    if result.returncode:
        said = " ".join(result.stderr.split()) or f"{command[0]} ended with status {result.returncode}"
        raise error(f"{what}: {said[:400]}")
    return result.stdout


def read_lvm() -> Lvm:
    """Return the host's volume groups, by pvs(8). Raises ReadError."""
    fields = "pv_name,vg_name,vg_extent_size,vg_free"
    command = ["pvs", "--reportformat", "json", "--units", "b", "--nosuffix", "-o", fields]
    what = "the volume groups cannot be read"
    output = run(command, what, PROBE_SECONDS, ReadError)
    try:
        rows = json.loads(output)["report"][0]["pv"]
    except (ValueError, LookupError, TypeError) as error:
        raise ReadError(f"{what}: pvs told nothing that could be understood") from error
    owners = {str(row["pv_name"]): str(row["vg_name"]) for row in rows}
    groups: Dict[str, Group] = {}
    for row in rows:
        name = str(row["vg_name"])
        if name:
            devices = tuple(sorted(device for device, owner in owners.items() if owner == name))
            groups[name] = Group(name, int(row["vg_extent_size"]), int(row["vg_free"]), devices)
    return Lvm(groups, owners)


def signatures(device: str) -> List[str]:
    """Return what is found on a block device, in words such as `ext4` or `gpt`, by wipefs(8), which only looks.

    Raises ReadError.
    """
    what = f"{device} cannot be looked into"
    output = run(["wipefs", "--no-act", "--json", "--", device], what, PROBE_SECONDS, ReadError)
    try:
        found = json.loads(output or "{}").get("signatures") or []
        return sorted({str(entry["type"]) for entry in found})
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ReadError(f"{what}: wipefs told nothing that could be understood") from error


def device_problem(device: str) -> Optional[str]:
    """Return why a device cannot become part of a pool: it is none, it is in use, it carries something.

    A physical volume of LVM that is in no group is what a run leaves that was killed, and is no reason; whether one is
    in a group is told by :func:`read_lvm`.
    """
    try:
        mode = os.stat(device).st_mode
    except OSError as error:
        return f"{show(device)} is not there on the host ({error.strerror})"
    if not stat.S_ISBLK(mode):
        return f"{show(device)} is no block device"
    try:
        # A device that is mounted, or that another one is made of, cannot be opened this way (open(2), O_EXCL).
        os.close(os.open(device, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
    except OSError as error:
        if error.errno == errno.EBUSY:
            return f"{show(device)} is in use on the host: it is mounted, or another device is made of it"
        return f"{show(device)} cannot be opened on the host ({error.strerror})"
    try:
        found = [entry for entry in signatures(device) if entry != PHYSICAL_VOLUME]
    except BareforgeError as error:
        return error.message
    if found:
        return (
            f"{show(device)} carries data ({', '.join(found)}), which a pool would destroy; allowed is an empty device "
            f"(wipefs --all {device} empties it for good)"
        )
    return None


def canonical(device: str) -> str:
    """Return the kernel's name of a device that may be given by a link such as /dev/disk/by-id/NAME."""
    real = os.path.realpath(device)
    name = os.path.basename(real)
    # LVM calls a device of the device mapper by its name there.
    if name.startswith("dm-"):
        try:
            with open(f"/sys/block/{name}/dm/name", encoding="utf-8") as file:
                return f"/dev/mapper/{file.read().strip()}"
        except OSError:
            return real
    return real


def extend_group(group: str, devices: Sequence[str]) -> None:
    """Add devices to a volume group. Raises ApplyError."""
    run(["vgextend", "--quiet", "--", group, *devices], f"the volume group {show(group)} cannot be enlarged")


def create_volume(group: str, name: str, size: int) -> str:
    """Make a logical volume and return its path.

    size: in bytes, a multiple of the group's extent.
    Raises ApplyError.
    """
    what = f"the volume {show(name)} of {size} bytes cannot be made in volume group {show(group)}"
    # --yes: what an earlier volume has left where this one lies is wiped without a question that nobody could answer.
    run(
        ["lvcreate", "--quiet", "--yes", "--wipesignatures", "y", "--size", f"{size}b", "--name", name, "--", group],
        what,
    )
    return f"/dev/{group}/{name}"


def rename_volume(group: str, old: str, new: str) -> None:
    """Give a logical volume another name. Raises ApplyError."""
    run(["lvrename", "--quiet", "--", group, old, new], f"the volume {show(old)} cannot become {show(new)}")


def remove_volume(path: str) -> None:
    """Remove a logical volume; one that is not there is gone. Raises ApplyError."""
    what = f"the volume {path} cannot be removed"
    if volume_exists(path):
        run(["lvremove", "--quiet", "--yes", "--", path], what)


def volume_exists(path: str) -> bool:
    """Return whether there is a logical volume of a path, active or not. Raises ReadError."""
    group, name = path[len("/dev/") :].split("/", 1)
    command = ["lvs", "--reportformat", "json", "-o", "lv_name,vg_name"]
    output = run(command, f"the volumes of group {show(group)} cannot be read", PROBE_SECONDS, ReadError)
    try:
        rows = json.loads(output)["report"][0]["lv"]
    except (ValueError, LookupError, TypeError) as error:
        raise ReadError(
            f"the volumes of group {show(group)} cannot be read: lvs told nothing understandable"
        ) from error
    return any(row["lv_name"] == name and row["vg_name"] == group for row in rows)


def extend_volume(path: str, size: int) -> None:
    """Enlarge a logical volume, with zeros in what is added; one that is large enough is left as it is.

    size: in bytes, a multiple of the group's extent.
    Raises ApplyError, OSError.
    """
    before = device_size(path)
    if size > before:
        run(["lvextend", "--quiet", "--size", f"{size}b", "--", path], f"the volume {path} cannot become {size} bytes")
        write_zeros(path, before, size - before)


def device_size(path: str) -> int:
    """Return the size of a block device in bytes. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.lseek(descriptor, 0, os.SEEK_END)
    finally:
        os.close(descriptor)


def write_zeros(path: str, start: int, length: int) -> None:
    """Zero a part of a block device (BLKZEROOUT), so that no guest reads what another has written there before.

    start, length: in bytes, multiples of the device's sectors.
    Raises OSError.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        while length > 0:
            step = min(length, ZERO_STEP)
            fcntl.ioctl(descriptor, BLKZEROOUT, array.array("Q", [start, step]))
            start, length = start + step, length - step
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
