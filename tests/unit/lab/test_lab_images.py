# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Recipes, the keys of images, and a cache that holds whole images only."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lab import images
from lab.errors import LabError
from lab.images import Image, Recipe

FACTS: dict[str, Any] = {"sources": "Types: deb", "options": "", "public_key": "ssh-ed25519 AAAA"}


def write_recipe(folder: Path, text: str, files: dict[str, str]) -> None:
    folder.mkdir(parents=True)
    (folder / "recipe.toml").write_text(text)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


@pytest.fixture
def recipes(tmp_path: Path) -> Path:
    folder = tmp_path / "recipes"
    write_recipe(folder / "base", 'form = "server"\nsuite = "bookworm"\npackages = ["a"]\n', {"files/etc/x": "1"})
    write_recipe(folder / "more", 'extends = "base"\npackages = ["b"]\n', {"files/etc/y": "2"})
    return folder


def key(recipes: Path, name: str = "base", **changed: str) -> str:
    return images.key_of(images.load_recipe(name, recipes), **(FACTS | changed))


def test_the_lab_has_the_recipes_that_its_commands_name() -> None:
    assert {"kvm-host", "kvm-host-ready", "debian-guest", "tiny-guest"} <= set(images.recipe_names())
    for name in images.recipe_names():
        assert images.load_recipe(name).form in images.BUILDER


def test_the_ready_host_differs_from_the_fresh_one_only_in_being_installed() -> None:
    fresh, ready = images.load_recipe("kvm-host"), images.load_recipe("kvm-host-ready")
    assert fresh.fields | {"install_downloads": True} == ready.fields
    assert ready.folders[: len(fresh.folders)] == fresh.folders


def test_an_extending_recipe_lays_its_fields_and_folders_over_the_other(recipes: Path) -> None:
    recipe = images.load_recipe("more", recipes)
    assert recipe.fields == {"form": "server", "suite": "bookworm", "packages": ["b"]}
    assert [folder.name for folder in recipe.folders] == ["base", "more"]


def test_an_unknown_image_is_refused_by_name() -> None:
    with pytest.raises(LabError, match=r"no image 'kvm-hots': choose one of .*kvm-host, kvm-host-ready"):
        images.load_recipe("kvm-hots")


def test_the_key_is_the_same_for_the_same_recipe_at_another_time(recipes: Path) -> None:
    before = key(recipes)
    (recipes / "base/files/etc/x").touch()
    assert key(recipes) == before


CHANGES: dict[str, Callable[[Path], object]] = {
    "a field": lambda folder: (folder / "recipe.toml").write_text('form = "server"\nsuite = "trixie"\n'),
    "a file's content": lambda folder: (folder / "files/etc/x").write_text("2"),
    "a file's name": lambda folder: (folder / "files/etc/x").rename(folder / "files/etc/z"),
    "a file's mode": lambda folder: (folder / "files/etc/x").chmod(0o755),
    "a new file": lambda folder: (folder / "customize").write_text("true"),
}


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_the_key_changes_with_the_recipe_and_with_one_it_extends(recipes: Path, change: str) -> None:
    before = key(recipes), key(recipes, "more")
    CHANGES[change](recipes / "base")
    after = key(recipes), key(recipes, "more")
    assert before[0] != after[0]
    assert before[1] != after[1]


@pytest.mark.parametrize("fact", FACTS)
def test_the_key_changes_with_the_machine_and_the_lab_key(recipes: Path, fact: str) -> None:
    assert key(recipes, **{fact: "another"}) != key(recipes)


def test_the_key_changes_with_the_builder(recipes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = key(recipes)
    monkeypatch.setitem(images.BUILDER, "server", images.BUILDER["server"] + 1)
    assert key(recipes) != before


class Builder:
    """Stands for the tools: writes a disk, slowly, or fails after having written half of one."""

    def __init__(self) -> None:
        self.runs = 0
        self.fail = False

    def __call__(self, _recipe: Recipe, folder: Path, _log: Path) -> None:
        self.runs += 1
        (folder / "disk.qcow2").write_bytes(b"half")
        time.sleep(0.05)
        if self.fail:
            raise LabError("the tool broke")
        (folder / "disk.qcow2").write_bytes(b"whole")


@pytest.fixture
def builder(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Builder:
    fake = Builder()
    monkeypatch.setitem(images._BUILDERS, "server", fake)
    monkeypatch.setattr(images, "_identity", lambda name: (images.load_recipe(name), "0123456789abcdef"))
    return fake


def test_a_second_build_is_the_cached_image(builder: Builder, cache: Path) -> None:
    image = images.build("kvm-host")
    assert image == images.build("kvm-host") == images.cached("kvm-host")
    assert builder.runs == 1
    assert image.folder == cache / "images" / "kvm-host-0123456789abcdef"
    assert image.facts["sha256"] == hashlib.sha256(b"whole").hexdigest()
    assert image.facts["bytes"] == 5


def test_a_failed_build_leaves_nothing_that_looks_like_an_image(builder: Builder, cache: Path) -> None:
    builder.fail = True
    with pytest.raises(LabError, match="the tool broke"):
        images.build("kvm-host")
    assert images.cached("kvm-host") is None
    assert list((cache / "images").iterdir()) == []
    builder.fail = False
    assert images.build("kvm-host").disk.read_bytes() == b"whole"


def test_what_a_killed_build_left_is_no_image_and_is_removed(builder: Builder, cache: Path) -> None:
    left = cache / "images" / ".building-kvm-host-xyz"
    left.mkdir(parents=True)
    (left / "disk.qcow2").write_bytes(b"half")
    images.build("kvm-host")
    assert [path.name for path in (cache / "images").iterdir()] == ["kvm-host-0123456789abcdef"]


def test_builders_at_the_same_time_build_once(builder: Builder) -> None:
    built: list[Image] = []
    threads = [threading.Thread(target=lambda: built.append(images.build("kvm-host"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert builder.runs == 1
    assert len(built) == 3
    assert len(set(built)) == 1


def test_host_keys_are_those_made_with_the_image(tmp_path: Path) -> None:
    (tmp_path / "ssh_host_ed25519_key.pub").write_text("ssh-ed25519 AAAA root@lab\n")
    (tmp_path / "ssh_host_rsa_key.pub").write_text("ssh-rsa BBBB root@lab\n")
    assert Image("x", "k", tmp_path).host_keys == ["ssh-ed25519 AAAA", "ssh-rsa BBBB"]


def test_the_lab_key_is_made_once_and_is_private(cache: Path) -> None:
    private = images.ssh_key()
    content = private.read_text()
    assert images.ssh_key().read_text() == content
    assert private.stat().st_mode & 0o777 == 0o600
    assert private.parent.stat().st_mode & 0o777 == 0o700
    assert private.with_suffix(".pub").read_text().startswith("ssh-ed25519 ")


def test_grub_boots_at_once_with_the_recipe_arguments() -> None:
    text = images.grub_configuration("root=LABEL=root quiet")
    assert "timeout=0" in text
    assert "linux /vmlinuz root=LABEL=root quiet\n" in text
