# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Hardening of a real host: what the profile demands is looked at with the system's own tools as well."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.hardening import KvmHardening
from ansible_collections.bareforge.hypervisor.plugins.plugin_utils.hardening_profile import load_profile

from ..real_host import OnHostError, RealHost

Picture = dict[str, Any]
Run = Callable[..., dict[str, Any]]

# The lab's processor is emulated in software, where the kernel's defences would cost minutes and defend nothing.
LAB_EXCEPTION = {
    "rule": "kernel-mitigations-on",
    "reason": "The processor is emulated in software, without the flaws.",
    "expires": "2099-12-31",
}


def run_on_host(
    data: dict[str, Any],
    mode: str,
    exceptions: list[Any],
    rules: list[str],
    check: bool,
    die_at: str | None,
) -> dict[str, Any]:
    """Run a profile on the host; the process ends hard before the first step whose summary begins with `die_at`."""
    import os

    from ansible_collections.bareforge.hypervisor.plugins.module_utils.hardening import evaluation, profile
    from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.hardening import KvmHardening
    from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.platform import KvmPlatform
    from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.linux import hardening

    if die_at is not None:
        for cls in (hardening.WriteFile, hardening.WriteSshdFile, hardening.SetPermissions, hardening.RunSystemctl):

            def carry_out(step, state, go_on=cls.carry_out):  # type: ignore[no-untyped-def]
                if step.summary.startswith(die_at):
                    os._exit(9)
                return go_on(step, state)

            cls.carry_out = carry_out  # type: ignore[method-assign]
    target = next(item for item in KvmPlatform().interfaces if isinstance(item, KvmHardening))
    checked = profile.parse_profile(data, KvmHardening, "kvm")
    order = evaluation.Order(mode, rules, (), profile.parse_exceptions(exceptions, checked), "2026-11-25", check)
    try:
        return evaluation.run(target, checked, order)
    except evaluation.HardeningFailed as failure:
        return {**failure.result, "failed": failure.message}


def picture_of_host() -> dict[str, Any]:
    """Return the bytes, mode, owner and time of every file of configuration, and what the kernel says."""
    import glob
    import hashlib
    import os

    files = {}
    for root, _folders, names in os.walk("/etc"):
        for path in [root, *(os.path.join(root, name) for name in names)]:
            status = os.lstat(path)
            entry: list[Any] = [status.st_mode, status.st_uid, status.st_gid]
            if os.path.islink(path):
                entry.append(os.readlink(path))
            elif os.path.isfile(path):
                with open(path, "rb") as file:
                    entry.extend([hashlib.sha256(file.read()).hexdigest(), status.st_mtime_ns])
            files[path] = entry
    # libvirt itself writes its filters anew when it starts, and a profile of AppArmor for each guest that it starts.
    of_libvirt = ("/etc/libvirt/nwfilter/", "/etc/apparmor.d/libvirt/libvirt-")
    files = {path: entry for path, entry in files.items() if not path.startswith(of_libvirt)}
    kernel = {}
    for pattern in ("kernel/*", "kernel/yama/*", "net/core/bpf*", "net/ipv4/conf/*/*", "net/ipv6/conf/*/*", "fs/*"):
        for path in glob.glob(f"/proc/sys/{pattern}"):
            if path.rsplit("/", 1)[1] in ("pty", "random", "ns_last_pid", "stable_secret", "file-nr", "inode-nr"):
                continue
            if "-state" in path or "-nr" in path:
                continue
            try:
                with open(path) as file:
                    kernel[path] = file.read()
            except OSError:
                pass
    return {"files": files, "kernel": kernel}


def differences(before: Picture, after: Picture) -> list[str]:
    return [
        f"{part}: {key}: {before[part].get(key)} -> {after[part].get(key)}"
        for part in ("files", "kernel")
        for key in sorted(before[part].keys() | after[part].keys())
        if before[part].get(key) != after[part].get(key)
    ]


@pytest.fixture(scope="module")
def data() -> dict[str, Any]:
    """The shipped profile as the action sends it."""
    return load_profile("foundation", "kvm", KvmHardening, Path("/"))[0]


@pytest.fixture(scope="module")
def harden(host: RealHost, data: dict[str, Any]) -> Run:
    def run(
        mode: str, *, rules: tuple[str, ...] = (), check: bool = False, die_at: str | None = None
    ) -> dict[str, Any]:
        return host.on_host(
            run_on_host, timeout=600, data=data, mode=mode, exceptions=[LAB_EXCEPTION], rules=list(rules),
            check=check, die_at=die_at,
        )  # fmt: skip

    return run


@pytest.fixture(scope="module")
def before(host: RealHost, harden: Run) -> Iterator[Picture]:
    """The host as it was; it is so again at the end."""
    harden("revert")
    yield host.on_host(picture_of_host)
    harden("revert")


@pytest.fixture(scope="module")
def enforced(harden: Run, before: Picture) -> dict[str, Any]:
    """What the first enforcing run of this module said, with its plan."""
    plan = harden("enforce", check=True)
    return {"plan": plan, "result": harden("enforce")}


