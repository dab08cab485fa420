#!/usr/bin/python
# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: vm
short_description: Manage virtual machines
version_added: 0.1.0
description:
  - Makes virtual machines from templates, changes them, starts and stops them, and removes them.
  - What can be changed in a running VM is changed in it. A change that needs it off is refused unless
    O(allow_restart) allows a restart.
  - Several VMs in O(vms) are made at the same time.
  - What the platform cannot do is refused by name before anything is changed.
author: Bareforge contributors (@bareforge)
extends_documentation_fragment:
  - bareforge.hypervisor.attributes
  - bareforge.hypervisor.vm
  - bareforge.hypervisor.platform
seealso:
  - module: bareforge.hypervisor.host
    description: Converges a whole host in one task, which is much faster than one task an object.
  - module: bareforge.hypervisor.vm_info
  - module: bareforge.hypervisor.vm_snapshot
  - module: bareforge.hypervisor.port_acl
  - module: bareforge.hypervisor.template
"""

EXAMPLES = r"""
- name: A web server, and wait until it can be logged in to
  bareforge.hypervisor.vm:
    name: web1
    template: debian-12
    clone: linked
    cpu:
      count: 2
    memory:
      size: 2 GiB
    disks:
      - name: system
        size: 20 GiB
      - name: data
        size: 100 GiB
    nics:
      - name: eth0
        network: app
        addresses: [10.10.0.11/24, "fd00:10::11/64"]
        gateway4: 10.10.0.1
        dns_servers: [10.10.0.1]
    guest:
      hostname: web1
      users:
        - name: operator
          ssh_keys:
            - ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ5kNUAW6rOC0ckJFUVBwZqAiqZUVXtDtUBBVcAvKYb1 admin@example.org
          sudo: true
    wait_for:
      what: ssh

- name: Several VMs at the same time
  bareforge.hypervisor.vm:
    vms:
      - name: app1
        template: debian-12
        memory:
          size: 1 GiB
        nics:
          - name: eth0
            network: app
      - name: app2
        template: debian-12
        memory:
          size: 1 GiB
        nics:
          - name: eth0
            network: app

- name: A VM that is installed from a CD-ROM image, with secure boot and a TPM
  bareforge.hypervisor.vm:
    name: desktop1
    firmware: uefi
    secure_boot: true
    tpm: true
    cpu:
      count: 4
      sockets: 1
      cores: 4
      threads: 1
    memory:
      size: 8 GiB
    disks:
      - name: system
        size: 64 GiB
        bus: sata
    cdrom: /srv/images/installer.iso
    boot_order: [cdrom, disk]
    tags: [desktop]

- name: Put an image into the CD-ROM drive; an empty text takes it out again
  bareforge.hypervisor.vm:
    name: web1
    cdrom: /srv/images/tools.iso

- name: Give a VM more memory, with a restart if it takes one
  bareforge.hypervisor.vm:
    name: web1
    memory:
      size: 4 GiB
    allow_restart: true
    shutdown_timeout: 120

- name: Stop a VM, and switch it off if it does not stop within a minute
  bareforge.hypervisor.vm:
    name: app2
    power: stopped
    shutdown_timeout: 60
    force_off: true

- name: Remove a VM and keep its disks
  bareforge.hypervisor.vm:
    name: app2
    state: absent
    delete_disks: false
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
      sample: vm
    key:
      description: Its key; the parts of a key of several are joined by slashes.
      type: str
      sample: web1
    action:
      description: V(create), V(update) or V(delete).
      type: str
      sample: update
    fields:
      description: The paths, below the object, of the fields that differ.
      type: list
      elements: str
      sample: [memory.size]
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
vms:
  description: The objects that are there, in the form in which O(vms) accepts them.
  returned: with O(state=gathered)
  type: list
  elements: dict
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
      sample: vm['web1'].nics['eth0'].network
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
    run_module("vm")


if __name__ == "__main__":
    main()
