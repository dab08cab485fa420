# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Tuning, on files laid out like a host's with a kernel that answers as the real one does."""

from __future__ import annotations

import errno
import os
import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.engine.platform import Platform
from ansible_collections.bareforge.hypervisor.plugins.module_utils.engine.runner import Request, gather, run
from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import ApplyError, ValidateError
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.document import Document
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm import systemd, tuning
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.tuning import KvmTuning

THP = "sys/kernel/mm/transparent_hugepage"
KSM = "sys/kernel/mm/ksm"
FILES = {
    "proc/meminfo": "MemTotal: 8388608 kB\nMemAvailable: 7000000 kB\nHugepagesize: 2048 kB\n",
    "proc/cmdline": "BOOT_IMAGE=/vmlinuz root=/dev/vda1 ro quiet\n",
    "proc/self/mounts": "hugetlbfs /dev/hugepages hugetlbfs rw 0 0\n",
    "proc/sys/vm/swappiness": "60\n",
    "proc/sys/vm/overcommit_memory": "0\n",
    "proc/sys/vm/overcommit_ratio": "50\n",
    "proc/sys/vm/compact_memory": "",
    "proc/sys/kernel/numa_balancing": "0\n",
    f"{THP}/enabled": "always [madvise] never\n",
    f"{THP}/defrag": "always defer defer+madvise [madvise] never\n",
    f"{KSM}/run": "0\n",
    f"{KSM}/pages_to_scan": "100\n",
    f"{KSM}/sleep_millisecs": "20\n",
    f"{KSM}/merge_across_nodes": "1\n",
    f"{KSM}/pages_shared": "0\n",
    f"{KSM}/pages_sharing": "0\n",
    "sys/fs/cgroup/machine.slice/memory.max": "max\n",
    "sys/fs/cgroup/machine.slice/memory.current": f"{700 << 20}\n",
    **{
        f"sys/devices/system/cpu/cpu{cpu}/cpufreq/{name}": text
        for cpu in (0, 1)
        for name, text in (
            ("scaling_governor", "powersave\n"),
            ("scaling_available_governors", "performance powersave \n"),
        )
    },
    "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages": "0\n",
    "sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages": "0\n",
    **{
        f"sys/devices/system/node/node{node}/{name}": text
        for node in (0, 1)
        for name, text in (
            ("meminfo", f"Node {node} MemTotal:       4194304 kB\nNode {node} MemFree: 4000000 kB\n"),
            ("hugepages/hugepages-2048kB/nr_hugepages", "0\n"),
            ("hugepages/hugepages-2048kB/free_hugepages", "0\n"),
            ("hugepages/hugepages-1048576kB/nr_hugepages", "0\n"),
            ("hugepages/hugepages-1048576kB/free_hugepages", "0\n"),
        )
    },
}


