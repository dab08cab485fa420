# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is kept in descriptions and comments, and the property strings of VMs: what is written is what is read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.firewall import SERVICES, FirewallRule
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.proxmox.firewall import parts_of
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.proxmox.notes import (
    Comments,
    is_free_of_notes,
    join_description,
    split_description,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.proxmox.property_strings import (
    gibibytes,
    join_nic,
    mebibytes,
    split_nic,
    trunk_of,
    trunk_text,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.proxmox.rule_list import numbered
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.proxmox.vm_config import _nic_keys, mac_of

TEXTS = st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=60)
FACTS = st.dictionaries(st.sampled_from(["nics", "disks", "template"]), TEXTS.filter(bool), max_size=3)


@given(TEXTS.filter(lambda text: not text.endswith("\n")), FACTS)
def test_descriptions_are_what_they_were(text, facts):
    own, found = split_description(join_description(text or None, facts))
    assert (own or "", found) == (text, facts)


@pytest.mark.parametrize(
    "text", ["<!-- bareforge {broken -->", "<!-- bareforge [1] -->", "words\n\n<!-- bareforge {} --> more"]
)
def test_what_only_looks_like_ours_is_the_users(text):
    assert split_description(text) == (text, {})
    assert is_free_of_notes(text)


def test_a_comment_in_html_cannot_be_ended_by_a_name():
    assert "-->" not in join_description(None, {"template": "a-->b"})[:-4]


@given(st.lists(st.tuples(st.sampled_from(["network", "switch"]), FACTS), max_size=4))
def test_comments_keep_what_others_wrote(facts):
    comments = Comments("first\nbareforge-network {broken\n")
    comments.facts = list(facts)
    again = Comments(comments.text())
    assert again.facts == facts and again.others == ["first", "bareforge-network {broken"]


@pytest.mark.parametrize(
    ("text", "size"), [("32G", 32768), ("528K", 1), ("4M", 4), ("1T", 1048576), ("1048576", 1), ("", 0), ("x", 0)]
)
def test_sizes(text, size):
    assert mebibytes(text) == size


@given(st.integers(1, 64 * 1024 * 1024))
def test_a_disk_is_as_large_as_asked(size):
    assert round(float(gibibytes(size)) * 1024 * 1024 * 1024) == size * 1024 * 1024


def test_adapters():
    text = "virtio=BC:24:11:00:00:01,bridge=vmbr0,firewall=1,tag=10,trunks=2;4-6"
    parts = split_nic(text)
    assert parts["model"] == "virtio" and trunk_of(parts["trunks"]) == ("2", "4-6")
    assert join_nic(parts) == text
    assert trunk_text(("100", "20-29")) == "20-29;100"


def test_numbers_of_adapters_rise():
    assert _nic_keys(["net1", None, "net5"]) == ["net1", "net2", "net5"]
    assert _nic_keys(["net1", "net0"]) == ["net0", "net1"]
    assert _nic_keys([None, None]) == ["net0", "net1"]


def test_addresses_that_are_made_are_unicast_and_differ():
    made = {mac_of(vm, nic) for vm in ("a", "b") for nic in ("e0", "e1")}
    assert len(made) == 4 and all(mac.startswith("bc:24:11:") for mac in made)


@pytest.mark.parametrize("service", sorted(SERVICES))
def test_every_service_is_rules_with_ports(service):
    parts = list(parts_of(FirewallRule(name="x", direction="inbound", action="allow", service=service, position=1)))
    assert [(part.content["proto"], part.content["dport"]) for part in parts] == [
        (protocol, ",".join(ports).replace("-", ":")) for protocol, ports in SERVICES[service]
    ]
    assert len({content["comment"] for _key, content in numbered(parts)}) == len(parts)
