# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Users, roles and permissions on a real KVM host, as these very users see them: over SSH, and by libvirt's own API."""

from __future__ import annotations

import shlex
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..real_host import OnHostError, RealHost

PASSWORD = "correct horse battery staple"
NAMES = ("anna", "bert", "carl", "dora")


def clean_up(names: Any) -> None:
    """Take away everything that a test could have left, also where the engine itself is broken."""
    import json
    import os
    import shutil

    import host_tools

    for name in names:
        host_tools.output("loginctl", "disable-linger", name, check=False)
        host_tools.output("pkill", "-KILL", "-u", name, check=False)
        host_tools.output("userdel", "--force", name, check=False)
        shutil.rmtree(f"/home/{name}", ignore_errors=True)
    path = "/var/lib/bareforge/users.json"
    if os.path.exists(path):
        with open(path, encoding="utf-8") as stream:
            left = {name: entry for name, entry in json.load(stream).items() if name not in names}
        with open(path, "w", encoding="utf-8") as stream:
            json.dump(left, stream)


class People:
    """The users of the test, each with a key pair of its own."""

    def __init__(self, host: RealHost, folder: Path) -> None:
        self.host = host
        self.folder = folder

    def key(self, name: str) -> str:
        """Return a public key; the private one is kept."""
        path = self.folder / name
        if not path.exists():
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", path], check=True)
        return (self.folder / f"{name}.pub").read_text().strip()

    def ask(self, name: str, *argv: str, key: str = "", timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a program on the host as a user, over an SSH connection of the user's own."""
        variables = self.host.variables
        return subprocess.run(
            [
                "ssh",
                *shlex.split(variables.get("ansible_ssh_common_args", "")),
                *("-o", "ControlPath=none", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "LogLevel=ERROR"),
                *("-o", "IdentityAgent=none", "-i", str(self.folder / (key or name))),
                *("-p", str(variables["ansible_port"]), f"{name}@{variables['ansible_host']}", shlex.join(argv)),
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def gets_in(self, name: str, key: str = "") -> bool:
        """Return whether a user can log in with a key."""
        done = self.ask(name, "id", "-un", key=key)
        assert done.returncode in (0, 255), done.stderr
        return done.returncode == 0 and done.stdout.strip() == name


@pytest.fixture(scope="module")
def people(host: RealHost, tmp_path_factory: pytest.TempPathFactory) -> People:
    return People(host, tmp_path_factory.mktemp("keys"))


@pytest.fixture(autouse=True)
def nobody(host: RealHost) -> Iterator[None]:
    host.on_host(clean_up, names=NAMES)
    yield
    host.on_host(clean_up, names=NAMES)


def settled(host: RealHost, document: dict[str, Any], **how: Any) -> dict[str, Any]:
    """Apply a document with all that is promised of it: the plan, a second run, what is gathered applied back."""
    planned = host.apply(document, check=True, **how)
    done = host.apply(document, **how)
    assert done["changes"] == planned["changes"]
    assert host.apply(document, **how)["changes"] == []
    kinds = sorted({change["kind"] for change in done["changes"]})
    if kinds:
        assert host.apply(host.gather(*kinds), check=True)["changes"] == []
    return done


def gone(host: RealHost, name: str) -> None:
    """Wait until the last process of a user has ended."""
    deadline = time.monotonic() + 90
    while host.run("pgrep", "-u", name, check=False):
        host.run("pkill", "-KILL", "-u", name, check=False)
        assert time.monotonic() < deadline
        time.sleep(1)


@pytest.mark.capability("kvm", "user", "user.ssh_keys", "user.groups", "user.shell", "user.expires", ran_against="real")
def test_a_user_logs_in_by_key_as_long_as_that_is_asked(host: RealHost, people: People) -> None:
    anna = {
        "name": "anna",
        "full_name": "Anna Größe",
        "ssh_keys": [people.key("anna")],
        "groups": ["adm", "libvirt-qemu"],
        "shell": "/bin/bash",
        "expires": "2090-01-31",
    }
    done = settled(host, {"users": [anna]})
    assert [change["action"] for change in done["changes"]] == ["create"]
    assert people.gets_in("anna")
    assert set(people.ask("anna", "id", "-Gn").stdout.split()) == {"anna", "adm", "libvirt-qemu"}
    assert people.ask("anna", "printenv", "SHELL").stdout.strip() == "/bin/bash"
    modes = people.ask("anna", "stat", "-c", "%a %U %G", ".ssh", ".ssh/authorized_keys").stdout.splitlines()
    assert modes == ["700 anna anna", "600 anna anna"]
    assert host.run("getent", "passwd", "anna").split(":")[4] == "Anna Größe"

    def change(fields: dict[str, Any]) -> None:
        assert settled(host, {"users": [{"name": "anna", **fields}]})["changes"]

    change({"ssh_keys": [people.key("other")]})
    assert (people.gets_in("anna"), people.gets_in("anna", key="other")) == (False, True)
    change({"ssh_keys": [people.key("anna")], "groups": [], "shell": "/bin/sh"})
    assert people.ask("anna", "id", "-Gn").stdout.split() == ["anna"]
    assert people.ask("anna", "printenv", "SHELL").stdout.strip() == "/bin/sh"
    change({"enabled": False})
    assert not people.gets_in("anna"), "a user that is not enabled got in by key"
    change({"enabled": True})
    assert people.gets_in("anna")
    change({"expires": "2020-01-31"})
    assert not people.gets_in("anna"), "a user that has ended got in by key"
    change({"expires": ""})
    assert people.gets_in("anna")


def by_password(name: str, password: str) -> str:
    """Become a user by password, from a user who has no right to do it without."""
    import subprocess

    done = subprocess.run(
        ["runuser", "-u", "nobody", "--", "su", name, "-s", "/bin/sh", "-c", "id -un"],
        input=f"{password}\n",
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,
    )
    return done.stdout.strip()


def hash_of(password: str) -> str:
    import host_tools

    return str(host_tools.output("openssl", "passwd", "-6", password))


def test_a_password_and_a_hash_let_in_until_another_is_given(host: RealHost) -> None:
    host.apply({"users": [{"name": "anna", "password": PASSWORD}]})
    assert host.on_host(by_password, name="anna", password=PASSWORD) == "anna"
    assert host.on_host(by_password, name="anna", password="wrong") == ""
    hashes = [host.on_host(hash_of, password=word) for word in ("the first one", "the second one")]
    settled(host, {"users": [{"name": "bert", "password_hash": hashes[0]}]})
    assert host.on_host(by_password, name="bert", password="the first one") == "bert"
    done = settled(host, {"users": [{"name": "bert", "password_hash": hashes[1]}]})
    assert [change["fields"] for change in done["changes"]] == [["password_hash"]]
    assert host.on_host(by_password, name="bert", password="the first one") == ""
    assert host.on_host(by_password, name="bert", password="the second one") == "bert"
    settled(host, {"users": [{"name": "bert", "enabled": False}]})
    assert host.on_host(by_password, name="bert", password="the second one") == ""
    settled(host, {"users": [{"name": "bert", "enabled": True}]})
    assert host.on_host(by_password, name="bert", password="the second one") == "bert"


def test_a_hostile_home_folder_gives_its_user_nothing(host: RealHost, people: People) -> None:
    host.apply({"users": [{"name": "carl", "ssh_keys": [people.key("carl")]}]})
    host.shell(
        "mkdir -p /root/.ssh; echo untouched > /root/.ssh/authorized_keys; chmod 0600 /root/.ssh/authorized_keys"
    )
    document = {"users": [{"name": "carl", "ssh_keys": [people.key("other")]}]}
    as_carl = ("runuser", "-u", "carl", "--", "sh", "-euc")
    host.run(*as_carl, "cd; mv .ssh was; ln -s /root/.ssh .ssh")
    with pytest.raises(OnHostError, match=r"the SSH keys below /home/carl could not be written: \.ssh"):
        host.apply(document)
    host.run(*as_carl, "cd; rm .ssh; mv was .ssh; ln -sf /root/.ssh/authorized_keys .ssh/authorized_keys")
    settled(host, document)
    assert host.run("cat", "/root/.ssh/authorized_keys") == "untouched"
    assert host.run("stat", "-c", "%U %a", "/root/.ssh/authorized_keys") == "root 600"
    assert people.gets_in("carl", key="other")
    # The user's own rights are all that there is to write with.
    host.run("chown", "root:root", "/home/carl/.ssh")
    with pytest.raises(OnHostError, match=r"\.ssh: Permission denied"):
        host.apply({"users": [{"name": "carl", "ssh_keys": [people.key("carl")]}]})


def test_removing_names_what_runs_and_keeps_the_home_folder(host: RealHost, people: People) -> None:
    host.apply({"users": [{"name": "anna", "ssh_keys": [people.key("anna")]}]})
    people.ask("anna", "sh", "-c", "echo kept > note; setsid -f sleep 300 > /dev/null 2>&1")
    gone_document = {"users": [{"name": "anna", "state": "absent"}]}
    with pytest.raises(OnHostError, match=r"user\['anna'\]: cannot go while its processes run: .*[0-9]+ sleep"):
        host.apply(gone_document)
    gone(host, "anna")
    uid = host.run("id", "-u", "anna")
    settled(host, gone_document)
    assert host.run("cat", "/home/anna/note") == "kept"
    # Nobody else gets the id that the folder belongs to, and who comes again finds it.
    host.apply({"users": [{"name": "bert"}]})
    assert host.run("id", "-u", "bert") != uid
    settled(host, {"users": [{"name": "anna"}]})
    assert host.run("id", "-u", "anna") == uid
    settled(host, gone_document, operation={"delete_home": True})
    assert host.run("ls", "/home/anna", check=False) == ""


def test_whoever_has_come_to_manage_the_host_is_not_locked_out(host: RealHost) -> None:
    me = host.variables["ansible_user"]
    for fields, place in (
        ({"state": "absent"}, rf"user\['{me}'\]: cannot go"),
        ({"enabled": False}, rf"user\['{me}'\].enabled: must stay true"),
        ({"shell": "/usr/sbin/nologin"}, rf"user\['{me}'\].shell: must be one to log in with"),
    ):
        with pytest.raises(OnHostError, match=place):
            host.apply({"users": [{"name": me, **fields}]})
    for name in ("root", "libvirt-qemu", "polkitd"):
        with pytest.raises(OnHostError, match="a user of the system"):
            host.apply({"users": [{"name": name, "state": "absent"}]})
    result = host.apply({"users": []}, exact=["user"])
    assert [change["key"] for change in result["changes"]] == []
    assert any(f"user['{me}'] is not listed and was kept" in warning for warning in result["warnings"])


def test_keys_that_let_nobody_in_are_undone_by_the_host(host: RealHost, people: People) -> None:
    me = host.variables["ansible_user"]
    before = host.run("cat", f"/home/{me}/.ssh/authorized_keys")
    wrong = {"users": [{"name": me, "ssh_keys": [people.key("other")]}]}
    started = time.monotonic()
    result = host.apply(wrong, operation={"guard": {"enabled": True, "timeout": 12}})
    assert result["guard"]["guarded"] == [f"user['{me}']"]
    assert not host.answers(timeout=30), "the change was meant to lock the controller out"
    while not host.answers(timeout=20):
        assert time.monotonic() < started + 150, "the host has not undone it"
        time.sleep(1)
    assert host.run("cat", f"/home/{me}/.ssh/authorized_keys") == before


def killed_at(document: Any, step: int) -> bool:
    """Apply a document and die at the given program; return whether there was one."""
    import os

    import host_tools

    from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.linux import programs

    child = os.fork()
    if child == 0:
        original, count = programs.run, 0

        def run(*arguments: Any, **named: Any) -> str:
            nonlocal count
            count += 1
            if count == step:
                os._exit(9)
            return original(*arguments, **named)

        programs.run = run
        host_tools.apply(document)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def test_killed_at_every_step_the_next_run_finishes(host: RealHost, people: People) -> None:
    document = {
        "users": [
            {"name": "anna", "password": PASSWORD, "ssh_keys": [people.key("anna")], "enabled": False},
            {"name": "bert", "full_name": "Bert", "ssh_keys": [people.key("bert")]},
        ]
    }
    steps = 0
    while host.on_host(killed_at, document=document, step=steps + 1):
        steps += 1
        planned = host.apply(document, check=True)
        assert host.apply(document)["changes"] == planned["changes"]
        assert host.apply(document)["changes"] == []
        assert people.gets_in("bert")
        assert not people.gets_in("anna")
        gone(host, "bert")
        host.on_host(clean_up, names=NAMES)
    assert steps == 4


def test_a_user_that_was_there_is_taken_over_with_a_plan(host: RealHost, people: People) -> None:
    host.run("useradd", "--create-home", "--comment", "Dora,room 5", "--shell", "/bin/bash", "dora")
    document = {"users": [{"name": "dora", "full_name": "Dora Example", "ssh_keys": [people.key("dora")]}]}
    done = settled(host, document)
    assert [(change["action"], change["fields"]) for change in done["changes"]] == [
        ("update", ["full_name", "ssh_keys"])
    ]
    assert people.gets_in("dora")
    assert host.run("getent", "passwd", "dora").split(":")[4] == "Dora Example,room 5"


# -- Roles and permissions -----------------------------------------------------------------------------------------


VMS = ("bftest-a", "bftest-b")
DOMAIN = """<domain type="qemu"><name>%s</name><memory unit="MiB">32</memory><vcpu>1</vcpu>
<os><type arch="x86_64" machine="q35">hvm</type></os><description>%s</description></domain>"""


def clean_access(vms: Any) -> None:
    """Take away all permissions and VMs of the tests, and let libvirt no longer ask polkit."""
    import os
    import re

    import host_tools

    for vm in vms:
        host_tools.output("virsh", "destroy", vm, check=False)
        host_tools.output("virsh", "undefine", vm, check=False)
    for path in ("/etc/polkit-1/rules.d/10-bareforge.rules", "/etc/sudoers.d/bareforge"):
        if os.path.exists(path):
            os.unlink(path)
    with open("/etc/libvirt/libvirtd.conf", encoding="utf-8") as stream:
        text = stream.read()
    if re.search(r"(?m)^access_drivers", text):
        with open("/etc/libvirt/libvirtd.conf", "w", encoding="utf-8") as stream:
            stream.write(re.sub(r"(?m)^access_drivers.*\n", "", text))
        host_tools.output("systemctl", "restart", "libvirtd.service")


def define(vms: Any, xml: str) -> None:
    import host_tools

    for vm in vms:
        path = f"/tmp/{vm}.xml"
        with open(path, "w", encoding="utf-8") as stream:
            stream.write(xml % (vm, "as it was made"))
        host_tools.output("virsh", "define", path)


@pytest.fixture
def guests(host: RealHost) -> Iterator[RealHost]:
    """The host with two VMs that are off, and no permissions."""
    host.on_host(clean_access, vms=VMS)
    host.on_host(define, vms=VMS, xml=DOMAIN)
    yield host
    host.on_host(clean_access, vms=VMS)


class Virsh:
    """What virsh says to a user."""

    def __init__(self, people: People, name: str) -> None:
        self.people = people
        self.name = name

    def __call__(self, *argv: str) -> str:
        done = self.people.ask(self.name, "virsh", "--connect", "qemu:///system", *argv, timeout=120)
        assert done.returncode == 0, f"{self.name}: virsh {' '.join(argv)}: {done.stderr}"
        return done.stdout.strip()

    def refused(self, *argv: str) -> str:
        """Return what is said to a user who may not do it."""
        done = self.people.ask(self.name, "virsh", "--connect", "qemu:///system", *argv, timeout=120)
        assert done.returncode == 1, f"{self.name} could {' '.join(argv)}: {done.stdout}"
        return done.stderr

    def vms(self) -> set[str]:
        """Return the VMs that the user sees."""
        return set(self("list", "--all", "--name").split())


def state(host: RealHost, vm: str) -> str:
    return host.run("virsh", "domstate", vm)


@pytest.mark.capability("kvm", "permission", ran_against="real")
def test_every_role_may_do_its_own_and_no_more(guests: RealHost, people: People) -> None:
    host = guests
    users = [{"name": name, "ssh_keys": [people.key(name)]} for name in NAMES]
    done = settled(
        host,
        {
            "users": users,
            "permissions": [
                {"principal": "anna", "path": "/", "role": "viewer"},
                {"principal": "bert", "path": "/vms/bftest-a", "role": "operator"},
                {"principal": "carl", "path": "/", "role": "admin"},
            ],
        },
    )
    assert len(done["changes"]) == 7
    anna, bert, carl, dora = (Virsh(people, name) for name in NAMES)

    assert anna.vms() >= set(VMS)
    assert "as it was made" in anna("dumpxml", "bftest-a")
    assert "access denied" in anna.refused("start", "bftest-a")
    assert "access denied" in anna.refused("undefine", "bftest-a")
    assert "access denied" in anna.refused("net-destroy", "default") or "not found" in anna.refused("net-info", "x")
    assert state(host, "bftest-a") == "shut off"

    assert bert.vms() == {"bftest-a"}
    bert("start", "bftest-a")
    assert state(host, "bftest-a") == "running"
    bert("suspend", "bftest-a")
    bert("resume", "bftest-a")
    assert "access denied" in anna.refused("destroy", "bftest-a")
    bert("destroy", "bftest-a")
    assert "access denied" in bert.refused("undefine", "bftest-a")
    bert.refused("start", "bftest-b")
    assert state(host, "bftest-b") == "shut off"

    host.run("chmod", "0644", "/tmp/bftest-b.xml")
    host.run("sed", "-i", "s/as it was made/as carl made it/", "/tmp/bftest-b.xml")
    assert "access denied" in anna.refused("define", "/tmp/bftest-b.xml")
    assert "access denied" in bert.refused("define", "/tmp/bftest-b.xml")
    carl("undefine", "bftest-b")
    carl("define", "/tmp/bftest-b.xml")
    assert "as carl made it" in host.run("virsh", "dumpxml", "bftest-b")
    carl("start", "bftest-b")
    carl("destroy", "bftest-b")

    # Who has no permission is left to the host's own rules, which let nobody in at the socket that can change anything.
    assert "auth" in dora.refused("start", "bftest-a")
    assert state(host, "bftest-a") == "shut off"


@pytest.mark.capability("kvm", "role", ran_against="real")
def test_a_role_of_ones_own_for_a_group_on_one_vm(guests: RealHost, people: People) -> None:
    host = guests
    api = "org.libvirt.api"
    role = {"name": 'starter "; alert(1) //', "privileges": [f"{api}.domain.{word}" for word in ("getattr", "start")]}
    host.apply({"users": [{"name": name, "ssh_keys": [people.key(name)]} for name in ("anna", "bert")]})
    host.apply({"users": [{"name": "anna", "groups": ["adm"]}]})
    document = {
        "roles": [role],
        "permissions": [
            {"principal": "adm", "principal_type": "group", "path": "/vms/bftest-b", "role": role["name"]},
        ],
    }
    settled(host, document)
    started = host.run("systemctl", "show", "--property=InvocationID", "libvirtd.service")
    anna, bert = Virsh(people, "anna"), Virsh(people, "bert")
    anna("start", "bftest-b")
    assert state(host, "bftest-b") == "running"
    assert "access denied" in anna.refused("destroy", "bftest-b")
    assert "access denied" in anna.refused("dumpxml", "bftest-b")
    bert.refused("start", "bftest-b")
    settled(host, {"roles": [{**role, "privileges": [f"{api}.domain.{word}" for word in ("getattr", "stop")]}]})
    anna("destroy", "bftest-b")
    assert "access denied" in anna.refused("start", "bftest-b")
    # What libvirt does with a question has not changed, so it was not restarted.
    assert host.run("systemctl", "show", "--property=InvocationID", "libvirtd.service") == started
    with pytest.raises(OnHostError, match=r"cannot go, since permission\['adm//vms/bftest-b'\] gives it"):
        host.apply({"roles": [{"name": role["name"], "state": "absent"}]})
    settled(host, {"permissions": [], "roles": []}, exact=["permission", "role"])
    anna.refused("start", "bftest-b")
    assert host.run("ls", "/etc/polkit-1/rules.d") == ""


@pytest.mark.capability("kvm", "permission.kvm.sudo", ran_against="real")
def test_an_admin_becomes_root_where_that_is_asked(guests: RealHost, people: People) -> None:
    host = guests
    host.apply({"users": [{"name": name, "ssh_keys": [people.key(name)]} for name in ("anna", "bert")]})
    permission = {"principal": "anna", "path": "/", "role": "admin"}
    settled(host, {"permissions": [permission]})
    assert people.ask("anna", "sudo", "-n", "id", "-un").returncode != 0
    settled(host, {"permissions": [{**permission, "kvm": {"sudo": "no_password"}}]})
    assert people.ask("anna", "sudo", "-n", "id", "-un").stdout.strip() == "root"
    assert people.ask("bert", "sudo", "-n", "id", "-un").returncode != 0
    assert host.run("stat", "-c", "%a %U", "/etc/sudoers.d/bareforge") == "440 root"
    host.run("visudo", "--check")
    # What somebody has changed by hand is put right.
    host.run("chmod", "0644", "/etc/sudoers.d/bareforge")
    assert host.apply({"permissions": [{**permission, "kvm": {"sudo": "no_password"}}]})["changed"] is True
    settled(host, {"permissions": [{**permission, "kvm": {"sudo": "password"}}]})
    assert people.ask("anna", "sudo", "-n", "id", "-un").returncode != 0
    with pytest.raises(OnHostError, match=r"user\['anna'\]: cannot go, since permission\['anna//'\] is about it"):
        host.apply({"users": [{"name": "anna", "state": "absent"}]})
    gone(host, "anna")
    absent = {"users": [{"name": "anna", "state": "absent"}], "permissions": [{**permission, "state": "absent"}]}
    settled(host, absent)
    assert host.run("ls", "/etc/sudoers.d") == "README\noperator"


def test_what_keeps_permissions_from_holding_is_seen_and_mended(guests: RealHost, people: People) -> None:
    host = guests
    document = {"permissions": [{"principal": "anna", "path": "/vms/bftest-a", "role": "operator"}]}
    host.apply({"users": [{"name": "anna", "ssh_keys": [people.key("anna")]}]})
    settled(host, document)
    anna = Virsh(people, "anna")
    for harm in (
        "sed -i '/^access_drivers/d' /etc/libvirt/libvirtd.conf; systemctl restart libvirtd",
        "sed -i 's/NOT_HANDLED/YES/' /etc/polkit-1/rules.d/10-bareforge.rules",
        "chmod 0600 /run/libvirt/libvirt-sock",
    ):
        host.shell(harm)
        assert [change["fields"] for change in host.apply(document, check=True)["changes"]] == [["role"]]
        settled(host, document)
        anna("start", "bftest-a")
        anna("destroy", "bftest-a")
    host.run("rm", "-rf", "/etc/systemd/system/libvirtd.socket.d")
    host.run("systemctl", "daemon-reload")


def test_a_run_that_dies_before_the_restart_is_finished(guests: RealHost, people: People) -> None:
    host = guests
    document = {"permissions": [{"principal": "anna", "path": "/", "role": "viewer"}]}
    host.apply({"users": [{"name": "anna", "ssh_keys": [people.key("anna")]}]})
    assert host.on_host(killed_at, document=document, step=1)
    assert "access_drivers" in host.run("grep", "^access_drivers", "/etc/libvirt/libvirtd.conf")
    assert host.run("ls", "/etc/polkit-1/rules.d") == ""
    settled(host, document)
    anna = Virsh(people, "anna")
    assert anna.vms() >= set(VMS)
    assert "access denied" in anna.refused("start", "bftest-a")
