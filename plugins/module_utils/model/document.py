# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The document that describes a host as a whole, and what must be right between its objects."""

from __future__ import annotations

import functools
import ipaddress
from typing import Any, Collection, Dict, FrozenSet, Iterator, List, Mapping, Optional, Sequence, Set, Tuple, Type

from ..errors import Problem, ValidateError
from .access import Permission, Realm, Role, User
from .compute import Backup, ResourcePool, Snapshot, Template, Vm
from .firewall import Firewall, FirewallRule, PortAcl
from .network import HostInterface, VirtualNetwork, VirtualSwitch
from .schema import ModelObject, Option, Path, Plain
from .storage import StoragePool
from .system import System
from .tuning import Tuning
from .types import show

Key = Tuple[Any, ...]
State = Dict[str, Dict[Key, ModelObject]]
References = Tuple[Tuple[str, str, Path], ...]

# In the order in which a host is built: what stands first is needed by what follows.
KINDS: Dict[str, Type[ModelObject]] = {
    cls.KIND: cls
    for cls in (
        System,
        Tuning,
        StoragePool,
        VirtualSwitch,
        VirtualNetwork,
        HostInterface,
        Firewall,
        FirewallRule,
        Realm,
        Role,
        User,
        Permission,
        ResourcePool,
        Template,
        Vm,
        PortAcl,
        Snapshot,
        Backup,
    )
}

# The keys of a document: a kind of which a host has only one stands by its name, the others in a list.
SECTIONS: Dict[str, str] = {
    kind: kind if not cls.key_fields() else f"{kind}es" if kind.endswith("ch") else f"{kind}s"
    for kind, cls in KINDS.items()
}
KIND_OF_SECTION: Dict[str, str] = {section: kind for kind, section in SECTIONS.items()}


def referenced_kinds(cls: Type[ModelObject]) -> FrozenSet[str]:
    """Return the kinds that objects of this kind can name."""
    found: Set[str] = set()
    _collect_references(cls, found)
    return frozenset(found)


def _collect_references(cls: Type[ModelObject], found: Set[str]) -> None:
    for entry in cls.options().values():
        if entry.reference:
            found.add(entry.reference)
        inner = getattr(entry.type, "cls", None)
        if inner is not None:
            _collect_references(inner, found)


def iterate_options(cls: Type[ModelObject], prefix: str = "") -> Iterator[Tuple[str, Option]]:
    """Yield (dotted name, option) of all fields of a kind and of the objects inside it."""
    for name, entry in cls.options().items():
        yield f"{prefix}{name}", entry
        inner = getattr(entry.type, "cls", None)
        if inner is not None:
            yield from iterate_options(inner, f"{prefix}{name}.")


def choices_of(entry: Option) -> Tuple[str, ...]:
    """Return the words that a field's value, or each of its values, is one of; none where there are no choices."""
    return tuple(getattr(getattr(entry.type, "type", None), "choices", None) or ())


def capabilities_of(cls: Type[ModelObject]) -> FrozenSet[str]:
    """Return the capabilities that a platform can have for a kind, with one for each choice where they end in ``*``."""
    names: Set[str] = {cls.KIND} if cls.KIND else set()
    for _name, entry in iterate_options(cls):
        if entry.capability is None:
            continue
        if entry.capability.endswith(".*"):
            names |= {f"{entry.capability[:-1]}{choice}" for choice in choices_of(entry)}
        else:
            names.add(entry.capability)
    return frozenset(names)


