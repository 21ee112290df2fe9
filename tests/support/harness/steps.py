# SPDX-License-Identifier: MIT
"""Steps of building below build/: one command at a time, each step with a stamp."""

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .base import BUILD, SUPPORT, command, say

PACKAGES = SUPPORT / "packages.sh"


@contextmanager
def locked() -> Iterator[None]:
    """Two commands at once must not build into the same trees."""
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another demo or check to finish building")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def fresh(directory: Path) -> Path:
    """An empty directory."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory


def stamp(directory: Path) -> str:
    """What a directory was made from, or "" if it is not complete."""
    try:
        return (directory / ".stamp").read_text()
    except OSError:
        return ""


def unpack(packages: list[str], into: Path, log: str) -> None:
    """Downloads packages and unpacks them, dependencies apart, into a directory."""
    debs = fresh(BUILD / "apt" / "debs" / into.name)
    argv = [PACKAGES, "apt-get", "-q", "download", *packages]
    command("downloading " + " ".join(packages), argv, log, cwd=debs)
    for deb in debs.glob("*.deb"):
        command(f"unpacking {deb.name}", ["dpkg-deb", "-x", deb, into], log, append=True)
    shutil.rmtree(debs)
