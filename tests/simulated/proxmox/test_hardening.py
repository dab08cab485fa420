# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Audits. The firewall's options, VMs and storages are fakepve's; users, certificates, repositories and the like are ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.hardening.evaluation import Order, run
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.proxmox.hardening import (
    READERS,
    ProxmoxHardening,
)
from ansible_collections.bareforge.hypervisor.plugins.plugin_utils.hardening_profile import load_profile


def audit(node):
    _data, checked = load_profile("foundation", "proxmox", ProxmoxHardening, Path("/"))
    platform = node.platform()
    try:
        target = next(item for item in platform.interfaces if isinstance(item, ProxmoxHardening))
        result = run(target, checked, Order("audit", today="2026-11-26"))
    finally:
        platform.close()
    return {rule["id"]: rule for rule in result["rules"]}


def statuses(rules, status):
    return {name for name, rule in rules.items() if rule["status"] == status}


@pytest.mark.capability("proxmox", "hardening.audit", ran_against="our simulator")
def test_a_fresh_node_and_a_hardened_one(node):
    rules = audit(node)
    assert statuses(rules, "error") == set()
    assert statuses(rules, "fail") == {
        "access-named-administrators",
        "backup-jobs-there",
        "certificate-of-ones-own",
        "cluster-firewall-forward-denied",
        "cluster-firewall-on",
        "node-firewall-log",
        "node-firewall-syn-flood",
        "node-firewall-tcp-flags",
        "realm-second-factor-required",
    }
    assert statuses(rules, "exception") == {"cluster-firewall-outbound-denied"}
    node.apply(
        {
            "firewall": {"enabled": True, "default_forward": "deny", "log_denied": True},
            "users": [{"name": "anna"}],
            "permissions": [{"principal": "anna", "path": "/", "role": "admin"}],
        }
    )
    rules = audit(node)
    assert {
        "cluster-firewall-on",
        "cluster-firewall-forward-denied",
        "node-firewall-log",
        "access-named-administrators",
    } <= statuses(rules, "pass")
    # A user that was made has no second factor, and is named.
    assert rules["user-second-factor"]["status"] == "fail" and "anna@pve" in rules["user-second-factor"]["found"]


def test_what_is_wrong_with_vms_tokens_storages_and_certificates_is_told_by_name(node):
    node.peer.add_vm(
        101, "odd", config={"memory": 64, "args": "-cpu max", "net0": "virtio=BC:24:11:00:00:01,bridge=vmbr0"}
    )
    node.peer.accounts["root@pam"]["tokens"] = [{"tokenid": "auto", "privsep": 0, "expire": 0}]
    node.peer.storages["pbs"] = {
        "type": "pbs",
        "active": 1,
        "content": "backup",
        "files": set(),
        "server": "x",
        "datastore": "y",
    }
    node.peer.told["/nodes/{node}/certificates/info"][0].update(notafter=1, **{"public-key-bits": 1024})
    node.peer.told["/nodes/{node}/apt/update"] = [{"Package": "openssl"}]
    node.peer.told["/cluster/options"] = {"migration": {"type": "insecure"}}
    rules = audit(node)
    failed = statuses(rules, "fail")
    assert {
        "vm-firewall-on",
        "vm-nic-firewall",
        "vm-no-raw-arguments",
        "token-separated-privileges",
        "token-expires",
        "root-no-tokens",
        "backup-encrypted",
        "backup-server-pinned",
        "certificate-lasts",
        "certificate-rsa-length",
        "updates-none-pending",
        "migration-encrypted",
    } <= failed
    assert "odd" in rules["vm-firewall-on"]["found"] and "root@pam!auto" in rules["token-expires"]["found"]


def test_what_cannot_be_read_is_an_error_of_its_rule_alone(node):
    node.peer.fail("GET", "/access/tfa", 403, "Permission check failed")
    rules = audit(node)
    assert statuses(rules, "error") == {"user-second-factor"}
    assert "Permission check failed" in rules["user-second-factor"]["message"]


def test_every_value_is_read_by_a_rule(node):
    _data, checked = load_profile("foundation", "proxmox", ProxmoxHardening, Path("/"))
    used = {check.setting.value for check in checked.checks}
    assert used == set(READERS)
