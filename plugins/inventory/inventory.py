# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Hypervisors and their virtual machines as an inventory."""

from __future__ import annotations

DOCUMENTATION = r"""
name: inventory
short_description: Hypervisors and their virtual machines as hosts of the inventory
version_added: 0.1.0
description:
  - Reads hypervisors and puts them and all their virtual machines into the inventory, with groups, variables and the
    addresses that the guests are reached by. Virtual machines that this collection has not made are there too.
  - The hosts are read side by side, each in one session. On platforms that are reached over SSH, such as KVM, that is
    one login and one Python process, which writes nothing but the cache of the collection's code.
  - The configuration is a YAML file whose name ends with C(.bareforge.yml) or C(.bareforge.yaml).
  - Each virtual machine has the variable C(bareforge_vm), a mapping with C(name), C(hypervisor) and C(platform), C(uuid),
    C(power) (V(running), V(stopped) or V(suspended)), C(state) (the same in the host's words), C(managed) (whether this
    collection has made it), C(template), C(hostname), C(description), C(cpus), C(memory) (in MiB), C(tags), C(networks),
    C(vlans), C(nics) (each with C(name), C(mac), C(network), C(vlan) and C(trunk)) and C(addresses) (each with C(address),
    C(source) and C(nic)). What the host does not tell is null. O(compose), O(keyed_groups), O(groups), O(filters) and
    O(hostnames) see it, and are about virtual machines only.
  - Virtual machines of one name on several hosts, and one that has the name of a hypervisor, are each called by their name,
    a dot and the name of their host, with a warning. Whichever was read first plays no part in it, but a host that cannot be
    reached takes its machines' names with it; an entry of O(hostnames) that always names the host avoids that. A virtual
    machine that has the name of a host which another inventory source describes is that host, and adds to its variables.
author: Bareforge contributors (@bareforge)
notes:
  - Passwords that ansible asks for with C(-k) and C(-K) are not known to inventory plugins. Say them in O(hosts), or as
    variables of the host; either may be encrypted with Ansible Vault or be a template.
  - A guest says itself which host name and, through its agent, which addresses it has. Where guests are not trusted, leave
    V(agent) out of O(address_sources) and V(hostname) out of O(hostnames).
  - Ansible goes on with a warning where an inventory source fails, unless C(any_unparsed_is_failed) in the section C(inventory)
    of its configuration is true.
extends_documentation_fragment:
  - constructed
  - inventory_cache
seealso:
  - module: bareforge.hypervisor.vm_info
  - module: bareforge.hypervisor.host_info
options:
  plugin:
    description: The name of this plugin.
    type: str
    required: true
    choices: [bareforge.hypervisor.inventory]
  hosts:
    description:
      - The hypervisors. A text is the name of a host or a group that an inventory source read before this one has; its
        variables say how it is reached, and C(bareforge_platform) what it is. A mapping describes a host, and adds
        to such a host's variables where there is one of that name.
      - Each is a host of the inventory as well. Of a mapping's fields the inventory shows all but O(hosts[].password),
        O(hosts[].become_password), O(hosts[].settings) and O(hosts[].vars). These are not in the cache either.
    type: list
    elements: raw
    required: true
    suboptions:
      name:
        description: The host's name in the inventory.
        type: str
        required: true
      platform:
        description: The host's platform. The default is the inventory variable C(bareforge_platform).
        type: str
        choices: [kvm, proxmox]
      host:
        description: The host's name or address, where it is not O(hosts[].name).
        type: str
      port:
        description: The port of SSH.
        type: int
      user:
        description: The user to log in as.
        type: str
      password:
        description: The user's password, where there is no key.
        type: str
      private_key_file:
        description: The file with the private SSH key.
        type: path
      ssh_common_args:
        description: Further arguments of ssh, such as C(-o ProxyJump=gate.example.org).
        type: str
      python_interpreter:
        description: The path of Python on the host; V(/usr/bin/python3) by default, the one that has libvirt's bindings.
        type: str
      become:
        description: Whether to become another user, usually root, on the host.
        type: bool
      become_user:
        description: The user to become.
        type: str
      become_password:
        description: The password that becoming another user takes.
        type: str
      settings:
        description:
          - How a platform that is managed through an API is reached, as the option
            O(bareforge.hypervisor.host#module:connection).
        type: dict
      vars:
        description: Variables of Ansible's connection and become plugins that reading the host is given, and nothing else.
        type: dict
  filters:
    description:
      - Conditions in Jinja2. A virtual machine is in the inventory where all of them are true. A condition that cannot be
        evaluated is an error, since otherwise it would hide hosts.
    type: list
    elements: str
    default: []
  hostnames:
    description:
      - What a virtual machine is called in the inventory; the first of these that it has. V(name) is its name on the host,
        V(hostname) the guest's host name, V(uuid) its UUID and V(address) what becomes C(ansible_host); anything else is an
        expression in Jinja2.
    type: list
    elements: str
    default: [name]
  address_sources:
    description:
      - Where addresses of guests are taken from, the preferred first. V(agent) is the guest's agent, V(lease) the host's DHCP
        server, V(neighbour) the host's neighbour table (ARP and NDP), and V(document) what was asked for when the machine
        was made.
      - What is not named is not looked at. Only V(document) tells of machines that are not running.
    type: list
    elements: str
    choices: [agent, lease, neighbour, document]
    default: [agent, lease, neighbour, document]
  prefer_networks:
    description:
      - Which address becomes C(ansible_host) where there are several, the preferred first. A network in CIDR notation, or
        the name of a virtual network. Comes before the order of O(address_sources).
    type: list
    elements: str
    default: []
  address_family:
    description: Which address becomes C(ansible_host) where there are several of one source.
    type: str
    choices: [ipv4, ipv6]
    default: ipv4
  group_by:
    description:
      - Which groups are made beside V(hypervisors) and V(virtual_machines).
      - V(platform) makes C(kvm_hosts) and C(kvm_vms), V(hypervisor) makes C(hypervisor_NAME) of the machines on a host, V(power)
        C(power_running) and the like, V(network) C(network_NAME), V(vlan) C(vlan_ID), V(template) C(template_NAME) and V(tag)
        C(tag_NAME). Characters that a group's name cannot have become underscores.
    type: list
    elements: str
    choices: [platform, hypervisor, power, network, vlan, template, tag]
    default: [platform, hypervisor, power, network, vlan, template, tag]
  unreachable:
    description:
      - What a host that cannot be read leads to. With V(warn) it is named in a warning, is in the group
        C(hypervisors_unreachable), and has no machines. With V(fail) the whole source fails, and names all such hosts.
    type: str
    choices: [warn, fail]
    default: warn
  timeout:
    description: How long reading one host may take, in seconds, from 1 to 3600. A host that takes longer counts as unreachable.
    type: int
    default: 60
  agent_timeout:
    description: How long a guest's agent may take for an answer, in seconds, from 1 to 300.
    type: int
    default: 5
  forks:
    description: How many hosts are read at a time, from 1 to 1000.
    type: int
    default: 20
"""

