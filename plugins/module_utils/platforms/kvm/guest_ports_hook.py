# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a port of a VM has to be told that libvirt does not tell it: run by libvirt's hook, and by the engine.

The source of this module is copied to the host, so it imports nothing but the standard library. The file of policies
beside it says what ports are told, by libvirt network and port group:

`kind`: `openvswitch` or `linux_bridge`.
`vlan`, `trunk`: on a Linux bridge, the VLAN of untagged frames and the spans `[first, last]` that are carried tagged.
`isolated`: whether the port talks to the uplink and the host only.
`tunnel`: on Open vSwitch, whether the port puts all that it gets, tagged or not, into its VLAN (IEEE 802.1ad).
`drop_forged`: whether frames from other MAC addresses than the NIC's are dropped.
`drop_others`: whether frames to other MAC addresses than the NIC's, except those to groups, are dropped.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any, Dict, Iterator, List, Tuple
from xml.etree import ElementTree

POLICIES = "guest_ports.json"
TABLE = ("netdev", "bareforge_networks")
UNTAGGED = 1
"""The VLAN that a Linux bridge keeps untagged frames in, since it has no VLAN 0."""

Command = Dict[str, Any]


def chains_of(device: str) -> Tuple[str, str]:
    """Return the names of the chains for what a VM sends and for what it is sent, by the name of its tap device."""
    return f"from_{device}", f"to_{device}"


def bridge_lines(device: str, policy: Dict[str, Any]) -> List[str]:
    """Return what bridge(8) is told of a port of a Linux bridge that carries no VLAN yet."""
    native = policy.get("vlan") or UNTAGGED
    lines = [f"vlan add dev {device} vid {native} pvid untagged"]
    lines += [
        f"vlan add dev {device} vid {first}" + (f"-{last}" if last != first else "")
        for first, last in policy.get("trunk", ())
    ]
    lines.append(f"link set dev {device} isolated {'on' if policy.get('isolated') else 'off'}")
    return lines


def filter_commands(device: str, mac: str, policy: Dict[str, Any]) -> List[Command]:
    """Return the commands of libnftables-json(5) that filter a port, whatever filters it now; none of them lasts."""
    family, table = TABLE
    own = {"family": family, "table": table}
    sent, received = chains_of(device)
    rules = {sent: [], received: []}  # type: Dict[str, List[Any]]
    address = {"payload": {"protocol": "ether", "field": "saddr"}}
    target = {"payload": {"protocol": "ether", "field": "daddr"}}
    if policy.get("drop_forged"):
        rules[sent].append([{"match": {"op": "!=", "left": address, "right": mac}}, {"drop": None}])
    if policy.get("drop_others"):
        # Groups have the lowest bit of the first byte set (IEEE 802).
        one = {"&": [target, "01:00:00:00:00:00"]}
        to_one = {"match": {"op": "==", "left": one, "right": "00:00:00:00:00:00"}}
        rules[received].append([to_one, {"match": {"op": "!=", "left": target, "right": mac}}, {"drop": None}])
    commands = [{"add": {"table": {"family": family, "name": table}}}]  # type: List[Command]
    for name, hook in ((sent, "ingress"), (received, "egress")):
        chain = {**own, "name": name, "type": "filter", "hook": hook, "dev": device, "prio": -10, "policy": "accept"}
        bare = {"chain": {**own, "name": name}}
        commands += [{"add": {"chain": chain}}, {"flush": bare}]
        if not rules[name]:
            commands.append({"delete": bare})
        commands += [{"add": {"rule": {**own, "chain": name, "expr": rule}}} for rule in rules[name]]
    return commands


def is_filtered(policy: Dict[str, Any]) -> bool:
    """Return whether a policy takes filters."""
    return bool(policy.get("drop_forged") or policy.get("drop_others"))


def ports_in(text: str) -> Iterator[Tuple[str, str, str, str]]:
    """Yield (libvirt network, port group, tap device, MAC address) of the NICs in a domain's XML."""
    for interface in ElementTree.fromstring(text).iterfind("devices/interface"):
        source, target, mac = (interface.find(tag) for tag in ("source", "target", "mac"))
        if source is None or target is None or mac is None:
            continue
        names = (source.get("network"), source.get("portgroup"), target.get("dev"), mac.get("address"))
        if all(names):
            yield tuple(str(name) for name in names)  # type: ignore[misc]


def programs(device: str, mac: str, policy: Dict[str, Any]) -> Iterator[Tuple[List[str], str]]:
    """Yield (argv, standard input) of the programs that tell a new port of a VM all that its policy says."""
    if policy.get("kind") == "linux_bridge":
        yield ["/usr/sbin/bridge", "-batch", "-"], "\n".join(bridge_lines(device, policy)) + "\n"
    else:
        columns = ["protected=true"] if policy.get("isolated") else []
        columns += ["vlan_mode=dot1q-tunnel"] if policy.get("tunnel") else []
        if columns:
            yield ["/usr/bin/ovs-vsctl", "--timeout=20", "set", "Port", device, *columns], ""
    if is_filtered(policy):
        yield ["/usr/sbin/nft", "-j", "-f", "-"], json.dumps({"nftables": filter_commands(device, mac.lower(), policy)})


def main(folder: str, text: str) -> int:
    """Tell the ports of a VM that is about to run; return the exit status: anything but 0 keeps it from running."""
    with open(os.path.join(folder, POLICIES), encoding="ascii") as stream:
        policies = json.load(stream)
    for network, group, device, mac in ports_in(text):
        policy = policies.get(network, {}).get(group)
        for argv, given in programs(device, mac, policy) if policy else ():
            done = subprocess.run(argv, input=given, capture_output=True, text=True, timeout=60, check=False)
            if done.returncode:
                print(f"bareforge: port {device}: {' '.join(argv)}: {done.stderr.strip()}", file=sys.stderr)
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(os.path.dirname(os.path.abspath(__file__)), sys.stdin.read()))
