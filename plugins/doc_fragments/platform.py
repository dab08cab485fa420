# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Written by tests/tools/generate_documentation.py from the model; change the descriptions there.

from __future__ import annotations


class ModuleDocFragment:
    """How the host is reached."""

    DOCUMENTATION = r"""
options:
  platform:
    description:
      - The host's platform, V(kvm) or V(proxmox). The default is the inventory variable C(bareforge_platform).
      - Allowed is a name of 1 to 255 characters without control or invisible characters or blanks at
        its ends.
    type: str
  connection:
    description:
      - How a platform that is managed through its API is reached. What is not given here is taken from
        the inventory variables C(bareforge_host), C(bareforge_port), C(bareforge_user), C(bareforge_password),
        C(bareforge_ca_file), C(bareforge_fingerprint), C(bareforge_validate_certs) and C(bareforge_timeout).
        Platforms that are managed over Ansible's own connection, such as V(kvm), have no use for it.
    type: dict
    suboptions:
      host:
        description:
          - The name or address of the host's API. The default is the host's C(ansible_host), or its name.
          - Allowed is a host name such as ntp1.example.org, or an IP address.
        type: str
      port:
        description:
          - The TCP port of the API; the platform's usual one by default.
          - Allowed is a whole number from 1 to 65535.
        type: int
      user:
        description:
          - The user to log in as.
        type: str
      password:
        description:
          - The user's password.
        type: str
      ca_file:
        description:
          - A file with the certificates, in PEM form, that the host's certificate is checked against.
          - Allowed is an absolute path without '..' in it, control characters or a slash at its end.
        type: str
      fingerprint:
        description:
          - The SHA-256 fingerprint of the host's certificate; no other certificate is accepted then.
          - Allowed is the SHA-256 digest of the certificate as 64 hexadecimal digits, with or without
            colons.
        type: str
      validate_certs:
        description:
          - Whether the host's certificate is checked at all.
          - The default is V(true).
        type: bool
      timeout:
        description:
          - How long an answer of the host may take, in seconds.
          - Allowed is a whole number from 1 to 3600 (seconds).
          - The default is V(30).
        type: int
"""
