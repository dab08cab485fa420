# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Written by tests/tools/generate_documentation.py from the model; change the descriptions there.

from __future__ import annotations


class ModuleDocFragment:
    """The options of the module firewall."""

    DOCUMENTATION = r"""
options:
  enabled:
    description:
      - Whether the firewall is on.
      - The default is V(true).
    type: bool
  default_inbound:
    description:
      - What happens to traffic to the host that no rule names.
      - The default is V(deny).
    type: str
    choices:
      - deny
      - allow
  default_outbound:
    description:
      - What happens to traffic from the host that no rule names.
      - The default is V(allow).
      - A platform offers this by its capability C(firewall.default_outbound).
    type: str
    choices:
      - deny
      - allow
  default_forward:
    description:
      - What happens to routed traffic through the host that no rule names.
      - The default is V(deny).
      - A platform offers this by its capability C(firewall.default_forward).
    type: str
    choices:
      - deny
      - allow
  management_sources:
    description:
      - The networks that management (SSH, API) is always reachable from, whatever the rules say; an empty
        list is everywhere.
      - Each entry is a network such as 192.0.2.0/24 or 2001:db8::/64 with no host bits set, or a single
        address.
    type: list
    elements: str
  management_ports:
    description:
      - The TCP ports of management; the default is the platform's own.
      - Each entry is a port from 1 to 65535, or a range such as 8000-8010.
    type: list
    elements: str
  log_denied:
    description:
      - Whether denied traffic is logged, rate-limited.
      - The default is V(false).
      - A platform offers this by its capability C(firewall.log_denied).
    type: bool
  state:
    description:
      - With V(present) the host is made to show what the options say; what they leave open stays as it
        is. With V(gathered) nothing is changed, and RV(firewall) tells what is there.
    type: str
    choices:
      - present
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
