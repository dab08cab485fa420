# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Switches that are bridges of the kernel, with VLAN filtering, and the host's interfaces on them.

What keeps the host's interfaces makes them, now and at boot. The file that makes a bridge, or an interface, holds the
object as it was asked for; it is written first and removed last, so that what a killed run has left is found by the
next. An interface of the host is one end of a veth pair whose other end is a port: so it is like the internal port of
Open vSwitch, and several can be on one network.

An untagged frame is in VLAN 1 inside the bridge, since it has no VLAN 0 (bridge(8)).
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, Mapping, Optional, Set, Tuple, Type

from ...errors import ReadError, ValidateError
from ...model.network import Bond, HostInterface, KvmSwitch, VirtualNetwork, VirtualSwitch
from ...model.schema import shown_as
from . import host_devices, renderer_of_host
from .bridge_ports import (
    DEFAULT_MTU,
    EVERY_VLAN,
    LAST_VLAN,
    MODES,
    PortVlans,
    Wanted,
    bond_of,
    is_linux,
    port_of,
    spans,
    vlans_of,
)
from .guest_ports_hook import UNTAGGED
from .host_files import read_file
from .libvirt_networks import LibvirtNetwork
from .network_renderer import Files
from .systemd import run_command

__all__ = ["EVERY_VLAN", "Files", "PortVlans", "Wanted", "bond_of", "is_linux", "port_of", "vlans_of"]

_WORDS = {mode: word for word, mode in MODES.items()}


# -- VLANs of ports ----------------------------------------------------------------------------------------------------


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
    lines += [f"vlan del dev {port} vid {span}" for span in spans(going)]
    if wanted.native is not None and (present.native != wanted.native or wanted.native in going):
        lines.append(f"vlan add dev {port} vid {wanted.native} pvid untagged")
    coming = set(wanted.tagged) - (set(present.tagged) - going)
    lines += [f"vlan add dev {port} vid {span}" for span in spans(coming)]
    if is_isolated(port) != isolated:
        lines.append(f"link set dev {port} isolated {'on' if isolated else 'off'}")
    return lines


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


def switch_files(switch: VirtualSwitch) -> Files:
    """Return the files of a switch, those of its uplinks among them, the one that makes it first. switch: complete."""
    return renderer_of_host.renderer().linux_switch_files(switch)


def interface_files(interface: HostInterface, network: VirtualNetwork, mac: str) -> Files:
    """Return the files of an interface of the host, the one that makes it first.

    interface, network: complete. mac: its address.
    """
    return renderer_of_host.renderer().linux_interface_files(interface, network, mac)


def are_written(files: Files) -> bool:
    """Return whether files are there as they should be."""
    return renderer_of_host.renderer().are_written(files)


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
    for kind, document in renderer_of_host.renderer().records():
        found = _asked(kind, document)
        if isinstance(found, VirtualSwitch):
            switches[str(found.name)] = found
        elif isinstance(found, HostInterface):
            interfaces[str(found.name)] = found
    return Bridges(switches, interfaces, read_vlans() if switches or interfaces else {})


_KINDS: Dict[str, Type[Any]] = {"virtual_switch": VirtualSwitch, "host_interface": HostInterface}


def _asked(kind: str, document: Any) -> Any:
    try:
        return _KINDS[kind].parse(document)
    except (KeyError, AttributeError, ValidateError):
        # Somebody has edited it: then it is none of ours any more.
        return None


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
    reason = f"since a Linux bridge keeps untagged frames in VLAN {UNTAGGED}; allowed are 0 and 2 to {LAST_VLAN}"
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
        renderer_of_host.renderer().release(name)
    if host_devices.exists(name):
        run_command(["ip", "link", "delete", name])


def let_go(device: str) -> None:
    """Take a port away from its bridge or bond, where it has one. Raises ApplyError."""
    if host_devices.master_of(device):
        renderer_of_host.renderer().let_go(device)
    if host_devices.master_of(device):
        run_command(["ip", "link", "set", "dev", device, "nomaster"])


def take_down_switch(before: VirtualSwitch, after: Optional[VirtualSwitch]) -> bool:
    """Remove what a switch has and shall not have, its own file last; return whether files were among it.

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
            if gone or _bond_mode(before) != _bond_mode(after):
                delete_device(device)
        elif gone or _master_in(before, device) != _master_in(after, device):
            let_go(device)
        if gone:
            changed |= _remove_files(device)
    if after is None:
        delete_device(name)
        changed |= _remove_files(name)
    return changed


def _remove_files(device: str) -> bool:
    renderer = renderer_of_host.renderer()
    return renderer.remove_files(device, renderer.SUFFIXES)


def _is_part(device: str, switch: str, files: Files) -> bool:
    """Return whether a device is part of a switch: another one may have taken its uplink over meanwhile."""
    if device == bond_of(switch) or host_devices.master_of(device) in (switch, bond_of(switch)):
        return True
    mine = {place: content for place, content in files.items() if place[0] == device}
    return bool(mine) and are_written(mine)


def _bond_mode(switch: Optional[VirtualSwitch]) -> Optional[str]:
    return switch.bond.mode if switch is not None and switch.bond is not None and _is_bonded(switch) else None


def _is_bonded(switch: VirtualSwitch) -> bool:
    return len(switch.uplinks or ()) > 1 and switch.bond is not None


def _master_in(switch: Optional[VirtualSwitch], device: str) -> Optional[str]:
    if switch is None:
        return None
    name = str(switch.name)
    return bond_of(name) if _is_bonded(switch) and device in (switch.uplinks or ()) else name


def take_down_interface(name: str) -> bool:
    """Remove an interface of ours, its own file last; return whether files were among it. Raises ApplyError."""
    renderer = renderer_of_host.renderer()
    delete_device(name)
    changed = renderer.remove_files(port_of(name), renderer.CONFIGURING)
    changed |= _remove_files(name)
    return changed


def set_up_kernel(switch: VirtualSwitch) -> None:
    """Set what is settled only when a device is made. switch: complete. Raises ApplyError."""
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
