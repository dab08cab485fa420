# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Waiting for guests: until they have an address, or answer on their SSH port."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Sequence

from ...errors import ApplyError, one_line
from ...model.compute import Vm
from ...model.types import show
from ...transports import libvirt as session
from . import domains
from .file_names import Directories

SSH_PORT = 22
CONNECT_SECONDS = 3.0
POLL_SECONDS = 1.0
AGENT_SECONDS = 5


@dataclass
class Waiting:
    """A VM that is waited for, and what was seen of it last."""

    vm: Vm
    domain: Any
    seen: List[str] = field(default_factory=list)
    last: str = "no address was seen"


def wait(vms: Sequence[Vm], what: str, timeout: int, where: Directories, progress: Callable[[str], None]) -> None:
    """Wait until every VM has an address, or answers on its SSH port.

    what: `address` or `ssh`. An address is one that the guest's agent tells, that libvirt's DHCP has given out, or that
        answers the host's ARP; SSH is a banner on port 22 of any of these or of the VM's static addresses. The host
        must be able to reach the network for what it sees by itself.
    Raises ApplyError that names each VM that was not ready in time, with what was seen of it last.
    """
    deadline = time.monotonic() + timeout
    with session.translated("the guests cannot be looked at"):
        connection = session.connection()
        waiting = [Waiting(vm, domains.find(connection, str(vm.name))) for vm in vms]
    with ThreadPoolExecutor(max_workers=min(16, max(1, len(waiting)))) as pool:
        while True:
            done = list(pool.map(lambda entry: _is_ready(entry, what), waiting))
            for entry, ready in zip(waiting, done):
                if ready:
                    progress(f"vm[{show(entry.vm.name)}]: {entry.last}")
            waiting = [entry for entry, ready in zip(waiting, done) if not ready]
            if not waiting:
                return
            if time.monotonic() >= deadline:
                break
            time.sleep(POLL_SECONDS)
    texts = []
    for entry in waiting:
        console = domains.console_end(where.console(str(entry.vm.name)))
        texts.append(f"VM {show(entry.vm.name)} {_goal(what)} within {timeout} s: {entry.last}{console}")
    raise ApplyError("; ".join(texts))


def _goal(what: str) -> str:
    return "had no address" if what == "address" else "did not answer on its SSH port"


def _is_ready(entry: Waiting, what: str) -> bool:
    libvirt = session.library()
    if entry.domain is None:
        entry.last = "it is not there"
        return False
    static = [str(ipaddress.ip_interface(text).ip) for nic in entry.vm.nics or () for text in nic.addresses or ()]
    try:
        state = entry.domain.state()
        if domains.POWER.get(state[0]) != "running":
            entry.last = f"it is {domains.state_text(*state)}"
            return False
        with contextlib.suppress(libvirt.libvirtError):
            entry.domain.agentSetResponseTimeout(AGENT_SECONDS, 0)
        told = domains.addresses(entry.domain)
    except libvirt.libvirtError as error:
        entry.last = one_line(str(error))
        return False
    seen: Dict[str, None] = dict.fromkeys(text.partition("/")[0] for group in told.values() for text in group)
    if what == "address":
        if not seen:
            # Whoever is asked for answers ARP, and the host's table is looked at the next time round.
            for address in static:
                if _answers(address):
                    seen[address] = None
        if seen:
            entry.last = f"has {', '.join(seen)}"
        return bool(seen)
    candidates = list(dict.fromkeys([*seen, *static]))
    for address in candidates:
        banner = _ssh_banner(address)
        if banner:
            entry.last = f"answers on {address} with {show(banner)}"
            return True
    entry.last = f"no SSH server answers at {', '.join(candidates)}" if candidates else "no address was seen"
    return False


def _answers(address: str) -> bool:
    """Return whether a host is there: it accepts or refuses a connection."""
    try:
        with socket.create_connection((address, SSH_PORT), timeout=CONNECT_SECONDS):
            return True
    except ConnectionRefusedError:
        return True
    except OSError:
        return False


def _ssh_banner(address: str) -> str:
    """Return the first line of an SSH server (RFC 4253, 4.2), or nothing."""
    try:
        with socket.create_connection((address, SSH_PORT), timeout=CONNECT_SECONDS) as connection:
            connection.settimeout(CONNECT_SECONDS * 3)
            line = connection.recv(256).split(b"\n")[0].decode("ascii", "replace").strip()
    except OSError:
        return ""
    return line if line.startswith("SSH-") else ""
