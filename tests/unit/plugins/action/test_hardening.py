# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Real runs of ansible-playbook that audit this machine, which is read and not changed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[4]

PROFILE = """\
name: own
version: "7.1"
platform: kvm
title: A profile for a test
rules:
  - id: file-closed
    title: The file is closed to others
    severity: high
    rationale: Because the test wants it so.
    sources: [dev-sec]
    tags: [files]
    setting: {{kind: file_permissions, path: {path}}}
    expected: {{mode: {{at_most: "0600"}}}}
  - id: passwords-off
    title: Nobody logs in with a password
    severity: medium
    rationale: Because the test wants it so.
    sources: [dev-sec]
    tags: [sshd]
    setting: {{kind: sshd_setting, keyword: PasswordAuthentication}}
    expected: {{equals: no}}
    applies_when: {{file_exists: /nowhere}}
"""


class Machine:
    """Runs tasks against this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "looked-at"
        self.file.write_text("")
        self.file.chmod(0o644)
        self.variables = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "bareforge_platform": "kvm",
        }
        (folder / "ansible.cfg").write_text("[defaults]\n")
        (folder / "own.yml").write_text(PROFILE.format(path=self.file))

    def run(self, *arguments: str, **options: object) -> dict:
        """Run the module and return its result."""
        return self.run_all([options], *arguments)[0]

    def run_all(self, tasks: list[dict], *arguments: str) -> list[dict]:
        """Run the module once for each mapping of options and return the results."""
        results = self.folder / "results"
        results.write_text("")
        play = [
            {"bareforge.hypervisor.hardening": {"profile": "./own.yml", **options}, "ignore_errors": True}
            for options in tasks
        ]
        text = yaml.safe_dump([{"hosts": "here", "gather_facts": False, "tasks": play}])
        (self.folder / "play.yml").write_text(text)
        inventory = {"all": {"hosts": {"here": None}, "vars": self.variables}}
        (self.folder / "inventory.yml").write_text(yaml.safe_dump(inventory))
        done = subprocess.run(
            [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "inventory.yml", "play.yml", *arguments],
            cwd=self.folder,
            env={
                **os.environ,
                "ANSIBLE_CONFIG": str(self.folder / "ansible.cfg"),
                "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections"),
                "ANSIBLE_CALLBACK_PLUGINS": str(Path(__file__).parent / "callback_plugins"),
                "ANSIBLE_CALLBACKS_ENABLED": "results",
                "ANSIBLE_LOCAL_TEMP": str(self.folder / "local"),
                "ANSIBLE_NOCOLOR": "1",
                "RESULTS": str(results),
            },
            capture_output=True,
            text=True,
            timeout=300,
        )
        lines = [json.loads(line) for line in results.read_text().splitlines()]
        assert len(lines) == len(tasks), done.stdout + done.stderr
        return [{"failed": line["status"] != "ok", **line["result"]} for line in lines]


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_an_audit_reads_the_host_and_writes_reports_on_the_controller(machine):
    answer = machine.run(report="reports/here")
    assert not answer["changed"]
    assert not answer["failed"]
    assert [(rule["id"], rule["status"]) for rule in answer["rules"]] == [
        ("file-closed", "fail"),
        ("passwords-off", "not_applicable"),
    ]
    assert answer["rules"][0]["found"].startswith("mode: 0644; owner: ")
    assert (answer["profile"]["name"], answer["profile"]["version"]) == ("own", "7.1")
    assert "diff" not in answer
    written = {path.name for path in (machine.folder / "reports").iterdir()}
    assert written == {"here.html", "here.json", "here.csv", "here.sarif"}
    report = json.loads((machine.folder / "reports/here.json").read_text())
    assert report["host"] == "here"
    assert report["profile"]["sha256"] == answer["profile"]["sha256"]
    # The next run tells what has become better.
    machine.file.chmod(0o600)
    answer = machine.run(report="reports/here", formats=["json"])
    assert answer["score"]["percent"] == 100
    assert json.loads((machine.folder / "reports/here.json").read_text())["previous"]["better"] == ["file-closed"]


def test_check_mode_shows_the_plan_and_writes_nothing(machine):
    answer = machine.run("--check", "--diff", mode="enforce", report="reports/here")
    assert answer["changed"]
    assert answer["rules"][0]["planned"]
    assert [change["rules"] for change in answer["changes"]] == [["file-closed"]]
    assert answer["diff"][0]["after"] == f"set mode 0600 of {machine.file}\n"
    assert machine.file.stat().st_mode & 0o777 == 0o644
    assert not (machine.folder / "reports").exists()


def test_exceptions_count_until_they_expire(machine):
    reason = "The test says so, for now"
    answer = machine.run(exceptions=[{"rule": "file-closed", "reason": reason, "expires": "2099-01-01"}])
    assert answer["rules"][0]["status"] == "exception"
    answer = machine.run(exceptions=[{"rule": "file-closed", "reason": reason, "expires": "2020-01-01"}])
    assert answer["rules"][0]["status"] == "fail"
    assert answer["warnings"] == ["rule file-closed counts again: its exception expired on 2020-01-01"]


def test_what_is_asked_in_vain_is_refused_before_the_host_is_reached(machine):
    gone = {"rule": "gone", "reason": "Long enough", "expires": "2099-01-01"}
    cases = [
        ({"profile": "nothing"}, "profile: 'nothing' is not allowed; allowed is a path, or for platform kvm one of: foundation"),
        ({"profile": {"rules": []}}, "allowed is the name or the path of a profile"),
        ({"profile": "./bad.yml"}, "bad.yml:8: rules['file-closed'].severity: 'urgent' is not allowed"),
        ({"rules": ["gone"]}, "rules[0]: 'gone' is not a rule of profile own"),
        ({"tags": ["gone"]}, "tags[0]: 'gone' is not a tag of the profile; known are files, sshd"),
        ({"exceptions": [gone]}, "exceptions[0].rule: 'gone' is not a rule of the profile"),
        ({"mode": "destroy"}, "mode: 'destroy' is not allowed; allowed is audit, enforce or revert"),
    ]  # fmt: skip
    text = (machine.folder / "own.yml").read_text()
    (machine.folder / "bad.yml").write_text(text.replace("severity: high", "severity: urgent"))
    machine.variables.update(ansible_connection="ssh", ansible_host="127.0.0.1", ansible_port=1)
    answers = machine.run_all([options for options, _message in cases])
    for (options, message), answer in zip(cases, answers, strict=True):
        assert answer["failed"], options
        assert message in answer["msg"], options
        assert answer["phase"] == "validate", options


def test_a_login_by_password_is_not_switched_off_by_the_task_that_came_in_by_it(machine):
    machine.variables["ansible_password"] = "geheim"
    answer = machine.run("--check", mode="enforce")
    assert "rule passwords-off switches off logins with a password, and this host is reached with one" in answer["msg"]
    exception = {"rule": "passwords-off", "reason": "There is no key yet", "expires": "2099-01-01"}
    answer = machine.run("--check", mode="enforce", exceptions=[exception])
    assert not answer["failed"]
