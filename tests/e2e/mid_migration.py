# SPDX-License-Identifier: MIT
"""What happens to a guest in the middle of a migration, and still no page is lost.

An event either leaves the migration as it is, or makes it fail with the reason: then the guest
goes on, tracks its devices again, and the next migration is judged instead.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import ballooned
import hinted
from ballooned import Discards
from features import SMALL, plain
from moving import Migration, MovingGuest, moving
from support import expect, expect_nothing_left

from harness import run
from harness.devices import DISK, DRIVERS, NET
from harness.qmp import QmpError
from harness.topology import PORTS
from harness.vm import VmConfig

PASSES = 2
REPORTS = 2  # of the workload
HOLD = 64 << 10  # bytes per second: no pass ends
TRIES = 5
ALL_DIRTY = ",on-incomplete=all-dirty"
BALLOON_BYTES = 16 << 20
HINTED_BYTES = 64 << 20
# A workload that starts anew expects the disk's first content.
BASE = replace(SMALL, control=True, disk_writes=False)

# Lines for the guest. What is below a bridge is below a port.
COVERED = "/sys/devices/pci0000:00/0000:*/0000:*"
IDLE = "killall load; wait"
DEVICES = "/sys/kernel/debug/pvdirty/devices"
UNBIND = f"for d in {COVERED}; do echo ${{d##*/}} >$d/driver/unbind; done"
BIND = f"for d in {COVERED}; do echo ${{d##*/}} >/sys/bus/pci/drivers_probe; done"


def _as_it_is(config: VmConfig) -> VmConfig:
    return config


def _nothing(_guest: MovingGuest) -> None:
    pass


@dataclass(frozen=True)
class Event:
    """Something that is done to a guest under load while its migration runs.

    Called with the guest. Afterwards `guest.under_way` is a migration, the same one or the next,
    that can be brought to a good end and judged; see through().
    """

    what: str
    happen: Callable[[MovingGuest], None]
    # What comes before the migration, and before its destination is started.
    prepare: Callable[[MovingGuest], None] = _nothing
    # What it needs of any VM that has what BASE has.
    config: Callable[[VmConfig], VmConfig] = _as_it_is

    def __call__(self, guest: MovingGuest) -> None:
        self.happen(guest)


# ---- what several of them do ----


def _under_way(guest: MovingGuest) -> Migration:
    assert guest.under_way
    return guest.under_way


def expect_refused(guest: MovingGuest, words: str, command: str, **arguments: Any) -> None:
    """QEMU refuses it at the source, with these words."""
    try:
        guest.source.call(command, **arguments)
    except QmpError as error:
        expect(words in str(error), f"{command} is refused for another reason: {error}")
    else:
        raise AssertionError(f"{command} is not refused")


def _expect_failed(guest: MovingGuest, *reasons: str) -> None:
    """The migration has failed for one of these reasons, and the source goes on."""
    migration = _under_way(guest)
    guest.until("end of the migration", migration.over)
    print(migration.info, flush=True)
    expect(migration.status == "failed", f"{migration.status} without a tracking guest")
    why = migration.info["error-desc"]
    expect(why.startswith("pvdirty: "), f"whose reason: {why}")
    expect(any(reason in why for reason in reasons), f"none of {reasons}: {why}")
    guest.expect_sound()


def expect_tracked(guest: MovingGuest) -> None:
    """All its devices are, under load."""
    guest.until(
        "tracked devices", lambda: all(device["tracked"] for device in guest.covered().values())
    )
    guest.wait_for_work()


def _migrate_anew(guest: MovingGuest) -> None:
    expect_tracked(guest)
    guest.receive()
    guest.migration()


# ---- plugging ----


def _plug(guest: MovingGuest) -> None:
    """Nothing can be plugged, and nothing unplugged for which the migration does not wait."""
    before = guest.covered()
    new = {"driver": "e1000e", "id": "late0", "bus": PORTS[0], "romfile": ""}
    expect_refused(guest, "device_add not allowed while migrating", "device_add", **new)
    for device in before:
        expect_refused(guest, "device_del not allowed while migrating", "device_del", id=device)
    expect(guest.covered() == before, "refused, and yet other devices")


def _hold_for(guest: MovingGuest, kind: str) -> None:
    """The migration waits for the end of a device; its destination does not have it."""
    driver = guest.config.driver(kind)
    assert driver
    guest.source.call("qom-set", path="/pvdirty", property="hold-for", value=driver.id)
    drivers = tuple(d for d in guest.config.drivers if DRIVERS[d].kind != kind)
    guest.config = replace(guest.config, drivers=drivers)


def _unplug(guest: MovingGuest) -> None:
    """All devices for which the migration waits; the workload lets them go first."""
    guest.work_anew()
    for device in [name for name, device in guest.covered().items() if device["hold"]]:
        guest.source.call("device_del", id=device)
        guest.until(f"end of {device}", lambda device=device: device not in guest.covered())


def _with_nvme(config: VmConfig) -> VmConfig:
    others = tuple(d for d in config.drivers if DRIVERS[d].kind != DISK)
    return replace(config, drivers=(*others, "nvme"))


def _hold_open(guest: MovingGuest) -> None:
    """The guest's first process has the disk open, past the end of the device."""
    disk = guest.config.driver(DISK)
    assert disk
    guest.order(f"exec 4<{disk.path}")
    _hold_for(guest, DISK)


