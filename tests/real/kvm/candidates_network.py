# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What networks of a KVM host are written to do and what no real host has shown yet, so that the platform does not declare it.

NAT, routing, Linux bridges, what ports may do, and addresses from others. Not part of any run;
`pytest tests/real/kvm/candidates_network.py` tries it, which wants a machine that has nothing else to do. What passes moves to
test_network.py with the capabilities that it names, which are declared then. Until then it is shown on a host in memory
(test_network_steps), by packets in namespaces (test_routing_packets, test_guest_ports), and by what nftables makes of it.

As in test_network, the outside is the namespace `peer` at the far end of wires.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest

from ..real_host import OnHostError, RealHost
from ..warm_host import WarmHost
from .test_network import KINDS, NOTHING, clear, received, settled, vlan, wires

CAPABILITIES = (
    "virtual_switch.type.nat",
    *(f"virtual_switch.nat.{name}" for name in ("dhcp", "gateway6", "port_forwards")),
    *(f"virtual_switch.{name}" for name in ("bond.balance_xor", "kvm.linux_bridge", "security", "vlan_aware")),
    *(f"virtual_network.{name}" for name in ("isolated", "bandwidth", "security", "kvm.dot1q_tunnel")),
    *(f"host_interface.{name}" for name in ("dhcp6", "accept_ra", "forwarding")),
)
FunctionType = TypeVar("FunctionType", bound=Callable[..., None])


def would_show(*capabilities: str) -> Callable[[FunctionType], FunctionType]:
    """Say which capabilities a test shows when it passes on a real host."""
    assert set(capabilities) <= {*CAPABILITIES, "virtual_network.vlan"}
    return lambda function: function


class CandidateHost(WarmHost):
    """A host whose engine takes the candidates as if they were declared."""

    def on_host(
        self, function: Callable[..., Any] | str, *, fresh: bool = False, timeout: float = 300, **data: Any
    ) -> Any:
        source = function if isinstance(function, str) else textwrap.dedent(inspect.getsource(function))
        name = "main" if isinstance(function, str) else function.__name__
        declare = f"""
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.network import KvmNetwork

KvmNetwork.CAPABILITIES = KvmNetwork.CAPABILITIES | set({list(CAPABILITIES)!r})
"""
        return super().on_host(
            f"from typing import Any\n{declare}\n{source}\nmain = {name}\n", fresh=fresh, timeout=timeout, **data
        )


def clear_kinds() -> None:
    """Take away what tests leave behind beside switches: the firewall, routing, servers in the namespace."""
    from host_tools import apply, output

    apply({"firewall": {"enabled": False}, "firewall_rules": []}, exact=["firewall_rule"])
    apply(
        {"virtual_switches": [], "virtual_networks": [], "host_interfaces": []},
        exact=["virtual_switch", "virtual_network", "host_interface"],
    )
    output("sh", "-c", "kill $(cat /tmp/peer-*.pid) 2> /dev/null; rm -f /tmp/peer-*", check=False)


@pytest.fixture(scope="module")
def warm(host: RealHost) -> Iterator[WarmHost]:
    """The host with a process that has imported everything."""
    machine = CandidateHost(host.name, host.variables)
    machine.on_host(clear)
    yield machine
    machine.close()


@pytest.fixture(scope="module")
def image(warm: WarmHost) -> None:
    """The guests' image on the host, fetched before any firewall of a test keeps it from that."""
    warm.on_host(fetch, url=warm.variables["lab_images"]["tiny-guest"]["url"], path=IMAGE)


@pytest.fixture
def net(warm: WarmHost) -> Iterator[WarmHost]:
    """The host without switches and without a firewall."""
    yield warm
    warm.shell("for name in $(virsh list --name | grep ^net-test); do virsh destroy $name; done")
    warm.on_host(clear_kinds)
    warm.on_host(clear)


IMAGE = "/var/lib/libvirt/images/net-test.qcow2"
GUEST_XML = """
<domain type='kvm'>
  <name>net-test{number}</name><memory unit='MiB'>192</memory><vcpu>1</vcpu>
  <os><type machine='q35'>hvm</type></os><features><acpi/></features><cpu mode='host-passthrough'/>
  <devices>
    <disk type='file' device='disk'><driver name='qemu' type='qcow2'/>
      <source file='/var/lib/libvirt/images/net-test{number}.qcow2'/><target dev='vda' bus='virtio'/></disk>
    <interface type='network'><source network='{switch}' portgroup='{network}'/>
      <mac address='52:54:00:00:00:{number}'/><target dev='net-test{number}'/><model type='virtio'/></interface>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <serial type='file'><source path='/var/log/libvirt/qemu/net-test{number}-console.log'/></serial>
  </devices>
</domain>
"""


def fetch(url: str, path: str) -> None:
    """Download a file, unless it is there."""
    import os
    import urllib.request

    if not os.path.exists(path):
        urllib.request.urlretrieve(url, f"{path}.part")  # noqa: S310 - the lab is http
        os.rename(f"{path}.part", path)


def start_guests(guests: list[list[str]], xml: str, base: str) -> None:
    """Start tiny guests without a seed: they ask DHCP for addresses and answer HTTP. guests: [number, switch, network]."""
    import os

    import libvirt
    from host_tools import output

    connection = libvirt.open("qemu:///system")
    for number, switch, network in guests:
        log = f"/var/log/libvirt/qemu/net-test{number}-console.log"
        if os.path.exists(log):
            os.unlink(log)
        overlay = f"/var/lib/libvirt/images/net-test{number}.qcow2"
        output("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", overlay)
        connection.createXML(xml.format(number=number, switch=switch, network=network), 0)


