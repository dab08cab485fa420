# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Backups and restores of VMs that are off: real images and QEMU's own tools, on a libvirt in memory.

What a guest sees that runs meanwhile is shown on a real host.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.boundary.definitions import MODULES
from ansible_collections.bareforge.hypervisor.plugins.module_utils.boundary.result import perform
from ansible_collections.bareforge.hypervisor.plugins.module_utils.engine.platform import Interface, Platform
from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import ApplyError, ReadError, ValidateError
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.compute import Template
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.network import VirtualNetwork
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm import (
    backup,
    block_copy,
    cloud_init,
    disk_images,
    domain_xml,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.backup import KvmBackups
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.backup_catalogue import Target
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.domain_xml import Host as KvmHost
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.file_names import Directories
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.template import (
    KvmTemplates,
    prepare,
    write_description,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.vm import KvmVms
from ansible_collections.bareforge.hypervisor.plugins.module_utils.transports import libvirt as session
from support.libvirt_in_memory import Host, Killed, Library

MIB = 1024 * 1024
WEB = {
    "name": "web1",
    "template": "tiny",
    "memory": {"size": 128},
    "power": "stopped",
    "disks": [{"name": "root"}, {"name": "data", "size": 4}],
    "nics": [{"name": "eth0", "network": "a", "addresses": ["192.0.2.5/24"]}],
    "guest": {"users": [{"name": "ann"}]},
}


class Networks(Interface):
    """A network that is always there."""

    KINDS = ("virtual_network",)
    CAPABILITIES = frozenset({"virtual_network"})
    names = ("a",)

    def __init__(self, platform: Any) -> None:
        self.platform = platform

    def read(self, kinds: Any, names: Any) -> Any:
        items = [VirtualNetwork(name=name, switch="br0").complete(None) for name in self.names]
        return {"virtual_network": {item.key: item for item in items}}


class Bench:
    """A host in a folder, with a VM that is off."""

    def __init__(self, folder: Path) -> None:
        self.where = Directories(
            templates=str(folder / "bareforge" / "templates"),
            images=str(folder / "images"),
            consoles=str(folder / "consoles"),
            nvram=str(folder / "nvram"),
            tpms=str(folder / "tpms"),
            backups=str(folder / "bareforge" / "backups"),
        )
        self.target = str(folder / "target")
        self.libvirt = Host()
        self.library = Library(self.libvirt)
        prepare(self.where)
        disk_images.create(self.where.template_image("tiny"), 8 * MIB)
        write_description(self.where, Template(name="tiny").complete(None))

    def platform(self) -> Platform:
        bench = self

        class Recovering(Platform):
            NAME = "kvm"
            INTERFACES = (Networks, KvmTemplates, KvmVms, KvmBackups)

            def recover(self) -> None:
                for interface in self.interfaces[1:]:
                    interface.recover()

        platform = Recovering()
        for interface in platform.interfaces[1:]:
            interface.where = bench.where
        platform.owner("vm")._host = KvmHost(processors=(0, 1), memory=8192)
        return platform

    def task(self, module: str, check: bool = False, **arguments: Any) -> Any:
        definition = MODULES[module]
        return perform(definition, self.platform(), definition.parse(arguments), check)

    def backup(self, name: str, check: bool = False, **fields: Any) -> Any:
        return self.task("vm_backup", check, vm="web1", name=name, **{"target": self.target, **fields})

    def restore(self, name: str, check: bool = False, **fields: Any) -> Any:
        return self.task("vm_restore", check, vm="web1", name=name, **fields)

    def write(self, number: int, vm: str = "web1", disk: str = "root") -> None:
        io(self.where.disk(vm, disk), f"write -P {number} {number}M 64k")

    def holds(self, number: int, vm: str = "web1", disk: str = "root") -> bool:
        return "Pattern verification failed" not in io(
            self.where.disk(vm, disk), f"read -P {number} {number}M 64k", check=False
        )

    def names(self) -> list[str]:
        return [entry["name"] for entry in self.task("vm_backup", state="gathered")["backups"]]

    def left(self) -> list[str]:
        """What is in target and state that belongs to no whole backup."""
        paths = [*Path(self.target).rglob(".*"), *Path(self.where.backups).rglob("*.job.json")]
        return sorted(str(path) for path in paths if path.name != ".bareforge-backups.json")

    def bitmaps(self, disk: str = "root") -> list[str]:
        return sorted(block_copy.bitmaps(self.where.disk("web1", disk)))


def io(path: str, command: str, check: bool = True) -> str:
    done = subprocess.run(["qemu-io", "-f", "qcow2", "-c", command, path], check=check, capture_output=True, text=True)
    return done.stdout + done.stderr


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    # QEMU's user passes through what pytest makes for one user only.
    monkeypatch.setattr(backup, "_with_parents", lambda path: [path])
    tmp_path.chmod(0o711)
    made = Bench(tmp_path)
    monkeypatch.setitem(sys.modules, "libvirt", made.library)  # type: ignore[arg-type]
    session.close()
    made.task("vm", **WEB)
    yield made
    session.close()


def problems(error: pytest.ExceptionInfo[ValidateError]) -> str:
    return " ".join(str(problem) for problem in error.value.problems)


def test_a_backup_is_planned_made_read_and_not_made_again(bench: Bench) -> None:
    planned = bench.backup("first", check=True)
    assert not os.path.exists(bench.target)
    assert bench.backup("first")["changes"] == planned["changes"]
    assert bench.backup("first")["changed"] is False
    assert bench.names() == ["first"]
    assert bench.left() == []
    (told,) = bench.task("vm_backup", state="gathered")["catalogue"]
    assert (told["vm"], told["mode"], told["parent"]) == ("web1", "full", None)
    assert [disk["name"] for disk in told["disks"]] == ["root", "data"]
    assert told["tools"] == {"libvirt": "9.0.0", "qemu": "7.2.22"}
    document = {"backups": bench.task("vm_backup", state="gathered")["backups"]}
    assert bench.task("vm_backup", **document)["changed"] is False
    (mark,) = bench.libvirt.domains["web1"].checkpoints
    assert bench.bitmaps("root") == bench.bitmaps("data") == [mark]


def test_every_point_of_a_chain_comes_back(bench: Bench) -> None:
    for number, (name, mode) in enumerate((("one", "full"), ("two", "incremental"), ("three", "incremental")), 1):
        bench.write(number)
        bench.backup(name, mode=mode)
    bench.write(4)
    bench.write(3, disk="data")
    # Only what has changed since the last one has to be noted.
    assert len(bench.bitmaps()) == 1
    for number, name in enumerate(("one", "two", "three"), 1):
        assert bench.restore(name, new_name=f"copy-{name}")["changed"] is True
        assert bench.restore(name, new_name=f"copy-{name}")["changed"] is False
        found = [bench.holds(wanted, f"copy-{name}") for wanted in (1, 2, 3, 4)]
        assert found == [wanted <= number for wanted in (1, 2, 3, 4)]
        assert not bench.holds(3, f"copy-{name}", "data")
    assert bench.holds(4)


def test_a_copy_is_another_vm(bench: Bench) -> None:
    bench.backup("first")
    bench.restore("first", new_name="copy")
    vms = {vm["name"]: vm for vm in bench.task("vm", state="gathered")["vms"]}
    assert vms["copy"]["nics"][0]["mac"] != vms["web1"]["nics"][0]["mac"]
    assert vms["copy"]["power"] == "stopped"
    left, right = bench.libvirt.domains["web1"], bench.libvirt.domains["copy"]
    assert left.UUIDString() != right.UUIDString()
    assert "web1" not in right.XMLDesc().replace('name": "web1', "")
    seeds = [cloud_init.read_seed(bench.where.seed(name)) for name in ("web1", "copy")]
    instances = [json.loads(seed["meta-data"])["instance-id"] for seed in seeds]
    assert instances[0] != instances[1]
    assert vms["copy"]["nics"][0]["mac"] in seeds[1]["network-config"].decode()
    assert seeds[0]["user-data"] == seeds[1]["user-data"]
    # The addresses that the guest was given are those of the first, which both can be told apart by from here on.
    assert [vms[name]["nics"][0].get("addresses", []) for name in ("web1", "copy")] == [["192.0.2.5/24"], []]
    assert b"192.0.2.5" not in seeds[1]["network-config"]
    for name in ("web1", "copy"):
        assert bench.task("vm", name=name, memory={"size": 128}, template="tiny")["changed"] is False


def test_in_place_the_vm_is_as_it_was(bench: Bench) -> None:
    bench.write(1)
    bench.backup("first")
    bench.write(2)
    bench.task("vm", name="web1", memory={"size": 256})
    before = bench.restore("first", check=True)
    assert bench.holds(2)
    assert (
        bench.restore("first")["changes"]
        == before["changes"]
        == [{"kind": "vm", "key": "web1", "action": "restore", "fields": []}]
    )
    assert (bench.holds(1), bench.holds(2)) == (True, False)
    (vm,) = bench.task("vm", state="gathered")["vms"]
    assert vm["memory"]["size"] == 128
    assert sorted(os.listdir(bench.where.vm("web1"))) == ["data.qcow2", "root.qcow2", "seed.iso"]
    # What was noted of the old disks says nothing of the new ones.
    with pytest.raises(ValidateError, match="was not noted"):
        bench.backup("second", mode="incremental")
    assert bench.restore("first")["changed"] is True


def test_a_vm_that_is_gone_is_made_anew(bench: Bench) -> None:
    bench.write(1)
    bench.task("vm", name="web1", autostart=True)
    bench.backup("first")
    bench.task("vm", name="web1", state="absent")
    assert bench.names() == ["first"]
    (change,) = bench.restore("first")["changes"]
    assert change["action"] == "create"
    assert bench.holds(1)
    assert bench.libvirt.domains["web1"].autostart()
    bench.restore("first", new_name="copy")
    assert not bench.libvirt.domains["copy"].autostart()


@pytest.mark.parametrize("running", [True, False])
def test_a_running_vm_is_stopped_only_where_that_is_allowed(bench: Bench, running: bool) -> None:
    bench.write(1)
    bench.backup("first")
    bench.task("vm", name="web1", power="running")
    with pytest.raises(ValidateError, match="VM 'web1' is running; allowed with allow_restart: true"):
        bench.restore("first")
    bench.restore("first", allow_restart=True, power=None if running else "stopped")
    assert bench.libvirt.domains["web1"].isActive() is running


def test_a_damaged_backup_is_refused_by_the_name_of_its_file(bench: Bench) -> None:
    bench.backup("first")
    bench.write(1)
    bench.backup("second", mode="incremental")
    path = Path(Target(bench.target).folder("web1", "first")) / "data.qcow2"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    calls = list(bench.libvirt.calls)
    for fields in ({}, {"new_name": "copy"}):
        with pytest.raises(ValidateError, match=f"cannot be restored: {path} has changed"):
            bench.restore("second", **fields)
    path.unlink()
    with pytest.raises(ValidateError, match=f"the backup before, 'second', is not whole: {path} cannot be read"):
        bench.backup("third", mode="incremental")
    assert bench.libvirt.calls == calls


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"target": "relative"}, "target: 'relative' is not allowed"),
        ({"target": "/srv/a b"}, "allowed is an absolute path of letters, digits"),
        ({"target": "/nowhere/at/all"}, "there is no directory /nowhere/at; only the last part of the path is made"),
        ({"target": "/etc/passwd"}, "/etc/passwd is no directory"),
        ({"name": "../x"}, "is no name that a KVM host can hold"),
        ({"mode": "incremental"}, "mode: VM 'web1' has no backup in .* that it could build on; allowed is mode: full"),
        ({"vm": "never"}, "vm: there is no vm 'never'"),
    ],
)
def test_what_cannot_be_is_refused(bench: Bench, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidateError, match=message):
        bench.task("vm_backup", **{"vm": "web1", "name": "first", "target": bench.target, **fields})
    assert not os.path.exists(bench.target)


