# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The modules' documentation against what they really take and return."""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path

import pytest
import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from ansible_collections.bareforge.hypervisor.plugins.module_utils.boundary.definitions import MODULES
from ansible_collections.bareforge.hypervisor.plugins.module_utils.boundary.result import failure, perform
from ansible_collections.bareforge.hypervisor.plugins.module_utils.engine.maintenance import MaintenanceTarget
from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import BareforgeError
from support.memory_platform import Faults, MemoryHost, MemoryPlatform

ROOT = Path(__file__).parents[4]
PREFIX = "bareforge.hypervisor."

STANDARD_RETURN_VALUES = {"changed", "failed", "msg", "diff", "warnings", "exception"}
"""What Ansible documents for every module."""

HOST = {
    "virtual_switches": [{"name": "br-data"}, {"name": "br-lab", "type": "internal"}],
    "virtual_networks": [{"name": name, "switch": "br-data"} for name in ("app", "db", "storage", "management")],
    "templates": [
        {"name": "debian-12", "source": {"vm": "golden"}},
        {"name": "appliance", "source": {"vm": "golden"}, "customization": "none"},
    ],
    "vms": [
        {
            "name": name,
            "memory": {"size": 64},
            "power": "stopped",
            "nics": [{"name": "eth0", "network": "app"}],
            "disks": [{"name": "system", "size": 1024}],
        }
        for name in ("app2", "db1")
    ],
}

HOST_POOLS = [
    {"name": "fast", "type": "lvm", "source": {"name": "vg_fast"}},
    {"name": "local", "type": "dir", "path": "/srv/vms"},
]


