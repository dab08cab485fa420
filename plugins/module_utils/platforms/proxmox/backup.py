# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Backups of VMs by vzdump (PVE::API2::VZDump), in storages that take them.

PVE names an archive after the VM's id and the time; what the model calls it stands in the archive's notes, so that it
is found again even when the VM is gone.
"""

from __future__ import annotations

import json
import re
from typing import Any, Callable, Collection, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

from ...engine.change import Change
from ...engine.platform import Context, Interface
from ...errors import ApplyError, Problem, ValidateError
from ...model.compute import Backup
from ...model.document import State
from ...model.operation import Operation
from ...model.schema import ModelObject, Plain
from ...model.types import show
from ...transports.proxmox import Job, Read, Task
from .jobs import carry_out
from .restore import Order, Restoring

NOTE = re.compile(r"^bareforge (\{.*\})$", re.MULTILINE)


class ProxmoxBackups(Interface):
    """Makes, lists and removes backups."""

    KINDS = ("backup",)
    CAPABILITIES = frozenset({"backup", "backup.mode.full"})

    def __init__(self, platform: Any) -> None:
        self.platform = platform
        self._volumes: Dict[Tuple[Any, ...], str] = {}
        self._only: Optional[str] = None

    def look_in(self, target: str) -> None:
        """Look for backups in one storage only."""
        self._only = target

    def read(self, kinds: Collection[str], names: Mapping[str, Collection[str]]) -> State:
        session = self.platform.session
        pools = [name for name in _pools(self.platform.storages()) if self._only in (None, name)]
        reads = [Read(("nodes", session.node, "storage", pool, "content"), {"content": "backup"}) for pool in pools]
        by_id = {guest.vmid: guest.name for guest in self.platform.listed_guests()}
        found: Dict[Any, ModelObject] = {}
        self._volumes = {}
        for pool, entries in zip(pools, session.get_many(reads)):
            for entry in entries:
                backup = _describe(entry, pool, by_id)
                if backup is not None:
                    found[backup.key] = backup
                    self._volumes[backup.key] = str(entry["volid"])
        return {"backup": found}

    def restore(
        self,
        key: Tuple[str, str],
        new_name: Optional[str],
        power: Optional[str],
        operation: Operation,
        check: bool = False,
        progress: Optional[Callable[[str], None]] = None,
    ) -> Plain:
        """Bring a VM back from a backup and return the task's result.

        key: the VM and the name of the backup. new_name, power: as in :class:`restore.Order`.
        Raises ValidateError before anything is touched, ReadError, ApplyError, VerifyError.
        """
        pools = _pools(self.platform.storages())
        if self._only is not None and self._only not in pools:
            there = ", ".join(pools) or "none"
            problem = f"{show(self._only)} is no storage that takes backups; there are: {there}"
            raise ValidateError([Problem("target", problem)])
        self.read(self.KINDS, {})
        volume = self._volumes.get(key)
        if volume is None:
            names = ", ".join(show(name) for vm, name in sorted(self._volumes) if vm == key[0]) or "none"
            raise ValidateError(
                [Problem("name", f"VM {show(key[0])} has no backup {show(key[1])}; there are: {names}")]
            )
        return Restoring(self.platform, Order(key, volume, new_name, power), operation).restore(check, progress)

    def validate(self, change: Change, context: Context) -> Iterable[Problem]:
        backup = change.after
        if not isinstance(backup, Backup) or change.before is not None:
            return
        pools = _pools(self.platform.storages_to_be(context))
        if backup.target not in pools:
            there = ", ".join(pools) or "none"
            yield Problem(
                backup.place.field("target").text,
                f"{show(backup.target)} is no storage that takes backups; there are: {there}",
            )
        if context.find("vm", backup.vm) is None and not any(
            guest.name == backup.vm for guest in self.platform.listed_guests()
        ):
            yield Problem(backup.place.field("vm").text, f"there is no VM {show(backup.vm)}")

    def apply(self, changes: Sequence[Change], context: Context) -> None:
        # vzdump takes one VM of a node at a time; those that follow would only wait for its lock.
        carry_out(self.platform.session, [self._all(changes, context)])

    def _all(self, changes: Sequence[Change], context: Context) -> Job:
        session = self.platform.session
        for change in changes:
            context.begin(change)
            backup = change.after
            if isinstance(backup, Backup):
                guest = self.platform.guest(str(backup.vm))
                params = {
                    "vmid": guest.vmid,
                    "storage": backup.target,
                    "mode": "snapshot",
                    "compress": "zstd",
                    "remove": 0,
                    "notes-template": _note(backup),
                }
                yield Task(str(session.ask("POST", ("nodes", session.node, "vzdump"), params).data or ""), str(change))
            else:
                volume = self._volumes.get(change.key)
                if volume is None:
                    raise ApplyError(f"{change.item.place.text} is not there any more")
                path = ("nodes", session.node, "storage", volume.partition(":")[0], "content", volume)
                yield Task(str(session.ask("DELETE", path, {}).data or ""), str(change))
            context.done(change)


def _pools(storages: Mapping[str, Any]) -> List[str]:
    return [
        name
        for name, entry in sorted(storages.items())
        if entry.get("active") and "backup" in str(entry.get("content", "")).split(",")
    ]


def _note(backup: Backup) -> str:
    """Return the template of an archive's notes; PVE reads backslashes in it (PVE::VZDump::Common, notes-template)."""
    text = json.dumps({"name": backup.name, "vm": backup.vm}, sort_keys=True)
    return f"bareforge {text}".replace("\\", "\\\\")


def _describe(entry: Mapping[str, Any], pool: str, by_id: Mapping[int, str]) -> Optional[Backup]:
    note = NOTE.search(str(entry.get("notes") or ""))
    facts: Any = {}
    if note:
        try:
            facts = json.loads(note.group(1))
        except ValueError:
            facts = {}
    vmid = int(entry.get("vmid") or 0)
    vm = facts.get("vm") or by_id.get(vmid)
    stem = str(entry["volid"]).rpartition("/")[2].partition(".")[0]
    if not vm or not stem.startswith("vzdump-qemu-"):
        return None
    return Backup(vm=str(vm), name=str(facts.get("name") or stem), target=pool, mode="full", quiesce=False)
