# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What libvirt, Open vSwitch and systemd-networkd are told, and how it is read back; the real tests show that it works."""

from __future__ import annotations

import configparser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.bareforge.hypervisor.plugins.module_utils.engine.change import difference
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.network import (
    HostInterface,
    VirtualNetwork,
    VirtualSwitch,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.schema import shown_as
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm import (
    host_devices,
    host_interface,
    libvirt_networks,
    management_path,
    networkd,
    virtual_network,
    virtual_switch,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.host_devices import (
    DeviceAddress,
    DeviceRoute,
    HostAddresses,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.management_path import ManagementPath
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.network import configured_by_ifupdown
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.open_vswitch import Vlans


def network(**fields: Any) -> VirtualNetwork:
    return VirtualNetwork.parse({"name": "app", "switch": "br0", **fields}).complete(None)


def interface(**fields: Any) -> HostInterface:
    return HostInterface.parse({"name": "app0", "network": "app", **fields}).complete(None)


@pytest.mark.parametrize(
    ("fields", "vlans"),
    [
        # No column at all would be a trunk of every VLAN.
        ({}, Vlans(tag=0)),
        ({"vlan": 10}, Vlans(tag=10)),
        ({"trunk": ["10", "20-22"]}, Vlans(trunks=(0, 10, 20, 21, 22))),
        ({"trunk": ["10"], "vlan": 5}, Vlans(5, (5, 10), "native-untagged")),
        ({"trunk": ["1-4094"]}, Vlans()),
        ({"vlan": 100, "kvm": {"dot1q_tunnel": True}}, Vlans(100, (), "dot1q-tunnel")),
    ],
)
def test_vlans_of_a_port(fields: dict[str, Any], vlans: Vlans) -> None:
    assert virtual_network.vlans_of(network(**fields)) == vlans


VLAN_RANGES = st.lists(
    st.tuples(st.integers(1, 4094), st.integers(0, 30)).map(lambda span: (span[0], min(4094, sum(span)))),
    max_size=6,
).map(
    lambda spans: [
        f"{first}-{last}"
        for (first, last), limit in zip(sorted(spans), [*sorted(spans)[1:], (4095, 0)])
        if last < limit[0]
    ]
)
RATES = st.none() | st.fixed_dictionaries(
    {"average": st.integers(1, 10_000).map(lambda rate: rate * 8)},
    optional={"burst": st.integers(1, 10_000)},
)
NAMES = st.text(
    st.characters(codec="utf-8", exclude_categories=["C", "Z"], exclude_characters="'<&"), min_size=1, max_size=30
)


@given(
    name=NAMES.filter(lambda name: name not in (".", "..")),
    vlan=st.integers(0, 4094),
    trunk=VLAN_RANGES,
    inbound=RATES,
    outbound=RATES,
    subnets=st.lists(st.sampled_from(["10.0.0.0/8", "192.0.2.0/24", "2001:db8::/32"]), unique=True),
    isolated=st.booleans(),
    security=st.none()
    | st.dictionaries(st.sampled_from(["promiscuous", "mac_changes", "forged_transmits"]), st.booleans()),
    tunnel=st.sampled_from([None, False, True]),
    linux=st.booleans(),
)
def test_a_network_is_read_back_as_it_was_written(
    name: str,
    vlan: int,
    trunk: list[str],
    inbound: Any,
    outbound: Any,
    subnets: list[str],
    isolated: bool,
    security: Any,
    tunnel: Any,
    linux: bool,
) -> None:
    given_bandwidth = {key: rate for key, rate in (("inbound", inbound), ("outbound", outbound)) if rate}
    fields: dict[str, Any] = {"name": name, "vlan": vlan, "trunk": trunk, "subnets": subnets, "isolated": isolated}
    fields |= {"bandwidth": given_bandwidth} if given_bandwidth else {}
    fields |= {"security": security} if security else {}
    fields |= {"kvm": {"dot1q_tunnel": tunnel}} if tunnel is not None else {}
    wanted = network(**fields)
    if list(virtual_network.problems(wanted)) or wanted.problems_when_complete():
        return
    root = virtual_network.new_libvirt_network("br0", linux)
    virtual_network.put(root, "other", network(name="other"))
    virtual_network.put(root, name, network(name=name, vlan=7))
    virtual_network.put(root, name, wanted)
    text = virtual_network.parse(virtual_network.as_text(root))
    shown = {str(found.name): found for found in virtual_network.describe("br0", text, text)}
    assert difference(shown[name], wanted) == ()
    assert shown[name] == wanted or not given_bandwidth or shown[name].bandwidth is not None
    virtual_network.put(text, name, None)
    assert {found.name for found in virtual_network.describe("br0", None, text)} == {"other"} - {name}
    # libvirt before version 11 refuses a VLAN on a bridge of the kernel.
    assert not (linux and list(text.iter("vlan")))


def test_what_runs_and_what_lasts_must_be_the_same() -> None:
    live, lasting = virtual_network.new_libvirt_network("br0"), virtual_network.new_libvirt_network("br0")
    virtual_network.put(live, "app", network(vlan=10))
    virtual_network.put(lasting, "app", network(vlan=20))
    [shown] = virtual_network.describe("br0", live, lasting)
    assert shown.vlan is None
    wanted = VirtualNetwork.parse({"name": "app", "switch": "br0"}).complete(shown)
    assert wanted.vlan == 20
    assert difference(shown, wanted) == ("vlan",)


def test_the_rest_of_a_libvirt_network_stays() -> None:
    text = (
        "<network><name>br0</name><uuid>u</uuid><metadata><x:y xmlns:x='urn:x'>kept</x:y></metadata><forward mode='bridge'/>"
        "<bridge name='br0'/><virtualport type='openvswitch'/><portgroup name='theirs'/></network>"
    )
    root = virtual_network.parse(text)
    virtual_network.put(root, "app", network(vlan=10, subnets=["10.0.0.0/8"]))
    virtual_network.put(root, "app", None)
    assert root.findtext("metadata/{urn:x}y") == "kept"
    assert [group.get("name") for group in root.iterfind("portgroup")] == ["theirs"]
    # A port group that says nothing of VLANs carries every one.
    [shown] = virtual_network.describe("br0", None, root)
    assert (shown.vlan, shown.trunk) == (0, ("1-4094",))


def test_a_trunk_that_drops_untagged_frames_has_no_native_vlan() -> None:
    root = virtual_network.parse("<n><portgroup name='t'><vlan trunk='yes'><tag id='5'/></vlan></portgroup></n>")
    [shown] = virtual_network.describe("br0", None, root)
    assert (shown.vlan, shown.trunk) == (None, ("5",))


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"name": "it's"}, "name", "port group"),
        ({"name": "a<b&c"}, "name", "& and <"),
        ({"vlan": 5, "trunk": ["1-9"]}, "trunk", "native"),
        ({"bandwidth": {"outbound": {"average": 1001}}}, "bandwidth.outbound.average", "multiple of 8"),
        ({"bandwidth": {"inbound": {"average": 1000, "peak": 2000}}}, "bandwidth.inbound.peak", "average and burst"),
    ],
)
def test_networks_that_cannot_be_held(fields: dict[str, Any], field: str, words: str) -> None:
    [(where, message)] = virtual_network.problems(network(**fields))
    assert where == field
    assert words in message


