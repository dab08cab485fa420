# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the lab keeps things: the cache (images, snapshots, keys) and the state of one lab (machines, ports)."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from lab.errors import LabError

REPOSITORY = Path(__file__).resolve().parents[2]
RECIPES = Path(__file__).resolve().parent / "recipes"

# sun_path holds 108 bytes with the terminating NUL (unix(7)).
LONGEST_SOCKET_PATH = 107
# "NAME-NN.port" or "NAME.qmp": what is appended to the socket folder, server names being limited to 32 characters.
LONGEST_SOCKET_NAME = 44


def cache_dir() -> Path:
    """Return the folder that holds what can be made again: ``${XDG_CACHE_HOME:-~/.cache}/bareforge``.

    It is made with mode 0700, because the lab's private SSH key lives in it.
    """
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    path = Path(base) / "bareforge"
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def lab_dir() -> Path:
    """Return the folder of this lab's state: ``BAREFORGE_LAB_DIR``, or ``.lab`` at the repository's root."""
    chosen = os.environ.get("BAREFORGE_LAB_DIR")
    return Path(os.path.abspath(chosen)) if chosen else REPOSITORY / ".lab"


def socket_dir(lab: Path) -> Path:
    """Return the folder for the Unix sockets of the lab in ``lab``, made if it is missing.

    It is ``lab/sockets``, or where that is too long for a socket address, a folder of our own below the
    temporary folder whose name is derived from ``lab``.

    Raises LabError if the folder below the temporary folder belongs to another user.
    """
    near = lab / "sockets"
    if len(os.fsencode(near)) + 1 + LONGEST_SOCKET_NAME <= LONGEST_SOCKET_PATH:
        near.mkdir(mode=0o700, parents=True, exist_ok=True)
        return near
    digest = hashlib.sha256(os.fsencode(lab)).hexdigest()[:12]
    far = Path(tempfile.gettempdir()) / f"bareforge-lab-{os.getuid()}-{digest}"
    far.mkdir(mode=0o700, exist_ok=True)
    # The temporary folder is shared: someone else may have made this name first.
    if far.is_symlink() or far.stat().st_uid != os.getuid():
        raise LabError(
            f"{far} is not a folder of user {os.getuid()}: remove it, or set BAREFORGE_LAB_DIR to a short path."
        )
    return far
