# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Debian root folders with programs that a machine should not have itself, and a way in that leaves the machine alone.

A root is made once by mmdebstrap and kept in the cache; a variable of the environment names one that is there. Whoever enters it
has a network, mounts and processes of its own: what has been installed there never runs on the machine itself.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
SOURCES = Path("/etc/apt/sources.list.d/debian.sources")
SUITE = "bookworm"
ENTER = """
set -e
mount --make-rprivate /
mount --bind "$1" "$1"
mount -t proc proc "$1/proc"
# NetworkManager does without udev where it cannot write to /sys.
mount -t sysfs -o ro sysfs "$1/sys"
mount --rbind /dev "$1/dev"
for folder in $3; do mount -t tmpfs tmpfs "$1/$folder"; done
mount --bind -o ro "$2" "$1/source"
exec chroot "$1" /usr/bin/python3 "/source/$4" "$5"
"""


class NoRoot(Exception):
    """Why there is no root to run in, in a sentence."""


def find_root(name: str, packages: Sequence[str], variable: str) -> Path:
    """Return a root folder, which is made where it is not there.

    name: of the folder in the cache. packages: of Debian. variable: of the environment, with the path of one that is there.
    Raises NoRoot.
    """
    if os.geteuid() != 0:
        raise NoRoot("namespaces and a root folder of its own take root, which this is not")
    given = os.environ.get(variable)
    if given:
        return Path(given)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bareforge"
    root = cache / f"{name}-{SUITE}"
    if not root.is_dir():
        _make(root, packages)
    return root


def _make(root: Path, packages: Sequence[str]) -> None:
    if shutil.which("mmdebstrap") is None:
        raise NoRoot("a root folder of its own is made by mmdebstrap, which is not installed")
    root.parent.mkdir(parents=True, exist_ok=True)
    unfinished = root.with_name(f"{root.name}.new")
    shutil.rmtree(unfinished, ignore_errors=True)
    sources = [str(SOURCES)] if SOURCES.is_file() else []
    argv = ["mmdebstrap", "--variant=apt", f"--include={','.join(packages)}", SUITE, str(unfinished), *sources]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=3600, check=False)
    if done.returncode:
        raise NoRoot(f"mmdebstrap could not make a root folder with {packages[0]}: {done.stderr.strip()[-500:]}")
    unfinished.rename(root)


def run(root: Path, script: str, scenario: str, empty: Sequence[str]) -> Any:
    """Run a scenario in a root and return what it has found.

    script: its path in the repository, run by the root's own Python. empty: folders of the root that are empty to it, so that one
    run never meets what another has left; the root itself is never changed.
    Raises AssertionError with its words where it fails.
    """
    for folder in (*empty, "source"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    spaces = ["unshare", "--net", "--mount", "--pid", "--fork", "--uts", "--ipc", "--kill-child"]
    argv = [*spaces, "sh", "-c", ENTER, "enter", str(root), str(REPOSITORY), " ".join(empty), script, scenario]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{scenario}:\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    return json.loads(done.stdout.splitlines()[-1])
