# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Users, roles, and what roles may be used where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Dict, Iterator, Optional, Tuple

from .schema import ModelObject, Nested, Value, Values, option
from .types import Boolean, Choice, Date, Host, Integer, Name, Pattern, Text, Url

SSH_KEY = Pattern(
    r"(ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(256|384|521)|sk-ssh-ed25519@openssh\.com"
    r"|sk-ecdsa-sha2-nistp256@openssh\.com) [A-Za-z0-9+/]{40,}={0,3}( [ -~]*)?",
    "a public SSH key in OpenSSH's one-line form",
)


@dataclass(frozen=True)
class SecondFactor(ModelObject):
    """What a user has to show beside the password."""

    type: Optional[str] = option(
        Value(Choice("totp", "webauthn")),
        "The kind of the second factor.",
        required=True,
        capability="user.second_factor.*",
    )
    required: Optional[bool] = option(Value(Boolean()), "Whether nobody gets in without it.", default=True)


@dataclass(frozen=True)
class Realm(ModelObject):
    """Where users come from and prove who they are: a directory, an identity provider, or the host's own."""

    KIND = "realm"
    DESCRIPTION = (
        "Where users come from and prove who they are: an LDAP directory, Active Directory, OpenID Connect, the host."
    )

    NEEDS: ClassVar[Dict[str, Tuple[str, ...]]] = {
        "ldap": ("servers", "base_dn", "user_attribute"),
        "active_directory": ("servers", "domain"),
        "openid": ("issuer_url", "client_id"),
        "pam": (),
        "own": (),
    }
    FIELDS: ClassVar[Dict[str, Tuple[str, ...]]] = {
        "ldap": ("servers", "port", "base_dn", "user_attribute", "bind_dn", "bind_password", "encryption", "verify"),
        "active_directory": ("servers", "port", "domain", "bind_dn", "bind_password", "encryption", "verify"),
        "openid": ("issuer_url", "client_id", "client_secret", "username_claim", "create_users"),
    }

    name: Optional[str] = option(Value(Name()), "The realm's name.", key=True)
    type: Optional[str] = option(
        Value(Choice(*NEEDS)),
        "What it is. V(pam) are the users of the host's operating system, V(own) those that the platform keeps itself; both "
        "are there already and can be changed only.",
        required=True,
        create_only=True,
        capability="realm.type.*",
    )
    servers: Optional[Tuple[str, ...]] = option(
        Values(Host(), ordered=True, maximum=16), "The directory's servers, the one that is asked first in front."
    )
    port: Optional[int] = option(
        Value(Integer(1, 65535)), "The port of the servers; that of the protocol where not given."
    )
    encryption: Optional[str] = option(
        Value(Choice("none", "starttls", "tls")),
        "How the way to the servers is encrypted; with V(none) passwords travel in the clear. A new realm of a directory has "
        "V(tls) where not given.",
    )
    verify: Optional[bool] = option(
        Value(Boolean()),
        "Whether the servers' certificates are verified. They are for a new realm of a directory where not given.",
    )
    base_dn: Optional[str] = option(
        Value(Text(maximum=256, minimum=1)), "Below which entry users are looked for, for ldap."
    )
    user_attribute: Optional[str] = option(
        Value(Pattern(r"[A-Za-z][A-Za-z0-9-]{1,63}", "the name of an attribute, such as uid")),
        "The attribute with the user's name, for ldap.",
    )
    domain: Optional[str] = option(Value(Host()), "The domain, for active_directory.")
    bind_dn: Optional[str] = option(
        Value(Text(maximum=256)), "Who looks for users; nobody in particular where not given.", clearable=True
    )
    bind_password: Optional[str] = option(
        Value(Text(maximum=512, minimum=1)),
        "The password of O(bind_dn). It is not compared: one that changed is set where another field of the realm changes too.",
        secret=True,
    )
    issuer_url: Optional[str] = option(Value(Url()), "The identity provider, for openid.")
    client_id: Optional[str] = option(
        Value(Text(maximum=256, minimum=1)), "What the host is called at the identity provider."
    )
    client_secret: Optional[str] = option(
        Value(Text(maximum=256, minimum=1)),
        "The secret that goes with it. It is not compared: one that changed is set where another field of the realm changes too.",
        secret=True,
    )
    username_claim: Optional[str] = option(
        Value(Text(maximum=64, minimum=1)),
        "Which claim tells the user's name, for openid; the subject where not given.",
        create_only=True,
    )
    create_users: Optional[bool] = option(
        Value(Boolean()), "Whether users are made when they log in for the first time, for openid."
    )
    second_factor: Optional[str] = option(
        Value(Choice("none", "totp")),
        "What every user of the realm has to show beside the password.",
        default="none",
        capability="realm.second_factor",
    )
    preselected: Optional[bool] = option(
        Value(Boolean()), "Whether it is the one that is offered first to who logs in.", default=False
    )
    description: Optional[str] = option(Value(Text(maximum=200)), "What it is for.", clearable=True)

    def check(self) -> Iterator[Tuple[str, str]]:
        if self.type is None:
            return
        own = self.FIELDS.get(self.type, ())
        for name in sorted({field for fields in self.FIELDS.values() for field in fields}):
            if name not in own and getattr(self, name) not in (None, "", ()):
                yield name, f"does not go with type {self.type}"

    def check_new(self, current: Optional[Realm]) -> Iterator[Tuple[str, str]]:
        if current is not None:
            return
        for name in self.NEEDS.get(self.type or "", ()):
            if not getattr(self, name):
                yield name, f"must be given for a realm of type {self.type}"


