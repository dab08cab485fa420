# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a wanted tuning is in the files of a Linux host: those of the kernel, and those that set them again at every start.

Sources: the kernel's Documentation/admin-guide/mm (hugetlbpage, ksm, transhuge) and sysctl/vm.rst, sysctl.d(5), tmpfiles.d(5),
systemd.resource-control(5).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Iterator, List, Optional, Tuple

from ...model.tuning import Hugepages, Tuning

SYSCTL_FILE = "etc/sysctl.d/80-bareforge-tuning.conf"
TMPFILES_FILE = "etc/tmpfiles.d/bareforge-tuning.conf"
SLICE_FILE = "etc/systemd/system/machine.slice.d/bareforge-tuning.conf"
GRUB_FILE = "etc/default/grub.d/80-bareforge-tuning.cfg"
FILES = (SYSCTL_FILE, TMPFILES_FILE, SLICE_FILE, GRUB_FILE)
"""All below the root of the file system, without the slash in front."""

UNIT = "bareforge-tuning.service"
UNIT_WANTED_BY = "multi-user.target"
MOUNT_WANTED_BY = "sysinit.target"

KSM = "sys/kernel/mm/ksm"
TRANSPARENT = "sys/kernel/mm/transparent_hugepage"
GOVERNORS = "sys/devices/system/cpu/cpu[0-9]*/cpufreq"
NODES = "sys/devices/system/node"
WITHOUT_NODES = "sys/kernel/mm/hugepages"
SLICE = "sys/fs/cgroup/machine.slice"

GIGANTIC_MIB = 1024
"""Pages of this size and above take contiguous memory that the page allocator has none of: only an early start is sure of it."""

OVERCOMMIT = {"heuristic": "0", "always": "1", "never": "2"}
WRITTEN_BY = "# Written by Bareforge; change it with the module tuning."


@dataclass(frozen=True)
class KernelFile:
    """A file of the kernel and what is written to it.

    field: the field of Tuning that it is for, by its path there. path: below the root; `*` and `[0-9]` stand for names.
    text: what is written to it.
    """

    field: str
    path: str
    text: str


def hugepages_path(entry: Hugepages, with_nodes: bool) -> str:
    """Return the file that says how many pages a node has.

    with_nodes: whether the kernel tells its NUMA nodes.
    """
    folder = f"{NODES}/node{entry.node}/hugepages" if with_nodes else WITHOUT_NODES
    return f"{folder}/hugepages-{(entry.size or 0) * 1024}kB/nr_hugepages"


def hugepages_field(entry: Hugepages) -> str:
    """Return the path of an entry below Tuning."""
    return f"hugepages[{entry.size}/{entry.node}]"


def kernel_files(tuning: Tuning, with_nodes: bool) -> List[KernelFile]:
    """Return what is written to the kernel for what a tuning says, in the order in which it is."""
    return [
        KernelFile(field, path, text)
        for field, path, text in (
            *_memory(tuning),
            *_ksm(tuning),
            *_hugepages(tuning, with_nodes),
            *_processors(tuning),
        )
        if text is not None
    ]


def _flag(value: Optional[bool]) -> Optional[str]:
    return None if value is None else str(int(value))


def _number(value: Optional[int]) -> Optional[str]:
    return None if value is None else str(value)


Line = Tuple[str, str, Optional[str]]


def _memory(tuning: Tuning) -> Iterator[Line]:
    yield "swappiness", "proc/sys/vm/swappiness", _number(tuning.swappiness)
    # The ratio first: with `never` it counts from the very moment.
    yield "overcommit_ratio", "proc/sys/vm/overcommit_ratio", _number(tuning.overcommit_ratio)
    yield "overcommit", "proc/sys/vm/overcommit_memory", OVERCOMMIT[tuning.overcommit] if tuning.overcommit else None
    yield "numa_balancing", "proc/sys/kernel/numa_balancing", _flag(tuning.numa_balancing)
    yield "transparent_hugepages", f"{TRANSPARENT}/enabled", tuning.transparent_hugepages
    yield "transparent_hugepages_defrag", f"{TRANSPARENT}/defrag", tuning.transparent_hugepages_defrag


def _ksm(tuning: Tuning) -> Iterator[Line]:
    if tuning.ksm is not None:
        # Which pages may be merged is settled before any is.
        yield "ksm.merge_across_nodes", f"{KSM}/merge_across_nodes", _flag(tuning.ksm.merge_across_nodes)
        yield "ksm.pages_to_scan", f"{KSM}/pages_to_scan", _number(tuning.ksm.pages_to_scan)
        yield "ksm.sleep_milliseconds", f"{KSM}/sleep_millisecs", _number(tuning.ksm.sleep_milliseconds)
        yield "ksm.enabled", f"{KSM}/run", _flag(tuning.ksm.enabled)


