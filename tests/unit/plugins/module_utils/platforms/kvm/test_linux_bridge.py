# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What systemd-networkd and bridge(8) are told of Linux bridges, and how it is read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.network import (
    HostInterface,
    VirtualNetwork,
    VirtualSwitch,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm import (
    host_devices,
    linux_bridge,
    networkd,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.linux_bridge import (
    EVERY_VLAN,
    PortVlans,
    change_lines,
)


def switch(**fields: Any) -> VirtualSwitch:
    given = {"name": "br0", "kvm": {"implementation": "linux_bridge"}, **fields}
    return VirtualSwitch.parse(given).complete(None)


def network(**fields: Any) -> VirtualNetwork:
    return VirtualNetwork.parse({"name": "app", "switch": "br0", **fields}).complete(None)


PORTS = st.builds(
    PortVlans, st.none() | st.integers(1, 30), st.frozensets(st.integers(1, 30) | st.integers(4000, 4094), max_size=40)
).map(lambda port: PortVlans(port.native, port.tagged - {port.native}))


def told(lines: list[str], start: PortVlans) -> PortVlans:
    """Return what a port carries after commands, as the kernel understands them."""
    carried = {number: False for number in start.tagged}
    if start.native is not None:
        carried[start.native] = True
    for line in lines:
        words = line.split()
        if words[0] == "link":
            continue
        first, _dash, last = words[5].partition("-")
        for number in range(int(first), int(last or first) + 1):
            if words[1] == "del":
                del carried[number]
            else:
                native = words[6:] == ["pvid", "untagged"]
                if native:
                    carried = {known: False if is_native else is_native for known, is_native in carried.items()}
                carried[number] = native
    natives = [number for number, native in carried.items() if native]
    assert len(natives) <= 1
    tagged = frozenset(number for number, native in carried.items() if not native)
    return PortVlans(natives[0] if natives else None, tagged)


@given(present=PORTS, wanted=PORTS)
def test_a_port_carries_what_it_should_whatever_it_did_and_nothing_is_done_twice(
    present: PortVlans, wanted: PortVlans
) -> None:
    if wanted.native is None:
        wanted = PortVlans(1, wanted.tagged - {1})
    assert told(change_lines("tap0", present, wanted, False), present) == wanted
    assert change_lines("tap0", wanted, wanted, False) == []


def test_isolation_is_told_where_it_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_devices, "SYSFS", str(tmp_path))
    file = tmp_path / "tap0" / "brport" / "isolated"
    file.parent.mkdir(parents=True)
    file.write_text("0\n")
    one = PortVlans(1)
    assert change_lines("tap0", one, one, True) == ["link set dev tap0 isolated on"]
    file.write_text("1\n")
    assert change_lines("tap0", one, one, True) == []
    assert change_lines("tap0", one, one, False) == ["link set dev tap0 isolated off"]


