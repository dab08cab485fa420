# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""VMs on a KVM host: libvirt domains that we have made, with their disks in a directory of their own.

Domains of others are neither shown nor touched. A VM is defined once its disks are whole; a directory whose VM is not
defined yet carries a mark, so that what a killed run has left is known from disks that were kept on purpose.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Collection, Dict, FrozenSet, Iterable, Iterator, List, Mapping, Optional, Sequence

from ...engine.change import POWER_CYCLE, Change
from ...engine.platform import Context, Interface
from ...errors import ApplyError, BareforgeError, Problem
from ...model.compute import Cpu, Disk, Memory, Template, Vm
from ...model.document import State
from ...model.network import VirtualNetwork
from ...model.schema import ModelObject, Path
from ...model.storage import StoragePool
from ...model.types import CpuSet, show
from ...transports import libvirt as session
from . import (
    bandwidth,
    block_devices,
    cloud_init,
    disk_images,
    domain_xml,
    domains,
    guest_ports,
    guests,
    host_devices,
    host_files,
    live_changes,
    volumes,
)
from .disk_images import MIB, ImageError
from .domain_xml import Host
from .file_names import Directories, DiskFile, name_problem
from .live_changes import by_name
from .names import mac_address, tap_name, uuid_of
from .template import read_templates, size_of

MARK_MAKING = ".making"
MARK_REMOVING = ".removing"
MARK_RESTARTING = ".restarting"
MARKS = (MARK_MAKING, MARK_REMOVING, MARK_RESTARTING)
WORKERS = 8
FIRST_DISK = "root"
OVMF = "/usr/share/OVMF"
LARGEST_WEIGHT = 10_000  # cgroup v2, cpu.weight


@dataclass(frozen=True)
class Known:
    """What was read of a domain of ours."""

    vm: Vm
    live: str
    config: str
    active: bool


