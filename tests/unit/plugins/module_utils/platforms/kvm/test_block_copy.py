# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Copying disks of VMs that are off, with QEMU's own tools on real images."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm import block_copy, disk_images
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.block_copy import DiskCopy
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.disk_images import ImageError

MIB = 1024 * 1024


def io(path: Path, *commands: str) -> None:
    arguments = [part for command in commands for part in ("-c", command)]
    subprocess.run(["qemu-io", "-f", "qcow2", *arguments, str(path)], check=True, capture_output=True)


def same(left: Path, right: Path) -> bool:
    command = ["qemu-img", "compare", "-f", "qcow2", "-F", "qcow2", str(left), str(right)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def rebase(path: Path, backing: Path) -> None:
    disk_images.run_tool(["qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", str(backing), str(path)])


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A linked clone with data in it and in its template."""
    template, clone = tmp_path / "template.qcow2", tmp_path / "disk.qcow2"
    disk_images.create(str(template), 32 * MIB)
    io(template, "write -P 1 0 2M", "write -P 2 8M 2M")
    disk_images.create(str(clone), 64 * MIB, backing=str(template))
    io(clone, "write -P 3 1M 1M")
    return clone


def test_a_full_copy_stands_alone(disk: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    block_copy.copy_disks(
        [DiskCopy(str(disk), str(tmp_path / "full"))], "first", lambda done, total: seen.append((done, total))
    )
    assert same(disk, tmp_path / "full")
    header = disk_images.read_qcow2(str(tmp_path / "full"))
    assert header is not None
    assert (header.backing, header.size) == (None, 64 * MIB)
    assert list(block_copy.bitmaps(str(disk))) == ["first"]
    assert seen[-1][0] == seen[-1][1] == 64 * MIB


def test_what_has_changed_is_copied_and_no_more(disk: Path, tmp_path: Path) -> None:
    full, second, third = tmp_path / "full", tmp_path / "second", tmp_path / "third"
    block_copy.copy_disks([DiskCopy(str(disk), str(full))], "first")
    # Written, made zeros, given back: all three have to hide what the copy before has there.
    io(disk, "write -P 7 20M 256k", "write -z 0 128k", "discard 8M 1M")
    block_copy.copy_disks([DiskCopy(str(disk), str(second), "first")], "second")
    rebase(second, full)
    assert same(disk, second)
    assert not same(disk, full)
    assert second.stat().st_blocks * 512 < MIB
    then = tmp_path / "then.qcow2"
    disk_images.convert(str(second), "qcow2", str(then), foreign=False)
    io(disk, "write -P 8 40M 64k")
    block_copy.copy_disks([DiskCopy(str(disk), str(third), "second")], None)
    rebase(third, second)
    assert same(disk, third)
    assert same(then, second)
    assert list(block_copy.bitmaps(str(disk))) == ["first", "second"]


def test_a_copy_that_fails_leaves_no_bitmap(disk: Path, tmp_path: Path) -> None:
    before = disk.read_bytes()
    with pytest.raises(ImageError, match="Bitmap 'never' could not be found"):
        block_copy.copy_disks([DiskCopy(str(disk), str(tmp_path / "copy"), "never")], "first")
    assert block_copy.bitmaps(str(disk)) == {}
    assert disk.read_bytes()[:512] == before[:512]


def test_a_copy_that_breaks_off_leaves_no_bitmap_in_any_disk(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.qcow2"
    disk_images.create(str(other), 64 * MIB)
    io(other, "write -P 5 0 8M")
    node = block_copy._node

    def full(name: str, path: str) -> str:
        options = json.loads(node(name, path))
        if name == "t1":
            error = {"event": "none", "iotype": "write", "errno": 28}
            options["file"] = {"driver": "blkdebug", "image": options["file"], "inject-error": [error]}
        return json.dumps(options)

    monkeypatch.setattr(block_copy, "_node", full)
    copies = [DiskCopy(str(source), str(tmp_path / name)) for source, name in ((disk, "one"), (other, "two"))]
    with pytest.raises(ImageError, match="No space left on device"):
        block_copy.copy_disks(copies, "first")
    assert block_copy.bitmaps(str(disk)) == block_copy.bitmaps(str(other)) == {}


def test_a_disk_that_is_in_use_is_not_copied(disk: Path, tmp_path: Path) -> None:
    with subprocess.Popen(
        ["qemu-io", "-f", "qcow2", str(disk)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as user:
        assert user.stdin is not None
        assert user.stdout is not None
        user.stdin.write("write 0 64k\n")
        user.stdin.flush()
        user.stdout.readline()
        with pytest.raises(ImageError, match="lock"):
            block_copy.copy_disks([DiskCopy(str(disk), str(tmp_path / "copy"))], "first")
        user.stdin.close()
    assert block_copy.bitmaps(str(disk)) == {}


def test_bitmaps_are_removed(disk: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        block_copy.copy_disks([DiskCopy(str(disk), str(tmp_path / name))], name)
    block_copy.remove_bitmaps([str(disk)], ["first", "never"])
    assert list(block_copy.bitmaps(str(disk))) == ["second"]


PROGRAM = """
import sys
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm import block_copy
with block_copy._Daemon([block_copy.DiskCopy(*sys.argv[1:3])]):
    print("open", flush=True)
    sys.stdin.read()
"""


def test_the_daemon_ends_with_whoever_was_killed(disk: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    disk_images.create(str(copy), 64 * MIB)
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(disk), str(copy)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        with pytest.raises(ImageError, match="lock"):
            block_copy.copy_disks([DiskCopy(str(disk), str(tmp_path / "other"))], None)
        process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 30
    while True:
        try:
            block_copy.copy_disks([DiskCopy(str(disk), str(copy))], "first")
            break
        except ImageError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert list(block_copy.bitmaps(str(disk))) == ["first"]


DAEMON_THAT_ENDS = """#!/bin/sh
exec 0<&-
echo '{"QMP": {}}'
echo "Failed to get shared lock" >&2
exit 1
"""


def test_a_daemon_that_ends_while_it_is_asked_is_told_in_its_words(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "daemon"
    program.write_text(DAEMON_THAT_ENDS)
    program.chmod(0o755)
    monkeypatch.setattr(block_copy, "PROGRAM", str(program))
    with pytest.raises(ImageError, match="Failed to get shared lock"):
        block_copy.copy_disks([DiskCopy(str(disk), str(tmp_path / "copy"))], None)
