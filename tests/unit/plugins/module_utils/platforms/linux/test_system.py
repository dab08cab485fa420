# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The host itself under the engine, with its files in a folder and its units in memory."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.engine.platform import Platform
from ansible_collections.bareforge.hypervisor.plugins.module_utils.engine.runner import Request, gather, run
from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import (
    ApplyError,
    ValidateError,
    VerifyError,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.document import Document
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.operation import Operation
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.linux import (
    programs,
    restarts,
    system,
    system_text,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.linux.system import LinuxSystem
from support.memory_platform import Killed

HOSTS = "127.0.0.1\tlocalhost\n::1 localhost ip6-localhost\n127.0.1.1 old.example.org old  # ours\n192.0.2.9 other\n"


class OnlySystem(Platform):
    NAME = "linux"
    INTERFACES = (LinuxSystem,)

    def recover(self) -> None:
        for interface in self.interfaces:
            interface.recover()


class Host:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.etc = folder / "etc"
        self.kernel = "old"
        self.units = {
            "cron.service": {"LoadState": "loaded", "ActiveState": "active", "UnitFileState": "enabled"},
            "quiet.service": {"LoadState": "loaded", "ActiveState": "inactive", "UnitFileState": "disabled"},
            "static.service": {"LoadState": "loaded", "ActiveState": "inactive", "UnitFileState": "static"},
            "masked.service": {"LoadState": "masked", "ActiveState": "inactive", "UnitFileState": "masked"},
            "ssh.service": {"LoadState": "loaded", "ActiveState": "active", "UnitFileState": "enabled"},
        }
        self.calls: list[tuple[str, ...]] = []
        self.writes = 0
        self.kill_at = 0
        self.stubborn = False

    def run_program(self, argv: Any, stdin: str = "", what: str | None = None, timeout: float = 120) -> str:
        self.calls.append(tuple(argv))
        verb, names = argv[1], argv[argv.index("--") + 1 :]
        states = {"enable": ("UnitFileState", "enabled"), "disable": ("UnitFileState", "disabled")}
        states.update(start=("ActiveState", "active"), stop=("ActiveState", "inactive"))
        for name in names:
            if verb in states and not self.stubborn:
                self.units[name][states[verb][0]] = states[verb][1]
        return ""

    def show(self, argv: Any) -> subprocess.CompletedProcess[str]:
        assert argv[:2] == ["systemctl", "show"]
        missing = {"LoadState": "not-found", "ActiveState": "inactive", "UnitFileState": ""}
        blocks = [self.units.get(name, missing) for name in argv[argv.index("--") + 1 :]]
        text = "\n\n".join("\n".join(f"{key}={value}" for key, value in block.items()) for block in blocks)
        return subprocess.CompletedProcess(argv, 0, text, "")

    def replace(self, path: str, content: bytes, mode: int) -> None:
        Path(path).write_bytes(content)
        self.writes += 1
        if self.writes == self.kill_at:
            raise Killed

    def set_name(self, name: str) -> None:
        self.kernel = name

    def put(self, path: str, text: str) -> Path:
        file = self.etc / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def run(self, fields: Any, check: bool = False) -> dict[str, Any]:
        options = Operation.parse({"guard": {"enabled": False}})
        return run(OnlySystem(), Request(Document.parse({"system": fields}), options, check))

    def apply(self, fields: Any, check: bool = False) -> list[str]:
        return [field for change in self.run(fields, check)["changes"] for field in change["fields"]]

    def refused(self, fields: Any) -> dict[str, str]:
        with pytest.raises(ValidateError) as caught:
            self.run(fields)
        return {problem.path: problem.message for problem in caught.value.problems}

    def gather(self) -> dict[str, Any]:
        return dict(gather(OnlySystem())["system"])


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    made = Host(tmp_path)
    for folder in ("etc", "zoneinfo/Europe", "zoneinfo/Etc", "sbin", "lib", "resolve"):
        (tmp_path / folder).mkdir(parents=True)
    for zone in ("UTC", "Etc/UTC", "Europe/Berlin"):
        (tmp_path / "zoneinfo" / zone).touch()
    for program in ("sbin/rsyslogd", "lib/systemd-timesyncd", "resolve/stub-resolv.conf"):
        (tmp_path / program).touch()
    made.put("hostname", "old\n")
    made.put("hosts", HOSTS)
    made.put("timezone", "Etc/UTC\n")
    (made.etc / "localtime").symlink_to("/usr/share/zoneinfo/Etc/UTC")
    (made.etc / "resolv.conf").symlink_to(tmp_path / "resolve" / "stub-resolv.conf")
    monkeypatch.setattr(system, "ETC", str(made.etc))
    monkeypatch.setattr(system, "ZONES", str(tmp_path / "zoneinfo"))
    monkeypatch.setattr(system, "PROGRAMS", str(tmp_path / "sbin"))
    monkeypatch.setattr(system, "LIBRARIES", str(tmp_path / "lib"))
    monkeypatch.setattr(system, "RESOLVED_FOLDER", str(tmp_path / "resolve"))
    monkeypatch.setattr(system, "RECORD_FILE", str(tmp_path / "system.json"))
    monkeypatch.setattr(restarts, "RECORD_FILE", str(tmp_path / "restarts.json"))
    monkeypatch.setattr(system, "run_program", made.show)
    monkeypatch.setattr(programs, "run", made.run_program)
    monkeypatch.setattr(programs, "replace_file", made.replace)
    monkeypatch.setattr(system.socket, "gethostname", lambda: made.kernel)
    monkeypatch.setattr(system.socket, "sethostname", made.set_name)
    return made


WISHES: list[dict[str, Any]] = [
    {"hostname": "new"},
    {"hostname": "new", "domain": "example.net"},
    {"domain": ""},
    {"dns_servers": ["192.0.2.53", "2001:db8::53"], "dns_search": ["example.org"]},
    {"ntp_servers": ["b.example.org", "a.example.org"]},
    {"timezone": "Europe/Berlin"},
    {"syslog_servers": [{"host": "log.example.org", "protocol": "tcp"}, {"host": "2001:db8::9", "port": 1514}]},
    {"services": [{"name": "cron", "running": False, "start_at_boot": False}]},
    {"services": [{"name": "quiet.service", "running": True}]},
]


@pytest.mark.parametrize("fields", WISHES, ids="+".join)
def test_what_is_asked_is_planned_made_shown_and_not_made_again(host: Host, fields: Any) -> None:
    planned = host.apply(fields, check=True)
    assert host.writes == 0
    assert host.calls == []
    assert host.apply(fields) == planned
    assert planned
    assert host.apply(fields) == []
    shown = host.gather()
    assert host.apply(shown) == []
    for name, value in fields.items():
        if name not in ("domain", "services", "syslog_servers"):
            assert shown[name] == value


@pytest.mark.parametrize("fields", WISHES, ids="+".join)
def test_killed_after_any_file_the_next_run_finishes(host: Host, fields: Any) -> None:
    for step in range(1, 9):
        host.kill_at, host.writes = step, 0
        try:
            host.run(fields)
        except Killed:
            pass
        else:
            break
        host.kill_at = 0
        host.run(fields)
        assert host.apply(fields) == []
        assert restarts.waiting() == []
        text = (host.etc / "hosts").read_text()
        assert "192.0.2.9 other" in text
        if "hostname" in fields:
            assert host.kernel == "new"
            assert "old" not in text
            assert host.gather()["domain"] == fields.get("domain", "example.org")
            host.run({"hostname": "old", "domain": "example.org"})
        undo = {"dns_servers": [], "dns_search": [], "ntp_servers": [], "syslog_servers": [], "timezone": "Etc/UTC"}
        host.run(undo)


def test_the_names_keep_their_line_and_what_else_stands_in_it(host: Host) -> None:
    assert host.gather()["domain"] == "example.org"
    host.apply({"hostname": "new"})
    assert (host.etc / "hosts").read_text() == HOSTS.replace(
        "127.0.1.1 old.example.org old  # ours", "127.0.1.1\tnew.example.org new # ours"
    )
    assert (host.etc / "hostname").read_text() == "new\n"
    assert host.kernel == "new"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "127.0.1.1\tnew.d new\n"),
        ("127.0.0.1 localhost\n", "127.0.0.1 localhost\n127.0.1.1\tnew.d new\n"),
        ("127.0.0.1 localhost old\n", "127.0.0.1\tlocalhost\n127.0.1.1\tnew.d new\n"),
        ("192.0.2.1 old.x old www\n", "192.0.2.1\tnew.d new www\n"),
        ("# 127.0.1.1 old\n", "127.0.1.1\tnew.d new\n# 127.0.1.1 old\n"),
    ],
)
def test_hosts_files_of_all_sorts(text: str, expected: str) -> None:
    assert system_text.put_in_hosts(text, "new", "d", ["old"]) == expected
    assert system_text.domain_in_hosts(expected, "new") == "d"