class KvmVms(Interface):
    """Virtual machines of type kvm."""

    KINDS = ("vm",)
    CAPABILITIES = frozenset(
        {
            "vm",
            "vm.clone.linked",
            "vm.clone.full",
            "vm.firmware.bios",
            "vm.firmware.uefi",
            "vm.secure_boot",
            "vm.tpm",
            "vm.cpu.topology",
            "vm.cpu.model",
            "vm.cpu.nested",
            "vm.cpu.shares",
            "vm.cpu.limit",
            "vm.cpu.pinning",
            "vm.memory.hugepages",
            "vm.memory.limit",
            "vm.memory.reservation",
            "vm.disk.bus.virtio",
            "vm.disk.bus.scsi",
            "vm.disk.bus.sata",
            "vm.disk.provisioning.thin",
            "vm.disk.provisioning.thick",
            "vm.disk.cache",
            "vm.disk.limits",
            "vm.nic.model.virtio",
            "vm.nic.model.e1000",
            "vm.nic.model.e1000e",
            "vm.nic.model.vmxnet3",
            "vm.nic.connected",
            "vm.nic.bandwidth",
            "vm.cdrom",
            "vm.tags",
            "vm.guest",
            "vm.boot_order",
            "vm.autostart",
            "vm.power.running",
            "vm.power.stopped",
            "vm.power.suspended",
            "vm.wait_for.address",
            "vm.wait_for.ssh",
        }
    )

    def __init__(self, platform: Any, where: Optional[Directories] = None) -> None:
        self.platform = platform
        self.where = where or Directories()
        self._known: Dict[str, Known] = {}
        self._host: Optional[Host] = None

    @property
    def host(self) -> Host:
        """What has to be known of the host; read once."""
        if self._host is None:
            self._host = read_host()
        return self._host

    def _host_with_switches(self) -> Host:
        """Return the same with the switches as they are now, since they may have been made in this very run."""
        linux = frozenset(filter(host_devices.is_linux_bridge, host_devices.device_names()))
        return dataclasses.replace(self.host, linux_bridges=linux)

    def describe(self, names: Optional[Collection[str]] = None) -> List[Dict[str, Any]]:
        """Return the VMs of the host with what they do right now, for vm_info; see :func:`describe`.

        Raises ReadError, ConnectError or AuthenticateError.
        """
        return session.read(
            lambda connection: describe(connection, names, self.where), "the virtual machines cannot be looked at"
        )

    def read(self, kinds: Collection[str], names: Mapping[str, Collection[str]]) -> State:
        wanted = set(names["vm"]) if "vm" in names else None
        known = session.read(lambda connection: self._read(connection, wanted), "the virtual machines cannot be read")
        self._known.update(known)
        return {"vm": {(name,): entry.vm for name, entry in known.items()}}

    def _read(self, connection: Any, names: Optional[Collection[str]]) -> Dict[str, Known]:
        libvirt = session.library()
        starting = {
            domain.UUIDString() for domain in connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_AUTOSTART)
        }
        found: Dict[str, Known] = {}
        for domain, state, _reason in domains.states(connection):
            name = domain.name()
            if names is not None and name not in names:
                continue
            power = domains.POWER.get(state, "stopped")
            try:
                live = domain.XMLDesc(0)
                config = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE) if power != "stopped" else live
            except libvirt.libvirtError as error:
                if session.is_missing(error):
                    continue  # removed by someone else meanwhile
                raise
            if power == "stopped" and os.path.exists(os.path.join(self.where.vm(name), MARK_MAKING)):
                continue  # a run was killed before it had started; `recover` removes it, and it is made anew
            if domain_xml.is_ours(live):
                vm = self._describe(live, config, power, domain.UUIDString() in starting)
                found[name] = Known(vm, live, config, power != "stopped")
        return found

    def _describe(self, live: str, config: str, power: str, autostart: bool) -> Vm:
        vm = domain_xml.read_xml(live, config, self.host)
        sizes = {name: volumes.mib(volumes.size_at(path)) for name, path in domain_xml.disk_paths(live).items()}
        return dataclasses.replace(domain_xml.with_sizes(vm, sizes), power=power, autostart=autostart)

    def _placed(self, context: Context) -> Directories:
        """Return where everything lies, with the storage pools of the host as it shall be."""
        owner = self.platform.owner("storage_pool") if self.platform is not None else None
        places = owner.places(context.wanted) if owner is not None else {}
        return dataclasses.replace(self.where, places=places)

    # What speaks against a change

    def validate(self, change: Change, context: Context) -> Iterable[Problem]:
        vm = change.item
        if not isinstance(vm, Vm):
            raise AssertionError("not reached: not isinstance(vm, Vm)")
        if change.after is None:
            return
        if change.before is None:
            problem = name_problem(str(vm.name))
            if problem:
                yield Problem(vm.place.field("name").text, f"{show(vm.name)} {problem}")
                return
            yield from self._validate_new(vm, context)
        else:
            if not isinstance(change.before, Vm):
                raise AssertionError("not reached: not isinstance(change.before, Vm)")
            yield from self._validate_update(change.before, vm, context)
        yield from self._validate_any(change.before, vm, context)
        yield from self._validate_pools(change.before, vm, context)

    def _validate_any(self, before: Optional[ModelObject], vm: Vm, context: Context) -> Iterator[Problem]:
        place = vm.place
        cpu, memory, host = vm.cpu or Cpu(), vm.memory or Memory(), self.host
        if vm.description and not _fits_xml(vm.description):
            yield Problem(
                place.field("description").text,
                "has a carriage return or a character that XML does not have; allowed is text without these",
            )
        if (memory.size or 0) > host.memory:
            yield Problem(
                place.field("memory").field("size").text, f"{memory.size} MiB is more than the host's {host.memory} MiB"
            )
        if cpu.pinning:
            missing = [core for core in _cores(cpu.pinning) if core not in host.processors]
            if missing:
                there = CpuSet().parse(",".join(map(str, host.processors)))
                yield Problem(
                    place.field("cpu").field("pinning").text, f"the host has no core {missing[0]}; it has {there}"
                )
        if cpu.shares and host.unified_cgroups and cpu.shares > LARGEST_WEIGHT:
            yield Problem(
                place.field("cpu").field("shares").text,
                f"{cpu.shares} is more than {LARGEST_WEIGHT}, the largest weight of the host's cgroup v2",
            )
        if cpu.nested and not host.nested:
            yield Problem(
                place.field("cpu").field("nested").text,
                "the host does not let its guests run VMs; the role kvm_host switches that on",
            )
        if vm.firmware == "uefi" and not os.path.isdir(OVMF):
            yield Problem(place.field("firmware").text, "'uefi' needs the package ovmf on the host, which is missing")
        if vm.tpm and shutil.which("swtpm") is None:
            yield Problem(place.field("tpm").text, "needs the package swtpm on the host, which is missing")
        old = before if isinstance(before, Vm) else None
        if more_hugepages(old, vm):
            needed = sum(
                more_hugepages(context.before.get("vm", {}).get(key), other)
                for key, other in context.wanted.get("vm", {}).items()
            )
            free = free_hugepages()
            if free < needed:
                yield Problem(
                    place.field("memory").field("hugepages").text,
                    f"{needed} MiB of huge pages are needed for what this task starts, and {free} MiB are free "
                    "(sysctl vm.nr_hugepages)",
                )
        if memory.reservation not in (None, 0, memory.size):
            yield Problem(
                place.field("memory").field("reservation").text,
                f"{memory.reservation} MiB is not allowed; allowed is 0 or the VM's whole size, {memory.size} MiB, since "
                "QEMU locks all of a VM's memory in the host's or none",
            )
        if vm.cdrom and (old is None or old.cdrom != vm.cdrom):
            problem = disk_images.medium_problem(vm.cdrom)
            if problem:
                yield Problem(place.field("cdrom").text, problem)
        for nic in vm.nics or ():
            for field, message in bandwidth.problems(nic.bandwidth):
                yield Problem(place.field("nics").item(nic.label).inner(field).text, message)
            if nic.network and not self._networks(context).get(nic.network):
                yield Problem(
                    place.field("nics").item(nic.label).field("network").text,
                    f"there is no network {show(nic.network)}",
                )

    def _validate_new(self, vm: Vm, context: Context) -> Iterator[Problem]:
        place = vm.place
        problem = session.read(
            lambda connection: _foreign(connection, str(vm.name)), f"{place.text} cannot be looked for"
        )
        if problem:
            yield Problem(place.field("name").text, problem)
        template = context.find("template", vm.template) if vm.template else None
        if vm.clone and not vm.template:
            yield Problem(place.field("clone").text, "goes with a template, and none is given")
        if vm.guest is not None and not vm.template:
            yield Problem(place.field("guest").text, "goes with a template, and none is given")
        if vm.guest is not None and isinstance(template, Template) and template.customization == "none":
            yield Problem(
                place.field("guest").text,
                f"template {show(vm.template)} says customization: none, so its guests are given nothing",
            )
        first = (vm.disks or (None,))[0]
        if first is not None and first.provisioning == "thick" and vm.template and vm.clone != "full":
            yield Problem(
                place.field("disks").item(first.label).field("provisioning").text,
                "'thick' goes with clone: full, since a linked clone takes space as it is written to",
            )
        directory = self.where.vm(str(vm.name))
        if os.path.isdir(directory) and not os.path.exists(os.path.join(directory, MARK_MAKING)):
            kept = sorted(entry for entry in os.listdir(directory) if entry.endswith(".qcow2"))
            if kept and not os.path.exists(os.path.join(directory, MARK_REMOVING)):
                yield Problem(
                    place.text,
                    f"disks of a VM of this name were kept in {directory} ({', '.join(kept)}); move them away first",
                )
        yield from self._validate_size_and_space(vm)

    def _validate_pools(self, before: Optional[ModelObject], vm: Vm, context: Context) -> Iterator[Problem]:
        """Look at the disks that are to be made, or to grow, in storage pools."""
        owner = self.platform.owner("storage_pool") if self.platform is not None else None
        old = by_name(before.disks) if isinstance(before, Vm) else {}
        needed: Dict[str, int] = {}
        for number, (name, disk) in enumerate(by_name(vm.disks).items()):
            pool = context.find("storage_pool", disk.pool) if disk.pool else None
            if owner is None or not isinstance(pool, StoragePool) or old.get(name) == disk:
                continue
            place = vm.place.field("disks").item(name)
            size = (disk.size or 0) * MIB
            if name not in old:
                problems = list(self._pool_problems(vm, disk, pool, number == 0 and bool(vm.template), place, context))
                yield from problems
                if problems:
                    continue
                if number == 0 and vm.template and not size:
                    size = size_of(self.where, vm.template) if self._has_template(vm.template) else 0
            group = owner.group(pool)
            if group is not None and disk.size and disk.size * MIB % group.extent:
                nearest = -(-disk.size * MIB // group.extent) * group.extent // MIB
                yield Problem(
                    place.field("size").text,
                    f"{disk.size} MiB is no multiple of the {group.extent // MIB} MiB that the volume group "
                    f"{show(group.name)} gives; the next one is {nearest} MiB",
                )
            takes = 0
            if pool.type == "lvm" or disk.provisioning == "thick":
                takes = size - ((old[name].size or 0) * MIB if name in old else 0)
            elif name not in old and number == 0 and vm.template and vm.clone == "full":
                takes = os.stat(self.where.template_image(vm.template)).st_blocks * 512 if size else 0
            needed[str(pool.name)] = needed.get(str(pool.name), 0) + takes
        for pool_name, size in needed.items():
            free = owner.free_bytes(context.find("storage_pool", pool_name)) if owner is not None else None
            if free is not None and size > free:
                yield Problem(
                    vm.place.field("disks").text,
                    f"need {size} bytes in storage pool {show(pool_name)}, and there are {free} bytes left",
                )

    def _has_template(self, name: str) -> bool:
        return os.path.exists(self.where.template_image(name))

    def _pool_problems(
        self, vm: Vm, disk: Disk, pool: StoragePool, from_template: bool, place: Path, context: Context
    ) -> Iterator[Problem]:
        owner = self.platform.owner("storage_pool")
        shown = f"storage pool {show(pool.name)}"
        known = owner.places({"storage_pool": {pool.key: pool}})[str(pool.name)]
        file = known.disk_file(str(vm.name), str(disk.name))
        if file is None:
            yield Problem(
                place.field("pool").text,
                f"{shown} is of type {pool.type}, in which no disk can be made; allowed is a pool of type dir, nfs or "
                "lvm, which can lie on its devices",
            )
            return
        if pool.content is not None and "disks" not in pool.content:
            yield Problem(
                place.field("pool").text, f"{shown} is for {', '.join(pool.content) or 'nothing'}, not for disks"
            )
        if pool.key in context.before.get("storage_pool", {}) and not owner.is_started(str(pool.name)):
            if context.before["storage_pool"][pool.key] == pool:
                yield Problem(place.field("pool").text, f"{shown} is stopped; a task that names the pool starts it")
                return
        if file.is_block and disk.provisioning == "thin":
            yield Problem(
                place.field("provisioning").text,
                f"is 'thin', and {shown} of type {pool.type} gives a disk all its space at once; allowed is 'thick'",
            )
        if file.is_block and from_template and vm.clone != "full":
            yield Problem(
                vm.place.field("clone").text,
                f"is 'linked', and a disk in {shown} of type {pool.type} cannot refer to a template; allowed is 'full'",
            )
        making = os.path.exists(os.path.join(self.where.vm(str(vm.name)), MARK_MAKING))
        if not making and vm.key not in context.before.get("vm", {}) and volumes.exists(file):
            yield Problem(place.text, f"{file.path} is there already; a disk that was kept has to be moved away first")

    def _validate_size_and_space(self, vm: Vm) -> Iterator[Problem]:
        needed = 0
        first = (vm.disks or (None,))[0]
        image = self.where.template_image(str(vm.template)) if vm.template else None
        if image is not None and os.path.exists(image):
            size = size_of(self.where, str(vm.template))
            if first is not None and first.size is not None and first.size * MIB < size:
                yield Problem(
                    vm.place.field("disks").item(first.label).field("size").text,
                    f"{first.size} MiB is less than the {-(-size // MIB)} MiB of template {show(vm.template)}",
                )
            if vm.clone == "full" and (first is None or first.pool is None):
                needed += os.stat(image).st_blocks * 512
        for disk in vm.disks or ():
            if disk.provisioning == "thick" and disk.size and disk.pool is None:
                needed += disk.size * MIB
        free = disk_images.free_bytes(self.where.images)
        if needed > free:
            yield Problem(
                vm.place.field("disks").text,
                f"need {needed // MIB} MiB in {self.where.images}, and there are {free // MIB} MiB left",
            )

    def _validate_update(self, before: Vm, after: Vm, context: Context) -> Iterator[Problem]:
        place = after.place
        for section in ("disks", "nics"):
            old, new = list(by_name(getattr(before, section))), list(by_name(getattr(after, section)))
            kept = [name for name in new if name in old]
            if kept != [name for name in old if name in new]:
                yield Problem(place.field(section).text, f"are in the order {', '.join(old)}, which cannot be changed")
            elif new[: len(kept)] != kept:
                yield Problem(place.field(section).text, f"new ones come after those that are there: {', '.join(kept)}")
        old_disks = by_name(before.disks)
        first = next(iter(old_disks), None)
        if first is not None and first not in by_name(after.disks):
            yield Problem(place.field("disks").text, f"the first disk {show(first)} cannot be detached")
        for name, disk in by_name(after.disks).items():
            present = old_disks.get(name)
            size = present.size if present is not None else self._detached_size(str(after.name), disk, context)
            if size and disk.size and disk.size < size:
                kept_text = "" if present is not None else " of the disk that was detached before and is attached again"
                yield Problem(
                    place.field("disks").item(name).field("size").text,
                    f"{disk.size} MiB is less than the {size} MiB{kept_text}; a disk can only grow",
                )
        known = self._known.get(str(after.name))
        fields = {name for name in ("cpu", "memory", "disks", "nics") if getattr(before, name) != getattr(after, name)}
        if known is not None and not known.active and fields and self._has_saved_state(str(after.name)):
            yield Problem(
                place.text,
                f"has a saved state (virsh managedsave) that {', '.join(sorted(fields))} would not fit; start it first",
            )

    def _detached_size(self, vm: str, disk: Disk, context: Context) -> Optional[int]:
        place = self._placed(context).places.get(str(disk.pool)) if disk.pool else None
        if place is not None:
            file = place.disk_file(vm, str(disk.name))
        else:
            file = None if disk.pool else DiskFile(self.where.disk(vm, str(disk.name)))
        return volumes.mib(volumes.size_at(file.path)) if file is not None else None

    def _has_saved_state(self, name: str) -> bool:
        def ask(connection: Any) -> bool:
            domain = domains.find(connection, name)
            return domain is not None and bool(domain.hasManagedSaveImage(0))

        return session.read(ask, f"VM {show(name)} cannot be looked at")

    def needs(self, change: Change, context: Context) -> FrozenSet[str]:
        before, after = change.before, change.after
        if not isinstance(before, Vm) or not isinstance(after, Vm) or "stopped" in (before.power, after.power):
            return frozenset()
        known = self._known.get(str(after.name))
        if known is not None and next(live_changes.reasons_for_restart(before, after, known.live), None):
            return frozenset({POWER_CYCLE})
        return frozenset()

    def keeps(self, item: ModelObject, state: State) -> Optional[str]:
        power = getattr(item, "power", None)
        return None if power == "stopped" else f"it is {power}"

    # Making changes

    def apply(self, changes: Sequence[Change], context: Context) -> None:
        # Before any VM starts or gets a NIC, and before there are threads: a hook of libvirt is installed but once.
        port_acls = self.platform.owner("port_acl")
        for change in changes:
            if isinstance(change.after, Vm) and port_acls is not None:
                port_acls.prepare(change.after, context)
        if len(changes) == 1:
            self._make(changes[0], context)
            return
        failures: List[BareforgeError] = []
        # The work is done by qemu-img, libvirtd and QEMU: threads only wait for them.
        with ThreadPoolExecutor(max_workers=min(WORKERS, len(changes))) as pool:
            for future in [pool.submit(self._make, change, context) for change in changes]:
                try:
                    future.result()
                except BareforgeError as error:
                    failures.append(error)
        if len(failures) == 1:
            raise failures[0]
        if failures:
            raise ApplyError("; ".join(error.message for error in failures))

    def _make(self, change: Change, context: Context) -> None:
        vm = change.item
        if not isinstance(vm, Vm):
            raise AssertionError("not reached: not isinstance(vm, Vm)")
        context.begin(change)
        try:
            with session.translated(vm.place.text), host_files.translated(vm.place.text):
                if change.after is None:
                    self._remove(vm, context)
                elif isinstance(change.before, Vm):
                    self._update(change.before, vm, context, POWER_CYCLE in change.needs)
                else:
                    self._create(vm, context)
        except ImageError as error:
            raise ApplyError(f"{vm.place.text}: {error}") from error
        context.done(change)

    def _networks(self, context: Context) -> Dict[str, VirtualNetwork]:
        return {
            str(item.label): item
            for item in context.wanted.get("virtual_network", {}).values()
            if isinstance(item, VirtualNetwork)
        }

    def _switches(self, vm: Vm, context: Context) -> Dict[str, str]:
        networks = self._networks(context)
        return {str(nic.network): str(networks[str(nic.network)].switch) for nic in vm.nics or ()}

    def _create(self, vm: Vm, context: Context) -> None:
        name = str(vm.name)
        template = self._template(vm)
        vm = resolve(vm, template)
        directory = self.where.vm(name)
        # QEMU, which runs as another user, must be able to pass through.
        disk_images.make_directory(self.where.images, 0o711)
        disk_images.make_directory(self.where.consoles, 0o755)
        disk_images.make_directory(directory, 0o711)
        mark = os.path.join(directory, MARK_MAKING)
        _touch(mark)
        where = self._placed(context)
        files = [where.disk_file(name, str(disk.name), disk.pool) for disk in vm.disks or ()]
        volumes.write_journal(directory, files)
        try:
            for number, disk in enumerate(vm.disks or ()):
                self._make_disk(vm, disk, files[number], from_template=number == 0 and template is not None)
            seed = template is not None and template.customization == "cloud_init"
            if seed:
                self._write_seed(vm, cloud_init.new_instance(uuid_of(name)))
            xml = domain_xml.to_xml(vm, self._switches(vm, context), self._host_with_switches(), where, seed)
            domain = session.connection().defineXML(xml)
            # Variables that a VM of this name has left would be started with, and with them its boot entries and keys.
            _forget_variables(self.where.variables(name), self.where)
        except BaseException:
            volumes.clean_up(directory, whole=False)
            shutil.rmtree(directory, ignore_errors=True)
            raise
        if vm.autostart:
            domain.setAutostart(True)
        if vm.power != "stopped":
            domains.start(domain, name, paused=vm.power == "suspended")
        os.unlink(mark)
        volumes.forget_journal(directory)

    def _template(self, vm: Vm) -> Optional[Template]:
        if not vm.template:
            return None
        found = {str(item.name): item for item in read_templates(self.where)}
        if vm.template not in found:
            raise ApplyError(f"{vm.place.field('template').text}: there is no template {show(vm.template)}")
        return found[vm.template]

    def _make_disk(self, vm: Vm, disk: Disk, file: DiskFile, from_template: bool) -> None:
        size = disk.size * MIB if disk.size is not None else None
        template = self.where.template_image(str(vm.template)) if from_template else None
        needed = size
        if template is not None:
            smallest = size_of(self.where, str(vm.template))
            needed = max(size or 0, smallest)
            if size is not None and size < smallest:
                raise ImageError(f"disk {show(disk.name)} of {disk.size} MiB is less than template {show(vm.template)}")
        try:
            volumes.make(file, size, disk.provisioning == "thick", template, vm.clone == "linked")
        except (ImageError, OSError, ApplyError) as error:
            place = vm.place.field("disks").item(disk.label).text
            raise volumes.explain(error, place, disk.pool, file, needed) from error

    def _write_seed(self, vm: Vm, instance: str) -> None:
        macs = {str(nic.name): nic.mac or mac_address(str(vm.name), str(nic.name)) for nic in vm.nics or ()}
        files = cloud_init.seed_files(vm, macs, instance)
        disk_images.make(self.where.seed(str(vm.name)), lambda partial: cloud_init.write_seed(partial, files))

    def _update(self, before: Vm, after: Vm, context: Context, power_cycle: bool) -> None:
        libvirt = session.library()
        name = str(after.name)
        console = self.where.console(name)
        operation = context.operation
        domain = domains.find(session.connection(), name)
        if domain is None:
            raise ApplyError(f"{after.place.text} is gone")
        restarting = os.path.join(self.where.vm(name), MARK_RESTARTING)
        if domain.isActive() and (power_cycle or after.power == "stopped"):
            if power_cycle:
                _touch(restarting)
            domains.stop(domain, name, operation, console, context.progress)
        if dataclasses.replace(before, power=None, autostart=None) != dataclasses.replace(
            after, power=None, autostart=None
        ):
            where = self._placed(context)
            self._make_added_disks(before, after, where)
            self._grow_disks(before, after, where, running=bool(domain.isActive()))
            self._update_seed(before, after)
            config = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE)
            if before.secure_boot != after.secure_boot:
                _forget_variables(domain_xml.variables_path(config, self.where), self.where)
            host = self._host_with_switches()
            session.connection().defineXML(domain_xml.merge(config, after, self._switches(after, context), host, where))
            if domain.isActive():
                live_changes.LiveChanges(domain, host, self._networks(context)).make(before, after)
            port_acls = self.platform.owner("port_acl")
            if before.nics != after.nics and port_acls is not None:
                # libvirt's hook runs when a VM starts, not when a NIC is plugged into it; and what it puts in force
                # then is what is stored, which has to be for the MAC address that the VM starts with.
                port_acls.refresh({name})
            if before.nics != after.nics and domain.isActive():
                guest_ports.tell_vm(name)
        if before.autostart != after.autostart:
            domain.setAutostart(bool(after.autostart))
        domains.set_power(domain, str(after.power), name, operation, console, context.progress)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(restarting)

    def _make_added_disks(self, before: Vm, after: Vm, where: Directories) -> None:
        name, old = str(after.name), by_name(before.disks)
        added = {label: disk for label, disk in by_name(after.disks).items() if label not in old}
        files = {label: where.disk_file(name, label, disk.pool) for label, disk in added.items()}
        volumes.write_journal(self.where.vm(name), files.values())
        for label, disk in added.items():
            if volumes.exists(files[label]):
                # It was detached before, or a run was killed after it had made it.
                volumes.grow(files[label], disk.size * MIB if disk.size else None, disk.provisioning == "thick")
            else:
                self._make_disk(after, disk, files[label], from_template=False)
        volumes.forget_journal(self.where.vm(name))

    def _grow_disks(self, before: Vm, after: Vm, where: Directories, running: bool) -> None:
        """Make disks larger; the files of a VM that runs are grown by its QEMU, which has them open."""
        old = by_name(before.disks)
        for name, disk in by_name(after.disks).items():
            if name in old and disk.size is not None and disk.size != old[name].size:
                file = where.disk_file(str(after.name), name, disk.pool)
                if file.is_block or not running:
                    volumes.grow(file, disk.size * MIB, disk.provisioning == "thick")

    def _update_seed(self, before: Vm, after: Vm) -> None:
        """Tell the guest of its changed network; it reads that at its next start."""
        path = self.where.seed(str(after.name))
        old = by_name(before.nics)
        changed = before.nics != after.nics and (
            set(old) != set(by_name(after.nics))
            or any(
                live_changes.addresses_differ(old[name], nic) or old[name].mac != nic.mac
                for name, nic in by_name(after.nics).items()
            )
        )
        if not changed or not os.path.exists(path):
            return
        files = cloud_init.read_seed(path)
        macs = {str(nic.name): nic.mac or mac_address(str(after.name), str(nic.name)) for nic in after.nics or ()}
        files.update(cloud_init.network_file(after.nics or (), macs))
        disk_images.make(path, lambda partial: cloud_init.write_seed(partial, files))

    def _remove(self, vm: Vm, context: Context) -> None:
        name = str(vm.name)
        operation = context.operation
        directory = self.where.vm(name)
        console = self.where.console(name)
        domain = domains.find(session.connection(), name)
        if domain is None:
            return
        if domain.isActive():
            domains.stop(domain, name, operation, console, context.progress)
        paths = domain_xml.disk_paths(domain.XMLDesc(0)).values()
        if operation.delete_disks and os.path.isdir(directory):
            volumes.write_journal(directory, [volumes.file_at(path) for path in paths])
            _touch(os.path.join(directory, MARK_REMOVING))
        domains.undefine(domain, self.where)
        if operation.delete_disks:
            volumes.clean_up(directory, whole=False)
            shutil.rmtree(directory, ignore_errors=False) if os.path.isdir(directory) else None
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.where.seed(name))  # it holds the guest's secrets
            with contextlib.suppress(OSError):
                os.rmdir(directory)
        _remove_console(console)

    def recover(self) -> None:
        """Remove what killed runs have left: directories of VMs that were never defined, or are defined no more."""
        with contextlib.suppress(FileNotFoundError):
            for entry in list(os.scandir(self.where.images)):
                # What is on its way here from another host is its own migration's to clean up.
                if not entry.is_dir(follow_symlinks=False) or os.path.exists(self.where.receiving(entry.name)):
                    continue
                marks = [mark for mark in MARKS if os.path.exists(os.path.join(entry.path, mark))]
                if not marks:
                    volumes.clean_up(entry.path, whole=True)
                    _remove_partial(entry.path)
                    continue
                if session.read(
                    lambda connection, name=entry.name, marks=marks: _is_whole(  # type: ignore[misc]
                        connection, name, marks, self.where
                    ),
                    f"VM {show(entry.name)} cannot be looked for",
                ):
                    volumes.clean_up(entry.path, whole=True)
                    for mark in marks:
                        os.unlink(os.path.join(entry.path, mark))
                else:
                    volumes.clean_up(entry.path, whole=False)
                    shutil.rmtree(entry.path, ignore_errors=True)
                    _remove_console(self.where.console(entry.name))

    def finish(self, changes: Sequence[Change], context: Context) -> None:
        vms = [change.after for change in changes if isinstance(change.after, Vm)]
        for vm in vms:
            self._warn_of_drift(str(vm.name), context)
        wait_for = context.operation.wait_for
        running = [vm for vm in vms if vm.power == "running"]
        if wait_for is not None and running:
            guests.wait(running, str(wait_for.what), int(wait_for.timeout or 300), self.where, context.progress)

    def _warn_of_drift(self, name: str, context: Context) -> None:
        """Warn where a VM that runs would not be the same after its next start."""
        known = self._known.get(name)
        if known is None or not known.active:
            return
        configured = domain_xml.read_xml(known.config, known.config, self.host)
        running = domain_xml.read_xml(known.live, known.config, self.host)
        differs = [
            entry.name
            for entry in dataclasses.fields(Vm)
            if getattr(configured, entry.name) != getattr(running, entry.name)
        ]
        if differs:
            context.warn(
                f"vm[{show(name)}]: its configuration for the next start differs in {', '.join(differs)}; someone has "
                "changed it outside of this collection"
            )


