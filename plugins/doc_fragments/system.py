# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Written by tests/tools/generate_documentation.py from the model; change the descriptions there.

from __future__ import annotations


class ModuleDocFragment:
    """The options of the module system."""

    DOCUMENTATION = r"""
options:
  hostname:
    description:
      - The host's name without its domain.
      - Allowed is a host name of 1 to 63 letters, digits and inner hyphens.
    type: str
  domain:
    description:
      - The DNS domain of the host.
      - Allowed is a host name of letters, digits, inner hyphens and dots, at most 253 characters.
      - An empty text takes it away.
    type: str
  dns_servers:
    description:
      - The DNS servers, in the order they are asked.
      - Each entry is an IPv4 or IPv6 address.
    type: list
    elements: str
  dns_search:
    description:
      - The domains that short names are looked up in.
      - Each entry is a host name of letters, digits, inner hyphens and dots, at most 253 characters.
    type: list
    elements: str
  ntp_servers:
    description:
      - The time servers.
      - Each entry is a host name such as ntp1.example.org, or an IP address.
    type: list
    elements: str
  timezone:
    description:
      - The time zone by its IANA name.
      - Allowed is an IANA time zone such as Europe/Berlin or UTC.
    type: str
  syslog_servers:
    description:
      - The servers that the log is sent to.
      - A platform offers this by its capability C(system.syslog).
    type: list
    elements: dict
    suboptions:
      host:
        description:
          - The server's name or address.
          - Allowed is a host name such as ntp1.example.org, or an IP address.
        type: str
        required: true
      port:
        description:
          - The port.
          - Allowed is a whole number from 1 to 65535.
          - The default is V(514).
        type: int
      protocol:
        description:
          - How the log travels.
          - The default is V(udp).
        type: str
        choices:
          - udp
          - tcp
          - tls
  services:
    description:
      - Services whose state matters; services that are not named are left alone.
      - A platform offers this by its capability C(system.services).
    type: list
    elements: dict
    suboptions:
      name:
        description:
          - The service's name on the host.
          - Allowed is a name of 1 to 255 characters without control or invisible characters or blanks
            at its ends.
        type: str
        required: true
      running:
        description:
          - Whether it runs now.
        type: bool
      start_at_boot:
        description:
          - Whether it starts with the host.
        type: bool
  certificate:
    description:
      - The certificate of the management service.
      - A platform offers this by its capability C(system.certificate).
    type: dict
    suboptions:
      certificate:
        description:
          - The certificate and its chain in PEM form.
        type: str
        required: true
      private_key:
        description:
          - The private key in PEM form.
        type: str
  state:
    description:
      - With V(present) the host is made to show what the options say; what they leave open stays as it
        is. With V(gathered) nothing is changed, and RV(system) tells what is there.
    type: str
    choices:
      - present
      - gathered
    default: present
"""
