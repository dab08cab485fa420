# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The connection to the database that Open vSwitch is configured through (RFC 7047).

Everything that is read comes from one transaction, and everything that is written goes in one, so nobody ever sees a
switch half made. There is one connection a process.
"""

from __future__ import annotations

import errno
import json
import os
import time
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Type

from ..errors import ApplyError, BareforgeError, ConnectError, ReadError

SOCKET = "/var/run/openvswitch/db.sock"
DATABASE = "Open_vSwitch"
ANSWER_DEADLINE = 30.0  # seconds that the database has to answer in
_HINT = "See whether Open vSwitch runs: systemctl status openvswitch-switch"

Operation = Dict[str, Any]
Row = Dict[str, Any]

_databases: Dict[str, Database] = {}


class ConcurrentEdit(Exception):
    """What the transaction was based on has changed meanwhile (its `wait` was not met), and it was not made."""


def database(path: str = SOCKET) -> Database:
    """Return the process's connection, opened on first use.

    path: the socket of ovsdb-server.
    """
    if path not in _databases:
        _databases[path] = Database(path)
    return _databases[path]


class Database:
    """A connection to ovsdb-server over its Unix socket; it is opened when it is first needed."""

    def __init__(self, path: str = SOCKET, deadline: float = ANSWER_DEADLINE) -> None:
        self.path = path
        self.deadline = deadline
        self._connection: Any = None

    def close(self) -> None:
        """End the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def select(self, columns: Mapping[str, Sequence[str]]) -> Dict[str, List[Row]]:
        """Return all rows of some tables, read in one transaction; the values as RFC 7047 writes them.

        columns: the names of the wanted columns by table.
        Raises ConnectError or ReadError.
        """
        operations = [
            {"op": "select", "table": table, "where": [], "columns": list(names)} for table, names in columns.items()
        ]
        try:
            results = self.transact(operations, "The switches could not be read", ReadError)
        except ConnectError:
            # Open vSwitch may have been restarted since the last task of this process; reading twice does no harm.
            results = self.transact(operations, "The switches could not be read", ReadError)
        return {table: result["rows"] for table, result in zip(columns, results)}

    def transact(
        self, operations: Sequence[Operation], what: str, otherwise: Type[BareforgeError] = ApplyError
    ) -> List[Dict[str, Any]]:
        """Carry out operations as one transaction and return the result of each (RFC 7047, 4.1.3).

        what: what did not work, naming the object, for the message.
        otherwise: the exception for what the database refuses.
        Raises ConcurrentEdit where a `wait` was not met, ConnectError where the database is not there or goes away.
        """
        results = self._call("transact", [DATABASE, *operations], what, otherwise)
        for result in results:
            if result is not None and result.get("error"):
                if result["error"] == "timed out":
                    raise ConcurrentEdit(what)
                details = f": {result['details']}" if result.get("details") else ""
                raise otherwise(f"{what}: Open vSwitch's database says {result['error']}{details}")
        return list(results)

    def wait_for_daemon(self, root: str, number: int, last: int, timeout: float, what: str) -> None:
        """Wait until ovs-vswitchd has taken over a configuration.

        root: the UUID of the row in Open_vSwitch; number: its `next_cfg` after the transaction; last: its `cur_cfg`
        then; timeout: in seconds. See ovs-vswitchd.conf.db(5).
        Raises ApplyError where the daemon has not by then.
        """
        end = time.monotonic() + timeout
        where = [["_uuid", "==", uuid(root)]]
        while last < number:
            left = end - time.monotonic()
            try:
                if left <= 0:
                    raise ConcurrentEdit(what)
                # The database answers when the value is another one, so nobody has to ask again and again.
                changed = {
                    "op": "wait",
                    "timeout": int(min(left, self.deadline / 2) * 1000),
                    "table": "Open_vSwitch",
                    "where": where,
                    "columns": ["cur_cfg"],
                    "until": "!=",
                    "rows": [{"cur_cfg": last}],
                }
                show = {"op": "select", "table": "Open_vSwitch", "where": where, "columns": ["cur_cfg"]}
                last = int(self.transact([changed, show], what)[1]["rows"][0]["cur_cfg"])
            except ConcurrentEdit:
                if time.monotonic() >= end:
                    raise ApplyError(
                        f"{what}: ovs-vswitchd has not taken the change over within {timeout:.0f} s", _HINT
                    ) from None

    # -- The wire --------------------------------------------------------------------------------------------------

    def _open(self) -> Any:
        if self._connection is not None:
            return self._connection
        try:
            import ovs.jsonrpc
            import ovs.stream
        except ImportError as error:
            raise ConnectError(
                "the Python library of Open vSwitch is missing on the host",
                "Install the package python3-openvswitch, which the role kvm_host does",
            ) from error
        problem, stream = ovs.stream.Stream.open_block(
            ovs.stream.Stream.open(f"unix:{self.path}"), int(self.deadline * 1000)
        )
        if problem:
            raise ConnectError(
                f"Open vSwitch's database at {self.path} cannot be reached: {os.strerror(problem)}", _HINT
            )
        self._connection = ovs.jsonrpc.Connection(stream)
        return self._connection

    def _call(self, method: str, parameters: List[Any], what: str, otherwise: Type[BareforgeError]) -> Any:
        import ovs.jsonrpc

        connection = self._open()
        request = ovs.jsonrpc.Message.create_request(method, parameters)
        end = time.monotonic() + self.deadline
        problem = connection.send(request)
        while not problem:
            problem, message = connection.recv()
            if problem == errno.EAGAIN:
                if time.monotonic() >= end:
                    self.close()
                    raise ConnectError(
                        f"{what}: Open vSwitch's database did not answer within {self.deadline:.0f} s", _HINT
                    )
                self._wait(connection, end)
                problem = connection.get_status()
            elif not problem:
                if message.id == request.id and message.type == ovs.jsonrpc.Message.T_REPLY:
                    return message.result
                if message.id == request.id and message.type == ovs.jsonrpc.Message.T_ERROR:
                    raise otherwise(f"{what}: Open vSwitch's database says {_text(message.error)}")
                if message.type == ovs.jsonrpc.Message.T_REQUEST and message.method == "echo":
                    problem = connection.send(ovs.jsonrpc.Message.create_reply(message.params, message.id))
        self.close()
        reason = "it closed the connection" if problem < 0 else os.strerror(problem)
        raise ConnectError(f"{what}: the connection to Open vSwitch's database broke: {reason}", _HINT)

    @staticmethod
    def _wait(connection: Any, end: float) -> None:
        import ovs.poller

        connection.run()
        poller = ovs.poller.Poller()
        connection.wait(poller)
        connection.recv_wait(poller)
        poller.timer_wait(max(1, int((end - time.monotonic()) * 1000)))
        poller.block()


