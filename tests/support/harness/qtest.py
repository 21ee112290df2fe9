# SPDX-License-Identifier: MIT
"""QEMU's qtest protocol: guest RAM and config space in the hands of a test, without a guest.

The VM is stopped (-S): what is done here is all that its guest ever does. QEMU runs each
command in its main loop under the BQL, like the exit of a vCPU.
"""

import time
from collections.abc import Callable
from pathlib import Path

from .qmp import QmpClosed, connect_unix

_ADDRESS = 0xCF8
_DATA = 0xCFC
_LETTERS = {1: "b", 2: "w", 4: "l"}


class Qtest:
    """One connection. Not for several threads."""

    def __init__(self, path: Path, alive: Callable[[], bool], timeout: float = 30.0) -> None:
        deadline = time.monotonic() + timeout
        while True:
            try:
                self._socket = connect_unix(path)
                break
            except OSError as error:
                if not alive() or time.monotonic() > deadline:
                    raise QmpClosed("QEMU has no qtest socket") from error
                time.sleep(0.02)
        self._socket.settimeout(timeout)
        self._lines = self._socket.makefile("r", encoding="ascii")

    def command(self, *words: str | int) -> list[str]:
        """Sends one command; returns the words after OK."""
        line = " ".join(hex(w) if isinstance(w, int) else w for w in words)
        try:
            self._socket.sendall(line.encode() + b"\n")
            while True:
                answer = self._lines.readline().split()
                if not answer:
                    raise QmpClosed("QEMU closed its qtest socket")
                if answer[0] == "OK":
                    return answer[1:]
                if answer[0] != "IRQ":
                    raise QmpClosed(f"qtest: {line[:60]}: {' '.join(answer)}")
        except OSError as error:
            raise QmpClosed(f"qtest: {line[:60]}: {error}") from error

    def write(self, gpa: int, data: bytes) -> None:
        """Writes guest memory as a CPU does."""
        self.command("write", gpa, len(data), "0x" + data.hex())

    def fill(self, gpa: int, size: int, byte: int) -> None:
        """Sets guest memory to one byte."""
        self.command("memset", gpa, size, byte)

    def read(self, gpa: int, size: int) -> bytes:
        """Reads guest memory."""
        return bytes.fromhex(self.command("read", gpa, size)[0].removeprefix("0x"))

    def _select(self, devfn: int, offset: int, bus: int) -> int:
        self.command("outl", _ADDRESS, 1 << 31 | bus << 16 | devfn << 8 | offset & 0xFC)
        return _DATA + offset % 4

    def config_read(self, devfn: int, offset: int, width: int, bus: int = 0) -> int:
        """Reads PCI config space as firmware does, through I/O ports."""
        port = self._select(devfn, offset, bus)
        return int(self.command("in" + _LETTERS[width], port)[0], 16)

    def config_write(self, devfn: int, offset: int, width: int, value: int, bus: int = 0) -> None:
        """Writes PCI config space; a width that QEMU can split at the dword's end."""
        port = self._select(devfn, offset, bus)
        self.command("out" + _LETTERS[width], port, value)

    def close(self) -> None:
        """Closes the connection."""
        self._lines.close()
        self._socket.close()
