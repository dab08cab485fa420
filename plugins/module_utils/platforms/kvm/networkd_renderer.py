# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later


"""What keeps the host's interfaces by files of systemd-networkd.

The file that makes a bridge, or an interface on one, holds the object as it was asked for.
"""

from __future__ import annotations

import glob
import json
from typing import Any, Callable, Collection, Dict, Iterator, List, Sequence, Tuple

from ...model.network import HostInterface, VirtualNetwork, VirtualSwitch
from . import networkd
from .bridge_ports import DEFAULT_MTU, EVERY_VLAN, MODES, PortVlans, Wanted, bond_of, port_of, spans
from .host_files import read_file
from .network_renderer import Files, NetworkRenderer
from .networkd import Section

NETDEV = ".netdev"
_RECORD = "# Asked for: "
_NO_ADDRESSES = [
    ("DHCP", "no"),
    ("LinkLocalAddressing", "no"),
    ("IPv6AcceptRA", "no"),
    ("ConfigureWithoutCarrier", "yes"),
]


def _record(document: Dict[str, Any], kind: str) -> str:
    return f"{_RECORD}{json.dumps({kind: document}, sort_keys=True)}"


def _vlan_sections(vlans: PortVlans) -> List[Section]:
    native = [("PVID", str(vlans.native)), ("EgressUntagged", str(vlans.native))]
    return [("BridgeVLAN", native), *(("BridgeVLAN", [("VLAN", span)]) for span in spans(vlans.tagged))]


def switch_files(switch: VirtualSwitch) -> Files:
    """Return the files of a switch, those of its uplinks among them, the one that makes it first. switch: complete."""
    name, mtu = str(switch.name), str(switch.mtu or DEFAULT_MTU)
    uplinks, bond = switch.uplinks or (), switch.bond
    document = switch.to_document()
    settings = [
        ("VLANFiltering", "no" if switch.vlan_aware is False else "yes"),
        # A port that nobody has told a VLAN carries nothing.
        ("DefaultPVID", "none"),
        ("STP", "no"),
        # Without it a port learns for 15 s before it passes anything on, even without STP.
        ("ForwardDelaySec", "0"),
        ("MulticastSnooping", "no"),
    ]
    link = [("RequiredForOnline", "no"), ("MTUBytes", mtu)]
    files: Files = {
        (name, NETDEV): networkd.file_of(
            [("NetDev", [("Name", name), ("Kind", "bridge"), ("MTUBytes", mtu)]), ("Bridge", settings)],
            _record(document, "virtual_switch"),
        ),
        (name, networkd.NETWORK): networkd.file_of(
            [("Match", [("Name", name)]), ("Link", link), ("Network", _NO_ADDRESSES)]
        ),
    }

    def port(device: str, *more: Section) -> bytes:
        sections = [
            ("Match", [("Name", device)]),
            ("Link", link),
            ("Network", [*_NO_ADDRESSES, ("Bridge", name)]),
            *_vlan_sections(EVERY_VLAN),
        ]
        return networkd.file_of([*sections, *more])

    if len(uplinks) > 1 and bond is not None:
        device = bond_of(name)
        options = [("Mode", MODES[bond.mode or "active_backup"]), ("MIIMonitorSec", "100ms")]
        if bond.mode != "active_backup":
            options.append(("TransmitHashPolicy", "layer3+4"))
        if bond.mode == "balance_tcp":
            options.append(("LACPTransmitRate", "fast"))
        files[device, NETDEV] = networkd.file_of([("NetDev", [("Name", device), ("Kind", "bond")]), ("Bond", options)])
        files[device, networkd.NETWORK] = port(device)
        for uplink in uplinks:
            primary = [("PrimarySlave", "yes")] if bond.primary == uplink else []
            files[uplink, networkd.NETWORK] = networkd.file_of(
                [
                    ("Match", [("Name", uplink)]),
                    ("Link", link),
                    ("Network", [*_NO_ADDRESSES, ("Bond", device), *primary]),
                ]
            )
    for uplink in uplinks if len(uplinks) == 1 else ():
        files[uplink, networkd.NETWORK] = port(uplink)
    return files


def interface_files(interface: HostInterface, network: VirtualNetwork, mac: str) -> Files:
    """Return the files of an interface of the host, the one that makes it first.

    interface, network: complete. mac: its address.
    """
    name, mtu = str(interface.name), str(interface.mtu or DEFAULT_MTU)
    port = port_of(name)
    made = [
        ("NetDev", [("Name", name), ("Kind", "veth"), ("MACAddress", mac), ("MTUBytes", mtu)]),
        ("Peer", [("Name", port)]),
    ]
    wanted = Wanted.on(network)
    return {
        (name, NETDEV): networkd.file_of(made, _record(interface.to_document(), "host_interface")),
        (name, networkd.NETWORK): networkd.interface_file(interface, [("MTUBytes", mtu), ("MACAddress", mac)]),
        (port, networkd.NETWORK): networkd.file_of(
            [
                ("Match", [("Name", port)]),
                ("Link", [("RequiredForOnline", "no"), ("MTUBytes", mtu)]),
                ("Network", [*_NO_ADDRESSES, ("Bridge", str(network.switch))]),
                ("Bridge", [("Isolated", "yes" if wanted.isolated else "no")]),
                *_vlan_sections(wanted.vlans),
            ]
        ),
    }


class NetworkdRenderer(NetworkRenderer):
    """systemd-networkd, which applies a change to one interface and leaves the others alone."""

    NAME = "systemd-networkd"
    UNIT = "systemd-networkd.service"
    SUFFIXES = (networkd.NETWORK, NETDEV)
    CONFIGURING = (networkd.NETWORK,)
    GUARDED_FILES = (
        "/etc/systemd/network/*.network",
        "/etc/systemd/network/*.netdev",
        "/etc/systemd/network/*.link",
    )
    GUARD_COMMANDS = (("/usr/bin/networkctl", "reload"),)

    def uplink_files(self, device: str) -> Files:
        return {(device, networkd.NETWORK): networkd.uplink_file(device)}

    def interface_files(self, interface: HostInterface) -> Files:
        return {(str(interface.name), networkd.NETWORK): networkd.interface_file(interface)}

    def gateway_files(self, switch: VirtualSwitch) -> Files:
        return {(str(switch.name), networkd.NETWORK): networkd.gateway_file(switch)}

    def linux_switch_files(self, switch: VirtualSwitch) -> Files:
        return switch_files(switch)

    def linux_interface_files(self, interface: HostInterface, network: VirtualNetwork, mac: str) -> Files:
        return interface_files(interface, network, mac)

    def is_written(self, device: str, suffix: str, content: bytes) -> bool:
        return networkd.is_written(device, content, suffix)

    def write(self, device: str, suffix: str, content: bytes) -> bool:
        return networkd.write(device, content, suffix)

    def remove(self, device: str, suffix: str) -> bool:
        return networkd.remove(device, suffix)

    def records(self) -> Iterator[Tuple[str, Any]]:
        for path in sorted(glob.glob(networkd.path_of("*", NETDEV))):
            for line in (read_file(path) or b"").decode("utf-8", "replace").splitlines():
                if line.startswith(_RECORD):
                    yield from self.record_in(line[len(_RECORD) :])

    def apply(self, changed: bool, written: Sequence[str], unsettled: Collection[str]) -> None:
        networkd.apply(changed or bool(written), set(unsettled) - set(written))

    def wait_until(self, condition: Callable[[], List[str]]) -> None:
        networkd.wait_until(condition)
