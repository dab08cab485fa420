# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The kinds of settings that rules can read on a Linux host, and set on it where that is safe to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Mapping, Optional, Sequence

from ...hardening.expectation import ABSENT, LIST, MODE, TEXT, Found
from ...hardening.target import Setting
from ...model.schema import Value, option
from ...model.types import Choice, Pattern, Text
from .config_text import CONFIG_FORMATS, ConfigFormat

PLAIN_WORD = r"[A-Za-z0-9_][A-Za-z0-9_.+-]*"

UNIT = Pattern(
    r"[A-Za-z0-9:_.][A-Za-z0-9:_.@\\-]*\.(service|socket|timer|mount|path|target)",
    "the name of a systemd unit with its ending, such as ssh.service",
)
PATH = Pattern(r"/(?!.*(^|/)\.\.?(/|$))[^\x00-\x1f*?\[\]]+", "an absolute path without . and ..")
GLOB = Pattern(
    r"/(?!.*(^|/)\.\.?(/|$))[^\x00-\x1f\[\]]+", "an absolute path without . and .., in which * and ? stand for names"
)

ALGORITHMS = (
    "ciphers",
    "macs",
    "kexalgorithms",
    "hostkeyalgorithms",
    "pubkeyacceptedalgorithms",
    "casignaturealgorithms",
    "hostbasedacceptedalgorithms",
)
REPEATED = (
    "acceptenv",
    "allowgroups",
    "allowusers",
    "denygroups",
    "denyusers",
    "hostkey",
    "listenaddress",
    "port",
    "setenv",
    "subsystem",
)


def _only_text(value: Any) -> Optional[str]:
    return "must be one value" if isinstance(value, tuple) or value is ABSENT else None


@dataclass(frozen=True)
class Sysctl(Setting):
    """A kernel parameter below /proc/sys: what it is now, and what sysctl.d will make it at the next start."""

    NAME = "sysctl"

    parameter: Optional[str] = option(
        Value(
            Pattern(r"[a-z][A-Za-z0-9_]*([./][A-Za-z0-9_*.:@-]+)+", "a kernel parameter such as kernel.kptr_restrict")
        ),
        "The parameter; C(*) stands for every network interface and the like, each of which must be as expected.",
        required=True,
    )

    def name(self) -> str:
        """Return the setting as it is named to people."""
        return f"sysctl {self.parameter}"

    def check_wanted(self, attribute: str, value: Any) -> Optional[str]:
        """Return why a value cannot be written."""
        return _only_text(value)

    def remedy(self, wanted: str) -> str:
        """Return how to set it by hand."""
        return f"Set {self.parameter} to {wanted} in the last file of /etc/sysctl.d, and run sysctl --system."


@dataclass(frozen=True)
class SshdSetting(Setting):
    """A setting of the SSH server as `sshd -T` prints it: what counts for a connection that no Match block is about."""

    NAME = "sshd_setting"

    keyword: Optional[str] = option(
        Value(Pattern(r"[A-Za-z][A-Za-z0-9]*", "a keyword of sshd_config such as PermitRootLogin")),
        "The keyword.",
        required=True,
    )

    def types(self) -> Mapping[str, str]:
        """Return the type of the found value: lists of algorithms and keywords that can be repeated are lists."""
        return {"": LIST if str(self.keyword).lower() in ALGORITHMS + REPEATED else TEXT}

    def name(self) -> str:
        """Return the setting as it is named to people."""
        return f"sshd {self.keyword}"

    def check_wanted(self, attribute: str, value: Any) -> Optional[str]:
        """Return why a value cannot be written."""
        if str(self.keyword).lower() in REPEATED:
            return "is a keyword that enforcing cannot set, since every line adds to it; say by_hand"
        if value is ABSENT:
            return "sshd always has a value"
        elements = value if isinstance(value, tuple) else (value,)
        if not all(str(element).isascii() and str(element).strip() == element for element in elements):
            return "must be plain text without blanks at its ends"
        return None

    def remedy(self, wanted: str) -> str:
        """Return how to set it by hand."""
        return (
            f"Set {self.keyword} to {wanted} in a file of /etc/ssh/sshd_config.d that sorts before the others, check with sshd -t"
            " and reload ssh."
        )


@dataclass(frozen=True)
class FilePermissions(Setting):
    """Mode, owner and group of a file or of all files that a pattern matches."""

    NAME = "file_permissions"

    path: Optional[str] = option(Value(GLOB), "The path; C(*) and C(?) stand for names.", required=True)

    def types(self) -> Mapping[str, str]:
        """Return the type of the found value by attribute."""
        return {"mode": MODE, "owner": TEXT, "group": TEXT}

    def name(self) -> str:
        """Return the setting as it is named to people."""
        return f"permissions of {self.path}"

    def check_wanted(self, attribute: str, value: Any) -> Optional[str]:
        """Return why a value cannot be written."""
        return _only_text(value)

    def remedy(self, wanted: str) -> str:
        """Return how to set it by hand."""
        return f"Use chmod and chown on {self.path}: {wanted}."


