# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Real runs of ansible-playbook, with the platform in memory in the worker and with a module on this machine."""

from __future__ import annotations

import json
import os
import threading
import time

import pytest
import yaml

from support.playbooks import PASSWORD, task

SWITCH = {"name": "br0", "uplinks": ["eno1"]}
NETWORK = {"name": "app", "switch": "br0", "vlan": 10}


def test_check_run_and_run_again(runner):
    document = {"virtual_switches": [SWITCH], "virtual_networks": [NETWORK]}
    (checked,) = runner.play(task("host", document=document), arguments=["--check", "--diff"])
    assert not any(line.startswith("begin") for line in runner.log())
    (done,) = runner.play(task("host", document=document), arguments=["--diff"])
    (again,) = runner.play(task("host", document=document), arguments=["--diff"])
    assert [status for status, _result in (checked, done, again)] == ["ok"] * 3
    assert [result["changed"] for _status, result in (checked, done, again)] == [True, True, False]
    assert checked[1]["diff"] == done[1]["diff"]
    assert checked[1]["changes"] == done[1]["changes"]
    assert yaml.safe_load(done[1]["diff"]["after"])["virtual_networks"][0]["vlan"] == 10
    assert done[1]["diff"]["before"] == ""
    assert "diff" not in runner.play(task("virtual_switch", name="br0", mtu=9000))[0][1]


def test_narrow_modules_and_gathering(runner):
    results = runner.play(
        task("virtual_switch", **SWITCH),
        task("virtual_network", virtual_networks=[NETWORK, {"name": "db", "switch": "br0", "vlan": "{{ 10 + 10 }}"}]),
        task("virtual_network", state="gathered"),
        task("host", state="gathered", kinds=["virtual_switch"]),
        task("virtual_network", name="db", state="absent"),
        task("virtual_network", name="db", state="absent"),
        task("host_info", kinds=[]),
        task("virtual_switch", name="doubtful"),
        arguments=["-v"],
    )
    assert [status for status, _result in results] == ["ok"] * 8
    assert [result["changed"] for _status, result in results] == [True, True, False, False, True, False, False, True]
    assert [network["vlan"] for network in results[2][1]["virtual_networks"]] == [10, 20]
    assert results[3][1]["document"]["virtual_switches"][0]["uplinks"] == ["eno1"]
    assert results[6][1]["platform"] == "memory"
    assert results[7][1]["warnings"] == ["virtual_switch['doubtful'] has a doubtful name"]
    assert "[WARNING]: virtual_switch['doubtful'] has a doubtful name" in runner.output
    assert "<h1> create virtual_switch['br0']" in runner.output, "progress is shown with -v"


def test_a_mistake_is_answered_before_the_host_is_connected_to(runner):
    ((status, result),) = runner.play(task("virtual_network", name="app", switch="br0", vlan=5000, colour="red"))
    assert status == "failed"
    assert result["msg"].startswith("h1: ")
    assert {problem["path"] for problem in result["problems"]} == {"colour", "virtual_network['app'].vlan"}
    assert not list(runner.hosts.iterdir())
    assert "Traceback" not in runner.output


def test_an_unreachable_service(runner):
    (runner.hosts / "h1.unreachable").touch()
    ((status, result),) = runner.play(task("virtual_switch", **SWITCH))
    assert (status, result["msg"], result["phase"]) == ("failed", "h1: port 443 is closed", "connect")
    assert "Traceback" not in runner.output


def test_a_traceback_is_shown_from_vvv_on(runner):
    (runner.hosts / "h1.faulty").touch()
    ((status, result),) = runner.play(task("host_info"), arguments=["-vv"])
    assert (status, result["phase"]) == ("failed", "internal")
    assert result["msg"].startswith("h1: RuntimeError: a fault of the driver (action/stored_platform.py, line ")
    assert "Traceback" not in runner.output
    runner.play(task("host_info"), arguments=["-vvv"])
    assert "Traceback (most recent call last)" in runner.output


def test_how_the_host_is_reached(runner):
    runner.inventory.update(bareforge_user="root", bareforge_timeout=7, ansible_host="192.0.2.1")
    runner.play(task("host_info", kinds=[]))
    runner.hosts.joinpath("192.0.2.settings").rename(runner.hosts / "h1.settings")
    reached = runner.settings()
    # Logins lie in the run's own folder, locks in one that runs share.
    assert "ansible-local" in reached.pop("session_folder")
    assert reached.pop("lock_folder").endswith("/bareforge")
    assert reached == {
        "host": "192.0.2.1",
        "user": "root",
        "password": PASSWORD,
        "timeout": 7,
        "validate_certs": True,
    }
    runner.play(task("host_info", kinds=[], connection={"host": "h2", "user": "admin", "validate_certs": False}))
    reached = runner.settings("h2")
    assert {name: reached[name] for name in reached if not name.endswith("_folder")} == {
        "host": "h2",
        "user": "admin",
        "password": PASSWORD,
        "timeout": 7,
        "validate_certs": False,
    }


