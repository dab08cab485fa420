# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a node and its cluster tell of themselves, after PVE::API2::Nodes, APT, Certificates and Backup of pve-manager."""

from __future__ import annotations

import hashlib
from typing import Any

from fakepve.routing import die, param_error

TOLD = (
    "/access/tfa",
    "/nodes/{node}/apt/repositories",
    "/nodes/{node}/apt/update",
    "/nodes/{node}/certificates/info",
    "/cluster/options",
    "/cluster/backup",
    "/cluster/backup-info/not-backed-up",
)


class NodeState:
    """Mixin of the peer: `/nodes/{node}/dns`, `time`, `hosts`; and lists that are only read, in `told` by their paths."""

    def setup_node(self) -> None:
        self.dns: dict[str, str] = {"search": "example.org", "dns1": "192.0.2.53"}
        self.timezone = "Europe/Berlin"
        self.told: dict[str, Any] = {
            "/access/tfa": [
                {
                    "userid": "root@pam",
                    "entries": [{"id": "1", "type": "totp", "created": 1, "description": "", "enable": 1}],
                }
            ],
            "/nodes/{node}/apt/repositories": {
                "digest": "0" * 64,
                "errors": [],
                "files": [],
                "infos": [],
                "standard-repos": [
                    {"handle": "enterprise", "name": "Enterprise", "status": 1},
                    {"handle": "no-subscription", "name": "No-Subscription"},
                    {"handle": "test", "name": "Test"},
                ],
            },
            "/nodes/{node}/apt/update": [],
            "/nodes/{node}/certificates/info": [
                {
                    "filename": "pve-ssl.pem",
                    "issuer": "/CN=Proxmox Virtual Environment",
                    "notafter": 4102444800,
                    "public-key-type": "rsaEncryption",
                    "public-key-bits": 2048,
                }
            ],
            "/cluster/options": {},
            "/cluster/backup": [],
            "/cluster/backup-info/not-backed-up": [],
        }
        self.hosts_file = "127.0.0.1 localhost\n192.0.2.11 pve1.example.org pve1\n"

    def _routes_node_state(self) -> list[Any]:
        node = "/nodes/{node}"
        return [
            ("GET", f"{node}/dns", self._dns_read),
            ("PUT", f"{node}/dns", self._dns_update),
            ("GET", f"{node}/time", self._time_read),
            ("PUT", f"{node}/time", self._time_update),
            ("GET", f"{node}/hosts", self._hosts_read),
            ("POST", f"{node}/hosts", self._hosts_update),
            *(("GET", path, self._teller(path)) for path in TOLD),
        ]

    def _teller(self, path: str) -> Any:
        async def tell(v: Any, user: str) -> Any:
            return self.told[path]

        return tell

    async def _dns_read(self, v: Any, user: str) -> dict[str, str]:
        return dict(self.dns)

    async def _dns_update(self, v: Any, user: str) -> None:
        # PVE::INotify::update_etc_resolv_conf writes what it is given and keeps no server that is left out.
        self.dns = {name: v[name] for name in ("search", "dns1", "dns2", "dns3") if v.get(name)}

    async def _time_read(self, v: Any, user: str) -> dict[str, Any]:
        return {"timezone": self.timezone, "time": 1700000000, "localtime": 1700003600}

    async def _time_update(self, v: Any, user: str) -> None:
        if not v["timezone"] or v["timezone"].startswith("Mars/"):
            raise param_error(timezone="No such timezone.")
        self.timezone = v["timezone"]

    def _hosts_digest(self) -> str:
        return hashlib.sha1(self.hosts_file.encode()).hexdigest()  # noqa: S324 - PVE's own digest

    async def _hosts_read(self, v: Any, user: str) -> dict[str, str]:
        return {"data": self.hosts_file, "digest": self._hosts_digest()}

    async def _hosts_update(self, v: Any, user: str) -> None:
        if v.get("digest") and v["digest"] != self._hosts_digest():
            raise die("detected modified configuration - file changed by other user? Try again.")
        self.hosts_file = v["data"]
