# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The host's own interface on a virtual network: an internal port of Open vSwitch with addresses."""

from __future__ import annotations

import hashlib
import ipaddress
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

from ...errors import ValidateError
from ...model.network import HostInterface, Route, VirtualNetwork
from ...model.schema import shown_as
from ...transports.ovsdb import Row, a_map, a_set, kept, unkept, uuid
from . import host_devices, renderer_of_host
from .host_devices import HostAddresses
from .open_vswitch import INTERFACE_KEY, BridgeRow, Edit, InterfaceRow, PortRow, Switches
from .virtual_network import vlans_of, without_open_fields

DEFAULT_MTU = 1500


def mac_of(system_id: str, interface: str) -> str:
    """Return the MAC address of an interface for which none is given: lasting, and another on every host.

    system_id: what Open vSwitch tells hosts apart by. The second bit says that nobody has registered it (IEEE 802).
    """
    digest = hashlib.sha256(f"{system_id}\0{interface}".encode("utf-8", "surrogatepass")).hexdigest()
    return ":".join(["02", *(digest[at : at + 2] for at in range(0, 10, 2))])


# -- Reading -----------------------------------------------------------------------------------------------------------


def asked_of(port: PortRow, system_id: str) -> Optional[HostInterface]:
    """Return the interface as it was last asked for, or None where the port is none of ours.

    system_id: as for :func:`mac_of`.
    """
    data = unkept(port.external_ids.get(INTERFACE_KEY))
    if not isinstance(data, dict):
        return None
    try:
        return HostInterface.parse({"mac": mac_of(system_id, port.name), **data, "name": port.name})
    except ValidateError:
        return None


def is_ours(port: PortRow) -> bool:
    """Return whether a port is an interface of ours."""
    return INTERFACE_KEY in port.external_ids


def interfaces_in(switches: Switches) -> Iterator[Tuple[BridgeRow, PortRow, InterfaceRow, HostInterface]]:
    """Yield every interface of ours as it was last asked for, with the rows that it consists of."""
    for bridge in switches.bridges.values():
        for port in bridge.ports:
            asked = asked_of(port, switches.system_id)
            if asked is not None and len(port.interfaces) == 1:
                yield bridge, port, port.interfaces[0], asked


def describe(
    bridge: BridgeRow,
    port: PortRow,
    asked: HostInterface,
    network: Optional[VirtualNetwork],
    host: HostAddresses,
    routes: Callable[[], bool],
) -> HostInterface:
    """Return an interface on Open vSwitch as the host shows it.

    network: the one that it was asked to be on, as it is now.
    routes: returns whether the host routes between interfaces as it was asked to.
    """
    placed = network is not None and network.switch == bridge.name and is_on(port, without_open_fields(network))
    renderer = renderer_of_host.renderer()
    written = renderer.are_written(renderer.interface_files(asked))
    return shown(asked, host, routes, placed, written)


def shown(
    asked: HostInterface, host: HostAddresses, routes: Callable[[], bool], placed: bool, written: bool
) -> HostInterface:
    """Return an interface as the host shows it.

    placed: whether it is on its network. written: whether the files about it are there. routes: as of :func:`describe`.
    """
    name = str(asked.name)
    fields: Dict[str, Any] = {
        "addresses": host.static(name),
        "mtu": host_devices.mtu_of(name),
        "mac": host_devices.mac_of(name),
        **_ways_out(asked, host),
    }
    if not placed:
        fields["network"] = None
    if asked.forwarding and not routes():
        fields["forwarding"] = None
    if not written or not host_devices.is_up(name):
        # Its file is missing or was changed, which has no field of its own.
        fields["mtu"] = None
    return shown_as(asked, **fields)


def _ways_out(asked: HostInterface, host: HostAddresses) -> Dict[str, Any]:
    found: Dict[str, Any] = {"gateway4": None, "gateway6": None}
    routes: List[Route] = []
    for route in host.routes.get(str(asked.name), ()):
        if not route.static or route.gateway is None:
            continue
        network = ipaddress.ip_network(route.destination)
        field = f"gateway{network.version}"
        if network.prefixlen == 0:
            # Where somebody has added a second one, the one that was asked for is there all the same.
            if found[field] is None or route.gateway == getattr(asked, field):
                found[field] = route.gateway
        else:
            routes.append(Route(destination=route.destination, gateway=route.gateway))
    return {**found, "routes": tuple(sorted(set(routes), key=lambda route: str(route.key)))}


def what_is_missing(asked: HostInterface, host: HostAddresses) -> List[str]:
    """Return, in words, what of an interface's configuration the kernel does not show yet.

    Whether a DHCP server answers is not waited for: it may come later than the host.
    """
    name = str(asked.name)
    place = asked.place.text
    if not host_devices.is_up(name):
        return [f"{place} is not up"]
    shown = host.static(name)
    if shown != (asked.addresses or ()):
        wanted = ", ".join(asked.addresses or ()) or "none"
        return [f"{place} has the addresses {', '.join(shown) or 'none'} and not {wanted}"]
    if not host.are_usable(name):
        return [f"{place}: an address is in use by another host or still being checked for that"]
    ways = _ways_out(asked, host)
    for field in ("gateway4", "gateway6", "routes"):
        if ways[field] != (getattr(asked, field) or (() if field == "routes" else None)):
            return [f"{place}.{field} is not in the kernel's routes as asked"]
    return []


# -- Changing ----------------------------------------------------------------------------------------------------------


def put(edit: Edit, interface: HostInterface, network: VirtualNetwork) -> None:
    """Add to a transaction what makes or changes an interface.

    interface: complete. network: the one that it shall be on, complete.
    """
    name = str(interface.name)
    document = interface.to_document()
    del document["name"]
    mac = interface.mac or mac_of(edit.switches.system_id, name)
    mtu = interface.mtu or DEFAULT_MTU
    edit.touch(name, interface.place.text)
    bridge = edit.switches.bridges[str(network.switch)]
    found = edit.switches.find(name)
    if found is None:
        row: Row = {"name": name, "type": "internal", "mtu_request": mtu, "mac": mac}
        port: Row = {
            "name": name,
            "interfaces": a_set([edit.insert("Interface", row)]),
            "external_ids": a_map({INTERFACE_KEY: kept(document)}),
            **_columns(network),
        }
        edit.add_ports(bridge, edit.insert("Port", port))
        return
    _holder, present, row_of_interface = found
    edit.set_key("Port", present.uuid, "external_ids", INTERFACE_KEY, kept(document))
    columns: Row = {}
    if row_of_interface.mtu_request != mtu:
        columns["mtu_request"] = mtu
    if row_of_interface.mac != mac:
        columns["mac"] = mac
    if columns:
        edit.update("Interface", row_of_interface.uuid, columns)
    place(edit, name, network)


def is_on(port: PortRow, network: VirtualNetwork) -> bool:
    """Return whether a port carries what ports of a network do. network: complete."""
    return port.vlans == vlans_of(network) and port.protected == bool(network.isolated)


def _columns(network: VirtualNetwork) -> Row:
    return {**vlans_of(network).columns(), "protected": bool(network.isolated)}


def place(edit: Edit, device: str, network: VirtualNetwork) -> None:
    """Add to a transaction what puts an existing port on a network: its VLANs, and the bridge where that is another."""
    found = edit.switches.find(device)
    if found is None:
        return
    holder, port, _row = found
    if not is_on(port, network):
        edit.update("Port", port.uuid, _columns(network))
    if holder.name != network.switch:
        edit.remove_ports(holder, port)
        edit.add_ports(edit.switches.bridges[str(network.switch)], uuid(port.uuid))
