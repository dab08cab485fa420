# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From the model's VM to the configuration that Proxmox VE keeps of one, and back (qm.conf(5))."""

from __future__ import annotations

import hashlib
import ipaddress
import re
from typing import Any, Dict, Iterator, List, Mapping, Optional, Tuple
from urllib.parse import quote, unquote

from ...model.compute import Cpu, Disk, DiskLimits, GuestUser, Memory, Nic, Vm
from ...model.compute import Guest as GuestData
from ...model.network import Bandwidth, Rate, VirtualNetwork
from .guests import DRIVE, Guest
from .network import Placed, nic_place
from .notes import join_description
from .property_strings import gibibytes, join, join_nic, mebibytes, split

CPU_MODELS = {"host": "host", "host_compatible": "x86-64-v2-AES"}
BUSES = {"virtio": 16, "scsi": 31, "sata": 6}
"""How many disks a bus takes."""

CDROM, CLOUD_INIT = "ide2", "ide0"
BOOT = {"disk": DRIVE, "network": re.compile(r"net\d+")}
KBIT = 1024 * 1024 * 8 / 1000
"""How many kbit/s one of PVE's rates is, which are MiB a second (PVE::Network, tap_rate_limit)."""

FILE_TYPES = ("dir", "nfs", "cifs", "btrfs", "cephfs")
NO_LINKED_CLONES = ("lvm", "iscsi", "iscsidirect")

Config = Dict[str, Any]


def mac_of(vm: str, nic: str) -> str:
    """Return the MAC address of an adapter that is given none: it follows from the names, under Proxmox's own prefix."""
    digest = hashlib.sha256(f"{vm}\0{nic}".encode()).digest()
    return ":".join(["bc", "24", "11", *(f"{byte:02x}" for byte in digest[:3])])


# -- what a VM shows -----------------------------------------------------------------------------------------------------


def describe(guest: Guest, placed: Placed, resource_pool: Optional[str]) -> Vm:
    """Return a VM as the model has it."""
    config = guest.config
    efi = split(config.get("efidisk0"), "file")
    startup = split(config.get("startup"), "order")
    return Vm(
        name=guest.name,
        template=guest.facts.get("template"),
        clone=guest.facts.get("clone"),
        firmware="uefi" if config.get("bios") == "ovmf" else "bios",
        secure_boot=efi.get("pre-enrolled-keys") == "1",
        tpm="tpmstate0" in config,
        cpu=_cpu(config, bool(guest.facts.get("topology"))),
        memory=_memory(config),
        disks=tuple(_disk(key, name, parts) for key, name, parts in guest.disks()),
        nics=tuple(_nic(guest, key, name, parts, placed) for key, name, parts in guest.nics()),
        cdrom=_cdrom(guest),
        pci_devices=None,
        guest=_guest_data(config) if guest.cloud_init() else None,
        boot_order=_boot_order(config),
        resource_pool=resource_pool,
        autostart=_is_on(config.get("onboot")),
        autostart_order=int(startup["order"]) if startup.get("order", "").isdigit() else None,
        autostart_delay=int(startup["up"]) if startup.get("up", "").isdigit() else None,
        power="suspended" if guest.runs and guest.paused else "running" if guest.runs else "stopped",
        tags=guest.tags,
        description=guest.description,
    )


def _is_on(value: Any) -> bool:
    return str(value or "0") == "1"


def _cpu(config: Mapping[str, Any], topology: bool) -> Cpu:
    sockets, cores = int(config.get("sockets") or 1), int(config.get("cores") or 1)
    model = split(config.get("cpu"), "cputype").get("cputype", "kvm64")
    limit = float(config.get("cpulimit") or 0)
    told = topology or sockets > 1
    return Cpu(
        count=sockets * cores,
        sockets=sockets if told else None,
        cores=cores if told else None,
        model=next((name for name, word in CPU_MODELS.items() if word == model), None),
        nested=False,
        shares=int(config["cpuunits"]) if config.get("cpuunits") else None,
        limit=round(limit * 100) or None,
        pinning=str(config["affinity"]) if config.get("affinity") else None,
    )


def _memory(config: Mapping[str, Any]) -> Memory:
    size = int(split(config.get("memory") or 512, "current")["current"])
    balloon = int(config.get("balloon") or 0)
    return Memory(
        size=size,
        minimum=balloon if balloon and balloon != size else None,
        shares=int(config["shares"]) if config.get("shares") else None,
        hugepages=bool(config.get("hugepages")),
    )


