# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""VMs as domain XML and back: tables of whole domains, and any VM that the model and the platform allow."""

from __future__ import annotations

import dataclasses
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ansible_collections.bareforge.hypervisor.plugins.module_utils.engine.change import not_taken
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.compute import Vm
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.network import VirtualNetwork
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm import domain_xml
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.domain_xml import Host
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.file_names import (
    Directories,
    PoolPlace,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.vm import KvmVms, resolve
from support.generator import Generator
from support.strategies import DrawnChooser

DATA = Path(__file__).parents[4] / "data" / "kvm_domains"
HOST = Host(processors=tuple(range(8)), memory=65536, nested_feature="svm", nested=True)


class AnyPool(dict[str, PoolPlace]):
    """Every name is that of a pool, of one type or another."""

    def get(self, name: str, default: Any = None) -> PoolPlace:
        return PoolPlace(name, "lvm", group="vg0") if len(name) % 2 else PoolPlace(name, "dir", "/srv/pool")


WHERE = Directories(places=AnyPool())


def complete(data: dict[str, Any]) -> Vm:
    return resolve(Vm.parse(data).complete(None), None if "template" not in data else _template())


def _template() -> Any:
    from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.compute import Template

    return Template(name="debian", firmware="bios", customization="cloud_init")


def to_xml(vm: Vm) -> str:
    switches = {str(nic.network): "br0" for nic in vm.nics or ()}
    return domain_xml.to_xml(vm, switches, HOST, WHERE, seed=vm.template is not None)


def shown(wanted: Vm, live: str, config: str | None = None) -> Vm:
    """What would be read of a domain, with that which does not stand in its XML taken from what was asked."""
    vm = domain_xml.read_xml(live, config or live, HOST)
    vm = domain_xml.with_sizes(vm, {str(disk.name): disk.size for disk in wanted.disks or ()})
    return dataclasses.replace(vm, power=wanted.power, autostart=wanted.autostart)


def canonical(xml: str) -> str:
    element = ElementTree.fromstring(xml)
    ElementTree.indent(element)
    return ElementTree.canonicalize(ElementTree.tostring(element, encoding="unicode"), strip_text=True)


@pytest.mark.parametrize("name", sorted(path.stem for path in DATA.glob("*.yml")))
def test_a_document_becomes_the_domain_that_stands_beside_it(name: str) -> None:
    vm = complete(yaml.safe_load((DATA / f"{name}.yml").read_text(encoding="utf-8")))
    expected = (DATA / f"{name}.xml").read_text(encoding="utf-8")
    assert canonical(to_xml(vm)) == canonical(expected)


@pytest.mark.parametrize("name", sorted(path.stem for path in DATA.glob("*.yml")))
def test_a_domain_is_read_back_as_the_document(name: str) -> None:
    wanted = complete(yaml.safe_load((DATA / f"{name}.yml").read_text(encoding="utf-8")))
    read = shown(wanted, (DATA / f"{name}.xml").read_text(encoding="utf-8"))
    assert [(path.text, new, old) for path, new, old in not_taken(None, wanted, read)] == []


def test_what_libvirt_makes_of_a_running_domain_is_read_as_it_was_asked_for() -> None:
    """live.xml and config.xml were written by libvirt 9.0 on a Debian 12 host."""
    read = domain_xml.read_xml(
        (DATA / "libvirt" / "live.xml").read_text(encoding="utf-8"),
        (DATA / "libvirt" / "config.xml").read_text(encoding="utf-8"),
        HOST,
    )
    expected = yaml.safe_load((DATA / "libvirt" / "expected.yml").read_text(encoding="utf-8"))
    assert read.to_document() == expected


def declared(value: Any, cls: Any, path: str = "") -> Any:
    """An object without those fields and choices that the platform does not declare."""
    fields: dict[str, Any] = {}
    for name, entry in value.options().items():
        item = getattr(value, name)
        capability = entry.capability
        if item is None:
            continue
        if capability and not capability.endswith(".*") and capability not in KvmVms.CAPABILITIES:
            fields[name] = None
        elif capability and capability.endswith(".*") and f"{capability[:-1]}{item}" not in KvmVms.CAPABILITIES:
            fields[name] = None
        elif isinstance(item, tuple) and item and hasattr(item[0], "options"):
            fields[name] = tuple(declared(element, type(element)) for element in item)
        elif hasattr(item, "options"):
            fields[name] = declared(item, type(item))
    return dataclasses.replace(value, **fields)


def in_kilobytes(nic: Any) -> Any:
    """Return a NIC whose limits are whole kilobytes, which libvirt counts in, and have no peak."""
    limits = nic.bandwidth
    if limits is None:
        return nic
    rates = {
        name: dataclasses.replace(rate, average=rate.average and (rate.average + 7) // 8 * 8, peak=None)
        for name, rate in vars(limits).items()
        if rate is not None
    }
    return dataclasses.replace(nic, bandwidth=dataclasses.replace(limits, **rates))


@st.composite
def vms(draw: Any) -> Vm:
    data = Generator(DrawnChooser(draw)).item(Vm)
    problems: list[Any] = []
    vm = Vm.read(data, domain_xml.Path("vm"), problems)
    if vm is None or problems:
        return Vm.parse({"name": "plain", "memory": {"size": 64}})
    vm = declared(vm, Vm)
    memory = vm.memory or domain_xml.Memory(size=64)
    # What the platform refuses: a part of the memory, parts of a kilobyte, paths that virt-aa-helper does not pass on.
    memory = dataclasses.replace(memory, reservation=memory.size if memory.reservation else memory.reservation)
    nics = None if vm.nics is None else tuple(map(in_kilobytes, vm.nics))
    cdrom = vm.cdrom and "/srv/" + "".join(c for c in vm.cdrom if c.isalnum() and c.isascii())
    vm = dataclasses.replace(vm, memory=memory, nics=nics, cdrom=cdrom, template=None, guest=vm.guest)
    cpu = vm.cpu
    if cpu is not None and (cpu.sockets or cpu.cores or cpu.threads):
        count = (cpu.sockets or 1) * (cpu.cores or 1) * (cpu.threads or 1)
        vm = dataclasses.replace(
            vm,
            cpu=dataclasses.replace(
                cpu, count=count, sockets=cpu.sockets or 1, cores=cpu.cores or 1, threads=cpu.threads or 1
            ),
        )
    if vm.description and any(c in vm.description for c in "\r\ufffe\uffff"):
        vm = dataclasses.replace(vm, description=None)
    return vm


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(vms())
def test_any_vm_is_read_back_from_its_domain_as_it_was_written(vm: Vm) -> None:
    wanted = resolve(vm.complete(None), None)
    wanted = dataclasses.replace(
        wanted, firmware=vm.firmware or "bios", secure_boot=bool(vm.secure_boot and vm.firmware == "uefi")
    )
    read = shown(wanted, to_xml(wanted))
    assert [
        (path.text, new, old)
        for path, new, old in not_taken(None, wanted, dataclasses.replace(read, clone=wanted.clone))
    ] == []


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(vms(), vms())
def test_any_vm_can_be_changed_into_any_other_and_is_read_back_so(first: Vm, second: Vm) -> None:
    before = resolve(first.complete(None), None)
    after = resolve(dataclasses.replace(second, name=first.name).complete(None), None)
    before, after = (
        dataclasses.replace(vm, secure_boot=bool(vm.secure_boot and vm.firmware == "uefi")) for vm in (before, after)
    )
    switches = {str(nic.network): "br0" for nic in after.nics or ()}
    merged = domain_xml.merge(to_xml(before), after, switches, HOST, WHERE)
    read = shown(after, merged)
    assert [(path.text, new, old) for path, new, old in not_taken(None, after, read)] == []


def test_a_change_leaves_alone_what_others_have_added_to_the_domain() -> None:
    vm = complete({"name": "web1", "memory": {"size": 256}, "disks": [{"name": "root", "size": 64}]})
    domain = ElementTree.fromstring(to_xml(vm))
    devices = domain.find("devices")
    assert devices is not None
    devices.append(ElementTree.fromstring("<hostdev mode='subsystem' type='pci'><source/></hostdev>"))
    devices.append(ElementTree.fromstring("<disk type='block'><target dev='vdb' bus='virtio'/></disk>"))
    domain.append(ElementTree.fromstring("<on_crash>preserve</on_crash>"))
    metadata = domain.find("metadata")
    assert metadata is not None
    metadata.append(ElementTree.fromstring("<x:note xmlns:x='https://example.org/x'>kept</x:note>"))
    after = dataclasses.replace(vm, disks=(*(vm.disks or ()), domain_xml.Disk(name="data", size=64).complete(None)))
    merged = domain_xml.merge(ElementTree.tostring(domain, encoding="unicode"), after, {}, HOST, WHERE)
    result = ElementTree.fromstring(merged)
    assert result.find("devices/hostdev") is not None
    assert result.findtext("on_crash") == "preserve"
    assert "kept" in merged
    # vdb is someone else's, so the new disk has the next name.
    assert domain_xml.disk_target(merged, "data") == "vdc"


def test_a_change_keeps_the_addresses_by_which_the_guest_knows_its_devices() -> None:
    vm = complete(
        {
            "name": "web1",
            "memory": {"size": 256},
            "disks": [{"name": "root", "size": 64}],
            "nics": [{"name": "eth0", "network": "a"}],
        }
    )
    domain = ElementTree.fromstring(to_xml(vm))
    interface = domain.find("devices/interface")
    assert interface is not None
    interface.append(ElementTree.fromstring("<address type='pci' bus='0x07' slot='0x00'/>"))
    nic = dataclasses.replace((vm.nics or ())[0], network="b", connected=False)
    after = dataclasses.replace(vm, nics=(nic,))
    merged = ElementTree.fromstring(
        domain_xml.merge(ElementTree.tostring(domain, encoding="unicode"), after, {"b": "br1"}, HOST, WHERE)
    )
    changed = merged.find("devices/interface")
    assert changed is not None
    assert changed.find("address") is not None
    source, link = changed.find("source"), changed.find("link")
    assert source is not None
    assert source.attrib == {"network": "br1", "portgroup": "b"}
    assert link is not None
    assert link.get("state") == "down"


def test_a_change_keeps_what_others_have_set_beside_our_own_settings() -> None:
    vm = complete({"name": "web1", "memory": {"size": 256, "limit": 300, "reservation": 256}})
    domain = ElementTree.fromstring(to_xml(vm))
    for section, element in (
        ("memoryBacking", "<access mode='shared'/>"),
        ("memtune", "<hard_limit unit='MiB'>900</hard_limit>"),
    ):
        found = domain.find(section)
        assert found is not None
        found.append(ElementTree.fromstring(element))
    after = dataclasses.replace(vm, memory=domain_xml.Memory(size=256, limit=400, reservation=0, hugepages=True))
    merged = ElementTree.fromstring(
        domain_xml.merge(ElementTree.tostring(domain, encoding="unicode"), after, {}, HOST, WHERE)
    )
    assert sorted(element.tag for element in merged.iterfind("memoryBacking/*")) == ["access", "hugepages"]
    assert {element.tag: element.text for element in merged.iterfind("memtune/*")} == {
        "hard_limit": "900",
        "soft_limit": "400",
    }


def test_a_cdrom_drive_stands_before_the_seed_and_stays_when_its_medium_goes() -> None:
    vm = complete({"name": "web1", "template": "debian", "memory": {"size": 64}, "boot_order": ["cdrom", "disk"]})
    assert vm.disks is not None
    inserted = domain_xml.merge(to_xml(vm), dataclasses.replace(vm, cdrom="/srv/a.iso"), {}, HOST, WHERE)
    made = to_xml(dataclasses.replace(vm, cdrom="/srv/a.iso"))
    for xml in (inserted, made):
        drives = list(ElementTree.fromstring(xml).iterfind("devices/disk[@device='cdrom']"))
        assert [domain_xml.alias_of(drive) for drive in drives] == ["ua-CDROM", "ua-SEED"]
        assert domain_xml.read_xml(xml, xml, HOST).cdrom == "/srv/a.iso"
    taken_out = domain_xml.merge(made, dataclasses.replace(vm, cdrom=""), {}, HOST, WHERE)
    drive = domain_xml.find_device(taken_out, "ua-CDROM")
    assert drive is not None
    assert drive.find("source") is None
    assert domain_xml.read_xml(taken_out, taken_out, HOST).cdrom is None
    assert domain_xml.merge(made, dataclasses.replace(vm, cdrom="/srv/b.iso"), {}, HOST, WHERE).count("b.iso") == 1


def test_the_limits_of_a_network_are_not_taken_for_those_of_a_nic() -> None:
    nics = [
        {"name": "eth0", "network": "a"},
        {"name": "eth1", "network": "a", "bandwidth": {"inbound": {"average": 800, "burst": 16}}},
    ]
    config = to_xml(complete({"name": "web1", "memory": {"size": 64}, "nics": nics}))
    live = ElementTree.fromstring(config)
    first, second = live.iterfind("devices/interface")
    # What Open vSwitch takes for the limit is the peak.
    assert [element.attrib for element in second.iterfind("bandwidth/*")] == [
        {"average": "100", "peak": "100", "burst": "16"}
    ]
    first.append(ElementTree.fromstring("<bandwidth><outbound average='5'/></bandwidth>"))
    read = domain_xml.read_xml(ElementTree.tostring(live, encoding="unicode"), config, HOST)
    assert [nic.bandwidth and nic.bandwidth.to_document() for nic in read.nics or ()] == [
        {},
        {"inbound": {"average": 800, "burst": 16}},
    ]


def test_text_that_looks_like_xml_stays_text() -> None:
    hostile = "</description><devices/>]]>&lt; \"quotes\" 'and' ${x}\n\ttab"
    vm = complete({"name": "a-b", "memory": {"size": 64}, "description": hostile})
    xml = to_xml(vm)
    assert ElementTree.fromstring(xml).findtext("description") == hostile
    assert len(ElementTree.fromstring(xml).findall("devices")) == 1


def test_secrets_do_not_stand_in_the_domain() -> None:
    vm = complete(
        {
            "name": "web1",
            "template": "debian",
            "memory": {"size": 64},
            "guest": {
                "users": [{"name": "ann", "password_hash": "$6$salt$0123456789abcdef"}],
                "user_data": "#!/bin/sh\necho top-secret",
            },
        }
    )
    xml = to_xml(vm)
    assert "0123456789abcdef" not in xml
    assert "top-secret" not in xml
    assert "ann" in xml


def test_a_pinning_that_libvirt_shows_for_all_cores_is_none() -> None:
    vm = complete({"name": "web1", "memory": {"size": 64}, "cpu": {"count": 2}})
    config = to_xml(vm)
    live = ElementTree.fromstring(config)
    tune = ElementTree.SubElement(live, "cputune")
    for number in range(2):
        ElementTree.SubElement(tune, "vcpupin", vcpu=str(number), cpuset="0-7")
    read = domain_xml.read_xml(ElementTree.tostring(live, encoding="unicode"), config, HOST)
    assert read.cpu is not None
    assert read.cpu.pinning is None


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        ({"vlan": 0}, None),
        ({"vlan": 20}, '<vlan><tag id="20" /></vlan>'),
        ({"vlan": 10, "trunk": ["10", "20-22"]}, '<vlan trunk="yes"><tag id="10" nativeMode="untagged" /><tag id="20" /><tag id="21" /><tag id="22" /></vlan>'),
        ({"trunk": ["5"]}, '<vlan trunk="yes"><tag id="5" /></vlan>'),
    ],
)  # fmt: skip
def test_a_plugged_nic_is_given_its_vlan_in_words(network: dict[str, Any], expected: str | None) -> None:
    virtual_network = VirtualNetwork.parse({"name": "n", "switch": "br0", **network}).complete(None)
    nic = domain_xml.Nic(name="eth0", network="n", model="virtio")
    element = domain_xml.nic_element("web1", nic, "br0", domain_xml.Host(), virtual_network).find("vlan")
    assert (None if element is None else ElementTree.tostring(element, encoding="unicode")) == expected


