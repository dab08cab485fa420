# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The copy of the code on a host: made once, used after, and never where it could be somebody else's."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.boundary import code_cache

PACKAGE = code_cache.PACKAGE.replace(".", "/")
SOURCE = Path(code_cache.__file__).read_text("utf-8")

# What a module does: it is loaded from the archive, makes the copy, and imports the rest.
PROGRAM = f"""
import sys
sys.dont_write_bytecode = False
sys.path.insert(0, sys.argv[1])
from {code_cache.PACKAGE}.boundary.code_cache import use_code_cache
print(use_code_cache(folder=sys.argv[2]))
from {code_cache.PACKAGE} import late
print(late.__file__)
print(late.ANSWER)
"""


@pytest.fixture
def run(tmp_path):
    def run(answer=1, folder=tmp_path / "cache"):
        archive = tmp_path / "payload.zip"
        with zipfile.ZipFile(archive, "w") as payload:
            for folder_of_code in [*list(Path(PACKAGE).parents)[-2::-1], Path(PACKAGE), Path(PACKAGE) / "boundary"]:
                payload.writestr(f"{folder_of_code}/__init__.py", "")
            payload.writestr(f"{PACKAGE}/boundary/code_cache.py", SOURCE)
            payload.writestr(f"{PACKAGE}/late.py", f"ANSWER = {answer}\n")
            payload.writestr("ansible/module_utils/basic.py", "")
        done = subprocess.run(
            [sys.executable, "-S", "-c", PROGRAM, str(archive), str(folder)],
            capture_output=True,
            text=True,
            check=True,
            env={name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
        )
        return done.stdout.splitlines()

    return run


def test_the_rest_comes_from_the_copy(run, tmp_path):
    copy, file, answer = run()
    assert file == f"{copy}/late.py"
    assert answer == "1"
    assert Path(copy).is_relative_to(tmp_path / "cache")
    assert not (tmp_path / "cache" / "ansible").exists()


def test_it_is_compiled_once(run):
    copy = Path(run()[0])
    (compiled,) = (copy / "__pycache__").iterdir()
    made = compiled.stat().st_mtime_ns
    run()
    assert compiled.stat().st_mtime_ns == made


def test_other_code_has_a_copy_of_its_own(run, tmp_path):
    first, second = run(1), run(2)
    assert first[0] != second[0]
    assert (first[2], second[2]) == ("1", "2")
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_old_copies_go(run, tmp_path):
    run(1)
    (old,) = (tmp_path / "cache").iterdir()
    (tmp_path / "cache" / ".left-by-a-killed-task").mkdir()
    for path in (tmp_path / "cache").iterdir():
        os.utime(path, (0, 0))
    run(2)
    assert not old.exists()
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_copy_that_others_can_write_to_is_not_used(run, tmp_path):
    run()
    (copy,) = (tmp_path / "cache").iterdir()
    copy.chmod(0o777)
    told, file, answer = run()
    assert told == "None"
    assert "payload.zip" in file
    assert answer == "1"


def test_a_link_is_not_followed(run, tmp_path):
    real = tmp_path / "elsewhere"
    real.mkdir()
    (tmp_path / "cache").symlink_to(real)
    assert run()[0] == "None"
    assert list(real.iterdir()) == []


def test_no_place_for_a_copy(run, tmp_path):
    occupied = tmp_path / "file"
    occupied.write_text("")
    assert run(folder=occupied / "cache")[0] == "None"


def test_without_an_archive_nothing_is_done(tmp_path):
    assert code_cache.use_code_cache(folder=str(tmp_path / "cache")) is None
    assert not (tmp_path / "cache").exists()