@pytest.mark.parametrize("name", ["br0", "br-data", "eth0.10", "a" * 15, "_x"])
def test_names_of_devices(name: str) -> None:
    assert host_devices.name_problem(name) is None


@pytest.mark.parametrize(
    "name",
    ["", "a" * 16, "br 0", "br/0", "..", "-br", "br*", "br\n0", "brücke", "lo", "all", "default", "a;b", "$(x)", "%d"],
)
def test_names_that_no_device_can_have(name: str) -> None:
    assert "1 to 15 characters" in str(host_devices.name_problem(name))


def parsed(content: bytes) -> list[tuple[str, dict[str, list[str]]]]:
    """Return the sections of a file of networkd, which may repeat sections and keys."""
    sections: list[tuple[str, dict[str, list[str]]]] = []
    for line in content.decode().splitlines():
        if line.startswith("["):
            sections.append((line.strip("[]"), {}))
        elif not line.startswith("#"):
            key, _equals, value = line.partition("=")
            sections[-1][1].setdefault(key, []).append(value)
    return sections


def test_the_file_of_an_interface() -> None:
    item = interface(
        addresses=["192.0.2.10/24", "2001:db8::10/64"],
        gateway4="192.0.2.1",
        gateway6="fe80::1",
        routes=[{"destination": "10.0.0.0/8", "gateway": "192.0.2.2"}],
    )
    assert parsed(networkd.interface_file(item)) == [
        ("Match", {"Name": ["app0"]}),
        (
            "Network",
            {
                "DHCP": ["no"],
                "LinkLocalAddressing": ["ipv6"],
                "IPv6AcceptRA": ["no"],
                "Address": ["192.0.2.10/24", "2001:db8::10/64"],
            },
        ),
        ("Route", {"Gateway": ["192.0.2.1"]}),
        ("Route", {"Gateway": ["fe80::1"]}),
        ("Route", {"Destination": ["10.0.0.0/8"], "Gateway": ["192.0.2.2"]}),
    ]


