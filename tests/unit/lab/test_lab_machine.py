# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A server's command line, its snapshots' key, its ports and its names."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from lab import machine
from lab.errors import LabError
from lab.images import Image
from lab.machine import Machine, Spec
from lab.paths import RECIPES

SPEC = Spec("kvm1", "kvm-host", "0123", memory=3072, cpus=2, wires=2, accelerator="tcg")
IMAGE = Image("kvm-host", "0123", Path("/cache/kvm-host-0123"))


def command(spec: Spec = SPEC, snapshot: str | None = None, folder: Path = Path("/lab/servers/kvm1")) -> list[str]:
    return machine.qemu_command(spec, IMAGE, folder, Path("/lab/sockets"), 2222, snapshot)


def values(argv: list[str], option: str) -> list[str]:
    return [argv[at + 1] for at, word in enumerate(argv) if word == option]


def test_svm_is_emulated_where_there_is_no_kvm() -> None:
    argv = command()
    assert values(argv, "-accel") == ["tcg,thread=single"]
    assert values(argv, "-cpu") == ["EPYC,+svm,+npt"]


def test_kvm_hands_the_processor_through() -> None:
    argv = command(dataclasses.replace(SPEC, accelerator="kvm"))
    assert values(argv, "-accel") == ["kvm"]
    assert values(argv, "-cpu") == ["host"]


def test_the_kernel_is_the_one_beside_the_image() -> None:
    argv = command()
    assert values(argv, "-kernel") == ["/cache/kvm-host-0123/vmlinuz"]
    assert values(argv, "-initrd") == ["/cache/kvm-host-0123/initrd"]


def test_ssh_is_forwarded_from_loopback_only() -> None:
    (netdev,) = [value for value in values(command(), "-netdev") if value.startswith("user")]
    assert netdev == "user,id=mgmt0,hostfwd=tcp:127.0.0.1:2222-:22"


@pytest.mark.parametrize("wires", range(machine.MOST_WIRES + 1))
def test_each_uplink_is_a_port_of_the_switch_with_its_own_mac(wires: int) -> None:
    argv = command(dataclasses.replace(SPEC, wires=wires))
    uplinks = [value for value in values(argv, "-netdev") if value.startswith("dgram")]
    assert len(uplinks) == wires
    for number, uplink in enumerate(uplinks):
        assert f"local.path=/lab/sockets/kvm1-{number}.port" in uplink
        assert "remote.path=/lab/sockets/switch" in uplink
    macs = re.findall(r"mac=([0-9a-f:]+)", " ".join(argv))
    assert len(macs) == len(set(macs)) == wires + 1


def test_the_image_names_its_interfaces_by_the_slots_they_are_in() -> None:
    argv = command(dataclasses.replace(SPEC, wires=machine.MOST_WIRES))
    slots = dict(re.findall(r"virtio-net-pci,netdev=(\w+),\S*addr=0x(\w+)", " ".join(argv)))
    for name, slot in slots.items():
        link = (RECIPES / "kvm-host/files/etc/systemd/network" / f"10-{name}.link").read_text()
        assert f"Path=*pci-0000:00:{int(slot, 16):02x}.0*\n" in link
        assert f"Name={name}\n" in link
    assert set(slots) == {"mgmt0", "uplink0", "uplink1", "uplink2", "uplink3"}


def test_no_two_devices_share_a_slot() -> None:
    argv = command(dataclasses.replace(SPEC, wires=machine.MOST_WIRES))
    slots = re.findall(r"addr=(0x\w+)", " ".join(argv))
    assert len(slots) == len(set(slots)) == 1 + machine.MOST_WIRES + 2 + 1


def test_a_snapshot_is_loaded_only_if_it_is_named() -> None:
    assert values(command(), "-loadvm") == []
    assert values(command(snapshot="ready"), "-loadvm") == ["ready"]


def test_a_comma_in_a_path_does_not_begin_another_option() -> None:
    argv = command(folder=Path("/a,b"))
    assert any("file=/a,,b/system.qcow2" in value for value in values(argv, "-drive"))


def test_the_process_can_be_known_again_by_its_pid_file() -> None:
    assert values(command(), "-pidfile") == ["/lab/servers/kvm1/pid"]


CHANGES = {
    "name": "kvm2",
    "image": "kvm-host-ready",
    "memory": 2048,
    "cpus": 1,
    "wires": 1,
    "accelerator": "kvm",
}


@pytest.mark.parametrize("field", CHANGES)
def test_a_booted_state_fits_only_the_same_server(field: str) -> None:
    other = dataclasses.replace(SPEC, **{field: CHANGES[field]})
    image = dataclasses.replace(IMAGE, name=other.image)
    assert machine.snapshot_key(other, image, "qemu 7.2") != machine.snapshot_key(SPEC, IMAGE, "qemu 7.2")


def test_a_booted_state_fits_only_the_same_image_and_emulator() -> None:
    key = machine.snapshot_key(SPEC, IMAGE, "qemu 7.2")
    assert machine.snapshot_key(SPEC, IMAGE, "qemu 8.2") != key
    assert machine.snapshot_key(SPEC, dataclasses.replace(IMAGE, key="4567"), "qemu 7.2") != key


def test_a_booted_state_fits_wherever_lab_and_cache_lie() -> None:
    elsewhere = dataclasses.replace(IMAGE, folder=Path("/other/cache"))
    assert machine.snapshot_key(SPEC, elsewhere, "q") == machine.snapshot_key(SPEC, IMAGE, "q")


