# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The inventory plugin under ansible-inventory, with hosts whose libvirt is in memory."""

from __future__ import annotations

import ast
import json
import subprocess
from typing import Any
from xml.sax.saxutils import escape

import pytest
import yaml

from support.libvirt_in_memory import RUNNING, SHUTOFF

from .conftest import BIN, ROOT, Site, read

PLUGIN = ROOT / "plugins" / "inventory" / "inventory.py"


def vm(name: str, address: str = "", network: str = "app", **known: Any) -> str:
    """Return the XML of a VM of ours."""
    text = escape(json.dumps({"nics": [{"name": "eth0", "addresses": [address] if address else []}], **known}))
    return (
        f"<domain><name>{name}</name><uuid>0000-{name}</uuid><metadata><b:vm "
        f"xmlns:b='https://bareforge.dev/xmlns/1'>{text}</b:vm></metadata><currentMemory unit='MiB'>512</currentMemory>"
        f"<vcpu>2</vcpu><devices><interface type='network'><mac address='52:54:00:00:00:01'/><source network='br0' "
        f"portgroup='{network}'/><vlan><tag id='10'/></vlan><alias name='ua-eth0'/></interface></devices></domain>"
    )


def members(listed: dict[str, Any], group: str) -> list[str]:
    return sorted(listed.get(group, {}).get("hosts", []))


def variables(listed: dict[str, Any], host: str) -> dict[str, Any]:
    return listed["_meta"]["hostvars"][host]


def said(done: subprocess.CompletedProcess[str]) -> str:
    return " ".join(done.stderr.split())


def test_hosts_and_vms_with_groups_and_variables(site: Site) -> None:
    first = site.host(
        "kvm01", (vm("web1", "10.10.0.11/24", template="debian", tags=["blue"]), RUNNING), (vm("db1"), SHUTOFF)
    )
    site.write([{**first, "user": "operator"}, site.host("kvm02", (vm("app1", "10.10.0.12/24", "lab"), RUNNING))])
    listed = site.listed()
    assert members(listed, "hypervisors") == members(listed, "kvm_hosts") == ["kvm01", "kvm02"]
    assert members(listed, "virtual_machines") == members(listed, "kvm_vms") == ["app1", "db1", "web1"]
    assert members(listed, "hypervisor_kvm01") == ["db1", "web1"]
    assert members(listed, "hypervisor_kvm02") == ["app1"]
    assert members(listed, "power_running") == ["app1", "web1"]
    assert members(listed, "power_stopped") == ["db1"]
    assert members(listed, "network_app") == ["db1", "web1"]
    assert members(listed, "network_lab") == ["app1"]
    assert members(listed, "vlan_10") == ["app1", "db1", "web1"]
    assert members(listed, "template_debian") == members(listed, "tag_blue") == ["web1"]
    web = variables(listed, "web1")
    assert web["ansible_host"] == "10.10.0.11"
    assert (web["bareforge_vm"]["hypervisor"], web["bareforge_vm"]["memory"]) == ("kvm01", 512)
    assert "ansible_host" not in variables(listed, "db1")
    assert "bareforge_platform" not in web
    assert variables(listed, "kvm01") == {
        "ansible_python_interpreter": first["python_interpreter"],
        "ansible_user": "operator",
        "bareforge_platform": "kvm",
    }
    assert site.asked("kvm01") == site.asked("kvm02") == 1


def test_what_is_composed_grouped_filtered_and_named(site: Site) -> None:
    site.write(
        [site.host("kvm01", (vm("web1", "10.10.0.11/24"), RUNNING), (vm("db1"), SHUTOFF))],
        filters=["bareforge_vm.power == 'running'", "'app' in bareforge_vm.networks"],
        hostnames=["hostname", "bareforge_vm.name ~ '.' ~ bareforge_vm.hypervisor"],
        compose={"ansible_user": "'operator'", "size": "bareforge_vm.memory * 2"},
        groups={"small": "size < 2048"},
        keyed_groups=[{"key": "bareforge_vm.cpus", "prefix": "cpus"}, {"key": "bareforge_vm.networks", "prefix": "on"}],
        group_by=["power"],
        strict=True,
    )
    # A number is no group's name.
    done = site.run()
    assert done.returncode != 0
    assert "Invalid group name format" in said(done)
    config = json.loads(site.config.read_text())
    config["keyed_groups"][0]["key"] = "bareforge_vm.cpus | string"
    site.config.write_text(json.dumps(config))
    listed = site.listed()
    assert members(listed, "virtual_machines") == ["web1.kvm01"]
    assert members(listed, "small") == members(listed, "cpus_2") == members(listed, "on_app") == ["web1.kvm01"]
    assert (variables(listed, "web1.kvm01")["ansible_user"], variables(listed, "web1.kvm01")["size"]) == (
        "operator",
        1024,
    )
    assert "kvm_vms" not in listed
    assert "power_running" in listed


