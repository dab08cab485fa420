# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The firewall's interface under the engine, against this machine's kernel in a network namespace of each test."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.engine.platform import Platform
from ansible_collections.bareforge.hypervisor.plugins.module_utils.engine.runner import Request, gather, run
from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import ReadError, ValidateError
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.document import Document
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.operation import Operation
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm import controller, systemd
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm import firewall as firewall_module
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.controller import Connection
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.firewall import KvmFirewall
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.nftables_rules import HOST_TABLE
from ansible_collections.bareforge.hypervisor.plugins.module_utils.transports import nftables
from support import frames, kernel_nftables

WEB = {"name": "web", "protocol": "tcp", "ports": ["80"]}
DOCUMENT = {"firewall": {"log_denied": True}, "firewall_rules": [WEB, {"name": "names", "service": "dns"}]}
BASE = {"family": "inet", "table": "bareforge"}


class OnlyFirewall(Platform):
    NAME = "kvm"
    INTERFACES = (KvmFirewall,)


class Killed(BaseException):
    """The death of the process."""


class Host:
    def __init__(self, file: Path) -> None:
        self.file = file
        self.unit_installed = False
        self.connection: Connection | None = None

    def apply(self, document: Any, check: bool = False, exact: Any = ()) -> list[Any]:
        options = Operation.parse({"guard": {"enabled": False}})
        result = run(OnlyFirewall(), Request(Document.parse(document, exact), options, check))
        return [
            (change["action"], change["kind"], change["key"], tuple(change["fields"])) for change in result["changes"]
        ]

    def gather(self) -> Any:
        return gather(OnlyFirewall())

    @property
    def table(self) -> Any:
        return nftables.list_table(*HOST_TABLE)

    def handle(self, name: str) -> int:
        """Return the kernel's handle of the rule whose comment ends in a name."""
        _code, output, _error = nftables._library().json_cmd(
            nftables.document([{"list": {"table": {"family": "inet", "name": "bareforge"}}}])
        )
        found = [entry["rule"] for entry in output["nftables"] if "rule" in entry]
        return int(next(rule["handle"] for rule in found if str(rule.get("comment")).endswith(name)))


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    kernel_nftables.require()
    made = Host(tmp_path / "firewall.json")

    def install(*_arguments: Any) -> bool:
        made.unit_installed = True
        return True

    monkeypatch.setattr(firewall_module, "FIREWALL_FILE", str(made.file))
    monkeypatch.setattr(systemd, "install_unit", install)
    monkeypatch.setattr(systemd, "unit_is_installed", lambda *_arguments: made.unit_installed)
    monkeypatch.setattr(controller, "controller_connection", lambda: made.connection)
    return made


@pytest.fixture
def in_kernel() -> Callable[[Callable[[], Any]], Any]:
    """Runs a function in a network namespace; what it raises comes out."""

    def enter(work: Callable[[], Any]) -> Any:
        outcome: dict[str, Any] = {}

        def guarded() -> bool:
            try:
                outcome["result"] = work()
            except BaseException as error:  # noqa: BLE001 - carried out of the thread
                outcome["error"] = error
            return True

        nftables._in_network_namespace(guarded)
        if "error" in outcome:
            raise outcome["error"]
        return outcome["result"]

    return enter


def test_second_run_changes_nothing_and_gathered_state_neither(host: Host, in_kernel: Any) -> None:
    def work() -> None:
        assert [entry[:3] for entry in host.apply(DOCUMENT)] == [
            ("create", "firewall", ""),
            ("create", "firewall_rule", "names"),
            ("create", "firewall_rule", "web"),
        ]
        assert host.apply(DOCUMENT) == []
        assert host.apply(DOCUMENT, check=True) == []
        assert host.apply(host.gather(), exact=["firewall_rule"]) == []

    in_kernel(work)


def test_file_that_nft_loads_at_boot_holds_what_is_in_the_kernel(host: Host, in_kernel: Any) -> None:
    def work() -> None:
        host.apply(DOCUMENT)
        before = host.table
        nftables.run(nftables.replace_table(*HOST_TABLE, None))
        nftables.run(json.loads(host.file.read_text())["nftables"])
        assert host.table == before
        assert host.apply(DOCUMENT) == []

    in_kernel(work)


