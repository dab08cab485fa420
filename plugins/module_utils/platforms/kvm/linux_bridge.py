# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Switches that are bridges of the kernel, with VLAN filtering, and the host's interfaces on them.

systemd-networkd makes them, now and at boot. The file that makes a bridge, or an interface, holds the object as it was
asked for; it is written first and removed last, so that what a killed run has left is found by the next. An interface
of the host is one end of a veth pair whose other end is a port: so it is like the internal port of Open vSwitch, and
several can be on one network.

An untagged frame is in VLAN 1 inside the bridge, since it has no VLAN 0 (bridge(8)).
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
from dataclasses import dataclass
from typing import Any, Dict, FrozenSet, Iterable, Iterator, List, Mapping, Optional, Set, Tuple, Type

from ...errors import ReadError, ValidateError
from ...model.network import Bond, HostInterface, KvmSwitch, VirtualNetwork, VirtualSwitch
from ...model.schema import shown_as
from ...model.types import range_bounds
from . import host_devices, networkd
from .guest_ports_hook import UNTAGGED
from .host_files import read_file
from .libvirt_networks import LibvirtNetwork
from .networkd import Section
from .systemd import run_command

NETDEV = ".netdev"
DEFAULT_MTU = 1500
MODES = {"active_backup": "active-backup", "balance_tcp": "802.3ad", "balance_xor": "balance-xor"}
_WORDS = {mode: word for word, mode in MODES.items()}
_RECORD = "# Asked for: "
_LAST_VLAN = 4094

Files = Dict[Tuple[str, str], bytes]
"""What files of networkd hold, by device and suffix."""


def is_linux(switch: Any) -> bool:
    """Return whether a switch is to be a bridge of the kernel."""
    kvm = getattr(switch, "kvm", None)
    return kvm is not None and kvm.implementation == "linux_bridge"


def bond_of(switch: str) -> str:
    """Return the name of the device that bonds a switch's uplinks."""
    return f"bfb{_digest(switch)}"


def port_of(interface: str) -> str:
    """Return the name of the bridge's end of an interface of the host."""
    return f"bfp{_digest(interface)}"


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:12]


# -- VLANs of ports ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PortVlans:
    """What a port carries: the VLAN of untagged frames, and those that are carried tagged."""

    native: Optional[int] = None
    tagged: FrozenSet[int] = frozenset()


EVERY_VLAN = PortVlans(UNTAGGED, frozenset(range(2, _LAST_VLAN + 1)))


def vlans_of(network: VirtualNetwork) -> PortVlans:
    """Return what a port on a network carries. network: complete."""
    tagged = {number for first, last in map(range_bounds, network.trunk or ()) for number in range(first, last + 1)}
    return PortVlans(network.vlan or UNTAGGED, frozenset(tagged))


def read_vlans() -> Dict[str, PortVlans]:
    """Return what every port of every bridge carries, with one process of bridge(8). Raises ReadError."""
    text = run_command(["bridge", "-j", "-c", "vlan", "show"])
    try:
        entries = json.loads(text or "[]")
    except ValueError as error:
        raise ReadError(f"bridge(8) answered what is no JSON: {error}") from error
    found: Dict[str, PortVlans] = {}
    for entry in entries:
        native: Optional[int] = None
        tagged: Set[int] = set()
        for vlan in entry.get("vlans", ()):
            flags = vlan.get("flags", ())
            if "PVID" in flags and "Egress Untagged" in flags:
                native = vlan["vlan"]
            else:
                tagged.update(range(vlan["vlan"], vlan.get("vlanEnd", vlan["vlan"]) + 1))
        found[str(entry["ifname"])] = PortVlans(native, frozenset(tagged))
    return found


def is_isolated(port: str) -> bool:
    """Return whether a port talks to ports only that are not isolated (bridge(8))."""
    content = read_file(f"{host_devices.SYSFS}/{port}/brport/isolated")
    return content is not None and content.strip() == b"1"


def change_lines(port: str, present: PortVlans, wanted: PortVlans, isolated: bool) -> List[str]:
    """Return what bridge(8) has to be told of a port so that it carries what it should."""
    lines = []
    going = set(present.tagged - wanted.tagged)
    if present.native is not None and present.native != wanted.native:
        going.add(present.native)
    # A VLAN that was carried otherwise is taken away first, since adding it would keep its flags.
    going |= {present.native} & set(wanted.tagged) if present.native is not None else set()
    lines += [f"vlan del dev {port} vid {_span(span)}" for span in _spans(going)]
    if wanted.native is not None and (present.native != wanted.native or wanted.native in going):
        lines.append(f"vlan add dev {port} vid {wanted.native} pvid untagged")
    coming = set(wanted.tagged) - (set(present.tagged) - going)
    lines += [f"vlan add dev {port} vid {_span(span)}" for span in _spans(coming)]
    if is_isolated(port) != isolated:
        lines.append(f"link set dev {port} isolated {'on' if isolated else 'off'}")
    return lines


