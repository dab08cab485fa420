# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a module costs that only reads what `host` reads, with the same libraries and nothing else."""

from __future__ import annotations

import glob
import json
import subprocess

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: bare_read
short_description: Reads the facts of a KVM host
description: The lower bound that the benchmark converged-host compares with.
author: Bareforge contributors
"""


def read_switches() -> object:
    """Return the tables of Open vSwitch's database in one transaction."""
    import ovs.jsonrpc
    import ovs.stream

    error, stream = ovs.stream.Stream.open_block(ovs.stream.Stream.open("unix:/var/run/openvswitch/db.sock"))
    if error:
        raise OSError(error)
    connection = ovs.jsonrpc.Connection(stream)
    tables = ("Open_vSwitch", "Bridge", "Port", "Interface")
    operations = [{"op": "select", "table": table, "where": []} for table in tables]
    _error, reply = connection.transact_block(
        ovs.jsonrpc.Message.create_request("transact", ["Open_vSwitch", *operations])
    )
    connection.close()
    return reply.result


def read_machines() -> object:
    """Return the descriptions of all networks and domains."""
    import libvirt

    connection = libvirt.open("qemu:///system")
    networks = [network.XMLDesc() for network in connection.listAllNetworks()]
    domains = [(domain.XMLDesc(), domain.state(), domain.autostart()) for domain in connection.listAllDomains()]
    connection.close()
    return networks, domains


def read_firewall() -> object:
    """Return the rules in the kernel."""
    import nftables

    nft = nftables.Nftables()
    nft.set_json_output(True)
    return json.loads(nft.cmd("list ruleset")[1])


def read_addresses() -> object:
    """Return the host's addresses and the files that keep them."""
    printed = subprocess.run(["ip", "-j", "address"], check=True, capture_output=True, text=True).stdout
    files = []
    for pattern in (
        "/etc/systemd/network/05-bareforge-*",
        "/var/lib/bareforge/templates/*.json",
        "/etc/bareforge/port_acls/*",
    ):
        for name in glob.glob(pattern):
            with open(name, encoding="utf-8") as file:
                files.append(file.read())
    return json.loads(printed), files


def main() -> None:
    """Read everything and return how much it was."""
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    facts = [read_switches(), read_machines(), read_firewall(), read_addresses()]
    module.exit_json(changed=False, size=len(str(facts)))


if __name__ == "__main__":
    main()
