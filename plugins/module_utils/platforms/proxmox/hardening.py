# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Audits of a node and its cluster over the API.

What a rule reads is one of a closed list of values, each with the request that tells it. A value that several objects
have (every VM, every token) is judged for each of them. Nothing is set: what is to be mended, the remedy says.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Callable, ClassVar, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple

from ...engine.platform import Interface
from ...errors import ReadError
from ...hardening.expectation import Found
from ...hardening.target import Condition, Finding, HardeningTarget, Setting, Survey
from ...model.schema import Value, option
from ...model.types import Choice
from .guests import Guest

DAY = 86400
Values = Iterator[Tuple[str, Optional[str]]]
"""(place, value): the place is empty for what there is only one of."""


class Answers:
    """What the API has answered, each path asked once.

    now: seconds since 1970, that certificates are judged against.
    """

    def __init__(self, platform: Any) -> None:
        self.platform = platform
        self.session = platform.session
        self.now = time.time()
        self._known: Dict[Tuple[Any, ...], Any] = {}

    def of(self, *path: Any) -> Any:
        """Return an answer. Raises ReadError."""
        if path not in self._known:
            try:
                self._known[path] = self.session.ask("GET", path, {"full": 1} if path == USERS else {}).data
            except ReadError as error:
                self._known[path] = error
        if isinstance(self._known[path], ReadError):
            raise self._known[path]
        return self._known[path]

    def on_node(self, *path: Any) -> Any:
        """Return an answer of the node's own part. Raises ReadError."""
        return self.of("nodes", self.session.node, *path)

    def guests(self) -> List[Guest]:
        """Return the node's VMs with their configurations."""
        return [guest for guest in self.platform.guests() if not guest.template and not guest.is_unfinished]


USERS = ("access", "users")


def _option(path: Sequence[str], name: str, default: Optional[str]) -> Callable[[Answers], Values]:
    """Return the reader of one option of the cluster or, where the path begins with `node`, of the node."""

    def read(answers: Answers) -> Values:
        options = answers.on_node(*path[1:]) if path[0] == "node" else answers.of(*path)
        value = (options or {}).get(name, default)
        yield "", None if value is None else str(value)

    return read


def _cluster_firewall_on(answers: Answers) -> Values:
    # PVE keeps the moment at which it was switched on.
    enabled = (answers.of("cluster", "firewall", "options") or {}).get("enable", 0)
    yield "", "1" if str(enabled) != "0" else "0"


def _vm_firewall(name: str, default: Optional[str]) -> Callable[[Answers], Values]:
    def read(answers: Answers) -> Values:
        for guest in answers.guests():
            options = answers.on_node("qemu", guest.vmid, "firewall", "options")
            value = (options or {}).get(name, default)
            yield guest.name, None if value is None else str(value)

    return read


def _vm_config(name: str, default: Optional[str]) -> Callable[[Answers], Values]:
    def read(answers: Answers) -> Values:
        for guest in answers.guests():
            value = guest.config.get(name, default)
            yield guest.name, None if value is None else str(value)

    return read


def _vm_nic_firewall(answers: Answers) -> Values:
    for guest in answers.guests():
        for _key, name, parts in guest.nics():
            yield f"{guest.name}/{name}", parts.get("firewall", "0")


def _enabled_users(answers: Answers) -> List[Mapping[str, Any]]:
    return [user for user in answers.of(*USERS) if str(user.get("enable", 0)) == "1"]


def _second_factors(answers: Answers) -> Values:
    entries = {str(entry["userid"]): entry.get("entries") or [] for entry in answers.of("access", "tfa")}
    for user in _enabled_users(answers):
        yield str(user["userid"]), str(len(entries.get(str(user["userid"]), [])))


def _other_administrators(answers: Answers) -> Values:
    found = {
        str(entry["ugid"])
        for entry in answers.of("access", "acl")
        if entry.get("path") == "/"
        and entry.get("roleid") in ("Administrator", "PVEAdmin")
        and entry.get("ugid") != "root@pam"
    }
    yield "", str(len(found))


