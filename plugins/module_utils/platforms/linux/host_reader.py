# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One pass over a Linux host: every file is read once, and a process starts only where there is no file to read.

At most three processes run, whatever the number of rules: `sshd -T`, `systemctl show` and `dpkg-query` (or `rpm`), each
only where a rule asks for what it tells.
"""

from __future__ import annotations

import fnmatch
import functools
import glob
import grp
import os
import pwd
import stat
import subprocess
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Sequence, Set, Tuple, Type, TypeVar, cast

from ...errors import ReadError
from ...hardening.expectation import Found
from ...hardening.target import Condition, Finding, Setting, Survey
from . import config_text as text_of
from . import programs
from .settings import (
    ApparmorProfile,
    ConfigFileSetting,
    FilePermissions,
    KernelModule,
    KernelParameter,
    KernelState,
    MountOption,
    Package,
    SelinuxMode,
    SelinuxProcess,
    Service,
    SshdSetting,
    Sysctl,
)

PROC = "/proc"
PROC_SYS = "/proc/sys"
SYSCTL_DIRECTORIES = ("/etc/sysctl.d", "/run/sysctl.d", "/usr/local/lib/sysctl.d", "/usr/lib/sysctl.d", "/lib/sysctl.d")
MODPROBE_DIRECTORIES = (
    "/etc/modprobe.d",
    "/run/modprobe.d",
    "/usr/local/lib/modprobe.d",
    "/usr/lib/modprobe.d",
    "/lib/modprobe.d",
)
SSHD = "/usr/sbin/sshd"
DPKG_QUERY = "/usr/bin/dpkg-query"
RPM = "/usr/bin/rpm"
SELINUX = "/sys/fs/selinux/enforce"
SELINUX_CONFIG = "/etc/selinux/config"
APPARMOR_PROFILES = "/sys/kernel/security/apparmor/profiles"

LINUX_CONDITIONS: Mapping[str, str] = {
    "distribution": "an id of os-release such as debian, or with its version or the first number of it, such as rocky9",
    "file_exists": "an absolute path",
    "package_installed": "the name of a package of dpkg or rpm",
    "unit_exists": "a systemd unit with its ending",
}


def run_program(arguments: Sequence[str], timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Run a program with an argument list and return what it printed.

    Raises ReadError where it is not there or does not end within `timeout` seconds.
    """
    try:
        return programs.completed(arguments, timeout)
    except FileNotFoundError:
        raise ReadError(f"{arguments[0]} is not installed") from None
    except subprocess.TimeoutExpired:
        raise ReadError(f"{arguments[0]} did not end within {timeout:.0f} s") from None


