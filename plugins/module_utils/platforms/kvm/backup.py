# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Backups of VMs on a KVM host, in a directory.

A VM that runs is copied by QEMU itself (virDomainBackupBegin, push mode), one that is off by QEMU's storage daemon: in
either case all disks as they are at one moment. What a run is doing stands in a file of its own until it is done, so
that the run after one that was killed ends the copying, lets a frozen guest go on, and leaves no half backup.

Source: libvirt, "Backup XML format" and "Checkpoint XML format".
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import shutil
import socket
import time
import uuid
from typing import Any, Callable, Collection, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple
from xml.etree import ElementTree

from ...engine.change import Change
from ...engine.platform import Context, Interface
from ...errors import ApplyError, BareforgeError, Problem, ReadError, ValidateError, one_line
from ...model.compute import Backup, Vm
from ...model.document import Key, State
from ...model.operation import Operation
from ...model.schema import ModelObject, Plain
from ...model.types import AbsolutePath, show
from ...transports import libvirt as session
from . import block_copy, checkpoints, disk_images, domain_xml, domains, host_facts
from .backup_catalogue import (
    ChainError,
    Entry,
    KnownTargets,
    StoredFile,
    Target,
    backing_name,
    checksum,
    describe,
    expired,
)
from .backup_restore import Order, Restoring
from .disk_images import MIB, ImageError
from .file_names import Directories, name_problem
from .host_files import remove_file, translated, write_json

POLL_SECONDS = 0.3
PROGRESS_SECONDS = 5.0
AGENT_SECONDS = 30
ABORT_SECONDS = 60.0
PATH_CHARACTERS = "/._+-"
BACKUP_MODE = 0o600
ALLOWED_FULL = "allowed is mode: full"
BROKEN_NOTES = "Where what was noted of changes is broken, as after a crash of the host, say mode: full"


@dataclasses.dataclass(frozen=True)
class Source:
    """A disk of a VM that is copied: its name in the VM, its name on the bus, its image."""

    name: str
    target: str
    path: str