def test_a_target_that_qemu_cannot_pass_through_is_refused(bench: Bench) -> None:
    os.mkdir(bench.target, 0o700)
    with pytest.raises(ValidateError, match=f"{bench.target} cannot be passed through by the user that QEMU runs as"):
        bench.backup("first")


def test_a_target_without_room_is_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_images, "free_bytes", lambda _path: 100_000)
    bench.write(1)
    with pytest.raises(ValidateError, match=r"1 MiB are needed in .*, and there are 0 MiB left"):
        bench.backup("first")


def test_a_target_that_is_not_mounted_gets_no_second_catalogue(bench: Bench) -> None:
    bench.backup("first")
    os.rename(bench.target, f"{bench.target}.unmounted")
    os.mkdir(bench.target, 0o711)
    with pytest.raises(ValidateError, match="held a catalogue of backups that is not there now; is its file system"):
        bench.backup("second")
    assert os.listdir(bench.target) == []
    assert bench.names() == []
    os.rmdir(bench.target)
    os.rename(f"{bench.target}.unmounted", bench.target)
    assert bench.names() == ["first"]


def test_a_catalogue_that_the_host_does_not_know_is_found_by_its_target(bench: Bench) -> None:
    bench.write(1)
    bench.backup("first")
    os.unlink(f"{bench.where.backups}/targets.json")
    assert bench.names() == []
    assert bench.task("vm_backup", target=bench.target, state="gathered")["backups"][0]["name"] == "first"
    assert bench.backup("first")["changed"] is False
    with pytest.raises(ValidateError, match="VM 'web1' has no backup 'first'; there are: none"):
        bench.restore("first", new_name="copy")
    bench.restore("first", new_name="copy", target=bench.target)
    assert bench.holds(1, "copy")


