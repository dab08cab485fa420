# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Copying the disks of a VM that is off, all at one point in time, and which of their blocks have changed.

QEMU's storage daemon does with the images of a VM that is off what QEMU does with those of one that runs: it holds their
locks, so that the VM cannot start meanwhile, and knows the dirty bitmaps in them.

Source: QEMU, "QEMU QMP Reference Manual" (blockdev-backup, block-dirty-bitmap-add), qemu-storage-daemon(1).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import signal
import subprocess
import tempfile
import time
from typing import IO, Any, Callable, Dict, List, Mapping, Optional, Sequence

from . import disk_images
from .disk_images import ImageError

PROGRAM = "qemu-storage-daemon"
POLL_SECONDS = 0.2
GRANULARITY = 65536  # of a dirty bitmap, in bytes: a cluster of qcow2
QUIT_SECONDS = 60.0
PR_SET_PDEATHSIG = 1
Progress = Optional[Callable[[int, int], None]]


class DiskCopy:
    """One disk that is to be copied.

    source: its image; target: the path of the image that is to be made.
    since: the dirty bitmap in the source whose blocks are copied; all of them where None.
    """

    def __init__(self, source: str, target: str, since: Optional[str] = None) -> None:
        self.source = source
        self.target = target
        self.since = since


def copy_disks(disks: Sequence[DiskCopy], bitmap: Optional[str], progress: Progress = None) -> None:
    """Copy disks to new qcow2 images, all as they are at one moment.

    bitmap: the name of a dirty bitmap that tells from then on what changes in each source; none where None. It is
        there whole after this, or not at all.
    progress: called with the bytes that are done and their total.
    Raises ImageError with what QEMU says, and leaves the sources as they were.
    """
    for disk in disks:
        header = disk_images.read_qcow2(disk.source)
        if header is None:
            raise ImageError(f"{disk.source} is no qcow2 image")
        disk_images.create(disk.target, header.size)
    with _Daemon(disks) as daemon:
        actions: List[Dict[str, Any]] = []
        for number, disk in enumerate(disks):
            if bitmap is not None:
                actions.append(_add_bitmap(number, bitmap))
            actions.append({"type": "blockdev-backup", "data": _job(number, disk)})
        daemon.ask("transaction", {"actions": actions})
        try:
            daemon.wait_for_jobs(len(disks), progress)
        except ImageError:
            if bitmap is not None:
                for number in range(len(disks)):
                    daemon.ask("block-dirty-bitmap-remove", {"node": f"d{number}", "name": bitmap})
            raise


def _add_bitmap(number: int, name: str) -> Dict[str, Any]:
    data = {"node": f"d{number}", "name": name, "persistent": True, "granularity": GRANULARITY}
    return {"type": "block-dirty-bitmap-add", "data": data}


def _job(number: int, disk: DiskCopy) -> Dict[str, Any]:
    job: Dict[str, Any] = {
        "job-id": f"j{number}",
        "device": f"d{number}",
        "target": f"t{number}",
        "auto-dismiss": False,
        "sync": "full",
    }
    if disk.since is not None:
        job.update({"sync": "bitmap", "bitmap": disk.since, "bitmap-mode": "never"})
    return job


def remove_bitmaps(sources: Sequence[str], names: Sequence[str]) -> None:
    """Remove dirty bitmaps from the images of a VM that is off; those that are not there are left out.

    Raises ImageError with what QEMU says.
    """
    for source in sources:
        there = bitmaps(source)
        for name in names:
            if name in there:
                # Works for one that is inconsistent after a crash too.
                disk_images.run_tool(["qemu-img", "bitmap", "--remove", "-f", "qcow2", "--", source, name])


def bitmaps(source: str) -> Mapping[str, Sequence[str]]:
    """Return the flags of the dirty bitmaps that lie in an image by their names; one that cannot be used is `in-use`.

    Raises ImageError.
    """
    info = json.loads(disk_images.run_tool(["qemu-img", "info", "--output=json", "-U", "-f", "qcow2", "--", source]))
    data = (info.get("format-specific") or {}).get("data") or {}
    return {str(entry["name"]): list(entry.get("flags") or ()) for entry in data.get("bitmaps") or ()}