def _disk(key: str, name: str, parts: Mapping[str, str]) -> Disk:
    found = DRIVE.fullmatch(key)
    bus = found.group(1) if found else None
    return Disk(
        name=name,
        size=mebibytes(parts.get("size")) or None,
        pool=parts["file"].partition(":")[0] if ":" in parts["file"] else None,
        bus=bus if bus in BUSES else None,
        cache=parts.get("cache") if parts.get("cache") != "directsync" else None,
        limits=_limits(parts),
    )


def _limits(parts: Mapping[str, str]) -> Optional[DiskLimits]:
    values: Dict[str, Optional[int]] = {
        "read_iops": int(parts["iops_rd"]) if parts.get("iops_rd") else None,
        "write_iops": int(parts["iops_wr"]) if parts.get("iops_wr") else None,
        "read_rate": round(float(parts["mbps_rd"]) * 1024) if parts.get("mbps_rd") else None,
        "write_rate": round(float(parts["mbps_wr"]) * 1024) if parts.get("mbps_wr") else None,
    }
    return DiskLimits(**values) if any(values.values()) else None


def _nic(guest: Guest, key: str, name: str, parts: Mapping[str, str], placed: Placed) -> Nic:
    address = split(guest.config.get(f"ipconfig{key[3:]}"), "ip")
    addresses = [address[field] for field in ("ip", "ip6") if "/" in address.get(field, "")]
    servers = guest.facts.get("dns_of") == key
    return Nic(
        name=name,
        network=placed.find_nic(guest, key, parts),
        mac=parts["macaddr"].lower() if parts.get("macaddr") else None,
        model=parts.get("model") if parts.get("model") in ("virtio", "e1000", "e1000e", "vmxnet3") else None,
        connected=parts.get("link_down") != "1",
        bandwidth=_bandwidth(parts.get("rate")),
        addresses=tuple(str(ipaddress.ip_interface(text)) for text in addresses),
        gateway4=address.get("gw"),
        gateway6=address.get("gw6"),
        dns_servers=tuple(str(guest.config.get("nameserver") or "").split()) if servers else (),
    )


def _bandwidth(rate: Optional[str]) -> Optional[Bandwidth]:
    if not rate or float(rate) == 0:
        return None
    both = Rate(average=round(float(rate) * KBIT))
    return Bandwidth(inbound=both, outbound=both)


def _cdrom(guest: Guest) -> Optional[str]:
    for _key, parts in guest.drives():
        if parts.get("media") == "cdrom" and "cloudinit" not in parts["file"]:
            return None if parts["file"] == "none" else parts["file"]
    return None


def _guest_data(config: Mapping[str, Any]) -> Optional[GuestData]:
    if not config.get("ciuser"):
        return None
    keys = [line for line in unquote(str(config.get("sshkeys") or "")).splitlines() if line.strip()]
    return GuestData(users=(GuestUser(name=str(config["ciuser"]), ssh_keys=tuple(keys), sudo=True),))


def _boot_order(config: Mapping[str, Any]) -> Optional[Tuple[str, ...]]:
    order = split(config.get("boot"), "legacy").get("order")
    if order is None:
        return None
    words: List[str] = []
    for device in order.split(";"):
        word = boot_word(device, config)
        if word and word not in words:
            words.append(word)
    return tuple(words)


def boot_word(device: str, config: Mapping[str, Any]) -> Optional[str]:
    """Return what a device of the boot order is in the model's words."""
    if BOOT["network"].fullmatch(device):
        return "network"
    if not DRIVE.fullmatch(device):
        return None
    return "cdrom" if split(config.get(device), "file").get("media") == "cdrom" else "disk"


# -- what a VM shall be --------------------------------------------------------------------------------------------------


