# SPDX-License-Identifier: MIT
"""The command `check`: see --help."""

import argparse
import json
import os
import random
import sys
from pathlib import Path
from typing import IO

from harness import rundir
from harness.base import (
    BUILD,
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    TOP,
    HarnessError,
    Interrupted,
    interrupt_on_signals,
    run_group,
    say,
)
from harness.cli import Parser
from harness.ctest import (
    BENCH,
    BENCH_JSON,
    COST_JSON,
    HOST,
    LONG,
    ON_DEMAND,
    WITHOUT_GUESTS,
    Tally,
    Test,
    known_tests,
    labels_of,
    run_tests,
)
from harness.ledger import Ledger, shard, tree_hash
from harness.linux import OURS, VFIO
from harness.provision import E2E_TARGETS, KERNELS, provision

SOAK = TOP / "tests" / "e2e" / "soak.py"
SOAK_JSON = BUILD / "check" / "soak.json"


def selected(
    label: str, tests: list[Test], done: list[str], full: bool, part: tuple[int, int]
) -> list[str]:
    """Names of a label's tests, but those of labels that have been run; a shard of them."""
    without = {*done} | (set() if full else {LONG})
    names = [test.name for test in tests if label in test.labels and not test.labels & without]
    return shard(names, *part)


def run_label(
    label: str, names: list[str], ledger: Ledger | None, build: Path = HOST
) -> Tally:
    """Runs these tests of a label, or what the ledger does not have of them."""
    tally = Tally(label)
    if ledger:
        before = ledger.passed & set(names)
        tally.passed = tally.before = len(before)
        names = [name for name in names if name not in before]
    # Tests that boot guests are long: what has passed is entered after every few of them.
    few = 4 * (os.cpu_count() or 1) if ledger and label not in WITHOUT_GUESTS else len(names)
    for first in range(0, len(names), max(few, 1)):
        passed = run_tests(names[first : first + few], tally, build)
        if ledger:
            ledger.add(passed)
    return tally


def _shard(text: str) -> tuple[int, int]:
    try:
        number, count = (int(word) for word in text.split("/"))
    except ValueError:
        number, count = 0, 0
    if not 1 <= number <= count:
        raise argparse.ArgumentTypeError(f"'{text}' is not like 1/4, 2/4, 3/4 or 4/4")
    return number, count


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes < float("inf"):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of minutes")
    return minutes


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
    parser.add_argument(
        "--full",
        action="store_true",
        help="the long tests too; a run that was cut short goes on where it was, "
        "as long as the tree is the same",
    )
    parser.add_argument("--shard", type=_shard, metavar="I/N", help="with --full: one part of N")
    parser.add_argument(
        "--restart", action="store_true", help="with --full: forget what has passed before"
    )
    parser.add_argument(
        "--soak",
        type=_minutes,
        metavar="MINUTES",
        help="instead of tests: random cells of the end-to-end matrix, for so long",
    )
    parser.add_argument(
        "--seed",
        metavar="SEED[:FIRST]",
        help="with --soak: draw what this seed drew, from the cell with this number on",
    )
    parser.add_argument(
        "--json", action="store_true", help="print the results as JSON, progress on stderr"
    )
    options = parser.parse_args()
    if not options.full and (options.shard or options.restart):
        parser.error("--shard and --restart are for --full")
    if options.seed is not None and options.soak is None:
        parser.error("--seed is for --soak")
    if options.soak is not None and (options.labels or options.full or options.list):
        parser.error("--soak runs no tests: no LABEL, --full or --list with it")
    return options


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
        before = f" ({t.before} of them before, on the same tree)" if t.before else ""
        print(
            f"{t.label}: {t.passed} passed{before}, {len(t.failed)} failed, "
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
                "passed_before": t.before,
                "failed": t.failed,
                "skipped": t.skipped,
                "minutes": round(t.minutes, 2),
            }
            for t in tallies
        },
    }
    if any(t.label == BENCH for t in tallies):
        if BENCH_JSON.exists():
            results[BENCH] = json.loads(BENCH_JSON.read_text())
        costs = sorted(COST_JSON.glob("*.json"))
        results["cost"] = {path.stem: json.loads(path.read_text()) for path in costs}
    json.dump(results, out, indent=2)
    print(file=out, flush=True)


def stdout_for_results() -> IO[str]:
    """The standard output for results alone.

    What else is written there, by programs that we start too, goes to stderr from now on.
    """
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return out


def soak(options: argparse.Namespace, results: IO[str] | None) -> int:
    """Random migrations; their results stand in a file, for --json."""
    provision(sorted(KERNELS), tests=False, more=E2E_TARGETS)
    seed = options.seed or str(random.SystemRandom().randrange(1 << 32))
    SOAK_JSON.parent.mkdir(parents=True, exist_ok=True)
    SOAK_JSON.unlink(missing_ok=True)
    argv = ["/usr/bin/python3", "-s", "-B", SOAK, str(options.soak), seed, SOAK_JSON]
    code = run_group(argv, grace=10)
    if results and SOAK_JSON.exists():
        results.write(SOAK_JSON.read_text())
        results.flush()
    return code


def run_labels(options: argparse.Namespace, tallies: list[Tally]) -> int:
    """The tests that the options name; results are added as they come."""
    provision([], tests=True)
    tests = known_tests()
    known = labels_of(tests)
    if options.list:
        print("\n".join(known))
        return EXIT_DONE
    unknown = [label for label in options.labels if label not in known]
    if unknown:
        say(f"check: unknown label '{unknown[0]}': choose from {', '.join(known)}")
        return EXIT_USAGE
    ledger = Ledger(tree_hash()) if options.full else None
    if ledger and options.restart:
        ledger.forget()
    unnamed = set(known) - (set() if options.full else set(ON_DEMAND))
    wanted = [x for x in known if x in (options.labels or unnamed)]
    if set(wanted) - WITHOUT_GUESTS:
        own = [kernel for label in wanted for kernel in ON_DEMAND.get(label, ())]
        own = [*OURS, *VFIO] if options.full else own
        provision([*sorted(KERNELS), *own], tests=True)
    done: list[str] = []
    for label in wanted:
        names = selected(label, tests, done, options.full, options.shard or (1, 1))
        tallies.append(run_label(label, names, ledger))
        done.append(label)
    return exit_code(tallies)


def main() -> int:
    """Exit code of the program."""
    options = arguments()
    results = stdout_for_results() if options.json and not options.list else None
    interrupt_on_signals()
    rundir.remove_stale()
    tallies: list[Tally] = []
    try:
        if options.soak is not None:
            return soak(options, results)
        code = run_labels(options, tallies)
        if not tallies:
            return code
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
