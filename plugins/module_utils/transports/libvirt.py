# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The connection to libvirt's daemon on the host that this runs on.

There is one connection a process, which libvirt lets several threads use at once. Whoever uses it wraps calls in
:func:`translated`, so that no exception of the library gets past this room.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Any, Callable, Iterator, Optional, Type, TypeVar

from ..errors import ApplyError, AuthenticateError, BareforgeError, ConnectError, ReadError, one_line

URI = "qemu:///system"
RESTART_PATIENCE = 15.0  # seconds that a restarting daemon is waited for

Result = TypeVar("Result")

_lock = threading.Lock()
_connections: dict = {}


def library() -> Any:
    """Return the module `libvirt`. Raises ConnectError where the host does not have it."""
    try:
        import libvirt
    except ImportError as error:
        raise ConnectError(
            "the Python bindings of libvirt are missing on the host",
            "Install the package python3-libvirt, which the role kvm_host does",
        ) from error
    return libvirt


def connection(uri: str = URI) -> Any:
    """Return the process's connection (`libvirt.virConnect`), opened on first use and again when it has broken.

    uri: which driver to talk to.
    Raises ConnectError where no daemon answers within RESTART_PATIENCE, AuthenticateError where it refuses us.
    """
    libvirt = library()
    with _lock:
        current = _connections.get(uri)
        if current is not None and _is_alive(libvirt, current):
            return current
        _connections.pop(uri, None)
        # Every error is raised as an exception; the library would print it on stderr as well, into a module's output.
        libvirt.registerErrorHandler(_silent, None)
        deadline = time.monotonic() + RESTART_PATIENCE
        while True:
            try:
                _connections[uri] = libvirt.open(uri)
                return _connections[uri]
            except libvirt.libvirtError as error:
                problem = translate(error, f"libvirt at {uri} cannot be reached", ConnectError)
                if isinstance(problem, AuthenticateError) or time.monotonic() > deadline:
                    raise problem from error
            time.sleep(0.5)


def close() -> None:
    """Close every connection of this process."""
    with _lock:
        for current in _connections.values():
            with contextlib.suppress(Exception):
                current.close()
        _connections.clear()


def _silent(_context: Any, _error: Any) -> None:
    return None


def _is_alive(libvirt: Any, current: Any) -> bool:
    try:
        return bool(current.isAlive())
    except libvirt.libvirtError:
        return False


def read(function: Callable[[Any], Result], what: str, uri: str = URI) -> Result:
    """Return function(connection); once more over a new connection where the daemon was restarted meanwhile.

    what: what was being done, for the message, such as `the virtual machines cannot be read`.
    Raises ReadError, ConnectError or AuthenticateError.
    """
    libvirt = library()
    for attempt in (1, 2):
        current = connection(uri)
        try:
            return function(current)
        except libvirt.libvirtError as error:
            problem = translate(error, what, ReadError)
            if attempt == 1 and isinstance(problem, ConnectError):
                with _lock:
                    _connections.pop(uri, None)
                continue
            raise problem from error
    raise AssertionError("not reached")


@contextlib.contextmanager
def translated(what: str, otherwise: Type[BareforgeError] = ApplyError) -> Iterator[None]:
    """Turn libvirt's exceptions into ours.

    what: what did not work, naming the object, such as `VM 'web1' cannot be started`.
    otherwise: the exception for what is no matter of connection or credentials.
    """
    libvirt = library()
    try:
        yield
    except libvirt.libvirtError as error:
        raise translate(error, what, otherwise) from error


def translate(error: Any, what: str, otherwise: Type[BareforgeError]) -> BareforgeError:
    """Return our exception for one of libvirt's, chosen by its code (virErrorNumber)."""
    code = error.get_error_code()
    reason = one_line(error.get_error_message() or str(error))
    message = f"{what}: {reason}"
    if code in _codes(
        "VIR_ERR_AUTH_FAILED", "VIR_ERR_AUTH_CANCELLED", "VIR_ERR_AUTH_UNAVAILABLE", "VIR_ERR_ACCESS_DENIED"
    ):
        return AuthenticateError(message, "Run the task as root (become: true)")
    if code in _codes("VIR_ERR_NO_CONNECT", "VIR_ERR_RPC", "VIR_ERR_INVALID_CONN") or _is_transport(error, code):
        return ConnectError(message, "See whether libvirtd runs: systemctl status libvirtd")
    return otherwise(message)


def _is_transport(error: Any, code: Any) -> bool:
    domain = _code("VIR_FROM_RPC")
    return (
        domain is not None
        and error.get_error_domain() == domain
        and code in _codes("VIR_ERR_SYSTEM_ERROR", "VIR_ERR_INTERNAL_ERROR")
    )


def _code(name: str) -> Optional[int]:
    value = getattr(library(), name, None)
    return value if isinstance(value, int) else None


def _codes(*names: str) -> frozenset:
    return frozenset(code for code in map(_code, names) if code is not None)


def is_missing(error: Any) -> bool:
    """Return whether libvirt says that a domain, network, snapshot, storage pool or secret is not there."""
    return error.get_error_code() in _codes(
        "VIR_ERR_NO_DOMAIN",
        "VIR_ERR_NO_NETWORK",
        "VIR_ERR_NO_DOMAIN_SNAPSHOT",
        "VIR_ERR_NO_STORAGE_POOL",
        "VIR_ERR_NO_SECRET",
    )
