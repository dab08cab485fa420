# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Two runs at once, writes that a host forgets, the guard when something breaks."""

from __future__ import annotations

import threading

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.engine.runner import Request, run
from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import (
    ApplyError,
    ConnectError,
    GuardError,
    VerifyError,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.document import Document
from support.documents import apply, every_kind
from support.memory_platform import Faults, MemoryHost, MemoryPlatform
from support.operation_cases import as_text

NETWORKS = {
    "virtual_switches": [{"name": "a", "uplinks": ["eth0"]}],
    "virtual_networks": [{"name": "m", "switch": "a"}],
    "host_interfaces": [{"name": "mgmt", "network": "m", "roles": ["management"]}],
}
RISKY = {"virtual_networks": [{"name": "m", "switch": "a", "vlan": 7}, {"name": "n", "switch": "a"}]}


def host_with_networks():
    host = MemoryHost.holding(NETWORKS)
    host.restart_counting()
    return host


def test_a_second_run_fails_cleanly_while_one_holds_the_lock():
    host = MemoryHost()
    with MemoryPlatform(host).lock(), pytest.raises(ConnectError) as caught:
        apply(host, every_kind())
    assert "another run works on this host" in caught.value.sentence()
    assert not any(host.objects.values())
    apply(host, every_kind())


def test_check_mode_and_gathering_need_no_lock():
    host = MemoryHost()
    with MemoryPlatform(host).lock():
        assert apply(host, every_kind(), check=True)["changed"]


def test_of_two_runs_at_once_the_second_waits_and_finds_nothing_to_do():
    host = MemoryHost(Faults(delay=0.002))
    host.lock_timeout = 30.0
    results = []
    threads = [threading.Thread(target=lambda: results.append(apply(host, every_kind()))) for _run in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(result["changed"] for result in results) == [False, True]
    assert not host.unfinished
    assert apply(host, every_kind())["changes"] == []


def test_the_lock_is_free_after_a_failure():
    host = MemoryHost(Faults(error_at=1))
    with pytest.raises(ApplyError):
        apply(host, every_kind())
    host.faults = Faults()
    assert apply(host, every_kind())["changed"]


def all_changes():
    return as_text(apply(MemoryHost(), every_kind()))


@pytest.mark.parametrize("number", range(1, len(all_changes()) + 1))
def test_a_change_that_the_host_forgets_is_told_by_name(number):
    host = MemoryHost(Faults(ignored_at=number))
    place = all_changes()[number - 1].split(" ", 1)[1]
    with pytest.raises((VerifyError, ApplyError)) as caught:
        apply(host, every_kind(), guard={"enabled": False})
    if isinstance(caught.value, VerifyError):
        assert caught.value.message == f"did not take: {place} is not there"
    else:
        # The host refused what stands on the object that it forgot.
        key = place.split("'")[1]
        assert f"the host has no {place.split('[')[0]} {key!r}" in caught.value.message


def test_removals_that_the_host_forgets_are_told():
    host = MemoryHost.holding({"firewall_rules": [{"name": "a"}, {"name": "b"}]})
    host.faults = Faults(ignored_at=1)
    with pytest.raises(VerifyError, match=r"did not take: firewall_rule\['a'\] is still there"):
        apply(host, {"firewall_rules": []}, exact=["firewall_rule"])


def test_an_interface_that_leaves_a_change_out_is_found_out():
    class Lazy:
        KINDS = ("virtual_switch",)

        def __init__(self, real):
            self.real = real

        def __getattr__(self, name):
            return getattr(self.real, name)

        def apply(self, changes, context):
            self.real.apply(changes[:-1], context)

    platform = MemoryPlatform(MemoryHost())
    platform.interfaces = tuple(
        Lazy(interface) if "virtual_switch" in interface.KINDS else interface for interface in platform.interfaces
    )
    document = Document.parse({"virtual_switches": [{"name": "a"}, {"name": "b"}]})
    with pytest.raises(ApplyError, match=r"create virtual_switch\['b'\] was not carried out") as caught:
        run(platform, Request(document))
    assert as_text({"changes": caught.value.details["changes_made"]}) == ["create virtual_switch['a']"]


def test_the_guard_is_armed_before_the_first_change_and_left_to_be_confirmed():
    host = host_with_networks()
    done = apply(host, RISKY)
    steps = [line.split()[0] for line in host.log if not line.startswith(("read", "finish"))]
    assert steps == ["arm", "begin", "done", "begin", "done"]
    assert done["guard"] == {"token": "undo-1", "guarded": ["virtual_network['m']"], "timeout": 60}
    MemoryPlatform(host).guard().confirm(done["guard"]["token"])
    with pytest.raises(GuardError, match="the undo has run already"):
        MemoryPlatform(host).guard().confirm(done["guard"]["token"])


def test_the_guard_takes_the_time_that_it_is_given():
    host = host_with_networks()
    assert apply(host, RISKY, guard={"timeout": 120})["guard"]["timeout"] == 120


def test_no_guard_is_armed_in_check_mode_or_for_nothing():
    host = host_with_networks()
    assert "guard" not in apply(host, RISKY, check=True)
    assert "guard" not in apply(host, NETWORKS)
    assert "arm" not in host.log


@pytest.mark.parametrize(
    ("faults", "error"),
    [
        (Faults(error_at=2), ApplyError),
        (Faults(crash_at=2), RuntimeError),
        (Faults(ignored={("virtual_network", "vlan")}), VerifyError),
    ],
    ids=["refused", "fault of the driver", "forgotten"],
)
def test_what_was_guarded_is_undone_when_something_breaks(faults, error):
    host = host_with_networks()
    before = host.snapshot()
    host.faults = faults
    with pytest.raises(error) as caught:
        apply(host, RISKY)
    assert host.log[-1] == "undo"
    assert host.snapshot() == before
    if error is not RuntimeError:
        assert caught.value.details["guard"] == "the changes to the management path were undone"
        assert caught.value.details["changes_made"]


def test_what_was_guarded_is_undone_when_waiting_fails():
    host = MemoryHost.holding({**NETWORKS, "vms": [{"name": "silent", "memory": {"size": 512}}]})
    before = host.snapshot()
    with pytest.raises(ApplyError, match="a guest showed no ssh within 300 s") as caught:
        apply(host, {**RISKY, "vms": [{"name": "silent"}]}, wait_for={"what": "ssh"})
    assert caught.value.details["guard"] == "the changes to the management path were undone"
    assert as_text({"changes": caught.value.details["changes_made"]}) == [
        "update virtual_network['m'] vlan",
        "create virtual_network['n']",
    ]
    assert host.snapshot() == before


def test_an_undo_that_fails_says_who_will_undo():
    host = host_with_networks()
    host.faults = Faults(error_at=2, undo_fails=True)
    with pytest.raises(ApplyError) as caught:
        apply(host, RISKY)
    assert caught.value.details["guard"] == (
        "undoing failed too: the host does not answer; the host undoes by itself when its timer ends"
    )


def test_what_touches_nothing_risky_is_not_undone():
    host = host_with_networks()
    host.faults = Faults(error_at=2)
    with pytest.raises(ApplyError) as caught:
        apply(host, {"virtual_switches": [{"name": "x"}, {"name": "y"}]})
    assert "guard" not in caught.value.details
    assert ("x",) in host.objects["virtual_switch"]


def test_a_run_that_died_leaves_the_undo_to_the_host():
    """Nobody confirms: the host's own timer is all that is left, so the state must not be thrown away."""
    from support.memory_platform import Killed

    host = host_with_networks()
    host.faults = Faults(kill_after=1)
    with pytest.raises(Killed):
        apply(host, RISKY)
    assert host.guard_state is not None
    assert "undo" not in host.log


def test_every_error_names_what_was_made_before_it():
    whole = all_changes()
    for number in range(1, len(whole) + 1, 7):
        host = MemoryHost(Faults(error_at=number))
        with pytest.raises(ApplyError) as caught:
            apply(host, every_kind(), guard={"enabled": False})
        assert as_text({"changes": caught.value.details["changes_made"]}) == whole[: number - 1]
