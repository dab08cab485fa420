# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What each module takes and does: its options, how they become a request, and what is done with a platform.

One definition serves the module on the host, the action in the worker, the argument spec and the documentation.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Type

from ..engine.maintenance import MaintenanceTarget
from ..engine.platform import Platform
from ..engine.runner import Request, gather, run
from ..errors import NotSupportedError, Problem, ValidateError
from ..hardening import evaluation
from ..hardening.profile import IDENTIFIER, RuleExceptions, parse_exceptions, parse_profile
from ..hardening.target import HardeningTarget
from ..model.compute import Backup
from ..model.document import KINDS, SECTIONS, Document
from ..model.operation import Operation
from ..model.schema import FieldType, ModelObject, Nested, NestedList, Option, Path, Plain, Value, Values
from ..model.types import Boolean, Choice, Integer, Name, Text, show
from .connection import ConnectionSettings

Progress = Optional[Callable[[str], None]]

PRUNABLE = tuple(kind for kind, cls in KINDS.items() if cls.key_fields())


class Mappings(FieldType):
    """Objects of a kind that are read as a section of a document, so that errors have its paths: passed on unread."""

    def __init__(self, cls: Type[ModelObject]) -> None:
        self.cls = cls

    def read(self, value: Any, path: Path, problems: List[Problem]) -> Any:
        if not isinstance(value, (list, tuple)):
            problems.append(Problem(path.text, f"{show(value)} is not allowed; allowed is a list of mappings"))
            return None
        return value

    def argument(self) -> Plain:
        return {"type": "list", "elements": "dict"}

    def collect_secrets(self, value: Any, found: List[str]) -> None:
        collect_secrets_of(self.cls, value, found)


class WholeDocument(FieldType):
    """A document: passed on unread."""

    def read(self, value: Any, path: Path, problems: List[Problem]) -> Any:
        if not isinstance(value, Mapping):
            problems.append(Problem(path.text, f"{show(value)} is not allowed; allowed is a mapping"))
            return None
        return value

    def argument(self) -> Plain:
        return {"type": "dict"}

    def collect_secrets(self, value: Any, found: List[str]) -> None:
        for kind, section in SECTIONS.items():
            if isinstance(value, Mapping):
                collect_secrets_of(KINDS[kind], value.get(section), found)


COMMON_OPTIONS: Dict[str, Option] = {
    "platform": Option(
        Value(Name()),
        "The host's platform, V(kvm) or V(proxmox). The default is the inventory variable C(bareforge_platform).",
    ),
    "connection": Option(
        Nested(ConnectionSettings),
        "How a platform that is managed through its API is reached. What is not given here is taken from the "
        "inventory variables C(bareforge_host), C(bareforge_port), C(bareforge_user), C(bareforge_password), "
        "C(bareforge_ca_file), C(bareforge_fingerprint), C(bareforge_validate_certs) and C(bareforge_timeout). "
        "Platforms that are managed over Ansible's own connection, such as V(kvm), have no use for it.",
    ),
}


@dataclass
class Call:
    """The arguments of a task, read.

    state: what the task shall do; empty for a module that does one thing only.
    values: the canonical values of the module's own options, with their defaults.
    fields: what was said of the one object of the module's kind, as it was given.
    document: what the user wants of the host.
    operation: how changes are to be made.
    """

    state: str = ""
    values: Plain = field(default_factory=dict)
    fields: Plain = field(default_factory=dict)
    document: Document = field(default_factory=Document)
    operation: Operation = field(default_factory=Operation)


