# SPDX-License-Identifier: MIT
"""Memory that is plugged, and unplugged, while the guest runs, and devices that write to it.

The guest's log has places for it where the firmware announces it. Where it does not (QEMU's old
machine types), mapping a page of it makes the log incomplete, and that is said.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from faults import Guest
from features import SMALL
from impossible import OWN, SLOW, WITH_DISK, Way, ask, begin, expect_said, go_on, guest_with_edu
from mid_migration import PASSES, expect_refused, expect_tracked
from moving import BANDWIDTH, MovingGuest, moving
from support import expect, expect_nothing_left

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
# Only the memory of programs is there, so that it can be taken back.
ONLINE_MOVABLE = ONLINE.replace("online_kernel", "online_movable")
ZONES = f"{BLOCKS}/memory*/valid_zones"
OFFLINE = f"for z in $(grep -l Movable {ZONES}); do echo offline >${{z%/*}}/state; done"
FREE = "sed -n '/zone *Normal/,/pages free/p' /proc/zoneinfo | grep 'pages free'"
USED = "PVDIRTY movable"
SAY_USED = f"echo {USED} $(sed -n '/zone *Movable/,/present/p' /proc/zoneinfo | tr -s '\\n ' ' ')"
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


def _expect_used(guest: MovingGuest) -> None:
    """The disk writes there: half of the memory for programs, and more, is in use."""
    guest.order(SAY_USED)
    said = guest.source.serial.split(USED)[-1].split("\n")[0].split()
    free, present = (int(said[said.index(word) + 1]) for word in ("free", "present"))
    expect(present == DIMM_BYTES // 4096, f"{present} pages are for programs alone")
    expect(free < present - 8192, f"{free} of these are free")


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


def _only_elsewhere(found: dict[str, Any], _dump: Path) -> None:
    """The oracle's dump is of the machine's own RAM: there it is judged what a device wrote."""
    lost = next(block["pages_lost"] for block in found["blocks"] if block["name"] == "more")
    expect(lost > 0, "nothing of what was plugged is lost")
    found["pages_lost_outside_oracle"] -= lost


def unplugged(mode: str, kernel: str) -> None:
    """Taken out of use in the middle of a migration, and unplugged before the next one."""
    base = replace(SMALL, kernel=kernel, drivers=WITH_DISK, control=True, disk_writes=False)
    with moving(mode, replace(base, **PLUGGABLE)) as guest:
        vm = guest.source
        vm.call("object-add", **BACKEND)
        vm.call("device_add", driver="pc-dimm", id="dimm0", memdev="more")
        guest.config = replace(guest.config, more=AT_DESTINATION)
        guest.order(f"{SEE}; killall load; wait; {ONLINE_MOVABLE}")
        guest.work_anew()
        guest.wait_for_work()
        _expect_used(guest)
        if not guest.blind:
            expect_tracked(guest)

        guest.receive()
        migration = guest.migration(may_end=lambda _: False)
        migration.hold_in_pass(PASSES)
        expect_refused(guest, "device_del not allowed while migrating", "device_del", id="dimm0")
        guest.order(f"killall load; wait; {OFFLINE}")
        guest.work_anew()
        guest.wait_for_work()
        migration.limit(BANDWIDTH)
        migration.release()
        migration.run()
        if guest.blind:
            guest.excuse = _only_elsewhere
        guest.judge()
        if guest.blind:
            return

        guest.go_on()
        guest.source.call("device_del", id="dimm0")
        guest.until("end of the memory", lambda: not guest.source.call("query-memory-devices"))
        guest.source.call("object-del", id="more")
        guest.config = replace(guest.config, more=())
        guest.wait_for_work()
        guest.cross(guest)
        guest.go_on()
    expect_nothing_left(os.getpid())


_CASES: dict[str, Callable[[str], None]] = {
    "plugged-memory": tracked,
    "plugged-memory-outside": outside,
    "plugged-memory-outside-blind": outside_blind,
    "unplugged-memory": partial(unplugged, "log"),
    "unplugged-memory-blind": partial(unplugged, "off"),
}
CASES: dict[str, Callable[[], None]] = {
    name + suffix: partial(case, kernel)
    for name, case in _CASES.items()
    for kernel, suffix in (("6.1", ""), ("6.12", "-6.12"))
}
