# SPDX-License-Identifier: MIT
"""Ports that are conventional bridges: on q35, and on i440fx with hot-plug by their SHPC."""

import os
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import faults
from around import Other, expect_refused
from features import SMALL, plain
from moving import MovingGuest, moving
from support import expect, expect_nothing_left

from harness import run
from harness.devices import DISK, DRIVERS
from harness.topology import BRIDGES, BRIDGES_I440FX, PORTS, ROOT_PORTS
from harness.vm import Vm, VmConfig

BRIDGE = re.compile(r"pvdirty-bridge,id=(\w+),chassis_nr=(\d+),")
BLOCK = DRIVERS["virtio-blk"]
NEW = "pvdirty-bridge,id=new,bus=pci.0,chassis_nr=9,addr=8"
INNER = f"pvdirty-bridge,id=inner,bus={PORTS[1]},chassis_nr=9"

Q35 = replace(SMALL, topology=BRIDGES)
# The workload starts anew with each disk that comes, and expects the disk's first content.
EMPTY = replace(
    SMALL,
    topology=BRIDGES_I440FX,
    drivers=(),
    disk_to_come=True,
    disk_writes=False,
    control=True,
)
BY_SHPC_ON_Q35 = ("-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off")
EMPTY_Q35 = replace(EMPTY, topology=replace(BRIDGES, options=BY_SHPC_ON_Q35))


def crash() -> None:
    """A new kernel is told from its sizing of a BAR, also where there is one."""
    roomy = replace(Q35, memory_bytes=faults.PLAIN.memory_bytes)
    faults.refused(faults.CRASH, roomy.kernel, roomy)


def nested() -> None:
    """Of two ports above a device, the nearer one has it."""
    inner = replace(ROOT_PORTS, between=("-device", f"{INNER}{run.UNTRACKED}"))
    config = replace(SMALL, drivers=("virtio-blk",), topology=inner.at(DISK, "inner,addr=1"))
    with moving("log", config) as guest:
        disk = guest.covered()[BLOCK.id]
        expect(disk["port"] == "inner" and disk["tracked"], f"not below the inner port: {disk}")
        plain(guest)
        guest.go_on()
    expect_nothing_left(os.getpid())


def unlike_destination() -> None:
    """A root port is no bridge: said before the RAM is sent."""

    def with_root_ports(argv: list[str]) -> list[str]:
        argv = [BRIDGE.sub(r"pvdirty-root-port,id=\1,chassis=\2,slot=\2,", a) for a in argv]
        return [a.replace(",addr=1", "") if ",bus=rp" in a else a for a in argv]

    words = "the source has a port 0000:00:04.0/pvdirty-bridge, this VM has none there"
    with moving("log", Q35) as guest:
        expect_refused(guest, Other("root ports", with_root_ports, words))
        plain(guest)
        guest.go_on()
    expect_nothing_left(os.getpid())


class PluggedGuest:
    """A guest to which a disk comes, and from which it goes: all its DMA is that disk's."""

    def __init__(self, guest: MovingGuest) -> None:
        self.guest = guest
        self.empty = guest.config

    @property
    def vm(self) -> Vm:
        """Where the guest runs."""
        return self.guest.source

    def add(self, device: str) -> None:
        """Plugs in what -device would make, were it there at the start."""
        driver, *properties = device.split(",")
        arguments = dict(p.split("=", 1) for p in properties)
        self.vm.call("device_add", driver=driver, **arguments)

    def remove(self, name: str) -> None:
        """Unplugs a device that nothing in the guest uses, and waits until it is gone."""
        self.guest.order("killall load; wait")
        self.vm.call("device_del", id=name)

        def gone() -> bool:
            there = self.vm.call("qom-list", path="/machine/peripheral")
            return not {name, BLOCK.id} & {entry["name"] for entry in there}

        self.guest.until(f"end of {name}", gone)
        # Its object ends a moment later.
        self.guest.until("end of its cover", lambda: BLOCK.id not in self.guest.covered())
        expect(self.vm.port(PORTS[0], "complete"), "what is gone is missed")
        self.guest.config = self.empty

    def use_disk(self, port: str, *more: str) -> None:
        """Has the guest use the disk that came below this port; more: what came with it."""
        guest = self.guest
        guest.order(f"load_modules virtio-blk; until [ -b {BLOCK.path} ]; do usleep 100000; done")
        if not guest.blind:
            guest.until("tracked disk", lambda: bool(guest.covered()[BLOCK.id]["tracked"]))
            expect(guest.covered()[BLOCK.id]["port"] == port, f"it is not below {port}")
        topology = replace(self.empty.topology, between=more).at(DISK, f"{port},addr=1")
        config = replace(
            self.empty, drivers=("virtio-blk",), topology=topology, disk_to_come=False
        )
        guest.config = config
        guest.work_anew()
        guest.wait_for_work()


def _disk_below(port: str) -> str:
    return f"{BLOCK.arguments(port)[1]},addr=1"


def hotplug(mode: str, empty: VmConfig) -> None:
    """The disk comes and goes by the bridge's SHPC."""
    with moving(mode, empty) as guest:
        plugged = PluggedGuest(guest)
        plugged.add(_disk_below(PORTS[0]))
        plugged.use_disk(PORTS[0])
        plain(guest)
        if guest.blind:
            return
        guest.go_on()
        plugged.remove(BLOCK.id)
        plugged.add(_disk_below(PORTS[1]))
        plugged.use_disk(PORTS[1])
        plain(guest)
        guest.go_on()
    expect_nothing_left(os.getpid())


def bridge_hotplug(mode: str) -> None:
    """A bridge comes by ACPI with the disk below it, and goes with it."""
    by_acpi = replace(EMPTY, topology=replace(BRIDGES_I440FX, options=()))
    with moving(mode, by_acpi) as guest:
        plugged = PluggedGuest(guest)
        new = f"{NEW}{guest.config.port_options}"

        def add() -> None:
            # All at once: nothing comes below it later. Without OSHP Linux leaves its SHPC alone,
            # with it Linux 6.1's SHPC driver crashes on a bridge that comes, a stock one too.
            guest.source.call("stop")
            plugged.add(new)
            plugged.add(_disk_below("new"))
            guest.source.call("cont")
            plugged.use_disk("new", "-device", new)

        add()
        if not guest.blind:
            plugged.remove("new")
            expect("new" not in _ports(guest.source), "the bridge is gone, and still a port")
            add()
        plain(guest)
        if not guest.blind:
            guest.go_on()
    expect_nothing_left(os.getpid())


def _ports(vm: Vm) -> set[str]:
    ports = vm.call("qom-get", path="/pvdirty", property="ports")
    return {port["id"] for port in ports}


CASES: dict[str, Callable[[], None]] = {
    "bridge-nested": nested,
    "bridge-unlike-destination": unlike_destination,
    "bridge-device-hotplug": partial(hotplug, "log", EMPTY),
    "bridge-device-hotplug-blind": partial(hotplug, "off", EMPTY),
    "bridge-device-hotplug-q35": partial(hotplug, "log", EMPTY_Q35),
    "bridge-crash": crash,
    "bridge-hotplug": partial(bridge_hotplug, "log"),
    "bridge-hotplug-blind": partial(bridge_hotplug, "off"),
}
