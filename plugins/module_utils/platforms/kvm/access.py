# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Roles and permissions of a KVM host: what libvirt lets users do, decided by polkit.

All of it is one file of polkit's rules, which holds what was asked as well, so that the two never disagree. libvirt is made
to ask polkit before the file is written for the first time. Who has a permission may do what permissions say and nothing
else; users without any are left to the host's other rules, and root may do everything.
"""

from __future__ import annotations

import grp
import pwd
from typing import Any, Collection, Dict, FrozenSet, Iterator, List, Mapping, Optional, Sequence

from ...engine.change import Change
from ...engine.platform import Context, Interface
from ...errors import Problem, ReadError
from ...model.access import KvmPermission, Permission, Role
from ...model.document import Key, State
from ...model.schema import ModelObject, shown_as
from ...model.types import show
from ..linux import accounts, programs, restarts, sudo
from ..linux.sudo import SudoRule
from . import libvirt_access, polkit_rules
from .polkit_rules import PATHS, PREFIX, ROLES, RULES_FILE, Asked

LIBVIRT_GROUP = "libvirt"


class KvmAccess(Interface):
    """Reads and changes roles and permissions."""

    KINDS = ("role", "permission")
    CAPABILITIES = frozenset({"role", "permission", "permission.kvm.sudo"})

    def __init__(self, platform: Any) -> None:
        self.platform = platform

    # -- Reading ---------------------------------------------------------------------------------------------------

    def read(self, kinds: Collection[str], names: Mapping[str, Collection[str]]) -> State:
        state: State = {kind: {} for kind in kinds}
        asked = load_asked()
        if not asked.roles and not asked.permissions:
            return state
        text_is_right = programs.read_text(RULES_FILE) == polkit_rules.render(asked, polkit_rules.known_actions())
        in_force = text_is_right and libvirt_access.is_in_force()
        sudo_in_place = sudo.is_in_place(_sudo_rules(asked))
        for role in asked.roles.values() if "role" in state else ():
            state["role"][role.key] = role if text_is_right else shown_as(role, privileges=None)
        for permission in asked.permissions.values() if "permission" in state else ():
            otherwise: Dict[str, Any] = {} if in_force else {"role": None}
            if not sudo_in_place:
                otherwise["kvm"] = None
            state["permission"][permission.key] = shown_as(permission, **otherwise) if otherwise else permission
        return state

    def hidden(self, kind: str, key: Key) -> Optional[str]:
        return "this role exists on every platform" if kind == "role" and key[0] in ROLES else None

    # -- Before a change -------------------------------------------------------------------------------------------

    def validate(self, change: Change, context: Context) -> Iterator[Problem]:
        asked = wanted_of(context)
        item = change.after
        if isinstance(item, Role):
            yield from _problems_of_role(item, change)
        elif isinstance(item, Permission):
            # Where libvirt is not there, that is told before anything is written.
            polkit_rules.known_actions()
            yield from _problems_of_permission(item, asked, context)
            self._warn_of_members(context)
        elif change.kind == "role":
            for permission in asked.permissions.values():
                if permission.role == change.key[0]:
                    yield Problem(change.item.place.text, f"cannot go, since {permission.place.text} gives it")
        if change.kind == "permission":
            yield from _problems_of_lockout(change)

    @staticmethod
    def _warn_of_members(context: Context) -> None:
        if libvirt_access.is_in_force():
            return
        try:
            members = grp.getgrnam(LIBVIRT_GROUP).gr_mem
        except KeyError:
            return
        message = (
            f"libvirt will ask polkit for every step from now on, so that {', '.join(sorted(members))}, of group "
            f"{LIBVIRT_GROUP}, may only do what permissions allow"
        )
        if members and message not in context.warnings:
            context.warn(message)

    # -- Changing --------------------------------------------------------------------------------------------------

    def apply(self, changes: Sequence[Change], context: Context) -> None:
        asked = load_asked()
        present = _sudo_rules(asked)
        for change in changes:
            context.begin(change)
            item = change.after
            if isinstance(item, Role):
                asked.roles[str(item.name)] = item
            elif isinstance(item, Permission):
                asked.permissions[str(item.principal), str(item.path)] = item
            elif change.kind == "role":
                asked.roles.pop(str(change.key[0]), None)
            else:
                asked.permissions.pop((str(change.key[0]), str(change.key[1])), None)
        if asked.permissions:
            libvirt_access.put_in_force()
        # What takes rights away comes before what gives them, in whatever order this dies.
        rules = _sudo_rules(asked)
        sudo.put_in_place([rule for rule in rules if rule in present])
        _store(asked)
        sudo.put_in_place(rules)
        for change in changes:
            context.done(change)

    def recover(self) -> None:
        """Restart what a killed run has written new files for. Raises ApplyError."""
        restarts.carry_out()


def load_asked() -> Asked:
    """Return what was last asked. Raises ReadError where our file does not tell it."""
    text = programs.read_text(RULES_FILE)
    asked = polkit_rules.parse(text)
    if asked is None and text is not None:
        raise ReadError(f"{RULES_FILE} is not what was written there", "Remove the file and run again")
    return asked or Asked({}, {})


def wanted_of(context: Context) -> Asked:
    """Return the roles and permissions as they shall be; what a document does not speak of is as it was asked last."""
    asked = load_asked()
    roles: Dict[Any, Any] = (
        {str(key[0]): item for key, item in context.wanted["role"].items()}
        if ("role" in context.wanted)
        else dict(asked.roles)
    )
    permissions: Dict[Any, Any] = (
        dict(context.wanted["permission"]) if "permission" in context.wanted else dict(asked.permissions)
    )
    return Asked(roles, permissions)


def _store(asked: Asked) -> None:
    if asked.roles or asked.permissions:
        programs.write_text(RULES_FILE, polkit_rules.render(asked, polkit_rules.known_actions()))
    else:
        programs.remove(RULES_FILE)


def _sudo_of(item: Optional[ModelObject]) -> str:
    kvm = item.kvm if isinstance(item, Permission) else None
    return str(kvm.sudo or "none") if isinstance(kvm, KvmPermission) else "none"


def _sudo_rules(asked: Asked) -> List[SudoRule]:
    return [
        SudoRule(str(item.principal), item.principal_type == "group", _sudo_of(item) == "password")
        for item in asked.permissions.values()
        if _sudo_of(item) != "none"
    ]


def _problems_of_role(role: Role, change: Change) -> Iterator[Problem]:
    if role.name in ROLES:
        yield Problem(
            role.place.field("name").text,
            f"{show(role.name)} exists on every platform and cannot be made or changed; allowed is a name of one's own",
        )
    known = polkit_rules.known_actions()
    for privilege in role.privileges or ():
        if privilege not in known:
            near = _nearest(privilege, known)
            yield Problem(
                role.place.field("privileges").text,
                f"{show(privilege)} is not allowed; allowed are the {len(known)} actions of {polkit_rules.POLICY_FILE}, "
                f"such as {near}",
            )


def _nearest(privilege: str, known: FrozenSet[str]) -> str:
    """Return an action that was probably meant, by its last words."""
    word = privilege.rpartition(".")[2]
    found = sorted(name for name in known if name.rpartition(".")[2] == word)
    return found[0] if found else f"{PREFIX}domain.start"


def _problems_of_permission(item: Permission, asked: Asked, context: Context) -> Iterator[Problem]:
    place = item.place
    split = polkit_rules.split_path(str(item.path))
    if split is None:
        yield Problem(place.field("path").text, f"{show(item.path)} is not allowed; allowed is {PATHS}")
    elif any(ord(character) > 0xFFFF for character in split[1]):
        yield Problem(
            place.field("path").text, f"{show(item.path)} has characters above U+FFFF, which polkit cannot compare"
        )
    if item.role not in ROLES and item.role not in asked.roles:
        there = ", ".join([*ROLES, *sorted(asked.roles)])
        yield Problem(place.field("role").text, f"there is no role {show(item.role)}; there are: {there}")
    yield from _problems_of_principal(item, context)
    if _sudo_of(item) != "none":
        if item.role != "admin" or item.path != "/":
            yield Problem(place.field("kvm").field("sudo").text, "goes with role admin on path / only")
        if not sudo.NAME.fullmatch(str(item.principal)):
            message = f"{show(item.principal)} is not allowed with sudo; allowed is {sudo.ALLOWED_NAME}"
            yield Problem(place.field("principal").text, message)


def _problems_of_principal(item: Permission, context: Context) -> Iterator[Problem]:
    name, place = str(item.principal), item.place.field("principal").text
    is_user = item.principal_type != "group"
    if name == "root" and is_user:
        yield Problem(place, "root may do everything already")
        return
    users = context.wanted.get("user", {})
    if (name,) in users:
        return
    going = (name,) in context.before.get("user", {})
    try:
        (pwd.getpwnam if is_user else grp.getgrnam)(name)
    except (KeyError, UnicodeError, ValueError):
        yield Problem(place, f"there is no {'user' if is_user else 'group'} {show(name)} on the host")
        return
    if going:
        yield Problem(place, f"user {show(name)} is to go")


def _problems_of_lockout(change: Change) -> Iterator[Problem]:
    before = change.before
    if not isinstance(before, Permission) or _sudo_of(before) == "none" or _sudo_of(change.after) == _sudo_of(before):
        return
    here = accounts.logged_in_ids() - {0}
    known = accounts.read_accounts()
    if before.principal_type == "group":
        own = known.groups.get(str(before.principal))
        mine = [user for user in known.users.values() if user.uid in here]
        cut = any(before.principal in user.groups or user.gid == own for user in mine)
    else:
        user = known.users.get(str(before.principal))
        cut = user is not None and user.uid in here
    if cut:
        yield Problem(
            before.place.text, "the user that this run has come by may become root by it, so its sudo stays as it is"
        )
