# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Templates: what is imported and sealed, what is refused, and that nothing half-imported stays."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.engine.platform import Platform
from ansible_collections.bareforge.hypervisor.plugins.module_utils.engine.runner import Request, gather, run
from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import ApplyError, ReadError, ValidateError
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.document import Document
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm import disk_images, template
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.file_names import Directories
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.template import (
    KvmTemplates,
    recover_templates,
)

MIB = 1024 * 1024


class Bench:
    def __init__(self, folder: Path) -> None:
        self.where = Directories(templates=str(folder / "lib" / "templates"), images=str(folder / "images"))
        self.source = folder / "source"

    def platform(self) -> Platform:
        class Kvm(Platform):
            NAME = "kvm"
            INTERFACES = (KvmTemplates,)

        platform = Kvm()
        platform.interfaces[0].where = self.where
        return platform

    def apply(self, data: dict[str, Any], check: bool = False) -> Any:
        document = Document.parse({"templates": [{"name": "t", **data}]})
        return run(self.platform(), Request(document, check=check))

    def image(self, driver: str = "qcow2", *options: str) -> dict[str, Any]:
        """Make an image and return what a document says of it."""
        plain = self.source.with_suffix(".raw")
        plain.write_bytes(b"boot" + b"\0" * (2 * MIB - 4))
        self.source = self.source.with_suffix(f".{driver}")
        if driver != "raw":
            subprocess.run(
                ["qemu-img", "convert", "-f", "raw", "-O", driver, *options, str(plain), str(self.source)], check=True
            )
        return self.described(self.source)

    def described(self, path: Path) -> dict[str, Any]:
        return {"source": {"path": str(path)}, "checksum": f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"}

    def left(self) -> list[str]:
        return sorted(os.listdir(self.where.templates)) if os.path.isdir(self.where.templates) else []


@pytest.fixture
def bench(tmp_path: Path) -> Any:
    made = Bench(tmp_path)
    yield made
    for entry in made.left():
        disk_images.set_immutable(os.path.join(made.where.templates, entry), False)


@pytest.mark.parametrize(
    ("driver", "format"), [("qcow2", "qcow2"), ("raw", "raw"), ("vmdk", "vmdk"), ("vhdx", "vhdx"), ("vpc", "vhd")]
)
def test_an_image_of_every_format_becomes_a_sealed_template(bench: Bench, driver: str, format: str) -> None:
    document = bench.image(driver)
    assert bench.apply(document)["changed"] is True
    assert bench.left() == ["t.json", "t.qcow2"]
    image = bench.where.template_image("t")
    assert stat.S_IMODE(os.stat(image).st_mode) == 0o444
    header = disk_images.read_qcow2(image)
    assert header is not None
    assert header.size >= 2 * MIB
    assert gather(bench.platform())["templates"][0]["source"]["format"] == format
    assert bench.apply(document)["changed"] is False
    assert bench.apply({**document, "source": {**document["source"], "format": format}})["changed"] is False


def test_not_even_root_writes_to_a_template(bench: Bench) -> None:
    bench.apply(bench.image())
    image = bench.where.template_image("t")
    if not disk_images.set_immutable(image, True):
        assert stat.S_IMODE(os.stat(image).st_mode) == 0o444  # this file system knows no immutable files
        return
    with pytest.raises(PermissionError), open(image, "r+b"):
        pass


def test_qemu_can_pass_through_the_directories(bench: Bench) -> None:
    os.makedirs(os.path.dirname(bench.where.templates), mode=0o700)
    bench.apply(bench.image())
    assert os.stat(os.path.dirname(bench.where.templates)).st_mode & 0o001
    assert os.stat(bench.where.templates).st_mode & 0o005 == 0o005


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"checksum": "sha256:" + "0" * 64}, "checksum: what .* gives has the checksum"),
        ({"source": {"format": "raw"}}, "its format is qcow2, and asked was raw"),
        ({"source": {"format": "vmdk"}}, "its format is qcow2, and asked was vmdk"),
    ],
)
def test_what_is_not_as_said_leaves_nothing(bench: Bench, change: dict[str, Any], message: str) -> None:
    document = bench.image()
    source = {**document["source"], **change.get("source", {})}
    with pytest.raises(ApplyError, match=message):
        bench.apply({**document, **change, "source": source})
    assert bench.left() == []


def test_an_image_that_refers_to_the_hosts_secrets_leaves_nothing(bench: Bench, tmp_path: Path) -> None:
    evil = tmp_path / "evil.qcow2"
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", "/etc/shadow", "-F", "raw", evil, "1M"], check=True
    )
    with pytest.raises(
        ApplyError, match=r"template\['t'\]\.source: the image is not taken: it has the backing file '/etc/shadow'"
    ):
        bench.apply(bench.described(evil))
    assert bench.left() == []


