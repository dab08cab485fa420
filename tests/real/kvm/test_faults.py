# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A real KVM host on which something breaks: the next run brings it to where it should be, and nothing is left over."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from ..real_host import REMOTE, ROOT, OnHostError, RealHost

JOB = {
    "virtual_switches": [{"name": "faulty0", "type": "internal"}],
    "virtual_networks": [{"name": "faultynet", "switch": "faulty0", "vlan": 7}],
    "vms": [
        {
            "name": "faultyvm",
            "memory": {"size": 64},
            "power": "stopped",
            "nics": [{"name": "e0", "network": "faultynet"}],
        }
    ],
}
GONE = {
    section: [{"name": item["name"], "state": "absent"} for item in objects]  # type: ignore[index]
    for section, objects in JOB.items()
}


def state_of_host() -> Any:
    """Return what the job is about, and what it could leave behind."""
    import glob

    import host_tools

    document = host_tools.gather(["virtual_switch", "virtual_network", "vm"])
    names = {section: [item["name"] for item in objects] for section, objects in document.items()}
    return {
        "documents": {section: sorted(found) for section, found in names.items()},
        "bridges": sorted(host_tools.output("ovs-vsctl", "list-br").split()),
        "networks": sorted(host_tools.output("virsh", "net-list", "--all", "--name").split()),
        "domains": sorted(host_tools.output("virsh", "list", "--all", "--name").split()),
        "files": sorted(glob.glob("/etc/bareforge/**", recursive=True) + glob.glob("/etc/systemd/network/*")),
    }


@pytest.fixture
def clean(host: RealHost) -> Iterator[RealHost]:
    host.apply(GONE)
    yield host
    host.apply(GONE)


def finish(host: RealHost) -> None:
    """Run the job to its end, and see that it stays there."""
    host.apply(JOB)
    assert not host.apply(JOB)["changed"]
    found = host.on_host(state_of_host)
    assert found["documents"] == {
        "virtual_switches": ["faulty0"],
        "virtual_networks": ["faultynet"],
        "vms": ["faultyvm"],
    }


def strike(service: str, job: Any, gone: Any, in_turn: bool) -> Any:
    """Let every fault happen at every request to libvirt or to Open vSwitch's database."""
    import json
    import os

    import faulty_wire
    import host_tools

    from ansible_collections.bareforge.hypervisor.plugins.module_utils.transports import libvirt, ovsdb

    def in_a_child(function: Any) -> Any:
        # A connection of libvirt does not survive a fork, so this process has none.
        here, there = os.pipe()
        child = os.fork()
        if child == 0:
            with os.fdopen(there, "w") as stream:
                stream.write(json.dumps(function()))
            os._exit(0)
        os.close(there)
        with os.fdopen(here) as stream:
            text = stream.read()
        os.waitpid(child, 0)
        return json.loads(text)

    def look() -> Any:
        return {
            "bridges": sorted(host_tools.output("ovs-vsctl", "list-br").split()),
            "networks": sorted(host_tools.output("virsh", "net-list", "--all", "--name").split()),
            "domains": sorted(host_tools.output("virsh", "list", "--all", "--name").split()),
            "files": sorted(os.listdir("/etc/systemd/network") + os.listdir("/var/lib/libvirt/images")),
        }

    class KvmSubject(faulty_wire.Subject):
        framing = faulty_wire.JsonRpc() if service == "ovsdb" else faulty_wire.LibvirtRpc()
        target = "/run/openvswitch/db.sock" if service == "ovsdb" else "/run/libvirt/libvirt-sock"
        listen = "/run/bareforge-wire.sock"

        def fresh(self) -> None:
            in_a_child(lambda: host_tools.apply(gone)["changed"])

        def run(self, address: Any) -> bool:
            if service == "ovsdb":
                ovsdb.database.__defaults__ = (address,)
            else:
                uri = f"qemu+unix:///system?socket={address}"
                libvirt.connection.__defaults__ = (uri,)
                libvirt.read.__defaults__ = (uri,)
            return bool(host_tools.apply(job)["changed"])

        def state(self) -> Any:
            return in_a_child(look)

    report = faulty_wire.every_fault(KvmSubject(), in_turn=in_turn)
    return report._asdict()


@pytest.mark.parametrize("service", ["ovsdb", "libvirt"])
def test_a_fault_at_every_request(clean: RealHost, service: str) -> None:
    """Under emulation each request is struck by one of the faults in turn; BAREFORGE_EVERY_FAULT=1 strikes by all."""
    text = (ROOT / "tests/support/faulty_wire.py").read_text(encoding="utf-8")
    clean.run("sh", "-c", f"cat > {REMOTE}/faulty_wire.py", stdin=text)
    in_turn = os.environ.get("BAREFORGE_EVERY_FAULT") != "1"
    report = clean.on_host(strike, timeout=3600, service=service, job=JOB, gone=GONE, in_turn=in_turn)
    print(report)
    assert report["problems"] == []
    assert report["requests"] >= 4
    assert report["strikes"] >= report["requests"]


