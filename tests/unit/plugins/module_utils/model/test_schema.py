# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The schema itself, over every kind: what a new field or kind gets wrong shows here."""

from __future__ import annotations

import dataclasses
import re

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import ValidateError
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.document import (
    KIND_OF_SECTION,
    KINDS,
    SECTIONS,
    Document,
    capabilities_of,
    choices_of,
    iterate_options,
    referenced_kinds,
    to_document,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.operation import Operation
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.schema import (
    ModelObject,
    Nested,
    NestedList,
    Path,
    Value,
    option,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.types import Boolean, Integer, Name
from support.documents import every_kind

EVERY_OPTION = [
    pytest.param(cls, name, entry, id=f"{cls.__name__}.{name}")
    for cls in (*KINDS.values(), Operation)
    for name, entry in iterate_options(cls)
]


@pytest.mark.parametrize(("cls", "name", "entry"), EVERY_OPTION)
def test_an_option_is_declared_soundly(cls, name, entry):
    assert re.fullmatch(r"[A-Z0-9].*[.]", entry.description), "a description is whole sentences"
    assert entry.when_gone in ("refuse", "remove", "include", "ignore")
    assert entry.when_gone == "refuse" or entry.reference
    assert entry.reference is None or entry.reference in KINDS
    assert not (entry.key and (entry.clearable or entry.secret or entry.default is not None))
    assert not (entry.required and entry.default is not None)
    ModelObject.default_of(entry)
    if entry.capability and entry.capability.endswith(".*"):
        assert choices_of(entry), "a star stands for choices"
    if entry.capability and cls.KIND:
        owner = entry.capability.split(".")[0]
        assert owner == cls.KIND or (owner in KINDS and cls.KIND in owner), f"{entry.capability} is of another kind"


@pytest.mark.parametrize("cls", [*KINDS.values(), Operation], ids=lambda cls: cls.__name__)
def test_an_argument_spec_can_be_made(cls):
    spec = cls.argument_spec()
    assert set(spec) == set(cls.options())
    for name, argument in spec.items():
        assert argument["type"] in ("str", "int", "bool", "list", "dict")
        assert argument["no_log"] is cls.options()[name].secret
        assert "default" not in argument


def test_sections_and_kinds_belong_together():
    assert {KIND_OF_SECTION[section] for section in SECTIONS.values()} == set(KINDS)
    assert SECTIONS["virtual_switch"] == "virtual_switches"
    assert SECTIONS["system"] == "system"
    assert SECTIONS["vm"] == "vms"


def test_references_go_to_what_is_built_before():
    """Only a template made from a VM, and pools inside pools, may look the other way."""
    order = list(KINDS)
    backward = {
        (kind, other)
        for kind, cls in KINDS.items()
        for other in referenced_kinds(cls)
        if order.index(other) >= order.index(kind)
    }
    assert backward == {("template", "vm"), ("resource_pool", "resource_pool")}


def test_capabilities_of_a_kind():
    names = capabilities_of(KINDS["virtual_switch"])
    assert {"virtual_switch", "virtual_switch.type.nat", "virtual_switch.bond.lacp", "virtual_switch.mtu"} <= names
    assert not any(name.endswith("*") for name in names)


@pytest.mark.parametrize("kind", KINDS)
def test_every_object_comes_back_from_its_plain_form(kind):
    document = Document.parse(every_kind())
    again = Document.parse(to_document(document.present))
    for key, item in document.present[kind].items():
        assert again.present[kind][key].to_document() == item.to_document()
        whole = item.complete(None)
        assert whole.complete(whole) == whole
        assert KINDS[kind]().complete(whole).to_document() == whole.to_document() or KINDS[kind].key_fields()


@pytest.mark.parametrize("kind", KINDS)
def test_objects_are_frozen(kind):
    item = next(iter(Document.parse(every_kind()).present[kind].values()))
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(item, next(iter(item.options())), None)


def test_secrets_are_not_in_the_plain_form():
    document = Document.parse(every_kind())
    assert "canary" not in repr(to_document(document.present))
    assert "canary" in repr(document.present)


def test_places():
    document = Document.parse(every_kind())
    assert next(iter(document.present["system"].values())).place.text == "system"
    assert document.present["snapshot"]["web", "before"].place.text == "snapshot['web/before']"
    assert document.present["vm"][("web",)].key == ("web",)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (Path("vm").item("web").field("nics").item("eth0").field("network"), "vm['web'].nics['eth0'].network"),
        (Path("vm").item(0).field("name"), "vm[0].name"),
        (Path().field("vms"), "vms"),
        (Path().field("a b"), "['a b']"),
        (Path("vm").field("a\u202e"), "vm['a\\u202e']"),
        (Path("vm").field(5), "vm[5]"),
        (Path("vm").field(None), "vm[None]"),
        (Path("vm").inner("bond.primary"), "vm.bond.primary"),
        (Path("vm").inner(""), "vm"),
        (Path().inner("guard.timeout"), "guard.timeout"),
    ],
)
def test_paths(path, text):
    assert path.text == text


