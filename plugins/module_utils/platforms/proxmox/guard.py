# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The guard over the path that a node is managed through.

The API can change a node's network and cannot bring it back by itself, so this one thing goes over Ansible's connection: the
undo and its timer are put on the node before the first change, and taken away by a confirmation that came over the API anew.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, Mapping, Optional, Sequence, Type

from ...engine.change import Change
from ...engine.platform import Context, Guard
from ...errors import AuthenticateError, BareforgeError, ConnectError, GuardError, ReadError
from ...model.schema import Plain
from .node_guard import PART_OF_KIND

HINT = (
    "Say how Ansible reaches the node by SSH as root, with ansible_host, ansible_user and ansible_ssh_private_key_file (and "
    "ansible_become where the user is not root); or guard: {enabled: false} to do it without a guard"
)

Ask = Callable[[Mapping[str, Any]], Dict[str, Any]]


class ProxmoxGuard(Guard):
    """Lets a node undo changes to its management path by itself.

    ask: sends a request of :mod:`boundary.guarding` over Ansible's connection and returns the answer.
    """

    def __init__(self, platform: Any, ask: Ask) -> None:
        self.platform = platform
        self._ask = ask

    def arm(self, changes: Sequence[Change], context: Context, timeout: int) -> Plain:
        unknown = sorted({change.kind for change in changes if change.kind not in PART_OF_KIND})
        if unknown:
            raise GuardError(f"the guard of platform proxmox cannot undo changes of {', '.join(unknown)}")
        node = self.platform.session.node
        parts = sorted({PART_OF_KIND[change.kind] for change in changes})
        try:
            return self._result(step="arm", node=node, parts=parts, timeout=timeout)
        except (AuthenticateError, ConnectError, ReadError) as error:
            text = f"a guard needs Ansible's connection to node {node}, and {error.message.rstrip('.')}"
            raise GuardError(text, HINT) from error

    def confirm(self, token: str) -> None:
        # What is confirmed is that the API can be reached, which is what the node is managed through.
        try:
            self.platform.session.get("version")
        except (AuthenticateError, ReadError) as error:
            # An API that answers like this is not there yet, or not for us; it is asked again until the time is over.
            raise ConnectError(error.message, error.hint) from error
        try:
            self._result(step="confirm", token=token)
        except AuthenticateError as error:
            # A way that refuses us is none; the node undoes then, and that is asked for once more after its time.
            raise ConnectError(error.message, error.hint) from error

    def undo(self, token: str) -> None:
        self._result(step="undo", token=token)

    def _result(self, **request: Any) -> Plain:
        answer = self._ask(request)
        failure: Optional[Mapping[str, Any]] = answer.get("failure")
        if failure is not None:
            kinds: Dict[str, Type[BareforgeError]] = {"authenticate": AuthenticateError, "connect": ConnectError}
            kind = kinds.get(str(failure.get("phase")), GuardError)
            raise kind(str(failure.get("msg")).rstrip("."))
        return dict(answer["result"])
