# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which accelerator QEMU uses here: ``kvm`` only where it has been seen to boot a kernel to user space."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path

from lab import cpio
from lab.errors import LabError
from lab.paths import cache_dir
from lab.processes import progress, write_atomically

QEMU = "qemu-system-x86_64"
PROBE_SECONDS = 10
_MARK = b"bareforge-probe-in-user-space"
_INIT = (
    b"""#!/bin/busybox sh
/bin/busybox echo %s > /dev/console
/bin/busybox poweroff -f
"""
    % _MARK
)


def accelerator(kernel: Path) -> str:
    """Return ``kvm`` or ``tcg``.

    ``BAREFORGE_ACCEL`` decides if it is set. Otherwise /dev/kvm must open and a probe with ``kernel`` must reach user
    space within 10 s: there are machines whose /dev/kvm opens and whose guests hang. The answer is kept until the
    machine boots again. Raises LabError if BAREFORGE_ACCEL names anything else.
    """
    chosen = os.environ.get("BAREFORGE_ACCEL")
    if chosen:
        if chosen not in ("kvm", "tcg"):
            raise LabError(f"BAREFORGE_ACCEL is {chosen!r}: kvm and tcg are allowed.")
        return chosen
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    record = cache_dir() / "accelerator.json"
    try:
        known = json.loads(record.read_text())
        if known["boot_id"] == boot and known["accelerator"] in ("kvm", "tcg"):
            return str(known["accelerator"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        pass
    answer = "kvm" if _opens("/dev/kvm") and boots(kernel, "kvm") else "tcg"
    write_atomically(record, json.dumps({"boot_id": boot, "accelerator": answer}) + "\n")
    return answer


def _opens(device: str) -> bool:
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def probe_initramfs(busybox: Path) -> bytes:
    """Return an initramfs that says on the console that it is in user space and switches the machine off."""
    entries = [cpio.folder("bin"), cpio.folder("dev"), cpio.character_device("dev/console", 5, 1)]
    return cpio.archive([*entries, cpio.program("bin/busybox", busybox.read_bytes()), cpio.program("init", _INIT)])


def boots(kernel: Path, name: str, seconds: float = PROBE_SECONDS) -> bool:
    """Return whether ``kernel`` reaches user space with the accelerator ``name`` within ``seconds``."""
    progress(f"probing accelerator {name}")
    with tempfile.TemporaryDirectory(prefix="bareforge-probe-") as folder:
        initrd = Path(folder) / "initrd"
        initrd.write_bytes(probe_initramfs(Path("/bin/busybox")))
        argv = [QEMU, "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-machine", "q35"]
        argv += ["-accel", name, "-cpu", "host" if name == "kvm" else "EPYC", "-m", "256", "-serial", "stdio"]
        argv += ["-kernel", str(kernel), "-initrd", str(initrd), "-append", "console=ttyS0 quiet panic=-1"]
        try:
            done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, check=False)
        except subprocess.TimeoutExpired as late:
            return _MARK in (late.stdout or b"")
        except FileNotFoundError as error:
            raise LabError(f"{QEMU} is not installed: run `python3 tests/lab prerequisites --install`.") from error
        return _MARK in done.stdout
