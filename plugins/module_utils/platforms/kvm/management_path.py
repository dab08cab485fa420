# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which of the host's network devices carry the path that the controller manages it through."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import FrozenSet, List, Optional, Set

from ...model.network import HostInterface
from .controller import controller_connection
from .host_devices import HostAddresses

SSH_PORT = 22
_ESTABLISHED = "01"


@dataclass(frozen=True)
class ManagementPath:
    """The path: the devices that it leads through, and the addresses of its two ends where they are known."""

    devices: FrozenSet[str]
    host_addresses: FrozenSet[str]
    controllers: FrozenSet[str]

    def is_led_by(self, interface: HostInterface) -> bool:
        """Return whether an interface holds the path's address, or decides over the way back to the controller."""
        if interface.name in self.devices:
            return True
        if any(address.partition("/")[0] in self.host_addresses for address in interface.addresses or ()):
            return True
        if interface.gateway4 or interface.gateway6 or interface.dhcp or interface.dhcp6 or interface.accept_ra:
            return True
        networks = [ipaddress.ip_interface(address).network for address in interface.addresses or ()]
        networks += [ipaddress.ip_network(str(route.destination)) for route in interface.routes or ()]
        return any(ipaddress.ip_address(peer) in network for peer in self.controllers for network in networks)


def find_management_path(host: HostAddresses) -> ManagementPath:
    """Find the path: by the SSH connection that this process came by, or else by all that are there to the SSH port.

    Whatever a default route leads through is part of it in any case, since it is the way back.
    """
    here: Set[str] = set()
    there: Set[str] = set()
    connection = controller_connection()
    if connection is not None:
        here.add(connection.host_address)
        there.add(connection.address)
    else:
        for own, other in established_connections(SSH_PORT):
            here.add(own)
            there.add(other)
    devices = {device for address in here for device in host.holders(address)} | set(host.with_default_route())
    devices.discard("lo")
    return ManagementPath(frozenset(devices), frozenset(here), frozenset(there))


def established_connections(port: int, folder: str = "/proc/net") -> List[List[str]]:
    """Return [own address, other address] of every TCP connection to a port of this host (proc(5))."""
    found = []
    for table in ("tcp", "tcp6"):
        try:
            with open(f"{folder}/{table}", encoding="ascii") as stream:
                lines = stream.read().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            own, other, state = fields[1], fields[2], fields[3]
            if state == _ESTABLISHED and int(own.partition(":")[2], 16) == port:
                pair = [_address(own.partition(":")[0]), _address(other.partition(":")[0])]
                if None not in pair:
                    found.append([str(text) for text in pair])
    return found


def _address(digits: str) -> Optional[str]:
    # Words of 32 bits in the byte order of the machine, which is little-endian on x86-64.
    words = [bytes.fromhex(digits[at : at + 8])[::-1] for at in range(0, len(digits), 8)]
    address = ipaddress.ip_address(b"".join(words))
    mapped = getattr(address, "ipv4_mapped", None)
    return None if address.is_loopback else str(mapped or address)
