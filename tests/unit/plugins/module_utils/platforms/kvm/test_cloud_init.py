# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a guest is given at its first start."""

from __future__ import annotations

import email
import json
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.compute import Guest, Vm
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm import cloud_init

HOSTILE = "x\"'\\n- }: #\u2028${HOME} é"


def vm(**fields: Any) -> Vm:
    return Vm.parse({"name": "web1", "template": "t", "memory": {"size": 64}, **fields}).complete(None)


def config_of(content: bytes) -> Any:
    assert content.startswith(b"#cloud-config\n")
    return yaml.safe_load(content)


def test_user_data_is_yaml_that_says_what_the_model_says() -> None:
    guest = {
        "hostname": "web1.example.org",
        "users": [
            {"name": "ann", "ssh_keys": ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHuPsWtO3cGtfhJ2MRLMHMFkvJS2ZSDhFxWT0xiEXbZB a@b"], "sudo": True},
            {"name": "bob", "password_hash": "$6$abc$0123456789"},
        ],
        "packages": ["nginx", "curl=7.88"],
        "timezone": "Europe/Berlin",
    }  # fmt: skip
    config = config_of(cloud_init.seed_files(vm(guest=guest), {}, "i-1")["user-data"])
    assert config["hostname"] == "web1"
    assert config["fqdn"] == "web1.example.org"
    assert config["packages"] == [["curl", "7.88"], "nginx"]
    assert config["timezone"] == "Europe/Berlin"
    ann, bob = config["users"]
    assert ann["sudo"] == ["ALL=(ALL) NOPASSWD:ALL"]
    assert ann["lock_passwd"] is True
    assert "passwd" not in ann
    assert bob["passwd"] == "$6$abc$0123456789"
    assert bob["lock_passwd"] is False
    assert "sudo" not in bob


def test_without_a_password_nobody_logs_in_by_password() -> None:
    config = config_of(cloud_init.seed_files(vm(guest={"users": [{"name": "ann"}]}), {}, "i-1")["user-data"])
    assert "ssh_pwauth" not in config


def test_a_user_whose_name_is_a_group_of_the_distribution_gets_no_group_of_its_own() -> None:
    guest = {"users": [{"name": "ann"}, {"name": "operator"}]}
    config = config_of(cloud_init.seed_files(vm(guest=guest), {}, "i-1")["user-data"])
    assert [(user["name"], user.get("no_user_group")) for user in config["users"]] == [
        ("ann", None),
        ("operator", True),
    ]


@pytest.mark.parametrize(("name", "expected"), [("web1", "web1"), ("Web 1", None), ("wéb", None), ("WEB1", "web1")])
def test_the_host_name_is_the_vms_name_where_it_can_be_one(name: str, expected: str | None) -> None:
    meta = json.loads(cloud_init.seed_files(vm(name=name), {}, "i-1")["meta-data"])
    assert meta.get("local-hostname") == expected
    assert meta["instance-id"] == "i-1"


def test_the_same_vm_made_again_is_another_instance() -> None:
    assert cloud_init.new_instance("u") != cloud_init.new_instance("u")


@pytest.mark.parametrize(
    ("further", "kind"),
    [("#cloud-config\nruncmd: [[ls]]\n", "#cloud-config"), ("#!/bin/sh\necho 'ü $(x)'\n", "#!/bin/sh")],
)
def test_further_user_data_is_carried_as_it_is_beside_ours(further: str, kind: str) -> None:
    content = cloud_init.seed_files(vm(guest={"user_data": further}), {}, "i-1")["user-data"]
    ours, theirs = (part for part in email.message_from_bytes(content).walk() if not part.is_multipart())
    assert ours.get_content_type() == "text/cloud-config"
    assert config_of(ours.get_payload(decode=True))["hostname"] == "web1"
    # cloud-init looks at the first line of a text/plain part.
    assert theirs.get_content_type() == "text/plain"
    assert theirs.get_payload(decode=True).decode() == further
    assert further.startswith(kind)


def test_hostile_text_cannot_leave_its_value() -> None:
    guest = Guest(timezone=HOSTILE, packages=(HOSTILE,))
    config = yaml.safe_load(cloud_init.user_data(guest, HOSTILE))
    assert config["timezone"] == HOSTILE
    assert config["packages"] == [HOSTILE]
    assert set(config) == {
        "updates",
        "hostname",
        "fqdn",
        "preserve_hostname",
        "timezone",
        "package_update",
        "packages",
    } - (set() if "." in HOSTILE else {"fqdn"})


def test_interfaces_are_found_by_mac_and_told_their_addresses() -> None:
    nics = [
        {"name": "eth0", "network": "a", "addresses": ["192.0.2.10/24", "2001:db8::10/64"], "gateway4": "192.0.2.1", "gateway6": "fe80::1", "dns_servers": ["192.0.2.53"]},
        {"name": "eth1", "network": "b"},
    ]  # fmt: skip
    files = cloud_init.seed_files(vm(nics=nics), {"eth0": "52:54:00:00:00:01", "eth1": "52:54:00:00:00:02"}, "i-1")
    assert yaml.safe_load(files["network-config"]) == {
        "version": 2,
        "ethernets": {
            "eth0": {
                "match": {"macaddress": "52:54:00:00:00:01"},
                "dhcp4": False,
                "addresses": ["192.0.2.10/24", "2001:db8::10/64"],
                "routes": [{"to": "0.0.0.0/0", "via": "192.0.2.1"}, {"to": "::/0", "via": "fe80::1"}],
                "nameservers": {"addresses": ["192.0.2.53"]},
            },
            "eth1": {"match": {"macaddress": "52:54:00:00:00:02"}, "dhcp4": True},
        },
    }


def test_a_seed_holds_its_files_and_only_root_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "seed.iso"
    files = {"meta-data": b"{}\n", "user-data": b"#cloud-config\n" + b"x" * 5000, "network-config": "é".encode()}
    cloud_init.write_seed(str(path), files)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert cloud_init.read_seed(str(path)) == files
    # ISO 9660, 8.4.6: the volume identifier of the primary descriptor.
    descriptor = path.read_bytes()[16 * 2048 : 17 * 2048]
    assert descriptor[40:72].rstrip() == b"cidata"
