# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a module costs that only reads the files and keys that an audit reads, and judges nothing."""

from __future__ import annotations

import glob
import os
import subprocess

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: bare_settings
short_description: Reads settings of a Linux host
description: The lower bound that the benchmark hardening-audit compares with.
author: Bareforge contributors
options:
  files:
    description: Patterns of files to read.
    type: list
    elements: str
    required: true
  stats:
    description: Patterns of files whose permissions are read.
    type: list
    elements: str
    required: true
  commands:
    description: Programs to run.
    type: list
    elements: list
    required: true
"""


def main() -> None:
    """Read everything and return how much it was."""
    module = AnsibleModule(
        argument_spec={
            "files": {"type": "list", "elements": "str", "required": True},
            "stats": {"type": "list", "elements": "str", "required": True},
            "commands": {"type": "list", "elements": "list", "required": True},
        },
        supports_check_mode=True,
    )
    size = 0
    for pattern in module.params["files"]:
        for path in glob.glob(pattern):
            try:
                with open(path, "rb") as file:
                    size += len(file.read())
            except OSError:
                size += 0  # a file of /proc or /sys that cannot be read now
    for pattern in module.params["stats"]:
        size += sum(os.lstat(path).st_mode for path in glob.glob(pattern))
    for argv in module.params["commands"]:
        size += len(subprocess.run(argv, check=True, capture_output=True).stdout)
    module.exit_json(changed=False, size=size)


if __name__ == "__main__":
    main()
