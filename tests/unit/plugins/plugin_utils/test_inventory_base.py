# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reading one host for the inventory: through an API in this process, or by Python on the host."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import types
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader

from ansible_collections.bareforge.hypervisor.plugins.module_utils.boundary.connection import ConnectionSettings
from ansible_collections.bareforge.hypervisor.plugins.module_utils.engine.inventory import InventoryReader, InventoryVm
from ansible_collections.bareforge.hypervisor.plugins.module_utils.engine.platform import Platform
from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import (
    AuthenticateError,
    ConnectError,
    ReadError,
    ValidateError,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms import registry
from ansible_collections.bareforge.hypervisor.plugins.plugin_utils import host_python
from ansible_collections.bareforge.hypervisor.plugins.plugin_utils.inventory_base import UnreadError, read_host
from ansible_collections.bareforge.hypervisor.plugins.plugin_utils.inventory_hosts import Target


class ApiPlatform(Platform):
    NAME = "api"


class ApiReader(InventoryReader):
    """Tells how it was reached, or fails as the user's name says."""

    def vms(
        self, sources: Collection[str], agent_timeout: int, settings: Mapping[str, Any], warnings: list[str]
    ) -> list[InventoryVm]:
        if settings["user"] == "nobody":
            raise AuthenticateError("the API refuses user nobody")
        warnings.append("one thing is not known")
        return [InventoryVm("web1", "running", state=json.dumps([sorted(sources), agent_timeout, dict(settings)]))]


@pytest.fixture(autouse=True)
def api(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType(f"{registry.__package__}.api")
    vars(module).update(ApiPlatform=ApiPlatform, ApiReader=ApiReader)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(registry.PLATFORMS, "api", "api:ApiPlatform")
    monkeypatch.setitem(registry.INVENTORY_READERS, "api", "api:ApiReader")


def read(variables: Mapping[str, Any], **settings: Any) -> dict[str, Any]:
    wanted = ConnectionSettings.parse(settings) if settings else None
    return read_host(Target("esx01", "api", variables, settings=wanted), ["document"], 7, DataLoader())


def test_an_api_is_reached_as_configuration_and_variables_say() -> None:
    told = read({"bareforge_user": "root", "bareforge_password": "s3cret", "ansible_host": "192.0.2.5"}, port=8443)
    assert told["warnings"] == ["one thing is not known"]
    (vm,) = told["vms"]
    assert json.loads(vm["state"]) == [
        ["document"],
        7,
        {
            "host": "192.0.2.5",
            "port": 8443,
            "user": "root",
            "password": "s3cret",
            "validate_certs": True,
            "timeout": 30,
        },
    ]


def test_what_an_api_refuses_is_told_with_its_phase() -> None:
    with pytest.raises(UnreadError) as caught:
        read({"bareforge_user": "nobody"})
    assert (caught.value.phase, caught.value.sentence()) == ("authenticate", "the API refuses user nobody")


def test_wrong_variables_are_named_and_a_password_is_not_shown() -> None:
    with pytest.raises(ValidateError) as caught:
        read({"bareforge_port": 70000, "bareforge_password": ["s3cret"]})
    assert "bareforge_port: 70000 is not allowed" in caught.value.sentence()
    assert "bareforge_password: what is given is not allowed" in caught.value.sentence()
    assert "s3cret" not in caught.value.sentence()


# -- Python on the host ------------------------------------------------------------------------------------------------


def test_the_archive_holds_what_every_reader_needs_and_is_the_same_each_time() -> None:
    with zipfile.ZipFile(io.BytesIO(host_python.archive())) as payload:
        names = set(payload.namelist())
    folder = "ansible_collections/bareforge/hypervisor/plugins/module_utils"
    assert {"ansible_collections/__init__.py", f"{folder}/__init__.py", f"{folder}/boundary/inventory.py"} <= names
    assert f"{folder}/platforms/kvm/inventory.py" in names
    first = host_python.archive()
    host_python.archive.cache_clear()
    assert host_python.archive() == first


def test_the_program_imports_from_memory_and_what_users_say_is_never_source(tmp_path: Path) -> None:
    evil = "'\"); open('owned', 'w'); (\""
    request = {"platform": evil, "sources": [evil], "agent_timeout": 5, "settings": {}}
    text = host_python.program(request)
    assert evil.encode() not in text
    done = subprocess.run([sys.executable, "-I", "-"], input=text, capture_output=True, cwd=tmp_path, check=True)
    (line,) = (line for line in done.stdout.decode().splitlines() if line.startswith(host_python.MARK))
    told = json.loads(line[len(host_python.MARK) :])
    assert told["error"]["phase"] == "validate"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("variables", "kind", "message"),
    [
        ({"ansible_connection": "nowhere"}, ConnectError, "there is no connection plugin 'nowhere'"),
        (
            {"ansible_connection": "local", "ansible_become": "true", "ansible_become_method": "magic"},
            ConnectError,
            "there is no become plugin 'magic'",
        ),
        (
            {"ansible_connection": "local", "ansible_python_interpreter": "/nowhere/python 3"},
            ReadError,
            "there is no /nowhere/python 3 on the host",
        ),
        ({"ansible_connection": "local", "ansible_python_interpreter": "/bin/false"}, ReadError, "gave no answer"),
    ],
)
def test_ways_that_lead_nowhere_are_named(variables: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        host_python.ask("kvm01", variables, {"platform": "kvm"}, DataLoader())


def test_a_connection_that_takes_no_input_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from ansible.plugins.connection import local

    monkeypatch.setattr(local.Connection, "has_pipelining", False)
    with pytest.raises(ConnectError, match="hands nothing to a program's standard input"):
        host_python.ask("kvm01", {"ansible_connection": "local"}, {"platform": "kvm"}, DataLoader())


@pytest.mark.parametrize(("variables", "wanted"), [({}, 45), ({"ansible_ssh_timeout": 8}, 8)])
def test_a_slow_login_has_the_time_that_reading_the_host_has(variables: dict[str, Any], wanted: int) -> None:
    from ansible.template import Templar

    known = {"inventory_hostname": "kvm01", **variables}
    connection = host_python.connect(known, Templar(loader=DataLoader(), variables=known), 45)
    assert connection.get_option("timeout") == wanted
    assert connection.get_option("host") == "kvm01"


def test_a_login_that_prints_is_no_hindrance(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(
        f"#!/bin/sh\necho Welcome; echo '{host_python.MARK}{{}}x' | cut -c1-5\nexec {sys.executable} -I -\n"
    )
    python.chmod(0o755)
    variables = {"ansible_connection": "local", "ansible_python_interpreter": str(python)}
    told = host_python.ask(
        "kvm01", variables, {"platform": "none", "sources": [], "agent_timeout": 5, "settings": {}}, DataLoader()
    )
    assert told["error"]["phase"] == "validate"
