# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From the path of a problem back to the place in the document that it names."""

from __future__ import annotations

import re
from typing import Any, Iterator, List, Optional, Tuple, Type

from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import Problem
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.document import KIND_OF_SECTION, KINDS
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.schema import (
    ModelObject,
    Option,
    Path,
    Plain,
    TextMap,
    Values,
)


class Place:
    """A place in a document in plain data.

    chain: the containers on the way, each with the index or name of what follows.
    entry: the option of the field that the path ends in, or None where it ends in an object or an element.
    """

    def __init__(self, chain: List[Tuple[Any, Any]], entries: List[Optional[Option]]) -> None:
        self.chain = chain
        self.entries = entries

    @property
    def entry(self) -> Optional[Option]:
        return self.entries[-1]

    @property
    def exists(self) -> bool:
        """Whether there is something at the place."""
        container, key = self.chain[-1]
        return key < len(container) if isinstance(container, list) else key in container

    def set(self, value: Any) -> None:
        """Put something at the place."""
        container, key = self.chain[-1]
        container[key] = value

    def remove(self) -> None:
        """Take away what is at the place, or, where it is missing or cannot be missed, what it is in."""
        for (container, key), entry in zip(reversed(self.chain), reversed(self.entries)):
            needed = entry is not None and (entry.key or entry.required)
            present = key < len(container) if isinstance(container, list) else key in container
            if present and not needed:
                del container[key]
                return
        raise LookupError("nothing of the document could be taken away")


def locate(data: Plain, path: str) -> Place:
    """Return the place in a document that a problem's path names.

    Raises LookupError where the path names no place, nor one in which something is missing.
    """
    found = list(_places(data, path))
    if not found:
        raise LookupError(f"the path {path} names nothing in {data!r}")
    return found[-1]


def _places(data: Plain, path: str) -> Iterator[Place]:
    for section, value in data.items():
        kind = KIND_OF_SECTION[section]
        cls = KINDS[kind]
        if not cls.key_fields():
            if _begins(path, kind):
                yield from _inside(cls, value, path[len(kind) :], [(data, section)], [None])
            continue
        for number, element in enumerate(value):
            for prefix in _labels(cls, kind, number, element):
                if _begins(path, prefix):
                    chain = [(data, section), (value, number)]
                    yield from _inside(cls, element, path[len(prefix) :], chain, [None, None])


def _begins(path: str, prefix: str) -> bool:
    return path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in ("", ".", "[")


def _labels(cls: Type[ModelObject], place: str, number: int, element: Any) -> Iterator[str]:
    """Yield the ways in which an element of a list may be named: by its key as written, as kept, or its number."""
    yield Path(place).item(number).text
    label = cls.label_of(element)
    if label is not None:
        yield Path(place).item(label).text
    problems: List[Problem] = []
    item = cls.read(element, Path(), problems)
    if item is not None:
        yield Path(place).item(item.label).text


def _inside(
    cls: Type[ModelObject], item: Any, rest: str, chain: List[Tuple[Any, Any]], entries: List[Optional[Option]]
) -> Iterator[Place]:
    if not rest:
        yield Place(chain, entries)
        return
    match = re.match(r"\.([A-Za-z0-9_]+)", rest)
    if match is None or match.group(1) not in cls.options():
        return
    name, entry = match.group(1), cls.options()[match.group(1)]
    rest = rest[match.end() :]
    chain, entries = [*chain, (item, name)], [*entries, entry]
    value = item.get(name)
    inner = getattr(entry.type, "cls", None)
    if not rest:
        yield Place(chain, entries)
    elif inner is None and isinstance(entry.type, Values):
        index = re.fullmatch(r"\[([0-9]+)\]", rest)
        if index and isinstance(value, list) and int(index.group(1)) < len(value):
            yield Place([*chain, (value, int(index.group(1)))], [*entries, None])
    elif isinstance(entry.type, TextMap):
        for key in value or ():
            if rest == Path().item(key).text:
                yield Place([*chain, (value, key)], [*entries, None])
    elif inner is not None and isinstance(value, list):
        for number, element in enumerate(value):
            for prefix in _labels(inner, "", number, element):
                if _begins(rest, prefix):
                    tail = rest[len(prefix) :]
                    yield from _inside(inner, element, tail, [*chain, (value, number)], [*entries, None])
    elif inner is not None and isinstance(value, dict):
        yield from _inside(inner, value, rest, chain, entries)
    elif inner is not None and value is None:
        # Inside of something that is missing itself: that is the place.
        yield Place(chain, entries)
