#!/usr/bin/python
# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: host_info
short_description: Tell what a host is and has
version_added: 0.1.0
description:
  - Tells what is known of a host, such as its version, processors, memory and devices, what its platform can do,
    and what is on it.
author: Bareforge contributors (@bareforge)
extends_documentation_fragment:
  - bareforge.hypervisor.attributes.info
  - bareforge.hypervisor.attributes
  - bareforge.hypervisor.host_info
  - bareforge.hypervisor.platform
seealso:
  - module: bareforge.hypervisor.host
  - module: bareforge.hypervisor.vm_info
"""

EXAMPLES = r"""
- name: Everything
  bareforge.hypervisor.host_info:
  register: info

- name: Facts and capabilities only
  bareforge.hypervisor.host_info:
    kinds: []
  register: info

- name: Facts, and the networks
  bareforge.hypervisor.host_info:
    kinds: [virtual_switch, virtual_network]
  register: info
"""

RETURN = r"""
platform:
  description: The host's platform.
  returned: success
  type: str
  sample: kvm
capabilities:
  description: What the platform can do, by the names that the options' documentation mentions.
  returned: success
  type: list
  elements: str
  sample: [vm, vm.clone.linked]
facts:
  description: What is known of the host beside its objects. What there is to know differs from platform to platform.
  returned: success
  type: dict
document:
  description: The objects of O(kinds), in the form in which M(bareforge.hypervisor.host) accepts them.
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
      sample: kinds[0]
    message:
      description: What is wrong there, and what is allowed.
      type: str
      sample: must be given
"""

from ansible_collections.bareforge.hypervisor.plugins.module_utils.boundary.module import run_module


def main() -> None:
    run_module("host_info")


if __name__ == "__main__":
    main()
