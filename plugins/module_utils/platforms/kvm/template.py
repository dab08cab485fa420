# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Templates on a KVM host: sealed qcow2 images, each with a description beside it.

A template is there when its image is: the description is put in place first and the image last, and they go in the
other order, so that a run that was killed leaves no half template.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import time
from typing import Any, Collection, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Set

from ...engine.change import Change
from ...engine.platform import Context, Interface
from ...errors import ApplyError, Problem, ReadError
from ...model.compute import Template, Vm
from ...model.document import State
from ...model.schema import Path
from ...model.storage import StoragePool
from ...model.types import show
from ...transports import libvirt as session
from . import block_devices, disk_images, domain_xml, domains, host_files, image_source, volumes
from .disk_images import MIB, ImageError
from .file_names import Directories, PoolPlace, name_problem

IMPORT_PREFIX = ".import-"
POOL_DIRECTORY = "bareforge-templates"
PROGRESS_SECONDS = 5.0
SEALED = 0o444


class KvmTemplates(Interface):
    """Templates below /var/lib/bareforge/templates."""

    KINDS = ("template",)
    CAPABILITIES = frozenset(
        {
            "template",
            "template.source.url",
            "template.source.path",
            "template.source.vm",
            "template.format.qcow2",
            "template.format.raw",
            "template.format.vmdk",
            "template.format.vhdx",
            "template.format.vhd",
            "template.format.ova",
            "template.firmware.bios",
            "template.firmware.uefi",
            "template.customization.cloud_init",
            "template.customization.none",
        }
    )

    def __init__(self, platform: Any, where: Optional[Directories] = None) -> None:
        self.platform = platform
        self.where = where or Directories()

    def read(self, kinds: Collection[str], names: Mapping[str, Collection[str]]) -> State:
        return {"template": {(item.name,): item for item in read_templates(self.where)}}

    def validate(self, change: Change, context: Context) -> Iterable[Problem]:
        template = change.item
        if not isinstance(template, Template):
            raise AssertionError("not reached: not isinstance(template, Template)")
        if change.after is None:
            yield from self._validate_removal(template, context)
        elif change.before is None:
            yield from self._validate_import(template, context)

    def _validate_import(self, template: Template, context: Context) -> Iterator[Problem]:
        problem = name_problem(str(template.name))
        if problem:
            yield Problem(template.place.field("name").text, f"{show(template.name)} {problem}")
            return
        if template.pool:
            yield from self._validate_pool(template, context)
        source = template.source
        if source is None:
            return
        place = template.place.field("source")
        path = source.path or (image_source.local_path(source.url) if source.url else None)
        if path is not None:
            problem = _file_problem(path)
            if problem:
                yield Problem(place.field("path" if source.path else "url").text, problem)
        if source.vm:
            yield from _vm_problems(source.vm, place.field("vm"), context)
            if source.format not in (None, "qcow2"):
                yield Problem(
                    place.field("format").text, f"{show(source.format)} goes with url and path; a VM's disk is qcow2"
                )

    def _validate_pool(self, template: Template, context: Context) -> Iterator[Problem]:
        owner = self.platform.owner("storage_pool")
        pool = context.find("storage_pool", template.pool)
        if owner is None or not isinstance(pool, StoragePool):
            return
        place = template.place.field("pool").text
        directory = self._places(context)[str(pool.name)].path
        shown = f"storage pool {show(pool.name)}"
        if directory is None:
            yield Problem(place, f"{shown} is of type {pool.type}, which holds no files; allowed is type dir or nfs")
        elif pool.content is not None and "templates" not in pool.content:
            yield Problem(place, f"{shown} is for {', '.join(pool.content) or 'nothing'}, not for templates")
        elif not owner.is_started(str(pool.name)) and context.before.get("storage_pool", {}).get(pool.key) == pool:
            yield Problem(place, f"{shown} is stopped; a task that names the pool starts it")

    def _places(self, context: Context) -> Dict[str, PoolPlace]:
        owner = self.platform.owner("storage_pool") if self.platform is not None else None
        return owner.places(context.wanted) if owner is not None else {}

    def _validate_removal(self, template: Template, context: Context) -> Iterator[Problem]:
        going: Set[str] = set()
        if context.operation.delete_disks:
            wanted = context.wanted.get("vm", {})
            going = {str(key[0]) for key in context.before.get("vm", {}) if key not in wanted}
        places = self._places(context).values()
        users = [name for name in dependents(self.where, str(template.name), places) if name not in going]
        if users:
            names = ", ".join(users)
            yield Problem(
                template.place.text, f"cannot go, since the disks of these VMs are linked clones of it: {names}"
            )

    def apply(self, changes: Sequence[Change], context: Context) -> None:
        for change in changes:
            context.begin(change)
            template = change.item
            if not isinstance(template, Template):
                raise AssertionError("not reached: not isinstance(template, Template)")
            if change.after is None:
                self._remove(template)
            elif change.before is None:
                self._import(template, context)
            else:
                write_description(self.where, template)
            context.done(change)

    def recover(self) -> None:
        """Remove what killed runs have left."""
        recover_templates(self.where)

    def _remove(self, template: Template) -> None:
        image = self.where.template_image(str(template.name))
        lies_at = os.path.realpath(image)
        with contextlib.suppress(FileNotFoundError):
            disk_images.set_immutable(lies_at, False)
            os.unlink(lies_at)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(image)  # of one in a pool, the link to it
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.where.template_description(str(template.name)))
        disk_images.settle(self.where.templates, directory=False)

    def _import(self, template: Template, context: Context) -> None:
        prepare(self.where)
        name = str(template.name)
        pool = self._places(context).get(template.pool) if template.pool else None
        work = os.path.join(self.where.templates, f"{IMPORT_PREFIX}{name}")
        journal = os.path.join(self.where.templates, f"{IMPORT_PREFIX}{name}.json")
        if pool is not None and pool.path is not None:
            directory = os.path.join(pool.path, POOL_DIRECTORY)
            work = os.path.join(directory, f"{IMPORT_PREFIX}{name}")
            # The pool may be anywhere: what a killed run has left there is found by this.
            host_files.write_json(journal, {"work": work, "image": os.path.join(directory, f"{name}.qcow2")})
            disk_images.make_directory(directory, 0o755)
        shutil.rmtree(work, ignore_errors=True)
        try:
            os.mkdir(work, 0o700)
            self._import_in(template, work, context)
        except (ImageError, OSError) as error:
            if template.pool and _is_full(error):
                free = disk_images.free_bytes(os.path.dirname(work))
                raise ApplyError(
                    f"{template.place.text}: storage pool {show(template.pool)} is full: the image does not fit, and "
                    f"{free} bytes are free"
                ) from error
            if isinstance(error, OSError):
                raise ApplyError(f"{template.place.text} cannot be imported: {error.strerror or error}") from error
            raise ApplyError(f"{template.place.field('source').text}: the image is not taken: {error}") from error
        finally:
            shutil.rmtree(work, ignore_errors=True)
            if pool is not None:
                recover_import(self.where, journal)

    def _import_in(self, template: Template, work: str, context: Context) -> None:
        import dataclasses

        source = template.source
        if source is None:
            raise AssertionError("not reached: source is None")
        image = os.path.join(work, "image.qcow2")
        if source.vm:
            found = "qcow2"
            self._flatten(source.vm, image, template, context)
        else:
            fetched = os.path.join(work, "fetched")
            image_source.fetch(
                str(source.url or source.path),
                fetched,
                template.checksum,
                template.place.text,
                _progress(template, context),
            )
            found = self._convert(fetched, source.format, image, template)
        disk_images.refuse_references(image, "qcow2")
        disk_images.inspect(image, "qcow2")
        os.chmod(image, SEALED)
        disk_images.settle(image)
        write_description(self.where, dataclasses.replace(template, source=dataclasses.replace(source, format=found)))
        final = self.where.template_image(str(template.name))
        lies_at = final if template.pool is None else os.path.join(os.path.dirname(work), os.path.basename(final))
        os.rename(image, lies_at)
        disk_images.settle(os.path.dirname(lies_at), directory=False)
        if lies_at != final:
            os.symlink(lies_at, final)
            disk_images.settle(self.where.templates, directory=False)
        disk_images.set_immutable(lies_at, True)

    def _convert(self, fetched: str, asked: Optional[str], image: str, template: Template) -> str:
        """Make a qcow2 image of what was fetched, and return the format that it was in."""
        found = disk_images.find_format(fetched)
        # Any bytes are a raw disk, so raw is taken at its word only where they are no image of another kind.
        if asked is not None and asked != found:
            raise ImageError(f"its format is {found}, and asked was {asked}")
        path, format = fetched, found
        if found == "ova":
            member = disk_images.ova_disk(fetched)
            path = f"{fetched}.disk"
            disk_images.require_space(os.path.dirname(image), member.size, template.place.text)
            disk_images.extract(fetched, member, path)
            os.unlink(fetched)
            format = disk_images.find_format(path)
            if format != "vmdk":
                raise ImageError(f"its disk is {format}; allowed in an OVA is vmdk")
        disk_images.refuse_references(path, format)
        inspection = disk_images.inspect(path, format)
        if format == "qcow2":
            os.rename(path, image)
        else:
            disk_images.require_space(os.path.dirname(image), os.stat(path).st_blocks * 512, template.place.text)
            disk_images.convert(path, format, image)
            os.unlink(path)
        if inspection.size == 0:
            raise ImageError("its disk has no size")
        return found

    def _flatten(self, name: str, image: str, template: Template, context: Context) -> None:
        vm = context.find("vm", name)
        disks = vm.disks if isinstance(vm, Vm) else None
        if not disks:
            raise ApplyError(f"{template.place.field('source').field('vm').text}: VM {show(name)} has no disk")
        domains.require_stopped(name)
        path = _path_of(name, str(disks[0].name))
        format = "raw" if path.startswith("/dev/") else "qcow2"
        needed = block_devices.device_size(path) if format == "raw" else os.stat(path).st_blocks * 512
        header = disk_images.read_qcow2(path) if format == "qcow2" else None
        if header is not None and header.backing and os.path.exists(header.backing):
            needed += os.stat(header.backing).st_blocks * 512
        disk_images.require_space(os.path.dirname(image), needed, template.place.text)
        disk_images.convert(path, format, image, foreign=False)


