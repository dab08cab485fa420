# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Switches, networks and host interfaces on a real host, looked at from the other end of the wire.

The wire is made of veth pairs whose far ends are in the network namespace `peer`, under Linux's own VLANs, bonding and
bridge: nothing there is Open vSwitch's or ours. Real NICs are the uplinks where the host restarts and where its
management address moves.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from ..real_host import OnHostError, RealHost
from ..warm_host import WarmHost

KINDS = ("virtual_switch", "virtual_network", "host_interface")
NOTHING: dict[str, list[Any]] = {"virtual_switches": [], "virtual_networks": [], "host_interfaces": []}


def clear() -> None:
    """Take away all that tests leave behind."""
    import contextlib
    import glob
    import os

    import libvirt
    from host_tools import output

    libvirt.registerErrorHandler(lambda *_: None, None)
    connection = libvirt.open("qemu:///system")
    for domain in connection.listAllDomains():
        if domain.name().startswith("net-test"):
            with contextlib.suppress(libvirt.libvirtError):
                domain.destroy()
    for network in connection.listAllNetworks():
        if network.name() != "default":
            persistent = network.isPersistent()
            if network.isActive():
                network.destroy()
            if persistent:
                network.undefine()
    for path in glob.glob("/etc/systemd/network/05-bareforge-*"):
        output("rm", "-r", path)
    bridges = output("ovs-vsctl", "list-br").split()
    for bridge in bridges:
        output("ovs-vsctl", "del-br", bridge)
    output("ip", "netns", "delete", "peer", check=False)
    for name in os.listdir("/sys/class/net"):
        if name.startswith("wire"):
            output("ip", "link", "delete", name, check=False)
    output("networkctl", "reload")


@pytest.fixture(scope="module")
def warm(host: RealHost) -> Iterator[WarmHost]:
    """The host with a process that has imported everything."""
    machine = WarmHost(host.name, host.variables)
    machine.on_host(clear)
    yield machine
    machine.close()


@pytest.fixture
def net(warm: WarmHost) -> Iterator[WarmHost]:
    """The host without switches."""
    yield warm
    warm.on_host(clear)


def wires(host: RealHost, count: int, script: str = "") -> None:
    """Make the wires wire0, wire1, ... whose far ends far0, far1, ... are in the namespace `peer`, and are up there.

    script: what else is to be done in the namespace.
    """
    lines = ["ip netns add peer", "ip -n peer link set lo up"]
    for number in range(count):
        lines += [
            f"ip link add wire{number} type veth peer name far{number} netns peer",
            f"ip -n peer link set far{number} up",
        ]
    host.shell(
        "\n".join(lines) + f"\ncat > /tmp/peer.sh <<'END'\n{script}\nEND\nip netns exec peer sh -eux /tmp/peer.sh\n"
    )


def vlan(device: str, number: int, *addresses: str) -> str:
    """Return the script lines that make a VLAN of a device in the namespace, with addresses."""
    name = f"v{number}"
    lines = [f"ip link add link {device} name {name} type vlan id {number}", f"ip link set {name} up"]
    # Linux answers ARP for any of its addresses on any interface, which would look like a leak.
    lines.append(f"echo 1 > /proc/sys/net/ipv4/conf/{name}/arp_ignore")
    lines += [f"ip address add {address} dev {name}" + (" nodad" if ":" in address else "") for address in addresses]
    return "\n".join(lines) + "\n"


def received(host: RealHost, target: str, *options: str, namespace: str = "peer", count: int = 3) -> int:
    """Return how many of three pings from the namespace were answered. namespace: empty for the host itself."""
    inside = ["ip", "netns", "exec", namespace] if namespace else []
    ping = [*inside, "ping", "-q", "-c", str(count), "-i", "0.3", "-W", "3", *options, target]
    words = host.run(*ping, check=False).split()
    return int(words[words.index("received,") - 1])


def apply_thrice(document: dict[str, Any]) -> dict[str, Any]:
    """Apply a document on the host: as a check, for real, and once more. Everything is read anew each time."""
    import host_tools

    predicted = host_tools.apply(document, check=True)
    result = host_tools.apply(document)
    again = host_tools.apply(document)
    return {"predicted": predicted, "result": result, "again": again}


def settled(host: RealHost, document: dict[str, Any]) -> dict[str, Any]:
    """Apply a document and show that check mode told what would be done, and that it is done."""
    outcome = host.on_host(apply_thrice, document=document)
    assert outcome["predicted"]["changes"] == outcome["result"]["changes"]
    assert outcome["result"]["changed"] is True
    assert outcome["again"]["changes"] == []
    return dict(outcome["result"])


