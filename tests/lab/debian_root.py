# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Debian root folders made by mmdebstrap with the machine's own package sources, without loop devices."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from lab.errors import LabError
from lab.processes import as_root, progress, run

# What a Debian machine of that suite would have, for machines whose own sources are of another distribution or suite.
_DEFAULT_SOURCES = """\
Types: deb
URIs: http://deb.debian.org/debian
Suites: {suite} {suite}-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://deb.debian.org/debian-security
Suites: {suite}-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
"""

# The host's loopback, as a guest behind QEMU's user-mode network sees it.
HOST_AS_SEEN_BY_GUESTS = "10.0.2.2"


def package_sources(suite: str, apt: Path = Path("/etc/apt")) -> str:
    """Return the deb822 or one-line sources (sources.list(5)) of this machine that belong to Debian's ``suite``.

    Where the machine has none (another suite, or Ubuntu), Debian's public mirror is named.
    """
    ours = {suite, f"{suite}-updates", f"{suite}-security", f"{suite}/updates"}
    stanzas: list[str] = []
    lines: list[str] = []
    parts = apt / "sources.list.d"
    for path in sorted(parts.glob("*.sources")) if parts.is_dir() else []:
        text = "\n".join(line for line in path.read_text().splitlines() if not line.startswith("#"))
        for stanza in re.split(r"\n\s*\n", text.strip()):
            fields = dict(re.findall(r"(?m)^([A-Za-z-]+):[ \t]*(.+)$", stanza))
            if fields.get("Enabled", "yes").strip().lower() != "no" and set(fields.get("Suites", "").split()) & ours:
                stanzas.append(stanza.strip())
    for path in [apt / "sources.list", *(sorted(parts.glob("*.list")) if parts.is_dir() else [])]:
        for line in path.read_text().splitlines() if path.is_file() else []:
            words = re.sub(r"\[[^]]*\]", "", line).split()
            if len(words) >= 3 and words[0] == "deb" and words[2] in ours:
                lines.append(line.strip())
    if stanzas:
        return "\n\n".join(stanzas) + "\n"
    if lines:
        return "\n".join(lines) + "\n"
    return _DEFAULT_SOURCES.format(suite=suite)


def package_options() -> str:
    """Return this machine's apt options for reaching its mirror (proxy, dates, retries) as apt.conf text.

    A proxy on this machine's loopback is named as a guest behind user-mode networking reaches it.
    """
    try:
        dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise LabError("apt-config does not run: the lab builds its images on Debian or Ubuntu only.") from error
    wanted = re.compile(r'^Acquire::(?:https?::.*|Check-Date|Check-Valid-Until|Retries)(?: |::).*"[^"]+";$')
    kept = [line for line in dump.splitlines() if wanted.match(line)]
    return "".join(
        re.sub(r"//(?:localhost|127\.0\.0\.1)\b", f"//{HOST_AS_SEEN_BY_GUESTS}", f"{line}\n") for line in kept
    )


def make_root(
    target: Path,
    *,
    suite: str,
    variant: str,
    packages: Sequence[str],
    sources: str,
    files: Iterable[Path] = (),
    log: Path,
) -> None:
    """Make the root folder ``target`` with mmdebstrap(1) and lay the trees ``files`` over it.

    ``variant`` is mmdebstrap's (``minbase``: configured packages, ``extract``: unpacked only). Needs root or sudo.
    Raises LabError if mmdebstrap or a copy fails.
    """
    sources_file = log.with_name("bareforge.sources" if sources.startswith("Types") else "bareforge.list")
    sources_file.write_text(sources)
    options_file = log.with_name("90machine")
    options_file.write_text(package_options())
    argv = [
        "mmdebstrap",
        f"--variant={variant}",
        "--mode=root",
        "--format=directory",
        f"--include={','.join(packages)}",
    ]
    argv += ["--skip=cleanup/apt", f"--aptopt={options_file}", '--aptopt=Acquire::Languages "none"']
    argv += ['--aptopt=APT::Install-Recommends "false"', "--dpkgopt=force-unsafe-io"]
    argv += [f"--dpkgopt=path-exclude=/usr/share/{kind}/*" for kind in ("doc", "man", "info", "locale", "lintian")]
    progress(f"mmdebstrap {suite} ({len(packages)} packages named)")
    run(as_root([*argv, suite, target, sources_file]), log=log)
    for tree in files:
        run(as_root(["cp", "-r", "--preserve=mode", f"{tree}/.", target]), log=log)
    if variant != "extract":
        run(as_root(["install", "-m", "0644", options_file, target / "etc/apt/apt.conf.d/90machine"]), log=log)


def run_inside(root: Path, script: Path, variables: Mapping[str, str], *, log: Path) -> None:
    """Run the shell script ``script`` as root in a chroot of ``root`` with the environment ``variables``.

    Services that packages want to start stay down (policy-rc.d). Raises LabError if the script fails.
    """
    inside = root / "run/customize"
    policy = root / "usr/sbin/policy-rc.d"
    run(as_root(["install", "-m", "0755", script, inside]), log=log)
    run(as_root(["tee", policy]), stdin=b"#!/bin/sh\nexit 101\n", log=log)
    run(as_root(["chmod", "0755", policy]), log=log)
    # The builder's resolver, for apt; the script puts the guest's own in its place.
    run(as_root(["cp", "--remove-destination", "/etc/resolv.conf", root / "etc/resolv.conf"]), log=log)
    environment = [f"{key}={value}" for key, value in variables.items()]
    path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    try:
        run(as_root(["env", "-i", path, "LANG=C.UTF-8", *environment, "chroot", root, "/run/customize"]), log=log)
    finally:
        run(as_root(["rm", "-f", inside, policy]), log=log)


def remove_root(root: Path) -> None:
    """Remove a root folder, whose files belong to root."""
    if root.exists() and not os.path.ismount(root):
        run(as_root(["rm", "-rf", "--one-file-system", root]))
