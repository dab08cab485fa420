# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""nftables through the JSON interface of libnftables, in this process (libnftables-json(5))."""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import json
import os
import struct
import threading
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple, TypeVar

from ..errors import ApplyError, BareforgeError, ConnectError, ReadError

Command = Dict[str, Any]
Result = TypeVar("Result")

CLONE_NEWNET = 0x40000000
TUNSETIFF = 0x400454CA
IFF_TAP_WITHOUT_HEADER = 0x0002 | 0x1000

# Answers of the kernel are kept until the next boot, which may bring another kernel.
CACHE_FOLDER = "/run/bareforge/nftables"
_CACHED_ANSWERS = 16

# What the kernel numbers by itself, which says nothing about what a rule does.
_VOLATILE = ("handle", "index")


def document(commands: Sequence[Command]) -> Dict[str, Any]:
    """Return commands as the document that `nft -j -f` reads; nft carries one document out as one transaction."""
    return {"nftables": list(commands)}


def run(commands: Sequence[Command]) -> None:
    """Carry commands out as one transaction: all of them, or none.

    commands: such as `{"add": {"table": {"family": "inet", "name": "x"}}}`.
    Raises ApplyError with the kernel's answer.
    """
    code, _output, error = _library().json_cmd(document(commands))
    if code != 0:
        raise ApplyError(f"nftables refused the rules: {_first_line(error)}")


def list_table(family: str, name: str) -> Optional[List[Command]]:
    """Return what is in a table of the kernel: its chains, sets and rules in their order, without handles.

    Returns None where the table does not exist. Raises ReadError.
    """
    return _list_table(_library(), family, name)


def preview(
    commands: Sequence[Command], tables: Sequence[Tuple[str, str]], devices: Sequence[str] = ()
) -> Dict[Tuple[str, str], Optional[List[Command]]]:
    """Return what the kernel would show of tables after the commands, by (family, name).

    The commands are carried out in a network namespace that lives for this call only (network_namespaces(7)). The
    kernel and libnftables bring every rule into a form of their own, which changes with their versions: asking them is
    the one way to compare what is wanted with what is there.

    tables: (family, name) of the tables to list.
    devices: names of network devices that must exist there, such as those that chains of family netdev name.
    Raises ApplyError where the kernel refuses the commands, ReadError where it grants no namespace.
    """
    path = _cache_path([list(commands), list(tables), list(devices)])
    answers = _from_cache(path)
    if answers is None:
        shown = _ask_in_namespace(commands, tables, devices)
        answers = [shown[table] for table in tables]
        _to_cache(path, answers)
    return dict(zip(tables, answers))


def _ask_in_namespace(
    commands: Sequence[Command], tables: Sequence[Tuple[str, str]], devices: Sequence[str]
) -> Dict[Tuple[str, str], Optional[List[Command]]]:
    def work() -> Dict[Tuple[str, str], Optional[List[Command]]]:
        opened = [_make_tap(device) for device in devices]
        try:
            library = _library()
            code, _output, error = library.json_cmd(document(commands))
            if code != 0:
                raise ApplyError(f"nftables refuses the rules: {_first_line(error)}")
            return {(family, name): _list_table(library, family, name) for family, name in tables}
        finally:
            for descriptor in opened:
                os.close(descriptor)

    return _in_network_namespace(work)


def _cache_path(question: Any) -> str:
    # The kernel stays until the next boot, when /run is empty; libnftables may be upgraded before.
    versions = [os.stat(path).st_mtime_ns for path in ("/usr/sbin/nft",) if os.path.exists(path)]
    text = json.dumps([question, versions], sort_keys=True)
    return os.path.join(CACHE_FOLDER, f"{hashlib.sha256(text.encode()).hexdigest()}.json")


def _from_cache(path: str) -> Optional[List[Any]]:
    try:
        with open(path, "rb") as stream:
            answers = json.load(stream)
        os.utime(path)
    except (OSError, ValueError):
        return None
    return answers if isinstance(answers, list) else None


