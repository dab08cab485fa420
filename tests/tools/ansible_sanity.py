# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs `ansible-test sanity` on the tracked files of the collection as they are in the work tree, in a scratch copy.

Usage: ansible_sanity.py [--junit FOLDER] [ARGUMENT...], from `make sanity`; arguments go to ansible-test.

ansible-test wants a real path that ends in ansible_collections/NAMESPACE/NAME, so a link to the root does not do. It makes
its virtual environments with a script that it downloads: Python's own ensurepip does the same without that.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from interpreters import real_interpreters, without_shims

ROOT = Path(__file__).resolve().parents[2]
# Instead of the user's home: ansible-test keeps its environments there, and our bootstrap script would stay in its cache.
HOME = ROOT / ".cache" / "ansible-test"
BOOTSTRAP = "import ensurepip\nensurepip.bootstrap()\n"
# The link to the root itself is no content; tests are not part of the artefact, ruff and mypy look after them.
LEFT_OUT = ("collections/", "tests/")
BUT_NOT = ("tests/sanity/",)


def tracked_files() -> list[str]:
    """Return the paths of the tracked files, relative to the root, that exist in the work tree."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [
        path
        for path in listed.split("\0")
        if path
        and (path.startswith(BUT_NOT) or not path.startswith(LEFT_OUT))
        and ((ROOT / path).exists() or (ROOT / path).is_symlink())
    ]


def copy_content(target: Path) -> None:
    """Copy the tracked files to a folder, links as links."""
    for path in tracked_files():
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, target / path, follow_symlinks=False)


def place_bootstrap() -> None:
    """Put our script where ansible-test looks for the one that it would download.

    Raises RuntimeError if this ansible-test does not say which version of pip that is.
    """
    spec = importlib.util.find_spec("ansible_test")
    if spec is None or spec.origin is None:
        raise RuntimeError("ansible-test is not installed beside this Python.")
    source = Path(spec.origin).with_name("_internal") / "python_requirements.py"
    match = re.search(r"pip='([\d.]+)'", source.read_text(encoding="utf-8"))
    if match is None:
        raise RuntimeError(f"{source} does not say which pip ansible-test installs: its layout has changed.")
    script = HOME / ".ansible" / "test" / "cache" / f"get_pip_{match[1].replace('.', '_')}.py"
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(BOOTSTRAP, encoding="utf-8")


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of ansible-test: its own home, and the interpreters by name without pyenv's shims.

    folder: where links to the interpreters are made.
    """
    links = folder / "interpreters"
    links.mkdir()
    for version, interpreter in real_interpreters().items():
        (links / f"python{version[0]}.{version[1]}").symlink_to(interpreter)
    path = os.pathsep.join(
        [str(Path(sys.executable).parent), str(links), without_shims(os.environ.get("PATH", os.defpath))]
    )
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("ANSIBLE_", "PYTHON"))}
    return {**kept, "HOME": str(HOME), "PATH": path}


def main() -> int:
    """Run ansible-test and return its exit status."""
    parser = argparse.ArgumentParser(description="ansible-test sanity on a scratch copy of the work tree.")
    parser.add_argument("--junit", type=Path, help="folder that gets a JUnit file of every sanity test")
    options, arguments = parser.parse_known_args()
    place_bootstrap()
    with tempfile.TemporaryDirectory(prefix="bareforge-sanity-") as name:
        scratch = Path(name)
        content = scratch / "ansible_collections" / "bareforge" / "hypervisor"
        copy_content(content)
        program = Path(sys.executable).with_name("ansible-test")
        command = [str(program), "sanity", "--requirements", "--color", "no", "--junit", *arguments]
        status = subprocess.run(
            command, cwd=content, env=environment(scratch), stdin=subprocess.DEVNULL, check=False
        ).returncode
        if options.junit:
            shutil.rmtree(options.junit, ignore_errors=True)
            written = content / "tests" / "output" / "junit"
            if written.is_dir():
                shutil.copytree(written, options.junit)
    return status


if __name__ == "__main__":
    sys.exit(main())
