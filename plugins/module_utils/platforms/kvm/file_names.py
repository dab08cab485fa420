# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Names of VMs, templates and snapshots as the names of files, and the directories in which they lie."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Optional

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
class Directories:
    """Where everything lies on a KVM host.

    templates: sealed images with a description beside each.
    images: one directory a VM with its disks and its seed.
    consoles: what the guests write to their serial consoles.
    nvram: where libvirt keeps the variables of UEFI guests.
    """

    templates: str = "/var/lib/bareforge/templates"
    images: str = "/var/lib/libvirt/images/bareforge"
    consoles: str = "/var/log/libvirt/bareforge"
    nvram: str = "/var/lib/libvirt/qemu/nvram"

    def template_image(self, name: str) -> str:
        """Return the path of a template's image."""
        return os.path.join(self.templates, f"{name}.qcow2")

    def template_description(self, name: str) -> str:
        """Return the path of what is known of a template."""
        return os.path.join(self.templates, f"{name}.json")

    def vm(self, name: str) -> str:
        """Return the directory of a VM's disks."""
        return os.path.join(self.images, name)

    def disk(self, vm: str, disk: str) -> str:
        """Return the path of a VM's disk."""
        return os.path.join(self.images, vm, f"{disk}.qcow2")

    def seed(self, vm: str) -> str:
        """Return the path of the medium that a VM's cloud-init reads."""
        return os.path.join(self.images, vm, "seed.iso")

    def console(self, vm: str) -> str:
        """Return the path of the log of a VM's serial console."""
        return os.path.join(self.consoles, f"{vm}.log")
