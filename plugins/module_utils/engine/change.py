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
        assert item is not None
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
    """Return the paths of the fields in which two objects of one kind differ, without secrets.

    before, after: complete objects; None stands for one that is not there, and differs in every field that was said.
    """
    return tuple(_differences(before, after, Path()))


def _differences(before: Optional[ModelObject], after: Optional[ModelObject], path: Path) -> Iterator[str]:
    item = after or before
    if item is None:
        return
    for name, entry in item.options().items():
        if entry.secret or entry.key:
            continue
        old = getattr(before, name) if before is not None else None
        new = getattr(after, name) if after is not None else None
        yield from _field_differences(old, new, path.field(name))


def _is_empty(value: Any) -> bool:
    return value is None or value in ("", ())


def _field_differences(old: Any, new: Any, path: Path) -> Iterator[str]:
    if old == new or (_is_empty(old) and _is_empty(new)):
        return
    if isinstance(old, ModelObject) or isinstance(new, ModelObject):
        if old is None or new is None:
            yield path.text
        else:
            yield from _differences(old, new, path)
    elif _is_keyed(old) and _is_keyed(new) and [item.key for item in old] == [item.key for item in new]:
        for left, right in zip(old, new):
            yield from _differences(left, right, path.item(left.label))
    else:
        yield path.text


def _is_keyed(value: Any) -> bool:
    return isinstance(value, tuple) and bool(value) and isinstance(value[0], ModelObject) and bool(value[0].key_fields())


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
        if entry.secret or old is None or new is None or old == new or (_is_empty(old) and _is_empty(new)):
            continue
        if isinstance(new, ModelObject):
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
