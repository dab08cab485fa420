# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Virtual switches, virtual networks and the node's own interfaces on Proxmox VE.

A switch is a Linux bridge of the node. PVE knows no named networks on a bridge: a network is a line in the bridge's
comment, and whoever is on it (an adapter of a VM, a VLAN interface of the node) carries its VLAN. What carries a VLAN
that has no name shows as a network `BRIDGE.VLAN`, and what carries none as `BRIDGE`. The node's address on an
untagged network is the bridge's own.

All changes of a task are one transaction: staged, and put in force by one reload.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Any, Collection, Dict, FrozenSet, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple

from ...engine.change import Change
from ...engine.platform import Context, Interface
from ...errors import ApplyError, Problem, ValidateError
from ...model.document import State
from ...model.network import Bond, HostInterface, VirtualNetwork, VirtualSwitch
from ...model.schema import ModelObject
from ...model.types import show
from .guests import Guest
from .node_network import NodeNetwork, names_in, transfer
from .property_strings import join_nic, trunk_of, trunk_text

INTERFACE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{1,19}")
NAME_RULE = "2 to 20 letters, digits and underscores that begin with a letter"
BOND_NAME = re.compile(r"bond\d+")

_KEEPS = "it carries the path that the host is managed through"

BOND_MODES = {"active_backup": "active-backup", "balance_tcp": "802.3ad", "balance_xor": "balance-xor"}
LACP = "active"
"""How Linux's 802.3ad speaks: it always asks (Documentation/networking/bonding.rst)."""


class Placed:
    """Which networks there are on the bridges of a node, and which of them a VLAN on a bridge is."""

    def __init__(self, network: NodeNetwork) -> None:
        self.network = network
        self.named: Dict[str, VirtualNetwork] = {}
        for bridge, _entry in network.of_type("bridge"):
            for fact in network.comments(bridge).all("network"):
                found = _network_of(bridge, fact)
                if found is not None:
                    self.named.setdefault(str(found.name), found)
        self.unnamed: Dict[str, VirtualNetwork] = {}

    def find(self, bridge: str, vlan: int, trunk: Tuple[str, ...] = (), remembered: Optional[str] = None) -> str:
        """Return the name of the network that something on a bridge with this VLAN and trunk is on.

        remembered: the network that it was last put on, which decides where several are the same.
        """
        fitting = [
            name
            for name, network in self.named.items()
            if (network.switch, network.vlan or 0, network.trunk or ()) == (bridge, vlan, trunk)
        ]
        if remembered in fitting:
            return str(remembered)
        if fitting:
            return sorted(fitting)[0]
        name = f"{bridge}.{vlan}" if vlan else bridge
        if trunk:
            name = f"{name} trunk {','.join(trunk)}"
        if name in self.named:
            name = f"{name} (unnamed)"
        self.unnamed.setdefault(
            name, VirtualNetwork(name=name, switch=bridge, vlan=vlan, trunk=trunk, isolated=False, subnets=())
        )
        return name

    def find_nic(self, guest: Guest, key: str, parts: Mapping[str, str]) -> Optional[str]:
        """Return the network of a VM's adapter, or None where it is on no bridge."""
        if not parts.get("bridge"):
            return None
        vlan = int(parts.get("tag") or 0)
        return self.find(parts["bridge"], vlan, trunk_of(parts.get("trunks")), guest.nic_network(key))


def _network_of(bridge: str, fact: Any) -> Optional[VirtualNetwork]:
    try:
        known = {name: value for name, value in fact.items() if name in ("name", "vlan", "trunk", "subnets")}
        return VirtualNetwork.parse(
            {"vlan": 0, "trunk": [], "subnets": [], "isolated": False, **known, "switch": bridge}
        )
    except (AttributeError, ValidateError):
        # A line that somebody has broken is none of ours.
        return None


def nic_place(network: VirtualNetwork) -> Dict[str, Any]:
    """Return how an adapter of a VM is put on a network: its bridge, tag and trunks."""
    return {
        "bridge": network.switch,
        "tag": network.vlan or None,
        "trunks": trunk_text(network.trunk) if network.trunk else None,
    }


