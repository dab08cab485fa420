#!/usr/bin/python
# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: template
short_description: Manage templates that VMs are made from
version_added: 0.1.0
description:
  - Imports images as templates, sealed and read-only, and removes them.
  - An image from a URL or a path is imported only if it has the checksum that is given. A template that linked
    clones refer to cannot be removed.
  - What the platform cannot do is refused by name before anything is changed.
author: Bareforge contributors (@bareforge)
extends_documentation_fragment:
  - bareforge.hypervisor.attributes
  - bareforge.hypervisor.template
  - bareforge.hypervisor.platform
seealso:
  - module: bareforge.hypervisor.host
    description: Converges a whole host in one task, which is much faster than one task an object.
  - module: bareforge.hypervisor.vm
"""

EXAMPLES = r"""
- name: Import a cloud image
  bareforge.hypervisor.template:
    name: debian-12
    source:
      url: https://images.example.org/debian-12-genericcloud-amd64.qcow2
    checksum: sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
    description: Debian 12 with cloud-init

- name: Import an image that lies on the host
  bareforge.hypervisor.template:
    name: appliance
    source:
      path: /srv/images/appliance.raw
      format: raw
    checksum: sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
    customization: none

- name: Remove a template
  bareforge.hypervisor.template:
    name: appliance
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
      sample: template
    key:
      description: Its key; the parts of a key of several are joined by slashes.
      type: str
      sample: debian-12
    action:
      description: V(create), V(update) or V(delete).
      type: str
      sample: create
    fields:
      description: The paths, below the object, of the fields that differ.
      type: list
      elements: str
      sample: [source, checksum]
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
templates:
  description: The objects that are there, in the form in which O(templates) accepts them.
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
      sample: template['debian-12'].checksum
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
    run_module("template")


if __name__ == "__main__":
    main()
