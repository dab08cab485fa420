# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Written by tests/tools/generate_documentation.py from the model; change the descriptions there.

from __future__ import annotations


class ModuleDocFragment:
    """The options of the module permission."""

    DOCUMENTATION = r"""
options:
  principal:
    description:
      - The user or group.
      - Allowed is a name of 1 to 255 characters without control or invisible characters or blanks at
        its ends.
    type: str
  path:
    description:
      - What it holds for; / is the whole host.
    type: str
  principal_type:
    description:
      - What the principal is.
      - The default is V(user).
    type: str
    choices:
      - user
      - group
  role:
    description:
      - 'The role: viewer, operator, admin, or one of the host''s.'
      - Must be given with O(state=present).
      - Allowed is a name of 1 to 255 characters without control or invisible characters or blanks at
        its ends.
    type: str
  propagate:
    description:
      - Whether it holds for everything below the path.
      - The default is V(true).
    type: bool
  kvm:
    description:
      - What only a KVM host has.
    type: dict
    suboptions:
      sudo:
        description:
          - Whether the principal may also become root by sudo, with its own password or without one.
            It goes with the role admin on the whole host.
          - The default is V(none).
          - A platform offers this by its capability C(permission.kvm.sudo).
        type: str
        choices:
          - none
          - password
          - no_password
  permissions:
    description:
      - Several objects in one task, instead of O(principal) and O(path) and the options that describe
        one. Each has these options as its fields, and may have a C(state) of its own, V(present) or V(absent).
    type: list
    elements: dict
  exact:
    description:
      - Whether every permission that O(permissions) does not list is removed. What carries the path that
        the host is managed through, and a VM that runs, is kept with a warning.
    type: bool
    default: false
  state:
    description:
      - With V(present) the host is made to show what the options say; what they leave open stays as it
        is. With V(absent) what O(principal) and O(path) or O(permissions) names is removed. With V(gathered)
        nothing is changed, and RV(permissions) tells what is there, all of it or what O(principal) and
        O(path) names.
    type: str
    choices:
      - present
      - absent
      - gathered
    default: present
"""
