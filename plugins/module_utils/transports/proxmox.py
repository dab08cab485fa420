# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A session to the API of Proxmox VE: login and its reuse, TLS, deadlines, retries of reads, tasks.

It stands on proxmoxer's HTTPS backend (its session and its ways to authenticate) and adds what that leaves open: a
pinned certificate that also holds for the login, path parts that are quoted, one login for all tasks of a run, and
errors in one sentence.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Dict, Generator, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Type
from urllib.parse import quote

from ..errors import ApplyError, AuthenticateError, BareforgeError, ConnectError, ReadError

DEFAULT_PORT = 8006
TICKET_LIFE = 5400
"""Seconds for which a ticket is used; PVE lets it live for two hours (PVE::AccessControl, $ticket_lifetime)."""

RETRIES = 2
"""How often a read is asked again where the connection broke or the node's proxy could not pass it on."""

PROXY_STATUS = frozenset((595, 596, 597, 599))
"""What pveproxy answers where it could not reach the node that a request is for (AnyEvent::HTTP)."""

TASK_DEADLINE = 4 * 3600
MANY = 6
"""How many reads that do not depend on each other are under way at once."""

Answer = Any


class Reply(NamedTuple):
    """An answer of the API.

    data: what was asked for. changes: the unified diff of what is staged and not applied, which the network's list carries.
    """

    data: Any
    changes: str = ""


class Read(NamedTuple):
    """One of several reads.

    path: the parts of the path below `/api2/json`. params: its query.
    """

    path: Tuple[Any, ...]
    params: Mapping[str, Any] = {}


def _libraries() -> Tuple[Any, Any]:
    try:
        import requests
        from proxmoxer.backends import https
    except ImportError as error:
        raise ConnectError(
            f"the Python package {(error.name or 'proxmoxer').partition('.')[0]} is missing on the controller",
            "Install it with: pip install proxmoxer requests",
        ) from error
    return requests, https


def preload() -> bool:
    """Import the libraries if they are there, so that workers that are forked later need not; returns whether they are."""
    try:
        _libraries()
    except ConnectError:
        return False
    return True


class Task(NamedTuple):
    """A task of PVE that was started.

    upid: its id, which begins with `UPID:` and the node's name; empty where there is nothing to wait for. what: what it does.
    """

    upid: str
    what: str

    @property
    def node(self) -> str:
        """The node that it runs on."""
        return self.upid.split(":")[1]


Job = Generator[Task, None, None]


def _one_task(task: Task) -> Job:
    yield task


class _BrokenError(ConnectError):
    """The connection broke, so that a read may be sent again."""


