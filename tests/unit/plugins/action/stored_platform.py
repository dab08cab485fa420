# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The platform in memory, for the time between two tasks in a file."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import ConnectError
from support.memory_platform import MemoryHost, MemoryPlatform


class StoredPlatform(MemoryPlatform):
    """A platform whose hosts are kept in files.

    FOLDER: where each host has its file. Beside it NAME.settings tells how the host was last reached, and NAME.log what
        happened on it. While NAME.faulty exists its driver has a fault; while NAME.unreachable exists nobody reaches
        the host; while NAME.cut exists a change makes it unreachable; while NAME.forgets exists its guard undoes
        whatever is to be confirmed.
    """

    FOLDER: ClassVar[Path]

    def __init__(self, settings: Mapping[str, Any] | None = None) -> None:
        self.reached = dict(settings or {})
        self.file = self.FOLDER / str(self.reached["host"])
        if self.file.with_suffix(".unreachable").exists():
            raise ConnectError("port 443 is closed")
        if self.file.with_suffix(".faulty").exists():
            raise RuntimeError("a fault of the driver")
        host = MemoryHost()
        if self.file.exists():
            host.objects, host.guard_state = pickle.loads(self.file.read_bytes())  # noqa: S301 - our own file
        self.file.with_suffix(".settings").write_text(json.dumps(self.reached))
        super().__init__(host)

    def facts(self) -> dict[str, Any]:
        return {"process": os.getpid()}

    def close(self) -> None:
        if self.host.changes and self.file.with_suffix(".cut").exists():
            self.file.with_suffix(".unreachable").touch()
        if self.file.with_suffix(".forgets").exists():
            self.host.guard_state = None
        self.file.write_bytes(pickle.dumps((self.host.objects, self.host.guard_state)))
        with self.file.with_suffix(".log").open("a") as log:
            log.writelines(f"{line}\n" for line in self.host.log)