class Wanted:
    """The configuration that a VM shall have.

    vm: as it shall be, complete. present: as it is, or None where there is nothing yet.
    roots: the fields of the model that are to be changed; all where it is None.
    storages: the storages of the node by name.
    """

    def __init__(
        self,
        vm: Vm,
        present: Optional[Guest],
        networks: Mapping[str, VirtualNetwork],
        storages: Mapping[str, Mapping[str, Any]],
        roots: Optional[frozenset[str]] = None,
    ) -> None:
        self.vm = vm
        self.present = present
        self.networks = networks
        self.storages = storages
        self.roots = roots
        self.config: Config = {}
        self.deletes: List[str] = []
        self.sizes: Dict[str, int] = {}
        self.facts: Dict[str, Any] = dict(present.facts) if present is not None else {}
        self.old: Config = dict(present.config) if present is not None else {}
        self._build()

    def _touches(self, *names: str) -> bool:
        return self.roots is None or any(name in self.roots for name in names)

    def _set(self, key: str, value: Any) -> None:
        """Note a value that differs from the present one; None takes it away."""
        if value is None:
            if key in self.old:
                self.deletes.append(key)
        elif str(self.old.get(key)) != str(value):
            self.config[key] = value

    def _build(self) -> None:
        vm = self.vm
        if self._touches("cpu") and vm.cpu is not None:
            self._build_cpu(vm.cpu)
        if self._touches("memory") and vm.memory is not None:
            self._set("memory", vm.memory.size)
            self._set("balloon", vm.memory.minimum)
            self._set("shares", vm.memory.shares)
        if self._touches("disks"):
            self._build_disks()
        if self._touches("firmware", "secure_boot"):
            self._build_firmware()
        if self._touches("tpm"):
            if vm.tpm and "tpmstate0" not in self.old:
                self._set("tpmstate0", join({"file": f"{self.default_pool()}:1", "version": "v2.0"}, "file"))
            elif not vm.tpm:
                self._set("tpmstate0", None)
        if self._touches("nics"):
            self._build_nics()
        if self._touches("cdrom"):
            self._build_cdrom()
        if self._touches("guest") and vm.guest is not None:
            self._build_guest(vm.guest)
        if self._touches("autostart"):
            self._set("onboot", 1 if vm.autostart else None)
        if self._touches("autostart_order", "autostart_delay"):
            parts = {"order": vm.autostart_order, "up": vm.autostart_delay}
            self._set("startup", join(parts, "") or None)
        if self._touches("tags"):
            self._set("tags", ";".join(sorted(vm.tags)) if vm.tags else None)
        if self._touches("boot_order") and vm.boot_order is not None:
            self._set("boot", "order=" + ";".join(self._boot_devices(vm.boot_order)))
        if self.present is None:
            self._set("scsihw", "virtio-scsi-single")
            self._set("ostype", "l26")
        if self.roots is None:
            self._set("agent", "1")
            for name in ("template", "clone"):
                if getattr(vm, name):
                    self.facts[name] = getattr(vm, name)
        description = join_description(vm.description or None, self.facts)
        # PVE ends a description with a line break that is none of ours.
        if str(self.old.get("description") or "").rstrip("\n") != description.rstrip("\n"):
            self._set("description", description or None)

    def _build_cpu(self, cpu: Cpu) -> None:
        topology = cpu.sockets is not None or cpu.cores is not None
        sockets = cpu.sockets or 1
        cores = cpu.cores or (cpu.count or 1) // sockets
        self._set("sockets", sockets if sockets != 1 or "sockets" in self.old else None)
        self._set("cores", cores)
        if topology:
            self.facts["topology"] = True
        else:
            self.facts.pop("topology", None)
        if cpu.model is not None:
            parts = split(self.old.get("cpu"), "cputype")
            if parts.get("cputype", "kvm64") != CPU_MODELS[cpu.model]:
                self._set("cpu", CPU_MODELS[cpu.model])
        self._set("cpuunits", cpu.shares)
        self._set("cpulimit", f"{cpu.limit / 100:.2f}".rstrip("0").rstrip(".") if cpu.limit else None)
        self._set("affinity", cpu.pinning or None)

    # -- disks ---------------------------------------------------------------------------------------------------------

    def default_pool(self) -> str:
        """Return the pool of what is put into none: that of the first disk, or the one with the most space."""
        for disk in (self.vm.disks or ())[:1]:
            if disk.pool:
                return disk.pool
        if self.present is not None:
            for _key, _name, parts in self.present.disks():
                return parts["file"].partition(":")[0]
        return default_pool(self.storages) or ""

    def _build_disks(self) -> None:
        present = {
            name: (key, parts) for key, name, parts in (self.present.disks() if self.present is not None else ())
        }
        wanted = list(self.vm.disks or ())
        if self.vm.disks is None:
            return
        aside: Dict[str, str] = dict(self.facts.get("aside") or {})
        taken = {key for key, _parts in present.values()}
        if self.present is not None:
            taken |= {key for key, _parts in self.present.drives()}
        named: Dict[str, str] = {}
        listed = {disk.name for disk in wanted}
        # A disk that goes frees its place only when it has gone.
        for name, (key, parts) in present.items():
            if name not in listed:
                self.deletes.append(key)
                aside[name] = parts["file"]
        for disk in wanted:
            name, bus = str(disk.name), str(disk.bus or "virtio")
            if name in present:
                key, parts = present[name]
                if DRIVE.fullmatch(key).group(1) != bus and disk.bus is not None:  # type: ignore[union-attr]
                    self.deletes.append(key)
                    key = _free_key(bus, taken)
                    taken.add(key)
            else:
                key = _free_key(bus, taken)
                taken.add(key)
                parts = self._new_disk(disk, aside.pop(name, None))
            named[key] = name
            shall = {**parts, **_disk_options(disk)}
            if key not in self.old or split(self.old[key], "file") != _without_empty(shall):
                self.config[key] = join(_without_empty(shall), "file")
            size = mebibytes(parts.get("size")) if parts.get("size") else None
            if disk.size and size is not None and disk.size > size:
                self.sizes[key] = disk.size
        if all(key == name for key, name in named.items()) and not (self.facts.get("disks") or aside):
            self.facts.pop("disks", None)
        else:
            self.facts["disks"] = [[key, name] for key, name in named.items()]
        self.facts["aside"] = aside

    def _new_disk(self, disk: Disk, aside: Optional[str]) -> Dict[str, str]:
        if aside is not None and aside in [
            split(value, "file")["file"] for key, value in self.old.items() if key.startswith("unused")
        ]:
            return {"file": aside}
        pool = disk.pool or self.default_pool()
        parts = {"file": f"{pool}:{gibibytes(disk.size or 0)}"}
        if self.storages.get(pool, {}).get("type") in FILE_TYPES:
            parts["format"] = "qcow2"
        return parts

    # -- firmware ------------------------------------------------------------------------------------------------------

    def _build_firmware(self) -> None:
        if self.vm.firmware != "uefi":
            return
        self._set("bios", "ovmf")
        if "machine" not in self.old:
            self._set("machine", "q35")
        if "efidisk0" not in self.old:
            parts = {
                "file": f"{self.default_pool()}:1",
                "efitype": "4m",
                "pre-enrolled-keys": int(bool(self.vm.secure_boot)),
            }
            if self.storages.get(self.default_pool(), {}).get("type") in FILE_TYPES:
                parts["format"] = "qcow2"
            self._set("efidisk0", join(parts, "file"))

    # -- adapters ------------------------------------------------------------------------------------------------------

    def _build_nics(self) -> None:
        if self.vm.nics is None:
            return
        present = {name: (key, parts) for key, name, parts in (self.present.nics() if self.present is not None else ())}
        keys = _nic_keys([present[str(nic.name)][0] if nic.name in present else None for nic in self.vm.nics])
        facts: Dict[str, List[Any]] = {}
        servers_of: Optional[str] = None
        addressed = self.has_cloud_init()
        for key, nic in zip(keys, self.vm.nics):
            _old, parts = present.get(str(nic.name), ("", {}))
            network = self.networks.get(str(nic.network))
            place = nic_place(network) if network is not None else {}
            shall = {
                **parts,
                "model": nic.model or parts.get("model") or "virtio",
                "macaddr": (nic.mac or mac_of(str(self.vm.name), str(nic.name))).upper(),
                **place,
                "link_down": None if nic.connected is not False else 1,
                "rate": _rate(nic.bandwidth),
            }
            self._set(key, join_nic(_without_empty(shall)))
            facts[key] = [nic.name, nic.network]
            self._set(f"ipconfig{key[3:]}", _ipconfig(nic) if addressed else None)
            if nic.dns_servers and servers_of is None:
                servers_of = key
                self._set("nameserver", " ".join(nic.dns_servers))
        if servers_of is None and self.facts.pop("dns_of", None):
            self._set("nameserver", None)
        elif servers_of is not None:
            self.facts["dns_of"] = servers_of
        for key, _parts in present.values():
            if key not in keys:
                self.deletes.append(key)
                if f"ipconfig{key[3:]}" in self.old:
                    self.deletes.append(f"ipconfig{key[3:]}")
        self.facts["nics"] = facts

    def has_cloud_init(self) -> bool:
        """Return whether the guest is given its data by cloud-init."""
        if self.present is not None and self.present.cloud_init():
            return True
        return self.vm.guest is not None or any(nic.addresses for nic in self.vm.nics or ())

    # -- the rest ------------------------------------------------------------------------------------------------------

    def _build_cdrom(self) -> None:
        key = next(
            (
                key
                for key, parts in (self.present.drives() if self.present is not None else ())
                if parts.get("media") == "cdrom" and "cloudinit" not in parts["file"]
            ),
            None,
        )
        if self.vm.cdrom:
            self._set(key or CDROM, join({"file": self.vm.cdrom, "media": "cdrom"}, "file"))
        elif key is not None:
            # The drive stays, so that a running VM can be given another image.
            self._set(key, "none,media=cdrom")

    def _build_guest(self, guest: GuestData) -> None:
        user = next(iter(guest.users or ()), None)
        if user is None:
            return
        self._set("ciuser", user.name)
        if user.password_hash:
            self.config["cipassword"] = user.password_hash
        if user.ssh_keys:
            self._set("sshkeys", quote("\n".join(user.ssh_keys), safe=""))

    def add_cloud_init_drive(self) -> None:
        """Ask for a cloud-init drive where the guest is to be given data and there is none."""
        if self.has_cloud_init() and not (self.present is not None and self.present.cloud_init()):
            self._set(CLOUD_INIT, f"{self.default_pool()}:cloudinit")

    def _boot_devices(self, order: Tuple[str, ...]) -> Iterator[str]:
        whole = {**{key: value for key, value in self.old.items() if key not in self.deletes}, **self.config}
        devices = sorted(
            (key for key in whole if DRIVE.fullmatch(key) or BOOT["network"].fullmatch(key)), key=_boot_rank
        )
        first = next((key for key, _name in self.facts.get("disks") or () if key in whole), None)
        for word in order:
            fitting = [
                device
                for device in devices
                if boot_word(device, whole) == word and "cloudinit" not in str(whole[device])
            ]
            if word == "disk" and first in fitting:
                yield str(first)
            elif fitting:
                yield fitting[0]


