# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Images: a recipe (data below ``recipes/``) becomes a folder in the cache, named by the hash of what went into it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import cpio, debian_root, filesystems, initramfs
from lab.errors import LabError
from lab.paths import RECIPES, cache_dir
from lab.processes import as_root, locked, progress, run, write_atomically

# Count up when the code that builds an image of a form changes what comes out.
BUILDER = {"server": 1, "bootable": 3, "initramfs": 3}

# An image or snapshot that no server has stood on for so long is removed when another one is built.
UNUSED_DAYS = 14.0


@dataclass(frozen=True)
class Recipe:
    """What an image is made of: the fields of ``recipe.toml`` and the folders whose files go into the image."""

    name: str
    fields: dict[str, Any]
    folders: tuple[Path, ...]

    @property
    def form(self) -> str:
        """``server`` (file system, kernel and initrd apart), ``bootable`` (disk with GRUB) or ``initramfs``."""
        return str(self.fields["form"])


@dataclass(frozen=True)
class Image:
    """A finished image in the cache."""

    name: str
    key: str
    folder: Path

    @property
    def disk(self) -> Path:
        """The qcow2 disk."""
        return self.folder / "disk.qcow2"

    @property
    def kernel(self) -> Path:
        """The kernel for direct boot (form ``server`` only)."""
        return self.folder / "vmlinuz"

    @property
    def initrd(self) -> Path:
        """The initrd for direct boot (form ``server`` only)."""
        return self.folder / "initrd"

    @property
    def facts(self) -> dict[str, Any]:
        """What was recorded at the build: name, key, form, sha256 and size in bytes of the disk, build_seconds."""
        return dict(json.loads((self.folder / "image.json").read_text()))

    @property
    def host_keys(self) -> list[str]:
        """The public SSH host keys (``type base64``) that were made with the image."""
        return [" ".join(path.read_text().split()[:2]) for path in sorted(self.folder.glob("ssh_host_*.pub"))]


def recipe_names() -> list[str]:
    """Return the names of all recipes."""
    return sorted(path.parent.name for path in RECIPES.glob("*/recipe.toml"))


def load_recipe(name: str, recipes: Path = RECIPES) -> Recipe:
    """Return the recipe ``name``; a recipe that extends another has that one's fields and folders below its own.

    Raises LabError if there is no such recipe.
    """
    path = recipes / name / "recipe.toml"
    if not path.is_file():
        raise LabError(f"there is no image {name!r}: choose one of {', '.join(recipe_names())}.")
    fields = tomllib.loads(path.read_text())
    base = fields.pop("extends", None)
    if base is None:
        return Recipe(name, fields, (path.parent,))
    below = load_recipe(base, recipes)
    return Recipe(name, below.fields | fields, (*below.folders, path.parent))


def key_of(recipe: Recipe, *, sources: str, options: str, public_key: str) -> str:
    """Return the hash (16 hex digits) of all that goes into the image: fields, files with their modes, package
    sources and apt options of the machine, the lab's public key and the builder's version."""
    digest = hashlib.sha256()
    head = {
        "fields": recipe.fields,
        "builder": BUILDER[recipe.form],
        "sources": sources,
        "options": options,
        "public_key": public_key,
    }
    digest.update(json.dumps(head, sort_keys=True).encode())
    for folder in recipe.folders:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.name != "recipe.toml":
                entry = (str(path.relative_to(folder)), os.access(path, os.X_OK), path.read_bytes())
                digest.update(repr(entry).encode())
    return digest.hexdigest()[:16]


def ssh_key() -> Path:
    """Return the private key that opens the lab's machines, made on first use (ed25519, mode 0600)."""
    folder = cache_dir() / "ssh"
    private = folder / "id_ed25519"
    with locked(cache_dir() / "locks" / "ssh-key", "the lab's SSH key"):
        if not private.is_file() or not private.with_suffix(".pub").is_file():
            folder.mkdir(mode=0o700, exist_ok=True)
            private.unlink(missing_ok=True)
            run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "bareforge-lab", "-f", private])
    return private


def _identity(name: str) -> tuple[Recipe, str]:
    recipe = load_recipe(name)
    sources = debian_root.package_sources(recipe.fields["suite"])
    public_key = ssh_key().with_suffix(".pub").read_text().strip()
    return recipe, key_of(recipe, sources=sources, options=debian_root.package_options(), public_key=public_key)