def guests_on(host: RealHost, *guests: tuple[int, str, str]) -> None:
    """Start guests and wait until they are up."""
    listed = [[f"{number:02d}", switch, network] for number, switch, network in guests]
    host.on_host(start_guests, guests=listed, xml=GUEST_XML, base=IMAGE)
    for number, _switch, _network in listed:
        log = f"/var/log/libvirt/qemu/net-test{number}-console.log"
        host.shell(
            f"for i in $(seq 240); do grep -q 'lab: ready' {log} && exit 0; sleep 0.5; done; exit 1", timeout=200
        )


def in_guest(host: RealHost, number: int, script: str, timeout: float = 120) -> str:
    """Run a shell script in a guest by its agent and return what it has written."""
    return str(host.on_host(_by_agent, name=f"net-test{number:02d}", script=script, seconds=timeout))


def _by_agent(name: str, script: str, seconds: float) -> str:
    import base64
    import json
    import time

    import libvirt
    import libvirt_qemu

    libvirt.registerErrorHandler(lambda *_: None, None)
    domain = libvirt.open("qemu:///system").lookupByName(name)

    def ask(command: str, arguments: Any) -> Any:
        request = json.dumps({"execute": command, "arguments": arguments})
        return json.loads(libvirt_qemu.qemuAgentCommand(domain, request, 30, 0))["return"]

    end = time.monotonic() + seconds
    while True:
        try:
            job = ask("guest-exec", {"path": "/bin/sh", "arg": ["-c", script], "capture-output": True})
            break
        except libvirt.libvirtError:
            if time.monotonic() > end:
                raise
            time.sleep(0.5)
    while True:
        status = ask("guest-exec-status", {"pid": job["pid"]})
        if status["exited"]:
            text = base64.b64decode(status.get("out-data", "")) + base64.b64decode(status.get("err-data", ""))
            return text.decode("utf-8", "replace").strip()
        if time.monotonic() > end:
            raise TimeoutError(script)
        time.sleep(0.2)


def pings_from(host: RealHost, number: int, target: str, *options: str) -> int:
    """Return how many of three pings from a guest were answered."""
    text = in_guest(host, number, f"ping -q -c 3 -W 2 {' '.join(options)} {target}")
    return int(text.split(" packets received")[0].split()[-1])


def fetched(host: RealHost, url: str, namespace: str = "peer", family: str = "") -> str:
    """Return what a web server answers somebody in the namespace, or nothing."""
    program = f"import urllib.request; print(urllib.request.urlopen({url!r}, timeout=4).read().decode())"
    return host.run("ip", "netns", "exec", namespace, "python3", "-c", program, check=False)


OUTSIDE = {
    "virtual_switches": [{"name": "br-out", "uplinks": ["wire0"]}],
    "virtual_networks": [{"name": "out", "switch": "br-out", "vlan": 10}],
    "host_interfaces": [{"name": "out0", "network": "out", "addresses": ["10.10.0.1/24", "fd00:10::1/64"]}],
}
PEER = vlan("far0", 10, "10.10.0.9/24", "fd00:10::9/64")
NAT = {
    "name": "nat0",
    "type": "nat",
    "nat": {
        "gateway": "10.9.0.1/24",
        "gateway6": "fd00:9::1/64",
        "dhcp": {"start": "10.9.0.50", "end": "10.9.0.50"},
        "port_forwards": [
            {"protocol": "tcp", "port": "8080", "to_address": "10.9.0.50", "to_port": "80"},
            {"protocol": "tcp", "port": "8090-8092", "to_address": "10.9.0.50", "to_port": "80-82"},
        ],
    },
}


def with_nat(**fields: Any) -> dict[str, Any]:
    return {
        "virtual_switches": [*OUTSIDE["virtual_switches"], {**NAT, "nat": {**NAT["nat"], **fields}}],  # type: ignore[dict-item]
        "virtual_networks": [*OUTSIDE["virtual_networks"], {"name": "inside", "switch": "nat0"}],
        "host_interfaces": OUTSIDE["host_interfaces"],
    }


FIREWALL = {
    "firewall": {"enabled": True, "default_inbound": "deny", "default_forward": "deny", "default_outbound": "deny"}
}


def routes_at_boot(host: RealHost) -> dict[str, str]:
    """Return what routes on the host."""
    text = host.shell(
        "cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding\n"
        "nft list table inet bareforge_routing 2> /dev/null | wc -l\n"
        "ls /etc/bareforge | grep -c -e routing -e forwarding || true\n"
    ).split()
    return dict(zip(("ipv4", "ipv6", "lines", "files"), text, strict=True))


