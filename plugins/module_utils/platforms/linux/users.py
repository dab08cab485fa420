# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The local users of a Linux host, by the tools of the package passwd (useradd(8), usermod(8), userdel(8), chpasswd(8)).

Reading takes no process. A user is made in several steps, so that it is made is written down first: a run that is killed
leaves a user that reading does not tell, and that the next run removes before it makes it again.
"""

from __future__ import annotations

import datetime
import os
import pwd
import re
import stat
from typing import Any, Collection, Dict, FrozenSet, Iterator, List, Mapping, Optional, Sequence

from ...engine.change import Change
from ...engine.platform import Context, Interface
from ...errors import ApplyError, Problem
from ...model.access import User
from ...model.document import Key, State
from ...model.schema import ModelObject
from ...model.types import show
from . import accounts as local
from . import programs
from .accounts import DISABLED_DAY, Accounts, LinuxUser, date_of, day_of
from .authorized_keys import FILE, FOLDER, OTHER_FILE, Account, read_keys, write_keys

RECORD_FILE = "/var/lib/bareforge/users.json"
"""By name: `uid`; `made`, whether it was made here; `unfinished`, whether it is being made; `expires`, what was asked for a
user that is not enabled. A user that is gone keeps its entry: its id is given to nobody else, since its home folder is kept."""

NEW_NAME = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
ALLOWED_NAME = (
    "a name of 1 to 32 small letters, digits, underscores and hyphens that begins with a letter or underscore"
)
HOMES = "/home"
NO_LOGIN = ("nologin", "false", "true", "sync")
CUTTING_FIELDS = frozenset({"ssh_keys", "groups", "password_hash", "shell", "expires", "enabled"})

Record = Dict[str, Dict[str, Any]]


class LinuxUsers(Interface):
    """Reads and changes the local users of a Linux host. Users of the system and root are told by no read."""

    KINDS = ("user",)
    CAPABILITIES = frozenset({"user", "user.ssh_keys", "user.groups", "user.shell", "user.expires"})

    def __init__(self, platform: Any) -> None:
        self.platform = platform

    # -- Reading ---------------------------------------------------------------------------------------------------

    def read(self, kinds: Collection[str], names: Mapping[str, Collection[str]]) -> State:
        known, record = local.read_accounts(), read_record()
        users: Dict[Key, ModelObject] = {}
        for user in known.users.values():
            if known.is_ordinary(user) and not _is_unfinished(user, record):
                shown = _as_shown(user, record)
                if shown is not None:
                    users[shown.key] = shown
        return {"user": users}

    def hidden(self, kind: str, key: Key) -> Optional[str]:
        known = local.read_accounts()
        user = known.users.get(str(key[0]))
        return None if user is None or known.is_ordinary(user) else _system_user(user)

    # -- Before a change -------------------------------------------------------------------------------------------

    def validate(self, change: Change, context: Context) -> Iterator[Problem]:
        known = local.read_accounts()
        present = known.users.get(str(change.key[0]))
        wanted = change.after
        if isinstance(wanted, User):
            if change.before is None:
                yield from _problems_of_new(wanted, known)
            elif present is not None:
                yield from _problems_of_home(wanted, present, change.fields)
            yield from _problems_of_fields(wanted, change, known)
        elif present is not None:
            yield from _problems_of_removal(change, present, known, context)
        if present is not None and present.uid in local.logged_in_ids():
            yield from _problems_of_lockout(change)

    def touches_management(self, change: Change, context: Context) -> bool:
        return self.is_logged_in(change.item) and bool(CUTTING_FIELDS & set(change.fields))

    def is_logged_in(self, item: ModelObject) -> bool:
        """Return whether a user is the one that this run has come by."""
        user = local.read_accounts().users.get(str(item.key[0]))
        return user is not None and user.uid in local.logged_in_ids()

    def keeps(self, item: ModelObject, state: State) -> Optional[str]:
        if self.is_logged_in(item):
            return "it is the user that this run has come by"
        if not read_record().get(str(item.key[0]), {}).get("made"):
            return "it was not made by this collection"
        user = local.read_accounts().users.get(str(item.key[0]))
        running = local.processes_of(user.uid) if user is not None else []
        return f"its processes run ({', '.join(running[:5])})" if running else None

    # -- Changing --------------------------------------------------------------------------------------------------

    def apply(self, changes: Sequence[Change], context: Context) -> None:
        for change in changes:
            context.begin(change)
            if change.after is None:
                _remove(str(change.key[0]), bool(context.operation.delete_home))
            elif isinstance(change.after, User):
                if change.before is None:
                    _make(change.after)
                else:
                    _change(change.after, change.fields)
            context.done(change)

    def recover(self) -> None:
        """Remove what a killed run has left of users that it was making. Raises ApplyError."""
        record = read_record()
        unfinished = [name for name, entry in record.items() if entry.get("unfinished")]
        if not unfinished:
            return
        known = local.read_accounts()
        for name in unfinished:
            user = known.users.get(name)
            if user is not None and user.uid == record[name]["uid"]:
                programs.run(["userdel", "--", name], what=f"what is left of user {show(name)} cannot be removed")
            elif user is None and known.groups.get(name) == record[name]["uid"]:
                programs.run(["groupdel", "--", name], what=f"what is left of group {show(name)} cannot be removed")
            record[name]["unfinished"] = False
        programs.write_record(RECORD_FILE, record)


def read_record() -> Record:
    """Return what is kept of users, by name. Raises ReadError."""
    data = programs.read_record(RECORD_FILE)
    return {
        name: entry for name, entry in data.items() if isinstance(entry, dict) and isinstance(entry.get("uid"), int)
    }


def key_files(name: str) -> List[str]:
    """Return the paths of the files that hold a user's keys, whether they are there or not; none below a link."""
    user = local.read_accounts().users.get(name)
    if user is None:
        return []
    folder = os.path.join(user.home, FOLDER)
    paths = [os.path.join(folder, file) for file in (FILE, OTHER_FILE)]
    return [path for path in paths if os.path.realpath(path) == path]


