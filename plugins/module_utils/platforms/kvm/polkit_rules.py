# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who may use which part of libvirt, as rules of polkit (polkit(8), and "ACL: polkit access control" of libvirt).

There is one file of ours. What was asked and what follows from it are one JSON text in it, that the rule parses: no
name of a user, a VM or a role is ever part of the program. Reading takes the same text.
"""

from __future__ import annotations

import json
import re
from typing import Any, Dict, FrozenSet, List, NamedTuple, Optional, Sequence, Tuple
from xml.etree import ElementTree

from ...errors import ReadError, ValidateError
from ...model.access import Permission, Role
from ..linux import programs

POLICY_FILE = "/usr/share/polkit-1/actions/org.libvirt.api.policy"
RULES_FILE = "/etc/polkit-1/rules.d/10-bareforge.rules"

PREFIX = "org.libvirt.api."
CONNECT = ("org.libvirt.unix.manage", "org.libvirt.unix.monitor")
"""The actions that let a user in at libvirt's sockets; what may be done there is asked for again."""

OPERATED = tuple(
    f"{PREFIX}domain.{name}"
    for name in (
        "fs-freeze",
        "fs-trim",
        "hibernate",
        "init-control",
        "open-device",
        "open-graphics",
        "pm-control",
        "reset",
        "screenshot",
        "send-input",
        "snapshot",
        "start",
        "stop",
        "suspend",
    )
)
ROLES = ("viewer", "operator", "admin")


class Part(NamedTuple):
    """A part of the host that a path can name.

    kinds: what the actions on it are called after the prefix. attribute: what libvirt tells of the object that an action is
    about. search: the action that lists such objects.
    """

    kinds: Tuple[str, ...]
    attribute: str
    search: str


PARTS: Dict[str, Part] = {
    "vms": Part(("domain",), "domain_name", "connect.search-domains"),
    "pools": Part(("storage-pool", "storage-vol"), "pool_name", "connect.search-storage-pools"),
    "networks": Part(("network", "network-port"), "network_name", "connect.search-networks"),
}
_PATH = re.compile(r"/(?:(vms|pools|networks)/([^/]+))?")
PATHS = "/, /vms/NAME, /pools/NAME or /networks/NAME"

# The program. All that differs from host to host is the text that is parsed.
_RULE = """\
// Written by Bareforge from the roles and permissions of this host. Changes made here are lost.
(function () {
    var grants = JSON.parse(%s).grants;
    polkit.addRule(function (action, subject) {
        var isLibvirt = action.id.indexOf("org.libvirt.api.") === 0 || action.id.indexOf("org.libvirt.unix.") === 0;
        var isKnown = false;
        for (var i = 0; isLibvirt && i < grants.length; i++) {
            var grant = grants[i];
            if (grant.group ? !subject.isInGroup(grant.principal) : subject.user !== grant.principal) {
                continue;
            }
            isKnown = true;
            if (grant.actions.indexOf(action.id) >= 0 &&
                (!grant.attribute || action.lookup(grant.attribute) === grant.name)) {
                return polkit.Result.YES;
            }
        }
        return isKnown ? polkit.Result.NO : polkit.Result.NOT_HANDLED;
    });
})();
"""
_DATA_LINE = re.compile(r'(?m)^    var grants = JSON\.parse\(("(?:[^"\\]|\\.)*")\)\.grants;$')


class Asked(NamedTuple):
    """What was asked: roles by name, permissions by (principal, path)."""

    roles: Dict[str, Role]
    permissions: Dict[Tuple[str, str], Permission]


