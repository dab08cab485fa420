# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Work on several hosts side by side, each in a process of its own that is ended at its deadline.

A thread that waits for a host that stalls cannot be ended, a process and the ssh that it has started can.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from ansible.utils.multiprocessing import context

END_SECONDS = 5.0


@dataclass
class Outcome:
    """What became of one piece of work: its value; or an error, in words, and its phase."""

    value: Any = None
    error: str | None = None
    phase: str = ""


@dataclass
class _Running:
    name: str
    process: Any
    results: Connection
    deadline: float
    results_came: bool = False


def side_by_side(names: Iterable[str], work: Callable[[str], Any], timeout: float, at_once: int) -> dict[str, Outcome]:
    """Do work(name) for every name and return what became of each.

    work: returns plain data, or raises; what it raises should have `phase` and be a sentence.
    timeout: how many seconds each may take from its start. at_once: how many run at a time.
    Whatever ends this, nothing that it has started goes on.
    """
    waiting = deque(names)
    running: list[_Running] = []
    outcomes: dict[str, Outcome] = {}
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                running.append(_start(waiting.popleft(), work, timeout))
            left = min(entry.deadline for entry in running) - time.monotonic()
            ready = wait([entry.results for entry in running], timeout=max(0.0, left))
            now = time.monotonic()
            for entry in list(running):
                if entry.results in ready:
                    outcomes[entry.name] = _received(entry)
                elif now >= entry.deadline:
                    outcomes[entry.name] = Outcome(error=f"gave no answer within {timeout:g} s", phase="connect")
                else:
                    continue
                _end(entry)
                running.remove(entry)
    finally:
        for entry in running:
            _end(entry)
    return outcomes


def _start(name: str, work: Callable[[str], Any], timeout: float) -> _Running:
    results, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(name, work, sender), daemon=True)
    process.start()
    sender.close()
    return _Running(name, process, results, time.monotonic() + timeout)


def _child(name: str, work: Callable[[str], Any], sender: Connection) -> None:
    # A session of its own: no prompt reaches the user's terminal, and what it starts can be ended with it.
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    # Standard output is where ansible-inventory prints its JSON.
    os.dup2(2, 1)
    try:
        outcome = Outcome(work(name))
    except Exception as error:  # noqa: BLE001 - the parent tells of every one, with the host's name
        sentence = getattr(error, "sentence", None)
        text = sentence() if callable(sentence) else f"{type(error).__name__}: {error}"
        outcome = Outcome(error=text, phase=getattr(error, "phase", "internal"))
    sender.send(outcome)
    sender.close()


def _received(entry: _Running) -> Outcome:
    entry.results_came = True
    try:
        return entry.results.recv()
    except EOFError:
        entry.process.join(END_SECONDS)
        return Outcome(error=f"its process ended with status {entry.process.exitcode}", phase="internal")


def _end(entry: _Running) -> None:
    entry.results.close()
    if entry.results_came:
        entry.process.join(END_SECONDS)
    if entry.process.is_alive():
        # Not reaped yet, so the process group cannot be anyone else's.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(entry.process.pid, signal.SIGKILL)
        entry.process.kill()
        entry.process.join()
