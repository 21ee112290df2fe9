# SPDX-License-Identifier: MIT
"""The judges themselves: each rule, and each way a test can end, must be told."""

import io
import json
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import check
from support import BUILD, expect

from harness import report
from harness.ctest import Tally, Test, run_tests
from harness.ledger import Ledger, tree_hash
from harness.run import Outcome, RunResult

GOOD = Outcome(
    RunResult(
        mode="log",
        driver="e1000e",
        kernel="6.1",
        memory_bytes=512 << 20,
        pages_total=131072,
        bytes_compared=512 << 20,
        pages_dma_written=1000,
        pages_marked=1000,
        pages_in_flight=10,
        pages_lost=0,
        pages_uncovered=0,
        pages_overmarked=50,
        pages_last_pass=131072 // 4 - 1,
        answered_all_dirty=0,
        passes=5,
        ram_bytes_sent=1,
        downtime_ms=1,
        guest_io_bytes=1,
    ),
    lost_outside_oracle=0,
    guest_errors=0,
    resumed=True,
    messages=[],
)
GOOD_OFF = replace(
    GOOD, result=replace(GOOD.result, mode="off", pages_lost=9, pages_uncovered=9), resumed=False
)
GOOD_CLEAN = replace(GOOD, result=replace(GOOD.result, mode="clean", pages_dma_written=0))
GOOD_TOUCH = replace(GOOD_OFF, result=replace(GOOD_OFF.result, mode="touch"))


def _expect_broken(outcome: Outcome, word: str, **changes: int) -> None:
    outcome = replace(outcome, result=replace(outcome.result, **changes))
    broken = report.judge(outcome)
    expect(len(broken) == 1 and word in broken[0], f"{changes}: {broken}")


