#!/usr/bin/python3 -sB
# SPDX-License-Identifier: MIT
"""Inside the outer VM: migrates guests with real VFIO devices under real KVM; see --help.

A guest's devices work until the rest would fit in the downtime, are taken out by
`pvdirty migrate --policy unplug`, and others come in their place at the destination.
"""

import argparse
import functools
import json
import sys
from pathlib import Path
from typing import Any

import inner
from inner import Pair, Setup, ask, expect, pair, with_second_try

from harness import report
from harness.base import EXIT_FAILED, HarnessError
from harness.run import MODES
from harness.vm import PLUGIN

DRIVERS = ("nvme", "e1000e")


def row(at: Pair, ended: inner.Ended, found: dict[str, Any], io_bytes: int) -> dict[str, Any]:
    """The keys of ./demo's rows, and how long the guest was without its devices.

    Nothing here sees each write of a real device, so what the demo's oracle counts is None.
    """
    source = at.source
    return {
        "mode": at.setup.mode,
        "driver": "+".join(at.setup.drivers),
        "kernel": at.setup.kernel,
        "memory_bytes": at.setup.memory_bytes,
        "pages_total": found["pages_total"],
        "bytes_compared": found["bytes_compared"],
        "pages_dma_written": None,
        "pages_marked": ask(source, "pages-marked"),
        "pages_in_flight": ask(source, "pages-in-flight"),
        "pages_lost": found["pages_lost"],
        "pages_uncovered": None,
        "pages_overmarked": None,
        "pages_last_pass": ask(source, "last-pass-pages"),
        "answered_all_dirty": ask(source, "answered-all-dirty"),
        "passes": ended.report["passes"],
        "ram_bytes_sent": ended.report["ram_bytes_sent"],
        "downtime_ms": ended.report["downtime_ms"],
        "guest_io_bytes": io_bytes,
        "unplugged_ms": ended.report["unplugged_ms"],
    }


def judge(result: dict[str, Any]) -> None:
    """The rules of a mode."""
    mode, lost, marked = (result[key] for key in ("mode", "pages_lost", "pages_marked"))
    if mode != "clean":
        expect(result["guest_io_bytes"] > 0, "the devices did nothing during the migration")
        expect(result["unplugged_ms"] is not None, "no device was unplugged")
    if mode == "off":
        expect(lost > 0, "no page was lost without pvdirty: the judge proves nothing")
    else:
        expect(lost == 0, f"{lost} pages are lost")
    if mode == "log":
        expect(marked > 0, "nothing was marked")
        expect(result["answered_all_dirty"] == 0, "a harvest answered all-dirty")
        few = result["pages_last_pass"] * report.LAST_PASS_SHARE < result["pages_total"]
        expect(few, f"the last pass held {result['pages_last_pass']} pages")
    else:
        expect(marked == 0, f"{marked} pages were marked")


def migrate(setup: Setup, title: str) -> dict[str, Any]:
    """One migration, judged; its row."""
    with pair(setup, title) as at:
        devices = ask(at.source, "devices")
        expect(len(devices) == len(at.addresses), f"covered devices: {devices}")
        for device in devices:
            expect(not device["migratable"], f"{device['id']} could be migrated by QEMU itself")
            expect(device["tracked"] == (setup.mode == "log"), f"tracked or not: {device}")
        before = at.source.load()
        ended = at.migrate()
        after = at.source.load()
        expect(not ask(at.source, "devices"), "a device is left at the source")
        expect(sorted(ended.report["devices"]) == sorted(d["id"] for d in devices), "who has left")
        found = at.compare()
        result = row(at, ended, found, after.io_bytes - before.io_bytes)
        print(f"{title}: {json.dumps(result)}; the first: {found['ranges'][:2]}", flush=True)
        judge(result)
        if setup.mode != "off":
            at.go_on()
        return result


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="migrate.py", allow_abbrev=False)
    parser.add_argument("--mode", default="log", help=f"of {','.join(MODES)}; default: log")
    parser.add_argument("--driver", default="nvme", help=f"{'+'.join(DRIVERS)}; default: nvme")
    parser.add_argument("--kernel", default="6.1", help="the guest's; default: 6.1")
    parser.add_argument("--memory", type=int, default=256, metavar="MIB", help="default: 256")
    parser.add_argument("--smp", type=int, default=1, metavar="N", help="vCPUs; default: 1")
    parser.add_argument("--native", action="store_true", help="PCIe's hot-plug, not ACPI's")
    parser.add_argument("--dirty-ring", type=int, default=0, metavar="ENTRIES")
    parser.add_argument("--shim", default="", metavar="WORD", help="see kvm-shim.c")
    parser.add_argument("--plugin", type=Path, default=PLUGIN, help="another one than ours")
    parser.add_argument("--repeat", type=int, default=1, metavar="N")
    parser.add_argument("--quiet", action="store_true", help="show progress alone")
    return parser.parse_args()


def main() -> int:
    """All of them, one after the other. Results go to runs.json as ./demo writes them."""
    options = arguments()
    if options.quiet:
        sys.stdout = (inner.RESULTS / "migrate.log").open("w")
    rows: list[dict[str, Any]] = []
    failures: list[str] = []
    code = 0
    for number in range(options.repeat):
        for mode in options.mode.split(","):
            setup = Setup(
                mode=mode,
                drivers=tuple(options.driver.split("+")),
                kernel=options.kernel,
                memory_bytes=options.memory << 20,
                cpus=options.smp,
                native=options.native,
                dirty_ring=options.dirty_ring,
                shim=options.shim,
                plugin=options.plugin,
            )
            title = mode if options.repeat == 1 else f"{mode} {number + 1}"
            try:
                rows.append(with_second_try(functools.partial(migrate, setup, title), title))
            except HarnessError as error:
                print(error, flush=True)
                failures.append(str(error))
                code = code or error.code
    if inner.RESULTS.exists():
        text = json.dumps({"runs": rows, "failures": failures}, indent=2)
        (inner.RESULTS / "runs.json").write_text(text + "\n")
    return code or (EXIT_FAILED if failures else 0)


if __name__ == "__main__":
    sys.exit(main())
