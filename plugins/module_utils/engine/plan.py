# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From a document and the current state to an ordered list of changes."""

from __future__ import annotations

import dataclasses
import heapq
from typing import Any, Dict, FrozenSet, Iterator, List, Mapping, Optional, Sequence, Set, Tuple

from ..errors import NotSupportedError, Problem, ValidateError
from ..model.document import KINDS, Document, Key, State, check_whole
from ..model.operation import Operation
from ..model.types import show
from .change import POWER_CYCLE, Change, difference, frozen_fields
from .platform import Context, Platform

ORDER = {kind: number for number, kind in enumerate(KINDS)}


@dataclasses.dataclass
class Plan:
    """What would be changed.

    changes: in the order in which they are made.
    before: the host as it is; wanted: as it shall be.
    warnings: what the user should know before it is done.
    """

    changes: List[Change]
    before: State
    wanted: State
    warnings: List[str] = dataclasses.field(default_factory=list)


def check_capabilities(document: Document, platform: Platform, operation: Operation) -> None:
    """Refuse a document that asks for what the platform cannot do, before anything is read.

    Raises NotSupportedError with every capability that is missing.
    """
    declared = platform.declared_capabilities()
    problems: List[Problem] = []
    asked = [entry for item in document.objects() for entry in item.required_capabilities()]
    asked.extend(operation.required_capabilities())
    for capability, path, value in asked:
        if capability not in declared:
            problems.append(Problem(path.text, _missing(platform.NAME, capability, value, declared)))
    for kind in sorted(set(document.absent) | document.exact):
        if kind not in declared:
            problems.append(Problem(kind, f"platform {platform.NAME} does not have it"))
    if problems:
        raise NotSupportedError(_unique(problems))


def _missing(name: str, capability: str, value: Any, declared: FrozenSet[str]) -> str:
    group = capability.rpartition(".")[0]
    word = capability.rpartition(".")[2]
    others = sorted(entry.rpartition(".")[2] for entry in declared if group and entry.rpartition(".")[0] == group)
    if isinstance(value, str) and value == word:
        nearest = f"; it can do {', '.join(others)}" if others else ""
        return f"platform {name} cannot do {show(value)}{nearest}"
    if "." not in capability:
        return f"platform {name} does not have {capability.replace('_', ' ')}s"
    return f"platform {name} cannot do this (capability {capability})"


def _unique(problems: Sequence[Problem]) -> List[Problem]:
    return list(dict.fromkeys(problems))


def make_plan(document: Document, platform: Platform, before: State, operation: Operation) -> Plan:
    """Compute the changes that take a host from its current state to what a document says.

    before: the current objects of all of `document.kinds_to_read()` that the platform knows.
    Raises ValidateError with every problem that was found; nothing is changed by this.
    """
    plan = Plan([], before, {kind: dict(objects) for kind, objects in before.items()})
    touched: Dict[str, Set[Key]] = {}
    problems: List[Problem] = []

    for item in document.objects():
        current = before.get(item.KIND, {}).get(item.key)
        wanted = item.complete(current)
        plan.wanted.setdefault(item.KIND, {})[item.key] = wanted
        touched.setdefault(item.KIND, set()).add(item.key)
        problems.extend(wanted.problems_when_complete())
        if current is None:
            plan.changes.append(Change(None, wanted, difference(None, wanted)))
            continue
        for field, old, new in frozen_fields(current, wanted):
            problems.append(
                Problem(
                    item.place.field(field).text, f"is {show(old)} since it was made and cannot become {show(new)}"
                )
            )
        fields = difference(current, wanted)
        if fields:
            plan.changes.append(Change(current, wanted, fields))

    for item in _going(document, platform, before, plan.warnings):
        plan.changes.append(Change(item, None))
        del plan.wanted[item.KIND][item.key]
        touched.setdefault(item.KIND, set()).add(item.key)

    problems.extend(check_whole(plan.wanted, touched, before.keys(), before))
    if problems:
        raise ValidateError(_unique(problems))
    plan.changes = order(plan.changes)
    _ask_platform(plan, platform, operation)
    return plan


def _going(document: Document, platform: Platform, before: State, warnings: List[str]) -> Iterator[Any]:
    for kind in sorted(set(document.absent) | document.exact, key=ORDER.__getitem__):
        for key, item in before.get(kind, {}).items():
            if key in document.absent.get(kind, ()):
                yield item
            elif kind in document.exact and key not in document.present.get(kind, {}):
                reason = platform.owner(kind).keeps(item, before)
                if reason is None:
                    yield item
                else:
                    warnings.append(f"{item.place.text} is not listed and was kept, since {reason}")


