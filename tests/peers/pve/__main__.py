# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A peer as a process of its own, for those who are not Python: `python -m peers.pve start FOLDER`, and `stop FOLDER`.

FOLDER then holds `pid`, `node.json` (how the node is reached), the certificate, `log`, and `violations`, a line of JSON for every
request that does not fit the API's description.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from fakepve.certs import make_cert

from .peer import PvePeer
from .serving import HOST

START_TIMEOUT = 30.0
STOP_TIMEOUT = 10.0
LOOK_EVERY = 1.0


class WritingPeer(PvePeer):
    """A peer that writes down at once what does not fit the API's description."""

    def __init__(self, violations: Path, **options: Any) -> None:
        super().__init__(**options)
        self.violations = Lines(violations)


class Lines(list[Any]):
    """A list that is kept in a file too, a line of JSON for each element."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        path.touch()

    def append(self, element: Any) -> None:
        """Add an element, in the file first."""
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(element) + "\n")
        super().append(element)


async def serve(folder: Path) -> None:
    """Serve until SIGTERM arrives or the folder is removed; `node.json` is there as soon as the peer answers."""
    certificate, key, _der = make_cert(str(folder), hosts=(HOST,))
    password = secrets.token_urlsafe(24)
    peer = WritingPeer(folder / "violations", host=HOST, port=0, password=password)
    await peer.start(certificate, key)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    reached = {"host": HOST, "port": peer.port, "user": peer.user, "password": password, "ca_file": certificate}
    written = folder / "node.json.new"
    with os.fdopen(os.open(written, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        json.dump(reached, stream)
    written.rename(folder / "node.json")
    while not ended.is_set() and (folder / "node.json").exists():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), LOOK_EVERY)
    await peer.stop()


def start(folder: Path) -> None:
    """Start a peer, unless it runs, and return when it answers. Raises SystemExit with its last words where it does not."""
    if _process(folder) is not None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    for left in ("node.json", "node.json.new", "violations"):
        (folder / left).unlink(missing_ok=True)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "peers.pve", "serve", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    (folder / "pid").write_text(f"{process.pid}\n", encoding="ascii")
    end = time.monotonic() + START_TIMEOUT
    while not (folder / "node.json").exists():
        if process.poll() is not None or time.monotonic() > end:
            stop(folder)
            words = (folder / "log").read_text(encoding="utf-8", errors="replace").strip()
            sys.exit(f"the peer does not answer after {START_TIMEOUT:.0f} s: {words[-500:] or 'it said nothing'}")
        time.sleep(0.05)


def stop(folder: Path) -> None:
    """End a peer that was started in a folder, and return when it is gone."""
    number = _process(folder)
    if number is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGTERM)
        end = time.monotonic() + STOP_TIMEOUT
        while _process(folder) is not None:
            if time.monotonic() > end:
                os.kill(number, signal.SIGKILL)
            time.sleep(0.05)
    (folder / "pid").unlink(missing_ok=True)


def _process(folder: Path) -> int | None:
    """Return the process that the folder names, if it still is the one that was started there."""
    try:
        number = int((folder / "pid").read_text(encoding="ascii"))
        words = Path(f"/proc/{number}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return None
    return number if words[-3:-1] == [b"serve", os.fsencode(folder)] else None


def main() -> None:
    """Run a command."""
    parser = argparse.ArgumentParser(prog="peers.pve", description="A simulated node of Proxmox VE on 127.0.0.1.")
    parser.add_argument("command", choices=("start", "stop", "serve"))
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    if arguments.command == "serve":
        asyncio.run(serve(folder))
    else:
        {"start": start, "stop": stop}[arguments.command](folder)


if __name__ == "__main__":
    main()
