# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Looks at a lab host's networks from outside: from another server on the same wire, in network namespaces of its own.

Each command prints one JSON object. Standard library only, since it is copied to a server and run there as root.
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import time


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a command and return what it printed, whatever its exit status."""
    return subprocess.run(words, capture_output=True, text=True, check=False)


def must(*words: str) -> None:
    """Run a command that has to succeed."""
    done = run(*words)
    if done.returncode:
        sys.exit(f"{' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")


def vlan(arguments: argparse.Namespace) -> dict[str, object]:
    """Make a namespace whose only interface is a VLAN of a wire, with the addresses given."""
    name, device = arguments.namespace, f"v{arguments.id}"
    run("ip", "netns", "delete", name)
    must("ip", "link", "set", arguments.parent, "up")
    must("ip", "netns", "add", name)
    must(
        "ip",
        "link",
        "add",
        "link",
        arguments.parent,
        "name",
        device,
        "netns",
        name,
        "type",
        "vlan",
        "id",
        str(arguments.id),
    )
    inside = ("ip", "-n", name)
    for address in arguments.addresses:
        must(*inside, "address", "add", address, "dev", device, *(("nodad",) if ":" in address else ()))
    must(*inside, "link", "set", "lo", "up")
    must(*inside, "link", "set", device, "up")
    return {"namespace": name, "device": device}


def reaches(arguments: argparse.Namespace) -> dict[str, object]:
    """Ping an address and tell how many answers came."""
    done = run(
        "ip", "netns", "exec", arguments.namespace, "ping", "-n", "-c", "4", "-i", "0.5", "-W", "2", arguments.address
    )
    received = next((line for line in done.stdout.splitlines() if "received" in line), "")
    return {
        "received": int(received.split(" received")[0].rsplit(" ", 1)[-1]) if received else 0,
        "said": done.stdout[-400:],
    }


def scan(arguments: argparse.Namespace) -> dict[str, object]:
    """Connect to every TCP port of a range from inside a namespace and list those that answer."""
    if arguments.namespace:
        done = run("ip", "netns", "exec", arguments.namespace, sys.executable, __file__, "scan", "", *arguments.rest())
        if done.returncode:
            sys.exit(done.stderr)
        return json.loads(done.stdout)
    opened, refused = [], []
    family = socket.AF_INET6 if ":" in arguments.address else socket.AF_INET
    for first in range(arguments.first, arguments.last + 1, 256):
        waiting = {}
        for port in range(first, min(first + 256, arguments.last + 1)):
            client = socket.socket(family)
            client.setblocking(False)
            client.connect_ex((arguments.address, port))
            waiting[port] = client
        time.sleep(arguments.wait)
        for port, client in waiting.items():
            error = client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            try:
                client.getpeername()
                opened.append(port)
            except OSError:
                if error:
                    refused.append(port)
            client.close()
    return {"open": opened, "refused": refused}


def sniff(arguments: argparse.Namespace) -> dict[str, object]:
    """Count the IPv4 and ARP frames from one source address that arrive on a wire with a VLAN tag or without."""
    wanted = socket.inet_aton(arguments.source)
    receiver = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))
    receiver.bind((arguments.device, 0))
    receiver.settimeout(0.5)
    end = time.monotonic() + arguments.seconds
    frames = matching = 0
    while time.monotonic() < end:
        try:
            frame = receiver.recv(2048)
        except TimeoutError:
            continue
        frames += 1
        start = 18 if frame[12:14] == b"\x81\x00" else 14
        kind = frame[start - 2 : start]
        # The sender's address in an IPv4 header (RFC 791) and in an ARP packet (RFC 826).
        offset = {b"\x08\x00": 12, b"\x08\x06": 14}.get(kind)
        if offset is not None and frame[start + offset : start + offset + 4] == wanted:
            matching += 1
    return {"frames": frames, "from_source": matching}


def main() -> None:
    """Run one command and print its result."""
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("vlan")
    one.add_argument("namespace")
    one.add_argument("parent")
    one.add_argument("id", type=int)
    one.add_argument("addresses", nargs="*")
    one.set_defaults(function=vlan)
    one = commands.add_parser("reaches")
    one.add_argument("namespace")
    one.add_argument("address")
    one.set_defaults(function=reaches)
    one = commands.add_parser("scan")
    one.add_argument("namespace")
    one.add_argument("address")
    one.add_argument("first", type=int)
    one.add_argument("last", type=int)
    one.add_argument("wait", type=float, nargs="?", default=1.5)
    one.set_defaults(function=scan)
    one = commands.add_parser("sniff")
    one.add_argument("device")
    one.add_argument("source")
    one.add_argument("seconds", type=float)
    one.set_defaults(function=sniff)
    arguments = parser.parse_args()
    if arguments.command == "scan":
        arguments.rest = lambda: [arguments.address, str(arguments.first), str(arguments.last), str(arguments.wait)]
    print(json.dumps(arguments.function(arguments)))


if __name__ == "__main__":
    main()
