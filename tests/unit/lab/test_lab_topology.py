# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Several servers: what is refused before anything starts, what belongs to the lab, and the inventory."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import images, inventory, processes, topology
from lab.errors import LabError
from lab.images import Image
from lab.machine import Machine, Spec
from lab.topology import Lab

Sleeper = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "lab")


def make_server(lab: Lab, cache: Path, name: str, port: int = 2222, **changed: Any) -> Machine:
    spec = Spec(name, "kvm-host", "0123", memory=3072, cpus=2, wires=2, accelerator="tcg")
    server = lab.machine(name)
    server.folder.mkdir(parents=True)
    (server.folder / "machine.json").write_text(json.dumps(dataclasses.asdict(dataclasses.replace(spec, **changed))))
    (server.folder / "ssh-port").write_text(f"{port}\n")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", server.folder / "system.qcow2", "1M"], check=True)
    image = cache / "images" / "kvm-host-0123"
    image.mkdir(parents=True, exist_ok=True)
    (image / "ssh_host_ed25519_key.pub").write_text("ssh-ed25519 AAAA root@lab\n")
    return server


@pytest.fixture
def guest(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Image:
    """A guest image in the cache, the only one."""
    image = Image("tiny-guest", "4567", cache / "images" / "tiny-guest-4567")
    image.folder.mkdir(parents=True)
    image.disk.write_bytes(b"a disk")
    (image.folder / "image.json").write_text(json.dumps({"name": "tiny-guest", "sha256": "ab" * 32, "bytes": 6}))
    monkeypatch.setattr(images, "cached", lambda name: image if name == "tiny-guest" else None)
    return image


@pytest.fixture
def running(lab: Lab, cache: Path, guest: Image, sleeper: Sleeper) -> Iterator[Machine]:
    """A server that runs as far as its pid file tells, in a lab with its services."""
    server = make_server(lab, cache, "kvm1")
    server.pid_file.write_text(str(sleeper(str(server.pid_file)).pid))
    lab.start_services()
    yield server
    lab.destroy()


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "image": ({"image": "debian-guest"}, "--image is 'debian-guest': servers are made from kvm-host or kvm-host-ready"),
    "memory": ({"memory": 100}, "--memory is 100 MiB: 512 to 65536 MiB are allowed"),
    "wires": ({"uplinks": 5}, "--wires is 5: a server has 0 to 4 uplinks"),
    "negative": ({"uplinks": -1}, "--wires is -1: a server has 0 to 4 uplinks"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_options_are_refused_before_anything_is_made(lab: Lab, case: str) -> None:
    options, message = REFUSED[case]
    with pytest.raises(LabError, match=message):
        lab.up(["kvm1"], **options)
    assert not lab.folder.exists()


def test_a_server_named_twice_or_badly_is_refused(lab: Lab) -> None:
    with pytest.raises(LabError, match="named twice"):
        lab.up(["kvm1", "kvm1"])
    with pytest.raises(LabError, match="is no server name"):
        lab.up(["kvm1", "KVM2"])
    assert not lab.folder.exists()


@pytest.mark.parametrize(
    ("options", "field"),
    [({"image": "kvm-host-ready"}, "image"), ({"memory": 2048}, "memory"), ({"uplinks": 0}, "wires")],
)
def test_a_server_that_is_different_is_not_changed_silently(
    lab: Lab, cache: Path, options: dict[str, Any], field: str
) -> None:
    make_server(lab, cache, "kvm1")
    with pytest.raises(LabError, match=f"server kvm1 exists with {field} .*: `up --fresh` makes it anew"):
        lab.up(["kvm1"], **options)


def test_commands_name_the_servers_that_there_are(lab: Lab, cache: Path) -> None:
    make_server(lab, cache, "kvm1")
    make_server(lab, cache, "kvm2")
    for act in (lab.down, lab.destroy):
        with pytest.raises(LabError, match=r"no server 'kvm3' in .*: there is kvm1, kvm2"):
            act(["kvm3"])
    with pytest.raises(LabError, match="there is no server 'kvm3'"):
        lab.restore("kvm3", "ready")


def test_known_hosts_has_the_image_keys_for_each_port(lab: Lab, cache: Path) -> None:
    make_server(lab, cache, "kvm1", port=2221)
    make_server(lab, cache, "kvm2", port=2222)
    lab.write_known_hosts()
    assert (lab.folder / "known_hosts").read_text() == (
        "[127.0.0.1]:2221 ssh-ed25519 AAAA\n[127.0.0.1]:2222 ssh-ed25519 AAAA\n"
    )


def test_the_inventory_says_how_to_reach_the_servers_and_no_more(lab: Lab, running: Machine, cache: Path) -> None:
    make_server(lab, cache, "kvm2")
    said = inventory.inventory(lab)
    assert list(said) == ["all"]
    assert list(said["all"]) == ["hosts"]
    assert list(said["all"]["hosts"]) == ["kvm1"], "kvm2 does not run"
    host = said["all"]["hosts"]["kvm1"]
    assert host["ansible_host"] == "127.0.0.1"
    assert host["ansible_port"] == 2222
    assert host["ansible_user"] == "operator"
    assert Path(host["ansible_ssh_private_key_file"]).is_file()
    options = shlex.split(host["ansible_ssh_common_args"])
    assert "StrictHostKeyChecking=yes" in options
    assert f"UserKnownHostsFile={lab.folder / 'known_hosts'}" in options
    base = host["lab_image_server"]
    assert base.startswith("http://10.0.2.2:")
    assert host["lab_images"] == {"tiny-guest": {"url": f"{base}/tiny-guest.qcow2", "checksum": "sha256:" + "ab" * 32}}
    others = set(host) - {"lab_image_server", "lab_images"}
    assert all(name.startswith("ansible_") for name in others)


def test_the_written_inventory_is_read_by_ansible(lab: Lab, running: Machine, tmp_path: Path) -> None:
    target = tmp_path / "inventory.yml"
    inventory.write(lab, target)
    argv = [sys.executable, "-m", "ansible", "inventory", "-i", str(target), "--list"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["_meta"]["hostvars"]["kvm1"]["ansible_port"] == 2222
    assert json.loads(target.read_text().split("\n", 1)[1]) == inventory.inventory(lab)


def test_without_a_running_server_there_is_no_inventory(lab: Lab, cache: Path) -> None:
    make_server(lab, cache, "kvm1")
    with pytest.raises(LabError, match=r"no server runs in .*: start one with `up NAME`"):
        inventory.inventory(lab)


def fetch(lab: Lab, path: str, method: str = "GET") -> tuple[int, bytes, str]:
    port = int((lab.image_server_url() or "").rpartition(":")[2])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    with contextlib.closing(connection):
        connection.request(method, path)
        answer = connection.getresponse()
        body = answer.read()
        return answer.status, body, answer.headers["Content-Length"]


def test_the_image_server_serves_the_guest_images_and_nothing_else(lab: Lab, running: Machine) -> None:
    assert fetch(lab, "/tiny-guest.qcow2") == (200, b"a disk", "6")
    assert fetch(lab, "/tiny-guest.qcow2", "HEAD") == (200, b"", "6")
    for path in ("/", "/images.json", "/../known_hosts", "//etc/passwd", "/debian-guest.qcow2"):
        assert fetch(lab, path)[0] == 404


def test_the_services_start_once_and_end_with_the_last_server(lab: Lab, running: Machine) -> None:
    first = lab.status()
    lab.start_services()
    again = lab.status()
    assert again["wires"] == first["wires"]
    assert again["image_server"] == first["image_server"]
    assert first["wires"]["pid"]
    assert first["image_server"]["pid"]
    lab.stop_services_if_idle()
    assert lab.status()["wires"]["pid"] == first["wires"]["pid"], "a server still runs"
    lab.down(["kvm1"], now=True)
    assert lab.status()["wires"]["pid"] is None
    assert lab.image_server_url() is None


def test_the_image_server_keeps_its_port(lab: Lab, running: Machine) -> None:
    before = lab.image_server_url()
    lab.down(["kvm1"], now=True)
    lab.start_services()
    assert lab.image_server_url() == before


def test_status_tells_what_there_is(lab: Lab, running: Machine) -> None:
    status = lab.status()
    server = status["servers"]["kvm1"]
    assert server["running"] is True
    assert server["pid"] == processes.pid_of(running.pid_file)
    assert set(server["mac_addresses"]) == {"mgmt0", "uplink0", "uplink1"}
    assert server["snapshots"] == []
    assert status["images"]["tiny-guest"]["checksum"] == "sha256:" + "ab" * 32
    json.dumps(status)


def test_destroying_a_lab_leaves_one_below_it_alone(lab: Lab, cache: Path) -> None:
    make_server(lab, cache, "kvm1")
    below = Lab(lab.folder / "below")
    make_server(below, cache, "kvm1")
    lab.destroy()
    assert lab.machines() == []
    assert [server.name for server in below.machines()] == ["kvm1"]


def test_all_labs_below_can_be_found_and_destroyed(lab: Lab, cache: Path) -> None:
    make_server(lab, cache, "kvm1")
    make_server(Lab(lab.folder / "below"), cache, "kvm1")
    found = lab.labs_below()
    assert [one.folder for one in found] == [lab.folder / "below", lab.folder]
    for one in found:
        one.destroy()
    assert not lab.folder.exists()


def test_one_failure_does_not_stop_the_others_and_is_told(lab: Lab) -> None:
    done: list[str] = []

    def job(server: Machine) -> None:
        if server.name == "b":
            raise LabError("b broke")
        done.append(server.name)

    with pytest.raises(LabError, match="b broke"):
        topology._side_by_side(job, [lab.machine(name) for name in "abc"])
    assert sorted(done) == ["a", "c"]
