# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""VMs on a KVM host whose libvirt is one in memory: plans, refusals, and runs that are killed half-way.

The images are real ones, made by qemu-img.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.engine.platform import Interface, Platform
from ansible_collections.bareforge.hypervisor.plugins.module_utils.engine.runner import Request, gather, run
from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import ApplyError, ValidateError
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.compute import Template
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.document import Document
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.network import VirtualNetwork
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.operation import Operation
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm import disk_images, domain_xml
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm import vm as vm_module
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.domain_xml import Host as KvmHost
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.file_names import (
    Directories,
    name_problem,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.live_changes import reasons_for_restart
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.template import (
    KvmTemplates,
    prepare,
    write_description,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.vm import KvmVms
from ansible_collections.bareforge.hypervisor.plugins.module_utils.transports import libvirt as session
from support.libvirt_in_memory import Host, Killed, Library

MIB = 1024 * 1024
HOST = KvmHost(processors=(0, 1, 2, 3), memory=8192, nested_feature="svm", nested=False)


class Networks(Interface):
    """Two networks that are always there."""

    KINDS = ("virtual_network",)
    CAPABILITIES = frozenset({"virtual_network"})

    def __init__(self, platform: Any) -> None:
        self.platform = platform

    def read(self, kinds: Any, names: Any) -> Any:
        items = [VirtualNetwork(name=name, switch="br0").complete(None) for name in ("a", "b")]
        return {"virtual_network": {item.key: item for item in items}}


class Bench:
    """A host in a folder."""

    def __init__(self, folder: Path) -> None:
        self.where = Directories(
            templates=str(folder / "bareforge" / "templates"),
            images=str(folder / "images"),
            consoles=str(folder / "consoles"),
            nvram=str(folder / "nvram"),
            tpms=str(folder / "tpm"),
        )
        self.libvirt = Host()
        self.library = Library(self.libvirt)
        self.add_template("tiny", 8)

    def add_template(self, name: str, size: int, **fields: Any) -> None:
        prepare(self.where)
        disk_images.create(self.where.template_image(name), size * MIB)
        write_description(self.where, Template(name=name, **fields).complete(None))

    def platform(self) -> Platform:
        bench = self

        class Recovering(Platform):
            NAME = "kvm"
            INTERFACES = (Networks, KvmTemplates, KvmVms)

            def recover(self) -> None:
                for interface in self.interfaces[1:]:
                    interface.recover()

        platform = Recovering()
        for interface in platform.interfaces[1:]:
            interface.where = bench.where
        platform.interfaces[2]._host = HOST
        return platform

    def apply(self, data: Any, check: bool = False, exact: Any = (), **operation: Any) -> Any:
        return run(self.platform(), Request(Document.parse(data, exact), Operation.parse(operation), check))

    def problems(self, data: Any, **operation: Any) -> list[str]:
        with pytest.raises(ValidateError) as caught:
            self.apply(data, **operation)
        assert not any(call.startswith(("define", "start")) for call in self.libvirt.calls)
        return [str(problem) for problem in caught.value.problems]

    def files(self) -> list[str]:
        return sorted(
            str(path.relative_to(self.where.images)) for path in Path(self.where.images).rglob("*") if path.is_file()
        )


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    made = Bench(tmp_path)
    monkeypatch.setitem(sys.modules, "libvirt", made.library)  # type: ignore[arg-type]
    session.close()
    yield made
    session.close()


def web(**fields: Any) -> dict[str, Any]:
    return {"name": "web1", "template": "tiny", "memory": {"size": 128}, **fields}


def test_a_vm_is_made_read_back_and_not_touched_again(bench: Bench) -> None:
    document = {
        "vms": [
            web(
                disks=[{"name": "root", "size": 16}, {"name": "data", "size": 4, "bus": "scsi"}],
                nics=[{"name": "eth0", "network": "a", "addresses": ["192.0.2.5/24"]}],
                guest={"users": [{"name": "ann", "password_hash": "$6$abc$0123456789"}]},
                autostart=True,
                description="for tests",
            )
        ]
    }
    assert bench.apply(document)["changed"] is True
    assert bench.files() == ["web1/data.qcow2", "web1/root.qcow2", "web1/seed.iso"]
    calls = list(bench.libvirt.calls)
    assert bench.apply(document)["changed"] is False
    assert bench.apply(gather(bench.platform(), ["vm"]))["changed"] is False
    assert bench.libvirt.calls == calls
    header = disk_images.read_qcow2(bench.where.disk("web1", "root"))
    assert header is not None
    assert (header.size, header.backing) == (16 * MIB, bench.where.template_image("tiny"))


def test_check_mode_says_what_the_run_does_and_does_nothing(bench: Bench) -> None:
    document = {"vms": [web()]}
    planned = bench.apply(document, check=True)
    assert bench.libvirt.domains == {}
    assert not os.path.exists(bench.where.images)
    assert bench.apply(document)["changes"] == planned["changes"]


@pytest.mark.parametrize("step", ["define web1", "defined web1", "start web1", "started web1"])
def test_a_run_that_is_killed_while_it_makes_a_vm_is_finished_by_the_next(bench: Bench, step: str) -> None:
    document = {"vms": [web(disks=[{"name": "root"}, {"name": "data", "size": 4}])]}
    bench.libvirt.kill_at = step
    with pytest.MonkeyPatch.context() as patch:
        # What a kill leaves: no clean-up runs after it.
        patch.setattr("shutil.rmtree", lambda *_arguments, **_options: None)
        with pytest.raises(Killed):
            bench.apply(document)
    bench.libvirt.kill_at = None
    planned = bench.apply(document, check=True)
    assert bench.apply(document)["changes"] == planned["changes"]
    assert bench.files() == ["web1/data.qcow2", "web1/root.qcow2", "web1/seed.iso"]
    assert bench.libvirt.domains["web1"].state()[0] == 1
    assert bench.apply(document)["changed"] is False


@pytest.mark.parametrize("step", ["undefine web1", "undefined web1"])
def test_a_run_that_is_killed_while_it_removes_a_vm_is_finished_by_the_next(bench: Bench, step: str) -> None:
    bench.apply({"vms": [web()]})
    bench.libvirt.kill_at = step
    with pytest.raises(Killed):
        bench.apply({"vms": [{"name": "web1", "state": "absent"}]})
    bench.libvirt.kill_at = None
    bench.apply({"vms": [{"name": "web1", "state": "absent"}]})
    assert bench.libvirt.domains == {}
    assert bench.files() == []
    assert os.listdir(bench.where.images) == []


def test_a_vm_that_libvirt_refuses_leaves_nothing(bench: Bench) -> None:
    bench.libvirt.fail_at = "define web1"
    with pytest.raises(ApplyError, match=r"vm\['web1'\]: internal error: define web1"):
        bench.apply({"vms": [web()]})
    assert os.listdir(bench.where.images) == []


def test_one_vm_that_fails_does_not_stop_the_others(bench: Bench) -> None:
    bench.libvirt.fail_at = "define web1"
    with pytest.raises(ApplyError, match="web1") as caught:
        bench.apply({"vms": [web(), web(name="web2"), web(name="web3")]})
    assert sorted(bench.libvirt.domains) == ["web2", "web3"]
    assert len(caught.value.details["changes_made"]) == 2


def test_disks_that_are_kept_stay_and_are_not_overwritten(bench: Bench) -> None:
    bench.apply({"vms": [web(guest={})]})
    bench.apply({"vms": [{"name": "web1", "state": "absent"}]}, delete_disks=False)
    assert bench.files() == ["web1/root.qcow2"]
    bench.libvirt.calls.clear()
    assert bench.problems({"vms": [web()]}) == [
        f"vm['web1']: disks of a VM of this name were kept in {bench.where.vm('web1')} (root.qcow2); move them away first"
    ]
    assert bench.files() == ["web1/root.qcow2"]


def test_a_detached_disk_is_kept_and_can_be_attached_again(bench: Bench) -> None:
    both = [{"name": "root"}, {"name": "data", "size": 4}]
    bench.apply({"vms": [web(disks=both, power="stopped")]})
    before = os.stat(bench.where.disk("web1", "data")).st_ino
    bench.apply({"vms": [{"name": "web1", "disks": both[:1]}]})
    assert domain_xml.disk_target(bench.libvirt.domains["web1"].xml, "data") is None
    bench.apply({"vms": [{"name": "web1", "disks": [{"name": "root"}, {"name": "data", "size": 8}]}]})
    assert os.stat(bench.where.disk("web1", "data")).st_ino == before
    header = disk_images.read_qcow2(bench.where.disk("web1", "data"))
    assert header is not None
    assert header.size == 8 * MIB


def test_domains_of_others_are_neither_shown_nor_touched(bench: Bench) -> None:
    connection = bench.library.open("")
    connection.defineXML("<domain><name>theirs</name><uuid>00000000-0000-0000-0000-000000000001</uuid></domain>")
    bench.libvirt.calls.clear()
    assert gather(bench.platform(), ["vm"]) == {"vms": []}
    assert bench.apply({"vms": []}, exact=["vm"])["changed"] is False
    assert "has not made" in bench.problems({"vms": [web(name="theirs")]})[0]


def test_pruning_spares_what_runs(bench: Bench) -> None:
    bench.apply({"vms": [web(), web(name="web2", power="stopped")]})
    result = bench.apply({"vms": []}, exact=["vm"])
    assert sorted(bench.libvirt.domains) == ["web1"]
    assert result["warnings"] == ["vm['web1'] is not listed and was kept, since it is running"]


def test_a_template_that_linked_clones_need_cannot_go(bench: Bench) -> None:
    bench.apply({"vms": [web(), web(name="web2", clone="full")]})
    bench.libvirt.calls.clear()
    gone = {"templates": [{"name": "tiny", "state": "absent"}]}
    assert bench.problems(gone) == [
        "template['tiny']: cannot go, since the disks of these VMs are linked clones of it: web1"
    ]
    bench.apply({**gone, "vms": [{"name": "web1", "state": "absent"}]}, shutdown_timeout=0)
    assert not os.path.exists(bench.where.template_image("tiny"))


def test_disks_that_were_kept_hold_their_template(bench: Bench) -> None:
    bench.apply({"vms": [web()]})
    bench.apply({"vms": [{"name": "web1", "state": "absent"}]}, delete_disks=False)
    bench.libvirt.calls.clear()
    assert "linked clones of it: web1" in bench.problems({"templates": [{"name": "tiny", "state": "absent"}]})[0]


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"name": "../etc"}, "vm['../etc'].name: '../etc' is no name that a KVM host can hold"),
        ({"name": "a/b"}, "is no name that a KVM host can hold"),
        ({"name": "$(reboot)"}, "is no name that a KVM host can hold"),
        ({"name": "a,b"}, "is no name that a KVM host can hold"),
        ({"name": "x" * 101}, "is no name that a KVM host can hold"),
        ({"memory": {"size": 9000}}, "vm['web1'].memory.size: 9000 MiB is more than the host's 8192 MiB"),
        ({"cpu": {"pinning": "2-5"}}, "vm['web1'].cpu.pinning: the host has no core 4; it has 0-3"),
        ({"cpu": {"shares": 20000}}, "vm['web1'].cpu.shares: 20000 is more than 10000"),
        ({"cpu": {"nested": True}}, "vm['web1'].cpu.nested: the host does not let its guests run VMs"),
        ({"cpu": {"reservation": 50}}, "vm['web1'].cpu.reservation: platform kvm cannot do this (capability vm.cpu.reservation)"),
        ({"memory": {"size": 128, "minimum": 64}}, "(capability vm.memory.ballooning)"),
        ({"memory": {"size": 128, "reservation": 64}}, "vm['web1'].memory.reservation: 64 MiB is not allowed; allowed is 0 or the VM's whole size, 128 MiB"),
        ({"memory": {"size": 128, "hugepages": True}}, "vm['web1'].memory.hugepages: 128 MiB of huge pages are needed for what this task starts, and 64 MiB are free"),
        ({"nics": [{"name": "eth0", "network": "a", "bandwidth": {"inbound": {"average": 100}}}]}, "vm['web1'].nics['eth0'].bandwidth.inbound.average: 100 kbit/s is not allowed; allowed is a multiple of 8"),
        ({"nics": [{"name": "eth0", "network": "a", "bandwidth": {"outbound": {"average": 80, "peak": 160}}}]}, "vm['web1'].nics['eth0'].bandwidth.outbound.peak: is not allowed; allowed are average and burst"),
        ({"cdrom": "/nowhere.iso"}, "vm['web1'].cdrom: '/nowhere.iso' cannot be read on the host: No such file or directory"),
        ({"cdrom": "/etc"}, "vm['web1'].cdrom: '/etc' is no regular file on the host"),
        ({"cdrom": "/etc/passwd"}, "vm['web1'].cdrom: '/etc/passwd' is no image of a CD or DVD"),
        ({"cdrom": "x.iso"}, "vm['web1'].cdrom: 'x.iso' is no path that a VM can be given"),
        ({"cdrom": "/srv/*.iso"}, "vm['web1'].cdrom: '/srv/*.iso' is no path that a VM can be given"),
        ({"description": "a\rb"}, "vm['web1'].description: has a carriage return"),
        ({"disks": [{"name": "root", "size": 4}]}, "vm['web1'].disks['root'].size: 4 MiB is less than the 8 MiB of template 'tiny'"),
        ({"disks": [{"name": "root", "provisioning": "thick"}]}, "'thick' goes with clone: full"),
        ({"template": None, "clone": "full", "disks": []}, "vm['web1'].clone: goes with a template"),
        ({"template": None, "guest": {}, "disks": []}, "vm['web1'].guest: goes with a template"),
        ({"template": "bare", "guest": {}}, "vm['web1'].guest: template 'bare' says customization: none"),
        ({"disks": [{"name": "root", "bus": "nvme"}]}, "platform kvm cannot do 'nvme'; it can do sata, scsi, virtio"),
        ({"nics": [{"name": "eth0", "network": "nowhere"}]}, "there is no virtual network 'nowhere'"),
        ({"clone": "full", "disks": [{"name": "root"}, {"name": "big", "size": "900 TiB", "provisioning": "thick"}]}, "are"),
    ],
)  # fmt: skip
def test_what_the_host_cannot_have_is_refused_before_anything_is_made(
    bench: Bench, fields: dict[str, Any], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vm_module, "free_hugepages", lambda: 64)
    bench.add_template("bare", 8, customization="none")
    if "size" in str(fields.get("disks")) and "TiB" in str(fields):
        fields = {**fields, "disks": [{"name": "root"}, {"name": "big", "size": "60 TiB", "provisioning": "thick"}]}
        problem = "MiB left"
    found = bench.problems({"vms": [web(**fields)]})
    assert any(problem in text for text in found), found
    assert not os.path.exists(bench.where.images)


