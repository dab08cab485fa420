# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A virtual switch on a KVM host: a bridge of Open vSwitch, its uplinks, and the libvirt network that stands for it."""

from __future__ import annotations

from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

from ...errors import ApplyError, ValidateError
from ...model.network import Bond, KvmSwitch, VirtualSwitch
from ...model.schema import shown_as
from ...transports.ovsdb import Row, a_map, a_set, kept, unkept, uuid
from . import host_devices, renderer_of_host
from .libvirt_networks import LibvirtNetwork
from .open_vswitch import SWITCH_KEY, UPLINK_KEY, BridgeRow, Edit, InterfaceRow, PortRow

BOND_MODES = {"active_backup": "active-backup", "balance_slb": "balance-slb", "balance_tcp": "balance-tcp"}
_WORDS = {mode: word for word, mode in BOND_MODES.items()}
DEFAULT_MTU = 1500


def bond_port(switch: str) -> str:
    """Return the name of the port that bonds a switch's uplinks. It is no network device, so it may be longer."""
    return f"{switch}-uplinks"


# -- Reading -----------------------------------------------------------------------------------------------------------


def asked_of(bridge: BridgeRow) -> Optional[VirtualSwitch]:
    """Return the switch as it was last asked for, or None where the bridge is none of ours."""
    data = unkept(bridge.external_ids.get(SWITCH_KEY))
    if not isinstance(data, dict):
        return None
    try:
        return VirtualSwitch.parse({**data, "name": bridge.name, "kvm": {"implementation": "openvswitch"}})
    except ValidateError:
        return None


def uplink_ports(bridge: BridgeRow) -> List[PortRow]:
    """Return the ports that lead out of the host: those of ours, and hardware that somebody else has put there."""
    return [port for port in bridge.ports if UPLINK_KEY in port.external_ids or all(map(_leads_out, port.interfaces))]


def _leads_out(row: InterfaceRow) -> bool:
    return row.type in ("", "system") and not row.is_guest and host_devices.is_uplink_like(row.name)


def other_ports(bridge: BridgeRow) -> List[PortRow]:
    """Return the ports that are neither the bridge's own nor uplinks."""
    uplinks = uplink_ports(bridge)
    return [port for port in bridge.ports if port.name != bridge.name and port not in uplinks]


def describe(
    bridge: BridgeRow, network: Optional[LibvirtNetwork], gateway: Callable[[VirtualSwitch], bool]
) -> Optional[VirtualSwitch]:
    """Return the switch that a bridge is, or None where the model has no words for it.

    network: the libvirt network of its name.
    gateway: returns whether the host is the gateway of a switch of type nat as it was asked to be.
    """
    asked = asked_of(bridge)
    ports = uplink_ports(bridge)
    uplinks = [row.name for port in ports for row in port.interfaces if host_devices.exists(row.name)]
    if asked is None:
        if len(ports) > 1:
            return None
        return VirtualSwitch(
            name=bridge.name,
            # Nobody has said whether a bridge without uplinks shall ever have any.
            type="bridged" if uplinks else None,
            uplinks=tuple(uplinks),
            bond=_bond_of(ports),
            mtu=host_devices.mtu_of(bridge.name) or DEFAULT_MTU,
            kvm=KvmSwitch(implementation="openvswitch"),
        )
    told = sorted(uplinks) == sorted(asked.uplinks or ()) and len(ports) <= 1
    order = asked.uplinks if told else tuple(uplinks)
    fields: Dict[str, Any] = {
        "uplinks": order,
        "bond": _bond_of(ports),
        "mtu": _mtu_of(bridge, asked.mtu or DEFAULT_MTU, uplinks),
    }
    if not is_whole(bridge, network, uplinks):
        # What is broken has no field of its own: its libvirt network, the files about uplinks, an uplink that is off.
        fields["mtu"] = None
    if asked.type == "nat" and not gateway(asked):
        fields["nat"] = None
    return shown_as(asked, **fields)


def is_whole(bridge: BridgeRow, network: Optional[LibvirtNetwork], uplinks: List[str]) -> bool:
    """Return whether all that belongs to a switch of ours beside its bridge is there."""
    if network is None or not network.is_whole(bridge.name):
        return False
    renderer = renderer_of_host.renderer()
    return all(renderer.are_written(renderer.uplink_files(name)) and host_devices.is_up(name) for name in uplinks)


def _mtu_of(bridge: BridgeRow, asked: int, uplinks: List[str]) -> int:
    local = bridge.local_interface()
    shown = [host_devices.mtu_of(name) or asked for name in (bridge.name, *uplinks)]
    # Without a request of ours, Open vSwitch makes the bridge's MTU follow its ports.
    if local is None or local.mtu_request is None:
        shown.append(0)
    return next((mtu for mtu in shown if mtu != asked), asked)


def _bond_of(ports: List[PortRow]) -> Optional[Bond]:
    for port in ports:
        if len(port.interfaces) > 1:
            return Bond(
                mode=_WORDS.get(port.bond_mode or "active-backup"),
                lacp=port.lacp or "off",
                primary=port.other_config.get("bond-primary"),
            )
    return None


