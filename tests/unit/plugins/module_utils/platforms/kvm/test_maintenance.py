# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The maintenance mode, with a libvirt in memory: exactly what ran before runs afterwards, whenever a run dies."""

from __future__ import annotations

import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.boundary.definitions import MODULES
from ansible_collections.bareforge.hypervisor.plugins.module_utils.engine.platform import Platform
from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import (
    ApplyError,
    NotSupportedError,
    ReadError,
    ValidateError,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm import domains, maintenance
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.maintenance import KvmMaintenance
from ansible_collections.bareforge.hypervisor.plugins.module_utils.transports import libvirt as session
from support.libvirt_in_memory import PAUSED, RUNNING, SHUTOFF, Domain, Host, Killed, Library


class Bench:
    """A host with five VMs: two run, one of them starting with the host, one is suspended, two are off."""

    STATES = {"db1": RUNNING, "web1": RUNNING, "held": PAUSED, "old": SHUTOFF, "spare": SHUTOFF}

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.host = Host()
        for name, state in self.STATES.items():
            domain = Domain(
                self.host, f"<domain><name>{name}</name><uuid>{uuid.uuid5(uuid.NAMESPACE_DNS, name)}</uuid></domain>"
            )
            domain._state = state
            self.host.domains[name] = domain
        for name in ("web1", "spare"):
            self.host.domains[name].setAutostart(True)

    def perform(self, check: bool = False, **arguments: Any) -> Any:
        platform = type("Kvm", (Platform,), {"NAME": "kvm", "INTERFACES": (KvmMaintenance,)})()
        definition = MODULES["maintenance"]
        return definition.perform(platform, definition.parse({"platform": "kvm", **arguments}), check)

    def states(self) -> dict[str, int]:
        return {name: domain._state for name, domain in self.host.domains.items()}

    def starting(self) -> set[str]:
        return {name for name, domain in self.host.domains.items() if domain.autostart()}

    def restart(self) -> None:
        """Start the host anew: what runs is lost, and what starts with the host does."""
        for domain in self.host.domains.values():
            domain._state = RUNNING if domain.autostart() else SHUTOFF


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    made = Bench(tmp_path)
    monkeypatch.setitem(sys.modules, "libvirt", Library(made.host))  # type: ignore[arg-type]
    monkeypatch.setattr(session, "_connections", {})
    monkeypatch.setattr(domains, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(domains, "OFF_SECONDS", 0.1)
    monkeypatch.setattr(maintenance, "RECORD_FILE", str(tmp_path / "maintenance.json"))
    monkeypatch.setattr(maintenance, "LOGIN_MESSAGE_FILE", str(tmp_path / "motd"))
    # One at a time, so that a run that is killed ends where it shall.
    monkeypatch.setattr(maintenance, "AT_ONCE", 1)
    return made


def summary(result: Any) -> list[str]:
    return [f"{change['action']} {change['key']}".strip() for change in result["changes"]]


def test_exactly_what_ran_before_runs_afterwards(bench: Bench) -> None:
    before = bench.states()
    planned = bench.perform(check=True, state="emptied", reason="updates")
    assert (bench.states(), list(bench.folder.iterdir())) == (before, [])
    done = bench.perform(state="emptied", reason="updates")
    assert summary(done) == summary(planned) == ["enter", "stop db1", "stop held", "stop web1"]
    assert set(bench.states().values()) == {SHUTOFF}
    assert "save held" in bench.host.calls, "its memory is kept"
    assert bench.perform(state="emptied", reason="something else")["changed"] is False
    assert done["maintenance"]["reason"] == "updates"
    assert planned["maintenance"]["vms"] == done["maintenance"]["vms"]
    assert [(vm["name"], vm["power"]) for vm in done["maintenance"]["vms"]] == [
        ("db1", "running"),
        ("held", "suspended"),
        ("web1", "running"),
    ]
    assert "In maintenance since" in (bench.folder / "motd").read_text()
    bench.restart()
    assert set(bench.states().values()) == {SHUTOFF}, "nothing starts with the host meanwhile"
    planned = bench.perform(check=True, state="left")
    done = bench.perform(state="left")
    assert summary(done) == summary(planned) == ["start db1", "start held", "start web1", "leave"]
    assert bench.states() == before
    assert bench.starting() == {"web1", "spare"}
    assert (done["maintenance"], list(bench.folder.iterdir())) == (None, [])
    assert bench.perform(state="left")["changed"] is False


def test_entering_alone_stops_nothing(bench: Bench) -> None:
    before = bench.states()
    assert summary(bench.perform(state="entered", reason="look")) == ["enter"]
    assert (bench.states(), bench.starting()) == (before, {"web1", "spare"})
    assert bench.perform(state="entered")["changed"] is False
    # What somebody starts meanwhile runs again afterwards too.
    bench.host.domains["old"]._state = RUNNING
    assert summary(bench.perform(state="entered")) == ["note old"]
    assert maintenance.facts(str(bench.folder / "nowhere")) is None
    assert bench.perform(state="gathered")["maintenance"]["reason"] == "look"


def test_vms_are_spread_over_the_hosts_once(bench: Bench) -> None:
    done = bench.perform(state="entered", evacuate_to=["kvm2", "kvm3"])
    chosen = {vm["name"]: vm["destination"] for vm in done["maintenance"]["vms"]}
    assert chosen == {"db1": "kvm2", "held": "kvm3", "web1": "kvm2"}
    bench.host.domains["old"]._state = RUNNING
    done = bench.perform(state="entered", evacuate_to=["kvm2", "kvm3"])
    assert {vm["name"]: vm["destination"] for vm in done["maintenance"]["vms"]} == {**chosen, "old": "kvm3"}


def test_a_vm_that_has_moved_away_is_left_there(bench: Bench) -> None:
    bench.perform(state="entered", evacuate_to=["kvm2"])
    moved = bench.host.domains.pop("db1")
    assert summary(bench.perform(state="emptied", evacuate_to=["kvm2"])) == ["stop held", "stop web1"]
    assert summary(bench.perform(state="left")) == ["start held", "start web1", "leave"]
    assert moved._state == RUNNING


KILLS = ("save held", "start db1", "started db1", "start held", "started web1")


@pytest.mark.parametrize("step", KILLS)
def test_killed_anywhere_the_next_run_starts_what_ran_before(bench: Bench, step: str) -> None:
    before = bench.states()
    bench.host.kill_at = step

    def update() -> None:
        bench.perform(state="emptied", reason="updates")
        bench.restart()
        bench.perform(state="left")

    with pytest.raises(Killed):
        update()
    bench.host.kill_at = None
    bench.restart()
    bench.perform(state="emptied", reason="updates")
    bench.perform(state="left")
    assert bench.states() == before
    assert bench.starting() == {"web1", "spare"}


def test_killed_once_autostart_was_held_back_it_is_given_back(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(_self: Domain, _value: Any) -> None:
        raise Killed("setAutostart")

    with monkeypatch.context() as patched:
        patched.setattr(Domain, "setAutostart", killed)
        with pytest.raises(Killed):
            bench.perform(state="emptied")
    bench.host.domains["web1"].setAutostart(False)
    bench.perform(state="left")
    assert bench.starting() == {"web1", "spare"}


def test_a_guest_that_ignores_the_shutdown_is_named_and_the_others_are_stopped(bench: Bench) -> None:
    bench.host.domains["db1"].ignores_shutdown = True
    with pytest.raises(ApplyError, match="VM 'db1' has not shut down within 1 s and is running") as caught:
        bench.perform(state="emptied", shutdown_timeout=1)
    assert "force_off: true" in str(caught.value.hint)
    assert {name for name, state in bench.states().items() if state != SHUTOFF} == {"db1"}
    assert bench.perform(state="gathered")["maintenance"] is not None, "it is still in maintenance"
    assert summary(bench.perform(state="emptied", shutdown_timeout=1, force_off=True)) == ["stop db1"]
    assert summary(bench.perform(state="left")) == ["start db1", "start held", "start web1", "leave"]


def test_a_vm_that_could_not_be_started_again_is_refused_before_anything_stops(bench: Bench) -> None:
    bench.host.domains["web1"].persistent = False
    before = bench.states()
    with pytest.raises(ValidateError, match=r"vm\['web1'\]: is gone when it stops"):
        bench.perform(state="emptied")
    assert bench.states() == before


def test_a_vm_that_does_not_start_keeps_the_host_in_maintenance(bench: Bench) -> None:
    bench.perform(state="emptied")
    bench.host.fail_at, bench.host.fail_with = "start db1", "internal error: no such disk"
    with pytest.raises(ApplyError, match=r"VM 'db1' cannot be started.*no such disk"):
        bench.perform(state="left")
    assert {name for name, state in bench.states().items() if state != SHUTOFF} == {"held", "web1"}
    bench.host.fail_at = None
    assert summary(bench.perform(state="left")) == ["start db1", "leave"]


def test_a_record_of_another_form_is_not_guessed_at(bench: Bench) -> None:
    (bench.folder / "maintenance.json").write_text('{"format": 99}')
    with pytest.raises(ReadError, match="is not of the form that this version writes, 1"):
        bench.perform(state="left")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"state": "left", "evacuate_to": ["kvm2"]}, "evacuate_to: goes with state: entered and emptied only"),
        ({"state": "entered", "force_off": True}, "force_off: goes with state: emptied only"),
    ],
)
def test_what_does_not_go_together(arguments: Any, message: str) -> None:
    with pytest.raises(ValidateError, match=message):
        MODULES["maintenance"].parse({"platform": "kvm", **arguments})


def test_a_platform_without_the_mode_says_so() -> None:
    definition = MODULES["maintenance"]
    with pytest.raises(NotSupportedError, match="state: platform silent has no maintenance mode"):
        definition.perform(type("Silent", (Platform,), {"NAME": "silent"})(), definition.parse({"platform": "silent"}))
