# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every type of value: what it takes and in which form it keeps it, what it refuses and in which words."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ansible_collections.bareforge.hypervisor.plugins.module_utils.model import types

TABLE = yaml.safe_load((Path(__file__).parents[3] / "data" / "values" / "types.yml").read_text(encoding="utf-8"))


def made(entry):
    ((name, arguments),) = entry["type"].items()
    return getattr(types, name)(*arguments)


ALLOWED = [(entry, written, kept) for entry in TABLE for written, kept in entry["allowed"]]
REFUSED = [
    (entry, *(value if isinstance(value, list) and len(value) == 2 else (value, None)))
    for entry in TABLE
    for value in entry["refused"]
]


def name_of(value):
    return "" if isinstance(value, dict) else ascii(value)[:40]


@pytest.mark.parametrize(("entry", "written", "kept"), ALLOWED, ids=name_of)
def test_allowed(entry, written, kept):
    type = made(entry)
    value = type.parse(written)
    assert value == kept
    assert value.__class__ is kept.__class__
    assert type.parse(value) == value


@pytest.mark.parametrize(("entry", "value", "message"), REFUSED, ids=name_of)
def test_refused(entry, value, message):
    with pytest.raises(ValueError, match="is not allowed; allowed is") as caught:
        made(entry).parse(value)
    if message is not None:
        assert str(caught.value) == message


def test_every_type_is_in_the_table():
    all_types = {
        name
        for name, cls in vars(types).items()
        if isinstance(cls, type) and issubclass(cls, types.ValueType) and cls is not types.ValueType
    }
    tested = {name for entry in TABLE for name in entry["type"]}
    # A pattern has no meaning of its own: those of the model are tested where they stand, by generated documents.
    assert all_types - tested == {"Pattern"}


@pytest.mark.parametrize(
    "type", [types.Integer(0, 10), types.Size(), types.PortRange(), types.VlanRange(), types.CpuSet()]
)
def test_a_number_that_python_does_not_write_out(type):
    with pytest.raises(ValueError, match="a number of more than 80 digits is not allowed; allowed is"):
        type.parse(10**5000)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("a", "'a'"),
        ("größe", "'gr\\xf6\\xdfe'"),
        ("x" * 200, "'" + "x" * 76 + "..."),
        (["a", "é"], "['a', '\\xe9']"),
        ({"b": [1, [2, [3, [4, [5]]]]]}, "{'b': [1, [2, [3, [...]]]]}"),
        (None, "None"),
        (1.5, "1.5"),
        (b"x", "b'x'"),
    ],
)
def test_values_are_shown_short_and_in_ascii(value, shown):
    assert types.show(value) == shown


def test_a_subclass_of_text_is_text():
    """Ansible marks where a text comes from by a subclass of str; what is kept is plain."""

    class Tagged(str):
        pass

    for type in (
        types.Name(),
        types.Text(),
        types.Choice("a"),
        types.HostName(),
        types.Pattern("a", "a"),
        types.Host(),
    ):
        assert type.parse(Tagged("a")).__class__ is str
    assert types.show(Tagged("a")) == "'a'"
    assert types.Boolean().parse(Tagged("yes")) is True


@pytest.mark.parametrize(("text", "bounds"), [("22", (22, 22)), ("100-199", (100, 199))])
def test_range_bounds(text, bounds):
    assert types.range_bounds(text) == bounds
