#!/usr/bin/python
# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: guard
short_description: Confirm or undo a guarded change
version_added: 0.1.0
description:
  - A change to the path that a host is managed through is made under a guard, so that the host undoes it by itself
    unless the controller comes back over a new connection and confirms. The modules that make such changes confirm
    by themselves; this module is what they use.
  - It is of use by itself where the controller broke off after the change, and the host has not undone it yet.
author: Bareforge contributors (@bareforge)
extends_documentation_fragment:
  - bareforge.hypervisor.attributes.guard
  - bareforge.hypervisor.attributes
  - bareforge.hypervisor.guard
  - bareforge.hypervisor.platform
seealso:
  - module: bareforge.hypervisor.host
"""

EXAMPLES = r"""
- name: Keep the change
  bareforge.hypervisor.guard:
    token: 3f1b9c0d2a4e5f60

- name: Undo the change at once
  bareforge.hypervisor.guard:
    token: 3f1b9c0d2a4e5f60
    state: undone
"""

RETURN = r"""
phase:
  description:
    - Where the task broke off. V(validate) means that nothing was changed.
    - One of V(connect), V(authenticate), V(read), V(validate), V(apply), V(verify), V(guard) and V(internal).
  returned: failure
  type: str
  sample: validate
problems:
  description: Everything that is wrong with what was asked.
  returned: failure with phase V(validate)
  type: list
  elements: dict
  contains:
    path:
      description: Where in the document it stands.
      type: str
      sample: token
    message:
      description: What is wrong there, and what is allowed.
      type: str
      sample: must be given
"""

from ansible_collections.bareforge.hypervisor.plugins.module_utils.boundary.module import run_module


def main() -> None:
    run_module("guard")


if __name__ == "__main__":
    main()
