# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""File systems and disks made in plain files, without mounting and without loop devices."""

from __future__ import annotations

import os
import struct
from pathlib import Path

from lab.errors import LabError
from lab.processes import as_root, run

SECTOR = 512
# The layout of a bootable disk, in MiB: GRUB's own partition, the EFI system partition, and the root to the end.
_GRUB_AT, _GRUB_MIB = 1, 1
_ESP_AT, _ESP_MIB = 2, 14
ROOT_AT = 16
_TAIL_MIB = 1  # the second partition table
_BIOS_MODULES = ["biosdisk"]
_MODULES = ["part_gpt", "ext2", "normal", "linux", "boot", "echo", "configfile", "search", "test", "ls", "minicmd"]


def make_ext4(image: Path, root: Path, *, size_mib: int, label: str, log: Path, offset_mib: int = 0) -> None:
    """Make an ext4 file system of ``size_mib`` MiB holding the tree ``root`` in the file ``image`` (mke2fs -d).

    ``offset_mib`` is where in the file it begins, for a partition of a disk. Needs root or sudo to read ``root``.
    """
    if not image.exists():
        with image.open("wb") as handle:
            os.truncate(handle.fileno(), (offset_mib + size_mib) << 20)
    options = f"lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0,offset={offset_mib << 20}"
    argv = ["mke2fs", "-q", "-F", "-t", "ext4", "-i", "32768", "-m", "1", "-L", label, "-E", options]
    run(as_root([*argv, "-d", root, image, f"{size_mib}M"]), log=log)


def to_qcow2(raw: Path, target: Path, *, log: Path) -> None:
    """Convert the sparse raw disk ``raw`` to the qcow2 file ``target`` (qemu-img convert)."""
    run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, target], log=log)


def make_bootable(disk: Path, root: Path, *, tools: Path, size_mib: int, log: Path) -> None:
    """Make the raw disk ``disk`` of ``size_mib`` MiB, which boots by BIOS and UEFI into the tree ``root``.

    ``tools`` is a root folder with grub-common, grub-pc-bin and grub-efi-amd64-bin. GRUB reads /boot/grub/grub.cfg of
    ``root``. The root partition is number 1 and lies last, as in Debian's cloud images, so that it can be grown.
    Raises LabError if a tool fails, or GRUB's image does not fit.
    """
    with disk.open("wb") as handle:
        os.truncate(handle.fileno(), size_mib << 20)
    sectors = (1 << 20) // SECTOR
    root_mib = size_mib - ROOT_AT - _TAIL_MIB
    script = (
        "label: gpt\nfirst-lba: 34\n"
        f"1 : start={ROOT_AT * sectors}, size={root_mib * sectors}, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709\n"
        f"14 : start={_GRUB_AT * sectors}, size={_GRUB_MIB * sectors}, type=21686148-6449-6E6F-744E-656564454649\n"
        f"15 : start={_ESP_AT * sectors}, size={_ESP_MIB * sectors}, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B\n"
    )
    run(["sfdisk", "--quiet", disk], stdin=script.encode(), log=log)
    make_ext4(disk, root, size_mib=root_mib, label="root", log=log, offset_mib=ROOT_AT)

    scratch = tools / "tmp"
    for target, image, modules in (
        ("i386-pc", "core.img", _BIOS_MODULES + _MODULES),
        ("x86_64-efi", "bootx64.efi", [*_MODULES, "fat", "efi_gop", "efi_uga"]),
    ):
        mkimage = ["chroot", str(tools), "/usr/bin/grub-mkimage", "-O", target, "-o", f"/tmp/{image}"]
        argv = [*mkimage, "-p", "(,gpt1)/boot/grub"]
        run(as_root([*argv, *modules]), log=log)
    boot = (tools / "usr/lib/grub/i386-pc/boot.img").read_bytes()
    write_grub(disk, boot, (scratch / "core.img").read_bytes(), at=_GRUB_AT * sectors, room=_GRUB_MIB << 20)

    esp = disk.with_name("esp.img")
    with esp.open("wb") as handle:
        os.truncate(handle.fileno(), _ESP_MIB << 20)
    run(["mkfs.fat", "-F", "16", "-n", "ESP", esp], log=log)
    run(["mmd", "-i", esp, "::/EFI", "::/EFI/BOOT"], log=log)
    run(["mcopy", "-i", esp, scratch / "bootx64.efi", "::/EFI/BOOT/BOOTX64.EFI"], log=log)
    with disk.open("r+b") as handle:
        handle.seek(_ESP_AT << 20)
        handle.write(esp.read_bytes())
    esp.unlink()


def write_grub(disk: Path, boot: bytes, core: bytes, *, at: int, room: int) -> None:
    """Write GRUB's first stage ``boot`` and ``core`` image to ``disk``, as grub-bios-setup does on a real device.

    The core image goes to sector ``at``, where ``room`` bytes are free. The first stage finds it by the sector number
    at 0x5c; the core image's first sector, which loads the rest, has a block list (start 8 bytes, length 2, segment 2)
    at its end (GRUB: include/grub/i386/pc/boot.h, grub_pc_bios_boot_blocklist). Raises LabError if the core image is
    too large.
    """
    if len(core) > room:
        raise LabError(f"GRUB's core image has {len(core)} bytes, its partition {room}.")
    head = bytearray(boot[:440])
    struct.pack_into("<Q", head, 0x5C, at)
    body = bytearray(core)
    start, _length, _segment = struct.unpack_from("<QHH", body, SECTOR - 12)
    if start != 2:
        raise LabError(f"GRUB's core image has no block list where it is looked for (found {start}, not 2).")
    struct.pack_into("<Q", body, SECTOR - 12, at + 1)
    with disk.open("r+b") as handle:
        handle.write(head)
        handle.seek(at * SECTOR)
        handle.write(body)
