# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Changes to a VM that runs: which of them can be made meanwhile, and making them."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from typing import Any, Dict, Iterator, List, Mapping, Optional, Tuple
from xml.etree import ElementTree

from ...errors import ApplyError, one_line
from ...model.compute import Cpu, Disk, DiskLimits, Memory, Nic, Vm
from ...model.network import VirtualNetwork
from ...model.types import show
from ...transports import libvirt as session
from . import domain_xml
from .disk_images import MIB
from .domain_xml import HOT_PLUG_BUSES, Host
from .names import tap_name

UNPLUG_SECONDS = 60.0
ASK_AGAIN_SECONDS = 5.0
POLL_SECONDS = 0.25
GUEST_FIELDS = ("addresses", "gateway4", "gateway6", "dns_servers")


def by_name(items: Any) -> Dict[str, Any]:
    """Return disks or NICs by name."""
    return {str(item.name): item for item in items or ()}


def addresses_differ(before: Optional[Nic], after: Nic) -> bool:
    """Return whether what the guest is told of a NIC differs; a new one of which it is told nothing does not."""
    empty = (None, (), "")
    for name in GUEST_FIELDS:
        old = getattr(before, name) if before is not None else None
        new = getattr(after, name)
        if old != new and not (old in empty and new in empty):
            return True
    return False


def reasons_for_restart(before: Vm, after: Vm, xml: str) -> Iterator[str]:
    """Yield the fields that can only be changed while the VM is off.

    xml: of the running domain.
    """
    old_cpu, cpu = before.cpu or Cpu(), after.cpu or Cpu()
    for name in ("sockets", "cores", "threads", "model", "nested"):
        if getattr(old_cpu, name) != getattr(cpu, name):
            yield f"cpu.{name}"
    count, old_count = cpu.count or 1, old_cpu.count or 1
    if count < old_count or count > domain_xml.maximum_vcpus(xml):
        yield "cpu.count"
    old_memory, memory = before.memory or Memory(), after.memory or Memory()
    for name in ("size", "hugepages", "reservation"):
        if getattr(old_memory, name) != getattr(memory, name):
            yield f"memory.{name}"
    for name in ("secure_boot", "tpm", "boot_order"):
        if getattr(before, name) != getattr(after, name):
            yield name
    if after.cdrom and domain_xml.find_device(xml, domain_xml.CDROM_ALIAS) is None:
        yield "cdrom"  # SATA drives cannot be plugged in
    needed = 0
    for reason, ports in [*_disk_reasons(before, after, xml), *_nic_reasons(before, after)]:
        needed += ports
        if reason:
            yield reason
    if needed > domain_xml.free_ports(xml):
        yield "disks and nics that are added: the VM has no more free PCI Express ports"


def _disk_reasons(before: Vm, after: Vm, xml: str) -> Iterator[Tuple[Optional[str], int]]:
    old, new = by_name(before.disks), by_name(after.disks)
    has_scsi = domain_xml.has_scsi_controller(xml)
    for name, disk in new.items():
        place = f"disks[{show(name)}]"
        present = old.get(name)
        if present is None:
            if disk.bus not in HOT_PLUG_BUSES:
                yield place, 0
            elif disk.bus == "virtio":
                yield None, 1
            elif not has_scsi:
                has_scsi = True
                yield None, 1
        else:
            for field in ("bus", "cache"):
                if getattr(present, field) != getattr(disk, field):
                    yield f"{place}.{field}", 0
    for name, disk in old.items():
        if name not in new and disk.bus not in HOT_PLUG_BUSES:
            yield f"disks[{show(name)}]", 0


def _nic_reasons(before: Vm, after: Vm) -> Iterator[Tuple[Optional[str], int]]:
    old = by_name(before.nics)
    for name, nic in by_name(after.nics).items():
        place = f"nics[{show(name)}]"
        present = old.get(name)
        if present is None:
            yield None, 1
        else:
            for field in ("model", "mac"):
                if getattr(present, field) != getattr(nic, field) and getattr(nic, field) is not None:
                    yield f"{place}.{field}", 0
        # The guest reads what it is told of its network when it starts.
        if addresses_differ(present, nic):
            yield f"{place}.addresses", 0