def cached(name: str) -> Image | None:
    """Return the image if it is in the cache, without building it."""
    _, key = _identity(name)
    image = Image(name, key, cache_dir() / "images" / f"{name}-{key}")
    return image if (image.folder / "image.json").is_file() else None


def build(name: str) -> Image:
    """Return the image ``name`` from the cache, building it first if it is not there.

    Two builders of one image wait for each other; the folder appears under its name only when it is whole.
    Raises LabError if a tool fails; the log stays in the cache and is named.
    """
    image = cached(name)
    if image is not None:
        return image
    recipe, key = _identity(name)
    images = cache_dir() / "images"
    images.mkdir(exist_ok=True)
    with locked(cache_dir() / "locks" / f"image-{name}", f"image {name}"):
        image = Image(name, key, images / f"{name}-{key}")
        if (image.folder / "image.json").is_file():
            return image
        for stale in images.glob(f".building-{name}-*"):
            debian_root.remove_root(stale)
        progress(f"building image {name} (key {key})")
        started = time.monotonic()
        log = cache_dir() / "logs" / f"image-{name}.log"
        log.parent.mkdir(exist_ok=True)
        log.write_bytes(b"")
        folder = Path(tempfile.mkdtemp(prefix=f".building-{name}-", dir=images))
        try:
            _BUILDERS[recipe.form](recipe, folder, log)
            facts = {
                "name": name,
                "key": key,
                "form": recipe.form,
                "sha256": _sha256(folder / "disk.qcow2"),
                "bytes": (folder / "disk.qcow2").stat().st_size,
                "build_seconds": round(time.monotonic() - started, 1),
            }
            write_atomically(folder / "image.json", json.dumps(facts, indent=2) + "\n")
            os.replace(folder, image.folder)
        except BaseException:
            debian_root.remove_root(folder)
            raise
        forget_unused(images)
        forget_unused(cache_dir() / "snapshots")
        progress(f"image {name} is ready after {time.monotonic() - started:.0f} s")
    return image


def forget_unused(folder: Path, days: float = UNUSED_DAYS) -> list[str]:
    """Remove what lies in the cache folder ``folder`` and has not been used for ``days``; returns the names.

    Whoever uses an image or a snapshot sets its folder's time (`os.utime`).
    """
    limit = time.time() - days * 86400
    old = [path for path in folder.glob("*") if path.is_dir() and path.stat().st_mtime < limit]
    for path in old:
        debian_root.remove_root(path)
    return sorted(path.name for path in old)


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _variables(recipe: Recipe) -> dict[str, str]:
    return {
        "LAB_PUBLIC_KEY": ssh_key().with_suffix(".pub").read_text().strip(),
        "LAB_MASKED_UNITS": " ".join(recipe.fields.get("masked_units", [])),
        "LAB_ENABLED_UNITS": " ".join(recipe.fields.get("enabled_units", [])),
        "LAB_DOWNLOADS": " ".join(recipe.fields.get("downloads", [])),
        "LAB_INSTALL_DOWNLOADS": "1" if recipe.fields.get("install_downloads") else "0",
    }


def _debian_root(recipe: Recipe, root: Path, log: Path) -> None:
    """Make the recipe's configured root folder: packages, files, then its ``customize`` script."""
    debian_root.make_root(
        root,
        suite=recipe.fields["suite"],
        variant="minbase",
        packages=recipe.fields["packages"],
        sources=debian_root.package_sources(recipe.fields["suite"]),
        files=[folder / "files" for folder in recipe.folders if (folder / "files").is_dir()],
        log=log,
    )
    for folder in recipe.folders:
        if (folder / "customize").is_file():
            progress("configuring it")
            debian_root.run_inside(root, folder / "customize", _variables(recipe), log=log)


def _own(path: Path, log: Path) -> None:
    run(as_root(["chown", f"{os.getuid()}:{os.getgid()}", path]), log=log)
    path.chmod(0o644)


