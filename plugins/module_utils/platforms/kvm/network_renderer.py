# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later


"""What keeps the host's interfaces and uplinks, now and after it has been restarted: the part that the platform asks.

netplan calls it a renderer. A device has one file or several, by their suffixes; the renderer says what is in them, where
they are, and lets whoever reads them take them up.
"""

from __future__ import annotations

import abc
import json
import time
from typing import Any, Callable, ClassVar, Collection, Dict, Iterator, List, Sequence, Tuple

from ...errors import ApplyError
from ...model.network import HostInterface, VirtualNetwork, VirtualSwitch

Files = Dict[Tuple[str, str], bytes]
"""What files hold, by device and suffix, the one that makes a device before those that need it."""


class NetworkRenderer(abc.ABC):
    """What is asked of whoever keeps the host's interfaces."""

    NAME: ClassVar[str]
    UNIT: ClassVar[str]
    """The unit of systemd."""
    SUFFIXES: ClassVar[Sequence[str]]
    """The suffixes of a device's files, in the order in which they are removed."""
    CONFIGURING: ClassVar[Sequence[str]]
    """Those of them that configure a device which somebody else makes."""
    GUARDED_FILES: ClassVar[Sequence[str]]
    """Globs of the files that an undo brings back."""
    GUARD_COMMANDS: ClassVar[Sequence[Sequence[str]]]
    """What is run after that."""

    @abc.abstractmethod
    def uplink_files(self, device: str) -> Files:
        """Return the files that switch an uplink of Open vSwitch on and keep addresses away from it."""

    @abc.abstractmethod
    def interface_files(self, interface: HostInterface) -> Files:
        """Return the files of an interface on Open vSwitch, which keeps its MTU and MAC address. interface: complete."""

    @abc.abstractmethod
    def gateway_files(self, switch: VirtualSwitch) -> Files:
        """Return the files of the host's end of a switch of type nat. switch: complete."""

    @abc.abstractmethod
    def linux_switch_files(self, switch: VirtualSwitch) -> Files:
        """Return the files of a bridge of the kernel and of its uplinks, the one that makes it first. switch: complete."""

    @abc.abstractmethod
    def linux_interface_files(self, interface: HostInterface, network: VirtualNetwork, mac: str) -> Files:
        """Return the files of an interface on a bridge of the kernel, the one that makes it first.

        interface, network: complete. mac: its address.
        """

    def switch_problems(self, switch: VirtualSwitch, linux: bool) -> Iterator[Tuple[str, str]]:
        """Yield (field, message) for what cannot be kept of a switch. linux: whether it is a bridge of the kernel."""
        del switch, linux
        return iter(())

    def interface_problems(
        self, interface: HostInterface, network: VirtualNetwork, linux: bool
    ) -> Iterator[Tuple[str, str]]:
        """Yield (field, message) for what cannot be kept of an interface. linux: whether it is on a bridge of the kernel."""
        del interface, network, linux
        return iter(())

    @abc.abstractmethod
    def is_written(self, device: str, suffix: str, content: bytes) -> bool:
        """Return whether a file is there as it should be. Raises ReadError."""

    @abc.abstractmethod
    def write(self, device: str, suffix: str, content: bytes) -> bool:
        """Write a file; return whether it was not there so already. Raises ApplyError."""

    @abc.abstractmethod
    def remove(self, device: str, suffix: str) -> bool:
        """Remove a file; return whether there was one. Raises ApplyError."""

    def release(self, device: str) -> None:
        """Let a device of ours go that is about to be deleted, so that nobody makes it anew. Raises ApplyError."""
        del device

    def let_go(self, device: str) -> None:
        """Let a port go that is about to be taken from its bridge, so that nobody puts it back. Raises ApplyError."""
        del device

    @abc.abstractmethod
    def records(self) -> Iterator[Tuple[str, Any]]:
        """Yield (kind, document) for every bridge of the kernel, and interface on one, as it was last asked for."""

    @abc.abstractmethod
    def apply(self, changed: bool, written: Sequence[str], unsettled: Collection[str]) -> None:
        """Let files that were written or removed be taken up, and devices be configured anew.

        changed: whether files were removed. written: the devices whose files this run has written, in the order in which
        they need each other. unsettled: those that are not as their files say.
        Raises ApplyError.
        """

    @abc.abstractmethod
    def wait_until(self, condition: Callable[[], List[str]]) -> None:
        """Wait until there is nothing left to wait for.

        condition: returns what is still missing, in words.
        Raises ApplyError with what is missing by then.
        """

    def are_written(self, files: Files) -> bool:
        """Return whether files are there as they should be. Raises ReadError."""
        return all(self.is_written(device, suffix, content) for (device, suffix), content in files.items())

    def remove_files(self, device: str, suffixes: Sequence[str]) -> bool:
        """Remove the files of a device that have one of some suffixes; return whether there were any. Raises ApplyError."""
        removed = [self.remove(device, suffix) for suffix in suffixes]
        return any(removed)

    @staticmethod
    def record_in(text: str) -> Iterator[Tuple[str, Any]]:
        """Yield (kind, document) of a record, or nothing where somebody has edited it: then it is none of ours any more."""
        try:
            documents = json.loads(text)
        except ValueError:
            return
        if isinstance(documents, dict):
            yield from documents.items()


def wait_for(condition: Callable[[], List[str]], patience: float, renderer: str, unit: str) -> None:
    """Wait until there is nothing left to wait for.

    condition: returns what is still missing, in words. patience: in seconds. renderer: who was told. unit: its unit.
    Raises ApplyError with what is missing by then.
    """
    end = time.monotonic() + patience
    pause = 0.02
    while True:
        missing = condition()
        if not missing:
            return
        if time.monotonic() >= end:
            raise ApplyError(
                f"{'; '.join(missing)}, {patience:.0f} s after {renderer} was told",
                f"See journalctl -u {unit} on the host",
            )
        time.sleep(pause)
        pause = min(pause * 2, 0.5)