class Bench:
    """A host in a folder.

    room: how many pages of a size in kB a node finds contiguous memory for. log: everything that the kernel was told.
    dies_after: after how many writes the process that tunes is killed.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.room: dict[str, int] = {}
        self.log: list[str] = []
        self.dies_after: int | None = None
        for name, text in FILES.items():
            self.put(name, text)

    def put(self, name: str, text: str) -> None:
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_text(text)

    def get(self, name: str) -> str:
        return (self.root / name).read_text().strip()

    def write(self, path: str, text: str) -> None:
        """Do what the kernel does with a text that is written to one of its files."""
        if self.dies_after is not None:
            self.dies_after -= 1
            if self.dies_after < 0:
                raise KeyboardInterrupt
        name = os.path.relpath(path, self.root)
        self.log.append(f"{name} {text}")
        if name.startswith(THP):
            words = re.sub(r"[\[\]]", "", self.get(name)).split()
            self.put(name, " ".join(f"[{word}]" if word == text else word for word in words) + "\n")
            return
        if name == f"{KSM}/merge_across_nodes" and self.get(f"{KSM}/pages_shared") != "0":
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        if name == f"{KSM}/run" and text == "2":
            self.put(f"{KSM}/pages_shared", "0\n")
        if name.endswith("nr_hugepages"):
            text = str(min(int(text), self.room.get(os.path.basename(os.path.dirname(name)), 1 << 20)))
            self.put(f"{os.path.dirname(name)}/free_hugepages", f"{text}\n")
        self.put(name, f"{text}\n")

    def systemctl(self, *words: str, **_options: Any) -> None:
        """Let the VMs' slice have what its files say."""
        self.log.append(f"systemctl {' '.join(words)}")
        if words == ("daemon-reload",):
            drop_in = self.root / "etc/systemd/system/machine.slice.d/bareforge-tuning.conf"
            limit = re.search(r"MemoryMax=(\d+)M", drop_in.read_text()) if drop_in.exists() else None
            text = str(int(limit.group(1)) << 20) if limit else "max"
            self.put("sys/fs/cgroup/machine.slice/memory.max", f"{text}\n")

    def platform(self) -> Platform:
        root = str(self.root)

        class Tuned(KvmTuning):
            def __init__(self, platform: Any) -> None:
                super().__init__(platform, root)

        return type("Host", (Platform,), {"NAME": "kvm", "INTERFACES": (Tuned,)})()

    def apply(self, check: bool = False, **wanted: Any) -> Any:
        return run(self.platform(), Request(Document.parse({"tuning": wanted}), check=check))

    def settle(self, **wanted: Any) -> list[str]:
        """Apply it with all that is promised of it, and return the fields that changed."""
        files = self.files()
        planned = self.apply(check=True, **wanted)
        assert self.files() == files, "check mode changes nothing"
        done = self.apply(**wanted)
        assert planned["changes"] == done["changes"]
        assert self.apply(**wanted)["changed"] is False
        document = gather(self.platform(), ["tuning"])["tuning"]
        assert self.apply(**document)["changed"] is False
        return [field for change in done["changes"] for field in change["fields"]]

    def files(self) -> dict[str, str]:
        return {str(path): path.read_text() for path in sorted(self.root.rglob("*")) if path.is_file()}

    def facts(self) -> dict[str, Any]:
        return tuning.facts(str(self.root))

    def problems(self, **wanted: Any) -> list[str]:
        before = self.files()
        with pytest.raises(ValidateError) as caught:
            self.apply(**wanted)
        assert self.files() == before
        return [str(problem) for problem in caught.value.problems]

    def restart(self, *arguments: str) -> None:
        """Do what a start of the host does: the kernel's own values, the command line, and what our files say."""
        for name, text in FILES.items():
            self.put(name, text)
        self.systemctl("daemon-reload")
        self.put("proc/cmdline", f"BOOT_IMAGE=/vmlinuz ro {' '.join(arguments)} quiet\n")
        sysctls, others = (
            (self.root / path).read_text().splitlines() if (self.root / path).exists() else []
            for path in ("etc/sysctl.d/80-bareforge-tuning.conf", "etc/tmpfiles.d/bareforge-tuning.conf")
        )
        for line in sysctls:
            name, sign, value = line.partition(" = ")
            if sign:
                self.write(str(self.root / "proc/sys" / name.replace(".", "/")), value)
        for line in others:
            if line and not line.startswith("#"):
                kind, path, *_dashes, value = line.split()
                assert (kind, _dashes) == ("w", ["-", "-", "-", "-"])
                for found in sorted(self.root.glob(path.lstrip("/"))):
                    self.write(str(found), value)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    made = Bench(tmp_path)
    monkeypatch.setattr(tuning, "write_kernel_file", made.write)
    monkeypatch.setattr(systemd, "UNIT_FOLDER", str(tmp_path / "etc/systemd/system"))
    monkeypatch.setattr(systemd, "systemctl", made.systemctl)
    return made


WHOLE: dict[str, Any] = {
    "transparent_hugepages": "never",
    "transparent_hugepages_defrag": "defer+madvise",
    "ksm": {"enabled": True, "pages_to_scan": 500, "sleep_milliseconds": 50, "merge_across_nodes": False},
    "numa_balancing": True,
    "cpu_governor": "performance",
    "swappiness": 10,
    "overcommit": "never",
    "overcommit_ratio": 90,
    "vm_memory_limit": 4096,
    "hugepages": [{"size": 2, "node": 0, "count": 64}, {"size": 2, "node": 1, "count": 32}],
}


