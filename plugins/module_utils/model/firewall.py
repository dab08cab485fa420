# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The host's firewall, and the filters on the ports of virtual machines."""

from __future__ import annotations

import dataclasses
import ipaddress
from dataclasses import dataclass
from typing import Dict, Iterator, Optional, Tuple

from .schema import ModelObject, Nested, NestedList, Value, Values, option
from .types import Boolean, Choice, Cidr, Integer, IpAddress, Name, PortRange, Text

# Service names of the IANA registry (RFC 6335) and of the hypervisors, with (protocol, ports) of each.
SERVICES: Dict[str, Tuple[Tuple[str, Tuple[str, ...]], ...]] = {
    "ssh": (("tcp", ("22",)),),
    "dns": (("tcp", ("53",)), ("udp", ("53",))),
    "dhcp": (("udp", ("67",)),),
    "dhcpv6": (("udp", ("547",)),),
    "dhcpv6_client": (("udp", ("546",)),),
    "http": (("tcp", ("80",)),),
    "https": (("tcp", ("443",)),),
    "ntp": (("udp", ("123",)),),
    "snmp": (("udp", ("161",)),),
    "syslog": (("tcp", ("514",)), ("udp", ("514",))),
    "syslog_tls": (("tcp", ("6514",)),),
    "nfs": (("tcp", ("2049",)),),
    "iscsi": (("tcp", ("3260",)),),
    "smb": (("tcp", ("445",)),),
    "libvirt_tls": (("tcp", ("16514",)),),
    "live_migration": (("tcp", ("49152-49215",)),),
    "vnc": (("tcp", ("5900-5999",)),),
    "vxlan": (("udp", ("4789",)),),
    "winrm": (("tcp", ("5985",)),),
    "winrm_https": (("tcp", ("5986",)),),
    "rdp": (("tcp", ("3389",)),),
    "node_exporter": (("tcp", ("9100",)),),
}


@dataclass(frozen=True)
class Firewall(ModelObject):
    """The policy of the host's firewall."""

    KIND = "firewall"
    DESCRIPTION = "The policy of the host's own firewall: what happens to traffic that no rule names."

    enabled: Optional[bool] = option(Value(Boolean()), "Whether the firewall is on.", default=True)
    default_inbound: Optional[str] = option(
        Value(Choice("deny", "allow")), "What happens to traffic to the host that no rule names.", default="deny"
    )
    default_outbound: Optional[str] = option(
        Value(Choice("deny", "allow")),
        "What happens to traffic from the host that no rule names.",
        default="allow",
        capability="firewall.default_outbound",
    )
    default_forward: Optional[str] = option(
        Value(Choice("deny", "allow")),
        "What happens to routed traffic through the host that no rule names.",
        default="deny",
        capability="firewall.default_forward",
    )
    management_sources: Optional[Tuple[str, ...]] = option(
        Values(Cidr(), maximum=256),
        "The networks that management (SSH, API) is always reachable from, whatever the rules say; an empty list is "
        "everywhere.",
        default=[],
    )
    management_ports: Optional[Tuple[str, ...]] = option(
        Values(PortRange(), minimum=1, maximum=64),
        "The TCP ports of management; the default is the platform's own.",
    )
    log_denied: Optional[bool] = option(
        Value(Boolean()),
        "Whether denied traffic is logged, rate-limited.",
        default=False,
        capability="firewall.log_denied",
    )


@dataclass(frozen=True)
class RateLimit(ModelObject):
    """How much of the traffic a rule matches."""

    rate: Optional[int] = option(Value(Integer(1, 1_000_000)), "How many packets.", required=True)
    per: Optional[str] = option(Value(Choice("second", "minute", "hour", "day")), "In which time.", default="second")
    burst: Optional[int] = option(Value(Integer(1, 65535)), "How many more at once.", default=5)


PROTOCOLS = ("any", "tcp", "udp", "icmp", "icmpv6", "igmp", "vrrp", "esp", "ah", "gre", "sctp")


