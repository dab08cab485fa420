# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The pending updates of a KVM host: those of its Linux, and a start that its tuning waits for."""

from __future__ import annotations

from typing import Any, Dict

from ..linux.updates import LinuxUpdates
from .tuning import KvmTuning

WAITING = "hugepages that were asked for come with the next start"


class KvmUpdates(LinuxUpdates):
    """Tells the pending updates of a KVM host."""

    def updates(self) -> Dict[str, Any]:
        found = super().updates()
        if KvmTuning(self.platform).waits_for_start():
            found["reboot_reasons"].append(WAITING)
            found["reboot_required"] = True
        return found
