# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The catalogue of backups: what is whole, what builds on what, and what goes where only the last ones are kept."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import ReadError
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm import disk_images
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.backup_catalogue import (
    ENTRY,
    ChainError,
    Entry,
    KnownTargets,
    StoredFile,
    Target,
    backing_name,
    checksum,
    expired,
)

MIB = 1024 * 1024


def entry(name: str, number: int, parent: str | None = None, **fields: Any) -> Entry:
    made = Entry(
        vm="web1",
        name=name,
        id=f"id-{name}",
        number=number,
        mode="incremental" if parent else "full",
        quiesce=False,
        created="2026-11-25T20:00:00+00:00",
        host="kvm1",
        uuid="u",
        power="running",
        parent=parent,
        parent_id=f"id-{parent}" if parent else None,
        checkpoint=f"bareforge-id-{name}",
        tools={"qemu": "7.2.22"},
    )
    return dataclasses.replace(made, **fields)


def store(target: Target, made: Entry) -> Entry:
    """Write a backup with one disk, as it is written for real, and return its entry."""
    partial = target.partial(made.vm, made.name)
    os.makedirs(partial)
    path = os.path.join(partial, "root.qcow2")
    disk_images.create(path, MIB)
    if made.parent:
        backing = backing_name(made.parent, "root.qcow2")
        disk_images.run_tool(["qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", backing, path])
    with open(path, "ab") as image:
        image.write(made.name.encode())
    size = os.stat(path).st_size
    file = StoredFile("disk", "root.qcow2", size, checksum(path), "root", MIB, "vda", bool(made.parent))
    whole = dataclasses.replace(made, files=(file,))
    target.finish(whole)
    return whole


@pytest.fixture
def target(tmp_path: Path) -> Target:
    made = Target(str(tmp_path / "backups"))
    made.prepare()
    return made


@pytest.fixture
def chain(target: Target) -> list[Entry]:
    return [store(target, made) for made in (entry("full", 1), entry("second", 2, "full"), entry("third", 3, "second"))]


def test_what_was_written_is_read_again_in_the_order_in_which_it_was_made(target: Target, chain: list[Entry]) -> None:
    assert target.vms() == ["web1"]
    assert target.entries("web1") == chain
    assert target.entries("another") == []
    assert target.chain(chain[2], chain) == chain
    target.check_chain(chain, checksums=True)
    assert chain[2].to_backup(target.path).to_document() == {
        "vm": "web1",
        "name": "third",
        "target": target.path,
        "mode": "incremental",
        "quiesce": False,
    }


def test_files_are_for_root_only(target: Target, chain: list[Entry]) -> None:
    folder = target.folder("web1", "full")
    assert os.stat(folder).st_mode & 0o777 == 0o700
    assert os.stat(os.path.join(folder, ENTRY)).st_mode & 0o777 == 0o600


def test_a_target_keeps_its_identity(target: Target) -> None:
    assert target.prepare() == target.prepare() == target.identity()
    assert Target(f"{target.path}/elsewhere").identity() is None


def test_only_the_last_part_of_a_target_is_made(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="cannot be made: No such file or directory"):
        Target(str(tmp_path / "unmounted" / "backups")).prepare()
    assert not (tmp_path / "unmounted").exists()


def test_a_backup_that_is_not_finished_is_not_there_and_is_cleaned_away(target: Target, chain: list[Entry]) -> None:
    os.makedirs(target.partial("web1", "fourth"))
    os.makedirs(os.path.join(target.vm("web1"), ".gone.removing", "tpm"))
    assert target.entries("web1") == chain
    target.clean("web1")
    assert sorted(os.listdir(target.vm("web1"))) == ["full", "second", "third"]


def test_removing_the_last_one_leaves_no_directory(target: Target) -> None:
    store(target, entry("full", 1))
    target.remove("web1", "full")
    target.remove("web1", "full")
    assert target.vms() == []
    assert os.listdir(target.path) == [".bareforge-backups.json"]


def damage_content(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "file", "message"),
    [
        (Path.unlink, "full/root.qcow2", "cannot be read: No such file or directory"),
        (damage_content, "full/root.qcow2", "has changed: its SHA-256 is"),
        (damage_content, "third/root.qcow2", "has changed: its SHA-256 is"),
        (lambda path: path.write_bytes(b"x"), "second/root.qcow2", "has 1 bytes, and it had"),
    ],
    ids=["a parent's file is gone", "a parent has changed", "it has changed itself", "a parent is cut short"],
)
def test_a_damaged_chain_is_told_by_its_file(
    target: Target, chain: list[Entry], damage: Any, file: str, message: str
) -> None:
    path = Path(target.vm("web1")) / file
    damage(path)
    with pytest.raises(ChainError, match=message) as caught:
        target.check_chain(target.chain(chain[2], chain), checksums=True)
    assert str(caught.value).startswith(str(path))


def test_sizes_alone_do_not_show_a_changed_byte(target: Target, chain: list[Entry]) -> None:
    damage_content(Path(target.vm("web1")) / "full/root.qcow2")
    target.check_chain(chain, checksums=False)


