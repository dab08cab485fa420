# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The guard as users meet it: tasks of ansible-playbook that keep the controller out, over its real SSH connections."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..real_host import RealHost
from .playbooks import Playbooks, task

SECONDS = 25
"""How long the host waits; it is to be back within a minute."""

SSHD_FOLDER = "/etc/ssh/sshd_config.d"
OURS = f"{SSHD_FOLDER}/00-bareforge-hardening.conf"

PROFILE = {
    "name": "refusing",
    "version": "1",
    "platform": "kvm",
    "title": "A profile that keeps everybody out",
    "rules": [
        {
            "id": name,
            "title": f"Setting {name} is as the test wants it",
            "severity": "high",
            "rationale": "Because the test wants it so.",
            "sources": ["dev-sec"],
            "tags": ["sshd" if setting["kind"] == "sshd_setting" else "kernel"],
            "setting": setting,
            "expected": {"equals": value},
        }
        for name, setting, value in (
            ("sysrq-off", {"kind": "sysctl", "parameter": "kernel.sysrq"}, 0),
            ("x11-off", {"kind": "sshd_setting", "keyword": "X11Forwarding"}, "no"),
            ("keys-refused", {"kind": "sshd_setting", "keyword": "PubkeyAuthentication"}, "no"),
        )
    ],
}


def seconds_until_undone() -> float:
    """Return how long the host took from arming its last guard to the end of the undo."""
    import glob
    import os
    import time

    # Of those that were confirmed nothing is kept.
    folder = os.path.dirname(max(glob.glob("/var/lib/bareforge/guard/*/about.json"), key=os.path.getmtime))
    # The host answers again a moment before it has written down that it is done.
    end = time.monotonic() + 60
    while not os.path.exists(f"{folder}/undone.json") and time.monotonic() < end:
        time.sleep(0.2)
    return os.path.getmtime(f"{folder}/undone.json") - os.path.getmtime(f"{folder}/about.json")


@pytest.fixture
def playbooks(host: RealHost, tmp_path: Path) -> Iterator[Playbooks]:
    (tmp_path / "refusing.yml").write_text(json.dumps(PROFILE))
    made = Playbooks(host, tmp_path)
    yield made
    made.play(task("hardening", profile=str(tmp_path / "refusing.yml"), mode="revert"))
    host.shell("nft delete table inet bareforge 2>/dev/null || true; rm -f /etc/bareforge/firewall.json")


def hardening(playbooks: Playbooks, **arguments: Any) -> dict[str, Any]:
    return task(
        "hardening",
        profile=str(playbooks.folder / "refusing.yml"),
        mode="enforce",
        guard={"timeout": SECONDS},
        **arguments,
    )


def test_an_ssh_server_that_lets_in_stays_after_a_new_login(host: RealHost, playbooks: Playbooks) -> None:
    ((status, result),) = playbooks.play(hardening(playbooks, rules=["x11-off", "sysrq-off"]))
    assert (status, result["changed"], result["score"]["percent"]) == ("ok", True, 100), playbooks.output
    assert result["guard"] == {"guarded": ["rule x11-off"], "confirmed": True, "seconds": result["guard"]["seconds"]}
    ((status, result),) = playbooks.play(hardening(playbooks, rules=["x11-off", "sysrq-off"]))
    assert (status, result["changed"], "guard" in result) == ("ok", False, False)
    time.sleep(SECONDS)
    assert "x11forwarding no" in host.run("sshd", "-T")


def test_an_ssh_server_that_refuses_the_user_is_undone_by_the_host(host: RealHost, playbooks: Playbooks) -> None:
    before = host.run("sh", "-c", f"sshd -T; ls {SSHD_FOLDER}")
    ((status, result),) = playbooks.play(hardening(playbooks))
    assert (status, result["phase"]) == ("failed", "guard"), playbooks.output
    assert result["msg"].startswith(
        f"{host.name}: rule x11-off, rule keys-refused: after the change the host could not be"
    )
    assert "Permission denied" in result["msg"]
    assert "the host undid the change and answers again" in result["msg"]
    assert "\n" not in result["msg"].strip()
    assert host.answers(60)
    assert host.run("sh", "-c", f"sshd -T; ls {SSHD_FOLDER}") == before
    assert host.on_host(seconds_until_undone) <= 60
    # What could not keep anybody out stays, and the next run knows what is there.
    assert host.run("sysctl", "-n", "kernel.sysrq") == "0"
    assert result["changed"]
    ((status, result),) = playbooks.play(hardening(playbooks, rules=["x11-off"]))
    assert (status, result["changed"]) == ("ok", True), playbooks.output
    assert "PubkeyAuthentication" not in host.run("cat", OURS)


