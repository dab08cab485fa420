# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the API of a node tells and takes of its operating system: name resolution and time zone (PVE::API2::Nodes)."""

from __future__ import annotations

from typing import Any, Collection, Dict, Iterable, Mapping, Sequence

from ...engine.change import Change
from ...engine.platform import Context, Interface
from ...errors import Problem
from ...model.document import State
from ...model.system import System
from ...model.types import show

MOST_SERVERS = 3


class ProxmoxSystem(Interface):
    """Reads and changes the node's DNS servers, search domain and time zone."""

    KINDS = ("system",)
    CAPABILITIES = frozenset({"system"})

    def __init__(self, platform: Any) -> None:
        self.platform = platform
        self._dns: Mapping[str, Any] = {}

    def read(self, kinds: Collection[str], names: Mapping[str, Collection[str]]) -> State:
        session = self.platform.session
        dns = self._dns = session.get("nodes", session.node, "dns")
        time = session.get("nodes", session.node, "time")
        found = System(
            hostname=session.node.lower(),
            dns_servers=tuple(str(dns[name]) for name in ("dns1", "dns2", "dns3") if dns.get(name)),
            dns_search=tuple(str(dns.get("search") or "").lower().split()),
            timezone=str(time["timezone"]),
        )
        return {"system": {found.key: found}}

    def validate(self, change: Change, context: Context) -> Iterable[Problem]:
        system = change.after
        if not isinstance(system, System):
            return
        place = system.place
        if "hostname" in change.fields:
            yield Problem(
                place.field("hostname").text,
                f"is {show(self.platform.session.node)} and cannot change: a node of Proxmox VE keeps its name",
            )
        for name in ("domain", "ntp_servers"):
            if getattr(system, name):
                yield Problem(place.field(name).text, "cannot be set through the API of Proxmox VE")
        if len(system.dns_servers or ()) > MOST_SERVERS:
            yield Problem(
                place.field("dns_servers").text, f"are {len(system.dns_servers or ())}; a node takes {MOST_SERVERS}"
            )
        if {"dns_servers", "dns_search"} & set(change.fields) and not system.dns_search:
            yield Problem(place.field("dns_search").text, "must name a domain: Proxmox VE takes no DNS servers without")

    def apply(self, changes: Sequence[Change], context: Context) -> None:
        session = self.platform.session
        for change in changes:
            context.begin(change)
            system: Any = change.after
            if {"dns_servers", "dns_search"} & set(change.fields):
                params: Dict[str, Any] = {"search": " ".join(system.dns_search or ())}
                for number, server in enumerate(system.dns_servers or (), 1):
                    params[f"dns{number}"] = server
                session.ask("PUT", ("nodes", session.node, "dns"), params)
            if "timezone" in change.fields:
                session.put("nodes", session.node, "time", timezone=system.timezone)
            context.done(change)