def _token(name: str, default: str) -> Callable[[Answers], Values]:
    def read(answers: Answers) -> Values:
        for user in answers.of(*USERS):
            for token in user.get("tokens") or ():
                yield f"{user['userid']}!{token['tokenid']}", str(token.get(name, default))

    return read


def _root_tokens(answers: Answers) -> Values:
    for user in answers.of(*USERS):
        if user["userid"] == "root@pam":
            yield "", str(len(user.get("tokens") or ()))


def _realm_factor(answers: Answers) -> Values:
    for realm in answers.of("access", "domains"):
        yield str(realm["realm"]), str(realm["tfa"]) if realm.get("tfa") else None


def _realm_transport(answers: Answers) -> Values:
    for realm in answers.of("access", "domains"):
        if realm.get("type") in ("ldap", "ad"):
            known = answers.of("access", "domains", realm["realm"])
            mode = known.get("mode") or ("ldaps" if str(known.get("secure", 0)) == "1" else "ldap")
            yield str(realm["realm"]), str(mode)


def _repository(handle: str) -> Callable[[Answers], Values]:
    def read(answers: Answers) -> Values:
        for entry in answers.on_node("apt", "repositories").get("standard-repos") or ():
            if entry.get("handle") == handle:
                yield "", str(int(entry.get("status") or 0))

    return read


def _updates(answers: Answers) -> Values:
    yield "", str(len(answers.on_node("apt", "update")))


def _certificates(answers: Answers) -> List[Mapping[str, Any]]:
    shown = answers.on_node("certificates", "info")
    own = [entry for entry in shown if entry.get("filename") == "pveproxy-ssl.pem"]
    return own or [entry for entry in shown if entry.get("filename") == "pve-ssl.pem"]


