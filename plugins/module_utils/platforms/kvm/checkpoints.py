# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Checkpoints of VMs: since when libvirt and QEMU note which blocks of the disks change.

Each is a name in libvirt and a dirty bitmap of that name in every disk. They and internal snapshots exclude each other.

Source: libvirt, "Checkpoint XML format" and virDomainCheckpointCreateXML.
"""

from __future__ import annotations

import time
from typing import Any, Collection, List, Sequence, Tuple
from xml.etree import ElementTree

from ...transports import libvirt as session
from . import block_copy, domain_xml
from .disk_images import ImageError

PREFIX = "bareforge-"


def name_of(identifier: str) -> str:
    """Return the name of the checkpoint of a backup."""
    return f"{PREFIX}{identifier}"


def names(domain: Any) -> List[str]:
    """Return the names of a domain's checkpoints that are ours. libvirt's exceptions pass."""
    return sorted(
        checkpoint.getName() for checkpoint in domain.listAllCheckpoints(0) if checkpoint.getName().startswith(PREFIX)
    )


def to_xml(name: str, description: str, targets: Sequence[str]) -> str:
    """Return the XML of a checkpoint that is to be made of some of a domain's disks."""
    return domain_xml.to_text(_element(name, description, targets))


def _element(name: str, description: str, targets: Sequence[str]) -> ElementTree.Element:
    root = ElementTree.Element("domaincheckpoint")
    ElementTree.SubElement(root, "name").text = name
    ElementTree.SubElement(root, "description").text = description
    disks = ElementTree.SubElement(root, "disks")
    for target in targets:
        ElementTree.SubElement(disks, "disk", {"name": target, "checkpoint": "bitmap", "bitmap": name})
    return root


def tell(domain: Any, name: str, description: str, targets: Sequence[str]) -> None:
    """Let libvirt know of the bitmaps that were made in the disks of a domain that is off. libvirt's exceptions pass."""
    libvirt = session.library()
    root = _element(name, description, targets)
    newest = _newest(domain)
    if newest is not None:
        parent = ElementTree.SubElement(root, "parent")
        ElementTree.SubElement(parent, "name").text = newest
    ElementTree.SubElement(root, "creationTime").text = str(int(time.time()))
    root.append(domain_xml.parse(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)))
    domain.checkpointCreateXML(domain_xml.to_text(root), libvirt.VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE)


def _newest(domain: Any) -> Any:
    libvirt = session.library()
    leaves = domain.listAllCheckpoints(libvirt.VIR_DOMAIN_CHECKPOINT_LIST_LEAVES)
    return leaves[0].getName() if leaves else None


def remove(domain: Any, unwanted: Collection[str], sources: Sequence[str]) -> None:
    """Remove checkpoints of a domain, and their bitmaps in its disks. libvirt's exceptions pass.

    unwanted: their names; those that are not there are left out.
    sources: the images of the domain's disks, which are worked on where it is off.
    """
    libvirt = session.library()
    there = [checkpoint for checkpoint in domain.listAllCheckpoints(0) if checkpoint.getName() in unwanted]
    active = bool(domain.isActive())
    for checkpoint in there:
        try:
            checkpoint.delete(0 if active else libvirt.VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY)
        except libvirt.libvirtError:
            if not active:
                raise
            # A bitmap that a crash has broken, or a disk that is gone: what is left is removed while the VM is off.
            checkpoint.delete(libvirt.VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY)
    if not active:
        try:
            block_copy.remove_bitmaps(sources, list(unwanted))
        except ImageError:
            return  # the VM has been started meanwhile; a bitmap that nobody asks for harms nothing


def forget_all(domain: Any, sources: Sequence[str]) -> Tuple[str, ...]:
    """Remove all of our checkpoints of a domain, and return their names. libvirt's exceptions pass."""
    found = names(domain)
    if found:
        remove(domain, found, sources)
    return tuple(found)
