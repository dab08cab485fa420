# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What VMs that run are told of their networks through libvirt."""

from __future__ import annotations

import sys

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.network import VirtualNetwork
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm import libvirt_networks
from ansible_collections.bareforge.hypervisor.plugins.module_utils.transports import libvirt
from support.libvirt_in_memory import RUNNING, Domain, Host, Library

NIC = (
    "<interface type='bridge'><mac address='{mac}'/><source network='br0' portgroup='{network}' bridge='br0'/>"
    "<target dev='{device}'/>{own}</interface>"
)
OWN = "<bandwidth><inbound average='50' peak='50'/></bandwidth>"


def domain_xml(own: str, other: str) -> str:
    nics = NIC.format(mac="52:54:00:00:00:01", network="app", device="tap1", own=own)
    nics += NIC.format(mac="52:54:00:00:00:02", network="app", device="tap2", own=other)
    nics += NIC.format(mac="52:54:00:00:00:03", network="db", device="tap3", own="")
    return f"<domain><name>web1</name><uuid>1</uuid><devices>{nics}</devices></domain>"


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    host = Host()
    monkeypatch.setitem(sys.modules, "libvirt", Library(host))  # type: ignore[arg-type]
    libvirt.close()
    # Of a NIC without limits of its own libvirt shows those of its network while it runs.
    domain = Domain(host, domain_xml(OWN, "<bandwidth><inbound average='999'/></bandwidth>"))
    domain.configured_xml = domain_xml(OWN, "")
    domain._state = RUNNING
    host.domains["web1"] = domain
    return host


def test_vms_that_run_are_limited_unless_a_nic_has_limits_of_its_own(host: Host) -> None:
    network = VirtualNetwork.parse(
        {
            "name": "app",
            "switch": "br0",
            "bandwidth": {"inbound": {"average": 8000, "burst": 64}, "outbound": {"average": 16000}},
        }
    )
    libvirt_networks.limit_guests([("br0", network.complete(None))])
    assert host.limits == {
        "tap2": {
            "inbound.average": 1000,
            # Without it, the queue of Open vSwitch would guarantee the rate and limit nothing.
            "inbound.peak": 1000,
            "inbound.burst": 64,
            "outbound.average": 2000,
            "outbound.peak": 0,
            "outbound.burst": 0,
        }
    }


def test_limits_that_a_network_has_no_more_are_taken_away(host: Host) -> None:
    network = VirtualNetwork.parse({"name": "db", "switch": "br0"})
    libvirt_networks.limit_guests([("br0", network.complete(None))])
    assert list(host.limits) == ["tap3"]
    assert set(host.limits["tap3"].values()) == {0}
