# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The guard over the path that a KVM host is managed through.

Before the first risky change everything that the change can break is copied into a folder on the host, and a timer of
systemd is started that brings it back. Only a confirmation over a new connection stops it. A host that is restarted
meanwhile brings it back at boot.
"""

from __future__ import annotations

import glob
import os
import re
import secrets
import shutil
import stat
import subprocess
import sys
import time
from typing import Any, Collection, Dict, List, Optional, Sequence

from ...engine.change import Change
from ...engine.platform import Context, Guard
from ...errors import ApplyError, BareforgeError, GuardError, ReadError
from ...model.schema import Plain
from ...transports import libvirt, nftables
from ..linux.config_text import parse_blocks
from ..linux.ssh_server import DEBIAN, ssh_unit, ssh_units
from ..linux.users import key_files
from . import guard_undo, network_manager, renderer_of_host, systemd
from .host_files import read_json, write_atomically, write_json
from .network_manager import NMCLI, NetworkManagerRenderer
from .network_renderer import NetworkRenderer
from .networkd_renderer import NetworkdRenderer
from .nftables_rules import HOST_TABLE, ROUTING_TABLE
from .routing import FORWARDING_FILE, ROUTING_FILE, saved_values

GUARD_FOLDER = "/var/lib/bareforge/guard"
GUARD_TARGET = "multi-user.target"
CONFIRMED = "confirmed"
_VIRSH = "/usr/bin/virsh"
_OVS_SOCKET = "/run/openvswitch/db.sock"
_KEPT_SECONDS = 24 * 3600
# How long after its time an undo may still be on its way, on a slow host.
_GRACE_SECONDS = 30.0
_UNDO_SECONDS = 300


class Part:
    """One part of the host that a guarded change can break.

    paths: globs of the files that belong to it. commands: what makes the host take them up again.
    """

    def __init__(self, paths: Sequence[str], commands: Sequence[Sequence[str]]) -> None:
        self.paths = tuple(paths)
        self.commands = tuple(tuple(command) for command in commands)


_GUEST_PORTS = "/etc/bareforge/guest_ports.json"

PARTS: Dict[str, Part] = {
    "firewall": Part(["/etc/bareforge/firewall.json"], []),
    "network": Part([*NetworkdRenderer.GUARDED_FILES, _GUEST_PORTS], NetworkdRenderer.GUARD_COMMANDS),
    # Which other users the same task has made goes with it; what is kept of them lets the next run make them again.
    "users": Part(["/etc/passwd", "/etc/shadow", "/etc/group", "/etc/gshadow"], []),
    "routing": Part([ROUTING_FILE, FORWARDING_FILE], []),
    "sshd": Part(
        ["/etc/ssh/sshd_config", "/etc/ssh/sshd_config.d/*.conf"],
        [["/usr/bin/systemctl", "try-reload-or-restart", DEBIAN[-1]]],
    ),
}

PART_OF_KIND = {
    "firewall": "firewall",
    "firewall_rule": "firewall",
    "virtual_switch": "network",
    "virtual_network": "network",
    "host_interface": "network",
    "user": "users",
}


class KvmGuard(Guard):
    """Lets a KVM host undo changes to its management path by itself."""

    def __init__(self, platform: Any = None) -> None:
        self.platform = platform

    def arm(self, changes: Sequence[Change], context: Context, timeout: int) -> Plain:
        parts = {PART_OF_KIND.get(change.kind, "") for change in changes}
        if "" in parts:
            kinds = ", ".join(sorted({change.kind for change in changes if change.kind not in PART_OF_KIND}))
            raise GuardError(f"the guard of platform kvm cannot undo changes of {kinds}")
        if "network" in parts and (os.path.exists(ROUTING_FILE) or any(map(_is_routed, changes))):
            parts.add("routing")
        files = [path for change in changes if change.kind == "user" for path in key_files(str(change.key[0]))]
        return self.arm_parts(parts, timeout, files)

    def part(self, name: str) -> Part:
        """Return a part of the host by its name."""
        return _part(name, renderer_of_host.renderer())

    def arm_parts(self, parts: Collection[str], timeout: int, files: Sequence[str] = ()) -> Plain:
        """Store the undo of parts of the host and start its timer.

        parts: names of parts. timeout: seconds without confirmation after which the host undoes. files: paths beside those
        of the parts.
        Returns what `confirm` and `undo` need: the token. Raises GuardError.
        """
        self._tidy()
        for token in _tokens():
            waiting = _describe(token)
            if waiting is not None:
                raise GuardError(f"{waiting}, and there can be one guard at a time")
        token = secrets.token_hex(8)
        folder = _folder(token)
        try:
            os.makedirs(folder, mode=0o700)
            os.chmod(GUARD_FOLDER, 0o700)
            self._store(folder, token, sorted(parts), timeout, files)
            self._start_timer(folder, token, timeout)
            # Only from here on there is something to undo: the timer does nothing without this file.
            write_atomically(os.path.join(folder, guard_undo.ARMED), b"", 0o600)
        except (OSError, BareforgeError) as error:
            self._discard(token)
            raise GuardError(f"the undo could not be stored on the host: {error}") from error
        return {"token": token}

    def confirm(self, token: str) -> None:
        folder = _checked_folder(token)
        try:
            os.rename(os.path.join(folder, guard_undo.ARMED), os.path.join(folder, CONFIRMED))
        except FileNotFoundError:
            # The answer to the first confirmation may have been lost on its way.
            if not _exists(folder, CONFIRMED):
                raise GuardError(_why_not(folder, token)) from None
        self._settle(token)

    def undo(self, token: str) -> None:
        folder = _checked_folder(token)
        if not os.path.isdir(folder) or _exists(folder, CONFIRMED):
            raise GuardError(_why_not(folder, token))
        try:
            # In a session of its own, since the change may have cut the connection that this process lives by.
            done = subprocess.run(
                [*_interpreter(), os.path.join(folder, "undo.py")],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_UNDO_SECONDS,
                start_new_session=True,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise GuardError(f"the undo could not be run: {error}") from error
        outcome = _outcome(folder)
        if outcome is None:
            words = done.stderr.strip() or f"exit status {done.returncode}"
            raise GuardError(f"the undo broke off: {words}")
        _stop_timer(token)
        if outcome["failures"]:
            raise GuardError(f"the undo is incomplete: {'; '.join(outcome['failures'])}")

    def recover(self) -> None:
        """Settle what a killed run has left: an undo that waits, one that was cut short, files of a finished one.

        A guard that nobody has confirmed yet is waited for, since it would take back what is changed meanwhile.
        Raises GuardError.
        """
        self._tidy()
        for token in _tokens():
            folder = _folder(token)
            if _exists(folder, guard_undo.ARMED):
                self._wait(token)
            if _exists(folder, guard_undo.UNDOING) and _outcome(folder) is None:
                self.undo(token)

    def _wait(self, token: str) -> None:
        armed = os.path.join(_folder(token), guard_undo.ARMED)
        left = _seconds_left(token)
        deadline = time.monotonic() + max(left, 0.0) + _GRACE_SECONDS
        while os.path.exists(armed) and time.monotonic() < deadline:
            time.sleep(0.2)
        if os.path.exists(armed):
            self.undo(token)

    # -- Storing ---------------------------------------------------------------------------------------------------

    def _store(self, folder: str, token: str, parts: Sequence[str], timeout: int, files: Sequence[str]) -> None:
        source = guard_undo.__loader__.get_source(guard_undo.__name__)  # type: ignore[union-attr]
        if not source:
            raise GuardError("the source of the undo is not at hand")
        write_atomically(os.path.join(folder, "undo.py"), source.encode("utf-8"), 0o600)
        renderer = renderer_of_host.renderer()
        looked_after = {part: self.part(part) for part in parts}
        paths = [pattern for part in parts for pattern in looked_after[part].paths]
        paths.extend(glob.escape(path) for path in files)
        commands: List[Plain] = []
        for part, table, name in (("firewall", HOST_TABLE, "table.json"), ("routing", ROUTING_TABLE, "routing.json")):
            if part not in parts:
                continue
            path = os.path.join(folder, name)
            write_json(path, nftables.document(nftables.as_commands(*table, nftables.list_table(*table))))
            commands.append(_command(["/usr/sbin/nft", "-j", "-f", path]))
        if "network" in parts and os.path.exists(_OVS_SOCKET):
            server = f"unix:{_OVS_SOCKET}"
            backup = systemd.run_command(["/usr/bin/ovsdb-client", "backup", server, "Open_vSwitch"])
            write_atomically(os.path.join(folder, "openvswitch"), backup.encode("utf-8"), 0o600)
            commands.append(_command(["/usr/bin/ovsdb-client", "restore", server, "Open_vSwitch"], "openvswitch"))
        if "sshd" in parts:
            commands.extend(_command(argv) for argv in _ssh_units_as_they_are())
        for part in parts:
            commands.extend(_command(argv) for argv in looked_after[part].commands)
        networks: Dict[str, str] = {}
        if "network" in parts:
            for name, xml in sorted(_read_networks().items()):
                networks[name] = f"network-{len(networks)}.xml"
                write_atomically(os.path.join(folder, networks[name]), xml.encode("utf-8"), 0o600)
        plan = {
            "networks": networks,
            "virsh": _VIRSH,
            "files": {"paths": paths, "saved": _save_files(folder, paths)},
            "commands": commands,
            "values": saved_values() if "routing" in parts else {},
            "clean_up": systemd.boot_unit_files(_boot_unit_name(token), GUARD_TARGET),
        }
        if "network" in parts and isinstance(renderer, NetworkManagerRenderer):
            plan["profiles"] = {"nmcli": NMCLI, "active": network_manager.profiles_in_use()}
        write_json(os.path.join(folder, "plan.json"), plan)
        about = {"parts": list(parts), "timeout": timeout, "boot": _boot(), "until": _uptime() + timeout}
        write_json(os.path.join(folder, "about.json"), about)

    @staticmethod
    def _start_timer(folder: str, token: str, timeout: int) -> None:
        script = [*_interpreter(), os.path.join(folder, "undo.py")]
        systemd.write_boot_unit(
            _boot_unit_name(token), _boot_unit(script, renderer_of_host.renderer().UNIT), GUARD_TARGET
        )
        systemd.run_command(
            [
                "systemd-run",
                "--quiet",
                "--collect",
                f"--unit={_unit(token)}",
                f"--on-active={timeout}s",
                "--timer-property=AccuracySec=100ms",
                "--description=Undo of a change of the management path that is not confirmed, by Bareforge",
                "--",
                *script,
            ]
        )

    @staticmethod
    def _disarm(token: str) -> None:
        _stop_timer(token)
        for path in systemd.boot_unit_files(_boot_unit_name(token), GUARD_TARGET):
            if os.path.lexists(path):
                os.unlink(path)

    def _discard(self, token: str) -> None:
        self._disarm(token)
        shutil.rmtree(_folder(token), ignore_errors=True)

    def _settle(self, token: str) -> None:
        """Remove all of a confirmed guard but the file that says so, for a confirmation that is sent again."""
        self._disarm(token)
        for entry in os.scandir(_folder(token)):
            if entry.name != CONFIRMED:
                os.unlink(entry.path)

    def _tidy(self) -> None:
        """Finish what was confirmed, remove what was never armed, and forget what was settled long ago."""
        for token in _tokens():
            folder = _folder(token)
            confirmed = _exists(folder, CONFIRMED)
            if confirmed or _outcome(folder) is not None:
                if confirmed and _exists(folder, "plan.json"):
                    self._settle(token)
                if time.time() - os.stat(folder).st_mtime > _KEPT_SECONDS:
                    shutil.rmtree(folder, ignore_errors=True)
            elif not _exists(folder, guard_undo.ARMED) and not _exists(folder, guard_undo.UNDOING):
                self._discard(token)


def _part(name: str, renderer: NetworkRenderer) -> Part:
    """Return a part as it is on this host."""
    part = PARTS[name]
    if name == "network" and isinstance(renderer, NetworkManagerRenderer):
        return Part([*renderer.GUARDED_FILES, _GUEST_PORTS], renderer.GUARD_COMMANDS)
    if name == "sshd" and ssh_unit() != DEBIAN[-1]:
        return Part(part.paths, [["/usr/bin/systemctl", "try-reload-or-restart", ssh_unit()]])
    return part


def _is_routed(change: Change) -> bool:
    sides = (change.before, change.after)
    return any(getattr(side, "type", None) == "nat" or getattr(side, "forwarding", None) for side in sides)


def _exists(folder: str, name: str) -> bool:
    return os.path.exists(os.path.join(folder, name))


def _read_networks() -> Dict[str, str]:
    """Return libvirt's networks by name, as they start with the host."""

    def ask(connection: Any) -> Dict[str, str]:
        inactive = libvirt.library().VIR_NETWORK_XML_INACTIVE
        return {network.name(): network.XMLDesc(inactive) for network in connection.listAllNetworks()}

    return libvirt.read(ask, "the networks of libvirt cannot be read")


