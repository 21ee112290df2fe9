# SPDX-License-Identifier: MIT
"""Hostile guests against stock QEMU: what they register, write to config space, and take away.

None of them boots: the test plays the guest through qtest.
"""

import os
import random
import re
import time
from pathlib import Path

from played import ABI, BAR0, DISPLAY, DISPLAY_RAM, DISPLAY_REGISTERS, GIB, MIB, PAGE
from played import PlayedGuest, Section, areas, command_line, log_pages, play
from support import expect, expect_nothing_left

from harness.vm import Vm

LOG = 16 * MIB  # where most logs are
AREA = 32 * MIB  # and their marks and counters
RAM = 256 * MIB
FULL = ABI["WINDOW_PAGES"]
SMALL = ["-machine", "q35", "-m", "256M"]
# A VM hangs if it needs longer than this to say how it is; a busy machine does not.
PATIENCE_SECONDS = 20.0

# The host bridge's PAM registers: what is mapped at 0xc0000..0xfffff.
PAM_D0000, PAM_RAM, PAM_READ_ONLY, PAM_OFF = 0x93, 0x33, 0x11, 0x00
# ACPI's memory hot-plug registers: the slot, and its flags.
ACPI_SLOT, ACPI_FLAGS, ACPI_EJECT = 0xA00, 0xA14, 8


def lively(vm: Vm) -> None:
    """QEMU still runs, and answers."""
    start = time.monotonic()
    vm.call("query-status")
    took = time.monotonic() - start
    expect(took < PATIENCE_SECONDS, f"QEMU took {took:.1f} s to answer")


def good_sections(npages: int = 4096, where: int = AREA, count: int = 1) -> list[Section]:
    """Sections of windows 0, 1, ..., their areas one after the other."""
    sections = []
    marks_size, counts_size = areas(npages)
    for index in range(count):
        base = index << ABI["WINDOW_SHIFT"]
        sections.append(Section(base, npages, where, where + marks_size))
        where += marks_size + counts_size
    return sections


def _expect_error(guest: PlayedGuest, what: str, error: int, name: str) -> None:
    port = guest.ports[0]
    expect(error == ABI[name], f"{what}: error {error}, not {name}")
    expect(port.registered == (name == "OK"), f"{what}: status {port.get('device_status', 1):#x}")
    expect(guest.vm.port("rp0", "registered") == (name == "OK"), f"{what}: the host's view differs")


def _places() -> dict[str, int]:
    """GPAs that are no place for a log of three pages."""
    return {
        "the BIOS below 4 GiB": 0xFFFC0000,
        "the option ROMs": 0xC0000,
        "the BIOS below 1 MiB": 0xF0000,
        "the local APIC": 0xFEE00000,
        "the I/O APIC": 0xFEC00000,
        "a BAR with registers": DISPLAY_REGISTERS,
        "across the end of a BAR with RAM": DISPLAY_RAM + 16 * MIB - PAGE,
        "the PCI hole": 0xC8000000,
        "the last page": RAM - PAGE,
        "beyond the end": RAM,
        "4 GiB, where no RAM is": 4 * GIB,
        "the last page of 2^40": (1 << 40) - PAGE,
        "the last page of 2^52": (1 << 52) - PAGE,
        "the last page of 2^64": (1 << 64) - PAGE,
    }


def _bad_tables() -> dict[str, tuple[str, list[Section]]]:
    """Tables that no honest guest writes."""
    good = good_sections(count=2)
    first, second = good

    def changed(**fields: int) -> list[Section]:
        return [first, Section(**(vars(second) | fields))]

    return {
        "the same section twice": ("E_SECTION_RANGE", [first, first]),
        "sections that descend": ("E_SECTION_RANGE", [second, first]),
        "an unaligned window": ("E_SECTION_RANGE", changed(base_pfn=second.base_pfn + 1)),
        "a window past 2^52": ("E_SECTION_RANGE", changed(base_pfn=1 << 40)),
        "no page": ("E_SECTION_RANGE", changed(npages=0)),
        "too many pages": ("E_SECTION_RANGE", changed(npages=FULL + 1)),
        "a reserved bit": ("E_SECTION_RANGE", changed(reserved=1 << 31)),
        "marks in the control page": ("E_SECTION_ADDR", changed(marks=LOG)),
        "marks in their own table": ("E_SECTION_ADDR", changed(marks=LOG + ABI["LOG_TABLE"])),
        "marks over marks": ("E_SECTION_ADDR", changed(marks=first.marks)),
        "counters over counters": ("E_SECTION_ADDR", changed(counts=first.counts)),
        "counters over marks": ("E_SECTION_ADDR", changed(counts=second.marks)),
        "unaligned marks": ("E_SECTION_ADDR", changed(marks=second.marks + 8)),
        "marks past the end": ("E_SECTION_ADDR", changed(marks=RAM - 64)),
    }


