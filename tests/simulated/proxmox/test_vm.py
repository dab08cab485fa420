# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""VMs. fakepve keeps them; what it leaves out (disks that come, go and grow, hot-plugging, cloud-init drives) is our own reading of PVE."""

from __future__ import annotations

import re

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import ApplyError, ValidateError

shows = pytest.mark.capability
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKanaryKanaryKanaryKanaryKanaryKanaryKana ct"
HASH = "$6$saltsalt$abcdefghijklmnopqrstuvwxyz0123456789"
BASE = {
    "virtual_switches": [{"name": "sw", "type": "internal"}],
    "virtual_networks": [{"name": "app", "switch": "sw", "vlan": 10}, {"name": "db", "switch": "sw", "vlan": 20}],
    "templates": [
        {
            "name": "debian",
            "source": {"url": "https://example.org/d.qcow2"},
            "checksum": f"sha256:{'0' * 64}",
            "pool": "local-lvm",
        }
    ],
}


@pytest.fixture
def based(node):
    """The node with networks and a template."""
    node.apply(BASE)
    return node


def vm(name="web", **fields):
    return {"name": name, "memory": {"size": 256}, "power": "stopped", **fields}


@shows(
    "proxmox", "vm", "vm.power.running", "vm.power.stopped", "vm.power.suspended", ran_against="independent simulator"
)
def test_power(node):
    node.settle({"vms": [vm(power="running")]})
    assert node.vm("web").status == "running"
    node.settle({"vms": [{"name": "web", "power": "suspended"}]})
    assert node.vm("web").qmpstatus == "paused"
    node.settle({"vms": [{"name": "web", "power": "running"}]})
    assert node.vm("web").qmpstatus == "running"
    node.settle({"vms": [{"name": "web", "power": "stopped"}]}, shutdown_timeout=30)
    assert node.vm("web").status == "stopped"
    assert ("POST", "/nodes/pve1/qemu/100/status/shutdown") in node.written()
    node.settle({"vms": [{"name": "web", "state": "absent"}]})
    assert node.peer.vms == []


@shows("proxmox", "vm.clone.linked", "vm.clone.full", "vm.guest", ran_against="our simulator")
def test_clones_with_their_guests_data(based):
    nic = {
        "name": "e0",
        "network": "app",
        "addresses": ["192.0.2.10/24"],
        "gateway4": "192.0.2.1",
        "dns_servers": ["192.0.2.53"],
    }
    guest = {"users": [{"name": "admin", "ssh_keys": [KEY], "password_hash": HASH, "sudo": True}]}
    disks = [{"name": "root", "size": 4096}, {"name": "data", "size": 1024}]
    done = based.settle(
        {
            "vms": [
                vm("web", template="debian", clone="linked", nics=[nic], guest=guest, disks=disks, power="running"),
                vm("db", template="debian", clone="full", nics=[{"name": "e0", "network": "db"}]),
            ]
        }
    )
    assert [change["action"] for change in done["changes"]] == ["create", "create"]
    config = based.vm("web").config
    assert re.fullmatch(r"local-lvm:vm-\d+-disk-\d,size=4G", config["virtio0"])
    assert config["virtio1"].endswith("size=1G") and config["ide0"].startswith("local-lvm:vm-")
    assert config["ipconfig0"] == "ip=192.0.2.10/24,gw=192.0.2.1" and config["nameserver"] == "192.0.2.53"
    assert config["ciuser"] == "admin" and config["cipassword"] == HASH
    assert based.vm("db").config["ipconfig0"] == "ip=dhcp"
    shown = {item["name"]: item for item in based.gather("vm")["vms"]}
    assert (shown["web"]["clone"], shown["db"]["clone"]) == ("linked", "full")
    assert shown["web"]["guest"]["users"] == [{"name": "admin", "ssh_keys": [KEY], "sudo": True}]
    based.settle({"vms": [{"name": "web", "nics": [{**nic, "addresses": ["192.0.2.11/24"]}]}]})
    assert based.vm("web").config["ipconfig0"].startswith("ip=192.0.2.11/24") and based.peer.cloudinit_regenerated


def test_clones_are_made_side_by_side(based):
    based.settle({"vms": [vm(f"w{number}", template="debian") for number in range(8)]})
    posts = [path for method, path in based.written() if path.endswith("/clone")]
    puts = [
        index for index, (method, path) in enumerate(based.written()) if method == "PUT" and path.endswith("/config")
    ]
    last_clone = max(index for index, (_method, path) in enumerate(based.written()) if path.endswith("/clone"))
    assert len(posts) == 8 and len({machine.vmid for machine in based.peer.vms}) == 9
    # No clone waits for another: all are asked for before the first one is configured (the template's own change aside).
    assert min(index for index in puts if index > last_clone - 8 and index > 6) > last_clone


