# SPDX-License-Identifier: MIT
"""Migrations of guests whose kernel checks itself, with pvdirty built in: it has nothing to report.

Afterwards a module that does wrong on purpose is loaded: what it does must be found in the same
log, in the same way, or the checker was not at work.
"""

import re
from collections.abc import Set
from dataclasses import replace
from functools import partial

from mid_migration import BASE, EVENTS, through
from moving import MovingGuest, moving
from support import expect

from harness.linux import CHECKED, functions

MEMORY_BYTES = 512 << 20
# The log, which moves with the guest, has room for all of it; a vCPU that gets no time is no fault
# of the kernel.
KERNEL_OPTIONS = "log_buf_len=16M rcupdate.rcu_cpu_stall_suppress=1"
# What a checker's report begins with, and what comes with any other. What DMA_API_DEBUG says of
# itself at the start is no report.
_REPORT = re.compile(
    r"BUG: .*|WARNING: .*|Oops: .*|general protection fault.*|Kernel panic.*|Call Trace:.*"
    r"|DMA-API: (?!preallocated|debugging enabled).*"
)
_RACE = "BUG: KCSAN: "
_RULE = "=" * 66  # around each report of KASAN and KCSAN
PLANTED = "planted"  # the module's functions begin with that
# What is planted for a checker, and the words of the report.
FAULTS = {
    "kasan": {"use-after-free": "BUG: KASAN: slab-use-after-free in planted_"},
    "kcsan": {"race": "BUG: KCSAN: data-race in planted_"},
    "lockdep": {
        "dma": "tries to free DMA memory it has not allocated",
        "rcu": "WARNING: suspicious RCU usage",
        "lock-order": "WARNING: possible circular locking dependency detected",
    },
}


def _concerns(race: str, ours: Set[str]) -> bool:
    """Does one of these functions, or of the module's, take part in a race?"""
    names = re.findall(r"(\w+)[\w.]*\+0x", race)
    return any(name in ours or name.startswith(PLANTED) for name in names)


def reports(log: str, ours: Set[str]) -> list[str]:
    """The first lines of what a kernel reports, but for races in which no function of ours is."""
    found = []
    for part in log.split(_RULE):
        if _RACE in part and not _concerns(part, ours):
            continue
        found += [match.group() for match in _REPORT.finditer(part)]
    return found


def _log(guest: MovingGuest) -> str:
    """What the kernel has said since this was asked last."""
    before = len(guest.source.serial)
    guest.order("dmesg -c")
    return guest.source.serial[before:]


def checked(kernel: str) -> None:
    """Nothing is reported, from the boot to the destination; then what is planted is."""
    ours = functions(kernel)
    config = replace(
        BASE, kernel=kernel, memory_bytes=MEMORY_BYTES, kernel_options=KERNEL_OPTIONS
    )
    with moving("log", config) as guest:
        through(guest, EVENTS["rebind"])
        guest.go_on()
        log = _log(guest)
        expect("Linux version" in log, "the log does not begin with the boot")
        found = reports(log, ours)
        expect(not found, f"{kernel} reports {found}: {log[-5000:]}")
        # A checker's report may have it stop checking: each fault has to be found by itself.
        for fault, words in FAULTS[kernel.partition("-")[0]].items():
            guest.order(f"insmod /modules/{PLANTED}.ko fault={fault}; rmmod {PLANTED}")
            log = _log(guest)
            found = reports(log, ours)
            told = any(words in line for line in found)
            expect(told, f"no '{words}' among {found}: {log[-5000:]}")


CASES = {f"checked-{kernel}": partial(checked, kernel) for kernel in CHECKED}
