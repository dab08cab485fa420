# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs the stages of the tests, goes on after one that fails, and ends with the number of tests passed and failed.

Usage: run_stages.py [STAGE...], from the Makefile, with the Python of .venv. Without a stage, all that CI runs.
A stage is one of those in STAGES, or molecule:SCENARIO. What a check prints goes to .report/STAGE-CHECK.log, and its end to
the screen where it fails.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from counts import Count, of_junit, of_run_report

ROOT = Path(__file__).resolve().parents[2]
REPORT = ROOT / ".report"
LAB = ROOT / ".lab"
BIN = Path(sys.executable).parent
COLLECTIONS = ROOT / "collections"
CONTENT = "collections/ansible_collections/bareforge/hypervisor"
TESTS_WITHOUT_HOST = ("tests/unit", "tests/properties", "tests/contract", "tests/faults", "tests/simulated")
LINES_OF_A_FAILURE = 60
STILL_RUNNING_EVERY = 60
# Linters are bound by the processor.
AT_ONCE = min(2, os.cpu_count() or 1)


@dataclass(frozen=True)
class Check:
    """One command of a stage.

    name: how it is called on the screen.
    argv: the command; the programs of .venv come first on PATH.
    environment: what is added to the environment.
    results: what the command leaves; removed before it starts, so that nothing of an earlier run counts.
    counts: reads how many tests passed and failed from the results; without it the command is one test.
    deadline: seconds after which it is ended.
    """

    name: str
    argv: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    results: tuple[Path, ...] = ()
    counts: Callable[[], Count] | None = None
    deadline: int = 1800