def test_a_nic_on_a_bridge_of_the_kernel_is_told_by_the_hook() -> None:
    host = domain_xml.Host(linux_bridges=frozenset({"br0"}))
    network = VirtualNetwork.parse({"name": "n", "switch": "br0", "vlan": 10}).complete(None)
    nic = domain_xml.Nic(name="eth0", network="n", model="virtio")
    element = domain_xml.nic_element("web1", nic, "br0", host, network)
    assert element.find("source").attrib == {"network": "br0", "portgroup": "n"}  # type: ignore[union-attr]
    assert element.find("vlan") is None
    assert element.find("virtualport") is None
    assert domain_xml.nic_element("web1", nic, "br1", host, network).find("virtualport") is not None


def test_free_ports_are_those_that_nothing_is_in() -> None:
    xml = """<domain><devices>
      <controller type='pci' index='0' model='pcie-root'/>
      <controller type='pci' index='1' model='pcie-root-port'><address type='pci' bus='0x00' slot='0x01'/></controller>
      <controller type='pci' index='2' model='pcie-root-port'><address type='pci' bus='0x00' slot='0x02'/></controller>
      <controller type='pci' index='3' model='pcie-root-port'><address type='pci' bus='0x00' slot='0x03'/></controller>
      <disk type='file'><address type='pci' bus='0x02' slot='0x00'/></disk>
    </devices></domain>"""
    assert domain_xml.free_ports(xml) == 2
