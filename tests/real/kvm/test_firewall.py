# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The firewall of a real KVM host, seen by packets from a network namespace that plays the world outside."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from ..real_host import OnHostError, RealHost

HOST4, OUTSIDE4, OTHER4 = "192.0.2.1", "192.0.2.2", "192.0.2.3"
HOST6, OUTSIDE6, OTHER6 = "2001:db8:f::1", "2001:db8:f::2", "2001:db8:f::3"
BEYOND4 = "198.51.100.2"
OPEN_PORTS = (22, 80, 443, 8005, 9999)

LISTENERS = """
import selectors, socket
select = selectors.DefaultSelector()
for port in (80, 443, 8005, 9999):
    for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        server = socket.socket(family, socket.SOCK_STREAM)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        server.bind((address, port))
        server.listen(16)
        select.register(server, selectors.EVENT_READ)
for port in (53, 9998):
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("192.0.2.1", port))
    select.register(server, selectors.EVENT_READ)
while True:
    for key, _events in select.select():
        if key.fileobj.type == socket.SOCK_DGRAM:
            data, peer = key.fileobj.recvfrom(2048)
            key.fileobj.sendto(data, peer)
        else:
            key.fileobj.accept()[0].close()
"""


def probe_all(jobs: Any) -> Any:
    """Return, for each (kind, source, target, port), what a client outside finds; all at once, so silence costs one wait."""
    import concurrent.futures
    import errno
    import socket

    import host_tools

    host_tools.enter_namespace("outside")

    def probe(job: Any) -> str:
        kind, source, target, port = job
        family = socket.AF_INET6 if ":" in target else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM) as client:
            client.settimeout(3.0)
            client.bind((source, 0))
            try:
                client.connect((target, port))
                if kind == "udp":
                    client.send(b"x")
                    client.recv(16)
            except ConnectionRefusedError:
                return "refused"
            except TimeoutError:
                return "silent"
            except OSError as error:
                return errno.errorcode.get(error.errno or 0, str(error))
            return "open"

    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        return list(pool.map(probe, jobs))


class World:
    """The world outside of the host: a network namespace behind a virtual cable."""

    def __init__(self, host: RealHost) -> None:
        self.host = host

    def scan(self, kind: str, source: str, target: str, *ports: int) -> dict[int, str]:
        """Return what a probe of each port finds."""
        return dict(zip(ports, self.probe(*((kind, source, target, port) for port in ports)), strict=True))

    def probe(self, *jobs: tuple[str, str, str, int]) -> list[str]:
        return list(self.host.on_host(probe_all, jobs=jobs))

    def open_ports(self, source: str, target: str) -> list[int]:
        """Return which of the ports that something listens on can be reached."""
        return [port for port, found in self.scan("tcp", source, target, *OPEN_PORTS).items() if found == "open"]


TEAR_DOWN = """
systemctl stop bftest-listeners bftest-beyond || true
nft delete table inet bareforge || true
for namespace in outside beyond; do ip netns delete $namespace || true; done
for device in bftest-in bftest-far; do ip link delete $device || true; done
sysctl -qw net.ipv4.ip_forward=0
"""


@pytest.fixture(scope="module")
def world(host: RealHost) -> Iterator[World]:
    host.shell(TEAR_DOWN, check=False)
    host.shell(
        f"""
        ip netns add outside
        ip link add bftest-in type veth peer name bftest-out netns outside
        ip address add {HOST4}/24 dev bftest-in; ip -6 address add {HOST6}/64 dev bftest-in nodad
        ip link set bftest-in up
        ip netns exec outside sh -eu -c '
          ip address add {OUTSIDE4}/24 dev bftest-out; ip address add {OTHER4}/24 dev bftest-out
          ip -6 address add {OUTSIDE6}/64 dev bftest-out nodad; ip -6 address add {OTHER6}/64 dev bftest-out nodad
          ip link set bftest-out up; ip link set lo up; ip route add default via {HOST4}'
        ip netns add beyond
        ip link add bftest-far type veth peer name bftest-end netns beyond
        ip address add 198.51.100.1/24 dev bftest-far; ip link set bftest-far up
        ip netns exec beyond sh -eu -c '
          ip address add {BEYOND4}/24 dev bftest-end; ip link set bftest-end up; ip route add default via 198.51.100.1'
        sysctl -qw net.ipv4.ip_forward=1
        cat > /run/bftest-listeners.py <<'END'\n{LISTENERS}\nEND
        systemd-run --quiet --collect --unit=bftest-listeners /usr/bin/python3 /run/bftest-listeners.py
        ip netns exec beyond systemd-run --quiet --collect --unit=bftest-beyond -p NetworkNamespacePath=/run/netns/beyond \\
          /usr/bin/python3 -c 'import http.server as h; h.test(h.SimpleHTTPRequestHandler, port=80)'
        """
    )
    outside = World(host)
    yield outside
    host.shell(TEAR_DOWN, check=False)


