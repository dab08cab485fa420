# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What speaks against a VM on Proxmox VE, before anything is changed."""

from __future__ import annotations

import ipaddress
import re
from typing import Any, Iterator, Mapping, Optional, Tuple

from ...engine.platform import Context
from ...model.compute import Disk, Nic, Vm
from ...model.network import VirtualNetwork
from ...model.types import show
from .guests import UNFINISHED, Guest
from .notes import is_free_of_notes
from .property_strings import mebibytes
from .vm_config import BUSES, NO_LINKED_CLONES, default_pool

LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
NAME = re.compile(rf"{LABEL}(\.{LABEL})*")
TAG = re.compile(r"[a-z0-9_][a-z0-9_.+-]*")
PASSWORD_HASH = re.compile(r"\$(1|5|6|2[ay])\$.+")
"""The hashes that PVE hands on to cloud-init as they are (PVE::API2::Qemu, cipassword); all else it takes for a password."""

LONGEST_DESCRIPTION = 4096

Found = Iterator[Tuple[str, str]]


def name_problems(name: str, word: str) -> Found:
    """Yield what is wrong with the name of a new VM or template."""
    if not NAME.fullmatch(name) or len(name) > 253:
        yield (
            "name",
            f"{show(name)} is no name that Proxmox VE gives a {word}; allowed are letters, digits, inner hyphens and dots",
        )
    elif name.startswith(UNFINISHED):
        yield "name", f"{show(name)} begins like what is being made; allowed is a name without {UNFINISHED}"


def problems_of(
    vm: Vm,
    before: Optional[Vm],
    guest: Optional[Guest],
    template: Optional[Guest],
    storages: Mapping[str, Any],
    context: Context,
) -> Found:
    """Yield (field, message) for a VM as it shall be.

    before, guest: as it is; None where it is new. template: what a new one is made from. storages: those of the node by name.
    """
    if before is None:
        yield from name_problems(str(vm.name), "VM")
        yield from _new_problems(vm, template, storages)
    if not is_free_of_notes(vm.description) or len(vm.description or "") > LONGEST_DESCRIPTION:
        yield "description", f"is taken for notes of ours, or has more than {LONGEST_DESCRIPTION} characters"
    for tag in vm.tags or ():
        if not TAG.fullmatch(tag):
            yield (
                "tags",
                f"{show(tag)} is no tag; allowed are lower-case letters, digits, _, -, . and +, without - and . first",
            )
    yield from _hardware_problems(vm, before)
    yield from _disk_problems(vm, before, guest, template, storages)
    for nic in vm.nics or ():
        for field, message in _nic_problems(nic, context):
            yield f"nics['{nic.label}'].{field}", message
    asked = [nic.label for nic in vm.nics or () if nic.dns_servers]
    if len(asked) > 1:
        yield (
            f"nics['{asked[1]}'].dns_servers",
            f"are those of the whole guest on Proxmox VE, and {asked[0]} has some already",
        )
    for word in (vm.boot_order or ()) if before is None or vm.boot_order != before.boot_order else ():
        there = {"disk": vm.disks != (), "network": vm.nics != (), "cdrom": bool(vm.cdrom)}
        if not there[word]:
            yield "boot_order", f"names {word}, and the VM has none"


def _new_problems(vm: Vm, template: Optional[Guest], storages: Mapping[str, Any]) -> Found:
    if vm.template and template is not None:
        pool = next((parts["file"].partition(":")[0] for _key, _name, parts in template.disks()), None)
        if vm.clone == "linked":
            wanted = next((disk.pool for disk in vm.disks or ()), None)
            if wanted and wanted != pool:
                yield (
                    f"disks['{(vm.disks or ())[0].label}'].pool",
                    f"a linked clone lies where its template does, in {show(pool)}, not in {show(wanted)}",
                )
            if storages.get(str(pool), {}).get("type") in NO_LINKED_CLONES:
                yield "clone", f"'linked' cannot be had of a template in {show(pool)}; allowed is full"
    elif vm.clone and not vm.template:
        yield "clone", "goes with a template only"
    needs_pool = any(not disk.pool for disk in vm.disks or ()) or vm.tpm or vm.firmware == "uefi"
    if not vm.template and needs_pool and default_pool(storages) is None:
        yield "disks", "no storage of the node takes disks; there are: " + (", ".join(sorted(storages)) or "none")
    guest = vm.guest
    if guest is None:
        return
    if guest.hostname and guest.hostname != str(vm.name).lower():
        yield "guest.hostname", f"is the VM's name on Proxmox VE, {show(vm.name)}, and not {show(guest.hostname)}"
    if len(guest.users or ()) > 1:
        yield "guest.users", f"are {len(guest.users or ())}, and Proxmox VE makes one"
    for user in guest.users or ():
        if not user.sudo:
            yield (
                f"guest.users['{user.label}'].sudo",
                "is false, and the user that Proxmox VE makes may do everything; allowed is true",
            )
        if user.password_hash and not PASSWORD_HASH.fullmatch(user.password_hash):
            yield (
                f"guest.users['{user.label}'].password_hash",
                "is of a kind that Proxmox VE takes for a password; allowed are $5$ and $6$",
            )
    for field in ("packages", "timezone", "user_data"):
        if getattr(guest, field):
            yield (
                f"guest.{field}",
                "cannot be given through the API of Proxmox VE, which takes one user, addresses and DNS servers",
            )


