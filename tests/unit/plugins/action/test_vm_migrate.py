# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""In which order the action of vm_migrate asks which host for what, and what it does when one of them cannot."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader

from ansible_collections.bareforge.hypervisor.plugins.action import vm_migrate
from ansible_collections.bareforge.hypervisor.plugins.module_utils.boundary.definitions import MODULES
from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import (
    ConnectError,
    NotSupportedError,
    ValidateError,
)
from ansible_collections.bareforge.hypervisor.plugins.modules import vm_migrate as module

VM = {"name": "web1", "power": "running", "memory": {"size": 192}}
STANDARD = {"changed", "failed", "msg", "diff", "exception", "warnings"}


class Hosts:
    """Two hosts that do their steps on paper.

    vms: which VM is on which. marks: on which host a killed run has left something. fails: steps that break off, by host.
    """

    def __init__(self) -> None:
        self.vms = {"kvm1": "web1", "kvm2": None}
        self.marks: set[str] = set()
        self.fails: dict[tuple[str, str], Any] = {}
        self.steps: list[tuple[str, str]] = []
        self.requests: list[Mapping[str, Any]] = []
        self.variables: list[Mapping[str, Any]] = []

    def ask(self, name: str, variables: Any, request: Any, loader: Any, patience: int = 10, entry: str = "") -> Any:
        assert entry == "migration"
        step = request["step"]
        self.steps.append((name, step))
        self.requests.append(request)
        self.variables.append(variables)
        fault = self.fails.get((name, step))
        if isinstance(fault, Exception):
            raise fault
        if fault is not None:
            return {"failure": {"failed": True, "changed": False, "msg": fault, "phase": "apply"}}
        return {"result": getattr(self, step)(name)}

    def offer(self, name: str) -> Any:
        if self.vms[name] is None:
            return {"present": False, "left": name in self.marks}
        return {"present": True, "vm": VM, "power": "running"}

    def prepare(self, _name: str) -> Any:
        return {"address": None, "xml": "<there/>", "config": "<there/>"}

    def begin(self, name: str) -> Any:
        self.marks.add(name)
        return {"key": "ssh-ed25519 AAAA"}

    def receive(self, name: str) -> Any:
        self.marks.add(name)
        return {"user": "operator", "ports": [1, 2], "host_keys": [], "words": []}

    def send(self, name: str) -> Any:
        self.vms = {"kvm1": None, "kvm2": "web1"}
        return {"seconds": 1.5, "memory": 10, "disks": 20}

    def arrive(self, name: str) -> Any:
        return {"vm": VM, "downtime": 120}

    def leave(self, name: str) -> Any:
        self.marks.discard(name)
        return {}

    def release(self, name: str) -> Any:
        self.marks.discard(name)
        return {}

    def settle(self, name: str) -> Any:
        self.marks.discard(name)
        return {"vm": VM if self.vms[name] else None}

    def forget(self, name: str) -> Any:
        self.marks.discard(name)
        return {}


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch) -> Hosts:
    hosts = Hosts()
    monkeypatch.setattr(vm_migrate, "ask", hosts.ask)
    return hosts


def run(check: bool = False, become: bool = False, **arguments: Any) -> dict[str, Any]:
    """Run a task for kvm1 and return its result."""
    action = vm_migrate.ActionModule.__new__(vm_migrate.ActionModule)
    hostvars = {
        "kvm1": {"ansible_host": "192.0.2.1"},
        "kvm2": {"ansible_host": "192.0.2.2", "ansible_port": 2222, "bareforge_platform": "kvm"},
        "pve1": {"bareforge_platform": "proxmox"},
    }
    action._task = SimpleNamespace(check_mode=check, diff=False)
    action._loader = DataLoader()
    action._display = SimpleNamespace(verbosity=0, vv=lambda *_a, **_k: None)
    action._play_context = SimpleNamespace(
        become=become, become_method="sudo", become_user="root", remote_user="operator"
    )
    given = {"name": "web1", "destination": "kvm2", "platform": "kvm", **arguments}
    monkey = {"definition": MODULES["vm_migrate"]}
    cls = type("Action", (vm_migrate.ActionModule,), monkey)
    action.__class__ = cls
    return action._run(given, {"hostvars": hostvars}, "kvm1", [])