@dataclass(frozen=True)
class Service(Setting):
    """A unit of systemd: whether it starts at boot and whether it runs."""

    NAME = "service"
    STATES: ClassVar[Sequence[str]] = ("enabled", "disabled", "masked")
    ACTIVITIES: ClassVar[Sequence[str]] = ("active", "inactive")

    unit: Optional[str] = option(Value(UNIT), "The unit with its ending.", required=True)

    def types(self) -> Mapping[str, str]:
        """Return the type of the found value by attribute."""
        return {"state": TEXT, "active": TEXT}

    def name(self) -> str:
        """Return the setting as it is named to people."""
        return f"unit {self.unit}"

    def check_wanted(self, attribute: str, value: Any) -> Optional[str]:
        """Return why a value cannot be written."""
        allowed = self.STATES if attribute == "state" else self.ACTIVITIES
        return None if value in allowed else f"{value!r} cannot be brought about; allowed is {', '.join(allowed)}"

    def remedy(self, wanted: str) -> str:
        """Return how to set it by hand."""
        return f"Use systemctl enable, disable, mask, start or stop on {self.unit}: {wanted}."


@dataclass(frozen=True)
class Package(Setting):
    """The version of an installed package, of dpkg or rpm. Installing and removing packages is left to the roles."""

    NAME = "package"
    SETTABLE = False

    package: Optional[str] = option(
        Value(Pattern(r"[A-Za-z0-9][A-Za-z0-9+._-]+", "the name of a package")), "The package.", required=True
    )

    def name(self) -> str:
        """Return the setting as it is named to people."""
        return f"package {self.package}"

    def remedy(self, wanted: str) -> str:
        """Return how to set it by hand."""
        return f"Install or remove package {self.package}; expected is {wanted}."


@dataclass(frozen=True)
class KernelModule(Setting):
    """A module of the running kernel: `loaded`, `builtin`, `available`, `blocked` by modprobe.d, or `absent`."""

    NAME = "kernel_module"

    module: Optional[str] = option(
        Value(Pattern(PLAIN_WORD, "the name of a kernel module")), "The module.", required=True
    )

    def name(self) -> str:
        """Return the setting as it is named to people."""
        return f"kernel module {self.module}"

    def check_wanted(self, attribute: str, value: Any) -> Optional[str]:
        """Return why a value cannot be written."""
        return None if value == "blocked" else "a module can only be set to blocked"

    def remedy(self, wanted: str) -> str:
        """Return how to set it by hand."""
        return f"Write 'install {self.module} /bin/false' to a file of /etc/modprobe.d and unload the module."


@dataclass(frozen=True)
class KernelParameter(Setting):
    """A parameter of the running kernel's command line; text without a value is empty."""

    NAME = "kernel_parameter"
    SETTABLE = False

    parameter: Optional[str] = option(
        Value(Pattern(PLAIN_WORD, "the name of a kernel parameter")), "The parameter.", required=True
    )

    def name(self) -> str:
        """Return the setting as it is named to people."""
        return f"kernel parameter {self.parameter}"

    def remedy(self, wanted: str) -> str:
        """Return how to set it by hand."""
        return f"Change the boot loader's command line ({self.parameter}: {wanted}) and restart the host."


@dataclass(frozen=True)
class KernelState(Setting):
    """The first line of a file below /sys, such as the state of a processor's vulnerability."""

    NAME = "kernel_state"
    SETTABLE = False

    path: Optional[str] = option(
        Value(Pattern(r"/sys/(?!.*(^|/)\.\.?(/|$))[A-Za-z0-9_*./:-]+", "a path below /sys")),
        "The path; C(*) stands for names.",
        required=True,
    )

    def name(self) -> str:
        """Return the setting as it is named to people."""
        return str(self.path)


@dataclass(frozen=True)
class MountOption(Setting):
    """The options of a mounted file system."""

    NAME = "mount_option"
    SETTABLE = False

    path: Optional[str] = option(Value(PATH), "Where it is mounted.", required=True)

    def types(self) -> Mapping[str, str]:
        """Return the type of the found value."""
        return {"": LIST}

    def name(self) -> str:
        """Return the setting as it is named to people."""
        return f"mount options of {self.path}"


