# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files that say what a Linux host is called, whom it asks for names and time, and where its log goes: as text.

Nothing here touches a file. What else stands in one stays as it is.
"""

from __future__ import annotations

import re
from typing import Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

OWN_FILE_HEADER = "# Written by Bareforge. Changes made here are lost.\n"

# -- hosts(5) ------------------------------------------------------------------------------------------------------

DEBIAN_ADDRESS = "127.0.1.1"
"""The address that stands for the host's own name where it has no lasting one (Debian reference, 5.1.1)."""


class HostsLine(NamedTuple):
    """A line that names something: its number, address, names and comment."""

    number: int
    address: str
    names: Tuple[str, ...]
    comment: str


def hosts_lines(text: str) -> List[HostsLine]:
    """Return the lines of /etc/hosts that name something."""
    found = []
    for number, line in enumerate(text.split("\n")):
        content, sign, comment = line.partition("#")
        words = content.split()
        if len(words) > 1:
            found.append(HostsLine(number, words[0], tuple(words[1:]), f"{sign}{comment}"))
    return found


def _own_line(text: str, hostname: str) -> Optional[HostsLine]:
    """Return the line about the host's own name; the first one counts, as for whoever looks it up."""
    for line in hosts_lines(text):
        if any(name.lower().partition(".")[0] == hostname for name in line.names):
            return line
    return None


def domain_in_hosts(text: str, hostname: str) -> Optional[str]:
    """Return the domain that the host's name has in /etc/hosts, or None where it has none."""
    line = _own_line(text, hostname)
    for name in line.names if line is not None else ():
        short, _dot, domain = name.lower().partition(".")
        if short == hostname and domain:
            return domain
    return None


def names_in_hosts(text: str, hostname: str) -> bool:
    """Return whether /etc/hosts knows the host by its short name."""
    line = _own_line(text, hostname)
    return line is not None and hostname in (name.lower() for name in line.names)


def put_in_hosts(
    text: str, hostname: str, domain: Optional[str], former: Sequence[str] = (), keep_former: bool = False
) -> str:
    """Return the text of /etc/hosts in which the host has a name, in the line in which it had one.

    former: short names that the host was known by. keep_former: whether it is known by them still.
    """
    wanted = [f"{hostname}.{domain}", hostname] if domain else [hostname]
    lines = text.split("\n")
    for short in (hostname, *former):
        line = _own_line(text, short)
        if line is None:
            continue
        gone = {hostname} if keep_former else {hostname, *former}
        others = [name for name in line.names if name.lower().partition(".")[0] not in gone]
        if "localhost" in others:
            # It may be the name of the loopback address too, but not first: that one is what the address is called.
            lines[line.number] = "\t".join([line.address, " ".join(others)]) + _gap(line.comment)
            lines.insert(line.number + 1, f"{DEBIAN_ADDRESS}\t{' '.join(wanted)}")
        else:
            lines[line.number] = f"{line.address}\t{' '.join([*wanted, *others])}{_gap(line.comment)}"
        return "\n".join(lines)
    loopback = [line.number for line in hosts_lines(text) if line.address.startswith("127.")]
    lines.insert(loopback[-1] + 1 if loopback else 0, f"{DEBIAN_ADDRESS}\t{' '.join(wanted)}")
    return "\n".join(lines)


def _gap(comment: str) -> str:
    return f" {comment}" if comment else ""


# -- resolv.conf(5) ------------------------------------------------------------------------------------------------

MAXIMUM_SERVERS = 3
"""MAXNS of the C library: it never asks more."""


def parse_resolv_conf(text: str) -> Tuple[Tuple[str, ...], Tuple[str, ...]]:
    """Return (name servers, search domains); the last of `domain` and `search` counts."""
    servers: List[str] = []
    search: Tuple[str, ...] = ()
    for line in text.split("\n"):
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver":
            servers.append(words[1])
        elif len(words) > 1 and words[0] in ("search", "domain"):
            search = tuple(words[1:])
    return tuple(servers), search


