# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Ethernet frames made by hand, sent into one network device and looked for on another.

It imports the standard library only, since real tests copy it to hosts.
"""

from __future__ import annotations

import ipaddress
import select
import socket
import struct
import time
from typing import Dict, Iterator, Sequence, Set, Tuple

VM_MAC = "52:54:00:00:00:aa"
PEER_MAC = "52:54:00:00:00:bb"
OTHER_MAC = "52:54:00:00:00:cc"
VM4, PEER4, OTHER4 = "192.0.2.7", "192.0.2.1", "192.0.2.9"
VM6, PEER6, OTHER6 = "2001:db8::7", "2001:db8::1", "2001:db8::9"
VM_LINK_LOCAL = "fe80::5054:ff:fe00:aa"
ETH_P_ALL = 3
CABLES = """
ip link add br0 type bridge mcast_snooping 0
ip link add vm type veth peer name bftap
ip link add peer type veth peer name port
ip link set bftap master br0; ip link set port master br0
for device in br0 vm bftap peer port; do
  echo 1 > /proc/sys/net/ipv6/conf/$device/disable_ipv6
  ip link set $device up
done
"""
"""The bridge br0 of a network namespace with a VM's tap device bftap, whose other end is vm, and a port of another, peer."""
PLACE = b"<the mark of a frame stands here>".ljust(64, b".")


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def ethernet(
    kind: int, payload: bytes, source: str = VM_MAC, target: str = PEER_MAC, tags: Sequence[int] = ()
) -> bytes:
    """Return a frame; tags: VLAN ids from the outermost on (IEEE 802.1Q)."""
    header = b"".join(struct.pack("!HH", 0x8100, tag) for tag in tags)
    return mac(target) + mac(source) + header + struct.pack("!H", kind) + payload


def ipv4(source: str, target: str, protocol: int, payload: bytes) -> bytes:
    """Return an IPv4 packet (RFC 791)."""
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0)
    addresses = ipaddress.IPv4Address(source).packed + ipaddress.IPv4Address(target).packed
    total = sum(struct.unpack("!10H", header + addresses))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return header[:10] + struct.pack("!H", ~total & 0xFFFF) + addresses + payload


def ipv6(source: str, target: str, protocol: int, payload: bytes) -> bytes:
    """Return an IPv6 packet (RFC 8200)."""
    addresses = ipaddress.IPv6Address(source).packed + ipaddress.IPv6Address(target).packed
    return struct.pack("!IHBB", 6 << 28, len(payload), protocol, 255) + addresses + payload


def udp(source: int, target: int) -> bytes:
    return struct.pack("!HHHH", source, target, 8 + len(PLACE), 0) + PLACE


def tcp(source: int, target: int) -> bytes:
    return struct.pack("!HHIIBBHHH", source, target, 1, 0, 5 << 4, 2, 1024, 0, 0) + PLACE


def icmp(kind: int, body: bytes = b"") -> bytes:
    """Return a message of ICMP or ICMPv6 whose checksum is wrong, which no filter looks at."""
    return struct.pack("!BBHI", kind, 0, 0, 0) + body + PLACE


def neighbour(kind: int, target: str) -> bytes:
    """Return a neighbour solicitation (135) or advertisement (136) for an address (RFC 4861)."""
    return icmp(kind, ipaddress.IPv6Address(target).packed)


def arp(sender_mac: str, sender: str, target: str, operation: int = 1) -> bytes:
    """Return an ARP message (RFC 826)."""
    header = struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation)
    own = mac(sender_mac) + ipaddress.IPv4Address(sender).packed
    return header + own + mac(PEER_MAC) + ipaddress.IPv4Address(target).packed


def behind_options(kind: int, payload: bytes) -> bytes:
    """Return a payload behind a destination options header of padding (RFC 8200 section 4.6)."""
    return struct.pack("!BBBBI", kind, 0, 1, 4, 0) + payload


def first_fragment(kind: int, payload: bytes) -> bytes:
    """Return the first of several fragments (RFC 8200 section 4.5)."""
    return struct.pack("!BBHI", kind, 0, 1, 7) + payload


