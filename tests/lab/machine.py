# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One server of the lab: a QEMU machine with its disks, its ports and its snapshots."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab import images, processes, wires
from lab.accelerator import QEMU
from lab.errors import LabError
from lab.monitor import Monitor
from lab.paths import cache_dir, socket_dir
from lab.processes import progress

DATA_DISK_GIB = 4
MOST_WIRES = 4
READY = "ready"
USER = "operator"
# Seconds. Generous: a boot takes 18 s on two idle cores, and 204 s were seen with eight such machines on them.
BOOT_DEADLINE = 480.0
RESTORE_DEADLINE = 240.0
SHUTDOWN_DEADLINE = 120.0
# A living emulator answers at once; one that hangs is not worth the time that a shutdown may take.
MONITOR_PATIENCE = 20.0
# Count up when what is done to a server before its snapshot changes.
FIRST_BOOT = 1
_NAME = re.compile(r"[a-z]([a-z0-9-]{0,30}[a-z0-9])?")
# PCI slots on pcie.0. The image names its interfaces by them (recipes/kvm-host/files/etc/systemd/network/*.link).
_MANAGEMENT_SLOT = 3
_DISK_SLOTS = {"system": 0x8, "data": 0x9}
_ENTROPY_SLOT = 0xA


@dataclass(frozen=True)
class Spec:
    """What a server is: recorded when it is first started, and kept until it is destroyed.

    ``memory`` is in MiB, ``wires`` is the number of uplinks, ``image_key`` names the build that its disk stands on.
    """

    name: str
    image: str
    image_key: str
    memory: int
    cpus: int
    wires: int
    accelerator: str


def check_name(name: str) -> str:
    """Return ``name`` if it can be a server's name, a DNS label of at most 32 characters; raises LabError."""
    if not _NAME.fullmatch(name):
        raise LabError(
            f"{name!r} is no server name: lower-case letters, digits and hyphens, at most 32, beginning with a letter."
        )
    return name


