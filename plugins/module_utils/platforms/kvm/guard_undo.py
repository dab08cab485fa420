# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The undo that a guard leaves on the host: run by systemd, not by Ansible.

The guard writes the source of this module beside its data, and a timer and the next boot run it from there. So it
imports nothing but the standard library, and does only what the data says. What it is to do stands in `plan.json`:

`files`: what is brought back: {"paths": [globs], "saved": [{"path", "mode", "uid", "gid", "from"}]}. What matches one
    of the globs and is not among the saved ones is removed.
`values`: what the kernel's switches below /proc/sys were, by their paths.
`commands`: what is run after that, each an argv, with a file of this folder as standard input or none.
`networks`: the files with libvirt's networks as they were, by their names; others are left alone. `virsh`: the program.
`profiles`: where NetworkManager keeps the interfaces, {"nmcli": its program, "active": [[device, UUID of a profile that was
    in use]]}. Of the files above those that end in .nmconnection are told to it one by one.
`clean_up`: paths of files that are removed when all is done.
"""

from __future__ import annotations

import fcntl
import glob
import json
import os
import subprocess
import sys
import time
from typing import Any, Dict, List, Optional, Sequence
from xml.etree import ElementTree

ARMED = "armed"
UNDOING = "undoing"
UNDONE = "undone.json"
PROFILE = ".nmconnection"
# Bridges are there before bonds, and both before what is a port or has addresses.
RANKS = {"bridge": 0, "bond": 1, "veth": 2}


def undo(folder: str) -> int:
    """Undo what the guard in a folder stands over, unless it was confirmed; return the exit status of the program."""
    with open(os.path.join(folder, "lock"), "a", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.exists(os.path.join(folder, UNDONE)) or not _claim(folder):
            return 0
        with open(os.path.join(folder, "plan.json"), encoding="utf-8") as stream:
            plan = json.load(stream)
        devices = _made_otherwise(folder, plan["files"])
        profiles = _written_otherwise(folder, plan["files"])
        failures = _restore_files(folder, plan["files"])
        # systemd-networkd makes devices and does not remove them, nor change what it has made.
        for device in devices:
            if os.path.exists(f"/sys/class/net/{device}"):
                failures.extend(_run(folder, {"argv": ["/usr/sbin/ip", "link", "delete", device], "timeout": 60}))
        # What limits forwarding is among the commands: forwarding ends before them and begins after them.
        failures.extend(_restore_values(plan["values"], "0"))
        for command in plan["commands"]:
            failures.extend(_run(folder, command))
        if "profiles" in plan:
            failures.extend(_restore_profiles(folder, plan["profiles"], profiles))
        failures.extend(_restore_values(plan["values"], "1"))
        for name, file in sorted(plan["networks"].items()):
            failures.extend(_restore_network(plan["virsh"], name, os.path.join(folder, file)))
        outcome = {"at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "failures": failures}
        _write(os.path.join(folder, UNDONE), json.dumps(outcome).encode("ascii"), 0o600)
        for path in plan["clean_up"]:
            if os.path.lexists(path):
                os.unlink(path)
    for failure in failures:
        print(f"bareforge guard: {failure}", file=sys.stderr)
    print(f"bareforge guard: the changes under {folder} were not confirmed and have been undone", file=sys.stderr)
    return 1 if failures else 0


def _claim(folder: str) -> bool:
    # Confirming renames the same file: whoever comes first has it, and the other finds it gone.
    try:
        os.rename(os.path.join(folder, ARMED), os.path.join(folder, UNDOING))
    except FileNotFoundError:
        # A file that is there already is an undo that was cut short, such as by a restart of the host.
        return os.path.exists(os.path.join(folder, UNDOING))
    return True


def _made_otherwise(folder: str, files: Dict[str, Any]) -> List[str]:
    """Return the network devices that files of ours make now and did not make so before (systemd.netdev(5))."""
    saved = {entry["path"]: entry["from"] for entry in files["saved"]}
    devices = []
    for path in sorted({path for pattern in files["paths"] for path in glob.glob(pattern)}):
        name = os.path.basename(path)
        if not name.endswith(".netdev") or "bareforge" not in name:
            continue
        try:
            with open(path, "rb") as stream:
                now = _without_notes(stream.read())
            before = b""
            if path in saved:
                with open(os.path.join(folder, saved[path]), "rb") as stream:
                    before = _without_notes(stream.read())
        except OSError:
            continue
        if now != before:
            devices += [line[5:].decode() for line in now.splitlines() if line.startswith(b"Name=")][:1]
    return devices


def _written_otherwise(folder: str, files: Dict[str, Any]) -> List[str]:
    """Return the paths of profiles of NetworkManager that have been made, changed or removed since (nm-settings-keyfile(5))."""
    saved = {entry["path"]: entry["from"] for entry in files["saved"]}
    present = {path for pattern in files["paths"] for path in glob.glob(pattern)}
    found = []
    for path in sorted(path for path in {*saved, *present} if path.endswith(PROFILE)):
        before = _content(os.path.join(folder, saved[path])) if path in saved else None
        if before != _content(path):
            found.append(path)
    return found


def _content(path: str) -> Optional[bytes]:
    try:
        with open(path, "rb") as stream:
            return stream.read()
    except OSError:
        return None


def _restore_profiles(folder: str, plan: Dict[str, Any], changed: List[str]) -> List[str]:
    """Let NetworkManager take up what its profiles were, and use those that it did; the files are back already."""
    nmcli = plan["nmcli"]
    failures = []
    if changed:
        # To load a file that is not there is to forget it, and to let go of what it configured.
        failures += _run(folder, {"argv": [nmcli, "connection", "load", *changed], "timeout": 60})
    anew = [profile for profile in map(_profile, changed) if "uuid" in profile]
    wanted = [profile["uuid"] for profile in sorted(anew, key=lambda profile: RANKS.get(profile["type"], len(RANKS)))]
    try:
        shown = [nmcli, "--get-values", "UUID", "connection", "show", "--active"]
        used = set(subprocess.run(shown, capture_output=True, text=True, timeout=60, check=True).stdout.split())
    except (OSError, subprocess.SubprocessError) as error:
        return [*failures, f"{nmcli}: {error}"]
    wanted += [uuid for _device, uuid in plan["active"] if uuid not in used and uuid not in wanted]
    for uuid in wanted:
        # What asks DHCP is on its way when nmcli has waited long enough.
        failures += _run(
            folder, {"argv": [nmcli, "--wait", "15", "connection", "up", "uuid", uuid], "timeout": 60}, (0, 3)
        )
    return failures


def _profile(path: str) -> Dict[str, str]:
    lines = (_content(path) or b"").decode("utf-8", "replace").split("\n[connection]\n")[-1].splitlines()
    entries = (line.partition("=") for line in lines)
    found: Dict[str, str] = {}
    for key, equals, value in entries:
        if not equals:
            break
        found[key] = value
    return found


def _without_notes(content: bytes) -> bytes:
    return b"\n".join(line for line in content.splitlines() if not line.startswith(b"#"))


def _restore_files(folder: str, files: Dict[str, Any]) -> List[str]:
    failures = []
    saved = {entry["path"] for entry in files["saved"]}
    present = {path for pattern in files["paths"] for path in glob.glob(pattern) if os.path.isfile(path)}
    for path in sorted(present - saved):
        try:
            os.unlink(path)
        except OSError as error:
            failures.append(f"{path} could not be removed: {error}")
    for entry in files["saved"]:
        try:
            with open(os.path.join(folder, entry["from"]), "rb") as stream:
                content = stream.read()
            _restore(entry, content)
        except OSError as error:
            failures.append(f"{entry['path']} could not be brought back: {error}")
    return failures


def _restore(entry: Dict[str, Any], content: bytes) -> None:
    try:
        with open(entry["path"], "rb") as stream:
            if stream.read() == content:
                return
    except FileNotFoundError:
        os.makedirs(os.path.dirname(entry["path"]), exist_ok=True)
    _write(entry["path"], content, entry["mode"])
    os.chown(entry["path"], entry["uid"], entry["gid"])


def _restore_values(values: Dict[str, str], which: str) -> List[str]:
    failures = []
    for path, value in sorted(values.items()):
        if value.strip() != which:
            continue
        try:
            with open(path, encoding="ascii") as stream:
                # Writing what is there already would reset what has been set for single devices.
                if stream.read().strip() == value.strip():
                    continue
            with open(path, "w", encoding="ascii") as stream:
                stream.write(value)
        except OSError as error:
            failures.append(f"{path} could not be brought back: {error}")
    return failures


def _write(path: str, content: bytes, mode: int) -> None:
    temporary = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.guard")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as stream:
        os.fchmod(stream.fileno(), mode)
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)


def _restore_network(virsh: str, name: str, path: str) -> List[str]:
    """Bring a network of libvirt back, without stopping it: guests are on it."""
    try:
        with open(path, encoding="utf-8") as stream:
            wanted = stream.read()
        networks = _virsh(virsh, "net-list", "--all", "--name").split("\n")
        if name not in networks or _virsh(virsh, "net-dumpxml", "--inactive", name).strip() != wanted.strip():
            _virsh(virsh, "net-define", path)
        if name not in _virsh(virsh, "net-list", "--name").split("\n"):
            return []
        groups = _port_groups(wanted)
        present = _port_groups(_virsh(virsh, "net-dumpxml", name))
        for group in sorted({*groups, *present}):
            if groups.get(group) == present.get(group):
                continue
            verb = "delete" if group not in groups else "modify" if group in present else "add-last"
            with open(f"{path}.group", "w", encoding="utf-8") as stream:
                stream.write(groups.get(group) or present[group])
            _virsh(virsh, "net-update", name, verb, "portgroup", f"{path}.group", "--live")
    except (OSError, ValueError, subprocess.SubprocessError, ElementTree.ParseError) as error:
        words = getattr(error, "stderr", None) or str(error)
        return [f"libvirt network {name}: {words.strip()}"]
    return []


def _port_groups(xml: str) -> Dict[str, str]:
    found = {}
    for group in ElementTree.fromstring(xml).iterfind("portgroup"):
        group.tail = None
        found[group.get("name", "")] = ElementTree.tostring(group, encoding="unicode")
    return found


def _virsh(virsh: str, *arguments: str) -> str:
    return subprocess.run(
        [virsh, "-c", "qemu:///system", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout


def _run(folder: str, command: Dict[str, Any], good: Sequence[int] = (0,)) -> List[str]:
    name = " ".join(command["argv"])
    source = os.path.join(folder, command["stdin"]) if command.get("stdin") else os.devnull
    try:
        with open(source, "rb") as stream:
            done = subprocess.run(
                command["argv"], stdin=stream, capture_output=True, timeout=command["timeout"], check=False
            )
    except (OSError, subprocess.TimeoutExpired) as error:
        return [f"{name}: {error}"]
    if done.returncode not in good:
        words = done.stderr.decode("utf-8", "replace").strip()
        return [f"{name}: {words or done.returncode}"]
    return []


if __name__ == "__main__":
    sys.exit(undo(os.path.dirname(os.path.abspath(__file__))))