def _die_with_parent() -> None:
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


class _Daemon:
    """A storage daemon that has the disks and their targets open, driven by QMP over its standard input and output."""

    def __init__(self, disks: Sequence[DiskCopy]) -> None:
        command = [PROGRAM, "--chardev", "stdio,id=qmp", "--monitor", "chardev=qmp"]
        for number, disk in enumerate(disks):
            command += ["--blockdev", _node(f"d{number}", disk.source), "--blockdev", _node(f"t{number}", disk.target)]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the daemon runs
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"},
                # Nobody ends it where this process is killed: it would hold the disks for ever.
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - one system call
            )
        except FileNotFoundError as error:
            self._errors.close()
            raise ImageError(f"{PROGRAM} is missing on the host; install the package qemu-system-common") from error

    def __enter__(self) -> _Daemon:
        try:
            self._read()  # the greeting
            self.ask("qmp_capabilities")
        except BaseException:
            self._end(kill=True)
            raise
        return self

    def __exit__(self, kind: Any, *_details: Any) -> None:
        # What it has changed in the images' bitmaps is written when it quits.
        if kind is None or issubclass(kind, ImageError):
            with contextlib.suppress(ImageError):
                self.ask("quit")
            self._end()
        else:
            self._end(kill=True)

    def _end(self, kill: bool = False) -> None:
        if kill:
            self._process.kill()
        try:
            self._process.wait(QUIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                # What a daemon that has ended did not take is still in the buffer.
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    def _read(self) -> Dict[str, Any]:
        line = _stream(self._process.stdout).readline()
        if not line:
            self._errors.seek(0)
            said = " ".join(self._errors.read().decode("utf-8", "replace").split())
            raise ImageError(said[:400] or f"{PROGRAM} ended without a word")
        return dict(json.loads(line))

    def ask(self, command: str, arguments: Optional[Mapping[str, Any]] = None) -> Any:
        """Return the answer to a command. Raises ImageError with what QEMU says."""
        request = {"execute": command, **({"arguments": arguments} if arguments else {})}
        stdin = _stream(self._process.stdin)
        try:
            stdin.write(json.dumps(request).encode("ascii") + b"\n")
            stdin.flush()
        except BrokenPipeError:
            self._read()
        while True:
            answer = self._read()
            if "error" in answer:
                raise ImageError(str(answer["error"].get("desc")))
            if "return" in answer:
                return answer["return"]

    def wait_for_jobs(self, count: int, progress: Progress) -> None:
        """Wait until all jobs are done. Raises ImageError with the first error, once none is left."""
        problem: Optional[str] = None
        left = {f"j{number}" for number in range(count)}
        while left:
            jobs = {str(job["id"]): job for job in self.ask("query-jobs")}
            if progress is not None:
                done = [job for job in jobs.values() if job.get("total-progress")]
                progress(
                    sum(job["current-progress"] for job in done), max(1, sum(job["total-progress"] for job in done))
                )
            for name in sorted(left):
                job = jobs.get(name)
                if job is None or job["status"] == "concluded":
                    left.discard(name)
                    if job is not None:
                        problem = problem or job.get("error")
                        self.ask("job-dismiss", {"id": name})
                elif problem is not None and job["status"] == "running":
                    self.ask("job-cancel", {"id": name})
            if left:
                time.sleep(POLL_SECONDS)
        if problem is not None:
            raise ImageError(problem)


def _stream(stream: Optional[IO[bytes]]) -> IO[bytes]:
    if stream is None:
        raise AssertionError("not reached: stream is None")
    return stream


def _node(name: str, path: str) -> str:
    options = {
        "driver": "qcow2",
        "node-name": name,
        "discard": "unmap",
        "file": {"driver": "file", "filename": path},
    }
    return json.dumps(options)