@would_show(
    "virtual_switch.type.nat",
    "virtual_switch.nat.dhcp",
    "virtual_switch.nat.gateway6",
    "virtual_switch.nat.port_forwards",
)
def test_guests_behind_nat_reach_out_and_only_forwards_reach_in(net: WarmHost, image: None) -> None:
    before = routes_at_boot(net)
    assert before == {"ipv4": "0", "ipv6": "0", "lines": "0", "files": "0"}
    wires(
        net,
        1,
        # Somebody outside who knows of the network and tries to reach it.
        PEER + "ip route add 10.9.0.0/24 via 10.10.0.1\nip -6 route add fd00:9::/64 via fd00:10::1\n",
    )
    document = {**with_nat(), **FIREWALL}
    settled(net, document)
    gathered = net.gather(*KINDS, "firewall")
    assert net.apply(gathered)["changed"] is False
    [shown] = [entry for entry in gathered["virtual_switches"] if entry["name"] == "nat0"]
    assert shown["nat"] == NAT["nat"]

    guests_on(net, (11, "nat0", "inside"))
    addresses = in_guest(
        net,
        11,
        "for i in $(seq 40); do ip -4 -o addr show eth0 | grep -q inet && break; sleep 0.5; done; ip -o addr show eth0; ip route",
    )
    assert "10.9.0.50/24" in addresses
    assert "default via 10.9.0.1" in addresses
    # The peer has a way back to the guest's own address: that it answers the host's shows the translation.
    capture = "timeout 15 ip netns exec peer tcpdump -ni v10 -c 6 icmp or icmp6 2> /dev/null"
    net.shell(f"({capture}) > /tmp/peer-capture 2>&1 &\nsleep 1")
    assert pings_from(net, 11, "10.10.0.9") == 3
    seen = net.shell("sleep 2; cat /tmp/peer-capture; true")
    assert "10.10.0.1 > 10.10.0.9" in seen
    assert "10.9.0.50" not in seen
    in_guest(
        net, 11, "for i in $(seq 40); do ip -6 -o addr show eth0 | grep -q 'fd00:9:.*global' && break; sleep 0.5; done"
    )
    assert pings_from(net, 11, "fd00:10::9", "-6") == 3

    # A forward from outside, and the same guest without one.
    assert "tiny" in fetched(net, "http://10.10.0.1:8080/")
    assert "tiny" in fetched(net, "http://10.10.0.1:8090/")
    assert received(net, "10.9.0.50") == 0
    assert fetched(net, "http://10.9.0.50/") == ""
    six = in_guest(net, 11, "ip -6 -o addr show eth0 scope global").split()
    address = next(word for word in six if word.startswith("fd00:9:")).partition("/")[0]
    assert received(net, address) == 0
    assert fetched(net, f"http://[{address}]/") == ""
    # What NAT needs of the host is DHCP, and nothing else of the host is open to guests by it.
    assert "open" not in in_guest(net, 11, "nc -w 2 10.9.0.1 111 < /dev/null && echo open")
    assert received(net, "10.10.0.1") == 0

    # Other networks of the host are not routed to, by somebody outside.
    assert net.apply({"virtual_switches": [{"name": "nat0", "nat": {"gateway": "10.9.0.1/24", "port_forwards": []}}]})[
        "changed"
    ]
    assert fetched(net, "http://10.10.0.1:8080/") == ""
    assert pings_from(net, 11, "10.10.0.9") == 3

    net.shell("virsh destroy net-test11")
    net.apply({**NOTHING, "firewall": {"enabled": False}}, exact=KINDS)
    assert routes_at_boot(net) == before


def test_nat_works_without_a_firewall_and_opens_no_other_way_through_the_host(net: WarmHost) -> None:
    # A second network of the host, which never was routed to: what forwarding for NAT must not change.
    wires(net, 2, PEER + "ip route add 10.20.0.0/24 via 10.10.0.1\nip route add 10.0.2.0/24 via 10.10.0.1\n")
    net.shell(
        "ip netns add peer2; ip -n peer link set far1 netns peer2; ip -n peer2 link set far1 up\n"
        "ip -n peer2 address add 10.20.0.9/24 dev far1; ip -n peer2 route add default via 10.20.0.1\n"
    )
    try:
        document = with_nat()
        document["virtual_switches"].append({"name": "br-two", "uplinks": ["wire1"]})
        document["virtual_networks"].append({"name": "two", "switch": "br-two"})
        document["host_interfaces"] = [
            *document["host_interfaces"],
            {"name": "two0", "network": "two", "addresses": ["10.20.0.1/24"]},
        ]
        settled(net, document)
        assert received(net, "10.10.0.1") == 3
        assert received(net, "10.20.0.9") == 0
        assert received(net, "10.0.2.2") == 0
        # The counter-check: without the limits it would.
        net.run("nft", "flush", "chain", "inet", "bareforge_routing", "forward")
        assert received(net, "10.20.0.9") == 3
        result = settled(net, {"virtual_switches": [{"name": "nat0"}]})
        assert [(change["key"], change["fields"]) for change in result["changes"]] == [("nat0", ["nat"])]
        assert received(net, "10.20.0.9") == 0
    finally:
        net.shell("ip netns delete peer2")


def test_nat_is_there_again_after_a_restart(net: WarmHost) -> None:
    document = {
        "virtual_switches": [{**NAT}],
        "virtual_networks": [{"name": "inside", "switch": "nat0"}],
        **FIREWALL,
    }
    settled(net, document)
    before, gathered = routes_at_boot(net), net.gather(*KINDS)
    net.reboot()
    net.shell("for i in $(seq 120); do ip -o address show nat0 | grep -q 10.9.0.1/24 && exit 0; sleep 1; done; exit 1")
    assert routes_at_boot(net) == before
    assert net.gather(*KINDS) == gathered
    assert net.apply(document)["changed"] is False


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"gateway": "10.0.2.1/24"}, "overlaps with 10.0.2.0/24, which is on mgmt0"),
        ({"port_forwards": [{"protocol": "tcp", "port": "22", "to_address": "10.9.0.50"}]}, "is managed through: 22"),
        ({"gateway6": "fd00:9::1/80"}, "prefix length of 64"),
    ],
)
def test_nat_that_would_break_the_host_is_refused(warm: WarmHost, fields: dict[str, Any], words: str) -> None:
    nat = {**NAT["nat"], "dhcp": None, "port_forwards": [], **fields}  # type: ignore[dict-item]
    with pytest.raises(OnHostError, match=words) as caught:
        warm.apply({"virtual_switches": [{"name": "nat0", "type": "nat", "nat": nat}]})
    assert caught.value.kind == "ValidateError"
    with pytest.raises(OnHostError, match="of type nat, whose gateway has no VLAN"):
        warm.apply({"virtual_switches": [NAT], "virtual_networks": [{"name": "inside", "switch": "nat0", "vlan": 5}]})


