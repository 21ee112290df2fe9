# SPDX-License-Identifier: MIT
"""A run's directory below build/run: sockets, logs, disk, dumps; gone afterwards."""

import itertools
import os
import shutil
import time
from pathlib import Path
from types import TracebackType

from .base import BUILD, LOGS

RUNS = BUILD / "run"
_KEPT_SUFFIXES = (".log", ".serial", ".json")
_numbers = itertools.count(1)


def _running(pid: str) -> bool:
    return pid.isdigit() and Path("/proc", pid).exists()


def remove_stale() -> None:
    """Removes what killed runs left behind."""
    for left in RUNS.glob("*"):
        if not _running(left.name.partition("-")[0]):
            shutil.rmtree(left, ignore_errors=True)


class RunDir:
    """A context manager: a fresh directory, removed on the way out.

    The logs in it are kept, in `kept`, when `keep` is set by then.
    """

    def __init__(self, name: str, keep: bool) -> None:
        self.path = RUNS / f"{os.getpid()}-{next(_numbers)}"
        self.keep = keep
        self.kept = LOGS / "runs" / f"{time.strftime('%Y%m%d-%H%M%S')}-{self.path.name}-{name}"

    def __enter__(self) -> "RunDir":
        self.path.mkdir(parents=True)
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        logs = [p for p in self.path.rglob("*") if p.suffix in _KEPT_SUFFIXES and p.stat().st_size]
        if self.keep and logs:
            self.kept.mkdir(parents=True)
            for path in logs:
                shutil.copy(path, self.kept / "-".join(path.relative_to(self.path).parts))
        shutil.rmtree(self.path)
