# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.engine.change import Change
from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import ApplyError, GuardError
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.compute import Vm
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.firewall import Firewall
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.network import VirtualSwitch
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm import guard as guard_module
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm import guard_undo, systemd
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.guard import KvmGuard, Part
from ansible_collections.bareforge.hypervisor.plugins.module_utils.transports import nftables


class Host:
    """A folder that plays the host: what the guard looks after, and the programs that were run."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.programs: list[list[str]] = []
        self.broken = False
        self.units = "Id=ssh.service\nActiveState=active\nUnitFileState=enabled\n"
        self.networks: dict[str, str] = {}
        self.etc = root / "etc"
        self.etc.mkdir()

    def run_command(self, argv: Any, timeout: float = 60) -> str:
        self.programs.append(list(argv))
        if self.broken and argv[0] == "systemd-run":
            raise ApplyError("systemd-run failed: no bus")
        return self.units if argv[:2] == ["systemctl", "show"] else "a backup\n"

    @property
    def guards(self) -> list[Path]:
        folder = self.root / "guard"
        return sorted(folder.iterdir()) if folder.exists() else []

    def plan(self) -> dict[str, Any]:
        plan: dict[str, Any] = json.loads((self.guards[0] / "plan.json").read_text(encoding="utf-8"))
        return plan

    def fire(self) -> int:
        """Do what the timer does: run the script that the guard has left, by itself and away from the collection."""
        done = subprocess.run([sys.executable, "-I", str(self.guards[0] / "undo.py")], cwd="/", check=False, env={})
        return done.returncode


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    made = Host(tmp_path)
    monkeypatch.setattr(guard_module, "GUARD_FOLDER", str(tmp_path / "guard"))
    monkeypatch.setattr(guard_module, "_OVS_SOCKET", str(tmp_path / "no-socket"))
    monkeypatch.setattr(systemd, "UNIT_FOLDER", str(tmp_path / "units"))
    monkeypatch.setattr(systemd, "run_command", made.run_command)
    monkeypatch.setattr(guard_module, "_read_networks", lambda: made.networks)
    monkeypatch.setattr(guard_module, "_VIRSH", str(tmp_path / "virsh"))
    monkeypatch.setattr(nftables, "list_table", lambda family, name: None)
    log = str(tmp_path / "reloaded")
    parts = {
        "firewall": Part([f"{made.etc}/firewall.json"], []),
        "network": Part([f"{made.etc}/*.network"], [["/usr/bin/touch", log]]),
        "sshd": Part([f"{made.etc}/sshd/*.conf"], []),
    }
    monkeypatch.setattr(guard_module, "PARTS", parts)
    return made


def firewall_change() -> Change:
    return Change(None, Firewall.parse({}).complete(None))


def test_what_was_changed_made_and_removed_is_brought_back(host: Host) -> None:
    kept, gone, new = (host.etc / name for name in ("a.network", "b.network", "c.network"))
    kept.write_text("a")
    kept.chmod(0o640)
    gone.write_text("b")
    foreign = host.etc / "other.conf"
    foreign.write_text("x")
    KvmGuard().arm_parts(["network"], 60)
    kept.write_text("changed")
    kept.chmod(0o644)
    gone.unlink()
    new.write_text("c")
    foreign.write_text("y")
    assert host.fire() == 0
    assert (kept.read_text(), gone.read_text(), new.exists(), foreign.read_text()) == ("a", "b", False, "y")
    assert kept.stat().st_mode & 0o777 == 0o640
    assert (host.root / "reloaded").exists()


def test_devices_that_a_change_has_made_are_known_and_those_that_were_there_are_left(tmp_path: Path) -> None:
    folder, etc = tmp_path / "guard", tmp_path / "etc"
    folder.mkdir()
    etc.mkdir()
    same = "# Asked for: {}\n[NetDev]\nName={}\nKind=bridge\n"
    for name in ("stays", "changes", "comes"):
        (etc / f"05-bareforge-{name}.netdev").write_text(same.format("now", name))
    (etc / "10-others.netdev").write_text(same.format("now", "others"))
    (folder / "file-0").write_text(same.format("before", "stays"))
    (folder / "file-1").write_text(same.format("before", "changes") + "MTUBytes=9000\n")
    saved = [
        {"path": str(etc / f"05-bareforge-{name}.netdev"), "from": f"file-{number}"}
        for number, name in enumerate(("stays", "changes"))
    ]
    files = {"paths": [f"{etc}/*.netdev"], "saved": saved}
    assert guard_undo._made_otherwise(str(folder), files) == ["changes", "comes"]


def test_values_of_the_kernel_are_brought_back_in_two_steps(tmp_path: Path) -> None:
    on, off = tmp_path / "on", tmp_path / "off"
    on.write_text("0\n")
    off.write_text("1\n")
    values = {str(on): "1\n", str(off): "0\n"}
    assert guard_undo._restore_values(values, "0") == []
    assert (on.read_text(), off.read_text()) == ("0\n", "0\n")
    assert guard_undo._restore_values(values, "1") == []
    assert on.read_text() == "1\n"
    assert "could not be brought back" in guard_undo._restore_values({str(tmp_path / "none"): "1"}, "1")[0]


def test_a_switch_of_type_nat_brings_routing_under_the_guard(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard_module, "ROUTING_FILE", str(host.etc / "routing.json"))
    parts = {**guard_module.PARTS, "routing": Part([f"{host.etc}/routing.json"], [])}
    monkeypatch.setattr(guard_module, "PARTS", parts)
    monkeypatch.setattr(guard_module, "saved_values", lambda: {"/proc/sys/x": "0\n"})
    nat = {"name": "n", "type": "nat", "nat": {"gateway": "10.0.0.1/24"}}
    for document, routed in ({"name": "s"}, False), (nat, True):
        change = Change(None, VirtualSwitch.parse(document).complete(None))
        KvmGuard().arm([change], None, 60)  # type: ignore[arg-type]
        assert (f"{host.etc}/routing.json" in host.plan()["files"]["paths"]) is routed
        assert bool(host.plan()["values"]) is routed
        KvmGuard().confirm(host.guards[0].name)
        shutil.rmtree(host.guards[0])


def test_timer_and_next_boot_run_the_script_from_its_folder(host: Host) -> None:
    token = KvmGuard().arm([firewall_change()], None, 45)["token"]  # type: ignore[arg-type]
    (timer,) = [argv for argv in host.programs if argv[0] == "systemd-run"]
    script = str(host.guards[0] / "undo.py")
    assert f"--unit=bareforge-guard-{token}" in timer
    assert "--on-active=45s" in timer
    assert timer[-1] == script
    unit = (host.root / "units" / f"bareforge-guard-boot-{token}.service").read_text()
    assert f"ExecStart={timer[-3]} -I {script}\n" in unit
    assert (host.root / "units" / "multi-user.target.wants" / f"bareforge-guard-boot-{token}.service").is_symlink()
    assert host.guards[0].stat().st_mode & 0o777 == 0o700


def test_kinds_choose_the_parts(host: Host) -> None:
    switch = Change(None, VirtualSwitch.parse({"name": "s"}).complete(None))
    KvmGuard().arm([firewall_change()], None, 60)  # type: ignore[arg-type]
    assert host.plan()["files"]["paths"] == [f"{host.etc}/firewall.json"]
    assert [command["argv"][:3] for command in host.plan()["commands"]] == [["/usr/sbin/nft", "-j", "-f"]]
    table = json.loads((host.guards[0] / "table.json").read_text())["nftables"]
    assert table == nftables.replace_table("inet", "bareforge", None)
    KvmGuard().confirm(host.guards[0].name)
    shutil.rmtree(host.guards[0])
    KvmGuard().arm([switch, firewall_change()], None, 60)  # type: ignore[arg-type]
    assert host.plan()["files"]["paths"] == [f"{host.etc}/firewall.json", f"{host.etc}/*.network"]


def test_open_vswitch_is_brought_back_before_networkd_reads_its_files(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    socket = host.root / "db.sock"
    socket.touch()
    monkeypatch.setattr(guard_module, "_OVS_SOCKET", str(socket))
    KvmGuard().arm_parts(["network"], 60)
    commands = host.plan()["commands"]
    assert [command["argv"][0] for command in commands] == ["/usr/bin/ovsdb-client", "/usr/bin/touch"]
    assert commands[0]["stdin"] == "openvswitch"
    assert (host.guards[0] / "openvswitch").read_text() == "a backup\n"


def test_kind_that_cannot_be_brought_back_is_refused(host: Host) -> None:
    change = Change(None, Vm.parse({"name": "v"}))
    with pytest.raises(GuardError, match=r"cannot undo changes of vm"):
        KvmGuard().arm([change], None, 60)  # type: ignore[arg-type]
    assert host.guards == []


def test_confirming_stops_the_timer_and_leaves_only_that_it_was(host: Host) -> None:
    watched = host.etc / "a.network"
    watched.write_text("a")
    token = KvmGuard().arm_parts(["network"], 60)["token"]
    watched.write_text("b")
    KvmGuard().confirm(token)
    assert ["systemctl", "stop", f"bareforge-guard-{token}.timer"] in host.programs
    assert os.listdir(host.guards[0]) == ["confirmed"]
    assert [path for path in (host.root / "units").rglob("*") if not path.is_dir()] == []
    assert watched.read_text() == "b"
    # As the controller does where the first answer was lost.
    KvmGuard().confirm(token)
    with pytest.raises(GuardError, match=r"it was confirmed, or never armed"):
        KvmGuard().undo(token)
    KvmGuard().arm_parts(["network"], 60)


def test_confirmation_that_was_cut_short_is_finished(host: Host) -> None:
    KvmGuard().arm_parts(["network"], 60)
    os.rename(host.guards[0] / guard_undo.ARMED, host.guards[0] / guard_module.CONFIRMED)
    KvmGuard().recover()
    assert os.listdir(host.guards[0]) == ["confirmed"]
    assert [path for path in (host.root / "units").rglob("*") if not path.is_dir()] == []


def test_what_was_settled_long_ago_is_forgotten(host: Host) -> None:
    for number in range(2):
        token = KvmGuard().arm_parts(["network"], 60)["token"]
        if number:
            KvmGuard().confirm(token)
        else:
            KvmGuard().undo(token)
    assert len(host.guards) == 2
    for folder in host.guards:
        os.utime(folder, (0, 0))
    KvmGuard().recover()
    assert host.guards == []


def test_confirming_what_never_was_is_refused(host: Host) -> None:
    with pytest.raises(GuardError, match=r"the host knows of no guard 0{16}"):
        KvmGuard().confirm("0" * 16)


def test_confirming_too_late_says_when_it_was_undone(host: Host) -> None:
    token = KvmGuard().arm_parts(["network"], 60)["token"]
    host.fire()
    with pytest.raises(GuardError, match=r"were undone at 20\d\d-.*Z, since nobody had confirmed"):
        KvmGuard().confirm(token)
    KvmGuard().undo(token)


def test_confirming_while_it_is_undone_is_refused(host: Host) -> None:
    token = KvmGuard().arm_parts(["network"], 60)["token"]
    os.rename(host.guards[0] / guard_undo.ARMED, host.guards[0] / guard_undo.UNDOING)
    with pytest.raises(GuardError, match=r"are being undone"):
        KvmGuard().confirm(token)


def test_timer_after_the_confirmation_does_nothing(host: Host) -> None:
    watched = host.etc / "a.network"
    watched.write_text("a")
    KvmGuard().arm_parts(["network"], 60)
    watched.write_text("b")
    os.rename(host.guards[0] / guard_undo.ARMED, host.guards[0] / guard_module.CONFIRMED)
    assert host.fire() == 0
    assert watched.read_text() == "b"


def test_undo_that_was_cut_short_is_finished_by_the_next(host: Host) -> None:
    watched = host.etc / "a.network"
    watched.write_text("a")
    KvmGuard().arm_parts(["network"], 60)
    watched.write_text("b")
    os.rename(host.guards[0] / guard_undo.ARMED, host.guards[0] / guard_undo.UNDOING)
    KvmGuard().recover()
    assert watched.read_text() == "a"


def test_failure_of_one_step_does_not_keep_the_others(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = host.etc / "a.network"
    watched.write_text("a")
    part = Part([str(watched)], [["/nonexistent/program"], ["/usr/bin/touch", str(host.root / "second")]])
    monkeypatch.setitem(guard_module.PARTS, "network", part)
    token = KvmGuard().arm_parts(["network"], 60)["token"]
    watched.write_text("b")
    with pytest.raises(GuardError, match=r"incomplete: /nonexistent/program"):
        KvmGuard().undo(token)
    assert watched.read_text() == "a"
    assert (host.root / "second").exists()


def test_second_guard_is_refused_while_one_waits(host: Host) -> None:
    token = KvmGuard().arm_parts(["network"], 60)["token"]
    with pytest.raises(GuardError, match=rf"guard {token} waits .*undoes it in (60|5\d) s.*one guard at a time"):
        KvmGuard().arm_parts(["firewall"], 60)
    assert len(host.guards) == 1


def test_guard_that_cannot_be_started_leaves_nothing(host: Host) -> None:
    host.broken = True
    with pytest.raises(GuardError, match=r"could not be stored on the host: .*no bus"):
        KvmGuard().arm_parts(["network"], 60)
    assert host.guards == []
    assert [path for path in (host.root / "units").rglob("*") if not path.is_dir()] == []


def test_killed_while_arming_is_tidied_and_undoes_nothing(host: Host) -> None:
    watched = host.etc / "a.network"
    watched.write_text("a")
    KvmGuard().arm_parts(["network"], 60)
    (host.guards[0] / guard_undo.ARMED).unlink()
    watched.write_text("b")
    assert host.fire() == 0
    assert watched.read_text() == "b"
    KvmGuard().recover()
    assert host.guards == []


def test_next_run_waits_for_a_guard_and_undoes_it_where_its_timer_is_lost(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = host.etc / "a.network"
    watched.write_text("a")
    KvmGuard().arm_parts(["network"], 1)
    watched.write_text("b")
    monkeypatch.setattr(guard_module, "_GRACE_SECONDS", 0.3)
    KvmGuard().recover()
    assert watched.read_text() == "a"


@pytest.mark.parametrize("token", ["", "../../etc", "0123456789ABCDEF", "0" * 15, "0" * 16 + "\n"])
def test_token_is_never_a_path(host: Host, token: str) -> None:
    for method in (KvmGuard().confirm, KvmGuard().undo):
        with pytest.raises(GuardError, match=r"is no token of a guard"):
            method(token)


def test_script_needs_nothing_but_the_standard_library() -> None:
    source = Path(guard_undo.__file__).read_text(encoding="utf-8")
    imported = [line.split()[1].split(".")[0] for line in source.splitlines() if line.startswith(("import ", "from "))]
    # By where each comes from, since Python 3.9 has no list of its own library's names.
    library = Path(os.__file__).parent
    for name in {*imported} - {*sys.builtin_module_names}:
        origin = importlib.util.find_spec(name).origin
        assert origin in ("built-in", "frozen") or (library in Path(origin).parents and "site-packages" not in origin)


VIRSH = """#!{python}
import pathlib, sys
root, arguments = pathlib.Path({root!r}), sys.argv[3:]
with open(root / "virsh.log", "a") as log:
    log.write(" ".join(arguments[:4]) + "\\n")
