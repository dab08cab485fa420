# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Keeps the collection's code on a host, so that Python compiles it once and not in every task.

Ansible sends a module and what it imports as an archive, from which Python can load no byte code: most of the time of a
task that finds nothing to do goes into compiling. So the first task copies the collection's part of the archive into a
folder named by its content, and later ones import from there. The folder can be removed at any time; where it cannot be
made the code is imported from the archive.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import sys
import tempfile
import time
import zipfile
from typing import List, Optional

FOLDER = "/var/cache/bareforge/python"
PACKAGE = __name__.rpartition(".boundary.")[0]
KEPT_SECONDS = 7 * 24 * 3600


def use_code_cache(archive: Optional[str] = None, folder: str = FOLDER) -> Optional[str]:
    """Let what is imported from now on come from the copy on this host, making it where there is none.

    archive: the path of the archive; the one that this code was loaded from where not given.
    Returns the folder, or None where there is no archive or no place for a copy.
    """
    path = archive or getattr(__spec__.loader, "archive", None)
    if path is None:
        return None
    try:
        copy = _copy_of(path, folder)
    except (OSError, zipfile.BadZipFile):
        # A full or read-only disk must not keep a task from its work.
        return None
    if copy is not None:
        _import_from(copy)
    return copy


def _copy_of(archive: str, folder: str) -> Optional[str]:
    prefix = PACKAGE.replace(".", "/") + "/"
    with zipfile.ZipFile(archive) as payload:
        members = [member for member in payload.infolist() if member.filename.startswith(prefix)]
        digest = hashlib.sha256()
        for member in sorted(members, key=lambda member: member.filename):
            digest.update(f"{member.filename}\0{member.CRC:08x}\0{member.file_size}\n".encode())
        copy = os.path.join(folder, digest.hexdigest())
        if not os.path.isdir(copy):
            os.makedirs(folder, mode=0o700, exist_ok=True)
            if not _is_ours_alone(folder):
                return None
            _remove_old(folder)
            unfinished = tempfile.mkdtemp(prefix=".", dir=folder)
            try:
                payload.extractall(unfinished, members)
                os.rename(unfinished, copy)
            except OSError:
                shutil.rmtree(unfinished, ignore_errors=True)
                if not os.path.isdir(copy):
                    raise
    if not (_is_ours_alone(folder) and _is_ours_alone(copy)):
        return None
    os.utime(copy)
    return os.path.join(copy, *PACKAGE.split("."))


def _is_ours_alone(path: str) -> bool:
    status = os.lstat(path)
    return (
        stat.S_ISDIR(status.st_mode)
        and status.st_uid == os.geteuid()
        and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    )


def _remove_old(folder: str) -> None:
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if time.time() - os.lstat(path).st_mtime > KEPT_SECONDS:
            shutil.rmtree(path, ignore_errors=True)


def _import_from(copy: str) -> None:
    for name, module in list(sys.modules.items()):
        paths: Optional[List[str]] = getattr(module, "__path__", None)
        if paths is not None and (name == PACKAGE or name.startswith(f"{PACKAGE}.")):
            place = os.path.join(copy, *name[len(PACKAGE) :].split("."))
            if place not in paths:
                module.__path__ = [place, *paths]