class ProxmoxNetwork(Interface):
    """Reads and changes switches, networks and the node's interfaces on them."""

    KINDS = ("virtual_switch", "virtual_network", "host_interface")
    CAPABILITIES = frozenset(
        {
            "virtual_switch",
            "virtual_switch.type.bridged",
            "virtual_switch.type.internal",
            "virtual_switch.type.private",
            "virtual_switch.bond.active_backup",
            "virtual_switch.bond.balance_tcp",
            "virtual_switch.bond.balance_xor",
            "virtual_switch.bond.lacp",
            "virtual_switch.mtu",
            "virtual_switch.vlan_aware",
            "virtual_network",
            "virtual_network.vlan",
            "virtual_network.trunk",
            "host_interface",
            "host_interface.mtu",
        }
    )
    IN_ORDER = True

    def __init__(self, platform: Any) -> None:
        self.platform = platform
        self._seen: Optional[NodeNetwork] = None

    # -- reading -------------------------------------------------------------------------------------------------------

    def read(self, kinds: Collection[str], names: Mapping[str, Collection[str]]) -> State:
        network = self._seen = self.platform.network()
        placed = Placed(network)
        state: State = {kind: {} for kind in kinds}
        interfaces: Dict[Any, ModelObject] = {item.key: item for item in _interfaces(placed)}
        if "virtual_switch" in state:
            state["virtual_switch"] = {item.key: item for item in _switches(network)}
        if "host_interface" in state:
            state["host_interface"] = interfaces
        if "virtual_network" in state:
            for guest in self.platform.seen_guests():
                for key, _name, parts in guest.nics():
                    placed.find_nic(guest, key, parts)
            bridges = {name for name, _entry in network.of_type("bridge", "OVSBridge")}
            found = [*placed.named.values(), *(item for item in placed.unnamed.values() if item.switch in bridges)]
            state["virtual_network"] = {item.key: item for item in found}
        return state

    def network(self) -> NodeNetwork:
        """Return the node's network as it was read last."""
        if self._seen is None:
            self._seen = self.platform.network()
        return self._seen

    # -- the management path -------------------------------------------------------------------------------------------

    def _managing(self) -> Tuple[FrozenSet[str], FrozenSet[str]]:
        """Return the node's interfaces that carry the management path, and the bridges among them or below them."""
        interfaces = self.network().interfaces
        wanted = self.platform.management_addresses()
        holders = {
            name
            for name, entry in interfaces.items()
            for field in ("cidr", "cidr6")
            if entry.get(field) and str(ipaddress.ip_interface(entry[field]).ip) in wanted
        }
        if not holders:
            holders = {name for name, entry in interfaces.items() if entry.get("gateway") or entry.get("gateway6")}
        path = set(holders)
        for name in list(path):
            raw = interfaces[name].get("vlan-raw-device") or name.partition(".")[0]
            if raw in interfaces:
                path.add(str(raw))
        for name in list(path):
            for port in (*names_in(interfaces[name].get("bridge_ports")), *names_in(interfaces[name].get("slaves"))):
                path.add(port)
                path.update(names_in(interfaces.get(port, {}).get("slaves")))
        return frozenset(holders), frozenset(path)

    def touches_management(self, change: Change, context: Context) -> bool:
        holders, path = self._managing()
        if change.kind == "virtual_switch":
            sides = [side for side in (change.before, change.after) if isinstance(side, VirtualSwitch)]
            return change.item.label in path or any(uplink in path for side in sides for uplink in side.uplinks or ())
        placed = Placed(self.network())
        managed = {str(item.network) for item in _interfaces(placed) if _device(self.network(), item) in holders}
        if change.kind == "virtual_network":
            moving = change.after is None or any(field in ("vlan", "trunk", "switch") for field in change.fields)
            return change.before is not None and moving and change.item.label in managed
        sides_of_interface = [side for side in (change.before, change.after) if isinstance(side, HostInterface)]
        return any(
            _device(self.network(), side) in holders or side.gateway4 or side.gateway6 for side in sides_of_interface
        )

    def keeps(self, item: ModelObject, state: State) -> Optional[str]:
        holders, path = self._managing()
        if isinstance(item, VirtualSwitch):
            return _KEEPS if item.name in path else None
        placed = Placed(self.network())
        managed = [each for each in _interfaces(placed) if _device(self.network(), each) in holders]
        if isinstance(item, HostInterface):
            return _KEEPS if item.key in {each.key for each in managed} else None
        if item.label in {str(each.network) for each in managed}:
            return _KEEPS
        return None if item.label in placed.named else "it is a VLAN in use that nobody has given a name"

    # -- objections ----------------------------------------------------------------------------------------------------

    def validate(self, change: Change, context: Context) -> Iterable[Problem]:
        place = change.item.place
        if self.network().is_left_over:
            # Only where nothing is to be changed: otherwise recover() has taken it back before anything was read.
            yield Problem(
                place.text,
                "a run that was killed has staged changes of the node's network, behind which nobody can look; the next run"
                " that is no check takes them back",
            )
        elif self.network().changes:
            yield Problem(
                place.text,
                "the node has changes of its network that somebody has staged and not applied; apply or revert them first",
            )
        if change.kind == "virtual_switch":
            problems: Iterator[Tuple[str, str]] = self._switch_problems(change, context)
        elif change.kind == "virtual_network":
            problems = self._network_problems(change, context)
        else:
            problems = self._interface_problems(change, context)
        for name, message in problems:
            yield Problem(place.inner(name).text, message)

    def _switch_problems(self, change: Change, context: Context) -> Iterator[Tuple[str, str]]:
        network, name = self.network(), change.item.label
        present = network.interfaces.get(name)
        if present is not None and present.get("type") == "OVSBridge":
            yield "", "is a bridge of Open vSwitch, which is only read"
            return
        if not isinstance(change.after, VirtualSwitch):
            users = self._adapters_on(name, context)
            if users:
                yield "", f"cannot go, since VMs are on it: {', '.join(users)}"
            return
        switch = change.after
        if change.before is None:
            if not INTERFACE_NAME.fullmatch(name):
                yield "name", f"{show(name)} is no name that Proxmox VE gives interfaces; allowed are {NAME_RULE}"
            elif present is not None:
                yield "name", f"{show(name)} is an interface of the node of type {present.get('type')}"
        for uplink in switch.uplinks or ():
            entry = network.interfaces.get(uplink)
            if entry is None or entry.get("type") not in ("eth", "vlan"):
                there = ", ".join(each for each, _entry in network.of_type("eth"))
                yield "uplinks", f"{show(uplink)} is no network card of the node; there are: {there}"
                continue
            holder = network.holder_of(uplink)
            owner = network.holder_of(holder) or holder if holder else None
            if owner and owner != name and (owner,) not in context.before.get("virtual_switch", {}):
                yield "uplinks", f"{show(uplink)} belongs to {show(owner)} of the node"
            if entry.get("cidr") or entry.get("cidr6"):
                yield "uplinks", f"{show(uplink)} has the address {entry.get('cidr') or entry.get('cidr6')} of its own"
        if switch.bond is not None and switch.bond.lacp not in (None, "off", LACP):
            yield (
                "bond.lacp",
                f"{show(switch.bond.lacp)} is nothing that Linux's bonds can do; allowed are off and active",
            )
        if switch.vlan_aware is False:
            for item in context.wanted.get("virtual_network", {}).values():
                if isinstance(item, VirtualNetwork) and item.switch == name and item.trunk:
                    yield "vlan_aware", f"must be true, since network {show(item.name)} is a trunk"

    def _network_problems(self, change: Change, context: Context) -> Iterator[Tuple[str, str]]:
        if change.before is not None and change.item.label not in Placed(self.network()).named:
            yield "", "is a VLAN in use that nobody has given a name; it cannot be changed as a network"
        item = change.after
        if not isinstance(item, VirtualNetwork):
            return
        switch = context.find("virtual_switch", item.switch)
        if item.trunk and getattr(switch, "vlan_aware", True) is False:
            yield "trunk", f"needs a switch with vlan_aware: true, and {show(item.switch)} has it not"
        before = change.before
        if not isinstance(before, VirtualNetwork) or nic_place(before) == nic_place(item):
            return
        for other in _staying_on(item, context):
            if bool(item.vlan) != bool(before.vlan) or "." in str(other.name) or not item.vlan:
                name = show(other.name)
                yield (
                    "vlan",
                    f"cannot change under the node's interface {name}, which would be another one; take it away first",
                )

    def _interface_problems(self, change: Change, context: Context) -> Iterator[Tuple[str, str]]:
        item = change.after
        if not isinstance(item, HostInterface):
            return
        for version in (4, 6):
            found = [address for address in item.addresses or () if ipaddress.ip_interface(address).version == version]
            if len(found) > 1:
                yield (
                    "addresses",
                    f"{len(found)} of IPv{version} are more than Proxmox VE gives an interface, which is one",
                )
        network = context.find("virtual_network", item.network)
        if not isinstance(network, VirtualNetwork):
            return
        switch = context.find("virtual_switch", network.switch)
        if not network.vlan:
            others = [
                other.name
                for other in context.wanted.get("host_interface", {}).values()
                if isinstance(other, HostInterface)
                and other.key != item.key
                and self._is_untagged_on(other, network, context)
            ]
            for other in others:
                yield (
                    "network",
                    f"is untagged on {show(network.switch)}, where the node's only address is that of {show(other)}",
                )
            mtu = getattr(switch, "mtu", None) or 1500
            if item.mtu not in (None, mtu):
                yield (
                    "mtu",
                    f"is {item.mtu}, and on an untagged network it is that of the switch {show(network.switch)}, {mtu}",
                )
        else:
            name, own = str(item.name), f"{network.switch}.{network.vlan}"
            if name != own and not INTERFACE_NAME.fullmatch(name):
                wanted = f"allowed are {NAME_RULE}, or {own}"
                yield "name", f"{show(name)} is no name that Proxmox VE gives interfaces; {wanted}"
            elif change.before is None and name in self.network().interfaces:
                yield "name", f"{show(name)} is an interface of the node already"
        for field in ("gateway4", "gateway6"):
            holder = next(
                (
                    other
                    for other in context.wanted.get("host_interface", {}).values()
                    if other.key != item.key and getattr(other, field, None)
                ),
                None,
            )
            if getattr(item, field) and holder is not None:
                yield field, f"the node's only default gateway is that of {holder.place.text}"

    @staticmethod
    def _is_untagged_on(other: HostInterface, network: VirtualNetwork, context: Context) -> bool:
        its = context.find("virtual_network", other.network)
        return isinstance(its, VirtualNetwork) and its.switch == network.switch and not its.vlan

    def _adapters_on(self, bridge: str, context: Context) -> List[str]:
        # Of those that the task has read the engine knows whether they stay, and on which network.
        known = context.before.get("vm", {})
        return sorted(
            f"{guest.name} ({name})"
            for guest in self.platform.guests()
            for _key, name, parts in guest.nics()
            if parts.get("bridge") == bridge and (guest.name,) not in known
        )

    # -- changing ------------------------------------------------------------------------------------------------------

    def apply(self, changes: Sequence[Change], context: Context) -> None:
        for change in changes:
            context.begin(change)
        before = self.network()
        if before.changes:
            raise ApplyError("the node has changes of its network that are staged and not applied")
        self._move_adapters(changes, context)
        after = before.copy()
        for change in changes:
            if change.kind == "virtual_switch":
                _change_switch(after, change)
            elif change.kind == "virtual_network":
                _change_network(after, change)
                for other in _staying_on(change.after, context) if change.before is not None else ():
                    # The node's interfaces follow their network as VMs do.
                    _change_interface(after, Change(other, other), context)
            else:
                _change_interface(after, change, context)
        transfer(self.platform.session, before, after)
        self._seen = None
        for change in changes:
            context.done(change)

    def _move_adapters(self, changes: Sequence[Change], context: Context) -> None:
        """Give the adapters of VMs on a network whose VLAN changes the new one, before the network itself shows it.

        Killed in between, the network still shows the old VLAN, so that the next run does the same once more.
        """
        moved = {
            str(change.before.name): change.after
            for change in changes
            if isinstance(change.before, VirtualNetwork)
            and isinstance(change.after, VirtualNetwork)
            and nic_place(change.before) != nic_place(change.after)
        }
        if not moved:
            return
        placed = Placed(self.network())
        session = self.platform.session
        for guest in self.platform.guests():
            for key, _name, parts in guest.nics():
                network = moved.get(str(placed.find_nic(guest, key, parts)))
                if network is None:
                    continue
                shall = {**parts, **nic_place(network)}
                session.put(
                    "nodes",
                    session.node,
                    "qemu",
                    guest.vmid,
                    "config",
                    **{key: join_nic({name: value for name, value in shall.items() if value not in (None, "")})},
                )
        self.platform.forget_guests()