IP4, IP6, ARP = 0x0800, 0x86DD, 0x0806
TCP, UDP, ICMP, ICMP6, OPTIONS, FRAGMENT = 6, 17, 1, 58, 60, 44

Case = Tuple[str, bool, int, bytes, str]


def from_vm_cases() -> Iterator[Case]:
    """Yield (name, whether it passes, Ethernet type, payload, source MAC) of what a VM sends.

    The ACL is one with allowed_ipv4 VM4 and allowed_ipv6 VM6 and all else left to its defaults.
    """
    yield "IPv4", True, IP4, ipv4(VM4, PEER4, UDP, udp(1000, 53)), VM_MAC
    yield "IPv4 from another MAC", False, IP4, ipv4(VM4, PEER4, UDP, udp(1000, 53)), OTHER_MAC
    yield "IPv4 from another address", False, IP4, ipv4(OTHER4, PEER4, UDP, udp(1000, 53)), VM_MAC
    yield "IPv4 from no address", False, IP4, ipv4("0.0.0.0", PEER4, UDP, udp(68, 67)), VM_MAC
    yield "DHCP request", True, IP4, ipv4("0.0.0.0", "255.255.255.255", UDP, udp(68, 67)), VM_MAC
    yield "broadcast from no address", False, IP4, ipv4("0.0.0.0", "255.255.255.255", UDP, udp(68, 53)), VM_MAC
    yield "TCP from no address", False, IP4, ipv4("0.0.0.0", "255.255.255.255", TCP, tcp(68, 67)), VM_MAC
    yield "DHCP offer", False, IP4, ipv4(VM4, "255.255.255.255", UDP, udp(67, 68)), VM_MAC
    yield "DHCP offer from another port", False, IP4, ipv4(VM4, PEER4, UDP, udp(1067, 68)), VM_MAC
    yield "DHCP answer to a relay", False, IP4, ipv4(VM4, PEER4, UDP, udp(67, 67)), VM_MAC
    yield "ICMP echo", True, IP4, ipv4(VM4, PEER4, ICMP, icmp(8)), VM_MAC
    yield "ICMP redirect", False, IP4, ipv4(VM4, PEER4, ICMP, icmp(5)), VM_MAC
    yield "ICMP router advertisement", False, IP4, ipv4(VM4, PEER4, ICMP, icmp(9)), VM_MAC
    yield "ARP", True, ARP, arp(VM_MAC, VM4, PEER4), VM_MAC
    yield "ARP probe", True, ARP, arp(VM_MAC, "0.0.0.0", OTHER4), VM_MAC
    yield "ARP for another address", False, ARP, arp(VM_MAC, OTHER4, PEER4, 2), VM_MAC
    yield "ARP for another MAC", False, ARP, arp(OTHER_MAC, VM4, PEER4, 2), VM_MAC
    yield "IPv6", True, IP6, ipv6(VM6, PEER6, UDP, udp(1000, 53)), VM_MAC
    yield "IPv6 link-local", True, IP6, ipv6(VM_LINK_LOCAL, PEER6, UDP, udp(1000, 53)), VM_MAC
    yield "IPv6 from another address", False, IP6, ipv6(OTHER6, PEER6, UDP, udp(1000, 53)), VM_MAC
    yield "IPv6 from another link-local", False, IP6, ipv6("fe80::1", PEER6, UDP, udp(1000, 53)), VM_MAC
    yield "IPv6 from no address", False, IP6, ipv6("::", PEER6, UDP, udp(1000, 53)), VM_MAC
    yield "neighbour advertisement", True, IP6, ipv6(VM6, PEER6, ICMP6, neighbour(136, VM6)), VM_MAC
    yield "advertisement of another", False, IP6, ipv6(VM6, PEER6, ICMP6, neighbour(136, OTHER6)), VM_MAC
    hidden = behind_options(ICMP6, neighbour(136, OTHER6))
    yield "advertisement of another behind options", False, IP6, ipv6(VM6, PEER6, OPTIONS, hidden), VM_MAC
    yield "neighbour solicitation", True, IP6, ipv6(VM6, PEER6, ICMP6, neighbour(135, PEER6)), VM_MAC
    yield "duplicate address detection", True, IP6, ipv6("::", "ff02::1", ICMP6, neighbour(135, VM6)), VM_MAC
    yield "detection of another's", False, IP6, ipv6("::", "ff02::1", ICMP6, neighbour(135, OTHER6)), VM_MAC
    yield "router solicitation", True, IP6, ipv6(VM_LINK_LOCAL, "ff02::2", ICMP6, icmp(133)), VM_MAC
    advertisement = icmp(134)
    yield "router advertisement", False, IP6, ipv6(VM_LINK_LOCAL, "ff02::1", ICMP6, advertisement), VM_MAC
    hidden = behind_options(ICMP6, advertisement)
    yield "router advertisement behind options", False, IP6, ipv6(VM_LINK_LOCAL, "ff02::1", OPTIONS, hidden), VM_MAC
    hidden = first_fragment(OPTIONS, behind_options(ICMP6, PLACE))
    yield "options cut from what they hide", False, IP6, ipv6(VM_LINK_LOCAL, "ff02::1", FRAGMENT, hidden), VM_MAC
    yield "fragmented echo", True, IP6, ipv6(VM6, PEER6, FRAGMENT, first_fragment(ICMP6, icmp(128))), VM_MAC
    yield "ICMPv6 redirect", False, IP6, ipv6(VM6, PEER6, ICMP6, icmp(137, bytes(32))), VM_MAC
    yield "DHCPv6 reply", False, IP6, ipv6(VM6, PEER6, UDP, udp(547, 546)), VM_MAC
    yield "DHCPv6 request", True, IP6, ipv6(VM_LINK_LOCAL, "ff02::1:2", UDP, udp(546, 547)), VM_MAC