def test_the_file_of_an_interface_with_dhcp_and_of_an_uplink() -> None:
    sections = parsed(networkd.interface_file(interface(dhcp=True)))
    assert sections[1] == ("Network", {"DHCP": ["ipv4"], "LinkLocalAddressing": ["no"], "IPv6AcceptRA": ["no"]})
    assert sections[2] == ("DHCPv4", {"ClientIdentifier": ["mac"], "UseHostname": ["no"]})
    uplink = configparser.ConfigParser()
    uplink.read_string(networkd.uplink_file("eth0").decode())
    assert uplink["Network"]["DHCP"] == "no"
    assert uplink["Link"]["RequiredForOnline"] == "no"
    assert "Address" not in uplink["Network"]


def test_the_file_of_an_interface_that_learns_its_addresses() -> None:
    sections = parsed(networkd.interface_file(interface(dhcp=True, dhcp6=True, accept_ra=True)))
    assert sections[1] == ("Network", {"DHCP": ["yes"], "LinkLocalAddressing": ["ipv6"], "IPv6AcceptRA": ["yes"]})
    assert sections[3:] == [
        ("DHCPv6", {"WithoutRA": ["solicit"], "UseHostname": ["no"]}),
        ("IPv6AcceptRA", {"DHCPv6Client": ["no"]}),
    ]
    [network_section] = [
        entry for name, entry in parsed(networkd.interface_file(interface(dhcp6=True))) if name == "Network"
    ]
    assert network_section == {"DHCP": ["ipv6"], "LinkLocalAddressing": ["ipv6"], "IPv6AcceptRA": ["no"]}


def test_files_come_before_those_of_others() -> None:
    assert networkd.path_of("eth0") < "/etc/systemd/network/10-netplan-eth0.network"


def test_waiting_ends_with_what_is_missing() -> None:
    answers = [["a is not up"], ["a is not up"], []]
    networkd.wait_until(lambda: answers.pop(0), patience=5)
    assert answers == []
    with pytest.raises(Exception, match=r"a is not up; b, 0 s after") as caught:
        networkd.wait_until(lambda: ["a is not up", "b"], patience=0)
    assert type(caught.value).__name__ == "ApplyError"


@pytest.mark.parametrize(
    "running",
    [
        "type='bridge'><source network='br0' portgroup='app' bridge='br0' portid='x'/>",
        "type='network'><source network='br0' portgroup='app'/>",
    ],
)
def test_a_running_vm_is_found_on_its_network(running: str) -> None:
    text = f"<domain><devices><interface {running}<target dev='tap0'/></interface></devices></domain>"
    [port] = libvirt_networks._ports_in(text, "web")
    assert (port.vm, port.switch, port.network, port.device) == ("web", "br0", "app", "tap0")


def test_a_bridge_without_a_network_is_nobodys_port_group() -> None:
    text = "<domain><devices><interface type='bridge'><source bridge='br0'/></interface></devices></domain>"
    assert list(libvirt_networks._ports_in(text, "web")) == []