@shows(
    "proxmox", "vm.firmware.bios", "vm.firmware.uefi", "vm.secure_boot", "vm.tpm", ran_against="independent simulator"
)
def test_firmware(node):
    node.settle({"vms": [vm("old", firmware="bios"), vm("new", firmware="uefi", secure_boot=True, tpm=True)]})
    assert "bios" not in node.vm("old").config
    config = node.vm("new").config
    assert config["bios"] == "ovmf" and config["machine"] == "q35"
    assert "pre-enrolled-keys=1" in config["efidisk0"] and "efitype=4m" in config["efidisk0"]
    assert "version=v2.0" in config["tpmstate0"]
    assert set(node.problems({"vms": [{"name": "new", "secure_boot": False}]})) == {"vm['new'].secure_boot"}
    node.settle({"vms": [{"name": "new", "tpm": False}]})
    assert "tpmstate0" not in node.vm("new").config


@shows(
    "proxmox",
    "vm.cpu.topology",
    "vm.cpu.model",
    "vm.cpu.shares",
    "vm.cpu.limit",
    "vm.cpu.pinning",
    "vm.memory.ballooning",
    "vm.memory.shares",
    ran_against="our simulator",
)
def test_processors_and_memory(node):
    cpu = {"count": 4, "sockets": 2, "cores": 2, "model": "host", "shares": 200, "limit": 150, "pinning": "0-3"}
    node.settle({"vms": [vm(cpu=cpu, memory={"size": 2048, "minimum": 1024, "shares": 500})]})
    config = node.vm("web").config
    assert {name: str(config[name]) for name in ("sockets", "cores", "cpu", "cpuunits", "cpulimit", "affinity")} == {
        "sockets": "2", "cores": "2", "cpu": "host", "cpuunits": "200", "cpulimit": "1.5", "affinity": "0-3",
    }  # fmt: skip
    assert (str(config["memory"]), str(config["balloon"]), str(config["shares"])) == ("2048", "1024", "500")
    assert set(node.problems({"vms": [{"name": "web", "cpu": {"threads": 2, "count": 8}}]})) == {
        "vm['web'].cpu.threads"
    }


def test_what_a_running_vm_does_not_take_needs_a_restart(node):
    node.apply({"vms": [vm(power="running", description="Before")]})
    more = {"vms": [{"name": "web", "cpu": {"count": 2}, "memory": {"size": 512}, "description": "After"}]}
    problems = node.problems(more)
    assert "needs the VM off, and it runs" in problems["vm['web']"]
    done = node.settle(more, allow_restart=True)
    assert done["changes"][0]["needs"] == ["power_cycle"]
    machine = node.vm("web")
    assert (int(machine.config["cores"]), int(machine.config["memory"]), machine.pending) == (2, 512, {})
    assert machine.status == "running"
    starts = [path for _method, path in node.written() if path.endswith("status/start")]
    node.settle({"vms": [{"name": "web", "description": "At once"}]})
    assert [path for _method, path in node.written() if path.endswith("status/start")] == starts


@shows(
    "proxmox",
    "vm.disk.pool",
    "vm.disk.bus.virtio",
    "vm.disk.bus.scsi",
    "vm.disk.bus.sata",
    "vm.disk.cache",
    "vm.disk.limits",
    ran_against="our simulator",
)
def test_disks_come_grow_and_go(node):
    node.apply({"storage_pools": [{"name": "files", "type": "dir", "path": "/srv/files", "content": ["disks"]}]})
    limits = {"read_iops": 500, "write_rate": 10241}
    disks = [
        {"name": "root", "size": 1024, "cache": "writeback", "limits": limits},
        {"name": "data", "size": 512, "bus": "scsi", "pool": "files"},
        {"name": "old", "size": 100, "bus": "sata"},
    ]
    node.settle({"vms": [vm(disks=disks)]})
    config = node.vm("web").config
    assert (
        "cache=writeback" in config["virtio0"]
        and "iops_rd=500" in config["virtio0"]
        and "mbps_wr=10.0009765625" in config["virtio0"]
    )
    assert (
        config["scsi0"].startswith("files:") and config["scsi0"].endswith("size=512M") and ".qcow2" in config["scsi0"]
    )
    kept = config["scsi0"].partition(",")[0]
    node.settle({"vms": [{"name": "web", "disks": [{"name": "root", "size": 2048, "bus": "scsi"}, {"name": "old"}]}]})
    config = node.vm("web").config
    assert config["unused0"] == kept and "virtio0" not in config and "size=2G" in config["scsi1"]
    # A disk that was detached is the same one when it is wanted again.
    node.settle(
        {
            "vms": [
                {
                    "name": "web",
                    "disks": [
                        {"name": "root"},
                        {"name": "old"},
                        {"name": "data", "bus": "scsi", "pool": "files", "size": 512},
                    ],
                }
            ]
        }
    )
    assert any(str(value).startswith(kept) for key, value in node.vm("web").config.items() if key.startswith("scsi"))
    problems = node.problems(
        {"vms": [{"name": "web", "disks": [{"name": "root", "size": 64}, {"name": "x", "size": 1, "pool": "local"}]}]}
    )
    assert set(problems) == {"vm['web'].disks['root'].size", "vm['web'].disks['x'].pool"}


