# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A connection to a node that is this machine, but for its name and for the folder NODE, which takes the place of some of its own."""

from __future__ import annotations

DOCUMENTATION = r"""
name: node_on_this_machine
short_description: Runs commands here, in namespaces of their own
description: For the tests of this folder. Needs root.
author: Bareforge contributors
options: {}
"""

import os  # noqa: E402
import subprocess  # noqa: E402

from ansible.plugins.connection import ConnectionBase  # noqa: E402

# The shell's arguments are the folder and the command.
AS_NODE = """\
set -e
hostname pve1
for program in systemd-run systemctl; do mount --bind "$1/$program" "/usr/bin/$program"; done
mount -t overlay overlay -o "lowerdir=$1/sbin:/usr/sbin" /usr/sbin
mount -t overlay overlay -o "lowerdir=$1/etc:/etc,upperdir=$1/upper,workdir=$1/work" /etc
mount --bind "$1/var" /var/lib
exec sh -c "$2"
"""


class Connection(ConnectionBase):
    """Runs a command with what it is given on its standard input."""

    transport = "node_on_this_machine"
    has_pipelining = True

    def _connect(self) -> Connection:
        self._connected = True
        return self

    def exec_command(self, cmd: str, in_data: bytes | None = None, sudoable: bool = True) -> tuple[int, bytes, bytes]:
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        done = subprocess.run(
            ["unshare", "--mount", "--uts", "sh", "-c", AS_NODE, "sh", os.environ["NODE"], cmd],
            input=in_data or b"",
            capture_output=True,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    def put_file(self, in_path: str, out_path: str) -> None:
        raise AssertionError("all travels by the pipeline")

    def fetch_file(self, in_path: str, out_path: str) -> None:
        raise AssertionError("nothing is fetched")

    def close(self) -> None:
        self._connected = False
