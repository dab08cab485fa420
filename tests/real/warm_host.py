# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A real host whose Python process has imported everything already and forks for every job.

Under emulation the imports of one run take longer than the run. Every job still has a process of its own, which opens its
own connections and dies with them.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import selectors
import shlex
import subprocess
import textwrap
import time
from collections.abc import Callable
from typing import IO, Any

from .real_host import REMOTE, OnHostError, RealHost

SERVER = """
import json, os, sys, tempfile, traceback
import libvirt, ovs.jsonrpc, ovs.poller, ovs.stream
import host_tools

def work(job, answers, log):
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    scope = {"__name__": "on_host"}
    try:
        exec(compile(job["source"], "<" + job["function"] + ">", "exec"), scope)
        answer = {"result": scope[job["function"]](**job["data"])}
    except Exception as error:
        traceback.print_exc()
        answer = {"error": type(error).__name__, "message": getattr(error, "message", str(error)),
                  "details": json.loads(json.dumps(getattr(error, "details", {}), default=str))}
    with os.fdopen(answers, "w") as stream:
        stream.write(json.dumps(answer))

print("ready", flush=True)
for line in sys.stdin:
    here, there = os.pipe()
    with tempfile.TemporaryFile("w+") as log:
        child = os.fork()
        if child == 0:
            os.close(here)
            try:
                work(json.loads(line), there, log)
            finally:
                sys.stderr.flush()
                os._exit(0)
        os.close(there)
        with os.fdopen(here) as stream:
            text = stream.read()
        os.waitpid(child, 0)
        log.seek(0)
        print(json.dumps({"answer": json.loads(text) if text else None, "log": log.read()}), flush=True)
"""


class WarmHost(RealHost):
    """A real host on which jobs start at once."""

    _server: subprocess.Popen[bytes] | None = None

    def on_host(
        self, function: Callable[..., Any] | str, *, fresh: bool = False, timeout: float = 300, **data: Any
    ) -> Any:
        if fresh:
            return super().on_host(function, fresh=True, timeout=timeout, **data)
        if callable(function):
            source, name = textwrap.dedent(inspect.getsource(function)), function.__name__
        else:
            source, name = textwrap.dedent(function), "main"
        server = self._running()
        assert server.stdin is not None
        assert server.stdout is not None
        # Types of the tests are not known there.
        source = f"from __future__ import annotations\n{source}"
        server.stdin.write(json.dumps({"source": source, "function": name, "data": data}).encode() + b"\n")
        server.stdin.flush()
        try:
            reply = json.loads(_line(server.stdout, timeout))
        except (TimeoutError, ValueError, EOFError) as error:
            self.stop()
            raise RuntimeError(f"{name} on {self.name} gave no answer within {timeout:.0f} s: {error}") from None
        answer = reply["answer"]
        if answer is None:
            raise RuntimeError(f"{name} on {self.name} died: {reply['log']}")
        if "error" in answer:
            raise OnHostError(answer["error"], answer["message"], answer["details"], reply["log"])
        return answer["result"]

    def _running(self) -> subprocess.Popen[bytes]:
        if self._server is None or self._server.poll() is not None:
            command = ["sudo", "-n", "env", f"PYTHONPATH={REMOTE}", "/usr/bin/python3", "-c", SERVER]
            self._server = subprocess.Popen(
                [*self.ssh_command(), shlex.join(command)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
            )
            assert self._server.stdout is not None
            _line(self._server.stdout, 180)
        return self._server

    def stop(self) -> None:
        """End the process on the host."""
        server, self._server = self._server, None
        if server is not None:
            with contextlib.suppress(OSError):
                if server.stdin is not None:
                    server.stdin.close()
            server.terminate()
            server.wait(30)

    def close(self) -> None:
        self.stop()
        super().close()


def _line(stream: IO[bytes], timeout: float) -> bytes:
    end = time.monotonic() + timeout
    text = b""
    with selectors.DefaultSelector() as ready:
        ready.register(stream, selectors.EVENT_READ)
        while not text.endswith(b"\n"):
            if not ready.select(max(0.0, end - time.monotonic())):
                raise TimeoutError
            part = stream.read(65536)
            if not part:
                raise EOFError("it ended")
            text += part
    return text
