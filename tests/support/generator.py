# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Documents made from the model's own schema, so that a new field or kind is covered without a line here.

One generator serves two sources of choices: Hypothesis, which shrinks what it finds, and a seeded random number
generator, which is fast enough for a hundred thousand inputs.
"""

from __future__ import annotations

import random
import string
from typing import Any, Callable, Dict, List, Optional, Protocol, Sequence, Type

from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import Problem
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model import types
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.document import KINDS, SECTIONS
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.schema import (
    FieldType,
    ModelObject,
    Nested,
    NestedList,
    Option,
    Plain,
    TextMap,
    Value,
    Values,
)

from .paths import locate
from .regular_expressions import matching_text

SHORT_NAMES = ("e0", "e1", "e2", "eth0", "eth1", "eth2")
LETTERS = string.ascii_letters + string.digits + " '\"\\/.-_:;$(){}[]<>&|`~!?*#%@=+,"
OTHER_LETTERS = "äßéЖ中日שع️\U0001f5a5\u0301\u200d\u200c"


class Chooser(Protocol):
    """Where choices come from."""

    def integer(self, minimum: int, maximum: int) -> int:
        """Return a whole number between two limits, both allowed."""
        raise NotImplementedError

    def choice(self, options: Sequence[Any]) -> Any:
        """Return one of the options."""
        raise NotImplementedError


class RandomChooser:
    """Choices by a seeded random number generator."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def integer(self, minimum: int, maximum: int) -> int:
        return self.random.randint(minimum, maximum)

    def choice(self, options: Sequence[Any]) -> Any:
        return options[self.random.randrange(len(options))]


