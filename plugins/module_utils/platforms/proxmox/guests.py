# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The VMs of a node as its API tells them: a list by one request, and a configuration each, several at a time."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Collection, Dict, Iterable, Iterator, List, Mapping, Optional, Tuple

from ...transports.proxmox import ProxmoxSession, Read
from .notes import split_description
from .property_strings import split, split_nic

UNFINISHED = "bareforge-unfinished-"
"""What the name of a VM begins with as long as it is being made."""

TO_BE = {"running": "bareforge-to-start", "suspended": "bareforge-to-suspend"}
"""The tag of a VM that is complete and that a run is about to start, by what it shall be. The list of VMs tells tags."""

DRIVE = re.compile(r"(virtio|scsi|sata|ide)(\d+)")
NIC = re.compile(r"net(\d+)")


@dataclass
class Guest:
    """A VM or template.

    status: `running` or `stopped`. paused: whether its processors are stopped while it runs.
    pid: the process that runs it. config: its configuration as it is in force.
    tags: the user's. to_be: what a run that was killed was about to bring it to, one of TO_BE, or None.
    description: the user's part of it. facts: what we keep there.
    """

    vmid: int
    name: str
    status: str = "stopped"
    paused: bool = False
    template: bool = False
    lock: Optional[str] = None
    pid: Optional[int] = None
    tags: Tuple[str, ...] = ()
    to_be: Optional[str] = None
    config: Dict[str, Any] = field(default_factory=dict)
    description: Optional[str] = None
    facts: Dict[str, Any] = field(default_factory=dict)

    @property
    def runs(self) -> bool:
        """Whether it runs, paused or not."""
        return self.status == "running"

    @property
    def is_unfinished(self) -> bool:
        """Whether it is what a run has not finished making."""
        return self.name.startswith(UNFINISHED)

    @property
    def state(self) -> str:
        """What it does, in PVE's words."""
        return "paused" if self.runs and self.paused else self.status

    @property
    def has_agent(self) -> bool:
        """Whether PVE asks an agent in it."""
        return split(self.config.get("agent"), "enabled").get("enabled") == "1"

    @property
    def is_locked(self) -> bool:
        """Whether PVE keeps its configuration from being changed; it does not where the VM is suspended to disk."""
        return self.lock not in (None, "suspended")

    def take(self, config: Dict[str, Any]) -> None:
        """Take over a configuration that was read."""
        self.config = config
        self.description, self.facts = split_description(config.get("description"))
        self.take_tags(config.get("tags"))

    def take_tags(self, text: Any) -> None:
        """Take over the tags that were read."""
        words = {part for part in re.split(r"[;,\s]+", str(text or "")) if part}
        self.to_be = next((power for power, tag in TO_BE.items() if tag in words), None)
        self.tags = tuple(sorted(words - set(TO_BE.values())))

    def nics(self) -> Iterator[Tuple[str, str, Dict[str, str]]]:
        """Yield (key, name, parts) of its adapters in their order."""
        named = self.facts.get("nics") or {}
        keys = [key for key in self.config if NIC.fullmatch(key)]
        for key in sorted(keys, key=lambda key: int(key[3:])):
            known = named.get(key) or [key]
            yield key, str(known[0]), split_nic(self.config[key])

    def nic_network(self, key: str) -> Optional[str]:
        """Return the network that an adapter was last put on, as we remember it."""
        known = (self.facts.get("nics") or {}).get(key) or []
        return str(known[1]) if len(known) > 1 else None

    def drives(self) -> Iterator[Tuple[str, Dict[str, str]]]:
        """Yield (key, parts) of its drives, CD-ROMs and cloud-init among them."""
        for key in sorted(self.config, key=_drive_order):
            if DRIVE.fullmatch(key):
                yield key, split(self.config[key], "file")

    def disks(self) -> Iterator[Tuple[str, str, Dict[str, str]]]:
        """Yield (key, name, parts) of its disks, the one that it boots from first and otherwise in the order of our own list."""
        named = {str(key): str(name) for key, name in self.facts.get("disks") or ()}
        found = [
            (key, parts)
            for key, parts in self.drives()
            if parts.get("media") != "cdrom" and "cloudinit" not in parts["file"]
        ]
        order = list(named)
        found.sort(
            key=lambda entry: (order.index(entry[0]) if entry[0] in order else len(order), _drive_order(entry[0]))
        )
        for key, parts in found:
            yield key, named.get(key, key), parts

    def cloud_init(self) -> Optional[str]:
        """Return the key of its cloud-init drive, or None."""
        return next((key for key, parts in self.drives() if "cloudinit" in parts["file"]), None)


def _drive_order(key: str) -> Tuple[str, int]:
    found = DRIVE.fullmatch(key)
    return (found.group(1), int(found.group(2))) if found else (key, 0)


def list_guests(session: ProxmoxSession) -> List[Guest]:
    """Return the VMs and templates of the node without their configurations, by one request."""
    entries = session.get("nodes", session.node, "qemu", full=True)
    guests = [
        Guest(
            vmid=int(entry["vmid"]),
            name=str(entry.get("name") or f"VM {entry['vmid']}"),
            status=str(entry.get("status", "stopped")),
            paused=str(entry.get("qmpstatus", "")) in ("paused", "suspended"),
            template=bool(entry.get("template")),
            lock=entry.get("lock"),
            pid=int(entry["pid"]) if entry.get("pid") else None,
        )
        for entry in entries
    ]
    for guest, entry in zip(guests, entries):
        guest.take_tags(entry.get("tags"))
    return sorted(guests, key=lambda guest: guest.vmid)


def snapshot_names(entries: Iterable[Mapping[str, Any]]) -> List[str]:
    """Return the names of a VM's snapshots by what PVE lists of them, which is also what the VM is now."""
    return sorted(str(entry["name"]) for entry in entries if entry["name"] != "current")


def joined_tags(tags: Collection[str], power: Optional[str] = None) -> str:
    """Return tags as PVE keeps them.

    power: with the mark of a VM that is about to be brought to this; no mark where it is None or takes no start.
    """
    return ";".join(sorted([*tags, *([TO_BE[power]] if power in TO_BE else [])]))


def read_configurations(session: ProxmoxSession, guests: Collection[Guest]) -> None:
    """Fill in the configurations of VMs, as they are in force."""
    wanted = list(guests)
    reads = [Read(("nodes", session.node, "qemu", guest.vmid, "config"), {"current": 1}) for guest in wanted]
    for guest, config in zip(wanted, session.get_many(reads)):
        guest.take(config)
