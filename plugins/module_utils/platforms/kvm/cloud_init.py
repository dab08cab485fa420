# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a guest is given at its first start: the NoCloud seed of cloud-init, a small CD-ROM named `cidata`.

Its files are JSON, which is YAML too, so that no value a user chose can be taken for syntax.
"""

from __future__ import annotations

import io
import json
import os
import secrets
from email.encoders import encode_base64
from email.mime.multipart import MIMEMultipart
from email.mime.nonmultipart import MIMENonMultipart
from typing import Any, Dict, Iterable, List, Mapping, Optional

from ...errors import ApplyError
from ...model.compute import Guest, GuestUser, Nic, Vm
from ...model.types import HostName

# What the fields of the model say stands; lists of both are joined (cloud-init, "Merging user-data sections").
MERGING = "list(append)+dict(no_replace,recurse_list)+str()"
CONFIG_HEAD = "#cloud-config\n"


def host_name(vm: Vm) -> Optional[str]:
    """Return the guest's host name: the one that is given, else the VM's name where it is allowed as one."""
    if vm.guest is not None and vm.guest.hostname:
        return vm.guest.hostname
    try:
        return HostName().parse(vm.name)
    except ValueError:
        return None


def seed_files(vm: Vm, macs: Mapping[str, str], instance: str) -> Dict[str, bytes]:
    """Return the files of a VM's seed by name: meta-data, user-data, network-config.

    vm: complete, with its secrets.
    macs: the MAC address of each NIC.
    instance: what tells this guest from all others; cloud-init starts anew where it changes.
    Source: cloud-init, "NoCloud", "Networking config version 2".
    """
    meta: Dict[str, Any] = {"instance-id": instance}
    name = host_name(vm)
    if name:
        meta["local-hostname"] = name
    files = {"meta-data": _json(meta), "user-data": user_data(vm.guest, name)}
    files.update(network_file(vm.nics or (), macs))
    return files


def network_file(nics: Iterable[Nic], macs: Mapping[str, str]) -> Dict[str, bytes]:
    """Return the part of a seed's files that tells of the network."""
    return {"network-config": _json(network_config(nics, macs))}


def new_instance(uuid: str) -> str:
    """Return the instance id of a VM that is about to be made.

    A VM of the same name that is made again, from a template that was taken of the first, must not be taken for it.
    """
    return f"{uuid}-{secrets.token_hex(4)}"


def another_instance(files: Mapping[str, bytes], instance: str) -> Dict[str, bytes]:
    """Return the meta-data of a seed that was made by us with another instance id.

    files: the seed's files. A seed of another form is left as it is.
    """
    try:
        meta = json.loads(files.get("meta-data", b""))
    except ValueError:
        return {}
    return {"meta-data": _json({**meta, "instance-id": instance})} if isinstance(meta, dict) else {}


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode("ascii")


def user_data(guest: Optional[Guest], name: Optional[str]) -> bytes:
    """Return the user-data: what the model says, and the user's own beside it where there is any.

    Source: cloud-init, "User-data formats" and "MIME multi-part archive".
    """
    own = CONFIG_HEAD.encode() + _json(cloud_config(guest, name))
    further = guest.user_data if guest is not None else None
    if not further:
        return own
    archive = MIMEMultipart()
    archive.attach(_part(own, "text/cloud-config", "bareforge.cfg"))
    # cloud-init finds out by the first line what a part of type text/plain is.
    archive.attach(_part(further.encode("utf-8"), "text/plain", "user-data"))
    return archive.as_bytes()


def _part(content: bytes, kind: str, name: str) -> MIMENonMultipart:
    part = MIMENonMultipart(*kind.split("/"), charset="utf-8")
    part.set_payload(content)
    encode_base64(part)
    part.add_header("Content-Disposition", "attachment", filename=name)
    part.add_header("X-Merge-Type", MERGING)
    return part


def cloud_config(guest: Optional[Guest], name: Optional[str]) -> Dict[str, Any]:
    """Return the cloud-config of what the model says of a guest.

    Source: cloud-init, "Module reference": Set Hostname, Users and Groups, Package Update Upgrade Install, Timezone.
    """
    # The network is read anew at every start, so that a change to it reaches a guest that is there already.
    config: Dict[str, Any] = {"updates": {"network": {"when": ["boot"]}}}
    if name:
        config["hostname"] = name.partition(".")[0]
        if "." in name:
            config["fqdn"] = name
        config["preserve_hostname"] = False
    if guest is None:
        return config
    if guest.users:
        config["users"] = [_user(user) for user in guest.users]
        if any(user.password_hash for user in guest.users):
            config["ssh_pwauth"] = True
    if guest.packages:
        config["package_update"] = True
        config["packages"] = [_package(package) for package in guest.packages]
    if guest.timezone:
        config["timezone"] = guest.timezone
    return config


