# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Roles and permissions under the engine, with the files of polkit, libvirt and sudo in a folder."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.engine.platform import Platform
from ansible_collections.bareforge.hypervisor.plugins.module_utils.engine.runner import Request, gather, run
from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import ApplyError, ReadError, ValidateError
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.document import Document
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.operation import Operation
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm import (
    access,
    libvirt_access,
    polkit_rules,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.access import KvmAccess
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.linux import (
    accounts,
    programs,
    restarts,
    sudo,
)
from support.memory_platform import Killed

API = "org.libvirt.api"
WORDS = (
    "connect.getattr",
    "connect.read",
    "connect.search-domains",
    "connect.search-storage-pools",
    "domain.getattr",
    "domain.read",
    "domain.read-secure",
    "domain.start",
    "domain.stop",
    "domain.write",
    "storage-pool.getattr",
    "storage-vol.create",
)
VIEWER = {"principal": "daemon", "path": "/", "role": "viewer"}


class OnlyAccess(Platform):
    NAME = "kvm"
    INTERFACES = (KvmAccess,)

    def recover(self) -> None:
        for interface in self.interfaces:
            interface.recover()


class Host:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls: list[tuple[str, ...]] = []
        self.refuse: str = ""
        self.kill_at: str = ""
        self.rules = folder / "rules.d" / "10-bareforge.rules"
        self.config = folder / "libvirtd.conf"
        self.sudoers = folder / "sudoers.d" / "bareforge"

    def run_program(self, argv: Any, stdin: str = "", what: str | None = None, timeout: float = 120) -> str:
        self.calls.append(tuple(argv))
        if self.kill_at and self.kill_at in argv:
            raise Killed
        if self.refuse and self.refuse in argv:
            raise ApplyError(f"{what}: refused")
        return ""

    def run(self, document: Any, check: bool = False, exact: Any = ()) -> dict[str, Any]:
        options = Operation.parse({"guard": {"enabled": False}})
        return run(OnlyAccess(), Request(Document.parse(document, exact), options, check))

    def apply(self, document: Any, **how: Any) -> list[str]:
        return [
            " ".join([change["action"], change["kind"], change["key"], *change["fields"]])
            for change in self.run(document, **how)["changes"]
        ]

    def refused(self, document: Any, **how: Any) -> dict[str, str]:
        with pytest.raises(ValidateError) as caught:
            self.run(document, **how)
        return {problem.path: problem.message for problem in caught.value.problems}

    def gather(self) -> Any:
        return gather(OnlyAccess())

    def data(self) -> Any:
        (literal,) = re.findall(r'JSON\.parse\((".*")\)\.grants', self.rules.read_text())
        return json.loads(json.loads(literal))


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    made = Host(tmp_path)
    for name in ("run", "sudoers.d"):
        (tmp_path / name).mkdir()
    (tmp_path / "run" / "libvirt-sock").touch(0o666)
    (tmp_path / "run" / "libvirt-sock").chmod(0o666)
    actions = "".join(f'<action id="{API}.{word}"/>' for word in WORDS)
    (tmp_path / "api.policy").write_text(f"<policyconfig>{actions}<action id='org.other'/></policyconfig>")
    made.config.write_text("# comments\n#access_drivers = [ ]\nmax_clients = 50\n")
    monkeypatch.setattr(polkit_rules, "POLICY_FILE", str(tmp_path / "api.policy"))
    monkeypatch.setattr(polkit_rules, "RULES_FILE", str(made.rules))
    monkeypatch.setattr(access, "RULES_FILE", str(made.rules))
    monkeypatch.setattr(libvirt_access, "RUN_FOLDER", str(tmp_path / "run"))
    monkeypatch.setattr(libvirt_access, "CONFIG_FOLDER", str(tmp_path))
    monkeypatch.setattr(libvirt_access, "UNIT_FOLDER", str(tmp_path / "units"))
    monkeypatch.setattr(restarts, "RECORD_FILE", str(tmp_path / "restarts.json"))
    monkeypatch.setattr(sudo, "SUDOERS_FILE", str(made.sudoers))
    monkeypatch.setattr(programs, "run", made.run_program)
    monkeypatch.setattr(accounts, "logged_in_ids", frozenset)
    # Files belong to whoever runs the tests, who need not be root.
    monkeypatch.setattr(
        programs, "replace_file", lambda path, content, mode: (Path(path).write_bytes(content), Path(path).chmod(mode))
    )
    monkeypatch.setattr(sudo, "_is_rooted", lambda _status: True)
    return made


def test_given_changed_and_taken_away(host: Host) -> None:
    planned = host.run({"permissions": [VIEWER]}, check=True)
    assert not host.rules.exists()
    assert host.run({"permissions": [VIEWER]})["changes"] == planned["changes"]
    assert host.apply({"permissions": [VIEWER]}) == []
    assert host.apply(host.gather()) == []
    assert host.apply({"permissions": [{**VIEWER, "role": "admin"}]}) == ["update permission daemon// role"]
    assert host.apply({"permissions": [{**VIEWER, "state": "absent"}]}) == ["delete permission daemon//"]
    assert not host.rules.exists()


def test_libvirt_is_restarted_once_and_keeps_its_other_settings(host: Host) -> None:
    host.apply({"permissions": [VIEWER]})
    text = host.config.read_text()
    assert 'access_drivers = [ "polkit" ]' in text
    assert "max_clients = 50" in text
    assert host.calls == [("systemctl", "try-restart", "--", "libvirtd.service")]
    host.apply({"permissions": [{**VIEWER, "role": "operator"}]})
    assert len(host.calls) == 1


def test_other_drivers_stay_and_the_one_that_refuses_nothing_goes(host: Host) -> None:
    host.config.write_text('access_drivers = [ "none", "other" ]\nauth_unix_rw = "none"\n')
    host.apply({"permissions": [VIEWER]})
    assert host.config.read_text() == 'access_drivers = [ "other", "polkit" ]\nauth_unix_rw = "polkit"\n'


def test_where_every_driver_has_a_daemon_each_is_told(host: Host) -> None:
    for name in ("virtqemud", "virtstoraged"):
        (host.folder / "run" / f"{name}-sock").touch()
        (host.folder / "run" / f"{name}-sock").chmod(0o666)
    host.apply({"permissions": [VIEWER]})
    for name in ("virtqemud", "virtstoraged"):
        assert (host.folder / f"{name}.conf").read_text() == 'access_drivers = [ "polkit" ]\n'
    assert "polkit" not in host.config.read_text()
    assert host.calls == [("systemctl", "try-restart", "--", "virtqemud.service", "virtstoraged.service")]


def test_a_socket_that_keeps_users_off_is_opened_now_and_after_a_restart(host: Host) -> None:
    socket = host.folder / "run" / "libvirt-sock"
    socket.chmod(0o660)
    host.apply({"permissions": [VIEWER]})
    assert oct(socket.stat().st_mode)[-3:] == "666"
    assert "SocketMode=0666" in (host.folder / "units" / "libvirtd.socket.d" / "bareforge.conf").read_text()


@pytest.mark.parametrize(
    "harm",
    [
        lambda host: host.config.write_text(""),
        lambda host: host.rules.write_text(host.rules.read_text().replace("NOT_HANDLED", "YES")),
        lambda host: (host.folder / "run" / "libvirt-sock").chmod(0o600),
        lambda host: restarts.announce(["libvirtd.service"]),
        lambda host: Path(polkit_rules.POLICY_FILE).write_text(f'<p><action id="{API}.domain.getattr"/></p>'),
    ],
    ids=["drivers", "rule", "socket", "restart", "libvirt"],
)
def test_what_keeps_a_permission_from_holding_is_a_change(host: Host, harm: Any) -> None:
    host.apply({"permissions": [VIEWER]})
    harm(host)
    assert host.apply({"permissions": [VIEWER]}, check=True) == ["update permission daemon// role"]
    # Asked for nothing, nothing is told of it that is not so, and nothing is changed.
    assert "role" not in host.gather()["permissions"][0]
    host.apply({"permissions": [VIEWER]})
    assert host.apply({"permissions": [VIEWER]}) == []


def test_killed_before_the_restart_the_next_run_makes_it(host: Host) -> None:
    host.kill_at = "try-restart"
    with pytest.raises(Killed):
        host.run({"permissions": [VIEWER]})
    assert not host.rules.exists()
    host.kill_at = ""
    host.calls.clear()
    assert host.apply({"permissions": [VIEWER]}) == [
        "create permission daemon// role propagate principal_type kvm"
    ] or (host.rules.exists())
    assert host.calls == [("systemctl", "try-restart", "--", "libvirtd.service")]


def test_what_the_roles_allow(host: Host) -> None:
    known = polkit_rules.known_actions()
    assert known == {f"{API}.{word}" for word in WORDS}
    viewer, operator, admin = (polkit_rules.actions_of(name, {}, known) for name in polkit_rules.ROLES)
    assert f"{API}.domain.read" in viewer
    assert not viewer & {f"{API}.domain.{word}" for word in ("read-secure", "start", "write")}
    assert operator - viewer == {f"{API}.domain.start", f"{API}.domain.stop"}
    assert admin == known


def test_a_part_of_the_host_is_told_by_what_libvirt_tells_of_it(host: Host) -> None:
    host.apply({"permissions": [{"principal": "daemon", "path": "/pools/it's", "role": "admin"}]})
    way, part = host.data()["grants"]
    assert way["actions"] == [
        f"{API}.connect.getattr",
        f"{API}.connect.search-storage-pools",
        "org.libvirt.unix.manage",
        "org.libvirt.unix.monitor",
    ]
    assert (way["attribute"], part["attribute"], part["name"]) == ("", "pool_name", "it's")
    assert part["actions"] == [f"{API}.storage-pool.getattr", f"{API}.storage-vol.create"]


def test_what_does_not_reach_below_is_about_the_host_alone(host: Host) -> None:
    host.apply({"permissions": [{**VIEWER, "propagate": False}]})
    (grant,) = host.data()["grants"]
    assert all(name.startswith((f"{API}.connect.", "org.libvirt.unix.")) for name in grant["actions"])


def test_hostile_names_are_data(host: Host) -> None:
    name = '"); polkit.addRule(function () { return "yes"; }); //\\"größe\u2028'.replace("\u2028", "")
    role = {"name": name, "privileges": [f"{API}.domain.start"], "description": "</script> ${x} `id` %s"}
    path = "/vms/a\"'; } __proto__"
    document = {"roles": [role], "permissions": [{"principal": "daemon", "path": path, "role": name}]}
    host.apply(document)
    assert host.apply(document) == []
    text = host.rules.read_text()
    assert text.isascii()
    frame = re.sub(r'JSON\.parse\(".*"\)', 'JSON.parse("")', text)
    assert frame == polkit_rules._RULE % '""'
    assert host.gather()["roles"] == [role]
    assert host.data()["grants"][1]["name"] == "a\"'; } __proto__"


@pytest.mark.parametrize(
    ("document", "path"),
    [
        ({"roles": [{"name": "viewer", "privileges": []}]}, "role['viewer'].name"),
        ({"roles": [{"name": "x", "privileges": ["vm.start"]}]}, "role['x'].privileges"),
        ({"permissions": [{**VIEWER, "role": "none-such"}]}, "permission['daemon//'].role"),
        ({"permissions": [{**VIEWER, "path": "/vms"}]}, "permission['daemon//vms'].path"),
        ({"permissions": [{**VIEWER, "path": "/vms/a/b"}]}, "permission['daemon//vms/a/b'].path"),
        ({"permissions": [{**VIEWER, "path": "/disks/a"}]}, "permission['daemon//disks/a'].path"),
        ({"permissions": [{**VIEWER, "principal": "no-such-user"}]}, "permission['no-such-user//'].principal"),
        ({"permissions": [{**VIEWER, "principal": "root"}]}, "permission['root//'].principal"),
        ({"permissions": [{**VIEWER, "kvm": {"sudo": "password"}}]}, "permission['daemon//'].kvm.sudo"),
        ({"roles": [{"name": "admin", "state": "absent"}]}, "role['admin']"),
    ],
)
def test_what_cannot_be_is_refused_by_its_path(host: Host, document: Any, path: str) -> None:
    assert list(host.refused(document)) == [path]
    assert host.calls == []


def test_characters_that_polkit_cannot_compare_are_refused(host: Host) -> None:
    problems = host.refused({"permissions": [{**VIEWER, "path": "/vms/\U00020bb7"}]})
    assert "above U+FFFF" in next(iter(problems.values()))


def test_a_role_that_is_given_stays(host: Host) -> None:
    role = {"name": "x", "privileges": [f"{API}.domain.start"]}
    host.apply({"roles": [role], "permissions": [{**VIEWER, "role": "x"}]})
    assert "permission['daemon//'] gives it" in host.refused({"roles": [{"name": "x", "state": "absent"}]})["role['x']"]
    assert "gives it" in host.refused({"roles": []}, exact=["role"])["role['x']"]
    both = {"roles": [{"name": "x", "state": "absent"}], "permissions": [{**VIEWER, "state": "absent"}]}
    assert host.apply(both) == ["delete permission daemon//", "delete role x"]


def test_sudo_is_checked_before_it_is_put_in_place(host: Host) -> None:
    asked = {**VIEWER, "role": "admin", "kvm": {"sudo": "no_password"}}
    host.refuse = "visudo"
    with pytest.raises(ApplyError, match="were not put in place"):
        host.run({"permissions": [asked]})
    assert not host.sudoers.exists()
    host.refuse = ""
    host.apply({"permissions": [asked]})
    assert host.sudoers.read_text().splitlines()[1:] == ["daemon ALL=(ALL:ALL) NOPASSWD: ALL"]
    assert oct(host.sudoers.stat().st_mode)[-3:] == "440"
    # A file that is not what it was is put right, also where nothing is said of sudo.
    host.sudoers.chmod(0o600)
    assert host.apply({"permissions": [{**VIEWER, "role": "admin"}]}) == ["update permission daemon// kvm"]
    assert host.apply({"permissions": [asked]}) == []
    host.apply({"permissions": [{**asked, "kvm": {"sudo": "none"}}]})
    assert not host.sudoers.exists()


@pytest.mark.parametrize("name", ["ALL", "%wheel", "a,b", "a b", "#0", "a\\x", "Anna"])
def test_names_that_mean_something_to_sudo_never_reach_it(name: str) -> None:
    with pytest.raises(AssertionError, match="cannot stand in sudoers"):
        sudo.render([sudo.SudoRule(name, False, True)])


def test_sudo_that_this_run_needs_is_not_taken_away(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {**VIEWER, "role": "admin", "kvm": {"sudo": "no_password"}}
    host.apply({"permissions": [asked]})
    monkeypatch.setattr(accounts, "logged_in_ids", lambda: frozenset({1}))
    assert "stays as it is" in host.refused({"permissions": []}, exact=["permission"])["permission['daemon//']"]
    assert "stays as it is" in next(
        iter(host.refused({"permissions": [{**asked, "kvm": {"sudo": "password"}}]}).values())
    )


def test_a_file_that_is_not_ours_is_not_guessed_at(host: Host) -> None:
    host.rules.parent.mkdir()
    host.rules.write_text("polkit.addRule(function () {});")
    with pytest.raises(ReadError, match="is not what was written there"):
        host.gather()


def test_without_libvirt_nothing_is_written(host: Host) -> None:
    Path(polkit_rules.POLICY_FILE).unlink()
    before = host.config.read_text()
    with pytest.raises(ReadError, match="which names what libvirt can be asked to allow"):
        host.run({"permissions": [VIEWER]})
    assert host.config.read_text() == before
    assert host.calls == []
