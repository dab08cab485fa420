# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the host routes: the networks behind switches of type nat, and between interfaces that say so.

One table of nftables, replaced as a whole, and the kernel's switch for forwarding. What is routed follows from the
switches and interfaces and is not asked for by itself. The table comes before the switch is turned on, so that there
is no moment, neither now nor at boot, in which the host routes anything else.
"""

from __future__ import annotations

import os
from typing import Any, Dict, Iterable, List, Optional, Sequence, Set

from ...errors import ApplyError
from ...model.network import HostInterface, VirtualSwitch
from ...transports import nftables
from . import host_devices, systemd
from .host_files import read_file, read_json, remove_file, write_atomically, write_json
from .nftables_rules import ROUTING_TABLE, Routing, routing_commands

ROUTING_FILE = "/etc/bareforge/routing.json"
FORWARDING_FILE = "/etc/bareforge/forwarding.conf"
ROUTING_UNIT = "bareforge-routing.service"
ROUTING_UNIT_TEXT = systemd.nftables_unit(
    "Routing and NAT of the host, by Bareforge",
    ROUTING_UNIT.partition(".")[0],
    ROUTING_FILE,
    after=["systemd-sysctl.service"],
    commands=[f"/lib/systemd/systemd-sysctl {FORWARDING_FILE}"],
)

SWITCHES = {4: "net/ipv4/ip_forward", 6: "net/ipv6/conf/all/forwarding"}
PROC = "/proc/sys"


def routing_of(switches: Iterable[VirtualSwitch], interfaces: Iterable[HostInterface]) -> Routing:
    """Return what the host has to route for switches and interfaces as they were asked for."""
    nats = sorted((switch for switch in switches if switch.type == "nat"), key=lambda switch: str(switch.name))
    own = list(interfaces)
    routers = sorted(str(item.name) for item in own if item.forwarding)
    if not nats and not routers:
        return Routing()
    names = {name for name in host_devices.device_names() if host_devices.is_uplink_like(name)}
    names |= {str(item.name) for item in own}
    return Routing(tuple(nats), tuple(routers), tuple(sorted(names - set(routers))))


def _asked() -> Dict[str, Any]:
    data = read_json(ROUTING_FILE)
    kept = data.get("bareforge") if isinstance(data, dict) else None
    return {**kept, "commands": data.get("nftables")} if isinstance(kept, dict) else {}


def _commands(routing: Routing, ours: Sequence[int]) -> List[nftables.Command]:
    # Where somebody else had forwarding on already, the host routed between all its devices, and may have to.
    return routing_commands(routing if ours else Routing(routing.nats, routing.routers, ()))


def is_in_force(routing: Routing) -> bool:
    """Return whether the host routes as it should, and will after it has been restarted. Raises ReadError."""
    asked = _asked()
    if routing.is_empty():
        return not asked
    commands = _commands(routing, asked.get("switched_on", ()))
    return (
        asked.get("commands") == commands
        and read_file(FORWARDING_FILE) == _forwarding_text(routing.families())
        and all(_is_on(family) for family in routing.families())
        and systemd.unit_is_installed(ROUTING_UNIT, ROUTING_UNIT_TEXT, systemd.NFTABLES_TARGET)
        and nftables.list_table(*ROUTING_TABLE) == nftables.preview(commands, [ROUTING_TABLE])[ROUTING_TABLE]
    )


def put_in_force(routing: Routing) -> None:
    """Make the host route as it should, now and after it has been restarted. Raises ApplyError or ReadError."""
    asked = _asked()
    if routing.is_empty():
        if asked:
            _switch_off(asked)
        return
    if is_in_force(routing):
        return
    families = routing.families()
    ours = sorted({*asked.get("switched_on", ()), *(family for family in families if not _is_on(family))})
    commands = _commands(routing, ours)
    # Whose forwarding it is has to be known before it is on: a run that is killed in between would take it for another's.
    write_json(ROUTING_FILE, {"bareforge": {"switched_on": ours}, **nftables.document(commands)})
    nftables.run(commands)
    write_atomically(FORWARDING_FILE, _forwarding_text(families), 0o644)
    for family in families:
        if not _is_on(family):
            _turn(family, True)
    systemd.install_unit(ROUTING_UNIT, ROUTING_UNIT_TEXT, systemd.NFTABLES_TARGET)


def _switch_off(asked: Dict[str, Any]) -> None:
    if not others_route():
        for family in asked.get("switched_on", ()):
            _turn(family, False)
    nftables.run(routing_commands(Routing()))
    systemd.remove_unit(ROUTING_UNIT, systemd.NFTABLES_TARGET)
    remove_file(FORWARDING_FILE)
    # Last, since it says that there is something left to remove.
    remove_file(ROUTING_FILE)


def others_route() -> bool:
    """Return whether a bridge of somebody else (libvirt's own networks, containers) needs forwarding, for all we know."""
    bridges = {name for name in host_devices.device_names() if host_devices.is_linux_bridge(name)}
    return bool(bridges & {name for name, entries in host_devices.read_addresses().addresses.items() if entries})


def held_back_by_forwarding(routing: Routing) -> Set[str]:
    """Return the devices whose IPv6 addresses the kernel itself takes from router advertisements.

    It stops doing so as soon as IPv6 is forwarded, unless accept_ra is 2 (ip-sysctl in the kernel's documentation).
    """
    if 6 not in routing.families() or _is_on(6):
        return set()
    return {
        name
        for name, routes in host_devices.read_addresses().routes.items()
        if any(route.destination == "::/0" and not route.static for route in routes)
        and _value(f"net/ipv6/conf/{name}/accept_ra") == "1"
    }


def saved_values() -> Dict[str, str]:
    """Return the kernel's switches by path, to be written back by an undo."""
    return {f"{PROC}/{name}": "1\n" if _is_on(family) else "0\n" for family, name in SWITCHES.items()}


def _forwarding_text(families: Sequence[int]) -> bytes:
    return "".join(f"{SWITCHES[family]} = 1\n" for family in families).encode("ascii")


def _is_on(family: int) -> bool:
    return _value(SWITCHES[family]) not in (None, "0")


def _value(name: str) -> Optional[str]:
    content = read_file(f"{PROC}/{name}")
    return None if content is None else content.decode("ascii", "replace").strip()


def _turn(family: int, on: bool) -> None:
    path = os.path.join(PROC, SWITCHES[family])
    try:
        with open(path, "w", encoding="ascii") as stream:
            stream.write("1\n" if on else "0\n")
    except OSError as error:
        raise ApplyError(f"{path} could not be written: {error.strerror or error}") from error