@dataclass(frozen=True)
class ApparmorProfile(Setting):
    """The mode of a loaded AppArmor profile: `enforce`, `complain`, `kill`, `unconfined`."""

    NAME = "apparmor_profile"
    SETTABLE = False

    profile: Optional[str] = option(Value(Text(minimum=1, maximum=255)), "The profile's name.", required=True)

    def name(self) -> str:
        """Return the setting as it is named to people."""
        return f"AppArmor profile {self.profile}"

    def remedy(self, wanted: str) -> str:
        """Return how to set it by hand."""
        return f"Load the profile {self.profile} with aa-enforce; the kernel must have been started with AppArmor."


@dataclass(frozen=True)
class SelinuxMode(Setting):
    """What SELinux does: `enforcing`, `permissive`, `disabled`; now, and what /etc/selinux/config says of the next start."""

    NAME = "selinux_mode"
    SETTABLE = False

    def name(self) -> str:
        """Return the setting as it is named to people."""
        return "SELinux"

    def remedy(self, wanted: str) -> str:
        """Return how to set it by hand."""
        return (
            f"Set SELINUX to {wanted} in /etc/selinux/config, take selinux=0 and enforcing=0 from the kernel's command line, "
            "label the file systems anew where SELinux was disabled (fixfiles -F onboot), and restart the host."
        )


@dataclass(frozen=True)
class SelinuxProcess(Setting):
    """The types that SELinux confines the processes of a program by, for each that runs."""

    NAME = "selinux_process"
    SETTABLE = False

    program: Optional[str] = option(
        Value(Text(minimum=1, maximum=64)),
        "The name of its processes as the kernel has it, such as qemu-kvm; C(*), C(?) and C([...]) stand for characters.",
        required=True,
    )

    def name(self) -> str:
        """Return the setting as it is named to people."""
        return f"SELinux type of {self.program}"

    def remedy(self, wanted: str) -> str:
        """Return how to set it by hand."""
        return f"Label the file of {self.program} anew (restorecon) and start it again; its type should be {wanted}."


@dataclass(frozen=True)
class ConfigFileSetting(Setting):
    """Base of the settings that stand in a configuration file which has no folder for additions."""

    def path_of_file(self) -> str:
        """Return the path of the file."""
        raise NotImplementedError

    def format_name(self) -> str:
        """Return the name of its format, one of CONFIG_FORMATS."""
        raise NotImplementedError

    def key_in_file(self) -> str:
        """Return the key in the file."""
        raise NotImplementedError

    def default_value(self) -> Found:
        """Return what counts where the file does not say it."""
        return None

    def units(self) -> Sequence[str]:
        """Return the units that read the file when they start: those that run are restarted after a change."""
        return ()

    def format(self) -> ConfigFormat:
        """Return the format of the file."""
        return CONFIG_FORMATS[self.format_name()]

    def name(self) -> str:
        """Return the setting as it is named to people."""
        return f"{self.key_in_file()} in {self.path_of_file()}"

    def check_wanted(self, attribute: str, value: Any) -> Optional[str]:
        """Return why a value cannot be written."""
        return None if value is ABSENT else self.format().problem(value)


@dataclass(frozen=True)
class FileSetting(ConfigFileSetting):
    """A key in a file of lines with a key and a value."""

    NAME = "file_setting"

    path: Optional[str] = option(Value(PATH), "The file.", required=True)
    keyword: Optional[str] = option(
        Value(Pattern(PLAIN_WORD, "a keyword of letters and digits")), "The keyword.", required=True
    )
    separator: Optional[str] = option(
        Value(Choice("space", "equals")), "What stands between keyword and value.", default="space"
    )
    default: Optional[str] = option(Value(Text(maximum=255)), "What counts where the file does not say it.")
    restart: Optional[str] = option(Value(UNIT), "A unit that is restarted after a change if it runs.")

    def path_of_file(self) -> str:
        """Return the path of the file."""
        return str(self.path)

    def format_name(self) -> str:
        """Return the name of its format."""
        return "key_equals_value" if self.separator == "equals" else "key_space_value"

    def key_in_file(self) -> str:
        """Return the key in the file."""
        return str(self.keyword)

    def default_value(self) -> Found:
        """Return what counts where the file does not say it."""
        return self.default

    def units(self) -> Sequence[str]:
        """Return the units that are restarted after a change."""
        return (self.restart,) if self.restart else ()


LINUX_SETTINGS = (
    Sysctl,
    SshdSetting,
    FilePermissions,
    Service,
    Package,
    KernelModule,
    KernelParameter,
    KernelState,
    MountOption,
    ApparmorProfile,
    SelinuxMode,
    SelinuxProcess,
    FileSetting,
)
