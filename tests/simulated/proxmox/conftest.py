# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A node of Proxmox VE for each test, that fakepve and our handlers play."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.engine.runner import Request, gather, run
from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import ValidateError
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.document import Document
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.operation import Operation
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.proxmox.platform import ProxmoxPlatform
from peers.pve import PvePeer, Serving


class Node:
    """The node, and what a user does with it.

    peer: the state behind the API. settings: how it is reached. requests: how many the last task took.
    ask_host: what the platform reaches the node by for a guard, or None.
    """

    def __init__(self, serving: Serving, folder: Path) -> None:
        self.serving = serving
        self.peer: PvePeer = serving.peer
        self.settings: dict[str, Any] = {**serving.settings, "session_folder": str(folder)}
        self.requests = 0
        self.ask_host: Any = None

    def platform(self, **settings: Any) -> ProxmoxPlatform:
        """Return a new session's platform."""
        platform = ProxmoxPlatform({**self.settings, **settings})
        platform.ask_host = self.ask_host
        return platform

    def apply(self, document: Any, exact: Any = (), check: bool = False, **operation: Any) -> Any:
        """Apply a document as a task does, without a guard unless one is asked for."""
        options = {"guard": {"enabled": False}, "shutdown_timeout": 0, **operation}
        platform = self.platform()
        try:
            return run(platform, Request(Document.parse(document, list(exact)), Operation.parse(options), check))
        finally:
            self.requests = platform.session.requests
            platform.close()

    def settle(self, document: Any, **operation: Any) -> Any:
        """Apply a document, whose plan must be what is done, and once more, which must change nothing."""
        planned = self.apply(document, check=True, **operation)
        done = self.apply(document, **operation)
        assert planned["changes"] == done["changes"]
        assert self.apply(document, **operation)["changes"] == []
        return done

    def gather(self, *kinds: str) -> Any:
        """Return what a new session gathers."""
        platform = self.platform()
        try:
            return gather(platform, kinds)
        finally:
            platform.close()

    def problems(self, document: Any, check: bool = False, **operation: Any) -> dict[str, str]:
        """Return what a document is refused for; nothing may have been sent by then that changes anything."""
        before = len(self.peer.sent("POST", "PUT", "DELETE"))
        with pytest.raises(ValidateError) as caught:
            self.apply(document, check=check, **operation)
        written = [
            request for request in self.peer.sent("POST", "PUT", "DELETE")[before:] if request[1] != "/access/ticket"
        ]
        assert written == []
        return {problem.path: problem.message for problem in caught.value.problems}

    def written(self, since: int = 0) -> list[tuple[str, str]]:
        """Return the requests that changed something."""
        return [
            (method, path)
            for method, path, _body in self.peer.sent("POST", "PUT", "DELETE")[since:]
            if path != "/access/ticket"
        ]

    def vm(self, name: str) -> Any:
        """Return a VM of the peer by its name."""
        return next(vm for vm in self.peer.vms if vm.name == name)


@pytest.fixture(scope="session")
def serving() -> Iterator[Serving]:
    """The server, whose state every test begins anew."""
    made = Serving()
    yield made
    made.close()


@pytest.fixture
def node(serving: Serving, tmp_path: Path) -> Iterator[Node]:
    """A fresh node, of whose requests none may be outside the API's description."""
    serving.reset()
    yield Node(serving, tmp_path)
    assert serving.peer.violations == []
