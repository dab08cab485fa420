# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Tuning on a real KVM host: what its kernel and systemd say afterwards, and after a start."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from ..real_host import OnHostError, RealHost

KSM = "/sys/kernel/mm/ksm"
THP = "/sys/kernel/mm/transparent_hugepage"
FILES = (
    "/etc/sysctl.d/80-bareforge-tuning.conf",
    "/etc/tmpfiles.d/bareforge-tuning.conf",
    "/etc/systemd/system/machine.slice.d/bareforge-tuning.conf",
    "/etc/systemd/system/bareforge-tuning.service",
    "/etc/systemd/system/multi-user.target.wants/bareforge-tuning.service",
    "/var/lib/bareforge/tuning.json",
)
KERNEL = (
    *(f"/proc/sys/vm/{name}" for name in ("swappiness", "overcommit_ratio", "overcommit_memory")),
    *(f"{KSM}/{name}" for name in ("pages_to_scan", "sleep_millisecs")),
    *(f"{THP}/{name}" for name in ("enabled", "defrag")),
)


@pytest.fixture(scope="module", autouse=True)
def as_it_was(host: RealHost) -> Iterator[None]:
    """Bring the host back to what it was."""
    before = {name: host.run("cat", name) for name in KERNEL}
    yield
    lines = []
    for name, text in before.items():
        value = text[text.index("[") + 1 : text.index("]")] if "[" in text else text
        lines.append(f"echo {value} > {name}")
    host.shell(
        "\n".join([f"rm -f {' '.join(FILES)}", *lines, f"echo 2 > {KSM}/run", "echo 0 > /proc/sys/vm/nr_hugepages"])
        + "\nsystemctl daemon-reload\n"
    )


def settled(host: RealHost, **wanted: Any) -> list[str]:
    """Apply it with all that is promised of it, and return the fields that changed."""
    planned = host.apply({"tuning": wanted}, check=True)
    done = host.apply({"tuning": wanted})
    assert done["changes"] == planned["changes"]
    assert host.apply({"tuning": wanted})["changes"] == []
    assert host.apply(host.gather("tuning"), check=True)["changes"] == []
    return [field for change in done["changes"] for field in change["fields"]]


def facts(host: RealHost) -> Any:
    """Return what host_info tells of the tuning."""

    def read() -> Any:
        from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm import tuning

        return tuning.facts()

    return host.on_host(read)


@pytest.mark.capability("kvm", "tuning", ran_against="real")
def test_only_what_was_asked_for_is_set(host: RealHost) -> None:
    assert host.gather("tuning") == {"tuning": {}}
    before = facts(host)
    assert settled(host, swappiness=11) == ["swappiness"]
    after = facts(host)
    assert {name for name in before if before[name] != after[name]} == {"swappiness"}
    assert (before["cpu_governors_offered"], before["transparent_hugepages_offered"]) == (
        [],
        ["always", "madvise", "never"],
    )
    assert host.run("sysctl", "-n", "vm.swappiness") == "11"
    assert host.run("sh", "-c", f"ls {' '.join(FILES[:3])} 2>/dev/null || true") == FILES[0]


