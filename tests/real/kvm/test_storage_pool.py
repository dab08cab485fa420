# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Storage pools on a real host: directories and volume groups on loop devices of the host itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from ..real_host import OnHostError, RealHost

DEVICES = {f"/dev/loop{number}": f"/var/tmp/bareforge-device{number}" for number in (20, 21, 22)}
FIRST, SECOND, THIRD = DEVICES
DEVICE_MIB = 400
TARGET = "iqn.2026-11.org.example:bareforge"
LUN = "/var/tmp/bareforge-lun"
CHAP_PASSWORD = "canary-chap-pass"  # 12 to 16 characters are what initiators agree on


def clear() -> None:
    """Take away every pool, VM, template and volume group that a test could have left."""
    import glob
    import subprocess

    import host_tools

    def run(*argv: str) -> None:
        subprocess.run(argv, capture_output=True, check=False)

    gathered = host_tools.gather(["vm", "template"])
    pooled = [entry["name"] for entry in gathered["templates"] if entry.get("pool")]
    names = host_tools.output("virsh", "pool-list", "--all", "--name").split()
    if gathered["vms"] or pooled:
        for name in names:
            run("virsh", "pool-start", name)
        for vm in gathered["vms"]:
            run("virsh", "destroy", vm["name"])
        host_tools.apply(
            {
                "vms": [{"name": vm["name"], "state": "absent"} for vm in gathered["vms"]],
                "templates": [{"name": name, "state": "absent"} for name in pooled],
            }
        )
    for name in names:
        run("virsh", "pool-destroy", name)
        run("virsh", "pool-undefine", name)
    for group in ("bfgroup", "bfother"):
        run("vgremove", "--force", "--yes", group)
    for device in glob.glob("/dev/loop2[0-2]"):
        run("pvremove", "--yes", device)
        run("wipefs", "--all", device)
    run("umount", "/srv/bftest/small")
    run("rm", "-rf", "--one-file-system", "/srv/bftest", "/var/lib/bareforge/pools")


@pytest.fixture(scope="module")
def bare(tiny: RealHost) -> Iterator[RealHost]:
    """The host with the template tiny, and three empty loop devices of 400 MiB."""
    for device, file in DEVICES.items():
        tiny.shell(
            f"losetup --detach {device} 2>/dev/null || true\n"
            f"rm -f {file}; truncate --size {DEVICE_MIB}M {file}; losetup {device} {file}"
        )
    tiny.on_host(clear)
    yield tiny
    tiny.on_host(clear)
    for device, file in DEVICES.items():
        tiny.shell(f"losetup --detach {device}; rm -f {file}")


@pytest.fixture
def pools(bare: RealHost) -> Iterator[RealHost]:
    """The same, cleared after the test."""
    yield bare
    bare.on_host(clear)


def state_of(host: RealHost, name: str) -> dict[str, str]:
    """Return what virsh says of a pool."""
    text = host.run("virsh", "pool-info", name)
    return {key.strip(): value.strip() for key, _colon, value in (line.partition(":") for line in text.splitlines())}


def group_pool(**fields: Any) -> dict[str, Any]:
    return {"name": "fast", "type": "lvm", "source": {"name": "bfgroup", "devices": [FIRST]}, **fields}


def test_nothing_is_made_in_check_mode_and_the_plan_is_the_same(pools: RealHost) -> None:
    document = {"storage_pools": [{"name": "plain", "type": "dir", "path": "/srv/bftest/plain"}, group_pool()]}
    planned = pools.apply(document, check=True)
    assert pools.run("virsh", "pool-list", "--all", "--name") == ""
    assert pools.run("ls", "/srv") == ""
    assert pools.run("pvs", "--noheadings") == ""
    made = pools.apply(document)
    assert made["changes"] == planned["changes"]
    assert pools.apply(document)["changed"] is False
    assert pools.apply(pools.gather("storage_pool"))["changed"] is False


@pytest.mark.capability(
    "kvm",
    "storage_pool",
    "storage_pool.type.dir",
    "storage_pool.content.disks",
    "storage_pool.content.templates",
    ran_against="real",
)
def test_a_directory_is_made_started_and_removed_without_its_contents(pools: RealHost) -> None:
    pool = {"name": "plain", "type": "dir", "path": "/srv/bftest/plain", "content": ["disks"]}
    pools.apply({"storage_pools": [pool]})
    shown = state_of(pools, "plain")
    assert (shown["State"], shown["Autostart"], shown["Persistent"]) == ("running", "yes", "yes")
    # Stopped by hand: a document that names it, and no more, starts it again.
    pools.run("virsh", "pool-destroy", "plain")
    assert pools.apply({"storage_pools": [{"name": "plain"}]})["changed"] is True
    assert state_of(pools, "plain")["State"] == "running"
    changed = pools.apply({"storage_pools": [{"name": "plain", "autostart": False, "content": ["disks", "templates"]}]})
    assert changed["changes"][0]["fields"] == ["content", "autostart"]
    assert state_of(pools, "plain")["Autostart"] == "no"
    pools.run("touch", "/srv/bftest/plain/kept")
    pools.apply({"storage_pools": [{"name": "plain", "state": "absent"}]})
    assert pools.run("virsh", "pool-list", "--all", "--name") == ""
    assert pools.run("ls", "/srv/bftest/plain") == "kept"
    assert pools.run("ls", "/var/lib/bareforge/pools") == ""
    # Made again over what was kept, and removed with it.
    pools.apply({"storage_pools": [pool]})
    pools.apply({"storage_pools": [{"name": "plain", "state": "absent"}]}, operation={"delete_contents": True})
    assert pools.run("ls", "/srv/bftest") == ""


