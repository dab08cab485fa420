# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Values of Ansible made plain."""

from __future__ import annotations

import datetime
import pickle

import yaml
from ansible.template import trust_as_template

from ansible_collections.bareforge.hypervisor.plugins.plugin_utils.plain import as_text, plain


class Text(str):
    pass


class Number(int):
    pass


def test_subclasses_become_what_they_stand_for():
    value = plain({Text("a"): [Text("b"), Number(3), True, None, 1.5, (Text("c"),)]})
    assert value == {"a": ["b", 3, True, None, 1.5, ["c"]]}
    assert {type(each) for each in (*value, *value["a"][:2])} == {str, int}
    assert type(value["a"][5][0]) is str


def test_tagged_text_loses_its_tags():
    tagged = trust_as_template("{{ x }}")
    assert type(tagged) is not str
    assert type(plain(tagged)) is str
    assert pickle.loads(pickle.dumps(plain([tagged]))) == ["{{ x }}"]  # noqa: S301 - made in this line


def test_dates_become_text():
    assert plain(datetime.date(2027, 1, 31)) == "2027-01-31"


def test_text_of_a_document():
    document = {"virtual_switches": [{"name": "br-ä", "mtu": 1500}]}
    assert as_text(document) == "virtual_switches:\n- name: br-ä\n  mtu: 1500\n"
    assert yaml.safe_load(as_text(document)) == document
    assert as_text({}) == ""
