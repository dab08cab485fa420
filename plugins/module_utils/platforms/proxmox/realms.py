# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Realms (PVE::API2::Domains): directories and identity providers beside PVE's own two, which are always there."""

from __future__ import annotations

import re
from typing import Any, Collection, Dict, Iterable, Iterator, Mapping, Optional, Sequence, Tuple

from ...engine.change import Change
from ...engine.platform import Context, Interface
from ...errors import Problem
from ...model.access import Realm
from ...model.document import State
from ...model.schema import ModelObject
from ...model.types import show
from ...transports.proxmox import Read
from .property_strings import split

TYPES = {"pam": "pam", "own": "pve", "ldap": "ldap", "active_directory": "ad", "openid": "openid"}
BUILT_IN = ("pam", "own")
MODES = {"none": "ldap", "starttls": "ldap+starttls", "tls": "ldaps"}
FACTORS = {"totp": "oath"}
NAME = re.compile(r"[A-Za-z][A-Za-z0-9._-]{1,31}")
MOST_SERVERS = 2
SECRETS = ("password", "client-key")


class ProxmoxRealms(Interface):
    """Reads and changes realms."""

    KINDS = ("realm",)
    CAPABILITIES = frozenset({"realm", "realm.second_factor", *(f"realm.type.{name}" for name in TYPES)})

    def __init__(self, platform: Any) -> None:
        self.platform = platform
        self._seen: Dict[str, Mapping[str, Any]] = {}

    def read(self, kinds: Collection[str], names: Mapping[str, Collection[str]]) -> State:
        session = self.platform.session
        entries = session.get("access", "domains")
        configs = session.get_many([Read(("access", "domains", str(entry["realm"]))) for entry in entries])
        self._seen = {}
        found: Dict[Any, ModelObject] = {}
        for entry, config in zip(entries, configs):
            name = str(entry["realm"])
            self._seen[name] = {**config, "type": entry["type"]}
            realm = _describe(name, self._seen[name])
            found[realm.key] = realm
        return {"realm": found}

    def keeps(self, item: ModelObject, state: State) -> Optional[str]:
        if getattr(item, "type", None) in BUILT_IN:
            return "it is one of Proxmox VE's own"
        if item.label == self.platform.session.user.partition("!")[0].rpartition("@")[2]:
            return "the node is managed by a user of it"
        return None

    # -- objections ----------------------------------------------------------------------------------------------------

    def validate(self, change: Change, context: Context) -> Iterable[Problem]:
        realm = change.after
        place = change.item.place
        if not isinstance(realm, Realm):
            reason = self.keeps(change.item, context.before) or self._used(change.item.label)
            if reason:
                yield Problem(place.text, f"cannot go: {reason}")
            return
        for field, message in _problems(realm, change.before is None):
            yield Problem(place.field(field).text, message)
        others = sorted(
            item.label
            for item in context.wanted.get("realm", {}).values()
            if getattr(item, "preselected", False)
            and item.key != realm.key
            and item != context.before.get("realm", {}).get(item.key)
        )
        if realm.preselected and "preselected" in change.fields and others:
            yield Problem(place.field("preselected").text, f"is true for {', '.join(others)} too, and only one can be")

    def _used(self, name: str) -> Optional[str]:
        users = sorted(
            str(entry["userid"])
            for entry in self.platform.session.get("access", "users")
            if str(entry["userid"]).rpartition("@")[2] == name
        )
        return f"it has users: {', '.join(users[:5])}{' …' if len(users) > 5 else ''}" if users else None

    # -- changing ------------------------------------------------------------------------------------------------------

    def apply(self, changes: Sequence[Change], context: Context) -> None:
        session = self.platform.session
        # All realms lie in one file, and so each of our own changes makes a new digest.
        digest = next((config.get("digest") for config in self._seen.values()), None)
        for number, change in enumerate(changes):
            context.begin(change)
            name = change.item.label
            if not isinstance(change.after, Realm):
                session.delete("access", "domains", name)
            elif change.before is None:
                params = _params(change.after, is_new=True)
                kind = TYPES[str(change.after.type)]
                session.ask("POST", ("access", "domains"), {"realm": name, "type": kind, **params})
            else:
                params = _changed(_params(change.after, is_new=False), self._seen[name])
                session.ask("PUT", ("access", "domains", name), {**params, "digest": digest})
            context.done(change)
            if any(later.before is not None and later.after is not None for later in changes[number + 1 :]):
                digest = session.get("access", "domains", "pam").get("digest")