@pytest.fixture(autouse=True)
def no_firewall(host: RealHost) -> Iterator[None]:
    """Start and end each test with a host on which nobody has asked for a firewall."""

    def clean() -> None:
        import contextlib
        import os

        import host_tools

        host_tools.output("nft", "delete", "table", "inet", "bareforge", check=False)
        with contextlib.suppress(FileNotFoundError):
            os.unlink("/etc/bareforge/firewall.json")

    host.on_host(clean)
    yield
    host.on_host(clean)


def tampered(host: RealHost, script: str, *documents: Any) -> list[Any]:
    """Run a script on the host and then, for each (document, check), the engine; return the engine's results.

    In one go, since what the script does may keep the next connection out.
    """

    def tamper(script: str, documents: Any) -> Any:
        import host_tools

        host_tools.output("sh", "-eu", "-c", script)
        return [host_tools.apply(document, check=check) for document, check in documents]

    return list(host.on_host(tamper, script=script, documents=documents))


def rule(name: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, **fields}


@pytest.mark.capability("kvm", "firewall", "firewall_rule", "firewall_rule.direction.inbound", ran_against="real")
@pytest.mark.capability("kvm", "firewall_rule.action.allow", ran_against="real")
def test_only_allowed_ports_answer_from_outside(host: RealHost, world: World) -> None:
    assert world.open_ports(OUTSIDE4, HOST4) == list(OPEN_PORTS), (
        "the probe does not see what is open without a firewall"
    )
    document = {
        "firewall": {},
        "firewall_rules": [
            rule("web", protocol="tcp", ports=["80", "8000-8010"]),
            rule("one neighbour", protocol="tcp", ports=["443"], sources=[OTHER4, OTHER6]),
        ],
    }
    assert host.apply(document)["changed"]
    assert world.open_ports(OUTSIDE4, HOST4) == [22, 80, 8005]
    assert world.open_ports(OUTSIDE6, HOST6) == [22, 80, 8005]
    assert world.open_ports(OTHER4, HOST4) == [22, 80, 443, 8005]
    assert world.open_ports(OTHER6, HOST6) == [22, 80, 443, 8005]
    assert world.scan("tcp", OUTSIDE4, HOST4, 9999) == {9999: "silent"}
    assert world.scan("udp", OUTSIDE4, HOST4, 53, 9998) == {53: "silent", 9998: "silent"}

    assert not host.apply(document)["changed"]
    assert not host.apply(document, check=True)["changed"]
    assert not host.apply(host.gather("firewall", "firewall_rule"))["changed"]


@pytest.mark.capability("kvm", "firewall_rule.service", ran_against="real")
def test_service_by_name_opens_both_protocols(host: RealHost, world: World) -> None:
    host.apply({"firewall": {}, "firewall_rules": [rule("names", service="dns"), rule("web", service="https")]})
    assert world.open_ports(OUTSIDE4, HOST4) == [22, 443]
    assert world.scan("udp", OUTSIDE4, HOST4, 53, 9998) == {53: "open", 9998: "silent"}


