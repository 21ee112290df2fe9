# SPDX-License-Identifier: MIT
"""Random cells of the matrix: `soak.py MINUTES SEED[:FIRST] JSON`, for ./check --soak.

Each cell has a number, and is drawn from the seed and that: `--seed SEED:NUMBER` begins there.
"""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cell import CONTROL, Cell
from matrix import TABLE, WORDS, Axes, name_of, read
from support import expect

from harness.base import (
    EXIT_DONE,
    EXIT_FAILED,
    LOGS,
    die_with_parent,
    follow_parent,
    kill_group,
    last_lines,
)
from harness.linux import BUILT_IN

CELL_SECONDS = 1800
CONTROL_IN = 8  # one of so many is a control
ENOUGH_CONTROLS = 4  # of so many, one must lose pages
RARE = {"6G": 8, "there-and-back": 3}  # one of so many draws counts: they take minutes


@dataclass(frozen=True)
class Drawn:
    """What a number stands for."""

    number: int
    name: str
    control: bool
    seed: int  # of what the cell itself leaves to chance


@dataclass
class Result:
    """What became of a cell."""

    number: int
    cell: str
    control: bool
    failed: str  # why, or ""
    migrations: int
    pages_dma_written: int
    pages_lost: int
    pages_uncovered: int
    seconds: float


def provisioned(axes: Axes) -> Axes:
    """Without the kernels of our own, which take long to build."""
    return axes | {"kernel": [kernel for kernel in axes["kernel"] if kernel not in BUILT_IN]}


def draw(axes: Axes, seed: str, number: int) -> Drawn:
    """The cell with this number; all values of each axis are as likely, but rare ones."""
    chance = random.Random(f"{seed}:{number}")
    axes = provisioned(axes)
    while True:
        cell = Cell({axis: chance.choice(values) for axis, values in axes.items()})
        rare = [RARE[value] for value in cell.values.values() if value in RARE]
        if not cell.why_not() and not any(chance.randrange(one_in) for one_in in rare):
            break
    control = chance.randrange(CONTROL_IN) == 0
    name = name_of(cell, axes) + (CONTROL if control else "")
    return Drawn(number, name, control, chance.randrange(1 << 32))


def run(drawn: Drawn) -> Result:
    """Runs it in a process of its own; a failure leaves its log."""
    LOGS.mkdir(parents=True, exist_ok=True)
    log = LOGS / f"soak-{drawn.number}.log"
    start = time.monotonic()
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-s", "-B", Path(__file__).with_name("matrix.py"), drawn.name],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PVDIRTY_SEED": str(drawn.seed)},
            preexec_fn=die_with_parent(),
        )
        try:
            code = process.wait(CELL_SECONDS)
            failed = "" if code == 0 else f"exit code {code}: {last_lines(log, 1)} (all: {log})"
        except subprocess.TimeoutExpired:
            failed = f"no end in {CELL_SECONDS} s (all: {log})"
        except BaseException:
            process.send_signal(signal.SIGTERM)  # it cleans up
            process.wait(10)
            log.unlink()
            raise
        finally:
            kill_group(process)
    printed = log.read_text(errors="replace")
    found = [json.loads(line) for line in re.findall(r"^COMPARED (.*)$", printed, re.MULTILINE)]

    def total(key: str) -> int:
        return sum(entry[key] for entry in found)

    # When all of RAM was sent at the end, nothing needed to be covered.
    tracked = [entry for entry in found if not entry["answered-all-dirty"]]
    if not failed and not found:
        failed = f"nothing was compared (all: {log})"
    if not failed:
        log.unlink()
    return Result(
        number=drawn.number,
        cell=drawn.name,
        control=drawn.control,
        failed=failed,
        migrations=len(found),
        pages_dma_written=total("x-oracle-written"),
        pages_lost=total("pages_lost"),
        pages_uncovered=sum(entry["x-oracle-uncovered"] for entry in tracked),
        seconds=round(time.monotonic() - start, 1),
    )


