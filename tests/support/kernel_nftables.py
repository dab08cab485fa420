# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""nftables of this machine's own kernel, in network namespaces that live for one test."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.transports import nftables

DEBIAN_PACKAGES = Path("/usr/lib/python3/dist-packages")


def require() -> None:
    """Make Debian's python3-nftables importable, which PyPI does not have; skip the test where that cannot be."""
    if os.geteuid() != 0:
        pytest.skip("the kernel lets only root make network namespaces with rules in them")
    if "nftables" in sys.modules:
        return
    place = DEBIAN_PACKAGES / "nftables" / "__init__.py"
    if not place.exists():
        pytest.skip("the package python3-nftables is not installed")
    spec = importlib.util.spec_from_file_location("nftables", place, submodule_search_locations=[str(place.parent)])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["nftables"] = module
    spec.loader.exec_module(module)


def shown_as_text(
    commands: Sequence[nftables.Command], table: Tuple[str, str], devices: Sequence[str] = ()
) -> Dict[str, List[Tuple[str, str]]]:
    """Return what nft prints of a table after the commands: by chain, each rule without its comment, and the comment."""

    def work() -> str:
        opened = [nftables._make_tap(device) for device in devices]
        library: Any = nftables._library()
        code, _output, error = library.json_cmd(nftables.document(commands))
        assert code == 0, error
        library.set_json_output(False)
        code, output, error = library.cmd(f"list table {table[0]} {table[1]}")
        assert code == 0, error
        for descriptor in opened:
            os.close(descriptor)
        return str(output)

    chains: Dict[str, List[Tuple[str, str]]] = {}
    name = ""
    for line in nftables._in_network_namespace(work).splitlines():
        text = line.strip()
        if text.startswith("chain "):
            name = text.split()[1]
            chains[name] = []
        elif name and text and text != "}" and not text.startswith("type "):
            statement, _mark, comment = text.rpartition(' comment "')
            chains[name].append((statement, comment.rstrip('"')))
    return chains
