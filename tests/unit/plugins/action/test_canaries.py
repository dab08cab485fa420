# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A text that stands nowhere else in every option that is secret, of every module: where ansible-playbook leaves it.

The options are those that the model marks, so a new one is looked after by itself. Each secret travels twice: as part of what
is right and is done, and as part of what is refused.
"""

from __future__ import annotations

import itertools
import json
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.boundary.definitions import (
    MODULES,
    Mappings,
    ObjectModule,
    WholeDocument,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.document import KINDS, SECTIONS
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.schema import Nested, NestedList, Option
from support.documents import every_kind
from support.playbooks import PASSWORD, Runner, task

MARK = "canary"


class Canaries:
    """Texts that stand nowhere else.

    places: the options that they were put into, by text. variables: the texts as inventory variables. A task has their names
        only, since Ansible shows the lines of a playbook around a task that fails.
    """

    def __init__(self) -> None:
        self.run = secrets.token_hex(8)
        self.numbers = itertools.count()
        self.places: dict[str, str] = {}
        self.variables: dict[str, str] = {}

    def text(self, place: str) -> str:
        """Return what a task says to have a new text in an option."""
        number = next(self.numbers)
        text = f"{MARK}{self.run}x{number}x"
        self.places[text] = place
        self.variables[f"bird_{number}"] = text
        return f"{{{{ bird_{number} }}}}"

    def put_into(self, options: Mapping[str, Option], place: str, sample: Any = None) -> dict[str, Any]:
        """Return what a sample says, with a canary at the end of each secret; without a sample nothing but secrets."""
        planted = dict(sample or {})
        for name, entry in options.items():
            path = f"{place}.{name}"
            given = planted.get(name)
            if entry.secret:
                if given is not None or sample is None:
                    planted[name] = f"{given or ''}{self.text(path)}"
            elif isinstance(entry.type, (Nested, NestedList, Mappings)):
                many = not isinstance(entry.type, Nested)
                if sample is not None and given is None:
                    continue
                samples = (given or [None]) if many else [given]
                inner = [self.put_into(entry.type.cls.options(), path, each) for each in samples]
                if any(inner):
                    planted[name] = inner if many else inner[0]
            elif isinstance(entry.type, WholeDocument):
                planted[name] = self.document(path, None if sample is None else given)
        return planted

    def document(self, place: str, sample: Any) -> dict[str, Any]:
        """Return a document with a canary in each secret."""
        planted = dict(sample or {})
        for kind, section in SECTIONS.items():
            many = bool(KINDS[kind].key_fields())
            if sample is not None and section not in planted:
                continue
            samples = (planted.get(section) or [None]) if many else [planted.get(section)]
            inner = [self.put_into(KINDS[kind].options(), f"{place}.{section}", each) for each in samples]
            if any(inner):
                planted[section] = inner if many else inner[0]
        return planted


def secret_options(options: Mapping[str, Option], place: str) -> Iterator[str]:
    """Yield the path of every secret option of a module."""
    for name, entry in options.items():
        path = f"{place}.{name}"
        if entry.secret:
            yield path
        elif isinstance(entry.type, (Nested, NestedList, Mappings)):
            yield from secret_options(entry.type.cls.options(), path)
        elif isinstance(entry.type, WholeDocument):
            for kind, section in SECTIONS.items():
                yield from secret_options(KINDS[kind].options(), f"{path}.{section}")


def tasks_with(canaries: Canaries) -> list[dict[str, Any]]:
    """Return tasks of all modules: with a canary in every secret, refused; and as every kind has it, done."""
    whole = every_kind()
    tasks = []
    for name, definition in MODULES.items():
        refused = canaries.put_into(definition.options(), name)
        if not any(secret_options(definition.options(), name)):
            continue
        tasks.append(task(name, **refused))
        tasks.append(task(name, **refused, colour="red"))
        if isinstance(definition, ObjectModule):
            samples = whole[definition.section] if definition.keys else [whole[definition.section]]
            for sample in samples:
                tasks.append(task(name, **canaries.put_into(definition.fields, name, sample)))
    # The last, so that all that it names is there for sure: everything at once, and once more where nothing changes.
    document = canaries.document("host.document", whole)
    tasks.extend([task("host", document=document, allow_restart=True), task("host", document=document)])
    tasks.append({"ansible.builtin.set_fact": {"kept": "{{ done }}", "cacheable": True}})
    for number, each in enumerate(tasks[:-1]):
        each.update(ignore_errors=True, register="done")
        each["name"] = f"task {number}"
    return tasks


class Watch(threading.Thread):
    """Looks for texts in the arguments and environments of all processes, and in files that may be gone a moment later."""

    def __init__(self, words: list[str], *folders: Path) -> None:
        super().__init__(daemon=True)
        self.words = [word.encode() for word in words]
        self.folders = folders
        self.found: set[str] = set()
        self.rounds = 0
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.is_set():
            self.look()
            time.sleep(0.01)

    def look(self) -> None:
        """Look once."""
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                self._read(entry / "cmdline")
                self._read(entry / "environ")
        for folder in self.folders:
            for path in folder.rglob("*"):
                if path.is_file():
                    self._read(path)
        self.rounds += 1

    def _read(self, path: Path) -> None:
        try:
            content = path.read_bytes()
        except OSError:
            return  # it has ended, or is gone
        self.found.update(f"{path}: {word.decode()}" for word in self.words if word in content)

    def __enter__(self) -> Watch:
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.over.set()
        self.join()
        self.look()


@pytest.fixture
def canaries() -> Canaries:
    return Canaries()


class Traces:
    """The folders and files that a run may leave traces in."""

    def __init__(self, runner: Runner, canaries: Canaries) -> None:
        runner.inventory.update(canaries.variables)
        self.runner = runner
        self.folders = [runner.folder / name for name in ("tmp", "remote", "facts")]
        for folder in self.folders:
            folder.mkdir()
        self.log = runner.folder / "ansible.log"
        (runner.folder / "ansible.cfg").write_text(
            f"[defaults]\nlog_path = {self.log}\nfact_caching = ansible.builtin.jsonfile\n"
            f"fact_caching_connection = {self.folders[2]}\nlog_verbosity = 4\n"
        )
        runner.inventory["ansible_remote_tmp"] = str(self.folders[1])

    def texts(self, results: Any) -> dict[str, str]:
        """Return what is left, by where it is."""
        left = {
            "output": self.runner.output,
            "results": json.dumps(results),
            "log": self.log.read_text(),
            "how the host was reached": "".join(path.read_text() for path in self.runner.hosts.glob("*.log")),
        }
        for folder in self.folders:
            left.update({str(path): path.read_text("latin-1") for path in folder.rglob("*") if path.is_file()})
        return left


def traces_of(canaries: Canaries, texts: Mapping[str, str]) -> list[str]:
    return [
        f"{place} in {where}"
        for where, text in texts.items()
        for word, place in {**canaries.places, PASSWORD: "bareforge_password"}.items()
        if word in text
    ]


def test_every_secret_option_gets_a_canary(canaries):
    tasks_with(canaries)
    wanted = {path for name, entry in MODULES.items() for path in secret_options(entry.options(), name)}
    assert {"host.connection.password", "host.document.users.password", "vm.vms.guest.user_data"} <= wanted
    assert set(canaries.places.values()) >= wanted


def test_secrets_leave_no_trace_in_a_run(runner, canaries):
    tasks = tasks_with(canaries)
    traces = Traces(runner, canaries)
    with Watch([f"{MARK}{canaries.run}", PASSWORD], *traces.folders) as watch:
        results = runner.play(*tasks, arguments=["-vvvv", "--diff"])
    assert len(results) == len(tasks)
    assert watch.found == set()
    assert watch.rounds > 10
    texts = traces.texts(results)
    assert traces_of(canaries, texts) == []
    assert any(path.startswith(str(traces.folders[2])) for path in texts), "facts were cached"
    # They did travel: what is right has reached the host.
    stored = (runner.hosts / "h1").read_bytes()
    arrived = {place for word, place in canaries.places.items() if word.encode() in stored}
    # By the module of the kind or by `host`, whichever made the object.
    assert any(place.endswith("source.password") for place in arrived)
    assert any("user" in place and place.endswith("password") for place in arrived)
    failures = [result["msg"] for status, result in results[-3:] if status == "failed"]
    assert failures == []


def test_secrets_leave_no_trace_where_a_module_is_shipped_to_the_host(runner, canaries):
    """Through the pipeline; in check mode, since the host is this machine."""
    refused = [
        task(name, **canaries.put_into(entry.options(), name), colour="red")
        for name, entry in MODULES.items()
        if any(secret_options(entry.options(), name))
    ]
    sample = {"name": "bird", "memory": {"size": 64}, "guest": {"user_data": "#cloud-config\npassword: "}}
    shipped = task("vm", **canaries.put_into(MODULES["vm"].fields, "vm", sample))
    runner.inventory["bareforge_platform"] = "kvm"
    traces = Traces(runner, canaries)
    tasks = [{**each, "ignore_errors": True} for each in [*refused, shipped]]
    with Watch([f"{MARK}{canaries.run}", PASSWORD], *traces.folders) as watch:
        results = runner.play(*tasks, arguments=["-vvvv", "--diff", "--check"])
    assert len(results) == len(tasks)
    assert watch.found == set()
    assert traces_of(canaries, traces.texts(results)) == []
    # The module has run; where there is no libvirt, or no root, it says so.
    assert results[-1][1].get("phase") in (None, "connect", "authenticate", "read"), results[-1]


def test_the_watch_sees_what_it_looks_for(runner, canaries):
    canaries.text("the command line")
    (told,) = canaries.places
    lasting = Path(tempfile.mkdtemp())
    (lasting / "file").write_text(told)
    with Watch([told], lasting) as watch:
        runner.play(task("host_info", kinds=[]), arguments=["-e", f"told={told}"])
    shutil.rmtree(lasting)
    assert f"{lasting}/file: {told}" in watch.found
    assert any(line.startswith("/proc/") and "/cmdline" in line for line in watch.found)
