# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Written by tests/tools/generate_documentation.py from the model; change the descriptions there.

from __future__ import annotations


class ModuleDocFragment:
    """The options of the module port_acl."""

    DOCUMENTATION = r"""
options:
  vm:
    description:
      - The virtual machine; the filter goes with it.
      - Allowed is a name of 1 to 255 characters without control or invisible characters or blanks at
        its ends.
    type: str
  nic:
    description:
      - The name of its NIC.
      - Allowed is a name of 1 to 255 characters without control or invisible characters or blanks at
        its ends.
    type: str
  mac_spoofing:
    description:
      - Whether the VM may send from other MAC addresses than its own.
      - The default is V(false).
      - A platform offers this by its capability C(port_acl.mac_spoofing).
    type: bool
  allowed_ipv4:
    description:
      - The IPv4 addresses that the VM may send from and answer ARP for; none is no limit.
      - Each entry is an IPv4 address.
      - A platform offers this by its capability C(port_acl.allowed_ipv4).
    type: list
    elements: str
  allowed_ipv6:
    description:
      - The IPv6 addresses beside its link-local ones that the VM may send from and answer neighbour discovery
        for; none is no limit.
      - Each entry is an IPv6 address.
      - A platform offers this by its capability C(port_acl.allowed_ipv6).
    type: list
    elements: str
  dhcp_guard:
    description:
      - Whether answers of a DHCP server in the VM are dropped.
      - The default is V(true).
      - A platform offers this by its capability C(port_acl.dhcp_guard).
    type: bool
  router_guard:
    description:
      - Whether router advertisements and redirects of the VM are dropped.
      - The default is V(true).
      - A platform offers this by its capability C(port_acl.router_guard).
    type: bool
  default_inbound:
    description:
      - What happens to traffic to the VM that no rule names.
      - The default is V(allow).
    type: str
    choices:
      - allow
      - deny
  default_outbound:
    description:
      - What happens to traffic from the VM that no rule names.
      - The default is V(allow).
    type: str
    choices:
      - allow
      - deny
  rules:
    description:
      - The rules in their order.
      - A platform offers this by its capability C(port_acl.rules).
    type: list
    elements: dict
    suboptions:
      name:
        description:
          - The rule's name.
          - Allowed is a name of 1 to 100 characters without control or invisible characters or blanks
            at its ends.
        type: str
        required: true
      direction:
        description:
          - Towards the VM, or from it.
          - The default is V(inbound).
        type: str
        choices:
          - inbound
          - outbound
      action:
        description:
          - Let it pass, or drop it.
          - The default is V(deny).
        type: str
        choices:
          - allow
          - deny
      protocol:
        description:
          - The IP protocol.
          - The default is V(any).
        type: str
        choices:
          - any
          - tcp
          - udp
          - icmp
          - icmpv6
          - igmp
          - vrrp
          - esp
          - ah
          - gre
          - sctp
      ports:
        description:
          - The destination ports and ranges; none is all.
          - Each entry is a port from 1 to 65535, or a range such as 8000-8010.
        type: list
        elements: str
      remotes:
        description:
          - The networks at the other end; none is all.
          - Each entry is a network such as 192.0.2.0/24 or 2001:db8::/64 with no host bits set, or a
            single address.
        type: list
        elements: str
  port_acls:
    description:
      - Several objects in one task, instead of O(vm) and O(nic) and the options that describe one. Each
        has these options as its fields, and may have a C(state) of its own, V(present) or V(absent).
    type: list
    elements: dict
  exact:
    description:
      - Whether every port acl that O(port_acls) does not list is removed. What carries the path that
        the host is managed through, and a VM that runs, is kept with a warning.
    type: bool
    default: false
  state:
    description:
      - With V(present) the host is made to show what the options say; what they leave open stays as it
        is. With V(absent) what O(vm) and O(nic) or O(port_acls) names is removed. With V(gathered) nothing
        is changed, and RV(port_acls) tells what is there, all of it or what O(vm) and O(nic) names.
    type: str
    choices:
      - present
      - absent
      - gathered
    default: present
"""
