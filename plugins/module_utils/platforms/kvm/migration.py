# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Moving VMs from one KVM host to another, while they run or while they are off; no storage is shared.

Both hosts are told what to do by the controller, one step after another. The hosts talk to each other through SSH, with a
key that is made for one migration, ends by itself and lets nobody do anything else: nothing listens on a network, and no
port of the firewall is opened. QEMU and libvirt listen on 127.0.0.1 of the host that the VM comes to.

Until the VM is on the other host, it is whole where it was; what a killed run has left there is removed by the next. A VM
that has moved leaves its disks behind until the other host has shown it.

Source: libvirt, virDomainMigrateToURI3 (peer to peer); sshd(8), AUTHORIZED_KEYS FILE FORMAT.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pwd
import secrets
import shutil
import socket
import threading
import time
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence

from ...engine.platform import Interface
from ...errors import ApplyError, NotSupportedError, Problem, ValidateError, VerifyError
from ...model.compute import Vm
from ...model.document import State
from ...model.firewall import PortAcl
from ...model.network import HostInterface
from ...model.schema import Path, Plain
from ...model.types import show
from ...transports import libvirt as session
from ..linux.authorized_keys import Account, with_line, without_line
from . import checkpoints, disk_images, domain_xml, domains, host_files, migration_relay, port_acl, volumes
from .disk_images import MIB, ImageError
from .file_names import Directories, DiskFile
from .names import mac_address
from .systemd import run_command, systemctl
from .template import read_templates

FOLDER = "/run/bareforge/migrations"
RELAY = "relay.py"
CONNECTIONS = "connections.json"
KEY = "key"
KNOWN_HOSTS = "known_hosts"
# QEMU's own range (qemu.conf: migration_port_min, migration_port_max).
PORTS = range(49152, 49216)
SOCKETS = ("/run/libvirt/virtqemud-sock", "/run/libvirt/libvirt-sock")
HOST_KEYS = "/etc/ssh"
POLL_SECONDS = 0.5
CONNECT_SECONDS = 20
SPARE_SECONDS = 300
"""How much longer than the migration may take the key and the connections last."""

Progress = Optional[Callable[[str], None]]


@dataclasses.dataclass(frozen=True)
class Limits:
    """How a VM is moved.

    timeout: seconds after which it is given up. bandwidth: MiB a second, None for all that there is.
    max_downtime: milliseconds that the guest may stand still at the end, None for QEMU's own (300).
    auto_converge: whether a guest that writes faster than its memory is copied is slowed down.
    full_copy: whether a linked clone becomes a full one, since the other host does not have its template.
    """

    timeout: int = 3600
    bandwidth: Optional[int] = None
    max_downtime: Optional[int] = None
    auto_converge: bool = True
    full_copy: bool = False

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Limits:
        """Return what plain data says."""
        return cls(**{field.name: given[field.name] for field in dataclasses.fields(cls) if field.name in given})


