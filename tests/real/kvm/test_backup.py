# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Backups on a real host: what was written before one is in what is restored from it, and what came after is not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from ..real_host import OnHostError, RealHost
from .test_vm import call

TARGET = "/srv/bareforge-backup-test"
FILES = {"one", "two", "three", "four", "five"}
OFF = {"shutdown_timeout": 0, "force_off": True}


def task(name: str, arguments: Any, check: bool = False) -> Any:
    """Return the result of a task as the module has it."""
    from ansible_collections.bareforge.hypervisor.plugins.module_utils.boundary.definitions import MODULES
    from ansible_collections.bareforge.hypervisor.plugins.module_utils.boundary.result import perform
    from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.platform import KvmPlatform

    definition = MODULES[name]
    return perform(definition, KvmPlatform(), definition.parse(arguments), check=check)


def backup(host: RealHost, name: str, check: bool = False, **fields: Any) -> Any:
    arguments = {"vm": "saved", "name": name, "target": TARGET, **fields}
    return host.on_host(task, name="vm_backup", arguments=arguments, check=check, timeout=600)


def restore(host: RealHost, backup: str, check: bool = False, **fields: Any) -> Any:
    arguments = {"vm": "saved", "name": backup, **OFF, **fields}
    return host.on_host(task, name="vm_restore", arguments=arguments, check=check, timeout=900)


def write(host: RealHost, text: str) -> None:
    call(host, "guest", "saved", f"echo {text} > /disk/{text}; sync")


def files_of(host: RealHost, vm: str) -> list[str]:
    """Return the names of the files that a running guest has on its disk."""
    shown = call(host, "guest", vm, "ls /disk").split()
    return sorted(set(shown) & FILES)


LOOK = """
raw=/tmp/bareforge-look.raw; at=/tmp/bareforge-look; mkdir -p $at
qemu-img convert -O raw /var/lib/libvirt/images/bareforge/$1/root.qcow2 $raw
loop=$(losetup -fP --show $raw)
for part in ${loop}p*; do
  # Not every partition has a file system that holds the guest's files.
  if mount -t ext4 $part $at 2>/dev/null; then ls $at; umount $at; fi
done
losetup -d $loop
rm -rf $raw $at
"""


def files_on(host: RealHost, vm: str) -> list[str]:
    """Return the names of the files that a guest which is off has on its disk."""
    return sorted(set(host.run("sh", "-euc", LOOK, "sh", vm).split()) & FILES)


def names_of(host: RealHost) -> list[str]:
    return [entry["name"] for entry in host.gather("backup")["backups"]]


def partial_files(host: RealHost) -> list[str]:
    """Return whatever is in the target that is not whole, and what was noted of a run that has not ended."""
    found = host.run("sh", "-c", f"find {TARGET} /var/lib/bareforge/backups -name '.*' -o -name '*.job.json'")
    return [line for line in found.splitlines() if not line.endswith(".bareforge-backups.json")]


def checkpoints_of(host: RealHost, vm: str) -> list[str]:
    return host.run("virsh", "checkpoint-list", vm, "--name").split()


def remove(host: RealHost, *vms: str) -> None:
    host.apply({"vms": [{"name": name, "state": "absent"} for name in vms]}, operation={"shutdown_timeout": 0})


@pytest.fixture(scope="module")
def saved(tiny: RealHost) -> Iterator[RealHost]:
    """The host with a running VM `saved` of two disks, and no backups."""
    tiny.run("rm", "-rf", TARGET)
    tiny.run("rm", "-rf", "/var/lib/bareforge/backups")
    vm = {
        "name": "saved",
        "template": "tiny",
        "memory": {"size": 160},
        "disks": [{"name": "root"}, {"name": "data", "size": 160}],
        "nics": [{"name": "eth0", "network": "red", "addresses": ["10.77.10.5/24"]}],
    }
    tiny.apply({"vms": [vm]}, timeout=900)
    call(tiny, "wait_for", "saved", "lab: ready saved")
    yield tiny
    remove(tiny, "saved")
    tiny.run("rm", "-rf", TARGET)
    tiny.run("rm", "-rf", "/var/lib/bareforge/backups")
    assert call(tiny, "left_over", "saved") == []


