# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a guard does on the node itself: the store, the timer and the script are those of KVM hosts, for other files.

ifupdown2's ifreload takes up what the files say (interfaces(5), ifreload(8)); what was staged for the next reload, which PVE
keeps in interfaces.new, was staged by what is undone. PVE's firewall reads its files every few seconds (pve-firewall(8)).
"""

from __future__ import annotations

import os

from ...errors import ConnectError, GuardError
from ...model.types import show
from ..kvm.guard import KvmGuard, Part

PARTS = {
    "node network": Part(
        ["/etc/network/interfaces", "/etc/network/interfaces.new", "/etc/network/interfaces.d/*"],
        [["/usr/sbin/ifreload", "-a"]],
    ),
    "node firewall": Part(
        ["/etc/pve/firewall/cluster.fw", "/etc/pve/local/host.fw"],
        [["/usr/bin/systemctl", "try-restart", "pve-firewall.service"]],
    ),
}
PART_OF_KIND = {
    "firewall": "node firewall",
    "firewall_rule": "node firewall",
    "virtual_switch": "node network",
    "virtual_network": "node network",
    "host_interface": "node network",
}
NEEDED = ("/usr/bin/systemd-run", "/usr/sbin/ifreload")


class NodeGuard(KvmGuard):
    """The guard as it runs on a node."""

    def part(self, name: str) -> Part:
        return PARTS[name]

    @staticmethod
    def check(node: str) -> None:
        """Raise ConnectError where this host is not the node that the API calls so, GuardError where it cannot have a guard."""
        name = os.uname().nodename.partition(".")[0]
        if name != node:
            raise ConnectError(f"it leads to host {show(name)}")
        lacking = [path for path in NEEDED if not os.path.exists(path)]
        if lacking:
            raise GuardError(f"a guard needs {' and '.join(lacking)} on node {node}, and there is no such file")
