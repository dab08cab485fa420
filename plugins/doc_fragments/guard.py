# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Written by tests/tools/generate_documentation.py from the model; change the descriptions there.

from __future__ import annotations


class ModuleDocFragment:
    """The options of the module guard."""

    DOCUMENTATION = r"""
options:
  token:
    description:
      - The guard's token, C(guard.token) of the change.
    type: str
    required: true
  state:
    description:
      - With V(confirmed) the change stays. With V(undone) it is undone at once.
    type: str
    choices:
      - confirmed
      - undone
    default: confirmed
"""