def test_vms_of_one_name_on_two_hosts(site: Site) -> None:
    hosts = [site.host(name, (vm("web1"), RUNNING), (vm(f"only-{name}"), RUNNING)) for name in ("kvm01", "kvm02")]
    site.write(hosts)
    done = site.run()
    listed = read(done)
    assert members(listed, "virtual_machines") == ["only-kvm01", "only-kvm02", "web1.kvm01", "web1.kvm02"]
    assert "VM 'web1' is on kvm01, kvm02 and is called by the names of VM and host" in said(done)


def test_a_vm_that_another_source_describes_is_that_host(site: Site) -> None:
    static = site.folder / "hosts.yml"
    static.write_text(json.dumps({"all": {"hosts": {"web1": {"role": "shop"}}}}), encoding="utf-8")
    site.write([site.host("kvm01", (vm("web1", "10.10.0.11/24"), RUNNING))])
    listed = site.listed(before=[static])
    assert variables(listed, "web1")["role"] == "shop"
    assert variables(listed, "web1")["ansible_host"] == "10.10.0.11"


def test_a_name_that_ssh_takes_for_an_option_is_left_out(site: Site) -> None:
    site.write([site.host("kvm01", (vm("-oProxyCommand=x"), RUNNING), (vm("web1"), RUNNING))])
    done = site.run()
    assert members(read(done), "virtual_machines") == ["web1"]
    assert "VM '-oProxyCommand=x' is left out, since its name begins with a hyphen" in said(done)


def test_texts_of_a_host_are_never_templates(site: Site) -> None:
    evil = "{{ lookup('pipe', 'touch %s') }}" % (site.folder / "owned")
    site.write(
        [site.host("kvm01", (vm("web1", template=evil), RUNNING))],
        compose={"again": "bareforge_vm.template"},
        keyed_groups=[{"key": "bareforge_vm.template", "prefix": "t"}],
    )
    listed = site.listed()
    assert variables(listed, "web1")["bareforge_vm"]["template"] == evil
    assert not (site.folder / "owned").exists()


# -- Hosts of earlier sources ------------------------------------------------------------------------------------------


def test_hosts_and_groups_of_an_earlier_source_with_their_group_vars(site: Site) -> None:
    entries = {name: site.host(name, (vm(f"vm-{name}"), RUNNING)) for name in ("kvm01", "kvm02", "kvm03")}
    hosts = {name: {"ansible_python_interpreter": entry["python_interpreter"]} for name, entry in entries.items()}
    static = site.folder / "hosts.yml"
    static.write_text(
        json.dumps(
            {
                "kvm_hosts": {"hosts": {"kvm01": hosts["kvm01"], "kvm02": hosts["kvm02"]}},
                "others": {"hosts": {"kvm03": hosts["kvm03"]}},
            }
        ),
        encoding="utf-8",
    )
    (site.folder / "group_vars").mkdir()
    (site.folder / "group_vars" / "all.yml").write_text(
        "bareforge_platform: \"{{ 'k' ~ 'vm' }}\"\nansible_connection: \"{{ way }}\"\nway: ansible.builtin.local\n",
        encoding="utf-8",
    )
    site.write(["kvm_hosts", "kvm01", "kvm03"])
    listed = site.listed(before=[static])
    assert members(listed, "virtual_machines") == ["vm-kvm01", "vm-kvm02", "vm-kvm03"]
    assert site.asked("kvm01") == 1


