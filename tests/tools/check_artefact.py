# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Builds the collection's artefact, installs it elsewhere and documents every module from there.

Usage: check_artefact.py, from `make build`. The artefact is left in .report.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
REPORT = ROOT / ".report"
BIN = Path(sys.executable).parent
# What would show that something is in it that no user needs, or that a user needs is not.
NOT_IN_IT = ("collections", "tests", "molecule", ".venv", ".lab", ".ci", "Makefile", "ansible.cfg", "inventories")
IN_IT = ("README.md", "meta/runtime.yml", "plugins/module_utils/engine/runner.py", "LICENSES/GPL-3.0-or-later.txt")


class ArtefactError(Exception):
    """What is wrong with the artefact."""


def ansible(program: str, *arguments: str, collections: Path, cwd: Path) -> str:
    """Run one of Ansible's programs with one folder of collections and no configuration, and return what it printed.

    Raises ArtefactError if it fails.
    """
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
    configuration = collections / "ansible.cfg"
    configuration.touch()
    environment |= {
        "ANSIBLE_COLLECTIONS_PATH": str(collections),
        "ANSIBLE_CONFIG": str(configuration),
        "ANSIBLE_NOCOLOR": "1",
    }
    done = subprocess.run(
        [str(BIN / program), *arguments],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ArtefactError(f"{program} {' '.join(arguments)} failed: {done.stderr or done.stdout}")
    return done.stdout


def check() -> str:
    """Build, install and document, and return what was found. Raises ArtefactError."""
    name = "{namespace}.{name}".format(**yaml.safe_load((ROOT / "galaxy.yml").read_text(encoding="utf-8")))
    with tempfile.TemporaryDirectory(prefix="bareforge-artefact-") as folder:
        elsewhere = Path(folder)
        REPORT.mkdir(exist_ok=True)
        for old in REPORT.glob("*.tar.gz"):
            old.unlink()
        ansible(
            "ansible-galaxy",
            "collection",
            "build",
            "--force",
            "--output-path",
            str(REPORT),
            collections=elsewhere,
            cwd=ROOT,
        )
        (artefact,) = REPORT.glob("*.tar.gz")
        ansible(
            *(
                "ansible-galaxy",
                "collection",
                "install",
                "--offline",
                "--collections-path",
                str(elsewhere),
                str(artefact),
            ),
            collections=elsewhere,
            cwd=elsewhere,
        )
        installed = elsewhere / "ansible_collections" / Path(*name.split("."))
        wrong = [f"{path} is in it" for path in NOT_IN_IT if (installed / path).exists()]
        wrong += [f"{path} is not in it" for path in IN_IT if not (installed / path).exists()]
        if wrong:
            raise ArtefactError(f"{artefact.name}: {', '.join(wrong)}.")
        modules = sorted(path.stem for path in (installed / "plugins" / "modules").glob("[!_]*.py"))
        if not modules:
            raise ArtefactError(f"{artefact.name} has no module.")
        listed = json.loads(ansible("ansible-doc", "--list", "--json", name, collections=elsewhere, cwd=elsewhere))
        if missing := sorted({f"{name}.{module}" for module in modules} - set(listed)):
            raise ArtefactError(f"ansible-doc does not list {', '.join(missing)}.")
        full_names = [f"{name}.{module}" for module in modules]
        documented = json.loads(ansible("ansible-doc", "--json", *full_names, collections=elsewhere, cwd=elsewhere))
        for full_name in full_names:
            found = documented.get(full_name, {})
            if not (found.get("doc") or {}).get("description") or not found.get("examples") or not found.get("return"):
                raise ArtefactError(f"ansible-doc shows no description, examples or return values of {full_name}.")
        groups = yaml.safe_load((installed / "meta" / "runtime.yml").read_text(encoding="utf-8"))["action_groups"]
        in_group = set(groups["hypervisor"])
        if in_group != set(modules):
            raise ArtefactError(f"modules and the action group differ in {', '.join(sorted(in_group ^ set(modules)))}.")
        return (
            f"{artefact.name} ({artefact.stat().st_size >> 10} KiB): {len(modules)} modules documented from elsewhere."
        )


def main() -> int:
    """Check and return the exit status."""
    try:
        print(check())
    except ArtefactError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
