# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import ValidateError
from ansible_collections.bareforge.hypervisor.plugins.module_utils.hardening.target import HardeningTarget
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.registry import PLATFORMS, platform_class
from ansible_collections.bareforge.hypervisor.plugins.plugin_utils.hardening_profile import load_profile, read_source

ROOT = Path(__file__).resolve().parents[4]
SHIPPED = sorted((ROOT / "profiles").glob("*/*.yml"))

GOOD = """\
name: own
version: "1.0"
platform: kvm
title: A profile for tests
rules:
  - id: tries
    title: Few attempts are allowed
    severity: medium
    rationale: Because the test wants it so.
    sources: [dev-sec]
    tags: [sshd]
    setting: {kind: sshd_setting, keyword: MaxAuthTries}
    expected:
      at_most: 4
  - id: passwords
    title: Nobody logs in with a password
    severity: medium
    rationale: Because the test wants it so.
    sources: [dev-sec]
    tags: [sshd]
    setting: {kind: sshd_setting, keyword: PasswordAuthentication}
    expected: {equals: no}
"""


def target_of(platform):
    return next(cls for cls in platform_class(platform).INTERFACES if issubclass(cls, HardeningTarget))


def load(folder, text, name="own.yml", **others):
    (folder / name).write_text(text, encoding="utf-8")
    for other, content in others.items():
        (folder / f"{other}.yml").write_text(textwrap.dedent(content), encoding="utf-8")
    return load_profile(f"./{name}", "kvm", target_of("kvm"), folder)


def complaints(folder, text, **others):
    with pytest.raises(ValidateError) as caught:
        load(folder, text, **others)
    return [str(problem).replace(f"{folder}/", "") for problem in caught.value.problems]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_shipped_profiles_are_valid(path):
    assert path.parent.name in PLATFORMS
    data, checked = load_profile(path.stem, path.parent.name, target_of(path.parent.name), Path("/"))
    assert data["name"] == path.stem
    assert len(checked.checks) >= 15
    for check in checked.checks:
        assert check.remedy()
        assert check.settable or check.by_hand or not check.setting.SETTABLE


def test_there_are_shipped_profiles():
    assert any(path.parent.name == "kvm" for path in SHIPPED)


