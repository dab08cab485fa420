# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Steps of molecule count as shown only if the scenario's own report says that the task ran."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from capabilities.showings import ShowingError, of_scenario

VERIFY = """
- name: From outside
  hosts: peer
  tasks:
    - name: Packets stay on their VLAN
      ansible.builtin.assert: {that: true}
    - name: In a block
      block:
        - name: Nobody else answers
          ansible.builtin.assert: {that: true}
"""


def entry(task: str, capability: str = "virtual_network.vlan", ran_against: str = "real") -> str:
    return f"- {{platform: kvm, capability: {capability}, task: {task}, ran_against: {ran_against}}}\n"


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    (tmp_path / "verify.yml").write_text(VERIFY)
    (tmp_path / "capabilities.yml").write_text(entry("Packets stay on their VLAN"))
    return tmp_path


def report(
    folder: Path, *outcomes: str, playbook: str = "verify.yml", task: str = "Packets stay on their VLAN"
) -> Path:
    events = [{"run": "1", "event": "begin", "playbook": playbook}]
    events += [{"run": "1", "event": "task", "task": task, "host": "peer", "outcome": outcome} for outcome in outcomes]
    file = folder / "report.jsonl"
    file.write_text("\n".join(json.dumps(event) for event in events))
    return file


def outcome_of(folder: Path, file: Path | None) -> str:
    (showing,) = of_scenario("kvm", folder, file)
    return showing.outcome


def test_step_that_ran_has_passed(scenario: Path) -> None:
    assert outcome_of(scenario, report(scenario, "passed")) == "passed"


def test_nothing_has_run_without_a_report(scenario: Path) -> None:
    assert outcome_of(scenario, None) == "not run"
    assert outcome_of(scenario, scenario / "absent.jsonl") == "not run"


def test_skipped_everywhere_is_skipped_and_skipped_somewhere_is_not(scenario: Path) -> None:
    assert outcome_of(scenario, report(scenario, "skipped", "skipped")) == "skipped"
    assert outcome_of(scenario, report(scenario, "skipped", "passed")) == "passed"


def test_one_failure_counts_more_than_successes(scenario: Path) -> None:
    assert outcome_of(scenario, report(scenario, "passed", "failed")) == "failed"


def test_task_of_the_same_name_in_another_playbook_does_not_count(scenario: Path) -> None:
    assert outcome_of(scenario, report(scenario, "passed", playbook="converge.yml")) == "not run"


def test_line_cut_off_by_a_kill_is_left_out(scenario: Path) -> None:
    file = report(scenario, "passed")
    file.write_text(file.read_text() + '\n{"run": "1", "ev')
    assert outcome_of(scenario, file) == "passed"


def test_task_in_a_block_is_found(scenario: Path) -> None:
    (scenario / "capabilities.yml").write_text(entry("Nobody else answers"))
    assert outcome_of(scenario, None) == "not run"


def test_several_capabilities_of_one_task(scenario: Path) -> None:
    (scenario / "capabilities.yml").write_text(entry("Nobody else answers", "[firewall, firewall_rule]"))
    assert [showing.capability for showing in of_scenario("kvm", scenario)] == ["firewall", "firewall_rule"]


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (entry("No such task"), "no verify playbook has a task named 'No such task'"),
        (entry("From outside"), "no verify playbook has a task named 'From outside'"),
        (entry("Nobody else answers", ran_against="reality"), "ran_against is one of real,"),
        ("- {platform: kvm}\n", "entry 1 wants exactly"),
        ("platform: kvm\n", "a list is wanted"),
    ],
)
def test_manifest_that_is_wrong_is_refused(scenario: Path, manifest: str, message: str) -> None:
    (scenario / "capabilities.yml").write_text(manifest)
    with pytest.raises(ShowingError, match=message):
        of_scenario("kvm", scenario)
