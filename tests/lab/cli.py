# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The lab's commands."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from lab import images, inventory, prerequisites, topology
from lab.accelerator import accelerator
from lab.errors import LabError
from lab.processes import progress
from lab.topology import Lab


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lab", description="Servers under QEMU for the demo, molecule and the benchmarks."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    needs = commands.add_parser(
        "prerequisites", help="list the Debian packages that the lab needs and the machine has not"
    )
    needs.add_argument("--install", action="store_true", help="install them")
    image = commands.add_parser("image", help="build images into the cache and print their paths")
    image.add_argument("names", nargs="+", metavar="NAME", help=f"one of {', '.join(images.recipe_names())}")
    commands.add_parser("accelerator", help="print kvm or tcg")

    up = commands.add_parser("up", help="start servers and wait until they answer SSH")
    up.add_argument("names", nargs="+", metavar="NAME")
    up.add_argument("--image", help=f"{' or '.join(topology.SERVER_IMAGES)} (default: {topology.DEFAULT_IMAGE})")
    up.add_argument("--memory", type=int, metavar="MiB", help=f"default: {topology.DEFAULT_MEMORY}")
    up.add_argument("--wires", type=int, metavar="N", help=f"number of uplinks (default: {topology.DEFAULT_WIRES})")
    up.add_argument(
        "--fresh", action="store_true", help="throw its disks away; goes on from the cached state of its first boot"
    )
    up.add_argument("--cold", action="store_true", help="boot instead of going on from a cached state")

    down = commands.add_parser("down", help="shut servers down, all if none is named")
    down.add_argument("names", nargs="*", metavar="NAME")
    down.add_argument("--now", action="store_true", help="pull the plug")
    destroy = commands.add_parser("destroy", help="switch servers off and remove them, all if none is named")
    destroy.add_argument("names", nargs="*", metavar="NAME")
    destroy.add_argument("--below", action="store_true", help="also the labs whose folders lie below this one's")

    status = commands.add_parser("status", help="what there is")
    status.add_argument("--json", action="store_true")
    ssh = commands.add_parser("ssh", help="run a command on a server, or a shell")
    ssh.add_argument("name", metavar="NAME")
    ssh.add_argument("words", nargs=argparse.REMAINDER, metavar="CMD")
    console = commands.add_parser("console", help="print the path of a server's console log")
    console.add_argument("name", metavar="NAME")
    reboot = commands.add_parser("reboot", help="reboot a server and wait until it answers SSH")
    reboot.add_argument("name", metavar="NAME")
    for name, text in (
        ("snapshot", "keep a running server's state"),
        ("restore", "bring a server back to a kept state"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("name", metavar="NAME")
        command.add_argument("tag", metavar="TAG")
    listing = commands.add_parser("inventory", help="print or write the Ansible inventory of the running servers")
    listing.add_argument("--out", metavar="FILE")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command ``argv`` and return its exit status: 0, 1 after one sentence on stderr, or the ssh command's."""
    # A killed command must release its locks and remove its half-made folders, as an interrupted one does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # mke2fs, sfdisk and depmod are not on every user's PATH.
    os.environ["PATH"] = prerequisites.PATH
    arguments = _parser().parse_args(argv)
    try:
        return _run(arguments, Lab())
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _run(arguments: argparse.Namespace, lab: Lab) -> int:
    command = arguments.command
    if command == "prerequisites":
        missing = prerequisites.check()
        if missing and arguments.install:
            prerequisites.install(missing)
        elif missing:
            print("\n".join(missing))
    elif command == "image":
        for name in arguments.names:
            print(images.build(name).disk)
    elif command == "accelerator":
        print(accelerator(images.build(topology.DEFAULT_IMAGE).kernel))
    elif command == "up":
        lab.up(
            arguments.names,
            image=arguments.image,
            memory=arguments.memory,
            uplinks=arguments.wires,
            fresh=arguments.fresh,
            cold=arguments.cold,
        )
    elif command == "down":
        lab.down(arguments.names, now=arguments.now)
    elif command == "destroy":
        if arguments.below and arguments.names:
            raise LabError("--below destroys whole labs: name no server with it.")
        for one in lab.labs_below() if arguments.below else [lab]:
            one.destroy(arguments.names)
    elif command == "status":
        _print_status(lab, as_json=arguments.json)
    elif command == "ssh":
        words = arguments.words[1:] if arguments.words[:1] == ["--"] else arguments.words
        # As with ssh(1), one word is a line for the server's shell.
        words = ["sh", "-c", words[0]] if len(words) == 1 else words
        command_line = lab.machine(arguments.name).ssh_command(words)
        sys.stdout.flush()
        os.execvp(command_line[0], command_line)  # noqa: S606  (an argument list, no shell)
    elif command == "console":
        lab.machine(arguments.name).spec  # noqa: B018  (raises where there is no such server)
        print(lab.machine(arguments.name).serial_log)
    elif command == "reboot":
        progress(f"{arguments.name}: is back after {lab.machine(arguments.name).reboot():.0f} s")
    elif command == "snapshot":
        lab.machine(arguments.name).take_snapshot(arguments.tag)
    elif command == "restore":
        lab.restore(arguments.name, arguments.tag)
    elif command == "inventory":
        if arguments.out:
            inventory.write(lab, Path(arguments.out))
        else:
            print(inventory.as_text(lab))
    return 0


def _print_status(lab: Lab, *, as_json: bool) -> None:
    status = lab.status()
    if as_json:
        print(json.dumps(status, indent=2))
        return
    print(f"lab {status['folder']}")
    for name, server in status["servers"].items():
        state = f"runs (pid {server['pid']}, ssh port {server['ssh_port']})" if server["running"] else "is stopped"
        tags = ", ".join(server["snapshots"]) or "none"
        made_as = f"{server['image']}, {server['memory_mib']} MiB, {server['accelerator']}"
        print(f"  {name} {state}: {made_as}, snapshots: {tags}")
    print(f"  image server: {status['image_server']['url'] or 'does not run'}")
    for name, image in status["images"].items():
        print(f"  image {name}: {image['bytes'] >> 20} MiB, {image['checksum']}")
