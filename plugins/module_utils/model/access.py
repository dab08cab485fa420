# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Users, roles, and what roles may be used where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Tuple

from .schema import ModelObject, Nested, Value, Values, option
from .types import Boolean, Choice, Date, Name, Pattern, Text

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