def _ask_platform(plan: Plan, platform: Platform, operation: Operation) -> None:
    context = Context(plan.before, plan.wanted, operation)
    problems: List[Problem] = []
    for number, change in enumerate(plan.changes):
        owner = platform.owner(change.kind)
        problems.extend(owner.validate(change, context))
        needs = owner.needs(change, context)
        if needs:
            plan.changes[number] = dataclasses.replace(change, needs=needs)
        if POWER_CYCLE in needs and not operation.allow_restart:
            fields = ", ".join(change.fields)
            problems.append(
                Problem(
                    change.item.place.text,
                    f"changing {fields} needs the VM off, and it runs; allowed with allow_restart: true, or with the VM stopped",
                )
            )
    if problems:
        raise ValidateError(_unique(problems))
    plan.warnings.extend(context.warnings)


def order(changes: Sequence[Change]) -> List[Change]:
    """Return the changes so that what is needed is made first and what is in use goes last.

    An object is made or changed after those that it names, and after whoever holds something that it claims has let
    go of it; it goes after those that named it have changed or gone. Among equals the order in which a host is built
    decides. Where two wait for each other (two switches that swap their uplinks) that order decides too.
    """
    ranked = sorted(changes, key=_rank)
    waits = dependencies(ranked)
    followers: Dict[int, List[int]] = {}
    for number, others in enumerate(waits):
        for other in others:
            followers.setdefault(other, []).append(number)
    missing = [len(others) for others in waits]
    free = [number for number, count in enumerate(missing) if count == 0]
    heapq.heapify(free)
    taken: Set[int] = set()
    result: List[Change] = []
    while len(result) < len(ranked):
        # A circle: nothing is free, so the first in building order goes ahead.
        number = heapq.heappop(free) if free else next(n for n in range(len(ranked)) if n not in taken)
        if number in taken:
            continue
        taken.add(number)
        result.append(ranked[number])
        for follower in followers.get(number, ()):
            missing[follower] -= 1
            if missing[follower] == 0:
                heapq.heappush(free, follower)
    return result


def _rank(change: Change) -> Tuple[int, int, str]:
    # Deletions after all else and from the top of the house to its foundation.
    position = ORDER[change.kind]
    return (1, -position, change.item.label) if change.action == "delete" else (0, position, change.item.label)


def dependencies(changes: Sequence[Change]) -> List[Set[int]]:
    """Return, for each change, the numbers of those that it has to wait for."""
    makers: Dict[Tuple[str, str], int] = {}
    removers: Dict[Tuple[str, str], int] = {}
    releasers: Dict[Tuple[str, str], Set[int]] = {}
    for number, change in enumerate(changes):
        (removers if change.after is None else makers)[(change.kind, change.item.label)] = number
        for claim in _claims(change.before) - _claims(change.after):
            releasers.setdefault(claim, set()).add(number)
    waits: List[Set[int]] = [set() for _change in changes]
    for number, change in enumerate(changes):
        for reference in _references(change.after):
            if reference in makers:
                waits[number].add(makers[reference])
        for claim in _claims(change.after) - _claims(change.before):
            waits[number] |= releasers.get(claim, set())
        for reference in _references(change.before):
            if reference in removers:
                waits[removers[reference]].add(number)
        waits[number].discard(number)
    return waits


def _references(item: Any) -> FrozenSet[Tuple[str, str]]:
    return frozenset((kind, label) for kind, label, _path in item.references()) if item is not None else frozenset()


def _claims(item: Any) -> FrozenSet[Tuple[str, str]]:
    return frozenset((what, name) for what, name, _path in item.claims()) if item is not None else frozenset()


def batches(changes: Sequence[Change], platform: Platform) -> Iterator[Tuple[Any, List[Change]]]:
    """Yield (interface, changes) for runs of changes of one interface of which none depends on another."""
    waits = dependencies(changes)
    owner: Optional[Any] = None
    batch: List[Change] = []
    numbers: Set[int] = set()
    for number, change in enumerate(changes):
        interface = platform.owner(change.kind)
        if batch and (interface is not owner or waits[number] & numbers):
            yield owner, batch
            batch, numbers = [], set()
        owner = interface
        batch.append(change)
        numbers.add(number)
    if batch:
        yield owner, batch


def names_to_read(document: Document) -> Mapping[str, Set[str]]:
    """Return, by kind, the first keys of the objects that have to be read, for kinds of which not all are needed.

    That is so for kinds that only the document's own objects are wanted of: none is pruned or checked against others.
    """
    names: Dict[str, Set[str]] = {}
    if document.kinds() <= {"snapshot", "backup"} and not document.exact:
        for kind in document.kinds():
            keys = list(document.present.get(kind, ())) + list(document.absent.get(kind, ()))
            names[kind] = {str(key[0]) for key in keys}
            names.setdefault("vm", set()).update(names[kind])
    return names
