# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Users, roles and permissions (PVE::API2::User, Role, ACL of pve-access-control).

A user of the model without a realm is one of `pve`, Proxmox VE's own. The roles viewer, operator and admin of every
platform are PVEAuditor, PVEVMUser and Administrator here.
"""

from __future__ import annotations

import calendar
import datetime
import re
from typing import Any, Collection, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple

from ...engine.change import Change
from ...engine.platform import Context, Interface
from ...errors import Problem
from ...model.access import Permission, Role, User
from ...model.document import State
from ...model.schema import ModelObject, shown_as
from ...model.types import show

OWN_REALM = "pve"
ROLES = {"viewer": "PVEAuditor", "operator": "PVEVMUser", "admin": "Administrator"}
WORDS = {role: word for word, role in ROLES.items()}

USER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,58}")
ROLE_NAME = re.compile(r"[A-Za-z0-9._-]{2,64}")
GROUP_NAME = re.compile(r"[A-Za-z0-9._-]{2,64}")
PATH = re.compile(
    r"/|/access(/groups|/realm(/[A-Za-z0-9._-]+)?)?|/mapping(/(dir|pci|usb)(/[A-Za-z0-9._-]+)?)?|/nodes(/[A-Za-z0-9-]+)?"
    r"|/pool(/[A-Za-z0-9._-]+){0,3}|/sdn(/.+)?|/storage(/[A-Za-z0-9._-]+)?|/vms(/[1-9][0-9]{2,8})?"
)
PATHS = "/, /access, /mapping, /nodes/NODE, /pool/POOL, /sdn, /storage/STORAGE or /vms/ID"
SHORTEST_PASSWORD, LONGEST_PASSWORD = 8, 64


class ProxmoxAccess(Interface):
    """Reads and changes users, roles and who has which of them where."""

    KINDS = ("role", "user", "permission")
    CAPABILITIES = frozenset({"user", "user.realm", "user.groups", "user.expires", "role", "permission"})

    def __init__(self, platform: Any) -> None:
        self.platform = platform
        self._ids: Dict[str, str] = {}
        self._special: Dict[str, str] = {}
        self._known_privileges: frozenset[str] = frozenset()

    # -- reading -------------------------------------------------------------------------------------------------------

    def read(self, kinds: Collection[str], names: Mapping[str, Collection[str]]) -> State:
        session = self.platform.session
        state: State = {kind: {} for kind in kinds}
        if "user" in state or "permission" in state:
            entries = session.get("access", "users", full=True)
            self._ids = _model_names([str(entry["userid"]) for entry in entries])
            if "user" in state:
                by_id = {userid: name for name, userid in self._ids.items()}
                for entry in entries:
                    user = _describe_user(entry, by_id[str(entry["userid"])])
                    state["user"][user.key] = user
        if "role" in state:
            for entry in session.get("access", "roles"):
                name = str(entry["roleid"])
                privileges = tuple(sorted(part for part in str(entry.get("privs") or "").split(",") if part))
                if name == "Administrator":
                    self._known_privileges = frozenset(privileges)
                role = Role(name=WORDS.get(name, name), privileges=privileges)
                if entry.get("special"):
                    self._special[str(role.name)] = name
                state["role"][role.key] = role
        if "permission" in state:
            state["permission"] = {item.key: item for item in self._permissions(session.get("access", "acl"))}
        return state

    def _permissions(self, entries: Sequence[Mapping[str, Any]]) -> Iterator[Permission]:
        by_id = {userid: name for name, userid in self._ids.items()}
        groups: Dict[Tuple[str, str, str], List[Mapping[str, Any]]] = {}
        for entry in entries:
            if entry.get("type") in ("user", "group"):
                groups.setdefault((str(entry["type"]), str(entry["ugid"]), str(entry["path"])), []).append(entry)
        for (kind, ugid, path), found in sorted(groups.items()):
            permission = Permission(
                principal=by_id.get(ugid, ugid) if kind == "user" else ugid,
                path=path,
                principal_type=kind,
                role=WORDS.get(str(found[0]["roleid"]), str(found[0]["roleid"])),
                propagate=str(found[0].get("propagate", 1)) == "1",
            )
            # Several roles of one principal in one place are more than the model says of it.
            yield permission if len(found) == 1 else shown_as(permission, role=None)

    def keeps(self, item: ModelObject, state: State) -> Optional[str]:
        if isinstance(item, User):
            userid = self._id_of(item)
            if userid in ("root@pam", self.platform.session.user.partition("!")[0]):
                return "the node is managed by it"
        if isinstance(item, Role) and str(item.name) in self._special:
            return "it is one of Proxmox VE's own"
        if isinstance(item, Permission):
            if self._ids.get(str(item.principal)) == self.platform.session.user.partition("!")[0]:
                return "the node is managed by it"
        return None

    def _id_of(self, user: User) -> str:
        if user.realm:
            return f"{user.name}@{user.realm}" if "@" not in str(user.name) else str(user.name)
        return self._ids.get(str(user.name), f"{user.name}@{OWN_REALM}")

    # -- objections ----------------------------------------------------------------------------------------------------

    def validate(self, change: Change, context: Context) -> Iterable[Problem]:
        item = change.after
        if item is None:
            reason = self.keeps(change.item, context.before)
            problems: Iterable[Tuple[str, str]] = [("", f"cannot go: {reason}")] if reason else []
        elif isinstance(item, User):
            problems = _user_problems(item, change)
        elif isinstance(item, Role):
            problems = self._role_problems(item, change)
        elif isinstance(item, Permission):
            problems = self._permission_problems(item, context)
        else:
            problems = []
        for name, message in problems:
            yield Problem(change.item.place.inner(name).text if name else change.item.place.text, message)

    def _role_problems(self, role: Role, change: Change) -> Iterator[Tuple[str, str]]:
        if change.before is not None and str(role.name) in self._special:
            yield "privileges", "cannot change: the role is one of Proxmox VE's own"
        if change.before is None and (
            not ROLE_NAME.fullmatch(str(role.name)) or str(role.name).upper().startswith("PVE")
        ):
            yield (
                "name",
                f"{show(role.name)} is no name for a role; allowed are letters, digits, _, - and ., not beginning with PVE",
            )
        for privilege in role.privileges or ():
            if self._known_privileges and privilege not in self._known_privileges:
                yield (
                    "privileges",
                    f"{show(privilege)} is no privilege; there are: {', '.join(sorted(self._known_privileges))}",
                )
        if role.description:
            yield "description", "cannot be kept: a role of Proxmox VE has none"

    def _permission_problems(self, item: Permission, context: Context) -> Iterator[Tuple[str, str]]:
        if not PATH.fullmatch(str(item.path)):
            yield "path", f"{show(item.path)} is none of Proxmox VE's; allowed are {PATHS}"
        if item.role in WORDS:
            yield "role", f"{show(item.role)} is the role {WORDS[str(item.role)]} of every platform; say that"
        roles = context.wanted.get("role")
        if roles is not None and (item.role,) not in roles and item.role not in ROLES:
            there = ", ".join(sorted(str(key[0]) for key in roles))
            yield "role", f"there is no role {show(item.role)}; there are: {there}"
        if item.principal_type == "user" and not self._is_user(str(item.principal), context):
            yield "principal", f"there is no user {show(item.principal)}; there are: {', '.join(sorted(self._ids))}"

    def _is_user(self, principal: str, context: Context) -> bool:
        users = context.wanted.get("user")
        known = set(self._ids) | set(self._ids.values())
        if users is not None:
            known = {str(key[0]) for key in users} | {
                self._id_of(user) for user in users.values() if isinstance(user, User)
            }
        return principal in known

    # -- changing ------------------------------------------------------------------------------------------------------

    def apply(self, changes: Sequence[Change], context: Context) -> None:
        for change in changes:
            context.begin(change)
            if change.kind == "user":
                self._change_user(change)
            elif change.kind == "role":
                self._change_role(change)
            else:
                self._change_permission(change, context)
            context.done(change)

    def _change_user(self, change: Change) -> None:
        session = self.platform.session
        user = change.after
        if not isinstance(user, User):
            session.delete("access", "users", self._ids[change.item.label])
            return
        first, _space, last = str(user.full_name or "").partition(" ")
        params: Dict[str, Any] = {
            "enable": user.enabled is not False,
            "expire": _seconds(user.expires) if user.expires else 0,
            "firstname": first,
            "lastname": last,
        }
        if user.groups is not None:
            params["groups"] = ",".join(user.groups)
            self._make_groups(user.groups)
        if change.before is None:
            userid = f"{user.name}@{user.realm or OWN_REALM}"
            given = {name: value for name, value in params.items() if value != ""}
            session.ask("POST", ("access", "users"), {"userid": userid, "password": user.password, **given})
            self._ids[str(user.name)] = userid
        else:
            if user.groups is None or "groups" not in change.fields:
                params.pop("groups", None)
            session.ask("PUT", ("access", "users", self._ids[str(user.name)]), params)

    def _make_groups(self, groups: Sequence[str]) -> None:
        """Make the groups that are not there: a user cannot be put into one before."""
        if not groups:
            return
        session = self.platform.session
        there = {str(entry["groupid"]) for entry in session.get("access", "groups")}
        for group in groups:
            if group not in there:
                session.post("access", "groups", groupid=group)

    def _change_role(self, change: Change) -> None:
        session = self.platform.session
        role = change.after
        if not isinstance(role, Role):
            session.delete("access", "roles", change.item.label)
        elif change.before is None:
            session.post("access", "roles", roleid=role.name, privs=",".join(role.privileges or ()))
        else:
            session.put("access", "roles", role.name, privs=",".join(role.privileges or ()))

    def _change_permission(self, change: Change, context: Context) -> None:
        session = self.platform.session
        item: Any = change.after or change.before
        sides: List[Tuple[str, str]] = []
        if change.before is not None:
            # All that the principal has in this place, whatever the model has told of it.
            before: Any = change.before
            kind, name = before.principal_type, self._principal(before)
            for entry in session.get("access", "acl"):
                if (entry["type"], entry["ugid"], entry["path"]) == (kind, name, before.path):
                    sides.append((kind, str(entry["roleid"])))
        if change.after is not None:
            role = ROLES.get(item.role, item.role)
            field = "users" if item.principal_type == "user" else "groups"
            if item.principal_type == "group":
                self._make_groups([item.principal])
            params = {
                "path": item.path,
                "roles": role,
                field: self._principal(item),
                "propagate": int(bool(item.propagate)),
            }
            session.ask("PUT", ("access", "acl"), params)
            sides = [side for side in sides if side != (item.principal_type, role)]
        for kind, role in sides:
            field = "users" if kind == "user" else "groups"
            params = {"path": item.path, "roles": role, field: self._principal(change.before), "delete": 1}
            session.ask("PUT", ("access", "acl"), params)

    def _principal(self, item: Any) -> str:
        if item.principal_type != "user":
            return str(item.principal)
        name = str(item.principal)
        return self._ids.get(name, name if "@" in name else f"{name}@{OWN_REALM}")


def _model_names(userids: Sequence[str]) -> Dict[str, str]:
    """Return user ids by the names that the model gives them: without the realm, where that tells them apart."""
    found: Dict[str, str] = {}
    for userid in sorted(userids, key=lambda userid: (not userid.endswith(f"@{OWN_REALM}"), userid)):
        name = userid.rpartition("@")[0]
        found[userid if name in found else name] = userid
    return found


def _describe_user(entry: Mapping[str, Any], name: str) -> User:
    userid = str(entry["userid"])
    groups = [part for part in str(entry.get("groups") or "").split(",") if part]
    full_name = " ".join(str(entry[field]) for field in ("firstname", "lastname") if entry.get(field))
    return User(
        name=name,
        realm=userid.rpartition("@")[2],
        full_name=full_name or None,
        enabled=str(entry.get("enable", 0)) == "1",
        groups=tuple(sorted(groups)),
        expires=_day(int(entry.get("expire") or 0)),
    )


def _seconds(day: str) -> int:
    return calendar.timegm(datetime.date.fromisoformat(day).timetuple())


def _day(seconds: int) -> Optional[str]:
    if not seconds:
        return None
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).date().isoformat()


def _user_problems(user: User, change: Change) -> Iterator[Tuple[str, str]]:
    if change.before is None:
        if not USER_NAME.fullmatch(str(user.name)):
            yield (
                "name",
                f"{show(user.name)} is no name of a user; allowed are letters, digits, ., _, + and -, at most 59",
            )
        if user.password and (user.realm or OWN_REALM) != OWN_REALM:
            yield "password", f"goes with realm {OWN_REALM} only: the others have their passwords elsewhere"
        if user.password and not SHORTEST_PASSWORD <= len(user.password) <= LONGEST_PASSWORD:
            yield "password", f"must have {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters"
    elif "realm" in change.fields:
        yield "realm", "cannot change: a user of another realm is another user"
    if user.password_hash:
        yield "password_hash", "is nothing that Proxmox VE takes; allowed is password"
    for group in user.groups or ():
        if not GROUP_NAME.fullmatch(group):
            yield "groups", f"{show(group)} is no name of a group; allowed are letters, digits, _, - and ."
