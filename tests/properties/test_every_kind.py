# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The document with every kind and field, with hostile text put in each of them in turn."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import ValidateError
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.document import (
    KIND_OF_SECTION,
    KINDS,
    SECTIONS,
    Document,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.schema import (
    ModelObject,
    TextMap,
    Value,
    Values,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.types import AbsolutePath, Name, Pattern, Text
from support.documents import apply, every_kind, gathered
from support.memory_platform import MemoryHost, every_capability
from support.paths import locate

HOSTILE = {
    "single quote": "a'b",
    "double quote": 'a"b',
    "backslash": "a\\b",
    "newline": "a\nb",
    "carriage return": "a\rb",
    "tab": "a\tb",
    "shell substitution": "$(touch /tmp/x)`id`",
    "shell operators": "a; rm -rf / && b | c > d &",
    "option": "--delete",
    "markup": "</name><x a='&amp;'>]]>",
    "braces of templates": "{{ 7 * 7 }}{% raw %}",
    "percent": "%s%n%(x)s",
    "SQL": "'; DROP TABLE vms; --",
    "parent folder": "../../etc/passwd",
    "parent folder alone": "../",
    "dots": "..",
    "slash": "a/b",
    "absolute path": "/etc/passwd",
    "NUL": "a\0b",
    "escape sequence": "a\x1b[31mb",
    "delete": "a\x7fb",
    "right-to-left override": "a\u202egpj.exe",
    "right-to-left mark": "a\u200fb",
    "directional isolate": "a\u2066b\u2069",
    "zero-width space": "a\u200bb",
    "byte order mark": "\ufeffa",
    "zero-width joiner": "\U0001f469\u200d\U0001f4bb",
    "emoji": "\U0001f5a5\ufe0f",
    "combining": "a\u0301\u0323",
    "right-to-left letters": "\u05e9\u05dc\u05d5\u05dd",
    "line separator": "a\u2028b",
    "next line": "a\x85b",
    "no character": "a\uffffb",
    "lone surrogate": "a\ud800b",
    "blank": " ",
    "blank in front": " a",
    "blank behind": "a ",
    "no-break space": "\u00a0a",
    "tilde and YAML": "~: {a: [*b, !!c]} # d",
    "YAML's no": "no",
    "digits": "0123",
    "infinity": ".inf",
    "255 characters": "x" * 255,
    "256 characters": "x" * 256,
    "very long": "x" * 100_000,
    "empty": "",
}

Way = list[Any]


def text_spots() -> Iterator[tuple[Way, Any, bool]]:
    """Yield (way, type of the value, whether it names another object) of every place of the document that holds text.

    Of several objects of a kind only the first gives its name, so that no two are ever named alike.
    """
    document = every_kind()
    for kind, section in SECTIONS.items():
        cls = KINDS[kind]
        many = bool(cls.key_fields())
        for number, item in enumerate(document[section] if many else [document[section]]):
            way = [section, number] if many else [section]
            for spot in _spots_in(cls, item, way):
                if not (number > 0 and spot[0][-1] in cls.key_fields() and len(spot[0]) == 3):
                    yield spot


def _spots_in(cls: Any, item: dict[str, Any], way: Way) -> Iterator[tuple[Way, Any, bool]]:
    for name, entry in cls.options().items():
        value = item.get(name)
        inner = getattr(entry.type, "cls", None)
        if value is None:
            continue
        if isinstance(entry.type, Value) and isinstance(value, str):
            yield [*way, name], entry.type.type, entry.reference is not None
        elif isinstance(entry.type, Values) and isinstance(value[0], str):
            yield [*way, name, 0], entry.type.type, False
        elif isinstance(entry.type, TextMap):
            yield [*way, name, next(iter(value))], entry.type.value, False
        elif inner is not None and isinstance(value, list):
            yield from _spots_in(inner, value[0], [*way, name, 0])
        elif inner is not None:
            yield from _spots_in(inner, value, [*way, name])


def allows(type: Any, text: str) -> bool:
    try:
        type.parse(text)
    except ValueError:
        return False
    return True


def holder_of(document: Any, way: Way) -> Any:
    for step in way[:-1]:
        document = document[step]
    return document


def put(document: Any, way: Way, text: str) -> None:
    """Put text at a place and, where it is the name of an object, wherever that object is named."""
    holder = holder_of(document, way)
    old, holder[way[-1]] = holder[way[-1]], text
    kind = KIND_OF_SECTION[way[0]]
    if len(way) == 3 and KINDS[kind].key_fields() == (way[2],):
        for section, value in document.items():
            cls = KINDS[KIND_OF_SECTION[section]]
            for item in value if isinstance(value, list) else [value]:
                _rename(cls, item, kind, old, text)


def _rename(cls: Any, item: dict[str, Any], kind: str, old: str, new: str) -> None:
    for name, entry in cls.options().items():
        inner = getattr(entry.type, "cls", None)
        if entry.reference == kind and item.get(name) == old:
            item[name] = new
        elif inner is not None and name in item:
            for element in item[name] if isinstance(item[name], list) else [item[name]]:
                _rename(inner, element, kind, old, new)


def texts_in(value: Any) -> Iterator[str]:
    """Yield every text inside a value, those of objects with their secrets."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, ModelObject):
        for _name, _entry, inner in value.items():
            yield from texts_in(inner)
    elif isinstance(value, (tuple, list)):
        for inner in value:
            yield from texts_in(inner)
    elif isinstance(value, dict):
        for inner in value.values():
            yield from texts_in(inner)


def missing_fields(cls: Any, items: list[Any], prefix: str) -> Iterator[str]:
    """Yield the dotted names of the fields that none of the objects in plain data has."""
    for name, entry in cls.options().items():
        values = [item[name] for item in items if name in item]
        inner = getattr(entry.type, "cls", None)
        if not values:
            yield f"{prefix}{name}"
        elif inner is not None:
            elements = [element for value in values for element in (value if isinstance(value, list) else [value])]
            yield from missing_fields(inner, elements, f"{prefix}{name}.")


def test_the_document_has_every_field():
    document = every_kind()
    for kind, section in SECTIONS.items():
        items = document[section] if isinstance(document[section], list) else [document[section]]
        assert list(missing_fields(KINDS[kind], items, f"{kind}.")) == []


def test_the_document_can_be_applied_and_comes_back():
    host = MemoryHost()
    done = apply(host, every_kind())
    assert {change["kind"] for change in done["changes"]} == set(KINDS)
    back = gathered(host)
    assert json.loads(json.dumps(back)) == back
    assert yaml.safe_load(yaml.safe_dump(back)) == back
    assert apply(host, back)["changes"] == []
    assert apply(host, every_kind())["changes"] == []


def test_no_secret_shows():
    host = MemoryHost()
    done = apply(host, every_kind())
    shown = json.dumps([done, gathered(host), host.log])
    assert "canary" not in shown
    stored = repr(host.objects)
    for secret in (
        "canary-storage-password",
        "canary-user-password",
        "$6$canaryuser",
        "$6$canaryguest",
        "canary-user-data",
    ):
        assert secret in stored


def secret_spots() -> list[Way]:
    """Return the ways to every secret of the document."""

    def inside(cls: Any, item: dict[str, Any], way: Way) -> Iterator[Way]:
        for name, entry in cls.options().items():
            inner = getattr(entry.type, "cls", None)
            if name in item and entry.secret:
                yield [*way, name]
            elif name in item and inner is not None:
                for number, element in enumerate(item[name] if isinstance(item[name], list) else [item[name]]):
                    yield from inside(
                        inner, element, [*way, name, number] if isinstance(item[name], list) else [*way, name]
                    )

    document = every_kind()
    return [
        way
        for kind, section in SECTIONS.items()
        for number, item in enumerate(document[section] if KINDS[kind].key_fields() else [document[section]])
        for way in inside(KINDS[kind], item, [section, number] if KINDS[kind].key_fields() else [section])
    ]


@pytest.mark.parametrize("way", secret_spots(), ids=lambda way: ".".join(str(step) for step in way))
@pytest.mark.parametrize(
    "value", ["canary\0", ["canary"], {"canary": "canary"}, "canary" * 20_000], ids=["NUL", "list", "mapping", "long"]
)
def test_a_secret_that_is_refused_is_not_told(way, value):
    document = every_kind()
    put(document, way, value)
    with pytest.raises(ValidateError) as caught:
        Document.parse(document)
    (problem,) = caught.value.problems
    holder, key = locate(document, problem.path).chain[-1]
    assert holder[key] is value
    assert "canary" not in caught.value.sentence("kvm1")
    assert "canary" not in repr(caught.value.details)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_text_is_refused_by_its_path(text):
    """It is put in every place at once that does not take it: the error names every one of them, and nothing else."""
    document = every_kind()
    refused = [
        way
        for way, type, is_reference in text_spots()
        # A name that is refused where it is given is refused there, not where the object is named.
        if not is_reference and not allows(type, text)
    ]
    for way in refused:
        put(document, way, text)
    with pytest.raises(ValidateError) as caught:
        Document.parse(document)
    named = set()
    for problem in caught.value.problems:
        assert problem.path.isascii()
        assert problem.path.isprintable()
        assert problem.message.isascii()
        assert problem.message.isprintable()
        assert len(problem.message) < 1500
        holder, key = locate(document, problem.path).chain[-1]
        assert holder[key] == text
        named.add((id(holder), key))
    # An empty text says "none" where there can be none.
    expected = [way for way in refused if text or not _clearable(way)]
    assert {(id(holder_of(document, way)), way[-1]) for way in expected} <= named


def _names_nic(way: Way) -> bool:
    return (way[0], way[-1]) == ("port_acls", "nic") or [step for step in way if isinstance(step, str)] == [
        "vms",
        "nics",
        "name",
    ]


def _clearable(way: Way) -> bool:
    cls = KINDS[KIND_OF_SECTION[way[0]]]
    for step in way[1:-1]:
        if isinstance(step, str):
            cls = getattr(cls.options()[step].type, "cls", cls)
    return isinstance(way[-1], str) and way[-1] in cls.options() and cls.options()[way[-1]].clearable


@pytest.mark.parametrize(
    "text", [text for text in HOSTILE.values() if text], ids=[name for name, text in HOSTILE.items() if text]
)
def test_hostile_text_is_carried_intact(text):
    """It is put in every place at once that takes it: the host is given it there, and it comes back."""
    document = every_kind()
    # The NIC that a filter is on is a name too, of a NIC that the document has.
    taken = [
        (way, type)
        for way, type, is_reference in text_spots()
        if not is_reference and not _names_nic(way) and allows(type, text)
    ]
    for way, _type in taken:
        put(document, way, text)
    host = MemoryHost()
    apply(host, document)
    found = Counter(texts_in(list(host.objects.values())))
    words = [word for word in (type.parse(text) for _way, type in taken) if isinstance(word, str)]
    for word in set(words):
        assert found[word] >= words.count(word)
    for way, type in taken:
        if type.__class__ in (Name, Text, Pattern, AbsolutePath):
            assert type.parse(text) == text, way
    back = gathered(host)
    assert yaml.safe_load(yaml.safe_dump(back)) == json.loads(json.dumps(back)) == back
    assert apply(host, back)["changes"] == []
    assert apply(host, document)["changes"] == []


def test_all_capabilities_are_known_by_kind():
    assert {name.split(".")[0] for name in every_capability()} == set(KINDS)
