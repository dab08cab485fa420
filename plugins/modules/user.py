#!/usr/bin/python
# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: user
short_description: Manage the users of a host
version_added: 0.1.0
description:
  - Makes, changes and removes users of the host, with their names, SSH keys, groups, shell and the day on which they end.
  - A user that is there already is taken over; check mode shows what would change.
  - Users of the system are left alone, and nothing is done that would lock out the user that the task has come by. A
    change to that user's keys, groups, shell, password or last day is made under a guard, so that the host undoes it
    unless the controller comes back and confirms.
  - Where an option is given as a list, it is the whole list. A user that is not enabled gets in neither by password nor
    by key.
  - The password is set when the user is made and never compared. The hash is compared where the host tells it.
  - The home folder of a user that is removed is kept unless O(delete_home=true). A user whose processes run is not
    removed.
  - With O(exact=true) only users that this collection has made are removed; others are kept with a warning.
  - What the platform cannot do is refused by name before anything is changed.
author: Bareforge contributors (@bareforge)
extends_documentation_fragment:
  - bareforge.hypervisor.attributes
  - bareforge.hypervisor.user
  - bareforge.hypervisor.platform
seealso:
  - module: bareforge.hypervisor.host
    description: Converges a whole host in one task, which is much faster than one task an object.
"""

EXAMPLES = r"""
- name: A user who comes in by key until the end of the year
  bareforge.hypervisor.user:
    name: anna
    full_name: Anna Example
    shell: /bin/bash
    groups: [adm]
    expires: 2030-12-31
    ssh_keys:
      - ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0wYjMyNzk0MjE0YzE5ZDkzNzA0ZmQ5ZGY2ZTlk anna@example.org

- name: Nobody gets in as this user for now
  bareforge.hypervisor.user:
    name: anna
    enabled: false

- name: Two users in one task, and none else that this collection has made
  bareforge.hypervisor.user:
    users:
      - name: anna
      - name: bert
        ssh_keys: []
    exact: true

- name: Remove a user, and the home folder with it
  bareforge.hypervisor.user:
    name: bert
    state: absent
    delete_home: true
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
      sample: user
    key:
      description: Its key; the parts of a key of several are joined by slashes.
      type: str
      sample: anna
    action:
      description: V(create), V(update) or V(delete).
      type: str
      sample: update
    fields:
      description: The paths, below the object, of the fields that differ.
      type: list
      elements: str
      sample: [ssh_keys, groups]
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
      sample: ["user['operator']"]
    confirmed:
      description: That the controller came back over a new connection and confirmed.
      type: bool
      sample: true
    seconds:
      description: How long that took.
      type: float
      sample: 1.3
users:
  description: The objects that are there, in the form in which O(users) accepts them.
  returned: with O(state=gathered)
  type: list
  elements: dict
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
      sample: user['anna'].shell
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
    run_module("user")


if __name__ == "__main__":
    main()
