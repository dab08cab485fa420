# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From a document and the current state to an ordered list of changes."""

from __future__ import annotations

import dataclasses
import functools
import heapq
from typing import Any, Dict, FrozenSet, Iterator, List, Mapping, Optional, Sequence, Set, Tuple

from ..errors import NotSupportedError, Problem, ValidateError
from ..model.document import (
    KINDS,
    SECTIONS,
    Document,
    Key,
    State,
    capabilities_of,
    check_whole,
    choices_of,
    filters_without_port,
    iterate_options,
)
from ..model.operation import Operation
from ..model.schema import ModelObject, Path, named
from ..model.types import show
from .change import POWER_CYCLE, Change, difference, frozen_fields, plain
from .platform import Context, Platform

Place = Tuple[str, Key]

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
    for item in (*document.objects(), operation):
        for capability, path, value in item.required_capabilities():
            if capability not in declared:
                problems.append(Problem(path.text, _missing(platform.NAME, capability, value, declared)))
                if capability == item.KIND:
                    break
    for kind in sorted(set(document.absent) | document.exact):
        if kind not in declared:
            problems.append(Problem(kind, f"platform {platform.NAME} does not have {_plural(kind)}"))
    if problems:
        raise NotSupportedError(_unique(problems))


def _plural(kind: str) -> str:
    return SECTIONS[kind].replace("_", " ")


def _missing(name: str, capability: str, value: Any, declared: FrozenSet[str]) -> str:
    word = capability.rpartition(".")[2]
    choices = _choices().get(capability[: -len(word)], ())
    if isinstance(value, str) and value == word and word in choices:
        others = sorted(choice for choice in choices if f"{capability[: -len(word)]}{choice}" in declared)
        nearest = f"; it can do {', '.join(others)}" if others else ""
        return f"platform {name} cannot do {show(value)}{nearest}"
    if capability in SECTIONS:
        return f"platform {name} does not have {_plural(capability)}"
    return f"platform {name} cannot do this (capability {capability})"


@functools.cache
def _choices() -> Mapping[str, FrozenSet[str]]:
    """Return, by the part of a capability before its star, the choices that may stand there."""
    found: Dict[str, FrozenSet[str]] = {}
    for cls in (*KINDS.values(), Operation):
        for _name, entry in iterate_options(cls):
            if entry.capability is not None and entry.capability.endswith(".*"):
                group = entry.capability[:-1]
                found[group] = found.get(group, frozenset()) | frozenset(choices_of(entry))
    return found


def _unique(problems: Sequence[Problem]) -> List[Problem]:
    return list(dict.fromkeys(problems))


def make_plan(document: Document, platform: Platform, before: State, operation: Operation) -> Plan:
    """Compute the changes that take a host from its current state to what a document says.

    before: the current objects of all of `document.kinds_to_read()` that the platform knows.
    Raises ValidateError with every problem that was found, NotSupportedError where a default asks for what the
    platform cannot do; nothing is changed by this.
    """
    plan = Plan([], before, {kind: dict(objects) for kind, objects in before.items()})
    touched: Dict[str, Set[Key]] = {}
    problems: List[Problem] = []
    declared = platform.declared_capabilities()
    limited = {kind for kind, names in _capabilities_by_kind().items() if not names <= declared}
    unable: List[Problem] = []

    for item in document.objects():
        current = before.get(item.KIND, {}).get(item.key)
        wanted = item.complete(current)
        if item.KIND in limited:
            wanted = _within_abilities(item, wanted, current, item.place, platform, unable)
        plan.wanted.setdefault(item.KIND, {})[item.key] = wanted
        touched.setdefault(item.KIND, set()).add(item.key)
        problems.extend(wanted.problems_when_complete(current))
        if current is None:
            plan.changes.append(Change(None, wanted, difference(None, wanted)))
            continue
        for field, old, new in frozen_fields(current, wanted):
            message = f"is {show(plain(old))} since it was made and cannot become {show(plain(new))}"
            problems.append(Problem(item.place.inner(field).text, message))
        fields = difference(current, wanted)
        if fields:
            plan.changes.append(Change(current, wanted, fields))

    going = _going(document, platform, plan)
    for item in going:
        plan.changes.append(Change(item, None))
        del plan.wanted[item.KIND][item.key]
        touched.setdefault(item.KIND, set()).add(item.key)
    _drop_parts(plan.wanted, {(item.KIND, item.label) for item in going}, touched)

    if unable:
        raise NotSupportedError(_unique(unable))
    problems.extend(_hidden(document, platform, before))
    problems.extend(check_whole(plan.wanted, touched, before.keys(), before))
    if problems:
        raise ValidateError(_unique(problems))
    plan.changes = order(plan.changes)
    _ask_platform(plan, platform, operation)
    return plan


