# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A KVM host's switches in memory: Open vSwitch's database, systemd-networkd, bridges and libvirt's networks.

It does of each what the platform relies on, for tests of the order of steps: networkd makes devices and never removes
them, Open vSwitch takes ports that its database has and lets go of others, a device that is deleted frees its members.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Set, Tuple

from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import ApplyError
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm import (
    guest_ports,
    host_devices,
    libvirt_networks,
    linux_bridge,
    network,
    network_manager,
    networkd,
    port_acl,
    renderer_of_host,
    routing,
    virtual_network,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.host_devices import (
    DeviceAddress,
    HostAddresses,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.libvirt_networks import LibvirtNetwork
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.management_path import ManagementPath
from ansible_collections.bareforge.hypervisor.plugins.module_utils.transports import nftables, ovsdb

DEFAULTS: Dict[str, Dict[str, Any]] = {
    "Bridge": {"ports": ["set", []], "external_ids": ["map", []]},
    "Port": {
        "interfaces": ["set", []],
        "tag": ["set", []],
        "trunks": ["set", []],
        "vlan_mode": ["set", []],
        "bond_mode": ["set", []],
        "lacp": ["set", []],
        "other_config": ["map", []],
        "external_ids": ["map", []],
        "protected": False,
    },
    "Interface": {
        "type": "",
        "mtu_request": ["set", []],
        "mac": ["set", []],
        "external_ids": ["map", []],
        "error": ["set", []],
    },
}
OWNED = (("Open_vSwitch", "bridges", "Bridge"), ("Bridge", "ports", "Port"), ("Port", "interfaces", "Interface"))


@dataclasses.dataclass
class Device:
    """A network device."""

    kind: str = "hardware"
    master: Optional[str] = None
    up: bool = False
    mtu: int = 1500
    mac: str = "02:00:00:00:00:99"
    addresses: Tuple[str, ...] = ()
    native: Optional[int] = None
    tagged: Set[int] = dataclasses.field(default_factory=set)
    isolated: bool = False
    peer: Optional[str] = None
    settings: Dict[str, str] = dataclasses.field(default_factory=dict)


class Database:
    """Open vSwitch's database: what RFC 7047 says of the operations that the platform uses."""

    def __init__(self, changed: Callable[[], None]) -> None:
        root = {
            "bridges": ["set", []],
            "external_ids": ["map", [["system-id", "here"]]],
            "other_config": ["map", []],
            "next_cfg": 0,
            "cur_cfg": 0,
        }
        self.tables: Dict[str, Dict[str, Dict[str, Any]]] = {
            "Open_vSwitch": {"root": root},
            **{t: {} for t in DEFAULTS},
        }
        self.changed = changed
        self.count = 0

    def select(self, columns: Any) -> Any:
        return {
            table: [
                {name: ["uuid", key] if name == "_uuid" else row[name] for name in names}
                for key, row in self.tables[table].items()
            ]
            for table, names in columns.items()
        }

    def transact(self, operations: Any, what: str, otherwise: Any = None) -> Any:
        del what, otherwise
        named: Dict[str, str] = {}
        for operation in operations:
            if operation["op"] == "insert":
                self.count += 1
                named[operation["uuid-name"]] = f"u{self.count}"

        def real(value: Any) -> Any:
            if isinstance(value, dict):
                return {name: real(inner) for name, inner in value.items()}
            if isinstance(value, list):
                if len(value) == 2 and value[0] == "named-uuid":
                    return ["uuid", named[value[1]]]
                return [real(inner) for inner in value]
            return value

        results: List[Any] = []
        for operation in operations:
            kind = operation["op"]
            rows = self.tables[operation["table"]]
            if kind == "insert":
                row = {**json.loads(json.dumps(DEFAULTS[operation["table"]])), **real(operation["row"])}
                rows[named[operation["uuid-name"]]] = row
                results.append({})
                continue
            found = [row for key, row in rows.items() if self._matches(key, row, operation["where"])]
            if kind == "select":
                results.append({"rows": [{name: row[name] for name in operation["columns"]} for row in found]})
                continue
            for row in found:
                if kind == "update":
                    row.update(real(operation["row"]))
                for column, verb, value in operation.get("mutations", ()):
                    self._mutate(row, column, verb, real(value))
            results.append({})
        self._collect()
        if any(operation["op"] in ("insert", "update", "mutate") for operation in operations):
            self.changed()
        return results

    @staticmethod
    def _matches(key: str, row: Any, where: Any) -> bool:
        return all((["uuid", key] if column == "_uuid" else row[column]) == value for column, _operator, value in where)

    @staticmethod
    def _mutate(row: Any, column: str, verb: str, value: Any) -> None:
        if verb == "+=":
            row[column] += value
            return
        kind, present = (
            row[column]
            if isinstance(row[column], list) and row[column][0] in ("set", "map")
            else ("set", [row[column]])
        )
        given = value[1] if value[0] in ("set", "map") else [value]
        if verb == "delete":
            keys = [entry if kind == "set" else entry[0] if isinstance(entry, list) else entry for entry in given]
            present = [entry for entry in present if (entry[0] if kind == "map" else entry) not in keys]
        else:
            present = [*present, *(entry for entry in given if entry not in present)]
        row[column] = [kind, present]

    def _collect(self) -> None:
        for parent, column, child in OWNED:
            owned = {key for row in self.tables[parent].values() for key in ovsdb.values_of(row[column])}
            self.tables[child] = {key: row for key, row in self.tables[child].items() if key in owned}

    def wait_for_daemon(self, *_arguments: Any) -> None:
        return

    def interfaces(self) -> Dict[str, Dict[str, Any]]:
        return {row["name"]: row for row in self.tables["Interface"].values()}


class NetworkHost:
    """The host. Steps are counted, and one of them can be made the last of a run."""

    def __init__(self, folder: Path, monkeypatch: Any) -> None:
        self.folder = folder
        self.devices: Dict[str, Device] = {name: Device() for name in ("mgmt0", "eth1", "eth2")}
        self.database = Database(self._sync_switches)
        self.libvirt: Dict[str, Any] = {}
        self.steps: List[str] = []
        self.last_step = 0
        self.routing: Any = None
        self.patch = monkeypatch
        for name in ("networkd", "bareforge"):
            (folder / name).mkdir(parents=True)
        self._replace_devices()
        self._replace_networkd()
        self._replace_libvirt()
        monkeypatch.setattr(ovsdb, "database", lambda: self.database)
        monkeypatch.setattr(guest_ports, "FOLDER", str(folder / "bareforge"))
        monkeypatch.setattr(guest_ports, "HOOK_FILE", str(folder / "hook"))
        monkeypatch.setattr(port_acl, "_DAEMONS", ())
        monkeypatch.setattr(nftables, "list_table", lambda *_table: None)
        monkeypatch.setattr(network, "management_ports", lambda: ["22"])
        monkeypatch.setattr(network, "configured_by_ifupdown", lambda _device: None)
        monkeypatch.setattr(
            network,
            "find_management_path",
            lambda _host: ManagementPath(frozenset({"mgmt0"}), frozenset(), frozenset()),
        )
        monkeypatch.setattr(
            routing, "is_in_force", lambda wanted: wanted == self.routing or (wanted.is_empty() and not self.routing)
        )
        monkeypatch.setattr(routing, "held_back_by_forwarding", lambda _routing: set())
        monkeypatch.setattr(routing, "put_in_force", self._route)

    def step(self, what: str) -> None:
        """Count a step; the run dies before the one that was made its last."""
        self.steps.append(what)
        if len(self.steps) == self.last_step:
            raise Killed(what)

    def _route(self, wanted: Any) -> None:
        if not routing.is_in_force(wanted):
            self.step("routing")
            self.routing = None if wanted.is_empty() else wanted

    # -- Devices ---------------------------------------------------------------------------------------------------

    def _replace_devices(self) -> None:
        devices = self.devices

        def fact(read: Callable[[Device], Any], otherwise: Any = None) -> Any:
            return lambda name: read(devices[name]) if name in devices else otherwise

        replaced: Dict[str, Any] = {
            "exists": lambda name: name in devices,
            "device_names": lambda: sorted(devices),
            "is_uplink_like": fact(lambda device: device.kind in ("hardware", "bond"), False),
            "is_tap": fact(lambda device: device.kind == "tap", False),
            "is_linux_bridge": fact(lambda device: device.kind == "bridge", False),
            "is_up": fact(lambda device: device.up, False),
            "mtu_of": fact(lambda device: device.mtu),
            "mac_of": fact(lambda device: device.mac),
            "master_of": fact(lambda device: device.master),
            "read_addresses": self.addresses,
        }
        for name, function in replaced.items():
            self.patch.setattr(host_devices, name, function)
        self.patch.setattr(network, "read_addresses", self.addresses)
        self.patch.setattr(linux_bridge, "ports", self.members)
        self.patch.setattr(linux_bridge, "_members", self.members)
        self.patch.setattr(
            linux_bridge,
            "_attribute",
            lambda bond, name: devices[bond].settings.get(name, "") if bond in devices else "",
        )
        self.patch.setattr(
            linux_bridge,
            "_filters",
            lambda name: devices[name].settings.get("VLANFiltering") == "yes" if name in devices else False,
        )
        self.patch.setattr(
            linux_bridge, "is_isolated", lambda name: devices[name].isolated if name in devices else False
        )
        self.patch.setattr(linux_bridge, "run_command", self.run_command)

    def members(self, master: str) -> List[str]:
        return sorted(name for name, device in self.devices.items() if device.master == master)

    def addresses(self) -> HostAddresses:
        shown = {
            name: tuple(DeviceAddress(address, False, True) for address in device.addresses)
            for name, device in self.devices.items()
        }
        return HostAddresses(shown, {})

    def delete(self, name: str) -> None:
        device = self.devices.pop(name)
        for other in self.devices.values():
            if other.master == name:
                other.master = None
        if device.peer in self.devices:
            del self.devices[device.peer]

    def run_command(self, argv: Any, timeout: float = 60, given: str = "") -> str:
        del timeout
        words = " ".join(argv)
        if words == "bridge -j -c vlan show":
            return json.dumps(
                [self._vlans_of(name) for name, device in self.devices.items() if device.native or device.tagged]
            )
        self.step(words)
        if words.startswith("ip link delete "):
            self.delete(argv[-1])
        elif words.endswith(" nomaster"):
            device = self.devices[argv[4]]
            device.master, device.native, device.tagged = None, None, set()
        elif words == "bridge -batch -":
            for line in given.splitlines():
                self._bridge(line.split())
        elif "vlan_filtering" in words:
            self.devices[argv[4]].settings["VLANFiltering"] = "yes" if argv[-1] == "1" else "no"
        else:
            raise AssertionError(words)
        return ""

    def _vlans_of(self, name: str) -> Any:
        device = self.devices[name]
        native = [{"vlan": device.native, "flags": ["PVID", "Egress Untagged"]}] if device.native else []
        return {"ifname": name, "vlans": [*native, *({"vlan": number} for number in sorted(device.tagged))]}

    def _bridge(self, words: List[str]) -> None:
        device = self.devices[words[3]]
        if words[:2] == ["link", "set"]:
            device.isolated = words[-1] == "on"
            return
        first, _dash, last = words[5].partition("-")
        numbers = set(range(int(first), int(last or first) + 1))
        device.tagged -= numbers
        if device.native in numbers:
            device.native = None
        if words[1] == "add" and "pvid" in words:
            device.native = int(first)
        elif words[1] == "add":
            device.tagged |= numbers

    # -- systemd-networkd ------------------------------------------------------------------------------------------

    def _replace_networkd(self) -> None:
        self.patch.setattr(networkd, "FOLDER", str(self.folder / "networkd"))
        self.patch.setattr(networkd, "PATIENCE", 0.0)
        wait = networkd.wait_until
        self.patch.setattr(networkd, "wait_until", lambda condition: wait(condition, 0.0))
        for name in ("write", "remove"):
            self.patch.setattr(networkd, name, self._stepping(name, getattr(networkd, name)))
        self.patch.setattr(networkd, "apply", self._configure)

    def _stepping(self, name: str, function: Any) -> Any:
        def call(device: str, *arguments: Any) -> Any:
            self.step(f"{name} {device}")
            return function(device, *arguments)

        return call

    def _configure(self, changed: bool, devices: Any) -> None:
        if not changed and not devices:
            return
        self.step("networkctl reload")
        files = {path: self._sections(path) for path in sorted((self.folder / "networkd").iterdir())}
        for path, sections in files.items():
            if path.suffix == ".netdev":
                self._make(sections)
        for path, sections in files.items():
            if path.suffix == ".network":
                self._set(sections)

    @staticmethod
    def _sections(path: Path) -> List[Tuple[str, List[Tuple[str, str]]]]:
        sections: List[Tuple[str, List[Tuple[str, str]]]] = []
        for line in path.read_text().splitlines():
            if line.startswith("["):
                sections.append((line.strip("[]"), []))
            elif not line.startswith("#"):
                key, _equals, value = line.partition("=")
                sections[-1][1].append((key, value))
        return sections

    def _make(self, sections: Any) -> None:
        made = {name: dict(entries) for name, entries in sections}
        device = made["NetDev"]
        if device["Name"] in self.devices:
            return
        settings = {**made.get("Bridge", {}), "mode": made.get("Bond", {}).get("Mode", "")}
        mac = device.get("MACAddress", "02:00:00:00:00:98")
        peer = made.get("Peer", {}).get("Name")
        self.devices[device["Name"]] = Device(device["Kind"], mac=mac, settings=settings, peer=peer)
        if peer:
            self.devices[peer] = Device("veth", peer=device["Name"])

    def _set(self, sections: Any) -> None:
        [name] = [value for title, entries in sections if title == "Match" for _key, value in entries]
        device = self.devices.get(name)
        if device is None:
            return
        device.up = True
        device.addresses = tuple(
            sorted(value for _title, entries in sections for key, value in entries if key == "Address")
        )
        found = {
            key: value
            for title, entries in sections
            if title in ("Link", "Network", "Bridge")
            for key, value in entries
        }
        device.mtu = int(found.get("MTUBytes", device.mtu))
        device.mac = found.get("MACAddress", device.mac)
        master = found.get("Bridge") or found.get("Bond")
        if device.master != "ovs-system":
            device.master = master if master in self.devices else None
        if found.get("PrimarySlave") and device.master:
            self.devices[device.master].settings["primary"] = name
        for title, entries in sections:
            for key, value in entries if title == "BridgeVLAN" else ():
                first, _dash, last = value.partition("-")
                if key == "PVID":
                    device.native = int(value)
                elif key == "VLAN":
                    # systemd 252 adds what a file says, and takes nothing away.
                    device.tagged |= set(range(int(first), int(last or first) + 1))

    # -- Open vSwitch ----------------------------------------------------------------------------------------------

    def commit(self) -> None:
        self.step("commit")

    def _sync_switches(self) -> None:
        rows = self.database.interfaces()
        for name, row in rows.items():
            if row["type"] == "internal" and name not in self.devices:
                self.devices[name] = Device("openvswitch")
            device = self.devices.get(name)
            if device is None:
                continue
            if device.master not in (None, "ovs-system"):
                row["error"] = f"could not add network device {name}: busy"
                continue
            device.master = "ovs-system"
            device.mtu = ovsdb.value_of(row["mtu_request"]) or device.mtu
            device.mac = ovsdb.value_of(row["mac"]) or device.mac
        for name, device in list(self.devices.items()):
            if name not in rows and device.master == "ovs-system":
                device.master = None
                if device.kind == "openvswitch":
                    del self.devices[name]

    # -- libvirt ---------------------------------------------------------------------------------------------------

    def _replace_libvirt(self) -> None:
        def read_networks(names: Any) -> Any:
            return {
                name: LibvirtNetwork(name, True, root, root) for name, root in self.libvirt.items() if name in names
            }

        def ensure(switch: str, linux: bool = False) -> None:
            self.step(f"ensure {switch}")
            self.libvirt.setdefault(switch, virtual_network.new_libvirt_network(switch, linux))

        def put(switch: str, networks: Any, linux: bool = False) -> None:
            self.step(f"put {switch}")
            self.libvirt.setdefault(switch, virtual_network.new_libvirt_network(switch, linux))
            for name, item in networks.items():
                virtual_network.put(self.libvirt[switch], name, item)

        def remove(switch: str) -> None:
            self.step(f"undefine {switch}")
            self.libvirt.pop(switch, None)

        for function in (read_networks, ensure, put, remove):
            self.patch.setattr(libvirt_networks, function.__name__, function)
        self.patch.setattr(libvirt_networks, "guest_ports", lambda running_only: [])
        self.patch.setattr(libvirt_networks, "limit_guests", lambda networks: self.step("limits"))

    def left(self) -> List[str]:
        """Return what is there beside the hardware."""
        files = [entry for _folder, _folders, names in os.walk(self.folder) for entry in names]
        return sorted({*self.devices, *self.database.interfaces(), *self.libvirt, *files} - {"mgmt0", "eth1", "eth2"})


class NetworkManagerHost(NetworkHost):
    """The host with NetworkManager, which knows a profile once it is told to load it, and takes it away where it is gone.

    What a device that is in use loses is given back at once: NetworkManager makes anew what is deleted and puts ports back.
    """

    def __init__(self, folder: Path, monkeypatch: Any) -> None:
        super().__init__(folder, monkeypatch)
        self.profiles: Dict[str, Dict[str, str]] = {}
        self.used: Dict[str, Dict[str, str]] = {}
        for name in ("PROFILES", "CONFIGURATION"):
            made = folder / "NetworkManager" / name.lower()
            made.mkdir(parents=True)
            monkeypatch.setattr(network_manager, name, str(made))
        self.patch.setattr(network_manager, "_nmcli", self.nmcli)
        self.patch.setattr(network_manager, "OPEN_VSWITCH_PLUGIN", ())
        self.patch.setattr(network_manager, "PATIENCE", 0.0)
        self.patch.setattr(network_manager, "DEVICE_PATIENCE", 0.0)
        renderer = network_manager.NetworkManagerRenderer()
        for name in ("write", "remove"):
            self.patch.setattr(renderer, name, self._stepping(name, getattr(renderer, name)))
        self.patch.setattr(renderer_of_host, "renderer", lambda: renderer)

    @staticmethod
    def _read(path: str) -> Dict[str, str]:
        found, section = {}, ""
        for line in Path(path).read_text(encoding="ascii").splitlines():
            if line.startswith("["):
                section = line.strip("[]")
            elif line and not line.startswith("#"):
                key, _equals, value = line.partition("=")
                found[f"{section}.{key}"] = value
        return found

    def nmcli(self, *arguments: str) -> str:
        words = " ".join(arguments)
        if words == "--get-values UUID connection show --active":
            return "\n".join(profile["connection.uuid"] for profile in self.used.values())
        self.step(f"nmcli {words}")
        if words == "general reload conf":
            return ""
        if arguments[:2] == ("connection", "load"):
            for path in arguments[2:]:
                self._load(path)
        elif arguments[:2] == ("device", "reapply"):
            self._reapply(arguments[2])
        elif arguments[:2] == ("device", "delete"):
            self.used.pop(arguments[2])
            self.delete(arguments[2])
        elif arguments[:3] == ("connection", "down", "uuid"):
            self._stop(self._device_of(arguments[3]))
        elif arguments[2:5] == ("connection", "up", "uuid"):
            self._use(self._device_of(arguments[5]))
        else:
            raise AssertionError(words)
        return ""

    def _device_of(self, uuid: str) -> str:
        [device] = [device for device, profile in self.profiles.items() if profile["connection.uuid"] == uuid]
        return device

    def _load(self, path: str) -> None:
        if os.path.exists(path):
            profile = self._read(path)
            self.profiles[profile["connection.interface-name"]] = profile
            return
        device = Path(path).name[len(network_manager.PREFIX) : -len(network_manager.PROFILE)]
        self.profiles.pop(device, None)
        if device in self.used:
            self._stop(device)

    def _stop(self, name: str) -> None:
        profile = self.used.pop(name)
        if name not in self.devices:
            return
        if profile["connection.type"] in ("bridge", "bond", "veth"):
            self.delete(name)
            return
        device = self.devices[name]
        device.addresses = ()
        if device.master != "ovs-system":
            device.master, device.native, device.tagged = None, None, set()

    def delete(self, name: str) -> None:
        super().delete(name)
        self.used = {
            device: profile for device, profile in self.used.items() if device in self.devices or device == name
        }
        if name in self.used:
            self._use(name)

    def _reapply(self, name: str) -> None:
        old, new = self.used[name], self.profiles[name]
        fixed = ("connection.master", "connection.type", "bridge-port.vlans", "veth.peer")
        if any(old.get(key) != new.get(key) for key in (*fixed, *(key for key in new if key.startswith("bond.")))):
            raise ApplyError("Can't reapply any changes to a setting")
        self._use(name)

    def _use(self, name: str) -> None:
        profile = self.profiles[name]
        kind = profile["connection.type"]
        if name not in self.devices:
            assert kind in ("bridge", "bond", "veth"), name
            filtering = {"VLANFiltering": "yes" if profile.get("bridge.vlan-filtering") == "true" else "no"}
            settings = {**filtering, "mode": profile.get("bond.mode", "")}
            peer = profile.get("veth.peer")
            self.devices[name] = Device(kind, settings=settings, peer=peer)
            if peer:
                self.devices[peer] = Device("veth", peer=name)
        device = self.devices[name]
        if kind == "bond":
            device.settings.update(mode=profile["bond.mode"], primary=profile.get("bond.primary", ""))
        self.used[name] = profile
        device.up = True
        device.mtu = int(profile.get("ethernet.mtu", device.mtu))
        device.mac = profile.get("ethernet.cloned-mac-address", device.mac)
        device.addresses = tuple(sorted(value for key, value in profile.items() if ".address" in key))
        if device.master == "ovs-system":
            return
        device.master = self._device_of(profile["connection.master"]) if "connection.master" in profile else None
        if device.master and device.master not in self.used:
            self._use(device.master)
        if "bridge-port.vlans" in profile:
            native, *tagged = profile["bridge-port.vlans"].split(", ")
            device.native = int(native.split()[0])
            device.tagged = set()
            for span in tagged:
                first, _dash, last = span.partition("-")
                device.tagged |= set(range(int(first), int(last or first) + 1))

    def run_command(self, argv: Any, timeout: float = 60, given: str = "") -> str:
        answer = super().run_command(argv, timeout, given)
        if " ".join(argv).endswith(" nomaster") and argv[4] in self.used:
            self._use(argv[4])
        return answer


class Killed(BaseException):
    """The run was killed."""
