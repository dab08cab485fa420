# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an inventory holds of a VM: its variables, the address that it is reached by, its groups and its name."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.bareforge.hypervisor.plugins.module_utils.engine.inventory import InventoryVm, SeenAddress
from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import Problem, ValidateError
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.schema import Path
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.types import HostName, show

VM_VARIABLE = "bareforge_vm"
HYPERVISORS = "hypervisors"
UNREAD = "hypervisors_unreachable"
VMS = "virtual_machines"
GROUPINGS = ("platform", "hypervisor", "power", "network", "vlan", "template", "tag")
WORDS_FOR_NAMES = ("name", "hostname", "uuid", "address")


@dataclass(frozen=True)
class AddressChoice:
    """Which of a guest's addresses is taken for ansible_host.

    sources: those that count, the preferred first. prefer: networks in CIDR notation, or names of virtual networks,
    the preferred first. family: ipv4 or ipv6, the preferred one.
    """

    sources: tuple[str, ...]
    prefer: tuple[str, ...] = ()
    family: str = "ipv4"

    @classmethod
    def parse(cls, sources: Sequence[str], prefer: Sequence[Any], family: str) -> AddressChoice:
        """Return the choice of an inventory's options. Raises ValidateError."""
        problems = []
        for number, text in enumerate(prefer):
            if not isinstance(text, str) or not text:
                problems.append(
                    Problem(
                        Path("prefer_networks").item(number).text,
                        f"{show(text)} is not allowed; allowed is a network such as 10.0.0.0/8, or a virtual network's name",
                    )
                )
            elif "/" in text and _network(text) is None:
                problems.append(
                    Problem(
                        Path("prefer_networks").item(number).text,
                        f"{show(text)} is not allowed; allowed is a network such as 10.0.0.0/8 without host bits",
                    )
                )
        if problems:
            raise ValidateError(problems)
        return cls(tuple(sources), tuple(str(text) for text in prefer), family)

    def choose(self, vm: InventoryVm) -> str | None:
        """Return the address to reach a VM by, or None where none is known."""
        best = min(enumerate(vm.addresses), key=lambda entry: self._rank(vm, entry[1], entry[0]), default=None)
        return best[1].address if best is not None and best[1].source in self.sources else None

    def _rank(self, vm: InventoryVm, seen: SeenAddress, number: int) -> tuple[bool, bool, int, int, bool, int]:
        address = ipaddress.ip_address(seen.address)
        network = next((nic.network for nic in vm.nics if nic.name == seen.nic), None)
        preferred = [
            place
            for place, text in enumerate(self.prefer)
            if text == network or ((cidr := _network(text)) is not None and address in cidr)
        ]
        return (
            seen.source not in self.sources,
            # What is no NIC's is a device that the guest has made itself, such as a bridge of its containers.
            seen.nic is None,
            min(preferred, default=len(self.prefer)),
            self.sources.index(seen.source) if seen.source in self.sources else 0,
            f"ipv{address.version}" != self.family,
            number,
        )


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text) if "/" in text else None
    except ValueError:
        return None


@dataclass(frozen=True)
class Shown:
    """A VM as the inventory is to show it.

    hypervisor: the name of its host in the inventory. platform: that of its host.
    """

    vm: InventoryVm
    hypervisor: str
    platform: str
    address: str | None

    def variables(self) -> dict[str, Any]:
        """Return its variables: one with all that is known of it, and ansible_host where an address is known."""
        about = self.vm.to_plain()
        about.update(
            hypervisor=self.hypervisor,
            platform=self.platform,
            hostname=self.hostname,
            networks=sorted({nic.network for nic in self.vm.nics if nic.network}),
            vlans=sorted({nic.vlan for nic in self.vm.nics if nic.vlan}),
            tags=list(self.vm.tags),
            nics=[{**nic, "trunk": list(nic["trunk"])} for nic in about["nics"]],
            addresses=list(about["addresses"]),
        )
        variables: dict[str, Any] = {VM_VARIABLE: about}
        if self.address is not None:
            variables["ansible_host"] = self.address
        return variables

    @property
    def hostname(self) -> str | None:
        """The guest's host name where it is one: a guest can say anything, and ssh takes options where a name stands."""
        try:
            return HostName().parse(self.vm.hostname)
        except ValueError:
            return None

    def word(self, word: str) -> str | None:
        """Return what one of WORDS_FOR_NAMES stands for."""
        return {"name": self.vm.name, "hostname": self.hostname, "uuid": self.vm.uuid, "address": self.address}[word]

    def groups(self, by: Collection[str]) -> Iterator[str]:
        """Yield the names of its groups, not made fit for a group yet.

        by: those of GROUPINGS that are wanted.
        """
        yield VMS
        values: dict[str, Iterable[Any]] = {
            "hypervisor": [self.hypervisor],
            "power": [self.vm.power],
            "network": sorted({nic.network for nic in self.vm.nics if nic.network}),
            "vlan": sorted({nic.vlan for nic in self.vm.nics if nic.vlan}),
            "template": [self.vm.template] if self.vm.template else [],
            "tag": self.vm.tags,
        }
        if "platform" in by:
            yield f"{self.platform}_vms"
        for word, found in values.items():
            if word in by:
                yield from (f"{word}_{value}" for value in found)


def names_of(
    shown: Sequence[Shown], wanted: Callable[[Shown], str], hypervisors: Collection[str]
) -> tuple[list[str], list[str]]:
    """Return the names of VMs in the inventory, and warnings.

    wanted: the name that a VM is to have. A name that several VMs want, or that is a hypervisor's, is followed by a dot
    and the name of the VM's host, for each of them: whichever was read first plays no part in it.
    Raises ValidateError where a name is still not a VM's own.
    """
    first = [wanted(each) for each in shown]
    counts = Counter(first)
    names = [
        f"{name}.{each.hypervisor}" if counts[name] > 1 or name in hypervisors else name
        for name, each in zip(first, shown, strict=True)
    ]
    again = Counter(names)
    problems = [
        Problem(f"host {show(each.hypervisor)}, VM {show(each.vm.name)}", f"the name {show(name)} is another one's too")
        for name, each in zip(names, shown, strict=True)
        if again[name] > 1 or name in hypervisors
    ]
    if problems:
        raise ValidateError(problems, "Tell them apart with the option hostnames")
    warnings = [
        f"VM {show(name)} is on {', '.join(each.hypervisor for own, each in zip(first, shown, strict=True) if own == name)}"
        " and is called by the names of VM and host"
        if counts[name] > 1
        else f"VM {show(name)} has the name of a hypervisor and is called by the names of VM and host"
        for name in sorted(counts)
        if counts[name] > 1 or name in hypervisors
    ]
    return names, warnings
