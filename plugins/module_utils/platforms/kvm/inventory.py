# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The VMs of a KVM host for an inventory: all domains, those of others too, with what is known of their addresses.

libvirt is asked once for the states of all domains and once for all networks, then for each domain's XML, which it has
no way to give for several; running guests whose agent is connected are asked side by side.
"""

from __future__ import annotations

import ipaddress
import json
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Collection, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple
from xml.etree import ElementTree

from ...engine.inventory import InventoryNic, InventoryReader, InventoryVm, SeenAddress
from ...errors import one_line
from ...model.types import show
from ...transports import libvirt as session
from . import domain_xml, domains, virtual_network

Element = ElementTree.Element

AGENT = "org.qemu.guest_agent.0"
AGENTS_AT_ONCE = 16
IP_SECONDS = 20.0
# States of an entry in the neighbour table that say that nobody answered (ip-neighbour(8)).
SILENT = frozenset({"FAILED", "INCOMPLETE", "NONE"})


class KvmInventory(InventoryReader):
    """Reads the VMs of a KVM host, on it."""

    CAPABILITIES = frozenset({"inventory", "inventory.addresses"})

    def vms(
        self, sources: Collection[str], agent_timeout: int, settings: Mapping[str, Any], warnings: List[str]
    ) -> List[InventoryVm]:
        return session.read(
            lambda connection: read_vms(connection, sources, agent_timeout, warnings),
            "the virtual machines cannot be read",
        )


@dataclass
class Networks:
    """What has to be known of libvirt's networks.

    vlans: (VLAN, trunk) of every port group, by (network, port group).
    leases: the addresses that libvirt's DHCP server has given out, by MAC address.
    """

    vlans: Dict[Tuple[str, str], Tuple[Optional[int], Tuple[str, ...]]] = field(default_factory=dict)
    leases: Dict[str, List[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Told:
    """What a guest's agent tells: its host name, and its addresses by MAC address."""

    hostname: Optional[str] = None
    addresses: Mapping[str, Sequence[str]] = field(default_factory=dict)


def read_vms(connection: Any, sources: Collection[str], agent_timeout: int, warnings: List[str]) -> List[InventoryVm]:
    """Return the VMs of the host that a libvirt connection leads to; the arguments are those of the reader.

    libvirt's exceptions pass.
    """
    libvirt = session.library()
    found: List[Tuple[Any, Element, int, int]] = []
    for domain, state, reason in domains.states(connection):
        try:
            found.append((domain, domain_xml.parse(domain.XMLDesc(0)), state, reason))
        except libvirt.libvirtError as error:
            if not session.is_missing(error):
                raise  # removed by someone else meanwhile is no VM any more
    networks = read_networks(connection, "lease" in sources, warnings)
    neighbours = read_neighbours(warnings) if "neighbour" in sources else {}
    asked = [
        domain for domain, root, state, _reason in found if domains.POWER.get(state) == "running" and _has_agent(root)
    ]
    told: Dict[str, Told] = {}
    if asked and "agent" in sources:
        with ThreadPoolExecutor(max_workers=min(AGENTS_AT_ONCE, len(asked))) as pool:
            answers = pool.map(lambda domain: ask_agent(domain, agent_timeout, warnings), asked)
            told = {domain.UUIDString(): answer for domain, answer in zip(asked, answers)}
    vms = []
    for domain, root, state, reason in found:
        power = domains.POWER.get(state, "stopped")
        known = domain_xml.known_of(root)
        nics = tuple(_nics(root, networks))
        seen: Dict[str, Mapping[str, Sequence[str]]] = {}
        answer = told.get(domain.UUIDString(), Told())
        if power == "running":
            seen = {"agent": answer.addresses, "lease": networks.leases, "neighbour": neighbours}
        if "document" in sources:
            seen["document"] = _documented(nics, known)
        vms.append(
            InventoryVm(
                name=str(root.findtext("name")),
                power=power,
                state=domains.state_text(state, reason),
                uuid=root.findtext("uuid"),
                managed=root.find(f"metadata/{domain_xml.METADATA_TAG}") is not None,
                template=_text(known.get("template")),
                hostname=answer.hostname or _text(_mapping(known.get("guest")).get("hostname")),
                description=root.findtext("description"),
                cpus=_processors(root.find("vcpu")),
                memory=domain_xml.mib_of(root.find("currentMemory")),
                tags=tuple(sorted(tag for tag in _list(known.get("tags")) if isinstance(tag, str))),
                nics=nics,
                addresses=tuple(_addresses(nics, seen)),
            )
        )
    return sorted(vms, key=lambda vm: vm.name)


def _text(value: Any) -> Optional[str]:
    return value if isinstance(value, str) and value else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


def _processors(element: Optional[Element]) -> Optional[int]:
    text = (element.get("current") or element.text or "").strip() if element is not None else ""
    return int(text) if text.isdigit() else None


def _has_agent(root: Element) -> bool:
    # Whoever asks an agent that is not there waits for nothing; libvirt knows whether the guest has opened the channel.
    return any(
        target.get("name") == AGENT and target.get("state") == "connected"
        for target in root.iterfind("devices/channel/target")
    )