def _to_cache(path: str, answers: Sequence[Any]) -> None:
    temporary = f"{path}.{os.getpid()}"
    try:
        os.makedirs(CACHE_FOLDER, mode=0o700, exist_ok=True)
        with open(temporary, "w", encoding="ascii") as stream:
            json.dump(answers, stream)
        os.replace(temporary, path)
        kept = sorted((entry.stat().st_mtime_ns, entry.path) for entry in os.scandir(CACHE_FOLDER))
        for _time, old in kept[:-_CACHED_ANSWERS]:
            os.unlink(old)
    except OSError:
        # A full /run costs time and nothing else.
        return


def as_commands(family: str, name: str, listing: Optional[Sequence[Command]]) -> List[Command]:
    """Return the commands that bring a table back to what `list_table` told of it, in one transaction.

    listing: None stands for a table that is not there.
    """
    return replace_table(family, name, None if listing is None else [{"add": entry} for entry in listing])


def replace_table(family: str, name: str, content: Optional[Sequence[Command]]) -> List[Command]:
    """Return the commands that replace a table, whether it is there or not, without a moment in which there is none.

    content: the commands that fill the new table; None for a table that shall be gone.
    """
    table = {"table": {"family": family, "name": name}}
    # A table that is not there cannot be deleted, and adding one that is there changes nothing.
    commands: List[Command] = [{"add": table}, {"delete": table}]
    if content is not None:
        commands.append({"add": table})
        commands.extend(command for command in content if "table" not in command.get("add", {}))
    return commands


def _library() -> Any:
    try:
        import nftables
    except ImportError as error:
        raise ConnectError(
            "the Python bindings of nftables cannot be loaded by the interpreter that Ansible uses on the host",
            "Install the package python3-nftables, which the role kvm_host does",
            cause=str(error),
        ) from error
    library = nftables.Nftables()
    library.set_json_output(True)
    library.set_numeric_proto_output(True)
    return library


def _list_table(library: Any, family: str, name: str) -> Optional[List[Command]]:
    code, output, error = library.json_cmd(document([{"list": {"table": {"family": family, "name": name}}}]))
    if code != 0:
        if "No such file or directory" in error:
            return None
        raise ReadError(f"nftables table {family} {name} could not be listed: {_first_line(error)}")
    entries = (output or {}).get("nftables", [])
    return [_stable(entry) for entry in entries if "metainfo" not in entry and "table" not in entry]


def _stable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {
            name: _without_order(inner) if name == "set" and isinstance(inner, list) else _stable(inner)
            for name, inner in value.items()
            if name not in _VOLATILE
        }
    if isinstance(value, list):
        return [_stable(inner) for inner in value]
    return value


def _without_order(elements: Sequence[Any]) -> List[Any]:
    # Elements of a set stand in the order of the kernel's hash table, which starts from a random number.
    return sorted((_stable(element) for element in elements), key=lambda element: json.dumps(element, sort_keys=True))


def _first_line(error: Any) -> str:
    text = str(error or "").strip()
    return text.splitlines()[0] if text else "no reason was given"


def _in_network_namespace(work: Callable[[], Result]) -> Result:
    results: List[Result] = []
    failures: List[BaseException] = []

    def enter() -> None:
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.unshare(CLONE_NEWNET) != 0:
                raise ReadError(f"the host grants no network namespace: {os.strerror(ctypes.get_errno())}")
            results.append(work())
        except (BareforgeError, OSError) as error:
            failures.append(error)

    # Namespaces belong to threads: this one takes its own with it when it ends, and the process stays where it is.
    thread = threading.Thread(target=enter, name="bareforge-nftables-preview")
    thread.start()
    thread.join()
    if failures:
        error = failures[0]
        raise error if isinstance(error, BareforgeError) else ReadError(f"rules could not be tried out: {error}")
    if not results:
        raise ReadError("rules could not be tried out: the thread ended early")
    return results[0]


def _make_tap(name: str) -> int:
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode("ascii"), IFF_TAP_WITHOUT_HEADER))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
