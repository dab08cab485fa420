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


def pool_uuid(pool: str) -> str:
    """Return the UUID of a storage pool that is made by us, by which it is known from pools of others."""
    digest = _digest("storage pool", pool)
    return f"{digest[0:8]}-{digest[8:12]}-5{digest[13:16]}-a{digest[17:20]}-{digest[20:32]}"


def volume_name(vm: str, disk: str) -> str:
    """Return the name of the logical volume of a VM's disk: bf.VM.DISK where LVM can hold that.

    Source: lvm(8), "VALID NAMES".
    """
    name = f"bf.{vm}.{disk}"
    # Room for the ending of one that is being made, within the 127 characters that group and volume share.
    fits = len(name) <= 60 and all(c.isascii() and (c.isalnum() or c in "+_.-") for c in name)
    return name if fits and not any(part in name for part in _RESERVED) else f"bf.{_digest(vm)[:16]}.{disk}"


_RESERVED = (
    *("_cdata", "_cmeta", "_corig", "_mlog", "_mimage", "_pmspare", "_rimage", "_rmeta", "_tdata", "_tmeta"),
    *("_vdata", "_vorigin", "_wcorig"),
)
