# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The interface of port ACLs under the engine: VMs are played, chains are those of this machine's kernel."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.engine.change import Change
from ansible_collections.bareforge.hypervisor.plugins.module_utils.engine.platform import Context, Platform
from ansible_collections.bareforge.hypervisor.plugins.module_utils.engine.runner import Request, gather, run
from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import ApplyError, ReadError, ValidateError
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.compute import Vm
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.document import Document
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.firewall import PortAcl
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.operation import Operation
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm import port_acl as port_acl_module
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm import systemd
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.names import mac_address, tap_name
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.nftables_rules import (
    PORT_TABLE,
    link_local_address,
    port_chains,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.port_acl import (
    KvmPortAcl,
    folder_of,
    nic_addresses,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.transports import nftables
from support import kernel_nftables

MAC = "52:54:00:00:00:aa"
ACL = {"vm": "web", "nic": "eth0", "allowed_ipv6": ["2001:db8::7"]}
TAP = tap_name("web", "eth0")


class OnlyPortAcls(Platform):
    NAME = "kvm"
    INTERFACES = (KvmPortAcl,)

    def recover(self) -> None:
        self.interfaces[0].recover()


class Killed(BaseException):
    """The death of the process."""


class Host:
    """VMs by name with the MAC addresses of their NICs by tap device, and the taps of those that run."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.nics: dict[str, dict[str, str]] = {"web": {TAP: MAC}}
        self.programs: list[Any] = []
        (root / "devices").mkdir()

    def start(self, device: str = TAP) -> int:
        """Let a tap device appear; it goes when the returned descriptor is closed."""
        (self.root / "devices" / device).touch()
        return nftables._make_tap(device)

    def apply(self, *acls: Any, check: bool = False) -> list[Any]:
        result = run(OnlyPortAcls(), Request(Document.parse({"port_acls": list(acls)}), check=check))
        return [(change["action"], change["key"], tuple(change["fields"])) for change in result["changes"]]

    @property
    def files(self) -> list[str]:
        folder = self.root / "acls"
        return sorted(path.name for path in folder.rglob("*") if path.is_file()) if folder.exists() else []

    @property
    def chains(self) -> list[str]:
        listing = nftables.list_table(*PORT_TABLE) or []
        return [entry["chain"]["name"] for entry in listing if "chain" in entry]


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    kernel_nftables.require()
    made = Host(tmp_path)
    monkeypatch.setattr(port_acl_module, "ACL_FOLDER", str(tmp_path / "acls"))
    monkeypatch.setattr(port_acl_module, "HOOK_FILE", str(tmp_path / "hooks" / "bareforge"))
    monkeypatch.setattr(port_acl_module, "_NETWORK_DEVICES", str(tmp_path / "devices"))
    monkeypatch.setattr(
        port_acl_module, "read_nics", lambda vms: {vm: dict(nics) for vm, nics in made.nics.items() if vm in vms}
    )
    monkeypatch.setattr(systemd, "systemctl", lambda *arguments, **_options: made.programs.append(arguments))
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)
    return made


@pytest.fixture
def in_kernel() -> Callable[[Callable[[], Any]], Any]:
    def enter(work: Callable[[], Any]) -> Any:
        outcome: dict[str, Any] = {}

        def guarded() -> bool:
            try:
                outcome["result"] = work()
            except BaseException as error:  # noqa: BLE001 - carried out of the thread
                outcome["error"] = error
            return True

        nftables._in_network_namespace(guarded)
        if "error" in outcome:
            raise outcome["error"]
        return outcome["result"]

    return enter


def test_stopped_vm_has_files_and_a_hook(host: Host, in_kernel: Any) -> None:
    def work() -> None:
        assert host.apply(ACL)[0][:2] == ("create", "web/eth0")
        assert host.files == [f"{TAP}.apply.json", f"{TAP}.remove.json"]
        assert host.apply(ACL) == []
        assert host.apply(ACL, check=True) == []
        assert host.apply(*gather(OnlyPortAcls())["port_acls"]) == []
        assert host.chains == []

    in_kernel(work)
    hook = Path(port_acl_module.HOOK_FILE)
    assert hook.stat().st_mode & stat.S_IXUSR
    assert subprocess.run(["sh", "-n", str(hook)], check=False).returncode == 0


def test_running_vm_is_filtered_at_once(host: Host, in_kernel: Any) -> None:
    def work() -> None:
        host.start()
        host.apply(ACL)
        assert host.chains == list(port_chains(TAP))
        assert host.apply(ACL) == []
        assert host.apply({**ACL, "dhcp_guard": False}) == [("update", "web/eth0", ("dhcp_guard",))]
        assert "dhcp_guard" not in json.dumps(nftables.list_table(*PORT_TABLE))
        assert host.apply({**ACL, "state": "absent"}) == [("delete", "web/eth0", ())]
        assert (host.chains, host.files) == ([], [])
        assert host.apply({**ACL, "state": "absent"}) == []

    in_kernel(work)


def chain_flushed(host: Host) -> None:
    nftables.run([{"flush": {"chain": {"family": "netdev", "table": "bareforge", "name": port_chains(TAP)[0]}}}])


def table_gone(host: Host) -> None:
    nftables.run([{"delete": {"table": {"family": "netdev", "name": "bareforge"}}}])


def rule_added(host: Host) -> None:
    rule = {"family": "netdev", "table": "bareforge", "chain": port_chains(TAP)[0], "expr": [{"accept": None}]}
    nftables.run([{"insert": {"rule": rule}}])


def other_mac(host: Host) -> None:
    host.nics["web"][TAP] = "52:54:00:00:00:cc"


def file_changed(host: Host) -> None:
    path = Path(folder_of("web")) / f"{TAP}.apply.json"
    data = json.loads(path.read_text())
    data["nftables"].pop()
    path.write_text(json.dumps(data))


def hook_gone(host: Host) -> None:
    os.unlink(port_acl_module.HOOK_FILE)


def hook_disabled(host: Host) -> None:
    os.chmod(port_acl_module.HOOK_FILE, 0o644)
    # Root may execute what anybody may.


@pytest.mark.parametrize(
    "tamper", [chain_flushed, table_gone, rule_added, other_mac, file_changed, hook_gone, hook_disabled]
)
def test_drift_shows_and_is_mended(host: Host, in_kernel: Any, tamper: Any) -> None:
    def work() -> None:
        host.start()
        host.apply(ACL)
        tamper(host)
        assert host.apply(ACL, check=True) == [("update", "web/eth0", ("mac_spoofing",))]
        assert host.apply(ACL) == [("update", "web/eth0", ("mac_spoofing",))]
        assert host.apply(ACL) == []
        assert link_local_address(host.nics["web"][TAP]) in json.dumps(nftables.list_table(*PORT_TABLE))

    in_kernel(work)


def test_refresh_follows_a_nic_and_touches_no_other(host: Host, in_kernel: Any) -> None:
    other = tap_name("db", "eth0")
    host.nics["db"] = {other: "52:54:00:00:00:dd"}

    def work() -> None:
        host.apply(ACL, {**ACL, "vm": "db"})
        host.start()
        host.start(other)
        KvmPortAcl(None).refresh(["web"])
        assert host.chains == list(port_chains(TAP))
        other_mac(host)
        KvmPortAcl(None).refresh(["web"])
        assert host.apply(ACL) == []

    in_kernel(work)


def test_what_the_same_run_did_to_the_vm_is_followed(host: Host, in_kernel: Any) -> None:
    acl = PortAcl.parse(ACL).complete(None)
    vm = Vm.parse({"name": "web"})

    def work() -> None:
        host.apply(ACL)
        host.start()
        context = Context({}, {}, Operation())
        KvmPortAcl(None).finish([Change(acl, acl)], context)
        assert host.chains == [], "nothing was done to the VM"
        context.done(Change(vm, vm))
        KvmPortAcl(None).finish([Change(acl, acl)], context)
        assert host.chains == list(port_chains(TAP))

    in_kernel(work)


def test_what_is_left_of_a_vm_that_is_gone_is_removed(host: Host, in_kernel: Any) -> None:
    def work() -> None:
        host.apply(ACL)
        host.nics.clear()
        assert gather(OnlyPortAcls()) == {"port_acls": []}
        OnlyPortAcls().recover()
        assert host.files == []
        assert list((host.root / "acls").iterdir()) == []

    in_kernel(work)


@pytest.mark.parametrize("point", ["run", "write_json", "remove_file"])
def test_killed_at_any_step_converges(host: Host, in_kernel: Any, monkeypatch: pytest.MonkeyPatch, point: str) -> None:
    calls: list[Any] = []

    def work() -> None:
        host.start()
        host.apply(ACL)
        for wanted in ({**ACL, "router_guard": False}, {**ACL, "state": "absent"}):
            for number in range(1, 5):
                with monkeypatch.context() as patch:
                    owner: Any = nftables if point == "run" else port_acl_module
                    original = getattr(owner, point)
                    calls.clear()

                    def maybe(*arguments: Any, _original: Any = original, _number: int = number) -> Any:
                        calls.append(arguments)
                        if len(calls) == _number:
                            raise Killed
                        return _original(*arguments)

                    patch.setattr(owner, point, maybe)
                    try:
                        host.apply(wanted)
                        if len(calls) < number:
                            continue
                    except Killed:
                        pass
                host.apply(wanted)
                assert host.apply(wanted) == []
                assert (host.chains == []) == ("state" in wanted)
                assert (host.files == []) == ("state" in wanted)
                host.apply(ACL)

    in_kernel(work)


def test_prepared_acl_is_there_before_the_vm(host: Host, in_kernel: Any) -> None:
    vm = Vm.parse({"name": "new", "memory": {"size": 64}, "nics": [{"name": "eth0", "network": "n"}]}).complete(None)
    acl = PortAcl.parse({**ACL, "vm": "new"}).complete(None)

    def work() -> None:
        KvmPortAcl(None).prepare(vm, Context({}, {"port_acl": {acl.key: acl}}, Operation()))
        host.nics["new"] = {tap_name("new", "eth0"): mac_address("new", "eth0")}
        assert host.apply({**ACL, "vm": "new"}) == []

    in_kernel(work)


def test_nic_without_a_fixed_device_is_refused(host: Host, in_kernel: Any) -> None:
    host.nics["web"] = {"vnet3": MAC}
    with pytest.raises(
        ValidateError, match=r"port_acl\['web/eth0'\].nic: VM 'web' gives this NIC no fixed device name"
    ):
        in_kernel(lambda: host.apply(ACL))
    host.nics.clear()
    with pytest.raises(ApplyError, match="VM 'web' shows no NIC 'eth0'"):
        in_kernel(lambda: host.apply(ACL))


@pytest.mark.parametrize("content", ["{", "{}", '{"bareforge": {"port_acl": {"vm": 1}}, "nftables": []}'])
def test_file_that_is_not_ours_is_named(host: Host, in_kernel: Any, content: str) -> None:
    in_kernel(lambda: host.apply(ACL))
    path = Path(folder_of("web")) / f"{TAP}.apply.json"
    path.write_text(content)
    with pytest.raises(ReadError, match=str(path)):
        gather(OnlyPortAcls())


# -- The hook --------------------------------------------------------------------------------------------------------


@pytest.fixture
def hook(host: Host, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the hook with an nft that notes the files it is given, and fails on those whose name is listed."""
    nft = tmp_path / "nft"
    nft.write_text(f'#!/bin/sh\necho "$3" >> {tmp_path}/log\ncase "$3" in *"$NFT_FAILS"*) exit 1 ;; esac\n')
    nft.chmod(0o755)
    text = port_acl_module.HOOK_TEXT.replace("/usr/sbin/nft", str(nft))
    text = text.replace("/etc/bareforge/port_acls", str(tmp_path / "acls"))
    script = tmp_path / "hook"
    script.write_text(text)
    script.chmod(0o755)

    def call(vm: str, operation: str, phase: str, fails: str = "nothing") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(script), vm, operation, phase, "-"],
            input="<domain/>",
            capture_output=True,
            text=True,
            check=False,
            env={"NFT_FAILS": fails},
        )

    return call


