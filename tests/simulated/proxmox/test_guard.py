# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The guard over a node's management path. Its API is the simulator's; what runs on the node is run here, in a folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.boundary import guarding
from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import (
    AuthenticateError,
    ConnectError,
    GuardError,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm import guard as kvm_guard
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm import systemd
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.guard import Part
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.proxmox import node_guard

from .test_playbooks import PASSWORD, ROOT, run, variables, write

MOVED = {"virtual_switches": [{"name": "vmbr0", "uplinks": ["eno2"]}]}
INTERFACES = (
    b"auto lo\niface lo inet loopback\n\n# \xc3\xa4 comment\niface vmbr0 inet static\n\taddress 192.0.2.11/24\n"
)


class OnNode:
    """What a request to the node meets: a folder that plays its disk.

    requests: what was asked. fault: what the connection ends with instead.
    """

    def __init__(self, root):
        self.root = root
        self.requests = []
        self.fault = None
        self.programs = []
        self.interfaces = root / "interfaces"
        self.interfaces.write_bytes(INTERFACES)

    def ask(self, request):
        if self.fault is not None:
            raise self.fault
        self.requests.append(dict(request))
        # As it would travel.
        return json.loads(json.dumps(guarding.answer(json.loads(json.dumps(request)))))

    @property
    def guards(self):
        folder = self.root / "guard"
        return sorted(folder.iterdir()) if folder.exists() else []

    def fire(self):
        """Do what the timer does."""
        script = self.guards[0] / "undo.py"
        return subprocess.run([sys.executable, "-I", str(script)], cwd="/", check=False, env={}).returncode


@pytest.fixture
def on_node(tmp_path, monkeypatch):
    made = OnNode(tmp_path)

    def run_command(argv, timeout=60):
        made.programs.append(list(argv))
        return ""

    parts = {
        "node network": Part(
            [str(made.interfaces), f"{made.interfaces}.new"], [["/usr/bin/touch", str(tmp_path / "reloaded")]]
        ),
        "node firewall": Part([str(tmp_path / "*.fw")], []),
    }
    monkeypatch.setattr(kvm_guard, "GUARD_FOLDER", str(tmp_path / "guard"))
    monkeypatch.setattr(systemd, "UNIT_FOLDER", str(tmp_path / "units"))
    monkeypatch.setattr(systemd, "run_command", run_command)
    monkeypatch.setattr(node_guard, "PARTS", parts)
    monkeypatch.setattr(node_guard, "NEEDED", (sys.executable,))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "pve1.example.org", "6", "1", "x86_64")))
    return made


def guarded(node, on_node, document=MOVED, **guard):
    """Apply a document under the guard, as far as the task comes before it is confirmed."""
    node.ask_host = on_node.ask
    return node.apply(document, guard={"enabled": True, "timeout": 90, **guard})


def the_guard(node, on_node):
    node.ask_host = on_node.ask
    return node.platform().guard()


def test_a_change_that_is_confirmed_stays(node, on_node):
    done = guarded(node, on_node)
    assert done["guard"]["guarded"] == ["virtual_switch['vmbr0']"] and done["guard"]["timeout"] == 90
    assert on_node.requests == [{"step": "arm", "node": "pve1", "parts": ["node network"], "timeout": 90}]
    timers = [argv for argv in on_node.programs if argv[0] == "systemd-run"]
    assert len(timers) == 1 and "--on-active=90s" in timers[0]
    assert node.peer.interfaces["vmbr0"]["bridge_ports"] == "eno2"
    before = node.peer.sent("GET")
    the_guard(node, on_node).confirm(done["guard"]["token"])
    # The API was reached over a new connection first, since that is what is confirmed.
    assert [path for _method, path, _body in node.peer.sent("GET")[len(before) :]] == ["/version"]
    on_node.interfaces.write_bytes(b"changed\n")
    assert not (on_node.guards[0] / "undo.py").exists()
    the_guard(node, on_node).confirm(done["guard"]["token"])
    assert on_node.interfaces.read_bytes() == b"changed\n"


def test_a_change_that_nobody_confirms_is_undone_byte_by_byte(node, on_node):
    done = guarded(node, on_node)
    on_node.interfaces.write_bytes(b"auto vmbr0\n")
    staged = on_node.root / "interfaces.new"
    staged.write_bytes(b"half of it\n")
    mode = on_node.interfaces.stat().st_mode
    assert on_node.fire() == 0
    assert on_node.interfaces.read_bytes() == INTERFACES and on_node.interfaces.stat().st_mode == mode
    assert not staged.exists() and (on_node.root / "reloaded").exists()
    with pytest.raises(GuardError, match="the changes were undone at"):
        the_guard(node, on_node).confirm(done["guard"]["token"])


