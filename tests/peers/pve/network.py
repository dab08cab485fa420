# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The node's network with its staging, after PVE::API2::Network and PVE::INotify of pve-manager and pve-common."""

from __future__ import annotations

import copy
import difflib
import ipaddress
import json
from typing import Any

from aiohttp import web
from fakepve.model import TaskError
from fakepve.routing import die, param_error, split_list

LISTS = ("bridge_ports", "slaves", "ovs_ports", "ovs_bonds", "bridge_vids")
NOT_KEPT = ("node", "iface", "delete", "digest")


class NetworkState:
    """Mixin of the peer: `/nodes/{node}/network`.

    interfaces: what is in force; staged: what is written and not applied, or None. applied: how often it was applied.
    reload_error: what the next reload ends with.
    """

    def setup_network(self) -> None:
        self.interfaces: dict[str, dict[str, Any]] = {
            "eno1": {"type": "eth", "method": "manual", "method6": "manual"},
            "eno2": {"type": "eth", "method": "manual", "method6": "manual"},
            "eno3": {"type": "eth", "method": "manual", "method6": "manual"},
            "vmbr0": {
                "type": "bridge",
                "method": "static",
                "method6": "manual",
                "autostart": 1,
                "bridge_ports": "eno1",
                "cidr": "192.0.2.11/24",
                "address": "192.0.2.11",
                "netmask": "24",
                "gateway": "192.0.2.1",
            },
        }
        # What other nodes of the cluster have, where it is something else.
        self.elsewhere: dict[str, dict[str, dict[str, Any]]] = {}
        self.staged: dict[str, dict[str, Any]] | None = None
        self.applied = 0
        self.reload_error: str | None = None

    def _routes_network(self) -> list[Any]:
        base = "/nodes/{node}/network"
        return [
            ("GET", base, self._network_list),
            ("POST", base, self._network_create),
            ("PUT", base, self._network_apply),
            ("DELETE", base, self._network_revert),
            ("GET", f"{base}/{{iface}}", self._network_read),
            ("PUT", f"{base}/{{iface}}", self._network_update),
            ("DELETE", f"{base}/{{iface}}", self._network_delete),
        ]

    @property
    def written(self) -> dict[str, dict[str, Any]]:
        """What the file holds that the API reads and writes."""
        return self.interfaces if self.staged is None else self.staged

    @staticmethod
    def as_file(interfaces: dict[str, dict[str, Any]]) -> list[str]:
        """Return the interfaces as lines of /etc/network/interfaces, as PVE::INotify writes them, as far as a diff needs."""
        lines: list[str] = []
        for name, entry in sorted(interfaces.items()):
            if entry.get("autostart"):
                lines.append(f"auto {name}")
            lines.append(f"iface {name} inet {entry.get('method', 'manual')}")
            for key in sorted(entry):
                if key not in ("type", "method", "method6", "autostart", "comments"):
                    lines.append(f"\t{key.replace('_', '-')} {entry[key]}")
            lines.extend(f"#{line}" for line in str(entry.get("comments") or "").splitlines())
            lines.append("")
        return lines

    def network_changes(self) -> str:
        """Return the diff of what is staged, as GET carries it beside its data."""
        if self.staged is None:
            return ""
        diff = difflib.unified_diff(
            self.as_file(self.interfaces),
            self.as_file(self.staged),
            "/etc/network/interfaces",
            "/etc/network/interfaces.new",
            lineterm="",
        )
        return "\n".join(diff)

    async def _network_list(self, v: Any, user: str) -> list[dict[str, Any]]:
        wanted = v.get("type")
        return [
            self._shown(name, entry)
            for name, entry in sorted(self.elsewhere.get(v["node"], self.written).items())
            if wanted is None
            or entry["type"] == wanted
            or (wanted == "any_bridge" and entry["type"] in ("bridge", "OVSBridge"))
        ]

    def _shown(self, name: str, entry: dict[str, Any]) -> dict[str, Any]:
        shown = {**entry, "iface": name, "families": ["inet"], "priority": 3}
        if entry.get("autostart") or entry["type"] == "eth":
            shown["active"] = 1
        if entry["type"] == "eth":
            shown["exists"] = 1
        if entry["type"] == "bridge":
            shown.update(bridge_stp="off", bridge_fd="0")
            shown.setdefault("bridge_ports", "")
        return shown

    def _stage(self, interfaces: dict[str, dict[str, Any]]) -> None:
        for name, entry in interfaces.items():
            for slave in split_list(entry.get("slaves")) if entry["type"] == "bond" else ():
                if slave not in interfaces:
                    raise die(f"iface {name} - unable to find bond slave '{slave}'")
                if interfaces[slave]["type"] != "eth":
                    raise die(
                        f"iface {name} - wrong interface type on bond slave '{slave}' ({interfaces[slave]['type']} != eth)"
                    )
            for port in split_list(entry.get("bridge_ports")) if entry["type"] == "bridge" else ():
                if port not in interfaces:
                    raise die(f"iface {name} - unable to find bridge port '{port}'")
            raw = entry.get("vlan-raw-device")
            if entry["type"] == "vlan" and raw not in interfaces:
                raise die(f"vlan '{name}' - vlan-raw-device '{raw}' does not exist")
        self.staged = interfaces if interfaces != self.interfaces else None

    @staticmethod
    def _kept(v: Any) -> dict[str, Any]:
        entry = {key: value for key, value in v.items() if key not in NOT_KEPT}
        for name, version in (("cidr", 4), ("cidr6", 6)):
            if entry.get(name):
                interface = ipaddress.ip_interface(entry[name])
                if interface.version != version:
                    raise param_error(**{name: "value does not look like a valid CIDR network"})
                suffix = "6" if version == 6 else ""
                entry[f"address{suffix}"] = str(interface.ip)
                entry[f"netmask{suffix}"] = str(interface.network.prefixlen)
        for name in LISTS:
            if name in entry:
                entry[name] = " ".join(split_list(entry[name]))
        if "mtu" in entry:
            # The file is text, and so is what comes back from it.
            entry["mtu"] = str(entry["mtu"])
        if entry.get("comments"):
            entry["comments"] = entry["comments"].rstrip("\n") + "\n"
        return entry

    @staticmethod
    def _check_gateway(interfaces: dict[str, dict[str, Any]], name: str, v: Any) -> None:
        for field in ("gateway", "gateway6"):
            for other, entry in interfaces.items():
                if v.get(field) and other != name and entry.get(field):
                    raise param_error(**{field: f"Default gateway already exists on interface '{other}'."})

    async def _network_create(self, v: Any, user: str) -> None:
        interfaces = copy.deepcopy(self.written)
        name = v["iface"]
        if name in interfaces:
            raise param_error(iface="interface already exists")
        self._check_gateway(interfaces, name, v)
        entry = self._kept(v)
        if entry["type"] == "vlan":
            raw, dot, tag = name.partition(".")
            if dot:
                entry.setdefault("vlan-raw-device", raw)
                entry.setdefault("vlan-id", tag)
            elif not entry.get("vlan-raw-device"):
                raise param_error(**{"vlan-raw-device": "vlan-raw-device is required"})
            elif not entry.get("vlan-id"):
                raise param_error(**{"vlan-id": "vlan-id is required"})
        entry["method"] = "static" if entry.get("address") else "manual"
        entry["method6"] = "static" if entry.get("address6") else "manual"
        interfaces[name] = entry
        self._stage(interfaces)

    async def _network_read(self, v: Any, user: str) -> dict[str, Any]:
        if v["iface"] not in self.written:
            raise param_error(iface="interface does not exist")
        shown = self._shown(v["iface"], self.written[v["iface"]])
        del shown["iface"]
        return shown

    async def _network_update(self, v: Any, user: str) -> None:
        interfaces = copy.deepcopy(self.written)
        name = v["iface"]
        if name not in interfaces:
            raise param_error(iface="interface does not exist")
        entry = interfaces[name]
        for key in split_list(v.get("delete")):
            entry.pop(key, None)
            if key in ("cidr", "cidr6"):
                suffix = key[4:]
                for part in ("address", "netmask"):
                    entry.pop(part + suffix, None)
        self._check_gateway(interfaces, name, v)
        entry.update(self._kept(v))
        entry["method"] = "static" if entry.get("address") else "manual"
        entry["method6"] = "static" if entry.get("address6") else "manual"
        self._stage(interfaces)

    async def _network_delete(self, v: Any, user: str) -> None:
        interfaces = copy.deepcopy(self.written)
        if v["iface"] not in interfaces:
            raise param_error(iface="interface does not exist")
        del interfaces[v["iface"]]
        self._stage(interfaces)

    async def _network_revert(self, v: Any, user: str) -> None:
        self.staged = None

    async def _network_apply(self, v: Any, user: str) -> str:
        async def body() -> None:
            if self.reload_error:
                raise TaskError(self.reload_error)
            if self.staged is not None:
                self.interfaces, self.staged = self.staged, None
            self.applied += 1

        return str(await self.task(v["node"], "srvreload", "networking", user, body))

    def with_changes(self, response: Any) -> Any:
        """Return the answer to GET /nodes/{node}/network with the diff beside its data."""
        changes = self.network_changes()
        if response.status != 200 or not changes:
            return response
        return web.json_response({**json.loads(response.text), "changes": changes})
