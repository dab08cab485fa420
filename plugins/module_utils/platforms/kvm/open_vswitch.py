# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The bridges, ports and interfaces in Open vSwitch's database, and one transaction that changes them.

The tables and columns are those of ovs-vswitchd.conf.db(5). Bridges own ports, ports own interfaces; what nobody owns
any more is removed by the database.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Set, Tuple

from ...errors import ApplyError
from ...transports import ovsdb
from ...transports.ovsdb import Row, a_map, a_set, map_of, named_uuid, uuid, value_of, values_of

# What we keep in external_ids: the object as it was asked for.
SWITCH_KEY = "bareforge-virtual-switch"
UPLINK_KEY = "bareforge-uplink"
INTERFACE_KEY = "bareforge-host-interface"

DAEMON_PATIENCE = 60.0  # seconds that ovs-vswitchd has to take a change over
ATTEMPTS = 5

_COLUMNS: Dict[str, Sequence[str]] = {
    "Open_vSwitch": ("_uuid", "bridges", "external_ids", "other_config"),
    "Bridge": ("_uuid", "name", "ports", "external_ids"),
    "Port": (
        "_uuid",
        "name",
        "interfaces",
        "tag",
        "trunks",
        "vlan_mode",
        "bond_mode",
        "lacp",
        "other_config",
        "external_ids",
        "protected",
    ),
    "Interface": ("_uuid", "name", "type", "mtu_request", "mac", "external_ids"),
}


@dataclass(frozen=True)
class Vlans:
    """What a port carries: the columns tag, trunks and vlan_mode."""

    tag: Optional[int] = None
    trunks: Tuple[int, ...] = ()
    mode: Optional[str] = None

    def columns(self) -> Row:
        """Return the columns of a row of Port."""
        return {
            "tag": a_set([] if self.tag is None else [self.tag]),
            "trunks": a_set(self.trunks),
            "vlan_mode": a_set([self.mode] if self.mode else []),
        }


@dataclass(frozen=True)
class InterfaceRow:
    """A row of Interface: a network device."""

    uuid: str
    name: str
    type: str
    mtu_request: Optional[int]
    mac: Optional[str]
    external_ids: Mapping[str, str]

    @property
    def is_guest(self) -> bool:
        """Whether libvirt made it for a VM."""
        return "vm-id" in self.external_ids


@dataclass(frozen=True)
class PortRow:
    """A row of Port: one interface, or several as a bond."""

    uuid: str
    name: str
    interfaces: Tuple[InterfaceRow, ...]
    vlans: Vlans
    bond_mode: Optional[str]
    lacp: Optional[str]
    other_config: Mapping[str, str]
    external_ids: Mapping[str, str]
    protected: bool = False


@dataclass(frozen=True)
class BridgeRow:
    """A row of Bridge."""

    uuid: str
    name: str
    ports: Tuple[PortRow, ...]
    external_ids: Mapping[str, str]

    def local_interface(self) -> Optional[InterfaceRow]:
        """Return the interface that has the bridge's own name."""
        found = self.port(self.name)
        return found[1] if found else None

    def port(self, interface: str) -> Optional[Tuple[PortRow, InterfaceRow]]:
        """Return the port and the row of an interface, by its name, or None."""
        for port in self.ports:
            for row in port.interfaces:
                if row.name == interface:
                    return port, row
        return None

    def guests(self) -> Iterator[InterfaceRow]:
        """Yield the interfaces of VMs."""
        for port in self.ports:
            for row in port.interfaces:
                if row.is_guest:
                    yield row


@dataclass(frozen=True)
class Switches:
    """Everything in the database at one moment.

    root: the UUID of the row in Open_vSwitch. system_id: what tells this host from others.
    bridges: by name. rows: every row as it was read, by table and UUID.
    """

    root: str
    system_id: str
    bridges: Mapping[str, BridgeRow]
    rows: Mapping[Tuple[str, str], Row] = field(repr=False)

    def find(self, interface: str) -> Optional[Tuple[BridgeRow, PortRow, InterfaceRow]]:
        """Return bridge, port and row of an interface, by its name, or None."""
        for bridge in self.bridges.values():
            found = bridge.port(interface)
            if found is not None:
                return (bridge, *found)
        return None