@pytest.mark.capability("kvm", "backup", "backup.mode.full", "backup.mode.incremental", ran_against="real")
def test_a_chain_of_three_is_restored_at_each_point(saved: RealHost) -> None:
    write(saved, "one")
    assert backup(saved, "first", check=True)["changes"] == backup(saved, "first")["changes"]
    assert backup(saved, "first")["changed"] is False
    write(saved, "two")
    call(saved, "guest", "saved", "rm /disk/one; echo second > /dev/vdb; sync")
    assert backup(saved, "second", mode="incremental")["changed"] is True
    write(saved, "three")
    assert backup(saved, "third", mode="incremental")["changed"] is True
    write(saved, "four")
    assert saved.apply(saved.gather("backup"))["changed"] is False
    catalogue = saved.on_host(task, name="vm_backup", arguments={"state": "gathered"})["catalogue"]
    assert [(entry["name"], entry["parent"]) for entry in catalogue] == [
        ("first", None),
        ("second", "first"),
        ("third", "second"),
    ]
    assert catalogue[1]["size"] < catalogue[0]["size"] / 2
    assert partial_files(saved) == []
    # One is enough to tell what changes from now on.
    assert len(checkpoints_of(saved, "saved")) == 1

    points = {"first": ["one"], "second": ["two"], "third": ["three", "two"]}
    for name, expected in points.items():
        # One of them is started, since a guest takes minutes to boot on a busy machine.
        power = "running" if name == "third" else "stopped"
        planned = restore(saved, name, check=True, new_name=f"saved-{name}", power=power)
        assert restore(saved, name, new_name=f"saved-{name}", power=power)["changes"] == planned["changes"]
        assert restore(saved, name, new_name=f"saved-{name}", power=power)["changed"] is False
        if power == "stopped":
            assert files_on(saved, f"saved-{name}") == expected
        image = f"if=/var/lib/libvirt/images/bareforge/saved-{name}/data.qcow2"
        saved.run("qemu-img", "dd", "-U", "-f", "qcow2", "-O", "raw", "bs=512", "count=1", image, "of=/tmp/mark")
        assert saved.run("head", "-c", "6", "/tmp/mark").startswith("second") is (name != "first")
    vms = {vm["name"]: vm for vm in saved.gather("vm")["vms"]}
    for name in points:
        copy = vms[f"saved-{name}"]
        assert copy["nics"][0]["mac"] != vms["saved"]["nics"][0]["mac"]
        assert [disk["size"] for disk in copy["disks"]] == [disk["size"] for disk in vms["saved"]["disks"]]
    call(saved, "wait_for", "saved-third", "lab: ready")
    assert files_of(saved, "saved-third") == points["third"]
    remove(saved, *(f"saved-{name}" for name in points))
    assert [call(saved, "left_over", f"saved-{name}") for name in points] == [[], [], []]
    assert files_of(saved, "saved") == ["four", "three", "two"]


def killed_while_it_copies(arguments: Any, where: str) -> Any:
    """Make a backup in a child that is killed at a point, and return what was to be seen right after."""
    import os
    import signal

    import libvirt

    from ansible_collections.bareforge.hypervisor.plugins.module_utils.boundary.definitions import MODULES
    from ansible_collections.bareforge.hypervisor.plugins.module_utils.boundary.result import perform
    from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm import backup
    from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.platform import KvmPlatform

    child = os.fork()
    if child == 0:

        def die(*_arguments: Any) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(backup._Making, where, die)
        definition = MODULES["vm_backup"]
        perform(definition, KvmPlatform(), definition.parse(arguments))
        os._exit(0)
    _pid, status = os.waitpid(child, 0)
    domain = libvirt.open("qemu:///system").lookupByName("saved")
    try:
        job = domain.backupGetXMLDesc(0)
    except libvirt.libvirtError:
        job = ""
    return {"signal": status & 0x7F, "job": job, "names": os.listdir(arguments["target"] + "/saved")}


@pytest.mark.parametrize("where", ["_wait", "_disk_file"])
def test_a_run_that_was_killed_is_cleared_away_by_the_next(saved: RealHost, where: str) -> None:
    if where == "_wait":
        # Enough for QEMU to be copying still when the next run comes.
        call(saved, "guest", "saved", "dd if=/dev/urandom of=/dev/vdb bs=1M count=120; sync")
    before, names = checkpoints_of(saved, "saved"), names_of(saved)
    arguments = {"vm": "saved", "name": "killed", "target": TARGET}
    seen = saved.on_host(killed_while_it_copies, arguments=arguments, where=where, timeout=600)
    assert seen["signal"] == 9
    assert ".killed.partial" in seen["names"]
    assert "killed" not in seen["names"]
    if where == "_wait":
        assert "vdb" in seen["job"]
    # Any task will do.
    saved.apply({"vms": [{"name": "saved"}]}, timeout=600)
    assert partial_files(saved) == []
    assert checkpoints_of(saved, "saved") == before
    assert saved.run("virsh", "domjobinfo", "saved").split()[-1] == "None"
    write(saved, "one")
    assert "one" in files_of(saved, "saved")
    assert names_of(saved) == names


