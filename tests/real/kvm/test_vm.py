# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""VMs on a real host: guests of type kvm that boot, change while they run, stop, and leave nothing."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from ..real_host import OnHostError, RealHost

KEY = "/root/.ssh/test_guest"
OPERATION = {"shutdown_timeout": 300}


def call(host: RealHost, function: str, *arguments: Any, timeout: float = 900) -> Any:
    """Call a function of guest_tools on the host."""
    source = f"def main(arguments):\n    import guest_tools\n    return guest_tools.{function}(*arguments)"
    return host.on_host(source, arguments=list(arguments), timeout=timeout)


def make_key() -> str:
    import os

    from host_tools import output

    if not os.path.exists("/root/.ssh/test_guest"):
        os.makedirs("/root/.ssh", mode=0o700, exist_ok=True)
        output("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/root/.ssh/test_guest")
    with open("/root/.ssh/test_guest.pub", encoding="ascii") as key:
        return " ".join(key.read().split()[:2])


def port_of(vm: str, nic: str) -> Any:
    """Return the VLAN of a NIC's port as Open vSwitch has it."""
    from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.live_changes import read_port
    from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.names import tap_name

    return read_port(tap_name(vm, nic))


@pytest.fixture(scope="module")
def web(tiny: RealHost) -> RealHost:
    """The host with a running linked clone `web1` on network red, with an address and a user."""
    key = tiny.on_host(make_key)
    vm = {
        "name": "web1",
        "template": "tiny",
        "clone": "linked",
        "memory": {"size": 192},
        "disks": [{"name": "root", "size": 128}],
        "nics": [{"name": "eth0", "network": "red", "addresses": ["10.77.10.5/24"]}],
        "guest": {"users": [{"name": "ann", "ssh_keys": [key]}]},
        "description": "<b>&\"quotes\" 'x' ]]> \u00e9",
    }
    document = {"vms": [vm]}
    planned = tiny.apply(document, check=True)
    made = tiny.apply(document, operation={"wait_for": {"what": "address", "timeout": 600}}, timeout=900)
    assert made["changes"] == planned["changes"]
    assert tiny.apply(document)["changed"] is False
    return tiny


@pytest.mark.capability(
    "kvm",
    "vm",
    "vm.clone.linked",
    "vm.firmware.bios",
    "vm.disk.bus.virtio",
    "vm.disk.provisioning.thin",
    "vm.nic.model.virtio",
    "vm.power.running",
    "vm.wait_for.address",
    ran_against="real",
)
def test_a_linked_clone_runs_on_kvm_and_says_its_own_name(web: RealHost) -> None:
    assert "lab: hostname=web1" in call(web, "console", "web1")
    assert web.run("virsh", "dumpxml", "web1").startswith("<domain type='kvm'")
    assert call(web, "guest", "web1", "cat /proc/sys/kernel/hostname") == "web1"
    assert "backing file: /var/lib/bareforge/templates/tiny.qcow2" in web.run(
        "qemu-img", "info", "-U", "/var/lib/libvirt/images/bareforge/web1/root.qcow2"
    )
    assert web.apply(web.gather("vm"))["changed"] is False


@pytest.mark.capability("kvm", "vm.guest", "vm.wait_for.ssh", ran_against="real")
def test_the_user_of_the_document_logs_in_over_ssh(web: RealHost) -> None:
    web.apply({"vms": [{"name": "web1"}]}, operation={"wait_for": {"what": "ssh", "timeout": 300}})
    told = web.run(
        *(
            "ssh",
            "-i",
            KEY,
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-o",
            "BatchMode=yes",
        ),
        *("-o", "ConnectTimeout=30", "ann@10.77.10.5", "hostname; id -un"),
    )
    assert told.split()[-2:] == ["web1", "ann"]


def described(name: str) -> Any:
    from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.platform import KvmPlatform

    (facts,) = KvmPlatform().owner("vm").describe([name])
    return facts