def test_backups_of_one_name_in_two_targets_have_to_be_told_apart(bench: Bench, tmp_path: Path) -> None:
    bench.backup("first")
    other = str(tmp_path / "other")
    subprocess.run(["cp", "-a", bench.target, other], check=True)
    platform = bench.platform()
    platform.owner("backup").known.add(other, "x")
    with pytest.raises(ReadError, match=f"backup 'first' of VM 'web1' is in {other} and in {bench.target}"):
        bench.names()
    assert bench.task("vm_backup", target=other, state="gathered")["backups"][0]["target"] == other


def test_an_entry_that_is_damaged_keeps_nobody_from_removing_the_vm(bench: Bench) -> None:
    bench.backup("first")
    path = Path(Target(bench.target).folder("web1", "first")) / "backup.json"
    path.write_text("{", "utf-8")
    with pytest.raises(ReadError, match=f"{path} holds no JSON"):
        bench.names()
    with pytest.raises(ReadError, match=f"{path} holds no JSON"):
        bench.backup("second")
    assert bench.task("vm", name="web1", state="absent")["changed"] is True


def test_a_parent_cannot_go(bench: Bench) -> None:
    bench.backup("first")
    bench.backup("second", mode="incremental")
    with pytest.raises(ValidateError, match="cannot go, since the incremental backup 'second' builds on it"):
        bench.backup("first", state="absent")
    bench.task("vm_backup", backups=[{"vm": "web1", "name": name} for name in ("first", "second")], state="absent")
    assert bench.names() == []
    assert bench.bitmaps() == []


