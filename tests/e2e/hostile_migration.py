# SPDX-License-Identifier: MIT
"""Migrations of hostile guests: they end, well or with our reason; and what a mark is worth.

The test is the guest, and the device too: guest RAM is a file, and a write to it behind QEMU's
back is what a pass-through device's DMA is.
"""

import os
import random
from collections import Counter
from collections.abc import Callable, Sequence

from hostile import AREA, LOG, PAM_D0000, PAM_OFF, PAM_RAM, good_sections, lively
from played import ABI, BAR0, MIB, PAGE, PlayedGuest, Section, command_line, play, summaries_offset
from support import expect, expect_nothing_left

# Enough that is not zero to keep a slow migration busy for as long as an attack takes.
BALLAST, BALLAST_SIZE = 64 * MIB, 48 * MIB
SLOW = 2 * MIB
NET = ["-device", "e1000e,id=net0,bus=rp0,romfile="]
NET_BUS = 1

_REASON = "pvdirty: "


def _set_entry(guest: PlayedGuest, state: str) -> None:
    entry = NET_BUS << 8 | ABI[state] << 16
    guest.qtest.write(LOG + ABI["log.devices"], entry.to_bytes(4, "little"))


def tracked(guest: PlayedGuest) -> int:
    """Does all that an honest guest does; returns the log's pages."""
    rp0 = guest.ports[0]
    rp0.number_bus(NET_BUS)
    # 256 MiB of RAM: one section, whole.
    pages = guest.put_log(LOG, good_sections(1 << 16))
    _set_entry(guest, "DEV_TRACKED")
    expect(rp0.register(LOG, pages) == ABI["OK"], f"an honest guest: error {rp0.error}")
    expect(guest.vm.port("rp0", "complete"), guest.vm.port("rp0", "why-incomplete"))
    return pages


def _unregister(guest: PlayedGuest) -> None:
    guest.ports[0].unregister()


def _bad_table(guest: PlayedGuest) -> None:
    guest.ports[0].unregister()
    guest.put_log(LOG, [Section(0, 1 << 16, LOG, LOG)])
    error = guest.ports[0].register(LOG, 3)
    expect(error == ABI["E_SECTION_ADDR"], f"a bad table: error {error}")


def _new_kernel(guest: PlayedGuest) -> None:
    guest.qtest.config_write(guest.ports[0].devfn, BAR0, 4, 0xFFFFFFFF)