def _refused_places(guest: PlayedGuest) -> None:
    rp0 = guest.ports[0]
    for what, gpa in _places().items():
        error = rp0.register(gpa, log_pages(1))
        _expect_error(guest, f"a log in {what}", error, "E_LOG_ADDR")
        # One page of RAM at the very end is good enough for marks, not for counters.
        counts = Section(0, FULL, AREA, gpa)
        pages = guest.put_log(LOG, [counts])
        error = rp0.register(LOG, pages)
        _expect_error(guest, f"counters in {what}", error, "E_SECTION_ADDR")


def tables() -> None:
    """A well-formed log is taken; each bad one is refused with its error, by stock QEMU."""
    with play(command_line(SMALL, DISPLAY)) as guest:
        guest.map_display()
        rp0, rp1 = guest.ports
        pages = guest.put_log(LOG, good_sections(count=2))
        _expect_error(guest, "a good log", rp0.register(LOG, pages), "OK")
        expect(guest.vm.port("rp0", "sections") == 2, "not both sections")

        _refused_places(guest)
        for what, (error, sections) in _bad_tables().items():
            pages = guest.put_log(LOG, sections)
            _expect_error(guest, what, rp0.register(LOG, pages), error)
        for what, error, header in (
            ("a wrong signature", "E_LOG_HEADER", {"signature": 0}),
            ("a later version", "E_LOG_HEADER", {"version": 2}),
            ("no section", "E_SECTION_COUNT", {"nsections": 0}),
            ("more sections than RAM can need", "E_SECTION_COUNT", {"nsections": 60}),
            ("too many sections", "E_SECTION_COUNT", {"nsections": ABI["MAX_SECTIONS"] + 1}),
        ):
            pages = guest.put_log(LOG, good_sections(), **header)
            _expect_error(guest, what, rp0.register(LOG, pages), error)
        _expect_error(guest, "a log too small", rp0.register(LOG, 2), "E_LOG_SIZE")
        _expect_error(guest, "an unaligned log", rp0.register(LOG + 64, 3), "E_LOG_ADDR")

        pages = guest.put_log(LOG, good_sections())
        other = guest.put_log(LOG + MIB, good_sections(where=AREA + MIB))
        _expect_error(guest, "a good log again", rp0.register(LOG, pages), "OK")
        expect(rp1.register(LOG + MIB, other) == ABI["E_LOG_BUSY"], "two logs in one domain")
        expect(rp1.register(LOG, pages) == ABI["OK"] and rp1.registered, "no second port")
        rp0.put("log_addr_lo", 4, LOG + MIB)
        expect(rp0.error == ABI["E_STATE"], "a registered log can be moved")
        rp0.unregister()
        rp1.unregister()
        expect(not guest.vm.port("rp0", "registered"), "the log outlives its ports")
        lively(guest.vm)
    expect_nothing_left(os.getpid())


_INTERESTING = (0, 1, 3, 6, 11, 15, 0x8F, 0xFF, LOG, 1 << 31, 0xFFFFFFFF)