class Document:
    """What a user wants of a host.

    present: the objects that shall be there, by kind and key.
    absent: the keys of those that shall not.
    exact: the kinds of which nothing shall be there but what is listed.
    """

    def __init__(
        self,
        present: Optional[State] = None,
        absent: Optional[Dict[str, Set[Key]]] = None,
        exact: Collection[str] = (),
    ) -> None:
        self.present: State = present or {}
        self.absent: Dict[str, Set[Key]] = absent or {}
        self.exact = frozenset(exact)

    @classmethod
    def parse(cls, data: Any, exact: Any = ()) -> Document:
        """Read a document from plain data.

        data: a mapping of sections (virtual_switches, vms, ...) to lists of objects, or to one object for kinds of which
            a host has only one. An object may carry `state: absent`.
        exact: list of kinds, such as virtual_switch.
        Raises ValidateError with every problem that was found.
        """
        problems: List[Problem] = []
        document = cls()
        if not isinstance(data, Mapping):
            raise ValidateError([Problem("document", f"{show(data)} is not allowed; allowed is a mapping")])
        for section, value in data.items():
            kind = KIND_OF_SECTION.get(section) if isinstance(section, str) else None
            if kind is None:
                problems.append(
                    Problem(Path().field(section).text, f"unknown; known are {', '.join(SECTIONS.values())}")
                )
            elif value is not None:
                document._read_section(kind, section, value, problems)
        document.exact = frozenset(cls._read_exact(exact, problems))
        for kind in sorted(document.exact):
            if data.get(SECTIONS[kind]) is None:
                # More likely a variable that is not set than the wish to remove everything.
                problems.append(
                    Problem(
                        "exact",
                        f"names {kind}, but there is no {SECTIONS[kind]}; an empty list says that none is wanted",
                    )
                )
        if problems:
            raise ValidateError(problems)
        return document

    @staticmethod
    def _read_exact(exact: Any, problems: List[Problem]) -> Iterator[str]:
        many = [kind for kind, cls in KINDS.items() if cls.key_fields()]
        if not isinstance(exact, (list, tuple, set, frozenset)):
            problems.append(Problem("exact", f"{show(exact)} is not allowed; allowed is a list of kinds"))
            return
        for kind in exact:
            if not isinstance(kind, str) or kind not in many:
                problems.append(Problem("exact", f"{show(kind)} is not allowed; allowed are {', '.join(many)}"))
            else:
                yield str(kind)

    def _read_section(self, kind: str, section: str, value: Any, problems: List[Problem]) -> None:
        if not KINDS[kind].key_fields():
            self._read_object(kind, Path(section), value, problems)
        elif not isinstance(value, (list, tuple)):
            problems.append(Problem(section, f"{show(value)} is not allowed; allowed is a list of mappings"))
        else:
            self.present.setdefault(kind, {})
            for number, element in enumerate(value):
                label = KINDS[kind].label_of(element)
                self._read_object(kind, Path(kind).item(number if label is None else label), element, problems)

    def _read_object(self, kind: str, path: Path, value: Any, problems: List[Problem]) -> None:
        cls = KINDS[kind]
        state = "present"
        if isinstance(value, Mapping) and "state" in value:
            state = "present" if value["state"] is None else value["state"]
            value = {name: element for name, element in value.items() if name != "state"}
            allowed = ("present", "absent") if cls.key_fields() else ("present",)
            if not isinstance(state, str) or state not in allowed:
                problems.append(
                    Problem(
                        path.field("state").text, f"{show(state)} is not allowed; allowed is {' or '.join(allowed)}"
                    )
                )
                return
        if state == "absent" and isinstance(value, Mapping):
            # What is to go is told by its key alone: its other fields need not be complete or even right.
            value = {name: element for name, element in value.items() if name in cls.key_fields()}
            found: List[Problem] = []
            item = cls.read(value, path, found)
            keys = {path.field(name).text for name in cls.key_fields()}
            problems.extend(problem for problem in found if problem.path in keys)
        else:
            item = cls.read(value, path, problems)
        if item is None:
            return
        if item.key in self.present.get(kind, {}) or item.key in self.absent.get(kind, set()):
            problems.append(Problem(path.text, "is listed twice"))
        if state == "absent":
            self.absent.setdefault(kind, set()).add(item.key)
        else:
            self.present.setdefault(kind, {})[item.key] = item

    def objects(self) -> Iterator[ModelObject]:
        """Yield every object that shall be there, in the order in which a host is built."""
        for kind in KINDS:
            yield from self.present.get(kind, {}).values()

    def kinds(self) -> FrozenSet[str]:
        """Return the kinds that the document says anything of."""
        return frozenset(self.present) | frozenset(self.absent) | self.exact

    def kinds_to_read(self) -> FrozenSet[str]:
        """Return the kinds whose current objects have to be known to plan this document.

        These are its own, those that its objects may name, and, where something is to go, those that may name it.
        """
        own = self.kinds()
        wanted = set(own)
        for kind in own:
            wanted |= referenced_kinds(KINDS[kind])
        going = set(self.absent) | self.exact
        wanted |= {kind for kind, cls in KINDS.items() if going & referenced_kinds(cls)}
        # A network tells its switch, whose type decides what may be on it; the host's interfaces tell which switches and
        # networks the host is managed through.
        if own & {"virtual_switch", "virtual_network"}:
            wanted |= {"virtual_network", "host_interface"}
        # A filter goes with the NIC that it is on.
        if "vm" in own:
            wanted.add("port_acl")
        if "virtual_network" in wanted:
            wanted.add("virtual_switch")
        return frozenset(wanted)


