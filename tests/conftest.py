# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What all tests share: where the collection, the lab and the test equipment are imported from, and our pytest plugin."""

from __future__ import annotations

import sys
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parents[1]

for folder in (ROOT, ROOT / "tests", ROOT / "collections"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def pytest_configure(config: pytest.Config) -> None:
    """Load our plugin; its name can be imported only now."""
    config.pluginmanager.import_plugin("capabilities.plugin")
    # How long an example takes says how busy the machine is, and a failure that depends on that helps nobody.
    hypothesis.settings.register_profile("bareforge", deadline=None)
    hypothesis.settings.load_profile("bareforge")
