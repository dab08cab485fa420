# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A fault at every request of a whole job on a node of Proxmox VE, each request by one kind of fault, the next one by the next."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import web

from ansible_collections.bareforge.hypervisor.plugins.module_utils.engine.runner import Request, run
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.document import Document
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.operation import Operation
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.proxmox.platform import ProxmoxPlatform
from ansible_collections.bareforge.hypervisor.plugins.module_utils.transports import proxmox
from peers.pve import PvePeer, Serving
from support.faulty_wire import FAULTS, Address, Http, Subject, every_fault

# The parent has the peer's and the proxy's threads; the child uses nothing of theirs.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

BEFORE = {
    "virtual_switches": [{"name": "old", "type": "internal"}],
    "virtual_networks": [{"name": "app", "switch": "old", "vlan": 5}],
    "templates": [{"name": "tpl", "source": {"url": "https://example.org/t.qcow2"}, "checksum": f"sha256:{'0' * 64}"}],
    "firewall_rules": [{"name": "gone", "protocol": "tcp", "ports": [1]}],
}
AFTER = {
    "virtual_switches": [{"name": "new", "type": "internal"}],
    "virtual_networks": [{"name": "app", "switch": "new", "vlan": 10}],
    "host_interfaces": [{"name": "storage", "network": "app", "addresses": ["198.51.100.9/24"]}],
    "firewall_rules": [
        {"name": "gone", "state": "absent"},
        {"name": "web", "protocol": "tcp", "ports": [80], "sources": ["192.0.2.0/24", "2001:db8::/32"]},
    ],
    "resource_pools": [{"name": "team"}],
    "realms": [{"name": "provider", "type": "openid", "issuer_url": "https://id.example.org/", "client_id": "x"}],
    "users": [{"name": "anna", "groups": ["ops"]}],
    "permissions": [{"principal": "anna", "path": "/vms", "role": "operator"}],
    "vms": [
        {
            "name": "web",
            "template": "tpl",
            "memory": {"size": 64},
            "disks": [{"name": "root", "size": 3072}],
            "nics": [{"name": "e0", "network": "app"}],
        }
    ],
    "snapshots": [{"vm": "web", "name": "first"}],
}


class PlainPeer(PvePeer):
    """The peer without TLS, so that a proxy sees where a message ends."""

    async def start(self, certfile: str, keyfile: str) -> None:
        self.runner = web.AppRunner(self._build_app())
        await self.runner.setup()
        await web.TCPSite(self.runner, self.host, 0).start()
        self.port = self.runner.addresses[0][1]


class ProxmoxSubject(Subject):
    """A whole job of the engine on a node."""

    framing = Http()

    def __init__(self, serving: Serving) -> None:
        self.serving = serving
        self.target = ("127.0.0.1", serving.peer.port)
        self.apply(self.target, BEFORE)
        self.before = self.serving.saved()

    def apply(self, address: Any, document: Any) -> bool:
        platform = ProxmoxPlatform({**self.serving.settings, "host": address[0], "port": address[1]})
        options = Operation.parse({"guard": {"enabled": False}, "shutdown_timeout": 0})
        try:
            return bool(run(platform, Request(Document.parse(document), options))["changed"])
        finally:
            platform.close()

    def fresh(self) -> None:
        self.serving.restore(self.before)

    def run(self, address: Address) -> bool:
        return self.apply(address, AFTER)

    def state(self) -> Any:
        peer = self.serving.peer
        stamp = re.compile(r"bareforge-run \S+\n?")
        interfaces = {
            name: {key: stamp.sub("", str(value)) for key, value in entry.items() if value not in (None, "")}
            for name, entry in peer.interfaces.items()
        }
        vms = {
            vm.name: (
                vm.status,
                sorted(vm.snapshots),
                {key: vm.config.get(key) for key in ("net0", "memory", "pool", "description")},
            )
            for vm in peer.vms
        }
        rules = [
            (rule["action"], rule.get("dport"), rule.get("source"))
            for rule in peer.firewall_config("host", "pve1")["rules"]
        ]
        disks = {len(store.get("volumes", {})) for store in peer.storages.values()}
        return interfaces, peer.staged, vms, rules, peer.accounts, peer.access_list, sorted(peer.pools), disks


@pytest.fixture
def subject(monkeypatch: pytest.MonkeyPatch) -> Iterator[ProxmoxSubject]:
    url = property(lambda self: f"http://{self.host}:{self.port}/api2/json")
    monkeypatch.setattr(proxmox.ProxmoxSession, "url", url)
    serving = Serving(PlainPeer(host="127.0.0.1", port=0))
    yield ProxmoxSubject(serving)
    serving.close()


def test_every_request_to_proxmox(subject: ProxmoxSubject) -> None:
    report = every_fault(subject, in_turn=True)
    assert report.problems == []
    assert report.requests > 30
    assert set(report.ends) == set(FAULTS)
    # A ticket that is refused is replaced, and the job goes on.
    assert set(report.ends["denied"]) == {"changed"}
