# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The connection to Open vSwitch's database when things go wrong; what goes right is shown on a real one."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import ApplyError, ConnectError, ReadError
from ansible_collections.bareforge.hypervisor.plugins.module_utils.transports import ovsdb

Answer = Callable[[socket.socket, dict[str, Any]], None]


def reply(result: Any = None, error: Any = None) -> Answer:
    def send(client: socket.socket, request: dict[str, Any]) -> None:
        client.sendall(json.dumps({"id": request["id"], "result": result, "error": error}).encode())

    return send


def hang_up(client: socket.socket, request: dict[str, Any]) -> None:
    client.shutdown(socket.SHUT_RDWR)
    client.close()


def say_nothing(client: socket.socket, request: dict[str, Any]) -> None:
    return None


class Server:
    """Answers each request with the next of its answers, over as many connections as it takes."""

    def __init__(self, path: Path, answers: list[Answer]) -> None:
        self.requests: list[dict[str, Any]] = []
        self.answers = answers
        self.path = path
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self) -> None:
        while True:
            try:
                client, _address = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.talk, args=(client,), daemon=True).start()

    def talk(self, client: socket.socket) -> None:
        text = ""
        decoder = json.JSONDecoder()
        while True:
            try:
                data = client.recv(65536)
            except OSError:
                return
            if not data:
                return
            text += data.decode("ascii")
            while text:
                try:
                    request, end = decoder.raw_decode(text)
                except ValueError:
                    break
                text = text[end:]
                self.requests.append(request)
                if request.get("method") is not None:
                    self.answers.pop(0)(client, request)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., tuple[Server, ovsdb.Database]]]:
    started: list[tuple[Server, ovsdb.Database]] = []

    def start(*answers: Answer, deadline: float = 5.0) -> tuple[Server, ovsdb.Database]:
        path = tmp_path / f"{len(started)}.sock"
        started.append((Server(path, list(answers)), ovsdb.Database(str(path), deadline)))
        return started[-1]

    yield start
    for server, database in started:
        database.close()
        server.listener.close()


Serve = Callable[..., tuple[Server, ovsdb.Database]]


def test_everything_is_read_in_one_request(serve: Serve) -> None:
    server, database = serve(reply([{"rows": [{"name": "br0"}]}, {"rows": []}]))
    assert database.select({"Bridge": ["name"], "Port": ["name"]}) == {"Bridge": [{"name": "br0"}], "Port": []}
    [request] = server.requests
    assert request["method"] == "transact"
    assert request["params"] == [
        "Open_vSwitch",
        {"op": "select", "table": "Bridge", "where": [], "columns": ["name"]},
        {"op": "select", "table": "Port", "where": [], "columns": ["name"]},
    ]


def test_no_database(tmp_path: Path) -> None:
    with pytest.raises(ConnectError, match=r"nowhere.*No such file") as caught:
        ovsdb.Database(str(tmp_path / "nowhere")).select({"Bridge": ["name"]})
    assert "openvswitch" in str(caught.value.hint)


def test_a_lost_connection_is_opened_again_for_reading(serve: Serve) -> None:
    server, database = serve(hang_up, reply([{"rows": []}]))
    assert database.select({"Bridge": ["name"]}) == {"Bridge": []}
    assert len(server.requests) == 2


def test_a_lost_connection_is_no_reason_to_write_twice(serve: Serve) -> None:
    server, database = serve(hang_up, reply([{}]))
    with pytest.raises(ConnectError, match="create virtual_switch"):
        database.transact([{"op": "comment", "comment": "x"}], "create virtual_switch['br0']")
    assert len(server.requests) == 1
    # The next call is not stuck with what is broken.
    assert database.transact([{"op": "comment", "comment": "x"}], "again") == [{}]


def test_silence_has_an_end(serve: Serve) -> None:
    _server, database = serve(say_nothing, deadline=0.3)
    with pytest.raises(ConnectError, match="did not answer within"):
        database.transact([{"op": "comment", "comment": "x"}], "create virtual_switch['br0']")


