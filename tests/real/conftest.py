# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The host that real tests run against.

BAREFORGE_TEST_HOST_INVENTORY names an inventory whose first host is used as it is. Without it a server of the lab is
started (in BAREFORGE_LAB_DIR, or a folder of its own) and stopped again at the end.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .real_host import ROOT, RealHost


def _lab(folder: str, *arguments: str) -> None:
    subprocess.run(
        [sys.executable, "tests/lab", *arguments],
        cwd=ROOT,
        env={**os.environ, "BAREFORGE_LAB_DIR": folder},
        check=True,
        timeout=900,
    )


@pytest.fixture(scope="session")
def host() -> Iterator[RealHost]:
    """A KVM host with the packages installed and this tree's code on it."""
    given = os.environ.get("BAREFORGE_TEST_HOST_INVENTORY")
    if given:
        machine = RealHost.from_inventory(Path(given))
        machine.push()
        yield machine
        machine.close()
        return
    folder = os.environ.get("BAREFORGE_LAB_DIR") or os.path.join(tempfile.gettempdir(), "bareforge-real-tests")
    inventory = Path(folder) / "inventory.json"
    _lab(folder, "up", "kvm1", "--image", "kvm-host-ready", "--memory", "2048", "--fresh")
    try:
        _lab(folder, "inventory", "--out", str(inventory))
        machine = RealHost.from_inventory(inventory)
        machine.push()
        yield machine
        machine.close()
    finally:
        _lab(folder, "down", "kvm1", "--now")
