# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Answering a request on the host that came over Ansible's connection outside of a module."""

from __future__ import annotations

import json
import sys
from typing import Any, Callable, Mapping

from ..model.schema import Plain
from .code_cache import use_code_cache

MARK = "BAREFORGE-ANSWER "
"""What the line with the answer begins with, since a login shell may print lines of its own."""


def main(answer: Callable[[Mapping[str, Any]], Plain], request: Mapping[str, Any]) -> None:
    """Print the answer to a request as one line of JSON."""
    use_code_cache()
    text = json.dumps(answer(request))
    sys.stdout.write(f"\n{MARK}{text}\n")
    sys.stdout.flush()
