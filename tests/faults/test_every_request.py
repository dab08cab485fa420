# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A fault at every single request to a service, by a proxy between the platform and it.

What a platform brings is one `Subject`. Two are here: an API over HTTP with the whole engine above it, and the connection to Open
vSwitch's database. tests/real/kvm/test_faults.py has the sockets of a real KVM host.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.engine.runner import Request, run
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.document import Document
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.operation import Operation
from ansible_collections.bareforge.hypervisor.plugins.module_utils.transports import ovsdb
from support import faulty_wire
from support.faulty_wire import FAULTS, Address, FaultyWire, Http, JsonRpc, LibvirtRpc, Report, Subject, every_fault
from support.http_platform import HttpHost, HttpPlatform
from support.memory_platform import MemoryHost

# The parent has the proxy's threads; the child uses nothing of theirs.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

BEFORE = {
    "virtual_switches": [{"name": "old"}, {"name": "gone"}],
    "virtual_networks": [{"name": "office", "switch": "old", "vlan": 5}],
}
AFTER = {
    "virtual_switches": [{"name": "new", "uplinks": ["eth1"]}, {"name": "gone", "state": "absent"}],
    "virtual_networks": [{"name": "office", "switch": "new", "vlan": 10}],
    "host_interfaces": [{"name": "host0", "network": "office", "addresses": ["192.0.2.1/24"]}],
    "users": [{"name": "anna", "full_name": "Anna"}],
    "vms": [{"name": "web", "memory": {"size": 64}, "nics": [{"name": "e0", "network": "office"}]}],
}


class HttpSubject(Subject):
    """A whole job of the engine on a platform behind HTTP."""

    framing = Http()

    def __init__(self, service: HttpHost) -> None:
        self.service = service
        self.target = service.address

    def fresh(self) -> None:
        self.service.host = MemoryHost.holding(BEFORE)

    def run(self, address: Address) -> bool:
        assert not isinstance(address, str)
        platform = HttpPlatform(address)
        options = Operation.parse({"guard": {"enabled": False}})
        return bool(run(platform, Request(Document.parse(AFTER), options))["changed"])

    def state(self) -> Any:
        return {**self.service.host.snapshot(), "unfinished": dict(self.service.host.unfinished)}


@pytest.fixture
def http_subject() -> Iterator[HttpSubject]:
    service = HttpHost()
    yield HttpSubject(service)
    service.close()


