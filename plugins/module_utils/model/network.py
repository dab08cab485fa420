# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Virtual switches, virtual networks, and the host's own interfaces on them."""

from __future__ import annotations

import dataclasses
import ipaddress
from dataclasses import dataclass
from typing import Any, Iterator, Optional, Set, Tuple

from .schema import ModelObject, Nested, NestedList, Value, Values, option
from .types import (
    Boolean,
    Choice,
    Cidr,
    Integer,
    InterfaceAddress,
    IpAddress,
    MacAddress,
    Name,
    PortRange,
    VlanRange,
    range_bounds,
)


@dataclass(frozen=True)
class Bond(ModelObject):
    """How several uplinks work as one."""

    mode: Optional[str] = option(
        Value(Choice("active_backup", "balance_slb", "balance_tcp", "balance_xor")),
        "How traffic is spread: one uplink at a time, by source MAC address, by flow (which needs LACP), or by a hash of both "
        "ends (which needs the ports of the physical switch joined without LACP).",
        default="active_backup",
        capability="virtual_switch.bond.*",
    )
    lacp: Optional[str] = option(
        Value(Choice("off", "passive", "active")),
        "Whether the uplinks negotiate with the switch by LACP (IEEE 802.1AX).",
        default="off",
        capability="virtual_switch.bond.lacp",
    )
    primary: Optional[str] = option(
        Value(Name()), "The uplink that is used as long as it works, with active_backup.", clearable=True
    )

    def check_complete(self) -> Iterator[Tuple[str, str]]:
        if self.mode == "balance_tcp" and self.lacp == "off":
            yield "lacp", "'off' does not go with mode balance_tcp; allowed are active and passive"
        if self.mode == "balance_xor" and self.lacp != "off":
            yield "lacp", f"{self.lacp!r} does not go with mode balance_xor; allowed is off"
        if self.primary and self.mode != "active_backup":
            yield "primary", f"goes with mode active_backup only, not with {self.mode}"


@dataclass(frozen=True)
class SwitchSecurity(ModelObject):
    """What the ports of the switch may do unless their network or port says otherwise."""

    promiscuous: Optional[bool] = option(Value(Boolean()), "Whether a port may see frames for others.")
    mac_changes: Optional[bool] = option(Value(Boolean()), "Whether a guest may change its MAC address.")
    forged_transmits: Optional[bool] = option(Value(Boolean()), "Whether a guest may send from other MAC addresses.")


@dataclass(frozen=True)
class DhcpRange(ModelObject):
    """The addresses that DHCP gives out."""

    start: Optional[str] = option(Value(IpAddress(4)), "The first address.", required=True)
    end: Optional[str] = option(Value(IpAddress(4)), "The last address.", required=True)

    def check(self) -> Iterator[Tuple[str, str]]:
        if self.start and self.end and ipaddress.IPv4Address(self.start) > ipaddress.IPv4Address(self.end):
            yield "end", f"{self.end} comes before the start {self.start}"


@dataclass(frozen=True)
class PortForward(ModelObject):
    """A port of the host that leads to a guest behind the NAT."""

    protocol: Optional[str] = option(Value(Choice("tcp", "udp")), "The protocol.", key=True)
    port: Optional[str] = option(Value(PortRange()), "The port or range on the host.", key=True)
    to_address: Optional[str] = option(Value(IpAddress()), "The guest's address.", required=True)
    to_port: Optional[str] = option(Value(PortRange()), "The port on the guest; the same where not given.")


