# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a guarded change of a node's network comes to, with the real ifupdown2: run by a test in namespaces of its own.

Usage: ifupdown2_trial.py FOLDER, as root, in a network and a mount namespace that are ours alone. Prints one JSON object.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from ansible_collections.bareforge.hypervisor.plugins.module_utils.boundary import guarding
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm import guard as kvm_guard
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm import systemd
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.proxmox import node_guard

# As PVE's installer and then PVE::INotify write it.
BEFORE = """\
auto lo
iface lo inet loopback

iface eno1 inet manual

iface eno2 inet manual

auto vmbr0
iface vmbr0 inet static
\taddress 192.0.2.11/24
\tgateway 192.0.2.1
\tbridge-ports eno1
\tbridge-stp off
\tbridge-fd 0
#\u00fcber den Uplink

"""
# The management bridge on the wrong card, with the wrong address, and a bridge more.
CHANGED = (
    BEFORE.replace("bridge-ports eno1", "bridge-ports eno2")
    .replace("192.0.2.11/24", "198.51.100.9/24")
    .replace("gateway 192.0.2.1", "gateway 198.51.100.1")
    + "auto vmbr1\niface vmbr1 inet manual\n\tbridge-ports none\n\tbridge-stp off\n\tbridge-fd 0\n"
)
NETWORK = Path("/etc/network")


def run(*words: str) -> str:
    """Run a program that has to succeed and return what it printed."""
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        sys.exit(f"{' '.join(words)} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


def state() -> dict[str, Any]:
    """Return addresses, ports of bridges and the way out, as the kernel has them."""
    links = json.loads(run("ip", "-j", "address", "show"))
    return {
        "addresses": {
            link["ifname"]: sorted(
                f"{entry['local']}/{entry['prefixlen']}" for entry in link["addr_info"] if entry["family"] == "inet"
            )
            for link in links
        },
        "ports": {link["ifname"]: link.get("master") for link in links},
        "gateway": [route.get("gateway") for route in json.loads(run("ip", "-j", "route", "show", "default"))],
    }


def main(folder: Path) -> dict[str, Any]:
    """Make a change under the guard, undo it as the timer would, and return what was there before, between and after."""
    own = folder / "network"
    shutil.copytree(NETWORK, own)
    shutil.rmtree(own / "interfaces.d", ignore_errors=True)
    (own / "interfaces").write_text(BEFORE, encoding="utf-8")
    run("mount", "--bind", str(own), str(NETWORK))
    # What the machine's own network service has there is not ours.
    run("mount", "-t", "tmpfs", "tmpfs", "/run")
    # Which devices there are, ifupdown2 looks up there.
    run("mount", "-t", "sysfs", "sysfs", "/sys")
    Path("/run/network").mkdir()
    for card in ("eno1", "eno2"):
        run("ip", "link", "add", card, "type", "veth", "peer", "name", f"{card}-wire")
    run("ip", "link", "set", "lo", "up")
    run("/usr/sbin/ifreload", "-a")
    found: dict[str, Any] = {"before": state()}
    kvm_guard.GUARD_FOLDER = str(folder / "guard")
    systemd.UNIT_FOLDER = str(folder / "units")
    # No systemd runs in here; what its timer starts is started below.
    systemd.run_command = lambda *_arguments, **_options: ""
    node_guard.NEEDED = ("/usr/sbin/ifreload",)
    armed = guarding.answer(
        {"step": "arm", "node": run("uname", "-n").strip().partition(".")[0], "parts": ["node network"], "timeout": 60}
    )
    (NETWORK / "interfaces.new").write_text("half of the next change\n", encoding="utf-8")
    (NETWORK / "interfaces").write_text(CHANGED, encoding="utf-8")
    run("/usr/sbin/ifreload", "-a")
    found["between"] = state()
    script = Path(kvm_guard.GUARD_FOLDER) / armed["result"]["token"] / "undo.py"
    done = subprocess.run(
        [sys.executable, "-I", str(script)], cwd="/", env={}, capture_output=True, text=True, check=False
    )
    found.update(
        after=state(),
        status=done.returncode,
        said=done.stderr,
        identical=(NETWORK / "interfaces").read_bytes() == BEFORE.encode(),
        staged=(NETWORK / "interfaces.new").exists(),
    )
    return found


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
