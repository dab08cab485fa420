# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Pending updates: what apt-get says of them, and why a host has to be started anew."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.boundary.definitions import MODULES
from ansible_collections.bareforge.hypervisor.plugins.module_utils.engine.platform import Platform
from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import NotSupportedError, ReadError
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm import updates as kvm_updates
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.linux import dnf_updates, updates
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.linux.kernels import version_key
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.linux.updates import (
    automatically_installed,
    lists_time,
    parse_simulation,
    read_updates,
    reboot_reasons,
)

# As apt 2.6 of Debian 12 said it, and apt 2.7 of Ubuntu 24.04.
SAID = """\
Inst base-files [12.4+deb12u11] (12.4+deb12u15 Debian:12.15/oldstable [amd64])
Conf base-files (12.4+deb12u15 Debian:12.15/oldstable [amd64])
Inst libgcrypt20-dev [1.10.1-3] (1.10.1-3+deb12u1 Debian:12.15/oldstable, Debian-Security:12/oldstable-security [amd64]) []
Inst libgcrypt20 [1.10.1-3] (1.10.1-3+deb12u1 Debian:12.15/oldstable, Debian-Security:12/oldstable-security [amd64])
Inst linux-image-6.1.0-49-amd64 (6.1.174-1 Debian-Security:12/oldstable-security [amd64])
Inst libc6:i386 [2.39-0ubuntu8.3] (2.39-0ubuntu8.4 Ubuntu:24.04/noble-updates, Ubuntu:24.04/noble-security [i386])
Inst our-tool [1] (2 packages.example.org [all])
"""
TESTS_OF_APT = pytest.mark.skipif(
    not Path("/usr/bin/apt-get").exists(), reason="a machine without apt has no updates to tell"
)


def test_what_apt_would_do_by_package() -> None:
    found = {update["package"]: update for update in parse_simulation(SAID)}
    assert list(found) == sorted(found)
    assert found["libgcrypt20-dev"] == {
        "package": "libgcrypt20-dev",
        "architecture": "amd64",
        "installed": "1.10.1-3",
        "candidate": "1.10.1-3+deb12u1",
        "origins": ["Debian:12.15/oldstable", "Debian-Security:12/oldstable-security"],
        "security": True,
    }
    assert {name for name, update in found.items() if not update["security"]} == {"base-files", "our-tool"}
    assert found["linux-image-6.1.0-49-amd64"]["installed"] is None
    assert (found["libc6:i386"]["architecture"], found["our-tool"]["origins"]) == ("i386", ["packages.example.org"])


def test_a_line_that_is_not_understood_is_not_left_out() -> None:
    with pytest.raises(ReadError, match="apt-get says what is not understood: Inst strange"):
        parse_simulation("Inst strange\n")


def test_packages_that_others_brought(tmp_path: Path) -> None:
    assert automatically_installed(str(tmp_path)) == frozenset()
    (tmp_path / "var/lib/apt").mkdir(parents=True)
    (tmp_path / "var/lib/apt/extended_states").write_text(
        "Package: libc6\nArchitecture: amd64\nAuto-Installed: 1\n\nPackage: bash\nArchitecture: amd64\nAuto-Installed: 0\n\n"
        "Package: libgcrypt20\nArchitecture: i386\nAuto-Installed: 1\n\n"
    )
    assert automatically_installed(str(tmp_path)) == {"libc6", "libgcrypt20"}