def _text(error: Any) -> str:
    if isinstance(error, dict):
        return ": ".join(str(error[key]) for key in ("error", "details") if error.get(key))
    return str(error)


# -- Values in the form of RFC 7047, 5.1 -------------------------------------------------------------------------------


def uuid(text: str) -> List[str]:
    """Return the reference to a row that exists."""
    return ["uuid", text]


def named_uuid(name: str) -> List[str]:
    """Return the reference to a row that the same transaction inserts under this name."""
    return ["named-uuid", name]


def a_set(values: Sequence[Any]) -> List[Any]:
    """Return a set; an optional column is a set of none or one."""
    return ["set", list(values)]


def a_map(values: Mapping[str, str]) -> List[Any]:
    """Return a map of texts."""
    return ["map", [[key, value] for key, value in values.items()]]


def values_of(value: Any) -> Tuple[Any, ...]:
    """Return what is in a set column; references as the text of their UUID."""
    if isinstance(value, list) and value and value[0] == "set":
        return tuple(_plain(element) for element in value[1])
    return (_plain(value),)


def value_of(value: Any) -> Any:
    """Return what is in an optional column, or None."""
    values = values_of(value)
    return values[0] if values else None


def map_of(value: Any) -> Dict[str, str]:
    """Return what is in a map column."""
    return dict(value[1])


def _plain(value: Any) -> Any:
    return value[1] if isinstance(value, list) and value[0] in ("uuid", "named-uuid") else value


def kept(data: Any) -> str:
    """Return plain data as the text that is kept in a column.

    In ASCII: the library takes the length of what it sent in bytes and in characters for the same, and cuts characters
    at the borders of what it received.
    """
    return json.dumps(data, sort_keys=True, separators=(",", ":"))


def unkept(text: Optional[str]) -> Any:
    """Return the data of :func:`kept`, or None where there is none or somebody else's."""
    try:
        return None if text is None else json.loads(text)
    except ValueError:
        return None
