# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What goes into the tiny guest's initramfs, taken from a folder of unpacked Debian packages."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

from lab import cpio
from lab.errors import LabError
from lab.processes import as_root, run

_FOLDERS = (
    "bin",
    "dev",
    "etc",
    "lib",
    "lib/modules",
    "lib64",
    "proc",
    "sbin",
    "sys",
    "usr",
    "usr/bin",
    "usr/lib",
    "usr/sbin",
    "var",
)


def entries(
    unpacked: Path,
    *,
    kernel_version: str,
    modules: Sequence[str],
    programs: Sequence[str],
    files: Iterable[Path],
    log: Path,
) -> list[cpio.Entry]:
    """Return the entries: busybox, the kernel ``modules`` and ``programs`` with all they need, and the trees ``files``.

    ``/etc/modules`` lists the modules in the order in which they are to be loaded. Raises LabError if one is missing.
    """
    found: dict[str, cpio.Entry] = {}

    def add(entry: cpio.Entry) -> None:
        parent = os.path.dirname(entry.path)
        if parent and parent not in found:
            add(cpio.folder(parent))
        found.setdefault(entry.path, entry)

    for path in _FOLDERS:
        add(cpio.folder(path))
    add(cpio.character_device("dev/console", 5, 1))
    add(cpio.program("bin/busybox", _busybox(unpacked).read_bytes()))
    add(cpio.link("bin/sh", "busybox"))
    for path in [*programs, *libraries(unpacked, programs, log)]:
        add(cpio.program(path.lstrip("/"), (unpacked / path.lstrip("/")).read_bytes()))

    folder = f"lib/modules/{kernel_version}"
    run(as_root(["depmod", "-b", unpacked, kernel_version]), log=log)
    loadable, builtin = ((unpacked / folder / name).read_text() for name in ("modules.dep", "modules.builtin"))
    needed = with_dependencies(loadable, builtin, modules)
    for path in needed:
        add(cpio.plain(f"{folder}/{path}", (unpacked / folder / path).read_bytes()))
    for name in ("modules.dep", "modules.alias", "modules.symbols"):
        add(cpio.plain(f"{folder}/{name}", (unpacked / folder / name).read_bytes()))
    add(cpio.plain("etc/modules", "".join(f"{name}\n" for name in modules).encode()))
    for tree in files:
        for source in sorted(tree.rglob("*")):
            if source.is_file():
                mode = stat.S_IFREG | (0o755 if os.access(source, os.X_OK) else 0o644)
                add(cpio.Entry(str(source.relative_to(tree)), mode, source.read_bytes()))
    return list(found.values())


def _busybox(unpacked: Path) -> Path:
    for name in ("bin/busybox", "usr/bin/busybox"):
        if (unpacked / name).is_file():
            return unpacked / name
    raise LabError(f"there is no busybox in {unpacked}.")


def libraries(unpacked: Path, programs: Sequence[str], log: Path) -> list[str]:
    """Return the absolute paths of the shared libraries that ``programs`` need, and of the loader, by asking it."""
    loader = "/lib64/ld-linux-x86-64.so.2"
    found = {loader}
    for program in programs:
        said = run(as_root(["chroot", unpacked, loader, "--list", program])).decode()
        with log.open("a") as sink:
            sink.write(f"{program} needs:\n{said}")
        found.update(re.findall(r"=> (/\S+)", said))
    return sorted(found)


def with_dependencies(modules_dep: str, modules_builtin: str, wanted: Iterable[str]) -> list[str]:
    """Return the files of the modules ``wanted`` and of all that they depend on, by modules.dep(5) and modules.builtin.

    A module that is built into the kernel needs no file. Names match with hyphens and underscores alike, as for
    modprobe. Raises LabError naming a module that the kernel has not.
    """
    by_name: dict[str, list[str]] = {}

    def name_of(path: str) -> str:
        return os.path.basename(path).split(".ko", 1)[0].replace("-", "_")

    for path in modules_builtin.split():
        by_name[name_of(path)] = []
    for line in modules_dep.splitlines():
        path, _, needs = line.partition(":")
        by_name[name_of(path)] = [path, *needs.split()]
    found: dict[str, None] = {}
    for name in wanted:
        try:
            found.update(dict.fromkeys(by_name[name.replace("-", "_")]))
        except KeyError as error:
            raise LabError(f"the kernel has no module {name!r}.") from error
    return sorted(found)