def summary(seed: str, results: list[Result]) -> dict[str, Any]:
    """The sums; the controls' losses, which must be, apart."""
    tracked = [r for r in results if not r.control]
    controls = [r for r in results if r.control]
    return {
        "seed": seed,
        "passed": sum(not r.failed for r in results),
        "failed": sum(bool(r.failed) for r in results),
        "migrations": sum(r.migrations for r in tracked),
        "pages_dma_written": sum(r.pages_dma_written for r in tracked),
        "pages_lost": sum(r.pages_lost for r in tracked),
        "pages_uncovered": sum(r.pages_uncovered for r in tracked),
        "controls": len(controls),
        "control_pages_lost": sum(r.pages_lost for r in controls),
        "minutes": round(sum(r.seconds for r in results) / 60, 1),
        "cells": [asdict(r) for r in results],
    }


def good(found: dict[str, Any]) -> bool:
    """Did it pass? A control alone may lose nothing by chance, but not all that there are."""
    blind = found["controls"] >= ENOUGH_CONTROLS and not found["control_pages_lost"]
    return found["passed"] > 0 and not found["failed"] and not blind


def soak(
    axes: Axes, minutes: float, seed: str, first: int, runner: Callable[[Drawn], Result] = run
) -> dict[str, Any]:
    """Cells until the time is over, a line each; their summary, whatever ends it."""
    end = time.monotonic() + 60 * minutes
    results: list[Result] = []
    try:
        while time.monotonic() < end:
            result = runner(draw(axes, seed, first + len(results)))
            results.append(result)
            print(
                f"{result.number:4d}  {result.cell}: {result.pages_dma_written} written, "
                f"{result.pages_lost} lost, {result.pages_uncovered} uncovered, "
                f"{result.seconds:.0f} s",
                flush=True,
            )
            if result.failed:
                print(f"      FAILED  {result.failed}", flush=True)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    return summary(seed, results)


def expect_draws() -> None:
    """The seed alone decides, every value comes, and no cell that cannot be."""
    axes = read(TABLE.read_text()).axes
    drawn = [draw(axes, "1", number) for number in range(600)]
    expect(drawn == [draw(axes, "1", number) for number in range(600)], "drawn otherwise")
    expect(drawn != [draw(axes, "2", number) for number in range(600)], "the seed does nothing")
    names = " ".join(d.name for d in drawn)
    for axis, values in provisioned(axes).items():
        for value in values[1:]:
            word = WORDS.get(axis, "{}").format(value)
            expect(word in names, f"{value} of {axis} is never drawn")
    expect(any(d.control for d in drawn), "no control is drawn")

    def losing(drawn: Drawn) -> Result:
        if drawn.number == 9:
            raise KeyboardInterrupt
        return Result(drawn.number, drawn.name, False, "lost" * (drawn.number == 7), 1, 9, 3, 2, 0.1)

    found = soak(axes, 1, "1", 5, losing)
    expect([cell["number"] for cell in found["cells"]] == [5, 6, 7, 8], "other numbers")
    expect(found["failed"] == 1 and found["passed"] == len(found["cells"]) - 1, "miscounted")
    expect(found["pages_lost"] == 3 * found["migrations"] > 0, "lost pages are not summed up")
    expect(found["pages_uncovered"] == 2 * found["migrations"], "nor those uncovered")
    expect(not good(found), "a failed cell is no failure")
    controls = {"passed": 9, "failed": 0, "controls": ENOUGH_CONTROLS}
    expect(good(controls | {"control_pages_lost": 1}), "controls that lose pages are a failure")
    expect(not good(controls | {"control_pages_lost": 0}), "blind controls are no failure")


def main(arguments: list[str]) -> int:
    """Exit code of the program."""
    follow_parent(signal.SIGTERM)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    minutes, seed_and_first, out = arguments
    seed, _, first = seed_and_first.partition(":")
    print(f"seed {seed}: ./check --soak {minutes} --seed {seed_and_first} does the same", flush=True)
    found = soak(read(TABLE.read_text()).axes, float(minutes), seed, int(first or 0))
    Path(out).write_text(json.dumps(found, indent=2) + "\n")
    print(
        f"{found['migrations']} migrations in {found['minutes']} min: {found['pages_dma_written']} "
        f"pages written by devices, {found['pages_lost']} lost, {found['pages_uncovered']} "
        f"uncovered; {found['controls']} controls lost {found['control_pages_lost']}; seed {seed}"
    )
    print(f"{found['passed']} passed, {found['failed']} failed", flush=True)
    return EXIT_DONE if good(found) else EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
