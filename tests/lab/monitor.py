# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""QEMU's monitor over its Unix socket (QMP, https://www.qemu.org/docs/master/interop/qmp-spec.html)."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lab.errors import LabError


class Monitor:
    """One QMP session; use it as a context manager. QEMU serves one session at a time."""

    def __init__(self, path: Path, timeout: float = 120.0) -> None:
        """Connect to the socket ``path``; every answer must come within ``timeout`` seconds."""
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout)
        try:
            self._socket.connect(str(path))
        except OSError as error:
            self._socket.close()
            raise LabError(f"QEMU's monitor {path} does not answer: {error}.") from error
        self._lines = self._socket.makefile("rb")
        self._read()
        self.execute("qmp_capabilities")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.close()
        self._socket.close()

    def _read(self) -> dict[str, Any]:
        try:
            line = self._lines.readline()
        except OSError as error:
            raise LabError(f"QEMU's monitor {self._path} stopped answering: {error}.") from error
        if not line:
            raise LabError(f"QEMU closed its monitor {self._path}.")
        return dict(json.loads(line))

    def execute(self, command: str, **arguments: Any) -> Any:
        """Run a QMP command and return its value; raises LabError with QEMU's own words if it refuses."""
        try:
            self._socket.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        except OSError as error:
            raise LabError(f"QEMU closed its monitor {self._path}: {error}.") from error
        while True:
            answer = self._read()
            if "error" in answer:
                raise LabError(f"QEMU refused {command}: {answer['error'].get('desc')}.")
            if "return" in answer:
                return answer["return"]

    def human(self, line: str) -> str:
        """Run a line of the human monitor (savevm and loadvm exist only there in a blocking form).

        Raises LabError if QEMU prints an error, which the human monitor does with a success status.
        """
        said = str(self.execute("human-monitor-command", **{"command-line": line})).strip()
        if said.startswith(("Error", "unknown command")) or "\nError" in said:
            raise LabError(f"QEMU refused {line!r}: {said}")
        return said
