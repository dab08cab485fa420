# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Migration of VMs between the nodes of a cluster (PVE::API2::Qemu, migrate_vm), running or not, with their local disks."""

from __future__ import annotations

import re
import time
from typing import Any, Dict, Iterator, List, Mapping, Optional, Tuple

from ...engine.migration import MigrationByApi, Progress
from ...errors import ApplyError, Problem, ReadError, ValidateError
from ...model.schema import Path, Plain
from ...model.types import show
from ...transports.proxmox import Task
from .guests import Guest, snapshot_names
from .network import Placed
from .node_network import NodeNetwork, all_bridges
from .notes import join_description
from .vm_config import describe

DOWNTIME = re.compile(r"downtime (?:is )?(\d+) ?ms")
"""How the task's log tells how long the guest stood still (PVE::QemuMigrate)."""

IN_TEMPLATE = re.compile(r"[:/]base-\d+-")
"""How the volume of a linked clone names the one that it builds on; those of LVM-thin build on none once they are made."""

PAUSE = 1.0
STOP_DEADLINE = 60.0
"""Seconds that a migration may take to break off."""


class ProxmoxMigration(MigrationByApi):
    """Moves VMs to another node of the cluster."""

    CAPABILITIES = frozenset({"vm_migrate", "vm_migrate.live", "vm_migrate.offline"})

    def __init__(self, platform: Any) -> None:
        self.platform = platform

    # -- the two nodes -------------------------------------------------------------------------------------------------

    def described(self, name: str) -> Optional[Plain]:
        guest = self._find(name)
        if guest is None:
            return None
        placed = Placed(self.platform.network())
        document: Plain = describe(guest, placed, self.platform.resource_pool_of(guest.vmid)).to_document()
        return document

    def _find(self, name: str) -> Optional[Guest]:
        found = [guest for guest in self.platform.guests([name]) if guest.name == name and not guest.template]
        if len(found) > 1:
            ids = ", ".join(str(guest.vmid) for guest in found)
            raise ValidateError([Problem(_place(name), f"is the name of several VMs of the node ({ids})")])
        return found[0] if found else None

    def membership(self) -> Tuple[Optional[str], Dict[str, Tuple[str, bool]]]:
        """Return the cluster's name, or None, and the address of each node and whether it is online (GET /cluster/status)."""
        entries = self.platform.session.get("cluster", "status")
        name = next((str(entry["name"]) for entry in entries if entry.get("type") == "cluster"), None)
        nodes = {
            str(entry["name"]): (str(entry.get("ip") or ""), bool(entry.get("online")))
            for entry in entries
            if entry.get("type") == "node"
        }
        return name, nodes

    def check_destination(self, other: ProxmoxMigration) -> None:
        cluster, nodes = self.membership()
        other_cluster, other_nodes = other.membership()
        source, target = self.platform.session.node, other.platform.session.node
        addresses = [{name: address for name, (address, _online) in known.items()} for known in (nodes, other_nodes)]
        problem: Optional[str] = None
        if cluster is None or cluster != other_cluster or addresses[0] != addresses[1]:
            problem = (
                f"node {target} is in {_cluster(other_cluster)}, and node {source} in {_cluster(cluster)}; "
                "allowed is a node of the same cluster"
            )
        elif source == target:
            problem = f"is node {target}, which the VM is on"
        elif not nodes[target][1]:
            problem = f"node {target} is not online"
        if problem:
            raise ValidateError([Problem("destination", problem)])

    # -- moving --------------------------------------------------------------------------------------------------------

    def migrate(
        self, name: str, other: ProxmoxMigration, limits: Mapping[str, Any], check: bool, progress: Progress
    ) -> Plain:
        guest = self._find(name)
        if guest is None:
            raise ReadError(f"VM {show(name)} is not there any more")
        problems = [Problem(path, message) for path, message in self._problems(guest, other, limits)]
        if problems:
            raise ValidateError(problems)
        if check:
            return {}
        session, target = self.platform.session, other.platform.session.node
        path = ("nodes", session.node, "qemu", guest.vmid, "migrate")
        params: Dict[str, Any] = {"target": target}
        if guest.runs:
            params.update({"online": 1, "with-local-disks": 1})
        if limits.get("bandwidth"):
            params["bwlimit"] = int(limits["bandwidth"]) * 1024
        if progress:
            progress(f"moving VM {name} to node {target}")
        begun = time.monotonic()
        end = begun + float(limits.get("timeout") or 3600)
        try:
            task = Task(str(session.ask("POST", path, params).data), f"moving VM {show(name)} to node {target}")
            self._wait(task, guest, target, end)
        finally:
            self.platform.forget_guests()
            other.platform.forget_guests()
        if limits.get("full_copy") and guest.facts.get("clone") == "linked":
            facts = {**guest.facts, "clone": "full"}
            text = join_description(guest.description, facts)
            session.ask("PUT", ("nodes", target, "qemu", guest.vmid, "config"), {"description": text})
        result: Plain = {"live": guest.runs, "seconds": round(time.monotonic() - begun, 1)}
        downtime = self._downtime(task) if guest.runs else None
        if downtime is not None:
            result["downtime"] = downtime
        return result

    def _wait(self, task: Task, guest: Guest, target: str, end: float) -> None:
        """Wait until the VM is on the other node; one of the cluster's high availability moves after its task has ended."""
        session = self.platform.session
        while True:
            status = session.get("nodes", task.node, "tasks", task.upid, "status")
            if status.get("status") == "stopped":
                break
            if time.monotonic() >= end:
                self._break_off(task)
                raise ApplyError(f"{task.what}: given up, as it was not there in time; the VM is where it was")
            time.sleep(min(PAUSE, max(0.05, end - time.monotonic())))
        result = str(status.get("exitstatus", "unknown"))
        if result != "OK" and not result.startswith("WARNINGS"):
            raise ApplyError(f"{task.what}: the task failed: {' '.join(result.split())}")
        while self._node_of(guest.vmid) != target:
            if time.monotonic() >= end:
                raise ApplyError(
                    f"{task.what}: the task has ended, and the VM is not there yet",
                    "The cluster's high availability moves it; run the task again",
                )
            time.sleep(PAUSE)

    def _node_of(self, vmid: int) -> Optional[str]:
        entries: List[Mapping[str, Any]] = self.platform.session.get("cluster", "resources", type="vm")
        return next((str(entry.get("node")) for entry in entries if int(entry["vmid"]) == vmid), None)

    def _break_off(self, task: Task) -> None:
        session = self.platform.session
        path = ("nodes", task.node, "tasks", task.upid)
        session.ask("DELETE", path, {})
        end = time.monotonic() + STOP_DEADLINE
        while session.get(*path, "status").get("status") != "stopped":
            if time.monotonic() >= end:
                raise ApplyError(f"{task.what}: it was not there in time, and does not break off either")
            time.sleep(PAUSE)

    def _downtime(self, task: Task) -> Optional[int]:
        lines = self.platform.session.get("nodes", task.node, "tasks", task.upid, "log", limit=5000)
        found = [DOWNTIME.search(str(line.get("t") or "")) for line in lines]
        return next((int(match.group(1)) for match in reversed(found) if match), None)

    # -- what speaks against it ----------------------------------------------------------------------------------------

    def _problems(self, guest: Guest, other: ProxmoxMigration, limits: Mapping[str, Any]) -> Iterator[Tuple[str, str]]:
        if limits.get("max_downtime") is not None:
            yield "max_downtime", "cannot be had for one migration on Proxmox VE; it is an option of the VM there"
        if limits.get("auto_converge") is False:
            yield "auto_converge", "is always on on Proxmox VE; allowed is true"
        place = _place(guest.name)
        session = self.platform.session
        target = other.platform.session.node
        if guest.is_locked:
            yield place, f"is locked by Proxmox VE ({guest.lock})"
        known = session.get("nodes", session.node, "qemu", guest.vmid, "migrate", target=target)
        refused = (known.get("not_allowed_nodes") or {}).get(target)
        if refused:
            yield place, f"cannot be on node {target}: {_reasons(refused)}"
        resources = [str(entry) for entry in known.get("local_resources") or ()]
        if resources:
            yield place, f"has what is of this node only: {', '.join(resources)}"
        local = [entry for entry in known.get("local_disks") or () if not entry.get("is_unused")]
        media = [
            str(entry["volid"]) for entry in local if entry.get("cdrom") and "cloudinit" not in str(entry["volid"])
        ]
        if media:
            yield place, f"has the medium {show(media[0])} in its drive, which stays here; eject it first"
        disks = [str(entry["volid"]) for entry in local if not entry.get("cdrom")]
        if disks:
            yield from self._local_problems(guest, disks, bool(limits.get("full_copy")))
        yield from self._network_problems(guest, target)

    def _local_problems(self, guest: Guest, disks: List[str], full_copy: bool) -> Iterator[Tuple[str, str]]:
        place = _place(guest.name)
        session = self.platform.session
        entries = session.get("nodes", session.node, "qemu", guest.vmid, "snapshot")
        snapshots = snapshot_names(entries)
        if snapshots:
            yield (
                place,
                f"has snapshots, which cannot move with disks of this node: {', '.join(snapshots)}; remove them first",
            )
        if guest.facts.get("clone") != "linked":
            return
        if not full_copy:
            yield "full_copy", f"must be true, since {show(guest.name)} is a linked clone with disks of this node"
        elif not guest.runs and any(IN_TEMPLATE.search(volume) for volume in disks):
            yield (
                place,
                f"is a linked clone with disks of this node ({', '.join(disks)}), which move only while it runs",
            )

    def _network_problems(self, guest: Guest, target: str) -> Iterator[Tuple[str, str]]:
        """Yield what is wrong with the other node's bridges and the networks on them, which any node of the cluster tells."""
        session = self.platform.session
        here = Placed(self.platform.network())
        interfaces = session.get("nodes", target, "network")
        there = NodeNetwork({str(entry["iface"]): dict(entry) for entry in interfaces})
        placed = Placed(there)
        missing = [
            (name, parts["bridge"])
            for _key, name, parts in guest.nics()
            if parts.get("bridge") and parts["bridge"] not in there.interfaces
        ]
        if missing:
            known = all_bridges(session, target)
            for name, bridge in missing:
                if bridge not in known:
                    yield (
                        _place(guest.name),
                        f"has NIC {show(name)} on switch {show(bridge)}, which node {target} lacks",
                    )
        for key, name, parts in guest.nics():
            network = here.find_nic(guest, key, parts)
            if network in here.named and parts.get("bridge") in there.interfaces and network not in placed.named:
                yield _place(guest.name), f"has NIC {show(name)} in network {show(network)}, which node {target} lacks"


def _place(name: str) -> str:
    return Path("vm").item(name).text


def _cluster(name: Optional[str]) -> str:
    return f"cluster {name}" if name else "no cluster"


def _reasons(refused: Mapping[str, Any]) -> str:
    reasons: List[str] = []
    if refused.get("unavailable_storages"):
        reasons.append(f"it lacks the storages {', '.join(map(str, refused['unavailable_storages']))}")
    for entry in refused.get("blocking-ha-resources") or ():
        reasons.append(f"high availability keeps it from there ({entry.get('sid')}: {entry.get('cause')})")
    return "; ".join(reasons) or "the node does not say why"
