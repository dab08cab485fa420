# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Carries the connections of a migration from one host to another through SSH: run by systemd, and by sshd.

The source of this module is copied to both hosts, so it imports nothing but the standard library.

`serve FILE` listens where the JSON in FILE says and carries each connection on. FILE holds a list of `{"at", "to"}`.
`at` is `{"unix": path, "uid": owner}` or `{"port": number}` on 127.0.0.1; `to` is one of
`{"run": argv}`, a program that is given the connection as its standard input and output,
`{"unix": path}` or `{"port": number}`, where it is connected to,
`{"file": path, "device": bool}`, which is written, and is whole once as many bytes have come as the first eight say.

`connect FOLDER` is what sshd runs for whoever has the key: it carries standard input and output to the socket in FOLDER
that is named in SSH_ORIGINAL_COMMAND.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
from typing import Any, Dict, List

BLOCK = 256 * 1024
WORD = re.compile(r"[a-z]+(-[0-9]+)?")
INCOMING = ".incoming"


def copy(source: int, target: int) -> None:
    """Copy from one file descriptor to another until the first ends."""
    while True:
        data = os.read(source, BLOCK)
        if not data:
            return
        view = memoryview(data)
        while view:
            view = view[os.write(target, view) :]


def carry(there: socket.socket, source: int, target: int) -> None:
    """Carry what comes from source to a connection and what comes from that to target, until both have ended."""

    def forth() -> None:
        try:
            copy(source, there.fileno())
        except OSError:
            pass
        finally:
            shut(there, socket.SHUT_WR)

    thread = threading.Thread(target=forth, daemon=True)
    thread.start()
    try:
        copy(there.fileno(), target)
    except OSError:
        pass


def shut(connection: socket.socket, how: int) -> None:
    """Say that no more comes, or is wanted; the other side may have gone already."""
    try:
        connection.shutdown(how)
    except OSError:
        pass


def connect(folder: str, word: str) -> int:
    """Carry standard input and output to the socket of a word; return the exit status."""
    if not WORD.fullmatch(word):
        sys.stderr.write("this key is for a migration of Bareforge only\n")
        return 2
    with socket.socket(socket.AF_UNIX) as there:
        there.connect(os.path.join(folder, f"{word}.sock"))
        carry(there, 0, 1)
    return 0


def receive(connection: socket.socket, path: str, device: bool) -> None:
    """Write what comes into a file, under another name until it is whole, or into a device; and answer once it is safe."""
    with connection.makefile("rb") as stream:
        length = int.from_bytes(stream.read(8), "big")
        place = path if device else f"{path}{INCOMING}"
        flags = os.O_WRONLY if device else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        with open(os.open(place, flags, 0o600), "wb") as file:
            left = length
            while left:
                data = stream.read(min(BLOCK, left))
                if not data:
                    return
                left -= len(data)
                if device or data.strip(b"\0"):
                    file.write(data)
                else:
                    file.seek(len(data), os.SEEK_CUR)
            if not device:
                file.truncate(length)
            file.flush()
            os.fsync(file.fileno())
        if not device:
            os.rename(place, path)
        connection.sendall(b"whole")


def attend(connection: socket.socket, to: Dict[str, Any]) -> None:
    """Do with a connection what is said of it."""
    with connection:
        if "run" in to:
            subprocess.run(to["run"], stdin=connection.fileno(), stdout=connection.fileno(), check=False)
        elif "file" in to:
            receive(connection, to["file"], bool(to.get("device")))
        else:
            family = socket.AF_UNIX if "unix" in to else socket.AF_INET
            with socket.socket(family) as there:
                there.connect(to["unix"] if "unix" in to else ("127.0.0.1", to["port"]))
                carry(there, connection.fileno(), connection.fileno())
        shut(connection, socket.SHUT_RDWR)


def listener(at: Dict[str, Any]) -> socket.socket:
    """Return a socket that listens."""
    if "port" in at:
        return socket.create_server(("127.0.0.1", at["port"]))
    server = socket.socket(socket.AF_UNIX)
    os.umask(0o077)
    server.bind(at["unix"])
    os.chown(at["unix"], at["uid"], -1)
    server.listen()
    return server


def tell_systemd() -> None:
    """Say that all sockets are there (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as there:
            there.connect(f"\0{address[1:]}" if address.startswith("@") else address)
            there.sendall(b"READY=1")


def serve(entries: List[Dict[str, Any]]) -> None:
    """Listen, and attend to every connection; returns never."""

    def accept(server: socket.socket, to: Dict[str, Any]) -> None:
        while True:
            connection, _address = server.accept()
            threading.Thread(target=attend, args=(connection, to), daemon=True).start()

    threads = [threading.Thread(target=accept, args=(listener(entry["at"]), entry["to"])) for entry in entries]
    for thread in threads:
        thread.start()
    tell_systemd()
    for thread in threads:
        thread.join()


def main(arguments: List[str]) -> int:
    """Run as a program."""
    mode, path = arguments
    if mode == "connect":
        return connect(path, os.environ.get("SSH_ORIGINAL_COMMAND", ""))
    with open(path, encoding="utf-8") as file:
        serve(json.load(file))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