def from_vm_frames(tags: Sequence[int] = ()) -> Tuple[Dict[str, bytes], Set[str]]:
    """Return the frames of :func:`from_vm_cases` by name, and the names of those that pass; tags as in ethernet()."""
    frames, passing = {}, set()
    for name, passes, kind, payload, source in from_vm_cases():
        frames[name] = ethernet(kind, payload, source=source, tags=tags)
        if passes:
            passing.add(name)
    return frames, passing


def exchange(sender: str, receiver: str, frames: Dict[str, bytes], patience: float = 3.0) -> Set[str]:
    """Send frames into a device and return the names of those that come out of another, in this network namespace.

    patience: how many seconds the last frame, which always has to arrive, is waited for.
    """
    with _open(sender) as source, _open(receiver) as sink:
        return _exchange(source, sink, frames, patience)


def exchange_between(
    sender: Tuple[str, str], receiver: Tuple[str, str], frames: Dict[str, bytes], patience: float = 5.0
) -> Set[str]:
    """Do what :func:`exchange` does between devices that are each given by network namespace (ip netns) and name."""
    with _open_in(*sender) as source, _open_in(*receiver) as sink:
        return _exchange(source, sink, frames, patience)


def _exchange(source: socket.socket, sink: socket.socket, frames: Dict[str, bytes], patience: float) -> Set[str]:
    markers = {f"<bareforge-{number}>".encode(): name for number, name in enumerate(frames)}
    for marker, name in markers.items():
        mark = marker.ljust(len(PLACE), b".")
        frame = frames[name]
        source.send(frame.replace(PLACE, mark) if PLACE in frame else frame + mark)
    arrived: Set[str] = set()
    end = time.monotonic() + patience
    # Frames keep their order: what has not come a little after the last that came will not come.
    while time.monotonic() < end and select.select([sink], [], [], 0.7 if arrived else patience)[0]:
        data = sink.recv(4096)
        arrived.update(name for marker, name in markers.items() if marker in data)
    return arrived


def _open(device: str) -> socket.socket:
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    opened.bind((device, 0))
    return opened


def _open_in(namespace: str, device: str) -> socket.socket:
    import ctypes
    import os
    import threading

    opened = []

    def work() -> None:
        with open(f"/run/netns/{namespace}", "rb") as stream:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.setns(stream.fileno(), 0x40000000) != 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        opened.append(_open(device))

    # A socket stays in the namespace that it was made in; the thread that made it ends.
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return opened[0]
