# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The user-space switch between the servers, with real sockets."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import processes, wires

BROADCAST = b"\xff" * 6


def address(number: int) -> bytes:
    return bytes([0x52, 0x54, 0, 0, 0, number])


def frame(to: bytes, sender: bytes, text: bytes, vlan: int | None = None) -> bytes:
    tag = b"" if vlan is None else b"\x81\x00" + vlan.to_bytes(2, "big")
    return to + sender + tag + b"\x08\x00" + text


class Port:
    """A plug in the switch."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / name
        self.path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))
        self._switch = str(folder / wires.SWITCH)

    def send(self, data: bytes) -> None:
        self._socket.sendto(data, self._switch)

    def receive(self, seconds: float = 5.0) -> bytes:
        self._socket.settimeout(seconds)
        return self._socket.recv(wires.LONGEST_FRAME)

    def hears_nothing(self) -> bool:
        try:
            self.receive(0.3)
        except TimeoutError:
            return True
        return False

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def sockets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("w")
    pid_file = folder / "pid"
    argv = [sys.executable, wires.__file__, str(folder), str(pid_file)]
    processes.start_daemon(argv, pid_file, folder / "log")
    deadline = time.monotonic() + 20
    while not (folder / wires.SWITCH).exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    yield folder
    assert (folder / "log").read_text() == ""
    processes.stop(pid_file)
    assert not (folder / wires.SWITCH).exists()


@pytest.fixture
def ports(sockets: Path) -> Iterator[list[Port]]:
    made = [Port(sockets, f"server{number}-0.port") for number in range(3)]
    time.sleep(1.1)  # the switch looks for new plugs once a second
    yield made
    for port in made:
        port.close()


def test_an_unknown_address_is_flooded_and_a_known_one_is_not(ports: list[Port]) -> None:
    one, two, three = ports
    one.send(frame(address(2), address(1), b"where are you"))
    assert two.receive() == three.receive() == frame(address(2), address(1), b"where are you")
    two.send(frame(address(1), address(2), b"here"))
    assert one.receive() == frame(address(1), address(2), b"here")
    assert three.hears_nothing()


def test_a_frame_never_comes_back_to_its_port(ports: list[Port]) -> None:
    one, two, _ = ports
    one.send(frame(BROADCAST, address(1), b"all"))
    two.receive()
    one.send(frame(address(1), address(1), b"me"))
    assert one.hears_nothing()


def test_tags_travel_untouched_and_addresses_are_learned_for_each_vlan(ports: list[Port]) -> None:
    one, two, three = ports
    two.send(frame(BROADCAST, address(2), b"in ten", vlan=10))
    one.receive()
    three.receive()
    one.send(frame(address(2), address(1), b"ten", vlan=10))
    assert two.receive() == frame(address(2), address(1), b"ten", vlan=10)
    assert three.hears_nothing()
    one.send(frame(address(2), address(1), b"twenty", vlan=20))
    assert two.receive() == three.receive() == frame(address(2), address(1), b"twenty", vlan=20)


def test_an_address_that_moves_is_followed(ports: list[Port]) -> None:
    one, two, three = ports
    two.send(frame(BROADCAST, address(9), b"at two"))
    one.receive(), three.receive()
    three.send(frame(BROADCAST, address(9), b"at three"))
    one.receive(), two.receive()
    one.send(frame(address(9), address(1), b"x"))
    assert three.receive() == frame(address(9), address(1), b"x")
    assert two.hears_nothing()


def test_a_port_that_was_plugged_in_again_is_served(sockets: Path, ports: list[Port]) -> None:
    one, two, _ = ports
    one.send(frame(BROADCAST, address(1), b"before"))
    two.receive()
    two.close()
    one.send(frame(BROADCAST, address(1), b"lost"))
    time.sleep(0.1)
    again = Port(sockets, two.path.name)
    one.send(frame(BROADCAST, address(1), b"after"))
    assert again.receive() == frame(BROADCAST, address(1), b"after")
    again.close()


def test_a_monitor_sees_every_frame(sockets: Path, ports: list[Port]) -> None:
    one, two, _ = ports
    monitor = Port(sockets, "test.monitor")
    time.sleep(1.1)
    one.send(frame(BROADCAST, address(1), b"hello"))
    two.receive()
    two.send(frame(address(1), address(2), b"between us"))
    assert monitor.receive() == frame(BROADCAST, address(1), b"hello")
    assert monitor.receive() == frame(address(1), address(2), b"between us")
    monitor.close()


def test_more_frames_than_a_socket_holds_arrive_in_order(ports: list[Port]) -> None:
    one, two, _ = ports
    sent = [frame(BROADCAST, address(1), number.to_bytes(2, "big")) for number in range(300)]
    for data in sent:
        one.send(data)
    assert [two.receive() for _ in sent] == sent


def test_a_runt_is_dropped(ports: list[Port]) -> None:
    one, two, _ = ports
    one.send(b"short")
    one.send(frame(BROADCAST, address(1), b"next"))
    assert two.receive() == frame(BROADCAST, address(1), b"next")


@pytest.mark.parametrize(
    ("data", "vlan"),
    [
        (frame(BROADCAST, address(1), b""), 0),
        (frame(BROADCAST, address(1), b"", vlan=4094), 4094),
        (frame(BROADCAST, address(1), b"", vlan=0xE00A), 10),
        (BROADCAST + address(1) + b"\x88\xa8\x00\x07", 7),
        (BROADCAST + address(1) + b"\x81\x00", 0),
    ],
)
def test_the_vlan_is_that_of_the_outer_tag(data: bytes, vlan: int) -> None:
    assert wires.vlan_of(data) == vlan


def test_addresses_are_forgotten() -> None:
    table = wires.AddressTable()
    table.learn(0, address(1), "a.port", now=0.0)
    assert table.lookup(0, address(1), now=wires.AGEING_SECONDS - 1) == "a.port"
    assert table.lookup(0, address(1), now=wires.AGEING_SECONDS + 1) is None


def test_a_group_address_is_never_learned() -> None:
    table = wires.AddressTable()
    table.learn(0, b"\x01\x00\x5e\x00\x00\x01", "a.port", now=0.0)
    assert table.lookup(0, b"\x01\x00\x5e\x00\x00\x01", now=0.0) is None
