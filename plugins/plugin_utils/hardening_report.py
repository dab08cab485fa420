# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reports of hardening: a page for people, JSON, CSV, and SARIF 2.1.0 for programs that collect findings."""

from __future__ import annotations

import contextlib
import csv
import datetime
import io
import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from ansible_collections.bareforge.hypervisor.plugins.module_utils.hardening.evaluation import (
    ERROR,
    EXCEPTION,
    FAIL,
    FIXED,
    NOT_APPLICABLE,
    PASS,
)
from ansible_collections.bareforge.hypervisor.plugins.module_utils.hardening.profile import SEVERITIES

FORMAT = 1
SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
INFORMATION = "https://github.com/bareforge/hypervisor/tree/main/docs/hardening.md"

BROKEN = (FAIL, ERROR)

SARIF_LEVELS = {"critical": "error", "high": "error", "medium": "warning", "low": "note"}
SARIF_SEVERITIES = {"critical": "9.5", "high": "8.0", "medium": "5.5", "low": "2.5"}

STATUS_WORDS = {
    FAIL: "Not followed",
    ERROR: "Error",
    FIXED: "Mended",
    PASS: "Followed",
    EXCEPTION: "Exception",
    NOT_APPLICABLE: "Does not apply",
}

CATALOGUES = {
    "cis-debian12": "CIS Debian 12",
    "cis-debian13": "CIS Debian 13",
    "cis-ubuntu2404": "CIS Ubuntu 24.04",
    "complianceascode": "ComplianceAsCode",
    "dev-sec": "DevSec",
    "libvirt": "libvirt",
}

CSV_COLUMNS = (
    "host",
    "id",
    "title",
    "severity",
    "status",
    "setting",
    "found",
    "expected",
    "before",
    "message",
    "remedy",
    "sources",
    "tags",
    "exception_reason",
    "exception_expires",
    "exception_approved_by",
)

Report = dict[str, Any]


def build_report(result: Mapping[str, Any], host: str, generated: str) -> Report:
    """Return the report of a run.

    result: the task's result. host: the host's name in the inventory. generated: date and time (ISO 8601).
    """
    return {
        "format": FORMAT,
        "host": host,
        "generated": generated,
        "mode": result["mode"],
        "profile": dict(result["profile"]),
        "system": dict(result.get("host") or {}),
        "score": result["score"],
        "rules": list(result["rules"]),
        "changes": list(result.get("changes") or ()),
    }


