# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The host itself: its name, name servers, time, log and services, by the files and units that a Linux host has for them.

Reading takes one process, and that only where services are asked for. Which services were asked for is written down, since
a host has a hundred that nobody asks for and that come and go by themselves.
"""

from __future__ import annotations

import os
import re
import socket
from typing import Any, Callable, Collection, Dict, Iterator, List, Mapping, Optional, Sequence, Set, Tuple

from ...engine.change import Change
from ...engine.platform import Context, Interface
from ...errors import ApplyError, Problem, ReadError
from ...model.document import State
from ...model.schema import Path
from ...model.system import Service, SyslogServer, System
from ...model.types import show
from . import programs, restarts
from . import system_text as text_of
from .config_text import parse_blocks
from .host_reader import drop_in_files, run_program
from .saved_state import new_name, sync_directory
from .system_text import LogTarget

ETC = "/etc"
ZONES = "/usr/share/zoneinfo"
PROGRAMS = "/usr/sbin"
LIBRARIES = "/usr/lib/systemd"
RECORD_FILE = "/var/lib/bareforge/system.json"
RESOLVED_FOLDER = "/run/systemd/resolve"
DROP_IN = "zz-bareforge.conf"
"""Files count in the order of their names, and many hosts have some that begin with a letter."""

UNIT_NAME = re.compile(r"[A-Za-z0-9:_.][A-Za-z0-9:_.@\\-]{0,200}")
UNIT_ENDINGS = (".service", ".socket", ".timer", ".path", ".mount", ".target")
MANAGING = frozenset(
    {"ssh.service", "ssh.socket", "sshd.service", "sshd.socket", "systemd-networkd.service", "dbus.service"}
)
"""The units that a host is reached and managed through."""
ENABLED, NOT_ENABLED = ("enabled", "enabled-runtime"), ("disabled", "masked", "masked-runtime")


class LinuxSystem(Interface):
    """Reads and changes what a Linux host is called, whom it asks, and which services run."""

    KINDS = ("system",)
    CAPABILITIES = frozenset({"system", "system.syslog", "system.services"})

    def __init__(self, platform: Any) -> None:
        self.platform = platform
        self._named: Set[str] = set()
        self._units: Dict[str, Mapping[str, str]] = {}

    # -- Reading ---------------------------------------------------------------------------------------------------

    def read(self, kinds: Collection[str], names: Mapping[str, Collection[str]]) -> State:
        self._named |= set(names.get("system", ()))
        servers, search = _read_dns()
        system = System(
            hostname=_told("hostname", _hostname()),
            domain=_told("domain", _domain()),
            dns_servers=_told("dns_servers", servers),
            dns_search=_told("dns_search", search),
            ntp_servers=_told("ntp_servers", _read_ntp()),
            timezone=_told("timezone", _read_timezone()),
            syslog_servers=_told("syslog_servers", _read_syslog()),
            services=self._read_services(),
        )
        return {"system": {(): system}}

    def _read_services(self) -> Tuple[Service, ...]:
        names = sorted(name for name in self._named | set(_recorded()) if UNIT_NAME.fullmatch(name))
        if not names:
            return ()
        units = [unit_of(name) for name in names]
        result = run_program(["systemctl", "show", "--property=LoadState,ActiveState,UnitFileState", "--", *units])
        blocks = parse_blocks(result.stdout)
        if result.returncode or len(blocks) != len(units):
            raise ReadError(f"systemctl show failed: {programs.complaint_of(result)}")
        self._units = dict(zip(names, blocks))
        return tuple(
            Service(name, unit["ActiveState"] in ("active", "reloading"), _starts_at_boot(unit))
            for name, unit in self._units.items()
            if unit["LoadState"] != "not-found"
        )

    # -- Before a change -------------------------------------------------------------------------------------------

    def validate(self, change: Change, context: Context) -> Iterator[Problem]:
        wanted = change.after
        if not isinstance(wanted, System):
            return
        changed = {re.split(r"[.\[]", field)[0] for field in change.fields}
        checks: Dict[str, Callable[[System, Path], Iterator[Problem]]] = {
            "dns_servers": _problems_of_dns,
            "dns_search": _problems_of_dns,
            "ntp_servers": _problems_of_ntp,
            "timezone": _problems_of_timezone,
            "syslog_servers": _problems_of_syslog,
        }
        for field, check in checks.items():
            if field in changed:
                yield from check(wanted, wanted.place.field(field))
        before = change.before.services if isinstance(change.before, System) else ()
        known = {service.name: service for service in before or ()}
        for service in wanted.services or ():
            if service != known.get(service.name):
                yield from self._problems_of_service(service, wanted.place.field("services").item(service.label))

    def _problems_of_service(self, service: Service, place: Path) -> Iterator[Problem]:
        name = str(service.name)
        unit = self._units.get(name, {"LoadState": "not-found"})
        if not UNIT_NAME.fullmatch(name) or unit["LoadState"] == "not-found":
            yield Problem(place.text, f"the host has no unit {show(unit_of(name))}")
            return
        if service.start_at_boot is not None and _starts_at_boot(unit) is None:
            state = unit.get("UnitFileState") or "without a file of its own"
            yield Problem(place.field("start_at_boot").text, f"the unit is {state}, so it starts with what needs it")
        if unit["LoadState"] == "masked" and (service.running or service.start_at_boot):
            yield Problem(place.text, "the unit is masked; systemctl unmask lets it start")
        for field in ("running", "start_at_boot"):
            if getattr(service, field) is False and unit_of(name) in MANAGING:
                yield Problem(place.field(field).text, "must stay true, since the host is managed through it")

    # -- Changing --------------------------------------------------------------------------------------------------

    def apply(self, changes: Sequence[Change], context: Context) -> None:
        for change in changes:
            context.begin(change)
            wanted = change.after
            if isinstance(wanted, System):
                self._make(wanted, {re.split(r"[.\[]", field)[0] for field in change.fields}, change.before)
            context.done(change)

    def _make(self, wanted: System, changed: Collection[str], before: Any) -> None:
        if {"hostname", "domain"} & set(changed):
            _write_names(wanted)
        if {"dns_servers", "dns_search"} & set(changed):
            _write_dns(wanted.dns_servers or (), wanted.dns_search or ())
        if "ntp_servers" in changed:
            _write_ntp(wanted.ntp_servers or ())
        if "timezone" in changed:
            _write_timezone(str(wanted.timezone))
        if "syslog_servers" in changed:
            _write_syslog(wanted.syslog_servers or ())
        restarts.carry_out()
        if "services" in changed:
            known = {service.name: service for service in getattr(before, "services", None) or ()}
            _switch_services(
                [service for service in wanted.services or () if service != known.get(service.name)], known
            )

    def finish(self, changes: Sequence[Change], context: Context) -> None:
        names = {str(item.name) for change in changes for item in getattr(change.after, "services", None) or ()}
        known = _recorded()
        if not names <= set(known):
            programs.write_record(RECORD_FILE, {"services": sorted({*known, *names})})

    def recover(self) -> None:
        """Restart what a killed run has written new files for. Raises ApplyError."""
        restarts.carry_out()


def unit_of(name: str) -> str:
    """Return the unit of systemd that a service's name means."""
    return name if name.endswith(UNIT_ENDINGS) else f"{name}.service"