class Generator:
    """Makes values, objects and documents in the form in which users write them."""

    def __init__(self, chooser: Chooser) -> None:
        self.chooser = chooser
        self.names: Dict[str, List[str]] = {}

    def chance(self, percent: int) -> bool:
        """Return true in that share of cases."""
        return self.chooser.integer(1, 100) <= percent

    # Single values

    def value(self, type: types.ValueType) -> Any:
        """Return a value that a type allows, in one of the forms in which it may be written."""
        makers: Dict[Type[types.ValueType], Callable[[Any], Any]] = {
            types.Text: self._text,
            types.Name: self._name,
            types.Pattern: lambda pattern: matching_text(pattern.pattern.pattern, self.chooser),
            types.Checksum: lambda checksum: matching_text(checksum.pattern.pattern, self.chooser),
            types.Boolean: lambda _boolean: self.chooser.choice([True, False, "yes", "off"]),
            types.Integer: self._integer,
            types.Choice: lambda choice: self.chooser.choice(list(choice.choices)),
            types.Size: self._size,
            types.MacAddress: lambda _mac: self._mac(),
            types.IpAddress: lambda address: self._address(address.version).split("/")[0],
            types.InterfaceAddress: lambda address: self._address(address.version),
            types.Cidr: lambda cidr: self._network(cidr.version),
            types.Host: lambda _host: self.chooser.choice([self._host_name(False), self._address(None).split("/")[0]]),
            types.HostName: lambda name: self._host_name(name.single_label),
            types.Date: lambda _date: f"20{self.chooser.integer(10, 99)}-{self.chooser.integer(10, 12)}-28",
            types.CpuSet: lambda _set: self.chooser.choice(["0", "0-3,8", "5,4", 3, "0-1,2"]),
            types.PortRange: lambda _port: self._range(65535),
            types.VlanRange: lambda _vlan: self._range(4094),
            types.Url: lambda _url: f"{self.chooser.choice(['http', 'https'])}://{self._host_name(False)}/image.qcow2",
            types.AbsolutePath: lambda _path: (
                f"/srv/{self.chooser.choice(SHORT_NAMES)}/{self._letters(1, 8).strip('/. ')}x"
            ),
        }
        maker = makers.get(type.__class__)
        if maker is None:
            raise TypeError(f"{type.__class__.__name__} is a new type of value: say here how one is made")
        return maker(type)

    def _letters(self, minimum: int, maximum: int) -> str:
        alphabet = LETTERS if self.chance(70) else LETTERS + OTHER_LETTERS
        length = self.chooser.integer(minimum, maximum)
        return "".join(self.chooser.choice(alphabet) for _number in range(length))

    def _text(self, text: types.Text) -> str:
        made = self._letters(max(text.minimum, 1), max(text.minimum, min(text.maximum, 24)))
        return f"{made}\n\t{made}" if text.multiline and self.chance(30) else made

    def _name(self, name: types.Name) -> str:
        if self.chance(70):
            return str(self.chooser.choice(SHORT_NAMES))
        return f"n{self._letters(0, 10)}n"

    def _integer(self, integer: types.Integer) -> Any:
        number = self.chooser.integer(integer.minimum, integer.maximum)
        number = self.chooser.choice([number, integer.minimum, integer.maximum])
        return str(number) if self.chance(20) else number

    def _size(self, size: types.Size) -> Any:
        gigabytes = self.chooser.integer(1, 64)
        forms = [gigabytes * 1024, f"{gigabytes} GiB", f"{gigabytes * 1024}MiB", str(gigabytes * 1024)]
        return self.chooser.choice(forms)

    def _mac(self) -> str:
        parts = [self.chooser.integer(0, 255) & 0xFE | 0x02] + [self.chooser.integer(0, 255) for _part in range(5)]
        text = self.chooser.choice([":", "-"]).join(f"{part:02x}" for part in parts)
        return text.upper() if self.chance(30) else text

    def _address(self, version: Optional[int]) -> str:
        version = version or self.chooser.choice([4, 6])
        last = self.chooser.integer(1, 254)
        if version == 6:
            # Not below ::100, where the last part could be read as the router of the subnet.
            return f"2001:DB8:0:{self.chooser.integer(0, 1)}::{last:x}/64"
        return f"192.0.{self.chooser.choice([2, 3])}.{last}/24"

    def _network(self, version: Optional[int]) -> str:
        version = version or self.chooser.choice([4, 6])
        if self.chance(20):
            return self._address(version).split("/")[0]
        return (
            f"2001:db8:0:{self.chooser.integer(0, 1)}::/64"
            if version == 6
            else self.chooser.choice(["192.0.2.0/24", "192.0.3.0/24", "192.0.2.0/23", "0.0.0.0/0"])
        )

    def _host_name(self, single_label: bool) -> str:
        label = f"{self.chooser.choice('abcXYZ')}{self.chooser.choice(['', '1', 'x-y'])}"
        return label if single_label else f"{label}.example.org"

    def _range(self, maximum: int) -> Any:
        first = self.chooser.integer(1, maximum)
        last = self.chooser.integer(first, maximum)
        return self.chooser.choice([first, str(first), f"{first}-{last}"])

    # Fields and objects

    def field(self, entry: Option, type: FieldType) -> Any:
        """Return plain data for a field."""
        if entry.reference is not None and isinstance(type, Value):
            known = self.names.get(entry.reference)
            return self.chooser.choice(known) if known else "missing"
        if isinstance(type, Value):
            if entry.key and isinstance(type.type, (types.Name, types.Pattern)) and self.chance(80):
                short = self.chooser.choice(SHORT_NAMES)
                if _allows(type.type, short):
                    return short
            return self.value(type.type)
        if isinstance(type, Values):
            length = self.chooser.integer(type.minimum, min(type.maximum, type.minimum + 3))
            # Nothing is listed twice, however it is written.
            made: Dict[Any, Any] = {}
            for _number in range(length):
                value = self.value(type.type)
                made.setdefault(type.type.parse(value), value)
            return list(made.values())
        if isinstance(type, Nested):
            return self.item(type.cls)
        if isinstance(type, NestedList):
            return [self.item(type.cls) for _number in range(self.chooser.integer(0, min(type.maximum, 3)))]
        if isinstance(type, TextMap):
            length = self.chooser.integer(0, 2)
            return {self.value(type.name): self.value(type.value) for _number in range(length)}
        raise TypeError(f"{type.__class__.__name__} is a new type of field: say here how one is made")

    def item(self, cls: Type[ModelObject]) -> Plain:
        """Return plain data for an object; what must be said is, the rest in half of the cases."""
        return {
            name: self.field(entry, entry.type)
            for name, entry in cls.options().items()
            if entry.key or entry.required or self.chance(50)
        }

    def document(self, kinds: Sequence[str] = tuple(KINDS)) -> Plain:
        """Return a document of those kinds that is right in every single value, though not yet as a whole."""
        for kind in kinds:
            if len(KINDS[kind].key_fields()) == 1:
                count = self.chooser.integer(0, 3)
                self.names[kind] = [f"{kind[:2]}{number}{self._odd_ending()}" for number in range(count)]
        result: Plain = {}
        for kind in kinds:
            cls = KINDS[kind]
            if not cls.key_fields():
                if self.chance(60):
                    result[SECTIONS[kind]] = self.item(cls)
            elif kind in self.names:
                (key,) = cls.key_fields()
                items = [{**self.item(cls), key: name} for name in self.names[kind]]
                result[SECTIONS[kind]] = items
            else:
                result[SECTIONS[kind]] = [self.item(cls) for _number in range(self.chooser.integer(0, 3))]
        self._name_nics(result)
        return result

    def _name_nics(self, document: Plain) -> None:
        # That a filter names a NIC of its VM is no reference that the schema speaks of.
        nics = [(vm["name"], nic["name"]) for vm in document.get("vms", ()) for nic in vm.get("nics", ())]
        for acl in document.get("port_acls", ()):
            if nics and self.chance(90):
                acl["vm"], acl["nic"] = self.chooser.choice(nics)

    def _odd_ending(self) -> str:
        return "" if self.chance(70) else f"{self._letters(0, 6)}x"

    def repaired(self, data: Plain, problems_of: Callable[[Plain], Sequence[Problem]]) -> Plain:
        """Return the document with what is wrong in it made right: by taking away what a problem's path names.

        problems_of: returns what is wrong with a document. Every path must name a place in it, or where something is
        missing the place in which it is missing: otherwise this raises LookupError, since users rely on paths.
        """
        tried = set()
        for _round in range(200):
            problems = problems_of(data)
            if not problems:
                return data
            for number, problem in enumerate(problems):
                try:
                    place = locate(data, problem.path)
                except LookupError:
                    if number == 0:
                        raise
                    # What it names went with the place of a problem before it.
                    continue
                if not place.exists and place.entry is not None and problem.path not in tried:
                    tried.add(problem.path)
                    place.set(self.field(place.entry, place.entry.type))
                else:
                    place.remove()
        raise AssertionError(f"a document could not be repaired: {problems}")


def _allows(type: types.ValueType, value: Any) -> bool:
    try:
        type.parse(value)
    except ValueError:
        return False
    return True
