# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How a kind of object is declared, read from a document, and written back into one.

A kind is a frozen dataclass whose fields are made by :func:`option`. A field that is None was not said: the host
keeps what it has, and a new object gets the field's default. That is what lets one object describe both what a user
wants and what a host shows.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from typing import Any, ClassVar, Dict, Iterator, List, Mapping, Optional, Set, Tuple, Type, TypeVar

from ..errors import Problem, ValidateError
from .types import ValueType, show

Plain = Dict[str, Any]
ObjectType = TypeVar("ObjectType", bound="ModelObject")

AS_DEFAULT: Any = object()
"""Stands for "the same as the default" in Option.neutral."""


def shown_as(asked: ObjectType, **fields: Any) -> ObjectType:
    """Return the current object for one that the host shows otherwise than it was last asked for.

    What a user leaves open is then taken from what was asked before and not from what is there by accident, so that a
    document which names the object, and no more, mends it.

    asked: the object as it was last asked for.
    fields: what the host shows; None where the model has no words for it, which differs from whatever a user can want
        of a field that always has a value.
    """
    shown = dataclasses.replace(asked, **fields)
    object.__setattr__(shown, "_asked", asked)
    return shown


def last_asked(current: Optional[ObjectType]) -> Optional[ObjectType]:
    """Return a current object as it was last asked for; itself where the host shows it so."""
    return getattr(current, "_asked", current)


@dataclasses.dataclass(frozen=True)
class Option:
    """What is known of one field beside its name.

    type: how its value is read.
    description: one or more sentences for the documentation.
    default: what a new object gets where nothing is said; never used for one that exists.
    key: whether it is (part of) what tells the object from others of its kind.
    required: whether a document must say it, or only of a new object where it is settled then; keys always are.
    secret: whether it must never be shown; it is not gathered, and not compared unless it is ``compared``.
    compared: whether a secret is compared all the same where the host tells it, as it does the hash of a password.
    create_only: whether it is settled when the object is made.
    reference: the kind whose object's key it names, or of whose objects it lists the keys.
    when_gone: what it means for this object that the one it names is to go: ``refuse`` (that one cannot go as long as
        it is named), ``remove`` (this object is removed before it), ``include`` (this object is a part of it and goes
        with it) or ``ignore`` (it only says what this object was made from).
    claims: what it takes for itself alone, such as ``uplink``: two objects of a host may not claim the same one.
    capability: what a platform must be able to do for a value other than None, an empty list and the neutral one;
        ``*`` appends the value itself, as in ``virtual_switch.type.*``.
    neutral: the value that takes no ability; the default where it is not said.
    clearable: whether an empty text says "none" as opposed to "as it is".
    """

    type: FieldType
    description: str
    default: Any = None
    key: bool = False
    required: bool = False
    secret: bool = False
    compared: bool = False
    create_only: bool = False
    reference: Optional[str] = None
    when_gone: str = "refuse"
    claims: Optional[str] = None
    capability: Optional[str] = None
    neutral: Any = AS_DEFAULT
    clearable: bool = False

    def refusal(self) -> str:
        """Return the message for a value that is not allowed and must not be shown."""
        allowed = getattr(getattr(self.type, "type", None), "allowed", "")
        return f"what is given is not allowed{f'; allowed is {allowed}' if allowed else ''}"


def option(type: FieldType, description: str, **properties: Any) -> Any:
    """Return a dataclass field of a kind; the properties are those of :class:`Option`."""
    return dataclasses.field(default=None, metadata={"option": Option(type, description, **properties)})


PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


class Path:
    """Where a value stands in the document, as shown to the user."""

    def __init__(self, text: str = "") -> None:
        self.text = text

    def field(self, name: Any) -> Path:
        """Return the path of a field of the object here; a name that is no word is quoted like a key."""
        if not isinstance(name, str) or not PLAIN_NAME.fullmatch(name):
            return Path(f"{self.text}[{show(name)}]")
        return Path(f"{self.text}.{name}" if self.text else str(name))

    def inner(self, path: str) -> Path:
        """Return the path that a relative one, such as ``bond.primary`` or ``routes['a'].gateway``, has from here."""
        return Path(f"{self.text}.{path}" if self.text and path else self.text or path)

    def item(self, label: Any) -> Path:
        """Return the path of an element of the list here, by its key or its number."""
        return Path(f"{self.text}[{label if isinstance(label, int) else show(label)}]")


