# SPDX-License-Identifier: MIT
"""Guests whose RAM is of huge pages on the host: to ordinary RAM, and back."""

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from features import SMALL, plain
from moving import MovingGuest, moving
from support import expect, expect_nothing_left

from harness.vm import VmConfig

POOL = Path("/proc/sys/vm/nr_hugepages")
SIZE = 2 << 20
MEMORY = "memory-backend-memfd,id=m0,"


@dataclass(frozen=True)
class HugeConfig(VmConfig):
    """A VM whose RAM may be of huge pages."""

    huge: bool = True

    def command_line(self, name: str, disk: Path, incoming: bool) -> list[str]:
        """As the base's, with another memory backend."""
        argv = super().command_line(name, disk, incoming)
        if not self.huge:
            return argv
        huge = f"{MEMORY}hugetlb=on,hugetlbsize={SIZE},"
        return [argument.replace(MEMORY, huge) for argument in argv]


BASE = HugeConfig(
    memory_bytes=SMALL.memory_bytes, cpu_pages_per_second=SMALL.cpu_pages_per_second
)


def _free() -> int:
    (found,) = re.findall(r"HugePages_Free: +(\d+)", Path("/proc/meminfo").read_text())
    return int(found)


def _resize_pool(pages: int) -> None:
    try:
        POOL.write_text(str(pages))
    except OSError as error:
        raise AssertionError(f"the kernel's pool of huge pages cannot be set: {error}") from error


@contextlib.contextmanager
def _reserved(pages: int) -> Iterator[None]:
    """So many more huge pages in the kernel's pool; without them there is nothing to test."""
    before = int(POOL.read_text())
    _resize_pool(before + pages)
    try:
        free = _free()
        expect(free >= pages, f"{free} huge pages, not {pages}: memory is short, or in pieces")
        yield
    finally:
        _resize_pool(before)


def _expect_size(guest: MovingGuest) -> None:
    """QEMU's own word for what its RAM is made of."""
    shown = guest.source.call("human-monitor-command", **{"command-line": "info ramblock"})
    wanted = "2 MiB" if isinstance(guest.config, HugeConfig) and guest.config.huge else "4 KiB"
    expect(bool(re.search(rf"^\s*\S*m0\s+{wanted}\s", shown, re.M)), f"not of {wanted}: {shown}")


def migrate(mode: str, base: HugeConfig = BASE) -> None:
    """Each side has its own kind of pages."""
    with _reserved(base.memory_bytes // SIZE), moving(mode, base) as guest:
        _expect_size(guest)
        for huge in (False, True):
            guest.config = replace(guest.config, huge=huge)
            plain(guest)
            if guest.blind:
                break
            guest.go_on()
            _expect_size(guest)
    expect_nothing_left(os.getpid())


CASES: dict[str, Callable[[], None]] = {
    "huge-pages": partial(migrate, "log"),
    "huge-pages-blind": partial(migrate, "off"),
    "huge-pages-6.12": partial(migrate, "log", replace(BASE, kernel="6.12")),
}
