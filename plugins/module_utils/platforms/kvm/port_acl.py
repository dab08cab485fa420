# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The filters on the ports of a KVM host's virtual machines: nftables chains on their tap devices.

Each ACL is one file that holds what was asked and the commands that put it in force. A hook of libvirt hands them to
nft when the VM starts and its tap devices exist but no processor of it runs; if that fails, the VM does not start. A VM
that runs already is filtered at once, in one transaction.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from typing import Any, Collection, Dict, Iterable, List, Mapping, Optional, Sequence
from xml.etree import ElementTree

from ...engine.change import Change
from ...engine.platform import Context, Interface
from ...errors import ApplyError, Problem, ReadError, ValidateError
from ...model.compute import Vm
from ...model.document import State
from ...model.firewall import PortAcl
from ...model.schema import shown_as
from ...transports import libvirt, nftables
from . import systemd
from .file_names import Directories
from .host_files import read_file, read_json, remove_file, write_atomically, write_json
from .names import mac_address, tap_name
from .nftables_rules import PORT_TABLE, port_acl_commands, port_acl_removal, port_chains

ACL_FOLDER = "/etc/bareforge/port_acls"
APPLY_SUFFIX = ".apply.json"
REMOVE_SUFFIX = ".remove.json"

HOOK_FILE = "/etc/libvirt/hooks/qemu.d/bareforge"
# https://libvirt.org/hooks.html: at `start begin` the resources of the guest are there and its process is not; a hook
# that fails keeps the guest from starting. It runs at every operation of every guest, so it is a shell script that
# mostly just exits.
HOOK_TEXT = f"""\
#!/bin/sh
# Written by Bareforge: puts the port ACLs of a guest in force before it runs, and out of force after it has ended.
case "$2 $3" in
  "start begin") suffix={APPLY_SUFFIX} ;;
  "release end") suffix={REMOVE_SUFFIX} ;;
  *) exit 0 ;;
esac
folder={ACL_FOLDER}/$(printf %s "$1" | /usr/bin/sha256sum | /usr/bin/cut -c 1-64) || exit 1
[ -d "$folder" ] || exit 0
status=0
for file in "$folder"/*"$suffix"; do
  [ -e "$file" ] || continue
  /usr/sbin/nft -j -f "$file" || status=1
done
exit $status
"""

_DAEMONS = ("libvirtd.service", "virtqemud.service")
_NETWORK_DEVICES = "/sys/class/net"


def folder_of(vm: str) -> str:
    """Return the folder of a VM's ACLs; the hook finds it in the same way."""
    return f"{ACL_FOLDER}/{hashlib.sha256(vm.encode('utf-8', 'surrogatepass')).hexdigest()}"


class StoredAcl:
    """An ACL as it is kept on the host.

    acl: what was asked, complete. commands: what puts it in force.
    """

    def __init__(self, acl: PortAcl, commands: Sequence[nftables.Command]) -> None:
        self.acl = acl
        self.commands = list(commands)
        self.vm = str(acl.vm)
        self.nic = str(acl.nic)
        self.device = tap_name(self.vm, self.nic)

    @classmethod
    def made_for(cls, acl: PortAcl, mac: str) -> StoredAcl:
        """Return an ACL as it is to be kept for a NIC with an address."""
        return cls(acl, port_acl_commands(acl, mac, tap_name(str(acl.vm), str(acl.nic))))

    @property
    def _path(self) -> str:
        return f"{folder_of(self.vm)}/{self.device}"

    @classmethod
    def load(cls, path: str) -> Optional[StoredAcl]:
        """Return the ACL in a file, or None where there is none. Raises ReadError."""
        data = read_json(path)
        if data is None:
            return None
        try:
            kept = data["bareforge"]
            return cls(PortAcl.parse(kept["port_acl"]), data["nftables"])
        except (KeyError, TypeError, ValidateError) as error:
            raise ReadError(
                f"{path} is not what was written there: {error}", "Remove the file and run again"
            ) from error

    def save(self) -> None:
        """Keep it. Raises ApplyError."""
        write_json(f"{self._path}{REMOVE_SUFFIX}", nftables.document(port_acl_removal(self.device)))
        kept = {"port_acl": self.acl.to_document()}
        write_json(f"{self._path}{APPLY_SUFFIX}", {"bareforge": kept, **nftables.document(self.commands)})

    def is_whole(self, mac: str) -> bool:
        """Return whether the file still says what follows from the ACL and the NIC's present address."""
        return self.commands == port_acl_commands(self.acl, mac, self.device)

    def is_running(self) -> bool:
        """Return whether the tap device is there, which it is exactly as long as the VM runs."""
        return os.path.exists(f"{_NETWORK_DEVICES}/{self.device}")

    def put_in_force(self) -> None:
        """Filter the running VM from now on; nothing is done where it does not run. Raises ApplyError."""
        if not self.is_running():
            return
        try:
            nftables.run(self.commands)
        except ApplyError as error:
            # A VM that has just ended took its device along.
            if self.is_running():
                raise ApplyError(f"{self.acl.place.text} could not be put in force: {error.message}") from error