class ModuleDefinition:
    """Base of the definitions.

    name: the module's name.
    own: the options beside those that every module has, those of the operation and the fields of a kind.
    operation: the names of the fields of Operation that are options.
    fields: the fields of the kind that the module is for, which are options too.
    """

    def __init__(
        self,
        name: str,
        own: Mapping[str, Option],
        operation: Sequence[str] = (),
        fields: Optional[Mapping[str, Option]] = None,
    ) -> None:
        self.name = name
        self.own = dict(own)
        known = Operation.options()
        self.operation = {option_name: known[option_name] for option_name in operation}
        self.fields = dict(fields or {})

    def options(self) -> Dict[str, Option]:
        """Return all options of the module by name."""
        return {**self.fields, **self.own, **self.operation, **COMMON_OPTIONS}

    def argument_spec(self) -> Plain:
        """Return the argument spec of the module.

        Only the module's own options have defaults and can be required there: a field or a part of the operation that
        is left out was not said, and what a field's kind requires depends on the state.
        """
        spec: Plain = {}
        for name, entry in self.options().items():
            spec[name] = {**entry.type.argument(), "no_log": entry.secret}
            if name in self.own:
                if entry.required:
                    spec[name]["required"] = True
                if entry.default is not None:
                    spec[name]["default"] = entry.default
        return spec

    def secrets(self, arguments: Mapping[str, Any]) -> List[str]:
        """Return the texts in the arguments that must never be shown, also where the arguments are wrong."""
        found: List[str] = []
        for name, entry in self.options().items():
            _collect_secrets(entry, arguments.get(name), found)
        return found

    def parse(self, arguments: Mapping[str, Any]) -> Call:
        """Read the arguments of a task.

        arguments: plain data; an option that is None was not given, as Ansible has it.
        Raises ValidateError with every problem that was found.
        """
        problems: List[Problem] = []
        options = self.options()
        for name in arguments:
            if name not in options:
                problems.append(Problem(Path().field(name).text, f"unknown; known are {', '.join(options)}"))
        call = Call()
        for name, entry in {**self.own, **COMMON_OPTIONS}.items():
            given = arguments.get(name)
            if given is None and entry.required:
                problems.append(Problem(name, "must be given"))
            value = entry.default if given is None else entry.type.read(given, Path(name), problems)
            if value is not None:
                call.values[name] = value
        call.state = call.values.get("state", "")
        call.fields = {name: arguments[name] for name in self.fields if arguments.get(name) is not None}
        operation = Operation.read({name: arguments.get(name) for name in self.operation}, Path(), problems)
        if operation is not None:
            call.operation = operation
        if not any(problem.path.split("[")[0] in self.own for problem in problems):
            # Without one of its own options, what goes together cannot be told.
            problems.extend(self.check(call))
        try:
            call.document = self.document(call)
        except ValidateError as error:
            problems.extend(error.problems)
        if problems:
            raise ValidateError(problems)
        return call

    def check(self, call: Call) -> Iterable[Problem]:
        """Return what is wrong between the options."""
        return ()

    def document(self, call: Call) -> Document:
        """Return what the arguments say of the host. Raises ValidateError."""
        return Document()

    def changes_host(self, call: Call) -> bool:
        """Return whether the task may change anything on the host."""
        return call.state != "gathered"

    def perform(self, platform: Platform, call: Call, check: bool = False, progress: Progress = None) -> Plain:
        """Do what the task asks for and return its result; in check mode change nothing.

        Raises the errors of :mod:`errors`.
        """
        return run(platform, Request(call.document, call.operation, check, progress))


def _collect_secrets(entry: Option, value: Any, found: List[str]) -> None:
    if entry.secret:
        if isinstance(value, str) and value:
            found.append(value)
        return
    collector = getattr(entry.type, "collect_secrets", None)
    if collector is not None:
        collector(value, found)
    elif isinstance(entry.type, (Nested, NestedList)):
        collect_secrets_of(entry.type.cls, value, found)


def collect_secrets_of(cls: Type[ModelObject], value: Any, found: List[str]) -> None:
    """Append to found the secrets in an object of the model, or a list of such, that was not read yet."""
    for element in value if isinstance(value, (list, tuple)) else [value]:
        if isinstance(element, Mapping):
            for name, entry in cls.options().items():
                _collect_secrets(entry, element.get(name), found)


def _state(choices: Sequence[str], description: str) -> Option:
    return Option(Value(Choice(*choices)), description, default=choices[0])


