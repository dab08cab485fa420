# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Storage pools on a KVM host whose libvirt and LVM are in memory: plans, refusals, and runs that are killed half-way."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.engine.platform import Interface, Platform
from ansible_collections.bareforge.hypervisor.plugins.module_utils.engine.runner import Request, gather, run
from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import (
    ApplyError,
    NotSupportedError,
    ValidateError,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.compute import Backup
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.document import Document
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.operation import Operation
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm import (
    block_devices,
    disk_images,
    pool_xml,
    storage_pool,
    volumes,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm import template as template_room
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.block_devices import Group, Lvm
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.disk_images import ImageError
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.domain_xml import Host as KvmHost
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.file_names import Directories, DiskFile
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.names import volume_name
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.storage_pool import KvmStoragePools
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.template import KvmTemplates
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.vm import KvmVms
from ansible_collections.bareforge.hypervisor.plugins.module_utils.transports import libvirt as session
from support.libvirt_in_memory import Host, Killed, Library, Pool

MIB = 1024 * 1024
EXTENT = 4 * MIB
CANARY = "canary-chap-password"


class Bench:
    """A host in a folder, whose devices are names and whose volume groups are those of the libvirt in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.where = Directories(
            templates=str(folder / "bareforge" / "templates"),
            images=str(folder / "images"),
            consoles=str(folder / "consoles"),
            nvram=str(folder / "nvram"),
            pools=str(folder / "bareforge" / "pools"),
        )
        self.libvirt = Host()
        self.carries: dict[str, str] = {}
        self.free = 100 * EXTENT
        self.more: tuple[Any, ...] = ()

    def lvm(self) -> Lvm:
        groups = {
            name: Group(name, EXTENT, self.free, tuple(sorted(devices)))
            for name, devices in self.libvirt.groups.items()
        }
        return Lvm(groups, {device: name for name, group in groups.items() for device in group.devices})

    def device_problem(self, device: str) -> str | None:
        if device in self.carries:
            return f"'{device}' carries data ({self.carries[device]}), which a pool would destroy"
        return None

    def extend_group(self, name: str, devices: list[str]) -> None:
        self.libvirt.step(f"group extend {name}")
        self.libvirt.groups[name].extend(devices)

    def platform(self) -> Platform:
        class Recovering(Platform):
            NAME = "kvm"
            INTERFACES = (KvmStoragePools, KvmTemplates, KvmVms, *self.more)

            def recover(self) -> None:
                for interface in self.interfaces[:3]:
                    interface.recover()

        platform = Recovering()
        for interface in platform.interfaces[:3]:
            interface.where = self.where
        platform.interfaces[2]._host = KvmHost(processors=(0, 1), memory=8192)
        return platform

    def apply(self, *pools: Any, check: bool = False, exact: Any = (), **operation: Any) -> Any:
        document = Document.parse({"storage_pools": list(pools)}, exact)
        return run(self.platform(), Request(document, Operation.parse(operation), check))

    def whole(self, data: Any) -> Any:
        return run(self.platform(), Request(Document.parse(data), Operation.parse({"shutdown_timeout": 0})))

    def problems(self, *pools: Any, **operation: Any) -> list[str]:
        calls = list(self.libvirt.calls)
        with pytest.raises(ValidateError) as caught:
            self.apply(*pools, **operation)
        assert self.libvirt.calls == calls
        return [str(problem) for problem in caught.value.problems]

    def shown(self) -> list[dict[str, Any]]:
        return gather(self.platform(), ["storage_pool"])["storage_pools"]

    def dir(self, name: str = "plain", **fields: Any) -> dict[str, Any]:
        return {"name": name, "type": "dir", "path": str(self.folder / name), **fields}


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    made = Bench(tmp_path)
    monkeypatch.setitem(sys.modules, "libvirt", Library(made.libvirt))  # type: ignore[arg-type]
    monkeypatch.setattr(
        KvmStoragePools,
        "CAPABILITIES",
        KvmStoragePools.CAPABILITIES
        | {
            "storage_pool.type.iscsi",
            "storage_pool.type.nfs",
            "storage_pool.content.templates",
            "storage_pool.settings",
        },
    )
    monkeypatch.setattr(KvmVms, "CAPABILITIES", KvmVms.CAPABILITIES | {"vm.disk.pool"})
    monkeypatch.setattr(KvmTemplates, "CAPABILITIES", KvmTemplates.CAPABILITIES | {"template.pool"})
    monkeypatch.setattr(block_devices, "read_lvm", made.lvm)
    monkeypatch.setattr(block_devices, "device_problem", made.device_problem)
    monkeypatch.setattr(block_devices, "extend_group", made.extend_group)
    monkeypatch.setattr(block_devices, "volume_exists", lambda _path: False)
    session.close()
    yield made
    session.close()
    for path in tmp_path.rglob("*.qcow2"):
        disk_images.set_immutable(str(path), False)


def lvm(**fields: Any) -> dict[str, Any]:
    return {"name": "fast", "type": "lvm", "source": {"name": "vg0", "devices": ["/dev/nvme0n1"]}, **fields}


def iscsi(**source: Any) -> dict[str, Any]:
    return {
        "name": "san",
        "type": "iscsi",
        "source": {"host": "127.0.0.1", "target": "iqn.2026-11.org.example:a", **source},
    }


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Something that takes connections where a server of NFS or iSCSI would."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        monkeypatch.setattr(storage_pool, "PORTS", {"nfs": port, "iscsi": port})
        yield


def test_pools_are_made_read_back_and_not_touched_again(bench: Bench) -> None:
    pools = [bench.dir(content=["templates", "disks"], autostart=False), lvm()]
    planned = bench.apply(*pools, check=True)
    assert bench.libvirt.pools == {}
    made = bench.apply(*pools)
    assert made["changes"] == planned["changes"]
    calls = list(bench.libvirt.calls)
    assert bench.apply(*pools)["changed"] is False
    assert bench.apply(*bench.shown())["changed"] is False
    assert bench.libvirt.calls == calls
    assert [(pool.name(), pool.active, pool.starts) for pool in bench.libvirt.pools.values()] == [
        ("plain", True, False),
        ("fast", True, True),
    ]
    assert bench.shown()[0]["source"] == {"name": "vg0", "devices": ["/dev/nvme0n1"]}


STEPS = ["define", "defined", "build", "built", "start", "started", "autostart"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("kind", ["dir", "lvm"])
def test_a_run_that_is_killed_while_it_makes_a_pool_is_finished_by_the_next(bench: Bench, step: str, kind: str) -> None:
    pool = bench.dir("fast") if kind == "dir" else lvm()
    bench.libvirt.kill_at = f"pool {step} fast"
    with pytest.raises(Killed):
        bench.apply(pool)
    bench.libvirt.kill_at = None
    assert bench.shown() == []
    assert bench.apply(pool)["changed"] is True
    assert bench.apply(pool)["changed"] is False
    assert bench.libvirt.pools["fast"].active
    assert bench.libvirt.pools["fast"].starts


@pytest.mark.parametrize("step", STEPS)
def test_what_a_killed_run_has_left_is_taken_back_even_if_nobody_wants_it_any_more(bench: Bench, step: str) -> None:
    bench.libvirt.kill_at = f"pool {step} fast"
    with pytest.raises(Killed):
        bench.apply(lvm())
    bench.libvirt.kill_at = None
    bench.apply()
    assert bench.libvirt.pools == {}
    assert bench.libvirt.groups == {}
    assert os.listdir(bench.where.pools) == []


@pytest.mark.parametrize("step", ["build", "start", "autostart"])
def test_a_pool_that_cannot_be_made_leaves_nothing(bench: Bench, step: str) -> None:
    bench.libvirt.fail_at = f"pool {step} plain"
    with pytest.raises(ApplyError, match=rf"storage_pool\['plain'\].*internal error: pool {step} plain"):
        bench.apply(bench.dir())
    assert bench.libvirt.pools == {}
    assert os.listdir(bench.where.pools) == []
    assert not os.path.exists(bench.folder / "plain")


@pytest.mark.parametrize("contents", [True, False])
@pytest.mark.parametrize("step", ["stop", "stopped", "delete", "deleted", "undefine", "undefined"])
def test_a_run_that_is_killed_while_it_removes_a_pool_is_finished_by_the_next(
    bench: Bench, step: str, contents: bool
) -> None:
    bench.apply(bench.dir())
    (bench.folder / "plain" / "web.root.qcow2").write_bytes(b"x")
    gone = {"name": "plain", "state": "absent"}
    bench.libvirt.kill_at = f"pool {step} plain"
    if contents or not step.startswith("delete"):
        with pytest.raises(Killed):
            bench.apply(gone, delete_contents=contents)
    bench.libvirt.kill_at = None
    bench.apply(gone, delete_contents=contents)
    assert bench.libvirt.pools == {}
    assert os.path.exists(bench.folder / "plain" / "web.root.qcow2") is not contents
    assert os.path.exists(bench.folder / "plain") is not contents


def test_directories_that_are_left_in_a_pool_are_kept_and_named(bench: Bench) -> None:
    bench.apply(bench.dir())
    (bench.folder / "plain" / "somebody").mkdir()
    result = bench.apply({"name": "plain", "state": "absent"}, delete_contents=True)
    assert "there are directories in it: somebody" in result["warnings"][0]
    assert bench.libvirt.pools == {}


def test_a_group_grows_by_the_devices_that_are_added(bench: Bench) -> None:
    bench.apply(lvm())
    grown = {"name": "fast", "source": {"devices": ["/dev/nvme1n1", "/dev/nvme0n1"]}}
    bench.libvirt.kill_at = "pool define fast"
    with pytest.raises(Killed):
        bench.apply(grown)
    bench.libvirt.kill_at = None
    assert bench.libvirt.groups == {"vg0": ["/dev/nvme0n1", "/dev/nvme1n1"]}
    # The group is what it shall be, so that nothing is left to do.
    assert bench.apply(grown)["changed"] is False
    assert bench.problems({"name": "fast", "source": {"devices": ["/dev/nvme1n1"]}}) == [
        "storage_pool['fast'].source.devices: leaves out '/dev/nvme0n1', which cannot be taken out of the pool"
    ]


def test_what_a_device_carries_is_named(bench: Bench) -> None:
    bench.carries["/dev/nvme0n1"] = "xfs"
    assert bench.problems(lvm()) == [
        "storage_pool['fast'].source.devices: '/dev/nvme0n1' carries data (xfs), which a pool would destroy"
    ]
    bench.libvirt.groups["other"] = ["/dev/nvme0n1"]
    assert "belongs to the volume group 'other'" in bench.problems(lvm())[0]
    bench.libvirt.groups = {"vg0": ["/dev/nvme0n1", "/dev/nvme5n1"]}
    assert "leaves out '/dev/nvme5n1', on which the volume group 'vg0' lies too" in bench.problems(lvm())[0]
    bench.libvirt.groups = {}
    nothing = bench.problems(lvm(source={"name": "vg0"}))
    assert nothing == [
        "storage_pool['fast'].source.devices: must be given, since there is no volume group 'vg0'; there are: none"
    ]


@pytest.mark.parametrize(
    ("pool", "path", "message"),
    [
        ({"type": "dir", "path": "/srv"}, "path", "'/srv' belongs to the system"),
        ({"type": "dir", "path": "/usr/pool"}, "path", "'/usr/pool' belongs to the system"),
        ({"type": "dir", "path": "/proc/version"}, "path", "belongs to the system"),
        (
            {"type": "lvm", "path": "/srv/x", "source": {"name": "g", "devices": ["/dev/sdx"]}},
            "path",
            "goes with types",
        ),
        (
            {"type": "lvm", "source": {"name": "a b", "devices": ["/dev/sdx"]}},
            "source.name",
            "no name that LVM can hold",
        ),
        ({"type": "dir", "path": "/srv/x", "settings": {"ro": ""}}, "settings.ro", "does not go with type dir"),
        (
            {"type": "dir", "path": "/srv/x", "source": {"version": "4.2"}},
            "source.version",
            "does not go with type dir",
        ),
        ({"name": "a/b", "type": "dir", "path": "/srv/x"}, "name", "is no name that a KVM host can hold"),
    ],
)
def test_what_a_pool_cannot_be_is_refused_by_name(bench: Bench, pool: Any, path: str, message: str) -> None:
    name = pool.get("name", "fast")
    found = bench.problems({"name": "fast", **pool})
    assert any(text.startswith(f"storage_pool['{name}'].{path}: ") and message in text for text in found), found


def test_types_that_were_not_shown_are_refused_before_anything_is_read(bench: Bench) -> None:
    with pytest.raises(NotSupportedError, match="platform kvm cannot do 'zfs'; it can do dir, iscsi, lvm, nfs"):
        bench.apply({"name": "tank", "type": "zfs", "source": {"name": "tank"}})


def theirs(bench: Bench, active: bool = True) -> Pool:
    xml = f"<pool type='dir'><name>theirs</name><uuid>11111111-2222-3333-4444-555555555555</uuid><target><path>{bench.folder}/theirs</path></target></pool>"
    pool = bench.libvirt.pools["theirs"] = Pool(bench.libvirt, xml)
    pool.active = active
    return pool


def test_a_pool_of_somebody_else_is_shown_and_left_alone(bench: Bench) -> None:
    pool = theirs(bench, active=False)
    assert bench.problems({"name": "theirs", "state": "absent"}) == [
        "storage_pool['theirs']: cannot be removed, since this collection has not made it (virsh pool-undefine does that)"
    ]
    assert "allowed are autostart, and to start it" in bench.problems({"name": "theirs", "content": ["disks"]})[0]
    kept = bench.apply(exact=["storage_pool"])
    assert kept["changed"] is False
    assert "it was made by someone else" in kept["warnings"][0]
    assert bench.apply({"name": "theirs", "autostart": True})["changed"] is True
    assert pool.active
    assert pool.starts
    assert "pool define theirs" not in bench.libvirt.calls


def test_a_pool_that_was_stopped_is_started_by_a_document_that_names_it(bench: Bench) -> None:
    bench.apply(bench.dir())
    bench.libvirt.pools["plain"].active = False
    assert bench.apply({"name": "plain"})["changed"] is True
    assert bench.libvirt.pools["plain"].active
    assert bench.apply({"name": "plain"})["changed"] is False
    # One that is stopped can go all the same.
    bench.libvirt.pools["plain"].active = False
    bench.apply({"name": "plain", "state": "absent"})
    assert bench.libvirt.pools == {}


def test_a_domain_of_anybody_keeps_its_pool(bench: Bench) -> None:
    bench.apply(bench.dir())
    xml = (
        "<domain><name>alien</name><uuid>1</uuid><devices><disk type='file'>"
        f"<source file='{bench.folder}/plain/a.img'/></disk></devices></domain>"
    )
    session.connection().defineXML(xml)
    assert bench.problems({"name": "plain", "state": "absent"}) == [
        "storage_pool['plain']: cannot go, since disks of these VMs lie in it: alien"
    ]


@pytest.mark.parametrize(("target", "refused"), [("plain/backups", True), ("plain-other", False)])
def test_a_backup_keeps_its_pool(bench: Bench, target: str, refused: bool) -> None:
    class Backups(Interface):
        KINDS = ("backup",)

        def __init__(self, platform: Any) -> None:
            self.platform = platform

        def read(self, kinds: Any, names: Any) -> Any:
            item = Backup(vm="web1", name="daily", target=str(bench.folder / target))
            return {"backup": {item.key: item}}

    bench.apply(bench.dir())
    bench.more = (Backups,)
    if refused:
        assert bench.problems({"name": "plain", "state": "absent"}) == [
            "storage_pool['plain']: cannot go, since these backups lie in it: web1/daily"
        ]
    else:
        assert bench.apply({"name": "plain", "state": "absent"})["changed"] is True


def test_a_server_that_is_away_is_one_sentence_within_a_deadline(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        free = listening.getsockname()[1]
    monkeypatch.setattr(storage_pool, "PORTS", {"iscsi": free})
    with pytest.raises(ApplyError) as caught:
        bench.apply(iscsi())
    assert caught.value.message == (
        f"storage_pool['san'].source.host: the server '127.0.0.1' cannot be reached on TCP port {free} "
        "(Connection refused)"
    )
    assert bench.libvirt.pools == {}
    assert bench.libvirt.secrets == {}


def test_what_does_not_come_to_an_end_is_waited_for_no_longer_than_the_deadline() -> None:
    forever = threading.Event()
    began = time.monotonic()
    with pytest.raises(storage_pool.TooLate, match="it has not answered within 0 s"):
        storage_pool.with_deadline(forever.wait, 0.2, "storage_pool['a'] cannot be started")
    assert time.monotonic() - began < 5
    forever.set()
    with pytest.raises(ValueError, match="handed on"):
        storage_pool.with_deadline(lambda: int("handed on"), 5, "x")


def test_a_password_is_in_libvirts_secret_and_nowhere_else(bench: Bench, server: None) -> None:
    pool = iscsi(username="initiator", password=CANARY)
    result = bench.apply(pool)
    assert bench.libvirt.secrets == {"bareforge storage pool san": CANARY.encode()}
    texts = [json.dumps(result), json.dumps(bench.shown()), bench.libvirt.pools["san"].xml]
    texts += [path.read_text() for path in Path(bench.where.pools).iterdir()]
    assert not any(CANARY in text for text in texts)
    assert "initiator" in bench.libvirt.pools["san"].xml
    bench.apply({"name": "san", "state": "absent"})
    assert bench.libvirt.secrets == {}


def test_a_password_that_libvirt_quotes_is_not_passed_on(bench: Bench, server: None) -> None:
    bench.libvirt.fail_at = "pool start san"
    bench.libvirt.fail_with = (
        f"(iscsiadm --op update --name node.session.auth.password --value {CANARY}) unexpected exit"
    )
    with pytest.raises(ApplyError) as caught:
        bench.apply(iscsi(username="initiator", password=CANARY))
    assert "node.session.auth.password --value ********" in caught.value.message
    assert CANARY not in caught.value.message
    assert caught.value.__cause__ is None
    assert bench.libvirt.secrets == {}


@pytest.mark.parametrize("step", ["pool define san", "pool stop san", "pool stopped san", "pool start san"])
def test_a_run_that_is_killed_while_it_restarts_a_pool_is_finished_by_the_next(
    bench: Bench, server: None, step: str
) -> None:
    pool = {"name": "san", "type": "nfs", "source": {"host": "127.0.0.1", "path": "/export", "version": "4.2"}}
    bench.apply(pool)
    assert bench.shown()[0]["path"] == os.path.join(bench.where.pools, "san")
    changed = {**pool, "settings": {"nconnect": "4", "noatime": ""}}
    bench.libvirt.kill_at = step
    with pytest.raises(Killed):
        bench.apply(changed)
    bench.libvirt.kill_at = None
    bench.apply()  # of something else altogether
    assert bench.libvirt.pools["san"].active
    bench.apply(changed)
    assert bench.apply(changed)["changed"] is False
    assert bench.libvirt.pools["san"].active
    assert bench.shown()[0]["settings"] == {"nconnect": "4", "noatime": ""}


@pytest.mark.parametrize(
    ("name", "problem"),
    [("nfsvers", "source.version says the version"), ("Bad", "is no mount option"), ("a", "is no mount option")],
)
def test_mount_options_that_are_none_are_refused(bench: Bench, name: str, problem: str) -> None:
    pool = {"name": "n", "type": "nfs", "source": {"host": "nas", "path": "/e"}, "settings": {name: "1,exec"}}
    assert problem in bench.problems(pool)[0]


def test_names_of_volumes_are_what_lvm_can_hold() -> None:
    assert volume_name("web1", "root") == "bf.web1.root"
    for vm in ("web 1", "wéb", "a_tmeta", "x" * 80):
        name = volume_name(vm, "root")
        assert name.startswith("bf.")
        assert name.endswith(".root")
        assert len(name) < 100
        assert all(c.isascii() and (c.isalnum() or c in "._-") for c in name)
    assert len({volume_name(vm, "root") for vm in ("web 1", "web_1", "web  1")}) == 3


def test_every_pool_that_can_be_written_is_read_back_as_it_was(bench: Bench) -> None:
    for data in (
        bench.dir(),
        lvm(),
        iscsi(username="u"),
        {
            "name": "n",
            "type": "nfs",
            "path": "/srv/n",
            "source": {"host": "nas", "path": "/e", "version": "4.1"},
            "settings": {"hard": "", "timeo": "50"},
        },
    ):
        pool = Document.parse({"storage_pools": [data]}).present["storage_pool"][(data["name"],)]
        xml = pool_xml.to_xml(pool, data.get("path") or "/dev/x")  # type: ignore[arg-type]
        read = pool_xml.read_xml(xml)
        assert read is not None
        written = {name: value for name, value in read.to_document().items() if name != "settings" or value}
        assert written == data


# Disks and templates in pools


def web(**fields: Any) -> dict[str, Any]:
    return {"name": "web1", "memory": {"size": 128}, **fields}


def test_a_disk_lies_in_its_pool_grows_there_and_goes_with_the_vm(bench: Bench) -> None:
    document = {
        "storage_pools": [bench.dir()],
        "vms": [web(disks=[{"name": "root", "size": 4}, {"name": "data", "size": 8, "pool": "plain"}])],
    }
    bench.whole(document)
    assert os.listdir(bench.folder / "plain") == ["web1.data.qcow2"]
    assert bench.whole(document)["changed"] is False
    assert bench.whole(gather(bench.platform(), ["vm", "storage_pool"]))["changed"] is False
    disks = [{"name": "root", "size": 4}, {"name": "data", "size": 12, "pool": "plain"}]
    bench.whole({"vms": [web(disks=disks, power="stopped")]})
    assert gather(bench.platform(), ["vm"])["vms"][0]["disks"][1]["size"] == 12
    assert bench.problems({"name": "plain", "state": "absent"}) == [
        "storage_pool['plain']: cannot go, since it is used by vm['web1'].disks['data'].pool"
    ]
    bench.whole({"vms": [{"name": "web1", "state": "absent"}]})
    assert os.listdir(bench.folder / "plain") == []


@pytest.mark.parametrize("step", ["define web1", "defined web1", "start web1", "undefine web1", "undefined web1"])
def test_killed_runs_leave_no_disks_in_pools(bench: Bench, step: str) -> None:
    bench.apply(bench.dir())
    vm = web(disks=[{"name": "root", "size": 4, "pool": "plain"}])
    if step.startswith("undefine"):
        bench.whole({"vms": [vm]})
    bench.libvirt.kill_at = step
    with pytest.raises(Killed):
        bench.whole({"vms": [{"name": "web1", "state": "absent"} if step.startswith("undefine") else vm]})
    bench.libvirt.kill_at = None
    bench.whole({"vms": [{"name": "web1", "state": "absent"}]})
    assert os.listdir(bench.folder / "plain") == []
    assert bench.libvirt.domains == {}


def test_a_disk_that_is_being_added_when_the_run_is_killed_is_no_orphan(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.apply(bench.dir())
    bench.whole({"vms": [web(disks=[{"name": "root", "size": 4}])]})
    disks = [{"name": "root", "size": 4}, {"name": "data", "size": 4, "pool": "plain"}]

    def killed(file: DiskFile, *_arguments: Any, **_options: Any) -> None:
        Path(f"{file.path}.partial").write_bytes(b"half")
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(volumes, "make", killed)
        with pytest.raises(Killed):
            bench.whole({"vms": [web(disks=disks)]})
    assert os.listdir(bench.folder / "plain") == ["web1.data.qcow2.partial"]
    bench.apply()  # of something else altogether
    assert os.listdir(bench.folder / "plain") == []


def test_a_pool_that_is_full_is_named_with_how_many_bytes_and_nothing_is_left(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.apply(bench.dir())

    def full(path: str, *_arguments: Any, **_options: Any) -> None:
        Path(path).write_bytes(b"half")
        raise ImageError("qemu-img: error while writing: No space left on device")

    monkeypatch.setattr(disk_images, "create", full)
    with pytest.raises(ApplyError) as caught:
        bench.whole({"vms": [web(disks=[{"name": "root", "size": 4, "pool": "plain"}])]})
    assert caught.value.message.startswith(
        "vm['web1'].disks['root']: storage pool 'plain' is full: a disk of 4194304 bytes does not fit, and "
    )
    assert os.listdir(bench.folder / "plain") == []
    assert os.listdir(bench.where.images) == []
    assert bench.libvirt.domains == {}


def test_a_group_that_is_full_is_named_with_how_many_bytes(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.apply(lvm())

    def full(*_arguments: Any, **_options: Any) -> None:
        raise ApplyError('Volume group "vg0" has insufficient free space (1 extents): 2 required.')

    monkeypatch.setattr(block_devices, "create_volume", full)
    disks = [{"name": "root", "size": 8, "pool": "fast", "provisioning": "thick"}]
    with pytest.raises(ApplyError) as caught:
        bench.whole({"vms": [web(disks=disks)]})
    assert caught.value.message == (
        "vm['web1'].disks['root']: storage pool 'fast' is full: a disk of 8388608 bytes does not fit, and "
        "419430400 bytes are free"
    )


@pytest.mark.parametrize(
    ("disk", "more", "path", "message"),
    [
        ({"pool": "fast"}, {}, "disks['root'].provisioning", "allowed is 'thick'"),
        (
            {"pool": "fast", "provisioning": "thick", "size": 10},
            {},
            "disks['root'].size",
            "10 MiB is no multiple of the 4 MiB that the volume group 'vg0' gives; the next one is 12 MiB",
        ),
        (
            {"pool": "fast", "provisioning": "thick", "size": 4096},
            {},
            "disks",
            "need 4294967296 bytes in storage pool 'fast', and there are 419430400 bytes left",
        ),
        ({"pool": "backups"}, {}, "disks['root'].pool", "storage pool 'backups' is for templates, not for disks"),
        ({"pool": "stopped"}, {}, "disks['root'].pool", "is stopped; a task that names the pool starts it"),
        ({"pool": "gone"}, {}, "disks['root'].pool", "there is no storage pool 'gone'"),
        ({"pool": "kept"}, {}, "disks['root']", "web1.root.qcow2 is there already"),
    ],
)
def test_disks_that_a_pool_cannot_hold_are_refused_by_name(
    bench: Bench, disk: Any, more: Any, path: str, message: str
) -> None:
    bench.apply(lvm(), bench.dir("stopped"), bench.dir("kept"), bench.dir("backups", content=["templates"]))
    bench.libvirt.pools["stopped"].active = False
    (bench.folder / "kept" / "web1.root.qcow2").write_bytes(b"of an earlier VM")
    with pytest.raises(ValidateError) as caught:
        bench.whole({"vms": [web(disks=[{"name": "root", "size": 4, **disk}], **more)]})
    found = [str(problem) for problem in caught.value.problems]
    assert any(text.startswith(f"vm['web1'].{path}: ") and message in text for text in found), found


def image(bench: Bench) -> dict[str, Any]:
    path = bench.folder / "image.qcow2"
    if not path.exists():
        disk_images.create(str(path), 8 * MIB)
    return {
        "source": {"path": str(path)},
        "checksum": f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}",
    }


def test_a_template_lies_in_its_pool_and_linked_clones_keep_it(bench: Bench) -> None:
    template = {"name": "tiny", "pool": "plain", "customization": "none", **image(bench)}
    document = {"storage_pools": [bench.dir()], "templates": [template]}
    bench.whole(document)
    lies_at = bench.folder / "plain" / "bareforge-templates" / "tiny.qcow2"
    assert lies_at.is_file()
    assert os.path.realpath(bench.where.template_image("tiny")) == str(lies_at)
    assert bench.whole(document)["changed"] is False
    assert gather(bench.platform(), ["template"])["templates"][0]["pool"] == "plain"
    assert "is used by template['tiny'].pool" in bench.problems({"name": "plain", "state": "absent"})[0]
    bench.whole({"vms": [web(template="tiny", disks=[{"name": "root", "pool": "plain"}])]})
    with pytest.raises(ValidateError, match="linked clones of it: web1"):
        bench.whole({"templates": [{"name": "tiny", "state": "absent"}]})
    bench.whole({"vms": [{"name": "web1", "state": "absent"}], "templates": [{"name": "tiny", "state": "absent"}]})
    assert os.listdir(lies_at.parent) == []
    assert os.listdir(bench.where.templates) == []


@pytest.mark.parametrize("point", ["mkdir", "rename", "symlink"])
def test_an_import_into_a_pool_that_is_killed_leaves_nothing_there(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    template = {"name": "tiny", "pool": "plain", "customization": "none", **image(bench)}
    bench.apply(bench.dir())
    original = getattr(os, point)

    def killed(*arguments: Any, **options: Any) -> Any:
        if "bareforge-templates" not in str(arguments[0]):
            return original(*arguments, **options)
        original(*arguments, **options)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, point, killed)
        # What is killed cleans up nothing.
        patch.setattr("shutil.rmtree", lambda *_arguments, **_options: None)
        patch.setattr(template_room, "recover_import", lambda *_arguments: None)
        with pytest.raises(Killed):
            bench.whole({"templates": [template]})
    bench.apply()  # of something else altogether
    left = os.listdir(bench.folder / "plain" / "bareforge-templates")
    assert left == (["tiny.qcow2"] if point == "symlink" else [])
    bench.whole({"templates": [template]})
    assert bench.whole({"templates": [template]})["changed"] is False


@pytest.mark.parametrize(
    ("pool", "message"),
    [
        ("fast", "storage pool 'fast' is of type lvm, which holds no files; allowed is type dir or nfs"),
        ("data", "storage pool 'data' is for disks, not for templates"),
        ("stopped", "is stopped; a task that names the pool starts it"),
    ],
)
def test_templates_that_a_pool_cannot_hold_are_refused_by_name(bench: Bench, pool: str, message: str) -> None:
    bench.apply(lvm(), bench.dir("stopped"), bench.dir("data", content=["disks"]))
    bench.libvirt.pools["stopped"].active = False
    with pytest.raises(ValidateError) as caught:
        bench.whole({"templates": [{"name": "tiny", "pool": pool, "customization": "none", **image(bench)}]})
    problem = str(caught.value.problems[0])
    assert problem.startswith("template['tiny'].pool: ")
    assert message in problem