KILLS = '''
def main(document, nothing, kinds, look):
    """Let the process die before every step that touches the host, when it makes and when it removes."""
    import importlib
    import host_tools

    kvm = "ansible_collections.bareforge.hypervisor.plugins.module_utils."
    def module(name):
        return importlib.import_module(kvm + name)

    class Killed(BaseException):
        pass

    places = [
        (module("platforms.kvm.open_vswitch").Edit, "commit"),
        *((module("platforms.kvm.libvirt_networks"), name) for name in ("ensure", "put", "remove")),
        *((module("platforms.kvm.networkd"), name) for name in ("write", "remove", "apply")),
        *((module("platforms.kvm.routing"), name) for name in ("write_json", "write_atomically", "remove_file", "_turn")),
        (module("transports.nftables"), "run"),
        *((module("platforms.kvm.systemd"), name) for name in ("install_unit", "remove_unit")),
    ]
    originals = {(owner, name): getattr(owner, name) for owner, name in places}
    count = [0, 0]

    def mortal(function):
        def call(*arguments, **named):
            count[0] += 1
            if count[0] == count[1]:
                raise Killed
            return function(*arguments, **named)
        return call

    def run_and_die(at, document, **options):
        count[:] = [0, at]
        for (owner, name), function in originals.items():
            setattr(owner, name, mortal(function))
        try:
            host_tools.apply(document, **options)
        except Killed:
            return True
        finally:
            for (owner, name), function in originals.items():
                setattr(owner, name, function)
        return False

    def open_without_limits():
        forwarding = host_tools.output("cat", "/proc/sys/net/ipv4/ip_forward")
        return forwarding == "1" and not host_tools.output("nft", "list", "table", "inet", "bareforge_routing", check=False)

    report = {"made": 0, "removed": 0, "problems": []}
    at = 1
    while run_and_die(at, document):
        if open_without_limits():
            report["problems"].append(f"making, death at {at}: the host routes without limits")
        host_tools.apply(document)
        if host_tools.apply(document)["changed"]:
            report["problems"].append(f"making, death at {at}: not finished")
        host_tools.apply(nothing, exact=kinds)
        report["made"] = at
        at += 1
    at = 1
    while run_and_die(at, nothing, exact=kinds):
        if open_without_limits():
            report["problems"].append(f"removing, death at {at}: the host routes without limits")
        host_tools.apply(nothing, exact=kinds)
        left = host_tools.output("sh", "-c", look, check=False)
        if left:
            report["problems"].append(f"removing, death at {at}: left {left}")
        host_tools.apply(document)
        report["removed"] = at
        at += 1
    host_tools.apply(nothing, exact=kinds)
    return report
'''
LOOK = (
    "ovs-vsctl list-br; ls /etc/systemd/network | grep bareforge; virsh net-list --all --name | grep -v default;"
    "grep 1 /proc/sys/net/ipv4/ip_forward; nft list tables | grep routing; ls /etc/bareforge | grep -e rout -e forwarding;"
    "ls /etc/systemd/system | grep routing"
)


def test_nat_killed_anywhere_the_next_run_finishes(net: WarmHost) -> None:
    document = {"virtual_switches": [NAT], "virtual_networks": [{"name": "inside", "switch": "nat0"}]}
    report = net.on_host(KILLS, document=document, nothing=NOTHING, kinds=KINDS, look=LOOK, timeout=1500)
    assert report["problems"] == []
    assert report["made"] >= 9
    assert report["removed"] >= 9


# -- Addresses from others, and routing --------------------------------------------------------------------------------

SERVER = (
    "dnsmasq --no-resolv --no-hosts --port=0 --bind-interfaces --interface=v10 --except-interface=lo --enable-ra "
    "--dhcp-range=fd00:10::50,fd00:10::50,64,10m --pid-file=/tmp/peer-dnsmasq.pid --dhcp-leasefile=/tmp/peer-leases\n"
)


def until(host: RealHost, condition: str, seconds: int = 60) -> None:
    """Wait until a shell command on the host succeeds."""
    host.shell(
        f"for i in $(seq {seconds * 2}); do {condition} && exit 0; sleep 0.5; done; exit 1", timeout=seconds + 60
    )


