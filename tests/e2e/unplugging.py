# SPDX-License-Identifier: MIT
"""A migration in which the device works until the rest would fit, and is replaced afterwards."""

import time
from functools import partial
from typing import Any

from moving import MovingGuest
from support import expect

from harness.devices import Driver


def _ask(guest: MovingGuest, name: str) -> Any:
    return guest.source.call("qom-get", path="/pvdirty", property=name)


def without(device: Driver, argv: list[str]) -> list[str]:
    """A destination that starts without the device, and keeps what is behind it."""
    ours = (f"id={device.id},", f"bus={device.id}.0,")
    at = [i for i, a in enumerate(argv) if any(o in a for o in ours) and argv[i - 1] == "-device"]
    expect(bool(at), f"no {device.id} in {argv}")
    return [a for i, a in enumerate(argv) if i not in at and i + 1 not in at]


def cross(guest: MovingGuest, device: Driver) -> dict[str, Any]:
    """Migrates, unplugs the device when the end is near, judges; QEMU's last word on it."""
    guest.receive(change=partial(without, device))
    again = guest.covered()[device.id]["device-add"]
    guest.source.call("qom-set", path="/pvdirty", property="hold-for", value=device.id)
    migration = guest.migration()
    asked = False
    while not migration.over():
        if not asked and migration.long_enough() and _ask(guest, "converged"):
            expect(_ask(guest, "holding"), "converged, and nothing holds the end")
            expect(migration.status == "active", "it ends with the device still there")
            guest.source.call("device_del", id=device.id)
            asked = True
        time.sleep(0.02)
    complaint = guest.source.complaint()
    expect(migration.status == "completed", f"{migration.info} {complaint}")
    expect(asked, "it ended before the device was asked to go")
    expect(device.id not in guest.covered(), "it ended before the device was gone")
    guest.judge()
    if not guest.blind:
        _replace(guest, device, again)
    return migration.info


def _replace(guest: MovingGuest, device: Driver, again: list[dict[str, Any]]) -> None:
    """The destination goes on, gets another device, and its guest works with that."""
    guest.resume()
    # What held the old device open would keep its name from the new one.
    guest.order("killall load; wait; echo PVDIRTY init again")
    for arguments in again:
        guest.source.call("device_add", **arguments)
    guest.until(
        "tracked replacement", lambda: bool(guest.covered().get(device.id, {}).get("tracked"))
    )
    guest.order("start_load")
    guest.wait_for_work()
    guest.expect_sound()
