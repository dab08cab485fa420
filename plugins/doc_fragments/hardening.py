# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Written by tests/tools/generate_documentation.py from the model; change the descriptions there.

from __future__ import annotations


class ModuleDocFragment:
    """The options of the module hardening."""

    DOCUMENTATION = r"""
options:
  profile:
    description:
      - 'The rules: the name of a profile of the collection, such as V(foundation), or the path of one''s
        own on the controller, which has a slash in it or ends with C(.yml). A relative path starts from
        the playbook''s folder.'
    type: raw
    required: true
  mode:
    description:
      - With V(audit) nothing is changed. With V(enforce) what is not as expected is set, and what was
        before is saved on the host. With V(revert) that is brought back, byte by byte.
    type: str
    choices:
      - audit
      - enforce
      - revert
    default: audit
  rules:
    description:
      - The ids of the rules that the task is about; all by default.
      - Each entry is small letters and digits joined by single dots, dashes or underscores.
    type: list
    elements: str
  tags:
    description:
      - The task is about rules with any of these tags, beside those that O(rules) names.
      - Each entry is small letters and digits joined by single dots, dashes or underscores.
    type: list
    elements: str
  exceptions:
    description:
      - Rules that are deliberately not followed, beside the exceptions of the profile. They are not enforced.
    type: list
    elements: dict
    suboptions:
      rule:
        description:
          - The id of the rule.
          - Allowed is small letters and digits joined by single dots, dashes or underscores.
        type: str
        required: true
      reason:
        description:
          - Why it is not followed, in words that an auditor accepts.
        type: str
        required: true
      expires:
        description:
          - The last day on which it counts. From the next day on the rule counts as failed again. The
            word C(never) is for conflicts with what a hypervisor is for; it stands in profiles only,
            together with the day of a review.
          - Allowed is a date such as 2027-01-31, or never.
        type: str
        required: true
      reviewed:
        description:
          - The day on which somebody last judged it.
          - Allowed is a date such as 2027-01-31.
        type: str
      approved_by:
        description:
          - Who accepted it.
        type: str
  report:
    description:
      - 'Where to write reports on the controller: a path to which the ending of each format is added.
        Nothing is written in check mode. A report in JSON that is there already is what this run is compared
        with.'
    type: str
  formats:
    description:
      - The formats of the reports.
    type: list
    elements: str
    choices:
      - html
      - json
      - csv
      - sarif
    default:
      - html
      - json
      - csv
      - sarif
  guard:
    description:
      - The guard over the management path.
    type: dict
    suboptions:
      enabled:
        description:
          - Whether the host undoes a change to its management path by itself unless the controller comes
            back and confirms.
          - The default is V(true).
        type: bool
      timeout:
        description:
          - After how many seconds without confirmation the host undoes it.
          - Allowed is a whole number from 10 to 600 (seconds).
          - The default is V(60).
        type: int
"""
