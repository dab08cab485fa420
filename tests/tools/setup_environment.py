# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Makes .venv: the newest Python >= 3.11 of the machine, ansible-core and the tools of requirements-development.txt.

Usage: setup_environment.py, from `make setup`. Runs with any Python >= 3.7, since that is what `python3` may be where a
newer one is installed beside it. BAREFORGE_PYTHON names the interpreter to take instead of the newest.

A second run compares a stamp and ends at once; a run after a killed one goes on.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from interpreters import real_interpreters

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv"
STAMP = VENV / "made-from"
REQUIREMENTS = ROOT / "requirements-development.txt"
# ansible-core 2.19 runs on 3.11 to 3.13, 2.21 on 3.12 to 3.14.
OLDEST = (3, 11)
NEWEST = (3, 14)


class SetupError(Exception):
    """What is missing and what to do, in one sentence."""


def chosen_interpreter() -> tuple[tuple[int, int], Path]:
    """Return the interpreter that .venv is made with.

    Raises SetupError if there is none.
    """
    wanted = os.environ.get("BAREFORGE_PYTHON")
    if wanted:
        path = shutil.which(wanted)
        asked = path and run([path, "-c", "import sys; print(*sys.version_info[:2], sys.executable)"])
        if not asked or asked.returncode:
            raise SetupError(f"BAREFORGE_PYTHON is {wanted!r}, which is no Python that runs.")
        major, minor, executable = asked.stdout.split(None, 2)
        version = (int(major), int(minor))
        if not OLDEST <= version <= NEWEST:
            raise SetupError(f"BAREFORGE_PYTHON is {wanted!r}: Python {major}.{minor}; allowed is 3.11 to 3.14.")
        return version, Path(executable.strip())
    usable = {version: path for version, path in real_interpreters().items() if OLDEST <= version <= NEWEST}
    if not usable:
        raise SetupError(
            "Python 3.11 to 3.14 is needed and none is on PATH, under ~/.pyenv/versions or in /usr/bin: "
            "install one (on Debian 12 and newer: apt-get install python3 python3-venv)."
        )
    newest = max(usable)
    return newest, usable[newest]


def run(argv: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command without input and return what it printed, both streams in one."""
    return subprocess.run(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )


def last_line(text: str) -> str:
    """Return the last line that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it printed nothing"


def install_debian_package(name: str) -> None:
    """Install a Debian package, as root or with sudo that does not ask.

    Raises SetupError with the last thing that apt said.
    """
    if not shutil.which("apt-get"):
        raise SetupError(f"this Python cannot make virtual environments: install what Debian calls {name}.")
    prefix = [] if os.geteuid() == 0 else ["sudo", "-n"]
    if prefix and (not shutil.which("sudo") or run(["sudo", "-n", "true"]).returncode):
        raise SetupError(f"the Debian package {name} is missing: install it, or run this as root or with sudo.")
    for argv in (["apt-get", "update"], ["apt-get", "install", "--yes", "--no-install-recommends", name]):
        done = run([*prefix, "env", "DEBIAN_FRONTEND=noninteractive", *argv])
        if done.returncode:
            raise SetupError(f"the Debian package {name} cannot be installed: {last_line(done.stdout)}")


def make_environment(version: tuple[int, int], interpreter: Path) -> None:
    """Make an empty .venv. Raises SetupError if the interpreter cannot."""
    if VENV.exists():
        shutil.rmtree(VENV)
    if run([str(interpreter), "-c", "import venv, ensurepip"]).returncode:
        # Debian's own Python comes without them.
        install_debian_package(f"python{version[0]}.{version[1]}-venv")
    done = run([str(interpreter), "-m", "venv", str(VENV)])
    if done.returncode:
        raise SetupError(f"{interpreter} cannot make {VENV}: {last_line(done.stdout)}")


def install_requirements() -> None:
    """Install what requirements-development.txt names. Raises SetupError with the last thing that pip said."""
    pip = [str(VENV / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--no-input"]
    done = run([*pip, "install", "--quiet", "--requirement", str(REQUIREMENTS)])
    if done.returncode:
        raise SetupError(f"the Python packages cannot be installed: {last_line(done.stdout)}")


def made_with(interpreter: Path) -> bool:
    """Return whether .venv is there, whole, at this path, and of that interpreter (pyvenv.cfg of PEP 405)."""
    try:
        lines = (VENV / "pyvenv.cfg").read_text().splitlines()
    except FileNotFoundError:
        return False
    fields = {key.strip(): value.strip() for key, _equals, value in (line.partition("=") for line in lines)}
    return (
        Path(fields.get("home", "/")) / interpreter.name == interpreter
        and fields.get("command", "").endswith(f" {VENV}")
        and run([str(VENV / "bin" / "python"), "-m", "pip", "--version"]).returncode == 0
    )


def set_up() -> bool:
    """Make .venv as it shall be and return whether there was anything to do. Raises SetupError."""
    version, interpreter = chosen_interpreter()
    digest = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    stamp = f"interpreter {interpreter}\nrequirements {digest}\nfolder {VENV}\n"
    if STAMP.exists() and STAMP.read_text() == stamp and os.access(VENV / "bin" / "python", os.X_OK):
        return False
    began = time.monotonic()
    print(f"setup: Python {version[0]}.{version[1]} ({interpreter}), packages into {VENV} …", flush=True)
    if not made_with(interpreter):
        make_environment(version, interpreter)
    install_requirements()
    STAMP.write_text(stamp)
    print(f"setup: done after {time.monotonic() - began:.0f} s", flush=True)
    return True


def main() -> int:
    """Make .venv, one process at a time, and return the exit status."""
    try:
        with REQUIREMENTS.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            set_up()
    except SetupError as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