class LiveChanges:
    """Makes the changes of one VM to its running domain, after they were written into its configuration.

    domain: the libvirt domain.
    networks: the virtual networks by name, for their switches and VLANs.
    """

    def __init__(self, domain: Any, host: Host, networks: Mapping[str, VirtualNetwork]) -> None:
        self.domain = domain
        self.host = host
        self.networks = networks
        self.libvirt = session.library()
        self.live = self.libvirt.VIR_DOMAIN_AFFECT_LIVE

    def make(self, before: Vm, after: Vm) -> None:
        """Make the changes. Raises ApplyError and libvirt's exceptions."""
        self.config = self.domain.XMLDesc(self.libvirt.VIR_DOMAIN_XML_INACTIVE)
        self._change_processors(before.cpu or Cpu(), after.cpu or Cpu())
        self._change_memory(before.memory or Memory(), after.memory or Memory())
        self._change_disks(before, after)
        if (before.cdrom or "") != (after.cdrom or ""):
            # As it stands in the configuration now: with another medium, or with none.
            drive = domain_xml.find_device(self.config, domain_xml.CDROM_ALIAS)
            if drive is not None:
                self.domain.updateDeviceFlags(domain_xml.to_text(drive), self.live)
        self._change_nics(before, after)
        if before.description != after.description:
            self.domain.setMetadata(
                self.libvirt.VIR_DOMAIN_METADATA_DESCRIPTION, after.description or None, None, None, self.live
            )
        holder = ElementTree.Element("vm")
        holder.text = domain_xml.metadata_text(after)
        self.domain.setMetadata(
            self.libvirt.VIR_DOMAIN_METADATA_ELEMENT,
            domain_xml.to_text(holder),
            domain_xml.PREFIX,
            domain_xml.NAMESPACE,
            self.live,
        )

    def _change_processors(self, before: Cpu, after: Cpu) -> None:
        if before.count != after.count:
            self.domain.setVcpusFlags(after.count, self.live)
        parameters: Dict[str, int] = {}
        if before.shares != after.shares and after.shares is not None:
            parameters["cpu_shares"] = after.shares
        if before.limit != after.limit and after.limit is not None:
            parameters["global_period"] = domain_xml.PERIOD
            parameters["global_quota"] = domain_xml.quota_of(after.limit)
        if parameters:
            self.domain.setSchedulerParametersFlags(parameters, self.live)
        if before.pinning != after.pinning or (after.pinning and before.count != after.count):
            cores = self._cores(after.pinning)
            # Offline vCPU are pinned as well, for the moment in which they come.
            for number in range(domain_xml.maximum_vcpus(self.config)):
                self.domain.pinVcpuFlags(number, cores, self.live)

    def _change_memory(self, before: Memory, after: Memory) -> None:
        if before.limit != after.limit and after.limit is not None:
            # memory.high of the VM's cgroup, in KiB (virDomainSetMemoryParameters)
            self.domain.setMemoryParameters({"soft_limit": after.limit * domain_xml.KIB}, self.live)

    def _cores(self, pinning: Optional[str]) -> Tuple[bool, ...]:
        wanted = set(self.host.processors)
        if pinning:
            wanted = set()
            for part in pinning.split(","):
                first, _dash, last = part.partition("-")
                wanted.update(range(int(first), int(last or first) + 1))
        return tuple(number in wanted for number in range(max(self.host.processors) + 1))

    def _change_disks(self, before: Vm, after: Vm) -> None:
        old, new = by_name(before.disks), by_name(after.disks)
        for name in old:
            if name not in new:
                self._unplug(domain_xml.disk_alias(name), f"disk {show(name)}")
        for name, disk in new.items():
            present: Optional[Disk] = old.get(name)
            if present is None:
                if disk.bus == "scsi" and not domain_xml.has_scsi_controller(self.domain.XMLDesc(0)):
                    self.domain.attachDeviceFlags(domain_xml.to_text(domain_xml.scsi_controller()), self.live)
                self._plug(domain_xml.disk_alias(name))
                continue
            target = domain_xml.disk_target(self.domain.XMLDesc(0), name)
            if present.size != disk.size and disk.size is not None:
                self.domain.blockResize(target, disk.size * MIB, self.libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)
            if present.limits != disk.limits:
                self.domain.setBlockIoTune(target, _all_limits(disk.limits), self.live)

    def _change_nics(self, before: Vm, after: Vm) -> None:
        old, new = by_name(before.nics), by_name(after.nics)
        for name in old:
            if name not in new:
                self._unplug(domain_xml.nic_alias(name), f"NIC {show(name)}")
        for name, nic in new.items():
            present: Optional[Nic] = old.get(name)
            if present is None:
                self._plug(domain_xml.nic_alias(name))
            elif (present.network, present.connected, present.bandwidth) != (nic.network, nic.connected, nic.bandwidth):
                network = self.networks[str(nic.network)]
                element = domain_xml.nic_element(str(after.name), nic, str(network.switch), self.host, network)
                self.domain.updateDeviceFlags(domain_xml.to_text(element), self.live)
                if network.switch not in self.host.linux_bridges:
                    check_port(str(after.name), nic, network)

    def _plug(self, alias: str) -> None:
        element = domain_xml.find_device(self.config, alias)
        if element is None:
            raise AssertionError("not reached: element is None")
        xml = domain_xml.to_text(element)
        try:
            # At the address that it has in the configuration, so that the guest's names for it stay after a restart.
            self.domain.attachDeviceFlags(xml, self.live)
        except self.libvirt.libvirtError:
            for address in element.findall("address"):
                element.remove(address)
            self.domain.attachDeviceFlags(domain_xml.to_text(element), self.live)

    def _unplug(self, alias: str, what: str) -> None:
        deadline = time.monotonic() + UNPLUG_SECONDS
        asked = -ASK_AGAIN_SECONDS
        while domain_xml.find_device(self.domain.XMLDesc(0), alias) is not None:
            if time.monotonic() - asked >= ASK_AGAIN_SECONDS:
                asked = time.monotonic()
                # "Already in the process of unplug" is what a guest that takes its time leads to.
                with contextlib.suppress(self.libvirt.libvirtError):
                    self.domain.detachDeviceAlias(alias, self.live)
            if time.monotonic() > deadline:
                raise ApplyError(
                    f"VM {show(self.domain.name())}: the guest has not let go of {what} within {UNPLUG_SECONDS:.0f} s",
                    "Stop the VM, or let its guest finish booting, and run the task again",
                )
            time.sleep(POLL_SECONDS)


