# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What fakepve leaves out of QEMU guests, after PVE::API2::Qemu and PVE::QemuServer of qemu-server.

Disks that are added, replaced and taken off (they become `unusedN`), resized and imported; what a running VM takes at once and what
waits for its next start; `current=1`; cloud-init drives of clones; the next free id; backups and their restore.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
import urllib.parse
import uuid
from typing import Any

from fakepve.lxc import SIZE_UNITS, format_size
from fakepve.model import FakeVm, PveError, TaskError
from fakepve.qemu import (
    CREATE_ONLY,
    DRIVE_KEY,
    NEW_DISK,
    drives_of,
    is_cdrom,
    join_drive,
    split_drive,
    volume_ref,
    with_mac,
)
from fakepve.routing import die, param_error, split_list

ALWAYS_AT_ONCE = re.compile(
    r"name|description|onboot|tags|protection|startup|agent|hookscript|shares|cpuunits|cpulimit|balloon|ipconfig\d+|ciuser"
    r"|cipassword|sshkeys|nameserver|searchdomain|unused\d+|boot"
)
"""What a running VM takes at once whatever its `hotplug` says (PVE::QemuServer, $fast_plug_option and vmconfig_hotplug_pending)."""

HOT_PLUGGED = re.compile(r"net\d+|scsi\d+|virtio\d+")
"""What it takes with the default of `hotplug`, which is network,disk,usb."""

IMPORT_SIZE = 2 * 1024**3
"""How large an imported image turns out to be."""