BASE = {
    "virtual_switches": [{"name": "br-data", "uplinks": ["wire0"]}],
    "virtual_networks": [{"name": "app", "switch": "br-data", "vlan": 10, "subnets": ["10.10.0.0/24"]}],
    "host_interfaces": [{"name": "app0", "network": "app", "addresses": ["10.10.0.1/24", "fd00:10::1/64"]}],
}
BASE["virtual_networks"][0]["subnets"].append("fd00:10::/64")  # type: ignore[attr-defined]


@pytest.mark.capability(
    "kvm",
    "virtual_switch",
    "virtual_switch.type.bridged",
    "virtual_switch.kvm.openvswitch",
    "virtual_network",
    "virtual_network.vlan",
    "host_interface",
    ran_against="real",
)
def test_a_vlan_reaches_its_own_and_no_other(net: WarmHost) -> None:
    wires(net, 1, vlan("far0", 10, "10.10.0.9/24", "fd00:10::9/64") + vlan("far0", 20, "10.10.0.8/24", "fd00:10::8/64"))
    document = {**BASE, "virtual_networks": [*BASE["virtual_networks"], {"name": 'db "ä" >', "switch": "br-data"}]}
    settled(net, document)

    assert received(net, "10.10.0.1", "-I", "v10") == 3
    assert received(net, "fd00:10::1", "-I", "v10") == 3
    assert received(net, "10.10.0.1", "-I", "v20") == 0
    assert received(net, "fd00:10::1", "-I", "v20") == 0

    gathered = net.gather(*KINDS)
    assert net.apply(gathered)["changed"] is False
    assert gathered["virtual_switches"][0] == {
        "name": "br-data",
        "type": "bridged",
        "uplinks": ["wire0"],
        "mtu": 1500,
        "kvm": {"implementation": "openvswitch"},
    }

    # The VLAN of a network is the VLAN of all that is on it.
    document["virtual_networks"] = [{"name": "app", "switch": "br-data", "vlan": 20}]
    result = settled(net, document)
    assert [(change["key"], change["fields"]) for change in result["changes"]] == [("app", ["vlan"])]
    assert received(net, "10.10.0.1", "-I", "v20") == 3
    assert received(net, "10.10.0.1", "-I", "v10") == 0

    result = net.apply(NOTHING, exact=KINDS)
    assert [change["action"] for change in result["changes"]] == ["delete"] * 4
    assert net.gather(*KINDS) == NOTHING
    assert net.run("ovs-vsctl", "list-br") == ""
    assert net.shell("ls /etc/systemd/network/ | grep bareforge || true") == ""
    assert net.shell("virsh net-list --all --name").split() == ["default"]


@pytest.mark.capability("kvm", "virtual_network.trunk", ran_against="real")
def test_a_trunk_carries_what_it_lists_and_an_untagged_network_carries_no_tags(net: WarmHost) -> None:
    addresses = {5: "10.5.0.9/24", 10: "10.10.0.9/24", 30: "10.30.0.9/24"}
    script = "".join(vlan("far0", number, address) for number, address in addresses.items())
    wires(net, 1, script + "ip address add 10.0.9.9/24 dev far0\n")
    settled(
        net,
        {
            "virtual_switches": [{"name": "br-data", "uplinks": ["wire0"]}],
            "virtual_networks": [
                {"name": "trunk", "switch": "br-data", "vlan": 5, "trunk": ["10", "11", "12-14"]},
                {"name": "plain", "switch": "br-data"},
                {"name": "every", "switch": "br-data", "trunk": ["1-4094"]},
            ],
            "host_interfaces": [
                {"name": "trunk0", "network": "trunk", "addresses": ["10.5.0.1/24"]},
                {"name": "plain0", "network": "plain", "addresses": ["10.0.9.1/24"]},
            ],
        },
    )
    net.shell(
        "for pair in trunk0:10:10.10.0.1 trunk0:30:10.30.0.1 plain0:10:10.10.0.2; do\n"
        "  device=${pair%%:*}; rest=${pair#*:}; number=${rest%%:*}; address=${rest#*:}\n"
        "  ip link add link $device name $device.$number type vlan id $number\n"
        "  ip link set $device.$number up; ip address add $address/24 dev $device.$number\n"
        "done\n"
        "for name in trunk0.10 trunk0.30 plain0.10; do echo 1 > /proc/sys/net/ipv4/conf/$name/arp_ignore; done\n"
    )
    assert received(net, "10.5.0.1", "-I", "v5") == 3
    assert received(net, "10.10.0.1", "-I", "v10") == 3
    assert received(net, "10.30.0.1", "-I", "v30") == 0
    assert received(net, "10.0.9.1", "-I", "far0") == 3
    # A port without a tag column would let tagged frames through, and a guest hop into any VLAN.
    assert received(net, "10.10.0.2", "-I", "v10") == 0