def _ssh_units_as_they_are() -> List[List[str]]:
    """Return the commands that bring the SSH server's units back to what they do now, should they be stopped or masked."""
    shown = systemd.run_command(["systemctl", "show", "--property=Id,UnitFileState,ActiveState", *ssh_units()])
    commands: List[List[str]] = []
    for unit in parse_blocks(shown):
        name = unit.get("Id", "")
        if unit.get("ActiveState") == "active":
            commands.append(["/usr/bin/systemctl", "unmask", name])
            if unit.get("UnitFileState") == "enabled":
                commands.append(["/usr/bin/systemctl", "enable", name])
            commands.append(["/usr/bin/systemctl", "start", name])
    return commands


def _command(argv: Sequence[str], stdin: Optional[str] = None) -> Plain:
    return {"argv": list(argv), "stdin": stdin, "timeout": 60}


def _save_files(folder: str, patterns: Sequence[str]) -> List[Plain]:
    saved: List[Plain] = []
    for pattern in patterns:
        for path in sorted(glob.glob(pattern)):
            status = os.stat(path)
            if not stat.S_ISREG(status.st_mode):
                continue
            name = f"file-{len(saved)}"
            with open(path, "rb") as stream:
                write_atomically(os.path.join(folder, name), stream.read(), 0o600)
            mode = stat.S_IMODE(status.st_mode)
            saved.append({"path": path, "mode": mode, "uid": status.st_uid, "gid": status.st_gid, "from": name})
    return saved