class ProxmoxSession:
    """A session to one API.

    settings: the values of `ConnectionSettings`, and `session_folder`, the folder that logins are shared in, or None.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.host = str(settings.get("host") or "localhost")
        self.port = int(settings.get("port") or DEFAULT_PORT)
        self.user = str(settings.get("user") or "root@pam")
        self.timeout = float(settings.get("timeout") or 30)
        self.requests = 0
        self._password = settings.get("password")
        self._ca_file = settings.get("ca_file")
        self._fingerprint = str(settings.get("fingerprint") or "").replace("sha256:", "").replace(":", "")
        self._validate = settings.get("validate_certs") is not False
        self._folder = settings.get("session_folder")
        self._session: Any = None
        self._known: Dict[str, Any] = {}

    @property
    def url(self) -> str:
        """The address of the API."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"https://{host}:{self.port}/api2/json"

    @property
    def by_token(self) -> bool:
        """Whether the user is an API token, `USER@REALM!TOKEN`, whose secret stands in place of a password."""
        return "!" in self.user

    @property
    def node(self) -> str:
        """The name of the node that answers (GET /cluster/status)."""
        self._open()
        if "node" not in self._known:
            entries = self.get("cluster", "status")
            local = [entry for entry in entries if entry.get("type") == "node" and entry.get("local")]
            if not local:
                raise ReadError("the host does not tell which node of the cluster it is (GET /cluster/status)")
            self._remember(node=str(local[0]["name"]))
        return str(self._known["node"])

    @property
    def version(self) -> Tuple[int, ...]:
        """The version of PVE, such as (9, 0, 10) (GET /version)."""
        self._open()
        if "version" not in self._known:
            self._remember(version=str(self.get("version")["version"]))
        return tuple(int(part) for part in str(self._known["version"]).split(".") if part.isdigit())

    # -- requests ------------------------------------------------------------------------------------------------------

    def get(self, *path: Any, **params: Any) -> Answer:
        """Read. Two underscores in a parameter's name stand for a hyphen. Raises ReadError, ConnectError or AuthenticateError."""
        return self.ask("GET", path, _named(params)).data

    def post(self, *path: Any, **params: Any) -> Answer:
        """Make something or start a task. Raises ApplyError, ConnectError or AuthenticateError."""
        return self.ask("POST", path, _named(params)).data

    def put(self, *path: Any, **params: Any) -> Answer:
        """Change something. Raises ApplyError, ConnectError or AuthenticateError."""
        return self.ask("PUT", path, _named(params)).data

    def delete(self, *path: Any, **params: Any) -> Answer:
        """Remove something. Raises ApplyError, ConnectError or AuthenticateError."""
        return self.ask("DELETE", path, _named(params)).data

    def get_many(self, reads: Sequence[Read]) -> List[Answer]:
        """Read several things that do not depend on each other, a few at once, and return the answers in the same order."""
        if len(reads) < MANY:
            return [self.ask("GET", read.path, read.params).data for read in reads]
        self._open()
        with ThreadPoolExecutor(MANY) as pool:
            return list(pool.map(lambda read: self.ask("GET", read.path, read.params).data, reads))

    def ask(self, method: str, path: Sequence[Any], params: Mapping[str, Any]) -> Reply:
        """Send a request and return the answer.

        Reads are sent again where the connection broke. What changes something is sent again only where the host has refused
        our ticket, for then it was not carried out.
        """
        place = "/".join(quote(str(part), safe="") for part in path)
        words = f"{method} /{place}"
        sent = {name: _value(value) for name, value in params.items() if value is not None}
        tries = RETRIES + 1 if method == "GET" else 1
        for attempt in range(1, tries + 1):
            try:
                response = self._send(method, place, sent, words)
                if response.status_code == 401 and not self.by_token and self._forget_login():
                    response = self._send(method, place, sent, words)
            except ConnectError as error:
                if attempt == tries or not isinstance(error, _BrokenError):
                    raise
            else:
                if response.status_code not in PROXY_STATUS or attempt == tries:
                    return self._understood(method, words, response)
            time.sleep(0.1 * attempt)
        raise AssertionError("not reached: every attempt returns or raises")

    def wait(self, tasks: Mapping[str, str], deadline: float = TASK_DEADLINE) -> None:
        """Wait until tasks have ended, all together.

        tasks: their UPIDs with what each of them does, for messages. deadline: seconds for all of them.
        Raises ApplyError with every task that failed.
        """
        jobs = [_one_task(Task(upid, what)) for upid, what in tasks.items()]
        failed = [error for error in self.carry_out(jobs, deadline) if error is not None]
        if failed:
            raise ApplyError("; ".join(error.message for error in failed))

    def carry_out(self, jobs: Sequence[Job], deadline: float = TASK_DEADLINE) -> List[Optional[BareforgeError]]:
        """Carry out several jobs side by side and return what each of them failed with, or None.

        jobs: generators that yield a Task whenever they have started one, and go on when it has ended well; where it has
            not, ApplyError is raised in them. A job that breaks off does not stop the others.
        deadline: seconds that a job may wait for one of its tasks.
        """
        results: List[Optional[BareforgeError]] = [None] * len(jobs)
        running: Dict[int, Tuple[Task, float]] = {}

        def go_on(number: int, failure: Optional[ApplyError] = None) -> None:
            try:
                task = jobs[number].throw(failure) if failure is not None else next(jobs[number])
                while not task.upid:
                    task = next(jobs[number])
                running[number] = (task, time.monotonic() + deadline)
            except StopIteration:
                running.pop(number, None)
            except BareforgeError as error:
                running.pop(number, None)
                results[number] = error

        for number in range(len(jobs)):
            go_on(number)
        pause = 0.05
        while running:
            waiting = list(running.items())
            reads = [Read(("nodes", task.node, "tasks", task.upid, "status")) for _number, (task, _end) in waiting]
            ended = False
            for (number, (task, end)), status in zip(waiting, self.get_many(reads)):
                result = str(status.get("exitstatus", "unknown"))
                if status.get("status") != "stopped":
                    if time.monotonic() > end:
                        go_on(number, ApplyError(f"{task.what}: the task still runs after {deadline:.0f} s"))
                elif result == "OK" or result.startswith("WARNINGS"):
                    ended = True
                    go_on(number)
                else:
                    ended = True
                    go_on(number, ApplyError(f"{task.what}: the task failed: {_line(result)}"))
            if running and not ended:
                time.sleep(pause)
                pause = min(pause * 1.5, 1.0)
            elif ended:
                pause = 0.05
        return results

    def close(self) -> None:
        """End the connections; the login stays for the next task."""
        if self._session is not None:
            self._session.close()
            self._session = None

    # -- one request ---------------------------------------------------------------------------------------------------

    def _send(self, method: str, place: str, params: Mapping[str, Any], words: str) -> Any:
        requests, _https = _libraries()
        session = self._open()
        self.requests += 1
        given = {"params" if method in ("GET", "DELETE") else "data": dict(params)}
        try:
            return session.request(method, f"{self.url}/{place}", allow_redirects=False, **given)
        except requests.exceptions.SSLError as error:
            raise self._tls_error(error) from error
        except requests.exceptions.Timeout as error:
            raise ConnectError(
                f"{words}: no answer of {self.host}:{self.port} within {self.timeout:.0f} s", _doubt(method)
            ) from error
        except requests.exceptions.RequestException as error:
            raise _BrokenError(
                f"{words}: the connection to {self.host}:{self.port} failed ({_cause(error)})", _doubt(method)
            ) from error

    def _understood(self, method: str, words: str, response: Any) -> Reply:
        try:
            body = json.loads(response.content.decode("utf-8"))
        except (UnicodeDecodeError, ValueError):
            body = None
        if 200 <= response.status_code < 300:
            if not isinstance(body, dict) or "data" not in body:
                raise ConnectError(
                    f"{words}: the answer of {self.host}:{self.port} is none of Proxmox VE's", _doubt(method)
                )
            return Reply(body["data"], str(body.get("changes") or ""))
        raise self._refusal(method, words, response, body if isinstance(body, dict) else {})

    def _refusal(self, method: str, words: str, response: Any, body: Mapping[str, Any]) -> BareforgeError:
        text = " ".join(str(body.get("message") or response.reason or "").split())
        errors = body.get("errors")
        if isinstance(errors, dict) and errors:
            text = f"{text.rstrip('.')} ({'; '.join(f'{name}: {_line(why)}' for name, why in sorted(errors.items()))})"
        status = int(response.status_code)
        if status == 401:
            return AuthenticateError(
                f"{words}: the host refuses {self.user} ({text or 'no reason given'})", status=status
            )
        kind: Type[BareforgeError] = ReadError if method == "GET" else ApplyError
        hint = None
        if "no quorum" in text:
            hint = "The cluster has lost its quorum and takes no changes until it has one again"
        elif status == 403:
            hint = f"Give {self.user} the privilege that is named"
        elif "modified configuration" in text or "checksum mismatch" in text:
            hint = "Somebody else has changed it meanwhile; run the task again"
        return kind(f"{words}: the host answers {status}: {text or 'no reason given'}", hint, status=status)

    def _tls_error(self, error: Exception) -> ConnectError:
        text = str(error)
        if "Fingerprints did not match" in text:
            return ConnectError(
                f"{self.host}:{self.port} shows a certificate with another SHA-256 fingerprint than the one that is accepted",
                "If its certificate was renewed, put the new fingerprint into bareforge_fingerprint",
            )
        if "doesn't match" in text or "Hostname mismatch" in text or "IP address mismatch" in text:
            return ConnectError(
                f"the certificate of {self.host}:{self.port} is not for that name",
                "Give bareforge_fingerprint, or the name that stands in it as bareforge_host",
            )
        return ConnectError(
            f"the certificate of {self.host}:{self.port} is not trusted ({_cause(error)})",
            "Give bareforge_ca_file (the cluster's /etc/pve/pve-root-ca.pem) or bareforge_fingerprint",
        )

    # -- login ---------------------------------------------------------------------------------------------------------

    def _open(self) -> Any:
        if self._session is not None:
            return self._session
        requests, https = _libraries()
        if not self._password:
            what = (
                "bareforge_password must hold the secret of the API token"
                if self.by_token
                else "bareforge_password is missing"
            )
            raise AuthenticateError(f"no way to log in to {self.host}:{self.port}: {what}")
        verify: Any = False if self._fingerprint or not self._validate else (self._ca_file or True)
        if self._ca_file and not os.path.isfile(self._ca_file) and verify:
            raise ConnectError(f"the CA file {self._ca_file} is not there")
        if self.by_token:
            user, _mark, token = self.user.partition("!")
            auth = https.ProxmoxHTTPApiTokenAuth(
                user, token, self._password, verify_ssl=verify, timeout=self.timeout, service="PVE"
            )
        else:
            auth = _ticket_auth(https)(self, verify)
        session = https.ProxmoxHttpSession()
        session.auth = auth
        session.trust_env = False
        session.headers.update({"accept": "application/json", "Connection": "keep-alive"})
        session.mount("https://", _adapter(requests, self._fingerprint))
        self._session = session
        if self.by_token:
            self._load_known()
        else:
            try:
                self._login(auth)
            except BaseException:
                self.close()
                raise
        return session

    def _login(self, auth: Any) -> None:
        with self._shared() as shared:
            kept = shared.get("ticket")
            age = time.time() - float(shared.get("made", 0))
            if kept and 0 <= age < TICKET_LIFE and kept != self._known.get("refused"):
                self._known.update(shared)
            else:
                data = self._ask_ticket(auth)
                self._known.update(ticket=data["ticket"], csrf=data["CSRFPreventionToken"], made=time.time())
                shared.update(self._to_keep())
        auth.pve_auth_ticket = self._known["ticket"]
        auth.csrf_prevention_token = self._known["csrf"]
        # proxmoxer renews a ticket by its age, which here is our business.
        auth.birth_time = time.monotonic()

    def _ask_ticket(self, auth: Any) -> Mapping[str, Any]:
        """POST /access/ticket, through the session, so that a pinned certificate holds for the password too."""
        requests, _https = _libraries()
        self.requests += 1
        words = "POST /access/ticket"
        plain = requests.Session()
        plain.trust_env = False
        plain.mount("https://", _adapter(requests, self._fingerprint))
        try:
            response = plain.post(
                f"{self.url}/access/ticket",
                data={"username": self.user, "password": self._password},
                verify=auth.verify_ssl,
                timeout=self.timeout,
                allow_redirects=False,
            )
        except requests.exceptions.SSLError as error:
            raise self._tls_error(error) from error
        except requests.exceptions.Timeout as error:
            raise ConnectError(f"{words}: no answer of {self.host}:{self.port} within {self.timeout:.0f} s") from error
        except requests.exceptions.RequestException as error:
            raise _BrokenError(
                f"{words}: the connection to {self.host}:{self.port} failed ({_cause(error)})"
            ) from error
        finally:
            plain.close()
        data = self._understood("GET", words, response).data
        if not isinstance(data, dict) or not data.get("ticket"):
            raise AuthenticateError(f"{words}: the host gives {self.user} no ticket")
        if data.get("NeedTFA"):
            raise AuthenticateError(
                f"{words}: {self.user} needs a second factor, which a task cannot give",
                "Use an API token: bareforge_user USER@REALM!TOKEN, and its secret as bareforge_password",
            )
        return data

    def _forget_login(self) -> bool:
        """Log in anew after a ticket was refused; returns whether that made a difference."""
        auth = self._session.auth
        refused = auth.pve_auth_ticket
        self._known["refused"] = refused
        self._login(auth)
        return bool(auth.pve_auth_ticket != refused)

    def _to_keep(self) -> Dict[str, Any]:
        return {
            name: self._known[name] for name in ("ticket", "csrf", "made", "node", "version") if name in self._known
        }

    def _remember(self, **facts: str) -> None:
        self._known.update(facts)
        with self._shared() as shared:
            shared.update(facts)

    def _load_known(self) -> None:
        with self._shared() as shared:
            self._known.update({name: shared[name] for name in ("node", "version") if name in shared})

    @contextlib.contextmanager
    def _shared(self) -> Iterator[Dict[str, Any]]:
        """What all tasks of this run know of the API, in a file that only this user can read."""
        if not self._folder:
            yield {}
            return
        name = hashlib.sha256(f"{self.url} {self.user}".encode()).hexdigest()[:32]
        path = os.path.join(str(self._folder), f"bareforge-proxmox-{name}")
        try:
            number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise ConnectError(f"the login cannot be kept in {path}: {error.strerror}") from error
        with os.fdopen(number, "r+") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            text = stream.read()
            try:
                shared = json.loads(text) if text else {}
            except ValueError:
                # Whoever wrote it was killed meanwhile.
                shared = {}
            before = dict(shared)
            yield shared
            if shared != before:
                stream.seek(0)
                stream.truncate()
                stream.write(json.dumps(shared))


