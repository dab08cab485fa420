# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the agent in a guest tells (PVE::API2::Qemu::Agent)."""

from __future__ import annotations

import time
from typing import Callable, List, Mapping, Optional, Sequence, Tuple

from ...engine.inventory import SeenAddress
from ...errors import ApplyError, ReadError
from ...transports.proxmox import ProxmoxSession
from .guests import Guest

PAUSE = 2.0
"""Seconds between two questions to a guest that is starting."""


def adapters_by_mac(guest: Guest) -> Mapping[str, str]:
    """Return the names of a VM's adapters by their MAC addresses."""
    return {parts["macaddr"].lower(): name for _key, name, parts in guest.nics() if parts.get("macaddr")}


def wait_for_addresses(
    session: ProxmoxSession, guests: Sequence[Guest], timeout: float, progress: Callable[[str], None]
) -> None:
    """Wait until the agent of every guest tells an address.

    timeout: seconds for all of them. Raises ApplyError with those that told none.
    """
    left = list(guests)
    end = time.monotonic() + timeout
    while left:
        for guest in list(left):
            found = ask_agent(session, guest, adapters_by_mac(guest), [])
            if found:
                progress(f"VM {guest.name} has the address {found[0].address}")
                left.remove(guest)
        if left and time.monotonic() >= end:
            names = ", ".join(guest.name for guest in left)
            raise ApplyError(
                f"no address within {timeout:.0f} s of: {names}",
                "The guest's agent has to run (package qemu-guest-agent) and the VM to have it on",
            )
        if left:
            time.sleep(min(PAUSE, max(0.0, end - time.monotonic())))


def ask_agent(
    session: ProxmoxSession, guest: Guest, by_mac: Mapping[str, str], warnings: List[str]
) -> Tuple[SeenAddress, ...]:
    """Return what a guest's agent tells of its addresses, without their prefixes."""
    told = tell_addresses(session, guest, by_mac, warnings)
    return tuple(SeenAddress(address, "agent", name) for name, address, _prefix in told)


def tell_addresses(
    session: ProxmoxSession, guest: Guest, by_mac: Mapping[str, str], warnings: List[str]
) -> List[Tuple[str, str, Optional[int]]]:
    """Return (adapter, address, length of its prefix) for what a guest's agent tells; link-local addresses of IPv6 are left out.

    by_mac: the names of the adapters that are wanted, by MAC address. warnings: what an agent answers instead is added here.
    (GET .../agent/network-get-interfaces)
    """
    path = ("nodes", session.node, "qemu", guest.vmid, "agent", "network-get-interfaces")
    try:
        answer = session.ask("GET", path, {}).data
    except (ReadError, ApplyError) as error:
        if "not running" not in error.message:
            warnings.append(f"the agent of VM {guest.name} does not answer: {error.message}")
        return []
    found: List[Tuple[str, str, Optional[int]]] = []
    for entry in (answer or {}).get("result") or ():
        mac = str(entry.get("hardware-address") or "").lower()
        if mac not in by_mac:
            continue
        for address in entry.get("ip-addresses") or ():
            text = str(address.get("ip-address") or "")
            if text and not text.lower().startswith("fe80:"):
                found.append((by_mac[mac], text, int(address["prefix"]) if address.get("prefix") is not None else None))
    return found