@functools.cache
def _capabilities_by_kind() -> Mapping[str, FrozenSet[str]]:
    return {kind: capabilities_of(cls) for kind, cls in KINDS.items()}


def _within_abilities(
    said: Any, wanted: Any, current: Any, path: Path, platform: Platform, unable: List[Problem]
) -> Any:
    """Return a complete object without those defaults that the platform cannot do.

    Where a default is one of several choices (a disk's bus), it is left to the platform. Where it switches something
    on (a guard), leaving it out in silence would be a lie, so that is a problem.
    """
    declared = platform.declared_capabilities()
    fields: Dict[str, Any] = {}
    for name, entry, value in wanted.items():
        asked = getattr(said, name) if said is not None else None
        present = getattr(current, name) if current is not None else None
        if isinstance(value, ModelObject):
            inner = _within_abilities(asked, value, present, path.field(name), platform, unable)
            if inner is not value:
                fields[name] = inner
        elif isinstance(value, tuple) and value and isinstance(value[0], ModelObject):
            asked_by_key = {item.key: item for item in asked or ()}
            present_by_key = {item.key: item for item in present or ()}
            fields[name] = tuple(
                _within_abilities(
                    asked_by_key.get(item.key),
                    item,
                    present_by_key.get(item.key),
                    path.field(name).item(item.label),
                    platform,
                    unable,
                )
                for item in value
            )
        if entry.capability is None or asked is not None or current is not None:
            continue
        if entry.capability.endswith(".*"):
            if not {f"{entry.capability[:-1]}{element}" for element in named(value)} <= declared:
                fields[name] = None
        elif value != wanted.neutral_of(name) and value not in ("", ()) and entry.capability not in declared:
            unable.append(
                Problem(
                    path.field(name).text,
                    f"is {show(plain(value))} where not given, which platform {platform.NAME} cannot do (capability "
                    f"{entry.capability}); allowed is {show(wanted.neutral_of(name))}",
                )
            )
    return dataclasses.replace(wanted, **fields) if fields else wanted


def _going(document: Document, platform: Platform, plan: Plan) -> List[ModelObject]:
    """Return what is to be removed: what is absent, what `exact` prunes, and what is removed along with either."""
    before = plan.before
    going: Dict[Place, ModelObject] = {}
    pruned: Set[Place] = set()
    kept: Dict[Place, str] = {}
    for kind in sorted(set(document.absent) | document.exact, key=ORDER.__getitem__):
        for key, item in before.get(kind, {}).items():
            if key in document.absent.get(kind, ()):
                going[kind, key] = item
            elif kind in document.exact and key not in document.present.get(kind, {}):
                reason = platform.owner(kind).keeps(item, before)
                if reason is None:
                    going[kind, key] = item
                    pruned.add((kind, key))
                else:
                    kept[kind, key] = reason
    if pruned:
        _keep_used(document, before, going, pruned, kept)
    plan.warnings.extend(
        f"{before[kind][key].place.text} is not listed and was kept, since {reason}"
        for (kind, key), reason in sorted(kept.items(), key=lambda entry: (ORDER[entry[0][0]], str(entry[0][1])))
    )
    if going:
        gone = {(item.KIND, item.label) for item in going.values()}
        for kind, objects in before.items():
            for key, item in objects.items():
                listed = key in document.present.get(kind, {})
                if not listed and any(
                    (what, label) in gone for what, label, how in item.belongs_to() if how == "remove"
                ):
                    going.setdefault((kind, key), item)
    for item in filters_without_port(plan.wanted):
        listed = item.key in document.present.get(item.KIND, {})
        if not listed and (item.key[0],) in document.present.get("vm", {}):
            going.setdefault((item.KIND, item.key), item)
    return list(going.values())