@pytest.mark.parametrize("name", ["web1", "Wéb 1", "a.b_c+d-e", "x" * 100, "数据库"])
def test_names_of_letters_digits_and_little_else_are_held(name: str) -> None:
    assert name_problem(name) is None


@pytest.mark.parametrize(
    "name", ["", ".", ".hidden", "-v", " x", "a\nb", "a\0b", "a'b", 'a"b', "a\\b", "a;b", "a\u202eb", "a*", "é" * 60]
)
def test_other_names_are_not(name: str) -> None:
    assert name_problem(name) is not None


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"disks": [{"name": "root", "size": 8}]}, "disks['root'].size: 8 MiB is less than the 16 MiB; a disk can only grow"),
        ({"disks": [{"name": "data"}]}, "disks: the first disk 'root' cannot be detached"),
        ({"disks": [{"name": "root"}, {"name": "more"}, {"name": "data"}]}, "are in the order root, data, more"),
        ({"nics": [{"name": "new", "network": "a"}, {"name": "eth0", "network": "a"}]}, "new ones come after those that are there: eth0"),
    ],
)  # fmt: skip
def test_what_a_vm_cannot_become_is_refused(bench: Bench, fields: dict[str, Any], problem: str) -> None:
    disks = [{"name": "root", "size": 16}, {"name": "data", "size": 4}, {"name": "more", "size": 4}]
    bench.apply({"vms": [web(disks=disks, nics=[{"name": "eth0", "network": "a"}])]})
    bench.libvirt.calls.clear()
    assert any(problem in text for text in bench.problems({"vms": [{"name": "web1", **fields}]}))


