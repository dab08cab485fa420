# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later


"""What is read of a host of the RHEL family: packages of rpm, SELinux, ids of distributions; and which rules are about it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import ReadError
from ansible_collections.bareforge.hypervisor.plugins.module_utils.hardening.target import Condition
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.linux import host_reader, ssh_server
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.linux.host_reader import HostReader
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.linux.settings import (
    Package,
    SelinuxMode,
    SelinuxProcess,
)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "rpm").touch()
    monkeypatch.setattr(host_reader, "DPKG_QUERY", str(tmp_path / "no-dpkg"))
    monkeypatch.setattr(host_reader, "RPM", str(tmp_path / "rpm"))
    monkeypatch.setattr(host_reader, "SELINUX", str(tmp_path / "enforce"))
    monkeypatch.setattr(host_reader, "SELINUX_CONFIG", str(tmp_path / "config"))
    monkeypatch.setattr(host_reader, "PROC", str(tmp_path / "proc"))
    return tmp_path


def find(setting: Any) -> Any:
    return HostReader({"rule": setting}, []).survey().findings["rule"]


def test_packages_of_rpm(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def run(argv: Any, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        asked.append(argv)
        return subprocess.CompletedProcess(argv, 0, "audit\t3.1.2-2.el9\nNetworkManager\t1.48.10-2.el9\n", "")

    monkeypatch.setattr(host_reader, "run_program", run)
    reader = HostReader(
        {"rule": Package(package="NetworkManager")}, [Condition("package_installed", ("auditd", "audit"))]
    )
    survey = reader.survey()
    assert survey.findings["rule"].values == {"": {"": "1.48.10-2.el9"}}
    assert list(survey.conditions.values()) == [True]
    assert len(asked) == 1
    assert reader.packages().get("telnet-server") is None


def test_rpm_that_fails_is_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess(["rpm"], 1, "", "error: rpmdb open failed\n")
    monkeypatch.setattr(host_reader, "run_program", lambda argv: failed)
    with pytest.raises(ReadError, match="rpm failed: error: rpmdb open failed"):
        HostReader({}, []).packages()


@pytest.mark.parametrize(
    ("enforce", "config", "now", "later"),
    [
        ("1", "SELINUX=enforcing\n", "enforcing", {}),
        ("0", "# SELINUX=x\nSELINUX=enforcing\n", "permissive", {"": {"": "enforcing"}}),
        ("1", "SELINUX=Permissive\n", "enforcing", {"": {"": "permissive"}}),
        (None, None, "disabled", {}),
    ],
)
def test_what_selinux_does_now_and_at_the_next_start(
    root: Path, enforce: str | None, config: str | None, now: str, later: Any
) -> None:
    for name, text in (("enforce", enforce), ("config", config)):
        if text is not None:
            (root / name).write_text(text)
    finding = find(SelinuxMode())
    assert (finding.values, finding.later) == ({"": {"": now}}, later)
    assert len(finding.notes) == len(later)


def test_types_of_the_processes_of_a_program(root: Path) -> None:
    setting = SelinuxProcess(program="qemu-[ks][vy]*")
    assert find(setting).missing
    labels = {
        "7": ("qemu-kvm", "system_u:system_r:svirt_t:s0:c1,c2\n"),
        "8": ("qemu-system-x86", "system_u:system_r:virtqemud_t:s0\0"),
        "9": ("qemu-storage-da", "system_u:system_r:virtd_t:s0\n"),
        "10": ("qemu-kvm", "unconfined\n"),
    }
    for number, (name, label) in labels.items():
        folder = root / "proc" / number / "attr"
        folder.mkdir(parents=True)
        (folder / "current").write_text(label)
        (folder.parent / "comm").write_text(f"{name}\n")
    assert find(setting).values == {"process 7": {"": "svirt_t"}, "process 8": {"": "virtqemud_t"}}


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ('ID="rocky"\nVERSION_ID="9.4"\n', ("rocky", "rocky94", "rocky9")),
        ("ID=fedora\nVERSION_ID=43\n", ("fedora", "fedora43")),
        ('ID=ubuntu\nVERSION_ID="24.04"\n', ("ubuntu", "ubuntu2404", "ubuntu24")),
    ],
)
def test_ids_that_a_distribution_answers_to(monkeypatch: pytest.MonkeyPatch, text: str, ids: tuple[str, ...]) -> None:
    monkeypatch.setattr(host_reader, "read_text", lambda path: text)
    assert HostReader({}, []).distribution() == ids


@pytest.mark.parametrize(
    ("units", "expected"),
    [([], "ssh.service"), (["sshd.service"], "sshd.service"), (["ssh.service", "sshd.service"], "ssh.service")],
)
def test_an_ssh_server_is_known_by_either_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, units: list[str], expected: str
) -> None:
    for unit in units:
        (tmp_path / unit).touch()
    monkeypatch.setattr(ssh_server, "FOLDERS", (str(tmp_path),))
    assert ssh_server.ssh_unit() == expected
    assert len(ssh_server.ssh_units()) == 2


PROFILE = Path(__file__).resolve().parents[6] / "profiles" / "kvm" / "foundation.yml"
FAMILY = ["rhel", "centos", "rocky", "almalinux", "fedora"]


@pytest.mark.parametrize(
    ("of_debian", "of_family"),
    [
        ("qemu-not-root", "qemu-not-root-redhat"),
        ("services-apparmor", "selinux-enforcing"),
        ("packages-telnet-server", "packages-telnet-server-redhat"),
        ("services-time", "services-time-redhat"),
        ("libvirt-tcp-closed", "libvirt-drivers-tcp-closed"),
    ],
)
def test_rules_that_name_parts_of_debian_have_one_for_the_rhel_family(of_debian: str, of_family: str) -> None:
    rules = {rule["id"]: rule for rule in yaml.safe_load(PROFILE.read_text(encoding="utf-8"))["rules"]}
    assert rules[of_family]["applies_when"]["distribution"] == FAMILY
    assert rules[of_family]["setting"] != rules[of_debian]["setting"]
    where = rules[of_debian].get("applies_when", {}).get("distribution", [])
    assert not set(where) & set(FAMILY)


def test_nothing_of_debian_is_set_on_the_rhel_family() -> None:
    text = PROFILE.read_text(encoding="utf-8")
    for rule in yaml.safe_load(text)["rules"]:
        named = str([rule["setting"], rule.get("set"), rule["expected"]])
        if any(word in named for word in ("libvirt-qemu", "apparmor")):
            conditions = rule["applies_when"]
            assert (
                conditions.get("distribution") == ["debian", "ubuntu"]
                or "libvirt-daemon-system" in str(conditions)
                or (conditions == {"file_exists": "/sys/kernel/security/apparmor/profiles"})
            ), rule["id"]