def test_a_wrong_inventory_variable_is_named(runner):
    runner.inventory.update(bareforge_timeout="soon")
    ((_status, result),) = runner.play(task("host_info"))
    assert result["msg"].startswith("h1: bareforge_timeout: 'soon' is not allowed")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (None, "must be given, or the inventory variable bareforge_platform"),
        ("vax", "'vax' is not allowed; allowed is kvm"),
    ],
)
def test_the_platform(runner, name, words):
    runner.inventory["bareforge_platform"] = name
    ((_status, result),) = runner.play(task("host_info"))
    assert words in result["msg"]
    ((status, _result),) = runner.play(task("host_info", platform="memory", kinds=[]))
    assert status == "ok"


def test_secrets_are_shown_at_no_verbosity(runner):
    data = "#cloud-config\nsecret: streng-geheim"
    vm = {"name": "a", "template": "t", "memory": {"size": 64}, "guest": {"user_data": data}}
    results = runner.play(
        task("template", name="t", source={"path": "/t.qcow2"}, checksum=f"sha256:{64 * '0'}"),
        {**task("host", document={"vms": [vm]}), "ignore_errors": True},
        {**task("vm", vms=[vm]), "ignore_errors": True},
        {**task("vm", **vm), "ignore_errors": True},
        {**task("host_info", kinds=[], connection={"password": "noch-geheimer"}), "ignore_errors": True},
        arguments=["-vvvv", "--diff"],
    )
    assert len(results) == 5
    for secret in ("streng-geheim", "noch-geheimer", PASSWORD):
        assert secret not in json.dumps(results)
        assert secret not in runner.output
    assert runner.settings()["password"] == "noch-geheimer"


def test_delegation_takes_the_variables_of_the_host_that_is_worked_on(runner):
    runner.inventory["bareforge_platform"] = "vax"
    runner.host_vars["h2"] = {"bareforge_platform": "{{ own }}", "own": "memory"}
    ((status, _result),) = runner.play({**task("virtual_switch", **SWITCH), "delegate_to": "h2"}, hosts=("h1", "h2"))
    assert status == "ok"
    assert "done create virtual_switch['br0']" in runner.log("h2")


def test_defaults_for_all_modules_at_once(runner):
    runner.inventory["bareforge_platform"] = None
    ((status, _result),) = runner.play(
        task("virtual_switch", **SWITCH),
        module_defaults={"group/bareforge.hypervisor.hypervisor": {"platform": "memory"}},
    )
    assert status == "ok"


def test_a_guarded_change_is_confirmed_over_a_new_session(runner):
    ((status, result),) = runner.play(task("firewall", default_inbound="deny"))
    assert (status, result["changed"]) == ("ok", True)
    assert result["guard"]["confirmed"] is True
    assert result["guard"]["guarded"] == ["firewall"]
    assert [line for line in runner.log() if line in ("arm", "confirm")] == ["arm", "confirm"]


def test_a_guarded_change_is_confirmed_once_the_host_is_back(runner):
    (runner.hosts / "h1.cut").touch()
    cut_off = runner.hosts / "h1.unreachable"

    def mend():
        while not cut_off.exists():
            time.sleep(0.05)
        (runner.hosts / "h1.cut").unlink()
        time.sleep(1.5)
        cut_off.unlink()

    mending = threading.Thread(target=mend, daemon=True)
    mending.start()
    ((status, result),) = runner.play(task("firewall", default_inbound="deny"))
    assert status == "ok"
    assert result["guard"]["seconds"] >= 1


def test_a_change_that_the_host_has_undone_is_a_failure(runner):
    (runner.hosts / "h1.forgets").touch()
    ((status, result),) = runner.play(task("firewall", default_inbound="deny"))
    assert (status, result["phase"]) == ("failed", "guard")
    assert result["msg"].startswith(
        "h1: firewall: the change could not be confirmed within 60 s: the undo has run already"
    )


def test_a_module_is_shipped_to_the_host(runner):
    """The module really runs through Ansible's own connection, here the local one."""
    runner.inventory["bareforge_platform"] = "kvm"
    ((status, result),) = runner.play(task("guard", token="nonsense"), arguments=["-vvvv"])
    assert status == "failed"
    if os.geteuid() == 0:
        assert result["msg"] == "h1: 'nonsense' is no token of a guard; allowed is what arming has returned"
    else:
        assert result["msg"] == "h1: the task needs root on the host. Say become: true"
    assert PASSWORD not in runner.output


GUARDED = {"changed": True, "guard": {"token": "0" * 16, "timeout": 60, "guarded": ["firewall"]}}
LOST = [
    "Connection to kvm1 closed by remote host.",
    "Timeout, server kvm1 not responding.",
    "client_loop: send disconnect: Broken pipe",
    "mux_client_request_session: read from master failed: Connection reset by peer\nShared connection to kvm1 closed.",
]
NEVER_THERE = [
    "ssh: connect to host kvm1 port 22: Connection refused",
    "ssh: Could not resolve hostname kvm1: Name or service not known",
    "root@kvm1: Permission denied (publickey).",
    "kex_exchange_identification: read: Connection reset by peer",
]