def test_a_guest_that_ignores_its_power_button_makes_the_task_fail(bench: Bench) -> None:
    bench.apply({"vms": [web()]})
    bench.libvirt.domains["web1"].ignores_shutdown = True
    with pytest.raises(ApplyError, match="'web1' has not shut down within 1 s and is running"):
        bench.apply({"vms": [{"name": "web1", "power": "stopped"}]}, shutdown_timeout=1)
    assert "destroy web1" not in bench.libvirt.calls
    bench.apply({"vms": [{"name": "web1", "power": "stopped"}]}, shutdown_timeout=1, force_off=True)
    assert bench.libvirt.calls[-1] == "destroy web1"


@pytest.mark.parametrize("steps", [["suspended", "running", "stopped", "suspended", "stopped", "running"]])
def test_power_goes_from_each_state_to_each(bench: Bench, steps: list[str]) -> None:
    bench.apply({"vms": [web()]})
    for power in steps:
        assert bench.apply({"vms": [{"name": "web1", "power": power}]})["changed"] is True
        assert bench.apply({"vms": [{"name": "web1", "power": power}]})["changed"] is False


def _vm(**fields: Any) -> Any:
    return domain_xml.Vm.parse({"name": "web1", "memory": {"size": 128}, **fields}).complete(None)


