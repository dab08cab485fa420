# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Written by tests/tools/generate_documentation.py from the model; change the descriptions there.

from __future__ import annotations


class ModuleDocFragment:
    """The options of the module vm_backup."""

    DOCUMENTATION = r"""
options:
  vm:
    description:
      - The virtual machine; its backups outlive it.
      - Allowed is a name of 1 to 255 characters without control or invisible characters or blanks at
        its ends.
    type: str
  name:
    description:
      - The backup's name.
      - Allowed is a name of 1 to 255 characters without control or invisible characters or blanks at
        its ends.
    type: str
  target:
    description:
      - The directory, pool or store.
      - Must be given with O(state=present).
      - Settled when the object is made.
    type: str
  mode:
    description:
      - Everything, or what has changed since the backup before.
      - The default is V(full).
      - Settled when the object is made.
      - A platform offers this by its capability C(backup.mode.*).
    type: str
    choices:
      - full
      - incremental
  quiesce:
    description:
      - Whether the guest's file systems are frozen meanwhile.
      - The default is V(false).
      - Settled when the object is made.
      - A platform offers this by its capability C(backup.quiesce).
    type: bool
  backups:
    description:
      - Several objects in one task, instead of O(vm) and O(name) and the options that describe one. Each
        has these options as its fields, and may have a C(state) of its own, V(present) or V(absent).
    type: list
    elements: dict
  exact:
    description:
      - Whether every backup that O(backups) does not list is removed. What carries the path that the
        host is managed through, and a VM that runs, is kept with a warning.
    type: bool
    default: false
  state:
    description:
      - With V(present) the host is made to show what the options say; what they leave open stays as it
        is. With V(absent) what O(vm) and O(name) or O(backups) names is removed. With V(gathered) nothing
        is changed, and RV(backups) tells what is there, all of it or what O(vm) and O(name) names.
    type: str
    choices:
      - present
      - absent
      - gathered
    default: present
  keep:
    description:
      - How many backups of the VM are kept in the target, the one of this task among them; older ones
        are removed once it is made. What a kept incremental backup builds on is kept too, however old
        it is. All are kept by default.
      - Allowed is a whole number from 1 to 10000.
    type: int
"""