def test_a_name_that_the_kernel_has_otherwise_is_set(host: Host) -> None:
    host.kernel = "by-dhcp"
    assert "hostname" not in host.gather()
    assert host.apply({"hostname": "old"}) == ["hostname"]
    assert host.kernel == "old"


def test_resolved_asks_the_servers_for_all_names_and_is_restarted_once(host: Host) -> None:
    host.put("systemd/resolved.conf.d/10-other.conf", "[Resolve]\nDNS=203.0.113.1\nDomains=other.org\n")
    assert host.gather()["dns_search"] == ["other.org"]
    host.apply({"dns_servers": ["192.0.2.53"], "dns_search": ["example.org"]})
    text = (host.etc / "systemd/resolved.conf.d/zz-bareforge.conf").read_text()
    assert text.splitlines()[1:] == ["[Resolve]", "DNS=", "DNS=192.0.2.53", "Domains=", "Domains=example.org ~."]
    assert host.calls == [("systemctl", "try-restart", "--", "systemd-resolved.service")]
    # Where others say the same, ours goes.
    host.put("systemd/resolved.conf.d/10-other.conf", "")
    host.apply({"dns_servers": [], "dns_search": []})
    assert not (host.etc / "systemd/resolved.conf.d/zz-bareforge.conf").exists()