def known_actions() -> FrozenSet[str]:
    """Return the actions of libvirt's API that this host's polkit knows. Raises ReadError."""
    text = programs.read_text(POLICY_FILE)
    if text is None:
        raise ReadError(
            f"there is no {POLICY_FILE}, which names what libvirt can be asked to allow",
            "Install the package libvirt-daemon-system, which the role kvm_host does",
        )
    try:
        found = {action.get("id", "") for action in ElementTree.fromstring(text.encode("utf-8")).iter("action")}
    except ElementTree.ParseError as error:
        raise ReadError(f"{POLICY_FILE} cannot be understood: {error}") from error
    return frozenset(name for name in found if name.startswith(PREFIX))


def actions_of(role: str, roles: Dict[str, Role], known: FrozenSet[str]) -> FrozenSet[str]:
    """Return the actions of a role: one of ROLES, or one of the host's."""
    if role == "admin":
        return known
    if role in ("viewer", "operator"):
        looking = {name for name in known if _word(name) in ("getattr", "read") or _word(name).startswith("search-")}
        return frozenset(looking | (set(OPERATED) & known if role == "operator" else set()))
    own = roles.get(role)
    return frozenset(own.privileges or ()) if own is not None else frozenset()


def _word(action: str) -> str:
    return action.rpartition(".")[2]


def split_path(path: str) -> Optional[Tuple[str, str]]:
    """Return (part, name) of a permission's path, ("", "") for the whole host, or None where it is no such path."""
    match = _PATH.fullmatch(path)
    return None if match is None else (match.group(1) or "", match.group(2) or "")


def grants_of(permission: Permission, roles: Dict[str, Role], known: FrozenSet[str]) -> List[Dict[str, Any]]:
    """Return what a permission lets its principal do: lists of actions, for one object each or for all."""
    part, name = split_path(str(permission.path)) or ("", "")
    allowed = actions_of(str(permission.role), roles, known)
    who = {"principal": permission.principal, "group": permission.principal_type == "group"}
    if not part:
        if permission.propagate is False:
            allowed = frozenset(action for action in allowed if action.startswith(f"{PREFIX}connect."))
        return [{**who, "attribute": "", "name": "", "actions": sorted({*allowed, *CONNECT})}]
    kinds, attribute, search = PARTS[part]
    on_it = sorted(action for action in allowed if action[len(PREFIX) :].rpartition(".")[0] in kinds)
    # Without these there is neither a connection nor a way to the object by its name.
    way = sorted({*CONNECT, f"{PREFIX}connect.getattr", f"{PREFIX}{search}"})
    return [
        {**who, "attribute": "", "name": "", "actions": way},
        {**who, "attribute": attribute, "name": name, "actions": on_it},
    ]


def render(asked: Asked, known: FrozenSet[str]) -> str:
    """Return the text of the file."""
    permissions = [asked.permissions[key] for key in sorted(asked.permissions)]
    data = {
        "roles": [asked.roles[name].to_document() for name in sorted(asked.roles)],
        "permissions": [permission.to_document() for permission in permissions],
        "grants": [grant for permission in permissions for grant in grants_of(permission, asked.roles, known)],
    }
    # Encoded twice: as the data, and as a literal of the program that holds it. Both are plain ASCII.
    return _RULE % json.dumps(json.dumps(data, sort_keys=True))


def parse(text: Optional[str]) -> Optional[Asked]:
    """Return what was asked from the text of the file, or None where it cannot be told."""
    match = _DATA_LINE.search(text or "")
    if match is None:
        return None
    try:
        data = json.loads(json.loads(match.group(1)))
        roles = [Role.parse(entry) for entry in data["roles"]]
        permissions = [Permission.parse(entry) for entry in data["permissions"]]
    except (ValueError, KeyError, TypeError, ValidateError):
        return None
    return Asked(
        {str(role.name): role for role in roles},
        {(str(item.principal), str(item.path)): item for item in permissions},
    )


def names_in_use(asked: Asked, principal: str, principal_type: str) -> Sequence[Permission]:
    """Return the permissions of a user or group."""
    return [
        item
        for item in asked.permissions.values()
        if item.principal == principal and item.principal_type == principal_type
    ]
