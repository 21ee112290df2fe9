# SPDX-License-Identifier: MIT
"""Progress of a run: one line redrawn on a terminal, else a line now and then."""

import os
import shutil
import sys
import time

_BAR = 24
_QUIET_SECONDS = 2.0


class Progress:
    """Where a run is. Prints to stderr."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._tty = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._start = time.monotonic()
        self._phase = ""
        self._printed = 0.0
        self._drawn = False

    def show(self, phase: str, detail: str = "", fraction: float | None = None) -> None:
        """Says what is going on.

        phase: a word or two; a new one is always printed.
        fraction: 0..1 for a bar.
        """
        now = time.monotonic()
        if not self._tty and phase == self._phase and now - self._printed < _QUIET_SECONDS:
            return
        self._phase = phase
        self._printed = now
        parts = [f"{now - self._start:5.1f} s  {self._title}: {phase}"]
        if fraction is not None:
            full = round(min(max(fraction, 0.0), 1.0) * _BAR)
            parts.append("[" + "#" * full + "." * (_BAR - full) + "]")
        if detail:
            parts.append(detail)
        line = "  ".join(parts)
        if self._tty:
            width = shutil.get_terminal_size().columns - 1
            sys.stderr.write("\r\x1b[K" + line[:width])
            self._drawn = True
        else:
            sys.stderr.write(line + "\n")
        sys.stderr.flush()

    def close(self) -> None:
        """Removes the redrawn line."""
        if self._drawn:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._drawn = False
