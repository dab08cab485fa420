# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A platform of every kind whose host lives in memory, with faults that can be switched on.

The host is as strict as a real one: it refuses an object that names what is not there, the removal of what is in use,
and an uplink that another switch holds. So a wrong order of changes shows as an error and not only as an odd list.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import threading
import time
from dataclasses import dataclass, field
from typing import (
    Any,
    ClassVar,
    Collection,
    Dict,
    FrozenSet,
    Iterator,
    List,
    Mapping,
    Optional,
    Sequence,
    Set,
    Tuple,
    Type,
)

from ansible_collections.bareforge.hypervisor.plugins.module_utils.engine.change import POWER_CYCLE, Change
from ansible_collections.bareforge.hypervisor.plugins.module_utils.engine.platform import (
    Context,
    Guard,
    Interface,
    Platform,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import (
    ApplyError,
    ConnectError,
    GuardError,
    Problem,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.document import (
    KINDS,
    Document,
    State,
    capabilities_of,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.operation import Operation
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.schema import ModelObject, NestedList, Plain

TEMPLATE_SIZE = 2048
"""The size in MiB of every template's image on a host in memory."""


class Killed(BaseException):
    """Stands for the death of the process: nothing may catch it and tidy up."""


@dataclass
class Faults:
    """What goes wrong on the host; changes are counted from 1 over the host's life.

    kill_before, kill_within, kill_after: the process dies before, in the middle of, after that change.
    error_at: that change is refused with an ApplyError and does nothing.
    crash_at: that change raises an exception that is none of ours.
    ignored: (kind, field) of writes that are answered with success and change nothing.
    ignored_at: that change as a whole is answered with success and changes nothing.
    untold: (kind, dotted field) that reading leaves out.
    delay: seconds that every change takes.
    undo_fails: whether the guard's undo breaks off.
    """

    kill_before: Optional[int] = None
    kill_within: Optional[int] = None
    kill_after: Optional[int] = None
    error_at: Optional[int] = None
    crash_at: Optional[int] = None
    ignored: Set[Tuple[str, str]] = field(default_factory=set)
    ignored_at: Optional[int] = None
    untold: Set[Tuple[str, str]] = field(default_factory=set)
    delay: float = 0.0
    undo_fails: bool = False


class MemoryHost:
    """A host that outlives the sessions to it.

    objects: what is there, complete and with its secrets.
    unfinished: what a change in progress has made so far; must be empty whenever nobody works on the host.
    log: what happened, one line a step: `read ...`, `begin ...`, `done ...`, `arm`, `confirm`, `undo`, `finish ...`.
    batches: the changes of every call of `apply`, as text.
    """

    def __init__(self, faults: Optional[Faults] = None) -> None:
        self.objects: State = {kind: {} for kind in KINDS}
        self.unfinished: Dict[Tuple[str, Tuple[Any, ...]], ModelObject] = {}
        self.faults = faults or Faults()
        self.log: List[str] = []
        self.batches: List[List[str]] = []
        self.changes = 0
        self.mutex = threading.Lock()
        self.lock_timeout = 0.0
        self.guard_state: Optional[State] = None

    @classmethod
    def holding(cls, data: Plain) -> MemoryHost:
        """Return a host on which the objects of a document, in plain data, are there already."""
        host = cls()
        for item in Document.parse(data).objects():
            host.objects[item.KIND][item.key] = settled(item.complete(None))
        return host

    def snapshot(self) -> State:
        """Return what is there now, to compare with later."""
        return {kind: dict(objects) for kind, objects in self.objects.items()}

    def restart_counting(self) -> None:
        """Forget log, batches and the number of changes, and switch all faults off."""
        self.changes = 0
        self.log.clear()
        self.batches.clear()
        self.faults = Faults()
        # A lock dies with the process that held it.
        self.mutex = threading.Lock()

    # What a real host would refuse.

    def refuse_dangling(self, item: ModelObject, exists: bool) -> None:
        for kind, label, path in item.references(exists):
            if (label,) not in self.objects[kind]:
                raise ApplyError(f"{path.text}: the host has no {kind} {label!r}")

    def refuse_taken(self, item: ModelObject) -> None:
        # Two guests may have one MAC address as far as a host is concerned; two switches cannot share an uplink.
        wanted = {(what, name) for what, name, _path in item.claims() if what != "MAC"}
        for other in self.objects[item.KIND].values() if wanted else ():
            if other.key != item.key:
                for what, name, path in other.claims():
                    if (what, name) in wanted:
                        raise ApplyError(f"{item.place.text}: {what} {name!r} is held by {path.text}")

    def refuse_in_use(self, item: ModelObject) -> None:
        for objects in self.objects.values():
            for other in objects.values():
                parts = {(kind, label) for kind, label, how in other.belongs_to() if how == "include"}
                for kind, label, path in other.references(True):
                    if (kind, label) == (item.KIND, item.label) and (kind, label) not in parts:
                        raise ApplyError(f"{item.place.text}: is in use by {path.text}")


def generated_mac(vm: str, nic: str) -> str:
    """Return the MAC address that the host chooses for a NIC for which none is given."""
    digest = hashlib.sha256(f"{vm}\0{nic}".encode("utf-8", "surrogatepass")).hexdigest()
    return f"52:54:00:{digest[0:2]}:{digest[2:4]}:{digest[4:6]}"


def settled(item: ModelObject) -> ModelObject:
    """Return an object with what a host chooses where nothing was said: MAC addresses, firmware, sizes."""
    if item.KIND != "vm":
        return item
    vm: Any = item
    chosen: Dict[str, Any] = {"firmware": vm.firmware or ("uefi" if vm.secure_boot else "bios")}
    if vm.template and not vm.clone:
        chosen["clone"] = "full"
    if vm.nics:
        chosen["nics"] = tuple(
            dataclasses.replace(nic, mac=nic.mac or generated_mac(vm.name, nic.name)) for nic in vm.nics
        )
    if vm.disks:
        chosen["disks"] = tuple(dataclasses.replace(disk, size=disk.size or TEMPLATE_SIZE) for disk in vm.disks)
    return dataclasses.replace(vm, **chosen)


def told(item: ModelObject, untold: Collection[str] = (), prefix: str = "") -> ModelObject:
    """Return an object as reading shows it: without secrets and without the dotted fields that are not told."""
    shown: Dict[str, Any] = {}
    for name, entry, value in item.items():
        if entry.secret or f"{prefix}{name}" in untold:
            shown[name] = None
        elif isinstance(value, ModelObject):
            shown[name] = told(value, untold, f"{prefix}{name}.")
        elif isinstance(entry.type, NestedList):
            shown[name] = tuple(told(inner, untold, f"{prefix}{name}.") for inner in value)
    return dataclasses.replace(item, **shown)


def every_capability() -> FrozenSet[str]:
    """Return every capability that the model knows, with each value where a capability ends in a star."""
    return frozenset().union(*(capabilities_of(cls) for cls in (*KINDS.values(), Operation)))


class MemoryInterface(Interface):
    """Reads and changes the kinds of one part of a host in memory."""

    def __init__(self, platform: MemoryPlatform) -> None:
        self.host = platform.host

    def read(self, kinds: Collection[str], names: Mapping[str, Collection[str]]) -> State:
        self.host.log.append(f"read {' '.join(sorted(kinds))}")
        state: State = {}
        for kind in kinds:
            untold = {name for untold_kind, name in self.host.faults.untold if untold_kind == kind}
            state[kind] = {
                key: told(item, untold)
                for key, item in self.host.objects[kind].items()
                if kind not in names or not key or key[0] in names[kind]
            }
        return state

    def apply(self, changes: Sequence[Change], context: Context) -> None:
        self.host.batches.append([str(change) for change in changes])
        for change in changes:
            context.begin(change)
            self._make(change)
            context.done(change)
            self.host.log.append(f"done {change}")
            if self.host.faults.kill_after == self.host.changes:
                raise Killed

    def _make(self, change: Change) -> None:
        host, faults = self.host, self.host.faults
        host.changes += 1
        host.log.append(f"begin {change}")
        if faults.delay:
            time.sleep(faults.delay)
        if faults.kill_before == host.changes:
            raise Killed
        if faults.error_at == host.changes:
            raise ApplyError(f"{change} was refused by the host")
        if faults.crash_at == host.changes:
            raise RuntimeError(f"a fault of the driver in {change}")
        if faults.ignored_at == host.changes:
            return
        objects = host.objects[change.kind]
        place = (change.kind, change.key)
        if change.after is None:
            host.refuse_in_use(change.item)
            host.unfinished[place] = change.item
            if faults.kill_within == host.changes:
                raise Killed
            objects.pop(change.key, None)
            if change.kind == "vm":
                for key in [key for key in host.objects["snapshot"] if key[0] == change.key[0]]:
                    del host.objects["snapshot"][key]
        else:
            host.refuse_dangling(change.after, change.key in objects)
            host.refuse_taken(change.after)
            stored = settled(self._written(change))
            host.unfinished[place] = stored
            if faults.kill_within == host.changes:
                raise Killed
            objects[change.key] = stored
        del host.unfinished[place]

    def _written(self, change: Change) -> ModelObject:
        assert change.after is not None
        present = self.host.objects[change.kind].get(change.key)
        kept = {
            name: getattr(present, name) if present is not None else None
            for kind, name in self.host.faults.ignored
            if kind == change.kind
        }
        return dataclasses.replace(change.after, **kept)

    def touches_management(self, change: Change, context: Context) -> bool:
        return any(
            item is not None and carries_management(item, context.before) for item in (change.before, change.after)
        )

    def keeps(self, item: ModelObject, state: State) -> Optional[str]:
        if item.KIND == "vm" and getattr(item, "power", None) == "running":
            return "it runs"
        if item.KIND != "firewall" and carries_management(item, state):
            return "it carries the management path"
        return None

    def needs(self, change: Change, context: Context) -> FrozenSet[str]:
        if change.kind == "vm" and change.action == "update" and getattr(change.before, "power", None) == "running":
            if any(name.startswith(("cpu.count", "memory.size")) for name in change.fields):
                return frozenset({POWER_CYCLE})
        return frozenset()

    def validate(self, change: Change, context: Context) -> Iterator[Problem]:
        if change.after is not None and "forbidden" in change.item.label:
            yield Problem(change.item.place.field(change.item.key_fields()[0]).text, "the host takes no such name")
        if change.after is not None and "doubtful" in change.item.label:
            context.warn(f"{change.item.place.text} has a doubtful name")

    def finish(self, changes: Sequence[Change], context: Context) -> None:
        self.host.log.append(f"finish {' '.join(change.item.place.text for change in changes)}")
        wait_for = context.operation.wait_for
        if wait_for is not None and any("silent" in change.item.label for change in changes):
            raise ApplyError(f"a guest showed no {wait_for.what} within {wait_for.timeout} s")


def carries_management(item: ModelObject, state: State) -> bool:
    """Return whether an object is the firewall, or the management interface or what it stands on."""
    if item.KIND == "firewall":
        return True
    if item.KIND == "host_interface":
        return "management" in (getattr(item, "roles", None) or ())
    interfaces = [
        interface
        for interface in state.get("host_interface", {}).values()
        if "management" in (getattr(interface, "roles", None) or ())
    ]
    networks = {getattr(interface, "network", None) for interface in interfaces}
    if item.KIND == "virtual_network":
        return item.label in networks
    if item.KIND == "virtual_switch":
        return any(
            getattr(network, "switch", None) == item.label
            for network in state.get("virtual_network", {}).values()
            if network.label in networks
        )
    return False


class MemoryGuard(Guard):
    """Keeps the host as it was before the first risky change."""

    def __init__(self, host: MemoryHost) -> None:
        self.host = host

    def arm(self, changes: Sequence[Change], context: Context, timeout: int) -> Plain:
        self.host.log.append("arm")
        self.host.guard_state = self.host.snapshot()
        return {"token": "undo-1"}

    def confirm(self, token: str) -> None:
        if self.host.guard_state is None:
            raise GuardError("the undo has run already")
        self.host.log.append("confirm")
        self.host.guard_state = None

    def undo(self, token: str) -> None:
        if self.host.faults.undo_fails:
            raise GuardError("the host does not answer")
        assert token == "undo-1" and self.host.guard_state is not None
        self.host.log.append("undo")
        self.host.objects = self.host.guard_state
        self.host.guard_state = None


def _interface(*kinds: str) -> Type[MemoryInterface]:
    own = frozenset(name for name in every_capability() if name.split(".")[0] in kinds)
    return type(f"Memory_{'_'.join(kinds)}", (MemoryInterface,), {"KINDS": kinds, "CAPABILITIES": own})


class MemoryPlatform(Platform):
    """A platform of every kind and every capability, in memory."""

    NAME = "memory"
    INTERFACES: ClassVar[Tuple[Type[MemoryInterface], ...]] = (
        _interface("system"),
        _interface("tuning"),
        _interface("storage_pool"),
        _interface("virtual_switch", "virtual_network", "host_interface"),
        _interface("firewall", "firewall_rule"),
        _interface("realm", "role", "user", "permission"),
        _interface("resource_pool", "template", "vm", "snapshot", "backup"),
        _interface("port_acl"),
    )
    GUARDED: ClassVar[bool] = True

    def __init__(self, host: MemoryHost) -> None:
        self.host = host
        super().__init__({})

    def guard(self) -> Optional[Guard]:
        return MemoryGuard(self.host) if self.GUARDED else None

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        mutex = self.host.mutex
        if not mutex.acquire(timeout=self.host.lock_timeout) if self.host.lock_timeout else not mutex.acquire(False):
            raise ConnectError("another run works on this host", "Wait for it, or find out what holds it up")
        try:
            yield
        finally:
            mutex.release()

    def recover(self) -> None:
        self.host.unfinished.clear()


def platform_without(capabilities: Collection[str] = (), guarded: bool = True) -> type:
    """Return a class of platform that lacks some capabilities; a kind's name takes away the whole kind."""
    classes = []
    for cls in MemoryPlatform.INTERFACES:
        kinds = tuple(kind for kind in cls.KINDS if kind not in capabilities)
        left = frozenset(name for name in cls.CAPABILITIES if name not in capabilities and name.split(".")[0] in kinds)
        if kinds:
            classes.append(type(cls.__name__, (cls,), {"KINDS": kinds, "CAPABILITIES": left}))
    return type("LesserPlatform", (MemoryPlatform,), {"INTERFACES": tuple(classes), "GUARDED": guarded})
