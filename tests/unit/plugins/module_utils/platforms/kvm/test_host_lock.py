# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import ConnectError
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.host_lock import host_lock

HOLDER = """
import sys, time
sys.path[:0] = sys.argv[2:]
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.host_lock import host_lock
with host_lock(1, sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


def test_second_run_is_told_who_holds_it_and_gets_it_when_that_dies(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, path, *sys.path], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with (
            pytest.raises(ConnectError, match=rf"process {holder.pid} on the host, has held {path}"),
            host_lock(0.2, path),
        ):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with host_lock(5, path):
            assert Path(path).read_text() == f"{os.getpid()}\n"
    finally:
        holder.kill()
        holder.wait()
        assert holder.stdout is not None
        holder.stdout.close()


def test_second_run_waits_for_the_first(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    order = []

    def first() -> None:
        with host_lock(5, path):
            order.append("first in")
            time.sleep(0.5)
            order.append("first out")

    thread = threading.Thread(target=first)
    thread.start()
    while not order:
        time.sleep(0.01)
    with host_lock(10, path):
        order.append("second in")
    thread.join()
    assert order == ["first in", "first out", "second in"]


def test_lock_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConnectError, match="cannot be opened"), host_lock(0, str(tmp_path / "none" / "lock")):
        pass
