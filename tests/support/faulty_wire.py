# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Faults on the wire between a platform and its service, at the k-th request, for every k.

A proxy stands between the two, knows where a message ends (HTTP, JSON-RPC, libvirt's RPC) and nothing else. So every platform
that talks over a socket is treated alike: it brings one `Subject`. Only the standard library is used, for this file is copied
to real hosts as well.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import threading
import time
import traceback
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

Address = Union[str, Tuple[str, int]]
"""The path of a Unix socket, or host and port."""

DELAY = 0.05
DEADLINE = 60.0
"""Seconds after which a run through the wire counts as hung."""

KILL_BEFORE, KILL_AFTER, BREAK_BEFORE, BREAK_AFTER = "kill_before", "kill_after", "break_before", "break_after"
TRUNCATE, ERROR, DENIED, DELAYED = "truncate", "error", "denied", "delay"
FAULTS = (KILL_BEFORE, KILL_AFTER, BREAK_BEFORE, BREAK_AFTER, TRUNCATE, ERROR, DENIED, DELAYED)
"""What happens at a request: our process dies before the service sees it, or when it has carried it out; the connection breaks
before or after; half of the answer comes; the service answers with an error of its own, or that we may not; all takes longer."""


# -- Where messages end ------------------------------------------------------------------------------------------------


class Framing:
    """How messages follow each other in a stream of bytes."""

    def split(self, data: bytes) -> Tuple[List[bytes], bytes]:
        """Return the whole messages at the beginning, and what is left."""
        raise NotImplementedError

    def is_request(self, message: bytes) -> bool:
        """Return whether a message from our side is a request."""
        return True

    def answers(self, message: bytes, request: bytes) -> bool:
        """Return whether a message of the service is the answer to a request."""
        return True

    def error(self, request: bytes, denied: bool) -> bytes:
        """Return the service's answer that it has failed, or that we may not."""
        raise NotImplementedError


class Http(Framing):
    """HTTP/1.1 with Content-Length (RFC 9112)."""

    def split(self, data: bytes) -> Tuple[List[bytes], bytes]:
        messages = []
        while True:
            head, blank, _rest = data.partition(b"\r\n\r\n")
            if not blank:
                return messages, data
            length = 0
            for line in head.split(b"\r\n")[1:]:
                name, _colon, value = line.partition(b":")
                if name.strip().lower() == b"content-length":
                    length = int(value)
            end = len(head) + len(blank) + length
            if len(data) < end:
                return messages, data
            messages.append(data[:end])
            data = data[end:]

    def error(self, request: bytes, denied: bool) -> bytes:
        status = b"401 Unauthorized" if denied else b"500 Internal Server Error"
        return b"HTTP/1.1 " + status + b"\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nfault"


class JsonRpc(Framing):
    """JSON-RPC 1.0 as Open vSwitch's database speaks it (RFC 7047, 4): one object after the other."""

    def split(self, data: bytes) -> Tuple[List[bytes], bytes]:
        messages = []
        decoder = json.JSONDecoder()
        # Each byte is one character, so that places in the text are places in the data.
        text = data.decode("latin-1").lstrip()
        while text:
            try:
                _value, end = decoder.raw_decode(text)
            except ValueError:
                break
            messages.append(text[:end].encode("latin-1"))
            text = text[end:].lstrip()
        return messages, text.encode("latin-1")

    def is_request(self, message: bytes) -> bool:
        return json.loads(message).get("method") not in (None, "echo")

    def answers(self, message: bytes, request: bytes) -> bool:
        return bool(json.loads(message).get("id") == json.loads(request)["id"])

    def error(self, request: bytes, denied: bool) -> bytes:
        error = {"error": "permission error" if denied else "internal error", "details": "fault"}
        return json.dumps({"id": json.loads(request)["id"], "result": None, "error": error}).encode()


class LibvirtRpc(Framing):
    """libvirt's RPC (libvirt, docs/kbase/internals/rpc.rst and src/rpc/virnetprotocol.x): a length, and XDR."""

    PROGRAM = 0x20008086
    CALL, REPLY, ERROR_STATUS = 0, 1, 1
    HEADER = struct.Struct(">IIIIIII")
    INTERNAL_ERROR, ACCESS_DENIED, FROM_QEMU = 1, 88, 10

    def split(self, data: bytes) -> Tuple[List[bytes], bytes]:
        messages = []
        while len(data) >= 4:
            (length,) = struct.unpack(">I", data[:4])
            if len(data) < length:
                break
            messages.append(data[:length])
            data = data[length:]
        return messages, data

    def is_request(self, message: bytes) -> bool:
        _length, program, _version, _procedure, kind, _serial, _status = self.HEADER.unpack(message[:28])
        return program == self.PROGRAM and kind == self.CALL

    def answers(self, message: bytes, request: bytes) -> bool:
        asked, told = self.HEADER.unpack(request[:28]), self.HEADER.unpack(message[:28])
        return told[4] == self.REPLY and (told[1], told[5]) == (asked[1], asked[5])

    def error(self, request: bytes, denied: bool) -> bytes:
        _length, program, version, procedure, _kind, serial, _status = self.HEADER.unpack(request[:28])
        text = b"fault"
        # remote_error: code, domain, message, level, domain object, three texts, two numbers, network object
        body = struct.pack(">ii", self.ACCESS_DENIED if denied else self.INTERNAL_ERROR, self.FROM_QEMU)
        body += struct.pack(">II", 1, len(text)) + text + b"\0" * (-len(text) % 4)
        body += struct.pack(">iIIIIiiI", 2, 0, 0, 0, 0, -1, -1, 0)
        head = self.HEADER.pack(28 + len(body), program, version, procedure, self.REPLY, serial, self.ERROR_STATUS)
        return head + body


# -- The proxy ---------------------------------------------------------------------------------------------------------


class FaultyWire:
    """A proxy that counts requests over all its connections and strikes at one of them.

    address: where it listens; port 0 chooses one. kill: called where our process shall die.
    """

    def __init__(
        self,
        framing: Framing,
        target: Address,
        address: Address = ("127.0.0.1", 0),
        fault: Optional[str] = None,
        number: Optional[int] = None,
    ) -> None:
        self.framing = framing
        self.target = target
        self.fault = fault
        self.number = number
        self.kill: Callable[[], None] = lambda: None
        self.requests = 0
        self.struck = False
        self._mutex = threading.Lock()
        self._sockets: List[socket.socket] = []
        if isinstance(address, str):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(address)
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(address)
            self.address: Address = address
        else:
            self._listener = socket.socket()
            self._listener.bind(address)
            self.address = self._listener.getsockname()[:2]
        self._listener.listen(16)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Break all connections and take no more."""
        for each in [self._listener, *self._sockets]:
            _break(each)
        if isinstance(self.address, str):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.address)

    def _accept(self) -> None:
        while True:
            try:
                client = self._listener.accept()[0]
                service = _connect(self.target)
            except OSError:
                return
            self._sockets.extend([client, service])
            link = _Link(self, client, service)
            threading.Thread(target=link.upwards, daemon=True).start()
            threading.Thread(target=link.downwards, daemon=True).start()

    def strikes(self, message: bytes) -> bool:
        """Count a message from our side and return whether it is the one."""
        if not self.framing.is_request(message):
            return False
        with self._mutex:
            self.requests += 1
            if self.requests != self.number:
                return False
            self.struck = True
            return True


class _Link:
    """One connection through the wire."""

    def __init__(self, wire: FaultyWire, client: socket.socket, service: socket.socket) -> None:
        self.wire = wire
        self.client = client
        self.service = service
        self.pending: Optional[bytes] = None

    def sever(self) -> None:
        _break(self.client)
        _break(self.service)

    def upwards(self) -> None:
        """Carry what our side says to the service."""
        for message in _messages(self.client, self.wire.framing):
            if self.wire.strikes(message) and not self._before(message):
                continue
            if not _send(self.service, message):
                break
        self.sever()

    def _before(self, message: bytes) -> bool:
        """Strike before the service has seen a request; return whether it shall see it."""
        fault = self.wire.fault
        if fault in (KILL_BEFORE, BREAK_BEFORE):
            if fault == KILL_BEFORE:
                self.wire.kill()
            self.sever()
            return False
        if fault in (ERROR, DENIED):
            _send(self.client, self.wire.framing.error(message, fault == DENIED))
            return False
        if fault == DELAYED:
            time.sleep(DELAY)
            return True
        self.pending = message
        return True

    def downwards(self) -> None:
        """Carry what the service says to our side."""
        for message in _messages(self.service, self.wire.framing):
            if self.pending is not None and self.wire.framing.answers(message, self.pending):
                if self.wire.fault == KILL_AFTER:
                    self.wire.kill()
                elif self.wire.fault == TRUNCATE:
                    _send(self.client, message[: max(1, len(message) // 2)])
                break
            if not _send(self.client, message):
                break
        self.sever()


def _connect(address: Address) -> socket.socket:
    if isinstance(address, str):
        made = socket.socket(socket.AF_UNIX)
        made.connect(address)
        return made
    return socket.create_connection(address, timeout=None)


def _messages(source: socket.socket, framing: Framing) -> Iterator[bytes]:
    data = b""
    while True:
        try:
            piece = source.recv(65536)
        except OSError:
            return
        if not piece:
            return
        messages, data = framing.split(data + piece)
        yield from messages


def _send(target: socket.socket, message: bytes) -> bool:
    try:
        target.sendall(message)
    except OSError:
        return False
    return True


def _break(each: socket.socket) -> None:
    with contextlib.suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
    each.close()


# -- Every fault at every request --------------------------------------------------------------------------------------


class Subject:
    """What a platform brings: a host, a job, and how it is reached. This is the one fixture of the harness.

    framing: how its service talks. target: where its service is. listen: where our side looks for it instead.
    FAULTS: those that are tried.
    """

    framing: Framing
    target: Address
    listen: Address = ("127.0.0.1", 0)
    FAULTS: Sequence[str] = FAULTS

    def fresh(self) -> None:
        """Bring the host back to what it was before the job."""
        raise NotImplementedError

    def run(self, address: Address) -> bool:
        """Do the job through an address and return whether it changed anything. Runs in a process of its own."""
        raise NotImplementedError

    def state(self) -> Any:
        """Return the host's state, to compare with: all that the job is about, and all that it could leave behind."""
        raise NotImplementedError


class Outcome(NamedTuple):
    """How a run ended.

    end: `changed`, `unchanged`, `refused` by one of our errors, `crashed` by another, `killed`, or `hung`.
    text: the error. requests: how many there were.
    """

    end: str
    text: str
    requests: int


def run_through(subject: Subject, fault: Optional[str] = None, number: Optional[int] = None) -> Outcome:
    """Run the job in a process of its own, through a wire that strikes at a request; without a number it only counts."""
    wire = FaultyWire(subject.framing, subject.target, subject.listen, fault, number)
    here, there = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(here)
        _work(subject, wire.address, there)
    os.close(there)
    wire.kill = lambda: os.kill(child, signal.SIGKILL)
    over = threading.Timer(DEADLINE, lambda: os.kill(child, signal.SIGALRM))
    over.start()
    try:
        with open(here, "rb") as stream:
            answer = stream.read()
        status = os.waitpid(child, 0)[1]
    finally:
        over.cancel()
        wire.close()
    if os.WIFSIGNALED(status):
        end = "killed" if os.WTERMSIG(status) == signal.SIGKILL else "hung"
        return Outcome(end, "", wire.requests)
    told: Dict[str, str] = json.loads(answer)
    return Outcome(told["end"], told["text"], wire.requests)


def _work(subject: Subject, address: Address, answers: int) -> None:
    """Do the job in the child and end it."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    try:
        try:
            end, text = ("changed" if subject.run(address) else "unchanged"), ""
        except Exception as error:  # noqa: BLE001 - what is none of ours is what the harness looks for
            ours = hasattr(error, "phase") and hasattr(error, "sentence")
            end = "refused" if ours else "crashed"
            text = str(getattr(error, "message", "")) if ours else traceback.format_exc()
        with os.fdopen(answers, "w") as stream:
            stream.write(json.dumps({"end": end, "text": text}))
    finally:
        os._exit(0)


class Report(NamedTuple):
    """What came of all faults at all requests of a job.

    requests: of the undisturbed job. strikes: how many runs were disturbed. ends: how often each end was seen, by fault.
    problems: what must not be.
    """

    requests: int
    strikes: int
    ends: Dict[str, Dict[str, int]]
    problems: List[str]


def every_fault(subject: Subject, faults: Optional[Sequence[str]] = None, in_turn: bool = False) -> Report:
    """Strike with every fault at every request of a job, each time on a fresh host.

    in_turn: whether each request is struck by one fault only, the next request by the next one; for hosts that are slow.
    After each: the run has ended by one of our errors, in one line, or was killed; the next run, undisturbed, brings the host to
    where an undisturbed one brings it, with nothing left over; the one after that changes nothing.
    """
    subject.fresh()
    whole = run_through(subject)
    if whole.end != "changed":
        raise AssertionError(f"the undisturbed job ended otherwise: {whole}")
    wanted = subject.state()
    report = Report(whole.requests, 0, {}, [])
    chosen = list(faults or subject.FAULTS)
    numbers = range(1, whole.requests + 1)
    points = [(fault, number) for fault in chosen for number in numbers]
    if in_turn:
        points = [(chosen[number % len(chosen)], number) for number in numbers]
    for fault, number in points:
        subject.fresh()
        outcome = run_through(subject, fault, number)
        counts = report.ends.setdefault(fault, {})
        counts[outcome.end] = counts.get(outcome.end, 0) + 1
        place = f"{fault} at request {number}"
        report.problems.extend(f"{place}: {text}" for text in _problems(subject, fault, outcome, wanted))
    return report._replace(strikes=len(points))


def _problems(subject: Subject, fault: str, outcome: Outcome, wanted: Any) -> Iterator[str]:
    allowed = {
        KILL_BEFORE: ("killed",),
        KILL_AFTER: ("killed",),
        DELAYED: ("changed",),
    }.get(fault, ("refused", "changed", "unchanged"))
    if outcome.end not in allowed:
        yield f"the run {outcome.end} {outcome.text}".rstrip()
    if outcome.end == "refused" and (not outcome.text or "\n" in outcome.text.strip()):
        yield f"is no sentence: {outcome.text!r}"
    again = run_through(subject)
    if again.end not in ("changed", "unchanged"):
        yield f"the next run {again.end} {again.text}"
    state = subject.state()
    if state != wanted:
        yield f"after the next run there is {state!r} instead of {wanted!r}"
    last = run_through(subject)
    if last.end != "unchanged":
        yield f"the run after that {last.end} {last.text}"