def _build_server(recipe: Recipe, folder: Path, log: Path) -> None:
    root = folder / "root"
    _debian_root(recipe, root, log)
    for name in ("vmlinuz", "initrd"):
        found = sorted((root / "boot").glob({"vmlinuz": "vmlinuz-*", "initrd": "initrd.img-*"}[name]))
        if len(found) != 1:
            raise LabError(f"image {recipe.name}: expected one {name} in /boot, found {len(found)} (log: {log}).")
        run(as_root(["cp", found[0], folder / name]), log=log)
        _own(folder / name, log)
    for public in sorted((root / "etc/ssh").glob("ssh_host_*.pub")):
        shutil.copy(public, folder / public.name)
    progress("making the disk")
    raw = folder / "disk.raw"
    filesystems.make_ext4(raw, root, size_mib=recipe.fields["size_gib"] * 1024, label="root", log=log)
    filesystems.to_qcow2(raw, folder / "disk.qcow2", log=log)
    raw.unlink()
    debian_root.remove_root(root)


def grub_configuration(arguments: str) -> str:
    """Return a grub.cfg that boots /vmlinuz and /initrd.img at once with the kernel ``arguments``."""
    return (
        f"set timeout=0\nset default=0\nmenuentry Debian {{\n  linux /vmlinuz {arguments}\n  initrd /initrd.img\n}}\n"
    )


def _add_grub_configuration(recipe: Recipe, root: Path, folder: Path, log: Path) -> None:
    configuration = folder / "grub.cfg"
    configuration.write_text(grub_configuration(recipe.fields["kernel_arguments"]))
    run(as_root(["install", "-D", "-m", "0644", configuration, root / "boot/grub/grub.cfg"]), log=log)


def _finish_bootable(recipe: Recipe, folder: Path, root: Path, tools: Path, log: Path) -> None:
    progress("making the disk")
    raw = folder / "disk.raw"
    filesystems.make_bootable(raw, root, tools=tools, size_mib=recipe.fields["size_mib"], log=log)
    # Not compressed: it would be a third of the size to fetch, but a guest reads in pieces smaller than a cluster and
    # would have the whole cluster unpacked for each, under emulation: 23 ms a read were measured.
    filesystems.to_qcow2(raw, folder / "disk.qcow2", log=log)
    raw.unlink()


def _build_bootable(recipe: Recipe, folder: Path, log: Path) -> None:
    root, tools = folder / "root", folder / "tools"
    _debian_root(recipe, root, log)
    _unpacked_root(recipe, tools, recipe.fields["grub_packages"], log)
    _add_grub_configuration(recipe, root, folder, log)
    _finish_bootable(recipe, folder, root, tools, log)
    debian_root.remove_root(root)
    debian_root.remove_root(tools)


def _unpacked_root(recipe: Recipe, root: Path, packages: list[str], log: Path) -> None:
    suite = recipe.fields["suite"]
    sources = debian_root.package_sources(suite)
    debian_root.make_root(root, suite=suite, variant="extract", packages=packages, sources=sources, log=log)


def _build_initramfs(recipe: Recipe, folder: Path, log: Path) -> None:
    unpacked = folder / "unpacked"
    _unpacked_root(recipe, unpacked, recipe.fields["packages"], log)
    kernels = sorted((unpacked / "boot").glob("vmlinuz-*"))
    if len(kernels) != 1:
        raise LabError(f"image {recipe.name}: expected one kernel in /boot, found {len(kernels)} (log: {log}).")
    entries = initramfs.entries(
        unpacked,
        kernel_version=kernels[0].name.removeprefix("vmlinuz-"),
        modules=recipe.fields["modules"],
        programs=recipe.fields["programs"],
        files=[tree / "files" for tree in recipe.folders if (tree / "files").is_dir()],
        log=log,
    )
    (folder / "initrd").write_bytes(run(["zstd", "-q", "-9", "-c"], stdin=cpio.archive(entries)))
    root = folder / "root"
    root.mkdir()
    shutil.copy(kernels[0], root / "vmlinuz")
    shutil.move(folder / "initrd", root / "initrd.img")
    _add_grub_configuration(recipe, root, folder, log)
    _finish_bootable(recipe, folder, root, unpacked, log)
    debian_root.remove_root(root)
    debian_root.remove_root(unpacked)


_BUILDERS = {"server": _build_server, "bootable": _build_bootable, "initramfs": _build_initramfs}
