# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A real host that tests run code on, over SSH and as root."""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import select
import shlex
import subprocess
import tempfile
import textwrap
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
REMOTE = "/tmp/bareforge-test"
COLLECTION = "ansible_collections/bareforge/hypervisor"

AGENT = "import host_tools; host_tools.serve()"


class OnHostError(Exception):
    """What was run on the host has raised an exception; kind is the name of its class."""

    def __init__(self, kind: str, message: str, details: Mapping[str, Any], trace: str) -> None:
        super().__init__(f"{kind}: {message}\n{trace}")
        self.kind = kind
        self.message = message
        self.details = dict(details)


class RealHost:
    """A host that is reached by SSH.

    variables: its connection variables, as in an Ansible inventory.
    """

    def __init__(self, name: str, variables: Mapping[str, Any]) -> None:
        self.name = name
        self.variables = dict(variables)
        self._control = tempfile.mkdtemp(prefix="bf-ssh-")
        self._agent: subprocess.Popen[bytes] | None = None

    @classmethod
    def from_inventory(cls, path: Path) -> RealHost:
        """Return the first host of an inventory in YAML or JSON."""
        text = path.read_text(encoding="utf-8")
        try:
            data = json.loads(text)
        except ValueError:
            import yaml

            data = yaml.safe_load(text)
        name, variables = next(iter(data["all"]["hosts"].items()))
        return cls(name, variables)

    def ssh_command(self, *, fresh: bool = False) -> list[str]:
        """Return the ssh command up to the remote command.

        fresh: whether to make a new connection instead of sharing the one of the test run.
        """
        variables = self.variables
        sharing = (
            ["-o", "ControlPath=none"]
            if fresh
            else ["-o", "ControlMaster=auto", "-o", f"ControlPath={self._control}/%C", "-o", "ControlPersist=120"]
        )
        return [
            "ssh",
            *shlex.split(variables.get("ansible_ssh_common_args", "")),
            *sharing,
            *("-o", "BatchMode=yes", "-o", "ConnectTimeout=20", "-o", "LogLevel=ERROR"),
            *("-i", variables["ansible_ssh_private_key_file"], "-p", str(variables.get("ansible_port", 22))),
            f"{variables.get('ansible_user', 'root')}@{variables['ansible_host']}",
        ]

    def run(
        self,
        *argv: str,
        stdin: str | bytes = "",
        check: bool = True,
        fresh: bool = False,
        timeout: float = 180,
    ) -> str:
        """Run a program on the host as root and return its output, stripped.

        check: whether an exit status other than 0 raises RuntimeError with what it said.
        """
        data = stdin.encode() if isinstance(stdin, str) else stdin
        done = subprocess.run(
            [*self.ssh_command(fresh=fresh), shlex.join(["sudo", "-n", *argv])],
            input=data,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
        output = done.stdout.decode("utf-8", "replace").strip()
        if check and done.returncode != 0:
            raise RuntimeError(f"{shlex.join(argv)} on {self.name}: {done.returncode}: {output} {done.stderr.decode()}")
        return output

    def shell(self, script: str, *, check: bool = True, timeout: float = 180) -> str:
        """Run a shell script on the host as root, with errors ending it, and return its output."""
        return self.run("sh", "-eu", stdin=script, check=check, timeout=timeout)

    def push(self) -> None:
        """Copy the collection's code for hosts, and the tests' own tools for them."""
        self._end_agent()
        archive = subprocess.run(
            ["tar", "-C", str(ROOT), "--exclude=__pycache__", "-cf", "-", "plugins/module_utils"],
            capture_output=True,
            check=True,
        ).stdout
        target = f"{REMOTE}/{COLLECTION}"
        self.run(
            "sh",
            "-c",
            f"rm -rf {REMOTE}; mkdir -p {target}; tar --warning=no-timestamp -C {target} -xf -",
            stdin=archive,
        )
        tools = (Path(__file__).parent / "host_tools.py").read_text(encoding="utf-8")
        self.run("sh", "-c", f"cat > {REMOTE}/host_tools.py", stdin=tools)

    def on_host(
        self, function: Callable[..., Any] | str, *, fresh: bool = False, timeout: float = 300, **data: Any
    ) -> Any:
        """Run a function on the host as root, in a process of its own, and return what it returns.

        function: one that stands by itself (imports inside), or source text that defines `main`.
        fresh: whether over a new connection instead of the one that is kept.
        data: its arguments, as plain data.
        Raises OnHostError with the exception that it raised, TimeoutError where no answer came.
        """
        if callable(function):
            source, name = textwrap.dedent(inspect.getsource(function)), function.__name__
        else:
            source, name = textwrap.dedent(function), "main"
        job = json.dumps({"source": source, "function": name, "data": data}) + "\n"
        if fresh:
            agent = self._start_agent(fresh=True)
            try:
                answer = self._ask(agent, job, timeout, name)
            finally:
                _end(agent)
        else:
            if self._agent is None or self._agent.poll() is not None:
                self._agent = self._start_agent(fresh=False)
            answer = self._ask(self._agent, job, timeout, name)
        if "error" in answer:
            raise OnHostError(answer["error"], answer["message"], answer["details"], answer["trace"])
        return answer["result"]

    def _start_agent(self, *, fresh: bool) -> subprocess.Popen[bytes]:
        command = ["sudo", "-n", "env", f"PYTHONPATH={REMOTE}", "/usr/bin/python3", "-c", AGENT]
        return subprocess.Popen(
            [*self.ssh_command(fresh=fresh), shlex.join(command)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def _ask(self, agent: subprocess.Popen[bytes], job: str, timeout: float, name: str) -> Any:
        assert agent.stdin is not None
        assert agent.stdout is not None
        agent.stdin.write(job.encode())
        agent.stdin.flush()
        deadline = time.monotonic() + timeout
        line = b""
        while not line.endswith(b"\n"):
            ready = select.select([agent.stdout], [], [], max(deadline - time.monotonic(), 0))[0]
            piece = os.read(agent.stdout.fileno(), 1 << 16) if ready else b""
            if not piece:
                _end(agent)
                raise TimeoutError(f"{name} on {self.name} gave no answer within {timeout:.0f} s")
            line += piece
        return json.loads(line)

    def apply(self, document: Mapping[str, Any], *, timeout: float = 300, fresh: bool = False, **options: Any) -> Any:
        """Bring the host to what a document says with the engine, without the guard unless it is asked for."""
        return self.on_host(
            "def main(**data):\n    import host_tools\n    return host_tools.apply(**data)",
            fresh=fresh,
            timeout=timeout,
            document=dict(document),
            **options,
        )

    def gather(self, *kinds: str) -> Any:
        """Return the host's objects as a document."""
        return self.on_host(
            "def main(kinds):\n    import host_tools\n    return host_tools.gather(kinds)", kinds=list(kinds)
        )

    def answers(self, timeout: float = 20) -> bool:
        """Return whether a new SSH connection gets through."""
        try:
            return self.run("true", fresh=True, timeout=timeout) == ""
        except (RuntimeError, subprocess.TimeoutExpired):
            return False

    def wait_for_ssh(self, seconds: float = 240) -> None:
        """Wait until a new connection gets through."""
        deadline = time.monotonic() + seconds
        while not self.answers():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.name} did not answer SSH within {seconds:.0f} s")
            time.sleep(1)

    def reboot(self, seconds: float = 300) -> None:
        """Restart the host and wait until it answers again."""
        before = self.run("cat", "/proc/sys/kernel/random/boot_id")
        self.run("systemctl", "--no-block", "reboot", check=False)
        self.close()
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                if self.run("cat", "/proc/sys/kernel/random/boot_id", fresh=True, timeout=20) not in ("", before):
                    break
            except (RuntimeError, subprocess.TimeoutExpired):
                pass
            time.sleep(1)
        else:
            raise TimeoutError(f"{self.name} did not come back within {seconds:.0f} s")
        self.push()

    def close(self) -> None:
        """End the shared connection."""
        self._end_agent()
        subprocess.run([*self.ssh_command(), "-O", "exit"], capture_output=True, check=False)

    def _end_agent(self) -> None:
        if self._agent is not None:
            _end(self._agent)
            self._agent = None


def _end(agent: subprocess.Popen[bytes]) -> None:
    agent.kill()
    agent.wait()
    for stream in (agent.stdin, agent.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
