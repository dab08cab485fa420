# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The interfaces of a node as its API holds them, and a transaction over them: staged piece by piece, applied at once.

GET and the changes of `/nodes/{node}/network` work on a copy of the node's file, `interfaces.new`; PUT puts it in
force, DELETE drops it. Each transaction stamps what it touches, so that the next run tells what a killed one has left
from what somebody else has staged.
"""

from __future__ import annotations

import copy
import re
import secrets
import time
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Set, Tuple

from ...errors import ConnectError
from ...transports.proxmox import ProxmoxSession
from .notes import Comments

STAMP = "run"
STAMPED = re.compile(r"^\+\s*#\s*bareforge-run ", re.MULTILINE)

TAKEN = ("bridge_ports", "slaves", "ovs_ports")
SENT = (
    "autostart",
    "bond-primary",
    "bond_mode",
    "bond_xmit_hash_policy",
    "bridge_ports",
    "bridge_vids",
    "bridge_vlan_aware",
    "cidr",
    "cidr6",
    "comments",
    "gateway",
    "gateway6",
    "mtu",
    "slaves",
    "vlan-id",
    "vlan-raw-device",
)
"""What of an interface is sent back to the API; all else in an answer is derived from it or not ours."""

OUT_OF_REACH = 30.0
"""Seconds for which a node may not answer while its network is reloaded."""

Interface = Dict[str, Any]


def names_in(value: Any) -> Tuple[str, ...]:
    """Return the names of a list as PVE writes it."""
    return tuple(part for part in re.split(r"[\s,;]+", str(value or "")) if part)


class NodeNetwork:
    """The interfaces by name.

    changes: the diff of what is staged and not in force; empty where there is none.
    """

    def __init__(self, interfaces: Dict[str, Interface], changes: str = "") -> None:
        self.interfaces = interfaces
        self.changes = changes

    @classmethod
    def read(cls, session: ProxmoxSession) -> NodeNetwork:
        """Read the interfaces by one request."""
        reply = session.ask("GET", ("nodes", session.node, "network"), {})
        return cls({str(entry["iface"]): dict(entry) for entry in reply.data}, reply.changes)

    @property
    def is_left_over(self) -> bool:
        """Whether a run of ours has staged changes and was killed before it put them in force."""
        return bool(STAMPED.search(self.changes))

    def of_type(self, *types: str) -> Iterator[Tuple[str, Interface]]:
        """Yield (name, interface) of some types, by name."""
        for name in sorted(self.interfaces):
            if self.interfaces[name].get("type") in types:
                yield name, self.interfaces[name]

    def copy(self) -> NodeNetwork:
        """Return interfaces that can be changed without these."""
        return NodeNetwork(copy.deepcopy(self.interfaces), self.changes)

    def comments(self, name: str) -> Comments:
        """Return the comment of an interface."""
        return Comments(self.interfaces[name].get("comments"))

    def set_comments(self, name: str, comments: Comments) -> None:
        """Write the comment of an interface."""
        self.interfaces[name]["comments"] = comments.text()

    def holder_of(self, port: str) -> Optional[str]:
        """Return the interface that has a port or slave, or None."""
        for name, entry in self.interfaces.items():
            if any(port in names_in(entry.get(field)) for field in TAKEN):
                return name
        return None


def all_bridges(session: ProxmoxSession, node: str) -> Set[str]:
    """Return the bridges that VMs of a node can be plugged into, those of the cluster's networks among them."""
    return {str(entry["iface"]) for entry in session.get("nodes", node, "network", type="any_bridge")}


def transfer(session: ProxmoxSession, before: NodeNetwork, after: NodeNetwork) -> None:
    """Take the node's network from one state to another: stage every difference, then put all in force by one reload.

    Raises ApplyError; what was staged by then is dropped.
    """
    changed = [
        name
        for name, entry in after.interfaces.items()
        if name not in before.interfaces or _sent(entry) != _sent(before.interfaces[name])
    ]
    gone = [name for name in before.interfaces if name not in after.interfaces]
    if not changed and not gone:
        return
    stamp = secrets.token_hex(8)
    marked = changed or [_stamp_holder(after)]
    for name in marked:
        comments = after.comments(name)
        comments.replace(STAMP, [stamp])
        after.set_comments(name, comments)
    path = ("nodes", session.node, "network")
    try:
        for method, name, params in _steps(before, after, marked, gone):
            session.ask(method, path if method == "POST" else (*path, name), params)
        upid = session.put(*path)
    except Exception:
        session.ask("DELETE", path, {})
        raise
    _wait_for_reload(session, str(upid))


