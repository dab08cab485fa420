# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A KVM host: Linux with libvirt, Open vSwitch, nftables, and systemd-networkd or NetworkManager."""

from __future__ import annotations

from typing import Any, ContextManager, Dict

from ...engine.platform import Guard, Platform
from ...transports import libvirt
from ..file_lock import LOCK_TIMEOUT
from .access import KvmAccess
from .backup import KvmBackups
from .firewall import KvmFirewall
from .guard import KvmGuard
from .hardening import KvmHardening
from .host_facts import host_facts
from .host_lock import host_lock
from .inventory import KvmInventory
from .maintenance import KvmMaintenance
from .metrics import KvmMetrics
from .migration import KvmMigration
from .network import KvmNetwork
from .port_acl import KvmPortAcl
from .snapshot import KvmSnapshots
from .storage_pool import KvmStoragePools
from .system import KvmSystem
from .template import KvmTemplates
from .tuning import KvmTuning
from .updates import KvmUpdates
from .user import KvmUsers
from .vm import KvmVms


class KvmPlatform(Platform):
    """A KVM host. The engine runs on it, over Ansible's connection."""

    NAME = "kvm"
    RUNS_ON_HOST = True
    INTERFACES = (
        KvmSystem,
        KvmTuning,
        KvmStoragePools,
        KvmNetwork,
        KvmFirewall,
        KvmPortAcl,
        KvmUsers,
        KvmAccess,
        KvmTemplates,
        KvmVms,
        KvmSnapshots,
        KvmBackups,
        KvmHardening,
        KvmMigration,
        KvmMetrics,
        KvmInventory,
        KvmMaintenance,
        KvmUpdates,
    )

    def guard(self) -> Guard:
        return KvmGuard(self)

    def lock(self) -> ContextManager[None]:
        return host_lock(float(self.settings.get("lock_timeout") or LOCK_TIMEOUT))

    def facts(self) -> Dict[str, Any]:
        return libvirt.read(host_facts, "the host's facts cannot be read")

    def metrics(self) -> Dict[str, Any]:
        return KvmMetrics(self).metrics()

    def updates(self) -> Dict[str, Any]:
        return KvmUpdates(self).updates()

    def recover(self) -> None:
        KvmGuard(self).recover()
        for interface in self.interfaces:
            if hasattr(interface, "recover"):
                interface.recover()
