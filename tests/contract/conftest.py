# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Gives every case a peer of every platform that can do what the case asks for, and lists what is not supported."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from .contract_cases import fields_of, load_cases, needed_capabilities
from .peers import PEERS, MemoryPeer

NOT_SUPPORTED: list[tuple[str, str, list[str]]] = []


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one test of each case and platform; a case that a platform declares not to support is none of its tests."""
    if "case" not in metafunc.fixturenames:
        return
    parameters = []
    # Every platform's cases are in one row, so that its peer is made once.
    for platform, cls in PEERS.items():
        for case in load_cases():
            # The facts of the peer in memory will do here: names and checksums do not decide about abilities.
            missing = needed_capabilities(case, MemoryPeer().facts()) - cls.capabilities
            missing |= fields_of(case) & cls.without
            if missing:
                NOT_SUPPORTED.append((platform, f"{case['kind']}: {case['name']}", sorted(missing)))
                continue
            marks = [pytest.mark.real] if cls.ran_against == "real" else []
            name = f"{platform}-{case['kind']}: {case['name']}"
            parameters.append(pytest.param(platform, case, id=name, marks=marks))
    metafunc.parametrize(("peer", "case"), parameters, indirect=["peer"])


@pytest.fixture(scope="module")
def peer(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A host of the platform that the test is for."""
    made = PEERS[request.param]()
    yield made
    made.close()


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker of tests that need a real host."""
    config.addinivalue_line("markers", "real: runs against a real host")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print which cases a platform does not support; they are no tests of it, so they are not skipped either."""
    if not NOT_SUPPORTED:
        return
    terminalreporter.section("contract: not supported")
    for platform, case, missing in sorted({(p, c, ", ".join(m)) for p, c, m in NOT_SUPPORTED}):
        terminalreporter.write_line(f"{platform:10} {case}: {missing}")
