# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where disks, templates and backups lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Dict, Iterator, Optional, Tuple

from .schema import ModelObject, Nested, TextMap, Value, Values, option
from .types import AbsolutePath, Boolean, Choice, Host, Integer, Name, Text


@dataclass(frozen=True)
class StorageSource(ModelObject):
    """What the pool is made of."""

    # Another server, export or group is another pool, with other disks in it; only the way to it can change.
    host: Optional[str] = option(Value(Host()), "The server, for nfs, smb and iscsi.", create_only=True)
    path: Optional[str] = option(
        Value(Text(maximum=1024, minimum=1)), "The export or share, for nfs and smb.", create_only=True
    )
    target: Optional[str] = option(Value(Name()), "The target's name, for iscsi.", create_only=True)
    devices: Optional[Tuple[str, ...]] = option(
        Values(AbsolutePath(), maximum=256),
        "The block devices, for lvm, lvm_thin, zfs and vmfs. The whole list: further ones make the pool larger, and none "
        "can be taken out.",
    )
    name: Optional[str] = option(
        Value(Name()), "The volume group, thin pool (GROUP/POOL) or ZFS pool.", create_only=True
    )
    username: Optional[str] = option(Value(Name()), "The user at the server.")
    password: Optional[str] = option(
        Value(Text(maximum=512)),
        "The user's password. It is not compared: one that changed is set where another field of the pool changes too.",
        secret=True,
    )
    version: Optional[str] = option(Value(Choice("3", "4", "4.1", "4.2")), "The version of NFS.")


@dataclass(frozen=True)
class StoragePool(ModelObject):
    """A datastore, storage repository or storage pool."""

    KIND = "storage_pool"
    DESCRIPTION = "Where disks, templates and backups lie: a datastore, a storage repository, a storage pool."

    NEEDS: ClassVar[Dict[str, Tuple[str, ...]]] = {
        "dir": (),
        "nfs": ("host", "path"),
        "smb": ("host", "path"),
        "iscsi": ("host", "target"),
        "lvm": ("name",),
        "lvm_thin": ("name",),
        "zfs": ("name",),
        "vmfs": ("devices",),
    }

    name: Optional[str] = option(Value(Name()), "The pool's name.", key=True)
    type: Optional[str] = option(
        Value(Choice(*NEEDS)),
        "What it is made of.",
        required=True,
        create_only=True,
        capability="storage_pool.type.*",
    )
    path: Optional[str] = option(
        Value(AbsolutePath()), "Where it lies or is mounted on the host.", create_only=True, claims="storage path"
    )
    source: Optional[StorageSource] = option(Nested(StorageSource), "What it is made of.")
    content: Optional[Tuple[str, ...]] = option(
        Values(Choice("disks", "templates", "images", "backups")),
        "What may lie in it; everything that the platform allows where not given.",
        capability="storage_pool.content.*",
    )
    autostart: Optional[bool] = option(Value(Boolean()), "Whether it starts with the host.", default=True)
    capacity: Optional[int] = option(
        Value(Integer(1, 2**40, "GiB")), "The size to grow to, where the pool can.", capability="storage_pool.grow"
    )
    settings: Optional[Tuple[Tuple[str, str], ...]] = option(
        TextMap(Name(), Text(maximum=1024)), "Mount or pool options by name.", capability="storage_pool.settings"
    )

    def check_new(self, current: Optional[StoragePool]) -> Iterator[Tuple[str, str]]:
        if current is not None:
            return
        if self.type == "dir" and not self.path:
            yield "path", "must be given for a pool of type dir"
        for name in self.NEEDS.get(self.type or "", ()):
            if self.source is None or not getattr(self.source, name):
                yield f"source.{name}", f"must be given for a pool of type {self.type}"
