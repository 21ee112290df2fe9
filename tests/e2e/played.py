# SPDX-License-Identifier: MIT
"""A guest that a test plays itself through qtest: it registers what it likes."""

import contextlib
import json
import struct
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from support import BUILD, expect

from harness.qtest import Qtest
from harness.rundir import RunDir
from harness.topology import PORTS
from harness.vm import PLUGIN, Vm

ABI: dict[str, int] = json.loads(
    subprocess.run(
        [BUILD / "host" / "tests" / "e2e" / "pvdirty-abi"], capture_output=True, check=True
    ).stdout
)
PAGE = 4096
MIB = 1 << 20
GIB = 1 << 30

_SLOTS = {name: number + 4 for number, name in enumerate(PORTS)}  # addr= of each port
# A display whose BARs the test programs: RAM and registers in one device.
DISPLAY = ["-device", "bochs-display,id=display,addr=2"]
DISPLAY_RAM, DISPLAY_REGISTERS = 0xD0000000, 0xE0000000
BAR0 = 0x10
_DISPLAY_DEVFN = 2 << 3
_DISPLAY_MODE = DISPLAY_REGISTERS + 0x500  # id, width, height, depth, enable: 16 bits each
_BAR2 = 0x18

_CAPABILITY_LIST = 0x34
_COMMAND = 4
_BUS_NUMBERS = 0x18
_VENDOR_SPECIFIC = 9
_FEATURES_STATUS = ABI["ACKNOWLEDGE"] | ABI["DRIVER"] | ABI["FEATURES_OK"]
_RUNNING = _FEATURES_STATUS | ABI["DRIVER_OK"]


@dataclass(frozen=True)
class Section:
    """An entry of the section table, in the units of the wire."""

    base_pfn: int
    npages: int
    marks: int
    counts: int
    reserved: int = 0

    def packed(self) -> bytes:
        """The entry as the host reads it."""
        data = bytearray(ABI["section"])
        for field, form in (("base_pfn", "<Q"), ("marks", "<Q"), ("counts", "<Q")):
            struct.pack_into(form, data, ABI[f"section.{field}"], getattr(self, field))
        struct.pack_into("<II", data, ABI["section.npages"], self.npages, self.reserved)
        return bytes(data)


def summaries_offset(nsections: int) -> int:
    """Where the summaries of a log begin."""
    return ABI["LOG_TABLE"] + (nsections * ABI["section"] + 63) // 64 * 64


def log_pages(nsections: int) -> int:
    """Pages that a log with so many sections needs."""
    size = summaries_offset(nsections) + nsections * ABI["summary"]
    return (size + PAGE - 1) // PAGE


def areas(npages: int) -> tuple[int, int]:
    """Bytes of the marks and of the counters of a section."""
    groups = (npages + 511) // 512
    return groups * 64, groups * 512


def packed_log(sections: Sequence[Section], **header: int) -> bytes:
    """A log's control page, root, table and summaries, all zero but what must not be."""
    data = bytearray(log_pages(len(sections)) * PAGE)
    values = {
        "signature": ABI["LOG_SIGNATURE"],
        "version": ABI["VERSION"],
        "nsections": len(sections),
    } | header
    struct.pack_into("<I", data, ABI["log.signature"], values["signature"])
    struct.pack_into("<H", data, ABI["log.version"], values["version"])
    struct.pack_into("<I", data, ABI["log.nsections"], values["nsections"])
    for index, section in enumerate(sections):
        at = ABI["LOG_TABLE"] + index * ABI["section"]
        data[at : at + ABI["section"]] = section.packed()
    return bytes(data)


class Port:
    """The capability of one port, in the guest's hands."""

    def __init__(self, qtest: Qtest, name: str) -> None:
        self.qtest = qtest
        self.name = name
        self.devfn = _SLOTS[name] << 3
        self.cap = self._find()

    def _find(self) -> int:
        at = self.qtest.config_read(self.devfn, _CAPABILITY_LIST, 1)
        while at:
            if (
                self.qtest.config_read(self.devfn, at, 1) == _VENDOR_SPECIFIC
                and self.get("signature", 4, at) == ABI["CAP_SIGNATURE"]
            ):
                return at
            at = self.qtest.config_read(self.devfn, at + 1, 1)
        raise AssertionError(f"{self.name} has no capability of ours")

    def get(self, register: str, width: int, cap: int | None = None) -> int:
        """Reads a register."""
        at = (self.cap if cap is None else cap) + ABI[f"cap.{register}"]
        return self.qtest.config_read(self.devfn, at, width)

    def put(self, register: str, width: int, value: int) -> None:
        """Writes a register."""
        self.qtest.config_write(self.devfn, self.cap + ABI[f"cap.{register}"], width, value)

    @property
    def error(self) -> int:
        """Why the last write was refused."""
        return self.get("error", 2)

    @property
    def registered(self) -> bool:
        """Did the host take DRIVER_OK?"""
        return self.get("device_status", 1) == _RUNNING

    def unregister(self) -> None:
        """Resets the port."""
        self.put("device_status", 1, 0)

    def register(self, addr: int, pages: int) -> int:
        """Registers a log, from a reset port; returns the error register."""
        self.unregister()
        self.put("guest_features", 4, ABI["FEATURES_LOG"])
        self.put("device_status", 1, _FEATURES_STATUS)
        self.put("log_addr_lo", 4, addr & 0xFFFFFFFF)
        self.put("log_addr_hi", 4, addr >> 32)
        self.put("log_pages", 4, pages)
        return self.retry()

    def retry(self) -> int:
        """Asks for DRIVER_OK (again); returns the error register."""
        self.put("device_status", 1, _RUNNING)
        return self.error

    def number_bus(self, bus: int) -> None:
        """Numbers the bus below, as firmware does."""
        self.qtest.config_write(self.devfn, _BUS_NUMBERS, 4, bus << 16 | bus << 8)


