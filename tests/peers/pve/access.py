# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Users, groups, roles, realms and access control lists, after PVE::API2 of pve-access-control and its PVE::Auth plugins."""

from __future__ import annotations

import hashlib
import re
from typing import Any

from fakepve import shapes
from fakepve.routing import die, param_error, split_list

SPECIAL_ROLES = {
    "Administrator": None,
    "NoAccess": (),
    "PVEAdmin": (
        "Datastore.Allocate", "Datastore.AllocateSpace", "Datastore.AllocateTemplate", "Datastore.Audit", "Pool.Allocate",
        "Pool.Audit", "Sys.Audit", "Sys.Console", "Sys.Syslog", "User.Modify", "VM.Allocate", "VM.Audit", "VM.Backup", "VM.Clone",
        "VM.Config.CDROM", "VM.Config.CPU", "VM.Config.Disk", "VM.Config.HWType", "VM.Config.Memory", "VM.Config.Network",
        "VM.Config.Options", "VM.Console", "VM.Migrate", "VM.PowerMgmt", "VM.Snapshot", "VM.Snapshot.Rollback",
    ),
    "PVEAuditor": ("Datastore.Audit", "Mapping.Audit", "Pool.Audit", "SDN.Audit", "Sys.Audit", "VM.Audit", "VM.GuestAgent.Audit"),
    "PVEVMUser": ("VM.Audit", "VM.Backup", "VM.Config.CDROM", "VM.Config.Cloudinit", "VM.Console", "VM.PowerMgmt"),
    "PVEVMAdmin": ("VM.Allocate", "VM.Audit", "VM.Backup", "VM.Clone", "VM.Console", "VM.Migrate", "VM.PowerMgmt", "VM.Snapshot"),
}  # fmt: skip
"""Some of the roles that PVE brings along and that cannot be changed."""

ACL_PATH = re.compile(
    r"/|/access(/groups|/realm(/[^/]+)?)?|/nodes(/[^/]+)?|/pool(/[\w./-]+)?|/sdn(/.*)?|/storage(/[^/]+)?|/vms(/[1-9]\d{2,})?"
    r"|/mapping(/.*)?"
)
"""The paths that PVE::AccessControl::check_path takes."""


REALM_OPTIONS = {
    "pam": ("default", "comment", "tfa"),
    "pve": ("default", "comment", "tfa"),
    "ldap": (
        *(
            "server1",
            "server2",
            "base_dn",
            "bind_dn",
            "user_attr",
            "port",
            "secure",
            "sslversion",
            "default",
            "comment",
            "tfa",
        ),
        *("verify", "capath", "cert", "certkey", "filter", "mode", "case-sensitive"),
    ),
    "ad": (
        *("server1", "server2", "domain", "bind_dn", "port", "secure", "sslversion", "default", "comment", "tfa"),
        *("verify", "capath", "cert", "certkey", "base_dn", "filter", "mode", "case-sensitive"),
    ),
    "openid": (
        *("issuer-url", "client-id", "client-key", "autocreate", "username-claim", "prompt", "scopes", "acr-values"),
        *("default", "comment", "query-userinfo", "groups-claim", "groups-autocreate", "groups-overwrite", "audiences"),
    ),
}
"""What realms of a type have (`options` of PVE::Auth::LDAP, AD, OpenId, PAM and PVE), as far as it matters here."""

REALM_NEEDS = {
    "ldap": ("server1", "base_dn", "user_attr"),
    "ad": ("server1", "domain"),
    "openid": ("issuer-url", "client-id"),
}