class KvmBackups(Interface):
    """Backups in directories, with a catalogue in each."""

    KINDS = ("backup",)
    CAPABILITIES = frozenset({"backup", "backup.mode.full", "backup.mode.incremental"})

    def __init__(self, platform: Any, where: Optional[Directories] = None) -> None:
        self.platform = platform
        self.where = where or Directories()
        self._named: List[str] = []

    @property
    def known(self) -> KnownTargets:
        """The targets that this host knows of."""
        return KnownTargets(self.where.backups)

    def look_in(self, target: str) -> None:
        """Read the catalogue in a directory too, whether or not this host has ever made a backup there."""
        if target not in self._named:
            self._named.append(target)

    # What is there

    def read(self, kinds: Collection[str], names: Mapping[str, Collection[str]]) -> State:
        wanted = set(names["backup"]) if "backup" in names else None
        found: Dict[Key, ModelObject] = {}
        # Whoever asks for all of them, to remove a VM perhaps, is not kept from it by one that is damaged.
        for target, entry in self.entries(wanted, skip_damaged=wanted is None):
            found[entry.vm, entry.name] = entry.to_backup(target.path)
        return {"backup": found}

    def entries(self, vms: Optional[Collection[str]] = None, skip_damaged: bool = False) -> List[Tuple[Target, Entry]]:
        """Return the backups in all known targets, those of each VM and target from the oldest on.

        vms: the VMs whose backups are wanted; all where None.
        skip_damaged: whether an entry that cannot be read, or that is in two targets, is left out.
        Raises ReadError, also where two targets hold a backup of the same VM and name.
        """
        found: Dict[Tuple[str, str], Tuple[Target, Entry]] = {}
        for path in dict.fromkeys([*self._named, *sorted(self.known.read())]):
            target = Target(path)
            if target.identity() is None:
                continue  # not mounted; `validate` refuses to begin another catalogue there
            there = target.vms()
            for vm in sorted(there if vms is None else set(vms) & set(there)):
                for entry in target.entries(vm, skip_damaged):
                    other = found.setdefault((entry.vm, entry.name), (target, entry))[0]
                    named = path in self._named or other.path in self._named
                    if other is not target and not named and not skip_damaged:
                        raise ReadError(
                            f"backup {show(entry.name)} of VM {show(vm)} is in {other.path} and in {path}",
                            "Name the one that is meant as target, or move the other away",
                        )
        return list(found.values())

    def describe(self, vm: Optional[str] = None) -> List[Dict[str, Any]]:
        """Return what the catalogues say of the backups, for the user. Raises ReadError."""
        return [describe(target.path, entry) for target, entry in self.entries({vm} if vm is not None else None)]

    def expired(self, coming: Backup, keep: int) -> List[str]:
        """Return the names of the backups of a VM that go with a new one, where only the last ones are kept.

        coming: the one that is about to be made, or is there. Raises ReadError.
        """
        target = Target(str(coming.target))
        entries = target.entries(str(coming.vm)) if target.identity() is not None else []
        return expired(entries, keep, str(coming.name), coming.mode or "full")

    # What speaks against it

    def validate(self, change: Change, context: Context) -> Iterable[Problem]:
        backup = change.item
        if not isinstance(backup, Backup):
            raise AssertionError("not reached: not isinstance(backup, Backup)")
        if change.after is None:
            yield from self._validate_removal(backup, context)
        elif change.before is None:
            problems = list(self._validate_names(backup))
            yield from problems
            if not problems:
                yield from self._validate_target(backup)
                vm = context.find("vm", backup.vm)
                if isinstance(vm, Vm):
                    yield from self._validate_vm(backup, vm, context)

    def _validate_names(self, backup: Backup) -> Iterator[Problem]:
        for name in ("vm", "name"):
            problem = name_problem(str(getattr(backup, name)))
            if problem:
                yield Problem(backup.place.field(name).text, f"{show(getattr(backup, name))} {problem}")
        problem = path_problem(str(backup.target))
        if problem:
            yield Problem(backup.place.field("target").text, problem)

    def _validate_target(self, backup: Backup) -> Iterator[Problem]:
        target = Target(str(backup.target))
        place = backup.place.field("target").text
        problem = directory_problem(target.path)
        if problem:
            yield Problem(place, problem)
            return
        if target.identity() is None:
            if target.path in self.known.read():
                yield Problem(
                    place,
                    f"{target.path} held a catalogue of backups that is not there now; is its file system mounted? "
                    f"To begin another one there, remove {target.path} from {self.known.folder}/targets.json",
                )
            return
        there = next((entry for entry in target.entries(str(backup.vm)) if entry.name == backup.name), None)
        if there is not None:
            yield Problem(
                place, f"{target.path} holds a backup of that name already, which was made on host {show(there.host)}"
            )

    def _validate_vm(self, backup: Backup, vm: Vm, context: Context) -> Iterator[Problem]:
        place = backup.place

        def ask(connection: Any) -> Optional[Tuple[str, List[str], List[str]]]:
            domain = domains.find(connection, str(vm.name))
            if domain is None:
                return None
            return domain.XMLDesc(0), checkpoints.names(domain), list(domain.snapshotListNames(0))

        known = session.read(ask, f"VM {show(vm.name)} cannot be looked at")
        if known is None:
            # It is made in this very run.
            if backup.mode == "incremental":
                yield Problem(place.field("mode").text, f"VM {show(vm.name)} has no backup yet; {ALLOWED_FULL}")
            return
        xml, marks, snapshots = known
        sources, foreign = disks_of(xml)
        if not sources:
            yield Problem(place.field("vm").text, f"VM {show(vm.name)} has no disk that could be copied")
        for name in foreign:
            yield Problem(
                place.field("vm").text,
                f"VM {show(vm.name)} has the disk {show(name)}, which is no qcow2 file and would be left out",
            )
        for source in sources:
            if source.path != self.where.disk(str(vm.name), source.name):
                yield Problem(
                    place.field("vm").text,
                    f"disk {show(source.name)} of VM {show(vm.name)} lies in {source.path}; allowed are disks outside of "
                    "storage pools",
                )
        if backup.quiesce:
            present = context.before.get("vm", {}).get((vm.name,))
            power = present.power if isinstance(present, Vm) else None
            if power != "running":
                yield Problem(place.field("quiesce").text, f"VM {show(vm.name)} is {power}, so nothing can be frozen")
            elif not has_agent(xml):
                yield Problem(
                    place.field("quiesce").text,
                    f"the guest agent of VM {show(vm.name)} is not connected to its channel",
                )
        if backup.mode == "incremental":
            problem = self._why_not_incremental(backup, marks, snapshots)
            if problem:
                yield Problem(place.field("mode").text, f"{problem}; {ALLOWED_FULL}")
        else:
            if snapshots:
                context.warn(
                    f"{place.text}: VM {show(vm.name)} has snapshots, so no incremental backup can build on this one"
                )
            yield from self._validate_space(backup, sources)

    def _why_not_incremental(self, backup: Backup, marks: Sequence[str], snapshots: Sequence[str]) -> Optional[str]:
        """Return why a backup cannot build on the one before, or None."""
        target = Target(str(backup.target))
        entries = target.entries(str(backup.vm))
        if not entries:
            return f"VM {show(backup.vm)} has no backup in {target.path} that it could build on"
        try:
            target.check_chain(target.chain(entries[-1], entries), checksums=False)
        except ChainError as error:
            return f"the backup before, {show(entries[-1].name)}, is not whole: {error}"
        if entries[-1].checkpoint not in marks:
            because = " (a snapshot has been taken since)" if snapshots else ""
            return (
                f"what has changed since the backup before, {show(entries[-1].name)}, was not noted: libvirt has no "
                f"checkpoint of it{because}"
            )
        return None

    def _validate_space(self, backup: Backup, sources: Sequence[Source]) -> Iterator[Problem]:
        try:
            needed = sum(disk_images.measure(source.path) for source in sources)
        except ImageError as error:
            yield Problem(backup.place.field("vm").text, f"a disk of VM {show(backup.vm)} cannot be read: {error}")
            return
        free = disk_images.free_bytes(str(backup.target))
        if needed > free:
            yield Problem(
                backup.place.field("target").text,
                f"{-(-needed // MIB)} MiB are needed in {backup.target}, and there are {free // MIB} MiB left",
            )

    def _validate_removal(self, backup: Backup, context: Context) -> Iterator[Problem]:
        staying = {key for key in context.wanted.get("backup", {}) if key[0] == backup.vm}
        for entry in Target(str(backup.target)).entries(str(backup.vm)):
            if entry.parent == backup.name and (entry.vm, entry.name) in staying:
                yield Problem(
                    backup.place.text,
                    f"cannot go, since the incremental backup {show(entry.name)} builds on it; remove that first",
                )

    # Making and removing them

    def apply(self, changes: Sequence[Change], context: Context) -> None:
        # One after the other: they share the target. Of those that go the newest goes first, since none must be left
        # that builds on what is gone.
        order = {
            (entry.vm, entry.name): entry.number
            for _target, entry in self.entries({str(change.key[0]) for change in changes})
        }
        making = [change for change in changes if change.after is not None]
        going = [change for change in changes if change.after is None]
        for change in making + sorted(going, key=lambda change: -order.get(change.key, 0)):
            backup = change.item
            if not isinstance(backup, Backup):
                raise AssertionError("not reached: not isinstance(backup, Backup)")
            context.begin(change)
            try:
                with session.translated(backup.place.text), translated(backup.place.text):
                    if change.after is None:
                        self._remove(backup)
                    elif change.before is None:
                        _Making(self, backup, context).run()
                    else:
                        raise ApplyError(f"{backup.place.text}: {', '.join(change.fields)} cannot be changed")
            except (ImageError, ChainError) as error:
                raise ApplyError(f"{backup.place.text}: {error}") from error
            context.done(change)

    def restore(
        self,
        key: Tuple[str, str],
        new_name: Optional[str],
        power: Optional[str],
        operation: Operation,
        check: bool = False,
        progress: Optional[Callable[[str], None]] = None,
    ) -> Plain:
        """Bring a VM back from a backup and return the task's result.

        key: the VM and the name of the backup. new_name, power: as in :class:`backup_restore.Order`.
        Raises ValidateError before anything is touched, ReadError, ApplyError, VerifyError.
        """
        there = self.entries({key[0]})
        found = next(((target, entry) for target, entry in there if entry.name == key[1]), None)
        if found is None:
            names = ", ".join(show(entry.name) for _target, entry in there) or "none"
            raise ValidateError(
                [Problem("name", f"VM {show(key[0])} has no backup {show(key[1])}; there are: {names}")]
            )
        order = Order(found[0], found[1], found[0].entries(key[0]), new_name, power)
        return Restoring(self.platform, self.where).restore(order, operation, check, progress)

    def _remove(self, backup: Backup) -> None:
        target = Target(str(backup.target))
        vm, name = str(backup.vm), str(backup.name)
        entry = next((entry for entry in target.entries(vm) if entry.name == name), None)
        if entry is None:
            return
        job = {"action": "remove", "vm": vm, "name": name, "target": target.path, "checkpoint": entry.checkpoint}
        write_json(self.known.job_path(vm), job)
        self._finish_removal(job)

    def _finish_removal(self, job: Mapping[str, Any]) -> None:
        target = Target(str(job["target"]))
        target.remove(str(job["vm"]), str(job["name"]))
        self.remove_checkpoints(str(job["vm"]), [job["checkpoint"]] if job.get("checkpoint") else [])
        target.clean(str(job["vm"]))
        remove_file(self.known.job_path(str(job["vm"])))

    def remove_checkpoints(self, vm: str, names: Sequence[str]) -> None:
        """Remove checkpoints of a VM, where there is such a VM. libvirt's exceptions pass."""
        domain = domains.find(session.connection(), vm) if names else None
        if domain is not None:
            sources, _foreign = disks_of(domain.XMLDesc(0))
            checkpoints.remove(domain, names, [source.path for source in sources])

    # After a run that was killed

    def recover(self) -> None:
        """End or finish what a killed run was doing. Raises ApplyError, ReadError."""
        for job in self.known.jobs():
            vm = show(job["vm"])
            what = f"what a killed run has left of VM {vm} cannot be cleared away"
            with session.translated(f"VM {vm} cannot be looked at"), translated(what):
                if job["action"] == "backup":
                    self._recover_backup(job)
                elif job["action"] == "remove":
                    self._finish_removal(job)
                else:
                    Restoring(self.platform, self.where).recover(job)

    def _recover_backup(self, job: Mapping[str, Any]) -> None:
        target = Target(str(job["target"]))
        entries = target.entries(str(job["vm"]))
        if any(entry.id == job["id"] for entry in entries):
            self.settle(target, str(job["vm"]), job)
        else:
            self.abandon(job)

    def abandon(self, job: Mapping[str, Any]) -> None:
        """Take back a backup that was not finished. libvirt's exceptions pass; OSError."""
        vm, name = str(job["vm"]), str(job["name"])
        target = Target(str(job["target"]))
        domain = domains.find(session.connection(), vm)
        if domain is not None:
            if job.get("frozen"):
                thaw(domain)
            stop_copying(domain, target.partial(vm, name))
            self.remove_checkpoints(vm, [str(job["checkpoint"])])
        shutil.rmtree(target.partial(vm, name), ignore_errors=True)
        target.clean(vm)
        remove_file(self.known.job_path(vm))

    def settle(self, target: Target, vm: str, job: Mapping[str, Any]) -> None:
        """Do what comes after a backup has its name: what was noted since earlier ones is not needed any more."""
        earlier = [entry.checkpoint for entry in target.entries(vm) if entry.checkpoint and entry.id != job["id"]]
        self.remove_checkpoints(vm, earlier)
        remove_file(self.known.job_path(vm))


