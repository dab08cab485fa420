# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a VM on a real host is made of: firmware, TPM, processors, memory, drives, and what of it changes while it runs.

Where a guest's own words cost minutes under emulation, QEMU is looked at: its command line, its monitor, its files.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest

from ..real_host import OnHostError, RealHost
from .test_vm import call, make_key

OFF = {"shutdown_timeout": 0}
IMAGES = "/var/lib/libvirt/images/bareforge"
VARIABLES = "/var/lib/libvirt/qemu/nvram"
SWTPM = "/var/lib/libvirt/swtpm"


def made_as_planned(host: RealHost, document: dict[str, Any], **operation: Any) -> Any:
    """Bring the host to what a document says, and see that check mode had said so and that nothing is left to do."""
    planned = host.apply(document, check=True, operation=operation)
    made = host.apply(document, operation=operation, timeout=900)
    assert made["changes"] == planned["changes"]
    assert host.apply(document, operation=operation)["changed"] is False
    return made


def remove(host: RealHost, *names: str) -> None:
    """Remove VMs at once, and see that nothing of them is left."""
    host.apply({"vms": [{"name": name, "state": "absent"} for name in names]}, operation=OFF)
    assert [call(host, "left_over", name) for name in names] == [[]] * len(names)


def described_by(arguments: list[str], option: str) -> list[dict[str, Any]]:
    """Return what QEMU's command line says as JSON after an option, such as -device."""
    pairs = itertools.pairwise(arguments)
    return [json.loads(value) for name, value in pairs if name == option and value.startswith("{")]


STILL = {"template": "tiny", "power": "suspended"}
EFI = {**STILL, "name": "efi", "memory": {"size": 256}}
SEALED = {**EFI, "name": "sealed", "secure_boot": True, "tpm": True}
ODD = {
    **STILL,
    "name": "odd",
    "firmware": "bios",
    "cpu": {"count": 2, "sockets": 1, "cores": 2, "threads": 1, "nested": True},
    "memory": {"size": 192, "hugepages": True},
    "disks": [{"name": "root", "bus": "sata"}],
}
OWN = {
    **STILL,
    "name": "own é",
    "firmware": "bios",
    "cpu": {"model": "host"},
    "memory": {"size": 192, "limit": 200},
    "nics": [{"name": "eth0", "network": "red", "bandwidth": {"inbound": {"average": 800, "burst": 32}}}],
    "tags": ["tier 1", "búho"],
}
HELD = {"name": "held", "memory": {"size": 96, "reservation": 96}, "disks": [], "power": "suspended"}
VMS = [EFI, SEALED, ODD, OWN, HELD]


def used_hugepages(host: RealHost) -> int:
    """Return how many of the host's huge pages are in use."""
    script = "/HugePages_Total/ {t=$2} /HugePages_Free/ {f=$2} END {print t-f}"
    return int(host.run("awk", script, "/proc/meminfo"))


def tap_of(vm: str, nic: str) -> str:
    """Return the name of the host's device of a NIC."""
    from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.names import tap_name

    return tap_name(vm, nic)


@pytest.fixture(scope="module")
def still(tiny: RealHost) -> Iterator[RealHost]:
    """The host with VMs that have been started and stand still before their first instruction."""
    tiny.shell("echo 1 > /proc/sys/vm/compact_memory; sysctl -w vm.nr_hugepages=100")
    tiny.apply({"templates": [{"name": "tiny", "firmware": "uefi"}]})
    made_as_planned(tiny, {"vms": VMS})
    yield tiny
    tiny.apply({"vms": [{"name": vm["name"], "state": "absent"} for vm in VMS]}, operation=OFF)
    tiny.apply({"templates": [{"name": "tiny", "firmware": "bios"}]})
    tiny.run("sysctl", "-w", "vm.nr_hugepages=0")