@pytest.mark.capability("kvm", "storage_pool.type.lvm", ran_against="real")
def test_a_volume_group_is_made_grows_and_is_removed(pools: RealHost) -> None:
    pools.apply({"storage_pools": [group_pool()]})
    assert state_of(pools, "fast")["State"] == "running"
    assert pools.run("vgs", "--noheadings", "-o", "pv_name", "bfgroup") == FIRST
    grown = {"storage_pools": [{"name": "fast", "source": {"devices": [FIRST, SECOND]}}]}
    planned = pools.apply(grown, check=True)
    result = pools.apply(grown)
    assert result["changes"] == planned["changes"]
    assert result["changes"][0]["fields"] == ["source.devices"]
    assert pools.apply(grown)["changed"] is False
    assert pools.run("vgs", "--noheadings", "-o", "pv_count", "bfgroup") == "2"
    assert float(state_of(pools, "fast")["Capacity"].split()[0]) > 700
    with pytest.raises(OnHostError, match=rf"leaves out '{FIRST}', which cannot be taken out"):
        pools.apply({"storage_pools": [{"name": "fast", "source": {"devices": [SECOND]}}]})
    pools.apply({"storage_pools": [{"name": "fast", "state": "absent"}]})
    assert pools.run("vgs", "--noheadings", "-o", "vg_name") == "bfgroup"
    # The group is there, so that its name is enough.
    pools.apply({"storage_pools": [{"name": "fast", "type": "lvm", "source": {"name": "bfgroup"}}]})
    assert pools.gather("storage_pool")["storage_pools"][0]["source"]["devices"] == [FIRST, SECOND]
    pools.apply({"storage_pools": [{"name": "fast", "state": "absent"}]}, operation={"delete_contents": True})
    assert pools.run("pvs", "--noheadings") == ""


def clone_unwarned(document: Any) -> Any:
    """Apply a document with a host that says of every pool that there is room; the rest is real."""
    import host_tools

    from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.storage_pool import KvmStoragePools

    KvmStoragePools.free_bytes = lambda *_arguments: 1 << 40  # type: ignore[method-assign]
    return host_tools.apply(document)


def killed_at(document: Any, point: str) -> Any:
    """Apply a document in a process that is killed right after a call of libvirt's pool."""
    import os
    import signal

    import host_tools
    import libvirt

    original = getattr(libvirt.virStoragePool, point)

    def call(*arguments: Any) -> None:
        original(*arguments)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(libvirt.virStoragePool, point, call)
    return host_tools.apply(document)


@pytest.fixture(scope="module")
def servers(bare: RealHost) -> Iterator[RealHost]:
    """The host with a server of NFS and a target of iSCSI of its own, on its loopback address."""
    bare.shell(
        "export DEBIAN_FRONTEND=noninteractive\n"
        "dpkg -s nfs-kernel-server tgt open-iscsi >/dev/null 2>&1 || {\n"
        "  apt-get update -q; apt-get install -q --yes --no-install-recommends nfs-kernel-server tgt open-iscsi; }\n"
        "mkdir -p /export/bf /etc/nfs.conf.d\n"
        # Clients that a server knew from before it was restarted are waited for, 90 s unless it is told otherwise.
        "printf '[nfsd]\\ngrace-time=10\\nlease-time=10\\n' > /etc/nfs.conf.d/bareforge.conf\n"
        "echo '/export/bf 127.0.0.1(rw,sync,no_subtree_check,no_root_squash,fsid=1)' > /etc/exports\n"
        "systemctl restart nfs-server; exportfs -ra\n"
        f"truncate --size 300M {LUN}\n"
        "systemctl start tgt iscsid\n",
        timeout=580,
    )
    configuration = (
        f"<target {TARGET}>\n  backing-store {LUN}\n  initiator-address 127.0.0.1\n"
        f"  incominguser initiator {CHAP_PASSWORD}\n</target>\n"
    )
    bare.run("sh", "-c", "umask 077; cat > /etc/tgt/conf.d/bareforge.conf", stdin=configuration)
    bare.shell("tgt-admin --update ALL --force")
    yield bare
    bare.shell(
        "systemctl start nfs-server; rm -f /etc/tgt/conf.d/bareforge.conf; tgt-admin --update ALL --force || true\n"
        f"systemctl stop tgt nfs-server; rm -rf {LUN} /export/bf /etc/exports"
    )


@pytest.fixture
def shared(servers: RealHost) -> Iterator[RealHost]:
    yield servers
    servers.shell("systemctl start nfs-server")
    servers.on_host(clear)
    servers.shell("rm -rf /export/bf/*")


NFS = {"name": "nas", "type": "nfs", "source": {"host": "127.0.0.1", "path": "/export/bf", "version": "4.2"}}
