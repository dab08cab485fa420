# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Storages of the cluster (PVE::API2::Storage::Config), as storage pools."""

from __future__ import annotations

import re
from typing import Any, Collection, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple

from ...engine.change import Change
from ...engine.platform import Context, Interface
from ...errors import Problem
from ...model.document import State
from ...model.schema import ModelObject
from ...model.storage import StoragePool, StorageSource
from ...model.types import show
from ...transports.proxmox import Job, Task

TYPES = {
    "dir": "dir",
    "nfs": "nfs",
    "smb": "cifs",
    "iscsi": "iscsi",
    "lvm": "lvm",
    "lvm_thin": "lvmthin",
    "zfs": "zfspool",
}
CONTENT = {"disks": "images", "templates": "import", "images": "iso", "backups": "backup"}
"""What of PVE's content types the model has words for; others that a storage may hold are left as they are."""

ABLE = {
    "dir": ("disks", "templates", "images", "backups"),
    "nfs": ("disks", "templates", "images", "backups"),
    "smb": ("disks", "templates", "images", "backups"),
    "iscsi": ("disks",),
    "lvm": ("disks",),
    "lvm_thin": ("disks",),
    "zfs": ("disks",),
}
SETTINGS = (
    "bwlimit",
    "blocksize",
    "create-base-path",
    "create-subdirs",
    "domain",
    "format",
    "is_mountpoint",
    "max-protected-backups",
    "mkdir",
    "nodes",
    "options",
    "preallocation",
    "prune-backups",
    "saferemove",
    "shared",
    "smbversion",
    "sparse",
    "subdir",
)
"""The options of a storage that are set under their own names."""

FIXED = ("path", "server", "export", "share", "portal", "target", "vgname", "thinpool", "pool")
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*[A-Za-z0-9]")
VERSION = re.compile(r"(?:nfs)?vers=([0-9.]+)")


class ProxmoxStoragePools(Interface):
    """Reads and changes storages."""

    KINDS = ("storage_pool",)
    CAPABILITIES = frozenset(
        {
            "storage_pool",
            "storage_pool.type.dir",
            "storage_pool.type.nfs",
            "storage_pool.type.smb",
            "storage_pool.type.iscsi",
            "storage_pool.type.lvm",
            "storage_pool.type.lvm_thin",
            "storage_pool.type.zfs",
            "storage_pool.content.disks",
            "storage_pool.content.templates",
            "storage_pool.content.images",
            "storage_pool.content.backups",
            "storage_pool.settings",
        }
    )

    def __init__(self, platform: Any) -> None:
        self.platform = platform
        self._seen: Dict[str, Mapping[str, Any]] = {}

    def read(self, kinds: Collection[str], names: Mapping[str, Collection[str]]) -> State:
        entries = self.platform.session.get("storage")
        self._seen = {str(entry["storage"]): entry for entry in entries}
        pools = [pool for pool in (_describe(entry) for entry in entries) if pool is not None]
        return {"storage_pool": {pool.key: pool for pool in pools}}

    def hidden(self, kind: str, key: Tuple[Any, ...]) -> Optional[str]:
        entry = self._seen.get(str(key[0]))
        return None if entry is None else f"it is a storage of type {entry.get('type')}, which has no word in the model"

    def keeps(self, item: ModelObject, state: State) -> Optional[str]:
        return "the node's own files lie in it" if item.label == "local" else None

    # -- objections ----------------------------------------------------------------------------------------------------

    def validate(self, change: Change, context: Context) -> Iterable[Problem]:
        pool = change.after
        if not isinstance(pool, StoragePool):
            return
        for name, message in self._problems(pool, change.before is None):
            yield Problem(pool.place.inner(name).text, message)

    def _problems(self, pool: StoragePool, is_new: bool) -> Iterator[Tuple[str, str]]:
        if is_new:
            if not NAME.fullmatch(str(pool.name)):
                yield (
                    "name",
                    f"{show(pool.name)} is no name of a storage; allowed are 2 or more letters, digits, _, - and .",
                )
            elif pool.name in self._seen:
                yield "name", f"there is a storage {show(pool.name)} of type {self._seen[pool.name].get('type')}"
        source = pool.source or StorageSource()
        if source.devices:
            yield (
                "source.devices",
                "Proxmox VE is given a volume group or pool that is there; make it first and name it",
            )
        if pool.type == "lvm_thin" and "/" not in str(source.name or "/"):
            yield "source.name", f"{show(source.name)} is no thin pool; allowed is GROUP/POOL"
        if pool.type != "smb":
            for name in ("username", "password"):
                if getattr(source, name):
                    yield f"source.{name}", f"goes with type smb only, not with {pool.type}"
        if source.version and pool.type != "nfs":
            yield "source.version", f"goes with type nfs only, not with {pool.type}"
        if pool.path and pool.type not in ("dir", "nfs", "smb"):
            yield "path", f"a pool of type {pool.type} lies in no folder"
        able = ABLE[str(pool.type)]
        for content in pool.content or ():
            if content not in able:
                yield "content", f"{content} cannot lie in a pool of type {pool.type}; allowed are {', '.join(able)}"
        for name, _value in pool.settings or ():
            if name not in SETTINGS:
                yield f"settings[{show(name)}]", f"unknown; known are {', '.join(SETTINGS)}"
            if name == "options" and source.version:
                yield f"settings[{show(name)}]", "does not go with source.version, which is one of the mount's options"

    # -- changing ------------------------------------------------------------------------------------------------------

    def apply(self, changes: Sequence[Change], context: Context) -> None:
        try:
            self._apply(changes, context)
        finally:
            self.platform.forget_storages()

    def _apply(self, changes: Sequence[Change], context: Context) -> None:
        session = self.platform.session
        for change in changes:
            context.begin(change)
            name = change.item.label
            if not isinstance(change.after, StoragePool):
                if context.operation.delete_contents:
                    errors = [error for error in session.carry_out([self._empty(name)]) if error]
                    if errors:
                        raise errors[0]
                session.delete("storage", name)
            elif change.before is None:
                params = self._params(change.after, None)
                session.ask("POST", ("storage",), {"storage": name, "type": TYPES[str(change.after.type)], **params})
            else:
                present = self._seen[name]
                params = self._params(change.after, present)
                now = {
                    key: value
                    for key, value in params.items()
                    if str(present.get(key, "")) != str(value) and key not in FIXED
                }
                gone = [key for key in (*SETTINGS, "disable") if key in present and key not in params]
                if gone:
                    now["delete"] = ",".join(gone)
                session.ask("PUT", ("storage", name), {**now, "digest": present.get("digest")})
            context.done(change)

    def _empty(self, name: str) -> Job:
        session = self.platform.session
        for volume in session.get("nodes", session.node, "storage", name, "content"):
            volid = str(volume["volid"])
            upid = session.delete("nodes", session.node, "storage", name, "content", volid)
            yield Task(str(upid or ""), f"removing {volid}")

    @staticmethod
    def _params(pool: StoragePool, present: Optional[Mapping[str, Any]]) -> Dict[str, Any]:
        source = pool.source or StorageSource()
        params: Dict[str, Any] = dict(pool.settings or ())
        if pool.type == "nfs":
            params.update(server=source.host, export=source.path, path=pool.path)
            if source.version:
                params["options"] = f"vers={source.version}"
        elif pool.type == "smb":
            params.update(
                server=source.host,
                share=source.path,
                path=pool.path,
                username=source.username,
                password=source.password,
            )
        elif pool.type == "iscsi":
            params.update(portal=source.host, target=source.target)
        elif pool.type == "lvm":
            params.update(vgname=source.name)
        elif pool.type == "lvm_thin":
            group, _slash, thin = str(source.name).partition("/")
            params.update(vgname=group, thinpool=thin)
        elif pool.type == "zfs":
            params.update(pool=source.name)
        else:
            params.update(path=pool.path)
        if pool.content is not None:
            words = set(CONTENT.values())
            kept = [word for word in _words((present or {}).get("content")) if word not in words and word != "none"]
            wanted = [CONTENT[content] for content in pool.content]
            params["content"] = ",".join(sorted({*kept, *wanted})) or "none"
        if pool.autostart is False:
            params["disable"] = 1
        return {name: value for name, value in params.items() if value is not None}


