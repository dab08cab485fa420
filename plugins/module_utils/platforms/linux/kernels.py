# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later


"""Which kernel of Linux runs on a host, and whether a newer one of its kind is installed."""

from __future__ import annotations

import os
import re
from typing import Any, Optional, Tuple

from . import programs

KERNEL_NAME = re.compile(r"vmlinuz-(?P<version>[0-9].*?)(?P<flavour>-[a-z][a-z0-9-]*)?")


def running_kernel(root: str) -> str:
    """Return the release of the kernel that runs. root: where the host's file system begins."""
    return (programs.read_text(os.path.join(root, "proc/sys/kernel/osrelease")) or "").strip()


def newer_kernel(root: str) -> Optional[str]:
    """Return what a start is for where a newer kernel than the one that runs is installed, else None.

    root: where the host's file system begins.
    """
    release = running_kernel(root)
    running = KERNEL_NAME.fullmatch(f"vmlinuz-{release}")
    if not running:
        return None
    try:
        names = os.listdir(os.path.join(root, "boot"))
    except FileNotFoundError:
        return None
    installed = [
        match for match in map(KERNEL_NAME.fullmatch, names) if match and match["flavour"] == running["flavour"]
    ]
    newest = max(installed, key=lambda match: version_key(match["version"]), default=None)
    if newest is None or version_key(newest["version"]) <= version_key(running["version"]):
        return None
    return f"kernel {newest.group()[len('vmlinuz-') :]} is installed, {release} runs"


def version_key(text: str) -> Tuple[Tuple[int, Any], ...]:
    """Return what versions of kernels are ordered by: their numbers as numbers."""
    return tuple((1, int(part)) if part.isdigit() else (0, part) for part in re.findall(r"\d+|[^\d]+", text))
