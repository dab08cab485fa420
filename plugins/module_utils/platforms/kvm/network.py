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

import dataclasses
import glob
import re
from typing import Any, Collection, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Set, Tuple

from ...engine.change import Change, plain
from ...engine.platform import Context, Interface
from ...errors import ApplyError, Problem
from ...model.document import State
from ...model.network import HostInterface, VirtualNetwork, VirtualSwitch
from ...model.schema import ModelObject, shown_as
from ...model.types import show
from . import (
    guest_ports,
    host_devices,
    host_interface,
    libvirt_networks,
    linux_bridge,
    nat,
    renderer_of_host,
    routing,
    virtual_network,
    virtual_switch,
)
from .controller import controller_connection
from .firewall import load_asked
from .host_devices import HostAddresses, read_addresses
from .host_files import read_file
from .libvirt_networks import LibvirtNetwork
from .linux_bridge import Bridges
from .management_path import ManagementPath, find_management_path
from .nftables_rules import MANAGEMENT_PORTS, Routing
from .open_vswitch import BridgeRow, Edit, Switches, edit, read_switches

_KEEPS = "it carries the path that the host is managed through"


class HostNetwork:
    """What the host has, read once; addresses and the management path only when they are asked for."""

    def __init__(self) -> None:
        self.switches: Switches = read_switches()
        self.linux: Bridges = linux_bridge.read_bridges()
        names = {*self.switches.bridges, *self.linux.switches}
        self.libvirt: Dict[str, LibvirtNetwork] = libvirt_networks.read_networks(names)
        self.networks: Dict[str, VirtualNetwork] = {}
        for name, network in sorted(self.libvirt.items()):
            lasting = network.lasting if network.lasting is not None else network.live
            if lasting is not None and network.leads_to(name, name in self.linux.switches):
                for found in virtual_network.describe(name, network.live, lasting):
                    # Two switches of somebody else may have port groups of one name; the model's names are unique.
                    self.networks.setdefault(str(found.name), found)
        self._addresses: Optional[HostAddresses] = None
        self._path: Optional[ManagementPath] = None
        self._guest_ports: Optional[List[libvirt_networks.GuestPort]] = None
        self._routes: Optional[bool] = None

    def asked(self) -> Dict[str, VirtualSwitch]:
        """Return the switches of ours as they were last asked for, by name."""
        return {**asked_switches(self.switches), **self.linux.switches}

    def shown_networks(self) -> Iterator[VirtualNetwork]:
        """Yield the networks; those whose ports are not as they should be do not tell their VLAN."""
        policies = guest_ports.policies_of(
            map(virtual_network.without_open_fields, self.networks.values()), self.asked()
        )
        stored = guest_ports.are_stored(policies)
        untold = set()
        if policies:
            ports = libvirt_networks.guest_ports(running_only=True)
            untold = guest_ports.untold(ports, policies, self.linux.vlans)
            untold |= {(port.switch, port.network) for port in ports if self._is_unprotected(port, policies)}
        for network in self.networks.values():
            place = (str(network.switch), str(network.name))
            mine = policies.get(place[0], {}).get(place[1])
            whole = place not in untold and (stored or mine is None)
            yield network if whole else shown_as(network, vlan=None)

    def _is_unprotected(self, port: libvirt_networks.GuestPort, policies: guest_ports.Policies) -> bool:
        policy = policies.get(port.switch, {}).get(port.network, {})
        found = self.switches.find(port.device) if port.device else None
        if found is None or policy.get("kind") != "openvswitch":
            return False
        tunnel = found[1].vlans.mode == "dot1q-tunnel"
        return found[1].protected != bool(policy.get("isolated")) or tunnel != bool(policy.get("tunnel"))

    def addresses(self) -> HostAddresses:
        """Return the addresses and routes of all devices."""
        if self._addresses is None:
            self._addresses = read_addresses()
        return self._addresses

    def routes(self) -> bool:
        """Return whether the host routes as its switches and interfaces were asked to be."""
        if self._routes is None:
            self._routes = routing.is_in_force(wanted_routing(self.switches, self.linux))
        return self._routes

    def is_gateway(self, switch: VirtualSwitch) -> bool:
        """Return whether the host is the gateway of a switch of type nat as it was asked to be."""
        return self.routes() and nat.is_whole(switch, self.addresses())

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
        devices = self.management().devices
        found = [self.switches.find(device) for device in devices]
        names = {entry[0].name for entry in found if entry is not None}
        return names | {name for name in map(self.linux.switch_of, devices) if name}

    def managing_networks(self) -> Set[str]:
        """Return the names of the virtual networks that interfaces of the management path are on."""
        devices = self.management().devices
        interfaces = [entry[3] for entry in host_interface.interfaces_in(self.switches)]
        interfaces += self.linux.interfaces.values()
        return {str(asked.network) for asked in interfaces if asked.name in devices}