@dataclass(frozen=True)
class User(ModelObject):
    """A local or directory identity."""

    KIND = "user"
    DESCRIPTION = "A user of the host, local or of a directory."

    name: Optional[str] = option(Value(Name()), "The user's name.", key=True)
    realm: Optional[str] = option(
        Value(Name()), "The directory or realm; the platform's local one where not given.", capability="user.realm"
    )
    full_name: Optional[str] = option(Value(Text(maximum=200)), "The person's name.", clearable=True)
    enabled: Optional[bool] = option(Value(Boolean()), "Whether the user may log in.", default=True)
    password: Optional[str] = option(
        Value(Text(maximum=512, minimum=1)), "The password, set when the user is made.", secret=True
    )
    password_hash: Optional[str] = option(
        Value(Pattern(r"\$[0-9a-z]+\$[!-9;-~]{8,500}", "a crypt(5) hash such as $6$... or $y$...")),
        "The password as a hash of crypt(5), where the platform takes one.",
        secret=True,
        compared=True,
    )
    ssh_keys: Optional[Tuple[str, ...]] = option(
        Values(
            SSH_KEY,
            maximum=256,
        ),
        "The public SSH keys that let the user in; the whole list.",
        capability="user.ssh_keys",
    )
    groups: Optional[Tuple[str, ...]] = option(
        Values(Name(), maximum=256), "The groups that the user is in beside its own.", capability="user.groups"
    )
    shell: Optional[str] = option(Value(Name()), "The login shell.", capability="user.shell")
    expires: Optional[str] = option(
        Value(Date()),
        "The day from which the user may no longer log in.",
        clearable=True,
        capability="user.expires",
    )
    second_factor: Optional[SecondFactor] = option(Nested(SecondFactor), "What is needed beside the password.")


@dataclass(frozen=True)
class Role(ModelObject):
    """A named set of privileges."""

    KIND = "role"
    DESCRIPTION = "A named set of privileges. The roles viewer, operator and admin exist on every platform."

    name: Optional[str] = option(Value(Name()), "The role's name.", key=True)
    privileges: Optional[Tuple[str, ...]] = option(
        Values(Name(), maximum=1024), "The privileges, in the platform's own words; the whole list.", required=True
    )
    description: Optional[str] = option(Value(Text(maximum=200)), "What it is for.", clearable=True)


@dataclass(frozen=True)
class KvmPermission(ModelObject):
    """What only a KVM host has."""

    sudo: Optional[str] = option(
        Value(Choice("none", "password", "no_password")),
        "Whether the principal may also become root by sudo, with its own password or without one. It goes with the role "
        "admin on the whole host.",
        default="none",
        capability="permission.kvm.sudo",
    )


@dataclass(frozen=True)
class Permission(ModelObject):
    """Who may do what where."""

    KIND = "permission"
    DESCRIPTION = "Gives a user or group a role on the host or on a part of it."

    principal: Optional[str] = option(Value(Name()), "The user or group.", key=True)
    path: Optional[str] = option(
        Value(Text(maximum=1024, minimum=1)), "What it holds for; / is the whole host.", key=True
    )
    principal_type: Optional[str] = option(Value(Choice("user", "group")), "What the principal is.", default="user")
    role: Optional[str] = option(
        Value(Name()), "The role: viewer, operator, admin, or one of the host's.", required=True
    )
    propagate: Optional[bool] = option(
        Value(Boolean()), "Whether it holds for everything below the path.", default=True
    )
    kvm: Optional[KvmPermission] = option(Nested(KvmPermission), "What only a KVM host has.")
