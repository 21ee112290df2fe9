# SPDX-License-Identifier: MIT
"""The command `check`: see --help."""

import argparse
import json
import os
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from harness import rundir
from harness.base import (
    BUILD,
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    LOGS,
    HarnessError,
    Interrupted,
    interrupt_on_signals,
    run_group,
    say,
)
from harness.cli import Parser
from harness.provision import KERNELS, provision

HOST = BUILD / "host"
BENCH = "bench"
BENCH_JSON = HOST / "tests" / "bench" / "bench.json"
LONG = "long"
# Cheap ones first; a label that only tests of later work carry comes last.
ORDER = ("unit", "property", "model", "mutants", "fuzz", "kunit", "e2e", "nested", "vfio", "bench")
WITHOUT_GUESTS = {"unit", "property", "model", "mutants", "fuzz", "bench"}


@dataclass
class Tally:
    """Results of one label."""

    label: str
    passed: int = 0
    failed: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)  # "name: reason"
    minutes: float = 0.0
    tables: list[str] = field(default_factory=list)  # what benchmarks print


def known_labels() -> list[str]:
    """The labels that tests carry, by ctest."""
    shown = subprocess.run(
        ["ctest", "--test-dir", HOST, "--show-only=json-v1"],
        stdout=subprocess.PIPE,
        check=True,
    ).stdout
    labels = {
        label
        for test in json.loads(shown)["tests"]
        for prop in test.get("properties", [])
        if prop["name"] == "LABELS"
        for label in prop["value"]
    }
    labels.discard(LONG)
    return sorted(labels, key=lambda x: (ORDER.index(x) if x in ORDER else len(ORDER), x))


def _skip_reason(case: ElementTree.Element) -> str:
    output = case.findtext("system-out") or ""
    found = re.findall(r"^SKIP: (.*)$", output, re.MULTILINE)
    if found:
        return str(found[-1])
    skipped = case.find("skipped")
    return (skipped.get("message") if skipped is not None else None) or "no reason given"


def read_results(path: Path, tally: Tally) -> None:
    """Adds a JUnit file's cases to a tally. What did not run is not passed."""
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        name = case.get("name", "?")
        status = case.get("status")
        if status == "run":
            tally.passed += 1
            if tally.label == BENCH:
                tally.tables.append(case.findtext("system-out") or "")
        elif status in ("notrun", "disabled"):
            # ctest says "notrun" of a skip and of a program that is not there.
            reason = _skip_reason(case)
            if "SKIP" in reason or re.search(r"^SKIP: ", case.findtext("system-out") or "", re.M):
                tally.skipped.append(f"{name}: {reason}")
            else:
                tally.failed.append(f"{name}: not run: {reason}")
        else:
            tally.failed.append(name)


def run_label(label: str, done: list[str], full: bool) -> Tally:
    """Runs a label's tests, but those of labels that have been run."""
    tally = Tally(label)
    LOGS.mkdir(parents=True, exist_ok=True)
    junit = LOGS / f"check-{label}.xml"
    junit.unlink(missing_ok=True)
    if label == BENCH:
        BENCH_JSON.unlink(missing_ok=True)
    without = [re.escape(x) for x in done] + ([] if full else [LONG])
    argv = ["ctest", "--test-dir", str(HOST), "-L", f"^{re.escape(label)}$"]
    if without:
        argv += ["-LE", f"^({'|'.join(without)})$"]
    argv += ["--output-junit", str(junit), "--output-on-failure", "--no-tests=ignore"]
    argv += ["--test-output-size-passed", "100000", "-j", str(os.cpu_count() or 1)]
    start = time.monotonic()
    code = run_group(argv, grace=10)  # Interrupted tests clean up after themselves.
    tally.minutes = (time.monotonic() - start) / 60
    if junit.exists():
        read_results(junit, tally)
    if code and not tally.failed:
        tally.failed.append(f"ctest itself (exit code {code})")
    return tally


