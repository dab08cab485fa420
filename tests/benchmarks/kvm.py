# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Benchmarks on a KVM host of the lab."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from ansible_collections.bareforge.hypervisor.plugins.module_utils.hardening.profile import CheckedProfile
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.hardening import KvmHardening
from ansible_collections.bareforge.hypervisor.plugins.plugin_utils.hardening_profile import load_profile
from benchmarks import lab_host
from benchmarks.measure import BenchmarkError, Figure, median, run_playbook

TINY = "{{ lab_images['tiny-guest'].url }}"
TINY_CHECKSUM = "{{ lab_images['tiny-guest'].checksum }}"

NETWORK: dict[str, Any] = {
    "virtual_switches": [
        {"name": "br-data", "uplinks": ["uplink0", "uplink1"], "bond": {"mode": "active_backup"}},
        {"name": "br-lab", "type": "internal"},
    ],
    "virtual_networks": [
        {"name": "app", "switch": "br-data", "vlan": 10, "subnets": ["10.10.0.0/24"]},
        {"name": "db", "switch": "br-data", "vlan": 20, "subnets": ["10.20.0.0/24"]},
        {"name": "all-vlans", "switch": "br-data", "trunk": [10, 20]},
        {"name": "lab", "switch": "br-lab"},
    ],
    "host_interfaces": [
        {"name": "app0", "network": "app", "addresses": ["10.10.0.1/24"]},
        {"name": "lab0", "network": "lab", "addresses": ["10.30.0.1/24"]},
    ],
    "firewall": {"default_inbound": "deny", "management_sources": ["10.0.2.0/24"]},
    "firewall_rules": [
        {"name": f"service {port}", "protocol": "tcp", "ports": [port], "sources": ["10.10.0.0/24"]}
        for port in range(9100, 9112)
    ],
}
MACHINES: dict[str, Any] = {
    "templates": [{"name": "tiny", "source": {"url": TINY}, "checksum": TINY_CHECKSUM}],
    "vms": [
        {
            "name": f"guest{number}",
            "template": "tiny",
            "clone": "linked",
            "memory": {"size": 128},
            "power": "stopped",
            "nics": [{"name": "eth0", "network": "app", "addresses": [f"10.10.0.{10 + number}/24"]}],
        }
        for number in range(1, 5)
    ],
    "port_acls": [
        {"vm": f"guest{number}", "nic": "eth0", "allowed_ipv4": [f"10.10.0.{10 + number}"]} for number in range(1, 5)
    ],
}
MODULE_OF_SECTION = {
    "virtual_switches": "virtual_switch",
    "virtual_networks": "virtual_network",
    "host_interfaces": "host_interface",
    "firewall": "firewall",
    "firewall_rules": "firewall_rule",
    "templates": "template",
    "vms": "vm",
    "port_acls": "port_acl",
}


