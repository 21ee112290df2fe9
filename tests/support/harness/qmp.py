# SPDX-License-Identifier: MIT
"""QEMU's machine protocol over a unix socket."""

import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


class QmpError(Exception):
    """QEMU refused a command; its description."""


class QmpClosed(Exception):
    """QEMU went away."""


class QmpSilent(QmpClosed):
    """QEMU is there, but has not answered in time."""


def connect_unix(path: Path) -> socket.socket:
    """Connects to a unix socket whose path may be longer than sun_path."""
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(f"/proc/self/fd/{directory}/{path.name}")
        except BaseException:
            connection.close()
            raise
        return connection
    finally:
        os.close(directory)


class Qmp:
    """One connection. Not for several threads."""

    def __init__(self, path: Path, alive: Callable[[], bool], timeout: float = 60.0) -> None:
        deadline = time.monotonic() + timeout
        while True:
            try:
                self._socket = connect_unix(path)
                break
            except OSError as error:
                if not alive():
                    raise QmpClosed("QEMU does not answer") from error
                if time.monotonic() > deadline:
                    raise QmpSilent(f"QEMU does not answer in {timeout:.0f} s") from error
                time.sleep(0.02)
        self._timeout = timeout
        self._socket.settimeout(timeout)
        self._lines = self._socket.makefile("r", encoding="utf-8")
        self._read()
        self.call("qmp_capabilities")

    def _read(self) -> dict[str, Any]:
        try:
            line = self._lines.readline()
        except TimeoutError as error:
            raise QmpSilent(f"QEMU does not answer in {self._timeout:.0f} s") from error
        except OSError as error:
            raise QmpClosed(f"QEMU does not answer: {error}") from error
        if not line:
            raise QmpClosed("QEMU closed its monitor")
        message: dict[str, Any] = json.loads(line)
        return message

    def call(self, name: str, /, **arguments: Any) -> Any:
        """Runs a command and returns what it returns; events are dropped."""
        request = json.dumps({"execute": name, "arguments": arguments})
        try:
            self._socket.sendall(request.encode() + b"\n")
        except OSError as error:
            raise QmpClosed("QEMU closed its monitor") from error
        while True:
            message = self._read()
            if "return" in message:
                return message["return"]
            if "error" in message:
                raise QmpError(message["error"]["desc"])

    def close(self) -> None:
        """Closes the connection."""
        self._lines.close()
        self._socket.close()
