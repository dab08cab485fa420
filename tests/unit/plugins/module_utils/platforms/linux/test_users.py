# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Local users under the engine, with the tools of the package passwd on files in a folder."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.engine.platform import Platform
from ansible_collections.bareforge.hypervisor.plugins.module_utils.engine.runner import Request, gather, run
from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import ApplyError, ValidateError, VerifyError
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.document import Document
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.operation import Operation
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.linux import accounts, programs, users
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.linux.users import LinuxUsers
from support.shadow_tools import Killed, ShadowTools

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKanaryKanaryKanaryKanaryKanaryKanaryKana anna@example.org"
OTHER = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOtherOtherOtherOtherOtherOtherOtherOth"
HASH = "$6$canary$0123456789abcdef"
ANNA = {
    "name": "anna",
    "full_name": "Anna Example",
    "password_hash": HASH,
    "ssh_keys": [KEY],
    "groups": ["adm", "staff"],
    "shell": "/bin/sh",
    "expires": "2090-01-31",
}


class OnlyUsers(Platform):
    NAME = "linux"
    INTERFACES = (LinuxUsers,)

    def recover(self) -> None:
        for interface in self.interfaces:
            interface.recover()


class Host:
    def __init__(self, tools: ShadowTools, folder: Path) -> None:
        self.tools = tools
        self.folder = folder
        self.logged_in: set = set()

    def run(self, *items: dict[str, Any], check: bool = False, exact: Any = (), **operation: Any) -> dict[str, Any]:
        options = Operation.parse({"guard": {"enabled": False}, **operation})
        return run(OnlyUsers(), Request(Document.parse({"users": list(items)}, exact), options, check))

    def apply(self, *items: dict[str, Any], **how: Any) -> list[Any]:
        changes = self.run(*items, **how)["changes"]
        return [(change["action"], change["key"], tuple(change["fields"])) for change in changes]

    def refused(self, *items: dict[str, Any], **how: Any) -> dict[str, str]:
        with pytest.raises(ValidateError) as caught:
            self.run(*items, **how)
        return {problem.path: problem.message for problem in caught.value.problems}

    def gather(self) -> list[dict[str, Any]]:
        return list(gather(OnlyUsers())["users"])

    def home(self, name: str) -> Path:
        return self.tools.homes / name

    def keys(self, name: str) -> str:
        return (self.home(name) / ".ssh" / "authorized_keys").read_text()


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    (tmp_path / "etc").mkdir()
    (tmp_path / "home").mkdir()
    made = Host(ShadowTools(tmp_path / "etc", tmp_path / "home"), tmp_path)
    monkeypatch.setattr(accounts, "ETC", str(tmp_path / "etc"))
    monkeypatch.setattr(users, "HOMES", str(tmp_path / "home"))
    monkeypatch.setattr(users, "RECORD_FILE", str(tmp_path / "users.json"))
    monkeypatch.setattr(programs, "run", made.tools.run)
    monkeypatch.setattr(accounts, "processes_of", lambda _uid: [])
    monkeypatch.setattr(accounts, "logged_in_ids", lambda: frozenset(made.logged_in))
    # Whose the folders are cannot be changed by everybody who runs tests: the user's id is the tester's.
    monkeypatch.setattr(accounts.Accounts, "is_ordinary", lambda self, user: user.name not in ("root", "daemon"))
    monkeypatch.setattr(accounts.Accounts, "free_id", next_id)
    return made


def next_id(known: accounts.Accounts, taken: frozenset) -> int:
    used = {user.uid for user in known.users.values()} | set(known.groups.values()) | taken
    return os.getuid() if os.getuid() not in used else max(used) + 1


@pytest.fixture
def own_id(host: Host) -> Host:
    """A host whose first user has the tester's id, so that its home folder is really its own."""
    for name in ("passwd", "group"):
        host.tools.store(name, [row for row in host.tools.rows(name) if row[2] != str(os.getuid())])
    return host


def test_a_user_is_made_changed_and_removed(own_id: Host) -> None:
    host = own_id
    planned = host.run(ANNA, check=True)
    assert host.tools.calls == []
    made = host.run(ANNA)
    assert made["changes"] == planned["changes"]
    assert made["planned"] == planned["planned"]
    assert host.apply(ANNA) == []
    (shown,) = host.gather()
    assert shown == {**{name: value for name, value in ANNA.items() if name != "password_hash"}, "enabled": True}
    assert host.apply(shown) == []
    assert host.keys("anna") == f"{KEY}\n"
    assert oct((host.home("anna") / ".ssh").stat().st_mode)[-3:] == "700"
    assert oct((host.home("anna") / ".ssh" / "authorized_keys").stat().st_mode)[-3:] == "600"
    change = {"name": "anna", "groups": [], "expires": "", "full_name": "", "ssh_keys": [OTHER]}
    assert host.apply(change) == [("update", "anna", ("full_name", "ssh_keys", "groups", "expires"))]
    assert host.apply(change) == []
    assert host.keys("anna") == f"{OTHER}\n"
    assert host.apply({"name": "anna", "ssh_keys": []}) == [("update", "anna", ("ssh_keys",))]
    assert not (host.home("anna") / ".ssh" / "authorized_keys").exists()
    assert host.apply({"name": "anna", "state": "absent"}) == [("delete", "anna", ())]
    assert host.home("anna").is_dir()
    assert host.gather() == []