@shows(
    "proxmox",
    "vm.nic.model.virtio",
    "vm.nic.model.e1000",
    "vm.nic.model.e1000e",
    "vm.nic.model.vmxnet3",
    "vm.nic.connected",
    "vm.nic.bandwidth",
    ran_against="our simulator",
)
def test_adapters_of_a_running_vm_change_and_read_back(based):
    models = ("virtio", "e1000", "e1000e", "vmxnet3")
    nics = [{"name": f"n{model}", "network": "app", "model": model} for model in models]
    based.settle({"vms": [vm(power="running", nics=nics)]})
    config = based.vm("web").config
    assert [config[f"net{number}"].partition("=")[0] for number in range(4)] == list(models)
    limit = {"average": 8000}
    based.settle(
        {
            "vms": [
                {
                    "name": "web",
                    "nics": [
                        {"name": "nvirtio", "network": "db", "mac": "52:54:00:00:00:01", "connected": False},
                        {"name": "ne1000e", "network": "app", "bandwidth": {"inbound": limit, "outbound": limit}},
                    ],
                }
            ]
        }
    )
    machine = based.vm("web")
    assert machine.config["net0"] == "virtio=52:54:00:00:00:01,bridge=sw,link_down=1,tag=20"
    assert "rate=0.95367432" in machine.config["net2"] and "net1" not in machine.config and machine.pending == {}
    problems = based.problems(
        {
            "vms": [
                {
                    "name": "web",
                    "nics": [{"name": "ne1000e", "network": "app", "bandwidth": {"inbound": {"average": 4000}}}],
                }
            ]
        }
    )
    assert "one and the same in both directions" in problems["vm['web'].nics['ne1000e'].bandwidth"]


@shows(
    "proxmox",
    "vm.cdrom",
    "vm.boot_order",
    "vm.resource_pool",
    "vm.autostart",
    "vm.autostart_order",
    "vm.tags",
    ran_against="our simulator",
)
def test_the_rest(based):
    based.peer.store_file("local", "tools.iso", 1024)
    fields = {
        "cdrom": "local:iso/tools.iso",
        "boot_order": ["cdrom", "disk", "network"],
        "disks": [{"name": "root", "size": 64}],
        "nics": [{"name": "e0", "network": "app"}],
        "resource_pool": "team",
        "autostart": True,
        "autostart_order": 3,
        "autostart_delay": 30,
        "tags": ["web", "blue"],
        "description": 'It\'s\n"quoted" --> & <b>\n',
    }
    based.settle({"resource_pools": [{"name": "team"}, {"name": "other"}], "vms": [vm(**fields)]})
    config = based.vm("web").config
    assert (
        config["boot"] == "order=ide2;virtio0;net0"
        and config["startup"] == "order=3,up=30"
        and config["tags"] == "blue;web"
    )
    assert based.peer.pools["team"] == {based.vm("web").vmid}
    assert based.gather("vm")["vms"][0]["description"] == fields["description"]
    based.settle(
        {
            "vms": [
                {
                    "name": "web",
                    "cdrom": "",
                    "boot_order": ["disk"],
                    "resource_pool": "other",
                    "autostart": False,
                    "tags": [],
                }
            ]
        }
    )
    config = based.vm("web").config
    assert (
        config["ide2"] == "none,media=cdrom"
        and config["boot"] == "order=virtio0"
        and "onboot" not in config
        and "tags" not in config
    )
    assert based.peer.pools["other"] == {based.vm("web").vmid}