GUEST = """
<domain type='kvm'>
  <name>net-test</name><memory unit='MiB'>192</memory><vcpu>1</vcpu>
  <os><type machine='q35'>hvm</type></os><features><acpi/></features><cpu mode='host-passthrough'/>
  <devices>
    <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/var/lib/libvirt/images/net-test.qcow2'/>
      <target dev='vda' bus='virtio'/></disk>
    <interface type='network'><source network='br-data' portgroup='app'/><virtualport type='openvswitch'/>
      <mac address='52:54:00:00:00:77'/><target dev='net-test0'/><model type='virtio'/></interface>
    <serial type='file'><source path='/var/log/libvirt/qemu/net-test-console.log'/></serial>
  </devices>
</domain>
"""
GUEST_ADDRESS = "fe80::5054:ff:fe00:77"  # what Linux makes of the MAC address (RFC 4291, appendix A)


def start_guest(xml: str, url: str) -> int:
    """Start a guest without its own configuration; it answers pings on its link-local address."""
    import urllib.request

    import libvirt

    urllib.request.urlretrieve(url, "/var/lib/libvirt/images/net-test.qcow2")  # noqa: S310 - the lab is http
    return int(libvirt.open("qemu:///system").createXML(xml, 0).ID())


@pytest.mark.capability("kvm", "virtual_network.vlan", ran_against="real")
def test_a_running_vm_follows_its_network(net: WarmHost) -> None:
    wires(net, 1, vlan("far0", 10) + vlan("far0", 20))
    net.apply(BASE)
    number = net.on_host(start_guest, xml=GUEST, url=net.variables["lab_images"]["tiny-guest"]["url"])
    net.shell(
        f"for i in $(seq 120); do ip netns exec peer ping -q -c 1 -W 1 {GUEST_ADDRESS}%v10 && exit 0; sleep 1; done; exit 1",
        timeout=400,
    )
    assert received(net, f"{GUEST_ADDRESS}%v20") == 0

    changed = {"virtual_networks": [{"name": "app", "switch": "br-data", "vlan": 20}]}
    settled(net, changed)
    assert received(net, f"{GUEST_ADDRESS}%v20") == 3
    assert received(net, f"{GUEST_ADDRESS}%v10") == 0

    for refused in (
        {
            "virtual_networks": [{"name": "app", "state": "absent"}],
            "host_interfaces": [{"name": "app0", "state": "absent"}],
        },
        {
            "virtual_switches": [{"name": "br-other", "type": "internal"}],
            "virtual_networks": [{"name": "app", "switch": "br-other"}],
        },
    ):
        with pytest.raises(OnHostError, match="net-test") as caught:
            net.apply(refused)
        assert caught.value.kind == "ValidateError"
    assert int(net.run("virsh", "domid", "net-test")) == number


BOND = {**BASE, "virtual_switches": [{"name": "br-data", "uplinks": ["wire0", "wire1"]}]}
BRIDGE_THERE = (
    "ip link add bridge0 type bridge\nip link set bridge0 up\n"
    "for name in far0 far1; do ip link set $name master bridge0; done\n" + vlan("bridge0", 10, "10.10.0.9/24")
)


def with_bond(mode: str, **bond: str) -> dict[str, Any]:
    return {**BOND, "virtual_switches": [{**BOND["virtual_switches"][0], "bond": {"mode": mode, **bond}}]}


@pytest.mark.capability("kvm", "virtual_switch.bond.active_backup", ran_against="real")
def test_active_backup_uses_its_primary_and_goes_on_without_it(net: WarmHost) -> None:
    wires(net, 2, BRIDGE_THERE)
    settled(net, with_bond("active_backup", primary="wire1"))
    assert received(net, "10.10.0.1") == 3

    def active() -> str:
        text = net.run("ovs-appctl", "bond/show", "br-data-uplinks")
        [name] = re.findall(r"^(?:member|slave) (\S+): \w+\n\s+active (?:member|slave)$", text, re.MULTILINE)
        return str(name)

    assert active() == "wire1"
    net.run("ip", "-n", "peer", "link", "set", "far1", "down")
    assert received(net, "10.10.0.1", count=6) >= 3
    assert active() == "wire0"
    net.run("ip", "-n", "peer", "link", "set", "far1", "up")
    assert received(net, "10.10.0.1", count=6) >= 3
    assert active() == "wire1"

    # From two uplinks to one and back, by documents that name what is left.
    result = settled(net, {"virtual_switches": [{"name": "br-data", "uplinks": ["wire1"]}]})
    assert result["after"]["virtual_switches"][0].get("bond") is None
    assert received(net, "10.10.0.1") == 3
    assert net.run("ovs-vsctl", "list-ports", "br-data").split() == ["app0", "wire1"]
    settled(net, with_bond("active_backup"))
    assert received(net, "10.10.0.1") == 3