def _is_unfinished(user: LinuxUser, record: Record) -> bool:
    entry = record.get(user.name, {})
    return bool(entry.get("unfinished")) and entry.get("uid") == user.uid


def _as_shown(user: LinuxUser, record: Record) -> Optional[User]:
    expires = user.expires
    day: Optional[str] = None if expires is None else date_of(expires)
    if expires is not None and expires <= DISABLED_DAY:
        day = record.get(user.name, {}).get("expires")
    fields: Dict[str, Any] = {
        "name": user.name,
        "full_name": user.full_name or None,
        "enabled": user.enabled,
        "ssh_keys": read_keys(Account(user.uid, user.gid, user.home)),
        "groups": user.groups,
        "shell": user.shell or None,
        "expires": day,
    }
    options = User.options()
    told: Dict[str, Any] = {}
    for name, value in fields.items():
        problems: List[Problem] = []
        # What another program wrote may be more than the model has words for.
        told[name] = None if value is None else options[name].type.read(value, User().place, problems)
        if problems:
            told[name] = None
    if told["name"] is None:
        return None
    usable = user.has_hash and (not user.is_locked or user.enabled is False)
    return User(**told, password_hash=user.password.lstrip("!") if usable else "")


def _system_user(user: LinuxUser) -> str:
    return f"it is a user of the system (uid {user.uid}), and those are left alone"


def _problems_of_new(wanted: User, known: Accounts) -> Iterator[Problem]:
    name, place = str(wanted.name), wanted.place
    if name in known.users:
        user = known.users[name]
        if not known.is_ordinary(user):
            yield Problem(place.text, f"{_system_user(user)}; allowed are uids {known.minimum} to {known.maximum}")
        return
    if not NEW_NAME.fullmatch(name):
        yield Problem(place.field("name").text, f"{show(name)} is not allowed; allowed is {ALLOWED_NAME}")
        return
    try:
        pwd.getpwnam(name)
    except KeyError:
        pass
    else:
        yield Problem(place.text, "is a user of a directory that this host asks, and none of its own")
    entry = read_record().get(name)
    number = entry["uid"] if entry else None
    if name in known.groups and known.groups[name] != number:
        yield Problem(
            place.field("name").text,
            f"there is a group {show(name)} already (gid {known.groups[name]}), which the user would be in by its name",
        )
    try:
        status = os.lstat(os.path.join(HOMES, name))
    except OSError:
        return
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != number:
        yield Problem(
            place.text,
            f"{HOMES}/{name} is there already and belongs to uid {status.st_uid}; move it away, or make the user by hand "
            "with that uid",
        )


