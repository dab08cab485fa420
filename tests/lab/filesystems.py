# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""File systems and disks made in plain files, without mounting and without loop devices."""

from __future__ import annotations

import os
from pathlib import Path

from lab.processes import as_root, run


def make_ext4(image: Path, root: Path, *, size_mib: int, label: str, log: Path, offset_mib: int = 0) -> None:
    """Make an ext4 file system of ``size_mib`` MiB holding the tree ``root`` in the file ``image`` (mke2fs -d).

    ``offset_mib`` is where in the file it begins, for a partition of a disk. Needs root or sudo to read ``root``.
    """
    if not image.exists():
        with image.open("wb") as handle:
            os.truncate(handle.fileno(), (offset_mib + size_mib) << 20)
    options = f"lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0,offset={offset_mib << 20}"
    argv = ["mke2fs", "-q", "-F", "-t", "ext4", "-i", "32768", "-m", "1", "-L", label, "-E", options, "-d", root, image]
    run(as_root([*argv, f"{size_mib}M"]), log=log)


def to_qcow2(raw: Path, target: Path, *, log: Path, compress: bool = False) -> None:
    """Convert the sparse raw disk ``raw`` to the qcow2 file ``target`` (qemu-img convert)."""
    argv = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", *(["-c", "-o", "compression_type=zstd"] if compress else [])]
    run([*argv, raw, target], log=log)
