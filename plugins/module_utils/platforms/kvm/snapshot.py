# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Snapshots of VMs on a KVM host: internal ones, which lie in the VM's qcow2 disks.

A snapshot of a running VM always holds its memory, since QEMU makes no other internal one. Where memory was not asked
for, that is kept beside the snapshot, and to revert starts the guest from the disks as after a power failure.
"""

from __future__ import annotations

from typing import Any, Collection, Dict, Iterable, Iterator, Mapping, Optional, Sequence
from xml.etree import ElementTree

from ...engine.change import Change
from ...engine.platform import Context, Interface
from ...errors import ApplyError, Problem, ReadError
from ...model.compute import Snapshot, Vm
from ...model.document import Key, State
from ...model.schema import ModelObject, Plain
from ...model.types import show
from ...transports import libvirt as session
from . import checkpoints, domain_xml, domains
from .file_names import Directories, name_problem

MARK_NAMESPACE = "https://bareforge.dev/xmlns/1/snapshot"
MARK_PREFIX = "bareforge-snapshot"
WITHOUT_MEMORY = "without-memory"


class KvmSnapshots(Interface):
    """Snapshots inside the disks of VMs that we have made."""

    KINDS = ("snapshot",)
    CAPABILITIES = frozenset({"snapshot", "snapshot.memory"})

    def __init__(self, platform: Any, where: Optional[Directories] = None) -> None:
        self.platform = platform
        self.where = where or Directories()

    def read(self, kinds: Collection[str], names: Mapping[str, Collection[str]]) -> State:
        wanted = set(names["snapshot"]) if "snapshot" in names else None
        found = session.read(lambda connection: _read(connection, wanted), "the snapshots cannot be read")
        return {"snapshot": found}

    def validate(self, change: Change, context: Context) -> Iterable[Problem]:
        snapshot = change.after
        if not isinstance(snapshot, Snapshot) or change.before is not None:
            return
        place = snapshot.place
        problem = name_problem(str(snapshot.name))
        if problem is None and str(snapshot.name).isdigit():
            # qcow2 finds a snapshot by its number or its name.
            problem = (
                "is a number, which would be taken for the number of another snapshot; allowed is a name with a letter"
            )
        if problem:
            yield Problem(place.field("name").text, f"{show(snapshot.name)} {problem}")
        vm = context.find("vm", snapshot.vm)
        if isinstance(vm, Vm):
            yield from self._validate_for(snapshot, vm)

    def _validate_for(self, snapshot: Snapshot, vm: Vm) -> Iterator[Problem]:
        place = snapshot.place
        if snapshot.memory and vm.power == "stopped":
            yield Problem(place.field("memory").text, f"VM {show(vm.name)} is stopped, so there is no memory to keep")
        if vm.firmware == "uefi":
            yield Problem(
                place.field("vm").text,
                f"VM {show(vm.name)} boots with uefi, of which libvirt makes no internal snapshot",
            )
        if vm.tpm:
            yield Problem(
                place.field("vm").text, f"VM {show(vm.name)} has a TPM, whose state no internal snapshot holds"
            )
        for disk in vm.disks or ():
            # Where a pool is, is a question for the domain: its definition says which disks are files that can hold one.
            if disk.pool and _is_raw(str(vm.name), str(disk.name)):
                yield Problem(
                    place.field("vm").text,
                    f"VM {show(vm.name)} has the disk {show(disk.name)} in storage pool {show(disk.pool)}, which is raw and "
                    "holds no internal snapshot",
                )
        if not vm.disks:
            yield Problem(place.field("vm").text, f"VM {show(vm.name)} has no disk that a snapshot could lie in")

    def apply(self, changes: Sequence[Change], context: Context) -> None:
        # One after the other: libvirt does one such job a VM at a time, and several of one VM are often asked for.
        for change in changes:
            snapshot = change.item
            if not isinstance(snapshot, Snapshot):
                raise AssertionError("not reached: not isinstance(snapshot, Snapshot)")
            context.begin(change)
            with session.translated(snapshot.place.text):
                if change.after is None:
                    self._remove(snapshot)
                elif change.before is None:
                    self._take(snapshot, context)
                else:
                    raise ApplyError(f"{snapshot.place.text}: {', '.join(change.fields)} cannot be changed")
            context.done(change)

    def _domain(self, vm: str) -> Any:
        domain = domains.find(session.connection(), vm)
        if domain is None:
            raise ApplyError(f"there is no VM {show(vm)}")
        return domain

    def _take(self, snapshot: Snapshot, context: Context) -> None:
        domain = self._domain(str(snapshot.vm))
        # libvirt makes no internal snapshot of a VM with checkpoints, which a snapshot could not bring back either.
        sources = list(domain_xml.disk_paths(domain.XMLDesc(0)).values())
        if checkpoints.forget_all(domain, sources):
            context.warn(
                f"{snapshot.place.text}: what changes in VM {show(snapshot.vm)} is not noted any more, so the next backup "
                "of it has to be a full one"
            )
        root = ElementTree.Element("domainsnapshot")
        ElementTree.SubElement(root, "name").text = snapshot.name
        if snapshot.description:
            ElementTree.SubElement(root, "description").text = snapshot.description
        # What stands in the domain's metadata is kept within the snapshot.
        self._mark(domain, domain.isActive() and not snapshot.memory)
        try:
            domain.snapshotCreateXML(domain_xml.to_text(root), 0)
        finally:
            self._mark(domain, False)

    def _mark(self, domain: Any, without_memory: bool) -> None:
        libvirt = session.library()
        flags = libvirt.VIR_DOMAIN_AFFECT_CONFIG | (libvirt.VIR_DOMAIN_AFFECT_LIVE if domain.isActive() else 0)
        text = f"<{WITHOUT_MEMORY}/>" if without_memory else None
        domain.setMetadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, text, MARK_PREFIX, MARK_NAMESPACE, flags)

    def _remove(self, snapshot: Snapshot) -> None:
        libvirt = session.library()
        domain = self._domain(str(snapshot.vm))
        try:
            found = domain.snapshotLookupByName(snapshot.name)
        except libvirt.libvirtError as error:
            if session.is_missing(error):
                return
            raise
        found.delete(0)

    def revert(self, vm: str, name: str, check: bool = False) -> Plain:
        """Bring a VM back to a snapshot and return {changed, vm, snapshot, power}.

        What the VM has written since then, and how it was configured since then, is lost; that is what is asked for, so
        each call is a change. The VM is then as it was: off, paused, running on with its memory, or, where the snapshot
        was taken of a running VM without memory, started from the disks.
        check: whether only to say that it would be done.
        Raises ReadError where there is no such VM or snapshot, ApplyError.
        """
        libvirt = session.library()
        found = session.read(
            lambda connection: _read(connection, {vm}), f"the snapshots of VM {show(vm)} cannot be read"
        )
        if (vm, name) not in found:
            there = ", ".join(sorted(str(key[1]) for key in found)) or "none"
            raise ReadError(f"VM {show(vm)} has no snapshot {show(name)}; it has: {there}")
        result: Plain = {"changed": True, "vm": vm, "snapshot": name}
        if check:
            return result
        with session.translated(f"VM {show(vm)} cannot be brought back to snapshot {show(name)}"):
            domain = self._domain(vm)
            snapshot = domain.snapshotLookupByName(name)
            text = snapshot.getXMLDesc(0)
            restart = _is_marked(text)
            try:
                domain.revertToSnapshot(snapshot, 0)
            except libvirt.libvirtError as error:
                if error.get_error_code() != libvirt.VIR_ERR_SNAPSHOT_REVERT_RISKY:
                    raise
                # The configuration has changed since, so that QEMU has to be started anew with the old one.
                domain.revertToSnapshot(snapshot, libvirt.VIR_DOMAIN_SNAPSHOT_REVERT_FORCE)
            self._mark(domain, False)
            if restart:
                if domain.isActive():
                    domain.destroy()
                domains.start(domain, vm)
            result["power"] = domains.power(domain)
        return result


def _read(connection: Any, names: Optional[Collection[str]]) -> Dict[Key, ModelObject]:
    libvirt = session.library()
    found: Dict[Key, ModelObject] = {}
    flag = libvirt.VIR_CONNECT_LIST_DOMAINS_HAS_SNAPSHOT
    for domain in connection.listAllDomains(flag):
        name = domain.name()
        if names is not None and name not in names:
            continue
        if not domain_xml.is_ours(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)):
            continue
        for entry in domain.listAllSnapshots(0):
            snapshot = _read_snapshot(name, entry.getXMLDesc(0))
            found[snapshot.key] = snapshot
    return found


def _read_snapshot(vm: str, xml: str) -> Snapshot:
    root = domain_xml.parse(xml)
    memory = root.find("memory")
    has_memory = memory is not None and memory.get("snapshot") in ("internal", "external")
    return Snapshot(
        vm=vm,
        name=root.findtext("name"),
        description=root.findtext("description"),
        memory=has_memory and not _is_marked(xml),
        quiesce=False,
    )


def _is_marked(xml: str) -> bool:
    root = domain_xml.parse(xml)
    return root.find(f"domain/metadata/{{{MARK_NAMESPACE}}}{WITHOUT_MEMORY}") is not None


def _is_raw(vm: str, disk: str) -> bool:
    def look(connection: Any) -> bool:
        domain = domains.find(connection, vm)
        paths = domain_xml.disk_paths(domain.XMLDesc(0)) if domain is not None else {}
        return paths.get(disk, "").startswith("/dev/")

    return session.read(look, f"VM {show(vm)} cannot be looked at")
