# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Updates of a real KVM host in maintenance: by the role, from package archives that the test makes on the host."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..real_host import REMOTE, RealHost
from .playbooks import Playbooks, task

FOLDER = "/var/tmp/bareforge-archives"
PLAIN, SECURE = "bareforge-test-plain", "bareforge-test-secure"


def make_archives(folder: str, versions: dict[str, str]) -> None:
    """Make a package of each name and version, in an archive of updates and one of security updates, each signed by nobody.

    The one in the security archive asks for a start of the host, as the scripts of a kernel's package do.
    """
    import hashlib
    import os
    import subprocess

    labels = {"plain": ("Debian", "stable-updates"), "secure": ("Debian-Security", "stable-security")}
    for name, version in versions.items():
        kind = name.rpartition("-")[2]
        archive, package = f"{folder}/{kind}", f"{folder}/build/{name}"
        os.makedirs(archive, exist_ok=True)
        os.makedirs(f"{package}/DEBIAN", exist_ok=True)
        control = f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: Test <test@example.org>\nDescription: a test\n"
        with open(f"{package}/DEBIAN/control", "w", encoding="ascii") as file:
            file.write(control)
        if kind == "secure" and version != "1.0":
            with open(f"{package}/DEBIAN/postinst", "w", encoding="ascii") as file:
                file.write(f"#!/bin/sh\nset -e\ntouch /run/reboot-required\necho {name} >> /run/reboot-required.pkgs\n")
            os.chmod(f"{package}/DEBIAN/postinst", 0o755)  # noqa: S103 - what dpkg-deb asks for
        made = f"{archive}/{name}_{version}_all.deb"
        subprocess.run(["dpkg-deb", "--build", "--root-owner-group", package, made], check=True, capture_output=True)
        with open(made, "rb") as file:
            content = file.read()
        entry = f"{control}Filename: ./{os.path.basename(made)}\nSize: {len(content)}\nSHA256: {hashlib.sha256(content).hexdigest()}\n"
        with open(f"{archive}/Packages", "w", encoding="ascii") as file:
            file.write(entry)
        label, suite = labels[kind]
        digest = hashlib.sha256(entry.encode()).hexdigest()
        with open(f"{archive}/Release", "w", encoding="ascii") as file:
            file.write(
                f"Origin: Debian\nLabel: {label}\nSuite: {suite}\nVersion: 12\nCodename: {suite}\n"
                f"Date: Wed, 25 Nov 2026 12:00:00 UTC\nSHA256:\n {digest} {len(entry)} Packages\n"
            )
    if set(versions.values()) == {"1.0"}:
        debs = [f"{folder}/{name.rpartition('-')[2]}/{name}_1.0_all.deb" for name in versions]
        subprocess.run(["dpkg", "--install", *debs], check=True, capture_output=True)


@pytest.fixture(scope="module")
def archives(host: RealHost) -> Iterator[RealHost]:
    """The host with two packages of version 1.0, and archives of its own alone that have 1.1 of them."""
    host.shell(
        f"""
        rm -rf {FOLDER}; mkdir -p {FOLDER}/kept
        mv /etc/apt/sources.list /etc/apt/sources.list.d /var/lib/apt/lists {FOLDER}/kept/ 2>/dev/null || true
        mkdir -p /etc/apt/sources.list.d /var/lib/apt/lists/partial
        echo 'deb [trusted=yes] file:{FOLDER}/plain ./' > /etc/apt/sources.list.d/test.list
        echo 'deb [trusted=yes] file:{FOLDER}/secure ./' >> /etc/apt/sources.list.d/test.list
        """
    )
    host.on_host(make_archives, folder=FOLDER, versions={PLAIN: "1.0", SECURE: "1.0"})
    host.on_host(make_archives, folder=FOLDER, versions={PLAIN: "1.1", SECURE: "1.1"})
    host.run("apt-get", "-q", "update", timeout=300)
    yield host
    host.shell(
        f"""
        dpkg --purge {PLAIN} {SECURE} >/dev/null
        rm -rf /etc/apt/sources.list.d /var/lib/apt/lists /run/reboot-required /run/reboot-required.pkgs
        rm -f /var/lib/bareforge/maintenance.json /etc/motd.d/bareforge-maintenance
        mv {FOLDER}/kept/sources.list* /etc/apt/ 2>/dev/null || true
        mv {FOLDER}/kept/lists /var/lib/apt/
        rm -rf {FOLDER}
        """,
        timeout=300,
    )


