# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Written by tests/tools/generate_documentation.py from the model; change the descriptions there.

from __future__ import annotations


class ModuleDocFragment:
    """The options of the module role."""

    DOCUMENTATION = r"""
options:
  name:
    description:
      - The role's name.
      - Allowed is a name of 1 to 255 characters without control or invisible characters or blanks at
        its ends.
    type: str
  privileges:
    description:
      - The privileges, in the platform's own words; the whole list.
      - Must be given with O(state=present).
      - Each entry is a name of 1 to 255 characters without control or invisible characters or blanks
        at its ends.
    type: list
    elements: str
  description:
    description:
      - What it is for.
      - An empty text takes it away.
    type: str
  roles:
    description:
      - Several objects in one task, instead of O(name) and the options that describe one. Each has these
        options as its fields, and may have a C(state) of its own, V(present) or V(absent).
    type: list
    elements: dict
  exact:
    description:
      - Whether every role that O(roles) does not list is removed. What carries the path that the host
        is managed through, and a VM that runs, is kept with a warning.
    type: bool
    default: false
  state:
    description:
      - With V(present) the host is made to show what the options say; what they leave open stays as it
        is. With V(absent) what O(name) or O(roles) names is removed. With V(gathered) nothing is changed,
        and RV(roles) tells what is there, all of it or what O(name) names.
    type: str
    choices:
      - present
      - absent
      - gathered
    default: present
"""