NAMES = ["web", "a b", "$(reboot)", "-e", "\u00fc/..", "*", "'\""]


@pytest.mark.parametrize("name", NAMES)
def test_hook_applies_what_belongs_to_the_vm(host: Host, hook: Any, tmp_path: Path, name: str) -> None:
    for vm in (name, "other"):
        acl = PortAcl.parse({**ACL, "vm": vm}).complete(None)
        port_acl_module.StoredAcl.made_for(acl, MAC).save()
    path = f"{folder_of(name)}/{tap_name(name, 'eth0')}"
    assert hook(name, "start", "begin").returncode == 0
    assert (tmp_path / "log").read_text().splitlines() == [f"{path}.apply.json"]
    assert hook(name, "release", "end").returncode == 0
    assert (tmp_path / "log").read_text().splitlines()[1:] == [f"{path}.remove.json"]


@pytest.mark.parametrize(("operation", "phase"), [("prepare", "begin"), ("started", "begin"), ("stopped", "end")])
def test_hook_leaves_other_operations_alone(host: Host, hook: Any, tmp_path: Path, operation: str, phase: str) -> None:
    port_acl_module.StoredAcl.made_for(PortAcl.parse(ACL).complete(None), MAC).save()
    assert hook("web", operation, phase).returncode == 0
    assert not (tmp_path / "log").exists()


def test_hook_leaves_other_vms_alone(host: Host, hook: Any, tmp_path: Path) -> None:
    assert hook("web", "start", "begin").returncode == 0
    assert not (tmp_path / "log").exists()


def test_vm_whose_acl_cannot_be_put_in_force_does_not_start(host: Host, hook: Any, tmp_path: Path) -> None:
    for nic in ("eth0", "eth1"):
        port_acl_module.StoredAcl.made_for(PortAcl.parse({**ACL, "nic": nic}).complete(None), MAC).save()
    assert hook("web", "start", "begin", TAP).returncode == 1
    assert len((tmp_path / "log").read_text().splitlines()) == 2


def test_nics_are_told_by_their_devices() -> None:
    xml = """<domain><devices>
      <interface type='network'><mac address='52:54:00:00:00:AA'/><target dev='bf1'/></interface>
      <interface type='network'><mac address='52:54:00:00:00:bb'/></interface>
      <interface type='network'><target dev='bf3'/></interface>
    </devices></domain>"""
    assert nic_addresses(xml) == {"bf1": "52:54:00:00:00:aa"}
