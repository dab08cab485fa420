# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The types of single values: how they are read from a document, with which limits, and in which form they are kept.

A type's ``parse`` turns what a user or a platform wrote into one canonical plain value (str, int, bool, list, dict),
so that equal things compare equal, or raises ``ValueError`` with what is allowed. The caller adds the path.
"""

from __future__ import annotations

import datetime
import ipaddress
import re
import reprlib
import unicodedata
from typing import Any, List, Optional, Sequence, Set, Tuple

# Format characters that scripts and emoji need (ZWNJ, ZWJ). All others are invisible, among them the directional ones of
# UAX #9, which make a name read as something that it is not.
JOINERS = frozenset("\u200c\u200d")


def is_allowed_in_text(character: str) -> bool:
    """Return whether a character is visible, or a blank, and can be carried by XML 1.0 and UTF-8."""
    category = unicodedata.category(character)
    if category == "Cf":
        return character in JOINERS
    # U+FFFE, U+FFFF and the like are no characters, and XML cannot hold them.
    point = ord(character)
    return category not in ("Cc", "Cs", "Zl", "Zp") and point & 0xFFFE != 0xFFFE and not 0xFDD0 <= point <= 0xFDEF


class _Shortened(reprlib.Repr):
    """Quotes the beginning of a value only, so that neither its size nor its depth can hurt."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 4
        self.maxother = 80
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = self.maxfrozenset = 20

    def repr_str(self, x: str, level: int) -> str:
        return ascii(str(x[:100]))

    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to write numbers of thousands of digits (CVE-2020-10735).
        return repr(x) if abs(x) < 10**80 else "a number of more than 80 digits"


_SHORTENED = _Shortened()


def show(value: Any) -> str:
    """Return the value as it is quoted in an error message, shortened and with nothing invisible in it."""
    # Also subclasses of str (Ansible marks where a text comes from) are quoted as text.
    quoted = ascii(str(value[:100])) if isinstance(value, str) else _SHORTENED.repr(value)
    text = quoted.encode("ascii", "backslashreplace").decode("ascii")
    return text if len(text) <= 80 else f"{text[:77]}..."


def range_bounds(text: str) -> Tuple[int, int]:
    """Return the first and last number of a port or VLAN range in its canonical form, such as ``100-199`` or ``22``."""
    first, _dash, last = text.partition("-")
    return int(first), int(last or first)


def _digits(value: Any) -> str:
    # A number with thousands of digits cannot be written out by Python, and none of ours has more than 12.
    return str(value) if isinstance(value, str) or abs(value) < 10**18 else ""


class ValueType:
    """Base of the types of single values.

    ansible_type: the type of the argument spec entry; ``raw`` where Ansible's own conversion would lose something.
    allowed: what is allowed, as it is put into error messages and documentation.
    """

    ansible_type = "str"
    allowed = ""
    choices: Optional[Sequence[str]] = None

    def parse(self, value: Any) -> Any:
        """Return the canonical value, or raise ValueError with what is allowed."""
        raise NotImplementedError

    def refuse(self, value: Any) -> ValueError:
        """Return the error for a value that is not allowed."""
        return ValueError(f"{show(value)} is not allowed; allowed is {self.allowed}")


class Text(ValueType):
    """Text in which nothing invisible can hide.

    multiline: whether line breaks and tabs are allowed.
    maximum: the longest text in characters.
    """

    def __init__(self, multiline: bool = False, maximum: int = 4096, minimum: int = 0) -> None:
        self.multiline = multiline
        self.maximum = maximum
        self.minimum = minimum
        self.allowed = f"text of {minimum} to {maximum} characters without control or invisible characters"

    def parse(self, value: Any) -> str:
        if not isinstance(value, str):
            raise self.refuse(value)
        text = str(value)
        if not self.minimum <= len(text) <= self.maximum:
            raise self.refuse(value)
        for character in text:
            if self.multiline and character in "\n\t\r":
                continue
            if not is_allowed_in_text(character):
                raise self.refuse(value)
        return text


class Name(Text):
    """The name of an object: 1 to 255 characters, no blanks at its ends, not ``.`` or ``..``."""

    def __init__(self, maximum: int = 255) -> None:
        super().__init__(maximum=maximum, minimum=1)
        self.allowed = (
            f"a name of 1 to {maximum} characters without control or invisible characters or blanks at its ends"
        )

    def parse(self, value: Any) -> str:
        text = super().parse(value)
        if text != text.strip() or text in (".", ".."):
            raise self.refuse(value)
        return text