@dataclass(frozen=True)
class Nat(ModelObject):
    """The private network behind a switch of type nat."""

    gateway: Optional[str] = option(
        Value(InterfaceAddress(4)), "The host's address in the network, with its prefix length.", required=True
    )
    gateway6: Optional[str] = option(
        Value(InterfaceAddress(6)),
        "The host's IPv6 address in the network, with its prefix length. Guests get theirs from router advertisements "
        "(RFC 4862).",
        clearable=True,
        capability="virtual_switch.nat.gateway6",
    )
    dhcp: Optional[DhcpRange] = option(
        Nested(DhcpRange), "The addresses that DHCP gives out.", capability="virtual_switch.nat.dhcp"
    )
    port_forwards: Optional[Tuple[PortForward, ...]] = option(
        NestedList(PortForward, ordered=False),
        "Ports of the host that lead to guests.",
        capability="virtual_switch.nat.port_forwards",
    )

    def check(self) -> Iterator[Tuple[str, str]]:
        if self.gateway is None:
            return
        own = ipaddress.ip_interface(self.gateway)
        if self.dhcp:
            for name in ("start", "end"):
                address = getattr(self.dhcp, name)
                if address and ipaddress.ip_address(address) not in own.network:
                    yield f"dhcp.{name}", f"{address} lies outside {own.network}"
                elif address and ipaddress.ip_address(address) in (
                    own.network.network_address,
                    own.network.broadcast_address,
                ):
                    yield f"dhcp.{name}", f"{address} is the address of {own.network} itself or of all that are in it"
        for forward in self.port_forwards or ():
            if forward.to_address and ipaddress.ip_address(forward.to_address).version == 4:
                yield from self._check_target(forward, own)
            if forward.port and forward.to_port:
                counts = [last - first + 1 for first, last in map(range_bounds, (forward.port, forward.to_port))]
                if counts[0] != counts[1]:
                    yield (
                        f"port_forwards['{forward.label}'].to_port",
                        f"{forward.to_port} is {_count(counts[1], 'port')}, and {forward.port} is {counts[0]}",
                    )

    def check_complete(self) -> Iterator[Tuple[str, str]]:
        for forward in self.port_forwards or ():
            if forward.to_address and ipaddress.ip_address(forward.to_address).version == 6:
                if self.gateway6:
                    yield from self._check_target(forward, ipaddress.ip_interface(self.gateway6))
                else:
                    yield (
                        f"port_forwards['{forward.label}'].to_address",
                        f"{forward.to_address} is of IPv6, and there is no gateway6",
                    )

    @staticmethod
    def _check_target(forward: PortForward, gateway: Any) -> Iterator[Tuple[str, str]]:
        place = f"port_forwards['{forward.label}'].to_address"
        if ipaddress.ip_address(str(forward.to_address)) not in gateway.network:
            yield place, f"{forward.to_address} lies outside {gateway.network}"
        elif forward.to_address == str(gateway.ip):
            yield place, f"{forward.to_address} is the gateway, which is the host itself"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


@dataclass(frozen=True)
class KvmSwitch(ModelObject):
    """What only a KVM or plain Xen host has."""

    implementation: Optional[str] = option(
        Value(Choice("openvswitch", "linux_bridge")),
        "What the switch is made of.",
        default="openvswitch",
        create_only=True,
        capability="virtual_switch.kvm.*",
    )


@dataclass(frozen=True)
class VirtualSwitch(ModelObject):
    """A vSwitch, VMSwitch or bridge."""

    KIND = "virtual_switch"
    DESCRIPTION = "A virtual switch: a vSwitch of ESXi, a VMSwitch of Hyper-V, a bridge, a network of XenServer."

    name: Optional[str] = option(Value(Name()), "The switch's name.", key=True)
    type: Optional[str] = option(
        Value(Choice("bridged", "internal", "nat", "private")),
        "Whether it reaches the outside through uplinks (bridged), only this host and its guests (internal), the outside "
        "behind the host's address (nat), or only the guests (private).",
        default="bridged",
        create_only=True,
        capability="virtual_switch.type.*",
    )
    uplinks: Optional[Tuple[str, ...]] = option(
        Values(Name(), ordered=True, maximum=32),
        "The physical interfaces that it takes for itself. An uplink serves one switch.",
        default=[],
        claims="uplink",
    )
    bond: Optional[Bond] = option(Nested(Bond), "How several uplinks work as one.")
    mtu: Optional[int] = option(
        Value(Integer(1280, 9216, "bytes")), "The largest packet.", default=1500, capability="virtual_switch.mtu"
    )
    vlan_aware: Optional[bool] = option(
        Value(Boolean()),
        "Whether its ports may carry VLANs, where the platform's switches can also do without.",
        capability="virtual_switch.vlan_aware",
    )
    security: Optional[SwitchSecurity] = option(
        Nested(SwitchSecurity), "What its ports may do.", capability="virtual_switch.security"
    )
    nat: Optional[Nat] = option(Nested(Nat), "The private network of a switch of type nat.")
    kvm: Optional[KvmSwitch] = option(Nested(KvmSwitch), "What only a KVM or plain Xen host has.")

    def release(self, claims: Set[Tuple[str, str]]) -> Optional[VirtualSwitch]:
        left = tuple(uplink for uplink in self.uplinks or () if ("uplink", uplink) not in claims)
        return dataclasses.replace(self, uplinks=left, bond=self._bond_of(left))

    def _bond_of(self, uplinks: Tuple[str, ...]) -> Optional[Bond]:
        if self.bond is None or len(uplinks) < 2:
            return None
        return self.bond if self.bond.primary in uplinks else dataclasses.replace(self.bond, primary=None)

    def complete(self, current: Optional[VirtualSwitch]) -> VirtualSwitch:
        whole = super().complete(current)
        # With fewer than two uplinks left, a bond that the user does not speak of has nothing to join any more.
        if self.bond is None and len(whole.uplinks or ()) < 2:
            return dataclasses.replace(whole, bond=None)
        return whole

    def check_complete(self) -> Iterator[Tuple[str, str]]:
        uplinks = self.uplinks or ()
        if uplinks and self.type not in ("bridged", None):
            yield "uplinks", f"a switch of type {self.type} has none; only one of type bridged does"
        if len(uplinks) > 1 and self.bond is None:
            yield "bond", f"must be given, since there are {len(uplinks)} uplinks"
        if self.bond is not None:
            if len(uplinks) < 2:
                yield "bond", f"goes with two or more uplinks, and there are {len(uplinks)}"
            if self.bond.primary and self.bond.primary not in uplinks:
                yield "bond.primary", f"'{self.bond.primary}' is none of the uplinks {', '.join(uplinks)}"
        if self.type == "nat" and self.nat is None:
            yield "nat", "must be given for a switch of type nat"
        if self.type not in ("nat", None) and self.nat is not None:
            yield "nat", f"goes with type nat only, not with {self.type}"


