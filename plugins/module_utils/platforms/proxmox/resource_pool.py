# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Resource pools (PVE::API2::Pool): groups of VMs for rights and overviews. PVE's have no shares and no limits."""

from __future__ import annotations

import re
from typing import Any, Collection, Dict, Iterable, Mapping, Sequence

from ...engine.change import Change
from ...engine.platform import Context, Interface
from ...errors import Problem
from ...model.compute import ResourcePool
from ...model.document import State
from ...model.types import show

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")


class ProxmoxResourcePools(Interface):
    """Reads and changes pools. PVE names them by their whole path, the model by their last part."""

    KINDS = ("resource_pool",)
    CAPABILITIES = frozenset({"resource_pool"})

    def __init__(self, platform: Any) -> None:
        self.platform = platform
        self._paths: Dict[str, str] = {}

    def read(self, kinds: Collection[str], names: Mapping[str, Collection[str]]) -> State:
        found: Dict[Any, Any] = {}
        self._paths = {}
        for entry in self.platform.session.get("pools"):
            path = str(entry["poolid"])
            parent, _slash, name = path.rpartition("/")
            if name in self._paths:
                # Two pools of one name below different ones: the model tells them by their whole path.
                name = path
            self._paths[name] = path
            pool = ResourcePool(
                name=name, parent=parent.rpartition("/")[2] or None, description=str(entry.get("comment") or "") or None
            )
            found[pool.key] = pool
        return {"resource_pool": found}

    def path_of(self, name: str) -> str:
        """Return the id of a pool that was read or made."""
        return self._paths.get(name, name)

    def validate(self, change: Change, context: Context) -> Iterable[Problem]:
        pool = change.after
        if not isinstance(pool, ResourcePool):
            return
        if change.before is None and not NAME.fullmatch(str(pool.name)):
            yield Problem(
                pool.place.field("name").text,
                f"{show(pool.name)} is no name of a pool; allowed are letters, digits, _, - and ., with a letter first",
            )
        if change.before is not None and "parent" in change.fields:
            yield Problem(pool.place.field("parent").text, "cannot change: Proxmox VE moves no pools; make another one")
        depth, parent = 1, pool.parent
        while parent and depth < 8:
            depth += 1
            parent = getattr(context.find("resource_pool", parent), "parent", None)
        if depth > 3:
            yield Problem(
                pool.place.field("parent").text, "would be more than three pools in one another, which is the most"
            )

    def apply(self, changes: Sequence[Change], context: Context) -> None:
        session = self.platform.session
        for change in changes:
            context.begin(change)
            pool = change.after
            name = change.item.label
            if not isinstance(pool, ResourcePool):
                session.delete("pools", poolid=self.path_of(name))
            elif change.before is None:
                path = f"{self.path_of(pool.parent)}/{name}" if pool.parent else name
                session.post("pools", poolid=path, comment=pool.description or None)
                self._paths[name] = path
            else:
                session.put("pools", poolid=self.path_of(name), comment=pool.description or "")
            context.done(change)
