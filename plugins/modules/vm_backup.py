#!/usr/bin/python
# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: vm_backup
short_description: Manage backups of virtual machines
version_added: 0.1.0
description:
  - Makes, lists and removes backups of virtual machines, in a directory, pool or store outside of them.
  - A backup holds all disks of a VM as they were at one moment, its configuration, and what its firmware and its TPM
    keep, with a checksum of every file. A VM that runs goes on meanwhile.
  - An incremental backup holds what has changed since the backup before in the same target, and is refused where that is
    not known. Make a full one every now and then, as only what no later backup builds on can be removed.
  - Removing a VM does not remove its backups.
  - A backup that was broken off is not there, and nothing is left of it.
  - What the platform cannot do is refused by name before anything is changed.
author: Bareforge contributors (@bareforge)
extends_documentation_fragment:
  - bareforge.hypervisor.attributes
  - bareforge.hypervisor.vm_backup
  - bareforge.hypervisor.platform
notes:
  - On platform V(kvm) the target is a directory of the host. It is made where only the last part of its path is missing,
    and must be one that the user that QEMU runs as can pass through. The host is locked against other runs meanwhile.
  - On platform V(kvm) a VM that has snapshots can have full backups only, and taking a snapshot makes the next backup have
    to be a full one, since libvirt notes no changes beside snapshots.
  - The files in the target hold everything that the guest holds, secrets among it. They are readable by root only.
seealso:
  - module: bareforge.hypervisor.vm_restore
  - module: bareforge.hypervisor.vm_snapshot
  - module: bareforge.hypervisor.vm
"""

EXAMPLES = r"""
- name: A full backup on Sunday
  bareforge.hypervisor.vm_backup:
    vm: web1
    name: sunday
    target: /srv/backup

- name: What has changed since, with the guest's file systems frozen for a moment
  bareforge.hypervisor.vm_backup:
    vm: web1
    name: monday
    target: /srv/backup
    mode: incremental
    quiesce: true

- name: A full backup, after which the last four are kept
  bareforge.hypervisor.vm_backup:
    vm: web1
    name: "2026-11-25"
    target: /srv/backup
    keep: 4

- name: What backups there are of the VM
  bareforge.hypervisor.vm_backup:
    vm: web1
    state: gathered
  register: web1_backups

- name: Remove one
  bareforge.hypervisor.vm_backup:
    vm: web1
    name: sunday
    state: absent
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
      sample: backup
    key:
      description: Its key; the parts of a key of several are joined by slashes.
      type: str
      sample: web1/sunday
    action:
      description: V(create), V(update) or V(delete).
      type: str
      sample: create
    fields:
      description: The paths, below the object, of the fields that differ.
      type: list
      elements: str
      sample: [mode]
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
backups:
  description: The objects that are there, in the form in which O(backups) accepts them.
  returned: with O(state=gathered)
  type: list
  elements: dict
catalogue:
  description: What the catalogues say of the same backups, those of each VM and target from the oldest on.
  returned: with O(state=gathered)
  type: list
  elements: dict
  contains:
    vm:
      description: The virtual machine.
      type: str
    name:
      description: The backup's name.
      type: str
    target:
      description: Where it lies.
      type: str
    mode:
      description: V(full) or V(incremental).
      type: str
    parent:
      description: The backup that an incremental one builds on.
      type: str
    created:
      description: When it was made, in UTC.
      type: str
      sample: "2026-11-25T20:15:00+00:00"
    host:
      description: The name of the host that the VM was on.
      type: str
    quiesce:
      description: Whether the guest's file systems were frozen meanwhile.
      type: bool
    size:
      description: What its files take, in bytes.
      type: int
    disks:
      description: The C(name), C(virtual_size) and C(size) of each disk, in bytes.
      type: list
      elements: dict
    tools:
      description: The versions of what has made it.
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
      sample: backup['web1/sunday']
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
    run_module("vm_backup")


if __name__ == "__main__":
    main()
