# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Units of systemd that have to be restarted since their files have changed.

That a unit is to be restarted is written down before the file is changed, so that a run that is killed between the two
leaves word for the next one.
"""

from __future__ import annotations

from typing import List, Sequence

from ...errors import ApplyError
from . import programs

RECORD_FILE = "/var/lib/bareforge/restarts.json"


def announce(units: Sequence[str]) -> None:
    """Write down that units are to be restarted; called before their files are changed. Raises ApplyError."""
    known = waiting()
    programs.write_record(RECORD_FILE, {"units": [*known, *(unit for unit in units if unit not in known)]})


def waiting() -> List[str]:
    """Return the units that are still to be restarted. Raises ReadError."""
    return [unit for unit in programs.read_record(RECORD_FILE).get("units", ()) if isinstance(unit, str)]


def carry_out() -> bool:
    """Restart those units of them that run, and return whether there were any. Raises ApplyError."""
    units = waiting()
    if not units:
        return False
    what = f"{', '.join(units)} cannot be restarted"
    try:
        programs.run(["systemctl", "try-restart", "--", *units], what=what)
    except ApplyError:
        # systemd holds back a unit that was started too often, as several tasks in a row do it. The second time counts.
        programs.run(["systemctl", "reset-failed", "--", *units], what=what)
        programs.run(["systemctl", "try-restart", "--", *units], what=what)
    programs.remove(RECORD_FILE)
    return True
