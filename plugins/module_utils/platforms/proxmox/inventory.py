# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an inventory is told of the VMs of a node."""

from __future__ import annotations

import re
from typing import Any, Collection, Dict, List, Mapping, Optional

from ...engine.inventory import InventoryNic, InventoryReader, InventoryVm, SeenAddress
from ...transports.proxmox import ProxmoxSession
from .guest_agent import ask_agent
from .guests import Guest, list_guests, read_configurations
from .network import Placed
from .node_network import NodeNetwork
from .property_strings import split, trunk_of


class ProxmoxInventory(InventoryReader):
    """Reads the VMs of a node: a list, a configuration each, and of those that run what their agents tell."""

    KINDS = ()
    CAPABILITIES = frozenset({"inventory", "inventory.addresses"})

    def vms(
        self, sources: Collection[str], agent_timeout: int, settings: Mapping[str, Any], warnings: List[str]
    ) -> List[InventoryVm]:
        session = ProxmoxSession(settings)
        try:
            placed = Placed(NodeNetwork.read(session))
            guests = [guest for guest in list_guests(session) if not guest.template and not guest.is_unfinished]
            read_configurations(session, guests)
            return [_shown(session, guest, placed, sources, warnings) for guest in guests]
        finally:
            session.close()


def _shown(
    session: ProxmoxSession, guest: Guest, placed: Placed, sources: Collection[str], warnings: List[str]
) -> InventoryVm:
    config = guest.config
    nics = list(guest.nics())
    by_mac = {parts["macaddr"].lower(): name for _key, name, parts in nics if parts.get("macaddr")}
    addresses: List[SeenAddress] = []
    hostname: Optional[str] = None
    if "agent" in sources and guest.runs and not guest.paused and guest.has_agent:
        told = ask_agent(session, guest, by_mac, warnings)
        addresses.extend(told)
    if "document" in sources:
        for key, name, _parts in nics:
            known = split(config.get(f"ipconfig{key[3:]}"), "ip")
            for field in ("ip", "ip6"):
                if "/" in known.get(field, ""):
                    addresses.append(SeenAddress(known[field].partition("/")[0], "document", name))
    return InventoryVm(
        name=guest.name,
        power="suspended" if guest.runs and guest.paused else "running" if guest.runs else "stopped",
        state=guest.state,
        uuid=split(config.get("smbios1"), "uuid").get("uuid"),
        managed=bool(guest.facts),
        template=guest.facts.get("template"),
        hostname=hostname,
        description=guest.description,
        cpus=int(config.get("cores") or 1) * int(config.get("sockets") or 1),
        memory=int(split(config.get("memory") or 512, "current")["current"]),
        tags=guest.tags,
        nics=tuple(_nic(guest, key, name, parts, placed) for key, name, parts in nics),
        addresses=tuple(addresses),
    )


def _nic(guest: Guest, key: str, name: str, parts: Dict[str, str], placed: Placed) -> InventoryNic:
    tag = parts.get("tag") or "0"
    return InventoryNic(
        name=name,
        mac=parts["macaddr"].lower() if parts.get("macaddr") else None,
        network=placed.find_nic(guest, key, parts),
        vlan=int(tag) if re.fullmatch(r"\d+", tag) else None,
        trunk=trunk_of(parts.get("trunks")),
    )
