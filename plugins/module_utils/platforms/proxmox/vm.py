# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""VMs (PVE::API2::Qemu): made, changed, started and removed, several side by side.

A VM that is made from nothing is one request. One that is cloned bears a name of its own as long as it is being made,
so that a run that finds such a one after a kill removes it and makes it anew; its name comes with the last change.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any, Collection, Dict, FrozenSet, Iterable, List, Mapping, Optional, Sequence, Tuple

from ...engine.change import POWER_CYCLE, Change
from ...engine.platform import Context, Interface
from ...errors import ApplyError, Problem, ReadError
from ...model.compute import Vm
from ...model.document import State
from ...model.network import VirtualNetwork
from ...model.schema import ModelObject
from ...model.types import show
from ...transports.proxmox import Job, Read, Task
from .guest_agent import adapters_by_mac, tell_addresses, wait_for_addresses
from .guests import TO_BE, UNFINISHED, Guest, joined_tags, snapshot_names
from .jobs import carry_out
from .network import Placed
from .property_strings import mebibytes, split
from .vm_checks import problems_of
from .vm_config import NO_LINKED_CLONES, Wanted, describe

ID_TRIES = 20
"""How often another id is tried where somebody else has taken one meanwhile."""

LOCK_WAIT = 120.0
"""Seconds that a task is waited for that a killed run has started."""

ASIDE = ("create", "clone")