@pytest.mark.capability("kvm", "firewall_rule.action.deny", "firewall_rule.action.reject", ran_against="real")
def test_deny_is_silent_and_reject_answers(host: RealHost, world: World) -> None:
    host.apply(
        {
            "firewall": {"default_inbound": "allow"},
            "firewall_rules": [
                rule("a", action="deny", protocol="tcp", ports=["80"]),
                rule("b", action="reject", protocol="tcp", ports=["443"]),
                rule("c", action="reject", protocol="udp", ports=["53"]),
            ],
        }
    )
    assert world.scan("tcp", OUTSIDE4, HOST4, 80, 443, 9999) == {80: "silent", 443: "refused", 9999: "open"}
    assert world.scan("tcp", OUTSIDE6, HOST6, 80, 443, 9999) == {80: "silent", 443: "refused", 9999: "open"}
    assert world.scan("udp", OUTSIDE4, HOST4, 53) == {53: "refused"}


def test_position_decides_and_then_the_name(host: RealHost, world: World) -> None:
    deny = rule("a", action="deny", protocol="tcp", ports=["80"])
    allow = rule("b", action="allow", protocol="tcp", ports=["80"])
    host.apply({"firewall": {}, "firewall_rules": [allow, deny]})
    assert 80 not in world.open_ports(OUTSIDE4, HOST4)
    result = host.apply({"firewall_rules": [{**allow, "position": 10}]})
    assert [change["fields"] for change in result["changes"]] == [["position"]]
    assert 80 in world.open_ports(OUTSIDE4, HOST4)


@pytest.mark.capability("kvm", "firewall_rule.direction.outbound", "firewall.default_outbound", ran_against="real")
@pytest.mark.capability("kvm", "firewall_rule.destinations", ran_against="real")
def test_outbound_default_deny_lets_named_destinations_through(host: RealHost, world: World) -> None:
    def connect(address: str) -> str:
        import socket

        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as client:
            client.settimeout(2.0)
            try:
                client.connect((address, 7))
            except ConnectionRefusedError:
                return "reached"
            except OSError as error:
                return type(error).__name__
        return "open"

    assert host.on_host(connect, address=OUTSIDE4) == "reached"
    host.apply(
        {
            "firewall": {"default_outbound": "deny"},
            "firewall_rules": [
                rule("out", direction="outbound", protocol="tcp", destinations=[f"{OUTSIDE4}/32", f"{OUTSIDE6}/128"])
            ],
        }
    )
    found = {address: host.on_host(connect, address=address) for address in (OUTSIDE4, OTHER4, OUTSIDE6, OTHER6)}
    assert found[OUTSIDE4] == found[OUTSIDE6] == "reached"
    assert found[OTHER4] != "reached"
    assert found[OTHER6] != "reached"
    assert world.open_ports(OUTSIDE4, HOST4) == [22], "answers of the host itself do not get out"


@pytest.mark.capability("kvm", "firewall_rule.direction.forward", "firewall.default_forward", ran_against="real")
def test_forwarded_traffic_is_denied_by_default(host: RealHost, world: World) -> None:
    assert world.scan("tcp", OUTSIDE4, BEYOND4, 80) == {80: "open"}, "the host does not route without a firewall"
    host.apply({"firewall": {}})
    assert world.scan("tcp", OUTSIDE4, BEYOND4, 80) == {80: "silent"}
    host.apply(
        {"firewall_rules": [rule("through", direction="forward", protocol="tcp", ports=["80"], sources=[OUTSIDE4])]}
    )
    assert world.scan("tcp", OUTSIDE4, BEYOND4, 80) == {80: "open"}
    assert world.scan("tcp", OTHER4, BEYOND4, 80) == {80: "silent"}
    host.apply({"firewall": {"default_forward": "allow"}})
    assert world.scan("tcp", OTHER4, BEYOND4, 80) == {80: "open"}


@pytest.mark.capability("kvm", "firewall_rule.interfaces", ran_against="real")
def test_rule_holds_on_its_interfaces_only(host: RealHost, world: World) -> None:
    host.apply(
        {
            "firewall": {},
            "firewall_rules": [
                rule("here", protocol="tcp", ports=["80"], interfaces=["bftest-in"]),
                rule("elsewhere", protocol="tcp", ports=["443"], interfaces=["bftest-far", "mgmt0"]),
            ],
        }
    )
    assert world.open_ports(OUTSIDE4, HOST4) == [22, 80]
    with pytest.raises(OnHostError, match="interfaces: 'eth\\*' is not allowed") as refused:
        host.apply({"firewall_rules": [rule("all", interfaces=["eth*"])]})
    assert refused.value.kind == "ValidateError"


