# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Written by tests/tools/generate_documentation.py from the model; change the descriptions there.

from __future__ import annotations


class ModuleDocFragment:
    """The options of the module maintenance."""

    DOCUMENTATION = r"""
options:
  state:
    description:
      - With V(entered) the host says that it is in maintenance and which VMs run, and no more. With V(emptied)
        every VM that still runs is stopped too. With V(left) those that ran before and are still on this
        host are started, and the mode ends. With V(gathered) nothing is changed, and RV(maintenance)
        tells the mode.
    type: str
    choices:
      - entered
      - emptied
      - left
      - gathered
    default: entered
  reason:
    description:
      - Why, for those who look at the host; what was said when the mode was entered stays.
    type: str
    default: maintenance
  evacuate_to:
    description:
      - The hosts that VMs shall be moved to. RV(maintenance) tells for each VM which of them was chosen;
        moving it is another task.
      - Each entry is a name of 1 to 255 characters without control or invisible characters or blanks
        at its ends.
    type: list
    elements: str
  shutdown_timeout:
    description:
      - How long a guest is given to shut down, in seconds; 0 switches off at once.
      - Allowed is a whole number from 0 to 7200 (seconds).
      - The default is V(180).
    type: int
  force_off:
    description:
      - Whether a guest that has not shut down by then is switched off. Without it the task fails.
      - The default is V(false).
    type: bool
"""
