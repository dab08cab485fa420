# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Read, plan, apply, verify: what every task of the collection does."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Callable, Collection, Dict, List, Mapping, Optional, Sequence

from ..errors import ApplyError, BareforgeError, GuardError, NotSupportedError, Problem, VerifyError
from ..model.document import KINDS, Document, State, to_document
from ..model.operation import Operation
from ..model.schema import Plain
from ..model.types import show
from .change import Change, not_taken, plain
from .plan import Plan, batches, check_capabilities, make_plan, names_to_read
from .platform import Context, Platform


@dataclass
class Request:
    """What a task asks for.

    document: what the user wants of the host.
    operation: how changes are to be made; None stands for the defaults.
    check: whether to stop after the plan.
    progress: called with one line a step.
    """

    document: Document
    operation: Optional[Operation] = None
    check: bool = False
    progress: Optional[Callable[[str], None]] = field(default=None, repr=False)


def gather(platform: Platform, kinds: Collection[str] = ()) -> Plain:
    """Return the host's current objects as a document that can be applied back unchanged.

    kinds: the kinds to gather; none is all that the platform knows.
    Raises NotSupportedError where the platform does not have one of them.
    """
    missing = [kind for kind in kinds if kind not in platform.kinds()]
    if missing:
        raise NotSupportedError([Problem(kind, f"platform {platform.NAME} does not have it") for kind in missing])
    return to_document(platform.read(tuple(kinds) or platform.kinds()))


def run(platform: Platform, request: Request) -> Plain:
    """Bring a host to what a document says and return the task's result.

    The result has `changed`, `before` and `after` (documents of the objects that differ), `changes`, `planned` (what
    `after` was meant to be, without what only the host can choose, so that it is the same in check mode) and, where there
    are any, `warnings` and `guard` (whose token has to be confirmed over a new connection).
    Raises the errors of :mod:`errors`; ValidateError and NotSupportedError always before anything was changed.
    """
    operation = (request.operation or Operation()).complete(None)
    check_capabilities(request.document, platform, operation)
    if request.check:
        return _result(_read_and_plan(platform, request.document, operation), None)
    with platform.lock():
        platform.recover()
        plan = _read_and_plan(platform, request.document, operation)
        context = Context(plan.before, plan.wanted, operation, request.progress)
        guarded = _arm(plan, platform, context, operation) if plan.changes else None
        try:
            if plan.changes:
                _apply(plan, platform, context)
                after = _verify(plan, platform)
            else:
                after = plan.before
            _finish(plan, platform, context, request.document)
        except Exception as error:
            undoing = _undo(platform, guarded)
            if isinstance(error, BareforgeError):
                error.details.setdefault("changes_made", [change.to_result() for change in context.finished])
                error.details.update(undoing)
            raise
    plan.warnings.extend(context.warnings)
    result = _result(plan, after)
    if guarded:
        result["guard"] = guarded
    return result


def _read_and_plan(platform: Platform, document: Document, operation: Operation) -> Plan:
    before = platform.read(document.kinds_to_read(), names_to_read(document))
    return make_plan(document, platform, before, operation)


def _arm(plan: Plan, platform: Platform, context: Context, operation: Operation) -> Optional[Plain]:
    risky = [change for change in plan.changes if platform.owner(change.kind).touches_management(change, context)]
    options = operation.guard
    if not risky or options is None or not options.enabled:
        return None
    guard = platform.guard()
    if guard is None:
        names = ", ".join(change.item.place.text for change in risky)
        raise GuardError(
            f"{names} touches the path that the host is managed through, and platform {platform.NAME} has no guard",
            "Say guard: {enabled: false} to do it all the same",
        )
    guarded = dict(guard.arm(risky, context, options.timeout or 60))
    guarded["guarded"] = [change.item.place.text for change in risky]
    guarded["timeout"] = options.timeout or 60
    return guarded


def _undo(platform: Platform, guarded: Optional[Plain]) -> Plain:
    """Undo what was guarded and return what the error's details shall say of it."""
    guard = platform.guard() if guarded else None
    if guard is None or guarded is None:
        return {}
    try:
        guard.undo(guarded["token"])
    except BareforgeError as failure:
        return {"guard": f"undoing failed too: {failure.message}; the host undoes by itself when its timer ends"}
    return {"guard": "the changes to the management path were undone"}


def _apply(plan: Plan, platform: Platform, context: Context) -> None:
    for interface, changes in batches(plan.changes, platform):
        already = len(context.finished)
        interface.apply(changes, context)
        done = {id(change) for change in context.finished[already:]}
        missing = [change for change in changes if id(change) not in done]
        if missing:
            raise ApplyError(f"{missing[0]} was not carried out, and no reason was given")


def _verify(plan: Plan, platform: Platform) -> State:
    kinds = {change.kind for change in plan.changes}
    names: Dict[str, List[str]] = {kind: [] for kind in kinds}
    for change in plan.changes:
        names[change.kind].extend(str(part) for part in change.key[:1])
    after = platform.read(kinds, {kind: keys for kind, keys in names.items() if keys})
    failures: List[str] = []
    # An object that changes in two steps is looked at as it shall be in the end.
    last = {(change.kind, change.key): change for change in plan.changes}
    for change in last.values():
        shown = after.get(change.kind, {}).get(change.key)
        if change.after is None:
            if shown is not None:
                failures.append(f"{change.item.place.text} is still there")
        elif shown is None:
            failures.append(f"{change.item.place.text} is not there")
        else:
            before = plan.before.get(change.kind, {}).get(change.key)
            for path, asked, present in not_taken(before, change.after, shown):
                place = change.item.place.inner(path.text).text
                failures.append(f"{place}: asked was {show(plain(asked))}, the host shows {show(plain(present))}")
    if failures:
        raise VerifyError(f"did not take: {'; '.join(failures)}")
    return after


def _finish(plan: Plan, platform: Platform, context: Context, document: Document) -> None:
    for interface in platform.interfaces:
        named = [
            Change(plan.before.get(item.KIND, {}).get(item.key), plan.wanted[item.KIND][item.key])
            for item in document.objects()
            if item.KIND in interface.KINDS
        ]
        if named:
            interface.finish(named, context)


def _result(plan: Plan, after: Optional[State]) -> Plain:
    touched = [(change.kind, change.key) for change in plan.changes]
    result: Plain = {
        "changed": bool(plan.changes),
        "changes": [change.to_result() for change in plan.changes],
        "before": to_document(_select(plan.before, touched)),
        "after": to_document(_select(plan.wanted if after is None else after, touched)),
        "planned": to_document(_select(plan.wanted, touched)),
    }
    if plan.warnings:
        result["warnings"] = list(plan.warnings)
    return result


def _select(state: State, touched: Sequence[Any]) -> State:
    selected: State = {}
    for kind in KINDS:
        keys = [key for touched_kind, key in touched if touched_kind == kind]
        if keys:
            objects: Mapping[Any, Any] = state.get(kind, {})
            selected[kind] = {key: objects[key] for key in keys if key in objects}
    return selected
