# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later


"""Pending updates of a host with dnf and rpm, told by dnf and rpm themselves; run in a root folder by its own Python."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, "/source/collections")

from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.linux import dnf_updates

OLD = (
    ("glibc", "", "2.34", "1.el9"),
    ("kernel", "", "5.14.0", "1.el9"),
    ("bash", "", "5.1.8", "6.el9"),
    ("lib", "", "1.0", "1"),
)
NEW = (
    *(
        ("glibc", "", "2.34", "2.el9"),
        ("kernel", "", "5.14.0", "2.el9"),
        ("bash", "1", "5.1.8", "9.el9"),
        ("lib", "", "1.1", "1"),
    ),
    ("extra", "", "1", "1"),
)
ADVISORY = """<?xml version="1.0"?>
<updates><update from="x" status="final" type="security" version="1"><id>ADVISORY-1</id><title>glibc</title>
<severity>Important</severity><issued date="2026-01-01 00:00:00"/><pkglist><collection short="x"><name>x</name>
<package name="glibc" version="2.34" release="2.el9" epoch="0" arch="noarch" src="x">
<filename>glibc-2.34-2.el9.noarch.rpm</filename></package></collection></pkglist></update></updates>
"""


def command(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode:
        raise AssertionError(f"{' '.join(argv)}: {done.stdout} {done.stderr}")
    return done.stdout


def repository(name: str, packages: Any) -> str:
    folder = Path("/tmp") / name
    folder.mkdir()
    for package, epoch, version, release in packages:
        about = [
            f"Name: {package}",
            f"Version: {version}",
            f"Release: {release}",
            "Summary: x",
            "License: x",
            "BuildArch: noarch",
        ]
        about += [f"Epoch: {epoch}"] if epoch else []
        about += ["Requires: extra"] if epoch else []
        spec = folder / f"{package}.spec"
        spec.write_text("\n".join([*about, "%description", "x", "%files", ""]), encoding="ascii")
        command(
            "rpmbuild", "-bb", "--quiet", "--define", "_topdir /tmp/build", "--define", f"_rpmdir {folder}", str(spec)
        )
    command("createrepo_c", "--quiet", str(folder))
    return f"file://{folder}"


def updates() -> dict[str, Any]:
    """What is pending before lists were fetched, after, and when all is installed."""
    old, new = repository("old", OLD), repository("new", NEW)
    Path("/tmp/updateinfo.xml").write_text(ADVISORY, encoding="ascii")
    command("modifyrepo_c", "--mdtype=updateinfo", "/tmp/updateinfo.xml", "/tmp/new/repodata")
    Path("/etc/yum.repos.d/new.repo").write_text(f"[new]\nname=new\nbaseurl={new}\ngpgcheck=0\n", encoding="ascii")
    command("rpm", "--initdb")
    dnf = ["dnf", "--quiet", "--assumeyes", "--nogpgcheck"]
    only_old = ["--disablerepo=*", f"--repofrompath=first,{old}"]
    command(*dnf, *only_old, "install", *(package[0] for package in OLD))
    command(*dnf, *only_old, "mark", "remove", "lib")
    command("find", "/var/cache/dnf", "-mindepth", "1", "-delete")
    never = dnf_updates.read_updates()
    command("dnf", "--quiet", "makecache")
    pending = dnf_updates.read_updates()
    command(*dnf, "upgrade")
    return {
        "version": command("dnf", "--version").split()[0],
        "never": never,
        "pending": pending,
        "after": dnf_updates.read_updates(),
    }


if __name__ == "__main__":
    print(json.dumps({"updates": updates}[sys.argv[1]]()))
