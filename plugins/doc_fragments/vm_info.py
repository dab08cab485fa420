# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Written by tests/tools/generate_documentation.py from the model; change the descriptions there.

from __future__ import annotations


class ModuleDocFragment:
    """The options of the module vm_info."""

    DOCUMENTATION = r"""
options:
  names:
    description:
      - The names of the VMs to tell of; all by default.
      - Each entry is a name of 1 to 255 characters without control or invisible characters or blanks
        at its ends.
    type: list
    elements: str
"""
