# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A change: one object of a host as it is and as it shall be, and the fields in which the two differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, FrozenSet, Iterator, List, Optional, Tuple

from ..model.document import Key
from ..model.schema import ModelObject, Path, Plain

POWER_CYCLE = "power_cycle"
HOST_REBOOT = "host_reboot"


@dataclass(frozen=True)
class Change:
    """One object to create, update or delete.

    before: the object as the host shows it, or None where it is to be made.
    after: the object as it shall be, complete, or None where it is to go.
    fields: the paths, below the object, of the fields that differ, such as `nics['eth0'].network`.
    needs: what the change takes beside itself: POWER_CYCLE of the VM, HOST_REBOOT.
    """

    before: Optional[ModelObject]
    after: Optional[ModelObject]
    fields: Tuple[str, ...] = ()
    needs: FrozenSet[str] = frozenset()

    @property
    def item(self) -> ModelObject:
        """The object, as it shall be or, where it goes, as it is."""
        item = self.after or self.before
        if item is None:
            raise AssertionError("not reached: item is None")
        return item

    @property
    def kind(self) -> str:
        """The kind of the object."""
        return self.item.KIND

    @property
    def key(self) -> Key:
        """The key of the object."""
        return self.item.key

    @property
    def action(self) -> str:
        """`create`, `update` or `delete`."""
        return "delete" if self.after is None else "create" if self.before is None else "update"

    def __str__(self) -> str:
        return f"{self.action} {self.item.place.text}"

    def to_result(self) -> Plain:
        """Return the change as it stands in a task's result."""
        result: Plain = {"kind": self.kind, "key": self.item.label, "action": self.action, "fields": list(self.fields)}
        if self.needs:
            result["needs"] = sorted(self.needs)
        return result


def difference(before: Optional[ModelObject], after: Optional[ModelObject]) -> Tuple[str, ...]:
    """Return the paths of the fields in which two objects of one kind differ, without secrets that are not compared.

    before, after: complete objects; None stands for one that is not there, and differs in every field that was said.
    A field that is settled when the object is made is left out where the present object does not tell it.
    """
    return tuple(path.text for path, _old, _new in _differences(before, after, Path(), False))


Difference = Tuple[Path, Any, Any]


def _differences(before: Any, after: Any, path: Path, fixed: bool) -> Iterator[Difference]:
    item = after if after is not None else before
    if item is None:
        return
    for name, entry in item.options().items():
        if entry.key:
            continue
        old = getattr(before, name) if before is not None else None
        new = getattr(after, name) if after is not None else None
        if entry.secret and not (entry.compared and old is not None and new is not None):
            continue
        settled = fixed or entry.create_only
        if old is new or (settled and before is not None and old is None):
            continue
        yield from _field_differences(old, new, path.field(name), settled)


def _is_empty(value: Any) -> bool:
    return value is None or value in ("", ())


def _field_differences(old: Any, new: Any, path: Path, fixed: bool) -> Iterator[Difference]:
    if old == new or (_is_empty(old) and _is_empty(new)):
        return
    if isinstance(old, ModelObject) or isinstance(new, ModelObject):
        if old is None or new is None:
            yield path, old, new
        else:
            yield from _differences(old, new, path, fixed)
    elif _is_keyed(old) and _is_keyed(new) and [item.key for item in old] == [item.key for item in new]:
        for left, right in zip(old, new):
            yield from _differences(left, right, path.item(left.label), fixed)
    else:
        yield path, old, new


def _is_keyed(value: Any) -> bool:
    return (
        isinstance(value, tuple) and bool(value) and isinstance(value[0], ModelObject) and bool(value[0].key_fields())
    )


def not_taken(before: Optional[ModelObject], wanted: ModelObject, shown: ModelObject) -> List[Difference]:
    """Return (path, wanted, shown) of the fields that a host does not show as they were asked, without the secrets' values.

    before: the object before the change, or None where it was made.
    What was left open (a MAC address, a size) is the host's to choose; what was there before and was taken away is not.
    """
    return list(_not_taken(before, wanted, shown, Path(), False))


def _not_taken(before: Any, wanted: Any, shown: Any, path: Path, fixed: bool) -> Iterator[Difference]:
    for name, entry in wanted.options().items():
        new, present = getattr(wanted, name), getattr(shown, name)
        old = getattr(before, name) if before is not None else None
        settled = fixed or entry.create_only
        if entry.key or new == present or (_is_empty(new) and _is_empty(present)):
            continue
        if entry.secret:
            if entry.compared and new is not None and present is not None:
                yield path.field(name), "a secret", "another one"
            continue
        if (new is None and _is_empty(old)) or (settled and present is None):
            continue
        place = path.field(name)
        if isinstance(new, ModelObject) and isinstance(present, ModelObject):
            yield from _not_taken(old, new, present, place, settled)
        elif _is_keyed(new) and _is_keyed(present) and [item.key for item in new] == [item.key for item in present]:
            known = {item.key: item for item in old or ()}
            for left, right in zip(new, present):
                yield from _not_taken(known.get(left.key), left, right, place.item(left.label), settled)
        else:
            yield place, new, present


def plain(value: Any) -> Any:
    """Return a field's value as it is shown to the user: plain data without secrets."""
    if isinstance(value, ModelObject):
        return value.to_document()
    if isinstance(value, tuple):
        return [plain(element) for element in value]
    return value


def frozen_fields(before: ModelObject, after: ModelObject) -> List[Tuple[str, Any, Any]]:
    """Return (path, old, new) of the fields that are settled when the object is made and would have to change.

    A field whose current value the host does not tell is left out: it can neither be compared nor changed.
    """
    return list(_frozen(before, after, Path(), False))


def _frozen(before: Any, after: Any, path: Path, frozen: bool) -> Iterator[Tuple[str, Any, Any]]:
    for name, entry in after.options().items():
        old = getattr(before, name)
        new = getattr(after, name)
        place = path.field(name)
        fixed = frozen or entry.create_only
        if entry.secret or old is None or old == new or (_is_empty(old) and _is_empty(new)):
            continue
        if new is None:
            if fixed:
                yield place.text, old, new
        elif isinstance(new, ModelObject):
            yield from _frozen(old, new, place, fixed)
        elif _is_keyed(new) and isinstance(old, tuple):
            known = {item.key: item for item in old}
            if fixed and [item.key for item in old] != [item.key for item in new]:
                yield place.text, [item.label for item in old], [item.label for item in new]
            for item in new:
                if item.key in known:
                    yield from _frozen(known[item.key], item, place.item(item.label), fixed)
        elif fixed:
            yield place.text, old, new
