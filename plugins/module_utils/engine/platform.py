# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the engine expects of a platform.

A platform is composed of narrow interfaces, each of which reads and changes a few kinds. The engine knows no platform
by name: it asks for capabilities, current objects, objections to a plan, and carries changes to whoever owns the kind.
"""

from __future__ import annotations

import contextlib
from typing import (
    Any,
    Callable,
    ClassVar,
    Collection,
    ContextManager,
    Dict,
    FrozenSet,
    Iterable,
    List,
    Mapping,
    Optional,
    Sequence,
    Tuple,
    Type,
)

from ..errors import Problem
from ..model.document import Key, State
from ..model.operation import Operation
from ..model.schema import ModelObject, Plain
from .change import Change


class Context:
    """What an interface is told while changes are made.

    before: the host as it was read; all kinds that the planned ones refer to are in it.
    wanted: the host as it shall be, complete.
    operation: deadlines, restarts and the like.
    """

    def __init__(
        self,
        before: State,
        wanted: State,
        operation: Operation,
        progress: Optional[Callable[[str], None]] = None,
    ) -> None:
        self.before = before
        self.wanted = wanted
        self.operation = operation
        self.warnings: List[str] = []
        self.finished: List[Change] = []
        self._progress = progress

    def find(self, kind: str, name: Optional[str]) -> Any:
        """Return the object of a kind with a single key as it shall be, or None."""
        return self.wanted.get(kind, {}).get((name,))

    def begin(self, change: Change) -> None:
        """Say that a change is about to be made. Called by the interface right before it touches the host."""
        self.progress(str(change))

    def done(self, change: Change) -> None:
        """Say that a change is complete on the host. Called by the interface."""
        self.finished.append(change)

    def warn(self, message: str) -> None:
        """Add a warning to the task's result."""
        self.warnings.append(message)

    def progress(self, message: str) -> None:
        """Say what is going on, for long tasks."""
        if self._progress:
            self._progress(message)


class Interface:
    """One narrow part of a platform: the base of network, firewall, access, storage, compute and the like.

    KINDS: the kinds it reads and changes.
    CAPABILITIES: what it can do, by the names that the model's options carry; each must be shown by a test.
    IN_ORDER: whether `apply` makes changes in the order in which it is given them, so that one call may have some that depend on
        others; for what one transaction carries as a whole.
    """

    KINDS: ClassVar[Tuple[str, ...]] = ()
    CAPABILITIES: ClassVar[FrozenSet[str]] = frozenset()
    IN_ORDER: ClassVar[bool] = False

    def read(self, kinds: Collection[str], names: Mapping[str, Collection[str]]) -> State:
        """Return the current objects of those kinds, in as few round trips as the API allows.

        kinds: some of KINDS; the result has an entry for each, even if it is empty.
        names: where a kind is in it, only objects whose first key is among the names are needed; more may be returned. Those
            of `system` are the services that must be told.
        Fields that the host does not tell are None. A field that can be changed must be told, or the engine would
        change it in every run.
        Raises ReadError, ConnectError or AuthenticateError.
        """
        raise NotImplementedError

    def hidden(self, kind: str, key: Key) -> Optional[str]:
        """Return what an object is that `read` never tells though it is there, such as root; None for all others.

        It is asked of what shall be absent and was not read: that it is gone already would be a lie.
        """
        return None

    def validate(self, change: Change, context: Context) -> Iterable[Problem]:
        """Return what speaks against a change on this platform: names it cannot hold, limits, missing devices.

        Nothing may be changed by it.
        """
        return ()

    def needs(self, change: Change, context: Context) -> FrozenSet[str]:
        """Return what the change takes beside itself: POWER_CYCLE, HOST_REBOOT."""
        return frozenset()

    def touches_management(self, change: Change, context: Context) -> bool:
        """Return whether the change may cut off the path that the host is managed through."""
        return False

    def keeps(self, item: ModelObject, state: State) -> Optional[str]:
        """Return why `exact` must not remove the object (it carries the management path, it runs), or None."""
        return None

    def apply(self, changes: Sequence[Change], context: Context) -> None:
        """Make the changes; none of them depends on another (unless IN_ORDER), so they may be made at once or by one call.

        The exception are changes that wait for each other in a circle, such as two VMs that swap their MAC addresses.
        Calls context.begin before and context.done after each. Killed at any point, a second run must finish the job.
        Raises ApplyError and the like; changes that were not done by then are not.
        """
        raise NotImplementedError

    def finish(self, changes: Sequence[Change], context: Context) -> None:
        """Do what comes after all changes are made and verified, such as waiting for guests."""