def _starts_at_boot(unit: Mapping[str, str]) -> Optional[bool]:
    state = unit.get("UnitFileState", "")
    return True if state in ENABLED else False if state in NOT_ENABLED or unit["LoadState"] == "masked" else None


def _recorded() -> List[str]:
    names = programs.read_record(RECORD_FILE).get("services", ())
    return [name for name in names if isinstance(name, str)]


def _told(field: str, value: Any) -> Any:
    """Return a value in the form of the model, or None where the model has no words for it."""
    problems: List[Problem] = []
    read = None if value is None else System.options()[field].type.read(value, Path(field), problems)
    return None if problems else read


def _etc(*parts: str) -> str:
    return os.path.join(ETC, *parts)


# -- Names -------------------------------------------------------------------------------------------------------


def _name_in_file() -> str:
    lines = [line.strip() for line in (programs.read_text(_etc("hostname")) or "").split("\n")]
    return next((line.lower() for line in lines if line and not line.startswith("#")), "")


def _hostname() -> Optional[str]:
    # A name that the kernel does not have yet, or has otherwise, is not the host's name.
    name = _name_in_file()
    return name.partition(".")[0] if name and socket.gethostname().lower() == name else None


def _domain() -> Optional[str]:
    short, _dot, domain = _name_in_file().partition(".")
    return domain or text_of.domain_in_hosts(programs.read_text(_etc("hosts")) or "", short)


def _write_names(wanted: System) -> None:
    in_file, in_kernel = (name.partition(".")[0] for name in (_name_in_file(), socket.gethostname().lower()))
    hostname = str(wanted.hostname or in_file)
    former = [name for name in dict.fromkeys((in_file, in_kernel)) if name and name != hostname]
    path = _etc("hosts")
    text = programs.read_text(path) or ""
    # The old names go last, and the kernel's after all: whenever this dies, the host resolves itself, and a name that the
    # kernel does not have yet shows that something is left to do.
    both = text_of.put_in_hosts(text, hostname, wanted.domain or None, former, keep_former=True)
    _write_where_other(path, both)
    _write_where_other(_etc("hostname"), f"{hostname}\n")
    _write_where_other(path, text_of.put_in_hosts(both, hostname, wanted.domain or None, former))
    if socket.gethostname() != hostname:
        try:
            socket.sethostname(hostname)
        except OSError as error:
            raise ApplyError(f"the host's name cannot be set to {show(hostname)}: {error.strerror}") from error