PORTS = "".join(f"<controller type='pci' index='{n}' model='pcie-root-port'/>" for n in range(1, 4))
LIVE = f"<domain><vcpu current='1'>2</vcpu><devices>{PORTS}</devices></domain>"


@pytest.mark.parametrize(
    ("before", "after", "reasons"),
    [
        ({}, {"cpu": {"count": 2}}, []),
        ({}, {"cpu": {"count": 3}}, ["cpu.count"]),
        ({"cpu": {"count": 2}}, {"cpu": {"count": 1}}, ["cpu.count"]),
        ({}, {"cpu": {"shares": 50, "limit": 10, "pinning": "0"}}, []),
        ({}, {"cpu": {"model": "host", "nested": True}}, ["cpu.model", "cpu.nested"]),
        ({}, {"memory": {"size": 256}}, ["memory.size"]),
        ({}, {"memory": {"size": 128, "reservation": 128, "hugepages": True}}, ["memory.hugepages", "memory.reservation"]),
        ({}, {"memory": {"size": 128, "limit": 100}, "tags": ["a"]}, []),
        ({}, {"cdrom": "/srv/a.iso"}, ["cdrom"]),
        ({"cdrom": "/srv/a.iso"}, {"cdrom": ""}, []),
        ({"nics": [{"name": "n", "network": "a"}]}, {"nics": [{"name": "n", "network": "a", "bandwidth": {"outbound": {"average": 8}}}]}, []),
        ({}, {"tpm": True, "boot_order": ["network"]}, ["tpm", "boot_order"]),
        ({}, {"description": "x", "autostart": True}, []),
        ({}, {"disks": [{"name": "a", "size": 1}, {"name": "b", "size": 1, "bus": "scsi"}]}, []),
        ({}, {"disks": [{"name": "a", "size": 1, "bus": "sata"}]}, ["disks['a']"]),
        ({"disks": [{"name": "a", "size": 1}]}, {"disks": [{"name": "a", "size": 2, "limits": {"read_iops": 5}}]}, []),
        ({"disks": [{"name": "a", "size": 1}]}, {"disks": [{"name": "a", "size": 1, "cache": "none"}]}, ["disks['a'].cache"]),
        ({"disks": [{"name": "a", "size": 1, "bus": "sata"}]}, {"disks": []}, ["disks['a']"]),
        ({}, {"nics": [{"name": "n", "network": "a"}]}, []),
        ({}, {"nics": [{"name": "n", "network": "a", "addresses": ["192.0.2.1/24"]}]}, ["nics['n'].addresses"]),
        ({"nics": [{"name": "n", "network": "a"}]}, {"nics": [{"name": "n", "network": "b", "connected": False}]}, []),
        ({"nics": [{"name": "n", "network": "a"}]}, {"nics": [{"name": "n", "network": "a", "model": "e1000"}]}, ["nics['n'].model"]),
        (
            {},
            {"disks": [{"name": f"d{n}", "size": 1} for n in range(4)]},
            ["disks and nics that are added: the VM has no more free PCI Express ports"],
        ),
    ],
)  # fmt: skip
def test_what_needs_the_vm_off(before: dict[str, Any], after: dict[str, Any], reasons: list[str]) -> None:
    assert list(reasons_for_restart(_vm(**before), _vm(**after), LIVE)) == reasons