def _boot_rank(key: str) -> Tuple[str, int]:
    found = re.fullmatch(r"(\D+)(\d+)", key)
    return (found.group(1), int(found.group(2))) if found else (key, 0)


def _without_empty(parts: Mapping[str, Any]) -> Dict[str, str]:
    return {name: str(value) for name, value in parts.items() if value not in (None, "")}


def _free_key(bus: str, taken: Any) -> str:
    number = 0
    while f"{bus}{number}" in taken:
        number += 1
    return f"{bus}{number}"


def _nic_keys(present: List[Optional[str]]) -> List[str]:
    """Return the keys of adapters so that their numbers rise in the order in which the guest is to see them."""
    numbers: List[int] = []
    for key in present:
        number = int(key[3:]) if key is not None else (numbers[-1] + 1 if numbers else 0)
        numbers.append(number)
    if sorted(set(numbers)) != numbers:
        numbers = list(range(len(present)))
    return [f"net{number}" for number in numbers]


def _disk_options(disk: Disk) -> Dict[str, Any]:
    limits = disk.limits or DiskLimits()
    return {
        "cache": disk.cache,
        "iops_rd": limits.read_iops,
        "iops_wr": limits.write_iops,
        "mbps_rd": _megabytes(limits.read_rate),
        "mbps_wr": _megabytes(limits.write_rate),
    }


