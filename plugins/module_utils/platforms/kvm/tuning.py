# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How a KVM host shares its memory and processors: set at once, and by files of its own again at every start.

Only what was asked for is ever set. It is written down, since the kernel has a value for everything and does not tell which were
chosen; what the kernel or the files show otherwise since then counts as changed. Nothing here starts a process but a
change of the boot loader, of units, and of the VMs' slice.
"""

from __future__ import annotations

import dataclasses
import glob
import os
import re
from typing import Any, Callable, Collection, Dict, Iterator, List, Mapping, Optional, Sequence, Set

from ...engine.change import Change
from ...engine.platform import Context, Interface
from ...errors import ApplyError, Problem
from ...model.document import State
from ...model.schema import Path, shown_as
from ...model.tuning import Hugepages, Tuning
from ...model.types import show
from ..linux import programs
from . import systemd
from . import tuning_files as files_of
from .tuning_files import KernelFile

RECORD_FILE = "/var/lib/bareforge/tuning.json"
UPDATE_GRUB = "/usr/sbin/update-grub"
GRUB_CONFIGURATION = "/boot/grub/grub.cfg"
KSMTUNED = "/etc/systemd/system/multi-user.target.wants/ksmtuned.service"
HOST_RESERVE_MIB = 512
ATTEMPTS = 3
UNMERGE = "2"


class KvmTuning(Interface):
    """Reads and changes how a KVM host shares its memory and processors.

    root: where the host's file system begins.
    """

    KINDS = ("tuning",)
    CAPABILITIES = frozenset(
        {
            "tuning",
            "tuning.hugepages",
            "tuning.transparent_hugepages",
            "tuning.ksm",
            "tuning.numa_balancing",
            "tuning.cpu_governor",
            "tuning.overcommit",
        }
    )

    def __init__(self, platform: Any, root: str = "/") -> None:
        self.platform = platform
        self.root = root

    # -- Reading ---------------------------------------------------------------------------------------------------

    def read(self, kinds: Collection[str], names: Mapping[str, Collection[str]]) -> State:
        asked = self._recorded()
        wrong = set(self._fields_that_differ(asked))
        return {"tuning": {(): _without(asked, wrong) if wrong else asked}}

    def _recorded(self) -> Tuning:
        record = programs.read_record(self._path(RECORD_FILE))
        return Tuning.parse(record)

    def _fields_that_differ(self, asked: Tuning) -> Iterator[str]:
        """Yield the fields that the kernel, or a file for the next start, has otherwise than they were asked for."""
        for path, text in self._boot_files(asked).items():
            if programs.read_text(self._path(path)) != text:
                yield from (name for name in FIELDS_OF_FILE[path](asked))
        if self._has_unit_files() != bool(asked.to_document()):
            yield from asked.to_document()
        for each in files_of.kernel_files(asked, self._has_nodes()):
            if self.kernel_value(each.path) != each.text and not self._comes_with_the_next_start(asked, each):
                yield each.field
        for size in self._mounted_sizes(asked):
            if programs.read_text(self._unit_path(files_of.mount_unit_name(size))) != files_of.mount_unit(size):
                yield "hugepages"
        if asked.vm_memory_limit is not None and self._slice_limit() not in (None, asked.vm_memory_limit):
            yield "vm_memory_limit"

    def _comes_with_the_next_start(self, asked: Tuning, each: KernelFile) -> bool:
        """Return whether gigantic pages wait for a start with a command line that this one did not have yet."""
        entry = next((entry for entry in asked.hugepages or () if files_of.hugepages_field(entry) == each.field), None)
        return entry is not None and (entry.size or 0) >= files_of.GIGANTIC_MIB and self.waits_for_start(asked)

    def waits_for_start(self, asked: Optional[Tuning] = None) -> bool:
        """Return whether the boot loader has arguments of ours that the running kernel was not started with."""
        wanted = files_of.kernel_arguments(asked or self._recorded(), self._has_several_nodes())
        if not wanted or programs.read_text(self._path(files_of.GRUB_FILE)) is None:
            return False
        line = f" {' '.join((programs.read_text(self._path('proc/cmdline')) or '').split())} "
        return f" {' '.join(wanted)} " not in line

    def kernel_value(self, path: str) -> Optional[str]:
        """Return what a file of the kernel says, or None where it is not there or several say different things.

        path: below the root; of a choice in brackets, as in `always [madvise] never`, the one that counts is returned.
        """
        found: Set[str] = set()
        for name in self._matching(path):
            text = (programs.read_text(name) or "").strip()
            chosen = re.search(r"\[([^\]]*)\]", text)
            found.add(chosen.group(1) if chosen else text)
        value = found.pop() if len(found) == 1 else None
        # What was merged is parted while KSM is off in this way.
        return "0" if value == UNMERGE and path == f"{files_of.KSM}/run" else value

    def _matching(self, path: str) -> List[str]:
        full = self._path(path)
        return sorted(glob.glob(full)) if "*" in path else [full] if os.path.exists(full) else []

    def _path(self, path: str) -> str:
        return os.path.join(self.root, path.lstrip("/"))

    def _unit_path(self, name: str) -> str:
        return f"{systemd.UNIT_FOLDER}/{name}"

    def _has_unit_files(self) -> bool:
        return programs.read_text(self._unit_path(files_of.UNIT)) == files_of.late_unit()

    def _has_nodes(self) -> bool:
        return os.path.isdir(self._path(f"{files_of.NODES}/node0"))

    def nodes(self) -> List[int]:
        """Return the numbers of the host's NUMA nodes; 0 alone where the kernel knows none."""
        found = glob.glob(self._path(f"{files_of.NODES}/node[0-9]*"))
        return sorted(int(os.path.basename(path)[len("node") :]) for path in found) or [0]

    def _has_several_nodes(self) -> bool:
        return len(self.nodes()) > 1

    def page_sizes(self) -> List[int]:
        """Return the sizes of large pages that the processors and the kernel offer, in MiB."""
        found = glob.glob(self._path(f"{files_of.WITHOUT_NODES}/hugepages-*kB"))
        return sorted(int(os.path.basename(path)[len("hugepages-") : -len("kB")]) // 1024 for path in found)

    def default_page_size(self) -> int:
        """Return the size of the large pages that /dev/hugepages has, in MiB; 0 where the kernel has none."""
        return _meminfo(programs.read_text(self._path("proc/meminfo")) or "", "Hugepagesize")

    def memory_of_node(self, node: int) -> int:
        """Return the memory of a NUMA node in MiB."""
        if not self._has_nodes():
            return _meminfo(programs.read_text(self._path("proc/meminfo")) or "", "MemTotal")
        return _meminfo(programs.read_text(self._path(f"{files_of.NODES}/node{node}/meminfo")) or "", "MemTotal")

    def _slice_limit(self) -> Optional[int]:
        """Return the limit of all VMs in MiB as the kernel has it, 0 for none; None where no VM has run yet."""
        text = (programs.read_text(self._path(f"{files_of.SLICE}/memory.max")) or "").strip()
        return 0 if text == "max" else int(text) // 1024 // 1024 if text else None

    def _mounted_sizes(self, tuning: Tuning) -> List[int]:
        """Return the sizes of pages that take a mount of their own, since the system mounts the default one only."""
        default = self.default_page_size()
        return sorted({entry.size or 0 for entry in tuning.hugepages or () if entry.count and entry.size != default})

    def _boot_files(self, tuning: Tuning) -> Dict[str, Optional[str]]:
        texts = files_of.boot_files(tuning, self._has_nodes(), self._has_several_nodes())
        if not self._has_grub():
            texts[files_of.GRUB_FILE] = None
        return texts

    def _has_grub(self) -> bool:
        return os.path.exists(self._path(UPDATE_GRUB)) and os.path.exists(self._path(GRUB_CONFIGURATION))

    # -- Before a change -------------------------------------------------------------------------------------------

    def validate(self, change: Change, context: Context) -> Iterator[Problem]:
        wanted = change.after
        if not isinstance(wanted, Tuning):
            return
        changed = {re.split(r"[.\[]", field)[0] for field in change.fields}
        checks: Mapping[str, Callable[[Tuning, Path], Iterator[Problem]]] = {
            "hugepages": self._problems_of_hugepages,
            "ksm": self._problems_of_ksm,
            "cpu_governor": self._problems_of_governor,
            "vm_memory_limit": self._problems_of_limit,
        }
        for field, check in checks.items():
            if field in changed:
                yield from check(wanted, wanted.place.field(field))
        for each in files_of.kernel_files(wanted, self._has_nodes()):
            if each.field.partition("[")[0] in ("hugepages", "cpu_governor"):
                continue
            if re.split(r"[.\[]", each.field)[0] in changed and not self._matching(each.path):
                yield Problem(wanted.place.inner(each.field).text, f"the host's kernel has no /{each.path}")

    def _problems_of_hugepages(self, wanted: Tuning, place: Path) -> Iterator[Problem]:
        nodes, sizes = self.nodes(), self.page_sizes()
        taken: Dict[int, int] = {}
        for entry in wanted.hugepages or ():
            at = place.item(f"{entry.size}/{entry.node}")
            if entry.size not in sizes:
                offered = ", ".join(f"{size} MiB" for size in sizes) or "none"
                yield Problem(at.field("size").text, f"{entry.size} MiB is not offered here; offered are: {offered}")
            elif entry.node not in nodes:
                there = ", ".join(str(node) for node in nodes)
                yield Problem(at.field("node").text, f"the host has no NUMA node {entry.node}; it has: {there}")
            else:
                taken[entry.node] = taken.get(entry.node, 0) + (entry.size or 0) * (entry.count or 0)
                used = self._pages_in_use(entry)
                if (entry.count or 0) < used:
                    yield Problem(
                        at.field("count").text, f"{entry.count} is too few: {used} pages are in use by VMs now"
                    )
        for node, mib in taken.items():
            total = self.memory_of_node(node)
            reserve = HOST_RESERVE_MIB // len(nodes)
            if mib > total - reserve:
                yield Problem(
                    place.text,
                    f"{mib} MiB on NUMA node {node} are too many, of {total} MiB of which the host needs {reserve} MiB",
                )
        for entry in self._given_back(wanted):
            used = self._pages_in_use(entry)
            if used:
                yield Problem(
                    place.text,
                    f"leaves out those of {entry.size} MiB on NUMA node {entry.node}, of which {used} are in use by VMs now",
                )

    def _given_back(self, wanted: Tuning) -> List[Hugepages]:
        """Return what was asked for once and is not any more."""
        listed = {entry.key for entry in wanted.hugepages or ()}
        return [entry for entry in self._recorded().hugepages or () if entry.key not in listed]

    def _pages_in_use(self, entry: Hugepages) -> int:
        path = files_of.hugepages_path(entry, self._has_nodes())
        folder = os.path.dirname(self._path(path))
        total, free = (
            _whole(programs.read_text(os.path.join(folder, name))) for name in ("nr_hugepages", "free_hugepages")
        )
        return max(0, total - free)

    def _problems_of_ksm(self, wanted: Tuning, place: Path) -> Iterator[Problem]:
        if os.path.lexists(self._path(KSMTUNED)):
            yield Problem(
                place.text, "ksmtuned.service, which sets KSM by itself, starts with the host; disable it first"
            )

    def _problems_of_governor(self, wanted: Tuning, place: Path) -> Iterator[Problem]:
        offered = self.governors()
        if wanted.cpu_governor not in offered:
            there = (
                f"offered are: {', '.join(offered)}"
                if offered
                else "the processors' frequency is not the kernel's to choose"
            )
            yield Problem(place.text, f"{show(wanted.cpu_governor)} is not offered here; {there}")

    def governors(self) -> List[str]:
        """Return the governors that every processor offers."""
        each = [
            set((programs.read_text(path) or "").split())
            for path in self._matching(f"{files_of.GOVERNORS}/scaling_available_governors")
        ]
        return sorted(set.intersection(*each)) if each else []

    def _problems_of_limit(self, wanted: Tuning, place: Path) -> Iterator[Problem]:
        limit = wanted.vm_memory_limit
        if not limit:
            return
        total = _meminfo(programs.read_text(self._path("proc/meminfo")) or "", "MemTotal")
        used = _whole(programs.read_text(self._path(f"{files_of.SLICE}/memory.current"))) // 1024 // 1024
        if limit > total:
            yield Problem(place.text, f"{limit} MiB are more than the host's memory of {total} MiB")
        elif limit < used:
            yield Problem(place.text, f"{limit} MiB are less than the {used} MiB that VMs take now")

    # -- Changing --------------------------------------------------------------------------------------------------

    def apply(self, changes: Sequence[Change], context: Context) -> None:
        for change in changes:
            context.begin(change)
            if isinstance(change.after, Tuning):
                self._make(change.after, context)
            context.done(change)

    def _make(self, wanted: Tuning, context: Context) -> None:
        given_back = self._given_back(wanted)
        obsolete = set(self._mounted_sizes(self._recorded())) - set(self._mounted_sizes(wanted))
        for entry in given_back:
            self._set_hugepages(dataclasses.replace(entry, count=0), wanted, context)
        self._write_boot_files(wanted)
        for each in files_of.kernel_files(wanted, self._has_nodes()):
            pages = next(
                (item for item in wanted.hugepages or () if files_of.hugepages_field(item) == each.field), None
            )
            if pages is not None:
                self._set_hugepages(pages, wanted, context)
            elif self.kernel_value(each.path) != each.text:
                self._set(each)
        self._keep_mounts(wanted, obsolete)
        # Last: until it says so, another run finds what is left to do.
        programs.write_record(self._path(RECORD_FILE), wanted.to_document())

    def _write_boot_files(self, wanted: Tuning) -> None:
        changed = []
        for path, text in self._boot_files(wanted).items():
            if programs.read_text(self._path(path)) != text:
                changed.append(path)
                if text is None:
                    programs.remove(self._path(path))
                else:
                    programs.write_text(self._path(path), text)
        if files_of.GRUB_FILE in changed or self._grub_is_behind():
            programs.run(
                [self._path(UPDATE_GRUB)], what="the boot loader's configuration could not be written", timeout=300
            )
        if not self._has_unit_files():
            systemd.write_boot_unit(files_of.UNIT, files_of.late_unit(), files_of.UNIT_WANTED_BY)
        limit = wanted.vm_memory_limit
        if files_of.SLICE_FILE in changed or (limit is not None and self._slice_limit() not in (None, limit)):
            systemd.systemctl("daemon-reload")

    def _grub_is_behind(self) -> bool:
        """Return whether a killed run has written arguments that the boot loader does not have yet."""
        if not self._has_grub():
            return False
        ours = programs.read_text(self._path(files_of.GRUB_FILE))
        arguments = re.search(r"GRUB_CMDLINE_LINUX (hugepagesz=[^\"]*)\"", ours or "")
        configuration = programs.read_text(self._path(GRUB_CONFIGURATION)) or ""
        return arguments is not None and arguments.group(1) not in configuration

    def _set(self, each: KernelFile) -> None:
        if each.field == "ksm.merge_across_nodes":
            # The kernel refuses it as long as pages are merged.
            run = KernelFile("ksm.enabled", f"{files_of.KSM}/run", UNMERGE)
            before = self.kernel_value(run.path)
            self._write(run)
            self._write(each)
            self._write(dataclasses.replace(run, text=before or "0"))
        elif each.field == "ksm.enabled" and each.text == "0":
            self._write(dataclasses.replace(each, text=UNMERGE))
        else:
            self._write(each)

    def _write(self, each: KernelFile) -> None:
        for path in self._matching(each.path):
            try:
                write_kernel_file(path, each.text)
            except OSError as error:
                raise ApplyError(
                    f"{Tuning().place.inner(each.field).text}: the kernel refuses {show(each.text)} for {path}: "
                    f"{error.strerror or error}"
                ) from error

    def _set_hugepages(self, entry: Hugepages, wanted: Tuning, context: Context) -> None:
        """Set pages of one size on a node apart, or give them back.

        Raises ApplyError where there is no room for them and a start would not make any; then the node has what it had.
        """
        path = self._path(files_of.hugepages_path(entry, self._has_nodes()))
        if not os.path.exists(path) and not entry.count:
            return
        before = _whole(programs.read_text(path))
        each = KernelFile(
            files_of.hugepages_field(entry), files_of.hugepages_path(entry, self._has_nodes()), str(entry.count)
        )
        for attempt in range(ATTEMPTS):
            if _whole(programs.read_text(path)) == entry.count:
                return
            if attempt:
                # Memory that is free in small pieces becomes large ones.
                self._write(KernelFile(each.field, "proc/sys/vm/compact_memory", "1"))
            self._write(each)
        got = _whole(programs.read_text(path))
        if got == entry.count:
            return
        text = f"NUMA node {entry.node} has room for {got} of the {entry.count} pages of {entry.size} MiB"
        if (entry.size or 0) >= files_of.GIGANTIC_MIB and self.waits_for_start(wanted):
            context.warn(
                f"{wanted.place.inner(each.field).text}: {text} now; the rest come with the next start of the host"
            )
            return
        self._write(dataclasses.replace(each, text=str(before)))
        raise ApplyError(
            f"{wanted.place.inner(each.field).text}: {text}",
            "Stop VMs or ask for fewer pages; after a start the host's memory is in larger pieces",
        )

    def _keep_mounts(self, wanted: Tuning, obsolete: Collection[int]) -> None:
        for size in sorted(obsolete):
            systemd.remove_unit(files_of.mount_unit_name(size), files_of.MOUNT_WANTED_BY)
        for size in self._mounted_sizes(wanted):
            name = files_of.mount_unit_name(size)
            mounts = programs.read_text(self._path("proc/self/mounts")) or ""
            is_there = f" /dev/hugepages{files_of.size_word(size)} hugetlbfs " in mounts
            if not is_there or programs.read_text(self._unit_path(name)) != files_of.mount_unit(size):
                systemd.write_boot_unit(name, files_of.mount_unit(size), files_of.MOUNT_WANTED_BY)
                systemd.systemctl("daemon-reload")
                systemd.systemctl("start", name)
                # libvirt looks for mounts when it starts. VMs go on meanwhile; where it rests, its socket starts it anew.
                has_drivers = os.path.exists(self._path("run/libvirt/virtqemud-sock"))
                systemd.systemctl("try-restart", "virtqemud.service" if has_drivers else "libvirtd.service")


FIELDS_OF_FILE: Mapping[str, Callable[[Tuning], List[str]]] = {
    files_of.SYSCTL_FILE: lambda tuning: [
        each.field for each in files_of.kernel_files(tuning, True) if each.path.startswith("proc/sys/")
    ],
    files_of.TMPFILES_FILE: lambda tuning: [
        each.field for each in files_of.kernel_files(tuning, True) if each.path.startswith("sys/")
    ],
    files_of.SLICE_FILE: lambda tuning: ["vm_memory_limit"],
    files_of.GRUB_FILE: lambda tuning: ["hugepages"],
}
"""What is to be set again where a file is not as it was written."""


def write_kernel_file(path: str, text: str) -> None:
    """Give a text to a file of the kernel. Raises OSError where the kernel refuses it."""
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def _without(asked: Tuning, wrong: Collection[str]) -> Tuning:
    """Return a tuning as the host shows it, without the fields that it shows otherwise than they were asked for."""
    fields: Dict[str, Any] = {}
    for name in wrong:
        first, _dot, rest = name.partition(".")
        if rest and asked.ksm is not None:
            fields["ksm"] = dataclasses.replace(fields.get("ksm", asked.ksm), **{rest: None})
        elif first.startswith("hugepages"):
            # An empty list is the same as none that is told, so the pages stay in it without their count.
            fields["hugepages"] = tuple(
                dataclasses.replace(entry, count=None)
                if {"hugepages", files_of.hugepages_field(entry)} & set(wrong)
                else entry
                for entry in asked.hugepages or ()
            )
        else:
            fields[first] = None
    return shown_as(asked, **fields)


def _whole(text: Optional[str]) -> int:
    stripped = (text or "").strip()
    return int(stripped) if stripped.isdigit() else 0


def _meminfo(text: str, name: str) -> int:
    """Return an amount of /proc/meminfo, or of a node's, in MiB; 0 where it is not told."""
    found = re.search(rf"^(?:Node \d+ )?{name}: *(\d+) kB", text, re.MULTILINE)
    return int(found.group(1)) // 1024 if found else 0


def facts(root: str = "/") -> Dict[str, Any]:
    """Return what is set of all that tuning can set, and what the hardware and the kernel offer.

    Sizes are in MiB. What the host's kernel does not have is None.
    """
    host = KvmTuning(None, root)

    def number(path: str) -> Optional[int]:
        text = host.kernel_value(path)
        return int(text) if text is not None and text.isdigit() else None

    def flag(path: str) -> Optional[bool]:
        found = number(path)
        return None if found is None else found > 0

    def offered(path: str) -> List[str]:
        return re.sub(r"[\[\]]", "", programs.read_text(os.path.join(root, path)) or "").split()

    overcommit = {value: word for word, value in files_of.OVERCOMMIT.items()}
    ksm, transparent = files_of.KSM, files_of.TRANSPARENT
    return {
        "numa_nodes": [{"node": node, "memory": host.memory_of_node(node)} for node in host.nodes()],
        "hugepages": list(_pages(host)),
        "default_hugepage_size": host.default_page_size(),
        "transparent_hugepages": host.kernel_value(f"{transparent}/enabled"),
        "transparent_hugepages_offered": offered(f"{transparent}/enabled"),
        "transparent_hugepages_defrag": host.kernel_value(f"{transparent}/defrag"),
        "transparent_hugepages_defrag_offered": offered(f"{transparent}/defrag"),
        "ksm": {
            "enabled": flag(f"{ksm}/run"),
            "pages_to_scan": number(f"{ksm}/pages_to_scan"),
            "sleep_milliseconds": number(f"{ksm}/sleep_millisecs"),
            "merge_across_nodes": flag(f"{ksm}/merge_across_nodes"),
            "pages_shared": number(f"{ksm}/pages_shared"),
            "pages_sharing": number(f"{ksm}/pages_sharing"),
        },
        "numa_balancing": flag("proc/sys/kernel/numa_balancing"),
        "cpu_governor": host.kernel_value(f"{files_of.GOVERNORS}/scaling_governor"),
        "cpu_governors_offered": host.governors(),
        "swappiness": number("proc/sys/vm/swappiness"),
        "overcommit": overcommit.get(host.kernel_value("proc/sys/vm/overcommit_memory") or ""),
        "overcommit_ratio": number("proc/sys/vm/overcommit_ratio"),
        "vm_memory_limit": host._slice_limit(),
        "waits_for_start": host.waits_for_start(),
    }


def _pages(host: KvmTuning) -> Iterator[Dict[str, int]]:
    for size in host.page_sizes():
        for node in host.nodes():
            path = files_of.hugepages_path(Hugepages(size, node, 0), host._has_nodes())
            count = _whole(programs.read_text(os.path.join(host.root, path)))
            used = host._pages_in_use(Hugepages(size, node, 0))
            yield {"size": size, "node": node, "count": count, "used": used}