def test_a_drop_in_that_counts_after_ours_fails_by_name(host: Host) -> None:
    host.put("systemd/resolved.conf.d/zzz-other.conf", "[Resolve]\nDNS=203.0.113.1\n")
    with pytest.raises(VerifyError, match=r"dns_servers: asked was \['192.0.2.53'\]"):
        host.run({"dns_servers": ["192.0.2.53"]})


def test_a_plain_resolv_conf_keeps_its_other_lines(host: Host) -> None:
    (host.etc / "resolv.conf").unlink()
    host.put("resolv.conf", "# mine\nnameserver 203.0.113.1\noptions timeout:1\nsearch old.org\n")
    fields = {"dns_servers": ["192.0.2.53"], "dns_search": ["a.org", "b.org"]}
    assert host.apply(fields) == ["dns_servers", "dns_search"]
    text = (host.etc / "resolv.conf").read_text()
    assert text == "nameserver 192.0.2.53\nsearch a.org b.org\n# mine\noptions timeout:1\n"
    assert host.calls == []
    assert list(host.refused({"dns_servers": [f"192.0.2.{number}" for number in range(4)]})) == ["system.dns_servers"]


def test_a_resolv_conf_of_another_program_is_left_alone(host: Host) -> None:
    (host.etc / "resolv.conf").unlink()
    (host.etc / "resolv.conf").symlink_to(host.folder / "elsewhere")
    assert "which another program writes" in host.refused({"dns_search": ["a.org"]})["system.dns_search"]


CHRONY = "# head\npool 2.debian.pool.ntp.org iburst\nserver x.org\ndriftfile /d\n  PEER y.org\nmakestep 1 3\n"


def test_chrony_where_the_host_has_it(host: Host) -> None:
    (host.folder / "sbin" / "chronyd").touch()
    (host.folder / "lib" / "system").mkdir()
    (host.folder / "lib" / "system" / "chrony.service").touch()
    file = host.put("chrony/chrony.conf", CHRONY)
    assert host.gather()["ntp_servers"] == ["2.debian.pool.ntp.org", "x.org", "y.org"]
    host.apply({"ntp_servers": ["b.org", "a.org"]})
    assert file.read_text() == "# head\nserver b.org iburst\nserver a.org iburst\ndriftfile /d\nmakestep 1 3\n"
    assert host.calls == [("systemctl", "try-restart", "--", "chrony.service")]
    host.apply({"ntp_servers": []})
    assert file.read_text() == "# head\ndriftfile /d\nmakestep 1 3\n"
    host.apply({"ntp_servers": ["a.org"]})
    assert file.read_text().endswith("makestep 1 3\nserver a.org iburst\n")
    host.put("chrony/sources.d/site.sources", "server z.org\n")
    assert "site.sources names time servers too" in host.refused({"ntp_servers": ["b.org"]})["system.ntp_servers"]


def test_without_a_program_for_time_or_log_it_is_refused(host: Host) -> None:
    (host.folder / "lib" / "systemd-timesyncd").unlink()
    (host.folder / "sbin" / "rsyslogd").unlink()
    fields = {"ntp_servers": ["a.org"], "syslog_servers": [{"host": "a.org"}]}
    assert sorted(host.refused(fields)) == ["system.ntp_servers", "system.syslog_servers"]