# -- what the node shows -------------------------------------------------------------------------------------------------


def _mtu(entry: Mapping[str, Any]) -> int:
    return int(entry.get("mtu") or 1500)


def _switches(network: NodeNetwork) -> Iterator[VirtualSwitch]:
    for name, entry in network.of_type("bridge", "OVSBridge"):
        ports = names_in(entry.get("bridge_ports" if entry["type"] == "bridge" else "ovs_ports"))
        uplinks: List[str] = []
        bond: Optional[Bond] = None
        for port in ports:
            below = network.interfaces.get(port, {})
            if below.get("type") == "bond":
                uplinks.extend(names_in(below.get("slaves")))
                bond = _bond_of(below)
            elif below.get("type") in ("eth", "vlan"):
                uplinks.append(port)
        fact = Kept(network, name).switch
        yield VirtualSwitch(
            name=name,
            type=str(fact.get("type") or ("bridged" if ports else "internal")),
            uplinks=tuple(uplinks),
            bond=bond if len(uplinks) > 1 else None,
            mtu=_mtu(entry),
            vlan_aware=bool(entry.get("bridge_vlan_aware")),
        )


class Kept:
    """What we keep of the model in a bridge's comment."""

    def __init__(self, network: NodeNetwork, bridge: str) -> None:
        comments = network.comments(bridge)
        self.switch: Mapping[str, Any] = _mapping(comments.first("switch"))
        self.interface: Mapping[str, Any] = _mapping(comments.first("interface"))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _bond_of(entry: Mapping[str, Any]) -> Optional[Bond]:
    mode = next((name for name, word in BOND_MODES.items() if word == entry.get("bond_mode")), None)
    if mode is None:
        return None
    primary = entry.get("bond-primary") if mode == "active_backup" else None
    return Bond(mode=mode, lacp=LACP if mode == "balance_tcp" else "off", primary=primary or None)


