# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A virtual network on a KVM host: a port group of the libvirt network that stands for its switch, and VLANs of ports.

libvirt's format is https://libvirt.org/formatnetwork.html, Open vSwitch's columns are those of ovs-vswitchd.conf.db(5).
"""

from __future__ import annotations

import dataclasses
from typing import Dict, Iterable, Iterator, List, Optional, Tuple
from xml.etree import ElementTree

from ...model.network import KvmNetworkSettings, SwitchSecurity, VirtualNetwork
from ...model.schema import shown_as
from ...model.types import range_bounds
from . import bandwidth
from .open_vswitch import Vlans

METADATA_URI = "https://bareforge.dev/xmlns/1"
_NETWORKS = f"{{{METADATA_URI}}}networks"
_NETWORK = f"{{{METADATA_URI}}}network"
_SUBNET = f"{{{METADATA_URI}}}subnet"
_TRUNK = f"{{{METADATA_URI}}}trunk"
_EVERY_VLAN = frozenset(range(4095))

Element = ElementTree.Element
ParseError = ElementTree.ParseError


def parse(text: str) -> Element:
    """Return the root of what libvirt has written. Raises ParseError."""
    return ElementTree.fromstring(text)


def problems(network: VirtualNetwork) -> Iterator[Tuple[str, str]]:
    """Yield (field, message) for what libvirt or Open vSwitch cannot hold of a complete network."""
    unfit = sorted(set("'<&") & set(network.name or ""))
    if unfit:
        # Measured with libvirt 9.0: virNetworkPortGroupFormat writes the name as it is, and cannot read it back.
        yield "name", f"holds {' and '.join(unfit)}; libvirt allows none of ' < and & in the name of a port group"
    if network.vlan and network.vlan in _ids(network.trunk or ()):
        yield "trunk", f"holds {network.vlan}, the native VLAN, whose frames are untagged; leave it out of trunk"
    yield from bandwidth.problems(network.bandwidth)


def _ids(ranges: Iterable[str]) -> List[int]:
    return sorted({number for first, last in map(range_bounds, ranges) for number in range(first, last + 1)})


def vlans_of(network: VirtualNetwork) -> Vlans:
    """Return what a port on a network carries; the same that libvirt makes of the network's port group.

    A port without any VLAN column carries every VLAN, so an untagged network is VLAN 0, and not no VLAN at all.
    network: complete.
    """
    vlan = network.vlan or 0
    if is_tunnel(network):
        return Vlans(tag=vlan, mode="dot1q-tunnel")
    if not network.trunk:
        return Vlans(tag=vlan)
    trunks = {*_ids(network.trunk), vlan}
    if vlan:
        return Vlans(vlan, tuple(sorted(trunks)), "native-untagged")
    return Vlans() if trunks == _EVERY_VLAN else Vlans(trunks=tuple(sorted(trunks)))


def is_tunnel(network: VirtualNetwork) -> bool:
    """Return whether ports of a network put everything into its VLAN."""
    return network.kvm is not None and bool(network.kvm.dot1q_tunnel)


def is_linux(root: Element) -> bool:
    """Return whether a libvirt network leads to a bridge of the kernel, and not to one of Open vSwitch."""
    return root.find("virtualport") is None


def port_group(network: VirtualNetwork, linux: bool = False) -> Element:
    """Return the port group of a complete network.

    linux: whether on a bridge of the kernel. Of that, libvirt before version 11 refuses to know VLANs, so they are among
    the notes, and the ports are told by our own hook.
    """
    group = ElementTree.Element("portgroup", name=str(network.name))
    vlans = vlans_of(network)
    if vlans != Vlans() and not linux:
        element = ElementTree.SubElement(group, "vlan")
        if network.trunk:
            element.set("trunk", "yes")
        for number in vlans.trunks or (vlans.tag,):
            tag = ElementTree.SubElement(element, "tag", id=str(number))
            if vlans.mode == "native-untagged" and number == vlans.tag:
                tag.set("nativeMode", "untagged")
    group.extend(bandwidth.elements(network.bandwidth))
    return group


_SECURITY = ("promiscuous", "mac_changes", "forged_transmits")
_WORDS = {True: "yes", False: "no"}
_TRUTH = {word: value for value, word in _WORDS.items()}


def notes(network: VirtualNetwork, linux: bool = False) -> Element:
    """Return what is kept of a network that its port group cannot say. linux: as of :func:`port_group`."""
    note = ElementTree.Element(_NETWORK, name=str(network.name))
    if linux:
        note.set("vlan", str(network.vlan or 0))
    if network.isolated:
        note.set("isolated", _WORDS[True])
    if network.kvm is not None and network.kvm.dot1q_tunnel is not None:
        note.set("dot1q_tunnel", _WORDS[network.kvm.dot1q_tunnel])
    for name in _SECURITY:
        value = getattr(network.security, name) if network.security else None
        if value is not None:
            note.set(name, _WORDS[value])
    # The same VLANs can be written in several ways; the user's own is kept.
    for entry in network.trunk or ():
        ElementTree.SubElement(note, _TRUNK).text = entry
    for entry in network.subnets or ():
        ElementTree.SubElement(note, _SUBNET).text = entry
    return note


# -- Reading -----------------------------------------------------------------------------------------------------------


def groups_in(root: Optional[Element]) -> Dict[str, Element]:
    """Return the port groups in a libvirt network by name."""
    return {} if root is None else {str(group.get("name")): group for group in root.iterfind("portgroup")}


def same_group(left: Optional[Element], right: Optional[Element]) -> bool:
    """Return whether two port groups say the same."""
    if left is None or right is None:
        return left is right
    return _canonical(left) == _canonical(right)


def _canonical(element: Element) -> Tuple[object, ...]:
    inner = sorted((_canonical(child) for child in element), key=repr)
    return (element.tag, tuple(sorted(element.attrib.items())), tuple(inner))


def _notes_in(root: Element) -> Dict[str, Element]:
    return {str(note.get("name")): note for note in root.iterfind(f"metadata/{_NETWORKS}/{_NETWORK}")}


def describe(switch: str, live: Optional[Element], lasting: Element) -> Iterator[VirtualNetwork]:
    """Yield the networks of a libvirt network.

    switch: its name. live: what runs, or None where it is not started. lasting: what starts with the host.
    Where the two differ, the VLAN is not told.
    """
    kept = _notes_in(lasting)
    running, groups = groups_in(live), groups_in(lasting)
    for name in sorted({*running, *groups}):
        group = groups.get(name)
        shown = group if group is not None else running[name]
        network = _describe(switch, shown, kept.get(name), is_linux(lasting))
        if live is not None and not same_group(group, running.get(name)):
            network = shown_as(network, vlan=None)
        yield network


def _describe(switch: str, group: Element, note: Optional[Element], linux: bool) -> VirtualNetwork:
    vlan, trunk = vlans_in(group)
    security = None
    if note is not None:
        asked = tuple(sorted(str(entry.text) for entry in note.iterfind(_TRUNK)))
        if linux:
            vlan, trunk = int(note.get("vlan") or 0), asked
        elif _ids(asked) == _ids(trunk):
            trunk = asked
        allowed = {name: _TRUTH.get(str(note.get(name))) for name in _SECURITY}
        if any(value is not None for value in allowed.values()):
            security = SwitchSecurity(**allowed)
    tunnel = _TRUTH.get(str(note.get("dot1q_tunnel"))) if note is not None else None
    return VirtualNetwork(
        name=str(group.get("name")),
        switch=switch,
        vlan=vlan,
        trunk=trunk,
        isolated=note is not None and note.get("isolated") == _WORDS[True],
        bandwidth=bandwidth.read(group) if group.find("bandwidth") is not None else None,
        security=security,
        subnets=() if note is None else tuple(sorted(str(entry.text) for entry in note.iterfind(_SUBNET))),
        kvm=None if tunnel is None else KvmNetworkSettings(dot1q_tunnel=tunnel),
    )


def vlans_in(group: Element) -> Tuple[Optional[int], Tuple[str, ...]]:
    """Return (VLAN of untagged frames, VLANs that are tagged, as ranges) of a port group, or of whatever has a <vlan>."""
    element = group.find("vlan")
    if element is None:
        return 0, ("1-4094",)
    numbers = {int(tag.get("id", "0")): tag.get("nativeMode") for tag in element.iterfind("tag")}
    if element.get("trunk") != "yes" and len(numbers) == 1:
        return next(iter(numbers)), ()
    native = [number for number, mode in numbers.items() if mode == "untagged"]
    # Without VLAN 0 and without a native one, untagged frames are dropped, which the model has no word for.
    vlan = native[0] if native else 0 if 0 in numbers else None
    return vlan, spans(number for number in numbers if number not in (0, vlan))


def spans(numbers: Iterable[int]) -> Tuple[str, ...]:
    """Return VLAN ids as ranges, in the order in which the model keeps them."""
    found: List[List[int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return tuple(sorted(str(first) if first == last else f"{first}-{last}" for first, last in found))


# -- Writing -----------------------------------------------------------------------------------------------------------


def new_libvirt_network(switch: str, linux: bool = False) -> Element:
    """Return the libvirt network that stands for a switch. linux: whether that is a bridge of the kernel."""
    root = ElementTree.Element("network")
    ElementTree.SubElement(root, "name").text = switch
    ElementTree.SubElement(root, "forward", mode="bridge")
    ElementTree.SubElement(root, "bridge", name=switch)
    if not linux:
        ElementTree.SubElement(root, "virtualport", type="openvswitch")
    return root


def put(root: Element, name: str, network: Optional[VirtualNetwork]) -> None:
    """Set, or with None remove, a network in a libvirt network's definition. What else is in it stays."""
    for group in [group for group in root.iterfind("portgroup") if group.get("name") == name]:
        root.remove(group)
    holder = _holder(root, network is not None)
    if holder is not None:
        for note in [note for note in holder.iterfind(_NETWORK) if note.get("name") == name]:
            holder.remove(note)
    if network is not None and holder is not None:
        root.append(port_group(network, is_linux(root)))
        holder.append(notes(network, is_linux(root)))


def _holder(root: Element, make: bool) -> Optional[Element]:
    ElementTree.register_namespace("bareforge", METADATA_URI)
    metadata = root.find("metadata")
    if metadata is None:
        if not make:
            return None
        metadata = ElementTree.Element("metadata")
        root.insert(1, metadata)
    holder = metadata.find(_NETWORKS)
    if holder is None and make:
        holder = ElementTree.SubElement(metadata, _NETWORKS)
    return holder


def as_text(element: Element) -> str:
    """Return an element as libvirt is given it."""
    return ElementTree.tostring(element, encoding="unicode")


def without_open_fields(network: VirtualNetwork) -> VirtualNetwork:
    """Return a network to make ports of, where the VLAN was not told."""
    return network if network.vlan is not None else dataclasses.replace(network, vlan=0)