def test_what_cannot_be_given_to_a_guest_is_refused_by_name(based):
    guest = {
        "hostname": "other",
        "users": [{"name": "a", "sudo": True, "password_hash": "$y$j9T$saltsaltsalt$hashhashhash"}, {"name": "b"}],
        "packages": ["nginx"],
        "timezone": "UTC",
        "user_data": "#cloud-config\n",
    }
    nic = {"name": "e0", "network": "app", "addresses": ["192.0.2.1/24", "192.0.2.2/24"]}
    problems = based.problems({"vms": [vm("web_1", template="debian", guest=guest, nics=[nic], tags=["Web"])]})
    assert set(problems) == {
        "vm['web_1'].name",
        "vm['web_1'].tags",
        "vm['web_1'].guest.hostname",
        "vm['web_1'].guest.users",
        "vm['web_1'].guest.users['a'].password_hash",
        "vm['web_1'].guest.users['b'].sudo",
        "vm['web_1'].guest.packages",
        "vm['web_1'].guest.timezone",
        "vm['web_1'].guest.user_data",
        "vm['web_1'].nics['e0'].addresses",
    }
    assert "$y$" not in str(problems)


class TestNames:
    def test_two_vms_of_one_name_are_told_and_left_alone(self, node):
        node.peer.add_vm(101, "twin", config={"memory": 512})
        node.peer.add_vm(102, "twin", config={"memory": 512})
        problems = node.problems({"vms": [{"name": "twin", "memory": {"size": 1024}}]})
        assert "several VMs of the node (also 102)" in problems["vm['twin']"]

    def test_a_name_on_another_node_is_taken(self, node):
        node.peer.add_node("pve2")
        node.peer.add_vm(101, "web", node="pve2")
        assert "VM 101 on node pve2 is called so" in node.problems({"vms": [vm()]})["vm['web'].name"]
        assert "VM 101 on node pve2" in node.problems({"vms": [{"name": "web", "state": "absent"}]})["vm['web']"]

    def test_a_locked_vm_is_left_alone(self, node):
        node.peer.add_vm(101, "web", config={"memory": 512}, lock="backup")
        assert (
            "locked by Proxmox VE (backup)"
            in node.problems({"vms": [{"name": "web", "memory": {"size": 1024}}]})["vm['web']"]
        )


def test_an_id_that_another_run_takes_meanwhile_is_left_to_it(node):
    platform = node.platform()
    platform.resources()
    node.peer.add_vm(100, "other", config={"memory": 16})
    guest, task = platform.owner("vm").new_guest(
        ("nodes", "pve1", "qemu"), "vmid", {"name": "web", "memory": 16}, "making it"
    )
    assert guest.vmid == 101 and task.upid
    platform.close()
    assert [machine.name for machine in node.peer.vms] == ["other", "web"]


def test_a_task_that_fails_names_the_vm_and_the_others_are_finished(node):
    node.peer.storages["full"] = {
        "type": "dir",
        "active": 1,
        "content": "images",
        "files": set(),
        "avail": 10,
        "path": "/f",
    }
    disk = {"name": "root", "size": 1024, "pool": "full"}
    with pytest.raises(
        ApplyError, match=r"making VM 'bad': the task failed: unable to create VM 10. - .*No space left"
    ) as caught:
        node.apply({"vms": [vm("bad", disks=[disk]), vm("good")]})
    assert [change["key"] for change in caught.value.details["changes_made"]] == ["good"]
    assert [machine.name for machine in node.peer.vms] == ["good"]


@shows("proxmox", "vm.wait_for.address", ran_against="independent simulator")
def test_waiting_for_an_address(based):
    web = {
        "name": "web",
        "memory": {"size": 64},
        "nics": [{"name": "e0", "network": "app", "mac": "52:54:00:00:00:09"}],
    }
    with pytest.raises(ApplyError, match="no address within 1 s of: web"):
        based.apply({"vms": [web]}, wait_for={"what": "address", "timeout": 1})
    address = {"ip-address": "192.0.2.9", "ip-address-type": "ipv4", "prefix": 24}
    interface = {"name": "eth0", "hardware-address": "52:54:00:00:00:09", "ip-addresses": [address]}
    based.vm("web").agent = {"interfaces": [interface]}
    assert based.apply({"vms": [web]}, wait_for={"what": "address", "timeout": 5})["changes"] == []


