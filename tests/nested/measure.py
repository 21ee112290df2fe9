#!/usr/bin/python3 -sB
# SPDX-License-Identifier: MIT
"""Inside the outer VM: what each way to see a device's writes costs a migration, side by side.

The same guest and NVMe device, the same load, the same rule for the end: after as many passes the
rest is sent, whatever it is. The clock is emulated, so what counts are counts, and ratios of times.
The table goes to stdout, its rows to measure.json in the results.
"""

import functools
import json
import sys
from typing import Any

from inner import RESULTS, Setup, ask, expect, kvm_counters, main, pair, with_second_try

from harness.report import aligned
from harness.run import PAGE

PASSES = 6
# Name, setup, options of pvdirty migrate, may pages be lost?, what it is.
WAYS = (
    ("log", Setup(), (), False, "marks and in-flight counters"),
    ("touch", Setup(mode="touch"), (), False, "the guest touches pages; KVM's log sees that"),
    (
        "all",
        Setup(mode="off", shim="all-dirty"),
        (),
        False,
        "all is dirty at every sync: VFIO's type1 without a tracker",
    ),
    ("first", Setup(), ("--unplug-first",), False, "unplugged before the first page: failover"),
    ("none", Setup(mode="off"), (), True, "control: nothing sees the device's writes"),
)
COLUMNS = {
    "way": "way",
    "pages sent": "pages_sent",
    "passes": "passes",
    "last pass": "pages_last_pass",
    "downtime/total": "downtime_share",
    "I/O MiB": "guest_io_mib",
    "away/total": "unplugged_share",
    "marked": "pages_marked",
    "KVM exits": "kvm_exits",
    "write faults": "kvm_write_faults",
    "of marking, per page": "faults_per_page",
    "LOST": "pages_lost",
}


def measure(way: str, setup: Setup, more: tuple[str, ...], loses: bool) -> dict[str, Any]:
    """One migration; a row."""
    with pair(setup, way) as at:
        io, counters = at.source.load().io_bytes, kvm_counters(at.source)
        ended = at.migrate(*more, until_pass=PASSES)
        io = at.source.load().io_bytes - io
        after = kvm_counters(at.source)
        ram = at.source.call("query-migrate")["ram"]
        found = at.compare()
        lost, marked = found["pages_lost"], ask(at.source, "pages-marked")
        expect((lost > 0) == loses, f"{lost} pages are lost")
        expect((marked > 0) == (way == "log"), f"{marked} pages are marked")
        expect(ended.report["passes"] >= PASSES, f"{ended.report['passes']} passes")
        report = ended.report
        return {
            "way": way,
            "pages_sent": ram["normal"] + ram["duplicate"],
            "ram_bytes_sent": report["ram_bytes_sent"],
            "passes": report["passes"],
            "pages_last_pass": ask(at.source, "last-pass-pages"),
            "total_ms": report["total_ms"],
            "downtime_ms": report["downtime_ms"],
            "unplugged_ms": report["unplugged_ms"],
            "guest_io_bytes": io,
            "pages_marked": marked,
            "pages_lost": lost,
            "kvm": {k: after[k] - v for k, v in sorted(counters.items()) if k in after},
        }


def faults_per_page(row: dict[str, Any]) -> float:
    """Writes that KVM's dirty log had to let through, for each page of I/O."""
    return float(row["kvm"]["pf_fast"] / max(1, row["guest_io_bytes"] / PAGE))


def derive(row: dict[str, Any], control: dict[str, Any]) -> dict[str, Any]:
    """The table's values: ratios, and the write faults that marking itself costs.

    They are counted for each page of I/O. What the control has too, which marks nothing, comes from
    other writes of the guest.
    """
    more = faults_per_page(row) - faults_per_page(control)
    works = row["way"] not in ("first", "none")
    return row | {
        "downtime_share": f"{row['downtime_ms'] / row['total_ms']:.3f}",
        "unplugged_share": f"{row['unplugged_ms'] / row['total_ms']:.2f}",
        "guest_io_mib": f"{row['guest_io_bytes'] / (1 << 20):.1f}",
        "kvm_exits": row["kvm"]["exits"],
        "kvm_write_faults": row["kvm"]["pf_fast"],
        "faults_per_page": f"{more:.3f}" if works else "-",
    }


def body() -> None:
    """All of them, and the table."""
    rows = [
        with_second_try(functools.partial(measure, way, setup, more, loses), way)
        for way, setup, more, loses, _ in WAYS
    ]
    if RESULTS.exists():
        (RESULTS / "measure.json").write_text(json.dumps({"runs": rows}, indent=2) + "\n")
    lines = [list(COLUMNS)]
    lines += [[str(derive(r, rows[-1])[key]) for key in COLUMNS.values()] for r in rows]
    print(aligned(lines, [text for *_, text in WAYS]), flush=True)
    by_way = {row["way"]: row for row in rows}
    touch, log = (faults_per_page(by_way[way]) for way in ("touch", "log"))
    expect(touch > 2 * log, f"touching costs {touch:.3f} faults a page, marking {log:.3f}")
    expect(by_way["first"]["guest_io_bytes"] < by_way["log"]["guest_io_bytes"], "I/O of first")
    expect(by_way["all"]["pages_sent"] > by_way["log"]["pages_sent"], "pages sent of all")


if __name__ == "__main__":
    sys.exit(main(body))
