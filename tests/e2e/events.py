# SPDX-License-Identifier: MIT
"""What happens to ports and guests beside a migration that goes well."""

import os
import shutil
import time
from typing import Any

from support import expect, expect_nothing_left

from harness import guest_image, run
from harness.frames import FrameGenerator
from harness.progress import Progress
from harness.qmp import QmpError
from harness.rundir import RunDir
from harness.topology import PORTS
from harness.vm import Vm, VmConfig

NEW_PORT = {"driver": "pvdirty-root-port", "id": "new", "bus": "up", "chassis": 9}
# Without a guest, an unplug must not wait for one.
UPSTREAM = ["-S", "-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off"]
UPSTREAM += ["-device", "pcie-root-port,id=up,chassis=8,slot=8,addr=10"]


def _ports(vm: Vm) -> set[str]:
    return {entry["name"] for entry in vm.call("qom-list", path="/machine/peripheral")}


def _wait(what: str, condition: Any, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        expect(time.monotonic() < deadline, f"no {what} within {seconds:.0f} s")
        time.sleep(0.1)


def _ram_blocks(vm: Vm) -> int:
    shown: str = vm.call("human-monitor-command", **{"command-line": "info ramblock"})
    return shown.count("\n")


def port_hotplug() -> None:
    """A port comes and goes with all that it shadows; one that fails leaves nothing."""
    with RunDir("port-hotplug", keep=False) as directory:
        config = run.config_for("log", VmConfig())
        argv = config.command_line("source", guest_image.disk_content(), incoming=False)
        argv.remove("-no-reboot")
        with Vm("source", argv + UPSTREAM, directory.path) as vm:
            blocks = _ram_blocks(vm)
            for _ in range(3):
                vm.call("device_add", **NEW_PORT, **{"x-test-untracked": True})
                expect("new" in _ports(vm), "no new port")
                vm.call("device_del", id="new")
                _wait("end of the port", lambda: "new" not in _ports(vm), 10)
            _wait("end of the shadows", lambda: _ram_blocks(vm) == blocks, 10)

        backend = argv.index("-object")
        del argv[backend : backend + 2]
        argv = [a.removesuffix(",memory-backend=m0").removesuffix(run.UNTRACKED) for a in argv]
        with Vm("source", argv + UPSTREAM, directory.path) as vm:
            try:
                vm.call("device_add", **NEW_PORT, **{"x-test-untracked": True})
            except QmpError as error:
                expect("memory-backend-memfd" in str(error), f"refused for another reason: {error}")
            else:
                raise AssertionError("a test port without shared RAM is taken")
            vm.call("query-pci")
            vm.call("system_reset")
            vm.call("device_add", **NEW_PORT)
            expect("new" in _ports(vm), "no port after one that failed")
    expect_nothing_left(os.getpid())


def virtio_without_the_dma_api() -> None:
    """Such a device writes where nobody mapped anything: it must not count as tracked."""
    config = run.config_for("log", VmConfig(drivers=("virtio-blk",)))
    progress = Progress("virtio")
    with RunDir("virtio", keep=False) as directory:
        disk = directory.path / "disk.img"
        shutil.copyfile(guest_image.disk_content(), disk)
        argv = config.command_line("source", disk, incoming=False)
        argv = [a.replace("iommu_platform=on", "iommu_platform=off") for a in argv]
        with Vm("source", argv, directory.path) as vm:
            run.boot(vm, config, FrameGenerator(run.NET_BYTES_PER_SECOND), progress)
            expect(not vm.port(PORTS[1], "complete"), "it counts as tracked")
            why = vm.port(PORTS[1], "why-incomplete")
            expect("DMA API" in why, f"another reason: {why}")
            try:
                vm.call("migrate", uri="exec:cat >/dev/null")
            except QmpError as error:
                expect("DMA API" in str(error), f"refused for another reason: {error}")
            else:
                raise AssertionError("its migration starts")
    expect_nothing_left(os.getpid())
