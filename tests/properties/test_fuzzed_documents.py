# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whatever data is read as a document: either it is one, or a ValidateError comes out whose every problem names a path.

A seeded generator brings the number, Hypothesis what a person would not think of.
"""

from __future__ import annotations

import copy
import datetime
import multiprocessing
import os
import random
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.bareforge.hypervisor.plugins.module_utils.engine.runner import Request, run
from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import ValidateError
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.document import KINDS, SECTIONS, Document
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.operation import Operation
from support.documents import every_kind
from support.generator import Generator, RandomChooser
from support.memory_platform import MemoryHost, MemoryPlatform
from support.strategies import SETTINGS

INPUTS = int(os.environ.get("BAREFORGE_FUZZ_INPUTS", "100000"))
WORKERS = 2
JUNK: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1.5,
    float("nan"),
    float("inf"),
    10**30,
    10**5000,
    "",
    " ",
    "x",
    "\0",
    "\ud800",
    "\u202e",
    "x" * 5000,
    "10.0.0.1/33",
    "999",
    "::1%eth0",
    "1-2-3",
    b"bytes",
    [],
    {},
    [None],
    [[]],
    {"name": None},
    {"name": ["x"]},
    {"name": "x", "state": "absent"},
    {"name": "x", "state": []},
    {1: 2},
    {None: None},
    ("tuple",),
    {"set"},
    datetime.date(2027, 1, 31),
    [{"name": "a"}, {"name": "a"}],
    object,
]


def deep(levels: int) -> Any:
    value: Any = []
    for level in range(levels):
        value = [value] if level % 2 else {"name": value}
    return value


def read(data: Any, exact: Any = ()) -> bool:
    """Read data as a document and return whether it is one; anything but a proper refusal fails the test."""
    refusal = None
    try:
        Document.parse(data, exact)
    except ValidateError as error:
        refusal = error
    if refusal is None:
        return True
    assert refusal.problems
    for problem in refusal.problems:
        assert problem.path, problem
        assert problem.path.isascii(), problem
        assert problem.path.isprintable(), problem
        assert problem.message, problem
        assert problem.message.isascii(), problem
        assert problem.message.isprintable(), problem
        assert len(problem.message) < 2000, problem
    assert str(refusal).isascii()
    return False


def containers_in(data: Any) -> list[Any]:
    """Return every mapping and list inside plain data."""
    found: list[Any] = []
    left = [data]
    while left:
        value = left.pop()
        if isinstance(value, (dict, list)):
            found.append(value)
            left.extend(value.values() if isinstance(value, dict) else value)
    return found


def mutate(data: Any, source: random.Random) -> None:
    """Change one to four things in plain data."""
    for _change in range(source.randint(1, 4)):
        holder = source.choice(containers_in(data))
        junk = copy.deepcopy(source.choice(JUNK)) if source.random() < 0.9 else deep(source.randint(1, 300))
        if isinstance(holder, dict):
            key = source.choice([*list(holder), "name", "state", "x", "", "\u202e", 5, None])
            if source.random() < 0.15:
                holder.pop(key, None)
            else:
                holder[key] = junk
        elif holder and source.random() < 0.5:
            holder[source.randrange(len(holder))] = junk
        else:
            holder.append(holder[0] if holder and source.random() < 0.4 else junk)


def fuzz(job: Any) -> Any:
    """Read a number of mutated documents; return (how many were read, how many were documents, processor seconds)."""
    seed, count = job
    source = random.Random(seed)
    generator = Generator(RandomChooser(seed))
    whole = every_kind()
    good = 0
    stock: list[Any] = []
    for number in range(count):
        if number % 100 == 0:
            kinds = source.sample(list(KINDS), 3)
            stock = [generator.document(kinds), {SECTIONS[kind]: whole[SECTIONS[kind]] for kind in kinds}]
        data = copy.deepcopy(source.choice(stock))
        mutate(data, source)
        exact = source.choice([(), (), (), "vm", ["vm"], [None], [["vm"]], 5, ["vm", "virtual_switch"]])
        good += read(data, exact)
    return count, good, time.process_time()


def test_a_hundred_thousand_faulty_documents_are_refused_by_path(record_property):
    share = 5000
    jobs = [(seed, min(share, INPUTS - first)) for seed, first in enumerate(range(0, INPUTS, share))]
    # A process for each job: its processor time is that of the job.
    with multiprocessing.get_context("spawn").Pool(WORKERS, maxtasksperchild=1) as pool:
        results = pool.map(fuzz, jobs, chunksize=1)
    assert sum(count for count, _good, _seconds in results) == INPUTS
    # Neither all refused nor all taken: else it would not be the parser that is looked at.
    good = sum(good for _count, good, _seconds in results)
    record_property("inputs", INPUTS)
    record_property("of these documents", good)
    record_property("seconds of one core", round(sum(seconds for _count, _good, seconds in results)))
    assert 0.005 * INPUTS < good < 0.5 * INPUTS


@pytest.mark.parametrize("data", JUNK, ids=lambda value: ascii(type(value).__name__))
def test_junk_in_place_of_anything(data):
    assert not read(data) or data == {}
    read({}, data)
    for section in SECTIONS.values():
        read({section: data})
        read({section: [data]})
    document = every_kind()
    for holder in containers_in(document):
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        for key in keys:
            kept, holder[key] = holder[key], data
            read(document)
            holder[key] = kept


@pytest.mark.parametrize("levels", [10, 1000, 100_000])
def test_depth_does_not_hurt(levels):
    value = deep(levels)
    assert not read({"vms": value})
    assert not read({"vms": [{"name": "web", "memory": value, "nics": value}]})
    while value:
        # Python would free a deep list by recursion.
        value = value.pop() if isinstance(value, list) else value.pop("name")


def test_size_does_not_hurt():
    assert not read({"vms": [{"name": "x" * 10_000_000}]})
    assert not read({"firewall_rules": [{"name": "r", "ports": list(range(1, 60000))}]})
    assert not read({"virtual_networks": [{"name": "n", "switch": "s", "trunk": ["1-5000"] * 4000}]})


plain_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.dates(), st.binary(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.one_of(st.text(max_size=6), st.sampled_from(["name", "state", "nics", "vm"])), inner, max_size=4
        ),
    ),
    max_leaves=12,
)


@settings(SETTINGS, max_examples=500)
@given(st.one_of(plain_values, st.dictionaries(st.sampled_from(list(SECTIONS.values())), plain_values)), plain_values)
def test_any_plain_data_is_refused_by_path_or_read(data, exact):
    read(data)
    read(data, exact)


@settings(SETTINGS, max_examples=500)
@given(plain_values)
def test_any_options_of_an_operation(data):
    problems = None
    try:
        Operation.parse(data)
    except ValidateError as error:
        problems = error.problems
    assert problems is None or problems
    assert all(problem.message.isascii() for problem in problems or ())


def test_what_is_read_can_be_planned_or_is_refused():
    """Beyond reading: what is wrong between objects is a refusal by path too, and never another exception."""
    planned = 0
    problems: list[Any] = []
    for seed in range(150):
        source = random.Random(seed)
        data = Generator(RandomChooser(seed)).document()
        mutate(data, source)
        try:
            run(MemoryPlatform(MemoryHost()), Request(Document.parse(data), Operation.parse({}), check=True))
            planned += 1
        except ValidateError as error:
            problems.extend(error.problems)
    assert all(problem.path and problem.path.isascii() for problem in problems)
    assert len({problem.path for problem in problems}) + planned > 100