EXAMPLES = r"""
# all.bareforge.yml: two hosts and their running machines
plugin: bareforge.hypervisor.inventory
hosts:
  - {name: kvm01, platform: kvm, host: 192.0.2.11, user: operator, become: true}
  - {name: kvm02, platform: kvm, host: 192.0.2.12, user: operator, become: true}
filters:
  - bareforge_vm.power == 'running'

---
# vms.bareforge.yml: all hosts of the group kvm_hosts, which hosts.yml beside this file describes:
# ansible-inventory -i hosts.yml -i vms.bareforge.yml --graph
plugin: bareforge.hypervisor.inventory
hosts: [kvm_hosts]
cache: true
cache_plugin: ansible.builtin.jsonfile
cache_connection: ~/.cache/bareforge-inventory
cache_timeout: 600

---
# passwords.bareforge.yml: passwords from Ansible Vault and from the environment; a host that is away is an error
plugin: bareforge.hypervisor.inventory
unreachable: fail
timeout: 30
hosts:
  - name: kvm03
    platform: kvm
    user: operator
    password: "{{ lookup('ansible.builtin.env', 'KVM03_PASSWORD') }}"
    become: true
    become_password: "{{ kvm03_become_password }}"

---
# guests.bareforge.yml: guests are reached by their addresses on the network management, through their host
plugin: bareforge.hypervisor.inventory
hosts: [kvm_hosts]
prefer_networks: [management, 10.10.0.0/16]
address_sources: [lease, neighbour, document]
hostnames:
  - bareforge_vm.name ~ '.' ~ bareforge_vm.hypervisor
compose:
  ansible_user: "'operator'"
  ansible_ssh_common_args: "'-o ProxyJump=operator@' ~ bareforge_vm.hypervisor"
groups:
  large: bareforge_vm.memory >= 16384
keyed_groups:
  - key: bareforge_vm.cpus | string
    prefix: cpus
"""

from ansible_collections.bareforge.hypervisor.plugins.plugin_utils.inventory_base import HypervisorInventory


class InventoryModule(HypervisorInventory):
    """Reads what the configuration says."""

    NAME = "bareforge.hypervisor.inventory"