def test_a_file_that_a_killed_run_has_written_is_read_by_networkd(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[list[str]] = []
    monkeypatch.setattr(networkd, "run_command", told.append)
    monkeypatch.setattr(networkd, "exists", lambda _device: True)
    networkd.apply(False, {"app0"})
    assert told == [["networkctl", "reload"], ["networkctl", "reconfigure", "app0"]]
    told.clear()
    networkd.apply(False, set())
    assert told == []


def test_macs_are_local_lasting_and_different() -> None:
    macs = [host_interface.mac_of(host, name) for host in ("a", "b") for name in ("app0", "app1")]
    assert len(set(macs)) == 4
    assert macs[0] == host_interface.mac_of("a", "app0")
    # Unicast, and not from a registered range.
    assert all(int(mac[:2], 16) & 3 == 2 for mac in macs)


def test_addresses_and_routes_as_the_kernel_shows_them() -> None:
    asked = interface(
        addresses=["192.0.2.10/24"],
        gateway4="192.0.2.1",
        routes=[{"destination": "10.0.0.0/8", "gateway": "192.0.2.2"}],
    )
    routes = (
        DeviceRoute("0.0.0.0/0", "192.0.2.9", True, 5),
        DeviceRoute("0.0.0.0/0", "192.0.2.1", True, 0),
        DeviceRoute("0.0.0.0/0", "192.0.2.7", False, 0),
        DeviceRoute("10.0.0.0/8", "192.0.2.2", True, 0),
    )
    addresses = (DeviceAddress("192.0.2.10/24", False, True), DeviceAddress("198.51.100.7/24", True, True))
    whole = HostAddresses({"app0": addresses}, {"app0": routes})
    assert whole.static("app0") == ("192.0.2.10/24",)
    assert whole.holders("198.51.100.7") == ["app0"]
    shown = host_interface._ways_out(asked, whole)
    assert shown == {"gateway4": "192.0.2.1", "gateway6": None, "routes": asked.routes}
    less = HostAddresses({"app0": addresses}, {"app0": routes[2:3]})
    assert host_interface._ways_out(asked, less) == {"gateway4": None, "gateway6": None, "routes": ()}


def test_a_document_that_only_names_an_object_mends_it() -> None:
    asked = VirtualSwitch.parse({"name": "br0", "uplinks": ["eth0"], "mtu": 9000}).complete(None)
    shown = shown_as(asked, uplinks=(), mtu=1500)
    wanted = VirtualSwitch.parse({"name": "br0"}).complete(shown)
    assert wanted == asked
    assert difference(shown, wanted) == ("uplinks", "mtu")


def path(*devices: str, here: tuple[str, ...] = (), there: tuple[str, ...] = ()) -> ManagementPath:
    return ManagementPath(frozenset(devices), frozenset(here), frozenset(there))


@pytest.mark.parametrize(
    ("fields", "led"),
    [
        ({"addresses": ["10.0.0.1/24"]}, False),
        ({"name": "manage0"}, True),
        ({"addresses": ["192.0.2.10/24"]}, True),
        ({"addresses": ["10.0.0.1/24"], "gateway4": "10.0.0.2"}, True),
        ({"dhcp": True}, True),
        ({"dhcp6": True}, True),
        ({"accept_ra": True}, True),
        ({"addresses": ["203.0.113.1/24"]}, True),
        ({"addresses": ["10.0.0.1/24"], "routes": [{"destination": "203.0.112.0/20", "gateway": "10.0.0.2"}]}, True),
        ({"addresses": ["10.0.0.1/24"], "routes": [{"destination": "203.0.0.0/24", "gateway": "10.0.0.2"}]}, False),
    ],
)
def test_what_decides_over_the_management_path(fields: dict[str, Any], led: bool) -> None:
    management = path("manage0", here=("192.0.2.10",), there=("203.0.113.9",))
    assert management.is_led_by(interface(**fields)) is led


def test_connections_to_the_ssh_port(tmp_path: Path) -> None:
    head = "  sl  local_address rem_address   st\n"
    tmp_path.joinpath("tcp").write_text(
        head
        + "   0: 00000000:0016 00000000:0000 0A\n"
        + "   1: 0F02000A:0016 0202000A:D431 01\n"
        + "   2: 0F02000A:D431 0202000A:0016 01\n"
        + "   3: 0100007F:0016 0100007F:D431 01\n"
    )
    tmp_path.joinpath("tcp6").write_text(
        head
        + "   0: B80D0120000000000000000010000000:0016 B80D0120000000000000000020000000:D431 01\n"
        + "   1: 0000000000000000FFFF00000F02000A:0016 0000000000000000FFFF00000302000A:D431 01\n"
    )
    assert management_path.established_connections(22, str(tmp_path)) == [
        ["10.0.2.15", "10.0.2.2"],
        ["2001:db8::10", "2001:db8::20"],
        ["10.0.2.15", "10.0.2.3"],
    ]
    assert management_path.established_connections(22, str(tmp_path / "none")) == []


def test_what_ifupdown_configures(tmp_path: Path) -> None:
    assert configured_by_ifupdown("eth0", str(tmp_path)) is None
    tmp_path.joinpath("interfaces").write_text(
        "auto lo\niface lo inet loopback\n# iface eth0 inet dhcp\niface eth00 inet dhcp\n"
    )
    assert configured_by_ifupdown("eth0", str(tmp_path)) is None
    folder = tmp_path / "interfaces.d"
    folder.mkdir()
    folder.joinpath("x").write_text("allow-hotplug eth0\n  iface eth0 inet dhcp\n")
    assert configured_by_ifupdown("eth0", str(tmp_path)) == str(folder / "x")


def test_the_name_of_a_bond_is_its_own() -> None:
    assert virtual_switch.bond_port("br0") != virtual_switch.bond_port("br1")
