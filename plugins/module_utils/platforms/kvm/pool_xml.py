# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Storage pools as libvirt's pool XML, and back.

XML is built from elements and never from text. A password is never in it: it names a secret of libvirt.

Source: libvirt, "Storage pool and volume XML format".
"""

from __future__ import annotations

from typing import Dict, List, Mapping, Optional, Tuple
from xml.etree import ElementTree

from ...model.storage import StoragePool, StorageSource
from .names import pool_uuid

Element = ElementTree.Element

FS_NAMESPACE = "http://libvirt.org/schemas/storagepool/fs/1.0"
MOUNT_OPTIONS = f"{{{FS_NAMESPACE}}}mount_opts"
MOUNT_OPTION = f"{{{FS_NAMESPACE}}}option"
# What libvirt calls the model's types; and a type of the model for each pair of libvirt's type and source format.
LIBVIRT_TYPES = {"dir": "dir", "lvm": "logical", "nfs": "netfs", "iscsi": "iscsi"}
NFS_VERSION = "nfsvers"
# mount.nfs goes on trying for two minutes otherwise (nfs(5), retry).
HIDDEN_OPTIONS = {"retry": "0"}

ElementTree.register_namespace("fs", FS_NAMESPACE)


def _add(parent: Element, tag: str, text: Optional[str] = None, **attributes: Optional[str]) -> Element:
    element = ElementTree.SubElement(
        parent, tag, {name: value for name, value in attributes.items() if value is not None}
    )
    if text is not None:
        element.text = text
    return element


def to_xml(pool: StoragePool, path: Optional[str], uuid: Optional[str] = None) -> str:
    """Return the XML of a pool.

    pool: complete. path: where it lies, None where libvirt's name for it follows from its source.
    uuid: that of a pool that somebody else has made.
    """
    kind = str(pool.type)
    root = Element("pool", {"type": LIBVIRT_TYPES[kind]})
    _add(root, "name", pool.name)
    _add(root, "uuid", uuid or pool_uuid(str(pool.name)))
    source = pool.source or StorageSource()
    if kind != "dir":
        holder = _add(root, "source")
        if kind in ("nfs", "iscsi"):
            _add(holder, "host", name=source.host)
        if kind == "nfs":
            _add(holder, "dir", path=source.path)
            _add(holder, "format", type="nfs")
        elif kind == "iscsi":
            _add(holder, "device", path=source.target)
            if source.username:
                login = _add(holder, "auth", type="chap", username=source.username)
                _add(login, "secret", usage=secret_usage(str(pool.name)))
        else:
            for device in source.devices or ():
                _add(holder, "device", path=device)
            _add(holder, "name", source.name)
            _add(holder, "format", type="lvm2")
    target = _add(root, "target")
    _add(target, "path", path)
    if kind == "nfs":
        holder = _add(root, MOUNT_OPTIONS)
        for name, value in mount_options(pool).items():
            _add(holder, MOUNT_OPTION, name=f"{name}={value}" if value else name)
    return ElementTree.tostring(root, encoding="unicode")


def mount_options(pool: StoragePool) -> Dict[str, str]:
    """Return the options that a pool is mounted with, by name; the value of a mere word is empty."""
    options = dict(HIDDEN_OPTIONS)
    version = pool.source.version if pool.source is not None else None
    if version:
        options[NFS_VERSION] = version
    options.update(pool.settings or ())
    return options


def secret_usage(pool: str) -> str:
    """Return the name under which libvirt keeps the password of a pool."""
    return f"bareforge storage pool {pool}"


def secret_xml(pool: str) -> str:
    """Return the XML of the secret that holds the password of a pool; the password is set beside it."""
    root = Element("secret", {"ephemeral": "no", "private": "yes"})
    _add(root, "description", f"CHAP password of the storage pool {pool}")
    usage = _add(root, "usage", type="iscsi")
    _add(usage, "target", secret_usage(pool))
    return ElementTree.tostring(root, encoding="unicode")


def read_xml(xml: str) -> Optional[StoragePool]:
    """Return the pool of libvirt's XML, without autostart and content; None where the model has no words for it."""
    root = ElementTree.fromstring(xml)
    source, format = root.find("source"), root.find("source/format")
    kinds = {value: key for key, value in LIBVIRT_TYPES.items()}
    kind = kinds.get(root.get("type", ""))
    if kind is None or (kind == "nfs" and (format is None or format.get("type") not in ("nfs", "auto"))):
        return None
    path = root.findtext("target/path")
    options = _read_options(root)
    version = options.pop(NFS_VERSION, None)
    settings = {name: value for name, value in options.items() if HIDDEN_OPTIONS.get(name) != value}
    return StoragePool(
        name=root.findtext("name"),
        type=kind,
        path=path if kind in ("dir", "nfs") else None,
        source=_read_source(kind, source, version),
        settings=tuple(sorted(settings.items())) if kind == "nfs" else None,
    )


def _read_options(root: Element) -> Dict[str, str]:
    options: Dict[str, str] = {}
    for element in root.iter(MOUNT_OPTION):
        name, _equals, value = element.get("name", "").partition("=")
        options[name] = value
    return options


def _read_source(kind: str, source: Optional[Element], version: Optional[str]) -> Optional[StorageSource]:
    if source is None or kind == "dir":
        return None
    host, directory, login = source.find("host"), source.find("dir"), source.find("auth")
    devices: List[str] = [element.get("path", "") for element in source.findall("device")]
    return StorageSource(
        host=host.get("name") if host is not None else None,
        path=directory.get("path") if directory is not None else None,
        target=devices[0] if kind == "iscsi" and devices else None,
        devices=tuple(sorted(devices)) if kind == "lvm" else None,
        name=source.findtext("name") if kind == "lvm" else None,
        username=login.get("username") if login is not None else None,
        version=version,
    )


def uuid_of(xml: str) -> Optional[str]:
    """Return the UUID in a pool's XML."""
    return ElementTree.fromstring(xml).findtext("uuid")


def disk_paths(domain_xml: str) -> Mapping[str, Tuple[str, ...]]:
    """Return, by kind `path` and `pool`, what the disks of a domain's XML lie in: files and devices, and pools by name."""
    paths: List[str] = []
    pools: List[str] = []
    for element in ElementTree.fromstring(domain_xml).iter("source"):
        for attribute in ("file", "dev", "dir"):
            value = element.get(attribute)
            if value:
                paths.append(value)
        if element.get("pool"):
            pools.append(str(element.get("pool")))
    return {"path": tuple(paths), "pool": tuple(pools)}
