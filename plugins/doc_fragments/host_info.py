# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Written by tests/tools/generate_documentation.py from the model; change the descriptions there.

from __future__ import annotations


class ModuleDocFragment:
    """The options of the module host_info."""

    DOCUMENTATION = r"""
options:
  kinds:
    description:
      - The kinds to gather into RV(document); all that the platform has by default, and none for an empty
        list.
    type: list
    elements: str
    choices:
      - system
      - tuning
      - storage_pool
      - virtual_switch
      - virtual_network
      - host_interface
      - firewall
      - firewall_rule
      - realm
      - role
      - user
      - permission
      - resource_pool
      - template
      - vm
      - port_acl
      - snapshot
      - backup
  metrics:
    description:
      - Whether RV(metrics) tells what the host and its VMs use of processors, memory, disks and networks.
        A platform offers this by its capability C(metrics).
    type: bool
    default: false
  updates:
    description:
      - Whether RV(updates) tells which updates are pending and whether the host has to be started anew,
        by the package lists that the host has. A platform offers this by its capability C(updates).
    type: bool
    default: false
"""
