#!/usr/bin/python
# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: port_acl
short_description: Manage what the ports of VMs let through
version_added: 0.1.0
description:
  - Filters the traffic of one NIC of a VM. It keeps the VM from sending from addresses that are not its own, from
    answering DHCP requests and from posing as a router, and lets through or drops what its rules name.
  - The filter holds from the moment the VM starts, and goes with the VM when that is removed.
  - What the platform cannot do is refused by name before anything is changed.
author: Bareforge contributors (@bareforge)
extends_documentation_fragment:
  - bareforge.hypervisor.attributes
  - bareforge.hypervisor.port_acl
  - bareforge.hypervisor.platform
seealso:
  - module: bareforge.hypervisor.host
    description: Converges a whole host in one task, which is much faster than one task an object.
  - module: bareforge.hypervisor.vm
"""

EXAMPLES = r"""
- name: Let the web server use its own addresses only
  bareforge.hypervisor.port_acl:
    vm: web1
    nic: eth0
    allowed_ipv4: [10.10.0.11]
    allowed_ipv6: ["fd00:10::11"]

- name: Let only the web servers reach the database
  bareforge.hypervisor.port_acl:
    vm: db1
    nic: eth0
    default_inbound: deny
    rules:
      - name: queries of the web servers
        action: allow
        protocol: tcp
        ports: [5432]
        remotes: [10.10.0.0/24]

- name: Remove the filter
  bareforge.hypervisor.port_acl:
    vm: web1
    nic: eth0
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
      sample: port_acl
    key:
      description: Its key; the parts of a key of several are joined by slashes.
      type: str
      sample: web1/eth0
    action:
      description: V(create), V(update) or V(delete).
      type: str
      sample: update
    fields:
      description: The paths, below the object, of the fields that differ.
      type: list
      elements: str
      sample: [allowed_ipv4]
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
port_acls:
  description: The objects that are there, in the form in which O(port_acls) accepts them.
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
      sample: port_acl['web1/eth0'].allowed_ipv4
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
    run_module("port_acl")


if __name__ == "__main__":
    main()
