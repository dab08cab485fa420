# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The action of every module of the collection: `plugins/action/NAME.py` is a link to this file.

Ansible imports the link under its own name, which tells the module. A link instead of an `action_plugin` entry in
meta/runtime.yml, since Ansible loads an action of the task's own name in the parent, before it forks.
"""

from __future__ import annotations

from ansible_collections.bareforge.hypervisor.plugins.plugin_utils.action_base import HypervisorAction


class ActionModule(HypervisorAction):
    """Does what the module of this file's name says."""
