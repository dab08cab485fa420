# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Names of VMs, templates and snapshots as the names of files, and the directories in which they lie."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Mapping, Optional

from ...errors import ApplyError
from ...model.types import show
from .names import volume_name

MAXIMUM_BYTES = 100
ALLOWED = (
    f"a name of at most {MAXIMUM_BYTES} bytes of letters, digits, blanks and the characters . _ + -, "
    "beginning with a letter or digit"
)


def name_problem(name: str) -> Optional[str]:
    """Return why a name cannot be the name of a file, libvirt domain or qcow2 snapshot here, or None where it can.

    virt-aa-helper refuses paths with quotes and globs, QEMU splits options at commas, and libvirt makes its own files
    from a domain's name: what none of them takes for anything else is allowed.
    """
    fits = len(name.encode("utf-8", "surrogatepass")) <= MAXIMUM_BYTES
    if fits and name and name[0].isalnum() and all(c.isalnum() or c in " ._+-" for c in name):
        return None
    return f"is no name that a KVM host can hold; allowed is {ALLOWED}"


@dataclass(frozen=True)
class DiskFile:
    """What a VM's disk is on the host.

    path: of a file or of a block device; format: qcow2 or raw.
    group: the volume group that it is a logical volume of, or None.
    """

    path: str
    format: str = "qcow2"
    group: Optional[str] = None

    @property
    def is_block(self) -> bool:
        """Whether it is a block device."""
        return self.group is not None


@dataclass(frozen=True)
class PoolPlace:
    """Where the disks of a storage pool lie.

    type: as in the model; path: the directory of one that has files; group: the volume group of one that has volumes.
    """

    name: str
    type: str
    path: Optional[str] = None
    group: Optional[str] = None

    def disk_file(self, vm: str, disk: str) -> Optional[DiskFile]:
        """Return what a VM's disk is in the pool, or None where such a pool holds no disks."""
        if self.group is not None:
            return DiskFile(f"/dev/{self.group}/{volume_name(vm, disk)}", "raw", self.group)
        # Not in a directory of the VM: libvirt lists the files of a pool, and not what lies deeper.
        return DiskFile(os.path.join(self.path, f"{vm}.{disk}.qcow2")) if self.path is not None else None


@dataclass(frozen=True)
class Directories:
    """Where everything lies on a KVM host.

    templates: sealed images with a description beside each.
    images: one directory a VM with its disks and its seed.
    consoles: what the guests write to their serial consoles.
    nvram: where libvirt keeps the variables of UEFI guests.
    pools: what is known of storage pools beside what libvirt knows, and where those of servers are mounted.
    places: the storage pools by name.
    tpms: where libvirt keeps the state of emulated TPMs, by the VMs' UUIDs.
    backups: what is known of backups and their targets on this host.
    """

    templates: str = "/var/lib/bareforge/templates"
    images: str = "/var/lib/libvirt/images/bareforge"
    consoles: str = "/var/log/libvirt/bareforge"
    nvram: str = "/var/lib/libvirt/qemu/nvram"
    pools: str = "/var/lib/bareforge/pools"
    places: Mapping[str, PoolPlace] = field(default_factory=dict, compare=False)
    tpms: str = "/var/lib/libvirt/swtpm"
    backups: str = "/var/lib/bareforge/backups"

    def template_image(self, name: str) -> str:
        """Return the path of a template's image."""
        return os.path.join(self.templates, f"{name}.qcow2")

    def template_description(self, name: str) -> str:
        """Return the path of what is known of a template."""
        return os.path.join(self.templates, f"{name}.json")

    def vm(self, name: str) -> str:
        """Return the directory of a VM's disks."""
        return os.path.join(self.images, name)

    def receiving(self, vm: str) -> str:
        """Return the path of what says that a VM is on its way here from another host."""
        return os.path.join(self.images, vm, ".receiving")

    def sending(self, vm: str) -> str:
        """Return the path of what says that a VM is on its way from here to another host."""
        return os.path.join(self.images, vm, ".sending")

    def disk(self, vm: str, disk: str) -> str:
        """Return the path of a VM's disk."""
        return os.path.join(self.images, vm, f"{disk}.qcow2")

    def disk_file(self, vm: str, disk: str, pool: Optional[str]) -> DiskFile:
        """Return what a VM's disk is.

        pool: the storage pool that it lies in; None for the directory of the VM.
        Raises ApplyError where there is no such pool, or where it holds no disks.
        """
        if pool is None:
            return DiskFile(self.disk(vm, disk))
        place = self.places.get(pool)
        found = place.disk_file(vm, disk) if place is not None else None
        if found is None:
            raise ApplyError(f"vm[{show(vm)}].disks[{show(disk)}].pool: {show(pool)} is no pool that disks can lie in")
        return found

    def pool_record(self, pool: str) -> str:
        """Return the path of what is known of a storage pool."""
        return os.path.join(self.pools, f"{pool}.json")

    def seed(self, vm: str) -> str:
        """Return the path of the medium that a VM's cloud-init reads."""
        return os.path.join(self.images, vm, "seed.iso")

    def console(self, vm: str) -> str:
        """Return the path of the log of a VM's serial console."""
        return os.path.join(self.consoles, f"{vm}.log")

    def variables(self, vm: str) -> str:
        """Return the path at which libvirt keeps the UEFI variables of a VM for which none is said."""
        return os.path.join(self.nvram, f"{vm}_VARS.fd")

    def tpm_state(self, uuid: str) -> str:
        """Return the directory of the state of a VM's TPM."""
        return os.path.join(self.tpms, uuid)
