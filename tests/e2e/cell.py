# SPDX-License-Identifier: MIT
"""A cell of the matrix: a migration under load, by a value of each axis."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import unplugging
from features import FEATURES, SMALL
from mid_migration import EVENTS, through
from moving import MovingGuest, moving

from harness.devices import DISK, DRIVERS, NET
from harness.linux import BUILT_IN
from harness.topology import (
    BRIDGES,
    BRIDGES_I440FX,
    ROOT_BUS,
    ROOT_PORTS,
    SWITCH,
    Topology,
)
from harness.vm import VmConfig

CONTROL = "-control"
# The second device of a topology that has two is of the other kind.
PARTNERS = {NET: "virtio-blk", DISK: "e1000e"}
TWO_PORTS, BESIDE = "two-ports", "beside"

TOPOLOGIES: dict[str, Topology] = {
    "root-port": ROOT_PORTS,
    "switch": SWITCH,
    "bridge": BRIDGES,
    "bridge-i440fx": BRIDGES_I440FX,
    TWO_PORTS: ROOT_PORTS,  # each has a device, and there is one log
    BESIDE: ROOT_PORTS,  # a second device is not covered
}
# Every mapping is bounced: the device writes a slot, the CPU copies from it.
SWIOTLB = "swiotlb=force"
SWIOTLB_BYTES = 384 << 20  # the slots take 64 MiB
# A device that reaches 32 bits, with RAM beyond: its mappings are bounced, beside direct ones.
NARROW = {"driver": "e1000", "memory": "6G"}
WAIT_FOR_BOUNCED = (
    "until [ $(cat /sys/kernel/debug/swiotlb/io_tlb_used) -gt 0 ]; do usleep 10000; done"
)
MEMORY = {"256M": SMALL.memory_bytes, "6G": 6 << 30}
# Of these the whole is in the settings: they leave to others how a migration goes and ends.
SETTINGS_ALONE = ("plain", "multifd", "xbzrle", "compress")
NO_EVENT = "none"


@dataclass(frozen=True)
class Cell:
    """Values of all axes, by their names in matrix.toml."""

    values: Mapping[str, Any]

    def __getitem__(self, axis: str) -> Any:
        return self.values[axis]

    def why_not(self) -> str:
        """Why there cannot be such a migration, or ""."""
        driver = DRIVERS[self["driver"]]
        if not driver.migratable and self["policy"] == "keep":
            return f"QEMU cannot save the state of {self['driver']}"
        if driver.not_replaced and self["policy"] == "unplug":
            return f"QEMU {driver.not_replaced}"
        if self["policy"] == "unplug" and self["feature"] not in SETTINGS_ALONE:
            return f"{self['feature']} ends migrations in its own way, not by an unplug"
        if self["event"] != NO_EVENT:
            if self["feature"] not in SETTINGS_ALONE or self["policy"] == "unplug":
                return "an event needs a plain course of the migration"
            if self["topology"] != TWO_PORTS or self["memory"] != "256M":
                return "events are for small guests with a NIC and a disk that are covered"
            if self["event"] == "late-module" and self["kernel"] in BUILT_IN:
                return "no module can come late where pvdirty is built in"
            if self["event"] == "held-open" and driver.kind == DISK:
                return "held-open brings its own disk"
        if self["memory"] == "6G" and self["feature"] in ("there-and-back", "by-file"):
            return f"{self['feature']} with 6 GiB takes minutes"
        return ""

    @property
    def config(self) -> VmConfig:
        """The VMs of the cell."""
        driver = DRIVERS[self["driver"]]
        topology = TOPOLOGIES[self["topology"]]
        drivers = [self["driver"]]
        if self["topology"] in (TWO_PORTS, BESIDE):
            drivers.append(PARTNERS[driver.kind])
        if self["topology"] == BESIDE:
            topology = topology.at(DRIVERS[drivers[1]].kind, ROOT_BUS)
        bounced = self["mapping"] == "swiotlb"
        unplug = self["policy"] == "unplug"
        config = replace(
            SMALL,
            kernel=self["kernel"],
            drivers=tuple(drivers),
            cpus=self["cpus"],
            topology=topology,
            memory_bytes=max(MEMORY[self["memory"]], SWIOTLB_BYTES if bounced else 0),
            kernel_options=SWIOTLB if bounced else "",
            plugins=FEATURES[self["feature"]].plugins,
            control=unplug or self._bounces,
            # The workload starts anew with the replacement, and expects the disk's first content.
            disk_writes=not unplug,
        )
        event = EVENTS.get(self["event"])
        return event.config(replace(config, control=True, disk_writes=False)) if event else config

    def run(self, control: bool, tried: bool) -> None:
        """The migration; the control is the same without the guest's module and with a blind host.

        tried: a control that is known to lose pages, so it must. Any other may lose none by chance,
        when the CPU has written a page soon after the device.
        """
        feature = FEATURES[self["feature"]]
        with moving("off" if control else "log", self.config, feature.settings) as guest:
            self._arrange(guest)
            guest.surely_lossy = tried and self._loses
            if self._bounces:
                guest.order(WAIT_FOR_BOUNCED)
            feature.move(guest)
            if not guest.blind and self["policy"] == "keep":
                guest.go_on()

    def _arrange(self, guest: MovingGuest) -> None:
        if self["policy"] == "unplug":
            guest.cross = partial(unplugging.cross, device=DRIVERS[self["driver"]])
        elif event := EVENTS.get(self["event"]):
            guest.cross = partial(through, event=event)

    @property
    def _bounces(self) -> bool:
        return self["mapping"] == "swiotlb" or all(self[a] == v for a, v in NARROW.items())

    @property
    def _loses(self) -> bool:
        # The CPU writes a slot too, when it maps, so a bounced page is sent soon after the device
        # wrote it, and lost in some runs only.
        return self["mapping"] == "direct" and not DRIVERS[self["driver"]].beside_cpu
