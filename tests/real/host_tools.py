# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What real tests use on the host; copied there, so it imports nothing of the tests."""

from __future__ import annotations

import subprocess
from typing import Any, Optional, Sequence

from ansible_collections.bareforge.hypervisor.plugins.module_utils.engine.runner import Request, run
from ansible_collections.bareforge.hypervisor.plugins.module_utils.engine.runner import gather as engine_gather
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.document import Document
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.operation import Operation
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.kvm.platform import KvmPlatform


def apply(
    document: Any, exact: Sequence[str] = (), check: bool = False, operation: Optional[Any] = None, **settings: Any
) -> Any:
    """Bring this host to what a document says and return the result; the guard is off unless the operation says so."""
    options = Operation.parse({"guard": {"enabled": False}, **(operation or {})})
    platform = KvmPlatform(settings)
    try:
        return run(platform, Request(Document.parse(document, list(exact)), options, check))
    finally:
        platform.close()


def gather(kinds: Sequence[str] = ()) -> Any:
    """Return the objects of this host as a document."""
    platform = KvmPlatform()
    try:
        return engine_gather(platform, tuple(kinds))
    finally:
        platform.close()


def output(*argv: str, check: bool = True, timeout: float = 120) -> str:
    """Run a program and return its output, stripped."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=timeout)
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)}: {done.returncode}: {done.stdout} {done.stderr}")
    return done.stdout.strip()
