# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The demo: a server of the lab becomes a hardened KVM host with running virtual machines.

Usage: demo.py, from `make demo`, with the Python of the virtual environment. Starts the lab's server if it does not
run, takes it through playbooks/site.yml, and says what was made. A second run finds everything in place and changes
nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LAB = [sys.executable, str(ROOT / "tests" / "lab")]
SERVER = "kvm1"
INVENTORY = ROOT / "inventories" / "lab"
QUIET_AFTER = 20


class DemoError(Exception):
    """A stage failed; the message says which and what to look at."""


class Stages:
    """Announces stages with the time since the start and proves that something still runs when nothing is printed."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.current = ""
        self.last_output = self.began
        self.durations: list[tuple[str, float]] = []

    def clock(self) -> str:
        """Return the time since the start as minutes and seconds."""
        minutes, seconds = divmod(int(time.monotonic() - self.began), 60)
        return f"{minutes:2}:{seconds:02}"

    def say(self, text: str) -> None:
        """Print a line at once."""
        self.last_output = time.monotonic()
        print(text, flush=True)

    def run(self, stage: str, command: Sequence[str], environment: dict[str, str] | None = None) -> None:
        """Run a command as a stage, passing on what it prints.

        Raises DemoError if it fails.
        """
        began = time.monotonic()
        self.current = stage
        self.say(f"\n[{self.clock()}] ### {stage}")
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            bufsize=1,
        )
        ended = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(ended,), daemon=True)
        watcher.start()
        assert process.stdout is not None
        for line in process.stdout:
            self.say(line.rstrip("\n"))
        status = process.wait()
        ended.set()
        watcher.join()
        self.durations.append((stage, time.monotonic() - began))
        if status:
            raise DemoError(f"stage '{stage}' failed (exit status {status}); what it printed stands above.")

    def _watch(self, ended: threading.Event) -> None:
        while not ended.wait(5):
            if time.monotonic() - self.last_output > QUIET_AFTER:
                self.say(f"[{self.clock()}]     still at it: {self.current}")


def ansible_command(program: str) -> str:
    """Return the path of one of Ansible's programs beside this Python."""
    return str(Path(sys.executable).with_name(program))


def facts_of_server() -> dict[str, object]:
    """Return the lab's connection facts of the server."""
    printed = subprocess.run([*LAB, "inventory"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return json.loads(printed)["all"]["hosts"][SERVER]


def summary(stages: Stages) -> str:
    """Return what was made, how to get there and how to clean up."""
    facts = facts_of_server()
    key = facts["ansible_ssh_private_key_file"]
    jump = f"ssh -F none -i {key} -p {facts['ansible_port']} {facts['ansible_ssh_common_args']}"
    lines = [
        "",
        f"Done in {stages.clock().strip()}:",
        *(f"  {took:6.0f} s  {stage}" for stage, took in stages.durations),
        "",
        "What was made",
        f"  {SERVER}: a KVM host with Open vSwitch networks on VLAN 10 and 20, a default-deny firewall, hardened,",
        "  and the virtual machines web1 (Debian, cloud-init), app1 and db1.",
        "",
        "Log in",
        f"  host:  python3 tests/lab ssh {SERVER}",
        f"  web1:  ssh -F none -i {key} -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null \\",
        f'           -o ProxyCommand="{jump} -W %h:%p operator@127.0.0.1" operator@10.10.0.11',
        f"  app1:  python3 tests/lab ssh {SERVER} -t sudo virsh console app1     (Ctrl+] to leave)",
        "",
        "Look at",
        f"  {ROOT / '.report' / 'hardening' / (SERVER + '.html')}",
        f"  {INVENTORY / 'group_vars' / 'kvm_hosts.yml'}   the description that all this was made from",
        "",
        "Clean up",
        "  make clean",
    ]
    return "\n".join(lines)


def main() -> int:
    """Run the demo and return its exit status."""
    stages = Stages()
    try:
        stages.run("Build the images (cached afterwards)", [*LAB, "image", "kvm-host", "debian-guest", "tiny-guest"])
        stages.run("Start the server", [*LAB, "up", SERVER])
        stages.run("Write the inventory", [*LAB, "inventory", "--out", str(INVENTORY / "machines.yml")])
        stages.run(
            "From a fresh server to a hardened KVM host with virtual machines: playbooks/site.yml",
            [ansible_command("ansible-playbook"), "-i", str(INVENTORY), "playbooks/site.yml"],
            {"ANSIBLE_STDOUT_CALLBACK": "bareforge.hypervisor.progress", "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
        )
        print(summary(stages))
    except DemoError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "demo: interrupted; run `make demo` again to go on, or `make clean` to remove what was made.",
            file=sys.stderr,
        )
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
