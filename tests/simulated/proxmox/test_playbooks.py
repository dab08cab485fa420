# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Playbooks and inventories as users run them: ansible-playbook and ansible-inventory in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[3]
PASSWORD = "c4nary-pa55word"

NETWORK = {
    "virtual_switches": [{"name": "sw", "type": "internal"}],
    "virtual_networks": [{"name": "app", "switch": "sw", "vlan": 10}],
}


def run(program, *arguments, folder):
    environment = {
        **os.environ,
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections"),
        "ANSIBLE_HOME": str(folder / "home"),
        "ANSIBLE_LOCAL_TEMP": str(folder / "tmp"),
    }
    return subprocess.run(
        [str(Path(sys.executable).with_name(program)), *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def write(path, data):
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return path


def variables(node):
    return {
        "bareforge_platform": "proxmox",
        "bareforge_host": "127.0.0.1",
        "bareforge_port": node.peer.port,
        "bareforge_password": PASSWORD,
        "bareforge_ca_file": node.settings["ca_file"],
    }


def test_a_playbook_logs_in_once(node, tmp_path):
    node.peer.password = PASSWORD
    inventory = write(tmp_path / "hosts.yml", {"all": {"hosts": {"pve01": variables(node)}}})
    tasks = [
        {"name": "Networks", "bareforge.hypervisor.host": {"document": NETWORK}},
        {"name": "Again", "bareforge.hypervisor.host": {"document": NETWORK}, "register": "again"},
        {"name": "It is so", "ansible.builtin.assert": {"that": ["again is not changed"]}},
        {"name": "VM", "bareforge.hypervisor.vm": {"name": "web", "memory": {"size": 64}, "power": "stopped"}},
        {"name": "Facts", "bareforge.hypervisor.host_info": {"kinds": ["vm"]}, "register": "told"},
        {"name": "Told", "ansible.builtin.assert": {"that": ["told.document.vms[0].name == 'web'"]}},
    ]
    play = write(tmp_path / "play.yml", [{"hosts": "all", "gather_facts": False, "tasks": tasks}])
    done = run("ansible-playbook", "-i", inventory, "-vvv", play, folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len([path for _method, path, _body in node.peer.sent("POST") if path == "/access/ticket"]) == 1
    assert PASSWORD not in done.stdout + done.stderr
    # The login goes with the run, and so does everything else that was kept of it.
    assert list((tmp_path / "tmp").rglob("bareforge-*")) == []
    assert node.vm("web").config["memory"] in (64, "64")


def test_a_playbook_that_cannot_log_in_says_so_in_one_sentence(node, tmp_path):
    inventory = write(tmp_path / "hosts.yml", {"all": {"hosts": {"pve01": variables(node)}}})
    play = write(
        tmp_path / "play.yml",
        [{"hosts": "all", "gather_facts": False, "tasks": [{"bareforge.hypervisor.host_info": None}]}],
    )
    done = run("ansible-playbook", "-i", inventory, play, folder=tmp_path)
    assert "pve01: POST /access/ticket: the host refuses root@pam (authentication failure)" in done.stdout + done.stderr
    assert PASSWORD not in done.stdout + done.stderr and "Traceback" not in done.stdout + done.stderr


def test_an_inventory(node, tmp_path):
    node.apply({"vms": [{"name": "web", "memory": {"size": 64}, "tags": ["blue"]}]})
    settings = {name: node.settings[name] for name in ("host", "port", "user", "password", "ca_file")}
    config = write(
        tmp_path / "pve.bareforge.yml",
        {
            "plugin": "bareforge.hypervisor.inventory",
            "hosts": [{"name": "pve01", "platform": "proxmox", "settings": settings}],
            "group_by": ["platform", "tag"],
        },
    )
    done = run("ansible-inventory", "-i", config, "--list", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    listed = json.loads(done.stdout)
    assert listed["tag_blue"]["hosts"] == ["web"] and listed["proxmox_vms"]["hosts"] == ["web"]
    assert node.settings["password"] not in done.stdout + done.stderr