@dataclass(frozen=True)
class Rate(ModelObject):
    """A bandwidth limit in one direction."""

    average: Optional[int] = option(
        Value(Integer(1, 400_000_000, "kbit/s")), "The average rate in kbit/s.", required=True
    )
    peak: Optional[int] = option(Value(Integer(1, 400_000_000, "kbit/s")), "The highest rate in kbit/s.")
    burst: Optional[int] = option(
        Value(Integer(1, 16_777_216, "KiB")), "How much may pass at the highest rate, in KiB."
    )


@dataclass(frozen=True)
class Bandwidth(ModelObject):
    """Bandwidth limits of each port of a network, seen from the guest."""

    inbound: Optional[Rate] = option(Nested(Rate), "Towards the guest.")
    outbound: Optional[Rate] = option(Nested(Rate), "From the guest.")


@dataclass(frozen=True)
class KvmNetworkSettings(ModelObject):
    """What only a KVM or plain Xen host has."""

    dot1q_tunnel: Optional[bool] = option(
        Value(Boolean()),
        "Whether its ports put all that they are given, with VLAN tags or without, into the network's VLAN (IEEE 802.1ad).",
        default=False,
        capability="virtual_network.kvm.dot1q_tunnel",
    )


@dataclass(frozen=True)
class VirtualNetwork(ModelObject):
    """A port group, VLAN network or vnet."""

    KIND = "virtual_network"
    DESCRIPTION = "A named network on a virtual switch: a port group of ESXi, a vnet of Proxmox VE, a VLAN network."

    name: Optional[str] = option(Value(Name()), "The network's name.", key=True)
    switch: Optional[str] = option(
        Value(Name()), "The virtual switch that it lies on.", required=True, reference="virtual_switch"
    )
    vlan: Optional[int] = option(
        Value(Integer(0, 4094)),
        "The VLAN id of its ports; 0 is untagged. With O(trunk) it is the native VLAN, whose frames are untagged.",
        default=0,
        capability="virtual_network.vlan",
    )
    trunk: Optional[Tuple[str, ...]] = option(
        Values(VlanRange(), maximum=4094),
        "The VLAN ids and ranges that its ports carry tagged.",
        default=[],
        capability="virtual_network.trunk",
    )
    isolated: Optional[bool] = option(
        Value(Boolean()),
        "Whether its ports reach only the uplink and not each other (private VLAN).",
        default=False,
        capability="virtual_network.isolated",
    )
    bandwidth: Optional[Bandwidth] = option(
        Nested(Bandwidth), "Limits of each port.", capability="virtual_network.bandwidth"
    )
    security: Optional[SwitchSecurity] = option(
        Nested(SwitchSecurity),
        "What its ports may do, where it differs from the switch.",
        capability="virtual_network.security",
    )
    subnets: Optional[Tuple[str, ...]] = option(
        Values(Cidr(), maximum=64),
        "The IP networks in use here. Where given, addresses of interfaces and VMs on it must lie in one of them.",
        default=[],
    )

    kvm: Optional[KvmNetworkSettings] = option(Nested(KvmNetworkSettings), "What only a KVM or plain Xen host has.")

    def check_complete(self) -> Iterator[Tuple[str, str]]:
        if self.trunk and self.isolated:
            yield "isolated", "does not go with trunk"
        if self.kvm is not None and self.kvm.dot1q_tunnel:
            if self.trunk:
                yield "kvm.dot1q_tunnel", "does not go with trunk"
            if not self.vlan:
                yield "kvm.dot1q_tunnel", "goes with a vlan only, which its frames are put into"
        spans = sorted(range_bounds(entry) for entry in self.trunk or ())
        for (_first, last), (following, _end) in zip(spans, spans[1:]):
            if following <= last:
                yield "trunk", f"the ranges overlap at {following}"


