# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Enforcing and reverting against files of a temporary folder that stand for those of a host."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import GuardError
from ansible_collections.bareforge.hypervisor.plugins.module_utils.hardening.evaluation import (
    HardeningFailed,
    Order,
    run,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.hardening.profile import parse_profile
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.linux import (
    hardening,
    host_reader,
    saved_state,
)

LOGIN_DEFS = b"# comment\nPASS_MAX_DAYS\t99999\nUMASK 022\nodd \xff\xfe bytes\nno newline at the end"


class Killed(BaseException):
    """Stands for the process being killed."""


class Host(hardening.LinuxHardening):
    """A host below a temporary folder, on which sshd and systemctl are replaced by what the test wants of them."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.programs: list[list[str]] = []
        self.sshd_refuses: set[str] = set()
        self.armed: list[dict[Path, bytes]] = []
        self.guard_refuses = False
        for name in ("etc/sysctl.d", "etc/ssh/sshd_config.d", "etc/modprobe.d", "proc/sys/kernel", "var"):
            (root / name).mkdir(parents=True)
        for name in ("default", "eth0", "eth1.10"):
            (root / "proc/sys/net/ipv4/conf" / name).mkdir(parents=True)
            (root / "proc/sys/net/ipv4/conf" / name / "accept_redirects").write_text("1\n")
        (root / "proc/sys/kernel/sysrq").write_text("438\n")
        (root / "etc/login.defs").write_bytes(LOGIN_DEFS)
        (root / "etc/login.defs").chmod(0o664)
        os.utime(root / "etc/login.defs", ns=(10**18, 10**18))
        (root / "etc/ssh/sshd_config").write_text("Include x\nMaxAuthTries 6\nX11Forwarding yes\n")
        (root / "etc/shadow").write_text("secret")
        (root / "etc/shadow").chmod(0o644)
        monkeypatch.setattr(saved_state, "DIRECTORY", str(root / "var/bareforge"))
        for module in (hardening, host_reader):
            monkeypatch.setattr(module, "PROC_SYS", str(root / "proc/sys"))
            monkeypatch.setattr(module, "run_program", self.program)
        sshd = root / "sshd"
        sshd.write_text("")
        monkeypatch.setattr(host_reader, "SSHD", str(sshd))
        monkeypatch.setattr(hardening, "SSHD_CONFIG", str(root / "etc/ssh/sshd_config"))
        monkeypatch.setattr(hardening, "SSH_FOLDER", str(root / "etc/ssh"))
        monkeypatch.setattr(hardening, "CANDIDATE", str(root / "candidate"))
        monkeypatch.setattr(host_reader, "SYSCTL_DIRECTORIES", (str(root / "etc/sysctl.d"),))
        monkeypatch.setattr(host_reader, "MODPROBE_DIRECTORIES", (str(root / "etc/modprobe.d"),))
        for name, drop_in in list(hardening.DROP_INS.items()):
            path = str(root / drop_in.path.lstrip("/"))
            monkeypatch.setitem(hardening.DROP_INS, name, drop_in._replace(path=path))

    def program(self, arguments, timeout=60):
        self.programs.append(list(arguments))
        output, status = "", 0
        if arguments[-1:] == ["-T"]:
            values: dict[str, str] = {}
            drop_in = self.root / "etc/ssh/sshd_config.d/00-bareforge-hardening.conf"
            texts = [path.read_text() for path in (drop_in, self.root / "etc/ssh/sshd_config") if path.exists()]
            for line in "".join(texts).splitlines():
                keyword, _blank, value = line.partition(" ")
                if not keyword.startswith("#"):
                    values.setdefault(keyword.lower(), value)
            output = "".join(f"{keyword} {value}\n" for keyword, value in values.items())
        elif "-t" in arguments:
            text = Path(arguments[-1]).read_text()
            bad = [word for word in self.sshd_refuses if word in text]
            output, status = ("line 2: Bad configuration option\n", 255) if bad else ("", 0)
        elif arguments[:2] == ["systemctl", "show"]:
            output = "LoadState=loaded\nUnitFileState=enabled\nActiveState=active\n\n" * len(arguments[4:])
        return subprocess.CompletedProcess(arguments, status, output, "")

    def lock(self):
        return contextlib.nullcontext()

    def guard(self, timeout):
        if self.guard_refuses:
            raise GuardError("guard 0 waits for a confirmation, and there can be one guard at a time")
        folder = self.root / "etc/ssh"
        self.armed.append({path: path.read_bytes() for path in folder.rglob("*") if path.is_file()})
        self.programs.append(["arm"])
        return {"token": "t"}

    def fire(self):
        """Do what the host does where nobody confirms."""
        saved = self.armed.pop()
        for path in [path for path in (self.root / "etc/ssh").rglob("*") if path.is_file()]:
            if path not in saved:
                path.unlink()
        for path, content in saved.items():
            path.write_bytes(content)

    def picture(self) -> dict[str, tuple]:
        """Return everything that reverting has to bring back: bytes, modes, owners and times below etc and proc."""
        result = {}
        for folder in ("etc", "proc"):
            for path in sorted((self.root / folder).rglob("*")):
                status = path.lstat()
                content = path.read_bytes() if path.is_file() else None
                time = status.st_mtime_ns if path.name == "login.defs" else None
                result[str(path)] = (content, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, time)
        return result


@pytest.fixture
def host(tmp_path, monkeypatch):
    return Host(tmp_path, monkeypatch)


def rules_for(host, *extra):
    def rule(name, setting, expected, **fields):
        return {
            "id": name, "title": f"Rule {name} is followed", "severity": "medium", "sources": ["dev-sec"],
            "rationale": "Because the test wants it so.", "tags": [name.split("-")[0]],
            "setting": setting, "expected": expected, **fields,
        }  # fmt: skip

    login_defs = str(host.root / "etc/login.defs")
    data = {
        "name": "test", "version": "1", "platform": "linux", "title": "A profile for tests",
        "rules": [
            rule("kernel-sysrq", {"kind": "sysctl", "parameter": "kernel.sysrq"}, {"equals": 0}),
            rule("net-redirects", {"kind": "sysctl", "parameter": "net.ipv4.conf.*.accept_redirects"}, {"equals": 0}),
            rule("file-umask", {"kind": "file_setting", "path": login_defs, "keyword": "UMASK"}, {"equals": "027"}),
            rule("file-days", {"kind": "file_setting", "path": login_defs, "keyword": "PASS_MAX_DAYS"}, {"at_most": 365}),
            rule(
                "file-shadow", {"kind": "file_permissions", "path": str(host.root / "etc/shadow")},
                {"mode": {"at_most": "0600"}},
            ),
            rule(
                "file-login", {"kind": "file_permissions", "path": login_defs}, {"mode": {"at_most": "0644"}}
            ),
            rule("sshd-tries", {"kind": "sshd_setting", "keyword": "MaxAuthTries"}, {"at_most": 4}),
            rule("sshd-x11", {"kind": "sshd_setting", "keyword": "X11Forwarding"}, {"equals": "no"}),
            *[rule(*entry) for entry in extra],
        ],
    }  # fmt: skip
    return parse_profile(data, Host, "linux")


def statuses(result):
    return {entry["id"]: entry["status"] for entry in result["rules"]}


def test_enforce_twice_then_revert_brings_back_every_byte(host):
    rules, before = rules_for(host), host.picture()
    plan = run(host, rules, Order("enforce", check=True))
    assert host.picture() == before
    assert not (host.root / "var/bareforge").exists()
    result = run(host, rules, Order("enforce"))
    assert set(statuses(result).values()) == {"fixed"}
    assert result["changes"] == plan["changes"]
    assert (host.root / "etc/login.defs").read_bytes() == LOGIN_DEFS.replace(b"UMASK 022", b"UMASK 027").replace(
        b"PASS_MAX_DAYS\t99999", b"PASS_MAX_DAYS 365"
    )
    assert ["systemctl", "try-reload-or-restart", "--", "ssh.service"] in host.programs
    assert not run(host, rules, Order("enforce"))["changed"]
    assert host.enforced_rules()
    run(host, rules, Order("revert"))
    assert host.picture() == before
    assert host.enforced_rules() == []
    assert sorted(path.name for path in (host.root / "var/bareforge").iterdir()) == ["originals"]
    assert list((host.root / "var/bareforge/originals").iterdir()) == []


def test_a_part_can_be_reverted(host):
    rules, before = rules_for(host), host.picture()
    run(host, rules, Order("enforce"))
    result = run(host, rules, Order("revert", rules=["file-umask", "sshd-x11", "net-redirects"]))
    assert {name for name, status in statuses(result).items()} == {"file-umask", "sshd-x11", "net-redirects"}
    assert set(statuses(result).values()) == {"fail"}
    others = [check.id for check in rules.checks if check.id not in statuses(result)]
    assert set(statuses(run(host, rules, Order("audit", rules=others))).values()) == {"pass"}
    run(host, rules, Order("revert"))
    assert host.picture() == before


def test_killed_at_every_write_a_second_run_finishes_and_revert_brings_everything_back(host, monkeypatch):
    rules, before = rules_for(host), host.picture()
    writes = {"left": 10**6}
    originals = {
        (module, name): getattr(module, name)
        for module, name in ((saved_state, "replace_file"), (hardening, "replace_file"), (os, "chmod"), (os, "unlink"))
    }

    def counted(function):
        def call(*args, **keywords):
            if writes["left"] == 0:
                raise Killed
            writes["left"] -= 1
            return function(*args, **keywords)

        return call

    def attempt(mode, left):
        writes["left"] = left
        with monkeypatch.context() as patch:
            for (module, name), function in originals.items():
                patch.setattr(module, name, counted(function))
            try:
                run(host, rules, Order(mode))
            except Killed:
                return False
        return True

    points = 0
    for mode in ("enforce", "revert"):
        for left in range(200):
            run(host, rules, Order("revert"))
            assert host.picture() == before, (mode, left)
            if mode == "revert":
                run(host, rules, Order("enforce"))
            complete = attempt(mode, left)
            points += not complete
            if left % 2:
                result = run(host, rules, Order("enforce"))
                assert set(statuses(result).values()) <= {"pass", "fixed"}, (mode, left)
                assert not run(host, rules, Order("enforce"))["changed"], (mode, left)
            if complete:
                break
    run(host, rules, Order("revert"))
    assert host.picture() == before
    assert points > 20


def test_settings_that_sshd_refuses_are_left_out_and_told(host):
    host.sshd_refuses = {"X11Forwarding no"}
    with pytest.raises(HardeningFailed) as caught:
        run(host, rules_for(host), Order("enforce"))
    found = statuses(caught.value.result)
    assert found.pop("sshd-x11") == "error"
    assert set(found.values()) == {"fixed"}
    assert "sshd refuses it: line 2: Bad configuration option" in caught.value.message
    text = (host.root / "etc/ssh/sshd_config.d/00-bareforge-hardening.conf").read_text()
    assert "MaxAuthTries 4" in text
    assert "X11Forwarding" not in text
    assert not (host.root / "candidate").exists()


def test_a_file_that_somebody_else_has_changed_is_not_overwritten(host):
    rules = rules_for(host)
    run(host, rules, Order("enforce"))
    path = host.root / "etc/login.defs"
    path.write_bytes(path.read_bytes() + b"\nOURS 1\n")
    with pytest.raises(HardeningFailed) as caught:
        run(host, rules, Order("revert"))
    assert "login.defs was changed by somebody else since" in caught.value.message
    assert b"OURS 1" in path.read_bytes()
    assert (host.root / "etc/shadow").stat().st_mode & 0o777 == 0o644
    kept = caught.value.message.split("is kept in ")[1].split(")")[0]
    assert Path(kept).read_bytes() == LOGIN_DEFS
    # Enforcing again keeps what was added.
    run(host, rules, Order("enforce"))
    assert b"OURS 1" in path.read_bytes()


def test_a_value_that_only_holds_until_the_next_start_is_a_failure(host):
    (host.root / "proc/sys/kernel/sysrq").write_text("0\n")
    (host.root / "etc/sysctl.d/99-local.conf").write_text("kernel.sysrq = 1\n")
    rules = rules_for(host)
    result = run(host, rules, Order("audit", rules=["kernel-sysrq"]))
    (entry,) = result["rules"]
    assert (entry["status"], entry["found"]) == ("fail", "0")
    assert "99-local.conf sets kernel.sysrq to 1 at the next start" in entry["notes"][0]
    run(host, rules, Order("enforce", rules=["kernel-sysrq"]))
    (entry,) = run(host, rules, Order("audit", rules=["kernel-sysrq"]))["rules"]
    assert entry["status"] == "pass"


def test_a_name_counts_before_a_pattern_at_the_next_start(host):
    (host.root / "etc/sysctl.d/50-vendor.conf").write_text("net/ipv4/conf/eth1.10/accept_redirects = 1\n")
    rules = rules_for(host)
    run(host, rules, Order("enforce", rules=["net-redirects"]))
    assert statuses(run(host, rules, Order("audit", rules=["net-redirects"]))) == {"net-redirects": "pass"}
    text = (host.root / "etc/sysctl.d/zz-bareforge-hardening.conf").read_text()
    assert "net.ipv4.conf.*.accept_redirects = 0\n" in text
    assert "net/ipv4/conf/eth1.10/accept_redirects = 0\n" in text


def test_a_network_interface_that_goes_meanwhile_is_no_failure(host, monkeypatch):
    gone = host.root / "proc/sys/net/ipv4/conf/eth0"
    carry_out = host.carry_out

    def lose_interface_first(steps, arm=None):
        shutil.rmtree(gone, ignore_errors=True)
        gone.mkdir()
        return carry_out(steps, arm)

    monkeypatch.setattr(host, "carry_out", lose_interface_first)
    assert statuses(run(host, rules_for(host), Order("enforce", rules=["net-redirects"]))) == {"net-redirects": "fixed"}
    assert list(gone.iterdir()) == []
    run(host, rules_for(host), Order("revert"))
    assert list(gone.iterdir()) == []


def test_of_two_patterns_the_later_counts_at_the_next_start(host):
    (host.root / "etc/sysctl.d/50-a.conf").write_text("net.ipv4.conf.*.accept_redirects = 0\n")
    (host.root / "etc/sysctl.d/60-b.conf").write_text("net.ipv4.*.default.accept_redirects = 1\n")
    for path in (host.root / "proc/sys/net/ipv4/conf").glob("*/accept_redirects"):
        path.write_text("0\n")
    (entry,) = run(host, rules_for(host), Order("audit", rules=["net-redirects"]))["rules"]
    assert entry["status"] == "fail"
    assert "after the next start: 1 (net.ipv4.conf.default.accept_redirects)" in entry["notes"]


def test_files_keep_mode_and_links_when_their_content_changes(host):
    path = host.root / "etc/login.defs"
    real = path.rename(host.root / "etc/real.defs")
    path.symlink_to(real)
    run(host, rules_for(host), Order("enforce", rules=["file-umask", "sshd-x11"]))
    assert path.is_symlink()
    assert b"UMASK 027" in real.read_bytes()
    assert stat.S_IMODE(real.stat().st_mode) == 0o664
    drop_in = host.root / "etc/ssh/sshd_config.d/00-bareforge-hardening.conf"
    assert stat.S_IMODE(drop_in.stat().st_mode) == 0o644


def test_two_rules_that_want_different_things_are_told(host):
    login_defs = str(host.root / "etc/login.defs")
    extra = ("file-other", {"kind": "file_setting", "path": login_defs, "keyword": "UMASK"}, {"equals": "077"})
    with pytest.raises(HardeningFailed) as caught:
        run(host, rules_for(host, extra), Order("enforce"))
    assert "file-other (wants 077, and rule file-umask wants 027)" in caught.value.message


def test_one_pass_starts_no_process_a_rule(host):
    run(host, rules_for(host), Order("audit"))
    assert len(host.programs) == 1
    assert host.programs[0][-1] == "-T"


def test_a_saved_state_that_cannot_be_understood_stops_before_any_change(host):
    rules = rules_for(host)
    run(host, rules, Order("enforce"))
    picture = host.picture()
    state = host.root / "var/bareforge/state.json"
    state.write_text("{}")
    for mode in ("enforce", "revert"):
        with pytest.raises(Exception, match="cannot be read"):
            run(host, rules, Order(mode))
    assert host.picture() == picture


SSHD_RULES = ["sshd-tries", "sshd-x11"]


def test_the_guard_is_armed_after_all_else_and_right_before_the_ssh_server_is_touched(host):
    login_defs = str(host.root / "etc/login.defs")
    setting = {"kind": "file_setting", "path": login_defs, "keyword": "LOG_OK", "restart": "other.service"}
    extra = ("file-restart", setting, {"equals": "yes"})
    result = run(host, rules_for(host, extra), Order("enforce", guard=60))
    assert result["guard"] == {"token": "t", "timeout": 60, "guarded": [f"rule {name}" for name in SSHD_RULES]}
    assert any(change["target"] == "other.service" for change in result["changes"])
    assert [change["action"].split()[0] for change in result["changes"]][-2:] == ["write", "try-reload-or-restart"]
    assert result["changes"][-2]["target"].endswith("00-bareforge-hardening.conf")
    (saved,) = host.armed
    assert not any(path.name.startswith("00-bareforge") for path in saved)
    changing = [words for words in host.programs if words[-1] != "-T" and words[:2] != ["systemctl", "show"]]
    assert [words[0].rpartition("/")[2] for words in changing] == ["systemctl", "arm", "sshd", "systemctl"]


@pytest.mark.parametrize("after", ["enforce", "revert", "enforce one"])
def test_what_the_guard_has_undone_is_not_kept_as_done(host, after):
    rules, before = rules_for(host), host.picture()
    run(host, rules, Order("enforce", guard=60))
    host.fire()
    assert set(host.enforced_rules()).isdisjoint(SSHD_RULES)
    assert "kernel-sysrq" in host.enforced_rules()
    if after == "enforce":
        result = run(host, rules, Order("enforce"))
        assert {name for name, status in statuses(result).items() if status == "fixed"} == set(SSHD_RULES)
    if after == "enforce one":
        # The one that cut the controller off must not come back with another one.
        run(host, rules, Order("enforce", rules=["sshd-tries"]))
        text = (host.root / "etc/ssh/sshd_config.d/00-bareforge-hardening.conf").read_text()
        assert ("MaxAuthTries 4" in text, "X11Forwarding" in text) == (True, False)
    run(host, rules, Order("revert"))
    assert host.picture() == before


def test_a_revert_that_the_guard_has_undone_can_be_made_again(host):
    rules, before = rules_for(host), host.picture()
    run(host, rules, Order("enforce"))
    run(host, rules, Order("revert", guard=60))
    host.fire()
    assert set(host.enforced_rules()) == set(SSHD_RULES)
    run(host, rules, Order("revert"))
    assert host.picture() == before


def test_without_the_guard_the_ssh_server_is_left_alone_and_the_rest_is_enforced(host):
    host.guard_refuses = True
    with pytest.raises(HardeningFailed) as caught:
        run(host, rules_for(host), Order("enforce", guard=60))
    found = statuses(caught.value.result)
    assert {name for name, status in found.items() if status == "error"} == set(SSHD_RULES)
    assert {status for name, status in found.items() if name not in SSHD_RULES} == {"fixed"}
    assert "one guard at a time" in caught.value.message
    assert "guard" not in caught.value.result
    assert not (host.root / "etc/ssh/sshd_config.d/00-bareforge-hardening.conf").exists()
    assert not any("ssh.service" in words for words in host.programs if words[:2] != ["systemctl", "show"])