def _words(names: Iterable[str]) -> str:
    return " and ".join(names)


class ObjectModule(ModuleDefinition):
    """A module for the objects of one kind: one object by options named as its fields, or several in a list."""

    def __init__(self, kind: str, name: str = "", operation: Sequence[str] = (), states: Sequence[str] = ()) -> None:
        self.kind = kind
        self.cls = KINDS[kind]
        self.keys = self.cls.key_fields()
        self.section = SECTIONS[kind]
        self.states = ("present", *(("absent",) if self.keys else ()), *states, "gathered")
        super().__init__(name or kind, self._own_options(), operation, self.cls.options())

    def _own_options(self) -> Dict[str, Option]:
        own: Dict[str, Option] = {}
        keys = _words(f"O({name})" for name in self.keys)
        if self.keys:
            own[self.section] = Option(
                Mappings(self.cls),
                f"Several objects in one task, instead of {keys} and the options that describe one. Each has these "
                "options as its fields, and may have a C(state) of its own, V(present) or V(absent).",
            )
            own["exact"] = Option(
                Value(Boolean()),
                f"Whether every {self.kind.replace('_', ' ')} that O({self.section}) does not list is removed. What "
                "carries the path that the host is managed through, and a VM that runs, is kept with a warning.",
                default=False,
            )
        text = "With V(present) the host is made to show what the options say; what they leave open stays as it is."
        if self.keys:
            text += f" With V(absent) what {keys} or O({self.section}) names is removed."
        if "reverted" in self.states:
            text += " With V(reverted) the VM is taken back to the snapshot, and what it did since is lost."
        text += f" With V(gathered) nothing is changed, and RV({self.section}) tells what is there"
        text += f", all of it or what {keys} names." if self.keys else "."
        own["state"] = _state(self.states, text)
        return own

    def check(self, call: Call) -> Iterator[Problem]:
        several = call.values.get(self.section) if self.keys else None
        if several is not None and call.fields:
            yield Problem(self.section, f"goes without {', '.join(call.fields)}; say it of each of them")
        if call.state == "gathered":
            for name in call.fields:
                if name not in self.keys:
                    yield Problem(name, "goes without state: gathered")
            if several is not None:
                yield Problem(self.section, "goes without state: gathered")
        elif self.keys and several is None:
            for name in self.keys:
                if name not in call.fields:
                    yield Problem(name, f"must be given, or {self.section} for several")
        if call.values.get("exact") and (several is None or call.state != "present"):
            yield Problem("exact", f"goes with {self.section} and state: present only")
        if several is not None and call.state not in ("present", "absent"):
            yield Problem(self.section, f"goes without state: {call.state}")

    def document(self, call: Call) -> Document:
        if call.state == "gathered":
            return Document()
        if not self.keys:
            return Document.parse({self.section: call.fields})
        several = call.values.get(self.section)
        if several is None:
            if any(name not in call.fields for name in self.keys):
                return Document()
            several = [call.fields]
        if call.state == "absent":
            several = [{"state": "absent", **each} if isinstance(each, Mapping) else each for each in several]
        return Document.parse({self.section: several}, [self.kind] if call.values.get("exact") else ())

    def perform(self, platform: Platform, call: Call, check: bool = False, progress: Progress = None) -> Plain:
        if call.state != "gathered":
            return super().perform(platform, call, check, progress)
        found = gather(platform, [self.kind]).get(self.section)
        if not self.keys:
            return {"changed": False, self.section: found or {}}
        wanted = {name: call.fields[name] for name in self.keys if name in call.fields}
        objects = [item for item in found or () if all(item.get(name) == value for name, value in wanted.items())]
        return {"changed": False, self.section: objects}