def problems(switch: VirtualSwitch) -> Iterator[Tuple[str, str]]:
    """Yield (field, message) for what a bridge of Open vSwitch cannot be. switch: complete."""
    if switch.vlan_aware is False:
        yield "vlan_aware", "false is not allowed on Open vSwitch; allowed with kvm.implementation linux_bridge"
    if switch.bond is not None and switch.bond.mode not in BOND_MODES:
        words = ", ".join(sorted(BOND_MODES))
        yield "bond.mode", f"{switch.bond.mode!r} is not allowed on Open vSwitch; allowed are {words}"


# -- Changing ----------------------------------------------------------------------------------------------------------


def _record(switch: VirtualSwitch) -> str:
    document = switch.to_document()
    del document["name"]
    return kept(document)


def put(edit: Edit, switch: VirtualSwitch) -> None:
    """Add to a transaction what makes or changes a switch.

    switch: complete.
    """
    name = str(switch.name)
    mtu = switch.mtu or DEFAULT_MTU
    bridge = edit.switches.bridges.get(name)
    edit.touch(name, switch.place.text)
    for uplink in switch.uplinks or ():
        edit.touch(uplink, switch.place.field("uplinks").text)
        holder = edit.switches.find(uplink)
        if holder is not None and holder[0].name != name:
            place = switch.place.field("uplinks").text
            raise ApplyError(f"{place}: {uplink!r} is a port of bridge {holder[0].name!r} now")
    if bridge is None:
        local = edit.insert("Interface", {"name": name, "type": "internal", "mtu_request": mtu})
        ports = [edit.insert("Port", {"name": name, "interfaces": a_set([local])})]
        if switch.uplinks:
            ports.append(edit.insert("Port", _new_port(edit, switch, None)))
        row: Row = {"name": name, "ports": a_set(ports), "external_ids": a_map({SWITCH_KEY: _record(switch)})}
        edit.add_bridge(edit.insert("Bridge", row))
        return
    edit.set_key("Bridge", bridge.uuid, "external_ids", SWITCH_KEY, _record(switch))
    # A guest learns the MTU of its NIC when it starts; what the host's end passes on is changed at once.
    for interface in filter(None, (bridge.local_interface(), *bridge.guests())):
        if interface.mtu_request != mtu and (not interface.is_guest or host_devices.mtu_of(interface.name) != mtu):
            edit.update("Interface", interface.uuid, {"mtu_request": mtu})
    _put_uplinks(edit, bridge, switch)


def _port_name(switch: VirtualSwitch) -> str:
    uplinks = switch.uplinks or ()
    return uplinks[0] if len(uplinks) == 1 else bond_port(str(switch.name))


def _put_uplinks(edit: Edit, bridge: BridgeRow, switch: VirtualSwitch) -> None:
    present = uplink_ports(bridge)
    wanted = _port_name(switch) if switch.uplinks else None
    staying = next((port for port in present if port.name == wanted), None)
    if staying is None and len(switch.uplinks or ()) > 1:
        # A bond that somebody else has named.
        bonds = [port for port in present if len(port.interfaces) > 1]
        staying = bonds[0] if bonds else None
    going = [port for port in present if port is not staying]
    if staying is not None:
        row = _new_port(edit, switch, bridge)
        config, ids = row.pop("other_config")[1], row.pop("external_ids")[1]
        del row["name"]
        edit.update("Port", staying.uuid, row)
        edit.set_key("Port", staying.uuid, "other_config", "bond-primary", dict(config).get("bond-primary"))
        edit.set_key("Port", staying.uuid, "external_ids", UPLINK_KEY, dict(ids)[UPLINK_KEY])
    elif wanted is not None:
        edit.add_ports(bridge, edit.insert("Port", _new_port(edit, switch, bridge)))
    if going:
        edit.remove_ports(bridge, *going)


def _new_port(edit: Edit, switch: VirtualSwitch, bridge: Optional[BridgeRow]) -> Row:
    uplinks = switch.uplinks or ()
    bond = switch.bond
    interfaces = [_interface(edit, name, switch.mtu or DEFAULT_MTU, bridge) for name in uplinks]
    is_bond = bond is not None and len(uplinks) > 1
    primary = bond.primary if is_bond and bond else None
    return {
        "name": _port_name(switch),
        "interfaces": a_set(interfaces),
        "bond_mode": a_set([BOND_MODES[bond.mode or "active_backup"]] if is_bond and bond else []),
        "lacp": a_set([bond.lacp or "off"] if is_bond and bond else []),
        "other_config": a_map({"bond-primary": primary} if primary else {}),
        "external_ids": a_map({UPLINK_KEY: "true"}),
    }


def _interface(edit: Edit, name: str, mtu: int, bridge: Optional[BridgeRow]) -> List[str]:
    found = bridge.port(name) if bridge is not None else None
    if found is None:
        return edit.insert("Interface", {"name": name, "mtu_request": mtu})
    if found[1].mtu_request != mtu:
        edit.update("Interface", found[1].uuid, {"mtu_request": mtu})
    return uuid(found[1].uuid)


def uplinks_of(bridge: Optional[BridgeRow]) -> Tuple[str, ...]:
    """Return the names of a bridge's uplinks."""
    return () if bridge is None else tuple(row.name for port in uplink_ports(bridge) for row in port.interfaces)