def _path_of(vm: str, disk: str) -> str:
    """Return the path of a VM's disk. Raises ApplyError."""
    with session.translated(f"VM {show(vm)} cannot be looked at"):
        domain = domains.find(session.connection(), vm)
        paths = domain_xml.disk_paths(domain.XMLDesc(0)) if domain is not None else {}
    if disk not in paths:
        raise ApplyError(f"VM {show(vm)} has no disk {show(disk)} any more")
    return paths[disk]


def _is_full(error: Exception) -> bool:
    return getattr(error, "errno", None) in volumes.FULL or "No space left on device" in str(error)


def _file_problem(path: str) -> Optional[str]:
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        return f"{show(path)} cannot be read on the host: {error.strerror}"
    return None if stat.S_ISREG(mode) else f"{show(path)} is no regular file on the host"


def _vm_problems(name: str, path: Path, context: Context) -> Iterator[Problem]:
    vm = context.find("vm", name)
    if vm is None:
        return
    if vm.power != "stopped":
        yield Problem(path.text, f"VM {show(name)} is {vm.power}; allowed is one that is stopped")
    if not vm.disks:
        yield Problem(path.text, f"VM {show(name)} has no disk")


def _progress(template: Template, context: Context) -> image_source.Progress:
    last = [time.monotonic()]

    def show_progress(done: int, total: Optional[int]) -> None:
        if time.monotonic() - last[0] < PROGRESS_SECONDS:
            return
        last[0] = time.monotonic()
        share = f" of {total // MIB} MiB ({done * 100 // total} %)" if total else " MiB"
        context.progress(f"{template.place.text}: {done // MIB}{share}")

    return show_progress