def remove_stored(vm: str, nic: str) -> None:
    """Put an ACL out of force and forget it, whether it is there or not. Raises ApplyError."""
    device = tap_name(vm, nic)
    if nftables.list_table(*PORT_TABLE) is not None:
        nftables.run(port_acl_removal(device))
    forget(f"{folder_of(vm)}/{device}")


def forget(path: str) -> None:
    """Remove the files of an ACL, given by their path without suffix, and the VM's folder with the last of them."""
    for suffix in (APPLY_SUFFIX, REMOVE_SUFFIX):
        remove_file(f"{path}{suffix}")
    try:
        os.rmdir(os.path.dirname(path))
    except OSError:
        # Another NIC of the VM has an ACL too, or the folder was never there.
        return


def stored_paths() -> List[str]:
    """Return the paths, without suffix, of all ACLs that are kept, also of those that were kept or removed by half."""
    paths = set()
    for folder, _folders, files in os.walk(ACL_FOLDER):
        for name in files:
            for suffix in (APPLY_SUFFIX, REMOVE_SUFFIX):
                if name.endswith(suffix) and not name.startswith("."):
                    paths.add(f"{folder}/{name[: -len(suffix)]}")
    return sorted(paths)


def nic_addresses(xml: str) -> Dict[str, str]:
    """Return the MAC addresses of a domain's NICs by the names of their tap devices.

    xml: the domain as libvirt describes it (https://libvirt.org/formatdomain.html#network-interfaces).
    """
    addresses: Dict[str, str] = {}
    for interface in ElementTree.fromstring(xml).iterfind("./devices/interface"):
        target, mac = interface.find("target"), interface.find("mac")
        if target is not None and mac is not None:
            addresses[target.get("dev", "")] = mac.get("address", "").lower()
    return addresses


def read_nics(vms: Collection[str]) -> Dict[str, Dict[str, str]]:
    """Return, for those of the VMs that exist, the MAC addresses by tap device. Raises ReadError, ConnectError."""

    def ask(connection: Any) -> Dict[str, Dict[str, str]]:
        return {
            domain.name(): nic_addresses(domain.XMLDesc(0))
            for domain in connection.listAllDomains()
            if domain.name() in vms
        }

    return libvirt.read(ask, "the NICs of the virtual machines cannot be read") if vms else {}


def hook_is_installed(path: str = "", text: str = HOOK_TEXT) -> bool:
    """Return whether a hook of libvirt is there as it should be. path, text: that of the ACLs where not given."""
    path = path or HOOK_FILE
    return read_file(path) == text.encode() and os.access(path, os.X_OK)


def install_hook(path: str = "", text: str = HOOK_TEXT) -> None:
    """Write a hook of libvirt and let the daemon know of it. path, text: that of the ACLs where not given.

    Raises ApplyError.
    """
    path = path or HOOK_FILE
    if hook_is_installed(path, text):
        return
    write_atomically(path, text.encode(), 0o755)
    told = False
    for unit in _DAEMONS:
        if any(os.path.exists(f"{folder}/{unit}") for folder in ("/lib/systemd/system", "/usr/lib/systemd/system")):
            # The daemon looks for hooks when it starts and when it reloads; running guests do not notice.
            systemd.systemctl("try-reload-or-restart", unit)
            told = True
    if told:
        # It reloads in the background and nothing tells when it has: a guest that starts meanwhile misses the hook.
        time.sleep(1)