def test_macs_are_local_unicast_and_differ_between_servers() -> None:
    macs = {machine.mac_address(f"kvm{server}", nic) for server in range(1, 9) for nic in range(5)}
    assert len(macs) == 8 * 5
    assert all(mac.startswith("52:54:00:") for mac in macs)


@pytest.mark.parametrize("name", ["kvm1", "a", "a-b-c", "x" * 32])
def test_server_names_that_are_host_names(name: str) -> None:
    assert machine.check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "1a", "-a", "a-", "A", "a_b", "a.b", "../a", "a/b", "a b", "x" * 33, "a\n", "$(id)"]
)
def test_other_server_names_are_refused(name: str) -> None:
    with pytest.raises(LabError, match="is no server name"):
        Machine(Path("/nowhere"), name)


def test_a_port_in_use_is_not_free() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert not machine.port_is_free(port)
    assert machine.port_is_free(port)


def test_a_free_port_can_be_bound() -> None:
    port = machine.free_port()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", port))
    assert 1024 < port < 65536


@pytest.fixture
def server(tmp_path: Path) -> Machine:
    made = Machine(tmp_path / "lab", "kvm1")
    made.folder.mkdir(parents=True)
    (made.folder / "machine.json").write_text(json.dumps(dataclasses.asdict(SPEC)))
    (made.folder / "ssh-port").write_text("2222\n")
    return made


def test_what_a_server_is_can_be_read_again(server: Machine, cache: Path) -> None:
    assert server.spec == SPEC
    assert server.ssh_port == 2222
    assert server.image.folder == cache / "images" / "kvm-host-0123"
    assert not server.running


def test_a_server_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"there is no server 'kvm9' in .*: start it with `up kvm9`"):
        _ = Machine(tmp_path, "kvm9").spec


def test_a_server_without_its_image_does_not_start(server: Machine) -> None:
    with pytest.raises(LabError, match=r"kvm1: its image is not in the cache any more: `up kvm1 --fresh`"):
        server.start()


def test_words_reach_the_server_as_words(server: Machine) -> None:
    words = ["printf", "%s\n", "a b", "$(id)", "it's", ""]
    argv = server.ssh_command(words)
    assert argv[-2] == "--"
    assert shlex.split(argv[-1]) == words


def test_ssh_asks_nothing_and_trusts_only_the_lab_keys(server: Machine) -> None:
    options = " ".join(server.ssh_command([]))
    for option in ("-F none", "BatchMode=yes", "StrictHostKeyChecking=yes", "IdentitiesOnly=yes", "-p 2222"):
        assert option in options
    assert f"UserKnownHostsFile={server.lab / 'known_hosts'}" in options
    assert options.endswith("operator@127.0.0.1")


@pytest.mark.parametrize("tag", ["", "a b", "-x", "a;quit", "a\nquit", "x" * 65, "../a"])
def test_a_tag_that_the_monitor_could_misread_is_refused(server: Machine, tag: str) -> None:
    with pytest.raises(LabError, match="is no snapshot tag"):
        server.restore_snapshot(tag, lambda: None)


def test_a_stopped_server_has_no_monitor(server: Machine) -> None:
    with pytest.raises(LabError, match="kvm1 does not run"):
        server.take_snapshot("before")


def test_destroying_keeps_the_port_only_on_demand(server: Machine) -> None:
    server.destroy(keep_port=True)
    assert not server.exists
    assert [path.name for path in server.folder.iterdir()] == ["ssh-port"]
    server.destroy()
    assert not server.folder.exists()


class Answering(Machine):
    """A server that answers SSH; what it was asked is kept."""

    def __init__(self, lab: Path, name: str) -> None:
        super().__init__(lab, name)
        self.asked: list[list[str]] = []
        self.status = 0

    def ssh(self, command: Sequence[str], *, timeout: float, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        assert timeout > 0
        self.asked.append(list(command))
        return subprocess.CompletedProcess(list(command), self.status, b"", b"no")


@pytest.fixture
def answering(server: Machine) -> Answering:
    return Answering(server.lab, server.name)


def test_a_server_is_named_once(answering: Answering) -> None:
    answering.first_boot()
    answering.first_boot()
    assert len(answering.asked) == 1
    assert answering.asked[0][-1] == "kvm1", "the name is an argument of the script, not part of it"
    assert "kvm1" not in answering.asked[0][-3]


def test_a_server_that_could_not_be_named_is_named_next_time(answering: Answering) -> None:
    answering.status = 1
    with pytest.raises(LabError, match="kvm1 could not be named: no"):
        answering.first_boot()
    answering.status = 0
    answering.first_boot()
    assert len(answering.asked) == 2


def test_an_emulator_that_hangs_is_not_waited_for(
    server: Machine, monkeypatch: pytest.MonkeyPatch, sleeper: Callable[..., subprocess.Popen[bytes]]
) -> None:
    process = sleeper(str(server.pid_file))
    server.pid_file.write_text(str(process.pid))
    monkeypatch.setattr(machine, "MONITOR_PATIENCE", 0.2)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(server.monitor_path))
        silent.listen()
        began = time.monotonic()
        assert server.stop(gracefully=True) is True
    assert time.monotonic() - began < 20
    assert process.wait(timeout=10) == -signal.SIGTERM
    assert not server.monitor_path.exists()
