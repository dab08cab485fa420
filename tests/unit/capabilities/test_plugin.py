# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The pytest plugin, in runs of pytest of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[2]
CONFTEST = """
def pytest_configure(config):
    config.pluginmanager.import_plugin("capabilities.plugin")
"""


def run_pytest(folder: Path, tests: str, *arguments: str) -> tuple[int, str, list[dict[str, str]]]:
    """Run pytest on a file of tests and return its status, what it printed and what the plugin wrote."""
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_it.py").write_text(f"import pytest\n{tests}")
    record = folder / "record.json"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments, "test_it.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(TESTS), "BAREFORGE_CAPABILITIES": str(record)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr, json.loads(record.read_text()) if record.exists() else []


@pytest.mark.parametrize("arguments", [(), ("-n", "2")], ids=["alone", "with workers"])
def test_outcomes_are_written_down(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    if arguments:
        pytest.importorskip("xdist")
    status, printed, record = run_pytest(
        tmp_path,
        """
@pytest.mark.capability("kvm", "vm", "vm.tpm", ran_against="our simulator")
@pytest.mark.parametrize("number", [1, 2])
def test_good(number): pass

@pytest.mark.capability("kvm", "template", ran_against="real")
def test_bad(): assert False

@pytest.mark.capability("kvm", "snapshot", ran_against="our simulator")
def test_skipped(): pytest.skip("not here")

def test_unmarked(): pass
""",
        *arguments,
    )
    assert status == 1, printed
    assert {(entry["shown_by"].split("::")[1], entry["capability"]): entry["outcome"] for entry in record} == {
        ("test_good[1]", "vm"): "passed",
        ("test_good[1]", "vm.tpm"): "passed",
        ("test_good[2]", "vm"): "passed",
        ("test_good[2]", "vm.tpm"): "passed",
        ("test_bad", "template"): "failed",
        ("test_skipped", "snapshot"): "skipped",
    }


@pytest.mark.parametrize(
    "body",
    [
        "def test_it(): pytest.skip('no host')",
        "@pytest.mark.skip(reason='no host')\ndef test_it(): pass",
        "@pytest.mark.xfail\ndef test_it(): assert False",
    ],
    ids=["in the test", "by a marker", "expected to fail"],
)
def test_skip_of_what_is_marked_real_fails(tmp_path: Path, body: str) -> None:
    status, printed, record = run_pytest(tmp_path, f'@pytest.mark.capability("kvm", "vm", ran_against="real")\n{body}')
    assert status == 1, printed
    assert "1 failed" in printed or "1 error" in printed
    assert [entry["outcome"] for entry in record] == ["failed"]


@pytest.mark.parametrize(
    ("mark", "message"),
    [
        ('"kvm", "vm"', "wants ran_against"),
        ('"kvm", "vm", ran_against="a dream"', "wants ran_against"),
        ('"kvm", ran_against="real"', "at least one capability"),
    ],
)
def test_marker_that_says_too_little_is_refused(tmp_path: Path, mark: str, message: str) -> None:
    status, printed, _record = run_pytest(tmp_path, f"@pytest.mark.capability({mark})\ndef test_it(): pass")
    assert status == 4, printed
    assert message in printed


def test_collected_tests_have_not_run(tmp_path: Path) -> None:
    status, _printed, record = run_pytest(
        tmp_path, '@pytest.mark.capability("kvm", "vm", ran_against="real")\ndef test_it(): pass', "--collect-only"
    )
    assert status == 0
    assert [entry["outcome"] for entry in record] == ["not run"]
