# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# ruff: noqa: F811 - what is imported are fixtures, which pytest finds by the names of arguments

"""What is written of storage pools and was not seen to pass on a real host, so that it is not declared.

Not part of any run: disks and templates in pools, exports of NFS servers, targets of iSCSI, and refusals.
"""

from __future__ import annotations

import time
from typing import Any

import pytest

from ..real_host import OnHostError, RealHost
from .conftest import tiny_source
from .test_storage_pool import (  # noqa: F401 - fixtures
    CHAP_PASSWORD,
    FIRST,
    NFS,
    SECOND,
    TARGET,
    THIRD,
    bare,
    clone_unwarned,
    group_pool,
    killed_at,
    pools,
    servers,
    shared,
    state_of,
)


def test_a_device_that_carries_data_is_refused_by_name(pools: RealHost) -> None:
    pools.run("mkfs.ext4", "-q", FIRST)
    pools.run("vgcreate", "bfother", SECOND)
    pools.run("parted", "--script", THIRD, "mklabel", "gpt", "mkpart", "data", "1MiB", "100%")
    before = pools.run("wipefs", FIRST)
    for device, reason in ((FIRST, "ext4"), (SECOND, "belongs to the volume group 'bfother'"), (THIRD, "gpt")):
        with pytest.raises(OnHostError, match=reason) as caught:
            pools.apply({"storage_pools": [group_pool(source={"name": "bfgroup", "devices": [device]})]})
        assert caught.value.details["problems"][0]["path"] == "storage_pool['fast'].source.devices"
        assert device in caught.value.message
    with pytest.raises(OnHostError, match="in use on the host"):
        pools.apply({"storage_pools": [group_pool(source={"name": "bfgroup", "devices": ["/dev/vda"]})]})
    assert pools.run("wipefs", FIRST) == before
    assert pools.run("virsh", "pool-list", "--all", "--name") == ""


def test_a_pool_of_somebody_else_is_shown_and_left_alone(pools: RealHost) -> None:
    pools.run("virsh", "pool-create-as", "running", "dir", "--target", "/srv/bftest/other", "--build")
    pools.run("virsh", "pool-define-as", "theirs", "dir", "--target", "/srv/bftest/theirs")
    pools.run("virsh", "pool-build", "theirs")
    names = [entry["name"] for entry in pools.gather("storage_pool")["storage_pools"]]
    assert names == ["running", "theirs"]
    with pytest.raises(OnHostError, match="this collection has not made it"):
        pools.apply({"storage_pools": [{"name": "theirs", "state": "absent"}]})
    with pytest.raises(OnHostError, match="'/srv/bftest/theirs' is taken by storage_pool"):
        pools.apply({"storage_pools": [{"name": "mine", "type": "dir", "path": "/srv/bftest/theirs"}]})
    with pytest.raises(OnHostError, match=r"content: cannot be changed, since this collection has not made the pool"):
        pools.apply({"storage_pools": [{"name": "theirs", "content": ["disks"]}]})
    kept = pools.apply({"storage_pools": []}, exact=["storage_pool"])
    assert kept["changed"] is False
    assert any("it was made by someone else" in warning for warning in kept["warnings"])
    assert pools.apply({"storage_pools": [{"name": "theirs", "autostart": True}]})["changed"] is True
    assert state_of(pools, "theirs")["State"] == "running"