def mac_address(server: str, interface: int) -> str:
    """Return the MAC of interface ``interface`` (0 is management) of ``server``: QEMU's prefix, a hash of the name."""
    digest = hashlib.sha256(server.encode()).digest()
    return f"52:54:00:{digest[0]:02x}:{digest[1]:02x}:{(digest[2] & 0xF0) | interface:02x}"


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def port_is_free(port: int) -> bool:
    """Return whether nothing listens on 127.0.0.1:``port``."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def qemu_command(
    spec: Spec, image: images.Image, folder: Path, sockets: Path, ssh_port: int, snapshot: str | None
) -> list[str]:
    """Return the command line of the server; with ``snapshot`` it continues from that snapshot instead of booting."""
    cpu = "host" if spec.accelerator == "kvm" else "EPYC,+svm,+npt"
    # With a thread for each processor QEMU can translate code at the very moment at which another processor replaces it, and
    # never learns of that: Linux rewrites its branches through breakpoints, and KVM does so whenever a guest switches its
    # APIC on. Servers stood still for good, both processors at a breakpoint that was not in memory any more.
    acceleration = "kvm" if spec.accelerator == "kvm" else "tcg,thread=single"
    argv = [QEMU, "-name", f"bareforge-lab-{spec.name}", "-nodefaults", "-no-user-config", "-display", "none"]
    argv += ["-machine", "q35", "-accel", acceleration, "-cpu", cpu, "-smp", str(spec.cpus), "-m", str(spec.memory)]
    argv += ["-uuid", str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{spec.name}.bareforge.lab")), "-rtc", "base=utc"]
    argv += ["-kernel", str(image.kernel), "-initrd", str(image.initrd)]
    argv += ["-append", "root=/dev/vda rw console=ttyS0 quiet net.ifnames=1 mitigations=off"]
    for disk, slot in _DISK_SLOTS.items():
        path = folder / f"{disk}.qcow2"
        argv += ["-drive", f"if=none,id={disk},format=qcow2,cache=unsafe,discard=unmap,file={_escaped(path)}"]
        argv += ["-device", f"virtio-blk-pci,drive={disk},serial={disk},addr={slot:#x}"]
    argv += ["-netdev", f"user,id=mgmt0,hostfwd=tcp:127.0.0.1:{ssh_port}-:22"]
    argv += [
        "-device",
        f"virtio-net-pci,netdev=mgmt0,mac={mac_address(spec.name, 0)},romfile=,addr={_MANAGEMENT_SLOT:#x}",
    ]
    for number in range(spec.wires):
        local, remote = wires.port_socket(sockets, spec.name, number), sockets / wires.SWITCH
        netdev = f"dgram,id=uplink{number},local.type=unix,local.path={_escaped(local)}"
        netdev += f",remote.type=unix,remote.path={_escaped(remote)}"
        mac, slot = mac_address(spec.name, number + 1), _MANAGEMENT_SLOT + 1 + number
        argv += [
            "-netdev",
            netdev,
            "-device",
            f"virtio-net-pci,netdev=uplink{number},mac={mac},romfile=,addr={slot:#x}",
        ]
    argv += ["-device", f"virtio-rng-pci,addr={_ENTROPY_SLOT:#x}"]
    argv += [
        "-chardev",
        f"file,id=serial,append=on,path={_escaped(folder / 'serial.log')}",
        "-serial",
        "chardev:serial",
    ]
    argv += ["-qmp", f"unix:{_escaped(sockets / (spec.name + '.qmp'))},server=on,wait=off"]
    argv += ["-pidfile", str(folder / "pid"), "-daemonize"]
    if snapshot is not None:
        argv += ["-loadvm", snapshot]
    return argv


def _escaped(path: Path) -> str:
    # QEMU's option syntax: a comma in a value is doubled.
    return str(path).replace(",", ",,")


def snapshot_key(spec: Spec, image: images.Image, qemu: str) -> str:
    """Return the name under which the booted state of such a server is cached.

    The state of a machine can be loaded only into the same machine: the key covers the command line apart from this
    lab's paths and ports, the image (with its kernel and initrd) and ``qemu``, the emulator's version and build.
    """
    nowhere = Path("/nowhere")
    command = qemu_command(spec, dataclasses.replace(image, folder=nowhere), nowhere, nowhere, 0, None)
    text = json.dumps([command, image.name, image.key, qemu, FIRST_BOOT])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def qemu_build() -> str:
    """Return QEMU's version line with size and date of the program, which differ between builds of one version."""
    version = processes.run([QEMU, "--version"]).decode().splitlines()[0]
    program = os.stat(shutil.which(QEMU) or QEMU)
    return f"{version} {program.st_size} {int(program.st_mtime)}"


