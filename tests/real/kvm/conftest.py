# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What tests of templates, VMs and snapshots on a real host share: a template, two networks, and tools on the host."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..real_host import REMOTE, RealHost

NETWORKS = {
    "virtual_switches": [{"name": "vmswitch", "type": "internal"}],
    "virtual_networks": [
        {"name": "red", "switch": "vmswitch", "vlan": 10},
        {"name": "blue", "switch": "vmswitch", "vlan": 20},
    ],
    "host_interfaces": [{"name": "vmred", "network": "red", "addresses": ["10.77.10.1/24"]}],
}


def remove_all() -> None:
    """Take away every VM, template and network that a test could have left."""
    import host_tools

    host_tools.apply(
        {
            "vms": [{**vm, "power": "stopped"} for vm in host_tools.gather(["vm"])["vms"]],
        },
        operation={"shutdown_timeout": 0},
    )
    host_tools.apply({"vms": []}, exact=["vm"])
    host_tools.apply({"templates": []}, exact=["template"])


@pytest.fixture(scope="module")
def tools(host: RealHost) -> Iterator[RealHost]:
    """The host, cleared of VMs, with the tools for guests on it."""
    text = (Path(__file__).parent / "guest_tools.py").read_text(encoding="utf-8")
    host.run("sh", "-c", f"cat > {REMOTE}/guest_tools.py", stdin=text)
    host.on_host(remove_all)
    yield host
    host.on_host(remove_all)


def tiny_source(host: RealHost) -> dict[str, Any]:
    """Return where the tiny guest's image comes from, as a template's document says it."""
    image = host.variables["lab_images"]["tiny-guest"]
    return {"source": {"url": image["url"]}, "checksum": image["checksum"]}


@pytest.fixture(scope="module")
def tiny(tools: RealHost) -> RealHost:
    """The host with the template `tiny` and the networks red (VLAN 10, the host is 10.77.10.1) and blue (VLAN 20)."""
    tools.apply({**NETWORKS, "templates": [{"name": "tiny", **tiny_source(tools)}]})
    return tools
