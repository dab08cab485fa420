# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A connection that runs nothing: each module that is sent gets the next answer of a file."""

from __future__ import annotations

DOCUMENTATION = r"""
name: scripted
short_description: Answers from a file
description: For the tests of this folder.
author: Bareforge contributors
options: {}
"""

import json  # noqa: E402
import os  # noqa: E402
from pathlib import Path  # noqa: E402

from ansible.errors import AnsibleConnectionFailure  # noqa: E402
from ansible.plugins.connection import ConnectionBase  # noqa: E402


class Connection(ConnectionBase):
    """Takes answers from $ANSWERS, a list: what a module prints, or {"lost": what ssh says}; notes what it is asked for.

    $ASKED gets a line for each: `module`, or `reset` where a new connection is demanded.
    """

    transport = "scripted"
    has_pipelining = True

    def _connect(self) -> Connection:
        self._connected = True
        return self

    def _note(self, word: str) -> None:
        with open(os.environ["ASKED"], "a", encoding="utf-8") as stream:
            stream.write(f"{word}\n")

    def exec_command(self, cmd: str, in_data: bytes | None = None, sudoable: bool = True) -> tuple[int, bytes, bytes]:
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        if not in_data:
            return 0, b"", b""
        self._note("module")
        path = Path(os.environ["ANSWERS"])
        answer, *rest = json.loads(path.read_text())
        path.write_text(json.dumps(rest))
        if "lost" in answer:
            raise AnsibleConnectionFailure(f"Failed to connect to the host via ssh: {answer['lost']}")
        if "said" in answer:
            return 1, b"", answer["said"].encode()
        return 0, json.dumps(answer).encode(), b""

    def put_file(self, in_path: str, out_path: str) -> None:
        raise AssertionError("modules travel by the pipeline")

    def fetch_file(self, in_path: str, out_path: str) -> None:
        raise AssertionError("nothing is fetched")

    def reset(self) -> None:
        self._note("reset")

    def close(self) -> None:
        self._connected = False
