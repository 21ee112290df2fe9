# SPDX-License-Identifier: MIT
"""What happens to a guest in the middle of a migration, and still no page is lost.

An event either leaves the migration as it is, or makes it fail with the reason: then the guest
goes on, tracks its devices again, and the next migration is judged instead.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from features import SMALL
from moving import CRAWL, Migration, MovingGuest, moving
from support import expect, expect_nothing_left

from harness import run
from harness.devices import DRIVERS, NET
from harness.qmp import QmpError
from harness.vm import PORTS, VmConfig

PASSES = 2
REPORTS = 3  # of the workload
# A workload that starts anew expects the disk's first content.
BASE = replace(SMALL, control=True, disk_writes=False)


def _as_it_is(config: VmConfig) -> VmConfig:
    return config


def _nothing(_guest: MovingGuest) -> None:
    pass


@dataclass(frozen=True)
class Event:
    """Something that is done to a guest under load while its migration runs.

    Called with the guest. Afterwards `guest.under_way` is a migration, the same one or the next,
    that can be brought to a good end and judged.
    """

    what: str
    happen: Callable[[MovingGuest], None]
    # What comes before the migration, and before its destination is started.
    prepare: Callable[[MovingGuest], None] = _nothing
    # What it needs of any VM; of BASE at least.
    config: Callable[[VmConfig], VmConfig] = _as_it_is

    def __call__(self, guest: MovingGuest) -> None:
        self.happen(guest)


# ---- plugging ----


def _expect_refused(guest: MovingGuest, words: str, command: str, **arguments: Any) -> None:
    try:
        guest.source.call(command, **arguments)
    except QmpError as error:
        expect(words in str(error), f"{command} is refused for another reason: {error}")
    else:
        raise AssertionError(f"{command} is not refused")


def _plug(guest: MovingGuest) -> None:
    """Nothing can be plugged, and nothing unplugged for which the migration does not wait."""
    before = guest.covered()
    new = {"driver": "e1000e", "id": "new0", "bus": PORTS[0], "romfile": ""}
    _expect_refused(guest, "device_add not allowed while migrating", "device_add", **new)
    for device in before:
        _expect_refused(guest, "device_del not allowed while migrating", "device_del", id=device)
    expect(guest.covered() == before, "refused, and yet other devices")


def _hold_for(guest: MovingGuest, kind: str) -> None:
    """The migration waits for the end of a device; its destination does not have it."""
    driver = guest.config.driver(kind)
    assert driver
    guest.source.call("qom-set", path="/pvdirty", property="hold-for", value=driver.id)
    drivers = tuple(d for d in guest.config.drivers if DRIVERS[d].kind != kind)
    guest.config = replace(guest.config, drivers=drivers)


def _remove(guest: MovingGuest, device: str) -> None:
    """Unplugs a device that the workload has let go."""
    guest.source.call("device_del", id=device)
    guest.until(f"end of {device}", lambda: device not in guest.covered())


def _unplug(guest: MovingGuest) -> None:
    guest.work_anew()
    _remove(guest, "nic0")


# ---- the events ----

EVENTS: dict[str, Event] = {
    "plug": Event("a device should come, or go, and QEMU refuses", _plug),
    "unplug": Event(
        "the NIC is unplugged, as the migration was told", _unplug, partial(_hold_for, kind=NET)
    ),
}


def through(guest: MovingGuest, event: Event) -> dict[str, Any]:
    """One migration with an event in its middle; it is judged. QEMU's last word on it."""
    event.prepare(guest)
    guest.receive()
    migration = guest.migration(may_end=lambda _: False)
    _pass(migration, PASSES)
    event(guest)
    assert guest.under_way
    if guest.under_way is migration:
        _pass(migration, 1)
        for _ in range(REPORTS):
            guest.wait_for_work()
        migration.release()
    info = guest.under_way.run()
    guest.judge()
    return info


def _pass(migration: Migration, passes: int) -> None:
    """Lets more passes end; then it does not converge, and devices write what was sent."""
    passes += migration.passes
    migration.limit(run.BANDWIDTH)
    while not migration.over() and migration.passes < passes:
        time.sleep(0.02)
    migration.limit(CRAWL)


def move(event: Event, mode: str, base: VmConfig = BASE) -> None:
    """A guest that moves, and to which this happens; the control, "off", must lose pages."""
    with moving(mode, event.config(base)) as guest:
        through(guest, event)
        if not guest.blind:
            guest.go_on()
    expect_nothing_left(os.getpid())


_OTHER_KERNEL = replace(BASE, kernel="6.12")
CASES: dict[str, Callable[[], None]] = {
    f"mid-{name}{suffix}": partial(move, event, mode, base)
    for name, event in EVENTS.items()
    for suffix, mode, base in (
        ("", "log", BASE),
        ("-blind", "off", BASE),
        ("-6.12", "log", _OTHER_KERNEL),
    )
}