def test_what_is_told_of_a_running_vm(web: RealHost) -> None:
    facts = web.on_host(described, name="web1")
    assert (facts["state"], facts["managed"], facts["autostart"]) == ("running", True, False)
    assert facts["addresses"] == {"eth0": ["10.77.10.5/24"]}
    assert facts["vm"]["guest"] == {
        "users": [{"name": "ann", "ssh_keys": [web.on_host(make_key)], "sudo": False}],
        "packages": [],
    }
    (disk,) = facts["disks"]
    assert disk["size"] == 128
    assert web.run("stat", "-c", "%F", disk["path"]) == "regular file"
    (nic,) = facts["nics"]
    assert web.run("cat", f"/sys/class/net/{nic['tap']}/operstate") in ("up", "unknown")
    assert "qemu-system" in web.run("cat", f"/proc/{facts['process']}/comm")


def test_no_secret_of_the_guest_can_be_read_by_others(web: RealHost) -> None:
    folder = "/var/lib/libvirt/images/bareforge/web1"
    modes = web.run("stat", "-c", "%a %U", f"{folder}/seed.iso", f"{folder}/root.qcow2").splitlines()
    assert modes == ["600 libvirt-qemu", "600 libvirt-qemu"]


@pytest.mark.capability("kvm", "vm.nic.connected", ran_against="real")
def test_a_nic_moves_to_another_vlan_and_its_cable_can_be_pulled(web: RealHost) -> None:
    nic = {"name": "eth0", "network": "red"}

    def answers() -> bool:
        return "1 received" in web.run("ping", "-c1", "-W3", "10.77.10.5", check=False)

    assert answers()
    assert web.on_host(port_of, vm="web1", nic="eth0") == [10, []]
    for change, vlan in (({"network": "blue"}, 20), ({"network": "red"}, 10)):
        assert web.apply({"vms": [{"name": "web1", "nics": [{**nic, **change}]}]})["changed"] is True
        assert web.on_host(port_of, vm="web1", nic="eth0") == [vlan, []]
        assert answers() is (vlan == 10)
        assert web.gather("vm")["vms"][0]["nics"][0]["network"] == change["network"]
    for connected in (False, True):
        web.apply({"vms": [{"name": "web1", "nics": [{**nic, "connected": connected}]}]})
        carrier = call(web, "wait_in_guest", "web1", "cat /sys/class/net/eth0/carrier", "1" if connected else "0")
        assert carrier == ("1" if connected else "0")
        assert answers() is connected


def cgroup_values() -> dict[str, Any]:
    """Return what the kernel holds the VM to."""
    import glob

    import guest_tools

    (folder,) = glob.glob("/sys/fs/cgroup/machine.slice/machine-qemu*web1.scope")
    result = {}
    for name in ("cpu.weight", "cpu.max"):
        for path in (f"{folder}/{name}", f"{folder}/libvirt/{name}"):
            with open(path, encoding="ascii") as file:
                result.setdefault(name, []).append(file.read().strip())
    domain = guest_tools.domain("web1")
    result["pins"] = [list(pin) for pin in domain.vcpuPinInfo(0)]
    result["limits"] = domain.blockIoTune("vda", 1)
    return result


