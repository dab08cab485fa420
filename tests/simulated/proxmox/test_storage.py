# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Storages, resource pools, templates and snapshots."""

from __future__ import annotations

import re

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import ApplyError

shows = pytest.mark.capability
IMAGE = "https://example.org/images/tiny.img"
CHECKSUM = f"sha256:{'0' * 64}"

POOLS = [
    ({"type": "dir", "path": "/srv/pool"}, {"type": "dir", "path": "/srv/pool"}),
    (
        {"type": "nfs", "source": {"host": "nfs.example.org", "path": "/export", "version": "4.2"}},
        {
            "type": "nfs",
            "server": "nfs.example.org",
            "export": "/export",
            "options": "vers=4.2",
            "path": "/mnt/pve/pool",
        },
    ),
    (
        {
            "type": "smb",
            "source": {"host": "192.0.2.5", "path": "share", "username": "backup", "password": "secret word"},
        },
        {"type": "cifs", "server": "192.0.2.5", "share": "share", "username": "backup"},
    ),
    (
        {"type": "iscsi", "source": {"host": "192.0.2.6", "target": "iqn.2026-01.org.example:disk"}},
        {"type": "iscsi", "portal": "192.0.2.6", "target": "iqn.2026-01.org.example:disk"},
    ),
    ({"type": "lvm", "source": {"name": "vg0"}}, {"type": "lvm", "vgname": "vg0"}),
    ({"type": "lvm_thin", "source": {"name": "vg0/thin"}}, {"type": "lvmthin", "vgname": "vg0", "thinpool": "thin"}),
    ({"type": "zfs", "source": {"name": "tank/vms"}}, {"type": "zfspool", "pool": "tank/vms"}),
]


@pytest.mark.parametrize(
    ("pool", "kept"),
    [
        pytest.param(
            pool,
            kept,
            id=pool["type"],
            marks=shows(
                "proxmox", "storage_pool", f"storage_pool.type.{pool['type']}", ran_against="independent simulator"
            ),
        )
        for pool, kept in POOLS
    ],
)
def test_every_type(node, pool, kept):
    node.settle({"storage_pools": [{"name": "pool", **pool}]})
    assert {name: node.peer.storages["pool"].get(name) for name in kept} == kept
    node.settle({"storage_pools": [{"name": "pool", "type": pool["type"], "autostart": False}]})
    assert node.peer.storages["pool"]["disable"] == 1
    node.settle({"storage_pools": [{"name": "pool", "type": pool["type"], "autostart": True}]})
    assert "disable" not in node.peer.storages["pool"]
    node.settle({"storage_pools": [{"name": "pool", "state": "absent"}]})
    assert "pool" not in node.peer.storages


@shows(
    "proxmox",
    "storage_pool.content.disks",
    "storage_pool.content.templates",
    "storage_pool.content.images",
    "storage_pool.content.backups",
    "storage_pool.settings",
    ran_against="independent simulator",
)
def test_content_and_settings(node):
    # What the model has no word for stays: local holds templates of containers.
    node.settle({"storage_pools": [{"name": "local", "type": "dir", "content": ["disks", "templates", "images"]}]})
    assert set(node.peer.storages["local"]["content"].split(",")) == {"images", "import", "iso", "vztmpl"}
    wanted = {"name": "pool", "type": "dir", "path": "/srv/pool", "content": ["backups"]}
    node.settle({"storage_pools": [{**wanted, "settings": {"preallocation": "off", "prune-backups": "keep-last=3"}}]})
    assert node.peer.storages["pool"]["prune-backups"] == "keep-last=3"
    node.settle({"storage_pools": [{**wanted, "settings": {"preallocation": "metadata"}}]})
    assert "prune-backups" not in node.peer.storages["pool"]
    problems = node.problems(
        {
            "storage_pools": [
                {
                    "name": "p",
                    "type": "lvm",
                    "source": {"name": "vg"},
                    "content": ["images"],
                    "settings": {"magic": "1"},
                }
            ]
        }
    )
    assert set(problems) == {
        "storage_pool['p'].name",
        "storage_pool['p'].content",
        "storage_pool['p'].settings['magic']",
    }