def prepare(where: Directories) -> None:
    """Make the directory of the templates; QEMU, which runs as another user, must be able to pass through it."""
    disk_images.make_directory(os.path.dirname(where.templates), 0o711)
    disk_images.make_directory(where.templates, 0o755)


def write_description(where: Directories, template: Template) -> None:
    """Put what is known of a template beside its image, whole or not at all. Raises ApplyError."""
    path = where.template_description(str(template.name))
    content = json.dumps(template.to_document(), indent=1, sort_keys=True) + "\n"

    def write(partial: str) -> None:
        with open(partial, "w", encoding="utf-8") as output:
            output.write(content)

    try:
        disk_images.make(path, write, mode=0o644)
    except OSError as error:
        raise ApplyError(f"{template.place.text} cannot be written: {error.strerror or error}") from error


def read_templates(where: Directories) -> List[Template]:
    """Return the templates of the host. Raises ReadError."""
    templates: List[Template] = []
    try:
        entries = sorted(os.listdir(where.templates))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ReadError(f"the templates cannot be read: {error.strerror or error}") from error
    for entry in entries:
        name, extension = os.path.splitext(entry)
        if extension != ".qcow2" or entry.startswith("."):
            continue
        templates.append(_read_template(where, name))
    return templates


def _read_template(where: Directories, name: str) -> Template:
    path = where.template_description(name)
    known: Dict[str, Any] = {}
    try:
        with open(path, encoding="utf-8") as description:
            loaded = json.load(description)
            known = loaded if isinstance(loaded, dict) else {}
    except FileNotFoundError:
        pass  # an image that someone else has put there; it can be used all the same
    except (OSError, ValueError) as error:
        raise ReadError(f"template {show(name)}: its description {path} cannot be read: {error}") from error
    template = Template.read({**known, "name": name}, Path("template").item(name), [])
    return (template or Template(name=name)).complete(None)