def test_a_guest_that_does_not_shut_down(node):
    node.apply({"vms": [vm(power="running")]})
    node.vm("web").acpi = False
    with pytest.raises(ApplyError, match="has not shut down within 5 s") as caught:
        node.apply({"vms": [{"name": "web", "power": "stopped"}]}, shutdown_timeout=5)
    assert caught.value.hint == "Say force_off: true to switch it off then"
    node.settle({"vms": [{"name": "web", "power": "stopped"}]}, shutdown_timeout=5, force_off=True)


def test_what_a_killed_run_has_cloned_is_removed_and_made_anew(based):
    template = based.vm("debian")
    based.peer.add_vm(
        150, "bareforge-unfinished-150", config={"virtio0": "local-lvm:vm-150-disk-0,size=2G", "memory": 16}
    )
    assert template.template
    based.settle({"vms": [vm(template="debian", disks=[{"name": "root", "size": 3072}])]})
    assert sorted(machine.name for machine in based.peer.vms) == ["debian", "web"]


def test_somebody_elses_change_meanwhile_is_not_overwritten(node):
    node.apply({"vms": [vm()]})
    platform = node.platform()
    guest = platform.owner("vm")
    platform.read(["vm"])
    node.vm("web").config["description"] = "Changed meanwhile"
    from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.proxmox.vm_config import Wanted

    present = next(each for each in platform.guests() if each.name == "web")
    wanted = Wanted.__new__(Wanted)
    wanted.config, wanted.deletes, wanted.sizes = {"memory": 1024}, [], {}
    with pytest.raises(ApplyError, match="checksum mismatch") as caught:
        list(guest._configure(present, wanted))
    assert "Somebody else has changed it meanwhile" in caught.value.sentence()
    platform.close()


def test_vms_of_others_are_gathered_and_applied_back(node):
    node.peer.add_vm(
        101,
        "foreign",
        status="running",
        config={
            "memory": "2048", "cores": 2, "sockets": 2, "cpu": "kvm64", "balloon": 0, "onboot": 1, "boot": "order=scsi0;ide2;net0",
            "scsi0": "local-lvm:vm-101-disk-0,iothread=1,size=32G", "ide2": "none,media=cdrom", "ostype": "l26",
            "net0": "virtio=BC:24:11:00:00:01,bridge=vmbr0,firewall=1", "description": "By hand\n", "agent": "1",
        },
    )  # fmt: skip
    assert node.apply(node.gather())["changes"] == []
    node.settle({"vms": [{"name": "foreign", "nics": [{"name": "net0", "network": "vmbr0", "connected": False}]}]})
    assert node.vm("foreign").config["net0"] == "virtio=BC:24:11:00:00:01,bridge=vmbr0,firewall=1,link_down=1"


def test_a_vm_that_runs_is_not_pruned(node):
    node.apply({"vms": [vm("on", power="running"), vm("off")]})
    done = node.apply({"vms": []}, exact=["vm"])
    assert [change["key"] for change in done["changes"]] == ["off"] and "it runs" in done["warnings"][0]


def test_delete_disks_false_is_refused(node):
    node.apply({"vms": [vm(disks=[{"name": "root", "size": 64}])]})
    assert (
        "removes a VM's disks with it"
        in node.problems({"vms": [{"name": "web", "state": "absent"}]}, delete_disks=False)["vm['web']"]
    )


def test_quorum_lost(node):
    node.apply({"vms": [vm()]})
    node.peer.lose_quorum()
    with pytest.raises(ApplyError) as caught:
        node.apply({"vms": [{"name": "web", "memory": {"size": 512}}]})
    assert "lost its quorum" in caught.value.sentence()
    assert node.apply({"vms": [{"name": "web"}]})["changes"] == []
    node.peer.regain_quorum()
    node.settle({"vms": [{"name": "web", "memory": {"size": 512}}]})


def test_absent_and_unknown_things(node):
    with pytest.raises(ValidateError, match="there is no virtual network 'nowhere'"):
        node.apply({"vms": [vm(nics=[{"name": "e0", "network": "nowhere"}])]})
    assert node.apply({"vms": [{"name": "never", "state": "absent"}]})["changes"] == []


