# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A node of Proxmox VE, reached through its API."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any, ContextManager, Dict, FrozenSet, List, Mapping, Optional

from ...engine.platform import Platform
from ...transports.proxmox import ProxmoxSession
from .guests import Guest, list_guests, read_configurations
from .network import ProxmoxNetwork
from .node_network import NodeNetwork
from .run_lock import LOCK_TIMEOUT, run_lock


class ProxmoxPlatform(Platform):
    """A node of Proxmox VE. The engine runs in the worker.

    session: the session to its API.
    """

    NAME = "proxmox"
    RUNS_ON_HOST = False
    INTERFACES = (ProxmoxNetwork,)

    def __init__(self, settings: Optional[Mapping[str, Any]] = None) -> None:
        super().__init__(settings)
        self.session = ProxmoxSession(self.settings)
        self._network: Optional[NodeNetwork] = None
        self._list: Optional[List[Guest]] = None
        self._guests: Optional[List[Guest]] = None

    # -- what several interfaces read ----------------------------------------------------------------------------------

    def read(self, kinds: Any, names: Any = None) -> Any:
        self._guests = None
        if "vm" in kinds:
            # The list of networks tells those that only a VM's adapter shows.
            self.guests(self._wanted_names(names))
        return super().read(kinds, names)

    @staticmethod
    def _wanted_names(names: Any) -> Any:
        return (names or {}).get("vm")

    def network(self) -> NodeNetwork:
        """Return the node's network, read anew unless it was read to recover and not used since."""
        network, self._network = self._network or NodeNetwork.read(self.session), None
        return network

    def guests(self, names: Any = None) -> List[Guest]:
        """Return the node's VMs and templates with their configurations, read once between two changes.

        names: those whose configuration is wanted; all where it is None.
        """
        if self._guests is None:
            guests, self._list = self._list or list_guests(self.session), None
            self._guests = guests
            read_configurations(self.session, [guest for guest in guests if names is None or guest.name in names])
        return self._guests

    def seen_guests(self) -> List[Guest]:
        """Return the VMs if they have been read, and none otherwise."""
        return self._guests or []

    def forget_guests(self) -> None:
        """Say that VMs have changed, so that they are read anew."""
        self._guests = None

    def management_addresses(self) -> FrozenSet[str]:
        """Return the addresses that the node may be reached by: the one that we use, as far as it can be told."""
        found = set()
        try:
            found.update(str(entry[4][0]) for entry in socket.getaddrinfo(self.session.host, None))
        except OSError:
            found.add(self.session.host)
        return frozenset(str(ipaddress.ip_address(text)) for text in found if _is_address(text))

    # -- what the engine asks for --------------------------------------------------------------------------------------

    def lock(self) -> ContextManager[None]:
        timeout = float(self.settings.get("lock_timeout") or LOCK_TIMEOUT)
        return run_lock(self.settings.get("lock_folder"), f"{self.session.host}:{self.session.port}", timeout)

    def recover(self) -> None:
        network = NodeNetwork.read(self.session)
        if network.is_left_over:
            self.session.ask("DELETE", ("nodes", self.session.node, "network"), {})
            network = NodeNetwork.read(self.session)
        self._network = network
        self._list = None
        for interface in self.interfaces:
            if hasattr(interface, "recover"):
                interface.recover()

    def facts(self) -> Dict[str, Any]:
        return {"node": self.session.node, "version": ".".join(str(part) for part in self.session.version)}

    def close(self) -> None:
        self.session.close()


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