def test_secrets_are_given_on_standard_input_only(own_id: Host) -> None:
    own_id.apply({"name": "anna", "password": "canary word: with a colon"})
    own_id.apply({"name": "bert", "password_hash": HASH})
    words = " ".join(word for argv, _stdin in own_id.tools.calls for word in argv)
    assert "canary" not in words
    given = [stdin for argv, stdin in own_id.tools.calls if argv[0] == "chpasswd"]
    assert given == ["anna:canary word: with a colon\n", f"bert:{HASH}\n"]
    assert "canary" not in (own_id.folder / "users.json").read_text()


def test_another_hash_is_a_change_and_shows_nowhere(host: Host) -> None:
    host.apply({"name": "anna", "password_hash": HASH})
    other = "$6$otherother$canarycanary"
    result = host.run({"name": "anna", "password_hash": other})
    assert [change["fields"] for change in result["changes"]] == [["password_hash"]]
    assert "canary" not in json.dumps(result)
    assert host.tools.row("shadow", "anna")[1] == other
    assert host.apply({"name": "anna", "password_hash": other}) == []
    # A hash that was locked by hand lets nobody in, so it is not what was asked for.
    host.tools.change("shadow", "anna", c1=f"!{other}")
    assert host.apply({"name": "anna", "password_hash": other}) == [("update", "anna", ("password_hash",))]


