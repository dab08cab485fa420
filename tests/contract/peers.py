# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the contract runs against. A platform adds one class here: how its peer is reached, and the peer's facts."""

from __future__ import annotations

import inspect
import os
import tempfile
from pathlib import Path
from typing import Any

from ansible_collections.bareforge.hypervisor.plugins.module_utils.engine.runner import Request, gather, run
from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import ValidateError
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.document import Document
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.operation import Operation
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.platform import KvmPlatform
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.proxmox.platform import ProxmoxPlatform
from support.documents import apply, gathered
from support.memory_platform import MemoryHost, MemoryPlatform

KVM_INVENTORY = os.environ.get("BAREFORGE_TEST_HOST_INVENTORY")


class RefusedError(Exception):
    """The peer refused a document; problems are (path, message)."""

    def __init__(self, problems: list[Any]) -> None:
        self.problems = [(problem["path"], problem["message"]) for problem in problems]
        super().__init__(repr(self.problems))


def carry_out(tools: Any, document: Any, exact: Any, operation: Any, kinds: Any) -> Any:
    """Plan, apply, apply again, gather and apply back what was gathered; return the results of each.

    It stands by itself, since it is sent to hosts as text.
    """
    state = {"planned": tools.apply(document, exact=exact, check=True, operation=operation)}
    state["done"] = tools.apply(document, exact=exact, operation=operation)
    state["again"] = tools.apply(document, exact=exact, operation=operation)
    state["gathered"] = tools.gather(kinds)
    state["back"] = tools.apply(state["gathered"], operation=operation)
    return state


class Peer:
    """A host of a platform.

    without: fields, as `kind.field`, that the platform refuses though the model asks no ability for them; cases that have one
        are none of its.
    platform: its name; ran_against: `memory`, `real`, `independent` or `own`, as the capabilities' table has it.
    capabilities: what the platform declares. facts: what the cases' `$name` stand for.
    """

    platform = ""
    ran_against = ""
    capabilities: frozenset[str] = frozenset()
    without: frozenset[str] = frozenset()

    def facts(self) -> dict[str, Any]:
        """Return the peer's facts."""
        raise NotImplementedError

    def step(self, document: Any, exact: Any, operation: Any, kinds: Any) -> Any:
        """Return what :func:`carry_out` returns on the peer. Raises RefusedError."""
        raise NotImplementedError

    def apply(self, document: Any, operation: Any = None) -> Any:
        """Apply a document once. Raises RefusedError."""
        raise NotImplementedError

    def gather(self, kinds: list[str]) -> Any:
        """Return the peer's objects of those kinds."""
        raise NotImplementedError

    def close(self) -> None:
        """End what was started to reach the peer."""


class MemoryPeer(Peer):
    """The platform in memory."""

    platform = "memory"
    ran_against = "memory"
    capabilities = MemoryPlatform.declared_capabilities()

    def __init__(self) -> None:
        self.host = MemoryHost()
        self.tools = _MemoryTools(self.host)

    def facts(self) -> dict[str, Any]:
        return {
            "uplink1": "eth1",
            "uplink2": "eth2",
            "image_url": "https://example.org/tiny.qcow2",
            "image_checksum": f"sha256:{'0' * 64}",
            "privilege1": "vm.start",
            "privilege2": "vm.stop",
        }

    def step(self, document: Any, exact: Any, operation: Any, kinds: Any) -> Any:
        try:
            return carry_out(self.tools, document, exact, operation, kinds)
        except ValidateError as error:
            raise RefusedError(error.details["problems"]) from error

    def apply(self, document: Any, operation: Any = None) -> Any:
        return self.tools.apply(document, operation=operation)

    def gather(self, kinds: list[str]) -> Any:
        return self.tools.gather(kinds)


class _MemoryTools:
    def __init__(self, host: MemoryHost) -> None:
        self.host = host

    def apply(self, document: Any, exact: Any = (), check: bool = False, operation: Any | None = None) -> Any:
        return apply(self.host, document, exact, check, **{"guard": {"enabled": False}, **(operation or {})})

    def gather(self, kinds: Any) -> Any:
        return gathered(self.host, kinds)


