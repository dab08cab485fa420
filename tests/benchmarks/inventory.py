# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The inventory plugin on a KVM host of the lab with many domains."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from real.real_host import RealHost

from benchmarks import lab_host
from benchmarks.measure import ROOT, BenchmarkError, Figure, median

DOMAINS = 200
# Domains as the collection makes them, in what libvirt keeps of them; none of them has to start.
DEFINE = """
import json, libvirt
from xml.sax.saxutils import escape
connection = libvirt.open("qemu:///system")
for number in range(1, COUNT + 1):
    name = f"bench{number}"
    nics = [{"name": "eth0", "addresses": [f"10.10.{number // 250}.{number % 250 + 1}/16"]}]
    known = escape(json.dumps({"template": "debian-12", "nics": nics}))
    ports = "<controller type='pci' model='pcie-root-port'/>" * 12
    connection.defineXML(f'''<domain type='kvm'><name>{name}</name>
<metadata><bareforge:vm xmlns:bareforge='https://bareforge.dev/xmlns/1'>{known}</bareforge:vm></metadata>
<memory unit='MiB'>512</memory><vcpu>2</vcpu><os><type arch='x86_64' machine='q35'>hvm</type></os>
<features><acpi/><apic/></features><cpu mode='host-model'/><devices><controller type='pci' model='pcie-root'/>{ports}
<disk type='file' device='disk'><driver name='qemu' type='qcow2' discard='unmap'/><source file='/var/lib/{name}.qcow2'/>
<target dev='vda' bus='virtio'/><alias name='ua-DISK-root'/></disk>
<interface type='network'><source network='br-data' portgroup='app'/><model type='virtio'/><alias name='ua-eth0'/></interface>
<serial type='pty'/><channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
</devices></domain>''')
"""


def inventory_of_many_domains() -> list[Figure]:
    """ansible-inventory with the plugin against `virsh list` and a `virsh dumpxml` for each domain over the same SSH."""
    try:
        host = RealHost.from_inventory(lab_host.fresh())
        try:
            host.run("python3", "-", stdin=DEFINE.replace("COUNT", str(DOMAINS)), timeout=600)
            with tempfile.TemporaryDirectory() as folder:
                ours = [_inventory(host, Path(folder)) for _number in range(3)]
            bare = _virsh(host)
        finally:
            host.close()
    finally:
        lab_host.stop()
    detail = (
        f"{DOMAINS} domains: inventory {median(ours):.1f} s, the first time {ours[0]:.1f} s; "
        f"virsh list and dumpxml {bare:.1f} s"
    )
    return [Figure("inventory", bare / median(ours), 5, True, detail)]


def _inventory(host: RealHost, folder: Path) -> float:
    """Return the seconds of one run of ansible-inventory. Raises BenchmarkError unless every domain is in it."""
    known = host.variables
    entry: dict[str, Any] = {
        "name": host.name,
        "platform": "kvm",
        "host": known["ansible_host"],
        "port": known["ansible_port"],
        "user": known["ansible_user"],
        "private_key_file": known["ansible_ssh_private_key_file"],
        "ssh_common_args": known["ansible_ssh_common_args"],
        "become": True,
    }
    config = folder / "bench.bareforge.yml"
    config.write_text(
        json.dumps({"plugin": "bareforge.hypervisor.inventory", "hosts": [entry], "timeout": 600}), encoding="utf-8"
    )
    began = time.monotonic()
    done = subprocess.run(
        [str(Path(sys.executable).with_name("ansible-inventory")), "-i", str(config), "--list"],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    took = time.monotonic() - began
    found = json.loads(done.stdout or "{}").get("virtual_machines", {}).get("hosts", [])
    if done.returncode or len(found) != DOMAINS:
        raise BenchmarkError(f"the inventory has {len(found)} of {DOMAINS} domains: {done.stderr[-1000:]}")
    return took


def _virsh(host: RealHost) -> float:
    """Return the seconds of virsh list and one virsh dumpxml for each domain, over one SSH connection."""
    began = time.monotonic()
    names = host.run("virsh", "-q", "list", "--all", "--name").split()
    texts = [host.run("virsh", "-q", "dumpxml", name) for name in names]
    took = time.monotonic() - began
    if len(texts) != DOMAINS or not all(text.startswith("<domain") for text in texts):
        raise BenchmarkError(f"virsh told of {len(texts)} of {DOMAINS} domains")
    return took
