# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which updates a host has pending, and whether it has to be started anew, told without a change.

On Debian and Ubuntu, apt is asked what it would do (apt-get(8), --simulate) with the package lists that the host has; nothing is
fetched, no lock is taken and nothing of apt's is written. /run/reboot-required is what the packages' own scripts leave (Debian
policy, 9.11 of unattended-upgrades and update-notifier); a kernel is compared with the one that runs, since not every host
has those scripts. Hosts with dnf are asked in `dnf_updates`.
"""

from __future__ import annotations

import os
import re
from typing import Any, Dict, FrozenSet, Iterator, List, Optional

from ...engine.platform import Interface
from ...errors import ReadError
from . import dnf_updates, programs
from .host_reader import run_program
from .kernels import KERNEL_NAME, newer_kernel, running_kernel

APT_GET = "/usr/bin/apt-get"
CACHE = "/var/cache/bareforge/apt"
"""A cache of our own, since apt would write its binary ones anew; without any, each look takes seconds."""
SIMULATE = (
    *(APT_GET, "--simulate", "--quiet=2", "--with-new-pkgs"),
    *("-o", f"Dir::Cache={CACHE}", "-o", "Debug::NoLocking=true", "-o", "APT::Get::Show-User-Simulation-Note=false"),
    "upgrade",
)
SECONDS = 300
LISTS = "var/lib/apt/lists"
EXTENDED_STATES = "var/lib/apt/extended_states"
INSTALL = re.compile(
    r"Inst (?P<name>\S+)(?: \[(?P<installed>[^\]]+)\])? \((?P<candidate>\S+) (?P<origins>[^\[]*)\[(?P<architecture>[^\]]+)\]\)"
)
# Debian and Ubuntu keep security updates in an archive of this ending, whose label Debian writes so.
SECURITY = re.compile(r"Debian-Security:|-security$", re.IGNORECASE)
BUILD = re.compile(r"(?:Debian|Ubuntu|#)\s*(?P<version>\d[\w.+~:-]*)")


class LinuxUpdates(Interface):
    """Tells the pending updates of a host with apt or dnf."""

    CAPABILITIES = frozenset({"updates"})

    def __init__(self, platform: Any = None) -> None:
        self.platform = platform

    def updates(self) -> Dict[str, Any]:
        """Return what is pending; see :func:`read_updates`. Raises ReadError."""
        return read_updates()


def read_updates(root: str = "/") -> Dict[str, Any]:
    """Return what is pending, and whether the host has to be started anew.

    `pending` has the updates of :func:`parse_simulation`, each with `automatic`, whether another package brought it;
    `security` is the number of those that close security holes, `lists_time` when the package lists were last fetched
    (seconds since 1970, None for never); `reboot_required` and `reboot_reasons` tell of the start.
    root: where the host's file system begins, for all but what apt-get tells.
    Raises ReadError where there is neither apt-get nor dnf, or they cannot tell.
    """
    if not os.path.exists(APT_GET):
        if os.path.exists(dnf_updates.DNF):
            return dnf_updates.read_updates(root)
        raise ReadError("there is no apt-get on the host and no dnf, and of others the pending updates are not known")
    try:
        os.makedirs(os.path.join(CACHE, "archives", "partial"), mode=0o755, exist_ok=True)
    except OSError as error:
        raise ReadError(f"{CACHE} could not be made: {error.strerror or error}") from error
    result = run_program(SIMULATE, SECONDS)
    if result.returncode != 0:
        raise ReadError(f"the pending updates cannot be told: {programs.complaint_of(result)}")
    automatic = automatically_installed(root)
    pending = [
        {**update, "automatic": update["installed"] is None or update["package"].partition(":")[0] in automatic}
        for update in parse_simulation(result.stdout)
    ]
    reasons = reboot_reasons(root)
    return {
        "pending": pending,
        "security": sum(1 for update in pending if update["security"]),
        "lists_time": lists_time(root),
        "reboot_required": bool(reasons),
        "reboot_reasons": reasons,
    }


def parse_simulation(text: str) -> List[Dict[str, Any]]:
    """Return the updates that `apt-get --simulate upgrade` speaks of, by package.

    Each has `package`, `architecture`, `installed` (None for a package that an update brings along), `candidate`,
    `origins` (as `Debian-Security:12/stable-security`) and `security`.
    Raises ReadError for a line that is not understood, since an update that is left out would be a lie.
    """
    found = []
    for line in text.splitlines():
        if not line.startswith("Inst "):
            continue
        match = INSTALL.match(line)
        if not match:
            raise ReadError(f"apt-get says what is not understood: {line}")
        origins = [origin for origin in match["origins"].strip().split(", ") if origin]
        found.append(
            {
                "package": match["name"],
                "architecture": match["architecture"],
                "installed": match["installed"],
                "candidate": match["candidate"],
                "origins": origins,
                "security": any(SECURITY.search(origin) for origin in origins),
            }
        )
    return sorted(found, key=lambda update: str(update["package"]))


def automatically_installed(root: str) -> FrozenSet[str]:
    """Return the packages that were installed for others that need them, from apt's own list (apt-mark(8))."""
    text = programs.read_text(os.path.join(root, EXTENDED_STATES)) or ""
    blocks = (dict(re.findall(r"^([A-Za-z-]+): (.*)$", block, re.MULTILINE)) for block in text.split("\n\n"))
    return frozenset(block["Package"] for block in blocks if block.get("Auto-Installed") == "1" and "Package" in block)