class Screen:
    """Prints lines of several threads whole, each with the time since the start."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._lock = threading.Lock()

    def say(self, text: str) -> None:
        """Print a line."""
        minutes, seconds = divmod(int(time.monotonic() - self._began), 60)
        with self._lock:
            print(f"[{minutes:2}:{seconds:02}] {text}", flush=True)

    def quote(self, text: str) -> None:
        """Print what a program said, indented."""
        with self._lock:
            print("\n".join(f"        | {line}" for line in text.splitlines()), flush=True)


def python(*arguments: str) -> tuple[str, ...]:
    """Return the command that runs Python of .venv."""
    return (sys.executable, *arguments)


def program(name: str, *arguments: str) -> tuple[str, ...]:
    """Return the command that runs a program of .venv."""
    return (str(BIN / name), *arguments)


def existing(paths: Iterable[str]) -> list[str]:
    """Return those of the paths that are there, relative to the root."""
    return [path for path in paths if (ROOT / path).exists()]


def pytest_check(name: str, folders: Iterable[str], *arguments: str, **more: str) -> Check:
    """Return a run of pytest; its tests are counted from its JUnit file. What it showed of capabilities is kept in the report."""
    junit, shown = REPORT / f"{name}.xml", REPORT / "capabilities" / f"{name}.json"
    return Check(
        name,
        python("-m", "pytest", "--quiet", "-ra", f"--junitxml={junit}", *arguments, *folders),
        {"BAREFORGE_CAPABILITIES": str(shown), **more},
        results=(junit, shown),
        counts=lambda: of_junit([junit]),
        deadline=3600,
    )


def lint() -> list[Check]:
    """Style, types, licences and phrases that must not be used."""
    typed = existing([f"{CONTENT}/plugins", "tests/lab", "tests/tools", "tests/capabilities"])
    on_hosts = existing(["plugins/module_utils", "plugins/modules"])
    offline = {"ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS), "NO_COLOR": "1"}
    return [
        Check("ansible-lint", program("ansible-lint", "--offline", "--profile", "production", "--nocolor"), offline),
        Check("ruff check", program("ruff", "check", "--output-format", "concise", ".")),
        Check("ruff format", program("ruff", "format", "--check", "--output-format", "concise", ".")),
        Check("mypy", program("mypy", *typed)),
        Check(
            "Python 3.9 by vermin",
            program("vermin", "--target=3.9-", "--no-tips", "--violations", "--eval-annotations", *on_hosts),
        ),
        Check("yamllint", program("yamllint", "--strict", ".")),
        Check("changelog", program("antsibull-changelog", "lint")),
        Check("licences", program("reuse", "lint", "--lines")),
        Check("forbidden phrases", python("tests/tools/forbidden_phrases.py")),
    ]


def unit() -> list[Check]:
    """What needs no host, and module_utils on the oldest Python that they run on."""
    oldest = REPORT / "python39.xml"
    return [
        pytest_check("unit", existing(TESTS_WITHOUT_HOST), f"--numprocesses={AT_ONCE}", "--dist=worksteal"),
        Check(
            "unit on Python 3.9",
            python("tests/tools/oldest_python.py", f"--junitxml={oldest}"),
            results=(oldest,),
            counts=lambda: of_junit([oldest]),
        ),
        Check(
            "capabilities declared and shown",
            python("-m", "capabilities", "check"),
            {"PYTHONPATH": "tests:collections"},
        ),
    ]


def contract() -> list[Check]:
    """The suite that every platform runs."""
    return [pytest_check("contract", ["tests/contract"])]


def sanity() -> list[Check]:
    """ansible-test sanity."""
    junit = REPORT / "sanity"
    return [
        Check(
            "ansible-test sanity",
            python("tests/tools/ansible_sanity.py", "--junit", str(junit)),
            results=(junit,),
            counts=lambda: of_junit(sorted(junit.glob("*.xml"))),
        )
    ]


def build() -> list[Check]:
    """The artefact, installed and used elsewhere."""
    return [Check("build, install, document", python("tests/tools/check_artefact.py"))]


def real() -> list[Check]:
    """Platforms against real hosts of the lab."""
    return [pytest_check("real", ["tests/real"], BAREFORGE_LAB_DIR=str(LAB / "real"))]


def molecule(scenario: str) -> list[Check]:
    """A scenario of molecule, whose steps are counted from what our callback writes down.

    Raises ValueError if there is no such scenario.
    """
    if not (ROOT / "molecule" / scenario / "molecule.yml").exists():
        known = ", ".join(sorted(path.parent.name for path in ROOT.glob("molecule/*/molecule.yml"))) or "none"
        raise ValueError(f"there is no scenario {scenario!r}; allowed is {known}.")
    report = REPORT / "molecule" / f"{scenario}.jsonl"
    return [
        Check(
            f"molecule {scenario}",
            program("molecule", "test", "--scenario-name", scenario),
            {
                "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
                "ANSIBLE_CALLBACK_PLUGINS": str(ROOT / "tests" / "capabilities" / "callback_plugins"),
                "ANSIBLE_CALLBACKS_ENABLED": "run_report",
                "BAREFORGE_RUN_REPORT": str(report),
                "NO_COLOR": "1",
                "PY_COLORS": "0",
                "ANSIBLE_FORCE_COLOR": "0",
            },
            results=(report,),
            counts=lambda: of_run_report(report),
            deadline=3600,
        ),
        Check(
            f"capabilities shown by {scenario}",
            python("-m", "capabilities", "ran", "--scenario", scenario),
            {"PYTHONPATH": "tests:collections"},
        ),
    ]


def capabilities() -> list[Check]:
    """Whether everything that is marked as shown was shown in this run."""
    scenarios = [stage.partition(":")[2] for stage in ALL if stage.startswith("molecule:")]
    chosen = [part for scenario in scenarios for part in ("--scenario", scenario)]
    return [
        Check(
            "capabilities shown",
            python("-m", "capabilities", "ran", "--tests", *chosen),
            {"PYTHONPATH": "tests:collections"},
        )
    ]


STAGES: dict[str, Callable[[], list[Check]]] = {
    "lint": lint,
    "unit": unit,
    "contract": contract,
    "sanity": sanity,
    "build": build,
    "real": real,
    "capabilities": capabilities,
}
# Checks of these stages depend on nothing of each other.
CONCURRENT = frozenset({"lint"})
# What CI runs, in this order. The stages on real hosts are run by whoever touches the platform: docs/testing.md says what
# was seen of them.
ALL = ("lint", "unit", "sanity", "build", "molecule:proxmox")
# These mostly wait for a server that one thread emulates, and are run beside the others, which make room for it.
BESIDE = frozenset({"molecule:kvm"})
GENTLY = ("nice", "-n", "5")

RUNNING: set[subprocess.Popen[bytes]] = set()


def checks_of(stage: str) -> list[Check]:
    """Return the checks of a stage. Raises ValueError if there is no such stage."""
    if stage.startswith("molecule:"):
        return molecule(stage.partition(":")[2])
    if stage not in STAGES:
        raise ValueError(f"there is no stage {stage!r}; allowed is {', '.join(STAGES)} and molecule:SCENARIO.")
    return STAGES[stage]()


def log_of(stage: str, check: Check) -> Path:
    """Return where the output of a check goes."""
    words = "-".join(f"{stage} {check.name}".replace(":", " ").replace(",", "").split())
    return REPORT / f"{words}.log"


def run_check(stage: str, check: Check, screen: Screen, gently: bool = False) -> Count:
    """Run a check and return its tests. A command that fails although no test did counts as a failed one.

    gently: whether what runs beside it comes first.
    """
    log = log_of(stage, check)
    for left in check.results:
        shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}", **check.environment}
    began = time.monotonic()
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            [*GENTLY, *check.argv] if gently else check.argv,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # A group of its own, so that what it started ends with it.
            start_new_session=True,
        )
        RUNNING.add(process)
        status = wait_for(process, check, began, screen)
        RUNNING.discard(process)
    took = time.monotonic() - began
    count = check.counts() if check.counts else Count(passed=1 if status == 0 else 0)
    if status != 0 and not count.failed:
        count += Count(failed=1)
    if status == 0 and not count.passed + count.failed + count.skipped:
        screen.quote(f"{check.name} ran no test.")
        count += Count(failed=1)
    word = "FAILED" if count.failed else "passed"
    screen.say(f"    {check.name}: {word} after {took:.1f} s ({count})")
    if count.failed:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        screen.quote("\n".join(lines[-LINES_OF_A_FAILURE:]))
        screen.quote(f"(all of it: {log.relative_to(ROOT)})")
    return count


def wait_for(process: subprocess.Popen[bytes], check: Check, began: float, screen: Screen) -> int:
    """Wait until a check ends, say that it still runs now and then, and end it at its deadline. Returns its status."""
    while (took := time.monotonic() - began) < check.deadline:
        try:
            return process.wait(timeout=min(STILL_RUNNING_EVERY, check.deadline - took))
        except subprocess.TimeoutExpired:
            screen.say(f"    {check.name}: running for {time.monotonic() - began:.0f} s")
    screen.say(f"    {check.name}: ended at its deadline of {check.deadline} s")
    return end_group(process)


def end_group(process: subprocess.Popen[bytes]) -> int:
    """End a process and all that it started, gently first. Returns its status."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        try:
            return process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            continue
    return process.wait()