def asked_switches(switches: Switches) -> Dict[str, VirtualSwitch]:
    """Return the switches of Open vSwitch that are ours, as they were last asked for, by name."""
    asked = {name: virtual_switch.asked_of(bridge) for name, bridge in switches.bridges.items()}
    return {name: switch for name, switch in asked.items() if switch is not None}


def wanted_routing(switches: Switches, linux: Bridges, without: Collection[str] = ()) -> Routing:
    """Return what the host has to route for all switches and interfaces of ours.

    without: the names of switches and interfaces that are about to go.
    """
    interfaces = [entry[3] for entry in host_interface.interfaces_in(switches)]
    interfaces += linux.interfaces.values()
    return routing.routing_of(
        [switch for name, switch in asked_switches(switches).items() if name not in without],
        [interface for interface in interfaces if interface.name not in without],
    )


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
                switch = virtual_switch.describe(bridge, host.libvirt.get(bridge.name), host.is_gateway)
                if switch is not None:
                    state["virtual_switch"][switch.key] = switch
            for name, asked_switch in host.linux.switches.items():
                shown_switch = linux_bridge.describe(asked_switch, host.libvirt.get(name), host.linux)
                state["virtual_switch"][shown_switch.key] = shown_switch
        if "virtual_network" in state:
            state["virtual_network"] = {found.key: found for found in host.shown_networks()}
        if "host_interface" in state:
            for bridge, port, _row, asked in host_interface.interfaces_in(host.switches):
                network = host.networks.get(str(asked.network))
                shown = host_interface.describe(bridge, port, asked, network, host.addresses(), host.routes)
                state["host_interface"][shown.key] = shown
            for asked in host.linux.interfaces.values():
                shown = self._linux_interface(host, asked)
                state["host_interface"][shown.key] = shown
        return state

    @staticmethod
    def _linux_interface(host: HostNetwork, asked: HostInterface) -> HostInterface:
        network = host.networks.get(str(asked.network))
        placed = linux_bridge.is_placed(str(asked.name), network, host.linux)
        whole = None if network is None else virtual_network.without_open_fields(network)
        mac = _mac_of(asked, host.switches)
        written = whole is not None and linux_bridge.are_written(linux_bridge.interface_files(asked, whole, mac))
        known = dataclasses.replace(asked, mac=mac)
        return host_interface.shown(known, host.addresses(), host.routes, placed, written)

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
            yield from self._check_removal(name, context)
            return
        switch = change.after
        linux = linux_bridge.is_linux(switch)
        problem = host_devices.name_problem(name)
        if problem:
            yield "name", problem
            return
        if change.before is None:
            yield from self._check_new_switch(name, bridge, host)
        network = host.libvirt.get(name) or libvirt_networks.read_networks({name}).get(name)
        ours = name in host.asked()
        if network is not None and not network.leads_to(name, linux) and not ours:
            yield "name", f"{name!r} is the name of a libvirt network that leads elsewhere; remove or rename that one"
        for number, uplink in enumerate(switch.uplinks or ()):
            for message in self._uplink_problems(uplink, name, context):
                yield f"uplinks[{number}]", message
        if switch.type == "nat":
            yield from self._check_nat(switch, context)
        yield from linux_bridge.problems(switch) if linux else virtual_switch.problems(switch)
        yield from renderer_of_host.renderer().switch_problems(switch, linux)
        for interface in self._interfaces_on(name, context):
            if (interface.mtu or 0) > (switch.mtu or virtual_switch.DEFAULT_MTU):
                yield "mtu", f"{switch.mtu} is less than the {interface.mtu} of host interface {interface.name!r} on it"

    def _check_nat(self, switch: VirtualSwitch, context: Context) -> Iterator[Tuple[str, str]]:
        host = self._seen()
        wanted = [item for item in context.wanted.get("virtual_switch", {}).values() if isinstance(item, VirtualSwitch)]
        others = [item for item in wanted if item.type == "nat" and item.name != switch.name]
        states = (context.before, context.wanted)
        known = {item.label for state in states for item in state.get("host_interface", {}).values()}
        known |= {item.label for item in context.before.get("virtual_switch", {}).values()}
        known |= {uplink for item in wanted for uplink in item.uplinks or ()}
        taken = [
            (entry.address, device)
            for device, entries in host.addresses().addresses.items()
            if device not in known | {switch.name}
            for entry in entries
        ]
        taken += [
            (address, item.label)
            for item in context.wanted.get("host_interface", {}).values()
            for address in getattr(item, "addresses", None) or ()
        ]
        yield from nat.problems(switch, others, taken, management_ports())
        held = routing.held_back_by_forwarding(Routing(nats=(switch,)))
        if held:
            yield "nat.gateway6", _held_back(held)

    @staticmethod
    def _check_new_switch(name: str, bridge: Optional[BridgeRow], host: HostNetwork) -> Iterator[Tuple[str, str]]:
        if bridge is not None:
            names = ", ".join(row.name for port in virtual_switch.uplink_ports(bridge) for row in port.interfaces)
            yield "name", f"there is a bridge {name!r} with the uplinks {names}, which are no bond; bond or remove them"
        elif host_devices.exists(name) or host.switches.find(name) is not None:
            yield "name", f"{name!r} is the name of another network device of the host already"

    def _check_removal(self, name: str, context: Context) -> Iterator[Tuple[str, str]]:
        # Whether VMs and interfaces that the model knows are still on it has been asked by reference already.
        strangers = self._strange_ports(name, guests="vm" not in context.wanted)
        if strangers:
            yield "", f"cannot go, since it has ports that are not ours: {', '.join(strangers)}"

    def _strange_ports(self, switch: str, guests: bool) -> List[str]:
        """Return the ports of a switch that are neither uplinks nor interfaces of ours. guests: whether VMs' count."""
        host = self._seen()
        bridge = host.switches.bridges.get(switch)
        if bridge is not None:
            return [
                port.name
                for port in virtual_switch.other_ports(bridge)
                if not host_interface.is_ours(port) and (guests or not all(row.is_guest for row in port.interfaces))
            ]
        asked = host.linux.switches.get(switch)
        if asked is None:
            return []
        taps = [port for port in linux_bridge.ports(switch) if host_devices.is_tap(port)]
        return [*linux_bridge.other_ports(asked, host.linux), *(taps if guests else ())]

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
        # An uplink of another Linux bridge of ours is a claim, which the model has compared.
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
        linux = self._seen().linux
        if device in linux.interfaces or device in map(linux_bridge.port_of, linux.interfaces):
            return "an interface of the host"
        if device in map(linux_bridge.bond_of, linux.switches):
            return "made for a switch"
        master = host_devices.master_of(device)
        ours = any(device in linux_bridge.uplinks_of(switch) for switch in linux.switches.values())
        if master and master != "ovs-system" and not ours:
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
            switch = context.find("virtual_switch", after.switch) or self._seen().asked().get(str(after.switch))
            for field in ("vlan", "trunk"):
                if getattr(switch, "type", None) == "nat" and getattr(after, field):
                    value = show(plain(getattr(after, field)))
                    yield (
                        field,
                        f"{value} is not allowed on switch {after.switch!r} of type nat, whose gateway has no VLAN",
                    )
            if isinstance(switch, VirtualSwitch) and linux_bridge.is_linux(switch):
                yield from linux_bridge.network_problems(after, switch)
                if virtual_network.is_tunnel(after):
                    yield "kvm.dot1q_tunnel", f"does not go with switch {after.switch!r}, which is a Linux bridge"
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
        ours = name in host.linux.interfaces or (found is not None and host_interface.is_ours(found[1]))
        if (not ours and (found is not None or host_devices.exists(name))) or (name,) in context.wanted.get(
            "virtual_switch", {}
        ):
            yield "name", f"{name!r} is the name of another network device of the host already"
        if interface.forwarding:
            held = routing.held_back_by_forwarding(Routing(routers=(name,)))
            if held:
                yield "forwarding", _held_back(held)
        network = context.find("virtual_network", interface.network)
        switch = context.find("virtual_switch", network.switch) if network is not None else None
        if isinstance(network, VirtualNetwork):
            linux = linux_bridge.is_linux(switch or host.asked().get(str(network.switch)))
            yield from renderer_of_host.renderer().interface_problems(interface, network, linux)
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
            told = ("vlan", "trunk", "switch", "isolated", "kvm")
            moving = change.after is None or any(field.partition(".")[0] in told for field in change.fields)
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
        ports = self._strange_ports(item.label, guests=False)
        return f"it has ports that are not ours: {', '.join(ports)}" if ports else None

    # -- Changing --------------------------------------------------------------------------------------------------

    def apply(self, changes: Sequence[Change], context: Context) -> None:
        for change in changes:
            context.begin(change)
        work = Work(changes, context)
        work.take_down()
        edit(work.build, ", ".join(str(change) for change in changes))
        work.set_up()
        for change in changes:
            context.done(change)