@pytest.mark.capability(
    "kvm", "vm.cpu.shares", "vm.cpu.limit", "vm.cpu.pinning", "vm.disk.limits", "vm.disk.bus.scsi", ran_against="real"
)
def test_what_a_running_vm_may_use_changes_meanwhile(web: RealHost) -> None:
    change = {
        "name": "web1",
        "cpu": {"count": 2, "shares": 200, "limit": 80, "pinning": "0"},
        "disks": [
            {"name": "root", "size": 160, "limits": {"read_iops": 500, "write_rate": 4096}},
            {"name": "data", "size": 64},
            {"name": "more", "size": 32, "bus": "scsi"},
        ],
    }
    started = call(web, "guest", "web1", "cat /proc/sys/kernel/random/boot_id")
    assert "needs" not in web.apply({"vms": [change]})["changes"][0]
    assert web.apply({"vms": [change]})["changed"] is False
    values = web.on_host(cgroup_values)
    assert "200" in values["cpu.weight"]
    assert "80000 100000" in values["cpu.max"]
    assert values["pins"] == [[True, False], [True, False]]
    assert values["limits"]["read_iops_sec"] == 500
    assert values["limits"]["write_bytes_sec"] == 4096 * 1024
    # The guest has them, and was not started anew.
    assert call(web, "wait_in_guest", "web1", "cat /sys/devices/system/cpu/present", "0-1") == "0-1"
    sizes = call(
        web, "wait_in_guest", "web1", "cat /sys/block/vda/size /sys/block/vdb/size /sys/block/sda/size", "65536"
    )
    assert sizes.split() == [str(size * 2048) for size in (160, 64, 32)]
    assert call(web, "guest", "web1", "cat /proc/sys/kernel/random/boot_id") == started


def test_a_disk_is_detached_from_a_running_vm_kept_and_attached_again(web: RealHost) -> None:
    disks = [{"name": "root"}, {"name": "data"}, {"name": "more"}]
    call(web, "guest", "web1", "echo precious | dd of=/dev/vdb conv=fsync")
    web.apply({"vms": [{"name": "web1", "disks": [disks[0], disks[2]]}]})
    assert "No such file" in call(web, "guest", "web1", "ls /sys/block/vdb")
    web.apply({"vms": [{"name": "web1", "disks": [disks[0], disks[2], {"name": "data", "size": 64}]}]})
    assert "precious" in call(web, "wait_in_guest", "web1", "head -c 8 /dev/vdb", "precious")
    with pytest.raises(OnHostError, match="a disk can only grow"):
        web.apply({"vms": [{"name": "web1", "disks": [{"name": "root", "size": 64}, disks[2], disks[1]]}]})


def test_a_nic_is_plugged_into_a_running_vm_and_pulled_out(web: RealHost) -> None:
    nics = [{"name": "eth0", "network": "red"}, {"name": "eth1", "network": "blue", "mac": "52:54:00:ab:cd:01"}]
    web.apply({"vms": [{"name": "web1", "nics": nics}]})
    assert web.on_host(port_of, vm="web1", nic="eth1") == [20, []]
    seen = call(web, "wait_in_guest", "web1", "cat /sys/class/net/*/address", "52:54:00:ab:cd:01")
    assert "52:54:00:ab:cd:01" in seen
    web.apply({"vms": [{"name": "web1", "nics": nics[:1]}]})
    assert web.on_host(port_of, vm="web1", nic="eth1") is None
    assert "52:54:00:ab:cd:01" not in call(web, "guest", "web1", "cat /sys/class/net/*/address")


@pytest.mark.capability("kvm", "vm.power.suspended", "vm.power.stopped", "vm.autostart", ran_against="real")
def test_power_and_autostart(web: RealHost) -> None:
    web.apply({"vms": [{"name": "web1", "power": "suspended", "autostart": True}]})
    assert web.run("virsh", "domstate", "web1") == "paused"
    assert "web1" in web.run("virsh", "list", "--all", "--name", "--autostart")
    web.apply({"vms": [{"name": "web1", "power": "running", "autostart": False}]})
    assert web.run("virsh", "domstate", "web1") == "running"
    assert "web1" not in web.run("virsh", "list", "--all", "--name", "--autostart")
    # A change that needs it off: refused without leave, made with it, and the guest is told its new address.
    change = {
        "name": "web1",
        "memory": {"size": 160},
        "nics": [{"name": "eth0", "addresses": ["10.77.10.6/24"], "network": "red"}],
    }
    with pytest.raises(OnHostError, match="allow_restart"):
        web.apply({"vms": [change]})
    made = web.apply({"vms": [change]}, operation={"allow_restart": True, **OPERATION}, timeout=900)
    assert made["changes"][0]["needs"] == ["power_cycle"]
    call(web, "wait_for", "web1", "lab: ready web1")
    assert "10.77.10.6/24" in call(web, "guest", "web1", "ip -o addr show eth0")
    memory = int(call(web, "guest", "web1", "awk '/MemTotal/ {print $2}' /proc/meminfo"))
    assert 110 * 1024 < memory < 160 * 1024
    web.apply({"vms": [{"name": "web1", "power": "stopped"}]}, operation=OPERATION, timeout=900)
    assert web.run("virsh", "domstate", "web1") == "shut off"
    assert web.apply({"vms": [{"name": "web1", "power": "stopped"}]})["changed"] is False