def test_words_stay_words(tmp_path):
    data, checked = load(tmp_path, GOOD)
    assert data["rules"][1]["expected"] == {"equals": "no"}
    assert checked.checks[1].expectation.words() == "no"
    source = read_source(
        "a: yes\nb: 2026-11-25\nc: 0640\nd: 1:30\ne: true\nf: 7\ng: null\nh: 1_000\ni: nope\nj: \n", "x"
    )
    assert source.data == {
        "a": "yes", "b": "2026-11-25", "c": "0640", "d": "1:30", "e": True, "f": 7, "g": None, "h": "1_000", "i": "nope",
        "j": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("severity: medium", "severity: urgent", "own.yml:8: rules['tries'].severity: 'urgent' is not allowed; allowed is"),
        ("at_most: 4", "at_mots: 4", "own.yml:14: rules['tries'].expected.at_mots: unknown for a text; allowed are"),
        ("at_most: 4", "at_most: many", "own.yml:14: rules['tries'].expected.at_most: 'many' is not allowed"),
        ("kind: sshd_setting, keyword: MaxAuthTries", "kind: sshd", "own.yml:12: rules['tries'].setting.kind: 'sshd' is not"),
        ("    title: Few attempts are allowed\n", "", "own.yml:6: rules['tries'].title: must be given"),
        ("sources: [dev-sec]", "sources: [dev-sec, 'No 1']", "own.yml:10: rules['tries'].sources[1]: 'No 1' is not allowed"),
        ("version:", "verison:", "own.yml:2: verison: unknown; known are"),
        ("platform: kvm", "platform: xen", "own.yml:3: platform: 'xen' is not allowed; the host's platform is kvm"),
        ("title: A profile", "title: A profile\ntitle: B", "own.yml:5: 'title' is said twice"),
        ("id: passwords", "id: tries", "own.yml:15: rules[1]: 'tries' is listed twice"),
        ("platform: kvm", "platform: [", "own.yml:5: is not YAML"),
        ("platform: kvm", "platform: !!python/object:os.system x", "own.yml:3: platform: tag 'tag:yaml.org,2002:python/object:os.system'"),
        ("platform: kvm", "? [a]\n: b", "own.yml:3: has a field whose name is no text"),
        ("tags: [sshd]\n    setting", "tags: &a [sshd, *a]\n    setting", "own.yml:11: rules['tries'].tags[1]: is used again"),
        ("title: A profile for tests", f"title: {'[' * 30}{']' * 30}", "own.yml:4: title[0][0][0]"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_file_and_line(tmp_path, old, new, message):
    assert old in GOOD
    found = complaints(tmp_path, GOOD.replace(old, new, 1))
    assert any(text.startswith(message) for text in found), found


@pytest.mark.parametrize("text", ["", "[]", "just text", "- a: 1"])
def test_a_profile_is_a_mapping(tmp_path, text):
    assert complaints(tmp_path, text) == ["own.yml:1: a profile is a mapping"]


def test_profiles_extend_others(tmp_path):
    own = """\
    extends: base.yml
    name: ours
    without: [passwords]
    rules:
      - id: tries
        title: Very few attempts are allowed
        severity: high
        rationale: Because the test wants it so.
        sources: [bareforge]
        tags: [sshd]
        setting: {kind: sshd_setting, keyword: MaxAuthTries}
        expected: {at_most: 2}
    exceptions:
      - {rule: tries, reason: Until the new bastion is there, expires: 2027-01-31}
    """
    data, checked = load(tmp_path, textwrap.dedent(own), base=GOOD)
    assert data["name"] == "ours"
    assert [(check.id, check.rule.severity) for check in checked.checks] == [("tries", "high")]
    assert [exception.expires for exception in checked.exceptions()] == ["2027-01-31"]


def test_what_is_wrong_in_an_overlay_is_told_where_it_stands(tmp_path):
    own = "extends: base.yml\nname: ours\nwithout: [gone]\n"
    assert complaints(tmp_path, own, base=GOOD) == [
        "own.yml:3: without[0]: 'gone' is not a rule of the extended profile"
    ]
    broken = GOOD.replace("at_most: 4", "at_mots: 4")
    (found,) = complaints(tmp_path, "extends: base.yml\nname: ours\n", base=broken)
    assert found.startswith("base.yml:14: rules['tries'].expected.at_mots")
    exceptions = (
        "extends: base.yml\nname: ours\nexceptions:\n  - {rule: x, reason: Long enough a reason, expires: 2027-01-01}\n"
    )
    (found,) = complaints(tmp_path, exceptions, base=GOOD)
    assert found == "own.yml:4: exceptions[0].rule: 'x' is not a rule of this profile"


def test_a_circle_of_overlays_is_refused(tmp_path):
    (found,) = complaints(tmp_path, "extends: base.yml\n", base="extends: own.yml\n")
    assert found.endswith("own.yml extends itself")


def test_a_shipped_profile_can_be_extended(tmp_path):
    data, checked = load(tmp_path, "extends: foundation\nname: ours\nwithout: [packages-telnet-server]\n")
    assert data["platform"] == "kvm"
    assert "packages-telnet-server" not in {check.id for check in checked.checks}


@pytest.mark.parametrize(
    "reference", ["nothing", "Foundation", "..", "foundation\n", "../kvm/foundation.yml", "/nowhere/a.yml"]
)
def test_a_profile_that_is_not_there_is_named(tmp_path, reference):
    with pytest.raises(ValidateError) as caught:
        load_profile(reference, "kvm", target_of("kvm"), tmp_path)
    assert "foundation" in caught.value.message or "cannot be read" in caught.value.message
