# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Templates, virtual machines, and what is kept of them."""

from __future__ import annotations

import dataclasses
import ipaddress
from dataclasses import dataclass
from typing import Iterator, Optional, Tuple

from .access import SSH_KEY
from .network import Bandwidth
from .schema import ModelObject, Nested, NestedList, Value, Values, option
from .types import (
    AbsolutePath,
    Boolean,
    Checksum,
    Choice,
    CpuSet,
    HostName,
    Integer,
    InterfaceAddress,
    IpAddress,
    MacAddress,
    Name,
    Pattern,
    Size,
    Text,
    Url,
)


@dataclass(frozen=True)
class TemplateSource(ModelObject):
    """Where a template's image comes from; exactly one of url, path and vm."""

    url: Optional[str] = option(Value(Url()), "Where the host fetches the image.", capability="template.source.url")
    path: Optional[str] = option(
        Value(AbsolutePath()), "The image's path on the host.", capability="template.source.path"
    )
    vm: Optional[str] = option(
        Value(Name()),
        "A powered-off VM whose first disk is taken.",
        reference="vm",
        when_gone="ignore",
        capability="template.source.vm",
    )
    format: Optional[str] = option(
        Value(Choice("qcow2", "raw", "vmdk", "vhdx", "vhd", "ova")),
        "The image's format; looked up in the image where not given.",
        capability="template.format.*",
    )

    def complete(self, current: Optional[TemplateSource]) -> TemplateSource:
        whole = super().complete(current)
        # The three exclude each other: the one that is said replaces the one that the host shows.
        others = [name for name in ("url", "path", "vm") if getattr(self, name) is None]
        return dataclasses.replace(whole, **dict.fromkeys(others)) if len(others) == 2 else whole

    def check(self) -> Iterator[Tuple[str, str]]:
        given = self.given()
        if len(given) > 1:
            yield "", f"exactly one of url, path and vm must be given, not {' and '.join(given)}"

    def given(self) -> Tuple[str, ...]:
        """Return which of the three says where the image comes from."""
        return tuple(name for name in ("url", "path", "vm") if getattr(self, name))


@dataclass(frozen=True)
class Template(ModelObject):
    """A sealed image that VMs are made from."""

    KIND = "template"
    DESCRIPTION = "A sealed, read-only image that virtual machines are made from."

    name: Optional[str] = option(Value(Name()), "The template's name.", key=True)
    source: Optional[TemplateSource] = option(Nested(TemplateSource), "Where the image comes from.", create_only=True)
    checksum: Optional[str] = option(
        Value(Checksum()),
        "The checksum of the source image. Required for url and path; what does not match is not imported.",
        create_only=True,
    )
    firmware: Optional[str] = option(
        Value(Choice("bios", "uefi")), "What the image boots with.", default="bios", capability="template.firmware.*"
    )
    guest_type: Optional[str] = option(Value(Choice("linux", "windows", "other")), "What runs in it.", default="linux")
    customization: Optional[str] = option(
        Value(Choice("cloud_init", "unattend", "none")),
        "How a VM made from it is given its name, users and addresses.",
        default="cloud_init",
        capability="template.customization.*",
    )
    pool: Optional[str] = option(
        Value(Name()),
        "The storage pool that it lies in.",
        create_only=True,
        reference="storage_pool",
        capability="template.pool",
    )
    description: Optional[str] = option(Value(Text(maximum=200)), "What it is.", clearable=True)

    def check_new(self, current: Optional[Template]) -> Iterator[Tuple[str, str]]:
        if current is None and self.source is None:
            yield "source", "must be given for a new template"
        if current is None and self.source is not None and not self.source.given():
            yield "source", "exactly one of url, path and vm must be given, not none"
        if current is None and self.source and (self.source.url or self.source.path) and not self.checksum:
            yield "checksum", "must be given for an image from a url or path"


