# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A node of Proxmox VE, reached through its API."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any, Collection, ContextManager, Dict, FrozenSet, List, Mapping, Optional, Set

from ...engine.platform import Context, Guard, Platform
from ...errors import ReadError
from ...model.document import State
from ...model.storage import StoragePool
from ...model.types import show
from ...transports.proxmox import ProxmoxSession, preload
from ..file_lock import LOCK_TIMEOUT
from .access import ProxmoxAccess
from .backup import ProxmoxBackups
from .firewall import ProxmoxFirewall
from .guard import ProxmoxGuard
from .guests import Guest, list_guests, read_configurations
from .hardening import ProxmoxHardening
from .inventory import ProxmoxInventory
from .migration import ProxmoxMigration
from .network import ProxmoxNetwork
from .node_facts import node_facts
from .node_network import NodeNetwork
from .port_acl import ProxmoxPortAcls
from .realms import ProxmoxRealms
from .resource_pool import ProxmoxResourcePools
from .run_lock import run_lock
from .snapshot import ProxmoxSnapshots
from .storage_pool import ProxmoxStoragePools, storage_entry
from .system import ProxmoxSystem
from .template import ProxmoxTemplates
from .vm import ProxmoxVms


class ProxmoxPlatform(Platform):
    """A node of Proxmox VE. The engine runs in the worker.

    session: the session to its API.
    """

    NAME = "proxmox"
    RUNS_ON_HOST = False
    INTERFACES = (
        ProxmoxSystem,
        ProxmoxStoragePools,
        ProxmoxNetwork,
        ProxmoxFirewall,
        ProxmoxRealms,
        ProxmoxAccess,
        ProxmoxResourcePools,
        ProxmoxTemplates,
        ProxmoxVms,
        ProxmoxPortAcls,
        ProxmoxSnapshots,
        ProxmoxBackups,
        ProxmoxMigration,
        ProxmoxInventory,
        ProxmoxHardening,
    )

    def __init__(self, settings: Optional[Mapping[str, Any]] = None) -> None:
        super().__init__(settings)
        self.session = ProxmoxSession(self.settings)
        self._network: Optional[NodeNetwork] = None
        self._seen_network: Optional[NodeNetwork] = None
        self._list: Optional[List[Guest]] = None
        self._resources: Optional[List[Mapping[str, Any]]] = None
        self._storages: Optional[Dict[str, Mapping[str, Any]]] = None
        self._given_ids: Set[int] = set()
        self._is_fresh = False

    @classmethod
    def preload(cls) -> None:
        preload()

    # -- what several interfaces read ----------------------------------------------------------------------------------

    def read(self, kinds: Collection[str], names: Optional[Mapping[str, Collection[str]]] = None) -> State:
        # What recover() has read is taken over once; a later read is of the host as it is then.
        self._seen_network = None
        self._resources = self._storages = None
        if not self._is_fresh:
            self._list = None
        self._is_fresh = False
        if "vm" in kinds:
            # The list of networks tells those too that only a VM's adapter shows.
            self.guests((names or {}).get("vm"))
        return super().read(kinds, names)

    def network(self) -> NodeNetwork:
        """Return the node's network, read anew unless it was read to recover and not used since."""
        network, self._network = self._network or NodeNetwork.read(self.session), None
        self._seen_network = network
        return network

    def seen_network(self) -> NodeNetwork:
        """Return the node's network as this task's last reading has it."""
        return self._seen_network or self.network()

    def listed_guests(self, anew: bool = False) -> List[Guest]:
        """Return the node's VMs and templates, without their configurations unless those have been read."""
        if self._list is None or anew:
            self._list = list_guests(self.session)
        return self._list

    def guests(self, names: Optional[Collection[str]] = None) -> List[Guest]:
        """Return the node's VMs and templates with their configurations, each read once between two changes.

        names: those whose configuration is wanted; all where it is None.
        """
        guests = self.listed_guests()
        wanted = [
            guest
            for guest in guests
            if not guest.config and not guest.is_unfinished and (names is None or guest.name in names)
        ]
        read_configurations(self.session, wanted)
        return guests

    def template_guests(self) -> List[Guest]:
        """Return the node's templates with their configurations."""
        templates = [guest for guest in self.listed_guests() if guest.template and not guest.is_unfinished]
        read_configurations(self.session, [guest for guest in templates if not guest.config])
        return templates

    def template(self, name: Optional[str]) -> Optional[Guest]:
        """Return a template of the node, or None."""
        return next((guest for guest in self.template_guests() if guest.name == name), None)

    def guest(self, name: str) -> Guest:
        """Return a VM of the node by its name, without its configuration. Raises ReadError."""
        for guest in self.listed_guests():
            if guest.name == name and not guest.template:
                return guest
        raise ReadError(f"VM {show(name)} is not there")

    def seen_guests(self) -> List[Guest]:
        """Return the VMs whose configurations have been read."""
        return [guest for guest in self._list or [] if guest.config and not guest.template]

    def forget_guests(self) -> None:
        """Say that VMs have changed, so that they are read anew."""
        self._list = None
        self._resources = None

    def resources(self) -> List[Mapping[str, Any]]:
        """Return all guests of the cluster, read once (GET /cluster/resources)."""
        if self._resources is None:
            self._resources = self.session.get("cluster", "resources", type="vm")
        return self._resources

    def elsewhere(self, name: str) -> Optional[str]:
        """Return what else of the cluster has a name that no VM or template of this node has, or None."""
        for entry in self.resources():
            if str(entry.get("name")) != name:
                continue
            if entry.get("type") == "lxc":
                return f"container {entry.get('vmid')} on node {entry.get('node')} is called so"
            if entry.get("node") != self.session.node:
                return f"VM {entry.get('vmid')} on node {entry.get('node')} is called so"
        return None

    def free_id(self) -> int:
        """Return an id that no guest of the cluster has, as far as this session knows."""
        taken = {int(entry["vmid"]) for entry in self.resources()} | self._given_ids
        number = 100
        while number in taken:
            number += 1
        self._given_ids.add(number)
        return number

    def storages(self) -> Mapping[str, Mapping[str, Any]]:
        """Return the storages that can be used on this node by name, read once (GET /nodes/{node}/storage)."""
        if self._storages is None:
            entries = self.session.get("nodes", self.session.node, "storage", enabled=True)
            self._storages = {str(entry["storage"]): entry for entry in entries}
        return self._storages

    def forget_storages(self) -> None:
        """Say that storages have changed, so that they are read anew."""
        self._storages = None

    def storages_to_be(self, context: Context) -> Mapping[str, Mapping[str, Any]]:
        """Return the storages that this task will find when it comes to what lies in them: those that it makes are among them."""
        known = context.before.get("storage_pool", {})
        wanted = context.wanted.get("storage_pool", {})
        gone = {item.label for key, item in known.items() if key not in wanted}
        found = {name: entry for name, entry in self.storages().items() if name not in gone}
        for key, pool in wanted.items():
            if isinstance(pool, StoragePool) and pool != known.get(key):
                found[pool.label] = {**found.get(pool.label, {}), **storage_entry(pool)}
        return found

    def resource_pool_of(self, vmid: int) -> Optional[str]:
        """Return the pool that a guest is in."""
        for entry in self.resources():
            if int(entry["vmid"]) == vmid and entry.get("pool"):
                return str(entry["pool"]).rpartition("/")[2]
        return None

    def pool_path(self, name: Optional[str]) -> str:
        """Return a pool's id by its name in the model."""
        return str(self.owner("resource_pool").path_of(str(name)))

    def management_addresses(self) -> FrozenSet[str]:
        """Return the addresses that the node may be reached by: the one that we use, as far as it can be told."""
        found: Set[str] = set()
        try:
            found.update(str(entry[4][0]) for entry in socket.getaddrinfo(self.session.host, None))
        except OSError:
            found.add(self.session.host)
        return frozenset(str(ipaddress.ip_address(text)) for text in found if _is_address(text))

    # -- what the engine asks for --------------------------------------------------------------------------------------

    def guard(self) -> Optional[Guard]:
        return ProxmoxGuard(self, self.ask_host) if self.ask_host is not None else None

    def lock(self) -> ContextManager[None]:
        timeout = float(self.settings.get("lock_timeout") or LOCK_TIMEOUT)
        return run_lock(self.settings.get("lock_folder"), f"{self.session.host}:{self.session.port}", timeout)

    def recover(self) -> None:
        network = NodeNetwork.read(self.session)
        if network.is_left_over:
            self.session.ask("DELETE", ("nodes", self.session.node, "network"), {})
            network = NodeNetwork.read(self.session)
        self._network = network
        self._is_fresh = True
        for interface in self.interfaces:
            if hasattr(interface, "recover"):
                interface.recover()

    def facts(self) -> Dict[str, Any]:
        return node_facts(self.session)

    def close(self) -> None:
        self.session.close()


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