@pytest.fixture(scope="module")
def guests(tiny: RealHost) -> Iterator[RealHost]:
    """The host with a guest that runs, one that is suspended, and one that is off though it starts with the host."""
    common = {"template": "tiny", "clone": "linked", "memory": {"size": 192}}
    vms: list[dict[str, Any]] = [
        {"name": "up-on", **common},
        {"name": "up-held", **common},
        {"name": "up-off", **common, "power": "stopped", "autostart": True},
    ]
    tiny.apply({"vms": vms}, timeout=600)
    for name in ("up-on", "up-held"):
        tiny.on_host(
            "def main(name):\n    import guest_tools\n    guest_tools.wait_for(name, 'lab: ready')",
            name=name,
            timeout=700,
        )
    tiny.apply({"vms": [{"name": "up-held", "power": "suspended"}]})
    yield tiny
    tiny.apply(
        {"vms": [{"name": vm["name"], "state": "absent"} for vm in vms]}, operation={"shutdown_timeout": 0}, timeout=300
    )


def updates(host: RealHost) -> Any:
    """Return what host_info tells of updates."""

    def read() -> Any:
        from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.platform import KvmPlatform

        return KvmPlatform().updates()

    return host.on_host(read)


def powers(host: RealHost) -> dict[str, str]:
    """Return what libvirt's own program says of each guest."""
    names = ("up-on", "up-held", "up-off")
    return {name: host.run("virsh", "domstate", name) for name in names}


AS_BEFORE = {"up-on": "running", "up-held": "paused", "up-off": "shut off"}


def versions(host: RealHost) -> list[str]:
    return host.run("dpkg-query", "--show", "--showformat=${Version} ", PLAIN, SECURE).split()


def role(**variables: Any) -> list[dict[str, Any]]:
    """Return the tasks of a play that updates the host."""
    return [
        {"ansible.builtin.setup": {"gather_subset": ["!all", "!min", "pkg_mgr", "distribution"]}},
        {
            "ansible.builtin.include_role": {"name": "bareforge.hypervisor.kvm_host", "tasks_from": "updates"},
            "vars": {"kvm_host_updates_shutdown_timeout": 240, **variables},
        },
    ]


@pytest.fixture
def playbooks(archives: RealHost, guests: RealHost, tmp_path: Path) -> Playbooks:
    # A server under emulation takes longer than 10 s for sudo when it is busy, as it is after a run that was killed.
    return Playbooks(guests, tmp_path, ansible_timeout=120)


@pytest.mark.capability("kvm", "updates", ran_against="real")
def test_pending_updates_are_told_and_nothing_is_changed_by_it(archives: RealHost) -> None:
    def state() -> str:
        return archives.shell(
            "find /var/lib/apt /var/cache/apt /var/lib/dpkg -printf '%p %T@ %s\\n' | sort | sha256sum"
        )

    before = state()
    told = updates(archives)
    assert state() == before
    assert [(each["package"], each["installed"], each["candidate"], each["security"]) for each in told["pending"]] == [
        (PLAIN, "1.0", "1.1", False),
        (SECURE, "1.0", "1.1", True),
    ]
    assert [each["origins"] for each in told["pending"]] == [
        ["Debian:12/stable-updates"],
        ["Debian-Security:12/stable-security"],
    ]
    assert (told["security"], told["reboot_required"], told["reboot_reasons"]) == (1, False, [])
    assert abs(told["lists_time"] - int(archives.run("date", "+%s"))) < 3600


