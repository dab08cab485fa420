# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is known of a node and its cluster beside their objects."""

from __future__ import annotations

from typing import Any, Dict, Mapping

from ...transports.proxmox import ProxmoxSession, Read

MIB = 1048576


def node_facts(session: ProxmoxSession) -> Dict[str, Any]:
    """Return the node's versions, processors, memory and network cards, and its cluster.

    Sizes are in MiB (GET /nodes/{node}/status, /cluster/status, /nodes/{node}/network).
    """
    node = session.node
    status, cluster, cards = session.get_many(
        [
            Read(("nodes", node, "status")),
            Read(("cluster", "status")),
            Read(("nodes", node, "network"), {"type": "eth"}),
        ]
    )
    cpu: Mapping[str, Any] = status.get("cpuinfo") or {}
    memory: Mapping[str, Any] = status.get("memory") or {}
    named: Mapping[str, Any] = next((entry for entry in cluster if entry.get("type") == "cluster"), {})
    return {
        "node": node,
        "version": ".".join(str(part) for part in session.version),
        "kernel": str((status.get("current-kernel") or {}).get("release") or status.get("kversion") or ""),
        "cpu": {
            "count": int(cpu.get("cpus") or 0),
            "sockets": int(cpu.get("sockets") or 0),
            "cores": int(cpu.get("cores") or 0),
            "model": str(cpu.get("model") or ""),
        },
        "memory": {"size": int(memory.get("total") or 0) // MIB, "available": int(memory.get("free") or 0) // MIB},
        "cluster": {
            "name": named.get("name"),
            "quorate": bool(named["quorate"]) if "quorate" in named else None,
            "nodes": {
                str(entry["name"]): {"online": bool(entry.get("online")), "address": entry.get("ip")}
                for entry in cluster
                if entry.get("type") == "node"
            },
        },
        "interfaces": [{"name": str(card["iface"]), "active": bool(card.get("active"))} for card in cards],
    }
