# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Restores from archives of vzdump. fakepve has none: what they hold and what becomes of a VM is our own reading of PVE."""

from __future__ import annotations

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.boundary.definitions import MODULES
from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import ApplyError, ValidateError
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.proxmox.restore import parse_configuration

NIC = {"name": "e0", "network": "app", "addresses": ["192.0.2.10/24"], "dns_servers": ["192.0.2.53"]}
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
    "vms": [
        {
            "name": "web",
            "template": "debian",
            "clone": "linked",
            "memory": {"size": 256},
            "power": "running",
            "autostart": True,
            "description": "100 % ours: ünïcode\nand lines",
            "nics": [NIC],
            "disks": [{"name": "root"}, {"name": "data", "size": 512}],
        }
    ],
}


@pytest.fixture
def backed(node):
    """The node with a VM that runs, and a backup of it."""
    node.apply(DOCUMENT)
    node.apply({"backups": [{"vm": "web", "name": "sunday", "target": "local"}]})
    return node


def restore(node, check=False, **arguments):
    """Do what a task of vm_restore does."""
    definition = MODULES["vm_restore"]
    call = definition.parse({"platform": "proxmox", "vm": "web", "name": "sunday", "shutdown_timeout": 0, **arguments})
    platform = node.platform()
    try:
        return definition.perform(platform, call, check)
    finally:
        platform.close()


def refused(node, **arguments):
    """Return what a restore is refused for; nothing may have been sent by then that changes anything."""
    before = len(node.peer.sent("POST", "PUT", "DELETE"))
    with pytest.raises(ValidateError) as caught:
        restore(node, **arguments)
    assert node.written(before) == []
    return {problem.path: problem.message for problem in caught.value.problems}


def test_as_another_vm(backed):
    first = dict(backed.vm("web").config)
    planned = restore(backed, check=True, new_name="web-sunday")
    assert [machine.name for machine in backed.peer.vms if "sunday" in machine.name] == []
    done = restore(backed, new_name="web-sunday")
    assert (
        done["changes"] == planned["changes"] == [{"kind": "vm", "key": "web-sunday", "action": "create", "fields": []}]
    )
    machine = backed.vm("web-sunday")
    assert machine.status == "stopped" and machine.vmid != backed.vm("web").vmid and backed.vm("web").config == first
    # What the guest was given is still in use by the first VM.
    assert machine.config["ipconfig0"] == "ip=dhcp" and "onboot" not in machine.config
    assert machine.config["net0"].partition(",")[0] != first["net0"].partition(",")[0]
    assert machine.config["virtio0"].split(",")[0] != first["virtio0"].split(",")[0]
    shown = done["after"]["vms"][0]
    assert shown["description"] == "100 % ours: ünïcode\nand lines" and shown["clone"] == "full"
    # Only where disks lie is the host's to choose.
    for key in ("nics", "memory", "cpu", "power", "autostart", "description", "guest", "clone", "disks"):
        assert planned["planned"]["vms"][0].get(key) == shown.get(key), key
    assert restore(backed, new_name="web-sunday")["changed"] is False
    assert restore(backed, check=True, new_name="web-sunday")["changed"] is False


def test_in_place(backed):
    backed.apply({"vms": [{"name": "web", "memory": {"size": 512}, "description": "Broken"}]}, allow_restart=True)
    vmid = backed.vm("web").vmid
    assert "allowed with allow_restart: true" in refused(backed)["backup['web/sunday']"]
    planned = restore(backed, check=True, allow_restart=True)
    done = restore(backed, allow_restart=True)
    assert done["changes"] == planned["changes"] == [{"kind": "vm", "key": "web", "action": "restore", "fields": []}]
    machine = backed.vm("web")
    assert machine.vmid == vmid and machine.status == "running" and int(machine.config["memory"]) == 256
    shown = done["after"]["vms"][0]
    assert shown["description"].startswith("100 %") and shown["nics"][0]["addresses"] == ["192.0.2.10/24"]
    assert planned["planned"]["vms"] == done["after"]["vms"]
    # A disk of before the restore that is in no archive is set aside, not lost, and the template can go now.
    assert shown["clone"] == "full"
    assert restore(backed, allow_restart=True, power="stopped")["changed"] is True
    assert backed.vm("web").status == "stopped"


