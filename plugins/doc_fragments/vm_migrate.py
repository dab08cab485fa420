# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Written by tests/tools/generate_documentation.py from the model; change the descriptions there.

from __future__ import annotations


class ModuleDocFragment:
    """The options of the module vm_migrate."""

    DOCUMENTATION = r"""
options:
  name:
    description:
      - The virtual machine, on the host that the task runs for or there already.
      - Allowed is a name of 1 to 255 characters without control or invisible characters or blanks at
        its ends.
    type: str
    required: true
  destination:
    description:
      - The host that the VM goes to, by its name in the inventory. It is reached as its own tasks reach
        it.
    type: str
    required: true
  address:
    description:
      - The address or name by which the first host reaches the SSH server of O(destination). By default
        it is the address of its host interface with the role V(migration), else C(ansible_host).
    type: str
  port:
    description:
      - The port of that SSH server. By default it is C(ansible_port) where the address is C(ansible_host),
        else 22.
      - Allowed is a whole number from 1 to 65535.
    type: int
  timeout:
    description:
      - After how many seconds a migration is given up. The VM stays where it is then.
      - Allowed is a whole number from 1 to 86400 (seconds).
    type: int
    default: 3600
  bandwidth:
    description:
      - How fast memory and disks are copied, in MiB a second; as fast as can be by default.
      - Allowed is a whole number from 1 to 1000000 (MiB/s).
    type: int
  max_downtime:
    description:
      - How long the guest may stand still at the end, in milliseconds. QEMU's own limit is 300.
      - Allowed is a whole number from 1 to 60000 (milliseconds).
    type: int
  auto_converge:
    description:
      - Whether a guest that writes to its memory faster than it is copied is slowed down.
    type: bool
    default: true
  full_copy:
    description:
      - Whether a linked clone becomes a full one, where O(destination) does not have its template.
    type: bool
    default: false
"""
