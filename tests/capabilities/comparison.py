# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Compares what platforms declare with what shows it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

from capabilities.showings import Showing

Declared = Mapping[str, Collection[str]]


def problems_of_declaration(declared: Declared, showings: Iterable[Showing]) -> list[str]:
    """Return a sentence for every capability that nothing shows, and for everything shown that nobody declares.

    declared: the capabilities of every platform by its name.
    """
    shown: dict[tuple[str, str], list[str]] = defaultdict(list)
    for showing in showings:
        shown[showing.platform, showing.capability].append(showing.shown_by)
    problems = [
        f"{platform} declares {capability}, and no test or step of molecule shows it."
        for platform in sorted(declared)
        for capability in sorted(declared[platform])
        if (platform, capability) not in shown
    ]
    for (platform, capability), places in sorted(shown.items()):
        if platform not in declared:
            problems.append(f"{places[0]} shows {capability} of {platform}, which is no platform of the registry.")
        elif capability not in declared[platform]:
            problems.append(f"{places[0]} shows {capability}, which {platform} does not declare.")
    return problems


def problems_of_run(expected: Iterable[Showing], ran: Iterable[Showing]) -> list[str]:
    """Return a sentence for every showing that did not pass in a run.

    expected: what had to run.
    ran: what did, with its outcome.
    """
    outcomes: dict[Showing, str] = {}
    for showing in ran:
        outcomes[_without_outcome(showing)] = showing.outcome
    by_place: dict[tuple[str, str], list[Showing]] = defaultdict(list)
    for showing in expected:
        plain = _without_outcome(showing)
        outcome = outcomes.get(plain, "not run")
        if outcome != "passed":
            by_place[showing.shown_by, outcome].append(showing)
    words = {"failed": "failed", "skipped": "was skipped", "not run": "did not run"}
    return [
        f"{place} {words[outcome]}: it is to show {', '.join(sorted(showing.capability for showing in found))} "
        f"of {found[0].platform} ({found[0].ran_against})."
        for (place, outcome), found in sorted(by_place.items())
    ]


def _without_outcome(showing: Showing) -> Showing:
    return Showing(showing.platform, showing.capability, showing.ran_against, showing.shown_by)
