# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a failed task says, and what the difference of one that went well shows."""

from __future__ import annotations

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.boundary.definitions import MODULES
from ansible_collections.bareforge.hypervisor.plugins.module_utils.boundary.result import failure, perform, with_host
from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import (
    ApplyError,
    NotSupportedError,
    Problem,
    VerifyError,
)
from support.memory_platform import Faults, MemoryHost, MemoryPlatform

DOCUMENT = {"virtual_switches": [{"name": "br0"}], "virtual_networks": [{"name": "app", "switch": "br0", "vlan": 10}]}


def caught(raised):
    try:
        raise raised
    except Exception as error:  # noqa: BLE001 - whatever was raised
        return error


def test_one_sentence_with_host_phase_and_hint():
    told = failure(NotSupportedError([Problem("vm['a'].tpm", "cannot be")], "Use a newer host"), host="kvm1")
    assert told == {
        "failed": True,
        "changed": False,
        "msg": "kvm1: vm['a'].tpm: cannot be. Use a newer host",
        "phase": "validate",
        "problems": [{"path": "vm['a'].tpm", "message": "cannot be"}],
    }


def test_a_failure_after_changes_is_a_change():
    error = ApplyError("create vm['b'] was refused")
    error.details["changes_made"] = [{"kind": "vm", "key": "a", "action": "create", "fields": []}]
    assert failure(error)["changed"] is True


def test_an_error_that_is_none_of_ours_says_type_and_place_in_one_line():
    told = failure(caught(KeyError("switch\nand more")), host="kvm1")
    assert told["phase"] == "internal"
    assert told["msg"].startswith("kvm1: KeyError: ")
    assert "boundary/test_result.py, line " in told["msg"]
    assert "\n" not in told["msg"]


@pytest.mark.parametrize(("verbosity", "shown"), [(0, False), (2, False), (3, True), (4, True)])
def test_a_traceback_from_vvv_on(verbosity, shown):
    told = failure(caught(ApplyError("broke off")), verbosity)
    assert ("exception" in told) is shown
    assert "Traceback" not in told["msg"]


def test_the_host_is_named_once():
    told = failure(VerifyError("did not take"))
    assert with_host(told, "kvm1")["msg"] == "kvm1: did not take"
    foreign = {"failed": True, "msg": "no python here"}
    assert with_host(foreign, "kvm1") == foreign
    fine = {"changed": False}
    assert with_host(fine, "kvm1") == fine


def test_the_difference_is_the_same_in_check_mode():
    host = MemoryHost()
    call = MODULES["host"].parse({"document": DOCUMENT})
    checked = perform(MODULES["host"], MemoryPlatform(host), call, check=True, diff=True)
    done = perform(MODULES["host"], MemoryPlatform(host), call, diff=True)
    assert checked["diff"] == done["diff"]
    assert done["diff"]["before"] == {}
    assert done["diff"]["after"]["virtual_networks"][0]["vlan"] == 10
    assert "planned" not in done


def test_no_difference_without_being_asked():
    call = MODULES["host"].parse({"document": DOCUMENT})
    assert "diff" not in perform(MODULES["host"], MemoryPlatform(MemoryHost()), call)


def test_what_the_host_chooses_is_in_the_result_but_not_in_the_difference():
    host = MemoryHost.holding({**DOCUMENT, "templates": [{"name": "t", "source": {"vm": "x"}}], "vms": []})
    vm = {"name": "a", "template": "t", "memory": {"size": 64}, "nics": [{"name": "eth0", "network": "app"}]}
    done = perform(MODULES["vm"], MemoryPlatform(host), MODULES["vm"].parse(vm), diff=True)
    assert "mac" in done["after"]["vms"][0]["nics"][0]
    assert "mac" not in done["diff"]["after"]["vms"][0]["nics"][0]


def test_secrets_are_in_no_result():
    host = MemoryHost.holding({**DOCUMENT, "templates": [{"name": "t", "source": {"vm": "x"}}]})
    vm = {"name": "a", "template": "t", "memory": {"size": 64}, "guest": {"user_data": "#cloud-config\nsecret: geheim"}}
    done = perform(MODULES["vm"], MemoryPlatform(host), MODULES["vm"].parse(vm), diff=True)
    assert done["changed"] is True
    assert "geheim" not in repr(done)


def test_the_session_is_closed_whatever_happens():
    class Closing(MemoryPlatform):
        closed = 0

        def close(self):
            Closing.closed += 1

    call = MODULES["virtual_switch"].parse({"name": "br0"})
    perform(MODULES["virtual_switch"], Closing(MemoryHost()), call)
    with pytest.raises(ApplyError):
        perform(MODULES["virtual_switch"], Closing(MemoryHost(Faults(error_at=1))), call)
    assert Closing.closed == 2
