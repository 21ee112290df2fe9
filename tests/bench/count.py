# SPDX-License-Identifier: MIT
"""Counts what a guest executes: instructions of DMA API calls, by a clock that counts them."""

import contextlib
import re
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from harness import guest_image  # noqa: E402
from harness.base import BUILD, HarnessError  # noqa: E402
from harness.devices import DISK  # noqa: E402
from harness.progress import Progress  # noqa: E402
from harness.rundir import RunDir  # noqa: E402
from harness.topology import PORTS, ROOT_BUS  # noqa: E402
from harness.vm import PLUGIN, Vm, VmConfig  # noqa: E402

KVM_STATE = BUILD / "host" / "tests" / "e2e" / "libpvdirty-kvm-state.so"
# The guest's clock is the number of instructions, and does not wait for the host's.
BY_INSTRUCTIONS = ("-icount", "shift=0,sleep=off")
ALLOWED = ("-device", f"edu,bus={ROOT_BUS},addr=0x10")
COVERED = ("-device", f"edu,bus={PORTS[0]}")
UNCOVERED_ADDRESS = "0000:00:10.0"
LOGGING_SECONDS = 60  # the longest that calc-dirty-rate takes
BOOT_SECONDS = 600
ORDER_SECONDS = 300
PARAMETER = "/sys/module/dma_cost/parameters/measure"
INSERT = "insmod /modules/dma_cost.ko"
LOAD = "load_module pvdirty.ko"
BASE = "without"  # the state that others are compared with
# Ten instructions that do nothing show whether the clock counts instructions.
KNOWN = ("ten", 10)


class NotExact(HarnessError):
    """The clock does not count instructions, or two runs differ."""


@dataclass(frozen=True)
class Loop:
    """What one of the guest's loops took: all its rounds, in two runs."""

    runs: tuple[int, int]
    rounds: int

    @property
    def each(self) -> float:
        """Instructions of one round."""
        return sum(self.runs) / len(self.runs) / self.rounds


Counts = dict[str, Loop]


def read(printed: str, spread: float = 0) -> Counts:
    """What the guest's module reports; NotExact if it cannot be relied on.

    spread: how far two runs may differ, as a part of the larger one.
    """
    found = re.findall(r"^(\w+) (\d+) (\d+) / (\d+)\r?$", printed, re.MULTILINE)
    counts = {name: Loop((int(a), int(b)), int(n)) for name, a, b, n in found}
    name, known = KNOWN
    if name not in counts or len(counts) < 2:
        raise HarnessError(f"the guest's module reports nothing: {printed}")
    if counts[name].each != known:
        raise NotExact(f"the guest's clock counts {counts[name].each} for {known} instructions")
    for name, loop in counts.items():
        if max(loop.runs) - min(loop.runs) > spread * max(loop.runs):
            raise NotExact(f"two runs of {name} differ: {loop.runs}")
    return counts


class Machine:
    """A guest that carries out orders."""

    def __init__(self, vm: Vm) -> None:
        self.vm = vm

    def order(self, line: str, seconds: float = ORDER_SECONDS) -> str:
        """What a line of shell prints in the guest."""
        before = len(self.vm.serial)
        self.vm.order(f"{line}; echo PVDIRTY done")
        self.vm.wait(
            f"end of '{line}'",
            lambda: "PVDIRTY done" in self.vm.serial[before:],
            seconds,
            lambda: None,
        )
        return self.vm.serial[before:]

    def covered_address(self) -> str:
        """The PCI address of the covered edu."""
        printed = self.order("grep -l 0x11e8 /sys/bus/pci/devices/*/device")
        found = [a for a in re.findall(r"0000:\w\w:\w\w\.\w", printed) if a != UNCOVERED_ADDRESS]
        return found[0]

    def measure(self, address: str, spread: float = 0) -> Counts:
        """The loops, with this device; spread as of read()."""
        return read(self.order(f"echo {address} >{PARAMETER}; cat {PARAMETER}"), spread)

    def expect_state(self, address: str, *words: str) -> None:
        """The device is in the state that is to be measured; all of it is in debugfs."""
        said = self.order("cat /sys/kernel/debug/pvdirty/*")
        for word in (*words, f"{address} "):
            if word not in said:
                raise HarnessError(f"no '{word}' in the guest's debugfs: {said}")

    def log(self) -> None:
        """The host wants marks from now on, for as long as a measurement takes."""
        self.vm.call("calc-dirty-rate", **{"calc-time": LOGGING_SECONDS, "mode": "dirty-bitmap"})
        deadline = time.monotonic() + 10
        while not self.vm.port(PORTS[0], "logging"):
            if time.monotonic() > deadline:
                raise HarnessError("the host does not log")
            time.sleep(0.05)


@contextlib.contextmanager
def machine(config: VmConfig, name: str) -> Iterator[Machine]:
    """Boots one."""
    progress = Progress(name)
    with RunDir(name, keep=True) as directory:
        disk = directory.path / "disk.img"
        if config.driver(DISK):
            shutil.copyfile(guest_image.disk_content(), disk)
        argv = config.command_line("guest", disk, incoming=False)
        with Vm("guest", argv, directory.path) as vm:
            vm.wait(
                "ready guest",
                lambda: "PVDIRTY READY" in vm.console,
                BOOT_SECONDS,
                lambda: progress.show("boot"),
            )
            yield Machine(vm)
        directory.keep = False


def counting(kernel: str) -> VmConfig:
    """A VM that counts by instructions, with ports and both edu devices."""
    return VmConfig(
        kernel=kernel,
        drivers=(),
        cpus=1,
        work=False,
        control=True,
        load_module=False,
        plugins=(PLUGIN, KVM_STATE),
        more=(*BY_INSTRUCTIONS, *ALLOWED, *COVERED),
    )


def without_ports(config: VmConfig) -> VmConfig:
    """The same on stock QEMU; only the device that no port covers is there."""
    return replace(config, plugins=(), more=(*BY_INSTRUCTIONS, *ALLOWED))
