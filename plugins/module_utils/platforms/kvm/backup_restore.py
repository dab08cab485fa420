# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Bringing VMs back from their backups: under another name beside what is there, or in place.

Everything that is restored is made in a directory beside the VM's disks first. In place, the VM is stopped only then, and
its old disks are kept until the new ones are where they belong; a run that was killed in between is finished by the next.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple
from xml.etree import ElementTree

from ...errors import ApplyError, Problem, ValidateError, VerifyError
from ...model.compute import Vm
from ...model.operation import Operation
from ...model.schema import Path, Plain
from ...model.types import show
from ...transports import libvirt as session
from . import checkpoints, cloud_init, disk_images, domain_xml, domains
from .backup_catalogue import ChainError, Entry, KnownTargets, Target
from .disk_images import MIB, ImageError
from .domain_xml import Element
from .file_names import Directories, name_problem
from .host_files import remove_file, translated, write_json
from .names import mac_address, tap_name, uuid_of

STAGED = ".restored"
STAGED_FILES = ".firmware"
REPLACED = ".replaced"
MARK_MAKING = ".making"
MARK_NAMESPACE = "https://bareforge.dev/xmlns/1/restore"
MARK_TAG = f"{{{MARK_NAMESPACE}}}from"
SELF_MADE = ("nvram", "tpm")

ElementTree.register_namespace("bareforge-restore", MARK_NAMESPACE)


@dataclass(frozen=True)
class Order:
    """What is to be restored.

    target, entry: the backup. entries: all of the VM in that target.
    new_name: the name of another VM that is made of it; in place where None.
    power: `running` or `stopped`; where None, a VM in place is as it was before, and another one is stopped.
    """

    target: Target
    entry: Entry
    entries: Sequence[Entry]
    new_name: Optional[str] = None
    power: Optional[str] = None

    @property
    def name(self) -> str:
        """The name of the VM that is made or replaced."""
        return self.new_name or self.entry.vm

    @property
    def place(self) -> Path:
        """Where it stands in error messages."""
        return Path("backup").item(f"{self.entry.vm}/{self.entry.name}")


@dataclass
class Prepared:
    """What is known once nothing speaks against a restore.

    chain: the backup and what it builds on. xml: of the VM as it will be.
    vm: the same as the model has it. present: the VM that is there now, or None.
    power: what it shall be in the end.
    """

    chain: List[Entry]
    xml: str
    vm: Vm
    present: Optional[Vm]
    power: str