@pytest.mark.capability("kvm", "firewall_rule.rate_limit", ran_against="real")
def test_rate_limit_is_one_for_both_ip_versions(host: RealHost, world: World) -> None:
    host.apply(
        {
            "firewall": {},
            "firewall_rules": [
                rule(
                    "few",
                    protocol="tcp",
                    ports=["80"],
                    sources=["192.0.2.0/24", "2001:db8:f::/64"],
                    rate_limit={"rate": 1, "per": "hour", "burst": 4},
                )
            ],
        }
    )
    both = [("tcp", OUTSIDE4, HOST4, 80), ("tcp", OUTSIDE6, HOST6, 80)] * 5
    assert world.probe(*both).count("open") == 4


@pytest.mark.capability("kvm", "firewall_rule.log", "firewall.log_denied", ran_against="real")
def test_matches_and_denials_are_logged(host: RealHost, world: World) -> None:
    host.apply(
        {
            "firewall": {"log_denied": True},
            "firewall_rules": [rule("web \u00e9\"'", protocol="tcp", ports=["80"], log=True), rule("q", service="dns")],
        }
    )
    host.run("dmesg", "--clear")
    world.scan("tcp", OUTSIDE4, HOST4, 80, 9999)
    world.scan("udp", OUTSIDE4, HOST4, 53)
    log = host.run("dmesg")
    assert "bareforge web ___: IN=bftest-in" in log and "DPT=80" in log
    assert "bareforge denied input: IN=bftest-in" in log and "DPT=9999" in log
    assert "DPT=53" not in log


def test_foreign_tables_are_left_alone(host: RealHost, world: World) -> None:
    host.shell("nft add table inet foreign; nft add chain inet foreign c '{ type filter hook input priority 5; }'")
    host.shell("nft add rule inet foreign c tcp dport 443 drop; nft add table ip bareforge")
    before = host.run("nft", "-a", "list", "table", "inet", "foreign")
    host.apply({"firewall": {}, "firewall_rules": [rule("web", protocol="tcp", ports=["80", "443"])]})
    assert world.open_ports(OUTSIDE4, HOST4) == [22, 80]
    host.apply({"firewall": {"enabled": False}})
    assert host.run("nft", "-a", "list", "table", "inet", "foreign") == before
    assert "table ip bareforge" in host.run("nft", "list", "tables")
    host.shell("nft delete table inet foreign; nft delete table ip bareforge")


@pytest.mark.parametrize(
    ("tamper", "kind"),
    [
        ("nft flush chain inet bareforge input", "firewall"),
        ("nft insert rule inet bareforge input tcp dport 9999 accept", "firewall"),
        ("nft chain inet bareforge input '{ policy accept; }'", "firewall"),
        ("nft delete table inet bareforge", "firewall"),
        ("systemctl disable bareforge-firewall.service", "firewall"),
        (
            "nft delete rule inet bareforge input handle $(nft -a list chain inet bareforge input | sed -n 's/.* web\" # handle //p')",
            "firewall_rule",
        ),
        (
            'h=$(nft -a list chain inet bareforge input | sed -n \'s/.* web" # handle //p\'); c=$(nft list chain inet bareforge input | sed -n \'s/.*comment \\(".* web"\\).*/\\1/p\'); nft replace rule inet bareforge input handle $h tcp dport 9999 accept comment "$c"',
            "firewall_rule",
        ),
    ],
    ids=["flushed", "rule-added", "policy", "table-deleted", "unit-disabled", "rule-deleted", "rule-changed"],
)
def test_what_somebody_changed_by_hand_shows_and_is_mended(
    host: RealHost, world: World, tamper: str, kind: str
) -> None:
    document = {
        "firewall": {"management_sources": ["10.0.0.0/8", "192.0.2.0/24"]},
        "firewall_rules": [rule("web", protocol="tcp", ports=["80"])],
    }
    host.apply(document)
    good = host.run("nft", "list", "table", "inet", "bareforge")
    check, result = tampered(host, tamper, (document, True), (document, False))
    assert kind in [change["kind"] for change in result["changes"]]
    assert check["changes"] == result["changes"]
    assert host.run("nft", "list", "table", "inet", "bareforge") == good
    assert host.run("systemctl", "is-enabled", "bareforge-firewall.service") == "enabled"
    assert world.open_ports(OUTSIDE4, HOST4) == [22, 80]
    assert not host.apply(document)["changed"]


