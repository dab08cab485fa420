# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Realms. fakepve keeps no state for them: it is our reading of PVE's."""

from __future__ import annotations

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import ApplyError

shows = pytest.mark.capability
LDAP = {
    "name": "people",
    "type": "ldap",
    "servers": ["ldap1.example.org", "ldap2.example.org"],
    "base_dn": "ou=people,dc=example,dc=org",
    "user_attribute": "uid",
    "bind_dn": "cn=reader,dc=example,dc=org",
    "bind_password": "canary password",
}
AD = {"name": "forest", "type": "active_directory", "servers": ["dc1.example.org"], "domain": "example.org"}
OPENID = {
    "name": "provider",
    "type": "openid",
    "issuer_url": "https://id.example.org/",
    "client_id": "hypervisors",
    "client_secret": "canary secret",
    "username_claim": "email",
    "create_users": True,
}


@shows("proxmox", "realm", "realm.type.ldap", "realm.second_factor", ran_against="our simulator")
def test_a_directory(node):
    done = node.settle({"realms": [LDAP]})
    assert "canary" not in str(done)
    assert node.peer.realms["people"] == "ldap" and node.peer.realm_passwords == {"people": "canary password"}
    # Encrypted and verified where nobody says otherwise.
    assert node.peer.realm_options["people"] == {
        "server1": "ldap1.example.org",
        "server2": "ldap2.example.org",
        "base_dn": "ou=people,dc=example,dc=org",
        "user_attr": "uid",
        "bind_dn": "cn=reader,dc=example,dc=org",
        "mode": "ldaps",
        "verify": 1,
    }
    node.settle(
        {
            "realms": [
                {
                    "name": "people",
                    "servers": ["ldap3.example.org"],
                    "port": 389,
                    "encryption": "starttls",
                    "verify": False,
                    "bind_dn": "",
                    "second_factor": "totp",
                    "description": "All of us",
                }
            ]
        }
    )
    assert node.peer.realm_options["people"] == {
        "server1": "ldap3.example.org",
        "base_dn": "ou=people,dc=example,dc=org",
        "user_attr": "uid",
        "port": 389,
        "mode": "ldap+starttls",
        "verify": 0,
        "tfa": "type=oath",
        "comment": "All of us",
    }
    assert node.peer.realm_passwords == {}
    node.settle({"realms": [{"name": "people", "second_factor": "none", "description": "", "encryption": "none"}]})
    kept = node.peer.realm_options["people"]
    assert "tfa" not in kept and "comment" not in kept and kept["mode"] == "ldap"
    node.settle({"realms": [{"name": "people", "state": "absent"}]})
    assert node.peer.realms == {"pam": "pam", "pve": "pve"}


@shows("proxmox", "realm.type.active_directory", "realm.type.openid", ran_against="our simulator")
def test_active_directory_and_an_identity_provider(node):
    done = node.settle({"realms": [AD, OPENID]})
    assert "canary" not in str(done)
    assert node.peer.realm_options["forest"]["domain"] == "example.org"
    kept = node.peer.realm_options["provider"]
    assert (kept["client-key"], kept["username-claim"], kept["autocreate"]) == ("canary secret", "email", 1)
    node.settle({"realms": [{"name": "provider", "create_users": False}]})
    assert node.peer.realm_options["provider"]["autocreate"] == 0
    shown = {item["name"]: item for item in node.gather("realm")["realms"]}
    assert "client_secret" not in shown["provider"] and shown["forest"]["encryption"] == "tls"
    # What was gathered is valid input, and nothing is left to do.
    assert node.apply({"realms": list(shown.values())})["changes"] == []


@shows("proxmox", "realm.type.pam", "realm.type.own", ran_against="our simulator")
def test_those_that_are_always_there(node):
    node.settle({"realms": [{"name": "pam", "second_factor": "totp"}, {"name": "pve", "preselected": True}]})
    assert node.peer.realm_options == {"pam": {"tfa": "type=oath"}, "pve": {"default": 1}}
    node.settle({"realms": [{"name": "pam", "second_factor": "none"}, {"name": "pve", "preselected": False}]})
    assert node.peer.realm_options == {"pam": {}, "pve": {}}
    done = node.apply({"realms": []}, exact=["realm"])
    assert done["changes"] == [] and "it is one of Proxmox VE's own" in done["warnings"][0]


def test_users_come_after_their_realm(node):
    document = {"users": [{"name": "anna", "realm": "people"}], "realms": [LDAP]}
    done = node.settle(document)
    assert [change["kind"] for change in done["changes"]] == ["realm", "user"]
    assert (
        node.problems({"realms": [{"name": "people", "state": "absent"}]})["realm['people']"]
        == "cannot go: it has users: anna@people"
    )


def test_only_one_is_preselected(node):
    node.settle({"realms": [{**LDAP, "preselected": True}]})
    node.settle({"realms": [{"name": "pam", "preselected": True}]})
    assert "default" not in node.peer.realm_options["people"]
    problems = node.problems({"realms": [{"name": "people", "preselected": True}, {**AD, "preselected": True}]})
    assert problems["realm['people'].preselected"] == "is true for forest too, and only one can be"


def test_what_cannot_be(node):
    problems = node.problems(
        {
            "realms": [
                {
                    "name": "a b",
                    "type": "ldap",
                    "servers": ["a.example", "b.example", "c.example"],
                    "base_dn": "o=x",
                    "user_attribute": "uid",
                },
                {"name": "mine", "type": "own"},
                {**OPENID, "second_factor": "totp"},
                {**AD, "bind_password": "canary password"},
                {"name": "pam", "state": "absent"},
            ]
        }
    )
    assert set(problems) == {
        "realm['a b'].name",
        "realm['a b'].servers",
        "realm['mine'].name",
        "realm['provider'].second_factor",
        "realm['forest'].bind_password",
        "realm['pam']",
    }
    assert "canary" not in str(problems)
    assert set(node.problems({"realms": [{"name": "x1", "type": "ldap", "domain": "example.org"}]})) == {
        "realm['x1'].domain"
    }
    assert set(node.problems({"realms": [{"name": "x1", "type": "openid"}]})) == {
        "realm['x1'].issuer_url",
        "realm['x1'].client_id",
    }


def test_somebody_elses_change_meanwhile_is_not_overwritten(node):
    node.apply({"realms": [LDAP]})
    platform = node.platform()
    read = platform.read

    def read_and_change(*arguments):
        state = read(*arguments)
        node.peer.realm_options["people"]["comment"] = "Somebody else's"
        return state

    platform.read = read_and_change
    node.platform = lambda: platform
    with pytest.raises(ApplyError, match="modified configuration"):
        node.apply({"realms": [{"name": "people", "port": 636}]})
