#!/usr/bin/python
# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: vm_snapshot
short_description: Manage snapshots of virtual machines
version_added: 0.1.0
description:
  - Takes, lists and removes snapshots of virtual machines, and takes a VM back to one.
  - Removing a VM removes its snapshots.
  - What the platform cannot do is refused by name before anything is changed.
author: Bareforge contributors (@bareforge)
extends_documentation_fragment:
  - bareforge.hypervisor.attributes
  - bareforge.hypervisor.vm_snapshot
  - bareforge.hypervisor.platform
seealso:
  - module: bareforge.hypervisor.vm
"""

EXAMPLES = r"""
- name: Take a snapshot before an upgrade
  bareforge.hypervisor.vm_snapshot:
    vm: web1
    name: before-upgrade
    description: Before the upgrade to Debian 13

- name: Take the VM back to it
  bareforge.hypervisor.vm_snapshot:
    vm: web1
    name: before-upgrade
    state: reverted

- name: What snapshots the VM has
  bareforge.hypervisor.vm_snapshot:
    vm: web1
    state: gathered
  register: web1_snapshots

- name: Remove the snapshot
  bareforge.hypervisor.vm_snapshot:
    vm: web1
    name: before-upgrade
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
      sample: snapshot
    key:
      description: Its key; the parts of a key of several are joined by slashes.
      type: str
      sample: web1/before-upgrade
    action:
      description: V(create), V(update) or V(delete), or V(revert) with O(state=reverted).
      type: str
      sample: create
    fields:
      description: The paths, below the object, of the fields that differ.
      type: list
      elements: str
      sample: [description]
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
snapshots:
  description: The objects that are there, in the form in which O(snapshots) accepts them.
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
      sample: snapshot['web1/before-upgrade']
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
    run_module("vm_snapshot")


if __name__ == "__main__":
    main()
