# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Operation tables: given this state and this document, expect these changes or these problems.

A file holds a list of cases. The keys of a case:

name: what it shows.
given: the document of what is on the host before.
document, exact, operation: what the task asks for.
without: capabilities that the platform lacks; guarded: false takes its guard away.
untold: pairs of kind and dotted field that the host does not tell.
ignored: pairs of kind and field of writes that the host takes and forgets.
changes: the changes in their order, each as `action kind['key'] field field ...`; `create` and `delete` need no fields.
batches: the calls of the platform's interfaces, each a list of `action kind['key']`, where they matter.
problems: pairs of exact path and exact message, in any order.
fails: the name of the error's class and a part of its sentence, where the run breaks off.
warnings: the exact warnings.
guarded_changes: the paths of what was put under the guard.
shows: part of what the host shows afterwards, as a document.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Iterator, List

import yaml

from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.document import Document
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.operation import Operation

from .memory_platform import Faults, MemoryHost, MemoryPlatform, platform_without

KEYS = frozenset(
    [
        "name",
        "given",
        "document",
        "exact",
        "operation",
        "without",
        "guarded",
        "untold",
        "ignored",
        "changes",
        "batches",
        "problems",
        "fails",
        "warnings",
        "guarded_changes",
        "shows",
    ]
)


def load_cases(folder: Path) -> Iterator[Any]:
    """Yield (identifier, case) of every case in the YAML files of a folder."""
    for file in sorted(folder.glob("*.yml")):
        for case in yaml.safe_load(file.read_text(encoding="utf-8")):
            unknown = set(case) - KEYS
            if unknown:
                raise ValueError(f"{file}: {case.get('name')}: unknown keys {', '.join(sorted(unknown))}")
            yield f"{file.stem}: {case['name']}", case


def host_of(case: Dict[str, Any]) -> MemoryHost:
    """Return a fresh host in the state that a case starts from."""
    host = MemoryHost.holding(case.get("given", {}))
    host.faults = Faults(
        untold={(kind, name) for kind, name in case.get("untold", ())},
        ignored={(kind, name) for kind, name in case.get("ignored", ())},
    )
    return host


def platform_of(case: Dict[str, Any], host: MemoryHost) -> MemoryPlatform:
    """Return a session to the host with the abilities that a case asks for."""
    platform: MemoryPlatform = platform_without(case.get("without", ()), case.get("guarded", True))(host)
    return platform


def document_of(case: Dict[str, Any]) -> Document:
    """Return the parsed document of a case. Raises ValidateError."""
    return Document.parse(case["document"], case.get("exact", ()))


def operation_of(case: Dict[str, Any]) -> Operation:
    """Return the parsed options of a case. Raises ValidateError."""
    return Operation.parse(case.get("operation", {}))


def as_text(result: Dict[str, Any]) -> List[str]:
    """Return the changes of a task's result in the form in which cases state them."""
    return [change_text(change) for change in result["changes"]]


def change_text(change: Dict[str, Any]) -> str:
    """Return one change of a task's result as `action kind['key'] field ...`, with fields for updates only."""
    key = f"[{change['key']!r}]" if change["key"] else ""
    fields = change["fields"] if change["action"] == "update" else []
    return " ".join([change["action"], f"{change['kind']}{key}", *fields])


def missing_from(expected: Any, shown: Any, path: str = "") -> List[str]:
    """Return what of the expected plain data is not in the shown; lists of mappings match by name."""
    if isinstance(expected, dict):
        if not isinstance(shown, dict):
            return [f"{path}: expected {expected!r}, shown {shown!r}"]
        return [
            line
            for key, value in expected.items()
            for line in (
                missing_from(value, shown.get(key), f"{path}.{key}")
                if value is not None
                else ([f"{path}.{key}: expected nothing, shown {shown[key]!r}"] if key in shown else [])
            )
        ]
    if isinstance(expected, list) and expected and isinstance(expected[0], dict) and isinstance(shown, list):
        by_name = {item.get("name", item.get("principal")): item for item in shown}
        return [
            line
            for item in expected
            for line in missing_from(
                item, by_name.get(item.get("name", item.get("principal"))), f"{path}[{item.get('name')}]"
            )
        ]
    return [] if expected == shown else [f"{path}: expected {expected!r}, shown {shown!r}"]