@dataclass(frozen=True)
class Route(ModelObject):
    """A route through a host interface."""

    destination: Optional[str] = option(Value(Cidr()), "The network that is reached.", key=True)
    gateway: Optional[str] = option(Value(IpAddress()), "The router.", required=True)


@dataclass(frozen=True)
class HostInterface(ModelObject):
    """An address of the host itself on a virtual network."""

    KIND = "host_interface"
    DESCRIPTION = "The host's own interface on a virtual network: a vmkernel adapter, a management vNIC, a PIF."

    name: Optional[str] = option(Value(Name()), "The interface's name.", key=True)
    network: Optional[str] = option(
        Value(Name()), "The virtual network that it is on.", required=True, reference="virtual_network"
    )
    addresses: Optional[Tuple[str, ...]] = option(
        Values(InterfaceAddress(), maximum=64),
        "Its addresses with their prefix lengths.",
        default=[],
    )
    dhcp: Optional[bool] = option(
        Value(Boolean()),
        "Whether it asks DHCP for an IPv4 address.",
        default=False,
        capability="host_interface.dhcp",
    )
    dhcp6: Optional[bool] = option(
        Value(Boolean()), "Whether it asks DHCPv6 for an IPv6 address.", capability="host_interface.dhcp6"
    )
    accept_ra: Optional[bool] = option(
        Value(Boolean()),
        "Whether it takes IPv6 addresses and routes from router advertisements (RFC 4862).",
        capability="host_interface.accept_ra",
    )
    forwarding: Optional[bool] = option(
        Value(Boolean()),
        "Whether the host routes between this network and those of its other interfaces that say so too. What passes "
        "is for the firewall's rules of direction forward to say.",
        default=False,
        capability="host_interface.forwarding",
    )
    gateway4: Optional[str] = option(Value(IpAddress(4)), "The IPv4 default gateway.", clearable=True)
    gateway6: Optional[str] = option(Value(IpAddress(6)), "The IPv6 default gateway.", clearable=True)
    routes: Optional[Tuple[Route, ...]] = option(
        NestedList(Route, ordered=False), "Further routes.", default=[], capability="host_interface.routes"
    )
    mtu: Optional[int] = option(
        Value(Integer(1280, 9216, "bytes")), "The largest packet.", default=1500, capability="host_interface.mtu"
    )
    mac: Optional[str] = option(
        Value(MacAddress()), "Its MAC address; chosen by the host where not given.", capability="host_interface.mac"
    )
    roles: Optional[Tuple[str, ...]] = option(
        Values(Choice("management", "storage", "migration")),
        "What it is used for.",
        default=[],
        capability="host_interface.role.*",
    )

    def check_complete(self) -> Iterator[Tuple[str, str]]:
        networks = [ipaddress.ip_interface(address).network for address in self.addresses or ()]
        for name in ("gateway4", "gateway6"):
            gateway = getattr(self, name)
            if gateway:
                address = ipaddress.ip_address(gateway)
                if not address.is_link_local and not any(address in network for network in networks):
                    yield name, f"{gateway} lies in none of the interface's networks"
                if any(str(ipaddress.ip_interface(own).ip) == gateway for own in self.addresses or ()):
                    yield name, f"{gateway} is the interface's own address"
        for route in self.routes or ():
            if route.gateway and route.destination:
                if ipaddress.ip_address(route.gateway).version != ipaddress.ip_network(route.destination).version:
                    yield (
                        f"routes['{route.label}'].gateway",
                        f"{route.gateway} and {route.destination} are of different IP versions",
                    )
