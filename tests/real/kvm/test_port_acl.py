# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Port ACLs of a real KVM host, by frames through Open vSwitch.

The filtered VM is defined and stopped; a cable into a network namespace stands in the place of its tap device, with the
same name and on the same port of the switch, so that every frame can be made by hand. One VM really runs, for the hook.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from ..real_host import REMOTE, ROOT, OnHostError, RealHost

VM4, PEER4 = "192.0.2.7", "192.0.2.1"
VM6, PEER6 = "2001:db8::7", "2001:db8::1"
NETWORKS = {
    "virtual_switches": [{"name": "aclswitch", "type": "internal"}],
    "virtual_networks": [{"name": "aclnet", "switch": "aclswitch", "vlan": 10}],
}
NIC = {"name": "eth0", "network": "aclnet", "mac": "52:54:00:00:00:aa"}
VM = {"name": "filtered", "memory": {"size": 64}, "disks": [], "nics": [NIC], "power": "stopped"}


def tap(vm: str, nic: str) -> str:
    from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.names import tap_name

    return tap_name(vm, nic)


def acl(**fields: Any) -> dict[str, Any]:
    return {"port_acls": [{"vm": "filtered", "nic": "eth0", **fields}]}


def remove_everything() -> None:
    import glob

    import host_tools

    for name in host_tools.output("virsh", "list", "--all", "--name").split():
        if name in ("filtered", "runs"):
            host_tools.output("virsh", "destroy", name, check=False)
            host_tools.output("virsh", "undefine", "--nvram", name, check=False)
    for namespace in ("aclvm", "aclpeer"):
        host_tools.output("ip", "netns", "delete", namespace, check=False)
    for device in [*glob.glob("/sys/class/net/bf*"), "aclport"]:
        host_tools.output("ip", "link", "delete", device.rpartition("/")[2], check=False)
    host_tools.output("ovs-vsctl", "--if-exists", "del-br", "aclswitch")
    for action in ("net-destroy", "net-undefine"):
        host_tools.output("virsh", action, "aclswitch", check=False)
    disks = [f"/var/lib/libvirt/images/bareforge/{name}" for name in ("filtered", "runs")]
    host_tools.output("rm", "-rf", "/etc/bareforge/port_acls", *disks)
    host_tools.output("nft", "delete", "table", "netdev", "bareforge", check=False)


def connect(device: str, port: list[str]) -> None:
    """Put a cable in the place of a VM's tap device, and one to a peer, on the switch."""
    import host_tools

    host_tools.output("ip", "netns", "add", "aclvm")
    host_tools.output("ip", "netns", "add", "aclpeer")
    for name, namespace, end in ((device, "aclvm", "vm"), ("aclport", "aclpeer", "peer")):
        host_tools.output(*("ip", "link", "add", name, "type", "veth", "peer", "name", end, "netns", namespace))
        host_tools.output("ip", "link", "set", name, "up")
        script = f"echo 1 > /proc/sys/net/ipv6/conf/{end}/disable_ipv6; ip link set {end} up"
        host_tools.output("ip", "netns", "exec", namespace, "sh", "-eu", "-c", script)
        host_tools.output("ovs-vsctl", "add-port", "aclswitch", name, *port)


def send(tags: list[int]) -> list[list[str]]:
    """Send every frame there is from the VM; return what got through and should not have, and what did not."""
    import frames

    sent, passing = frames.from_vm_frames(tags)
    arrived = frames.exchange_between(("aclvm", "vm"), ("aclpeer", "peer"), sent)
    return [sorted(arrived - passing), sorted(passing - arrived)]


@pytest.fixture(scope="module")
def switch(host: RealHost) -> Iterator[RealHost]:
    source = (ROOT / "tests" / "support" / "frames.py").read_text(encoding="utf-8")
    host.run("sh", "-c", f"cat > {REMOTE}/frames.py", stdin=source)
    host.shell("modprobe kvm_amd || modprobe kvm_intel || true")
    host.on_host(remove_everything)
    host.apply({**NETWORKS, "vms": [VM]})
    yield host
    host.on_host(remove_everything)


