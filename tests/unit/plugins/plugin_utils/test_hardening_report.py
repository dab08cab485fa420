# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import copy
import csv
import io
import json
from html.parser import HTMLParser
from pathlib import Path

import jsonschema
import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.hardening.evaluation import STATUSES, score
from ansible_collections.bareforge.hypervisor.plugins.plugin_utils.hardening_report import (
    CSV_COLUMNS,
    build_report,
    compare,
    render_csv,
    render_html,
    render_sarif,
    write_reports,
)

HOSTILE = "</code><script>alert(1)</script>\"'&{{ 7*7 }}{% raw %}"
DATA = Path(__file__).parents[2] / "data"
MOMENT = "2026-11-25T03:04:05+00:00"


def rule(name, status="pass", severity="medium", **fields):
    return {
        "id": name,
        "title": f"Rule {name} is followed",
        "severity": severity,
        "status": status,
        "setting": f"sysctl {name}",
        "found": "1",
        "expected": "2",
        "sources": ["cis-debian12:1.5.1", "dev-sec"],
        "tags": ["kernel"],
        "rationale": "Because.",
        "remedy": "Set it.",
        "enforceable": True,
        **fields,
    }


def report(*rules, host="kvm1", generated=MOMENT, **fields):
    result = {
        "mode": "audit",
        "rules": list(rules),
        "score": score(rules),
        "changes": [],
        "host": {"name": "kvm1", "system": "Debian 12", "kernel": "6.1", "machine": "x86_64"},
        "profile": {"name": "own", "version": "1.2", "title": "A profile", "sha256": "0" * 64},
        **fields,
    }
    return {**build_report(result, host, generated), "previous": None}


def every_status():
    exception = {"rule": "e", "reason": "Needed for now", "expires": "2027-01-31", "approved_by": "CISO"}
    return report(
        rule("a", "fail", "critical", message="has to be mended by hand"),
        rule("b", "error", "high", notes=["odd"]),
        rule("c", "fixed", "medium", before="0"),
        rule("d", "pass", "low"),
        rule("e", "exception", "high", exception=exception),
        rule("f", "not_applicable", found="not looked at", message="applies only to: x"),
        rule("g", "fail", expired_exception={"rule": "g", "reason": "Was needed", "expires": "2026-01-31"}),
    )


class Page(HTMLParser):
    """Collects the tags of a page with their attributes, and its text."""

    VOID = ("meta", "link", "br", "img", "input", "hr")

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.open = [], "", []
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_page_tells_everything_and_loads_nothing():
    page = Page(render_html(every_status()))
    for text in (
        "kvm1", "own 1.2", "2026-11-25 03:04 UTC", "Debian 12", "has to be mended by hand", "odd", "CIS Debian 12 1.5.1",
        "Exception until 2027-01-31", "CISO", "Needed for now", "The exception expired on 2026-01-31", "Was needed",
        "applies only to: x",
    ):  # fmt: skip
        assert text in page.text, text
    names = {name for _tag, attributes in page.tags for name in attributes}
    assert not names & {"src", "srcset", "onclick", "onload", "data", "action"}
    assert all(attributes["href"].startswith("#") for _tag, attributes in page.tags if "href" in attributes)
    assert not {tag for tag, _attributes in page.tags} & {"script", "link", "img", "iframe", "object"}