def test_a_vmdk_that_names_a_file_of_the_host_is_not_converted(bench: Bench, tmp_path: Path) -> None:
    secret, evil = tmp_path / "secret", tmp_path / "evil.vmdk"
    secret.write_bytes(b"s" * MIB)
    lines = ("# Disk DescriptorFile", "version=1", "CID=1", "parentCID=ffffffff", 'createType="monolithicFlat"')
    evil.write_text("\n".join((*lines, f'RW 2048 FLAT "{secret}" 0', "")))
    with pytest.raises(ApplyError, match="it is a VMDK whose data lies in other files"):
        bench.apply(bench.described(evil))
    assert bench.left() == []


def test_a_full_disk_leaves_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    document = bench.image("vmdk")

    def full(*_arguments: Any, **_options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk_images, "convert", full)
    with pytest.raises(ApplyError, match="No space left on device"):
        bench.apply(document)
    assert bench.left() == []


def test_too_little_space_is_found_out_first(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_images, "free_bytes", lambda _path: 1)
    with pytest.raises(ApplyError, match=r"template\['t'\] needs .* MiB"):
        bench.apply(bench.image())
    assert bench.left() == []


class Killed(BaseException):
    pass


@pytest.mark.parametrize("point", ["fetch", "inspect", "write_description", "rename", "set_immutable"])
def test_an_import_that_is_killed_is_finished_by_the_next(bench: Bench, point: str) -> None:
    document = bench.image()
    with pytest.MonkeyPatch.context() as patch:

        def kill(*_arguments: Any, **_options: Any) -> Any:
            raise Killed

        places = {
            "fetch": template.image_source,
            "inspect": disk_images,
            "write_description": template,
            "set_immutable": disk_images,
        }
        if point == "rename":
            real = os.rename

            def rename(source: str, target: str) -> None:
                if target.endswith("t.qcow2"):
                    raise Killed
                real(source, target)

            patch.setattr(os, "rename", rename)
        else:
            patch.setattr(places[point], point, kill)
        patch.setattr("shutil.rmtree", lambda *_arguments, **_options: None)
        with pytest.raises(Killed):
            bench.apply(document)
    recover_templates(bench.where)
    assert bench.left() in ([], ["t.json", "t.qcow2"])
    bench.apply(document)
    assert bench.left() == ["t.json", "t.qcow2"]
    assert json.loads(Path(bench.where.template_description("t")).read_text())["checksum"] == document["checksum"]


def test_a_removal_that_is_killed_is_finished_by_the_next(bench: Bench) -> None:
    bench.apply(bench.image())
    image = bench.where.template_image("t")
    disk_images.set_immutable(image, False)
    os.unlink(image)
    recover_templates(bench.where)
    assert bench.left() == []


def test_a_description_changes_without_the_image(bench: Bench) -> None:
    document = bench.image()
    bench.apply(document)
    before = os.stat(bench.where.template_image("t")).st_ino
    assert bench.apply({**document, "description": "new", "guest_type": "other"})["changed"] is True
    assert bench.apply({"description": "new"})["changed"] is False
    assert os.stat(bench.where.template_image("t")).st_ino == before


def test_another_image_under_the_same_name_is_refused(bench: Bench) -> None:
    bench.apply(bench.image())
    with pytest.raises(ValidateError, match="since it was made and cannot become"):
        bench.apply({"checksum": "sha256:" + "1" * 64})


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ({"source": {"path": "/nowhere"}}, "'/nowhere' cannot be read on the host: No such file"),
        ({"source": {"path": "/etc"}}, "'/etc' is no regular file"),
        ({"source": {"url": "file:///dev/null"}}, "'/dev/null' is no regular file"),
        ({"name": "../x"}, "'../x' is no name that a KVM host can hold"),
        ({"name": ".hidden"}, "'.hidden' is no name"),
        ({"name": "$(id)"}, "is no name"),
    ],
)
def test_what_cannot_be_imported_is_refused_before(bench: Bench, data: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidateError) as caught:
        bench.apply({**bench.image(), **data})
    assert any(problem in str(found) for found in caught.value.problems)
    assert bench.left() == []


def test_a_broken_description_is_said(bench: Bench) -> None:
    bench.apply(bench.image())
    Path(bench.where.template_description("t")).write_text("{")
    with pytest.raises(ReadError, match=r"template .t.: its description .* cannot be read"):
        gather(bench.platform())


def test_check_mode_imports_nothing(bench: Bench) -> None:
    assert bench.apply(bench.image(), check=True)["changed"] is True
    assert bench.left() == []