@would_show("host_interface.dhcp6", "host_interface.accept_ra")
def test_ipv6_addresses_come_from_dhcp_and_from_routers_only_where_asked(net: WarmHost) -> None:
    wires(net, 1, vlan("far0", 10, "fd00:10::9/64") + SERVER)
    document = {
        **OUTSIDE,
        "host_interfaces": [
            {"name": "learns0", "network": "out", "accept_ra": True},
            {"name": "leases0", "network": "out", "dhcp6": True},
            {"name": "neither0", "network": "out", "addresses": ["fd00:10::1/64"]},
        ],
    }
    settled(net, document)
    until(net, "ip -6 -o address show dev leases0 | grep -q fd00:10::50/128")
    until(net, "ip -6 -o address show dev learns0 | grep -q 'fd00:10:.*global dynamic'")
    assert "default" in net.run("ip", "-6", "route", "show", "dev", "learns0")
    assert "fd00:10::50" not in net.run("ip", "-6", "-o", "address", "show", "dev", "learns0")
    assert "default" not in net.run("ip", "-6", "route", "show", "dev", "leases0")
    assert net.run("ip", "-6", "-o", "address", "show", "dev", "neither0", "scope", "global").count("inet6") == 1
    assert "default" not in net.run("ip", "-6", "route", "show", "dev", "neither0")
    assert received(net, "fd00:10::50") == 3
    gathered = net.gather(*KINDS)
    assert net.apply(gathered)["changed"] is False
    shown = {entry["name"]: entry for entry in gathered["host_interfaces"]}
    assert (shown["leases0"]["addresses"], shown["learns0"]["addresses"]) == ([], [])
    assert (shown["leases0"]["dhcp6"], shown["learns0"]["accept_ra"]) == (True, True)
    document["host_interfaces"] = [
        {"name": "learns0", "network": "out", "accept_ra": False},
        {"name": "leases0", "network": "out", "dhcp6": False},
    ]
    settled(net, document)
    until(net, "! ip -6 -o address show scope global dev learns0 | grep -q fd00")
    until(net, "! ip -6 -o address show scope global dev leases0 | grep -q fd00")


@would_show("host_interface.forwarding")
def test_the_host_routes_between_networks_that_say_so_and_its_firewall_stands_between(net: WarmHost) -> None:
    wires(
        net,
        1,
        vlan("far0", 10, "10.10.0.9/24", "fd00:10::9/64") + "ip route add 10.20.0.0/24 via 10.10.0.1\n"
        "ip route add 10.30.0.0/24 via 10.10.0.1\nip -6 route add fd00:20::/64 via fd00:10::1\n",
    )
    net.shell(
        "ip netns add peer2; ip link add wire20 type veth peer name far20 netns peer2; ip link set wire20 up\n"
        "ip -n peer2 link set far20 up; ip -n peer2 address add 10.20.0.9/24 dev far20\n"
        "ip -n peer2 address add fd00:20::9/64 dev far20 nodad; ip -n peer2 route add default via 10.20.0.1\n"
        "ip -n peer2 -6 route add default via fd00:20::1\n"
    )
    document = {
        "virtual_switches": [*OUTSIDE["virtual_switches"], {"name": "br-in", "type": "internal"}],
        "virtual_networks": [
            *OUTSIDE["virtual_networks"],
            {"name": "in", "switch": "br-in"},
            {"name": "own", "switch": "br-in", "vlan": 30},
        ],
        "host_interfaces": [
            {**OUTSIDE["host_interfaces"][0], "forwarding": True},
            {"name": "in0", "network": "in", "addresses": ["10.20.0.1/24", "fd00:20::1/64"], "forwarding": True},
            {"name": "own0", "network": "own", "addresses": ["10.30.0.1/24"]},
        ],
        "firewall": {"enabled": True, "default_forward": "deny"},
        "firewall_rules": [
            {"name": "ping", "direction": "forward", "protocol": "icmp", "interfaces": ["out0"], "action": "allow"},
            {"name": "ping6", "direction": "forward", "protocol": "icmpv6", "interfaces": ["out0"], "action": "allow"},
        ],
    }
    try:
        settled(net, document)
        assert net.apply(net.gather(*KINDS, "firewall", "firewall_rule"))["changed"] is False
        net.shell("ovs-vsctl add-port br-in wire20 tag=0")
        assert received(net, "10.20.0.9") == 3
        assert received(net, "fd00:20::9") == 3
        # The other way, and other protocols, are for the rules to allow, and nothing allows them.
        assert received(net, "10.10.0.9", namespace="peer2") == 0
        assert fetched(net, "http://10.20.0.9/") == ""
        net.apply(
            {"firewall_rules": [{"name": "back", "direction": "forward", "interfaces": ["in0"], "action": "allow"}]}
        )
        assert received(net, "10.10.0.9", namespace="peer2") == 3
        # Where the firewall lets everything pass, what does not say that it routes is still not routed to.
        net.apply({"firewall": {"default_forward": "allow"}})
        assert received(net, "10.0.2.2", namespace="peer2") == 0
        net.run("ovs-vsctl", "del-port", "wire20")
        settled(net, {"host_interfaces": [{"name": "in0", "network": "in", "forwarding": False}]})
        settled(net, {"host_interfaces": [{"name": "out0", "network": "out", "forwarding": False}]})
        assert routes_at_boot(net) == {"ipv4": "0", "ipv6": "0", "lines": "0", "files": "0"}
    finally:
        net.shell("ovs-vsctl --if-exists del-port wire20; ip netns delete peer2")


# -- Bridges of the kernel ---------------------------------------------------------------------------------------------

LINUX = {"name": "br-lin", "uplinks": ["wire0"], "kvm": {"implementation": "linux_bridge"}}
ON_LINUX = {
    "virtual_switches": [LINUX],
    "virtual_networks": [{"name": "app", "switch": "br-lin", "vlan": 10}, {"name": "plain", "switch": "br-lin"}],
    "host_interfaces": [
        {"name": "app0", "network": "app", "addresses": ["10.10.0.1/24", "fd00:10::1/64"]},
        {"name": "plain0", "network": "plain", "addresses": ["10.0.9.1/24"]},
    ],
}