class Pattern(ValueType):
    """Text that matches a regular expression as a whole.

    pattern: the expression; allowed: what it means, in words.
    """

    def __init__(self, pattern: str, allowed: str, lower: bool = False) -> None:
        self.pattern = re.compile(pattern)
        self.allowed = allowed
        self.lower = lower

    def parse(self, value: Any) -> str:
        if not isinstance(value, str):
            raise self.refuse(value)
        text = str(value).lower() if self.lower else str(value)
        if not self.pattern.fullmatch(text):
            raise self.refuse(value)
        return text


class Boolean(ValueType):
    """True or false; the words that Ansible takes for them are understood."""

    ansible_type = "bool"
    allowed = "true or false"

    def parse(self, value: Any) -> bool:
        if isinstance(value, bool):
            return bool(value)
        if isinstance(value, str) and value.lower() in ("true", "yes", "on"):
            return True
        if isinstance(value, str) and value.lower() in ("false", "no", "off"):
            return False
        raise self.refuse(value)


class Integer(ValueType):
    """A whole number between two limits, both allowed.

    unit: what is counted, for messages and documentation, such as ``vCPU``.
    """

    ansible_type = "int"

    def __init__(self, minimum: int, maximum: int, unit: str = "") -> None:
        self.minimum = minimum
        self.maximum = maximum
        self.unit = unit
        self.allowed = f"a whole number from {minimum} to {maximum}{f' ({unit})' if unit else ''}"

    def parse(self, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, (int, str)):
            raise self.refuse(value)
        if isinstance(value, str) and not re.fullmatch(r"-?[0-9]{1,18}", value):
            raise self.refuse(value)
        number = int(value)
        if not self.minimum <= number <= self.maximum:
            raise self.refuse(value)
        return number


class Choice(ValueType):
    """One of a few words."""

    def __init__(self, *choices: str) -> None:
        self.choices = choices
        self.allowed = " or ".join((", ".join(choices[:-1]), choices[-1])) if len(choices) > 1 else choices[0]

    def parse(self, value: Any) -> str:
        choices = self.choices or ()
        text = value
        if isinstance(value, bool):
            # YAML 1.1 reads off and on as false and true.
            words = ("on", "yes", "true") if value else ("off", "no", "false")
            text = next((word for word in words if word in choices), value)
        elif isinstance(value, (int, float)) and abs(value) < 1000:
            # YAML reads a version such as 4.1 as a number.
            text = str(value)
        if not isinstance(text, str) or str(text) not in choices:
            raise self.refuse(value)
        return str(text)


class Size(ValueType):
    """An amount of memory or storage, kept in MiB.

    A number is MiB; text carries a unit: ``512 MiB``, ``2GiB``, ``1 TiB``. Decimal units are refused where they
    are no whole number of MiB, since rounding would make the second run differ from the first.
    """

    UNITS = {"MiB": 1, "GiB": 1024, "TiB": 1024 * 1024}

    def __init__(self, minimum: int = 1, maximum: int = 64 * 1024 * 1024) -> None:
        self.minimum = minimum
        self.maximum = maximum
        self.allowed = (
            f"a whole number of MiB from {minimum} to {maximum}, or text such as '512 MiB', '2 GiB' or '1 TiB'"
        )

    def parse(self, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, (int, str)):
            raise self.refuse(value)
        match = re.fullmatch(r"([0-9]{1,12}) ?(MiB|GiB|TiB)?", _digits(value))
        if not match:
            raise self.refuse(value)
        size = int(match.group(1)) * self.UNITS[match.group(2) or "MiB"]
        if not self.minimum <= size <= self.maximum:
            raise self.refuse(value)
        return size