def _certificate_days(answers: Answers) -> Values:
    for entry in _certificates(answers):
        yield str(entry["filename"]), str(int((int(entry.get("notafter") or 0) - answers.now) // DAY))


def _certificate_file(answers: Answers) -> Values:
    for entry in _certificates(answers):
        yield "", str(entry["filename"])


def _certificate_bits(answers: Answers) -> Values:
    for entry in _certificates(answers):
        if "rsa" in str(entry.get("public-key-type", "")).lower():
            yield str(entry["filename"]), str(entry.get("public-key-bits") or 0)


def _storages(kind: str, name: str) -> Callable[[Answers], Values]:
    def read(answers: Answers) -> Values:
        for entry in answers.of("storage"):
            if entry.get("type") == kind:
                yield str(entry["storage"]), str(entry[name]) if entry.get(name) else None

    return read


def _migration(answers: Answers) -> Values:
    told = (answers.of("cluster", "options") or {}).get("migration")
    parts = told if isinstance(told, dict) else dict(part.partition("=")[::2] for part in str(told or "").split(","))
    yield "", str(parts.get("type") or "secure")


def _backup_jobs(answers: Answers) -> Values:
    yield "", str(sum(str(job.get("enabled", 1)) != "0" for job in answers.of("cluster", "backup")))


def _not_backed_up(answers: Answers) -> Values:
    yield "", str(len(answers.of("cluster", "backup-info", "not-backed-up")))


def _quorate(answers: Answers) -> Values:
    for entry in answers.of("cluster", "status"):
        if entry.get("type") == "cluster":
            yield "", str(entry.get("quorate", 0))


CLUSTER_FIREWALL = ("cluster", "firewall", "options")
NODE_FIREWALL = ("node", "firewall", "options")

READERS: Mapping[str, Callable[[Answers], Values]] = {
    "cluster_firewall.enable": _cluster_firewall_on,
    "cluster_firewall.policy_in": _option(CLUSTER_FIREWALL, "policy_in", "DROP"),
    "cluster_firewall.policy_out": _option(CLUSTER_FIREWALL, "policy_out", "ACCEPT"),
    "cluster_firewall.policy_forward": _option(CLUSTER_FIREWALL, "policy_forward", "ACCEPT"),
    "cluster_firewall.ebtables": _option(CLUSTER_FIREWALL, "ebtables", "1"),
    "node_firewall.enable": _option(NODE_FIREWALL, "enable", "1"),
    "node_firewall.nosmurfs": _option(NODE_FIREWALL, "nosmurfs", "1"),
    "node_firewall.tcpflags": _option(NODE_FIREWALL, "tcpflags", "0"),
    "node_firewall.protection_synflood": _option(NODE_FIREWALL, "protection_synflood", "0"),
    "node_firewall.log_level_in": _option(NODE_FIREWALL, "log_level_in", "nolog"),
    "vm_firewall.enable": _vm_firewall("enable", "0"),
    "vm_firewall.macfilter": _vm_firewall("macfilter", "1"),
    "vm_firewall.radv": _vm_firewall("radv", "0"),
    "vm_nic.firewall": _vm_nic_firewall,
    "vm.args": _vm_config("args", None),
    "vm.hookscript": _vm_config("hookscript", None),
    "user.second_factors": _second_factors,
    "acl.other_administrators": _other_administrators,
    "token.privsep": _token("privsep", "1"),
    "token.expire": _token("expire", "0"),
    "root.tokens": _root_tokens,
    "realm.tfa": _realm_factor,
    "realm.transport": _realm_transport,
    "repository.enterprise": _repository("enterprise"),
    "repository.test": _repository("test"),
    "node.updates": _updates,
    "certificate.days_left": _certificate_days,
    "certificate.file": _certificate_file,
    "certificate.rsa_bits": _certificate_bits,
    "storage.pbs_encryption_key": _storages("pbs", "encryption-key"),
    "storage.pbs_fingerprint": _storages("pbs", "fingerprint"),
    "cluster.migration_type": _migration,
    "cluster.backup_jobs": _backup_jobs,
    "cluster.guests_not_backed_up": _not_backed_up,
    "cluster.quorate": _quorate,
}
"""What rules can read. Defaults are those of the API's description."""


@dataclass(frozen=True)
class ApiSetting(Setting):
    """One of the values that the API tells."""

    NAME: ClassVar[str] = "api"
    SETTABLE: ClassVar[bool] = False

    value: Optional[str] = option(Value(Choice(*sorted(READERS))), "What is read.", required=True)

    def name(self) -> str:
        """Return the setting as it is named to people."""
        return f"{str(self.value).replace('.', ' ').replace('_', ' ')} of Proxmox VE"


class ProxmoxHardening(Interface, HardeningTarget):
    """Audits the node and what it shows of its cluster."""

    KINDS = ()
    CAPABILITIES = frozenset({"hardening.audit"})
    SETTINGS = (ApiSetting,)
    CONDITIONS: ClassVar[Mapping[str, str]] = {}

    def __init__(self, platform: Any) -> None:
        self.platform = platform

    def survey(self, settings: Mapping[str, Setting], conditions: Iterable[Condition]) -> Survey:
        answers = Answers(self.platform)
        findings: Dict[str, Finding] = {}
        for rule, setting in settings.items():
            findings[rule] = _find(answers, str(getattr(setting, "value", "")))
        return Survey(findings, {condition: False for condition in conditions})

    def enforced_rules(self) -> List[str]:
        return []

    def describe(self) -> Dict[str, str]:
        version = ".".join(str(part) for part in self.platform.session.version)
        return {"operating_system": f"Proxmox VE {version}", "node": self.platform.session.node}


def _find(answers: Answers, name: str) -> Finding:
    values: Dict[str, Dict[str, Found]] = {}
    try:
        for place, value in READERS[name](answers):
            values[place] = {"": value}
    except ReadError as error:
        return Finding(error=error.message)
    return Finding(values) if values else Finding(missing="there is none")
