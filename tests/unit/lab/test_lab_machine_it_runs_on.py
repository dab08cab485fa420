# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the lab asks of the machine it runs on, and how it takes after that machine."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lab import cli, debian_root, images, paths, prerequisites
from lab.errors import LabError
from lab.monitor import Monitor

REPOSITORY = Path(__file__).resolve().parents[3]

DEB822 = """\
# a comment
Types: deb
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://vendor.example/
Suites: nodistro
Components: main

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main
"""


@pytest.fixture
def apt(tmp_path: Path) -> Path:
    (tmp_path / "apt/sources.list.d").mkdir(parents=True)
    return tmp_path / "apt"


def test_the_machine_own_sources_are_used_and_only_those_of_the_suite(apt: Path) -> None:
    (apt / "sources.list.d/debian.sources").write_text(DEB822)
    text = debian_root.package_sources("bookworm", apt)
    assert "http://mirror.example/debian" in text
    for other in ("vendor.example", "off.example", "a comment", "deb.debian.org"):
        assert other not in text


def test_one_line_sources_are_understood(apt: Path) -> None:
    (apt / "sources.list").write_text(
        "deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian bookworm main\n"
        "deb-src http://mirror.example/debian bookworm main\n# deb http://no.example bookworm main\n"
    )
    (apt / "sources.list.d/more.list").write_text("deb http://vendor.example cloud-sdk-bookworm main\n")
    assert debian_root.package_sources("bookworm", apt) == (
        "deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian bookworm main\n"
    )


def test_a_machine_of_another_suite_uses_the_public_mirror(apt: Path) -> None:
    (apt / "sources.list.d/ubuntu.sources").write_text(DEB822.replace("bookworm", "noble"))
    text = debian_root.package_sources("bookworm", apt)
    assert "http://deb.debian.org/debian" in text
    assert "bookworm-security" in text
    assert "mirror.example" not in text


def test_a_proxy_on_the_machine_is_named_as_guests_reach_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dump = (
        'Acquire::http::Proxy "http://127.0.0.1:3128";\nAcquire::https::Proxy "http://localhost:3128";\n'
        'Acquire::Check-Date "false";\nAcquire::http "";\nAPT::Architecture "amd64";\nDPkg::Post-Invoke:: "rm -rf /";\n'
    )
    program = tmp_path / "bin/apt-config"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{dump}END\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    assert debian_root.package_options() == (
        'Acquire::http::Proxy "http://10.0.2.2:3128";\nAcquire::https::Proxy "http://10.0.2.2:3128";\n'
        'Acquire::Check-Date "false";\n'
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('ID=debian\nVERSION_ID="12"\n', "debian 12"),
        ("ID=ubuntu\nVERSION_ID='24.04'\n", "ubuntu 24.04"),
        ("", "unknown"),
    ],
)
def test_the_system_is_known_by_os_release(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "os-release").write_text(text)
    assert prerequisites.system(tmp_path / "os-release") == expected
    assert prerequisites.system(tmp_path / "none") == "unknown"