def test_a_controller_that_is_killed_before_it_confirms_is_as_good_as_silence(
    host: RealHost, playbooks: Playbooks
) -> None:
    before = host.run("sshd", "-T")

    def armed() -> set[str]:
        return set(host.run("sh", "-c", "ls /var/lib/bareforge/guard/*/armed 2>/dev/null || true").split())

    earlier = armed()
    running = playbooks.start(hardening(playbooks, rules=["x11-off"]))
    deadline = time.monotonic() + 180
    # The change is made, and nobody has come back to confirm it.
    while armed() <= earlier or not host.run("sh", "-c", f"ls {OURS} 2>/dev/null || true"):
        assert running.poll() is None, running.communicate()[0]
        assert time.monotonic() < deadline
    os.killpg(running.pid, signal.SIGKILL)
    running.communicate()
    assert OURS in host.run("ls", OURS)
    deadline = time.monotonic() + SECONDS + 120
    while host.run("ls", OURS, check=False):
        assert time.monotonic() < deadline
        time.sleep(1)
    host.wait_for_ssh(60)
    assert host.run("sshd", "-T") == before
    assert host.on_host(seconds_until_undone) <= 60


class StallingWire:
    """Carries SSH connections to a host until it is told to stall: nothing is refused, and nothing moves any more."""

    def __init__(self, address: str, port: int) -> None:
        self.there = (address, port)
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        self.flowing = threading.Event()
        self.flowing.set()
        self.open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                here = self.server.accept()[0]
                there = socket.create_connection(self.there)
                self.open += [here, there]
                for source, target in ((here, there), (there, here)):
                    threading.Thread(target=self._carry, args=(source, target), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self.flowing.wait()
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.flowing.set()
        for each in (self.server, *self.open):
            each.close()


def test_ssh_that_stalls_ends_the_task_and_the_next_run_goes_on(host: RealHost, tmp_path: Path) -> None:
    wire = StallingWire(str(host.variables["ansible_host"]), int(host.variables["ansible_port"]))
    playbooks = Playbooks(
        host,
        tmp_path,
        ansible_host="127.0.0.1",
        ansible_port=wire.port,
        # As in the project's ansible.cfg, with less patience.
        # The host's key is known by the way that leads there without the wire.
        ansible_ssh_common_args=f"{host.variables['ansible_ssh_common_args']} -o HostKeyAlias=[{wire.there[0]}]:{wire.there[1]}",
        ansible_ssh_extra_args="-o ServerAliveInterval=5 -o ServerAliveCountMax=3",
    )
    switches = task(
        "virtual_switch", virtual_switches=[{"name": f"stall{number}", "type": "internal"} for number in range(4)]
    )
    try:
        running = playbooks.start(switches)
        while not host.run("sh", "-c", "ovs-vsctl br-exists stall0 && echo made || true"):
            assert running.poll() is None, running.communicate()[0]
        wire.flowing.clear()
        began = time.monotonic()
        output = running.communicate(timeout=240)[0]
        assert time.monotonic() - began < 120
        assert "UNREACHABLE" in output or "unreachable" in output, output
        wire.flowing.set()
        ((status, result),) = playbooks.play(switches)
        assert status == "ok", playbooks.output
        ((status, result),) = playbooks.play(switches)
        assert (status, result["changed"]) == ("ok", False)
    finally:
        wire.close()
        host.apply({"virtual_switches": [{"name": f"stall{number}", "state": "absent"} for number in range(4)]})
