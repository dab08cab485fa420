# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Does nothing: the action plugin of the same name does the work."""

from __future__ import annotations

DOCUMENTATION = r"""
module: nothing
short_description: Does nothing
description: What Ansible itself costs a task.
author: Bareforge contributors
"""
