# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What systemd-networkd is told about the host's interfaces and uplinks (systemd.network(5)).

networkd, since it is on Debian and Ubuntu alike (netplan only writes files for it), applies a change to one interface
and leaves the others alone.
"""

from __future__ import annotations

import time
from typing import Callable, Collection, Iterable, List, Tuple

from ...errors import ApplyError
from ...model.network import HostInterface
from .host_devices import exists
from .host_files import read_file, remove_file, write_atomically
from .systemd import run_command

FOLDER = "/etc/systemd/network"
# The first file that matches a device wins, whatever folder it is in. What netplan and cloud-init write begins with 10
# or more: an uplink that they gave an address to has to lose it to the interface on the switch.
PREFIX = "05-bareforge-"
PATIENCE = 30.0  # seconds until addresses have to be there


def path_of(device: str) -> str:
    """Return the path of the file about a device."""
    return f"{FOLDER}/{PREFIX}{device}.network"


Section = Tuple[str, List[Tuple[str, str]]]


def _file(sections: Iterable[Section]) -> bytes:
    text = ["# Written by Bareforge; changes are undone by its next run.\n"]
    for name, entries in sections:
        text.append(f"[{name}]\n")
        text.extend(f"{key}={value}\n" for key, value in entries)
    return "".join(text).encode("ascii")


def uplink_file(device: str) -> bytes:
    """Return the file that switches an uplink on when the host starts and keeps addresses away from it.

    The MTU is not in it: Open vSwitch keeps that.
    """
    return _file(
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


def interface_file(interface: HostInterface) -> bytes:
    """Return the file of one of the host's interfaces.

    The MTU and the MAC address are not in it: Open vSwitch keeps those.
    interface: complete.
    """
    addresses = interface.addresses or ()
    routes = interface.routes or ()
    ipv6 = bool(interface.gateway6) or any(":" in text for text in (*addresses, *(str(r.destination) for r in routes)))
    network = [
        ("DHCP", "ipv4" if interface.dhcp else "no"),
        ("LinkLocalAddressing", "ipv6" if ipv6 else "no"),
        # Who sends router advertisements there would choose the host's addresses and its way out.
        ("IPv6AcceptRA", "no"),
        *(("Address", address) for address in addresses),
    ]
    sections: List[Section] = [("Match", [("Name", str(interface.name))]), ("Network", network)]
    sections += [("Route", [("Gateway", gateway)]) for gateway in (interface.gateway4, interface.gateway6) if gateway]
    sections += [
        ("Route", [("Destination", str(route.destination)), ("Gateway", str(route.gateway))]) for route in routes
    ]
    if interface.dhcp:
        # By MAC address, as every DHCP server can reserve it; a host's own name is not the network's to give.
        sections.append(("DHCPv4", [("ClientIdentifier", "mac"), ("UseHostname", "no")]))
    return _file(sections)


def is_written(device: str, content: bytes) -> bool:
    """Return whether the file about a device is there as it should be."""
    return read_file(path_of(device)) == content


def write(device: str, content: bytes) -> bool:
    """Write the file about a device; return whether it was not there so already. Raises ApplyError."""
    if is_written(device, content):
        return False
    write_atomically(path_of(device), content, 0o644)
    return True


def remove(device: str) -> bool:
    """Remove the file about a device; return whether there was one. Raises ApplyError."""
    return remove_file(path_of(device))


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
    end = time.monotonic() + patience
    pause = 0.02
    while True:
        missing = condition()
        if not missing:
            return
        if time.monotonic() >= end:
            raise ApplyError(
                f"{'; '.join(missing)}, {patience:.0f} s after systemd-networkd was told",
                "See journalctl -u systemd-networkd on the host",
            )
        time.sleep(pause)
        pause = min(pause * 2, 0.5)
