# SPDX-License-Identifier: MIT
"""A guest that moves: from QEMU to QEMU, as often as wanted, each time compared byte by byte."""

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support import expect

from harness import guest_image, run
from harness.devices import DISK, NET
from harness.frames import FrameGenerator
from harness.progress import Progress
from harness.rundir import RunDir
from harness.topology import PORTS
from harness.vm import Vm, VmConfig

BY_SOCKET = "unix:migrate"
BANDWIDTH = 256 << 20
CRAWL = 2 << 20  # less than the guest's CPUs dirty
LITTLE, VERY_LITTLE = 64 << 20, 4 << 20  # bytes to send
BLIND_PASSES = 2
ENDS = ("completed", "failed", "cancelled")
LIMIT_SECONDS = 400.0


@dataclass(frozen=True)
class Settings:
    """What both sides of a migration are told before it."""

    capabilities: tuple[str, ...] = ()
    parameters: Mapping[str, int] | None = None

    def tell(self, vm: Vm) -> None:
        """Tells one side; QEMU's refusal is QmpError."""
        self._switch(vm, on=True)
        if self.parameters:
            vm.call("migrate-set-parameters", **self.parameters)

    def take_back(self, vm: Vm) -> None:
        """Switches the capabilities off again."""
        self._switch(vm, on=False)

    def _switch(self, vm: Vm, on: bool) -> None:
        wanted = [{"capability": name, "state": on} for name in self.capabilities]
        if wanted:
            vm.call("migrate-set-capabilities", capabilities=wanted)


PLAIN = Settings()


class Migration:
    """One migration of a VM, held back until it may end."""

    def __init__(
        self,
        source: Vm,
        uri: str,
        may_end: Callable[["Migration"], bool],
        blind: bool,
    ) -> None:
        self.source = source
        self.info: dict[str, Any] = {}
        self._may_end = may_end
        self._blind = blind
        self._held = self._fast = True
        self._deadline = time.monotonic() + LIMIT_SECONDS
        self.limit(run.BANDWIDTH if blind else BANDWIDTH)
        source.call("migrate", uri=uri)

    def limit(self, bandwidth: int, downtime_ms: int = run.DOWNTIME_HOLD_MS) -> None:
        """Bytes per second; how long the VM may stand still."""
        parameters = {"max-bandwidth": bandwidth, "downtime-limit": downtime_ms}
        self.source.call("migrate-set-parameters", **parameters)

    @property
    def status(self) -> str:
        """As of the last look."""
        return str(self.info.get("status"))

    @property
    def passes(self) -> int:
        """Likewise."""
        return int(self.info.get("ram", {}).get("dirty-sync-count", 0))

    def long_enough(self) -> bool:
        """Under load there have been passes enough to lose something in."""
        return self.passes >= (BLIND_PASSES if self._blind else run.MIN_PASSES)

    def release(self) -> None:
        """It may end as soon as there have been passes enough."""
        self._may_end = Migration.long_enough

    def over(self) -> bool:
        """Looks, and lets it end as soon as it may."""
        self.info = self.source.call("query-migrate")
        if self.status in ENDS:
            return True
        expect(time.monotonic() < self._deadline, f"the migration does not end: {self.info}")
        if self._held and self.status == "active" and self._may_end(self):
            self.limit(BANDWIDTH, run.DOWNTIME_MS)
            self._held = False
        elif self._held and self._fast and self._blind and self.passes >= BLIND_PASSES:
            # A blind host does not know of pages in flight: no downtime is too short for it.
            self.limit(CRAWL)
            self._fast = False
        return False

    def slow_down(self) -> None:
        """Before a pass ends: the few pages that are dirtied meanwhile would be sent in no time, and
        that would be the end.
        """
        left = self.info.get("ram", {}).get("remaining", LITTLE)
        if left < LITTLE:
            self.limit(run.BANDWIDTH if left > VERY_LITTLE else CRAWL)

    def reach_pass(self, number: int) -> None:
        """Goes there, unless it is over before."""
        while not self.over() and self.passes < number:
            self.slow_down()
            time.sleep(0.02)

    def hold_in_pass(self, number: int) -> None:
        """Goes there; then it does not converge, and devices write what was sent."""
        self.reach_pass(number)
        self.limit(CRAWL)
        expect(self.status not in ENDS, f"it is over too early: {self.info}")

    def run(self) -> dict[str, Any]:
        """To its end, which must be a good one; QEMU's last word on it."""
        while not self.over():
            time.sleep(0.02)
        complaint = self.source.complaint()
        expect(self.status == "completed", f"the migration {self.status}: {complaint} {self.info}")
        return self.info


