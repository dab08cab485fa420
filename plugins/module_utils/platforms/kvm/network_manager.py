# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What keeps the host's interfaces by profiles of NetworkManager (nm-settings-keyfile(5)), told through nmcli(1).

A device of ours has a profile with a name of ours and the highest priority, so a profile of somebody else for the same
device stays as it is and is not used. Profiles of others are never touched.

An internal port of Open vSwitch is a device of type generic for NetworkManager, which leaves those alone until it is told to
manage them; the ends of veth pairs are left alone by its udev rules. So these have a second file, that says so.
"""

from __future__ import annotations

import glob
import hashlib
import json
import time
from typing import Any, Callable, Collection, Dict, Iterable, Iterator, List, Mapping, Sequence, Set, Tuple

from ...errors import ApplyError
from ...model.network import HostInterface, VirtualNetwork, VirtualSwitch
from . import host_devices
from .bridge_ports import DEFAULT_MTU, EVERY_VLAN, MODES, PortVlans, Wanted, bond_of, port_of, spans
from .host_files import read_file, remove_file, write_atomically
from .network_renderer import Files, NetworkRenderer, wait_for
from .systemd import run_command

NMCLI = "/usr/bin/nmcli"
PROFILES = "/etc/NetworkManager/system-connections"
CONFIGURATION = "/etc/NetworkManager/conf.d"
PROFILE = ".nmconnection"
MANAGED = ".conf"
PREFIX = "bareforge-"
OPEN_VSWITCH_PLUGIN = (
    "/usr/lib*/NetworkManager/*/libnm-device-plugin-ovs.so",
    "/usr/lib/*/NetworkManager/*/libnm-device-plugin-ovs.so",
)
PATIENCE = 30.0  # seconds until addresses have to be there
DEVICE_PATIENCE = 10.0  # seconds until a device that NetworkManager makes is there
_RECORD = "bareforge.asked"
_HIGHEST_PRIORITY = "999"
_FOR_EVER = "2147483647"
_HEAD = "# Written by Bareforge; changes are undone by its next run.\n"

Section = Tuple[str, List[Tuple[str, str]]]


def uuid_of(device: str) -> str:
    """Return the UUID of the profile of a device (RFC 4122 version 5 layout), the same on every run."""
    digest = hashlib.sha256(f"NetworkManager\0{device}".encode("utf-8", "surrogatepass")).hexdigest()
    return f"{digest[0:8]}-{digest[8:12]}-5{digest[13:16]}-a{digest[17:20]}-{digest[20:32]}"


def path_of(device: str, suffix: str = PROFILE) -> str:
    """Return the path of a file about a device. suffix: `.nmconnection`, or `.conf` for the one that has it managed."""
    if suffix == MANAGED:
        return f"{CONFIGURATION}/50-{PREFIX}{device}{MANAGED}"
    return f"{PROFILES}/{PREFIX}{device}{suffix}"


# -- Profiles ----------------------------------------------------------------------------------------------------------


def file_of(sections: Iterable[Section]) -> bytes:
    """Return what stands in a profile; values are escaped as in GLib's key files."""
    text = [_HEAD]
    for name, entries in sections:
        text.append(f"\n[{name}]\n")
        text.extend(f"{key}={_escaped(value)}\n" for key, value in entries)
    return "".join(text).encode("ascii")


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r")


def _unescaped(value: str) -> str:
    found, escaped = [], False
    for character in value:
        if escaped:
            found.append({"n": "\n", "t": "\t", "r": "\r", "s": " "}.get(character, character))
            escaped = False
        elif character == "\\":
            escaped = True
        else:
            found.append(character)
    return "".join(found)


_NO_ADDRESSES: List[Section] = [("ipv4", [("method", "disabled")]), ("ipv6", [("method", "disabled")])]