def test_what_they_are_made_of_is_gathered_and_can_be_applied_back(still: RealHost) -> None:
    document = still.gather("vm")
    told = {vm["name"]: vm for vm in document["vms"]}
    assert {name: vm["firmware"] for name, vm in told.items()} == {
        "efi": "uefi",
        "sealed": "uefi",
        "odd": "bios",
        "own é": "bios",
        "held": "bios",
    }
    assert told["own é"]["nics"][0]["bandwidth"] == {"inbound": {"average": 800, "burst": 32}}
    assert told["own é"]["tags"] == ["búho", "tier 1"]
    assert (told["held"]["memory"]["reservation"], told["own é"]["memory"]["limit"]) == (96, 200)
    assert still.apply(document)["changed"] is False


@pytest.mark.capability("kvm", "template.firmware.uefi", "vm.firmware.uefi", "vm.secure_boot", ran_against="real")
def test_each_vm_has_firmware_and_variables_of_its_own(still: RealHost) -> None:
    arguments = {name: call(still, "command_line", name) for name in ("efi", "sealed")}
    flash = {
        name: {
            entry["node-name"]: entry["filename"]
            for entry in described_by(lines, "-blockdev")
            if "pflash" in entry["node-name"] and "filename" in entry
        }
        for name, lines in arguments.items()
    }
    code = {name: files["libvirt-pflash0-storage"] for name, files in flash.items()}
    assert code == {"efi": "/usr/share/OVMF/OVMF_CODE_4M.fd", "sealed": "/usr/share/OVMF/OVMF_CODE_4M.ms.fd"}
    # Those of the second begin with keys enrolled, so that only what they sign is started.
    for name, origin in (("efi", "OVMF_VARS_4M.fd"), ("sealed", "OVMF_VARS_4M.ms.fd")):
        assert flash[name]["libvirt-pflash1-storage"] == f"{VARIABLES}/{name}_VARS.fd"
        assert still.run("cmp", f"{VARIABLES}/{name}_VARS.fd", f"/usr/share/OVMF/{origin}") == ""
    # Nobody but the firmware, in system management mode, writes the variables.
    assert "driver=cfi.pflash01,property=secure,value=on" in arguments["sealed"]
    assert any("smm=on" in argument for argument in arguments["sealed"])
    assert not any("smm=on" in argument for argument in arguments["efi"])


def swtpm_processes(host: RealHost) -> list[str]:
    """Return the command lines of the emulated TPMs that run."""
    return host.run("pgrep", "-af", "^/usr/bin/swtpm socket", check=False).splitlines()


@pytest.mark.capability("kvm", "vm.tpm", ran_against="real")
def test_a_tpm_is_one_vms_own(still: RealHost) -> None:
    assert call(still, "monitor", "efi", "query-tpm") == []
    (tpm,) = call(still, "monitor", "sealed", "query-tpm")
    assert (tpm["model"], tpm["options"]["type"]) == ("tpm-crb", "emulator")
    uuid = still.run("virsh", "domuuid", "sealed")
    (process,) = swtpm_processes(still)
    assert f"{SWTPM}/{uuid}/tpm2" in process
    assert "--tpm2" in process
    assert "tpm2-00.permall" in still.run("ls", f"{SWTPM}/{uuid}/tpm2")


def test_no_snapshot_is_taken_of_what_none_can_hold(still: RealHost) -> None:
    for name in ("efi", "sealed"):
        with pytest.raises(OnHostError, match="boots with uefi, of which libvirt makes no internal snapshot"):
            still.apply({"snapshots": [{"vm": name, "name": "before"}]})
    said = still.shell("virsh snapshot-create-as efi before 2>&1 || true")
    assert "pflash" in said, said