class _Making:
    """Making one backup."""

    def __init__(self, interface: KvmBackups, backup: Backup, context: Context) -> None:
        self.interface = interface
        self.backup = backup
        self.context = context
        self.vm, self.name = str(backup.vm), str(backup.name)
        self.place = backup.place.text
        self.target = Target(str(backup.target))
        self.id = str(uuid.uuid4())
        self.partial = self.target.partial(self.vm, self.name)
        self.job: Dict[str, Any] = {
            "action": "backup",
            "vm": self.vm,
            "name": self.name,
            "target": self.target.path,
            "id": self.id,
            "checkpoint": checkpoints.name_of(self.id),
            "frozen": False,
        }
        self._told = time.monotonic()

    def run(self) -> None:
        """Make it. Whatever breaks it off, nothing is left of it."""
        domain = domains.find(session.connection(), self.vm)
        if domain is None:
            raise ApplyError(f"{self.place}: there is no VM {show(self.vm)}")
        entries = self.target.entries(self.vm)
        parent = entries[-1] if self.backup.mode == "incremental" and entries else None
        self.interface.known.add(self.target.path, self.target.prepare())
        disk_images.make_directory(self.target.vm(self.vm), 0o711)
        self.target.clean(self.vm)
        disk_images.make_directory(self.target.vm(self.vm), 0o711)
        self._note()
        try:
            # QEMU, which runs as another user, must be able to pass through while it writes.
            disk_images.make_directory(self.partial, 0o711)
            self._make(domain, parent, entries)
        except BaseException as error:
            reason = self._with_space(error)
            with contextlib.suppress(session.library().libvirtError):
                self.interface.abandon(self.job)
            if reason is not None:
                raise reason from error
            raise
        self.interface.settle(self.target, self.vm, self.job)

    def _note(self) -> None:
        write_json(self.interface.known.job_path(self.vm), self.job)

    def _with_space(self, error: BaseException) -> Optional[BareforgeError]:
        """Return an error that names the sizes where the target has become full, or None."""
        text = error.message if isinstance(error, BareforgeError) else str(error)
        if "No space left" not in text and "ENOSPC" not in text:
            return None
        written = sum(
            os.stat(os.path.join(folder, name)).st_blocks * 512
            for folder, _folders, names in os.walk(self.partial)
            for name in names
        )
        usage = os.statvfs(self.target.path)
        return ApplyError(
            f"{self.place}: {self.target.path} has become full: it has {usage.f_blocks * usage.f_frsize // MIB} MiB, of "
            f"which {usage.f_bavail * usage.f_frsize // MIB} MiB are left after {written // MIB} MiB of the backup; what "
            "was written of it has been removed"
        )

    def _make(self, domain: Any, parent: Optional[Entry], entries: Sequence[Entry]) -> None:
        libvirt = session.library()
        power = domains.power(domain)
        live = domain.XMLDesc(0)
        config = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE)
        sources, _foreign = disks_of(live)
        marked = not domain.snapshotListNames(0)
        before = {disk.name for disk in parent.disks()} if parent is not None else set()
        since = {source.name: str(parent.checkpoint) for source in sources if parent and source.name in before}
        if power == "stopped":
            self._copy_stopped(domain, sources, since, marked)
        else:
            self._copy_running(domain, sources, since, marked)
        self.context.progress(f"{self.place}: computing checksums")
        files = [self._disk_file(source, parent if source.name in since else None) for source in sources]
        files.extend(self._further_files(config))
        entry = Entry(
            vm=self.vm,
            name=self.name,
            id=self.id,
            number=max([entry.number for entry in entries], default=0) + 1,
            mode=str(self.backup.mode),
            quiesce=bool(self.backup.quiesce),
            created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            host=socket.gethostname(),
            uuid=domain.UUIDString(),
            power=power,
            autostart=bool(domain.autostart()),
            parent=parent.name if parent is not None else None,
            parent_id=parent.id if parent is not None else None,
            checkpoint=str(self.job["checkpoint"]) if marked else None,
            tools=_tools(),
            files=tuple(files),
        )
        self.target.finish(entry)

    def _path(self, source: Source) -> str:
        return os.path.join(self.partial, f"{source.name}.qcow2")

    # A VM that is off

    def _copy_stopped(self, domain: Any, sources: Sequence[Source], since: Mapping[str, str], marked: bool) -> None:
        mark = str(self.job["checkpoint"])
        try:
            block_copy.copy_disks(
                [block_copy.DiskCopy(source.path, self._path(source), since.get(source.name)) for source in sources],
                mark if marked else None,
                self._progress,
            )
        except ImageError as error:
            raise ApplyError(f"{self.place}: {error}", BROKEN_NOTES if since else None) from error
        if marked:
            checkpoints.tell(domain, mark, self._description(), [source.target for source in sources])

    def _description(self) -> str:
        return f"{self.vm}/{self.name} in {self.target.path}"

    # A VM that runs

    def _copy_running(self, domain: Any, sources: Sequence[Source], since: Mapping[str, str], marked: bool) -> None:
        mark = None
        if marked:
            targets = [source.target for source in sources]
            mark = checkpoints.to_xml(str(self.job["checkpoint"]), self._description(), targets)
        xml = backup_xml([(source, self._path(source)) for source in sources], since)
        if self.backup.quiesce:
            self._freeze(domain)
        try:
            domain.backupBegin(xml, mark, 0)
        except session.library().libvirtError as error:
            if not since:
                raise
            reason = one_line(error.get_error_message() or str(error))
            raise ApplyError(f"{self.place}: {reason}", BROKEN_NOTES) from error
        finally:
            if self.job["frozen"]:
                thaw(domain)
                self.job["frozen"] = False
                self._note()
        self._wait(domain)

    def _freeze(self, domain: Any) -> None:
        libvirt = session.library()
        # Written before, so that a guest whose run was killed in between does not stand still for ever.
        self.job["frozen"] = True
        self._note()
        try:
            domain.agentSetResponseTimeout(AGENT_SECONDS, 0)
            frozen = domain.fsFreeze(None, 0)
        except libvirt.libvirtError as error:
            raise ApplyError(
                f"{self.place}: the file systems of VM {show(self.vm)} cannot be frozen: "
                f"{one_line(error.get_error_message() or str(error))}",
                "See whether the guest's agent runs (qemu-guest-agent), or say quiesce: false",
            ) from error
        self.context.progress(f"{self.place}: {frozen} file systems of the guest are frozen")

    def _wait(self, domain: Any) -> None:
        libvirt = session.library()
        while True:
            try:
                facts = domain.jobStats(0)
                if facts.get("type") == libvirt.VIR_DOMAIN_JOB_NONE:
                    break
            except libvirt.libvirtError as error:
                raise self._broken_off(domain) or error from error
            self._progress(int(facts.get("disk_processed", 0)), max(1, int(facts.get("disk_total", 0))))
            time.sleep(POLL_SECONDS)
        try:
            facts = domain.jobStats(libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED)
        except libvirt.libvirtError as error:
            raise self._broken_off(domain) or error from error
        backup_job = getattr(libvirt, "VIR_DOMAIN_JOB_OPERATION_BACKUP", 9)
        if facts.get("type") == libvirt.VIR_DOMAIN_JOB_COMPLETED and facts.get("operation") == backup_job:
            return
        reason = one_line(str(facts.get("errmsg") or "it was cancelled"))
        raise self._broken_off(domain) or ApplyError(f"{self.place}: QEMU has not finished copying: {reason}")

    def _broken_off(self, domain: Any) -> Optional[ApplyError]:
        """Return the error for a VM that has ended meanwhile, or None."""
        found = domains.find(session.connection(), self.vm)
        if found is None:
            return ApplyError(f"{self.place}: VM {show(self.vm)} was removed while it was copied")
        if not found.isActive():
            return ApplyError(f"{self.place}: VM {show(self.vm)} has stopped while it was copied; run it again")
        return None

    def _progress(self, done: int, total: int) -> None:
        if time.monotonic() - self._told >= PROGRESS_SECONDS:
            self._told = time.monotonic()
            self.context.progress(f"{self.place}: {done // MIB} of {total // MIB} MiB ({done * 100 // total} %)")

    # What it consists of

    def _disk_file(self, source: Source, parent: Optional[Entry]) -> StoredFile:
        path = self._path(source)
        os.chown(path, 0, 0)
        os.chmod(path, BACKUP_MODE)
        if parent is not None:
            before = next(disk for disk in parent.disks() if disk.name == source.name)
            backing = backing_name(parent.name, before.file)
            disk_images.run_tool(["qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", backing, "--", path])
        header = disk_images.read_qcow2(path)
        if header is None:
            raise ImageError(f"{path} is no qcow2 image")
        return StoredFile(
            kind="disk",
            file=os.path.basename(path),
            size=os.stat(path).st_size,
            sha256=checksum(path),
            name=source.name,
            virtual_size=header.size,
            target=source.target,
            builds_on=parent is not None,
        )

    def _further_files(self, config: str) -> Iterator[StoredFile]:
        """Copy what belongs to a VM beside its disks: its description, its seed, what its firmware and its TPM keep."""
        yield self._write("domain", "domain.xml", config.encode("utf-8"))
        where = self.interface.where
        seed = where.seed(self.vm)
        if os.path.exists(seed):
            yield self._copy("seed", seed, "seed.iso")
        variables = domain_xml.variables_path(config, where)
        if variables and os.path.exists(variables):
            yield self._copy("nvram", variables, "nvram.fd")
        root = domain_xml.parse(config)
        if root.find("devices/tpm") is not None:
            folder = os.path.join(where.tpms, str(root.findtext("uuid")))
            for directory, _folders, names in sorted(os.walk(folder)):
                for name in sorted(names):
                    path = os.path.join(directory, name)
                    if not name.startswith("."):
                        yield self._copy("tpm", path, os.path.join("tpm", os.path.relpath(path, folder)))

    def _copy(self, kind: str, source: str, file: str) -> StoredFile:
        with open(source, "rb") as stream:
            return self._write(kind, file, stream.read())

    def _write(self, kind: str, file: str, content: bytes) -> StoredFile:
        path = os.path.join(self.partial, file)
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, BACKUP_MODE)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
        return StoredFile(kind=kind, file=file, size=len(content), sha256=checksum(path))