def compare(previous: Mapping[str, Any], report: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is different from a previous report of the same host.

    The rules that are followed now and were not, the other way round, those that are new and those that are gone.
    """
    before = {rule["id"]: rule["status"] for rule in previous["rules"]}
    now = {rule["id"]: rule["status"] for rule in report["rules"]}
    both = [rule for rule in now if rule in before]
    return {
        "generated": previous["generated"],
        "mode": previous["mode"],
        "profile": {name: previous["profile"][name] for name in ("name", "version", "sha256")},
        "percent": previous["score"]["percent"],
        "better": [rule for rule in both if before[rule] in BROKEN and now[rule] not in BROKEN],
        "worse": [rule for rule in both if before[rule] not in BROKEN and now[rule] in BROKEN],
        "added": [rule for rule in now if rule not in before],
        "removed": [rule for rule in before if rule not in now],
    }


def read_previous(path: Path, host: str) -> dict[str, Any] | None:
    """Return a report that was written earlier, or None where there is none of this host that can be understood."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        if report["format"] != FORMAT or report["host"] != host:
            return None
        compare(report, report)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return dict(report)


def write_reports(prefix: Path, formats: Sequence[str], report: Report) -> dict[str, str]:
    """Write the reports and return their paths by format.

    prefix: the path to which a dot and the format are added. The comparison with what stood in the JSON report before is
    added to the report. Raises OSError.
    """
    paths = {name: prefix.with_name(f"{prefix.name}.{name}") for name in formats}
    previous = read_previous(prefix.with_name(f"{prefix.name}.json"), str(report["host"]))
    whole = {**report, "previous": compare(previous, report) if previous else None}
    prefix.parent.mkdir(parents=True, exist_ok=True)
    for name, path in paths.items():
        _replace(path, RENDERERS[name](whole))
    return {name: str(path) for name, path in paths.items()}


def _replace(path: Path, text: str) -> None:
    number, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(number, "w", encoding="utf-8", newline="") as file:
            file.write(text)
        os.chmod(temporary, 0o640)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def render_json(report: Report) -> str:
    """Return the report as JSON."""
    return json.dumps(report, indent=2, ensure_ascii=False) + "\n"


def render_csv(report: Report) -> str:
    """Return the report as CSV (RFC 4180), one line a rule."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(CSV_COLUMNS)
    for rule in report["rules"]:
        exception = rule.get("exception") or rule.get("expired_exception") or {}
        row = {
            **rule,
            "host": report["host"],
            "sources": " ".join(rule["sources"]),
            "tags": " ".join(rule["tags"]),
            **{f"exception_{name}": exception.get(name, "") for name in ("reason", "expires", "approved_by")},
        }
        writer.writerow([_cell(row.get(name, "")) for name in CSV_COLUMNS])
    return text.getvalue()


def _cell(value: Any) -> str:
    """Return the text of a cell. What a spreadsheet would take for a formula gets an apostrophe; numbers stay numbers."""
    text = str(value)
    if text[:1] in ("=", "+", "-", "@", "\t", "\r") and not re.fullmatch(r"-?[0-9]+", text):
        return f"'{text}"
    return text


def render_sarif(report: Report) -> str:
    """Return the report as SARIF 2.1.0 (OASIS standard): every rule with its result; exceptions are suppressions."""
    profile, host = report["profile"], report["host"]
    rules = [
        {
            "id": rule["id"],
            "shortDescription": {"text": rule["title"]},
            "fullDescription": {"text": rule["rationale"]},
            "help": {"text": rule["remedy"]},
            "defaultConfiguration": {"level": SARIF_LEVELS[rule["severity"]]},
            "properties": {
                "tags": [*rule["tags"], *rule["sources"]],
                "security-severity": SARIF_SEVERITIES[rule["severity"]],
            },
        }
        for rule in report["rules"]
    ]
    run = {
        "tool": {
            "driver": {
                "name": "Bareforge hardening",
                "informationUri": INFORMATION,
                "semanticVersion": _semantic(str(profile["version"])),
                "rules": rules,
            }
        },
        "automationDetails": {"id": f"{profile['name']}/{host}/"},
        "invocations": [{"executionSuccessful": True, "endTimeUtc": re.sub(r"\+00:00$", "Z", report["generated"])}],
        "properties": {"profile": profile, "score": report["score"]["percent"], "system": report["system"]},
        "results": [_sarif_result(number, rule, host) for number, rule in enumerate(report["rules"])],
    }
    return json.dumps({"$schema": SARIF_SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2, ensure_ascii=False) + "\n"


def _semantic(version: str) -> str:
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+){0,2})([-+].*)?", version)
    if match is None:
        return "0.0.0"
    return ".".join([*match.group(1).split("."), "0", "0"][:3]) + (match.group(2) or "")


def _sarif_result(number: int, rule: Mapping[str, Any], host: str) -> dict[str, Any]:
    status = rule["status"]
    text = f"{rule['title']}: found {rule['found']}, expected {rule['expected']}."
    if rule.get("message"):
        text = f"{text} {rule['message']}."
    result: dict[str, Any] = {
        "ruleId": rule["id"],
        "ruleIndex": number,
        "message": {"text": text},
        "locations": [
            {"logicalLocations": [{"name": rule["setting"], "fullyQualifiedName": f"{host}/{rule['setting']}"}]}
        ],
        "partialFingerprints": {"hostRule/v1": f"{host}/{rule['id']}"},
        "properties": {"status": status, "found": rule["found"], "expected": rule["expected"]},
    }
    if status in (FAIL, ERROR, EXCEPTION):
        result.update(kind="fail", level=SARIF_LEVELS[rule["severity"]])
    elif status == NOT_APPLICABLE:
        result.update(kind="notApplicable", level="none")
    else:
        result.update(kind="pass", level="none")
    exception = rule.get("exception")
    if exception:
        result["suppressions"] = [
            {
                "kind": "external",
                "status": "accepted",
                "justification": f"{exception['reason']} (until {exception['expires']})",
            }
        ]
    return result


def source_words(source: str) -> str:
    """Return a source as it is shown to people."""
    catalogue, _colon, number = source.partition(":")
    return f"{CATALOGUES.get(catalogue, catalogue)} {number}".strip()


def moment_words(moment: str) -> str:
    """Return date and time (ISO 8601) as they are shown to people."""
    try:
        parsed = datetime.datetime.fromisoformat(moment)
    except ValueError:
        return moment  # of a report that somebody has edited
    return parsed.astimezone(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


def _sections(rules: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the rules by what became of them, the worst first."""
    order = {severity: number for number, severity in enumerate(SEVERITIES)}
    parts: list[tuple[str, str, Sequence[str]]] = [
        ("broken", "Not followed", BROKEN),
        ("exceptions", "Exceptions", (EXCEPTION,)),
        ("followed", "Followed", (FIXED, PASS)),
        ("not-applicable", "Does not apply", (NOT_APPLICABLE,)),
    ]
    return [
        {
            "anchor": anchor,
            "title": title,
            "rules": sorted(
                (rule for rule in rules if rule["status"] in statuses),
                key=lambda rule: (rule["status"] == PASS, order[rule["severity"]]),
            ),
        }
        for anchor, title, statuses in parts
    ]


def render_html(report: Report) -> str:
    """Return the report as a page that stands by itself: no scripts, nothing loaded from elsewhere."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(source=source_words, moment=moment_words)
    package = resources.files("ansible_collections.bareforge.hypervisor")
    text = (package / "plugins" / "plugin_utils" / "hardening_report.html.j2").read_text(encoding="utf-8")
    sections = _sections(report["rules"])
    return environment.from_string(text).render(
        report=report,
        sections=sections,
        severities=SEVERITIES,
        words=STATUS_WORDS,
        titles={rule["id"]: rule["title"] for rule in report["rules"]},
    )


RENDERERS: dict[str, Callable[[Report], str]] = {
    "html": render_html,
    "json": render_json,
    "csv": render_csv,
    "sarif": render_sarif,
}
