# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The documentation's tables."""

from __future__ import annotations

import pytest

from capabilities.showings import Showing
from capabilities.table import TableError, between_markers, page, summary

DECLARED = {"kvm": {"vm", "vm.tpm", "template"}, "esxi": {"vm"}}
SHOWINGS = [
    Showing("kvm", "vm", "our simulator", "tests/unit/test_vm.py::test_it[a]"),
    Showing("kvm", "vm", "real", "tests/real/test_vm.py::test_it"),
    Showing("kvm", "vm.tpm", "our simulator", "tests/unit/test_vm.py::test_tpm"),
    Showing("kvm", "template", "real", "molecule/kvm: Templates are there"),
    Showing("esxi", "vm", "independent simulator", "tests/contract/test_vm.py::test_it[esxi]"),
]


def test_summary_counts_what_proves_most() -> None:
    lines = summary(DECLARED, SHOWINGS).splitlines()
    assert lines[0] == "|  | esxi | kvm |"
    assert lines[2:4] == [
        "| `template` | – | real (1) |",
        "| `vm` | independent simulator (1) | real (1), our simulator (1) |",
    ]


def test_page_names_what_shows_each_capability() -> None:
    text = page(DECLARED, SHOWINGS)
    assert "| `vm.tpm` | – | our simulator |" in text
    assert "- `vm`: tests/real/test_vm.py::test_it (real); tests/unit/test_vm.py::test_it (our simulator)" in text


def test_what_nothing_shows_is_said() -> None:
    assert "| `vm` | not shown |" in page({"kvm": {"vm"}}, [])
    assert "not shown (1)" in summary({"kvm": {"vm"}}, [])


def test_only_what_stands_between_the_markers_is_replaced() -> None:
    text = "above\n<!-- capabilities:begin -->\nold\n<!-- capabilities:end -->\nbelow\n"
    new = between_markers(text, "new\n", "README.md")
    assert new == "above\n<!-- capabilities:begin -->\nnew\n<!-- capabilities:end -->\nbelow\n"
    assert between_markers(new, "new\n", "README.md") == new


def test_file_without_markers_is_refused() -> None:
    with pytest.raises(TableError, match=r"README\.md lacks"):
        between_markers("nothing", "new\n", "README.md")
