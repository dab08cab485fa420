# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the role kvm_host says of its options, against what the modules that it uses take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

from ansible_collections.bareforge.hypervisor.plugins.module_utils.boundary.definitions import MODULES

ROLE = Path(__file__).resolve().parents[3] / "roles" / "kvm_host"


def spec() -> dict[str, Any]:
    return yaml.safe_load((ROLE / "meta/argument_specs.yml").read_text("utf-8"))["argument_specs"]["main"]["options"]


def shape(options: dict[str, Any]) -> dict[str, Any]:
    """Return what is allowed, without descriptions and defaults."""
    return {
        name: {
            **{key: entry[key] for key in ("type", "elements", "choices") if key in entry},
            "required": bool(entry.get("required")),
            "options": shape(entry["options"]) if "options" in entry else None,
        }
        for name, entry in options.items()
    }


def test_the_tuning_is_that_of_the_module() -> None:
    module = MODULES["tuning"]
    arguments = module.argument_spec()
    assert shape(spec()["kvm_host_tuning"]["options"]) == shape({name: arguments[name] for name in module.fields})


def test_every_option_of_the_tuning_is_handed_on() -> None:
    tasks = yaml.safe_load((ROLE / "tasks/main.yml").read_text("utf-8"))
    (task,) = [task for task in tasks if "bareforge.hypervisor.tuning" in task]
    assert set(task["bareforge.hypervisor.tuning"]) == {"platform", *MODULES["tuning"].fields}
    for name in MODULES["tuning"].fields:
        assert task["bareforge.hypervisor.tuning"][name] == f"{{{{ kvm_host_tuning.{name} | default(omit) }}}}"


def test_the_default_tunes_nothing_and_a_slip_is_refused() -> None:
    options = {"kvm_host_tuning": spec()["kvm_host_tuning"]}
    defaults = yaml.safe_load((ROLE / "defaults/main.yml").read_text("utf-8"))
    assert defaults["kvm_host_tuning"] == {}
    assert not ArgumentSpecValidator(options).validate({"kvm_host_tuning": {"swappiness": 10}}).error_messages
    (message,) = ArgumentSpecValidator(options).validate({"kvm_host_tuning": {"swapiness": 10}}).error_messages
    assert "swapiness" in message


def test_what_is_documented_of_defaults_is_what_they_are() -> None:
    points = yaml.safe_load((ROLE / "meta/argument_specs.yml").read_text("utf-8"))["argument_specs"]
    defaults = yaml.safe_load((ROLE / "defaults/main.yml").read_text("utf-8"))
    documented: dict[str, Any] = {}
    for point in points.values():
        for name, entry in point["options"].items():
            assert documented.setdefault(name, entry["default"]) == entry["default"]
    assert documented == defaults


def test_every_entry_point_has_its_tasks() -> None:
    points = yaml.safe_load((ROLE / "meta/argument_specs.yml").read_text("utf-8"))["argument_specs"]
    assert set(points) == {"main", "updates"}
    assert all((ROLE / f"tasks/{point}.yml").is_file() for point in points)


# -- The RHEL family ---------------------------------------------------------------------------------------------------


