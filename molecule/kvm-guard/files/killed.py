# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Kills a run as soon as something else says so: killed.py RUN WAIT, each a list of arguments as JSON."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time


def main(run: list[str], wait: list[str]) -> int:
    """Start both, and kill the run with all that belongs to it when the waiting one ends."""
    waiting = subprocess.Popen(wait, stdin=subprocess.DEVNULL)
    running = subprocess.Popen(run, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        while waiting.poll() is None and running.poll() is None:
            time.sleep(0.1)
        early = running.poll() is not None
    finally:
        waiting.terminate()
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
        running.wait()
    if early or waiting.wait() != 0:
        print("the run came to its end before it could be killed", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1]), json.loads(sys.argv[2])))
