# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Finds the machine's Python interpreters. Runs with Python 3.7, since setup_environment.py needs it before .venv is there."""

from __future__ import annotations

import os
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = re.compile(r"python(3)\.(\d+)$")


def without_shims(path: str) -> str:
    """Return a PATH without the folders of pyenv's shims, which answer 127 for versions that are not switched on."""
    return os.pathsep.join(entry for entry in path.split(os.pathsep) if Path(entry).name != "shims")


def _folders() -> list[Path]:
    folders = []
    pyenv_roots = {Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")}
    for entry in os.environ.get("PATH", os.defpath).split(os.pathsep):
        if Path(entry).name == "shims":
            pyenv_roots.add(Path(entry).parent)
        elif entry:
            folders.append(Path(entry))
    for root in sorted(pyenv_roots):
        folders.extend(sorted(root.glob("versions/*/bin"), key=_numbers, reverse=True))
    return [*folders, Path("/usr/local/bin"), Path("/usr/bin")]


def _numbers(path: Path) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", path.parent.name)]


def real_interpreters() -> dict[tuple[int, int], Path]:
    """Return the path of one interpreter of every version of Python 3 on PATH, of pyenv and in /usr, by version.

    Those of the repository's own environments are left out. The versions are told by file names, so that no process is started.
    """
    found: dict[tuple[int, int], Path] = {}
    for folder in _folders():
        for path in sorted(folder.glob("python3.*")) if folder.is_dir() else ():
            match = PROGRAM.match(path.name)
            if match and os.access(path, os.X_OK) and ROOT not in path.parents:
                found.setdefault((int(match[1]), int(match[2])), path.resolve())
    return found