def test_contents_go_only_where_that_is_said(node):
    pool = {"name": "pool", "type": "dir", "path": "/srv/pool", "content": ["disks", "images"]}
    node.apply({"storage_pools": [pool]})
    node.peer.store_file("pool", "a.iso", 1024)
    node.apply({"storage_pools": [{"name": "pool", "state": "absent"}]}, delete_contents=True)
    assert [path for _method, path in node.written() if "content" in path] == [
        "/nodes/pve1/storage/pool/content/pool:iso/a.iso"
    ]


@shows("proxmox", "resource_pool", ran_against="independent simulator")
def test_resource_pools(node):
    node.settle({"resource_pools": [{"name": "team", "description": "All"}, {"name": "web", "parent": "team"}]})
    assert set(node.peer.pools) == {"team", "team/web"}
    problems = node.problems({"resource_pools": [{"name": "web", "parent": ""}, {"name": "1st"}]})
    assert set(problems) == {"resource_pool['web'].parent", "resource_pool['1st'].name"}


@shows(
    "proxmox",
    "template",
    "template.source.url",
    "template.format.qcow2",
    "template.firmware.bios",
    "template.firmware.uefi",
    "template.customization.cloud_init",
    "template.customization.none",
    "template.pool",
    ran_against="our simulator",
)
def test_templates_are_imported(node):
    source = {"url": IMAGE, "format": "qcow2"}
    node.settle(
        {
            "templates": [
                {
                    "name": "debian",
                    "source": source,
                    "checksum": CHECKSUM,
                    "pool": "local-lvm",
                    "description": "Debian",
                },
                {
                    "name": "secure",
                    "source": {"url": IMAGE},
                    "checksum": CHECKSUM,
                    "firmware": "uefi",
                    "customization": "none",
                },
            ]
        }
    )
    debian, secure = node.vm("debian"), node.vm("secure")
    assert debian.template and secure.template
    assert debian.config["virtio0"] == f"local-lvm:base-{debian.vmid}-disk-0,size=2G"
    assert "cloudinit" in debian.config["ide0"] and "ide0" not in secure.config
    assert secure.config["bios"] == "ovmf" and secure.config["efidisk0"].startswith("local-lvm:")
    # The image that was fetched is not left behind.
    assert [name for name in node.peer.storages["local"].get("volumes", {}) if name.startswith("import/")] == []
    fetched = [body for method, path, body in node.peer.sent("POST") if path.endswith("download-url")]
    assert b"checksum-algorithm=sha256" in fetched[0]
    gathered = node.gather("template")["templates"][0]
    assert gathered["source"] == source and gathered["checksum"] == CHECKSUM and gathered["pool"] == "local-lvm"
    node.settle({"templates": [{"name": "debian", "description": "Debian 13", "guest_type": "other"}]})
    node.settle({"templates": [{"name": name, "state": "absent"} for name in ("debian", "secure")]})
    assert node.peer.vms == []


@pytest.mark.parametrize(
    "form",
    [
        pytest.param(form, marks=shows("proxmox", f"template.format.{form}", ran_against="our simulator"))
        for form in ("raw", "vmdk")
    ],
)
def test_other_formats(node, form):
    node.settle(
        {"templates": [{"name": "t", "source": {"url": "https://example.org/x", "format": form}, "checksum": CHECKSUM}]}
    )


@shows("proxmox", "template.source.vm", ran_against="independent simulator")
def test_a_template_of_a_vm(node):
    node.apply(
        {
            "vms": [
                {
                    "name": "master",
                    "memory": {"size": 128},
                    "power": "stopped",
                    "disks": [{"name": "root", "size": 1024}],
                }
            ]
        }
    )
    node.settle({"templates": [{"name": "sealed", "source": {"vm": "master"}}]})
    assert node.vm("sealed").template and not node.vm("master").template


def test_a_template_cannot_be_made_or_removed(node):
    node.peer.storages["local"]["content"] = "iso,vztmpl,backup"
    problems = node.problems(
        {"templates": [{"name": "t_1", "source": {"url": "https://example.org/x"}, "checksum": CHECKSUM}]}
    )
    assert set(problems) == {"template['t_1'].name", "template['t_1'].source.url", "template['t_1'].source.format"}
    node.peer.storages["local"]["content"] = "iso,import"
    template = {"name": "t", "source": {"url": IMAGE}, "checksum": CHECKSUM}
    node.apply(
        {"templates": [template], "vms": [{"name": "web", "template": "t", "clone": "linked", "memory": {"size": 128}}]}
    )
    problems = node.problems({"templates": [{"name": "t", "state": "absent"}]})
    assert problems == {"template['t']": "cannot go, since VMs are linked clones of it: web"}


