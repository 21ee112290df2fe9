#!/usr/bin/python3 -sB
# SPDX-License-Identifier: MIT
"""Inside the outer VM: what KVM itself writes into guest RAM that no dirty log carries over.

A guest tells KVM by MSRs where it may write on its own account: clocks, stolen time, and so on.
KVM's tracepoints say which, so each byte that differs after a migration must lie in one of these
places, and whoever wrote there must be found in the trace too.

Without kvmclock nothing differs: what KVM writes in a running guest is in its dirty log. With it
the wall clock does: the destination's KVM writes it as soon as QEMU sets the MSR that was migrated.
"""

import functools
import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inner import Pair, Setup, Vm, expect, main, pair, with_second_try

from harness.run import PAGE

TRACING = Path("/sys/kernel/debug/tracing")
WALL_CLOCK, SYSTEM_TIME = "wall clock", "system time"
# Linux: asm/kvm_para.h. Name, bits of the MSR that are no address, bytes of the structure.
MSRS = {
    0x4B564D00: (WALL_CLOCK, 0x0, 12),
    0x4B564D01: (SYSTEM_TIME, 0x1, 32),
    0x4B564D02: ("asynchronous page faults", 0x3F, 64),
    0x4B564D03: ("stolen time", 0x3F, 64),
    0x4B564D04: ("end of interrupt", 0x3, 4),
}
# What in the trace says that KVM has written one.
WRITERS = {WALL_CLOCK: "pvd_wall_clock", SYSTEM_TIME: "kvm_pvclock_update"}


@dataclass(frozen=True)
class Place:
    """A structure that KVM writes."""

    name: str
    gpa: int
    size: int

    def holds(self, gpa: int) -> bool:
        """Is this byte of it?"""
        return self.gpa <= gpa < self.gpa + self.size


def _put(path: str, text: str) -> None:
    (TRACING / path).write_text(text)


@contextmanager
def traced() -> Iterator[None]:
    """Has the kernel trace what a guest tells KVM, and when KVM writes a clock."""
    symbols = Path("/proc/kallsyms").read_text()
    found = re.search(r" (kvm_write_wall_clock\S*)\t\[kvm\]", symbols)
    expect(found is not None, "the kernel has no function that writes the wall clock")
    _put("trace", "")
    _put("kprobe_events", f"p:pvd_wall_clock kvm:{found[1] if found else ''}")
    events = ("kvm/kvm_msr", "kvm/kvm_pvclock_update", "kprobes/pvd_wall_clock")
    _put(f"events/{events[0]}/filter", f"write == 1 && ecx >= {min(MSRS)} && ecx <= {max(MSRS)}")
    try:
        for event in events:
            _put(f"events/{event}/enable", "1")
        yield
    finally:
        for event in events:
            _put(f"events/{event}/enable", "0")
        _put("kprobe_events", "")


def _lines(vm: Vm) -> list[str]:
    """What the threads of a VM's process have left in the trace."""
    threads = {path.name for path in Path(f"/proc/{vm.process.pid}/task").iterdir()}
    lines = (TRACING / "trace").read_text().splitlines()
    return [x for x in lines if (m := re.search(r"-(\d+)\s+\[\d+\]", x)) and m[1] in threads]


def places(vm: Vm) -> list[Place]:
    """Where the guest lets KVM write."""
    out = []
    for line in _lines(vm):
        if found := re.search(r"msr_write ([0-9a-f]+) = 0x([0-9a-f]+)", line):
            name, flags, size = MSRS[int(found[1], 16)]
            if address := int(found[2], 16) & ~flags:
                out.append(Place(name, address, size))
    return out


def writes(vm: Vm, name: str) -> int:
    """How often the VM's KVM wrote such a structure."""
    return sum(f"{WRITERS[name]}:" in line for line in _lines(vm))


def _memory(at: Pair, name: str, block: str, page: int) -> bytes:
    dump = json.loads((at.directory / f"{name}.dump" / "blocks.json").read_text())
    fd = next(b["fd"] for b in dump["blocks"] if b["name"] == block)
    with Path(f"/proc/{dump['pid']}/fd/{fd}").open("rb") as ram:
        ram.seek(page * PAGE)
        return ram.read(PAGE)


def explain(at: Pair, found: dict[str, Any]) -> set[str]:
    """Names the structure of each byte that differs; a byte without one is an error."""
    known = places(at.source)
    names = set()
    for rng in found["ranges"]:
        expect(rng["block"] == "m0", f"a page of {rng['block']} differs")
        for page in range(rng["first"], rng["last"] + 1):
            # The guest's RAM ends below the hole, so it begins at address 0.
            a, b = (_memory(at, name, "m0", page) for name in ("source", "destination"))
            bytes_there = [page * PAGE + i for i in range(PAGE) if a[i] != b[i]]
            of: dict[Place, list[int]] = {}
            for gpa in bytes_there:
                place = next((p for p in known if p.holds(gpa)), None)
                expect(place is not None, f"the byte at {gpa:#x} differs, and is not KVM's")
                if place:
                    of.setdefault(place, []).append(gpa - place.gpa)
            for place, offsets in of.items():
                print(f"page {page:#x}: {place.name} at {place.gpa:#x}, its bytes {offsets}")
                names.add(place.name)
    return names


def once(cpus: int, kvmclock: bool, title: str) -> None:
    """A migration, and what differs after it."""
    with traced(), pair(Setup(cpus=cpus, kvmclock=kvmclock), title) as at:
        at.migrate()
        found = at.compare()
        where = {p.name for p in places(at.source)}
        print(f"{title}: {found['pages_lost']} pages differ; KVM may write: {sorted(where)}")
        expect((WALL_CLOCK in where) == kvmclock, "kvmclock or not")
        names = explain(at, found)
        if not kvmclock:
            expect(not names, f"{names} differ without kvmclock")
        else:
            # Setting its MSR, as QEMU does with the state that it loads, has KVM write it at once.
            expect(names == {WALL_CLOCK}, f"not the wall clock alone: {names}")
            here = writes(at.destination, WALL_CLOCK)
            expect(here > 0, "the destination's KVM did not write the wall clock")
            print(f"{title}: the destination's KVM wrote the wall clock {here} times on loading")
        # No vCPU has run there.
        expect(writes(at.destination, SYSTEM_TIME) == 0, "the destination's clock runs already")
        at.go_on()
        if kvmclock:
            expect(writes(at.destination, SYSTEM_TIME) > 0, "the trace does not see the clock")


def body() -> None:
    """With kvmclock and without."""
    for cpus in (1, 2):
        for kvmclock in (False, True):
            title = f"{cpus} vCPU, {'' if kvmclock else '-'}kvmclock"
            with_second_try(functools.partial(once, cpus, kvmclock, title), title)


if __name__ == "__main__":
    sys.exit(main(body))