def test_two_runs_at_once(clean: RealHost) -> None:
    other = {"virtual_switches": [{"name": "faulty1", "type": "internal"}]}
    ends: list[str] = []

    def run(document: Any) -> None:
        try:
            clean.apply(document, fresh=True)
            ends.append("done")
        except OnHostError as error:
            ends.append(error.kind)

    threads = [threading.Thread(target=run, args=(document,)) for document in (JOB, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    try:
        # One waits for the other; on a host that is slower than its patience it says so and has changed nothing.
        assert "done" in ends
        assert set(ends) <= {"done", "ConnectError"}
        clean.apply(other)
        assert not clean.apply(other)["changed"]
    finally:
        clean.apply({"virtual_switches": [{"name": "faulty1", "state": "absent"}]})
    finish(clean)


def test_libvirtd_restarted_in_mid_task(clean: RealHost) -> None:
    ended = threading.Event()

    def restart() -> None:
        while not ended.is_set():
            clean.run("systemctl", "restart", "libvirtd", fresh=True)
            ended.wait(3)

    restarting = threading.Thread(target=restart)
    restarting.start()
    errors: list[OnHostError] = []
    try:
        for _attempt in range(2):
            try:
                clean.apply(JOB)
            except OnHostError as error:
                errors.append(error)
    finally:
        ended.set()
        restarting.join()
    assert {error.kind for error in errors} <= {"ConnectError", "ApplyError", "ReadError", "VerifyError"}
    assert not any("\n" in error.message for error in errors)
    finish(clean)


def test_a_full_disk(clean: RealHost) -> None:
    before = clean.on_host(state_of_host)
    clean.shell(
        "fallocate -l $(($(df --output=avail -B1 / | tail -1) - 65536)) /filler 2>/dev/null || true\n"
        "dd if=/dev/zero of=/filler2 bs=4096 2>/dev/null || true"
    )
    interface = {"host_interfaces": [{"name": "faulty-if", "network": "faultynet", "addresses": ["10.99.7.1/24"]}]}
    try:
        with pytest.raises(OnHostError) as caught:
            clean.apply({**JOB, **interface})
        assert caught.value.kind in ("ApplyError", "ConnectError", "ReadError")
        assert "\n" not in caught.value.message
    finally:
        clean.run("rm", "-f", "/filler", "/filler2")
    finish(clean)
    clean.apply(GONE)
    assert clean.on_host(state_of_host) == before


def test_settings_that_are_read_only(clean: RealHost) -> None:
    interface = {"host_interfaces": [{"name": "faulty-if", "network": "faultynet", "addresses": ["10.99.7.1/24"]}]}
    absent = {"host_interfaces": [{"name": "faulty-if", "state": "absent"}]}
    clean.shell("mount --bind /etc /etc; mount -o remount,bind,ro /etc")
    try:
        with pytest.raises(OnHostError) as caught:
            clean.apply({**JOB, **interface})
        assert caught.value.kind == "ApplyError"
        assert "Read-only" in caught.value.message
        assert "\n" not in caught.value.message
    finally:
        # Daemons have files of it open, so it goes at once for all who look, and wholly when they close them.
        clean.run("umount", "--lazy", "/etc")
    clean.apply({**JOB, **interface})
    assert not clean.apply({**JOB, **interface})["changed"]
    clean.apply(absent)
    finish(clean)


def test_a_clock_in_1970(clean: RealHost) -> None:
    now = clean.run("date", "+%s")

    def guarded(seconds: int) -> Any:
        import os
        import time

        from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.guard import KvmGuard

        token = KvmGuard().arm_parts(["sshd"], seconds)["token"]
        end = time.monotonic() + seconds + 60
        while not os.path.exists(f"/var/lib/bareforge/guard/{token}/undone.json") and time.monotonic() < end:
            time.sleep(0.5)
        return os.path.exists(f"/var/lib/bareforge/guard/{token}/undone.json")

    clean.run("systemctl", "stop", "systemd-timesyncd", check=False)
    clean.run("date", "-s", "@86400")
    try:
        finish(clean)
        assert clean.on_host(guarded, seconds=10), "a guard counts time that passes, not what the clock says"
    finally:
        clean.run("date", "-s", f"@{now}")
        clean.run("systemctl", "start", "systemd-timesyncd", check=False)
    assert not clean.apply(JOB)["changed"]


def test_a_host_that_is_restarted_in_mid_task(clean: RealHost) -> None:
    def reset() -> None:
        # At once, as by the power button; what is not on the disk is lost.
        clean.run("sh", "-c", "sleep 1.5; echo b > /proc/sysrq-trigger", fresh=True, check=False, timeout=30)

    resetting = threading.Thread(target=lambda: _quietly(reset))
    resetting.start()
    _quietly(lambda: clean.apply(JOB, timeout=60))
    resetting.join()
    clean.close()
    clean.wait_for_ssh(300)
    clean.push()
    finish(clean)


def _quietly(function: Any) -> None:
    """Call what may break off with the host."""
    import contextlib
    import subprocess

    with contextlib.suppress(OnHostError, TimeoutError, RuntimeError, OSError, subprocess.SubprocessError):
        function()
