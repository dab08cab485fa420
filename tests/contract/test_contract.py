# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs the contract's cases; what their keys mean is in contract_cases.py, how a platform is reached in peers.py."""

from __future__ import annotations

import json

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.document import KINDS
from support.operation_cases import as_text, missing_from

from .contract_cases import all_absent, filled, kinds_of, load_cases
from .peers import RefusedError

QUICK = {"shutdown_timeout": 0, "force_off": True, "allow_restart": True}


def clear(peer, case):
    """Take away whatever a case names, so that it starts and leaves the host as if it had never been."""
    facts = peer.facts()
    absent = filled(all_absent(case), facts)
    peer.apply(absent, operation=QUICK)
    if case.get("restore"):
        peer.apply(filled(case["restore"], facts))


def test_case(peer, case):
    facts = peer.facts()
    clear(peer, case)
    try:
        if case.get("prepare"):
            peer.apply(filled(case["prepare"], facts), operation=QUICK)
        for step in case["steps"]:
            take(peer, filled(step, facts))
    finally:
        clear(peer, case)


def take(peer, step):
    kinds = kinds_of(step["document"])
    operation = {**QUICK, **step.get("operation", {})}
    if "refused" in step:
        before = peer.gather(kinds)
        with pytest.raises(RefusedError) as caught:
            peer.step(step["document"], step.get("exact", []), operation, kinds)
        assert sorted({path for path, _message in caught.value.problems}) == sorted(step["refused"])
        assert peer.gather(kinds) == before
        return
    try:
        state = peer.step(step["document"], step.get("exact", []), operation, kinds)
    except RefusedError as refusal:
        if not step.get("either"):
            raise
        problems = refusal.problems
        state = None
    if state is None:
        assert problems
        assert all(path and message for path, message in problems)
        return
    if "changes" in step:
        assert as_text(state["done"]) == step["changes"]
    assert state["planned"]["changes"] == state["done"]["changes"]
    assert state["planned"]["before"] == state["done"]["before"]
    assert state["again"]["changes"] == []
    assert state["again"]["changed"] is False
    assert state["back"]["changes"] == []
    assert missing_from(step.get("shows", {}), state["gathered"]) == []
    if step.get("either"):
        names = [value for item in _items(step["document"]) for value in item.values() if isinstance(value, str)]
        text = json.dumps(state["gathered"])
        assert all(json.dumps(name)[1:-1] in text for name in names)


def _items(document):
    return [item for value in document.values() for item in (value if isinstance(value, list) else [value])]


def test_every_kind_has_cases():
    assert {case["kind"] for case in load_cases()} == set(KINDS)