class KvmPortAcl(Interface):
    """Reads and changes the filters on the ports of virtual machines."""

    KINDS = ("port_acl",)
    CAPABILITIES = frozenset(
        {
            "port_acl",
            "port_acl.mac_spoofing",
            "port_acl.allowed_ipv4",
            "port_acl.allowed_ipv6",
            "port_acl.dhcp_guard",
            "port_acl.router_guard",
            "port_acl.rules",
        }
    )

    def __init__(self, platform: Any, where: Optional[Directories] = None) -> None:
        self.platform = platform
        self.where = where or Directories()

    def read(self, kinds: Collection[str], names: Mapping[str, Collection[str]]) -> State:
        state: State = {"port_acl": {}}
        wanted = names.get("port_acl")
        loaded = (StoredAcl.load(f"{path}{APPLY_SUFFIX}") for path in stored_paths())
        stored = [one for one in loaded if one is not None and (wanted is None or one.vm in wanted)]
        if not stored:
            return state
        nics = read_nics({one.vm for one in stored})
        intact = _in_force([one for one in stored if one.is_running()])
        for one in stored:
            mac = nics.get(one.vm, {}).get(one.device)
            # An ACL whose VM or NIC is gone is no object any more; `recover` removes what is left of it.
            if mac is None:
                continue
            good = one.is_whole(mac) and intact.get(one.device, True) and hook_is_installed()
            state["port_acl"][one.acl.key] = one.acl if good else shown_as(one.acl, mac_spoofing=None)
        return state

    def validate(self, change: Change, context: Context) -> Iterable[Problem]:
        acl = change.after
        if not isinstance(acl, PortAcl):
            return
        before = context.before.get("vm", {}).get((acl.vm,))
        if "vm" in context.before and (
            not isinstance(before, Vm) or acl.nic not in [nic.name for nic in before.nics or ()]
        ):
            return  # The VM or the NIC is made in this run, by us.
        nics = read_nics({str(acl.vm)}).get(str(acl.vm))
        if nics is not None and tap_name(str(acl.vm), str(acl.nic)) not in nics:
            yield Problem(
                acl.place.field("nic").text,
                f"VM {acl.vm!r} gives this NIC no fixed device name on the host, since it was not made by this collection; "
                "allowed are NICs of VMs that were",
            )

    def apply(self, changes: Sequence[Change], context: Context) -> None:
        install_hook()
        nics = read_nics({str(change.key[0]) for change in changes if change.after is not None})
        for change in changes:
            context.begin(change)
            acl = change.after
            if isinstance(acl, PortAcl):
                self._set(acl, nics.get(str(acl.vm), {}))
            else:
                remove_stored(str(change.key[0]), str(change.key[1]))
            context.done(change)

    @staticmethod
    def _set(acl: PortAcl, nics: Mapping[str, str]) -> None:
        mac = nics.get(tap_name(str(acl.vm), str(acl.nic)))
        if mac is None:
            raise ApplyError(f"{acl.place.text}: VM {acl.vm!r} shows no NIC {acl.nic!r}")
        stored = StoredAcl.made_for(acl, mac)
        stored.put_in_force()
        stored.save()

    def finish(self, changes: Sequence[Change], context: Context) -> None:
        # What the same run has done to the VMs since: another MAC address, a NIC plugged in, a restart.
        touched = {str(change.key[0]) for change in context.finished if change.kind == "vm"}
        self.refresh(touched & {str(change.key[0]) for change in changes})

    def refresh(self, vms: Collection[str]) -> None:
        """Bring the ACLs of VMs up to what their NICs are now.

        To be called after a NIC of a VM was plugged into it while it runs, or was given another MAC address.
        vms: their names. Raises ApplyError, ReadError.
        """
        loaded = (StoredAcl.load(f"{path}{APPLY_SUFFIX}") for path in (stored_paths() if vms else ()))
        stored = [one for one in loaded if one is not None and one.vm in vms]
        if not stored:
            return
        nics = read_nics({one.vm for one in stored})
        intact = _in_force([one for one in stored if one.is_running()])
        for one in stored:
            mac = nics.get(one.vm, {}).get(one.device)
            if mac is not None and not (one.is_whole(mac) and intact.get(one.device, True)):
                present = StoredAcl.made_for(one.acl, mac)
                present.put_in_force()
                present.save()

    def prepare(self, vm: Vm, context: Context) -> None:
        """Keep the ACLs that are new or changed in this run for a VM, so that it is filtered from its first moment.

        To be called before a VM of this run is started or gets another NIC. vm: complete. Raises ApplyError.
        """
        present = context.before.get("port_acl", {})
        for acl in context.wanted.get("port_acl", {}).values():
            if not isinstance(acl, PortAcl) or acl.vm != vm.name or present.get(acl.key) == acl:
                continue
            for nic in vm.nics or ():
                if nic.name == acl.nic:
                    install_hook()
                    StoredAcl.made_for(acl, nic.mac or mac_address(str(vm.name), str(nic.name))).save()

    def recover(self) -> None:
        """Remove what is left of ACLs whose VM or NIC is gone. Raises ApplyError, ReadError."""
        paths = {path: StoredAcl.load(f"{path}{APPLY_SUFFIX}") for path in stored_paths()}
        nics = read_nics({one.vm for one in paths.values() if one is not None})
        for path, one in paths.items():
            # A VM that is on its way here is filtered from its first moment.
            if one is not None and os.path.exists(self.where.receiving(one.vm)):
                continue
            if one is None or one.device not in nics.get(one.vm, {}):
                forget(path)


def _in_force(running: Sequence[StoredAcl]) -> Dict[str, bool]:
    """Return, by tap device, whether the kernel filters as the stored commands say."""
    if not running:
        return {}
    commands = [command for one in running for command in one.commands]
    devices = [one.device for one in running]
    wanted = by_chain(nftables.preview(commands, [PORT_TABLE], devices)[PORT_TABLE])
    shown = by_chain(nftables.list_table(*PORT_TABLE))
    return {device: all(shown.get(chain) == wanted.get(chain) for chain in port_chains(device)) for device in devices}


def by_chain(listing: Optional[Sequence[nftables.Command]]) -> Dict[str, List[str]]:
    """Return what a table holds, by the name of the chain that it is in."""
    chains: Dict[str, List[str]] = {}
    for entry in listing or ():
        name = entry["chain"]["name"] if "chain" in entry else entry.get("rule", {}).get("chain", "")
        chains.setdefault(name, []).append(json.dumps(entry, sort_keys=True))
    return chains