def test_a_refusal_names_the_object_and_the_reason(serve: Serve) -> None:
    refusal = {"error": "constraint violation", "details": "two rows in Bridge have the name br0"}
    _server, database = serve(reply([{}, None, refusal]))
    with pytest.raises(ApplyError, match=r"virtual_switch\['br0'\].*constraint violation: two rows in Bridge"):
        database.transact([{"op": "comment", "comment": "x"}], "create virtual_switch['br0']")


def test_a_request_that_is_no_request(serve: Serve) -> None:
    _server, database = serve(reply(None, {"error": "unknown database", "details": "x"}))
    with pytest.raises(ReadError, match="unknown database: x"):
        database.select({"Bridge": ["name"]})


def test_what_has_changed_meanwhile_is_told_apart(serve: Serve) -> None:
    _server, database = serve(reply([{"error": "timed out", "details": ""}, None]))
    with pytest.raises(ovsdb.ConcurrentEdit):
        database.transact([{"op": "wait"}, {"op": "update"}], "update virtual_switch['br0']")


def test_echo_requests_are_answered(serve: Serve) -> None:
    def ask_first(client: socket.socket, request: dict[str, Any]) -> None:
        client.sendall(json.dumps({"id": "echo", "method": "echo", "params": [1]}).encode())
        reply([{"rows": []}])(client, request)

    server, database = serve(ask_first, reply([{"rows": []}]))
    database.select({"Bridge": ["name"]})
    database.select({"Bridge": ["name"]})
    assert {"id": "echo", "result": [1], "error": None} in server.requests


def test_the_daemon_is_waited_for_by_the_database(serve: Serve) -> None:
    server, database = serve(
        reply([{}, {"rows": [{"cur_cfg": 6}]}]),
        reply([{}, {"rows": [{"cur_cfg": 9}]}]),
    )
    database.wait_for_daemon("root", 8, 5, 10, "update")
    waits = [request["params"][1] for request in server.requests]
    assert [(wait["op"], wait["until"], wait["rows"]) for wait in waits] == [
        ("wait", "!=", [{"cur_cfg": 5}]),
        ("wait", "!=", [{"cur_cfg": 6}]),
    ]


def test_a_daemon_that_is_dead(serve: Serve) -> None:
    def time_out(client: socket.socket, request: dict[str, Any]) -> None:
        time.sleep(request["params"][1]["timeout"] / 1000 + 0.05)
        reply([{"error": "timed out"}, None])(client, request)

    _server, database = serve(time_out, time_out, time_out)
    with pytest.raises(ApplyError, match="ovs-vswitchd has not taken the change over within"):
        database.wait_for_daemon("root", 8, 5, 0.2, "update virtual_switch['br0']")


def test_a_daemon_that_is_ahead_is_not_asked(serve: Serve) -> None:
    server, database = serve()
    database.wait_for_daemon("root", 8, 8, 10, "update")
    assert server.requests == []


@pytest.mark.parametrize(
    ("value", "values"),
    [
        (["set", []], ()),
        (["set", [1, 2]], (1, 2)),
        (7, (7,)),
        ("text", ("text",)),
        (["uuid", "u"], ("u",)),
        (["set", [["uuid", "u"], ["uuid", "v"]]], ("u", "v")),
    ],
)
def test_values(value: Any, values: tuple[Any, ...]) -> None:
    assert ovsdb.values_of(value) == values
    assert ovsdb.value_of(value) == (values[0] if values else None)


def test_what_is_kept_is_ascii_and_comes_back() -> None:
    data = {"name": "Zürich ☃ \U0001f600", "list": ["a"]}
    text = ovsdb.kept(data)
    assert text.isascii()
    assert ovsdb.unkept(text) == data
    assert ovsdb.unkept("somebody else's") is None
    assert ovsdb.unkept(None) is None
