# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later


"""What ports of a bridge of the kernel carry, and how the devices are called that are made for it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, FrozenSet, Iterable, List, Optional, Tuple

from ...model.network import VirtualNetwork
from ...model.types import range_bounds
from .guest_ports_hook import UNTAGGED

DEFAULT_MTU = 1500
MODES = {"active_backup": "active-backup", "balance_tcp": "802.3ad", "balance_xor": "balance-xor"}
"""The kernel's names of the modes of bonds."""
LAST_VLAN = 4094


def is_linux(switch: Any) -> bool:
    """Return whether a switch is to be a bridge of the kernel."""
    kvm = getattr(switch, "kvm", None)
    return kvm is not None and kvm.implementation == "linux_bridge"


def bond_of(switch: str) -> str:
    """Return the name of the device that bonds a switch's uplinks."""
    return f"bfb{_digest(switch)}"


def port_of(interface: str) -> str:
    """Return the name of the bridge's end of an interface of the host."""
    return f"bfp{_digest(interface)}"


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:12]


@dataclass(frozen=True)
class PortVlans:
    """What a port carries: the VLAN of untagged frames, and those that are carried tagged."""

    native: Optional[int] = None
    tagged: FrozenSet[int] = frozenset()


EVERY_VLAN = PortVlans(UNTAGGED, frozenset(range(2, LAST_VLAN + 1)))


def vlans_of(network: VirtualNetwork) -> PortVlans:
    """Return what a port on a network carries. network: complete."""
    tagged = {number for first, last in map(range_bounds, network.trunk or ()) for number in range(first, last + 1)}
    return PortVlans(network.vlan or UNTAGGED, frozenset(tagged))


def spans(numbers: Iterable[int]) -> List[str]:
    """Return numbers in their order, those that follow each other as one range such as 10-12."""
    found: List[Tuple[int, int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][1] + 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return [str(first) if first == last else f"{first}-{last}" for first, last in found]


@dataclass(frozen=True)
class Wanted:
    """What a port should carry, and whether it is isolated."""

    vlans: PortVlans
    isolated: bool = False

    @classmethod
    def on(cls, network: VirtualNetwork) -> Wanted:
        """Return what a port on a network should be. network: complete."""
        return cls(vlans_of(network), bool(network.isolated))
