# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Public keys in home folders whose users mean harm."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import ApplyError
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.linux.authorized_keys import (
    MAXIMUM_BYTES,
    Account,
    read_keys,
    with_line,
    without_line,
    write_keys,
)

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKanaryKanaryKanaryKanaryKanaryKanaryKana a comment "
OTHER = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABgQOtherOtherOtherOtherOtherOtherOtherOth"


@pytest.fixture
def account(tmp_path: Path) -> Account:
    home = tmp_path / "home"
    home.mkdir(mode=0o755)
    return Account(os.getuid(), os.getgid(), str(home))


def ssh_folder(account: Account) -> Path:
    folder = Path(account.home) / ".ssh"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def put(account: Account, text: str, name: str = "authorized_keys", mode: int = 0o600) -> Path:
    path = ssh_folder(account) / name
    path.write_text(text)
    path.chmod(mode)
    return path


def test_what_is_written_is_read_back(account: Account) -> None:
    assert read_keys(account) == ()
    write_keys(account, [KEY, OTHER])
    assert read_keys(account) == (KEY, OTHER)
    assert os.listdir(ssh_folder(account)) == ["authorized_keys"]
    write_keys(account, [])
    assert read_keys(account) == ()
    assert os.listdir(ssh_folder(account)) == []


def test_without_keys_nothing_is_made(account: Account) -> None:
    write_keys(account, [])
    assert os.listdir(account.home) == []


def test_comments_and_blank_lines_are_no_keys(account: Account) -> None:
    put(account, f"# mine\n\n  {KEY}\n \t\n{KEY}\n")
    assert read_keys(account) == (KEY,)


@pytest.mark.parametrize("line", [f'command="id" {KEY}', "no key", f"{OTHER}\r", "\udcff"])
def test_lines_that_are_no_plain_key_are_not_told(account: Account, line: str) -> None:
    path = put(account, "")
    path.write_bytes(f"{KEY}\n{line}\n".encode("utf-8", "surrogateescape"))
    assert read_keys(account) is None
    write_keys(account, [KEY])
    assert read_keys(account) == (KEY,)


def test_the_second_file_counts_and_goes(account: Account) -> None:
    put(account, f"{OTHER}\n", "authorized_keys2")
    assert read_keys(account) is None
    write_keys(account, [KEY])
    assert read_keys(account) == (KEY,)
    assert os.listdir(ssh_folder(account)) == ["authorized_keys"]


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_a_file_that_others_can_write_is_not_told_and_mended(account: Account, mode: int) -> None:
    path = put(account, f"{KEY}\n", mode=mode)
    assert read_keys(account) is None
    write_keys(account, [KEY])
    assert oct(path.stat().st_mode)[-3:] == "600"
    ssh_folder(account).chmod(0o770)
    assert read_keys(account) is None
    write_keys(account, [KEY])
    assert oct(ssh_folder(account).stat().st_mode)[-3:] == "700"


def test_a_link_in_the_place_of_the_file_is_replaced_and_not_followed(account: Account, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text(f"{OTHER}\n")
    path = ssh_folder(account) / "authorized_keys"
    path.symlink_to(victim)
    (ssh_folder(account) / ".authorized_keys.bareforge-new").symlink_to(victim)
    assert read_keys(account) is None
    write_keys(account, [KEY])
    assert victim.read_text() == f"{OTHER}\n"
    assert not path.is_symlink()
    assert read_keys(account) == (KEY,)


@pytest.mark.parametrize("place", [".ssh", ""])
def test_a_link_in_the_place_of_a_folder_is_refused(account: Account, tmp_path: Path, place: str) -> None:
    victim = tmp_path / "victim"
    (victim / ".ssh").mkdir(parents=True)
    target = victim / ".ssh" if place else victim
    spot = Path(account.home, place) if place else Path(account.home)
    if not place:
        spot.rmdir()
    spot.symlink_to(target)
    assert read_keys(account) is None
    with pytest.raises(ApplyError, match="could not be written"):
        write_keys(account, [KEY])
    assert os.listdir(victim / ".ssh") == []


def test_a_pipe_stops_nobody(account: Account) -> None:
    os.mkfifo(ssh_folder(account) / "authorized_keys", 0o600)
    assert read_keys(account) is None
    write_keys(account, [KEY])
    assert read_keys(account) == (KEY,)


def test_a_file_without_end_is_not_read(account: Account) -> None:
    path = put(account, "")
    os.truncate(path, MAXIMUM_BYTES + 1)
    assert read_keys(account) is None


def test_a_folder_in_the_place_of_the_file_fails_by_name(account: Account) -> None:
    (ssh_folder(account) / "authorized_keys" / "x").mkdir(parents=True)
    with pytest.raises(ApplyError, match=account.home):
        write_keys(account, [KEY])


@pytest.mark.skipif(os.getuid() != 0, reason="only root writes with somebody else's rights")
def test_what_the_user_may_not_do_is_not_done_for_the_user() -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        Path(folder).chmod(0o711)
        theirs = Account(65000, 65000, f"{folder}/home")
        Path(theirs.home).mkdir(mode=0o755)
        with pytest.raises(ApplyError, match="Permission denied"):
            write_keys(theirs, [KEY])
        os.chown(theirs.home, 65000, 65000)
        write_keys(theirs, [KEY])
        path = ssh_folder(theirs) / "authorized_keys"
        assert (path.stat().st_uid, path.stat().st_gid) == (65000, 65000)
        assert read_keys(theirs) == (KEY,)
        assert os.geteuid() == 0


def test_a_line_comes_and_goes_and_all_else_stays(account: Account) -> None:
    path = put(account, f'# mine\nfrom="10.0.0.1" {KEY}')
    with_line(account, f"restrict {OTHER} mark-1", "mark-1")
    with_line(account, f'restrict,command="x" {OTHER} mark-1', "mark-1")
    assert path.read_text() == f'# mine\nfrom="10.0.0.1" {KEY}\nrestrict,command="x" {OTHER} mark-1\n'
    assert path.stat().st_mode & 0o777 == 0o600
    without_line(account, "mark-2")
    without_line(account, "mark-1")
    assert path.read_text() == f'# mine\nfrom="10.0.0.1" {KEY}\n'


def test_a_line_is_all_that_there_is_and_goes_with_its_file(account: Account) -> None:
    put(account, f"{KEY}\n", "authorized_keys2")
    with_line(account, f"{OTHER} mark-1", "mark-1")
    assert (ssh_folder(account) / "authorized_keys").read_text() == f"{OTHER} mark-1\n"
    without_line(account, "mark-1")
    assert os.listdir(ssh_folder(account)) == ["authorized_keys2"]


def test_a_line_is_added_to_nothing_that_sshd_would_not_take(account: Account) -> None:
    put(account, KEY)
    ssh_folder(account).chmod(0o777)
    with pytest.raises(ApplyError, match="takes no keys"):
        with_line(account, f"{OTHER} mark-1", "mark-1")
