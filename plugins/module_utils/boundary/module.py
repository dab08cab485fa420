# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A module of the collection as it runs on a host: from AnsibleModule's arguments to its result."""

from __future__ import annotations

import os
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from .code_cache import use_code_cache


class _Module(AnsibleModule):
    """An AnsibleModule that knows secrets inside documents, which the argument spec does not describe."""

    def __init__(self, definition: Any) -> None:
        self.definition = definition
        super().__init__(argument_spec=definition.argument_spec(), supports_check_mode=True)

    def exit_json(self, **kwargs: Any) -> None:
        self._hide_secrets()
        super().exit_json(**kwargs)

    def fail_json(self, msg: str, **kwargs: Any) -> None:
        # Called by Ansible itself, before anything of ours has run, where an argument does not fit the argument spec.
        self._hide_secrets()
        super().fail_json(msg, **kwargs)

    def _hide_secrets(self) -> None:
        self.no_log_values.update(self.definition.secrets(self.params))

    def _log_invocation(self) -> None:
        # Ansible would write the arguments to the host's log, documents with their secrets among them.
        given = sorted(name for name, value in self.params.items() if value is not None)
        self.log(f"Invoked with the options {', '.join(given)}")


def run_module(name: str) -> None:
    """Run a module: read its arguments, let the platform do what they ask for, and exit with the result.

    name: the module's name, a key of MODULES.
    """
    use_code_cache()
    # From here on what is imported is on the host already, compiled.
    from .definitions import MODULES
    from .result import failure

    module = _Module(MODULES[name])
    try:
        result = _perform(module)
    except Exception as error:  # noqa: BLE001 - the one boundary: a task that breaks off says so in one sentence
        result = failure(error, module._verbosity)
    for warning in result.pop("warnings", ()):
        module.warn(warning)
    # fail_json would add a traceback of its own by its own rules.
    module.exit_json(**result)


def _perform(module: _Module) -> Any:
    from ..errors import AuthenticateError
    from .result import perform

    call = module.definition.parse(module.params)
    cls = _platform_class(call.values.get("platform"))
    if os.geteuid() != 0:
        raise AuthenticateError("the task needs root on the host", "Say become: true")
    return perform(module.definition, cls(), call, module.check_mode, module._diff)


def _platform_class(name: Any) -> Any:
    from ..errors import NotSupportedError, Problem
    from ..model.types import show
    from ..platforms.on_host import ON_HOST

    allowed = ", ".join(sorted(ON_HOST))
    if name is None:
        raise NotSupportedError([Problem("platform", f"must be given; allowed is {allowed}")])
    if name not in ON_HOST:
        raise NotSupportedError(
            [Problem("platform", f"{show(name)} does not run on the host itself; allowed is {allowed}")]
        )
    return ON_HOST[name]
