# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs the tests of what is shipped to managed hosts on the oldest Python there, 3.9.

Usage: oldest_python.py [ARGUMENT...], from `make unit`; arguments go to pytest. Where the machine has no Python 3.9, that is
said, with the JUnit file holding one skipped test; `make lint` then still checks syntax (ruff) and the standard library's
names (vermin) against 3.9.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

from interpreters import real_interpreters

ROOT = Path(__file__).resolve().parents[2]
OLDEST = (3, 9)
ENVIRONMENT = ROOT / ".cache" / "python3.9"
STAMP = ENVIRONMENT / "made-from"
REQUIREMENTS = ROOT / "requirements-python39.txt"
SHIPPED_TESTS = ("tests/unit/plugins/module_utils", "tests/unit/plugins/modules")
NOT_THERE = """<?xml version="1.0"?>
<testsuites><testsuite name="python39" tests="1" skipped="1"><testcase classname="oldest_python" name="python3.9">
<skipped message="no Python 3.9 on this machine"/></testcase></testsuite></testsuites>
"""


def make_environment(interpreter: Path) -> Path:
    """Make the virtual environment if it is not there as it shall be, and return its Python.

    ansible-core's own module_utils run on 3.9 although the rest of it does not: they are linked.
    """
    python = ENVIRONMENT / "bin" / "python"
    spec = importlib.util.find_spec("ansible")
    if spec is None or spec.origin is None:
        raise RuntimeError("ansible-core is not installed beside this Python.")
    ansible = Path(spec.origin).parent
    stamp = f"{interpreter}\n{ansible}\n{hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()}\n"
    if STAMP.exists() and STAMP.read_text(encoding="utf-8") == stamp and os.access(python, os.X_OK):
        return python
    shutil.rmtree(ENVIRONMENT, ignore_errors=True)
    subprocess.run([interpreter, "-m", "venv", ENVIRONMENT], check=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-input", "--requirement", REQUIREMENTS], check=True)
    (ENVIRONMENT / "lib" / "python3.9" / "site-packages" / "ansible").symlink_to(ansible)
    STAMP.write_text(stamp, encoding="utf-8")
    return python


def main() -> int:
    """Run the tests and return pytest's exit status."""
    parser = argparse.ArgumentParser(description="Tests of module_utils on Python 3.9.")
    parser.add_argument("--junitxml", type=Path, required=True)
    options, arguments = parser.parse_known_args()
    interpreter = real_interpreters().get(OLDEST)
    if interpreter is None:
        print(
            "No Python 3.9 on this machine: module_utils were not run on it; ruff and vermin still checked them for 3.9."
        )
        options.junitxml.write_text(NOT_THERE, encoding="utf-8")
        return 0
    python = make_environment(interpreter)
    folders = [folder for folder in SHIPPED_TESTS if (ROOT / folder).exists()]
    command = [
        str(python),
        "-m",
        "pytest",
        "--quiet",
        "-ra",
        f"--numprocesses={min(2, os.cpu_count() or 1)}",
        "--dist=worksteal",
        f"--junitxml={options.junitxml}",
        "-o",
        "junit_suite_name=python3.9",
        # Looks at the sources with the syntax trees and the list of library names of a newer Python.
        "--ignore=tests/unit/plugins/module_utils/test_python_version.py",
    ]
    environment = {key: value for key, value in os.environ.items() if key != "BAREFORGE_CAPABILITIES"}
    return subprocess.run([*command, *arguments, *folders], cwd=ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