class Work:
    """The steps of a batch of changes.

    linux: the bridges of the kernel as they were before. linux_names: the names of those that are or shall be.
    """

    def __init__(self, changes: Sequence[Change], context: Context) -> None:
        self.changes = changes
        self.context = context
        self.linux = linux_bridge.read_bridges()
        wanted = context.wanted.get("virtual_switch", {}).values()
        self.linux_names = {*self.linux.switches, *(item.label for item in wanted if linux_bridge.is_linux(item))}
        self.renderer = renderer_of_host.renderer()
        self.files_changed = False
        # Interfaces on networks that change are changed along, though nothing is said of them. A network that is made
        # may have been there before: a run that was killed has taken it away from one switch and not yet made it on another.
        self.moving: Dict[str, VirtualNetwork] = {
            change.item.label: change.after for change in changes if isinstance(change.after, VirtualNetwork)
        }
        self.busy = {change.item.label for change in changes if change.kind == "host_interface"}
        self.following: List[HostInterface] = []
        self.system_id = ""

    def _is_linux(self, network: Optional[VirtualNetwork]) -> bool:
        return network is not None and network.switch in self.linux_names

    def _network_of(self, interface: HostInterface) -> VirtualNetwork:
        name = str(interface.network)
        network = self.moving.get(name) or self.context.find("virtual_network", name)
        if not isinstance(network, VirtualNetwork):
            raise AssertionError("not reached: the interface's network is not there")
        return network

    def take_down(self) -> None:
        """Remove what lies outside Open vSwitch's database."""
        going = {change.item.label for change in self.changes if change.after is None and _routes(change)}
        if going:
            routing.put_in_force(wanted_routing(read_switches(), self.linux, going))
        groups: Dict[str, Dict[str, Optional[VirtualNetwork]]] = {}
        for change in self.changes:
            before, after = change.before, change.after
            if isinstance(before, VirtualNetwork):
                moved = isinstance(after, VirtualNetwork) and after.switch != before.switch
                if moved or after is None:
                    groups.setdefault(str(before.switch), {})[str(before.name)] = None
            elif isinstance(before, VirtualSwitch):
                self._take_down_switch(before, after if isinstance(after, VirtualSwitch) else None)
            elif isinstance(before, HostInterface):
                name = str(before.name)
                stays = isinstance(after, HostInterface) and self._is_linux(self._network_of(after))
                if name in self.linux.interfaces and not stays:
                    self.files_changed |= linux_bridge.take_down_interface(name)
                elif after is None:
                    self.files_changed |= self._remove_file(name)
        for name, asked in self.linux.interfaces.items():
            network = self.moving.get(str(asked.network))
            if network is not None and name not in self.busy and not self._is_linux(network):
                self.following.append(asked)
                self.files_changed |= linux_bridge.take_down_interface(name)
        for switch, networks in groups.items():
            libvirt_networks.put(switch, networks, switch in self.linux_names)

    def _take_down_switch(self, before: VirtualSwitch, after: Optional[VirtualSwitch]) -> None:
        name = str(before.name)
        asked = self.linux.switches.get(name)
        if asked is None:
            for uplink in set(before.uplinks or ()) - set(after.uplinks or () if after else ()):
                self.files_changed |= self._remove_file(uplink)
        if after is None:
            if before.type == "nat":
                self.files_changed |= self._remove_file(name)
            libvirt_networks.remove(name)
        if asked is not None:
            self.files_changed |= linux_bridge.take_down_switch(asked, after)

    def _remove_file(self, device: str) -> bool:
        return self.renderer.remove_files(device, self.renderer.CONFIGURING)

    def build(self, transaction: Edit) -> None:
        """Add to a transaction what the changes are for Open vSwitch."""
        switches = transaction.switches
        self.system_id = switches.system_id
        for change in self.changes:
            after = change.after
            if isinstance(after, VirtualNetwork) and virtual_network.is_tunnel(after):
                transaction.allow_tunnels()
            if isinstance(after, VirtualSwitch):
                if after.name not in self.linux_names:
                    virtual_switch.put(transaction, after)
            elif isinstance(after, HostInterface):
                self._build_interface(transaction, after)
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
        for asked in self.following:
            self._build_interface(transaction, asked)
        if self.moving:
            self._build_moving(transaction)

    def _build_interface(self, transaction: Edit, interface: HostInterface) -> None:
        network = self._network_of(interface)
        if not self._is_linux(network):
            host_interface.put(transaction, interface, network)
            return
        found = transaction.switches.find(str(interface.name))
        if found is not None:
            transaction.remove_ports(found[0], found[1])

    def _build_moving(self, transaction: Edit) -> None:
        for _bridge, port, _row, asked in host_interface.interfaces_in(transaction.switches):
            network = self.moving.get(str(asked.network))
            if network is None or port.name in self.busy:
                continue
            if self._is_linux(network):
                if asked not in self.following:
                    self.following.append(asked)
                self._build_interface(transaction, asked)
            else:
                host_interface.place(transaction, port.name, network)
        for guest in libvirt_networks.guest_ports(running_only=True):
            wanted = self.moving.get(guest.network)
            if wanted is not None and guest.device and wanted.switch == guest.switch:
                host_interface.place(transaction, guest.device, wanted)

    def set_up(self) -> None:
        """Make what lies outside Open vSwitch's database, and wait until it is in force."""
        files: linux_bridge.Files = {}
        interfaces = list(self.following)
        uplinks: List[str] = []
        gateways: List[VirtualSwitch] = []
        linux: List[VirtualSwitch] = []
        for change in self.changes:
            after = change.after
            if isinstance(after, VirtualSwitch):
                if after.name in self.linux_names:
                    linux.append(after)
                    files.update(linux_bridge.switch_files(after))
                    continue
                libvirt_networks.ensure(str(after.name))
                uplinks += after.uplinks or ()
                if after.type == "nat":
                    gateways.append(after)
                    files.update(self.renderer.gateway_files(after))
                for uplink in after.uplinks or ():
                    files.update(self.renderer.uplink_files(uplink))
            elif isinstance(after, HostInterface):
                interfaces.append(after)
        self._put_networks()
        ports: Dict[str, linux_bridge.Wanted] = {}
        for interface in [*interfaces, *self._linux_followers()]:
            network = self._network_of(interface)
            if self._is_linux(network):
                mac = interface.mac or host_interface.mac_of(self.system_id, str(interface.name))
                files.update(linux_bridge.interface_files(interface, network, mac))
                ports[linux_bridge.port_of(str(interface.name))] = linux_bridge.Wanted.on(network)
            else:
                files.update(self.renderer.interface_files(interface))
        written = [
            device for (device, suffix), content in files.items() if self.renderer.write(device, suffix, content)
        ]

        def missing() -> List[str]:
            return _missing(interfaces, gateways, uplinks, linux, ports)

        unsettled = _unsettled(interfaces, gateways, uplinks)
        self.renderer.apply(self.files_changed, written, unsettled)
        if (linux or ports) and missing():
            self.renderer.apply(False, [], {device for device, _suffix in files})
        self.renderer.wait_until(missing)
        for switch in linux:
            linux_bridge.set_up_kernel(switch)
            libvirt_networks.ensure(str(switch.name), linux=True)
        linux_bridge.put_ports(ports)
        self._tell_guests()
        if any(map(_routes, self.changes)):
            routing.put_in_force(wanted_routing(read_switches(), linux_bridge.read_bridges()))

    def _put_networks(self) -> None:
        groups: Dict[str, Dict[str, Optional[VirtualNetwork]]] = {}
        limited: List[Tuple[str, VirtualNetwork]] = []
        for change in self.changes:
            after = change.after
            if isinstance(after, VirtualNetwork):
                groups.setdefault(str(after.switch), {})[str(after.name)] = after
                if any(field.startswith("bandwidth") for field in change.fields) and change.before is not None:
                    limited.append((str(after.switch), after))
        for switch, networks in groups.items():
            libvirt_networks.put(switch, networks, switch in self.linux_names)
        if limited:
            libvirt_networks.limit_guests(limited)

    def _linux_followers(self) -> List[HostInterface]:
        """Return the interfaces on Linux bridges whose networks change, and of which nothing else is said."""
        return [
            asked
            for name, asked in self.linux.interfaces.items()
            if name not in self.busy
            and asked not in self.following
            and self._is_linux(self.moving.get(str(asked.network)))
        ]

    def _tell_guests(self) -> None:
        """Tell the hook, and the ports of VMs that run, what their networks say now."""
        if not any(change.kind in ("virtual_network", "virtual_switch") for change in self.changes):
            return
        if not (self.linux_names or guest_ports.are_in_use() or any(map(_says_what_ports_may, self.changes))):
            return
        host = HostNetwork()
        # Ports that were told something by a network that is gone, or says no more, are told so.
        policies = guest_ports.policies_of(
            map(virtual_network.without_open_fields, host.networks.values()), host.asked()
        )
        guest_ports.store(policies)
        touched = {change.item.label for change in self.changes}
        ports = [
            port
            for port in libvirt_networks.guest_ports(running_only=True)
            if port.network in touched or port.switch in touched
        ]
        guest_ports.tell(ports, policies)


