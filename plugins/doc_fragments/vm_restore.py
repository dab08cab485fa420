# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Written by tests/tools/generate_documentation.py from the model; change the descriptions there.

from __future__ import annotations


class ModuleDocFragment:
    """The options of the module vm_restore."""

    DOCUMENTATION = r"""
options:
  vm:
    description:
      - The virtual machine that the backup was made of.
      - Allowed is a name of 1 to 255 characters without control or invisible characters or blanks at
        its ends.
    type: str
    required: true
  name:
    description:
      - The backup's name.
      - Allowed is a name of 1 to 255 characters without control or invisible characters or blanks at
        its ends.
    type: str
    required: true
  target:
    description:
      - The directory, pool or store that the backup lies in. Where not given, it is looked for in those
        that the host has made backups in.
    type: str
  new_name:
    description:
      - The name of another VM that is made of the backup, with MAC addresses and a UUID of its own and
        without the static addresses that the guest was given, which are still those of the first; that
        is not touched. Where not given, the VM that was backed up is brought back in place, or made anew
        if it is gone.
      - Allowed is a name of 1 to 255 characters without control or invisible characters or blanks at
        its ends.
    type: str
  power:
    description:
      - Whether the VM runs afterwards. Where not given, a VM that is restored in place is as it was before,
        and one that is made is stopped, since what its guest was told within it may still be in use.
    type: str
    choices:
      - running
      - stopped
  allow_restart:
    description:
      - Whether a running VM may be stopped and started where a change needs it off. Without it such a
        change is refused.
      - The default is V(false).
    type: bool
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
