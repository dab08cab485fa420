# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A libvirt of memory: domains that are defined, started and stopped, for tests of what is done around them.

It stands where the module `libvirt` would be imported. It knows no devices and starts nothing: what a change does to a
running guest is shown on a real host.
"""

from __future__ import annotations

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

    def name(self) -> str:
        return self._name

    def UUIDString(self) -> str:
        return self._uuid

    def XMLDesc(self, _flags: int = 0) -> str:
        return self.xml

    def state(self) -> list[int]:
        return [self._state, 0]

    def isActive(self) -> bool:
        return self._state != SHUTOFF

    def hasManagedSaveImage(self, _flags: int) -> bool:
        return False

    def setAutostart(self, value: bool) -> None:
        self._autostart = bool(value)

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

    def suspend(self) -> None:
        self._state = PAUSED

    def resume(self) -> None:
        self._state = RUNNING

    def undefineFlags(self, _flags: int) -> None:
        self.host.step(f"undefine {self._name}")
        del self.host.domains[self._name]
        self.host.step(f"undefined {self._name}")


class Host:
    """Its domains, and a step at which everything ends, as if the process had been killed."""

    def __init__(self) -> None:
        self.domains: dict[str, Domain] = {}
        self.calls: list[str] = []
        self.kill_at: Optional[str] = None
        self.fail_at: Optional[str] = None

    def step(self, name: str) -> None:
        self.calls.append(name)
        if name == self.kill_at:
            raise Killed(name)
        if name == self.fail_at:
            raise libvirtError(f"internal error: {name}")


class Killed(BaseException):
    """The process ends here: nothing that follows is run, not even clean-up that catches errors."""


class Connection:
    def __init__(self, host: Host) -> None:
        self.host = host

    def isAlive(self) -> bool:
        return True

    def close(self) -> None:
        return None

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
        return (
            [domain for domain in domains if domain._autostart]
            if flags == Library.VIR_CONNECT_LIST_DOMAINS_AUTOSTART
            else domains
        )

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
    VIR_FROM_RPC = 7
    VIR_CONNECT_LIST_DOMAINS_AUTOSTART = 1024
    VIR_DOMAIN_STATS_STATE = 1
    VIR_DOMAIN_XML_INACTIVE = 2
    VIR_DOMAIN_XML_SECURE = 1
    VIR_DOMAIN_START_PAUSED = 1
    VIR_DOMAIN_UNDEFINE_MANAGED_SAVE = 1
    VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA = 2
    VIR_DOMAIN_UNDEFINE_NVRAM = 4
    VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA = 16
    VIR_DOMAIN_UNDEFINE_TPM = 64

    def __init__(self, host: Host) -> None:
        self.host = host
        self.opened = 0

    def registerErrorHandler(self, _handler: Any, _context: Any) -> None:
        return None

    def open(self, _uri: str) -> Connection:
        self.opened += 1
        return Connection(self.host)