def statuses(result: dict[str, Any]) -> dict[str, str]:
    return {rule["id"]: rule["status"] for rule in result["rules"]}


@pytest.mark.capability("kvm", "hardening.audit", ran_against="real")
def test_audit_finds_what_a_fresh_server_lacks_and_changes_nothing(
    host: RealHost, harden: Run, before: Picture
) -> None:
    result = harden("audit")
    found = statuses(result)
    assert not result["changed"]
    assert "error" not in found.values()
    assert result["score"]["percent"] < 90
    # What is known of a fresh Debian server.
    for rule in (
        "kernel-pointers-hidden",
        "network-redirects-ignored",
        "sshd-x11-off",
        "sshd-few-attempts",
        "qemu-apparmor",
    ):
        assert found[rule] == "fail", rule
    for rule in (
        "kernel-address-randomisation",
        "files-password-hashes",
        "libvirt-socket-authenticated",
        "services-apparmor",
    ):
        assert found[rule] == "pass", rule
    assert found["kernel-user-namespaces-off"] == "exception"
    assert differences(before, host.on_host(picture_of_host)) == []


@pytest.mark.capability("kvm", "hardening.enforce", ran_against="real")
def test_enforcing_reaches_all_of_what_applies_as_planned_and_then_changes_nothing(
    host: RealHost, harden: Run, enforced: dict[str, Any]
) -> None:
    plan, result = enforced["plan"], enforced["result"]
    assert "failed" not in result, result.get("failed")
    assert result["score"]["percent"] == 100
    assert plan["changed"]
    assert plan["changes"] == result["changes"]
    assert plan["diff"] == result["diff"]
    again = harden("enforce")
    assert not again["changed"]
    assert again["score"]["percent"] == 100
    # A new login, with root's rights, after the server has read its configuration anew.
    assert host.answers(60)
    assert host.run("id", "-u", fresh=True) == "0"


def look_at(host: RealHost) -> None:
    """Look with the system's own tools at what the rules are about."""
    wanted = {
        "kernel.kptr_restrict": "1", "kernel.sysrq": "0", "net.ipv4.conf.all.rp_filter": "2",
        "net.ipv4.conf.mgmt0.accept_redirects": "0", "net.ipv6.conf.mgmt0.accept_redirects": "0",
    }  # fmt: skip
    names = list(wanted)
    assert host.run("sysctl", "-n", *names).split() == list(wanted.values())
    sshd = host.run("sshd", "-T").splitlines()
    assert {"x11forwarding no", "maxauthtries 4", "logingracetime 60"} <= set(sshd)
    assert not any("hmac-sha1" in line for line in sshd if line.startswith("macs "))
    with pytest.raises(RuntimeError, match="dccp"):
        host.run("modprobe", "dccp")
    assert host.run("stat", "-c", "%a", "/etc/ssh/sshd_config") == "600"


@pytest.mark.capability("kvm", "hardening.enforce", ran_against="real")
def test_the_system_itself_shows_what_was_enforced(host: RealHost, enforced: dict[str, Any]) -> None:
    look_at(host)


GUEST = """
<domain type='kvm'><name>confined</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type></os></domain>
"""


@pytest.mark.capability("kvm", "hardening.enforce", ran_against="real")
def test_a_guest_starts_on_the_hardened_host_and_is_confined(host: RealHost, enforced: dict[str, Any]) -> None:
    host.shell("modprobe kvm_amd nested=1 2>/dev/null || true")
    host.shell(f"cat > /run/confined.xml <<'EOF'\n{GUEST}\nEOF\nvirsh create /run/confined.xml", timeout=300)
    try:
        pid = host.run("cat", "/run/libvirt/qemu/confined.pid")
        assert host.run("cat", f"/proc/{pid}/attr/current").endswith("(enforce)")
        status = dict(line.split(":\t", 1) for line in host.run("cat", f"/proc/{pid}/status").splitlines())
        assert status["Seccomp"] == "2"
        assert status["Uid"].split()[0] == host.run("id", "-u", "libvirt-qemu")
        assert "0 " in " ".join(host.run("cat", f"/proc/{pid}/limits").split("Max core file size")[1].split()[:2]) + " "
    finally:
        host.run("virsh", "destroy", "confined", check=False)
        host.run("rm", "-f", "/run/confined.xml")


@pytest.mark.capability("kvm", "hardening.enforce", ran_against="real")
def test_what_was_enforced_survives_a_reboot(host: RealHost, harden: Run, enforced: dict[str, Any]) -> None:
    host.reboot(600)
    result = harden("audit")
    assert result["score"]["percent"] == 100, [rule for rule in result["rules"] if rule["status"] in ("fail", "error")]
    look_at(host)


