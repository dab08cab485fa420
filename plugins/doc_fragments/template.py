# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Written by tests/tools/generate_documentation.py from the model; change the descriptions there.

from __future__ import annotations


class ModuleDocFragment:
    """The options of the module template."""

    DOCUMENTATION = r"""
options:
  name:
    description:
      - The template's name.
      - Allowed is a name of 1 to 255 characters without control or invisible characters or blanks at
        its ends.
    type: str
  source:
    description:
      - Where the image comes from.
      - Settled when the object is made.
    type: dict
    suboptions:
      url:
        description:
          - Where the host fetches the image.
          - Allowed is an http, https or file URL without user name or password in it.
          - A platform offers this by its capability C(template.source.url).
        type: str
      path:
        description:
          - The image's path on the host.
          - Allowed is an absolute path without '..' in it, control characters or a slash at its end.
          - A platform offers this by its capability C(template.source.path).
        type: str
      vm:
        description:
          - A powered-off VM whose first disk is taken.
          - Allowed is a name of 1 to 255 characters without control or invisible characters or blanks
            at its ends.
          - A platform offers this by its capability C(template.source.vm).
        type: str
      format:
        description:
          - The image's format; looked up in the image where not given.
          - A platform offers this by its capability C(template.format.*).
        type: str
        choices:
          - qcow2
          - raw
          - vmdk
          - vhdx
          - vhd
          - ova
  checksum:
    description:
      - The checksum of the source image. Required for url and path; what does not match is not imported.
      - 'Allowed is sha256:, sha384: or sha512: and the digest in hexadecimal digits.'
      - Settled when the object is made.
    type: str
  firmware:
    description:
      - What the image boots with.
      - The default is V(bios).
      - A platform offers this by its capability C(template.firmware.*).
    type: str
    choices:
      - bios
      - uefi
  guest_type:
    description:
      - What runs in it.
      - The default is V(linux).
    type: str
    choices:
      - linux
      - windows
      - other
  customization:
    description:
      - How a VM made from it is given its name, users and addresses.
      - The default is V(cloud_init).
      - A platform offers this by its capability C(template.customization.*).
    type: str
    choices:
      - cloud_init
      - unattend
      - none
  pool:
    description:
      - The storage pool that it lies in.
      - Allowed is a name of 1 to 255 characters without control or invisible characters or blanks at
        its ends.
      - Settled when the object is made.
      - A platform offers this by its capability C(template.pool).
    type: str
  description:
    description:
      - What it is.
      - An empty text takes it away.
    type: str
  templates:
    description:
      - Several objects in one task, instead of O(name) and the options that describe one. Each has these
        options as its fields, and may have a C(state) of its own, V(present) or V(absent).
    type: list
    elements: dict
  exact:
    description:
      - Whether every template that O(templates) does not list is removed. What carries the path that
        the host is managed through, and a VM that runs, is kept with a warning.
    type: bool
    default: false
  state:
    description:
      - With V(present) the host is made to show what the options say; what they leave open stays as it
        is. With V(absent) what O(name) or O(templates) names is removed. With V(gathered) nothing is
        changed, and RV(templates) tells what is there, all of it or what O(name) names.
    type: str
    choices:
      - present
      - absent
      - gathered
    default: present
"""