def test_removal_leaves_nothing(web: RealHost) -> None:
    web.apply({"vms": [{"name": "web1", "state": "absent"}]})
    assert call(web, "left_over", "web1") == []
    assert web.run("ovs-vsctl", "list-ports", "vmswitch").split() == ["vmred"]
    assert web.apply({"vms": [{"name": "web1", "state": "absent"}]})["changed"] is False


def test_a_guest_that_ignores_its_power_button(tiny: RealHost) -> None:
    vm = {
        "name": "deaf",
        "template": "tiny",
        "memory": {"size": 192},
        "guest": {"user_data": "lab_ignore_acpi: true\n"},
    }
    tiny.apply({"vms": [vm]}, timeout=900)
    try:
        with pytest.raises(
            OnHostError, match=r"VM 'deaf' has not shut down within 3 s and is running; its console"
        ) as caught:
            tiny.apply({"vms": [{"name": "deaf", "power": "stopped"}]}, operation={"shutdown_timeout": 3})
        assert caught.value.kind == "ApplyError"
        assert tiny.run("virsh", "domstate", "deaf") == "running"
        tiny.apply(
            {"vms": [{"name": "deaf", "power": "stopped"}]}, operation={"shutdown_timeout": 1, "force_off": True}
        )
        assert tiny.run("virsh", "domstate", "deaf") == "shut off"
    finally:
        tiny.apply({"vms": [{"name": "deaf", "state": "absent"}]}, operation={"shutdown_timeout": 0})


@pytest.mark.capability(
    "kvm",
    "vm.clone.full",
    "vm.disk.provisioning.thick",
    "vm.disk.cache",
    "vm.boot_order",
    "vm.nic.model.e1000",
    "vm.nic.model.e1000e",
    "vm.nic.model.vmxnet3",
    ran_against="real",
)
def test_a_full_clone_with_other_hardware(tiny: RealHost) -> None:
    models = ("e1000", "e1000e", "vmxnet3")
    vm = {
        "name": "odd",
        "template": "tiny",
        "clone": "full",
        "memory": {"size": 192},
        "boot_order": ["network", "disk"],
        "disks": [{"name": "root", "size": 112, "provisioning": "thick", "cache": "writethrough"}],
        "nics": [{"name": f"n{number}", "network": "red", "model": model} for number, model in enumerate(models)],
        "power": "suspended",
    }
    tiny.apply({"vms": [vm]}, timeout=900)
    try:
        assert tiny.apply({"vms": [vm]})["changed"] is False
        disk = "/var/lib/libvirt/images/bareforge/odd/root.qcow2"
        assert "backing file" not in tiny.run("qemu-img", "info", "-U", disk)
        assert int(tiny.run("stat", "-c", "%b", disk)) * 512 >= 112 << 20
        arguments = tiny.run("sh", "-c", "tr '\\0' '\\n' < /proc/$(cat /run/libvirt/qemu/odd.pid)/cmdline")
        assert '"cache":{"direct":false,"no-flush":false}' in arguments
        # The firmware is told to try the network first.
        devices = [json.loads(line) for line in arguments.splitlines() if line.startswith('{"driver"')]
        order = {device["bootindex"]: device["id"] for device in devices if "bootindex" in device}
        assert [order[number] for number in sorted(order)] == ["ua-n0", "ua-DISK-root"], order
        # The firmware has not run yet, so the guest's PCI buses are not numbered: QEMU's own devices are looked at.
        drivers = {device["id"]: device["driver"] for device in devices if "netdev" in device}
        assert drivers == {f"ua-n{number}": model for number, model in enumerate(models)}
    finally:
        tiny.apply({"vms": [{"name": "odd", "state": "absent"}]}, operation={"shutdown_timeout": 0})
    assert call(tiny, "left_over", "odd") == []


