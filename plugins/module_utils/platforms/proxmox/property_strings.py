# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The values of a VM's configuration that hold several things: `virtio=BC:24:11:..,bridge=vmbr0,tag=10` and the like."""

from __future__ import annotations

import re
from typing import Any, Dict, Mapping, Tuple

from ...model.types import range_bounds

NIC_MODELS = (
    "virtio",
    "e1000",
    "e1000e",
    "vmxnet3",
    "rtl8139",
    "e1000-82540em",
    "e1000-82544gc",
    "e1000-82545em",
    "i82551",
    "i82557b",
    "i82559er",
    "ne2k_isa",
    "ne2k_pci",
    "pcnet",
)
SIZES = {"": 1 / 1048576, "K": 1 / 1024, "M": 1, "G": 1024, "T": 1048576}
"""How many MiB the units of PVE's sizes are."""


def split(text: Any, first: str) -> Dict[str, str]:
    """Return the parts of a property string by name.

    first: the name of the part that may stand without one.
    """
    parts: Dict[str, str] = {}
    for part in str(text or "").split(","):
        name, equals, value = part.partition("=")
        if equals:
            parts[name] = value
        elif part:
            parts[first] = part
    return parts


def join(parts: Mapping[str, Any], first: str) -> str:
    """Return a property string; parts that are None or empty are left out, and the first one stands without its name."""
    given = {name: value for name, value in parts.items() if value not in (None, "")}
    texts = [str(given.pop(first))] if first in given else []
    texts.extend(f"{name}={value}" for name, value in given.items())
    return ",".join(texts)


def mebibytes(text: Any) -> int:
    """Return a size of PVE, such as 32G or 528K, in MiB, rounded up as a disk of a fraction takes a whole one."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)", str(text or "0"))
    if not found:
        return 0
    size = float(found.group(1)) * SIZES[found.group(2)]
    return int(size) if size == int(size) else int(size) + 1


def gibibytes(size: int) -> str:
    """Return MiB as the number of GiB that a new disk is asked for with."""
    text = f"{size / 1024:.10f}".rstrip("0").rstrip(".")
    return text or "0"


def split_nic(text: Any) -> Dict[str, str]:
    """Return the parts of a network adapter, with `model` and `macaddr` apart."""
    parts = split(text, "model")
    for model in NIC_MODELS:
        if model in parts:
            parts["macaddr"] = parts.pop(model)
            parts["model"] = model
    return parts


def join_nic(parts: Mapping[str, Any]) -> str:
    """Return a network adapter as PVE writes it."""
    rest = {name: parts[name] for name in sorted(parts) if name not in ("model", "macaddr")}
    return join({str(parts["model"]): parts.get("macaddr"), **rest}, "")


def trunk_text(trunk: Tuple[str, ...]) -> str:
    """Return VLANs and ranges as the `trunks` of an adapter."""
    return ";".join(sorted(trunk, key=range_bounds))


def trunk_of(text: Any) -> Tuple[str, ...]:
    """Return the `trunks` of an adapter as the model keeps them."""
    return tuple(sorted(part for part in str(text or "").split(";") if part))
