# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is seen of guests and their ports from the host."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import ApplyError
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.compute import Nic
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.network import VirtualNetwork
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm import domains, guests, live_changes


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], None),
        ([[10, ["set", []]]], (10, ())),
        ([[["set", []], ["set", []]]], (None, ())),
        ([[10, ["set", [20, 10]]]], (10, (10, 20))),
        ([[["set", []], 5]], (None, (5,))),
    ],
)
def test_a_ports_vlan_is_read_as_open_vswitch_writes_it(
    monkeypatch: pytest.MonkeyPatch, rows: Any, expected: Any
) -> None:
    def run(command: list[str], **_options: Any) -> Any:
        assert command[-1] == "name=bf0123456789ab"
        return subprocess.CompletedProcess(command, 0, json.dumps({"headings": ["tag", "trunks"], "data": rows}), "")

    monkeypatch.setattr(subprocess, "run", run)
    assert live_changes.read_port("bf0123456789ab") == expected


@pytest.mark.parametrize(
    ("network", "port", "fits"),
    [
        ({"vlan": 20}, (20, ()), True),
        # What libvirt 9 does to a port whose interface names no VLAN, while it shows VLAN 20 itself.
        ({"vlan": 20}, (None, ()), False),
        ({"vlan": 20}, (10, ()), False),
        ({"vlan": 20}, None, False),
        ({"vlan": 0}, (None, ()), True),
        ({"vlan": 10, "trunk": ["20"]}, (10, (10, 20)), True),
        ({"vlan": 10, "trunk": ["20"]}, (10, (20,)), True),
        ({"vlan": 10, "trunk": ["20"]}, (10, ()), False),
    ],
)
def test_a_port_that_is_not_in_the_vlan_of_its_network_is_found(
    monkeypatch: pytest.MonkeyPatch, network: dict[str, Any], port: Any, fits: bool
) -> None:
    monkeypatch.setattr(live_changes, "read_port", lambda _tap: port)
    wanted = VirtualNetwork.parse({"name": "n", "switch": "br0", **network}).complete(None)
    if fits:
        live_changes.check_port("web1", Nic(name="eth0", network="n"), wanted)
        return
    with pytest.raises(
        ApplyError, match=r"vm\['web1'\]\.nics\['eth0'\]\.network: port bf\w{12} of Open vSwitch shows VLAN"
    ):
        live_changes.check_port("web1", Nic(name="eth0", network="n"), wanted)


def serve(answer: bytes) -> tuple[int, socket.socket]:
    listener = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        connection, _peer = listener.accept()
        connection.sendall(answer)
        connection.close()

    threading.Thread(target=run, daemon=True).start()
    return listener.getsockname()[1], listener


@pytest.mark.parametrize(
    ("answer", "banner"),
    [(b"SSH-2.0-OpenSSH_9.2\r\nmore", "SSH-2.0-OpenSSH_9.2"), (b"HTTP/1.1 200 OK\r\n", ""), (b"", "")],
)
def test_only_an_ssh_server_counts_as_one(monkeypatch: pytest.MonkeyPatch, answer: bytes, banner: str) -> None:
    port, listener = serve(answer)
    monkeypatch.setattr(guests, "SSH_PORT", port)
    assert guests._ssh_banner("127.0.0.1") == banner
    listener.close()
    assert guests._ssh_banner("127.0.0.1") == ""


def test_a_console_ends_an_error_message_without_what_a_terminal_would_obey(tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    assert domains.console_end(str(log)) == ""
    log.write_bytes(b"")
    assert domains.console_end(str(log)) == "; its console is silent"
    log.write_bytes(b"first\r\n\x1b[31mKernel panic\x1b[0m\r\n\r\n\x00\xff end\n")
    text = domains.console_end(str(log))
    assert text.startswith("; its console ends with ")
    assert "Kernel panic" in text
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("state", "reason", "text"),
    [
        (1, 1, "running"),
        (3, 1, "paused by a user"),
        (3, 5, "paused by an I/O error of a disk"),
        (6, 0, "crashed"),
        (5, 1, "off"),
    ],
)
def test_states_are_told_as_they_are(state: int, reason: int, text: str) -> None:
    assert domains.state_text(state, reason) == text
