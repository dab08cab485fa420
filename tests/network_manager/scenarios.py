# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is done in the root folder with NetworkManager, one scenario a run; each prints what it has found as JSON.

It runs by the root's own Python, so it knows neither pytest nor Ansible.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

sys.path.insert(0, "/source/collections")

from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.network import (
    HostInterface,
    VirtualNetwork,
    VirtualSwitch,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm import (
    bridge_ports,
    guard,
    guard_undo,
    host_devices,
    host_interface,
    linux_bridge,
    network_manager,
    renderer_of_host,
)

LOG = "/tmp/NetworkManager.log"
MAC = "02:00:00:00:00:77"
renderer = network_manager.NetworkManagerRenderer()
renderer_of_host.renderer = lambda: renderer  # type: ignore[assignment]


def command(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        raise AssertionError(f"{' '.join(argv)}: {done.returncode} {done.stdout} {done.stderr}")
    return done.stdout


def until(condition: Callable[[], Any], what: str, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(
                f"{what}: not after {seconds} s\n{command('nmcli', 'device')}{command('ip', 'address')}"
            )
        time.sleep(0.1)


class Daemon:
    """NetworkManager, which can be restarted as it would be by the start of a host."""

    def __init__(self) -> None:
        os.makedirs("/run/dbus", exist_ok=True)
        command("dbus-uuidgen", "--ensure")
        command("dbus-daemon", "--system", "--fork")
        with open("/etc/NetworkManager/conf.d/10-test.conf", "w", encoding="ascii") as stream:
            stream.write("[main]\nno-auto-default=*\n")
        self.start()

    def start(self) -> None:
        with open(LOG, "ab") as log:
            self.process = subprocess.Popen(
                ["NetworkManager", "--no-daemon"], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        until(lambda: subprocess.run(["nmcli", "general"], capture_output=True, check=False).returncode == 0, "start")

    @staticmethod
    def forget() -> None:
        """Take away what NetworkManager remembers of devices until the host is restarted."""
        shutil.rmtree("/run/NetworkManager", ignore_errors=True)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)


def wire(name: str, space: str = "") -> None:
    """Make a network interface that stands for hardware, and its other end: in a namespace, or here and left alone."""
    other = f"w-{name}"
    command("ip", "link", "add", name, "type", "veth", "peer", "name", other)
    if space:
        command("ip", "netns", "add", space)
        command("ip", "link", "set", other, "netns", space)
        command("ip", "-n", space, "link", "set", other, "up")


def somebody_else(device: str, address: str) -> tuple[str, bytes]:
    """Write a profile as an installer leaves it; return its path and what is in it."""
    path = f"{network_manager.PROFILES}/{device}.nmconnection"
    uuid = network_manager.uuid_of(f"somebody {device}")
    text = f"[connection]\nid={device}\nuuid={uuid}\ntype=ethernet\ninterface-name={device}\n\n[ipv4]\nmethod=manual\naddress1={address}\n"
    content = f"{text}\n[ipv6]\nmethod=disabled\n".encode()
    with open(path, "wb") as stream:
        os.fchmod(stream.fileno(), 0o600)
        stream.write(content)
    return path, content


def interface(name: str, **fields: Any) -> HostInterface:
    return HostInterface.parse({"name": name, "network": "app", **fields}).complete(None)


def write(files: Any) -> list[str]:
    return [device for (device, suffix), content in files.items() if renderer.write(device, suffix, content)]


def put(files: Any, unsettled: Any = ()) -> list[str]:
    written = write(files)
    renderer.apply(False, written, set(unsettled) or set(written))
    return written


def addresses(device: str) -> tuple[str, ...]:
    return host_devices.read_addresses().static(device)


def settle(item: HostInterface) -> None:
    renderer.wait_until(lambda: host_interface.what_is_missing(item, host_devices.read_addresses()))


def profile_used(device: str) -> str:
    return command("nmcli", "--get-values", "GENERAL.CONNECTION", "device", "show", device).strip()


def activation_of(device: str) -> str:
    return command("nmcli", "--get-values", "GENERAL.CON-PATH", "device", "show", device).strip()


def bridge_can_filter() -> bool:
    made = ["ip", "link", "add", "probe", "type", "bridge", "vlan_filtering", "1"]
    can = subprocess.run(made, capture_output=True, check=False).returncode == 0
    if can:
        command("ip", "link", "delete", "probe")
    return can


def can_make(kind: str) -> bool:
    can = subprocess.run(["ip", "link", "add", "probe", "type", kind], capture_output=True, check=False).returncode == 0
    if can:
        command("ip", "link", "delete", "probe")
    return can


# -- Scenarios ---------------------------------------------------------------------------------------------------------


def uplink(daemon: Daemon) -> dict[str, Any]:
    """An uplink that somebody gave an address to loses it, stays so over a restart, and gets it back."""
    wire("eth1", "outside")
    path, content = somebody_else("eth1", "192.0.2.10/24")
    command("nmcli", "connection", "reload")
    until(lambda: addresses("eth1") == ("192.0.2.10/24",), "the installer's address")
    files = renderer.uplink_files("eth1")
    put(files)
    until(lambda: addresses("eth1") == () and host_devices.is_up("eth1"), "an uplink without addresses")
    assert renderer.are_written(files)
    assert put(files, unsettled=["nothing"]) == []
    # Open vSwitch in user space: the port works although NetworkManager looks after the device.
    os.makedirs("/run/openvswitch", exist_ok=True)
    os.makedirs("/var/log/openvswitch", exist_ok=True)
    command("ovsdb-tool", "create", "/tmp/conf.db", "/usr/share/openvswitch/vswitch.ovsschema")
    command("ovsdb-server", "/tmp/conf.db", "--remote=punix:/run/openvswitch/db.sock", "--pidfile", "--detach")
    command("ovs-vsctl", "--no-wait", "init")
    command("ovs-vswitchd", "--pidfile", "--detach", "--log-file=/tmp/ovs.log")
    bridge = ["--", "set", "bridge", "br0", "datapath_type=netdev", "--", "add-port", "br0", "eth1"]
    command("ovs-vsctl", "--timeout=20", "add-br", "br0", *bridge)
    command("ip", "link", "set", "br0", "up")
    command("ip", "address", "add", "198.51.100.1/24", "dev", "br0")
    command("ip", "-n", "outside", "address", "add", "198.51.100.2/24", "dev", "w-eth1")
    until(lambda: _pings("198.51.100.2"), "a ping through the uplink")
    # The start of a host: which of the two profiles it is to be is decided anew.
    daemon.stop()
    command("ip", "link", "set", "eth1", "down")
    daemon.forget()
    daemon.start()
    until(lambda: profile_used("eth1") == "bareforge-eth1", "our profile after a restart")
    assert addresses("eth1") == ()
    until(lambda: _pings("198.51.100.2"), "a ping after a restart of NetworkManager")
    kind = command("nmcli", "--get-values", "GENERAL.TYPE", "device", "show", "br0").strip()
    command("ovs-vsctl", "--timeout=20", "del-port", "br0", "eth1")
    assert renderer.remove_files("eth1", renderer.CONFIGURING)
    until(lambda: addresses("eth1") == ("192.0.2.10/24",), "the installer's address again")
    with open(path, "rb") as stream:
        assert stream.read() == content
    return {"internal port of Open vSwitch in user space": kind}


def _pings(address: str) -> bool:
    return subprocess.run(["ping", "-c1", "-W1", address], capture_output=True, check=False).returncode == 0


def without_carrier(_daemon: Daemon) -> dict[str, Any]:
    """An uplink whose cable is not plugged in is switched on all the same, and holds nobody up."""
    wire("eth1")
    command("ip", "link", "set", "w-eth1", "down")
    started = time.monotonic()
    put(renderer.uplink_files("eth1"))
    until(lambda: host_devices.is_up("eth1"), "an uplink without a cable")
    return {"seconds": round(time.monotonic() - started, 1), "profile": profile_used("eth1")}


def internal_port(daemon: Daemon) -> dict[str, Any]:
    """A device that NetworkManager has no plugin for, as an internal port of Open vSwitch is one."""
    command("ip", "link", "add", "app0", "type", "ifb")
    first = interface(
        "app0",
        addresses=["10.0.0.1/24", "fd00:1::1/64"],
        gateway4="10.0.0.254",
        gateway6="fd00:1::ff",
        routes=[{"destination": "10.9.0.0/16", "gateway": "10.0.0.253"}],
    )
    kind = command("nmcli", "--get-values", "GENERAL.TYPE", "device", "show", "app0").strip()
    put(renderer.interface_files(first))
    settle(first)
    # Changed while it is in use: what stays is never gone.
    index = command("ip", "-j", "address", "show", "app0")
    second = interface("app0", addresses=["10.0.0.1/24", "10.0.0.2/24"], gateway4="10.0.0.253")
    activation = activation_of("app0")
    put(renderer.interface_files(second), unsettled=["app0"])
    settle(second)
    assert activation_of("app0") == activation
    since = [entry for entry in json.loads(index)[0]["addr_info"] if entry["local"] == "10.0.0.1"]
    now = [
        entry
        for entry in json.loads(command("ip", "-j", "address", "show", "app0"))[0]["addr_info"]
        if entry["local"] == "10.0.0.1"
    ]
    assert since == now
    # A restart of the host: NetworkManager is there before Open vSwitch has made the device.
    daemon.stop()
    command("ip", "link", "delete", "app0")
    daemon.start()
    command("ip", "link", "add", "app0", "type", "ifb")
    settle(second)
    # Somebody takes an address away, and the next run puts it back.
    command("ip", "address", "flush", "dev", "app0")
    assert host_interface.what_is_missing(second, host_devices.read_addresses())
    renderer.apply(False, [], {"app0"})
    settle(second)
    assert renderer.remove_files("app0", renderer.CONFIGURING)
    until(lambda: addresses("app0") == (), "addresses of a profile that is gone")
    return {"type": kind}


def dhcp(_daemon: Daemon) -> dict[str, Any]:
    """Addresses by DHCP, with an address of its own beside, and by DHCPv6 and router advertisements."""
    wire("eth1", "outside")
    for address in ("10.5.0.1/24", "fd05::1/64"):
        command(
            "ip", "-n", "outside", "address", "add", address, "dev", "w-eth1", *(["nodad"] if ":" in address else [])
        )
    somebody_else("eth1", "192.0.2.10/24")
    command("nmcli", "connection", "reload")
    until(lambda: addresses("eth1") == ("192.0.2.10/24",), "the installer's address")
    started = time.monotonic()
    # The device is of another type than an internal port; what the profile says of addresses is the same.
    for fields in ({}, {"addresses": ["10.6.0.1/24"], "dhcp6": True, "accept_ra": True}):
        item = interface("eth1", dhcp=True, **fields)
        sections = [network_manager._connection("eth1", "ethernet"), *network_manager.address_sections(item)]
        put({("eth1", network_manager.PROFILE): network_manager.file_of(sections)})
        settle(item)
    before = time.monotonic() - started
    assert before < 15, "DHCP was waited for"
    held = [entry.dynamic for entry in host_devices.read_addresses().addresses["eth1"]]
    assert held == [False], "addresses by DHCP without a server"
    ranges = ["--dhcp-range=10.5.0.50,10.5.0.60,2m", "--dhcp-range=fd05::50,fd05::60,64,2m", "--enable-ra"]
    quiet = ["--no-daemon", "--port=0", "--conf-file=/dev/null", "--dhcp-leasefile=/tmp/leases", "--user=root"]
    serve = ["ip", "netns", "exec", "outside", "dnsmasq", *quiet, "--interface=w-eth1", *ranges]
    with open("/tmp/dnsmasq.log", "wb") as log:
        server = subprocess.Popen(serve, stdout=log, stderr=log)
    try:

        def all_there() -> bool:
            found = host_devices.read_addresses().addresses["eth1"]
            return {entry.address[:5] for entry in found if entry.dynamic} >= {"10.5.", "fd05:"}

        until(all_there, "addresses by DHCP and DHCPv6", 60)
    finally:
        server.terminate()
    with open("/tmp/leases", encoding="utf-8") as stream:
        leases = [line.split() for line in stream if line.count(" ") == 4]
    assert [lease[4] for lease in leases if lease[2].startswith("10.5.")] == [f"01:{host_devices.mac_of('eth1')}"], (
        leases
    )
    assert addresses("eth1") == ("10.6.0.1/24",)
    return {"seconds until the address of its own": round(before, 1)}


def profiles(_daemon: Daemon) -> dict[str, Any]:
    """NetworkManager takes every profile that is written, and understands in it what was meant."""
    found = {}
    bonds = (
        {"mode": "active_backup", "primary": "eth2"},
        {"mode": "balance_tcp", "lacp": "active"},
        {"mode": "balance_xor"},
    )
    for bond in bonds:
        switch = _switch(uplinks=["eth1", "eth2"], bond=bond, mtu=9000)
        network = VirtualNetwork.parse({"name": "app", "switch": "br0", "vlan": 5, "trunk": ["10-12", "20"]}).complete(
            None
        )
        files = {
            **renderer.linux_switch_files(switch),
            **renderer.linux_interface_files(interface("app0", dhcp=True, dhcp6=True), network, MAC),
            **renderer.interface_files(interface("ovs0", addresses=["fd00::1/64"], gateway6="fe80::1")),
            **renderer.uplink_files("eth3"),
        }
        write(files)
        paths = [network_manager.path_of(device) for device, suffix in files if suffix == network_manager.PROFILE]
        command("nmcli", "connection", "load", *paths)
        known = command("nmcli", "--get-values", "UUID", "connection", "show").split()
        missing = [path for path in paths if network_manager.uuid_of(os.path.basename(path)[10:-13]) not in known]
        assert missing == [], log_end()
        device = bridge_ports.bond_of("br0")
        found[bond["mode"]] = _told(device, "bond.options", "connection.type")
    port = bridge_ports.port_of("app0")
    found["bridge"] = _told(
        "br0", "bridge.vlan-filtering", "bridge.vlan-default-pvid", "bridge.forward-delay", "bridge.stp"
    )
    found["port"] = _told(port, "bridge-port.vlans", "connection.slave-type", "802-3-ethernet.mtu")
    found["app0"] = _told("app0", "veth.peer", "ipv4.method", "ipv6.method", "802-3-ethernet.cloned-mac-address")
    found["ovs0"] = _told("ovs0", "ipv6.routes", "connection.autoconnect-priority")
    # Somebody changes a profile of ours with nmcli, which writes the file anew: it is ours all the same.
    command("nmcli", "connection", "modify", "uuid", network_manager.uuid_of("br0"), "802-3-ethernet.mtu", "1400")
    assert [kind for kind, document in renderer.records()] == ["host_interface", "virtual_switch"]
    [asked] = [document for kind, document in renderer.records() if kind == "virtual_switch"]
    assert VirtualSwitch.parse(asked) == switch
    assert not renderer.are_written(renderer.linux_switch_files(switch))
    return found


def _told(device: str, *fields: str) -> list[str]:
    uuid = network_manager.uuid_of(device)
    return command("nmcli", "--get-values", ",".join(fields), "connection", "show", "uuid", uuid).splitlines()


def _switch(**fields: Any) -> VirtualSwitch:
    return VirtualSwitch.parse({"name": "br0", "kvm": {"implementation": "linux_bridge"}, **fields}).complete(None)


def linux_switch(daemon: Daemon) -> dict[str, Any]:
    """A Linux bridge with an uplink, a VM's tap device and an interface of the host: made, changed, restarted, removed.

    Where the kernel has no VLAN filtering, as in some sandboxes, the three lines that ask for it are left out of the profiles.
    """
    filters = bridge_can_filter()

    def adapted(files: Any) -> Any:
        if filters:
            return files
        without = (b"vlan-filtering=", b"vlan-default-pvid=", b"vlans=", b"[bridge-port]")
        return {
            place: b"".join(line for line in content.splitlines(True) if not line.startswith(without))
            for place, content in files.items()
        }

    wire("eth1", "outside")
    first, second = _switch(uplinks=["eth1"]), _switch(uplinks=["eth1"], mtu=1400)
    network = VirtualNetwork.parse({"name": "app", "switch": "br0"}).complete(None)
    item = interface("app0", addresses=["10.7.0.1/24"])
    put(adapted(renderer.linux_switch_files(first)))
    renderer.wait_until(lambda: linux_bridge.what_is_missing(first))
    put(adapted(renderer.linux_interface_files(item, network, MAC)))
    settle(item)
    port = bridge_ports.port_of("app0")
    renderer.wait_until(lambda: [] if host_devices.master_of(port) == "br0" else [f"{port} is not on br0"])
    assert host_devices.mac_of("app0") == MAC
    command("ip", "-n", "outside", "address", "add", "10.7.0.2/24", "dev", "w-eth1")
    if not filters:
        until(lambda: _pings("10.7.0.2"), "a ping through the bridge")
    command("ip", "tuntap", "add", "tap0", "mode", "tap")
    command("ip", "link", "set", "tap0", "master", "br0", "up")
    index = command("cat", "/sys/class/net/br0/ifindex")
    put(adapted(renderer.linux_switch_files(second)), unsettled=["nothing"])
    until(lambda: host_devices.mtu_of("br0") == 1400 and host_devices.mtu_of("eth1") == 1400, "another MTU")
    assert host_devices.master_of("tap0") == "br0", "a VM lost its network by a change of the bridge"
    assert command("cat", "/sys/class/net/br0/ifindex") == index
    renderer.wait_until(lambda: linux_bridge.what_is_missing(second))
    daemon.stop()
    daemon.start()
    renderer.wait_until(lambda: linux_bridge.what_is_missing(second))
    settle(item)
    assert host_devices.master_of("tap0") == "br0", "a VM lost its network by a restart of NetworkManager"
    # The start of a host: nothing is there but the files.
    daemon.stop()
    for device in ("br0", "app0", "tap0"):
        command("ip", "link", "delete", device)
    command("ip", "link", "set", "eth1", "down")
    daemon.forget()
    daemon.start()
    renderer.wait_until(lambda: linux_bridge.what_is_missing(second))
    settle(item)
    renderer.wait_until(lambda: [] if host_devices.master_of(port) == "br0" else [f"{port} is not on br0"])
    assert host_devices.mac_of("app0") == MAC
    linux_bridge.take_down_interface("app0")
    linux_bridge.take_down_switch(second, None)
    time.sleep(2)
    left = [name for name in host_devices.device_names() if name in ("br0", "app0", port)]
    assert left == [], "what was deleted was made anew"
    assert host_devices.master_of("eth1") is None
    ours = [name for name in os.listdir(network_manager.PROFILES) if name.startswith("bareforge-")]
    assert ours == []
    return {"VLAN filtering": filters}


def bond(_daemon: Daemon) -> dict[str, Any]:
    """A bond of two uplinks on a Linux bridge, where the kernel can make one."""
    if not (can_make("bond") and bridge_can_filter()):
        return {"run": False}
    wire("eth1")
    wire("eth2")
    switch = _switch(uplinks=["eth1", "eth2"], bond={"mode": "active_backup"})
    put(renderer.linux_switch_files(switch))
    renderer.wait_until(lambda: linux_bridge.what_is_missing(switch))
    linux_bridge.take_down_switch(switch, None)
    return {"run": True}


def guarded(_daemon: Daemon) -> dict[str, Any]:
    """What a guard has stored brings the management path back: the installer's profile, and ours as they were."""
    wire("eth0")
    wire("eth1")
    somebody_else("eth0", "192.0.2.10/24")
    command("nmcli", "connection", "reload")
    until(lambda: addresses("eth0") == ("192.0.2.10/24",), "the installer's address")
    # Not in use by itself after an undo: who had it in use has said so by hand.
    command("nmcli", "connection", "modify", "eth0", "connection.autoconnect", "no")
    command("ip", "link", "add", "app0", "type", "ifb")
    before = interface("app0", addresses=["10.0.0.1/24"])
    put(renderer.interface_files(before))
    settle(before)
    folder = "/var/lib/bareforge/guard/0123456789abcdef"
    os.makedirs(folder)
    guard._read_networks = dict  # type: ignore[assignment]
    guard.KvmGuard()._store(folder, "0123456789abcdef", ["network"], 60, [])
    with open(f"{folder}/armed", "wb"):
        pass
    # The change that cuts off: the way in becomes an uplink, another address, another uplink, a bridge that is new.
    put(renderer.uplink_files("eth0"))
    put(renderer.uplink_files("eth1"))
    put(renderer.interface_files(interface("app0", addresses=["10.0.0.9/24"])))
    bridge = renderer.linux_switch_files(_switch(name="br9"))
    plain = {
        place: b"".join(line for line in text.splitlines(True) if not line.startswith(b"vlan-"))
        for place, text in bridge.items()
    }
    put(plain)
    until(lambda: addresses("app0") == ("10.0.0.9/24",) and host_devices.exists("br9"), "the change")
    assert addresses("eth0") == ()
    done = subprocess.run(["/usr/bin/python3", "-I", f"{folder}/undo.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    until(lambda: addresses("eth0") == ("192.0.2.10/24",), "the way in")
    settle(before)
    assert profile_used("eth0") == "eth0"
    assert sorted(os.listdir(network_manager.PROFILES)) == ["bareforge-app0.nmconnection", "eth0.nmconnection"]
    until(lambda: not host_devices.exists("br9"), "a bridge that was new is gone")
    with open(f"{folder}/{guard_undo.UNDONE}", encoding="utf-8") as stream:
        return {"failures": json.load(stream)["failures"]}


SCENARIOS = {
    entry.__name__: entry
    for entry in (uplink, without_carrier, internal_port, dhcp, profiles, linux_switch, bond, guarded)
}


def log_end() -> str:
    with open(LOG, encoding="utf-8", errors="replace") as stream:
        return stream.read()[-4000:]


def main(name: str) -> None:
    command("ip", "link", "set", "lo", "up")
    daemon = Daemon()
    finished = False
    try:
        found = SCENARIOS[name](daemon)
        finished = True
    finally:
        if not finished:
            print(log_end(), file=sys.stderr)
    print(json.dumps({"version": command("NetworkManager", "--version").strip(), **found}))


if __name__ == "__main__":
    main(sys.argv[1])
