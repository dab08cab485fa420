# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Snapshots on a real host: what is on the disk, and in memory, really comes back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from ..real_host import OnHostError, RealHost
from .test_vm import call


@pytest.fixture(scope="module")
def box(tiny: RealHost) -> Iterator[RealHost]:
    """The host with a running VM `box`."""
    vm = {"name": "box", "template": "tiny", "memory": {"size": 160}}
    tiny.apply({"vms": [vm]}, timeout=900)
    call(tiny, "wait_for", "box", "lab: ready box")
    yield tiny
    tiny.apply({"vms": [{"name": "box", "state": "absent"}]}, operation={"shutdown_timeout": 0})
    assert call(tiny, "left_over", "box") == []


def revert(vm: str, name: str, check: bool = False) -> Any:
    from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.platform import KvmPlatform

    return KvmPlatform().owner("snapshot").revert(vm, name, check)


def write(host: RealHost, text: str) -> None:
    call(host, "guest", "box", f"echo {text} > /disk/kept; sync; echo {text} > /run/kept")


def shown(host: RealHost) -> list[str]:
    """Return what the guest has on its disk and in its memory."""
    return call(host, "guest", "box", "cat /disk/kept /run/kept 2>/dev/null").split()


@pytest.mark.capability("kvm", "snapshot", "snapshot.memory", ran_against="real")
def test_snapshots_bring_back_disk_and_memory(box: RealHost) -> None:
    boot = "cat /proc/sys/kernel/random/boot_id"
    started = call(box, "guest", "box", boot)
    snapshots = [
        {"vm": "box", "name": "with memory", "memory": True, "description": "<a> & 'b'"},
        {"vm": "box", "name": "disk-only"},
    ]
    write(box, "one")
    assert box.apply({"snapshots": snapshots[:1]})["changed"] is True
    write(box, "two")
    assert box.apply({"snapshots": snapshots})["changed"] is True
    assert box.apply({"snapshots": snapshots})["changed"] is False
    assert box.apply(box.gather("snapshot"))["changed"] is False
    told = {entry["name"]: entry["memory"] for entry in box.gather("snapshot")["snapshots"]}
    assert told == {"with memory": True, "disk-only": False}
    write(box, "three")

    assert box.on_host(revert, vm="box", name="with memory", check=True)["changed"] is True
    assert shown(box) == ["three", "three"]
    assert box.on_host(revert, vm="box", name="with memory")["power"] == "running"
    assert shown(box) == ["one", "one"]
    assert call(box, "guest", "box", boot) == started

    assert box.on_host(revert, vm="box", name="disk-only", timeout=900)["power"] == "running"
    call(box, "wait_for", "box", "lab: ready box")
    # The guest was started from its disk: what lay in memory is gone.
    assert shown(box) == ["two"]
    assert call(box, "guest", "box", boot) != started


def test_a_snapshot_of_a_vm_that_is_off(box: RealHost) -> None:
    write(box, "four")
    box.apply({"vms": [{"name": "box", "power": "stopped"}]}, operation={"shutdown_timeout": 300}, timeout=900)
    with pytest.raises(OnHostError, match="is stopped, so there is no memory to keep"):
        box.apply({"snapshots": [{"vm": "box", "name": "off", "memory": True}]})
    box.apply({"snapshots": [{"vm": "box", "name": "off"}]})
    assert box.apply({"snapshots": [{"vm": "box", "name": "off"}]})["changed"] is False
    box.apply({"vms": [{"name": "box", "power": "running"}]}, timeout=900)
    call(box, "wait_for", "box", "lab: ready box")
    write(box, "five")
    assert box.on_host(revert, vm="box", name="off")["power"] == "stopped"
    box.apply({"vms": [{"name": "box", "power": "running"}]}, timeout=900)
    call(box, "wait_for", "box", "lab: ready box")
    assert shown(box) == ["four"]


def test_removing_snapshots_leaves_the_vm_as_it_is(box: RealHost) -> None:
    names = [entry["name"] for entry in box.gather("snapshot")["snapshots"]]
    assert sorted(names) == ["disk-only", "off", "with memory"]
    with pytest.raises(OnHostError, match="VM 'box' has no snapshot 'never'; it has: disk-only, off, with memory"):
        box.on_host(revert, vm="box", name="never")
    box.apply({"snapshots": [{"vm": "box", "name": name, "state": "absent"} for name in names]})
    assert box.gather("snapshot") == {"snapshots": []}
    disk = "/var/lib/libvirt/images/bareforge/box/root.qcow2"
    assert "Snapshot list" not in box.run("qemu-img", "info", "-U", disk)
    assert shown(box) == ["four"]
