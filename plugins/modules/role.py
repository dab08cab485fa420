#!/usr/bin/python
# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: role
short_description: Manage the roles of a host
version_added: 0.1.0
description:
  - Makes, changes and removes named sets of privileges, which M(bareforge.hypervisor.permission) gives to users and groups.
  - The roles C(viewer), C(operator) and C(admin) exist on every platform and cannot be changed. A viewer may look, an
    operator may also start, stop and use VMs and their snapshots, an admin may do everything.
  - The privileges are the platform's own words. On KVM they are the actions by which libvirt asks polkit, such as
    C(org.libvirt.api.domain.start); they are compared with those that the host knows.
  - A role that a permission gives is not removed.
  - What the platform cannot do is refused by name before anything is changed.
author: Bareforge contributors (@bareforge)
extends_documentation_fragment:
  - bareforge.hypervisor.attributes
  - bareforge.hypervisor.role
  - bareforge.hypervisor.platform
seealso:
  - module: bareforge.hypervisor.permission
  - module: bareforge.hypervisor.host
    description: Converges a whole host in one task, which is much faster than one task an object.
"""

EXAMPLES = r"""
- name: May look at VMs and start them, and nothing else
  bareforge.hypervisor.role:
    name: starter
    privileges:
      - org.libvirt.api.connect.getattr
      - org.libvirt.api.connect.search-domains
      - org.libvirt.api.domain.getattr
      - org.libvirt.api.domain.read
      - org.libvirt.api.domain.start
    description: The night shift

- name: Remove a role
  bareforge.hypervisor.role:
    name: starter
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
      sample: role
    key:
      description: Its key; the parts of a key of several are joined by slashes.
      type: str
      sample: starter
    action:
      description: V(create), V(update) or V(delete).
      type: str
      sample: update
    fields:
      description: The paths, below the object, of the fields that differ.
      type: list
      elements: str
      sample: [privileges]
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
roles:
  description: The objects that are there, in the form in which O(roles) accepts them.
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
      sample: role['starter'].privileges
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
    run_module("role")


if __name__ == "__main__":
    main()
