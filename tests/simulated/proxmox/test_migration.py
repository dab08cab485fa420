# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""VMs that move between the nodes of a cluster, by playbooks. What fakepve leaves out of this is our own reading of PVE."""

from __future__ import annotations

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import ApplyError, ReadError, ValidateError
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.proxmox.migration import ProxmoxMigration

from .test_playbooks import PASSWORD, run, variables, write

shows = pytest.mark.capability
DOCUMENT = {
    "virtual_switches": [{"name": "sw", "type": "internal"}],
    "virtual_networks": [{"name": "app", "switch": "sw", "vlan": 10}],
    "templates": [
        {
            "name": "debian",
            "source": {"url": "https://example.org/d.qcow2"},
            "checksum": f"sha256:{'0' * 64}",
            "pool": "local-lvm",
        }
    ],
}


def vm(name, **fields):
    disks = {} if "template" in fields else {"disks": [{"name": "root", "size": 64}]}
    nics = [{"name": "e0", "network": "app"}]
    return {"name": name, "memory": {"size": 64}, "nics": nics, "power": "stopped", **disks, **fields}


class Two:
    """Two nodes of one cluster, each with an address of its own."""

    def __init__(self, node):
        self.node = node
        self.port = node.serving.add_node("pve2")

    def movers(self):
        """Return the interfaces of both."""
        here, there = self.node.platform(), self.node.platform(port=self.port)
        return tuple(
            next(item for item in platform.interfaces if isinstance(item, ProxmoxMigration))
            for platform in (here, there)
        )

    def move(self, name, check=False, **limits):
        """Move a VM as the action does."""
        first, second = self.movers()
        first.check_destination(second)
        return first.migrate(name, second, limits, check, None)

    def refused(self, name, **limits):
        """Return what a move is refused for, before anything was changed."""
        before = len(self.node.peer.sent("POST", "PUT", "DELETE"))
        with pytest.raises(ValidateError) as caught:
            self.move(name, **limits)
        assert self.node.written(before) == []
        return {problem.path: problem.message for problem in caught.value.problems}


@pytest.fixture
def two(node):
    """The nodes, with a network and a template on the first."""
    node.apply(DOCUMENT)
    return Two(node)