def arguments() -> argparse.Namespace:
    """The command line; ends the program on a usage error."""
    parser = Parser(
        prog="check",
        description="Installs and builds what is missing, then runs the tests.",
        epilog="exit codes: 0 all passed or skipped, 1 failed or nothing ran, 2 usage, "
        "130 interrupted",
        allow_abbrev=False,
    )
    parser.add_argument("labels", nargs="*", metavar="LABEL", help="only tests with this label")
    parser.add_argument("--list", action="store_true", help="show the labels")
    parser.add_argument("--full", action="store_true", help="the long tests too")
    parser.add_argument(
        "--json", action="store_true", help="print the results as JSON, progress on stderr"
    )
    return parser.parse_args()


def exit_code(tallies: list[Tally]) -> int:
    """Nothing that ran is no success."""
    failed = any(t.failed for t in tallies)
    return EXIT_FAILED if failed or not sum(t.passed for t in tallies) else EXIT_DONE


def print_summary(tallies: list[Tally]) -> None:
    """Prints the results for people; the last line is the sum."""
    failed = [f"{t.label}: {name}" for t in tallies for name in t.failed]
    skipped = [f"{t.label}: {reason}" for t in tallies for reason in t.skipped]
    passed = sum(t.passed for t in tallies)
    for table in (table for t in tallies for table in t.tables):
        print(table.rstrip())
    for line in failed:
        print(f"FAILED  {line}")
    for line in skipped:
        print(f"skipped {line}")
    for t in tallies:
        print(
            f"{t.label}: {t.passed} passed, {len(t.failed)} failed, "
            f"{len(t.skipped)} skipped in {t.minutes:.1f} min"
        )
    print(f"{passed} passed, {len(failed)} failed, {len(skipped)} skipped", flush=True)


def print_json(tallies: list[Tally], out: IO[str]) -> None:
    """Prints the results for programs, with what the benchmarks measured."""
    results: dict[str, object] = {
        "passed": sum(t.passed for t in tallies),
        "failed": sum(len(t.failed) for t in tallies),
        "skipped": sum(len(t.skipped) for t in tallies),
        "labels": {
            t.label: {
                "passed": t.passed,
                "failed": t.failed,
                "skipped": t.skipped,
                "minutes": round(t.minutes, 2),
            }
            for t in tallies
        },
    }
    if any(t.label == BENCH for t in tallies) and BENCH_JSON.exists():
        results[BENCH] = json.loads(BENCH_JSON.read_text())
    json.dump(results, out, indent=2)
    print(file=out, flush=True)


def stdout_for_results() -> IO[str]:
    """The standard output for results alone.

    What else is written there, by programs that we start too, goes to stderr from now on.
    """
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return out


def main() -> int:
    """Exit code of the program."""
    options = arguments()
    results = stdout_for_results() if options.json and not options.list else None
    interrupt_on_signals()
    rundir.remove_stale()
    tallies: list[Tally] = []
    try:
        provision([], tests=True)
        known = known_labels()
        if options.list:
            print("\n".join(known))
            return EXIT_DONE
        unknown = [label for label in options.labels if label not in known]
        if unknown:
            say(f"check: unknown label '{unknown[0]}': choose from {', '.join(known)}")
            return EXIT_USAGE
        wanted = [x for x in known if x in options.labels or not options.labels]
        if set(wanted) - WITHOUT_GUESTS:
            provision(sorted(KERNELS), tests=True)
        for label in wanted:
            tallies.append(run_label(label, [t.label for t in tallies], options.full))
    except HarnessError as error:
        say(f"check: {error}")
        tallies.append(Tally("build", failed=["see above"]))
    except Interrupted:
        say("check: interrupted")
        rundir.remove_stale()
        return EXIT_INTERRUPTED
    if results:
        print_json(tallies, results)
    else:
        print_summary(tallies)
    return exit_code(tallies)


if __name__ == "__main__":
    sys.exit(main())