def test_the_hosts_are_asked_in_turn_and_the_result_is_as_documented(hosts: Hosts) -> None:
    planned = run(check=True)
    assert hosts.steps == [("kvm1", "offer"), ("kvm2", "prepare")]
    hosts.steps.clear()
    done = run()
    assert hosts.steps == [
        ("kvm1", "offer"),
        ("kvm2", "prepare"),
        ("kvm1", "begin"),
        ("kvm2", "receive"),
        ("kvm1", "send"),
        ("kvm2", "arrive"),
        ("kvm1", "leave"),
        ("kvm2", "settle"),
    ]
    assert (
        planned["changes"]
        == done["changes"]
        == [{"kind": "vm", "key": "web1", "action": "migrate", "fields": ["host"]}]
    )
    assert done["migration"] == {"seconds": 1.5, "memory": 10, "disks": 20, "downtime": 120, "live": True}
    assert (done["before"]["host"], done["after"]["host"]) == ("kvm1", "kvm2")
    assert not hosts.marks
    documented = yaml.safe_load(module.RETURN)
    assert set(done) <= set(documented) | STANDARD
    assert set(done["migration"]) == set(documented["migration"]["contains"])
    hosts.steps.clear()
    again = run()
    assert (again["changed"], again["changes"]) == (False, [])
    assert hosts.steps == [("kvm1", "offer"), ("kvm2", "settle")]


def test_what_a_killed_run_has_left_is_removed_by_the_next(hosts: Hosts) -> None:
    hosts.vms = {"kvm1": None, "kvm2": "web1"}
    hosts.marks = {"kvm1", "kvm2"}
    assert run()["changed"]
    assert hosts.steps == [("kvm1", "offer"), ("kvm2", "settle"), ("kvm1", "leave")]
    assert not hosts.marks
    assert not run()["changed"]


@pytest.mark.parametrize(("host", "step"), [("kvm2", "receive"), ("kvm1", "send"), ("kvm2", "arrive")])
def test_where_a_step_breaks_off_both_hosts_are_as_they_were(hosts: Hosts, host: str, step: str) -> None:
    hosts.fails[host, step] = "vm['web1']: no."
    result = run()
    assert result["failed"]
    assert result["msg"] == f"{host}: vm['web1']: no."
    assert hosts.steps[-2:] == [("kvm2", "forget"), ("kvm1", "release")]
    assert not hosts.marks


def test_what_could_not_be_removed_is_told(hosts: Hosts) -> None:
    hosts.fails["kvm1", "send"] = "vm['web1']: no."
    hosts.fails["kvm2", "forget"] = ConnectError("the host cannot be reached")
    result = run()
    assert "What is left on 'kvm2' could not be removed" in result["msg"]
    assert hosts.steps[-1] == ("kvm1", "release")


def test_a_host_that_is_lost_in_the_middle_is_left_to_the_next_run(hosts: Hosts) -> None:
    hosts.fails["kvm1", "send"] = ConnectError("the connection broke")
    with pytest.raises(ConnectError) as caught:
        run()
    assert caught.value.message == "'kvm1': the connection broke"
    # The migration may go on by itself, so nothing is taken from under it.
    assert hosts.steps[-1] == ("kvm1", "send")


def test_a_vm_that_is_nowhere_is_refused(hosts: Hosts) -> None:
    hosts.vms = {"kvm1": None, "kvm2": None}
    with pytest.raises(ValidateError, match="neither on 'kvm1' nor on 'kvm2'"):
        run()


@pytest.mark.parametrize(
    ("destination", "error", "words"),
    [
        ("kvm9", ValidateError, "allowed is a host of the inventory"),
        ("kvm1", ValidateError, "is the host that the VM is on"),
        ("pve1", NotSupportedError, "is of platform proxmox"),
    ],
)
def test_destinations_that_cannot_be(hosts: Hosts, destination: str, error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        run(destination=destination)
    assert hosts.steps == []


@pytest.mark.parametrize(
    ("arguments", "prepared", "address", "port"),
    [
        ({}, None, "192.0.2.2", 2222),
        ({}, "10.30.0.2", "10.30.0.2", 22),
        ({"address": "kvm2.migration"}, "10.30.0.2", "kvm2.migration", 22),
        ({"address": "kvm2.migration", "port": 2022}, None, "kvm2.migration", 2022),
        ({"port": 2022}, None, "192.0.2.2", 2022),
    ],
)
def test_where_the_other_host_is_reached(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch, arguments: Any, prepared: Any, address: str, port: int
) -> None:
    monkeypatch.setattr(hosts, "prepare", lambda name: {"address": prepared, "xml": "", "config": ""})
    run(**arguments)
    (request,) = [request for request in hosts.requests if request["step"] == "send"]
    assert request["there"] == {"user": "operator", "address": address, "port": port}


def test_a_tasks_own_become_holds_for_both_hosts(hosts: Hosts) -> None:
    run(become=True)
    assert all(variables["ansible_become"] and variables["ansible_user"] == "operator" for variables in hosts.variables)


def test_its_file_is_no_link_to_the_dispatcher() -> None:
    assert not Path(vm_migrate.__file__).is_symlink()