def test_only_the_last_ones_are_kept(bench: Bench) -> None:
    bench.backup("full1")
    bench.backup("inc1", mode="incremental")
    assert bench.backup("full2", keep=2)["changes"] == [
        {"kind": "backup", "key": "web1/full2", "action": "create", "fields": ["target", "mode", "quiesce"]}
    ]
    planned = bench.backup("full3", check=True, keep=2)
    assert bench.backup("full3", keep=2)["changes"] == planned["changes"]
    assert [change["action"] for change in planned["changes"]] == ["create", "delete", "delete"]
    assert bench.names() == ["full2", "full3"]
    assert bench.backup("full3", keep=2)["changed"] is False


def test_a_disk_that_was_added_is_copied_whole(bench: Bench) -> None:
    bench.backup("first")
    bench.task("vm", name="web1", disks=[*WEB["disks"], {"name": "new", "size": 4}])  # type: ignore[misc]
    bench.write(2, disk="new")
    bench.write(1)
    bench.backup("second", mode="incremental")
    bench.restore("second", new_name="copy")
    assert bench.holds(2, "copy", "new")
    assert bench.holds(1, "copy")


def test_a_disk_that_has_grown_comes_back_in_its_size(bench: Bench) -> None:
    bench.backup("first")
    bench.task("vm", name="web1", disks=[{"name": "root"}, {"name": "data", "size": 12}])
    bench.write(10, disk="data")
    bench.backup("second", mode="incremental")
    bench.restore("second", new_name="copy")
    assert bench.holds(10, "copy", "data")
    (vm,) = [item for item in bench.task("vm", state="gathered")["vms"] if item["name"] == "copy"]
    assert vm["disks"][1]["size"] == 12


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "web1/data.qcow2",
            "pool/web1.data.qcow2",
            "disk 'data' of VM 'web1' lies in .*/pool/web1.data.qcow2; allowed are",
        ),
        ("ua-DISK-data", "ua-else", "VM 'web1' has the disk 'vdb', which is no qcow2 file and would be left out"),
    ],
)
def test_a_disk_that_would_be_left_out_is_told(bench: Bench, old: str, new: str, message: str) -> None:
    domain = bench.libvirt.domains["web1"]
    os.mkdir(f"{bench.where.images}/pool")
    disk_images.create(f"{bench.where.images}/pool/web1.data.qcow2", 4 * MIB)
    domain.xml = domain.xml.replace(old, new)
    with pytest.raises(ValidateError, match=message):
        bench.backup("first")


