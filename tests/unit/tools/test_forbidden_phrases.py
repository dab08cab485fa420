# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Phrases that hide failures or changes are found, unless the line is listed."""

from __future__ import annotations

import pytest
from forbidden_phrases import findings


@pytest.mark.parametrize(
    "line",
    [
        "  ignore_errors: true",
        "- ignore_errors: yes",
        "  changed_when: false",
        "  failed_when: false",
        "    except:",
        "run(x, shell=True)",
        "  validate_certs: false",
    ],
)
def test_phrase_is_found_where_it_stands(line: str) -> None:
    (found,) = findings({"tasks/main.yml": f"first\n{line}\n"}, {})
    assert found.startswith("tasks/main.yml:2: ")


@pytest.mark.parametrize("line", ["changed_when: false_positive", "changed_when: result.rc == 3", "except OSError:"])
def test_what_only_looks_like_it_is_not(line: str) -> None:
    assert findings({"tasks/main.yml": line}, {}) == []


def test_listed_line_passes_in_its_file_only() -> None:
    allowed = {"a.yml": {"changed_when: false": "only reads"}}
    assert findings({"a.yml": "    changed_when: false"}, allowed) == []
    assert len(findings({"a.yml": "changed_when: false", "b.yml": "changed_when: false"}, allowed)) == 1


def test_permission_that_nothing_needs_is_found() -> None:
    (found,) = findings({"a.yml": "nothing"}, {"a.yml": {"changed_when: false": "only reads"}})
    assert "is allowed and does not occur" in found
