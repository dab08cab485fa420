# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a platform owes that can take a host out of service for a while: the base of its maintenance mode."""

from __future__ import annotations

from typing import Callable, List, Optional, Sequence

from ..model.operation import Operation
from ..model.schema import Plain
from .platform import Interface

Progress = Optional[Callable[[str], None]]


class MaintenanceTarget(Interface):
    """Lets a host say that it is in maintenance, be without running VMs meanwhile, and run afterwards those that ran before.

    What is known of the mode is kept on the host, so that whoever goes on after a run that was killed, or a start of the host,
    does what that one would have done. In check mode (`check`) nothing is changed. Each method returns the
    changes, as in results.
    """

    def described(self) -> Optional[Plain]:
        """Return the mode: `reason`, `since`, and the `vms` that ran before; None where the host is in service.

        In check mode it is as it would be after what was asked for.
        """
        raise NotImplementedError

    def enter(self, reason: str, evacuate_to: Sequence[str], check: bool) -> List[Plain]:
        """Write down that the host is in maintenance, and which VMs run.

        evacuate_to: the hosts that VMs shall go to, in turn; what was chosen for a VM once stays.
        Raises ReadError, ApplyError.
        """
        raise NotImplementedError

    def empty(self, operation: Operation, check: bool, progress: Progress) -> List[Plain]:
        """Stop every VM that still runs.

        Raises ValidateError where one could not be started again, ApplyError for those that do not stop; all others are
        stopped then, and the host stays in maintenance.
        """
        raise NotImplementedError

    def leave(self, check: bool, progress: Progress) -> List[Plain]:
        """Start the VMs that ran before and are still on this host, and end the mode. Raises ApplyError."""
        raise NotImplementedError
