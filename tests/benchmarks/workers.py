# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Benchmarks of tasks whose engine runs in the Ansible worker, on the tests' platform in memory."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import ROOT, Figure, median, run_playbook

PLAYBOOK_ON_MEMORY = ROOT / "tests" / "unit" / "plugins" / "action" / "playbook_on_memory.py"


def in_worker_task() -> list[Figure]:
    """A task that finds its object in place against an action plugin that does nothing."""
    ours = {
        "name": "ours",
        "bareforge.hypervisor.virtual_network": {"name": "app", "switch": "br0", "vlan": 10},
    }
    nothing = {"name": "nothing", "nothing": {}}
    switch = {"name": "switch", "bareforge.hypervisor.virtual_switch": {"name": "br0"}}
    with tempfile.TemporaryDirectory() as folder:
        inventory = Path(folder) / "inventory.json"
        inventory.write_text(json.dumps({"all": {"hosts": {"memory1": {"bareforge_platform": "memory"}}}}))
        times = run_playbook(
            [{"hosts": "memory1", "gather_facts": False, "tasks": [switch, ours, *[ours, nothing] * 100]}],
            inventory,
            command=[sys.executable, str(PLAYBOOK_ON_MEMORY), folder],
        )
    # The first of each loads what the later ones share.
    mine = median([entry.seconds for entry in times if entry.task == "ours"][2:])
    none = median([entry.seconds for entry in times if entry.task == "nothing"][1:])
    detail = f"ours {mine * 1000:.1f} ms, nothing {none * 1000:.1f} ms"
    return [Figure("in-worker-task", mine / none, 1.5, False, detail)]