class FieldType:
    """How a field's value is read, written, compared and completed."""

    def read(self, value: Any, path: Path, problems: List[Problem]) -> Any:
        """Return the canonical value; append to problems and return None where it is not allowed."""
        raise NotImplementedError

    def write(self, value: Any) -> Any:
        """Return the value as plain data (str, int, bool, list, dict)."""
        return value

    def complete(self, wanted: Any, current: Any) -> Any:
        """Return the wanted value with what it leaves open taken from the current one."""
        return wanted

    def argument(self) -> Plain:
        """Return the entry of an Ansible argument spec."""
        raise NotImplementedError


class Value(FieldType):
    """A single value."""

    def __init__(self, type: ValueType) -> None:
        self.type = type

    def read(self, value: Any, path: Path, problems: List[Problem]) -> Any:
        try:
            return self.type.parse(value)
        except ValueError as error:
            problems.append(Problem(path.text, str(error)))
            return None

    def argument(self) -> Plain:
        entry: Plain = {"type": self.type.ansible_type}
        if self.type.choices:
            entry["choices"] = list(self.type.choices)
        return entry


class Values(FieldType):
    """A list of single values.

    ordered: whether the order means something; a list whose order does not is kept sorted, so that it compares equal.
    """

    def __init__(self, type: ValueType, ordered: bool = False, minimum: int = 0, maximum: int = 4096) -> None:
        self.type = type
        self.ordered = ordered
        self.minimum = minimum
        self.maximum = maximum

    def read(self, value: Any, path: Path, problems: List[Problem]) -> Any:
        if not isinstance(value, (list, tuple)):
            problems.append(Problem(path.text, f"{show(value)} is not allowed; allowed is a list"))
            return None
        if not self.minimum <= len(value) <= self.maximum:
            problems.append(
                Problem(
                    path.text, f"{len(value)} entries are not allowed; allowed are {self.minimum} to {self.maximum}"
                )
            )
            return None
        result: List[Any] = []
        seen: Set[Any] = set()
        for number, element in enumerate(value):
            try:
                parsed = self.type.parse(element)
            except ValueError as error:
                problems.append(Problem(path.item(number).text, str(error)))
                continue
            if parsed in seen:
                problems.append(Problem(path.item(number).text, f"{show(parsed)} is listed twice"))
            seen.add(parsed)
            result.append(parsed)
        return tuple(result if self.ordered else sorted(result))

    def write(self, value: Any) -> Any:
        return list(value)

    def argument(self) -> Plain:
        entry: Plain = {"type": "list", "elements": self.type.ansible_type}
        if self.type.choices:
            entry["choices"] = list(self.type.choices)
        return entry


class Nested(FieldType):
    """An object inside the object."""

    def __init__(self, cls: Type[ModelObject]) -> None:
        self.cls = cls

    def read(self, value: Any, path: Path, problems: List[Problem]) -> Any:
        return self.cls.read(value, path, problems)

    def write(self, value: Any) -> Any:
        return value.to_document()

    def complete(self, wanted: Any, current: Any) -> Any:
        return wanted.complete(current)

    def argument(self) -> Plain:
        return {"type": "dict", "options": self.cls.argument_spec()}


class NestedList(FieldType):
    """A list of objects inside the object, told apart by their key.

    A list that is given is the whole list: objects that it does not name go. What an object in it leaves open is taken
    from the current one with the same key.

    ordered: whether the order means something.
    partial: whether objects that the list does not name are left alone instead.
    """

    def __init__(
        self, cls: Type[ModelObject], ordered: bool = True, maximum: int = 4096, partial: bool = False
    ) -> None:
        self.cls = cls
        self.ordered = ordered
        self.maximum = maximum
        self.partial = partial

    def read(self, value: Any, path: Path, problems: List[Problem]) -> Any:
        if not isinstance(value, (list, tuple)) or len(value) > self.maximum:
            problems.append(
                Problem(
                    path.text, f"{show(value)} is not allowed; allowed is a list of at most {self.maximum} mappings"
                )
            )
            return None
        result: List[ModelObject] = []
        seen: Set[Any] = set()
        for number, element in enumerate(value):
            label = self.cls.label_of(element)
            item = self.cls.read(element, path.item(number if label is None else label), problems)
            if item is None:
                continue
            if item.key in seen:
                problems.append(Problem(path.item(number).text, f"{show(item.label)} is listed twice"))
            seen.add(item.key)
            result.append(item)
        return tuple(result if self.ordered else sorted(result, key=lambda item: str(item.key)))

    def write(self, value: Any) -> Any:
        return [item.to_document() for item in value]

    def complete(self, wanted: Any, current: Any) -> Any:
        known = {item.key: item for item in current or ()}
        result = [item.complete(known.get(item.key)) for item in wanted]
        if self.partial:
            named = {item.key for item in wanted}
            result.extend(item for item in current or () if item.key not in named)
        return tuple(result if self.ordered else sorted(result, key=lambda item: str(item.key)))

    def argument(self) -> Plain:
        return {"type": "list", "elements": "dict", "options": self.cls.argument_spec()}