def _connection(device: str, kind: str, *more: Tuple[str, str]) -> Section:
    return (
        "connection",
        [
            ("id", f"{PREFIX}{device}"),
            ("uuid", uuid_of(device)),
            ("type", kind),
            ("interface-name", device),
            # What somebody else has for the device has 0 unless it says otherwise, and the highest one is used.
            ("autoconnect-priority", _HIGHEST_PRIORITY),
            ("autoconnect-retries", "0"),
            *more,
        ],
    )


def _port(device: str, master: str, kind: str, *sections: Section) -> bytes:
    on = [("master", uuid_of(master)), ("slave-type", kind)]
    return file_of([_connection(device, "ethernet", *on), *sections])


def _vlans(vlans: PortVlans) -> Section:
    return ("bridge-port", [("vlans", ", ".join([f"{vlans.native} pvid untagged", *spans(vlans.tagged)]))])


def _record(kind: str, document: Dict[str, Any]) -> Section:
    return ("user", [(_RECORD, json.dumps({kind: document}, sort_keys=True))])


def managed_file(device: str) -> bytes:
    """Return the file that has NetworkManager manage a device which it would leave alone (NetworkManager.conf(5))."""
    return f"{_HEAD}[device-{PREFIX}{device}]\nmatch-device=interface-name:={device}\nmanaged=1\n".encode("ascii")


def uplink_file(device: str) -> bytes:
    """Return the profile that switches an uplink on and keeps addresses away from it. Open vSwitch keeps its MTU."""
    return file_of([_connection(device, "ethernet"), *_NO_ADDRESSES])


def address_sections(interface: HostInterface) -> List[Section]:
    """Return what a profile says of an interface's addresses and routes. interface: complete."""
    addresses: Dict[bool, List[str]] = {False: [], True: []}
    for address in interface.addresses or ():
        addresses[":" in address].append(address)
    # The lowest metric: what was asked for comes before what a profile of somebody else has been given.
    ways: Dict[bool, List[str]] = {False: [], True: []}
    if interface.gateway4:
        ways[False].append(f"0.0.0.0/0,{interface.gateway4},1")
    if interface.gateway6:
        ways[True].append(f"::/0,{interface.gateway6},1")
    for route in interface.routes or ():
        ways[":" in str(route.destination)].append(f"{route.destination},{route.gateway},1")
    method = "auto" if interface.dhcp else "manual" if addresses[False] else "disabled"
    four: List[Tuple[str, str]] = [("method", method)]
    if interface.dhcp:
        # By MAC address, as every DHCP server can reserve it. It may come later than the host.
        four += [("dhcp-client-id", "mac"), ("dhcp-timeout", _FOR_EVER)]
    six: List[Tuple[str, str]] = [("method", _method6(interface, bool(addresses[True]), bool(ways[True])))]
    if interface.dhcp6 or interface.accept_ra:
        six += [
            ("addr-gen-mode", "eui64"),
            ("ip6-privacy", "0"),
            ("dhcp-timeout", _FOR_EVER),
            ("ra-timeout", _FOR_EVER),
        ]
    for entries, is_six in ((four, False), (six, True)):
        entries += [(f"address{number}", text) for number, text in enumerate(addresses[is_six], 1)]
        entries += [(f"route{number}", text) for number, text in enumerate(ways[is_six], 1)]
    found: List[Section] = []
    if interface.dhcp or interface.dhcp6:
        # A host's own name is not the network's to give.
        found.append(("hostname", [("from-dhcp", "0"), ("from-dns-lookup", "0")]))
    return [*found, ("ipv4", four), ("ipv6", six)]


def _method6(interface: HostInterface, has_addresses: bool, has_routes: bool) -> str:
    if interface.accept_ra:
        return "auto"
    if interface.dhcp6:
        return "dhcp"
    if has_addresses:
        return "manual"
    return "link-local" if has_routes else "disabled"


def interface_file(interface: HostInterface) -> bytes:
    """Return the profile of an internal port of Open vSwitch, which keeps its MTU and MAC address. interface: complete."""
    return file_of([_connection(str(interface.name), "generic"), *address_sections(interface)])


