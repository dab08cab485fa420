# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Interpreters are told by their names, and pyenv's shims are none."""

from __future__ import annotations

from pathlib import Path

import interpreters
import pytest


def program(path: Path, mode: int = 0o755) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode)
    return path.resolve()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "nowhere"))
    monkeypatch.setenv("PATH", f"{tmp_path}/pyenv/shims:{tmp_path}/bin")
    return tmp_path


def test_real_interpreters_behind_shims_are_found(machine: Path) -> None:
    program(machine / "pyenv/shims/python3.47")
    real = program(machine / "pyenv/versions/3.48.1/bin/python3.48")
    found = interpreters.real_interpreters()
    assert found[3, 48] == real
    assert (3, 47) not in found


def test_newest_patch_release_of_pyenv_is_taken(machine: Path) -> None:
    program(machine / "pyenv/versions/3.48.9/bin/python3.48")
    newest = program(machine / "pyenv/versions/3.48.10/bin/python3.48")
    assert interpreters.real_interpreters()[3, 48] == newest


def test_path_comes_before_pyenv(machine: Path) -> None:
    program(machine / "pyenv/versions/3.48.1/bin/python3.48")
    first = program(machine / "bin/python3.48")
    assert interpreters.real_interpreters()[3, 48] == first


def test_what_cannot_be_run_or_is_no_interpreter_is_left_out(machine: Path) -> None:
    program(machine / "bin/python3.48", mode=0o644)
    program(machine / "bin/python3.47-config")
    assert not {(3, 47), (3, 48)} & set(interpreters.real_interpreters())


def test_shims_are_taken_off_a_path() -> None:
    assert interpreters.without_shims("/a:/root/.pyenv/shims:/b") == "/a:/b"
