# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The guard on a real KVM host: changes that cut the controller off are undone by the host itself."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from ..real_host import OnHostError, RealHost

TIMEOUT = 30
# Beside the timer itself: a new connection and the undo under emulation on a busy machine.
SLACK = 90
WRONG = {"firewall": {"management_sources": ["203.0.113.0/24"]}}


def clean_up() -> None:
    import glob
    import os
    import shutil

    import host_tools

    for path in glob.glob("/var/lib/bareforge/guard/*"):
        host_tools.output("systemctl", "stop", f"bareforge-guard-{os.path.basename(path)}.timer", check=False)
        shutil.rmtree(path)
    host_tools.output("nft", "delete", "table", "inet", "bareforge", check=False)
    units = glob.glob("/etc/systemd/system/**/bareforge-guard*", recursive=True)
    host_tools.output("rm", "-f", "/etc/bareforge/firewall.json", *units)


@pytest.fixture(autouse=True)
def nothing_armed(host: RealHost) -> Iterator[None]:
    host.on_host(clean_up)
    yield
    host.on_host(clean_up)


def apply_unseen(document: Any, seconds: int) -> Any:
    """Apply a document under the guard, with a controller that validation cannot see and therefore not protect."""
    import host_tools

    from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm import controller

    controller.controller_connection = lambda *_arguments: None
    return host_tools.apply(document, operation={"guard": {"enabled": True, "timeout": seconds}})


def confirm(token: str) -> None:
    from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.platform import KvmPlatform

    KvmPlatform().guard().confirm(token)


def lasting(host: RealHost) -> list[str]:
    """Return what a guard leaves on a host."""
    return host.run(
        *("find", "/var/lib/bareforge/guard", "/etc/systemd/system", "(", "-name", "bareforge-guard*", "-o"),
        *("-path", "/var/lib/bareforge/guard/*", ")"),
        check=False,
    ).splitlines()


def wait_until_undone(host: RealHost, started: float) -> None:
    assert not host.answers(timeout=8), "the change was meant to cut the controller off"
    while not host.answers(timeout=15):
        assert time.monotonic() < started + TIMEOUT + SLACK, "the host has not undone it"
        time.sleep(1)


def test_firewall_that_drops_ssh_is_undone_by_the_host(host: RealHost) -> None:
    before = {"firewall": {}, "firewall_rules": [{"name": "web", "service": "http"}]}
    host.apply(before)
    table = host.run("nft", "list", "table", "inet", "bareforge")
    started = time.monotonic()
    result = host.on_host(apply_unseen, document=WRONG, seconds=TIMEOUT)
    assert result["guard"]["guarded"] == ["firewall"]
    wait_until_undone(host, started)
    assert host.run("nft", "list", "table", "inet", "bareforge") == table
    assert not host.apply(before)["changed"]
    with pytest.raises(OnHostError, match=r"were undone at .* nobody had confirmed") as late:
        host.on_host(confirm, fresh=True, token=result["guard"]["token"])
    assert late.value.kind == "GuardError"


def test_confirmed_change_stays(host: RealHost) -> None:
    result = host.on_host(apply_unseen, document={"firewall": {"log_denied": True}}, seconds=TIMEOUT)
    token = result["guard"]["token"]
    assert f"bareforge-guard-{token}.timer" in host.run("systemctl", "list-timers", "--all")
    host.on_host(confirm, fresh=True, token=token)
    assert f"bareforge-guard-{token}" not in host.run("systemctl", "list-timers", "--all")
    assert lasting(host) == [f"/var/lib/bareforge/guard/{token}", f"/var/lib/bareforge/guard/{token}/confirmed"]
    host.on_host(confirm, fresh=True, token=token)
    assert "log prefix" in host.run("nft", "list", "table", "inet", "bareforge")


def test_killed_controller_is_as_good_as_silence_and_the_next_run_waits_for_it(host: RealHost) -> None:
    # Nobody confirms; the second run comes at once, as somebody would start it who has just pressed Ctrl-C.
    host.on_host(apply_unseen, document={"firewall": {"log_denied": True}}, seconds=12)
    result = host.apply({"firewall": {"default_outbound": "allow"}})
    assert [change["action"] for change in result["changes"]] == ["create"], "the first change was not undone before"
    assert "log prefix" not in host.run("nft", "list", "table", "inet", "bareforge")


def test_second_guard_is_refused_while_one_waits(host: RealHost) -> None:
    def arm_twice() -> None:
        from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.guard import KvmGuard

        KvmGuard().arm_parts(["firewall"], 300)
        KvmGuard().arm_parts(["sshd"], 300)

    with pytest.raises(OnHostError, match=r"waits for a confirmation .*one guard at a time"):
        host.on_host(arm_twice)


def test_failed_run_undoes_at_once(host: RealHost) -> None:
    def fail_to_verify() -> Any:
        import host_tools

        from ansible_collections.bareforge.hypervisor.plugins.module_utils.engine import runner
        from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import BareforgeError, VerifyError

        def refuse(*_arguments: Any) -> Any:
            raise VerifyError("did not take")

        setattr(runner, "_verify", refuse)  # noqa: B010 - the type is meant to differ
        try:
            host_tools.apply({"firewall": {}}, operation={"guard": {"enabled": True, "timeout": 300}})
        except BareforgeError as error:
            return error.details.get("guard")
        return "no error"

    assert host.on_host(fail_to_verify) == "the changes to the management path were undone"
    assert "bareforge" not in host.run("nft", "list", "tables", "inet")
    assert "bareforge-guard" not in host.run("systemctl", "list-timers", "--all")


