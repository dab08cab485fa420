# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What block devices carry and what LVM tells, from what the tools print."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import ApplyError, ReadError
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm import block_devices

EXTENT = 4194304


def pvs(*rows: tuple[str, str, str]) -> str:
    """Return what pvs(8) of LVM 2.03 prints for (device, group, free bytes)."""
    return json.dumps(
        {
            "report": [
                {
                    "pv": [
                        {
                            "pv_name": device,
                            "vg_name": group,
                            "vg_extent_size": str(EXTENT) if group else "0",
                            "vg_free": free,
                        }
                        for device, group, free in rows
                    ]
                }
            ]
        }
    )


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Take the place of programs: each call gives the first of the texts, and is noted behind them."""
    texts: list[Any] = []

    def answer(command: Any, *_arguments: Any, **_options: Any) -> str:
        texts.append(list(command))
        return texts.pop(0)

    monkeypatch.setattr(block_devices, "run", answer)
    return texts


def test_groups_and_their_devices_are_read_in_one_call(said: list[Any]) -> None:
    said.append(pvs(("/dev/vdc", "fast", "8388608"), ("/dev/vdb", "fast", "8388608"), ("/dev/vdd", "", "0")))
    lvm = block_devices.read_lvm()
    assert lvm.groups == {"fast": block_devices.Group("fast", EXTENT, 8388608, ("/dev/vdb", "/dev/vdc"))}
    assert lvm.owners == {"/dev/vdb": "fast", "/dev/vdc": "fast", "/dev/vdd": ""}
    assert len(said) == 1


def test_what_lvm_does_not_tell_is_no_empty_host(said: list[Any]) -> None:
    said.append("{}")
    with pytest.raises(ReadError, match="pvs told nothing that could be understood"):
        block_devices.read_lvm()


@pytest.mark.parametrize(("group", "there"), [("fast", True), ("slow", False)])
def test_a_volume_is_found_by_its_group_and_name(said: list[Any], group: str, there: bool) -> None:
    rows = [{"lv_name": "bf.web.root", "vg_name": "fast"}, {"lv_name": "other", "vg_name": "slow"}]
    said.append(json.dumps({"report": [{"lv": rows}]}))
    assert block_devices.volume_exists(f"/dev/{group}/bf.web.root") is there


def test_a_program_that_fails_or_is_missing_is_one_sentence() -> None:
    with pytest.raises(ApplyError, match=r"^the pool: ls: cannot access '/nowhere'"):
        block_devices.run(["ls", "/nowhere"], "the pool")
    with pytest.raises(ReadError, match="the pool: the program no-such-program is missing on the host"):
        block_devices.run(["no-such-program"], "the pool", error=ReadError)
    with pytest.raises(ApplyError, match="sleep did not end within 1 s"):
        block_devices.run(["sleep", "5"], "the pool", seconds=1)


def test_file_systems_are_found_and_nothing_is_written(tmp_path: Path) -> None:
    empty, used = tmp_path / "empty", tmp_path / "used"
    for path in (empty, used):
        path.write_bytes(bytes(4 << 20))
    subprocess.run(["/sbin/mke2fs", "-q", "-t", "ext4", str(used)], check=True)
    before = used.read_bytes()
    assert block_devices.signatures(str(empty)) == []
    assert block_devices.signatures(str(used)) == ["ext4"]
    assert used.read_bytes() == before


def test_what_is_no_empty_device_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"")
    assert block_devices.device_problem(str(file)) == f"'{file}' is no block device"
    assert "is not there on the host" in str(block_devices.device_problem("/dev/no-such-device"))


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        ([], None),
        (["LVM2_member"], None),
        (["LVM2_member", "gpt"], "carries data (gpt)"),
        (["xfs"], "carries data (xfs)"),
    ],
)
def test_a_device_that_carries_data_is_refused_and_an_orphan_of_lvm_is_not(
    monkeypatch: pytest.MonkeyPatch, found: list[str], problem: str | None
) -> None:
    # Any device node does: nothing is read of it here.
    monkeypatch.setattr(block_devices.stat, "S_ISBLK", lambda _mode: True)
    monkeypatch.setattr(block_devices, "signatures", lambda _device: found)
    said = block_devices.device_problem("/dev/null")
    assert said is None if problem is None else problem in str(said)


def test_growing_zeroes_what_is_added_and_no_more(monkeypatch: pytest.MonkeyPatch, said: list[Any]) -> None:
    zeroed: list[Any] = []
    monkeypatch.setattr(block_devices, "device_size", lambda _path: 8 * EXTENT)
    monkeypatch.setattr(block_devices, "write_zeros", lambda *arguments: zeroed.append(arguments))
    block_devices.extend_volume("/dev/fast/a", 8 * EXTENT)
    assert (said, zeroed) == ([], [])
    said.append("")
    block_devices.extend_volume("/dev/fast/a", 10 * EXTENT)
    assert said == [["lvextend", "--quiet", "--size", f"{10 * EXTENT}b", "--", "/dev/fast/a"]]
    assert zeroed == [("/dev/fast/a", 8 * EXTENT, 2 * EXTENT)]