def read_text(path: str) -> Optional[str]:
    """Return the text of a file, or None where it is not there."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None


def drop_in_files(directories: Sequence[str], ending: str = ".conf") -> List[str]:
    """Return the paths of configuration files in the order in which they count.

    A name in an earlier folder hides the same name in a later one; names count in their order, whatever the folder.
    """
    found: Dict[str, str] = {}
    for directory in directories:
        try:
            names = os.listdir(directory)
        except OSError:
            continue
        for name in names:
            if name.endswith(ending):
                found.setdefault(name, os.path.join(directory, name))
    return [found[name] for name in sorted(found)]


Method = TypeVar("Method", bound=Callable[..., Any])


def once(method: Method) -> Method:
    """Let a method without arguments run once for each object; also its failure is kept, so that no program fails twice."""
    name = f"_{method.__name__}_once"

    @functools.wraps(method)
    def remembered(self: Any) -> Any:
        if name not in self.__dict__:
            try:
                self.__dict__[name] = (method(self), None)
            except (ReadError, OSError) as error:
                self.__dict__[name] = (None, error)
        value, failure = self.__dict__[name]
        if failure is not None:
            raise failure
        return value

    return cast(Method, remembered)


class HostReader:
    """Reads settings and conditions; everything that was read once is kept."""

    def __init__(self, settings: Mapping[str, Setting], conditions: Iterable[Condition]) -> None:
        self.settings = settings
        self.asked_conditions = list(conditions)
        self._texts: Dict[str, Optional[str]] = {}

    def survey(self) -> Survey:
        """Read everything."""
        findings = {rule: self._finding(setting) for rule, setting in self.settings.items()}
        return Survey(findings, {condition: self.holds(condition) for condition in self.asked_conditions})

    def _finding(self, setting: Setting) -> Finding:
        for cls, read in self.READERS.items():
            if isinstance(setting, cls):
                try:
                    return read(self, setting)
                except ReadError as error:
                    return Finding(error=error.message)
                except OSError as error:
                    return Finding(error=f"{error.filename or setting.name()}: {error.strerror}")
        raise AssertionError(f"no reader for {type(setting).__name__}")

    # -- kernel parameters

    @once
    def sysctl_assignments(self) -> Dict[str, Tuple[str, str]]:
        """Return by path below /proc/sys, in which there may be `*`, the value at the next start and the file that says it."""
        result: Dict[str, Tuple[str, str]] = {}
        for path in drop_in_files(SYSCTL_DIRECTORIES):
            for key, value in text_of.parse_sysctl_file(read_text(path) or ""):
                result.pop(key, None)
                result[key] = (value, path)
        return result

    def sysctl_at_start(self, path: str) -> Optional[Tuple[str, str, bool]]:
        """Return (value, file, whether the file names the parameter itself) at the next start; None where no file says it.

        A name counts before a pattern; of several patterns the last one counts (systemd-sysctl).
        """
        assignments = self.sysctl_assignments()
        if path in assignments:
            value, file = assignments[path]
            return value, file, True
        for key in reversed(list(assignments)):
            if "*" in key and self._matches(key, path):
                value, file = assignments[key]
                return value, file, False
        return None

    @staticmethod
    def _matches(pattern: str, path: str) -> bool:
        wanted, parts = pattern.split("/"), path.split("/")
        return len(wanted) == len(parts) and all(fnmatch.fnmatchcase(part, word) for part, word in zip(parts, wanted))

    def _read_sysctl(self, setting: Sysctl) -> Finding:
        relative = text_of.sysctl_path(str(setting.parameter))
        several = "*" in relative
        paths = sorted(glob.glob(f"{PROC_SYS}/{relative}")) if several else [f"{PROC_SYS}/{relative}"]
        finding = Finding()
        for path in paths:
            text = read_text(path)
            if text is None:
                continue
            name = os.path.relpath(path, PROC_SYS)
            place = text_of.sysctl_name(name) if several else ""
            finding.values[place] = {"": " ".join(text.split())}
            at_start = self.sysctl_at_start(name)
            if at_start is not None and " ".join(at_start[0].split()) != finding.values[place][""]:
                finding.later[place] = {"": " ".join(at_start[0].split())}
                finding.notes.append(
                    f"{at_start[1]} sets {text_of.sysctl_name(name)} to {at_start[0]} at the next start"
                )
        if not finding.values:
            finding.missing = "this kernel has no such parameter"
        return finding

    # -- SSH server

    @once
    def sshd_settings(self) -> Dict[str, Tuple[str, ...]]:
        """Return the effective settings of the SSH server. Raises ReadError where it cannot tell them."""
        result = run_program([SSHD, "-T"])
        if result.returncode:
            raise ReadError(f"sshd -T failed: {programs.complaint_of(result)}")
        return text_of.parse_sshd_output(result.stdout)

    def _read_sshd(self, setting: SshdSetting) -> Finding:
        if not os.path.exists(SSHD):
            return Finding(missing="there is no SSH server")
        values = self.sshd_settings().get(str(setting.keyword).lower())
        if values is None:
            return Finding(missing="this SSH server has no such setting")
        if setting.types()[""] == "list":
            return Finding.single(tuple(part for value in values for part in value.split(",")))
        return Finding.single(values[0])

    # -- files

    def _read_permissions(self, setting: FilePermissions) -> Finding:
        pattern = str(setting.path)
        several = any(character in pattern for character in "*?")
        finding = Finding()
        for path in sorted(glob.glob(pattern)) if several else [pattern]:
            try:
                status = os.lstat(path)
            except FileNotFoundError:
                continue
            if stat.S_ISLNK(status.st_mode):
                target = os.path.realpath(path)
                finding.notes.append(f"{path} is a link to {target}")
                status = os.stat(path)
            finding.values[path if several else ""] = {
                "mode": format(stat.S_IMODE(status.st_mode), "04o"),
                "owner": _name_of(pwd.getpwuid, status.st_uid),
                "group": _name_of(grp.getgrgid, status.st_gid),
            }
        if not finding.values:
            finding.missing = "there is no such file"
        return finding

    def text(self, path: str) -> Optional[str]:
        """Return the text of a file, read once."""
        if path not in self._texts:
            self._texts[path] = read_text(path)
        return self._texts[path]

    def _read_config_file(self, setting: ConfigFileSetting) -> Finding:
        text = self.text(setting.path_of_file())
        if text is None:
            return Finding(missing=f"there is no {setting.path_of_file()}")
        value = setting.format().get(text, setting.key_in_file())
        if value is not None:
            return Finding.single(value)
        default = setting.default_value()
        finding = Finding.single(default)
        if default is not None:
            finding.notes.append("the file does not say it: the default counts")
        return finding

    # -- services and packages

    def _unit_names(self) -> List[str]:
        names: Set[str] = {str(setting.unit) for setting in self.settings.values() if isinstance(setting, Service)}
        for condition in self.asked_conditions:
            if condition.name == "unit_exists":
                names.update(condition.values)
        return sorted(names)

    @once
    def units(self) -> Dict[str, Mapping[str, str]]:
        """Return what systemd says of every unit that is asked for."""
        names = self._unit_names()
        result = run_program(["systemctl", "show", "--property=LoadState,UnitFileState,ActiveState", "--", *names])
        blocks = text_of.parse_blocks(result.stdout)
        if result.returncode or len(blocks) != len(names):
            raise ReadError(f"systemctl show failed: {programs.complaint_of(result)}")
        return dict(zip(names, blocks))

    def _read_service(self, setting: Service) -> Finding:
        properties = self.units()[str(setting.unit)]
        return Finding({"": unit_state(properties)})

    @once
    def packages(self) -> Dict[str, str]:
        """Return the versions of the installed packages by name."""
        if not os.path.exists(DPKG_QUERY) and os.path.exists(RPM):
            result = run_program([RPM, "-qa", "--queryformat", "%{NAME}\\t%{VERSION}-%{RELEASE}\\n"])
            if result.returncode:
                raise ReadError(f"rpm failed: {programs.complaint_of(result)}")
            return dict(line.split("\t") for line in result.stdout.split("\n") if line.count("\t") == 1)
        result = run_program(["dpkg-query", "--show", "--showformat=${Package}\\t${db:Status-Status}\\t${Version}\\n"])
        if result.returncode:
            raise ReadError(f"dpkg-query failed: {programs.complaint_of(result)}")
        rows = (line.split("\t") for line in result.stdout.split("\n") if line.count("\t") == 2)
        return {name: version for name, status, version in rows if status == "installed"}

    def _read_package(self, setting: Package) -> Finding:
        return Finding.single(self.packages().get(str(setting.package)))

    # -- kernel

    @once
    def modules_of_kernel(self) -> Dict[str, str]:
        """Return by name of a module whether it is loaded, builtin or available."""
        root = f"/lib/modules/{os.uname().release}"
        result: Dict[str, str] = {}
        for file, state in (("modules.dep", "available"), ("modules.builtin", "builtin")):
            for line in (read_text(f"{root}/{file}") or "").split("\n"):
                path = line.partition(":")[0]
                if path:
                    result[text_of.module_name(os.path.basename(path).partition(".ko")[0])] = state
        for line in (read_text("/proc/modules") or "").split("\n"):
            if line:
                result[line.split(" ", 1)[0]] = "loaded"
        return result

    @once
    def install_commands(self) -> Dict[str, str]:
        """Return by module the command that modprobe.d gives for loading it."""
        result: Dict[str, str] = {}
        for path in drop_in_files(MODPROBE_DIRECTORIES):
            result.update(text_of.parse_modprobe_file(read_text(path) or ""))
        return result

    def _read_module(self, setting: KernelModule) -> Finding:
        name = text_of.module_name(str(setting.module))
        state = self.modules_of_kernel().get(name, "absent")
        if state == "available" and self.install_commands().get(name) in text_of.BLOCKING_COMMANDS:
            state = "blocked"
        return Finding.single(state)

    @once
    def command_line(self) -> Dict[str, str]:
        """Return the parameters of the running kernel; the last of several counts."""
        words = (word.partition("=") for word in (read_text("/proc/cmdline") or "").split())
        return {name: value for name, _equals, value in words}

    def _read_parameter(self, setting: KernelParameter) -> Finding:
        return Finding.single(self.command_line().get(str(setting.parameter)))

    def _read_state(self, setting: KernelState) -> Finding:
        pattern = str(setting.path)
        finding = Finding()
        for path in sorted(glob.glob(pattern)):
            text = read_text(path)
            if text is not None:
                finding.values[path if "*" in pattern else ""] = {"": text.split("\n", 1)[0].strip()}
        if not finding.values:
            finding.missing = "this kernel does not tell it"
        return finding

    @once
    def mounts(self) -> Dict[str, Tuple[str, ...]]:
        """Return the options of every mounted file system by the place where it is mounted (proc_pid_mountinfo(5))."""
        result = {}
        for line in (read_text("/proc/self/mountinfo") or "").split("\n"):
            fields = line.split(" ")
            if len(fields) > 5:
                place = fields[4].encode("ascii", "surrogateescape").decode("unicode_escape")
                result[place] = tuple(fields[5].split(","))
        return result

    def _read_mount(self, setting: MountOption) -> Finding:
        options = self.mounts().get(str(setting.path))
        return Finding(missing="nothing is mounted there") if options is None else Finding.single(options)

    @once
    def apparmor_profiles(self) -> Dict[str, str]:
        """Return the modes of the loaded AppArmor profiles by name."""
        rows = (line.rpartition(" (") for line in (read_text(APPARMOR_PROFILES) or "").split("\n") if line)
        return {name: mode.rstrip(")") for name, _parenthesis, mode in rows}

    def _read_apparmor(self, setting: ApparmorProfile) -> Finding:
        return Finding.single(self.apparmor_profiles().get(str(setting.profile)))

    def _read_selinux_mode(self, _setting: SelinuxMode) -> Finding:
        enforce = read_text(SELINUX)
        now = "disabled" if enforce is None else "enforcing" if enforce.strip() == "1" else "permissive"
        finding = Finding.single(now)
        at_start = text_of.parse_os_release(read_text(SELINUX_CONFIG) or "").get("SELINUX")
        if at_start is not None and at_start.lower() != now:
            finding.later[""] = {"": at_start.lower()}
            finding.notes.append(f"{SELINUX_CONFIG} sets it to {at_start} at the next start")
        return finding

    def _read_selinux_process(self, setting: SelinuxProcess) -> Finding:
        finding = Finding()
        for folder in sorted(glob.glob(f"{PROC}/[0-9]*")):
            try:
                name = (read_text(f"{folder}/comm") or "").rstrip("\n")
                if not fnmatch.fnmatchcase(name, str(setting.program)):
                    continue
                label = (read_text(f"{folder}/attr/current") or "").rstrip("\n\0").split(":")
            except ReadError:
                # It has ended meanwhile, or has no label.
                continue
            if len(label) > 2:
                finding.values[f"process {os.path.basename(folder)}"] = {"": label[2]}
        if not finding.values:
            finding.missing = "no process of it that SELinux knows runs"
        return finding

    # -- conditions

    @once
    def distribution(self) -> Tuple[str, ...]:
        """Return the ids that the distribution answers to, such as debian and debian12."""
        entries = text_of.parse_os_release(read_text("/etc/os-release") or "")
        name, version = entries.get("ID", "linux"), entries.get("VERSION_ID", "")
        found = (name, f"{name}{version.replace('.', '')}", f"{name}{version.partition('.')[0]}")
        return tuple(dict.fromkeys(found))

    def holds(self, condition: Condition) -> bool:
        """Return whether a condition holds. Raises ReadError where that cannot be told."""
        test: Dict[str, Callable[[str], bool]] = {
            "distribution": lambda value: value in self.distribution(),
            "file_exists": os.path.exists,
            "package_installed": lambda value: value in self.packages(),
            "unit_exists": lambda value: unit_state(self.units()[value])["state"] != "absent",
        }
        return any(test[condition.name](value) for value in condition.values)

    READERS: Dict[Type[Setting], Callable[..., Finding]] = {
        Sysctl: _read_sysctl,
        SshdSetting: _read_sshd,
        FilePermissions: _read_permissions,
        ConfigFileSetting: _read_config_file,
        Service: _read_service,
        Package: _read_package,
        KernelModule: _read_module,
        KernelParameter: _read_parameter,
        KernelState: _read_state,
        MountOption: _read_mount,
        ApparmorProfile: _read_apparmor,
        SelinuxMode: _read_selinux_mode,
        SelinuxProcess: _read_selinux_process,
    }


def unit_state(properties: Mapping[str, str]) -> Dict[str, Found]:
    """Return state and activity of a unit from what systemd says of it."""
    loaded = properties.get("LoadState", "")
    if loaded in ("masked", "not-found"):
        state = "masked" if loaded == "masked" else "absent"
    else:
        state = properties.get("UnitFileState") or "static"
    return {"state": state, "active": properties.get("ActiveState", "inactive")}


def _name_of(look_up: Callable[[int], Any], number: int) -> str:
    try:
        return str(look_up(number)[0])
    except KeyError:
        return str(number)
