# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Disk images: which are taken, which are refused, and that nothing half-made stays."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import tarfile
from pathlib import Path

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import ApplyError
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm import disk_images
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.disk_images import ImageError

MIB = 1024 * 1024


def qemu_img(*arguments: str) -> None:
    subprocess.run(["qemu-img", *arguments], check=True, capture_output=True)


def raw(path: Path, size: int = 4 * MIB) -> Path:
    with path.open("wb") as image:
        image.write(b"\xeb\x63" + b"boot" * 100)
        image.truncate(size)
    return path


def converted(tmp_path: Path, driver: str, *options: str) -> Path:
    source, target = raw(tmp_path / "source.raw"), tmp_path / f"image.{driver}"
    qemu_img("convert", "-f", "raw", "-O", driver, *options, str(source), str(target))
    return target


@pytest.mark.parametrize(
    ("driver", "format"), [("qcow2", "qcow2"), ("raw", "raw"), ("vmdk", "vmdk"), ("vhdx", "vhdx"), ("vpc", "vhd")]
)
def test_every_format_is_found_and_becomes_a_qcow2_with_the_same_content(
    tmp_path: Path, driver: str, format: str
) -> None:
    image = converted(tmp_path, driver)
    assert disk_images.find_format(str(image)) == format
    disk_images.refuse_references(str(image), format)
    inspection = disk_images.inspect(str(image), format)
    assert inspection.size >= 4 * MIB
    target = tmp_path / "target.qcow2"
    disk_images.convert(str(image), format, str(target))
    header = disk_images.read_qcow2(str(target))
    assert header is not None
    assert header.size == inspection.size
    back = tmp_path / "back.raw"
    qemu_img("convert", "-f", "qcow2", "-O", "raw", str(target), str(back))
    assert back.read_bytes()[: 4 * MIB] == (tmp_path / "source.raw").read_bytes()


def test_a_stream_optimized_vmdk_is_taken(tmp_path: Path) -> None:
    image = converted(tmp_path, "vmdk", "-o", "subformat=streamOptimized")
    disk_images.refuse_references(str(image), disk_images.find_format(str(image)))


def test_a_backing_file_is_refused_before_anyone_opens_it(tmp_path: Path) -> None:
    image = tmp_path / "evil.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-u", "-b", "/etc/shadow", "-F", "raw", str(image), "1M")
    with pytest.raises(ImageError, match="backing file '/etc/shadow'"):
        disk_images.refuse_references(str(image), "qcow2")
    with pytest.raises(ImageError, match="backing file '/etc/shadow'"):
        disk_images.inspect(str(image), "qcow2")


def test_an_external_data_file_is_refused(tmp_path: Path) -> None:
    image = tmp_path / "evil.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-o", f"data_file={tmp_path / 'data'},data_file_raw=on", str(image), "1M")
    with pytest.raises(ImageError, match="data lies in another file"):
        disk_images.refuse_references(str(image), "qcow2")


@pytest.mark.parametrize("subformat", ["monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"])
def test_a_vmdk_with_its_data_elsewhere_is_refused(tmp_path: Path, subformat: str) -> None:
    image = converted(tmp_path, "vmdk", "-o", f"subformat={subformat}")
    assert disk_images.find_format(str(image)) == "vmdk"
    with pytest.raises(ImageError, match="monolithicSparse or streamOptimized"):
        disk_images.refuse_references(str(image), "vmdk")


def test_a_vmdk_that_names_a_file_of_the_host_as_extent_is_refused(tmp_path: Path) -> None:
    image = tmp_path / "evil.vmdk"
    image.write_text(
        '# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType="monolithicFlat"\nRW 8 FLAT "/etc/shadow" 0\n'
    )
    with pytest.raises(ImageError, match="data lies in other files"):
        disk_images.refuse_references(str(image), disk_images.find_format(str(image)))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'createType="monolithicSparse"', b'createType="monolithicFlat"  '),
        (b"parentCID=ffffffff", b"parentCID=12345678"),
        (b"ddb.adapterType", b'RW 1 FLAT "x" 0\n'),
    ],
)
def test_a_sparse_vmdk_whose_descriptor_points_elsewhere_is_refused(tmp_path: Path, old: bytes, new: bytes) -> None:
    image = converted(tmp_path, "vmdk")
    content = image.read_bytes()
    assert old in content
    image.write_bytes(content.replace(old, new, 1))
    with pytest.raises(ImageError):
        disk_images.refuse_references(str(image), "vmdk")


def test_a_sparse_vmdk_without_capacity_is_a_descriptor_and_refused(tmp_path: Path) -> None:
    image = converted(tmp_path, "vmdk")
    content = bytearray(image.read_bytes())
    content[12:20] = struct.pack("<Q", 0)
    image.write_bytes(content)
    with pytest.raises(ImageError, match="data lies in other files"):
        disk_images.refuse_references(str(image), "vmdk")


@pytest.mark.parametrize("content", [b"", b"not an image", b"x" * 513])
def test_what_is_no_disk_at_all_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(ImageError, match="that of no disk image"):
        disk_images.find_format(str(path))


def test_another_known_format_is_no_raw_disk(tmp_path: Path) -> None:
    image = converted(tmp_path, "vdi")
    with pytest.raises(ImageError, match="its format is vdi; allowed is"):
        disk_images.find_format(str(image))


OVF = """<?xml version="1.0"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1">
<References>{files}</References><DiskSection>{disks}</DiskSection></Envelope>"""