class SnapshotModule(ObjectModule):
    """Takes, lists and removes snapshots, and takes a VM back to one."""

    def __init__(self) -> None:
        super().__init__("snapshot", "vm_snapshot", states=("reverted",))

    def check(self, call: Call) -> Iterator[Problem]:
        yield from super().check(call)
        if call.state == "reverted":
            for name in call.fields:
                if name not in self.keys:
                    yield Problem(name, "goes without state: reverted")

    def perform(self, platform: Platform, call: Call, check: bool = False, progress: Progress = None) -> Plain:
        if call.state != "reverted":
            return super().perform(platform, call, check, progress)
        (snapshot,) = call.document.objects()
        vm, name = snapshot.key
        # Going back is an act and no state: each time it is asked for it is done, and is a change.
        revert = getattr(platform.owner("snapshot"), "revert", None)
        if revert is None:
            raise NotSupportedError([Problem("state", f"platform {platform.NAME} cannot do 'reverted'")])
        with contextlib.nullcontext() if check else platform.lock():
            known = platform.read(["snapshot"], {"snapshot": [vm]})["snapshot"]
            if snapshot.key not in known:
                there = ", ".join(show(item.label) for item in known.values()) or "none"
                raise ValidateError([Problem(snapshot.place.text, f"there is no such snapshot; there are: {there}")])
            revert(vm, name, check)
        shown = {"snapshots": [known[snapshot.key].to_document()]}
        change = {"kind": "snapshot", "key": snapshot.label, "action": "revert", "fields": []}
        return {"changed": True, "changes": [change], "before": shown, "after": shown, "planned": shown}


class BackupModule(ObjectModule):
    """Makes, lists and removes backups, and keeps the last ones."""

    def __init__(self) -> None:
        super().__init__("backup", "vm_backup")

    def _own_options(self) -> Dict[str, Option]:
        own = super()._own_options()
        own["keep"] = Option(
            Value(Integer(1, 10_000)),
            "How many backups of the VM are kept in the target, the one of this task among them; older ones are removed "
            "once it is made. What a kept incremental backup builds on is kept too, however old it is. All are kept by "
            "default.",
        )
        return own

    def check(self, call: Call) -> Iterator[Problem]:
        # Where a catalogue is that this host does not know of has to be said for all that is asked of it.
        target = call.fields.get("target") if call.state == "gathered" else None
        if target is not None:
            fields = {name: value for name, value in call.fields.items() if name != "target"}
            yield from super().check(replace(call, fields=fields))
        else:
            yield from super().check(call)
        if "keep" in call.values and call.state != "present":
            yield Problem("keep", "goes with state: present only")

    def perform(self, platform: Platform, call: Call, check: bool = False, progress: Progress = None) -> Plain:
        owner = platform.owner("backup")
        objects = call.values.get(self.section) or [call.fields]
        look_in = getattr(owner, "look_in", None)
        if look_in is not None:
            for each in objects:
                if isinstance(each, Mapping) and isinstance(each.get("target"), str):
                    look_in(each["target"])
        if call.state == "gathered":
            return self._gather(platform, owner, call)
        keep = call.values.get("keep")
        if keep is not None:
            find_expired = getattr(owner, "expired", None)
            if find_expired is None:
                raise NotSupportedError([Problem("keep", f"platform {platform.NAME} cannot do this")])
            for item in list(call.document.objects()):
                if isinstance(item, Backup):
                    self._expire(call.document, item, find_expired(item, keep))
        return super().perform(platform, call, check, progress)

    def _expire(self, document: Document, item: Backup, names: Iterable[str]) -> None:
        listed = document.present.get(self.kind, {})
        gone = document.absent.setdefault(self.kind, set())
        gone.update((item.vm, name) for name in names if (item.vm, name) not in listed)

    def _gather(self, platform: Platform, owner: Any, call: Call) -> Plain:
        wanted = {name: value for name, value in call.fields.items() if name in (*self.keys, "target")}
        result = super().perform(platform, replace(call, fields=wanted), False, None)
        result[self.section] = [
            item for item in result[self.section] if item.get("target") == wanted.get("target", item.get("target"))
        ]
        describe = getattr(owner, "describe", None)
        entries = describe(wanted.get("vm")) if describe is not None else []
        result["catalogue"] = [
            entry for entry in entries if all(entry.get(name) == value for name, value in wanted.items())
        ]
        return result