@pytest.mark.parametrize("said", LOST)
def test_a_connection_that_drops_in_a_guarded_change_says_what_the_host_does_by_itself(runner, said):
    runner.script({"lost": said})
    ((status, result),) = runner.play(task("firewall", default_inbound="deny", guard={"timeout": 45}))
    assert (status, result["phase"]) == ("unreachable", "connect")
    assert result["msg"].startswith("h1: the connection broke off while the task ran (Failed to connect to the host")
    assert said.split()[0] in result["msg"]
    assert result["msg"].endswith(
        "What it may have changed on the path that the host is managed through, the host undoes by itself within 45 s;"
        " run the task again after that"
    )
    assert "\n" not in result["msg"]
    assert runner.asked() == ["module"]


@pytest.mark.parametrize("said", NEVER_THERE)
def test_a_host_that_was_never_reached_has_nothing_to_undo(runner, said):
    runner.script({"lost": said})
    ((status, result),) = runner.play(task("firewall", default_inbound="deny"))
    assert (status, "undoes" in result["msg"]) == ("unreachable", False)
    assert said.split("\n")[0] in result["msg"]


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ({"default_inbound": "deny", "guard": {"enabled": False}}, []),
        ({"default_inbound": "deny"}, ["--check"]),
        ({"state": "gathered"}, []),
    ],
    ids=["no guard", "check mode", "only read"],
)
def test_nothing_is_said_of_an_undo_where_nothing_is_guarded(runner, arguments, options):
    runner.script({"lost": LOST[0]})
    ((status, result),) = runner.play(task("firewall", **arguments), arguments=options)
    assert (status, "undoes" in result["msg"]) == ("unreachable", False)


def test_a_module_that_was_killed_says_what_the_host_does_by_itself(runner):
    runner.script({"said": "Killed"})
    ((status, result),) = runner.play(task("firewall", default_inbound="deny"))
    assert status == "failed"
    assert result["msg"].endswith("the host undoes by itself within 60 s; run the task again after that")


def test_a_login_that_is_refused_is_tried_again_until_the_host_lets_in(runner):
    runner.script(GUARDED, {"lost": NEVER_THERE[2]}, {"changed": True})
    ((status, result),) = runner.play(task("firewall", default_inbound="deny"))
    assert (status, result["guard"]["confirmed"]) == ("ok", True)
    assert result["guard"]["seconds"] >= 1
    assert runner.asked() == ["module", "reset", "module", "reset", "module"], "each over a connection of its own"


HARDENED = {
    "changed": True,
    "mode": "enforce",
    "rules": [],
    "score": {"percent": 100},
    "changes": [
        {"action": "set kernel.sysrq to 0", "target": "/proc/sys/kernel/sysrq", "rules": ["kernel-sysrq-off"]},
        {"action": "write it", "target": "/etc/ssh/sshd_config.d/00.conf", "rules": ["sshd-x11-off"]},
    ],
    "guard": {"token": "0" * 16, "timeout": 60, "guarded": ["rule sshd-x11-off"]},
}


def test_hardening_stays_after_a_new_login(runner):
    runner.script(HARDENED, {"changed": True})
    ((status, result),) = runner.play(task("hardening", profile="foundation", mode="enforce"))
    assert (status, result["guard"]["confirmed"]) == ("ok", True)
    assert result["guard"]["guarded"] == ["rule sshd-x11-off"]
    assert runner.asked() == ["module", "reset", "module"]


def test_hardening_is_confirmed_also_where_other_rules_failed(runner):
    failed = {**HARDENED, "failed": True, "phase": "apply", "msg": "1 of 71 rules could not be enforced"}
    runner.script(failed, {"changed": True})
    ((status, result),) = runner.play(task("hardening", profile="foundation", mode="enforce"))
    assert (status, result["guard"]["confirmed"]) == ("failed", True)
    assert result["msg"] == "h1: 1 of 71 rules could not be enforced"


def test_hardening_that_the_host_has_undone_fails_with_one_sentence_and_writes_no_report(runner):
    undone = {"failed": True, "phase": "guard", "msg": "the changes were undone at 2026-11-25T20:00:00Z"}
    runner.script(HARDENED, undone)
    ((status, result),) = runner.play(
        task("hardening", profile="foundation", mode="enforce", report=str(runner.folder / "report"))
    )
    assert (status, result["phase"], result["changed"]) == ("failed", "guard", True)
    assert result["msg"].startswith(
        "h1: rule sshd-x11-off: the change could not be confirmed within 60 s: the changes were undone at 2026"
    )
    assert [change["rules"] for change in result["changes_made"]] == [["kernel-sysrq-off"]]
    assert not list(runner.folder.glob("report*"))