class GuestState:
    """Mixin of the peer: what `/nodes/{node}/qemu` has beside fakepve's own."""

    def setup_guests(self) -> None:
        self.storages["local"]["content"] = "iso,vztmpl,backup,import"
        self.cloudinit_regenerated: list[int] = []
        self.backup_number = 0
        # How many seconds a migration takes, and which of them were stopped.
        self.migration_secs = 0.0
        self.migrating: dict[int, bool] = {}
        self.stopped_migrations: set[int] = set()
        # Which node answers at which port; the first one at all others.
        self.ports: dict[int, str] = {}
        self.in_cluster = True

    def _routes_guests(self) -> list[Any]:
        one = "/nodes/{node}/qemu/{vmid}"
        return [
            ("PUT", f"{one}/resize", self._qm_resize),
            ("PUT", f"{one}/cloudinit", self._qm_cloudinit),
            ("PUT", f"{one}/unlink", self._qm_unlink),
            ("GET", "/cluster/nextid", self._next_id),
            ("POST", "/nodes/{node}/vzdump", self._vzdump),
            ("GET", "/nodes/{node}/vzdump/extractconfig", self._extract_config),
            ("GET", f"{one}/migrate", self._qm_preconditions),
            ("POST", f"{one}/migrate", self._qm_migrate),
            ("DELETE", "/nodes/{node}/tasks/{upid}", self._task_stop),
        ]

    async def _next_id(self, v: Any, user: str) -> int:
        wanted = v.get("vmid")
        if wanted is not None:
            if self._qm_taken(int(wanted)):
                raise param_error(vmid=f"VM {wanted} already exists")
            return int(wanted)
        number = 100
        while self._qm_taken(number):
            number += 1
        return number

    # -- reading -------------------------------------------------------------------------------------------------------

    async def _config_get(self, request: Any) -> Any:
        from fakepve.server import ok, params

        vm = self._vm(request, "VM.Audit")
        config = dict(vm.config)
        if str((await params(request)).get("current", "0")) not in ("1", "true"):
            for key, value in vm.pending.items():
                if value is None:
                    config.pop(key, None)
                else:
                    config[key] = value
        if "memory" in config:
            config["memory"] = str(config["memory"])
        config["digest"] = vm.digest()
        return ok(config)

    async def _qemu_list(self, request: Any) -> Any:
        from fakepve.server import ok

        answer = json.loads((await super()._qemu_list(request)).text)["data"]
        if request.query.get("full") in ("1", "true"):
            for entry in answer:
                entry["qmpstatus"] = self.vm(entry["vmid"]).qmpstatus
        return ok(answer)

    # -- drives --------------------------------------------------------------------------------------------------------

    def _qm_new_drive(self, vmid: int, key: str, value: str, default: Any) -> Any:
        volume, options = split_drive(value)
        source = options.pop("import-from", None)
        if volume.endswith(":cloudinit"):
            volid, _format = self._qm_alloc_cloudinit(volume_ref(volume)[0], vmid)
            return join_drive(volid, {**options, "media": "cdrom"}), [volid]
        if source is None:
            return super()._qm_new_drive(vmid, key, value, default)
        found = NEW_DISK.match(volume)
        if not found or float(found.group(2)) != 0:
            raise die(f"{key}: 'import-from' needs a volume of size 0")
        sid, name = volume_ref(source)
        if sid is None or name not in self._volumes(sid):
            raise die(f"volume {source} does not exist")
        size = IMPORT_SIZE
        volid, _format = self._qm_alloc(found.group(1), vmid, options.pop("format", None), size)
        return join_drive(volid, {**options, "size": format_size(size)}), [volid]

    def _qm_check_drive(self, user: str, vmid: int, pool: Any, key: str, value: str, default: Any) -> None:
        volume, options = split_drive(value)
        if "import-from" in options:
            self._qm_image_store(volume_ref(volume)[0], user)
            return
        super()._qm_check_drive(user, vmid, pool, key, value, default)

    @staticmethod
    def _owned(vmid: int, volume: str) -> bool:
        return re.search(rf"(?:^|[:/])(?:vm|base)-{vmid}-", volume) is not None

    def _set_aside(self, vm: Any, volume: str) -> None:
        """A volume of the VM that no drive names any more becomes unusedN (PVE::QemuConfig::add_unused_volume)."""
        named = {
            split_drive(value)[0]
            for key, value in vm.config.items()
            if DRIVE_KEY.match(key) or key.startswith("unused")
        }
        if not self._owned(vm.vmid, volume) or volume in named or "cloudinit" in volume:
            return
        number = 0
        while f"unused{number}" in vm.config:
            number += 1
        vm.config[f"unused{number}"] = volume

    # -- configuration -------------------------------------------------------------------------------------------------

    async def _apply_config(self, vm: Any, user: str, p: Any) -> None:
        self.need_quorum()
        updates = {
            key: value for key, value in p.items() if key not in ("digest", "delete", "skiplock", "force", "revert")
        }
        if p.get("digest") and p["digest"] != vm.digest():
            raise PveError(500, "checksum mismatch (file change by other user?)")
        deletes = split_list(p.get("delete"))
        for key in deletes:
            if key in updates:
                raise param_error(delete=f"you can't use '-{key}' and -delete {key}' at the same time")
        for key in [*updates, *deletes]:
            if self._config_priv(key) == "root" and user != "root@pam":
                raise PveError(403, f"only root can set '{key}' config")
        self._check_lock(vm)
        for key, value in updates.items():
            if DRIVE_KEY.match(key):
                self._qm_check_drive(user, vm.vmid, None, key, value, None)
            elif re.fullmatch(r"net\d+", key):
                updates[key] = with_mac(value)
        self._check_boot(vm, updates, deletes)
        try:
            await self.acquire(vm, "config")
        except TaskError as error:
            raise PveError(500, str(error)) from error
        try:
            for key in deletes:
                self._delete_key(vm, key, bool(p.get("force")))
            for key, value in updates.items():
                self._update_key(vm, key, value)
        finally:
            self.release(vm, "config")
        vm.name = vm.config.get("name") or f"VM {vm.vmid}"

    def _check_boot(self, vm: Any, updates: dict[str, Any], deletes: list[str]) -> None:
        order = str(updates.get("boot", ""))
        if order.startswith("order="):
            known = set(vm.devices({**vm.config, **updates})) - set(deletes)
            for device in order[6:].split(";"):
                if device and device not in known:
                    raise param_error(boot=f"invalid bootorder: device '{device}' does not exist'")

    @staticmethod
    def _at_once(vm: Any, key: str) -> bool:
        return bool(vm.status != "running" or ALWAYS_AT_ONCE.fullmatch(key) or HOT_PLUGGED.fullmatch(key))

    def _delete_key(self, vm: Any, key: str, force: bool) -> None:
        if not self._at_once(vm, key):
            if key in vm.config:
                vm.pending[key] = None
            else:
                vm.pending.pop(key, None)
            return
        vm.pending.pop(key, None)
        value = vm.config.pop(key, None)
        if value is None:
            return
        if key.startswith("unused"):
            self._qm_free(split_drive(value)[0])
        elif DRIVE_KEY.match(key):
            volume, options = split_drive(value)
            if is_cdrom(volume, options) or force:
                if self._owned(vm.vmid, volume):
                    self._qm_free(volume)
            else:
                self._set_aside(vm, volume)

    def _update_key(self, vm: Any, key: str, value: Any) -> None:
        old = vm.config.get(key)
        if DRIVE_KEY.match(key):
            value, _made = self._qm_new_drive(vm.vmid, key, value, None)
            volume = split_drive(value)[0]
            for number in [name for name in vm.config if name.startswith("unused")]:
                if split_drive(vm.config[number])[0] == volume:
                    del vm.config[number]
        elif key == "tags":
            value = ";".join(sorted({tag.lower() for tag in re.split(r"[;, ]+", str(value)) if tag}))
        if not self._at_once(vm, key):
            if vm.config.get(key) == value:
                vm.pending.pop(key, None)
            else:
                vm.pending[key] = value
            return
        vm.pending.pop(key, None)
        if value == "" and key in ("description", "tags"):
            vm.config.pop(key, None)
            return
        vm.config[key] = value
        if old is not None and DRIVE_KEY.match(key):
            before = split_drive(old)[0]
            if before != split_drive(value)[0]:
                self._set_aside(vm, before)

    async def _qm_resize(self, v: Any, user: str) -> str:
        vm = self.find(v["node"], v["vmid"])
        self.need_quorum()
        self._check_lock(vm)
        key = v["disk"]
        if v.get("digest") and v["digest"] != vm.digest():
            raise PveError(500, "checksum mismatch (file change by other user?)")
        if key not in vm.config:
            raise die(f"disk '{key}' does not exist")

        async def body() -> None:
            volume, options = split_drive(vm.config[key])
            kept = self._qm_volume(volume)
            found = re.fullmatch(r"(\+?)(\d+(?:\.\d+)?)([KMGT]?)", v["size"])
            size = int(float(found.group(2)) * SIZE_UNITS.get(found.group(3), 1))  # type: ignore[union-attr]
            now = int(kept["size"])
            size = now + size if found.group(1) else size  # type: ignore[union-attr]
            if size < now:
                raise TaskError("shrinking disks is not supported")
            kept["size"] = size
            vm.config[key] = join_drive(volume, {**options, "size": format_size(size)})

        return str(await self.task(vm.node, "resize", vm.vmid, user, body, vm=vm))

    async def _qm_cloudinit(self, v: Any, user: str) -> None:
        vm = self.find(v["node"], v["vmid"])
        self.need_quorum()
        if not any("cloudinit" in split_drive(value)[0] for key, value in vm.config.items() if DRIVE_KEY.match(key)):
            raise die("no cloudinit drive found")
        self.cloudinit_regenerated.append(vm.vmid)

    async def _qm_unlink(self, v: Any, user: str) -> None:
        vm = self.find(v["node"], v["vmid"])
        await self._apply_config(vm, user, {"delete": v["idlist"], "force": v.get("force")})

    # -- clones and templates ------------------------------------------------------------------------------------------

    async def _qm_clone(self, v: Any, user: str) -> str:
        upid = await super()._qm_clone(v, user)
        new = self.vm(int(v["newid"]))
        if new is not None:
            for key, volume, options in drives_of(new.config):
                # The drive with the guest's data is made anew for every clone.
                if "cloudinit" in volume and self._owned(int(v["vmid"]), volume):
                    sid = volume_ref(volume)[0]
                    volid, _format = self._qm_alloc_cloudinit(sid, new.vmid)
                    new.config[key] = join_drive(volid, options)
        return str(upid)

    def _qm_alloc_cloudinit(self, sid: str, vmid: int) -> Any:
        volid = f"{sid}:vm-{vmid}-cloudinit"
        self.storages[sid].setdefault("volumes", {})[f"vm-{vmid}-cloudinit"] = {
            "content": "images", "format": "raw", "size": 4 * 1024**2, "vmid": vmid, "ctime": int(time.time()),
        }  # fmt: skip
        return volid, "raw"

    # -- backups -------------------------------------------------------------------------------------------------------

    async def _vzdump(self, v: Any, user: str) -> str:
        self.need_quorum()
        vm = self.find(v["node"], int(v["vmid"]))
        sid = v.get("storage", "local")
        store = self._store(sid)
        if "backup" not in split_list(store.get("content")):
            raise param_error(storage=f"storage '{sid}' does not support backups")

        async def body() -> None:
            if vm.lock:
                raise TaskError("job errors")
            self.backup_number += 1
            stamp = time.strftime("%Y_%m_%d-%H_%M_%S", time.gmtime(1700000000 + self.backup_number))
            name = f"backup/vzdump-qemu-{vm.vmid}-{stamp}.vma.zst"
            volume: dict[str, Any] = {
                "content": "backup", "format": "vma.zst", "size": 1024**2, "vmid": vm.vmid,
                "ctime": 1700000000 + self.backup_number, "config": dict(vm.config),
            }  # fmt: skip
            if v.get("notes-template"):
                volume["notes"] = re.sub(
                    r"\\(.)", lambda found: {"n": "\n"}.get(found.group(1), found.group(1)), v["notes-template"]
                )
            if v.get("protected"):
                volume["protected"] = True
            store.setdefault("volumes", {})[name] = volume

        return str(await self.task(v["node"], "vzdump", vm.vmid, user, body, vm=vm, lock=False))

    # -- migration -----------------------------------------------------------------------------------------------------

    def _qm_local(self, vm: Any) -> list[dict[str, Any]]:
        """Return the volumes of a VM that lie on its node only (PVE::QemuMigrate::Helpers)."""
        found = []
        for _key, volume, options in drives_of(vm.config):
            sid, name = volume_ref(volume)
            if sid is not None and not self.storages[sid].get("shared"):
                size = int((self._volumes(sid).get(name) or {}).get("size", 0))
                found.append({"volid": volume, "size": size, "cdrom": int(is_cdrom(volume, options)), "is_unused": 0})
        return found

    def _qm_lacking(self, vm: Any, target: str) -> list[str]:
        used = {volume_ref(volume)[0] for _key, volume, _options in drives_of(vm.config)}
        nodes = {sid: split_list(self.storages[sid].get("nodes")) for sid in used if sid is not None}
        return sorted(sid for sid, allowed in nodes.items() if allowed and target not in allowed)

    async def _qm_preconditions(self, v: Any, user: str) -> dict[str, Any]:
        vm = self.find(v["node"], v["vmid"])
        others = [name for name in sorted(self.nodes) if name != vm.node]
        refused = {name: {"unavailable_storages": self._qm_lacking(vm, name)} for name in others}
        refused = {name: why for name, why in refused.items() if why["unavailable_storages"]}
        return {
            "running": int(vm.status == "running"),
            "allowed_nodes": [name for name in others if name not in refused],
            "not_allowed_nodes": refused,
            "local_disks": self._qm_local(vm),
            "local_resources": [key for key in sorted(vm.config) if re.match(r"hostpci\d|usb\d", key)],
            "mapped-resources": [],
            "mapped-resource-info": {},
            "has-dbus-vmstate": 1,
        }

    async def _qm_migrate(self, v: Any, user: str) -> str:
        self.need_quorum()
        vm, target = self.find(v["node"], v["vmid"]), v["target"]
        if target == vm.node:
            raise param_error(target="target is local node.")
        if target not in self.nodes:
            raise die(f"no such cluster node '{target}'")
        if not self.nodes[target].get("online", True):
            raise die(f"target node '{target}' is not online" if vm.status == "running" else "no route to host")
        self._check_lock(vm)
        running = vm.status == "running"
        if running and not v.get("online"):
            raise die("can't migrate running VM without --online")
        for sid in self._qm_lacking(vm, target):
            raise die(f"storage '{sid}' is not available on node '{target}'")

        async def body() -> str:
            for entry in self._qm_local(vm):
                volume = entry["volid"]
                if entry["cdrom"] and "cloudinit" not in volume:
                    raise TaskError(f"can't migrate local cdrom '{volume}'")
                if entry["cdrom"]:
                    continue
                if running and not v.get("with-local-disks"):
                    raise TaskError(
                        f"can't live migrate attached local disks without with-local-disks option ({volume})"
                    )
                if running and vm.snapshots:
                    raise TaskError("online storage migration not possible if non-replicated snapshot exists")
                parent = re.search(r"(base-\d+-[^/]+)/", volume)
                if not running and parent:
                    raise TaskError(f"can't migrate '{volume}' as it's a clone of '{parent.group(1)}'")
            self._qm_lock(vm, "migrate")
            self.migrating[vm.vmid] = True
            try:
                waited = 0.0
                while waited < self.migration_secs:
                    await asyncio.sleep(0.02)
                    waited += 0.02
                    if vm.vmid in self.stopped_migrations:
                        raise TaskError("unexpected status")
                vm.node = target
            finally:
                self._qm_lock(vm, None)
            return "migration completed, transferred 128.0 MiB VM-state\nmigration active, transferred, downtime 37 ms"

        return str(await self.task(v["node"], "qmigrate", vm.vmid, user, body, vm=vm))

    async def _task_stop(self, v: Any, user: str) -> None:
        record = self.tasks.get(v["upid"])
        if record is None:
            raise die("no such task")
        self.stopped_migrations.add(int(record["id"]))

    async def _cluster_status(self, request: Any) -> Any:
        """The node that is asked tells that it is the local one; each has a port of its own."""
        from fakepve.server import ok

        answer = json.loads((await super()._cluster_status(request)).text)["data"]
        local = self.ports.get(request.transport.get_extra_info("sockname")[1])
        for entry in answer:
            if local is not None and entry["type"] == "node":
                entry["local"] = int(entry["name"] == local)
        return ok(answer if self.in_cluster else [entry for entry in answer if entry.get("local")])

    async def _extract_config(self, v: Any, user: str) -> str:
        """PVE::API2::VZDump, extractconfig: the configuration as it is written in /etc/pve (PVE::QemuServer, write_vm_config)."""
        return written_config(self._archive(v["volume"], "")["config"])

    def _archive(self, volid: str, emsg: str) -> dict[str, Any]:
        sid, name = volume_ref(volid)
        kept = self._volumes(sid).get(name) if sid is not None else None
        if kept is None:
            raise die(f"{emsg}volume '{volid}' does not exist")
        if kept.get("content") != "backup":
            raise die(f"{emsg}'{volid}' is no backup archive")
        return dict(kept)

    async def _qm_create(self, v: Any, user: str) -> str:
        if not v.get("archive"):
            return str(await super()._qm_create(v, user))
        # PVE::API2::Qemu, create_vm with an archive: what was there is replaced under its id, within one task.
        self.need_quorum()
        vmid = int(v["vmid"])
        emsg = f"unable to restore VM {vmid} - "
        override = {key: value for key, value in v.items() if key not in CREATE_ONLY}
        for key in override:
            if DRIVE_KEY.match(key):
                raise param_error(**{key: "option conflicts with option 'archive'"})
        archive = self._archive(v["archive"], emsg)
        old = self.vm(vmid)
        if self._qm_taken(vmid) and not (old is not None and v.get("force")):
            raise die(f"{emsg}VM {vmid} already exists on node '{self.guest(vmid).node}'")
        if old is not None and old.node != v["node"]:
            raise die(f"{emsg}VM {vmid} already exists on node '{old.node}'")
        if old is not None:
            self._check_lock(old)
        vm = old or FakeVm(vmid, f"VM {vmid}", node=v["node"])
        if old is None:
            self.vms.append(vm)
        self._qm_lock(vm, "create")

        async def body() -> None:
            try:
                if str(vm.config.get("protection") or "0") == "1":
                    raise TaskError(f"{emsg}protection mode enabled")
                if vm.status == "running":
                    raise TaskError(f"{emsg}vm is running")
                self._restore(vm, archive["config"], override, v)
            except TaskError:
                if old is None:
                    self.vms.remove(vm)
                else:
                    self._qm_lock(vm, None)
                raise
            self._qm_lock(vm, None)
            if v.get("pool"):
                self._pool_join(v["pool"], vmid)
            if v.get("start"):
                vm.status = vm.qmpstatus = "running"

        return str(await self.task(v["node"], "qmrestore", vmid, user, body, vm=vm))

    def _restore(self, vm: Any, archived: dict[str, Any], override: dict[str, Any], v: Any) -> None:
        config = dict(archived)
        drives = drives_of(config)
        for _key, volume, options in drives:
            sid = v.get("storage") or volume_ref(volume)[0]
            if sid is None or (is_cdrom(volume, options) and "cloudinit" not in volume):
                continue
            if sid not in self.storages or "images" not in split_list(self.storages[sid].get("content")):
                raise TaskError(f"storage '{sid}' does not support vm images")
        restored = {key for key, _volume, _options in drives}
        kept: list[str] = []
        for key, volume, options in drives_of(vm.config):
            if not self._owned(vm.vmid, volume):
                continue
            if key in restored or is_cdrom(volume, options):
                self._qm_free(volume)
            else:
                kept.append(volume)
        vm.snapshots.clear()
        for key, volume, options in drives:
            sid = v.get("storage") or volume_ref(volume)[0]
            if "cloudinit" in volume:
                config[key] = join_drive(self._qm_alloc_cloudinit(sid, vm.vmid)[0], options)
            elif sid is not None and not is_cdrom(volume, options):
                size = sum(SIZE_UNITS[text[-1]] * int(text[:-1]) for text in [str(options.get("size", "1M"))])
                config[key] = join_drive(self._qm_alloc(sid, vm.vmid, None, size)[0], options)
        for key in [key for key in config if re.fullmatch(r"unused\d+|lock|vmstate|parent", key)]:
            del config[key]
        if v.get("unique"):
            for key in [key for key in config if re.fullmatch(r"net\d+", key)]:
                config[key] = with_mac(re.sub(r"=(?:[0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}", "", str(config[key]), count=1))
            config["smbios1"] = f"uuid={uuid.uuid4()}"
        config["vmgenid"] = str(uuid.uuid4())
        config.update(override)
        vm.config, vm.pending = config, {}
        for volume in kept:
            self._set_aside(vm, volume)
        vm.name = config.get("name") or f"VM {vm.vmid}"


def written_config(config: dict[str, Any]) -> str:
    """Return a configuration as it is written in a file (PVE::QemuServer, write_vm_config; PVE::Tools, encode_text)."""
    lines = []
    for line in str(config.get("description") or "").split("\n"):
        escaped = urllib.parse.quote(
            line, safe="".join(map(chr, (*range(0x20, 0x25), *range(0x26, 0x3A), *range(0x3B, 0x7F))))
        )
        lines.append(f"#{escaped}")
    if lines[-1] == "#":
        lines.pop()
    lines.extend(f"{key}: {value}" for key, value in sorted(config.items()) if key not in ("description", "digest"))
    return "\n".join(lines) + "\n"


async def settle(peer: Any) -> None:
    """Wait until no task of the peer runs any more."""
    while any(task["status"] == "running" for task in peer.tasks.values()):
        await asyncio.sleep(0.01)