def ova(tmp_path: Path, disks: int = 1, name: str = "disk{}.vmdk", descriptor: str | None = None) -> Path:
    path, disk = tmp_path / "a.ova", converted(tmp_path, "vmdk", "-o", "subformat=streamOptimized")
    files = "".join(f'<File ovf:id="f{n}" ovf:href="{name.format(n)}"/>' for n in range(disks))
    parts = "".join(f'<Disk ovf:diskId="d{n}" ovf:fileRef="f{n}"/>' for n in range(disks))
    text = (descriptor or OVF.format(files=files, disks=parts)).encode()
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        member = tarfile.TarInfo("a.ovf")
        member.size = len(text)
        archive.addfile(member, io.BytesIO(text))
        for number in range(disks):
            archive.add(disk, arcname=name.format(number))
    return path


def test_the_disk_of_an_ova_is_taken_out(tmp_path: Path) -> None:
    path = ova(tmp_path)
    assert disk_images.find_format(str(path)) == "ova"
    member = disk_images.ova_disk(str(path))
    target = tmp_path / "out.vmdk"
    disk_images.extract(str(path), member, str(target))
    assert target.read_bytes() == (tmp_path / "image.vmdk").read_bytes()


@pytest.mark.parametrize(
    ("disks", "descriptor", "message"),
    [
        (2, None, "it has 2 disks"),
        (0, None, "it has 0 disks"),
        (1, "<broken", "no XML"),
        (1, OVF.format(files='<File ovf:id="f0" ovf:href="/etc/shadow"/>', disks='<Disk ovf:fileRef="f0"/>'), "is not in it"),
        (1, '<!DOCTYPE x [<!ENTITY a "b">]>' + OVF.format(files="", disks=""), "document type"),
        (1, OVF.format(files='<File ovf:id="f0" ovf:href="disk0.vmdk" ovf:compression="gzip"/>', disks=""), "compressed"),
    ],
)  # fmt: skip
def test_an_ova_that_is_not_plain_is_refused(tmp_path: Path, disks: int, descriptor: str | None, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        disk_images.ova_disk(str(ova(tmp_path, disks, descriptor=descriptor)))


def test_a_link_in_an_ova_is_not_followed(tmp_path: Path) -> None:
    path = ova(
        tmp_path,
        0,
        descriptor=OVF.format(files='<File ovf:id="f0" ovf:href="d.vmdk"/>', disks='<Disk ovf:fileRef="f0"/>'),
    )
    with tarfile.open(path, "a", format=tarfile.USTAR_FORMAT) as archive:
        link = tarfile.TarInfo("d.vmdk")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/shadow"
        archive.addfile(link)
    with pytest.raises(ImageError, match="is not in it"):
        disk_images.ova_disk(str(path))


def test_a_linked_clone_refers_to_its_template_and_can_be_larger(tmp_path: Path) -> None:
    template, clone = converted(tmp_path, "qcow2"), tmp_path / "clone.qcow2"
    disk_images.create(str(clone), 8 * MIB, backing=str(template))
    header = disk_images.read_qcow2(str(clone))
    assert header is not None
    assert (header.size, header.backing) == (8 * MIB, str(template))


def test_a_full_copy_stands_alone_and_keeps_its_holes(tmp_path: Path) -> None:
    template, copy = converted(tmp_path, "qcow2"), tmp_path / "copy.qcow2"
    disk_images.copy(str(template), str(copy))
    assert copy.read_bytes() == template.read_bytes()
    assert copy.stat().st_blocks <= template.stat().st_blocks + 8


@pytest.mark.parametrize("data", [b"", b"d" * 70000], ids=["nothing but a hole", "a hole at its end"])
def test_a_file_that_ends_with_a_hole_is_copied_to_its_end(tmp_path: Path, data: bytes) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.write_bytes(data)
    os.truncate(source, 3 * MIB)
    disk_images.copy(str(source), str(copy))
    assert copy.read_bytes() == source.read_bytes()


def test_a_thick_disk_has_its_space_at_once(tmp_path: Path) -> None:
    thick, thin = tmp_path / "thick.qcow2", tmp_path / "thin.qcow2"
    disk_images.create(str(thick), 16 * MIB, preallocate=True)
    disk_images.create(str(thin), 16 * MIB)
    assert thick.stat().st_blocks * 512 >= 16 * MIB
    assert thin.stat().st_blocks * 512 < 2 * MIB
    disk_images.grow(str(thick), 32 * MIB, preallocate=True)
    assert thick.stat().st_blocks * 512 >= 32 * MIB


def test_a_file_has_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "disk.qcow2"

    def fail(partial: str) -> None:
        Path(partial).write_text("half")
        assert not target.exists()
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        disk_images.make(str(target), fail)
    assert os.listdir(tmp_path) == []
    disk_images.make(str(target), lambda partial: Path(partial).write_text("whole") and None)
    assert target.read_text() == "whole"


def test_what_qemu_img_says_comes_with_the_error(tmp_path: Path) -> None:
    broken = tmp_path / "broken.qcow2"
    broken.write_bytes(b"QFI\xfb" + b"\0" * 600)
    with pytest.raises(ImageError, match="version"):
        disk_images.inspect(str(broken), "qcow2")


def test_too_little_space_is_said_with_numbers(tmp_path: Path) -> None:
    free = disk_images.free_bytes(str(tmp_path / "not" / "there"))
    assert free > 0
    with pytest.raises(ApplyError, match=r"needs \d+ MiB in .*, and there are \d+ MiB left"):
        disk_images.require_space(str(tmp_path), free + 4096 * MIB, "template['x']")
