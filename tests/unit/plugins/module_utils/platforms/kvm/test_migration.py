# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a migration makes of a VM, and the relay that carries it; a VM that moves is shown on two real hosts."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import ApplyError
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.compute import Template
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm import migration, migration_relay
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.domain_xml import parse
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.file_names import Directories, DiskFile
from ansible_collections.bareforge.hypervisor.plugins.module_utils.transports import libvirt as session
from support.libvirt_in_memory import Domain, Host, Library

XML = """\
<domain type='kvm'>
  <name>web1</name>
  <metadata><b:vm xmlns:b='https://bareforge.dev/xmlns/1'>{"clone": "linked", "template": "tiny"}</b:vm></metadata>
  <devices>
    <disk type='file' device='disk'>
      <source file='/var/lib/libvirt/images/bareforge/web1/root.qcow2'/>
      <backingStore type='file'><source file='/var/lib/bareforge/templates/tiny.qcow2'/></backingStore>
      <alias name='ua-disk-root'/>
    </disk>
    <disk type='file' device='disk'><source file='/pool/web1.data.qcow2'/><alias name='ua-disk-data'/></disk>
    <disk type='file' device='cdrom'><source file='/var/lib/libvirt/images/bareforge/web1/seed.iso'/></disk>
    <interface type='bridge'>
      <source network='br0' portgroup='app' portid='x' bridge='br0'/><mac address='52:54:00:00:00:01'/>
    </interface>
    <console type='pty'><log file='/elsewhere/web1.log' append='on'/></console>
  </devices>
  <seclabel type='dynamic' model='apparmor'/>
</domain>
"""


def test_a_vm_is_told_what_its_networks_and_disks_are_on_the_other_host() -> None:
    alias = migration.domain_xml.disk_alias
    source = XML.replace("ua-disk-root", alias("root")).replace("ua-disk-data", alias("data"))
    files = {
        "root": DiskFile("/var/lib/libvirt/images/bareforge/web1/root.qcow2"),
        "data": DiskFile("/dev/fast/web1.data", "raw", "fast"),
    }
    root = parse(migration.arriving_xml(source, {"app": "br-data"}, files, Directories(), full_copy=False))
    first, second, seed = root.findall("devices/disk")
    assert first.find("backingStore") is None
    assert (second.get("type"), second.find("source").attrib) == ("block", {"dev": "/dev/fast/web1.data"})  # type: ignore[union-attr]
    assert seed.find("source").get("file") == "/var/lib/libvirt/images/bareforge/web1/seed.iso"  # type: ignore[union-attr]
    place = root.find("devices/interface/source")
    assert place is not None
    assert place.attrib == {"network": "br-data", "portgroup": "app"}
    assert root.find("devices/console/log").get("file") == Directories().console("web1")  # type: ignore[union-attr]
    assert root.find("seclabel") is None


def test_templates_are_the_same_only_by_the_checksum_of_what_they_were_made_from(tmp_path: Path) -> None:
    where = Directories(templates=str(tmp_path))
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", where.template_image("tiny"), "64M"], check=True)

    def identity(checksum: str | None) -> Any:
        template = Template.parse({"name": "tiny", "checksum": checksum} if checksum else {"name": "tiny"})
        return migration._identity(template, where)

    one, other = f"sha256:{'1' * 64}", f"sha256:{'2' * 64}"
    assert identity(one) == identity(one)
    assert identity(one) != identity(other)
    # Made from a VM: the other host's may be anything of that name and size.
    assert identity(None) is None


@pytest.mark.parametrize("text", ["", "../../../etc", "a" * 31, "A" * 32, "a" * 31 + "/"])
def test_nothing_but_an_identifier_names_a_folder(text: str) -> None:
    with pytest.raises(ApplyError):
        migration._folder(text)


def test_identifiers_are_ones() -> None:
    assert migration._folder(migration.new_identifier()).startswith(migration.FOLDER)


