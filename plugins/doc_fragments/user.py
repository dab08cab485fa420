# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Written by tests/tools/generate_documentation.py from the model; change the descriptions there.

from __future__ import annotations


class ModuleDocFragment:
    """The options of the module user."""

    DOCUMENTATION = r"""
options:
  name:
    description:
      - The user's name.
      - Allowed is a name of 1 to 255 characters without control or invisible characters or blanks at
        its ends.
    type: str
  realm:
    description:
      - The directory or realm; the platform's local one where not given.
      - Allowed is a name of 1 to 255 characters without control or invisible characters or blanks at
        its ends.
      - A platform offers this by its capability C(user.realm).
    type: str
  full_name:
    description:
      - The person's name.
      - An empty text takes it away.
    type: str
  enabled:
    description:
      - Whether the user may log in.
      - The default is V(true).
    type: bool
  password:
    description:
      - The password, set when the user is made.
    type: str
  password_hash:
    description:
      - The password as a hash of crypt(5), where the platform takes one.
      - Allowed is a crypt(5) hash such as $6$... or $y$....
    type: str
  ssh_keys:
    description:
      - The public SSH keys that let the user in; the whole list.
      - Each entry is a public SSH key in OpenSSH's one-line form.
      - A platform offers this by its capability C(user.ssh_keys).
    type: list
    elements: str
  groups:
    description:
      - The groups that the user is in beside its own.
      - Each entry is a name of 1 to 255 characters without control or invisible characters or blanks
        at its ends.
      - A platform offers this by its capability C(user.groups).
    type: list
    elements: str
  shell:
    description:
      - The login shell.
      - Allowed is a name of 1 to 255 characters without control or invisible characters or blanks at
        its ends.
      - A platform offers this by its capability C(user.shell).
    type: str
  expires:
    description:
      - The day from which the user may no longer log in.
      - Allowed is a date such as 2027-01-31.
      - An empty text takes it away.
      - A platform offers this by its capability C(user.expires).
    type: str
  second_factor:
    description:
      - What is needed beside the password.
    type: dict
    suboptions:
      type:
        description:
          - The kind of the second factor.
          - A platform offers this by its capability C(user.second_factor.*).
        type: str
        required: true
        choices:
          - totp
          - webauthn
      required:
        description:
          - Whether nobody gets in without it.
          - The default is V(true).
        type: bool
  users:
    description:
      - Several objects in one task, instead of O(name) and the options that describe one. Each has these
        options as its fields, and may have a C(state) of its own, V(present) or V(absent).
    type: list
    elements: dict
  exact:
    description:
      - Whether every user that O(users) does not list is removed. What carries the path that the host
        is managed through, and a VM that runs, is kept with a warning.
    type: bool
    default: false
  state:
    description:
      - With V(present) the host is made to show what the options say; what they leave open stays as it
        is. With V(absent) what O(name) or O(users) names is removed. With V(gathered) nothing is changed,
        and RV(users) tells what is there, all of it or what O(name) names.
    type: str
    choices:
      - present
      - absent
      - gathered
    default: present
  delete_home:
    description:
      - Whether the home folder of a user that is removed goes with it, and what else is known to be the
        user's, such as mail.
      - The default is V(false).
    type: bool
  guard:
    description:
      - The guard over the management path.
    type: dict
    suboptions:
      enabled:
        description:
          - Whether the host undoes a change to its management path by itself unless the controller comes
            back and confirms.
          - The default is V(true).
        type: bool
      timeout:
        description:
          - After how many seconds without confirmation the host undoes it.
          - Allowed is a whole number from 10 to 600 (seconds).
          - The default is V(60).
        type: int
"""