@pytest.mark.capability("kvm", "virtual_switch.bond.balance_slb", ran_against="real")
def test_balance_slb_spreads_mac_addresses_over_the_uplinks(net: WarmHost) -> None:
    wires(net, 2, BRIDGE_THERE)
    document = with_bond("balance_slb")
    document["host_interfaces"] = [
        {"name": f"app{number}", "network": "app", "mac": f"02:00:00:00:00:{number:02x}"} for number in range(8)
    ]
    settled(net, document)
    sent = "cat /sys/class/net/wire0/statistics/tx_packets /sys/class/net/wire1/statistics/tx_packets"
    before = [int(word) for word in net.shell(sent).split()]
    net.shell(
        "for number in $(seq 0 7); do ip address add 10.10.0.10$number/24 dev app$number; done\n"
        "for number in $(seq 0 7); do arping -q -c 5 -w 3 -I app$number 10.10.0.9 || true; done\n"
        if net.run("which", "arping", check=False)
        else "for number in $(seq 0 7); do ip address add 10.10.0.10$number/24 dev app$number;"
        " ping -q -c 5 -i 0.2 -I app$number 10.10.0.9 || true; done\n"
    )
    after = [int(word) for word in net.shell(sent).split()]
    assert all(new - old >= 5 for old, new in zip(before, after, strict=True)), (before, after)
    assert received(net, "10.10.0.100") == 3
    net.run("ip", "-n", "peer", "link", "set", "far0", "down")
    assert received(net, "10.10.0.100", count=6) >= 3


@pytest.mark.capability("kvm", "virtual_switch.bond.balance_tcp", "virtual_switch.bond.lacp", ran_against="real")
def test_balance_tcp_negotiates_with_linux_bonding_by_lacp(net: WarmHost) -> None:
    wires(
        net,
        2,
        "ip link add bond0 type bond mode 802.3ad lacp_rate fast miimon 100\n"
        "for name in far0 far1; do ip link set $name down; ip link set $name master bond0; done\n"
        "ip link set bond0 up\n" + vlan("bond0", 10, "10.10.0.9/24"),
    )
    settled(net, with_bond("balance_tcp", lacp="active"))
    net.shell(
        "for i in $(seq 60); do ip netns exec peer ping -q -c 1 -W 1 10.10.0.1 && exit 0; sleep 0.5; done; exit 1"
    )
    status = net.shell("ip netns exec peer cat /proc/net/bonding/bond0")
    assert "Number of ports: 2" in status
    assert "Partner Mac Address: 00:00:00:00:00:00" not in status
    assert net.run("ovs-appctl", "lacp/show", "br-data-uplinks").count("current attached") == 2
    net.run("ip", "-n", "peer", "link", "set", "far0", "down")
    assert received(net, "10.10.0.1", count=8) >= 4
    with pytest.raises(OnHostError, match="balance_tcp"):
        net.apply({"virtual_switches": [{"name": "br-data", "bond": {"lacp": "off"}}]})


@pytest.mark.capability("kvm", "virtual_switch.mtu", "host_interface.mtu", ran_against="real")
def test_large_packets_pass_where_the_mtu_allows(net: WarmHost) -> None:
    wires(net, 1, "ip link set far0 mtu 9000\n" + vlan("far0", 10, "10.10.0.9/24"))
    large = {
        **BASE,
        "virtual_switches": [{"name": "br-data", "uplinks": ["wire0"], "mtu": 9000}],
        "host_interfaces": [{**BASE["host_interfaces"][0], "mtu": 9000}],
    }
    settled(net, large)
    assert received(net, "10.10.0.1", "-M", "do", "-s", "8972") == 3
    for device in ("br-data", "wire0", "app0"):
        assert net.run("cat", f"/sys/class/net/{device}/mtu") == "9000"
    with pytest.raises(OnHostError, match="9000"):
        net.apply({"virtual_switches": [{"name": "br-data", "mtu": 1500}]})
    with pytest.raises(OnHostError, match="9000"):
        net.apply({"host_interfaces": [{"name": "app0", "network": "app", "mtu": 9001}]})
    settled(
        net,
        {
            **BASE,
            "virtual_switches": [{**BASE["virtual_switches"][0], "mtu": 1500}],
            "host_interfaces": [{**BASE["host_interfaces"][0], "mtu": 1500}],
        },
    )
    assert received(net, "10.10.0.1", "-M", "do", "-s", "8972") == 0
    assert received(net, "10.10.0.1") == 3