@shows("proxmox", "vm_migrate", "vm_migrate.live", "vm_migrate.offline", ran_against="our simulator")
def test_a_playbook_moves_vms_that_run_and_that_are_off(two, tmp_path):
    node = two.node
    node.apply({"vms": [vm("web", power="running"), vm("off")]})
    node.peer.password = PASSWORD
    hosts = {"pve01": variables(node), "pve02": {**variables(node), "bareforge_port": two.port}}
    inventory = write(tmp_path / "hosts.yml", {"all": {"hosts": hosts}})
    move = {"name": "{{ item }}", "destination": "pve02"}
    shown = [
        "moved is changed",
        "again is not changed",
        "web.changes == [{'kind': 'vm', 'key': 'web', 'action': 'migrate', 'fields': ['host']}]",
        "web.before.host == 'pve01' and web.after.host == 'pve02'",
        "web.after.vms[0].nics[0].network == 'app'",
        "web.migration.live and web.migration.downtime == 37",
        "not off.migration.live",
    ]
    tasks = [
        {
            "name": "Plan",
            "bareforge.hypervisor.vm_migrate": {"name": "web", "destination": "pve02"},
            "check_mode": True,
        },
        {"name": "Move", "bareforge.hypervisor.vm_migrate": move, "loop": ["web", "off"], "register": "moved"},
        {"name": "Again", "bareforge.hypervisor.vm_migrate": move, "loop": ["web", "off"], "register": "again"},
        {
            "name": "So it went",
            "ansible.builtin.assert": {"that": shown},
            "vars": {"web": "{{ moved.results[0] }}", "off": "{{ moved.results[1] }}"},
        },
    ]
    play = write(tmp_path / "play.yml", [{"hosts": "pve01", "gather_facts": False, "tasks": tasks}])
    done = run("ansible-playbook", "-i", inventory, play, folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert PASSWORD not in done.stdout + done.stderr
    assert (node.vm("web").node, node.vm("web").status) == ("pve2", "running")
    assert (node.vm("off").node, node.vm("off").status) == ("pve2", "stopped")
    tasks = [{"bareforge.hypervisor.vm_migrate": {"name": "web", "destination": "pve01"}}]
    back = write(tmp_path / "back.yml", [{"hosts": "pve02", "gather_facts": False, "tasks": tasks}])
    done = run("ansible-playbook", "-i", inventory, back, folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert node.vm("web").node == "pve1"


def test_a_playbook_says_who_cannot_be_moved(two, tmp_path):
    two.node.peer.password = PASSWORD
    hosts = {"pve01": variables(two.node), "pve02": {**variables(two.node), "bareforge_port": two.port}}
    inventory = write(tmp_path / "hosts.yml", {"all": {"hosts": hosts}})
    tasks = [{"bareforge.hypervisor.vm_migrate": {"name": "never", "destination": "pve02"}}]
    play = write(tmp_path / "play.yml", [{"hosts": "pve01", "gather_facts": False, "tasks": tasks}])
    done = run("ansible-playbook", "-i", inventory, play, folder=tmp_path)
    assert "pve01: name: there is no VM 'never', neither on 'pve01' nor on 'pve02'" in done.stdout + done.stderr
    tasks = [{"bareforge.hypervisor.vm_migrate": {"name": "never", "destination": "pve02", "address": "192.0.2.1"}}]
    play = write(tmp_path / "play.yml", [{"hosts": "pve01", "gather_facts": False, "tasks": tasks}])
    done = run("ansible-playbook", "-i", inventory, play, folder=tmp_path)
    assert "address: goes with platforms whose hosts talk through SSH, not with proxmox" in done.stdout + done.stderr


def test_check_mode_moves_nothing_and_sees_what_speaks_against_it(two):
    two.node.apply({"vms": [vm("web", power="running")]})
    assert two.move("web", check=True) == {} and two.node.vm("web").node == "pve1"
    assert "max_downtime" in two.refused("web", max_downtime=100, check=True)


def test_limits(two):
    two.node.apply({"vms": [vm("web", power="running")]})
    two.move("web", bandwidth=100)
    sent = [body for _method, path, body in two.node.peer.sent("POST") if path.endswith("/migrate")]
    assert b"bwlimit=102400" in sent[0] and b"with-local-disks=1" in sent[0] and b"online=1" in sent[0]
    two.node.apply({"vms": [vm("other", power="running")]})
    assert set(two.refused("other", max_downtime=100, auto_converge=False)) == {"max_downtime", "auto_converge"}


def test_one_that_takes_too_long_is_given_up(two):
    two.node.apply({"vms": [vm("web", power="running")]})
    two.node.peer.time_scale = 1.0
    two.node.peer.migration_secs = 30.0
    with pytest.raises(ApplyError, match="given up, as it was not there in time; the VM is where it was"):
        two.move("web", timeout=1)
    assert (two.node.vm("web").node, two.node.vm("web").lock) == ("pve1", None)


def test_linked_clones(two):
    two.node.apply({"vms": [vm("web", template="debian", clone="linked", power="running")]})
    assert "must be true" in two.refused("web")["full_copy"]
    two.move("web", full_copy=True)
    assert two.movers()[1].described("web")["clone"] == "full"
    two.node.apply({"vms": [vm("off", template="debian", clone="linked")]})
    config = two.node.vm("off").config
    config["virtio0"] = config["virtio0"].replace("local-lvm:", "local-lvm:base-100-disk-0/", 1)
    assert "move only while it runs" in two.refused("off", full_copy=True)["vm['off']"]


def test_what_speaks_against_it(two):
    node = two.node
    node.apply({"vms": [vm("web")]})
    config = node.vm("web").config
    config["net0"] = config["net0"].replace("bridge=sw", "bridge=nowhere")
    assert two.refused("web")["vm['web']"] == "has NIC 'e0' on switch 'nowhere', which node pve2 lacks"
    config["net0"] = config["net0"].replace("bridge=nowhere", "bridge=sw")
    # A bridge of that name without the network on it.
    node.peer.elsewhere["pve2"] = {"sw": {"type": "bridge", "method": "manual", "method6": "manual"}}
    assert two.refused("web")["vm['web']"] == "has NIC 'e0' in network 'app', which node pve2 lacks"
    node.peer.elsewhere.clear()
    node.peer.store_file("local", "tools.iso", 1024)
    node.apply(
        {"vms": [{"name": "web", "cdrom": "local:iso/tools.iso"}], "snapshots": [{"vm": "web", "name": "fresh"}]}
    )
    node.peer.storages["local-lvm"]["nodes"] = "pve1"
    node.vm("web").config["hostpci0"] = "0000:01:00.0"
    with pytest.raises(ValidateError) as caught:
        two.move("web")
    text = " ".join(problem.message for problem in caught.value.problems)
    assert "has the medium 'local:iso/tools.iso' in its drive" in text
    assert "has snapshots, which cannot move with disks of this node: fresh" in text
    assert "cannot be on node pve2: it lacks the storages local-lvm" in text
    assert "has what is of this node only: hostpci0" in text


class TestDestinations:
    def test_another_cluster(self, two):
        first, second = two.movers()
        name, nodes = second.membership()
        second.membership = lambda: ("elsewhere", nodes)
        with pytest.raises(ValidateError, match="is in cluster elsewhere, and node pve1 in cluster"):
            first.check_destination(second)
        second.membership = lambda: (name, {**nodes, "pve2": ("192.0.2.99", True)})
        with pytest.raises(ValidateError, match="allowed is a node of the same cluster"):
            first.check_destination(second)

    def test_no_cluster(self, two):
        first, second = two.movers()
        two.node.peer.in_cluster = False
        with pytest.raises(ValidateError, match="node pve2 is in no cluster, and node pve1 in no cluster"):
            first.check_destination(second)

    def test_the_same_node(self, two):
        first, _second = two.movers()
        other, _ = two.movers()
        with pytest.raises(ValidateError, match="is node pve1, which the VM is on"):
            first.check_destination(other)

    def test_a_node_that_is_not_online(self, two):
        first, second = two.movers()
        assert second.platform.session.node == "pve2"
        two.node.peer.set_node_offline("pve2")
        with pytest.raises((ValidateError, ReadError), match=r"node pve2 is not online|No route to host"):
            first.check_destination(second)


def test_a_task_that_fails_leaves_the_vm(two):
    two.node.apply({"vms": [vm("web")]})
    two.node.peer.fail("POST", "/nodes/{node}/qemu/{vmid}/migrate", 500, "migration problems")
    with pytest.raises(ApplyError, match="migration problems"):
        two.move("web")
    assert two.node.vm("web").node == "pve1"


def test_what_a_killed_run_has_moved_is_there_already(two, monkeypatch):
    two.node.apply({"vms": [vm("web")]})
    monkeypatch.setattr(ProxmoxMigration, "_wait", lambda *_arguments: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        two.move("web")
    first, second = two.movers()
    assert first.described("web") is None and second.described("web")["name"] == "web"