def _megabytes(rate: Optional[int]) -> Optional[str]:
    return f"{rate / 1024:.10f}".rstrip("0").rstrip(".") if rate else None


def _rate(bandwidth: Optional[Bandwidth]) -> Optional[str]:
    average = bandwidth.inbound.average if bandwidth is not None and bandwidth.inbound is not None else None
    return f"{average / KBIT:.8f}".rstrip("0").rstrip(".") if average else None


def _ipconfig(nic: Nic) -> str:
    parts: Dict[str, Any] = {}
    for address in nic.addresses or ():
        parts["ip" if ipaddress.ip_interface(address).version == 4 else "ip6"] = address
    if not parts:
        return "ip=dhcp"
    if nic.gateway4 and "ip" in parts:
        parts["gw"] = nic.gateway4
    if nic.gateway6 and "ip6" in parts:
        parts["gw6"] = nic.gateway6
    return join(parts, "")


def default_pool(storages: Mapping[str, Mapping[str, Any]]) -> Optional[str]:
    """Return the storage for images with the most space, or None where there is none."""
    able = [
        (int(entry.get("avail") or 0), name)
        for name, entry in storages.items()
        if entry.get("active") and "images" in str(entry.get("content", "")).split(",")
    ]
    return max(able)[1] if able else None
