# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Routing and NAT seen by packets: a host, a guest behind it and two networks beside it, in namespaces of this kernel."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.firewall import Firewall, FirewallRule
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.network import VirtualSwitch
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.nftables_rules import (
    Routing,
    firewall_commands,
    routing_commands,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.transports import nftables
from support import kernel_nftables

GUEST, OUTSIDE, OTHER = ("10.9.0.50", "fd00:9::50"), ("10.10.0.9", "fd00:10::9"), ("10.20.0.9", "fd00:20::9")
DEVICES = {"nat0": GUEST, "out0": OUTSIDE, "two0": OTHER}


# ping(8) is not on every machine that runs these tests.
PING = """
import socket, sys, time
target, source = sys.argv[1:]
six = ":" in target
kind, reply = (128, 129) if six else (8, 0)
family = socket.AF_INET6 if six else socket.AF_INET
body = bytes([kind, 0, 0, 0, 66, 66, 0, 1])
total = sum(int.from_bytes(body[at:at + 2], "big") for at in range(0, 8, 2))
total = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
body = body[:2] + total.to_bytes(2, "big") + body[4:]
with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_ICMPV6 if six else socket.IPPROTO_ICMP) as s:
    if source:
        s.bind((source, 0))
    s.sendto(body, (target, 0))
    end, found = time.monotonic() + 1.5, False
    while not found and time.monotonic() < end:
        s.settimeout(max(0.01, end - time.monotonic()))
        try:
            data, peer = s.recvfrom(999)
        except TimeoutError:
            break
        found = peer[0] == target and data[0 if six else 20] == reply
print(found)
"""


class Place:
    """A neighbour of the host, in a namespace of its own at the far end of a cable."""

    def __init__(self, device: str) -> None:
        addresses = DEVICES[device]
        self.process = subprocess.Popen(["unshare", "-n", "sleep", "300"])
        self.log = ""
        gateways = [text.rpartition(sign)[0] + sign + "1" for text, sign in zip(addresses, (".", ":"))]
        # The namespace is there a moment after the program has begun.
        time.sleep(0.3)
        run(f"ip link add {device} type veth peer name eth0 netns {self.process.pid}")
        run(f"ip link set {device} up; ip address add {gateways[0]}/24 dev {device}")
        run(f"ip address add {gateways[1]}/64 dev {device} nodad")
        self.run("ip link set lo up; ip link set eth0 up")
        self.run(f"ip address add {addresses[0]}/24 dev eth0; ip address add {addresses[1]}/64 dev eth0 nodad")
        self.run(f"ip route add default via {gateways[0]}; ip -6 route add default via {gateways[1]}")

    def run(self, script: str) -> str:
        return run(f"nsenter -n -t {self.process.pid} sh -eu -c '{script}'")

    def pings(self, target: str, source: str = "") -> bool:
        """Return whether an ICMP echo is answered. source: the address that it is sent from, or any."""
        argv = ["nsenter", "-n", "-t", str(self.process.pid), "python3", "-c", PING, target, source]
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout == "True\n"

    def listen(self, port: int) -> subprocess.Popen[str]:
        """Answer one connection with the address that it comes from."""
        source = (
            "import socket, sys; s = socket.create_server(('::', int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True)\n"
            "print('ready', flush=True)\n"
            "while True: c, a = s.accept(); c.sendall(a[0].encode()); c.close()"
        )
        argv = ["nsenter", "-n", "-t", str(self.process.pid), "python3", "-c", source, str(port)]
        server = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        return server

    def asks(self, target: str, port: int) -> str:
        """Return the address that somebody sees a connection from, or nothing where there is none."""
        source = "import socket, sys; c = socket.create_connection((sys.argv[1], int(sys.argv[2])), 1.5); print(c.recv(99).decode())"
        argv = ["nsenter", "-n", "-t", str(self.process.pid), "python3", "-c", source, target, str(port)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        return done.stdout.strip().removeprefix("::ffff:")


def run(script: str) -> str:
    return subprocess.run(["sh", "-eu", "-c", script], check=True, capture_output=True, text=True).stdout


NAT = VirtualSwitch.parse(
    {
        "name": "nat0",
        "type": "nat",
        "nat": {
            "gateway": "10.9.0.1/24",
            "gateway6": "fd00:9::1/64",
            "dhcp": {"start": "10.9.0.50", "end": "10.9.0.60"},
            "port_forwards": [
                {"protocol": "tcp", "port": "8080", "to_address": GUEST[0], "to_port": "80"},
                {"protocol": "tcp", "port": "8081", "to_address": GUEST[1], "to_port": "80"},
            ],
        },
    }
).complete(None)
DENY = Firewall.parse({"enabled": True, "default_outbound": "deny", "management_ports": ["2222"]}).complete(None)


@pytest.fixture
def routed() -> Callable[..., Any]:
    kernel_nftables.require()

    def enter(work: Callable[..., Any]) -> None:
        outcome: list[BaseException] = []

        def inside() -> bool:
            servers: list[Any] = []
            places: dict[str, Place] = {}
            try:
                run("ip link set lo up; echo 1 > /proc/sys/net/ipv4/ip_forward")
                run("echo 1 > /proc/sys/net/ipv6/conf/all/forwarding")
                places.update({device: Place(device) for device in DEVICES})
                servers += [places["nat0"].listen(80), places["out0"].listen(80), places["two0"].listen(80)]
                work(places["nat0"], places["out0"], places["two0"])
            except BaseException as error:  # noqa: BLE001 - carried out of the thread
                outcome.append(error)
            finally:
                for process in [*servers, *(place.process for place in places.values())]:
                    process.kill()
                    process.wait()
            return True

        nftables._in_network_namespace(inside)
        if outcome:
            raise outcome[0]

    return enter


@pytest.mark.parametrize("firewall", [None, DENY], ids=["without a firewall", "with one that denies all"])
def test_a_guest_gets_out_and_forwards_get_in_and_nothing_else(routed: Any, firewall: Any) -> None:
    def work(guest: Place, outside: Place, other: Place) -> None:
        nftables.run(firewall_commands(firewall, []))
        nftables.run(routing_commands(Routing((NAT,), (), ("out0", "two0"))))
        # Whoever is outside sees the host's address.
        assert guest.asks(OUTSIDE[0], 80) == "10.10.0.1"
        assert guest.asks(OUTSIDE[1], 80) == "fd00:10::1"
        assert guest.pings(OTHER[0])
        # A forward keeps the address of who comes; all else of the guest is out of reach, by whatever way.
        assert outside.asks("10.10.0.1", 8080) == OUTSIDE[0]
        assert outside.asks("fd00:10::1", 8081) == OUTSIDE[1]
        for address in GUEST:
            assert not outside.pings(address)
            assert outside.asks(address, 80) == ""
        assert outside.asks("10.10.0.1", 80) == ""
        # The host has not become a router between its other networks.
        assert not outside.pings(OTHER[0])
        assert not other.pings(OUTSIDE[1])
        # From another address than those of its network, a guest would get out untranslated.
        guest.run("ip address add 10.66.0.1/24 dev eth0")
        run("ip route add 10.66.0.0/24 dev nat0")
        assert not guest.pings(OUTSIDE[0], "10.66.0.1")

    routed(work)


def test_without_the_limits_the_host_would_be_a_router(routed: Any) -> None:
    def work(_guest: Place, outside: Place, _other: Place) -> None:
        nftables.run(routing_commands(Routing((NAT,), (), ())))
        assert outside.pings(OTHER[0])

    routed(work)


def test_the_users_rules_come_before_what_nat_needs(routed: Any) -> None:
    def work(guest: Place, _outside: Place, other: Place) -> None:
        rule = {"name": "no", "direction": "forward", "interfaces": ["nat0"], "destinations": ["10.20.0.0/24"]}
        deny = FirewallRule.parse({**rule, "action": "deny"}).complete(None)
        nftables.run(firewall_commands(DENY, [deny]))
        nftables.run(routing_commands(Routing((NAT,), (), ("out0", "two0"))))
        assert guest.pings(OUTSIDE[0])
        assert not guest.pings(OTHER[0])
        assert not other.pings(GUEST[0])

    routed(work)


def test_routers_reach_each_other_as_the_rules_say_and_nothing_that_is_closed(routed: Any) -> None:
    def work(guest: Place, outside: Place, other: Place) -> None:
        nftables.run(routing_commands(Routing((), ("nat0", "out0"), ("two0",))))
        assert guest.asks(OUTSIDE[0], 80) == GUEST[0]
        assert outside.pings(GUEST[1])
        assert not guest.pings(OTHER[0])
        assert not other.pings(GUEST[0])
        allow = {"name": "ping", "direction": "forward", "interfaces": ["nat0"], "protocol": "icmp", "action": "allow"}
        nftables.run(firewall_commands(DENY, [FirewallRule.parse(allow).complete(None)]))
        assert guest.pings(OUTSIDE[0])
        assert guest.asks(OUTSIDE[0], 80) == ""
        assert not outside.pings(GUEST[0])

    routed(work)