def resolve(vm: Vm, template: Optional[Template]) -> Vm:
    """Return a new VM with everything settled that it leaves to the host."""
    firmware = vm.firmware or (template.firmware if template is not None else None) or "bios"
    disks = vm.disks
    if disks is None:
        disks = (Disk(name=FIRST_DISK).complete(None),) if template is not None else ()
    return dataclasses.replace(
        vm,
        firmware=firmware,
        clone=(vm.clone or "linked") if template is not None else None,
        disks=tuple(
            dataclasses.replace(disk, bus=disk.bus or "virtio", provisioning=disk.provisioning or "thin")
            for disk in disks
        ),
        nics=tuple(dataclasses.replace(nic, model=nic.model or "virtio") for nic in vm.nics or ()),
    )


def _is_whole(connection: Any, name: str, marks: Sequence[str], where: Directories) -> bool:
    """Return whether a VM with a mark is one that stays; one that was being made and never ran is taken back.

    One that was stopped to be started again is started, whether or not its change was made by then.
    """
    domain = domains.find(connection, name)
    if domain is None:
        return False
    if domain.isActive():
        return True
    if MARK_MAKING in marks:
        domains.undefine(domain, where)
        return False
    if MARK_RESTARTING in marks:
        domains.start(domain, name)  # it ran before it was stopped for a change
    return True


