# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Profiles on the controller: finding them, reading their YAML, and telling on which line something is wrong.

Words such as `yes` and `no`, dates and times are texts in a profile, since sshd's `no` must not become false; only `true`
and `false` are truth values (the core schema of YAML 1.2).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import Problem, ValidateError
from ansible_collections.bareforge.hypervisor.plugins.module_utils.hardening.profile import (
    CheckedProfile,
    overlay,
    parse_profile,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.hardening.target import HardeningTarget
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.schema import Path as Place
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.types import show

COLLECTION = "ansible_collections.bareforge.hypervisor"
NAME = re.compile(r"[a-z0-9]+([._-][a-z0-9]+)*")
MAXIMUM_SIZE = 4 * 1024 * 1024
MAXIMUM_DEPTH = 20
OWN_FIELDS = ("extends", "without")
SCALARS = tuple(f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "str"))


class ProfileLoader(yaml.SafeLoader):
    """Reads YAML with few surprises: texts stay texts."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}


ProfileLoader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"(?:~|null)?"), ["~", "n", ""])
ProfileLoader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"(?:true|false)"), ["t", "f"])
ProfileLoader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"-?(?:0|[1-9][0-9]{0,17})"), list("-0123456789")
)
# PyYAML matches a resolver's expression at the start only.
for _letter, _resolvers in ProfileLoader.yaml_implicit_resolvers.items():
    ProfileLoader.yaml_implicit_resolvers[_letter] = [
        (tag, re.compile(f"(?:{expression.pattern})$")) for tag, expression in _resolvers
    ]


class ProfileSource:
    """A profile as it was read.

    name: the file as it is shown to people. data: its plain data. lines: the line of every value by its path.
    """

    def __init__(self, name: str, data: Any, lines: Mapping[str, int]) -> None:
        self.name = name
        self.data = data
        self.lines = dict(lines)

    def locate(self, path: str) -> str | None:
        """Return `file:line` of the value at a path, or of the nearest one around it; None where the file has neither."""
        while path:
            if path in self.lines:
                return f"{self.name}:{self.lines[path]}"
            path = re.sub(r"(\.[A-Za-z0-9_]+|\[[^\[\]]*\]|^[A-Za-z0-9_]+)$", "", path)
        return f"{self.name}:1"

    def has(self, path: str) -> bool:
        """Return whether the file speaks of a path: of a rule, where the path is below one."""
        rule = re.match(r"(rules|exceptions)\[[^\]]*\]", path)
        return (rule.group(0) if rule else path.split(".")[0]) in self.lines

    def complain(self, problem: Problem) -> Problem:
        """Return a problem with file and line in front of its path."""
        return Problem(
            f"{self.locate(problem.path)}: {problem.path}" if problem.path else f"{self.name}:1", problem.message
        )


def read_source(text: str, name: str) -> ProfileSource:
    """Read a profile's YAML.

    text: the file's content; name: the file as it is shown to people.
    Raises ValidateError with the line where the text is no YAML, says something twice, or is no mapping.
    """
    if len(text) > MAXIMUM_SIZE:
        raise ValidateError([Problem(name, f"is longer than {MAXIMUM_SIZE} characters")])
    loader = ProfileLoader(text)
    try:
        node = loader.get_single_node()
        reader = _Reader(loader, name)
        if not isinstance(node, yaml.MappingNode):
            raise ValidateError([Problem(f"{name}:1", "a profile is a mapping")])
        data = reader.read(node, Place(), 0)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise ValidateError([Problem(f"{name}:{line}", f"is not YAML: {error.problem or error.context}")]) from None
    except yaml.YAMLError as error:
        raise ValidateError([Problem(f"{name}:1", f"is not YAML: {str(error).splitlines()[0]}")]) from None
    finally:
        loader.dispose()
    if reader.problems:
        raise ValidateError(reader.problems)
    return ProfileSource(name, data, reader.lines)


class _Reader:
    """Turns YAML's nodes into plain data and notes the line of everything in it."""

    def __init__(self, loader: ProfileLoader, name: str) -> None:
        self.loader = loader
        self.name = name
        self.lines: dict[str, int] = {}
        self.problems: list[Problem] = []
        self.seen: set[int] = set()

    def refuse(self, node: yaml.Node, place: Place, message: str) -> None:
        path = f": {place.text}" if place.text else ""
        self.problems.append(Problem(f"{self.name}:{node.start_mark.line + 1}{path}", message))

    def read(self, node: yaml.Node, place: Place, depth: int) -> Any:
        """Return the plain data of a node."""
        self.lines.setdefault(place.text, node.start_mark.line + 1)
        if depth > MAXIMUM_DEPTH:
            return self.refuse(node, place, "is nested too deeply")
        if id(node) in self.seen:
            # Aliases of aliases make a small file endless.
            return self.refuse(node, place, "is used again by an alias, which is not allowed in a profile")
        self.seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, place, depth)
        if isinstance(node, yaml.SequenceNode):
            elements = []
            for number, element in enumerate(node.value):
                self.lines.setdefault(place.item(number).text, element.start_mark.line + 1)
                elements.append(self.read(element, place.item(_label(element) or number), depth + 1))
            return elements
        if node.tag not in SCALARS:
            return self.refuse(node, place, f"tag {show(node.tag)} is not allowed")
        return self.loader.construct_object(node)

    def _mapping(self, node: yaml.MappingNode, place: Place, depth: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag != "tag:yaml.org,2002:str":
                self.refuse(key_node, place, "has a field whose name is no text; put the name in quotes")
                continue
            key = str(key_node.value)
            if key in result:
                self.refuse(key_node, place, f"{show(key)} is said twice")
            self.lines.setdefault(place.field(key).text, key_node.start_mark.line + 1)
            result[key] = self.read(value_node, place.field(key), depth + 1)
        return result


def _label(node: yaml.Node) -> str | None:
    """Return the id by which a rule is named in paths, or None where the node has none."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if isinstance(value, yaml.ScalarNode) and key.value == "id":
                return str(value.value)
    return None


def profile_text(reference: str, platform: str, folder: Path) -> tuple[str, str, Path]:
    """Return a profile's text, its name for people, and the folder that profiles it extends are looked for in.

    reference: the name of a profile of the collection, or a path, which has a slash in it or ends with .yml or .yaml.
    folder: what a relative path starts from.
    Raises ValidateError where there is no such profile.
    """
    if "/" not in reference and not reference.endswith((".yml", ".yaml")):
        shipped = resources.files(COLLECTION) / "profiles" / platform
        known = (
            sorted(entry.name[:-4] for entry in shipped.iterdir() if entry.name.endswith(".yml"))
            if shipped.is_dir()
            else []
        )
        if not NAME.fullmatch(reference) or reference not in known:
            raise ValidateError(
                [
                    Problem(
                        "profile",
                        f"{show(reference)} is not allowed; allowed is a path, or for platform {platform} one of:"
                        f" {', '.join(known) or 'none'}",
                    )
                ]
            )
        file = shipped / f"{reference}.yml"
        return file.read_text(encoding="utf-8"), f"profiles/{platform}/{reference}.yml", folder
    path = (folder / Path(reference).expanduser()).resolve()
    try:
        return path.read_text(encoding="utf-8"), str(path), path.parent
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8"
        raise ValidateError([Problem("profile", f"{path} cannot be read: {reason}")]) from None


def load_profile(
    reference: str, platform: str, target: type[HardeningTarget], folder: Path
) -> tuple[dict[str, Any], CheckedProfile]:
    """Return the plain data of a profile, with those that it extends worked in, and the profile found valid.

    reference, folder: as in `profile_text`. platform, target: the platform, and what it brings to hardening.
    Raises ValidateError with file and line of everything that is wrong.
    """
    sources = _sources(reference, platform, folder)
    data = dict(sources[-1].data)
    for source in reversed(sources[:-1]):
        _check_overlay(source, data)
        data = overlay(data, source.data)
    for name in OWN_FIELDS:
        data.pop(name, None)
    try:
        return data, parse_profile(data, target, platform)
    except ValidateError as error:
        raise ValidateError([_complain(sources, problem) for problem in error.problems]) from None


def _sources(reference: str, platform: str, folder: Path) -> list[ProfileSource]:
    """Return a profile and those that it extends, the extended ones behind."""
    sources: list[ProfileSource] = []
    while True:
        text, name, folder = profile_text(reference, platform, folder)
        if any(source.name == name for source in sources):
            raise ValidateError([Problem(f"{sources[-1].locate('extends')}: extends", f"{name} extends itself")])
        sources.append(read_source(text, name))
        reference = sources[-1].data.get("extends")
        if reference is None:
            return sources
        if not isinstance(reference, str):
            raise ValidateError(
                [
                    Problem(
                        f"{sources[-1].locate('extends')}: extends",
                        f"{show(reference)} is not allowed; allowed is a profile",
                    )
                ]
            )


def _check_overlay(source: ProfileSource, base: Mapping[str, Any]) -> None:
    problems = []
    rules = source.data.get("rules", [])
    known = {rule.get("id") for rule in base.get("rules", []) if isinstance(rule, Mapping)}
    if "rules" in source.data and not isinstance(rules, list):
        problems.append(Problem("rules", f"{show(rules)} is not allowed; allowed is a list"))
    if not isinstance(source.data.get("exceptions", []), list):
        problems.append(Problem("exceptions", "allowed is a list"))
    without = source.data.get("without", [])
    if not isinstance(without, list):
        problems.append(Problem("without", f"{show(without)} is not allowed; allowed is a list"))
    else:
        for number, name in enumerate(without):
            if not isinstance(name, str) or name not in known:
                problems.append(Problem(f"without[{number}]", f"{show(name)} is not a rule of the extended profile"))
    if problems:
        raise ValidateError([source.complain(problem) for problem in problems])


def _complain(sources: list[ProfileSource], problem: Problem) -> Problem:
    """Return a problem with file and line, of the first file that speaks of it."""
    for source in sources:
        if source.has(problem.path):
            return source.complain(problem)
    return sources[0].complain(problem)