def test_beside_snapshots_nothing_is_noted(bench: Bench) -> None:
    bench.libvirt.domains["web1"].snapshots = ["before"]
    result = bench.backup("first")
    assert "has snapshots, so no incremental backup can build on this one" in result["warnings"][0]
    assert bench.bitmaps() == []
    with pytest.raises(ValidateError, match=r"was not noted: .*\(a snapshot has been taken since\)"):
        bench.backup("second", mode="incremental")
    with pytest.raises(ValidateError, match="has snapshots, which lie in the disks that go: before"):
        bench.restore("first")


def test_what_breaks_off_leaves_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.backup("first")
    before = bench.bitmaps()
    bench.libvirt.fail_at = "checkpoint web1"
    with pytest.raises(ApplyError, match=r"backup\['web1/second'\]: internal error: checkpoint web1"):
        bench.backup("second")
    assert bench.left() == []
    assert bench.bitmaps() == before
    bench.libvirt.fail_at = None
    monkeypatch.setattr(backup, "checksum", lambda _path: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        bench.backup("second")
    assert bench.left() == []
    assert bench.bitmaps() == before
    monkeypatch.undo()
    bench.write(1)


@pytest.mark.parametrize("step", ["checkpoint web1", "checkpointed web1", "finish", "settle"])
def test_a_run_that_was_killed_is_cleared_away_or_finished(bench: Bench, step: str) -> None:
    bench.write(1)
    bench.backup("first")
    before = bench.bitmaps()
    bench.write(2)
    with pytest.MonkeyPatch.context() as patch:
        # What a kill leaves: no clean-up runs after it.
        patch.setattr(KvmBackups, "abandon", lambda *_arguments: None)
        if step == "finish":
            patch.setattr(Target, "finish", _killed)
        elif step == "settle":
            patch.setattr(KvmBackups, "settle", _killed)
        else:
            bench.libvirt.kill_at = step
        with pytest.raises(Killed):
            bench.backup("second", mode="incremental")
    bench.libvirt.kill_at = None
    assert bench.left() != []
    assert bench.names() == (["first", "second"] if step == "settle" else ["first"])
    # Whatever task comes next clears it away.
    bench.task("vm", name="web1")
    assert bench.left() == []
    if step == "settle":
        assert bench.bitmaps() != before
    else:
        assert bench.bitmaps() == before
        assert bench.backup("second", mode="incremental")["changed"] is True
    bench.restore("second", new_name="copy")
    assert (bench.holds(1, "copy"), bench.holds(2, "copy")) == (True, True)
    assert len(bench.bitmaps()) == 1


def _killed(*_arguments: Any, **_options: Any) -> None:
    raise Killed


@pytest.mark.parametrize("step", ["rename", "remove"])
def test_a_removal_that_was_killed_is_finished(bench: Bench, step: str) -> None:
    bench.backup("first")
    with pytest.MonkeyPatch.context() as patch:
        if step == "rename":
            patch.setattr(Target, "remove", _killed)
        else:
            patch.setattr("shutil.rmtree", lambda path, **_options: None if _options else _killed())
        with pytest.raises(Killed):
            bench.backup("first", state="absent")
    bench.task("vm", name="web1")
    assert bench.names() == []
    assert bench.left() == []
    assert bench.bitmaps() == []


class Renames:
    """Counts what is renamed, and ends everything at one of them."""

    def __init__(self, folder: str, kill_at: int) -> None:
        self.folder, self.left, self.rename = folder, kill_at, os.rename

    def __call__(self, source: str, target: str) -> None:
        if str(source).startswith(self.folder) and not str(source).endswith(".partial"):
            if self.left == 0:
                raise Killed
            self.left -= 1
        self.rename(source, target)


@pytest.mark.parametrize("step", [0, 1, 2, 3, 4, 5])
def test_a_restore_in_place_that_was_killed_while_it_swaps_is_finished(bench: Bench, step: int) -> None:
    for disk in ("root", "data"):
        bench.write(1, disk=disk)
    bench.backup("first")
    for disk in ("root", "data"):
        bench.write(2, disk=disk)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "rename", Renames(bench.where.vm("web1"), step))
        with pytest.raises(Killed):
            bench.restore("first")
    bench.task("vm", name="web1")
    for disk in ("root", "data"):
        assert (bench.holds(1, disk=disk), bench.holds(2, disk=disk)) == (True, False)
    assert sorted(os.listdir(bench.where.vm("web1"))) == ["data.qcow2", "root.qcow2", "seed.iso"]
    assert bench.left() == []