def test_a_running_vm_is_not_stopped_without_leave(bench: Bench) -> None:
    bench.apply({"vms": [web()]})
    bench.libvirt.calls.clear()
    assert "allow_restart" in bench.problems({"vms": [{"name": "web1", "memory": {"size": 256}}]})[0]
    result = bench.apply({"vms": [{"name": "web1", "memory": {"size": 256}}]}, allow_restart=True)
    assert result["changes"][0]["needs"] == ["power_cycle"]
    assert [call.split()[0] for call in bench.libvirt.calls] == ["shutdown", "define", "defined", "start", "started"]


@pytest.mark.parametrize("step", ["define web1", "defined web1", "start web1"])
def test_a_vm_that_a_killed_run_had_stopped_for_a_change_runs_again(bench: Bench, step: str) -> None:
    bench.apply({"vms": [web()]})
    change = {"vms": [{"name": "web1", "memory": {"size": 256}}]}
    bench.libvirt.kill_at = step
    with pytest.raises(Killed):
        bench.apply(change, allow_restart=True)
    assert not bench.libvirt.domains["web1"].isActive()
    bench.libvirt.kill_at = None
    bench.apply(change, allow_restart=True)
    assert bench.libvirt.domains["web1"].isActive()
    assert bench.apply(change)["changed"] is False
    assert bench.files() == ["web1/root.qcow2", "web1/seed.iso"]


