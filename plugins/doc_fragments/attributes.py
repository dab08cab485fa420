# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    """What is said of every module of the collection."""

    DOCUMENTATION = r"""
attributes:
  action:
    description: Has an action of the same name that runs on the controller.
    support: full
    details:
      - Checks the arguments before the host is connected to. The work itself is done on the host for the platform
        V(kvm), over Ansible's own connection, and on the controller for platforms that are managed through their API.
  action_group:
    description: Use C(group/bareforge.hypervisor.hypervisor) in C(module_defaults) to set defaults for all modules.
    support: full
    membership:
      - bareforge.hypervisor.hypervisor
  async:
    description: Supports being used with the C(async) keyword.
    support: none
  check_mode:
    description: Runs in check mode and tells what would be changed, without changing anything.
    support: full
  diff_mode:
    description: Shows with C(--diff) what is changed. The difference is the plan, the same in check mode and without.
    support: full
  platform:
    description: The platforms of hosts that can be managed.
    support: full
    platforms: Debian, Ubuntu
requirements:
  - root on the host (C(become)) for the platform V(kvm)
"""

    # Of two fragments that speak of the same attribute the first that a module names counts.
    INFO = r"""
attributes:
  check_mode:
    description: Runs in check mode and tells what would be changed, without changing anything.
    support: full
    details:
      - Never changes anything.
  diff_mode:
    description: Shows with C(--diff) what is changed.
    support: N/A
    details:
      - Never changes anything.
"""

    GUARD = r"""
attributes:
  diff_mode:
    description: Shows with C(--diff) what is changed.
    support: none
"""

    MAINTENANCE = r"""
attributes:
  diff_mode:
    description: Shows with C(--diff) what is changed.
    support: none
"""