@pytest.mark.capability(
    "kvm",
    "host_interface.routes",
    "host_interface.mac",
    "host_interface.role.management",
    "host_interface.role.storage",
    "host_interface.role.migration",
    ran_against="real",
)
def test_routes_gateways_mac_and_roles(net: WarmHost) -> None:
    wires(
        net,
        1,
        vlan("far0", 10, "10.10.0.254/24", "fd00:10::fe/64")
        + "ip address add 10.99.0.1/32 dev lo\nip address add fd00:99::1/128 dev lo\nip address add 192.0.2.1/32 dev lo\n",
    )
    interface = {
        **BASE["host_interfaces"][0],
        "mac": "02:00:00:00:aa:01",
        "gateway4": "10.10.0.254",
        "routes": [
            {"destination": "10.99.0.0/16", "gateway": "10.10.0.254"},
            {"destination": "fd00:99::/64", "gateway": "fd00:10::fe"},
        ],
        "roles": ["storage", "migration", "management"],
    }
    document = {**BASE, "host_interfaces": [interface]}
    settled(net, document)
    for target in ("10.99.0.1", "fd00:99::1", "192.0.2.1"):
        assert received(net, target, "-I", "app0", namespace="") == 3
    assert "02:00:00:00:aa:01" in net.run("ip", "-n", "peer", "neigh", "show", "10.10.0.1")
    shown = net.gather(*KINDS)["host_interfaces"][0]
    assert shown == {**shown, **interface, "roles": ["management", "migration", "storage"]}

    interface.update(routes=[], gateway4="", mac="02:00:00:00:aa:02", roles=["storage"], addresses=["10.10.0.7/24"])
    settled(net, document)
    assert received(net, "10.10.0.7", "-I", "v10") == 3
    assert received(net, "10.10.0.1", "-I", "v10") == 0
    assert net.run("ip", "route", "show", "dev", "app0", "proto", "static") == ""
    assert "02:00:00:00:aa:02" in net.run("ip", "-n", "peer", "neigh", "show", "10.10.0.7")
    assert net.gather("host_interface")["host_interfaces"][0]["roles"] == ["storage"]


@pytest.mark.capability("kvm", "virtual_switch.type.internal", "host_interface.dhcp", ran_against="real")
def test_an_internal_switch_and_an_address_by_dhcp(net: WarmHost) -> None:
    document = {
        "virtual_switches": [{"name": "br-in", "type": "internal"}],
        "virtual_networks": [{"name": "inner", "switch": "br-in", "vlan": 7}],
        "host_interfaces": [{"name": "server0", "network": "inner", "addresses": ["10.40.0.1/24"]}],
    }
    net.apply(document)
    net.shell(
        "mkdir /etc/systemd/network/05-bareforge-server0.network.d\n"
        "printf '[Network]\\nDHCPServer=yes\\n[DHCPServer]\\nPoolOffset=50\\nPoolSize=1\\n' "
        "> /etc/systemd/network/05-bareforge-server0.network.d/dhcp.conf\nnetworkctl reload\n"
    )
    document["host_interfaces"].append({"name": "client0", "network": "inner", "dhcp": True})
    settled(net, document)
    net.shell(
        "for i in $(seq 60); do ip -4 -o address show dev client0 | grep -q 10.40.0.50/ && exit 0; sleep 0.5; done; exit 1"
    )
    # What DHCP gave is none of the configured addresses and gateways.
    assert net.apply(document)["changed"] is False
    client = next(entry for entry in net.gather("host_interface")["host_interfaces"] if entry["name"] == "client0")
    assert client["addresses"] == []
    assert client["dhcp"] is True
    assert "gateway4" not in client
    with pytest.raises(OnHostError, match="internal"):
        net.apply({"virtual_switches": [{"name": "br-in", "uplinks": ["uplink0"]}]})
    document["host_interfaces"][1].update(dhcp=False, addresses=["10.40.0.2/24"])
    settled(net, document)
    assert net.shell("ip -4 -o address show dev client0").split()[3] == "10.40.0.2/24"


@pytest.mark.capability("kvm", "virtual_switch.type.private", ran_against="real")
def test_on_a_private_switch_guests_meet_without_the_host(net: WarmHost) -> None:
    settled(
        net,
        {
            "virtual_switches": [{"name": "br-own", "type": "private"}],
            "virtual_networks": [{"name": "own", "switch": "br-own"}],
        },
    )
    with pytest.raises(OnHostError, match="private") as caught:
        net.apply({"host_interfaces": [{"name": "own0", "network": "own", "addresses": ["10.50.0.1/24"]}]})
    assert caught.value.kind == "ValidateError"
    wires(net, 2, "ip address add 10.50.0.9/24 dev far0\n")
    net.shell(
        "ip netns add peer2; ip -n peer link set far1 netns peer2\n"
        "ip -n peer2 link set far1 up; ip -n peer2 address add 10.50.0.8/24 dev far1\n"
        "ovs-vsctl add-port br-own wire0 tag=0 -- add-port br-own wire1 tag=0; ip link set wire0 up; ip link set wire1 up\n"
    )
    try:
        assert received(net, "10.50.0.8") == 3
        assert "UP" not in net.run("ip", "-o", "link", "show", "br-own").split("<")[1].split(">")[0].split(",")
        # What somebody else has put on it is not taken down.
        with pytest.raises(OnHostError, match="wire0, wire1"):
            net.apply(
                {"virtual_switches": [{"name": "br-own", "state": "absent"}], "virtual_networks": []},
                exact=["virtual_network"],
            )
        result = net.apply({"virtual_switches": []}, exact=["virtual_switch"])
        assert result["changed"] is False
        assert "wire0, wire1" in result["warnings"][0]
    finally:
        net.shell("ip netns delete peer2")