def _mac_of(interface: HostInterface, switches: Switches) -> str:
    return interface.mac or host_interface.mac_of(switches.system_id, str(interface.name))


def _says_what_ports_may(change: Change) -> bool:
    item = change.after
    if isinstance(item, VirtualNetwork):
        return bool(item.isolated or item.security or virtual_network.is_tunnel(item))
    return isinstance(item, VirtualSwitch) and item.security is not None


def _routes(change: Change) -> bool:
    """Return whether what the host routes may have changed with an object."""
    if isinstance(change.item, VirtualSwitch):
        return change.item.type == "nat"
    # Other interfaces are what is not routed to.
    return isinstance(change.item, HostInterface)


def management_ports() -> List[str]:
    """Return the TCP ports that the host is managed through: those of its firewall, and the controller's own."""
    firewall, _rules = load_asked()
    ports = list((firewall.management_ports if firewall is not None else None) or MANAGEMENT_PORTS)
    connection = controller_connection()
    if connection is not None and str(connection.host_port) not in ports:
        ports.append(str(connection.host_port))
    return ports


def _held_back(devices: Collection[str]) -> str:
    names = ", ".join(sorted(devices))
    return (
        f"cannot be, since the kernel takes the IPv6 addresses of {names} from router advertisements and would stop doing "
        f"so; allowed with net.ipv6.conf.NAME.accept_ra=2, or with systemd-networkd"
    )