@pytest.mark.capability("kvm", "vm.disk.pool", ran_against="real")
@pytest.mark.parametrize("kind", ["dir", "lvm"])
def test_a_vm_runs_from_disks_in_a_pool_and_they_grow(pools: RealHost, kind: str) -> None:
    block = kind == "lvm"
    pool = group_pool() if block else {"name": "fast", "type": "dir", "path": "/srv/bftest/fast"}
    clone = "full" if block else "linked"
    provisioning = "thick" if block else "thin"

    def vm(root: int, data: int, power: str) -> dict[str, Any]:
        disks = [
            {"name": "root", "size": root, "pool": "fast", "provisioning": provisioning},
            {"name": "data", "size": data, "pool": "fast", "provisioning": provisioning},
        ]
        nics = [{"name": "eth0", "network": "red", "addresses": ["10.77.10.61/24"]}]
        return {
            "name": "pooled",
            "template": "tiny",
            "clone": clone,
            "memory": {"size": 192},
            "power": power,
            "disks": disks,
            "nics": nics,
        }

    document = {"storage_pools": [pool], "vms": [vm(100, 16, "running")]}
    wait = {"wait_for": {"what": "address", "timeout": 240}, "shutdown_timeout": 0}
    pools.apply(document, operation=wait, timeout=400)
    assert pools.apply({"vms": document["vms"]})["changed"] is False
    assert pools.apply(pools.gather("storage_pool", "vm"))["changed"] is False
    paths = {line.split()[3] for line in pools.run("virsh", "domblklist", "--details", "pooled").splitlines()[2:]}
    expected = ("/dev/bfgroup/bf.pooled.root", "/dev/bfgroup/bf.pooled.data")
    assert paths > set(
        expected if block else ("/srv/bftest/fast/pooled.root.qcow2", "/srv/bftest/fast/pooled.data.qcow2")
    )
    with pytest.raises(OnHostError, match=r"cannot go, since it is used by vm\['pooled'\]\.disks\['root'\]\.pool"):
        pools.apply({"storage_pools": [{"name": "fast", "state": "absent"}]})
    # While it runs, and while it is off.
    pools.apply({"vms": [vm(100, 32, "running")]})
    assert pools.run("virsh", "domblkinfo", "pooled", "vdb").split()[1] == str(32 << 20)
    pools.apply({"vms": [vm(120, 32, "stopped")]}, operation={"shutdown_timeout": 0})
    assert pools.apply({"vms": [vm(120, 32, "stopped")]})["changed"] is False
    with pytest.raises(OnHostError, match="a disk can only grow"):
        pools.apply({"vms": [vm(112, 32, "stopped")]})
    pools.apply({"vms": [{"name": "pooled", "state": "absent"}]})
    left = pools.run("lvs", "--noheadings", "bfgroup") if block else pools.run("ls", "/srv/bftest/fast")
    assert left == ""


def test_a_full_pool_ends_a_clone_cleanly_and_is_named_with_the_bytes(pools: RealHost) -> None:
    pools.shell(f"mkfs.ext4 -q {FIRST} 24M; mkdir -p /srv/bftest/small; mount {FIRST} /srv/bftest/small")
    pools.apply({"storage_pools": [{"name": "small", "type": "dir", "path": "/srv/bftest/small"}]})
    disks = [{"name": "root", "pool": "small"}]
    document = {"vms": [{"name": "big", "template": "tiny", "clone": "full", "memory": {"size": 192}, "disks": disks}]}
    # Somebody else fills it after it was looked at: as much is free as nothing says.
    pools.shell("fallocate --length 8M /srv/bftest/small/other")
    with pytest.raises(
        OnHostError, match=r"need [0-9]+ bytes in storage pool 'small', and there are [0-9]+ bytes left"
    ):
        pools.apply(document)
    with pytest.raises(OnHostError) as caught:
        pools.on_host(clone_unwarned, document=document)
    assert "vm['big'].disks['root']: storage pool 'small' is full: a disk of 100663296 bytes does not fit" in str(
        caught.value.message
    )
    assert pools.run("ls", "/srv/bftest/small").split() == ["lost+found", "other"]
    assert pools.run("virsh", "list", "--all", "--name") == ""
    assert pools.run("ls", "/var/lib/libvirt/images/bareforge") == ""


@pytest.mark.capability("kvm", "template.pool", ran_against="real")
def test_a_template_lies_in_a_pool_and_vms_are_linked_clones_of_it(pools: RealHost) -> None:
    pool = {"name": "shelf", "type": "dir", "path": "/srv/bftest/shelf", "content": ["templates"]}
    template = {"name": "shelved", "pool": "shelf", **tiny_source(pools)}
    pools.apply({"storage_pools": [pool], "templates": [template]})
    assert pools.apply({"templates": [template]})["changed"] is False
    assert pools.apply(pools.gather("storage_pool", "template"))["changed"] is False
    path = "/srv/bftest/shelf/bareforge-templates/shelved.qcow2"
    assert pools.run("stat", "--format=%a", path) == "444"
    with pytest.raises(OnHostError, match=r"used by template\['shelved'\]\.pool"):
        pools.apply({"storage_pools": [{"name": "shelf", "state": "absent"}]})
    disks = [{"name": "root", "pool": "shelf"}]
    with pytest.raises(OnHostError, match="storage pool 'shelf' is for templates, not for disks"):
        pools.apply({"vms": [{"name": "v", "template": "shelved", "memory": {"size": 192}, "disks": disks}]})
    nics = [{"name": "eth0", "network": "red", "addresses": ["10.77.10.62/24"]}]
    vm = {"name": "linked", "template": "shelved", "memory": {"size": 192}, "nics": nics}
    pools.apply({"vms": [vm]})
    assert pools.run("virsh", "domstate", "linked") == "running"
    with pytest.raises(OnHostError, match="linked clones of it: linked"):
        pools.apply({"templates": [{"name": "shelved", "state": "absent"}]})
    gone = {"vms": [{"name": "linked", "state": "absent"}], "templates": [{"name": "shelved", "state": "absent"}]}
    pools.apply(gone, operation={"shutdown_timeout": 0})
    assert pools.run("ls", "/srv/bftest/shelf/bareforge-templates") == ""