def _all_limits(limits: Optional[DiskLimits]) -> Dict[str, int]:
    parameters = {name: 0 for name, _unit in domain_xml.LIMITS.values()}
    parameters.update(domain_xml.limit_parameters(limits))
    return parameters


def read_port(tap: str) -> Optional[Tuple[Optional[int], Tuple[int, ...]]]:
    """Return (tag, trunks) of a port of Open vSwitch, or None where there is no such port. Raises ApplyError."""
    command = ["ovs-vsctl", "--timeout=10", "--format=json", "--columns=tag,trunks", "find", "Port", f"name={tap}"]
    try:
        result = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ApplyError(f"the VLAN of port {tap} cannot be read from Open vSwitch: {error}") from error
    if result.returncode:
        raise ApplyError(f"the VLAN of port {tap} cannot be read from Open vSwitch: {one_line(result.stderr)}")
    rows = json.loads(result.stdout)["data"]
    if not rows:
        return None
    tag, trunks = (_numbers(cell) for cell in rows[0])
    return (tag[0] if tag else None), tuple(sorted(trunks))


def _numbers(cell: Any) -> List[int]:
    # OVSDB, RFC 7047: a set of one is the atom itself, other sets are ["set", [...]].
    if isinstance(cell, list):
        return [int(number) for number in cell[1]]
    return [int(cell)]


def check_port(vm: str, nic: Nic, network: VirtualNetwork) -> None:
    """Raise ApplyError where the port of a NIC is not in the VLANs of its network.

    libvirt says that it has changed the VLAN whether Open vSwitch has or not.
    """
    tap = tap_name(vm, str(nic.name))
    shown = read_port(tap)
    wanted = domain_xml.vlan_tags(network)
    tag, trunks = wanted
    # libvirt lists the native VLAN among those that are carried.
    also = (tag, tuple(sorted({*trunks, tag}))) if trunks and tag is not None else wanted
    if shown not in (wanted, also):
        raise ApplyError(
            f"vm[{show(vm)}].nics[{show(nic.name)}].network: port {tap} of Open vSwitch shows VLAN {shown}, and "
            f"network {show(network.name)} has {wanted}"
        )
