# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The users of a KVM host: those of its Linux."""

from __future__ import annotations

from typing import Iterator

from ...engine.change import Change
from ...engine.platform import Context
from ...errors import Problem
from ..linux.users import LinuxUsers
from .access import wanted_of
from .polkit_rules import names_in_use


class KvmUsers(LinuxUsers):
    """Reads and changes the local users of a KVM host."""

    def validate(self, change: Change, context: Context) -> Iterator[Problem]:
        yield from super().validate(change, context)
        if change.after is None:
            # Whoever comes next by that name would have them.
            for permission in names_in_use(wanted_of(context), str(change.key[0]), "user"):
                message = f"cannot go, since {permission.place.text} is about it; let that be absent too"
                yield Problem(change.item.place.text, message)