def gateway_file(switch: VirtualSwitch) -> bytes:
    """Return the profile of the host's end of a switch of type nat: its IPv4 address. switch: complete."""
    nat = switch.nat
    if nat is None:
        raise AssertionError("not reached: nat is None")
    addresses = [("method", "manual"), ("address1", str(nat.gateway))] if nat.gateway else [("method", "disabled")]
    return file_of([_connection(str(switch.name), "generic"), ("ipv4", addresses), ("ipv6", [("method", "disabled")])])


def switch_files(switch: VirtualSwitch) -> Files:
    """Return the profiles of a bridge of the kernel and of its uplinks, the one that makes it first. switch: complete."""
    name, mtu = str(switch.name), str(switch.mtu or DEFAULT_MTU)
    uplinks, bond = switch.uplinks or (), switch.bond
    settings = [
        ("vlan-filtering", "true"),
        # A port that nobody has told a VLAN carries nothing.
        ("vlan-default-pvid", "0"),
        ("stp", "false"),
        # Without it a port learns for 15 s before it passes anything on, even without STP.
        ("forward-delay", "0"),
        ("multicast-snooping", "false"),
    ]
    link: Section = ("ethernet", [("mtu", mtu)])
    record = _record("virtual_switch", switch.to_document())
    files: Files = {
        (name, PROFILE): file_of([_connection(name, "bridge"), ("bridge", settings), link, *_NO_ADDRESSES, record])
    }
    if len(uplinks) > 1 and bond is not None:
        device = bond_of(name)
        options = [("mode", MODES[bond.mode or "active_backup"]), ("miimon", "100")]
        if bond.mode != "active_backup":
            options.append(("xmit_hash_policy", "layer3+4"))
        if bond.mode == "balance_tcp":
            options.append(("lacp_rate", "fast"))
        if bond.primary:
            options.append(("primary", bond.primary))
        on = [("master", uuid_of(name)), ("slave-type", "bridge")]
        files[device, PROFILE] = file_of(
            [_connection(device, "bond", *on), ("bond", options), link, _vlans(EVERY_VLAN)]
        )
        for uplink in uplinks:
            files[uplink, PROFILE] = _port(uplink, device, "bond", link)
    for uplink in uplinks if len(uplinks) == 1 else ():
        files[uplink, PROFILE] = _port(uplink, name, "bridge", link, _vlans(EVERY_VLAN))
    return files


def linux_interface_files(interface: HostInterface, network: VirtualNetwork, mac: str) -> Files:
    """Return the files of an interface on a bridge of the kernel, the one that makes it first.

    interface, network: complete. mac: its address.
    """
    name, mtu = str(interface.name), str(interface.mtu or DEFAULT_MTU)
    port = port_of(name)
    made = [
        _connection(name, "veth"),
        ("veth", [("peer", port)]),
        ("ethernet", [("cloned-mac-address", mac), ("mtu", mtu)]),
        *address_sections(interface),
        _record("host_interface", interface.to_document()),
    ]
    # Not of type veth, so that it waits for the pair and never makes one of its own.
    end = _port(port, str(network.switch), "bridge", ("ethernet", [("mtu", mtu)]), _vlans(Wanted.on(network).vlans))
    return {
        (name, PROFILE): file_of(made),
        (name, MANAGED): managed_file(name),
        (port, MANAGED): managed_file(port),
        (port, PROFILE): end,
    }


# -- The renderer ------------------------------------------------------------------------------------------------------

_NOT_KEPT = "cannot be kept by NetworkManager"
_NO_PORTS = (
    "cannot be while NetworkManager has its plugin for Open vSwitch, with which it takes no port that it has not made itself; "
    "remove package NetworkManager-ovs, or say kvm.implementation linux_bridge"
)
_MADE_BY_OTHERS = (
    "is a bond or VLAN, which NetworkManager makes by a profile of somebody else; allowed are interfaces of hardware, "
    "several of them with bond"
)
_ASKS_ANYWAY = "which asks DHCPv6 wherever router advertisements tell it to; allowed with dhcp6, where these decide"


