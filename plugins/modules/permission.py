#!/usr/bin/python
# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: permission
short_description: Manage who may do what where on a host
version_added: 0.1.0
description:
  - Gives a user or a group a role on the whole host or on a part of it, changes that and takes it away.
  - On KVM the parts are C(/), C(/vms/NAME), C(/pools/NAME) and C(/networks/NAME), where NAME is what libvirt calls the VM,
    pool or network. What a path names need not be there yet.
  - On KVM libvirt is made to ask polkit before the first permission is given. From then on whoever has a permission may do
    what permissions say and nothing else, and members of the group C(libvirt) without one may hardly do anything. root may
    do everything. That stays so when the last permission is taken away.
  - Several permissions of one user add up.
  - An admin of a VM can give it any file and device of the host. That is as good as being root.
  - What the platform cannot do is refused by name before anything is changed.
author: Bareforge contributors (@bareforge)
extends_documentation_fragment:
  - bareforge.hypervisor.attributes
  - bareforge.hypervisor.permission
  - bareforge.hypervisor.platform
seealso:
  - module: bareforge.hypervisor.role
  - module: bareforge.hypervisor.user
  - module: bareforge.hypervisor.host
    description: Converges a whole host in one task, which is much faster than one task an object.
"""

EXAMPLES = r"""
- name: One VM to start, stop and look at
  bareforge.hypervisor.permission:
    principal: anna
    path: /vms/web1
    role: operator

- name: These permissions and no others
  bareforge.hypervisor.permission:
    permissions:
      - principal: staff
        principal_type: group
        path: /
        role: viewer
      - principal: anna
        path: /vms/web1
        role: admin
    exact: true

- name: Take one away
  bareforge.hypervisor.permission:
    principal: anna
    path: /vms/web1
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
      sample: permission
    key:
      description: Its key; the parts of a key of several are joined by slashes.
      type: str
      sample: anna//vms/web1
    action:
      description: V(create), V(update) or V(delete).
      type: str
      sample: update
    fields:
      description: The paths, below the object, of the fields that differ.
      type: list
      elements: str
      sample: [role]
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
permissions:
  description: The objects that are there, in the form in which O(permissions) accepts them.
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
      sample: permission['anna//vms/web1'].role
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
    run_module("permission")


if __name__ == "__main__":
    main()