def _check_ports_and_families(
    protocol: Optional[str], ports: Tuple[str, ...], families: Dict[str, Tuple[str, ...]]
) -> Iterator[Tuple[str, str]]:
    if ports and protocol not in ("tcp", "udp", "sctp"):
        yield "ports", f"go with protocol tcp, udp or sctp only, not with {protocol}"
    version = {"icmp": 4, "igmp": 4, "icmpv6": 6}.get(protocol or "")
    if version:
        for name, networks in families.items():
            for network in networks:
                if ipaddress.ip_network(network).version != version:
                    yield name, f"{network} does not go with protocol {protocol}, which is IPv{version}"


@dataclass(frozen=True)
class FirewallRule(ModelObject):
    """A rule of the host's firewall."""

    KIND = "firewall_rule"
    DESCRIPTION = "One rule of the host's own firewall."

    name: Optional[str] = option(Value(Name(maximum=100)), "The rule's name.", key=True)
    direction: Optional[str] = option(
        Value(Choice("inbound", "outbound", "forward")),
        "Traffic to the host, from it, or routed through it.",
        default="inbound",
        capability="firewall_rule.direction.*",
    )
    action: Optional[str] = option(
        Value(Choice("allow", "deny", "reject")),
        "Let it pass, drop it silently, or refuse it with an answer.",
        default="allow",
        capability="firewall_rule.action.*",
    )
    service: Optional[str] = option(
        Value(Choice(*SERVICES)),
        "A service by name, instead of O(protocol) and O(ports).",
        clearable=True,
        capability="firewall_rule.service",
    )
    protocol: Optional[str] = option(Value(Choice(*PROTOCOLS)), "The IP protocol.", default="any")
    ports: Optional[Tuple[str, ...]] = option(
        Values(PortRange(), maximum=256), "The destination ports and ranges; none is all.", default=[]
    )
    source_ports: Optional[Tuple[str, ...]] = option(
        Values(PortRange(), maximum=256),
        "The source ports and ranges; none is all.",
        default=[],
        capability="firewall_rule.source_ports",
    )
    sources: Optional[Tuple[str, ...]] = option(
        Values(Cidr(), maximum=1024), "The networks that it comes from, IPv4 and IPv6; none is all.", default=[]
    )
    destinations: Optional[Tuple[str, ...]] = option(
        Values(Cidr(), maximum=1024),
        "The networks that it goes to, IPv4 and IPv6; none is all.",
        default=[],
        capability="firewall_rule.destinations",
    )
    interfaces: Optional[Tuple[str, ...]] = option(
        Values(Name(), maximum=64),
        "The host's interfaces that it enters by (inbound, forward) or leaves by (outbound); none is all.",
        default=[],
        capability="firewall_rule.interfaces",
    )
    position: Optional[int] = option(
        Value(Integer(1, 65535)), "Where it stands: lower comes first; by name among equals.", default=1000
    )
    log: Optional[bool] = option(
        Value(Boolean()), "Whether a match is logged.", default=False, capability="firewall_rule.log"
    )
    rate_limit: Optional[RateLimit] = option(
        Nested(RateLimit), "How much of it the rule matches.", capability="firewall_rule.rate_limit"
    )
    enabled: Optional[bool] = option(Value(Boolean()), "Whether the rule is in force.", default=True)
    description: Optional[str] = option(Value(Text(maximum=200)), "What it is for.", clearable=True)

    def check(self) -> Iterator[Tuple[str, str]]:
        if self.service and (self.ports or self.protocol not in (None, "any")):
            yield "service", "goes without protocol and ports, which it stands for"

    def complete(self, current: Optional[FirewallRule]) -> FirewallRule:
        whole = super().complete(current)
        # A service stands for protocol and ports: whichever of the two the user names replaces the other.
        if self.service:
            return dataclasses.replace(whole, protocol="any", ports=())
        if self.service is None and (self.ports or self.protocol not in (None, "any")):
            return dataclasses.replace(whole, service=None)
        return whole

    def check_complete(self) -> Iterator[Tuple[str, str]]:
        yield from self.check()
        if self.source_ports and not self.service and self.protocol not in ("tcp", "udp", "sctp"):
            yield "source_ports", f"go with protocol tcp, udp or sctp only, not with {self.protocol}"
        yield from _check_ports_and_families(
            self.protocol, self.ports or (), {"sources": self.sources or (), "destinations": self.destinations or ()}
        )
        versions = [
            {ipaddress.ip_network(network).version for network in networks}
            for networks in (self.sources or (), self.destinations or ())
            if networks
        ]
        if len(versions) == 2 and not versions[0] & versions[1]:
            yield "destinations", "are of another IP version than the sources, so nothing can match"


