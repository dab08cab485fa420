# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The local users of a Linux host as its files tell them (passwd(5), shadow(5), group(5), login.defs(5))."""

from __future__ import annotations

import datetime
import os
import re
from dataclasses import dataclass
from typing import Dict, FrozenSet, Iterator, List, Optional, Set, Tuple

from ...errors import ReadError
from .programs import read_text

ETC = "/etc"
PROC = "/proc"

EPOCH = datetime.date(1970, 1, 1)
DISABLED_DAY = 1
"""The day, since 1970, on which the account of a user ends who is not enabled; 0 is taken for "never" by some programs."""


@dataclass(frozen=True)
class LinuxUser:
    """One user.

    comment: the whole field, whose part before the first comma is the person's name.
    password: what stands in the place of the hash. expires: days since 1970, or None.
    groups: the names of the groups that list the user, without the user's own.
    """

    name: str
    uid: int
    gid: int
    comment: str
    home: str
    shell: str
    password: str = ""
    expires: Optional[int] = None
    groups: Tuple[str, ...] = ()

    @property
    def full_name(self) -> str:
        """The person's name."""
        return self.comment.partition(",")[0]

    @property
    def is_locked(self) -> bool:
        """Whether no password lets in."""
        return self.password.startswith(("!", "*"))

    @property
    def has_hash(self) -> bool:
        """Whether there is a hash, locked or not."""
        return self.password.lstrip("!").startswith("$")

    @property
    def enabled(self) -> Optional[bool]:
        """Whether the user may log in; None where only one of the two locks is on."""
        if self.expires is None or self.expires > DISABLED_DAY:
            return True
        return False if self.is_locked else None


@dataclass(frozen=True)
class Accounts:
    """All local users and groups.

    users, groups: by name; a group is its id. minimum, maximum: the ids of ordinary users.
    """

    users: Dict[str, LinuxUser]
    groups: Dict[str, int]
    minimum: int = 1000
    maximum: int = 60000

    def is_ordinary(self, user: LinuxUser) -> bool:
        """Return whether a user is no user of the system."""
        return self.minimum <= user.uid <= self.maximum

    def free_id(self, taken: FrozenSet[int]) -> Optional[int]:
        """Return an id above all that ordinary users have or had, or the lowest free one; None where there is none.

        taken: ids that are not to be given, beside those of users and groups.
        """
        used: Set[int] = {user.uid for user in self.users.values()} | set(self.groups.values()) | taken
        highest = max((number for number in used if self.minimum <= number <= self.maximum), default=self.minimum - 1)
        if highest < self.maximum:
            return highest + 1
        return next((number for number in range(self.minimum, self.maximum + 1) if number not in used), None)


def _rows(path: str, columns: int) -> Iterator[List[str]]:
    text = read_text(path)
    if text is None:
        raise ReadError(f"there is no {path}")
    for line in text.split("\n"):
        fields = line.split(":")
        # Lines that begin with + or - are about NIS and no users of this host.
        if len(fields) >= columns and fields[0] and fields[0][0] not in "+-#":
            yield fields


def _number(text: str) -> Optional[int]:
    return int(text) if re.fullmatch(r"-?[0-9]{1,10}", text) else None


def read_accounts() -> Accounts:
    """Return the local users and groups. Raises ReadError."""
    groups: Dict[str, int] = {}
    members: Dict[str, Set[str]] = {}
    for fields in _rows(os.path.join(ETC, "group"), 4):
        groups[fields[0]] = _number(fields[2]) or 0
        for member in fields[3].split(","):
            members.setdefault(member.strip(), set()).add(fields[0])
    secrets: Dict[str, Tuple[str, Optional[int]]] = {}
    for fields in _rows(os.path.join(ETC, "shadow"), 8):
        expires = _number(fields[7])
        secrets.setdefault(fields[0], (fields[1], None if expires is None or expires < 0 else expires))
    users: Dict[str, LinuxUser] = {}
    for fields in _rows(os.path.join(ETC, "passwd"), 7):
        name, _x, uid, gid, comment, home, shell = fields[:7]
        password, expires = secrets.get(name, ("*", None))
        own = _number(gid) or 0
        users.setdefault(
            name,
            LinuxUser(
                name=name,
                uid=_number(uid) or 0,
                gid=own,
                comment=comment,
                home=home,
                shell=shell,
                password=password,
                expires=expires,
                groups=tuple(sorted(group for group in members.get(name, ()) if groups[group] != own)),
            ),
        )
    limits = _login_defs()
    return Accounts(users, groups, limits.get("UID_MIN", 1000), limits.get("UID_MAX", 60000))


def _login_defs() -> Dict[str, int]:
    text = read_text(os.path.join(ETC, "login.defs")) or ""
    rows = (line.split() for line in text.split("\n"))
    found = {row[0]: _number(row[1]) for row in rows if len(row) >= 2}
    return {name: value for name, value in found.items() if value is not None}


def day_of(date: str) -> int:
    """Return a day, as text, in days since 1970."""
    return (datetime.date.fromisoformat(date) - EPOCH).days


def date_of(day: int) -> str:
    """Return a day in days since 1970 as text; what lies after the year 9999 is its last day."""
    return (EPOCH + datetime.timedelta(days=min(day, (datetime.date.max - EPOCH).days))).isoformat()


def _status(process: str) -> Dict[str, str]:
    with open(os.path.join(PROC, process, "status"), encoding="utf-8", errors="replace") as stream:
        return dict(line.rstrip("\n").partition(":")[::2] for line in stream)


def processes_of(uid: int) -> List[str]:
    """Return `NUMBER NAME` of every process that runs as a user (proc(5), the real, effective and saved id)."""
    found = []
    for entry in sorted((name for name in os.listdir(PROC) if name.isdigit()), key=int):
        try:
            fields = _status(entry)
        except (FileNotFoundError, ProcessLookupError):
            continue
        # One that has ended and is not yet waited for does nothing any more.
        if str(uid) in fields.get("Uid", "").split() and not fields.get("State", "").strip().startswith("Z"):
            found.append(f"{entry} {fields.get('Name', '?').strip()}")
    return found


def logged_in_ids() -> FrozenSet[int]:
    """Return the ids of the users that this process may have come by: the session's, sudo's, those of its parents.

    4294967295 in loginuid says that no session set it (pam_loginuid(8)).
    """
    found: Set[int] = set()
    number = _number((read_text(os.path.join(PROC, "self/loginuid")) or "").strip())
    if number is not None and number < 2**32 - 1:
        found.add(number)
    number = _number(os.environ.get("SUDO_UID", ""))
    if number is not None:
        found.add(number)
    process = os.getpid()
    for _generation in range(64):
        try:
            fields = _status(str(process))
        except OSError:
            break
        found.add(int(fields["Uid"].split()[0]))
        process = int(fields["PPid"])
        if process < 1:
            break
    return frozenset(found)