def test_a_restore_in_place_that_was_killed_before_it_swaps_is_taken_back(bench: Bench) -> None:
    bench.backup("first")
    bench.write(2)
    bench.task("vm", name="web1", power="running")
    bench.libvirt.kill_at = "define web1"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backup.Restoring, "_take_back", lambda *_arguments: None)
        with pytest.raises(Killed):
            bench.restore("first", allow_restart=True, shutdown_timeout=1)
    bench.libvirt.kill_at = None
    # It was to be replaced, and nothing speaks against that now.
    bench.task("vm", name="web1")
    assert not bench.holds(2)
    assert bench.libvirt.domains["web1"].isActive()
    assert bench.left() == []


def test_a_description_that_libvirt_refuses_leaves_the_vm_as_it_was(bench: Bench) -> None:
    bench.backup("first")
    bench.write(2)
    bench.task("vm", name="web1", power="running")
    bench.libvirt.fail_at = "define web1"

    def once(name: str) -> None:
        bench.libvirt.calls.append(name)
        if name == bench.libvirt.fail_at:
            bench.libvirt.fail_at = None
            raise bench.library.libvirtError(f"internal error: {name}")

    bench.libvirt.step = once  # type: ignore[method-assign]
    with pytest.raises(ApplyError, match="internal error: define web1"):
        bench.restore("first", allow_restart=True)
    assert bench.holds(2)
    assert bench.libvirt.domains["web1"].isActive()
    assert sorted(os.listdir(bench.where.vm("web1"))) == ["data.qcow2", "root.qcow2", "seed.iso"]
    assert bench.left() == []


def test_a_copy_whose_making_was_killed_is_made_anew(bench: Bench) -> None:
    bench.write(1)
    bench.backup("first")
    bench.libvirt.kill_at = "defined copy"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shutil.rmtree", lambda *_arguments, **_options: None)
        with pytest.raises(Killed):
            bench.restore("first", new_name="copy")
    bench.libvirt.kill_at = None
    assert bench.restore("first", new_name="copy")["changed"] is True
    assert bench.holds(1, "copy")
    assert not os.path.exists(os.path.join(bench.where.vm("copy"), ".making"))