def tamper_delete_table(host: Host) -> None:
    nftables.run([{"delete": {"table": {"family": "inet", "name": "bareforge"}}}])


def tamper_policy(host: Host) -> None:
    chain = {**BASE, "name": "input", "type": "filter", "hook": "input", "prio": 0, "policy": "accept"}
    nftables.run([{"add": {"chain": chain}}])


def tamper_foreign_rule(host: Host) -> None:
    nftables.run([{"insert": {"rule": {**BASE, "chain": "input", "expr": [{"accept": None}]}}}])


def tamper_foreign_chain(host: Host) -> None:
    nftables.run([{"add": {"chain": {**BASE, "name": "other"}}}])


def tamper_always_rule(host: Host) -> None:
    nftables.run([{"delete": {"rule": {**BASE, "chain": "input", "handle": host.handle("management")}}}])


def tamper_rule_deleted(host: Host) -> None:
    nftables.run([{"delete": {"rule": {**BASE, "chain": "input", "handle": host.handle("web")}}}])


def tamper_rule_changed(host: Host) -> None:
    handle = host.handle("web")
    comment = next(
        entry["rule"]["comment"] for entry in host.table if "web" in entry.get("rule", {}).get("comment", "")
    )
    rule = {**BASE, "chain": "input", "handle": handle, "comment": comment, "expr": [{"accept": None}]}
    nftables.run([{"replace": {"rule": rule}}])


def tamper_rule_moved(host: Host) -> None:
    entry = next(entry["rule"] for entry in host.table if "web" in entry.get("rule", {}).get("comment", ""))
    handle = host.handle("web")
    nftables.run([{"delete": {"rule": {**BASE, "chain": "input", "handle": handle}}}, {"insert": {"rule": entry}}])


def tamper_file(host: Host) -> None:
    data = json.loads(host.file.read_text())
    data["nftables"].pop()
    host.file.write_text(json.dumps(data))


def tamper_unit(host: Host) -> None:
    host.unit_installed = False


@pytest.mark.parametrize(
    ("tamper", "expected"),
    [
        (tamper_delete_table, {("firewall", ""), ("firewall_rule", "web"), ("firewall_rule", "names")}),
        (tamper_policy, {("firewall", "")}),
        (tamper_foreign_rule, {("firewall", "")}),
        (tamper_foreign_chain, {("firewall", "")}),
        (tamper_always_rule, {("firewall", "")}),
        (tamper_rule_deleted, {("firewall_rule", "web")}),
        (tamper_rule_changed, {("firewall_rule", "web")}),
        (tamper_rule_moved, {("firewall", "")}),
        (tamper_file, {("firewall", "")}),
        (tamper_unit, {("firewall", "")}),
    ],
)
def test_drift_shows_where_it_is_and_is_mended(host: Host, in_kernel: Any, tamper: Any, expected: Any) -> None:
    def work() -> None:
        host.apply(DOCUMENT)
        good = host.table
        tamper(host)
        planned = host.apply(DOCUMENT, check=True)
        assert {entry[1:3] for entry in planned} == expected
        assert {entry[3] for entry in planned} == {("enabled",)}
        assert host.apply(DOCUMENT) == planned
        assert host.table == good
        assert host.apply(DOCUMENT) == []

    in_kernel(work)


def test_drift_shows_even_to_who_wants_the_opposite(host: Host, in_kernel: Any) -> None:
    def work() -> None:
        host.apply(DOCUMENT)
        tamper_rule_changed(host)
        assert host.apply({"firewall_rules": [{**WEB, "enabled": False}]}) != []
        assert not [entry for entry in host.table if "web" in entry.get("rule", {}).get("comment", "")]

    in_kernel(work)


