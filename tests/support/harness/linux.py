# SPDX-License-Identifier: MIT
"""Linux source trees of Debian, and kernels of our own made from them."""

from pathlib import Path

from .base import BUILD, HarnessError, Phase, command
from .provision import KERNELS, fresh, locked, stamp, unpack

LINUX = BUILD / "linux"
VERSIONS = tuple(sorted(KERNELS, key=lambda v: int(v.partition(".")[2])))


def source(version: str) -> Path:
    """The unpacked source of Debian's kernel of this series; nobody is to write there."""
    with locked():
        return _source(version)


def _source(version: str) -> Path:
    directory = LINUX / version / "source"
    if stamp(directory):
        return directory / f"linux-source-{version}"
    package = f"linux-source-{version}"
    with Phase(f"getting the source of Linux {version}"):
        log = f"{package}.log"
        unpack([package], fresh(directory), log)
        archive = directory / "usr" / "src" / f"{package}.tar.xz"
        if not archive.exists():
            raise HarnessError(f"Debian's package {package} holds no {archive.name}")
        command(f"unpacking {archive.name}", ["tar", "-xJf", archive, "-C", directory], log)
        archive.unlink()
        (directory / ".stamp").write_text(package)
    return directory / package