def size_of(where: Directories, name: str) -> int:
    """Return the size in bytes of the disk in a template. Raises ReadError."""
    path = where.template_image(name)
    try:
        header = disk_images.read_qcow2(path)
    except OSError as error:
        raise ReadError(f"template {show(name)} cannot be read: {error.strerror or error}") from error
    if header is None:
        raise ReadError(f"template {show(name)} is no qcow2 image: {path}")
    return header.size


def dependents(where: Directories, name: str, places: Iterable[PoolPlace] = ()) -> List[str]:
    """Return the names of the VMs of which a disk, attached or kept, is a linked clone of a template.

    places: the storage pools in which disks can lie too.
    """
    image = os.path.realpath(where.template_image(name))
    found: Set[str] = set()
    with contextlib.suppress(FileNotFoundError):
        for directory in os.scandir(where.images):
            if directory.is_dir(follow_symlinks=False):
                for entry in os.scandir(directory.path):
                    if entry.name.endswith(".qcow2") and _backing(entry.path) == image:
                        found.add(directory.name)
    for place in places:
        with contextlib.suppress(OSError):
            for entry in os.scandir(place.path) if place.path is not None else ():
                if entry.name.endswith(".qcow2") and _backing(entry.path) == image:
                    found.add(entry.name[: -len(".qcow2")].rpartition(".")[0])
    return sorted(found)


def _backing(path: str) -> Optional[str]:
    try:
        header = disk_images.read_qcow2(path)
    except OSError:
        return None
    return os.path.realpath(header.backing) if header is not None and header.backing else None


def recover_import(where: Directories, journal: str) -> None:
    """Remove what an import into a storage pool has left there that did not come to its end."""
    found = host_files.read_json(journal)
    if isinstance(found, dict):
        shutil.rmtree(str(found.get("work")), ignore_errors=True)
        image = str(found.get("image"))
        if not os.path.lexists(where.template_image(os.path.basename(image)[: -len(".qcow2")])):
            with contextlib.suppress(OSError):
                disk_images.set_immutable(image, False)
                os.unlink(image)
    host_files.remove_file(journal)


def recover_templates(where: Directories) -> None:
    """Remove what killed imports and removals have left: work directories, and descriptions without an image."""
    with contextlib.suppress(FileNotFoundError):
        for entry in list(os.scandir(where.templates)):
            if entry.name.startswith(IMPORT_PREFIX) and entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            elif entry.name.startswith(IMPORT_PREFIX) and entry.name.endswith(".json"):
                recover_import(where, entry.path)
            elif entry.name.endswith(".partial") or _is_stray_description(where, entry.name):
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)


def _is_stray_description(where: Directories, file_name: str) -> bool:
    name, extension = os.path.splitext(file_name)
    return extension == ".json" and not name.startswith(".") and not os.path.lexists(where.template_image(name))