def test_a_bridge_of_somebody_else_is_a_switch(net: WarmHost) -> None:
    wires(net, 1, vlan("far0", 10, "10.10.0.9/24"))
    net.shell("ovs-vsctl add-br br-data")
    assert net.gather("virtual_switch")["virtual_switches"] == [
        {"name": "br-data", "uplinks": [], "mtu": 1500, "kvm": {"implementation": "openvswitch"}}
    ]
    assert net.apply(net.gather(*KINDS))["changed"] is False
    settled(net, BASE)
    assert received(net, "10.10.0.1") == 3


REAL = {**BASE, "virtual_switches": [{"name": "br-data", "uplinks": ["uplink0"]}]}


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"virtual_switches": [{"name": "sixteen-letters-", "type": "internal"}]}, "1 to 15 characters"),
        ({"virtual_switches": [{"name": "br data", "type": "internal"}]}, "1 to 15 characters"),
        ({"virtual_switches": [{"name": "../../x", "type": "internal"}]}, "1 to 15 characters"),
        ({"virtual_switches": [{"name": "uplink1", "type": "internal"}]}, "another network device"),
        ({"virtual_switches": [{"name": "default", "type": "internal"}]}, "default"),
        ({"virtual_switches": [{"name": "br-data", "uplinks": ["eth7"]}]}, "there are: .*uplink0, uplink1"),
        ({"virtual_switches": [{"name": "br-data", "uplinks": ["uplink0"], "mtu": 65000}]}, "9216"),
        ({**REAL, "virtual_networks": [{"name": "it's", "switch": "br-data"}], "host_interfaces": []}, "port group"),
        ({**REAL, "virtual_networks": [{"name": "a<b", "switch": "br-data"}], "host_interfaces": []}, "port group"),
        (
            {**REAL, "virtual_networks": [{"name": "app", "switch": "br-data", "vlan": 5, "trunk": ["1-9"]}]},
            "native VLAN",
        ),
        ({**REAL, "host_interfaces": [{"name": "mgmt0", "network": "app"}]}, "another network device"),
        ({**REAL, "host_interfaces": [{"name": "br-data", "network": "app"}]}, "another network device"),
        ({**REAL, "host_interfaces": [{"name": "app 0", "network": "app"}]}, "1 to 15 characters"),
        ({**REAL, "host_interfaces": [{"name": "app0", "network": "app", "mtu": 2000}]}, "MTU of switch"),
    ],
)
def test_what_the_host_cannot_hold_is_refused_before_anything_changes(
    warm: WarmHost, document: dict[str, Any], words: str
) -> None:
    before = warm.run("ovs-vsctl", "get", "Open_vSwitch", ".", "next_cfg")
    with pytest.raises(OnHostError, match=words) as caught:
        warm.apply(document)
    assert caught.value.kind == "ValidateError"
    assert warm.run("ovs-vsctl", "get", "Open_vSwitch", ".", "next_cfg") == before


def test_uplinks_that_belong_to_others_are_refused(net: WarmHost) -> None:
    wires(net, 2)
    net.shell(
        "ip link add wirebr type bridge; ip link set wire1 master wirebr\n"
        "mkdir -p /etc/network/interfaces.d; printf 'auto wire0\\niface wire0 inet dhcp\\n' > /etc/network/interfaces.d/test"
    )
    try:
        for uplink, words in (("wire0", "ifupdown"), ("wire1", "part of wirebr"), ("wirebr", "a bridge")):
            with pytest.raises(OnHostError, match=words) as caught:
                net.apply({"virtual_switches": [{"name": "br-data", "uplinks": [uplink]}]})
            assert caught.value.kind == "ValidateError"
    finally:
        net.run("rm", "/etc/network/interfaces.d/test")
    address = net.run("ip", "-4", "-o", "address", "show", "dev", "mgmt0").split()[3]
    with pytest.raises(OnHostError, match="held by mgmt0"):
        net.apply(
            {
                **BASE,
                "virtual_networks": [{"name": "app", "switch": "br-data"}],
                "host_interfaces": [{"name": "app0", "network": "app", "addresses": [address]}],
            }
        )


# What each command breaks, and the object that has to show it.
DAMAGE = [
    ("virsh net-destroy br-data", "br-data"),
    ("virsh net-autostart --disable br-data", "br-data"),
    ("rm /etc/systemd/network/05-bareforge-wire0.network", "br-data"),
    ("ip link set wire0 down", "br-data"),
    ("ovs-vsctl del-port br-data wire0", "br-data"),
    ("rm /etc/systemd/network/05-bareforge-app0.network", "app0"),
    ("ip address del 10.10.0.1/24 dev app0", "app0"),
    ("ip address add 10.10.0.77/24 dev app0", "app0"),
    ("ip link set app0 down", "app0"),
    ("ip route del 10.99.0.0/16", "app0"),
    ("ovs-vsctl set port app0 tag=20", "app0"),
    ("ovs-vsctl set interface app0 mtu_request=1400", "app0"),
    (
        "virsh net-update br-data modify portgroup \"<portgroup name='app'><vlan><tag id='20'/></vlan></portgroup>\" --live",
        "app",
    ),
]


