#!/usr/bin/python
# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: host_interface
short_description: Manage the host's own interfaces on virtual networks
version_added: 0.1.0
description:
  - Makes, changes and removes the host's own interfaces on virtual networks, which are vmkernel adapters of ESXi,
    management vNICs of Hyper-V and internal ports elsewhere.
  - A change to the interface that the host is managed through is made under a guard, so that the host undoes it
    unless the controller comes back and confirms.
  - What the platform cannot do is refused by name before anything is changed.
author: Bareforge contributors (@bareforge)
extends_documentation_fragment:
  - bareforge.hypervisor.attributes
  - bareforge.hypervisor.host_interface
  - bareforge.hypervisor.platform
seealso:
  - module: bareforge.hypervisor.host
    description: Converges a whole host in one task, which is much faster than one task an object.
"""

EXAMPLES = r"""
- name: The host's address on the network of the applications
  bareforge.hypervisor.host_interface:
    name: app0
    network: app
    addresses: [10.10.0.1/24, "fd00:10::1/64"]

- name: An interface for storage with large packets and a route
  bareforge.hypervisor.host_interface:
    name: storage0
    network: storage
    addresses: [10.40.0.2/24]
    mtu: 9000
    roles: [storage]
    routes:
      - destination: 10.41.0.0/24
        gateway: 10.40.0.1

- name: Change the host's management address, and give the controller two minutes to find it again
  bareforge.hypervisor.host_interface:
    name: mgmt0
    network: management
    addresses: [192.0.2.10/24]
    gateway4: 192.0.2.1
    roles: [management]
    guard:
      timeout: 120
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
      sample: host_interface
    key:
      description: Its key; the parts of a key of several are joined by slashes.
      type: str
      sample: app0
    action:
      description: V(create), V(update) or V(delete).
      type: str
      sample: update
    fields:
      description: The paths, below the object, of the fields that differ.
      type: list
      elements: str
      sample: [addresses]
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
guard:
  description: The guard over the changes to the path that the host is managed through.
  returned: when such changes were made under the guard
  type: dict
  contains:
    guarded:
      description: What was changed under it.
      type: list
      elements: str
      sample: ["virtual_switch['br-data']"]
    confirmed:
      description: That the controller came back over a new connection and confirmed.
      type: bool
      sample: true
    seconds:
      description: How long that took.
      type: float
      sample: 1.3
host_interfaces:
  description: The objects that are there, in the form in which O(host_interfaces) accepts them.
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
      sample: host_interface['app0'].addresses
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
    run_module("host_interface")


if __name__ == "__main__":
    main()
