# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The virtual wires: one switch in user space that every uplink of the lab's servers is plugged into.

QEMU's ``dgram`` netdev sends each frame as one datagram from its own Unix socket. This process is the other end of all
of them: a learning switch all of whose ports are trunks (frames travel with their tags untouched, MAC addresses are
learned for each VLAN). Datagram sockets have no connection: either side may restart, and frames flow again. A test can
plug in as well, by binding a socket of its own in the folder:

    NAME.port      is a port of the switch: what it sends to ``switch`` enters there
    NAME.monitor   gets a copy of every frame that enters the switch
"""

from __future__ import annotations

import collections
import contextlib
import os
import selectors
import signal
import socket
import sys
import time
from pathlib import Path

SWITCH = "switch"
PORT = ".port"
MONITOR = ".monitor"
LONGEST_FRAME = 65536
AGEING_SECONDS = 300.0
QUEUE_FRAMES = 2000


def port_socket(folder: Path, server: str, uplink: int) -> Path:
    """Return the socket that uplink number ``uplink`` of ``server`` is bound to."""
    return folder / f"{server}-{uplink}{PORT}"


def vlan_of(frame: bytes) -> int:
    """Return the VLAN id of the frame's outer 802.1Q or 802.1ad tag, 0 if there is none (IEEE 802.1Q-2018, 9.6)."""
    if frame[12:14] in (b"\x81\x00", b"\x88\xa8") and len(frame) >= 16:
        return int.from_bytes(frame[14:16], "big") & 0xFFF
    return 0


class AddressTable:
    """Which port each MAC address was last seen on, for each VLAN."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, bytes], tuple[str, float]] = {}

    def learn(self, vlan: int, address: bytes, port: str, now: float) -> None:
        """Note that ``address`` sent from ``port``; group addresses (first bit set) are never a source."""
        if not address[0] & 1:
            self._seen[vlan, address] = (port, now)

    def lookup(self, vlan: int, address: bytes, now: float) -> str | None:
        """Return the port of ``address``, None if it is a group address or unknown for 300 s (then it is flooded)."""
        port, when = self._seen.get((vlan, address), (None, 0.0))
        return port if port is not None and now - when < AGEING_SECONDS else None


class _Outlet:
    """The sending side towards one port, with the frames that its reader has not taken yet."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket: socket.socket | None = None
        self._waiting: collections.deque[bytes] = collections.deque(maxlen=QUEUE_FRAMES)

    def send(self, frame: bytes) -> None:
        self._waiting.append(frame)
        self.flush()

    def flush(self) -> None:
        while self._waiting:
            try:
                if self._socket is None:
                    self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                    self._socket.setblocking(False)
                    self._socket.connect(str(self._path))
                self._socket.send(self._waiting[0])
            except BlockingIOError:
                return
            except OSError:
                # Nobody is bound there (any more), or a new process is: the cable was pulled, the frames are lost.
                self.close()
                return
            self._waiting.popleft()

    @property
    def blocked(self) -> socket.socket | None:
        return self._socket if self._waiting else None

    def close(self) -> None:
        self._waiting.clear()
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class Switch:
    """The switch itself; ``forward`` is all it does with a frame."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._addresses = AddressTable()
        self._outlets: dict[str, _Outlet] = {}
        self._looked = 0.0

    def plugged(self, now: float) -> dict[str, _Outlet]:
        """Return the outlets of all sockets in the folder; the folder is read at most once a second."""
        if now - self._looked >= 1.0:
            self._looked = now
            names = {entry.name for entry in os.scandir(self._folder) if entry.name.endswith((PORT, MONITOR))}
            for name in names - self._outlets.keys():
                self._outlets[name] = _Outlet(self._folder / name)
            for name in self._outlets.keys() - names:
                self._outlets.pop(name).close()
        return self._outlets

    def forward(self, frame: bytes, source: str, now: float) -> None:
        """Send ``frame``, which entered at port ``source``, to the port of its destination or to all other ports."""
        if len(frame) < 14:
            return
        outlets = self.plugged(now)
        vlan = vlan_of(frame)
        self._addresses.learn(vlan, frame[6:12], source, now)
        target = self._addresses.lookup(vlan, frame[0:6], now)
        for name, outlet in outlets.items():
            wanted = name == target or (target is None and name != source)
            if name.endswith(MONITOR) or (wanted and name != source):
                outlet.send(frame)

    def flush(self) -> list[socket.socket]:
        """Send what waits, and return the sockets whose reader is still behind."""
        for outlet in self._outlets.values():
            outlet.flush()
        return [outlet.blocked for outlet in self._outlets.values() if outlet.blocked is not None]


def serve(folder: Path) -> None:
    """Run the switch on the folder until SIGTERM."""
    stopping = False

    def on_term(_number: int, _frame: object) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, on_term)
    address = folder / SWITCH
    with contextlib.suppress(FileNotFoundError):
        address.unlink()
    inlet = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    inlet.bind(str(address))
    inlet.setblocking(False)
    switch = Switch(folder)
    while not stopping:
        behind = switch.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(inlet, selectors.EVENT_READ)
            for outlet in behind:
                selector.register(outlet, selectors.EVENT_WRITE)
            selector.select(timeout=1.0)
        now = time.monotonic()
        for _ in range(256):
            try:
                frame, sender = inlet.recvfrom(LONGEST_FRAME)
            except BlockingIOError:
                break
            # A socket that is not bound has no name, so no port to have come from.
            if sender:
                switch.forward(frame, os.path.basename(os.fsdecode(sender)), now)
    address.unlink(missing_ok=True)


if __name__ == "__main__":
    # argv[2] is the pid file: it is there so that the process can be known again by its command line.
    serve(Path(sys.argv[1]))
