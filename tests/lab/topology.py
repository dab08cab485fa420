# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One lab: its servers, the wires between them, and the server of guest images."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lab import image_server, images, machine, processes, wires
from lab.accelerator import accelerator
from lab.debian_root import HOST_AS_SEEN_BY_GUESTS
from lab.errors import LabError
from lab.machine import Machine, Spec
from lab.paths import lab_dir, socket_dir
from lab.processes import progress

SERVER_IMAGES = ("kvm-host", "kvm-host-ready")
GUEST_IMAGES = ("debian-guest", "tiny-guest")
DEFAULT_IMAGE = "kvm-host"
DEFAULT_MEMORY = 3072
# One where it is emulated: QEMU would either race between two, or let each run for a tenth of a second while the other waits.
CPUS = {"kvm": 2, "tcg": 1}
DEFAULT_WIRES = 2
_FILES = (
    *("known_hosts", "images.json", "image-server.port", "image-server.log", "image-server.pid"),
    *("wires.log", "wires.pid"),
)


class Lab:
    """The lab whose state is in ``folder`` (by default what `paths.lab_dir` says)."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder if folder is not None else lab_dir()

    # Servers

    def machine(self, name: str) -> Machine:
        """Return the server ``name``, which need not exist."""
        return Machine(self.folder, name)

    def machines(self) -> list[Machine]:
        """Return the servers that have been made, by name."""
        return [self.machine(path.parent.name) for path in sorted(self.folder.glob("servers/*/machine.json"))]

    def up(
        self,
        names: Sequence[str],
        *,
        image: str | None = None,
        memory: int | None = None,
        uplinks: int | None = None,
        fresh: bool = False,
        cold: bool = False,
    ) -> None:
        """Start the servers ``names`` side by side and return when all of them answer SSH; running ones are left alone.

        ``image``, ``memory`` (MiB) and ``uplinks`` (0 to 4) are for servers that are made now. ``fresh`` throws a
        server's disks away and goes on from the cached state of its first boot; ``cold`` boots it instead of using
        such a state.
        Raises LabError if one of them does not come up, or exists and is different from what is asked for.
        """
        if uplinks is not None and not 0 <= uplinks <= machine.MOST_WIRES:
            raise LabError(f"--wires is {uplinks}: a server has 0 to {machine.MOST_WIRES} uplinks.")
        if memory is not None and not 512 <= memory <= 65536:
            raise LabError(f"--memory is {memory} MiB: 512 to 65536 MiB are allowed.")
        if image is not None and image not in SERVER_IMAGES:
            raise LabError(f"--image is {image!r}: servers are made from {' or '.join(SERVER_IMAGES)}.")
        if len(set(names)) != len(names):
            raise LabError(f"a server is named twice: {', '.join(names)}.")
        machines = [self.machine(name) for name in names]
        wanted = {"image": image, "memory": memory, "wires": uplinks}
        for server in machines:
            if server.exists and not fresh:
                _check_same(server, wanted)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.start_services()
        _side_by_side(lambda server: self._up(server, wanted, fresh=fresh, cold=cold), machines)

    def _up(self, server: Machine, wanted: dict[str, Any], *, fresh: bool, cold: bool) -> None:
        with processes.locked(self.folder / "locks" / server.name, f"server {server.name}"):
            if server.running and not fresh:
                self.write_known_hosts()
                took = server.wait_for_ssh(machine.BOOT_DEADLINE)
                server.first_boot()
                progress(f"{server.name}: runs already (SSH after {took:.0f} s)")
                return
            if server.exists and not fresh:
                progress(f"{server.name}: booting its disk")
                server.start()
                self.write_known_hosts()
                progress(f"{server.name}: SSH answers after {server.wait_for_ssh(machine.BOOT_DEADLINE):.0f} s")
                server.first_boot()
                return
            spec = self._spec(server, wanted)
            described = f"{spec.image} ({spec.accelerator}, {spec.memory} MiB)"
            if fresh:
                # The port stays, and with it every inventory that has been written.
                server.destroy(keep_port=True)
            if server.make(spec, use_cache=not cold):
                progress(f"{server.name}: going on from the cached state of {described}")
                server.start(machine.READY)
                self.write_known_hosts()
                took = server.wait_for_ssh(machine.RESTORE_DEADLINE)
                server.set_clock()
                progress(f"{server.name}: SSH answers after {took:.1f} s")
                return
            progress(f"{server.name}: first boot of {described}, under a minute on an idle machine")
            server.start()
            self.write_known_hosts()
            progress(f"{server.name}: SSH answers after {server.wait_for_ssh(machine.BOOT_DEADLINE):.0f} s")
            server.first_boot()
            if not cold:
                server.cache_state()
                server.wait_for_ssh(machine.RESTORE_DEADLINE)
                server.set_clock()
                progress(f"{server.name}: its booted state is kept for next time")

    def _spec(self, server: Machine, wanted: dict[str, Any]) -> Spec:
        """Return what ``server`` is to be: what it was, what is asked for, and for what neither says the defaults."""
        old = server.spec if server.exists else None
        name = wanted["image"] or (old.image if old else DEFAULT_IMAGE)
        image = images.build(name)
        accelerates = accelerator(image.kernel)
        return Spec(
            name=server.name,
            image=name,
            image_key=image.key,
            memory=wanted["memory"] or (old.memory if old else DEFAULT_MEMORY),
            cpus=CPUS[accelerates],
            wires=wanted["wires"] if wanted["wires"] is not None else (old.wires if old else DEFAULT_WIRES),
            accelerator=accelerates,
        )

    def down(self, names: Sequence[str] = (), *, now: bool = False) -> None:
        """Shut the servers ``names`` (all, if none is named) down and keep their disks; ``now`` is pulling the plug.

        The last one to go ends the wires and the image server as well.
        """
        chosen = self._chosen(names)
        _side_by_side(lambda server: self._down(server, now=now), chosen)
        self.stop_services_if_idle()

    def _down(self, server: Machine, *, now: bool) -> None:
        with processes.locked(self.folder / "locks" / server.name, f"server {server.name}"):
            if server.stop(gracefully=not now):
                progress(f"{server.name}: stopped")

    def destroy(self, names: Sequence[str] = ()) -> None:
        """Switch the servers ``names`` off and remove their disks; if none is named, all servers and the lab itself."""
        for server in self._chosen(names):
            with processes.locked(self.folder / "locks" / server.name, f"server {server.name}"):
                server.destroy()
                progress(f"{server.name}: destroyed")
        self.stop_services_if_idle()
        if names or not self.folder.is_dir():
            return
        # Only what is ours: another lab may lie in a folder below this one.
        for folder in (socket_dir(self.folder), self.folder / "servers", self.folder / "locks"):
            shutil.rmtree(folder, ignore_errors=True)
        for name in _FILES:
            (self.folder / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def labs_below(self) -> list[Lab]:
        """Return this lab and those whose folders lie below its own, the deepest first (so that folders empty out)."""
        found = {path.parent.parent.parent for path in self.folder.rglob("machine.json")}
        found |= {path.parent for path in self.folder.rglob("wires.log")} | {self.folder}
        return [Lab(folder) for folder in sorted(found, key=lambda folder: (-len(folder.parts), str(folder)))]

    def restore(self, name: str, tag: str) -> None:
        """Bring the server ``name`` back to its snapshot ``tag``, whether it runs or not."""
        server = self.machine(name)
        server.spec  # noqa: B018  (raises where there is no such server)
        self.start_services()
        with processes.locked(self.folder / "locks" / name, f"server {name}"):
            server.restore_snapshot(tag, self.write_known_hosts)

    def _chosen(self, names: Sequence[str]) -> list[Machine]:
        if not names:
            return self.machines()
        chosen = [self.machine(name) for name in names]
        for server in chosen:
            if not server.exists:
                known = ", ".join(other.name for other in self.machines()) or "none"
                raise LabError(f"there is no server {server.name!r} in {self.folder}: there is {known}.")
        return chosen

    def write_known_hosts(self) -> None:
        """Write known_hosts anew from the host keys that were made with the servers' images."""
        with processes.locked(self.folder / "locks" / "_known_hosts", "the lab's known_hosts"):
            lines = [
                f"[127.0.0.1]:{server.ssh_port} {key}\n"
                for server in self.machines()
                if (server.folder / "ssh-port").is_file()
                for key in server.image.host_keys
            ]
            processes.write_atomically(self.folder / "known_hosts", "".join(lines))

    # Wires and images

    @property
    def _wires_pid(self) -> Path:
        return self.folder / "wires.pid"

    @property
    def _image_server_pid(self) -> Path:
        return self.folder / "image-server.pid"

    @property
    def _catalogue(self) -> Path:
        return self.folder / "images.json"

    def start_services(self) -> None:
        """Start the wires and the image server unless they run, and write the image server's catalogue anew."""
        with processes.locked(self.folder / "locks" / "_services", "the lab's services"):
            sockets = socket_dir(self.folder)
            if processes.pid_of(self._wires_pid) is None:
                argv = [sys.executable, wires.__file__, str(sockets), str(self._wires_pid)]
                processes.start_daemon(argv, self._wires_pid, self.folder / "wires.log")
                _wait_for((sockets / wires.SWITCH).exists, "the wires", self.folder / "wires.log")
            self.write_catalogue()
            if processes.pid_of(self._image_server_pid) is None:
                port_file = self.folder / "image-server.port"
                port = int(port_file.read_text()) if port_file.is_file() else 0
                if not port or not machine.port_is_free(port):
                    port = machine.free_port()
                processes.write_atomically(port_file, f"{port}\n")
                argv = [
                    sys.executable,
                    image_server.__file__,
                    str(self._catalogue),
                    str(port),
                    str(self._image_server_pid),
                ]
                processes.start_daemon(argv, self._image_server_pid, self.folder / "image-server.log")
                _wait_for(lambda: not machine.port_is_free(port), "the image server", self.folder / "image-server.log")

    def stop_services_if_idle(self) -> None:
        """End the wires and the image server if no server runs."""
        if self.folder.is_dir() and not any(server.running for server in self.machines()):
            with processes.locked(self.folder / "locks" / "_services", "the lab's services"):
                processes.stop(self._wires_pid)
                processes.stop(self._image_server_pid)

    def write_catalogue(self) -> None:
        """Write which guest images the image server offers: those in the cache that are built from today's recipes."""
        found = {f"{name}.qcow2": str(image.disk) for name, image in self.guest_images().items()}
        processes.write_atomically(self._catalogue, json.dumps(found, indent=2) + "\n")

    @staticmethod
    def guest_images() -> dict[str, images.Image]:
        """Return the guest images that are in the cache."""
        known = set(images.recipe_names())
        found = {name: images.cached(name) for name in GUEST_IMAGES if name in known}
        return {name: image for name, image in found.items() if image is not None}

    def image_server_url(self) -> str | None:
        """Return the image server's address as the servers reach it, None if it does not run."""
        if processes.pid_of(self._image_server_pid) is None:
            return None
        return f"http://{HOST_AS_SEEN_BY_GUESTS}:{int((self.folder / 'image-server.port').read_text())}"

    def status(self) -> dict[str, Any]:
        """Return all that is known about the lab as plain data: servers, wires, image server, images and checksums."""
        servers = {}
        for server in self.machines():
            spec = server.spec
            servers[server.name] = {
                "running": server.running,
                "pid": processes.pid_of(server.pid_file),
                "image": spec.image,
                "memory_mib": spec.memory,
                "cpus": spec.cpus,
                "accelerator": spec.accelerator,
                "ssh_port": server.ssh_port,
                "mac_addresses": {
                    "mgmt0": machine.mac_address(server.name, 0),
                    **{f"uplink{number}": machine.mac_address(server.name, number + 1) for number in range(spec.wires)},
                },
                "console": str(server.serial_log),
                "monitor": str(server.monitor_path),
                "snapshots": server.snapshot_tags(),
            }
        built = {name: images.cached(name) for name in images.recipe_names()}
        return {
            "folder": str(self.folder),
            "servers": servers,
            "wires": {"pid": processes.pid_of(self._wires_pid), "sockets": str(socket_dir(self.folder))},
            "image_server": {"pid": processes.pid_of(self._image_server_pid), "url": self.image_server_url()},
            "images": {
                name: {"path": str(image.disk), "checksum": f"sha256:{image.facts['sha256']}", **image.facts}
                for name, image in built.items()
                if image is not None
            },
        }


def _check_same(server: Machine, wanted: dict[str, Any]) -> None:
    spec = server.spec
    for key, value in wanted.items():
        if value is not None and getattr(spec, key) != value:
            raise LabError(
                f"server {server.name} exists with {key} {getattr(spec, key)}, not {value}: "
                f"`up --fresh` makes it anew, `destroy {server.name}` removes it."
            )


def _wait_for(condition: Callable[[], bool], what: str, log: Path, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"{what} did not start within {seconds:.0f} s (log: {log}).")
        time.sleep(0.05)


def _side_by_side(job: Callable[[Machine], None], machines: Sequence[Machine]) -> None:
    """Do ``job`` for the machines in a thread each, and raise the first failure when all have ended."""
    failures: list[BaseException] = []

    def guarded(server: Machine) -> None:
        try:
            job(server)
        except BaseException as error:  # noqa: BLE001  (raised again below)
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(server,)) for server in machines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