def lists_time(root: str) -> Optional[int]:
    """Return when the package lists were last fetched, in seconds since 1970; None where there are none."""
    folder = os.path.join(root, LISTS)
    try:
        names = [name for name in os.listdir(folder) if name not in ("lock", "partial", "auxfiles")]
    except FileNotFoundError:
        return None
    # A list keeps the time that its server says; the folder has that of the last one put in place.
    return int(os.stat(folder).st_mtime) if names else None


def reboot_reasons(root: str) -> List[str]:
    """Return why the host has to be started anew, in sentences; none where it has not to."""
    return [*_packages_that_ask(root), *_newer_kernels(root)]


def _packages_that_ask(root: str) -> Iterator[str]:
    for folder in ("run", "var/run"):
        if programs.read_text(os.path.join(root, folder, "reboot-required")) is not None:
            names = (programs.read_text(os.path.join(root, folder, "reboot-required.pkgs")) or "").split()
            what = f"packages ask for it: {', '.join(sorted(set(names)))}" if names else "a package asks for it"
            yield what
            return


def _newer_kernels(root: str) -> Iterator[str]:
    newer = newer_kernel(root)
    if newer is not None:
        yield newer
        return
    release = running_kernel(root)
    if not KERNEL_NAME.fullmatch(f"vmlinuz-{release}"):
        return
    package = f"linux-image-{release}"
    built = BUILD.search((programs.read_text(os.path.join(root, "proc/sys/kernel/version")) or "").rpartition("SMP")[2])
    version = installed_version(root, package)
    # The same name can be built anew. Ubuntu's kernel tells another version than its package has, so only equal forms compare.
    if built and version and "-" in built["version"] and built["version"] != version:
        yield f"{package} {version} is installed, {built['version']} runs"


def installed_version(root: str, package: str) -> Optional[str]:
    """Return the version of an installed package, from dpkg's own list (deb822(5)); None where it is not installed."""
    text = programs.read_text(os.path.join(root, "var/lib/dpkg/status")) or ""
    found = re.search(rf"^Package: {re.escape(package)}\n(?:.+\n)*", text, re.MULTILINE)
    fields = dict(re.findall(r"^([A-Za-z-]+): (.*)$", found.group(), re.MULTILINE)) if found else {}
    return fields.get("Version") if fields.get("Status", "").endswith(" installed") else None