@pytest.fixture
def vm(switch: RealHost) -> Iterator[RealHost]:
    """A host with the VM connected by an access port, and no ACL."""
    switch.on_host(connect, device=tap("filtered", "eth0"), port=["tag=10"])
    yield switch
    disconnect(switch)


def disconnect(host: RealHost) -> None:
    device = tap("filtered", "eth0")
    host.shell(
        f"""
        for port in {device} aclport; do ovs-vsctl --if-exists del-port $port; ip link delete $port || true; done
        ip netns delete aclvm || true; ip netns delete aclpeer || true
        rm -rf /etc/bareforge/port_acls
        nft delete table netdev bareforge || true
        """,
        check=False,
    )


@pytest.mark.capability("kvm", "port_acl", "port_acl.mac_spoofing", "port_acl.allowed_ipv4", ran_against="real")
@pytest.mark.capability(
    "kvm", "port_acl.allowed_ipv6", "port_acl.dhcp_guard", "port_acl.router_guard", ran_against="real"
)
def test_spoofed_and_forbidden_frames_are_dropped(vm: RealHost) -> None:
    leaked, lost = vm.on_host(send, tags=[])
    assert lost == [], "the cables do not carry what should pass"
    assert {"IPv4 from another MAC", "DHCP offer", "router advertisement", "ARP for another address"} <= set(leaked)

    document = acl(allowed_ipv4=[VM4], allowed_ipv6=[VM6])
    assert vm.apply(document)["changed"]
    assert vm.on_host(send, tags=[]) == [[], []]
    assert not vm.apply(document)["changed"]
    assert not vm.apply(document, check=True)["changed"]
    assert not vm.apply(vm.gather("port_acl"))["changed"]

    result = vm.apply(acl(mac_spoofing=True, dhcp_guard=False, router_guard=False))
    assert [change["fields"] for change in result["changes"]] == [["mac_spoofing", "dhcp_guard", "router_guard"]]
    leaked, lost = vm.on_host(send, tags=[])
    assert lost == []
    assert {"IPv4 from another MAC", "DHCP offer", "router advertisement"} <= set(leaked)
    assert "IPv4 from another address" not in leaked

    assert vm.apply({"port_acls": [{"vm": "filtered", "nic": "eth0", "state": "absent"}]})["changed"]
    assert "ARP for another address" in vm.on_host(send, tags=[])[0]
    assert vm.run("find", "/etc/bareforge/port_acls", "-type", "f") == ""


def test_vlan_tags_are_no_way_around_on_a_trunk(switch: RealHost) -> None:
    switch.on_host(
        connect, device=tap("filtered", "eth0"), port=["tag=10", "trunks=30,31", "vlan_mode=native-untagged"]
    )
    try:
        leaked, lost = switch.on_host(send, tags=[30])
        assert lost == []
        assert "IPv4 from another address" in leaked
        switch.apply(acl(allowed_ipv4=[VM4], allowed_ipv6=[VM6]))
        assert switch.on_host(send, tags=[30]) == [[], []]
        assert switch.on_host(send, tags=[]) == [[], []]
        # Nothing at all with a second tag, in which the chains cannot look.
        leaked, lost = switch.on_host(send, tags=[30, 31])
        assert leaked == []
        assert "IPv4" in lost
    finally:
        disconnect(switch)