class KvmMigration(Interface):
    """What a KVM host does for a migration: a step each, in the order of the methods."""

    CAPABILITIES = frozenset({"vm_migrate", "vm_migrate.live", "vm_migrate.offline"})

    def __init__(self, platform: Any, where: Optional[Directories] = None) -> None:
        self.platform = platform
        self.where = where or Directories()

    # On the host that has the VM

    def offer(self, name: str) -> Plain:
        """Tell what a VM is, for the host that it is to go to. Nothing is changed.

        Returns `present: false` where there is none; else `vm` (its document), `xml`, `files`, `port_acls` and what else
        :meth:`prepare` needs. A migration of it that still goes on, of a run that was killed, is waited for.
        Raises ValidateError, ReadError.
        """
        with session.translated(_place(name)):
            domain = domains.find(session.connection(), name)
            if domain is not None and os.path.exists(self.where.sending(name)):
                _wait_for_job(domain)
                domain = domains.find(session.connection(), name)
            if domain is None:
                return {"present": False, "left": os.path.exists(self.where.sending(name))}
            return {"present": True, **self._offered(name, domain)}

    def _offered(self, name: str, domain: Any) -> Plain:
        libvirt = session.library()
        vm = self.platform.read(["vm"], {"vm": [name]})["vm"].get((name,))
        if not isinstance(vm, Vm):
            raise ValidateError(
                [Problem(_place(name), "libvirt's domain of this name was not made by this collection")]
            )
        live = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_MIGRATABLE | libvirt.VIR_DOMAIN_XML_SECURE)
        config = domain.XMLDesc(
            libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_MIGRATABLE | libvirt.VIR_DOMAIN_XML_SECURE
        )
        problems = []
        snapshots = sorted(domain.snapshotListNames(0))
        if snapshots:
            problems.append(f"has snapshots, which cannot move with it: {', '.join(snapshots)}; remove them first")
        if domain.hasManagedSaveImage(0):
            problems.append("has a saved state (virsh managedsave), which cannot move with it; start it first")
        if vm.cdrom:
            problems.append(f"has the medium {show(vm.cdrom)} in its drive, which stays here; eject it first")
        if problems:
            raise ValidateError([Problem(_place(name), text) for text in problems])
        acls = self.platform.read(["port_acl"], {"port_acl": [name]})["port_acl"].values()
        paths = domain_xml.disk_paths(live)
        disks = [self._disk(vm, disk, paths[str(disk.name)]) for disk in vm.disks or ()]
        return {
            "vm": vm.to_document(),
            "power": vm.power,
            "xml": live if vm.power != "stopped" else config,
            "config": config,
            "autostart": bool(vm.autostart),
            "disks": disks,
            "files": self._files(name, config, offline=vm.power == "stopped"),
            "port_acls": [acl.to_document() for acl in acls],
            "template": self._template(vm),
        }

    def _disk(self, vm: Vm, disk: Any, path: str) -> Plain:
        size = volumes.size_at(path)
        if size is None:
            raise ValidateError([Problem(_place(str(vm.name)), f"disk {show(disk.name)} cannot be read: {path}")])
        header = None if path.startswith("/dev/") else disk_images.read_qcow2(path)
        linked = header is not None and header.backing is not None
        if header is not None and header.snapshots:
            raise ValidateError(
                [Problem(_place(str(vm.name)), f"disk {show(disk.name)} holds snapshots; remove them first")]
            )
        taken = size if header is None else os.stat(path).st_blocks * 512
        return {"name": disk.name, "pool": disk.pool, "size": size, "taken": taken, "linked": linked}

    def _files(self, name: str, config: str, offline: bool) -> List[Plain]:
        """Return what belongs to a VM beside its disks; what libvirt and QEMU carry over themselves only while it is off."""
        found = []
        if os.path.exists(self.where.seed(name)):
            found.append({"kind": "seed", "name": "", "size": os.path.getsize(self.where.seed(name))})
        if not offline:
            return found
        variables = domain_xml.variables_path(config, self.where)
        if variables and os.path.exists(variables):
            found.append({"kind": "nvram", "name": "", "size": os.path.getsize(variables)})
        if domain_xml.has_tpm(config):
            home = self._tpm_home(config)
            for folder, _folders, names in os.walk(home):
                for entry in sorted(names):
                    path = os.path.join(folder, entry)
                    shown = os.path.relpath(path, home)
                    found.append({"kind": "tpm", "name": shown, "size": os.path.getsize(path)})
        return found

    def _tpm_home(self, config: str) -> str:
        return self.where.tpm_state(str(domain_xml.parse(config).findtext("uuid")))

    def _template(self, vm: Vm) -> Optional[Plain]:
        if not vm.template:
            return None
        template = next((item for item in read_templates(self.where) if item.name == vm.template), None)
        return None if template is None else _identity(template, self.where)

    def begin(self, name: str, identifier: str, timeout: int) -> Plain:
        """Make the key of a migration; return its public half. Raises ApplyError."""
        folder = _folder(identifier)
        disk_images.make_directory(FOLDER, 0o711)
        disk_images.make_directory(folder, 0o700)
        # Of a run that was killed.
        for path in (KEY, f"{KEY}.pub"):
            host_files.remove_file(os.path.join(folder, path))
        run_command(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", _mark(identifier), "-f", os.path.join(folder, KEY)]
        )
        with open(os.path.join(folder, f"{KEY}.pub"), encoding="ascii") as file:
            return {"key": file.read().strip()}

    # On the host that the VM goes to

    def prepare(self, offer: Mapping[str, Any], limits: Limits) -> Plain:
        """Say what speaks against taking a VM, and where. Nothing is changed.

        Returns `address` (of an interface of the role migration, or None), `xml` and `config` as they are to be here.
        Raises ValidateError, ReadError.
        """
        vm = self._vm(offer)
        name = str(vm.name)
        state = self.platform.read(["vm", "virtual_network", "host_interface", "storage_pool"])
        switches = {str(network.name): str(network.switch) for network in state["virtual_network"].values()}
        with session.translated(_place(name)):
            problems = [Problem(_place(name), text) for text in self._objections(vm, offer, limits, state, switches)]
        if problems:
            raise ValidateError(problems)
        files = self._disk_files(offer, state)
        return {
            "address": _migration_address(state),
            "xml": arriving_xml(str(offer["xml"]), switches, files, self.where, limits.full_copy),
            "config": arriving_xml(str(offer["config"]), switches, files, self.where, limits.full_copy),
        }

    def _vm(self, offer: Mapping[str, Any]) -> Vm:
        vm = Vm.parse(dict(offer["vm"]))
        if not isinstance(vm, Vm):
            raise AssertionError("not reached: not isinstance(vm, Vm)")
        return vm

    def _disk_files(self, offer: Mapping[str, Any], pools: State) -> Dict[str, DiskFile]:
        where = dataclasses.replace(self.where, places=self.platform.owner("storage_pool").places(pools))
        return {
            str(disk["name"]): where.disk_file(str(offer["vm"]["name"]), str(disk["name"]), disk["pool"])
            for disk in offer["disks"]
        }

    def _objections(
        self, vm: Vm, offer: Mapping[str, Any], limits: Limits, state: State, switches: Mapping[str, str]
    ) -> Iterator[str]:
        name = str(vm.name)
        connection = session.connection()
        mine = self._received(name) is not None
        if domains.find(connection, name) is not None and not mine:
            yield "there is a VM of this name on the other host"
        macs = {
            nic.mac: other.name
            for other in state["vm"].values()
            if isinstance(other, Vm) and other.name != name
            for nic in other.nics or ()
        }
        for nic in vm.nics or ():
            if nic.network not in switches:
                yield f"NIC {show(nic.name)} needs network {show(nic.network)}, which the other host does not have"
            if nic.mac in macs:
                yield f"the MAC address {nic.mac} of NIC {show(nic.name)} is taken there by VM {show(macs[nic.mac])}"
        for disk in offer["disks"]:
            if disk["pool"] and (disk["pool"],) not in state["storage_pool"]:
                yield f"disk {show(disk['name'])} lies in storage pool {show(disk['pool'])}, which the other host does not have"
        if any(disk["linked"] for disk in offer["disks"]) and not limits.full_copy:
            template = next((item for item in read_templates(self.where) if item.name == vm.template), None)
            here = _identity(template, self.where) if template is not None else None
            if here is None or here != offer["template"]:
                yield (
                    f"is a linked clone of template {show(vm.template)}, and the other host does not have the same one; "
                    "import it there, or say full_copy: true"
                )
        memory = (vm.memory.size if vm.memory is not None else None) or 0
        host = self.platform.owner("vm").host
        if memory > host.memory:
            yield f"has {memory} MiB of memory, more than the {host.memory} MiB of the other host"
        directory = self.where.vm(name)
        if os.path.isdir(directory) and not mine:
            kept = sorted(entry for entry in os.listdir(directory) if entry.endswith(".qcow2"))
            yield f"disks of a VM of this name were kept there in {directory} ({', '.join(kept)}); move them away first"
        needed = sum(disk["taken"] for disk in offer["disks"] if not disk["pool"])
        free = disk_images.free_bytes(self.where.images)
        if needed > free:
            yield f"{-(-needed // MIB)} MiB are needed there in {self.where.images}, and there are {free // MIB} MiB left"

    def _received(self, name: str) -> Optional[Plain]:
        found = host_files.read_json(self.where.receiving(name))
        return found if isinstance(found, dict) else None

    def receive(self, offer: Mapping[str, Any], key: str, identifier: str, limits: Limits) -> Plain:
        """Make room for a VM, and let the other host in with its key, as the user that the controller comes as.

        key: the public one. Returns `user`, `ports`, `host_keys` and `words`.
        Raises ApplyError.
        """
        vm = self._vm(offer)
        name = str(vm.name)
        user = _login_user()
        self.forget(name)
        directory = self.where.vm(name)
        files = self._disk_files(offer, self.platform.read(["storage_pool"]))
        disk_images.make_directory(self.where.images, 0o711)
        disk_images.make_directory(self.where.consoles, 0o755)
        disk_images.make_directory(directory, 0o711)
        host_files.write_json(self.where.receiving(name), {"id": identifier, "user": user})
        with session.translated(_place(name)), host_files.translated(_place(name)):
            try:
                volumes.write_journal(directory, files.values())
                if offer["power"] != "stopped":
                    self._make_disks(vm, offer, files, limits)
                for document in offer["port_acls"]:
                    self._store_acl(vm, PortAcl.parse(dict(document)))
                return self._listen(name, offer, files, key, user, identifier, limits)
            except ImageError as error:
                raise ApplyError(f"{_place(name)}: {error}") from error

    def _make_disks(self, vm: Vm, offer: Mapping[str, Any], files: Mapping[str, DiskFile], limits: Limits) -> None:
        thick = {str(disk.name) for disk in vm.disks or () if disk.provisioning == "thick"}
        for disk in offer["disks"]:
            file = files[str(disk["name"])]
            linked = disk["linked"] and not limits.full_copy
            template = self.where.template_image(str(vm.template)) if linked else None
            volumes.make(file, int(disk["size"]), str(disk["name"]) in thick, template, linked)

    def _store_acl(self, vm: Vm, acl: Any) -> None:
        for nic in vm.nics or ():
            if nic.name == acl.nic:
                port_acl.install_hook()
                mac = nic.mac or mac_address(str(vm.name), str(nic.name))
                port_acl.StoredAcl.made_for(acl, mac).save()

    def _listen(
        self,
        name: str,
        offer: Mapping[str, Any],
        files: Mapping[str, DiskFile],
        key: str,
        user: str,
        identifier: str,
        limits: Limits,
    ) -> Plain:
        account = pwd.getpwnam(user)
        ports = _free_ports(2)
        targets: Dict[str, Plain] = {}
        if offer["power"] == "stopped":
            for number, disk in enumerate(offer["disks"]):
                file = files[str(disk["name"])]
                targets[f"disk-{number}"] = {"file": file.path, "device": file.is_block}
                if file.is_block:
                    volumes.make(file, int(disk["size"]), True)
        else:
            path = next((path for path in SOCKETS if os.path.exists(path)), None)
            if path is None:
                raise ApplyError(f"{_place(name)}: libvirt listens at none of {', '.join(SOCKETS)} on the other host")
            targets = {"libvirt": {"unix": path}, "memory": {"port": ports[0]}, "disks": {"port": ports[1]}}
        for number, entry in enumerate(offer["files"]):
            targets[f"file-{number}"] = {"file": self._target(name, offer, entry)}
        folder = _folder(identifier)
        disk_images.make_directory(FOLDER, 0o711)
        disk_images.make_directory(folder, 0o711)
        connections = [
            {"at": {"unix": os.path.join(folder, f"{word}.sock"), "uid": account.pw_uid}, "to": to}
            for word, to in targets.items()
        ]
        _serve(identifier, connections, limits.timeout + SPARE_SECONDS)
        # OpenSSH before 9.1 takes the time as local time only.
        until = time.strftime("%Y%m%d%H%M", time.localtime(time.time() + limits.timeout + SPARE_SECONDS + 60))
        command = f"/usr/bin/python3 -I {folder}/{RELAY} connect {folder}"
        line = f'restrict,expiry-time="{until}",command="{command}" {" ".join(key.split()[:2])} {_mark(identifier)}'
        with_line(Account(account.pw_uid, account.pw_gid, account.pw_dir), line, _mark(identifier))
        return {"user": user, "ports": ports, "host_keys": _host_keys(), "words": sorted(targets)}

    def _target(self, name: str, offer: Mapping[str, Any], entry: Mapping[str, Any]) -> str:
        if entry["kind"] == "seed":
            return self.where.seed(name)
        if entry["kind"] == "nvram":
            path = domain_xml.variables_path(str(offer["config"]), self.where)
            disk_images.make_directory(self.where.nvram, 0o755)
            return str(path)
        home = self._tpm_home(str(offer["config"]))
        path = os.path.normpath(os.path.join(home, str(entry["name"])))
        if not path.startswith(f"{home}/"):
            raise ApplyError(f"{_place(name)}: {show(entry['name'])} is no file of a TPM")
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        return path

    # On the host that has the VM

    def send(
        self,
        offer: Mapping[str, Any],
        prepared: Mapping[str, Any],
        received: Mapping[str, Any],
        there: Mapping[str, Any],
        identifier: str,
        limits: Limits,
        progress: Progress = None,
    ) -> Plain:
        """Move a VM. there: `user`, `address` and `port` of the other host's SSH server.

        Returns the figures of the migration: `seconds`, `memory` and `disks` in bytes.
        Raises ApplyError. The VM is still here then, and as it was.
        """
        name = str(offer["vm"]["name"])
        folder = _folder(identifier)
        self._connect(received, there, identifier, limits)
        self._note(name, identifier)
        began = time.monotonic()
        with session.translated(f"{_place(name)} cannot be moved"), host_files.translated(_place(name)):
            config = str(offer["config"])
            for number, entry in enumerate(offer["files"]):
                _send_file(os.path.join(folder, f"file-{number}.sock"), self._source(name, config, entry), limits)
            domain = domains.find(session.connection(), name)
            if (domains.power(domain) == "stopped") != (offer["power"] == "stopped"):
                raise ApplyError(f"{_place(name)} is {domains.power(domain)} now, and was {offer['power']}")
            if offer["power"] == "stopped":
                figures = self._send_disks(name, domain, offer, identifier, limits)
            else:
                figures = self._move(name, domain, prepared, received, offer, identifier, limits, progress)
        return {**figures, "seconds": round(time.monotonic() - began, 1)}

    def _note(self, name: str, identifier: str) -> None:
        """Write down that a VM is on its way, and where its disks lie, which nobody knows once libvirt has undefined it."""
        with session.translated(_place(name)):
            domain = domains.find(session.connection(), name)
            if domain is None:
                raise ApplyError(f"{_place(name)} is gone")
            paths = domain_xml.disk_paths(domain.XMLDesc(0)).values()
        directory = self.where.vm(name)
        outside = [path for path in paths if os.path.dirname(path) != directory]
        host_files.write_json(self.where.sending(name), {"id": identifier, "outside": outside})

    def _connect(self, received: Mapping[str, Any], there: Mapping[str, Any], identifier: str, limits: Limits) -> None:
        folder = _folder(identifier)
        alias = _mark(identifier)
        text = "".join(f"{alias} {key}\n" for key in received["host_keys"])
        host_files.write_atomically(os.path.join(folder, KNOWN_HOSTS), text.encode("ascii"), 0o600)
        options = {
            "BatchMode": "yes",
            "IdentitiesOnly": "yes",
            "StrictHostKeyChecking": "yes",
            "UserKnownHostsFile": os.path.join(folder, KNOWN_HOSTS),
            "GlobalKnownHostsFile": "/dev/null",
            "HostKeyAlias": alias,
            "ConnectTimeout": str(CONNECT_SECONDS),
            "ServerAliveInterval": "15",
            "ClearAllForwardings": "yes",
        }
        ssh = ["/usr/bin/ssh", "-F", "none", "-T", "-i", os.path.join(folder, KEY), "-p", str(there["port"])]
        for option, value in options.items():
            ssh += ["-o", f"{option}={value}"]
        ssh += ["-l", str(there["user"]), "--", str(there["address"])]
        connections = []
        for word in received["words"]:
            at: Plain = {"unix": os.path.join(folder, f"{word}.sock"), "uid": 0}
            # QEMU opens the connection for the disks itself, confined, so it is given a port.
            if word in ("memory", "disks"):
                at = {"port": received["ports"][("memory", "disks").index(word)]}
            connections.append({"at": at, "to": {"run": [*ssh, word]}})
        _serve(identifier, connections, limits.timeout + SPARE_SECONDS)

    def _source(self, name: str, config: str, entry: Mapping[str, Any]) -> str:
        if entry["kind"] == "seed":
            return self.where.seed(name)
        if entry["kind"] == "nvram":
            return str(domain_xml.variables_path(config, self.where))
        return os.path.join(self._tpm_home(config), str(entry["name"]))

    def _send_disks(self, name: str, domain: Any, offer: Mapping[str, Any], identifier: str, limits: Limits) -> Plain:
        libvirt = session.library()
        paths = domain_xml.disk_paths(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
        sent = 0
        for number, disk in enumerate(offer["disks"]):
            path = paths[str(disk["name"])]
            at = os.path.join(_folder(identifier), f"disk-{number}.sock")
            if not (disk["linked"] and limits.full_copy):
                sent += _send_file(at, path, limits)
                continue
            whole = os.path.join(self.where.vm(name), f"{disk['name']}.whole.partial")
            try:
                disk_images.convert(path, "qcow2", whole, foreign=False)
                sent += _send_file(at, whole, limits)
            except ImageError as error:
                raise ApplyError(f"{_place(name)}: disk {show(disk['name'])}: {error}") from error
            finally:
                host_files.remove_file(whole)
        return {"memory": 0, "disks": sent}

    def _move(
        self,
        name: str,
        domain: Any,
        prepared: Mapping[str, Any],
        received: Mapping[str, Any],
        offer: Mapping[str, Any],
        identifier: str,
        limits: Limits,
        progress: Progress,
    ) -> Plain:
        libvirt = session.library()
        # What is noted for incremental backups lies in the disks that stay.
        checkpoints.forget_all(domain, [])
        linked = any(disk["linked"] for disk in offer["disks"]) and not limits.full_copy
        flags = (
            libvirt.VIR_MIGRATE_LIVE
            | libvirt.VIR_MIGRATE_PEER2PEER
            | libvirt.VIR_MIGRATE_PERSIST_DEST
            | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE
            | libvirt.VIR_MIGRATE_ABORT_ON_ERROR
            | (libvirt.VIR_MIGRATE_NON_SHARED_INC if linked else libvirt.VIR_MIGRATE_NON_SHARED_DISK)
            | (libvirt.VIR_MIGRATE_AUTO_CONVERGE if limits.auto_converge else 0)
        )
        memory, disks = received["ports"]
        parameters: Dict[str, Any] = {
            libvirt.VIR_MIGRATE_PARAM_URI: f"tcp://127.0.0.1:{memory}",
            libvirt.VIR_MIGRATE_PARAM_LISTEN_ADDRESS: "127.0.0.1",
            libvirt.VIR_MIGRATE_PARAM_DISKS_PORT: disks,
            libvirt.VIR_MIGRATE_PARAM_DEST_XML: prepared["xml"],
            libvirt.VIR_MIGRATE_PARAM_PERSIST_XML: prepared["config"],
        }
        if limits.bandwidth is not None:
            parameters[libvirt.VIR_MIGRATE_PARAM_BANDWIDTH] = limits.bandwidth
        uri = f"qemu+unix:///system?socket={_folder(identifier)}/libvirt.sock"
        if limits.max_downtime is not None:
            domain.migrateSetMaxDowntime(limits.max_downtime, 0)
        moving = _Moving(lambda: domain.migrateToURI3(uri, parameters, flags))
        deadline = time.monotonic() + limits.timeout
        figures: Plain = {"memory": 0, "disks": 0}
        gone_quiet = False
        while moving.is_alive():
            moving.join(POLL_SECONDS)
            with contextlib.suppress(libvirt.libvirtError):
                facts = domain.jobStats(0)
                if facts.get("type", 0):
                    figures["memory"] = max(figures["memory"], facts.get("memory_processed", 0))
                    figures["disks"] = max(figures["disks"], facts.get("disk_processed", 0))
                    if progress is not None:
                        left = facts.get("data_remaining", 0)
                        progress(f"{_place(name)}: {left // MIB} MiB left")
            if time.monotonic() > deadline and not gone_quiet:
                gone_quiet = True
                with contextlib.suppress(libvirt.libvirtError):
                    domain.abortJob()
        if moving.error is not None:
            if gone_quiet:
                raise ApplyError(
                    f"{_place(name)} has not moved within {limits.timeout} s and stays",
                    "Give it a longer timeout, more bandwidth, or a longer max_downtime",
                ) from moving.error
            raise moving.error
        return figures

    # On the host that the VM has come to

    def arrive(self, offer: Mapping[str, Any], prepared: Mapping[str, Any]) -> Plain:
        """Take a VM that was sent while it was off, and show what has come.

        Returns `vm`, its document, and `downtime` in milliseconds, None where it is not known. Raises ApplyError, VerifyError.
        """
        name = str(offer["vm"]["name"])
        with session.translated(_place(name)), host_files.translated(_place(name)):
            connection = session.connection()
            domain = domains.find(connection, name)
            if offer["power"] == "stopped":
                self._own_tpm(str(offer["config"]))
                domain = connection.defineXML(prepared["config"])
            if domain is None:
                raise VerifyError(f"did not take: {_place(name)} is not there")
            if offer["autostart"]:
                domain.setAutostart(True)
            downtime = _downtime(domain) if offer["power"] == "running" else None
        shown = self.platform.read(["vm"], {"vm": [name]})["vm"].get((name,))
        wanted = self._vm(offer)
        if not isinstance(shown, Vm) or shown.power != wanted.power:
            state = shown.power if isinstance(shown, Vm) else "not there"
            raise VerifyError(f"did not take: {_place(name)} is {state}, and it was {wanted.power}")
        return {"vm": shown.to_document(), "downtime": downtime}

    def _own_tpm(self, config: str) -> None:
        from .backup_restore import own_tpm_state

        home = self._tpm_home(config)
        if domain_xml.has_tpm(config) and os.path.isdir(home):
            own_tpm_state(home, self.where.tpms)

    def settle(self, name: str) -> Plain:
        """Say that a VM is here to stay; return its document, or None where it has not come. Raises ApplyError."""
        with session.translated(_place(name)):
            domain = domains.find(session.connection(), name)
        shown = self.platform.read(["vm"], {"vm": [name]})["vm"].get((name,)) if domain is not None else None
        if isinstance(shown, Vm):
            self._end(name)
            volumes.forget_journal(self.where.vm(name))
            host_files.remove_file(self.where.receiving(name))
        return {"vm": shown.to_document() if isinstance(shown, Vm) else None}

    def _end(self, name: str) -> None:
        """Take back the key and the connections of a migration to this host."""
        known = self._received(name)
        if known is None:
            return
        identifier, user = str(known["id"]), str(known["user"])
        with contextlib.suppress(KeyError):
            account = pwd.getpwnam(user)
            without_line(Account(account.pw_uid, account.pw_gid, account.pw_dir), _mark(identifier))
        _stop(identifier)

    def forget(self, name: str) -> None:
        """Remove what is here of a VM that has not come. Nothing is done where none was expected. Raises ApplyError."""
        if self._received(name) is None:
            return
        self._end(name)
        with session.translated(_place(name)), host_files.translated(_place(name)):
            domain = domains.find(session.connection(), name)
            if domain is not None:
                if domain.isActive():
                    raise ApplyError(f"{_place(name)} runs on the other host already")
                domains.undefine(domain, self.where)
            _remove_directory(self.where.vm(name), self.where.receiving(name))
            self.platform.owner("port_acl").recover()

    # On the host that the VM has left

    def release(self, name: str, identifier: str) -> Plain:
        """Take back the connections of a migration that failed. Raises ApplyError.

        What says that a VM is on its way stays where it is here no more: it has moved all the same, and has left its disks.
        """
        for known in sorted({identifier, str((self._sent(name) or {}).get("id"))}):
            _stop(known)
        with session.translated(_place(name)):
            if domains.find(session.connection(), name) is not None:
                host_files.remove_file(self.where.sending(name))
        return {}

    def leave(self, name: str) -> Plain:
        """Remove a VM that the other host has: its definition, its disks, its ACLs. Raises ApplyError."""
        known = self._sent(name)
        if known is None:
            return {}
        with session.translated(_place(name)), host_files.translated(_place(name)):
            domain = domains.find(session.connection(), name)
            if domain is not None:
                if domain.isActive():
                    raise ApplyError(f"{_place(name)} runs here, and it is on the other host too")
                checkpoints.forget_all(domain, [])
            directory = self.where.vm(name)
            volumes.write_journal(directory, [volumes.file_at(str(path)) for path in known["outside"]])
            if domain is not None:
                domains.undefine(domain, self.where)
            _remove_directory(directory, self.where.sending(name))
            _stop(str(known["id"]))
            self.platform.owner("port_acl").recover()
        return {}

    def _sent(self, name: str) -> Optional[Plain]:
        found = host_files.read_json(self.where.sending(name))
        return found if isinstance(found, dict) else None

    def recover(self) -> None:
        """Remove what is here of VMs that have not come, and that nobody sends any more. Raises ApplyError, ReadError."""
        with contextlib.suppress(FileNotFoundError):
            for entry in list(os.scandir(self.where.images)):
                known = self._received(entry.name) if entry.is_dir(follow_symlinks=False) else None
                # The unit's folder is removed with it, by whoever ends the migration; after its deadline, by nobody.
                if known is None or _is_served(str(known.get("id"))):
                    continue
                present = session.read(
                    lambda connection, name=entry.name: domains.find(connection, name) is not None,  # type: ignore[misc]
                    f"{_place(entry.name)} cannot be looked for",
                )
                if not present:
                    self.forget(entry.name)

    # Whatever the controller asks for

    def step(self, request: Mapping[str, Any], progress: Progress = None) -> Plain:
        """Do one step, given as plain data by the controller: `step` and its arguments. Raises what the step raises."""
        step, name = str(request["step"]), str(request["name"])
        identifier = str(request.get("id") or "")
        limits = Limits.of(request.get("limits") or {})
        if identifier and not _is_identifier(identifier):
            raise ValidateError([Problem("id", f"{show(identifier)} is not allowed")])
        if step == "offer":
            return self.offer(name)
        if step == "prepare":
            return self.prepare(request["offer"], limits)
        with self.platform.lock():
            self.platform.recover()
            if step == "begin":
                return self.begin(name, identifier, limits.timeout)
            if step == "receive":
                return self.receive(request["offer"], request["key"], identifier, limits)
            if step == "send":
                return self.send(
                    request["offer"],
                    request["prepared"],
                    request["received"],
                    request["there"],
                    identifier,
                    limits,
                    progress,
                )
            if step == "arrive":
                return self.arrive(request["offer"], request["prepared"])
            if step == "settle":
                return self.settle(name)
            if step == "forget":
                self.forget(name)
                return {}
            if step == "leave":
                return self.leave(name)
            if step == "release":
                return self.release(name, identifier)
        raise NotSupportedError([Problem("step", f"there is no step {show(step)}")])


def _remove_directory(directory: str, mark: str) -> None:
    """Remove a VM's disks; its mark goes last, so that a run that is killed here is finished by the next."""
    volumes.clean_up(directory, whole=False)
    for entry in list(os.scandir(directory)):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        elif entry.path != mark:
            os.unlink(entry.path)
    shutil.rmtree(directory)


class _Moving(threading.Thread):
    """A call of libvirt that lasts, in a thread of its own."""

    def __init__(self, call: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self.call = call
        self.error: Optional[BaseException] = None
        self.start()

    def run(self) -> None:
        try:
            self.call()
        except BaseException as error:  # noqa: BLE001 - it is raised again by whoever waits
            self.error = error


def arriving_xml(
    source: str, switches: Mapping[str, str], files: Mapping[str, DiskFile], where: Directories, full_copy: bool
) -> str:
    """Return the XML of a VM as it is on the host that it goes to.

    source: on the host that it comes from. switches: the switch of each network there.
    files: what each disk is there. full_copy: whether it is no linked clone any more.
    """
    domain = domain_xml.parse(source)
    for element in domain.findall("devices/disk"):
        for backing in element.findall("backingStore"):
            element.remove(backing)
        place, file = element.find("source"), files.get(domain_xml.disk_of(element) or "")
        if place is not None and file is not None:
            for attribute in ("file", "dev"):
                place.attrib.pop(attribute, None)
            element.set("type", "block" if file.is_block else "file")
            place.set("dev" if file.is_block else "file", file.path)
    domain_xml.settle_on_host(domain, switches, where)
    if full_copy:
        domain_xml.say_full_clone(domain)
    return domain_xml.to_text(domain)


def _migration_address(state: State) -> Optional[str]:
    """Return the address that is kept for migrations, None where there is none."""
    for interface in state["host_interface"].values():
        if isinstance(interface, HostInterface) and "migration" in (interface.roles or ()):
            for address in interface.addresses or ():
                return str(address).partition("/")[0]
    return None


def _place(name: str) -> str:
    return Path("vm").item(name).text


def _mark(identifier: str) -> str:
    return f"bareforge-migration-{identifier}"


def _is_identifier(text: str) -> bool:
    return len(text) == 32 and all(c in "0123456789abcdef" for c in text)


def new_identifier() -> str:
    """Return what one migration is known by on both hosts."""
    return secrets.token_hex(16)


def _folder(identifier: str) -> str:
    if not _is_identifier(identifier):
        raise ApplyError(f"{show(identifier)} is no identifier of a migration")
    return os.path.join(FOLDER, identifier)


def _identity(template: Any, where: Directories) -> Optional[Plain]:
    """Return what two templates must have in common for their linked clones to be alike; None where that cannot be known.

    Without the checksum of what it was made from, one image of the same size is not told from another.
    """
    path = where.template_image(str(template.name))
    header = disk_images.read_qcow2(path) if os.path.exists(path) else None
    if header is None or not template.checksum:
        return None
    return {
        "name": template.name,
        "checksum": template.checksum,
        "size": header.size,
        "bytes": os.path.getsize(path),
    }


def _login_user() -> str:
    """Return the user that has come to this host, who may have become root by sudo or doas since."""
    for name in ("SUDO_USER", "DOAS_USER"):
        if os.environ.get(name):
            return os.environ[name]
    return pwd.getpwuid(os.getuid()).pw_name


def _wait_for_job(domain: Any) -> None:
    """Wait until a migration that another run has started, and that was killed meanwhile, has come to its end."""
    libvirt = session.library()
    with contextlib.suppress(libvirt.libvirtError):
        while domain.isActive() and domain.jobStats(0).get("type", 0):
            time.sleep(POLL_SECONDS)


def _downtime(domain: Any) -> Optional[int]:
    """Return how long the guest stood still, in milliseconds; the host that it has left knows of it no more."""
    libvirt = session.library()
    with contextlib.suppress(libvirt.libvirtError):
        return domain.jobStats(libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED).get("downtime")
    return None


def _host_keys() -> List[str]:
    """Return the public keys of this host's SSH server, without their comments."""
    found = []
    for entry in sorted(os.listdir(HOST_KEYS)):
        if entry.startswith("ssh_host_") and entry.endswith("_key.pub"):
            with open(os.path.join(HOST_KEYS, entry), encoding="ascii", errors="replace") as file:
                found.append(" ".join(file.read().split()[:2]))
    if not found:
        raise ApplyError(f"there are no keys of an SSH server in {HOST_KEYS}")
    return found


def _free_ports(count: int) -> List[int]:
    found: List[int] = []
    for port in PORTS:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise ApplyError(f"no two ports of {PORTS.start} to {PORTS.stop - 1} are free on the other host")


def _unit(identifier: str) -> str:
    return f"{_mark(identifier)}.service"


def _serve(identifier: str, connections: Sequence[Plain], seconds: int) -> None:
    """Let systemd carry connections for so many seconds at most."""
    folder = _folder(identifier)
    host_files.write_atomically(os.path.join(folder, RELAY), host_files.source_of(migration_relay), 0o644)
    host_files.write_json(os.path.join(folder, CONNECTIONS), list(connections))
    run_command(
        [
            "systemd-run",
            "--quiet",
            "--collect",
            f"--unit={_unit(identifier)}",
            "--service-type=notify",
            f"--property=RuntimeMaxSec={seconds}",
            "--",
            "/usr/bin/python3",
            "-I",
            os.path.join(folder, RELAY),
            "serve",
            os.path.join(folder, CONNECTIONS),
        ]
    )


def _is_served(identifier: str) -> bool:
    if not _is_identifier(identifier):
        return False
    return run_command(["systemctl", "show", "--property=ActiveState", "--value", _unit(identifier)]).strip() in (
        "active",
        "activating",
    )


def _stop(identifier: str) -> None:
    if not _is_identifier(identifier):
        return
    with contextlib.suppress(ApplyError):
        systemctl("stop", _unit(identifier))
    shutil.rmtree(_folder(identifier), ignore_errors=True)


def _send_file(at: str, path: str, limits: Limits) -> int:
    """Send a file or a device through a connection, and return its size. Raises ApplyError where it has not come whole."""
    with open(path, "rb") as file, socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(limits.timeout)
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        try:
            connection.connect(at)
            connection.sendall(size.to_bytes(8, "big"))
            connection.sendfile(file)
            connection.shutdown(socket.SHUT_WR)
            answer = connection.recv(5, socket.MSG_WAITALL)
        except OSError as error:
            raise ApplyError(f"{path} could not be sent: {error.strerror or error}") from error
    if answer != b"whole":
        raise ApplyError(
            f"{path} has not come to the other host whole", "See whether it can be reached by SSH from here"
        )
    return size