def test_a_vm_that_is_gone_is_made_anew_under_its_id(backed):
    vmid = backed.vm("web").vmid
    backed.apply({"vms": [{"name": "web", "state": "absent"}]})
    done = restore(backed, power="running", target="local")
    assert done["changes"][0]["action"] == "create"
    assert backed.vm("web").vmid == vmid and backed.vm("web").status == "running"
    assert done["after"]["vms"][0]["nics"][0]["addresses"] == ["192.0.2.10/24"]


def test_its_id_that_somebody_else_has_now_is_left_alone(backed):
    vmid = backed.vm("web").vmid
    backed.apply({"vms": [{"name": "web", "state": "absent"}]})
    backed.peer.add_vm(vmid, "other", config={"memory": 64})
    restore(backed)
    assert backed.vm("other").vmid == vmid and backed.vm("web").vmid != vmid


def test_what_speaks_against_it(backed):
    assert "there are: 'sunday'" in refused(backed, name="monday")["name"]
    assert "there are: local" in refused(backed, target="nowhere")["target"]
    assert "is taken: there is a VM" in refused(backed, new_name="web")["new_name"]
    assert "no name that Proxmox VE gives" in refused(backed, new_name="a_b")["new_name"]
    backed.apply({"snapshots": [{"vm": "web", "name": "fresh"}]})
    assert (
        "has snapshots, which go with its disks: fresh" in refused(backed, allow_restart=True)["backup['web/sunday']"]
    )
    backed.vm("web").config["protection"] = 1
    with pytest.raises(ValidateError, match="is protected"):
        restore(backed, allow_restart=True)


def test_where_a_switch_or_a_storage_is_missing(backed):
    del backed.peer.interfaces["sw"]
    backed.peer.storages["local-lvm"]["content"] = "rootdir"
    with pytest.raises(ValidateError) as caught:
        restore(backed, new_name="other")
    messages = [problem.message for problem in caught.value.problems]
    assert "disk 'root' lay in 'local-lvm', which takes no disks on this node" in messages
    assert "NIC 'e0' needs the switch 'sw', which is not there" in messages


def test_a_killed_run_is_finished_by_the_next(backed, monkeypatch):
    platform = backed.platform()
    put = platform.session.ask

    class Killed(BaseException):
        pass

    def ask(method, path, params):
        if method == "PUT":
            raise Killed
        return put(method, path, params)

    monkeypatch.setattr(platform.session, "ask", ask)
    definition = MODULES["vm_restore"]
    call = definition.parse({"platform": "proxmox", "vm": "web", "name": "sunday", "new_name": "copy"})
    with pytest.raises(Killed):
        definition.perform(platform, call)
    platform.close()
    assert [machine.name for machine in backed.peer.vms if machine.name.startswith("bareforge-unfinished-")]
    restore(backed, new_name="copy")
    assert sorted(machine.name for machine in backed.peer.vms) == ["copy", "debian", "web"]


def test_a_restore_that_fails_says_so_and_leaves_the_vm(backed):
    backed.peer.fail("POST", "/nodes/{node}/qemu", 500, "unable to restore VM: no space left")
    with pytest.raises(ApplyError, match="no space left"):
        restore(backed, allow_restart=True)
    assert backed.vm("web").config["net0"] and backed.vm("web").lock is None


def test_configurations_as_they_are_written():
    text = "#first%3A 100%25\n#\n#last\n#qmdump#map:virtio0:drive-virtio0:local::\nmemory: 512\nnet0: virtio=BC:24:11:00:00:01\n\n[old]\nmemory: 1\n"
    assert parse_configuration(text) == {
        "description": "first: 100%\n\nlast\n",
        "memory": "512",
        "net0": "virtio=BC:24:11:00:00:01",
    }


@pytest.mark.parametrize("arguments", [{"new_name": "copy", "power": "running"}, {"allow_restart": True}])
def test_one_that_was_killed_before_the_start_is_started_by_the_next_run(backed, monkeypatch, arguments):
    platform = backed.platform()
    ask = platform.session.ask

    class Killed(BaseException):
        pass

    def ask_or_die(method, path, params):
        if path[-1] == "start":
            raise Killed
        return ask(method, path, params)

    monkeypatch.setattr(platform.session, "ask", ask_or_die)
    definition = MODULES["vm_restore"]
    call = definition.parse({"platform": "proxmox", "vm": "web", "name": "sunday", "shutdown_timeout": 0, **arguments})
    with pytest.raises(Killed):
        definition.perform(platform, call)
    name = arguments.get("new_name", "web")
    assert backed.vm(name).status == "stopped"
    backed.apply({"resource_pools": [{"name": "team"}]})
    assert backed.vm(name).status == "running" and "tags" not in backed.vm(name).config
