# SPDX-License-Identifier: MIT
"""Where the devices of a VM are: on which machine, below which ports."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from .base import BUILD
from .devices import DISK, NET, comma

PORTS = ("rp0", "rp1")
FIRST_SLOT = 4  # on the root bus
_ROOT_PORT = "pvdirty-root-port,id={id},chassis={number},slot={number},addr={slot}"
_BRIDGE = "pvdirty-bridge,id={id},chassis_nr={number},addr={slot}"
_SWITCH = (
    *("-device", f"x3130-upstream,id=up,bus={PORTS[0]}"),
    *("-device", "xio3130-downstream,id=down0,bus=up,chassis=11,slot=11"),
    *("-device", "xio3130-downstream,id=down1,bus=up,chassis=12,slot=12"),
)

# QEMU gives bridges that are there at the start to ACPI, if it may. Linux takes an SHPC only from
# a firmware that hands it over, by OSHP; QEMU 7.2 has no such method on i440fx: here is one.
_OSHP = b"\x10\x12\\\x2e_SB_PCI0\x14\x06OSHP\x00"  # Scope (\_SB.PCI0) { Method (OSHP) {} }
_OSHP_FILE = BUILD / "guest" / "oshp.aml"
_BY_SHPC = (
    *("-global", "PIIX4_PM.acpi-pci-hotplug-with-bridge-support=off"),
    *("-acpitable", f"sig=SSDT,rev=1,oem_id=PVDRTY,oem_table_id=PVDRTYHP,data={comma(_OSHP_FILE)}"),
)


@dataclass(frozen=True)
class Topology:
    """QEMU's arguments; a bus may come with the address on it."""

    port: str  # QEMU's name and properties of both ports
    buses: Mapping[str, str]  # of the NIC and the disk
    machine: str = "q35"
    options: tuple[str, ...] = ()  # of the machine
    between: tuple[str, ...] = ()  # what is made after the ports, before the devices

    def ports(self, options: str) -> list[str]:
        """The arguments of the ports; options: more properties, ",name=value..."."""
        argv: list[str] = []
        for number, port in enumerate(PORTS):
            words = self.port.format(id=port, number=number + 1, slot=number + FIRST_SLOT)
            argv += ["-device", words + options]
        return argv

    def at(self, kind: str, bus: str) -> "Topology":
        """The same with the NIC or the disk elsewhere."""
        return replace(self, buses={**self.buses, kind: bus})

    def make_files(self) -> None:
        """Writes what the options name."""
        if _BY_SHPC[-1] in self.options:
            _OSHP_FILE.write_bytes(_OSHP)


ROOT_BUS = "pcie.0"
ROOT_PORTS = Topology(_ROOT_PORT, {NET: PORTS[0], DISK: PORTS[1]})
UNCOVERED = replace(ROOT_PORTS, buses={NET: ROOT_BUS, DISK: ROOT_BUS})
SWITCH = replace(ROOT_PORTS, between=_SWITCH, buses={NET: "down0", DISK: "down1"})
BRIDGES = Topology(_BRIDGE, {NET: f"{PORTS[0]},addr=1", DISK: f"{PORTS[1]},addr=1"})
BRIDGES_I440FX = replace(BRIDGES, machine="pc", options=_BY_SHPC)