def _problems_of_home(wanted: User, present: LinuxUser, fields: Collection[str]) -> Iterator[Problem]:
    if "ssh_keys" not in fields:
        return
    try:
        status = os.lstat(present.home)
        reason = None if stat.S_ISDIR(status.st_mode) else "is no folder"
        if reason is None and status.st_uid != present.uid:
            reason = f"belongs to uid {status.st_uid}"
        if reason is None and stat.S_IMODE(status.st_mode) & 0o022:
            reason = f"can be written by others (mode {stat.S_IMODE(status.st_mode):04o}), for which sshd takes no keys"
    except OSError as error:
        reason = f"cannot be used: {error.strerror}"
    if reason:
        yield Problem(wanted.place.field("ssh_keys").text, f"the user's home folder {present.home} {reason}")


def _problems_of_fields(wanted: User, change: Change, known: Accounts) -> Iterator[Problem]:
    place = wanted.place
    if wanted.password and wanted.password_hash and (change.before is None or "password_hash" in change.fields):
        yield Problem(place.field("password").text, "goes without password_hash")
    if "full_name" in change.fields and wanted.full_name and re.search(r"[:,]", wanted.full_name):
        message = f"{show(wanted.full_name)} is not allowed; allowed is text without colons and commas (passwd(5))"
        yield Problem(place.field("full_name").text, message)
    shell = wanted.shell or ""
    if "shell" in change.fields and not (
        re.fullmatch(r"(/[A-Za-z0-9._+-]+)+", shell) and os.path.isfile(shell) and os.access(shell, os.X_OK)
    ):
        message = f"{show(shell)} is not allowed; allowed is the path of a program of the host, such as /bin/bash"
        yield Problem(place.field("shell").text, message)
    own = {known.users[str(wanted.name)].gid} if wanted.name in known.users else set()
    for group in wanted.groups or () if "groups" in change.fields else ():
        if group not in known.groups and group != wanted.name:
            yield Problem(place.field("groups").text, f"there is no group {show(group)} on the host")
        elif group == wanted.name or known.groups.get(group) in own:
            yield Problem(place.field("groups").text, f"{show(group)} is the user's own group, which is not listed")
    if "expires" in change.fields and wanted.expires and day_of(wanted.expires) <= DISABLED_DAY:
        yield Problem(
            place.field("expires").text, f"{show(wanted.expires)} is not allowed; allowed is a day after 1970-01-02"
        )


def _problems_of_removal(change: Change, present: LinuxUser, known: Accounts, context: Context) -> Iterator[Problem]:
    running = local.processes_of(present.uid)
    if running:
        more = f" and {len(running) - 5} more" if len(running) > 5 else ""
        yield Problem(
            change.item.place.text,
            f"cannot go while its processes run: {', '.join(running[:5])}{more}; end them first (pkill -u)",
        )
    if context.operation.delete_home:
        below = present.home.rstrip("/") + "/"
        others = sorted(
            user.name
            for user in known.users.values()
            if user.name != present.name and f"{user.home.rstrip('/')}/".startswith(below)
        )
        if others or below == "/":
            yield Problem(
                change.item.place.text,
                f"its home folder {present.home} cannot go with it, since it is that of {', '.join(others) or 'the host'} too",
            )


def _problems_of_lockout(change: Change) -> Iterator[Problem]:
    place, wanted = change.item.place, change.after
    what = "is the user that this run has come by"
    if not isinstance(wanted, User):
        yield Problem(place.text, f"cannot go, since it {what}")
        return
    if "enabled" in change.fields and wanted.enabled is False:
        yield Problem(place.field("enabled").text, f"must stay true, since {show(wanted.name)} {what}")
    today = datetime.datetime.now(datetime.timezone.utc).date()
    if "expires" in change.fields and wanted.expires and wanted.expires <= today.isoformat():
        yield Problem(place.field("expires").text, f"must lie in the future, since {show(wanted.name)} {what}")
    if "shell" in change.fields and os.path.basename(wanted.shell or "") in NO_LOGIN:
        yield Problem(place.field("shell").text, f"must be one to log in with, since {show(wanted.name)} {what}")


