# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The host's network devices as the kernel shows them: sysfs for single facts, ip(8) for addresses and routes."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import subprocess
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Tuple

from ...errors import ReadError
from .host_files import read_file

SYSFS = "/sys/class/net"
# What the kernel (IFNAMSIZ is 16 with the end of the string), systemd-networkd's [Match] and libvirt all take for one
# plain name.
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}")
NAME_RULE = (
    "the name of a network device: 1 to 15 characters, of them the first a letter, digit or _, the others also . and -"
)
_IFF_UP = 1


def name_problem(name: Optional[str]) -> Optional[str]:
    """Return why a network device cannot have a name, or None where it can."""
    if name and NAME.fullmatch(name) and name not in ("all", "default", "lo", "bonding_masters"):
        return None
    return f"a KVM host cannot name a network device {name!r}; allowed is {NAME_RULE}"


def device_names() -> List[str]:
    """Return the names of all network devices but the loopback."""
    try:
        names = os.listdir(SYSFS)
    except OSError as error:
        raise ReadError(f"{SYSFS} could not be read: {error.strerror or error}") from error
    return sorted(name for name in names if name != "lo" and os.path.isdir(f"{SYSFS}/{name}"))


def exists(name: str) -> bool:
    """Return whether there is a network device of that name."""
    return os.path.isdir(f"{SYSFS}/{name}")


def is_uplink_like(name: str) -> bool:
    """Return whether a device leads out of the host: hardware, or a bond or VLAN that the kernel makes of hardware."""
    return any(os.path.exists(f"{SYSFS}/{name}/{entry}") for entry in ("device", "bonding")) or os.path.exists(
        f"/proc/net/vlan/{name}"
    )


def is_made_of_hardware(name: str) -> bool:
    """Return whether a device is a bond or VLAN of the kernel."""
    return os.path.exists(f"{SYSFS}/{name}/bonding") or os.path.exists(f"/proc/net/vlan/{name}")


def is_tap(name: str) -> bool:
    """Return whether a device is a VM's or another program's end (TUN/TAP)."""
    return os.path.exists(f"{SYSFS}/{name}/tun_flags")


def is_linux_bridge(name: str) -> bool:
    """Return whether a device is a bridge of the kernel's own."""
    return os.path.isdir(f"{SYSFS}/{name}/bridge")


def master_of(name: str) -> Optional[str]:
    """Return the name of the bridge or bond that a device belongs to; for Open vSwitch that is its datapath."""
    try:
        return os.path.basename(os.readlink(f"{SYSFS}/{name}/master"))
    except OSError:
        return None


def mtu_of(name: str) -> Optional[int]:
    """Return a device's MTU in bytes, or None where there is no such device."""
    text = _attribute(name, "mtu")
    return int(text) if text else None


def mac_of(name: str) -> Optional[str]:
    """Return a device's MAC address, or None where there is no such device."""
    return _attribute(name, "address")


def is_up(name: str) -> bool:
    """Return whether a device is switched on, with or without a carrier."""
    text = _attribute(name, "flags")
    return text is not None and bool(int(text, 16) & _IFF_UP)


def _attribute(name: str, attribute: str) -> Optional[str]:
    try:
        content = read_file(f"{SYSFS}/{name}/{attribute}")
    except ReadError:
        return None
    return content.decode("ascii", "replace").strip() if content else None


@dataclass(frozen=True)
class DeviceAddress:
    """An address of a device with its prefix length; whether DHCP or a router gave it, and whether it is usable yet."""

    address: str
    dynamic: bool
    usable: bool


@dataclass(frozen=True)
class DeviceRoute:
    """A route through a device; destination 0.0.0.0/0 or ::/0 is the default. static: whether configuration made it."""

    destination: str
    gateway: Optional[str]
    static: bool
    metric: int


@dataclass(frozen=True)
class HostAddresses:
    """Addresses, without the link-local ones, and routes by device."""

    addresses: Dict[str, Tuple[DeviceAddress, ...]]
    routes: Dict[str, Tuple[DeviceRoute, ...]]

    def static(self, device: str) -> Tuple[str, ...]:
        """Return the configured addresses of a device, sorted as the model keeps them."""
        return tuple(sorted(entry.address for entry in self.addresses.get(device, ()) if not entry.dynamic))

    def are_usable(self, device: str) -> bool:
        """Return whether no address of a device still waits for duplicate address detection, or failed it."""
        return all(entry.usable for entry in self.addresses.get(device, ()))

    def holders(self, address: str) -> List[str]:
        """Return the names of the devices that hold an address (without prefix length)."""
        return [
            device
            for device, entries in self.addresses.items()
            if any(entry.address.partition("/")[0] == address for entry in entries)
        ]

    def with_default_route(self) -> List[str]:
        """Return the names of the devices that a default route leads through."""
        return [
            device
            for device, routes in self.routes.items()
            if any(route.destination in ("0.0.0.0/0", "::/0") for route in routes)
        ]


def read_addresses() -> HostAddresses:
    """Read all addresses, the configured routes and the default ones, with one process of ip(8). Raises ReadError."""
    questions = "address show\nroute show table all proto static\nroute show table all default\n"
    argv = ["ip", "-j", "-batch", "-"]
    try:
        done = subprocess.run(argv, input=questions, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ReadError(f"the host's addresses could not be read by ip(8): {error}") from error
    if done.returncode != 0:
        raise ReadError(f"the host's addresses could not be read by ip(8): {done.stderr.strip()}")
    try:
        answers = [json.loads(line) for line in done.stdout.splitlines() if line.strip()]
        shown, *routes = answers
    except ValueError as error:
        raise ReadError(f"ip(8) answered what is no JSON: {error}") from error
    addresses = {
        str(device["ifname"]): tuple(_addresses(device.get("addr_info", ()))) for device in shown if "ifname" in device
    }
    by_device: Dict[str, Dict[DeviceRoute, None]] = {}
    for entry in (route for answer in routes for route in answer):
        if "dev" in entry and "dst" in entry and entry.get("type", "unicast") == "unicast":
            by_device.setdefault(entry["dev"], {})[_route(entry)] = None
    return HostAddresses(addresses, {device: tuple(found) for device, found in by_device.items()})


def _addresses(entries: Any) -> List[DeviceAddress]:
    found = []
    for entry in entries:
        if "local" not in entry:
            continue
        text = str(ipaddress.ip_interface(f"{entry['local']}/{entry['prefixlen']}"))
        if entry["family"] == "inet6" and entry.get("scope") == "link":
            continue
        usable = not entry.get("tentative") and not entry.get("dadfailed")
        found.append(DeviceAddress(text, bool(entry.get("dynamic")), usable))
    return found


def _route(entry: Any) -> DeviceRoute:
    destination = entry["dst"]
    if destination == "default":
        # Only IPv6 routes tell their preference (RFC 4191), whatever other fields are left out.
        ipv6 = "pref" in entry or ":" in entry.get("gateway", "")
        destination = "::/0" if ipv6 else "0.0.0.0/0"
    static = entry.get("protocol", "static") == "static"
    return DeviceRoute(
        str(ipaddress.ip_network(destination, strict=False)), entry.get("gateway"), static, int(entry.get("metric", 0))
    )