def _all_in_flight(guest: PlayedGuest) -> None:
    guest.qtest.fill(AREA + (1 << 16) // 8, 1 << 16, 1)
    guest.fill_tree(LOG, 1, 0xFF)


def _untracked_device(guest: PlayedGuest) -> None:
    _set_entry(guest, "DEV_UNTRACKED")


def _garbage(guest: PlayedGuest) -> None:
    guest.qtest.fill(LOG, 3 * PAGE, 0xA5)


_ATTACKS: dict[str, tuple[Callable[[PlayedGuest], None], str]] = {
    "unregisters": (_unregister, "reset, or the guest left"),
    "registers a bad table": (_bad_table, "reset, or the guest left"),
    "enumerates its ports": (_new_kernel, "a new kernel"),
    "lets all pages be in flight": (_all_in_flight, "are in flight"),
    "fills its log with garbage": (_garbage, ""),
    "stops tracking its device": (_untracked_device, "net0"),
}


def _attacked(what: str, policy: str) -> tuple[str, str]:
    """A migration in whose midst the guest does that: how it ended, and QEMU's reason."""
    argv = command_line(["-machine", "q35", "-m", "256M"], NET, policy)
    with play(argv) as guest:
        tracked(guest)
        guest.qtest.fill(BALLAST, BALLAST_SIZE, 0x5A)
        guest.start_migration(bandwidth=SLOW)
        if what:
            _ATTACKS[what][0](guest)
        lively(guest.vm)
        expect(guest.migration()["status"] != "completed", "the migration was over too soon")
        guest.vm.call("migrate-set-parameters", **{"max-bandwidth": 1 << 40})
        ended = guest.wait_migration(("completed", "failed"))
        lively(guest.vm)
        return ended, str(guest.migration().get("error-desc", ""))


def attacked() -> None:
    """A guest turns hostile in the midst of a migration: refused with the reason, or all sent."""
    ended, reason = _attacked("", "refuse")
    expect(ended == "completed", f"an honest guest's migration failed: {reason}")
    for what, (_, words) in _ATTACKS.items():
        ended, reason = _attacked(what, "refuse")
        print(f"a guest that {what}: {ended}: {reason}", flush=True)
        expect(ended == "failed", f"a guest that {what}: {ended}")
        expect(_REASON in reason and words in reason, f"a guest that {what}: {reason}")
    for what in ("registers a bad table", "fills its log with garbage"):
        ended, reason = _attacked(what, "all-dirty")
        print(f"all-dirty, a guest that {what}: {ended} {reason}", flush=True)
        expect(ended == "completed" or _REASON in reason, f"a guest that {what}: {ended}: {reason}")
    expect_nothing_left(os.getpid())


def restless() -> None:
    """A guest registers, spoils and unregisters without pause, through many migrations."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}", flush=True)
    dice = random.Random(seed)
    actions = [tracked, *(attack for attack, _ in _ATTACKS.values())]
    ends: Counter[str] = Counter()
    with play(command_line(["-machine", "q35", "-m", "256M"], NET)) as guest:
        guest.qtest.fill(BALLAST, BALLAST_SIZE, 0x5A)
        for _ in range(12):
            tracked(guest)
            guest.start_migration(bandwidth=SLOW)
            for _ in range(dice.randrange(1, 60)):
                dice.choice(actions)(guest)
            lively(guest.vm)
            guest.vm.call("migrate-set-parameters", **{"max-bandwidth": 1 << 40})
            ended = guest.wait_migration(("completed", "failed"))
            ends[ended] += 1
            reason = str(guest.migration().get("error-desc", ""))
            expect(ended == "completed" or _REASON in reason, f"{ended}: {reason}")
            # One that was caught in the last pass is not migrated again either: it never ran.
            if guest.vm.call("query-status")["status"] in ("finish-migrate", "postmigrate"):
                break
    print(f"how the migrations ended: {dict(ends)}")
    expect(ends["failed"] > 0, "the guest was never caught")
    expect_nothing_left(os.getpid())


class _Device:
    """Writes guest memory behind QEMU's back, and the guest may tell."""

    def __init__(self, guest: PlayedGuest, sections: Sequence[Section]) -> None:
        self.guest = guest
        self.sections = sections
        self.written: dict[str, bytes] = {}

    def write(self, what: str, memory: str, offset: int) -> None:
        """Puts a text that names itself into a page of a memory file."""
        text = f"a page that is {what}, written by a device".encode()
        with (self.guest.vm.directory / memory).open("r+b") as file:
            file.seek(offset)
            file.write(text)
        self.written[what] = text

    def _tell(self, pfn: int, tree: int, leaf: int, value: int) -> None:
        index = next(
            n for n, s in enumerate(self.sections) if s.base_pfn <= pfn < s.base_pfn + s.npages
        )
        group = (pfn - self.sections[index].base_pfn) // 512
        summary = LOG + summaries_offset(len(self.sections)) + index * ABI["summary"] + tree
        root = LOG + ABI["LOG_TOP"] + (ABI["top.counts"] if tree else 0)
        self.guest.qtest.write(leaf, bytes([value]))
        self.guest.qtest.write(summary + group // 8, bytes([1 << group % 8]))
        self.guest.qtest.write(root, bytes([(1 << len(self.sections)) - 1]))

    def _section(self, pfn: int) -> Section:
        return next(s for s in self.sections if s.base_pfn <= pfn < s.base_pfn + s.npages)

    def mark(self, pfn: int) -> None:
        """The guest marks the page."""
        section = self._section(pfn)
        page = pfn - section.base_pfn
        self._tell(pfn, 0, section.marks + page // 8, 1 << page % 8)

    def hold(self, pfn: int) -> None:
        """The guest says that the page is in flight."""
        section = self._section(pfn)
        self._tell(pfn, ABI["summary.counts"], section.counts + pfn - section.base_pfn, 1)


def _memory_files(ram: int, nvdimm: int) -> list[str]:
    file = "memory-backend-file,share=on"
    argv = ["-machine", "q35,nvdimm=on,memory-backend=m0", "-m", f"{ram}b,slots=2,maxmem=2G"]
    argv += ["-object", f"{file},id=m0,size={ram},mem-path=ram.memory"]
    argv += ["-object", f"{file},id=m1,size={nvdimm},mem-path=nvdimm.memory"]
    return argv + ["-device", "nvdimm,memdev=m1,id=nv0"]


def told() -> None:
    """What the guest tells is sent, from all kinds of RAM; what it does not tell is not."""
    shadow = 0xD0000
    with play(command_line(_memory_files(256 * MIB, 64 * MIB), [])) as guest:
        guest.qtest.config_write(0, PAM_D0000, 1, PAM_RAM)
        (nvdimm,) = guest.vm.call("query-memory-devices")
        nvdimm_pfn = nvdimm["data"]["addr"] // PAGE
        window = nvdimm_pfn >> ABI["WINDOW_SHIFT"] << ABI["WINDOW_SHIFT"]
        marks = AREA + 2 * MIB
        sections = [*good_sections(1 << 16), Section(window, 1 << 16, marks, marks + MIB)]
        pages = guest.put_log(LOG, sections)
        expect(guest.ports[0].register(LOG, pages) == ABI["OK"], "an honest log is refused")
        guest.vm.call(
            "migrate-set-capabilities",
            capabilities=[{"capability": "pause-before-switchover", "state": True}],
        )
        stream = guest.vm.directory / "stream"
        guest.start_migration(target=str(stream))
        guest.wait_migration(("pre-switchover",))

        # RAM has been sent, and the VM is stopped for good; one sync is to come.
        device = _Device(guest, sections)
        page = AREA // PAGE + 8192
        device.write("not told of", "ram.memory", (page + 1) * PAGE)
        device.write("marked", "ram.memory", (page + 600) * PAGE)
        device.mark(page + 600)
        device.write("in flight", "ram.memory", (page + 1300) * PAGE)
        device.hold(page + 1300)
        device.write("not told of in the NVDIMM", "nvdimm.memory", 4 * PAGE)
        device.write("marked in the NVDIMM", "nvdimm.memory", 5 * PAGE)
        device.mark(nvdimm_pfn + 5)
        device.write("marked, and then no longer mapped", "ram.memory", shadow)
        device.mark(shadow // PAGE)
        guest.qtest.config_write(0, PAM_D0000, 1, PAM_OFF)

        guest.vm.call("migrate-continue", state="pre-switchover")
        expect(guest.wait_migration(("completed", "failed")) == "completed", "it failed")
        sent = stream.read_bytes()
        for what, text in device.written.items():
            print(f"{what}: {'sent' if text in sent else 'not sent'}", flush=True)
            told_of = not what.startswith("not told of")
            expect((text in sent) == told_of, f"a page that is {what}: told {told_of}")
    expect_nothing_left(os.getpid())
