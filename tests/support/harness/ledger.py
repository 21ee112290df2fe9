# SPDX-License-Identifier: MIT
"""What has passed of a long run, so that one that was cut short goes on where it was."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from .base import BUILD, TOP

NOT_OURS = {".git", "build"}  # of the top level


def _files(top: Path) -> Iterator[Path]:
    for directory, names, files in os.walk(top):
        if Path(directory) == top:
            names[:] = set(names) - NOT_OURS
        names[:] = sorted(set(names) - {"__pycache__"})
        yield from (Path(directory, name) for name in sorted(files))


def tree_hash(top: Path = TOP) -> str:
    """Of the names and contents of all that the project has, committed or not."""
    digest = hashlib.sha256()
    for path in _files(top):
        content = os.readlink(path).encode() if path.is_symlink() else path.read_bytes()
        digest.update(f"{path.relative_to(top)}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


class Ledger:
    """The tests that have passed on this very tree, in a file that each result is added to."""

    def __init__(self, tree: str, path: Path = BUILD / "check" / "passed.json") -> None:
        self._tree = tree
        self._path = path
        self.passed: set[str] = set()
        try:
            kept = json.loads(path.read_text())
        except (OSError, ValueError):
            return
        if kept["tree"] == tree:
            self.passed = set(kept["passed"])

    def add(self, names: set[str]) -> None:
        """These have passed."""
        self.passed |= names
        self._path.parent.mkdir(parents=True, exist_ok=True)
        new = self._path.with_suffix(".new")
        new.write_text(json.dumps({"tree": self._tree, "passed": sorted(self.passed)}))
        new.rename(self._path)

    def forget(self) -> None:
        """Nothing has passed."""
        self.passed.clear()
        self._path.unlink(missing_ok=True)


def shard(names: list[str], number: int, count: int) -> list[str]:
    """The part of the names that one of so many runs takes; numbers start at 1."""
    return sorted(names)[number - 1 :: count]