class Machine:
    """The server ``name`` in the lab at ``lab``; nothing is started or written by making this object."""

    def __init__(self, lab: Path, name: str) -> None:
        self.lab = lab
        self.name = check_name(name)
        self.folder = lab / "servers" / name
        self.pid_file = self.folder / "pid"
        self.serial_log = self.folder / "serial.log"
        self._named = self.folder / "named"
        self.known_hosts = lab / "known_hosts"

    # What is known about it

    @property
    def exists(self) -> bool:
        """Whether the server has been made (it may be stopped)."""
        return (self.folder / "machine.json").is_file()

    @property
    def running(self) -> bool:
        """Whether its QEMU process runs."""
        return processes.pid_of(self.pid_file) is not None

    @property
    def spec(self) -> Spec:
        """What it was made as. Raises LabError if it does not exist."""
        try:
            return Spec(**json.loads((self.folder / "machine.json").read_text()))
        except FileNotFoundError as error:
            raise LabError(
                f"there is no server {self.name!r} in {self.lab}: start it with `up {self.name}`."
            ) from error

    @property
    def ssh_port(self) -> int:
        """The port of 127.0.0.1 that leads to its SSH server."""
        self.spec  # noqa: B018  (raises where there is no such server)
        return int((self.folder / "ssh-port").read_text())

    @property
    def image(self) -> images.Image:
        """The image that its disk stands on."""
        spec = self.spec
        return images.Image(spec.image, spec.image_key, cache_dir() / "images" / f"{spec.image}-{spec.image_key}")

    @property
    def monitor_path(self) -> Path:
        """The Unix socket of its QMP monitor."""
        return socket_dir(self.lab) / f"{self.name}.qmp"

    def monitor(self) -> Monitor:
        """Open its monitor. Raises LabError if it does not run."""
        if not self.running:
            raise LabError(f"server {self.name} does not run: start it with `up {self.name}`.")
        return Monitor(self.monitor_path)

    # Starting

    def make(self, spec: Spec, *, use_cache: bool = True) -> bool:
        """Make the server's folder and disks; returns whether a cached booted state was found, to go on from.

        A disk of an earlier, interrupted attempt is replaced, as long as machine.json does not vouch for it.
        """
        image = images.Image(spec.image, spec.image_key, cache_dir() / "images" / f"{spec.image}-{spec.image_key}")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.serial_log.unlink(missing_ok=True)
        self._named.unlink(missing_ok=True)
        cached = self._cached_state(spec, image) if use_cache else None
        if cached is not None:
            for disk in _DISK_SLOTS:
                processes.run(["cp", "--reflink=auto", "--sparse=always", cached / f"{disk}.qcow2", self.folder])
            os.utime(cached)
            self._named.touch()
        else:
            system, data = self.folder / "system.qcow2", self.folder / "data.qcow2"
            processes.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", image.disk, system])
            processes.run(["qemu-img", "create", "-q", "-f", "qcow2", data, f"{DATA_DISK_GIB}G"])
        processes.write_atomically(self.folder / "machine.json", json.dumps(dataclasses.asdict(spec), indent=2) + "\n")
        return cached is not None

    def start(self, snapshot: str | None = None) -> None:
        """Start QEMU, from the snapshot if one is named, and return when it runs; `wait_for_ssh` is the next step.

        The SSH port stays the same over restarts unless another program has taken it meanwhile.
        """
        spec, sockets = self.spec, socket_dir(self.lab)
        if not self.image.disk.is_file():
            raise LabError(f"server {self.name}: its image is not in the cache any more: `up {self.name} --fresh`.")
        os.utime(self.image.folder)
        port_file = self.folder / "ssh-port"
        for attempt in range(3):
            port = int(port_file.read_text()) if port_file.is_file() else 0
            if attempt or not port or not port_is_free(port):
                port = free_port()
            processes.write_atomically(port_file, f"{port}\n")
            self.pid_file.unlink(missing_ok=True)
            argv = qemu_command(spec, self.image, self.folder, sockets, port, snapshot)
            done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                return
            # Someone may take the port between our looking and QEMU's.
            if "host forwarding" not in done.stderr:
                break
        said = " / ".join(done.stderr.strip().splitlines()[-3:])
        raise LabError(f"server {self.name}: QEMU does not start: {said}")

    def wait_for_ssh(self, deadline: float) -> float:
        """Wait until the server runs a command over SSH and return the seconds it took.

        Raises LabError after ``deadline`` seconds, or as soon as QEMU is gone, with the console's last line.
        """
        started = time.monotonic()
        said = started
        while True:
            if self._greets() and self.ssh(["true"], timeout=60).returncode == 0:
                return time.monotonic() - started
            now = time.monotonic()
            if not self.running:
                raise LabError(f"server {self.name}: QEMU ended while it booted; {self._last_words()}")
            if now - started > deadline:
                raise LabError(f"server {self.name} did not answer SSH within {deadline:.0f} s; {self._last_words()}")
            if now - said >= 15:
                said = now
                progress(f"{self.name}: waiting for SSH, {now - started:.0f} of at most {deadline:.0f} s")
            time.sleep(0.3)

    def _greets(self) -> bool:
        # QEMU accepts the connection itself, whether or not the guest listens: only a banner means something.
        try:
            with socket.create_connection(("127.0.0.1", self.ssh_port), timeout=5) as connection:
                connection.settimeout(5)
                return connection.recv(4) == b"SSH-"
        except OSError:
            return False

    def _last_words(self) -> str:
        try:
            lines = self.serial_log.read_bytes()[-4000:].decode(errors="replace").split("\n")
        except FileNotFoundError:
            return "its console is empty"
        last = next((line.strip() for line in reversed(lines) if line.strip()), "nothing")
        return f"its console ({self.serial_log}) ends with: {last[:200]}"

    def first_boot(self) -> None:
        """Give the booted server its own name and wait until its services have settled, unless that has been done.

        So a server whose first `up` was killed is finished by the next one.
        """
        if self._named.exists():
            return
        script = (
            'printf "%s\\n" "$1" > /etc/hostname && hostname "$1" && '
            'sed -i "/^127[.]0[.]1[.]1 /d" /etc/hosts && printf "127.0.1.1 %s\\n" "$1" >> /etc/hosts && '
            "{ timeout 180 systemctl is-system-running --wait >/dev/null; sync; }"
        )
        done = self.ssh(["sudo", "sh", "-c", script, "sh", self.name], timeout=BOOT_DEADLINE)
        if done.returncode != 0:
            raise LabError(f"server {self.name} could not be named: {done.stderr.decode(errors='replace').strip()}")
        self._named.touch()

    def set_clock(self) -> None:
        """Set the server's clock to ours: after a restore it shows the time at which the snapshot was taken."""
        done = self.ssh(["sudo", "date", "-u", "-s", f"@{time.time():.3f}"], timeout=60)
        if done.returncode != 0:
            raise LabError(
                f"server {self.name}: its clock cannot be set: {done.stderr.decode(errors='replace').strip()}"
            )

    # The cached booted state

    def _state_folder(self, spec: Spec, image: images.Image) -> Path:
        return cache_dir() / "snapshots" / f"{spec.name}-{snapshot_key(spec, image, qemu_build())}"

    def _cached_state(self, spec: Spec, image: images.Image) -> Path | None:
        folder = self._state_folder(spec, image)
        return folder if folder.is_dir() else None

    def cache_state(self) -> None:
        """Take the snapshot ``ready``, keep a copy of the disks with it in the cache, and go on from it.

        QEMU is ended for the copy, because it keeps parts of an open image in memory.
        """
        self.take_snapshot(READY)
        processes.stop(self.pid_file)
        target = self._state_folder(self.spec, self.image)
        target.parent.mkdir(exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        try:
            for disk in _DISK_SLOTS:
                processes.run(["cp", "--reflink=auto", "--sparse=always", self.folder / f"{disk}.qcow2", beside])
            with contextlib.suppress(OSError):  # another lab was first: its state is as good
                os.rename(beside, target)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
        self.start(READY)

    # Using it

    def ssh_options(self) -> list[str]:
        """Return the options that make ssh(1) use the lab's key, accept this server's host keys only, and never ask."""
        return [
            *("-F", "none", "-i", str(images.ssh_key()), "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"),
            *("-o", f"UserKnownHostsFile={self.known_hosts}", "-o", "GlobalKnownHostsFile=/dev/null"),
            *("-o", "StrictHostKeyChecking=yes", "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=60"),
        ]

    def ssh_command(self, command: Sequence[str]) -> list[str]:
        """Return the ssh(1) command line that runs ``command`` (a list of words; a shell if empty) on the server."""
        argv = ["ssh", *self.ssh_options(), "-p", str(self.ssh_port), f"{USER}@127.0.0.1"]
        return [*argv, "--", shlex.join(command)] if command else argv

    def ssh(self, command: Sequence[str], *, timeout: float, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run ``command`` on the server; status 255 is a failure of ssh itself, or that ``timeout`` seconds went by."""
        argv = self.ssh_command(command)
        try:
            return subprocess.run(argv, input=stdin, capture_output=True, timeout=timeout, check=False)
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(argv, 255, b"", f"no answer within {timeout:.0f} s".encode())

    def reboot(self) -> float:
        """Reboot the server's system and return the seconds until SSH answered. Raises LabError if it does not."""
        before = self._boot_id()
        started = time.monotonic()
        self.ssh(["sudo", "systemctl", "reboot"], timeout=60)
        while time.monotonic() - started < BOOT_DEADLINE:
            with contextlib.suppress(LabError):
                if self._boot_id() != before:
                    return time.monotonic() - started
            if not self.running:
                raise LabError(f"server {self.name}: QEMU ended while it rebooted; {self._last_words()}")
            time.sleep(1)
        raise LabError(f"server {self.name} did not come back within {BOOT_DEADLINE:.0f} s; {self._last_words()}")

    def _boot_id(self) -> str:
        if not self._greets():
            raise LabError(f"server {self.name} does not answer SSH.")
        done = self.ssh(["cat", "/proc/sys/kernel/random/boot_id"], timeout=60)
        if done.returncode != 0:
            raise LabError(f"server {self.name} does not answer SSH: {done.stderr.decode(errors='replace').strip()}")
        return done.stdout.decode().strip()

    # Snapshots

    def snapshot_tags(self) -> list[str]:
        """Return the tags of the snapshots in the system disk."""
        argv = ["qemu-img", "info", "--force-share", "--output=json", str(self.folder / "system.qcow2")]
        facts = json.loads(processes.run(argv))
        return [str(entry["name"]) for entry in facts.get("snapshots", [])]

    def take_snapshot(self, tag: str) -> None:
        """Save memory, devices and disks under ``tag``, replacing an older one of that name. The server must run."""
        with self.monitor() as monitor:
            monitor.human(f"savevm {_checked_tag(tag)}")

    def restore_snapshot(self, tag: str, started: Callable[[], None]) -> None:
        """Go back to ``tag``, whether the server runs or not, and set its clock. Raises LabError if there is none.

        ``started`` is called when QEMU had to be started, which may have changed the SSH port.
        """
        if _checked_tag(tag) not in self.snapshot_tags():
            known = ", ".join(self.snapshot_tags()) or "none"
            raise LabError(f"server {self.name} has no snapshot {tag!r}: it has {known}.")
        if self.running:
            with self.monitor() as monitor:
                monitor.human(f"loadvm {tag}")
                # A machine that was paused or is just starting comes back paused.
                monitor.execute("cont")
        else:
            self.start(tag)
            started()
        self.wait_for_ssh(RESTORE_DEADLINE)
        self.set_clock()

    # Ending

    def stop(self, *, gracefully: bool) -> bool:
        """Stop the server and return whether it ran; gracefully is the power button first, then the end of QEMU."""
        if not self.running:
            return False
        if gracefully and self._power_button() and not processes.wait_for_end(self.pid_file, SHUTDOWN_DEADLINE):
            progress(f"{self.name}: did not shut down within {SHUTDOWN_DEADLINE:.0f} s, switching it off")
        processes.stop(self.pid_file)
        sockets = socket_dir(self.lab)
        for path in (
            self.monitor_path,
            *(wires.port_socket(sockets, self.name, number) for number in range(MOST_WIRES)),
        ):
            path.unlink(missing_ok=True)
        return True

    def _power_button(self) -> bool:
        try:
            with Monitor(self.monitor_path, timeout=MONITOR_PATIENCE) as monitor:
                monitor.execute("system_powerdown")
        except LabError as error:
            progress(f"{self.name}: {error} Switching it off.")
            return False
        return True

    def destroy(self, *, keep_port: bool = False) -> None:
        """Switch the server off and remove its disks and all else of it, but its SSH port if ``keep_port``."""
        self.stop(gracefully=False)
        # First: without it the server does not exist, whatever is left of its folder if we are killed now.
        (self.folder / "machine.json").unlink(missing_ok=True)
        for path in self.folder.glob("*"):
            if not (keep_port and path.name == "ssh-port"):
                path.unlink()
        if not keep_port and self.folder.is_dir():
            self.folder.rmdir()


def _checked_tag(tag: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", tag):
        raise LabError(f"{tag!r} is no snapshot tag: letters, digits, dots, hyphens and underscores, at most 64.")
    return tag