def unmeasured(arguments: Any) -> Any:
    """Make a backup whose size is not known before."""
    from ansible_collections.bareforge.hypervisor.plugins.module_utils.boundary.definitions import MODULES
    from ansible_collections.bareforge.hypervisor.plugins.module_utils.boundary.result import perform
    from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm import disk_images
    from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.platform import KvmPlatform

    disk_images.measure = lambda _path: 0
    definition = MODULES["vm_backup"]
    return perform(definition, KvmPlatform(), definition.parse(arguments))


def test_a_target_that_becomes_full_keeps_nothing_of_it(saved: RealHost) -> None:
    full = "/srv/bareforge-full-test"
    saved.run("sh", "-c", f"mkdir -p {full}; mount -t tmpfs -o size=60m,mode=0711 tmpfs {full}")
    try:
        before = checkpoints_of(saved, "saved")
        with pytest.raises(OnHostError, match=f"MiB are needed in {full}, and there are 60 MiB left"):
            backup(saved, "too-large", target=full)
        with pytest.raises(OnHostError, match=f"{full} has become full: it has 60 MiB, of which .* MiB are left after"):
            saved.on_host(unmeasured, arguments={"vm": "saved", "name": "too-large", "target": full}, timeout=600)
        assert saved.run("sh", "-c", f"ls -A {full}") == ".bareforge-backups.json"
        assert checkpoints_of(saved, "saved") == before
        assert partial_files(saved) == []
        assert saved.run("virsh", "domstate", "saved") == "running"
        backup(saved, "still", mode="incremental")
    finally:
        saved.run("sh", "-c", f"umount {full}; rmdir {full}")
    # What is not mounted is not begun anew.
    saved.run("mkdir", full)
    with pytest.raises(OnHostError, match="held a catalogue of backups that is not there now"):
        backup(saved, "again", target=full)
    saved.run("rmdir", full)


def with_another_run(arguments: Any) -> Any:
    from ansible_collections.bareforge.hypervisor.plugins.module_utils.boundary.definitions import MODULES
    from ansible_collections.bareforge.hypervisor.plugins.module_utils.boundary.result import perform
    from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.host_lock import host_lock
    from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.platform import KvmPlatform

    definition = MODULES["vm_backup"]
    with host_lock():
        return perform(definition, KvmPlatform({"lock_timeout": 1}), definition.parse(arguments))


def test_two_backups_at_once_are_refused(saved: RealHost) -> None:
    arguments = {"vm": "saved", "name": "second-run", "target": TARGET}
    with pytest.raises(OnHostError, match=r"another run, process [0-9]+ on the host, has held"):
        saved.on_host(with_another_run, arguments=arguments)
    # One of somebody else's, in pull mode, which lasts until it is ended.
    xml = "<domainbackup mode='pull'><server transport='unix' socket='/run/bareforge-test.sock'/></domainbackup>"
    saved.run("sh", "-c", f'echo "{xml}" > /tmp/pull.xml; virsh backup-begin saved /tmp/pull.xml')
    try:
        with pytest.raises(OnHostError, match=r"backup\['saved/second-run'\]: .*(job|backup)"):
            backup(saved, "second-run")
        assert partial_files(saved) == []
        assert "pull" in saved.run("virsh", "backup-dumpxml", "saved")
    finally:
        saved.run("virsh", "domjobabort", "saved")


def test_in_place_the_running_vm_is_taken_back(saved: RealHost) -> None:
    with pytest.raises(OnHostError, match="VM 'saved' is running; allowed with allow_restart: true"):
        restore(saved, "second")
    (before,) = saved.gather("vm")["vms"]
    assert restore(saved, "second", allow_restart=True)["changes"][0]["action"] == "restore"
    call(saved, "wait_for", "saved", "lab: ready saved")
    assert files_of(saved, "saved") == ["two"]
    assert saved.gather("vm")["vms"] == [before]
    assert saved.run("sh", "-c", "ls -A /var/lib/libvirt/images/bareforge/saved").split() == [
        "data.qcow2",
        "root.qcow2",
        "seed.iso",
    ]
    with pytest.raises(OnHostError, match="was not noted: libvirt has no checkpoint of it; allowed is mode: full"):
        backup(saved, "next", mode="incremental")
    backup(saved, "next", keep=1)
    assert names_of(saved) == ["next"]


