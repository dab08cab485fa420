# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Snapshots: what is refused, and what is read of those that libvirt has. Taking and reverting is shown on a real host."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.engine.change import Change
from ansible_collections.bareforge.hypervisor.plugins.module_utils.engine.platform import Context
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.compute import Snapshot, Vm
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.operation import Operation
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm import snapshot

VM = {"name": "web1", "memory": {"size": 64}, "firmware": "bios", "disks": [{"name": "root", "size": 8}]}


def problems(vm: dict[str, Any], **fields: Any) -> list[str]:
    item = Snapshot.parse({"vm": "web1", "name": "before", **fields}).complete(None)
    wanted = {"vm": {("web1",): Vm.parse({**VM, **vm}).complete(None)}}
    context = Context({}, wanted, Operation().complete(None))
    return [str(found) for found in snapshot.KvmSnapshots(None).validate(Change(None, item), context)]


@pytest.mark.parametrize(
    ("vm", "fields", "problem"),
    [
        ({}, {}, None),
        ({}, {"memory": True}, None),
        ({"power": "suspended"}, {"memory": True}, None),
        ({"power": "stopped"}, {}, None),
        ({"power": "stopped"}, {"memory": True}, "snapshot['web1/before'].memory: VM 'web1' is stopped"),
        ({"firmware": "uefi"}, {}, "snapshot['web1/before'].vm: VM 'web1' boots with uefi"),
        ({"tpm": True}, {}, "snapshot['web1/before'].vm: VM 'web1' has a TPM"),
        ({"disks": []}, {}, "snapshot['web1/before'].vm: VM 'web1' has no disk"),
        ({}, {"name": "7"}, "is a number, which would be taken for the number of another snapshot"),
        ({}, {"name": "a/b"}, "is no name that a KVM host can hold"),
        ({}, {"name": "../x"}, "is no name that a KVM host can hold"),
        ({}, {"name": "a'; savevm"}, "is no name that a KVM host can hold"),
    ],
)  # fmt: skip
def test_what_cannot_be_kept_is_refused(vm: dict[str, Any], fields: dict[str, Any], problem: str | None) -> None:
    found = problems(vm, **fields)
    assert (found == []) if problem is None else any(problem in text for text in found), found


def xml(memory: str, mark: str = "") -> str:
    return f"""<domainsnapshot><name>before</name><description>d &amp; x</description><state>running</state>
      <memory snapshot='{memory}'/>
      <domain><metadata><bareforge:vm xmlns:bareforge="https://bareforge.dev/xmlns/1">{{}}</bareforge:vm>{mark}</metadata></domain>
      <inactiveDomain/></domainsnapshot>"""


MARK = '<s:without-memory xmlns:s="https://bareforge.dev/xmlns/1/snapshot"/>'


@pytest.mark.parametrize(
    ("memory", "mark", "shown"), [("internal", "", True), ("no", "", False), ("internal", MARK, False)]
)
def test_memory_is_told_as_it_was_asked_for(memory: str, mark: str, shown: bool) -> None:
    read = snapshot._read_snapshot("web1", xml(memory, mark))
    assert read == Snapshot(vm="web1", name="before", description="d & x", memory=shown, quiesce=False)
