# SPDX-License-Identifier: MIT
"""Ethernet frames for the guests' NICs, from a process-local generator.

The stream is what QEMU's `-netdev stream` reads: each frame behind its length,
32 bits, big-endian. tests/support/guest/net.c checks the frames.
"""

import socket
import struct
import threading
import time
from pathlib import Path

from .qmp import connect_unix

_TABLE_BYTES = 65536
_HEADER = bytes.fromhex("ffffffffffff" "020000000001" "88b5")
_LENGTHS = (1514, 1514, 1514, 590, 60, 1200)


def _table() -> bytes:
    """The high byte of a linear congruence, as in net.c."""
    out = bytearray()
    x = 1
    for _ in range(_TABLE_BYTES + max(_LENGTHS)):
        x = (x * 1664525 + 1013904223) & 0xFFFFFFFF
        out.append(x >> 24)
    return bytes(out)


class FrameGenerator:
    """Sends numbered frames to one VM at a time, at a bounded rate."""

    def __init__(self, bytes_per_second: int) -> None:
        self._rate = bytes_per_second
        self._table = _table()
        self._sequence = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def _frame(self) -> bytes:
        seq = self._sequence
        self._sequence += 1
        body = _LENGTHS[seq % len(_LENGTHS)] - len(_HEADER) - 8
        start = seq * 61 % _TABLE_BYTES
        frame = _HEADER + struct.pack("<Q", seq) + self._table[start : start + body]
        return struct.pack(">I", len(frame)) + frame

    def _send(self, connection: socket.socket) -> None:
        start = time.monotonic()
        sent = 0
        with connection:
            while not self._stop.wait(0.005):
                # What the NIC holds back is not made up for: no bursts.
                due = int((time.monotonic() - start) * self._rate)
                if due - sent > self._rate // 10:
                    sent = due - self._rate // 10
                batch = bytearray()
                while sent + len(batch) < due:
                    batch += self._frame()
                sent += len(batch)
                while batch and not self._stop.is_set():
                    try:
                        del batch[: connection.send(batch)]
                    except TimeoutError:
                        continue
                    except OSError:
                        return  # The VM is gone; its own watcher says so.

    def start(self, path: Path) -> None:
        """Starts to send to the VM whose netdev listens on this socket."""
        self.stop()
        connection = connect_unix(path)
        connection.settimeout(0.1)
        self._stop.clear()
        self._thread = threading.Thread(target=self._send, args=(connection,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stops sending; the next start() goes on with the next frame."""
        self._stop.set()
        if self._thread:
            self._thread.join()
            self._thread = None
