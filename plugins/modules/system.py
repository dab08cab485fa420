#!/usr/bin/python
# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: system
short_description: Manage the host itself
version_added: 0.1.0
description:
  - Sets the host's name and domain, its DNS and time servers, its time zone, where its log is sent, and whether services run
    and start with the host.
  - On KVM the services are units of systemd. What the host has already is used, which is systemd-resolved or
    C(/etc/resolv.conf), systemd-timesyncd or chrony, and rsyslog.
  - Services that are not named are left alone, and what the host is managed through is not stopped.
  - What the platform cannot do is refused by name before anything is changed.
author: Bareforge contributors (@bareforge)
extends_documentation_fragment:
  - bareforge.hypervisor.attributes
  - bareforge.hypervisor.system
  - bareforge.hypervisor.platform
seealso:
  - module: bareforge.hypervisor.host
    description: Converges a whole host in one task, which is much faster than one task an object.
"""

EXAMPLES = r"""
- name: Name, name servers, time and log
  bareforge.hypervisor.system:
    hostname: hv1
    domain: example.org
    dns_servers: [192.0.2.53, "2001:db8::53"]
    dns_search: [example.org]
    ntp_servers: [ntp1.example.org, ntp2.example.org]
    timezone: Europe/Berlin
    syslog_servers:
      - host: log.example.org
        port: 514
        protocol: tcp

- name: A service that runs now and after every start
  bareforge.hypervisor.system:
    services:
      - name: rsyslog
        running: true
        start_at_boot: true

- name: What the host is called
  bareforge.hypervisor.system:
    state: gathered
  register: found
"""

RETURN = r"""
changes:
  description: What was changed, or would be in check mode, in this order.
  returned: with O(state) other than V(gathered)
  type: list
  elements: dict
  contains:
    kind:
      description: The kind of the object.
      type: str
      sample: system
    key:
      description: Its key; the parts of a key of several are joined by slashes.
      type: str
      sample: ""
    action:
      description: V(create), V(update) or V(delete).
      type: str
      sample: update
    fields:
      description: The paths, below the object, of the fields that differ.
      type: list
      elements: str
      sample: [ntp_servers]
    needs:
      description: What the change takes beside itself, V(power_cycle) of the VM or V(host_reboot).
      returned: when it takes anything
      type: list
      elements: str
before:
  description: The objects that differ as they were, as a document; those that were not there are not in it.
  returned: with O(state) other than V(gathered)
  type: dict
after:
  description: The same objects as the host shows them now, or as they are planned in check mode.
  returned: with O(state) other than V(gathered)
  type: dict
system:
  description: What is there, in the form in which it is accepted as input.
  returned: with O(state=gathered)
  type: dict
phase:
  description:
    - Where the task broke off. V(validate) means that nothing was changed.
    - One of V(connect), V(authenticate), V(read), V(validate), V(apply), V(verify), V(guard) and V(internal).
  returned: failure
  type: str
  sample: validate
problems:
  description: Everything that is wrong with what was asked.
  returned: failure with phase V(validate)
  type: list
  elements: dict
  contains:
    path:
      description: Where in the document it stands.
      type: str
      sample: system.services['cron']
    message:
      description: What is wrong there, and what is allowed.
      type: str
      sample: must be given
changes_made:
  description: The changes that were complete when the task broke off, each as in RV(changes).
  returned: failure after changes had begun
  type: list
  elements: dict
"""

from ansible_collections.bareforge.hypervisor.plugins.module_utils.boundary.module import run_module


def main() -> None:
    run_module("system")


if __name__ == "__main__":
    main()