def play(*tasks: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a play of these tasks on the lab's host."""
    return [{"hosts": lab_host.NAME, "gather_facts": False, "tasks": list(tasks)}]


def task(name: str, module: str, **options: Any) -> dict[str, Any]:
    """Return a task."""
    return {"name": name, module: options}


def narrow_tasks(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one task for each object of a document."""
    tasks = []
    for section, objects in document.items():
        for item in objects if isinstance(objects, list) else [objects]:
            module = f"bareforge.hypervisor.{MODULE_OF_SECTION[section]}"
            tasks.append(task(f"{section} {item.get('name', '')}", module, **item))
    return tasks


def one_task_for_a_host() -> list[Figure]:
    """The objects of a whole host in narrow tasks against one task."""
    document = {**NETWORK, **MACHINES}
    try:
        narrow = run_playbook(play(*narrow_tasks(document)), lab_host.fresh())
        whole = run_playbook(play(task("host", "bareforge.hypervisor.host", document=document)), lab_host.fresh())
        slow, fast = sum(entry.seconds for entry in narrow), sum(entry.seconds for entry in whole)
    finally:
        lab_host.stop()
    detail = f"{len(narrow)} narrow tasks {slow:.1f} s, one host task {fast:.1f} s"
    return [Figure("one-task-for-a-host", slow / fast, 5, True, detail)]


def converged_host() -> list[Figure]:
    """A task that finds nothing to do against a module that only reads."""
    document = {**NETWORK, **MACHINES}
    host = task("host", "bareforge.hypervisor.host", document=document)
    read = task("read", "bare_read")
    try:
        inventory = lab_host.fresh()
        run_playbook(play(host), inventory)
        times = run_playbook(play(*[host, read] * 5), inventory)
    finally:
        lab_host.stop()
    ours = median([entry.seconds for entry in times if entry.task == "host"])
    bare = median([entry.seconds for entry in times if entry.task == "read"])
    return [Figure("converged-host", ours / bare, 1.5, False, f"host {ours:.2f} s, bare read {bare:.2f} s")]


CLONE_SCRIPT = """set -e
folder=/var/lib/libvirt/images/bench; mkdir -p $folder
for number in 1 2 3 4 5 6 7 8; do
  qemu-img create -q -f qcow2 -F qcow2 -b /var/lib/bareforge/templates/tiny.qcow2 $folder/bare$number.qcow2
  cat >/tmp/bare$number.xml <<XML
<domain type='kvm'><name>bare$number</name><memory unit='MiB'>128</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features><cpu mode='host-model'/>
<devices><disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='$folder/bare$number.qcow2'/>
<target dev='vda' bus='virtio'/></disk>
<interface type='network'><source network='br-data' portgroup='app'/><model type='virtio'/></interface>
<serial type='pty'/></devices></domain>
XML
  virsh -q define /tmp/bare$number.xml
  virsh -q start bare$number
done
"""


def eight_linked_clones() -> list[Figure]:
    """Eight linked clones in one task against a shell script that does the same."""
    document = {**NETWORK, "templates": MACHINES["templates"]}
    clones = [
        {
            "name": f"clone{number}",
            "template": "tiny",
            "clone": "linked",
            "memory": {"size": 128},
            "nics": [{"name": "eth0", "network": "app"}],
        }
        for number in range(1, 9)
    ]
    ours, bare = [], []
    try:
        for name in ("ours", "bare"):
            inventory = lab_host.fresh()
            run_playbook(play(task("host", "bareforge.hypervisor.host", document=document)), inventory)
            both = {
                "ours": task("ours", "bareforge.hypervisor.vm", vms=clones),
                "bare": {"name": "bare", "ansible.builtin.shell": CLONE_SCRIPT},
            }
            # Each on a fresh host: eight starting guests would slow the other one down.
            (time,) = run_playbook(play(both[name]), inventory)
            (ours if name == "ours" else bare).append(time.seconds)
    finally:
        lab_host.stop()
    left, right = median(ours), median(bare)
    return [Figure("eight-linked-clones", left / right, 1.2, False, f"one task {left:.1f} s, script {right:.1f} s")]


DISK_MIB = 4096
CHANGED_MIB = DISK_MIB // 100
PIECE = 64 * 1024
IMAGE = "/var/lib/libvirt/images/bareforge/big/data.qcow2"
TARGET = "/srv/backup"


def write_patterns(pattern: int, size: int, places: list[int]) -> str:
    """Return the command that writes a pattern to places of a disk; size and places in bytes."""
    commands = " ".join(f"-c 'write -q -P {pattern} {place} {size}'" for place in places)
    return f"qemu-io -f qcow2 {commands} {IMAGE}"


def incremental_backup() -> list[Figure]:
    """A backup of a disk of which one percent has changed against a full one: time of the task, bytes in the target."""
    chunk = 64 * 1024 * 1024
    count = CHANGED_MIB * 1024 * 1024 // PIECE
    # One piece after another all over the disk, which is what databases and logs leave.
    places = [number * (DISK_MIB * 1024 * 1024 // count) // PIECE * PIECE for number in range(count)]
    vm = {"name": "big", "memory": {"size": 128}, "power": "stopped", "disks": [{"name": "data", "size": DISK_MIB}]}
    fill = write_patterns(170, chunk, [number * chunk for number in range(DISK_MIB * 1024 * 1024 // chunk)])
    change = write_patterns(85, PIECE, places)

    def backup(mode: str) -> dict[str, Any]:
        return task(mode, "bareforge.hypervisor.vm_backup", vm="big", name=mode, target=TARGET, mode=mode)

    try:
        inventory = lab_host.fresh()
        times = run_playbook(
            play(
                task("vm", "bareforge.hypervisor.vm", **vm),
                {"name": "fill", "ansible.builtin.shell": fill},
                backup("full"),
                {"name": "change", "ansible.builtin.shell": change},
                backup("incremental"),
            ),
            inventory,
        )
        sizes = [
            int(lab_host.lab("ssh", lab_host.NAME, f"sudo stat -c %s {TARGET}/big/{mode}/data.qcow2"))
            for mode in ("full", "incremental")
        ]
    finally:
        lab_host.stop()
    full, incremental = (
        next(entry.seconds for entry in times if entry.task == mode) for mode in ("full", "incremental")
    )
    what = f"{CHANGED_MIB} of {DISK_MIB} MiB changed"
    return [
        Figure(
            "incremental-backup-time",
            full / incremental,
            5,
            True,
            f"{what}: full {full:.1f} s, incremental {incremental:.1f} s",
        ),
        Figure(
            "incremental-backup-bytes",
            sizes[0] / sizes[1],
            50,
            True,
            f"{what}: full {sizes[0] / 1048576:.0f} MiB, incremental {sizes[1] / 1048576:.1f} MiB",
        ),
    ]


RULES = 100
MORE_PARAMETERS = (
    *(f"net.ipv4.conf.{place}.{name}" for place in ("all", "default") for name in ("shared_media", "secure_redirects")),
    *(
        f"net.ipv4.{name}"
        for name in ("tcp_rfc1337", "tcp_timestamps", "tcp_sack", "tcp_fin_timeout", "ip_default_ttl")
    ),
    *(f"net.ipv6.conf.{place}.{name}" for place in ("all", "default") for name in ("autoconf", "max_addresses")),
    *(f"vm.{name}" for name in ("mmap_min_addr", "overcommit_memory", "swappiness", "panic_on_oom", "dirty_ratio")),
    *(f"kernel.{name}" for name in ("panic", "panic_on_oops", "core_uses_pid", "pid_max", "threads-max", "printk")),
    *(f"fs.{name}" for name in ("file-max", "nr_open", "pipe-max-size", "aio-max-nr")),
)


def a_hundred_rules(folder: Path) -> tuple[Path, CheckedProfile]:
    """Write a profile of a hundred rules, `foundation` and kernel parameters, and return it."""
    known = load_profile("foundation", "kvm", KvmHardening, folder)[1].checks
    more = [
        {
            "id": f"more-{number}",
            "title": f"Parameter {parameter} is there",
            "severity": "low",
            "rationale": "It is here to be read.",
            "sources": ["benchmark:0"],
            "tags": ["more"],
            "setting": {"kind": "sysctl", "parameter": parameter},
            "expected": {"present": True},
            "set": {"by_hand": "Nothing has to be done."},
        }
        for number, parameter in enumerate(MORE_PARAMETERS[: RULES - len(known)])
    ]
    path = folder / "hundred.yml"
    path.write_text(json.dumps({"extends": "foundation", "name": "hundred", "rules": more}), encoding="utf-8")
    checked = load_profile(str(path), "kvm", KvmHardening, folder)[1]
    if len(checked.checks) != RULES:
        raise BenchmarkError(f"the profile has {len(checked.checks)} rules, not {RULES}")
    return path, checked


def what_is_read(checked: CheckedProfile) -> dict[str, Any]:
    """Return the files, permissions and programs that hold what the rules are about."""
    files = ["/etc/sysctl.d/*.conf", "/usr/lib/sysctl.d/*.conf", "/etc/modprobe.d/*.conf", "/usr/lib/modprobe.d/*.conf"]
    files += ["/lib/modules/*/modules.dep", "/lib/modules/*/modules.builtin", "/proc/modules", "/proc/cmdline"]
    files += ["/proc/mounts", "/sys/kernel/security/apparmor/profiles", "/etc/os-release", "/etc/libvirt/*.conf"]
    stats, units = [], []
    for check in checked.checks:
        setting = check.rule.setting or {}
        if setting["kind"] == "sysctl":
            files.append("/proc/sys/" + setting["parameter"].replace(".", "/"))
        elif setting["kind"] == "file_permissions":
            stats.append(setting["path"])
        elif setting["kind"] == "service":
            units.append(setting["unit"])
    commands = [
        ["/usr/sbin/sshd", "-T"],
        ["systemctl", "show", "--property=LoadState,UnitFileState,ActiveState", "--", *units],
        ["dpkg-query", "--show", "--showformat=${Package} ${Version}\n"],
    ]
    return {"files": files, "stats": stats, "commands": commands}


def hardening_audit() -> list[Figure]:
    """A hundred rules audited against a module that only reads the same files and keys."""
    with tempfile.TemporaryDirectory() as folder:
        path, checked = a_hundred_rules(Path(folder))
        audit = task("audit", "bareforge.hypervisor.hardening", profile=str(path))
        read = task("read", "bare_settings", **what_is_read(checked))
        try:
            times = run_playbook(play(*[audit, read] * 5), lab_host.fresh())
        finally:
            lab_host.stop()
    ours = median([entry.seconds for entry in times if entry.task == "audit"][1:])
    bare = median([entry.seconds for entry in times if entry.task == "read"][1:])
    detail = f"{RULES} rules {ours:.2f} s, bare read {bare:.2f} s"
    return [Figure("hardening-audit", ours / bare, 1.5, False, detail)]
