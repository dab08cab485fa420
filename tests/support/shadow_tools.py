# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The tools of the package passwd on files in a folder, as strict as the real ones where that matters."""

from __future__ import annotations

import getopt
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence

from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import ApplyError
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.linux.accounts import day_of

PASSWD = "root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n"
SHADOW = "root:*:19700:0:99999:7:::\ndaemon:*:19700:0:99999:7:::\n"
GROUP = "root:x:0:\ndaemon:x:1:\nadm:x:4:\nstaff:x:50:\n"


class Killed(BaseException):
    """The death of the process."""


class ShadowTools:
    """useradd, usermod, userdel, groupdel and chpasswd.

    calls: every argv and what it was given to read. kill_after: the process dies after that many calls, counted from 1.
    """

    def __init__(self, folder: Path, homes: Path) -> None:
        self.folder = folder
        self.homes = homes
        self.calls: List[Any] = []
        self.kill_after: Optional[int] = None
        for name, text in (("passwd", PASSWD), ("shadow", SHADOW), ("group", GROUP)):
            (folder / name).write_text(text)

    def run(self, argv: Sequence[str], stdin: str = "", what: Optional[str] = None, timeout: float = 120) -> str:
        self.calls.append((tuple(argv), stdin))
        tools: Dict[str, Callable[[List[str], str], None]] = {
            "useradd": self._useradd,
            "usermod": self._usermod,
            "userdel": self._userdel,
            "groupdel": self._groupdel,
            "chpasswd": self._chpasswd,
        }
        try:
            tools[argv[0]](list(argv[1:]), stdin)
        except (LookupError, getopt.GetoptError) as error:
            raise ApplyError(f"{what}: {error}") from error
        if self.kill_after == len(self.calls):
            raise Killed
        return ""

    def rows(self, name: str) -> List[List[str]]:
        return [line.split(":") for line in (self.folder / name).read_text().splitlines()]

    def row(self, name: str, key: str) -> List[str]:
        return next(row for row in self.rows(name) if row[0] == key)

    def store(self, name: str, rows: List[List[str]]) -> None:
        (self.folder / name).write_text("".join(":".join(row) + "\n" for row in rows))

    def change(self, name: str, key: str, **columns: str) -> None:
        rows = self.rows(name)
        row = next((row for row in rows if row[0] == key), None)
        if row is None:
            raise LookupError(f"{key} does not exist")
        for column, value in columns.items():
            row[int(column[1:])] = value
        self.store(name, rows)

    def _useradd(self, arguments: List[str], _stdin: str) -> None:
        names = ["user-group", "create-home", "comment=", "uid=", "shell=", "groups=", "expiredate="]
        options, (name,) = getopt.gnu_getopt(arguments, "", names)
        given = dict(options)
        uid = given["--uid"]
        if any(row[0] == name for row in self.rows("passwd") + self.rows("group")):
            raise LookupError(f"user or group '{name}' already exists")
        if uid in [row[2] for row in self.rows("passwd")] + [row[2] for row in self.rows("group")]:
            raise LookupError(f"id {uid} is not unique")
        home = self.homes / name
        self.store("group", [*self.rows("group"), [name, "x", uid, ""]])
        row = [name, "x", uid, uid, given["--comment"], str(home), given.get("--shell", "/bin/sh")]
        self.store("passwd", [*self.rows("passwd"), row])
        day = str(day_of(given["--expiredate"])) if given.get("--expiredate") else ""
        self.store("shadow", [*self.rows("shadow"), [name, "!", "20000", "0", "99999", "7", "", day, ""]])
        self._join(name, given.get("--groups", ""))
        home.mkdir(mode=0o700, exist_ok=True)

    def _join(self, name: str, groups: str) -> None:
        wanted = [group for group in groups.split(",") if group]
        rows = self.rows("group")
        missing = set(wanted) - {row[0] for row in rows}
        if missing:
            raise LookupError(f"group '{missing.pop()}' does not exist")
        for row in rows:
            members = [member for member in row[3].split(",") if member and member != name]
            row[3] = ",".join([*members, name] if row[0] in wanted else members)
        self.store("group", rows)

    def _usermod(self, arguments: List[str], _stdin: str) -> None:
        options, (name,) = getopt.gnu_getopt(
            arguments, "", ["comment=", "shell=", "groups=", "expiredate=", "lock", "unlock"]
        )
        password = self.row("shadow", name)[1]
        for option, value in options:
            if option == "--comment":
                self.change("passwd", name, c4=value)
            elif option == "--shell":
                self.change("passwd", name, c6=value)
            elif option == "--groups":
                self._join(name, value)
            elif option == "--expiredate":
                self.change("shadow", name, c7=str(day_of(value)) if value else "")
            elif option == "--lock":
                self.change("shadow", name, c1=password if password.startswith("!") else f"!{password}")
            elif option == "--unlock":
                if password in ("!", "!!"):
                    raise LookupError("unlocking the user's password would result in a passwordless account")
                self.change("shadow", name, c1=password.lstrip("!"))

    def _userdel(self, arguments: List[str], _stdin: str) -> None:
        options, (name,) = getopt.gnu_getopt(arguments, "", ["remove"])
        home = self.row("passwd", name)[5]
        for file in ("passwd", "shadow"):
            self.store(file, [row for row in self.rows(file) if row[0] != name])
        self.store("group", [row for row in self.rows("group") if row[0] != name])
        self._join(name, "")
        if ("--remove", "") in options:
            for path in sorted(Path(home).rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
            Path(home).rmdir()

    def _groupdel(self, arguments: List[str], _stdin: str) -> None:
        _options, (name,) = getopt.gnu_getopt(arguments, "", [])
        self.store("group", [row for row in self.rows("group") if row[0] != name])

    def _chpasswd(self, arguments: List[str], stdin: str) -> None:
        options, _none = getopt.gnu_getopt(arguments, "", ["encrypted"])
        for line in stdin.splitlines():
            name, _colon, password = line.partition(":")
            self.change("shadow", name, c1=password if options else f"$hash-of${password}")