WRONG_ENTRIES: list[tuple[Any, str]] = [
    ("nowhere", "hosts[0]: 'nowhere' is not allowed; allowed is a host or group of an inventory source"),
    (7, "hosts[1]: 7 is not allowed; allowed is a mapping"),
    ({"platform": "kvm"}, "hosts[2].name: must be given"),
    ({"name": "a"}, "hosts['a'].platform: must be given; allowed is kvm"),
    ({"name": "b", "platform": "esxi"}, "hosts['b'].platform: 'esxi' is not allowed; allowed is"),
    ({"name": "c", "platform": "kvm", "port": 70000}, "hosts['c'].port: 70000 is not allowed"),
    ({"name": "d", "platform": "kvm", "prot": 22}, "hosts['d'].prot: unknown; known are name, platform, host"),
    ({"name": "e", "platform": "kvm", "vars": [1]}, "hosts['e'].vars: what is given is not allowed"),
    (
        {"name": "f", "platform": "kvm", "settings": {"user": "root"}},
        "hosts['f'].settings: goes with platforms that have an API; kvm is reached by SSH",
    ),
    ({"name": "g", "platform": "kvm", "password": 12345678}, "hosts['g'].password: what is given is not allowed"),
    ({"name": "h", "platform": "kvm"}, ""),
    ({"name": "h", "platform": "kvm"}, "hosts[11]: 'h' is listed twice"),
    ("kvm01", "hosts[12]: bareforge_platform of host 'kvm01' is not set; allowed is kvm"),
    ("kvm02", "hosts[13]: bareforge_platform of host 'kvm02' is 'esxi', which is not allowed; allowed is kvm"),
]


def test_all_wrong_entries_are_refused_by_name_at_once(site: Site) -> None:
    static = site.folder / "hosts.yml"
    static.write_text("all: {hosts: {kvm01: , kvm02: {bareforge_platform: esxi}}}\n", encoding="utf-8")
    site.write([entry for entry, _message in WRONG_ENTRIES])
    done = site.run(before=[static])
    assert done.returncode != 0
    for _entry, message in WRONG_ENTRIES:
        assert message in said(done)
    assert "12345678" not in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout": 0}, "timeout: 0 is not allowed; allowed is a whole number from 1 to 3600"),
        ({"address_sources": ["guess"]}, "guess"),
        (
            {"filters": ["true", "bareforge_vm.pwer == 'running'"]},
            "filters[1]: \"bareforge_vm.pwer == 'running'\" says nothing",
        ),
    ],
)
def test_wrong_options_are_refused(site: Site, options: dict[str, Any], message: str) -> None:
    site.write([site.host("kvm01", (vm("web1"), RUNNING))], **options)
    done = site.run()
    assert done.returncode != 0
    assert message in said(done)


def test_other_files_are_left_to_other_plugins(site: Site) -> None:
    site.config = site.folder / "site.yml"
    site.write([site.host("kvm01")])
    assert site.run().returncode != 0
    assert site.asked("kvm01") == 0


# -- Hosts that cannot be read -----------------------------------------------------------------------------------------


def broken_hosts(site: Site) -> dict[str, tuple[dict[str, Any], str]]:
    """Return hosts by what is wrong with them, each with a part of the message."""
    denied = site.folder / "ssh"
    denied.write_text("#!/bin/sh\necho 'operator@denied: Permission denied (publickey).' >&2\nexit 255\n")
    denied.chmod(0o755)
    by_ssh = {"platform": "kvm", "user": "operator", "host": "127.0.0.1"}
    return {
        "closed": ({**by_ssh, "name": "closed", "port": 1}, "closed: the host cannot be reached: "),
        "denied": (
            {**by_ssh, "name": "denied", "vars": {"ansible_ssh_executable": str(denied)}},
            "denied: the host refuses the login: ",
        ),
        "stalls": (site.host("stalls", script="exec sleep 600"), "stalls: gave no answer within 20 s"),
        "bare": (site.host("bare", script="exec /usr/bin/env -i python3 -I -S -"), "python3-libvirt"),
        "none": (
            {**site.host("none"), "python_interpreter": "/nowhere/python3"},
            "none: there is no /nowhere/python3 on the host: ",
        ),
        "mad": (
            site.host("mad", script="echo what; echo trouble >&2; exit 3"),
            "ended with status 3 and gave no answer: trouble",
        ),
    }


def test_every_host_that_cannot_be_read_is_named_and_the_others_are_there(site: Site) -> None:
    broken = broken_hosts(site)
    site.write([*(entry for entry, _message in broken.values()), site.host("kvm01", (vm("web1"), RUNNING))], timeout=20)
    done = site.run()
    assert done.returncode == 0, done.stderr
    listed = read(done)
    for name, (_entry, message) in broken.items():
        assert message in said(done), name
    assert members(listed, "hypervisors_unreachable") == sorted(broken)
    assert members(listed, "hypervisors") == sorted([*broken, "kvm01"])
    assert members(listed, "virtual_machines") == ["web1"]


