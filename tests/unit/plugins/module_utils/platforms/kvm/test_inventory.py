# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a KVM host tells an inventory of its domains, with a libvirt in memory and with libvirt's own test driver."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.boundary.inventory import answer
from ansible_collections.bareforge.hypervisor.plugins.module_utils.engine.inventory import (
    SOURCES,
    InventoryVm,
    SeenAddress,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm import inventory
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.inventory import (
    KvmInventory,
    read_neighbours,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.transports import libvirt as session
from support.libvirt_in_memory import PAUSED, RUNNING, SHUTOFF, Domain, Host, Library, Network, libvirtError

ROOT = Path(__file__).parents[6]
MAC = "52:54:00:00:00:0a"
NETWORKS = """<network><name>br-data</name><forward mode='bridge'/><bridge name='br-data'/>
<portgroup name='app'><vlan><tag id='10'/></vlan></portgroup>
<portgroup name='all'><vlan trunk='yes'><tag id='20' nativeMode='untagged'/><tag id='30'/><tag id='31'/></vlan></portgroup>
</network>"""
NAT = "<network><name>default</name><ip address='192.168.122.1'><dhcp/></ip></network>"
KNOWN = {
    "template": "debian-12",
    "tags": ["web", "blue"],
    "guest": {"hostname": "web1.example.org"},
    "nics": [{"name": "eth0", "addresses": ["10.10.0.11/24", "2001:db8::11/64"]}],
}


def domain_xml(
    name: str, known: dict[str, Any] | None = None, interface: str = "", agent: str = "", more: str = ""
) -> str:
    text = escape(json.dumps(known)) if known is not None else ""
    metadata = f"<metadata><b:vm xmlns:b='https://bareforge.dev/xmlns/1'>{text}</b:vm></metadata>" if text else ""
    channel = (
        f"<channel><target type='virtio' name='org.qemu.guest_agent.0' state='{agent}'/></channel>" if agent else ""
    )
    return (
        f"<domain><name>{name}</name><uuid>0000-{name}</uuid>{metadata}{more}<memory unit='KiB'>2097152</memory>"
        f"<currentMemory unit='KiB'>1048576</currentMemory><vcpu current='2'>8</vcpu>"
        f"<devices>{interface}{channel}</devices></domain>"
    )


def nic(
    mac: str = MAC, source: str = "network='br-data' portgroup='app'", alias: str = "ua-eth0", more: str = ""
) -> str:
    return (
        f"<interface type='network'><mac address='{mac}'/><source {source}/><target dev='vnet3'/>"
        f"<alias name='{alias}'/>{more}</interface>"
    )


class KvmHost:
    """A host in memory: what libvirt and the neighbour table of it say."""

    def __init__(self) -> None:
        self.libvirt = Host()
        self.libvirt.networks = [Network(NETWORKS), Network(NAT)]
        self.neighbours: dict[str, list[str]] = {}
        self.warnings: list[str] = []

    def add(self, xml: str, state: int = RUNNING, **info: Any) -> Domain:
        domain = Domain(self.libvirt, xml)
        domain._state, domain.guest_info = state, info
        self.libvirt.domains[domain.name()] = domain
        return domain

    def read(self, *sources: str) -> list[InventoryVm]:
        return KvmInventory().vms(sources or SOURCES, 5, {}, self.warnings)

    def one(self, *sources: str) -> InventoryVm:
        (vm,) = self.read(*sources)
        return vm


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[KvmHost]:
    made = KvmHost()
    monkeypatch.setitem(sys.modules, "libvirt", Library(made.libvirt))  # type: ignore[arg-type]
    monkeypatch.setattr(session, "RESTART_PATIENCE", 0.0)
    monkeypatch.setattr(inventory, "read_neighbours", lambda warnings: made.neighbours)
    session.close()
    yield made
    session.close()


def test_all_that_is_known_of_a_vm_of_ours(host: KvmHost) -> None:
    more = "<description>the shop</description>"
    host.add(domain_xml("web1", KNOWN, nic(), more=more), SHUTOFF)
    vm = host.one()
    assert (vm.name, vm.power, vm.state, vm.uuid, vm.managed) == ("web1", "stopped", "off", "0000-web1", True)
    assert (vm.template, vm.hostname, vm.description) == ("debian-12", "web1.example.org", "the shop")
    assert (vm.cpus, vm.memory, vm.tags) == (2, 1024, ("blue", "web"))
    (adapter,) = vm.nics
    assert (adapter.name, adapter.mac, adapter.network, adapter.vlan, adapter.trunk) == ("eth0", MAC, "app", 10, ())


def test_a_vm_of_others_is_told_with_what_libvirt_knows(host: KvmHost) -> None:
    host.add(domain_xml("theirs", None, nic(source="bridge='br0'", alias="net0")))
    vm = host.one()
    assert (vm.managed, vm.template, vm.hostname, vm.tags) == (False, None, None, ())
    assert [(entry.name, entry.network, entry.vlan) for entry in vm.nics] == [("vnet3", "br0", None)]


@pytest.mark.parametrize(("state", "power"), [(RUNNING, "running"), (PAUSED, "suspended"), (SHUTOFF, "stopped")])
def test_the_power_of_a_vm(host: KvmHost, state: int, power: str) -> None:
    host.add(domain_xml("a"), state)
    assert host.one().power == power


def test_vlans_of_a_trunk_and_of_the_interface_itself(host: KvmHost) -> None:
    own = nic(mac="52:54:00:00:00:0b", alias="ua-eth1", more="<vlan><tag id='44'/></vlan>")
    host.add(domain_xml("a", {}, nic(source="network='br-data' portgroup='all'") + own))
    trunk, tagged = host.one().nics
    assert (trunk.network, trunk.vlan, trunk.trunk) == ("all", 20, ("30-31",))
    assert (tagged.vlan, tagged.trunk) == (44, ())


INTERFACES = {
    "hostname": "told.example.org",
    "if.count": 3,
    "if.0.name": "lo",
    "if.0.hwaddr": "00:00:00:00:00:00",
    "if.0.addr.count": 2,
    "if.0.addr.0.addr": "127.0.0.1",
    "if.0.addr.1.addr": "::1",
    "if.1.name": "eth0",
    "if.1.hwaddr": MAC.upper(),
    "if.1.addr.count": 3,
    "if.1.addr.0.addr": "10.10.0.50",
    "if.1.addr.1.addr": "fe80::1%eth0",
    "if.1.addr.2.addr": "2001:db8::50",
    "if.2.name": "docker0",
    "if.2.hwaddr": "02:42:00:00:00:01",
    "if.2.addr.count": 1,
    "if.2.addr.0.addr": "172.17.0.1",
}


def test_addresses_of_every_source_with_their_nics(host: KvmHost) -> None:
    host.add(domain_xml("web1", KNOWN, nic(), agent="connected"), **INTERFACES)
    host.libvirt.networks[1].leases = [{"mac": MAC.upper(), "ipaddr": "192.168.122.7"}, {"mac": None, "ipaddr": None}]
    host.neighbours = {MAC: ["10.10.0.77"], "52:54:00:ff:ff:ff": ["10.10.0.78"]}
    vm = host.one()
    assert vm.hostname == "told.example.org"
    assert list(vm.addresses) == [
        SeenAddress("10.10.0.50", "agent", "eth0"),
        SeenAddress("2001:db8::50", "agent", "eth0"),
        SeenAddress("172.17.0.1", "agent", None),
        SeenAddress("192.168.122.7", "lease", "eth0"),
        SeenAddress("10.10.0.77", "neighbour", "eth0"),
        SeenAddress("10.10.0.11", "document", "eth0"),
        SeenAddress("2001:db8::11", "document", "eth0"),
    ]


@pytest.mark.parametrize("source", SOURCES)
def test_only_the_wanted_sources_are_looked_at(host: KvmHost, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    monkeypatch.setattr(
        inventory, "read_neighbours", lambda warnings: looked.append("neighbour") or {MAC: ["10.0.0.1"]}
    )
    host.add(domain_xml("web1", KNOWN, nic(), agent="connected"), **INTERFACES)
    host.libvirt.networks[1].leases = [{"mac": MAC, "ipaddr": "192.168.122.7"}]
    assert {address.source for address in host.one(source).addresses} == {source}
    assert looked == (["neighbour"] if source == "neighbour" else [])
    assert ("ask the agent of web1" in host.libvirt.calls) is (source == "agent")


def test_a_stopped_vm_has_its_documents_addresses_only(host: KvmHost) -> None:
    host.add(domain_xml("web1", KNOWN, nic(), agent="connected"), SHUTOFF, **INTERFACES)
    host.neighbours = {MAC: ["10.10.0.77"]}
    host.libvirt.networks[1].leases = [{"mac": MAC, "ipaddr": "192.168.122.7"}]
    assert {address.source for address in host.one().addresses} == {"document"}
    assert host.libvirt.calls == []


def test_an_agent_that_is_not_connected_is_not_waited_for(host: KvmHost) -> None:
    host.add(domain_xml("a", {}, nic(), agent="disconnected"), **INTERFACES)
    assert host.one().addresses == ()
    assert host.libvirt.calls == []


def test_an_agent_that_does_not_answer_is_named_and_the_vm_is_there(host: KvmHost) -> None:
    domain = host.add(domain_xml("slow", KNOWN, nic(), agent="connected"))
    domain.guest_info = libvirtError("Guest agent is not responding")
    assert {address.source for address in host.one().addresses} == {"document"}
    assert host.warnings == ["VM 'slow': its guest agent does not answer: Guest agent is not responding"]


def test_leases_that_cannot_be_read_are_named(host: KvmHost) -> None:
    host.add(domain_xml("a"))
    host.libvirt.networks[1].leases = libvirtError("no dnsmasq")
    assert host.one().name == "a"
    assert host.warnings == ["the leases of network 'default' cannot be read: no dnsmasq"]


def test_a_vm_that_went_meanwhile_is_left_out(host: KvmHost, monkeypatch: pytest.MonkeyPatch) -> None:
    host.add(domain_xml("a"))

    def gone(_flags: int = 0) -> str:
        raise libvirtError("Domain not found", Library.VIR_ERR_NO_DOMAIN)

    monkeypatch.setattr(host.add(domain_xml("b")), "XMLDesc", gone)
    assert [vm.name for vm in host.read()] == ["a"]


def test_metadata_that_is_not_what_we_write_does_no_harm(host: KvmHost) -> None:
    odd = {
        "template": 7,
        "tags": "web",
        "guest": [],
        "nics": [None, {"name": "eth0", "addresses": "x"}, {"name": "eth0"}],
    }
    host.add(domain_xml("odd", odd, nic()), SHUTOFF)
    vm = host.one()
    assert (vm.managed, vm.template, vm.tags, vm.hostname, vm.addresses) == (True, None, (), None, ())


def test_the_libvirt_calls_do_not_grow_with_the_vms_but_for_their_xml(
    host: KvmHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(50):
        host.add(domain_xml(f"vm{number}", KNOWN, nic()))
    called: list[str] = []
    connection = session.connection()
    for name in ("getAllDomainStats", "listAllNetworks", "listAllDomains", "lookupByName"):
        original = getattr(connection, name)
        monkeypatch.setattr(
            connection,
            name,
            lambda *values, name=name, original=original: (called.append(name), original(*values))[1],
            raising=False,
        )
    assert len(host.read()) == 50
    assert called == ["getAllDomainStats", "listAllNetworks"]


def test_what_is_told_survives_the_way_as_json(host: KvmHost) -> None:
    host.add(
        domain_xml("web1", KNOWN, nic(source="network='br-data' portgroup='all'"), agent="connected"), **INTERFACES
    )
    vm = host.one()
    assert InventoryVm.from_plain(json.loads(json.dumps(vm.to_plain()))) == vm


# -- The neighbour table -----------------------------------------------------------------------------------------------


def fake_ip(folder: Any, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / "ip"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(inventory.shutil, "which", lambda name, path: str(program))


def test_neighbours_that_answered_count(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [
        {"dst": "10.0.0.5", "lladdr": MAC.upper(), "state": ["STALE"]},
        {"dst": "10.0.0.6", "lladdr": MAC, "state": ["FAILED"]},
        {"dst": "10.0.0.7", "state": ["INCOMPLETE"]},
    ]
    fake_ip(tmp_path, f'test "$*" = "-json neighbour show" && echo \'{json.dumps(entries)}\'', monkeypatch)
    warnings: list[str] = []
    assert read_neighbours(warnings) == {MAC: ["10.0.0.5"]}
    assert warnings == []


@pytest.mark.parametrize(
    ("script", "reason"),
    [("echo no such thing >&2; exit 3", "status 3: no such thing"), ("echo '{'", "cannot be read")],
)
def test_a_neighbour_table_that_cannot_be_read_is_a_warning(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, script: str, reason: str
) -> None:
    fake_ip(tmp_path, script, monkeypatch)
    warnings: list[str] = []
    assert read_neighbours(warnings) == {}
    assert len(warnings) == 1
    assert reason in warnings[0]


# -- The boundary ------------------------------------------------------------------------------------------------------

REQUEST = {"platform": "kvm", "sources": list(SOURCES), "agent_timeout": 5, "settings": {}}


def test_a_request_is_answered_in_plain_data(host: KvmHost) -> None:
    host.add(domain_xml("web1", KNOWN, nic()))
    told = answer(REQUEST)
    assert [vm["name"] for vm in told["vms"]] == ["web1"]
    assert told["warnings"] == []


def test_a_host_without_the_bindings_says_which_package(monkeypatch: pytest.MonkeyPatch) -> None:
    session.close()
    monkeypatch.setitem(sys.modules, "libvirt", None)
    told = answer(REQUEST)
    assert told["error"]["phase"] == "connect"
    assert "python3-libvirt" in told["error"]["message"]


def test_an_unknown_platform_is_refused_with_those_that_are_known() -> None:
    told = answer({**REQUEST, "platform": "vms"})
    assert told["error"] == {"phase": "validate", "message": "platform: 'vms' is not allowed; allowed is kvm, proxmox"}


def test_a_fault_is_told_in_one_sentence(host: KvmHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory, "read_vms", lambda *_values: 1 / 0)
    assert answer(REQUEST)["error"] == {"phase": "internal", "message": "ZeroDivisionError: division by zero"}


# -- libvirt's own test driver -----------------------------------------------------------------------------------------

WITH_LIBVIRT = next(
    (
        path
        for path in ("/usr/bin/python3",)
        if os.path.exists(path)
        and subprocess.run([path, "-c", "import libvirt"], capture_output=True, check=False).returncode == 0
    ),
    None,
)
ON_TEST_DRIVER = """
import json, sys
sys.path.insert(0, sys.argv[1])
import libvirt
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm import inventory
libvirt.registerErrorHandler(lambda *_values: None, None)
connection = libvirt.open("test:///default")
for xml in json.loads(sys.argv[2]):
    domain = connection.defineXML(xml)
    if domain.name() != "off":
        domain.create()
connection.lookupByName("asleep").suspend()
warnings = []
print(json.dumps([[vm.to_plain() for vm in inventory.read_vms(connection, ["agent", "lease", "document"], 5, warnings)], warnings]))
"""


@pytest.mark.skipif(WITH_LIBVIRT is None, reason="no Python with libvirt's bindings on this machine")
def test_domains_of_libvirts_test_driver() -> None:
    def xml(name: str) -> str:
        text = escape(json.dumps(KNOWN))
        return (
            f"<domain type='test'><name>{name}</name><metadata><b:vm xmlns:b='https://bareforge.dev/xmlns/1'>{text}</b:vm>"
            "</metadata><memory unit='MiB'>256</memory><vcpu current='2'>4</vcpu><os><type>hvm</type></os><devices>"
            f"<interface type='network'><mac address='{MAC}'/><source network='default' portgroup='app'/>"
            "<alias name='ua-eth0'/></interface><channel type='unix'><target type='virtio' "
            "name='org.qemu.guest_agent.0'/></channel></devices></domain>"
        )

    done = subprocess.run(
        [
            *(str(WITH_LIBVIRT), "-c", ON_TEST_DRIVER, str(ROOT / "collections")),
            json.dumps([xml(name) for name in ("on", "off", "asleep")]),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    vms, warnings = json.loads(done.stdout)
    found = {vm["name"]: vm for vm in vms}
    assert {name: vm["power"] for name, vm in found.items()} == {
        "asleep": "suspended",
        "off": "stopped",
        "on": "running",
        "test": "running",  # the driver's own
    }
    assert found["test"]["managed"] is False
    on = found["on"]
    assert (on["managed"], on["cpus"], on["memory"], on["template"]) == (True, 2, 256, "debian-12")
    assert [(entry["name"], entry["mac"], entry["network"]) for entry in on["nics"]] == [("eth0", MAC, "app")]
    assert [entry["address"] for entry in on["addresses"]] == ["10.10.0.11", "2001:db8::11"]
    # The driver gives out no leases and says so.
    assert len(warnings) == 1
    assert "leases of network 'default' cannot be read" in warnings[0]
