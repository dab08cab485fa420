# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The cases of the contract, which are data: `cases/KIND.yml`, each a list.

The keys of a case:

name: what it shows.
prepare: the document of what it stands on.
steps: what is applied one after another. Of each step
    document, exact, operation: as in a task;
    changes: the changes in their order, as `action kind['key'] field ...`, the same on every platform;
    shows: part of what is gathered afterwards;
    refused: paths of problems instead of changes; nothing may have changed then;
    either: true where a platform may refuse the document by problems that all name a path, or must carry it intact.
restore: the document that takes back what cannot be absent (the firewall).
needs: capabilities beside those that the documents themselves ask for.

A text that begins with `$` is one of the peer's own facts, such as `$uplink1`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.document import (
    KIND_OF_SECTION,
    KINDS,
    SECTIONS,
    Document,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.operation import Operation

CASES = Path(__file__).parent / "cases"
KEYS = frozenset({"name", "prepare", "steps", "restore", "needs"})
STEP_KEYS = frozenset({"document", "exact", "operation", "changes", "shows", "refused", "either"})

Case = dict[str, Any]


def load_cases() -> Iterator[Case]:
    """Yield every case with its kind. Raises ValueError where a case has a key that means nothing."""
    for file in sorted(CASES.glob("*.yml")):
        for case in yaml.safe_load(file.read_text(encoding="utf-8")):
            unknown = set(case) - KEYS | {key for step in case["steps"] for key in set(step) - STEP_KEYS}
            if unknown or file.stem not in KINDS:
                raise ValueError(f"{file}: {case.get('name')}: {', '.join(sorted(unknown)) or 'no such kind'}")
            yield {"kind": file.stem, **case}


def filled(value: Any, facts: Mapping[str, Any]) -> Any:
    """Return plain data with the peer's facts in place of `$name`."""
    if isinstance(value, dict):
        return {filled(key, facts): filled(element, facts) for key, element in value.items()}
    if isinstance(value, list):
        return [filled(element, facts) for element in value]
    if isinstance(value, str) and value.startswith("$") and value[1:] in facts:
        return facts[value[1:]]
    if isinstance(value, str) and "'$" in value:
        for name, fact in facts.items():
            value = value.replace(f"'${name}'", f"'{fact}'")
    return value


def needed_capabilities(case: Case, facts: Mapping[str, Any]) -> frozenset[str]:
    """Return everything that a platform must be able to do for a case."""
    needed: set[str] = {case["kind"], *case.get("needs", ())}
    documents = [case.get("prepare", {}), case.get("restore", {})]
    documents += [step["document"] for step in case["steps"] if not step.get("refused") and not step.get("either")]
    for data in documents:
        document = Document.parse(filled(data, facts))
        needed |= set(document.absent)
        for item in document.objects():
            needed |= {capability for capability, _path, _value in item.required_capabilities()}
    for step in case["steps"]:
        operation = Operation.parse(step.get("operation", {}))
        needed |= {capability for capability, _path, _value in operation.required_capabilities()}
        needed |= {KIND_OF_SECTION[section] for section in step["document"]}
    return frozenset(needed)


def fields_of(case: Case) -> frozenset[str]:
    """Return the fields that a case's documents give, as `kind.field`."""
    found: set[str] = set()
    for data in [case.get("prepare", {}), *(step["document"] for step in case["steps"])]:
        for section, items in data.items():
            kind = KIND_OF_SECTION[section]
            for item in items if isinstance(items, list) else [items]:
                found |= {f"{kind}.{name}" for name in item}
    return frozenset(found)


def all_absent(case: Case) -> dict[str, list[dict[str, Any]]]:
    """Return the document in which everything that a case names is absent."""
    document: dict[str, list[dict[str, Any]]] = {}
    for data in [case.get("prepare", {}), *(step["document"] for step in case["steps"])]:
        for section, items in data.items():
            names = KINDS[KIND_OF_SECTION[section]].key_fields()
            for item in items if names else ():
                entry = {name: item[name] for name in names if name in item}
                if len(entry) == len(names) and entry not in [
                    {name: other[name] for name in names} for other in document.setdefault(section, [])
                ]:
                    document[section].append({**entry, "state": "absent"})
    return document


def kinds_of(data: Mapping[str, Any]) -> list[str]:
    """Return the kinds that a document in plain data speaks of."""
    return [kind for kind, section in SECTIONS.items() if section in data]