def left_of_linux(host: RealHost) -> str:
    """Return what is there of bridges, interfaces and files of ours."""
    return host.shell(
        "ls /sys/class/net | grep -e '^br-' -e '^bf[bp]' -e '^app' -e '^plain' || true\n"
        "ls /etc/systemd/network | grep bareforge || true\n"
        "virsh net-list --all --name | grep -v -e '^default$' -e '^$' || true\n"
        "ls /etc/bareforge | grep guest_ports || true\n"
    )


@would_show("virtual_switch.kvm.linux_bridge")
def test_vlans_on_a_linux_bridge(net: WarmHost) -> None:
    wires(
        net,
        1,
        "ip link set far0 mtu 9000\n"
        + PEER
        + vlan("far0", 20, "10.10.0.8/24", "fd00:10::8/64")
        + vlan("far0", 5, "10.5.0.9/24")
        + "ip address add 10.0.9.9/24 dev far0\n",
    )
    net.shell("ip link add brforeign type bridge; ip link set brforeign up")
    settled(net, ON_LINUX)
    assert received(net, "10.10.0.1", "-I", "v10") == 3
    assert received(net, "fd00:10::1", "-I", "v10") == 3
    assert received(net, "10.10.0.1", "-I", "v20") == 0
    assert received(net, "10.0.9.1", "-I", "far0") == 3
    gathered = net.gather(*KINDS)
    assert net.apply(gathered)["changed"] is False
    assert [entry["name"] for entry in gathered["virtual_switches"]] == ["br-lin"]

    result = settled(net, {"virtual_networks": [{"name": "app", "switch": "br-lin", "vlan": 20}]})
    assert [(change["key"], change["fields"]) for change in result["changes"]] == [("app", ["vlan"])]
    assert received(net, "10.10.0.1", "-I", "v20") == 3
    assert received(net, "10.10.0.1", "-I", "v10") == 0

    trunk = {"name": "app", "switch": "br-lin", "vlan": 5, "trunk": ["10-12"]}
    settled(
        net,
        {
            "virtual_switches": [{**LINUX, "mtu": 9000}],
            "virtual_networks": [trunk],
            "host_interfaces": [{"name": "app0", "network": "app", "addresses": ["10.5.0.1/24"], "mtu": 9000}],
        },
    )
    net.shell(
        "ip link add link app0 name app0.10 type vlan id 10; ip link set app0.10 up; ip address add 10.10.0.1/24 dev app0.10"
    )
    assert received(net, "10.5.0.1", "-I", "v5", "-M", "do", "-s", "8972") == 3
    assert received(net, "10.10.0.1", "-I", "v10") == 3
    net.run("ip", "link", "delete", "app0.10")
    with pytest.raises(OnHostError, match="keeps untagged frames in VLAN 1"):
        net.apply({"virtual_networks": [{"name": "app", "switch": "br-lin", "vlan": 1, "trunk": []}]})

    # What somebody breaks is seen and mended.
    for damage, key in (
        ("bridge vlan del dev wire0 vid 10", "br-lin"),
        ("ip link set wire0 nomaster", "br-lin"),
        ("ip link delete app0", "app0"),
        ("bridge vlan add dev $(ls /sys/class/net | grep ^bfp | head -n 1) vid 77", "0"),
    ):
        net.shell(damage)
        changes = net.apply(
            {
                "virtual_switches": [{"name": "br-lin"}],
                "host_interfaces": [{"name": "app0", "network": "app"}, {"name": "plain0", "network": "plain"}],
            }
        )["changes"]
        assert any(change["key"].endswith(key) for change in changes), (damage, changes)
        assert net.apply(gathered := net.gather(*KINDS))["changed"] is False, damage
    net.apply(NOTHING, exact=KINDS)
    assert left_of_linux(net) == ""
    assert "brforeign" in net.run("ls", "/sys/class/net")
    net.run("ip", "link", "delete", "brforeign")


LINUX_BONDED = {**ON_LINUX, "virtual_switches": [{**LINUX, "uplinks": ["wire0", "wire1"]}]}


def linux_bond(mode: str, **bond: str) -> dict[str, Any]:
    return {
        **LINUX_BONDED,
        "virtual_switches": [{**LINUX, "uplinks": ["wire0", "wire1"], "bond": {"mode": mode, **bond}}],
    }


def active_member(host: RealHost) -> str:
    return host.shell("cat /sys/class/net/bfb*/bonding/active_slave")


@would_show("virtual_switch.kvm.linux_bridge")
def test_linux_bonds(net: WarmHost) -> None:
    wires(
        net,
        2,
        "ip link add bridge0 type bridge\nip link set bridge0 up\n"
        "for name in far0 far1; do ip link set $name master bridge0; done\n" + vlan("bridge0", 10, "10.10.0.9/24"),
    )
    settled(net, linux_bond("active_backup", primary="wire1"))
    assert received(net, "10.10.0.1") == 3
    assert active_member(net) == "wire1"
    net.run("ip", "-n", "peer", "link", "set", "far1", "down")
    assert received(net, "10.10.0.1", count=6) >= 3
    assert active_member(net) == "wire0"
    net.run("ip", "-n", "peer", "link", "set", "far1", "up")

    settled(net, {"virtual_switches": [{**LINUX, "uplinks": ["wire1"]}]})
    assert received(net, "10.10.0.1") == 3
    assert "bfb" not in net.run("ls", "/sys/class/net")
    settled(net, linux_bond("active_backup"))
    assert received(net, "10.10.0.1") == 3

    for mode, options in (("balance_slb", {}), ("active_backup", {"lacp": "active"})):
        with pytest.raises(OnHostError, match="on a Linux bridge") as caught:
            net.apply(linux_bond(mode, **options))
        assert caught.value.kind == "ValidateError"


