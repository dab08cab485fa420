# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Applying documents to a host in memory in few words."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Collection, List

import yaml

from ansible_collections.bareforge.hypervisor.plugins.module_utils.engine.runner import Request, gather, run
from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import Problem, ValidateError
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.document import Document
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.operation import Operation
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.schema import Plain

from .memory_platform import MemoryHost, MemoryPlatform


def every_kind() -> Plain:
    """Return a fresh document with every kind and every field."""
    document: Plain = yaml.safe_load((Path(__file__).parent / "every_kind.yml").read_text(encoding="utf-8"))
    return document


def apply(host: MemoryHost, data: Any, exact: Collection[str] = (), check: bool = False, **operation: Any) -> Plain:
    """Apply a document in plain data by a new session and return the task's result."""
    options = Operation.parse({"allow_restart": True, **operation})
    return run(MemoryPlatform(host), Request(Document.parse(data, list(exact)), options, check))


def gathered(host: MemoryHost, kinds: Collection[str] = ()) -> Plain:
    """Return what a new session gathers."""
    return gather(MemoryPlatform(host), kinds)


def problems_on(host: MemoryHost, exact: Collection[str] = ()) -> Callable[[Plain], List[Problem]]:
    """Return a function that tells what is wrong with a document on this host."""

    def problems_of(data: Plain) -> List[Problem]:
        try:
            apply(host, data, exact, check=True)
        except ValidateError as error:
            return error.problems
        return []

    return problems_of