def test_all_of_it_holds_now_and_after_a_start(bench: Bench) -> None:
    assert set(bench.settle(**WHOLE)) == {field for field in WHOLE if field not in ("hugepages", "ksm")} | {
        "ksm",
        "hugepages",
    }
    expected = {
        "proc/sys/vm/swappiness": "10",
        "proc/sys/vm/overcommit_memory": "2",
        "proc/sys/vm/overcommit_ratio": "90",
        "proc/sys/kernel/numa_balancing": "1",
        f"{THP}/enabled": "always madvise [never]",
        f"{THP}/defrag": "always defer [defer+madvise] madvise never",
        f"{KSM}/run": "1",
        f"{KSM}/pages_to_scan": "500",
        f"{KSM}/sleep_millisecs": "50",
        f"{KSM}/merge_across_nodes": "0",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance",
        "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor": "performance",
        "sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages": "64",
        "sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages": "32",
    }
    assert {name: bench.get(name) for name in expected} == expected
    assert bench.get("etc/systemd/system/machine.slice.d/bareforge-tuning.conf").splitlines()[1:] == [
        "[Slice]",
        "MemoryMax=4096M",
    ]
    assert (bench.root / "etc/systemd/system/multi-user.target.wants/bareforge-tuning.service").is_symlink()
    bench.restart()
    assert {name: bench.get(name) for name in expected} == expected
    assert bench.apply(**WHOLE)["changed"] is False


@pytest.mark.capability("kvm", "tuning.cpu_governor", ran_against="our simulator")
def test_a_governor_is_set_on_every_processor(bench: Bench) -> None:
    assert bench.settle(cpu_governor="performance") == ["cpu_governor"]
    bench.put("sys/devices/system/cpu/cpu1/cpufreq/scaling_governor", "powersave\n")
    assert bench.settle(cpu_governor="performance") == ["cpu_governor"]
    assert bench.get("sys/devices/system/cpu/cpu1/cpufreq/scaling_governor") == "performance"
    assert bench.facts()["cpu_governors_offered"] == ["performance", "powersave"]


def test_nothing_is_set_that_was_not_asked_for(bench: Bench) -> None:
    before = {name: bench.get(name) for name in FILES}
    bench.settle(swappiness=10)
    assert bench.log == ["proc/sys/vm/swappiness 10"]
    after = {name: bench.get(name) for name in FILES}
    assert {name for name in FILES if before[name] != after[name]} == {"proc/sys/vm/swappiness"}
    assert bench.get("etc/sysctl.d/80-bareforge-tuning.conf").splitlines()[1:] == ["vm.swappiness = 10"]
    assert not (bench.root / "etc/tmpfiles.d/bareforge-tuning.conf").exists()
    assert gather(bench.platform(), ["tuning"])["tuning"] == {"swappiness": 10}


def test_what_the_kernel_has_already_is_still_kept_for_the_next_start(bench: Bench) -> None:
    assert bench.settle(swappiness=60) == ["swappiness"]
    assert bench.log == []
    assert "vm.swappiness = 60" in bench.get("etc/sysctl.d/80-bareforge-tuning.conf")


@pytest.mark.parametrize(
    ("name", "text", "field"),
    [
        ("proc/sys/vm/swappiness", "60\n", "swappiness"),
        (f"{KSM}/pages_to_scan", "100\n", "ksm.pages_to_scan"),
        (f"{THP}/enabled", "[always] madvise never\n", "transparent_hugepages"),
        ("sys/fs/cgroup/machine.slice/memory.max", "max\n", "vm_memory_limit"),
        ("etc/sysctl.d/80-bareforge-tuning.conf", "vm.swappiness = 99\n", "swappiness"),
        ("etc/tmpfiles.d/bareforge-tuning.conf", "", "cpu_governor"),
        ("etc/systemd/system/bareforge-tuning.service", "", "numa_balancing"),
        ("sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages", "0\n", "hugepages"),
    ],
)
def test_what_somebody_else_has_changed_since_is_set_again(bench: Bench, name: str, text: str, field: str) -> None:
    bench.apply(**WHOLE)
    assert bench.apply(**WHOLE)["changed"] is False
    bench.put(name, text)
    # Even a task that speaks of something else mends it, as it was asked for.
    (change,) = bench.apply(swappiness=10)["changes"]
    assert field in [path.partition("[")[0] for path in change["fields"]]
    assert bench.apply(**WHOLE)["changed"] is False