def to_document(state: State) -> Plain:
    """Return a state as plain data that can be read as a document again."""
    document: Plain = {}
    for kind, section in SECTIONS.items():
        if kind not in state:
            continue
        objects = [item.to_document() for _key, item in sorted(state[kind].items(), key=lambda entry: str(entry[0]))]
        if KINDS[kind].key_fields():
            document[section] = objects
        elif objects:
            document[section] = objects[0]
    return document


def check_whole(
    whole: State, touched: Mapping[str, Collection[Key]], known: Collection[str], before: Optional[State] = None
) -> List[Problem]:
    """Return what is wrong between the objects of a host.

    whole: the host as it would be.
    touched: the keys, by kind, of the objects that the document is about; faults among others are not its business.
    known: the kinds that were read; a reference to another kind cannot be checked.
    before: the host as it is.
    """
    present = before or {}
    references = [
        (item, tuple(item.references(item.key in present.get(item.KIND, {})))) for item in _all_objects(whole)
    ]
    problems = list(_check_references(references, whole, touched, known))
    problems.extend(_check_circles(references, touched))
    for check in (_check_claims, _check_addresses, _check_ports):
        problems.extend(check(whole, touched))
    return problems


def _is_touched(item: ModelObject, touched: Mapping[str, Collection[Key]]) -> bool:
    return item.key in touched.get(item.KIND, ())


def _all_objects(whole: State) -> Iterator[ModelObject]:
    for kind in KINDS:
        yield from whole.get(kind, {}).values()


def _check_references(
    references: Sequence[Tuple[ModelObject, References]],
    whole: State,
    touched: Mapping[str, Collection[Key]],
    known: Collection[str],
) -> Iterator[Problem]:
    names = {kind: {item.label for item in whole.get(kind, {}).values()} for kind in known}
    shown: Dict[str, str] = {}
    for item, found in references:
        for kind, label, path in found:
            if kind not in names or label in names[kind]:
                continue
            if _is_touched(item, touched):
                if kind not in shown:
                    first = sorted(names[kind])[:10]
                    more = f" and {len(names[kind]) - 10} more" if len(names[kind]) > 10 else ""
                    shown[kind] = f"{', '.join(show(name) for name in first)}{more}" if first else "none"
                yield Problem(
                    path.text, f"there is no {kind.replace('_', ' ')} {show(label)}; there are: {shown[kind]}"
                )
            elif (label,) in touched.get(kind, ()):
                yield Problem(Path(kind).item(label).text, f"cannot go, since it is used by {path.text}")


def _check_circles(
    references: Sequence[Tuple[ModelObject, References]], touched: Mapping[str, Collection[Key]]
) -> Iterator[Problem]:
    """Find objects that would be made from, or lie in, themselves by way of others."""
    circular = _circular_kinds()
    targets: Dict[Tuple[str, str], List[Tuple[str, str, Path]]] = {
        (item.KIND, item.label): [entry for entry in found if entry[0] in circular]
        for item, found in references
        if item.KIND in circular
    }
    sound: Set[Tuple[str, str]] = set()
    for start in targets:
        # Depth first, with the way to here kept beside the branches that are still to be taken.
        way: List[Tuple[str, str]] = []
        branches = [iter([(start[0], start[1], Path())])]
        while branches:
            kind, label, path = next(branches[-1], ("", "", Path()))
            place = (kind, label)
            if not kind:
                branches.pop()
                if way:
                    sound.add(way.pop())
            elif place in way:
                steps = [*way[way.index(place) :], place]
                if any((name,) in touched.get(step, ()) for step, name in steps):
                    text = " on ".join(Path(step).item(name).text for step, name in steps)
                    yield Problem(path.text, f"the objects would depend on themselves: {text}")
            elif place in targets and place not in sound:
                way.append(place)
                branches.append(iter(targets[place]))


