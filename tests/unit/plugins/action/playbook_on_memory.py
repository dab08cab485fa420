# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""ansible-playbook with one more platform, `memory`, whose hosts are kept in files between tasks.

python playbook_on_memory.py FOLDER [arguments of ansible-playbook]
"""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

from ansible.cli.playbook import PlaybookCLI

TESTS = Path(__file__).resolve().parents[3]


class MemoryPlaybookCLI(PlaybookCLI):
    """Registers the platform once Ansible's own loader of collections is in place."""

    def _play_prereqs(self) -> Any:
        from stored_platform import StoredPlatform

        from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms import registry

        StoredPlatform.FOLDER = Path(sys.argv[1])
        module = types.ModuleType(f"{registry.__package__}.memory")
        module.StoredPlatform = StoredPlatform  # type: ignore[attr-defined]
        sys.modules[module.__name__] = module
        registry.PLATFORMS["memory"] = "memory:StoredPlatform"
        return super()._play_prereqs()


if __name__ == "__main__":
    sys.path.insert(0, str(TESTS))
    MemoryPlaybookCLI.cli_executor(["ansible-playbook", *sys.argv[2:]])