class Restoring:
    """Restores of VMs on a host."""

    def __init__(self, platform: Any, where: Directories) -> None:
        self.platform = platform
        self.where = where
        self.known = KnownTargets(where.backups)

    def restore(
        self,
        order: Order,
        operation: Operation,
        check: bool = False,
        progress: Optional[Callable[[str], None]] = None,
    ) -> Plain:
        """Bring a VM back and return the task's result.

        check: whether only to compare all files with their checksums and tell what would be done.
        Raises ValidateError before anything is touched, ApplyError, VerifyError.
        """
        tell = progress or (lambda _line: None)
        with session.translated(order.place.text):
            if order.new_name is not None and self._is_restored(order):
                shown = {"vms": [item.to_document() for item in self._read({order.name}).values()]}
                return {"changed": False, "changes": [], "before": shown, "after": shown, "planned": shown}
            tell(f"{order.place.text}: comparing checksums")
            prepared = self._prepare(order, operation)
            if not check:
                self._carry_out(order, prepared, operation, tell)
        before = {"vms": [prepared.present.to_document()] if prepared.present is not None else []}
        planned = {"vms": [prepared.vm.to_document()]}
        action = "restore" if prepared.present is not None else "create"
        change = {"kind": "vm", "key": order.name, "action": action, "fields": []}
        result: Plain = {"changed": True, "changes": [change], "before": before, "after": planned, "planned": planned}
        if not check:
            result["after"] = {"vms": [self._verify(order, prepared).to_document()]}
        return result

    def _read(self, names: Any) -> Dict[Any, Any]:
        return dict(self.platform.read(["vm"], {"vm": names} if names is not None else {})["vm"])

    def _is_restored(self, order: Order) -> bool:
        domain = domains.find(session.connection(), order.name)
        if domain is None:
            return False
        if os.path.exists(os.path.join(self.where.vm(order.name), MARK_MAKING)):
            return False  # a run was killed; what it has left is removed before this is made anew
        libvirt = session.library()
        mark = domain_xml.parse(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)).find(f"metadata/{MARK_TAG}")
        return mark is not None and mark.get("id") == order.entry.id

    # What speaks against it

    def _prepare(self, order: Order, operation: Operation) -> Prepared:
        problems: List[Problem] = []
        chain: List[Entry] = []
        try:
            chain = order.target.chain(order.entry, order.entries)
            order.target.check_chain(chain, checksums=True)
        except ChainError as error:
            raise ValidateError([Problem(order.place.text, f"cannot be restored: {error}")]) from error
        networks = {
            str(item.name): item for item in self.platform.read(["virtual_network"])["virtual_network"].values()
        }
        vms = {str(item.name): item for item in self._read(None).values()}
        present = vms.get(order.name)
        if order.new_name is not None or present is None:
            problems.extend(self._against_new(order, vms))
        else:
            problems.extend(self._against_present(order, present, operation))
        source = self._domain_xml(order)
        switches = {name: str(network.switch) for name, network in networks.items()}
        xml = restored_xml(source, order, self.where, switches)
        vm = domain_xml.read_xml(xml, xml, self.platform.owner("vm").host)
        sizes = {str(disk.name): (disk.virtual_size or 0) // MIB for disk in order.entry.disks()}
        vm = domain_xml.with_sizes(vm, dict(sizes))
        for nic in vm.nics or ():
            if nic.network not in networks:
                problems.append(
                    Problem(
                        order.place.text, f"NIC {show(nic.name)} needs network {show(nic.network)}, which is not there"
                    )
                )
            other = next(
                (
                    name
                    for name, item in vms.items()
                    if name != order.name and any(nic.mac == entry.mac for entry in item.nics or ())
                ),
                None,
            )
            if other is not None:
                problems.append(
                    Problem(
                        order.place.text,
                        f"the MAC address {nic.mac} of NIC {show(nic.name)} is taken by VM {show(other)}",
                    )
                )
        problems.extend(self._against_space(order))
        if problems:
            raise ValidateError(problems)
        was = present.power if present is not None and order.new_name is None else None
        power = order.power or ("running" if was == "running" else "stopped")
        autostart = order.new_name is None and bool(present.autostart if present is not None else order.entry.autostart)
        vm = dataclasses.replace(vm, power=power, autostart=autostart)
        return Prepared(chain, xml, vm, present, power)

    def _domain_xml(self, order: Order) -> str:
        file = order.entry.find("domain")
        if file is None:
            raise ValidateError([Problem(order.place.text, "has no description of its VM, so it cannot be restored")])
        path = os.path.join(order.target.folder(order.entry.vm, order.entry.name), file.file)
        with open(path, encoding="utf-8") as stream:
            return stream.read()

    def _against_new(self, order: Order, vms: Mapping[str, Vm]) -> Iterator[Problem]:
        place = order.place.text if order.new_name is None else "new_name"
        problem = name_problem(order.name)
        if problem:
            yield Problem(place, f"{show(order.name)} {problem}")
            return
        if order.name in vms:
            yield Problem(place, f"there is a VM {show(order.name)} already; allowed is a name that no VM has")
            return
        if domains.find(session.connection(), order.name) is not None:
            yield Problem(place, f"libvirt has a domain {show(order.name)} that this collection has not made")
        directory = self.where.vm(order.name)
        if os.path.isdir(directory) and not os.path.exists(os.path.join(directory, MARK_MAKING)):
            kept = sorted(entry for entry in os.listdir(directory) if entry.endswith(".qcow2"))
            if kept:
                yield Problem(
                    place,
                    f"disks of a VM of this name were kept in {directory} ({', '.join(kept)}); move them away first",
                )

    def _against_present(self, order: Order, present: Vm, operation: Operation) -> Iterator[Problem]:
        place = order.place.text
        domain = domains.find(session.connection(), order.name)
        if domain is not None and domain.snapshotListNames(0):
            names = ", ".join(sorted(domain.snapshotListNames(0)))
            yield Problem(
                place,
                f"VM {show(order.name)} has snapshots, which lie in the disks that go: {names}; remove them first",
            )
        if present.power != "stopped" and not operation.allow_restart:
            yield Problem(
                place,
                f"VM {show(order.name)} is {present.power}; allowed with allow_restart: true, or with the VM stopped",
            )

    def _against_space(self, order: Order) -> Iterator[Problem]:
        folder = order.target.folder(order.entry.vm, order.entry.name)
        needed = 0
        for disk in order.entry.disks():
            try:
                needed += disk_images.measure(os.path.join(folder, disk.file))
            except ImageError as error:
                yield Problem(order.place.text, f"{os.path.join(folder, disk.file)} cannot be read: {error}")
        free = disk_images.free_bytes(self.where.images)
        if needed > free:
            yield Problem(
                order.place.text,
                f"{-(-needed // MIB)} MiB are needed in {self.where.images}, and there are {free // MIB} MiB left",
            )

    # Doing it

    def _carry_out(self, order: Order, prepared: Prepared, operation: Operation, tell: Callable[[str], None]) -> None:
        try:
            with translated(order.place.text):
                if prepared.present is None:
                    self._make(order, prepared, tell)
                else:
                    self._replace(order, prepared, operation, tell)
        except ImageError as error:
            raise ApplyError(f"{order.place.text}: {error}") from error

    def _make(self, order: Order, prepared: Prepared, tell: Callable[[str], None]) -> None:
        directory = self.where.vm(order.name)
        disk_images.make_directory(self.where.images, 0o711)
        disk_images.make_directory(self.where.consoles, 0o755)
        disk_images.make_directory(directory, 0o711)
        mark = os.path.join(directory, MARK_MAKING)
        with open(mark, "wb"):
            disk_images.settle(directory, directory=False)
        domain = None
        try:
            self._stage(order, prepared, directory, tell)
            domain = session.connection().defineXML(prepared.xml)
            self._put_firmware(directory, prepared.xml)
        except BaseException:
            with contextlib.suppress(session.library().libvirtError):
                if domain is not None:
                    domains.undefine(domain, self.where)
            shutil.rmtree(directory, ignore_errors=True)
            raise
        if prepared.vm.autostart:
            domain.setAutostart(True)
        if prepared.power == "running":
            domains.start(domain, order.name)
        os.unlink(mark)

    def _stage(self, order: Order, prepared: Prepared, directory: str, tell: Callable[[str], None]) -> None:
        """Make in a directory everything that is restored, under the names that it has beside a VM's disks."""
        folder = order.target.folder(order.entry.vm, order.entry.name)
        thick = {str(disk.name) for disk in prepared.vm.disks or () if disk.provisioning == "thick"}
        for disk in order.entry.disks():
            tell(f"{order.place.text}: disk {disk.name}")
            source = os.path.join(folder, disk.file)
            disk_images.make(os.path.join(directory, f"{disk.name}.qcow2"), _converter(source, disk.name in thick))
        for file in order.entry.files:
            if file.kind == "seed":
                self._stage_seed(order, prepared, os.path.join(folder, file.file), os.path.join(directory, "seed.iso"))
            elif file.kind in SELF_MADE:
                target = os.path.join(directory, STAGED_FILES, file.file)
                os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
                shutil.copyfile(os.path.join(folder, file.file), target)
                disk_images.settle(target)

    def _stage_seed(self, order: Order, prepared: Prepared, source: str, target: str) -> None:
        if order.new_name is None:
            disk_images.make(target, _copier(source))
            return
        # Another VM: its NICs have other addresses, and cloud-init shall not take it for the first.
        files = cloud_init.read_seed(source)
        macs = {str(nic.name): str(nic.mac) for nic in prepared.vm.nics or ()}
        files.update(cloud_init.network_file(prepared.vm.nics or (), macs))
        files.update(cloud_init.another_instance(files, cloud_init.new_instance(uuid_of(order.name))))
        disk_images.make(target, lambda partial: cloud_init.write_seed(partial, files))

    def _put_firmware(self, directory: str, xml: str) -> None:
        """Give a VM that is off the variables of its firmware and the state of its TPM."""
        staged = os.path.join(directory, STAGED_FILES)
        variables = os.path.join(staged, "nvram.fd")
        path = domain_xml.variables_path(xml, self.where)
        if path and os.path.exists(variables):
            disk_images.make_directory(os.path.dirname(path), 0o700)
            disk_images.make(path, _copier(variables))
        state = os.path.join(staged, "tpm")
        if os.path.isdir(state):
            home = os.path.join(self.where.tpms, str(domain_xml.parse(xml).findtext("uuid")))
            shutil.rmtree(home, ignore_errors=True)
            shutil.copytree(state, home)
            own_tpm_state(home, self.where.tpms)
        shutil.rmtree(staged, ignore_errors=True)

    def _replace(self, order: Order, prepared: Prepared, operation: Operation, tell: Callable[[str], None]) -> None:
        domain = domains.find(session.connection(), order.name)
        if domain is None:
            raise ApplyError(f"{order.place.text}: VM {show(order.name)} is gone")
        libvirt = session.library()
        directory = self.where.vm(order.name)
        staged = os.path.join(directory, STAGED)
        job: Dict[str, Any] = {
            "action": "restore",
            "vm": order.name,
            "swapping": False,
            "files": [f"{disk.name}.qcow2" for disk in order.entry.disks()],
            "power": prepared.power,
            "xml": prepared.xml,
            "old_xml": domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE),
            "old_power": domains.power(domain),
        }
        if order.entry.find("seed") is not None:
            job["files"].append("seed.iso")
        write_json(self.known.job_path(order.name), job)
        try:
            shutil.rmtree(staged, ignore_errors=True)
            os.mkdir(staged, 0o700)
            self._stage(order, prepared, staged, tell)
            if domain.isActive():
                domains.stop(domain, order.name, operation, self.where.console(order.name), tell)
            write_json(self.known.job_path(order.name), {**job, "swapping": True})
            session.connection().defineXML(prepared.xml)
        except BaseException:
            self._take_back(job)
            raise
        self._swap(job)

    def _take_back(self, job: Mapping[str, Any]) -> None:
        """Leave a VM whose disks were not replaced yet as it was."""
        name = str(job["vm"])
        with contextlib.suppress(session.library().libvirtError):
            domain = domains.find(session.connection(), name)
            if domain is not None and not domain.isActive():
                session.connection().defineXML(job["old_xml"])
                if job["old_power"] != "stopped":
                    domains.start(domain, name, paused=job["old_power"] == "suspended")
        shutil.rmtree(os.path.join(self.where.vm(name), STAGED), ignore_errors=True)
        remove_file(self.known.job_path(name))

    def _swap(self, job: Mapping[str, Any]) -> None:
        """Put the restored files where they belong; can be done again after it was killed at any point."""
        name = str(job["vm"])
        directory = self.where.vm(name)
        staged, replaced = os.path.join(directory, STAGED), os.path.join(directory, REPLACED)
        domain = session.connection().defineXML(job["xml"])
        if domain.isActive() and os.path.isdir(staged):
            domain.destroy()  # started meanwhile, with disks of which some are the old ones
        if domain.hasManagedSaveImage(0):
            domain.managedSaveRemove(0)
        if os.path.isdir(staged):
            disk_images.make_directory(replaced, 0o700)
            for file in job["files"]:
                fresh, here = os.path.join(staged, file), os.path.join(directory, file)
                if os.path.exists(fresh):
                    if os.path.exists(here):
                        os.rename(here, os.path.join(replaced, file))
                    os.rename(fresh, here)
            disk_images.settle(directory, directory=False)
            self._put_firmware(staged, str(job["xml"]))
            os.rmdir(staged)
        # What was noted of the old disks says nothing of the new ones.
        checkpoints.forget_all(domain, [])
        if job["power"] == "running" and not domain.isActive():
            domains.start(domain, name)
        shutil.rmtree(replaced, ignore_errors=True)
        remove_file(self.known.job_path(name))

    def recover(self, job: Mapping[str, Any]) -> None:
        """Finish a restore in place that was killed, or take it back where nothing was replaced yet."""
        domain = domains.find(session.connection(), str(job["vm"]))
        if domain is None:
            remove_file(self.known.job_path(str(job["vm"])))
        elif job.get("swapping"):
            self._swap(job)
        else:
            self._take_back(job)

    def _verify(self, order: Order, prepared: Prepared) -> Vm:
        shown = self._read({order.name}).get((order.name,))
        if not isinstance(shown, Vm):
            raise VerifyError(f"did not take: VM {show(order.name)} is not there")
        if shown.power != prepared.power:
            raise VerifyError(
                f"did not take: VM {show(order.name)} is {shown.power}, and it should be {prepared.power}"
            )
        wanted = [str(disk.name) for disk in prepared.vm.disks or ()]
        there = [str(disk.name) for disk in shown.disks or () if disk.size is not None]
        if sorted(wanted) != sorted(there):
            raise VerifyError(f"did not take: VM {show(order.name)} has the disks {', '.join(there) or 'none'}")
        return shown


