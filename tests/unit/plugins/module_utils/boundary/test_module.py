# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A module as it runs on a host, in this process: arguments in, JSON out."""

from __future__ import annotations

import json
import os

import pytest
from ansible.module_utils.common.parameters import PASS_VARS
from ansible.module_utils.testing import patch_module_args

from ansible_collections.bareforge.hypervisor.plugins.module_utils.boundary import module as boundary
from ansible_collections.bareforge.hypervisor.plugins.module_utils.boundary.definitions import MODULES
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.on_host import ON_HOST
from support.memory_platform import Faults, MemoryHost, MemoryPlatform

# What ansible-core before 2.20 does always.
INVOCATION = {"inject_invocation": True} if "inject_invocation" in PASS_VARS else {}

USER_DATA = "#cloud-config\npassword: geheim"


@pytest.fixture
def host(monkeypatch):
    host = MemoryHost.holding({"templates": [{"name": "t", "source": {"vm": "x"}}]})
    monkeypatch.setitem(ON_HOST, "memory", lambda: MemoryPlatform(host))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return host


@pytest.fixture
def run(capsys, monkeypatch):
    logged = []
    monkeypatch.setattr(boundary.AnsibleModule, "log", lambda _module, message, log_args=None: logged.append(message))

    def run(module, internal=None, /, **arguments):
        given = {
            "platform": "memory",
            **arguments,
            **{f"_ansible_{key}": value for key, value in (internal or {}).items()},
        }
        with patch_module_args(given), pytest.raises(SystemExit):
            boundary.run_module(module)
        run.output = capsys.readouterr().out
        return json.loads(run.output)

    run.logged = logged
    return run


def test_converges_and_converges_again(host, run):
    assert run("virtual_switch", name="br0", uplinks=["eno1"])["changed"] is True
    assert run("virtual_switch", name="br0")["changed"] is False
    assert [str(each) for each in host.objects["virtual_switch"]] == ["('br0',)"]


def test_check_mode_and_difference(host, run):
    planned = run("virtual_switch", {"check_mode": True, "diff": True}, name="br0")
    assert host.objects["virtual_switch"] == {}
    done = run("virtual_switch", {"diff": True}, name="br0")
    assert planned["changed"] is True
    assert planned["diff"] == done["diff"]
    assert planned["changes"] == done["changes"]


def test_a_problem_is_told_by_its_path(host, run):
    told = run("virtual_network", name="app", switch="br0", vlan=5000)
    assert told["failed"] is True
    assert told["phase"] == "validate"
    assert told["problems"][0]["path"] == "virtual_network['app'].vlan"
    assert "Traceback" not in run.output


def test_the_failure_of_a_change(host, run):
    host.faults = Faults(error_at=1)
    told = run("virtual_switch", name="br0")
    assert (told["phase"], told["failed"], told["changed"]) == ("apply", True, False)


def test_an_error_that_is_none_of_ours(host, run):
    host.faults = Faults(crash_at=1)
    told = run("virtual_switch", name="br0")
    assert told["msg"].startswith("RuntimeError: a fault of the driver")
    assert "exception" not in told
    host.faults = Faults(crash_at=2)
    assert "Traceback" in run("virtual_switch", {"verbosity": 3}, name="br0")["exception"]


@pytest.mark.parametrize("verbosity", [0, 4])
@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("vm", {"name": "a", "template": "t", "memory": {"size": 64}, "guest": {"user_data": USER_DATA}}),
        ("vm", {"vms": [{"name": "a", "template": "t", "memory": {"size": 64}, "guest": {"user_data": USER_DATA}}]}),
        ("host", {"document": {"vms": [{"name": "a", "memory": {"size": 0}, "guest": {"user_data": USER_DATA}}]}}),
        ("host", {"document": {"vms": [{"guest": {"user_data": USER_DATA}}]}, "colour": "red"}),
        ("vm", {"vms": [{"guest": {"user_data": USER_DATA}}], "cpu": "two"}),
        ("host", {"document": {"users": [{"name": "u", "password": "geheim", "password_hash": "geheim"}]}}),
    ],
)
def test_secrets_leave_no_trace(host, run, module, arguments, verbosity):
    told = run(module, {"verbosity": verbosity, "diff": True, **INVOCATION}, **arguments)
    assert "invocation" in told
    assert "geheim" not in run.output
    assert not any("geheim" in message for message in run.logged)


def test_the_log_names_the_options_that_were_given(host, run):
    run("virtual_switch", name="br0", mtu=9000)
    assert run.logged == ["Invoked with the options exact, mtu, name, platform, state"]


def test_needs_root(host, run, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    told = run("virtual_switch", name="br0")
    assert told["phase"] == "authenticate"
    assert told["msg"] == "the task needs root on the host. Say become: true"


def test_the_platform_must_run_on_the_host(host, run):
    assert "allowed is kvm, memory" in run("virtual_switch", name="br0", platform=None)["msg"]
    assert "'esxi' does not run on the host itself" in run("virtual_switch", name="br0", platform="esxi")["msg"]


def test_every_module_starts(host, run):
    for name in MODULES:
        assert "msg" in run(name, platform="nowhere", **({"token": "x"} if name == "guard" else {}))
