# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""VMs that are brought back from archives of vzdump (PVE::API2::Qemu, create_vm with `archive`).

Another VM bears the name of what is being made until it is complete. In place, PVE itself replaces the VM's disks under its
id, in a task that goes on when we are gone: the next run waits for that task's lock and restores once more.
"""

from __future__ import annotations

import dataclasses
import re
import time
from typing import Any, Callable, Dict, Iterator, List, Optional, Set, Tuple
from urllib.parse import unquote

from ...engine.platform import Context
from ...errors import Problem, ValidateError, VerifyError
from ...model.compute import Vm
from ...model.operation import Operation
from ...model.schema import Path, Plain
from ...model.types import show
from ...transports.proxmox import Job, Task
from .guests import DRIVE, TO_BE, Guest, joined_tags, snapshot_names
from .jobs import carry_out
from .network import Placed
from .node_network import all_bridges
from .notes import join_description
from .property_strings import join_nic
from .vm_checks import name_problems
from .vm_config import describe, mac_of

OWN_VOLUMES = re.compile(rf"{DRIVE.pattern}|efidisk0|tpmstate0")
LOCK_WAIT = 120.0
"""Seconds that a restore is waited for that a killed run has started."""


def parse_configuration(text: str) -> Dict[str, Any]:
    """Return the configuration in an archive as the API would tell it (qm.conf(5)); snapshots in it are left out.

    The description is kept in comment lines, with `%` and `:` and what is no ASCII escaped (PVE::Tools, encode_text).
    """
    config: Dict[str, Any] = {}
    lines: List[str] = []
    for line in text.splitlines():
        if line.startswith("["):
            break
        if line.startswith("#"):
            if not line.startswith("#qmdump#"):
                lines.append(unquote(line[1:]))
            continue
        name, colon, value = line.partition(":")
        if colon:
            config[name.strip()] = value.strip()
    if lines:
        config["description"] = "\n".join(lines) + "\n"
    return config


@dataclasses.dataclass
class Order:
    """What is to be restored.

    key: the VM that was backed up, and the backup's name. volume: the archive.
    new_name: of another VM that is made of it; in place where None.
    power: `running` or `stopped`; where None, a VM in place is as it was before, and another one is stopped.
    """

    key: Tuple[str, str]
    volume: str
    new_name: Optional[str]
    power: Optional[str]

    @property
    def name(self) -> str:
        """The name of the VM that is made or replaced."""
        return self.new_name or self.key[0]

    @property
    def place(self) -> Path:
        """Where it stands in error messages."""
        return Path("backup").item("/".join(self.key))

    @property
    def vmid(self) -> int:
        """The id that the VM had when the archive was made."""
        found = re.search(r"vzdump-qemu-(\d+)-", self.volume)
        return int(found.group(1)) if found else 0


class Restoring:
    """One restore on a node."""

    def __init__(self, platform: Any, order: Order, operation: Operation) -> None:
        self.platform = platform
        self.order = order
        self.operation = operation
        self.archived = Guest(order.vmid, order.name)
        self.present: Optional[Guest] = None

    def restore(self, check: bool, progress: Optional[Callable[[str], None]]) -> Plain:
        """Bring the VM back and return the task's result.

        Raises ValidateError before anything is changed, ApplyError, VerifyError.
        """
        order, session = self.order, self.platform.session
        if not check:
            self._wait_for_killed()
        self.present = self._found()
        placed = Placed(self.platform.network())
        if order.new_name and self.present and self.present.facts.get("restored") == order.volume:
            shown = self._shown(self.present, placed)
            return {"changed": False, "changes": [], "before": shown, "after": shown, "planned": shown}
        text = session.get("nodes", session.node, "vzdump", "extractconfig", volume=order.volume)
        self.archived.take(parse_configuration(str(text)))
        problems = list(self._problems(placed))
        if problems:
            raise ValidateError(problems)
        before = self._shown(self.present, placed) if self.present is not None else {"vms": []}
        power = self._power()
        planned = {"vms": [dataclasses.replace(self._planned(placed), power=power).to_document()]}
        change: Plain = {
            "kind": "vm",
            "key": order.name,
            "action": "restore" if self.present else "create",
            "fields": [],
        }
        result: Plain = {"changed": True, "changes": [change], "before": before, "after": planned, "planned": planned}
        if not check:
            context = Context({}, {}, self.operation, progress)
            context.progress(f"{change['action']} vm {order.name} from {order.volume}")
            try:
                carry_out(session, [self._done(context, power)])
            finally:
                self.platform.forget_guests()
            result["after"] = {"vms": [self._verified(placed, power).to_document()]}
        return result

    def _found(self) -> Optional[Guest]:
        """Return the VM that is to be made or replaced as it is now, with its configuration."""
        name = self.order.name
        return next(
            (guest for guest in self.platform.guests([name]) if guest.name == name and not guest.template), None
        )

    def _wait_for_killed(self) -> None:
        """Wait for a restore of this VM that a killed run has started and that goes on without it."""
        end = time.monotonic() + LOCK_WAIT
        while time.monotonic() < end and any(
            guest.lock == "create" and (guest.name == self.order.name or guest.vmid == self.order.vmid)
            for guest in self.platform.listed_guests()
        ):
            time.sleep(0.5)
            self.platform.listed_guests(anew=True)

    def _shown(self, guest: Guest, placed: Placed) -> Plain:
        return {"vms": [describe(guest, placed, self.platform.resource_pool_of(guest.vmid)).to_document()]}

    def _power(self) -> str:
        if self.order.power:
            return self.order.power
        return "running" if self.present is not None and self.present.runs else "stopped"

    # -- objections ----------------------------------------------------------------------------------------------------

    def _problems(self, placed: Placed) -> Iterator[Problem]:
        order, session = self.order, self.platform.session
        place = order.place.text
        if order.new_name is not None:
            for _field, message in name_problems(order.new_name, "VM"):
                yield Problem("new_name", message)
        taken = self.platform.elsewhere(order.name)
        if self.present is not None and order.new_name is not None:
            taken = "there is a VM of the name already"
        elif any(guest.name == order.name and guest.template for guest in self.platform.listed_guests()):
            taken = "a template of the node is called so"
        if taken:
            yield Problem("new_name" if order.new_name else place, f"{show(order.name)} is taken: {taken}")
        elif self.present is not None:
            yield from self._problems_in_place(self.present)
        storages = self.platform.storages()
        for _key, name, parts in self.archived.disks():
            pool = parts["file"].partition(":")[0]
            if "images" not in str(storages.get(pool, {}).get("content", "")).split(","):
                yield Problem(place, f"disk {show(name)} lay in {show(pool)}, which takes no disks on this node")
        bridges: Optional[Set[str]] = None
        for _key, name, parts in self.archived.nics():
            bridge = parts.get("bridge")
            if bridge and bridge not in placed.network.interfaces:
                # Those of the cluster's networks are told by this list only.
                bridges = all_bridges(session, session.node) if bridges is None else bridges
            if bridge and bridge not in placed.network.interfaces and bridge not in (bridges or ()):
                yield Problem(place, f"NIC {show(name)} needs the switch {show(bridge)}, which is not there")

    def _problems_in_place(self, guest: Guest) -> Iterator[Problem]:
        place = self.order.place.text
        session = self.platform.session
        if guest.is_locked:
            yield Problem(place, f"VM {show(guest.name)} is locked by Proxmox VE ({guest.lock})")
        if str(guest.config.get("protection") or "0") == "1":
            yield Problem(place, f"VM {show(guest.name)} is protected; take its protection away first")
        entries = session.get("nodes", session.node, "qemu", guest.vmid, "snapshot")
        names = snapshot_names(entries)
        if names:
            yield Problem(
                place,
                f"VM {show(guest.name)} has snapshots, which go with its disks: {', '.join(names)}; remove them first",
            )
        if guest.runs and not self.operation.allow_restart:
            power = "suspended" if guest.paused else "running"
            yield Problem(
                place, f"VM {show(guest.name)} is {power}; allowed with allow_restart: true, or with the VM stopped"
            )

    # -- changing ------------------------------------------------------------------------------------------------------

    def _planned(self, placed: Placed) -> Vm:
        """Return the VM as it will be, by what the archive says."""
        guest = self.archived
        if self.order.new_name is not None:
            guest = Guest(0, self.order.name, config=dict(guest.config))
            params, deletes = self._own(self.archived)
            guest.take({name: value for name, value in {**guest.config, **params}.items() if name not in deletes})
        elif self.archived.facts.get("clone") == "linked":
            guest = Guest(0, self.order.name, config=dict(guest.config), description=guest.description)
            guest.facts = {**self.archived.facts, "clone": "full"}
        pool = self.platform.resource_pool_of(self.present.vmid) if self.present is not None else None
        return describe(guest, placed, pool)

    def _own(self, guest: Guest) -> Tuple[Dict[str, Any], List[str]]:
        """Return what another VM has of its own: what is set and what is taken away of the archive's configuration.

        Static addresses, and that it starts with the node, are those of the first one; a clone that was linked is one no more.
        """
        params: Dict[str, Any] = {}
        deletes = [name for name in guest.config if re.fullmatch(r"ipconfig\d+|onboot|startup", name)]
        for key, name, parts in guest.nics():
            params[key] = join_nic({**parts, "macaddr": mac_of(self.order.name, name).upper()})
            if guest.cloud_init():
                params[f"ipconfig{key[3:]}"] = "ip=dhcp"
                deletes = [entry for entry in deletes if entry != f"ipconfig{key[3:]}"]
        facts = {**guest.facts, "restored": self.order.volume}
        if facts.get("clone") == "linked":
            facts["clone"] = "full"
        params["description"] = join_description(guest.description, facts)
        return params, deletes

    def _done(self, context: Context, power: str) -> Job:
        order, session, vms = self.order, self.platform.session, self.platform.owner("vm")
        path = ("nodes", session.node, "qemu")
        what = f"restoring VM {show(order.name)} from {order.volume}"
        if order.new_name is not None:
            params: Dict[str, Any] = {"archive": order.volume, "unique": 1}
            guest, task = vms.new_guest(path, "vmid", params, what)
            yield task
            guest.take(session.ask("GET", (*path, guest.vmid, "config"), {"current": 1}).data)
            own, deletes = self._own(guest)
            own.update(name=order.name, digest=guest.config.get("digest"))
            if power in TO_BE:
                own["tags"] = joined_tags(guest.tags, power)
            session.ask("PUT", (*path, guest.vmid, "config"), {**own, "delete": ",".join(deletes) or None})
        else:
            guest = self.present or Guest(self._id_of_gone(), order.name)
            if guest.runs:
                yield from vms.stop(guest, context)
            force = 1 if self.present is not None else None
            tags = joined_tags(self.archived.tags, power) if power in TO_BE else None
            params = {"vmid": guest.vmid, "archive": order.volume, "force": force, "tags": tags}
            upid = session.ask("POST", path, params).data
            yield Task(str(upid), what)
            guest.take(session.ask("GET", (*path, guest.vmid, "config"), {"current": 1}).data)
            if guest.facts.get("clone") == "linked":
                text = join_description(guest.description, {**guest.facts, "clone": "full"})
                digest = guest.config.get("digest")
                session.ask("PUT", (*path, guest.vmid, "config"), {"description": text, "digest": digest})
        if power == "running":
            yield from vms.start_marked(guest, power, guest.tags)

    def _id_of_gone(self) -> int:
        """Return the id for a VM that is gone: the one it had, if nobody else has it now."""
        taken = {int(entry["vmid"]) for entry in self.platform.resources()}
        return int(self.platform.free_id()) if self.order.vmid in taken or not self.order.vmid else self.order.vmid

    def _verified(self, placed: Placed, power: str) -> Vm:
        order = self.order
        guest = self._found()
        if guest is None:
            raise VerifyError(f"did not take: VM {show(order.name)} is not there")
        vm = describe(guest, placed, self.platform.resource_pool_of(guest.vmid))
        wanted = sorted(name for name in self.archived.config if OWN_VOLUMES.fullmatch(name))
        missing = [name for name in wanted if name not in guest.config]
        if missing:
            raise VerifyError(f"did not take: VM {show(order.name)} lacks {', '.join(missing)}")
        if (vm.power == "running") != (power == "running"):
            raise VerifyError(f"did not take: VM {show(order.name)} is {vm.power} and not {power}")
        return vm
