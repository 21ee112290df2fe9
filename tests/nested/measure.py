#!/usr/bin/python3 -sB
# SPDX-License-Identifier: MIT
"""Inside the outer VM: what each way to see a device's writes costs a migration, side by side.

The same guest and NVMe device, the same load, the same rule for the end: after as many passes the
rest is sent, whatever it is. The clock is emulated, so what counts are counts, and ratios of times.
The table goes to stdout, all figures to measure.json in the results. See costs.py.
"""

import functools
import json
import sys
from typing import Any

from costs import FIGURES, Way, check, show
from inner import (
    RESULTS,
    Setup,
    ask,
    expect,
    instructions,
    kvm_counters,
    main,
    pair,
    with_second_try,
)

PASSES = 4
SECONDS = 900.0  # with all dirty each pass is all of RAM
# Setup, options of pvdirty migrate, may pages be lost?
WAYS: dict[Way, tuple[Setup, tuple[str, ...], bool]] = {
    Way.LOG: (Setup(), (), False),
    Way.TOUCH: (Setup(mode="touch"), (), False),
    Way.ALL: (Setup(mode="off", shim="all-dirty"), (), False),
    Way.FIRST: (Setup(), ("--unplug-first",), False),
    Way.NONE: (Setup(mode="off"), (), True),
}


def _more(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {k: after[k] - v for k, v in sorted(before.items()) if k in after}


def measure(way: Way) -> dict[str, Any]:
    """One migration; a row."""
    setup, more, loses = WAYS[way]
    with pair(setup, way.name.lower()) as at:
        io, counters, executed = at.source.load().io_bytes, kvm_counters(at.source), instructions()
        ended = at.migrate(*more, until_pass=PASSES, seconds=SECONDS)
        executed = _more(executed, instructions())
        counters = _more(counters, kvm_counters(at.source))
        io = at.source.load().io_bytes - io
        ram = at.source.call("query-migrate")["ram"]
        found = at.compare()
        lost, marked = found["pages_lost"], ask(at.source, "pages-marked")
        expect((lost > 0) == loses, f"{lost} pages are lost")
        expect((marked > 0) == (way == Way.LOG), f"{marked} pages are marked")
        expect(ended.report["passes"] >= PASSES, f"{ended.report['passes']} passes")
        expect(min(executed.values()) > 0, f"nothing is counted: {executed}")
        return {
            "way": way.value,
            "pages_sent": ram["normal"] + ram["duplicate"],
            "ram_bytes_sent": ended.report["ram_bytes_sent"],
            "passes": ended.report["passes"],
            "pages_last_pass": ask(at.source, "last-pass-pages"),
            "total_ms": ended.report["total_ms"],
            "downtime_ms": ended.report["downtime_ms"],
            "unplugged_ms": ended.report["unplugged_ms"],
            "guest_io_bytes": io,
            "pages_marked": marked,
            "pages_lost": lost,
            "instructions": executed,
            "kvm": counters,
        }


def body() -> None:
    """All of them, and the table."""
    rows = [with_second_try(functools.partial(measure, way), way.name) for way in WAYS]
    if RESULTS.exists():
        (RESULTS / FIGURES.name).write_text(json.dumps({"runs": rows}, indent=1) + "\n")
    print(show(rows), flush=True)
    check(rows)


if __name__ == "__main__":
    sys.exit(main(body))
