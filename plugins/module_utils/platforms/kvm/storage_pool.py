# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Storage pools on a KVM host: pools of libvirt, which builds, mounts, connects and starts them.

A pool that we have made is known by its UUID, which follows from its name. One that somebody else has made is shown
and can hold disks; it can be started, and whether it starts with the host can be changed, but it is never rebuilt,
removed or pruned.

libvirt has no words for what may lie in a pool, so that stands in a record beside it. The record is written first and
says that the pool is being made until it is: what a killed run has left is taken back by the next.
"""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import os
import re
import socket
import threading
from dataclasses import dataclass
from typing import Any, Callable, Collection, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple

from ...engine.change import Change
from ...engine.platform import Context, Interface
from ...errors import ApplyError, Problem, one_line
from ...model.document import State
from ...model.schema import ModelObject, shown_as
from ...model.storage import StoragePool, StorageSource
from ...model.types import show
from ...transports import libvirt as session
from . import block_devices, disk_images, host_files, pool_xml
from .block_devices import Group, Lvm
from .file_names import Directories, PoolPlace, name_problem
from .names import pool_uuid

MIB = 1024 * 1024
MAKING = "making"
RESTARTING = "restarting"
REACH_SECONDS = 10.0
START_SECONDS = 90.0
PORTS = {"nfs": 2049, "iscsi": 3260}
# A group must be there before the volumes on it, and a target before the group on its devices.
BUILDING_ORDER = ("iscsi", "dir", "nfs", "lvm")
HOLDS_DISKS = ("dir", "nfs", "lvm")
HOLDS_FILES = ("dir", "nfs")
GROUP_NAME = re.compile(r"[A-Za-z0-9_.+][A-Za-z0-9_.+-]{0,62}")
OPTION_NAME = re.compile(r"[a-z][a-z0-9_]*")
SYSTEM_DIRECTORIES = frozenset(
    f"/{name}"
    for name in (
        *("", "bin", "boot", "dev", "etc", "home", "lib", "lib32", "lib64", "libx32", "media", "mnt", "opt", "proc"),
        *("root", "run", "sbin", "srv", "sys", "tmp", "usr", "var", "var/cache", "var/lib", "var/lib/bareforge"),
        *("var/lib/libvirt", "var/log", "var/tmp"),
    )
)
PASSWORD_ARGUMENT = re.compile(r"(\.auth\.password(?:_in)? --value )\S+")
# virt-aa-helper lets no guest have a disk below these (its valid_path()).
FORBIDDEN_ROOTS = ("/bin/", "/boot/", "/dev/", "/etc/", "/lib/", "/lib64/", "/proc/", "/sbin/", "/sys/", "/usr/")


@dataclass(frozen=True)
class Known:
    """What was read of a pool: the object, whether we have made it, whether it is started, its UUID."""

    pool: StoragePool
    ours: bool
    active: bool
    uuid: str


class KvmStoragePools(Interface):
    """Pools of libvirt: directories, volume groups of LVM, exports of NFS servers and targets of iSCSI."""

    KINDS = ("storage_pool",)
    CAPABILITIES = frozenset(
        {
            "storage_pool",
            "storage_pool.type.dir",
            "storage_pool.type.lvm",
            "storage_pool.content.disks",
            "storage_pool.content.templates",
        }
    )

    def __init__(self, platform: Any, where: Optional[Directories] = None) -> None:
        self.platform = platform
        self.where = where or Directories()
        self._known: Dict[str, Known] = {}
        self._lvm: Optional[Lvm] = None

    # Reading

    def read(self, kinds: Collection[str], names: Mapping[str, Collection[str]]) -> State:
        wanted = set(names["storage_pool"]) if "storage_pool" in names else None
        found = session.read(lambda connection: self._read(connection, wanted), "the storage pools cannot be read")
        self._lvm = None
        if any(known.pool.type == "lvm" for known in found.values()):
            found = {name: self._with_devices(known) for name, known in found.items()}
        self._known.update(found)
        return {"storage_pool": {(name,): self._shown(known) for name, known in found.items()}}

    def _read(self, connection: Any, names: Optional[Collection[str]]) -> Dict[str, Known]:
        libvirt = session.library()
        found: Dict[str, Known] = {}
        for entry in connection.listAllStoragePools(0):
            name = entry.name()
            if names is not None and name not in names:
                continue
            try:
                active, lasting, uuid = bool(entry.isActive()), bool(entry.isPersistent()), entry.UUIDString()
                autostart = bool(entry.autostart()) if lasting else False
                pool = pool_xml.read_xml(entry.XMLDesc(libvirt.VIR_STORAGE_XML_INACTIVE if lasting else 0))
            except libvirt.libvirtError as error:
                if session.is_missing(error):
                    continue  # removed by someone else meanwhile
                raise
            if pool is None:
                continue
            ours = uuid == pool_uuid(name)
            record = self._record(name) if ours else {}
            if record.get(MAKING):
                continue  # a run was killed before it was whole; `recover` takes it back, and it is made anew
            content = record.get("content")
            pool = dataclasses.replace(
                pool, autostart=autostart, content=tuple(content) if content is not None else None
            )
            found[name] = Known(pool, ours, active, uuid)
        return found

    def _record(self, name: str) -> Dict[str, Any]:
        record = host_files.read_json(self.where.pool_record(name))
        return record if isinstance(record, dict) else {}

    @property
    def lvm(self) -> Lvm:
        """The host's volume groups; read once until something was changed."""
        if self._lvm is None:
            self._lvm = block_devices.read_lvm()
        return self._lvm

    def _with_devices(self, known: Known) -> Known:
        """Return a pool on a group with the devices that the group has, by the names that the user has for them."""
        source = known.pool.source
        group = self.lvm.groups.get(str(source.name)) if source is not None and known.pool.type == "lvm" else None
        if source is None or group is None:
            return known
        there = {block_devices.canonical(device): device for device in source.devices or ()}
        devices = tuple(sorted(there.get(device, device) for device in group.devices))
        pool = dataclasses.replace(known.pool, source=dataclasses.replace(source, devices=devices))
        return Known(pool, known.ours, known.active, known.uuid)

    @staticmethod
    def _shown(known: Known) -> StoragePool:
        # A pool that is stopped is not what a document asks for that names it: to start it is a change.
        return known.pool if known.active else shown_as(known.pool, autostart=None)

    def places(self, state: State) -> Dict[str, PoolPlace]:
        """Return where the disks of the pools of a state lie, by name."""
        found: Dict[str, PoolPlace] = {}
        for item in state.get("storage_pool", {}).values():
            if isinstance(item, StoragePool):
                group = item.source.name if item.type == "lvm" and item.source is not None else None
                path = self.path_of(item) if item.type in HOLDS_FILES else None
                found[str(item.name)] = PoolPlace(str(item.name), str(item.type), path, group)
        return found

    def path_of(self, pool: StoragePool) -> Optional[str]:
        """Return where a pool lies or is mounted, None where libvirt's name for it follows from its source."""
        if pool.type == "lvm" and pool.source is not None:
            return f"/dev/{pool.source.name}"
        if pool.type == "iscsi":
            return "/dev/disk/by-path"
        return pool.path or os.path.join(self.where.pools, str(pool.name))

    def is_started(self, name: str) -> bool:
        """Return whether a pool that was read is started."""
        known = self._known.get(name)
        return known is not None and known.active

    def group(self, pool: StoragePool) -> Optional[Group]:
        """Return the volume group of a pool as it is, or None where it has none (yet). Raises ReadError."""
        if pool.type != "lvm" or pool.source is None:
            return None
        return self.lvm.groups.get(str(pool.source.name))

    def free_bytes(self, pool: StoragePool) -> Optional[int]:
        """Return the space that is left in a pool, None where that is not known yet. Raises ReadError."""
        if pool.type == "lvm":
            group = self.group(pool)
            return group.free if group is not None else None
        path = self.path_of(pool)
        if pool.type not in HOLDS_FILES or path is None or (pool.type == "nfs" and not self.is_started(str(pool.name))):
            return None
        return disk_images.free_bytes(path)

    # What speaks against a change

    def validate(self, change: Change, context: Context) -> Iterable[Problem]:
        pool = change.item
        if not isinstance(pool, StoragePool):
            raise AssertionError("not reached: not isinstance(pool, StoragePool)")
        if change.after is None:
            yield from self._validate_removal(pool, context)
            return
        yield from _validate_fields(pool)
        if isinstance(change.before, StoragePool):
            yield from self._validate_update(change.before, pool)
        else:
            yield from self._validate_new(pool, context)

    def _validate_new(self, pool: StoragePool, context: Context) -> Iterator[Problem]:
        place = pool.place
        problem = name_problem(str(pool.name)) or session.read(
            lambda connection: _taken(connection, str(pool.name)), f"{place.text} cannot be looked for"
        )
        if problem:
            yield Problem(place.field("name").text, f"{show(pool.name)} {problem}")
            return
        if pool.path:
            yield from _validate_path(pool)
        if pool.type == "lvm":
            yield from self._validate_group(pool, context)

    def _validate_group(self, pool: StoragePool, context: Context) -> Iterator[Problem]:
        source = pool.source or StorageSource()
        place = pool.place.field("source")
        group = self.group(pool)
        if group is None and not source.devices:
            there = ", ".join(sorted(self.lvm.groups)) or "none"
            yield Problem(
                place.field("devices").text,
                f"must be given, since there is no volume group {show(source.name)}; there are: {there}",
            )
        if group is not None and source.devices:
            listed = {block_devices.canonical(device) for device in source.devices}
            for device in group.devices:
                if device not in listed:
                    yield Problem(
                        place.field("devices").text,
                        f"leaves out {show(device)}, on which the volume group {show(group.name)} lies too",
                    )
        yield from self._validate_devices(pool, (), context)

    def _validate_devices(
        self, pool: StoragePool, known: Collection[str], context: Optional[Context]
    ) -> Iterator[Problem]:
        """Look at the devices that the group does not have yet. known: those that it has."""
        source = pool.source or StorageSource()
        place = pool.place.field("source").field("devices")
        seen: Dict[str, str] = {}
        for device in source.devices or ():
            real = block_devices.canonical(device)
            if real in seen:
                yield Problem(place.text, f"{show(device)} and {show(seen[real])} are one device")
            seen[real] = device
            owner = self.lvm.owners.get(real)
            if owner == source.name or real in known:
                continue
            if owner:
                yield Problem(
                    place.text,
                    f"{show(device)} belongs to the volume group {show(owner)}; allowed is an empty device",
                )
                continue
            if not os.path.exists(device) and context is not None and _comes_with_target(device, context):
                continue
            problem = block_devices.device_problem(device)
            if problem:
                yield Problem(place.text, problem)

    def _validate_update(self, before: StoragePool, after: StoragePool) -> Iterator[Problem]:
        place = after.place
        known = self._known.get(str(after.name))
        if known is None:
            return
        changed = [
            name
            for name in ("content", "settings", "source")
            if getattr(before, name) != getattr(after, name) and not _same(getattr(before, name), getattr(after, name))
        ]
        if not known.ours and changed:
            yield Problem(
                place.field(changed[0]).text,
                "cannot be changed, since this collection has not made the pool; allowed are autostart, and to start it",
            )
            return
        if after.type == "lvm":
            old = (known.pool.source or StorageSource()).devices or ()
            new = {block_devices.canonical(device) for device in (after.source or StorageSource()).devices or ()}
            for device in old:
                if new and block_devices.canonical(device) not in new:
                    yield Problem(
                        place.field("source").field("devices").text,
                        f"leaves out {show(device)}, which cannot be taken out of the pool",
                    )
            yield from self._validate_devices(after, [block_devices.canonical(device) for device in old], None)
        elif known.active and _needs_restart(before, after):
            users = self._users(after, running=True)
            above = self._pools_on(after)
            if above:
                yield Problem(
                    place.text,
                    f"has to be stopped for {', '.join(changed)}, and these storage pools lie on its devices: "
                    f"{', '.join(above)}",
                )
            if users:
                yield Problem(
                    place.text,
                    f"has to be stopped for {', '.join(changed)}, and these VMs run on it: {', '.join(users)}",
                )

    def _validate_removal(self, pool: StoragePool, context: Context) -> Iterator[Problem]:
        place = pool.place
        known = self._known.get(str(pool.name))
        if known is not None and not known.ours:
            yield Problem(
                place.text, "cannot be removed, since this collection has not made it (virsh pool-undefine does that)"
            )
            return
        wanted = context.wanted.get("vm", {})
        going = {str(key[0]) for key in context.before.get("vm", {}) if key not in wanted}
        users = [name for name in self._users(pool) if name not in going]
        if users:
            yield Problem(place.text, f"cannot go, since disks of these VMs lie in it: {', '.join(users)}")
        backups = self._backups_in(pool)
        if backups:
            yield Problem(place.text, f"cannot go, since these backups lie in it: {', '.join(backups)}")
        above = [name for name in self._pools_on(pool) if (name,) in context.wanted.get("storage_pool", {})]
        if above:
            yield Problem(place.text, f"cannot go, since these storage pools lie on its devices: {', '.join(above)}")
        if context.operation.delete_contents and pool.type == "iscsi":
            yield Problem(
                place.text, "is of type iscsi, whose devices are the server's: delete_contents is not allowed with it"
            )

    def _backups_in(self, pool: StoragePool) -> List[str]:
        """Return the backups, as VM/NAME, whose target lies in a pool that has files."""
        owner = self.platform.owner("backup")
        path = self.path_of(pool)
        if owner is None or pool.type not in HOLDS_FILES or not self.is_started(str(pool.name)):
            return []
        found = owner.read(["backup"], {})["backup"].values()
        return sorted(item.label for item in found if f"{item.target}/".startswith(f"{path}/"))

    def _users(self, pool: StoragePool, running: bool = False) -> List[str]:
        """Return the names of the libvirt domains, ours or not, of which something lies in a pool."""
        libvirt = session.library()
        flags = libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE if running else 0
        path = self.path_of(pool) or ""
        if pool.type == "iscsi":
            links = glob.glob(os.path.join(path, f"*-iscsi-{glob.escape(_target_of(pool))}-lun-*"))
            inside = {os.path.realpath(link) for link in links}
        else:
            inside = set()
        prefixes: Tuple[str, ...] = (f"{path}/",)
        if pool.type == "lvm":
            prefixes += (f"/dev/mapper/{os.path.basename(path).replace('-', '--')}-",)

        def lies_in(source: str) -> bool:
            return source.startswith(prefixes) if pool.type != "iscsi" else os.path.realpath(source) in inside

        def look(connection: Any) -> List[str]:
            names: List[str] = []
            for domain in connection.listAllDomains(flags):
                named = pool_xml.disk_paths(domain.XMLDesc(0))
                if pool.name in named["pool"] or any(lies_in(source) for source in named["path"]):
                    names.append(domain.name())
            return sorted(names)

        return session.read(look, f"the users of {pool.place.text} cannot be looked for")

    def _pools_on(self, pool: StoragePool) -> List[str]:
        """Return the names of the pools whose volume groups lie on the devices of an iSCSI pool."""
        if pool.type != "iscsi":
            return []
        links = glob.glob(f"/dev/disk/by-path/*-iscsi-{glob.escape(_target_of(pool))}-lun-*")
        devices = {block_devices.canonical(link) for link in links}
        found: List[str] = []
        pools = session.read(lambda connection: self._read(connection, None), "the storage pools cannot be read")
        for name, known in pools.items():
            group = self.group(known.pool)
            if group is not None and devices & set(group.devices):
                found.append(name)
        return sorted(found)

    def keeps(self, item: ModelObject, state: State) -> Optional[str]:
        known = self._known.get(item.label)
        return "it was made by someone else" if known is not None and not known.ours else None

    # Making changes

    def apply(self, changes: Sequence[Change], context: Context) -> None:
        for change in sorted(changes, key=_position):
            pool = change.item
            if not isinstance(pool, StoragePool):
                raise AssertionError("not reached: not isinstance(pool, StoragePool)")
            context.begin(change)
            with session.translated(pool.place.text), host_files.translated(pool.place.text):
                if change.after is None:
                    self._remove(pool, context)
                elif isinstance(change.before, StoragePool):
                    self._update(change.before, pool)
                else:
                    self._create(pool)
            self._lvm = None
            context.done(change)

    def _create(self, pool: StoragePool) -> None:
        name = str(pool.name)
        path = self.path_of(pool)
        existing = self._group_with_devices(pool) if pool.type == "lvm" else None
        builds_group = pool.type == "lvm" and existing is None
        makes_directory = pool.type in HOLDS_FILES and path is not None and not os.path.isdir(path)
        # QEMU, which runs as another user, must be able to pass through to what is mounted there.
        disk_images.make_directory(os.path.dirname(self.where.pools), 0o711)
        disk_images.make_directory(self.where.pools, 0o711)
        record = {MAKING: True, "builds_group": builds_group, "makes_directory": path if makes_directory else None}
        host_files.write_json(self.where.pool_record(name), record)
        self._keep_password(pool)
        entry = session.connection().storagePoolDefineXML(pool_xml.to_xml(pool, path), 0)
        try:
            if pool.type in HOLDS_FILES or builds_group:
                entry.build(0)
            if existing is not None:
                self._extend(pool, existing)
            self._start(entry, pool)
            entry.setAutostart(1 if pool.autostart else 0)
            self._write_record(pool)
        except TooLate:
            raise  # libvirt holds the pool until it has given up: what there is of it is taken back by the next run
        except Exception:
            self._take_back(name, record)
            raise

    def _group_with_devices(self, pool: StoragePool) -> Optional[Group]:
        """Return the group of a pool that is to be made; devices of a target that was just connected are looked at."""
        self._lvm = None
        problems = list(self._validate_devices(pool, (), None))
        if problems:
            raise ApplyError(str(problems[0]))
        return self.group(pool)

    def _extend(self, pool: StoragePool, group: Group) -> None:
        there = set(group.devices)
        wanted = (pool.source or StorageSource()).devices or ()
        missing = [device for device in wanted if block_devices.canonical(device) not in there]
        if missing:
            block_devices.extend_group(group.name, missing)

    def _write_record(self, pool: StoragePool) -> None:
        content = list(pool.content) if pool.content is not None else None
        host_files.write_json(self.where.pool_record(str(pool.name)), {"content": content})

    def _keep_password(self, pool: StoragePool) -> None:
        source = pool.source
        if source is None or not source.password:
            return
        secret = session.connection().secretDefineXML(pool_xml.secret_xml(str(pool.name)), 0)
        secret.setValue(source.password.encode("utf-8"), 0)

    def _forget_password(self, name: str) -> None:
        libvirt = session.library()
        try:
            usage = pool_xml.secret_usage(name)
            session.connection().secretLookupByUsage(libvirt.VIR_SECRET_USAGE_TYPE_ISCSI, usage).undefine()
        except libvirt.libvirtError as error:
            if not session.is_missing(error):
                raise

    def _take_back(self, name: str, record: Mapping[str, Any]) -> None:
        """Remove what there is of a pool that was being made."""
        libvirt = session.library()
        entry = find(session.connection(), name)
        if entry is not None and entry.UUIDString() == pool_uuid(name):
            with contextlib.suppress(libvirt.libvirtError):
                if entry.isActive():
                    entry.destroy()
            if record.get("builds_group"):
                with contextlib.suppress(libvirt.libvirtError):
                    entry.delete(0)  # there is nothing on it yet
            entry.undefine()
        self._forget_password(name)
        if record.get("makes_directory"):
            with contextlib.suppress(OSError):
                os.rmdir(record["makes_directory"])
        host_files.remove_file(self.where.pool_record(name))

    def _start(self, entry: Any, pool: StoragePool) -> None:
        """Start a pool, within a deadline. Raises ApplyError, TooLate where libvirt is still at it."""
        host = pool.source.host if pool.source is not None else None
        port = PORTS.get(str(pool.type))
        if host and port:
            require_answer(pool, host, port)
        libvirt = session.library()
        try:
            with_deadline(lambda: entry.create(0), START_SECONDS, f"{pool.place.text} cannot be started")
        except libvirt.libvirtError as error:
            # libvirt quotes the commands that failed, and to iscsiadm it gives the password as an argument.
            said = PASSWORD_ARGUMENT.sub(r"\1********", one_line(error.get_error_message() or str(error)))
            raise ApplyError(f"{pool.place.text} cannot be started: {said}") from None

    def _update(self, before: StoragePool, after: StoragePool) -> None:
        name = str(after.name)
        entry = find(session.connection(), name)
        known = self._known.get(name)
        if entry is None or known is None:
            raise ApplyError(f"{after.place.text} is gone")
        if known.ours:
            self._update_ours(entry, before, after)
        if not entry.isActive():
            self._start(entry, after)
        if bool(entry.autostart()) != bool(after.autostart):
            entry.setAutostart(1 if after.autostart else 0)
        if known.ours:
            self._write_record(after)
        entry.refresh(0)

    def _update_ours(self, entry: Any, before: StoragePool, after: StoragePool) -> None:
        xml = pool_xml.to_xml(after, self.path_of(after))
        self._keep_password(after)  # libvirt asks for it at the next login
        if after.type == "lvm":
            self._lvm = None
            group = self.group(after)
            if group is not None:
                self._extend(after, group)
            session.connection().storagePoolDefineXML(xml, 0)
        elif _needs_restart(before, after):
            content = list(after.content) if after.content is not None else None
            host_files.write_json(
                self.where.pool_record(str(after.name)), {"content": content, RESTARTING: bool(entry.isActive())}
            )
            session.connection().storagePoolDefineXML(xml, 0)
            if entry.isActive():
                entry.destroy()

    def _remove(self, pool: StoragePool, context: Context) -> None:
        name = str(pool.name)
        entry = find(session.connection(), name)
        if entry is None:
            return
        contents = bool(context.operation.delete_contents)
        if contents and self._is_there(pool):
            if not entry.isActive():
                self._start(entry, pool)
            entry.refresh(0)
            for volume in entry.listAllVolumes(0):
                volume.delete(0)
        if entry.isActive():
            entry.destroy()
        if contents and self._is_there(pool):
            self._remove_source(entry, pool, context)
        self._forget_password(name)
        entry.undefine()
        if pool.type == "nfs" and os.path.dirname(str(pool.path)) == self.where.pools:
            with contextlib.suppress(OSError):
                os.rmdir(str(pool.path))
        host_files.remove_file(self.where.pool_record(name))

    def _is_there(self, pool: StoragePool) -> bool:
        self._lvm = None
        return self.group(pool) is not None if pool.type == "lvm" else os.path.isdir(str(self.path_of(pool)))

    def _remove_source(self, entry: Any, pool: StoragePool, context: Context) -> None:
        """Remove the volume group, or the directory where nothing is left in it."""
        if pool.type == "lvm":
            # Of the devices libvirt frees those that it knows, and of a group that was there it was told none.
            entry = session.connection().storagePoolDefineXML(pool_xml.to_xml(pool, self.path_of(pool)), 0)
            entry.delete(0)
        elif pool.type == "dir":
            left = sorted(os.listdir(str(pool.path)))
            if left:
                shown = ", ".join(left[:5])
                context.warn(f"{pool.place.text}: {pool.path} was kept, since there are directories in it: {shown}")
            else:
                entry.delete(0)

    def recover(self) -> None:
        """Take back pools that killed runs have left half-made, and start those that they have stopped for a change."""
        with contextlib.suppress(FileNotFoundError):
            for file_name in sorted(os.listdir(self.where.pools)):
                name, extension = os.path.splitext(file_name)
                if extension != ".json" or file_name.startswith("."):
                    continue
                record = self._record(name)
                if record.get(MAKING):
                    with session.translated(f"storage_pool[{show(name)}]: what a killed run has left cannot go"):
                        self._take_back(name, record)
                elif record.get(RESTARTING):
                    self._start_again(name, record)

    def _start_again(self, name: str, record: Mapping[str, Any]) -> None:
        libvirt = session.library()
        with session.translated(f"storage_pool[{show(name)}]: what a killed run has stopped cannot be started"):
            entry = find(session.connection(), name)
            if entry is not None and not entry.isActive():
                # One that cannot be started now is shown as stopped, and the next document that names it says why.
                with contextlib.suppress(libvirt.libvirtError, ApplyError):
                    with_deadline(lambda: entry.create(0), START_SECONDS, name)
        host_files.write_json(self.where.pool_record(name), {"content": record.get("content")})