def load_generator():
    spec = importlib.util.spec_from_file_location(
        "generate_documentation", ROOT / "tests/tools/generate_documentation.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def text_of(name, variable):
    tree = ast.parse((ROOT / "plugins" / "modules" / f"{name}.py").read_text("utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and node.targets[0].id == variable:
            return yaml.safe_load(ast.literal_eval(node.value))
    raise AssertionError(f"{name} has no {variable}")


def tasks_of(name):
    return text_of(name, "EXAMPLES")


def arguments_of(task):
    ((name, arguments),) = [(key, value) for key, value in task.items() if key.startswith(PREFIX)]
    return name[len(PREFIX) :], arguments or {}


# Its action reads the profile on the controller, so that what the module takes is not what a task says.
WITH_ITS_OWN_ACTION = {"hardening", "vm_migrate"}

EXAMPLES = [
    pytest.param(*arguments_of(task), id=f"{name}: {task['name']}")
    for name in sorted(MODULES.keys() - {"hardening"})
    for task in tasks_of(name)
    if "ansible.builtin.debug" not in task
]


# A guard has to be armed first, a migration takes two hosts (its action's tests have it), and a template needs Ansible.
RUNNABLE = [
    example
    for example in EXAMPLES
    if example.values[0] not in ("guard", "vm_migrate") and "{{" not in str(example.values[1])
]


def test_the_generated_documentation_is_current():
    stale = [str(path) for path, text in load_generator().fragments().items() if path.read_text("utf-8") != text]
    assert stale == [], "run tests/tools/generate_documentation.py"


def test_every_definition_has_module_action_and_fragment():
    for name in MODULES:
        assert (ROOT / "plugins" / "modules" / f"{name}.py").is_file()
        action = ROOT / "plugins" / "action" / f"{name}.py"
        assert action.is_symlink() is (name not in WITH_ITS_OWN_ACTION)
        if action.is_symlink():
            assert action.resolve() == ROOT / "plugins" / "plugin_utils" / "dispatcher.py"


def test_every_module_is_in_the_action_group():
    groups = yaml.safe_load((ROOT / "meta" / "runtime.yml").read_text("utf-8"))["action_groups"]
    assert set(MODULES) <= set(groups["hypervisor"])


@pytest.mark.parametrize(("name", "arguments"), EXAMPLES)
def test_examples_fit_the_argument_spec(name, arguments):
    if name == "host" and any("{{" in str(value) for value in arguments.values()):
        arguments = {"document": {}}
    result = ArgumentSpecValidator(MODULES[name].argument_spec()).validate(arguments)
    assert result.error_messages == []
    # What Ansible has made of the arguments is understood in the same way.
    read = [MODULES[name].parse(each) for each in (arguments, result.validated_parameters)]
    assert read[0].document.present == read[1].document.present
    assert read[0].document.absent == read[1].document.absent


@pytest.mark.parametrize(("name", "arguments"), EXAMPLES)
def test_examples_are_platform_neutral(name, arguments):
    assert not {"kvm", "esxi", "hyperv", "proxmox", "xenserver"} & set(str(arguments).replace("'", " ").split())


def example_host(name, arguments):
    data = {**HOST}
    if name == "host":
        # The large example brings all that it speaks of.
        data = {
            "virtual_switches": HOST["virtual_switches"][1:],
            "virtual_networks": [{"name": "lab", "switch": "br-lab"}],
        }
    if name in ("vm", "port_acl", "vm_snapshot", "vm_backup", "vm_restore") and (
        arguments.get("name") != "web1" or "template" not in arguments
    ):
        data["vms"] = [*HOST["vms"], {**HOST["vms"][0], "name": "web1"}]
    if name == "vm_snapshot" and arguments.get("state") in ("absent", "gathered", "reverted"):
        data["snapshots"] = [{"vm": "web1", "name": "before-upgrade"}]
    if name in ("vm_backup", "vm_restore") and arguments.get("name") != "sunday":
        data["backups"] = [{"vm": "web1", "name": "sunday", "target": "/srv/backup"}]
    if name == "vm" and "vms" in arguments:
        data["vms"] = []
    if name == "virtual_network":
        data = {**data, "vms": [], "port_acls": []}
    if name == "storage_pool" and arguments.get("state") == "absent":
        data["storage_pools"] = HOST_POOLS
    if name == "vm" and "pool" in str(arguments):
        data["storage_pools"] = HOST_POOLS
    if name == "template":
        data["templates"] = [each for each in HOST["templates"] if arguments.get("state") == "absent"]
    if name == "virtual_switch":
        data = {"virtual_switches": HOST["virtual_switches"]}
    return MemoryHost.holding(data)


def restored(key, new_name, power, operation, check, progress):
    change = {"kind": "vm", "key": new_name or key[0], "action": "create", "fields": []}
    return {"changed": True, "changes": [change], "before": {}, "after": {}, "planned": {}}


class MemoryMaintenance(MaintenanceTarget):
    """A mode without VMs."""

    mode = None

    def described(self):
        return self.mode

    def enter(self, reason, evacuate_to, check):
        changes = [] if self.mode else [{"kind": "maintenance", "key": "", "action": "enter", "fields": []}]
        if not check:
            self.mode = self.mode or {"reason": reason, "since": "2026-11-25T12:00:00Z", "vms": []}
        return changes

    def empty(self, operation, check, progress):
        return []

    def leave(self, check, progress):
        changes = [{"kind": "maintenance", "key": "", "action": "leave", "fields": []}] if self.mode else []
        if not check:
            self.mode = None
        return changes


class DescribingPlatform(MemoryPlatform):
    """The platform in memory with what only compute interfaces of real ones tell."""

    @classmethod
    def declared_capabilities(cls):
        return super().declared_capabilities() | {"metrics", "updates"}

    def metrics(self):
        return {"time": 0.0, "host": {}, "vms": []}

    def updates(self):
        return {"pending": [], "security": 0, "lists_time": None, "reboot_required": False, "reboot_reasons": []}

    @property
    def interfaces(self):
        return (*self._interfaces, self.mode)

    @interfaces.setter
    def interfaces(self, value):
        self._interfaces = value
        self.mode = self.host.__dict__.setdefault("mode", MemoryMaintenance())

    def owner(self, kind):
        found = super().owner(kind)
        if kind == "vm":
            found.describe = lambda names: [
                {"name": key[0], "managed": True, "vm": vm.to_document(), "power": vm.power}
                for key, vm in self.read(["vm"])["vm"].items()
                if names is None or key[0] in names
            ]
        if kind == "snapshot":
            found.revert = lambda vm, name, check: None
        if kind == "backup":
            found.look_in = lambda target: None
            found.expired = lambda coming, keep: ["sunday"]
            found.describe = lambda vm: [{"vm": vm, "name": "sunday", "target": "/srv/backup"}]
            found.restore = restored
        return found


def returned(name, arguments, host):
    """Return the results of a task in check mode, for real, and the second time."""
    definition = MODULES[name]
    call = definition.parse(arguments)
    for check in (True, False, False):
        yield perform(definition, DescribingPlatform(host), call, check=check, diff=True)


@pytest.mark.parametrize(("name", "arguments"), RUNNABLE)
def test_results_have_what_is_documented(name, arguments):
    documented = text_of(name, "RETURN")
    gathered = arguments.get("state") == "gathered"
    host = example_host(name, arguments)
    results = list(returned(name, arguments, host))
    for result in results:
        assert set(result) <= set(documented) | STANDARD_RETURN_VALUES
        for key, entry in documented.items():
            when = entry["returned"]
            if when == "success" or (gathered and "state=gathered" in when):
                assert key in result
            if not gathered and "other than V(gathered)" in when:
                assert key in result
        for change in result.get("changes", ()):
            assert set(change) <= set(documented["changes"]["contains"])
    # Going back is an act and no state.
    if "changes" in results[0] and arguments.get("state") != "reverted" and name != "vm_restore":
        assert results[0]["changes"] == results[1]["changes"], "check mode tells what the real run does"
        assert results[2]["changed"] is False, "the second run changes nothing"


def test_a_failure_has_what_is_documented():
    documented = text_of("host", "RETURN")
    host = MemoryHost(Faults(error_at=2))
    call = MODULES["host"].parse({"document": {"virtual_switches": [{"name": "a"}, {"name": "b"}]}})
    with pytest.raises(BareforgeError) as caught:
        perform(MODULES["host"], MemoryPlatform(host), call)
    told = failure(caught.value)
    assert told["changes_made"]
    assert set(told) <= set(documented) | STANDARD_RETURN_VALUES


def test_a_guarded_change_has_its_token_until_it_is_confirmed():
    host = MemoryHost()
    call = MODULES["firewall"].parse({"default_inbound": "deny"})
    result = perform(MODULES["firewall"], MemoryPlatform(host), call)
    confirm = MODULES["guard"].parse({"token": result["guard"]["token"]})
    told = perform(MODULES["guard"], MemoryPlatform(host), confirm)
    assert set(told) <= set(text_of("guard", "RETURN")) | STANDARD_RETURN_VALUES
    assert host.guard_state is None


def test_returned_kinds_of_values():
    types = {"str": str, "dict": dict, "list": list, "bool": bool, "float": float}
    host = MemoryHost()
    (_check, result, _again) = returned("virtual_switch", {"name": "br0", "uplinks": ["eno1"]}, host)
    for key, entry in text_of("virtual_switch", "RETURN").items():
        if key in result and key != "guard":
            assert isinstance(result[key], types[entry["type"]])