class NetworkManagerRenderer(NetworkRenderer):
    """NetworkManager, where it keeps the host's interfaces and systemd-networkd does not."""

    NAME = "NetworkManager"
    UNIT = "NetworkManager.service"
    # The profile, since it holds the record, goes last.
    SUFFIXES = (MANAGED, PROFILE)
    CONFIGURING = (MANAGED, PROFILE)
    GUARDED_FILES = (f"{PROFILES}/{PREFIX}*{PROFILE}", f"{CONFIGURATION}/50-{PREFIX}*{MANAGED}")
    GUARD_COMMANDS = ((NMCLI, "general", "reload", "conf"),)

    def uplink_files(self, device: str) -> Files:
        return {(device, PROFILE): uplink_file(device)}

    def interface_files(self, interface: HostInterface) -> Files:
        name = str(interface.name)
        return {(name, MANAGED): managed_file(name), (name, PROFILE): interface_file(interface)}

    def gateway_files(self, switch: VirtualSwitch) -> Files:
        name = str(switch.name)
        return {(name, MANAGED): managed_file(name), (name, PROFILE): gateway_file(switch)}

    def linux_switch_files(self, switch: VirtualSwitch) -> Files:
        return switch_files(switch)

    def linux_interface_files(self, interface: HostInterface, network: VirtualNetwork, mac: str) -> Files:
        return linux_interface_files(interface, network, mac)

    def switch_problems(self, switch: VirtualSwitch, linux: bool) -> Iterator[Tuple[str, str]]:
        for number, uplink in enumerate(switch.uplinks or ()):
            if host_devices.is_made_of_hardware(uplink):
                yield f"uplinks[{number}]", f"{uplink!r} {_MADE_BY_OTHERS}"
        if linux and switch.vlan_aware is False:
            yield "vlan_aware", f"false {_NOT_KEPT}; allowed is true"
        if switch.nat is None:
            return
        if switch.nat.dhcp:
            yield "nat.dhcp", f"{_NOT_KEPT}, which gives out addresses only together with a NAT of its own"
        if switch.nat.gateway6:
            yield "nat.gateway6", f"{_NOT_KEPT}, which sends router advertisements only together with a NAT of its own"
        if _has_open_vswitch_plugin():
            yield "type", f"'nat' {_NO_PORTS}"

    def interface_problems(
        self, interface: HostInterface, network: VirtualNetwork, linux: bool
    ) -> Iterator[Tuple[str, str]]:
        if interface.accept_ra and not interface.dhcp6:
            yield "accept_ra", f"without dhcp6 {_NOT_KEPT}, {_ASKS_ANYWAY}"
        if linux and network.isolated:
            yield "network", f"{network.name!r} is isolated, which {_NOT_KEPT} for an interface on a Linux bridge"
        if not linux and _has_open_vswitch_plugin():
            yield "network", f"{network.name!r} is on Open vSwitch, which {_NO_PORTS}"

    def is_written(self, device: str, suffix: str, content: bytes) -> bool:
        return read_file(path_of(device, suffix)) == content

    def write(self, device: str, suffix: str, content: bytes) -> bool:
        if self.is_written(device, suffix, content):
            return False
        # Profiles that others than root can read are not taken (nm-settings-keyfile(5)).
        write_atomically(path_of(device, suffix), content, 0o600 if suffix == PROFILE else 0o644)
        return True

    def remove(self, device: str, suffix: str) -> bool:
        path = path_of(device, suffix)
        removed = remove_file(path)
        if removed and suffix == PROFILE:
            # To load a file that is not there is to forget it, and to let go of what it configured.
            _nmcli("connection", "load", path)
        return removed

    def release(self, device: str) -> None:
        # A device that is deleted otherwise is made anew at once.
        if uuid_of(device) in _active():
            _nmcli("device", "delete", device)

    def let_go(self, device: str) -> None:
        # A port that is taken away otherwise is put back at once.
        if uuid_of(device) in _active():
            _nmcli("connection", "down", "uuid", uuid_of(device))

    def records(self) -> Iterator[Tuple[str, Any]]:
        for path in sorted(glob.glob(path_of("*"))):
            for line in (read_file(path) or b"").decode("utf-8", "replace").splitlines():
                if line.startswith(f"{_RECORD}="):
                    yield from self.record_in(_unescaped(line[len(_RECORD) + 1 :]))

    def apply(self, changed: bool, written: Sequence[str], unsettled: Collection[str]) -> None:
        profiles = {device: _read_profile(device) for device in {*written, *unsettled}}
        devices = sorted(
            (device for device, profile in profiles.items() if profile),
            key=lambda device: (_RANKS.get(profiles[device]["type"], len(_RANKS)), device),
        )
        if devices or changed:
            _nmcli("general", "reload", "conf")
        if not devices:
            return
        # A run that was killed may have written profiles that have not been read yet, and that these need.
        _nmcli("connection", "load", *sorted(glob.glob(path_of("*"))))
        active = _active()
        for device in devices:
            if not (device in written and uuid_of(device) in active and _reapplied(device)):
                _bring_up(device, profiles[device])

    def wait_until(self, condition: Callable[[], List[str]]) -> None:
        wait_for(condition, PATIENCE, "NetworkManager", "NetworkManager")