class TooLate(ApplyError):
    """libvirt has not come to an end within the deadline and goes on."""


def with_deadline(function: Callable[[], Any], seconds: float, what: str) -> None:
    """Call a function of libvirt in a thread. Raises TooLate where it has not returned in time, and what it raises."""
    failures: List[BaseException] = []

    def call() -> None:
        try:
            function()
        except BaseException as error:  # noqa: BLE001 - handed on to the caller
            failures.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TooLate(f"{what}: it has not answered within {seconds:.0f} s")
    if failures:
        raise failures[0]


def require_answer(pool: StoragePool, host: str, port: int) -> None:
    """Raise ApplyError where a server takes no connection within REACH_SECONDS."""
    place = pool.place.field("source").field("host").text
    try:
        socket.create_connection((host, port), REACH_SECONDS).close()
    except socket.gaierror as error:
        raise ApplyError(f"{place}: the host knows no address of {show(host)} ({error.strerror})") from error
    except OSError as error:
        reason = error.strerror or f"no answer within {REACH_SECONDS:.0f} s"
        raise ApplyError(f"{place}: the server {show(host)} cannot be reached on TCP port {port} ({reason})") from error


def find(connection: Any, name: str) -> Any:
    """Return libvirt's pool of a name, or None. libvirt's exceptions pass."""
    libvirt = session.library()
    try:
        return connection.storagePoolLookupByName(name)
    except libvirt.libvirtError as error:
        if session.is_missing(error):
            return None
        raise


