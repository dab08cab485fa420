# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The work of the inventory plugin: reading hosts or the cache, and filling Ansible's inventory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleError, AnsibleParserError
from ansible.plugins.inventory import BaseInventoryPlugin, Cacheable, Constructable, to_safe_group_name
from ansible.template import Templar

from ansible_collections.bareforge.hypervisor.plugins.module_utils.boundary.inventory import answer
from ansible_collections.bareforge.hypervisor.plugins.module_utils.engine.inventory import InventoryVm
from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import BareforgeError, Problem, ValidateError
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.schema import Path
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.types import show
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.registry import platform_class

from . import host_python
from .connection_settings import resolve
from .inventory_contents import HYPERVISORS, UNREAD, WORDS_FOR_NAMES, AddressChoice, Shown, names_of
from .inventory_hosts import Target, read_targets
from .plain import plain
from .side_by_side import Outcome, side_by_side

ENDINGS = (".bareforge.yml", ".bareforge.yaml")
CACHE_VERSION = 1


class HypervisorInventory(BaseInventoryPlugin, Constructable, Cacheable):
    """Base of the inventory plugin."""

    def verify_file(self, path: str) -> bool:
        """Return whether a source is a configuration of ours, by its name."""
        return bool(super().verify_file(path)) and path.endswith(ENDINGS)

    def parse(self, inventory: Any, loader: Any, path: str, cache: bool = True) -> None:
        """Fill the inventory with the hosts of a configuration and their VMs.

        cache: whether what is in the cache may be used; false with --flush-cache and `meta: refresh_inventory`.
        Raises AnsibleParserError in one sentence, before anything is added to the inventory.
        """
        super().parse(inventory, loader, path, cache)
        self._read_config_data(path)
        try:
            self._fill(path, cache)
        except BareforgeError as error:
            raise AnsibleParserError(f"{path}: {error.sentence()}") from error

    def _fill(self, path: str, may_use_cache: bool) -> None:
        choice = AddressChoice.parse(
            self.get_option("address_sources"), self.get_option("prefer_networks"), self.get_option("address_family")
        )
        _check_range("timeout", self.get_option("timeout"), 1, 3600)
        _check_range("agent_timeout", self.get_option("agent_timeout"), 1, 300)
        _check_range("forks", self.get_option("forks"), 1, 1000)
        self.templar.available_variables = self._vars
        earlier = list(getattr(self.inventory, "processed_sources", ()))
        targets = read_targets(self.get_option("hosts"), self.inventory, self.loader, self.templar, [*earlier, path])
        found, unread = self._found(targets, path, may_use_cache)
        shown = [
            Shown(vm, target.name, target.platform, choice.choose(vm))
            for target in targets
            for vm in found.get(target.name, ())
        ]
        shown = [each for each in shown if self._passes(each)]
        hypervisors = {target.name for target in targets}
        names, warnings = names_of(shown, self._wanted_name, hypervisors)
        for warning in warnings:
            self.display.warning(f"{path}: {warning}")
        self._add_hypervisors(targets, unread)
        for name, each in zip(names, shown, strict=True):
            if name.startswith("-"):
                # ssh would take it for an option.
                self.display.warning(f"{path}: VM {show(name)} is left out, since its name begins with a hyphen")
            else:
                self._add_vm(name, each)

    # Reading

    def _found(
        self, targets: Sequence[Target], path: str, may_use_cache: bool
    ) -> tuple[dict[str, list[InventoryVm]], set[str]]:
        """Return the VMs of every host that was read or is in the cache, and the names of those that were not."""
        cached = self._from_cache(targets, path) if may_use_cache else {}
        missing = [target for target in targets if target.name not in cached]
        outcomes = self._read(missing)
        lost = {name: outcome for name, outcome in outcomes.items() if outcome.error is not None}
        sentences = [f"{name}: {lost[name].error}" for name in (target.name for target in missing) if name in lost]
        if sentences and self.get_option("unreachable") == "fail":
            raise AnsibleParserError(f"{path}: {'; '.join(sentences)}")
        for sentence in sentences:
            self.display.warning(f"{path}: {sentence}")
        found = dict(cached)
        for name, outcome in outcomes.items():
            if outcome.error is None:
                found[name] = [InventoryVm.from_plain(vm) for vm in outcome.value["vms"]]
                for warning in outcome.value["warnings"]:
                    self.display.warning(f"{path}: {name}: {warning}")
        if self.get_option("cache") and missing:
            self._cache[self.get_cache_key(path)] = {
                "version": CACHE_VERSION,
                "hosts": {
                    target.name: {
                        "reached": self._reached(target),
                        "vms": [vm.to_plain() for vm in found[target.name]],
                    }
                    for target in targets
                    if target.name in found
                },
            }
        return found, set(lost)

    def _from_cache(self, targets: Sequence[Target], path: str) -> dict[str, list[InventoryVm]]:
        """Return the VMs of those hosts that the cache holds as they are configured now."""
        if not self.get_option("cache"):
            return {}
        try:
            kept = self._cache[self.get_cache_key(path)]
        except KeyError:
            return {}
        if not isinstance(kept, Mapping) or kept.get("version") != CACHE_VERSION:
            return {}
        found: dict[str, list[InventoryVm]] = {}
        for target in targets:
            entry = kept["hosts"].get(target.name)
            if entry is not None and entry["reached"] == self._reached(target):
                found[target.name] = [InventoryVm.from_plain(vm) for vm in entry["vms"]]
        return found

    def _reached(self, target: Target) -> str:
        return f"{target.reached()} {' '.join(sorted(self.get_option('address_sources')))}"

    def _read(self, targets: Sequence[Target]) -> dict[str, Outcome]:
        by_name = {target.name: target for target in targets}
        if any(platform_class(target.platform).RUNS_ON_HOST for target in targets):
            host_python.archive()  # once, before the processes part

        def work(name: str) -> Any:
            return read_host(
                by_name[name],
                list(self.get_option("address_sources")),
                self.get_option("agent_timeout"),
                self.loader,
                self.get_option("timeout"),
            )

        return side_by_side(by_name, work, self.get_option("timeout"), self.get_option("forks"))

    # Filling

    def _add_hypervisors(self, targets: Sequence[Target], unread: set[str]) -> None:
        for target in targets:
            self.inventory.add_host(target.name)
            for variable, value in {**target.shown, "bareforge_platform": target.platform}.items():
                self.inventory.set_variable(target.name, variable, value)
            groups = [HYPERVISORS, *([UNREAD] if target.name in unread else [])]
            if "platform" in self.get_option("group_by"):
                groups.append(f"{target.platform}_hosts")
            self._add_to_groups(target.name, groups)

    def _add_vm(self, name: str, each: Shown) -> None:
        self.inventory.add_host(name)
        for variable, value in each.variables().items():
            self.inventory.set_variable(name, variable, value)
        self._add_to_groups(name, list(each.groups(self.get_option("group_by"))))
        strict = self.get_option("strict")
        self._set_composite_vars(self.get_option("compose"), self._variables(name), name, strict=strict)
        variables = self._variables(name)
        self._add_host_to_composed_groups(self.get_option("groups"), variables, name, strict=strict)
        self._add_host_to_keyed_groups(self.get_option("keyed_groups"), variables, name, strict=strict)

    def _variables(self, name: str) -> dict[str, Any]:
        return dict(self.inventory.get_host(name).get_vars())

    def _add_to_groups(self, host: str, groups: Sequence[str]) -> None:
        for group in groups:
            safe = to_safe_group_name(group)
            self.inventory.add_child(self.inventory.add_group(safe), host)

    def _passes(self, each: Shown) -> bool:
        variables = each.variables()
        for number, condition in enumerate(self.get_option("filters")):
            self.templar.available_variables = {**self._vars, **variables}
            try:
                passes = bool(self.templar.evaluate_conditional(condition))
            except AnsibleError as error:
                place = Path("filters").item(number).text
                raise ValidateError(
                    [Problem(place, f"{show(condition)} says nothing of VM {show(each.vm.name)}: {error}")]
                ) from error
            if not passes:
                return False
        return True

    def _wanted_name(self, each: Shown) -> str:
        for number, entry in enumerate(self.get_option("hostnames")):
            if entry in WORDS_FOR_NAMES:
                name = each.word(entry)
            else:
                self.templar.available_variables = {**self._vars, **each.variables()}
                try:
                    name = plain(self.templar.evaluate_expression(entry))
                except AnsibleError as error:
                    if self.get_option("strict"):
                        place = Path("hostnames").item(number).text
                        raise ValidateError(
                            [Problem(place, f"{show(entry)} gives VM {show(each.vm.name)} no name: {error}")]
                        ) from error
                    continue
            if isinstance(name, str) and name:
                return name
        return each.vm.name


