# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The host in memory behind HTTP, and a platform that reaches it there: what an API platform is like, for the fault harness."""

from __future__ import annotations

import contextlib
import http.client
import pickle
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Collection, ContextManager, Mapping, Sequence, Tuple, Type

from ansible_collections.bareforge.hypervisor.plugins.module_utils.engine.change import Change
from ansible_collections.bareforge.hypervisor.plugins.module_utils.engine.platform import Context, Platform
from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import (
    ApplyError,
    AuthenticateError,
    BareforgeError,
    ConnectError,
    ReadError,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.document import State

from .memory_platform import MemoryHost, MemoryInterface, MemoryPlatform


class HttpHost:
    """Serves a host in memory on 127.0.0.1; `host` can be exchanged."""

    def __init__(self) -> None:
        self.host = MemoryHost()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                try:
                    answer, status = outer.carry_out(self.path, pickle.loads(body)), 200  # noqa: S301 - our own
                except BareforgeError as error:
                    answer, status = error.message, 409
                data = pickle.dumps(answer)
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_arguments: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address: Tuple[str, int] = ("127.0.0.1", self.server.server_port)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def carry_out(self, path: str, asked: Any) -> Any:
        """Do what a request asks for."""
        platform = MemoryPlatform(self.host)
        if path == "/read":
            return platform.read(*asked)
        if path == "/recover":
            return platform.recover()
        interface = platform.owner(asked.kind)
        return interface._make(asked)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class HttpInterface(MemoryInterface):
    """Reads and changes the kinds of one part of a host over HTTP."""

    def __init__(self, platform: HttpPlatform) -> None:
        self.host = MemoryHost()
        self.session = platform

    def read(self, kinds: Collection[str], names: Mapping[str, Collection[str]]) -> State:
        state: State = self.session.ask("/read", (list(kinds), dict(names)), ReadError)
        return state

    def apply(self, changes: Sequence[Change], context: Context) -> None:
        for change in changes:
            context.begin(change)
            self.session.ask("/change", change, ApplyError)
            context.done(change)


class HttpPlatform(Platform):
    """A platform that is reached over HTTP, a request for each step."""

    NAME = "http"
    INTERFACES: ClassVar[Tuple[Type[Any], ...]] = tuple(
        type(cls.__name__, (HttpInterface,), {"KINDS": cls.KINDS, "CAPABILITIES": cls.CAPABILITIES})
        for cls in MemoryPlatform.INTERFACES
    )

    def __init__(self, address: Tuple[str, int]) -> None:
        self.connection = http.client.HTTPConnection(*address, timeout=10)
        super().__init__({})

    def lock(self) -> ContextManager[None]:
        return contextlib.nullcontext()

    def recover(self) -> None:
        self.ask("/recover", None, ApplyError)

    def ask(self, path: str, asked: Any, otherwise: Type[BareforgeError]) -> Any:
        """Send a request and return the answer. Raises ConnectError, AuthenticateError, or what is said for the rest."""
        try:
            self.connection.request("POST", path, pickle.dumps(asked))
            response = self.connection.getresponse()
            body = response.read()
            # An answer that is cut off in its head looks whole to http.client, with nothing in it.
            if response.length is None and response.getheader("Content-Length") is None:
                raise http.client.IncompleteRead(body)
        except (OSError, http.client.HTTPException) as error:
            self.connection.close()
            raise ConnectError(f"{path[1:]}: the connection broke: {type(error).__name__}") from error
        if response.status == 401:
            raise AuthenticateError(f"{path[1:]}: the host refuses our credentials")
        if response.status == 409:
            raise otherwise(str(pickle.loads(body)))  # noqa: S301 - our own
        if response.status != 200:
            raise otherwise(f"{path[1:]}: the host answers {response.status} {response.reason}")
        return pickle.loads(body)  # noqa: S301 - our own

    def close(self) -> None:
        self.connection.close()
