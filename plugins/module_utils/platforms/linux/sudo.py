# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who may become root by sudo, in a file of ours that visudo has checked before it is there (sudoers(5))."""

from __future__ import annotations

import os
import re
import stat
from typing import NamedTuple, Sequence

from . import programs

SUDOERS_FILE = "/etc/sudoers.d/bareforge"
MODE = 0o440
HEADER = "# Written by Bareforge from the permissions of this host. Changes made here are lost.\n"

NAME = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
ALLOWED_NAME = "a name of small letters, digits, underscores and hyphens, since sudo reads others as something else"


class SudoRule(NamedTuple):
    """Who may become root: a user or a group, by password or without."""

    name: str
    is_group: bool
    asks_password: bool


def render(rules: Sequence[SudoRule]) -> str:
    """Return the text of the file; the names are such that nothing in them means anything to sudo."""
    lines = []
    for rule in sorted(rules):
        if not NAME.fullmatch(rule.name):
            raise AssertionError(f"{rule.name!r} cannot stand in sudoers")
        tag = "" if rule.asks_password else "NOPASSWD: "
        lines.append(f"{'%' if rule.is_group else ''}{rule.name} ALL=(ALL:ALL) {tag}ALL\n")
    return HEADER + "".join(lines) if lines else ""


def is_in_place(rules: Sequence[SudoRule]) -> bool:
    """Return whether the file says exactly that. Raises ReadError."""
    if (programs.read_text(SUDOERS_FILE) or "") != render(rules):
        return False
    if not rules:
        return True
    status = os.stat(SUDOERS_FILE)
    return _is_rooted(status) and stat.S_IMODE(status.st_mode) == MODE


def _is_rooted(status: os.stat_result) -> bool:
    return status.st_uid == 0 and status.st_gid == 0


def put_in_place(rules: Sequence[SudoRule]) -> None:
    """Write the file, or remove it where there are no rules. Raises ApplyError; sudo never sees a file that is wrong."""
    if is_in_place(rules):
        return
    text = render(rules)
    if not text:
        programs.remove(SUDOERS_FILE)
        return
    programs.run(
        ["visudo", "--check", "--quiet", "--file=-"], text, "the rules of sudo are wrong and were not put in place"
    )
    # sudo reads no file with a dot in its name, so the one that is being written counts for nothing.
    programs.write_text(SUDOERS_FILE, text, MODE)