class PlayedGuest:
    """A stopped VM with two ports, and the test as its guest."""

    def __init__(self, vm: Vm, qtest: Qtest) -> None:
        self.vm = vm
        self.qtest = qtest
        self.ports = [Port(qtest, name) for name in PORTS]

    def put_log(self, addr: int, sections: Sequence[Section], **header: int) -> int:
        """Writes a log; returns its size in pages."""
        self.qtest.write(addr, packed_log(sections, **header))
        return log_pages(len(sections))

    def map_display(self, on: bool = True) -> None:
        """Puts the display's RAM and registers where a guest can reach them, or takes them away."""
        self.qtest.config_write(_DISPLAY_DEVFN, BAR0, 4, DISPLAY_RAM)
        self.qtest.config_write(_DISPLAY_DEVFN, _BAR2, 4, DISPLAY_REGISTERS)
        self.qtest.config_write(_DISPLAY_DEVFN, _COMMAND, 2, 2 if on else 0)

    def show_screen(self) -> None:
        """Gives the display a mode, in which a refresh looks for what is dirty."""
        self.qtest.write(_DISPLAY_MODE + 2, struct.pack("<HHHH", 64, 64, 32, 1))
        self.refresh()  # the first of a mode is drawn without a look

    def refresh(self) -> int:
        """Refreshes the display, which syncs QEMU's dirty log; returns the number of harvests."""
        before: int = self.vm.port("rp0", "harvests")
        self.vm.call("screendump", filename="screen.ppm")
        return int(self.vm.port("rp0", "harvests")) - before

    def harvest(self) -> float:
        """Refreshes the display until it leads to a harvest; returns its seconds."""
        deadline = time.monotonic() + 60
        while True:
            start = time.monotonic()
            if self.refresh():
                return time.monotonic() - start
            expect(time.monotonic() < deadline, "no harvest for a refreshed display")
            time.sleep(0.05)

    def fill_tree(self, addr: int, nsections: int, byte: int) -> None:
        """Sets root and summaries of a log."""
        self.qtest.fill(addr + ABI["LOG_TOP"], ABI["top"], byte)
        self.qtest.fill(addr + summaries_offset(nsections), nsections * ABI["summary"], byte)

    def start_migration(self, target: str = "/dev/null", bandwidth: int = 1 << 40) -> None:
        """Starts a migration into a file, past its setup; bandwidth in bytes a second."""
        self.vm.call("migrate-set-parameters", **{"max-bandwidth": bandwidth, "downtime-limit": 1})
        self.vm.call("migrate", uri=f"exec:cat > {target}")
        self.wait_migration(("active", "pre-switchover", "completed", "failed"))

    def migration(self) -> dict[str, Any]:
        """query-migrate."""
        answer: dict[str, Any] = self.vm.call("query-migrate")
        return answer

    def wait_migration(self, states: Sequence[str], seconds: float = 60.0) -> str:
        """Waits for one of these states; returns it."""
        deadline = time.monotonic() + seconds
        while True:
            state: str = self.migration()["status"]
            if state in states:
                return state
            expect(self.vm.alive(), "QEMU ended in the midst of a migration")
            expect(time.monotonic() < deadline, f"the migration is {state} after {seconds:.0f} s")
            time.sleep(0.05)


def command_line(memory: Sequence[str], more: Sequence[str], policy: str = "refuse") -> list[str]:
    """QEMU's arguments; `memory` says what RAM there is."""
    argv = ["qemu-system-x86_64", "-plugin", f"file={PLUGIN},on-incomplete={policy}"]
    argv += ["-accel", "tcg", "-cpu", "qemu64", "-S", *memory]
    argv += ["-nodefaults", "-no-user-config", "-display", "none"]
    argv += ["-qmp", "unix:guest.qmp,server=on,wait=off"]
    argv += ["-qtest", "unix:guest.qtest,server=on,wait=off", "-qtest-log", "none"]
    for number, name in enumerate(PORTS):
        argv += ["-device", f"pvdirty-root-port,id={name},chassis={number + 1}"]
        argv[-1] += f",slot={number + 1},addr={_SLOTS[name]}"
    return argv + list(more)


@contextlib.contextmanager
def play(argv: Sequence[str]) -> Iterator[PlayedGuest]:
    """Starts QEMU, and gives the test the guest's part."""
    with RunDir("hostile", keep=False) as directory:
        with Vm("guest", list(argv), directory.path) as vm:
            qtest = Qtest(directory.path / "guest.qtest", vm.alive)
            try:
                yield PlayedGuest(vm, qtest)
            finally:
                qtest.close()
