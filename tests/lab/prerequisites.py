# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the lab and the tests need from the machine they run on, and how to get it on Debian and Ubuntu."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from lab.errors import LabError
from lab.paths import cache_dir, lab_dir
from lab.processes import as_root, progress

# Package and a program of it that tells whether it is there (a path where it is no program).
PACKAGES = {
    "qemu-system-x86": "qemu-system-x86_64",
    "qemu-utils": "qemu-img",
    "seabios": "/usr/share/seabios/bios-256k.bin",
    "mmdebstrap": "mmdebstrap",
    "debian-archive-keyring": "/usr/share/keyrings/debian-archive-keyring.gpg",
    "busybox-static": "/bin/busybox",
    "e2fsprogs": "mke2fs",
    "fdisk": "sfdisk",
    "dosfstools": "mkfs.fat",
    "mtools": "mcopy",
    "kmod": "depmod",
    "zstd": "zstd",
    "openssh-client": "ssh",
    "python3-nftables": "/usr/lib/python3/dist-packages/nftables/__init__.py",
}
SYSTEMS = ("debian 12", "debian 13", "ubuntu 24.04")
DISK_GIB = 8
MEMORY_GIB = 4
PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin", "/usr/local/sbin"])


def missing_packages(packages: Mapping[str, str] = PACKAGES) -> list[str]:
    """Return the names of the Debian packages whose program is not there."""

    def there(thing: str) -> bool:
        return Path(thing).exists() if thing.startswith("/") else shutil.which(thing, path=PATH) is not None

    return [package for package, thing in packages.items() if not there(thing)]


def system(os_release: Path = Path("/etc/os-release")) -> str:
    """Return the machine's distribution and version as in ``debian 12`` (os-release(5)), or ``unknown``."""
    try:
        lines = os_release.read_text().splitlines()
    except FileNotFoundError:
        return "unknown"
    fields = {key: value.strip("\"'") for key, _, value in (line.partition("=") for line in lines)}
    return f"{fields.get('ID', 'unknown')} {fields.get('VERSION_ID', '')}".strip()


def free_gib(path: Path) -> float:
    """Return the free space in GiB of the file system that ``path``, which need not exist, will lie on."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free / (1 << 30)


def memory_gib() -> float:
    """Return the memory in GiB that programs can have now (MemAvailable of /proc/meminfo)."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) / (1 << 20)
    raise LabError("/proc/meminfo does not say how much memory is available.")


def can_be_root() -> bool:
    """Return whether commands can be run as root without a question: as root, or by sudo without a password."""
    if os.geteuid() == 0:
        return True
    if shutil.which("sudo") is None:
        return False
    return subprocess.run(["sudo", "-n", "true"], capture_output=True, check=False).returncode == 0


def check() -> list[str]:
    """Return the packages that have to be installed.

    Raises LabError with one sentence if the machine cannot run the lab: processor, disk, memory, or missing packages on
    a system that is none of `SYSTEMS`, or without the right to install them or to build images.
    """
    if platform.machine() != "x86_64":
        raise LabError(f"the lab runs on x86_64 machines, this one is {platform.machine()}.")
    for path in (cache_dir(), lab_dir()):
        if (free := free_gib(path)) < DISK_GIB:
            raise LabError(f"the lab needs {DISK_GIB} GiB of free disk below {path}, there are {free:.1f}.")
    if (memory := memory_gib()) < MEMORY_GIB:
        raise LabError(f"the lab needs {MEMORY_GIB} GiB of available memory, there are {memory:.1f}.")
    missing = missing_packages()
    if missing and system() not in SYSTEMS:
        where = f"this is {system()}, the lab installs on {', '.join(SYSTEMS)}"
        raise LabError(f"{', '.join(missing)} must be installed by hand: {where}.")
    if not can_be_root():
        wanted = f"to install {', '.join(missing)} and " if missing else ""
        raise LabError(f"root, or sudo without a password, is needed {wanted}to build images.")
    return missing


def install(packages: list[str]) -> None:
    """Install Debian packages. Raises LabError with apt's last line if it fails."""
    environment = ["env", "DEBIAN_FRONTEND=noninteractive"]
    for argv in (["apt-get", "update"], ["apt-get", "install", "--yes", "--no-install-recommends", *packages]):
        progress(" ".join(argv))
        done = subprocess.run(as_root([*environment, *argv]), capture_output=True, text=True, check=False)
        if done.returncode != 0:
            said = (done.stderr or done.stdout).strip().splitlines()
            raise LabError(f"{' '.join(argv)} failed: {said[-1] if said else 'no output'}")
    if left := missing_packages():
        raise LabError(f"{', '.join(left)} cannot be found even after their installation.")
