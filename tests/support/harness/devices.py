# SPDX-License-Identifier: MIT
"""The emulated devices that a guest's workload uses: QEMU's arguments, the guest's modules."""

from dataclasses import dataclass
from pathlib import Path

NET = "net"
DISK = "disk"
# Of QEMU and of the guest: one NIC and one disk are the most that a VM has.
IDS = {NET: "nic0", DISK: "disk0"}
# The DMA API maps for a virtio device only if it says that it needs that.
_VIRTIO = "iommu_platform=on,disable-legacy=on"


@dataclass(frozen=True)
class Driver:
    """A kind of device, by the name that our options have for it."""

    kind: str  # NET or DISK
    device: str  # QEMU's name and properties of the PCI device
    modules: tuple[str, ...]  # of the guest's kernel
    disk: str = ""  # a device on a bus of the PCI device, which holds the disk
    path: str = ""  # what the guest calls the disk
    migratable: bool = True  # can QEMU 7.2 save its state?
    # The CPU writes the pages too that the device writes: a host that does not see the device
    # sends most of them all the same.
    beside_cpu: bool = False
    not_replaced: str = ""  # why QEMU 7.2 cannot unplug it and plug another one in
    # No frame may come while the guest falls asleep: after one it receives nothing any more.
    sleeps_unlinked: bool = False

    @property
    def id(self) -> str:
        """QEMU's id of the PCI device."""
        return IDS[self.kind]

    @property
    def counter(self) -> str:
        """What the workload counts of its work."""
        return f"{self.kind}_bytes"

    def arguments(self, bus: str) -> list[str]:
        """QEMU's -device arguments; the back ends are n0 and d0."""
        first = f"{self.device},id={self.id},bus={bus}"
        if self.kind == NET:
            return ["-device", f"{first},netdev=n0"]
        if not self.disk:
            return ["-device", f"{first},drive=d0"]
        return ["-device", first, "-device", f"{self.disk},bus={self.id}.0,drive=d0"]


DRIVERS = {
    # Linux leaves an 82574's receiver on when it suspends it (FLAG2_NO_DISABLE_RX), and clears the
    # ring (e1000e_down()). A frame that comes then sets DD in an empty descriptor, and after the
    # sleep the driver takes that for a frame: it is ahead of the NIC, RDH is RDT, and each waits
    # for the other. So on stock QEMU 7.2 without our plug-in in 3 of 3 sleeps beside a slow
    # migration; without one such a frame has not been seen, in 3 either.
    "e1000e": Driver(NET, "e1000e,romfile=", ("e1000e",), sleeps_unlinked=True),
    # Linux gives it a 32-bit mask, since it is no PCI-X card.
    "e1000": Driver(NET, "e1000,romfile=", ("e1000",)),
    # Its receive buffers are parts of pages, with the skbs of others.
    "virtio-net": Driver(
        NET,
        f"virtio-net-pci,romfile=,{_VIRTIO}",
        ("virtio_pci", "virtio_net"),
        beside_cpu=True,
    ),
    "virtio-blk": Driver(
        DISK, f"virtio-blk-pci,{_VIRTIO}", ("virtio_pci", "virtio_blk"), path="/dev/vda"
    ),
    "virtio-scsi": Driver(
        DISK,
        f"virtio-scsi-pci,{_VIRTIO}",
        ("virtio_pci", "virtio_scsi", "sd_mod"),
        disk="scsi-hd",
        path="/dev/sda",
    ),
    "ahci": Driver(
        DISK,
        "ahci",
        ("ahci", "sd_mod"),
        disk="ide-hd",
        path="/dev/sda",
        not_replaced="cannot plug a disk into an AHCI that came later",
    ),
    "xhci": Driver(
        DISK,
        "qemu-xhci",
        ("xhci_pci", "usb_storage", "sd_mod"),
        disk="usb-storage",
        path="/dev/sda",
        # It holds a reference to itself, by the link "host" of its child: it is never torn down,
        # and a migration that waits for that goes on.
        not_replaced="never ends an unplugged xHCI",
    ),
    "nvme": Driver(
        DISK, "nvme,serial=pvdirty", ("nvme",), path="/dev/nvme0n1", migratable=False
    ),
}


def back_end(kind: str, name: str, disk: Path, bytes_per_second: int) -> list[str]:
    """QEMU's arguments for what is behind a device of the VM with this name."""
    if kind == NET:
        return ["-netdev", f"stream,id=n0,server=on,addr.type=unix,addr.path={name}.net"]
    argv = ["-blockdev", f"driver=file,node-name=file0,filename={comma(disk)}"]
    # The disk is slower than the guest asks, so requests wait in QEMU at any time. When the VM
    # stops, they are carried out: DMA that the guest can mark no more.
    argv += ["-object", f"throttle-group,id=slow,x-bps-total={bytes_per_second}"]
    return [*argv, "-blockdev", "driver=throttle,node-name=d0,throttle-group=slow,file=file0"]


def comma(path: Path) -> str:
    """QEMU's option syntax doubles a comma that is meant."""
    return str(path).replace(",", ",,")
