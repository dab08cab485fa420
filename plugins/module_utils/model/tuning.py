# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How a host shares its memory and processors among VMs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Tuple

from .schema import ModelObject, Nested, NestedList, Value, option
from .types import Boolean, Choice, Integer, Pattern, Size


@dataclass(frozen=True)
class Hugepages(ModelObject):
    """Large pages of one size that a NUMA node sets apart for VMs."""

    size: Optional[int] = option(Value(Size()), "The size of a page, such as C(2 MiB) or C(1 GiB).", key=True)
    node: Optional[int] = option(
        Value(Integer(0, 1023)), "The NUMA node that the pages lie on; V(0) on a host that has only one.", key=True
    )
    count: Optional[int] = option(Value(Integer(0, 2**31 - 1)), "How many pages; V(0) gives them back.", default=0)


@dataclass(frozen=True)
class Ksm(ModelObject):
    """Kernel samepage merging: equal pages of VMs are kept once."""

    enabled: Optional[bool] = option(
        Value(Boolean()), "Whether equal pages are merged; V(false) also parts those that are merged already."
    )
    pages_to_scan: Optional[int] = option(Value(Integer(1, 2**31 - 1)), "How many pages are looked at in a row.")
    sleep_milliseconds: Optional[int] = option(
        Value(Integer(0, 2**31 - 1, "ms")), "How long to sleep between two such rows, in ms."
    )
    merge_across_nodes: Optional[bool] = option(
        Value(Boolean()),
        "Whether pages of different NUMA nodes are merged. To change it, all merged pages are parted first.",
    )


@dataclass(frozen=True)
class Tuning(ModelObject):
    """How a host shares its memory and processors among VMs. What was not said is left as the host has it."""

    KIND = "tuning"
    DESCRIPTION = "How the host shares its memory and processors among VMs."

    hugepages: Optional[Tuple[Hugepages, ...]] = option(
        NestedList(Hugepages, ordered=False),
        "The large pages that are set apart, for each size and NUMA node; those that were listed once and are not any more "
        "are given back.",
        capability="tuning.hugepages",
    )
    transparent_hugepages: Optional[str] = option(
        Value(Choice("always", "madvise", "never")),
        "Who gets large pages without asking for them by size: every process, those that say so, or nobody.",
        capability="tuning.transparent_hugepages",
    )
    transparent_hugepages_defrag: Optional[str] = option(
        Value(Choice("always", "defer", "defer+madvise", "madvise", "never")),
        "How hard the kernel tries to find a transparent large page when a process needs one.",
        capability="tuning.transparent_hugepages",
    )
    ksm: Optional[Ksm] = option(Nested(Ksm), "Kernel samepage merging.", capability="tuning.ksm")
    numa_balancing: Optional[bool] = option(
        Value(Boolean()),
        "Whether the kernel moves memory to the NUMA node whose processors use it.",
        capability="tuning.numa_balancing",
    )
    cpu_governor: Optional[str] = option(
        Value(Pattern(r"[a-z][a-z_]{0,31}", "the name of a governor such as performance or schedutil")),
        "The governor that chooses the frequency of every processor.",
        capability="tuning.cpu_governor",
    )
    swappiness: Optional[int] = option(
        Value(Integer(0, 200)),
        "How readily memory of processes is swapped out rather than the cache of files given up; V(100) weighs both the same.",
        capability="tuning.overcommit",
    )
    overcommit: Optional[str] = option(
        Value(Choice("heuristic", "always", "never")),
        "Whether the kernel promises more memory than there is: unless it is obviously too much, always, or never more than "
        "swap and O(overcommit_ratio) percent of the memory.",
        capability="tuning.overcommit",
    )
    overcommit_ratio: Optional[int] = option(
        Value(Integer(0, 1000, "%")),
        "How much of the memory, in percent, is promised at most. It counts with O(overcommit=never); the kernel keeps it "
        "otherwise too.",
        capability="tuning.overcommit",
    )
    vm_memory_limit: Optional[int] = option(
        Value(Size(minimum=0)),
        "How much of the host's memory all VMs may take together, without hugepages; V(0) is no limit.",
        capability="tuning.overcommit",
    )
