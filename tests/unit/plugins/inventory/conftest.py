# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Hosts for the inventory plugin without a host: Python programs with a libvirt of memory, reached by Ansible's own plugins."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[4]
BIN = Path(sys.executable).parent

FAKE_LIBVIRT = """
import json, os, sys
sys.path.insert(0, {tests!r})
from support.libvirt_in_memory import Domain, Host, Library, Network
_data = json.load(open({data!r}))
_host = Host()
_host.networks = [Network(xml) for xml in _data["networks"]]
for _entry in _data["domains"]:
    _domain = Domain(_host, _entry["xml"])
    _domain._state = _entry["state"]
    _host.domains[_domain.name()] = _domain
open({asked!r}, "a").write("asked\\n")
_library = Library(_host)
for _name in dir(_library):
    if not _name.startswith("_"):
        globals()[_name] = getattr(_library, _name)
"""


class Site:
    """A folder with a configuration, hosts, and what ansible-inventory makes of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "site.bareforge.yml"

    def host(self, name: str, *domains: tuple[str, int], script: str | None = None) -> dict[str, Any]:
        """Return the entry of a host that runs on this machine: its Python has libvirt in memory, or is a shell script."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        data = {"networks": [], "domains": [{"xml": xml, "state": state} for xml, state in domains]}
        (folder / "data.json").write_text(json.dumps(data), encoding="utf-8")
        (folder / "libvirt.py").write_text(
            FAKE_LIBVIRT.format(tests=str(ROOT / "tests"), data=str(folder / "data.json"), asked=str(folder / "asked")),
            encoding="utf-8",
        )
        python = folder / "python"
        python.write_text(f"#!/bin/sh\n{script or f'PYTHONPATH={folder} exec {sys.executable} -'}\n", encoding="utf-8")
        python.chmod(0o755)
        return {
            "name": name,
            "platform": "kvm",
            "python_interpreter": str(python),
            "vars": {"ansible_connection": "ansible.builtin.local"},
        }

    def asked(self, name: str) -> int:
        """Return how often the libvirt of a host was asked."""
        asked = self.folder / name / "asked"
        return len(asked.read_text(encoding="utf-8").splitlines()) if asked.exists() else 0

    def write(self, hosts: Sequence[Any], **options: Any) -> None:
        """Write the configuration, without the neighbour table, which this machine really has."""
        config = {
            "plugin": "bareforge.hypervisor.inventory",
            "address_sources": ["document"],
            "timeout": 120,
            "hosts": list(hosts),
            **options,
        }
        self.config.write_text(json.dumps(config), encoding="utf-8")

    def run(
        self, *arguments: str, before: Sequence[Path] = (), environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run ansible-inventory over the configuration."""
        sources = [part for path in (*before, self.config) for part in ("-i", str(path))]
        return subprocess.run(
            [str(BIN / "ansible-inventory"), *sources, *(arguments or ("--list", "--export"))],
            cwd=ROOT,
            env={
                **os.environ,
                "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
                "ANSIBLE_LOCAL_TEMP": str(self.folder / "tmp"),
                "ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "true",
                "ANSIBLE_DEPRECATION_WARNINGS": "false",
                "COLUMNS": "1000",
                **(environment or {}),
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def listed(self, **options: Any) -> dict[str, Any]:
        """Return what ansible-inventory lists: groups by name, and the variables of each host."""
        done = self.run(**options)
        assert done.returncode == 0, done.stderr
        return read(done)


def read(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Return what ansible-inventory has listed, without its marks on texts that are no templates."""

    def unmarked(value: Any) -> Any:
        if isinstance(value, dict):
            if list(value) == ["__ansible_unsafe"]:
                return value["__ansible_unsafe"]
            return {name: unmarked(element) for name, element in value.items()}
        return [unmarked(element) for element in value] if isinstance(value, list) else value

    return unmarked(json.loads(done.stdout))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)
