#!/usr/bin/python
# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: firewall
short_description: Manage the policy of the host's firewall
version_added: 0.1.0
description:
  - Sets what the host's own firewall does with traffic that no rule names, and from where the host can always be
    managed.
  - Only what belongs to this collection is changed; rules of others are left alone.
  - The change is made under a guard, so that the host undoes it unless the controller comes back and confirms.
  - What the platform cannot do is refused by name before anything is changed.
author: Bareforge contributors (@bareforge)
extends_documentation_fragment:
  - bareforge.hypervisor.attributes
  - bareforge.hypervisor.firewall
  - bareforge.hypervisor.platform
seealso:
  - module: bareforge.hypervisor.host
    description: Converges a whole host in one task, which is much faster than one task an object.
  - module: bareforge.hypervisor.firewall_rule
"""

EXAMPLES = r"""
- name: Deny what no rule names, and let the administrators in from one network
  bareforge.hypervisor.firewall:
    default_inbound: deny
    management_sources: [192.0.2.0/24]
    log_denied: true

- name: What the policy is
  bareforge.hypervisor.firewall:
    state: gathered
  register: policy
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
      sample: firewall
    key:
      description: Its key; the parts of a key of several are joined by slashes.
      type: str
      sample: ""
    action:
      description: V(create), V(update) or V(delete).
      type: str
      sample: update
    fields:
      description: The paths, below the object, of the fields that differ.
      type: list
      elements: str
      sample: [default_inbound]
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
firewall:
  description: What is there, in the form in which it is accepted as input.
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
      sample: firewall.default_inbound
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
    run_module("firewall")


if __name__ == "__main__":
    main()