def test_qemu_can_pass_to_the_disks_whatever_the_umask(bench: Bench) -> None:
    old = os.umask(0o077)
    try:
        bench.apply({"vms": [web()]})
    finally:
        os.umask(old)
    for path in (bench.where.images, bench.where.vm("web1")):
        assert os.stat(path).st_mode & 0o777 == 0o711
    assert os.stat(bench.where.disk("web1", "root")).st_mode & 0o777 == 0o600


def test_a_disk_smaller_than_a_template_of_the_same_document_is_refused(bench: Bench, tmp_path: Path) -> None:
    import hashlib

    image = tmp_path / "image.qcow2"
    disk_images.create(str(image), 64 * MIB)
    template = {
        "name": "large",
        "source": {"path": str(image)},
        "checksum": f"sha256:{hashlib.sha256(image.read_bytes()).hexdigest()}",
    }
    try:
        with pytest.raises(ApplyError, match="disk 'root' of 16 MiB is less than template 'large'"):
            bench.apply({"templates": [template], "vms": [web(template="large", disks=[{"name": "root", "size": 16}])]})
    finally:
        disk_images.set_immutable(bench.where.template_image("large"), False)
    assert bench.libvirt.domains == {}


def test_a_changed_address_is_told_by_the_seed(bench: Bench) -> None:
    from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm import cloud_init

    nic = {"name": "eth0", "network": "a", "addresses": ["192.0.2.5/24"]}
    bench.apply({"vms": [web(power="stopped", nics=[nic], guest={"user_data": "#!/bin/sh\ntrue\n"})]})
    before = cloud_init.read_seed(bench.where.seed("web1"))
    bench.apply({"vms": [{"name": "web1", "nics": [{**nic, "addresses": ["192.0.2.6/24"]}]}]})
    after = cloud_init.read_seed(bench.where.seed("web1"))
    assert b"192.0.2.6/24" in after["network-config"]
    assert b"192.0.2.5/24" not in after["network-config"]
    assert {name: after[name] for name in ("meta-data", "user-data")} == {
        name: before[name] for name in ("meta-data", "user-data")
    }