@dataclass(frozen=True)
class Cpu(ModelObject):
    """Virtual processors."""

    count: Optional[int] = option(Value(Integer(1, 768, "vCPU")), "How many vCPU.", default=1)
    sockets: Optional[int] = option(Value(Integer(1, 64)), "Sockets of the topology.", capability="vm.cpu.topology")
    cores: Optional[int] = option(Value(Integer(1, 512)), "Cores of each socket.", capability="vm.cpu.topology")
    threads: Optional[int] = option(Value(Integer(1, 8)), "Threads of each core.", capability="vm.cpu.topology")
    model: Optional[str] = option(
        Value(Choice("host", "host_compatible")),
        "The processor that the guest sees: the host's own, or the nearest that a live migration can rely on.",
        default="host_compatible",
        capability="vm.cpu.model",
    )
    nested: Optional[bool] = option(
        Value(Boolean()), "Whether the guest may run VMs itself.", default=False, capability="vm.cpu.nested"
    )
    shares: Optional[int] = option(
        Value(Integer(2, 262144)),
        "The weight against other VMs when the processors are busy.",
        capability="vm.cpu.shares",
    )
    limit: Optional[int] = option(
        Value(Integer(1, 100_000, "percent of one core")), "The most, in percent of a core.", capability="vm.cpu.limit"
    )
    reservation: Optional[int] = option(
        Value(Integer(0, 100_000, "percent of one core")),
        "What is guaranteed, in percent of a core.",
        capability="vm.cpu.reservation",
    )
    pinning: Optional[str] = option(
        Value(CpuSet()), "The host's cores that it may run on.", clearable=True, capability="vm.cpu.pinning"
    )

    def check_complete(self) -> Iterator[Tuple[str, str]]:
        topology = [self.sockets, self.cores, self.threads]
        if any(topology):
            product = (self.sockets or 1) * (self.cores or 1) * (self.threads or 1)
            if product != self.count:
                yield "count", f"{self.count} vCPU is not sockets x cores x threads, which is {product}"


@dataclass(frozen=True)
class Memory(ModelObject):
    """Memory."""

    size: Optional[int] = option(Value(Size(16)), "How much the VM starts with and can have at most.", required=True)
    minimum: Optional[int] = option(
        Value(Size(16)), "What ballooning may take it down to.", capability="vm.memory.ballooning"
    )
    shares: Optional[int] = option(
        Value(Integer(1, 1_000_000)), "The weight against other VMs.", capability="vm.memory.shares"
    )
    reservation: Optional[int] = option(Value(Size(0)), "What is guaranteed.", capability="vm.memory.reservation")
    limit: Optional[int] = option(Value(Size(16)), "The most of the host's memory.", capability="vm.memory.limit")
    hugepages: Optional[bool] = option(
        Value(Boolean()), "Whether it lies in huge pages.", default=False, capability="vm.memory.hugepages"
    )

    def check_complete(self) -> Iterator[Tuple[str, str]]:
        if self.size is not None:
            for name in ("minimum", "reservation"):
                value = getattr(self, name)
                if value is not None and value > self.size:
                    yield name, f"{value} MiB is more than the size, {self.size} MiB"


@dataclass(frozen=True)
class DiskLimits(ModelObject):
    """What a disk may ask of the storage."""

    read_iops: Optional[int] = option(Value(Integer(1, 10_000_000)), "Read operations a second.")
    write_iops: Optional[int] = option(Value(Integer(1, 10_000_000)), "Write operations a second.")
    read_rate: Optional[int] = option(Value(Integer(1, 10_000_000, "KiB/s")), "Reading, in KiB a second.")
    write_rate: Optional[int] = option(Value(Integer(1, 10_000_000, "KiB/s")), "Writing, in KiB a second.")


@dataclass(frozen=True)
class Disk(ModelObject):
    """A virtual disk."""

    name: Optional[str] = option(
        Value(Pattern(r"[a-z0-9][a-z0-9_-]{0,30}", "1 to 31 lower-case letters, digits, hyphens and underscores")),
        "The disk's name in the VM.",
        key=True,
    )
    size: Optional[int] = option(
        Value(Size()), "Its size; it can grow and not shrink. The template's size where not given, for the first disk."
    )
    pool: Optional[str] = option(
        Value(Name()),
        "The storage pool that it lies in.",
        create_only=True,
        reference="storage_pool",
        capability="vm.disk.pool",
    )
    bus: Optional[str] = option(
        Value(Choice("virtio", "scsi", "sata", "nvme")),
        "The bus that the guest sees it on.",
        default="virtio",
        capability="vm.disk.bus.*",
    )
    provisioning: Optional[str] = option(
        Value(Choice("thin", "thick")),
        "Whether its space is taken at once.",
        default="thin",
        create_only=True,
        capability="vm.disk.provisioning.*",
    )
    cache: Optional[str] = option(
        Value(Choice("none", "writeback", "writethrough", "unsafe")),
        "How the host caches it.",
        capability="vm.disk.cache",
    )
    limits: Optional[DiskLimits] = option(
        Nested(DiskLimits), "What it may ask of the storage.", capability="vm.disk.limits"
    )


