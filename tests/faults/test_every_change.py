# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A fault at every single change of a job with every kind: the next run finishes it with what is missing, and no more.

The jobs are to build a host from nothing, to change it, and to tear it down. All points are tried, not a sample.
"""

from __future__ import annotations

import copy
import functools

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.engine.runner import Request, gather, run
from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import BareforgeError
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.document import KINDS, SECTIONS, Document
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.operation import Operation
from support.documents import every_kind
from support.faulty_platform import FAULTS, with_fault
from support.memory_platform import Faults, Killed, MemoryHost, MemoryPlatform
from support.operation_cases import as_text

OPTIONS = Operation.parse({"allow_restart": True})


def changed_document():
    """Return the document with every kind in another state: most objects changed, some gone, two swapping uplinks."""
    document = every_kind()
    document["system"]["hostname"] = "kvm2"
    document["tuning"]["swappiness"] = 20
    document["storage_pools"][0]["autostart"] = False
    document["virtual_switches"][0].update(uplinks=["eth3", "eth2"], bond={"primary": "eth3"})
    document["virtual_switches"].append({"name": "br1", "uplinks": ["eth1"]})
    document["virtual_networks"][0]["vlan"] = 20
    document["virtual_networks"][1]["switch"] = "br1"
    document["host_interfaces"][0]["mtu"] = 9000
    document["firewall"]["log_denied"] = False
    document["firewall_rules"][1] = {"name": "ssh", "state": "absent"}
    document["realms"][0]["second_factor"] = "none"
    document["roles"][0]["privileges"] = ["vm.start"]
    document["users"][0]["enabled"] = False
    document["permissions"][0]["propagate"] = False
    document["resource_pools"][1]["cpu_shares"] = 500
    document["templates"][1] = {"name": "local", "state": "absent"}
    document["vms"][1]["cpu"]["shares"] = 500
    document["vms"].append({"name": "new", "memory": {"size": 256}, "nics": [{"name": "e0", "network": "trunk"}]})
    document["port_acls"][0]["dhcp_guard"] = False
    document["snapshots"][0] = {"vm": "web", "name": "before", "state": "absent"}
    document["backups"].append({"vm": "new", "name": "first", "target": "/srv/backup"})
    return document


def job(name):
    """Return (host as it is before, document, exact) of a job."""
    host = MemoryHost()
    if name == "build":
        return host, every_kind(), []
    run(MemoryPlatform(host), Request(Document.parse(every_kind()), OPTIONS))
    if name == "change":
        return host, changed_document(), []
    # What runs or carries the management path is kept; so that everything goes, it does neither any more.
    last = every_kind()
    last["host_interfaces"][0]["roles"] = []
    last["vms"][1]["power"] = "stopped"
    run(MemoryPlatform(host), Request(Document.parse(last), OPTIONS))
    exact = [kind for kind, cls in KINDS.items() if cls.key_fields()]
    return host, {SECTIONS[kind]: [] for kind in exact}, exact


@functools.cache
def undisturbed(name):
    """Return (changes of the job in order, the host after it)."""
    host, document, exact = job(name)
    done = run(MemoryPlatform(host), Request(Document.parse(document, exact), OPTIONS))
    return as_text(done), host.snapshot()


def points(name):
    return range(1, len(undisturbed(name)[0]) + 1)


CASES = [(name, number) for name in ("build", "change", "tear_down") for number in points(name)]


def test_the_jobs_are_whole():
    assert {line.split()[1].split("[")[0] for line in undisturbed("build")[0]} == set(KINDS)
    actions = {line.split()[0] for line in undisturbed("change")[0]}
    assert actions == {"create", "update", "delete"}
    kinds = {line.split()[1].split("[")[0] for line in undisturbed("change")[0]}
    assert kinds == set(KINDS)
    left = {kind for kind, objects in undisturbed("tear_down")[1].items() if objects}
    assert left == {kind for kind, cls in KINDS.items() if not cls.key_fields()}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(("name", "number"), CASES)
def test_the_next_run_finishes_the_job(name, number, fault):
    host, document, exact = job(name)
    host.restart_counting()
    whole, after = undisturbed(name)
    request = Request(Document.parse(document, exact), OPTIONS)
    platform = MemoryPlatform(host)
    counted = with_fault(platform, fault, number)

    broken_off = None
    try:
        result = run(platform, request)
    except Killed as death:
        broken_off = death
    except (BareforgeError, RuntimeError) as error:
        broken_off = error
    if fault == "delay":
        assert broken_off is None
        assert as_text(result) == whole
    else:
        assert broken_off is not None
        assert len(counted.begun) == number
    if isinstance(broken_off, BareforgeError):
        made = broken_off.details["changes_made"]
        assert as_text({"changes": made}) == whole[: number - 1]

    undone = "undo" in host.log
    host.restart_counting()
    rest = as_text(run(MemoryPlatform(host), request))
    assert_finished(host, request, after)
    if fault == "delay":
        assert rest == []
    elif not undone:
        assert_only_what_is_missing(rest, whole, number - 1 if fault != "kill_after" else number)


@pytest.mark.parametrize(("name", "number"), CASES)
def test_a_change_that_was_half_made_is_made_anew(name, number):
    host, document, exact = job(name)
    host.restart_counting()
    whole, after = undisturbed(name)
    request = Request(Document.parse(document, exact), OPTIONS)
    host.faults = Faults(kill_within=number)
    with pytest.raises(Killed):
        run(MemoryPlatform(host), request)
    assert host.unfinished
    host.restart_counting()
    rest = as_text(run(MemoryPlatform(host), request))
    assert_finished(host, request, after)
    assert_only_what_is_missing(rest, whole, number - 1)


@pytest.mark.parametrize("name", ["build", "change"])
def test_killed_at_every_change_of_every_run(name):
    """A job that is killed after each single change still comes to its end, in as many runs as it has changes."""
    host, document, exact = job(name)
    request = Request(Document.parse(document, exact), OPTIONS)
    whole, after = undisturbed(name)
    for _run in range(len(whole) + 2):
        host.restart_counting()
        host.faults = Faults(kill_after=1)
        try:
            result = run(MemoryPlatform(host), request)
        except Killed:
            continue
        assert result["changes"] == []
        break
    else:
        pytest.fail("the job never came to its end")
    assert_finished(host, request, after)


def assert_only_what_is_missing(rest, whole, made):
    """Check that a run makes what another left open: what changes in one step in the same words and order."""
    places = [place_of(line) for line in whole]
    in_one_step = [line for line in whole[made:] if places.count(place_of(line)) == 1]
    assert [line for line in rest if places.count(place_of(line)) == 1] == in_one_step
    in_steps = {place for place in places[made:] if places.count(place) > 1}
    assert {place_of(line) for line in rest} - {place_of(line) for line in in_one_step} <= in_steps


def place_of(line):
    return line.split(" ")[1]


def assert_finished(host, request, after):
    assert host.snapshot() == after
    assert host.unfinished == {}
    assert run(MemoryPlatform(host), request)["changes"] == []
    back = Document.parse(gather(MemoryPlatform(host)))
    assert run(MemoryPlatform(host), Request(copy.deepcopy(back), OPTIONS))["changes"] == []
