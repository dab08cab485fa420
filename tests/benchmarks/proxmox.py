# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One `host` task against community.proxmox and against a bare script of proxmoxer, on a simulated node of Proxmox VE."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from benchmarks.measure import ROOT, BenchmarkError, Figure, median, run_playbook

RULES, POOLS, VMS, RUNS = 20, 10, 10, 3
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bareforge" / "community.proxmox"

BARE = """
import json, sys, time
begun = time.monotonic()
from proxmoxer import ProxmoxAPI
given = json.load(sys.stdin)
api = ProxmoxAPI("127.0.0.1", port=given["port"], user="root@pam", password=given["password"], verify_ssl=given["ca_file"])
node = api.nodes("pve1")
there = {rule.get("comment") for rule in node.firewall.rules.get()}
for rule in reversed(given["rules"]):
    if rule["comment"] not in there:
        node.firewall.rules.post(**rule)
pools = {pool["poolid"] for pool in api.pools.get()}
for name in given["pools"]:
    if name not in pools:
        api.pools.post(poolid=name)
for vm in node.qemu.get():
    config = node.qemu(vm["vmid"]).config.get()
    if config.get("description") != given["description"]:
        node.qemu(vm["vmid"]).config.put(description=given["description"], digest=config["digest"])
print(time.monotonic() - begun)
"""


def against_others() -> list[Figure]:
    """Firewall rules, pools and changes of VMs: one task of ours, community.proxmox, and a bare script."""
    from peers.pve import Serving

    collections = community_proxmox()
    serving = Serving()
    try:
        for number in range(VMS):
            serving.peer.add_vm(100 + number, f"vm{number}", config={"memory": 512, "cores": 1})
        before = serving.saved()
        runs: dict[str, tuple[list[float], int]] = {}
        for name, work in {"ours": _ours, "community": _community, "bare": _bare}.items():
            times: list[float] = []
            for _run in range(RUNS):
                serving.restore(before)
                times.append(work(serving, collections))
                _check(serving)
            runs[name] = (times, len(serving.peer.requests))
    finally:
        serving.close()
    seconds = {name: median(times) for name, (times, _requests) in runs.items()}
    operations = RULES + POOLS + VMS
    requests = ", ".join(f"{name} {count / operations:.1f}" for name, (_times, count) in runs.items())
    detail = (
        f"{RULES} rules, {POOLS} pools, {VMS} VMs: ours {seconds['ours']:.2f} s, community.proxmox {seconds['community']:.2f} s, "
        f"bare {seconds['bare']:.2f} s; requests for each of them: {requests}"
    )
    return [
        Figure("proxmox-community", seconds["community"] / seconds["ours"], 10, True, detail),
        Figure("proxmox-bare", seconds["ours"] / seconds["bare"], 1.5, False, detail),
    ]


def community_proxmox() -> Path:
    """Return the folder of a collections path with community.proxmox, taken once from the package `ansible`."""
    if (CACHE / "ansible_collections" / "community" / "proxmox").is_dir():
        return CACHE
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, "ansible"],
            capture_output=True,
            text=True,
            check=False,
        )
        wheels = list(Path(folder).glob("ansible-*.whl"))
        if not wheels:
            raise BenchmarkError(f"the package ansible cannot be had: {done.stderr.strip()[-200:]}")
        with zipfile.ZipFile(wheels[0]) as archive:
            names = [name for name in archive.namelist() if name.startswith("ansible_collections/community/proxmox/")]
            archive.extractall(CACHE, names)
    return CACHE


def _check(serving: Any) -> None:
    """Raise BenchmarkError unless all was done: what breaks off looks fast."""
    peer = serving.peer
    done = (
        len(peer.firewall_config("host", "pve1")["rules"]),
        len(peer.pools),
        sum(str(vm.config.get("description", "")).startswith("Measured") for vm in peer.vms),
    )
    if done != (RULES, POOLS, VMS):
        raise BenchmarkError(f"rules, pools and VMs are {done} and not {(RULES, POOLS, VMS)}")


def _play(serving: Any, tasks: list[dict[str, Any]], collections: Path) -> float:
    settings = serving.settings
    variables = {
        "bareforge_platform": "proxmox",
        "bareforge_host": settings["host"],
        "bareforge_port": settings["port"],
        "bareforge_password": settings["password"],
        "bareforge_ca_file": settings["ca_file"],
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
    }
    known = os.environ.get("ANSIBLE_COLLECTIONS_PATH")
    os.environ["ANSIBLE_COLLECTIONS_PATH"] = f"{ROOT / 'collections'}:{collections}"
    try:
        with tempfile.TemporaryDirectory() as folder:
            inventory = Path(folder) / "hosts.json"
            inventory.write_text(json.dumps({"all": {"hosts": {"pve": variables}}}), encoding="utf-8")
            times = run_playbook([{"hosts": "all", "gather_facts": False, "tasks": tasks}], inventory)
    finally:
        if known is None:
            del os.environ["ANSIBLE_COLLECTIONS_PATH"]
        else:
            os.environ["ANSIBLE_COLLECTIONS_PATH"] = known
    return sum(task.seconds for task in times)


def _ours(serving: Any, collections: Path) -> float:
    document = {
        "firewall_rules": [
            {"name": f"rule{number:02}", "protocol": "tcp", "ports": [1000 + number]} for number in range(RULES)
        ],
        "resource_pools": [{"name": f"pool{number}"} for number in range(POOLS)],
        "vms": [{"name": f"vm{number}", "description": "Measured"} for number in range(VMS)],
    }
    return _play(serving, [{"bareforge.hypervisor.host": {"document": document}}], collections)


def _community(serving: Any, collections: Path) -> float:
    settings = serving.settings
    api = {
        "api_host": settings["host"],
        "api_port": settings["port"],
        "api_user": settings["user"],
        "api_password": settings["password"],
        "validate_certs": False,
    }
    rules = [
        {"type": "in", "action": "ACCEPT", "proto": "tcp", "dport": str(1000 + number), "pos": number, "enable": True}
        for number in range(RULES)
    ]
    # Its module for the firewall takes all rules in one task; the others take one object each.
    tasks: list[dict[str, Any]] = [
        {"community.proxmox.proxmox_firewall": {**api, "level": "node", "node": "pve1", "rules": rules}}
    ]
    tasks += [{"community.proxmox.proxmox_pool": {**api, "poolid": f"pool{number}"}} for number in range(POOLS)]
    tasks += [
        {
            "community.proxmox.proxmox_kvm": {
                **api,
                "node": "pve1",
                "vmid": 100 + number,
                "update": True,
                "description": "Measured",
            }
        }
        for number in range(VMS)
    ]
    return _play(serving, tasks, collections)


def _bare(serving: Any, collections: Path) -> float:
    settings = serving.settings
    given = {
        **{name: settings[name] for name in ("port", "password", "ca_file")},
        "rules": [
            {
                "type": "in",
                "action": "ACCEPT",
                "proto": "tcp",
                "dport": str(1000 + number),
                "enable": 1,
                "comment": f"rule{number:02}",
            }
            for number in range(RULES)
        ],
        "pools": [f"pool{number}" for number in range(POOLS)],
        "description": "Measured",
    }
    done = subprocess.run(
        [sys.executable, "-c", BARE], input=json.dumps(given), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BenchmarkError(f"the bare script failed: {done.stderr.strip()[-300:]}")
    return float(done.stdout)