def abandon(pool: ThreadPoolExecutor) -> None:
    """Begin nothing more of what a pool has to do, and end all checks that run."""
    pool.shutdown(wait=False, cancel_futures=True)
    for process in list(RUNNING):
        end_group(process)


def run_stage(stage: str, screen: Screen, gently: bool = False) -> tuple[Count, float]:
    """Run the checks of a stage and return their tests and the seconds that it took.

    gently: whether what runs beside it comes first.
    """
    checks = checks_of(stage)
    screen.say(f"{stage}")
    began = time.monotonic()
    with ThreadPoolExecutor(AT_ONCE if stage in CONCURRENT else 1) as pool:
        try:
            counts = list(pool.map(lambda check: run_check(stage, check, screen, gently), checks))
        except KeyboardInterrupt:
            abandon(pool)
            raise
    return sum(counts, Count()), time.monotonic() - began


def run_stages(stages: Sequence[str], screen: Screen) -> dict[str, tuple[Count, float]]:
    """Run stages one after the other, those of BESIDE beside the others, and return what run_stage says of each."""
    # What was shown is looked at once all of it has run.
    beside = [stage for stage in stages if stage in BESIDE and len(stages) > 1 and "capabilities" not in stages]
    results: dict[str, tuple[Count, float]] = {}
    with ThreadPoolExecutor(1) as pool:
        futures = {stage: pool.submit(run_stage, stage, screen) for stage in beside}
        try:
            for stage in stages:
                if stage not in futures:
                    results[stage] = run_stage(stage, screen, gently=not all(each.done() for each in futures.values()))
            results.update({stage: future.result() for stage, future in futures.items()})
        except KeyboardInterrupt:
            abandon(pool)
            raise
    return {stage: results[stage] for stage in stages}


def main(stages: list[str]) -> int:
    """Run stages and return the exit status: 0 if no test has failed."""
    whole = not stages
    screen = Screen()
    try:
        for stage in stages:
            checks_of(stage)
    except ValueError as error:
        print(f"run_stages: {error}", file=sys.stderr)
        return 2
    if whole:
        # Nothing of an earlier run may count in this one.
        shutil.rmtree(REPORT / "capabilities", ignore_errors=True)
        shutil.rmtree(REPORT / "molecule", ignore_errors=True)
    for folder in ("capabilities", "molecule"):
        (REPORT / folder).mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        results = run_stages(stages or ALL, screen)
    except KeyboardInterrupt:
        print("run_stages: interrupted", file=sys.stderr)
        return 130
    total = sum((count for count, _took in results.values()), Count())
    print()
    for stage, (count, took) in results.items():
        print(
            f"{stage:<16} {took:7.1f} s   {'FAILED' if count.failed else 'passed'}   {count.passed}/{count.passed + count.failed}"
        )
    print(f"\n{total}", flush=True)
    return 1 if total.failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
