# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Running the collection's code on a host outside of a task: one Python process over Ansible's connection.

A module needs a task, a play and a worker, which an inventory has not yet. So the connection and become plugins are
loaded with the host's variables as a task would load them, and Python on the host is given a program by its standard
input: the code as an archive that it keeps in memory, and the request as data.
"""

from __future__ import annotations

import base64
import functools
import io
import json
import shlex
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible import constants
from ansible.errors import AnsibleAuthenticationFailure, AnsibleConnectionFailure, AnsibleError
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.playbook.play_context import PlayContext
from ansible.plugins.loader import become_loader, connection_loader
from ansible.template import Templar

from ansible_collections.bareforge.hypervisor.plugins import module_utils
from ansible_collections.bareforge.hypervisor.plugins.module_utils.boundary.answering import MARK
from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import (
    AuthenticateError,
    BareforgeError,
    ConnectError,
    ReadError,
)

from .plain import plain

INTERPRETER = "/usr/bin/python3"
PACKAGE = module_utils.__name__
NOT_FOUND = 127  # the status of a shell that finds no such program
MOST_SAID = 500
PATIENCE = 10  # seconds, as Ansible has it

PROGRAM = """\
import base64, json, os, sys
archive = os.memfd_create("bareforge")
with os.fdopen(archive, "wb", closefd=False) as file:
    file.write(base64.b64decode(ARCHIVE))
sys.path.insert(0, "/proc/self/fd/%d" % archive)
from {package}.boundary.answering import main
from {package}.boundary.{entry} import answer
main(answer, json.loads(base64.b64decode(REQUEST)))
"""


@functools.cache
def archive() -> bytes:
    """Return the package module_utils as a zip archive that Python can import from; the same for the same files."""
    root = Path(str(module_utils.__path__[0]))
    folder = Path(*PACKAGE.split("."))
    files = {(folder / path.relative_to(root)).as_posix(): path.read_bytes() for path in sorted(root.rglob("*.py"))}
    for parent in folder.parents:
        if parent.name:
            files.setdefault((parent / "__init__.py").as_posix(), b"")
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as payload:
        for name, content in sorted(files.items()):
            payload.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return target.getvalue()


def program(request: Mapping[str, Any], entry: str = "inventory") -> bytes:
    """Return the program that answers a request.

    entry: the module of `boundary` whose `answer` it is. What a user has said is in it as base64 of JSON, never as source.
    """
    data = {"ARCHIVE": archive(), "REQUEST": json.dumps(request).encode()}
    literals = "".join(f'{name} = "{base64.b64encode(content).decode()}"\n' for name, content in data.items())
    return (literals + PROGRAM.format(package=PACKAGE, entry=entry)).encode()


def ask(
    name: str,
    variables: Mapping[str, Any],
    request: Mapping[str, Any],
    loader: Any,
    patience: int = PATIENCE,
    entry: str = "inventory",
) -> dict[str, Any]:
    """Answer a request on a host and return what `answer` of a module of `boundary` returns there.

    name: the host's name in the inventory. variables: its inventory variables; they may be templates.
    patience: how many seconds login and becoming another user may take, where no variable says it.
    entry: that module's name.
    Raises ConnectError, AuthenticateError and ReadError.
    """
    known = {**variables, "inventory_hostname": name}
    templar = Templar(loader=loader, variables=known)
    try:
        connection = connect(known, templar, patience)
        interpreter = str(_value(known, templar, "ansible_python_interpreter") or INTERPRETER)
        if interpreter.startswith("auto"):
            interpreter = INTERPRETER
        try:
            status, output, errors = connection.exec_command(
                _command(connection, interpreter), in_data=program(request, entry), sudoable=True
            )
        finally:
            connection.close()
    except BareforgeError:
        raise
    except AnsibleError as error:
        raise _translated(error) from error
    return _answer(status, output, errors, interpreter)


def _value(variables: Mapping[str, Any], templar: Templar, *names: str) -> Any:
    for name in names:
        if variables.get(name) is not None:
            return plain(templar.template(variables[name]))
    return None


def connect(variables: Mapping[str, Any], templar: Templar, patience: int = PATIENCE) -> Any:
    """Return the connection plugin of a host with all its options set, and its become plugin where there is one."""
    kind = _value(variables, templar, "ansible_connection") or constants.DEFAULT_TRANSPORT
    context = PlayContext()
    context.remote_addr = str(
        _value(variables, templar, "ansible_host", "ansible_ssh_host") or variables["inventory_hostname"]
    )
    connection = connection_loader.get("ssh" if kind == "smart" else kind, context, new_stdin=None)
    if connection is None:
        raise ConnectError(f"there is no connection plugin {kind!r}")
    if not connection.has_pipelining:
        raise ConnectError(
            f"connection plugin {kind!r} hands nothing to a program's standard input", "Use ansible.builtin.ssh"
        )
    _set_options("connection", connection, variables, templar, timeout=patience)
    _set_options("shell", connection._shell, variables, templar)
    if boolean(_value(variables, templar, "ansible_become") or False, strict=False):
        method = _value(variables, templar, "ansible_become_method") or constants.DEFAULT_BECOME_METHOD
        become = become_loader.get(method)
        if become is None:
            raise ConnectError(f"there is no become plugin {method!r}")
        connection.set_become_plugin(become)
        _set_options("become", become, variables, templar)
    return connection


def _set_options(kind: str, plugin: Any, variables: Mapping[str, Any], templar: Templar, **otherwise: Any) -> None:
    names = constants.config.get_plugin_vars(kind, plugin._load_name)
    options: dict[str, Any] = {name: templar.template(variables[name]) for name in names if name in variables}
    if getattr(plugin, "allow_extras", False):
        prefix = f"ansible_{plugin.extras_prefix}_"
        more = [name for name in variables if name.startswith(prefix) and name not in options]
        options["_extras"] = {name: templar.template(variables[name]) for name in more}
    plugin.set_options(task_keys=otherwise, var_options=options)


def _command(connection: Any, interpreter: str) -> str:
    # Without -I, Python would first look for modules in the folder that the user's shell starts in.
    command = f"{shlex.quote(interpreter)} -I -"
    if connection.become is not None:
        command = connection.become.build_become_command(command, connection._shell)
    executable = connection._play_context.executable
    if connection.allow_executable and executable:
        command = f"{executable} -c {shlex.quote(command)}"
    return str(command)


def _translated(error: AnsibleError) -> BareforgeError:
    text = one_line(str(error))
    if isinstance(error, AnsibleAuthenticationFailure) or "Permission denied" in text:
        return AuthenticateError(f"the host refuses the login: {text}")
    if isinstance(error, AnsibleConnectionFailure):
        return ConnectError(f"the host cannot be reached: {text}")
    return AuthenticateError(f"there is no way in: {text}")


def _answer(status: int, output: bytes, errors: bytes, interpreter: str) -> dict[str, Any]:
    mark = MARK.encode()
    lines = [line for line in output.splitlines() if line.startswith(mark)]
    if lines:
        answer = json.loads(lines[-1][len(mark) :])
        if isinstance(answer, dict):
            return answer
    said = one_line(errors.decode("utf-8", "replace"))
    if status == NOT_FOUND:
        raise ReadError(f"there is no {interpreter} on the host: {said}", "Say which with ansible_python_interpreter")
    raise ReadError(f"{interpreter} on the host ended with status {status} and gave no answer: {said or 'no message'}")


def one_line(text: str) -> str:
    """Return the end of a message as one line."""
    line = " ".join(text.split())
    return line if len(line) <= MOST_SAID else f"...{line[-MOST_SAID:]}"