def _write_where_other(path: str, text: str) -> bool:
    if programs.read_text(path) == text:
        return False
    programs.write_text(path, text)
    return True


# -- DNS -----------------------------------------------------------------------------------------------------------


def _asks_resolved() -> Optional[bool]:
    """Return whether systemd-resolved answers the host's questions; None where another program writes resolv.conf."""
    path = _etc("resolv.conf")
    target = os.path.realpath(path)
    if os.path.dirname(target) == RESOLVED_FOLDER:
        return True
    return None if os.path.islink(path) else False


def _settings(name: str, section: str, without_ours: bool = False) -> Dict[str, List[str]]:
    """Return the settings of a program of systemd, of its file and the drop-ins."""
    folders = [_etc("systemd", f"{name}.d"), f"/run/systemd/{name}.d", f"{LIBRARIES}/{name}.d"]
    paths = [_etc("systemd", name), *drop_in_files(folders)]
    if without_ours:
        paths = [path for path in paths if path != _drop_in(name)]
    return text_of.parse_settings([programs.read_text(path) or "" for path in paths], section)


def _drop_in(name: str) -> str:
    return _etc("systemd", f"{name}.d", DROP_IN)


def _write_settings(name: str, section: str, wanted: Mapping[str, Sequence[str]], unit: str) -> None:
    others = _settings(name, section, without_ours=True)
    restarts.announce([unit])
    if all(others.get(key, []) == list(words) for key, words in wanted.items()):
        programs.remove(_drop_in(name))
    else:
        programs.write_text(_drop_in(name), text_of.settings_drop_in(section, wanted))


ALL_NAMES = "~."
"""The domain of every name: with it, other links' servers are asked no more (resolved.conf(5))."""


def _read_dns() -> Tuple[Optional[Tuple[str, ...]], Optional[Tuple[str, ...]]]:
    uses = _asks_resolved()
    if uses is None:
        return None, None
    if not uses:
        return text_of.parse_resolv_conf(programs.read_text(_etc("resolv.conf")) or "")
    settings = _settings("resolved.conf", "Resolve")
    domains = settings.get("Domains", [])
    servers = settings.get("DNS", [])
    whole = not servers or ALL_NAMES in domains
    return tuple(servers) if whole else None, tuple(domain for domain in domains if domain != ALL_NAMES)


def _problems_of_dns(wanted: System, place: Path) -> Iterator[Problem]:
    uses = _asks_resolved()
    if uses is None:
        target = os.path.realpath(_etc("resolv.conf"))
        yield Problem(place.text, f"/etc/resolv.conf leads to {target}, which another program writes")
    elif not uses and len(wanted.dns_servers or ()) > text_of.MAXIMUM_SERVERS:
        yield Problem(
            System().place.field("dns_servers").text,
            f"{len(wanted.dns_servers or ())} servers are not allowed; allowed are at most {text_of.MAXIMUM_SERVERS} in "
            "/etc/resolv.conf",
        )


def _write_dns(servers: Sequence[str], search: Sequence[str]) -> None:
    if not _asks_resolved():
        path = _etc("resolv.conf")
        programs.write_text(path, text_of.put_resolv_conf(programs.read_text(path) or "", servers, search))
        return
    domains = [*search, ALL_NAMES] if servers else list(search)
    _write_settings("resolved.conf", "Resolve", {"DNS": servers, "Domains": domains}, "systemd-resolved.service")


# -- Time ----------------------------------------------------------------------------------------------------------


def _chrony_file() -> Optional[str]:
    """Return the path of chrony's file where the host has chrony."""
    if not os.path.exists(f"{PROGRAMS}/chronyd"):
        return None
    paths = (_etc("chrony", "chrony.conf"), _etc("chrony.conf"))
    return next((path for path in paths if os.path.exists(path)), paths[0])


def _chrony_unit() -> str:
    return "chrony.service" if os.path.exists(f"{LIBRARIES}/system/chrony.service") else "chronyd.service"


def _other_chrony_files() -> List[str]:
    return [
        path
        for folder, ending in (("conf.d", ".conf"), ("sources.d", ".sources"))
        for path in drop_in_files([_etc("chrony", folder)], ending)
        if text_of.parse_chrony(programs.read_text(path) or "")
    ]