def test_a_hash_that_does_not_take_fails_without_being_told(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.apply({"name": "anna", "password_hash": HASH})
    monkeypatch.setattr(host.tools, "_chpasswd", lambda _arguments, _stdin: None)
    with pytest.raises(VerifyError) as caught:
        host.run({"name": "anna", "password_hash": "$6$otherother$canarycanary"})
    assert "user['anna'].password_hash: asked was 'a secret', the host shows 'another one'" in str(caught.value)
    assert "canary" not in str(caught.value)


def test_a_user_that_is_not_enabled_has_both_locks(host: Host) -> None:
    host.apply({"name": "anna", "password_hash": HASH, "expires": "2090-01-31"})
    assert host.apply({"name": "anna", "enabled": False}) == [("update", "anna", ("enabled",))]
    shadow = host.tools.row("shadow", "anna")
    assert (shadow[1], shadow[7]) == (f"!{HASH}", "1")
    assert host.apply({"name": "anna", "enabled": False, "password_hash": HASH, "expires": "2090-01-31"}) == []
    assert host.gather()[0]["expires"] == "2090-01-31"
    # One of the two alone is not enough.
    host.tools.change("shadow", "anna", c1=HASH)
    assert "enabled" not in host.gather()[0]
    assert host.apply({"name": "anna", "enabled": False}) == [("update", "anna", ("enabled",))]
    assert host.tools.row("shadow", "anna")[1] == f"!{HASH}"
    assert host.apply({"name": "anna", "enabled": True}) == [("update", "anna", ("enabled",))]
    shadow = host.tools.row("shadow", "anna")
    assert (shadow[1], shadow[7]) == (HASH, str(accounts.day_of("2090-01-31")))


def test_a_user_without_a_password_is_enabled_again_without_getting_one(host: Host) -> None:
    host.apply({"name": "anna", "enabled": False})
    assert host.tools.row("shadow", "anna")[1] == "!"
    assert host.apply({"name": "anna", "enabled": True}) == [("update", "anna", ("enabled",))]
    assert host.tools.row("shadow", "anna")[1] == "!"
    assert host.apply({"name": "anna", "enabled": True}) == []


def test_a_user_made_disabled_with_a_password_or_a_hash_is_locked(host: Host) -> None:
    host.apply({"name": "anna", "enabled": False, "password_hash": HASH})
    host.apply({"name": "bert", "enabled": False, "password": "a word"})
    assert host.tools.row("shadow", "anna")[1] == f"!{HASH}"
    assert host.tools.row("shadow", "bert")[1].startswith("!")
    assert [user["enabled"] for user in host.gather()] == [False, False]


def test_a_foreign_user_is_adopted_and_keeps_what_is_not_named(own_id: Host) -> None:
    host = own_id
    home = host.home("anna")
    home.mkdir(mode=0o755)
    uid = str(os.getuid())
    host.tools.store("passwd", [*host.tools.rows("passwd"), ["anna", "x", uid, uid, "A,room 5", str(home), "/bin/sh"]])
    host.tools.store("shadow", [*host.tools.rows("shadow"), ["anna", HASH, "1", "0", "9", "7", "", "", ""]])
    assert host.apply({"name": "anna"}) == []
    change = {"name": "anna", "full_name": "Anna", "ssh_keys": [KEY]}
    assert host.apply(change, check=True) == [("update", "anna", ("full_name", "ssh_keys"))]
    assert host.apply(change) == [("update", "anna", ("full_name", "ssh_keys"))]
    assert host.tools.row("passwd", "anna")[4] == "Anna,room 5"
    assert host.tools.row("shadow", "anna")[1] == HASH


def test_exact_removes_what_was_made_here_and_keeps_the_rest(host: Host) -> None:
    host.tools.run(["useradd", "--uid=4001", "--comment=", "--", "foreign"])
    host.apply({"name": "anna"}, {"name": "bert"})
    result = host.run({"name": "bert"}, exact=["user"])
    assert [change["key"] for change in result["changes"]] == ["anna"]
    assert result["warnings"] == [
        "user['foreign'] is not listed and was kept, since it was not made by this collection"
    ]
    assert [user["name"] for user in host.gather()] == ["bert", "foreign"]


def test_users_of_the_system_are_neither_told_nor_touched(host: Host) -> None:
    assert host.gather() == []
    message = "it is a user of the system (uid 1), and those are left alone; allowed are uids 1000 to 60000"
    assert host.refused({"name": "daemon", "shell": "/bin/sh"}) == {"user['daemon']": message}
    assert list(host.refused({"name": "root", "state": "absent"})) == ["user['root']"]
    assert host.tools.calls == []


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"name": "Anna"}, ".name"),
        ({"name": "-rf"}, ".name"),
        ({"name": "a:b"}, ".name"),
        ({"name": "a/../b"}, ".name"),
        ({"name": "größe"}, ".name"),
        ({"name": "staff"}, ".name"),
        ({"name": "anna", "full_name": "a:0:0:x"}, ".full_name"),
        ({"name": "anna", "full_name": "a,b"}, ".full_name"),
        ({"name": "anna", "shell": "/bin/no-such"}, ".shell"),
        ({"name": "anna", "shell": "/bin/sh:/x"}, ".shell"),
        ({"name": "anna", "shell": "sh"}, ".shell"),
        ({"name": "anna", "groups": ["wheel-of-none"]}, ".groups"),
        ({"name": "anna", "groups": ["anna"]}, ".groups"),
        ({"name": "anna", "expires": "1970-01-02"}, ".expires"),
        ({"name": "anna", "password": "x", "password_hash": HASH}, ".password"),
    ],
)
def test_what_the_host_cannot_hold_is_refused_by_its_path(host: Host, fields: Any, path: str) -> None:
    problems = host.refused(fields)
    (place,) = problems
    assert place == f"user[{fields['name']!r}]{path}" or place.endswith(path)
    assert "canary" not in problems[place]
    assert host.tools.calls == []


def test_a_home_folder_of_somebody_else_is_not_taken_over(host: Host) -> None:
    host.home("anna").mkdir()
    assert "is there already" in host.refused({"name": "anna"})["user['anna']"]


def test_a_user_that_comes_again_gets_its_id_and_nobody_else_does(host: Host) -> None:
    host.apply({"name": "anna"})
    uid = host.tools.row("passwd", "anna")[2]
    host.apply({"name": "anna", "state": "absent"})
    host.apply({"name": "bert"})
    assert host.tools.row("passwd", "bert")[2] != uid
    if int(uid) == os.getuid():
        host.apply({"name": "anna"})
        assert host.tools.row("passwd", "anna")[2] == uid


