# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Configuration files of a Linux host as text: reading settings from them and writing settings into them.

Nothing here touches a file. Writing leaves every other line as it is.
"""

from __future__ import annotations

import re
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ...hardening.expectation import ABSENT, Found, as_number

OWN_FILE_HEADER = "# Written by Bareforge hardening. Changes made here are lost; change the profile instead.\n"


class Assignment(NamedTuple):
    """A key and what it is set to in a file; ABSENT where it shall not be there."""

    key: str
    value: Any


class ConfigFormat:
    """How settings stand in one sort of configuration file."""

    def get(self, text: str, key: str) -> Found:
        """Return what a key is set to, or None where it is not."""
        raise NotImplementedError

    def put(self, text: str, key: str, value: Any) -> str:
        """Return the text with the key set to a value, or without it where the value is ABSENT."""
        raise NotImplementedError

    def problem(self, value: Found) -> Optional[str]:
        """Return why a value cannot stand in such a file, or None where it can."""
        return None


def _replace_or_append(text: str, pattern: re.Pattern[str], line: Optional[str]) -> str:
    """Replace every match by a line, or comment it out where the line is None; append the line where nothing matches."""
    if pattern.search(text):
        if line is None:
            return pattern.sub(lambda match: re.sub(r"(?m)^", "#", match.group(0)), text)
        return pattern.sub(lambda match: line, text)
    if line is None:
        return text
    separator = "" if not text or text.endswith("\n") else "\n"
    return f"{text}{separator}{line}\n"


class LibvirtFormat(ConfigFormat):
    """The files of libvirt's daemons: ``key = "text"``, ``key = 1``, ``key = ["a", "b"]`` (libvirt, src/util/virconf.c).

    The first of several assignments counts there; all are set to the same value.
    """

    VALUE = r"""(?:"[^"\n]*"|'[^'\n]*'|-?[0-9]+|\[[^\]]*\])"""

    def _pattern(self, key: str) -> re.Pattern[str]:
        return re.compile(rf"(?m)^[ \t]*{re.escape(key)}[ \t]*=[ \t]*(?P<value>{self.VALUE})[ \t]*(?:#[^\n]*)?$")

    def get(self, text: str, key: str) -> Found:
        """Return what a key is set to, or None where it is not."""
        match = self._pattern(key).search(text)
        if match is None:
            return None
        value = match.group("value")
        if value.startswith("["):
            elements = re.findall(r"""#[^\n]*|"[^"\n]*"|'[^'\n]*'""", value)
            return tuple(element[1:-1] for element in elements if not element.startswith("#"))
        return value[1:-1] if value[0] in "\"'" else value

    def put(self, text: str, key: str, value: Any) -> str:
        """Return the text with the key set to a value, or without it where the value is ABSENT."""
        line = None if value is ABSENT else f"{key} = {self._written(value)}"
        return _replace_or_append(text, self._pattern(key), line)

    def _written(self, value: Any) -> str:
        if isinstance(value, (tuple, list)):
            return "[ {} ]".format(", ".join(f'"{element}"' for element in value))
        return str(value) if as_number(value) is not None else f'"{value}"'

    def problem(self, value: Found) -> Optional[str]:
        """Return why a value cannot stand in such a file: there is no way to escape quotes in it."""
        elements = value if isinstance(value, tuple) else (value,)
        return "quotes cannot stand in libvirt's files" if any('"' in str(element) for element in elements) else None


class KeyValueFormat(ConfigFormat):
    """Files of lines with a key and a value, such as login.defs (blank between) or auditd.conf (equals sign)."""

    def __init__(self, separator: str) -> None:
        self.separator = separator
        self._between = r"[ \t]*=[ \t]*" if separator.strip() else r"[ \t]+"

    def _pattern(self, key: str) -> re.Pattern[str]:
        return re.compile(rf"(?m)^[ \t]*{re.escape(key)}{self._between}(?P<value>[^\n]*?)[ \t]*$")

    def get(self, text: str, key: str) -> Found:
        """Return what a key is set to, or None where it is not; the last of several lines counts."""
        matches = [match.group("value") for match in self._pattern(key).finditer(text)]
        return matches[-1] if matches else None

    def put(self, text: str, key: str, value: Any) -> str:
        """Return the text with the key set to a value, or without it where the value is ABSENT."""
        line = None if value is ABSENT else f"{key}{self.separator}{value}"
        return _replace_or_append(text, self._pattern(key), line)