@dataclass(frozen=True)
class Nic(ModelObject):
    """A virtual network adapter."""

    name: Optional[str] = option(
        Value(Pattern(r"[a-z0-9][a-z0-9_-]{0,30}", "1 to 31 lower-case letters, digits, hyphens and underscores")),
        "The adapter's name in the VM.",
        key=True,
    )
    network: Optional[str] = option(
        Value(Name()), "The virtual network that it is connected to.", required=True, reference="virtual_network"
    )
    mac: Optional[str] = option(
        Value(MacAddress()), "Its MAC address; made from the VM's and the adapter's name where not given.", claims="MAC"
    )
    model: Optional[str] = option(
        Value(Choice("virtio", "e1000", "e1000e", "vmxnet3")),
        "The adapter that the guest sees.",
        default="virtio",
        capability="vm.nic.model.*",
    )
    connected: Optional[bool] = option(
        Value(Boolean()), "Whether its cable is plugged.", default=True, capability="vm.nic.connected"
    )
    bandwidth: Optional[Bandwidth] = option(
        Nested(Bandwidth), "Its own limits, in place of its network's.", capability="vm.nic.bandwidth"
    )
    addresses: Optional[Tuple[str, ...]] = option(
        Values(InterfaceAddress(), ordered=True, maximum=64),
        "The addresses that the guest is given; DHCP where none is.",
        default=[],
        capability="vm.guest",
    )
    gateway4: Optional[str] = option(
        Value(IpAddress(4)), "The guest's IPv4 default gateway.", clearable=True, capability="vm.guest"
    )
    gateway6: Optional[str] = option(
        Value(IpAddress(6)), "The guest's IPv6 default gateway.", clearable=True, capability="vm.guest"
    )
    dns_servers: Optional[Tuple[str, ...]] = option(
        Values(IpAddress(), ordered=True, maximum=8), "The guest's DNS servers.", default=[], capability="vm.guest"
    )

    def check_complete(self) -> Iterator[Tuple[str, str]]:
        networks = [ipaddress.ip_interface(address).network for address in self.addresses or ()]
        for name in ("gateway4", "gateway6"):
            gateway = getattr(self, name)
            if gateway and not ipaddress.ip_address(gateway).is_link_local:
                if not any(ipaddress.ip_address(gateway) in network for network in networks):
                    yield name, f"{gateway} lies in none of the adapter's networks"


@dataclass(frozen=True)
class GuestUser(ModelObject):
    """A user that is made in the guest."""

    name: Optional[str] = option(
        Value(Pattern(r"[a-z_][a-z0-9_-]{0,31}", "a user name of lower-case letters, digits, hyphens and underscores")),
        "The user's name.",
        key=True,
    )
    ssh_keys: Optional[Tuple[str, ...]] = option(
        Values(SSH_KEY, ordered=True, maximum=64), "The public SSH keys that let the user in.", default=[]
    )
    password_hash: Optional[str] = option(
        Value(Pattern(r"\$[0-9a-z]+\$[!-9;-~]{8,500}", "a crypt(5) hash such as $6$... or $y$...")),
        "The password as a hash of crypt(5); without one there is no login by password.",
        secret=True,
    )
    sudo: Optional[bool] = option(Value(Boolean()), "Whether the user may do everything.", default=False)


