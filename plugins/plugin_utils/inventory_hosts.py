# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The hypervisors that an inventory's configuration names: how each is reached, and what of that the inventory shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible.inventory.helpers import get_group_vars
from ansible.template import Templar
from ansible.utils.vars import combine_vars
from ansible.vars.plugins import get_vars_from_inventory_sources

from ansible_collections.bareforge.hypervisor.plugins.module_utils.boundary.connection import ConnectionSettings
from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import Problem, ValidateError
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.schema import (
    FieldType,
    ModelObject,
    Nested,
    Path,
    Plain,
    Value,
    option,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.types import (
    AbsolutePath,
    Boolean,
    Choice,
    Host,
    Integer,
    Name,
    Text,
    show,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.registry import (
    INVENTORY_READERS,
    platform_class,
)

from .plain import plain

VARIABLE_OF = {
    "host": "ansible_host",
    "port": "ansible_port",
    "user": "ansible_user",
    "password": "ansible_password",
    "private_key_file": "ansible_ssh_private_key_file",
    "ssh_common_args": "ansible_ssh_common_args",
    "python_interpreter": "ansible_python_interpreter",
    "become": "ansible_become",
    "become_user": "ansible_become_user",
    "become_password": "ansible_become_password",
    "platform": "bareforge_platform",
}
"""The inventory variable that says the same as a field of a host's entry."""


class Variables(FieldType):
    """A mapping of names of variables to whatever they hold."""

    def read(self, value: Any, path: Path, problems: list[Problem]) -> Any:
        if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
            problems.append(Problem(path.text, f"{show(value)} is not allowed; allowed is a mapping"))
            return None
        return dict(value)

    def argument(self) -> Plain:
        return {"type": "dict"}


@dataclass(frozen=True)
class HostEntry(ModelObject):
    """A hypervisor that is described in the configuration itself."""

    name: str | None = option(Value(Name()), "The host's name in the inventory.", key=True)
    platform: str | None = option(Value(Choice(*sorted(INVENTORY_READERS))), "The host's platform.")
    host: str | None = option(Value(Host()), "The host's name or address where it is not its name in the inventory.")
    port: int | None = option(Value(Integer(1, 65535)), "The port of SSH, or of the API.")
    user: str | None = option(Value(Text(maximum=255, minimum=1)), "The user to log in as.")
    password: str | None = option(Value(Text(maximum=1024, minimum=1)), "The user's password.", secret=True)
    private_key_file: str | None = option(Value(Text(maximum=4096, minimum=1)), "The file with the private SSH key.")
    ssh_common_args: str | None = option(Value(Text(maximum=4096)), "Further arguments of ssh.")
    python_interpreter: str | None = option(Value(AbsolutePath()), "The path of Python on the host.")
    become: bool | None = option(Value(Boolean()), "Whether to become another user on the host.")
    become_user: str | None = option(Value(Text(maximum=255, minimum=1)), "The user to become.")
    become_password: str | None = option(Value(Text(maximum=1024, minimum=1)), "The password for that.", secret=True)
    settings: ConnectionSettings | None = option(Nested(ConnectionSettings), "How an API is reached.")
    vars: dict[str, Any] | None = option(Variables(), "Variables that only reading the host is given.", secret=True)

    def check(self) -> Iterator[tuple[str, str]]:
        if self.settings is not None and self.platform is not None and platform_class(self.platform).RUNS_ON_HOST:
            yield "settings", f"goes with platforms that have an API; {self.platform} is reached by SSH"

    def variables(self) -> dict[str, Any]:
        """Return what the entry says as inventory variables, secrets among them."""
        said = {
            variable: getattr(self, name) for name, variable in VARIABLE_OF.items() if getattr(self, name) is not None
        }
        return {**(self.vars or {}), **said}

    def shown(self) -> dict[str, Any]:
        """Return what of it the inventory shows: nothing that is a secret, and nothing of `vars`, which may hold some."""
        secret = {VARIABLE_OF[name] for name, entry in self.options().items() if entry.secret and name in VARIABLE_OF}
        return {
            variable: value
            for name, variable in VARIABLE_OF.items()
            if variable not in secret and (value := getattr(self, name)) is not None
        }


@dataclass(frozen=True)
class Target:
    """A host that is to be read.

    variables: its inventory variables, which may be templates and hold secrets.
    shown: those that the inventory adds.
    settings: what the configuration says of how an API is reached.
    """

    name: str
    platform: str
    variables: Mapping[str, Any] = field(default_factory=dict, repr=False)
    shown: Mapping[str, Any] = field(default_factory=dict)
    settings: ConnectionSettings | None = None

    def reached(self) -> str:
        """Return in one text what tells this host from another one that was known by its name; no secret is in it."""
        parts = [self.platform]
        for names in (
            ("ansible_connection",),
            ("ansible_user", "ansible_ssh_user", "bareforge_user"),
            ("ansible_host", "ansible_ssh_host", "bareforge_host"),
            ("ansible_port", "ansible_ssh_port", "bareforge_port"),
        ):
            parts.append(next((str(self.variables[name]) for name in names if name in self.variables), ""))
        if self.settings is not None:
            parts.extend(str(getattr(self.settings, name)) for name in ("user", "host", "port"))
        return " ".join(parts)


def read_targets(
    entries: Sequence[Any], inventory: Any, loader: Any, templar: Templar, sources: Sequence[str]
) -> list[Target]:
    """Return the hosts that a configuration names, in its order and each once.

    entries: `hosts` of the configuration; a text is the name of a host or group that an earlier inventory source has
        (ansible.inventory.data.InventoryData), a mapping describes one.
    templar: knows the extra variables; templates and vaulted values of the entries are resolved with it.
    sources: the paths beside which group_vars and host_vars lie.
    Raises ValidateError with everything that is wrong.
    """
    problems: list[Problem] = []
    targets: dict[str, Target] = {}
    for number, raw in enumerate(entries):
        value = plain(templar.template(raw))
        place = Path("hosts").item(number)
        if isinstance(value, str):
            found = list(_named(value, place, inventory, loader, templar, sources, problems))
        else:
            found = list(_described(value, place, inventory, loader, sources, problems))
        for target in found:
            if target.name not in targets:
                targets[target.name] = target
            elif not isinstance(value, str):
                problems.append(Problem(place.text, f"{show(target.name)} is listed twice"))
    if problems:
        raise ValidateError(problems)
    return list(targets.values())


def _named(
    name: str,
    place: Path,
    inventory: Any,
    loader: Any,
    templar: Templar,
    sources: Sequence[str],
    problems: list[Problem],
) -> Iterator[Target]:
    if name in inventory.groups:
        hosts = inventory.groups[name].get_hosts()
    elif name in inventory.hosts:
        hosts = [inventory.hosts[name]]
    else:
        problems.append(
            Problem(
                place.text,
                f"{show(name)} is not allowed; allowed is a host or group of an inventory source that is read before "
                "this one, or a mapping that describes a host",
            )
        )
        return
    for host in hosts:
        variables = variables_of(host, inventory, loader, sources)
        own = templar.copy_with_new_env(available_variables={**variables, "inventory_hostname": host.name})
        platform = plain(own.template(variables.get("bareforge_platform")))
        if platform not in INVENTORY_READERS:
            said = "is not set" if platform is None else f"is {show(platform)}, which is not allowed"
            allowed = ", ".join(sorted(INVENTORY_READERS))
            problems.append(
                Problem(place.text, f"bareforge_platform of host {show(host.name)} {said}; allowed is {allowed}")
            )
            continue
        yield Target(host.name, platform, variables)


def _described(
    value: Any, place: Path, inventory: Any, loader: Any, sources: Sequence[str], problems: list[Problem]
) -> Iterator[Target]:
    label = HostEntry.label_of(value)
    entry = HostEntry.read(value, place if label is None else Path("hosts").item(label), problems)
    if entry is None or entry.name is None:
        return
    known = inventory.hosts.get(entry.name)
    variables = combine_vars(variables_of(known, inventory, loader, sources) if known else {}, entry.variables())
    platform = variables.get("bareforge_platform")
    if platform not in INVENTORY_READERS:
        allowed = ", ".join(sorted(INVENTORY_READERS))
        problems.append(
            Problem(Path("hosts").item(entry.name).field("platform").text, f"must be given; allowed is {allowed}")
        )
        return
    yield Target(entry.name, platform, variables, entry.shown(), entry.settings)


def variables_of(host: Any, inventory: Any, loader: Any, sources: Sequence[str]) -> dict[str, Any]:
    """Return the variables of a host of the inventory, with those of its groups and of the files beside the sources."""
    # Until all sources are read, Ansible has not made every group a child of `all` yet.
    groups = list({group.name: group for group in (inventory.groups["all"], *host.get_groups())}.values())
    found = combine_vars(get_group_vars(groups), get_vars_from_inventory_sources(loader, sources, groups, "all"))
    found = combine_vars(found, host.get_vars())
    return combine_vars(found, get_vars_from_inventory_sources(loader, sources, [host], "all"))
