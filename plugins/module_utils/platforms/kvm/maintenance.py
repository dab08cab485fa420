# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The maintenance mode of a KVM host: which VMs ran before, kept in a file until they run again.

All domains count, also those that this collection has not made. A VM that stands still is saved to disk with its memory, since
its guest cannot shut down. Meanwhile no VM starts with the host: those that did before do so again afterwards.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Dict, List, Optional, Sequence

from ...engine.maintenance import MaintenanceTarget, Progress
from ...errors import ApplyError, BareforgeError, Problem, ReadError, ValidateError
from ...model.operation import Operation
from ...model.schema import Plain
from ...model.types import show
from ...transports import libvirt as session
from . import domains, host_files
from .file_names import Directories

RECORD_FILE = "/var/lib/bareforge/maintenance.json"
LOGIN_MESSAGE_FILE = "/etc/motd.d/bareforge-maintenance"
FORMAT = 1
AT_ONCE = 8


class KvmMaintenance(MaintenanceTarget):
    """Takes a KVM host out of service and back."""

    CAPABILITIES = frozenset({"maintenance"})

    def __init__(self, platform: Any = None, where: Optional[Directories] = None) -> None:
        self.platform = platform
        self.where = where or Directories()
        self._planned: Optional[Plain] = None

    def described(self) -> Optional[Plain]:
        record = self._planned or read_record()
        if record is None:
            return None
        return {"reason": record["reason"], "since": record["since"], "vms": record["vms"]}

    def enter(self, reason: str, evacuate_to: Sequence[str], check: bool) -> List[Plain]:
        running = session.read(_running, "the virtual machines cannot be read")
        record = read_record()
        is_new = record is None
        if record is None:
            record = {"format": FORMAT, "reason": reason, "since": _now(), "vms": [], "autostart": []}
        known = {vm["uuid"] for vm in record["vms"]}
        added = [vm for vm in running if vm["uuid"] not in known]
        # A host gets as many as the others, also where a run that was killed has chosen for some already.
        counts = {host: sum(1 for vm in record["vms"] if vm["destination"] == host) for host in evacuate_to}
        for vm in added:
            del vm["persistent"]
            vm["destination"] = min(evacuate_to, key=lambda host: counts[host]) if evacuate_to else None
            if vm["destination"] is not None:
                counts[vm["destination"]] += 1
            record["vms"].append(vm)
        if check:
            self._planned = record
        elif is_new or added:
            host_files.write_json(RECORD_FILE, record)
        if not check:
            _keep_login_message(record)
        return [_change("maintenance", "", "enter")] if is_new else [_change("vm", vm["name"], "note") for vm in added]

    def empty(self, operation: Operation, check: bool, progress: Progress) -> List[Plain]:
        running = session.read(_running, "the virtual machines cannot be read")
        fleeting = [vm["name"] for vm in running if not vm.pop("persistent")]
        if fleeting:
            raise ValidateError(
                [
                    Problem(f"vm[{show(name)}]", "is gone when it stops, so it could not be started again")
                    for name in fleeting
                ],
                "Define these VMs, move them to another host, or stop them yourself",
            )
        if check:
            return [_change("vm", vm["name"], "stop") for vm in running]
        self._hold_autostart()
        self._for_each(running, lambda vm, domain: self._stop(vm, domain, operation, progress))
        return [_change("vm", vm["name"], "stop") for vm in running]

    def _stop(self, vm: Plain, domain: Any, operation: Operation, progress: Progress) -> None:
        libvirt = session.library()
        name = vm["name"]
        with session.translated(f"VM {show(name)} cannot be stopped"):
            saved = domain.state()[0] == domains.PAUSED
            if saved:
                domain.managedSave(libvirt.VIR_DOMAIN_SAVE_PAUSED)
        if not saved:
            domains.stop(domain, name, operation, self.where.console(name), progress)
        if progress:
            progress(f"vm[{show(name)}]: {'saved with its memory' if saved else 'stopped'}")

    def leave(self, check: bool, progress: Progress) -> List[Plain]:
        record = read_record()
        if record is None:
            return []
        waiting = [vm for vm in record["vms"] if _state_of(vm) == "stopped"]
        changes = [*(_change("vm", vm["name"], "start") for vm in waiting), _change("maintenance", "", "leave")]
        if check:
            return changes
        self._for_each(waiting, lambda vm, domain: domains.start(domain, vm["name"], paused=vm["power"] == "suspended"))
        self._release_autostart(record)
        host_files.remove_file(LOGIN_MESSAGE_FILE)
        # Last: until it is gone, another run goes on.
        host_files.remove_file(RECORD_FILE)
        return changes

    def _for_each(self, vms: Sequence[Plain], do: Callable[[Plain, Any], None]) -> None:
        """Do something with each VM's domain, several at once. Raises ApplyError with all that failed, after all were tried."""

        def attempt(vm: Plain) -> Optional[BareforgeError]:
            try:
                domain = _find(vm)
                if domain is not None:
                    do(vm, domain)
            except BareforgeError as error:
                return error
            return None

        with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
            failed = [error for error in pool.map(attempt, vms) if error is not None]
        if failed:
            hint = next((error.hint for error in failed if error.hint), None)
            raise ApplyError("; ".join(error.message for error in failed), hint)

    def _hold_autostart(self) -> None:
        record = read_record()
        if record is None:
            raise ReadError(f"{RECORD_FILE} is gone, so what runs now could not be started again", "Run the task again")
        with session.translated("which virtual machines start with the host cannot be changed"):
            starting = [domain for domain in session.connection().listAllDomains() if domain.autostart()]
            names = sorted({*record["autostart"], *(domain.UUIDString() for domain in starting)})
            if names != record["autostart"]:
                host_files.write_json(RECORD_FILE, {**record, "autostart": names})
            for domain in starting:
                domain.setAutostart(0)

    def _release_autostart(self, record: Plain) -> None:
        for uuid in record["autostart"]:
            with session.translated("a virtual machine cannot be made to start with the host again"):
                domain = _find({"uuid": uuid})
                if domain is not None and not domain.autostart():
                    domain.setAutostart(1)