def test_nothing_is_changed_where_the_node_cannot_be_reached(node, on_node):
    before = len(node.peer.sent("POST", "PUT", "DELETE"))
    for fault in (
        ConnectError("the host cannot be reached: no route"),
        AuthenticateError("the host refuses the login"),
    ):
        on_node.fault = fault
        with pytest.raises(GuardError, match="a guard needs Ansible's connection to node pve1, and the host") as caught:
            guarded(node, on_node)
        for name in ("ansible_host", "ansible_user", "ansible_ssh_private_key_file", "guard: {enabled: false}"):
            assert name in str(caught.value.hint)
    assert node.written(before) == []


def test_nothing_is_changed_where_the_connection_leads_elsewhere(node, on_node, monkeypatch):
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "controller", "6", "1", "x86_64")))
    with pytest.raises(GuardError, match="and it leads to host 'controller'"):
        guarded(node, on_node)
    assert on_node.guards == [] and node.peer.interfaces["vmbr0"]["bridge_ports"] == "eno1"


def test_nothing_is_changed_where_the_node_cannot_have_one(node, on_node, monkeypatch):
    monkeypatch.setattr(node_guard, "NEEDED", ("/usr/sbin/nothing-like-it",))
    with pytest.raises(GuardError, match="a guard needs /usr/sbin/nothing-like-it on node pve1"):
        guarded(node, on_node)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(GuardError, match="and a guard needs root on the node"):
        guarded(node, on_node)
    assert on_node.guards == [] and node.peer.interfaces["vmbr0"]["bridge_ports"] == "eno1"


def test_a_change_that_fails_is_undone_at_once(node, on_node):
    node.peer.reload_error = "ifreload: no such device"

    def ask(request):
        if request["step"] == "undo":
            on_node.interfaces.write_bytes(b"what the failed reload has left\n")
        return OnNode.ask(on_node, request)

    node.ask_host = ask
    with pytest.raises(Exception, match="no such device") as caught:
        node.apply(MOVED, guard={"enabled": True})
    assert caught.value.details["guard"] == "the changes to the management path were undone"
    assert on_node.interfaces.read_bytes() == INTERFACES


def test_a_way_that_refuses_us_is_asked_for_again(node, on_node):
    done = guarded(node, on_node)
    guard = the_guard(node, on_node)
    on_node.fault = AuthenticateError("the host refuses the login")
    with pytest.raises(ConnectError, match="refuses the login"):
        guard.confirm(done["guard"]["token"])


def test_an_api_that_answers_with_an_error_is_asked_again(node, on_node):
    done = guarded(node, on_node)
    guard = the_guard(node, on_node)
    node.peer.fail("GET", "/version", 500, "pveproxy starts")
    with pytest.raises(ConnectError, match="pveproxy starts"):
        guard.confirm(done["guard"]["token"])
    assert [request["step"] for request in on_node.requests] == ["arm"]
    node.peer.failures.clear()
    guard.confirm(done["guard"]["token"])


def test_the_firewall_is_a_part_of_its_own(node, on_node):
    (on_node.root / "host.fw").write_bytes(b"[OPTIONS]\n")
    guarded(node, on_node, {"firewall": {"enabled": True, "management_sources": ["192.0.2.0/24"]}})
    assert on_node.requests[0]["parts"] == ["node firewall"]
    (on_node.root / "cluster.fw").write_bytes(b"made by the change\n")
    (on_node.root / "host.fw").write_bytes(b"[OPTIONS]\nenable: 1\n")
    assert on_node.fire() == 0
    assert (on_node.root / "host.fw").read_bytes() == b"[OPTIONS]\n" and not (on_node.root / "cluster.fw").exists()


def test_a_second_guard_waits_for_nobody_and_takes_back_nothing(node, on_node):
    first = guarded(node, on_node)
    the_guard(node, on_node).confirm(first["guard"]["token"])
    second = guarded(node, on_node, {"virtual_switches": [{"name": "vmbr0", "uplinks": ["eno1"]}]})
    assert second["guard"]["token"] != first["guard"]["token"]


def test_a_playbook_without_ansibles_connection_is_refused_before_the_first_change(node, tmp_path):
    node.peer.password = PASSWORD
    hosts = {"pve01": {**variables(node), "ansible_connection": "local"}}
    inventory = write(tmp_path / "hosts.yml", {"all": {"hosts": hosts}})
    tasks = [{"bareforge.hypervisor.host": {"document": MOVED}}]
    play = write(tmp_path / "play.yml", [{"hosts": "all", "gather_facts": False, "tasks": tasks}])
    done = run("ansible-playbook", "-i", inventory, play, folder=tmp_path)
    words = " ".join((done.stdout + done.stderr).split())
    assert "a guard needs Ansible's connection to node pve1, and ansible_connection is local" in words
    assert "ansible_ssh_private_key_file" in words and node.peer.interfaces["vmbr0"]["bridge_ports"] == "eno1"