# ---- drivers ----

NO_DRIVER = "no driver bound"
A_WHILE = "the guest stopped tracking a device for a while"


def _unbind(guest: MovingGuest) -> None:
    """Without a driver for so long that it counts as untracked."""
    guest.order(f"{IDLE}; {UNBIND}")
    if not guest.blind:
        _expect_failed(guest, NO_DRIVER)
    guest.order(BIND)
    guest.work_anew()
    if not guest.blind:
        _migrate_anew(guest)


def _rebind(guest: MovingGuest) -> None:
    """A driver that comes back at once: some devices were tracked all the time, and some not."""
    migration = _under_way(guest)
    migration.limit(HOLD)  # nothing works for a moment
    guest.order(f"{IDLE}; {UNBIND}; {BIND}")
    guest.work_anew()
    if guest.blind:
        return
    guest.until("tracked devices", lambda: all(d["tracked"] for d in guest.covered().values()))
    migration.limit(run.BANDWIDTH)
    # QEMU counts a sync before it learns there that a device was not tracked: so, two of them.
    migration.reach_pass(migration.passes + 2)
    if migration.status != "active":
        _expect_failed(guest, A_WHILE, NO_DRIVER)
        _migrate_anew(guest)


def _without_module(config: VmConfig) -> VmConfig:
    return replace(
        config, load_module=False, plugin_options=f"{config.plugin_options}{ALL_DIRTY}"
    )


def _expect_early(guest: MovingGuest) -> None:
    """The module was too late for all drivers, and says so."""
    for device in guest.covered().values():
        expect(not device["tracked"], f"tracked, and the driver came first: {device}")
        early = "driver bound before the layer came" in device["why"]
        expect(early, f"untracked for another reason: {device}")


def _load_module(guest: MovingGuest) -> None:
    guest.order("load_module pvdirty.ko")
    if guest.blind:
        return
    _expect_early(guest)
    guest.all_dirty = True


def _bind_anew(guest: MovingGuest) -> None:
    guest.order(f"{IDLE}; {UNBIND}; {BIND}")
    guest.work_anew()
    expect_tracked(guest)


# ---- suspend ----


def _with_suspend(config: VmConfig) -> VmConfig:
    return replace(config, more=(*config.more, "-global", "ICH9-LPC.disable_s3=0"))


def _excuse_roms(found: dict[str, Any], _dump: Path) -> None:
    """QEMU 7.2 puts its ROMs back by a wake-up, and does not count that as dirty (rom_reset()).

    Its firmware asks for them again after a reset, but not after a sleep.
    """
    for pages in found["ranges"]:
        if pages["block"].startswith("/rom@"):
            count = pages["last"] - pages["first"] + 1
            found["pages_lost"] -= count
            found["pages_lost_outside_oracle"] -= count


def _link(guest: MovingGuest, up: bool) -> None:
    """Of a NIC that must not receive while the guest falls asleep."""
    nic = guest.config.driver(NET)
    if nic and nic.sleeps_unlinked:
        guest.source.call("set_link", name=nic.id, up=up)