def put_resolv_conf(text: str, servers: Sequence[str], search: Sequence[str]) -> str:
    """Return the text with these name servers and search domains in the place of all others."""
    kept = [line for line in text.split("\n") if (line.split() or [""])[0] not in ("nameserver", "search", "domain")]
    own = [f"nameserver {server}" for server in servers]
    if search:
        own.append(f"search {' '.join(search)}")
    return "\n".join([*own, *kept]) if own else "\n".join(kept)


# -- files of systemd (systemd.syntax(7)) --------------------------------------------------------------------------


def parse_settings(texts: Sequence[str], section: str) -> Dict[str, List[str]]:
    """Return the values of every setting of a section, over a file and its drop-ins in the order in which they count.

    An empty value forgets all before it, as settings have it that hold lists. A line may go on after a backslash.
    """
    found: Dict[str, List[str]] = {}
    for text in texts:
        current = ""
        for line in re.sub(r"\\\n", " ", text).split("\n"):
            stripped = line.strip()
            if stripped.startswith("[") and stripped.endswith("]"):
                current = stripped[1:-1]
            elif stripped and stripped[0] not in "#;" and "=" in stripped and current == section:
                name, _equals, value = stripped.partition("=")
                words = value.split()
                found[name.strip()] = [*found.get(name.strip(), []), *words] if words else []
    return found


def settings_drop_in(section: str, settings: Mapping[str, Sequence[str]]) -> str:
    """Return the text of a drop-in that sets lists anew, whatever stood before it."""
    lines = [f"[{section}]\n"]
    for name, words in settings.items():
        lines.append(f"{name}=\n")
        if words:
            lines.append(f"{name}={' '.join(words)}\n")
    return OWN_FILE_HEADER + "".join(lines)


# -- chrony.conf(5) ------------------------------------------------------------------------------------------------

_CHRONY_SOURCE = re.compile(r"(?mi)^[ \t]*(?:server|pool|peer)[ \t]+(\S+)[^\n]*$")


def parse_chrony(text: str) -> Tuple[str, ...]:
    """Return the time servers that a file of chrony names, in their order."""
    return tuple(_CHRONY_SOURCE.findall(text))


def put_chrony(text: str, servers: Sequence[str]) -> str:
    """Return the text with these time servers in the place of the first one, and none of the others."""
    own = "".join(f"server {server} iburst\n" for server in servers)
    first = _CHRONY_SOURCE.search(text)
    rest = re.sub(_CHRONY_SOURCE.pattern + r"\n?", "", text)
    if first is None:
        return f"{text}{'' if text.endswith(chr(10)) or not text else chr(10)}{own}"
    before = re.sub(_CHRONY_SOURCE.pattern + r"\n?", "", text[: first.start()])
    return rest[: len(before)] + own + rest[len(before) :]


# -- rsyslog.conf(5) -----------------------------------------------------------------------------------------------

_FORWARD = re.compile(
    r'(?m)^\*\.\* action\(type="omfwd" target="([^"\s]+)" port="([0-9]{1,5})" protocol="(udp|tcp)"[^\n]*\)$'
)


class LogTarget(NamedTuple):
    """Where the log is sent: host, port, and udp or tcp."""

    host: str
    port: int
    protocol: str


def syslog_drop_in(targets: Sequence[LogTarget]) -> str:
    """Return the text of a drop-in that sends everything to servers.

    Each has a queue of its own, so that a server that does not answer stops neither the local log nor another one.
    """
    lines = []
    for host, port, protocol in targets:
        queue = 'queue.type="LinkedList" queue.size="10000" action.resumeRetryCount="-1"'
        lines.append(f'*.* action(type="omfwd" target="{host}" port="{port}" protocol="{protocol}" {queue})\n')
    return OWN_FILE_HEADER + "".join(lines)


def parse_syslog(text: str) -> Tuple[LogTarget, ...]:
    """Return the servers that a drop-in of ours names."""
    return tuple(LogTarget(host, int(port), protocol) for host, port, protocol in _FORWARD.findall(text))
