# SPDX-License-Identifier: MIT
"""The command `pvdirty migrate`, as an operator gives it."""

import json
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .base import EXIT_TIMEOUT, HarnessError, die_with_parent
from .run import CLI


@dataclass(frozen=True)
class Ended:
    """How the command ended, and what it reports."""

    code: int
    report: dict[str, Any]
    said: str


def operator(name: str) -> str:
    """The monitor that the command has for itself: a socket in the VM's directory."""
    return f"{name}.operator.qmp"


def with_operator(argv: list[str], name: str) -> list[str]:
    """QEMU's arguments, and that monitor."""
    return [*argv, "-qmp", f"unix:{operator(name)},server=on,wait=off"]


class Command:
    """The command, running. Its temporary files have a directory of their own."""

    def __init__(self, directory: Path, to: str, policy: str, *more: str) -> None:
        self._scratch = directory / "scratch"
        self._scratch.mkdir(exist_ok=True)
        self._log = directory / "command.log"
        argv = [str(CLI), "migrate", "--from", operator("source"), "--to", to]
        argv += ["--policy", policy, "--json", *more]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                argv,
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | {"TMPDIR": str(self._scratch)},
                preexec_fn=die_with_parent(),
            )

    def said(self) -> str:
        """Its progress, and its errors."""
        return self._log.read_text(errors="replace")

    def end(self, timeout: float, tick: Callable[[], None] = lambda: None) -> Ended:
        """Waits for it; it must leave nothing. What it says is shown."""
        deadline = time.monotonic() + timeout
        while self.process.poll() is None:
            if time.monotonic() > deadline:
                self.process.kill()
                self.process.communicate()
                raise HarnessError(
                    f"pvdirty migrate does not end in {timeout:.0f} s: {self.said().strip()}",
                    EXIT_TIMEOUT,
                )
            tick()
            time.sleep(0.05)
        out, err = self.process.communicate()[0], self.said()
        print(f"pvdirty migrate -> {self.process.returncode}\n{err}{out}", flush=True)
        left = list(self._scratch.iterdir())
        if left:
            raise HarnessError(f"pvdirty migrate leaves behind: {left}")
        report = json.loads(out)
        if report["exit_code"] != self.process.returncode:
            raise HarnessError("pvdirty migrate ends with another exit code than it reports")
        return Ended(self.process.returncode, report, err)
