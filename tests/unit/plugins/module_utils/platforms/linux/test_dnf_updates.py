# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later


"""Pending updates as dnf and rpm say them; tests/dnf asks dnf itself."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import ReadError
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.linux import dnf_updates, updates

INSTALLED = (
    "kernel-core\tx86_64\t0:5.14.0-427.el9\t100\n"
    "kernel-core\tx86_64\t0:5.14.0-503.el9\t900\n"
    "glibc\tx86_64\t0:2.34-125.el9\t800\n"
    "glibc\ti686\t0:2.34-100.el9\t200\n"
    "bind-libs\tx86_64\t32:9.16.23-1.el9\t300\n"
)
# dnf 4 prints an empty line after each, dnf 5 does not.
UPGRADES = "bind-libs\tx86_64\t32:9.16.23-5.el9\tappstream\n\nglibc\ti686\t0:2.34-125.el9\tbaseos\n\nnew\tnoarch\t0:1-1\tbaseos\n"


class Host:
    """What dnf and rpm answer."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.asked: list[str] = []
        self.fails = ""
        self.put("proc/stat", "cpu 1\nbtime 500\n")
        self.put("proc/sys/kernel/osrelease", "5.14.0-427.el9.x86_64\n")
        for name in ("vmlinuz-5.14.0-427.el9.x86_64", "vmlinuz-5.14.0-503.el9.x86_64", "vmlinuz-0-rescue-4c5"):
            self.put(f"boot/{name}", "")

    def put(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")

    def run(self, argv: Any, seconds: float) -> subprocess.CompletedProcess[str]:
        words = " ".join(argv)
        self.asked.append(words)
        if self.fails and self.fails in words:
            return subprocess.CompletedProcess(argv, 1, "", "Error: Cache-only enabled but no cache for 'baseos'\n")
        answers = {"rpm -qa": INSTALLED, "--security": UPGRADES.splitlines(True)[0], "--userinstalled": "glibc\n"}
        found = next((answer for words_of, answer in answers.items() if words_of in words), UPGRADES)
        return subprocess.CompletedProcess(argv, 0, found, "")


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    made = Host(tmp_path)
    monkeypatch.setattr(dnf_updates, "run_program", made.run)
    monkeypatch.setattr(updates, "APT_GET", "/nowhere/apt-get")
    monkeypatch.setattr(dnf_updates, "DNF", __file__)
    return made


def test_a_host_without_apt_is_asked_by_dnf_in_the_form_of_apt(host: Host) -> None:
    found = updates.read_updates(str(host.root))
    assert found["pending"] == [
        {
            "package": "bind-libs",
            "architecture": "x86_64",
            "installed": "32:9.16.23-1.el9",
            "candidate": "32:9.16.23-5.el9",
            "origins": ["appstream"],
            "security": True,
            "automatic": True,
        },
        {
            "package": "glibc",
            "architecture": "i686",
            "installed": "2.34-100.el9",
            "candidate": "2.34-125.el9",
            "origins": ["baseos"],
            "security": False,
            "automatic": False,
        },
    ]
    assert (found["security"], found["lists_time"]) == (1, None)
    assert all("--cacheonly" in words for words in host.asked if "repoquery" in words), "nothing is fetched"


def test_why_a_host_has_to_be_started_anew(host: Host) -> None:
    found = updates.read_updates(str(host.root))
    assert found["reboot_reasons"] == [
        "kernel 5.14.0-503.el9.x86_64 is installed, 5.14.0-427.el9.x86_64 runs",
        "packages that everything uses are newer than the start: glibc",
    ]
    host.put("proc/sys/kernel/osrelease", "5.14.0-503.el9.x86_64\n")
    host.put("proc/stat", "btime 850\n")
    assert updates.read_updates(str(host.root))["reboot_required"] is False
    host.put("proc/stat", "btime 250\n")
    host.put("etc/dnf/plugins/needs-restarting.d/ours.conf", "# ours\nbind-libs\n")
    [reason] = updates.read_updates(str(host.root))["reboot_reasons"]
    assert reason.endswith("bind-libs, glibc")


@pytest.mark.parametrize("folder", ["var/cache/dnf/baseos-12/repodata", "var/cache/libdnf5/baseos-12/repodata"])
def test_when_the_lists_were_fetched(host: Host, folder: str) -> None:
    (host.root / folder).mkdir(parents=True)
    assert updates.read_updates(str(host.root))["lists_time"] == int((host.root / folder).stat().st_mtime)


def test_what_dnf_cannot_tell_is_told_in_its_words(host: Host) -> None:
    host.fails = "--upgrades"
    with pytest.raises(ReadError, match="cannot be told: Error: Cache-only enabled but no cache for 'baseos'"):
        updates.read_updates(str(host.root))


def test_a_line_that_is_not_understood_is_not_left_out() -> None:
    with pytest.raises(ReadError, match="what is not understood: Last metadata"):
        dnf_updates.parse_packages("Last metadata expiration check: 0:01:00 ago\n")