def _spans(numbers: Iterable[int]) -> List[Tuple[int, int]]:
    found: List[Tuple[int, int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][1] + 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found


def _span(span: Tuple[int, int]) -> str:
    return str(span[0]) if span[0] == span[1] else f"{span[0]}-{span[1]}"


@dataclass(frozen=True)
class Wanted:
    """What a port should carry, and whether it is isolated."""

    vlans: PortVlans
    isolated: bool = False

    @classmethod
    def on(cls, network: VirtualNetwork) -> Wanted:
        """Return what a port on a network should be. network: complete."""
        return cls(vlans_of(network), bool(network.isolated))


def put_ports(wanted: Mapping[str, Wanted]) -> None:
    """Make ports carry what they should, where they do not. wanted: by device. Raises ApplyError or ReadError."""
    if not wanted:
        return
    present = read_vlans()
    lines: List[str] = []
    for port, what in sorted(wanted.items()):
        if host_devices.exists(port):
            lines += change_lines(port, present.get(port, PortVlans()), what.vlans, what.isolated)
    if lines:
        run_command(["bridge", "-batch", "-"], given="\n".join(lines) + "\n")


# -- Files -------------------------------------------------------------------------------------------------------------

_NO_ADDRESSES = [
    ("DHCP", "no"),
    ("LinkLocalAddressing", "no"),
    ("IPv6AcceptRA", "no"),
    ("ConfigureWithoutCarrier", "yes"),
]


def _record(document: Dict[str, Any], kind: str) -> str:
    return f"{_RECORD}{json.dumps({kind: document}, sort_keys=True)}"


def _vlan_sections(vlans: PortVlans) -> List[Section]:
    native = [("PVID", str(vlans.native)), ("EgressUntagged", str(vlans.native))]
    return [("BridgeVLAN", native), *(("BridgeVLAN", [("VLAN", _span(span))]) for span in _spans(vlans.tagged))]


def switch_files(switch: VirtualSwitch) -> Files:
    """Return the files of a switch, those of its uplinks among them, the one that makes it first. switch: complete."""
    name, mtu = str(switch.name), str(switch.mtu or DEFAULT_MTU)
    uplinks, bond = switch.uplinks or (), switch.bond
    document = switch.to_document()
    settings = [
        ("VLANFiltering", "no" if switch.vlan_aware is False else "yes"),
        # A port that nobody has told a VLAN carries nothing.
        ("DefaultPVID", "none"),
        ("STP", "no"),
        # Without it a port learns for 15 s before it passes anything on, even without STP.
        ("ForwardDelaySec", "0"),
        ("MulticastSnooping", "no"),
    ]
    link = [("RequiredForOnline", "no"), ("MTUBytes", mtu)]
    files: Files = {
        (name, NETDEV): networkd.file_of(
            [("NetDev", [("Name", name), ("Kind", "bridge"), ("MTUBytes", mtu)]), ("Bridge", settings)],
            _record(document, "virtual_switch"),
        ),
        (name, networkd.NETWORK): networkd.file_of(
            [("Match", [("Name", name)]), ("Link", link), ("Network", _NO_ADDRESSES)]
        ),
    }

    def port(device: str, *more: Section) -> bytes:
        sections = [
            ("Match", [("Name", device)]),
            ("Link", link),
            ("Network", [*_NO_ADDRESSES, ("Bridge", name)]),
            *_vlan_sections(EVERY_VLAN),
        ]
        return networkd.file_of([*sections, *more])

    if len(uplinks) > 1 and bond is not None:
        device = bond_of(name)
        options = [("Mode", MODES[bond.mode or "active_backup"]), ("MIIMonitorSec", "100ms")]
        if bond.mode != "active_backup":
            options.append(("TransmitHashPolicy", "layer3+4"))
        if bond.mode == "balance_tcp":
            options.append(("LACPTransmitRate", "fast"))
        files[device, NETDEV] = networkd.file_of([("NetDev", [("Name", device), ("Kind", "bond")]), ("Bond", options)])
        files[device, networkd.NETWORK] = port(device)
        for uplink in uplinks:
            primary = [("PrimarySlave", "yes")] if bond.primary == uplink else []
            files[uplink, networkd.NETWORK] = networkd.file_of(
                [
                    ("Match", [("Name", uplink)]),
                    ("Link", link),
                    ("Network", [*_NO_ADDRESSES, ("Bond", device), *primary]),
                ]
            )
    for uplink in uplinks if len(uplinks) == 1 else ():
        files[uplink, networkd.NETWORK] = port(uplink)
    return files


def interface_files(interface: HostInterface, network: VirtualNetwork, mac: str) -> Files:
    """Return the files of an interface of the host, the one that makes it first.

    interface, network: complete. mac: its address.
    """
    name, mtu = str(interface.name), str(interface.mtu or DEFAULT_MTU)
    port = port_of(name)
    made = [
        ("NetDev", [("Name", name), ("Kind", "veth"), ("MACAddress", mac), ("MTUBytes", mtu)]),
        ("Peer", [("Name", port)]),
    ]
    wanted = Wanted.on(network)
    return {
        (name, NETDEV): networkd.file_of(made, _record(interface.to_document(), "host_interface")),
        (name, networkd.NETWORK): networkd.interface_file(interface, [("MTUBytes", mtu), ("MACAddress", mac)]),
        (port, networkd.NETWORK): networkd.file_of(
            [
                ("Match", [("Name", port)]),
                ("Link", [("RequiredForOnline", "no"), ("MTUBytes", mtu)]),
                ("Network", [*_NO_ADDRESSES, ("Bridge", str(network.switch))]),
                ("Bridge", [("Isolated", "yes" if wanted.isolated else "no")]),
                *_vlan_sections(wanted.vlans),
            ]
        ),
    }


def are_written(files: Files) -> bool:
    """Return whether files are there as they should be."""
    return all(networkd.is_written(device, content, suffix) for (device, suffix), content in files.items())


# -- Reading -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bridges:
    """The bridges and interfaces of ours, as they were last asked for, by name; and what all ports carry."""

    switches: Mapping[str, VirtualSwitch]
    interfaces: Mapping[str, HostInterface]
    vlans: Mapping[str, PortVlans]

    def switch_of(self, interface: str) -> Optional[str]:
        """Return the bridge that an interface of ours is on now."""
        return host_devices.master_of(port_of(interface)) if interface in self.interfaces else None


def read_bridges() -> Bridges:
    """Read what is ours. Raises ReadError."""
    switches: Dict[str, VirtualSwitch] = {}
    interfaces: Dict[str, HostInterface] = {}
    for path in sorted(glob.glob(networkd.path_of("*", NETDEV))):
        for found in _asked_in(path):
            if isinstance(found, VirtualSwitch):
                switches[str(found.name)] = found
            elif isinstance(found, HostInterface):
                interfaces[str(found.name)] = found
    return Bridges(switches, interfaces, read_vlans() if switches or interfaces else {})


_KINDS: Dict[str, Type[Any]] = {"virtual_switch": VirtualSwitch, "host_interface": HostInterface}


def _asked_in(path: str) -> Iterator[Any]:
    for line in (read_file(path) or b"").decode("utf-8", "replace").splitlines():
        if not line.startswith(_RECORD):
            continue
        try:
            for kind, document in json.loads(line[len(_RECORD) :]).items():
                yield _KINDS[kind].parse(document)
        except (ValueError, KeyError, AttributeError, ValidateError):
            # Somebody has edited it: then it is none of ours any more.
            continue


def ports(bridge: str) -> List[str]:
    """Return the names of a bridge's ports."""
    try:
        return sorted(os.listdir(f"{host_devices.SYSFS}/{bridge}/brif"))
    except OSError:
        return []


def _members(bond: str) -> List[str]:
    content = read_file(f"{host_devices.SYSFS}/{bond}/bonding/slaves")
    return sorted((content or b"").decode("ascii", "replace").split())


def _attribute(bond: str, name: str) -> str:
    content = read_file(f"{host_devices.SYSFS}/{bond}/bonding/{name}")
    words = (content or b"").decode("ascii", "replace").split()
    return words[0] if words else ""


def uplinks_of(asked: VirtualSwitch) -> List[str]:
    """Return the names of the uplinks that a switch has now: ports of ours, and hardware."""
    name = str(asked.name)
    found: List[str] = []
    for port in ports(name):
        if port == bond_of(name):
            found += _members(port)
        elif port in (asked.uplinks or ()) or host_devices.is_uplink_like(port):
            found.append(port)
    return found


def other_ports(asked: VirtualSwitch, bridges: Bridges) -> List[str]:
    """Return the ports that are neither uplinks, nor VMs' and interfaces of ours."""
    name = str(asked.name)
    ours = {bond_of(name), *uplinks_of(asked), *map(port_of, bridges.interfaces)}
    return [port for port in ports(name) if port not in ours and not host_devices.is_tap(port)]


def describe(asked: VirtualSwitch, network: Optional[LibvirtNetwork], bridges: Bridges) -> VirtualSwitch:
    """Return a switch as the host shows it. network: the libvirt network of its name."""
    name, mtu = str(asked.name), asked.mtu or DEFAULT_MTU
    uplinks = uplinks_of(asked)
    told = sorted(uplinks) == sorted(asked.uplinks or ())
    fields: Dict[str, Any] = {
        "uplinks": asked.uplinks if told else tuple(uplinks),
        "bond": _shown_bond(bond_of(name)) if len(uplinks) > 1 else None,
        "mtu": next((found for found in map(host_devices.mtu_of, (name, *uplinks)) if found not in (mtu, None)), mtu),
    }
    outer = [bond_of(name)] if len(uplinks) > 1 else uplinks
    whole = (
        network is not None
        and network.is_whole(name, linux=True)
        and host_devices.is_linux_bridge(name)
        and all(map(host_devices.is_up, (name, *uplinks)))
        and are_written(switch_files(asked))
        and all(bridges.vlans.get(port) == EVERY_VLAN for port in outer)
        and _filters(name) == (asked.vlan_aware is not False)
    )
    if not whole:
        # What is broken has no field of its own.
        fields["mtu"] = None
    return shown_as(asked, kvm=KvmSwitch(implementation="linux_bridge"), **fields)


def _filters(bridge: str) -> bool:
    return (read_file(f"{host_devices.SYSFS}/{bridge}/bridge/vlan_filtering") or b"").strip() == b"1"


def _shown_bond(device: str) -> Bond:
    mode = _WORDS.get(_attribute(device, "mode"))
    lacp = "active" if mode == "balance_tcp" else "off"
    primary = _attribute(device, "primary") if mode == "active_backup" else ""
    return Bond(mode=mode, lacp=lacp, primary=primary or None)


def is_placed(interface: str, network: Optional[VirtualNetwork], bridges: Bridges) -> bool:
    """Return whether an interface of ours is on a network."""
    if network is None or bridges.switch_of(interface) != network.switch:
        return False
    wanted, port = Wanted.on(network), port_of(interface)
    return bridges.vlans.get(port) == wanted.vlans and is_isolated(port) == wanted.isolated


def problems(switch: VirtualSwitch) -> Iterator[Tuple[str, str]]:
    """Yield (field, message) for what a bridge of the kernel cannot be. switch: complete."""
    if switch.type == "nat":
        yield "kvm.implementation", "'linux_bridge' does not go with type nat; allowed is openvswitch"
    if switch.bond is None:
        return
    if switch.bond.mode not in MODES:
        words = ", ".join(sorted(MODES))
        yield "bond.mode", f"{switch.bond.mode!r} is not allowed on a Linux bridge; allowed are {words}"
    if switch.bond.lacp == "passive":
        yield "bond.lacp", "'passive' is not allowed on a Linux bridge; allowed are off and active"
    if switch.bond.lacp == "active" and switch.bond.mode != "balance_tcp":
        yield (
            "bond.lacp",
            f"'active' does not go with mode {switch.bond.mode} on a Linux bridge; allowed is balance_tcp",
        )


def network_problems(network: VirtualNetwork, switch: VirtualSwitch) -> Iterator[Tuple[str, str]]:
    """Yield (field, message) for networks that a bridge of the kernel cannot carry. Both are complete."""
    vlans = vlans_of(network)
    reason = f"since a Linux bridge keeps untagged frames in VLAN {UNTAGGED}; allowed are 0 and 2 to {_LAST_VLAN}"
    if network.vlan == UNTAGGED:
        yield "vlan", f"{UNTAGGED} is not allowed, {reason}"
    if UNTAGGED in vlans.tagged:
        yield "trunk", f"{UNTAGGED} is not allowed, {reason}"
    if switch.vlan_aware is False and (network.vlan or network.trunk):
        yield (
            ("trunk" if network.trunk else "vlan"),
            f"does not go with switch {switch.name!r}, which is not vlan_aware",
        )


# -- Changing ----------------------------------------------------------------------------------------------------------


def delete_device(name: str) -> None:
    """Remove a device that is ours, where it is there. Raises ApplyError."""
    if host_devices.exists(name):
        run_command(["ip", "link", "delete", name])


def let_go(device: str) -> None:
    """Take a port away from its bridge or bond, where it has one. Raises ApplyError."""
    if host_devices.master_of(device):
        run_command(["ip", "link", "set", "dev", device, "nomaster"])


def take_down_switch(before: VirtualSwitch, after: Optional[VirtualSwitch]) -> bool:
    """Remove what a switch has and shall not have, its own file last; return whether files of networkd were among it.

    before: as it was last asked for. after: as it shall be, or None where it is to go. Raises ApplyError.
    """
    name = str(before.name)
    old = switch_files(before)
    new = switch_files(after) if after is not None else {}
    changed = False
    for device in sorted({device for device, _suffix in old} | {bond_of(name), *uplinks_of(before)}):
        gone = not any(device == other for other, _suffix in new)
        if device == name or not _is_part(device, name, old):
            continue
        if device == bond_of(name):
            # The kernel lets the mode of a bond be set only while it has no members.
            if gone or old.get((device, NETDEV)) != new.get((device, NETDEV)):
                delete_device(device)
        elif gone or old.get((device, networkd.NETWORK)) != new.get((device, networkd.NETWORK)):
            if gone or _master_in(old, device, name) != _master_in(new, device, name):
                let_go(device)
        if gone:
            changed |= networkd.remove(device, networkd.NETWORK)
            changed |= networkd.remove(device, NETDEV)
    if after is None:
        delete_device(name)
        changed |= networkd.remove(name, networkd.NETWORK)
        changed |= networkd.remove(name, NETDEV)
    return changed


def _is_part(device: str, switch: str, files: Files) -> bool:
    """Return whether a device is part of a switch: another one may have taken its uplink over meanwhile."""
    if device == bond_of(switch) or host_devices.master_of(device) in (switch, bond_of(switch)):
        return True
    return networkd.is_written(device, files.get((device, networkd.NETWORK), b""))


def _master_in(files: Files, device: str, switch: str) -> str:
    content = files.get((device, networkd.NETWORK), b"").decode("ascii")
    return bond_of(switch) if f"\nBond={bond_of(switch)}\n" in content else switch


def take_down_interface(name: str) -> bool:
    """Remove an interface of ours, its own file last; return whether files were among it. Raises ApplyError."""
    delete_device(name)
    changed = networkd.remove(port_of(name), networkd.NETWORK)
    changed |= networkd.remove(name, networkd.NETWORK)
    changed |= networkd.remove(name, NETDEV)
    return changed


def set_up_kernel(switch: VirtualSwitch) -> None:
    """Set what networkd settles only when it makes a device. switch: complete. Raises ApplyError."""
    name, mtu = str(switch.name), switch.mtu or DEFAULT_MTU
    if _filters(name) != (switch.vlan_aware is not False):
        value = "0" if switch.vlan_aware is False else "1"
        run_command(["ip", "link", "set", "dev", name, "type", "bridge", "vlan_filtering", value])
    # A guest learns the MTU of its NIC when it starts; what the host's end passes on is changed at once.
    for port in ports(name):
        if host_devices.is_tap(port) and host_devices.mtu_of(port) != mtu:
            run_command(["ip", "link", "set", "dev", port, "mtu", str(mtu)])
    outer = [bond_of(name)] if len(switch.uplinks or ()) > 1 else list(switch.uplinks or ())
    put_ports({port: Wanted(EVERY_VLAN) for port in outer})


def what_is_missing(switch: VirtualSwitch) -> List[str]:
    """Return, in words, what of a switch is not there yet. switch: complete."""
    name, place = str(switch.name), switch.place.text
    if not host_devices.is_linux_bridge(name) or not host_devices.is_up(name):
        return [f"{place} is not up"]
    bonded = len(switch.uplinks or ()) > 1
    masters = {uplink: bond_of(name) if bonded else name for uplink in switch.uplinks or ()}
    if bonded:
        masters[bond_of(name)] = name
    for device, master in masters.items():
        if host_devices.master_of(device) != master:
            return [f"{place}: {device} is no part of {master}"]
        if not host_devices.is_up(device):
            return [f"{place}: {device} is not up"]
    return []