def test_merged_pages_are_parted_before_it_is_settled_anew_which_may_be_merged(bench: Bench) -> None:
    bench.apply(ksm={"enabled": True, "merge_across_nodes": True})
    bench.put(f"{KSM}/pages_shared", "1000\n")
    bench.log.clear()
    assert bench.settle(ksm={"merge_across_nodes": False}) == ["ksm.merge_across_nodes"]
    assert bench.log == [f"{KSM}/run 2", f"{KSM}/merge_across_nodes 0", f"{KSM}/run 1"]


def test_switched_off_ksm_parts_what_it_has_merged(bench: Bench) -> None:
    bench.apply(ksm={"enabled": True})
    bench.put(f"{KSM}/pages_shared", "1000\n")
    assert bench.settle(ksm={"enabled": False}) == ["ksm.enabled"]
    assert (bench.get(f"{KSM}/run"), bench.get(f"{KSM}/pages_shared")) == ("2", "0")
    assert f"w /{KSM}/run - - - - 0" in bench.get("etc/tmpfiles.d/bareforge-tuning.conf")


def test_hugepages_that_are_not_listed_any_more_are_given_back(bench: Bench) -> None:
    foreign = "sys/devices/system/node/node1/hugepages/hugepages-1048576kB/nr_hugepages"
    bench.put(foreign, "1\n")
    bench.apply(**WHOLE)
    assert bench.settle(hugepages=[{"size": 2, "node": 0, "count": 16}]) == ["hugepages"]
    assert bench.get("sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages") == "16"
    assert bench.get("sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages") == "0"
    assert bench.get(foreign) == "1", "what was never asked for is left alone"
    bench.settle(hugepages=[])
    assert "hugepages" not in bench.get("etc/tmpfiles.d/bareforge-tuning.conf").replace("transparent_hugepage", "")


def test_pages_without_room_are_an_error_that_leaves_what_there_was(bench: Bench) -> None:
    pages = "sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages"
    bench.apply(hugepages=[{"size": 2, "node": 0, "count": 8}])
    bench.room["hugepages-2048kB"] = 100
    with pytest.raises(ApplyError, match="NUMA node 0 has room for 100 of the 512 pages of 2 MiB"):
        bench.apply(hugepages=[{"size": 2, "node": 0, "count": 512}])
    assert bench.get(pages) == "8"
    assert "proc/sys/vm/compact_memory 1" in bench.log
    # The wish stands in the files and not in the record: it is no secret success.
    assert bench.settle(hugepages=[{"size": 2, "node": 0, "count": 8}]) != []


def grub(bench: Bench) -> None:
    """Let the host start with GRUB: a program that takes the drop-ins up as Debian's grub-mkconfig does."""
    program = bench.root / "usr/sbin/update-grub"
    bench.put("boot/grub/grub.cfg", "linux /vmlinuz\n")
    bench.put(
        "usr/sbin/update-grub",
        f"#!/bin/sh\nset -e\nGRUB_CMDLINE_LINUX='console=ttyS0'\n"
        f'for f in {bench.root}/etc/default/grub.d/*.cfg; do [ -e "$f" ] && . "$f"; done\n'
        f'echo "linux /vmlinuz $GRUB_CMDLINE_LINUX" > {bench.root}/boot/grub/grub.cfg\n',
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)


GIGANTIC = {"hugepages": [{"size": "1 GiB", "node": 0, "count": 2}, {"size": "1 GiB", "node": 1, "count": 1}]}