@pytest.mark.capability(
    "kvm", "vm.cpu.topology", "vm.cpu.nested", "vm.memory.hugepages", "vm.disk.bus.sata", ran_against="real"
)
def test_processors_huge_pages_and_a_sata_disk(still: RealHost) -> None:
    arguments = call(still, "command_line", "odd")
    (disk,) = [entry for entry in described_by(arguments, "-device") if entry["driver"] == "ide-hd"]
    assert (disk["id"], disk["bus"].partition(".")[0]) == ("ua-DISK-root", "ide")
    assert used_hugepages(still) == 96
    cpus = call(still, "monitor", "odd", "query-cpus-fast")
    places = [cpu["props"] for cpu in cpus]
    assert [(place["socket-id"], place["core-id"], place["thread-id"]) for place in places] == [(0, 0, 0), (0, 1, 0)]
    # Whether the guest is shown AMD-V or VT-x, by QEMU's own account of its processors.
    for name, nested in (("odd", True), ("efi", False)):
        path = call(still, "monitor", name, "query-cpus-fast")[0]["qom-path"]
        feature = "svm" if "svm" in still.run("grep", "-m1", "^flags", "/proc/cpuinfo").split() else "vmx"
        assert call(still, "monitor", name, "qom-get", {"path": path, "property": feature}) is nested
    with pytest.raises(OnHostError, match=r"changing cpu.* needs the VM off"):
        still.apply({"vms": [{"name": "odd", "cpu": {"sockets": 2, "cores": 1}}]})
    large = [{**HELD, "name": name, "memory": {"size": 64, "hugepages": True}} for name in ("large", "larger")]
    with pytest.raises(OnHostError, match="128 MiB of huge pages are needed for what this task starts, and 8 MiB"):
        still.apply({"vms": large})


@pytest.mark.capability("kvm", "vm.cpu.model", ran_against="real")
def test_a_vm_with_a_name_of_any_letters_has_the_hosts_own_processor(still: RealHost) -> None:
    arguments = call(still, "command_line", "own é")
    assert arguments[arguments.index("-cpu") + 1].startswith("host,")
    (cpu,) = call(still, "monitor", "own é", "query-cpus-fast")
    shown = call(still, "monitor", "own é", "qom-get", {"path": cpu["qom-path"], "property": "model-id"})
    assert shown.strip() == still.run("grep", "-m1", "model name", "/proc/cpuinfo").partition(":")[2].strip()


@pytest.mark.capability("kvm", "vm.memory.limit", "vm.tags", "vm.nic.bandwidth", ran_against="real")
def test_limits_and_tags_change_while_a_vm_runs(still: RealHost) -> None:
    def held_to() -> tuple[list[str], str, str]:
        tap = still.on_host(tap_of, vm="own é", nic="eth0")
        queue = still.run(
            "ovs-vsctl", "--columns=other_config", "--bare", "find", "Queue", f"external_ids:ifname={tap}"
        )
        policed = still.run("ovs-vsctl", "get", "Interface", tap, "ingress_policing_rate")
        return call(still, "cgroup_files", "own é", "memory.high")["memory.high"], queue, policed

    high, queue, policed = held_to()
    assert str(200 << 20) in high
    assert {"max-rate=800000", "min-rate=800000"} <= set(queue.split())
    assert policed == "0"
    process = still.run("cat", "/run/libvirt/qemu/own é.pid")
    limits = {"inbound": {"average": 400}, "outbound": {"average": 1600, "burst": 64}}
    change = {
        "name": "own é",
        "memory": {"size": 192, "limit": 160},
        "nics": [{"name": "eth0", "network": "red", "bandwidth": limits}],
        "tags": ["<b>\"&'", "tier 2"],
    }
    made_as_planned(still, {"vms": [change]})
    high, queue, policed = held_to()
    assert str(160 << 20) in high
    assert {"max-rate=400000", "min-rate=400000"} <= set(queue.split())
    assert policed == "1600"
    made_as_planned(still, {"vms": [{"name": "own é", "tags": []}]})
    assert still.run("cat", "/run/libvirt/qemu/own é.pid") == process