class ProxmoxVms(Interface):
    """Reads and changes VMs of the node."""

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
            "vm.cpu.shares",
            "vm.cpu.limit",
            "vm.cpu.pinning",
            "vm.memory.ballooning",
            "vm.memory.shares",
            "vm.disk.pool",
            "vm.disk.bus.virtio",
            "vm.disk.bus.scsi",
            "vm.disk.bus.sata",
            "vm.disk.cache",
            "vm.disk.limits",
            "vm.nic.model.virtio",
            "vm.nic.model.e1000",
            "vm.nic.model.e1000e",
            "vm.nic.model.vmxnet3",
            "vm.nic.connected",
            "vm.nic.bandwidth",
            "vm.cdrom",
            "vm.guest",
            "vm.boot_order",
            "vm.resource_pool",
            "vm.autostart",
            "vm.autostart_order",
            "vm.power.running",
            "vm.power.stopped",
            "vm.power.suspended",
            "vm.tags",
            "vm.wait_for.address",
        }
    )

    def __init__(self, platform: Any) -> None:
        self.platform = platform
        self._ambiguous: Dict[str, List[int]] = {}

    # -- reading -------------------------------------------------------------------------------------------------------

    def read(self, kinds: Collection[str], names: Mapping[str, Collection[str]]) -> State:
        wanted = names.get("vm")
        placed = Placed(self.platform.seen_network())
        found: Dict[Any, ModelObject] = {}
        self._ambiguous = {}
        for guest in self.platform.guests(wanted):
            if guest.template or guest.is_unfinished or guest.lock == "create" or not guest.config:
                continue
            if (guest.name,) in found:
                self._ambiguous.setdefault(guest.name, []).append(guest.vmid)
                continue
            found[(guest.name,)] = describe(guest, placed, self.platform.resource_pool_of(guest.vmid))
        return {"vm": found}

    def describe(self, names: Optional[Collection[str]] = None) -> List[Dict[str, Any]]:
        """Return the VMs of the node with what they do right now, for vm_info.

        names: the VMs that are wanted; all where None. Addresses are those that the agents of guests tell.
        Raises ReadError, ConnectError or AuthenticateError.
        """
        session = self.platform.session
        placed = Placed(self.platform.network())
        guests = [
            guest
            for guest in self.platform.guests(names)
            if guest.config
            and not guest.template
            and not guest.is_unfinished
            and (names is None or guest.name in names)
        ]
        snapshots = session.get_many([Read(self._path(guest.vmid, "snapshot")) for guest in guests])
        told: List[Dict[str, Any]] = []
        for guest, entries in zip(guests, snapshots):
            vm = describe(guest, placed, self.platform.resource_pool_of(guest.vmid))
            addresses: Dict[str, List[str]] = {str(nic.name): [] for nic in vm.nics or ()}
            for name, address, prefix in self._told_by(guest):
                addresses[name].append(address if prefix is None else f"{address}/{prefix}")
            told.append(
                {
                    "name": guest.name,
                    "managed": bool(guest.facts),
                    "vm": vm.to_document(),
                    "state": guest.state,
                    "power": vm.power,
                    "uuid": split(guest.config.get("smbios1"), "uuid").get("uuid"),
                    "autostart": bool(vm.autostart),
                    "persistent": True,
                    "addresses": addresses,
                    "nics": [
                        {"name": name, "mac": (parts.get("macaddr") or "").lower(), "tap": f"tap{guest.vmid}i{key[3:]}"}
                        for key, name, parts in guest.nics()
                    ],
                    "disks": [
                        {"name": name, "path": parts["file"], "size": mebibytes(parts.get("size")), "used": None}
                        for _key, name, parts in guest.disks()
                    ],
                    "snapshots": snapshot_names(entries),
                    "process": guest.pid if guest.runs else None,
                }
            )
        return told

    def _told_by(self, guest: Guest) -> List[Any]:
        if not guest.runs or guest.paused or not guest.has_agent:
            return []
        return tell_addresses(self.platform.session, guest, adapters_by_mac(guest), [])

    def hidden(self, kind: str, key: Any) -> Optional[str]:
        return self.platform.elsewhere(str(key[0]))

    def keeps(self, item: ModelObject, state: State) -> Optional[str]:
        return "it runs" if getattr(item, "power", None) in ("running", "suspended") else None

    def recover(self) -> None:
        """Remove what a killed run has not finished making."""
        end = time.monotonic() + LOCK_WAIT
        guests = self.platform.listed_guests()
        while any(guest.lock in ASIDE and guest.is_unfinished for guest in guests) and time.monotonic() < end:
            time.sleep(0.5)
            guests = self.platform.listed_guests(anew=True)
        waiting = [guest for guest in guests if guest.to_be and not guest.is_unfinished and not guest.lock]
        if waiting:
            # One that does not start is as one that was never to: what this task wants of it is said then.
            self.platform.session.carry_out([self._finish_start(guest) for guest in waiting])
            guests = self.platform.listed_guests(anew=True)
        left = [guest for guest in guests if guest.is_unfinished and not guest.lock]
        if left:
            carry_out(self.platform.session, [self._destroy(guest) for guest in left])
            self.platform.listed_guests(anew=True)

    # -- objections ----------------------------------------------------------------------------------------------------

    def validate(self, change: Change, context: Context) -> Iterable[Problem]:
        name, place = change.item.label, change.item.place
        guest = self._guest(name) if change.before is not None else None
        if name in self._ambiguous:
            ids = ", ".join(str(vmid) for vmid in self._ambiguous[name])
            yield Problem(
                place.text,
                f"is the name of several VMs of the node (also {ids}), so that it says of none what it shall be",
            )
        if guest is not None and guest.is_locked:
            yield Problem(
                place.text,
                f"is locked by Proxmox VE ({guest.lock}); wait until that has ended, or unlock it (qm unlock)",
            )
        vm = change.after
        if not isinstance(vm, Vm):
            if context.operation.delete_disks is False and guest is not None and next(guest.disks(), None):
                yield Problem(place.text, "delete_disks: false cannot be had: Proxmox VE removes a VM's disks with it")
            return
        if guest is None:
            other = self.platform.elsewhere(name)
            if other is not None:
                yield Problem(place.field("name").text, f"{show(name)} is taken: {other}")
        before = change.before if isinstance(change.before, Vm) else None
        template = self.platform.template(vm.template) if before is None and vm.template else None
        storages = self.platform.storages_to_be(context)
        for field, message in problems_of(vm, before, guest, template, storages, context):
            yield Problem(place.inner(field).text, message)

    def needs(self, change: Change, context: Context) -> FrozenSet[str]:
        before, after = change.before, change.after
        if (
            not isinstance(before, Vm)
            or not isinstance(after, Vm)
            or before.power == "stopped"
            or after.power == "stopped"
        ):
            return frozenset()
        return (
            frozenset({POWER_CYCLE})
            if any(_needs_off(before, after, field) for field in change.fields)
            else frozenset()
        )

    def _guest(self, name: str) -> Optional[Guest]:
        return next((guest for guest in self.platform.guests() if guest.name == name and not guest.template), None)

    # -- changing ------------------------------------------------------------------------------------------------------

    def apply(self, changes: Sequence[Change], context: Context) -> None:
        jobs = [self._done(change, context) for change in changes]
        try:
            carry_out(self.platform.session, jobs)
        finally:
            self.platform.forget_guests()

    def finish(self, changes: Sequence[Change], context: Context) -> None:
        wait_for = context.operation.wait_for
        names = {
            str(change.after.name)
            for change in changes
            if isinstance(change.after, Vm) and change.after.power == "running"
        }
        if wait_for is None or not names:
            return
        guests = [guest for guest in self.platform.guests(names) if guest.name in names and not guest.template]
        wait_for_addresses(self.platform.session, guests, float(wait_for.timeout or 300), context.progress)

    def _done(self, change: Change, context: Context) -> Job:
        context.begin(change)
        if not isinstance(change.after, Vm):
            guest = self._known(change)
            if guest.runs:
                yield from self.stop(guest, context)
            yield from self._destroy(guest)
        elif change.before is None:
            yield from self._make(change.after, context)
        else:
            yield from self._update(change, change.after, context)
        context.done(change)

    def _known(self, change: Change) -> Guest:
        guest = self._guest(change.item.label)
        if guest is None:
            raise ReadError(f"VM {show(change.item.label)} is not there any more")
        return guest

    def _path(self, vmid: int, *more: Any) -> Tuple[Any, ...]:
        return ("nodes", self.platform.session.node, "qemu", vmid, *more)

    def _make(self, vm: Vm, context: Context) -> Job:
        session = self.platform.session
        networks = _networks(context)
        template = self.platform.template(vm.template) if vm.template else None
        if vm.template and template is None:
            raise ReadError(f"template {show(vm.template)} is not there any more")
        if template is None:
            wanted = Wanted(vm, None, networks, self.platform.storages())
            wanted.add_cloud_init_drive()
            params = {**wanted.config, "name": vm.name}
            if vm.power in TO_BE:
                params["tags"] = joined_tags(vm.tags or (), vm.power)
            if vm.resource_pool:
                params["pool"] = self.platform.pool_path(vm.resource_pool)
            guest, task = self.new_guest(("nodes", session.node, "qemu"), "vmid", params, f"making VM {show(vm.name)}")
            yield task
        else:
            linked = self._is_linked(vm, template)
            known = vm if vm.clone else dataclasses.replace(vm, clone="linked" if linked else "full")
            params = {"full": int(not linked)}
            if not linked:
                params["storage"] = next((disk.pool for disk in vm.disks or () if disk.pool), None)
            if vm.resource_pool:
                params["pool"] = self.platform.pool_path(vm.resource_pool)
            what = f"cloning template {show(vm.template)} for VM {show(vm.name)}"
            guest, task = self.new_guest(self._path(template.vmid, "clone"), "newid", params, what)
            yield task
            guest.take(session.ask("GET", self._path(guest.vmid, "config"), {"current": 1}).data)
            first = next((key for key, _name, _parts in guest.disks()), None)
            # What the template's description tells is of the template.
            guest.facts = {"disks": [[first, vm.disks[0].name]]} if vm.disks and first else {}
            wanted = Wanted(known, guest, networks, self.platform.storages())
            wanted.add_cloud_init_drive()
            yield from self._configure(guest, wanted, name=str(vm.name), power=vm.power)
        yield from self.start_marked(guest, str(vm.power), vm.tags or ())

    def _is_linked(self, vm: Vm, template: Guest) -> bool:
        if vm.clone:
            return vm.clone == "linked"
        pool = next((parts["file"].partition(":")[0] for _key, _name, parts in template.disks()), "")
        elsewhere = any(disk.pool and disk.pool != pool for disk in (vm.disks or ())[:1])
        return not elsewhere and self.platform.storages().get(pool, {}).get("type") not in NO_LINKED_CLONES

    def new_guest(self, path: Sequence[Any], field: str, params: Mapping[str, Any], what: str) -> Any:
        """Start what makes a VM under a free id; returns the VM and the task.

        Another run may take the same id at the same time: PVE gives it to the first and refuses the second, which takes the next.
        """
        session = self.platform.session
        for attempt in range(ID_TRIES):
            vmid = self.platform.free_id()
            named = {"name": f"{UNFINISHED}{vmid}", **params}
            try:
                upid = session.ask("POST", path, {field: vmid, **named}).data
            except ApplyError as error:
                if "already exists" not in error.message or attempt == ID_TRIES - 1:
                    raise
                continue
            return Guest(vmid, str(named["name"])), Task(str(upid), what)
        raise AssertionError("not reached: the last attempt returns or raises")

    def _update(self, change: Change, vm: Vm, context: Context) -> Job:
        guest = self._known(change)
        marked: Optional[str] = None
        if guest.runs and (POWER_CYCLE in change.needs or vm.power == "stopped"):
            if vm.power in TO_BE:
                marked = str(vm.power)
                self._mark(guest, marked)
            yield from self.stop(guest, context)
        roots = frozenset(field.partition(".")[0].partition("[")[0] for field in change.fields)
        if roots - {"power", "resource_pool"}:
            wanted = Wanted(vm, guest, _networks(context), self.platform.storages(), roots)
            if "nics" in roots:
                wanted.add_cloud_init_drive()
            yield from self._configure(guest, wanted, power=marked)
        if "resource_pool" in roots:
            self._move_to_pool(guest, change)
        if marked is None:
            yield from self.bring_to(guest, str(vm.power))
        else:
            yield from self.start_marked(guest, marked, vm.tags or ())

    def _configure(self, guest: Guest, wanted: Wanted, name: Optional[str] = None, power: Optional[str] = None) -> Job:
        """Change a VM's configuration; a new name comes last, as the sign that all else is done.

        power: what it is brought to afterwards; that is marked with the name, or kept where it is marked already.
        """
        session = self.platform.session
        path = self._path(guest.vmid, "config")
        what = f"changing VM {show(name or guest.name)}"
        params: Dict[str, Any] = dict(wanted.config)
        if wanted.deletes:
            params["delete"] = ",".join(dict.fromkeys(wanted.deletes))
        last: Dict[str, Any] = {}
        if name is not None:
            (last if wanted.sizes else params)["name"] = name
        if power in TO_BE and (name is not None or "tags" in params or "tags" in wanted.deletes):
            params.pop("tags", None)
            if "delete" in params:
                kept = [key for key in dict.fromkeys(wanted.deletes) if key != "tags"]
                params["delete"] = ",".join(kept) or None
            (last if wanted.sizes and name is not None else params)["tags"] = joined_tags(wanted.vm.tags or (), power)
        if params:
            if guest.config.get("digest"):
                params["digest"] = guest.config["digest"]
            # What makes disks takes its time, and is a task then.
            if any("import-from" in str(value) or _makes_disk(value) for value in wanted.config.values()):
                yield Task(str(session.ask("POST", path, params).data or ""), what)
            else:
                session.ask("PUT", path, params)
        for key, size in wanted.sizes.items():
            upid = session.ask("PUT", self._path(guest.vmid, "resize"), {"disk": key, "size": f"{size}M"}).data
            yield Task(str(upid or ""), f"growing disk {key} of VM {show(name or guest.name)}")
        if (
            guest.runs
            and guest.cloud_init()
            and any(key.startswith(("ipconfig", "ci", "nameserver", "ssh")) for key in params)
        ):
            session.ask("PUT", self._path(guest.vmid, "cloudinit"), {})
        if last:
            session.ask("PUT", path, last)

    def _move_to_pool(self, guest: Guest, change: Change) -> None:
        session = self.platform.session
        pool = getattr(change.after, "resource_pool", None)
        if pool:
            session.put("pools", poolid=self.platform.pool_path(pool), vms=guest.vmid, allow__move=True)
        else:
            old = self.platform.pool_path(getattr(change.before, "resource_pool", None))
            session.put("pools", poolid=old, vms=guest.vmid, delete=True)

    # -- power ---------------------------------------------------------------------------------------------------------

    def stop(self, guest: Guest, context: Context) -> Job:
        """Stop a VM as the task's operation says. Raises ApplyError where it does not within the time."""
        session = self.platform.session
        operation = context.operation
        timeout = operation.shutdown_timeout or 0
        what = f"stopping VM {show(guest.name)}"
        if timeout == 0:
            yield Task(str(session.ask("POST", self._path(guest.vmid, "status", "stop"), {}).data), what)
        else:
            if guest.paused:
                yield Task(str(session.ask("POST", self._path(guest.vmid, "status", "resume"), {}).data), what)
            params = {"timeout": timeout, "forceStop": bool(operation.force_off)}
            try:
                yield Task(str(session.ask("POST", self._path(guest.vmid, "status", "shutdown"), params).data), what)
            except ApplyError as error:
                raise ApplyError(
                    f"VM {show(guest.name)} has not shut down within {timeout} s ({error.message})",
                    "Say force_off: true to switch it off then",
                ) from error
        guest.status, guest.paused = "stopped", False

    def bring_to(self, guest: Guest, power: str) -> Job:
        """Start, suspend or resume a VM, so that it is in the state `power`."""
        session = self.platform.session
        if power in ("running", "suspended") and not guest.runs:
            upid = session.ask("POST", self._path(guest.vmid, "status", "start"), {}).data
            yield Task(str(upid), f"starting VM {show(guest.name)}")
            guest.status, guest.paused = "running", False
        if power == "suspended" and not guest.paused:
            upid = session.ask("POST", self._path(guest.vmid, "status", "suspend"), {}).data
            yield Task(str(upid), f"suspending VM {show(guest.name)}")
        elif power == "running" and guest.paused:
            upid = session.ask("POST", self._path(guest.vmid, "status", "resume"), {}).data
            yield Task(str(upid), f"resuming VM {show(guest.name)}")

    def _mark(self, guest: Guest, power: str) -> None:
        """Mark a VM as one that is about to be brought to a state, so that a run that finds it after a kill does that."""
        session = self.platform.session
        path = self._path(guest.vmid, "config")
        session.ask("PUT", path, {"tags": joined_tags(guest.tags, power), "digest": guest.config.get("digest")})
        guest.take(session.ask("GET", path, {"current": 1}).data)

    def start_marked(self, guest: Guest, power: str, tags: Collection[str]) -> Job:
        """Bring a VM that is marked to its state, and take the mark away, also where that fails."""
        try:
            yield from self.bring_to(guest, power)
        except ApplyError:
            self._unmark(guest, power, tags)
            raise
        self._unmark(guest, power, tags)

    def _unmark(self, guest: Guest, power: str, tags: Collection[str]) -> None:
        if power in TO_BE:
            params = {"tags": joined_tags(tags)} if tags else {"delete": "tags"}
            self.platform.session.ask("PUT", self._path(guest.vmid, "config"), params)

    def _finish_start(self, guest: Guest) -> Job:
        yield from self.start_marked(guest, str(guest.to_be), guest.tags)

    def _destroy(self, guest: Guest) -> Job:
        params = {"purge": 1, "destroy-unreferenced-disks": 1}
        upid = self.platform.session.ask("DELETE", self._path(guest.vmid), params).data
        yield Task(str(upid), f"removing VM {show(guest.name)}")