def _nics(root: Element, networks: Networks) -> Iterator[InventoryNic]:
    for number, element in enumerate(root.iterfind("devices/interface")):
        alias, target, mac, source = (element.find(tag) for tag in ("alias", "target", "mac", "source"))
        given = alias.get("name", "") if alias is not None else ""
        device = target.get("dev") if target is not None else None
        ours = given[len("ua-") :] if given.startswith("ua-") else None
        place = source if source is not None else Element("source")
        network, group = place.get("network"), place.get("portgroup")
        vlan, trunk = networks.vlans.get((network or "", group or ""), (None, ()))
        if element.find("vlan") is not None:
            vlan, trunk = virtual_network.vlans_in(element)
        yield InventoryNic(
            name=ours or device or f"net{number}",
            mac=mac.get("address", "").lower() if mac is not None else None,
            network=group or network or place.get("bridge") or place.get("dev"),
            vlan=vlan,
            trunk=trunk,
        )


def _documented(nics: Iterable[InventoryNic], known: Mapping[str, Any]) -> Dict[str, List[str]]:
    said = {
        entry.get("name"): [text for text in _list(entry.get("addresses")) if isinstance(text, str)]
        for entry in _list(known.get("nics"))
        if isinstance(entry, dict)
    }
    return {nic.mac: said.get(nic.name, []) for nic in nics if nic.mac}


def _addresses(nics: Sequence[InventoryNic], seen: Mapping[str, Mapping[str, Sequence[str]]]) -> Iterator[SeenAddress]:
    names = {nic.mac: nic.name for nic in nics if nic.mac}
    for source, by_mac in seen.items():
        # An agent also tells of what the guest has made itself, such as a VPN's device, whose MAC address is no NIC's.
        macs = [*names, *(mac for mac in by_mac if mac not in names)] if source == "agent" else list(names)
        for mac in macs:
            for text in by_mac.get(mac, ()):
                address = _usable(text)
                if address is not None:
                    yield SeenAddress(address, source, names.get(mac))


def _usable(text: str) -> Optional[str]:
    """Return an address without its prefix length, or None for one that nobody outside of the guest reaches it by."""
    try:
        address = ipaddress.ip_address(text.partition("/")[0].partition("%")[0])
    except ValueError:
        return None
    if address.is_loopback or address.is_unspecified or (address.version == 6 and address.is_link_local):
        return None
    return str(address)


def read_networks(connection: Any, leases: bool, warnings: List[str]) -> Networks:
    """Return the VLANs of libvirt's networks and, if wanted, the leases of their DHCP servers. Its exceptions pass."""
    libvirt = session.library()
    known = Networks()
    for network in connection.listAllNetworks(0):
        try:
            root = virtual_network.parse(network.XMLDesc(0))
            if root.find("vlan") is not None:
                known.vlans[network.name(), ""] = virtual_network.vlans_in(root)
            for name, group in virtual_network.groups_in(root).items():
                known.vlans[network.name(), name] = virtual_network.vlans_in(group)
            if leases and root.find("ip/dhcp") is not None and network.isActive():
                _add_leases(network, known.leases, warnings)
        except libvirt.libvirtError as error:
            if not session.is_missing(error):
                raise
    return known


def _add_leases(network: Any, leases: Dict[str, List[str]], warnings: List[str]) -> None:
    libvirt = session.library()
    try:
        told = network.DHCPLeases()
    except libvirt.libvirtError as error:
        # One network's DHCP server is no reason to do without all VMs.
        reason = one_line(error.get_error_message() or str(error))
        warnings.append(f"the leases of network {show(network.name())} cannot be read: {reason}")
        return
    for lease in told:
        if lease.get("mac") and lease.get("ipaddr"):
            leases.setdefault(lease["mac"].lower(), []).append(lease["ipaddr"])


def read_neighbours(warnings: List[str]) -> Dict[str, List[str]]:
    """Return the addresses in the host's neighbour table by MAC address (ip-neighbour(8), `ip -json neighbour show`)."""
    program = shutil.which("ip", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if program is None:
        warnings.append("the neighbour table cannot be read, since there is no program ip")
        return {}
    argv = [program, "-json", "neighbour", "show"]
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=IP_SECONDS, check=False)
        entries = json.loads(done.stdout or b"[]") if done.returncode == 0 else None
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        warnings.append(f"the neighbour table cannot be read: {error}")
        return {}
    if entries is None:
        reason = one_line(done.stderr.decode("utf-8", "replace"))
        warnings.append(f"the neighbour table cannot be read: ip ended with status {done.returncode}: {reason}")
        return {}
    found: Dict[str, List[str]] = {}
    for entry in entries:
        if entry.get("lladdr") and entry.get("dst") and not SILENT & set(entry.get("state") or ()):
            found.setdefault(str(entry["lladdr"]).lower(), []).append(str(entry["dst"]))
    return found


def ask_agent(domain: Any, timeout: int, warnings: List[str]) -> Told:
    """Return what a guest's agent tells of it (virDomainGetGuestInfo), nothing where it gives no answer in time.

    timeout: in seconds.
    """
    libvirt = session.library()
    try:
        domain.agentSetResponseTimeout(timeout, 0)
        info = domain.guestInfo(libvirt.VIR_DOMAIN_GUEST_INFO_HOSTNAME | libvirt.VIR_DOMAIN_GUEST_INFO_INTERFACES, 0)
    except libvirt.libvirtError as error:
        if not session.is_missing(error):
            reason = one_line(error.get_error_message() or str(error))
            warnings.append(f"VM {show(domain.name())}: its guest agent does not answer: {reason}")
        return Told()
    addresses: Dict[str, List[str]] = {}
    for number in range(int(info.get("if.count", 0))):
        mac = str(info.get(f"if.{number}.hwaddr", "")).lower()
        for each in range(int(info.get(f"if.{number}.addr.count", 0))):
            addresses.setdefault(mac, []).append(str(info.get(f"if.{number}.addr.{each}.addr", "")))
    return Told(_text(info.get("hostname")), addresses)
