# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Written by tests/tools/generate_documentation.py from the model; change the descriptions there.

from __future__ import annotations


class ModuleDocFragment:
    """The options of the module vm_snapshot."""

    DOCUMENTATION = r"""
options:
  vm:
    description:
      - The virtual machine; its snapshots go with it.
      - Allowed is a name of 1 to 255 characters without control or invisible characters or blanks at
        its ends.
    type: str
  name:
    description:
      - The snapshot's name.
      - Allowed is a name of 1 to 255 characters without control or invisible characters or blanks at
        its ends.
    type: str
  description:
    description:
      - What it is for.
      - Settled when the object is made.
    type: str
  memory:
    description:
      - Whether the memory of a running VM is kept too.
      - The default is V(false).
      - Settled when the object is made.
      - A platform offers this by its capability C(snapshot.memory).
    type: bool
  quiesce:
    description:
      - Whether the guest's file systems are frozen meanwhile.
      - The default is V(false).
      - Settled when the object is made.
      - A platform offers this by its capability C(snapshot.quiesce).
    type: bool
  snapshots:
    description:
      - Several objects in one task, instead of O(vm) and O(name) and the options that describe one. Each
        has these options as its fields, and may have a C(state) of its own, V(present) or V(absent).
    type: list
    elements: dict
  exact:
    description:
      - Whether every snapshot that O(snapshots) does not list is removed. What carries the path that
        the host is managed through, and a VM that runs, is kept with a warning.
    type: bool
    default: false
  state:
    description:
      - With V(present) the host is made to show what the options say; what they leave open stays as it
        is. With V(absent) what O(vm) and O(name) or O(snapshots) names is removed. With V(reverted) the
        VM is taken back to the snapshot, and what it did since is lost. With V(gathered) nothing is changed,
        and RV(snapshots) tells what is there, all of it or what O(vm) and O(name) names.
    type: str
    choices:
      - present
      - absent
      - reverted
      - gathered
    default: present
"""