def host(root: Path, release: str, build: str, kernels: tuple[str, ...], package: str = "") -> str:
    files = {
        "proc/sys/kernel/osrelease": f"{release}\n",
        "proc/sys/kernel/version": f"{build}\n",
        "var/lib/dpkg/status": f"Package: dash\nStatus: install ok installed\nVersion: 0.5\n\n{package}\n",
        **{f"boot/vmlinuz-{kernel}": "" for kernel in kernels},
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return str(root)


DEBIAN = "#1 SMP PREEMPT_DYNAMIC Debian 6.1.76-1 (2024-02-01)"
IMAGE = "Package: linux-image-6.1.0-18-amd64\nStatus: install ok installed\nArchitecture: amd64\nVersion: {}\n"


@pytest.mark.parametrize(
    ("kernels", "version", "reasons"),
    [
        (("6.1.0-18-amd64",), "6.1.76-1", []),
        (("6.1.0-18-amd64", "6.1.0-9-amd64"), "6.1.76-1", []),
        (("6.1.0-18-amd64", "6.1.0-21-amd64"), "6.1.76-1", ["kernel 6.1.0-21-amd64 is installed, 6.1.0-18-amd64 runs"]),
        # Another flavour is no successor.
        (("6.1.0-18-amd64", "6.1.0-21-cloud-amd64", "6.9.0-rt-amd64"), "6.1.76-1", []),
        (("6.1.0-18-amd64",), "6.1.90-1", ["linux-image-6.1.0-18-amd64 6.1.90-1 is installed, 6.1.76-1 runs"]),
        # Started from elsewhere, as the lab's servers are.
        ((), "", []),
    ],
)
def test_a_newer_kernel_than_the_one_that_runs(
    tmp_path: Path, kernels: tuple[str, ...], version: str, reasons: list[str]
) -> None:
    root = host(tmp_path, "6.1.0-18-amd64", DEBIAN, kernels, IMAGE.format(version) if version else "")
    assert reboot_reasons(root) == reasons


def test_ubuntus_kernel_that_tells_a_version_of_another_form(tmp_path: Path) -> None:
    image = "Package: linux-image-6.8.0-48-generic\nStatus: install ok installed\nVersion: 6.8.0-48.48\n"
    root = host(
        tmp_path,
        "6.8.0-48-generic",
        "#48-Ubuntu SMP PREEMPT_DYNAMIC Fri Sep 27 14:04:52 UTC 2024",
        ("6.8.0-48-generic",),
        image,
    )
    assert reboot_reasons(root) == []
    (tmp_path / "boot/vmlinuz-6.8.0-100-generic").touch()
    assert reboot_reasons(root) == ["kernel 6.8.0-100-generic is installed, 6.8.0-48-generic runs"]


def test_packages_that_ask_for_a_start(tmp_path: Path) -> None:
    root = host(tmp_path, "6.1.0-18-amd64", DEBIAN, ())
    (tmp_path / "run").mkdir()
    (tmp_path / "run/reboot-required").write_text("*** System restart required ***\n")
    assert reboot_reasons(root) == ["a package asks for it"]
    (tmp_path / "run/reboot-required.pkgs").write_text("libc6\ndbus\nlibc6\n")
    assert reboot_reasons(root) == ["packages ask for it: dbus, libc6"]


def test_a_package_that_was_removed_counts_no_more(tmp_path: Path) -> None:
    removed = IMAGE.format("6.1.90-1").replace("install ok installed", "deinstall ok config-files")
    assert reboot_reasons(host(tmp_path, "6.1.0-18-amd64", DEBIAN, ("6.1.0-18-amd64",), removed)) == []


def test_versions_are_ordered_by_their_numbers() -> None:
    versions = ["6.1.0-9", "6.1.0-10", "6.9.1", "6.10.0", "6.10.0-1"]
    backwards = list(reversed(versions))
    assert sorted(backwards, key=version_key) == versions


def test_when_the_lists_were_fetched(tmp_path: Path) -> None:
    assert lists_time(str(tmp_path)) is None
    (tmp_path / "var/lib/apt/lists/partial").mkdir(parents=True)
    assert lists_time(str(tmp_path)) is None
    (tmp_path / "var/lib/apt/lists/deb_InRelease").touch()
    assert lists_time(str(tmp_path)) == int((tmp_path / "var/lib/apt/lists").stat().st_mtime)


@TESTS_OF_APT
def test_asking_apt_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real apt-get of this machine, without package lists, which would take it seconds to read."""
    (tmp_path / "lists/partial").mkdir(parents=True)
    here = [text.replace(updates.CACHE, str(tmp_path / "cache")) for text in updates.SIMULATE]
    without_lists = [*("-o", f"Dir::State::lists={tmp_path / 'lists'}"), *("-o", "Dir::Cache::pkgcache=pkgcache.bin")]
    monkeypatch.setattr(updates, "SIMULATE", [*here[:-1], *without_lists, here[-1]])
    monkeypatch.setattr(updates, "CACHE", str(tmp_path / "cache"))

    def state() -> dict[str, tuple[int, int]]:
        folders = (Path("/var/cache/apt"), Path("/var/lib/apt"), Path("/var/lib/dpkg"))
        found = {}
        for folder in folders:
            for path in [folder, *folder.rglob("*")]:
                status = path.lstat()
                found[str(path)] = (status.st_mtime_ns, status.st_size)
        return found

    before = state()
    told = read_updates()
    assert state() == before
    assert (tmp_path / "cache/pkgcache.bin").is_file()
    assert set(told) == {"pending", "security", "lists_time", "reboot_required", "reboot_reasons"}
    assert told["security"] == len([update for update in told["pending"] if update["security"]])


def test_apt_that_fails_and_apt_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 100, "", "E: The list of sources could not be read.\n")
    monkeypatch.setattr(updates, "run_program", lambda *_arguments: failed)
    monkeypatch.setattr(updates, "APT_GET", __file__)
    monkeypatch.setattr(updates, "CACHE", str(tmp_path))
    with pytest.raises(ReadError, match="the pending updates cannot be told: E: The list of sources could not be read"):
        read_updates()
    monkeypatch.setattr(updates, "APT_GET", "/nowhere/apt-get")
    monkeypatch.setattr(dnf_updates, "DNF", "/nowhere/dnf")
    with pytest.raises(ReadError, match="there is no apt-get on the host and no dnf"):
        read_updates()


def test_hugepages_that_wait_are_a_reason_for_a_start(monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, Any] = {"pending": [], "reboot_required": False, "reboot_reasons": []}
    monkeypatch.setattr(updates, "read_updates", lambda: {**told, "reboot_reasons": []})
    waits = [False]
    monkeypatch.setattr(kvm_updates.KvmTuning, "waits_for_start", lambda _self: waits[0])
    assert kvm_updates.KvmUpdates().updates()["reboot_required"] is False
    waits[0] = True
    found = kvm_updates.KvmUpdates().updates()
    assert (found["reboot_required"], found["reboot_reasons"]) == (True, [kvm_updates.WAITING])


def test_a_platform_without_updates_refuses_them() -> None:
    class Silent(Platform):
        NAME = "silent"

    definition = MODULES["host_info"]
    with pytest.raises(NotSupportedError, match="updates: platform silent does not tell any"):
        definition.perform(Silent(), definition.parse({"platform": "silent", "kinds": [], "updates": True}))