@pytest.fixture
def good_machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine that lacks nothing but two packages."""
    monkeypatch.setattr(prerequisites, "missing_packages", lambda: ["kmod", "mtools"])
    monkeypatch.setattr(prerequisites, "system", lambda: "debian 12")
    monkeypatch.setattr(prerequisites, "can_be_root", lambda: True)
    monkeypatch.setattr(prerequisites, "free_gib", lambda _: 100.0)
    monkeypatch.setattr(prerequisites, "memory_gib", lambda: 16.0)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    return monkeypatch


def test_a_good_machine_is_told_what_to_install(good_machine: pytest.MonkeyPatch) -> None:
    assert prerequisites.check() == ["kmod", "mtools"]


REFUSED = {
    "processor": ("platform.machine", lambda: "aarch64", "runs on x86_64 machines, this one is aarch64"),
    "disk": ("lab.prerequisites.free_gib", lambda _: 3.0, "needs 8 GiB of free disk below .*, there are 3.0"),
    "memory": ("lab.prerequisites.memory_gib", lambda: 1.5, "needs 4 GiB of available memory, there are 1.5"),
    "system": (
        "lab.prerequisites.system",
        lambda: "fedora 41",
        "kmod, mtools must be installed by hand: this is fedora 41",
    ),
    "rights": (
        "lab.prerequisites.can_be_root",
        lambda: False,
        "root, or sudo without a password, is needed to install kmod",
    ),
}


@pytest.mark.parametrize("lack", REFUSED)
def test_a_machine_that_cannot_run_the_lab_is_told_why_in_one_sentence(
    good_machine: pytest.MonkeyPatch, lack: str
) -> None:
    name, value, message = REFUSED[lack]
    good_machine.setattr(name, value)
    with pytest.raises(LabError, match=message) as refusal:
        prerequisites.check()
    assert "\n" not in str(refusal.value)


def test_another_system_will_do_if_nothing_is_missing(good_machine: pytest.MonkeyPatch) -> None:
    good_machine.setattr(prerequisites, "system", lambda: "fedora 41")
    good_machine.setattr(prerequisites, "missing_packages", list)
    assert prerequisites.check() == []


def test_packages_are_known_by_what_they_bring(tmp_path: Path) -> None:
    there, gone = tmp_path / "there", tmp_path / "gone"
    there.touch()
    wanted = {"a": "sh", "b": "no-such-program-here", "c": str(there), "d": str(gone)}
    assert prerequisites.missing_packages(wanted) == ["b", "d"]


def test_free_space_is_that_of_the_nearest_folder_that_exists(tmp_path: Path) -> None:
    assert prerequisites.free_gib(tmp_path / "not" / "yet") == pytest.approx(prerequisites.free_gib(tmp_path), abs=1)


def test_sockets_of_a_lab_deep_in_the_file_system_still_have_short_names(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 100) / "lab"
    folder = paths.socket_dir(deep)
    assert len(str(folder)) + 1 + paths.LONGEST_SOCKET_NAME <= paths.LONGEST_SOCKET_PATH
    assert folder.stat().st_mode & 0o777 == 0o700
    assert paths.socket_dir(deep) == folder
    assert paths.socket_dir(tmp_path / ("x" * 100) / "other") != folder
    folder.rmdir()
    paths.socket_dir(tmp_path / ("x" * 100) / "other").rmdir()


def test_sockets_of_a_lab_nearby_are_in_it(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = Path("/tmp") / f"bareforge-test-{tmp_path_factory.getbasetemp().name}"
    assert paths.socket_dir(folder) == folder / "sockets"
    (folder / "sockets").rmdir()
    folder.rmdir()


def test_someone_else_socket_folder_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("x" * 100)
    folder = paths.socket_dir(deep)
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(LabError, match="is not a folder of user"):
        paths.socket_dir(deep)
    folder.unlink()


@pytest.mark.parametrize("chosen", [None, "relative", "/absolute"])
def test_the_lab_lies_where_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, chosen: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    if chosen:
        monkeypatch.setenv("BAREFORGE_LAB_DIR", chosen)
    expected = {None: REPOSITORY / ".lab", "relative": tmp_path / "relative", "/absolute": Path("/absolute")}[chosen]
    assert paths.lab_dir() == expected


def test_errors_are_one_sentence_and_status_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("signal.signal", lambda *_: None)
    assert cli.main(["image", "nothing"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("lab: there is no image 'nothing': choose one of ")
    assert captured.err.count("\n") == 1


def test_the_folder_runs_as_a_program(tmp_path: Path) -> None:
    argv = [sys.executable, str(REPOSITORY / "tests/lab"), "status", "--json"]
    environment = {"PATH": "/usr/bin:/bin", "XDG_CACHE_HOME": str(tmp_path), "BAREFORGE_LAB_DIR": str(tmp_path / "lab")}
    done = subprocess.run(argv, capture_output=True, text=True, env=environment, cwd=tmp_path, check=True)
    status = json.loads(done.stdout)
    assert status["servers"] == {}
    assert status["folder"] == str(tmp_path / "lab")


class QemuStandIn(threading.Thread):
    """Speaks QMP on a socket: the greeting, then what it was told to answer."""

    def __init__(self, path: Path, answers: list[object]) -> None:
        super().__init__(daemon=True)
        self.asked: list[dict[str, object]] = []
        self._answers = answers
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()

    def run(self) -> None:
        connection, _ = self._listener.accept()
        with connection, self._listener, connection.makefile("rwb") as lines:
            lines.write(b'{"QMP": {"version": {}, "capabilities": []}}\n')
            lines.flush()
            for answer in [{"return": {}}, *self._answers]:
                self.asked.append(json.loads(lines.readline()))
                lines.write(b'{"event": "STOP", "timestamp": {}}\n' + json.dumps(answer).encode() + b"\n")
                lines.flush()


@pytest.fixture
def qmp_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("q") / "qmp"


def test_events_between_answers_are_passed_over(qmp_path: Path) -> None:
    qemu = QemuStandIn(qmp_path, [{"return": {"status": "running"}}])
    qemu.start()
    with Monitor(qmp_path, timeout=10) as monitor:
        assert monitor.execute("query-status") == {"status": "running"}
    qemu.join(10)
    assert [question["execute"] for question in qemu.asked] == ["qmp_capabilities", "query-status"]


@pytest.mark.parametrize("said", ["Error: No block device can accept snapshots\r\n", "unknown command: 'savvm'\r\n"])
def test_what_the_human_monitor_calls_an_error_is_one(qmp_path: Path, said: str) -> None:
    QemuStandIn(qmp_path, [{"return": said}]).start()
    with Monitor(qmp_path, timeout=10) as monitor, pytest.raises(LabError, match="QEMU refused 'savevm a'"):
        monitor.human("savevm a")


def test_a_refused_command_is_quoted(qmp_path: Path) -> None:
    QemuStandIn(qmp_path, [{"error": {"class": "GenericError", "desc": "not now"}}]).start()
    with Monitor(qmp_path, timeout=10) as monitor, pytest.raises(LabError, match="QEMU refused cont: not now"):
        monitor.execute("cont")


def test_an_emulator_that_is_gone_is_an_error(qmp_path: Path) -> None:
    with pytest.raises(LabError, match="does not answer"):
        Monitor(qmp_path, timeout=1)
    qemu = QemuStandIn(qmp_path, [])
    qemu.start()
    with Monitor(qmp_path, timeout=10) as monitor:
        qemu.join(10)
        with pytest.raises(LabError, match=r"closed its monitor|stopped answering"):
            monitor.execute("query-status")


def test_what_was_not_used_for_long_is_forgotten(tmp_path: Path) -> None:
    for name, age in (("new", 0), ("old", 20)):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (time.time() - age * 86400,) * 2)
    assert images.forget_unused(tmp_path, days=14) == ["old"]
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
