# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A libvirt of memory: domains and storage pools that are defined, started and stopped, for tests of what is done
around them.

It stands where the module `libvirt` would be imported. It knows no devices and starts nothing: what a change does to a
running guest is shown on a real host.
"""

from __future__ import annotations

import os
import xml.etree.ElementTree as ElementTree
from typing import Any, Optional

RUNNING, PAUSED, SHUTOFF = 1, 3, 5


class libvirtError(Exception):
    def __init__(self, message: str, code: int = 1, domain: int = 0) -> None:
        super().__init__(message)
        self.code, self.domain = code, domain

    def get_error_code(self) -> int:
        return self.code

    def get_error_domain(self) -> int:
        return self.domain

    def get_error_message(self) -> str:
        return str(self.args[0])


class Domain:
    def __init__(self, host: Host, xml: str) -> None:
        self.host, self.xml = host, xml
        root = ElementTree.fromstring(xml)
        self._name, self._uuid = str(root.findtext("name")), str(root.findtext("uuid"))
        self._state, self._autostart = SHUTOFF, False
        self.ignores_shutdown = False
        # What starts next time, where that is something else than what runs.
        self.configured_xml: Optional[str] = None
        self.persistent = True
        self.guest_info: Any = {}
        self.checkpoints: list[str] = []
        self.snapshots: list[str] = []

    def name(self) -> str:
        return self._name

    def UUIDString(self) -> str:
        return self._uuid

    def XMLDesc(self, flags: int = 0) -> str:
        return self.configured_xml or self.xml if flags & Library.VIR_DOMAIN_XML_INACTIVE else self.xml

    def setInterfaceParameters(self, device: str, parameters: dict[str, int], _flags: int) -> None:
        self.host.calls.append(f"limit {device} of {self._name}")
        self.host.limits[device] = parameters

    def state(self) -> list[int]:
        return [self._state, 0]

    def isActive(self) -> bool:
        return self._state != SHUTOFF

    def hasManagedSaveImage(self, _flags: int) -> bool:
        return False

    def agentSetResponseTimeout(self, _timeout: int, _flags: int) -> None:
        return None

    def guestInfo(self, _types: int, _flags: int) -> dict[str, Any]:
        self.host.calls.append(f"ask the agent of {self._name}")
        if isinstance(self.guest_info, Exception):
            raise self.guest_info
        return dict(self.guest_info)

    def snapshotListNames(self, _flags: int) -> list[str]:
        return list(self.snapshots)

    def listAllCheckpoints(self, flags: int) -> list[Checkpoint]:
        found = [Checkpoint(self, name) for name in self.checkpoints]
        return found[-1:] if flags == Library.VIR_DOMAIN_CHECKPOINT_LIST_LEAVES else found

    def checkpointCreateXML(self, xml: str, flags: int) -> None:
        if flags != Library.VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE and not self.isActive():
            raise libvirtError("Requested operation is not valid: cannot create checkpoint for inactive domain")
        root = ElementTree.fromstring(xml)
        if self.checkpoints and root.findtext("parent/name") != self.checkpoints[-1]:
            raise libvirtError("XML error: the parent of the checkpoint is not there")
        name = str(root.findtext("name"))
        self.host.step(f"checkpoint {self._name}")
        self.checkpoints.append(name)
        self.host.step(f"checkpointed {self._name}")

    def setAutostart(self, value: bool) -> None:
        self._autostart = bool(value)

    def autostart(self) -> bool:
        return self._autostart

    def createWithFlags(self, flags: int) -> None:
        self.host.step(f"start {self._name}")
        self._state = PAUSED if flags else RUNNING
        self.host.step(f"started {self._name}")

    def shutdown(self) -> None:
        self.host.calls.append(f"shutdown {self._name}")
        if not self.ignores_shutdown and self._state == RUNNING:
            self._state = SHUTOFF

    def destroy(self) -> None:
        self.host.calls.append(f"destroy {self._name}")
        self._state = SHUTOFF

    def isPersistent(self) -> bool:
        return self.persistent

    def managedSave(self, _flags: int) -> None:
        self.host.step(f"save {self._name}")
        self._state = SHUTOFF

    def suspend(self) -> None:
        self._state = PAUSED

    def resume(self) -> None:
        self._state = RUNNING

    def undefineFlags(self, _flags: int) -> None:
        self.host.step(f"undefine {self._name}")
        del self.host.domains[self._name]
        self.host.step(f"undefined {self._name}")


class Pool:
    """A storage pool. Directories are real ones; a volume group is a name in the host's `groups`."""

    def __init__(self, host: Host, xml: str) -> None:
        self.host = host
        self.define(xml)
        self.active = self.starts = False

    def define(self, xml: str) -> None:
        self.xml = xml
        root = ElementTree.fromstring(xml)
        self.type, self._name, self._uuid = root.get("type"), str(root.findtext("name")), str(root.findtext("uuid"))
        self.path, self.group = str(root.findtext("target/path")), root.findtext("source/name")
        self.devices = [str(device.get("path")) for device in root.iter("device")]

    def name(self) -> str:
        return self._name

    def UUIDString(self) -> str:
        return self._uuid

    def XMLDesc(self, _flags: int = 0) -> str:
        return self.xml

    def isActive(self) -> bool:
        return self.active

    def isPersistent(self) -> bool:
        return True

    def autostart(self) -> bool:
        return self.starts

    def setAutostart(self, value: int) -> None:
        self.host.step(f"pool autostart {self._name}")
        self.starts = bool(value)

    def build(self, _flags: int) -> None:
        self.host.step(f"pool build {self._name}")
        if self.type == "logical":
            self.host.groups[str(self.group)] = list(self.devices)
        else:
            os.makedirs(self.path, exist_ok=True)
        self.host.step(f"pool built {self._name}")

    def create(self, _flags: int) -> None:
        self.host.step(f"pool start {self._name}")
        if self.active:
            raise libvirtError(f"storage pool '{self._name}' is already active")
        self.active = True
        self.host.step(f"pool started {self._name}")

    def destroy(self) -> None:
        self.host.step(f"pool stop {self._name}")
        if not self.active:
            raise libvirtError(f"storage pool '{self._name}' is not active")
        self.active = False
        self.host.step(f"pool stopped {self._name}")

    def refresh(self, _flags: int) -> None:
        self.host.calls.append(f"pool refresh {self._name}")

    def listAllVolumes(self, _flags: int) -> list[Any]:
        files = sorted(entry for entry in os.listdir(self.path) if os.path.isfile(os.path.join(self.path, entry)))
        return [Volume(self.host, os.path.join(self.path, entry)) for entry in files]

    def delete(self, _flags: int) -> None:
        self.host.step(f"pool delete {self._name}")
        if self.active:
            raise libvirtError(f"storage pool '{self._name}' is still active")
        if self.type == "logical":
            if self.host.groups.pop(str(self.group), None) is None:
                raise libvirtError(f'Volume group "{self.group}" not found')
        else:
            os.rmdir(self.path)
        self.host.step(f"pool deleted {self._name}")

    def undefine(self) -> None:
        self.host.step(f"pool undefine {self._name}")
        if self.active:
            raise libvirtError(f"storage pool '{self._name}' is still active")
        del self.host.pools[self._name]
        self.host.step(f"pool undefined {self._name}")