@would_show("virtual_switch.bond.balance_xor")
def test_linux_bonds_that_use_both_uplinks(net: WarmHost) -> None:
    wires(
        net,
        2,
        "ip link add bond0 type bond mode 802.3ad lacp_rate fast miimon 100\n"
        "for name in far0 far1; do ip link set $name down; ip link set $name master bond0; done\n"
        "ip link set bond0 up\n" + vlan("bond0", 10, "10.10.0.9/24"),
    )
    settled(net, linux_bond("balance_tcp", lacp="active"))
    until(net, "ip netns exec peer ping -q -c 1 -W 1 10.10.0.1")
    status = net.shell("cat /proc/net/bonding/bfb*")
    assert "Number of ports: 2" in status
    # By a hash of both ends, with a peer that joins its ports without LACP; another mode takes another bond.
    net.shell(
        "ip -n peer link delete bond0; ip -n peer link add bond0 type bond mode balance-xor miimon 100\n"
        "for name in far0 far1; do ip -n peer link set $name down; ip -n peer link set $name master bond0; done\n"
        "ip -n peer link set bond0 up\n"
        "cat > /tmp/peer.sh <<'END'\n"
        + vlan("bond0", 10, "10.10.0.9/24")
        + "END\nip netns exec peer sh -eu /tmp/peer.sh\n"
    )
    settled(net, linux_bond("balance_xor", lacp="off"))
    until(net, "ip netns exec peer ping -q -c 1 -W 1 10.10.0.1")
    assert received(net, "10.10.0.1") == 3
    net.run("ip", "-n", "peer", "link", "set", "far0", "down")
    net.run("ip", "link", "set", "wire0", "down")
    assert received(net, "10.10.0.1", count=6) >= 3


def test_an_uplink_moves_between_open_vswitch_and_a_linux_bridge_with_its_network(net: WarmHost) -> None:
    wires(net, 1, PEER)

    def document(there: str) -> dict[str, Any]:
        other = {"br-lin": "br-ovs", "br-ovs": "br-lin"}[there]
        kinds = {"br-lin": "linux_bridge", "br-ovs": "openvswitch"}
        return {
            "virtual_switches": [
                {"name": there, "uplinks": ["wire0"], "kvm": {"implementation": kinds[there]}},
                {"name": other, "state": "absent"},
            ],
            "virtual_networks": [{"name": "app", "switch": there, "vlan": 10}],
            "host_interfaces": [
                {"name": "app0", "network": "app", "addresses": ["10.10.0.1/24"], "mac": "02:00:00:00:aa:01"}
            ],
        }

    settled(net, document("br-ovs"))
    assert received(net, "10.10.0.1") == 3
    for there in ("br-lin", "br-ovs", "br-lin"):
        settled(net, document(there))
        assert received(net, "10.10.0.1") == 3
        assert net.run("cat", "/sys/class/net/app0/address") == "02:00:00:00:aa:01"
    net.apply(NOTHING, exact=KINDS)
    assert left_of_linux(net) == ""
    assert net.run("ovs-vsctl", "list-br") == ""


def test_a_linux_bridge_killed_anywhere_the_next_run_finishes(net: WarmHost) -> None:
    wires(net, 2)
    places = '("write", "remove", "apply")),'
    assert places in KILLS
    source = KILLS.replace(
        places,
        places
        + '\n        *((module("platforms.kvm.linux_bridge"), name) for name in ("run_command", "delete_device")),'
        '\n        *((module("platforms.kvm.guest_ports"), name) for name in ("write_json", "remove_file")),',
    )
    look = LOOK + "; ls /sys/class/net | grep -e ^br- -e ^bf; ls /etc/bareforge | grep guest_ports"
    report = net.on_host(
        source, document=linux_bond("active_backup"), nothing=NOTHING, kinds=KINDS, look=look, timeout=1500
    )
    assert report["problems"] == []
    assert report["made"] >= 12
    assert report["removed"] >= 10


# -- What ports may do -------------------------------------------------------------------------------------------------

LINK_LOCAL = "fe80::5054:ff:fe00:{:02x}"


@would_show("virtual_network.isolated", "virtual_network.vlan")
@pytest.mark.parametrize("implementation", ["openvswitch", "linux_bridge"])
def test_guests_follow_their_network_and_isolated_ones_meet_the_uplink_only(
    net: WarmHost, image: None, implementation: str
) -> None:
    wires(net, 1, PEER + vlan("far0", 20, "fd00:10::8/64"))
    switch = {"name": "br-kind", "uplinks": ["wire0"], "kvm": {"implementation": implementation}}
    document = {
        "virtual_switches": [switch],
        "virtual_networks": [{"name": "app", "switch": "br-kind", "vlan": 10, "isolated": True}],
        "host_interfaces": [{"name": "app0", "network": "app", "addresses": ["fd00:10::1/64"]}],
    }
    settled(net, document)
    assert net.apply(net.gather(*KINDS))["changed"] is False
    guests_on(net, (11, "br-kind", "app"), (12, "br-kind", "app"))
    assert net.apply(document)["changed"] is False
    for number in (0x11, 0x12):
        assert received(net, f"{LINK_LOCAL.format(number)}%v10") == 3
        assert received(net, f"{LINK_LOCAL.format(number)}%v20") == 0
    assert pings_from(net, 11, f"{LINK_LOCAL.format(0x12)}%eth0", "-6") == 0
    assert received(net, f"{LINK_LOCAL.format(0x11)}%app0", namespace="") == 0

    settled(net, {"virtual_networks": [{"name": "app", "switch": "br-kind", "isolated": False, "vlan": 20}]})
    assert pings_from(net, 11, f"{LINK_LOCAL.format(0x12)}%eth0", "-6") == 3
    assert received(net, f"{LINK_LOCAL.format(0x11)}%v20") == 3
    assert received(net, f"{LINK_LOCAL.format(0x11)}%v10") == 0
    settled(net, {"virtual_networks": [{"name": "app", "switch": "br-kind", "isolated": True}]})
    assert pings_from(net, 11, f"{LINK_LOCAL.format(0x12)}%eth0", "-6") == 0
    assert received(net, f"{LINK_LOCAL.format(0x11)}%v20") == 3