def _tools() -> Dict[str, str]:
    connection = session.connection()
    return {
        "libvirt": host_facts.version(connection.getLibVersion()),
        "qemu": host_facts.version(connection.getVersion()),
    }


def thaw(domain: Any) -> None:
    """Let the file systems of a guest go on; a guest that has ended or has no agent any more needs none."""
    libvirt = session.library()
    with contextlib.suppress(libvirt.libvirtError):
        domain.agentSetResponseTimeout(AGENT_SECONDS, 0)
        domain.fsThaw(None, 0)


def stop_copying(domain: Any, folder: str) -> None:
    """End a backup job of QEMU's that writes into a folder, if there is one. libvirt's exceptions pass."""
    libvirt = session.library()
    deadline = time.monotonic() + ABORT_SECONDS
    while domain.isActive():
        try:
            xml = domain.backupGetXMLDesc(0)
        except libvirt.libvirtError:
            return  # there is none
        files = {str(source.get("file")) for source in domain_xml.parse(xml).iterfind("disks/disk/target")}
        if not any(os.path.dirname(file) == folder for file in files) or time.monotonic() > deadline:
            return
        with contextlib.suppress(libvirt.libvirtError):
            domain.abortJob()
        time.sleep(POLL_SECONDS)


def backup_xml(disks: Sequence[Tuple[Source, str]], since: Mapping[str, str]) -> str:
    """Return the XML by which libvirt copies disks in push mode.

    disks: each with the path of the image that is to be made.
    since: the checkpoint since which changes are copied, by the names of the disks; all of a disk that is not in it.
    """
    root = ElementTree.Element("domainbackup", {"mode": "push"})
    if since:
        ElementTree.SubElement(root, "incremental").text = next(iter(since.values()))
    holder = ElementTree.SubElement(root, "disks")
    for source, path in disks:
        element = ElementTree.SubElement(holder, "disk", {"name": source.target, "backup": "yes", "type": "file"})
        if since:
            element.set("backupmode", "incremental" if source.name in since else "full")
            if source.name in since:
                element.set("incremental", since[source.name])
        ElementTree.SubElement(element, "target", {"file": path})
        ElementTree.SubElement(element, "driver", {"type": "qcow2"})
    return domain_xml.to_text(root)