class RestoreModule(ModuleDefinition):
    """Brings a VM back from a backup."""

    def __init__(self) -> None:
        own = {
            "vm": Option(Value(Name()), "The virtual machine that the backup was made of.", required=True),
            "name": Option(Value(Name()), "The backup's name.", required=True),
            "target": Option(
                Value(Text(maximum=1024, minimum=1)),
                "The directory, pool or store that the backup lies in. Where not given, it is looked for in those that the "
                "host has made backups in.",
            ),
            "new_name": Option(
                Value(Name()),
                "The name of another VM that is made of the backup, with MAC addresses and a UUID of its own and without the "
                "static addresses that the guest was given, which are still those of the first; that is not touched. Where "
                "not given, the VM that was backed up is brought back in place, or made anew if it is gone.",
            ),
            "power": Option(
                Value(Choice("running", "stopped")),
                "Whether the VM runs afterwards. Where not given, a VM that is restored in place is as it was before, and "
                "one that is made is stopped, since what its guest was told within it may still be in use.",
            ),
        }
        super().__init__("vm_restore", own, ("allow_restart", "shutdown_timeout", "force_off"))

    def perform(self, platform: Platform, call: Call, check: bool = False, progress: Progress = None) -> Plain:
        owner = platform.owner("backup")
        restore = getattr(owner, "restore", None)
        if restore is None:
            raise NotSupportedError([Problem("name", f"platform {platform.NAME} cannot restore backups")])
        values = call.values
        if "target" in values:
            owner.look_in(values["target"])
        operation = call.operation.complete(None)
        with contextlib.nullcontext() if check else platform.lock():
            if not check:
                platform.recover()
            result: Plain = restore(
                (values["vm"], values["name"]),
                values.get("new_name"),
                values.get("power"),
                operation,
                check,
                progress,
            )
        return result


class MigrateModule(ModuleDefinition):
    """Moves a VM to another host of the inventory. Its action asks both hosts for a step each."""

    def __init__(self) -> None:
        own = {
            "name": Option(
                Value(Name()),
                "The virtual machine, on the host that the task runs for or there already.",
                required=True,
            ),
            "destination": Option(
                Value(Text(maximum=255, minimum=1)),
                "The host that the VM goes to, by its name in the inventory. It is reached as its own tasks reach it.",
                required=True,
            ),
            "address": Option(
                Value(Text(maximum=255, minimum=1)),
                "The address or name by which the first host reaches the SSH server of O(destination). By default it is the "
                "address of its host interface with the role V(migration), else C(ansible_host).",
            ),
            "port": Option(
                Value(Integer(1, 65535)),
                "The port of that SSH server. By default it is C(ansible_port) where the address is C(ansible_host), else 22.",
            ),
            "timeout": Option(
                Value(Integer(1, 86400, "seconds")),
                "After how many seconds a migration is given up. The VM stays where it is then.",
                default=3600,
            ),
            "bandwidth": Option(
                Value(Integer(1, 1_000_000, "MiB/s")),
                "How fast memory and disks are copied, in MiB a second; as fast as can be by default.",
            ),
            "max_downtime": Option(
                Value(Integer(1, 60_000, "milliseconds")),
                "How long the guest may stand still at the end, in milliseconds. QEMU's own limit is 300.",
            ),
            "auto_converge": Option(
                Value(Boolean()),
                "Whether a guest that writes to its memory faster than it is copied is slowed down.",
                default=True,
            ),
            "full_copy": Option(
                Value(Boolean()),
                "Whether a linked clone becomes a full one, where O(destination) does not have its template.",
                default=False,
            ),
        }
        super().__init__("vm_migrate", own)

    def perform(self, platform: Platform, call: Call, check: bool = False, progress: Progress = None) -> Plain:
        raise NotSupportedError([Problem("destination", "needs the controller, which knows both hosts")])


