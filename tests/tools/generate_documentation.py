# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Writes the documentation of the modules' options, in plugins/doc_fragments, from the model and the definitions.

python tests/tools/generate_documentation.py            writes what has changed
python tests/tools/generate_documentation.py --check    writes nothing, and fails where something is out of date
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT / "collections") not in sys.path:
    sys.path.insert(0, str(ROOT / "collections"))

from ansible_collections.bareforge.hypervisor.plugins.module_utils.boundary.definitions import (  # noqa: E402
    COMMON_OPTIONS,
    MODULES,
    ModuleDefinition,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.schema import (  # noqa: E402
    FieldType,
    ModelObject,
    Nested,
    NestedList,
    Option,
    TextMap,
    Value,
    Values,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.types import Boolean, Choice, Text  # noqa: E402

FRAGMENTS = ROOT / "plugins" / "doc_fragments"

HEADER = '''\
# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Written by tests/tools/generate_documentation.py from the model; change the descriptions there.

from __future__ import annotations


class ModuleDocFragment:
    """{title}"""

    DOCUMENTATION = r"""
{options}"""
'''


class _Dumper(yaml.SafeDumper):
    """Indents lists below their key, as Ansible's documentation has it."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def allowed_values(type: FieldType) -> str | None:
    """Return what is allowed for a field in words, or None where type and choices say it all."""
    if isinstance(type, Value):
        # A class that only limits the length of a text says nothing that a reader needs.
        plain = isinstance(type.type, (Boolean, Choice)) or type.type.__class__ is Text
        return None if plain else f"Allowed is {type.type.allowed}."
    if isinstance(type, Values):
        plain = isinstance(type.type, (Boolean, Choice)) or type.type.__class__ is Text
        return None if plain else f"Each entry is {type.type.allowed}."
    if isinstance(type, TextMap):
        return "A mapping of names to values."
    return None


def as_word(value: Any) -> str:
    """Return a default as it is written in a document."""
    return f"V({str(value).lower()})" if isinstance(value, bool) else f"V({value})"


def described(entry: Option, is_field: bool) -> list[str]:
    """Return the sentences that describe an option.

    is_field: whether it is a field of a kind or of the operation, whose default is not in the argument spec.
    """
    text = [entry.description]
    allowed = allowed_values(entry.type)
    if allowed:
        text.append(allowed)
    if not is_field:
        return text
    if entry.default not in (None, [], {}):
        text.append(f"The default is {as_word(entry.default)}.")
    if entry.clearable:
        text.append("An empty text takes it away.")
    if entry.create_only:
        text.append("Settled when the object is made.")
    if entry.capability:
        text.append(f"A platform offers this by its capability C({entry.capability}).")
    return text


def option_documentation(entry: Option, required: bool, is_field: bool) -> dict[str, Any]:
    """Return the documentation of an option, suboptions included."""
    argument = entry.type.argument()
    result: dict[str, Any] = {"description": described(entry, is_field), "type": argument["type"]}
    if "elements" in argument:
        result["elements"] = argument["elements"]
    if required:
        result["required"] = True
    if "choices" in argument:
        result["choices"] = argument["choices"]
    if not is_field and entry.default is not None:
        result["default"] = entry.default
    if isinstance(entry.type, (Nested, NestedList)):
        result["suboptions"] = fields_documentation(entry.type.cls)
    return result


def fields_documentation(cls: type[ModelObject]) -> dict[str, Any]:
    """Return the documentation of the fields of an object inside another."""
    return {
        name: option_documentation(entry, entry.key or entry.required, True) for name, entry in cls.options().items()
    }


def needed(entry: Option) -> str | None:
    """Return when a field of the kind of a module must be given, or None."""
    return "Must be given with O(state=present)." if entry.required else None


def module_documentation(definition: ModuleDefinition) -> dict[str, Any]:
    """Return the documentation of the options of a module, without those that all modules share."""
    options: dict[str, Any] = {}
    for name, entry in definition.options().items():
        if name in COMMON_OPTIONS:
            continue
        own = name in definition.own
        options[name] = option_documentation(entry, own and entry.required, not own)
        when = needed(entry) if name in definition.fields else None
        if when:
            options[name]["description"].insert(1, when)
    return options


def fragment(title: str, options: dict[str, Any]) -> str:
    """Return the text of a documentation fragment."""
    text = yaml.dump(
        {"options": options}, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100, default_flow_style=False
    )
    return HEADER.format(title=title, options=text)


def fragments() -> dict[Path, str]:
    """Return the text of every generated file."""
    shared = {name: option_documentation(entry, False, True) for name, entry in COMMON_OPTIONS.items()}
    files = {FRAGMENTS / "platform.py": fragment("How the host is reached.", shared)}
    for name, definition in MODULES.items():
        files[FRAGMENTS / f"{name}.py"] = fragment(
            f"The options of the module {name}.", module_documentation(definition)
        )
    return files


def main() -> int:
    """Write or check the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, and fail where something is out of date")
    check = parser.parse_args().check
    stale = [path for path, text in fragments().items() if not path.is_file() or path.read_text("utf-8") != text]
    for path in stale:
        if not check:
            path.write_text(fragments()[path], "utf-8")
        print(f"{'out of date' if check else 'written'}: {path.relative_to(ROOT)}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