def _taken(connection: Any, name: str) -> Optional[str]:
    """Return why libvirt does not let us have a pool's name, or None; a half-made pool of ours is no reason."""
    entry = find(connection, name)
    if entry is None or entry.UUIDString() == pool_uuid(name):
        return None
    return "is the name of a pool of libvirt of a type that this collection does not know and does not touch"


def _same(left: Any, right: Any) -> bool:
    return (left or None) == (right or None)


def _position(change: Change) -> Tuple[int, int]:
    order = BUILDING_ORDER.index(str(getattr(change.item, "type", "dir")))
    return (1, -order) if change.after is None else (0, order)


def _target_of(pool: StoragePool) -> str:
    return str(pool.source.target) if pool.source is not None else ""


def _comes_with_target(device: str, context: Context) -> bool:
    """Return whether a device is one of a target that is connected in the same run."""
    for key, item in context.wanted.get("storage_pool", {}).items():
        if isinstance(item, StoragePool) and item.type == "iscsi" and key not in context.before.get("storage_pool", {}):
            if f"-iscsi-{_target_of(item)}-lun-" in device:
                return True
    return False


def _needs_restart(before: StoragePool, after: StoragePool) -> bool:
    old, new = before.source or StorageSource(), after.source or StorageSource()
    return not _same(before.settings, after.settings) or (old.version, old.username) != (new.version, new.username)