def test_gigantic_pages_come_with_the_command_line_where_there_is_no_room_now(bench: Bench) -> None:
    grub(bench)
    bench.room["hugepages-1048576kB"] = 1
    done = bench.apply(**GIGANTIC)
    (warning,) = done["warnings"]
    assert warning.startswith("tuning.hugepages[1024/0]: NUMA node 0 has room for 1 of the 2 pages of 1024 MiB now; ")
    assert warning.endswith("the rest come with the next start of the host")
    assert bench.get("boot/grub/grub.cfg") == "linux /vmlinuz console=ttyS0 hugepagesz=1G hugepages=0:2,1:1"
    assert bench.facts()["waits_for_start"] is True
    assert bench.apply(**GIGANTIC)["changed"] is False, "nothing is left to do before the start"
    bench.room.clear()
    bench.restart("hugepagesz=1G", "hugepages=0:2,1:1")
    assert bench.facts()["waits_for_start"] is False
    assert bench.apply(**GIGANTIC)["changed"] is False
    bench.room["hugepages-1048576kB"] = 1
    bench.put("sys/devices/system/node/node0/hugepages/hugepages-1048576kB/nr_hugepages", "1\n")
    with pytest.raises(ApplyError, match="has room for 1 of the 2 pages of 1024 MiB"):
        bench.apply(**GIGANTIC)
    bench.settle(hugepages=[])
    assert bench.get("boot/grub/grub.cfg") == "linux /vmlinuz console=ttyS0"


def test_gigantic_pages_have_a_mount_of_their_own(bench: Bench) -> None:
    bench.apply(**GIGANTIC)
    unit = bench.get("etc/systemd/system/dev-hugepages1G.mount")
    assert "Where=/dev/hugepages1G\n" in unit and "Options=pagesize=1G,mode=755" in unit
    assert [line for line in bench.log if line.startswith("systemctl")] == [
        "systemctl daemon-reload",
        "systemctl start dev-hugepages1G.mount",
        "systemctl try-restart libvirtd.service",
    ]
    bench.apply(hugepages=[])
    assert not (bench.root / "etc/systemd/system/dev-hugepages1G.mount").exists()
    assert not list((bench.root / "etc/systemd/system/sysinit.target.wants").iterdir())


def test_the_daemon_of_the_driver_finds_new_mounts_where_there_is_no_libvirtd(bench: Bench) -> None:
    bench.put("run/libvirt/virtqemud-sock", "")
    bench.apply(**GIGANTIC)
    assert "systemctl try-restart virtqemud.service" in bench.log


@pytest.mark.parametrize("writes", range(9))
def test_killed_at_any_write_the_next_run_finishes(bench: Bench, writes: int) -> None:
    grub(bench)
    bench.dies_after = writes
    wanted = {**WHOLE, **GIGANTIC}
    with pytest.raises(KeyboardInterrupt):
        bench.apply(**wanted)
    bench.dies_after = None
    assert bench.apply(**wanted)["changed"] is True
    assert bench.apply(**wanted)["changed"] is False
    assert "hugepagesz=1G" in bench.get("boot/grub/grub.cfg")


def test_a_boot_loader_that_a_killed_run_has_not_told_is_told(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    grub(bench)

    def killed(*_arguments: Any, **_options: Any) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(tuning.programs, "run", killed)
        with pytest.raises(KeyboardInterrupt):
            bench.apply(**GIGANTIC)
    bench.apply(**GIGANTIC)
    assert "hugepagesz=1G hugepages=0:2,1:1" in bench.get("boot/grub/grub.cfg")


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (
            {"hugepages": [{"size": 4, "node": 0, "count": 1}]},
            "tuning.hugepages['4/0'].size: 4 MiB is not offered here; offered are: 2 MiB, 1024 MiB",
        ),
        (
            {"hugepages": [{"size": 2, "node": 7, "count": 1}]},
            "tuning.hugepages['2/7'].node: the host has no NUMA node 7; it has: 0, 1",
        ),
        (
            {"hugepages": [{"size": 2, "node": 0, "count": 2000}]},
            "tuning.hugepages: 4000 MiB on NUMA node 0 are too many, of 4096 MiB of which the host needs 256 MiB",
        ),
        (
            {"cpu_governor": "schedutil"},
            "tuning.cpu_governor: 'schedutil' is not offered here; offered are: performance, powersave",
        ),
        ({"vm_memory_limit": 9000}, "tuning.vm_memory_limit: 9000 MiB are more than the host's memory of 8192 MiB"),
        ({"vm_memory_limit": 600}, "tuning.vm_memory_limit: 600 MiB are less than the 700 MiB that VMs take now"),
    ],
)
def test_what_the_host_does_not_offer_is_refused(bench: Bench, wanted: Any, message: str) -> None:
    assert bench.problems(**wanted) == [message]