class HostModule(ModuleDefinition):
    """Converges a whole host, or gathers it."""

    def __init__(self) -> None:
        own = {
            "document": Option(
                WholeDocument(),
                "What the host shall be, as a mapping of sections: "
                + ", ".join(f"C({section})" for section in SECTIONS.values())
                + ". A section holds the objects of its kind in a list, or is one mapping where a host has only one "
                "of them. A kind's fields are the options of the module of its name. An object in a list may "
                "carry C(state), V(present) or V(absent). What the document does not speak of is left alone.",
            ),
            "exact": Option(
                Values(Choice(*PRUNABLE)),
                "The kinds of which nothing shall be there but what the document lists. What carries the path that "
                "the host is managed through, and a VM that runs, is kept with a warning.",
            ),
            "kinds": Option(
                Values(Choice(*KINDS)),
                "The kinds to gather with O(state=gathered); all that the platform has by default.",
            ),
            "state": _state(
                ("present", "gathered"),
                "With V(present) the host is made to show what the document says. With V(gathered) nothing is "
                "changed, and RV(document) describes the host in a form that can be applied back unchanged.",
            ),
        }
        super().__init__("host", own, tuple(Operation.options()))

    def check(self, call: Call) -> Iterator[Problem]:
        given = [name for name in ("document", "exact", "kinds") if name in call.values]
        if call.state == "gathered":
            for name in given:
                if name != "kinds":
                    yield Problem(name, "goes without state: gathered")
        elif "kinds" in given:
            yield Problem("kinds", "goes with state: gathered only")
        elif "document" not in given:
            yield Problem("document", "must be given")

    def document(self, call: Call) -> Document:
        if call.state == "gathered" or "document" not in call.values:
            return Document()
        return Document.parse(call.values["document"], call.values.get("exact", ()))

    def perform(self, platform: Platform, call: Call, check: bool = False, progress: Progress = None) -> Plain:
        if call.state != "gathered":
            return super().perform(platform, call, check, progress)
        return {"changed": False, "document": gather(platform, call.values.get("kinds", ()))}


class HostInfoModule(ModuleDefinition):
    """Tells what a host is and has."""

    def __init__(self) -> None:
        kinds = Option(
            Values(Choice(*KINDS)),
            "The kinds to gather into RV(document); all that the platform has by default, and none for an empty list.",
        )
        metrics = Option(
            Value(Boolean()),
            "Whether RV(metrics) tells what the host and its VMs use of processors, memory, disks and networks. A platform "
            "offers this by its capability C(metrics).",
            default=False,
        )
        updates = Option(
            Value(Boolean()),
            "Whether RV(updates) tells which updates are pending and whether the host has to be started anew, by the package "
            "lists that the host has. A platform offers this by its capability C(updates).",
            default=False,
        )
        super().__init__("host_info", {"kinds": kinds, "metrics": metrics, "updates": updates})

    def perform(self, platform: Platform, call: Call, check: bool = False, progress: Progress = None) -> Plain:
        kinds = call.values.get("kinds")
        for name in ("metrics", "updates"):
            if call.values.get(name) and name not in platform.declared_capabilities():
                raise NotSupportedError([Problem(name, f"platform {platform.NAME} does not tell any")])
        return {
            **({"metrics": platform.metrics()} if call.values.get("metrics") else {}),
            **({"updates": platform.updates()} if call.values.get("updates") else {}),
            "changed": False,
            "platform": platform.NAME,
            "capabilities": sorted(platform.declared_capabilities()),
            "facts": platform.facts(),
            "document": {} if kinds == () else gather(platform, kinds or ()),
        }