def _hidden(document: Document, platform: Platform, before: State) -> Iterator[Problem]:
    for kind, keys in document.absent.items():
        for key in sorted(keys - before.get(kind, {}).keys(), key=str):
            reason = platform.owner(kind).hidden(kind, key)
            if reason is not None:
                label = "/".join(str(part) for part in key)
                yield Problem(Path(kind).item(label).text, f"cannot go: {reason}")


def _keep_used(
    document: Document, before: State, going: Dict[Place, ModelObject], pruned: Set[Place], kept: Dict[Place, str]
) -> None:
    """Keep of what `exact` would prune whatever is used by something that stays and is not in the document."""
    staying = [
        item
        for kind, objects in before.items()
        for key, item in objects.items()
        if (kind, key) not in going and key not in document.present.get(kind, {})
    ]
    while staying:
        item = staying.pop()
        parts = {(kind, label) for kind, label, _how in item.belongs_to()}
        for kind, label, path in item.references(True):
            place = (kind, (label,))
            if place in pruned and (kind, label) not in parts:
                kept[place] = f"{path.text} uses it"
                pruned.remove(place)
                staying.append(going.pop(place))


def _drop_parts(wanted: State, gone: Set[Tuple[str, str]], touched: Mapping[str, Set[Key]]) -> None:
    if not gone:
        return
    for kind, objects in wanted.items():
        for key in [
            key
            for key, item in objects.items()
            if key not in touched.get(kind, ())
            and any((what, label) in gone for what, label, _how in item.belongs_to())
        ]:
            del objects[key]


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
    decides. Where changes wait for each other in a circle (two switches that swap their uplinks), one of them lets go
    in a step of its own, if it can; otherwise those of the circle stand together.
    """
    ranked = _with_releases(sorted(changes, key=_rank))
    waits = dependencies(ranked)
    circle_of = circles(waits)
    members: Dict[int, List[int]] = {}
    for number, circle in enumerate(circle_of):
        members.setdefault(circle, []).append(number)
    followers: Dict[int, Set[int]] = {circle: set() for circle in members}
    missing = {circle: 0 for circle in members}
    for number, others in enumerate(waits):
        for other in others:
            if circle_of[other] != circle_of[number] and circle_of[number] not in followers[circle_of[other]]:
                followers[circle_of[other]].add(circle_of[number])
                missing[circle_of[number]] += 1
    free = [(numbers[0], circle) for circle, numbers in members.items() if missing[circle] == 0]
    heapq.heapify(free)
    result: List[Change] = []
    while free:
        _first, circle = heapq.heappop(free)
        result.extend(ranked[number] for number in members[circle])
        for follower in followers[circle]:
            missing[follower] -= 1
            if missing[follower] == 0:
                heapq.heappush(free, (members[follower][0], follower))
    return result


def _rank(change: Change) -> Tuple[int, int, str]:
    # Deletions after all else and from the top of the house to its foundation.
    position = ORDER[change.kind]
    return (1, -position, change.item.label) if change.action == "delete" else (0, position, change.item.label)


def _with_releases(changes: List[Change]) -> List[Change]:
    """Return the changes with those that break circles put in, as far as the objects can do without what they claim."""
    while True:
        waits = dependencies(changes)
        circle_of = circles(waits)
        claimants: Dict[int, Dict[Tuple[str, str], Set[int]]] = {}
        size: Dict[int, int] = {}
        for number, circle in enumerate(circle_of):
            size[circle] = size.get(circle, 0) + 1
            for claim in _claims(changes[number].after) - _claims(changes[number].before):
                claimants.setdefault(circle, {}).setdefault(claim, set()).add(number)
        result: List[Change] = []
        broken: Set[int] = set()
        for number, change in enumerate(changes):
            circle = circle_of[number]
            if size[circle] > 1 and circle not in broken and change.before is not None:
                wanted = {
                    claim
                    for claim in _claims(change.before) - _claims(change.after)
                    if claimants.get(circle, {}).get(claim, set()) - {number}
                }
                released = change.before.release(wanted) if wanted else None
                if released is not None and released != change.after:
                    broken.add(circle)
                    result.append(Change(change.before, released, difference(change.before, released)))
                    fields = difference(released, change.after) if change.after is not None else ()
                    result.append(dataclasses.replace(change, before=released, fields=fields))
                    continue
            result.append(change)
        if not broken:
            return changes
        changes = sorted(result, key=_rank)


def circles(waits: Sequence[Set[int]]) -> List[int]:
    """Return, for each change, the number of the circle that it is in: the least number among its members.

    waits: for each change the numbers of those that it waits for. A change in no circle is one by itself. The circles
    are the strongly connected components, found by Tarjan's algorithm without recursion.
    """
    index: Dict[int, int] = {}
    low: Dict[int, int] = {}
    open_: List[int] = []
    is_open: Set[int] = set()
    result = list(range(len(waits)))
    for root in range(len(waits)):
        if root in index:
            continue
        work: List[Tuple[int, Iterator[int]]] = [(root, iter(sorted(waits[root])))]
        index[root] = low[root] = len(index)
        open_.append(root)
        is_open.add(root)
        while work:
            number, others = work[-1]
            other = next(others, None)
            if other is None:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[number])
                if low[number] == index[number]:
                    component: List[int] = []
                    while number not in component[-1:]:
                        component.append(open_.pop())
                    is_open.difference_update(component)
                    for member in component:
                        result[member] = min(component)
            elif other not in index:
                index[other] = low[other] = len(index)
                open_.append(other)
                is_open.add(other)
                work.append((other, iter(sorted(waits[other]))))
            elif other in is_open:
                low[number] = min(low[number], index[other])
    return result


def dependencies(changes: Sequence[Change]) -> List[Set[int]]:
    """Return, for each change, the numbers of those that it has to wait for."""
    makers: Dict[Tuple[str, str], int] = {}
    removers: Dict[Tuple[str, str], int] = {}
    releasers: Dict[Tuple[str, str], Set[int]] = {}
    steps: Dict[Place, int] = {}
    waits: List[Set[int]] = [set() for _change in changes]
    for number, change in enumerate(changes):
        # A second change of one object follows the first.
        if (change.kind, change.key) in steps:
            waits[number].add(steps[change.kind, change.key])
        steps[change.kind, change.key] = number
        (removers if change.after is None else makers)[(change.kind, change.item.label)] = number
        for claim in _claims(change.before) - _claims(change.after):
            releasers.setdefault(claim, set()).add(number)
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
    """Yield (interface, changes) for runs of changes of one interface of which none depends on another.

    Of an interface that makes changes in their order, those that depend on each other are in one run too. Changes that
    wait for each other in a circle are in one run, for the interface to make as one.
    """
    waits = dependencies(changes)
    circle_of = circles(waits)
    owner: Optional[Any] = None
    batch: List[Change] = []
    numbers: Set[int] = set()
    for number, change in enumerate(changes):
        interface = platform.owner(change.kind)
        waited_for = {other for other in waits[number] & numbers if circle_of[other] != circle_of[number]}
        if batch and (interface is not owner or (waited_for and not getattr(interface, "IN_ORDER", False))):
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
    Of `system` they are the services that are asked for, since a host has more than anybody wants to be told of.
    """
    names: Dict[str, Set[str]] = {}
    if document.kinds() <= {"snapshot", "backup"} and not document.exact:
        for kind in document.kinds():
            keys = list(document.present.get(kind, ())) + list(document.absent.get(kind, ()))
            names[kind] = {str(key[0]) for key in keys}
            names.setdefault("vm", set()).update(names[kind])
    for system in document.present.get("system", {}).values():
        names["system"] = {str(service.name) for service in getattr(system, "services", None) or ()}
    return names