def test_a_damaged_file_is_named_before_anything_is_touched(saved: RealHost) -> None:
    path = f"{TARGET}/saved/next/root.qcow2"
    damage = "printf x | dd of=%s bs=1 seek=%s conv=notrunc 2>&1"
    saved.run("sh", "-c", f"cp --preserve=all {path} /tmp/kept.qcow2; {damage % (path, 1000000)}")
    with pytest.raises(OnHostError, match=f"cannot be restored: {path} has changed: its SHA-256 is"):
        restore(saved, "next", allow_restart=True)
    assert saved.run("virsh", "domstate", "saved") == "running"
    saved.run("mv", "/tmp/kept.qcow2", path)


def test_what_changed_while_it_was_off_and_while_it_ran_is_in_one_chain(saved: RealHost) -> None:
    backup(saved, "off-1")
    write(saved, "five")
    saved.apply({"vms": [{"name": "saved", "power": "stopped"}]}, operation={"shutdown_timeout": 300}, timeout=900)
    backup(saved, "off-2", mode="incremental")
    assert len(checkpoints_of(saved, "saved")) == 1
    saved.apply({"vms": [{"name": "saved", "power": "running"}]}, timeout=900)
    call(saved, "wait_for", "saved", "lab: ready saved")
    call(saved, "guest", "saved", "rm /disk/three; sync")
    backup(saved, "off-3", mode="incremental")
    restore(saved, "off-3", new_name="saved-off", power="running")
    call(saved, "wait_for", "saved-off", "lab: ready")
    found = files_of(saved, "saved-off")
    assert found == files_of(saved, "saved")
    assert ("five" in found, "three" in found) == (True, False)
    remove(saved, "saved-off")


def ended_meanwhile(arguments: Any, how: str) -> Any:
    """Make a backup of a VM that is ended once QEMU copies it."""
    from ansible_collections.bareforge.hypervisor.plugins.module_utils.boundary.definitions import MODULES
    from ansible_collections.bareforge.hypervisor.plugins.module_utils.boundary.result import perform
    from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm import backup, domains
    from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.platform import KvmPlatform

    wait = backup._Making._wait

    def end_and_wait(self: Any, domain: Any) -> None:
        domain.destroy()
        if how == "removed":
            domains.undefine(domain, domains.Directories())
        wait(self, domain)

    backup._Making._wait = end_and_wait
    definition = MODULES["vm_backup"]
    return perform(definition, KvmPlatform(), definition.parse(arguments))


def test_a_vm_that_ends_meanwhile_is_told(saved: RealHost) -> None:
    write(saved, "one")
    backup(saved, "last")
    arguments, names = {"vm": "saved", "name": "ended", "target": TARGET}, names_of(saved)
    with pytest.raises(OnHostError, match="VM 'saved' has stopped while it was copied"):
        saved.on_host(ended_meanwhile, arguments=arguments, how="stopped", timeout=600)
    assert partial_files(saved) == []
    saved.apply({"vms": [{"name": "saved", "power": "running"}]}, timeout=600)
    with pytest.raises(OnHostError, match="VM 'saved' was removed while it was copied"):
        saved.on_host(ended_meanwhile, arguments=arguments, how="removed", timeout=600)
    assert partial_files(saved) == []
    assert names_of(saved) == names


def test_a_vm_that_is_gone_is_made_anew_from_its_backup(saved: RealHost) -> None:
    saved.run("rm", "-rf", "/var/lib/libvirt/images/bareforge/saved", "/var/log/libvirt/bareforge/saved.log")
    # As on another host, which has the directory and knows nothing of it.
    saved.run("rm", "-rf", "/var/lib/bareforge/backups")
    with pytest.raises(OnHostError, match="VM 'saved' has no backup 'last'; there are: none"):
        restore(saved, "last")
    result = restore(saved, "last", target=TARGET, power="running")
    assert result["changes"][0]["action"] == "create"
    call(saved, "wait_for", "saved", "lab: ready saved")
    assert files_of(saved, "saved") == ["one", "two"]


def test_a_snapshot_ends_what_was_noted_and_says_so(saved: RealHost) -> None:
    backup(saved, "before-snapshot")
    (warning,) = saved.apply({"snapshots": [{"vm": "saved", "name": "kept"}]}, timeout=600)["warnings"]
    assert "the next backup of it has to be a full one" in warning
    with pytest.raises(
        OnHostError, match=r"was not noted: .*\(a snapshot has been taken since\); allowed is mode: full"
    ):
        backup(saved, "after", mode="incremental")
    assert "so no incremental backup can build on this one" in backup(saved, "after")["warnings"][0]
    saved.apply({"snapshots": [{"vm": "saved", "name": "kept", "state": "absent"}]}, timeout=600)
