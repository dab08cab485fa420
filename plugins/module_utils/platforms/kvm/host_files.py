# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files on the host that are there whole or not at all, whenever the process dies."""

from __future__ import annotations

import contextlib
import json
import os
from typing import Any, Iterator, Optional

from ...errors import ApplyError, ReadError


@contextlib.contextmanager
def translated(what: str) -> Iterator[None]:
    """Turn an error of the operating system into an ApplyError. what: the object, or what did not work."""
    try:
        yield
    except OSError as error:
        raise ApplyError(f"{what}: {error.strerror or error} ({error.filename or 'on the host'})") from error


def write_atomically(path: str, content: bytes, mode: int = 0o600) -> None:
    """Replace a file by a new one in one step (rename(2)), and make it last.

    The folders above it are made where they are missing, with mode 0755.
    Raises ApplyError.
    """
    folder = os.path.dirname(path)
    # A fixed name: what a killed run left is written over by the next instead of piling up.
    temporary = os.path.join(folder, f".{os.path.basename(path)}.new")
    try:
        os.makedirs(folder, mode=0o755, exist_ok=True)
        if os.path.lexists(temporary):
            os.unlink(temporary)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as stream:
            os.fchmod(stream.fileno(), mode)
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
        _sync_folder(folder)
    except OSError as error:
        raise ApplyError(f"{path} could not be written: {error.strerror or error}") from error


def remove_file(path: str) -> bool:
    """Remove a file and make that last; return whether there was one. Raises ApplyError."""
    try:
        os.unlink(path)
        _sync_folder(os.path.dirname(path))
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ApplyError(f"{path} could not be removed: {error.strerror or error}") from error
    return True


def read_file(path: str) -> Optional[bytes]:
    """Return what is in a file, or None where there is none. Raises ReadError."""
    try:
        with open(path, "rb") as stream:
            return stream.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ReadError(f"{path} could not be read: {error.strerror or error}") from error


def read_json(path: str) -> Any:
    """Return the data in a JSON file, or None where there is none. Raises ReadError."""
    content = read_file(path)
    if content is None:
        return None
    try:
        return json.loads(content)
    except ValueError as error:
        raise ReadError(f"{path} holds no JSON: {error}", "Remove the file and run again") from error


def write_json(path: str, data: Any, mode: int = 0o600) -> None:
    """Replace a file by one that holds the data as JSON. Raises ApplyError."""
    write_atomically(path, json.dumps(data, indent=1, sort_keys=True).encode("ascii") + b"\n", mode)


def _sync_folder(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def source_of(module: Any) -> bytes:
    """Return the source of a module that is run on the host by others, such as a hook. Raises ApplyError."""
    source = module.__loader__.get_source(module.__name__)
    if not source:
        raise ApplyError(f"the source of {module.__name__} is not at hand")
    return str(source).encode("utf-8")
