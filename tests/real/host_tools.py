# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What real tests use on the host; copied there, so it imports nothing of the tests."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from ansible_collections.bareforge.hypervisor.plugins.module_utils.engine.runner import Request, run
from ansible_collections.bareforge.hypervisor.plugins.module_utils.engine.runner import gather as engine_gather
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.document import Document
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.operation import Operation
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.platform import KvmPlatform


def apply(
    document: Any, exact: Sequence[str] = (), check: bool = False, operation: Any | None = None, **settings: Any
) -> Any:
    """Bring this host to what a document says and return the result; the guard is off unless the operation says so."""
    options = Operation.parse({"guard": {"enabled": False}, **(operation or {})})
    platform = KvmPlatform(settings)
    try:
        return run(platform, Request(Document.parse(document, list(exact)), options, check))
    finally:
        platform.close()


def gather(kinds: Sequence[str] = ()) -> Any:
    """Return the objects of this host as a document."""
    platform = KvmPlatform()
    try:
        return engine_gather(platform, tuple(kinds))
    finally:
        platform.close()


def output(*argv: str, check: bool = True, timeout: float = 120) -> str:
    """Run a program and return its output, stripped."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=timeout)
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)}: {done.returncode}: {done.stdout} {done.stderr}")
    return done.stdout.strip()


def enter_namespace(name: str) -> None:
    """Move this thread, and those that it starts, into a network namespace of `ip netns`."""
    with open(f"/run/netns/{name}", "rb") as stream:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(stream.fileno(), 0x40000000) != 0:
            raise OSError(ctypes.get_errno(), f"no way into the network namespace {name}")


def serve() -> None:
    """Carry out jobs that come as lines of JSON, each in a process of its own, and answer with a line each.

    Everything is imported once, which under emulation takes longer than most jobs.
    """
    for line in sys.stdin:
        # In memory, since the host's disks may be full.
        with _in_memory("log") as log, _in_memory("answer") as answer:
            child = os.fork()
            if child == 0:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                answer.write(json.dumps(_work(json.loads(line))).encode())
                answer.flush()
                os._exit(0)
            status = os.waitpid(child, 0)[1]
            log.seek(0)
            answer.seek(0)
            text = answer.read()
            result = json.loads(text) if text else {"error": "Died", "message": f"status {status}", "details": {}}
            result["trace"] = log.read().decode("utf-8", "replace")
            sys.stdout.write(json.dumps(result) + "\n")
            sys.stdout.flush()


def _in_memory(name: str) -> Any:
    return os.fdopen(os.memfd_create(name), "w+b")


def _work(job: Any) -> dict[str, Any]:
    scope: dict[str, Any] = {"__name__": "on_host"}
    try:
        exec(compile(job["source"], f"<{job['function']}>", "exec"), scope)  # noqa: S102 - what the test has sent
        return {"result": scope[job["function"]](**job["data"])}
    except Exception as error:  # noqa: BLE001 - the test is told of every one
        traceback.print_exc()
        with contextlib.suppress(Exception):
            sys.stderr.flush()
        details = json.loads(json.dumps(getattr(error, "details", {}), default=str))
        message = getattr(error, "message", str(error))
        return {"error": type(error).__name__, "message": message, "details": details}