@pytest.mark.capability("kvm", "tuning.ksm", ran_against="real")
def test_equal_pages_are_merged_and_parted_again(host: RealHost) -> None:
    settled(host, ksm={"enabled": True, "pages_to_scan": 2000, "sleep_milliseconds": 10})

    def share() -> int:
        import mmap
        import time

        def sharing() -> int:
            with open("/sys/kernel/mm/ksm/pages_sharing", encoding="ascii") as file:
                return int(file.read())

        area = mmap.mmap(-1, 16 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        area.madvise(12)  # MADV_MERGEABLE
        area.write(b"equal pages." * ((16 << 20) // 12))
        deadline = time.monotonic() + 120
        while sharing() < 1000 and time.monotonic() < deadline:
            time.sleep(0.5)
        return sharing()

    assert host.on_host(share) >= 1000
    assert settled(host, ksm={"enabled": False}) == ["ksm.enabled"]
    assert host.run("cat", f"{KSM}/pages_sharing") == "0"


@pytest.mark.capability("kvm", "tuning.hugepages", ran_against="real")
def test_hugepages_are_set_apart_and_given_back(host: RealHost) -> None:
    assert settled(host, hugepages=[{"size": "2 MiB", "node": 0, "count": 24}]) == ["hugepages"]
    assert "HugePages_Total:      24" in host.run("cat", "/proc/meminfo")
    assert {"size": 2, "node": 0, "count": 24, "used": 0} in facts(host)["hugepages"]
    assert settled(host, hugepages=[]) == ["hugepages"]
    assert "HugePages_Total:       0" in host.run("cat", "/proc/meminfo")


@pytest.mark.capability("kvm", "tuning.hugepages", ran_against="real")
def test_pages_that_the_host_has_no_room_for_are_refused_and_leave_what_there_was(host: RealHost) -> None:
    settled(host, hugepages=[{"size": "2 MiB", "node": 0, "count": 8}])
    with pytest.raises(OnHostError) as caught:
        host.apply({"tuning": {"hugepages": [{"size": "2 MiB", "node": 0, "count": 1000}]}})
    assert "are too many, of " in caught.value.message
    assert "HugePages_Total:       8" in host.run("cat", "/proc/meminfo")


@pytest.mark.capability("kvm", "tuning.overcommit", ran_against="real")
def test_what_vms_may_take_together_is_what_systemd_has(host: RealHost) -> None:
    assert settled(host, vm_memory_limit="1500 MiB") == ["vm_memory_limit"]
    assert host.run("systemctl", "show", "--property=MemoryMax", "--value", "machine.slice") == str(1500 << 20)
    settled(host, vm_memory_limit=0)
    assert host.run("systemctl", "show", "--property=MemoryMax", "--value", "machine.slice") == "infinity"


@pytest.mark.capability("kvm", "tuning.transparent_hugepages", ran_against="real")
@pytest.mark.capability("kvm", "tuning.numa_balancing", ran_against="real")
@pytest.mark.capability("kvm", "tuning.overcommit", ran_against="real")
@pytest.mark.capability("kvm", "tuning.hugepages", ran_against="real")
@pytest.mark.capability("kvm", "tuning.ksm", ran_against="real")
def test_all_of_it_is_there_after_a_start(host: RealHost) -> None:
    wanted = {
        "hugepages": [{"size": "2 MiB", "node": 0, "count": 16}],
        "transparent_hugepages": "never",
        "transparent_hugepages_defrag": "defer",
        "ksm": {"enabled": True, "pages_to_scan": 123, "sleep_milliseconds": 45, "merge_across_nodes": True},
        "numa_balancing": True,
        "swappiness": 12,
        "overcommit": "always",
        "vm_memory_limit": "1400 MiB",
    }
    settled(host, **wanted)
    shown = facts(host)
    assert (shown["transparent_hugepages"], shown["transparent_hugepages_defrag"]) == ("never", "defer")
    assert (shown["numa_balancing"], shown["overcommit"], shown["swappiness"]) == (True, "always", 12)
    host.reboot()
    deadline = time.monotonic() + 120
    while host.run("systemctl", "is-active", "bareforge-tuning.service", check=False) != "active":
        assert time.monotonic() < deadline, host.run("systemctl", "status", "bareforge-tuning.service", check=False)
        time.sleep(2)
    again = facts(host)
    for name in ("transparent_hugepages", "transparent_hugepages_defrag", "numa_balancing", "overcommit", "swappiness"):
        assert again[name] == shown[name], name
    assert {"size": 2, "node": 0, "count": 16, "used": 0} in again["hugepages"]
    for name in ("enabled", "pages_to_scan", "sleep_milliseconds", "merge_across_nodes"):
        assert again["ksm"][name] == wanted["ksm"][name]
    assert host.run("systemctl", "show", "--property=MemoryMax", "--value", "machine.slice") == str(1400 << 20)
    assert host.apply({"tuning": wanted})["changes"] == []
    host.apply(
        {"tuning": {"hugepages": [], "vm_memory_limit": 0, "ksm": {"enabled": False}, "overcommit": "heuristic"}}
    )
