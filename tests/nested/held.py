#!/usr/bin/python3 -sB
# SPDX-License-Identifier: MIT
"""Inside the outer VM: a guest never lets go of its VFIO device, and goes on with it each time."""

import signal
import sys
import time

from inner import HOLD_MS, SECONDS, Pair, Setup, ask, expect, main, pair, with_second_try

from harness.base import EXIT_INTERRUPTED, EXIT_TIMEOUT
from harness.pvdirty import Command, Ended

NOWHERE = "exec:cat >/dev/null"


def expect_intact(at: Pair, ended: Ended) -> None:
    """The source runs, its device is tracked and works; nothing is held for any more."""
    expect(ended.report["status"] == "cancelled", f"the migration is {ended.report['status']}")
    expect(at.source.call("query-status")["status"] == "running", "the source does not run")
    (device,) = ask(at.source, "devices")
    expect(device["state"] == "plugged" and device["tracked"], f"not intact: {device}")
    expect(not device["hold"] and not ask(at.source, "holding"), "it is still held for")
    before = at.source.load().io_bytes
    at.source.wait(
        "I/O after the migration",
        lambda: at.source.load().io_bytes > before + (1 << 20),
        SECONDS,
        lambda: at.progress.show("source runs"),
    )
    load = at.source.load()
    expect(load.errors == 0 and load.values["disks_gone"] == 0, f"the guest saw it: {load}")


def body() -> None:
    """Out of time, then interrupted while it is held."""
    # Without this driver nobody in the guest hears of ACPI's request.
    with pair(Setup(kernel_options="acpiphp.disable=1"), "held") as at:
        ended = at.command("--timeout", "3").end(SECONDS)
        expect(ended.code == EXIT_TIMEOUT, f"exit code {ended.code} for a guest that keeps it")
        expect("does not let go of disk0" in ended.said, f"not said why: {ended.said}")
        expect_intact(at, ended)
        print("held: out of time, and the source is intact", flush=True)

        at.limit(HOLD_MS)
        command = Command(at.directory, NOWHERE, "unplug", "--timeout", "600")
        deadline = time.monotonic() + SECONDS
        tick = at.tick(until_pass=2)
        while "waits for disk0" not in command.said():
            expect(command.process.poll() is None, "it ended by itself")
            expect(time.monotonic() < deadline, "it never waits")
            tick()
            time.sleep(0.1)
        expect(ask(at.source, "holding"), "it is not held for")
        command.process.send_signal(signal.SIGINT)
        ended = command.end(SECONDS)
        expect(ended.code == EXIT_INTERRUPTED, f"exit code {ended.code} after Ctrl-C")
        expect_intact(at, ended)
        print("held: interrupted, and the source is intact", flush=True)


if __name__ == "__main__":
    sys.exit(main(lambda: with_second_try(body, "held")))
