# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The choice of an accelerator: the user's word, or a probe that has really run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lab import accelerator
from lab.errors import LabError

KERNEL = Path("/kernel")


@pytest.mark.parametrize("name", ["kvm", "tcg"])
def test_the_user_decides_without_a_probe(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("BAREFORGE_ACCEL", name)
    monkeypatch.setattr(accelerator, "boots", lambda *_: pytest.fail("there was a probe"))
    assert accelerator.accelerator(KERNEL) == name


def test_another_word_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAREFORGE_ACCEL", "hvf")
    with pytest.raises(LabError, match="BAREFORGE_ACCEL is 'hvf': kvm and tcg are allowed"):
        accelerator.accelerator(KERNEL)


@pytest.mark.parametrize(
    ("opens", "boots", "expected"), [(True, True, "kvm"), (True, False, "tcg"), (False, True, "tcg")]
)
def test_kvm_has_to_open_and_to_boot(monkeypatch: pytest.MonkeyPatch, opens: bool, boots: bool, expected: str) -> None:
    monkeypatch.setattr(accelerator, "_opens", lambda _: opens)
    monkeypatch.setattr(accelerator, "boots", lambda *_: boots)
    assert accelerator.accelerator(KERNEL) == expected


def test_the_answer_is_kept_until_the_next_boot(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    probes: list[str] = []

    def boots(_kernel: Path, name: str) -> bool:
        probes.append(name)
        return True

    monkeypatch.setattr(accelerator, "_opens", lambda _: True)
    monkeypatch.setattr(accelerator, "boots", boots)
    assert [accelerator.accelerator(KERNEL) for _ in range(3)] == ["kvm"] * 3
    assert probes == ["kvm"]
    (cache / "accelerator.json").write_text(json.dumps({"boot_id": "another boot", "accelerator": "kvm"}))
    accelerator.accelerator(KERNEL)
    assert probes == ["kvm", "kvm"]


@pytest.mark.parametrize("record", ["", "[]", "{}", '{"boot_id": 1}'])
def test_a_broken_record_is_no_answer(monkeypatch: pytest.MonkeyPatch, cache: Path, record: str) -> None:
    cache.mkdir(parents=True)
    (cache / "accelerator.json").write_text(record)
    monkeypatch.setattr(accelerator, "_opens", lambda _: False)
    assert accelerator.accelerator(KERNEL) == "tcg"


def fake_qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program = tmp_path / "bin" / accelerator.QEMU
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")


def test_a_guest_that_says_it_is_in_user_space_has_booted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_qemu(tmp_path, monkeypatch, f"echo {accelerator._MARK.decode()}")
    assert accelerator.boots(KERNEL, "kvm")


def test_a_guest_that_dies_silently_has_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_qemu(tmp_path, monkeypatch, "exit 134")
    assert not accelerator.boots(KERNEL, "kvm")


def test_a_guest_that_hangs_has_not_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_qemu(tmp_path, monkeypatch, "exec sleep 30")
    assert not accelerator.boots(KERNEL, "kvm", seconds=0.3)


def test_the_probe_says_so_and_switches_off() -> None:
    archive = accelerator.probe_initramfs(Path("/bin/busybox"))
    assert archive.startswith(b"070701")
    assert accelerator._MARK in archive
    assert b"poweroff -f" in archive
