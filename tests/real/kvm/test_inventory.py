# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The inventory of a real host: its guests with groups and addresses, logging in to one of them through it, and metrics."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..real_host import ROOT, RealHost

ADDRESS = "10.77.10.31"
BIN = Path(sys.executable).parent
FOREIGN = """<domain type='kvm'><name>foreign</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type></os></domain>"""


def define(xml: str) -> None:
    import libvirt

    libvirt.open("qemu:///system").defineXML(xml)


def undefine(name: str) -> None:
    import libvirt

    libvirt.open("qemu:///system").lookupByName(name).undefine()


class Inventory:
    """The plugin's configuration for a real host, and what Ansible makes of it."""

    def __init__(self, host: RealHost, folder: Path) -> None:
        self.host, self.folder = host, folder
        # Its own: over a shared connection that another test has made, no key would be asked for.
        self.control = tempfile.mkdtemp(prefix="bf-cp-")
        self.config = folder / "real.bareforge.yml"

    def write(self, entry: dict[str, Any] | None = None, **options: Any) -> None:
        """Write a configuration: the host, with what is different from how it is really reached, and options."""
        known = self.host.variables
        described = {
            "name": "kvm1",
            "platform": "kvm",
            "host": known["ansible_host"],
            "port": known.get("ansible_port", 22),
            "user": known.get("ansible_user", "root"),
            "private_key_file": known["ansible_ssh_private_key_file"],
            "ssh_common_args": known.get("ansible_ssh_common_args", ""),
            "become": True,
            **(entry or {}),
        }
        self.config.write_text(
            json.dumps(
                {
                    "plugin": "bareforge.hypervisor.inventory",
                    "hosts": [described],
                    "timeout": 300,
                    "agent_timeout": 60,
                    **options,
                }
            ),
            encoding="utf-8",
        )

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run one of Ansible's programs with the configuration as its inventory."""
        program, *arguments = command
        return subprocess.run(
            [str(BIN / program), "-i", str(self.config), *arguments],
            cwd=ROOT,
            env={
                **os.environ,
                "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
                "ANSIBLE_CALLBACK_RESULT_FORMAT": "json",
                "ANSIBLE_SSH_CONTROL_PATH_DIR": self.control,
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )

    def listed(self) -> dict[str, Any]:
        """Return what ansible-inventory lists, without its marks on texts that are no templates."""
        done = self.run("ansible-inventory", "--list", "--export")
        assert done.returncode == 0, done.stderr
        assert "WARNING" not in done.stderr, done.stderr

        def unmarked(value: Any) -> Any:
            if isinstance(value, dict):
                if list(value) == ["__ansible_unsafe"]:
                    return value["__ansible_unsafe"]
                return {name: unmarked(element) for name, element in value.items()}
            return [unmarked(element) for element in value] if isinstance(value, list) else value

        return unmarked(json.loads(done.stdout))


@pytest.fixture(scope="module")
def guests(tiny: RealHost) -> Iterator[RealHost]:
    """The host with a guest that runs, one that is off, and a domain that somebody else has defined."""
    key = Path(f"{tiny.variables['ansible_ssh_private_key_file']}.pub").read_text(encoding="utf-8").split()[:2]
    common = {"template": "tiny", "clone": "linked", "memory": {"size": 192}}
    vms = [
        {
            "name": "inv-on",
            **common,
            "nics": [{"name": "eth0", "network": "red", "addresses": [f"{ADDRESS}/24"]}],
            "guest": {"hostname": "inv-on-guest", "users": [{"name": "ann", "ssh_keys": [" ".join(key)]}]},
        },
        {"name": "inv-off", **common, "power": "stopped", "nics": [{"name": "eth0", "network": "blue"}]},
    ]
    tiny.apply({"vms": vms}, timeout=600, operation={"wait_for": {"what": "ssh", "timeout": 600}})
    tiny.on_host(define, xml=FOREIGN)
    yield tiny
    tiny.on_host(undefine, name="foreign")
    tiny.apply(
        {"vms": [{"name": vm["name"], "state": "absent"} for vm in vms]}, operation={"shutdown_timeout": 0}, timeout=300
    )


@pytest.fixture
def site(guests: RealHost, tmp_path: Path) -> Inventory:
    return Inventory(guests, tmp_path)


@pytest.mark.capability("kvm", "inventory", ran_against="real")
def test_all_domains_are_there_with_their_groups(site: Inventory) -> None:
    site.write()
    listed = site.listed()

    def members(group: str) -> set[str]:
        return set(listed.get(group, {}).get("hosts", []))

    assert members("hypervisors") == members("kvm_hosts") == {"kvm1"}
    assert {"inv-on", "inv-off", "foreign"} <= members("virtual_machines") == members("hypervisor_kvm1")
    assert "inv-on" in members("power_running")
    assert {"inv-off", "foreign"} <= members("power_stopped")
    assert ("inv-on" in members("network_red"), "inv-off" in members("network_blue")) == (True, True)
    assert ("inv-on" in members("vlan_10"), "inv-off" in members("vlan_20")) == (True, True)
    assert {"inv-on", "inv-off"} <= members("template_tiny")
    variables = listed["_meta"]["hostvars"]
    on = variables["inv-on"]["bareforge_vm"]
    assert (on["managed"], on["power"], on["memory"], on["cpus"]) == (True, "running", 192, 1)
    assert [(nic["name"], nic["network"], nic["vlan"]) for nic in on["nics"]] == [("eth0", "red", 10)]
    assert variables["foreign"]["bareforge_vm"]["managed"] is False
    assert site.host.run("sh", "-c", "virsh -q list --all --name | grep -c .") == str(len(members("virtual_machines")))


@pytest.mark.capability("kvm", "inventory.addresses", ran_against="real")
def test_a_guests_address_is_known_from_each_source(site: Inventory) -> None:
    assert (
        site.host.on_host(
            "def main(name):\n    import guest_tools\n    return guest_tools.guest(name, 'echo ready', 600)",
            name="inv-on",
        )
        == "ready"
    )
    # Whoever is spoken to is in the neighbour table.
    site.host.run("ping", "-c", "1", "-w", "20", ADDRESS)
    for source in ("agent", "neighbour", "document"):
        site.write(address_sources=[source], agent_timeout=60)
        variables = site.listed()["_meta"]["hostvars"]
        assert variables["inv-on"]["ansible_host"] == ADDRESS, source
        seen = variables["inv-on"]["bareforge_vm"]["addresses"]
        assert {"address": ADDRESS, "source": source, "nic": "eth0"} in seen
        assert {entry["source"] for entry in seen} == {source}
        assert "ansible_host" not in variables["inv-off"]


@pytest.mark.capability("kvm", "inventory.addresses", ran_against="real")
def test_ansible_logs_in_to_a_guest_through_the_inventory(site: Inventory) -> None:
    known = site.host.variables
    way = (
        f"ssh {known.get('ansible_ssh_common_args', '')} -i {known['ansible_ssh_private_key_file']} "
        f"-p {known.get('ansible_port', 22)} -W %h:%p {known.get('ansible_user', 'root')}@{known['ansible_host']}"
    )
    arguments = f'-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o ProxyCommand="{way}"'
    site.write(
        filters=["bareforge_vm.power == 'running'"],
        compose={
            "ansible_user": "'ann'",
            "ansible_ssh_private_key_file": repr(known["ansible_ssh_private_key_file"]),
            "ansible_ssh_common_args": json.dumps(arguments),
        },
    )
    # The tiny guest has no Python, so the module that needs none.
    done = site.run("ansible", "inv-on", "-m", "ansible.builtin.raw", "-a", "id -un; hostname")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ann\ninv-on-guest" in done.stdout.replace("\r", "")


@pytest.mark.capability("kvm", "metrics", ran_against="real")
def test_a_module_on_the_host_of_the_inventory_tells_what_is_used(site: Inventory) -> None:
    site.write(compose={})
    arguments = json.dumps({"platform": "kvm", "kinds": [], "metrics": True})
    key = site.host.variables["ansible_ssh_private_key_file"]

    def read() -> Any:
        done = site.run(
            *("ansible", "kvm1", "--become", "--private-key", key),
            *("-m", "bareforge.hypervisor.host_info", "-a", arguments),
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout.partition("=> ")[2])["metrics"]

    first = read()
    site.host.run("ping", "-c", "3", "-i", "0.2", "-s", "1000", "-w", "30", ADDRESS)
    second = read()
    on, again = (next(vm for vm in told["vms"] if vm["name"] == "inv-on") for told in (first, second))
    off = next(vm for vm in second["vms"] if vm["name"] == "inv-off")
    assert (on["power"], on["cpu"]["count"], on["memory"]["size_mib"]) == ("running", 1, 192)
    assert 0 < on["cpu"]["used_seconds"] < again["cpu"]["used_seconds"]
    assert 0 < on["memory"]["resident_mib"] < first["host"]["memory"]["size_mib"]
    assert again["nics"][0]["received_bytes"] - on["nics"][0]["received_bytes"] >= 3000
    assert any(disk["read_bytes"] and disk["capacity_bytes"] for disk in on["disks"])
    assert (off["power"], off["cpu"]["used_seconds"]) == ("stopped", None)
    assert second["time"] > first["time"]
    for part in ("user_seconds", "system_seconds", "idle_seconds"):
        assert second["host"]["cpu"][part] >= first["host"]["cpu"][part] > 0
    assert {"vda", "vdb"} <= {disk["device"] for disk in first["host"]["disks"]}
    assert "mgmt0" in {interface["device"] for interface in first["host"]["interfaces"]}


def test_wrong_keys_and_closed_ports_are_named(site: Inventory, tmp_path: Path) -> None:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    for entry, message in (
        ({"private_key_file": str(key)}, "kvm1: the host refuses the login: "),
        ({"port": 1}, "kvm1: the host cannot be reached: "),
        ({"python_interpreter": "/nowhere/python3"}, "kvm1: there is no /nowhere/python3 on the host"),
        # Without root, libvirt's socket is closed to the user.
        ({"become": False}, "kvm1: libvirt at qemu:///system cannot be reached: "),
    ):
        site.write(entry)
        done = site.run("ansible-inventory", "--list")
        assert done.returncode == 0
        assert message in " ".join(done.stderr.split())
        assert "hypervisors_unreachable" in json.loads(done.stdout)


def test_a_host_that_stalls_is_left_at_its_deadline(site: Inventory) -> None:
    # Its daemon stands still: whoever asks it waits.
    site.host.run("systemctl", "kill", "--signal=STOP", "libvirtd.service")
    try:
        site.write(timeout=15)
        done = site.run("ansible-inventory", "--list")
    finally:
        site.host.run("systemctl", "kill", "--signal=CONT", "libvirtd.service")
    assert done.returncode == 0
    assert "kvm1: gave no answer within 15 s" in " ".join(done.stderr.split())


def test_nothing_of_an_inventory_stays_on_the_host(site: Inventory) -> None:
    def traces() -> str:
        return site.host.run(
            "sh", "-c", "ls -A /tmp /home/*/.ansible /root/.ansible 2>/dev/null; pgrep -fc 'python3 -I -' || true"
        )

    before = traces()
    site.write()
    site.listed()
    assert traces() == before
