#!/usr/bin/python3 -sB
# SPDX-License-Identifier: MIT
"""Inside the outer VM: a guest keeps its VFIO device, and goes on with it each time.

Nobody asks for it, it never lets go, or the operator does not wait for it.
"""

import signal
import sys
import time

from inner import HOLD_MS, SECONDS, Pair, Setup, ask, expect, main, pair, with_second_try

from harness.base import EXIT_INTERRUPTED, EXIT_TIMEOUT
from harness.pvdirty import Command, Ended
from harness.qmp import QmpError

NOWHERE = "exec:cat >/dev/null"


def expect_intact(at: Pair) -> None:
    """The source runs, its device is tracked and works; nothing is held for any more."""
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


def expect_cancelled(ended: Ended) -> None:
    """The command says so."""
    expect(ended.report["status"] == "cancelled", f"the migration is {ended.report['status']}")


def unprepared(at: Pair) -> None:
    """QEMU's own blocker for VFIO devices is gone where the plug-in answers; the plug-in's is not."""
    said = ""
    try:
        at.source.call("migrate", uri=NOWHERE)
    except QmpError as error:
        said = str(error)
    expect("disk0" in said and "its state cannot be migrated" in said, f"not said why: {said}")


def body() -> None:
    """With the device still there, then out of time, then interrupted while it is held."""
    # Without this driver nobody in the guest hears of ACPI's request.
    with pair(Setup(kernel_options="acpiphp.disable=1"), "held") as at:
        unprepared(at)
        expect_intact(at)
        print("held: refused with the device still there, and the source is intact", flush=True)

        ended = at.command("--timeout", "3").end(SECONDS)
        expect(ended.code == EXIT_TIMEOUT, f"exit code {ended.code} for a guest that keeps it")
        expect("does not let go of disk0" in ended.said, f"not said why: {ended.said}")
        expect_cancelled(ended)
        expect_intact(at)
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
        expect_cancelled(ended)
        expect_intact(at)
        print("held: interrupted, and the source is intact", flush=True)


if __name__ == "__main__":
    sys.exit(main(lambda: with_second_try(body, "held")))
