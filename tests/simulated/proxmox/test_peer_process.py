# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The simulated node as a process of its own, as molecule starts it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from proxmoxer import ProxmoxAPI

TESTS = Path(__file__).resolve().parents[2]


def command(word, folder):
    return subprocess.run(
        [sys.executable, "-m", "peers.pve", word, str(folder)],
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )


def is_gone(number):
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if not Path(f"/proc/{number}").exists():
            return True
        time.sleep(0.1)
    return False


@pytest.fixture
def folder(tmp_path):
    started = tmp_path / "peer"
    command("start", started)
    yield started
    command("stop", started)


def test_it_answers_is_started_once_and_writes_down_what_does_not_fit(folder):
    reached = json.loads((folder / "node.json").read_text(encoding="utf-8"))
    assert (folder / "node.json").stat().st_mode & 0o777 == 0o600
    number = (folder / "pid").read_text(encoding="ascii")
    command("start", folder)
    assert (folder / "pid").read_text(encoding="ascii") == number
    api = ProxmoxAPI(
        reached["host"],
        port=reached["port"],
        user=reached["user"],
        password=reached["password"],
        verify_ssl=reached["ca_file"],
    )
    assert [entry["node"] for entry in api.nodes.get()] == ["pve1"]
    assert (folder / "violations").read_text(encoding="utf-8") == ""
    with pytest.raises(Exception, match="property is not defined in schema"):
        api.pools.post(poolid="team", colour="blue")
    assert "colour" in (folder / "violations").read_text(encoding="utf-8")
    command("stop", folder)
    assert is_gone(int(number)) and not (folder / "pid").exists()


def test_it_ends_where_its_folder_is_removed(folder):
    number = int((folder / "pid").read_text(encoding="ascii"))
    shutil.rmtree(folder)
    assert is_gone(number)
