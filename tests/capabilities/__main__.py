# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Command line: `python -m capabilities check | ran | table`, with tests/ and collections/ on PYTHONPATH."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from capabilities.comparison import Declared, problems_of_declaration, problems_of_run
from capabilities.showings import ROOT, Showing, ShowingError, of_scenario, scenarios
from capabilities.table import TableError, between_markers, page, summary

REPORT = ROOT / ".report"
PAGE = ROOT / "docs" / "capabilities.md"
README = ROOT / "README.md"
FOLDERS = ("tests/unit", "tests/properties", "tests/contract", "tests/faults", "tests/simulated", "tests/real")


def declared_capabilities() -> Declared:
    """Return what the platforms of the registry declare."""
    from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.registry import (
        PLATFORMS,
        platform_class,
    )

    return {name: platform_class(name).declared_capabilities() for name in PLATFORMS}


def marked_tests() -> list[Showing]:
    """Return what all tests say that they show, without running them. Raises ShowingError if they cannot be collected."""
    folders = [folder for folder in FOLDERS if (ROOT / folder).exists()]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "collected.json"
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "--collect-only", "--quiet", *folders],
            cwd=ROOT,
            env={**os.environ, "BAREFORGE_CAPABILITIES": str(file)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise ShowingError(f"the tests cannot be collected:\n{done.stdout[-3000:]}{done.stderr[-1000:]}")
        return read_records(file)


def read_records(file: Path) -> list[Showing]:
    """Return what the pytest plugin wrote; nothing if it did not run."""
    if not file.exists():
        return []
    return [Showing(**record) for record in json.loads(file.read_text(encoding="utf-8"))]


def steps(names: Sequence[str]) -> list[Showing]:
    """Return what the steps of scenarios show, with what became of them in the run that the report holds."""
    return [showing for name in names for showing in of_scenario(name, report=REPORT / "molecule" / f"{name}.jsonl")]


def documents(declared: Declared, showings: Sequence[Showing]) -> dict[Path, str]:
    """Return the generated documents as they should be."""
    readme = between_markers(README.read_text(encoding="utf-8"), summary(declared, showings), README.name)
    return {PAGE: page(declared, showings), README: readme}


def all_showings() -> list[Showing]:
    """Return what all tests and all scenarios say that they show."""
    return [*marked_tests(), *steps(scenarios())]


def check() -> list[str]:
    """Return what is wrong with declarations, markers, manifests and the documents."""
    declared, showings = declared_capabilities(), all_showings()
    problems = problems_of_declaration(declared, showings)
    for file, text in documents(declared, showings).items():
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            problems.append(f"{file.relative_to(ROOT)} is not what the code declares: run `make docs`.")
    return problems


def ran(tests: bool, names: Sequence[str]) -> list[str]:
    """Return what should have been shown in this run and was not.

    tests: whether the marked tests had to run.
    names: the scenarios that had to run.
    """
    expected = marked_tests() if tests else []
    records = [record for file in (REPORT / "capabilities").glob("*.json") for record in read_records(file)]
    return problems_of_run([*expected, *steps(names)], [*records, *steps(names)])


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return the exit status: 0 if there is nothing to complain about."""
    parser = argparse.ArgumentParser(prog="capabilities", description="Capabilities that cannot lie.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("check", help="declarations, markers, manifests and documents agree")
    commands.add_parser("table", help="write the documents")
    run = commands.add_parser("ran", help="what is marked was shown in this run")
    run.add_argument("--tests", action="store_true", help="the marked tests had to run")
    run.add_argument("--scenario", action="append", default=[], help="this scenario had to run")
    arguments = parser.parse_args(argv)
    try:
        if arguments.command == "table":
            for file, text in documents(declared_capabilities(), all_showings()).items():
                file.write_text(text, encoding="utf-8")
            return 0
        problems = check() if arguments.command == "check" else ran(arguments.tests, arguments.scenario)
    except (ShowingError, TableError) as error:
        problems = [str(error)]
    print("\n".join(problems) if problems else "Everything declared is shown, and nothing else.")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