class KvmPeer(Peer):
    """A real KVM host, reached by SSH; BAREFORGE_TEST_HOST_INVENTORY names the inventory that it is the first of."""

    platform = "kvm"
    ran_against = "real"
    capabilities = KvmPlatform.declared_capabilities()

    def __init__(self) -> None:
        from real.real_host import RealHost

        assert KVM_INVENTORY is not None
        self.host = RealHost.from_inventory(Path(KVM_INVENTORY))
        self.host.push()

    def facts(self) -> dict[str, Any]:
        image = self.host.variables["lab_images"]["tiny-guest"]
        return {
            "uplink1": "uplink0",
            "uplink2": "uplink1",
            "image_url": image["url"],
            "image_checksum": image["checksum"],
            "privilege1": "org.libvirt.api.domain.start",
            "privilege2": "org.libvirt.api.domain.stop",
        }

    def step(self, document: Any, exact: Any, operation: Any, kinds: Any) -> Any:
        source = inspect.getsource(carry_out) + (
            "\ndef main(**data):\n    import host_tools\n    return carry_out(host_tools, **data)\n"
        )
        return self._ask(
            f"from typing import Any\n{source}", document=document, exact=exact, operation=operation, kinds=kinds
        )

    def apply(self, document: Any, operation: Any = None) -> Any:
        source = "def main(**data):\n    import host_tools\n    return host_tools.apply(**data)\n"
        return self._ask(source, document=document, operation=operation)

    def gather(self, kinds: list[str]) -> Any:
        return self._ask(
            "def main(**data):\n    import host_tools\n    return host_tools.gather(**data)\n", kinds=kinds
        )

    def _ask(self, source: str, **data: Any) -> Any:
        from real.real_host import OnHostError

        try:
            return self.host.on_host(source, **data)
        except OnHostError as error:
            if error.kind in ("ValidateError", "NotSupportedError"):
                raise RefusedError(error.details["problems"]) from error
            raise

    def close(self) -> None:
        self.host.close()


class ProxmoxPeer(Peer):
    """A node of Proxmox VE that fakepve and our handlers play."""

    platform = "proxmox"
    ran_against = "own"
    capabilities = ProxmoxPlatform.declared_capabilities()
    without = frozenset({"role.description", "system.ntp_servers", "backup.target"})

    def __init__(self) -> None:
        from peers.pve import Serving

        self.serving = Serving()
        self.logins = tempfile.TemporaryDirectory()
        self.settings = {**self.serving.settings, "session_folder": self.logins.name}

    def facts(self) -> dict[str, Any]:
        return {
            "uplink1": "eno2",
            "uplink2": "eno3",
            "image_url": "https://example.org/tiny.qcow2",
            "image_checksum": f"sha256:{'0' * 64}",
            "privilege1": "VM.PowerMgmt",
            "privilege2": "VM.Console",
        }

    def step(self, document: Any, exact: Any, operation: Any, kinds: Any) -> Any:
        try:
            return carry_out(_ProxmoxTools(self.settings), document, exact, operation, kinds)
        except ValidateError as error:
            raise RefusedError(error.details["problems"]) from error
        finally:
            assert not self.serving.peer.violations, self.serving.peer.violations

    def apply(self, document: Any, operation: Any = None) -> Any:
        return _ProxmoxTools(self.settings).apply(document, operation=operation)

    def gather(self, kinds: list[str]) -> Any:
        return _ProxmoxTools(self.settings).gather(kinds)

    def close(self) -> None:
        self.serving.close()
        self.logins.cleanup()


class _ProxmoxTools:
    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings

    def apply(self, document: Any, exact: Any = (), check: bool = False, operation: Any | None = None) -> Any:
        options = Operation.parse({"guard": {"enabled": False}, **(operation or {})})
        platform = ProxmoxPlatform(self.settings)
        try:
            return run(platform, Request(Document.parse(document, exact), options, check))
        finally:
            platform.close()

    def gather(self, kinds: Any) -> Any:
        platform = ProxmoxPlatform(self.settings)
        try:
            return gather(platform, kinds)
        finally:
            platform.close()


PEERS = {"memory": MemoryPeer, "proxmox": ProxmoxPeer, **({"kvm": KvmPeer} if KVM_INVENTORY else {})}
"""The peers that can be reached here. Those without a host always can."""
