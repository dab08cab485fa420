# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""fakepve with our stateful handlers, and the check of every request against the API's description."""

from __future__ import annotations

import urllib.parse
from typing import Any

from fakepve import schema, server
from fakepve.server import API, FakePve, error

from .access import AccessState
from .guests import GuestState
from .network import NetworkState
from .node import NodeState

_read_params = server.params


async def params(request: Any) -> Any:
    """Return the parameters of a request; empty ones too, which fakepve drops and pveproxy hands on."""
    found = await _read_params(request)
    if request.content_type == "application/x-www-form-urlencoded":
        for name, value in urllib.parse.parse_qsl((await request.read()).decode(), keep_blank_values=True):
            found.setdefault(name, value)
    return found


server.params = params


class PvePeer(NodeState, NetworkState, AccessState, GuestState, FakePve):
    """One node of Proxmox VE with everything that the tests need state for.

    violations: (method, path, errors) of every request that does not fit the API's description.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.violations: list[tuple[str, str, Any]] = []
        self.setup_network()
        self.setup_access()
        self.setup_node()
        self.setup_guests()

    async def _answer(self, request: Any, handler: Any, generic: Any, path_node: Any) -> Any:
        # fakepve leaves some of its hand-written handlers unchecked.
        match = self._method_of(request)
        info = match.methods.get(request.method) if match is not None else None
        if info is None:
            self.violations.append((request.method, request.path, "no such method"))
        elif "multipart" not in request.content_type:
            values = {**await params(request), **match.params}
            declared = (info.get("parameters") or {}).get("properties", {})
            values = {name: value for name, value in values.items() if name in declared or name not in match.params}
            _checked, errors = schema.validate(info.get("parameters"), values)
            if errors:
                self.violations.append((request.method, request.path, errors))
                return error(400, "Parameter verification failed.", errors)
        response = await super()._answer(request, handler, generic, path_node)
        if request.method == "GET" and match is not None and match.template == "/nodes/{node}/network":
            return self.with_changes(response)
        return response

    @staticmethod
    def _method_of(request: Any) -> Any:
        """Return the method's description; a part of the path may hold a slash, as the names of volumes do."""
        raw = request.rel_url.raw_path.removeprefix(API).split("/")
        match = schema.load().match("/".join(urllib.parse.unquote(part).replace("/", "\0") for part in raw))
        if match is not None:
            match.params = {name: value.replace("\0", "/") for name, value in match.params.items()}
        return match

    def sent(self, *methods: str) -> list[tuple[str, str, Any]]:
        """Return the requests so far, those of the methods that are named, without the API's prefix."""
        return [
            (method, path.removeprefix(API), body)
            for method, path, body in self.requests
            if not methods or method in methods
        ]