def _touch(path: str) -> None:
    with open(path, "wb"):
        pass
    disk_images.settle(os.path.dirname(path), directory=False)


def _remove_partial(directory: str) -> None:
    for entry in list(os.scandir(directory)):
        if entry.name.endswith(".partial"):
            with contextlib.suppress(OSError):
                os.unlink(entry.path)


def _remove_console(path: str) -> None:
    # virtlogd keeps older parts of a log beside it, numbered.
    directory, name = os.path.split(path)
    with contextlib.suppress(FileNotFoundError):
        for entry in list(os.scandir(directory)):
            rest = entry.name[len(name) :] if entry.name.startswith(name) else None
            if rest is not None and (rest == "" or (rest[:1] == "." and rest[1:].isdigit())):
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)


def _forget_variables(path: Optional[str], where: Directories) -> None:
    if path and os.path.dirname(path) == where.nvram:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _foreign(connection: Any, name: str) -> Optional[str]:
    """Return why libvirt does not let us have a name, or None."""
    libvirt = session.library()
    domain = domains.find(connection, name)
    if domain is not None and not domain_xml.is_ours(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)):
        return f"libvirt has a domain {show(name)} that this collection has not made and does not touch"
    try:
        other = connection.lookupByUUIDString(uuid_of(name))
    except libvirt.libvirtError as error:
        if session.is_missing(error):
            return None
        raise
    if other.name() != name:
        return (
            f"the VM that was made as {show(name)} is called {show(other.name())} in libvirt now; rename or remove it"
        )
    return None