def _hugepages(tuning: Tuning, with_nodes: bool) -> Iterator[Line]:
    # Large ones first: small ones would break up the room that they need.
    for entry in sorted(tuning.hugepages or (), key=lambda entry: (-(entry.size or 0), entry.node or 0)):
        yield hugepages_field(entry), hugepages_path(entry, with_nodes), _number(entry.count)


def _processors(tuning: Tuning) -> Iterator[Line]:
    yield "cpu_governor", f"{GOVERNORS}/scaling_governor", tuning.cpu_governor


def boot_files(tuning: Tuning, with_nodes: bool, several_nodes: bool) -> Dict[str, Optional[str]]:
    """Return the text of each of FILES, None for one that is not needed.

    several_nodes: whether the host has more than one NUMA node.
    """
    sysctls: List[str] = []
    others: List[str] = []
    for each in kernel_files(tuning, with_nodes):
        if each.path.startswith("proc/sys/"):
            sysctls.append(f"{each.path[len('proc/sys/') :].replace('/', '.')} = {each.text}")
        else:
            others.append(f"w /{each.path} - - - - {each.text}")
    arguments = kernel_arguments(tuning, several_nodes)
    return {
        SYSCTL_FILE: _file(sysctls),
        TMPFILES_FILE: _file(others),
        SLICE_FILE: _file(["[Slice]", f"MemoryMax={tuning.vm_memory_limit}M"] if tuning.vm_memory_limit else []),
        GRUB_FILE: _file([f'GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX {" ".join(arguments)}"'] if arguments else []),
    }


def _file(lines: List[str]) -> Optional[str]:
    return "\n".join([WRITTEN_BY, *lines, ""]) if lines else None


def kernel_arguments(tuning: Tuning, several_nodes: bool) -> List[str]:
    """Return the arguments of the kernel's command line that set gigantic pages apart (kernel-parameters.txt, hugepages=)."""
    by_size: Dict[int, List[Hugepages]] = {}
    for entry in tuning.hugepages or ():
        if (entry.size or 0) >= GIGANTIC_MIB and entry.count:
            by_size.setdefault(entry.size or 0, []).append(entry)
    arguments: List[str] = []
    for size, entries in sorted(by_size.items()):
        if several_nodes:
            counts = ",".join(f"{entry.node}:{entry.count}" for entry in sorted(entries, key=lambda entry: entry.key))
        else:
            counts = str(sum(entry.count or 0 for entry in entries))
        arguments += [f"hugepagesz={size_word(size)}", f"hugepages={counts}"]
    return arguments


def size_word(mib: int) -> str:
    """Return a size as the kernel and mount options have it, such as 2M or 1G."""
    return f"{mib // 1024}G" if mib % 1024 == 0 else f"{mib}M"


def mount_unit_name(mib: int) -> str:
    """Return the unit that mounts the pages of a size which is not the kernel's default one."""
    return f"dev-hugepages{size_word(mib)}.mount"


def mount_unit(mib: int) -> str:
    """Return the text of that unit. libvirt finds the mount by itself and makes its own folders in it."""
    word = size_word(mib)
    return f"""\
{WRITTEN_BY}
[Unit]
Description=Huge pages of {word} for virtual machines
DefaultDependencies=no
Before=sysinit.target
ConditionPathExists=/sys/kernel/mm/hugepages/hugepages-{mib * 1024}kB
ConditionCapability=CAP_SYS_ADMIN

[Mount]
What=hugetlbfs
Where=/dev/hugepages{word}
Type=hugetlbfs
Options=pagesize={word},mode=755

[Install]
WantedBy={MOUNT_WANTED_BY}
"""


def late_unit() -> str:
    """Return the text of the unit that sets what the early start has set once more, when the rest is up.

    systemd-tmpfiles-setup.service runs early, where memory is still in one piece. Drivers of the processors' frequency may
    load after it, and units of distributions, which this one follows, set KSM anew.
    """
    return f"""\
{WRITTEN_BY}
[Unit]
Description=Memory and processors for virtual machines
After=qemu-kvm.service ksm.service ksmtuned.service sysfsutils.service cpufrequtils.service loadcpufreq.service
ConditionPathExists=/{TMPFILES_FILE}

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/bin/systemd-tmpfiles --create /{TMPFILES_FILE}

[Install]
WantedBy={UNIT_WANTED_BY}
"""