def test_mending_takes_what_is_left_open_from_what_was_asked(host: Host, in_kernel: Any) -> None:
    def work() -> None:
        host.apply({"firewall": {}, "firewall_rules": [{**WEB, "sources": ["192.0.2.0/24"]}]})
        tamper_rule_deleted(host)
        host.apply({"firewall_rules": [{"name": "web"}]})
        assert host.gather()["firewall_rules"][0]["sources"] == ["192.0.2.0/24"]

    in_kernel(work)


def test_switched_off_firewall_has_no_table_and_keeps_its_rules(host: Host, in_kernel: Any) -> None:
    def work() -> None:
        host.apply(DOCUMENT)
        assert host.apply({"firewall": {"enabled": False}}) == [("update", "firewall", "", ("enabled",))]
        assert host.table is None
        assert host.apply({"firewall": {"enabled": False}, "firewall_rules": [WEB]}) == []
        assert [item["name"] for item in host.gather()["firewall_rules"]] == ["names", "web"]
        nftables.run([{"add": {"table": {"family": "inet", "name": "bareforge"}}}])
        assert host.apply({"firewall": {"enabled": False}}) == [("update", "firewall", "", ("enabled",))]
        assert host.table is None

    in_kernel(work)


def test_other_tables_are_left_alone(host: Host, in_kernel: Any) -> None:
    def work() -> None:
        foreign = [
            {"add": {"table": {"family": family, "name": name}}}
            for family, name in (("ip", "bareforge"), ("inet", "x"))
        ]
        nftables.run([*foreign, {"add": {"chain": {"family": "inet", "table": "x", "name": "c"}}}])
        host.apply(DOCUMENT)
        host.apply({"firewall": {"enabled": False}})
        assert nftables.list_table("ip", "bareforge") == []
        assert nftables.list_table("inet", "x") == [{"chain": {"family": "inet", "table": "x", "name": "c"}}]

    in_kernel(work)


def test_swap_lets_nothing_through_that_is_denied(host: Host, in_kernel: Any) -> None:
    """The kernel sets a new chain's policy only after it has dropped the old chain: the last rule has to hold meanwhile."""
    frame = frames.ethernet(frames.IP4, frames.ipv4("192.0.2.2", "192.0.2.1", frames.UDP, frames.udp(9, 9999)))

    def work() -> None:
        cable = """
        ip link add inside type veth peer name outside
        ip address add 192.0.2.1/24 dev inside; ip link set inside up; ip link set outside up
        """
        subprocess.run(["sh", "-eu", "-c", cable], check=True)
        shown = subprocess.run(["ip", "-o", "link", "show", "inside"], capture_output=True, text=True, check=True)
        knock = frames.mac(shown.stdout.split("link/ether ")[1].split()[0]) + frame[6:]
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
            socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as knocker,
        ):
            server.bind(("192.0.2.1", 9999))
            server.settimeout(2)
            knocker.bind(("outside", 0))
            knocker.send(knock)
            assert server.recv(4096), "nothing gets through without a firewall either"
            rules = [{"name": f"r{number}", "protocol": "icmp"} for number in range(100)]
            host.apply({"firewall": {}, "firewall_rules": rules})
            over = threading.Event()
            sent = []

            def keep_knocking() -> None:
                while not over.is_set():
                    knocker.send(knock)
                    sent.append(1)

            thread = threading.Thread(target=keep_knocking)
            thread.start()
            commands = json.loads(host.file.read_text())["nftables"]
            for _number in range(200):
                nftables.run(commands)
            over.set()
            thread.join()
            server.setblocking(False)
            leaked = 0
            with contextlib.suppress(BlockingIOError):
                while server.recv(4096):
                    leaked += 1
            assert len(sent) > 1000
            assert leaked == 0

    in_kernel(work)


