# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Templates: VMs that are sealed (PVE::API2::Qemu, template), made from a cloud image or from a VM.

An image is fetched by the node into a storage that takes images to import, checked there against its checksum, taken
over as the disk of a new VM, and removed. The template has its name only when it is whole.
"""

from __future__ import annotations

import posixpath
import re
from typing import Any, Collection, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple
from urllib.parse import urlsplit

from ...engine.change import Change
from ...engine.platform import Context, Interface
from ...errors import ApplyError, Problem
from ...model.compute import Template, TemplateSource
from ...model.document import State
from ...model.schema import ModelObject
from ...model.types import show
from ...transports.proxmox import Job, Task
from .guests import Guest
from .jobs import carry_out
from .notes import is_free_of_notes, join_description
from .property_strings import join
from .vm_checks import name_problems
from .vm_config import CLOUD_INIT, FILE_TYPES, default_pool

FORMATS = ("qcow2", "raw", "vmdk")
OS_TYPES = {"linux": "l26", "windows": "win11", "other": "other"}


class ProxmoxTemplates(Interface):
    """Reads, makes and removes templates."""

    KINDS = ("template",)
    CAPABILITIES = frozenset(
        {
            "template",
            "template.source.url",
            "template.source.vm",
            "template.format.qcow2",
            "template.format.raw",
            "template.format.vmdk",
            "template.firmware.bios",
            "template.firmware.uefi",
            "template.customization.cloud_init",
            "template.customization.none",
            "template.pool",
        }
    )

    def __init__(self, platform: Any) -> None:
        self.platform = platform

    def read(self, kinds: Collection[str], names: Mapping[str, Collection[str]]) -> State:
        found: Dict[Any, ModelObject] = {}
        for guest in self.platform.template_guests():
            template = _describe(guest)
            found.setdefault(template.key, template)
        return {"template": found}

    def hidden(self, kind: str, key: Tuple[Any, ...]) -> Optional[str]:
        return self.platform.elsewhere(str(key[0]))

    # -- objections ----------------------------------------------------------------------------------------------------

    def validate(self, change: Change, context: Context) -> Iterable[Problem]:
        template = change.after
        place = change.item.place
        if not isinstance(template, Template):
            # Those that go in the same task do so first.
            staying = context.wanted.get("vm")
            clones = [
                guest.name
                for guest in self.platform.guests()
                if _is_linked_to(guest, change.item.label) and (staying is None or (guest.name,) in staying)
            ]
            if clones:
                yield Problem(place.text, f"cannot go, since VMs are linked clones of it: {', '.join(sorted(clones))}")
            return
        for field, message in self._problems(template, change.before, self.platform.storages_to_be(context)):
            yield Problem(place.inner(field).text, message)

    def _problems(self, template: Template, before: Any, storages: Mapping[str, Any]) -> Iterable[Tuple[str, str]]:
        if not is_free_of_notes(template.description):
            yield "description", "is taken for notes of ours"
        if before is not None:
            if template.firmware != before.firmware:
                yield "firmware", f"is {show(before.firmware)} since the template was made; make another one"
            if template.customization != before.customization and "none" in (
                template.customization,
                before.customization,
            ):
                yield "customization", f"is {show(before.customization)} since the template was made; make another one"
            return
        yield from name_problems(str(template.name), "template")
        other = self.platform.elsewhere(str(template.name)) or (
            "it is a VM of the node"
            if any(guest.name == template.name for guest in self.platform.listed_guests())
            else None
        )
        if other is not None:
            yield "name", f"{show(template.name)} is taken: {other}"
        source = template.source or TemplateSource()
        if template.pool and "images" not in str(storages.get(template.pool, {}).get("content", "")).split(","):
            yield "pool", f"{show(template.pool)} takes no disks on this node"
        elif not template.pool and default_pool(storages) is None:
            yield "pool", "no storage of the node takes disks"
        if source.url:
            if not source.url.startswith(("http://", "https://")):
                yield "source.url", f"{show(source.url)} is none that a node fetches; allowed are http and https"
            if _import_storage(storages) is None:
                yield "source.url", "no storage of the node takes images to import; give one the content templates"
            if _format_of(source) not in FORMATS:
                yield (
                    "source.format",
                    f"must be given, since {show(source.url)} does not end in one of {', '.join(FORMATS)}",
                )
        if source.vm:
            guest = next(
                (each for each in self.platform.listed_guests() if each.name == source.vm and not each.template), None
            )
            if guest is not None and guest.runs:
                yield "source.vm", f"{show(source.vm)} runs; stop it first"
            elif guest is not None and template.firmware != ("uefi" if guest.config.get("bios") == "ovmf" else "bios"):
                yield "firmware", f"is {show(template.firmware)}, and VM {show(source.vm)} boots otherwise"

    # -- changing ------------------------------------------------------------------------------------------------------

    def apply(self, changes: Sequence[Change], context: Context) -> None:
        try:
            carry_out(self.platform.session, [self._done(change, context) for change in changes])
        finally:
            self.platform.forget_guests()

    def _done(self, change: Change, context: Context) -> Job:
        context.begin(change)
        session = self.platform.session
        template = change.after
        if not isinstance(template, Template):
            guest = self.platform.template(change.item.label)
            params: Dict[str, Any] = {"purge": 1, "destroy-unreferenced-disks": 1}
            yield Task(
                str(session.ask("DELETE", ("nodes", session.node, "qemu", guest.vmid), params).data), str(change)
            )
        elif change.before is not None:
            guest = self.platform.template(change.item.label)
            facts = {**guest.facts, **_facts(template)}
            params = {
                "description": join_description(template.description or None, facts),
                "digest": guest.config.get("digest"),
            }
            if "guest_type" in change.fields:
                params["ostype"] = OS_TYPES[str(template.guest_type)]
            session.ask("PUT", ("nodes", session.node, "qemu", guest.vmid, "config"), params)
        else:
            yield from self._make(template, str(change))
        context.done(change)

    def _make(self, template: Template, what: str) -> Job:
        session = self.platform.session
        source = template.source or TemplateSource()
        vms = self.platform.owner("vm")
        image: Optional[Tuple[str, str]] = None
        if source.vm:
            origin = next(
                (guest for guest in self.platform.listed_guests() if guest.name == source.vm and not guest.template),
                None,
            )
            if origin is None:
                raise ApplyError(f"{template.place.field('source').field('vm').text}: VM {source.vm!r} is gone")
            params: Dict[str, Any] = {"full": 1, "storage": template.pool}
            guest, task = vms.new_guest(("nodes", session.node, "qemu", origin.vmid, "clone"), "newid", params, what)
        else:
            image = (str(_import_storage(self.platform.storages())), _file_of(template))
            algorithm, _colon, digest = str(template.checksum).partition(":")
            params = {
                "content": "import",
                "filename": image[1],
                "url": source.url,
                "checksum": digest,
                "checksum-algorithm": algorithm,
            }
            upid = session.ask("POST", ("nodes", session.node, "storage", image[0], "download-url"), params).data
            yield Task(str(upid), f"fetching {source.url}")
            params = self._hardware(template, f"{image[0]}:import/{image[1]}")
            guest, task = vms.new_guest(("nodes", session.node, "qemu"), "vmid", params, what)
        yield task
        path = ("nodes", session.node, "qemu", guest.vmid)
        yield Task(
            str(session.ask("POST", (*path, "template"), {}).data or ""), f"sealing template {show(template.name)}"
        )
        if image is not None:
            volume = f"{image[0]}:import/{image[1]}"
            upid = session.ask("DELETE", ("nodes", session.node, "storage", image[0], "content", volume), {}).data
            yield Task(str(upid or ""), f"removing {volume}")
        last: Dict[str, Any] = {
            "name": template.name,
            "description": join_description(template.description or None, _facts(template)),
            "ostype": OS_TYPES[str(template.guest_type)],
        }
        session.ask("PUT", (*path, "config"), last)

    def _hardware(self, template: Template, image: str) -> Dict[str, Any]:
        storages = self.platform.storages()
        pool = template.pool or default_pool(storages)
        files = storages.get(str(pool), {}).get("type") in FILE_TYPES
        disk = {"file": f"{pool}:0", "import-from": image, "format": "qcow2" if files else None}
        params: Dict[str, Any] = {
            "memory": 512,
            "cores": 1,
            "cpu": "x86-64-v2-AES",
            "scsihw": "virtio-scsi-single",
            "agent": "1",
            "ostype": OS_TYPES[str(template.guest_type)],
            "virtio0": join(disk, "file"),
            "boot": "order=virtio0",
        }
        if template.customization == "cloud_init":
            params[CLOUD_INIT] = f"{pool}:cloudinit"
            # Cloud images speak on the first serial line.
            params["serial0"] = "socket"
        if template.firmware == "uefi":
            efi = {"file": f"{pool}:1", "efitype": "4m", "pre-enrolled-keys": 0, "format": "qcow2" if files else None}
            params.update(bios="ovmf", machine="q35", efidisk0=join(efi, "file"))
        return params


def _import_storage(storages: Mapping[str, Any]) -> Optional[str]:
    for name, entry in sorted(storages.items()):
        if entry.get("active") and "import" in str(entry.get("content", "")).split(","):
            return name
    return None


def _facts(template: Template) -> Dict[str, Any]:
    source = template.source.to_document() if template.source is not None else None
    return {
        "kind": "template",
        "source": source,
        "checksum": template.checksum,
        "guest_type": template.guest_type,
        "customization": template.customization,
        "pool": template.pool,
    }


def _describe(guest: Guest) -> Template:
    facts = guest.facts if guest.facts.get("kind") == "template" else {}
    pools = [parts["file"].partition(":")[0] for _key, _name, parts in guest.disks()]
    known: List[str] = [name for name, word in OS_TYPES.items() if word == guest.config.get("ostype")]
    source = facts.get("source")
    return Template(
        name=guest.name,
        source=TemplateSource(**source) if isinstance(source, dict) else None,
        checksum=facts.get("checksum"),
        firmware="uefi" if guest.config.get("bios") == "ovmf" else "bios",
        guest_type=facts.get("guest_type") or (known[0] if known else "other"),
        customization=facts.get("customization") or ("cloud_init" if guest.cloud_init() else "none"),
        pool=pools[0] if pools else None,
        description=guest.description,
    )


def _is_linked_to(guest: Guest, template: str) -> bool:
    return not guest.template and guest.facts.get("template") == template and guest.facts.get("clone") == "linked"


def _format_of(source: TemplateSource) -> Optional[str]:
    if source.format:
        return source.format
    ending = posixpath.splitext(urlsplit(str(source.url)).path)[1].lstrip(".").lower()
    # What Debian and Ubuntu publish as .img is qcow2.
    return {"img": "qcow2"}.get(ending, ending) or None


def _file_of(template: Template) -> str:
    """Return the name that an image is fetched under: it follows from what is in it, so that a second run finds it."""
    digest = str(template.checksum).partition(":")[2][:16]
    name = re.sub(r"[^A-Za-z0-9-]", "-", str(template.name))
    return f"bareforge-{name}-{digest}.{_format_of(template.source or TemplateSource())}"
