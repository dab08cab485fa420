# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A KVM host of the lab for the benchmarks, fresh for each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.measure import ROOT, BenchmarkError

LAB_FOLDER = ROOT / ".lab" / "benchmarks"
NAME = "kvm1"


def lab(*words: str) -> str:
    """Run a command of the lab in the benchmarks' own folder and return what it printed."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "lab"), *words],
        env={**os.environ, "BAREFORGE_LAB_DIR": str(LAB_FOLDER)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BenchmarkError(f"lab {' '.join(words)} failed")
    return done.stdout


def fresh() -> Path:
    """Bring the host back to its first boot, with all packages, and return the path of its inventory."""
    lab("image", "kvm-host-ready", "tiny-guest")
    lab("up", NAME, "--image", "kvm-host-ready", "--fresh")
    facts: dict[str, Any] = json.loads(lab("inventory"))
    facts["all"]["hosts"][NAME].update(bareforge_platform="kvm", ansible_become=True)
    inventory = LAB_FOLDER / "inventory.json"
    inventory.write_text(json.dumps(facts), encoding="utf-8")
    return inventory


def stop() -> None:
    """Remove the host."""
    lab("destroy")
