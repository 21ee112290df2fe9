# SPDX-License-Identifier: MIT
"""Migrations of each kind that QEMU offers: none loses a page, and each was really of its kind."""

import contextlib
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from moving import BANDWIDTH, CRAWL, PLAIN, Migration, MovingGuest, Settings, moving
from support import BUILD, expect, expect_nothing_left

from harness.devices import DRIVERS
from harness.qmp import QmpError
from harness.topology import PORTS
from harness.vm import PLUGIN, Vm, VmConfig

KVM_STATE = BUILD / "host" / "tests" / "e2e" / "libpvdirty-kvm-state.so"
ROUND_TRIPS = 10
CANCELS = 4
MEASURE_SECONDS = 1  # the least that calc-dirty-rate takes
LONG_SECONDS = 60  # the most
MEASUREMENTS = 3
TO_FILE, FROM_FILE = "exec:cat >state", "exec:cat state"
SMALL = VmConfig(memory_bytes=256 << 20, cpu_pages_per_second=1500)


def plain(guest: MovingGuest) -> dict[str, Any]:
    """Once; QEMU's last word on it."""
    return guest.cross(guest)


def _expect_no_file(guest: MovingGuest) -> None:
    """What QEMU refuses itself, and after our session has begun."""
    refused = guest.migration(TO_FILE)
    while not refused.over():
        time.sleep(0.05)
    said = guest.source.log.read_text(errors="replace")
    expect(refused.status == "failed", f"by multifd to a file: {refused.info}")
    expect("multifd is not supported by current protocol" in said, f"refused otherwise: {said}")
    expect(not guest.source.port(PORTS[0], "logging"), "logging after a migration that has failed")
    guest.expect_sound()