def _interfaces(placed: Placed) -> Iterator[HostInterface]:
    network = placed.network
    for name, entry in network.of_type("bridge"):
        kept = Kept(network, name).interface
        if entry.get("cidr") or entry.get("cidr6") or kept:
            fact = {"name": kept.get("name") or name, "network": kept.get("network")}
            yield _interface(placed, fact, name, 0, entry)
    for name, entry in network.of_type("vlan"):
        raw = str(entry.get("vlan-raw-device") or name.partition(".")[0])
        tag = str(entry.get("vlan-id") or name.partition(".")[2] or re.sub(r"\D", "", name))
        if network.interfaces.get(raw, {}).get("type") == "bridge" and tag.isdigit():
            kept = Kept(network, name).interface
            yield _interface(placed, {"name": name, "network": kept.get("network")}, raw, int(tag), entry)


def _interface(
    placed: Placed, fact: Mapping[str, Any], bridge: str, vlan: int, entry: Mapping[str, Any]
) -> HostInterface:
    remembered = fact.get("network")
    named = placed.named.get(str(remembered))
    if named is not None and (named.switch, named.vlan or 0) == (bridge, vlan):
        network = str(remembered)
    else:
        network = placed.find(bridge, vlan, (), None)
    addresses = [str(ipaddress.ip_interface(entry[field])) for field in ("cidr", "cidr6") if entry.get(field)]
    return HostInterface(
        name=str(fact["name"]),
        network=network,
        addresses=tuple(sorted(addresses)),
        dhcp=entry.get("method") == "dhcp",
        gateway4=entry.get("gateway") or None,
        gateway6=entry.get("gateway6") or None,
        forwarding=False,
        routes=(),
        mtu=_mtu(entry),
        roles=(),
    )


