# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A KVM host: Debian or Ubuntu with libvirt, Open vSwitch, systemd-networkd and nftables."""

from __future__ import annotations

from ...engine.platform import Platform


class KvmPlatform(Platform):
    """A KVM host. The engine runs on it, over Ansible's connection."""

    NAME = "kvm"
    RUNS_ON_HOST = True
    INTERFACES = ()
