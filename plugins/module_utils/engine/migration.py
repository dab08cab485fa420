# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a platform owes whose API moves VMs between hosts by itself: the base of its migration."""

from __future__ import annotations

from typing import Any, Callable, Mapping, Optional

from ..model.schema import Plain
from .platform import Interface

Progress = Optional[Callable[[str], None]]


class MigrationByApi(Interface):
    """Moves a VM by asking the API of the host that it is on; the other host has an interface of the same class."""

    def described(self, name: str) -> Optional[Plain]:
        """Return a VM of this host as a document, or None where it is not here. Raises ReadError."""
        raise NotImplementedError

    def check_destination(self, other: Any) -> None:
        """Raise ValidateError where VMs cannot go to the host that `other`, an interface of this class, is of."""
        raise NotImplementedError

    def migrate(self, name: str, other: Any, limits: Mapping[str, Any], check: bool, progress: Progress) -> Plain:
        """Move a VM to the host that `other`, an interface of this class, is of, and return how it went.

        limits: the options timeout, bandwidth, max_downtime, auto_converge and full_copy, as far as they were given.
        check: whether only to look whether something speaks against it; nothing is returned then.
        The result has `live`, `seconds` and what else is known of `downtime`, `memory` and `disks`.
        Raises ValidateError before anything is changed, ApplyError with the VM where it was.
        """
        raise NotImplementedError