def _ticket_auth(https: Any) -> Any:
    class TicketAuth(https.ProxmoxHTTPAuth):
        """proxmoxer's way to show a ticket, without its own way to get one."""

        def __init__(self, session: ProxmoxSession, verify: Any) -> None:
            https.ProxmoxHTTPAuthBase.__init__(self, timeout=session.timeout, service="PVE", verify_ssl=verify)
            self.pve_auth_ticket = ""
            self.csrf_prevention_token = ""
            self.birth_time = time.monotonic()
            self.owner = session

        def _get_new_tokens(self, **_arguments: Any) -> None:
            self.owner._login(self)

    return TicketAuth


def _adapter(requests: Any, fingerprint: str) -> Any:
    class Adapter(requests.adapters.HTTPAdapter):
        """Accepts one certificate only, where a fingerprint is given."""

        def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
            if fingerprint:
                options.update(assert_fingerprint=fingerprint)
            super().init_poolmanager(*arguments, **options)

    return Adapter(pool_connections=1, pool_maxsize=MANY)


def _named(params: Mapping[str, Any]) -> Dict[str, Any]:
    return {name.rstrip("_").replace("__", "-"): value for name, value in params.items()}


def _value(value: Any) -> Any:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, (list, tuple)):
        return [_value(element) for element in value]
    return value


def _doubt(method: str) -> Optional[str]:
    """Return what the user should know where nothing was heard of a request."""
    return (
        None
        if method == "GET"
        else "Whether it was carried out is not known; the next run will see, and finish the job"
    )


def _line(text: Any) -> str:
    return " ".join(str(text).split())


def _cause(error: BaseException) -> str:
    """Return the innermost reason of one of requests' errors, without the addresses of objects."""
    inner: BaseException = error
    while True:
        reason = getattr(inner, "reason", None)
        following = (
            reason
            if isinstance(reason, BaseException)
            else next((argument for argument in inner.args if isinstance(argument, BaseException)), None)
        )
        if following is None:
            break
        inner = following
    text = _line(inner)
    return text.rpartition(">: ")[2].rpartition("): ")[2] or type(inner).__name__