def test_mending_keeps_what_the_document_leaves_open(host: RealHost) -> None:
    host.apply(
        {"firewall": {}, "firewall_rules": [rule("web", protocol="tcp", ports=["80"], sources=["192.0.2.0/24"])]}
    )
    (result,) = tampered(
        host, "nft flush chain inet bareforge input", ({"firewall_rules": [rule("web", ports=["80"])]}, False)
    )
    assert result["changed"]
    assert host.gather("firewall_rule")["firewall_rules"][0]["sources"] == ["192.0.2.0/24"]


def test_rule_that_was_changed_by_hand_can_be_removed(host: RealHost) -> None:
    host.apply(
        {"firewall": {}, "firewall_rules": [rule("web", protocol="tcp", ports=["80"]), rule("b", protocol="icmp")]}
    )
    (result,) = tampered(
        host,
        "nft flush chain inet bareforge input",
        ({"firewall_rules": [{"name": "web", "state": "absent"}]}, False),
    )
    assert result["changed"]
    assert [item["name"] for item in host.gather("firewall_rule")["firewall_rules"]] == ["b"]
    assert "web" not in host.run("nft", "list", "table", "inet", "bareforge")


def test_rules_that_a_document_does_not_name_stay(host: RealHost) -> None:
    host.apply(
        {"firewall": {}, "firewall_rules": [rule("a", protocol="icmp"), rule("b", protocol="tcp", ports=["80"])]}
    )
    host.apply({"firewall_rules": [rule("c", service="dns")]})
    assert [item["name"] for item in host.gather("firewall_rule")["firewall_rules"]] == ["a", "b", "c"]
    result = host.apply({"firewall_rules": [rule("c", service="dns")]}, exact=["firewall_rule"])
    assert [(change["action"], change["key"]) for change in result["changes"]] == [("delete", "a"), ("delete", "b")]


def test_hostile_names_are_carried_through(host: RealHost) -> None:
    names = ['"; flush ruleset', "$(reboot) `id`", "a" * 100, "\u00fc\u4e2d" * 50, "{ } # \\ '"]
    document = {"firewall": {}, "firewall_rules": [rule(name, protocol="icmp", log=True) for name in names]}
    assert host.apply(document)["changed"]
    assert not host.apply(document)["changed"]
    assert sorted(item["name"] for item in host.gather("firewall_rule")["firewall_rules"]) == sorted(names)
    # What nft prints has to be loadable by others.
    host.shell("nft list ruleset > /run/bftest.nft; nft -c -f /run/bftest.nft")


def test_policy_that_would_lock_the_controller_out_is_refused(host: RealHost) -> None:
    with pytest.raises(OnHostError, match=r"would lock the controller out.* to port 22 of ") as refused:
        host.apply({"firewall": {"management_sources": ["203.0.113.0/24"]}})
    assert refused.value.kind == "ValidateError"
    assert "bareforge" not in host.run("nft", "list", "tables", "inet")
    allowed = host.apply(
        {
            "firewall": {"management_sources": ["203.0.113.0/24"]},
            "firewall_rules": [rule("controller", service="ssh", interfaces=["mgmt0"])],
        }
    )
    assert allowed["changed"]
    assert host.answers()
    with pytest.raises(OnHostError, match="would lock the controller out"):
        host.apply({"firewall_rules": [{"name": "controller", "state": "absent"}]})


def test_rule_without_a_firewall_is_kept_and_said_not_to_hold(host: RealHost, world: World) -> None:
    result = host.apply({"firewall_rules": [rule("web", action="deny", protocol="tcp", ports=["80"])]})
    assert "not in force" in result["warnings"][0]
    assert 80 in world.open_ports(OUTSIDE4, HOST4)
    host.apply({"firewall": {"default_inbound": "allow"}})
    assert 80 not in world.open_ports(OUTSIDE4, HOST4)


