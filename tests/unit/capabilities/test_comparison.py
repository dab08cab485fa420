# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is declared against what shows it, and what had to run against what did."""

from __future__ import annotations

import dataclasses

from capabilities.comparison import problems_of_declaration, problems_of_run
from capabilities.showings import Showing

LINKED = Showing("kvm", "vm.clone.linked", "real", "tests/real/test_vm.py::test_clone")


def test_everything_declared_and_shown_is_fine() -> None:
    assert problems_of_declaration({"kvm": {"vm.clone.linked"}}, [LINKED]) == []


def test_declared_without_a_test_is_named() -> None:
    (problem,) = problems_of_declaration({"kvm": {"vm.clone.linked", "vm.tpm"}}, [LINKED])
    assert problem == "kvm declares vm.tpm, and no test or step of molecule shows it."


def test_shown_without_a_declaration_is_named() -> None:
    (problem,) = problems_of_declaration({"kvm": set()}, [LINKED])
    assert problem == "tests/real/test_vm.py::test_clone shows vm.clone.linked, which kvm does not declare."


def test_unknown_platform_is_named() -> None:
    (problem,) = problems_of_declaration({}, [LINKED])
    assert "kvm, which is no platform of the registry" in problem


def test_what_ran_and_passed_is_fine() -> None:
    assert problems_of_run([LINKED], [dataclasses.replace(LINKED, outcome="passed")]) == []


def test_skipped_failed_and_absent_are_told_apart() -> None:
    for outcome, words in (("skipped", "was skipped"), ("failed", "failed"), ("not run", "did not run")):
        (problem,) = problems_of_run([LINKED], [dataclasses.replace(LINKED, outcome=outcome)])
        assert problem.startswith(f"tests/real/test_vm.py::test_clone {words}: ")
    (problem,) = problems_of_run([LINKED], [])
    assert "did not run" in problem


def test_another_test_of_the_same_capability_does_not_count() -> None:
    other = Showing("kvm", "vm.clone.linked", "real", "tests/real/test_vm.py::test_other", "passed")
    assert problems_of_run([LINKED], [other])
