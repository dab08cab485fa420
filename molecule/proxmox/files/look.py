# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reads a node of Proxmox VE by proxmoxer and nothing of the collection: prints what it shows as one JSON object.

Standard input: a JSON object with host, port, user, password and ca_file.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from proxmoxer import ProxmoxAPI

given: dict[str, Any] = json.load(sys.stdin)
api = ProxmoxAPI(
    given["host"], port=given["port"], user=given["user"], password=given["password"], verify_ssl=given["ca_file"]
)
node = api.nodes(next(entry["name"] for entry in api.cluster.status.get() if entry.get("local")))
vms = {
    vm["name"]: {
        "vmid": vm["vmid"],
        "status": vm["status"],
        "template": bool(vm.get("template")),
        "config": node.qemu(vm["vmid"]).config.get(),
        "firewall": node.qemu(vm["vmid"]).firewall.rules.get(),
        "filter": {
            entry["name"]: [member["cidr"] for member in node.qemu(vm["vmid"]).firewall.ipset(entry["name"]).get()]
            for entry in node.qemu(vm["vmid"]).firewall.ipset.get()
        },
        "snapshots": [entry["name"] for entry in node.qemu(vm["vmid"]).snapshot.get()],
    }
    for vm in node.qemu.get()
}
print(
    json.dumps(
        {
            "network": {entry["iface"]: entry for entry in node.network.get()},
            "policies": api.cluster.firewall.options.get(),
            "rules": node.firewall.rules.get(),
            "dns": node.dns.get(),
            "time": node.time.get(),
            "storages": {entry["storage"]: entry for entry in api.storage.get()},
            "pools": [entry["poolid"] for entry in api.pools.get()],
            "team": [member["name"] for member in api.pools("team").get()["members"]],
            "users": {entry["userid"]: entry for entry in api.access.users.get(full=1)},
            "roles": {entry["roleid"]: entry["privs"] for entry in api.access.roles.get()},
            "permissions": api.access.acl.get(),
            "vms": vms,
        }
    )
)
