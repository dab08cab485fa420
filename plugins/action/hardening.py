# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The action of the module hardening: reads the profile and writes the reports, both of which are the controller's."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import (
    ApplyError,
    NotSupportedError,
    Problem,
    ValidateError,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.hardening.evaluation import ENFORCE
from ansible_collections.bareforge.hypervisor.plugins.module_utils.hardening.profile import (
    CheckedProfile,
    parse_exceptions,
    profile_hash,
    select,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.hardening.target import HardeningTarget
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.types import show
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.registry import platform_class
from ansible_collections.bareforge.hypervisor.plugins.plugin_utils.action_base import HypervisorAction
from ansible_collections.bareforge.hypervisor.plugins.plugin_utils.hardening_profile import load_profile
from ansible_collections.bareforge.hypervisor.plugins.plugin_utils.hardening_report import build_report, write_reports

PASSWORD_VARIABLES = ("ansible_password", "ansible_ssh_pass", "ansible_ssh_password")


def _names(value: Any) -> list[Any]:
    """Return a list of names; what is none is refused with the other arguments."""
    return value if isinstance(value, list) else []


class ActionModule(HypervisorAction):
    """Audits, enforces and reverts a hardening profile."""

    _profile: dict[str, Any]

    def prepare(self, arguments: dict[str, Any], variables: Mapping[str, Any]) -> dict[str, Any]:
        """Return the task's arguments with the profile's content in place of its name.

        Raises ValidateError with file and line of what is wrong with the profile, or what else the task asks in vain.
        """
        reference = arguments.get("profile")
        if not isinstance(reference, str) or not reference:
            shown = "must be given" if reference is None else f"{show(reference)} is not allowed"
            raise ValidateError([Problem("profile", f"{shown}; allowed is the name or the path of a profile")])
        platform = platform_class(str(self._platform_name(arguments, variables)))
        target = next((cls for cls in platform.INTERFACES if issubclass(cls, HardeningTarget)), None)
        if target is None:
            raise NotSupportedError([Problem("profile", f"platform {platform.NAME} has no hardening")])
        folder = Path(self._loader.get_basedir())
        data, checked = load_profile(reference, platform.NAME, target, folder)
        profile = checked.profile
        self._profile = {
            "name": profile.name,
            "version": profile.version,
            "title": profile.title,
            "sha256": profile_hash(data),
        }
        # The host would refuse these too, but it need not be reached for that.
        parse_exceptions(arguments.get("exceptions") or (), checked)
        select(checked, _names(arguments.get("rules")), _names(arguments.get("tags")))
        if arguments.get("mode") == ENFORCE:
            self._check_login(arguments, checked, variables)
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        return {**arguments, "profile": {"data": data, "today": today}}

    def _check_login(self, arguments: Mapping[str, Any], checked: CheckedProfile, variables: Mapping[str, Any]) -> None:
        """Refuse to switch off the login that this very task came in by."""
        if not any(self._variable(name, variables) for name in PASSWORD_VARIABLES):
            return
        excepted = {exception.rule for exception in parse_exceptions(arguments.get("exceptions") or (), checked)}
        for check in select(checked, _names(arguments.get("rules")), _names(arguments.get("tags"))):
            setting = check.rule.setting or {}
            keyword = str(setting.get("keyword", "")).lower()
            if (
                setting.get("kind") == "sshd_setting"
                and keyword == "passwordauthentication"
                and check.id not in excepted
            ):
                raise ValidateError(
                    [
                        Problem(
                            "profile",
                            f"rule {check.id} switches off logins with a password, and this host is reached with one;"
                            " allowed is a key, or an exception for the rule",
                        )
                    ]
                )

    def unguarded(self, result: dict[str, Any], guard: Mapping[str, Any]) -> list[Any]:
        """Return the changes that were made for other rules than those that are guarded."""
        guarded = set(guard["guarded"])
        return [
            change
            for change in result.get("changes") or ()
            if not guarded.intersection(f"rule {rule}" for rule in change["rules"])
        ]

    def _run(
        self, arguments: dict[str, Any], variables: dict[str, Any], host: str, secrets: list[str]
    ) -> dict[str, Any]:
        # Reports are written of failed runs too: they tell what was enforced and what was not.
        result = super()._run(arguments, variables, host, secrets)
        if "rules" not in result or "score" not in result:
            return result
        result["profile"] = self._profile
        if not self._task.diff:
            result.pop("diff", None)
        if arguments.get("report") and not self._task.check_mode:
            prefix = Path(self._loader.path_dwim(str(arguments["report"])))
            formats = arguments.get("formats") or self.definition.own["formats"].default
            now = datetime.datetime.now(datetime.UTC)
            report = build_report(result, host, now.isoformat(timespec="seconds"))
            try:
                result["reports"] = write_reports(prefix, formats, report)
            except OSError as error:
                raise ApplyError(f"the report {error.filename} cannot be written: {error.strerror}") from error
        return result
