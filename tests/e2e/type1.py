# SPDX-License-Identifier: MIT
"""The marks of a real guest, read by VFIO's type1 calls: see type1_harvest.c."""

import os
from collections.abc import Callable
from dataclasses import replace

from features import SMALL, plain
from moving import moving
from support import BUILD, expect, expect_nothing_left

TYPE1 = replace(SMALL, plugins=(BUILD / "host" / "libpvdirty-qemu-type1.so",))


def type1() -> None:
    """They tell of each page that a device wrote."""
    with moving("log", TYPE1) as guest:
        plain(guest)
        guest.go_on()
    expect_nothing_left(os.getpid())


def drops_a_read() -> None:
    """The control: what a bitmap said that nobody looked at is lost."""
    os.environ["TYPE1_DROPS_A_READ"] = "1"
    with moving("log", TYPE1) as guest:
        guest.receive()
        guest.migration().run()
        found = guest.compare()
        expect(found["x-oracle-uncovered"] > 0, "the oracle saw nothing uncovered")
        expect(found["pages_lost"] > 0, "no page is lost")
    expect_nothing_left(os.getpid())


CASES: dict[str, Callable[[], None]] = {"type1": type1, "type1-drops-a-read": drops_a_read}