class MovingGuest:
    """A guest under load, the QEMU that it runs in, and the one that it moves to."""

    def __init__(
        self,
        mode: str,
        base: VmConfig,
        directory: RunDir,
        stack: contextlib.ExitStack,
        settings: Settings,
    ) -> None:
        self.config = config = run.config_for(mode, base)
        self.blind = run.BLIND in config.port_options
        self.cross: Callable[[MovingGuest], dict[str, Any]] = cross
        # Does a blind host lose pages for sure, and not only leave them uncovered?
        self.surely_lossy = True
        self.settings = settings
        self.directory = directory.path
        self.progress = Progress(directory.path.name)
        self._stack = stack
        self._generator = FrameGenerator(run.NET_BYTES_PER_SECOND)
        stack.callback(self._generator.stop)
        self._disk = self.directory / "disk.img"
        shutil.copyfile(guest_image.disk_content(), self._disk)
        self._number = 1
        argv = config.command_line("vm1", self._disk, incoming=False)
        self.source = stack.enter_context(Vm("vm1", argv, self.directory))
        self.destination: Vm | None = None
        self.under_way: Migration | None = None  # or the last one
        # What the judge is told of a migration: all RAM was in its last pass, as the policy wants
        # of a guest that does not track; pages may differ for a reason that this one takes out.
        self.all_dirty = False
        self.excuse: Callable[[dict[str, Any], Path], None] | None = None

    def boot(self) -> None:
        """Waits for the workload."""
        run.boot(self.source, self.config, self._generator, self.progress)
        self.settings.tell(self.source)

    def receive(
        self, uri: str = BY_SOCKET, change: Callable[[list[str]], list[str]] = list
    ) -> Vm:
        """Starts a fresh destination, instead of the former one.

        change: makes its command line another one than the source's.
        """
        if self.destination:
            self.destination.kill()
        self._number += 1
        name = f"vm{self._number}"
        argv = change(self.config.command_line(name, self._disk, incoming=True))
        argv[argv.index("-incoming") + 1] = "defer"
        self.destination = self._stack.enter_context(Vm(name, argv, self.directory))
        self.settings.tell(self.destination)
        self.destination.call("migrate-incoming", uri=uri)
        return self.destination

    def migration(
        self,
        uri: str = BY_SOCKET,
        may_end: Callable[[Migration], bool] = Migration.long_enough,
    ) -> Migration:
        """Starts to migrate the source, for as long as it may not end."""
        self.under_way = Migration(self.source, uri, may_end, self.blind)
        return self.under_way

    def until(self, what: str, condition: Callable[[], bool]) -> None:
        """Waits for something at the source; a migration that is under way goes on."""

        def go_on() -> None:
            self.progress.show(what)
            if self.under_way:
                self.under_way.over()

        self.source.wait(what, condition, 120, go_on)

    def order(self, line: str) -> None:
        """Has the guest carry out a line of shell, and waits until it has."""
        before = len(self.source.serial)
        self.source.order(f"{line}; echo PVDIRTY done")
        self.until(f"end of '{line}'", lambda: "PVDIRTY done" in self.source.serial[before:])

    def work_anew(self) -> None:
        """Has the guest start its workload anew, with the devices that `config` has now."""
        load = self.config.workload().replace(",", " ")
        self.order(f"killall load; wait; load='{load}'; start_load")

    def covered(self) -> dict[str, Any]:
        """The source's covered devices, by id."""
        devices = self.source.call("qom-get", path="/pvdirty", property="devices")
        return {device["id"]: device for device in devices}

    def compare(self) -> dict[str, int]:
        """Every byte of both sides, once they are stopped; and what the oracle says."""
        destination = self.destination
        assert destination
        self._generator.stop()
        run.stopped(self.source, destination)
        directory = self.directory / f"{destination.name}.compare"
        directory.mkdir()
        found = run.compare(self.source, destination, directory)
        if self.excuse:
            self.excuse(found, directory / f"{self.source.name}.dump")
        for dump in (self.source, destination):
            shutil.rmtree(directory / f"{dump.name}.dump")
        for name in ("answered-all-dirty", "x-oracle-written", "x-oracle-uncovered"):
            found[name] = int(self.source.port(PORTS[0], name))
        found = {name: value for name, value in found.items() if isinstance(value, int)}
        print("COMPARED", json.dumps(found), flush=True)
        expect(found["bytes_compared"] >= self.config.memory_bytes, "not all RAM was compared")
        expect(found["x-oracle-written"] > 0, "the oracle saw no DMA at all")
        outside = found["pages_lost_outside_oracle"]
        expect(outside == 0, f"{outside} lost pages were not written by a device")
        return found

    def judge(self) -> None:
        """Both sides are equal, and not because everything was sent; or, blind, are not.

        Everything, if that is what is wanted of a guest that does not track.
        """
        found = self.compare()
        if self.blind:
            uncovered = found["x-oracle-uncovered"]
            expect(uncovered > 0, "the oracle saw nothing uncovered: it proves nothing")
            if self.surely_lossy:
                expect(found["pages_lost"] > 0, "nothing is lost: the judge proves nothing")
            return
        expect(found["pages_lost"] == 0, f"{found['pages_lost']} pages are lost")
        if self.all_dirty:
            expect(found["answered-all-dirty"] > 0, "it did not know that it was incomplete")
            return
        expect(found["answered-all-dirty"] == 0, "a tracked guest was all dirty")
        expect(found["x-oracle-uncovered"] == 0, "written pages were not covered")

    def go_on(self) -> None:
        """The destination runs with its devices, and is the source from now on."""
        self.resume()
        self.wait_for_work()
        self.expect_sound()

    def resume(self) -> None:
        """Only that it runs."""
        assert self.destination
        self.source.kill()
        self.source, self.destination = self.destination, None
        self.under_way = None
        self.all_dirty, self.excuse = False, None
        self.source.call("cont")
        if self.config.driver(NET):
            self._generator.start(self.directory / f"{self.source.name}.net")

    def wait_for_work(self) -> None:
        """The devices move data at the source."""
        first: dict[str, int] = {}

        def works() -> bool:
            load = self.source.load().values
            first.update({k: v for k, v in load.items() if k not in first})
            return bool(load) and all(
                load[device.counter] > first[device.counter]
                for kind in (NET, DISK)
                if (device := self.config.driver(kind))
            )

        self.until("I/O at the source", works)

    def expect_sound(self) -> None:
        """The source runs, and its guest has found what it expected."""
        state = self.source.call("query-status")["status"]
        expect(state == "running", f"the source is {state}")
        errors = self.source.load().errors
        expect(errors == 0, f"{errors} errors in the guest's data")


def cross(guest: MovingGuest) -> dict[str, Any]:
    """From one QEMU to another, with all devices; QEMU's last word on it."""
    guest.receive()
    info = guest.migration().run()
    guest.judge()
    return info


@contextlib.contextmanager
def moving(mode: str, base: VmConfig, settings: Settings = PLAIN) -> Iterator[MovingGuest]:
    """A guest under load, in a mode of the harness; shows what it said if something fails."""
    with RunDir(mode, keep=False) as directory, contextlib.ExitStack() as stack:
        guest = MovingGuest(mode, base, directory, stack, settings)
        try:
            guest.boot()
            yield guest
        except BaseException:
            for vm in (guest.source, guest.destination):
                if vm:
                    print(f"--- {vm.name}:\n{vm.log.read_text(errors='replace')}", flush=True)
                    print(f"{vm.serial[-3000:]}", flush=True)
            raise
