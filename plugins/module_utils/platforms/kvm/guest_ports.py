# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What ports of VMs are told that libvirt does not tell them: by a hook when a VM starts, and at once while it runs.

A policy of each network is kept in one file on the host; the hook finds a port's by the libvirt network and port group
that the VM names, so it holds for VMs of others too. Ports of Open vSwitch that run are changed in the same transaction
as the switch; those of Linux bridges, and filters, from here.
"""

from __future__ import annotations

from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Set, Tuple

from ...model.network import SwitchSecurity, VirtualNetwork, VirtualSwitch
from ...model.types import range_bounds
from ...transports import nftables
from . import guest_ports_hook, host_devices, libvirt_networks, linux_bridge, port_acl
from .guest_ports_hook import POLICIES, TABLE, chains_of, filter_commands, is_filtered
from .host_files import read_file, read_json, remove_file, source_of, write_atomically, write_json
from .libvirt_networks import GuestPort
from .linux_bridge import PortVlans, Wanted
from .systemd import run_command
from .virtual_network import is_tunnel

FOLDER = "/etc/bareforge"
SCRIPT = "guest_ports.py"
HOOK_FILE = "/etc/libvirt/hooks/qemu.d/bareforge-networks"
# It runs at every operation of every guest, so it is a shell script that mostly just exits.
HOOK_TEXT = f"""\
#!/bin/sh
# Written by Bareforge: tells the ports of a guest what its networks ask for, before it runs.
case "$2 $3" in
  "start begin") ;;
  *) exit 0 ;;