class Volume:
    """A file in a pool."""

    def __init__(self, host: Host, path: str) -> None:
        self.host, self.path = host, path

    def delete(self, _flags: int) -> None:
        self.host.step(f"volume delete {os.path.basename(self.path)}")
        os.unlink(self.path)


class Secret:
    """A secret that nobody can read back."""

    def __init__(self, host: Host, usage: str) -> None:
        self.host, self.usage = host, usage

    def setValue(self, value: bytes, _flags: int) -> None:
        self.host.secrets[self.usage] = value

    def undefine(self) -> None:
        self.host.step(f"secret undefine {self.usage}")
        del self.host.secrets[self.usage]


class Network:
    def __init__(self, xml: str, leases: Any = ()) -> None:
        self.xml, self.leases = xml, leases

    def name(self) -> str:
        return str(ElementTree.fromstring(self.xml).findtext("name"))

    def XMLDesc(self, _flags: int = 0) -> str:
        return self.xml

    def isActive(self) -> bool:
        return True

    def DHCPLeases(self) -> list[dict[str, Any]]:
        if isinstance(self.leases, Exception):
            raise self.leases
        return list(self.leases)


class Checkpoint:
    def __init__(self, domain: Domain, name: str) -> None:
        self.domain, self.name = domain, name

    def getName(self) -> str:
        return self.name

    def delete(self, flags: int) -> None:
        if flags != Library.VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY and not self.domain.isActive():
            raise libvirtError("Requested operation is not valid: cannot delete checkpoint for inactive domain")
        self.domain.checkpoints.remove(self.name)


class Host:
    """Its domains, and a step at which everything ends, as if the process had been killed."""

    def __init__(self) -> None:
        self.domains: dict[str, Domain] = {}
        self.networks: list[Network] = []
        self.pools: dict[str, Pool] = {}
        self.groups: dict[str, list[str]] = {}
        self.secrets: dict[str, bytes] = {}
        # What the NICs of running domains are held to, by device.
        self.limits: dict[str, dict[str, int]] = {}
        self.calls: list[str] = []
        self.kill_at: Optional[str] = None
        self.fail_at: Optional[str] = None
        self.fail_with: Optional[str] = None

    def step(self, name: str) -> None:
        self.calls.append(name)
        if name == self.kill_at:
            raise Killed(name)
        if name == self.fail_at:
            raise libvirtError(self.fail_with or f"internal error: {name}")


class Killed(BaseException):
    """The process ends here: nothing that follows is run, not even clean-up that catches errors."""


