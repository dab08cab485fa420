# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""libvirt domains: finding them, their power, and what their guests tell of themselves."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import shutil
import time
from typing import Any, Callable, Dict, List, Optional, Tuple

from ...errors import ApplyError
from ...model.operation import Operation
from ...model.types import show
from ...transports import libvirt as session
from . import domain_xml
from .file_names import Directories

POLL_SECONDS = 0.5
# A guest that is booting has nobody who hears the power button yet, so it is pressed again.
PRESS_AGAIN_SECONDS = 15.0
OFF_SECONDS = 30.0
CONSOLE_BYTES = 4096

# virDomainState
RUNNING, BLOCKED, PAUSED, SHUTDOWN, SHUTOFF, CRASHED, PM_SUSPENDED = 1, 2, 3, 4, 5, 6, 7
POWER = {
    0: "stopped",
    RUNNING: "running",
    BLOCKED: "running",
    PAUSED: "suspended",
    SHUTDOWN: "running",
    SHUTOFF: "stopped",
    CRASHED: "stopped",
    PM_SUSPENDED: "suspended",
}
STATES = {
    0: "in no state",
    RUNNING: "running",
    BLOCKED: "running",
    PAUSED: "paused",
    SHUTDOWN: "shutting down",
    SHUTOFF: "off",
    CRASHED: "crashed",
    PM_SUSPENDED: "asleep",
}
# virDomainPausedReason
PAUSED_REASONS = {
    1: "by a user",
    2: "for a migration",
    3: "to be saved",
    4: "for a dump",
    5: "by an I/O error of a disk",
    6: "by its watchdog",
    7: "after it was restored",
    8: "for a snapshot",
    9: "while it shuts down",
    10: "since the guest has crashed",
}


def state_text(state: int, reason: int) -> str:
    """Return a domain's state in words, such as `paused by an I/O error of a disk` (virDomainState and its reason)."""
    text = STATES.get(state, f"in state {state}")
    because = PAUSED_REASONS.get(reason) if state == PAUSED else None
    return f"{text} {because}" if because else text


def find(connection: Any, name: str) -> Any:
    """Return the domain of a name, or None. libvirt's exceptions pass."""
    libvirt = session.library()
    try:
        return connection.lookupByName(name)
    except libvirt.libvirtError as error:
        if session.is_missing(error):
            return None
        raise


def power(domain: Any) -> str:
    """Return running, stopped or suspended. libvirt's exceptions pass."""
    return POWER.get(domain.state()[0], "stopped")


def require_stopped(name: str) -> None:
    """Raise ApplyError where a VM is not off, or not there."""
    with session.translated(f"VM {show(name)} cannot be looked at"):
        domain = find(session.connection(), name)
        state = domain.state() if domain is not None else None
    if state is None:
        raise ApplyError(f"there is no VM {show(name)}")
    if POWER.get(state[0]) != "stopped":
        raise ApplyError(f"VM {show(name)} is {state_text(*state)}; it must be off")


def stop(
    domain: Any, name: str, operation: Operation, console: str, progress: Optional[Callable[[str], None]] = None
) -> None:
    """Shut a guest down, by its agent or its power button, and wait until it is off.

    operation: shutdown_timeout, the seconds that the guest is given (0 switches it off at once), and force_off,
        whether it is switched off after that.
    console: the path of its console's log, whose end is shown where it does not stop.
    Raises ApplyError where it still runs then.
    """
    timeout, force = operation.shutdown_timeout or 0, bool(operation.force_off)
    with session.translated(f"VM {show(name)} cannot be stopped"):
        if timeout > 0 and _shut_down(domain, timeout):
            return
        if timeout > 0 and not force:
            if not domain.isActive():
                return
            raise ApplyError(
                f"VM {show(name)} has not shut down within {timeout} s and is {state_text(*domain.state())}"
                f"{console_end(console)}",
                "Say force_off: true to switch it off, or give it a longer shutdown_timeout",
            )
        if progress and timeout > 0:
            progress(f"vm[{show(name)}]: has not shut down within {timeout} s and is switched off")
        _destroy(domain)


def _shut_down(domain: Any, timeout: int) -> bool:
    libvirt = session.library()
    deadline = time.monotonic() + timeout
    pressed = -PRESS_AGAIN_SECONDS
    while True:
        state = domain.state()[0]
        if POWER.get(state) == "stopped":
            return True
        if state in (PAUSED, PM_SUSPENDED):
            # Nobody in a guest that stands still hears the power button.
            with contextlib.suppress(libvirt.libvirtError):
                wake(domain)
        if time.monotonic() - pressed >= PRESS_AGAIN_SECONDS:
            pressed = time.monotonic()
            with contextlib.suppress(libvirt.libvirtError):
                domain.shutdown()
        if time.monotonic() >= deadline:
            return False
        time.sleep(min(POLL_SECONDS, max(0.0, deadline - time.monotonic())))


