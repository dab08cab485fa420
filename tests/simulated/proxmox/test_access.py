# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Users, roles, permissions, the node's own settings and backups. fakepve keeps no state for these: it is our reading of PVE's."""

from __future__ import annotations

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import ApplyError

shows = pytest.mark.capability


@shows("proxmox", "user", "user.realm", "user.groups", "user.expires", ran_against="our simulator")
def test_users(node):
    anna = {
        "name": "anna",
        "full_name": "Anna von Beispiel",
        "password": "secret word",
        "groups": ["ops"],
        "expires": "2030-01-31",
    }
    done = node.settle({"users": [anna, {"name": "ben", "realm": "pam", "enabled": False}]})
    assert "secret word" not in str(done)
    account = node.peer.accounts["anna@pve"]
    assert (account["firstname"], account["lastname"], account["groups"]) == ("Anna", "von Beispiel", ["ops"])
    assert account["expire"] == 1896048000 and node.peer.users["anna@pve"] == "secret word"
    assert node.peer.accounts["ben@pam"]["enable"] == 0
    node.settle(
        {"users": [{"name": "anna", "full_name": "", "expires": "", "groups": []}, {"name": "ben", "enabled": True}]}
    )
    assert node.peer.accounts["anna@pve"] == {"enable": 1, "expire": 0, "groups": []}
    node.settle({"users": [{"name": "ben", "state": "absent"}]})
    assert "ben@pam" not in node.peer.accounts


def test_users_that_cannot_be(node):
    node.apply({"users": [{"name": "anna"}]})
    problems = node.problems(
        {
            "users": [
                {"name": "a b"},
                {"name": "ldap", "realm": "pam", "password": "secret word"},
                {"name": "short", "password": "secret"},
                {"name": "hash", "password_hash": "$6$saltsalt$hashhashhash"},
                {"name": "anna", "realm": "pam"},
                {"name": "root", "state": "absent"},
            ]
        }
    )
    assert set(problems) == {
        "user['a b'].name",
        "user['ldap'].password",
        "user['short'].password",
        "user['hash'].password_hash",
        "user['anna'].realm",
        "user['root']",
    }


def test_root_is_not_pruned(node):
    done = node.apply({"users": []}, exact=["user"])
    assert done["changes"] == [] and "the node is managed by it" in done["warnings"][0]


@shows("proxmox", "role", "permission", ran_against="our simulator")
def test_roles_and_permissions(node):
    node.settle(
        {
            "users": [{"name": "anna"}, {"name": "ben"}],
            "roles": [{"name": "starter", "privileges": ["VM.Audit", "VM.PowerMgmt"]}],
            "permissions": [
                {"principal": "anna", "path": "/vms", "role": "starter"},
                {"principal": "ben", "path": "/", "role": "viewer", "propagate": False},
                {"principal": "ops", "principal_type": "group", "path": "/storage/local", "role": "admin"},
            ],
        }
    )
    assert node.peer.roles["starter"] == {"VM.Audit", "VM.PowerMgmt"}
    assert node.peer.access_list == {
        ("/vms", "user", "anna@pve", "starter"): 1,
        ("/", "user", "ben@pve", "PVEAuditor"): 0,
        ("/storage/local", "group", "ops", "Administrator"): 1,
    }
    node.settle(
        {
            "roles": [{"name": "starter", "privileges": ["VM.Audit"]}],
            "permissions": [
                {"principal": "anna", "path": "/vms", "role": "operator"},
                {"principal": "ben", "path": "/", "state": "absent"},
            ],
        }
    )
    assert node.peer.roles["starter"] == {"VM.Audit"}
    assert ("/vms", "user", "anna@pve", "PVEVMUser") in node.peer.access_list and len(node.peer.access_list) == 2
    node.settle({"roles": [{"name": "starter", "state": "absent"}]})
    assert node.apply(node.gather("user", "role", "permission"))["changes"] == []