def test_the_log_goes_to_all_servers_and_each_has_its_queue(host: Host) -> None:
    host.apply({"syslog_servers": [{"host": "b.org", "protocol": "tcp"}, {"host": "a.org"}]})
    lines = (host.etc / "rsyslog.d/zz-bareforge.conf").read_text().splitlines()[1:]
    assert [line.partition(" queue")[0] for line in lines] == [
        '*.* action(type="omfwd" target="a.org" port="514" protocol="udp"',
        '*.* action(type="omfwd" target="b.org" port="514" protocol="tcp"',
    ]
    assert host.calls == [("systemctl", "try-restart", "--", "rsyslog.service")]
    # What somebody has added to our file is no server of ours, and goes.
    file = host.etc / "rsyslog.d/zz-bareforge.conf"
    file.write_text(file.read_text() + "*.* @elsewhere\n")
    assert host.apply({"syslog_servers": [{"host": "a.org"}]}) == ["syslog_servers"]
    assert "elsewhere" not in file.read_text()
    assert list(host.refused({"syslog_servers": [{"host": "a.org", "protocol": "tls"}]})) == [
        "system.syslog_servers['a.org'].protocol"
    ]


@pytest.mark.parametrize(
    ("service", "path"),
    [
        ({"name": "no-such", "running": True}, ""),
        ({"name": "../x", "running": True}, ""),
        ({"name": "--now", "running": True}, ""),
        ({"name": "a b", "running": True}, ""),
        ({"name": "static", "start_at_boot": True}, ".start_at_boot"),
        ({"name": "masked", "running": True}, ""),
        ({"name": "ssh", "running": False}, ".running"),
        ({"name": "ssh.service", "start_at_boot": False}, ".start_at_boot"),
    ],
)
def test_services_that_cannot_be_switched_are_refused(host: Host, service: Any, path: str) -> None:
    (place,) = host.refused({"services": [service]})
    assert place == f"system.services['{service['name']}']{path}"
    assert host.calls == []


def test_services_are_told_once_they_were_asked_for(host: Host) -> None:
    assert "services" not in host.gather() or host.gather()["services"] == []
    assert host.apply({"services": [{"name": "cron", "running": True}]}) == []
    assert host.gather()["services"] == [{"name": "cron", "running": True, "start_at_boot": True}]
    host.apply({"services": [{"name": "quiet", "start_at_boot": True}]})
    assert host.calls == [("systemctl", "enable", "--", "quiet.service")]
    assert [service["name"] for service in host.gather()["services"]] == ["cron", "quiet"]


def test_a_service_that_does_not_stay_up_fails_by_name(host: Host) -> None:
    host.stubborn = True
    with pytest.raises(VerifyError, match=r"system\.services.*the host shows"):
        host.run({"services": [{"name": "quiet", "running": True}]})


def test_time_zones_that_the_host_does_not_have_are_refused(host: Host) -> None:
    assert list(host.refused({"timezone": "Europe/Nowhere"})) == ["system.timezone"]
    assert list(host.refused({"timezone": "Europe"})) == ["system.timezone"]
    host.apply({"timezone": "Europe/Berlin"})
    assert (host.etc / "timezone").read_text() == "Europe/Berlin\n"
    # One of the two that says otherwise is not what was asked.
    host.put("timezone", "UTC\n")
    assert host.apply({"timezone": "Europe/Berlin"}) == ["timezone"]


def test_a_unit_that_was_restarted_too_often_is_restarted_all_the_same(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def refuse_once(argv: Any, stdin: str = "", what: str | None = None, timeout: float = 120) -> str:
        calls.append(argv[1])
        if calls == ["try-restart"]:
            raise ApplyError("start of the service was attempted too often")
        return ""

    monkeypatch.setattr(programs, "run", refuse_once)
    host.run({"ntp_servers": ["a.example.org"]})
    assert calls == ["try-restart", "reset-failed", "try-restart"]
    assert restarts.waiting() == []


def test_a_unit_that_does_not_start_is_told_and_tried_again(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(argv: Any, stdin: str = "", what: str | None = None, timeout: float = 120) -> str:
        if argv[1] == "try-restart":
            raise ApplyError(f"{what}: exit status 1")
        return ""

    monkeypatch.setattr(programs, "run", refuse)
    with pytest.raises(ApplyError, match=r"systemd-timesyncd\.service cannot be restarted"):
        host.run({"ntp_servers": ["a.example.org"]})
    assert restarts.waiting() == ["systemd-timesyncd.service"]
