# SPDX-License-Identifier: MIT
"""What the end-to-end cases share. Importing it makes `harness` importable."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "tests" / "support"))

from harness.base import BUILD, die_with_parent, follow_parent  # noqa: E402

SKIP_CODE = 77
SCRATCH = BUILD / "run"


class Skip(Exception):
    """The case cannot be run here; why."""


def expect(holds: bool, otherwise: str) -> None:
    """A check; unlike assert it is never compiled out."""
    if not holds:
        raise AssertionError(otherwise)


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def error_lines(self) -> list[str]:
        """The lines on stderr that are no progress of building or of a run."""
        return [line for line in self.err.splitlines() if line.startswith(("demo:", "check:"))]


def demo(*args: str, timeout: float = 280, env: dict[str, str] | None = None) -> Ended:
    """Runs ./demo to its end. Its output is shown, for ctest's log."""
    done = subprocess.run(
        [TOP / "demo", *args],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        preexec_fn=die_with_parent(),
        env=os.environ | (env or {}),
        check=False,
    )
    print(f"$ ./demo {' '.join(args)}  -> {done.returncode}")
    print(done.stderr + done.stdout, flush=True)
    return Ended(done.returncode, done.stdout, done.stderr)


def qemus_in(directory: Path) -> list[int]:
    """Process ids that work below a directory."""
    found = []
    for proc in Path("/proc").iterdir():
        if not proc.name.isdigit():
            continue
        try:
            cwd = os.readlink(proc / "cwd")
        except OSError:
            continue
        if Path(cwd.removesuffix(" (deleted)")).is_relative_to(directory):
            found.append(int(proc.name))
    return found


def expect_nothing_left(pid: int) -> None:
    """No process and no file of the command with this process id."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        left = [str(p) for p in SCRATCH.glob(f"{pid}-*")]
        processes = [q for p in left for q in qemus_in(Path(p))]
        if not left and not processes:
            return
        time.sleep(0.1)
    raise AssertionError(f"left behind: files {left}, processes {processes}")


def expect_refusal(ended: Ended, code: int, *words: str) -> None:
    """One line on stderr with all these words, this exit code, no result."""
    expect(ended.code == code, f"exit code {ended.code}, not {code}")
    expect(len(ended.error_lines) == 1, f"not one line of error: {ended.error_lines}")
    for word in words:
        expect(word in ended.error_lines[0], f"no '{word}' in: {ended.error_lines[0]}")
    expect(not ended.out, f"results in spite of the error: {ended.out}")


def main(cases: dict[str, Callable[[], None]]) -> int:
    """Runs the case that the command line names; 77 if it skips."""
    # When ctest goes, this goes, with its clean-up.
    follow_parent(signal.SIGTERM)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    name = sys.argv[1] if len(sys.argv) == 2 else ""
    if name not in cases:
        print(f"cases: {' '.join(cases)}", file=sys.stderr)
        return 2
    try:
        cases[name]()
    except Skip as reason:
        print(f"SKIP: {reason}", flush=True)
        return SKIP_CODE
    return 0
