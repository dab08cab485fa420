#!/usr/bin/python
# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: host
short_description: Converge a whole host, or gather it
version_added: 0.1.0
description:
  - Makes a host show what a document says of it, with its switches, networks, interfaces, firewall, templates, VMs
    and the filters on their ports, in one task.
  - The current state is read, the changes are planned in the order in which they depend on each other, made, and
    read back. In check mode the task stops after the plan.
  - With O(state=gathered) the host is described by a document that can be committed, and applied back without a
    change.
  - What the platform cannot do is refused by name before anything is changed. What touches the path that the host
    is managed through is made under a guard, so that the host undoes it unless the controller comes back and
    confirms.
author: Bareforge contributors (@bareforge)
extends_documentation_fragment:
  - bareforge.hypervisor.attributes
  - bareforge.hypervisor.host
  - bareforge.hypervisor.platform
seealso:
  - module: bareforge.hypervisor.system
    description: The fields of the section C(system).
  - module: bareforge.hypervisor.virtual_switch
    description: The fields of the section C(virtual_switches).
  - module: bareforge.hypervisor.virtual_network
    description: The fields of the section C(virtual_networks).
  - module: bareforge.hypervisor.host_interface
    description: The fields of the section C(host_interfaces).
  - module: bareforge.hypervisor.firewall
    description: The fields of the section C(firewall).
  - module: bareforge.hypervisor.firewall_rule
    description: The fields of the section C(firewall_rules).
  - module: bareforge.hypervisor.user
    description: The fields of the section C(users).
  - module: bareforge.hypervisor.role
    description: The fields of the section C(roles).
  - module: bareforge.hypervisor.permission
    description: The fields of the section C(permissions).
  - module: bareforge.hypervisor.template
    description: The fields of the section C(templates).
  - module: bareforge.hypervisor.vm
    description: The fields of the section C(vms).
  - module: bareforge.hypervisor.port_acl
    description: The fields of the section C(port_acls).
  - module: bareforge.hypervisor.vm_snapshot
    description: The fields of the section C(snapshots).
"""

EXAMPLES = r"""
- name: Networks, firewall, a template and a VM in one task
  bareforge.hypervisor.host:
    document:
      virtual_switches:
        - name: br-data
          type: bridged
          uplinks: [eno1, eno2]
          bond:
            mode: active_backup
      virtual_networks:
        - name: app
          switch: br-data
          vlan: 10
          subnets: [10.10.0.0/24]
      host_interfaces:
        - name: app0
          network: app
          addresses: [10.10.0.1/24]
      firewall:
        default_inbound: deny
        management_sources: [192.0.2.0/24]
      firewall_rules:
        - name: metrics
          service: node_exporter
          sources: [10.10.0.0/24]
      templates:
        - name: debian-12
          source:
            url: https://images.example.org/debian-12-genericcloud-amd64.qcow2
          checksum: sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
      vms:
        - name: web1
          template: debian-12
          memory:
            size: 2 GiB
          nics:
            - name: eth0
              network: app
              addresses: [10.10.0.11/24]
      port_acls:
        - vm: web1
          nic: eth0
          allowed_ipv4: [10.10.0.11]
    exact: [firewall_rule]
    wait_for:
      what: address

- name: What the host is, as a document
  bareforge.hypervisor.host:
    state: gathered
  register: gathered

- name: Apply it back, which changes nothing
  bareforge.hypervisor.host:
    document: "{{ gathered.document }}"

- name: The networks only
  bareforge.hypervisor.host:
    state: gathered
    kinds: [virtual_switch, virtual_network, host_interface]

- name: Remove a network, and the switch that it lies on
  bareforge.hypervisor.host:
    document:
      virtual_networks:
        - name: lab
          state: absent
      virtual_switches:
        - name: br-lab
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
      sample: virtual_switch
    key:
      description: Its key; the parts of a key of several are joined by slashes.
      type: str
      sample: br-data
    action:
      description: V(create), V(update) or V(delete).
      type: str
      sample: update
    fields:
      description: The paths, below the object, of the fields that differ.
      type: list
      elements: str
      sample: [mtu]
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
document:
  description: What is there, in the form in which O(document) accepts it. Secrets are not in it.
  returned: with O(state=gathered)
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
    run_module("host")


if __name__ == "__main__":
    main()