def valued(expressions: dict[str, str], facts: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
    """Return what expressions are with the role's own variables, as Ansible works them out."""
    loader = DataLoader()
    own = [
        loader.load_from_file(str(ROLE / f"{name}/main.yml"), trusted_as_template=True) for name in ("defaults", "vars")
    ]
    templar = Templar(loader, {**own[0], **own[1], **variables, "ansible_facts": facts})
    return {name: templar.template(trust_as_template(f"{{{{ {text} }}}}")) for name, text in expressions.items()}


def redhat_task(name: str, file: str = "redhat") -> dict[str, Any]:
    tasks = yaml.safe_load((ROLE / f"tasks/{file}.yml").read_text("utf-8"))
    [task] = [task for task in tasks if task["name"].startswith(name)]
    found: dict[str, Any] = task
    return found


def facts(packages: tuple[str, ...] = (), running: tuple[str, ...] = (), **more: str) -> dict[str, Any]:
    return {
        "packages": {name: [{"name": name}] for name in packages},
        "services": {name: {"state": "running"} for name in running},
        **more,
    }


@pytest.mark.parametrize(
    ("distribution", "version", "known"),
    [
        ("Debian", "12", True),
        ("Rocky", "9", True),
        ("RedHat", "10", True),
        ("CentOS", "8", False),
        ("Fedora", "43", True),
        ("Amazon", "2023", False),
    ],
)
def test_servers_that_are_taken(distribution: str, version: str, known: bool) -> None:
    about = facts(distribution=distribution, distribution_major_version=version)
    assert valued({"known": "kvm_host_is_known"}, about, {}) == {"known": known}


@pytest.mark.parametrize(
    ("there", "offered", "named", "chosen"),
    [
        ((), [], [], []),
        (
            (),
            ["openvswitch3.9", "openvswitch3.10", "openvswitch2.17"],
            [],
            ["openvswitch3.10", "python3-openvswitch3.10"],
        ),
        (("openvswitch3.1",), ["openvswitch3.10"], [], ["openvswitch3.1", "python3-openvswitch3.1"]),
        ((), ["openvswitch", "", "openvswitch-selinux-extra-policy"], [], ["openvswitch", "python3-openvswitch"]),
        ((), ["openvswitch3.5"], ["our-ovs"], ["our-ovs"]),
    ],
)
def test_the_stream_of_open_vswitch(there: Any, offered: Any, named: Any, chosen: Any) -> None:
    variables = {"kvm_host_repositories": {"stdout_lines": offered}, "kvm_host_openvswitch_packages": named}
    refused = redhat_task("Refuse a server that has no source for Open vSwitch")["ansible.builtin.assert"]["that"]
    wanted = {"chosen": "kvm_host_redhat_openvswitch", "goes_on": refused}
    assert valued(wanted, facts(there), variables) == {"chosen": chosen, "goes_on": bool(chosen)}


@pytest.mark.parametrize(
    ("running", "policy", "goes_on"),
    [(("firewalld.service",), "refused", False), (("firewalld.service",), "kept", True), ((), "refused", True)],
)
def test_two_firewalls_are_refused_unless_somebody_has_said_so(running: Any, policy: str, goes_on: bool) -> None:
    that = redhat_task("Refuse two firewalls")["ansible.builtin.assert"]["that"]
    found = valued({"goes_on": that}, facts(running=running), {"kvm_host_firewalld": policy})
    assert found == {"goes_on": goes_on}


@pytest.mark.parametrize(("running", "one"), [(("libvirtd.service",), True), (("libvirtd.socket",), True), ((), False)])
def test_libvirtd_stays_where_it_runs_and_else_each_driver_has_its_daemon(running: Any, one: bool) -> None:
    found = valued({"services": "kvm_host_redhat_services"}, facts(running=running), {})
    names = [entry["name"] for entry in found["services"]]
    assert ("libvirtd.socket" in names, "virtqemud.socket" in names) == (one, not one)
    assert {"openvswitch.service", "NetworkManager.service"} <= set(names)


def test_labels_are_said_once_and_booleans_set_where_they_are_off() -> None:
    label = redhat_task("Say which labels", "selinux")
    allow = redhat_task("Allow what is needed", "selinux")
    said = "/var/lib/bareforge/templates(/.*)?  all files  system_u:object_r:virt_content_t:s0"
    other = said.replace("virt_content_t", "etc_t")
    item = {"path": "/var/lib/bareforge/templates", "type": "virt_content_t"}
    verb = label["ansible.builtin.command"]["argv"][2].strip("{} ")
    for listed, needed, expected in (("", True, "--add"), (said, False, "--modify"), (other, True, "--modify")):
        variables = {"item": item, "kvm_host_labels": {"stdout": listed}}
        found = valued({"needed": label["when"], "verb": verb}, facts(), variables)
        assert found == {"needed": needed, "verb": expected}
    for shown, needed in (("virt_use_nfs --> off", True), ("virt_use_nfs --> on", False), ("", False)):
        variables = {"item": "virt_use_nfs", "kvm_host_booleans": {"stdout_lines": [shown]}}
        assert valued({"needed": allow["when"]}, facts(), variables) == {"needed": needed}
    wanted = {"booleans": "kvm_host_selinux_booleans"}
    found = valued(wanted, facts(), {"kvm_host_storage_types": ["nfs"]})
    assert found == {"booleans": ["virt_hooks_unconfined", "virt_use_nfs"]}


def test_everything_is_refused_before_anything_is_changed() -> None:
    tasks = yaml.safe_load((ROLE / "tasks/redhat.yml").read_text("utf-8"))
    kinds = [next(key for key in task if key.startswith("ansible.builtin.")) for task in tasks]
    last = max(number for number, kind in enumerate(kinds) if kind == "ansible.builtin.assert")
    changing = [kind for kind in kinds[:last] if kind in ("ansible.builtin.dnf", "ansible.builtin.systemd_service")]
    assert changing == []


@pytest.mark.parametrize(("manager", "file"), [("apt", "apt"), ("dnf", "dnf"), ("dnf5", "dnf")])
def test_updates_are_installed_by_what_the_host_has(manager: str, file: str) -> None:
    include = redhat_task("Install the updates", "update_in_maintenance")["ansible.builtin.include_tasks"]
    expression = include.removeprefix("install_with_{{ ").removesuffix(" }}.yml")
    assert valued({"file": expression}, {"pkg_mgr": manager}, {}) == {"file": file}
    assert (ROLE / f"tasks/install_with_{file}.yml").is_file()
    that = redhat_task("Refuse a server whose packages", "updates")["ansible.builtin.assert"]["that"]
    assert valued({"known": that}, {"pkg_mgr": manager}, {}) == {"known": True}