def _destroy(domain: Any) -> None:
    libvirt = session.library()
    try:
        domain.destroy()
    except libvirt.libvirtError:
        if domain.isActive():
            raise
    deadline = time.monotonic() + OFF_SECONDS
    while domain.isActive() and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)


def wake(domain: Any) -> None:
    """Let a guest that is paused or asleep go on. libvirt's exceptions pass."""
    if domain.state()[0] == PM_SUSPENDED:
        domain.pMWakeup()
    else:
        domain.resume()


def set_power(
    domain: Any,
    wanted: str,
    name: str,
    operation: Operation,
    console: str,
    progress: Optional[Callable[[str], None]] = None,
) -> None:
    """Bring a VM to running, stopped or suspended, which is libvirt's paused: the guest stands still in memory.

    operation: shutdown_timeout and force_off of it count where the VM is to stop.
    Raises ApplyError.
    """
    with session.translated(f"VM {show(name)} cannot be brought to {wanted}"):
        now = power(domain)
        if now == wanted:
            if domain.state()[0] == CRASHED and wanted == "stopped" and domain.isActive():
                _destroy(domain)
            return
        if wanted == "stopped":
            stop(domain, name, operation, console, progress)
        elif now == "stopped":
            start(domain, name, paused=wanted == "suspended")
        elif wanted == "suspended":
            domain.suspend()
        else:
            wake(domain)


def start(domain: Any, name: str, paused: bool = False) -> None:
    """Start a VM. Raises ApplyError with what libvirt or QEMU says."""
    libvirt = session.library()
    with session.translated(f"VM {show(name)} cannot be started"):
        if domain.isActive():
            _destroy(domain)  # crashed and kept
        domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED if paused else 0)


def undefine(domain: Any, where: Directories) -> None:
    """Undefine a domain that is off, with all that libvirt keeps of it. libvirt's exceptions pass."""
    libvirt = session.library()
    if not domain_xml.has_tpm(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)):
        # It had one once; libvirt removes the state of the TPM that it has.
        state = where.tpm_state(domain.UUIDString())
        if os.path.isdir(state):
            shutil.rmtree(state)
    domain.undefineFlags(
        libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
        | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
        | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
        | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
        | libvirt.VIR_DOMAIN_UNDEFINE_TPM
    )


def console_end(path: str) -> str:
    """Return the last lines of a guest's console for an error message, or nothing where there are none."""
    try:
        with open(path, "rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - CONSOLE_BYTES))
            text = log.read().decode("utf-8", "replace")
    except OSError:
        return ""
    lines = ["".join(c for c in line if c.isprintable()).strip() for line in text.splitlines()]
    lines = [line for line in lines if line]
    return f"; its console ends with {show(' | '.join(lines[-3:])[-70:])}" if lines else "; its console is silent"


def addresses(domain: Any) -> Dict[str, List[str]]:
    """Return the addresses that are seen of a running guest, with their prefix lengths where known, by MAC address.

    They come from the guest's agent, else from the leases of libvirt's DHCP and the host's ARP table; loopback and
    IPv6 link-local addresses are left out.
    """
    libvirt = session.library()
    found: Dict[str, List[str]] = {}
    sources = (
        libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT,
        libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE,
        libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_ARP,
    )
    for source in sources:
        try:
            interfaces = domain.interfaceAddresses(source, 0)
        except libvirt.libvirtError:
            continue
        for interface in (interfaces or {}).values():
            mac = (interface.get("hwaddr") or "").lower()
            for entry in interface.get("addrs") or ():
                address = ipaddress.ip_address(entry["addr"].partition("%")[0])
                if address.is_loopback or (address.version == 6 and address.is_link_local):
                    continue
                text = f"{address}/{entry['prefix']}" if entry.get("prefix") else str(address)
                known = found.setdefault(mac, [])
                if text not in known:
                    known.append(text)
        if found:
            break
    return found


def process_id(name: str) -> Optional[int]:
    """Return the process id of a running VM's QEMU, from the file that libvirt keeps it in, or None."""
    with contextlib.suppress(OSError, ValueError), open(f"/run/libvirt/qemu/{name}.pid", encoding="ascii") as file:
        return int(file.read())
    return None


def states(connection: Any) -> List[Tuple[Any, int, int]]:
    """Return (domain, state, reason) of every domain, in one call. libvirt's exceptions pass."""
    libvirt = session.library()
    records = connection.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_STATE, 0)
    return [(domain, facts.get("state.state", 0), facts.get("state.reason", 0)) for domain, facts in records]