@dataclass(frozen=True)
class PortAclRule(ModelObject):
    """A rule on a virtual port; stateless, the first that matches counts."""

    name: Optional[str] = option(Value(Name(maximum=100)), "The rule's name.", key=True)
    direction: Optional[str] = option(
        Value(Choice("inbound", "outbound")), "Towards the VM, or from it.", default="inbound"
    )
    action: Optional[str] = option(Value(Choice("allow", "deny")), "Let it pass, or drop it.", default="deny")
    protocol: Optional[str] = option(Value(Choice(*PROTOCOLS)), "The IP protocol.", default="any")
    ports: Optional[Tuple[str, ...]] = option(
        Values(PortRange(), maximum=256), "The destination ports and ranges; none is all.", default=[]
    )
    remotes: Optional[Tuple[str, ...]] = option(
        Values(Cidr(), maximum=256), "The networks at the other end; none is all.", default=[]
    )

    def check_complete(self) -> Iterator[Tuple[str, str]]:
        yield from _check_ports_and_families(self.protocol, self.ports or (), {"remotes": self.remotes or ()})


@dataclass(frozen=True)
class PortAcl(ModelObject):
    """What one virtual port lets through."""

    KIND = "port_acl"
    DESCRIPTION = "The filter on one NIC of a VM: anti-spoofing, DHCP and router guard, and rules to allow or deny."

    vm: Optional[str] = option(
        Value(Name()), "The virtual machine; the filter goes with it.", key=True, reference="vm", when_gone="remove"
    )
    nic: Optional[str] = option(Value(Name()), "The name of its NIC.", key=True)
    mac_spoofing: Optional[bool] = option(
        Value(Boolean()),
        "Whether the VM may send from other MAC addresses than its own.",
        default=False,
        capability="port_acl.mac_spoofing",
        neutral=True,
    )
    allowed_ipv4: Optional[Tuple[str, ...]] = option(
        Values(IpAddress(4), maximum=256),
        "The IPv4 addresses that the VM may send from and answer ARP for; none is no limit.",
        default=[],
        capability="port_acl.allowed_ipv4",
    )
    allowed_ipv6: Optional[Tuple[str, ...]] = option(
        Values(IpAddress(6), maximum=256),
        "The IPv6 addresses beside its link-local ones that the VM may send from and answer neighbour discovery for; "
        "none is no limit.",
        default=[],
        capability="port_acl.allowed_ipv6",
    )
    dhcp_guard: Optional[bool] = option(
        Value(Boolean()),
        "Whether answers of a DHCP server in the VM are dropped.",
        default=True,
        capability="port_acl.dhcp_guard",
        neutral=False,
    )
    router_guard: Optional[bool] = option(
        Value(Boolean()),
        "Whether router advertisements and redirects of the VM are dropped.",
        default=True,
        capability="port_acl.router_guard",
        neutral=False,
    )
    default_inbound: Optional[str] = option(
        Value(Choice("allow", "deny")), "What happens to traffic to the VM that no rule names.", default="allow"
    )
    default_outbound: Optional[str] = option(
        Value(Choice("allow", "deny")), "What happens to traffic from the VM that no rule names.", default="allow"
    )
    rules: Optional[Tuple[PortAclRule, ...]] = option(
        NestedList(PortAclRule), "The rules in their order.", default=[], capability="port_acl.rules"
    )