def test_what_firmware_and_tpm_keep_comes_back(bench: Bench) -> None:
    domain = bench.libvirt.domains["web1"]
    root = domain_xml.parse(domain.xml)
    system, devices = root.find("os"), root.find("devices")
    assert system is not None
    assert devices is not None
    variables = os.path.join(bench.where.nvram, "web1_VARS.fd")
    domain_xml._add(system, "nvram", variables, template="/usr/share/OVMF/OVMF_VARS_4M.fd")
    domain_xml._add(devices, "tpm", model="tpm-crb")
    domain.xml = domain_xml.to_text(root)
    state = Path(bench.where.tpms) / domain.UUIDString() / "tpm2"
    os.makedirs(bench.where.nvram)
    state.mkdir(parents=True)
    Path(variables).write_bytes(b"boot entries")
    (state / "tpm2-00.permall").write_bytes(b"keys")
    bench.backup("first")
    Path(variables).write_bytes(b"other entries")
    (state / "tpm2-00.permall").write_bytes(b"other keys")
    (state / "more").write_bytes(b"x")
    bench.restore("first", new_name="copy")
    copy = bench.libvirt.domains["copy"]
    assert Path(bench.where.nvram, "copy_VARS.fd").read_bytes() == b"boot entries"
    copied = Path(bench.where.tpms) / copy.UUIDString() / "tpm2" / "tpm2-00.permall"
    assert copied.read_bytes() == b"keys"
    bench.restore("first")
    assert Path(variables).read_bytes() == b"boot entries"
    assert [path.name for path in state.iterdir()] == ["tpm2-00.permall"]
    assert (state / "tpm2-00.permall").read_bytes() == b"keys"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"new_name": "web1"}, "new_name: there is a VM 'web1' already"),
        ({"new_name": "a/b"}, "new_name: 'a/b' is no name that a KVM host can hold"),
        ({"name": "never"}, "VM 'web1' has no backup 'never'; there are: 'first'"),
    ],
)
def test_what_cannot_be_restored_is_refused(bench: Bench, fields: dict[str, Any], message: str) -> None:
    bench.backup("first")
    with pytest.raises(ValidateError, match=message):
        bench.task("vm_restore", **{"vm": "web1", "name": "first", **fields})


def test_a_network_that_is_gone_is_told(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.backup("first")
    monkeypatch.setattr(Networks, "names", ("b",))
    with pytest.raises(ValidateError, match="NIC 'eth0' needs network 'a', which is not there"):
        bench.restore("first", new_name="copy")


XML = """<domain><devices>
  <disk type='file' device='disk'><driver type='qcow2'/><source file='/i/web1/root.qcow2'/><target dev='vda'/>
    <alias name='ua-DISK-root'/></disk>
  <disk type='file' device='cdrom'><driver type='raw'/><source file='/i/seed.iso'/><target dev='sda'/></disk>
  <disk type='block' device='disk'><driver type='raw'/><source dev='/dev/sdb'/><target dev='vdb'/></disk>
  <disk type='file' device='disk'><driver type='qcow2'/><source file='/x.qcow2'/><target dev='vdc'/></disk>
  <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0' state='%s'/></channel>
</devices></domain>"""


def test_disks_that_are_not_ours_are_told() -> None:
    found, foreign = backup.disks_of(XML % "connected")
    assert found == [backup.Source("root", "vda", "/i/web1/root.qcow2")]
    assert foreign == ["vdb", "vdc"]


def test_an_agent_that_is_connected_is_known() -> None:
    assert backup.has_agent(XML % "connected")
    assert not backup.has_agent(XML % "disconnected")
    assert not backup.has_agent("<domain><devices/></domain>")


def test_what_is_asked_of_libvirt() -> None:
    disks = [
        (backup.Source("root", "vda", "/i/root.qcow2"), "/t/root.qcow2"),
        (backup.Source("new", "vdb", "/i/new.qcow2"), "/t/new.qcow2"),
    ]
    assert backup.backup_xml(disks[:1], {}) == (
        '<domainbackup mode="push"><disks><disk name="vda" backup="yes" type="file"><target file="/t/root.qcow2" />'
        '<driver type="qcow2" /></disk></disks></domainbackup>'
    )
    assert backup.backup_xml(disks, {"root": "mark"}) == (
        '<domainbackup mode="push"><incremental>mark</incremental><disks><disk name="vda" backup="yes" type="file" '
        'backupmode="incremental" incremental="mark"><target file="/t/root.qcow2" /><driver type="qcow2" /></disk>'
        '<disk name="vdb" backup="yes" type="file" backupmode="full"><target file="/t/new.qcow2" />'
        '<driver type="qcow2" /></disk></disks></domainbackup>'
    )
