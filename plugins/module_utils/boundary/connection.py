# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How an API platform is reached: the option `connection` of every module and the inventory variables `bareforge_*`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator, Optional, Tuple

from ..model.schema import ModelObject, Value, option
from ..model.types import AbsolutePath, Boolean, Host, Integer, Pattern, Text


@dataclass(frozen=True)
class ConnectionSettings(ModelObject):
    """How an API platform is reached. Each field is also an inventory variable, `bareforge_` and its name."""

    host: Optional[str] = option(
        Value(Host()), "The name or address of the host's API. The default is the host's C(ansible_host), or its name."
    )
    port: Optional[int] = option(
        Value(Integer(1, 65535)), "The TCP port of the API; the platform's usual one by default."
    )
    user: Optional[str] = option(Value(Text(maximum=255, minimum=1)), "The user to log in as.")
    password: Optional[str] = option(Value(Text(maximum=1024, minimum=1)), "The user's password.", secret=True)
    ca_file: Optional[str] = option(
        Value(AbsolutePath()),
        "A file with the certificates, in PEM form, that the host's certificate is checked against.",
    )
    fingerprint: Optional[str] = option(
        Value(
            Pattern(
                r"(sha256:)?([0-9a-f]{64}|[0-9a-f]{2}(:[0-9a-f]{2}){31})",
                "the SHA-256 digest of the certificate as 64 hexadecimal digits, with or without colons",
                lower=True,
            )
        ),
        "The SHA-256 fingerprint of the host's certificate; no other certificate is accepted then.",
    )
    validate_certs: Optional[bool] = option(
        Value(Boolean()), "Whether the host's certificate is checked at all.", default=True
    )
    timeout: Optional[int] = option(
        Value(Integer(1, 3600, "seconds")), "How long an answer of the host may take, in seconds.", default=30
    )

    def check(self) -> Iterator[Tuple[str, str]]:
        if self.validate_certs is False:
            for name in ("ca_file", "fingerprint"):
                if getattr(self, name):
                    yield name, "goes with validate_certs: true only"