def test_links_and_labels_of_the_page_lead_somewhere():
    whole = every_status()
    whole["previous"] = compare(report(rule("a"), rule("d", "fail"), rule("z")), whole)
    page = Page(render_html(whole))
    ids = [attributes["id"] for _tag, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    anchors = [attributes["href"][1:] for _tag, attributes in page.tags if "href" in attributes]
    labels = [attributes["aria-labelledby"] for _tag, attributes in page.tags if "aria-labelledby" in attributes]
    assert {"rule-a", "rule-d", "rules"} <= set(anchors)
    # A section without rules is not on the page; every status has one here.
    assert set(anchors) | set(labels) <= set(ids)
    assert dict(page.tags)["html"]["lang"] == "en"
    assert len([tag for tag, _attributes in page.tags if tag == "h1"]) == 1


def test_an_empty_section_has_no_link():
    page = Page(render_html(report(rule("a"))))
    ids = {attributes["id"] for _tag, attributes in page.tags if "id" in attributes}
    anchors = {attributes["href"][1:] for _tag, attributes in page.tags if "href" in attributes}
    assert anchors <= ids


@pytest.mark.parametrize("field", ["title", "found", "expected", "setting", "rationale", "remedy", "message", "before"])
def test_hostile_values_stay_text_everywhere(field):
    whole = report(rule("a", "fail", **{field: HOSTILE}), host=HOSTILE)
    page = Page(render_html(whole))
    assert "script" not in {tag for tag, _attributes in page.tags}
    assert HOSTILE in page.text
    assert json.loads(render_sarif(whole))["runs"][0]["tool"]["driver"]["rules"][0]["id"] == "a"
    (row,) = csv.DictReader(io.StringIO(render_csv(whole)))
    assert row["host"] == HOSTILE


@pytest.mark.parametrize(
    ("value", "shown"), [("=1+1", "'=1+1"), ("@x", "'@x"), ("-1", "-1"), ("+a", "'+a"), ("-a", "'-a")]
)
def test_spreadsheets_do_not_calculate_with_cells(value, shown):
    (row,) = csv.DictReader(io.StringIO(render_csv(report(rule("a", found=value)))))
    assert row["found"] == shown


def test_csv_has_one_line_a_rule():
    rows = list(csv.DictReader(io.StringIO(render_csv(every_status()))))
    assert [row["status"] for row in rows] == ["fail", "error", "fixed", "pass", "exception", "not_applicable", "fail"]
    assert tuple(rows[0]) == CSV_COLUMNS
    assert rows[4]["exception_reason"] == "Needed for now"


def test_sarif_has_what_the_standard_requires():
    log = json.loads(render_sarif(every_status()))
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    driver = run["tool"]["driver"]
    assert driver["semanticVersion"] == "1.2.0"
    assert {entry["status"] for entry in every_status()["rules"]} == set(STATUSES)
    kinds = {}
    for result in run["results"]:
        assert driver["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["level"] in ("none", "note", "warning", "error")
        assert (result["level"] == "none") == (result["kind"] != "fail")
        kinds[result["ruleId"]] = (result["kind"], result["level"])
    assert kinds == {
        "a": ("fail", "error"), "b": ("fail", "error"), "c": ("pass", "none"), "d": ("pass", "none"),
        "e": ("fail", "error"), "f": ("notApplicable", "none"), "g": ("fail", "warning"),
    }  # fmt: skip
    suppressed = [result["ruleId"] for result in run["results"] if result.get("suppressions")]
    assert suppressed == ["e"]
    assert run["invocations"][0]["endTimeUtc"] == "2026-11-25T03:04:05Z"


@pytest.mark.parametrize(
    "whole", [every_status(), report(rule("a", "fail", title=HOSTILE, found=HOSTILE), host=HOSTILE)]
)
def test_sarif_follows_the_schema_of_the_standard(whole):
    schema = json.loads((DATA / "schemas" / "sarif-2.1.0.json").read_text(encoding="utf-8"))
    checker = jsonschema.Draft4Validator(schema, format_checker=jsonschema.Draft4Validator.FORMAT_CHECKER)
    log = json.loads(render_sarif(whole))
    assert [f"{error.json_path}: {error.message}" for error in checker.iter_errors(log)] == []
    log["runs"][0]["results"][0]["kind"] = "sad"
    assert len(list(checker.iter_errors(log))) == 1, "the schema finds what is wrong"


def test_the_next_report_compares_with_the_one_before(tmp_path):
    prefix = tmp_path / "new" / "kvm1"
    first = report(rule("a", "fail"), rule("b"), rule("c"), generated="2026-11-24T00:00:00+00:00")
    paths = write_reports(prefix, ["html", "json"], first)
    assert json.loads((tmp_path / "new/kvm1.json").read_text())["previous"] is None
    assert set(paths) == {"html", "json"}
    second = report(rule("a"), rule("b", "error"), rule("d"))
    write_reports(prefix, ["html", "json", "csv", "sarif"], second)
    previous = json.loads((tmp_path / "new/kvm1.json").read_text())["previous"]
    assert (previous["better"], previous["worse"], previous["added"], previous["removed"]) == (
        ["a"],
        ["b"],
        ["d"],
        ["c"],
    )
    assert previous["generated"] == "2026-11-24T00:00:00+00:00"
    assert "Since the previous run" in (tmp_path / "new/kvm1.html").read_text()
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "kvm1.csv",
        "kvm1.html",
        "kvm1.json",
        "kvm1.sarif",
    ]


@pytest.mark.parametrize("old", ["", "{}", "[]", '{"format": 1}', "not json"])
def test_what_is_no_report_is_not_compared_with(tmp_path, old):
    (tmp_path / "kvm1.json").write_text(old)
    write_reports(tmp_path / "kvm1", ["json"], report(rule("a")))
    assert json.loads((tmp_path / "kvm1.json").read_text())["previous"] is None


def test_a_report_of_another_host_is_not_compared_with(tmp_path):
    write_reports(tmp_path / "r", ["json"], report(rule("a"), host="other"))
    write_reports(tmp_path / "r", ["json"], report(rule("a")))
    assert json.loads((tmp_path / "r.json").read_text())["previous"] is None


def test_building_a_report_leaves_the_result_alone():
    result = {"mode": "audit", "rules": [rule("a")], "score": score([rule("a")]), "profile": {"name": "x"}, "host": {}}
    before = copy.deepcopy(result)
    build_report(result, "kvm1", MOMENT)
    assert result == before
