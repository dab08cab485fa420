# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs the operation tables of tests/unit/data/operations; what their keys mean is in support/operation_cases.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.engine.runner import Request, gather, run
from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import BareforgeError, ValidateError
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.document import Document
from support.memory_platform import Faults
from support.operation_cases import (
    as_text,
    document_of,
    host_of,
    load_cases,
    missing_from,
    operation_of,
    platform_of,
)

CASES = dict(load_cases(Path(__file__).parents[3] / "data" / "operations"))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_operation(case):
    host = host_of(case)
    before = host.snapshot()
    if "problems" in case:
        with pytest.raises(ValidateError) as caught:
            run(platform_of(case, host), Request(document_of(case), operation_of(case)))
        found = sorted((problem.path, problem.message) for problem in caught.value.problems)
        assert found == sorted((path, message) for path, message in case["problems"])
        assert host.snapshot() == before
        assert not any(line.startswith(("begin", "arm")) for line in host.log)
        return

    request = Request(document_of(case), operation_of(case), check=True)
    if "fails" not in case or case["changes"]:
        planned = run(platform_of(case, host), request)
        assert as_text(planned) == case["changes"]
        assert host.snapshot() == before and not host.batches

    real = Request(document_of(case), operation_of(case))
    if "fails" in case:
        with pytest.raises(BareforgeError) as error:
            run(platform_of(case, host), real)
        name, part = case["fails"]
        assert type(error.value).__name__ == name
        assert part in error.value.sentence()
        return

    done = run(platform_of(case, host), real)
    assert as_text(done) == case["changes"]
    assert done["changed"] == bool(case["changes"])
    assert done.get("warnings", []) == case.get("warnings", []) == planned.get("warnings", [])
    assert done.get("guard", {}).get("guarded", []) == case.get("guarded_changes", [])
    if "batches" in case:
        assert host.batches == case["batches"]
    assert not host.unfinished

    again = run(platform_of(case, host), real)
    assert not again["changed"] and again["changes"] == []

    host.faults = Faults(untold=host.faults.untold)
    gathered = gather(platform_of(case, host))
    assert missing_from(case.get("shows", {}), gathered) == []
    back = run(platform_of(case, host), Request(Document.parse(gathered)))
    assert back["changes"] == []


def test_there_are_enough_cases():
    assert len(CASES) >= 60
