# SPDX-License-Identifier: MIT
"""What a signal leaves behind: nothing."""

import signal
import subprocess
import time
from pathlib import Path

from support import SCRATCH, TOP, expect, expect_nothing_left, qemus_in

from harness import rundir
from harness.base import die_with_parent


def _demo_until(words: str) -> subprocess.Popen[str]:
    """Starts ./demo and returns when its progress has said something."""
    process = subprocess.Popen(
        [TOP / "demo", "--mode", "log"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=die_with_parent(),
    )
    assert process.stderr is not None
    for line in process.stderr:
        print(line, end="", flush=True)
        if words in line:
            return process
    raise AssertionError(f"demo ended without '{words}'")


def _own_directories(pid: int) -> list[Path]:
    return list(SCRATCH.glob(f"{pid}-*"))


def interrupt() -> None:
    """SIGINT and SIGTERM clean up and say 130; SIGKILL leaves no process."""
    for signum, words in ((signal.SIGINT, "pass 1"), (signal.SIGTERM, "warm-up")):
        process = _demo_until(words)
        expect(len(_own_directories(process.pid)) == 1, "no run was there to interrupt")
        process.send_signal(signum)
        out, _ = process.communicate(timeout=20)
        expect(process.returncode == 130, f"{signum.name}: exit code {process.returncode}")
        expect(not out, f"results in spite of {signum.name}: {out}")
        expect_nothing_left(process.pid)

    process = _demo_until("pass 1")
    (directory,) = _own_directories(process.pid)
    expect(len(qemus_in(directory)) == 2, "not two QEMUs were running")
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 5
    while qemus_in(directory):
        expect(time.monotonic() < deadline, "QEMU outlives a killed demo")
        time.sleep(0.1)
    rundir.remove_stale()
    expect_nothing_left(process.pid)
