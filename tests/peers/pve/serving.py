# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs a peer on 127.0.0.1, in a thread of its own."""

from __future__ import annotations

import asyncio
import copy
import functools
import hashlib
import ssl
import tempfile
import threading
from pathlib import Path
from typing import Any

from aiohttp import web
from fakepve.certs import make_cert

from .peer import PvePeer

HOST = "127.0.0.1"
OF_THE_SERVER = ("runner", "port", "host", "_random", "_pids", "_ct_pids")
START_TIMEOUT = 30


@functools.cache
def certificate() -> tuple[str, str]:
    """Return the paths of a certificate for 127.0.0.1 and of its key, made once a process."""
    folder = tempfile.mkdtemp(prefix="bareforge-pve-peer-")
    files = make_cert(folder, hosts=(HOST,))
    return str(files[0]), str(files[1])


def fingerprint() -> str:
    """Return the SHA-256 fingerprint of the certificate as 64 hexadecimal digits."""
    text = Path(certificate()[0]).read_text(encoding="ascii")
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(text)).hexdigest()


class Serving:
    """A peer that answers at `https://127.0.0.1:PORT`."""

    def __init__(self, peer: PvePeer | None = None) -> None:
        self.peer = peer or PvePeer(host=HOST, port=0)
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._run, name="pve-peer", daemon=True)
        self.thread.start()
        self.call(self.peer.start(*certificate()))

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def call(self, coroutine: Any) -> Any:
        """Run a coroutine on the peer's loop and return its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(START_TIMEOUT)

    def reset(self) -> None:
        """Make the peer what a new one is, at the same address."""
        self._take_over(PvePeer(host=HOST, port=self.peer.port).__dict__)

    def saved(self) -> dict[str, Any]:
        """Return the peer's state, for :meth:`restore`."""
        return copy.deepcopy({name: value for name, value in self.peer.__dict__.items() if name not in OF_THE_SERVER})

    def restore(self, state: dict[str, Any]) -> None:
        """Bring the peer back to a state."""
        self._take_over(copy.deepcopy(state))

    def _take_over(self, state: dict[str, Any]) -> None:
        kept = {name: self.peer.__dict__[name] for name in OF_THE_SERVER if name in self.peer.__dict__}

        async def take_over() -> None:
            self.peer.__dict__.clear()
            self.peer.__dict__.update({**state, **kept})

        self.call(take_over())

    @property
    def settings(self) -> dict[str, Any]:
        """How the peer is reached, as `ConnectionSettings` has it."""
        return {
            "host": HOST,
            "port": self.peer.port,
            "user": self.peer.user,
            "password": self.peer.password,
            "ca_file": certificate()[0],
            "validate_certs": True,
            "timeout": 30,
        }

    def add_node(self, name: str) -> int:
        """Add a node to the cluster, and return the port at which it answers itself."""
        self.peer.add_node(name)
        known = next((port for port, node in self.peer.__dict__["ports"].items() if node == name), None)
        return known or int(self.call(self._listen(name)))

    async def _listen(self, name: str) -> int:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*certificate())
        before = set(self.peer.runner.addresses)
        await web.TCPSite(self.peer.runner, HOST, 0, ssl_context=context).start()
        port = next(address[1] for address in self.peer.runner.addresses if address not in before)
        self.peer.ports[port] = name
        return int(port)

    def close(self) -> None:
        """End it."""
        self.call(self.peer.stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(START_TIMEOUT)
        self.loop.close()