def test_pages_in_use_are_not_taken_away(bench: Bench) -> None:
    bench.apply(**WHOLE)
    bench.put("sys/devices/system/node/node0/hugepages/hugepages-2048kB/free_hugepages", "10\n")
    assert bench.problems(hugepages=[{"size": 2, "node": 0, "count": 53}, {"size": 2, "node": 1, "count": 32}]) == [
        "tuning.hugepages['2/0'].count: 53 is too few: 54 pages are in use by VMs now"
    ]
    assert bench.problems(hugepages=[{"size": 2, "node": 1, "count": 32}]) == [
        "tuning.hugepages: leaves out those of 2 MiB on NUMA node 0, of which 54 are in use by VMs now"
    ]


def test_a_host_without_what_is_asked_for(bench: Bench) -> None:
    for path in bench.root.glob("sys/devices/system/cpu/cpu*/cpufreq/*"):
        path.unlink()
    (bench.root / KSM / "merge_across_nodes").unlink()
    assert bench.problems(cpu_governor="performance", ksm={"merge_across_nodes": True}) == [
        "tuning.cpu_governor: 'performance' is not offered here; the processors' frequency is not the kernel's to choose",
        f"tuning.ksm.merge_across_nodes: the host's kernel has no /{KSM}/merge_across_nodes",
    ]
    assert bench.facts()["ksm"]["merge_across_nodes"] is None
    assert bench.facts()["cpu_governor"] is None


def test_another_program_that_sets_ksm_is_named(bench: Bench) -> None:
    bench.put("etc/systemd/system/multi-user.target.wants/ksmtuned.service", "")
    (problem,) = bench.problems(ksm={"enabled": True})
    assert problem.startswith("tuning.ksm: ksmtuned.service, which sets KSM by itself, starts with the host")


def test_a_ratio_is_kept_whatever_is_promised() -> None:
    # The kernel keeps the ratio whatever it does with it, and what was gathered is valid input.
    Document.parse({"tuning": {"overcommit": "always", "overcommit_ratio": 80}})


def test_a_kernel_without_nodes_has_pages_all_the_same(bench: Bench) -> None:
    subprocess.run(["rm", "-r", str(bench.root / "sys/devices/system/node")], check=True)
    bench.put("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "0\n")
    bench.settle(hugepages=[{"size": 2, "node": 0, "count": 4}])
    assert bench.get("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages") == "4"


def test_facts_tell_what_is_set_and_what_is_offered(bench: Bench) -> None:
    bench.put("sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages", "8\n")
    bench.put("sys/devices/system/node/node1/hugepages/hugepages-2048kB/free_hugepages", "5\n")
    facts = bench.facts()
    assert facts["hugepages"] == [
        {"size": 2, "node": 0, "count": 0, "used": 0},
        {"size": 2, "node": 1, "count": 8, "used": 3},
        {"size": 1024, "node": 0, "count": 0, "used": 0},
        {"size": 1024, "node": 1, "count": 0, "used": 0},
    ]
    assert facts["numa_nodes"] == [{"node": 0, "memory": 4096}, {"node": 1, "memory": 4096}]
    assert facts["transparent_hugepages"] == "madvise"
    assert facts["transparent_hugepages_offered"] == ["always", "madvise", "never"]
    assert facts["ksm"] == {
        "enabled": False,
        "pages_to_scan": 100,
        "sleep_milliseconds": 20,
        "merge_across_nodes": True,
        "pages_shared": 0,
        "pages_sharing": 0,
    }
    assert (facts["overcommit"], facts["overcommit_ratio"], facts["swappiness"]) == ("heuristic", 50, 60)
    assert (facts["vm_memory_limit"], facts["numa_balancing"], facts["waits_for_start"]) == (0, False, False)