def _validate_fields(pool: StoragePool) -> Iterator[Problem]:
    place, source, kind = pool.place, pool.source or StorageSource(), str(pool.type)
    if pool.path and kind in ("lvm", "iscsi"):
        yield Problem(place.field("path").text, f"goes with types dir and nfs; a pool of type {kind} lies in /dev")
    for name, types in (
        ("devices", ("lvm",)),
        ("username", ("iscsi",)),
        ("password", ("iscsi",)),
        ("version", ("nfs",)),
    ):
        if getattr(source, name) and kind not in types:
            yield Problem(place.field("source").field(name).text, f"does not go with type {kind}; it is for {types[0]}")
    if source.password and not source.username:
        yield Problem(place.field("source").field("username").text, "must be given with a password")
    if kind == "lvm" and source.name and not GROUP_NAME.fullmatch(source.name):
        yield Problem(
            place.field("source").field("name").text,
            f"{show(source.name)} is no name that LVM can hold; allowed are 1 to 63 letters, digits and _ . + -",
        )
    for name, value in pool.settings or ():
        setting = place.field("settings").field(name).text
        if kind != "nfs":
            yield Problem(setting, f"does not go with type {kind}; settings are mount options of nfs")
        elif name in ("nfsvers", "vers", "retry"):
            yield Problem(setting, "is not set here; source.version says the version, and a mount is tried once")
        elif not OPTION_NAME.fullmatch(name) or any(c in ", \t\n\\=" for c in value):
            yield Problem(
                setting, "is no mount option: allowed are lower-case letters, digits and _, and a value without , ="
            )


def _validate_path(pool: StoragePool) -> Iterator[Problem]:
    path = str(pool.path)
    place = pool.place.field("path").text
    if path in SYSTEM_DIRECTORIES or path.startswith(FORBIDDEN_ROOTS):
        yield Problem(
            place, f"{show(path)} belongs to the system; allowed is a directory of its own, such as /srv/pool"
        )
    elif os.path.lexists(path) and not os.path.isdir(path):
        yield Problem(place, f"{show(path)} is there on the host and is no directory")
    elif pool.type == "nfs" and os.path.isdir(path) and (os.path.ismount(path) or os.listdir(path)):
        yield Problem(place, f"{show(path)} is mounted or not empty on the host; allowed is an empty directory")