def _fits_xml(text: str) -> bool:
    return not any(c in "\r\ufffe\uffff" or (ord(c) & 0xFFFE) == 0xFFFE for c in text)


def _cores(text: str) -> Iterator[int]:
    for part in text.split(","):
        first, _dash, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


def _file_text(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _meminfo() -> Dict[str, int]:
    lines = [line.split() for line in _file_text("/proc/meminfo").splitlines()]
    return {parts[0].rstrip(":"): int(parts[1]) for parts in lines if len(parts) > 1 and parts[1].isdigit()}


def more_hugepages(before: Optional[ModelObject], after: ModelObject) -> int:
    """Return how much more memory in huge pages a VM takes after a change than before it, in MiB."""

    def taken(vm: Optional[ModelObject]) -> int:
        memory = vm.memory if isinstance(vm, Vm) and vm.power != "stopped" else None
        return (memory.size or 0) if memory is not None and memory.hugepages else 0

    return max(0, taken(after) - taken(before))


def free_hugepages() -> int:
    """Return how much of the host's memory lies in huge pages that nobody uses, in MiB."""
    facts = _meminfo()
    return facts.get("HugePages_Free", 0) * facts.get("Hugepagesize", 0) // 1024


def read_host() -> Host:
    """Return what has to be known of this host, from /proc and /sys."""
    flags: List[str] = []
    for line in _file_text("/proc/cpuinfo").splitlines():
        if line.startswith("flags"):
            flags = line.split()
            break
    feature = next((name for name in ("svm", "vmx") if name in flags), None)
    module = {"svm": "kvm_amd", "vmx": "kvm_intel"}.get(feature or "", "")
    online = _file_text("/sys/devices/system/cpu/online").strip() or "0"
    return Host(
        processors=tuple(_cores(online)),
        memory=_meminfo().get("MemTotal", 0) // 1024,
        nested_feature=feature,
        nested=_file_text(f"/sys/module/{module}/parameters/nested").strip() in ("1", "Y", "y"),
        unified_cgroups=os.path.exists("/sys/fs/cgroup/cgroup.controllers"),
    )


def describe(
    connection: Any, names: Optional[Collection[str]] = None, where: Optional[Directories] = None
) -> List[Dict[str, Any]]:
    """Return the VMs of the host, with what they say of themselves while they run. libvirt's exceptions pass.

    names: the VMs that are wanted; all where None. Those of others have `managed: false` and no `vm`.
    Each has `name`, `managed`, `vm` (the object as in a document), `state` in words, `uuid`, `autostart`, `persistent`,
    `addresses` (by NIC), `nics` (MAC address and tap device of each), `process` (QEMU's process id), `disks` (path, size
    and what is taken, in MiB), `snapshots` and the path of the `console`.
    """
    libvirt = session.library()
    where = where or Directories()
    reader = KvmVms(None, where)
    described: List[Dict[str, Any]] = []
    for domain, state, reason in domains.states(connection):
        name = domain.name()
        if names is not None and name not in names:
            continue
        live = domain.XMLDesc(0)
        power = domains.POWER.get(state, "stopped")
        entry: Dict[str, Any] = {
            "name": name,
            "managed": domain_xml.is_ours(live),
            "uuid": domain.UUIDString(),
            "state": domains.state_text(state, reason),
            "power": power,
            "autostart": bool(domain.autostart()),
            "persistent": bool(domain.isPersistent()),
            "snapshots": sorted(domain.snapshotListNames(0)),
            "process": domains.process_id(name) if power != "stopped" else None,
        }
        told = domains.addresses(domain) if power == "running" else {}
        if entry["managed"]:
            config = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
            vm = reader._describe(live, config, power, entry["autostart"])
            entry["vm"] = vm.to_document()
            entry["console"] = where.console(name)
            entry["nics"] = [
                {"name": nic.name, "mac": nic.mac, "tap": tap_name(name, str(nic.name))} for nic in vm.nics or ()
            ]
            paths = domain_xml.disk_paths(live)
            entry["disks"] = [_usage(paths.get(str(disk.name), ""), disk) for disk in vm.disks or ()]
            entry["addresses"] = {str(nic.name): told.get(str(nic.mac), []) for nic in vm.nics or ()}
        else:
            entry["addresses"] = told
        described.append(entry)
    return sorted(described, key=lambda item: str(item["name"]))


def _usage(path: str, disk: Disk) -> Dict[str, Any]:
    try:
        # A block device is taken whole; what a file takes stands in its inode.
        block = path.startswith("/dev/")
        used: Optional[int] = (block_devices.device_size(path) if block else os.stat(path).st_blocks * 512) // MIB
    except OSError:
        used = None
    return {"name": disk.name, "path": path, "size": disk.size, "used": used}
