# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Hardening of a Linux host: from settings that shall change to steps, and from the saved state back to what was before.

Where the system offers a folder for additions, settings go into one file of ours there; other files are changed in
place, line by line. Everything that a step changes is recorded before it is carried out.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
import subprocess
from dataclasses import dataclass, field
from typing import Any, Callable, ClassVar, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Type

from ...errors import ApplyError, BareforgeError, GuardError
from ...hardening.expectation import ABSENT, show_found
from ...hardening.target import Arm, Condition, HardeningTarget, Setting, Step, Steps, Survey, Wanted
from . import config_text as text_of
from . import programs, ssh_server
from .config_text import CONFIG_FORMATS, Assignment
from .host_reader import (
    LINUX_CONDITIONS,
    PROC_SYS,
    SSHD,
    HostReader,
    read_text,
    run_program,
    unit_state,
)
from .saved_state import SavedState, digest, read_bytes, replace_file, sync_directory
from .settings import LINUX_SETTINGS, ConfigFileSetting, FilePermissions, KernelModule, Service, SshdSetting, Sysctl

SSHD_CONFIG = "/etc/ssh/sshd_config"
SSH_UNITS = (*ssh_server.DEBIAN, *ssh_server.OTHERS)
SSH_FOLDER = "/etc/ssh"
CANDIDATE = "/run/bareforge-sshd-candidate"
"""Where a configuration lies while the SSH server looks at it."""


class DropIn(NamedTuple):
    """A file of ours in a folder for additions.

    path: chosen so that the file counts before all others. render: its text.
    """

    path: str
    render: Callable[[Sequence[Assignment]], str]


DROP_INS: Dict[str, DropIn] = {
    # The last file counts: zz- sorts behind 99-sysctl.conf and local.conf.
    "sysctl.d": DropIn("/etc/sysctl.d/zz-bareforge-hardening.conf", text_of.sysctl_drop_in),
    # The first value counts (sshd_config(5)).
    "sshd_config.d": DropIn("/etc/ssh/sshd_config.d/00-bareforge-hardening.conf", text_of.sshd_drop_in),
    "modprobe.d": DropIn("/etc/modprobe.d/zz-bareforge-hardening.conf", text_of.modprobe_drop_in),
}


def stored(value: Any) -> Any:
    """Return a value to write as it stands in the saved state."""
    return {"absent": True} if value is ABSENT else list(value) if isinstance(value, tuple) else value


def restored(value: Any) -> Any:
    """Return a value to write from the saved state."""
    return ABSENT if isinstance(value, dict) else tuple(value) if isinstance(value, list) else value


def rendered(entry: Mapping[str, Any], base: Optional[bytes]) -> Optional[bytes]:
    """Return the content of a file with its assignments.

    entry: the file's entry of the saved state. base: its content without them, or None where there is none.
    """
    assignments = [Assignment(key, restored(item["value"])) for key, item in entry["assignments"].items()]
    if entry["format"] in DROP_INS:
        return DROP_INS[entry["format"]].render(assignments).encode("utf-8") if assignments else None
    if not assignments:
        return base
    text = (base or b"").decode("utf-8", "surrogateescape")
    for assignment in assignments:
        text = CONFIG_FORMATS[entry["format"]].put(text, assignment.key, assignment.value)
    return text.encode("utf-8", "surrogateescape")


def readable(content: Optional[bytes]) -> str:
    """Return the content of a file for a diff."""
    return "" if content is None else content.decode("utf-8", "replace")


