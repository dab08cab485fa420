# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later


"""Pending updates as dnf and rpm themselves tell them, of a repository made on the spot, in a root folder of its own.

Not part of `make test`: `.venv/bin/python -m pytest tests/dnf`. The first run makes the root folder, which takes minutes.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from support import debian_root

PACKAGES = ("dnf", "rpm", "createrepo-c", "python3")
# Debian keeps the database of rpm in the home folder.
EMPTY = ("root", "run", "tmp", "var/lib/rpm", "var/lib/dnf", "var/cache/dnf", "etc/yum.repos.d", "var/log")


@pytest.fixture(scope="module")
def root() -> Path:
    try:
        return debian_root.find_root("dnf", PACKAGES, "BAREFORGE_DNF_ROOT")
    except debian_root.NoRoot as reason:
        pytest.skip(str(reason))


def test_pending_updates_are_those_of_dnf(root: Path) -> None:
    found = debian_root.run(root, "tests/dnf/scenarios.py", "updates", EMPTY)
    print(f"dnf {found['version']}")
    assert found["never"]["lists_time"] is None
    pending = {update.pop("package"): update for update in found["pending"]["pending"]}
    assert set(pending) == {"bash", "glibc", "kernel", "lib"}
    assert pending["glibc"] == {
        "architecture": "noarch",
        "installed": "2.34-1.el9",
        "candidate": "2.34-2.el9",
        "origins": ["new"],
        "security": True,
        "automatic": False,
    }
    assert pending["bash"]["candidate"] == "1:5.1.8-9.el9"
    assert {name for name, update in pending.items() if update["automatic"]} == {"lib"}
    assert found["pending"]["security"] == 1
    assert found["pending"]["lists_time"] > 0
    assert found["after"]["pending"] == []
    # It was installed after this machine was started, as an update is.
    assert found["after"]["reboot_reasons"] == ["packages that everything uses are newer than the start: glibc"]
