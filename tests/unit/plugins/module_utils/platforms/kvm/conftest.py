# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later


from __future__ import annotations

from collections.abc import Iterator

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm import renderer_of_host


@pytest.fixture(autouse=True)
def no_network_manager(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the machine that the tests run on be a host of systemd-networkd, whatever keeps its own interfaces."""
    monkeypatch.setattr(renderer_of_host, "NETWORK_MANAGER_RUNS", "/nonexistent")
    yield
    getattr(renderer_of_host.renderer, "cache_clear", lambda: None)()
