#!/usr/bin/python
# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: maintenance
short_description: Take a host out of service for a while
version_added: 0.1.0
description:
  - Lets a host say that it is in maintenance, stops its virtual machines, and afterwards starts exactly those that ran before.
  - Which these are is kept on the host, so that it makes no difference whether the run in between was killed or the host was
    started anew. Whoever runs the same tasks again goes on.
  - On KVM this is about all virtual machines of the host, also those that this collection has not made. One that is suspended is
    saved to disk with its memory. None starts with the host meanwhile; those that did before do so again afterwards. Who
    logs in is told.
  - The role C(kvm_host) updates a host in this mode with C(tasks_from=updates).
author: Bareforge contributors (@bareforge)
extends_documentation_fragment:
  - bareforge.hypervisor.attributes.maintenance
  - bareforge.hypervisor.attributes
  - bareforge.hypervisor.maintenance
  - bareforge.hypervisor.platform
seealso:
  - module: bareforge.hypervisor.host_info
    description: Tells whether the host is in maintenance, and its pending updates.
"""

EXAMPLES = r"""
- name: Out of service, with guests given ten minutes to shut down
  bareforge.hypervisor.maintenance:
    state: emptied
    reason: A new power supply
    shutdown_timeout: 600

- name: Back in service, with the virtual machines that ran before
  bareforge.hypervisor.maintenance:
    state: left

- name: What mode is it in
  bareforge.hypervisor.maintenance:
    state: gathered
  register: mode
"""

RETURN = r"""
changes:
  description: What was changed, or would be in check mode.
  returned: success
  type: list
  elements: dict
  contains:
    kind:
      description: V(maintenance) or V(vm).
      type: str
      sample: vm
    key:
      description: The name of the VM.
      type: str
      sample: web1
    action:
      description: V(enter) and V(leave) of the mode; V(note), V(stop) and V(start) of a VM.
      type: str
      sample: stop
    fields:
      description: Always empty.
      type: list
      elements: str
maintenance:
  description: The mode as it is now, or would be in check mode; null where the host is in service.
  returned: success
  type: dict
  contains:
    reason:
      description: Why.
      type: str
    since:
      description: Since when, in UTC.
      type: str
      sample: "2026-11-25T12:00:00Z"
    vms:
      description:
        - The VMs that ran before, each with its C(name), C(uuid), C(power), which is V(running) or V(suspended), and its
          C(destination), the one of O(evacuate_to) that was chosen for it.
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
      sample: evacuate_to[0]
    message:
      description: What is wrong there, and what is allowed.
      type: str
      sample: must be given
"""

from ansible_collections.bareforge.hypervisor.plugins.module_utils.boundary.module import run_module


def main() -> None:
    run_module("maintenance")


if __name__ == "__main__":
    main()
