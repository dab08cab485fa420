# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Processes side by side: their results, their deadlines, and that nothing of them stays."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import ConnectError
from ansible_collections.bareforge.hypervisor.plugins.plugin_utils.side_by_side import Outcome, side_by_side


def is_there(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 20
    while is_there(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_there(pid)


def test_each_has_its_result_from_a_process_of_its_own() -> None:
    found = side_by_side(["a", "b"], lambda name: [name, os.getpid()], 60, 5)
    assert {name: outcome.value[0] for name, outcome in found.items()} == {"a": "a", "b": "b"}
    assert len({os.getpid(), *(outcome.value[1] for outcome in found.values())}) == 3


def test_nothing_to_do() -> None:
    assert side_by_side([], lambda name: name, 60, 5) == {}


def test_a_result_larger_than_a_pipe_holds() -> None:
    assert side_by_side(["a"], lambda name: name * 1_000_000, 60, 1)["a"].value == "a" * 1_000_000


def test_what_is_raised_is_told_with_its_phase_and_the_others_go_on() -> None:
    def work(name: str) -> str:
        if name == "bad":
            raise ConnectError("port 22 is closed", "Open it")
        if name == "odd":
            raise ValueError("no luck")
        return name

    found = side_by_side(["bad", "good", "odd"], work, 60, 5)
    assert found["bad"] == Outcome(error="port 22 is closed. Open it", phase="connect")
    assert found["odd"] == Outcome(error="ValueError: no luck", phase="internal")
    assert found["good"] == Outcome("good")


def test_no_more_than_so_many_run_at_once(tmp_path: Path) -> None:
    def work(name: str) -> int:
        (tmp_path / name).touch()
        time.sleep(0.3)
        there = len(list(tmp_path.iterdir()))
        (tmp_path / name).unlink()
        return there

    found = side_by_side([str(number) for number in range(6)], work, 60, 2)
    assert {outcome.value for outcome in found.values()} <= {1, 2}
    assert len(found) == 6


def test_one_that_stalls_is_ended_at_its_deadline_with_what_it_has_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"

    def work(name: str) -> str:
        if name == "stalls":
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            pids.write_text(f"{os.getpid()} {child.pid}", encoding="utf-8")
            child.wait()
        return name

    began = time.monotonic()
    found = side_by_side(["stalls", "works"], work, 3, 5)
    assert time.monotonic() - began < 60
    assert found["works"].value == "works"
    assert found["stalls"] == Outcome(error="gave no answer within 3 s", phase="connect")
    for pid in pids.read_text(encoding="utf-8").split():
        wait_until_gone(int(pid))


def test_one_that_dies_is_told() -> None:
    found = side_by_side(["dies"], lambda _name: os._exit(7), 60, 1)
    assert found["dies"] == Outcome(error="its process ended with status 7", phase="internal")


def test_an_interrupt_ends_what_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ansible_collections.bareforge.hypervisor.plugins.plugin_utils import side_by_side as module

    pid = tmp_path / "pid"

    def work(_name: str) -> None:
        pid.write_text(str(os.getpid()), encoding="utf-8")
        time.sleep(600)

    def interrupted(*_values: object, **_options: object) -> list[object]:
        deadline = time.monotonic() + 30
        while not (pid.exists() and pid.read_text(encoding="utf-8")) and time.monotonic() < deadline:
            time.sleep(0.05)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        side_by_side(["a"], work, 60, 1)
    wait_until_gone(int(pid.read_text(encoding="utf-8")))


def test_what_a_process_prints_is_not_on_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    side_by_side(["a"], lambda _name: os.write(1, b"noise\n"), 60, 1)
    assert capfd.readouterr().out == ""
