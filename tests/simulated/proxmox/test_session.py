# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The session: TLS, logins and their reuse, retries, tasks; and what an inventory and host_info are told."""

from __future__ import annotations

import gzip
import json
import os
import stat
from pathlib import Path

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.boundary.inventory import answer
from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import (
    ApplyError,
    AuthenticateError,
    ConnectError,
    ReadError,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.proxmox.run_lock import run_lock
from ansible_collections.bareforge.hypervisor.plugins.module_utils.transports import proxmox
from ansible_collections.bareforge.hypervisor.plugins.module_utils.transports.proxmox import ProxmoxSession
from peers.pve.serving import fingerprint

SCHEMA = os.environ.get("BAREFORGE_PVE_API_SCHEMA")


def session(node, **settings):
    return ProxmoxSession({**node.settings, **settings})


def tickets(node):
    return [path for _method, path, _body in node.peer.sent("POST") if path == "/access/ticket"]


class TestCertificates:
    def test_a_fingerprint_in_place_of_a_ca(self, node):
        own = fingerprint()
        with_colons = ":".join(own[index : index + 2] for index in range(0, 64, 2))
        for given in (own, f"sha256:{own}", with_colons):
            assert session(node, ca_file=None, fingerprint=given).node == "pve1"

    def test_another_fingerprint_gets_no_password(self, node):
        with pytest.raises(ConnectError, match="another SHA-256 fingerprint"):
            session(node, ca_file=None, fingerprint="0" * 64, session_folder=None).get("version")
        assert node.peer.requests == []

    def test_an_unknown_certificate_is_refused(self, node):
        with pytest.raises(ConnectError, match="is not trusted") as caught:
            session(node, ca_file=None, session_folder=None).get("version")
        assert "bareforge_ca_file" in str(caught.value.hint) and node.peer.requests == []

    def test_unchecked_where_the_user_says_so(self, node):
        assert session(node, ca_file=None, validate_certs=False).node == "pve1"


class TestLogins:
    def test_one_serves_all_tasks_of_a_run(self, node):
        for _task in range(3):
            assert session(node).node == "pve1"
        assert len(tickets(node)) == 1
        # And which node it is was asked once.
        assert [path for _method, path, _body in node.peer.sent("GET")] == ["/cluster/status"]

    def test_it_lies_where_nobody_else_can_read(self, node):
        session(node).get("version")
        (kept,) = Path(node.settings["session_folder"]).iterdir()
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600
        assert node.settings["password"] not in kept.read_text(encoding="utf-8")

    def test_a_ticket_that_expires_in_mid_run_is_replaced(self, node):
        platform = node.platform()
        platform.read(["storage_pool"])
        node.peer.revoke_tickets()
        # A write that was refused with 401 was not carried out, so it is sent again.
        platform.session.post("pools", poolid="team")
        assert "team" in node.peer.pools and len(tickets(node)) == 2
        platform.close()
        node.apply({"resource_pools": [{"name": "other"}]})
        assert len(tickets(node)) == 2

    def test_a_ticket_of_an_hour_and_a_half_is_not_used_any_more(self, node, monkeypatch):
        session(node).get("version")
        monkeypatch.setattr(proxmox, "TICKET_LIFE", 0)
        session(node).get("version")
        assert len(tickets(node)) == 2

    def test_a_file_that_a_killed_run_has_half_written(self, node):
        session(node).get("version")
        (kept,) = Path(node.settings["session_folder"]).iterdir()
        kept.write_text('{"ticket": "PVE:', encoding="utf-8")
        assert session(node).node == "pve1"

    def test_a_token(self, node):
        node.peer.apitokens["root@pam!auto"] = "0000-1111"
        with_token = session(node, user="root@pam!auto", password="0000-1111", session_folder=None)
        assert with_token.node == "pve1" and tickets(node) == []
        with pytest.raises(AuthenticateError, match="refuses root@pam!auto"):
            session(node, user="root@pam!auto", password="wrong").get("version")

    def test_refused_without_the_password_in_the_message(self, node):
        with pytest.raises(AuthenticateError, match=r"POST /access/ticket: the host refuses root@pam") as caught:
            session(node, password="wrong-password", session_folder=None).get("version")
        assert "wrong-password" not in caught.value.sentence()

    def test_a_second_factor_needs_a_token(self, node):
        node.peer.tfa = True
        with pytest.raises(AuthenticateError, match="needs a second factor") as caught:
            session(node, session_folder=None).get("version")
        assert "API token" in str(caught.value.hint)

    def test_nothing_to_log_in_with(self, node):
        with pytest.raises(AuthenticateError, match="bareforge_password is missing"):
            session(node, password=None).get("version")


class TestRequests:
    def test_reads_are_sent_again_and_writes_are_not(self, node):
        node.peer.add_node("pve2", online=False)
        with pytest.raises(ReadError, match="answers 595: No route to host"):
            session(node).get("nodes", "pve2", "network")
        assert len([path for _m, path, _b in node.peer.sent("GET") if path == "/nodes/pve2/network"]) == 3
        with pytest.raises(ApplyError, match="answers 595"):
            session(node).put("nodes", "pve2", "network")
        assert len(node.peer.sent("PUT")) == 1

    def test_parts_of_a_path_cannot_become_others(self, node):
        with pytest.raises(ReadError):
            session(node).get("nodes", "pve1", "storage", "../../access", "content")
        assert node.peer.violations.pop()[1].endswith("/storage/../../access/content")

    def test_what_is_wrong_with_which_parameter(self, node):
        with pytest.raises(ApplyError, match=r"answers 400: Parameter verification failed \(poolid: "):
            session(node).post("pools")
        node.peer.violations.clear()

    def test_a_privilege_that_is_missing(self, node):
        node.peer.users["anna@pve"] = "secret word"
        node.peer.grant("anna@pve", "/", "Sys.Audit")
        with pytest.raises(ApplyError, match="answers 403") as caught:
            session(node, user="anna@pve", password="secret word").post("pools", poolid="team")
        assert "Give anna@pve the privilege that is named" in caught.value.sentence()

    def test_nobody_answers(self, node):
        with pytest.raises(ConnectError, match=r"127\.0\.0\.1:1 failed \(.*Connection refused\)"):
            session(node, port=1, session_folder=None).get("version")

    def test_tasks_are_awaited_together(self, node):
        node.peer.time_scale = 0.01
        for vmid in (100, 101, 102):
            node.peer.add_vm(vmid, f"v{vmid}").start_secs = 30
        own = session(node)
        tasks = {
            own.post("nodes", "pve1", "qemu", vmid, "status", "start"): f"starting {vmid}" for vmid in (100, 101, 102)
        }
        own.wait(tasks)
        assert {vm.status for vm in node.peer.vms} == {"running"}
        slow = {own.post("nodes", "pve1", "qemu", 100, "status", "reset"): "resetting"}
        own.wait(slow)
        node.peer.vm(101).status = "stopped"
        with pytest.raises(ApplyError, match="starting again: the task still runs after 0 s"):
            own.wait({own.post("nodes", "pve1", "qemu", 101, "status", "start"): "starting again"}, deadline=0)


def test_a_second_run_waits_for_the_first(tmp_path):
    with run_lock(str(tmp_path / "locks"), "pve1:8006"):
        with run_lock(str(tmp_path / "locks"), "pve2:8006"):
            pass
        again = run_lock(str(tmp_path / "locks"), "pve1:8006", timeout=0.2)
        with pytest.raises(ConnectError, match=f"another run, process {os.getpid()} on the controller"), again:
            pass


def test_what_host_info_is_told(node):
    platform = node.platform()
    facts = platform.facts()
    platform.close()
    assert facts["node"] == "pve1" and facts["version"] == "9.0.10"
    assert {"name": "eno1", "active": True} in facts["interfaces"]
    assert facts["cluster"] == {
        "name": "fakecluster",
        "quorate": True,
        "nodes": {"pve1": {"online": True, "address": "192.0.2.11"}},
    }
    assert set(facts["cpu"]) == {"count", "sockets", "cores", "model"}


@pytest.mark.capability("proxmox", "inventory", "inventory.addresses", ran_against="independent simulator")
def test_what_an_inventory_is_told(node):
    node.apply(
        {
            "virtual_switches": [{"name": "sw", "type": "internal"}],
            "virtual_networks": [{"name": "app", "switch": "sw", "vlan": 10}],
            "vms": [
                {
                    "name": "web",
                    "memory": {"size": 512},
                    "cpu": {"count": 2},
                    "tags": ["blue"],
                    "nics": [
                        {"name": "e0", "network": "app", "mac": "52:54:00:00:00:07", "addresses": ["192.0.2.7/24"]}
                    ],
                },
                {"name": "off", "memory": {"size": 64}, "power": "stopped"},
            ],
        }
    )
    node.vm("web").agent = {
        "interfaces": [
            {
                "name": "lo",
                "hardware-address": "00:00:00:00:00:00",
                "ip-addresses": [{"ip-address": "127.0.0.1", "ip-address-type": "ipv4", "prefix": 8}],
            },
            {
                "name": "eth0",
                "hardware-address": "52:54:00:00:00:07",
                "ip-addresses": [
                    {"ip-address": "192.0.2.70", "ip-address-type": "ipv4", "prefix": 24},
                    {"ip-address": "fe80::1", "ip-address-type": "ipv6", "prefix": 64},
                ],
            },
        ]
    }
    request = {"platform": "proxmox", "sources": ["agent", "document"], "agent_timeout": 5, "settings": node.settings}
    told = answer(request)
    assert told["warnings"] == []
    off, web = sorted(told["vms"], key=lambda vm: vm["name"])
    assert (off["power"], web["power"], web["cpus"], web["memory"], web["managed"]) == (
        "stopped",
        "running",
        2,
        512,
        True,
    )
    assert web["nics"][0]["network"] == "app" and web["nics"][0]["vlan"] == 10 and list(web["tags"]) == ["blue"]
    assert [(each["address"], each["source"], each["nic"]) for each in web["addresses"]] == [
        ("192.0.2.70", "agent", "e0"),
        ("192.0.2.7", "document", "e0"),
    ]
    refused = answer({**request, "settings": {**node.settings, "password": "wrong", "session_folder": None}})
    assert refused["error"]["phase"] == "authenticate"


@pytest.mark.skipif(
    not SCHEMA, reason="BAREFORGE_PVE_API_SCHEMA names no file with the vendor's description of the API"
)
def test_the_simulators_description_of_the_api_is_the_vendors():
    from fakepve import schema

    with gzip.open(str(SCHEMA), "rt", encoding="utf-8") as stream:
        vendors = json.load(stream)["paths"]
    own = schema.load().paths
    assert set(own) == set(vendors)
    for path, methods in vendors.items():
        for method, description in methods.items():
            wanted = (description.get("parameters") or {}).get("properties") or {}
            there = (own[path][method].get("parameters") or {}).get("properties") or {}
            assert set(there) == set(wanted), (method, path)
