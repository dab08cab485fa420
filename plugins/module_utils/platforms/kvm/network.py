# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Virtual switches, virtual networks and the host's own interfaces on a KVM host.

A switch is a bridge of Open vSwitch; the libvirt network of the same name stands for it, and a virtual network is a
port group of that. The order of the steps makes every broken-off change visible: what is new is made in Open vSwitch's
database first and what goes is removed from there last, so that an object to which something is missing is still there
to be found by the next run.
"""

from __future__ import annotations

import glob
import re
from typing import Any, Collection, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Set, Tuple

from ...engine.change import Change
from ...engine.platform import Context, Interface
from ...errors import ApplyError, Problem
from ...model.document import State
from ...model.network import HostInterface, VirtualNetwork, VirtualSwitch
from ...model.schema import ModelObject
from . import host_devices, host_interface, libvirt_networks, networkd, virtual_network, virtual_switch
from .host_devices import HostAddresses, read_addresses
from .host_files import read_file
from .libvirt_networks import LibvirtNetwork
from .management_path import ManagementPath, find_management_path
from .open_vswitch import BridgeRow, Edit, Switches, edit, read_switches

_KEEPS = "it carries the path that the host is managed through"


class HostNetwork:
    """What the host has, read once; addresses and the management path only when they are asked for."""

    def __init__(self) -> None:
        self.switches: Switches = read_switches()
        self.libvirt: Dict[str, LibvirtNetwork] = libvirt_networks.read_networks(set(self.switches.bridges))
        self.networks: Dict[str, VirtualNetwork] = {}
        for name, network in sorted(self.libvirt.items()):
            lasting = network.lasting if network.lasting is not None else network.live
            if lasting is not None and network.leads_to(name):
                for found in virtual_network.describe(name, network.live, lasting):
                    # Two switches of somebody else may have port groups of one name; the model's names are unique.
                    self.networks.setdefault(str(found.name), found)
        self._addresses: Optional[HostAddresses] = None
        self._path: Optional[ManagementPath] = None
        self._guest_ports: Optional[List[libvirt_networks.GuestPort]] = None

    def addresses(self) -> HostAddresses:
        """Return the addresses and routes of all devices."""
        if self._addresses is None:
            self._addresses = read_addresses()
        return self._addresses

    def guests_on(self, switch: Optional[str], network: Optional[str]) -> Set[str]:
        """Return the names of the VMs, running or not, that have a NIC on a network."""
        if self._guest_ports is None:
            self._guest_ports = libvirt_networks.guest_ports(running_only=False)
        return {port.vm for port in self._guest_ports if (port.switch, port.network) == (switch, network)}

    def management(self) -> ManagementPath:
        """Return what carries the management path."""
        if self._path is None:
            self._path = find_management_path(self.addresses())
        return self._path

    def managing_bridges(self) -> Set[str]:
        """Return the names of the bridges that the management path leads through."""
        found = [self.switches.find(device) for device in self.management().devices]
        return {entry[0].name for entry in found if entry is not None}

    def managing_networks(self) -> Set[str]:
        """Return the names of the virtual networks that interfaces of the management path are on."""
        devices = self.management().devices
        return {
            str(asked.network)
            for _bridge, port, _row, asked in host_interface.interfaces_in(self.switches)
            if port.name in devices
        }


class KvmNetwork(Interface):
    """Reads and changes switches, networks and the host's interfaces on them."""

    KINDS = ("virtual_switch", "virtual_network", "host_interface")
    CAPABILITIES = frozenset(
        {
            "virtual_switch",
            "virtual_switch.type.bridged",
            "virtual_switch.type.internal",
            "virtual_switch.type.private",
            "virtual_switch.bond.active_backup",
            "virtual_switch.bond.balance_slb",
            "virtual_switch.bond.balance_tcp",
            "virtual_switch.bond.lacp",
            "virtual_switch.mtu",
            "virtual_switch.kvm.openvswitch",
            "virtual_network",
            "virtual_network.vlan",
            "virtual_network.trunk",
            "host_interface",
            "host_interface.dhcp",
            "host_interface.routes",
            "host_interface.mtu",
            "host_interface.mac",
            "host_interface.role.management",
            "host_interface.role.storage",
            "host_interface.role.migration",
        }
    )

    def __init__(self, platform: Any) -> None:
        self.platform = platform
        self._host: Optional[HostNetwork] = None

    # -- Reading ---------------------------------------------------------------------------------------------------

    def read(self, kinds: Collection[str], names: Mapping[str, Collection[str]]) -> State:
        host = self._host = HostNetwork()
        state: State = {kind: {} for kind in kinds}
        if "virtual_switch" in state:
            for bridge in host.switches.bridges.values():
                switch = virtual_switch.describe(bridge, host.libvirt.get(bridge.name))
                if switch is not None:
                    state["virtual_switch"][switch.key] = switch
        if "virtual_network" in state:
            state["virtual_network"] = {network.key: network for network in host.networks.values()}
        if "host_interface" in state:
            for bridge, port, _row, asked in host_interface.interfaces_in(host.switches):
                network = host.networks.get(str(asked.network))
                shown = host_interface.describe(bridge, port, asked, network, host.addresses())
                state["host_interface"][shown.key] = shown
        return state

    def _seen(self) -> HostNetwork:
        if self._host is None:
            self._host = HostNetwork()
        return self._host

    # -- Before a change -------------------------------------------------------------------------------------------

    def validate(self, change: Change, context: Context) -> Iterable[Problem]:
        item = change.item
        place = item.place
        check: Any = {
            VirtualSwitch: self._check_switch,
            VirtualNetwork: self._check_network,
            HostInterface: self._check_interface,
        }[type(item)]
        for field, message in check(change, context):
            yield Problem(place.inner(field).text, message)

    def _check_switch(self, change: Change, context: Context) -> Iterator[Tuple[str, str]]:
        host = self._seen()
        name = change.item.label
        bridge = host.switches.bridges.get(name)
        if not isinstance(change.after, VirtualSwitch):
            if bridge is not None:
                yield from self._check_removal(bridge, context)
            return
        switch = change.after
        problem = host_devices.name_problem(name)
        if problem:
            yield "name", problem
            return
        if change.before is None:
            yield from self._check_new_switch(name, bridge, host)
        network = host.libvirt.get(name) or libvirt_networks.read_networks({name}).get(name)
        ours = bridge is not None and virtual_switch.asked_of(bridge) is not None
        if network is not None and not network.leads_to(name) and not ours:
            yield "name", f"{name!r} is the name of a libvirt network that leads elsewhere; remove or rename that one"
        for number, uplink in enumerate(switch.uplinks or ()):
            for message in self._uplink_problems(uplink, name, context):
                yield f"uplinks[{number}]", message
        for interface in self._interfaces_on(name, context):
            if (interface.mtu or 0) > (switch.mtu or virtual_switch.DEFAULT_MTU):
                yield "mtu", f"{switch.mtu} is less than the {interface.mtu} of host interface {interface.name!r} on it"

    @staticmethod
    def _check_new_switch(name: str, bridge: Optional[BridgeRow], host: HostNetwork) -> Iterator[Tuple[str, str]]:
        if bridge is not None:
            names = ", ".join(row.name for port in virtual_switch.uplink_ports(bridge) for row in port.interfaces)
            yield "name", f"there is a bridge {name!r} with the uplinks {names}, which are no bond; bond or remove them"
        elif host_devices.exists(name) or host.switches.find(name) is not None:
            yield "name", f"{name!r} is the name of another network device of the host already"

    @staticmethod
    def _check_removal(bridge: BridgeRow, context: Context) -> Iterator[Tuple[str, str]]:
        # Whether VMs and interfaces that the model knows are still on it has been asked by reference already.
        strangers = [
            port.name
            for port in virtual_switch.other_ports(bridge)
            if not host_interface.is_ours(port)
            and not ("vm" in context.wanted and all(row.is_guest for row in port.interfaces))
        ]
        if strangers:
            yield "", f"cannot go, since it has ports that are not ours: {', '.join(strangers)}"

    def _uplink_problems(self, uplink: str, switch: str, context: Context) -> Iterator[str]:
        host = self._seen()
        names = host_devices.device_names()
        if uplink not in names:
            free = [name for name in names if self._unfit(name) is None]
            yield f"there is no network interface {uplink!r}; there are: {', '.join(free) or 'none'}"
            return
        reason = self._unfit(uplink)
        if reason:
            yield f"{uplink!r} cannot be an uplink, since it is {reason}"
            return
        holder = host.switches.find(uplink)
        if holder is not None and holder[0].name != switch:
            described = context.before.get("virtual_switch", {}).get((holder[0].name,))
            if described is None or uplink not in (getattr(described, "uplinks", None) or ()):
                yield f"{uplink!r} is a port of bridge {holder[0].name!r} already"
        file = configured_by_ifupdown(uplink)
        if file:
            yield f"{uplink!r} is configured by {file} (ifupdown); take it out of there"

    def _unfit(self, device: str) -> Optional[str]:
        if host_devices.is_linux_bridge(device):
            return "a bridge"
        if host_devices.is_tap(device):
            return "a VM's or a program's end"
        found = self._seen().switches.find(device)
        if device == "ovs-system" or (found is not None and found[2].type == "internal"):
            return "made by Open vSwitch"
        master = host_devices.master_of(device)
        if master and master != "ovs-system":
            return f"part of {master}"
        return None

    @staticmethod
    def _interfaces_on(switch: str, context: Context) -> List[HostInterface]:
        networks = {
            network.label
            for network in context.wanted.get("virtual_network", {}).values()
            if getattr(network, "switch", None) == switch
        }
        return [
            item
            for item in context.wanted.get("host_interface", {}).values()
            if isinstance(item, HostInterface) and item.network in networks
        ]

    def _check_network(self, change: Change, context: Context) -> Iterator[Tuple[str, str]]:
        before, after = change.before, change.after
        if isinstance(after, VirtualNetwork):
            yield from virtual_network.problems(after)
        both = isinstance(before, VirtualNetwork) and isinstance(after, VirtualNetwork)
        moved = both and getattr(before, "switch", None) != getattr(after, "switch", None)
        if moved:
            users = self._seen().guests_on(getattr(before, "switch", None), change.item.label)
            if users:
                yield "switch", f"cannot change, since VMs are on the network: {', '.join(sorted(users))}"
        elif isinstance(before, VirtualNetwork) and after is None:
            # Of VMs of ours the document says whether they stay on it.
            strangers = self._strangers_on(before, context.before, context.wanted)
            if strangers:
                yield "", f"cannot go, since VMs are on it: {', '.join(strangers)}"

    def _strangers_on(self, network: VirtualNetwork, *states: State) -> List[str]:
        """Return the names of the VMs on a network that none of the states has."""
        known = {vm.label for state in states for vm in state.get("vm", {}).values()}
        return sorted(self._seen().guests_on(network.switch, network.name) - known)

    def _check_interface(self, change: Change, context: Context) -> Iterator[Tuple[str, str]]:
        interface = change.after
        if not isinstance(interface, HostInterface):
            return
        name = str(interface.name)
        problem = host_devices.name_problem(name)
        if problem:
            yield "name", problem
            return
        host = self._seen()
        found = host.switches.find(name)
        ours = found is not None and host_interface.is_ours(found[1])
        if (not ours and (found is not None or host_devices.exists(name))) or (name,) in context.wanted.get(
            "virtual_switch", {}
        ):
            yield "name", f"{name!r} is the name of another network device of the host already"
        network = context.find("virtual_network", interface.network)
        switch = context.find("virtual_switch", network.switch) if network is not None else None
        limit = (switch.mtu if switch is not None else None) or 0
        if limit and (interface.mtu or 0) > limit:
            yield "mtu", f"{interface.mtu} is more than {limit}, the MTU of switch {network.switch!r}"
        yield from self._check_holders(interface, context)

    def _check_holders(self, interface: HostInterface, context: Context) -> Iterator[Tuple[str, str]]:
        wanted = context.wanted.get("virtual_switch", {}).values()
        uplinks = {uplink for switch in wanted for uplink in getattr(switch, "uplinks", None) or ()}
        states = (context.before, context.wanted)
        known = {item.label for state in states for item in state.get("host_interface", {}).values()}
        for address in interface.addresses or ():
            # An uplink loses its addresses; those of other interfaces of ours were compared by the model already.
            plain = address.partition("/")[0]
            others = set(self._seen().addresses().holders(plain)) - uplinks - known
            if others:
                yield "addresses", f"{plain} is held by {', '.join(sorted(others))}, which is not ours"

    # -- The management path ---------------------------------------------------------------------------------------

    def touches_management(self, change: Change, context: Context) -> bool:
        host = self._seen()
        devices = host.management().devices
        if change.kind == "virtual_switch":
            sides = [side for side in (change.before, change.after) if isinstance(side, VirtualSwitch)]
            uplinks = {uplink for side in sides for uplink in side.uplinks or ()}
            return bool(uplinks & devices) or change.item.label in host.managing_bridges()
        if change.kind == "virtual_network":
            # What ports are told apart by; limits and subnets move no port of the host.
            moving = change.after is None or any(field in ("vlan", "trunk", "switch") for field in change.fields)
            return moving and change.item.label in host.managing_networks()
        sides_of_interface = [side for side in (change.before, change.after) if isinstance(side, HostInterface)]
        return any(host.management().is_led_by(side) for side in sides_of_interface)

    def keeps(self, item: ModelObject, state: State) -> Optional[str]:
        host = self._seen()
        if isinstance(item, HostInterface):
            return _KEEPS if item.name in host.management().devices else None
        if isinstance(item, VirtualNetwork):
            if item.name in host.managing_networks():
                return _KEEPS
            strangers = self._strangers_on(item, state)
            return f"VMs are on it: {', '.join(strangers)}" if strangers else None
        if item.label in host.managing_bridges():
            return _KEEPS
        bridge = host.switches.bridges.get(item.label)
        ports = [
            port.name
            for port in (virtual_switch.other_ports(bridge) if bridge is not None else ())
            if not host_interface.is_ours(port) and not all(row.is_guest for row in port.interfaces)
        ]
        return f"it has ports that are not ours: {', '.join(ports)}" if ports else None

    # -- Changing --------------------------------------------------------------------------------------------------

    def apply(self, changes: Sequence[Change], context: Context) -> None:
        for change in changes:
            context.begin(change)
        what = ", ".join(str(change) for change in changes)
        files_changed = self._take_down(changes)
        edit(lambda transaction: self._build(transaction, changes, context), what)
        self._set_up(changes, files_changed)
        for change in changes:
            context.done(change)

    @staticmethod
    def _take_down(changes: Sequence[Change]) -> bool:
        """Remove what lies outside Open vSwitch's database; return whether files of networkd were among it."""
        files_changed = False
        groups: Dict[str, Dict[str, Optional[VirtualNetwork]]] = {}
        for change in changes:
            before, after = change.before, change.after
            if isinstance(before, VirtualNetwork):
                moved = isinstance(after, VirtualNetwork) and after.switch != before.switch
                if moved or after is None:
                    groups.setdefault(str(before.switch), {})[str(before.name)] = None
            elif isinstance(before, VirtualSwitch):
                staying = after.uplinks if isinstance(after, VirtualSwitch) else ()
                for uplink in before.uplinks or ():
                    if uplink not in (staying or ()):
                        files_changed |= networkd.remove(uplink)
                if after is None:
                    libvirt_networks.remove(str(before.name))
            elif isinstance(before, HostInterface) and after is None:
                files_changed |= networkd.remove(str(before.name))
        for switch, networks in groups.items():
            libvirt_networks.put(switch, networks)
        return files_changed

    @staticmethod
    def _build(transaction: Edit, changes: Sequence[Change], context: Context) -> None:
        switches = transaction.switches
        moving: Dict[Tuple[str, str], VirtualNetwork] = {}
        for change in changes:
            after = change.after
            if isinstance(after, VirtualSwitch):
                virtual_switch.put(transaction, after)
            elif isinstance(after, VirtualNetwork):
                if isinstance(change.before, VirtualNetwork):
                    moving[str(change.before.switch), str(after.name)] = after
            elif isinstance(after, HostInterface):
                host_interface.put(transaction, after, context.find("virtual_network", after.network))
            elif change.kind == "virtual_switch" and change.item.label in switches.bridges:
                bridge = switches.bridges[change.item.label]
                left = [port.name for port in virtual_switch.other_ports(bridge)]
                if left:
                    raise ApplyError(f"{change.item.place.text} still has the ports {', '.join(left)}")
                transaction.remove_bridge(bridge)
            elif change.kind == "host_interface":
                found = switches.find(change.item.label)
                if found is not None:
                    transaction.remove_ports(found[0], found[1])
        if not moving:
            return
        named = {network.name: network for network in moving.values()}
        busy = {change.item.label for change in changes if change.kind == "host_interface"}
        for _bridge, port, _row, asked in host_interface.interfaces_in(switches):
            if asked.network in named and port.name not in busy:
                host_interface.place(transaction, port.name, named[asked.network])
        for guest in libvirt_networks.guest_ports(running_only=True):
            wanted = moving.get((guest.switch, guest.network))
            if wanted is not None and guest.device and wanted.switch == guest.switch:
                host_interface.place(transaction, guest.device, wanted)

    @staticmethod
    def _set_up(changes: Sequence[Change], files_changed: bool) -> None:
        """Make what lies outside Open vSwitch's database, and wait until it is in force."""
        groups: Dict[str, Dict[str, Optional[VirtualNetwork]]] = {}
        limited: List[Tuple[str, VirtualNetwork]] = []
        files: Dict[str, bytes] = {}
        interfaces: List[HostInterface] = []
        uplinks: List[str] = []
        for change in changes:
            after = change.after
            if isinstance(after, VirtualSwitch):
                libvirt_networks.ensure(str(after.name))
                uplinks += after.uplinks or ()
                files.update({uplink: networkd.uplink_file(uplink) for uplink in after.uplinks or ()})
            elif isinstance(after, VirtualNetwork):
                groups.setdefault(str(after.switch), {})[str(after.name)] = after
                if any(field.startswith("bandwidth") for field in change.fields) and change.before is not None:
                    limited.append((str(after.switch), after))
            elif isinstance(after, HostInterface):
                interfaces.append(after)
                files[str(after.name)] = networkd.interface_file(after)
        for switch, networks in groups.items():
            libvirt_networks.put(switch, networks)
        if limited:
            libvirt_networks.limit_guests(limited)
        written = {device for device, content in files.items() if networkd.write(device, content)}
        unsettled = _unsettled(interfaces, uplinks)
        networkd.apply(files_changed or bool(written), unsettled - written)
        if interfaces or uplinks:
            networkd.wait_until(lambda: _missing(interfaces, uplinks))


def _unsettled(interfaces: Sequence[HostInterface], uplinks: Sequence[str]) -> Set[str]:
    host = read_addresses() if interfaces else None
    devices = {uplink for uplink in uplinks if not host_devices.is_up(uplink)}
    if host is not None:
        devices |= {str(item.name) for item in interfaces if host_interface.what_is_missing(item, host)}
    return devices


def _missing(interfaces: Sequence[HostInterface], uplinks: Sequence[str]) -> List[str]:
    missing = [f"uplink {uplink!r} is not up" for uplink in uplinks if not host_devices.is_up(uplink)]
    if interfaces and not missing:
        host = read_addresses()
        for item in interfaces:
            missing += host_interface.what_is_missing(item, host)
    return missing


_IFACE = re.compile(r"^\s*iface\s+(\S+)", re.MULTILINE)


def configured_by_ifupdown(device: str, folder: str = "/etc/network") -> Optional[str]:
    """Return the file in which ifupdown is told to configure a device, or None (interfaces(5))."""
    for path in (f"{folder}/interfaces", *sorted(glob.glob(f"{folder}/interfaces.d/*"))):
        content = read_file(path)
        if content is not None and device in _IFACE.findall(content.decode("utf-8", "replace")):
            return path
    return None