class Connection:
    def __init__(self, host: Host) -> None:
        self.host = host

    def isAlive(self) -> bool:
        return True

    def close(self) -> None:
        return None

    def getLibVersion(self) -> int:
        return 9000000

    def getVersion(self) -> int:
        return 7002022

    def defineXML(self, xml: str) -> Domain:
        name = str(ElementTree.fromstring(xml).findtext("name"))
        self.host.step(f"define {name}")
        domain = self.host.domains.get(name)
        if domain is None:
            domain = self.host.domains[name] = Domain(self.host, xml)
        domain.xml = xml
        self.host.step(f"defined {name}")
        return domain

    def lookupByName(self, name: str) -> Domain:
        if name not in self.host.domains:
            raise libvirtError(f"Domain not found: {name}", Library.VIR_ERR_NO_DOMAIN)
        return self.host.domains[name]

    def lookupByUUIDString(self, uuid: str) -> Domain:
        for domain in self.host.domains.values():
            if domain.UUIDString() == uuid:
                return domain
        raise libvirtError(f"Domain not found: {uuid}", Library.VIR_ERR_NO_DOMAIN)

    def listAllDomains(self, flags: int = 0) -> list[Domain]:
        domains = list(self.host.domains.values())
        if flags == Library.VIR_CONNECT_LIST_DOMAINS_ACTIVE:
            return [domain for domain in domains if domain.isActive()]
        return (
            [domain for domain in domains if domain._autostart]
            if flags == Library.VIR_CONNECT_LIST_DOMAINS_AUTOSTART
            else domains
        )

    def listAllStoragePools(self, _flags: int = 0) -> list[Pool]:
        return list(self.host.pools.values())

    def storagePoolDefineXML(self, xml: str, _flags: int) -> Pool:
        name = str(ElementTree.fromstring(xml).findtext("name"))
        self.host.step(f"pool define {name}")
        pool = self.host.pools.get(name)
        if pool is None:
            pool = self.host.pools[name] = Pool(self.host, xml)
        pool.define(xml)
        self.host.step(f"pool defined {name}")
        return pool

    def storagePoolLookupByName(self, name: str) -> Pool:
        if name not in self.host.pools:
            raise libvirtError(f"Storage pool not found: {name}", Library.VIR_ERR_NO_STORAGE_POOL)
        return self.host.pools[name]

    def secretDefineXML(self, xml: str, _flags: int) -> Secret:
        usage = str(ElementTree.fromstring(xml).findtext("usage/target"))
        self.host.secrets.setdefault(usage, b"")
        return Secret(self.host, usage)

    def secretLookupByUsage(self, _kind: int, usage: str) -> Secret:
        if usage not in self.host.secrets:
            raise libvirtError(f"Secret not found: {usage}", Library.VIR_ERR_NO_SECRET)
        return Secret(self.host, usage)

    def listAllNetworks(self, _flags: int = 0) -> list[Network]:
        return list(self.host.networks)

    def getAllDomainStats(self, _stats: int, _flags: int) -> list[tuple[Domain, dict[str, Any]]]:
        return [(domain, {"state.state": domain._state, "state.reason": 0}) for domain in self.host.domains.values()]


class Library:
    """What `import libvirt` gives."""

    libvirtError = libvirtError
    VIR_ERR_RPC = 39
    VIR_ERR_NO_CONNECT = 5
    VIR_ERR_AUTH_FAILED = 45
    VIR_ERR_SYSTEM_ERROR = 38
    VIR_ERR_INTERNAL_ERROR = 1
    VIR_ERR_NO_DOMAIN = 42
    VIR_ERR_NO_STORAGE_POOL = 49
    VIR_ERR_NO_SECRET = 66
    VIR_FROM_RPC = 7
    VIR_CONNECT_LIST_DOMAINS_ACTIVE = 1
    VIR_STORAGE_XML_INACTIVE = 1
    VIR_SECRET_USAGE_TYPE_ISCSI = 3
    VIR_CONNECT_LIST_DOMAINS_AUTOSTART = 1024
    VIR_DOMAIN_STATS_STATE = 1
    VIR_DOMAIN_STATS_CPU_TOTAL = 2
    VIR_DOMAIN_STATS_BALLOON = 4
    VIR_DOMAIN_STATS_VCPU = 8
    VIR_DOMAIN_STATS_INTERFACE = 16
    VIR_DOMAIN_STATS_BLOCK = 32
    VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT = 1 << 29
    VIR_DOMAIN_GUEST_INFO_HOSTNAME = 8
    VIR_DOMAIN_GUEST_INFO_INTERFACES = 64
    VIR_DOMAIN_XML_INACTIVE = 2
    VIR_DOMAIN_AFFECT_LIVE = 1
    VIR_DOMAIN_XML_SECURE = 1
    VIR_DOMAIN_START_PAUSED = 1
    VIR_DOMAIN_SAVE_PAUSED = 4
    VIR_DOMAIN_UNDEFINE_MANAGED_SAVE = 1
    VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA = 2
    VIR_DOMAIN_UNDEFINE_NVRAM = 4
    VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA = 16
    VIR_DOMAIN_UNDEFINE_TPM = 64
    VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE = 1
    VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY = 2
    VIR_DOMAIN_CHECKPOINT_LIST_LEAVES = 4

    def __init__(self, host: Host) -> None:
        self.host = host
        self.opened = 0

    def registerErrorHandler(self, _handler: Any, _context: Any) -> None:
        return None

    def open(self, _uri: str) -> Connection:
        self.opened += 1
        return Connection(self.host)
