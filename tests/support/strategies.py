# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Hypothesis strategies for documents, made from the model's schema by support/generator.py."""

from __future__ import annotations

import os
from typing import Any, Callable, Sequence

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.schema import Plain

from .documents import problems_on
from .generator import Generator
from .memory_platform import MemoryHost

# Shrinking a whole document takes minutes: it is done only on demand, by whoever looks into a failure.
PHASES = [Phase.explicit, Phase.generate, *([Phase.shrink] if os.environ.get("BAREFORGE_SHRINK") else [])]
SETTINGS = settings(
    max_examples=int(os.environ.get("BAREFORGE_EXAMPLES", "30")),
    deadline=None,
    derandomize=True,
    database=None,
    phases=PHASES,
    suppress_health_check=list(HealthCheck),
)


class DrawnChooser:
    """Choices drawn from Hypothesis, which can shrink them."""

    def __init__(self, draw: Callable[[Any], Any]) -> None:
        self.draw = draw

    def integer(self, minimum: int, maximum: int) -> int:
        return int(self.draw(st.integers(minimum, maximum)))

    def choice(self, options: Sequence[Any]) -> Any:
        return options[self.integer(0, len(options) - 1)]


@st.composite
def documents(draw: Callable[[Any], Any]) -> Plain:
    """Documents that are valid on an empty host."""
    generator = Generator(DrawnChooser(draw))
    return generator.repaired(generator.document(), problems_on(MemoryHost()))


@st.composite
def raw_documents(draw: Callable[[Any], Any]) -> Plain:
    """Documents that are right in every value and not necessarily as a whole."""
    return Generator(DrawnChooser(draw)).document()