@pytest.mark.capability("kvm", "vm.memory.reservation", ran_against="real")
def test_reserved_memory_is_locked_in_the_hosts(still: RealHost) -> None:
    script = "awk '/VmLck/ {print $2}' /proc/$(cat /run/libvirt/qemu/held.pid)/status"
    assert int(still.run("sh", "-c", script)) >= 96 * 1024
    with pytest.raises(OnHostError, match="allowed is 0 or the VM's whole size, 96 MiB"):
        still.apply({"vms": [{"name": "held", "memory": {"size": 96, "reservation": 50}}]})
    change = {"vms": [{"name": "held", "memory": {"size": 96, "reservation": 0}}]}
    made_as_planned(still, change, allow_restart=True, **OFF)
    assert int(still.run("sh", "-c", script)) == 0


@pytest.mark.capability("kvm", "vm.cdrom", ran_against="real")
def test_a_vm_boots_from_its_cdrom_and_the_medium_changes_while_it_runs(tiny: RealHost) -> None:
    folder = "/srv/media"
    tiny.run("mkdir", "-p", folder)
    for number in (1, 2):
        call(tiny, "make_bootable_cd", f"{folder}/cd {number}.iso", f"this is CD {number}")
    vm = {
        "name": "installer",
        "memory": {"size": 64},
        "disks": [{"name": "root", "size": 16}],
        "boot_order": ["cdrom", "disk"],
        "cdrom": f"{folder}/cd 1.iso",
    }

    def medium() -> str | None:
        (drive,) = [entry for entry in call(tiny, "monitor", "installer", "query-block") if entry["qdev"] == "ua-CDROM"]
        return drive["inserted"]["file"] if "inserted" in drive else None

    try:
        made_as_planned(tiny, {"vms": [vm]})
        call(tiny, "wait_for", "installer", "this is CD 1")
        process = tiny.run("cat", "/run/libvirt/qemu/installer.pid")
        made_as_planned(tiny, {"vms": [{"name": "installer", "cdrom": f"{folder}/cd 2.iso"}]})
        assert medium() == f"{folder}/cd 2.iso"
        tiny.run("virsh", "reset", "installer")
        call(tiny, "wait_for", "installer", "this is CD 2")
        tiny.apply({"vms": [{"name": "installer", "cdrom": ""}]})
        assert medium() is None
        assert tiny.apply(tiny.gather("vm"))["changed"] is False
        tiny.apply({"vms": [{"name": "installer", "cdrom": f"{folder}/cd 1.iso"}]})
        assert medium() == f"{folder}/cd 1.iso"
        assert tiny.run("cat", "/run/libvirt/qemu/installer.pid") == process
        with pytest.raises(OnHostError, match=r"cdrom: '/etc/shadow' is no image of a CD or DVD"):
            tiny.apply({"vms": [{"name": "installer", "cdrom": "/etc/shadow"}]})
    finally:
        remove(tiny, "installer")
    tiny.run("rm", "-r", folder)


def test_nothing_of_them_outlives_them(still: RealHost) -> None:
    remove(still, *(str(vm["name"]) for vm in VMS))
    assert still.run("ls", "-A", SWTPM) == ""
    assert still.run("ls", "-A", VARIABLES) == ""
    assert used_hugepages(still) == 0
    for table in ("QoS", "Queue"):
        assert still.run("ovs-vsctl", "--bare", "--columns=_uuid", "list", table) == ""