# What makes a device that others need comes first; ports and what has addresses after that.
_RANKS: Mapping[str, int] = {"bridge": 0, "bond": 1, "veth": 2}


def _has_open_vswitch_plugin() -> bool:
    return any(glob.glob(pattern) for pattern in OPEN_VSWITCH_PLUGIN)


def _read_profile(device: str) -> Dict[str, str]:
    """Return what the profile of a device says, by `type` and `ipv4.method`; nothing where there is no profile."""
    found: Dict[str, str] = {}
    section = ""
    for line in (read_file(path_of(device)) or b"").decode("utf-8", "replace").splitlines():
        key, equals, value = line.partition("=")
        if line.startswith("["):
            section = "" if line == "[connection]" else f"{line[1:-1]}."
        elif equals:
            found[section + key] = value
    return found if "type" in found else {}


def profiles_in_use() -> List[List[str]]:
    """Return [device, UUID] of every profile that is in use and lasts. Raises ApplyError.

    What stands in /run is what NetworkManager itself makes of devices that others configure, and it is gone with them.
    """
    shown = _nmcli("--terse", "--fields", "UUID,FILENAME,DEVICE", "connection", "show", "--active")
    rows = (line.replace("\\:", "\0").split(":") for line in shown.splitlines())
    return [
        [row[2].replace("\0", ":"), row[0]]
        for row in rows
        if len(row) == 3 and not row[1].startswith("/run/") and row[1]
    ]


def _nmcli(*arguments: str) -> str:
    return run_command([NMCLI, *arguments])


def _active() -> Set[str]:
    """Return the UUIDs of the profiles that are in use."""
    return set(_nmcli("--get-values", "UUID", "connection", "show", "--active").split())


def _reapplied(device: str) -> bool:
    """Let a profile that is in use take effect without an interruption; return whether it could."""
    try:
        _nmcli("device", "reapply", device)
    except ApplyError:
        # Not every setting can be changed while it is in use.
        return False
    return True


def _bring_up(device: str, profile: Mapping[str, str]) -> None:
    makes = profile["type"] in _RANKS
    if not makes and not host_devices.exists(device):
        return
    asks = {profile.get("ipv4.method"), profile.get("ipv6.method")} & {"auto", "dhcp"}
    # Whether DHCP answers is not waited for: it may come later than the host.
    _nmcli("--wait", "0" if asks else f"{PATIENCE:.0f}", "connection", "up", "uuid", uuid_of(device))
    end = time.monotonic() + DEVICE_PATIENCE
    while makes and not host_devices.exists(device) and time.monotonic() < end:
        time.sleep(0.05)