@pytest.mark.parametrize("backing", ["/etc/shadow", "../full/other.qcow2", "../../web2/full/root.qcow2"])
def test_an_image_that_names_another_file_is_refused(target: Target, chain: list[Entry], backing: str) -> None:
    path = os.path.join(target.folder("web1", "second"), "root.qcow2")
    disk_images.run_tool(["qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", backing, path])
    # Whoever has changed the image has changed its checksum too.
    file = dataclasses.replace(chain[1].files[0], size=os.stat(path).st_size, sha256=checksum(path))
    forged = [chain[0], dataclasses.replace(chain[1], files=(file,))]
    with pytest.raises(ChainError, match=r"builds on .*, and it should build on '\.\./full/root\.qcow2'"):
        target.check_chain(forged, checksums=True)


def test_a_parent_that_is_gone_or_was_made_anew_breaks_the_chain(target: Target, chain: list[Entry]) -> None:
    with pytest.raises(ChainError, match=r"full/backup\.json, which backup 'second' builds on, is missing"):
        target.chain(chain[2], chain[1:])
    anew = dataclasses.replace(chain[0], id="another")
    with pytest.raises(ChainError, match="is not the backup that 'second' builds on, but another of its name"):
        target.chain(chain[2], [anew, *chain[1:]])


def test_entries_that_build_on_each_other_are_no_chain(target: Target) -> None:
    one, other = entry("a", 1, "b"), entry("b", 2, "a")
    with pytest.raises(ChainError, match="is not the backup that 'a' builds on"):
        target.chain(one, [one, other])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: "{", "holds no JSON"),
        (lambda data: "[]", "is no entry of a backup"),
        (lambda data: json.dumps({**data, "format": 2}), "has format 2; this collection reads format 1"),
        (lambda data: json.dumps({**data, "number": "1"}), "is no entry of a backup"),
        (lambda data: json.dumps({**data, "parent": "../x"}), "is no entry of a backup"),
        (lambda data: json.dumps({**data, "name": "other"}), "describes backup 'other' of VM 'web1'"),
        (lambda data: json.dumps({key: data[key] for key in data if key != "id"}), "is no entry of a backup"),
        (
            lambda data: json.dumps({**data, "files": [{**data["files"][0], "file": "../../x"}]}),
            "is no entry of a backup",
        ),
    ],
)
def test_an_entry_that_is_damaged_is_told_by_its_file(target: Target, change: Any, message: str) -> None:
    store(target, entry("full", 1))
    path = Path(target.folder("web1", "full")) / ENTRY
    path.write_text(change(json.loads(path.read_text("utf-8"))), "utf-8")
    with pytest.raises(ReadError, match=message) as caught:
        target.entries("web1")
    assert str(path) in str(caught.value)


def test_a_backup_without_an_entry_is_told(target: Target) -> None:
    store(target, entry("full", 1))
    os.unlink(os.path.join(target.folder("web1", "full"), ENTRY))
    with pytest.raises(ReadError, match=r"full/backup\.json is missing"):
        target.entries("web1")


WEEK = [
    entry("full1", 1),
    entry("inc1", 2, "full1"),
    entry("full2", 3),
    entry("inc2", 4, "full2"),
    entry("inc3", 5, "inc2"),
]


@pytest.mark.parametrize(
    ("keep", "coming", "mode", "gone"),
    [
        (5, None, "full", []),
        (9, None, "full", []),
        (3, None, "full", ["inc1", "full1"]),
        # What a kept one builds on stays, however old it is.
        (1, None, "full", ["inc1", "full1"]),
        (4, None, "full", []),
        (1, "new", "full", ["inc3", "inc2", "full2", "inc1", "full1"]),
        (2, "new", "full", ["inc1", "full1"]),
        (1, "new", "incremental", ["inc1", "full1"]),
        # One that is there already is not made again, and stays however old it is.
        (1, "inc1", "incremental", []),
        (1, "full1", "full", ["inc1"]),
    ],
)
def test_only_the_last_ones_are_kept_with_what_they_build_on(
    keep: int, coming: str | None, mode: str, gone: list[str]
) -> None:
    assert expired(WEEK, keep, coming, mode) == gone
    assert expired(list(reversed(WEEK)), keep, coming, mode) == gone


def test_the_first_backup_expires_nothing() -> None:
    assert expired([], 1, "new", "full") == []


def test_known_targets(tmp_path: Path) -> None:
    known = KnownTargets(str(tmp_path / "state"))
    assert known.read() == {}
    assert known.jobs() == []
    known.add("/srv/backup", "one")
    known.add("/srv/backup", "one")
    # Disks that are changed in turn are mounted in one place.
    known.add("/srv/backup", "two")
    assert known.read() == {"/srv/backup": ["one", "two"]}
    Path(known.job_path("web1")).write_text('{"action": "backup", "vm": "web1"}', "utf-8")
    assert known.jobs() == [{"action": "backup", "vm": "web1"}]