class TextMap(FieldType):
    """A mapping of names to single values, such as advanced settings."""

    def __init__(self, name: ValueType, value: ValueType) -> None:
        self.name = name
        self.value = value

    def read(self, value: Any, path: Path, problems: List[Problem]) -> Any:
        if not isinstance(value, Mapping):
            problems.append(Problem(path.text, f"{show(value)} is not allowed; allowed is a mapping"))
            return None
        result = {}
        for name, element in value.items():
            try:
                result[self.name.parse(name)] = self.value.parse(element)
            except ValueError as error:
                problems.append(Problem(path.item(name if isinstance(name, str) else show(name)).text, str(error)))
        return tuple(sorted(result.items()))

    def write(self, value: Any) -> Any:
        return dict(value)

    def argument(self) -> Plain:
        return {"type": "dict"}


@dataclasses.dataclass(frozen=True)
class ModelObject:
    """Base of the kinds and of the objects inside them.

    KIND: the name of the kind, empty for an object inside another.
    DESCRIPTION: what it is, for the documentation.
    """

    KIND: ClassVar[str] = ""
    DESCRIPTION: ClassVar[str] = ""

    @classmethod
    @functools.cache
    def options(cls) -> Mapping[str, Option]:
        """Return the fields by name, in the order of their declaration."""
        return {field.name: field.metadata["option"] for field in dataclasses.fields(cls)}

    @classmethod
    @functools.cache
    def key_fields(cls) -> Tuple[str, ...]:
        """Return the names of the fields that make up the key; none for a kind of which a host has only one."""
        return tuple(name for name, entry in cls.options().items() if entry.key)

    @classmethod
    @functools.cache
    def defaults(cls) -> Mapping[str, Any]:
        """Return the fields' defaults in canonical form, None for fields that have none."""
        return {name: cls.default_of(entry) for name, entry in cls.options().items()}

    @classmethod
    def label_of(cls, value: Any) -> Optional[str]:
        """Return the key in an object that is not read yet, for paths, or None where it has none."""
        names = cls.key_fields()
        if not names or not isinstance(value, Mapping):
            return None
        parts = [value.get(name) for name in names]
        return "/".join(str(part) for part in parts) if all(isinstance(part, str) for part in parts) else None

    @classmethod
    @functools.cache
    def fields_with(cls, what: str) -> Tuple[str, ...]:
        """Return the fields that have a property of :class:`Option`, or hold objects of which a field has it.

        what: the property's name, or `inner` for all fields that hold objects.
        """
        found = []
        for name, entry in cls.options().items():
            inner = getattr(entry.type, "cls", None)
            if getattr(entry, what, None) or (inner is not None and (what == "inner" or inner.fields_with(what))):
                found.append(name)
        return tuple(found)

    @property
    def key(self) -> Tuple[Any, ...]:
        """What tells this object from others of its kind: the values of its key fields."""
        return tuple(getattr(self, name) for name in self.key_fields())

    @property
    def label(self) -> str:
        """The key as it is shown to the user."""
        return "/".join(str(part) for part in self.key)

    @property
    def place(self) -> Path:
        """Where this object stands in a document."""
        return Path(self.KIND).item(self.label) if self.key_fields() else Path(self.KIND)

    @classmethod
    def read(cls: Type[ObjectType], value: Any, path: Path, problems: List[Problem]) -> Optional[ObjectType]:
        """Read the object from plain data, appending to problems what is wrong with it.

        value: the mapping; an entry that is None counts as not said, as Ansible gives options that were left out.
        Returns None where the value is no mapping or a key is missing.
        """
        if not isinstance(value, Mapping):
            problems.append(Problem(path.text, f"{show(value)} is not allowed; allowed is a mapping"))
            return None
        options = cls.options()
        fields: Plain = {}
        before = len(problems)
        for name in value:
            if name not in options:
                problems.append(Problem(path.field(name).text, f"unknown; known are {', '.join(options)}"))
        for name, entry in options.items():
            given = value.get(name)
            if given is None:
                if entry.key or (entry.required and not entry.create_only):
                    problems.append(Problem(path.field(name).text, "must be given"))
                continue
            if entry.clearable and given == "":
                fields[name] = ""
                continue
            found: List[Problem] = []
            fields[name] = entry.type.read(given, path.field(name), found)
            # A message quotes the value, which a secret must not be.
            problems.extend(Problem(problem.path, entry.refusal()) if entry.secret else problem for problem in found)
        if any(fields.get(name) is None for name, entry in options.items() if entry.key):
            return None
        item = cls(**fields)
        if len(problems) == before:
            problems.extend(Problem(path.inner(name).text, text) for name, text in item.check())
        return item

    @classmethod
    def parse(cls: Type[ObjectType], value: Any, path: Optional[Path] = None) -> ObjectType:
        """Read the object from plain data.

        Raises ValidateError with every problem that was found.
        """
        problems: List[Problem] = []
        if path is None:
            label = cls.label_of(value)
            path = Path(cls.KIND) if label is None else Path(cls.KIND).item(label)
        item = cls.read(value, path, problems)
        if problems or item is None:
            raise ValidateError(problems)
        return item

    def check(self) -> Iterator[Tuple[str, str]]:
        """Yield (field, message) for what is wrong between the fields of this object, whatever the host has."""
        return iter(())

    def check_complete(self) -> Iterator[Tuple[str, str]]:
        """Yield (field, message) for what is wrong with this object once everything left open is filled in."""
        return iter(())

    def check_new(self: ObjectType, current: Optional[ObjectType]) -> Iterator[Tuple[str, str]]:
        """Yield (field, message) for what must be said of an object, or of one inside it, that is to be made.

        It is asked of the complete object of a kind. What exists already need not say it, since a host may not tell.
        """
        return iter(())

    def release(self: ObjectType, claims: Set[Tuple[str, str]]) -> Optional[ObjectType]:
        """Return this object without those of its claims, for the moment in which they change hands.

        None where the object cannot be without them.
        """
        return None

    def to_document(self) -> Plain:
        """Return the object as plain data without secrets and without what was not said; it can be read again."""
        document: Plain = {}
        for name, entry, value in self.items():
            if entry.secret:
                continue
            written = entry.type.write(value) if value != "" else value
            # An object of which nothing is told says no more than that nothing is said of it.
            if written != {} or not isinstance(value, ModelObject):
                document[name] = written
        return document

    def items(self, what: str = "") -> Iterator[Tuple[str, Option, Any]]:
        """Yield (name, option, value) of every field that was said.

        what: as in :meth:`fields_with`, to leave out all fields that have nothing to do with it.
        """
        options = self.options()
        for name in self.fields_with(what) if what else options:
            value = getattr(self, name)
            if value is not None:
                yield name, options[name], value

    def complete(self: ObjectType, current: Optional[ObjectType]) -> ObjectType:
        """Return this object with what it leaves open taken from the current one or, if there is none, the defaults.

        Of an object that the host shows otherwise than it was asked for (:func:`shown_as`), from what was asked for.
        """
        known = last_asked(current)
        fields: Plain = {}
        for name, entry in self.options().items():
            wanted = getattr(self, name)
            present = getattr(known, name) if known is not None else None
            if wanted is None:
                fields[name] = present if known is not None else self.defaults()[name]
            elif wanted == "":
                fields[name] = None
            else:
                fields[name] = entry.type.complete(wanted, present)
        return dataclasses.replace(self, **fields)

    def problems_when_complete(self: ObjectType, current: Optional[ObjectType] = None) -> List[Problem]:
        """Return what is wrong with this object and those inside it once everything left open is filled in.

        current: the object as the host has it, or None where it is to be made.
        """
        problems = list(_walk_problems(self, self.place))
        if current is None:
            for name, entry in self.options().items():
                if entry.required and entry.create_only and getattr(self, name) is None:
                    kind = self.KIND.replace("_", " ")
                    problems.append(Problem(self.place.field(name).text, f"must be given for a new {kind}"))
        problems.extend(Problem(self.place.inner(name).text, message) for name, message in self.check_new(current))
        return problems

    @staticmethod
    def default_of(entry: Option) -> Any:
        """Return a field's default in canonical form."""
        if entry.default is None:
            return None
        problems: List[Problem] = []
        value = entry.type.read(entry.default, Path("default"), problems)
        if problems:
            raise AssertionError(f"a default of the model is not allowed by it: {problems[0]}")
        return value.complete(None) if isinstance(value, ModelObject) else value

    @classmethod
    def neutral_of(cls, name: str) -> Any:
        """Return the value of a field that takes no ability of the platform."""
        neutral = cls.options()[name].neutral
        return cls.defaults()[name] if neutral is AS_DEFAULT else neutral

    @classmethod
    def argument_spec(cls) -> Plain:
        """Return the Ansible argument spec of the fields. Defaults are not in it: an option left out is not said."""
        spec: Plain = {}
        for name, entry in cls.options().items():
            argument = entry.type.argument()
            if entry.key or entry.required:
                argument["required"] = True
            # Said for every option, since Ansible guesses secrets by name and would warn about fields like password_hash.
            argument["no_log"] = entry.secret
            spec[name] = argument
        return spec

    def references(self, exists: bool = False) -> Iterator[Tuple[str, str, Path]]:
        """Yield (kind, key of the object as text, path) for every object of the host that this one names.

        exists: whether the object is there already: then what it was made from (a VM's template) may be gone.
        """
        yield from _walk_references(self, self.place, exists)

    def belongs_to(self) -> Iterator[Tuple[str, str, str]]:
        """Yield (kind, key of the object as text, `remove` or `include`) for every object that this one goes with."""
        for _name, entry, value in self.items("reference"):
            if entry.reference and entry.when_gone in ("remove", "include"):
                yield entry.reference, str(value), entry.when_gone

    def claims(self) -> Iterator[Tuple[str, str, Path]]:
        """Yield (what, name, path) for everything that this object takes for itself alone."""
        yield from _walk_claims(self, self.place)

    def required_capabilities(self) -> Iterator[Tuple[str, Path, Any]]:
        """Yield (capability, path, value) for all that a platform must be able to do for this object."""
        if self.KIND:
            yield self.KIND, self.place, None
        yield from _walk_capabilities(self, self.place)


