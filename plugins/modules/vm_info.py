#!/usr/bin/python
# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: vm_info
short_description: Tell what virtual machines there are and what they do
version_added: 0.1.0
description:
  - Tells the configuration of virtual machines and what they do right now, such as whether they run and which
    addresses they have.
author: Bareforge contributors (@bareforge)
extends_documentation_fragment:
  - bareforge.hypervisor.attributes.info
  - bareforge.hypervisor.attributes
  - bareforge.hypervisor.vm_info
  - bareforge.hypervisor.platform
seealso:
  - module: bareforge.hypervisor.vm
  - module: bareforge.hypervisor.host_info
"""

EXAMPLES = r"""
- name: All VMs
  bareforge.hypervisor.vm_info:
  register: machines

- name: Two of them
  bareforge.hypervisor.vm_info:
    names: [web1, db1]
  register: machines
"""

RETURN = r"""
vms:
  description: The VMs, in the form in which the option C(vms) of M(bareforge.hypervisor.vm) accepts them.
  returned: success
  type: list
  elements: dict
runtime:
  description: What the VMs do right now, by their names.
  returned: success
  type: dict
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
      sample: names[0]
    message:
      description: What is wrong there, and what is allowed.
      type: str
      sample: must be given
"""

from ansible_collections.bareforge.hypervisor.plugins.module_utils.boundary.definitions import MODULES
from ansible_collections.bareforge.hypervisor.plugins.module_utils.boundary.module import run_module


def main() -> None:
    run_module(MODULES["vm_info"])


if __name__ == "__main__":
    main()
