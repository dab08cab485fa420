# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""VMs as libvirt's domain XML, and back.

XML is built from elements and never from text. What the XML has no word for (the template, the guest's addresses)
stands as JSON in the domain's metadata, in a namespace of ours; secrets do not.

Source: libvirt, "Domain XML format".
"""

from __future__ import annotations

import dataclasses
import json
import string
import uuid as uuid_module
from dataclasses import dataclass
from typing import Any, Dict, FrozenSet, Iterable, List, Mapping, Optional, Sequence, Tuple
from xml.etree import ElementTree

from ...model.compute import Cpu, Disk, DiskLimits, Guest, Memory, Nic, Vm
from ...model.network import Bandwidth, VirtualNetwork
from ...model.schema import Path
from ...model.types import CpuSet
from . import bandwidth
from .file_names import Directories
from .names import mac_address, tap_name, uuid_of

Element = ElementTree.Element

NAMESPACE = "https://bareforge.dev/xmlns/1"
PREFIX = "bareforge"
METADATA_TAG = f"{{{NAMESPACE}}}vm"
SPARE_PORTS = 6  # PCI Express ports kept free, so that disks and NICs can be added while the VM runs
PERIOD = 100_000  # microseconds in which the processor limit is counted
KIB = 1024
SEED_TARGET = "sda"
SEED_ALIAS = "ua-SEED"
CDROM_ALIAS = "ua-CDROM"
HOT_PLUG_BUSES = frozenset({"virtio", "scsi"})
BOOT_DEVICES = {"disk": "hd", "network": "network", "cdrom": "cdrom"}
LIMITS = {
    "read_iops": ("read_iops_sec", 1),
    "write_iops": ("write_iops_sec", 1),
    "read_rate": ("read_bytes_sec", KIB),
    "write_rate": ("write_bytes_sec", KIB),
}

ElementTree.register_namespace(PREFIX, NAMESPACE)


@dataclass(frozen=True)
class Host:
    """What has to be known of the host.

    processors: the numbers of its cores that are online.
    memory: in MiB.
    nested_feature: the CPU flag by which a guest could run VMs: svm, vmx or None.
    nested: whether KVM lets guests have it.
    unified_cgroups: whether shares are cgroup v2 weights, which end at 10000.
    linux_bridges: the switches that are bridges of the kernel; others are of Open vSwitch.
    """

    processors: Tuple[int, ...] = (0,)
    memory: int = 1024
    nested_feature: Optional[str] = None
    nested: bool = False
    unified_cgroups: bool = True
    linux_bridges: FrozenSet[str] = frozenset()


def disk_alias(name: str) -> str:
    """Return the device alias of a disk; upper case keeps it apart from NICs, whose names are lower case."""
    return f"ua-DISK-{name}"


def nic_alias(name: str) -> str:
    """Return the device alias of a NIC."""
    return f"ua-{name}"


def interface_id(vm: str, nic: str) -> str:
    """Return the id of a NIC's port on Open vSwitch; libvirt takes a NIC with another one for another device."""
    return str(uuid_module.uuid5(uuid_module.NAMESPACE_URL, f"{NAMESPACE}/{uuid_of(vm)}/{nic}"))


def _add(parent: Element, tag: str, text: Optional[str] = None, **attributes: Any) -> Element:
    element = ElementTree.SubElement(
        parent, tag, {key: str(value) for key, value in attributes.items() if value is not None}
    )
    if text is not None:
        element.text = text
    return element


def parse(xml: str) -> Element:
    """Return the root element of what libvirt, which we trust, has written."""
    return ElementTree.fromstring(xml)


def to_text(element: Element) -> str:
    """Return an element as XML."""
    return ElementTree.tostring(element, encoding="unicode")


def to_xml(vm: Vm, switches: Mapping[str, str], host: Host, where: Directories, seed: bool) -> str:
    """Return the domain XML of a VM that is to be made.

    vm: complete, with its firmware settled.
    switches: the switch of each network.
    seed: whether it has a medium for cloud-init.
    """
    domain = Element("domain", {"type": "kvm"})
    _add(domain, "name", vm.name)
    _add(domain, "uuid", uuid_of(str(vm.name)))
    for tag in _SETTINGS:
        for element in _settings(vm, host)[tag]:
            domain.append(element)
    features = _add(domain, "features")
    _add(features, "acpi")
    _add(features, "apic")
    if vm.secure_boot:
        _add(features, "smm", state="on")
    _add(domain, "clock", offset="utc")
    devices = _add(domain, "devices")
    for element in _ports(_port_count(vm)):
        devices.append(element)
    if seed or any(disk.bus == "scsi" for disk in vm.disks or ()):
        devices.append(scsi_controller())
    taken = {SEED_TARGET} if seed else set()
    for number, disk in enumerate(vm.disks or ()):
        devices.append(disk_element(vm, disk, where, _next_target(disk, taken), first=number == 0))
    if vm.cdrom:
        # Before the seed, since the firmware is told to boot from the first CD-ROM drive.
        devices.append(_cdrom_element(vm.cdrom, _next_target(Disk(bus="sata"), taken)))
    if seed:
        devices.append(_seed_element(where.seed(str(vm.name))))
    for nic in vm.nics or ():
        devices.append(nic_element(str(vm.name), nic, switches[str(nic.network)], host))
    serial = _add(devices, "serial", type="pty")
    _add(serial, "log", file=where.console(str(vm.name)), append="off")
    _add(devices, "console", type="pty")
    channel = _add(devices, "channel", type="unix")
    _add(channel, "target", type="virtio", name="org.qemu.guest_agent.0")
    rng = _add(devices, "rng", model="virtio")
    _add(rng, "backend", "/dev/urandom", model="random")
    if vm.tpm:
        devices.append(_tpm_element())
    return to_text(domain)


_SETTINGS = (
    "description",
    "metadata",
    "memory",
    "currentMemory",
    "memoryBacking",
    "memtune",
    "vcpu",
    "cputune",
    "os",
    "cpu",
)


def _settings(vm: Vm, host: Host, maximum: Optional[int] = None) -> Dict[str, List[Element]]:
    """Return the elements of a domain that are no devices, by tag."""
    cpu = vm.cpu or Cpu()
    memory = vm.memory or Memory()
    count = cpu.count or 1
    has_topology = bool(cpu.sockets or cpu.cores or cpu.threads)
    maximum = count if has_topology else max(count, maximum or 0, min(len(host.processors), 4 * count, 16))
    root = Element("domain")
    if vm.description:
        _add(root, "description", vm.description)
    holder = _add(root, "metadata")
    holder.append(_metadata_element(vm))
    _add(root, "memory", str(memory.size), unit="MiB")
    _add(root, "currentMemory", str(memory.size), unit="MiB")
    backing = Element("memoryBacking")
    if memory.hugepages:
        _add(backing, "hugepages")
    if memory.reservation:
        _add(backing, "locked")
    if len(backing):
        root.append(backing)
    if memory.limit is not None:
        # What is over it is taken back by the kernel; QEMU is not killed for it, as it is with hard_limit.
        _add(_add(root, "memtune"), "soft_limit", str(memory.limit), unit="MiB")
    _add(root, "vcpu", str(maximum), placement="static", current=None if maximum == count else count)
    tune = Element("cputune")
    for element in _tuning(cpu, maximum):
        tune.append(element)
    if len(tune):
        root.append(tune)
    root.append(_os_element(vm))
    root.append(_cpu_element(cpu, host))
    return {tag: root.findall(tag) for tag in _SETTINGS}


def _tuning(cpu: Cpu, maximum: int) -> Iterable[Element]:
    holder = Element("cputune")
    if cpu.shares is not None:
        _add(holder, "shares", str(cpu.shares))
    if cpu.limit is not None:
        _add(holder, "global_period", str(PERIOD))
        _add(holder, "global_quota", str(quota_of(cpu.limit)))
    if cpu.pinning:
        for number in range(maximum):
            _add(holder, "vcpupin", vcpu=number, cpuset=cpu.pinning)
    return list(holder)


def quota_of(limit: int) -> int:
    """Return the quota in microseconds a PERIOD for a limit in percent of a core."""
    return limit * PERIOD // 100


def _os_element(vm: Vm) -> Element:
    attributes = {"firmware": "efi"} if vm.firmware == "uefi" else {}
    element = Element("os", attributes)
    _add(element, "type", "hvm", arch="x86_64", machine="q35")
    if vm.firmware == "uefi":
        firmware = _add(element, "firmware")
        state = "yes" if vm.secure_boot else "no"
        _add(firmware, "feature", enabled=state, name="enrolled-keys")
        _add(firmware, "feature", enabled=state, name="secure-boot")
    for device in vm.boot_order or ():
        _add(element, "boot", dev=BOOT_DEVICES[device])
    return element


def _cpu_element(cpu: Cpu, host: Host) -> Element:
    mode = "host-passthrough" if cpu.model == "host" else "host-model"
    element = Element("cpu", {"mode": mode})
    if cpu.sockets or cpu.cores or cpu.threads:
        _add(element, "topology", sockets=cpu.sockets or 1, dies=1, cores=cpu.cores or 1, threads=cpu.threads or 1)
    if host.nested_feature:
        _add(element, "feature", policy="require" if cpu.nested else "disable", name=host.nested_feature)
    return element


def metadata_text(vm: Vm) -> str:
    """Return what the domain's metadata says of a VM: JSON in ASCII, which every XML text can hold, without secrets."""
    known: Dict[str, Any] = {
        "template": vm.template,
        "clone": vm.clone,
        "tags": list(vm.tags or ()),
        "guest": vm.guest.to_document() if vm.guest is not None else None,
        "disks": [
            {"name": disk.name, "provisioning": disk.provisioning, **({"pool": disk.pool} if disk.pool else {})}
            for disk in vm.disks or ()
        ],
        "nics": [
            {
                "name": nic.name,
                "addresses": list(nic.addresses or ()),
                "gateway4": nic.gateway4,
                "gateway6": nic.gateway6,
                "dns_servers": list(nic.dns_servers or ()),
            }
            for nic in vm.nics or ()
        ],
    }
    return json.dumps(known, sort_keys=True)


def _metadata_element(vm: Vm) -> Element:
    element = Element(METADATA_TAG)
    element.text = metadata_text(vm)
    return element


def forget_addresses(domain: Element) -> None:
    """Take away what the metadata of a domain says of its guest's addresses: it is going to be another VM."""
    element = domain.find(f"metadata/{METADATA_TAG}")
    if element is not None:
        known = known_of(domain)
        known["nics"] = [{"name": name} for name in _order(known, "nics")]
        element.text = json.dumps(known, sort_keys=True)


def disk_of(element: Element) -> Optional[str]:
    """Return which disk of the model a <disk> is, None for what is none of them, such as the seed."""
    alias, prefix = alias_of(element), disk_alias("")
    return alias[len(prefix) :] if alias.startswith(prefix) else None


def settle_on_host(domain: Element, switches: Mapping[str, str], where: Directories) -> None:
    """Let a domain that comes from elsewhere, or from before, find what this host has.

    switches: the switch of each network here. where: for the log of its console.
    """
    for element in domain.findall("seclabel"):
        domain.remove(element)
    for element in domain.findall("devices/interface"):
        source = element.find("source")
        network = source.get("portgroup") if source is not None else None
        if source is not None and network in switches:
            source.set("network", switches[str(network)])
            # What it was plugged into while it ran.
            for attribute in ("bridge", "portid"):
                source.attrib.pop(attribute, None)
    for element in [*domain.findall("devices/serial"), *domain.findall("devices/console")]:
        log = element.find("log")
        if log is not None:
            log.set("file", where.console(str(domain.findtext("name"))))


def say_full_clone(domain: Element) -> None:
    """Let the metadata of a domain say that its disks refer to no template any more."""
    element = domain.find(f"metadata/{METADATA_TAG}")
    if element is not None:
        element.text = json.dumps({**known_of(domain), "clone": "full"}, sort_keys=True)


def _port_count(vm: Vm) -> int:
    # Beside disks and NICs: USB, virtio-serial, balloon, rng, SCSI.
    return len(vm.disks or ()) + len(vm.nics or ()) + 5 + SPARE_PORTS


def _ports(count: int) -> Iterable[Element]:
    yield Element("controller", {"type": "pci", "model": "pcie-root"})
    for _number in range(count):
        yield Element("controller", {"type": "pci", "model": "pcie-root-port"})


def scsi_controller() -> Element:
    """Return the controller that disks on the bus scsi need."""
    return Element("controller", {"type": "scsi", "index": "0", "model": "virtio-scsi"})


def _next_target(disk: Disk, taken: Any) -> str:
    prefix = "vd" if disk.bus == "virtio" else "sd"
    letters = string.ascii_lowercase
    names = [f"{prefix}{letter}" for letter in letters] + [f"{prefix}{a}{b}" for a in letters for b in letters]
    # The name by which a drive's place on its bus is told: the seed has the first.
    name = next(name for name in names if name not in taken and name != SEED_TARGET)
    taken.add(name)
    return name


def disk_element(vm: Vm, disk: Disk, where: Directories, target: str, first: bool) -> Element:
    """Return the device of a disk.

    target: its name on its bus, such as vda, which must be free.
    first: whether the VM boots from it where it has no boot order.
    """
    file = where.disk_file(str(vm.name), str(disk.name), disk.pool)
    element = Element("disk", {"type": "block" if file.is_block else "file", "device": "disk"})
    _add(element, "driver", name="qemu", type=file.format, discard="unmap", cache=disk.cache)
    _add(element, "source", **{"dev" if file.is_block else "file": file.path})
    _add(element, "target", dev=target, bus=disk.bus)
    limits = _limits_element(disk.limits)
    if limits is not None:
        element.append(limits)
    if first and not vm.boot_order:
        _add(element, "boot", order=1)
    if len(str(disk.name)) <= 20:  # virtio-blk's limit; the guest finds it as /dev/disk/by-id/virtio-NAME
        _add(element, "serial", disk.name)
    _add(element, "alias", name=disk_alias(str(disk.name)))
    return element


def _limits_element(limits: Optional[DiskLimits]) -> Optional[Element]:
    parameters = limit_parameters(limits)
    if not parameters:
        return None
    element = Element("iotune")
    for name, value in parameters.items():
        _add(element, name, str(value))
    return element


def limit_parameters(limits: Optional[DiskLimits]) -> Dict[str, int]:
    """Return a disk's limits by libvirt's names, rates in bytes a second."""
    if limits is None:
        return {}
    return {
        parameter: getattr(limits, name) * unit
        for name, (parameter, unit) in LIMITS.items()
        if getattr(limits, name) is not None
    }


def _seed_element(path: str) -> Element:
    element = Element("disk", {"type": "file", "device": "cdrom"})
    _add(element, "driver", name="qemu", type="raw")
    _add(element, "source", file=path)
    # A CD-ROM is left out of snapshots, and cloud kernels know virtio-scsi but no AHCI.
    _add(element, "target", dev=SEED_TARGET, bus="scsi")
    _add(element, "readonly")
    _add(element, "alias", name=SEED_ALIAS)
    return element


def _cdrom_element(path: Optional[str], target: str) -> Element:
    """Return a CD-ROM drive; SATA, which firmware and every installer know.

    path: of the image in it, or None for an empty drive.
    """
    element = Element("disk", {"type": "file", "device": "cdrom"})
    _add(element, "driver", name="qemu", type="raw")
    if path:
        _add(element, "source", file=path)
    _add(element, "target", dev=target, bus="sata")
    _add(element, "readonly")
    _add(element, "alias", name=CDROM_ALIAS)
    return element


def _tpm_element() -> Element:
    element = Element("tpm", {"model": "tpm-crb"})
    _add(element, "backend", type="emulator", version="2.0")
    return element


def nic_element(vm: str, nic: Nic, switch: str, host: Host, network: Optional[VirtualNetwork] = None) -> Element:
    """Return the device of a NIC.

    switch: the libvirt network, named as the switch, of which the NIC's network is a port group. host: what is known
        of the host.
    network: given for a change to a NIC that is plugged: libvirt 9 then tags the port on Open vSwitch with what stands
        in the interface itself and removes the tag where nothing does, whatever the port group says.
    """
    element = Element("interface", {"type": "network"})
    _add(element, "mac", address=nic.mac or mac_address(vm, str(nic.name)))
    _add(element, "source", network=switch, portgroup=nic.network)
    if switch not in host.linux_bridges:
        vlan = _vlan_element(network)
        if vlan is not None:
            element.append(vlan)
        port = _add(element, "virtualport", type="openvswitch")
        _add(port, "parameters", interfaceid=interface_id(vm, str(nic.name)))
    _add(element, "target", dev=tap_name(vm, str(nic.name)))
    _add(element, "model", type=nic.model)
    if nic.connected is False:
        _add(element, "link", state="down")
    element.extend(bandwidth.elements(nic.bandwidth))
    _add(element, "alias", name=nic_alias(str(nic.name)))
    return element


def vlan_tags(network: Optional[VirtualNetwork]) -> Tuple[Optional[int], Tuple[int, ...]]:
    """Return (tag, trunks) that a port of a network has: the access or native VLAN, and all that it carries tagged."""
    if network is None:
        return None, ()
    tag = network.vlan or None
    trunks: List[int] = []
    for entry in network.trunk or ():
        first, _dash, last = entry.partition("-")
        trunks.extend(range(int(first), int(last or first) + 1))
    return tag, tuple(sorted(set(trunks)))


def _vlan_element(network: Optional[VirtualNetwork]) -> Optional[Element]:
    tag, trunks = vlan_tags(network)
    if tag is None and not trunks:
        return None
    element = Element("vlan")
    if trunks:
        element.set("trunk", "yes")
    if tag is not None:
        native = _add(element, "tag", id=tag)
        if trunks:
            native.set("nativeMode", "untagged")
    for number in trunks:
        if number != tag:
            _add(element, "tag", id=number)
    return element


def merge(config: str, vm: Vm, switches: Mapping[str, str], host: Host, where: Directories) -> str:
    """Return a domain's XML with all that the model says changed to a VM, and everything else left as it is.

    config: the XML of the inactive domain; PCI addresses and devices that are not ours stay.
    """
    domain = parse(config)
    current = read_xml(config, config, host)
    maximum = int(domain.findtext("vcpu") or 1)
    settings = _settings(vm, host, maximum)
    for tag in ("description", "memory", "currentMemory", "vcpu"):
        _replace(domain, tag, settings[tag])
    _merge_metadata(domain, settings["metadata"][0])
    _merge_within(domain, "memoryBacking", ("hugepages", "locked"), settings["memoryBacking"])
    _merge_within(domain, "memtune", ("soft_limit",), settings["memtune"])
    _merge_within(domain, "cputune", ("shares", "global_period", "global_quota", "vcpupin"), settings["cputune"])
    if (current.firmware, current.secure_boot) != (vm.firmware, vm.secure_boot):
        # Without loader and variables, libvirt chooses them anew by what is asked.
        _replace(domain, "os", settings["os"])
        _merge_smm(domain, bool(vm.secure_boot))
    elif current.boot_order != vm.boot_order:
        _merge_boot(domain, settings["os"][0])
    if _cpu_identity(current.cpu) != _cpu_identity(vm.cpu):
        _replace(domain, "cpu", settings["cpu"])
    devices = domain.find("devices")
    if devices is None:
        raise AssertionError("not reached: devices is None")
    _merge_disks(devices, vm, where)
    _merge_cdrom(devices, vm)
    _merge_nics(devices, vm, switches, host)
    _merge_tpm(devices, vm)
    if any(disk.bus == "scsi" for disk in vm.disks or ()) and not _has_scsi(devices):
        devices.append(scsi_controller())
    there = sum(1 for entry in devices.findall("controller") if entry.get("model") == "pcie-root-port")
    for element in list(_ports(max(0, _port_count(vm) - there)))[1:]:
        devices.append(element)
    return to_text(domain)


def _cpu_identity(cpu: Optional[Cpu]) -> Any:
    return None if cpu is None else (cpu.sockets, cpu.cores, cpu.threads, cpu.model, cpu.nested)


def _replace(domain: Element, tag: str, elements: Sequence[Element]) -> None:
    for old in domain.findall(tag):
        domain.remove(old)
    domain.extend(elements)


def _merge_metadata(domain: Element, wanted: Element) -> None:
    holder = domain.find("metadata")
    if holder is None:
        domain.append(wanted)
        return
    for old in holder.findall(METADATA_TAG):
        holder.remove(old)
    holder.extend(list(wanted))


def _merge_within(domain: Element, tag: str, ours: Sequence[str], wanted: Sequence[Element]) -> None:
    """Replace those elements of a section that are ours, and leave the others in it alone."""
    section = domain.find(tag)
    if section is None:
        domain.extend(wanted)
        return
    for name in ours:
        for old in section.findall(name):
            section.remove(old)
    for element in wanted:
        section.extend(list(element))
    if not len(section):
        domain.remove(section)


def _merge_boot(domain: Element, wanted: Element) -> None:
    element = domain.find("os")
    if element is None:
        raise AssertionError("not reached: element is None")
    for old in element.findall("boot"):
        element.remove(old)
    element.extend(wanted.findall("boot"))


def _merge_smm(domain: Element, on: bool) -> None:
    features = domain.find("features")
    if features is None:
        features = _add(domain, "features")
    for old in features.findall("smm"):
        features.remove(old)
    if on:
        _add(features, "smm", state="on")


def alias_of(element: Element) -> str:
    """Return the alias of a device, empty where it has none."""
    alias = element.find("alias")
    return alias.get("name", "") if alias is not None else ""


def _by_alias(devices: Element, tag: str) -> Dict[str, Element]:
    return {alias_of(element): element for element in devices.findall(tag) if alias_of(element).startswith("ua-")}


def _target(element: Element) -> str:
    target = element.find("target")
    return target.get("dev", "") if target is not None else ""


def _bus(element: Element) -> str:
    target = element.find("target")
    return target.get("bus", "") if target is not None else ""


def _merge_disks(devices: Element, vm: Vm, where: Directories) -> None:
    known = _by_alias(devices, "disk")
    wanted = {disk_alias(str(disk.name)) for disk in vm.disks or ()}
    for alias, element in known.items():
        if alias.startswith("ua-DISK-") and alias not in wanted:
            devices.remove(element)
    taken = {_target(element) for element in devices.findall("disk")}
    for number, disk in enumerate(vm.disks or ()):
        old = known.get(disk_alias(str(disk.name)))
        if old is None:
            devices.append(disk_element(vm, disk, where, _next_target(disk, taken), first=number == 0))
            continue
        moved = _bus(old) != disk.bus
        target = _next_target(disk, taken) if moved else _target(old)
        new = disk_element(vm, disk, where, target, first=number == 0)
        driver, limits, boot = old.find("driver"), old.find("iotune"), old.find("boot")
        if driver is not None:
            driver.attrib.pop("cache", None)
            if disk.cache:
                driver.set("cache", disk.cache)
        for stale in (limits, boot):
            if stale is not None:
                old.remove(stale)
        for tag in ("iotune", "boot"):
            fresh = new.find(tag)
            if fresh is not None:
                old.append(fresh)
        if moved:
            _replace(old, "target", new.findall("target"))
            _replace(old, "address", [])


def _merge_cdrom(devices: Element, vm: Vm) -> None:
    drive = _by_alias(devices, "disk").get(CDROM_ALIAS)
    if drive is not None:
        # An empty drive stays, so that a medium can be put into it while the VM runs.
        _replace(drive, "source", [])
        if vm.cdrom:
            _add(drive, "source", file=vm.cdrom)
        return
    if not vm.cdrom:
        return
    taken = {_target(element) for element in devices.findall("disk")}
    new = _cdrom_element(vm.cdrom, _next_target(Disk(bus="sata"), taken))
    seeds = [number for number, element in enumerate(devices) if alias_of(element) == SEED_ALIAS]
    devices.insert(seeds[0] if seeds else len(devices), new)


def _merge_nics(devices: Element, vm: Vm, switches: Mapping[str, str], host: Host) -> None:
    known = _by_alias(devices, "interface")
    wanted = {nic_alias(str(nic.name)) for nic in vm.nics or ()}
    for alias, element in known.items():
        if alias not in wanted:
            devices.remove(element)
    for nic in vm.nics or ():
        new = nic_element(str(vm.name), nic, switches[str(nic.network)], host)
        old = known.get(nic_alias(str(nic.name)))
        if old is None:
            devices.append(new)
            continue
        for tag in ("mac", "source", "vlan", "virtualport", "target", "model", "link", "bandwidth"):
            _replace(old, tag, new.findall(tag))


def _merge_tpm(devices: Element, vm: Vm) -> None:
    there = devices.findall("tpm")
    if vm.tpm and not there:
        devices.append(_tpm_element())
    elif not vm.tpm:
        for element in there:
            devices.remove(element)


def _has_scsi(devices: Element) -> bool:
    return any(entry.get("type") == "scsi" for entry in devices.findall("controller"))


def find_device(xml: str, alias: str) -> Optional[Element]:
    """Return the device of a domain that has an alias, or None."""
    devices = parse(xml).find("devices")
    for element in devices if devices is not None else ():
        if alias_of(element) == alias:
            return element
    return None


def disk_target(xml: str, name: str) -> Optional[str]:
    """Return the target of a VM's disk, such as vda, or None where the VM has none of that name."""
    element = find_device(xml, disk_alias(name))
    return None if element is None else _target(element)


def disk_paths(xml: str) -> Dict[str, str]:
    """Return, by name, the file or block device of each disk that is ours."""
    devices = parse(xml).find("devices")
    found: Dict[str, str] = {}
    for alias, element in (_by_alias(devices, "disk") if devices is not None else {}).items():
        source = element.find("source")
        path = (source.get("file") or source.get("dev")) if source is not None else None
        if path and alias.startswith("ua-DISK-"):
            found[alias[len("ua-DISK-") :]] = path
    return found


def free_ports(xml: str) -> int:
    """Return how many devices can be plugged into a running domain: PCI Express ports that nothing is in."""
    devices = parse(xml).find("devices")
    ports, used = set(), set()
    for element in devices if devices is not None else ():
        if element.tag == "controller" and element.get("model") == "pcie-root-port":
            ports.add(int(element.get("index", "0")))
        for address in element.findall("address"):
            if address.get("type") == "pci":
                used.add(int(address.get("bus", "0"), 16))
    return len(ports - used)


def has_scsi_controller(xml: str) -> bool:
    """Return whether a domain has a SCSI controller."""
    devices = parse(xml).find("devices")
    return devices is not None and _has_scsi(devices)


def maximum_vcpus(xml: str) -> int:
    """Return how many vCPU a domain can have without being stopped."""
    return int(parse(xml).findtext("vcpu") or 1)


def variables_path(xml: str, where: Directories) -> Optional[str]:
    """Return the path of a domain's UEFI variables, or None where it boots by BIOS.

    libvirt 9 does not say it of a domain whose firmware it chooses, until that runs; it is made of the domain's name then.
    """
    domain = parse(xml)
    system = domain.find("os")
    chosen = system is not None and system.get("firmware") == "efi"
    return domain.findtext("os/nvram") or (where.variables(str(domain.findtext("name"))) if chosen else None)


def has_tpm(xml: str) -> bool:
    """Return whether a domain has a TPM."""
    return parse(xml).find("devices/tpm") is not None


def is_ours(xml: str) -> bool:
    """Return whether a domain was made by us."""
    return parse(xml).find(f"metadata/{METADATA_TAG}") is not None


def read_xml(live: str, config: str, host: Host) -> Vm:
    """Return the VM of a domain's XML, without its power, autostart and the sizes of its disks.

    live: as it runs; what libvirt replaces there at the start (the processor's model) is taken from config.
    config: as it would start the next time.
    """
    running = parse(live)
    inactive = parse(config)
    known = known_of(running)
    devices = running.find("devices")
    firmware, secure_boot = _read_firmware(inactive)
    return Vm(
        name=running.findtext("name"),
        template=known.get("template"),
        clone=known.get("clone"),
        firmware=firmware,
        secure_boot=secure_boot,
        tpm=devices is not None and devices.find("tpm") is not None,
        cpu=_read_cpu(running, inactive, host),
        memory=_read_memory(running),
        disks=_read_disks(devices, known),
        nics=_read_nics(devices, inactive.find("devices"), known),
        cdrom=_read_cdrom(devices),
        tags=tuple(known.get("tags") or ()),
        guest=_read_guest(known.get("guest")),
        boot_order=_read_boot_order(inactive),
        description=running.findtext("description"),
    )


def known_of(domain: Element) -> Dict[str, Any]:
    """Return what the metadata of a domain says of it, nothing for one of others."""
    element = domain.find(f"metadata/{METADATA_TAG}")
    try:
        known = json.loads(element.text or "{}") if element is not None else {}
    except ValueError:
        known = {}
    return known if isinstance(known, dict) else {}


def mib_of(element: Optional[Element]) -> Optional[int]:
    """Return an amount of memory in MiB, or None where it is not told."""
    if element is None or not (element.text or "").strip().isdigit():
        return None
    factor = {"KiB": 1, "MiB": KIB, "GiB": KIB * KIB}.get(element.get("unit", "KiB"), 1)
    return int(element.text or 0) * factor // KIB


def _read_memory(domain: Element) -> Memory:
    size = mib_of(domain.find("memory"))
    return Memory(
        size=size,
        limit=mib_of(domain.find("memtune/soft_limit")),
        reservation=size if domain.find("memoryBacking/locked") is not None else 0,
        hugepages=domain.find("memoryBacking/hugepages") is not None,
    )


def _read_cdrom(devices: Optional[Element]) -> Optional[str]:
    drive = _by_alias(devices, "disk").get(CDROM_ALIAS) if devices is not None else None
    source = drive.find("source") if drive is not None else None
    return source.get("file") if source is not None else None


def _read_firmware(domain: Element) -> Tuple[str, bool]:
    loader = domain.find("os/loader")
    system = domain.find("os")
    pflash = loader is not None and loader.get("type") == "pflash"
    if (system is None or system.get("firmware") != "efi") and not pflash:
        return "bios", False
    features = {entry.get("name"): entry.get("enabled") for entry in domain.findall("os/firmware/feature")}
    if "secure-boot" in features:
        return "uefi", features["secure-boot"] == "yes"
    return "uefi", loader is not None and loader.get("secure") == "yes"


def _read_cpu(running: Element, inactive: Element, host: Host) -> Cpu:
    vcpu = running.find("vcpu")
    count = int(vcpu.get("current") or vcpu.text or 1) if vcpu is not None else 1
    cpu = inactive.find("cpu")
    topology = cpu.find("topology") if cpu is not None else None
    mode = cpu.get("mode") if cpu is not None else None
    features = {entry.get("name"): entry.get("policy") for entry in inactive.findall("cpu/feature")}
    policy = features.get(host.nested_feature) if host.nested_feature else None
    quota = _number(running.findtext("cputune/global_quota"))
    period = _number(running.findtext("cputune/global_period")) or PERIOD

    def part(name: str) -> Optional[int]:
        return int(topology.get(name, "1")) if topology is not None else None

    return Cpu(
        count=count,
        sockets=part("sockets"),
        cores=part("cores"),
        threads=part("threads"),
        model={"host-passthrough": "host", "host-model": "host_compatible"}.get(mode or ""),
        nested=policy in ("require", "force", "optional"),
        shares=_number(running.findtext("cputune/shares")),
        limit=None if not quota or quota < 0 else quota * 100 // period,
        pinning=_read_pinning(running, inactive, host),
    )


def _number(text: Optional[str]) -> Optional[int]:
    try:
        return int(text) if text else None
    except ValueError:
        return None


def _read_pinning(running: Element, inactive: Element, host: Host) -> Optional[str]:
    def sets(domain: Element) -> FrozenSet[str]:
        return frozenset(_cpu_set(pin.get("cpuset", "")) for pin in domain.findall("cputune/vcpupin"))

    pins = sets(running)
    if len(pins) != 1:
        return None
    pinning = next(iter(pins))
    # Pinned to every core there is means not pinned, unless that was asked.
    if not sets(inactive) and pinning == CpuSet().parse(",".join(map(str, host.processors))):
        return None
    return pinning


def _cpu_set(text: str) -> str:
    try:
        return CpuSet().parse(text)
    except ValueError:
        return text  # someone else's, such as 0-3,^1


def _order(known: Mapping[str, Any], section: str) -> Dict[str, Dict[str, Any]]:
    entries = known.get(section)
    return (
        {str(entry.get("name")): entry for entry in entries if isinstance(entry, dict)}
        if isinstance(entries, list)
        else {}
    )


def _in_order(items: List[Any], order: Sequence[str]) -> Tuple[Any, ...]:
    position = {name: number for number, name in enumerate(order)}
    return tuple(sorted(items, key=lambda item: position.get(item.name, len(position))))


def _read_disks(devices: Optional[Element], known: Mapping[str, Any]) -> Tuple[Disk, ...]:
    order = _order(known, "disks")
    disks: List[Disk] = []
    for alias, element in (_by_alias(devices, "disk") if devices is not None else {}).items():
        if not alias.startswith("ua-DISK-"):
            continue
        name = alias[len("ua-DISK-") :]
        driver = element.find("driver")
        disks.append(
            Disk(
                name=name,
                pool=order.get(name, {}).get("pool"),
                bus=_bus(element) or None,
                provisioning=order.get(name, {}).get("provisioning"),
                cache=driver.get("cache") if driver is not None else None,
                limits=_read_limits(element.find("iotune")),
            )
        )
    return _in_order(disks, list(order))


def _read_limits(element: Optional[Element]) -> DiskLimits:
    values: Dict[str, int] = {}
    for name, (parameter, unit) in LIMITS.items():
        number = _number(element.findtext(parameter)) if element is not None else None
        if number:
            values[name] = number // unit
    return DiskLimits(**values)


def _read_nics(devices: Optional[Element], configured: Optional[Element], known: Mapping[str, Any]) -> Tuple[Nic, ...]:
    order = _order(known, "nics")
    inactive = _by_alias(configured, "interface") if configured is not None else {}
    nics: List[Nic] = []
    for alias, element in (_by_alias(devices, "interface") if devices is not None else {}).items():
        name = alias[len("ua-") :]
        source, mac, model, link = (element.find(tag) for tag in ("source", "mac", "model", "link"))
        said = order.get(name, {})
        # Of a NIC that runs libvirt shows the limits of its network where it has none of its own.
        limited = alias not in inactive or inactive[alias].find("bandwidth") is not None
        nics.append(
            Nic(
                name=name,
                network=(source.get("portgroup") or source.get("network")) if source is not None else None,
                mac=mac.get("address") if mac is not None else None,
                model=model.get("type") if model is not None else None,
                connected=link is None or link.get("state") != "down",
                bandwidth=bandwidth.read(element) if limited else Bandwidth(),
                addresses=tuple(said.get("addresses") or ()),
                gateway4=said.get("gateway4"),
                gateway6=said.get("gateway6"),
                dns_servers=tuple(said.get("dns_servers") or ()),
            )
        )
    return _in_order(nics, list(order))


def _read_guest(value: Any) -> Optional[Guest]:
    return Guest.read(value, Path("guest"), []) if isinstance(value, dict) else None


def _read_boot_order(domain: Element) -> Optional[Tuple[str, ...]]:
    words = {device: word for word, device in BOOT_DEVICES.items()}
    found = tuple(words[boot.get("dev", "")] for boot in domain.findall("os/boot") if boot.get("dev") in words)
    return found or None


def with_sizes(vm: Vm, sizes: Mapping[str, Optional[int]]) -> Vm:
    """Return a VM with the sizes of its disks in MiB."""
    return dataclasses.replace(
        vm, disks=tuple(dataclasses.replace(disk, size=sizes.get(str(disk.name))) for disk in vm.disks or ())
    )