def test_what_somebody_breaks_is_shown_and_mended(net: WarmHost) -> None:
    wires(net, 1, vlan("far0", 10, "10.10.0.9/24"))
    whole = {
        **BASE,
        "host_interfaces": [
            {**BASE["host_interfaces"][0], "routes": [{"destination": "10.99.0.0/16", "gateway": "10.10.0.9"}]}
        ],
    }
    net.apply(whole)
    # These documents name the objects and say nothing of what is broken.
    named = {
        "virtual_switches": [{"name": "br-data"}],
        "virtual_networks": [{"name": "app", "switch": "br-data"}],
        "host_interfaces": [{"name": "app0", "network": "app"}],
    }

    def break_and_mend(damage: list[list[str]], document: Any) -> list[str]:
        import host_tools

        problems = []
        for command, key in damage:
            host_tools.output("sh", "-c", command)
            result = host_tools.apply(document)
            if key not in [change["key"] for change in result["changes"]]:
                problems.append(f"{command}: {result['changes']}")
            again = host_tools.apply(document)
            if again["changed"]:
                problems.append(f"{command}: again {again['changes']}")
        return problems

    source = "def main(damage, document):\n" + _body(break_and_mend)
    assert net.on_host(source, damage=[list(entry) for entry in DAMAGE], document=named, timeout=900) == []
    assert net.apply(whole)["changed"] is False
    assert received(net, "10.10.0.1") == 3
    net.shell("virsh net-destroy br-data; virsh net-undefine br-data")
    assert net.apply(whole)["changed"] is True
    assert net.apply(whole)["changed"] is False


def _body(function: Any) -> str:
    import inspect
    import textwrap

    lines = textwrap.dedent(inspect.getsource(function)).splitlines()
    return "\n".join(lines[1:]) + "\n"


KILLS = '''
def main(document, nothing, kinds):
    """Let the process die before every step that touches the host, when it makes and when it removes."""
    import host_tools
    from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm import libvirt_networks, networkd
    from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.open_vswitch import Edit

    class Killed(BaseException):
        pass

    places = [(Edit, "commit"), (libvirt_networks, "ensure"), (libvirt_networks, "put"), (libvirt_networks, "remove"),
              (networkd, "write"), (networkd, "remove"), (networkd, "apply")]
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

    report = {"made": 0, "removed": 0, "problems": []}
    at = 1
    while run_and_die(at, document):
        host_tools.apply(document)
        if host_tools.apply(document)["changed"]:
            report["problems"].append(f"making, death at {at}: not finished")
        host_tools.apply(nothing, exact=kinds)
        report["made"] = at
        at += 1
    at = 1
    while run_and_die(at, nothing, exact=kinds):
        host_tools.apply(nothing, exact=kinds)
        left = host_tools.output("sh", "-c", "ovs-vsctl list-br; ls /etc/systemd/network | grep bareforge; virsh net-list --all --name | grep -v default", check=False)
        if left:
            report["problems"].append(f"removing, death at {at}: left {left}")
        host_tools.apply(document)
        report["removed"] = at
        at += 1
    return report
'''


def test_killed_anywhere_the_next_run_finishes(net: WarmHost) -> None:
    wires(net, 2, vlan("far0", 10, "10.10.0.9/24"))
    report = net.on_host(KILLS, document=with_bond("active_backup"), nothing=NOTHING, kinds=KINDS, timeout=1500)
    assert report["problems"] == []
    assert report["made"] >= 8
    assert report["removed"] >= 6


def test_what_others_do_to_the_switch_meanwhile_is_not_lost(net: WarmHost) -> None:
    wires(net, 1)
    net.apply({**BASE, "host_interfaces": []})

    source = """
def main(document):
    import host_tools
    from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.open_vswitch import Edit

    commit, calls = Edit.commit, []

    def slow(self, what):
        calls.append(what)
        if len(calls) == 1:
            host_tools.output("ovs-vsctl", "add-port", "br-data", "intruder", "--", "set", "interface", "intruder", "type=internal")
        return commit(self, what)

    Edit.commit = slow
    host_tools.apply(document)
    return [len(calls), host_tools.output("ovs-vsctl", "list-ports", "br-data").split()]
"""
    assert net.on_host(source, document=BASE) == [2, ["app0", "intruder", "wire0"]]


