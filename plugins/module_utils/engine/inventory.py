# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an inventory is told of the VMs of a host, whatever its platform.

A platform adds a reader, a class derived from :class:`InventoryReader`, and one line in `platforms/registry.py`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Collection, Dict, List, Mapping, Optional, Tuple

from .platform import Interface

SOURCES = ("agent", "lease", "neighbour", "document")
"""Where an address of a guest is known from: its agent, the host's DHCP server, the host's neighbour table (ARP and
NDP), or what was asked for when the VM was made."""


@dataclass(frozen=True)
class SeenAddress:
    """An address of a guest.

    address: without a prefix length. source: one of SOURCES. nic: the name of the NIC, or None where it is not known.
    """

    address: str
    source: str
    nic: Optional[str] = None


@dataclass(frozen=True)
class InventoryNic:
    """A network adapter of a VM.

    vlan: the VLAN of its untagged frames, None where that is not known and 0 where there is none.
    trunk: the VLANs that it carries tagged, as ranges.
    """

    name: str
    mac: Optional[str] = None
    network: Optional[str] = None
    vlan: Optional[int] = None
    trunk: Tuple[str, ...] = ()


@dataclass(frozen=True)
class InventoryVm:
    """A VM as an inventory shows it.

    power: running, stopped or suspended. state: the same in the host's own words.
    managed: whether this collection has made it.
    hostname: the guest's host name, where its agent or its document tells it.
    cpus: the number of its processors. memory: in MiB.
    """

    name: str
    power: str
    state: str = ""
    uuid: Optional[str] = None
    managed: bool = False
    template: Optional[str] = None
    hostname: Optional[str] = None
    description: Optional[str] = None
    cpus: Optional[int] = None
    memory: Optional[int] = None
    tags: Tuple[str, ...] = ()
    nics: Tuple[InventoryNic, ...] = ()
    addresses: Tuple[SeenAddress, ...] = ()

    def to_plain(self) -> Dict[str, Any]:
        """Return it as plain data, for the way from the host and for the cache."""
        return dataclasses.asdict(self)

    @classmethod
    def from_plain(cls, data: Mapping[str, Any]) -> InventoryVm:
        """Return what :meth:`to_plain` was made from. Raises TypeError or KeyError for anything else."""
        fields = dict(data)
        fields["tags"] = tuple(data["tags"])
        fields["nics"] = tuple(InventoryNic(**{**nic, "trunk": tuple(nic["trunk"])}) for nic in data["nics"])
        fields["addresses"] = tuple(SeenAddress(**address) for address in data["addresses"])
        return cls(**fields)


class InventoryReader(Interface):
    """Base of the readers: the part of a platform that tells an inventory what VMs there are.

    platform: the platform that it is a part of, or None where it reads by itself, so that nothing else has to be loaded.
    """

    def __init__(self, platform: Any = None) -> None:
        self.platform = platform

    def vms(
        self, sources: Collection[str], agent_timeout: int, settings: Mapping[str, Any], warnings: List[str]
    ) -> List[InventoryVm]:
        """Return the VMs of the host, in as few round trips as it allows.

        sources: those of SOURCES that are wanted; the others are not looked at.
        agent_timeout: how many seconds a guest's agent may take for an answer.
        settings: how an API is reached, the values of `ConnectionSettings`; nothing for a reader that runs on the host.
        warnings: what could not be read and is only left out is appended, as sentences.
        Raises ReadError, ConnectError or AuthenticateError.
        """
        raise NotImplementedError
