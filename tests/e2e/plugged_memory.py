# SPDX-License-Identifier: MIT
"""Memory that is plugged while the guest runs, and devices that write to it.

The guest's log has places for it where the firmware announces it. Where it does not (QEMU's old
machine types), mapping a page of it makes the log incomplete, and that is said.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from faults import Guest
from impossible import OWN, SLOW, WITH_DISK, Way, ask, begin, expect_said, go_on, guest_with_edu
from support import expect

from harness import run
from harness.topology import PORTS, ROOT_PORTS

DIMM_BYTES = 256 << 20
# What comes stays offline until it is told; Debian's 6.12 would not wait.
PLUGGABLE = {
    "memory_options": ",slots=2,maxmem=4G",
    "kernel_options": "memhp_default_state=offline",
}
# The last machine without an SRAT for what may be plugged.
UNANNOUNCED = replace(ROOT_PORTS, machine="pc-q35-2.10")
BEYOND = 1 << 32  # where the DIMM is, and where this guest has nothing else
BACKEND = {"qom-type": "memory-backend-memfd", "id": "more", "size": DIMM_BYTES, "share": True}
AT_DESTINATION = (
    "-object",
    f"memory-backend-memfd,id=more,size={DIMM_BYTES},share=on",
    "-device",
    "pc-dimm,id=dimm0,memdev=more",
)
BLOCKS = "/sys/devices/system/memory"
SEE = f"until [ $(cat {BLOCKS}/memory*/state | grep -c offline) = 2 ]; do usleep 100000; done"
ONLINE = f"for m in $(grep -l offline {BLOCKS}/memory*/state); do echo online_kernel >$m; done"
FREE = "sed -n '/zone *Normal/,/pages free/p' /proc/zoneinfo | grep 'pages free'"
LEFT = "the port was reset, or the guest left it"
OUTSIDE = replace(
    OWN,
    says="it mapped",
    log=("NOT tracked: it mapped memory that the log does not describe",),
    incomplete="0x1 outside",
)


def _plug(guest: Guest) -> None:
    """Plugs memory; the guest sees it and does not use it yet."""
    guest.vm.call("object-add", **BACKEND)
    guest.vm.call("device_add", driver="pc-dimm", id="dimm0", memdev="more")
    guest.order(SEE)
    guest.config = replace(guest.config, more=guest.config.more + AT_DESTINATION)


def _free(guest: Guest) -> int:
    """Free pages of the zone that only the new memory is in."""
    return int(ask(guest, FREE).split()[2])


def _expect_beyond(guest: Guest, way: Way) -> None:
    """The device's pages are in the new memory."""
    begin(guest, way)
    said = ask(guest, "dmesg | grep 'first page'")
    expect(int(said.split("first page ")[1].split()[0], 16) >= BEYOND, f"elsewhere: {said}")


def tracked(kernel: str) -> None:
    """The log grows, in a migration that fails for it; the next one loses nothing."""
    with guest_with_edu("memory", kernel, WITH_DISK, **PLUGGABLE) as guest:
        begin(guest, OWN)
        _plug(guest)
        guest.start()
        guest.order(f"killall load; wait; dmesg -c >/dev/null; {ONLINE}")
        guest.expect_failed((LEFT,))
        log = ask(guest, "dmesg | grep pvdirty")
        expect(f"log grown by a GiB window at {BEYOND:#x}" in log, "the log has not grown")
        for port in PORTS:
            why = guest.vm.port(port, "why-incomplete")
            expect(guest.vm.port(port, "complete"), f"{port} is not tracked again: {why}")

        # From here on both devices write to the new memory.
        guest.order(OWN.end)
        before = _free(guest)
        guest.order("echo PVDIRTY init again; start_load; echo PVDIRTY READY")
        run.warm_up(guest.vm, guest.config, guest.progress)
        expect(before - _free(guest) > 10000, "the workload's memory is elsewhere")
        _expect_beyond(guest, OWN)
        guest.start()
        go_on(guest, OWN)
        guest.complete_equal()
        assert guest.destination
        run.resume(guest.destination, guest.config, guest.generator, guest.progress)
        expect(guest.destination.load().errors == 0, "errors in the guest's data")


def outside(kernel: str) -> None:
    """Without a place in the log: refused, as the first page of it is mapped."""
    with guest_with_edu("outside", kernel, topology=UNANNOUNCED, **PLUGGABLE) as guest:
        guest.order("dmesg -c >/dev/null")
        _plug(guest)
        guest.order(ONLINE)
        log = ask(guest, "dmesg | grep pvdirty")
        words = f"the log cannot describe new memory at {BEYOND:#x}"
        expect(words in log, f"no '{words}' in the kernel's log")
        _expect_beyond(guest, OUTSIDE)
        expect_said(guest, OUTSIDE)


def outside_blind(kernel: str) -> None:
    """The control: a blind host loses what was written there."""
    with guest_with_edu(
        "outside", kernel, WITH_DISK, topology=UNANNOUNCED, port_options=run.BLIND, **PLUGGABLE
    ) as guest:
        _plug(guest)
        guest.order(ONLINE)
        _expect_beyond(guest, OUTSIDE)
        guest.start(passes=1, bandwidth=SLOW)
        go_on(guest, OUTSIDE)
        found = guest.complete()
        expect(found["pages_lost"] > 0, "nothing is lost, this proves nothing")
        expect(found["x-oracle-uncovered"] > 0, "the oracle saw nothing")


_CASES: dict[str, Callable[[str], None]] = {
    "plugged-memory": tracked,
    "plugged-memory-outside": outside,
    "plugged-memory-outside-blind": outside_blind,
}
CASES: dict[str, Callable[[], None]] = {
    name + suffix: partial(case, kernel)
    for name, case in _CASES.items()
    for kernel, suffix in (("6.1", ""), ("6.12", "-6.12"))
}
