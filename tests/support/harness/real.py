# SPDX-License-Identifier: MIT
"""./demo --real: the runs with real KVM and real VFIO, inside a VM (tests/nested)."""

import json
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import report
from .base import (
    BUILD,
    EXIT_INTERRUPTED,
    LOGS,
    TOP,
    HarnessError,
    Interrupted,
    run_group,
    say,
)

NESTED = TOP / "tests" / "nested"
OUTER_KERNEL = "6.1"
DRIVERS = ("nvme", "e1000e", "nvme+e1000e")
_SECONDS = 300  # for each run
_OUTER_MEMORY_MIB = 2048  # beside the guests
COLUMNS: report.Columns = (
    ("run", "mode"),
    ("pages", "pages_total"),
    ("marked", "pages_marked"),
    ("in flight", "pages_in_flight"),
    ("last pass", "pages_last_pass"),
    ("all dirty", "answered_all_dirty"),
    ("passes", "passes"),
    ("downtime", "downtime_ms"),
    ("unplugged", "unplugged_ms"),
    ("LOST", "pages_lost"),
)
NOTES = report.NOTES | {
    "clean": "no device: judge and QEMU are sound",
    "touch": "2015's mechanism: the guest touches pages, KVM's own dirty log sees that",
}


@dataclass(frozen=True)
class Real:
    """What to run."""

    modes: list[str]
    driver: str
    kernel: str
    memory_bytes: int
    cpus: int
    repeat: int
    keep_logs: bool


def run_all(real: Real) -> tuple[list[dict[str, Any]], list[str], int]:
    """All runs in one outer VM, progress on stderr: rows, failures, exit code."""
    count = len(real.modes) * real.repeat
    memory = real.memory_bytes >> 20
    with tempfile.TemporaryDirectory(dir=BUILD) as scratch:
        argv: list[str | Path] = [NESTED / "run", "--results", scratch]
        argv += ["--kernel", OUTER_KERNEL, "--timeout", str(count * _SECONDS)]
        argv += ["--memory", str(_OUTER_MEMORY_MIB + 2 * memory)]
        for kind in real.driver.split("+"):
            argv += ["--device", kind, "--device", kind]  # the source's, the destination's
        argv += [NESTED / "migrate.py", "--quiet", "--mode", ",".join(real.modes)]
        argv += ["--driver", real.driver, "--kernel", real.kernel, "--memory", str(memory)]
        argv += ["--smp", str(real.cpus), "--repeat", str(real.repeat)]
        code = run_group(argv, grace=10, output=sys.stderr.buffer)
        runs = Path(scratch, "runs.json")
        if code != EXIT_INTERRUPTED and (code or real.keep_logs):
            kept = LOGS / "runs" / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}-real"
            shutil.copytree(scratch, kept)
            say(f"real: logs are in {kept}")
        if code == EXIT_INTERRUPTED:
            raise Interrupted
        if not runs.exists():
            raise HarnessError("the runs have left no results", code or 1)
        data = json.loads(runs.read_text())
    return data["runs"], data["failures"], code