def _package(package: str) -> Any:
    name, _equals, version = package.partition("=")
    return [name, version] if version else name


# Groups of a fresh Debian, Ubuntu or RHEL that no user of the same name belongs to (base-passwd, systemd, setup).
_GROUPS_WITHOUT_USER = frozenset(
    [
        "adm",
        "audio",
        "cdrom",
        "crontab",
        "dialout",
        "dip",
        "disk",
        "fax",
        "floppy",
        "input",
        "kmem",
        "kvm",
        "lock",
        "netdev",
        "operator",
        "plugdev",
        "render",
        "sasl",
        "sgx",
        "shadow",
        "src",
        "staff",
        "sudo",
        "tape",
        "tty",
        "users",
        "utmp",
        "video",
        "voice",
        "wheel",
    ]
)


def _user(user: GuestUser) -> Dict[str, Any]:
    entry: Dict[str, Any] = {
        "name": user.name,
        "shell": "/bin/bash",
        "lock_passwd": user.password_hash is None,
        "ssh_authorized_keys": list(user.ssh_keys or ()),
    }
    if user.name in _GROUPS_WITHOUT_USER:
        # useradd(8) makes no user whose own group would have to be one that is there already.
        entry["no_user_group"] = True
    if user.password_hash:
        entry["passwd"] = user.password_hash
    if user.sudo:
        entry["sudo"] = ["ALL=(ALL) NOPASSWD:ALL"]
    return entry


def network_config(nics: Iterable[Nic], macs: Mapping[str, str]) -> Dict[str, Any]:
    """Return the network-config, in which each interface is found by its MAC address."""
    return {"version": 2, "ethernets": {str(nic.name): _interface(nic, macs[str(nic.name)]) for nic in nics}}


def _interface(nic: Nic, mac: str) -> Dict[str, Any]:
    entry: Dict[str, Any] = {"match": {"macaddress": mac}, "dhcp4": not nic.addresses}
    if nic.addresses:
        entry["addresses"] = list(nic.addresses)
    routes: List[Dict[str, str]] = []
    if nic.gateway4:
        routes.append({"to": "0.0.0.0/0", "via": nic.gateway4})
    if nic.gateway6:
        routes.append({"to": "::/0", "via": nic.gateway6})
    if routes:
        entry["routes"] = routes
    if nic.dns_servers:
        entry["nameservers"] = {"addresses": list(nic.dns_servers)}
    return entry


def _pycdlib() -> Any:
    try:
        import pycdlib
    except ImportError as error:
        raise ApplyError(
            "the Python library pycdlib is missing on the host",
            "Install the package python3-pycdlib, which the role kvm_host does",
        ) from error
    return pycdlib


def read_seed(path: str) -> Dict[str, bytes]:
    """Return the files of a seed by name. Raises ApplyError where the host lacks pycdlib, OSError."""
    image = _pycdlib().PyCdlib()
    image.open(path)
    try:
        files: Dict[str, bytes] = {}
        for child in image.list_children(joliet_path="/"):
            if child.is_file():
                name = child.file_identifier().decode("utf-16_be")
                content = io.BytesIO()
                image.get_file_from_iso_fp(content, joliet_path=f"/{name}")
                files[name] = content.getvalue()
        return files
    finally:
        image.close()


def write_seed(path: str, files: Mapping[str, bytes]) -> None:
    """Write a seed: an ISO 9660 image with Rock Ridge and Joliet names, labelled `cidata`, readable by root only.

    libvirt hands it to the user that QEMU runs as when the VM starts.
    Raises ApplyError where the host lacks pycdlib, OSError where it cannot be written.
    """
    image = _pycdlib().PyCdlib()
    image.new(interchange_level=3, vol_ident="cidata", joliet=3, rock_ridge="1.09")
    for number, (name, content) in enumerate(sorted(files.items())):
        image.add_fp(io.BytesIO(content), len(content), f"/FILE{number}.;1", rr_name=name, joliet_path=f"/{name}")
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as output:
        image.write_fp(output)
    image.close()
