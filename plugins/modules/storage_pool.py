#!/usr/bin/python
# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: storage_pool
short_description: Manage storage pools that disks and templates lie in
version_added: 0.1.0
description:
  - Makes storage pools, starts them and lets them start with the host, enlarges them, and takes them away.
  - A pool is never made over a device that carries anything; what is found there is named. Nothing that lies in a pool
    is deleted with it unless O(delete_contents=true) says so, and a pool that disks or templates lie in cannot go.
  - A pool that somebody else has made is shown and can be used; it is never rebuilt or removed.
  - What the platform cannot do is refused by name before anything is changed.
author: Bareforge contributors (@bareforge)
extends_documentation_fragment:
  - bareforge.hypervisor.attributes
  - bareforge.hypervisor.storage_pool
  - bareforge.hypervisor.platform
seealso:
  - module: bareforge.hypervisor.host
    description: Converges a whole host in one task, which is much faster than one task an object.
  - module: bareforge.hypervisor.vm
  - module: bareforge.hypervisor.template
"""

EXAMPLES = r"""
- name: A directory for disks and templates
  bareforge.hypervisor.storage_pool:
    name: local
    type: dir
    path: /srv/vms
    content: [disks, templates]

- name: A volume group on two devices; a device that is added to the list later makes it larger
  bareforge.hypervisor.storage_pool:
    name: fast
    type: lvm
    source:
      name: vg_fast
      devices:
        - /dev/disk/by-id/nvme-eui.0025388b710116a1
        - /dev/disk/by-id/nvme-eui.0025388b710116a2

- name: An export of an NFS server, with mount options
  bareforge.hypervisor.storage_pool:
    name: nas
    type: nfs
    source:
      host: nas.example.org
      path: /export/vms
      version: "4.2"
    settings:
      noatime: ""
      timeo: "50"

- name: A target of iSCSI, whose devices a volume group can lie on
  bareforge.hypervisor.storage_pool:
    name: san
    type: iscsi
    source:
      host: san.example.org
      target: iqn.2026-11.org.example:vms
      username: kvm01
      password: "{{ vault_san_password }}"

- name: A VM with its disk in the volume group
  bareforge.hypervisor.vm:
    name: db2
    template: debian-12
    clone: full
    memory:
      size: 4 GiB
    disks:
      - name: root
        size: 20 GiB
        pool: fast
        provisioning: thick

- name: Take the pool away and leave its volume group as it is
  bareforge.hypervisor.storage_pool:
    name: fast
    state: absent

- name: Take the pool away with everything in it
  bareforge.hypervisor.storage_pool:
    name: local
    state: absent
    delete_contents: true
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
      sample: storage_pool
    key:
      description: Its key; the parts of a key of several are joined by slashes.
      type: str
      sample: fast
    action:
      description: V(create), V(update) or V(delete).
      type: str
      sample: create
    fields:
      description: The paths, below the object, of the fields that differ.
      type: list
      elements: str
      sample: [source.devices, autostart]
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
storage_pools:
  description: The objects that are there, in the form in which O(storage_pools) accepts them.
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
      sample: storage_pool['fast'].source.devices
    message:
      description: What is wrong there, and what is allowed.
      type: str
      sample: >-
        '/dev/sdb' carries data (ext4), which a pool would destroy; allowed is an empty device
changes_made:
  description: The changes that were complete when the task broke off, each as in RV(changes).
  returned: failure after changes had begun
  type: list
  elements: dict
"""

from ansible_collections.bareforge.hypervisor.plugins.module_utils.boundary.module import run_module


def main() -> None:
    run_module("storage_pool")


if __name__ == "__main__":
    main()