@pytest.mark.capability("kvm", "hardening.revert", ran_against="real")
def test_revert_brings_back_every_byte(host: RealHost, harden: Run, before: Picture, enforced: dict[str, Any]) -> None:
    part = harden("revert", rules=("sshd-x11-off", "qemu-seccomp"))
    assert statuses(part) == {"sshd-x11-off": "fail", "qemu-seccomp": "fail"}
    result = harden("revert")
    assert "failed" not in result, result.get("failed")
    assert result["changed"]
    assert differences(before, host.on_host(picture_of_host)) == []
    assert not harden("revert")["changed"]
    assert "x11forwarding yes" in host.run("sshd", "-T").splitlines()
    assert host.answers(60)


@pytest.mark.capability("kvm", "hardening.revert", ran_against="real")
@pytest.mark.parametrize(
    "die_at",
    ["write /etc/libvirt/qemu.conf", "set mode 0600", "write /etc/ssh/sshd_config.d", "try-reload-or-restart ssh"],
)
def test_a_run_that_was_killed_is_reverted(host: RealHost, harden: Run, before: Picture, die_at: str) -> None:
    with pytest.raises(OnHostError, match="Died: status 2304"):
        harden("enforce", die_at=die_at)
    result = harden("revert")
    assert "failed" not in result, result.get("failed")
    assert differences(before, host.on_host(picture_of_host)) == []


@pytest.mark.capability("kvm", "hardening.enforce", ran_against="real")
def test_a_run_that_was_killed_is_finished_by_the_next(host: RealHost, harden: Run, before: Picture) -> None:
    with pytest.raises(OnHostError, match="Died: status 2304"):
        harden("enforce", die_at="try-reload-or-restart ssh")
    started = host.run("systemctl", "show", "--property=ExecReload", "ssh.service")
    assert "status=" in started
    result = harden("enforce")
    assert "failed" not in result, result.get("failed")
    # The configuration was complete already: what was left to do is the reload alone.
    assert [change["action"] for change in result["changes"]] == ["try-reload-or-restart ssh.service"]
    assert result["score"]["percent"] == 100
    harden("revert")


@pytest.mark.capability("kvm", "hardening.enforce", ran_against="real")
def test_a_setting_that_sshd_refuses_never_reaches_it(host: RealHost, data: dict[str, Any], before: Picture) -> None:
    rules = [dict(rule) for rule in data["rules"] if rule["id"] in ("sshd-x11-off", "sshd-strong-ciphers")]
    for rule in rules:
        if rule["id"] == "sshd-strong-ciphers":
            rule["expected"] = {"equals": ["no-such-cipher"]}
    own = {**data, "rules": rules, "exceptions": []}
    result = host.on_host(
        run_on_host, data=own, mode="enforce", exceptions=[], rules=[], check=False, die_at=None, timeout=600
    )
    assert statuses(result) == {"sshd-x11-off": "fixed", "sshd-strong-ciphers": "error"}
    assert "sshd refuses it" in result["failed"]
    assert host.run("sshd", "-t") == ""
    assert host.answers(60)
    host.on_host(run_on_host, data=own, mode="revert", exceptions=[], rules=[], check=False, die_at=None, timeout=600)
    assert differences(before, host.on_host(picture_of_host)) == []


@pytest.mark.capability("kvm", "hardening.enforce", "hardening.revert", ran_against="real")
def test_units_and_modules_are_switched_off_and_on_again(host: RealHost, data: dict[str, Any], before: Picture) -> None:
    model = data["rules"][0]

    def rule(name: str, setting: dict[str, Any], expected: dict[str, Any]) -> dict[str, Any]:
        return {**model, "id": name, "setting": setting, "expected": expected}

    rules = [
        rule(
            "socket-off",
            {"kind": "service", "unit": "uuidd.socket"},
            {"state": {"equals": "masked"}, "active": {"equals": "inactive"}},
        ),
        rule("service-masked", {"kind": "service", "unit": "iperf3.service"}, {"state": {"equals": "masked"}}),
        rule("module-away", {"kind": "kernel_module", "module": "serio_raw"}, {"one_of": ["blocked", "absent"]}),
    ]
    own = {**data, "rules": rules, "exceptions": []}

    def run(mode: str) -> dict[str, Any]:
        return host.on_host(
            run_on_host, data=own, mode=mode, exceptions=[], rules=[], check=False, die_at=None, timeout=600
        )

    def shown() -> list[str]:
        properties = ["systemctl", "show", "--property=UnitFileState,ActiveState", "--value"]
        units = host.run(*properties, "uuidd.socket", "iperf3.service").split()
        return [*units, str("serio_raw " in host.run("cat", "/proc/modules"))]

    assert shown() == ["active", "enabled", "inactive", "disabled", "True"]
    assert set(statuses(run("enforce")).values()) == {"fixed"}
    assert shown() == ["inactive", "masked", "inactive", "masked", "False"]
    assert not run("enforce")["changed"]
    run("revert")
    assert shown() == ["active", "enabled", "inactive", "disabled", "True"]
    assert differences(before, host.on_host(picture_of_host)) == []
