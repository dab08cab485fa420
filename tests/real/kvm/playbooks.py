# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""ansible-playbook against a real host, with its own SSH connections."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..real_host import ROOT, RealHost


class Playbooks:
    """Runs tasks of the collection on a real host as users run them.

    folder: an empty folder for the files that this takes. variables: inventory variables beside those of the host.
    """

    def __init__(self, host: RealHost, folder: Path, **variables: Any) -> None:
        self.folder = folder
        self.results = folder / "results"
        self.output = ""
        # A socket's path has 107 characters at most, and ssh adds some of its own.
        self.control = tempfile.mkdtemp(prefix="bf-cp-")
        (folder / "ansible.cfg").write_text("[defaults]\n[ssh_connection]\npipelining = true\n")
        inventory = {
            "all": {
                "hosts": {host.name: {**host.variables, **variables}},
                "vars": {"ansible_become": True, "bareforge_platform": "kvm"},
            }
        }
        (folder / "inventory.json").write_text(json.dumps(inventory))

    def start(self, *tasks: Any, arguments: Sequence[str] = ()) -> subprocess.Popen[str]:
        """Start a play of some tasks, in a process group of its own."""
        self.results.write_text("")
        play = [{"hosts": "all", "gather_facts": False, "tasks": list(tasks)}]
        (self.folder / "play.yml").write_text(json.dumps(play))
        return subprocess.Popen(
            [
                str(Path(sys.executable).with_name("ansible-playbook")),
                *("-i", str(self.folder / "inventory.json"), str(self.folder / "play.yml"), *arguments),
            ],
            env={
                **os.environ,
                "ANSIBLE_CONFIG": str(self.folder / "ansible.cfg"),
                "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections"),
                "ANSIBLE_CALLBACK_PLUGINS": str(ROOT / "tests/unit/plugins/action/callback_plugins"),
                "ANSIBLE_CALLBACKS_ENABLED": "results",
                "ANSIBLE_LOCAL_TEMP": str(self.folder / "tmp"),
                "ANSIBLE_SSH_CONTROL_PATH_DIR": self.control,
                "ANSIBLE_NOCOLOR": "true",
                "RESULTS": str(self.results),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def play(
        self, *tasks: Any, arguments: Sequence[str] = (), timeout: float = 600
    ) -> list[tuple[str, dict[str, Any]]]:
        """Run a play and return (status, result) of each task that came to an end."""
        running = self.start(*tasks, arguments=arguments)
        self.output = running.communicate(timeout=timeout)[0]
        lines = [json.loads(line) for line in self.results.read_text().splitlines()]
        assert lines, self.output
        return [(line["status"], line["result"]) for line in lines]


def task(module: str, /, **arguments: Any) -> dict[str, Any]:
    """Return a task of a module of the collection."""
    return {f"bareforge.hypervisor.{module}": arguments}