def disks_of(xml: str) -> Tuple[List[Source], List[str]]:
    """Return the disks of a domain that are copied, and the names on their bus of those that cannot be.

    Media that can be taken out are neither: they are no part of the VM.
    """
    found: List[Source] = []
    foreign: List[str] = []
    for element in domain_xml.parse(xml).iterfind("devices/disk"):
        if element.get("device", "disk") != "disk":
            continue
        target, source, driver, alias = (element.find(tag) for tag in ("target", "source", "driver", "alias"))
        name = str(target.get("dev")) if target is not None else "?"
        path = source.get("file") if source is not None else None
        label = alias.get("name", "") if alias is not None else ""
        prefix = domain_xml.disk_alias("")
        if path is None or driver is None or driver.get("type") != "qcow2" or not label.startswith(prefix):
            foreign.append(name)
        else:
            found.append(Source(label[len(prefix) :], name, path))
    return found, foreign


def has_agent(xml: str) -> bool:
    """Return whether the guest's agent is connected to its channel."""
    for target in domain_xml.parse(xml).iterfind("devices/channel/target"):
        if target.get("name") == "org.qemu.guest_agent.0":
            return target.get("state") == "connected"
    return False


def path_problem(path: str) -> Optional[str]:
    """Return why a directory cannot be a target, by its name alone, or None."""
    try:
        AbsolutePath().parse(path)
    except ValueError as error:
        return str(error)
    if not all(character.isalnum() or character in PATH_CHARACTERS for character in path):
        # virt-aa-helper, which lets QEMU write there, refuses globs, quotes and blanks in paths.
        return (
            f"{show(path)} is not allowed; allowed is an absolute path of letters, digits and the characters / . _ + -"
        )
    return None


def directory_problem(path: str) -> Optional[str]:
    """Return why backups cannot be written to a directory, or None."""
    there = path
    if not os.path.isdir(path):
        there = os.path.dirname(path)
        if os.path.lexists(path):
            return f"{path} is no directory"
        if not os.path.isdir(there):
            return f"there is no directory {there}; only the last part of the path is made"
    if os.statvfs(there).f_flag & os.ST_RDONLY:
        return f"{there} is on a file system that is mounted read-only"
    if not os.access(there, os.W_OK | os.X_OK):
        return f"{there} cannot be written to"
    for folder in _with_parents(there):
        if not os.stat(folder).st_mode & 0o001:
            return (
                f"{folder} cannot be passed through by the user that QEMU runs as; allowed is a directory that others "
                "may search (chmod o+x)"
            )
    return None


def _with_parents(path: str) -> Iterator[str]:
    while True:
        yield path
        if path == os.path.dirname(path):
            return
        path = os.path.dirname(path)
