# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import ApplyError
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm import systemd

NAME, TEXT, TARGET = "bareforge-x.service", "[Unit]\n", "sysinit.target"


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What systemd was told; it makes the runtime directory of a unit that it starts."""
    calls: list[Any] = []

    def systemctl(*arguments: str, **_options: Any) -> None:
        calls.append(arguments)
        if arguments[0] == "restart":
            (tmp_path / "run" / "bareforge-x").mkdir(parents=True, exist_ok=True)

    monkeypatch.setattr(systemd, "UNIT_FOLDER", str(tmp_path / "units"))
    monkeypatch.setattr(systemd, "RUNTIME_FOLDER", str(tmp_path / "run"))
    monkeypatch.setattr(systemd, "systemctl", systemctl)
    return calls


def test_unit_is_installed_once(told: list[Any]) -> None:
    assert systemd.install_unit(NAME, TEXT, TARGET)
    assert told == [("restart", NAME)]
    assert systemd.unit_is_installed(NAME, TEXT, TARGET)
    assert not systemd.install_unit(NAME, TEXT, TARGET)
    assert len(told) == 1


def test_unit_that_has_changed_is_read_again(told: list[Any]) -> None:
    systemd.install_unit(NAME, "[Unit]\nDescription=old\n", TARGET)
    told.clear()
    assert systemd.install_unit(NAME, TEXT, TARGET)
    assert told == [("daemon-reload",), ("restart", NAME)]


def test_unit_that_is_not_active_is_started(told: list[Any], tmp_path: Path) -> None:
    systemd.install_unit(NAME, TEXT, TARGET)
    (tmp_path / "run" / "bareforge-x").rmdir()
    told.clear()
    assert not systemd.unit_is_installed(NAME, TEXT, TARGET)
    assert systemd.install_unit(NAME, TEXT, TARGET)
    assert told == [("restart", NAME)]


def test_unit_that_does_not_start_with_the_host_is_enabled(told: list[Any], tmp_path: Path) -> None:
    systemd.install_unit(NAME, TEXT, TARGET)
    link, unit = (Path(path) for path in systemd.boot_unit_files(NAME, TARGET))
    link.unlink()
    assert systemd.install_unit(NAME, TEXT, TARGET)
    assert link.resolve() == unit.resolve()


def test_program_is_run_without_a_shell_and_speaks_for_itself() -> None:
    assert systemd.run_command([sys.executable, "-c", "import sys; print(sys.argv[1])", "$(id) `id`"]) == "$(id) `id`\n"
    with pytest.raises(ApplyError, match=r"failed: no way$"):
        systemd.run_command([sys.executable, "-c", "import sys; sys.exit('no way')"])
    with pytest.raises(ApplyError, match=r"still busy after 0 s"):
        systemd.run_command([sys.executable, "-c", "import time; time.sleep(60)"], 0.2)
    with pytest.raises(ApplyError, match=r"/nonexistent could not be run: No such file"):
        systemd.run_command(["/nonexistent"])