def _suspend(guest: MovingGuest) -> None:
    """To RAM (S3), and back. QEMU resets all devices when it wakes the guest up."""
    before = len(guest.source.serial)
    _under_way(guest).limit(HOLD)
    _link(guest, up=False)
    guest.source.order("echo mem >/sys/power/state && echo PVDIRTY awake")
    guest.until("sleep", lambda: guest.source.call("query-status")["status"] == "suspended")
    guest.source.call("system_wakeup")
    guest.until("end of the sleep", lambda: "PVDIRTY awake" in guest.source.serial[before:])
    _link(guest, up=True)
    if guest.blind:
        guest.excuse = _excuse_roms
    else:
        _expect_failed(guest, "the port was reset, or the guest left it")
        _migrate_anew(guest)


# ---- balloon ----


def _with_balloon(config: VmConfig) -> VmConfig:
    """The kernel does not clear what it allocates, or the balloon's pages would be written anew."""
    options = f"{config.kernel_options} init_on_alloc=0"
    return replace(config, more=(*config.more, *ballooned.DEVICE), kernel_options=options)


def _expect_balloon(guest: MovingGuest) -> None:
    """What the balloon will take was used before, and is not zero."""
    guest.order(f"load_modules balloon; yes | head -c {2 * BALLOON_BYTES} >/full; rm /full")
    guest.excuse = Discards(guest.source).excuse