def test_swap_leaves_no_moment_without_a_firewall(host: RealHost, world: World) -> None:
    def swap_while_knocking(document: Any, swaps: int) -> Any:
        import threading

        import host_tools

        host_tools.apply(document)
        over = threading.Event()
        attempts = []

        def knock() -> None:
            import socket

            host_tools.enter_namespace("outside")
            while not over.is_set():
                with socket.socket() as client:
                    client.settimeout(0.01)
                    try:
                        client.connect(("192.0.2.1", 9999))
                        attempts.append(True)
                    except OSError:
                        attempts.append(False)

        threads = [threading.Thread(target=knock) for _number in range(4)]
        for thread in threads:
            thread.start()
        for number in range(swaps):
            host_tools.apply({"firewall_rules": [{"name": "web", "position": 10 + number}]})
        over.set()
        for thread in threads:
            thread.join()
        return [len(attempts), sum(attempts)]

    rules = [rule("web", protocol="tcp", ports=["80"])] + [rule(f"r{n}", protocol="icmp") for n in range(50)]
    document = {"firewall": {}, "firewall_rules": rules}
    attempts, hits = host.on_host(swap_while_knocking, document=document, swaps=15)
    assert attempts > 100, "too few knocks to tell anything"
    assert hits == 0


def test_killed_between_kernel_and_file_converges(host: RealHost) -> None:
    def die_at(document: Any, where: str) -> int:
        import os

        import host_tools

        from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm import firewall

        def die(*_arguments: Any, **_options: Any) -> None:
            os._exit(9)

        child = os.fork()
        if child == 0:
            module, name = where.rsplit(".", 1)
            setattr(getattr(firewall, module) if module != "firewall" else firewall, name, die)
            host_tools.apply(document)
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    document = {"firewall": {"log_denied": True}, "firewall_rules": [rule("web", protocol="tcp", ports=["80"])]}
    for where in ("nftables.run", "firewall.store_asked", "systemd.install_unit"):
        host.shell("nft delete table inet bareforge || true; rm -f /etc/bareforge/firewall.json")
        if where == "systemd.install_unit":
            host.shell(
                "systemctl disable --now bareforge-firewall.service || true; rm -f /etc/systemd/system/bareforge-firewall.service"
            )
        assert host.on_host(die_at, document=document, where=where) == 9, where
        assert host.apply(document)["changed"], where
        assert not host.apply(document)["changed"], where
        assert host.run("systemctl", "is-enabled", "bareforge-firewall.service") == "enabled"


def test_restart_of_nftables_brings_the_table_back(host: RealHost, world: World) -> None:
    host.apply({"firewall": {}, "firewall_rules": [rule("web", protocol="tcp", ports=["80"])]})
    host.run("systemctl", "restart", "nftables.service")
    # systemctl waits for the unit that it was told of; ours is restarted right behind it.
    host.shell("until systemctl is-active --quiet bareforge-firewall.service; do sleep 0.2; done", timeout=60)
    assert world.open_ports(OUTSIDE4, HOST4) == [22, 80]
    host.run("systemctl", "reload", "nftables.service")
    host.shell("until systemctl is-active --quiet bareforge-firewall.service; do sleep 0.2; done", timeout=60)
    assert world.open_ports(OUTSIDE4, HOST4) == [22, 80]
    host.run("systemctl", "stop", "nftables.service")


def test_restart_of_the_host_keeps_the_table(host: RealHost) -> None:
    document = {
        "firewall": {"log_denied": True},
        "firewall_rules": [rule("web", protocol="tcp", ports=["80"]), rule("off", protocol="icmp", enabled=False)],
    }
    host.apply(document)
    before = host.run("nft", "list", "table", "inet", "bareforge")
    host.reboot()
    assert host.run("nft", "list", "table", "inet", "bareforge") == before
    assert not host.apply(document)["changed"]
    order = host.run("systemctl", "show", "-p", "Before", "bareforge-firewall.service")
    assert "network-pre.target" in order
