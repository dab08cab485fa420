# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The host as the gateway of a switch of type nat.

Its end of the switch has the gateway's addresses; systemd-networkd gives out addresses by DHCP and by router
advertisements there. What is translated and forwarded stands in the routing table.
"""

from __future__ import annotations

import ipaddress
from typing import Iterator, List, Optional, Sequence, Tuple

from ...model.network import Nat, PortForward, VirtualSwitch
from ...model.types import range_bounds
from . import host_devices, renderer_of_host
from .host_devices import HostAddresses

MAPPED_PORTS = 1024  # a rule of the kernel each


def addresses_of(switch: VirtualSwitch) -> Tuple[str, ...]:
    """Return the host's addresses on a switch, with their prefix lengths, sorted."""
    nat = switch.nat
    return tuple(sorted(filter(None, (nat.gateway, nat.gateway6)))) if nat is not None else ()


def what_is_missing(switch: VirtualSwitch, host: HostAddresses) -> List[str]:
    """Return, in words, what the host's end of a switch does not show yet. switch: complete."""
    name, place = str(switch.name), switch.place.field("nat").text
    if not host_devices.is_up(name):
        return [f"{place}: {name} is not up"]
    shown, wanted = host.static(name), addresses_of(switch)
    if shown != wanted:
        return [f"{place}: {name} has the addresses {', '.join(shown) or 'none'} and not {', '.join(wanted)}"]
    if not host.are_usable(name):
        return [f"{place}: an address of {name} is in use by another host or still being checked for that"]
    return []


def is_whole(switch: VirtualSwitch, host: HostAddresses) -> bool:
    """Return whether the host's end of a switch is as it was asked for."""
    renderer = renderer_of_host.renderer()
    return renderer.are_written(renderer.gateway_files(switch)) and not what_is_missing(switch, host)


def problems(
    switch: VirtualSwitch,
    others: Sequence[VirtualSwitch],
    taken: Sequence[Tuple[str, str]],
    management_ports: Sequence[str],
) -> Iterator[Tuple[str, str]]:
    """Yield (field, message) for what speaks against a complete switch of type nat on this host.

    others: the other switches of that type. taken: (address with prefix length, device) of what the host has, or shall
    have, beside them. management_ports: the TCP ports that the host is managed through.
    """
    nat = switch.nat
    if nat is None:
        return
    for field, gateway in (("gateway", nat.gateway), ("gateway6", nat.gateway6)):
        if gateway:
            yield from _overlaps(field, gateway, [*taken, *_addresses_of_all(others)])
    if nat.gateway6 and ipaddress.ip_interface(nat.gateway6).network.prefixlen != 64:
        yield (
            "nat.gateway6",
            f"{nat.gateway6} is not allowed; allowed is a prefix length of 64, which guests need (RFC 4862)",
        )
    elsewhere = [(other, forward) for other in others for forward in _forwards(other)]
    own = nat.port_forwards or ()
    for number, forward in enumerate(own):
        place = f"nat.port_forwards['{forward.label}']"
        if forward.protocol == "tcp" and any(_meet(str(forward.port), port) for port in management_ports):
            yield (
                f"{place}.port",
                f"{forward.port} holds a port that the host is managed through: {', '.join(management_ports)}",
            )
        for other, theirs in [*((switch, entry) for entry in own[:number]), *elsewhere]:
            if _same_door(forward, theirs):
                yield f"{place}.port", f"{forward.port} leads to {theirs.to_address} behind {other.name!r} already"
        first, last = range_bounds(str(forward.port))
        if forward.to_port and forward.to_port != forward.port and last - first >= MAPPED_PORTS:
            yield f"{place}.to_port", f"{last - first + 1} other ports are not allowed; allowed are {MAPPED_PORTS}"


def _addresses_of_all(switches: Sequence[VirtualSwitch]) -> Iterator[Tuple[str, str]]:
    for switch in switches:
        for address in addresses_of(switch):
            yield address, str(switch.name)


def _overlaps(field: str, gateway: str, taken: Sequence[Tuple[str, str]]) -> Iterator[Tuple[str, str]]:
    network = ipaddress.ip_interface(gateway).network
    for address, device in sorted(set(taken)):
        theirs = ipaddress.ip_interface(address).network
        if theirs.version == network.version and network.overlaps(theirs):
            yield f"nat.{field}", f"{network} overlaps with {theirs}, which is on {device}"
            return


def _forwards(switch: VirtualSwitch) -> Sequence[PortForward]:
    nat: Optional[Nat] = switch.nat
    return (nat.port_forwards or ()) if nat is not None else ()


def _same_door(left: PortForward, right: PortForward) -> bool:
    versions = {ipaddress.ip_address(str(entry.to_address)).version for entry in (left, right)}
    return left.protocol == right.protocol and len(versions) == 1 and _meet(str(left.port), str(right.port))


def _meet(left: str, right: str) -> bool:
    (first, last), (low, high) = range_bounds(left), range_bounds(right)
    return first <= high and low <= last
