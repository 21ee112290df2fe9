# SPDX-License-Identifier: MIT
"""What is around a migration: confined QEMUs, and destinations that are not like the source.

Such a destination is refused before the RAM is sent, with the reason, and the source goes on; the
next migration, to a destination like the source, loses nothing.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from features import SMALL, plain
from moving import MovingGuest, Settings, moving
from support import BUILD, expect, expect_nothing_left

from harness.qmp import QmpError
from harness.vm import PLUGIN

OLDER_STREAM = BUILD / "host" / "libpvdirty-qemu-older-stream.so"
OLDER_WIRE = BUILD / "host" / "libpvdirty-qemu-older-wire.so"
# What libvirt gives its QEMUs.
SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"

NIC = replace(SMALL, drivers=("e1000e",))

Change = Callable[[list[str]], list[str]]


@dataclass(frozen=True)
class Other:
    """A destination that is not like the source."""

    name: str
    change: Change  # of the command line
    words: str  # that it ends with


def _replaced(old: str, new: str) -> Change:
    """Changes one argument, which must be there."""

    def change(argv: list[str]) -> list[str]:
        changed = [argument.replace(old, new) for argument in argv]
        expect(changed != argv, f"no {old} in {argv}")
        return changed

    return change


def _without_port(argv: list[str]) -> list[str]:
    """Without rp1, which has no device below it in these tests."""
    (at,) = [i for i, a in enumerate(argv) if a.startswith("pvdirty-root-port,id=rp1,")]
    return argv[: at - 1] + argv[at + 1 :]


def _with_stock_port(argv: list[str]) -> list[str]:
    return [*_without_port(argv), "-device", "pcie-root-port,id=rp1,chassis=2,slot=2,addr=5"]


def _with_another_port(argv: list[str]) -> list[str]:
    return [*argv, "-device", "pvdirty-root-port,id=rp2,chassis=3,slot=3,addr=6"]


TOPOLOGIES = (
    Other(
        "a port in another slot",
        _replaced("slot=2,addr=5", "slot=2,addr=6"),
        "the source has a port 0000:00:05.0/pvdirty-root-port, this VM has none there",
    ),
    Other("a port less", _without_port, "ports of the source: 2, of this VM: 1"),
    Other("a port more", _with_another_port, "ports of the source: 2, of this VM: 3"),
    Other("a stock port", _with_stock_port, "ports of the source: 2, of this VM: 1"),
)
OLDER = (
    Other(
        "an older stream",
        _replaced(str(PLUGIN), str(OLDER_STREAM)),
        "unsupported version 3 for 'pvdirty' v2",
    ),
    Other(
        "an older wire format",
        _replaced(str(PLUGIN), str(OLDER_WIRE)),
        "the source's ports speak wire version 1, those here 0",
    ),
)
NEWER_STREAM = Other(
    "a newer stream",
    _replaced(str(OLDER_STREAM), str(PLUGIN)),
    "the source's plug-in writes version 2 of the stream, this one reads 3",
)
# A device is QEMU's own matter: it says so at the very end, so the source must wait for its word.
DEVICE_ELSEWHERE = Other(
    "a device below another port",
    _replaced("bus=rp0,netdev=n0", "bus=rp1,netdev=n0"),
    "Unknown savevm section or instance '0000:00:04.0:00.0/e1000e'",
)
WAIT_FOR_ITS_WORD = Settings(("return-path",))


def expect_refused(guest: MovingGuest, other: Other) -> None:
    """A migration there fails for the reason given, and the source goes on."""
    destination = guest.receive(change=other.change)
    migration = guest.migration()
    while not migration.over():
        time.sleep(0.05)
    expect(migration.status == "failed", f"{other.name}: {migration.info}")
    deadline = time.monotonic() + 60
    while destination.alive():
        expect(time.monotonic() < deadline, f"{other.name}: the destination does not end")
        time.sleep(0.05)
    said = destination.log.read_text(errors="replace")
    print(f"{other.name}: {said}", flush=True)
    expect(other.words in said, f"{other.name}: another reason")
    guest.wait_for_work()
    guest.expect_sound()


def unlike_destinations() -> None:
    """Ports elsewhere, fewer, more, and of another kind; older plug-ins; a device elsewhere."""
    with moving("log", NIC) as guest:
        for other in (*TOPOLOGIES, *OLDER):
            expect_refused(guest, other)
        guest.settings = WAIT_FOR_ITS_WORD
        guest.settings.tell(guest.source)
        expect_refused(guest, DEVICE_ELSEWHERE)
        plain(guest)
        guest.go_on()
    expect_nothing_left(os.getpid())


def older_source() -> None:
    """The other way round; and a guest has no use for a host that is too old for it."""
    with moving("log", replace(NIC, plugins=(OLDER_STREAM,))) as guest:
        expect_refused(guest, NEWER_STREAM)
    with moving("log", replace(NIC, plugins=(OLDER_WIRE,))) as guest:
        guest.receive()
        try:
            guest.migration()
        except QmpError as error:
            expect("the guest has not registered the port" in str(error), f"why: {error}")
        else:
            raise AssertionError("the guest registers with a host that it does not know")
        guest.wait_for_work()
        guest.expect_sound()
    expect_nothing_left(os.getpid())


def sandbox() -> None:
    """QEMU may neither start a program nor change its rights: nothing here needs to."""
    with moving("log", replace(SMALL, sandbox=SANDBOX)) as guest:
        for vm in (guest.source, guest.receive()):
            status = Path(f"/proc/{vm.process.pid}/status").read_text()
            expect("\nSeccomp:\t2\n" in status, f"{vm.name} is not confined: {status}")
        plain(guest)
        guest.go_on()
    expect_nothing_left(os.getpid())


CASES = {
    "unlike-destinations": unlike_destinations,
    "older-source": older_source,
    "sandbox": sandbox,
}