CONFIG_FORMATS: Dict[str, ConfigFormat] = {
    "libvirt": LibvirtFormat(),
    "key_space_value": KeyValueFormat(" "),
    "key_equals_value": KeyValueFormat(" = "),
}


def sysctl_path(key: str) -> str:
    """Return the path of a kernel parameter below /proc/sys.

    key: with dots, or with slashes where a name has dots in it, as in ``net/ipv4/conf/eth0.10/rp_filter`` (sysctl.d(5)).
    """
    first = re.search(r"[./]", key)
    if first is not None and first.group(0) == "/":
        return key
    return key.translate(str.maketrans("./", "/."))


def sysctl_name(path: str) -> str:
    """Return the name of a kernel parameter from its path below /proc/sys; a name that has dots in it keeps its slashes."""
    return path if "." in path else path.replace("/", ".")


def parse_sysctl_file(text: str) -> List[Tuple[str, str]]:
    """Return (path below /proc/sys, value) of the assignments of a file of sysctl.d(5), in their order."""
    result = []
    for line in text.split("\n"):
        stripped = line.strip()
        if not stripped or stripped[0] in "#;" or "=" not in stripped:
            continue
        key, _equals, value = stripped.partition("=")
        result.append((sysctl_path(key.strip().lstrip("-").strip()), value.strip()))
    return result


def sysctl_drop_in(assignments: Sequence[Assignment]) -> str:
    """Return the text of a file of sysctl.d(5)."""
    lines = [f"{assignment.key} = {assignment.value}\n" for assignment in assignments]
    return OWN_FILE_HEADER + "".join(lines)


def parse_sshd_output(text: str) -> Dict[str, Tuple[str, ...]]:
    """Return the effective settings that `sshd -T` prints: the values by key in small letters."""
    result: Dict[str, List[str]] = {}
    for line in text.split("\n"):
        key, _blank, value = line.strip().partition(" ")
        if key:
            result.setdefault(key.lower(), []).append(value)
    return {key: tuple(values) for key, values in result.items()}


def sshd_drop_in(assignments: Sequence[Assignment]) -> str:
    """Return the text of a file that sshd_config(5) includes."""
    lines = []
    for assignment in assignments:
        value = assignment.value
        lines.append(f"{assignment.key} {','.join(value) if isinstance(value, (tuple, list)) else value}\n")
    return OWN_FILE_HEADER + "".join(lines)


BLOCKING_COMMANDS = ("/bin/false", "/usr/bin/false", "/bin/true", "/usr/bin/true")


def module_name(name: str) -> str:
    """Return the name of a kernel module in the form of /proc/modules."""
    return name.replace("-", "_")


def parse_modprobe_file(text: str) -> Dict[str, str]:
    """Return by module the command that a file of modprobe.d(5) gives for loading it."""
    result = {}
    for line in text.replace("\\\n", " ").split("\n"):
        words = line.split(None, 2)
        if len(words) == 3 and words[0] == "install":
            result[module_name(words[1])] = words[2].strip()
    return result


def modprobe_drop_in(assignments: Sequence[Assignment]) -> str:
    """Return the text of a file of modprobe.d(5) that keeps modules from being loaded, by name or by alias."""
    lines = [f"blacklist {entry.key}\ninstall {entry.key} /bin/false\n" for entry in assignments]
    return OWN_FILE_HEADER + "".join(lines)


def parse_blocks(text: str) -> List[Dict[str, str]]:
    """Return the blocks of `KEY=value` lines, parted by empty lines, that `systemctl show` prints."""
    blocks = []
    for block in re.split(r"\n\n+", text.strip("\n")):
        entries = (line.partition("=") for line in block.split("\n") if "=" in line)
        blocks.append({key: value for key, _equals, value in entries})
    return blocks


def parse_os_release(text: str) -> Mapping[str, str]:
    """Return the entries of os-release(5)."""
    entries = (line.partition("=") for line in text.split("\n") if "=" in line and not line.startswith("#"))
    return {key: value.strip().strip("\"'") for key, _equals, value in entries}