def test_a_network_moves_to_another_switch_with_its_interface(net: WarmHost) -> None:
    wires(net, 2, vlan("far1", 10, "10.10.0.9/24"))
    net.apply(BASE)
    assert received(net, "10.10.0.1") == 0
    settled(
        net,
        {
            "virtual_switches": [{"name": "br-two", "uplinks": ["wire1"]}],
            "virtual_networks": [{"name": "app", "switch": "br-two"}],
        },
    )
    assert received(net, "10.10.0.1") == 3
    assert net.apply({**BASE, "virtual_networks": [{"name": "app", "switch": "br-two"}]})["changed"] is False


def test_two_switches_swap_their_uplinks(net: WarmHost) -> None:
    wires(net, 2, vlan("far0", 10, "10.10.0.9/24"))
    other = {"name": "br-two", "uplinks": ["wire1"]}
    net.apply({**BASE, "virtual_switches": [BASE["virtual_switches"][0], other]})
    assert received(net, "10.10.0.1") == 3
    swapped = {
        "virtual_switches": [{"name": "br-data", "uplinks": ["wire1"]}, {"name": "br-two", "uplinks": ["wire0"]}]
    }
    net.apply(swapped)
    assert net.apply(swapped)["changed"] is False
    assert received(net, "10.10.0.1") == 0


def test_everything_is_there_again_after_a_restart(net: WarmHost) -> None:
    document = {
        "virtual_switches": [
            {"name": "br-data", "uplinks": ["uplink0", "uplink1"], "bond": {"mode": "active_backup"}, "mtu": 9000},
            {"name": "br-in", "type": "internal"},
        ],
        "virtual_networks": [*BASE["virtual_networks"], {"name": "inner", "switch": "br-in"}],
        "host_interfaces": [
            {
                **BASE["host_interfaces"][0],
                "mtu": 9000,
                "routes": [{"destination": "10.99.0.0/16", "gateway": "10.10.0.9"}],
            },
            {"name": "inner0", "network": "inner", "addresses": ["10.40.0.1/24"]},
        ],
    }
    settled(net, document)
    before = net.gather(*KINDS)
    net.reboot()
    net.shell("for i in $(seq 120); do networkctl status app0 | grep -q routable && exit 0; sleep 1; done; exit 1")
    assert net.gather(*KINDS) == before
    assert net.apply(document)["changed"] is False
    for device in ("uplink0", "uplink1", "app0"):
        assert "UP" in net.run("ip", "-o", "link", "show", device).split("<")[1].split(">")[0].split(",")
    assert set(net.shell("virsh net-list --name").split()) == {"br-data", "br-in"}


def take_back_management() -> None:
    """Give the address back to the NIC, from a unit of its own, since this cuts off what is going on."""
    from host_tools import output

    output(
        *("systemd-run", "--collect", "--unit=take-back", "sh", "-c"),
        "rm -f /etc/systemd/network/05-bareforge-*; ovs-vsctl del-br br-mgmt; networkctl reload; networkctl reconfigure mgmt0",
    )


def test_the_management_address_moves_onto_a_switch_under_the_guard(net: WarmHost) -> None:
    address = net.run("ip", "-4", "-o", "address", "show", "dev", "mgmt0").split()[3]
    gateway = net.run("ip", "-4", "route", "show", "default").split()[2]
    document = {
        "virtual_switches": [{"name": "br-mgmt", "uplinks": ["mgmt0"]}],
        "virtual_networks": [{"name": "mgmt", "switch": "br-mgmt"}],
        "host_interfaces": [
            {"name": "manage0", "network": "mgmt", "addresses": [address], "gateway4": gateway, "roles": ["management"]}
        ],
    }
    guarded = {"guard": {"enabled": True, "timeout": 120}}
    result = net.apply(document, operation=guarded)
    try:
        assert set(result["guard"]["guarded"]) == {
            "virtual_switch['br-mgmt']",
            "host_interface['manage0']",
        }
        assert net.answers()
        net.on_host(
            "def main(token):\n"
            "    from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.platform import KvmPlatform\n"
            "    KvmPlatform().guard().confirm(token)\n",
            fresh=True,
            token=result["guard"]["token"],
        )
        assert net.apply(document)["changed"] is False
        assert net.run("ip", "-4", "-o", "address", "show", "dev", "mgmt0") == ""

        kept = net.apply(NOTHING, exact=KINDS)
        assert kept["changed"] is False
        assert len(kept["warnings"]) == 3
        assert all("management" in warning or "managed" in warning for warning in kept["warnings"])
        changed = {"virtual_networks": [{"name": "mgmt", "switch": "br-mgmt", "subnets": ["10.0.0.0/8"]}]}
        assert "guard" not in net.apply(changed, operation=guarded)
    finally:
        net.on_host(take_back_management)
        net.wait_for_ssh()
    assert net.run("ip", "-4", "-o", "address", "show", "dev", "mgmt0").split()[3] == address
