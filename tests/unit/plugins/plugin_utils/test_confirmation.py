# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Coming back to confirm: in time, late, and never."""

from __future__ import annotations

import time

import pytest
from ansible.errors import AnsibleConnectionFailure

from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import ConnectError, GuardError
from ansible_collections.bareforge.hypervisor.plugins.plugin_utils.confirmation import MARGIN, PATIENCE, confirm

GUARD = {"token": "t", "timeout": 30, "guarded": ["virtual_switch['br0']"]}


class Clock:
    """Time that passes only in sleep."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def test_at_the_first_attempt(clock):
    asked = []
    told = confirm(GUARD, asked.append, clock.sleep)
    assert asked == ["confirmed"]
    assert told == {"guarded": GUARD["guarded"], "confirmed": True, "seconds": 0.0}


@pytest.mark.parametrize("error", [ConnectError, AnsibleConnectionFailure])
def test_once_the_host_is_back(clock, error):
    def reach(state):
        assert state == "confirmed"
        if clock.now < 1012:
            raise error("no route to host")

    assert confirm(GUARD, reach, clock.sleep)["seconds"] == 12.0


def test_the_host_comes_back_by_undoing(clock):
    asked = []

    def reach(state):
        asked.append(state)
        if state == "confirmed":
            raise ConnectError("no route to host")
        raise GuardError("the changes were undone at 12:00")

    with pytest.raises(GuardError) as caught:
        confirm(GUARD, reach, clock.sleep)
    assert asked[-1] == "undone"
    assert asked.count("undone") == 1
    assert clock.now == 1000 + GUARD["timeout"] + MARGIN
    sentence = caught.value.sentence("kvm1")
    assert "kvm1: virtual_switch['br0']: after the change the host could not be reached within 30 s" in sentence
    assert "the changes were undone at 12:00" in sentence
    assert "no route to host" in sentence


def test_a_host_that_takes_a_while_to_undo_is_asked_again(clock):
    def reach(state):
        if state == "confirmed" or clock.now < 1000 + GUARD["timeout"] + MARGIN + 20:
            raise ConnectError("Permission denied")
        raise GuardError("the changes were undone at 12:00")

    with pytest.raises(GuardError, match="the changes were undone at 12:00"):
        confirm(GUARD, reach, clock.sleep)
    assert clock.now < 1000 + GUARD["timeout"] + MARGIN + 25


def test_a_host_that_never_answers_again_is_said_to(clock):
    def reach(_state):
        raise ConnectError("no route to host")

    with pytest.raises(GuardError) as caught:
        confirm(GUARD, reach, clock.sleep)
    assert "look at its console" in caught.value.sentence("kvm1")
    assert clock.now <= 1000 + GUARD["timeout"] + MARGIN + PATIENCE


def test_the_host_is_told_to_undo_if_it_has_not(clock):
    def reach(state):
        if state == "confirmed":
            # What ssh says has line ends in it.
            raise ConnectError("timed out during banner exchange\r\nConnection timed out")

    with pytest.raises(GuardError, match="the host undid the change and answers again") as caught:
        confirm(GUARD, reach, clock.sleep)
    assert len(caught.value.message.splitlines()) == 1


def test_the_host_never_comes_back(clock):
    def reach(state):
        raise ConnectError("no route to host")

    with pytest.raises(GuardError) as caught:
        confirm(GUARD, reach, clock.sleep)
    assert "look at its console" in caught.value.sentence()
    assert "undid" not in caught.value.sentence()


def test_too_late(clock):
    def reach(state):
        raise GuardError("the changes were undone at 12:00")

    with pytest.raises(GuardError, match="could not be confirmed within 30 s: the changes were undone at 12:00"):
        confirm(GUARD, reach, clock.sleep)
    assert clock.now == 1000