def test_what_someone_has_changed_for_the_next_start_is_told(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.apply({"vms": [web()]})
    domain = bench.libvirt.domains["web1"]
    changed = domain.xml.replace('<memory unit="MiB">128', '<memory unit="MiB">512')
    monkeypatch.setattr(domain, "XMLDesc", lambda flags=0: changed if flags else domain.xml)
    result = bench.apply({"vms": [web()]})
    assert result["changed"] is False
    assert "differs in memory" in result["warnings"][0]


def test_a_failing_first_disk_is_not_taken_for_a_vm(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: Any, **_options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk_images, "create", full)
    with pytest.raises(ApplyError, match=r"vm\['web1'\]\.disks\['root'\]: the directory .* is full: .* 8388608 bytes"):
        bench.apply({"vms": [web()]})
    assert bench.libvirt.domains == {}
    assert os.listdir(bench.where.images) == []


def test_what_was_read_is_complete(bench: Bench) -> None:
    bench.apply({"vms": [web()]})
    vm = bench.platform().read(["vm"])["vm"][("web1",)]
    able = KvmVms.CAPABILITIES
    fields = {name: entry.capability for name, entry in vm.options().items()}
    untold = [
        name
        for name, capability in fields.items()
        if getattr(vm, name) is None
        and (capability is None or capability in able or any(entry.startswith(capability[:-1]) for entry in able))
    ]
    # None says that there is none.
    assert untold == ["cdrom", "guest", "boot_order", "description"]


def test_huge_pages_are_counted_for_all_that_a_task_starts(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vm_module, "free_hugepages", lambda: 300)
    memory = {"size": 128, "hugepages": True}
    bench.apply({"vms": [web(memory=memory)]})
    bench.libvirt.calls.clear()
    vms = [web(name=f"web{number}", memory=memory) for number in (2, 3)]
    # Those of web1, which runs, are taken already.
    assert bench.apply({"vms": [web(memory=memory), *vms]}, check=True)["changed"] is True
    monkeypatch.setattr(vm_module, "free_hugepages", lambda: 200)
    assert [text.partition(",")[0] for text in bench.problems({"vms": [web(memory=memory), *vms]})] == [
        f"vm['web{number}'].memory.hugepages: 256 MiB of huge pages are needed for what this task starts"
        for number in (2, 3)
    ]
    bench.apply({"vms": [web(memory=memory), {**vms[0], "power": "stopped"}, {**vms[1], "power": "stopped"}]})


def test_variables_and_tpm_of_a_vm_do_not_outlive_it(bench: Bench) -> None:
    os.makedirs(bench.where.nvram)
    variables = Path(bench.where.variables("web1"))
    variables.write_text("left by a VM of this name")
    other = Path(bench.where.variables("web2"))
    other.write_text("of another VM")
    bench.apply({"vms": [web(power="stopped")]})
    assert not variables.exists()
    assert other.exists()
    # A TPM that was taken away keeps its state until the VM goes; libvirt would leave it lying around then.
    state = Path(bench.where.tpm_state(bench.libvirt.domains["web1"].UUIDString()))
    (state / "tpm2").mkdir(parents=True)
    bench.apply({"vms": [{"name": "web1", "description": "changed"}]})
    assert state.exists()
    bench.apply({"vms": [{"name": "web1", "state": "absent"}]})
    assert not state.exists()


def test_variables_are_made_anew_where_secure_boot_is_switched(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vm_module, "OVMF", bench.where.templates)
    os.makedirs(bench.where.nvram)
    bench.apply({"vms": [web(firmware="uefi", power="stopped")]})
    variables = Path(bench.where.variables("web1"))
    variables.write_text("without keys")
    bench.apply({"vms": [{"name": "web1", "description": "changed"}]})
    assert variables.exists()
    # libvirt says where they lie only once the VM has been started.
    bench.apply({"vms": [{"name": "web1", "secure_boot": True}]})
    assert not variables.exists()


class PortAcls(Interface):
    """Filters of ports that only say when they were asked to follow."""

    KINDS = ("port_acl",)
    CAPABILITIES = frozenset({"port_acl"})

    def __init__(self, calls: list[str]) -> None:
        self.calls = calls

    def read(self, kinds: Any, names: Any) -> Any:
        return {"port_acl": {}}

    def recover(self) -> None:
        return None

    def prepare(self, vm: Any, context: Any) -> None:
        self.calls.append(f"prepare {vm.name}")

    def refresh(self, vms: Any) -> None:
        self.calls.extend(f"refresh {name}" for name in sorted(vms))


def test_a_vm_that_is_off_starts_with_a_filter_for_its_new_mac_address(bench: Bench) -> None:
    nic = {"name": "eth0", "network": "a"}
    bench.apply({"vms": [web(power="stopped", nics=[nic])]})
    platform = bench.platform()
    bench.libvirt.calls.clear()
    platform.interfaces = (*platform.interfaces, PortAcls(bench.libvirt.calls))
    change = {"vms": [{"name": "web1", "power": "running", "nics": [{**nic, "mac": "52:54:00:00:00:aa"}]}]}
    run(platform, Request(Document.parse(change, ()), Operation.parse({}), False))
    assert [call for call in bench.libvirt.calls if not call.endswith("ed web1")] == [
        "prepare web1",
        "define web1",
        "refresh web1",
        "start web1",
    ]