def test_more_roles_than_the_model_says_are_brought_down_to_one(node):
    node.apply({"users": [{"name": "anna"}], "permissions": [{"principal": "anna", "path": "/", "role": "viewer"}]})
    node.peer.access_list["/", "user", "anna@pve", "PVEAdmin"] = 1
    node.settle({"permissions": [{"principal": "anna", "path": "/", "role": "viewer"}]})
    assert list(node.peer.access_list) == [("/", "user", "anna@pve", "PVEAuditor")]


def test_access_that_cannot_be(node):
    node.apply({"users": [{"name": "anna"}]})
    problems = node.problems(
        {
            "roles": [
                {"name": "PVEmine", "privileges": ["VM.Audit"]},
                {"name": "odd", "privileges": ["VM.Fly"], "description": "Odd"},
                {"name": "viewer", "privileges": ["VM.Audit"]},
            ],
            "permissions": [
                {"principal": "anna", "path": "/vm/web", "role": "viewer"},
                {"principal": "nobody", "path": "/", "role": "PVEAuditor"},
                {"principal": "anna", "path": "/vms", "role": "none"},
            ],
        }
    )
    assert set(problems) == {
        "role['PVEmine'].name",
        "role['odd'].privileges",
        "role['odd'].description",
        "role['viewer'].privileges",
        "permission['anna//vm/web'].path",
        "permission['nobody//'].principal",
        "permission['nobody//'].role",
        "permission['anna//vms'].role",
    }


@shows("proxmox", "system", ran_against="our simulator")
def test_the_nodes_own_settings(node):
    wanted = {"dns_servers": ["192.0.2.53", "2001:db8::53"], "dns_search": ["example.net"], "timezone": "UTC"}
    node.settle({"system": wanted})
    assert node.peer.dns == {"search": "example.net", "dns1": "192.0.2.53", "dns2": "2001:db8::53"}
    assert node.peer.timezone == "UTC"
    problems = node.problems(
        {
            "system": {
                "hostname": "other",
                "domain": "example.org",
                "ntp_servers": ["ntp.example.org"],
                "dns_servers": [f"192.0.2.{number}" for number in range(1, 5)],
            }
        }
    )
    assert set(problems) == {"system.hostname", "system.domain", "system.ntp_servers", "system.dns_servers"}


@shows("proxmox", "backup", "backup.mode.full", ran_against="our simulator")
def test_backups(node):
    node.apply({"vms": [{"name": "web", "memory": {"size": 64}, "power": "stopped"}]})
    name = 'before "it" – größe\\n'
    node.settle(
        {
            "backups": [
                {"vm": "web", "name": name, "target": "local"},
                {"vm": "web", "name": "second", "target": "local"},
            ]
        }
    )
    volumes = [volume for volume in node.peer.storages["local"]["volumes"] if volume.startswith("backup/")]
    assert len(volumes) == 2
    problems = node.problems({"backups": [{"vm": "web", "name": "x", "target": "/srv"}]})
    assert problems["backup['web/x'].target"] == "'/srv' is no storage that takes backups; there are: local"
    # A backup outlives its VM.
    node.apply({"vms": [{"name": "web", "state": "absent"}]})
    assert {item["name"] for item in node.gather("backup")["backups"]} == {name, "second"}
    node.settle({"backups": [{"vm": "web", "name": name, "state": "absent"}]})
    assert {item["name"] for item in node.gather("backup")["backups"]} == {"second"}


def test_a_backup_that_ends_in_job_errors(node):
    node.apply({"vms": [{"name": "web", "memory": {"size": 64}, "power": "stopped"}]})
    node.vm("web").lock = "snapshot"
    with pytest.raises(ApplyError, match=r"create backup\['web/a'\]: the task failed: job errors"):
        node.apply({"backups": [{"vm": "web", "name": "a", "target": "local"}]})
    assert node.gather("backup")["backups"] == []
