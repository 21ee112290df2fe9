# SPDX-License-Identifier: MIT
"""The oracle itself: which pages that the guest does not report it calls uncovered.

The test is the guest. Its device, an e1000, notes in a descriptor that it is done with it, by DMA
and as soon as it is told to: so the test says when it writes, and where.
"""

import os
import struct

from hostile import AREA, LOG
from hostile_migration import BALLAST, BALLAST_SIZE, NET_BUS, SLOW, tracked
from played import DISPLAY, MIB, PAGE, PlayedGuest, areas, command_line, play
from support import expect, expect_nothing_left

_MEMORY = ["-machine", "q35,memory-backend=m0", "-m", "256M"]
_MEMORY += ["-object", "memory-backend-memfd,id=m0,size=256M,share=on"]
_NIC = ["-global", "pvdirty-root-port.x-test-untracked=on"]
_NIC += ["-device", "e1000,id=net0,bus=rp0,romfile="]

# Config space of a bridge and of a function; linux/pci_regs.h.
_COMMAND, _BAR0, _MEMORY_WINDOW = 0x04, 0x10, 0x20
_MEMORY_AND_MASTER = 6
_REGISTERS = 0xE8000000
# The transmitter's registers; Intel's manual of the 8254x, 13.4 and 14.5.
_TCTL, _TDBAL, _TDLEN, _TDH, _TDT = 0x400, 0x3800, 0x3808, 0x3810, 0x3818
_ENABLE, _REPORT_STATUS = 1 << 1, 1 << 27


class _Nic:
    """Writes one byte to the page that it is told."""

    def __init__(self, guest: PlayedGuest) -> None:
        self.qtest = guest.qtest
        rp0 = guest.ports[0].devfn
        window = _REGISTERS >> 16
        self.qtest.config_write(rp0, _MEMORY_WINDOW, 4, window << 16 | window)
        self.qtest.config_write(rp0, _COMMAND, 2, _MEMORY_AND_MASTER)
        self.qtest.config_write(0, _BAR0, 4, _REGISTERS, bus=NET_BUS)
        self.qtest.config_write(0, _COMMAND, 2, _MEMORY_AND_MASTER, bus=NET_BUS)
        self._set(_TCTL, _ENABLE)

    def _set(self, register: int, value: int) -> None:
        self.qtest.write(_REGISTERS + register, struct.pack("<I", value))

    def write(self, pfn: int) -> None:
        """Sends nothing, as the descriptor at the start of the page tells it, and says so there."""
        self.qtest.write(pfn * PAGE, struct.pack("<QII", 0, _REPORT_STATUS, 0))
        for register, value in ((_TDBAL, pfn * PAGE), (_TDLEN, 128), (_TDT, 0), (_TDH, 0)):
            self._set(register, value)
        self._set(_TDT, 1)
        done = self.qtest.read(pfn * PAGE + 12, 1)
        expect(done == b"\1", f"the device has not written: {done.hex()}")


def _count(guest: PlayedGuest, pfn: int, count: int) -> None:
    """The guest counts a page in flight, or out of flight."""
    marks_size, _ = areas(1 << 16)
    guest.qtest.write(AREA + marks_size + pfn, bytes([count]))
    guest.fill_tree(LOG, 1, 0xFF)


def at_start() -> None:
    """A page in flight when a session starts may leave without a mark if it is not written then.

    A vCPU may be in the midst of its release, and have read before that nobody logs. A page that
    the device writes once more is uncovered: the control.
    """
    before, written = 48 * MIB // PAGE, 49 * MIB // PAGE
    with play(command_line(_MEMORY, DISPLAY + _NIC)) as guest:
        tracked(guest)
        guest.qtest.fill(BALLAST, BALLAST_SIZE, 0x5A)
        guest.map_display()
        guest.show_screen()
        nic = _Nic(guest)
        for pfn in (before, written):
            _count(guest, pfn, 1)
            nic.write(pfn)
        guest.start_migration(bandwidth=SLOW)
        guest.harvest()

        def uncovered() -> int:
            guest.harvest()
            return int(guest.vm.port("rp0", "x-oracle-uncovered"))

        expect(uncovered() == 0, "what is in flight is covered")
        _count(guest, before, 0)
        expect(uncovered() == 0, "a page that was written before the session is uncovered")
        nic.write(written)
        expect(uncovered() == 0, "what is written and in flight is covered")
        _count(guest, written, 0)
        expect(uncovered() == 1, "a page that was written and not reported is covered")
        nic.write(before)
        expect(uncovered() == 2, "a page that is handed out again needs no mark")
    expect_nothing_left(os.getpid())
