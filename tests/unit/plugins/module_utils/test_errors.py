# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The errors: what they say, and what of them stands in a task's result."""

from __future__ import annotations

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils import errors
from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import (
    ApplyError,
    BareforgeError,
    NotSupportedError,
    Problem,
    ValidateError,
)


@pytest.mark.parametrize(
    ("host", "hint", "sentence"),
    [
        (None, None, "vm['web']: did not start."),
        ("kvm1", None, "kvm1: vm['web']: did not start."),
        ("kvm1", "Look at its console.", "kvm1: vm['web']: did not start. Look at its console."),
    ],
)
def test_the_sentence_names_the_host_and_ends_with_the_hint(host, hint, sentence):
    assert ApplyError("vm['web']: did not start.", hint).sentence(host) == sentence


def test_details_are_kept():
    assert ApplyError("no", code=5, name="x").details == {"code": 5, "name": "x"}


def test_all_problems_are_told():
    error = ValidateError([Problem("a.b", "is wrong"), Problem("", "is worse")], "Mend it")
    assert error.message == "a.b: is wrong; is worse"
    assert error.sentence("kvm1") == "kvm1: a.b: is wrong; is worse. Mend it"
    assert error.details == {"problems": [{"path": "a.b", "message": "is wrong"}, {"path": "", "message": "is worse"}]}
    assert isinstance(NotSupportedError([]), ValidateError)


def test_every_error_has_its_phase():
    phases = {
        cls.__name__: cls.phase
        for cls in vars(errors).values()
        if isinstance(cls, type) and issubclass(cls, BareforgeError)
    }
    assert phases == {
        "BareforgeError": "internal",
        "ConnectError": "connect",
        "AuthenticateError": "authenticate",
        "ReadError": "read",
        "ValidateError": "validate",
        "NotSupportedError": "validate",
        "ApplyError": "apply",
        "VerifyError": "verify",
        "GuardError": "guard",
    }
