# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The host itself on a real KVM host: what its own programs say of names, time, log and services afterwards."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from ..real_host import OnHostError, RealHost

FILES = (
    *("/etc/hostname", "/etc/hosts", "/etc/timezone", "/etc/systemd/resolved.conf.d", "/etc/systemd/timesyncd.conf.d"),
    *("/etc/rsyslog.d", "/var/lib/bareforge/system.json"),
)
UNITS = ("systemd-resolved", "systemd-timesyncd", "rsyslog")


@pytest.fixture(autouse=True)
def as_it_was(host: RealHost) -> Iterator[None]:
    """Bring the host's files back to what they were, whatever a test has done."""
    host.shell(f"tar -cf /var/tmp/before.tar --ignore-failed-read {' '.join(FILES)} 2>/dev/null || true")
    zone = host.run("readlink", "/etc/localtime")
    name = host.run("cat", "/proc/sys/kernel/hostname")
    yield
    host.shell(
        f"""
        rm -rf {" ".join(FILES[3:])}
        tar -C / -xf /var/tmp/before.tar
        ln -sfn {zone} /etc/localtime
        hostname {name}
        systemctl reset-failed
        systemctl restart {" ".join(UNITS)}
        """
    )


def settled(host: RealHost, system: dict[str, Any]) -> list[str]:
    """Apply it with all that is promised of it, and return the fields that changed."""
    planned = host.apply({"system": system}, check=True)
    done = host.apply({"system": system})
    assert done["changes"] == planned["changes"]
    assert host.apply({"system": system})["changes"] == []
    assert host.apply(host.gather("system"), check=True)["changes"] == []
    return [field for change in done["changes"] for field in change["fields"]]


@pytest.mark.capability("kvm", "system", ran_against="real")
def test_names_name_servers_time_and_zone_are_what_the_hosts_programs_say(host: RealHost) -> None:
    wanted = {
        "hostname": "hv7",
        "domain": "example.org",
        "dns_servers": ["192.0.2.53", "2001:db8::53"],
        "dns_search": ["example.org", "example.net"],
        "ntp_servers": ["192.0.2.123", "ntp.example.org"],
        "timezone": "Europe/Berlin",
    }
    assert sorted(settled(host, wanted)) == sorted(wanted)
    assert host.run("hostname") == "hv7"
    assert host.run("hostname", "--fqdn") == "hv7.example.org"
    assert host.run("hostnamectl", "--static") == "hv7"
    # resolvectl gives domains in an order of its own; the file that it writes has them in ours.
    assert host.run("resolvectl", "dns").splitlines()[0] == "Global: 192.0.2.53 2001:db8::53"
    assert set(host.run("resolvectl", "domain").splitlines()[0].split()[1:]) == {"example.org", "example.net", "~."}
    assert "search example.org example.net" in host.run("cat", "/etc/resolv.conf")
    servers = host.run("timedatectl", "show-timesync", "--property=SystemNTPServers", "--value")
    assert servers.split() == ["192.0.2.123", "ntp.example.org"]
    assert host.run("timedatectl", "show", "--property=Timezone", "--value") == "Europe/Berlin"
    assert host.run("date", "--date=2026-01-15T12:00:00Z", "+%Z %H") == "CET 13"
    assert settled(host, {"hostname": "hv8"}) == ["hostname"]
    assert host.run("hostname", "--fqdn") == "hv8.example.org"
    assert "hv7" not in host.run("cat", "/etc/hosts")
    cleared = {"domain": "", "dns_servers": [], "dns_search": [], "ntp_servers": []}
    assert sorted(settled(host, cleared)) == sorted(cleared)
    assert "192.0.2.53" not in host.run("resolvectl", "dns")


def listen() -> None:
    """Start what plays the log servers: one for UDP, one for TCP."""
    import host_tools

    script = (
        "import selectors, socket\n"
        "u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(('127.0.0.2', 5140))\n"
        "t = socket.create_server(('127.0.0.3', 5141)); s = selectors.DefaultSelector()\n"
        "[s.register(x, 1) for x in (u, t)]\n"
        "log = open('/run/bftest-log', 'ab', buffering=0)\n"
        "while True:\n"
        "    for key, _ in s.select():\n"
        "        x = key.fileobj\n"
        "        if x is t: s.register(t.accept()[0], 1); continue\n"
        "        data = x.recv(65536)\n"
        "        if data: log.write((b'udp ' if x is u else b'tcp ') + data + b'\\n')\n"
        "        else: s.unregister(x)\n"
    )
    host_tools.output("systemctl", "stop", "bftest-log", check=False)
    host_tools.output("rm", "-f", "/run/bftest-log")
    host_tools.output("systemd-run", "--quiet", "--collect", "--unit=bftest-log", "/usr/bin/python3", "-c", script)


