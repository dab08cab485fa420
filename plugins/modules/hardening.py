#!/usr/bin/python
# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: hardening
short_description: Audit and enforce a hardening profile, and take it back
version_added: 0.1.0
description:
  - Compares a host with a profile, which is a list of rules as data, and tells for every rule what was found, what is
    expected and how to mend it. A profile of one's own can extend one of the collection.
  - All rules are read in one pass over the host.
  - What is enforced can be taken back. Files come back byte by byte, with their mode and owner, also after a run that
    was killed. A file that somebody else has changed in the meantime is left alone and told.
  - The SSH server is asked whether it accepts its new configuration before that is put in place. The change stays only
    after the controller has logged in anew and confirmed it; otherwise the host undoes it by itself.
  - A rule that fails does not stop the others; the task fails at the end and names all that failed. What only people can
    mend is a warning.
  - Reports for people and for programs are written on the controller.
author: Bareforge contributors (@bareforge)
extends_documentation_fragment:
  - bareforge.hypervisor.attributes
  - bareforge.hypervisor.hardening
  - bareforge.hypervisor.platform
notes:
  - A task with O(mode=audit) never changes the host. Reports do not count as a change.
seealso:
  - module: bareforge.hypervisor.firewall
"""

EXAMPLES = r"""
- name: See how the host stands, and write a page for the security officer
  bareforge.hypervisor.hardening:
    profile: foundation
    report: "reports/{{ inventory_hostname }}"

- name: Enforce the profile, except for what the backup software needs until the end of the year
  bareforge.hypervisor.hardening:
    profile: foundation
    mode: enforce
    exceptions:
      - rule: sshd-strong-macs
        reason: The backup appliance knows SHA-1 only; its successor is ordered.
        expires: "2026-12-31"
        approved_by: Chief information security officer

- name: Enforce a profile of one's own, but only its rules about libvirt
  bareforge.hypervisor.hardening:
    profile: profiles/our-hosts.yml
    mode: enforce
    tags: [libvirt]

- name: Take everything back
  bareforge.hypervisor.hardening:
    profile: foundation
    mode: revert
"""

RETURN = r"""
rules:
  description: What became of every rule.
  returned: success, and failure while rules are enforced or reverted
  type: list
  elements: dict
  contains:
    id:
      description: The rule's id.
      type: str
      sample: kernel-pointers-hidden
    title:
      description: What it demands.
      type: str
    severity:
      description: V(critical), V(high), V(medium) or V(low).
      type: str
    status:
      description:
        - V(pass), V(fail), V(fixed) by this run, V(exception), V(not_applicable) or V(error).
      type: str
    setting:
      description: What was read.
      type: str
      sample: sysctl kernel.kptr_restrict
    found:
      description: What was found.
      type: str
      sample: "0"
    before:
      description: What was found before this run.
      returned: when that was something else
      type: str
    expected:
      description: What is expected, in words.
      type: str
      sample: one of 1, 2
    message:
      description: Why it failed, or why it does not apply.
      returned: when there is something to say
      type: str
    notes:
      description: What else should be known, such as that a value will change at the next start.
      returned: when there is something to say
      type: list
      elements: str
    planned:
      description: Whether it would be set, or taken back.
      returned: in check mode, when it would
      type: bool
    enforceable:
      description: Whether enforcing can set it.
      type: bool
    remedy:
      description: How to mend it by hand.
      type: str
    rationale:
      description: What an attacker gains where it is broken.
      type: str
    sources:
      description: Catalogues that ask for it, with their ids.
      type: list
      elements: str
    tags:
      description: Its tags.
      type: list
      elements: str
    exception:
      description: The exception that counts, as it was given.
      returned: with status V(exception)
      type: dict
    expired_exception:
      description: The exception that counted until it expired.
      returned: when there was one
      type: dict
score:
  description:
    - How many rules are followed. C(percent) weighs them by severity and leaves out exceptions and rules that do not
      apply.
    - The same counts for each severity are in C(by_severity).
  returned: success, and failure while rules are enforced or reverted
  type: dict
changes:
  description: What was changed, or would be in check mode, in this order.
  returned: success, and failure while rules are enforced or reverted
  type: list
  elements: dict
  contains:
    action:
      description: What was done.
      type: str
      sample: write /etc/sysctl.d/zz-bareforge-hardening.conf
    target:
      description: What was changed.
      type: str
    rules:
      description: The rules for which that was done.
      type: list
      elements: str
host:
  description: What is known of the host.
  returned: success, and failure while rules are enforced or reverted
  type: dict
profile:
  description: Name, version, title and SHA-256 of the profile.
  returned: success, and failure while rules are enforced or reverted
  type: dict
guard:
  description: The guard over the changes of the SSH server.
  returned: when such changes were made under the guard
  type: dict
  contains:
    guarded:
      description: The rules that were under the guard.
      type: list
      elements: str
      sample: [rule sshd-x11-off]
    confirmed:
      description: Whether the controller came back over a new connection and confirmed.
      type: bool
    seconds:
      description: How long that took.
      type: float
reports:
  description: The paths of the reports on the controller, by format.
  returned: with O(report), except in check mode
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
      description: Where it stands; in a profile with file and line.
      type: str
      sample: "our-hosts.yml:12: rules['a'].severity"
    message:
      description: What is wrong there, and what is allowed.
      type: str
"""

from ansible_collections.bareforge.hypervisor.plugins.module_utils.boundary.module import run_module


def main() -> None:
    run_module("hardening")


if __name__ == "__main__":
    main()