@pytest.mark.capability("kvm", "maintenance", ran_against="real")
@pytest.mark.capability("kvm", "updates", ran_against="real")
def test_security_updates_come_with_a_start_and_exactly_what_ran_before_runs(
    playbooks: Playbooks, guests: RealHost
) -> None:
    assert powers(guests) == AS_BEFORE
    guests.run("apt-mark", "auto", SECURE)
    booted = guests.run("cat", "/proc/sys/kernel/random/boot_id")
    planned = playbooks.play(*role(kvm_host_updates="security"), arguments=["--check"], timeout=600)
    assert "failed" not in {status for status, _result in planned}, playbooks.output
    assert (versions(guests), powers(guests)) == (["1.0", "1.0"], AS_BEFORE)
    results = playbooks.play(*role(kvm_host_updates="security"), timeout=1500)
    assert "failed" not in {status for status, _result in results}, playbooks.output
    # Its /tmp, with what the tests have put there, went with the start.
    guests.push()
    text = (Path(__file__).parent / "guest_tools.py").read_text(encoding="utf-8")
    guests.run("sh", "-c", f"cat > {REMOTE}/guest_tools.py", stdin=text)
    assert guests.run("cat", "/proc/sys/kernel/random/boot_id") != booted
    assert versions(guests) == ["1.0", "1.1"]
    assert guests.run("apt-mark", "showauto", SECURE) == SECURE
    assert powers(guests) == AS_BEFORE
    assert guests.run("virsh", "dominfo", "up-off").count("Autostart:      enable") == 1
    assert updates(guests)["reboot_reasons"] == []
    again = playbooks.play(*role(kvm_host_updates="security"), timeout=600)
    assert {result.get("changed", False) for _status, result in again} == {False}, playbooks.output
    # It stood still with its memory over the start of the host.
    guests.run("virsh", "resume", "up-held")
    uptime = guests.on_host(
        "def main(name):\n    import guest_tools\n    return guest_tools.guest(name, 'cat /proc/uptime')",
        name="up-held",
    )
    assert float(uptime.split()[0]) > 0
    assert guests.on_host(
        "def main(name):\n    import guest_tools\n    return guest_tools.console(name).count('lab: ready')",
        name="up-held",
    ) in (0, 1), "it has not booted a second time"
    guests.apply({"vms": [{"name": "up-held", "power": "suspended"}]})


@pytest.mark.capability("kvm", "maintenance", ran_against="real")
def test_a_run_that_is_killed_is_finished_by_the_next(playbooks: Playbooks, guests: RealHost) -> None:
    assert powers(guests) == AS_BEFORE
    running = playbooks.start(*role())
    deadline = time.monotonic() + 400
    while guests.run("virsh", "domstate", "up-on") != "shut off":
        assert time.monotonic() < deadline and running.poll() is None, running.communicate()[0]
        time.sleep(0.5)
    os.killpg(running.pid, signal.SIGKILL)
    running.communicate()
    assert guests.run("cat", "/etc/motd.d/bareforge-maintenance").startswith("In maintenance since")
    results = playbooks.play(*role(kvm_host_updates_reboot="never"), timeout=900)
    assert "failed" not in {status for status, _result in results}, playbooks.output
    assert versions(guests) == ["1.1", "1.1"]
    assert powers(guests) == AS_BEFORE
    assert (
        guests.run(
            "sh", "-c", "ls /var/lib/bareforge/maintenance.json /etc/motd.d/bareforge-maintenance 2>/dev/null || true"
        )
        == ""
    )


@pytest.mark.capability("kvm", "maintenance", ran_against="real")
def test_a_host_in_maintenance_for_another_reason_is_left_alone(playbooks: Playbooks, guests: RealHost) -> None:
    playbooks.play(task("maintenance", state="entered", reason="a new power supply"))
    results = playbooks.play(*role(kvm_host_updates_reboot="always"), timeout=300)
    (status, result) = results[-1]
    assert status == "failed"
    assert "is in maintenance since" in result["msg"] and "a new power supply" in result["msg"]
    assert powers(guests) == AS_BEFORE
    playbooks.play(task("maintenance", state="left"))
    assert powers(guests) == AS_BEFORE
