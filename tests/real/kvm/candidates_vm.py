# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What KVM VMs are written to do and what no test has shown yet, so that the platform does not declare it.

Not part of any run; `pytest tests/real/kvm/candidates_vm.py` tries it, which wants a machine that has nothing else to do.
What passes moves to test_vm.py with its capability, which is declared then. In the one attempt so far, on a machine at six
times its capacity, the guest with the processor's own model and the one that boots from SATA had not come up after 240 s,
and the host stopped answering while a UEFI guest and one with secure boot started: whether that was the load is open.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from ..real_host import RealHost
from .test_vm import call

CAPABILITIES = [
    "template.firmware.uefi",
    *(f"vm.{name}" for name in ("firmware.uefi", "secure_boot", "tpm", "disk.bus.sata", "memory.hugepages")),
    *(f"vm.cpu.{name}" for name in ("topology", "model", "nested")),
]


def undeclared(host: RealHost, document: Any, timeout: float = 900) -> Any:
    """Bring the host to what a document says as if the candidates were declared."""
    source = """
def main(document, capabilities):
    import host_tools
    from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.vm import KvmVms

    KvmVms.CAPABILITIES = KvmVms.CAPABILITIES | set(capabilities)
    return host_tools.apply(document)
"""
    return host.on_host(source, document=document, capabilities=CAPABILITIES, timeout=timeout)


@pytest.fixture
def hugepages(tiny: RealHost) -> Iterator[None]:
    tiny.run("sysctl", "-w", "vm.nr_hugepages=120")
    yield
    tiny.run("sysctl", "-w", "vm.nr_hugepages=0")


def test_hardware_of_all_kinds(tiny: RealHost, hugepages: None) -> None:
    models = ("e1000", "e1000e", "vmxnet3")
    vm = {
        "name": "odd",
        "template": "tiny",
        "clone": "full",
        "cpu": {"count": 2, "sockets": 1, "cores": 2, "threads": 1, "nested": True},
        "memory": {"size": 192, "hugepages": True},
        "tpm": True,
        "boot_order": ["cdrom", "disk"],
        "disks": [{"name": "root", "size": 112, "bus": "sata", "provisioning": "thick", "cache": "writethrough"}],
        "nics": [{"name": f"n{number}", "network": "red", "model": model} for number, model in enumerate(models)],
    }
    undeclared(tiny, {"vms": [vm]}, timeout=900)
    try:
        assert undeclared(tiny, {"vms": [vm]})["changed"] is False
        disk = "/var/lib/libvirt/images/bareforge/odd/root.qcow2"
        assert "backing file" not in tiny.run("qemu-img", "info", "-U", disk)
        assert int(tiny.run("stat", "-c", "%b", disk)) * 512 >= 112 << 20
        arguments = tiny.run("sh", "-c", "tr '\\0' '\\n' < /proc/$(cat /run/libvirt/qemu/odd.pid)/cmdline")
        assert '"cache":{"direct":false,"no-flush":false}' in arguments
        # 8086:100e is an 82540EM, 8086:10d3 an 82574L, 15ad:07b0 a VMXNET3.
        assert {"8086:100e", "8086:10d3", "15ad:07b0"} <= set(call(tiny, "pci_devices", "odd"))
        # It boots from SATA, after it was asked to try the CD-ROM first, which holds nothing that boots.
        call(tiny, "wait_for", "odd", "lab: ready")
        flags = call(tiny, "guest", "odd", "grep -m1 ^flags /proc/cpuinfo")
        assert " svm " in f"{flags} "
        topology = call(
            tiny,
            "guest",
            "odd",
            "cd /sys/devices/system/cpu; cat cpu?/topology/physical_package_id cpu?/topology/core_id",
        )
        assert topology.split() == ["0", "0", "0", "1"]
        assert call(tiny, "guest", "odd", "ls /sys/firmware/acpi/tables/TPM2").endswith("TPM2")
        used = tiny.run("awk", "/HugePages_Total/ {t=$2} /HugePages_Free/ {f=$2} END {print t-f}", "/proc/meminfo")
        assert int(used) == 96
    finally:
        tiny.apply({"vms": [{"name": "odd", "state": "absent"}]}, operation={"shutdown_timeout": 0})
    assert call(tiny, "left_over", "odd") == []


def test_uefi_boots_and_with_secure_boot_refuses_what_is_not_signed(tiny: RealHost) -> None:
    undeclared(tiny, {"templates": [{"name": "tiny", "firmware": "uefi"}]})
    vm = {"template": "tiny", "memory": {"size": 320}}
    vms = [{**vm, "name": "efi"}, {**vm, "name": "sealed", "secure_boot": True}]
    try:
        undeclared(tiny, {"vms": vms}, timeout=900)
        assert undeclared(tiny, {"vms": vms})["changed"] is False
        call(tiny, "wait_for", "efi", "lab: ready efi")
        assert call(tiny, "guest", "efi", "ls -d /sys/firmware/efi") == "/sys/firmware/efi"
        # The firmware of the other one finds the same boot loader, and nobody has signed it.
        assert "Access Denied" in call(tiny, "wait_for", "sealed", "Access Denied")
        assert "lab: ready" not in call(tiny, "console", "sealed")
    finally:
        names = ("efi", "sealed")
        tiny.apply({"vms": [{"name": name, "state": "absent"} for name in names]}, operation={"shutdown_timeout": 0})
        tiny.apply({"templates": [{"name": "tiny", "firmware": "bios"}]})
    assert [call(tiny, "left_over", name) for name in names] == [[], []]


def test_a_guest_with_a_name_of_any_letters_sees_the_hosts_own_processor(tiny: RealHost) -> None:
    vm = {"name": "own é", "template": "tiny", "memory": {"size": 192}, "cpu": {"model": "host"}}
    undeclared(tiny, {"vms": [vm]}, timeout=900)
    try:
        assert undeclared(tiny, {"vms": [vm]})["changed"] is False
        arguments = tiny.run(
            "sh", "-c", "tr '\\0' '\\n' < /proc/$(cat '/run/libvirt/qemu/own é.pid')/cmdline"
        ).splitlines()
        assert arguments[arguments.index("-cpu") + 1].startswith("host,")
        call(tiny, "wait_for", "own é", "lab: ready")
        name = "grep -m1 'model name' /proc/cpuinfo"
        assert call(tiny, "guest", "own é", name) == tiny.run("sh", "-c", name)
    finally:
        tiny.apply({"vms": [{"name": "own é", "state": "absent"}]}, operation={"shutdown_timeout": 0})
