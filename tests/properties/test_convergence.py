# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whatever valid document is applied to whatever host: it holds, a second time nothing changes, and it comes back."""

from __future__ import annotations

import copy
import json

import yaml
from hypothesis import given, reject
from hypothesis import strategies as st

from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.document import KINDS, SECTIONS, Document
from support.documents import apply, gathered, problems_on
from support.generator import Generator, RandomChooser, locate
from support.memory_platform import MemoryHost, every_capability
from support.operation_cases import as_text
from support.strategies import SETTINGS, documents, raw_documents

PRUNABLE = [kind for kind, cls in KINDS.items() if cls.key_fields()]


class FixedChoices:
    """Takes the first of everything: repairs need no variety."""

    def integer(self, minimum, maximum):
        return minimum

    def choice(self, options):
        return options[0]


def keys_in(document, kind):
    return set(Document.parse(document).present.get(kind, {}))


@SETTINGS
@given(documents())
def test_a_document_holds_after_it_was_applied(document):
    host = MemoryHost()
    original = copy.deepcopy(document)

    planned = apply(host, document, check=True)
    assert not any(host.objects.values())
    done = apply(host, document)
    assert planned == {name: value for name, value in done.items() if name != "guard"} | {"after": planned["after"]}
    assert not host.unfinished
    assert document == original

    again = apply(host, document)
    assert again["changes"] == [] and not again["changed"]

    back = gathered(host)
    assert json.loads(json.dumps(back)) == back
    assert yaml.safe_load(yaml.safe_dump(back, allow_unicode=True)) == back
    assert apply(host, back)["changes"] == []
    for kind in KINDS:
        assert keys_in(back, kind) == keys_in(document, kind)


@SETTINGS
@given(documents())
def test_what_was_gathered_makes_the_same_host_anew(document):
    host = MemoryHost()
    apply(host, document)
    back = gathered(host)
    twin = MemoryHost()
    apply(twin, back)
    assert gathered(twin) == back


@SETTINGS
@given(documents(), raw_documents())
def test_one_document_after_another(first, second):
    host = MemoryHost()
    apply(host, first)
    second = Generator(FixedChoices()).repaired(second, problems_in_the_document(host, ()))
    before = host.snapshot()

    planned = apply(host, second, check=True)
    assert host.snapshot() == before
    done = apply(host, second)
    assert done["changes"] == planned["changes"] and done["before"] == planned["before"]
    assert apply(host, second)["changes"] == []
    assert apply(host, gathered(host))["changes"] == []

    touched = {(change["kind"], change["key"]) for change in done["changes"]}
    for kind, objects in before.items():
        for key, item in objects.items():
            if (kind, item.label) not in touched:
                assert host.objects[kind][key] == item


def problems_in_the_document(host, exact):
    """Return a function that tells what is wrong with a document on this host.

    Where a network of it does not fit an interface that is there already, and of which it says nothing, the problem names
    that interface: no place in the document, and nothing to be repaired there.
    """
    problems_of = problems_on(host, exact)

    def problems_in(data):
        found = problems_of(data)
        if found:
            try:
                locate(data, found[0].path)
            except LookupError:
                there = (item.place.text for items in host.objects.values() for item in items.values())
                if any(found[0].path.startswith(place) for place in there):
                    reject()
                raise
        return found

    return problems_in


@SETTINGS
@given(documents(), raw_documents(), st.sets(st.sampled_from(PRUNABLE)))
def test_exact_prunes_exactly_the_rest(first, second, exact):
    host = MemoryHost()
    apply(host, first)
    for kind in exact:
        second.setdefault(SECTIONS[kind], [])
    second = Generator(FixedChoices()).repaired(second, problems_in_the_document(host, exact))
    before = host.snapshot()
    wanted = Document.parse(second)

    done = apply(host, second, exact)
    warnings = done.get("warnings", [])
    ports = {(vm.name, nic.name) for vm in host.objects["vm"].values() for nic in vm.nics or ()}
    for kind in KINDS:
        listed = set(wanted.present.get(kind, {}))
        kept = {
            key
            for key, item in before[kind].items()
            if any(warning.startswith(f"{item.place.text} is not listed and was kept") for warning in warnings)
        }
        if kind in exact:
            assert set(host.objects[kind]) == listed | kept, as_text(done)
        else:
            # Snapshots go with their VM, and filters with their NIC, whatever is said of them.
            gone = {key for key in before[kind] if kind == "snapshot" and (key[0],) not in host.objects["vm"]}
            gone |= {key for key in before[kind] if kind == "port_acl" and key not in ports}
            assert set(host.objects[kind]) == (set(before[kind]) - gone) | listed, as_text(done)
    assert apply(host, second, exact)["changes"] == []


def test_the_generator_reaches_every_capability_that_a_valid_document_can_ask_for():
    """Guards the properties against a generator that has become blind: what it never makes is never tested."""
    missing = {name for name in every_capability() if not name.startswith("vm.wait_for.")}
    for seed in range(600):
        generator = Generator(RandomChooser(seed))
        data = generator.repaired(generator.document(), problems_on(MemoryHost()))
        for item in Document.parse(data).objects():
            missing -= {capability for capability, _path, _value in item.required_capabilities()}
        if not missing:
            break
    assert missing == set()