class VmInfoModule(ModuleDefinition):
    """Tells what VMs there are and what they do right now."""

    def __init__(self) -> None:
        names = Option(Values(Name(), maximum=65536), "The names of the VMs to tell of; all by default.")
        super().__init__("vm_info", {"names": names})

    def perform(self, platform: Platform, call: Call, check: bool = False, progress: Progress = None) -> Plain:
        owner = platform.owner("vm")
        if owner is None:
            raise NotSupportedError([Problem("vm", f"platform {platform.NAME} does not have VMs")])
        return {"changed": False, "vms": owner.describe(call.values.get("names"))}


class MaintenanceModule(ModuleDefinition):
    """Takes a host out of service and back."""

    def __init__(self) -> None:
        own = {
            "state": _state(
                ("entered", "emptied", "left", "gathered"),
                "With V(entered) the host says that it is in maintenance and which VMs run, and no more. With V(emptied) every "
                "VM that still runs is stopped too. With V(left) those that ran before and are still on this host are started, "
                "and the mode ends. With V(gathered) nothing is changed, and RV(maintenance) tells the mode.",
            ),
            "reason": Option(
                Value(Text(maximum=255, minimum=1)),
                "Why, for those who look at the host; what was said when the mode was entered stays.",
                default="maintenance",
            ),
            "evacuate_to": Option(
                Values(Name(), ordered=True),
                "The hosts that VMs shall be moved to. RV(maintenance) tells for each VM which of them was chosen; moving it is "
                "another task.",
            ),
        }
        super().__init__("maintenance", own, ("shutdown_timeout", "force_off"))

    def check(self, call: Call) -> Iterator[Problem]:
        if call.state not in ("entered", "emptied") and "evacuate_to" in call.values:
            yield Problem("evacuate_to", "goes with state: entered and emptied only")
        for name in self.operation:
            if getattr(call.operation, name) is not None and call.state != "emptied":
                yield Problem(name, "goes with state: emptied only")

    def perform(self, platform: Platform, call: Call, check: bool = False, progress: Progress = None) -> Plain:
        target = next((item for item in platform.interfaces if isinstance(item, MaintenanceTarget)), None)
        if target is None:
            raise NotSupportedError([Problem("state", f"platform {platform.NAME} has no maintenance mode")])
        changes: List[Plain] = []
        if call.state != "gathered":
            with contextlib.nullcontext() if check else platform.lock():
                if call.state == "left":
                    changes += target.leave(check, progress)
                else:
                    changes += target.enter(call.values["reason"], call.values.get("evacuate_to", ()), check)
                if call.state == "emptied":
                    changes += target.empty(call.operation.complete(None), check, progress)
        mode = None if call.state == "left" else target.described()
        return {"changed": bool(changes), "changes": changes, "maintenance": mode}


class GuardModule(ModuleDefinition):
    """Confirms or undoes a guarded change."""

    def __init__(self) -> None:
        own = {
            "token": Option(
                Value(Text(maximum=255, minimum=1)), "The guard's token, C(guard.token) of the change.", required=True
            ),
            "state": _state(
                ("confirmed", "undone"),
                "With V(confirmed) the change stays. With V(undone) it is undone at once.",
            ),
        }
        super().__init__("guard", own)

    def perform(self, platform: Platform, call: Call, check: bool = False, progress: Progress = None) -> Plain:
        guard = platform.guard()
        if guard is None:
            raise NotSupportedError([Problem("token", f"platform {platform.NAME} has no guard")])
        if not check:
            if call.state == "confirmed":
                guard.confirm(call.values["token"])
            else:
                guard.undo(call.values["token"])
        return {"changed": True}


class ProfileReference(FieldType):
    """A profile: its name or path in a task; its content, read and worked together, once the action has sent it on."""

    def read(self, value: Any, path: Path, problems: List[Problem]) -> Any:
        if isinstance(value, Mapping) and {"data", "today"} <= set(value):
            return value
        problems.append(
            Problem(path.text, f"{show(value)} is not allowed; allowed is the name or the path of a profile")
        )
        return None

    def argument(self) -> Plain:
        return {"type": "raw"}


