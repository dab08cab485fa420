# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Puts a fault at the k-th change of any platform, whatever it talks to.

Every interface says `begin` before and `done` after each change that it makes; that is where a fault strikes, so no
platform has to know of it.
"""

from __future__ import annotations

import time
from typing import Any, List, Optional, Sequence

from ansible_collections.bareforge.hypervisor.plugins.module_utils.engine.change import Change
from ansible_collections.bareforge.hypervisor.plugins.module_utils.engine.platform import Context, Platform
from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import ApplyError, ConnectError

from .memory_platform import Killed

FAULTS = ("kill_before", "kill_after", "error", "connection_lost", "driver_fault", "delay")


class FaultyContext(Context):
    """A context that strikes at one change and passes everything else on."""

    def __init__(self, real: Context, fault: FaultAt) -> None:
        self.__dict__ = real.__dict__
        self.fault = fault

    def begin(self, change: Change) -> None:
        super().begin(change)
        self.fault.before(change)

    def done(self, change: Change) -> None:
        super().done(change)
        self.fault.after(change)


class FaultAt:
    """One fault at one change, counted from 1 over all interfaces.

    kind: one of FAULTS; number: which change. Both None only count.
    """

    def __init__(self, kind: Optional[str] = None, number: Optional[int] = None) -> None:
        self.kind = kind
        self.number = number
        self.begun: List[str] = []

    def before(self, change: Change) -> None:
        self.begun.append(str(change))
        if len(self.begun) != self.number:
            return
        if self.kind == "kill_before":
            raise Killed
        if self.kind == "error":
            raise ApplyError(f"{change} was refused")
        if self.kind == "connection_lost":
            raise ConnectError(f"the connection broke in {change}")
        if self.kind == "driver_fault":
            raise RuntimeError(f"a fault of the driver in {change}")
        if self.kind == "delay":
            time.sleep(0.01)

    def after(self, change: Change) -> None:
        if len(self.begun) == self.number and self.kind == "kill_after":
            raise Killed


class FaultyInterface:
    """Stands before an interface and gives it the context that strikes."""

    def __init__(self, real: Any, fault: FaultAt) -> None:
        self._real = real
        self._fault = fault

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def apply(self, changes: Sequence[Change], context: Context) -> None:
        self._real.apply(changes, FaultyContext(context, self._fault))


def with_fault(platform: Platform, kind: Optional[str] = None, number: Optional[int] = None) -> FaultAt:
    """Make a platform fail at its k-th change; return the fault, which counts the changes that were begun."""
    fault = FaultAt(kind, number)
    platform.interfaces = tuple(FaultyInterface(interface, fault) for interface in platform.interfaces)
    return fault
