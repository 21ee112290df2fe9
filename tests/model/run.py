#!/usr/bin/env -S python3 -s -B
# SPDX-License-Identifier: MIT
"""Searches the models exhaustively with spin: all, or those that are named. See README.md."""

import argparse
import re
import resource
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cases import CASES, Case

HERE = Path(__file__).resolve().parent
# The assertions that are the property; others hold what a model assumes of itself.
PROPERTY = re.compile(r"^pan:1: assertion violated .*(older|latched|in_flight|driven|forced|asked)", re.M)


@dataclass
class Result:
    """What pan says of one search."""

    verdict: str  # "ok", or what is wrong
    states: int = 0
    depth: int = 0
    seconds: float = 0.0  # of CPU time, spin and compiler included


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    return int(found.group(1)) if found else 0


def judge(case: Case, text: str) -> str:
    """Compares pan's report with what is expected."""
    errors = re.search(r"errors: (\d+)", text)
    if not errors:
        return "pan did not end: " + " ".join(text.split())[-200:]
    found = re.findall(r"^pan:\d+: (.*)$", text, re.M)
    if case.rule:
        return "ok" if PROPERTY.search(text) else ": ".join(["NOT CAUGHT", *found])
    if errors.group(1) != "0":
        return (found or ["error"])[0]
    for sign in ("max search depth too small", "Search not completed", "out of memory"):
        if sign in text:
            return f"not exhaustive: {sign}"
    unreached = re.findall(r"^\t(.*, state \d+, .*)$", text, re.M)
    return f"unreached: {unreached[0]}" if unreached else "ok"


def commands(case: Case) -> list[list[str]]:
    """How a case is searched, in an empty directory."""
    defines = [f"-D{define}" for define in case.defines]
    memory = case.memory_mib * (2 if case.long else 1)
    return [
        ["spin", "-a", *defines, str(HERE / f"{case.model}.pml")],
        ["gcc", "-w", "-O2", "-DSAFETY", "-DCOLLAPSE", f"-DMEMLIM={memory}", "pan.c", "-opan"],
        ["./pan", f"-m{case.depth}"],
    ]


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def search(case: Case) -> Result:
    """Runs one case."""
    text = ""
    start = _cpu_seconds()
    with tempfile.TemporaryDirectory(dir=".", prefix="model-") as directory:
        for command in commands(case):
            done = subprocess.run(
                command, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            text = done.stdout
            if done.returncode and command[0] != "./pan":
                return Result(f"{command[0]} failed: {text}")
    return Result(
        judge(case, text),
        _number(r"(\d+) states, stored", text),
        _number(r"depth reached (\d+)", text),
        _cpu_seconds() - start,
    )


def arguments() -> argparse.Namespace:
    """The command line; ends the program on a usage error."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("names", nargs="*", metavar="CASE", help="only these")
    parser.add_argument("--list", action="store_true", help="show names; '*' marks the long ones")
    parser.add_argument("--commands", action="store_true", help="show commands, run nothing")
    parser.add_argument("--full", action="store_true", help="the long ones too")
    return parser.parse_args()


def main() -> int:
    """Exit code of the program."""
    options = arguments()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
    known = {case.name: case for case in CASES}
    for name in options.names:
        if name not in known:
            print(f"run.py: unknown case '{name}'", file=sys.stderr)
            return 2
    wanted = [known[name] for name in options.names] or [
        case for case in CASES if options.full or options.list or not case.long
    ]
    failed = 0
    for case in wanted:
        if options.list:
            print(f"{'*' if case.long else ' '}{case.name}")
        elif options.commands:
            print(f"{case.name}:", *(" ".join(command) for command in commands(case)), sep="\n  ")
        else:
            result = search(case)
            right = result.verdict.startswith(case.verdict)
            failed += not right
            print(
                f"{case.name:45} {'caught' if case.rule else 'holds':6} {result.states:9} states "
                f"{result.depth:8} deep {result.seconds:6.1f} s  {result.verdict}"
                f"{'' if right else f', expected: {case.verdict}'}",
                flush=True,
            )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
