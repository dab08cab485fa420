# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Written by tests/tools/generate_documentation.py from the model; change the descriptions there.

from __future__ import annotations


class ModuleDocFragment:
    """The options of the module host."""

    DOCUMENTATION = r"""
options:
  document:
    description:
      - 'What the host shall be, as a mapping of sections: C(system), C(tuning), C(storage_pools), C(virtual_switches),
        C(virtual_networks), C(host_interfaces), C(firewall), C(firewall_rules), C(realms), C(roles),
        C(users), C(permissions), C(resource_pools), C(templates), C(vms), C(port_acls), C(snapshots),
        C(backups). A section holds the objects of its kind in a list, or is one mapping where a host
        has only one of them. A kind''s fields are the options of the module of its name. An object in
        a list may carry C(state), V(present) or V(absent). What the document does not speak of is left
        alone.'
    type: dict
  exact:
    description:
      - The kinds of which nothing shall be there but what the document lists. What carries the path that
        the host is managed through, and a VM that runs, is kept with a warning.
    type: list
    elements: str
    choices:
      - storage_pool
      - virtual_switch
      - virtual_network
      - host_interface
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
  kinds:
    description:
      - The kinds to gather with O(state=gathered); all that the platform has by default.
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
  state:
    description:
      - With V(present) the host is made to show what the document says. With V(gathered) nothing is changed,
        and RV(document) describes the host in a form that can be applied back unchanged.
    type: str
    choices:
      - present
      - gathered
    default: present
  allow_restart:
    description:
      - Whether a running VM may be stopped and started where a change needs it off. Without it such a
        change is refused.
      - The default is V(false).
    type: bool
  shutdown_timeout:
    description:
      - How long a guest is given to shut down, in seconds; 0 switches off at once.
      - Allowed is a whole number from 0 to 7200 (seconds).
      - The default is V(180).
    type: int
  force_off:
    description:
      - Whether a guest that has not shut down by then is switched off. Without it the task fails.
      - The default is V(false).
    type: bool
  delete_disks:
    description:
      - Whether the disks of a VM that is removed go with it.
      - The default is V(true).
    type: bool
  delete_contents:
    description:
      - Whether everything that lies in a storage pool that is removed is deleted with it. Without it
        the contents stay.
      - The default is V(false).
    type: bool
  delete_home:
    description:
      - Whether the home folder of a user that is removed goes with it, and what else is known to be the
        user's, such as mail.
      - The default is V(false).
    type: bool
  wait_for:
    description:
      - What has to be seen of the running VMs of this task before it is done.
    type: dict
    suboptions:
      what:
        description:
          - An address of the guest on any NIC, or an answer on its SSH port as seen from the host.
          - A platform offers this by its capability C(vm.wait_for.*).
        type: str
        required: true
        choices:
          - address
          - ssh
      timeout:
        description:
          - How long to wait, in seconds.
          - Allowed is a whole number from 1 to 7200 (seconds).
          - The default is V(300).
        type: int
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