class SmallDatabase:
    """What of ovsdb-server a list of bridges takes: `select` and `insert` (RFC 7047, 5.2)."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.bridges: list[str] = []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client = self.listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=self._talk, args=(client,), daemon=True).start()

    def _talk(self, client: socket.socket) -> None:
        data = b""
        while piece := client.recv(65536):
            messages, data = JsonRpc().split(data + piece)
            for message in messages:
                request = json.loads(message)
                results = [self._carry_out(operation) for operation in request["params"][1:]]
                client.sendall(json.dumps({"id": request["id"], "result": results, "error": None}).encode())

    def _carry_out(self, operation: dict[str, Any]) -> dict[str, Any]:
        if operation["op"] == "insert":
            self.bridges.append(operation["row"]["name"])
            return {"uuid": ["uuid", "0"]}
        return {"rows": [{"name": name} for name in self.bridges]}


class DatabaseSubject(Subject):
    """Bridges that are made one by one where they are missing."""

    framing = JsonRpc()

    def __init__(self, folder: Path) -> None:
        self.database = SmallDatabase(str(folder / "db.sock"))
        self.target = self.database.path
        self.listen = str(folder / "wire.sock")

    def fresh(self) -> None:
        self.database.bridges = ["br0"]

    def run(self, address: Address) -> bool:
        database = ovsdb.Database(str(address), 5.0)
        there = [row["name"] for row in database.select({"Bridge": ["name"]})["Bridge"]]
        missing = [name for name in ("br0", "br1", "br2") if name not in there]
        for name in missing:
            database.transact([{"op": "insert", "table": "Bridge", "row": {"name": name}}], f"bridge {name!r}")
        return bool(missing)

    def state(self) -> Any:
        return sorted(self.database.bridges)


@pytest.fixture
def database_subject(tmp_path: Path) -> Iterator[DatabaseSubject]:
    subject = DatabaseSubject(tmp_path)
    yield subject
    subject.database.listener.close()


def assert_whole(report: Report) -> None:
    assert report.problems == []
    assert set(report.ends) == set(FAULTS)
    assert report.strikes == len(FAULTS) * report.requests
    assert report.ends["kill_before"] == report.ends["kill_after"] == {"killed": report.requests}
    assert report.ends["delay"] == {"changed": report.requests}


def test_every_fault_at_every_request_over_http(http_subject: HttpSubject) -> None:
    report = every_fault(http_subject)
    # Eight changes, and what it takes to read before and after.
    assert report.requests >= 14
    assert_whole(report)
    for fault in ("break_before", "break_after", "truncate", "error", "denied"):
        assert report.ends[fault] == {"refused": report.requests}, fault


def test_every_fault_at_every_request_to_the_database_of_open_vswitch(database_subject: DatabaseSubject) -> None:
    report = every_fault(database_subject)
    assert report.requests == 3
    assert_whole(report)
    # What is only read is read a second time; what is written is not sent twice.
    assert report.ends["break_after"] == {"changed": 1, "refused": 2}


class TestTheHarnessFindsWhatIsWrong:
    """Platforms with a fault of their own, each of which has to be told."""

    def test_an_orphan(self, http_subject: HttpSubject, monkeypatch: pytest.MonkeyPatch) -> None:
        def leaves_something(self: HttpSubject, address: Address) -> bool:
            platform = HttpPlatform(address)  # type: ignore[arg-type]
            there = platform.read(["virtual_switch"])["virtual_switch"]
            extra = Document.parse({"virtual_switches": [{"name": f"s{len(there)}"}, {"name": "last"}]})
            if ("last",) in there:
                return False
            return bool(run(platform, Request(extra, Operation.parse({})))["changed"])

        monkeypatch.setattr(HttpSubject, "run", leaves_something)
        problems = every_fault(http_subject, ["kill_after"]).problems
        assert any("after the next run there is" in problem for problem in problems)

    def test_an_exception_that_is_none_of_ours(
        self, http_subject: HttpSubject, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def without_translation(self: HttpPlatform, path: str, asked: Any, otherwise: Any) -> Any:
            import pickle

            self.connection.request("POST", path, pickle.dumps(asked))
            return pickle.loads(self.connection.getresponse().read())  # noqa: S301

        monkeypatch.setattr(HttpPlatform, "ask", without_translation)
        problems = every_fault(http_subject, ["break_before"]).problems
        assert any("the run crashed Traceback" in problem for problem in problems)

    def test_a_run_that_hangs(self, database_subject: DatabaseSubject, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(faulty_wire, "DEADLINE", 0.5)
        monkeypatch.setattr(ovsdb.Database, "_call", lambda *_arguments: threading.Event().wait(30))
        with pytest.raises(AssertionError, match="hung"):
            every_fault(database_subject)


def test_requests_are_counted_over_all_connections_and_pass_unchanged(http_subject: HttpSubject) -> None:
    http_subject.fresh()
    wire = FaultyWire(Http(), http_subject.target)
    first, second = (HttpPlatform(wire.address) for _number in range(2))  # type: ignore[arg-type]
    assert first.read(["virtual_switch"]) == second.read(["virtual_switch"]) == first.read(["virtual_switch"])
    assert wire.requests == 3
    wire.close()


def test_messages_of_json_rpc_are_told_apart_wherever_they_are_cut() -> None:
    stream = b'{"id":1,"method":"transact","params":["\xc3\xa9}{"]} {"id":2,"result":null}'
    for cut in range(len(stream)):
        first, rest = JsonRpc().split(stream[:cut])
        second, rest = JsonRpc().split(rest + stream[cut:])
        assert (b"".join([*first, *second]), rest) == (stream.replace(b" ", b""), b"")


def test_messages_of_libvirt_are_told_apart_and_answered() -> None:
    framing = LibvirtRpc()
    call = struct.pack(">IIIIIII", 32, framing.PROGRAM, 1, 66, 0, 7, 0) + b"\0\0\0\1"
    event = struct.pack(">IIIIIII", 28, framing.PROGRAM, 1, 107, 2, 0, 0)
    alive = struct.pack(">IIIIIII", 28, 0x6B656570, 1, 1, 2, 0, 0)
    stream = call + event + alive
    for cut in range(len(stream)):
        first, rest = framing.split(stream[:cut])
        second, rest = framing.split(rest + stream[cut:])
        assert ([*first, *second], rest) == ([call, event, alive], b"")
    assert [framing.is_request(message) for message in (call, event, alive)] == [True, False, False]
    answer = framing.error(call, denied=False)
    assert struct.unpack(">IIIIIII", answer[:28]) == (len(answer), framing.PROGRAM, 1, 66, 1, 7, 1)
    assert framing.answers(answer, call)
    assert not framing.answers(event, call)
