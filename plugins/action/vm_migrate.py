# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The action of the module vm_migrate: asks both hosts, which only the controller can.

Hosts that the engine runs on are asked for one step after another. Where platforms have an API that moves VMs, the first host
is asked to, and both are looked at.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from ansible.template import Templar

from ansible_collections.bareforge.hypervisor.plugins.module_utils.boundary.definitions import Call
from ansible_collections.bareforge.hypervisor.plugins.module_utils.boundary.result import with_host
from ansible_collections.bareforge.hypervisor.plugins.module_utils.engine.migration import MigrationByApi
from ansible_collections.bareforge.hypervisor.plugins.module_utils.engine.platform import Platform
from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import (
    BareforgeError,
    NotSupportedError,
    Problem,
    ValidateError,
    VerifyError,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.types import show
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.migration import new_identifier
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.registry import platform_class
from ansible_collections.bareforge.hypervisor.plugins.plugin_utils.action_base import HypervisorAction
from ansible_collections.bareforge.hypervisor.plugins.plugin_utils.connection_settings import resolve
from ansible_collections.bareforge.hypervisor.plugins.plugin_utils.host_python import ask
from ansible_collections.bareforge.hypervisor.plugins.plugin_utils.plain import plain

LIMITS = ("timeout", "bandwidth", "max_downtime", "auto_converge", "full_copy")
SSH_PORT = 22


class _BrokenOff(Exception):
    """A host has not done its step; result is that of the task."""

    def __init__(self, result: dict[str, Any]) -> None:
        super().__init__(str(result.get("msg")))
        self.result = result


class ActionModule(HypervisorAction):
    """Moves a VM to another host."""

    _variables: Mapping[str, Any]

    def _run(
        self, arguments: dict[str, Any], variables: dict[str, Any], host: str, secrets: list[str]
    ) -> dict[str, Any]:
        call = self.definition.parse({**arguments, "platform": self._platform_name(arguments, variables)})
        self._variables = variables
        platform = str(call.values["platform"])
        cls = platform_class(platform)
        if "vm_migrate" not in cls.declared_capabilities():
            raise NotSupportedError([Problem("destination", f"platform {platform} cannot move VMs")])
        destination = str(call.values["destination"])
        self._check_destination(destination, host, platform)
        try:
            if cls.RUNS_ON_HOST:
                result = self._migrate(call, host, destination)
            else:
                result = self._migrate_by_api(cls, call, host, destination, secrets)
        except _BrokenOff as broken:
            return broken.result
        if not self._task.diff:
            result.pop("diff", None)
        return result

    def _check_destination(self, destination: str, host: str, platform: str) -> None:
        known = self._variables["hostvars"]
        if destination not in known:
            raise ValidateError(
                [Problem("destination", f"{show(destination)} is not allowed; allowed is a host of the inventory")]
            )
        if destination == host:
            raise ValidateError([Problem("destination", f"{show(destination)} is the host that the VM is on")])
        other = self._of(destination, "bareforge_platform")
        if other is not None and other != platform:
            raise NotSupportedError(
                [
                    Problem(
                        "destination",
                        f"{show(destination)} is of platform {other}, and VMs of {platform} cannot go there",
                    )
                ]
            )

    def _of(self, host: str, name: str) -> Any:
        known = {**self._raw_variables(self._variables, host), "inventory_hostname": host}
        if known.get(name) is None:
            return None
        return Templar(loader=self._loader, variables=known).template(known[name])

    def _ask(self, host: str, step: str, **request: Any) -> dict[str, Any]:
        """Let a host do a step, and return what comes of it. Raises _BrokenOff, or the connection's errors by host."""
        variables = self._reached_by(self._variables, host)
        sent = {"step": step, "verbosity": self._display.verbosity, **request}
        self._display.vv(f"migration: {step}", host=host)
        try:
            answer = ask(host, variables, sent, self._loader, entry="migration")
        except BareforgeError as error:
            error.message = f"{show(host)}: {error.message}"
            raise
        if "failure" in answer:
            raise _BrokenOff(with_host(answer["failure"], host))
        result: dict[str, Any] = answer["result"]
        return result

    def _migrate(self, call: Call, source: str, target: str) -> dict[str, Any]:
        values = call.values
        common = {
            "name": values["name"],
            "platform": values["platform"],
            "limits": {name: values[name] for name in LIMITS if values.get(name) is not None},
        }
        check = bool(self._task.check_mode)
        offer = self._ask(source, "offer", **common)
        if not offer["present"]:
            return self._arrived_before(source, target, common, bool(offer["left"]))
        prepared = self._ask(target, "prepare", offer=offer, **common)
        if check:
            return self._result(True, source, target, offer["vm"], offer["vm"])
        identifier = new_identifier()
        key = self._ask(source, "begin", id=identifier, **common)["key"]
        try:
            received = self._ask(target, "receive", offer=offer, prepared=prepared, key=key, id=identifier, **common)
            figures = self._ask(
                source,
                "send",
                offer=offer,
                prepared=prepared,
                received=received,
                there=self._there(values, target, prepared, received),
                id=identifier,
                **common,
            )
            arrived = self._ask(target, "arrive", offer=offer, prepared=prepared, **common)
        except _BrokenOff as broken:
            self._take_back(source, target, identifier, common, broken)
            raise
        self._ask(source, "leave", **common)
        self._ask(target, "settle", **common)
        result = self._result(True, source, target, offer["vm"], arrived["vm"])
        result["migration"] = {**figures, "downtime": arrived["downtime"], "live": offer["power"] != "stopped"}
        return result

    def _migrate_by_api(
        self, cls: type[Platform], call: Call, source: str, target: str, secrets: list[str]
    ) -> dict[str, Any]:
        """Let the API of the first host move the VM. Each host is reached as its own tasks reach it."""
        settings = self._settings(call, self._variables, source)
        reached = {
            **settings,
            **resolve(None, lambda name: plain(self._of(target, name)), target),
        }
        secrets.extend(str(found["password"]) for found in (settings, reached) if found.get("password"))
        here, there = cls(settings), cls(reached)
        try:
            return self._between(here, there, call, source, target)
        finally:
            here.close()
            there.close()

    def _between(self, here: Platform, there: Platform, call: Call, source: str, target: str) -> dict[str, Any]:
        name, check = str(call.values["name"]), bool(self._task.check_mode)
        limits = {limit: call.values[limit] for limit in LIMITS if call.values.get(limit) is not None}
        first, second = (
            next(item for item in platform.interfaces if isinstance(item, MigrationByApi)) for platform in (here, there)
        )
        for option in ("address", "port"):
            if call.values.get(option) is not None:
                text = f"goes with platforms whose hosts talk through SSH, not with {here.NAME}"
                raise ValidateError([Problem(option, text)])
        first.check_destination(second)

        def progress(line: str) -> None:
            self._display.v(line, host=source)

        with contextlib.nullcontext() if check else here.lock():
            if not check:
                here.recover()
            before = first.described(name)
            if before is None:
                vm = second.described(name)
                if vm is None:
                    raise self._nowhere(name, source, target)
                return self._result(False, source, target, vm, vm)
            figures = first.migrate(name, second, limits, check, progress if self._display.verbosity else None)
            if check:
                return self._result(True, source, target, before, before)
            after = second.described(name)
        if after is None:
            raise VerifyError(f"did not take: VM {show(name)} is not on {show(target)}")
        return {**self._result(True, source, target, before, after), "migration": figures}

    @staticmethod
    def _nowhere(name: str, source: str, target: str) -> ValidateError:
        text = f"there is no VM {show(name)}, neither on {show(source)} nor on {show(target)}"
        return ValidateError([Problem("name", text)])

    def _take_back(
        self, source: str, target: str, identifier: str, common: Mapping[str, Any], broken: _BrokenOff
    ) -> None:
        """Leave both hosts as they were; what does not succeed is told, and done by the next run."""
        for host, step in ((target, "forget"), (source, "release")):
            try:
                self._ask(host, step, id=identifier, **common)
            except (_BrokenOff, BareforgeError) as error:
                broken.result["msg"] = (
                    f"{broken.result.get('msg')} What is left on {show(host)} could not be removed: {error}"
                )

    def _arrived_before(self, source: str, target: str, common: Mapping[str, Any], left: bool) -> dict[str, Any]:
        """Return the result where the VM is not on the first host: it is on the other one, or nowhere."""
        step = "offer" if self._task.check_mode else "settle"
        vm = self._ask(target, step, **common).get("vm")
        if vm is None:
            raise self._nowhere(str(common["name"]), source, target)
        if left and not self._task.check_mode:
            self._ask(source, "leave", **common)
        return self._result(left, source, target, vm, vm)

    def _there(
        self, values: Mapping[str, Any], target: str, prepared: Mapping[str, Any], received: Mapping[str, Any]
    ) -> dict[str, Any]:
        address, port = values.get("address") or prepared.get("address"), values.get("port")
        if address is None:
            address = self._of(target, "ansible_host") or target
            port = port or self._of(target, "ansible_port")
        return {"user": received["user"], "address": str(address), "port": int(port or SSH_PORT)}

    @staticmethod
    def _result(
        changed: bool, source: str, target: str, before: Mapping[str, Any], after: Mapping[str, Any]
    ) -> dict[str, Any]:
        change = {"kind": "vm", "key": before["name"], "action": "migrate", "fields": ["host"]}
        return {
            "changed": changed,
            "changes": [change] if changed else [],
            "before": {"host": source if changed else target, "vms": [before]},
            "after": {"host": target, "vms": [after]},
            "diff": {
                "before": f"{before['name']}: {source if changed else target}\n",
                "after": f"{before['name']}: {target}\n",
            },
        }