def _hardware_problems(vm: Vm, before: Optional[Vm]) -> Found:
    cpu, memory = vm.cpu, vm.memory
    if cpu is not None:
        if cpu.threads not in (None, 1):
            yield "cpu.threads", f"{cpu.threads} cannot be had on Proxmox VE, whose processors have sockets and cores"
        if cpu.limit and cpu.limit > 12800:
            yield "cpu.limit", f"{cpu.limit} is more than Proxmox VE takes, which is 12800"
    if memory is not None and memory.shares and memory.shares > 50000:
        yield "memory.shares", f"{memory.shares} is more than Proxmox VE takes, which is 50000"
    if before is not None:
        if vm.secure_boot != before.secure_boot:
            yield "secure_boot", "is settled when the VM is made, since its keys lie with what its firmware remembers"
    if vm.cdrom and not re.fullmatch(r"[A-Za-z][A-Za-z0-9_.-]*:iso/[^,/]+", vm.cdrom):
        yield "cdrom", f"{show(vm.cdrom)} is no image; allowed is STORAGE:iso/FILE"
    if vm.autostart_delay and vm.autostart_order is None and before is None:
        yield "autostart_delay", "goes with autostart_order on Proxmox VE"


def _disk_problems(
    vm: Vm, before: Optional[Vm], guest: Optional[Guest], template: Optional[Guest], storages: Mapping[str, Any]
) -> Found:
    present = {disk.name: disk for disk in (before.disks if before is not None else None) or ()}
    counts: dict[str, int] = {}
    for number, disk in enumerate(vm.disks or ()):
        place = f"disks['{disk.label}']"
        bus = str(disk.bus or "virtio")
        counts[bus] = counts.get(bus, 0) + 1
        if counts[bus] == BUSES.get(bus, 0) + 1:
            yield f"{place}.bus", f"{show(bus)} takes {BUSES.get(bus, 0)} disks"
        smallest = _smallest(disk, number, present.get(disk.name), before, template)
        if disk.size and smallest and disk.size < smallest:
            yield f"{place}.size", f"{disk.size} MiB is less than the disk has, {smallest} MiB; disks only grow"
        if disk.pool and disk.name not in present and disk.pool in storages:
            entry = storages[disk.pool]
            if "images" not in str(entry.get("content", "")).split(","):
                yield f"{place}.pool", f"{show(disk.pool)} takes no disks; it holds {entry.get('content') or 'nothing'}"
        elif disk.pool and disk.name not in present:
            yield (
                f"{place}.pool",
                f"{show(disk.pool)} is not available on the node; there are: {', '.join(sorted(storages))}",
            )


def _smallest(
    disk: Disk, number: int, present: Optional[Disk], before: Optional[Vm], template: Optional[Guest]
) -> Optional[int]:
    if present is not None:
        return present.size
    if before is None and number == 0 and template is not None:
        return next((mebibytes(parts.get("size")) for _key, _name, parts in template.disks()), None)
    return None


def _nic_problems(nic: Nic, context: Context) -> Found:
    for version in (4, 6):
        found = [address for address in nic.addresses or () if ipaddress.ip_interface(address).version == version]
        if len(found) > 1:
            yield "addresses", f"{len(found)} of IPv{version} are more than Proxmox VE gives an adapter, which is one"
        if getattr(nic, f"gateway{version}") and not found:
            yield f"gateway{version}", f"goes with an address of IPv{version} only"
    limits = nic.bandwidth
    if limits is not None:
        if limits.inbound is None or limits.outbound is None or limits.inbound.average != limits.outbound.average:
            yield (
                "bandwidth",
                "is one and the same in both directions on Proxmox VE; give inbound and outbound the same average",
            )
        for name in ("inbound", "outbound"):
            side = getattr(limits, name)
            if side is not None and (side.peak or side.burst):
                yield f"bandwidth.{name}", "has an average only on Proxmox VE, no peak and no burst"
    network = context.find("virtual_network", nic.network)
    if isinstance(network, VirtualNetwork) and network.trunk:
        switch = context.find("virtual_switch", network.switch)
        if getattr(switch, "vlan_aware", None) is False:
            yield "network", f"{show(nic.network)} is a trunk, and its switch {show(network.switch)} is not VLAN-aware"
