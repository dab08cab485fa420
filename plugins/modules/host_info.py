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

- name: Facts, and what the host and its virtual machines use
  bareforge.hypervisor.host_info:
    kinds: []
    metrics: true
  register: info

- name: Facts, and which updates are pending
  bareforge.hypervisor.host_info:
    kinds: []
    updates: true
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
  description:
    - What is known of the host beside its objects. What there is to know differs from platform to platform.
    - On KVM, C(tuning) tells what is set of all that M(bareforge.hypervisor.tuning) can set and what hardware and kernel offer,
      and C(maintenance) since when and why the host is out of service, or null.
  returned: success
  type: dict
document:
  description: The objects of O(kinds), in the form in which M(bareforge.hypervisor.host) accepts them.
  returned: success
  type: dict
metrics:
  description:
    - What is used right now. The units stand in the names. Counters grow from the host's boot, or from the start of a virtual
      machine; a rate is the difference of two readings over the difference of their C(time).
    - What is not known, such as anything of a machine that does not run, is null.
  returned: success and O(metrics=true)
  type: dict
  contains:
    time:
      description: When it was read, in seconds since 1970.
      type: float
    host:
      description:
        - C(cpu) with C(user_seconds), C(system_seconds), C(idle_seconds), C(iowait_seconds) and C(guest_seconds) over all
          processors; C(load) over 1, 5 and 15 minutes; C(memory) with C(size_mib), C(available_mib), C(free_mib) and
          C(swap_used_mib).
        - C(disks), each with C(device), C(read_bytes), C(written_bytes), C(read_operations) and C(write_operations).
        - C(interfaces), each with C(device), and C(received_bytes), C(received_packets), C(received_errors),
          C(received_dropped) and the same with C(sent_).
      type: dict
    vms:
      description:
        - Every virtual machine with its C(name), C(uuid) and C(power); C(cpu) with C(count), C(used_seconds), C(user_seconds) and
          C(system_seconds); C(memory) with C(size_mib) (what its balloon leaves it), C(maximum_mib), C(usable_mib) and
          C(unused_mib) (as the guest sees it) and C(resident_mib) (what it takes of the host's).
        - C(disks), as those of the host, with C(path), C(capacity_bytes) and C(allocated_bytes) beside it; and C(nics), as
          the interfaces of the host.
      type: list
      elements: dict
updates:
  description: The pending updates, by the package lists that the host has. Nothing is fetched for it.
  returned: success and O(updates=true)
  type: dict
  contains:
    pending:
      description:
        - Each with its C(package) and C(architecture), the versions C(installed) (null for a package that an update brings along)
          and C(candidate), the C(origins) of the candidate, C(security), whether one of them is an archive of security
          updates, and C(automatic), whether it was installed only since another package needs it.
      type: list
      elements: dict
    security:
      description: How many of them close security holes.
      type: int
    lists_time:
      description: When the package lists were last fetched, in seconds since 1970; null where there are none.
      type: int
    reboot_required:
      description: Whether the host has to be started anew.
      type: bool
    reboot_reasons:
      description: Why, such as packages that ask for it, a newer kernel than the one that runs, or hugepages that wait for it.
      type: list
      elements: str
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
