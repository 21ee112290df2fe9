# SPDX-License-Identifier: MIT
"""ctest: which tests there are, running some of them, and counting what became of each."""

import json
import os
import re
import subprocess
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from pathlib import Path

from .base import BUILD, LOGS, run_group
from .linux import BUILT_IN, VFIO

HOST = BUILD / "host"
BENCH = "bench"
BENCH_JSON = HOST / "tests" / "bench" / "bench.json"
COST_JSON = HOST / "tests" / "bench" / "cost"  # a file for each guest that was measured
LONG = "long"
# Cheap ones first; a label that only tests of later work carry comes last.
ORDER = (
    "style", "unit", "property", "model", "mutants", "fuzz", "kernel", "kunit", "e2e", "nested", "vfio", "bench"
)  # fmt: skip
WITHOUT_GUESTS = {"style", "unit", "property", "model", "mutants", "fuzz"}
# Labels for kernels that take long to build: only if they are named, or with --full.
ON_DEMAND = {"kunit": tuple(BUILT_IN), "vfio": tuple(VFIO)}


@dataclass(frozen=True)
class Test:
    """A test that ctest knows."""

    name: str
    labels: frozenset[str]


@dataclass
class Tally:
    """Results of one label."""

    label: str
    passed: int = 0
    before: int = 0  # of these, in an earlier run on the same tree
    failed: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)  # "name: reason"
    minutes: float = 0.0
    tables: list[str] = field(default_factory=list)  # what benchmarks print


def known_tests() -> list[Test]:
    """All tests."""
    shown = subprocess.run(
        ["ctest", "--test-dir", HOST, "--show-only=json-v1"],
        stdout=subprocess.PIPE,
        check=True,
    ).stdout
    tests = []
    for test in json.loads(shown)["tests"]:
        properties = {p["name"]: p["value"] for p in test.get("properties", [])}
        tests.append(Test(test["name"], frozenset(properties.get("LABELS", []))))
    return tests


def labels_of(tests: list[Test]) -> list[str]:
    """The labels that they carry, in the order in which they run."""
    labels = set().union(*(test.labels for test in tests)) - {LONG}
    return sorted(labels, key=lambda x: (ORDER.index(x) if x in ORDER else len(ORDER), x))


def forget_benchmarks() -> None:
    """What an earlier run measured is none of this one's results."""
    BENCH_JSON.unlink(missing_ok=True)
    for path in COST_JSON.glob("*.json"):
        path.unlink()


def _skip_reason(case: ElementTree.Element) -> str:
    output = case.findtext("system-out") or ""
    found = re.findall(r"^SKIP: (.*)$", output, re.MULTILINE)
    if found:
        return str(found[-1])
    skipped = case.find("skipped")
    return (skipped.get("message") if skipped is not None else None) or "no reason given"


def read_results(path: Path, tally: Tally) -> set[str]:
    """Adds a JUnit file's cases to a tally; those that have passed. What did not run has not."""
    passed = set()
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        name = case.get("name", "?")
        status = case.get("status")
        if status == "run":
            tally.passed += 1
            passed.add(name)
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
    return passed


def run_tests(names: list[str], tally: Tally, build: Path = HOST) -> set[str]:
    """Runs these tests of a label, adds their results, and returns those that have passed."""
    LOGS.mkdir(parents=True, exist_ok=True)
    junit = LOGS / f"check-{tally.label}.xml"
    junit.unlink(missing_ok=True)
    if tally.label == BENCH:
        if not tally.passed:
            forget_benchmarks()
    argv = ["ctest", "--test-dir", str(build), "-L", f"^{re.escape(tally.label)}$"]
    argv += ["-R", f"^({'|'.join(re.escape(name) for name in names)})$"]
    argv += ["--output-junit", str(junit), "--output-on-failure", "--no-tests=error"]
    argv += ["--test-output-size-passed", "100000", "-j", str(os.cpu_count() or 1)]
    failures, counted = len(tally.failed), tally.passed + len(tally.failed) + len(tally.skipped)
    start = time.monotonic()
    code = run_group(argv, grace=10)  # Interrupted tests clean up after themselves.
    tally.minutes += (time.monotonic() - start) / 60
    passed = read_results(junit, tally) if junit.exists() else set()
    if code and len(tally.failed) == failures:
        tally.failed.append(f"ctest itself (exit code {code})")
    ran = tally.passed + len(tally.failed) + len(tally.skipped) - counted
    if ran < len(names):
        tally.failed.append(f"{len(names) - ran} tests that ctest did not find")
    return passed