def _objects_in(value: Any) -> Iterator[ModelObject]:
    if isinstance(value, ModelObject):
        yield value
    elif isinstance(value, tuple):
        for element in value:
            if isinstance(element, ModelObject):
                yield element


def _inner_of(name: str, value: Any, path: Path) -> Iterator[Tuple[ModelObject, Path]]:
    for inner in _objects_in(value):
        place = path.field(name)
        yield inner, place.item(inner.label) if isinstance(value, tuple) and inner.key_fields() else place


def _walk_problems(item: ModelObject, path: Path) -> Iterator[Problem]:
    for name, message in item.check_complete():
        yield Problem(path.inner(name).text, message)
    for name, _entry, value in item.items("inner"):
        for inner, place in _inner_of(name, value, path):
            yield from _walk_problems(inner, place)


def named(value: Any) -> List[str]:
    """Return the names in a field's value, which is one name or a list of names."""
    return [str(element) for element in value] if isinstance(value, tuple) else [str(value)]


def _walk_references(item: ModelObject, path: Path, exists: bool) -> Iterator[Tuple[str, str, Path]]:
    for name, entry, value in item.items("reference"):
        if entry.reference and value != "" and not (exists and entry.when_gone == "ignore"):
            for key in named(value):
                yield entry.reference, key, path.field(name)
        for inner, place in _inner_of(name, value, path):
            yield from _walk_references(inner, place, exists)


def _walk_claims(item: ModelObject, path: Path) -> Iterator[Tuple[str, str, Path]]:
    for name, entry, value in item.items("claims"):
        if entry.claims and value != "":
            for key in named(value):
                yield entry.claims, key, path.field(name)
        for inner, place in _inner_of(name, value, path):
            yield from _walk_claims(inner, place)


def _walk_capabilities(item: ModelObject, path: Path) -> Iterator[Tuple[str, Path, Any]]:
    for name, entry, value in item.items("capability"):
        if value in ("", ()):
            continue
        if entry.capability is not None and entry.capability.endswith(".*"):
            for element in named(value):
                yield f"{entry.capability[:-1]}{element}", path.field(name), element
        elif entry.capability is not None and value != item.neutral_of(name):
            yield entry.capability, path.field(name), value
        for inner, place in _inner_of(name, value, path):
            yield from _walk_capabilities(inner, place)
