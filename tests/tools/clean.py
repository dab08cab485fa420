# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Stops every server of the lab by its pid file and removes what was made.

Usage: clean.py [--cache], from `make clean` and `make clean-cache`. Needs nothing of what it removes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from interpreters import real_interpreters

ROOT = Path(__file__).resolve().parents[2]
LABS = ROOT / ".lab"
MADE = (
    *(".venv", ".report", ".cache", ".lab", ".ansible", ".hypothesis", ".pytest_cache", ".mypy_cache", ".ruff_cache"),
    *("inventories/lab/machines.yml", "inventories/lab/reports", "changelogs/.plugin-cache.yaml", "tests/output"),
)
MADE_ANYWHERE = ("*/inventory/machines.yml", "**/__pycache__")


def stop_servers() -> bool:
    """Stop and remove the servers of all labs of this work tree, and return whether that worked."""
    if not LABS.exists():
        return True
    usable = {version: path for version, path in real_interpreters().items() if version >= (3, 11)}
    if not usable:
        print(
            "clean: Python 3.11 or newer is needed to stop the servers of the lab, and none is there.", file=sys.stderr
        )
        return False
    command = [str(usable[max(usable)]), "tests/lab", "destroy", "--below"]
    environment = {**os.environ, "BAREFORGE_LAB_DIR": str(LABS)}
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode == 0


def remove(path: Path) -> None:
    """Remove a file or a folder with what is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def main() -> int:
    """Clean and return the exit status."""
    parser = argparse.ArgumentParser(description="Stop every server of the lab and remove what was made.")
    parser.add_argument("--cache", action="store_true", help="remove the cached images too")
    options = parser.parse_args()
    if not stop_servers():
        # Their folders say which processes they are: without them nobody could stop them by their ids.
        print("clean: a server of the lab could not be stopped, so nothing was removed.", file=sys.stderr)
        return 1
    for path in [ROOT / name for name in MADE]:
        if path.exists() or path.is_symlink():
            remove(path)
    for folder in ("molecule", "plugins", "roles", "tests"):
        for pattern in MADE_ANYWHERE:
            for path in sorted((ROOT / folder).glob(pattern)):
                remove(path)
    if options.cache:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bareforge"
        if cache.exists():
            remove(cache)
    return 0


if __name__ == "__main__":
    sys.exit(main())