class AccessState:
    """Mixin of the peer: `/access`, without tokens and second factors."""

    def setup_access(self) -> None:
        self.accounts: dict[str, dict[str, Any]] = {"root@pam": {"enable": 1, "expire": 0}}
        self.account_groups: dict[str, dict[str, Any]] = {}
        self.roles: dict[str, set[str]] = {}
        # (path, "user", "group" or "token", name, role) -> whether it holds below the path
        self.access_list: dict[tuple[str, str, str, str], int] = {}
        self.realms = {"pam": "pam", "pve": "pve"}
        self.realm_options: dict[str, dict[str, Any]] = {}
        self.realm_passwords: dict[str, str] = {}

    def _routes_access_state(self) -> list[Any]:
        return [
            ("GET", "/access/users", self._user_list),
            ("POST", "/access/users", self._user_create),
            ("GET", "/access/users/{userid}", self._user_read),
            ("PUT", "/access/users/{userid}", self._user_update),
            ("DELETE", "/access/users/{userid}", self._user_delete),
            ("GET", "/access/groups", self._group_list),
            ("POST", "/access/groups", self._group_create),
            ("DELETE", "/access/groups/{groupid}", self._group_delete),
            ("GET", "/access/roles", self._role_list),
            ("POST", "/access/roles", self._role_create),
            ("GET", "/access/roles/{roleid}", self._role_read),
            ("PUT", "/access/roles/{roleid}", self._role_update),
            ("DELETE", "/access/roles/{roleid}", self._role_delete),
            ("GET", "/access/acl", self._acl_list),
            ("PUT", "/access/acl", self._acl_update),
            ("GET", "/access/domains", self._domain_list),
            ("POST", "/access/domains", self._domain_create),
            ("GET", "/access/domains/{realm}", self._domain_read),
            ("PUT", "/access/domains/{realm}", self._domain_update),
            ("DELETE", "/access/domains/{realm}", self._domain_delete),
        ]

    def role_privileges(self, name: str) -> set[str] | None:
        """Return the privileges of a role, or None where there is none of the name."""
        if name in SPECIAL_ROLES:
            return set(SPECIAL_ROLES[name] if SPECIAL_ROLES[name] is not None else shapes.PRIVILEGES)  # type: ignore[arg-type]
        return self.roles.get(name)

    # -- users ---------------------------------------------------------------------------------------------------------

    def _shown_user(self, userid: str) -> dict[str, Any]:
        entry = dict(self.accounts[userid])
        entry.pop("password", None)
        entry.pop("tokens", None)
        return entry

    async def _user_list(self, v: Any, user: str) -> list[dict[str, Any]]:
        shown = []
        for userid in sorted(self.accounts):
            entry = {
                "userid": userid,
                "realm-type": self.realms.get(userid.rpartition("@")[2]),
                **self._shown_user(userid),
            }
            groups = entry.pop("groups", [])
            if v.get("full"):
                entry["groups"] = ",".join(sorted(groups))
                entry["tokens"] = self.accounts[userid].get("tokens", [])
            if v.get("enabled") is None or bool(v["enabled"]) == bool(entry.get("enable")):
                shown.append(entry)
        return shown

    async def _user_read(self, v: Any, user: str) -> dict[str, Any]:
        if v["userid"] not in self.accounts:
            raise die(f"no such user ('{v['userid']}')")
        return {"groups": [], **self._shown_user(v["userid"])}

    def _take_user(self, entry: dict[str, Any], v: Any) -> None:
        for name in ("comment", "email", "enable", "expire", "firstname", "lastname", "keys"):
            if v.get(name) is not None:
                entry[name] = int(v[name]) if name in ("enable", "expire") else v[name]
                if entry[name] == "":
                    del entry[name]
        if v.get("groups") is not None:
            groups = split_list(v["groups"])
            for group in groups:
                if group not in self.account_groups:
                    raise die(f"no such group '{group}'")
            entry["groups"] = sorted({*entry.get("groups", ()), *groups} if v.get("append") else set(groups))

    async def _user_create(self, v: Any, user: str) -> None:
        self.need_quorum()
        userid = v["userid"]
        name, _at, realm = userid.rpartition("@")
        if userid in self.accounts:
            raise die(f"create user failed: user '{userid}' already exists")
        if realm not in self.realms:
            raise die(f"create user failed: domain '{realm}' does not exist")
        if v.get("password") is not None and realm == "pam":
            raise die(f"create user failed: change password failed: user '{name}' does not exist")
        entry: dict[str, Any] = {"enable": 1, "expire": 0}
        self._take_user(entry, v)
        if v.get("password"):
            if len(v["password"]) < 8:
                raise param_error(password="value must be at least 8 characters long")
            self.users[userid] = v["password"]
        self.accounts[userid] = entry

    async def _user_update(self, v: Any, user: str) -> None:
        self.need_quorum()
        if v["userid"] not in self.accounts:
            raise die(f"update user failed: no such user ('{v['userid']}')")
        self._take_user(self.accounts[v["userid"]], v)

    async def _user_delete(self, v: Any, user: str) -> None:
        self.need_quorum()
        if v["userid"] not in self.accounts:
            raise die(f"delete user failed: user '{v['userid']}' does not exist")
        del self.accounts[v["userid"]]
        self.users.pop(v["userid"], None)
        self.access_list = {key: value for key, value in self.access_list.items() if key[1:3] != ("user", v["userid"])}

    # -- groups --------------------------------------------------------------------------------------------------------

    async def _group_list(self, v: Any, user: str) -> list[dict[str, Any]]:
        return [
            {
                "groupid": name,
                **entry,
                "users": ",".join(
                    sorted(userid for userid, account in self.accounts.items() if name in account.get("groups", ()))
                ),
            }
            for name, entry in sorted(self.account_groups.items())
        ]

    async def _group_create(self, v: Any, user: str) -> None:
        self.need_quorum()
        if v["groupid"] in self.account_groups:
            raise die(f"create group failed: group '{v['groupid']}' already exists")
        self.account_groups[v["groupid"]] = {"comment": v["comment"]} if v.get("comment") else {}

    async def _group_delete(self, v: Any, user: str) -> None:
        self.need_quorum()
        if v["groupid"] not in self.account_groups:
            raise die(f"delete group failed: group '{v['groupid']}' does not exist")
        del self.account_groups[v["groupid"]]
        for account in self.accounts.values():
            if v["groupid"] in account.get("groups", ()):
                account["groups"].remove(v["groupid"])
        self.access_list = {
            key: value for key, value in self.access_list.items() if key[1:3] != ("group", v["groupid"])
        }

    # -- roles ---------------------------------------------------------------------------------------------------------

    async def _role_list(self, v: Any, user: str) -> list[dict[str, Any]]:
        shown = []
        for name in sorted({*SPECIAL_ROLES, *self.roles}):
            entry = {"roleid": name, "privs": ",".join(sorted(self.role_privileges(name) or ()))}
            if name in SPECIAL_ROLES:
                entry["special"] = 1  # type: ignore[assignment]
            shown.append(entry)
        return shown

    async def _role_read(self, v: Any, user: str) -> dict[str, int]:
        privileges = self.role_privileges(v["roleid"])
        if privileges is None:
            raise die(f"role '{v['roleid']}' does not exist")
        return dict.fromkeys(sorted(privileges), 1)

    @staticmethod
    def _privileges(v: Any) -> set[str]:
        privileges = set(split_list(v.get("privs")))
        for privilege in sorted(privileges):
            if privilege not in shapes.PRIVILEGES:
                raise die(f"invalid privilege '{privilege}'")
        return privileges

    async def _role_create(self, v: Any, user: str) -> None:
        self.need_quorum()
        if self.role_privileges(v["roleid"]) is not None:
            raise die(f"create role failed: role '{v['roleid']}' already exists")
        if v["roleid"].startswith("PVE"):
            raise param_error(roleid="cannot use role ID starting with the (case-insensitive) 'PVE' namespace")
        self.roles[v["roleid"]] = self._privileges(v)

    def _changeable_role(self, name: str, what: str) -> set[str]:
        if name in SPECIAL_ROLES:
            raise die(f"auto-generated role '{name}' cannot be {what}")
        if name not in self.roles:
            raise die(f"{what} role failed: role '{name}' does not exist")
        return self.roles[name]

    async def _role_update(self, v: Any, user: str) -> None:
        self.need_quorum()
        present = self._changeable_role(v["roleid"], "modified")
        self.roles[v["roleid"]] = present | self._privileges(v) if v.get("append") else self._privileges(v)

    async def _role_delete(self, v: Any, user: str) -> None:
        self.need_quorum()
        self._changeable_role(v["roleid"], "deleted")
        del self.roles[v["roleid"]]
        self.access_list = {key: value for key, value in self.access_list.items() if key[3] != v["roleid"]}

    # -- access control ------------------------------------------------------------------------------------------------

    async def _acl_list(self, v: Any, user: str) -> list[dict[str, Any]]:
        return [
            {"path": path, "type": kind, "ugid": name, "roleid": role, "propagate": propagate}
            for (path, kind, name, role), propagate in sorted(self.access_list.items())
        ]

    async def _acl_update(self, v: Any, user: str) -> None:
        self.need_quorum()
        path = "/" + v["path"].strip("/")
        if not ACL_PATH.fullmatch(path):
            raise param_error(path=f"invalid ACL path '{v['path']}'")
        named = {
            ("user", "users"): self.accounts,
            ("group", "groups"): self.account_groups,
            ("token", "tokens"): self.apitokens,
        }
        if not any(v.get(field) for _kind, field in named):
            raise param_error(
                **dict.fromkeys(("users", "groups", "tokens"), "either 'users', 'groups' or 'tokens' is required.")
            )
        for role in split_list(v["roles"]):
            if self.role_privileges(role) is None:
                raise die(f"ACL update failed: role '{role}' does not exist")
            for (kind, field), known in named.items():
                for name in split_list(v.get(field)):
                    if name not in known:
                        raise die(f"ACL update failed: {kind} '{name}' does not exist")
                    if v.get("delete"):
                        self.access_list.pop((path, kind, name, role), None)
                    else:
                        self.access_list[path, kind, name, role] = int(v.get("propagate", 1))

    async def _domain_list(self, v: Any, user: str) -> list[dict[str, Any]]:
        shown = ("comment", "tfa", "default")
        return [
            {
                "realm": name,
                "type": kind,
                **{key: value for key, value in self.realm_options.get(name, {}).items() if key in shown},
            }
            for name, kind in sorted(self.realms.items())
        ]

    def _known_realm(self, name: str) -> str:
        if name not in self.realms:
            raise die(f"domain '{name}' does not exist")
        return self.realms[name]

    def _realm_digest(self) -> str:
        text = repr((sorted(self.realms.items()), sorted(self.realm_options.items())))
        return hashlib.sha1(text.encode()).hexdigest()  # noqa: S324 - PVE's own digest

    async def _domain_read(self, v: Any, user: str) -> dict[str, Any]:
        kind = self._known_realm(v["realm"])
        return {"type": kind, **self.realm_options.get(v["realm"], {}), "digest": self._realm_digest()}

    def _take_realm(self, name: str, kind: str, options: dict[str, Any], v: Any) -> None:
        """PVE::SectionConfig, check_config: what a type does not have is refused, and so is one without what it needs."""
        given = {key: value for key, value in v.items() if key not in ("realm", "type", "delete", "digest", "password")}
        for key in given:
            if key not in REALM_OPTIONS[kind]:
                raise param_error(**{key: f"unexpected property '{key}'"})
        if v.get("password") is not None:
            if kind not in ("ldap", "ad"):
                raise param_error(password="unexpected property 'password'")
            self.realm_passwords[name] = v["password"]
        if given.get("default"):
            for other in self.realm_options.values():
                other.pop("default", None)
        options.update({key: int(value) if isinstance(value, bool) else value for key, value in given.items()})
        for key in REALM_NEEDS.get(kind, ()):
            if not options.get(key):
                raise param_error(**{key: "property is missing and it is not optional"})

    async def _domain_create(self, v: Any, user: str) -> None:
        self.need_quorum()
        name, kind = v["realm"], v["type"]
        if name in self.realms:
            raise die(f"add auth server failed: domain '{name}' already exists")
        if kind in ("pam", "pve"):
            raise die(f"add auth server failed: unable to create builtin type '{kind}'")
        options: dict[str, Any] = {}
        self._take_realm(name, kind, options, v)
        self.realms[name], self.realm_options[name] = kind, options

    async def _domain_update(self, v: Any, user: str) -> None:
        self.need_quorum()
        name, kind = v["realm"], self._known_realm(v["realm"])
        if v.get("digest") and v["digest"] != self._realm_digest():
            raise die("detected modified configuration - file changed by other user? Try again.")
        if v.get("username-claim") is not None:
            raise param_error(**{"username-claim": "can't change value of fixed parameter 'username-claim'"})
        options = dict(self.realm_options.get(name, {}))
        for key in split_list(v.get("delete")):
            if key in REALM_NEEDS.get(kind, ()):
                raise die(f"update auth server failed: unable to delete required option '{key}'")
            options.pop(key, None)
            if key == "password":
                self.realm_passwords.pop(name, None)
        self._take_realm(name, kind, options, v)
        self.realm_options[name] = options

    async def _domain_delete(self, v: Any, user: str) -> None:
        self.need_quorum()
        if self._known_realm(v["realm"]) in ("pam", "pve"):
            raise die(f"delete auth server failed: unable to delete builtin realm '{v['realm']}'")
        del self.realms[v["realm"]]
        self.realm_options.pop(v["realm"], None)
        self.realm_passwords.pop(v["realm"], None)
