# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the role kvm_host says of its options, against what the modules that it uses take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

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