def test_sshd_that_refuses_the_user_is_undone_by_the_host(host: RealHost) -> None:
    def refuse_everybody(seconds: int) -> None:
        import host_tools

        from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.guard import KvmGuard

        KvmGuard().arm_parts(["sshd"], seconds)
        with open("/etc/ssh/sshd_config.d/00-bareforge.conf", "w", encoding="ascii") as stream:
            stream.write("AllowUsers nobody\n")
        host_tools.output("systemctl", "reload", "ssh")

    started = time.monotonic()
    host.on_host(refuse_everybody, seconds=TIMEOUT)
    wait_until_undone(host, started)
    assert host.run("find", "/etc/ssh/sshd_config.d", "-name", "*bareforge*") == ""


def test_uplink_that_is_moved_away_is_undone_by_the_host(host: RealHost) -> None:
    device = host.run("sh", "-c", "ip -o route show default | sed 's/.* dev \\([^ ]*\\).*/\\1/' | head -n 1")
    addresses = host.run("ip", "-o", "-4", "address", "show", "dev", device).split()[3]
    bridges = host.run("ovs-vsctl", "list-br").splitlines()

    def move_later(device: str, seconds: int) -> None:
        import os
        import time

        import host_tools

        from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm import networkd
        from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.guard import KvmGuard

        KvmGuard().arm_parts(["network"], seconds)
        # In the background, so that the answer still gets out.
        if os.fork() == 0:
            os.setsid()
            time.sleep(2)
            networkd.write(device, networkd.uplink_file(device))
            host_tools.output("ovs-vsctl", "add-br", "stolen", "--", "add-port", "stolen", device)
            networkd.apply(True, [device])
            os._exit(0)

    started = time.monotonic()
    host.on_host(move_later, device=device, seconds=TIMEOUT)
    host.close()
    time.sleep(10)
    wait_until_undone(host, started)
    assert host.run("ip", "-o", "-4", "address", "show", "dev", device).split()[3] == addresses
    assert host.run("ovs-vsctl", "list-br").splitlines() == bridges
    assert host.run("find", "/etc/systemd/network", "-name", f"*bareforge-{device}*") == ""


def test_networks_of_libvirt_are_brought_back_as_they_run_and_as_they_start(host: RealHost) -> None:
    def change_and_undo() -> Any:
        import host_tools

        from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.guard import KvmGuard

        def write(path: str, text: str) -> str:
            with open(path, "w", encoding="ascii") as stream:
                stream.write(text)
            return path

        def group(name: str, vlan: int) -> str:
            return f"<portgroup name='{name}'><vlan><tag id='{vlan}'/></vlan></portgroup>"

        def state() -> Any:
            return [
                host_tools.output("virsh", "net-dumpxml", "guardnet"),
                host_tools.output("virsh", "net-dumpxml", "--inactive", "guardnet"),
                host_tools.output("ovs-vsctl", "get", "Port", "guardport", "tag"),
            ]

        host_tools.output("ovs-vsctl", "--may-exist", "add-br", "guardbr")
        host_tools.output(
            *("ovs-vsctl", "add-port", "guardbr", "guardport", "tag=5", "--", "set", "Interface", "guardport"),
            "type=internal",
        )
        xml = (
            "<network><name>guardnet</name><forward mode='bridge'/><bridge name='guardbr'/>"
            f"<virtualport type='openvswitch'/>{group('a', 5)}{group('b', 7)}</network>"
        )
        host_tools.output("virsh", "net-define", write("/run/guardnet.xml", xml))
        host_tools.output("virsh", "net-start", "guardnet")
        try:
            before = state()
            token = KvmGuard().arm_parts(["network"], 300)["token"]
            for verb, text in (("modify", group("a", 6)), ("delete", group("b", 7)), ("add-last", group("c", 8))):
                path = write("/run/guardgroup.xml", text)
                host_tools.output(*("virsh", "net-update", "guardnet", verb, "portgroup", path, "--live", "--config"))
            host_tools.output("ovs-vsctl", "set", "Port", "guardport", "tag=6")
            changed = state()
            KvmGuard().undo(token)
            return [before, changed, state()]
        finally:
            host_tools.output("virsh", "net-destroy", "guardnet")
            host_tools.output("virsh", "net-undefine", "guardnet")
            host_tools.output("ovs-vsctl", "del-br", "guardbr")

    before, changed, after = host.on_host(change_and_undo)
    assert all(old != new for old, new in zip(before, changed, strict=True))
    assert port_groups(after[0]) == port_groups(before[0])
    assert after[1:] == before[1:]


def port_groups(xml: str) -> dict[str, list[str]]:
    """Return the VLAN ids of a libvirt network's port groups."""
    from xml.etree import ElementTree

    groups = ElementTree.fromstring(xml).iterfind("portgroup")
    return {group.get("name", ""): [tag.get("id", "") for tag in group.iterfind("vlan/tag")] for group in groups}


def test_restart_while_the_guard_waits_undoes_at_boot(host: RealHost) -> None:
    result = host.on_host(apply_unseen, document={"firewall": {"log_denied": True}}, seconds=600)
    assert host.run("find", "/etc/bareforge/firewall.json")
    host.reboot()
    deadline = time.monotonic() + SLACK
    while "bareforge" in host.run("nft", "list", "tables", "inet") and time.monotonic() < deadline:
        time.sleep(1)
    assert "bareforge" not in host.run("nft", "list", "tables", "inet")
    assert host.run("sh", "-c", "ls /etc/bareforge/firewall.json", check=False) == ""
    with pytest.raises(OnHostError, match=r"were undone at"):
        host.on_host(confirm, token=result["guard"]["token"])
    assert [path for path in lasting(host) if path.startswith("/etc")] == []