def _changed(params: Mapping[str, Any], present: Mapping[str, Any]) -> Dict[str, Any]:
    """Return what is set and taken away of a realm that is there. Secrets are not told, and set along with what else changes."""
    changed = {
        key: value
        for key, value in params.items()
        if key in SECRETS or str(present.get(key, "")) != str(int(value) if isinstance(value, bool) else value)
    }
    gone = [key for key in REMOVABLE if key in present and key not in params]
    if "bind_dn" in gone:
        gone.append("password")
    if gone:
        changed["delete"] = ",".join(gone)
    return changed


REMOVABLE = ("server2", "port", "bind_dn", "tfa", "default", "comment")
"""What is taken away where it is not wanted any more; all else of a realm has a value, or is nothing of ours."""


def _problems(realm: Realm, is_new: bool) -> Iterator[Tuple[str, str]]:
    if is_new:
        if realm.type in BUILT_IN:
            yield "name", f"there is no realm {show(realm.name)} of Proxmox VE; its own are pam and pve"
        elif not NAME.fullmatch(str(realm.name)):
            yield (
                "name",
                f"{show(realm.name)} is no name of a realm; allowed are 2 to 32 letters, digits, ., _ and -, with a letter first",
            )
    if len(realm.servers or ()) > MOST_SERVERS:
        yield "servers", f"are {len(realm.servers or ())}, and Proxmox VE takes {MOST_SERVERS}"
    if realm.bind_password and not realm.bind_dn:
        yield "bind_password", "goes with bind_dn only"
    if realm.type == "openid" and realm.second_factor == "totp":
        yield "second_factor", "is asked for by the identity provider where the type is openid; allowed is none"


def _params(realm: Realm, is_new: bool) -> Dict[str, Any]:
    """Return a realm as the API takes it, without what it shall not have."""
    params: Dict[str, Any] = {}
    if realm.type in ("ldap", "active_directory"):
        for number, server in enumerate(realm.servers or (), 1):
            params[f"server{number}"] = server
        params.update(port=realm.port, bind_dn=realm.bind_dn or None, password=realm.bind_password)
        params["mode"] = MODES[realm.encryption or "tls"] if is_new or realm.encryption else None
        params["verify"] = realm.verify is not False if is_new or realm.verify is not None else None
    if realm.type == "ldap":
        params.update(base_dn=realm.base_dn, user_attr=realm.user_attribute)
    elif realm.type == "active_directory":
        params["domain"] = realm.domain
    elif realm.type == "openid":
        params.update({"issuer-url": realm.issuer_url, "client-id": realm.client_id, "client-key": realm.client_secret})
        params["autocreate"] = realm.create_users
        if is_new:
            params["username-claim"] = realm.username_claim
    if realm.second_factor in FACTORS:
        params["tfa"] = f"type={FACTORS[realm.second_factor]}"
    params.update(default=True if realm.preselected else None, comment=realm.description or None)
    return {name: value for name, value in params.items() if value is not None}


def _describe(name: str, config: Mapping[str, Any]) -> Realm:
    kind = next((word for word, own in TYPES.items() if own == config["type"]), None)
    fields: Dict[str, Any] = {}
    if kind in ("ldap", "active_directory"):
        mode = str(config.get("mode") or ("ldaps" if _is_on(config.get("secure")) else "ldap"))
        fields = {
            "servers": tuple(str(config[key]) for key in ("server1", "server2") if config.get(key)),
            "port": int(config["port"]) if config.get("port") else None,
            "encryption": next((word for word, own in MODES.items() if own == mode), None),
            "verify": _is_on(config.get("verify")),
            "bind_dn": config.get("bind_dn") or None,
            "base_dn": config.get("base_dn") if kind == "ldap" else None,
            "user_attribute": config.get("user_attr") if kind == "ldap" else None,
            "domain": config.get("domain") if kind == "active_directory" else None,
        }
    elif kind == "openid":
        fields = {
            "issuer_url": config.get("issuer-url"),
            "client_id": config.get("client-id"),
            "username_claim": config.get("username-claim"),
            "create_users": _is_on(config.get("autocreate")),
        }
    factor = split(config.get("tfa"), "type").get("type")
    known = {own: word for word, own in FACTORS.items()}
    return Realm(
        name=name,
        type=kind,
        # Of a kind that the model has no word for nothing is said.
        second_factor=known.get(factor) if factor else "none",
        preselected=_is_on(config.get("default")),
        description=str(config.get("comment") or "") or None,
        **fields,
    )


def _is_on(value: Any) -> bool:
    return str(value or "0") == "1"