def _check_range(name: str, value: int, first: int, last: int) -> None:
    if not first <= value <= last:
        raise ValidateError(
            [Problem(name, f"{value} is not allowed; allowed is a whole number from {first} to {last}")]
        )


def read_host(
    target: Target, sources: Sequence[str], agent_timeout: int, loader: Any, patience: int = host_python.PATIENCE
) -> dict[str, Any]:
    """Return the `vms` and `warnings` of one host, as plain data.

    patience: how many seconds a login may take, where no variable of the host says it.
    Raises what says in one sentence why that was not possible.
    """
    request: dict[str, Any] = {
        "platform": target.platform,
        "sources": list(sources),
        "agent_timeout": agent_timeout,
        "settings": {},
    }
    if platform_class(target.platform).RUNS_ON_HOST:
        told = host_python.ask(target.name, target.variables, request, loader, patience)
    else:
        templar = Templar(loader=loader, variables={**target.variables, "inventory_hostname": target.name})
        settings = resolve(
            target.settings, lambda name: plain(templar.template(target.variables.get(name))), target.name
        )
        told = answer({**request, "settings": settings})
    if "error" in told:
        raise UnreadError(told["error"]["phase"], told["error"]["message"])
    return told


class UnreadError(BareforgeError):
    """What a reader has told of its failure, wherever it ran."""

    def __init__(self, phase: str, message: str) -> None:
        super().__init__(message)
        self.phase = phase