def _misuse(guest: PlayedGuest, dice: random.Random, pages: int) -> None:
    """One thing that a guest may do at any time to config space, or to its log."""
    port = dice.choice(guest.ports)
    what = dice.random()
    if what < 0.05:
        port.register(LOG, pages)
    elif what < 0.45:
        width = dice.choice((1, 2, 4))
        at = port.cap + dice.randrange(0, ABI["CAP_LEN"], width)
        value = dice.choice(_INTERESTING) % (1 << 8 * width)
        guest.qtest.config_write(port.devfn, at, width, value)
    elif what < 0.6:
        width = dice.choice((1, 2, 4))
        at = dice.randrange(0, 256, width)
        guest.qtest.config_write(port.devfn, at, width, dice.getrandbits(8 * width))
    elif what < 0.65:
        guest.qtest.config_write(port.devfn, BAR0, 4, 0xFFFFFFFF)
    else:
        at = dice.randrange(0, pages * PAGE, 8)
        guest.qtest.write(LOG + at, dice.choice((0, 1, dice.getrandbits(64))).to_bytes(8, "little"))


def config_fuzz(misdeeds: int = 25_000) -> None:
    """Any config write at any time: QEMU answers, and a reset makes all well again."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}", flush=True)
    dice = random.Random(seed)
    with play(command_line(SMALL, ["-device", "e1000e,id=net0,bus=rp0,romfile="])) as guest:
        pages = guest.put_log(LOG, good_sections())
        registered = rss = 0
        for count in range(misdeeds):
            _misuse(guest, dice, pages)
            if count % 100:
                continue
            registered += guest.vm.port("rp0", "registered")
            lively(guest.vm)
            if dice.random() < 0.3:
                guest.put_log(LOG, good_sections())
            if count == misdeeds // 5:
                rss = _rss(guest.vm)
        print(f"a log was registered at {registered} of {misdeeds // 100} looks")
        expect(registered > 0, "no log was ever registered: the writes were too wild to test much")
        grown = _rss(guest.vm) - rss
        expect(grown < 32 * MIB, f"QEMU has grown by {grown >> 10} KiB")
        said = guest.vm.log.read_text(errors="replace").splitlines()
        print(f"QEMU has grown by {grown >> 10} KiB and printed {len(said)} lines")
        expect(sum("pvdirty" in line for line in said) == 1, f"more than a greeting: {said[:5]}")

        guest.vm.call("system_reset")
        guest.put_log(LOG, good_sections())
        expect(guest.ports[0].register(LOG, pages) == ABI["OK"], "no registration after all that")
    expect_nothing_left(os.getpid())


def _rss(vm: Vm) -> int:
    """Bytes of memory that QEMU has, shared ones too."""
    status = Path(f"/proc/{vm.process.pid}/status").read_text(encoding="ascii")
    found = re.search(r"VmRSS:\s*(\d+) kB", status)
    assert found
    return int(found[1]) << 10


def _expect_gone(guest: PlayedGuest, what: str) -> None:
    port = guest.ports[0]
    expect(port.error == ABI["E_LOG_GONE"], f"{what}: error {port.error}")
    status = port.get("device_status", 1)
    expect(status & ABI["NEEDS_RESET"] != 0, f"{what}: status {status:#x}")
    expect(not guest.vm.port("rp0", "registered"), f"{what}: still registered")
    expect(port.retry() == ABI["E_STATE"], f"{what}: DRIVER_OK without a reset")
    lively(guest.vm)


def log_gone() -> None:
    """The guest takes away RAM that holds the log, or a part of it, while QEMU logs."""
    memory = ["-machine", "q35", "-m", "256M,slots=2,maxmem=2G"]
    dimm = ["-object", "memory-backend-ram,id=mem1,size=128M"]
    dimm += ["-device", "pc-dimm,id=dimm1,memdev=mem1"]
    with play(command_line(memory, DISPLAY + dimm, policy="all-dirty")) as guest:
        guest.map_display()
        rp0 = guest.ports[0]
        (device,) = guest.vm.call("query-memory-devices")
        guest.start_migration()

        def shadow(value: int) -> None:
            guest.qtest.config_write(0, PAM_D0000, 1, value)

        def eject() -> None:
            guest.qtest.command("outl", ACPI_SLOT, device["data"]["slot"])
            guest.qtest.command("outb", ACPI_FLAGS, ACPI_EJECT)

        shadow(PAM_RAM)
        for what, gpa, take_away in (
            ("RAM behind a BAR", DISPLAY_RAM + MIB, lambda: guest.map_display(on=False)),
            ("shadow RAM, made read-only", 0xD0000, lambda: shadow(PAM_READ_ONLY)),
            ("a DIMM, ejected by the guest", device["data"]["addr"], eject),
        ):
            for part in ("the log", "counters"):
                guest.map_display()
                shadow(PAM_RAM)
                if part == "the log":
                    log, sections = gpa, good_sections()
                else:
                    log, sections = LOG, [Section(0, 4096, AREA, gpa)]
                if what.startswith("a DIMM") and not guest.vm.call("query-memory-devices"):
                    continue  # there was one only
                pages = guest.put_log(log, sections)
                answer = rp0.register(log, pages)
                _expect_error(guest, f"{part} in {what}", answer, "OK")
                expect(guest.vm.port("rp0", "logging"), "nobody logs")
                take_away()
                _expect_gone(guest, f"{part} in {what}")
        shadow(PAM_OFF)
        pages = guest.put_log(LOG, good_sections())
        expect(rp0.register(LOG, pages) == ABI["OK"], "no registration afterwards")
    expect_nothing_left(os.getpid())


def _expect_rare(guest: PlayedGuest, took: float) -> None:
    """After a harvest that took so long, refreshes of the display cause none for a while."""
    start = time.monotonic()
    harvests = sum(guest.refresh() for _ in range(10))
    if time.monotonic() - start < 4 * took:
        expect(harvests == 0, f"{harvests} harvests within 10 refreshes of the display")
    else:
        print("the machine is too busy to tell how often a display leads to a harvest")


def largest() -> None:
    """The largest log that a VM of 1 TiB can have: refused past it, bounded time and memory."""
    gib = 1020
    # Just below what TCG's 40 address bits allow, with the smallest PCI hole above it.
    memory = ["-machine", "q35,memory-backend=m0", "-m", f"{gib}G"]
    memory += ["-object", f"memory-backend-ram,id=m0,size={gib}G,reserve=off"]
    memory += ["-global", "q35-pcihost.pci-hole64-size=1G"]
    argv = command_line(memory, [], policy="refuse,final-limit=2T")
    argv[argv.index("qemu64")] += ",vendor=GenuineIntel"  # AMD's has a hole below 1 TiB
    with play(argv + DISPLAY) as guest:
        where = 8 * GIB
        rp0 = guest.ports[0]
        before = _rss(guest.vm)
        for count in (gib + 1000, ABI["MAX_SECTIONS"]):
            sections = good_sections(FULL, where + GIB, count)
            expect(
                rp0.register(where, guest.put_log(where, sections)) == ABI["E_SECTION_COUNT"],
                f"{count} sections are taken",
            )
        sections = good_sections(FULL, where + GIB, gib + 1)
        pages = guest.put_log(where, sections)
        start = time.monotonic()
        expect(rp0.register(where, pages) == ABI["OK"], f"error {rp0.error}")
        print(f"registered in {time.monotonic() - start:.3f} s")
        size = sum(areas(FULL)) * len(sections)
        guest.map_display()
        guest.show_screen()
        guest.start_migration(bandwidth=1 << 16)  # it gets nowhere
        for fill in (0x00, 0x55, 0xFF):
            for at in range(0, size, 16 * MIB):
                guest.qtest.fill(where + GIB + at, min(16 * MIB, size - at), fill)
            guest.fill_tree(where, len(sections), 0xFF)
            marked = guest.vm.port("rp0", "pages-marked")
            took = guest.harvest()
            print(f"a log full of {fill:#x}: harvested in {took:.3f} s")
            marked = guest.vm.port("rp0", "pages-marked") - marked
            expected = len(sections) * FULL * fill.bit_count() // 8
            expect(marked == expected, f"{marked} pages marked, not {expected}")
        _expect_rare(guest, took)
        grown = _rss(guest.vm) - before
        print(f"QEMU has grown by {grown >> 20} MiB, by guest RAM of {size >> 20} MiB")
        expect(grown < size + 512 * MIB, f"QEMU has grown by {grown >> 20} MiB")
    expect_nothing_left(os.getpid())
