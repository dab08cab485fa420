# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The libvirt networks that stand for the switches: defined, started, starting with the host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Collection, Dict, Iterable, Iterator, List, Mapping, Optional, Tuple

from ...errors import ReadError
from ...model.network import VirtualNetwork
from ...transports import libvirt
from . import bandwidth, virtual_network
from .virtual_network import Element


@dataclass(frozen=True)
class LibvirtNetwork:
    """A libvirt network.

    live: its definition as it runs, or None. lasting: as it starts with the host, or None where it does not last.
    """

    name: str
    autostart: bool
    live: Optional[Element]
    lasting: Optional[Element]

    def leads_to(self, bridge: str, linux: bool = False) -> bool:
        """Return whether VMs on it are connected to a bridge of Open vSwitch or, with linux, of the kernel."""
        return all(_leads_to(root, bridge, linux) for root in (self.live, self.lasting) if root is not None)

    def is_whole(self, bridge: str, linux: bool = False) -> bool:
        """Return whether it runs, lasts, starts with the host and leads to a bridge."""
        return self.live is not None and self.lasting is not None and self.autostart and self.leads_to(bridge, linux)


def _leads_to(root: Element, bridge: str, linux: bool) -> bool:
    forward, device, port = root.find("forward"), root.find("bridge"), root.find("virtualport")
    return (
        forward is not None
        and forward.get("mode") == "bridge"
        and device is not None
        and device.get("name") == bridge
        and (port is None if linux else port is not None and port.get("type") == "openvswitch")
    )


def read_networks(names: Collection[str]) -> Dict[str, LibvirtNetwork]:
    """Return those libvirt networks whose names are wanted. Raises ReadError or ConnectError."""

    def look(connection: Any) -> Dict[str, LibvirtNetwork]:
        return {net.name(): _look(net) for net in connection.listAllNetworks(0) if net.name() in names}

    return libvirt.read(look, "The libvirt networks could not be read")


def _look(net: Any) -> LibvirtNetwork:
    library = libvirt.library()
    live = net.XMLDesc(0) if net.isActive() else None
    lasting = net.XMLDesc(library.VIR_NETWORK_XML_INACTIVE) if net.isPersistent() else None
    try:
        roots = [None if text is None else virtual_network.parse(text) for text in (live, lasting)]
    except virtual_network.ParseError as error:
        raise ReadError(f"libvirt's definition of network {net.name()!r} is no XML: {error}") from error
    return LibvirtNetwork(net.name(), bool(net.autostart()), roots[0], roots[1])


def ensure(switch: str, linux: bool = False) -> None:
    """Define the libvirt network of a switch, start it and let it start with the host, as far as it is not so.

    linux: whether the switch is a bridge of the kernel. Raises ApplyError or ConnectError.
    """
    with libvirt.translated(f"virtual_switch['{switch}']: its libvirt network"):
        connection = libvirt.connection()
        net = _find(connection, switch)
        if net is None or not net.isPersistent():
            net = connection.networkDefineXML(virtual_network.as_text(_definition(net, switch, linux)))
        elif not _leads_to(
            virtual_network.parse(net.XMLDesc(libvirt.library().VIR_NETWORK_XML_INACTIVE)), switch, linux
        ):
            root = _repaired(net, switch, linux)
            if net.isActive():
                net.destroy()
            net = connection.networkDefineXML(virtual_network.as_text(root))
        if not net.autostart():
            net.setAutostart(True)
        if not net.isActive():
            net.create()


def _definition(running: Any, switch: str, linux: bool) -> Element:
    if running is not None:
        return virtual_network.parse(running.XMLDesc(0))
    return virtual_network.new_libvirt_network(switch, linux)


def _repaired(net: Any, switch: str, linux: bool) -> Element:
    root = virtual_network.new_libvirt_network(switch, linux)
    old = virtual_network.parse(net.XMLDesc(libvirt.library().VIR_NETWORK_XML_INACTIVE))
    for tag in ("uuid", "metadata", "portgroup"):
        root.extend(old.iterfind(tag))
    return root


def remove(switch: str) -> None:
    """Stop and undefine the libvirt network of a switch, where there is one. Raises ApplyError or ConnectError."""
    with libvirt.translated(f"virtual_switch['{switch}']: its libvirt network cannot be removed"):
        net = _find(libvirt.connection(), switch)
        if net is None:
            return
        persistent = net.isPersistent()
        if net.isActive():
            net.destroy()
        if persistent:
            net.undefine()