@pytest.mark.capability("kvm", "port_acl.rules", ran_against="real")
def test_rules_allow_and_deny_by_direction(vm: RealHost) -> None:
    def probe() -> Any:
        import frames

        def tcp(sender: str, receiver: str, port: int, **ends: str) -> bytes:
            kind, packet = (frames.IP6, frames.ipv6) if ":" in sender else (frames.IP4, frames.ipv4)
            return frames.ethernet(kind, packet(sender, receiver, frames.TCP, frames.tcp(9, port)), **ends)

        inward = {"source": frames.PEER_MAC, "target": frames.VM_MAC}
        to_vm = {
            "22 from peer": tcp(frames.PEER4, frames.VM4, 22, **inward),
            "22 from peer by IPv6": tcp(frames.PEER6, frames.VM6, 22, **inward),
            "22 from other": tcp(frames.OTHER4, frames.VM4, 22, **inward),
            "80 from peer": tcp(frames.PEER4, frames.VM4, 80, **inward),
            "arp": frames.ethernet(frames.ARP, frames.arp(frames.PEER_MAC, frames.PEER4, frames.VM4), **inward),
        }
        from_vm = {
            "25 to peer": tcp(frames.VM4, frames.PEER4, 25),
            "25 to other": tcp(frames.VM4, frames.OTHER4, 25),
            "443 to peer": tcp(frames.VM4, frames.PEER4, 443),
        }
        return [
            sorted(frames.exchange_between(("aclpeer", "peer"), ("aclvm", "vm"), to_vm)),
            sorted(frames.exchange_between(("aclvm", "vm"), ("aclpeer", "peer"), from_vm)),
        ]

    everything = vm.on_host(probe)
    assert [len(part) for part in everything] == [5, 3]
    vm.apply(
        acl(
            default_inbound="deny",
            rules=[
                {"name": "ssh", "action": "allow", "protocol": "tcp", "ports": ["22"], "remotes": [PEER4, PEER6]},
                {
                    "name": "relay",
                    "direction": "outbound",
                    "action": "allow",
                    "protocol": "tcp",
                    "remotes": ["192.0.2.9"],
                },
                {"name": "mail", "direction": "outbound", "protocol": "tcp", "ports": ["25"]},
            ],
        )
    )
    assert vm.on_host(probe) == [["22 from peer", "22 from peer by IPv6", "arp"], ["25 to other", "443 to peer"]]


def test_what_somebody_changed_by_hand_shows_and_is_mended(vm: RealHost) -> None:
    document = acl(allowed_ipv4=[VM4], allowed_ipv6=[VM6])
    vm.apply(document)
    for tamper in (
        f"nft flush chain netdev bareforge from_{tap('filtered', 'eth0')}",
        "nft delete table netdev bareforge",
        "chmod 0644 /etc/libvirt/hooks/qemu.d/bareforge",
    ):
        vm.shell(tamper)
        assert vm.apply(document, check=True)["changed"], tamper
        assert [change["fields"] for change in vm.apply(document)["changes"]] == [["mac_spoofing"]], tamper
        assert not vm.apply(document)["changed"], tamper
    assert vm.on_host(send, tags=[]) == [[], []]


def test_another_mac_of_the_vm_is_followed(vm: RealHost) -> None:
    document = acl(allowed_ipv4=[VM4], allowed_ipv6=[VM6])
    vm.apply(document)
    try:
        vm.apply({"vms": [{"name": "filtered", "nics": [{**NIC, "mac": "52:54:00:00:00:cc"}]}]})
        vm.apply(document)
        assert not vm.apply(document)["changed"]
        leaked, lost = vm.on_host(send, tags=[])
        assert "IPv4 from another MAC" in leaked, "52:54:00:00:00:cc is its own now"
        assert "IPv4" in lost
    finally:
        vm.apply({"vms": [{"name": "filtered", "nics": [NIC]}]})