def _has_timesyncd() -> bool:
    return os.path.exists(f"{LIBRARIES}/systemd-timesyncd")


def _read_ntp() -> Optional[Tuple[str, ...]]:
    path = _chrony_file()
    if path is not None:
        texts = [programs.read_text(each) or "" for each in (path, *_other_chrony_files())]
        return tuple(server for text in texts for server in text_of.parse_chrony(text))
    return tuple(_settings("timesyncd.conf", "Time").get("NTP", ())) if _has_timesyncd() else None


def _problems_of_ntp(wanted: System, place: Path) -> Iterator[Problem]:
    if _chrony_file() is not None:
        for path in _other_chrony_files():
            yield Problem(place.text, f"{path} names time servers too, which is left alone; remove them there")
    elif not _has_timesyncd():
        yield Problem(place.text, "the host has neither systemd-timesyncd nor chrony")


def _write_ntp(servers: Sequence[str]) -> None:
    path = _chrony_file()
    if path is not None:
        restarts.announce([_chrony_unit()])
        programs.write_text(path, text_of.put_chrony(programs.read_text(path) or "", servers))
        return
    wanted: Dict[str, Sequence[str]] = {"NTP": servers}
    if servers:
        # Those that the distribution has built in are asked only where there are no others.
        wanted["FallbackNTP"] = ()
    _write_settings("timesyncd.conf", "Time", wanted, "systemd-timesyncd.service")


def _read_timezone() -> Optional[str]:
    path = _etc("localtime")
    if not os.path.lexists(path):
        return "UTC"
    if not os.path.islink(path):
        return None
    target = os.readlink(path)
    name = target.rpartition("zoneinfo/")[2] if "zoneinfo/" in target else None
    beside = programs.read_text(_etc("timezone"))
    return name if beside is None or beside.strip() == name else None


def _problems_of_timezone(wanted: System, place: Path) -> Iterator[Problem]:
    if not os.path.isfile(os.path.join(ZONES, str(wanted.timezone))):
        yield Problem(place.text, f"the host knows no time zone {show(wanted.timezone)} (package tzdata)")


def _write_timezone(name: str) -> None:
    if os.path.exists(_etc("timezone")):
        programs.write_text(_etc("timezone"), f"{name}\n")
    path = _etc("localtime")
    temporary = new_name(path)
    try:
        if os.path.lexists(temporary):
            os.unlink(temporary)
        os.symlink(os.path.join(ZONES, name), temporary)
        os.replace(temporary, path)
        sync_directory(ETC)
    except OSError as error:
        raise ApplyError(f"{path} could not be made a link: {error.strerror or error}") from error


# -- Log -----------------------------------------------------------------------------------------------------------


def _read_syslog() -> List[Dict[str, Any]]:
    text = programs.read_text(_etc("rsyslog.d", DROP_IN)) or ""
    targets = text_of.parse_syslog(text)
    if text and text_of.syslog_drop_in(targets) != text:
        targets = ()
    return [target._asdict() for target in targets]


def _problems_of_syslog(wanted: System, place: Path) -> Iterator[Problem]:
    if wanted.syslog_servers and not os.path.exists(f"{PROGRAMS}/rsyslogd"):
        yield Problem(place.text, "the host has no rsyslog to send its log with; the role kvm_host installs it")
    for server in wanted.syslog_servers or ():
        if server.protocol == "tls":
            yield Problem(
                place.item(server.label).field("protocol").text,
                "'tls' is not allowed, since rsyslog would need certificates that no option names; allowed are tcp and udp",
            )


def _write_syslog(servers: Sequence[SyslogServer]) -> None:
    restarts.announce(["rsyslog.service"])
    path = _etc("rsyslog.d", DROP_IN)
    if servers:
        targets = [LogTarget(str(each.host), int(each.port or 514), str(each.protocol or "udp")) for each in servers]
        programs.write_text(path, text_of.syslog_drop_in(targets))
    else:
        programs.remove(path)


# -- Services ------------------------------------------------------------------------------------------------------


def _switch_services(services: Sequence[Service], known: Mapping[Any, Service]) -> None:
    wishes: Dict[str, List[str]] = {"enable": [], "disable": [], "start": [], "stop": []}
    for service in services:
        present = known.get(service.name, Service())
        unit = unit_of(str(service.name))
        if service.start_at_boot is not None and service.start_at_boot != present.start_at_boot:
            wishes["enable" if service.start_at_boot else "disable"].append(unit)
        if service.running is not None and service.running != present.running:
            wishes["start" if service.running else "stop"].append(unit)
    for verb, units in wishes.items():
        if units:
            programs.run(
                ["systemctl", verb, "--", *units], what=f"systemctl cannot {verb} {', '.join(units)}", timeout=300
            )