def test_a_fetch_that_fails_leaves_nothing(node):
    node.peer.fail("POST", "/download-url", 500, "failed to fetch", times=1)
    template = {"templates": [{"name": "t", "source": {"url": IMAGE}, "checksum": CHECKSUM}]}
    with pytest.raises(ApplyError, match="failed to fetch"):
        node.apply(template)
    assert node.peer.vms == []
    node.settle(template)


@shows("proxmox", "snapshot", "snapshot.memory", ran_against="independent simulator")
def test_snapshots(node):
    node.apply(
        {
            "vms": [
                {"name": "a", "memory": {"size": 128}, "disks": [{"name": "root", "size": 1024}]},
                {"name": "b", "memory": {"size": 128}, "disks": [{"name": "root", "size": 1024}], "power": "stopped"},
            ]
        },
    )
    node.settle(
        {
            "snapshots": [
                {"vm": "a", "name": "live", "memory": True, "description": "It's 100 %"},
                {"vm": "a", "name": "second"},
                {"vm": "b", "name": "off"},
            ]
        }
    )
    assert set(node.vm("a").snapshots) == {"live", "second"} and node.vm("a").snapshots["live"]["vmstate"]
    node.settle({"snapshots": [{"vm": "a", "name": "live", "state": "absent"}]})
    assert set(node.vm("a").snapshots) == {"second"}
    problems = node.problems({"snapshots": [{"vm": "a", "name": "current"}, {"vm": "b", "name": "no", "memory": True}]})
    assert set(problems) == {"snapshot['a/current'].name", "snapshot['b/no'].memory"}


def test_back_to_a_snapshot(node):
    vm = {"name": "a", "memory": {"size": 128}, "power": "stopped", "disks": [{"name": "root", "size": 1024}]}
    node.apply({"vms": [vm], "snapshots": [{"vm": "a", "name": "before"}]})
    node.apply({"vms": [{"name": "a", "memory": {"size": 256}}]})
    platform = node.platform()
    platform.owner("snapshot").revert("a", "before", True)
    assert int(node.vm("a").config["memory"]) == 256
    platform.owner("snapshot").revert("a", "before", False)
    platform.close()
    assert int(node.vm("a").config["memory"]) == 128


def test_a_pool_of_the_same_task_takes_what_lies_in_it(node):
    files = {"name": "files", "type": "dir", "path": "/srv/files", "content": ["disks", "backups", "templates"]}
    disk = {"name": "root", "size": 64, "pool": "files"}
    vm = {"name": "web", "power": "stopped", "memory": {"size": 64}, "disks": [disk]}
    template = {"name": "tiny", "source": {"url": IMAGE}, "checksum": CHECKSUM, "pool": "files"}
    node.peer.storages["local"]["content"] = "iso"
    node.settle({"storage_pools": [files], "vms": [vm], "templates": [template]})
    # In a folder disks are files, of which QEMU takes qcow2 by our choice.
    assert re.fullmatch(r"files:\d+/vm-\d+-disk-0\.qcow2,size=64M", node.vm("web").config["virtio0"])
    node.settle({"storage_pools": [{"name": "more", "type": "dir", "path": "/srv/more", "content": ["backups"]}]})
    node.settle({"backups": [{"vm": "web", "name": "first", "target": "more"}]})


def test_a_pool_of_the_same_task_takes_only_what_it_says(node):
    files = {"name": "files", "type": "dir", "path": "/srv/files", "content": ["backups"]}
    vm = {
        "name": "web",
        "power": "stopped",
        "memory": {"size": 64},
        "disks": [{"name": "root", "size": 64, "pool": "files"}],
    }
    problems = node.problems({"storage_pools": [files], "vms": [vm]})
    assert problems == {"vm['web'].disks['root'].pool": "'files' takes no disks; it holds backup"}