def test_a_user_whose_processes_run_is_not_removed(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.apply({"name": "anna"})
    monkeypatch.setattr(accounts, "processes_of", lambda _uid: ["812 sshd", "813 bash"])
    problems = host.refused({"name": "anna", "state": "absent"})
    assert "cannot go while its processes run: 812 sshd, 813 bash" in problems["user['anna']"]
    result = host.run(exact=["user"])
    assert result["changes"] == []
    assert "was kept, since its processes run (812 sshd, 813 bash)" in result["warnings"][0]


def test_the_home_folder_goes_where_that_is_asked(own_id: Host) -> None:
    own_id.apply(ANNA)
    own_id.apply({"name": "anna", "state": "absent"}, delete_home=True)
    assert not own_id.home("anna").exists()


def test_a_home_folder_that_others_live_in_does_not_go(host: Host) -> None:
    host.apply({"name": "anna"}, {"name": "bert"})
    host.tools.change("passwd", "bert", c5=str(host.home("anna") / "bert"))
    problems = host.refused({"name": "anna", "state": "absent"}, delete_home=True)
    assert "since it is that of bert too" in problems["user['anna']"]


def test_the_user_that_the_run_has_come_by_is_not_locked_out(host: Host) -> None:
    host.apply({"name": "anna"})
    host.logged_in = {int(host.tools.row("passwd", "anna")[2])}
    assert list(host.refused({"name": "anna", "state": "absent"})) == ["user['anna']"]
    assert list(host.refused({"name": "anna", "enabled": False})) == ["user['anna'].enabled"]
    assert list(host.refused({"name": "anna", "expires": "2001-01-01"})) == ["user['anna'].expires"]
    assert list(host.refused({"name": "anna", "shell": "/bin/false"})) == ["user['anna'].shell"]
    result = host.run(exact=["user"])
    assert result["changes"] == []
    assert "the user that this run has come by" in result["warnings"][0]
    # What may cut off and may be right needs the guard, which this platform does not have.
    with pytest.raises(Exception, match="has no guard"):
        host.run({"name": "anna", "groups": ["adm"]}, guard={"enabled": True})


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_run_that_is_killed_is_finished_by_the_next(own_id: Host, step: int) -> None:
    host = own_id
    document = {**ANNA, "password_hash": None, "password": "a word", "enabled": False}
    host.tools.kill_after = step
    with pytest.raises(Killed):
        host.run(document)
    host.tools.kill_after = None
    # What is half made is told by no read, so that check mode shows what the next run does.
    assert host.gather() == []
    planned = host.run(document, check=True)
    assert [change["action"] for change in planned["changes"]] == ["create"]
    assert host.run(document)["changes"] == planned["changes"]
    assert host.apply(document) == []
    assert host.tools.row("shadow", "anna")[1].startswith("!$")
    assert host.keys("anna") == f"{KEY}\n"


def test_what_a_killed_run_left_goes_also_where_nobody_asks_again(host: Host) -> None:
    host.tools.kill_after = 1
    with pytest.raises(Killed):
        host.run({"name": "anna"})
    host.tools.kill_after = None
    host.apply({"name": "bert"})
    assert [user["name"] for user in host.gather()] == ["bert"]
    assert "anna" not in [row[0] for row in host.tools.rows("passwd")]


def test_a_password_that_the_host_refuses_leaves_nobody(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_arguments: list[str], _stdin: str) -> None:
        raise LookupError("BAD PASSWORD: it is too short")

    monkeypatch.setattr(host.tools, "_chpasswd", refuse)
    with pytest.raises(ApplyError, match=r"the password of user 'anna' cannot be set: .*BAD PASSWORD"):
        host.run({"name": "anna", "password": "canary"})
    assert host.gather() == []


def test_processes_are_told_by_number_and_name_and_those_that_have_ended_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, name, state, uids in (
        (9, "sh", "S (sleeping)", "1001 1001 1001 1001"),
        (10, "su", "S (sleeping)", "1001 0 0 0"),
        (11, "gone", "Z (zombie)", "1001 1001 1001 1001"),
        (12, "other", "R (running)", "1002 1002 1002 1002"),
    ):
        (tmp_path / str(number)).mkdir()
        status = "\t".join(uids.split())
        (tmp_path / str(number) / "status").write_text(f"Name:\t{name}\nState:\t{state}\nUid:\t{status}\n")
    (tmp_path / "self").mkdir()
    monkeypatch.setattr(accounts, "PROC", str(tmp_path))
    assert accounts.processes_of(1001) == ["9 sh", "10 su"]


def test_who_has_come_is_told_by_the_session_by_sudo_and_by_the_parents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "PROC", str(tmp_path))
    for number, uid, parent in ((os.getpid(), 0, 50), (50, 1003, 1), (1, 0, 0)):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "status").write_text(f"Name:\tx\nPPid:\t{parent}\nUid:\t{uid}\t0\t0\t0\n")
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "loginuid").write_text("1001")
    monkeypatch.setenv("SUDO_UID", "1002")
    assert accounts.logged_in_ids() == {0, 1001, 1002, 1003}
    # No session has set it.
    (tmp_path / "self" / "loginuid").write_text("4294967295")
    monkeypatch.delenv("SUDO_UID")
    assert accounts.logged_in_ids() == {0, 1003}
