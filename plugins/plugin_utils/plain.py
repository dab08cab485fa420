# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From the values that Ansible hands out to plain ones, and from plain data to the text of a difference."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

import yaml

try:
    from yaml import CSafeDumper as SafeDumper
except ImportError:  # PyYAML can be built without libyaml
    from yaml import SafeDumper  # type: ignore[assignment]


def plain(value: Any) -> Any:
    """Return a value as str, int, float, bool, None, list and dict.

    Since ansible-core 2.19 values may be subclasses that carry tags, and containers that template when they are read;
    neither pickle nor YAML nor an SDK should meet them. Dates, which YAML makes of unquoted ones, become their text in
    ISO 8601. Anything else is returned as it is, for the model to refuse.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, Mapping):
        return {plain(name): plain(element) for name, element in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(element) for element in value]
    if isinstance(value, (datetime.date, datetime.datetime)):
        return value.isoformat()
    return value


def as_text(document: Any) -> str:
    """Return a document as YAML, for a difference; nothing for an empty one, so that all that is new stands alone."""
    if not document:
        return ""
    return yaml.dump(plain(document), Dumper=SafeDumper, sort_keys=False, allow_unicode=True, default_flow_style=False)