if arguments[0] == "net-list":
    print("\\n".join(sorted(path.stem for path in root.glob("*.lasting" if "--all" in arguments else "*.live"))))
elif arguments[0] == "net-dumpxml":
    print((root / (arguments[-1] + (".lasting" if "--inactive" in arguments else ".live"))).read_text())
elif arguments[0] == "net-define" and "refused" in open(arguments[1]).read():
    sys.exit("error: no such thing")
"""


def network(**vlans: int) -> str:
    groups = "".join(
        f"<portgroup name='{name}'><vlan><tag id='{tag}'/></vlan></portgroup>" for name, tag in vlans.items()
    )
    return f"<network><name>n</name>{groups}</network>"


def virsh(host: Host, root: Path, **networks: str) -> Path:
    """Put a virsh in place that shows networks, and notes what it is told."""
    host.networks = dict(networks)
    program = root / "virsh"
    program.write_text(VIRSH.format(python=sys.executable, root=str(root)))
    program.chmod(0o755)
    for name, xml in networks.items():
        for kind in ("lasting", "live"):
            (root / f"{name}.{kind}").write_text(xml)
    return root / "virsh.log"


def told(log: Path) -> list[str]:
    return [line for line in log.read_text().splitlines() if not line.startswith(("net-list", "net-dumpxml"))]


def test_networks_of_libvirt_are_brought_back_without_stopping_them(host: Host, tmp_path: Path) -> None:
    log = virsh(host, tmp_path, same=network(a=1), other=network(kept=1, changed=2, gone=3))
    KvmGuard().arm_parts(["network"], 60)
    for kind in ("lasting", "live"):
        (tmp_path / f"other.{kind}").write_text(network(kept=1, changed=20, new=4))
    (tmp_path / "unknown.lasting").write_text(network(x=1))
    assert host.fire() == 0
    assert [" ".join(line.split()[:3]) for line in told(log)] == [
        f"net-define {host.guards[0]}/network-0.xml",
        "net-update other modify",
        "net-update other add-last",
        "net-update other delete",
    ]


def test_network_that_cannot_be_brought_back_is_named(host: Host, tmp_path: Path) -> None:
    virsh(host, tmp_path, n=network(refused=1), z=network(a=1))
    token = KvmGuard().arm_parts(["network"], 60)["token"]
    (tmp_path / "n.lasting").write_text(network(refused=2))
    with pytest.raises(GuardError, match=r"incomplete: libvirt network n: error: no such thing$"):
        KvmGuard().undo(token)


def test_an_ssh_server_that_was_stopped_or_masked_is_started_again(host: Host) -> None:
    host.units += "\nId=ssh.socket\nActiveState=inactive\nUnitFileState=disabled\n"
    KvmGuard().arm_parts(["sshd"], 60)
    words = [" ".join(command["argv"][1:]) for command in host.plan()["commands"]]
    assert words == ["unmask ssh.service", "enable ssh.service", "start ssh.service"]
