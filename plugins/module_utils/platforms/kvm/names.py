# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Names on a KVM host that follow from the model's names."""

from __future__ import annotations

import hashlib


def _digest(*parts: str) -> str:
    # NUL cannot be part of a name, so different parts never run into the same text.
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


def tap_name(vm: str, nic: str) -> str:
    """Return the name of the tap device of a VM's NIC on the host, 14 characters.

    It is the same at every start, so that filters can be prepared; libvirt replaces names that begin with vnet.
    """
    return f"bf{_digest(vm, nic)[:12]}"


def mac_address(vm: str, nic: str) -> str:
    """Return the MAC address of a VM's NIC for which none is given, in QEMU's own prefix 52:54:00."""
    digest = _digest("mac", vm, nic)
    return f"52:54:00:{digest[0:2]}:{digest[2:4]}:{digest[4:6]}"


def uuid_of(vm: str) -> str:
    """Return the UUID of a VM that is made by us (RFC 4122 version 5 layout), the same for the same name on every run."""
    digest = _digest("uuid", vm)
    return f"{digest[0:8]}-{digest[8:12]}-5{digest[13:16]}-a{digest[17:20]}-{digest[20:32]}"
