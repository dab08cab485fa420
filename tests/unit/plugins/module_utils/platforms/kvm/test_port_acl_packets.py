# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Port ACLs seen by packets: a bridge of this machine's kernel with a cable to the VM and one to its peer."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.firewall import PortAcl
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.nftables_rules import port_acl_commands
from ansible_collections.bareforge.hypervisor.plugins.module_utils.transports import nftables
from support import frames, kernel_nftables
from support.frames import IP4, IP6, OTHER4, OTHER6, PEER4, PEER6, PEER_MAC, TCP, UDP, VM4, VM6, VM_MAC


@pytest.fixture
def on_bridge() -> Callable[..., Any]:
    kernel_nftables.require()

    def run(acl: dict[str, Any], work: Callable[[], Any]) -> Any:
        complete = PortAcl.parse({"vm": "v", "nic": "n", **acl}).complete(None)

        def inside() -> Any:
            subprocess.run(["sh", "-eu", "-c", frames.CABLES], check=True)
            nftables.run(port_acl_commands(complete, VM_MAC, "bftap"))
            return work()

        return nftables._in_network_namespace(inside)

    return run


LIMITS = {"allowed_ipv4": [VM4], "allowed_ipv6": [VM6]}


def send_all(tags: Any = ()) -> set[str]:
    return frames.exchange("vm", "peer", frames.from_vm_frames(tags)[0])


@pytest.mark.parametrize("tags", [(), (30,)], ids=["untagged", "tagged"])
def test_vm_can_be_nobody_else(on_bridge: Any, tags: Any) -> None:
    expected = frames.from_vm_frames()[1]
    arrived = on_bridge(LIMITS, lambda: send_all(tags))
    assert sorted(arrived - expected) == [], "these got through"
    assert sorted(expected - arrived) == [], "these were lost"


def test_second_tag_is_no_way_around(on_bridge: Any) -> None:
    assert on_bridge(LIMITS, lambda: send_all((30, 40))) == set()
    assert on_bridge({"mac_spoofing": True}, lambda: send_all((30, 40))) == set()


def test_without_guards_everything_passes(on_bridge: Any) -> None:
    acl = {"mac_spoofing": True, "dhcp_guard": False, "router_guard": False}
    everything = set(frames.from_vm_frames()[0])
    assert on_bridge(acl, send_all) == everything
    assert on_bridge(acl, lambda: send_all((30, 40))) == everything


@pytest.mark.parametrize(
    ("acl", "dropped"),
    [
        ({"dhcp_guard": False, "router_guard": False}, {"IPv4 from another MAC", "ARP for another MAC"}),
        (
            {"mac_spoofing": True, "router_guard": False},
            {"DHCP offer", "DHCP offer from another port", "DHCP answer to a relay", "DHCPv6 reply"},
        ),
        (
            {"mac_spoofing": True, "dhcp_guard": False},
            {
                *("ICMP redirect", "ICMP router advertisement", "router advertisement", "ICMPv6 redirect"),
                *("router advertisement behind options", "options cut from what they hide"),
            },
        ),
    ],
    ids=["mac", "dhcp", "router"],
)
def test_each_guard_drops_what_it_is_for_and_no_more(on_bridge: Any, acl: Any, dropped: set[str]) -> None:
    assert set(frames.from_vm_frames()[0]) - on_bridge(acl, send_all) == dropped


def test_rules_hold_in_their_order_and_direction(on_bridge: Any) -> None:
    def packet(source4: str, source6: str, target4: str, target6: str, port: int) -> dict[str, bytes]:
        to_vm = source4 != VM4
        ends: Any = {"source": PEER_MAC, "target": VM_MAC} if to_vm else {"source": VM_MAC, "target": PEER_MAC}
        return {
            f"4 {source4} {target4} {port}": frames.ethernet(
                IP4, frames.ipv4(source4, target4, TCP, frames.tcp(9, port)), **ends
            ),
            f"6 {source6} {target6} {port}": frames.ethernet(
                IP6, frames.ipv6(source6, target6, TCP, frames.tcp(9, port)), **ends
            ),
        }

    towards = {
        **packet(PEER4, PEER6, VM4, VM6, 22),
        **packet(OTHER4, OTHER6, VM4, VM6, 22),
        **packet(PEER4, PEER6, VM4, VM6, 80),
        "arp": frames.ethernet(frames.ARP, frames.arp(PEER_MAC, PEER4, VM4), source=PEER_MAC, target=VM_MAC),
        "ns": frames.ethernet(
            IP6, frames.ipv6(PEER6, VM6, frames.ICMP6, frames.neighbour(135, VM6)), source=PEER_MAC, target=VM_MAC
        ),
        "udp": frames.ethernet(IP4, frames.ipv4(PEER4, VM4, UDP, frames.udp(9, 22)), source=PEER_MAC, target=VM_MAC),
    }
    away = {
        **packet(VM4, VM6, PEER4, PEER6, 25),
        **packet(VM4, VM6, PEER4, PEER6, 443),
        **packet(VM4, VM6, OTHER4, OTHER6, 25),
    }
    acl = {
        "default_inbound": "deny",
        "rules": [
            {"name": "z", "action": "allow", "protocol": "tcp", "ports": ["22"], "remotes": [PEER4, PEER6]},
            {
                "name": "m",
                "direction": "outbound",
                "action": "allow",
                "protocol": "tcp",
                "ports": ["25"],
                "remotes": [OTHER4, OTHER6],
            },
            {"name": "a", "direction": "outbound", "protocol": "tcp", "ports": ["20-30"]},
        ],
    }
    inward, outward = on_bridge(
        acl, lambda: (frames.exchange("peer", "vm", towards), frames.exchange("vm", "peer", away))
    )
    assert inward == {f"4 {PEER4} {VM4} 22", f"6 {PEER6} {VM6} 22", "arp", "ns"}
    assert outward == set(away) - {f"4 {VM4} {PEER4} 25", f"6 {VM6} {PEER6} 25"}