def test_a_volume_holds_nothing_of_who_had_the_space_before(pools: RealHost) -> None:
    pools.apply({"storage_pools": [group_pool()]})
    pools.shell(
        "lvcreate -q -y -n old -L 100M bfgroup; yes secret | head -c 100M > /dev/bfgroup/old; lvremove -q -y bfgroup/old"
    )

    def vm(size: int) -> dict[str, Any]:
        disks = [{"name": "root", "size": size, "pool": "fast", "provisioning": "thick"}]
        return {"name": "clean", "memory": {"size": 192}, "power": "stopped", "disks": disks}

    for size in (40, 96):
        pools.apply({"vms": [vm(size)]})
        zeros = pools.run("cmp", f"--bytes={size << 20}", "/dev/bfgroup/bf.clean.root", "/dev/zero")
        assert zeros == ""
    pools.apply({"vms": [{"name": "clean", "state": "absent"}]})


@pytest.mark.parametrize("point", ["build", "setAutostart"])
def test_a_run_that_is_killed_while_it_makes_a_pool_is_finished_by_the_next(pools: RealHost, point: str) -> None:
    document = {"storage_pools": [group_pool()]}
    with pytest.raises(OnHostError) as caught:
        pools.on_host(killed_at, document=document, point=point)
    assert caught.value.kind == "Died"
    assert pools.run("virsh", "pool-list", "--all", "--name") == "fast"
    assert pools.gather("storage_pool") == {"storage_pools": []}
    # Whoever comes next takes it back; whoever wants it makes it anew.
    pools.apply({"storage_pools": []})
    assert pools.run("virsh", "pool-list", "--all", "--name") == ""
    assert pools.run("vgs", "--noheadings") == ""
    assert pools.apply(document)["changed"] is True
    assert pools.apply(document)["changed"] is False


@pytest.mark.capability("kvm", "storage_pool.type.nfs", "storage_pool.settings", ran_against="real")
def test_an_export_is_mounted_with_its_options_and_holds_a_linked_clone(shared: RealHost) -> None:
    document = {"storage_pools": [{**NFS, "settings": {"noatime": "", "timeo": "50"}}]}
    planned = shared.apply(document, check=True)
    assert shared.apply(document)["changes"] == planned["changes"]
    assert shared.apply(document)["changed"] is False
    assert shared.apply(shared.gather("storage_pool"))["changed"] is False
    mounted = shared.run("findmnt", "--noheadings", "--output", "FSTYPE,OPTIONS", "/var/lib/bareforge/pools/nas")
    assert mounted.startswith("nfs4")
    assert {"vers=4.2", "noatime", "timeo=50"} <= set(mounted.split()[1].split(","))
    shared.apply({"storage_pools": [{"name": "nas", "settings": {"timeo": "70"}}]})
    mounted = shared.run("findmnt", "--noheadings", "--output", "OPTIONS", "/var/lib/bareforge/pools/nas")
    assert "timeo=70" in mounted
    nics = [{"name": "eth0", "network": "red", "addresses": ["10.77.10.63/24"]}]
    disks = [{"name": "root", "size": 100, "pool": "nas"}]
    vm = {"name": "far", "template": "tiny", "memory": {"size": 192}, "nics": nics, "disks": disks}
    shared.apply({"vms": [vm]})
    assert shared.run("virsh", "domstate", "far") == "running"
    assert shared.run("ls", "/export/bf") == "far.root.qcow2"
    with pytest.raises(OnHostError, match="has to be stopped for settings, and these VMs run on it: far"):
        shared.apply({"storage_pools": [{"name": "nas", "settings": {"timeo": "50"}}]})
    shared.apply({"vms": [{**vm, "disks": [{**disks[0], "size": 120}]}]})
    gone = {"vms": [{"name": "far", "state": "absent"}], "storage_pools": [{"name": "nas", "state": "absent"}]}
    shared.apply(gone, operation={"shutdown_timeout": 0})
    assert shared.run("ls", "/export/bf") == ""
    assert shared.run("ls", "/var/lib/bareforge/pools") == ""