def rules() -> None:
    """Every rule of demo's verdict breaks by itself, with its own sentence."""
    for good in (GOOD, GOOD_OFF, GOOD_CLEAN, GOOD_TOUCH):
        expect(report.judge(good) == [], f"{good.result.mode}: {report.judge(good)}")
        _expect_broken(good, "compared", bytes_compared=(512 << 20) - 1)
        _expect_broken(good, "no I/O", guest_io_bytes=0)
    for good in (GOOD, GOOD_OFF, GOOD_TOUCH):
        _expect_broken(good, "no DMA", pages_dma_written=0)
        _expect_broken(replace(good, lost_outside_oracle=1), "not written by a covered device")
    for good in (GOOD, GOOD_CLEAN):
        _expect_broken(replace(good, resumed=False), "did not go on")
        _expect_broken(replace(good, guest_errors=1), "errors in its data")
    _expect_broken(GOOD, "1 pages were lost", pages_lost=1)
    _expect_broken(GOOD, "not covered", pages_uncovered=1)
    _expect_broken(GOOD, "answered all-dirty", answered_all_dirty=1)
    _expect_broken(GOOD, "last pass", pages_last_pass=131072 // 4)
    _expect_broken(GOOD, "never written", pages_overmarked=51)
    _expect_broken(GOOD, "no page was marked", pages_marked=0, pages_overmarked=0)
    _expect_broken(GOOD_CLEAN, "differ without", pages_lost=1)
    _expect_broken(GOOD_OFF, "proves nothing", pages_lost=0)
    _expect_broken(GOOD_OFF, "nothing uncovered", pages_uncovered=0)


PROJECT = """\
cmake_minimum_required(VERSION 3.25)
project(counting NONE)
enable_testing()
add_test(NAME passes COMMAND true)
add_test(NAME fails COMMAND false)
add_test(NAME skips COMMAND sh -c "echo 'SKIP: no such device'; exit 77")
add_test(NAME missing COMMAND /nonexistent/program)
add_test(NAME late COMMAND sleep 60)
set_tests_properties(skips PROPERTIES SKIP_RETURN_CODE 77)
set_tests_properties(late PROPERTIES TIMEOUT 1)
set_tests_properties(passes fails skips missing late PROPERTIES LABELS counting)
"""


def counting() -> None:
    """check counts what ctest reports: only what ran and succeeded has passed."""
    with tempfile.TemporaryDirectory(dir=BUILD) as scratch:
        top = Path(scratch)
        (top / "CMakeLists.txt").write_text(PROJECT)
        subprocess.run(["cmake", "-S", top, "-B", top / "b"], check=True)
        names = ["passes", "fails", "skips", "missing", "late"]
        tally = Tally("counting")
        passed = run_tests(names, tally, top / "b")
        gone = Tally("counting")
        run_tests(["passes", "is-not-there"], gone, top / "b")
    expect(passed == {"passes"}, f"passed: {passed}")
    expect(gone.passed == 1 and len(gone.failed) == 1, f"a test that is not there: {gone}")
    expect(tally.passed == 1, f"passed: {tally.passed}")
    failed = sorted(name.partition(":")[0] for name in tally.failed)
    expect(failed == ["fails", "late", "missing"], f"failed: {tally.failed}")
    expect(tally.skipped == ["skips: no such device"], f"skipped: {tally.skipped}")
    expect(check.exit_code([tally]) == 1, "exit code with failures")
    expect(check.exit_code([Tally("none")]) == 1, "exit code when nothing ran")
    expect(check.exit_code([Tally("one", passed=1)]) == 0, "exit code when all passed")
    printed = io.StringIO()
    check.print_json([tally], printed)
    counted = json.loads(printed.getvalue())
    sums = [counted[key] for key in ("passed", "failed", "skipped")]
    expect(sums == [1, 3, 1], f"as JSON: {counted}")


def shards() -> None:
    """All shards together are all tests, once; and only what passed on the same tree is left out."""
    tests = [Test(f"t{i}", frozenset({"unit", *(["long"] if i % 3 else [])})) for i in range(10)]
    tests.append(Test("other", frozenset({"unit", "property"})))
    for count in (1, 2, 3, 4, 20):
        parts = [
            check.selected("unit", tests, ["property"], True, (number, count))
            for number in range(1, count + 1)
        ]
        together = [name for part in parts for name in part]
        expect(sorted(together) == sorted(f"t{i}" for i in range(10)), f"{count} shards: {parts}")
    short = check.selected("unit", tests, [], False, (1, 1))
    expect(short == ["other", "t0", "t3", "t6", "t9"], f"without the long ones: {short}")

    with tempfile.TemporaryDirectory(dir=BUILD) as scratch:
        top = Path(scratch)
        (top / "a").write_text("1")
        first = tree_hash(top)
        kept = top / "build" / "passed.json"
        Ledger(first, kept).add({"t0"})
        Ledger(first, kept).add({"t1"})
        expect(tree_hash(top) == first, "what is below build/ counts")
        expect(Ledger(first, kept).passed == {"t0", "t1"}, "what has passed is forgotten")
        (top / "a").write_text("2")
        expect(tree_hash(top) != first, "a change is not seen")
        expect(not Ledger(tree_hash(top), kept).passed, "passed on another tree")
        ledger = Ledger(first, kept)
        ledger.forget()
        expect(not Ledger(first, kept).passed, "not forgotten")

        (top / "CMakeLists.txt").write_text(PROJECT)
        subprocess.run(["cmake", "-S", top, "-B", top / "b"], check=True)
        ledger.add({"missing"})
        tally = check.run_label("counting", ["passes", "missing"], ledger, top / "b")
        expect((tally.passed, tally.before, tally.failed) == (2, 1, []), f"not left out: {tally}")
        expect(Ledger(first, kept).passed == {"passes", "missing"}, "not entered")
        check.run_label("counting", ["fails"], ledger, top / "b")
        expect("fails" not in Ledger(first, kept).passed, "a failure counts as passed")
