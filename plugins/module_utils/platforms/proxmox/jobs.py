# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Jobs that run side by side and each have tasks of PVE to wait for."""

from __future__ import annotations

from typing import Sequence

from ...errors import ApplyError
from ...transports.proxmox import Job, ProxmoxSession


def carry_out(session: ProxmoxSession, jobs: Sequence[Job]) -> None:
    """Carry out jobs; where some fail the others are finished all the same.

    Raises the error of the one that failed, or ApplyError with the sentences of several.
    """
    failed = [error for error in session.carry_out(jobs) if error is not None]
    if len(failed) == 1:
        raise failed[0]
    if failed:
        hints = list(dict.fromkeys(error.hint for error in failed if error.hint))
        raise ApplyError("; ".join(error.message for error in failed), " ".join(hints) or None)
