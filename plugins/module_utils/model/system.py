# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The host itself: names, time, logging, services, certificates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator, Optional, Tuple

from .schema import ModelObject, Nested, NestedList, Value, Values, option
from .types import Boolean, Choice, Host, HostName, Integer, IpAddress, Name, Pattern, Text


@dataclass(frozen=True)
class SyslogServer(ModelObject):
    """A server that the host sends its log to."""

    host: Optional[str] = option(Value(Host()), "The server's name or address.", key=True)
    port: Optional[int] = option(Value(Integer(1, 65535)), "The port.", default=514)
    protocol: Optional[str] = option(Value(Choice("udp", "tcp", "tls")), "How the log travels.", default="udp")


@dataclass(frozen=True)
class Service(ModelObject):
    """A service of the host's operating system."""

    name: Optional[str] = option(Value(Name()), "The service's name on the host.", key=True)
    running: Optional[bool] = option(Value(Boolean()), "Whether it runs now.")
    start_at_boot: Optional[bool] = option(Value(Boolean()), "Whether it starts with the host.")


@dataclass(frozen=True)
class Certificate(ModelObject):
    """The certificate that the host's management service shows."""

    certificate: Optional[str] = option(
        Value(Text(multiline=True, maximum=65536, minimum=1)),
        "The certificate and its chain in PEM form.",
        required=True,
    )
    private_key: Optional[str] = option(
        Value(Text(multiline=True, maximum=65536)), "The private key in PEM form.", secret=True
    )


@dataclass(frozen=True)
class System(ModelObject):
    """The host's identity and basic services."""

    KIND = "system"
    DESCRIPTION = "The host itself: its name, name resolution, time, log targets, services and certificate."

    hostname: Optional[str] = option(Value(HostName(single_label=True)), "The host's name without its domain.")
    domain: Optional[str] = option(Value(HostName()), "The DNS domain of the host.", clearable=True)
    dns_servers: Optional[Tuple[str, ...]] = option(
        Values(IpAddress(), ordered=True, maximum=8), "The DNS servers, in the order they are asked."
    )
    dns_search: Optional[Tuple[str, ...]] = option(
        Values(HostName(), ordered=True, maximum=32), "The domains that short names are looked up in."
    )
    ntp_servers: Optional[Tuple[str, ...]] = option(Values(Host(), ordered=True, maximum=16), "The time servers.")
    timezone: Optional[str] = option(
        Value(Pattern(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+){0,2}", "an IANA time zone such as Europe/Berlin or UTC")),
        "The time zone by its IANA name.",
    )
    syslog_servers: Optional[Tuple[SyslogServer, ...]] = option(
        NestedList(SyslogServer, ordered=False), "The servers that the log is sent to.", capability="system.syslog"
    )
    services: Optional[Tuple[Service, ...]] = option(
        NestedList(Service, ordered=False, partial=True),
        "Services whose state matters; services that are not named are left alone.",
        capability="system.services",
    )
    certificate: Optional[Certificate] = option(
        Nested(Certificate), "The certificate of the management service.", capability="system.certificate"
    )

    def check(self) -> Iterator[Tuple[str, str]]:
        if self.domain and self.hostname and len(f"{self.hostname}.{self.domain}") > 253:
            yield "domain", "host name and domain together are longer than 253 characters"