def storage_entry(pool: StoragePool) -> Dict[str, Any]:
    """Return what a storage that is yet to be made will look like among those of the node (GET /nodes/{node}/storage)."""
    words = ("images",) if pool.content is None else tuple(CONTENT[content] for content in pool.content)
    usable = int(pool.autostart is not False)
    return {"type": TYPES[str(pool.type)], "content": ",".join(words), "active": usable, "enabled": usable}


def _words(text: Any) -> List[str]:
    return [word for word in str(text or "").split(",") if word]


def _describe(entry: Mapping[str, Any]) -> Optional[StoragePool]:
    kind = next((name for name, word in TYPES.items() if word == entry.get("type")), None)
    if kind is None:
        return None
    fields: Dict[str, Any] = {}
    version = VERSION.search(str(entry.get("options") or "")) if kind == "nfs" else None
    if kind in ("nfs", "smb"):
        fields = {"host": entry.get("server"), "path": entry.get("export") or entry.get("share")}
        fields["username"] = entry.get("username")
        fields["version"] = version.group(1) if version and version.group(1) in ("3", "4", "4.1", "4.2") else None
    elif kind == "iscsi":
        fields = {"host": entry.get("portal"), "target": entry.get("target")}
    elif kind == "lvm":
        fields = {"name": entry.get("vgname")}
    elif kind == "lvm_thin":
        fields = {"name": f"{entry.get('vgname')}/{entry.get('thinpool')}"}
    elif kind == "zfs":
        fields = {"name": entry.get("pool")}
    settings = {
        name: str(entry[name])
        for name in SETTINGS
        if entry.get(name) is not None
        and not (name == "options" and version and str(entry[name]) == version.group(0))
        and str(entry[name]) != ""
    }
    words = _words(entry.get("content"))
    return StoragePool(
        name=str(entry["storage"]),
        type=kind,
        path=entry.get("path") or None,
        source=StorageSource(**fields) if fields else None,
        content=tuple(sorted(content for content, word in CONTENT.items() if word in words)),
        autostart=not entry.get("disable"),
        settings=tuple(sorted(settings.items())),
    )