def read_switches() -> Switches:
    """Read everything in one transaction. Raises ConnectError or ReadError."""
    tables = ovsdb.database().select(_COLUMNS)
    rows = {(table, row["_uuid"][1]): row for table, found in tables.items() for row in found}
    interfaces = {
        row["_uuid"][1]: InterfaceRow(
            row["_uuid"][1],
            row["name"],
            row["type"],
            value_of(row["mtu_request"]),
            value_of(row["mac"]),
            map_of(row["external_ids"]),
        )
        for row in tables["Interface"]
    }
    ports = {
        row["_uuid"][1]: PortRow(
            row["_uuid"][1],
            row["name"],
            tuple(sorted((interfaces[key] for key in values_of(row["interfaces"])), key=lambda found: found.name)),
            Vlans(value_of(row["tag"]), tuple(sorted(values_of(row["trunks"]))), value_of(row["vlan_mode"])),
            value_of(row["bond_mode"]),
            value_of(row["lacp"]),
            map_of(row["other_config"]),
            map_of(row["external_ids"]),
            bool(row["protected"]),
        )
        for row in tables["Port"]
    }
    bridges = {
        row["name"]: BridgeRow(
            row["_uuid"][1],
            row["name"],
            tuple(sorted((ports[key] for key in values_of(row["ports"])), key=lambda found: found.name)),
            map_of(row["external_ids"]),
        )
        for row in tables["Bridge"]
    }
    root = tables["Open_vSwitch"][0]
    system_id = map_of(root["external_ids"]).get("system-id", "")
    return Switches(root["_uuid"][1], system_id, bridges, rows)


