# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What all actions of the collection share: reading a task's arguments, and doing it in the worker or on the host."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from ansible import constants as C
from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.module_utils.common.parameters import remove_values
from ansible.plugins.action import ActionBase

from ansible_collections.bareforge.hypervisor.plugins.module_utils.boundary.connection import ConnectionSettings
from ansible_collections.bareforge.hypervisor.plugins.module_utils.boundary.definitions import (
    MODULES,
    Call,
    ModuleDefinition,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.boundary.result import failure, perform, with_host
from ansible_collections.bareforge.hypervisor.plugins.module_utils.engine.platform import Platform
from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import (
    ConnectError,
    GuardError,
    Problem,
    ValidateError,
    one_line,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.document import KINDS
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.operation import Operation
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.schema import ModelObject
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.registry import PLATFORMS, platform_class

from .confirmation import confirm
from .connection_settings import resolve
from .host_python import ask
from .plain import as_text, plain

COLLECTION = "bareforge.hypervisor"

NEVER_CONNECTED = re.compile(
    r"ssh: connect to host|Could not resolve hostname|Permission denied|Host key verification failed"
    r"|REMOTE HOST IDENTIFICATION HAS CHANGED|banner exchange|kex_exchange_identification",
    re.IGNORECASE,
)
"""What ssh (OpenSSH's sshconnect.c, kex.c) says where it did not come as far as running anything on the host."""

# Ansible loads an action in the parent, before it forks: what is imported and looked up here is paid once a run, not
# once a task.
for _name in PLATFORMS:
    platform_class(_name).preload()
_kinds: list[type[ModelObject]] = [*KINDS.values(), Operation, ConnectionSettings]
for _cls in _kinds:
    _cls.defaults()


class HypervisorAction(ActionBase):
    """Base of the actions."""

    @property
    def definition(self) -> ModuleDefinition:
        """What the module takes and does that has the name of the file which the action is loaded from."""
        return MODULES[type(self).__module__.rpartition(".")[2]]

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the task and return its result.

        Whether that happens here or on the host is the platform's to say. Arguments are checked here in any case, so
        that a mistake is answered before the host is even connected to.
        """
        super().run(tmp, task_vars)
        variables = task_vars or {}
        host = self._target(variables)
        secrets: list[str] = []
        try:
            arguments = self.prepare(plain(self._task.args), variables)
            secrets = self.definition.secrets(arguments)
            result = self._run(arguments, variables, host, secrets)
        except AnsibleError:
            raise
        except Exception as error:  # noqa: BLE001 - the one boundary: a task that breaks off says so in one sentence
            result = failure(error, self._display.verbosity, host)
        if secrets:
            result = remove_values(result, secrets)
        self._show_traceback(result.get("exception"), host)
        return result

    def _show_traceback(self, exception: Any, host: str) -> None:
        """Show what only -vvv has. Ansible itself shows a failure's traceback by its configuration alone."""
        event = getattr(exception, "event", None)
        text = exception if isinstance(exception, str) else getattr(event, "formatted_traceback", None)
        if text:
            self._display.vvv(text, host=host)

    def prepare(self, arguments: dict[str, Any], variables: Mapping[str, Any]) -> dict[str, Any]:
        """Return the task's arguments as the module takes them; for actions that add what only the controller has."""
        return arguments

    def conclude(self, result: dict[str, Any], arguments: dict[str, Any]) -> dict[str, Any]:
        """Return the result of a task that went well; for actions that do something with it on the controller."""
        return result

    def unguarded(self, result: dict[str, Any], guard: Mapping[str, Any]) -> list[Any]:
        """Return the changes of a task that stay when the host undoes what was guarded, as far as that can be told."""
        return []

    def _run(
        self, arguments: dict[str, Any], variables: dict[str, Any], host: str, secrets: list[str]
    ) -> dict[str, Any]:
        arguments = {**arguments, "platform": self._platform_name(arguments, variables)}
        call = self.definition.parse(arguments)
        cls = platform_class(call.values["platform"])
        if cls.RUNS_ON_HOST:
            result = self._execute_guarded(call, arguments, variables, host)
        else:
            settings = self._settings(call, variables, host)
            secrets.extend(value for value in [settings.get("password")] if value)
            result = self._perform_here(self.definition, self._platform(cls, settings, variables, host), call, host)
        if result.get("unreachable"):
            return result
        if isinstance(result.get("guard"), Mapping) and "token" in result["guard"]:
            # Also where the task failed in another part: what was guarded is to stay.
            guard = plain(result["guard"])
            try:
                result["guard"] = self._confirm(cls, guard, call, variables, host)
            except GuardError as error:
                error.details.setdefault("changes_made", self.unguarded(result, guard))
                raise
        if result.get("failed"):
            return result
        if isinstance(result.get("diff"), Mapping):
            result["diff"] = {name: as_text(result["diff"][name]) for name in ("before", "after")}
        return self.conclude(result, arguments)

    def _target(self, variables: Mapping[str, Any]) -> str:
        return str(self._task.delegate_to or variables.get("inventory_hostname") or "localhost")

    def _variable(self, name: str, variables: Mapping[str, Any]) -> Any:
        """Return an inventory variable of the host that the task works on, templated, or None."""
        delegated = (variables.get("ansible_delegated_vars") or {}).get(self._task.delegate_to) or {}
        own = delegated if name in delegated else variables
        if own.get(name) is None:
            return None
        templar = self._templar.copy_with_new_env(available_variables=delegated) if own is delegated else self._templar
        return plain(templar.template(own[name]))

    def _platform_name(self, arguments: Mapping[str, Any], variables: Mapping[str, Any]) -> Any:
        name = arguments.get("platform")
        if name is None:
            name = self._variable("bareforge_platform", variables)
        if name is None:
            allowed = ", ".join(sorted(PLATFORMS))
            raise ValidateError(
                [
                    Problem(
                        "platform", f"must be given, or the inventory variable bareforge_platform; allowed is {allowed}"
                    )
                ]
            )
        return name

    def _settings(self, call: Call, variables: Mapping[str, Any], host: str) -> dict[str, Any]:
        """Return how an API platform is reached: the option, what it leaves open from variables, then the defaults.

        Beside that, where logins are shared by the tasks of a run (Ansible's own temporary folder of the run, which it
        removes at its end) and where locks between runs lie.
        """
        settings = resolve(call.values.get("connection"), lambda name: self._variable(name, variables), host)
        settings["session_folder"] = C.DEFAULT_LOCAL_TMP
        settings["lock_folder"] = os.path.join(os.path.expanduser(C.ANSIBLE_HOME), "bareforge")
        return settings

    def _platform(
        self, cls: type[Platform], settings: Mapping[str, Any], variables: Mapping[str, Any], host: str
    ) -> Platform:
        platform = cls(settings)
        platform.ask_host = lambda request: self._ask_guard(request, variables, host)
        return platform

    @staticmethod
    def _raw_variables(variables: Mapping[str, Any], host: str) -> dict[str, Any]:
        """Return what the inventory says of a host, templates not filled in; without an inventory, the task's variables."""
        hostvars = variables.get("hostvars") or {}
        raw = getattr(hostvars, "raw_get", None)
        return dict(raw(host) if raw is not None else hostvars.get(host) or variables)

    def _reached_by(self, variables: Mapping[str, Any], host: str) -> dict[str, Any]:
        """Return the variables by which a host is reached over Ansible's connection as this task would reach it."""
        known = self._raw_variables(variables, host)
        context = self._play_context
        if context.become:
            known.setdefault("ansible_become", True)
            known.setdefault("ansible_become_method", context.become_method)
            known.setdefault("ansible_become_user", context.become_user)
        if context.remote_user:
            known.setdefault("ansible_user", context.remote_user)
        return known

    def _ask_guard(self, request: Mapping[str, Any], variables: Mapping[str, Any], host: str) -> dict[str, Any]:
        """Let the host that an API is of do a step of its guard, over Ansible's connection. Raises ConnectError and the like."""
        known = self._reached_by(variables, host)
        if str(known.get("ansible_connection") or "") == "local":
            raise ConnectError("ansible_connection is local, which leads to the controller")
        self._display.vv(f"guard: {request['step']}", host=host)
        return ask(host, known, {**request, "verbosity": self._display.verbosity}, self._loader, entry="guarding")

    def _perform_here(self, definition: ModuleDefinition, platform: Platform, call: Call, host: str) -> dict[str, Any]:
        def progress(line: str) -> None:
            self._display.v(line, host=host)

        shown = progress if self._display.verbosity else None
        return perform(definition, platform, call, self._task.check_mode, self._task.diff, shown)

    def _execute(self, name: str, arguments: Mapping[str, Any], variables: dict[str, Any], host: str) -> dict[str, Any]:
        """Run a module on the host and return its result."""
        # How an API is reached is nothing for a platform that is reached through Ansible: its password stays here.
        sent = {option: value for option, value in arguments.items() if option != "connection" and value is not None}
        result = self._execute_module(module_name=f"{COLLECTION}.{name}", module_args=sent, task_vars=variables)
        return with_host(result, host)

    def _execute_guarded(
        self, call: Call, arguments: Mapping[str, Any], variables: dict[str, Any], host: str
    ) -> dict[str, Any]:
        """Run the task's module on the host; where it is never heard of again, say what the host does by itself."""
        try:
            result = self._execute(self.definition.name, arguments, variables, host)
        except AnsibleConnectionFailure as error:
            words = self._may_be_undone(call)
            if words is None or NEVER_CONNECTED.search(str(error)):
                raise
            message = (
                f"{host}: the connection broke off while the task ran ({one_line(str(error)).rstrip('.')}). {words}"
            )
            return {"unreachable": True, "changed": False, "msg": message, "phase": ConnectError.phase}
        words = self._may_be_undone(call)
        if result.get("failed") and "module_stdout" in result and words is not None:
            # No answer of ours: the module was killed, or its answer was cut off.
            result["msg"] = f"{host}: {one_line(str(result.get('msg'))).rstrip('.')}. {words}"
        return result

    def _may_be_undone(self, call: Call) -> str | None:
        """Return what becomes of changes that nobody confirms, or None where the task guards none."""
        guard = call.operation.complete(None).guard if "guard" in self.definition.operation else None
        if guard is None or not guard.enabled or self._task.check_mode or not self.definition.changes_host(call):
            return None
        return (
            "What it may have changed on the path that the host is managed through, the host undoes by itself within"
            f" {guard.timeout} s; run the task again after that"
        )

    def _confirm(
        self, cls: type[Platform], guard: dict[str, Any], call: Call, variables: dict[str, Any], host: str
    ) -> dict[str, Any]:
        def reach(state: str) -> None:
            arguments = {"token": guard["token"], "state": state, "platform": cls.NAME}
            if not cls.RUNS_ON_HOST:
                platform = self._platform(cls, self._settings(call, variables, host), variables, host)
                definition = MODULES["guard"]
                perform(definition, platform, definition.parse(arguments))
                return
            self._connection.reset()
            result = self._execute_module(module_name=f"{COLLECTION}.guard", module_args=arguments, task_vars=variables)
            if result.get("unreachable"):
                raise ConnectError(str(result.get("msg")))
            if result.get("failed"):
                raise GuardError(str(result.get("msg")))

        return confirm(guard, reach)
