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

- name: Show the addresses of one
  ansible.builtin.debug:
    msg: "{{ machines.vms[0].addresses }}"
"""

RETURN = r"""
vms:
  description: The VMs by name, with what there is to know of them right now.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: The VM's name.
      type: str
      sample: web1
    managed:
      description:
        - Whether it was made by this collection. On a KVM host, only what libvirt tells of every VM is known of others.
      type: bool
    vm:
      description: The VM as the option C(vms) of M(bareforge.hypervisor.vm) accepts it.
      returned: for VMs that were made by this collection, on Proxmox VE for all
      type: dict
    state:
      description: What it does, in the host's words.
      type: str
      sample: running (booted)
    power:
      description: V(running), V(stopped) or V(suspended).
      type: str
      sample: running
    uuid:
      description: Its UUID.
      type: str
    autostart:
      description: Whether it starts with the host.
      type: bool
    persistent:
      description: Whether it is still there after it has stopped.
      type: bool
    addresses:
      description: The addresses that the guest has right now, by the names of its NICs.
      type: dict
      sample: {eth0: [10.10.0.11/24]}
    nics:
      description: The C(name), C(mac) and, on the host, C(tap) of each NIC.
      returned: for VMs that were made by this collection, on Proxmox VE for all
      type: list
      elements: dict
    disks:
      description: The C(name), C(path) (a volume of a storage on Proxmox VE), C(size) and C(used), in MiB, of each disk.
      returned: for VMs that were made by this collection, on Proxmox VE for all
      type: list
      elements: dict
    snapshots:
      description: The names of its snapshots.
      type: list
      elements: str
    process:
      description: The id of the process on the host that runs it.
      type: int
    console:
      description: Where its serial console is written to on the host.
      returned: for VMs of KVM hosts that were made by this collection
      type: str
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

from ansible_collections.bareforge.hypervisor.plugins.module_utils.boundary.module import run_module


def main() -> None:
    run_module("vm_info")


if __name__ == "__main__":
    main()