@pytest.mark.skipif(
    os.geteuid() != 0 or not os.path.exists("/usr/sbin/ifreload"),
    reason="needs root and the package ifupdown2, which takes the place of the machine's ifupdown",
)
def test_with_the_real_ifupdown2_in_a_network_namespace(tmp_path):
    trial = str(Path(__file__).with_name("ifupdown2_trial.py"))
    done = subprocess.run(
        ["unshare", "--net", "--mount", sys.executable, trial, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "collections")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["before"]["addresses"]["vmbr0"] == ["192.0.2.11/24"] and found["before"]["gateway"] == ["192.0.2.1"]
    assert (
        found["between"]["addresses"]["vmbr0"] == ["198.51.100.9/24"] and found["between"]["ports"]["eno2"] == "vmbr0"
    )
    assert (found["status"], found["identical"], found["staged"]) == (0, True, False), found["said"]
    assert found["after"] == found["before"]


TIMEOUT = 15

FAKE_TIMER = """\
#!/bin/sh
# Plays systemd-run: does by itself what the timer was to do, when its time has come.
echo "$@" >> "{root}/timers"
for word; do case "$word" in --on-active=*) after="${{word#--on-active=}}";; esac; done
while [ "$1" != -- ]; do shift; done; shift
( sleep "${{after%s}}"; exec "$@" ) > "{root}/undo.log" 2>&1 < /dev/null &
"""


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A folder that plays the node's disk for commands that arrive over Ansible's connection."""
    root = tmp_path / "node"
    for name in ("sbin", "etc/network", "upper", "work", "var"):
        (root / name).mkdir(parents=True)
    scripts = {
        "systemd-run": FAKE_TIMER.format(root=root),
        "systemctl": "#!/bin/sh\n",
        "sbin/ifreload": f'#!/bin/sh\necho "$@" >> "{root}/reloads"\n',
    }
    for name, text in scripts.items():
        (root / name).write_text(text, encoding="ascii")
        (root / name).chmod(0o755)
    (root / "etc/network/interfaces").write_bytes(INTERFACES)
    monkeypatch.setenv("NODE", str(root))
    monkeypatch.setenv("ANSIBLE_CONNECTION_PLUGINS", str(Path(__file__).with_name("connection_plugins")))
    return root


@pytest.mark.skipif(os.geteuid() != 0, reason="namespaces of mounts and names are root's")
class TestByPlaybook:
    def play(self, node, tmp_path, timeout):
        node.peer.password = PASSWORD
        hosts = {"pve01": {**variables(node), "ansible_connection": "node_on_this_machine"}}
        inventory = write(tmp_path / "hosts.yml", {"all": {"hosts": hosts}})
        tasks = [
            {"bareforge.hypervisor.host": {"document": MOVED, "guard": {"timeout": timeout}}, "register": "done"},
            {"ansible.builtin.assert": {"that": ["done.guard.confirmed", "done.guard.guarded | length == 1"]}},
        ]
        play = write(tmp_path / "play.yml", [{"hosts": "all", "gather_facts": False, "tasks": tasks}])
        return run("ansible-playbook", "-i", inventory, play, folder=tmp_path)

    def test_a_change_is_confirmed(self, node, machine, tmp_path):
        done = self.play(node, tmp_path, 300)
        assert done.returncode == 0, done.stdout + done.stderr
        assert node.peer.interfaces["vmbr0"]["bridge_ports"] == "eno2"
        assert "--on-active=300s" in (machine / "timers").read_text(encoding="utf-8")
        guards = list((machine / "var/bareforge/guard").iterdir())
        assert [sorted(path.name for path in guard.iterdir()) for guard in guards] == [["confirmed"]]

    def test_a_change_that_cuts_off_the_api_is_undone_by_the_node(self, node, machine, tmp_path):
        # What PVE would write after the guard is armed.
        timer = machine / "systemd-run"
        text = timer.read_text(encoding="ascii")
        timer.write_text(
            text.replace("( sleep", "( sleep 1; echo wrong > /etc/network/interfaces; sleep"), encoding="ascii"
        )
        node.peer.fail("GET", "/version", 500, "cut off", times=None)
        done = self.play(node, tmp_path, TIMEOUT)
        words = " ".join((done.stdout + done.stderr).split())
        assert done.returncode != 0 and "virtual_switch['vmbr0']" in words and "the host undid the change" in words, (
            words
        )
        assert (machine / "upper/network/interfaces").read_bytes() == INTERFACES
        assert (machine / "reloads").read_text(encoding="ascii") == "-a\n"