def _balloon(guest: MovingGuest) -> None:
    """It inflates, deflates, and inflates again, while the devices work on."""
    all_of_it = guest.config.memory_bytes
    for left in (all_of_it - BALLOON_BYTES, all_of_it, all_of_it - BALLOON_BYTES // 2):
        guest.source.call("balloon", value=left)
        guest.until(
            "size of the balloon",
            lambda left=left: guest.source.call("query-balloon")["actual"] == left,
        )


def _with_hints(config: VmConfig) -> VmConfig:
    options = f"{config.kernel_options} {hinted.KERNEL_OPTIONS}"
    return replace(config, more=(*config.more, *hinted.DEVICE), kernel_options=options)


def _expect_hints(guest: MovingGuest) -> None:
    guest.order("load_modules balloon")
    hinted.excuse_free(guest)


def _use_hinted(guest: MovingGuest) -> None:
    """The guest needs what it has hinted at, and devices write there."""
    hinted.expect_hinted(guest)
    guest.order(f"yes | head -c {HINTED_BYTES} >/full; rm /full")
    guest.work_anew()


# ---- the events ----

EVENTS: dict[str, Event] = {
    "plug": Event("a device should come, or go, and QEMU refuses", _plug),
    "unplug": Event(
        "the NIC is unplugged, as the migration was told", _unplug, partial(_hold_for, kind=NET)
    ),
    "held-open": Event(
        "an NVMe disk is unplugged, and a process has it open", _unplug, _hold_open, _with_nvme
    ),
    "unbind": Event("the drivers go, and come back later", _unbind),
    "rebind": Event("the drivers go, and come back at once", _rebind),
    "late-module": Event(
        "the module comes when the drivers are there", _load_module, config=_without_module
    ),
    "suspend": Event("the guest sleeps, and is woken up", _suspend, config=_with_suspend),
    "balloon": Event("memory is taken, and given back", _balloon, _expect_balloon, _with_balloon),
    "hints": Event(
        "free pages are hinted at, and then used", _use_hinted, _expect_hints, _with_hints
    ),
}


def through(guest: MovingGuest, event: Event) -> dict[str, Any]:
    """One migration with an event in its middle; it is judged. QEMU's last word on it."""
    info = move_through(guest, event)
    guest.judge()
    return info


def move_through(guest: MovingGuest, event: Event) -> dict[str, Any]:
    """Likewise, and not judged yet."""
    event.prepare(guest)
    guest.receive()
    migration = guest.migration(may_end=lambda _: False)
    migration.hold_in_pass(PASSES)
    event(guest)
    if guest.under_way is migration:
        migration.limit(run.BANDWIDTH)
        migration.hold_in_pass(migration.passes + 1)
        for _ in range(REPORTS):
            guest.wait_for_work()
        migration.release()
    return _under_way(guest).run()


# ---- more than an event ----


def held_open(base: VmConfig) -> None:
    """The shadow doorbells are in flight until the last process closes the disk.

    They are all that is left: the device that wrote them is the only one that there was.
    """
    with moving("log", EVENTS["held-open"].config(replace(base, drivers=()))) as guest:
        through(guest, EVENTS["held-open"])
        expect(guest.source.port(PORTS[0], "pages-in-flight") > 0, "nothing is left in flight")
        guest.go_on()
        guest.order(f"grep -q ' gone mappings=[1-9]' {DEVICES} && echo PVDIRTY held")
        expect("PVDIRTY held" in guest.source.serial, "the guest itself knows of none")
        # The workload was started with it, too.
        guest.order(f"{IDLE}; exec 4<&-; while grep -q ' gone ' {DEVICES}; do usleep 100000; done")
    expect_nothing_left(os.getpid())


def held_open_uncounted(base: VmConfig) -> None:
    """The control: what is in flight at the end and not sent, that is lost."""
    base = replace(base, drivers=(), port_options=",x-test-drop-in-flight=on")
    with moving("log", EVENTS["held-open"].config(base)) as guest:
        move_through(guest, EVENTS["held-open"])
        found = guest.compare()
        expect(found["pages_lost"] > 0, "nothing is lost: the judge proves nothing")
        expect(found["x-oracle-uncovered"] > 0, "and the oracle has not seen it")
    expect_nothing_left(os.getpid())


def hotplug(base: VmConfig) -> None:
    """A device that the guest has not found yet keeps a migration from starting."""
    with moving("log", replace(base, drivers=("virtio-blk",))) as guest:
        new = {"driver": "e1000e", "id": "new0", "bus": PORTS[0], "romfile": ""}
        guest.source.call("stop")
        guest.source.call("device_add", **new)
        expect_refused(guest, "new0 (below rp0)", "migrate", uri="unix:nowhere")
        guest.source.call("cont")
        guest.order("load_modules e1000e")
        properties = ",".join(f"{name}={value}" for name, value in new.items())
        more = ("-device", properties.removeprefix("driver="))
        guest.config = replace(guest.config, more=(*guest.config.more, *more))
        expect_tracked(guest)
        through(guest, EVENTS["plug"])
        guest.go_on()
    expect_nothing_left(os.getpid())


def refused_module(base: VmConfig) -> None:
    """No migration starts, and the reason names the device, until the drivers are bound anew."""
    with moving("log", replace(base, load_module=False)) as guest:
        untracked = "(below rp0): the guest has not registered the port"
        expect_refused(guest, untracked, "migrate", uri="unix:nowhere")
        guest.order("load_module pvdirty.ko")
        _expect_early(guest)
        early = "nic0 (below rp0): driver bound before the layer came"
        expect_refused(guest, early, "migrate", uri="unix:nowhere")
        _bind_anew(guest)
        plain(guest)
        guest.go_on()
    expect_nothing_left(os.getpid())


def rebind_tracked(base: VmConfig) -> None:
    """The e1000e's driver says all it maps: gone and back at once, it was tracked all the time."""
    with moving("log", replace(base, drivers=("e1000e",))) as guest:
        for _ in range(TRIES):
            guest.receive()
            migration = guest.migration(may_end=lambda _: False)
            migration.hold_in_pass(PASSES)
            _rebind(guest)
            through_it = guest.under_way is migration
            _under_way(guest).release()
            _under_way(guest).run()
            guest.judge()
            if through_it:
                break
            guest.go_on()
        expect(through_it, f"no migration of {TRIES} went on")
    expect_nothing_left(os.getpid())


_CASES: dict[str, Callable[[VmConfig], None]] = {
    "mid-hotplug": hotplug,
    "mid-refused-module": refused_module,
    "mid-rebind-e1000e": rebind_tracked,
}
CASES: dict[str, Callable[[], None]] = {
    name + suffix: partial(case, base)
    for name, case in _CASES.items()
    for base, suffix in ((BASE, ""), (replace(BASE, kernel="6.12"), "-6.12"))
} | {
    # Linux 6.12's driver gives the shadow doorbells back when the device goes.
    "mid-held-open": partial(held_open, BASE),
    "mid-held-open-uncounted": partial(held_open_uncounted, BASE),
}
