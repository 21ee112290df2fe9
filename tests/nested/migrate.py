#!/usr/bin/python3 -sB
# SPDX-License-Identifier: MIT
"""Inside the outer VM: `migrate.py log|off` migrates a guest with a real VFIO device under real KVM.

The device works until the rest would fit, is taken out, and another one comes at the destination.
With log nothing may be lost; off, without the guest's module and with a blind host, is the control.
"""

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "tests" / "e2e"))

from support import expect  # noqa: E402

from harness import run  # noqa: E402
from harness.progress import Progress  # noqa: E402
from harness.rundir import RunDir  # noqa: E402
from harness.vm import Vm, VmConfig  # noqa: E402

DEVICES = ("0000:00:10.0", "0000:00:11.0")  # for the source and for the destination
DEVICE = "disk0"
BANDWIDTH = 200 << 20
DOWNTIME_MS = 1000
MIN_PASSES = 4
SECONDS = 300.0


def assign(address: str) -> None:
    """Gives a PCI device to VFIO."""
    device = Path("/sys/bus/pci/devices", address)
    (device / "driver_override").write_text("vfio-pci")
    Path("/sys/bus/pci/drivers/vfio-pci/bind").write_text(address)


def command_line(config: VmConfig, name: str, device: str | None) -> list[str]:
    """QEMU's, with the VFIO device in place of the emulated one, or without it."""
    argv = config.command_line(name, Path("none"), incoming=device is None)
    out: list[str] = []
    for option, value in zip(argv[1:-1], argv[2:], strict=True):
        if option == "-device" and value.startswith("pvdirty-root-port"):
            out += [option, value]
    first = argv.index("-device")
    rest = argv[argv.index("-incoming") :] if device is None else []
    vfio = ["-device", f"vfio-pci,host={device},id={DEVICE},bus=rp1"] if device else []
    return [*argv[:first], *out, *vfio, *rest]


def ask(vm: Vm, name: str) -> Any:
    """A property of the plug-in's object."""
    return vm.call("qom-get", path="/pvdirty", property=name)


def migrate(source: Vm) -> dict[str, Any]:
    """Until the device has gone and all is sent."""
    source.call("qom-set", path="/pvdirty", property="hold-for", value=DEVICE)
    limits = {"max-bandwidth": BANDWIDTH, "downtime-limit": DOWNTIME_MS}
    source.call("migrate-set-parameters", **limits)
    source.call("migrate", uri="unix:migrate")
    deadline = time.monotonic() + SECONDS
    asked = False
    while True:
        info: dict[str, Any] = source.call("query-migrate")
        if info["status"] in ("completed", "failed"):
            expect(info["status"] == "completed", f"{info} {source.complaint()}")
            expect(asked and ask(source, "devices") == [], "it ended with the device still there")
            return info
        expect(time.monotonic() < deadline, f"it does not end: {info}")
        passes = info.get("ram", {}).get("dirty-sync-count", 0)
        if not asked and passes >= MIN_PASSES and ask(source, "converged"):
            expect(len(ask(source, "devices")) == 1, "the device went by itself")
            expect(source.load().errors == 0, "the guest found wrong data")
            source.call("device_del", id=DEVICE)
            asked = True
        time.sleep(0.1)


def main(mode: str) -> None:
    """The whole migration, and the judge."""
    for address in DEVICES:
        assign(address)
    base = VmConfig(
        drivers=("nvme",), accel="kvm", memory_bytes=256 << 20, cpus=1, disk_writes=False
    )
    config = base
    if mode == "off":
        config = replace(base, load_module=False, port_options=",x-test-blind=on")
    progress = Progress(f"nested {mode}")
    with RunDir("nested", keep=False) as directory:
        path = directory.path
        argv = command_line(config, "source", DEVICES[0])
        with Vm("source", argv, path) as source:
            source.wait("guest", lambda: "PVDIRTY READY" in source.console, SECONDS, lambda: None)
            run.warm_up(source, config, progress)
            if mode == "log":
                device = ask(source, "devices")[0]
                expect(device["tracked"] and not device["migratable"], f"not tracked: {device}")
            argv = command_line(config, "destination", None)
            with Vm("destination", argv, path) as destination:
                info = migrate(source)
                run.stopped(source, destination)
                found = run.compare(source, destination, path)
                marked = ask(source, "pages-marked")
                print(
                    f"{mode}: {found['pages_lost']} of {found['pages_total']} pages lost, "
                    f"{marked} marked, {info['ram']['dirty-sync-count']} passes, "
                    f"downtime {info['downtime']} ms; the first: {found['ranges'][:2]}",
                    flush=True,
                )
                if mode == "off":
                    expect(found["pages_lost"] > 0, "nothing is lost: the judge proves nothing")
                    return
                expect(found["pages_lost"] == 0, "pages are lost")
                expect(marked > 0, "nothing was marked")
                destination.call("cont")
                arguments = {"driver": "vfio-pci", "host": DEVICES[1], "id": "disk1", "bus": "rp1"}
                destination.call("device_add", **arguments)
                destination.wait(
                    "replacement",
                    lambda: [d["tracked"] for d in ask(destination, "devices")] == [True],
                    SECONDS,
                    lambda: None,
                )
                print("the replacement is tracked at the destination", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
