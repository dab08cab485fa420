# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Written by tests/tools/generate_documentation.py from the model; change the descriptions there.

from __future__ import annotations


class ModuleDocFragment:
    """The options of the module storage_pool."""

    DOCUMENTATION = r"""
options:
  name:
    description:
      - The pool's name.
      - Allowed is a name of 1 to 255 characters without control or invisible characters or blanks at
        its ends.
    type: str
  type:
    description:
      - What it is made of.
      - Must be given with O(state=present).
      - Settled when the object is made.
      - A platform offers this by its capability C(storage_pool.type.*).
    type: str
    choices:
      - dir
      - nfs
      - smb
      - iscsi
      - lvm
      - lvm_thin
      - zfs
      - vmfs
  path:
    description:
      - Where it lies or is mounted on the host.
      - Allowed is an absolute path without '..' in it, control characters or a slash at its end.
      - Settled when the object is made.
    type: str
  source:
    description:
      - What it is made of.
    type: dict
    suboptions:
      host:
        description:
          - The server, for nfs, smb and iscsi.
          - Allowed is a host name such as ntp1.example.org, or an IP address.
          - Settled when the object is made.
        type: str
      path:
        description:
          - The export or share, for nfs and smb.
          - Settled when the object is made.
        type: str
      target:
        description:
          - The target's name, for iscsi.
          - Allowed is a name of 1 to 255 characters without control or invisible characters or blanks
            at its ends.
          - Settled when the object is made.
        type: str
      devices:
        description:
          - 'The block devices, for lvm, lvm_thin, zfs and vmfs. The whole list: further ones make the
            pool larger, and none can be taken out.'
          - Each entry is an absolute path without '..' in it, control characters or a slash at its end.
        type: list
        elements: str
      name:
        description:
          - The volume group, thin pool (GROUP/POOL) or ZFS pool.
          - Allowed is a name of 1 to 255 characters without control or invisible characters or blanks
            at its ends.
          - Settled when the object is made.
        type: str
      username:
        description:
          - The user at the server.
          - Allowed is a name of 1 to 255 characters without control or invisible characters or blanks
            at its ends.
        type: str
      password:
        description:
          - 'The user''s password. It is not compared: one that changed is set where another field of
            the pool changes too.'
        type: str
      version:
        description:
          - The version of NFS.
        type: str
        choices:
          - '3'
          - '4'
          - '4.1'
          - '4.2'
  content:
    description:
      - What may lie in it; everything that the platform allows where not given.
      - A platform offers this by its capability C(storage_pool.content.*).
    type: list
    elements: str
    choices:
      - disks
      - templates
      - images
      - backups
  autostart:
    description:
      - Whether it starts with the host.
      - The default is V(true).
    type: bool
  capacity:
    description:
      - The size to grow to, where the pool can.
      - Allowed is a whole number from 1 to 1099511627776 (GiB).
      - A platform offers this by its capability C(storage_pool.grow).
    type: int
  settings:
    description:
      - Mount or pool options by name.
      - A mapping of names to values.
      - A platform offers this by its capability C(storage_pool.settings).
    type: dict
  storage_pools:
    description:
      - Several objects in one task, instead of O(name) and the options that describe one. Each has these
        options as its fields, and may have a C(state) of its own, V(present) or V(absent).
    type: list
    elements: dict
  exact:
    description:
      - Whether every storage pool that O(storage_pools) does not list is removed. What carries the path
        that the host is managed through, and a VM that runs, is kept with a warning.
    type: bool
    default: false
  state:
    description:
      - With V(present) the host is made to show what the options say; what they leave open stays as it
        is. With V(absent) what O(name) or O(storage_pools) names is removed. With V(gathered) nothing
        is changed, and RV(storage_pools) tells what is there, all of it or what O(name) names.
    type: str
    choices:
      - present
      - absent
      - gathered
    default: present
  delete_contents:
    description:
      - Whether everything that lies in a storage pool that is removed is deleted with it. Without it
        the contents stay.
      - The default is V(false).
    type: bool
"""