def _wait_for_reload(session: ProxmoxSession, upid: str) -> None:
    """Wait until the network is reloaded; the node may be out of reach for a while meanwhile."""
    end = time.monotonic() + OUT_OF_REACH
    while True:
        try:
            session.wait({upid: "the reload of the node's network"})
            return
        except ConnectError:
            if time.monotonic() >= end:
                raise
            time.sleep(1.0)


def _stamp_holder(network: NodeNetwork) -> str:
    for types in (("bridge",), ("bond",), ("eth",), ("vlan",)):
        for name, _entry in network.of_type(*types):
            return name
    raise AssertionError("not reached: a node has an interface")


def _sent(entry: Mapping[str, Any]) -> Dict[str, Any]:
    sent: Dict[str, Any] = {}
    for name in SENT:
        value = entry.get(name)
        if name in ("bridge_ports", "slaves", "bridge_vids"):
            value = " ".join(names_in(value))
        elif name == "comments":
            value = str(value or "").rstrip("\n")
        if value not in (None, "", 0, "0"):
            sent[name] = str(value)
    return sent


Step = Tuple[str, str, Dict[str, Any]]


def _steps(before: NodeNetwork, after: NodeNetwork, changed: Sequence[str], gone: Sequence[str]) -> Iterator[Step]:
    """Yield (method, name, parameters) in an order in which every state between is one that PVE takes.

    What gives something up (a port, a gateway) comes before whatever takes it, and what is named is there while it is named.
    """
    kind = {**{name: entry.get("type") for name, entry in after.interfaces.items()}}
    kind.update({name: before.interfaces[name].get("type") for name in gone})
    updates = [name for name in changed if name in before.interfaces]
    yielding = [name for name in updates if _gives_up(before.interfaces[name], after.interfaces[name])]
    for name in gone:
        if kind[name] == "vlan":
            yield "DELETE", name, {}
    for name in yielding:
        # What it takes at the same time may not be free yet.
        entry = {**after.interfaces[name]}
        for field in ("bridge_ports", "slaves"):
            had = names_in(before.interfaces[name].get(field))
            entry[field] = " ".join(port for port in names_in(entry.get(field)) if port in had)
        for field in ("gateway", "gateway6", "cidr", "cidr6"):
            if entry.get(field) != before.interfaces[name].get(field):
                entry[field] = None
        step = _update(name, before.interfaces[name], entry)
        if step is not None:
            yield step
            before = before.copy()
            before.interfaces[name] = entry
    for wanted in ("bridge", "bond", None):
        for name in gone:
            if kind[name] == wanted or (wanted is None and kind[name] not in ("vlan", "bridge", "bond")):
                yield "DELETE", name, {}
    for wanted in ("eth", "bond", "bridge", None):
        for name in changed:
            if kind[name] != wanted and not (wanted is None and kind[name] not in ("eth", "bond", "bridge")):
                continue
            if name in before.interfaces:
                last = _update(name, before.interfaces[name], after.interfaces[name])
                if last is not None:
                    yield last
            else:
                yield "POST", name, {"iface": name, "type": kind[name], **_sent(after.interfaces[name])}


def _gives_up(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    fewer = any(set(names_in(old.get(field))) - set(names_in(new.get(field))) for field in ("bridge_ports", "slaves"))
    return fewer or any(
        old.get(field) and old.get(field) != new.get(field) for field in ("gateway", "gateway6", "cidr", "cidr6")
    )


def _update(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Optional[Step]:
    was, shall = _sent(old), _sent(new)
    params: Dict[str, Any] = {field: value for field, value in shall.items() if was.get(field) != value}
    missing: List[str] = [field for field in was if field not in shall]
    if not params and not missing:
        return None
    if missing:
        params["delete"] = ",".join(missing)
    return "PUT", name, {"type": new.get("type"), **params}
