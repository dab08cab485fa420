# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A stage counts what its checks leave behind, and nothing that an earlier run left."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

import pytest
import run_stages
from counts import Count, of_junit
from run_stages import Check, Screen


@pytest.fixture(autouse=True)
def report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(run_stages, "ROOT", tmp_path)
    monkeypatch.setattr(run_stages, "REPORT", tmp_path)
    return tmp_path


def check(code: str, **more: object) -> Check:
    return Check("it", (sys.executable, "-c", code), **more)  # type: ignore[arg-type]


def test_command_without_counts_is_one_test(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_stages.run_check("stage", check("print('fine')"), Screen()) == Count(passed=1)
    assert "fine" not in capsys.readouterr().out


def test_end_of_the_log_of_a_failure_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_stages.run_check("stage", check("import sys; print('broken'); sys.exit(3)"), Screen()) == Count(failed=1)
    assert "| broken" in capsys.readouterr().out


def test_results_of_an_earlier_run_do_not_count(report: Path) -> None:
    junit = report / "junit.xml"
    junit.write_text('<testsuite><testcase name="old"/></testsuite>')
    stale = check("", results=(junit,), counts=lambda: of_junit([junit]))
    assert run_stages.run_check("stage", stale, Screen()) == Count(failed=1)


def test_failure_that_no_test_accounts_for_counts(report: Path) -> None:
    junit = report / "junit.xml"
    code = f"open({str(junit)!r}, 'w').write('<testsuite><testcase/></testsuite>'); raise SystemExit(2)"
    assert run_stages.run_check("stage", check(code, counts=lambda: of_junit([junit])), Screen()) == Count(1, 1)


def test_command_is_ended_at_its_deadline_with_what_it_started(report: Path) -> None:
    script = f"sleep 60 & echo $! > {shlex.quote(str(report / 'pid'))}; wait"
    slow = Check("it", ("sh", "-c", script), deadline=3)
    assert run_stages.run_check("stage", slow, Screen()).failed == 1
    state = Path(f"/proc/{(report / 'pid').read_text().strip()}/stat")
    assert not state.exists() or state.read_text().split()[2] == "Z"


def test_later_stages_run_after_one_that_failed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        run_stages, "STAGES", {"one": lambda: [check("raise SystemExit(1)")], "two": lambda: [check("")]}
    )
    assert run_stages.main(["one", "two"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "1 passed, 1 failed"


WAITS = """
import os, pathlib, time
deadline = time.monotonic() + 30
while not pathlib.Path("began").exists():
    assert time.monotonic() < deadline
    time.sleep(0.05)
pathlib.Path("nice").write_text(str(os.nice(0)))
"""


def test_a_stage_that_waits_for_a_server_runs_beside_the_others_and_first(
    monkeypatch: pytest.MonkeyPatch, report: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begins = check("import pathlib; pathlib.Path('began').touch(); raise SystemExit(1)")
    monkeypatch.setattr(run_stages, "STAGES", {"one": lambda: [check(WAITS)], "two": lambda: [begins]})
    monkeypatch.setattr(run_stages, "BESIDE", {"two"})
    assert run_stages.main(["one", "two"]) == 1
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said[-4:-2]] == ["one", "two"]
    assert said[-1] == "1 passed, 1 failed"
    assert int((report / "nice").read_text()) == min(19, os.nice(0) + 5)


def test_what_was_shown_is_looked_at_when_all_has_run(monkeypatch: pytest.MonkeyPatch, report: Path) -> None:
    shows = check("import time, pathlib; time.sleep(1); pathlib.Path('shown').touch()")
    looks = check("import pathlib; assert pathlib.Path('shown').exists()")
    monkeypatch.setattr(run_stages, "STAGES", {"two": lambda: [shows], "capabilities": lambda: [looks]})
    monkeypatch.setattr(run_stages, "BESIDE", {"two"})
    assert run_stages.main(["two", "capabilities"]) == 0


def test_stage_that_does_not_exist_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_stages.main(["lnit"]) == 2
    assert "there is no stage 'lnit'; allowed is lint, unit" in capsys.readouterr().err
    assert run_stages.main(["molecule:nowhere"]) == 2