def test_what_a_vm_seals_is_gone_with_it(tiny: RealHost) -> None:
    vm = {**SEALED, "template": None, "disks": [], "firmware": "uefi", "memory": {"size": 64}}
    seals = []
    for _time in range(2):
        # What somebody leaves who undefines a VM with --keep-nvram.
        tiny.shell(f"mkdir -p {VARIABLES}; echo stale > {VARIABLES}/sealed_VARS.fd")
        tiny.apply({"vms": [vm]})
        assert tiny.run("cmp", f"{VARIABLES}/sealed_VARS.fd", "/usr/share/OVMF/OVMF_VARS_4M.ms.fd") == ""
        uuid = tiny.run("virsh", "domuuid", "sealed")
        seals.append(tiny.run("sha256sum", f"{SWTPM}/{uuid}/tpm2/tpm2-00.permall"))
        if len(seals) == 1:
            remove(tiny, "sealed")
            assert tiny.run("ls", "-A", SWTPM) == ""
    assert seals[0] != seals[1]

    with pytest.raises(OnHostError, match=r"firmware: is 'uefi' since it was made and cannot become 'bios'"):
        tiny.apply({"vms": [{"name": "sealed", "firmware": "bios"}]})
    change = {"vms": [{"name": "sealed", "secure_boot": False, "tpm": False}]}
    with pytest.raises(OnHostError, match=r"changing secure_boot, tpm needs the VM off"):
        tiny.apply(change)
    made_as_planned(tiny, change, allow_restart=True, **OFF)
    assert swtpm_processes(tiny) == []
    assert tiny.run("cmp", f"{VARIABLES}/sealed_VARS.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd") == ""
    # The TPM that was taken out keeps what it holds until the VM goes.
    assert "tpm2-00.permall" in tiny.run("ls", f"{SWTPM}/{uuid}/tpm2")
    remove(tiny, "sealed")
    assert tiny.run("ls", "-A", SWTPM) == ""
    assert not tiny.shell(f"ls {VARIABLES}/sealed* 2>/dev/null || true")


def test_guests_find_what_their_vms_are_made_of(tiny: RealHost) -> None:
    tiny.shell("echo 1 > /proc/sys/vm/compact_memory; sysctl -w vm.nr_hugepages=100")
    vms = [{**vm, "power": "running"} for vm in (ODD, OWN)]
    made_as_planned(tiny, {"vms": vms})
    try:
        # SeaBIOS has read the kernel from the SATA disk, for which the guest itself has no driver.
        call(tiny, "wait_for", "odd", "lab: ready odd")
        flags = call(tiny, "guest", "odd", "grep -m1 ^flags /proc/cpuinfo")
        assert " svm " in f"{flags} " or " vmx " in f"{flags} "
        script = "cd /sys/devices/system/cpu; cat cpu?/topology/physical_package_id cpu?/topology/core_id"
        assert call(tiny, "guest", "odd", script).split() == ["0", "0", "0", "1"]
        call(tiny, "wait_for", "own é", "lab: ready")
        name = "grep -m1 'model name' /proc/cpuinfo"
        assert call(tiny, "guest", "own é", name) == tiny.run("sh", "-c", name)
    finally:
        remove(tiny, "odd", "own é")
        tiny.run("sysctl", "-w", "vm.nr_hugepages=0")


def test_uefi_boots_the_guest(tiny: RealHost) -> None:
    vm = {"name": "efi", "template": "tiny", "firmware": "uefi", "memory": {"size": 320}}
    tiny.apply({"vms": [vm]}, timeout=900)
    try:
        call(tiny, "wait_for", "efi", "lab: ready efi", timeout=900)
        assert call(tiny, "guest", "efi", "ls -d /sys/firmware/efi") == "/sys/firmware/efi"
    finally:
        remove(tiny, "efi")


@pytest.fixture(scope="module")
def web(tiny: RealHost) -> Iterator[RealHost]:
    """The host with a running VM `web2` at 10.77.10.7."""
    key = tiny.on_host(make_key)
    vm = {
        "name": "web2",
        "template": "tiny",
        "memory": {"size": 192},
        "nics": [{"name": "eth0", "network": "red", "addresses": ["10.77.10.7/24"]}],
        "guest": {"users": [{"name": "ann", "ssh_keys": [key]}]},
    }
    tiny.apply({"vms": [vm]}, timeout=900)
    call(tiny, "wait_for", "web2", "lab: ready web2")
    yield tiny
    remove(tiny, "web2")


SEND = """
import socket, sys, time
address, port, direction = sys.argv[1:]
connection = socket.create_connection((address, int(port)), 60)
connection.settimeout(240)
began = time.monotonic()
if direction == "inbound":
    connection.sendall(bytes(400_000))
    connection.shutdown(socket.SHUT_WR)
    connection.recv(1)
else:
    left = 400_000
    while left > 0:
        data = connection.recv(65536)
        if not data:
            break
        left -= len(data)
    assert left == 0, left
print(400_000 * 8 / 1000 / (time.monotonic() - began))
"""