class Relays:
    """The two ends of a migration's connections on one machine; a program of three lines stands where ssh would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.here, self.there = folder / "here", folder / "there"
        self.running: list[subprocess.Popen[bytes]] = []
        for place in (self.here, self.there):
            place.mkdir()
        self.relay = migration_relay.__file__

    def serve(self, place: Path, entries: Any) -> None:
        """Start a relay, and return once it says that it listens."""
        (place / "connections.json").write_text(json.dumps(entries), encoding="utf-8")
        notify = place / "notify"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
            told.bind(str(notify))
            told.settimeout(20)
            self.running.append(
                subprocess.Popen(
                    [sys.executable, "-I", self.relay, "serve", str(place / "connections.json")],
                    env={"NOTIFY_SOCKET": str(notify)},
                )
            )
            assert told.recv(100) == b"READY=1"

    def open(self, targets: dict[str, Any]) -> None:
        """Carry each word from here to its target there."""
        own = os.getuid()
        self.serve(
            self.there,
            [{"at": {"unix": str(self.there / f"{word}.sock"), "uid": own}, "to": to} for word, to in targets.items()],
        )
        self.serve(
            self.here,
            [
                {
                    "at": {"unix": str(self.here / f"{word}.sock"), "uid": own},
                    "to": {
                        "run": [
                            "/usr/bin/env",
                            f"SSH_ORIGINAL_COMMAND={word}",
                            sys.executable,
                            "-I",
                            self.relay,
                            "connect",
                            str(self.there),
                        ]
                    },
                }
                for word in targets
            ],
        )

    def close(self) -> None:
        for process in self.running:
            process.kill()
            process.wait()


@pytest.fixture
def relays(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relays]:
    # The path of a socket has 108 bytes at most.
    relays = Relays(tmp_path_factory.mktemp("relay"))
    yield relays
    relays.close()


def test_a_file_comes_whole_with_its_holes(relays: Relays, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    with source.open("wb") as file:
        file.write(b"begin")
        file.seek(8 * 1024 * 1024)
        file.write(os.urandom(300_000))
        file.truncate(20 * 1024 * 1024)
    relays.open({"disk-0": {"file": str(target)}})
    sent = migration._send_file(str(relays.here / "disk-0.sock"), str(source), migration.Limits(timeout=60))
    assert sent == 20 * 1024 * 1024
    assert target.read_bytes() == source.read_bytes()
    assert target.stat().st_blocks * 512 < 2 * 1024 * 1024
    assert target.stat().st_mode & 0o777 == 0o600


def test_a_file_that_is_cut_off_never_has_its_name(relays: Relays, tmp_path: Path) -> None:
    target = tmp_path / "target"
    relays.open({"disk-0": {"file": str(target)}})
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(relays.here / "disk-0.sock"))
        connection.sendall((1000).to_bytes(8, "big") + b"x" * 999)
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(20)
        assert connection.recv(5) == b""
    assert not target.exists()


def test_a_path_that_nobody_takes_is_told(relays: Relays, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"x")
    relays.open({"disk-0": {"file": str(tmp_path / "missing" / "target")}})
    with pytest.raises(ApplyError, match=r"has not come to the other host whole|could not be sent"):
        migration._send_file(str(relays.here / "disk-0.sock"), str(tmp_path / "source"), migration.Limits(timeout=60))


def test_a_service_is_talked_to_in_both_directions(relays: Relays, tmp_path: Path) -> None:
    path = str(relays.folder / "service.sock")
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()

    def echo() -> None:
        for _turn in range(2):
            connection, _address = server.accept()
            with connection:
                while data := connection.recv(65536):
                    connection.sendall(data[::-1])

    threading.Thread(target=echo, daemon=True).start()
    relays.open({"libvirt": {"unix": path}})
    for _turn in range(2):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(20)
            connection.connect(str(relays.here / "libvirt.sock"))
            for word in (b"one", b"three"):
                connection.sendall(word)
                time.sleep(0.01)
                assert connection.recv(100) == word[::-1]
    server.close()


@pytest.mark.parametrize("word", ["", "../x", "libvirt; id", "LIBVIRT", "libvirt-"])
def test_the_key_is_for_nothing_else(word: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert migration_relay.connect(str(tmp_path), word) == 2
    assert "migration" in capfd.readouterr().err


def test_where_it_has_moved_all_the_same_its_disks_are_not_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host()
    monkeypatch.setitem(sys.modules, "libvirt", Library(host))  # type: ignore[arg-type]
    session.close()
    interface = migration.KvmMigration(None, Directories(images=str(tmp_path)))
    mark = tmp_path / "web1" / ".sending"
    mark.parent.mkdir()
    mark.write_text('{"id": "x", "outside": []}', encoding="utf-8")
    interface.release("web1", "")
    assert mark.exists()
    host.domains["web1"] = Domain(host, "<domain><name>web1</name><uuid>1</uuid></domain>")
    interface.release("web1", "")
    assert not mark.exists()
