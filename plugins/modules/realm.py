#!/usr/bin/python
# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: realm
short_description: Manage where the users of a host come from
version_added: 0.1.0
description:
  - Makes, changes and removes realms - LDAP directories, Active Directory and identity providers of OpenID Connect - and changes
    what is asked of the users of those that a host has anyway.
  - The way to the servers of a new directory is encrypted and their certificates are verified, unless the task says otherwise.
  - A realm that has users is not removed.
  - What the platform cannot do is refused by name before anything is changed.
author: Bareforge contributors (@bareforge)
extends_documentation_fragment:
  - bareforge.hypervisor.attributes
  - bareforge.hypervisor.realm
  - bareforge.hypervisor.platform
notes:
  - On Proxmox VE a realm is the cluster's. It has two servers at most, and one realm is preselected.
seealso:
  - module: bareforge.hypervisor.user
  - module: bareforge.hypervisor.host
    description: Converges a whole host in one task, which is much faster than one task an object.
"""

EXAMPLES = r"""
- name: Users of a directory, who show a one-time password too
  bareforge.hypervisor.realm:
    name: people
    type: ldap
    servers: [ldap1.example.org, ldap2.example.org]
    base_dn: ou=people,dc=example,dc=org
    user_attribute: uid
    bind_dn: cn=reader,dc=example,dc=org
    bind_password: "{{ vault_ldap_password }}"
    second_factor: totp

- name: Users of an identity provider, made when they first log in
  bareforge.hypervisor.realm:
    name: provider
    type: openid
    issuer_url: https://id.example.org/
    client_id: hypervisors
    client_secret: "{{ vault_client_secret }}"
    username_claim: email
    create_users: true

- name: Remove a realm
  bareforge.hypervisor.realm:
    name: people
    state: absent
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
      sample: realm
    key:
      description: Its key; the parts of a key of several are joined by slashes.
      type: str
      sample: people
    action:
      description: V(create), V(update) or V(delete).
      type: str
      sample: update
    fields:
      description: The paths, below the object, of the fields that differ.
      type: list
      elements: str
      sample: [encryption]
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
realms:
  description: The objects that are there, in the form in which O(realms) accepts them.
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
      sample: realm['people'].servers
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
    run_module("realm")


if __name__ == "__main__":
    main()