def _networks(context: Context) -> Dict[str, VirtualNetwork]:
    return {
        str(item.name): item
        for item in context.wanted.get("virtual_network", {}).values()
        if isinstance(item, VirtualNetwork)
    }


def _makes_disk(value: Any) -> bool:
    first = str(value).partition(",")[0]
    size = first.rpartition(":")[2]
    return ":" in first and size.replace(".", "", 1).isdigit() and not first.startswith("/")


OFF_FOR = {
    "cpu": ("count", "sockets", "cores", "model", "pinning"),
    "memory": ("size", "hugepages"),
}
"""What of these a running VM does not take (PVE::QemuServer, vmconfig_hotplug_pending, with `hotplug` at its default)."""


def _needs_off(before: Vm, after: Vm, field: str) -> bool:
    root, _dot, leaf = field.partition(".")
    if root in OFF_FOR:
        return not leaf or leaf in OFF_FOR[root]
    if root.startswith("disks"):
        old = {disk.name: disk for disk in before.disks or ()}
        new = {disk.name: disk for disk in after.disks or ()}
        both = [(old[name], new[name]) for name in old if name in new]
        one = [disk for name, disk in {**old, **new}.items() if not (name in old and name in new)]
        changed = any(left.bus != right.bus or left.cache != right.cache for left, right in both)
        return changed or any(disk.bus not in ("virtio", "scsi") for disk in one)
    if root == "cdrom":
        return before.cdrom is None
    return root in ("firmware", "tpm", "boot_order")
