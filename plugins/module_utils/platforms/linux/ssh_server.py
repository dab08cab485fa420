# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later


"""How a host calls its SSH server: Debian and Ubuntu ssh.service, others sshd.service."""

from __future__ import annotations

import os
from typing import Sequence

FOLDERS = ("/etc/systemd/system", "/lib/systemd/system", "/usr/lib/systemd/system")
DEBIAN = ("ssh.socket", "ssh.service")
OTHERS = ("sshd.socket", "sshd.service")


def ssh_units() -> Sequence[str]:
    """Return the units of the SSH server that there can be, the socket first.

    sshd.service is also an alias on Debian, so it counts only where ssh.service is not there.
    """
    known = {unit for unit in (DEBIAN[-1], OTHERS[-1]) for folder in FOLDERS if os.path.exists(f"{folder}/{unit}")}
    return OTHERS if known == {OTHERS[-1]} else DEBIAN


def ssh_unit() -> str:
    """Return the unit of the SSH server."""
    return ssh_units()[-1]