def _device(network: NodeNetwork, item: HostInterface) -> Optional[str]:
    """Return the interface of the node that a host interface is, or None where it is not there."""
    for name, entry in network.of_type("bridge", "vlan"):
        if entry["type"] == "vlan" and name == item.name:
            return name
        if entry["type"] == "bridge" and (Kept(network, name).interface.get("name") or name) == item.name:
            return name
    return None


# -- what it shall be ----------------------------------------------------------------------------------------------------


def _change_switch(network: NodeNetwork, change: Change) -> None:
    name = change.item.label
    switch = change.after
    ports = names_in(network.interfaces.get(name, {}).get("bridge_ports"))
    bonds = [port for port in ports if network.interfaces.get(port, {}).get("type") == "bond"]
    if not isinstance(switch, VirtualSwitch):
        for bond in bonds:
            network.interfaces.pop(bond, None)
        network.interfaces.pop(name, None)
        return
    entry = network.interfaces.setdefault(name, {"type": "bridge", "autostart": 1, "bridge_vlan_aware": 1})
    uplinks = list(switch.uplinks or ())
    mtu = None if switch.mtu in (None, 1500) else switch.mtu
    others = [port for port in ports if network.interfaces.get(port, {}).get("type") not in ("eth", "bond", "vlan")]
    if switch.bond is None:
        for bond in bonds:
            network.interfaces.pop(bond, None)
        own = uplinks
    else:
        bond_name = bonds[0] if bonds else _free_bond(network)
        for bond in bonds[1:]:
            network.interfaces.pop(bond, None)
        network.interfaces[bond_name] = {
            **{key: value for key, value in network.interfaces.get(bond_name, {}).items() if key != "bond-primary"},
            "type": "bond",
            "autostart": 1,
            "slaves": " ".join(uplinks),
            "bond_mode": BOND_MODES[str(switch.bond.mode)],
            "mtu": mtu,
        }
        if switch.bond.mode == "active_backup":
            network.interfaces[bond_name]["bond-primary"] = switch.bond.primary or uplinks[0]
        else:
            network.interfaces[bond_name]["bond_xmit_hash_policy"] = (
                "layer3+4" if switch.bond.mode == "balance_tcp" else "layer2+3"
            )
        own = [bond_name]
    entry["bridge_ports"] = " ".join([*own, *others])
    entry["mtu"] = mtu
    for uplink in uplinks:
        # A bridge passes no larger packets than the smallest of its ports does.
        card = network.interfaces[uplink]
        if mtu is not None or (change.before is not None and "mtu" in change.fields):
            card["mtu"] = mtu
    if switch.vlan_aware is not None:
        entry["bridge_vlan_aware"] = int(switch.vlan_aware)
    comments = network.comments(name)
    comments.replace("switch", [{"type": switch.type}])
    network.set_comments(name, comments)