def test_vlans_of_ports_as_bridge_shows_them(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = [
        {"ifname": "tap0", "vlans": [{"vlan": 10, "flags": ["PVID", "Egress Untagged"]}]},
        {"ifname": "eth0", "vlans": [{"vlan": 1, "flags": ["PVID", "Egress Untagged"]}, {"vlan": 2, "vlanEnd": 4094}]},
    ]
    monkeypatch.setattr(linux_bridge, "run_command", lambda _argv: json.dumps(answer))
    assert linux_bridge.read_vlans() == {"tap0": PortVlans(10), "eth0": EVERY_VLAN}
    monkeypatch.setattr(linux_bridge, "run_command", lambda _argv: "")
    assert linux_bridge.read_vlans() == {}


@pytest.mark.parametrize(
    ("fields", "vlans"),
    [
        ({}, PortVlans(1)),
        ({"vlan": 10}, PortVlans(10)),
        ({"vlan": 5, "trunk": ["10-12", "20"]}, PortVlans(5, frozenset({10, 11, 12, 20}))),
    ],
)
def test_vlans_of_a_network(fields: dict[str, Any], vlans: PortVlans) -> None:
    assert linux_bridge.vlans_of(network(**fields)) == vlans


def test_files_of_a_switch_with_one_uplink_and_with_a_bond() -> None:
    files = linux_bridge.switch_files(switch(uplinks=["eth1"], mtu=9000))
    assert list(files) == [("br0", ".netdev"), ("br0", ".network"), ("eth1", ".network")]
    made = files["br0", ".netdev"].decode()
    assert "Kind=bridge\nMTUBytes=9000\n" in made
    assert "VLANFiltering=yes\nDefaultPVID=none\nSTP=no\nForwardDelaySec=0\n" in made
    port = files["eth1", ".network"].decode()
    assert "Bridge=br0\n[BridgeVLAN]\nPVID=1\nEgressUntagged=1\n[BridgeVLAN]\nVLAN=2-4094\n" in port

    bond = {"mode": "active_backup", "primary": "eth2"}
    files = linux_bridge.switch_files(switch(uplinks=["eth1", "eth2"], bond=bond))
    device = linux_bridge.bond_of("br0")
    assert len(device) == 15
    assert "Mode=active-backup\n" in files[device, ".netdev"].decode()
    assert "Bridge=br0\n" in files[device, ".network"].decode()
    assert f"Bond={device}\n" in files["eth1", ".network"].decode()
    assert "PrimarySlave" not in files["eth1", ".network"].decode()
    assert "PrimarySlave=yes\n" in files["eth2", ".network"].decode()
    lacp = linux_bridge.switch_files(switch(uplinks=["a", "b"], bond={"mode": "balance_tcp", "lacp": "active"}))
    assert "Mode=802.3ad\n" in lacp[device, ".netdev"].decode()


def test_what_was_asked_for_is_found_again_and_what_others_write_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networkd, "FOLDER", str(tmp_path))
    monkeypatch.setattr(linux_bridge, "read_vlans", dict)
    item = switch(uplinks=["eth1"], security={"promiscuous": False})
    nic = HostInterface.parse({"name": "app0", "network": "app", "addresses": ["10.0.0.1/24"]}).complete(None)
    files = {
        **linux_bridge.switch_files(item),
        **linux_bridge.interface_files(nic, network(vlan=10), "02:00:00:00:00:01"),
    }
    assert not linux_bridge.are_written(files)
    for (device, suffix), content in files.items():
        networkd.write(device, content, suffix)
    assert linux_bridge.are_written(files)
    (tmp_path / "05-bareforge-x.netdev").write_text("# Asked for: {broken\n[NetDev]\nName=x\nKind=bridge\n")
    (tmp_path / "10-other.netdev").write_text(files["br0", ".netdev"].decode())
    found = linux_bridge.read_bridges()
    assert dict(found.switches) == {"br0": item}
    assert dict(found.interfaces) == {"app0": nic}


def test_files_of_an_interface() -> None:
    nic = HostInterface.parse({"name": "app0", "network": "app", "addresses": ["10.0.0.1/24"], "mtu": 9000})
    files = linux_bridge.interface_files(nic.complete(None), network(vlan=10, isolated=True), "02:00:00:00:00:01")
    port = linux_bridge.port_of("app0")
    assert (
        f"Kind=veth\nMACAddress=02:00:00:00:00:01\nMTUBytes=9000\n[Peer]\nName={port}\n"
        in files["app0", ".netdev"].decode()
    )
    assert "MTUBytes=9000\nMACAddress=02:00:00:00:00:01\n" in files["app0", ".network"].decode()
    end = files[port, ".network"].decode()
    assert "Bridge=br0\n[Bridge]\nIsolated=yes\n[BridgeVLAN]\nPVID=10\nEgressUntagged=10\n" in end


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        (
            {"uplinks": ["a", "b"], "bond": {"mode": "balance_slb"}},
            "bond.mode",
            "'balance_slb' is not allowed on a Linux bridge; allowed are active_backup, balance_tcp, balance_xor",
        ),
        ({"uplinks": ["a", "b"], "bond": {"mode": "balance_tcp", "lacp": "passive"}}, "bond.lacp", "allowed are off"),
        ({"uplinks": ["a", "b"], "bond": {"mode": "active_backup", "lacp": "active"}}, "bond.lacp", "balance_tcp"),
        ({"type": "nat", "nat": {"gateway": "10.0.0.1/24"}}, "kvm.implementation", "allowed is openvswitch"),
    ],
)
def test_switches_that_a_linux_bridge_cannot_be(fields: dict[str, Any], field: str, words: str) -> None:
    [(where, message)] = linux_bridge.problems(switch(**fields))
    assert where == field
    assert words in message


