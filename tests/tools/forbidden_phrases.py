# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Looks for phrases that hide failures or changes, in the tracked files.

Usage: forbidden_phrases.py, from `make lint`. A use that is right is listed in forbidden_phrases.yml with its reason.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
ALLOWED = Path(__file__).with_suffix(".yml")
# The files that must name the phrases in order to forbid them.
ABOUT_THEM = ("tests/tools/forbidden_phrases", "tests/unit/tools/test_forbidden_phrases", "tests/unit/capabilities/")
FORBIDDEN = {
    r"^\s*(- )?ignore_errors:": "hides a failure",
    r"^\s*(- )?changed_when:\s*false\b": "hides a change, unless the command only reads",
    r"^\s*(- )?failed_when:\s*false\b": "hides a failure",
    r"\bshell\s*=\s*True\b": "pastes text into a shell",
    r"validate_certs:\s*(false|no)\b": "trusts anyone",
    r"^\s*except:": "swallows even an interruption",
    r"pytest\.mark\.skip\(": "a test that never runs",
}
SUFFIXES = {".py", ".yml", ".yaml", ".j2", ".cfg"}


def findings(files: dict[str, str], allowed: dict[str, dict[str, str]]) -> list[str]:
    """Return a line for every phrase that is not allowed where it stands, and for every permission that nothing needs.

    files: text by path, relative to the root.
    allowed: for each path, the lines that may stand there, stripped, each with its reason.
    """
    found = []
    used = set()
    for path, text in sorted(files.items()):
        for number, line in enumerate(text.splitlines(), 1):
            for phrase, why in FORBIDDEN.items():
                if not re.search(phrase, line):
                    continue
                if line.strip() in allowed.get(path, {}):
                    used.add((path, line.strip()))
                else:
                    found.append(f"{path}:{number}: {line.strip()!r} {why}.")
    found.extend(
        f"{ALLOWED.name}: {line!r} in {path} is allowed and does not occur."
        for path, lines in sorted(allowed.items())
        for line in sorted(lines)
        if (path, line) not in used
    )
    return found


def main() -> int:
    """Print what was found and return the exit status."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    files = {
        path: (ROOT / path).read_text(encoding="utf-8")
        for path in listed.split("\0")
        if Path(path).suffix in SUFFIXES and (ROOT / path).is_file() and not path.startswith(ABOUT_THEM)
    }
    allowed = yaml.safe_load(ALLOWED.read_text(encoding="utf-8")) or {}
    found = findings(files, allowed)
    print("\n".join(found) if found else f"none in {len(files)} files")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