def test_running_vm_is_filtered_from_its_start_and_not_started_unfiltered(switch: RealHost) -> None:
    runs = {"name": "runs", "memory": {"size": 64}, "disks": [], "nics": [{"name": "eth0", "network": "aclnet"}]}
    device = tap("runs", "eth0")
    wanted = {
        "vms": [{**runs, "power": "stopped"}],
        "port_acls": [{"vm": "runs", "nic": "eth0", "allowed_ipv4": [VM4]}],
    }
    assert switch.apply(wanted)["changed"]
    assert "chain" not in switch.run("nft", "list", "ruleset", "netdev", check=False)

    assert switch.apply({"vms": [{**runs, "power": "running"}]})["changed"]
    chains = switch.run("nft", "list", "table", "netdev", "bareforge")
    assert f'hook ingress device "{device}"' in chains
    assert f"ip saddr != {{ 0.0.0.0, {VM4} }} drop" in chains
    assert not switch.apply({"port_acls": wanted["port_acls"]})["changed"]

    switch.run("virsh", "destroy", "runs")
    assert device not in switch.run("nft", "list", "ruleset")

    # Fail closed: rules that the kernel does not take keep the VM from starting.
    path = switch.run("find", "/etc/bareforge/port_acls", "-name", f"{device}.apply.json")
    switch.run("sed", "-i", "s/ingress/nonsense/", path)
    with pytest.raises(OnHostError, match=r"(?i)hook script execution failed"):
        switch.apply({"vms": [{**runs, "power": "running"}]})
    assert switch.run("virsh", "domstate", "runs") == "shut off"
    switch.apply({"port_acls": wanted["port_acls"]})
    assert switch.apply({"vms": [{**runs, "power": "running"}]})["changed"]

    switch.apply({"vms": [{"name": "runs", "state": "absent"}]}, operation={"shutdown_timeout": 0, "force_off": True})
    assert device not in switch.run("nft", "list", "ruleset")
    assert switch.run("find", "/etc/bareforge/port_acls", "-name", f"{device}*", check=False) == ""


def make_and_die_before_its_acl(document: dict[str, Any]) -> bool:
    """Make a VM in a process that dies where its ACL would be applied; return whether it got there."""
    import os

    import host_tools

    from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.port_acl import KvmPortAcl

    child = os.fork()
    if child == 0:
        KvmPortAcl.apply = lambda *_arguments: os._exit(77)  # type: ignore[method-assign]
        try:
            host_tools.apply(document)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 77


def test_a_new_vm_and_a_new_nic_are_filtered_before_their_acl_is_applied(switch: RealHost) -> None:
    nic = {"name": "eth0", "network": "aclnet"}
    runs = {"name": "runs", "memory": {"size": 64}, "disks": [], "nics": [nic], "power": "running"}
    wanted = {"vms": [runs], "port_acls": [{"vm": "runs", "nic": "eth0", "allowed_ipv4": [VM4]}]}

    def chains(name: str) -> bool:
        return f'hook ingress device "{tap("runs", name)}"' in switch.run("nft", "list", "ruleset")

    assert switch.on_host(make_and_die_before_its_acl, document=wanted)
    assert switch.run("virsh", "domstate", "runs") == "running"
    assert chains("eth0")

    wanted["vms"] = [{**runs, "nics": [nic, {**nic, "name": "eth1"}]}]
    wanted["port_acls"].append({"vm": "runs", "nic": "eth1", "allowed_ipv4": [VM4]})
    assert switch.on_host(make_and_die_before_its_acl, document=wanted)
    assert chains("eth1")

    switch.apply(wanted)
    assert not switch.apply(wanted)["changed"]
    switch.apply({"vms": [{"name": "runs", "state": "absent"}]}, operation={"shutdown_timeout": 0, "force_off": True})


def test_a_vm_that_is_off_and_given_another_mac_address_starts_filtered_for_it(switch: RealHost) -> None:
    nic = {"name": "eth0", "network": "aclnet"}
    runs = {"name": "runs", "memory": {"size": 64}, "disks": [], "nics": [nic], "power": "stopped"}
    switch.apply({"vms": [runs], "port_acls": [{"vm": "runs", "nic": "eth0", "allowed_ipv4": [VM4]}]})
    before = switch.gather("vm")["vms"]
    (old,) = [vm["nics"][0]["mac"] for vm in before if vm["name"] == "runs"]
    moved = {**runs, "nics": [{**nic, "mac": "52:54:00:00:00:bb"}], "power": "running"}
    switch.apply({"vms": [moved]})
    rules = switch.run("nft", "list", "table", "netdev", "bareforge")
    assert "52:54:00:00:00:bb" in rules
    assert old not in rules
    assert not switch.apply(switch.gather("port_acl"))["changed"]
    switch.apply({"vms": [{"name": "runs", "state": "absent"}]}, operation={"shutdown_timeout": 0, "force_off": True})
