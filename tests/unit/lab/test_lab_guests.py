# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What guests are made of: archives, modules, boot sectors, and the tiny guest's reading of cloud-init's files."""

from __future__ import annotations

import json
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from lab import cpio, filesystems, initramfs
from lab.errors import LabError
from lab.images import load_recipe
from lab.paths import RECIPES

TINY = RECIPES / "tiny-guest"
BUSYBOX = "/bin/busybox"


def test_an_archive_is_unpacked_by_another_implementation(tmp_path: Path) -> None:
    entries = [
        cpio.folder("bin"),
        cpio.program("bin/x", b"#!/bin/sh\n"),
        cpio.plain("odd", b"123"),
        cpio.link("l", "bin/x"),
    ]
    subprocess.run(
        [BUSYBOX, "cpio", "-idm"], input=cpio.archive(entries), cwd=tmp_path, check=True, capture_output=True
    )
    assert (tmp_path / "bin/x").read_bytes() == b"#!/bin/sh\n"
    assert (tmp_path / "bin/x").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "odd").read_bytes() == b"123"
    assert (tmp_path / "odd").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "l").readlink() == Path("bin/x")


def test_an_archive_is_the_same_each_time() -> None:
    entries = [cpio.folder("a"), cpio.character_device("a/console", 5, 1)]
    assert cpio.archive(entries) == cpio.archive(entries)


DEP = "kernel/a/virtio_net.ko: kernel/b/failover.ko\nkernel/b/failover.ko:\nkernel/c/virtio-rng.ko.xz:\n"


def test_modules_bring_what_they_depend_on() -> None:
    assert initramfs.with_dependencies(DEP, "", ["virtio_net"]) == ["kernel/a/virtio_net.ko", "kernel/b/failover.ko"]


def test_module_names_match_with_hyphen_or_underscore() -> None:
    for name in ("virtio-rng", "virtio_rng"):
        assert initramfs.with_dependencies(DEP, "", [name]) == ["kernel/c/virtio-rng.ko.xz"]


def test_a_module_built_into_the_kernel_needs_no_file() -> None:
    assert initramfs.with_dependencies(DEP, "kernel/fs/ext4/ext4.ko\n", ["ext4"]) == []


def test_a_module_that_the_kernel_has_not_is_named() -> None:
    with pytest.raises(LabError, match="the kernel has no module 'ahci'"):
        initramfs.with_dependencies(DEP, "", ["ahci"])


def grub_images() -> tuple[bytes, bytes]:
    boot = bytearray(b"\xeb" * 512)
    core = bytearray(b"\xcc" * 2000)
    struct.pack_into("<QHH", core, 500, 2, 3, 0x820)
    return bytes(boot), bytes(core)