def run_or_fail(arguments: Sequence[str], timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """Run a program. Raises ApplyError with what it said where it fails."""
    result = run_program(arguments, timeout)
    if result.returncode:
        words = " ".join(argument for argument in arguments if argument != "--")
        raise ApplyError(f"{words} failed: {programs.complaint_of(result)}")
    return result


@dataclass
class LinuxStep(Step):
    """A step on a Linux host.

    part, key: its entry in the saved state.
    """

    part: str = ""
    key: str = ""

    def carry_out(self, state: SavedState) -> Dict[str, str]:
        """Make the change and return by rule what was left out of it. Raises OSError or ApplyError where it fails whole."""
        raise NotImplementedError


@dataclass
class WriteFile(LinuxStep):
    """Replace a file, make it, or remove it.

    expected: the SHA-256 that the file had when the step was planned.
    content: the new content, or None to remove it. attributes: mode, uid and gid; modified_ns where it is to be set.
    """

    expected: Optional[str] = None
    content: Optional[bytes] = None
    attributes: Mapping[str, int] = field(default_factory=dict)

    def carry_out(self, state: SavedState) -> Dict[str, str]:
        """Make the change."""
        if digest(read_bytes(self.target)) != self.expected:
            raise ApplyError(f"{self.target} was changed by somebody else in the meantime")
        self.write()
        return {}

    def write(self) -> None:
        """Put the content in place."""
        if self.content is None:
            os.unlink(self.target)
            sync_directory(os.path.dirname(self.target))
            return
        os.makedirs(os.path.dirname(self.target), mode=0o755, exist_ok=True)
        attributes = self.attributes
        replace_file(
            self.target,
            self.content,
            attributes.get("mode", 0o644),
            attributes.get("uid", 0),
            attributes.get("gid", 0),
            attributes.get("modified_ns"),
        )


@dataclass
class WriteSshdFile(WriteFile):
    """Replace our file of settings of the SSH server, after the server itself has found the whole configuration good."""

    def carry_out(self, state: SavedState) -> Dict[str, str]:
        """Make the change; settings that the server refuses are left out and told."""
        errors: Dict[str, str] = {}
        entry = state.parts["files"].get(self.key)
        if self.content is not None and entry is not None and self._complaint(self.content):
            for keyword in list(entry["assignments"]):
                alone = {**entry, "assignments": {keyword: entry["assignments"][keyword]}}
                complaint = self._complaint(rendered(alone, None) or b"")
                if complaint:
                    errors.update({rule: complaint for rule in entry["assignments"][keyword]["rules"]})
                    del entry["assignments"][keyword]
            self.content = rendered(entry, None)
            self.after = readable(self.content)
            complaint = self._complaint(self.content or b"")
            if complaint:
                raise ApplyError(complaint)
            entry["written"] = [*entry["written"], digest(self.content)]
        if self.content is None and not os.path.exists(self.target):
            return errors
        return {**errors, **super().carry_out(state)}

    @staticmethod
    def _complaint(content: bytes) -> Optional[str]:
        """Return what the SSH server says against a configuration in which the content counts first, or None."""
        base = read_bytes(SSHD_CONFIG) or b""
        path = CANDIDATE
        replace_file(path, content + b"\n" + base, 0o600)
        try:
            result = run_program([SSHD, "-t", "-f", path])
        finally:
            os.unlink(path)
        return (
            f"sshd refuses it: {programs.complaint_of(result).replace(path, 'the configuration')}"
            if result.returncode
            else None
        )


@dataclass
class WriteSysctl(LinuxStep):
    """Set a parameter of the running kernel."""

    value: str = ""

    def carry_out(self, state: SavedState) -> Dict[str, str]:
        """Make the change."""
        # Opened for writing only: what a network interface has goes with it, and must not come back as a file.
        try:
            number = os.open(self.target, os.O_WRONLY | os.O_TRUNC)
        except FileNotFoundError:
            return {}
        with open(number, "w", encoding="ascii") as file:
            file.write(f"{self.value}\n")
        return {}


@dataclass
class SetPermissions(LinuxStep):
    """Set mode, owner and group of a file. None leaves one as it is."""

    mode: Optional[int] = None
    uid: Optional[int] = None
    gid: Optional[int] = None

    def carry_out(self, state: SavedState) -> Dict[str, str]:
        """Make the change."""
        if stat.S_ISLNK(os.lstat(self.target).st_mode):
            raise ApplyError(f"{self.target} is a link; set the permissions of what it points to by a rule of its own")
        # Changing the owner may clear bits of the mode, so the mode comes last.
        if self.uid is not None or self.gid is not None:
            os.chown(self.target, -1 if self.uid is None else self.uid, -1 if self.gid is None else self.gid)
        if self.mode is not None:
            os.chmod(self.target, self.mode)
        return {}


@dataclass
class RunSystemctl(LinuxStep):
    """Call systemctl with some verbs, one after the other, for one unit."""

    verbs: Sequence[str] = ()

    def carry_out(self, state: SavedState) -> Dict[str, str]:
        """Make the change."""
        if self.part != "pending" or self._exists():
            for verb in self.verbs:
                run_or_fail(["systemctl", verb, "--", self.target])
        if self.part == "pending":
            state.parts["pending"].pop(self.key, None)
        return {}

    def _exists(self) -> bool:
        """Return whether the unit is there: it may have gone since its restart became due."""
        return "not-found" not in run_or_fail(["systemctl", "show", "--property=LoadState", "--", self.target]).stdout


@dataclass
class RunModprobe(LinuxStep):
    """Unload or load a kernel module."""

    load: bool = False

    def carry_out(self, state: SavedState) -> Dict[str, str]:
        """Make the change."""
        if self.load:
            run_or_fail(["modprobe", "--", self.target])
        else:
            result = run_program(["modprobe", "-r", "--", self.target])
            if result.returncode:
                raise ApplyError(
                    f"cannot be unloaded now ({programs.complaint_of(result)}); it stays away after the next start"
                )
        return {}


@dataclass
class LinuxSteps(Steps):
    """Steps with the saved state.

    before: as it is. ahead: what has to be known should the run be killed, written before the first step. after: as it is
    when all steps are done. originals: contents of files to keep, by SHA-256.
    """

    before: SavedState = field(default_factory=SavedState)
    ahead: SavedState = field(default_factory=SavedState)
    after: SavedState = field(default_factory=SavedState)
    originals: Dict[str, bytes] = field(default_factory=dict)


class LinuxHardening(HardeningTarget):
    """Hardening of a host that runs Linux with systemd. The code runs on the host, as root."""

    SETTINGS: ClassVar[Tuple[Type[Setting], ...]] = LINUX_SETTINGS
    CONDITIONS: ClassVar[Mapping[str, str]] = LINUX_CONDITIONS

    def survey(self, settings: Mapping[str, Setting], conditions: Iterable[Condition]) -> Survey:
        """Read all settings and conditions in one pass."""
        return HostReader(settings, conditions).survey()

    def enforced_rules(self) -> List[str]:
        """Return the ids of the rules for which there is something to bring back."""
        return SavedState().load().rules()

    def describe(self) -> Dict[str, str]:
        """Return what a report says of the host."""
        release = text_of.parse_os_release(read_text("/etc/os-release") or "")
        kernel = os.uname()
        return {
            "name": kernel.nodename,
            "system": release.get("PRETTY_NAME", "Linux"),
            "kernel": kernel.release,
            "machine": kernel.machine,
        }

    def plan(self, wanted: Sequence[Wanted]) -> LinuxSteps:
        """Return the changes that set what is wanted."""
        return EnforcePlan(wanted).make()

    def plan_revert(self, rules: Optional[Sequence[str]]) -> LinuxSteps:
        """Return the changes that bring back what was before."""
        return RevertPlan(rules).make()

    def carry_out(self, steps: Steps, arm: Optional[Arm] = None) -> Dict[str, str]:
        """Carry out changes."""
        if not isinstance(steps, LinuxSteps):
            raise AssertionError("not reached: not isinstance(steps, LinuxSteps)")
        errors: Dict[str, str] = {}
        state = steps.after
        if not steps.steps and state.parts == steps.before.parts:
            return errors
        state.prepare()
        for content in steps.originals.values():
            state.keep_original(content)
        risky = [step for step in steps.steps if touches_logins(step)] if arm is not None else []
        for step in risky:
            _note_guarded(step, steps)
        if steps.steps:
            steps.ahead.save()
        refusal: Optional[GuardError] = None
        for step in steps.steps:
            try:
                if arm is not None and risky and step is risky[0]:
                    refusal = _refusal(arm, [rule for each in risky for rule in each.rules])
                if refusal is not None and any(step is each for each in risky):
                    raise refusal
                errors.update(step.carry_out(state))
                step.done = True
                # Restarts come last, when all else is done: one that was made is not made again by the next run.
                if step.part == "pending":
                    state.save()
            except (OSError, BareforgeError) as error:
                text = error.message if isinstance(error, BareforgeError) else f"{error.filename}: {error.strerror}"
                errors.update({rule: text for rule in step.rules})
                _take_back(step, steps.before, state)
        state.save()
        return errors


def _refusal(arm: Arm, rules: Sequence[str]) -> Optional[GuardError]:
    """Arm the guard and return why it cannot be, or None where it stands."""
    try:
        arm(rules)
    except GuardError as error:
        return error
    return None


def touches_logins(step: LinuxStep) -> bool:
    """Return whether a step may keep people from logging in over SSH."""
    return step.target in SSH_UNITS or (isinstance(step, WriteFile) and step.target.startswith(f"{SSH_FOLDER}/"))


def _note_guarded(step: LinuxStep, steps: LinuxSteps) -> None:
    """Record what the saved state has to forget should the guard bring a file back."""
    if isinstance(step, WriteFile):
        record = {
            "entry": steps.before.parts["files"].get(step.key),
            "before": step.expected,
            "after": digest(step.content),
        }
        for state in (steps.ahead, steps.after):
            state.parts["guarded"][step.target] = record


def _take_back(step: LinuxStep, before: SavedState, state: SavedState) -> None:
    """Record that a step was not carried out."""
    if not step.part:
        return
    if step.key in before.parts[step.part]:
        state.parts[step.part][step.key] = before.parts[step.part][step.key]
    elif step.part != "pending":
        state.parts[step.part].pop(step.key, None)


def _attributes(path: str) -> Dict[str, int]:
    status = os.stat(path)
    return {
        "mode": stat.S_IMODE(status.st_mode),
        "uid": status.st_uid,
        "gid": status.st_gid,
        "modified_ns": status.st_mtime_ns,
    }


class EnforcePlan:
    """Makes the steps that set what is wanted."""

    def __init__(self, wanted: Sequence[Wanted]) -> None:
        self.wanted = wanted
        self.before = SavedState().load()
        self.state = self.before.copy()
        names = {
            unit for entry in wanted if isinstance(entry.setting, ConfigFileSetting) for unit in entry.setting.units()
        }
        readers_of_files = {f"unit {name}": Service(unit=name) for name in sorted(names)}
        self.reader = HostReader({**{entry.rule: entry.setting for entry in wanted}, **readers_of_files}, ())
        self.errors: Dict[str, str] = {}
        self.originals: Dict[str, bytes] = {}
        self.touched: Dict[str, List[str]] = {}
        self.chosen: Dict[Tuple[str, str], Tuple[str, Any]] = {}
        self.settings: List[LinuxStep] = []
        self.modules: List[LinuxStep] = []
        self.services: List[LinuxStep] = []
        self.actions: Dict[str, Tuple[str, List[str]]] = {}

    def make(self) -> LinuxSteps:
        """Return the steps: files and kernel, permissions, modules, services, restarts of services, the SSH server."""
        for entry in self.wanted:
            for cls, plan in self.PLANNERS.items():
                if isinstance(entry.setting, cls):
                    plan(self, entry, entry.setting)
        files = [step for path in self.touched for step in self._file_steps(path)]
        late = [step for step in files if isinstance(step, WriteSshdFile)]
        early = [step for step in files if not isinstance(step, WriteSshdFile)]
        pending = self._pending_steps()
        # What the guard stands over comes last, so that its time does not run out while other things are done.
        last = [step for step in pending if step.target in SSH_UNITS]
        restarts = [step for step in pending if step.target not in SSH_UNITS]
        steps = [*early, *self.settings, *self.modules, *self.services, *restarts, *late, *last]
        return LinuxSteps(steps, self.errors, self.before, self.state.copy(), self.state, self.originals)

    def _assign(self, path: str, format_name: str, key: str, value: Any, entry: Wanted) -> bool:
        """Note that a key of a file shall have a value; False where another rule wants another one."""
        other = self.chosen.setdefault((path, key), (entry.rule, value))
        if other[1] != value:
            self.errors[entry.rule] = f"wants {show_found(value)}, and rule {other[0]} wants {show_found(other[1])}"
            return False
        files = self.state.parts["files"]
        if path not in files:
            content = read_bytes(path)
            original = None
            if content is not None:
                sha256 = digest(content)
                if sha256 is None:
                    raise AssertionError("not reached: sha256 is None")
                self.originals[sha256] = content
                original = {"sha256": sha256, **_attributes(path)}
            files[path] = {"original": original, "written": [], "format": format_name, "assignments": {}}
        assignments = files[path]["assignments"]
        rules = [*assignments.get(key, {}).get("rules", []), entry.rule]
        assignments[key] = {"value": stored(value), "rules": list(dict.fromkeys(rules)), "keep": entry.keep}
        self.touched.setdefault(path, []).append(entry.rule)
        return True

    def _file_steps(self, path: str) -> List[LinuxStep]:
        entry = self.state.parts["files"][path]
        current = read_bytes(path)
        rules = tuple(dict.fromkeys(self.touched[path]))
        own = entry["format"] in DROP_INS
        # What somebody else changed since is kept: our lines go into it as it is now.
        base = current
        if entry["original"] and digest(current) in entry["written"]:
            base = self._original(entry)
        content = rendered(entry, base)
        if content == current:
            return []
        if digest(content) not in entry["written"]:
            entry["written"] = [*entry["written"], digest(content)]
        cls = WriteSshdFile if entry["format"] == "sshd_config.d" else WriteFile
        attributes: Mapping[str, int] = {"mode": 0o644}
        if current is not None and not own:
            attributes = {name: value for name, value in _attributes(path).items() if name != "modified_ns"}
        return [
            cls(
                rules,
                f"write {path}",
                path,
                readable(current),
                readable(content),
                part="files",
                key=path,
                expected=digest(current),
                content=content,
                attributes=attributes,
            )
        ]

    def _original(self, entry: Mapping[str, Any]) -> bytes:
        sha256 = entry["original"]["sha256"]
        return self.originals[sha256] if sha256 in self.originals else self.before.original(sha256)

    def _plan_sysctl(self, entry: Wanted, setting: Sysctl) -> None:
        drop_in = DROP_INS["sysctl.d"].path
        for number, (place, values) in enumerate(entry.values.items()):
            value = values[""]
            relative = text_of.sysctl_path(place or str(setting.parameter))
            if number == 0:
                self._assign(drop_in, "sysctl.d", str(setting.parameter), value, entry)
            at_start = self.reader.sysctl_at_start(relative)
            if place and at_start is not None and at_start[2] and at_start[0] != value:
                self._assign(drop_in, "sysctl.d", place, value, entry)
            path = f"{PROC_SYS}/{relative}"
            current = read_text(path)
            if current is None or current.split() == value.split():
                continue
            if not entry.keep:
                self._record("sysctls", relative, {"value": current.strip()}, entry.rule)
            self.settings.append(
                WriteSysctl(
                    (entry.rule,),
                    f"set {text_of.sysctl_name(relative)} to {value}",
                    path,
                    f"{current.strip()}\n",
                    f"{value}\n",
                    part="sysctls",
                    key=relative,
                    value=value,
                )
            )

    def _record(self, part: str, key: str, before: Mapping[str, Any], rule: str) -> None:
        """Record what was before, unless that was done by an earlier run: the first record is the true one."""
        known = self.state.parts[part].setdefault(key, {**before, "rules": []})
        known["rules"] = list(dict.fromkeys([*known["rules"], rule]))

    def _plan_sshd(self, entry: Wanted, setting: SshdSetting) -> None:
        drop_in = DROP_INS["sshd_config.d"].path
        known = self.state.parts["files"].get(drop_in, {"assignments": {}})["assignments"]
        keyword = next((key for key in known if key.lower() == str(setting.keyword).lower()), str(setting.keyword))
        self._assign(drop_in, "sshd_config.d", keyword, entry.values[""][""], entry)
        self._due("try-reload-or-restart", ssh_server.ssh_unit(), entry.rule)

    def _due(self, action: str, unit: str, rule: str) -> None:
        self.actions.setdefault(unit, (action, []))[1].append(rule)

    def _pending_steps(self) -> List[LinuxStep]:
        """Return the restarts that are due, among them those that a killed run did not come to."""
        for unit, (action, rules) in self.actions.items():
            self.state.parts["pending"][unit] = {"action": action, "rules": list(dict.fromkeys(rules))}
        return pending_steps(self.state)

    def _plan_permissions(self, entry: Wanted, setting: FilePermissions) -> None:
        for place, values in entry.values.items():
            path = place or str(setting.path)
            attributes = _attributes(path)
            try:
                uid, gid = _number("owner", values.get("owner")), _number("group", values.get("group"))
            except KeyError as error:
                self.errors[entry.rule] = f"{path}: there is no user or group {error.args[0]}"
                continue
            if not entry.keep:
                self._record(
                    "permissions", path, {name: attributes[name] for name in ("mode", "uid", "gid")}, entry.rule
                )
            mode = int(values["mode"], 8) if "mode" in values else None
            words = ", ".join(f"{name} {value}" for name, value in values.items())
            self.settings.append(
                SetPermissions(
                    (entry.rule,),
                    f"set {words} of {path}",
                    path,
                    part="permissions",
                    key=path,
                    mode=mode,
                    uid=uid,
                    gid=gid,
                )
            )

    def _plan_service(self, entry: Wanted, setting: Service) -> None:
        unit = str(setting.unit)
        found = self.reader.units()[unit]
        current = unit_state(found)
        values = entry.values[""]
        if current["state"] == "absent":
            self.errors[entry.rule] = f"there is no unit {unit}"
            return
        if not entry.keep:
            self._record("units", unit, current, entry.rule)
        verbs = unit_verbs(current, values)
        self.services.append(
            RunSystemctl((entry.rule,), f"{', '.join(verbs)} {unit}", unit, part="units", key=unit, verbs=verbs)
        )

    def _plan_module(self, entry: Wanted, setting: KernelModule) -> None:
        name = text_of.module_name(str(setting.module))
        state = self.reader.modules_of_kernel().get(name)
        if state == "builtin":
            self.errors[entry.rule] = f"{name} is part of the kernel and cannot be blocked"
            return
        self._assign(DROP_INS["modprobe.d"].path, "modprobe.d", name, "blocked", entry)
        if state == "loaded":
            if not entry.keep:
                self._record("modules", name, {}, entry.rule)
            self.modules.append(RunModprobe((entry.rule,), f"unload module {name}", name, part="modules", key=name))

    def _plan_config_file(self, entry: Wanted, setting: ConfigFileSetting) -> None:
        path = os.path.realpath(setting.path_of_file())
        if not self._assign(path, setting.format_name(), setting.key_in_file(), entry.values[""][""], entry):
            return
        file = self.state.parts["files"][path]
        units = [unit for unit in setting.units() if unit_state(self.reader.units()[unit])["state"] != "absent"]
        file["units"] = list(dict.fromkeys([*file.get("units", []), *units]))
        for unit in units:
            self._due("try-restart", unit, entry.rule)

    PLANNERS: Dict[Type[Setting], Callable[..., None]] = {
        Sysctl: _plan_sysctl,
        SshdSetting: _plan_sshd,
        FilePermissions: _plan_permissions,
        Service: _plan_service,
        KernelModule: _plan_module,
        ConfigFileSetting: _plan_config_file,
    }


def _number(what: str, name: Optional[str]) -> Optional[int]:
    if name is None:
        return None
    if name.isdigit():
        return int(name)
    try:
        return pwd.getpwnam(name).pw_uid if what == "owner" else grp.getgrnam(name).gr_gid
    except KeyError:
        raise KeyError(name) from None


def pending_steps(state: SavedState) -> List[LinuxStep]:
    """Return the steps for all restarts and reloads that are due."""
    return [
        RunSystemctl(
            tuple(entry["rules"]), f"{entry['action']} {unit}", unit, part="pending", key=unit, verbs=(entry["action"],)
        )
        for unit, entry in state.parts["pending"].items()
    ]


def unit_verbs(current: Mapping[str, Any], wanted: Mapping[str, Any]) -> List[str]:
    """Return the verbs of systemctl that take a unit from one state and activity to another."""
    verbs: List[str] = []
    state = wanted.get("state", current["state"])
    if wanted.get("active") == "inactive" and current["active"] != "inactive":
        verbs.append("stop")
    if state != current["state"]:
        if current["state"] == "masked":
            verbs.append("unmask")
        verb = {"enabled": "enable", "disabled": "disable", "masked": "mask"}.get(state)
        if verb:
            verbs.append(verb)
    if wanted.get("active") == "active" and current["active"] != "active":
        verbs.append("start")
    return verbs


class RevertPlan:
    """Makes the steps that bring back what was before."""

    def __init__(self, rules: Optional[Sequence[str]]) -> None:
        self.selected = None if rules is None else set(rules)
        self.before = SavedState().load()
        self.state = self.before.copy()
        self.errors: Dict[str, str] = {}
        self.actions: Dict[str, Tuple[str, List[str]]] = {}
        self.written: Dict[str, List[Optional[str]]] = {}

    def make(self) -> LinuxSteps:
        """Return the steps."""
        files = [step for path in list(self.state.parts["files"]) for step in self._file_steps(path)]
        steps = [
            *(step for step in files if not isinstance(step, WriteSshdFile)),
            *self._steps("sysctls", self._sysctl_step),
            *self._steps("permissions", self._permission_step),
            *self._steps("modules", self._module_step),
            *self._unit_steps(),
            *(step for step in files if isinstance(step, WriteSshdFile)),
        ]
        for unit, (action, rules) in self.actions.items():
            self.state.parts["pending"][unit] = {"action": action, "rules": list(dict.fromkeys(rules))}
        # Until a file is written it is as it was, but what is about to be written must be known as ours.
        ahead = self.before.copy()
        ahead.parts["pending"].update(self.state.parts["pending"])
        for path, written in self.written.items():
            ahead.parts["files"][path]["written"] = written
        return LinuxSteps([*steps, *pending_steps(self.state)], self.errors, self.before, ahead, self.state)

    def _leaving(self, rules: Sequence[str]) -> List[str]:
        return [rule for rule in rules if self.selected is None or rule in self.selected]

    def _file_steps(self, path: str) -> List[LinuxStep]:
        entry = self.state.parts["files"][path]
        gone: List[str] = []
        for key, assignment in list(entry["assignments"].items()):
            leaving = [] if assignment.get("keep") else self._leaving(assignment["rules"])
            gone.extend(leaving)
            assignment["rules"] = [rule for rule in assignment["rules"] if rule not in leaving]
            if not assignment["rules"]:
                del entry["assignments"][key]
        if not gone and entry["assignments"]:
            return []
        rules = tuple(dict.fromkeys(gone))
        current = read_bytes(path)
        original = entry["original"]
        own = entry["format"] in DROP_INS
        known = [*entry["written"], original and original["sha256"]]
        if not own and digest(current) not in known:
            kept = self.before.original_path(original["sha256"]) if original else "nowhere: there was no such file"
            text = f"{path} was changed by somebody else since; what it was before is kept in {kept}"
            self.errors.update({rule: text for rule in rules})
            self.state.parts["files"][path] = self.before.parts["files"][path]
            return []
        base = self.before.original(original["sha256"]) if original else None
        # A drop-in that was there before us under our name comes back as it was.
        content = base if not entry["assignments"] else rendered(entry, base)
        if entry["assignments"]:
            entry["written"] = [*entry["written"], digest(content)]
            self.written[path] = entry["written"]
        else:
            del self.state.parts["files"][path]
        self._due_for(entry["format"], path, gone)
        if content == current:
            return []
        attributes: Dict[str, int] = {"mode": 0o644}
        if original:
            attributes = {name: original[name] for name in ("mode", "uid", "gid")}
            if current is not None:
                attributes = {name: value for name, value in _attributes(path).items() if name != "modified_ns"}
            if not entry["assignments"]:
                attributes["modified_ns"] = original["modified_ns"]
        cls = WriteSshdFile if entry["format"] == "sshd_config.d" else WriteFile
        return [
            cls(
                rules,
                f"{'remove' if content is None else 'restore'} {path}",
                path,
                readable(current),
                readable(content),
                part="files",
                key=path,
                expected=digest(current),
                content=content,
                attributes=attributes,
            )
        ]

    def _due_for(self, format_name: str, path: str, rules: Sequence[str]) -> None:
        if format_name == "sshd_config.d":
            self.actions.setdefault(ssh_server.ssh_unit(), ("try-reload-or-restart", []))[1].extend(rules)
        for unit in self.before.parts["files"][path].get("units", ()):
            self.actions.setdefault(unit, ("try-restart", []))[1].extend(rules)

    def _steps(
        self, part: str, step_for: Callable[[str, Mapping[str, Any], Tuple[str, ...]], Optional[LinuxStep]]
    ) -> List[LinuxStep]:
        steps: List[LinuxStep] = []
        for key, entry in list(self.state.parts[part].items()):
            leaving = self._leaving(entry["rules"])
            entry["rules"] = [rule for rule in entry["rules"] if rule not in leaving]
            if entry["rules"] or not leaving:
                continue
            del self.state.parts[part][key]
            step = step_for(key, entry, tuple(leaving))
            if step is not None:
                steps.append(step)
        return steps

    @staticmethod
    def _sysctl_step(key: str, entry: Mapping[str, Any], rules: Tuple[str, ...]) -> Optional[LinuxStep]:
        path = f"{PROC_SYS}/{key}"
        current, value = read_text(path), entry["value"]
        # A network interface that is gone has nothing to bring back.
        if current is None or current.split() == value.split():
            return None
        return WriteSysctl(
            rules,
            f"set {text_of.sysctl_name(key)} back to {value}",
            path,
            f"{current.strip()}\n",
            f"{value}\n",
            part="sysctls",
            key=key,
            value=value,
        )

    @staticmethod
    def _permission_step(key: str, entry: Mapping[str, Any], rules: Tuple[str, ...]) -> Optional[LinuxStep]:
        if not os.path.lexists(key):
            return None
        current = _attributes(key)
        if all(current[name] == entry[name] for name in ("mode", "uid", "gid")):
            return None
        return SetPermissions(
            rules,
            f"set mode {entry['mode']:04o}, uid {entry['uid']} and gid {entry['gid']} of {key} back",
            key,
            part="permissions",
            key=key,
            mode=entry["mode"],
            uid=entry["uid"],
            gid=entry["gid"],
        )

    @staticmethod
    def _module_step(key: str, entry: Mapping[str, Any], rules: Tuple[str, ...]) -> Optional[LinuxStep]:
        loaded = (line.split(" ", 1)[0] for line in (read_text("/proc/modules") or "").split("\n"))
        if key in loaded:
            return None
        return RunModprobe(rules, f"load module {key}", key, part="modules", key=key, load=True)

    def _unit_steps(self) -> List[LinuxStep]:
        names = sorted(self.state.parts["units"])
        if not names:
            return []
        reader = HostReader({name: Service(unit=name) for name in names}, ())
        units = reader.units()

        def step_for(key: str, entry: Mapping[str, Any], rules: Tuple[str, ...]) -> Optional[LinuxStep]:
            current = unit_state(units[key])
            verbs = [] if current["state"] == "absent" else unit_verbs(current, entry)
            if not verbs:
                return None
            return RunSystemctl(rules, f"{', '.join(verbs)} {key}", key, part="units", key=key, verbs=verbs)

        return self._steps("units", step_for)