def test_where_that_shall_fail_the_source_fails_and_names_them(site: Site) -> None:
    broken = broken_hosts(site)
    wanted = ["mad", "none"]
    site.write([*(broken[name][0] for name in wanted), site.host("kvm01", (vm("web1"), RUNNING))], unreachable="fail")
    done = site.run()
    assert done.returncode != 0
    for name in wanted:
        assert broken[name][1] in said(done)
    lenient = site.run(environment={"ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "false"})
    assert "web1" not in lenient.stdout


# -- The cache ---------------------------------------------------------------------------------------------------------


def cached(site: Site) -> dict[str, Any]:
    return {"cache": True, "cache_plugin": "ansible.builtin.jsonfile", "cache_connection": str(site.folder / "cache")}


def test_the_cache_spares_the_hosts_and_is_refreshed_when_asked(site: Site) -> None:
    site.write([site.host("kvm01", (vm("web1", "10.10.0.11/24"), RUNNING))], **cached(site))
    first = site.listed()
    site.host("kvm01", (vm("web2"), RUNNING))
    second = site.listed()
    assert second == first
    assert site.asked("kvm01") == 1
    third = read(site.run("--list", "--export", "--flush-cache"))
    assert members(third, "virtual_machines") == ["web2"]
    assert site.asked("kvm01") == 2
    assert members(site.listed(), "virtual_machines") == ["web2"]


def test_what_is_made_of_the_cache_follows_the_configuration(site: Site) -> None:
    host = site.host("kvm01", (vm("web1"), RUNNING), (vm("db1"), SHUTOFF))
    site.write([host], **cached(site))
    site.listed()
    site.write([host], filters=["bareforge_vm.power == 'running'"], **cached(site))
    assert members(site.listed(), "virtual_machines") == ["web1"]
    assert site.asked("kvm01") == 1


def test_a_host_that_is_reached_differently_or_new_is_read(site: Site) -> None:
    host = site.host("kvm01", (vm("web1"), RUNNING))
    site.write([host], **cached(site))
    site.listed()
    site.write([{**host, "user": "other"}, site.host("kvm02", (vm("db1"), RUNNING))], **cached(site))
    assert members(site.listed(), "virtual_machines") == ["db1", "web1"]
    assert (site.asked("kvm01"), site.asked("kvm02")) == (2, 1)
    site.listed()
    assert (site.asked("kvm01"), site.asked("kvm02")) == (2, 1)


def test_a_host_that_could_not_be_read_is_not_in_the_cache(site: Site) -> None:
    site.write([site.host("kvm01", script="exit 3"), site.host("kvm02", (vm("db1"), RUNNING))], **cached(site))
    assert members(site.listed(), "hypervisors_unreachable") == ["kvm01"]
    site.host("kvm01", (vm("web1"), RUNNING))
    assert members(site.listed(), "virtual_machines") == ["db1", "web1"]
    assert site.asked("kvm02") == 1


@pytest.mark.parametrize("content", ['{"version": 0}', '"odd"', '{"version": 1, "hosts": {"kvm01": {"reached": "x"}}}'])
def test_a_cache_of_another_version_is_not_used(site: Site, content: str) -> None:
    site.write([site.host("kvm01", (vm("web1"), RUNNING))], **cached(site))
    site.listed()
    (file,) = (path for path in (site.folder / "cache").iterdir())
    wrapped = json.loads(file.read_text())
    file.write_text(json.dumps({**wrapped, "__payload__": content}) if "__payload__" in wrapped else content)
    assert members(site.listed(), "virtual_machines") == ["web1"]
    assert site.asked("kvm01") == 2


# -- Secrets -----------------------------------------------------------------------------------------------------------

SECRETS = {"plain": "s3cret-plain", "vault": "s3cret-vault", "looked": "s3cret-looked", "free": "s3cret-free"}


def test_secrets_are_used_and_never_shown(site: Site) -> None:
    password_file = site.folder / "vault-password"
    password_file.write_text("sesame\n", encoding="utf-8")
    vaulted = subprocess.run(
        [str(BIN / "ansible-vault"), "encrypt_string", "--vault-password-file", str(password_file), SECRETS["vault"]],
        capture_output=True,
        text=True,
        check=True,
        cwd=site.folder,
    ).stdout
    # What becomes of the passwords is told by programs that stand where ssh and sudo would.
    host = site.host("kvm01", (vm("web1"), RUNNING))
    ssh = site.folder / "ssh"
    ssh.write_text(
        f'#!/bin/sh\n"$SSH_ASKPASS" "operator@192.0.2.1\'s password:" >{site.folder}/ssh-password 2>&1 </dev/null\nfor last; do :; done\nexec sh -c "$last"\n'
    )
    ssh.chmod(0o755)
    sudo = site.folder / "sudo"
    sudo.write_text(
        "#!/bin/sh\n"
        "while [ $# -gt 0 ]; do case $1 in -p) printf '%s' \"$2\" >&2; shift 2;; -u) shift 2;; -*) shift;; *) break;; esac; done\n"
        f'IFS= read -r given; printf \'%s\' "$given" >{site.folder}/sudo-password\nexec "$@"\n'
    )
    sudo.chmod(0o755)
    site.config.write_text(
        "plugin: bareforge.hypervisor.inventory\n"
        "address_sources: [document]\n"
        f"cache: true\ncache_plugin: ansible.builtin.jsonfile\ncache_connection: {site.folder}/cache\n"
        "hosts:\n"
        "  - name: kvm01\n    platform: kvm\n    host: 192.0.2.1\n    user: operator\n"
        "    password: \"{{ lookup('ansible.builtin.env', 'LOOKED') }}\"\n"
        f"    python_interpreter: {host['python_interpreter']}\n"
        "    become: true\n"
        "    become_password: " + vaulted.rstrip().replace("\n          ", "\n        ") + "\n"
        f"    vars: {{ansible_ssh_executable: {ssh}, ansible_become_exe: {sudo}, ansible_host_key_checking: false, "
        f"token: {SECRETS['free']}}}\n",
        encoding="utf-8",
    )
    environment = {"LOOKED": SECRETS["looked"], "ANSIBLE_VAULT_PASSWORD_FILE": str(password_file)}
    done = site.run("--list", "--export", "-vvvv", environment=environment)
    assert done.returncode == 0, done.stderr
    assert "web1" in done.stdout
    assert (site.folder / "sudo-password").read_text() == SECRETS["vault"]
    assert (site.folder / "ssh-password").read_text().strip() == SECRETS["looked"]
    kept = "".join(path.read_text() for path in (site.folder / "cache").iterdir())
    assert "web1" in kept
    for secret in SECRETS.values():
        assert secret not in done.stdout
        assert secret not in done.stderr
        assert secret not in kept


# -- The documentation -------------------------------------------------------------------------------------------------


def text_of(variable: str) -> str:
    tree = ast.parse(PLUGIN.read_text("utf-8"))
    (found,) = (
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == variable
    )
    return str(ast.literal_eval(found))


def test_every_example_is_a_configuration_that_the_plugin_takes(site: Site) -> None:
    hosts = {
        name: {**site.host(name, (vm("web1", "10.10.0.11/24"), RUNNING)), "vars": {"ansible_connection": "local"}}
        for name in ("kvm01", "kvm02", "kvm03")
    }
    static = site.folder / "hosts.yml"
    static.write_text(
        json.dumps(
            {
                "kvm_hosts": {
                    "hosts": {"kvm01": {"ansible_python_interpreter": hosts["kvm01"]["python_interpreter"]}},
                    "vars": {"ansible_connection": "local", "bareforge_platform": "kvm"},
                }
            }
        ),
        encoding="utf-8",
    )
    for example in yaml.safe_load_all(text_of("EXAMPLES")):
        for entry in example["hosts"]:
            if isinstance(entry, dict):
                # There is nobody at the examples' addresses.
                entry.update(become=False, python_interpreter=hosts[entry["name"]]["python_interpreter"])
                entry["vars"] = {"ansible_connection": "local"}
        if example.get("cache"):
            example["cache_connection"] = str(site.folder / "cache")
        site.config.write_text(json.dumps(example), encoding="utf-8")
        done = site.run(
            *("--list", "--export", "-e", "kvm03_become_password=y"),
            before=[static],
            environment={"KVM03_PASSWORD": "x"},
        )
        assert done.returncode == 0, done.stderr
        listed = read(done)
        assert members(listed, "virtual_machines"), example
        assert "hypervisors_unreachable" not in listed


def test_the_documentation_names_every_field_of_a_host() -> None:
    from ansible_collections.bareforge.hypervisor.plugins.plugin_utils.inventory_hosts import HostEntry

    documented = yaml.safe_load(text_of("DOCUMENTATION"))["options"]["hosts"]["suboptions"]
    assert set(documented) == set(HostEntry.options())
    assert documented["platform"]["choices"] == list(HostEntry.options()["platform"].type.argument()["choices"])
