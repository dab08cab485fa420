# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Written by tests/tools/generate_documentation.py from the model; change the descriptions there.

from __future__ import annotations


class ModuleDocFragment:
    """The options of the module tuning."""

    DOCUMENTATION = r"""
options:
  hugepages:
    description:
      - The large pages that are set apart, for each size and NUMA node; those that were listed once and
        are not any more are given back.
      - A platform offers this by its capability C(tuning.hugepages).
    type: list
    elements: dict
    suboptions:
      size:
        description:
          - The size of a page, such as C(2 MiB) or C(1 GiB).
          - Allowed is a whole number of MiB from 1 to 67108864, or text such as '512 MiB', '2 GiB' or
            '1 TiB'.
        type: str
        required: true
      node:
        description:
          - The NUMA node that the pages lie on; V(0) on a host that has only one.
          - Allowed is a whole number from 0 to 1023.
        type: int
        required: true
      count:
        description:
          - How many pages; V(0) gives them back.
          - Allowed is a whole number from 0 to 2147483647.
          - The default is V(0).
        type: int
  transparent_hugepages:
    description:
      - 'Who gets large pages without asking for them by size: every process, those that say so, or nobody.'
      - A platform offers this by its capability C(tuning.transparent_hugepages).
    type: str
    choices:
      - always
      - madvise
      - never
  transparent_hugepages_defrag:
    description:
      - How hard the kernel tries to find a transparent large page when a process needs one.
      - A platform offers this by its capability C(tuning.transparent_hugepages).
    type: str
    choices:
      - always
      - defer
      - defer+madvise
      - madvise
      - never
  ksm:
    description:
      - Kernel samepage merging.
      - A platform offers this by its capability C(tuning.ksm).
    type: dict
    suboptions:
      enabled:
        description:
          - Whether equal pages are merged; V(false) also parts those that are merged already.
        type: bool
      pages_to_scan:
        description:
          - How many pages are looked at in a row.
          - Allowed is a whole number from 1 to 2147483647.
        type: int
      sleep_milliseconds:
        description:
          - How long to sleep between two such rows, in ms.
          - Allowed is a whole number from 0 to 2147483647 (ms).
        type: int
      merge_across_nodes:
        description:
          - Whether pages of different NUMA nodes are merged. To change it, all merged pages are parted
            first.
        type: bool
  numa_balancing:
    description:
      - Whether the kernel moves memory to the NUMA node whose processors use it.
      - A platform offers this by its capability C(tuning.numa_balancing).
    type: bool
  cpu_governor:
    description:
      - The governor that chooses the frequency of every processor.
      - Allowed is the name of a governor such as performance or schedutil.
      - A platform offers this by its capability C(tuning.cpu_governor).
    type: str
  swappiness:
    description:
      - How readily memory of processes is swapped out rather than the cache of files given up; V(100)
        weighs both the same.
      - Allowed is a whole number from 0 to 200.
      - A platform offers this by its capability C(tuning.overcommit).
    type: int
  overcommit:
    description:
      - 'Whether the kernel promises more memory than there is: unless it is obviously too much, always,
        or never more than swap and O(overcommit_ratio) percent of the memory.'
      - A platform offers this by its capability C(tuning.overcommit).
    type: str
    choices:
      - heuristic
      - always
      - never
  overcommit_ratio:
    description:
      - How much of the memory, in percent, is promised at most. It counts with O(overcommit=never); the
        kernel keeps it otherwise too.
      - Allowed is a whole number from 0 to 1000 (%).
      - A platform offers this by its capability C(tuning.overcommit).
    type: int
  vm_memory_limit:
    description:
      - How much of the host's memory all VMs may take together, without hugepages; V(0) is no limit.
      - Allowed is a whole number of MiB from 0 to 67108864, or text such as '512 MiB', '2 GiB' or '1
        TiB'.
      - A platform offers this by its capability C(tuning.overcommit).
    type: str
  state:
    description:
      - With V(present) the host is made to show what the options say; what they leave open stays as it
        is. With V(gathered) nothing is changed, and RV(tuning) tells what is there.
    type: str
    choices:
      - present
      - gathered
    default: present
"""