def read_record(path: Optional[str] = None) -> Optional[Dict[str, Any]]:
    """Return what is written down of the mode, or None where the host is in service. Raises ReadError."""
    name = path or RECORD_FILE
    record = host_files.read_json(name)
    if record is not None and (not isinstance(record, dict) or record.get("format") != FORMAT):
        raise ReadError(f"{name} is not of the form that this version writes, {FORMAT}", "Look at it, then remove it")
    return record


def facts(root: str = "/") -> Optional[Plain]:
    """Return `reason` and `since` of the mode, or None where the host is in service."""
    record = read_record(os.path.join(root, RECORD_FILE.lstrip("/")))
    return None if record is None else {"reason": record["reason"], "since": record["since"]}


def _running(connection: Any) -> List[Plain]:
    found = []
    for domain, state, _reason in domains.states(connection):
        power = domains.POWER.get(state, "stopped")
        if power != "stopped":
            # One that sleeps can be woken only by itself or by a power button: it runs again afterwards.
            kept = "suspended" if state == domains.PAUSED else "running"
            found.append(
                {
                    "name": domain.name(),
                    "uuid": domain.UUIDString(),
                    "power": kept,
                    "persistent": bool(domain.isPersistent()),
                }
            )
    return sorted(found, key=lambda vm: str(vm["name"]))


def _find(vm: Plain) -> Any:
    """Return the domain of a VM, by what does not change when it is renamed; None where it is not on this host."""
    libvirt = session.library()
    with session.translated("the virtual machines cannot be looked at"):
        try:
            return session.connection().lookupByUUIDString(vm["uuid"])
        except libvirt.libvirtError as error:
            if session.is_missing(error):
                return None
            raise


def _state_of(vm: Plain) -> Optional[str]:
    domain = _find(vm)
    if domain is None:
        return None
    with session.translated(f"VM {show(vm['name'])} cannot be looked at"):
        return domains.power(domain)


def _change(kind: str, key: str, action: str) -> Plain:
    return {"kind": kind, "key": key, "action": action, "fields": []}


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _keep_login_message(record: Plain) -> None:
    text = (
        f"In maintenance since {record['since']}: {record['reason']}. No virtual machine starts meanwhile.\n".encode()
    )
    if host_files.read_file(LOGIN_MESSAGE_FILE) != text:
        host_files.write_atomically(LOGIN_MESSAGE_FILE, text, 0o644)
