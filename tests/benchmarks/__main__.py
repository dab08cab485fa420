# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run benchmarks: `python -m benchmarks [NAME ...]`, from `make bench`.

Prints one line a figure and writes them into docs/benchmarks.md. The exit status is 0 unless something could not be
measured at all.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks import inventory, kvm, proxmox, workers
from benchmarks.measure import ROOT, BenchmarkError, Figure

BENCHMARKS: dict[str, Callable[[], list[Figure]]] = {
    "in-worker-task": workers.in_worker_task,
    "one-task-for-a-host": kvm.one_task_for_a_host,
    "converged-host": kvm.converged_host,
    "eight-linked-clones": kvm.eight_linked_clones,
    "hardening-audit": kvm.hardening_audit,
    "incremental-backup": kvm.incremental_backup,
    "inventory": inventory.inventory_of_many_domains,
    "proxmox": proxmox.against_others,
}
PAGE = ROOT / "docs" / "benchmarks.md"
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"


def write_page(page: Path, lines: dict[str, list[str]]) -> None:
    """Put the lines of the benchmarks that ran in the place of their earlier ones; the others stay as they are."""
    text = page.read_text(encoding="utf-8")
    before, _begin, rest = text.partition(BEGIN)
    old, _end, after = rest.partition(END)
    kept = {line.split("`")[1]: line for line in old.splitlines() if line.startswith("- `")}
    for name, results in lines.items():
        stamp = f"{datetime.date.today().isoformat()}, Python {platform.python_version()}"
        kept[name] = f"- `{name}` ({stamp}): " + "; ".join(f"`{line}`" for line in results)
    page.write_text(
        f"{before}{BEGIN}\n" + "\n".join(kept[name] for name in sorted(kept)) + f"\n{END}{after}", encoding="utf-8"
    )


def main() -> int:
    """Run the benchmarks that are named, or all."""
    parser = argparse.ArgumentParser(prog="benchmarks", description="Ratios of two things measured in one run.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(BENCHMARKS)}; all where none is named")
    parser.add_argument("--no-page", action="store_true", help="do not write docs/benchmarks.md")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"there is no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    lines: dict[str, list[str]] = {}
    status = 0
    for name in arguments.names or BENCHMARKS:
        try:
            lines[name] = [str(figure) for figure in BENCHMARKS[name]()]
            print("\n".join(lines[name]), flush=True)
        except BenchmarkError as error:
            print(f"bench {name} could not be measured: {error}", file=sys.stderr, flush=True)
            status = 1
    if lines and not arguments.no_page:
        write_page(PAGE, lines)
    return status


if __name__ == "__main__":
    sys.exit(main())