def test_what_vms_do_right_now(based):
    nic = {"name": "e0", "network": "app", "mac": "52:54:00:00:00:09"}
    based.apply({"vms": [vm("web", power="running", nics=[nic], disks=[{"name": "root", "size": 64}]), vm("off")]})
    based.apply({"snapshots": [{"vm": "off", "name": "fresh"}]})
    address = {"ip-address": "192.0.2.9", "ip-address-type": "ipv4", "prefix": 24}
    local = {"ip-address": "fe80::1", "ip-address-type": "ipv6", "prefix": 64}
    interface = {"name": "eth0", "hardware-address": "52:54:00:00:00:09", "ip-addresses": [address, local]}
    based.vm("web").agent = {"interfaces": [interface]}
    platform = based.platform()
    try:
        off, web = sorted(platform.owner("vm").describe(), key=lambda entry: entry["name"])
        only = platform.owner("vm").describe(["off"])
    finally:
        platform.close()
    assert (web["state"], web["power"], web["addresses"]) == ("running", "running", {"e0": ["192.0.2.9/24"]})
    assert web["nics"] == [{"name": "e0", "mac": "52:54:00:00:00:09", "tap": f"tap{based.vm('web').vmid}i0"}]
    assert web["disks"][0]["path"].startswith("local-lvm:") and web["disks"][0]["size"] == 64
    assert web["vm"]["nics"][0]["network"] == "app" and isinstance(web["process"], int)
    assert (off["state"], off["snapshots"], off["process"]) == ("stopped", ["fresh"], None)
    assert [entry["name"] for entry in only] == ["off"]


class Killed(BaseException):
    """The process ends here."""


def killed_at(node, method, ending, document, **operation):
    """Apply a document and be killed right before a request."""
    platform = node.platform()
    ask = platform.session.ask

    def ask_or_die(verb, path, params):
        if verb == method and str(path[-1]) == ending:
            raise Killed
        return ask(verb, path, params)

    platform.session.ask = ask_or_die
    kept, node.platform = node.platform, lambda: platform
    try:
        with pytest.raises(Killed):
            node.apply(document, **operation)
    finally:
        node.platform = kept


class TestKilledBeforeTheStart:
    @pytest.mark.parametrize("power", [None, "running", "suspended"])
    @pytest.mark.parametrize(
        "source", [{}, {"template": "debian"}, {"template": "debian", "disks": [{"name": "r", "size": 4096}]}]
    )
    def test_a_new_vm_is_started_by_the_next_run(self, based, source, power):
        wanted = {
            "name": "web",
            "memory": {"size": 64},
            "tags": ["blue"],
            **source,
            **({"power": power} if power else {}),
        }
        killed_at(based, "POST", "start", {"vms": [wanted]})
        assert based.vm("web").status == "stopped"
        # Whatever the next run is about.
        based.apply({"resource_pools": [{"name": "team"}]})
        assert based.vm("web").qmpstatus == ("paused" if power == "suspended" else "running")
        assert based.vm("web").config["tags"] == "blue"
        assert based.apply({"vms": [wanted]})["changes"] == []

    def test_a_vm_that_had_to_be_off_meanwhile_is_started_by_the_next_run(self, node):
        node.apply({"vms": [vm(power="running", tags=["blue"])]})
        killed_at(node, "POST", "start", {"vms": [{"name": "web", "cpu": {"count": 2}}]}, allow_restart=True)
        assert node.vm("web").status == "stopped"
        node.settle({"vms": [{"name": "web", "description": "After"}]})
        assert node.vm("web").status == "running" and node.vm("web").config["tags"] == "blue"

    def test_it_is_not_shown_as_a_tag(self, node):
        killed_at(node, "POST", "start", {"vms": [vm(power="running", tags=["blue"])]})
        assert node.gather("vm")["vms"][0]["tags"] == ["blue"]

    def test_one_that_does_not_start_keeps_nobody_from_anything(self, node):
        killed_at(node, "POST", "start", {"vms": [vm(power="running")]})
        node.vm("web").start_error = "no such bridge"
        node.apply({"resource_pools": [{"name": "team"}]})
        assert node.vm("web").status == "stopped" and "tags" not in node.vm("web").config
        node.settle({"vms": [{"name": "web", "state": "absent"}]})

    def test_one_that_cannot_be_started_is_not_started_behind_the_users_back_later(self, node):
        node.peer.fail("POST", "/nodes/{node}/qemu/{vmid}/status/start", 500, "no such bridge")
        with pytest.raises(ApplyError, match="no such bridge"):
            node.apply({"vms": [vm(power="running")]})
        node.peer.failures.clear()
        node.apply({"resource_pools": [{"name": "team"}]})
        assert node.vm("web").status == "stopped" and "tags" not in node.vm("web").config
