# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The platforms whose engine runs on the host itself; imported by name, so that Ansible ships them with a module."""

from __future__ import annotations

from typing import Dict, Type

from ..engine.platform import Platform
from .kvm.platform import KvmPlatform

ON_HOST: Dict[str, Type[Platform]] = {cls.NAME: cls for cls in (KvmPlatform,)}