class Edit:
    """A transaction in the making. It is carried out only if what it was based on has not changed meanwhile.

    switches: what it is based on.
    """

    def __init__(self, switches: Switches) -> None:
        self.switches = switches
        self._operations: List[ovsdb.Operation] = []
        self._expected: Dict[Tuple[str, str], Set[str]] = {}
        self._names = 0
        self.touched: List[Tuple[str, str]] = []

    def expect(self, table: str, row: str, *columns: str) -> None:
        """Make the transaction depend on columns of a row being as they were read."""
        self._expected.setdefault((table, row), set()).update(columns)

    def insert(self, table: str, row: Row) -> List[str]:
        """Insert a row and return the reference to it."""
        self._names += 1
        name = f"row{self._names}"
        self._operations.append({"op": "insert", "table": table, "row": row, "uuid-name": name})
        return named_uuid(name)

    def update(self, table: str, row: str, columns: Row) -> None:
        """Set columns of a row."""
        # Nobody else may have changed what is overwritten.
        self.expect(table, row, *columns)
        self._operations.append({"op": "update", "table": table, "where": [["_uuid", "==", uuid(row)]], "row": columns})

    def mutate(self, table: str, row: str, *mutations: Tuple[str, str, Any]) -> None:
        """Change parts of columns of a row: (column, `insert` or `delete`, set or map)."""
        self._operations.append(
            {
                "op": "mutate",
                "table": table,
                "where": [["_uuid", "==", uuid(row)]],
                "mutations": [list(mutation) for mutation in mutations],
            }
        )

    def set_key(self, table: str, row: str, column: str, key: str, value: Optional[str]) -> None:
        """Set a key of a map column, or remove it where the value is None, and leave the other keys alone."""
        current = map_of(self.switches.rows[table, row][column])
        if current.get(key) == value:
            return
        # An insert leaves a key that exists as it is (RFC 7047, 5.1), so it is removed first.
        self.mutate(table, row, (column, "delete", a_set([key])))
        if value is not None:
            self.mutate(table, row, (column, "insert", a_map({key: value})))

    def add_ports(self, bridge: Any, *ports: Any) -> None:
        """Add ports, by reference, to a bridge that exists."""
        self.expect("Bridge", bridge.uuid, "ports")
        self.mutate("Bridge", bridge.uuid, ("ports", "insert", a_set(ports)))

    def remove_ports(self, bridge: BridgeRow, *ports: PortRow) -> None:
        """Take ports away from a bridge; unless another one gets them, they are gone."""
        self.expect("Bridge", bridge.uuid, "ports")
        self.mutate("Bridge", bridge.uuid, ("ports", "delete", a_set([uuid(port.uuid) for port in ports])))

    def add_bridge(self, reference: List[str]) -> None:
        """Make an inserted bridge last."""
        self.mutate("Open_vSwitch", self.switches.root, ("bridges", "insert", a_set([reference])))

    def allow_tunnels(self) -> None:
        """Let Open vSwitch look at the second VLAN tag of a frame, without which a tunnel would not see that there is one."""
        limit = map_of(self.switches.rows["Open_vSwitch", self.switches.root]["other_config"]).get("vlan-limit", "1")
        if limit == "1":
            self.set_key("Open_vSwitch", self.switches.root, "other_config", "vlan-limit", "2")

    def remove_bridge(self, bridge: BridgeRow) -> None:
        """Remove a bridge with all that it has."""
        # A port that came meanwhile, a VM's perhaps, must not be taken along unseen.
        self.expect("Bridge", bridge.uuid, "ports")
        self.mutate("Open_vSwitch", self.switches.root, ("bridges", "delete", a_set([uuid(bridge.uuid)])))

    def touch(self, interface: str, place: str) -> None:
        """Have an interface looked at when the transaction is done. place: the object that it belongs to."""
        self.touched.append((interface, place))

    def is_empty(self) -> bool:
        """Return whether there is nothing to do."""
        return not self._operations

    def commit(self, what: str) -> None:
        """Carry the transaction out and wait until the switches are as the database says.

        what: for messages.
        Raises ConcurrentEdit, ApplyError or ConnectError.
        """
        root = self.switches.root
        show = {
            "op": "select",
            "table": "Open_vSwitch",
            "where": [["_uuid", "==", uuid(root)]],
            "columns": ["next_cfg", "cur_cfg"],
        }
        waits = [self._wait(table, row, columns) for (table, row), columns in self._expected.items()]
        count: ovsdb.Operation = {
            "op": "mutate",
            "table": "Open_vSwitch",
            "where": [["_uuid", "==", uuid(root)]],
            "mutations": [["next_cfg", "+=", 1]],
        }
        database = ovsdb.database()
        results = database.transact([*waits, *self._operations, count, show], what)
        # Where the commit itself fails, its error stands behind the results (RFC 7047, 4.1.3).
        numbers = results[len(waits) + len(self._operations) + 1]["rows"][0]
        database.wait_for_daemon(root, int(numbers["next_cfg"]), int(numbers["cur_cfg"]), DAEMON_PATIENCE, what)
        self._check(what)

    def _wait(self, table: str, row: str, columns: Set[str]) -> ovsdb.Operation:
        names = sorted(columns)
        return {
            "op": "wait",
            "timeout": 0,
            "table": table,
            "where": [["_uuid", "==", uuid(row)]],
            "columns": names,
            "until": "==",
            "rows": [{name: self.switches.rows[table, row][name] for name in names}],
        }

    def _check(self, what: str) -> None:
        if not self.touched:
            return
        questions = [
            {"op": "select", "table": "Interface", "where": [["name", "==", name]], "columns": ["error"]}
            for name, _place in self.touched
        ]
        faults = []
        for (name, place), answer in zip(self.touched, ovsdb.database().transact(questions, what)):
            for row in answer["rows"]:
                if value_of(row["error"]):
                    faults.append(f"{place}: Open vSwitch cannot use interface {name!r}: {value_of(row['error'])}")
        if faults:
            raise ApplyError("; ".join(faults))


def edit(build: Callable[[Edit], None], what: str) -> None:
    """Read, let an edit be built on what was read, and carry it out; again where somebody else was faster.

    build: adds to the edit what shall be done; called once an attempt.
    what: for messages.
    Raises ApplyError or ConnectError.
    """
    for _attempt in range(ATTEMPTS):
        transaction = Edit(read_switches())
        build(transaction)
        if transaction.is_empty():
            return
        try:
            transaction.commit(what)
            return
        except ovsdb.ConcurrentEdit:
            continue
    raise ApplyError(f"{what}: somebody else keeps changing the same switches; {ATTEMPTS} attempts were made")