def _unsettled(
    interfaces: Sequence[HostInterface], gateways: Sequence[VirtualSwitch], uplinks: Sequence[str]
) -> Set[str]:
    devices = {uplink for uplink in uplinks if not host_devices.is_up(uplink)}
    if interfaces or gateways:
        host = read_addresses()
        devices |= {str(item.name) for item in interfaces if host_interface.what_is_missing(item, host)}
        devices |= {str(item.name) for item in gateways if nat.what_is_missing(item, host)}
    return devices


def _missing(
    interfaces: Sequence[HostInterface],
    gateways: Sequence[VirtualSwitch],
    uplinks: Sequence[str],
    linux: Sequence[VirtualSwitch],
    ports: Collection[str],
) -> List[str]:
    missing = [f"uplink {uplink!r} is not up" for uplink in uplinks if not host_devices.is_up(uplink)]
    for switch in linux:
        missing += linux_bridge.what_is_missing(switch)
    missing += [f"port {port!r} is not there" for port in ports if not host_devices.master_of(port)]
    if (interfaces or gateways) and not missing:
        host = read_addresses()
        for item in interfaces:
            missing += host_interface.what_is_missing(item, host)
        for switch in gateways:
            missing += nat.what_is_missing(switch, host)
    return missing


_IFACE = re.compile(r"^\s*iface\s+(\S+)", re.MULTILINE)


def configured_by_ifupdown(device: str, folder: str = "/etc/network") -> Optional[str]:
    """Return the file in which ifupdown is told to configure a device, or None (interfaces(5))."""
    for path in (f"{folder}/interfaces", *sorted(glob.glob(f"{folder}/interfaces.d/*"))):
        content = read_file(path)
        if content is not None and device in _IFACE.findall(content.decode("utf-8", "replace")):
            return path
    return None
