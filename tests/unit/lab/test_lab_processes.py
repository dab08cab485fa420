# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A pid file is trusted only if the process itself vouches for it."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from lab import processes
from lab.errors import LabError

Sleeper = Callable[..., "subprocess.Popen[bytes]"]


def test_a_process_that_names_its_pid_file_is_ours(tmp_path: Path, sleeper: Sleeper) -> None:
    pid_file = tmp_path / "pid"
    process = sleeper("-pidfile", str(pid_file))
    pid_file.write_text(f"{process.pid}\n")
    assert processes.pid_of(pid_file) == process.pid


def test_a_foreign_process_under_the_recorded_pid_is_not_ours_and_is_left_alone(
    tmp_path: Path, sleeper: Sleeper
) -> None:
    pid_file = tmp_path / "pid"
    foreign = sleeper("-pidfile", str(tmp_path / "pid2"))
    pid_file.write_text(f"{foreign.pid}\n")
    assert processes.pid_of(pid_file) is None
    assert processes.stop(pid_file) is False
    assert foreign.poll() is None
    assert not pid_file.exists()


@pytest.mark.parametrize("content", ["", "abc", "-1", "0", "1", "99999999"])
def test_what_is_no_pid_of_ours_is_nobody(tmp_path: Path, content: str) -> None:
    pid_file = tmp_path / "pid"
    pid_file.write_text(content)
    assert processes.pid_of(pid_file) is None


def test_a_missing_pid_file_is_nobody(tmp_path: Path) -> None:
    assert processes.pid_of(tmp_path / "pid") is None


def test_stop_ends_our_process_and_removes_the_file(tmp_path: Path, sleeper: Sleeper) -> None:
    pid_file = tmp_path / "pid"
    process = sleeper(str(pid_file))
    pid_file.write_text(str(process.pid))
    assert processes.stop(pid_file) is True
    process.wait(timeout=10)
    assert not pid_file.exists()


def test_stop_kills_what_does_not_listen(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    script = "trap '' TERM; echo; while :; do sleep 0.1; done"
    with subprocess.Popen(["sh", "-c", script, "sh", str(pid_file)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        pid_file.write_text(str(process.pid))
        assert processes.stop(pid_file, patience=0.3) is True
        assert process.wait(timeout=10) == -9


def test_a_daemon_must_name_its_pid_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a word"):
        processes.start_daemon(["sleep", "60"], tmp_path / "pid", tmp_path / "log")


def test_a_daemon_is_found_again_and_stopped(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    pid = processes.start_daemon(["sh", "-c", "sleep 60; :", "sh", str(pid_file)], pid_file, tmp_path / "log")
    assert processes.pid_of(pid_file) == pid
    assert processes.stop(pid_file) is True
    assert processes.pid_of(pid_file) is None


def test_a_failing_tool_is_quoted_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"^sh ended with status 3 .*: it broke$"):
        processes.run(["sh", "-c", "echo it broke >&2; exit 3"], log=tmp_path / "log")
    with pytest.raises(LabError, match=r"^sh ended with status 4: that broke$"):
        processes.run(["sh", "-c", "echo that broke >&2; exit 4"])


def test_a_missing_tool_says_how_to_get_it() -> None:
    with pytest.raises(
        LabError, match="no-such-tool is not installed: run `python3 tests/lab prerequisites --install`"
    ):
        processes.run(["no-such-tool"])


def test_a_lock_lets_one_in_at_a_time(tmp_path: Path) -> None:
    inside, most = 0, 0
    gate = threading.Lock()

    def work() -> None:
        nonlocal inside, most
        with processes.locked(tmp_path / "lock", "the test"):
            with gate:
                inside += 1
                most = max(most, inside)
            threading.Event().wait(0.02)
            with gate:
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_writing_replaces_whole_files_and_keeps_the_mode(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file"
    processes.write_atomically(target, "one", mode=0o600)
    processes.write_atomically(target, "two", mode=0o600)
    assert target.read_text() == "two"
    assert target.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in target.parent.iterdir()] == ["file"]


@pytest.mark.parametrize(("uid", "expected"), [(0, ["mke2fs", "/x"]), (1000, ["sudo", "-n", "mke2fs", "/x"])])
def test_only_others_than_root_need_sudo(monkeypatch: pytest.MonkeyPatch, uid: int, expected: list[str]) -> None:
    monkeypatch.setattr("os.geteuid", lambda: uid)
    assert processes.as_root(["mke2fs", Path("/x")]) == expected