def test_a_nic_is_limited_in_both_directions_while_it_runs(web: RealHost) -> None:
    serve = (
        "(nc -l -p 5001 > /dev/null < /dev/null; dd if=/dev/zero bs=1000 count=400 | nc -l -p 5002) > /dev/null 2>&1 &"
    )

    def measured() -> dict[str, float]:
        call(web, "guest", "web2", serve)
        return {
            direction: float(web.run("python3", "-c", SEND, "10.77.10.7", port, direction, timeout=400).split()[-1])
            for direction, port in (("inbound", "5001"), ("outbound", "5002"))
        }

    free = measured()
    print(f"without limits: {free}")
    assert min(free.values()) > 3000
    limits = {"inbound": {"average": 800}, "outbound": {"average": 1600, "burst": 64}}
    nic = {"name": "eth0", "network": "red", "bandwidth": limits}
    web.apply({"vms": [{"name": "web2", "nics": [nic]}]})
    limited = measured()
    print(f"limited to 800 and 1600 kbit/s: {limited}")
    assert 300 < limited["inbound"] < 1000
    assert 300 < limited["outbound"] < 2400


@pytest.fixture
def swap(web: RealHost) -> Iterator[None]:
    web.shell("fallocate -l 192M /swapfile; chmod 600 /swapfile; mkswap /swapfile; swapon /swapfile")
    yield
    web.shell("swapoff /swapfile; rm /swapfile")


def test_a_guest_over_its_limit_of_the_hosts_memory_is_swapped_out_and_goes_on(web: RealHost, swap: None) -> None:
    def values() -> dict[str, list[str]]:
        return call(web, "cgroup_files", "web2", "memory.high", "memory.current", "memory.swap.current")

    started = call(web, "guest", "web2", "cat /proc/sys/kernel/random/boot_id")
    limit = 112
    web.apply({"vms": [{"name": "web2", "memory": {"size": 192, "limit": limit}}]})
    assert str(limit << 20) in values()["memory.high"]
    call(web, "guest", "web2", "head -c 80000000 /dev/urandom > /run/fill")
    found = values()
    print(found)
    assert max(map(int, found["memory.current"])) < (limit + 8) << 20
    assert max(map(int, found["memory.swap.current"])) > 16 << 20
    web.apply({"vms": [{"name": "web2", "memory": {"size": 192, "limit": 1024}}]})
    assert str(1024 << 20) in values()["memory.high"]
    assert call(web, "guest", "web2", "wc -c < /run/fill; cat /proc/sys/kernel/random/boot_id").split() == [
        "80000000",
        started,
    ]


def test_the_disks_of_a_vm_can_outlive_it(tiny: RealHost) -> None:
    vm = {
        "name": "kept",
        "template": "tiny",
        "memory": {"size": 64},
        "disks": [{"name": "root"}, {"name": "data", "size": 16}],
        "guest": {},
        "power": "stopped",
    }
    made_as_planned(tiny, {"vms": [vm]})
    made_as_planned(tiny, {"vms": [{"name": "kept", "state": "absent"}]}, delete_disks=False)
    try:
        assert tiny.run("ls", "-A", f"{IMAGES}/kept").split() == ["data.qcow2", "root.qcow2"]
        with pytest.raises(OnHostError, match=r"were kept in .*kept \(data.qcow2, root.qcow2\); move them away first"):
            tiny.apply({"vms": [vm]})
        with pytest.raises(OnHostError, match="linked clones of it: kept"):
            tiny.apply({"templates": [{"name": "tiny", "state": "absent"}]})
    finally:
        tiny.run("rm", "-r", f"{IMAGES}/kept")
    made_as_planned(tiny, {"vms": [vm]})
    remove(tiny, "kept")
