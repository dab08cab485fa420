#!/usr/bin/python
# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: vm_restore
short_description: Bring a virtual machine back from a backup
version_added: 0.1.0
description:
  - Brings a virtual machine back from a backup that M(bareforge.hypervisor.vm_backup) has made, in place or as another VM.
  - The checksums of the backup, and of all that it builds on, are compared before anything is touched. A backup of which
    a file is missing or has changed is refused by that file's name.
  - In place, everything is made ready beside the VM before it is stopped, and its disks are kept until the restored ones
    are where they belong. What the VM has written since the backup is lost, so each run of such a task is a change.
  - As another VM, the second run of a task finds that the VM is there and changes nothing.
  - On Proxmox VE the node checks an archive while it reads it, and replaces the disks of a VM in place one after another.
  - It is a module of its own and no state of M(bareforge.hypervisor.vm_backup), because what it changes is a VM, and
    because it takes what changing a VM takes.
  - What the platform cannot do is refused by name before anything is changed.
author: Bareforge contributors (@bareforge)
extends_documentation_fragment:
  - bareforge.hypervisor.attributes
  - bareforge.hypervisor.vm_restore
  - bareforge.hypervisor.platform
notes:
  - A VM that is restored in place needs a full backup next.
seealso:
  - module: bareforge.hypervisor.vm_backup
  - module: bareforge.hypervisor.vm
"""

EXAMPLES = r"""
- name: Look at Sunday's state beside the VM that runs
  bareforge.hypervisor.vm_restore:
    vm: web1
    name: sunday
    new_name: web1-sunday

- name: Take the VM itself back to it, and stop it for that
  bareforge.hypervisor.vm_restore:
    vm: web1
    name: sunday
    allow_restart: true

- name: On another host, from a directory that was made available there
  bareforge.hypervisor.vm_restore:
    vm: web1
    name: sunday
    target: /srv/backup
    power: running
"""

RETURN = r"""
changes:
  description: What was changed, or would be in check mode.
  returned: success
  type: list
  elements: dict
  contains:
    kind:
      description: V(vm).
      type: str
      sample: vm
    key:
      description: The VM's name.
      type: str
      sample: web1
    action:
      description: V(create) for a VM that is made, V(restore) for one that is brought back in place.
      type: str
      sample: restore
    fields:
      description: Always empty, as all of the VM is replaced.
      type: list
      elements: str
before:
  description: The VM as it was, as a document.
  returned: success
  type: dict
after:
  description: The VM as the host shows it now, or as it is planned in check mode.
  returned: success
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
      sample: backup['web1/sunday']
    message:
      description: What is wrong there, and what is allowed.
      type: str
      sample: must be given
"""

from ansible_collections.bareforge.hypervisor.plugins.module_utils.boundary.module import run_module


def main() -> None:
    run_module("vm_restore")


if __name__ == "__main__":
    main()