def _boot_unit(script: Sequence[str], renderer: str) -> str:
    return f"""\
# Written by Bareforge for as long as a change of the management path is not confirmed.
[Unit]
Description=Undo of a change of the management path that was not confirmed, by Bareforge
After=ovsdb-server.service ovs-vswitchd.service {renderer} nftables.service bareforge-firewall.service
After=networking.service pve-cluster.service

[Service]
Type=oneshot
ExecStart={" ".join(script)}

[Install]
WantedBy={GUARD_TARGET}
"""


def _interpreter() -> List[str]:
    # The host's own one: what Ansible runs by may be a virtual environment that is gone at the next boot.
    python = "/usr/bin/python3"
    return [python if os.path.exists(python) else sys.executable, "-I"]


def _unit(token: str) -> str:
    return f"bareforge-guard-{token}"


def _boot_unit_name(token: str) -> str:
    # Not the name of the transient unit, which systemd refuses where a file of that name is there.
    return f"bareforge-guard-boot-{token}.service"


def _stop_timer(token: str) -> None:
    try:
        systemd.systemctl("stop", f"{_unit(token)}.timer")
    except ApplyError:
        # It has run, or was never started: systemd knows no unit of that name then.
        return


def _folder(token: str) -> str:
    return os.path.join(GUARD_FOLDER, token)


