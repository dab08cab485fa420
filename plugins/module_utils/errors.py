# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The exceptions of the collection, one class a phase.

Everything below the boundary (the action base and a module's ``main()``) raises one of these and never exits or fails
by itself; the boundary turns them into a failed task.
"""

from __future__ import annotations

from typing import Any, Iterable, NamedTuple, Optional


class Problem(NamedTuple):
    """One thing that is wrong with what the user wrote.

    path: where it stands in the document, such as ``virtual_switch['br0'].uplinks[1]``.
    message: what is wrong with the value there and what is allowed.
    """

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class BareforgeError(Exception):
    """Base of all errors.

    message: one sentence that names object, field and cause.
    hint: what the user can do about it, or None.
    details: plain data for the task's result; must never hold a secret.
    """

    phase = "internal"

    def __init__(self, message: str, hint: Optional[str] = None, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = details

    def sentence(self, host: Optional[str] = None) -> str:
        """Return the message for the user, with the host's name in front and the hint behind it."""
        text = f"{host}: {self.message}" if host else self.message
        return f"{text.rstrip('.')}. {self.hint}" if self.hint else text


class ConnectError(BareforgeError):
    """The host or its service could not be reached, or the connection broke."""

    phase = "connect"


class AuthenticateError(BareforgeError):
    """The host refused the credentials."""

    phase = "authenticate"


class ReadError(BareforgeError):
    """The current state could not be read."""

    phase = "read"


class ValidateError(BareforgeError):
    """The request was refused before anything was changed.

    problems: every problem that was found, not only the first.
    """

    phase = "validate"

    def __init__(self, problems: Iterable[Problem], hint: Optional[str] = None) -> None:
        self.problems = list(problems)
        super().__init__(
            "; ".join(str(problem) for problem in self.problems),
            hint,
            problems=[{"path": problem.path, "message": problem.message} for problem in self.problems],
        )


class NotSupportedError(ValidateError):
    """The platform declares that it cannot do what was asked; raised before anything was changed."""


class ApplyError(BareforgeError):
    """A change was refused or broke off while it was made."""

    phase = "apply"


class VerifyError(BareforgeError):
    """After the change the host does not show what was asked."""

    phase = "verify"


class GuardError(BareforgeError):
    """The guard over the management path could not be armed, confirmed or undone."""

    phase = "guard"


def one_line(text: str) -> str:
    """Return what a program or a library says as one line, for a message."""
    return " ".join(text.split())