def test_the_first_stage_and_the_core_image_are_told_where_the_core_image_is(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    table = bytes(range(72))
    disk.write_bytes(b"\0" * 440 + table + b"\0" * (1 << 20))
    boot, core = grub_images()
    filesystems.write_grub(disk, boot, core, at=100, room=4096)
    data = disk.read_bytes()
    assert struct.unpack_from("<Q", data, 0x5C) == (100,)
    assert data[440:512] == table, "the partition table is not the boot loader's"
    assert struct.unpack_from("<QHH", data, 100 * 512 + 500) == (101, 3, 0x820)
    assert data[100 * 512 + 512 : 100 * 512 + 2000] == core[512:]


def test_a_core_image_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    boot, core = grub_images()
    (tmp_path / "disk").write_bytes(b"\0" * 65536)
    with pytest.raises(LabError, match="has 2000 bytes, its partition 1024"):
        filesystems.write_grub(tmp_path / "disk", boot, core, at=8, room=1024)
    assert (tmp_path / "disk").read_bytes() == b"\0" * 65536


def test_something_that_is_no_core_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(b"\0" * 65536)
    with pytest.raises(LabError, match="no block list"):
        filesystems.write_grub(tmp_path / "disk", b"\0" * 512, b"\0" * 2000, at=8, room=4096)


def flatten(text: str) -> dict[str, str]:
    argv = [BUSYBOX, "awk", "-f", str(TINY / "files/usr/lib/lab/flatten.awk")]
    said = subprocess.run(argv, input=text.encode(), capture_output=True, check=True).stdout.decode()
    return dict(line.split("=", 1) for line in said.splitlines())


def flat(value: Any, path: str = "") -> dict[str, str]:
    """The same in Python, for data that has been read already."""
    if isinstance(value, dict):
        return {k: v for key, below in value.items() for k, v in flat(below, f"{path}.{key}" if path else key).items()}
    if isinstance(value, list):
        return {k: v for n, below in enumerate(value) for k, v in flat(below, f"{path}.{n}").items()}
    return {path: json.dumps(value) if isinstance(value, (bool, int)) else value}


NETWORK = {
    "version": 2,
    "ethernets": {
        "nic0": {
            "match": {"macaddress": "52:54:00:aa:bb:cc"},
            "set-name": "lan0",
            "addresses": ["192.0.2.5/24", "2001:db8::5/64"],
            "dhcp4": False,
            "routes": [{"to": "default", "via": "192.0.2.1"}, {"to": "198.51.100.0/24", "via": "192.0.2.2"}],
            "nameservers": {"addresses": ["192.0.2.53"]},
        }
    },
    "vlans": {"v30": {"id": 30, "link": "nic0", "addresses": ["203.0.113.5/24"]}},
}
USER = {
    "hostname": "web1",
    "users": ["default", {"name": "admin", "ssh_authorized_keys": ["ssh-ed25519 AAAA+/= a@b", "ssh-rsa B c: d"]}],
    "lab_ignore_acpi": True,
}


@pytest.mark.parametrize("document", [NETWORK, USER], ids=["network-config", "user-data"])
@pytest.mark.parametrize("style", ["json", "indented json", "yaml", "yaml without flow"])
def test_the_tiny_guest_reads_what_tools_write(document: dict[str, Any], style: str) -> None:
    text = {
        "json": json.dumps(document),
        "indented json": json.dumps(document, indent=2),
        "yaml": yaml.safe_dump(document, default_flow_style=None, width=10_000),
        "yaml without flow": yaml.safe_dump(document, default_flow_style=False, width=10_000, sort_keys=False),
    }[style]
    assert flatten(text) == flat(document)
    assert flatten("#cloud-config\n" + text) == flat(document)


def test_the_tiny_guest_reads_what_people_write() -> None:
    text = """\
#cloud-config
# a comment
hostname: foo   # another
users:
- name: alice
  ssh_authorized_keys:
    - ssh-ed25519 AAAA alice@x
- {name: bob, shell: /bin/sh}
write_files:
  - path: /x
    content: |
      a: b
      - c
    owner: root
"quoted": 'it is'
"""
    expected = {
        "hostname": "foo",
        "users": [
            {"name": "alice", "ssh_authorized_keys": ["ssh-ed25519 AAAA alice@x"]},
            {"name": "bob", "shell": "/bin/sh"},
        ],
        "write_files": [{"path": "/x", "owner": "root"}],
        "quoted": "it is",
    }
    assert flatten(text) == flat(expected)


_WORDS = st.text("abcXYZ019-_./: @#", min_size=1, max_size=12).filter(lambda text: text == text.strip())
_KEYS = st.from_regex(r"[a-z][a-z0-9_-]{0,8}", fullmatch=True)
_DOCUMENTS = st.dictionaries(
    _KEYS,
    st.recursive(
        _WORDS | st.booleans() | st.integers(0, 4094),
        lambda inner: st.lists(inner, min_size=1, max_size=3) | st.dictionaries(_KEYS, inner, min_size=1, max_size=3),
        max_leaves=8,
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=60, deadline=None)
@given(_DOCUMENTS)
def test_whatever_is_in_a_document_is_found_at_its_path(document: dict[str, Any]) -> None:
    assert flatten(json.dumps(document)) == flat(document)
    assert flatten(yaml.safe_dump(document, default_flow_style=False, width=10_000)) == flat(document)


@pytest.mark.parametrize("path", sorted(p for p in RECIPES.rglob("*") if p.is_file()), ids=lambda p: p.name)
def test_shell_scripts_of_recipes_can_be_parsed(path: Path) -> None:
    first = path.read_bytes().split(b"\n", 1)[0]
    if first.startswith(b"#!") and first.endswith(b"sh"):
        assert path.stat().st_mode & 0o111, f"{path} is a script that cannot be executed"
        subprocess.run([BUSYBOX, "sh", "-n", str(path)], check=True)
    else:
        assert not first.startswith(b"#!")


def test_the_tiny_guest_has_the_drivers_for_its_seed_on_each_bus_and_no_others_by_accident() -> None:
    modules = set(load_recipe("tiny-guest").fields["modules"])
    assert {
        "virtio_blk",
        "virtio_scsi",
        "sr_mod",
        "isofs",
        "virtio_net",
        "virtio_console",
        "8021q",
        "button",
    } <= modules