# -- Changing ------------------------------------------------------------------------------------------------------


def _make(wanted: User) -> None:
    name, record = str(wanted.name), read_record()
    known = local.read_accounts()
    taken = frozenset(entry["uid"] for entry in record.values())
    former = record.get(name, {}).get("uid")
    number = former if former is not None and former not in _used(known) else known.free_id(taken)
    if number is None:
        raise ApplyError(f"user {show(name)} cannot be made: no uid from {known.minimum} to {known.maximum} is free")
    argv = ["useradd", "--user-group", "--create-home", f"--uid={number}", f"--comment={wanted.full_name or ''}"]
    if wanted.shell:
        argv.append(f"--shell={wanted.shell}")
    if wanted.groups:
        argv.append(f"--groups={','.join(wanted.groups)}")
    day = _day(wanted)
    if day is not None:
        argv.append(f"--expiredate={date_of(day)}")
    record[name] = {"uid": number, "made": True, "unfinished": True, "expires": wanted.expires or None}
    programs.write_record(RECORD_FILE, record)
    programs.run([*argv, "--", name], what=f"user {show(name)} cannot be made")
    _set_password(wanted, name)
    if wanted.enabled is False and not wanted.password_hash:
        programs.run(["usermod", "--lock", "--", name], what=f"user {show(name)} cannot be locked")
    if wanted.ssh_keys:
        user = local.read_accounts().users[name]
        write_keys(Account(user.uid, user.gid, user.home), wanted.ssh_keys)
    record[name]["unfinished"] = False
    programs.write_record(RECORD_FILE, record)


def _used(known: Accounts) -> FrozenSet[int]:
    return frozenset(user.uid for user in known.users.values()) | frozenset(known.groups.values())


def _day(wanted: User) -> Optional[int]:
    if wanted.enabled is False:
        return DISABLED_DAY
    return day_of(wanted.expires) if wanted.expires else None


def _set_password(wanted: User, name: str) -> None:
    what = f"the password of user {show(name)} cannot be set"
    if wanted.password_hash:
        locked = "!" if wanted.enabled is False else ""
        programs.run(["chpasswd", "--encrypted"], f"{name}:{locked}{wanted.password_hash}\n", what)
    elif wanted.password:
        programs.run(["chpasswd"], f"{name}:{wanted.password}\n", what)


def _change(wanted: User, fields: Collection[str]) -> None:
    name = str(wanted.name)
    present = local.read_accounts().users[name]
    argv: List[str] = []
    if "full_name" in fields:
        rest = present.comment.partition(",")[2]
        argv.append(f"--comment={wanted.full_name or ''}{',' if rest else ''}{rest}")
    if "shell" in fields:
        argv.append(f"--shell={wanted.shell}")
    if "groups" in fields:
        argv.append(f"--groups={','.join(wanted.groups or ())}")
    if "enabled" in fields or "expires" in fields:
        record = read_record()
        entry = record.setdefault(name, {"uid": present.uid, "made": False, "unfinished": False})
        entry["expires"] = wanted.expires or None
        programs.write_record(RECORD_FILE, record)
        day = _day(wanted)
        argv.append(f"--expiredate={'' if day is None else date_of(day)}")
        if wanted.enabled is False and not present.is_locked:
            argv.append("--lock")
        elif wanted.enabled is not False and "enabled" in fields and present.is_locked and present.has_hash:
            argv.append("--unlock")
    if argv:
        programs.run(["usermod", *argv, "--", name], what=f"user {show(name)} cannot be changed")
    if "password_hash" in fields:
        _set_password(wanted, name)
    if "ssh_keys" in fields:
        write_keys(Account(present.uid, present.gid, present.home), wanted.ssh_keys or ())


def _remove(name: str, with_home: bool) -> None:
    options = ["--remove"] if with_home else []
    programs.run(["userdel", *options, "--", name], what=f"user {show(name)} cannot be removed", timeout=600)
    record = read_record()
    if name in record:
        record[name]["made"] = False
        programs.write_record(RECORD_FILE, record)