@pytest.mark.capability("kvm", "system.syslog", ran_against="real")
def test_the_log_arrives_at_every_server(host: RealHost) -> None:
    host.on_host(listen)
    try:
        servers = [
            {"host": "127.0.0.2", "port": 5140, "protocol": "udp"},
            {"host": "127.0.0.3", "port": 5141, "protocol": "tcp"},
        ]
        assert settled(host, {"syslog_servers": servers}) == ["syslog_servers"]
        deadline = time.monotonic() + 60
        text = ""
        while not ("udp" in text and "tcp" in text):
            host.run("logger", "-t", "bftest", "a line for the servers")
            time.sleep(1)
            lines = host.run("cat", "/run/bftest-log", check=False).splitlines()
            text = " ".join(line.split()[0] for line in lines if "a line for the servers" in line)
            assert time.monotonic() < deadline, lines
        assert settled(host, {"syslog_servers": []}) == ["syslog_servers"]
        assert "zz-bareforge.conf" not in host.run("ls", "/etc/rsyslog.d")
    finally:
        host.run("systemctl", "stop", "bftest-log", check=False)
    with pytest.raises(OnHostError, match=r"syslog_servers\['192.0.2.1'\]\.protocol: 'tls' is not allowed"):
        host.apply({"system": {"syslog_servers": [{"host": "192.0.2.1", "protocol": "tls"}]}})


UNIT = """[Service]
ExecStart=/usr/bin/sleep infinity
[Install]
WantedBy=multi-user.target
"""


@pytest.mark.capability("kvm", "system.services", ran_against="real")
def test_services_run_and_start_as_asked(host: RealHost) -> None:
    name = "bftest-one.service"
    host.run("sh", "-c", f"cat > /etc/systemd/system/{name}", stdin=UNIT)
    host.run("systemctl", "daemon-reload")
    try:

        def shown() -> list[str]:
            return [host.run("systemctl", verb, name, check=False) for verb in ("is-active", "is-enabled")]

        assert settled(host, {"services": [{"name": "bftest-one", "running": True, "start_at_boot": True}]})
        assert shown() == ["active", "enabled"]
        host.run("systemctl", "kill", "--signal=KILL", name)
        assert settled(host, {"services": [{"name": "bftest-one", "running": True}]})
        assert shown() == ["active", "enabled"]
        assert settled(host, {"services": [{"name": "bftest-one", "running": False, "start_at_boot": False}]})
        assert shown() == ["inactive", "disabled"]
        for service, message in (
            ({"name": "no-such", "running": True}, "the host has no unit 'no-such.service'"),
            ({"name": "ssh", "running": False}, "must stay true, since the host is managed through it"),
            ({"name": "systemd-journald", "start_at_boot": True}, "the unit is static"),
        ):
            with pytest.raises(OnHostError, match=message):
                host.apply({"system": {"services": [service]}})
    finally:
        host.run("systemctl", "disable", "--now", name, check=False)
        host.run("rm", "-f", f"/etc/systemd/system/{name}")
        host.run("systemctl", "daemon-reload")


def killed_after(document: Any, step: int) -> bool:
    """Apply a document and die after the given file; return whether there was one."""
    import os

    import host_tools

    from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.linux import programs

    child = os.fork()
    if child == 0:
        original, count = programs.replace_file, 0

        def replace(*arguments: Any, **named: Any) -> None:
            nonlocal count
            original(*arguments, **named)
            count += 1
            if count == step:
                os._exit(9)

        programs.replace_file = replace
        host_tools.apply(document)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def test_killed_after_any_file_the_next_run_finishes(host: RealHost) -> None:
    names = iter(f"hv{number}" for number in range(20, 40))
    step = 1
    while True:
        name = next(names)
        document = {
            "system": {"hostname": name, "domain": f"{name}.example.org", "ntp_servers": [f"{name}.example.net"]}
        }
        if not host.on_host(killed_after, document=document, step=step):
            break
        host.apply(document)
        assert host.apply(document)["changes"] == []
        assert host.run("hostname", "--fqdn") == f"{name}.{name}.example.org"
        servers = host.run("timedatectl", "show-timesync", "--property=SystemNTPServers", "--value")
        assert servers == f"{name}.example.net"
        step += 1
    assert step > 4