@functools.cache
def _circular_kinds() -> FrozenSet[str]:
    """Return the kinds whose objects can name, by way of others, objects of their own kind."""
    reached = {kind: set(referenced_kinds(cls)) for kind, cls in KINDS.items()}
    for _step in KINDS:
        for kinds in reached.values():
            kinds.update(*(reached[kind] for kind in set(kinds)))
    return frozenset(kind for kind, kinds in reached.items() if kind in kinds)


def _check_claims(whole: State, touched: Mapping[str, Collection[Key]]) -> Iterator[Problem]:
    owners: Dict[Tuple[str, str], Tuple[ModelObject, Path]] = {}
    for item in _all_objects(whole):
        for what, name, path in item.claims():
            other = owners.setdefault((what, name), (item, path))
            # Long names are cut in paths, so that two objects can share the text of one.
            if other[1] is not path and (_is_touched(item, touched) or _is_touched(other[0], touched)):
                yield Problem(path.text, f"the {what} {show(name)} is taken by {other[1].text} already")


def _check_addresses(whole: State, touched: Mapping[str, Collection[Key]]) -> Iterator[Problem]:
    networks = {item.label: item for item in whole.get("virtual_network", {}).values()}
    switches = {item.label: item for item in whole.get("virtual_switch", {}).values()}
    owners: Dict[Tuple[str, str], Tuple[ModelObject, Path]] = {}
    subnets_of = {
        name: [ipaddress.ip_network(subnet) for subnet in getattr(network, "subnets", None) or ()]
        for name, network in networks.items()
    }
    for item, port, path in _ports(whole):
        name = getattr(port, "network", None)
        network = networks.get(name) if name else None
        for address in getattr(port, "addresses", None) or ():
            ip = ipaddress.ip_interface(address).ip
            place = path.field("addresses")
            other = owners.setdefault((str(name), str(ip)), (item, place))
            if other[1] is not place and (_is_touched(item, touched) or _is_touched(other[0], touched)):
                yield Problem(
                    place.text, f"the address {ip} on network {show(name)} is taken by {other[1].text} already"
                )
            subnets = subnets_of.get(name or "", ())
            if subnets and not any(ip in subnet for subnet in subnets):
                if _is_touched(item, touched) or (network is not None and _is_touched(network, touched)):
                    there = ", ".join(str(subnet) for subnet in subnets)
                    yield Problem(place.text, f"{ip} lies in none of the subnets of network {show(name)}: {there}")
        switch = switches.get(getattr(network, "switch", "")) if network is not None else None
        if item.KIND == "host_interface" and getattr(switch, "type", None) == "private" and _is_touched(item, touched):
            yield Problem(
                path.field("network").text,
                f"network {show(name)} is on switch {show(getattr(switch, 'name', ''))} of type private, which the host has no "
                "interface on; type internal has",
            )


def _ports(whole: State) -> Iterator[Tuple[ModelObject, ModelObject, Path]]:
    for interface in whole.get("host_interface", {}).values():
        yield interface, interface, interface.place
    for vm in whole.get("vm", {}).values():
        for nic in getattr(vm, "nics", None) or ():
            yield vm, nic, vm.place.field("nics").item(nic.label)


def filters_without_port(whole: State) -> Iterator[ModelObject]:
    """Yield the port filters whose VM is there and has no NIC of the name."""
    vms = whole.get("vm", {})
    for acl in whole.get("port_acl", {}).values():
        vm = vms.get(acl.key[:1])
        if vm is not None and acl.key[1] not in {nic.name for nic in getattr(vm, "nics", None) or ()}:
            yield acl


def _check_ports(whole: State, touched: Mapping[str, Collection[Key]]) -> Iterator[Problem]:
    for acl in filters_without_port(whole):
        if _is_touched(acl, touched):
            vm = whole["vm"][acl.key[:1]]
            there = ", ".join(nic.name for nic in getattr(vm, "nics", None) or ()) or "none"
            yield Problem(acl.place.field("nic").text, f"VM {show(vm.label)} has no such NIC; it has: {there}")
