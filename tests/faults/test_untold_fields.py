# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host that takes everything and does not tell one field: the run says which, or it is one that need not be told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import VerifyError
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.document import KINDS
from support.documents import apply, every_kind, gathered
from support.memory_platform import Faults, MemoryHost

OPTIONS = {"guard": {"enabled": False}}


def fields_of(cls: Any, prefix: str = "", settled: bool = False) -> Iterator[tuple[str, bool]]:
    """Yield (dotted name, whether it is settled when the object is made) of the fields that a host can tell."""
    for name, entry in cls.options().items():
        if entry.key or entry.secret:
            continue
        fixed = settled or entry.create_only
        yield f"{prefix}{name}", fixed
        inner = getattr(entry.type, "cls", None)
        if inner is not None:
            yield from fields_of(inner, f"{prefix}{name}.", fixed)


FIELDS = [(kind, name, settled) for kind, cls in KINDS.items() for name, settled in fields_of(cls)]


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind, name, settled in FIELDS if not settled],
    ids=lambda value: value,
)
def test_a_field_that_can_change_must_be_told(kind, name):
    host = MemoryHost(Faults(untold={(kind, name)}))
    with pytest.raises(VerifyError) as caught:
        apply(host, every_kind(), **OPTIONS)
    field = name.rpartition(".")[2]
    assert caught.value.message.startswith(f"did not take: {kind}")
    assert f".{field}: asked was " in caught.value.message
    assert "the host shows None" in caught.value.message


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind, name, settled in FIELDS if settled],
    ids=lambda value: value,
)
def test_a_field_that_is_settled_need_not_be_told(kind, name):
    host = MemoryHost(Faults(untold={(kind, name)}))
    assert apply(host, every_kind(), **OPTIONS)["changed"]
    assert apply(host, every_kind(), **OPTIONS)["changes"] == []
    assert apply(host, gathered(host), **OPTIONS)["changes"] == []