@dataclasses.dataclass(frozen=True)
class Part(ModelObject):
    """A part of the thing that the tests below are about."""

    name: str = option(Value(Name()), "The name.", key=True)
    size: int = option(Value(Integer(1, 9)), "The size.", default=3)


@dataclasses.dataclass(frozen=True)
class Thing(ModelObject):
    """A thing with parts."""

    KIND = "thing"

    name: str = option(Value(Name()), "The name.", key=True)
    main: Part = option(Nested(Part), "The main part.")  # noqa: RUF009 - frozen, and made once
    parts: tuple = option(NestedList(Part, ordered=False), "All parts.", default=[])
    some: tuple = option(NestedList(Part, ordered=False, partial=True), "Some parts.")
    note: str = option(Value(Name()), "A note.", clearable=True)
    flag: bool = option(Value(Boolean()), "A flag.", default=True, capability="thing.flag")
    wish: bool = option(Value(Boolean()), "A wish.", capability="thing.wish")
    guard: bool = option(Value(Boolean()), "A guard.", default=True, neutral=False, capability="thing.guard")


def thing(**fields):
    return Thing.parse({"name": "t", **fields})


def test_a_new_object_gets_its_defaults_and_those_of_its_parts():
    whole = thing(parts=[{"name": "b"}, {"name": "a", "size": 5}]).complete(None)
    assert whole.to_document() == {
        "name": "t",
        "parts": [{"name": "a", "size": 5}, {"name": "b", "size": 3}],
        "flag": True,
        "guard": True,
    }


def test_an_object_keeps_what_is_not_said():
    current = thing(parts=[{"name": "a", "size": 5}, {"name": "b", "size": 6}], note="x", flag=False).complete(None)
    whole = thing(parts=[{"name": "a"}, {"name": "c"}]).complete(current)
    assert [(part.name, part.size) for part in whole.parts] == [("a", 5), ("c", 3)]
    assert (whole.note, whole.flag) == ("x", False)


def test_an_empty_text_clears_and_an_empty_list_empties():
    current = thing(parts=[{"name": "a"}], note="x").complete(None)
    whole = thing(parts=[], note="").complete(current)
    assert (whole.parts, whole.note) == ((), None)


def test_a_partial_list_leaves_the_others_alone():
    current = thing(some=[{"name": "a", "size": 5}, {"name": "c", "size": 6}]).complete(None)
    whole = thing(some=[{"name": "b"}, {"name": "c", "size": 7}]).complete(current)
    assert [(part.name, part.size) for part in whole.some] == [("a", 5), ("b", 3), ("c", 7)]


@pytest.mark.parametrize(
    ("fields", "asked"),
    [
        ({}, []),
        ({"flag": True, "guard": False}, []),
        ({"flag": False}, ["thing.flag"]),
        ({"wish": False}, ["thing.wish"]),
        ({"wish": True}, ["thing.wish"]),
        ({"guard": True}, ["thing.guard"]),
    ],
)
def test_only_what_is_not_neutral_asks_for_an_ability(fields, asked):
    assert [name for name, _path, _value in thing(**fields).required_capabilities()] == ["thing", *asked]


def test_not_said_is_like_none():
    assert thing(note=None, parts=None) == thing()


def test_every_problem_is_found():
    with pytest.raises(ValidateError) as caught:
        Thing.parse({"main": {"size": 0, "x": 1}, "parts": [{"name": "a"}, {"name": "a", "size": "x"}, 5], "flag": 1})
    assert {problem.path for problem in caught.value.problems} == {
        "thing.name",
        "thing.main.name",
        "thing.main.size",
        "thing.main.x",
        "thing.parts['a'].size",
        "thing.parts[1]",
        "thing.parts[2]",
        "thing.flag",
    }
    assert len(caught.value.details["problems"]) == len(caught.value.problems) == 8
    assert "thing.name: must be given" in caught.value.message