def _converter(source: str, thick: bool) -> Callable[[str], None]:
    return lambda partial: disk_images.convert(source, "qcow2", partial, preallocate=thick, foreign=False)


def _copier(source: str) -> Callable[[str], None]:
    def copy(partial: str) -> None:
        shutil.copyfile(source, partial)

    return copy


def own_tpm_state(home: str, tpms: str) -> None:
    """Give the state of a TPM, with all that is in it, to the user that libvirt runs swtpm as. tpms: where all of them lie."""
    owner = _owner_of_tpms(tpms)
    for folder, _folders, names in os.walk(home):
        for entry in [folder, *(os.path.join(folder, name) for name in names)]:
            os.chmod(entry, 0o700 if entry == folder else 0o600)
            if owner is not None and entry != home:
                os.chown(entry, *owner)
    disk_images.make_directory(home, 0o711)


def _owner_of_tpms(folder: str) -> Optional[Tuple[int, int]]:
    """Return the user and group that libvirt runs swtpm as (swtpm_user in qemu.conf), by what it has made before."""
    import grp
    import pwd

    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            for inner in os.scandir(entry.path) if entry.is_dir(follow_symlinks=False) else ():
                facts = inner.stat(follow_symlinks=False)
                if facts.st_uid:
                    return facts.st_uid, facts.st_gid
    for name in ("swtpm", "tss"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_uid, grp.getgrnam(name).gr_gid
    return None


def restored_xml(source: str, order: Order, where: Directories, switches: Mapping[str, str]) -> str:
    """Return the XML of a VM that is brought back.

    source: the XML that was backed up; devices and their PCI addresses stay as the guest knows them.
    switches: the switch of each network.
    """
    domain = domain_xml.parse(source)
    name = order.name
    is_other = order.new_name is not None
    _set_text(domain, "name", name)
    if is_other:
        _set_text(domain, "uuid", uuid_of(name))
        for element in domain.findall("genid"):
            domain.remove(element)
        domain_xml.forget_addresses(domain)
    _mark(domain, order.entry.id if is_other else None)
    devices = domain.find("devices")
    if devices is None:
        devices = ElementTree.SubElement(domain, "devices")
    for element in devices.findall("disk"):
        _set_disk(element, name, where)
    domain_xml.settle_on_host(domain, switches, where)
    for element in devices.findall("interface") if is_other else ():
        _set_interface(element, name)
    for element in devices.findall("channel"):
        for bound in element.findall("source") if element.get("type") == "unix" else ():
            element.remove(bound)  # libvirt's own, with the name of the VM in it
    variables = domain.find("os/nvram")
    if variables is not None:
        variables.text = os.path.join(where.nvram, f"{name}_VARS.fd")
    return domain_xml.to_text(domain)


def _set_text(domain: Element, tag: str, text: str) -> None:
    element = domain.find(tag)
    if element is None:
        element = ElementTree.SubElement(domain, tag)
    element.text = text


def _mark(domain: Element, identifier: Optional[str]) -> None:
    holder = domain.find("metadata")
    if holder is None:
        holder = ElementTree.SubElement(domain, "metadata")
    for old in holder.findall(MARK_TAG):
        holder.remove(old)
    if identifier is not None:
        ElementTree.SubElement(holder, MARK_TAG, {"id": identifier})


def _set_disk(element: Element, name: str, where: Directories) -> None:
    disk, source = domain_xml.disk_of(element), element.find("source")
    if source is None:
        return
    if disk is not None:
        source.set("file", where.disk(name, disk))
    elif domain_xml.alias_of(element) == domain_xml.SEED_ALIAS:
        source.set("file", where.seed(name))


def _set_interface(element: Element, name: str) -> None:
    """Give the adapter of another VM an address and a device of its own."""
    alias, prefix = domain_xml.alias_of(element), domain_xml.nic_alias("")
    nic = alias[len(prefix) :] if alias.startswith(prefix) else ""
    if not nic:
        # One that somebody else has added: libvirt chooses an address and a device for it.
        for tag in ("mac", "target"):
            for old in element.findall(tag):
                element.remove(old)
        return
    for tag, attribute, value in (
        ("mac", "address", mac_address(name, nic)),
        ("target", "dev", tap_name(name, nic)),
        ("virtualport/parameters", "interfaceid", domain_xml.interface_id(name, nic)),
    ):
        found = element.find(tag)
        if found is not None:
            found.set(attribute, value)