def _free_bond(network: NodeNetwork) -> str:
    number = 0
    while f"bond{number}" in network.interfaces:
        number += 1
    return f"bond{number}"


def _change_network(network: NodeNetwork, change: Change) -> None:
    for bridge, _entry in list(network.of_type("bridge")):
        comments = network.comments(bridge)
        facts = comments.all("network")
        left = [fact for fact in facts if _mapping(fact).get("name") != change.item.label]
        item = change.after
        if isinstance(item, VirtualNetwork) and item.switch == bridge:
            fact: Dict[str, Any] = {"name": item.name}
            for name in ("vlan", "trunk", "subnets"):
                value = getattr(item, name)
                if value:
                    fact[name] = list(value) if isinstance(value, tuple) else value
            left.append(fact)
        if left != facts:
            comments.replace("network", sorted(left, key=lambda each: str(_mapping(each).get("name"))))
            network.set_comments(bridge, comments)


def _change_interface(network: NodeNetwork, change: Change, context: Context) -> None:
    item = change.after
    old = _device(network, change.before) if isinstance(change.before, HostInterface) else None
    place: Optional[str] = None
    wanted: Any = None
    if isinstance(item, HostInterface):
        wanted = context.find("virtual_network", item.network)
        if wanted is None:
            wanted = Placed(network).unnamed.get(str(item.network))
        place = str(item.name) if wanted.vlan else str(wanted.switch)
    if old is not None and old != place:
        _clear_interface(network, old)
    if not isinstance(item, HostInterface) or place is None:
        return
    entry = network.interfaces.setdefault(place, {"type": "vlan", "autostart": 1})
    if wanted.vlan:
        entry["vlan-raw-device"] = wanted.switch
        entry["vlan-id"] = wanted.vlan
        entry["mtu"] = None if item.mtu in (None, 1500) else item.mtu
    by_version = {ipaddress.ip_interface(address).version: address for address in item.addresses or ()}
    entry["cidr"], entry["cidr6"] = by_version.get(4), by_version.get(6)
    entry["gateway"], entry["gateway6"] = item.gateway4 or None, item.gateway6 or None
    comments = network.comments(place)
    comments.replace("interface", [{"name": item.name, "network": item.network}])
    network.set_comments(place, comments)


def _staying_on(item: Any, context: Context) -> List[HostInterface]:
    """Return the node's interfaces that are on a network and stay as they are."""
    wanted = context.wanted.get("host_interface", {})
    return [
        other
        for key, other in context.before.get("host_interface", {}).items()
        if isinstance(other, HostInterface)
        and item is not None
        and other.network == item.label
        and wanted.get(key) == other
    ]


def _clear_interface(network: NodeNetwork, device: str) -> None:
    if network.interfaces[device].get("type") == "vlan":
        del network.interfaces[device]
        return
    for field in ("cidr", "cidr6", "gateway", "gateway6"):
        network.interfaces[device][field] = None
    comments = network.comments(device)
    comments.replace("interface", [])
    network.set_comments(device, comments)
