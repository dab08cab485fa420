# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Written by tests/tools/generate_documentation.py from the model; change the descriptions there.

from __future__ import annotations


class ModuleDocFragment:
    """The options of the module host_interface."""

    DOCUMENTATION = r"""
options:
  name:
    description:
      - The interface's name.
      - Allowed is a name of 1 to 255 characters without control or invisible characters or blanks at
        its ends.
    type: str
  network:
    description:
      - The virtual network that it is on.
      - Must be given with O(state=present).
      - Allowed is a name of 1 to 255 characters without control or invisible characters or blanks at
        its ends.
    type: str
  addresses:
    description:
      - Its addresses with their prefix lengths.
      - Each entry is an address with its prefix length such as 192.0.2.10/24 or 2001:db8::10/64.
    type: list
    elements: str
  dhcp:
    description:
      - Whether it asks DHCP for an IPv4 address.
      - The default is V(false).
      - A platform offers this by its capability C(host_interface.dhcp).
    type: bool
  dhcp6:
    description:
      - Whether it asks DHCPv6 for an IPv6 address.
      - A platform offers this by its capability C(host_interface.dhcp6).
    type: bool
  accept_ra:
    description:
      - Whether it takes IPv6 addresses and routes from router advertisements (RFC 4862).
      - A platform offers this by its capability C(host_interface.accept_ra).
    type: bool
  forwarding:
    description:
      - Whether the host routes between this network and those of its other interfaces that say so too.
        What passes is for the firewall's rules of direction forward to say.
      - The default is V(false).
      - A platform offers this by its capability C(host_interface.forwarding).
    type: bool
  gateway4:
    description:
      - The IPv4 default gateway.
      - Allowed is an IPv4 address.
      - An empty text takes it away.
    type: str
  gateway6:
    description:
      - The IPv6 default gateway.
      - Allowed is an IPv6 address.
      - An empty text takes it away.
    type: str
  routes:
    description:
      - Further routes.
      - A platform offers this by its capability C(host_interface.routes).
    type: list
    elements: dict
    suboptions:
      destination:
        description:
          - The network that is reached.
          - Allowed is a network such as 192.0.2.0/24 or 2001:db8::/64 with no host bits set, or a single
            address.
        type: str
        required: true
      gateway:
        description:
          - The router.
          - Allowed is an IPv4 or IPv6 address.
        type: str
        required: true
  mtu:
    description:
      - The largest packet.
      - Allowed is a whole number from 1280 to 9216 (bytes).
      - The default is V(1500).
      - A platform offers this by its capability C(host_interface.mtu).
    type: int
  mac:
    description:
      - Its MAC address; chosen by the host where not given.
      - Allowed is a unicast MAC address such as 52:54:00:12:34:56.
      - A platform offers this by its capability C(host_interface.mac).
    type: str
  roles:
    description:
      - What it is used for.
      - A platform offers this by its capability C(host_interface.role.*).
    type: list
    elements: str
    choices:
      - management
      - storage
      - migration
  host_interfaces:
    description:
      - Several objects in one task, instead of O(name) and the options that describe one. Each has these
        options as its fields, and may have a C(state) of its own, V(present) or V(absent).
    type: list
    elements: dict
  exact:
    description:
      - Whether every host interface that O(host_interfaces) does not list is removed. What carries the
        path that the host is managed through, and a VM that runs, is kept with a warning.
    type: bool
    default: false
  state:
    description:
      - With V(present) the host is made to show what the options say; what they leave open stays as it
        is. With V(absent) what O(name) or O(host_interfaces) names is removed. With V(gathered) nothing
        is changed, and RV(host_interfaces) tells what is there, all of it or what O(name) names.
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