def put(switch: str, networks: Mapping[str, Optional[VirtualNetwork]], linux: bool = False) -> None:
    """Set networks of a switch, or remove them (None), for what runs and for what starts with the host.

    What lasts comes first: a process that dies in between leaves the two different, which reading shows.
    networks: complete, by name. linux: as of :func:`ensure`. Raises ApplyError or ConnectError.
    """
    ensure(switch, linux)
    library = libvirt.library()
    what = ", ".join(f"virtual_network['{name}']" for name in networks)
    with libvirt.translated(f"{what}: the libvirt network of switch {switch!r}"):
        connection = libvirt.connection()
        net = connection.networkLookupByName(switch)
        root = virtual_network.parse(net.XMLDesc(library.VIR_NETWORK_XML_INACTIVE))
        running = virtual_network.groups_in(virtual_network.parse(net.XMLDesc(0)))
        for name, network in networks.items():
            virtual_network.put(root, name, network)
        connection.networkDefineXML(virtual_network.as_text(root))
        for name, network in networks.items():
            group = None if network is None else virtual_network.port_group(network, linux)
            if virtual_network.same_group(group, running.get(name)):
                continue
            if group is None:
                command, group = library.VIR_NETWORK_UPDATE_COMMAND_DELETE, running[name]
            elif name in running:
                command = library.VIR_NETWORK_UPDATE_COMMAND_MODIFY
            else:
                command = library.VIR_NETWORK_UPDATE_COMMAND_ADD_LAST
            net.update(
                command,
                library.VIR_NETWORK_SECTION_PORTGROUP,
                -1,
                virtual_network.as_text(group),
                library.VIR_NETWORK_UPDATE_AFFECT_LIVE,
            )


def _find(connection: Any, name: str) -> Any:
    for net in connection.listAllNetworks(0):
        if net.name() == name:
            return net
    return None


# -- VMs on them -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GuestPort:
    """A NIC of a VM: device is the one on the host, None while the VM does not run; mac is its address."""

    vm: str
    switch: str
    network: str
    device: Optional[str]
    mac: Optional[str] = None


def guest_ports(running_only: bool) -> List[GuestPort]:
    """Return the NICs of VMs that are on port groups. Raises ReadError or ConnectError."""
    library = libvirt.library()

    def look(connection: Any) -> List[GuestPort]:
        flags = library.VIR_CONNECT_LIST_DOMAINS_ACTIVE if running_only else 0
        found: List[GuestPort] = []
        for domain in connection.listAllDomains(flags):
            text = _unless_gone(lambda domain=domain: domain.XMLDesc(0))  # type: ignore[misc]
            if text is not None:
                found.extend(_ports_in(text, domain.name()))
        return found

    return libvirt.read(look, "The virtual machines' NICs could not be read")


def _unless_gone(call: Callable[[], str]) -> Optional[str]:
    try:
        return call()
    except libvirt.library().libvirtError as error:
        if libvirt.is_missing(error):
            return None
        raise


def _ports_in(text: str, vm: str) -> Iterator[GuestPort]:
    for interface in virtual_network.parse(text).iterfind("devices/interface"):
        source, target, mac = (interface.find(tag) for tag in ("source", "target", "mac"))
        # Of a VM that runs libvirt says type='bridge', and names the network beside the bridge.
        if source is not None and source.get("network") and source.get("portgroup"):
            yield GuestPort(
                vm,
                str(source.get("network")),
                str(source.get("portgroup")),
                None if target is None else target.get("dev"),
                None if mac is None else str(mac.get("address")).lower(),
            )


def limit_guests(networks: Iterable[Tuple[str, VirtualNetwork]]) -> None:
    """Give running VMs the bandwidth limits of their networks, except NICs that have limits of their own.

    networks: (switch, complete network) whose limits have changed. Raises ApplyError or ConnectError.
    """
    limits = {(switch, str(network.name)): network for switch, network in networks}
    library = libvirt.library()
    for port in guest_ports(running_only=True):
        network = limits.get((port.switch, port.network))
        if network is None or port.device is None:
            continue
        told = bandwidth.attributes(network.bandwidth)
        # 0 takes the limit away (virDomainSetInterfaceParameters).
        parameters = {
            f"{direction}.{name}": told.get(direction, {}).get(name, 0)
            for direction in bandwidth.DIRECTIONS
            for name in ("average", "peak", "burst")
        }
        with libvirt.translated(f"virtual_network['{network.name}']: the limits of VM {port.vm!r}"):
            domain = libvirt.connection().lookupByName(port.vm)
            if not _has_own_limits(domain.XMLDesc(library.VIR_DOMAIN_XML_INACTIVE), port.mac):
                domain.setInterfaceParameters(port.device, parameters, library.VIR_DOMAIN_AFFECT_LIVE)


def _has_own_limits(configured: str, mac: Optional[str]) -> bool:
    """Return whether a NIC is limited by itself; of one that runs, libvirt shows the limits of its network in their place."""
    for interface in virtual_network.parse(configured).iterfind("devices/interface"):
        address = interface.find("mac")
        if address is not None and str(address.get("address")).lower() == mac:
            return interface.find("bandwidth") is not None
    return False