def multifd(guest: MovingGuest) -> None:
    """Pages are read by threads of their own. QEMU has that for sockets alone."""
    # With an NVMe disk none starts that does not wait for its unplug.
    if all(DRIVERS[name].migratable for name in guest.config.drivers):
        _expect_no_file(guest)
    ram = plain(guest)["ram"]
    expect(ram["multifd-bytes"] > ram["transferred"] // 2, f"hardly by multifd: {ram}")


def xbzrle(guest: MovingGuest) -> None:
    """What has changed is sent, against a cache of what was sent."""
    cache = plain(guest)["xbzrle-cache"]
    print(cache, flush=True)
    expect(cache["pages"] > 0, f"no page went as a difference: {cache}")


def compress(guest: MovingGuest) -> None:
    """Pages are read, and packed, by threads of their own."""
    packed = plain(guest)["compression"]
    expect(packed["pages"] > 0, f"no page was packed: {packed}")


def _hold(migration: Migration, until: bool) -> None:
    """No pass but the first ends before; a device that does little leaves too little for one."""
    if migration.passes > 1:
        migration.limit(BANDWIDTH if until else CRAWL)
    elif not until:
        migration.slow_down()


def auto_converge(guest: MovingGuest) -> None:
    """The vCPUs are slowed down, the devices are not."""
    throttled = False

    def slow_enough(migration: Migration) -> bool:
        nonlocal throttled
        throttled |= migration.info.get("cpu-throttle-percentage", 0) > 0
        _hold(migration, until=throttled)
        return throttled and migration.long_enough()

    guest.receive()
    guest.migration(may_end=slow_enough).run()
    expect(throttled, "no vCPU was slowed down")
    guest.judge()


class DirtyRate:
    """QEMU's measurement of the dirty rate by the dirty bitmap: another user of the same log."""

    def __init__(self, vm: Vm) -> None:
        self._vm = vm

    def start(self, seconds: int = MEASURE_SECONDS) -> None:
        """Starts to measure."""
        self._vm.call("calc-dirty-rate", **{"calc-time": seconds, "mode": "dirty-bitmap"})

    def expect_no_ring(self) -> None:
        """KVM's dirty ring is not to be had here, and QEMU says so."""
        try:
            self._vm.call("calc-dirty-rate", **{"calc-time": 1, "mode": "dirty-ring"})
        except QmpError as error:
            expect("mode dirty-ring is not enabled" in str(error), f"refused otherwise: {error}")
        else:
            raise AssertionError("the dirty rate is measured by a ring under TCG")

    def measured(self) -> int | None:
        """MiB per second, if it is over."""
        info = self._vm.call("query-dirty-rate")
        if info["status"] != "measured":
            return None
        expect(info["mode"] == "dirty-bitmap", f"measured otherwise: {info}")
        print(info, flush=True)
        return int(info["dirty-rate"])


def dirty_rate(guest: MovingGuest) -> None:
    """Measured over the start, from the middle to the middle, and over the end."""
    rate = DirtyRate(guest.source)
    rates: list[int] = []

    def enough() -> bool:
        # Under TCG it counts what devices write alone, and only the guest can say that.
        return len(rates) >= MEASUREMENTS and (guest.blind or max(rates) > 0)

    def measured_enough(migration: Migration) -> bool:
        if not enough() and (value := rate.measured()) is not None:
            rates.append(value)
            rate.start(LONG_SECONDS if enough() else MEASURE_SECONDS)
        _hold(migration, until=enough())
        return enough() and migration.long_enough()

    rate.expect_no_ring()
    guest.receive()
    rate.start()
    migration = guest.migration(may_end=measured_enough)
    expect(rate.measured() is None, "it was over before the migration began")
    migration.run()
    expect(enough() and rate.measured() is None, "not measured over the end")
    expect(not guest.blind or max(rates) == 0, f"a blind host has seen something: {rates}")
    guest.judge()


def _cancel(migration: Migration) -> None:
    source = migration.source
    source.call("migrate_cancel")
    while not migration.over():
        time.sleep(0.05)
    expect(migration.status == "cancelled", f"cancelled, and it ends with: {migration.info}")
    deadline = time.monotonic() + 60
    while (state := source.call("query-status")["status"]) != "running":
        expect(time.monotonic() < deadline, f"cancelled, and the source is {state}")
        time.sleep(0.05)


def _cancel_when_stopped(guest: MovingGuest) -> None:
    """At the last moment: the VM is stopped already, for the last pass."""
    pause = Settings(("pause-before-switchover",))
    pause.tell(guest.source)
    guest.receive()
    migration = guest.migration()
    while migration.status != "pre-switchover":
        expect(not migration.over(), f"it does not wait: {migration.info}")
        time.sleep(0.02)
    _cancel(migration)
    pause.take_back(guest.source)


def cancelled(guest: MovingGuest) -> None:
    """Given up at random moments and at the last one, and begun anew."""
    seed = int(os.environ.get("PVDIRTY_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"PVDIRTY_SEED={seed}", flush=True)
    moments = random.Random(seed)
    for _ in range(CANCELS):
        passes, delay = moments.randrange(3), moments.random()
        print(f"cancel {delay:.3f} s after pass {passes}", flush=True)
        guest.receive()
        migration = guest.migration(may_end=lambda _: False)
        migration.hold_in_pass(passes)
        time.sleep(delay)
        _cancel(migration)
        guest.expect_sound()
    _cancel_when_stopped(guest)
    guest.expect_sound()
    plain(guest)


def by_file(guest: MovingGuest) -> None:
    """Saved to a file, and back from it."""
    guest.migration(TO_FILE).run()
    guest.receive(FROM_FILE)
    guest.judge()


def there_and_back(guest: MovingGuest) -> None:
    """Source and destination change places, leg after leg."""
    legs = 2 * ROUND_TRIPS
    for leg in range(1, legs + 1):
        guest.progress.show(f"leg {leg}")
        plain(guest)
        if guest.blind:
            return
        if leg < legs:
            guest.go_on()


@dataclass(frozen=True)
class Feature:
    """A kind of migration."""

    move: Callable[[MovingGuest], Any]
    settings: Settings = PLAIN
    plugins: tuple[Path, ...] = (PLUGIN,)


FEATURES = {
    "plain": Feature(plain),
    "multifd": Feature(multifd, Settings(("multifd",), {"multifd-channels": 4})),
    "xbzrle": Feature(xbzrle, Settings(("xbzrle",), {"xbzrle-cache-size": 128 << 20})),
    # On two cores zlib is slower than a guest that is busy. What finds no thread goes unpacked.
    "compress": Feature(compress, Settings(("compress",), {"compress-wait-thread": False})),
    "auto-converge": Feature(
        auto_converge, Settings(("auto-converge",), {"throttle-trigger-threshold": 1})
    ),
    "dirty-rate": Feature(dirty_rate, plugins=(PLUGIN, KVM_STATE)),
    "cancelled": Feature(cancelled),
    "by-file": Feature(by_file),
    "there-and-back": Feature(there_and_back),
}


def two_at_once(mode: str, base: VmConfig = SMALL) -> None:
    """Two guests of one host move at the same time."""
    with contextlib.ExitStack() as stack:
        guests = [stack.enter_context(moving(mode, base)) for _ in range(2)]
        for guest in guests:
            guest.receive()
        together = False

        def together_for_long(migration: Migration) -> bool:
            return together and migration.long_enough()

        migrations = [guest.migration(may_end=together_for_long) for guest in guests]
        while not all([migration.over() for migration in migrations]):
            together |= all(migration.long_enough() for migration in migrations)
            time.sleep(0.02)
        expect(together, "they did not move at the same time")
        for guest, migration in zip(guests, migrations, strict=True):
            migration.run()
            guest.judge()
            if not guest.blind:
                guest.go_on()
    expect_nothing_left(os.getpid())


CASES: dict[str, Callable[[], None]] = {
    "two-at-once": partial(two_at_once, "log"),
    "two-at-once-blind": partial(two_at_once, "off"),
    "two-at-once-6.12": partial(two_at_once, "log", replace(SMALL, kernel="6.12")),
}
