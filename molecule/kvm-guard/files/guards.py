# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a guard on this host stands over, and how long the last undo took; the time by this host's own clock.

guards.py state PATH...       digest of what the guard brings back, as far as it can be compared
guards.py undone              seconds from arming the last guard to the end of its undo, as JSON
guards.py armed SECONDS       waits until a guard is armed
guards.py settled SECONDS     waits until the last guard has undone what it stands over
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import subprocess
import sys
import time

FOLDER = "/var/lib/bareforge/guard"
FILES = (
    "/etc/systemd/network/*",
    "/etc/ssh/sshd_config",
    "/etc/ssh/sshd_config.d/*",
    "/etc/bareforge/firewall.json",
)
COMMANDS = (
    ["ovs-vsctl", "--columns=name,tag,trunks", "--format=csv", "list", "Port"],
    ["ovs-vsctl", "list-br"],
    ["ovs-vsctl", "list-ports", "br-guard"],
    ["ip", "-o", "-4", "address", "show", "dev", "guard0", "scope", "global"],
    ["ip", "-4", "route", "show", "default"],
    ["nft", "--stateless", "list", "ruleset"],
    ["sshd", "-T"],
)


def state() -> dict[str, str]:
    """Return what is there, by file and command."""
    found = {}
    for pattern in FILES:
        for path in sorted(glob.glob(pattern)):
            with open(path, "rb") as stream:
                found[path] = hashlib.sha256(stream.read()).hexdigest()
    for argv in COMMANDS:
        found[" ".join(argv)] = subprocess.run(argv, capture_output=True, text=True, check=False).stdout
    # ovs-vsctl lists ports in no particular order; lifetimes run down.
    for name, text in found.items():
        found[name] = "\n".join(sorted(line for line in text.splitlines() if "_lft" not in line))
    return found


def last_guard() -> str:
    """Return the folder of the guard that was armed last."""
    return max(glob.glob(f"{FOLDER}/*"), key=os.path.getmtime)


def undone() -> dict[str, object]:
    """Return how the last guard has ended."""
    folder = last_guard()
    with open(f"{folder}/undone.json", encoding="ascii") as stream:
        failures = json.load(stream)["failures"]
    seconds = os.path.getmtime(f"{folder}/undone.json") - os.path.getmtime(f"{folder}/about.json")
    return {"seconds": round(seconds, 1), "failures": failures}


def wait_for(pattern: str, seconds: float) -> None:
    """Wait until there is a file."""
    deadline = time.monotonic() + seconds
    while not glob.glob(pattern):
        if time.monotonic() > deadline:
            sys.exit(f"there was no {pattern} within {seconds:.0f} s")
        time.sleep(0.1)


if __name__ == "__main__":
    if sys.argv[1] == "state":
        print(json.dumps(state(), sort_keys=True))
    elif sys.argv[1] == "undone":
        print(json.dumps(undone()))
    elif sys.argv[1] == "armed":
        wait_for(f"{FOLDER}/*/armed", float(sys.argv[2]))
    else:
        wait_for(f"{last_guard()}/undone.json", float(sys.argv[2]))
