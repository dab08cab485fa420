# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Written by tests/tools/generate_documentation.py from the model; change the descriptions there.

from __future__ import annotations


class ModuleDocFragment:
    """The options of the module firewall_rule."""

    DOCUMENTATION = r"""
options:
  name:
    description:
      - The rule's name.
      - Allowed is a name of 1 to 100 characters without control or invisible characters or blanks at
        its ends.
    type: str
  direction:
    description:
      - Traffic to the host, from it, or routed through it.
      - The default is V(inbound).
      - A platform offers this by its capability C(firewall_rule.direction.*).
    type: str
    choices:
      - inbound
      - outbound
      - forward
  action:
    description:
      - Let it pass, drop it silently, or refuse it with an answer.
      - The default is V(allow).
      - A platform offers this by its capability C(firewall_rule.action.*).
    type: str
    choices:
      - allow
      - deny
      - reject
  service:
    description:
      - A service by name, instead of O(protocol) and O(ports).
      - An empty text takes it away.
      - A platform offers this by its capability C(firewall_rule.service).
    type: str
    choices:
      - ssh
      - dns
      - dhcp
      - dhcpv6
      - dhcpv6_client
      - http
      - https
      - ntp
      - snmp
      - syslog
      - syslog_tls
      - nfs
      - iscsi
      - smb
      - libvirt_tls
      - live_migration
      - vnc
      - vxlan
      - winrm
      - winrm_https
      - rdp
      - node_exporter
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
  source_ports:
    description:
      - The source ports and ranges; none is all.
      - Each entry is a port from 1 to 65535, or a range such as 8000-8010.
      - A platform offers this by its capability C(firewall_rule.source_ports).
    type: list
    elements: str
  sources:
    description:
      - The networks that it comes from, IPv4 and IPv6; none is all.
      - Each entry is a network such as 192.0.2.0/24 or 2001:db8::/64 with no host bits set, or a single
        address.
    type: list
    elements: str
  destinations:
    description:
      - The networks that it goes to, IPv4 and IPv6; none is all.
      - Each entry is a network such as 192.0.2.0/24 or 2001:db8::/64 with no host bits set, or a single
        address.
      - A platform offers this by its capability C(firewall_rule.destinations).
    type: list
    elements: str
  interfaces:
    description:
      - The host's interfaces that it enters by (inbound, forward) or leaves by (outbound); none is all.
      - Each entry is a name of 1 to 255 characters without control or invisible characters or blanks
        at its ends.
      - A platform offers this by its capability C(firewall_rule.interfaces).
    type: list
    elements: str
  position:
    description:
      - 'Where it stands: lower comes first; by name among equals.'
      - Allowed is a whole number from 1 to 65535.
      - The default is V(1000).
    type: int
  log:
    description:
      - Whether a match is logged.
      - The default is V(false).
      - A platform offers this by its capability C(firewall_rule.log).
    type: bool
  rate_limit:
    description:
      - How much of it the rule matches.
      - A platform offers this by its capability C(firewall_rule.rate_limit).
    type: dict
    suboptions:
      rate:
        description:
          - How many packets.
          - Allowed is a whole number from 1 to 1000000.
        type: int
        required: true
      per:
        description:
          - In which time.
          - The default is V(second).
        type: str
        choices:
          - second
          - minute
          - hour
          - day
      burst:
        description:
          - How many more at once.
          - Allowed is a whole number from 1 to 65535.
          - The default is V(5).
        type: int
  enabled:
    description:
      - Whether the rule is in force.
      - The default is V(true).
    type: bool
  description:
    description:
      - What it is for.
      - An empty text takes it away.
    type: str
  firewall_rules:
    description:
      - Several objects in one task, instead of O(name) and the options that describe one. Each has these
        options as its fields, and may have a C(state) of its own, V(present) or V(absent).
    type: list
    elements: dict
  exact:
    description:
      - Whether every firewall rule that O(firewall_rules) does not list is removed. What carries the
        path that the host is managed through, and a VM that runs, is kept with a warning.
    type: bool
    default: false
  state:
    description:
      - With V(present) the host is made to show what the options say; what they leave open stays as it
        is. With V(absent) what O(name) or O(firewall_rules) names is removed. With V(gathered) nothing
        is changed, and RV(firewall_rules) tells what is there, all of it or what O(name) names.
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
