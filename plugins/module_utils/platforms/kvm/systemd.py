# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Units of systemd that belong to us (systemd.unit(5))."""

from __future__ import annotations

import os
import subprocess
from typing import List, Sequence, Set

from ...errors import ApplyError, ReadError
from ..linux.config_text import parse_blocks
from .host_files import read_file, write_atomically

UNIT_FOLDER = "/etc/systemd/system"
RUNTIME_FOLDER = "/run"
NFTABLES_TARGET = "sysinit.target"


def systemctl(*arguments: str, timeout: float = 60) -> None:
    """Run systemctl. Raises ApplyError with what it said."""
    run_command(["systemctl", *arguments], timeout)


def run_command(argv: Sequence[str], timeout: float = 60, given: str = "") -> str:
    """Run a program without a shell and return its output.

    timeout: in seconds. given: its standard input.
    Raises ApplyError with the program's own words.
    """
    try:
        done = subprocess.run(list(argv), input=given, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired as error:
        raise ApplyError(f"{' '.join(argv)} was still busy after {timeout:.0f} s") from error
    except OSError as error:
        raise ApplyError(f"{argv[0]} could not be run: {error.strerror or error}") from error
    if done.returncode != 0:
        words = (done.stderr or done.stdout).strip() or f"exit status {done.returncode}"
        raise ApplyError(f"{' '.join(argv)} failed: {words}")
    return done.stdout


def active_units(names: Sequence[str]) -> Set[str]:
    """Return which of some units are active, with one process. Raises ReadError."""
    argv = ["systemctl", "show", "--property=Id,ActiveState", "--", *names]
    try:
        shown = run_command(argv)
    except ApplyError as error:
        raise ReadError(error.message) from error
    return {block.get("Id", "") for block in parse_blocks(shown) if block.get("ActiveState") in ("active", "reloading")}


def nftables_unit(
    description: str, name: str, file: str, after: Sequence[str] = (), commands: Sequence[str] = ()
) -> str:
    """Return the text of a unit that loads a file of nftables at boot, before the network is there.

    It goes with Debian's nftables.service, which empties the whole ruleset when it is (re)started and is therefore
    followed. name: of the unit, without its ending. file: in the JSON form of libnftables-json(5).
    after: further units that it waits for. commands: what it starts after nft.
    """
    load = f"/usr/sbin/nft -j -f {file}"
    order = " ".join(["local-fs.target", "systemd-modules-load.service", *after, "nftables.service"])
    started = "\n".join(f"ExecStart={command}" for command in (load, *commands))
    return f"""\
# Written by Bareforge together with {file}.
[Unit]
Description={description}
DefaultDependencies=no
After={order}
Wants=network-pre.target
Before=network-pre.target shutdown.target
Conflicts=shutdown.target
PartOf=nftables.service
ReloadPropagatedFrom=nftables.service
ConditionPathExists={file}

[Service]
Type=oneshot
RemainAfterExit=yes
RuntimeDirectory={name}
StandardInput=null
{started}
ExecReload={load}

[Install]
WantedBy={NFTABLES_TARGET}
"""


def unit_is_installed(name: str, content: str, wanted_by: str) -> bool:
    """Return whether a unit of ours is there as it should be, starts with the target, and is active.

    The unit has `RuntimeDirectory=` with its own name, which is there exactly as long as it is active: a look at it takes
    no process.
    """
    return (
        read_file(f"{UNIT_FOLDER}/{name}") == content.encode()
        and os.path.islink(_wants(name, wanted_by))
        and os.path.isdir(os.path.join(RUNTIME_FOLDER, name.rpartition(".")[0]))
    )


def install_unit(name: str, content: str, wanted_by: str) -> bool:
    """Write a unit, let it start with a target from now on, and start it; return whether anything had to be done.

    Raises ApplyError.
    """
    if unit_is_installed(name, content, wanted_by):
        return False
    known = read_file(f"{UNIT_FOLDER}/{name}")
    write_boot_unit(name, content, wanted_by)
    # systemd finds a unit that is new by itself; telling it to read all units again takes seconds on a busy host.
    if known is not None and known != content.encode():
        systemctl("daemon-reload")
    # One that is active in an older form has to take up the new one.
    systemctl("restart", name)
    return True


def remove_unit(name: str, wanted_by: str) -> None:
    """Stop a unit of ours and remove it, whether it is there or not. Raises ApplyError."""
    known = read_file(f"{UNIT_FOLDER}/{name}") is not None
    if known:
        systemctl("stop", name)
    for path in boot_unit_files(name, wanted_by):
        if os.path.lexists(path):
            os.unlink(path)
    if known:
        systemctl("daemon-reload")


def write_boot_unit(name: str, content: str, wanted_by: str) -> None:
    """Write a unit that only the next boot shall start. systemd reads it then, so nothing needs to be told now."""
    if read_file(f"{UNIT_FOLDER}/{name}") != content.encode():
        write_atomically(f"{UNIT_FOLDER}/{name}", content.encode(), 0o644)
    link = _wants(name, wanted_by)
    os.makedirs(os.path.dirname(link), mode=0o755, exist_ok=True)
    if not os.path.islink(link):
        os.symlink(f"{UNIT_FOLDER}/{name}", link)


def boot_unit_files(name: str, wanted_by: str) -> List[str]:
    """Return the paths of what :func:`write_boot_unit` makes, in the order in which to remove them."""
    return [_wants(name, wanted_by), f"{UNIT_FOLDER}/{name}"]


def _wants(name: str, wanted_by: str) -> str:
    return f"{UNIT_FOLDER}/{wanted_by}.wants/{name}"
