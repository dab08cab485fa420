# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether libvirt asks polkit before it does what a user wants, and lets users in at its sockets to ask at all."""

from __future__ import annotations

import os
import stat
from typing import List, NamedTuple, Tuple

from ...errors import ApplyError
from ...transports import libvirt
from ..linux import programs, restarts
from ..linux.config_text import LibvirtFormat

RUN_FOLDER = "/run/libvirt"
CONFIG_FOLDER = "/etc/libvirt"
UNIT_FOLDER = "/etc/systemd/system"
DRIVERS = (
    "virtqemud",
    "virtnetworkd",
    "virtstoraged",
    "virtnodedevd",
    "virtinterfaced",
    "virtnwfilterd",
    "virtsecretd",
)
"""The daemons that take the place of libvirtd where each driver has its own (libvirt, docs/daemons.rst)."""

FORMAT = LibvirtFormat()
# Who gets through is decided by polkit, as in libvirt's own default; a mode that keeps others off decides before it.
SOCKET_MODE = 0o666
DROP_IN = """\
# Written by Bareforge: polkit decides who may use libvirt.
[Socket]
SocketMode=0666
"""


class Daemon(NamedTuple):
    """One of libvirt's daemons: its name, and the name of its socket."""

    name: str
    socket: str

    @property
    def config(self) -> str:
        """The path of its file."""
        return f"{CONFIG_FOLDER}/{self.name}.conf"

    @property
    def socket_path(self) -> str:
        """The path of its socket."""
        return f"{RUN_FOLDER}/{self.socket}"

    @property
    def drop_in(self) -> str:
        """The path of our settings of its socket."""
        return f"{UNIT_FOLDER}/{self.name}.socket.d/bareforge.conf"


def daemons() -> List[Daemon]:
    """Return the daemons that this host uses: one for each driver where these listen, else libvirtd."""
    found = [Daemon(name, f"{name}-sock") for name in DRIVERS if os.path.exists(f"{RUN_FOLDER}/{name}-sock")]
    if any(daemon.name == "virtqemud" for daemon in found):
        return found
    return [Daemon("libvirtd", "libvirt-sock")]


def _wanted_text(text: str) -> str:
    drivers = FORMAT.get(text, "access_drivers") or ()
    kept: Tuple[str, ...] = drivers if isinstance(drivers, tuple) else (str(drivers),)
    if "polkit" not in kept:
        # "none" beside another driver would allow all that the other refuses to decide.
        text = FORMAT.put(text, "access_drivers", (*(name for name in kept if name != "none"), "polkit"))
    if FORMAT.get(text, "auth_unix_rw") not in (None, "polkit"):
        text = FORMAT.put(text, "auth_unix_rw", "polkit")
    return text


def _lets_everybody_ask(daemon: Daemon) -> bool:
    try:
        return stat.S_IMODE(os.stat(daemon.socket_path).st_mode) & SOCKET_MODE == SOCKET_MODE
    except FileNotFoundError:
        return True


def _mode_of(path: str) -> int:
    try:
        return stat.S_IMODE(os.stat(path).st_mode)
    except FileNotFoundError:
        return 0o600


def is_in_force() -> bool:
    """Return whether every daemon asks polkit, has read that it shall, and can be reached. Raises ReadError."""
    waiting = restarts.waiting()
    for daemon in daemons():
        text = programs.read_text(daemon.config) or ""
        if _wanted_text(text) != text or f"{daemon.name}.service" in waiting or not _lets_everybody_ask(daemon):
            return False
    return True


def put_in_force() -> None:
    """Let every daemon ask polkit, and restart those whose files that changes. Running VMs do not notice.

    Raises ApplyError.
    """
    for daemon in daemons():
        text = programs.read_text(daemon.config) or ""
        wanted = _wanted_text(text)
        if wanted != text:
            restarts.announce([f"{daemon.name}.service"])
            programs.write_text(daemon.config, wanted, _mode_of(daemon.config))
        if not _lets_everybody_ask(daemon):
            programs.write_text(daemon.drop_in, DROP_IN)
            programs.run(["systemctl", "daemon-reload"])
            try:
                os.chmod(daemon.socket_path, SOCKET_MODE)
            except OSError as error:
                raise ApplyError(f"{daemon.socket_path} cannot be opened to users: {error.strerror}") from error
    if restarts.carry_out():
        libvirt.close()
