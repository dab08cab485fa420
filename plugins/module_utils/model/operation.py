# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How a change is to be made, as opposed to what the host shall be: deadlines, restarts, the guard, waiting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from .schema import ModelObject, Nested, Value, option
from .types import Boolean, Choice, Integer


@dataclass(frozen=True)
class WaitFor(ModelObject):
    """What has to be seen of the running VMs before the task is done."""

    what: Optional[str] = option(
        Value(Choice("address", "ssh")),
        "An address of the guest on any NIC, or an answer on its SSH port as seen from the host.",
        required=True,
        capability="vm.wait_for.*",
    )
    timeout: Optional[int] = option(Value(Integer(1, 7200, "seconds")), "How long to wait, in seconds.", default=300)


@dataclass(frozen=True)
class GuardOptions(ModelObject):
    """The guard over the path that the host is managed through."""

    enabled: Optional[bool] = option(
        Value(Boolean()),
        "Whether the host undoes a change to its management path by itself unless the controller comes back and confirms.",
        default=True,
    )
    timeout: Optional[int] = option(
        Value(Integer(10, 600, "seconds")),
        "After how many seconds without confirmation the host undoes it.",
        default=60,
    )


@dataclass(frozen=True)
class Operation(ModelObject):
    """How a change is to be made."""

    allow_restart: Optional[bool] = option(
        Value(Boolean()),
        "Whether a running VM may be stopped and started where a change needs it off. Without it such a change is refused.",
        default=False,
    )
    shutdown_timeout: Optional[int] = option(
        Value(Integer(0, 7200, "seconds")),
        "How long a guest is given to shut down, in seconds; 0 switches off at once.",
        default=180,
    )
    force_off: Optional[bool] = option(
        Value(Boolean()),
        "Whether a guest that has not shut down by then is switched off. Without it the task fails.",
        default=False,
    )
    delete_disks: Optional[bool] = option(
        Value(Boolean()), "Whether the disks of a VM that is removed go with it.", default=True
    )
    delete_contents: Optional[bool] = option(
        Value(Boolean()),
        "Whether everything that lies in a storage pool that is removed is deleted with it. Without it the contents stay.",
        default=False,
    )
    delete_home: Optional[bool] = option(
        Value(Boolean()),
        "Whether the home folder of a user that is removed goes with it, and what else is known to be the user's, such as mail.",
        default=False,
    )
    wait_for: Optional[WaitFor] = option(
        Nested(WaitFor), "What has to be seen of the running VMs of this task before it is done."
    )
    guard: Optional[GuardOptions] = option(Nested(GuardOptions), "The guard over the management path.", default={})
