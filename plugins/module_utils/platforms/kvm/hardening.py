# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Hardening of a KVM host: what every Linux host has, and the files of libvirt's daemons."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any, ClassVar, Iterator, List, Mapping, Optional, Sequence, Tuple, Type, Union

from ...engine.platform import Interface, Platform
from ...errors import Problem
from ...hardening.expectation import LIST, TEXT, Found, parse_value
from ...hardening.target import Setting
from ...model.schema import FieldType, Path, Plain, Value, option
from ...model.types import Choice, Pattern
from ..linux.hardening import LinuxHardening
from ..linux.settings import LINUX_SETTINGS, ConfigFileSetting
from .guard import KvmGuard

LISTS: Mapping[str, Sequence[str]] = {
    "qemu.conf": ("namespaces", "cgroup_controllers", "cgroup_device_acl", "capability_filters", "hugetlbfs_mount"),
    "libvirtd.conf": ("access_drivers", "sasl_allowed_username_list", "tls_allowed_dn_list"),
}
"""The keywords whose values are lists (libvirt, src/qemu/qemu.conf.in and src/remote/libvirtd.conf.in)."""

READERS: Mapping[str, Sequence[str]] = {
    "qemu.conf": ("libvirtd.service", "virtqemud.service"),
    "libvirtd.conf": ("libvirtd.service",),
    "virtqemud.conf": ("virtqemud.service",),
    "virtproxyd.conf": ("virtproxyd.service",),
    "virtlogd.conf": ("virtlogd.service",),
    "virtlockd.conf": ("virtlockd.service",),
}
"""The units that read a file when they start."""


class TextOrList(FieldType):
    """A text, a number, or a list of texts."""

    def read(self, value: Any, path: Path, problems: List[Problem]) -> Any:
        """Return the value in the form of a found one."""
        try:
            return parse_value(value)
        except ValueError as error:
            problems.append(Problem(path.text, str(error)))
            return None

    def argument(self) -> Plain:
        """Return the entry of an Ansible argument spec."""
        return {"type": "raw"}


@dataclass(frozen=True)
class LibvirtSetting(ConfigFileSetting):
    """A setting in a file of one of libvirt's daemons. Running daemons read it anew; running VMs keep what they have."""

    NAME = "libvirt_setting"

    file: Optional[str] = option(Value(Choice(*READERS)), "The file in /etc/libvirt.", required=True)
    keyword: Optional[str] = option(
        Value(Pattern(r"[a-z][a-z0-9_]*", "a keyword such as security_driver")), "The keyword.", required=True
    )
    default: Union[str, Tuple[str, ...], None] = option(TextOrList(), "What counts where the file does not say it.")

    def types(self) -> Mapping[str, str]:
        """Return the type of the found value."""
        return {"": LIST if self.keyword in LISTS.get(str(self.file), ()) else TEXT}

    def path_of_file(self) -> str:
        """Return the path of the file."""
        return f"/etc/libvirt/{self.file}"

    def format_name(self) -> str:
        """Return the name of its format."""
        return "libvirt"

    def key_in_file(self) -> str:
        """Return the key in the file."""
        return str(self.keyword)

    def default_value(self) -> Found:
        """Return what counts where the file does not say it."""
        return self.default

    def units(self) -> Sequence[str]:
        """Return the daemons that are restarted after a change if they run."""
        return READERS[str(self.file)]

    def remedy(self, wanted: str) -> str:
        """Return how to set it by hand."""
        return f"Set {self.keyword} to {wanted} in {self.path_of_file()} and restart {' or '.join(self.units())}."


class KvmHardening(Interface, LinuxHardening):
    """Hardening of a KVM host."""

    CAPABILITIES = frozenset({"hardening.audit", "hardening.enforce", "hardening.revert"})
    SETTINGS: ClassVar[Tuple[Type[Setting], ...]] = (*LINUX_SETTINGS, LibvirtSetting)

    def __init__(self, platform: Platform) -> None:
        self.platform = platform

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep a second run of any task off the host meanwhile; what a killed one has left to the guard is settled."""
        with self.platform.lock():
            KvmGuard(self.platform).recover()
            yield

    def guard(self, timeout: int) -> Plain:
        """Store on the host how the SSH server comes back to its settings of now."""
        return KvmGuard(self.platform).arm_parts(["sshd"], timeout)

    def undo(self, token: str) -> None:
        """Bring the SSH server's settings back at once."""
        KvmGuard(self.platform).undo(token)
