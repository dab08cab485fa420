# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Routing and NAT: what nftables is told, what is refused, and that no step leaves the host open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.firewall import Firewall
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.network import HostInterface, VirtualSwitch
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm import (
    host_devices,
    nat,
    networkd,
    routing,
    systemd,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.host_devices import (
    DeviceAddress,
    DeviceRoute,
    HostAddresses,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.nftables_rules import (
    HOST_TABLE,
    ROUTING_TABLE,
    Routing,
    firewall_commands,
    routing_commands,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.transports import nftables
from support import kernel_nftables

FORWARDS = [
    {"protocol": "tcp", "port": "8080", "to_address": "10.9.0.5", "to_port": "80"},
    {"protocol": "udp", "port": "5000-5002", "to_address": "10.9.0.5", "to_port": "6000-6002"},
    {"protocol": "tcp", "port": "7000-7009", "to_address": "10.9.0.6"},
]


def switch(name: str = "nat0", **fields: Any) -> VirtualSwitch:
    given = {"gateway": "10.9.0.1/24", "dhcp": {"start": "10.9.0.100", "end": "10.9.0.199"}, **fields}
    return VirtualSwitch.parse({"name": name, "type": "nat", "nat": given}).complete(None)


def chains(wanted: Routing) -> dict[str, list[str]]:
    kernel_nftables.require()
    shown = kernel_nftables.shown_as_text(routing_commands(wanted), ROUTING_TABLE)
    return {name: [rule for rule, _comment in rules] for name, rules in shown.items()}


MARK = "meta mark set meta mark | 0x02000000"


def test_nat_in_the_words_of_the_kernel() -> None:
    shown = chains(Routing((switch(port_forwards=FORWARDS, gateway6="fd00:9::1/64"),), (), ("mgmt0", "uplink0")))
    assert shown["input"] == [f'iifname "nat0" meta nfproto ipv4 udp sport 68 udp dport 67 {MARK}']
    assert shown["output"] == [f'oifname "nat0" meta nfproto ipv4 udp sport 67 udp dport 68 {MARK}']
    assert shown["postrouting"] == [
        'ip saddr 10.9.0.0/24 oifname != "nat0" masquerade',
        'ip6 saddr fd00:9::/64 oifname != "nat0" masquerade',
    ]
    start = 'meta nfproto ipv4 iifname != "nat0" fib daddr type local'
    assert shown["prerouting"] == [
        f"{start} tcp dport 7000-7009 dnat ip to 10.9.0.6",
        f"{start} tcp dport 8080 dnat ip to 10.9.0.5:80",
        *(f"{start} udp dport {port} dnat ip to 10.9.0.5:{port + 1000}" for port in (5000, 5001, 5002)),
    ]
    assert shown["forward"] == [
        "ct state established,related accept",
        f'oifname "nat0" ct status dnat {MARK} accept',
        'oifname "nat0" drop',
        f'iifname "nat0" ip saddr 10.9.0.0/24 {MARK} accept',
        f'iifname "nat0" ip6 saddr fd00:9::/64 {MARK} accept',
        'iifname "nat0" drop',
        'iifname { "mgmt0", "uplink0" } oifname { "mgmt0", "uplink0" } drop',
    ]


def test_two_nats_do_not_reach_each_other_and_dhcp_is_marked_only_where_it_is_given_out() -> None:
    other = VirtualSwitch.parse({"name": "nat1", "type": "nat", "nat": {"gateway": "10.8.0.1/24"}}).complete(None)
    shown = chains(Routing((switch(), other), (), ()))
    assert shown["forward"][2] == 'oifname { "nat0", "nat1" } drop'
    assert all('"nat1"' not in rule for rule in shown["input"] + shown["output"])
    assert shown["prerouting"] == []
    assert shown["forward"][-1] == 'iifname { "nat0", "nat1" } drop'


def test_routers_reach_each_other_and_nothing_that_was_closed() -> None:
    shown = chains(Routing((), ("a0", "b0"), ("mgmt0",)))
    assert set(shown) == {"input", "forward", "output"}
    assert shown["forward"] == [
        "ct state established,related accept",
        'iifname "mgmt0" oifname { "a0", "b0", "mgmt0" } drop',
        'iifname { "a0", "b0" } oifname "mgmt0" drop',
    ]


def test_without_anything_to_route_there_is_no_table() -> None:
    assert routing_commands(Routing()) == nftables.replace_table(*ROUTING_TABLE, None)
    assert routing.routing_of([], [HostInterface.parse({"name": "a0", "network": "a"}).complete(None)]).is_empty()


def test_the_firewall_lets_marked_packets_through_behind_the_users_rules() -> None:
    kernel_nftables.require()
    policy = Firewall.parse({"enabled": True, "default_outbound": "allow"}).complete(None)
    shown = kernel_nftables.shown_as_text(firewall_commands(policy, []), HOST_TABLE)
    for chain in ("input", "forward"):
        assert shown[chain][-2:] == [
            ("meta mark & 0x02000000 == 0x02000000 accept", "needed by NAT"),
            ("drop", "default"),
        ]
    assert all(comment != "needed by NAT" for _rule, comment in shown["output"])


def test_what_is_closed_is_hardware_and_interfaces_that_do_not_route(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_devices, "device_names", lambda: ["mgmt0", "virbr0", "a0", "b0", "nat0"])
    monkeypatch.setattr(host_devices, "is_uplink_like", lambda name: name == "mgmt0")
    interfaces = [
        HostInterface.parse({"name": name, "network": "n", "forwarding": name == "a0"}).complete(None)
        for name in ("a0", "b0")
    ]
    wanted = routing.routing_of([switch()], interfaces)
    assert (wanted.routers, wanted.closed) == (("a0",), ("b0", "mgmt0"))
    assert wanted.families() == (4, 6)
    assert routing.routing_of([switch()], []).families() == (4,)


class Host:
    """The files, the kernel's switches and what nftables was told, in the order of the steps."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.steps: list[Any] = []
        self.table: Any = None
        self.installed = False
        self.death = 0
        for name in routing.SWITCHES.values():
            path = root / "proc" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("0\n")

    def value(self, family: int = 4) -> str:
        return (self.root / "proc" / routing.SWITCHES[family]).read_text().strip()

    def step(self, what: str) -> None:
        self.steps.append((what, self.value()))
        if len(self.steps) == self.death:
            raise Killed

    def run(self, commands: Any) -> None:
        self.step("nft")
        self.table = commands if len(commands) > 2 else None

    def install(self, *_arguments: Any) -> None:
        self.step("unit")
        self.installed = True

    def remove(self, *_arguments: Any) -> None:
        self.step("no unit")
        self.installed = False


class Killed(BaseException):
    pass


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    made = Host(tmp_path)
    monkeypatch.setattr(routing, "PROC", str(tmp_path / "proc"))
    monkeypatch.setattr(routing, "ROUTING_FILE", str(tmp_path / "etc" / "routing.json"))
    monkeypatch.setattr(routing, "FORWARDING_FILE", str(tmp_path / "etc" / "forwarding.conf"))
    monkeypatch.setattr(nftables, "run", made.run)
    monkeypatch.setattr(nftables, "list_table", lambda *_table: made.table)
    monkeypatch.setattr(nftables, "preview", lambda commands, tables: {tables[0]: list(commands)})
    monkeypatch.setattr(systemd, "install_unit", made.install)
    monkeypatch.setattr(systemd, "remove_unit", made.remove)
    monkeypatch.setattr(systemd, "unit_is_installed", lambda *_arguments: made.installed)
    monkeypatch.setattr(routing, "others_route", lambda: False)
    return made


WANTED = Routing((switch(),), (), ("mgmt0",))


def test_forwarding_is_never_on_without_the_table(host: Host) -> None:
    routing.put_in_force(WANTED)
    assert host.steps == [("nft", "0"), ("unit", "1")]
    assert routing.is_in_force(WANTED)
    assert (host.value(4), host.value(6)) == ("1", "0")
    host.steps.clear()
    routing.put_in_force(WANTED)
    assert host.steps == []
    routing.put_in_force(Routing())
    assert host.steps == [("nft", "0"), ("no unit", "0")]
    assert routing.is_in_force(Routing())
    assert list((host.root / "etc").iterdir()) == []


@pytest.mark.parametrize("death", [1, 2])
def test_killed_at_a_step_it_is_still_known_whose_forwarding_it_is(host: Host, death: int) -> None:
    host.death = death
    with pytest.raises(Killed):
        routing.put_in_force(WANTED)
    assert not routing.is_in_force(WANTED)
    host.death = 0
    routing.put_in_force(WANTED)
    assert routing.is_in_force(WANTED)
    host.steps, host.death = [], death
    with pytest.raises(Killed):
        routing.put_in_force(Routing())
    host.death = 0
    assert not routing.is_in_force(Routing())
    routing.put_in_force(Routing())
    assert host.value() == "0"
    assert routing.is_in_force(Routing())


def test_forwarding_of_somebody_else_is_neither_limited_nor_switched_off(host: Host) -> None:
    (host.root / "proc" / routing.SWITCHES[4]).write_text("1\n")
    routing.put_in_force(WANTED)
    assert host.table == routing_commands(Routing(WANTED.nats, (), ()))
    routing.put_in_force(Routing())
    assert host.value() == "1"


def test_others_that_came_meanwhile_keep_their_forwarding(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    routing.put_in_force(WANTED)
    monkeypatch.setattr(routing, "others_route", lambda: True)
    routing.put_in_force(Routing())
    assert host.value() == "1"


@pytest.mark.parametrize("damage", ["table", "switch", "file", "unit", "forwarding"])
def test_what_somebody_breaks_is_seen_and_mended(host: Host, damage: str) -> None:
    routing.put_in_force(WANTED)
    if damage == "table":
        host.table = None
    elif damage == "switch":
        (host.root / "proc" / routing.SWITCHES[4]).write_text("0\n")
    elif damage == "unit":
        host.installed = False
    else:
        name = "routing.json" if damage == "file" else "forwarding.conf"
        (host.root / "etc" / name).write_text("{}")
    assert not routing.is_in_force(WANTED)
    routing.put_in_force(WANTED)
    assert routing.is_in_force(WANTED)


def test_kernel_that_learns_its_way_out_itself_is_noticed(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    routes = {
        "eth0": (DeviceRoute("::/0", "fe80::1", False, 1024),),
        "eth1": (DeviceRoute("::/0", "fe80::2", False, 1),),
    }
    monkeypatch.setattr(host_devices, "read_addresses", lambda: HostAddresses({}, routes))
    for name, value in (("eth0", "1"), ("eth1", "0")):
        path = host.root / "proc/net/ipv6/conf" / name / "accept_ra"
        path.parent.mkdir(parents=True)
        path.write_text(f"{value}\n")
    six = Routing((switch(gateway6="fd00:9::1/64"),))
    assert routing.held_back_by_forwarding(six) == {"eth0"}
    assert routing.held_back_by_forwarding(WANTED) == set()
    (host.root / "proc" / routing.SWITCHES[6]).write_text("1\n")
    assert routing.held_back_by_forwarding(six) == set()


# -- The gateway -------------------------------------------------------------------------------------------------------


def problems(item: VirtualSwitch, *others: VirtualSwitch, taken: Any = (), ports: Any = ("22",)) -> dict[str, str]:
    return dict(nat.problems(item, others, taken, ports))


@pytest.mark.parametrize(
    ("fields", "taken", "field", "words"),
    [
        ({}, [("10.9.0.77/16", "mgmt0")], "nat.gateway", "10.9.0.0/24 overlaps with 10.9.0.0/16, which is on mgmt0"),
        ({"gateway6": "fd00::1/80"}, [], "nat.gateway6", "allowed is a prefix length of 64"),
        ({"gateway6": "fd00::1/64"}, [("fd00::9/64", "x")], "nat.gateway6", "overlaps with fd00::/64"),
        (
            {"port_forwards": [{"protocol": "tcp", "port": "20-25", "to_address": "10.9.0.5"}]},
            [],
            "nat.port_forwards['tcp/20-25'].port",
            "holds a port that the host is managed through: 22",
        ),
        (
            {
                "port_forwards": [
                    {"protocol": "udp", "port": "70", "to_address": "10.9.0.5"},
                    {"protocol": "udp", "port": "60-80", "to_address": "10.9.0.6"},
                ]
            },
            [],
            "nat.port_forwards['udp/70'].port",
            "70 leads to 10.9.0.6 behind 'nat0' already",
        ),
        (
            {"port_forwards": [{"protocol": "udp", "port": "1-1025", "to_port": "2-1026", "to_address": "10.9.0.5"}]},
            [],
            "nat.port_forwards['udp/1-1025'].to_port",
            "allowed are 1024",
        ),
    ],
)
def test_what_a_gateway_cannot_be(fields: Any, taken: Any, field: str, words: str) -> None:
    [(where, message)] = problems(switch(**fields), taken=taken).items()
    assert where == field
    assert words in message


def test_two_gateways_share_neither_networks_nor_doors() -> None:
    forward = {"protocol": "tcp", "port": "80", "to_address": "10.9.0.5"}
    there = switch("nat1", gateway="10.7.0.1/24", dhcp={"start": "10.7.0.5", "end": "10.7.0.9"})
    assert problems(switch(port_forwards=[forward]), there) == {}
    assert "overlaps with 10.9.0.0/24, which is on nat1" in problems(switch(), switch("nat1"))["nat.gateway"]
    theirs = switch(
        "nat1",
        gateway="10.7.0.1/24",
        dhcp={"start": "10.7.0.5", "end": "10.7.0.9"},
        port_forwards=[{"protocol": "tcp", "port": "79-81", "to_address": "10.7.0.5"}],
    )
    assert "behind 'nat1'" in problems(switch(port_forwards=[forward]), theirs)["nat.port_forwards['tcp/80'].port"]
    six = {**forward, "to_address": "fd00:9::5"}
    assert problems(switch(port_forwards=[six], gateway6="fd00:9::1/64"), theirs) == {}


def test_the_file_of_a_gateway() -> None:
    text = networkd.gateway_file(switch(gateway6="fd00:9::1/64")).decode()
    assert "[Match]\nName=nat0\n" in text
    assert "Address=10.9.0.1/24\nAddress=fd00:9::1/64\nDHCPServer=yes\nIPv6SendRA=yes\n" in text
    assert "[DHCPServer]\nPoolOffset=100\nPoolSize=100\n" in text
    assert "[IPv6Prefix]\nPrefix=fd00:9::/64\n" in text
    bare = VirtualSwitch.parse({"name": "n", "type": "nat", "nat": {"gateway": "10.8.0.1/16"}}).complete(None)
    assert "DHCPServer=no\nIPv6SendRA=no\n" in networkd.gateway_file(bare).decode()


def test_what_a_gateway_still_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_devices, "is_up", lambda _name: True)
    item = switch()

    def with_address(text: str, usable: bool = True) -> HostAddresses:
        return HostAddresses({"nat0": (DeviceAddress(text, False, usable),)}, {})

    assert nat.what_is_missing(item, with_address("10.9.0.1/24")) == []
    assert "10.9.0.2/24 and not 10.9.0.1/24" in nat.what_is_missing(item, with_address("10.9.0.2/24"))[0]
    assert "in use by another host" in nat.what_is_missing(item, with_address("10.9.0.1/24", False))[0]
    monkeypatch.setattr(host_devices, "is_up", lambda _name: False)
    assert "nat0 is not up" in nat.what_is_missing(item, with_address("10.9.0.1/24"))[0]