def _checked_folder(token: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{16}", token):
        raise GuardError(f"{token!r} is no token of a guard; allowed is what arming has returned")
    return _folder(token)


def _tokens() -> List[str]:
    try:
        return sorted(name for name in os.listdir(GUARD_FOLDER) if re.fullmatch(r"[0-9a-f]{16}", name))
    except FileNotFoundError:
        return []


def _outcome(folder: str) -> Optional[Dict[str, Any]]:
    outcome = read_json(os.path.join(folder, guard_undo.UNDONE))
    return outcome if isinstance(outcome, dict) else None


def _why_not(folder: str, token: str) -> str:
    outcome = _outcome(folder)
    if outcome is not None:
        failed = f", but not wholly: {'; '.join(outcome['failures'])}" if outcome["failures"] else ""
        return f"the changes were undone at {outcome['at']}, since nobody had confirmed them in time{failed}"
    if _exists(folder, guard_undo.UNDOING):
        return "the changes are being undone, since nobody has confirmed them in time"
    return f"the host knows of no guard {token}; it was confirmed, or never armed"


def _describe(token: str) -> Optional[str]:
    folder = _folder(token)
    if _exists(folder, guard_undo.ARMED):
        left = _seconds_left(token)
        when = f"the host undoes it in {left:.0f} s" if left > 0 else f"its time ended {-left:.0f} s ago"
        return f"guard {token} waits for a confirmation ({when})"
    if _exists(folder, guard_undo.UNDOING) and _outcome(folder) is None:
        return f"guard {token} is being undone"
    return None


def _seconds_left(token: str) -> float:
    try:
        about = read_json(os.path.join(_folder(token), "about.json")) or {}
    except ReadError:
        return 0.0
    # Time since boot, since a host's clock may be set by hand or by the very change.
    return float(about.get("until", 0)) - _uptime() if about.get("boot") == _boot() else 0.0


def _boot() -> str:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as stream:
        return stream.read().strip()


def _uptime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)
