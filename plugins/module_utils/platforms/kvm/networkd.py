# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What systemd-networkd is told about the host's interfaces and uplinks (systemd.network(5)).

networkd, since it is on Debian and Ubuntu alike (netplan only writes files for it), applies a change to one interface
and leaves the others alone.
"""

from __future__ import annotations

import ipaddress
from typing import Callable, Collection, Iterable, List, Sequence, Tuple

from ...model.network import HostInterface, VirtualSwitch
from .host_devices import exists
from .host_files import read_file, remove_file, write_atomically
from .network_renderer import wait_for
from .systemd import run_command

FOLDER = "/etc/systemd/network"
# The first file that matches a device wins, whatever folder it is in. What netplan and cloud-init write begins with 10
# or more: an uplink that they gave an address to has to lose it to the interface on the switch.
PREFIX = "05-bareforge-"
PATIENCE = 30.0  # seconds until addresses have to be there


NETWORK = ".network"


def path_of(device: str, suffix: str = NETWORK) -> str:
    """Return the path of the file about a device. suffix: `.network` or `.netdev`, for the file that makes one."""
    return f"{FOLDER}/{PREFIX}{device}{suffix}"


Section = Tuple[str, List[Tuple[str, str]]]


def file_of(sections: Iterable[Section], note: str = "") -> bytes:
    """Return what stands in a file. note: a line of comment, or none."""
    text = ["# Written by Bareforge; changes are undone by its next run.\n"]
    if note:
        text.append(f"{note}\n")
    for name, entries in sections:
        text.append(f"[{name}]\n")
        text.extend(f"{key}={value}\n" for key, value in entries)
    return "".join(text).encode("ascii")


def uplink_file(device: str) -> bytes:
    """Return the file that switches an uplink on when the host starts and keeps addresses away from it.

    The MTU is not in it: Open vSwitch keeps that.
    """
    return file_of(
        [
            ("Match", [("Name", device)]),
            # A cable that is not plugged in must not hold up the start of the host.
            ("Link", [("RequiredForOnline", "no")]),
            (
                "Network",
                [
                    ("DHCP", "no"),
                    ("LinkLocalAddressing", "no"),
                    ("IPv6AcceptRA", "no"),
                    ("ConfigureWithoutCarrier", "yes"),
                ],
            ),
        ]
    )


def interface_file(interface: HostInterface, link: Sequence[Tuple[str, str]] = ()) -> bytes:
    """Return the file of one of the host's interfaces.

    interface: complete. link: settings of its section [Link]; on Open vSwitch, which keeps MTU and MAC address, none.
    """
    addresses = interface.addresses or ()
    routes = interface.routes or ()
    learned = bool(interface.dhcp6 or interface.accept_ra)
    given = any(":" in text for text in (*addresses, *(str(route.destination) for route in routes)))
    ipv6 = learned or given or bool(interface.gateway6)
    network = [
        ("DHCP", _DHCP[bool(interface.dhcp), bool(interface.dhcp6)]),
        ("LinkLocalAddressing", "ipv6" if ipv6 else "no"),
        # Who sends router advertisements there would choose the host's addresses and its way out.
        ("IPv6AcceptRA", "yes" if interface.accept_ra else "no"),
        *(("Address", address) for address in addresses),
    ]
    sections: List[Section] = [("Match", [("Name", str(interface.name))])]
    sections += [("Link", list(link))] if link else []
    sections.append(("Network", network))
    sections += [("Route", [("Gateway", gateway)]) for gateway in (interface.gateway4, interface.gateway6) if gateway]
    sections += [
        ("Route", [("Destination", str(route.destination)), ("Gateway", str(route.gateway))]) for route in routes
    ]
    if interface.dhcp:
        # By MAC address, as every DHCP server can reserve it; a host's own name is not the network's to give.
        sections.append(("DHCPv4", [("ClientIdentifier", "mac"), ("UseHostname", "no")]))
    if interface.dhcp6:
        # DHCPv6 needs no router that tells of it.
        sections.append(("DHCPv6", [("WithoutRA", "solicit"), ("UseHostname", "no")]))
    if interface.accept_ra:
        # Whether DHCPv6 is asked is for dhcp6 to say, and not for who sends the advertisements.
        sections.append(("IPv6AcceptRA", [("DHCPv6Client", "no")]))
    return file_of(sections)


def gateway_file(switch: VirtualSwitch) -> bytes:
    """Return the file of the host's end of a switch of type nat: its addresses, DHCP and router advertisements.

    switch: complete.
    """
    nat = switch.nat
    if nat is None:
        raise AssertionError("not reached: nat is None")
    addresses = [text for text in (nat.gateway, nat.gateway6) if text]
    network = [
        ("DHCP", "no"),
        ("LinkLocalAddressing", "ipv6" if nat.gateway6 else "no"),
        ("IPv6AcceptRA", "no"),
        ("ConfigureWithoutCarrier", "yes"),
        *(("Address", address) for address in addresses),
        ("DHCPServer", "yes" if nat.dhcp else "no"),
        ("IPv6SendRA", "yes" if nat.gateway6 else "no"),
    ]
    sections: List[Section] = [
        ("Match", [("Name", str(switch.name))]),
        ("Link", [("RequiredForOnline", "no")]),
        ("Network", network),
    ]
    if nat.dhcp:
        start, end = (int(ipaddress.IPv4Address(str(text))) for text in (nat.dhcp.start, nat.dhcp.end))
        offset = start - int(ipaddress.ip_interface(str(nat.gateway)).network.network_address)
        # Guests are told the DNS servers that the host itself uses at that moment (systemd.network(5), EmitDNS=).
        pool = [("PoolOffset", str(offset)), ("PoolSize", str(end - start + 1)), ("EmitDNS", "yes")]
        sections.append(("DHCPServer", pool))
    if nat.gateway6:
        prefix = str(ipaddress.ip_interface(nat.gateway6).network)
        sections.append(("IPv6SendRA", [("EmitDNS", "yes")]))
        sections.append(("IPv6Prefix", [("Prefix", prefix)]))
    return file_of(sections)


_DHCP = {(False, False): "no", (True, False): "ipv4", (False, True): "ipv6", (True, True): "yes"}


def is_written(device: str, content: bytes, suffix: str = NETWORK) -> bool:
    """Return whether the file about a device is there as it should be."""
    return read_file(path_of(device, suffix)) == content


def write(device: str, content: bytes, suffix: str = NETWORK) -> bool:
    """Write the file about a device; return whether it was not there so already. Raises ApplyError."""
    if is_written(device, content, suffix):
        return False
    write_atomically(path_of(device, suffix), content, 0o644)
    return True


def remove(device: str, suffix: str = NETWORK) -> bool:
    """Remove the file about a device; return whether there was one. Raises ApplyError."""
    return remove_file(path_of(device, suffix))


def apply(changed: bool, devices: Collection[str]) -> None:
    """Let networkd take over files that were written or removed, and configure devices anew.

    changed: whether this run has changed files; networkd finds out by itself which devices they are about.
    devices: those that are not as their files say, although this run did not change these.
    Raises ApplyError.
    """
    if changed or devices:
        # A run that was killed may have written a file that networkd has not read yet.
        run_command(["networkctl", "reload"])
    present = sorted(device for device in devices if exists(device))
    if present:
        run_command(["networkctl", "reconfigure", *present])


def wait_until(condition: Callable[[], List[str]], patience: float = PATIENCE) -> None:
    """Wait until there is nothing left to wait for.

    condition: returns what is still missing, in words.
    patience: in seconds.
    Raises ApplyError with what is missing by then.
    """
    wait_for(condition, patience, "systemd-networkd", "systemd-networkd")
