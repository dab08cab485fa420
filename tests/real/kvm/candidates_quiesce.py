# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# ruff: noqa: F811 - what is imported are fixtures, which pytest finds by the names of arguments

"""Backups of guests whose file systems are frozen meanwhile, which the platform does not declare yet.

Not part of any run. The first passed on a real host, and so did a run that was killed while the guest was frozen. The second showed
a fault: the guest's agent, once it goes on, freezes the file systems after all, when the backup has been given up, and nobody
thaws them. Until that is mended `quiesce` is not declared.
"""

from __future__ import annotations

from typing import Any

import pytest

from ..real_host import OnHostError, RealHost
from .test_backup import TARGET, call, checkpoints_of, partial_files, saved, write  # noqa: F401 - a fixture


def frozen(arguments: Any) -> Any:
    """Make a backup and return what the guest's agent said right when QEMU had begun, and after it."""
    import json

    import libvirt_qemu

    from ansible_collections.bareforge.hypervisor.plugins.module_utils.boundary.definitions import MODULES
    from ansible_collections.bareforge.hypervisor.plugins.module_utils.boundary.result import perform
    from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm import backup
    from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.platform import KvmPlatform

    seen = []

    def ask(domain: Any) -> None:
        answer = libvirt_qemu.qemuAgentCommand(domain, json.dumps({"execute": "guest-fsfreeze-status"}), 20, 0)
        seen.append(json.loads(answer)["return"])

    thaw = backup.thaw

    def look_and_thaw(domain: Any) -> None:
        ask(domain)
        thaw(domain)
        ask(domain)

    backup.thaw = look_and_thaw
    definition = MODULES["vm_backup"]
    perform(definition, KvmPlatform(), definition.parse(arguments))
    return seen


def test_the_guest_is_frozen_when_the_copying_begins(saved: RealHost) -> None:
    arguments = {"vm": "saved", "name": "frozen", "target": TARGET, "mode": "incremental", "quiesce": True}
    assert saved.on_host(frozen, arguments=arguments, timeout=600) == ["frozen", "thawed"]
    (told,) = [entry for entry in saved.gather("backup")["backups"] if entry["name"] == "frozen"]
    assert told["quiesce"] is True
    write(saved, "two")


def impatient(arguments: Any) -> Any:
    """Make a backup that gives the guest's agent a few seconds only."""
    from ansible_collections.bareforge.hypervisor.plugins.module_utils.boundary.definitions import MODULES
    from ansible_collections.bareforge.hypervisor.plugins.module_utils.boundary.result import perform
    from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm import backup
    from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.platform import KvmPlatform

    backup.AGENT_SECONDS = 5
    definition = MODULES["vm_backup"]
    return perform(definition, KvmPlatform(), definition.parse(arguments))


def test_an_agent_that_is_silent_breaks_it_off(saved: RealHost) -> None:
    before = checkpoints_of(saved, "saved")
    script = "P=$(pidof qemu-ga); (sleep 2; kill -STOP $P; sleep 45; kill -CONT $P) >/dev/null 2>&1 </dev/null &"
    call(saved, "guest", "saved", script)
    saved.run("sleep", "5")
    arguments = {"vm": "saved", "name": "silent", "target": TARGET, "quiesce": True}
    with pytest.raises(OnHostError, match=r"the file systems of VM 'saved' cannot be frozen: .*agent"):
        saved.on_host(impatient, arguments=arguments, timeout=300)
    assert partial_files(saved) == []
    assert checkpoints_of(saved, "saved") == before
    assert call(saved, "guest", "saved", "echo back") == "back"