class HardeningModule(ModuleDefinition):
    """Audits, enforces and reverts a hardening profile."""

    REPORT_FORMATS = ("html", "json", "csv", "sarif")

    def __init__(self) -> None:
        own = {
            "profile": Option(
                ProfileReference(),
                "The rules: the name of a profile of the collection, such as V(foundation), or the path of one's own on "
                "the controller, which has a slash in it or ends with C(.yml). A relative path starts from the "
                "playbook's folder.",
                required=True,
            ),
            "mode": Option(
                Value(Choice(*evaluation.MODES)),
                "With V(audit) nothing is changed. With V(enforce) what is not as expected is set, and what was before "
                "is saved on the host. With V(revert) that is brought back, byte by byte.",
                default="audit",
            ),
            "rules": Option(
                Values(IDENTIFIER, ordered=True), "The ids of the rules that the task is about; all by default."
            ),
            "tags": Option(
                Values(IDENTIFIER, ordered=True),
                "The task is about rules with any of these tags, beside those that O(rules) names.",
            ),
            "exceptions": Option(
                RuleExceptions(),
                "Rules that are deliberately not followed, beside the exceptions of the profile. They are not enforced.",
            ),
            "report": Option(
                Value(Text(minimum=1)),
                "Where to write reports on the controller: a path to which the ending of each format is added. Nothing is "
                "written in check mode. A report in JSON that is there already is what this run is compared with.",
            ),
            "formats": Option(
                Values(Choice(*self.REPORT_FORMATS), ordered=True, minimum=1),
                "The formats of the reports.",
                default=list(self.REPORT_FORMATS),
            ),
        }
        super().__init__("hardening", own, ("guard",))

    def changes_host(self, call: Call) -> bool:
        return bool(call.values["mode"] != evaluation.AUDIT)

    def perform(self, platform: Platform, call: Call, check: bool = False, progress: Progress = None) -> Plain:
        mode = call.values["mode"]
        target = next((item for item in platform.interfaces if isinstance(item, HardeningTarget)), None)
        if target is None or f"hardening.{mode}" not in platform.declared_capabilities():
            raise NotSupportedError([Problem("mode", f"platform {platform.NAME} cannot do {show(mode)}")])
        sent = call.values["profile"]
        checked = parse_profile(sent["data"], type(target), platform.NAME)
        exceptions = parse_exceptions([item.to_document() for item in call.values.get("exceptions", ())], checked)
        guard = call.operation.complete(None).guard
        order = evaluation.Order(
            mode,
            call.values.get("rules", ()),
            call.values.get("tags", ()),
            exceptions,
            sent["today"],
            check,
            guard.timeout if guard is not None and guard.enabled else None,
        )
        return evaluation.run(target, checked, order)


NETWORK_OPERATION = ("guard",)
USER_OPERATION = ("delete_home", "guard")
VM_OPERATION = ("allow_restart", "shutdown_timeout", "force_off", "delete_disks", "wait_for")

MODULES: Dict[str, ModuleDefinition] = {
    definition.name: definition
    for definition in (
        HostModule(),
        HostInfoModule(),
        ObjectModule("system"),
        ObjectModule("tuning"),
        ObjectModule("virtual_switch", operation=NETWORK_OPERATION),
        ObjectModule("virtual_network", operation=NETWORK_OPERATION),
        ObjectModule("host_interface", operation=NETWORK_OPERATION),
        ObjectModule("firewall", operation=NETWORK_OPERATION),
        ObjectModule("firewall_rule", operation=NETWORK_OPERATION),
        ObjectModule("port_acl"),
        ObjectModule("storage_pool", operation=("delete_contents",)),
        ObjectModule("user", operation=USER_OPERATION),
        ObjectModule("realm"),
        ObjectModule("role"),
        ObjectModule("permission"),
        ObjectModule("template"),
        ObjectModule("vm", operation=VM_OPERATION),
        VmInfoModule(),
        SnapshotModule(),
        BackupModule(),
        RestoreModule(),
        MigrateModule(),
        GuardModule(),
        MaintenanceModule(),
        HardeningModule(),
    )
}