def test_a_server_that_is_away_is_one_sentence_within_a_deadline(shared: RealHost) -> None:
    shared.apply({"storage_pools": [NFS]})
    shared.run("virsh", "pool-destroy", "nas")
    shared.run("systemctl", "stop", "nfs-server")
    another = {**NFS, "name": "other", "source": {"host": "127.0.0.1", "path": "/export/other"}}
    for document in ({"storage_pools": [{"name": "nas"}]}, {"storage_pools": [another]}):
        began = time.monotonic()
        with pytest.raises(OnHostError) as caught:
            shared.apply(document)
        assert time.monotonic() - began < 60
        assert "the server '127.0.0.1' cannot be reached on TCP port 2049 (Connection refused)" in caught.value.message
    # Packets that nobody answers, as of a server whose power is gone.
    silent = {"storage_pools": [{**NFS, "name": "silent", "source": {"host": "127.0.0.77", "path": "/x"}}]}
    shared.shell(
        "nft add table ip bftest; nft 'add chain ip bftest in { type filter hook input priority 0; }'\n"
        "nft add rule ip bftest in ip daddr 127.0.0.77 drop"
    )
    began = time.monotonic()
    try:
        with pytest.raises(OnHostError, match=r"'127\.0\.0\.77' cannot be reached on TCP port 2049"):
            shared.apply(silent)
        assert time.monotonic() - began < 60
    finally:
        shared.shell("nft delete table ip bftest")
    assert shared.run("virsh", "pool-list", "--all", "--name") == "nas"
    shared.run("systemctl", "start", "nfs-server")
    assert shared.apply({"storage_pools": [{"name": "nas"}]})["changed"] is True


@pytest.mark.capability("kvm", "storage_pool.type.iscsi", ran_against="real")
def test_a_target_is_connected_with_chap_and_carries_a_group_with_a_disk(shared: RealHost) -> None:
    san = {
        "name": "san",
        "type": "iscsi",
        "source": {"host": "127.0.0.1", "target": TARGET, "username": "initiator", "password": CHAP_PASSWORD},
    }
    wrong = {**san, "source": {**san["source"], "password": "not-the-password"}}  # type: ignore[dict-item]
    with pytest.raises(OnHostError) as caught:
        shared.apply({"storage_pools": [wrong]})
    assert "not-the-password" not in str(caught.value)
    assert shared.run("virsh", "pool-list", "--all", "--name") == ""
    assert shared.run("virsh", "secret-list").count("iscsi") == 0
    device = f"/dev/disk/by-path/ip-127.0.0.1:3260-iscsi-{TARGET}-lun-1"
    far = {"name": "far", "type": "lvm", "source": {"name": "bfgroup", "devices": [device]}}
    result = shared.apply({"storage_pools": [far, san]})
    assert shared.apply({"storage_pools": [far, san]})["changed"] is False
    assert shared.apply(shared.gather("storage_pool"))["changed"] is False
    texts = [str(result), str(shared.gather("storage_pool")), shared.run("virsh", "pool-dumpxml", "san")]
    texts.append(shared.shell("cat /var/lib/bareforge/pools/*"))
    assert not any(CHAP_PASSWORD in text for text in texts)
    assert shared.run("virsh", "secret-list").count("iscsi") == 1
    with pytest.raises(
        OnHostError, match="is of type iscsi, in which no disk can be made; allowed is a pool of type dir"
    ):
        shared.apply(
            {"vms": [{"name": "v", "memory": {"size": 192}, "disks": [{"name": "a", "size": 8, "pool": "san"}]}]}
        )
    with pytest.raises(OnHostError, match="cannot go, since these storage pools lie on its devices: far"):
        shared.apply({"storage_pools": [{"name": "san", "state": "absent"}]})
    disks = [{"name": "root", "pool": "far", "provisioning": "thick"}]
    nics = [{"name": "eth0", "network": "red", "addresses": ["10.77.10.64/24"]}]
    vm = {"name": "lun", "template": "tiny", "clone": "full", "memory": {"size": 192}, "disks": disks, "nics": nics}
    shared.apply({"vms": [vm]})
    assert shared.run("virsh", "domstate", "lun") == "running"
    shared.apply({"vms": [{"name": "lun", "state": "absent"}]}, operation={"shutdown_timeout": 0})
    gone = {"storage_pools": [{"name": name, "state": "absent"} for name in ("san", "far")]}
    shared.apply(gone)
    assert "No active sessions" in shared.shell("iscsiadm --mode session 2>&1 || true")
    assert shared.run("virsh", "secret-list").count("iscsi") == 0
