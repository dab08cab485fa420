# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import ApplyError, ReadError
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.host_files import (
    read_file,
    read_json,
    remove_file,
    write_atomically,
    write_json,
)


def test_file_is_replaced_with_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file"
    write_atomically(str(path), b"one", 0o644)
    write_atomically(str(path), b"two", 0o600)
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(path.parent) == ["file"]


def test_file_is_the_old_one_whole_where_writing_breaks_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(str(path), b"old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ApplyError, match=f"{path} could not be written: No space left on device"):
        write_atomically(str(path), b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    write_atomically(str(path), b"new")
    assert os.listdir(tmp_path) == ["file"]


def test_link_in_the_place_of_the_temporary_file_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("untouched")
    (tmp_path / ".file.new").symlink_to(target)
    write_atomically(str(tmp_path / "file"), b"new")
    assert target.read_text() == "untouched"


def test_reading_and_removing_what_is_not_there(tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    assert read_file(path) is None
    assert read_json(path) is None
    assert remove_file(path) is False
    write_atomically(path, b"x")
    assert remove_file(path) is True


@pytest.mark.parametrize("data", [{"a": ["\u00fc", None, 1]}, [], "x"])
def test_json_comes_back_as_it_went(tmp_path: Path, data: Any) -> None:
    write_json(str(tmp_path / "file"), data)
    assert read_json(str(tmp_path / "file")) == data


def test_what_is_no_json_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\xff{")
    with pytest.raises(ReadError, match="holds no JSON"):
        read_json(str(tmp_path / "file"))