@would_show(
    "virtual_switch.security",
    "virtual_network.security",
    "virtual_network.bandwidth",
    "virtual_switch.vlan_aware",
)
def test_what_guests_may_send_and_see_and_how_fast(net: WarmHost, image: None) -> None:
    wires(net, 1, PEER)
    secure = {"promiscuous": False, "mac_changes": False, "forged_transmits": False}
    document = {
        "virtual_switches": [{**OUTSIDE["virtual_switches"][0], "vlan_aware": True, "security": secure}],
        "virtual_networks": [
            {
                "name": "out",
                "switch": "br-out",
                "vlan": 10,
                "bandwidth": {"outbound": {"average": 8000}, "inbound": {"average": 8000}},
            }
        ],
    }
    settled(net, document)
    guests_on(net, (11, "br-out", "out"))
    assert net.apply(net.gather(*KINDS))["changed"] is False
    own, other = "52:54:00:00:00:11", "02:00:00:00:00:77"
    change = "ip link set eth0 down; ip link set eth0 address {}; ip link set eth0 up; ip addr add 10.10.0.7/24 dev eth0 2>/dev/null; true"
    in_guest(net, 11, change.format(own))
    assert pings_from(net, 11, "10.10.0.9") == 3

    def rate() -> float:
        """How fast a guest sends, in kbit/s."""
        net.shell(
            "ip netns exec peer timeout 40 nc -l -u -p 9 > /tmp/peer-sink 2>/dev/null & echo started", check=False
        )
        before = int(net.run("ip", "netns", "exec", "peer", "cat", "/sys/class/net/v10/statistics/rx_bytes"))
        in_guest(net, 11, "dd if=/dev/zero bs=1400 count=6000 2>/dev/null | timeout 6 nc -u -w 1 10.10.0.9 9; true")
        after = int(net.run("ip", "netns", "exec", "peer", "cat", "/sys/class/net/v10/statistics/rx_bytes"))
        return (after - before) * 8 / 1000

    limited = rate()
    in_guest(net, 11, change.format(other))
    assert pings_from(net, 11, "10.10.0.9") == 0
    # The network says otherwise than its switch: sending from another address is all right, being sent to it as well.
    free = {"promiscuous": True, "mac_changes": True, "forged_transmits": True}
    settled(net, {"virtual_networks": [{"name": "out", "switch": "br-out", "security": free}]})
    assert pings_from(net, 11, "10.10.0.9") == 3
    # What is sent to it may be all that is refused.
    settled(
        net, {"virtual_networks": [{"name": "out", "switch": "br-out", "security": {**free, "mac_changes": False}}]}
    )
    assert pings_from(net, 11, "10.10.0.9") == 0
    seen = net.run("ip", "-n", "peer", "neigh", "show", "10.10.0.7")
    assert other in seen
    in_guest(net, 11, change.format(own))
    assert pings_from(net, 11, "10.10.0.9") == 3
    faster = {"outbound": {"average": 400000}, "inbound": {"average": 400000}}
    settled(net, {"virtual_networks": [{"name": "out", "switch": "br-out", "bandwidth": faster}]})
    assert rate() > limited * 1.5
    with pytest.raises(OnHostError, match=r"allowed with kvm\.implementation linux_bridge"):
        net.apply({"virtual_switches": [{"name": "br-out", "vlan_aware": False}]})


@would_show("virtual_network.kvm.dot1q_tunnel")
def test_a_tunnel_puts_tagged_frames_into_its_vlan(net: WarmHost) -> None:
    wires(
        net,
        1,
        "ip link add link far0 name outer type vlan proto 802.1ad id 100\nip link set outer up\n"
        + vlan("outer", 10, "10.10.0.9/24"),
    )
    document = {
        "virtual_switches": OUTSIDE["virtual_switches"],
        "virtual_networks": [{"name": "tenant", "switch": "br-out", "vlan": 100, "kvm": {"dot1q_tunnel": True}}],
        "host_interfaces": [{"name": "tenant0", "network": "tenant"}],
    }
    settled(net, document)
    assert net.apply(net.gather(*KINDS))["changed"] is False
    net.shell(
        "ip link add link tenant0 name tenant0.10 type vlan id 10; ip link set tenant0.10 up\n"
        "ip address add 10.10.0.1/24 dev tenant0.10"
    )
    assert received(net, "10.10.0.1", "-I", "v10") == 3
    settled(net, {"virtual_networks": [{"name": "tenant", "switch": "br-out", "kvm": {"dot1q_tunnel": False}}]})
    assert received(net, "10.10.0.1", "-I", "v10") == 0