@pytest.mark.parametrize(
    ("fields", "aware", "field"),
    [
        ({"vlan": 1}, True, "vlan"),
        ({"trunk": ["1-10"]}, True, "trunk"),
        ({"vlan": 5}, False, "vlan"),
        ({"trunk": ["7"]}, False, "trunk"),
    ],
)
def test_networks_that_a_linux_bridge_cannot_carry(fields: dict[str, Any], aware: bool, field: str) -> None:
    found = list(linux_bridge.network_problems(network(**fields), switch(vlan_aware=aware)))
    assert [where for where, _message in found] == [field]
    assert list(linux_bridge.network_problems(network(vlan=5, trunk=["7"]), switch())) == []


class Kernel:
    """Devices as sysfs shows them, and what is done to them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.commands: list[str] = []

    def add(self, name: str, master: str = "") -> None:
        folder = self.root / name
        folder.mkdir(parents=True, exist_ok=True)
        if master:
            (folder / "master").symlink_to(self.root / master)
            (self.root / master / "brif").mkdir(parents=True, exist_ok=True)
            (self.root / master / "brif" / name).touch()

    def run(self, argv: list[str], given: str = "") -> str:
        self.commands.append(" ".join(argv))
        return given[:0]


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel(tmp_path / "net")
    monkeypatch.setattr(host_devices, "SYSFS", str(made.root))
    monkeypatch.setattr(networkd, "FOLDER", str(tmp_path / "networkd"))
    monkeypatch.setattr(linux_bridge, "run_command", made.run)
    return made


def test_a_bond_of_another_mode_is_another_bond_and_an_uplink_that_stays_is_left_alone(kernel: Kernel) -> None:
    device = linux_bridge.bond_of("br0")
    kernel.add("br0")
    kernel.add(device, "br0")
    kernel.add("eth1", device)
    kernel.add("eth2", device)
    before = switch(uplinks=["eth1", "eth2"], bond={"mode": "active_backup"})
    for (name, suffix), content in linux_bridge.switch_files(before).items():
        networkd.write(name, content, suffix)
    same = switch(uplinks=["eth1", "eth2"], bond={"mode": "active_backup"}, mtu=9000)
    assert linux_bridge.take_down_switch(before, same) is False
    assert kernel.commands == []
    other = switch(uplinks=["eth1", "eth2"], bond={"mode": "balance_xor"})
    linux_bridge.take_down_switch(before, other)
    assert kernel.commands == [f"ip link delete {device}"]
    kernel.commands.clear()
    assert linux_bridge.take_down_switch(before, switch(uplinks=["eth2"])) is True
    assert f"ip link delete {device}" in kernel.commands
    assert not networkd.is_written("eth1", linux_bridge.switch_files(before)["eth1", ".network"])


def test_the_file_that_says_what_a_switch_is_goes_last(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel.add("br0")
    kernel.add("eth1", "br0")
    before = switch(uplinks=["eth1"])
    gone: list[str] = []
    monkeypatch.setattr(networkd, "remove", lambda device, suffix: gone.append(device + suffix) or True)
    linux_bridge.take_down_switch(before, None)
    assert kernel.commands == ["ip link set dev eth1 nomaster", "ip link delete br0"]
    assert gone[-1] == "br0.netdev"
    gone.clear()
    kernel.add("app0")
    linux_bridge.take_down_interface("app0")
    assert gone[-1] == "app0.netdev"
