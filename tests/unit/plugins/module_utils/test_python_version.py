# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What runs on managed hosts stays within Python 3.9, the oldest that ansible-core manages."""

from __future__ import annotations

import ast
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]
FILES = sorted((ROOT / "plugins" / "module_utils").rglob("*.py"))

# Modules of the standard library that came after 3.9, and names that came to older modules after it.
NEWER_MODULES = {"tomllib", "annotationlib", "compression"}
NEWER_NAMES = {
    "itertools": {"pairwise", "batched"},
    "typing": {
        "TypeAlias",
        "ParamSpec",
        "Concatenate",
        "TypeGuard",
        "Self",
        "Never",
        "LiteralString",
        "Required",
        "NotRequired",
        "Unpack",
        "TypeVarTuple",
        "assert_never",
        "assert_type",
        "reveal_type",
        "dataclass_transform",
        "override",
        "is_typeddict",
        "ReadOnly",
        "TypeIs",
        "NoDefault",
        "get_protocol_members",
    },
    "dataclasses": {"KW_ONLY"},
    "enum": {"StrEnum", "ReprEnum", "verify", "nonmember", "member"},
    "datetime": {"UTC"},
    "types": {"NoneType", "EllipsisType", "UnionType", "NotImplementedType"},
    "contextlib": {"aclosing", "chdir"},
    "asyncio": {"TaskGroup", "timeout", "Runner"},
    "inspect": {"get_annotations"},
    "hashlib": {"file_digest"},
    "operator": {"call"},
    "math": {"cbrt", "exp2"},
    "statistics": {"correlation", "covariance", "linear_regression"},
    "bisect": set(),
}
NEWER_ARGUMENTS = {
    ("zip", "strict"),
    ("dataclass", "slots"),
    ("dataclass", "kw_only"),
    ("field", "kw_only"),
    ("bisect_left", "key"),
    ("bisect_right", "key"),
    ("insort", "key"),
    ("TemporaryDirectory", "delete"),
    ("rglob", "recurse_symlinks"),
    ("run", "process_group"),
    ("Popen", "process_group"),
    ("walk", "onexc"),
    ("rmtree", "onexc"),
}
NEWER_ATTRIBUTES = {"bit_count", "add_note", "removesuffixes", "is_relative_to_any"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_syntax_and_library_are_those_of_python_3_9(file):
    tree = ast.parse(file.read_text(encoding="utf-8"), str(file), feature_version=(3, 9))
    assert not tree.body[1:] or any(
        isinstance(node, ast.ImportFrom) and node.module == "__future__" and node.names[0].name == "annotations"
        for node in tree.body
    ), "annotations would be evaluated"
    aliases = {}
    for node in ast.walk(tree):
        # Within what feature_version lets pass.
        assert not isinstance(node, ast.Match)
        assert node.__class__.__name__ not in ("TryStar", "TypeAlias")
        if isinstance(node, ast.Import):
            for name in node.names:
                assert name.name.split(".")[0] not in NEWER_MODULES
                aliases[name.asname or name.name] = name.name
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            assert node.module.split(".")[0] not in NEWER_MODULES
            assert not {name.name for name in node.names} & NEWER_NAMES.get(node.module, set())
        elif isinstance(node, ast.Attribute):
            assert node.attr not in NEWER_ATTRIBUTES
            if isinstance(node.value, ast.Name) and node.value.id in aliases:
                assert node.attr not in NEWER_NAMES.get(aliases[node.value.id], set())
        elif isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            for keyword in node.keywords:
                assert (name, keyword.arg) not in NEWER_ARGUMENTS
    for place in runtime_types(tree):
        assert not any(isinstance(part, ast.BinOp) and isinstance(part.op, ast.BitOr) for part in ast.walk(place)), (
            f"line {place.lineno}: X | Y between types is evaluated here"
        )


def runtime_types(tree):
    """Yield expressions of types that are evaluated in spite of postponed annotations: aliases, casts and the like."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Subscript):
            yield node.value
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in (
            "cast",
            "TypeVar",
            "isinstance",
            "NewType",
        ):
            yield from node.args[:2]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_modules_of_the_library_are_all_that_is_imported_at_the_top(file):
    """SDKs are imported inside of what uses them: a host, or a sanity test, may not have them."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in tree.body:
        names = []
        if isinstance(node, ast.Import):
            names = [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module]
        for name in names:
            top = name.split(".")[0]
            assert top in sys.stdlib_module_names or top in ("ansible", "ansible_collections"), f"line {node.lineno}"


def python39():
    """Return a Python 3.9 of this machine, or None."""
    candidates = [os.environ.get("BAREFORGE_PYTHON39"), shutil.which("python3.9")]
    candidates += sorted(str(path) for path in Path.home().glob(".pyenv/versions/3.9.*/bin/python"))
    for candidate in candidates:
        if candidate:
            try:
                subprocess.run([candidate, "-c", "import sys; sys.exit(sys.version_info[:2] != (3, 9))"], check=True)
            except (OSError, subprocess.CalledProcessError):
                continue
            return candidate
    return None


IMPORT_ALL = """
import importlib, sys
sys.path.insert(0, sys.argv[1])
# ansible-core's own module_utils run on 3.9 too.
sys.path.append(sys.argv[2])
for name in sys.argv[3:]:
    importlib.import_module(name)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.document import Document
Document.parse({"vms": [{"name": "web", "memory": {"size": "1 GiB"}}]})
"""


@pytest.mark.skipif(python39() is None, reason="no Python 3.9 on this machine; the syntax was checked all the same")
def test_everything_can_be_imported_by_python_3_9():
    ansible = importlib.util.find_spec("ansible")
    beside = str(Path(ansible.origin).parents[1]) if ansible is not None and ansible.origin else ""
    names = [
        "ansible_collections.bareforge.hypervisor." + ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for file in FILES
        if file.name != "__init__.py"
        and (beside or "from ansible.module_utils" not in file.read_text(encoding="utf-8"))
    ]
    done = subprocess.run(
        [python39(), "-c", IMPORT_ALL, str(ROOT / "collections"), beside, *names],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
