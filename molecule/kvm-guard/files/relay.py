# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Carries standard input and output over TCP, from an own address: relay.py OWN HOST PORT."""

from __future__ import annotations

import os
import selectors
import socket
import sys


def main(own: str, host: str, port: str) -> None:
    """Connect and carry bytes both ways until one side ends."""
    peer = socket.create_connection((host, int(port)), timeout=10, source_address=(own, 0))
    peer.settimeout(None)
    with selectors.DefaultSelector() as ready:
        ready.register(0, selectors.EVENT_READ)
        ready.register(peer, selectors.EVENT_READ)
        while True:
            for key, _events in ready.select():
                data = os.read(0, 65536) if key.fileobj == 0 else peer.recv(65536)
                if not data:
                    return
                if key.fileobj == 0:
                    peer.sendall(data)
                else:
                    _write_all(data)


def _write_all(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]


if __name__ == "__main__":
    main(*sys.argv[1:])
