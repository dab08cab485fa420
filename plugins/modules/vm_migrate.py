#!/usr/bin/python
# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: vm_migrate
short_description: Move a virtual machine to another host
version_added: 0.1.0
description:
  - Moves a virtual machine with its disks to another host of the inventory. One that runs keeps running (live migration);
    one that is off is copied. No storage has to be shared.
  - The hosts talk to each other through SSH, with a key that is made for one migration, ends by itself and allows nothing
    else. No port has to be opened beside that of SSH, and nothing is left afterwards.
  - Networks and storage pools are found by name on the other host, which must have them. A linked clone stays one where the
    other host has the same template. Its port ACLs, its autostart, its seed for cloud-init, UEFI variables and TPM go along.
  - It is refused before anything is changed where the VM has snapshots or a medium in its drive, and where the other host
    lacks a network, a pool, the template, memory or space.
  - Until the VM is on the other host it is whole where it was. A run that was killed is finished or taken back by the next.
  - On Proxmox VE, both hosts are nodes of one cluster, which moves the VM by its own means; storages may be shared.
    O(address), O(port), O(max_downtime) and O(auto_converge=false) are refused there, and a linked clone with disks on its
    node becomes a full one.
  - A second run finds the VM there and changes nothing.
author: Bareforge contributors (@bareforge)
extends_documentation_fragment:
  - bareforge.hypervisor.attributes
  - bareforge.hypervisor.vm_migrate
  - bareforge.hypervisor.platform
notes:
  - Checkpoints of incremental backups stay behind, so a VM that has moved needs a full backup next.
  - The user that Ansible logs in as on O(destination) must be allowed to log in by key from the first host.
seealso:
  - module: bareforge.hypervisor.vm
"""

EXAMPLES = r"""
- name: Move a VM that runs
  bareforge.hypervisor.vm_migrate:
    name: web1
    destination: kvm2

- name: Over a network of its own, and slowly
  bareforge.hypervisor.vm_migrate:
    name: web1
    destination: kvm2
    address: 10.20.0.2
    bandwidth: 100
    max_downtime: 500

- name: To a host without the template
  bareforge.hypervisor.vm_migrate:
    name: web1
    destination: kvm2
    full_copy: true
"""

RETURN = r"""
changes:
  description: What was changed, or would be in check mode.
  returned: success
  type: list
  elements: dict
  contains:
    kind:
      description: V(vm).
      type: str
      sample: vm
    key:
      description: The VM's name.
      type: str
      sample: web1
    action:
      description: V(migrate).
      type: str
      sample: migrate
    fields:
      description: V(host), which is all that changes.
      type: list
      elements: str
before:
  description: C(host), where the VM was, and C(vms), the VM as a document.
  returned: success
  type: dict
after:
  description: C(host), where the VM is now, and C(vms), the VM as that host shows it.
  returned: success
  type: dict
migration:
  description: How it went.
  returned: when the VM was moved
  type: dict
  contains:
    live:
      description: Whether the VM ran, or was suspended, meanwhile.
      type: bool
    seconds:
      description: How long it took.
      type: float
      sample: 12.5
    downtime:
      description: How long the guest stood still, in milliseconds, as QEMU tells it.
      returned: when the VM ran
      type: int
      sample: 210
    memory:
      description: How much memory was copied, in bytes, pages that were copied again among them.
      returned: on KVM hosts
      type: int
    disks:
      description: How much of the disks was copied, in bytes.
      returned: on KVM hosts
      type: int
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
      sample: vm['web1']
    message:
      description: What is wrong there, and what is allowed.
      type: str
      sample: has snapshots, which cannot move with it
"""

from ansible_collections.bareforge.hypervisor.plugins.module_utils.boundary.module import run_module


def main() -> None:
    run_module("vm_migrate")


if __name__ == "__main__":
    main()
