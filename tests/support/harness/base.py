# SPDX-License-Identifier: MIT
"""Paths, exit codes, errors, and running commands with their output in a log."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

TOP = Path(__file__).resolve().parents[3]
BUILD = TOP / "build"
LOGS = BUILD / "log"
SUPPORT = TOP / "tests" / "support"

# Exit codes of every command of the project.
EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_REFUSED = 3
EXIT_TIMEOUT = 4
EXIT_INTERRUPTED = 130

PR_SET_PDEATHSIG = 1


class HarnessError(Exception):
    """An error that ends the command: one line for the user, an exit code."""

    def __init__(self, message: str, code: int = EXIT_FAILED) -> None:
        super().__init__(message)
        self.code = code


class Interrupted(Exception):
    """SIGINT or SIGTERM arrived."""


def interrupt_on_signals() -> None:
    """Turns the first SIGINT, SIGTERM or SIGHUP into Interrupted.

    Further ones are ignored, so that cleaning up is not cut short.
    """
    caught = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def handler(_signum: int, _frame: object) -> None:
        for signum in caught:
            signal.signal(signum, signal.SIG_IGN)
        raise Interrupted

    for signum in caught:
        signal.signal(signum, handler)


_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent() -> Callable[[], None]:
    """For preexec_fn: the child is killed when this process ends, however."""
    parent = os.getpid()

    def in_child() -> None:
        # A process group of its own: a Ctrl-C at the terminal is ours to handle.
        os.setpgid(0, 0)
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(signum, signal.SIG_DFL)
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return in_child


def follow_parent(signum: int) -> None:
    """This process gets a signal when its parent ends."""
    _libc.prctl(PR_SET_PDEATHSIG, signum, 0, 0, 0)


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Ends a process started with die_with_parent(), and all of its group."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def run_group(
    argv: Sequence[str | Path],
    grace: float,
    cwd: Path | None = None,
    output: IO[bytes] | None = None,
) -> int:
    """Runs a command in a process group of its own; returns its exit code.

    An interruption ends the group: SIGTERM, and SIGKILL after `grace` seconds.
    """
    process = subprocess.Popen(
        [str(a) for a in argv],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT if output else None,
        preexec_fn=die_with_parent(),
    )
    try:
        return process.wait()
    except BaseException:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(grace)
        except subprocess.TimeoutExpired:
            pass
        kill_group(process)
        raise


def last_lines(path: Path, count: int = 15) -> str:
    """The end of a text file, for error messages."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join(lines[-count:])


def say(message: str) -> None:
    """One progress line; progress goes to stderr, results to stdout."""
    print(message, file=sys.stderr, flush=True)


def command(
    what: str,
    argv: Sequence[str | Path],
    log: str,
    cwd: Path | None = None,
    append: bool = False,
) -> None:
    """Runs a long command, its output in build/log/<log>.

    A failure shows the last lines and where the log is. An interruption takes
    the command's whole process group with it.
    """
    LOGS.mkdir(parents=True, exist_ok=True)
    path = LOGS / log
    with path.open("ab" if append else "wb") as out:
        status = run_group(argv, grace=2, cwd=cwd, output=out)
    if status != 0:
        raise HarnessError(f"{last_lines(path)}\n{what} failed; the whole log is {path}")


class Phase:
    """Context manager around one long piece of work: says what, and how long."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.start = 0.0

    def __enter__(self) -> None:
        self.start = time.monotonic()
        say(f"{self.what} ...")

    def __exit__(self, kind: type[BaseException] | None, *_rest: object) -> None:
        if kind is None:
            say(f"{self.what}: {time.monotonic() - self.start:.0f} s")
