# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.firewall import Firewall, FirewallRule
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm import controller
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.controller import (
    Connection,
    controller_connection,
    lets_in,
)

CONNECTION = Connection("198.51.100.9", 40000, "192.0.2.1", 22)


def proc(folder: Path, processes: dict[int, Any]) -> str:
    """Make a folder like /proc; processes: by id, the parent and the environment, None where it may not be read."""
    for number, (parent, environment) in processes.items():
        (folder / str(number)).mkdir()
        (folder / str(number) / "stat").write_text(f"{number} (a) b (c)) S {parent} 1 1 0 -1")
        if environment is not None:
            (folder / str(number) / "environ").write_bytes(b"\0".join(environment))
    return str(folder)


def test_connection_is_found_behind_sudo(tmp_path: Path) -> None:
    folder = proc(
        tmp_path,
        {
            40: (30, [b"HOME=/root"]),
            30: (20, None),
            20: (1, [b"A=b", b"SSH_CONNECTION=198.51.100.9 40000 192.0.2.1 22", b"C=d"]),
            1: (0, []),
        },
    )
    assert controller_connection(40, folder) == CONNECTION


def test_nobody_who_came_by_ssh(tmp_path: Path) -> None:
    assert controller_connection(40, proc(tmp_path, {40: (1, [b"HOME=/"]), 1: (0, [])})) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"fe80::1%eth0 40000 fe80::2%eth0 22", ("fe80::1", "fe80::2")),
        (b"::ffff:192.0.2.9 40000 ::ffff:192.0.2.1 22", ("192.0.2.9", "192.0.2.1")),
        (b"nonsense", None),
        (b"a 1 b 2", None),
        (b"192.0.2.9 x 192.0.2.1 22", None),
        (b"\xff\xfe 1 192.0.2.1 22", None),
    ],
)
def test_what_sshd_says(tmp_path: Path, text: bytes, expected: Any) -> None:
    found = controller_connection(40, proc(tmp_path, {40: (0, [b"SSH_CONNECTION=" + text])}))
    assert (None if found is None else (found.address, found.host_address)) == expected


def rules(*documents: dict[str, Any]) -> list[FirewallRule]:
    named = ({"name": f"r{number}", **fields} for number, fields in enumerate(documents))
    return [FirewallRule.parse(fields).complete(None) for fields in named]


@pytest.mark.parametrize(
    ("policy", "documents", "expected"),
    [
        ({}, [], True),
        ({"management_ports": ["2222"]}, [], False),
        ({"management_sources": ["198.51.100.0/24"]}, [{"action": "deny"}], True),
        ({"management_sources": ["203.0.113.0/24"]}, [], False),
        ({"management_sources": ["203.0.113.0/24"], "enabled": False}, [], True),
        ({"management_sources": ["203.0.113.0/24"], "default_inbound": "allow"}, [], True),
        ({"management_sources": ["203.0.113.0/24"], "default_inbound": "allow"}, [{"action": "reject"}], False),
        ({"management_sources": ["203.0.113.0/24"]}, [{"service": "ssh"}], True),
        ({"management_sources": ["203.0.113.0/24"]}, [{"service": "https"}], False),
        ({"management_sources": ["203.0.113.0/24"]}, [{"protocol": "tcp", "ports": ["20-30"]}], True),
        ({"management_sources": ["203.0.113.0/24"]}, [{"protocol": "udp", "ports": ["22"]}], False),
        ({"management_sources": ["203.0.113.0/24"]}, [{"sources": ["198.51.100.9"]}], True),
        ({"management_sources": ["203.0.113.0/24"]}, [{"sources": ["198.51.100.8"]}], False),
        ({"management_sources": ["203.0.113.0/24"]}, [{"sources": ["2001:db8::/32"]}], False),
        ({"management_sources": ["203.0.113.0/24"]}, [{"destinations": ["192.0.2.2"]}], False),
        ({"management_sources": ["203.0.113.0/24"]}, [{"direction": "outbound"}], False),
        ({"management_sources": ["203.0.113.0/24"]}, [{"enabled": False}], False),
        ({"management_sources": ["203.0.113.0/24"]}, [{"interfaces": ["mgmt0"]}], True),
        ({"management_sources": ["203.0.113.0/24"]}, [{"interfaces": ["other"]}], False),
        ({"management_sources": ["203.0.113.0/24"]}, [{"action": "deny"}, {}], False),
        ({"management_sources": ["203.0.113.0/24"]}, [{"action": "deny", "position": 2000}, {}], True),
        ({"management_sources": ["203.0.113.0/24"]}, [{"action": "deny", "rate_limit": {"rate": 1}}, {}], True),
    ],
)
def test_lets_in(
    policy: dict[str, Any], documents: list[dict[str, Any]], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controller, "interfaces_of", lambda _address: ["mgmt0"])
    assert lets_in(Firewall.parse(policy).complete(None), rules(*documents), CONNECTION) is expected


def test_the_host_itself_is_always_let_in() -> None:
    firewall = Firewall.parse({"management_sources": ["203.0.113.0/24"]}).complete(None)
    assert lets_in(firewall, [], Connection("127.0.0.1", 40000, "127.0.0.1", 22))
