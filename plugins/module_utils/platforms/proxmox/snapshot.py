# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Snapshots of VMs (PVE::API2::Qemu, snapshot)."""

from __future__ import annotations

import re
from typing import Any, Collection, Dict, Iterable, List, Mapping, Sequence

from ...engine.change import Change
from ...engine.platform import Context, Interface
from ...errors import Problem
from ...model.compute import Snapshot
from ...model.document import State
from ...model.schema import ModelObject
from ...model.types import show
from ...transports.proxmox import Job, Read, Task
from .guests import Guest
from .jobs import carry_out

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{1,39}")
RESERVED = ("current", "pending")


class ProxmoxSnapshots(Interface):
    """Takes and removes snapshots, and goes back to them."""

    KINDS = ("snapshot",)
    CAPABILITIES = frozenset({"snapshot", "snapshot.memory"})

    def __init__(self, platform: Any) -> None:
        self.platform = platform

    def read(self, kinds: Collection[str], names: Mapping[str, Collection[str]]) -> State:
        session = self.platform.session
        wanted = names.get("snapshot")
        guests = [guest for guest in self.platform.listed_guests() if not guest.template and not guest.is_unfinished]
        guests = [guest for guest in guests if wanted is None or guest.name in wanted]
        answers = session.get_many([Read(("nodes", session.node, "qemu", guest.vmid, "snapshot")) for guest in guests])
        found: Dict[Any, ModelObject] = {}
        for guest, entries in zip(guests, answers):
            for entry in entries:
                # What was not finished is none; the next run removes and takes it anew.
                if entry["name"] == "current" or entry.get("snapstate"):
                    continue
                snapshot = Snapshot(
                    vm=guest.name,
                    name=str(entry["name"]),
                    description=str(entry.get("description") or "").rstrip("\n") or None,
                    memory=bool(entry.get("vmstate")),
                    quiesce=False,
                )
                found[snapshot.key] = snapshot
        return {"snapshot": found}

    def validate(self, change: Change, context: Context) -> Iterable[Problem]:
        snapshot = change.after
        if not isinstance(snapshot, Snapshot) or change.before is not None:
            return
        name = str(snapshot.name)
        if not NAME.fullmatch(name) or name.lower() in RESERVED:
            yield Problem(
                snapshot.place.field("name").text,
                f"{show(name)} is no name of a snapshot; allowed are 2 to 40 letters, digits, _ and -, with a letter first, and"
                f" not {' or '.join(RESERVED)}",
            )
        vm = context.find("vm", snapshot.vm)
        if snapshot.memory and getattr(vm, "power", "running") == "stopped":
            yield Problem(snapshot.place.field("memory").text, "goes with a VM that runs only")

    def apply(self, changes: Sequence[Change], context: Context) -> None:
        # A VM takes one snapshot at a time; those of different VMs are taken side by side.
        by_vm: List[List[Change]] = []
        for change in changes:
            own = next((each for each in by_vm if each[0].key[0] == change.key[0]), None)
            if own is None:
                by_vm.append([change])
            else:
                own.append(change)
        carry_out(self.platform.session, [self._all_of(each, context) for each in by_vm])

    def _all_of(self, changes: Sequence[Change], context: Context) -> Job:
        session = self.platform.session
        guest = self.platform.guest(str(changes[0].key[0]))
        path = ("nodes", session.node, "qemu", guest.vmid, "snapshot")
        for change in changes:
            context.begin(change)
            name = str(change.key[1])
            if change.after is None:
                upid = session.delete(*path, name)
            else:
                yield from self._remove_unfinished(guest, name)
                snapshot: Any = change.after
                upid = session.post(
                    *path, snapname=name, description=snapshot.description or None, vmstate=bool(snapshot.memory)
                )
            yield Task(str(upid), str(change))
            context.done(change)

    def _remove_unfinished(self, guest: Guest, name: str) -> Job:
        session = self.platform.session
        path = ("nodes", session.node, "qemu", guest.vmid, "snapshot")
        if any(entry["name"] == name and entry.get("snapstate") for entry in session.get(*path)):
            yield Task(str(session.delete(*path, name, force=True)), f"removing the unfinished snapshot {name}")

    def revert(self, vm: str, name: str, check: bool) -> None:
        """Take a VM back to a snapshot. Nothing is done where check is true."""
        guest = self.platform.guest(vm)
        if check:
            return
        session = self.platform.session
        upid = session.post("nodes", session.node, "qemu", guest.vmid, "snapshot", name, "rollback")
        session.wait({str(upid): f"taking VM {show(vm)} back to {show(name)}"})
        self.platform.forget_guests()