def test_eight_linked_clones_in_one_task(tiny: RealHost) -> None:
    vms = [
        {
            "name": f"clone {number}é",
            "template": "tiny",
            "memory": {"size": 128},
            "power": "stopped",
            "nics": [{"name": "eth0", "network": "red"}],
        }
        for number in range(8)
    ]
    started = time.monotonic()
    made = tiny.apply({"vms": vms})
    print(f"eight linked clones were made in {time.monotonic() - started:.1f} s")
    assert len(made["changes"]) == 8
    assert tiny.apply({"vms": vms})["changed"] is False
    shown = tiny.gather("vm")["vms"]
    assert len({vm["nics"][0]["mac"] for vm in shown}) == 8
    with pytest.raises(OnHostError, match="linked clones of it: clone 0"):
        tiny.apply({"templates": [{"name": "tiny", "state": "absent"}]})
    assert len(tiny.apply({"vms": []}, exact=["vm"])["changes"]) == 8
    assert tiny.run("ls", "-A", "/var/lib/libvirt/images/bareforge") == ""


def kill_while_it_makes() -> dict[str, Any]:
    """Start a run that makes a VM and kill it right after the VM was defined; run it again to its end."""
    import os
    import signal

    import host_tools

    from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm import domains

    document = {"vms": [{"name": "reborn", "template": "tiny", "memory": {"size": 128}}]}
    child = os.fork()
    if child == 0:
        domains.start = lambda *_arguments, **_options: os.kill(os.getpid(), signal.SIGKILL)
        host_tools.apply(document)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    left = os.listdir("/var/lib/libvirt/images/bareforge/reborn")
    result = host_tools.apply(document)
    return {
        "status": status,
        "left": left,
        "changes": result["changes"],
        "again": host_tools.apply(document)["changed"],
    }


def test_a_run_that_is_killed_is_finished_by_the_next(tiny: RealHost) -> None:
    told = tiny.on_host(kill_while_it_makes, timeout=900)
    try:
        assert told["status"] == 9
        assert ".making" in told["left"]
        assert [change["action"] for change in told["changes"]] == ["create"]
        assert told["again"] is False
        assert tiny.run("virsh", "domstate", "reborn") == "running"
    finally:
        tiny.apply({"vms": [{"name": "reborn", "state": "absent"}]}, operation={"shutdown_timeout": 0})


def test_domains_of_others_are_left_alone(tiny: RealHost) -> None:
    xml = "<domain type='kvm'><name>theirs</name><memory unit='MiB'>64</memory><os><type machine='q35'>hvm</type></os></domain>"
    tiny.run("virsh", "define", "/dev/stdin", stdin=xml)
    try:
        assert tiny.gather("vm") == {"vms": []}
        tiny.apply({"vms": []}, exact=["vm"])
        with pytest.raises(OnHostError, match="has not made and does not touch"):
            tiny.apply({"vms": [{"name": "theirs", "template": "tiny", "memory": {"size": 128}}]})
        assert "theirs" in tiny.run("virsh", "list", "--all", "--name")
    finally:
        tiny.run("virsh", "undefine", "theirs")