@pytest.mark.parametrize("point", ["run", "store_asked", "install_unit"])
def test_killed_at_any_step_converges(host: Host, in_kernel: Any, monkeypatch: pytest.MonkeyPatch, point: str) -> None:
    def die(*_arguments: Any, **_options: Any) -> None:
        raise Killed

    owner: Any = {"run": nftables, "store_asked": firewall_module, "install_unit": systemd}[point]
    after = {"firewall": {}, "firewall_rules": [{**WEB, "ports": ["81"]}, {"name": "names", "state": "absent"}]}

    def work() -> None:
        host.apply(DOCUMENT)
        host.unit_installed = point != "install_unit"
        with monkeypatch.context() as patch:
            patch.setattr(owner, point, die)
            with pytest.raises(Killed):
                host.apply(after)
        assert host.apply(after) != []
        assert host.apply(after) == []
        assert [item["ports"] for item in host.gather()["firewall_rules"]] == [["81"]]
        assert host.unit_installed

    in_kernel(work)


def test_controller_is_never_locked_out_knowingly(host: Host, in_kernel: Any) -> None:
    host.connection = Connection("198.51.100.9", 40000, "192.0.2.1", 2222)

    def work() -> None:
        with pytest.raises(ValidateError) as refused:
            host.apply({"firewall": {}, "firewall_rules": [WEB]})
        assert [(problem.path, problem.message) for problem in refused.value.problems] == [
            (
                "firewall",
                (
                    "would lock the controller out: neither management (TCP ports 22 from everywhere) nor a rule lets it in, "
                    "which comes from 198.51.100.9 to port 2222 of 192.0.2.1"
                ),
            )
        ]
        assert host.table is None
        host.apply({"firewall": {"management_ports": ["22", "2222"]}})
        with pytest.raises(ValidateError, match="from 203"):
            host.apply({"firewall": {"management_sources": ["203.0.113.0/24"]}})

    in_kernel(work)


def test_rule_alone_is_kept_and_the_user_told(host: Host, in_kernel: Any) -> None:
    def work() -> None:
        result = run(OnlyFirewall(), Request(Document.parse({"firewall_rules": [WEB]})))
        assert result["warnings"] == [
            "firewall_rule['web'] is kept and not in force, since the firewall is not enabled"
        ]
        assert host.table is None
        assert host.apply({"firewall_rules": [WEB]}) == []

    in_kernel(work)


@pytest.mark.parametrize("name", ["a" * 16, "eth 0", "eth/0", "eth*", "*", "\u00e9th0"])
def test_interface_that_no_kernel_has_is_refused(host: Host, in_kernel: Any, name: str) -> None:
    def work() -> None:
        with pytest.raises(
            ValidateError, match=r"firewall_rule\['web'\].interfaces: .*allowed is the name of a network"
        ):
            host.apply({"firewall_rules": [{**WEB, "interfaces": [name]}]})

    in_kernel(work)


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"bareforge": {"firewall": {"enabled": 7}, "firewall_rules": []}}']
)
def test_file_that_is_not_ours_is_named(host: Host, content: str) -> None:
    host.file.write_text(content)
    with pytest.raises(ReadError, match=str(host.file)):
        host.gather()


def test_what_can_reach_management_is_guarded(host: Host) -> None:
    from ansible_collections.bareforge.hypervisor.plugins.module_utils.engine.change import Change
    from ansible_collections.bareforge.hypervisor.plugins.module_utils.engine.platform import Context
    from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.firewall import Firewall, FirewallRule

    on, off = (Firewall.parse({"enabled": enabled}).complete(None) for enabled in (True, False))

    def touches(before: Any, after: Any, firewall: Any = on) -> bool:
        context = Context({"firewall": {(): firewall}}, {"firewall": {(): firewall}}, Operation())
        return KvmFirewall(None).touches_management(Change(before, after), context)

    def rule(**fields: Any) -> FirewallRule:
        return FirewallRule.parse({"name": "r", **fields}).complete(None)

    assert touches(off, on)
    assert touches(None, rule(action="deny"))
    assert touches(rule(protocol="tcp", ports=["20-30"]), None)
    assert touches(None, rule(service="ssh"))
    assert not touches(None, rule(service="dns"))
    assert not touches(None, rule(protocol="tcp", ports=["80"]))
    assert not touches(None, rule(protocol="udp"))
    assert not touches(None, rule(direction="outbound"))
    assert not touches(None, rule(action="deny"), off)
