#!/usr/bin/python
# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: tuning
short_description: Tune how a host shares its memory and processors
version_added: 0.1.0
description:
  - Sets hugepages apart, and sets transparent hugepages, kernel samepage merging, NUMA balancing, the processors' governor, and
    how far memory is promised beyond what there is. All of it holds at once and after every start of the host.
  - What is not said is left as the host has it, and is not written anywhere. What was said once stays until it is said otherwise.
  - On KVM, C(sysctl.d) and C(tmpfiles.d) set it again early at every start, and a unit once more when the rest is up. Hugepages
    of 1 GiB and above also stand on the kernel's command line where the host starts with GRUB, since only an early start is sure
    of room for them; what cannot be had before is told by a warning, and by RV(bareforge.hypervisor.host_info#module:facts).
  - What the hardware or the kernel does not offer is refused by name before anything is changed.
author: Bareforge contributors (@bareforge)
extends_documentation_fragment:
  - bareforge.hypervisor.attributes
  - bareforge.hypervisor.tuning
  - bareforge.hypervisor.platform
seealso:
  - module: bareforge.hypervisor.host
    description: Converges a whole host in one task, which is much faster than one task an object.
  - module: bareforge.hypervisor.host_info
    description: Tells what is set now, and what the hardware offers.
"""

EXAMPLES = r"""
- name: Hugepages for VMs, and nothing shared between them
  bareforge.hypervisor.tuning:
    hugepages:
      - {size: 1 GiB, node: 0, count: 16}
      - {size: 2 MiB, node: 0, count: 512}
    transparent_hugepages: madvise
    ksm:
      enabled: false
    cpu_governor: performance
    swappiness: 10

- name: Many small VMs that have much in common
  bareforge.hypervisor.tuning:
    ksm:
      enabled: true
      pages_to_scan: 1000
      sleep_milliseconds: 20
      merge_across_nodes: false
    vm_memory_limit: 120 GiB

- name: What was set
  bareforge.hypervisor.tuning:
    state: gathered
  register: found
"""

RETURN = r"""
changes:
  description: What was changed, or would be in check mode, in this order.
  returned: with O(state) other than V(gathered)
  type: list
  elements: dict
  contains:
    kind:
      description: The kind of the object.
      type: str
      sample: tuning
    key:
      description: Its key; the parts of a key of several are joined by slashes.
      type: str
      sample: ""
    action:
      description: V(create), V(update) or V(delete).
      type: str
      sample: update
    fields:
      description: The paths, below the object, of the fields that differ.
      type: list
      elements: str
      sample: [swappiness]
    needs:
      description: What the change takes beside itself, V(power_cycle) of the VM or V(host_reboot).
      returned: when it takes anything
      type: list
      elements: str
before:
  description: The objects that differ as they were, as a document; those that were not there are not in it.
  returned: with O(state) other than V(gathered)
  type: dict
after:
  description: The same objects as the host shows them now, or as they are planned in check mode.
  returned: with O(state) other than V(gathered)
  type: dict
tuning:
  description: What was set and still is, in the form in which it is accepted as input.
  returned: with O(state=gathered)
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
      sample: tuning.cpu_governor
    message:
      description: What is wrong there, and what is allowed.
      type: str
      sample: must be given
changes_made:
  description: The changes that were complete when the task broke off, each as in RV(changes).
  returned: failure after changes had begun
  type: list
  elements: dict
"""

from ansible_collections.bareforge.hypervisor.plugins.module_utils.boundary.module import run_module


def main() -> None:
    run_module("tuning")


if __name__ == "__main__":
    main()