@dataclass(frozen=True)
class Guest(ModelObject):
    """What is inside the VM when it first starts."""

    hostname: Optional[str] = option(
        Value(HostName()), "The guest's host name; the VM's name where not given and allowed as one."
    )
    users: Optional[Tuple[GuestUser, ...]] = option(NestedList(GuestUser, ordered=False), "Its users.", default=[])
    packages: Optional[Tuple[str, ...]] = option(
        Values(
            Pattern(r"[A-Za-z0-9][A-Za-z0-9.+_~:-]*(=[A-Za-z0-9.+_~:-]+)?", "a package name, with =VERSION if wanted"),
            maximum=1024,
        ),
        "Packages to install on the first start.",
        default=[],
    )
    timezone: Optional[str] = option(
        Value(Pattern(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+){0,2}", "an IANA time zone such as Europe/Berlin or UTC")),
        "The guest's time zone.",
    )
    user_data: Optional[str] = option(
        Value(Text(multiline=True, maximum=65536)),
        "Further user-data of cloud-init, a #cloud-config document or a script, which is carried as it is.",
        secret=True,
    )


@dataclass(frozen=True)
class Vm(ModelObject):
    """A virtual machine."""

    KIND = "vm"
    DESCRIPTION = "A virtual machine."

    name: Optional[str] = option(Value(Name()), "The VM's name.", key=True)
    template: Optional[str] = option(
        Value(Name()),
        "The template that it is made from.",
        create_only=True,
        reference="template",
        when_gone="ignore",
    )
    clone: Optional[str] = option(
        Value(Choice("linked", "full")),
        "Whether the first disk refers to the template (linked) or is a copy of it (full).",
        create_only=True,
        capability="vm.clone.*",
    )
    firmware: Optional[str] = option(
        Value(Choice("bios", "uefi")),
        "What it boots with; the template's where not given.",
        create_only=True,
        capability="vm.firmware.*",
    )
    secure_boot: Optional[bool] = option(
        Value(Boolean()), "Whether only signed systems start.", default=False, capability="vm.secure_boot"
    )
    tpm: Optional[bool] = option(Value(Boolean()), "Whether it has a TPM 2.0.", default=False, capability="vm.tpm")
    cpu: Optional[Cpu] = option(Nested(Cpu), "Its processors.", default={})
    memory: Optional[Memory] = option(Nested(Memory), "Its memory.")
    disks: Optional[Tuple[Disk, ...]] = option(
        NestedList(Disk, maximum=60),
        "Its disks; the first is made from the template, further ones are empty. The whole list: a disk that is not in it "
        "is detached and kept.",
    )
    nics: Optional[Tuple[Nic, ...]] = option(
        NestedList(Nic, maximum=16), "Its network adapters in the order that the guest sees; the whole list."
    )
    cdrom: Optional[str] = option(
        Value(Text(maximum=1024, minimum=1)),
        "The image in its CD-ROM drive, as a path on the host or in the platform's own words; an empty text takes it out.",
        clearable=True,
        capability="vm.cdrom",
    )
    pci_devices: Optional[Tuple[str, ...]] = option(
        Values(
            Pattern(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-1][0-9a-f]\.[0-7]", "a PCI address such as 0000:01:00.0", lower=True),
            ordered=True,
            maximum=64,
        ),
        "Devices of the host that are passed through to it; the whole list.",
        capability="vm.pci_devices",
    )
    guest: Optional[Guest] = option(
        Nested(Guest), "What the guest is given when it first starts.", create_only=True, capability="vm.guest"
    )
    boot_order: Optional[Tuple[str, ...]] = option(
        Values(Choice("disk", "network", "cdrom"), ordered=True),
        "What it tries to boot from, in this order.",
        capability="vm.boot_order",
    )
    resource_pool: Optional[str] = option(
        Value(Name()), "The resource pool that it is in.", reference="resource_pool", capability="vm.resource_pool"
    )
    autostart: Optional[bool] = option(
        Value(Boolean()), "Whether it starts with the host.", default=False, capability="vm.autostart"
    )
    autostart_order: Optional[int] = option(
        Value(Integer(1, 65535)),
        "When it starts with the host: those with lower numbers go first.",
        capability="vm.autostart_order",
    )
    autostart_delay: Optional[int] = option(
        Value(Integer(0, 3600, "seconds")),
        "How long the next VM waits after this one has started, in seconds.",
        capability="vm.autostart_order",
    )
    power: Optional[str] = option(
        Value(Choice("running", "stopped", "suspended")),
        "Whether it runs.",
        default="running",
        capability="vm.power.*",
    )
    tags: Optional[Tuple[str, ...]] = option(
        Values(Name(maximum=80), maximum=64), "Words by which VMs are found; the whole list.", capability="vm.tags"
    )
    description: Optional[str] = option(Value(Text(multiline=True, maximum=2000)), "What it is for.", clearable=True)

    def check_new(self, current: Optional[Vm]) -> Iterator[Tuple[str, str]]:
        if current is None and self.memory is None:
            yield "memory", "must be given for a new VM"
        known = {disk.name for disk in (current.disks if current is not None else None) or ()}
        for number, disk in enumerate(self.disks or ()):
            made_from_template = number == 0 and current is None and self.template is not None
            if disk.size is None and disk.name not in known and not made_from_template:
                yield f"disks['{disk.name}'].size", "must be given, since the disk is not made from a template"

    def check_complete(self) -> Iterator[Tuple[str, str]]:
        if self.secure_boot and self.firmware == "bios":
            yield "secure_boot", "needs firmware uefi, not bios"


@dataclass(frozen=True)
class Snapshot(ModelObject):
    """The state of a VM at a moment."""

    KIND = "snapshot"
    DESCRIPTION = "A snapshot (checkpoint) of a VM."

    vm: Optional[str] = option(
        Value(Name()), "The virtual machine; its snapshots go with it.", key=True, reference="vm", when_gone="include"
    )
    name: Optional[str] = option(Value(Name()), "The snapshot's name.", key=True)
    description: Optional[str] = option(Value(Text(maximum=2000)), "What it is for.", create_only=True)
    memory: Optional[bool] = option(
        Value(Boolean()),
        "Whether the memory of a running VM is kept too.",
        default=False,
        create_only=True,
        capability="snapshot.memory",
    )
    quiesce: Optional[bool] = option(
        Value(Boolean()),
        "Whether the guest's file systems are frozen meanwhile.",
        default=False,
        create_only=True,
        capability="snapshot.quiesce",
    )


@dataclass(frozen=True)
class Backup(ModelObject):
    """A copy of a VM outside of it."""

    KIND = "backup"
    DESCRIPTION = "A backup of a VM: its disks and configuration in a directory or store, with checksums."

    vm: Optional[str] = option(
        Value(Name()), "The virtual machine; its backups outlive it.", key=True, reference="vm", when_gone="ignore"
    )
    name: Optional[str] = option(Value(Name()), "The backup's name.", key=True)
    target: Optional[str] = option(
        Value(Text(maximum=1024, minimum=1)), "The directory, pool or store.", required=True, create_only=True
    )
    mode: Optional[str] = option(
        Value(Choice("full", "incremental")),
        "Everything, or what has changed since the backup before.",
        default="full",
        create_only=True,
        capability="backup.mode.*",
    )
    quiesce: Optional[bool] = option(
        Value(Boolean()),
        "Whether the guest's file systems are frozen meanwhile.",
        default=False,
        create_only=True,
        capability="backup.quiesce",
    )


@dataclass(frozen=True)
class ResourcePool(ModelObject):
    """A group of VMs that share processor and memory."""

    KIND = "resource_pool"
    DESCRIPTION = "A group of VMs that share processor time and memory."

    name: Optional[str] = option(Value(Name()), "The pool's name.", key=True)
    parent: Optional[str] = option(Value(Name()), "The pool that it is in.", reference="resource_pool", clearable=True)
    cpu_shares: Optional[int] = option(
        Value(Integer(1, 1_000_000)), "The weight of its processors.", capability="resource_pool.limits"
    )
    cpu_limit: Optional[int] = option(
        Value(Integer(1, 10_000_000, "percent of one core")),
        "The most, in percent of a core.",
        capability="resource_pool.limits",
    )
    cpu_reservation: Optional[int] = option(
        Value(Integer(0, 10_000_000, "percent of one core")),
        "What is guaranteed, in percent of a core.",
        capability="resource_pool.limits",
    )
    memory_shares: Optional[int] = option(
        Value(Integer(1, 1_000_000)), "The weight of its memory.", capability="resource_pool.limits"
    )
    memory_limit: Optional[int] = option(Value(Size()), "The most memory.", capability="resource_pool.limits")
    memory_reservation: Optional[int] = option(
        Value(Size(0)), "The memory that is guaranteed.", capability="resource_pool.limits"
    )
    description: Optional[str] = option(Value(Text(maximum=200)), "What it is for.", clearable=True)
