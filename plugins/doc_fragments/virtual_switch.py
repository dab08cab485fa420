# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Written by tests/tools/generate_documentation.py from the model; change the descriptions there.

from __future__ import annotations


class ModuleDocFragment:
    """The options of the module virtual_switch."""

    DOCUMENTATION = r"""
options:
  name:
    description:
      - The switch's name.
      - Allowed is a name of 1 to 255 characters without control or invisible characters or blanks at
        its ends.
    type: str
  type:
    description:
      - Whether it reaches the outside through uplinks (bridged), only this host and its guests (internal),
        the outside behind the host's address (nat), or only the guests (private).
      - The default is V(bridged).
      - Settled when the object is made.
      - A platform offers this by its capability C(virtual_switch.type.*).
    type: str
    choices:
      - bridged
      - internal
      - nat
      - private
  uplinks:
    description:
      - The physical interfaces that it takes for itself. An uplink serves one switch.
      - Each entry is a name of 1 to 255 characters without control or invisible characters or blanks
        at its ends.
    type: list
    elements: str
  bond:
    description:
      - How several uplinks work as one.
    type: dict
    suboptions:
      mode:
        description:
          - 'How traffic is spread: one uplink at a time, by source MAC address, by flow (which needs
            LACP), or by a hash of both ends (which needs the ports of the physical switch joined without
            LACP).'
          - The default is V(active_backup).
          - A platform offers this by its capability C(virtual_switch.bond.*).
        type: str
        choices:
          - active_backup
          - balance_slb
          - balance_tcp
          - balance_xor
      lacp:
        description:
          - Whether the uplinks negotiate with the switch by LACP (IEEE 802.1AX).
          - The default is V(off).
          - A platform offers this by its capability C(virtual_switch.bond.lacp).
        type: str
        choices:
          - 'off'
          - passive
          - active
      primary:
        description:
          - The uplink that is used as long as it works, with active_backup.
          - Allowed is a name of 1 to 255 characters without control or invisible characters or blanks
            at its ends.
          - An empty text takes it away.
        type: str
  mtu:
    description:
      - The largest packet.
      - Allowed is a whole number from 1280 to 9216 (bytes).
      - The default is V(1500).
      - A platform offers this by its capability C(virtual_switch.mtu).
    type: int
  vlan_aware:
    description:
      - Whether its ports may carry VLANs, where the platform's switches can also do without.
      - A platform offers this by its capability C(virtual_switch.vlan_aware).
    type: bool
  security:
    description:
      - What its ports may do.
      - A platform offers this by its capability C(virtual_switch.security).
    type: dict
    suboptions:
      promiscuous:
        description:
          - Whether a port may see frames for others.
        type: bool
      mac_changes:
        description:
          - Whether a guest may change its MAC address.
        type: bool
      forged_transmits:
        description:
          - Whether a guest may send from other MAC addresses.
        type: bool
  nat:
    description:
      - The private network of a switch of type nat.
    type: dict
    suboptions:
      gateway:
        description:
          - The host's address in the network, with its prefix length.
          - Allowed is an address with its prefix length such as 192.0.2.10/24.
        type: str
        required: true
      gateway6:
        description:
          - The host's IPv6 address in the network, with its prefix length. Guests get theirs from router
            advertisements (RFC 4862).
          - Allowed is an address with its prefix length such as 2001:db8::10/64.
          - An empty text takes it away.
          - A platform offers this by its capability C(virtual_switch.nat.gateway6).
        type: str
      dhcp:
        description:
          - The addresses that DHCP gives out.
          - A platform offers this by its capability C(virtual_switch.nat.dhcp).
        type: dict
        suboptions:
          start:
            description:
              - The first address.
              - Allowed is an IPv4 address.
            type: str
            required: true
          end:
            description:
              - The last address.
              - Allowed is an IPv4 address.
            type: str
            required: true
      port_forwards:
        description:
          - Ports of the host that lead to guests.
          - A platform offers this by its capability C(virtual_switch.nat.port_forwards).
        type: list
        elements: dict
        suboptions:
          protocol:
            description:
              - The protocol.
            type: str
            required: true
            choices:
              - tcp
              - udp
          port:
            description:
              - The port or range on the host.
              - Allowed is a port from 1 to 65535, or a range such as 8000-8010.
            type: str
            required: true
          to_address:
            description:
              - The guest's address.
              - Allowed is an IPv4 or IPv6 address.
            type: str
            required: true
          to_port:
            description:
              - The port on the guest; the same where not given.
              - Allowed is a port from 1 to 65535, or a range such as 8000-8010.
            type: str
  kvm:
    description:
      - What only a KVM or plain Xen host has.
    type: dict
    suboptions:
      implementation:
        description:
          - What the switch is made of.
          - The default is V(openvswitch).
          - Settled when the object is made.
          - A platform offers this by its capability C(virtual_switch.kvm.*).
        type: str
        choices:
          - openvswitch
          - linux_bridge
  virtual_switches:
    description:
      - Several objects in one task, instead of O(name) and the options that describe one. Each has these
        options as its fields, and may have a C(state) of its own, V(present) or V(absent).
    type: list
    elements: dict
  exact:
    description:
      - Whether every virtual switch that O(virtual_switches) does not list is removed. What carries the
        path that the host is managed through, and a VM that runs, is kept with a warning.
    type: bool
    default: false
  state:
    description:
      - With V(present) the host is made to show what the options say; what they leave open stays as it
        is. With V(absent) what O(name) or O(virtual_switches) names is removed. With V(gathered) nothing
        is changed, and RV(virtual_switches) tells what is there, all of it or what O(name) names.
    type: str
    choices:
      - present
      - absent
      - gathered
    default: present
  guard:
    description:
      - The guard over the management path.
    type: dict
    suboptions:
      enabled:
        description:
          - Whether the host undoes a change to its management path by itself unless the controller comes
            back and confirms.
          - The default is V(true).
        type: bool
      timeout:
        description:
          - After how many seconds without confirmation the host undoes it.
          - Allowed is a whole number from 10 to 600 (seconds).
          - The default is V(60).
        type: int
"""
