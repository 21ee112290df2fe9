# SPDX-License-Identifier: MIT
"""What runs mean: the rules they must meet, the table, the JSON file."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .run import Outcome

# A log run may not win by sending everything.
LAST_PASS_SHARE = 4  # less than 1/4 of RAM
OVERMARKED_SHARE = 20  # at most 1/20 of the marked pages

Columns = tuple[tuple[str, str], ...]  # title, key
COLUMNS: Columns = (
    ("run", "mode"),
    ("pages", "pages_total"),
    ("written", "pages_dma_written"),
    ("marked", "pages_marked"),
    ("in flight", "pages_in_flight"),
    ("uncovered", "pages_uncovered"),
    ("overmarked", "pages_overmarked"),
    ("last pass", "pages_last_pass"),
    ("all dirty", "answered_all_dirty"),
    ("passes", "passes"),
    ("downtime", "downtime_ms"),
    ("LOST", "pages_lost"),
)
NOTES = {
    "clean": "no covered device: judge and QEMU are sound",
    "off": "control: no module, and the host told to be blind",
    "touch": "2015's mechanism, host blind: in-flight and coherent pages stay unseen",
    "log": "marks and in-flight counters",
}


def judge(outcome: Outcome) -> list[str]:
    """The rules that a run breaks, one sentence each."""
    r = outcome.result
    broken = []

    def rule(holds: bool, sentence: str) -> None:
        if not holds:
            broken.append(f"{r.mode} ({r.driver}, {r.kernel}): {sentence}")

    rule(r.bytes_compared >= r.memory_bytes, "less than all of RAM was compared")
    rule(r.guest_io_bytes > 0, "the guest did no I/O during the migration")
    if r.mode == "clean":
        rule(r.pages_lost == 0, f"{r.pages_lost} pages differ without any covered device")
    else:
        rule(r.pages_dma_written > 0, "the oracle saw no DMA at all")
        rule(
            outcome.lost_outside_oracle == 0,
            f"{outcome.lost_outside_oracle} lost pages were not written by a covered device",
        )
    if r.mode == "off":
        rule(r.pages_lost > 0, "no page was lost with marking off: the demo proves nothing")
        rule(r.pages_uncovered > 0, "the oracle calls nothing uncovered with marking off")
    if r.mode == "log":
        rule(r.pages_lost == 0, f"{r.pages_lost} pages were lost")
        rule(r.pages_uncovered == 0, f"{r.pages_uncovered} written pages were not covered")
        rule(r.pages_marked > 0, "no page was marked")
        rule(r.answered_all_dirty == 0, f"{r.answered_all_dirty} harvests answered all-dirty")
        rule(
            r.pages_last_pass * LAST_PASS_SHARE < r.pages_total,
            f"the last pass held {r.pages_last_pass} of {r.pages_total} pages",
        )
        rule(
            r.pages_overmarked * OVERMARKED_SHARE <= r.pages_marked,
            f"{r.pages_overmarked} of {r.pages_marked} marked pages were never written",
        )
    if r.mode in ("clean", "log"):
        rule(outcome.resumed, "the destination did not go on")
        rule(
            outcome.guest_errors == 0,
            f"the guest found {outcome.guest_errors} errors in its data",
        )
    return broken


def aligned(rows: Sequence[Sequence[str]], notes: Sequence[str]) -> str:
    """A table: the first row has its titles; a note stands behind each of the others."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row, note in zip(rows, ("", *notes), strict=True):
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells) + (f"   {note}" if note else ""))
    return "\n".join(lines)


def _cell(key: str, value: object) -> str:
    unit = " ms" if key.endswith("_ms") else ""
    return "-" if value is None else f"{value}{unit}"


def table(results: list[dict[str, Any]], columns: Columns, notes: dict[str, str]) -> str:
    """The rows, as they are in the JSON file, aligned, and what each mode is."""
    if not results:
        return ""
    rows = [[title for title, _ in columns]]
    rows += [[_cell(key, result[key]) for _, key in columns] for result in results]
    return aligned(rows, [notes[result["mode"]] for result in results])


def settings(result: dict[str, Any]) -> str:
    """One line over the table."""
    return (
        f"driver {result['driver']}, kernel {result['kernel']}, "
        f"{result['memory_bytes'] >> 20} MiB; counts are pages of 4 KiB"
    )


def write_json(path: Path, results: list[dict[str, Any]], failures: list[str]) -> None:
    """{"runs": [...], "failures": [sentence...]}"""
    data = {"runs": results, "failures": failures}
    path.write_text(json.dumps(data, indent=2) + "\n")
