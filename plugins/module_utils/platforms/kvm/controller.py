# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The connection that the controller manages this host through, and whether a firewall lets it in."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from typing import Iterable, List, Optional, Sequence, Tuple

from ...model.firewall import SERVICES, Firewall, FirewallRule
from ...model.types import range_bounds
from .nftables_rules import MANAGEMENT_PORTS, ordered
from .systemd import run_command


@dataclass(frozen=True)
class Connection:
    """The SSH connection that this process came by (SSH_CONNECTION in ssh(1))."""

    address: str
    port: int
    host_address: str
    host_port: int


def controller_connection(process: Optional[int] = None, folder: str = "/proc") -> Optional[Connection]:
    """Return the SSH connection that a process came by, or None where it came by none.

    sudo clears the environment, so the parents are asked too.
    process: its id, this process where not given. folder: where proc(5) is.
    """
    number = os.getpid() if process is None else process
    for _generation in range(64):
        found = _in_environment(f"{folder}/{number}/environ")
        if found is not None:
            return found
        number = _parent(f"{folder}/{number}/stat")
        if number < 1:
            return None
    return None


def _in_environment(path: str) -> Optional[Connection]:
    try:
        with open(path, "rb") as stream:
            entries = stream.read().split(b"\0")
    except OSError:
        return None
    for entry in entries:
        name, _equals, value = entry.partition(b"=")
        if name == b"SSH_CONNECTION":
            return _parse(value.decode("ascii", "replace"))
    return None


def _parse(text: str) -> Optional[Connection]:
    parts = text.split(" ")
    if len(parts) != 4 or not (parts[1].isdigit() and parts[3].isdigit()):
        return None
    try:
        addresses = [_plain_address(part) for part in (parts[0], parts[2])]
    except ValueError:
        return None
    return Connection(addresses[0], int(parts[1]), addresses[1], int(parts[3]))


def _plain_address(text: str) -> str:
    address = ipaddress.ip_address(text.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def _parent(path: str) -> int:
    try:
        with open(path, "rb") as stream:
            # The second field is the program's name in brackets, which may hold anything.
            return int(stream.read().rpartition(b")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0


def lets_in(firewall: Firewall, rules: Iterable[FirewallRule], connection: Connection) -> bool:
    """Return whether a new connection like this one would pass a firewall.

    firewall, rules: complete.
    """
    if not firewall.enabled or ipaddress.ip_address(connection.address).is_loopback:
        return True
    if _in_ports(connection.host_port, firewall.management_ports or MANAGEMENT_PORTS):
        if _in_networks(connection.address, firewall.management_sources or ()):
            return True
    interface: List[str] = []
    for rule in ordered(rules):
        if not rule.enabled or rule.direction != "inbound" or not _concerns(rule, connection):
            continue
        if rule.interfaces:
            interface = interface or interfaces_of(connection.host_address)
            if not set(interface) & set(rule.interfaces):
                continue
        if rule.action == "allow":
            return True
        # A deny with a rate limit takes some packets only: what comes after it decides.
        if rule.rate_limit is None:
            return False
    return firewall.default_inbound == "allow"


def _concerns(rule: FirewallRule, connection: Connection) -> bool:
    kinds: Sequence[Tuple[str, Sequence[str]]] = (
        SERVICES[rule.service] if rule.service else ((rule.protocol or "any", rule.ports or ()),)
    )
    if not any(
        protocol == "any" or (protocol == "tcp" and (not ports or _in_ports(connection.host_port, ports)))
        for protocol, ports in kinds
    ):
        return False
    return _in_networks(connection.address, rule.sources or ()) and _in_networks(
        connection.host_address, rule.destinations or ()
    )


def reaches_ports(rule: FirewallRule, ports: Sequence[str]) -> bool:
    """Return whether a rule can decide over new TCP connections to some of the ports of this host."""
    if rule.direction != "inbound":
        return False
    wanted = [range_bounds(port) for port in ports]
    for protocol, own in SERVICES[rule.service] if rule.service else ((rule.protocol or "any", rule.ports or ()),):
        if protocol not in ("any", "tcp"):
            continue
        spans = [range_bounds(port) for port in own]
        if not spans or any(first <= high and low <= last for first, last in spans for low, high in wanted):
            return True
    return False


def _in_ports(port: int, ports: Sequence[str]) -> bool:
    return any(first <= port <= last for first, last in map(range_bounds, ports))


def _in_networks(address: str, networks: Sequence[str]) -> bool:
    return not networks or any(ipaddress.ip_address(address) in ipaddress.ip_network(network) for network in networks)


def interfaces_of(address: str) -> List[str]:
    """Return the names of the host's interfaces that hold an address."""
    output = run_command(["ip", "-o", "address", "show", "to", address])
    return [line.split()[1] for line in output.splitlines() if len(line.split()) > 1]
