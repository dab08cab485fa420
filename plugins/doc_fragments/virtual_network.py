# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Written by tests/tools/generate_documentation.py from the model; change the descriptions there.

from __future__ import annotations


class ModuleDocFragment:
    """The options of the module virtual_network."""

    DOCUMENTATION = r"""
options:
  name:
    description:
      - The network's name.
      - Allowed is a name of 1 to 255 characters without control or invisible characters or blanks at
        its ends.
    type: str
  switch:
    description:
      - The virtual switch that it lies on.
      - Must be given with O(state=present).
      - Allowed is a name of 1 to 255 characters without control or invisible characters or blanks at
        its ends.
    type: str
  vlan:
    description:
      - The VLAN id of its ports; 0 is untagged. With O(trunk) it is the native VLAN, whose frames are
        untagged.
      - Allowed is a whole number from 0 to 4094.
      - The default is V(0).
      - A platform offers this by its capability C(virtual_network.vlan).
    type: int
  trunk:
    description:
      - The VLAN ids and ranges that its ports carry tagged.
      - Each entry is a VLAN id from 1 to 4094, or a range such as 100-199.
      - A platform offers this by its capability C(virtual_network.trunk).
    type: list
    elements: str
  isolated:
    description:
      - Whether its ports reach only the uplink and not each other (private VLAN).
      - The default is V(false).
      - A platform offers this by its capability C(virtual_network.isolated).
    type: bool
  bandwidth:
    description:
      - Limits of each port.
      - A platform offers this by its capability C(virtual_network.bandwidth).
    type: dict
    suboptions:
      inbound:
        description:
          - Towards the guest.
        type: dict
        suboptions:
          average:
            description:
              - The average rate in kbit/s.
              - Allowed is a whole number from 1 to 400000000 (kbit/s).
            type: int
            required: true
          peak:
            description:
              - The highest rate in kbit/s.
              - Allowed is a whole number from 1 to 400000000 (kbit/s).
            type: int
          burst:
            description:
              - How much may pass at the highest rate, in KiB.
              - Allowed is a whole number from 1 to 16777216 (KiB).
            type: int
      outbound:
        description:
          - From the guest.
        type: dict
        suboptions:
          average:
            description:
              - The average rate in kbit/s.
              - Allowed is a whole number from 1 to 400000000 (kbit/s).
            type: int
            required: true
          peak:
            description:
              - The highest rate in kbit/s.
              - Allowed is a whole number from 1 to 400000000 (kbit/s).
            type: int
          burst:
            description:
              - How much may pass at the highest rate, in KiB.
              - Allowed is a whole number from 1 to 16777216 (KiB).
            type: int
  security:
    description:
      - What its ports may do, where it differs from the switch.
      - A platform offers this by its capability C(virtual_network.security).
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
  subnets:
    description:
      - The IP networks in use here. Where given, addresses of interfaces and VMs on it must lie in one
        of them.
      - Each entry is a network such as 192.0.2.0/24 or 2001:db8::/64 with no host bits set, or a single
        address.
    type: list
    elements: str
  kvm:
    description:
      - What only a KVM or plain Xen host has.
    type: dict
    suboptions:
      dot1q_tunnel:
        description:
          - Whether its ports put all that they are given, with VLAN tags or without, into the network's
            VLAN (IEEE 802.1ad).
          - The default is V(false).
          - A platform offers this by its capability C(virtual_network.kvm.dot1q_tunnel).
        type: bool
  virtual_networks:
    description:
      - Several objects in one task, instead of O(name) and the options that describe one. Each has these
        options as its fields, and may have a C(state) of its own, V(present) or V(absent).
    type: list
    elements: dict
  exact:
    description:
      - Whether every virtual network that O(virtual_networks) does not list is removed. What carries
        the path that the host is managed through, and a VM that runs, is kept with a warning.
    type: bool
    default: false
  state:
    description:
      - With V(present) the host is made to show what the options say; what they leave open stays as it
        is. With V(absent) what O(name) or O(virtual_networks) names is removed. With V(gathered) nothing
        is changed, and RV(virtual_networks) tells what is there, all of it or what O(name) names.
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