class Guard:
    """Lets the host undo a change to its management path by itself."""

    def arm(self, changes: Sequence[Change], context: Context, timeout: int) -> Plain:
        """Store the undo on the host and start its timer.

        timeout: seconds without confirmation after which the host undoes.
        Returns plain data that `confirm` and `undo` need, among it the key `token`.
        Raises GuardError where no guard is possible.
        """
        raise NotImplementedError

    def confirm(self, token: str) -> None:
        """Drop the undo; called over a new connection. Raises GuardError if it has run already."""
        raise NotImplementedError

    def undo(self, token: str) -> None:
        """Undo at once."""
        raise NotImplementedError


class Platform:
    """A platform: a session to one host and the interfaces that use it.

    NAME: the platform's name in inventories.
    RUNS_ON_HOST: whether the engine runs on the host itself (through Ansible's connection) instead of in the worker.
    INTERFACES: the classes of its interfaces; each is made with the platform as its only argument.
    ask_host: where the engine runs in the worker, sends a request of `boundary.guarding` over Ansible's connection to the host.
    """

    NAME: ClassVar[str] = ""
    RUNS_ON_HOST: ClassVar[bool] = False
    INTERFACES: ClassVar[Tuple[Type[Any], ...]] = ()

    def __init__(self, settings: Optional[Mapping[str, Any]] = None) -> None:
        self.settings: Mapping[str, Any] = settings or {}
        self.ask_host: Optional[Callable[[Mapping[str, Any]], Dict[str, Any]]] = None
        self.interfaces: Tuple[Any, ...] = tuple(cls(self) for cls in self.INTERFACES)

    @classmethod
    def preload(cls) -> None:
        """Import what sessions need, where it is installed; called once a run, before workers are forked."""

    @classmethod
    def declared_capabilities(cls) -> FrozenSet[str]:
        """Return everything that the platform can do."""
        return frozenset().union(*(interface.CAPABILITIES for interface in cls.INTERFACES))

    def owner(self, kind: str) -> Any:
        """Return the interface of a kind, or None where the platform has none."""
        for interface in self.interfaces:
            if kind in interface.KINDS:
                return interface
        return None

    def kinds(self) -> Tuple[str, ...]:
        """Return the kinds that the platform knows."""
        return tuple(kind for interface in self.interfaces for kind in interface.KINDS)

    def read(self, kinds: Collection[str], names: Optional[Mapping[str, Collection[str]]] = None) -> State:
        """Return the current objects of those of the kinds that the platform knows."""
        state: State = {}
        for interface in self.interfaces:
            own = [kind for kind in interface.KINDS if kind in kinds]
            if own:
                state.update(interface.read(own, names or {}))
        return state

    def guard(self) -> Optional[Guard]:
        """Return the guard of the management path, or None where the platform has none."""
        return None

    def lock(self) -> ContextManager[None]:
        """Keep a second run off this host meanwhile. Raises ConnectError where one holds it for too long."""
        return contextlib.nullcontext()

    def recover(self) -> None:
        """Remove what a killed run has left half-made. Called under the lock, before changes are made."""

    def facts(self) -> Dict[str, Any]:
        """Return what is known of the host beside its objects: version, processors, memory, devices."""
        return {}

    def metrics(self) -> Dict[str, Any]:
        """Return what the host and its VMs use right now; asked of platforms with the capability `metrics` only."""
        raise NotImplementedError

    def updates(self) -> Dict[str, Any]:
        """Return the host's pending updates; asked of platforms with the capability `updates` only."""
        raise NotImplementedError

    def close(self) -> None:
        """End the session, or leave it for the next task."""


def keys_of(items: Iterable[ModelObject]) -> FrozenSet[Key]:
    """Return the keys of objects."""
    return frozenset(item.key for item in items)
