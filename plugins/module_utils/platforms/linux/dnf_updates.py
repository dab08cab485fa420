# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later


"""Which updates a host of the RHEL family has pending, and whether it has to be started anew, told without a change.

dnf is asked by the lists that the host has (dnf(8), --cacheonly): nothing is fetched and nothing is written. The same
questions are understood by dnf 4 and 5. What a start is for is told as `needs-restarting -r` of dnf-plugins-core does,
from rpm's own data, since that plugin is not on every host.
"""

from __future__ import annotations

import glob
import os
import re
from typing import Any, Dict, Iterator, List, Optional, Set, Tuple

from ...errors import ReadError
from . import programs
from .host_reader import run_program
from .kernels import newer_kernel

DNF = "/usr/bin/dnf"
QUERY = (DNF, "--quiet", "--cacheonly", "repoquery")
LATEST = "--latest-limit=1"
# dnf 4 ends each entry by itself, dnf 5 does not.
FORMAT = "%{name}\t%{arch}\t%{epoch}:%{version}-%{release}\t%{repoid}\n"
INSTALLED = (
    "/usr/bin/rpm",
    "-qa",
    "--queryformat",
    "%{NAME}\t%{ARCH}\t%{EPOCHNUM}:%{VERSION}-%{RELEASE}\t%{INSTALLTIME}\n",
)
SECONDS = 300
CACHES = ("var/cache/dnf/*/repodata", "var/cache/libdnf5/*/repodata")
CORE = (
    *(
        "glibc",
        "linux-firmware",
        "systemd",
        "dbus",
        "dbus-broker",
        "dbus-daemon",
        "microcode_ctl",
        "zlib",
        "zlib-ng-compat",
    ),
    *("openssl-libs", "gnutls"),
)
"""What running programs have in memory until the host is started anew (needs-restarting(1), NEED_REBOOT)."""
MORE_CORE = "etc/dnf/plugins/needs-restarting.d/*.conf"

Place = Tuple[str, str]
"""A package's name and architecture."""


def read_updates(root: str = "/") -> Dict[str, Any]:
    """Return what is pending, in the form of :func:`..updates.read_updates`.

    Packages that an update brings along are not among them: dnf tells them only where it locks and downloads.
    root: where the host's file system begins, for all but what dnf and rpm tell.
    Raises ReadError where dnf or rpm cannot tell.
    """
    installed = parse_installed(_answer(INSTALLED))
    available = parse_packages(_answer((*QUERY, "--upgrades", LATEST, "--queryformat", FORMAT)))
    security = parse_packages(_answer((*QUERY, "--upgrades", "--security", LATEST, "--queryformat", FORMAT)))
    wanted = set(_answer((*QUERY, "--userinstalled", "--queryformat", "%{name}\n")).split())
    pending = [
        {
            "package": name,
            "architecture": architecture,
            "installed": without_epoch(installed[name, architecture][0]),
            "candidate": without_epoch(version),
            "origins": [repository],
            "security": (name, architecture) in security,
            "automatic": name not in wanted,
        }
        for (name, architecture), (version, repository) in sorted(available.items())
        if (name, architecture) in installed
    ]
    reasons = list(_reboot_reasons(root, installed))
    return {
        "pending": pending,
        "security": sum(1 for update in pending if update["security"]),
        "lists_time": lists_time(root),
        "reboot_required": bool(reasons),
        "reboot_reasons": reasons,
    }


def _answer(argv: Tuple[str, ...]) -> str:
    result = run_program(argv, SECONDS)
    if result.returncode != 0:
        raise ReadError(f"the pending updates cannot be told: {programs.complaint_of(result)}")
    return result.stdout


def parse_packages(text: str) -> Dict[Place, Tuple[str, str]]:
    """Return (version, repository) by package. Raises ReadError for a line that is not understood."""
    return {(row[0], row[1]): (row[2], row[3]) for row in _rows(text)}


def parse_installed(text: str) -> Dict[Place, Tuple[str, int]]:
    """Return (version, time of its installation) by package; of several versions, as kernels are kept, the newest counts.

    Raises ReadError for a line that is not understood.
    """
    found: Dict[Place, Tuple[str, int]] = {}
    for name, architecture, version, installed in _rows(text):
        known = found.get((name, architecture))
        if known is None or int(installed) > known[1]:
            found[name, architecture] = (version, int(installed))
    return found


def _rows(text: str) -> Iterator[List[str]]:
    for line in text.splitlines():
        if not line:
            continue
        row = line.split("\t")
        if len(row) != 4:
            raise ReadError(f"dnf or rpm says what is not understood: {line}")
        yield row


def without_epoch(version: str) -> str:
    """Return a version as people and dnf write it: an epoch of 0 is left out."""
    return re.sub(r"^0:", "", version)


def lists_time(root: str) -> Optional[int]:
    """Return when the package lists were last fetched, in seconds since 1970; None where there are none."""
    times = [os.stat(path).st_mtime for pattern in CACHES for path in glob.glob(os.path.join(root, pattern))]
    return int(max(times)) if times else None


def _reboot_reasons(root: str, installed: Dict[Place, Tuple[str, int]]) -> Iterator[str]:
    kernel = newer_kernel(root)
    if kernel is not None:
        yield kernel
    started = re.search(r"^btime (\d+)$", programs.read_text(os.path.join(root, "proc/stat")) or "", re.MULTILINE)
    if not started:
        return
    core = {*CORE, *_more_core(root)}
    newer = {
        name for (name, _architecture), (_version, time) in installed.items() if name in core and time > int(started[1])
    }
    if newer:
        yield f"packages that everything uses are newer than the start: {', '.join(sorted(newer))}"


def _more_core(root: str) -> Set[str]:
    texts = (programs.read_text(path) or "" for path in sorted(glob.glob(os.path.join(root, MORE_CORE))))
    lines = (line.strip() for text in texts for line in text.splitlines())
    return {line for line in lines if line and not line.startswith("#")}
