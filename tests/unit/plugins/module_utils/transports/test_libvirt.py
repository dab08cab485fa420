# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""libvirt's exceptions as ours, and the one connection of a process."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import (
    ApplyError,
    AuthenticateError,
    ConnectError,
    ReadError,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.transports import libvirt as session
from support.libvirt_in_memory import Connection, Host, Library, libvirtError


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Iterator[Library]:
    made = Library(Host())
    monkeypatch.setitem(sys.modules, "libvirt", made)  # type: ignore[arg-type]
    monkeypatch.setattr(session, "RESTART_PATIENCE", 0.0)
    session.close()
    yield made
    session.close()


@pytest.mark.parametrize(
    ("code", "domain", "kind"),
    [
        (Library.VIR_ERR_AUTH_FAILED, 0, AuthenticateError),
        (Library.VIR_ERR_NO_CONNECT, 0, ConnectError),
        (Library.VIR_ERR_RPC, 0, ConnectError),
        (Library.VIR_ERR_SYSTEM_ERROR, Library.VIR_FROM_RPC, ConnectError),
        (Library.VIR_ERR_INTERNAL_ERROR, Library.VIR_FROM_RPC, ConnectError),
        (Library.VIR_ERR_SYSTEM_ERROR, 10, ApplyError),
        (Library.VIR_ERR_INTERNAL_ERROR, 10, ApplyError),
    ],
)
def test_an_exception_becomes_the_one_of_its_phase(library: Library, code: int, domain: int, kind: type) -> None:
    with (
        pytest.raises(kind, match="VM 'a' cannot be started: out of luck today") as caught,
        session.translated("VM 'a' cannot be started"),
    ):
        raise libvirtError("out of luck\n  today", code, domain)
    assert type(caught.value) is kind


def test_there_is_one_connection_and_a_new_one_where_it_broke(library: Library) -> None:
    first = session.connection()
    assert session.connection() is first
    first.isAlive = lambda: False
    assert session.connection() is not first
    assert library.opened == 2


def test_reading_goes_on_over_a_new_connection_when_the_daemon_was_restarted(library: Library) -> None:
    seen: list[Connection] = []

    def ask(connection: Any) -> str:
        seen.append(connection)
        if len(seen) == 1:
            raise libvirtError("Cannot write data: Broken pipe", Library.VIR_ERR_SYSTEM_ERROR, Library.VIR_FROM_RPC)
        return "told"

    assert session.read(ask, "it cannot be read") == "told"
    assert seen[0] is not seen[1]


def test_reading_is_not_tried_again_for_other_reasons(library: Library) -> None:
    asked = []

    def ask(connection: Any) -> None:
        asked.append(connection)
        raise libvirtError("no", 10)

    with pytest.raises(ReadError, match="it cannot be read: no"):
        session.read(ask, "it cannot be read")
    assert len(asked) == 1


def test_a_daemon_that_is_away_is_said(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(_uri: str) -> Any:
        raise libvirtError("Failed to connect socket", Library.VIR_ERR_SYSTEM_ERROR, Library.VIR_FROM_RPC)

    monkeypatch.setattr(library, "open", away)
    with pytest.raises(ConnectError, match="libvirt at qemu:///system cannot be reached: Failed to connect socket"):
        session.connection()


def test_a_host_without_the_library_is_told_which_package_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    session.close()
    monkeypatch.setitem(sys.modules, "libvirt", None)
    with pytest.raises(ConnectError) as caught:
        session.connection()
    assert "python3-libvirt" in caught.value.sentence()
