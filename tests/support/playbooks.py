# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Real runs of ansible-playbook with the platform in memory, or with a host whose answers are written beforehand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "tests/unit/plugins/action"
PASSWORD = "geheim-4711"


class Runner:
    """Runs playbooks against hosts in memory.

    hosts: the folder with the hosts' files. inventory: what the inventory says of all hosts.
    """

    def __init__(self, folder):
        self.folder = folder
        self.hosts = folder / "hosts"
        self.hosts.mkdir()
        self.output = ""
        self.host_vars = {}
        # Nothing of the machine's own configuration.
        (folder / "ansible.cfg").write_text("[defaults]\n")
        self.inventory = {
            "bareforge_platform": "memory",
            "bareforge_password": "{{ vaulted }}",
            "vaulted": PASSWORD,
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
        }

    def play(self, *tasks, arguments=(), hosts=("h1",), **play):
        """Run tasks and return (status, result) of each, in order."""
        results = self.folder / "results"
        results.write_text("")
        (self.folder / "inventory.yml").write_text(
            yaml.safe_dump(
                {"all": {"hosts": {name: self.host_vars.get(name) for name in hosts}, "vars": self.inventory}}
            )
        )
        (self.folder / "play.yml").write_text(
            yaml.safe_dump([{"hosts": hosts[0], "gather_facts": False, "tasks": list(tasks), **play}])
        )
        done = subprocess.run(
            [
                sys.executable,
                str(HERE / "playbook_on_memory.py"),
                str(self.hosts),
                "-i",
                str(self.folder / "inventory.yml"),
                str(self.folder / "play.yml"),
                *arguments,
            ],
            env={
                **os.environ,
                "ANSIBLE_CONFIG": str(self.folder / "ansible.cfg"),
                "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections"),
                "ANSIBLE_CALLBACK_PLUGINS": str(HERE / "callback_plugins"),
                "ANSIBLE_CALLBACKS_ENABLED": "results",
                "ANSIBLE_CONNECTION_PLUGINS": str(HERE / "connection_plugins"),
                "ANSWERS": str(self.folder / "answers"),
                "ASKED": str(self.folder / "asked"),
                "ANSIBLE_LOCAL_TEMP": str(self.folder / "tmp"),
                "ANSIBLE_PIPELINING": "true",
                "ANSIBLE_NOCOLOR": "true",
                "RESULTS": str(results),
            },
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        self.output = done.stdout + done.stderr
        lines = [json.loads(line) for line in results.read_text().splitlines()]
        assert lines, self.output
        return [(line["status"], line["result"]) for line in lines]

    def script(self, *answers):
        """Let modules that are sent to the host get these answers, instead of being run."""
        self.inventory.update(bareforge_platform="kvm", ansible_connection="scripted", ansible_become=False)
        (self.folder / "answers").write_text(json.dumps(answers))
        (self.folder / "asked").write_text("")

    def asked(self):
        assert json.loads((self.folder / "answers").read_text()) == []
        return (self.folder / "asked").read_text().split()

    def log(self, host="h1"):
        return (self.hosts / f"{host}.log").read_text().splitlines()

    def settings(self, host="h1"):
        return json.loads((self.hosts / f"{host}.settings").read_text())


def task(module, /, **arguments):
    return {f"bareforge.hypervisor.{module}": arguments}