class MacAddress(ValueType):
    """A unicast Ethernet address, kept in lower case with colons (IEEE 802)."""

    allowed = "a unicast MAC address such as 52:54:00:12:34:56"

    def parse(self, value: Any) -> str:
        if not isinstance(value, str):
            raise self.refuse(value)
        digits = value.lower().replace("-", ":")
        if not re.fullmatch(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", digits):
            raise self.refuse(value)
        if int(digits[:2], 16) & 1 or digits == "00:00:00:00:00:00":
            raise self.refuse(value)
        return str(digits)


class IpAddress(ValueType):
    """An IPv4 or IPv6 address in its shortest form (RFC 5952).

    version: 4, 6 or None for either.
    """

    def __init__(self, version: Optional[int] = None) -> None:
        self.version = version
        self.allowed = {4: "an IPv4 address", 6: "an IPv6 address", None: "an IPv4 or IPv6 address"}[version]

    def parse(self, value: Any) -> str:
        if not isinstance(value, str) or "%" in value:
            raise self.refuse(value)
        try:
            address = ipaddress.ip_address(str(value))
        except ValueError:
            raise self.refuse(value) from None
        if self.version and address.version != self.version:
            raise self.refuse(value)
        return str(address)


class InterfaceAddress(ValueType):
    """An address with the length of its prefix, such as 192.0.2.10/24 (RFC 4632).

    The network's own address and IPv4's broadcast address are refused, except where the prefix leaves no others.
    """

    def __init__(self, version: Optional[int] = None) -> None:
        self.version = version
        example = {4: "192.0.2.10/24", 6: "2001:db8::10/64", None: "192.0.2.10/24 or 2001:db8::10/64"}[version]
        self.allowed = f"an address with its prefix length such as {example}"

    def parse(self, value: Any) -> str:
        if not isinstance(value, str) or not re.fullmatch(r"[0-9a-fA-F.:]+/[0-9]{1,3}", value):
            raise self.refuse(value)
        try:
            interface = ipaddress.ip_interface(str(value))
        except ValueError:
            raise self.refuse(value) from None
        if self.version and interface.version != self.version:
            raise self.refuse(value)
        network = interface.network
        if interface.ip.is_multicast or interface.ip.is_unspecified:
            raise self.refuse(value)
        if interface.version == 4 and network.prefixlen < 31:
            if interface.ip in (network.network_address, network.broadcast_address):
                raise self.refuse(value)
        return str(interface)


class Cidr(ValueType):
    """A network such as 192.0.2.0/24, or a single address, which is kept with its full prefix length (RFC 4632).

    Host bits that are set are refused: 192.0.2.10/24 is more likely a mistake than the network 192.0.2.0/24.
    """

    def __init__(self, version: Optional[int] = None) -> None:
        self.version = version
        example = {4: "192.0.2.0/24", 6: "2001:db8::/64", None: "192.0.2.0/24 or 2001:db8::/64"}[version]
        self.allowed = f"a network such as {example} with no host bits set, or a single address"

    def parse(self, value: Any) -> str:
        if not isinstance(value, str) or not re.fullmatch(r"[0-9a-fA-F.:]+(/[0-9]{1,3})?", value):
            raise self.refuse(value)
        try:
            network = ipaddress.ip_network(str(value))
        except ValueError:
            raise self.refuse(value) from None
        if self.version and network.version != self.version:
            raise self.refuse(value)
        return str(network)


class Host(ValueType):
    """A DNS name (RFC 1123) or an IP address."""

    allowed = "a host name such as ntp1.example.org, or an IP address"

    def parse(self, value: Any) -> str:
        if not isinstance(value, str):
            raise self.refuse(value)
        try:
            return IpAddress().parse(value)
        except ValueError:
            return HostName().parse(value)


class HostName(ValueType):
    """A DNS name of letters, digits and hyphens, kept in lower case (RFC 1123).

    single_label: whether dots are refused.
    """

    LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"

    def __init__(self, single_label: bool = False) -> None:
        self.single_label = single_label
        self.allowed = (
            "a host name of 1 to 63 letters, digits and inner hyphens"
            if single_label
            else "a host name of letters, digits, inner hyphens and dots, at most 253 characters"
        )

    def parse(self, value: Any) -> str:
        # str.lower() makes ASCII letters of a few that are not, such as the Kelvin sign.
        if not isinstance(value, str) or not value.isascii():
            raise self.refuse(value)
        text = str(value).lower()
        pattern = self.LABEL if self.single_label else rf"{self.LABEL}(\.{self.LABEL})*"
        if len(text) > 253 or not re.fullmatch(pattern, text):
            raise self.refuse(value)
        # 10.0.0.999 would pass as a name and be a mistyped address: no top-level domain is all digits (RFC 3696).
        if not self.single_label and "." in text and text.rpartition(".")[2].isdigit():
            raise self.refuse(value)
        return text


class Date(ValueType):
    """A day (ISO 8601), kept as text; YAML's own dates are understood."""

    allowed = "a date such as 2027-01-31"

    def parse(self, value: Any) -> str:
        if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
            return value.isoformat()
        if not isinstance(value, str) or not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value):
            raise self.refuse(value)
        try:
            return datetime.date.fromisoformat(str(value)).isoformat()
        except ValueError:
            raise self.refuse(value) from None


