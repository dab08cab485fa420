# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What NetworkManager is told, who is asked on which host, and what a guard keeps of it; tests/network_manager shows that it works."""

from __future__ import annotations

import configparser
import json
import os
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import ApplyError, ReadError
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.network import (
    HostInterface,
    VirtualNetwork,
    VirtualSwitch,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm import (
    guard,
    guard_undo,
    host_devices,
    network_manager,
    renderer_of_host,
    systemd,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.bridge_ports import bond_of, port_of
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.network_manager import (
    NetworkManagerRenderer,
    uuid_of,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.networkd_renderer import (
    NetworkdRenderer,
)


def parsed(content: bytes) -> dict[str, dict[str, str]]:
    parser = configparser.ConfigParser(delimiters=("=",), interpolation=None, strict=True)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(content.decode("ascii"))
    return {name: dict(parser[name]) for name in parser.sections()}


def interface(**fields: Any) -> HostInterface:
    return HostInterface.parse({"name": "app0", "network": "app", **fields}).complete(None)


def switch(**fields: Any) -> VirtualSwitch:
    return VirtualSwitch.parse({"name": "br0", "kvm": {"implementation": "linux_bridge"}, **fields}).complete(None)


@pytest.fixture
def renderer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NetworkManagerRenderer:
    monkeypatch.setattr(network_manager, "PROFILES", str(tmp_path / "profiles"))
    monkeypatch.setattr(network_manager, "CONFIGURATION", str(tmp_path / "conf.d"))
    return NetworkManagerRenderer()


def test_profile_of_an_uplink_comes_before_what_others_have_for_it() -> None:
    found = parsed(network_manager.uplink_file("eth1"))
    assert found.pop("connection") == {
        "id": "bareforge-eth1",
        "uuid": uuid_of("eth1"),
        "type": "ethernet",
        "interface-name": "eth1",
        "autoconnect-priority": "999",
        "autoconnect-retries": "0",
    }
    assert found == {"ipv4": {"method": "disabled"}, "ipv6": {"method": "disabled"}}


@pytest.mark.parametrize(
    ("fields", "four", "six"),
    [
        ({}, {"method": "disabled"}, {"method": "disabled"}),
        (
            {
                "addresses": ["10.0.0.2/24", "10.0.0.1/24", "fd00::1/64"],
                "gateway4": "10.0.0.254",
                "routes": [{"destination": "10.9.0.0/16", "gateway": "10.0.0.253"}],
            },
            {
                "method": "manual",
                "address1": "10.0.0.1/24",
                "address2": "10.0.0.2/24",
                "route1": "0.0.0.0/0,10.0.0.254,1",
                "route2": "10.9.0.0/16,10.0.0.253,1",
            },
            {"method": "manual", "address1": "fd00::1/64"},
        ),
        (
            {"dhcp": True, "addresses": ["10.0.0.1/24"]},
            {"method": "auto", "dhcp-client-id": "mac", "dhcp-timeout": "2147483647", "address1": "10.0.0.1/24"},
            {"method": "disabled"},
        ),
        ({"gateway6": "fe80::1"}, {"method": "disabled"}, {"method": "link-local", "route1": "::/0,fe80::1,1"}),
    ],
)
def test_addresses_and_routes_of_a_profile(fields: Any, four: Any, six: Any) -> None:
    found = parsed(network_manager.interface_file(interface(**fields)))
    assert found["connection"]["type"] == "generic"
    assert (found["ipv4"], found["ipv6"]) == (four, six)
    assert ("hostname" in found) == ("dhcp" in fields)


@pytest.mark.parametrize(
    ("fields", "method"),
    [({"dhcp6": True}, "dhcp"), ({"accept_ra": True, "dhcp6": True}, "auto"), ({"accept_ra": True}, "auto")],
)
def test_addresses_by_dhcpv6_and_router_advertisements_are_the_same_on_every_start(fields: Any, method: str) -> None:
    six = parsed(network_manager.interface_file(interface(**fields)))["ipv6"]
    assert (six["method"], six["addr-gen-mode"], six["ip6-privacy"]) == (method, "eui64", "0")


def test_profiles_of_a_linux_bridge_its_bond_and_an_interface_on_it(renderer: NetworkManagerRenderer) -> None:
    bond = {"mode": "active_backup", "primary": "eth2"}
    files = renderer.linux_switch_files(switch(uplinks=["eth1", "eth2"], bond=bond, mtu=9000))
    device = bond_of("br0")
    assert [name for name, _suffix in files] == ["br0", device, "eth1", "eth2"]
    bridge, carried, uplink = (parsed(files[name, ".nmconnection"]) for name in ("br0", device, "eth1"))
    assert (bridge["connection"]["type"], bridge["ethernet"]) == ("bridge", {"mtu": "9000"})
    assert (bridge["bridge"]["vlan-filtering"], bridge["bridge"]["vlan-default-pvid"]) == ("true", "0")
    assert carried["bond"] == {"mode": "active-backup", "miimon": "100", "primary": "eth2"}
    assert (carried["connection"]["master"], carried["connection"]["slave-type"]) == (uuid_of("br0"), "bridge")
    assert carried["bridge-port"] == {"vlans": "1 pvid untagged, 2-4094"}
    assert (uplink["connection"]["master"], uplink["connection"]["slave-type"]) == (uuid_of(device), "bond")
    network = VirtualNetwork.parse({"name": "app", "switch": "br0", "vlan": 10, "trunk": ["20-22"]}).complete(None)
    files = renderer.linux_interface_files(interface(addresses=["10.0.0.1/24"]), network, "02:00:00:00:00:01")
    made, port = (parsed(files[name, ".nmconnection"]) for name in ("app0", port_of("app0")))
    assert (made["veth"], made["ethernet"]["cloned-mac-address"]) == ({"peer": port_of("app0")}, "02:00:00:00:00:01")
    assert port["bridge-port"] == {"vlans": "10 pvid untagged, 20-22"}
    assert port["connection"]["type"] == "ethernet", "a port that makes devices would bring back what is deleted"
    for name in ("app0", port_of("app0")):
        conf = parsed(files[name, ".conf"])
        assert conf == {f"device-bareforge-{name}": {"match-device": f"interface-name:={name}", "managed": "1"}}


def test_files_are_private_and_what_was_asked_for_is_found_again(
    renderer: NetworkManagerRenderer, tmp_path: Path
) -> None:
    item = switch(uplinks=["eth1"], security={"promiscuous": False})
    files = renderer.linux_switch_files(item)
    for (device, suffix), content in files.items():
        assert renderer.write(device, suffix, content)
        assert not renderer.write(device, suffix, content)
    assert renderer.are_written(files)
    assert {entry.stat().st_mode & 0o777 for entry in (tmp_path / "profiles").iterdir()} == {0o600}
    ours = (tmp_path / "profiles" / "bareforge-br0.nmconnection").read_text()
    (tmp_path / "profiles" / "somebody.nmconnection").write_text(ours)
    (tmp_path / "profiles" / "bareforge-x.nmconnection").write_text("[user]\nbareforge.asked={broken\n")
    assert [(kind, VirtualSwitch.parse(document)) for kind, document in renderer.records()] == [
        ("virtual_switch", item)
    ]


def test_values_are_escaped_as_in_key_files_and_read_back() -> None:
    text = 'a\\n "b" \n\tc\\'
    assert "\n" not in network_manager._escaped(text)
    assert network_manager._unescaped(network_manager._escaped(text)) == text


class Nmcli:
    """nmcli, which says what it was told."""

    def __init__(self, active: list[str]) -> None:
        self.active = active
        self.told: list[str] = []
        self.refuses = ""

    def __call__(self, argv: Any, timeout: float = 60) -> str:
        words = " ".join(argv[1:])
        if words.endswith("show --active"):
            return "\n".join(map(uuid_of, self.active))
        self.told.append(words)
        if self.refuses and self.refuses in words:
            raise ApplyError("nmcli failed: Can't reapply any changes to 'bridge-port' setting")
        return ""


def test_what_makes_a_device_is_brought_up_before_what_needs_it_and_what_is_in_use_is_not_interrupted(
    renderer: NetworkManagerRenderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    nmcli = Nmcli(active=["br0", "eth1"])
    nmcli.refuses = "reapply eth1"
    monkeypatch.setattr(network_manager, "run_command", nmcli)
    monkeypatch.setattr(host_devices, "exists", lambda name: name != "gone0")
    network = VirtualNetwork.parse({"name": "app", "switch": "br0"}).complete(None)
    files = {
        **renderer.linux_interface_files(interface(dhcp=True), network, "02:00:00:00:00:01"),
        **renderer.linux_switch_files(switch(uplinks=["eth1"])),
        **renderer.interface_files(HostInterface.parse({"name": "gone0", "network": "app"}).complete(None)),
    }
    written = [device for (device, suffix), content in files.items() if renderer.write(device, suffix, content)]
    renderer.apply(False, written, set())
    assert nmcli.told[0] == "general reload conf"
    assert nmcli.told[1].startswith("connection load ")
    assert nmcli.told[2:] == [
        "device reapply br0",
        f"--wait 0 connection up uuid {uuid_of('app0')}",
        f"--wait 30 connection up uuid {uuid_of(port_of('app0'))}",
        "device reapply eth1",
        f"--wait 30 connection up uuid {uuid_of('eth1')}",
    ]
    nmcli.told.clear()
    renderer.apply(False, [], {"br0"})
    assert nmcli.told[-1] == f"--wait 30 connection up uuid {uuid_of('br0')}", "what has lost something is begun anew"
    nmcli.told.clear()
    renderer.apply(False, [], set())
    assert nmcli.told == []


def test_a_device_is_let_go_before_it_is_deleted(
    renderer: NetworkManagerRenderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    nmcli = Nmcli(active=["br0", "eth1"])
    monkeypatch.setattr(network_manager, "run_command", nmcli)
    renderer.release("br0")
    renderer.release("br1")
    renderer.let_go("eth1")
    renderer.let_go("eth2")
    assert nmcli.told == ["device delete br0", f"connection down uuid {uuid_of('eth1')}"]


# -- Who is asked ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("there", "active", "expected"),
    [
        (False, set(), NetworkdRenderer),
        (True, {"NetworkManager.service"}, NetworkManagerRenderer),
        (True, {"NetworkManager.service", "systemd-networkd.service"}, NetworkdRenderer),
        (True, set(), NetworkdRenderer),
    ],
)
def test_what_runs_on_the_host_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool, active: set[str], expected: type[Any]
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(renderer_of_host, "NETWORK_MANAGER_RUNS", str(tmp_path if there else tmp_path / "none"))
    monkeypatch.setattr(renderer_of_host, "active_units", lambda names: asked.append(names) or active)
    renderer_of_host.renderer.cache_clear()
    try:
        assert type(renderer_of_host.renderer()) is expected
        assert renderer_of_host.renderer() is renderer_of_host.renderer()
        assert len(asked) == (1 if there else 0), "a host without NetworkManager is asked nothing"
    finally:
        renderer_of_host.renderer.cache_clear()


def test_units_that_are_active(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = "Id=a.service\nActiveState=active\n\nId=b.service\nActiveState=inactive\n"
    monkeypatch.setattr(systemd, "run_command", lambda argv: shown)
    assert systemd.active_units(["a.service", "b.service"]) == {"a.service"}

    def fails(argv: Any) -> str:
        raise ApplyError("systemctl failed: no bus")

    monkeypatch.setattr(systemd, "run_command", fails)
    with pytest.raises(ReadError, match="no bus"):
        systemd.active_units(["a.service"])


# -- The guard ---------------------------------------------------------------------------------------------------------


def test_profiles_in_use_are_those_that_last(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = (
        "11:/etc/NetworkManager/system-connections/eth0.nmconnection:eth0\n"
        "22:/run/NetworkManager/system-connections/tap0.nmconnection:tap0\n"
        "33:/etc/sysconfig/network-scripts/ifcfg-a\\:b:a\\:b\n"
        "44::lo\n"
    )
    monkeypatch.setattr(network_manager, "run_command", lambda argv: shown)
    assert network_manager.profiles_in_use() == [["eth0", "11"], ["a:b", "33"]]


def test_a_guard_keeps_profiles_where_network_manager_runs(
    renderer: NetworkManagerRenderer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renderer_of_host, "renderer", lambda: renderer)
    monkeypatch.setattr(guard, "_read_networks", dict)
    monkeypatch.setattr(guard, "_OVS_SOCKET", str(tmp_path / "no-socket"))
    monkeypatch.setattr(systemd, "UNIT_FOLDER", str(tmp_path / "units"))
    monkeypatch.setattr(network_manager, "profiles_in_use", lambda: [["eth0", "11"]])
    guard.KvmGuard()._store(str(tmp_path), "0123456789abcdef", ["network"], 60, [])
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan["profiles"] == {"nmcli": "/usr/bin/nmcli", "active": [["eth0", "11"]]}
    assert "/etc/NetworkManager/system-connections/bareforge-*.nmconnection" in plan["files"]["paths"]
    assert not [path for path in plan["files"]["paths"] if "systemd" in path]
    assert [command["argv"] for command in plan["commands"]] == [["/usr/bin/nmcli", "general", "reload", "conf"]]
    assert " NetworkManager.service nftables.service " in guard._boot_unit(["x"], renderer.UNIT)


def test_undoing_brings_profiles_back_and_uses_those_that_were_in_use(tmp_path: Path) -> None:
    folder, etc = tmp_path / "guard", tmp_path / "etc"
    folder.mkdir()
    etc.mkdir()
    log = tmp_path / "told"
    nmcli = tmp_path / "nmcli"
    nmcli.write_text(
        f'#!/bin/sh\necho "$*" >> {log}\ncase "$*" in *--active) echo still-used;; *"up uuid slow") exit 3;; esac\n'
    )
    nmcli.chmod(0o755)

    def profile(name: str, kind: str, uuid: str) -> str:
        text = f"# x\n\n[connection]\nid={name}\nuuid={uuid}\ntype={kind}\n\n[user]\nuuid=not-this\n"
        (etc / f"bareforge-{name}.nmconnection").write_text(text)
        return text

    before = {"same": profile("same", "generic", "s"), "port": profile("port", "ethernet", "p")}
    before["bridge"] = profile("bridge", "bridge", "slow")
    saved = []
    for number, (name, text) in enumerate(before.items()):
        (folder / f"file-{number}").write_text(text)
        entry = {"path": str(etc / f"bareforge-{name}.nmconnection"), "from": f"file-{number}"}
        saved.append({**entry, "mode": 0o600, "uid": os.getuid(), "gid": os.getgid()})
    profile("new", "ethernet", "n")
    profile("port", "ethernet", "other")
    (etc / "bareforge-bridge.nmconnection").unlink()
    plan = {
        "files": {"paths": [f"{etc}/*.nmconnection"], "saved": saved},
        "values": {},
        "commands": [],
        "networks": {},
        "virsh": "virsh",
        "clean_up": [],
        "profiles": {"nmcli": str(nmcli), "active": [["eth0", "eth0s"], ["eth9", "still-used"]]},
    }
    (folder / "plan.json").write_text(json.dumps(plan))
    (folder / guard_undo.ARMED).touch()
    assert guard_undo.undo(str(folder)) == 0
    paths = " ".join(str(etc / f"bareforge-{name}.nmconnection") for name in ("bridge", "new", "port"))
    assert log.read_text().splitlines() == [
        f"connection load {paths}",
        "--get-values UUID connection show --active",
        "--wait 15 connection up uuid slow",
        "--wait 15 connection up uuid p",
        "--wait 15 connection up uuid eth0s",
    ]
    assert sorted(entry.name for entry in etc.iterdir()) == [
        f"bareforge-{name}.nmconnection" for name in ("bridge", "port", "same")
    ]


def test_a_guard_has_the_ssh_server_read_its_files_by_the_name_that_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "ssh_unit", lambda: "sshd.service")
    assert guard._part("sshd", NetworkdRenderer()).commands == (
        ("/usr/bin/systemctl", "try-reload-or-restart", "sshd.service"),
    )