esac
[ -e {FOLDER}/{POLICIES} ] || exit 0
exec /usr/bin/python3 -I {FOLDER}/{SCRIPT}
"""

Policy = Dict[str, Any]
Policies = Dict[str, Dict[str, Policy]]


def policy_of(network: VirtualNetwork, switch: VirtualSwitch) -> Policy:
    """Return what ports of a network are told; empty where libvirt tells them all. Both are complete."""
    allowed = _allowed(network.security, switch.security)
    filters = {
        "drop_forged": allowed["forged_transmits"] is False,
        # What a guest that has changed its address would get is what is sent to that one.
        "drop_others": allowed["mac_changes"] is False or allowed["promiscuous"] is False,
    }
    policy: Policy = {name: True for name, value in filters.items() if value}
    if network.isolated:
        policy["isolated"] = True
    if linux_bridge.is_linux(switch):
        spans = [list(range_bounds(entry)) for entry in network.trunk or ()]
        return {"kind": "linux_bridge", "vlan": network.vlan or 0, "trunk": spans, **policy}
    if is_tunnel(network):
        policy["tunnel"] = True
    return {"kind": "openvswitch", **policy} if policy else {}


def _allowed(*levels: Optional[SwitchSecurity]) -> Dict[str, Optional[bool]]:
    """Return what ports may do: the first level that says something of it decides."""
    found: Dict[str, Optional[bool]] = {}
    for name in ("promiscuous", "mac_changes", "forged_transmits"):
        said = (getattr(level, name) for level in levels if level is not None)
        found[name] = next((value for value in said if value is not None), None)
    return found


def policies_of(networks: Iterable[VirtualNetwork], switches: Mapping[str, VirtualSwitch]) -> Policies:
    """Return the policies of networks by switch and network. switches: those of ours, as they were asked for."""
    found: Policies = {}
    for network in networks:
        switch = switches.get(str(network.switch))
        policy = policy_of(network, switch) if switch is not None else {}
        if policy:
            found.setdefault(str(network.switch), {})[str(network.name)] = policy
    return found


def are_in_use() -> bool:
    """Return whether the hook tells anything to any port."""
    return read_file(f"{FOLDER}/{POLICIES}") is not None


def are_stored(policies: Policies) -> bool:
    """Return whether the hook would tell ports what policies say. Raises ReadError."""
    if not policies:
        return read_file(f"{FOLDER}/{POLICIES}") is None
    return (
        read_json(f"{FOLDER}/{POLICIES}") == policies
        and read_file(f"{FOLDER}/{SCRIPT}") == source_of(guest_ports_hook)
        and port_acl.hook_is_installed(HOOK_FILE, HOOK_TEXT)
    )


def store(policies: Policies) -> None:
    """Let the hook tell ports what policies say from now on. Raises ApplyError or ReadError."""
    if are_stored(policies):
        return
    if not policies:
        # The hook does nothing without this file, so it goes first.
        for path in (f"{FOLDER}/{POLICIES}", f"{FOLDER}/{SCRIPT}", HOOK_FILE):
            remove_file(path)
        return
    write_atomically(f"{FOLDER}/{SCRIPT}", source_of(guest_ports_hook), 0o644)
    write_json(f"{FOLDER}/{POLICIES}", policies, 0o644)
    port_acl.install_hook(HOOK_FILE, HOOK_TEXT)


# -- Ports that are there ----------------------------------------------------------------------------------------------


def _present(ports: Iterable[GuestPort]) -> List[Tuple[GuestPort, str]]:
    return [(port, port.device) for port in ports if port.device and host_devices.exists(port.device)]


def tell(ports: Sequence[GuestPort], policies: Policies) -> None:
    """Tell ports of running VMs what their networks say. ports: those to be told. Raises ApplyError or ReadError."""
    wanted: Dict[str, Wanted] = {}
    commands: List[nftables.Command] = []
    there = _chains()
    for port, device in _present(ports):
        policy = policies.get(port.switch, {}).get(port.network, {})
        if policy.get("kind") == "linux_bridge":
            wanted[device] = _wanted(policy)
        if is_filtered(policy) or there & set(chains_of(device)):
            commands += filter_commands(device, str(port.mac), policy)
    linux_bridge.put_ports(wanted)
    if commands:
        nftables.run(commands)


def tell_vm(vm: str) -> None:
    """Tell the ports of a running VM what the hook would tell them, since that runs only when it starts.

    Raises ApplyError or ReadError.
    """
    policies = read_json(f"{FOLDER}/{POLICIES}") or {}
    if not policies:
        return
    ports = [port for port in libvirt_networks.guest_ports(running_only=True) if port.vm == vm]
    for port, device in _present(ports):
        policy = policies.get(port.switch, {}).get(port.network, {})
        for argv, given in guest_ports_hook.programs(device, str(port.mac), policy) if policy else ():
            if policy["kind"] == "openvswitch" and "ovs-vsctl" in argv[0]:
                run_command(argv, given=given)
    tell(ports, policies)


def _wanted(policy: Policy) -> Wanted:
    tagged = frozenset(number for first, last in policy.get("trunk", ()) for number in range(first, last + 1))
    native = policy.get("vlan") or guest_ports_hook.UNTAGGED
    return Wanted(PortVlans(native, tagged), bool(policy.get("isolated")))


def _chains() -> Set[str]:
    return {entry["chain"]["name"] for entry in nftables.list_table(*TABLE) or () if "chain" in entry}


def untold(ports: Sequence[GuestPort], policies: Policies, vlans: Mapping[str, PortVlans]) -> Set[Tuple[str, str]]:
    """Return (switch, network) of ports of running VMs that are not as their networks say.

    vlans: what ports of Linux bridges carry. Raises ReadError.
    """
    found: Set[Tuple[str, str]] = set()
    present = _present(ports)
    commands: List[nftables.Command] = []
    devices: List[str] = []
    for port, device in present:
        policy = policies.get(port.switch, {}).get(port.network, {})
        if policy.get("kind") == "linux_bridge":
            wanted = _wanted(policy)
            if vlans.get(device) != wanted.vlans or linux_bridge.is_isolated(device) != wanted.isolated:
                found.add((port.switch, port.network))
        if is_filtered(policy):
            commands += filter_commands(device, str(port.mac), policy)
            devices.append(device)
    shown = port_acl.by_chain(nftables.list_table(*TABLE)) if present else {}
    expected = port_acl.by_chain(nftables.preview(commands, [TABLE], devices)[TABLE]) if commands else {}
    for port, device in present:
        if any(shown.get(chain) != expected.get(chain) for chain in chains_of(device)):
            found.add((port.switch, port.network))
    return found