class CpuSet(ValueType):
    """Cores of a host in the form of Linux's cpuset, such as 0-3,8; kept sorted and joined."""

    allowed = "a list of cores such as 0-3,8"

    def parse(self, value: Any) -> str:
        if isinstance(value, bool) or not isinstance(value, (int, str)):
            raise self.refuse(value)
        cores: Set[int] = set()
        for part in _digits(value).split(","):
            match = re.fullmatch(r"([0-9]{1,4})(?:-([0-9]{1,4}))?", part)
            if not match:
                raise self.refuse(value)
            first = int(match.group(1))
            last = int(match.group(2) or first)
            if first > last:
                raise self.refuse(value)
            cores.update(range(first, last + 1))
        spans: List[List[int]] = []
        for core in sorted(cores):
            if spans and core == spans[-1][1] + 1:
                spans[-1][1] = core
            else:
                spans.append([core, core])
        return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)


class PortRange(ValueType):
    """A TCP or UDP port, or a range such as 8000-8010; kept as text."""

    allowed = "a port from 1 to 65535, or a range such as 8000-8010"

    def parse(self, value: Any) -> str:
        if isinstance(value, bool) or not isinstance(value, (int, str)):
            raise self.refuse(value)
        match = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", _digits(value))
        if not match:
            raise self.refuse(value)
        first = int(match.group(1))
        last = int(match.group(2)) if match.group(2) is not None else first
        if not 1 <= first <= last <= 65535:
            raise self.refuse(value)
        return str(first) if first == last else f"{first}-{last}"


class VlanRange(ValueType):
    """A VLAN id, or a range such as 100-199 (IEEE 802.1Q); kept as text."""

    allowed = "a VLAN id from 1 to 4094, or a range such as 100-199"

    def parse(self, value: Any) -> str:
        if isinstance(value, bool) or not isinstance(value, (int, str)):
            raise self.refuse(value)
        match = re.fullmatch(r"([0-9]{1,4})(?:-([0-9]{1,4}))?", _digits(value))
        if not match:
            raise self.refuse(value)
        first = int(match.group(1))
        last = int(match.group(2)) if match.group(2) is not None else first
        if not 1 <= first <= last <= 4094:
            raise self.refuse(value)
        return str(first) if first == last else f"{first}-{last}"


class Checksum(Pattern):
    """An algorithm and the digest in hexadecimal digits, such as sha256:9f86d0…; weak algorithms are refused."""

    LENGTHS = {"sha256": 64, "sha384": 96, "sha512": 128}

    def __init__(self) -> None:
        super().__init__(
            "|".join(f"{name}:[0-9a-f]{{{length}}}" for name, length in self.LENGTHS.items()),
            "sha256:, sha384: or sha512: and the digest in hexadecimal digits",
            lower=True,
        )


class Url(ValueType):
    """An http, https or file URL without credentials in it."""

    allowed = "an http, https or file URL without user name or password in it"

    def parse(self, value: Any) -> str:
        if not isinstance(value, str) or len(value) > 2048:
            raise self.refuse(value)
        if not re.fullmatch(r"(https?://[A-Za-z0-9.\[\]:-]+(/[!-~]*)?|file:///[!-~]*)", value):
            raise self.refuse("URL with credentials" if "@" in str(value) else value)
        return str(value)


class AbsolutePath(ValueType):
    """An absolute path in which no part is ``..``."""

    allowed = "an absolute path without '..' in it, control characters or a slash at its end"

    def parse(self, value: Any) -> str:
        try:
            text = Text(maximum=4095, minimum=1).parse(value)
        except ValueError:
            raise self.refuse(value) from None
        parts = text.split("/")
        if not text.startswith("/") or ".." in parts or "." in parts or (len(text) > 1 and "" in parts[1:]):
            raise self.refuse(value)
        return text
