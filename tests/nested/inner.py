# SPDX-License-Identifier: MIT
"""Inside the outer VM: guests under real KVM, with real VFIO devices below our ports."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

TOP = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "tests" / "support"))

from harness import run  # noqa: E402
from harness.base import BUILD, EXIT_FAILED, EXIT_TIMEOUT, HarnessError  # noqa: E402
from harness.devices import DISK, NET  # noqa: E402
from harness.progress import Progress  # noqa: E402
from harness.pvdirty import Command, Ended, operator, with_operator  # noqa: E402
from harness.qmp import QmpClosed, QmpError, QmpSilent  # noqa: E402
from harness.rundir import RunDir  # noqa: E402
from harness.topology import PORTS  # noqa: E402
from harness.vm import PLUGIN, Vm, VmConfig  # noqa: E402

SHIM = BUILD / "host" / "tests" / "nested" / "libkvm-shim.so"
RESULTS = Path(os.environ.get("OUTER_RESULTS", "/nonexistent"))
COUNTS = "OUTER_INSTRUCTIONS"
# What the outer VM calls the devices that it can assign, by their PCI class.
_CLASSES = {DISK: "0x010802", NET: "0x020000"}
# What the guest's workload counts when one of its devices is unplugged.
_GONE = {DISK: "disks_gone", NET: "nics_gone"}
_BLIND = ",x-test-blind=on"
_PORT_OPTIONS = {"off": _BLIND, "touch": f",bitmap=off,inflight=off{_BLIND}"}
_NATIVE = ["-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off"]
SECONDS = 180.0
BANDWIDTH = 200 << 20
UNTIL_PASS = 4
# A downtime that no pass can meet, until there were enough of them; then whatever is left.
HOLD_MS, END_MS = 1, 60_000


T = TypeVar("T")


class Wrong(HarnessError):
    """Something is not as it must be."""


def expect(holds: bool, otherwise: str) -> None:
    """A check."""
    if not holds:
        raise Wrong(otherwise)


@dataclass(frozen=True)
class Setup:
    """What differs between nested migrations; the same for source and destination."""

    mode: str = "log"  # of run.MODES; clean has no device
    drivers: tuple[str, ...] = ("nvme",)
    kernel: str = "6.1"
    memory_bytes: int = 256 << 20
    cpus: int = 1
    native: bool = False  # PCIe's own hot-plug, not ACPI's
    kvmclock: bool = False
    dirty_ring: int = 0  # entries; 0 for the bitmap log
    plugin: Path = PLUGIN
    shim: str = ""  # what kvm-shim.c does
    kernel_options: str = ""

    def config(self) -> VmConfig:
        """The VM without its devices' arguments."""
        return VmConfig(
            kernel=self.kernel,
            drivers=() if self.mode == "clean" else self.drivers,
            memory_bytes=self.memory_bytes,
            cpus=self.cpus,
            accel="kvm",
            load_module=self.mode != "off",
            kernel_options=self.kernel_options,
            port_options=_PORT_OPTIONS.get(self.mode, ""),
            plugins=(self.plugin,),
            disk_writes=False,  # the destination's disk is another one
        )

    def kinds(self) -> list[str]:
        """NET, DISK or both."""
        config = self.config()
        return [kind for kind in (NET, DISK) if config.driver(kind)]

    def device(self, kind: str, address: str) -> dict[str, str]:
        """device_add's arguments for a device of the outer VM."""
        driver = self.config().driver(kind)
        assert driver
        bus = PORTS[kind == DISK]
        return {"driver": "vfio-pci", "host": address, "id": driver.id, "bus": bus}

    def command_line(self, name: str, devices: Sequence[dict[str, str]] | None) -> list[str]:
        """QEMU's arguments: for a source with these devices, or without for a destination."""
        argv = self.config().command_line(name, Path("none"), incoming=devices is None)
        first = argv.index("-device")
        ports = [value for value in argv[first:] if value.startswith("pvdirty-root-port")]
        ours = [word for port in ports for word in ("-device", port)]
        for device in devices or ():
            words = [device["driver"], *(f"{k}={v}" for k, v in device.items() if k != "driver")]
            ours += ["-device", ",".join(words)]
        rest = argv[argv.index("-incoming") :] if devices is None else []
        argv = with_operator([*argv[:first], *ours, *rest], name)
        if self.kvmclock:
            argv[argv.index("-cpu") + 1] = "host"
        if self.dirty_ring:
            argv[argv.index("-accel") + 1] += f",dirty-ring-size={self.dirty_ring}"
        if self.native:
            argv += _NATIVE
        if self.shim:
            argv = ["env", f"LD_PRELOAD={SHIM}", f"KVM_SHIM={self.shim}", *argv]
        return argv


def assigned(kind: str) -> list[str]:
    """Addresses of the outer VM's devices of a kind, given to VFIO: source's, destination's."""
    found = []
    for device in sorted(Path("/sys/bus/pci/devices").iterdir()):
        if device.name < "0000:00:10" or (device / "class").read_text().strip() != _CLASSES[kind]:
            continue
        driver = device / "driver"
        if not driver.exists():
            (device / "driver_override").write_text("vfio-pci")
            Path("/sys/bus/pci/drivers/vfio-pci/bind").write_text(device.name)
        found.append(device.name)
    expect(len(found) >= 2, f"{len(found)} devices of the kind {kind}: two are needed")
    return found[:2]


def ask(vm: Vm, name: str) -> Any:
    """A property of the plug-in's object."""
    return vm.call("qom-get", path="/pvdirty", property=name)


def kvm_counters(vm: Vm) -> dict[str, int]:
    """KVM's own counters of a VM, since its start; those of its vCPUs added up."""
    found = list(Path("/sys/kernel/debug/kvm").glob(f"{vm.process.pid}-*"))
    expect(len(found) == 1, f"KVM knows {len(found)} VMs of the process {vm.process.pid}")
    out = {}
    for path in found[0].iterdir():
        text = path.read_text().strip() if path.is_file() else ""
        if text.isdigit():
            out[path.name] = int(text)
    return out


def instructions() -> dict[str, int]:
    """What the outer VM has executed, by instructions.c: in user mode, its kernel, its guests."""
    words = memoryview(Path(os.environ[COUNTS]).read_bytes()).cast("Q")
    places = ("user", "kernel", "guest")
    return {name: sum(words[n::4]) for n, name in enumerate(places)}


def dirty_rings(vm: Vm) -> int:
    """vCPUs with a dirty ring: where KVM shares it, after the 64 pages of its other uses."""
    lines = Path(f"/proc/{vm.process.pid}/maps").read_text().splitlines()
    return sum("anon_inode:kvm-vcpu" in x and x.split()[2] == "00040000" for x in lines)


@dataclass
class Pair:
    """A source whose guest works, and a destination that waits."""

    setup: Setup
    source: Vm
    destination: Vm
    directory: Path
    addresses: dict[str, list[str]]  # by kind
    progress: Progress

    def command(self, *more: str) -> Command:
        """Starts `pvdirty migrate`, by the policy that the setup's devices need."""
        policy = "unplug" if self.setup.kinds() else "keep"
        return Command(self.directory, operator("destination"), policy, *more)

    def replacements(self) -> list[str]:
        """The command's options for the destination's devices."""
        return [
            word
            for kind, (_, address) in self.addresses.items()
            for word in ("--replacement", json.dumps(self.setup.device(kind, address)))
        ]

    def limit(self, milliseconds: int) -> None:
        """Sets the downtime that the source may take."""
        self.source.call("migrate-set-parameters", **{"downtime-limit": milliseconds})

    def tick(self, until_pass: int = UNTIL_PASS) -> Callable[[], None]:
        """For Command.end(): shows progress, and lets the migration end from a pass on."""
        held = True

        def look() -> None:
            nonlocal held
            ram = self.source.call("query-migrate").get("ram", {})
            passes = ram.get("dirty-sync-count", 0)
            if held and passes >= until_pass:
                held = False
                self.limit(END_MS)
            if ram.get("total"):
                left = ram["remaining"]
                detail = f"{left // run.PAGE} pages to send"
                self.progress.show(f"pass {passes}", detail, 1 - left / ram["total"])

        return look

    def migrate(
        self, *more: str, until_pass: int = UNTIL_PASS, seconds: float = SECONDS
    ) -> Ended:
        """The whole migration: it ends as soon as it can from a pass on."""
        self.limit(HOLD_MS)
        options = ["--bandwidth", str(BANDWIDTH), "--timeout", "120", *self.replacements()]
        ended = self.command(*options, *more).end(seconds, self.tick(until_pass))
        if ended.code:
            raise HarnessError(f"pvdirty migrate: {ended.report['message']}", ended.code)
        run.stopped(self.source, self.destination)
        return ended

    def compare(self) -> dict[str, Any]:
        """Every byte of both."""
        self.progress.show("compare")
        shim = "info: kvm-shim: " in self.source.log.read_text()
        expect(shim == bool(self.setup.shim), f"the shim did {'some' if shim else 'no'}thing")
        found = run.compare(self.source, self.destination, self.directory)
        expect(found["bytes_compared"] >= self.setup.memory_bytes, f"not all is compared: {found}")
        return found

    def go_on(self) -> None:
        """The destination runs: its new devices are tracked and work, its data are good."""
        # The totals of its workload are in its memory, so they go on from there.
        before = self.source.load().values
        self.destination.call("cont")
        first: dict[str, int] = {}

        def works() -> bool:
            load = self.destination.load().values
            for kind in self.setup.kinds():
                if load.get(_GONE[kind]) != 1:
                    return False
                first.setdefault(kind, load[f"{kind}_bytes"])
                if load[f"{kind}_bytes"] - first[kind] < 1 << 20:
                    return False
            if DISK in self.setup.kinds():
                swept = load["disk_sweeps"] - before.get("disk_sweeps", 0)
                if swept < run.RESUME_SWEEPS:
                    return False
            return bool(load) and load["cpu_pages"] > before.get("cpu_pages", 0)

        self.destination.wait(
            "I/O at the destination",
            works,
            SECONDS,
            lambda: self.progress.show("destination runs"),
        )
        expect(self.destination.load().errors == 0, "the guest found wrong data")
        devices = ask(self.destination, "devices")
        expect(len(devices) == len(self.setup.kinds()), f"at the destination: {devices}")
        tracks = self.setup.mode == "log"
        expect(
            all(d["tracked"] == tracks for d in devices), f"tracked at the destination: {devices}"
        )


def _state(vm: Vm) -> str:
    """What a VM does: its vCPUs and KVM's counters, twice, to see what moves."""
    said = []
    try:
        for _ in range(2):
            for line in ("info status", "info registers -a", "info lapic", "info pic"):
                said.append(str(vm.call("human-monitor-command", **{"command-line": line})))
            said.append(json.dumps(kvm_counters(vm)))
            time.sleep(1)
    except (HarnessError, QmpClosed, QmpError, OSError) as error:
        said.append(f"no more: {error}")
    return "\n".join(said) + "\n"


def _keep_evidence(directory: Path, title: str, vms: Sequence[Vm]) -> None:
    """What the VMs said and do goes out of the outer VM, and what its kernel said."""
    if not RESULTS.exists():
        return
    prefix = title.replace(" ", "-")
    for vm in vms:
        if vm.alive():
            (RESULTS / f"{prefix}-{vm.name}.state").write_text(_state(vm))
    for path in directory.rglob("*"):
        if path.suffix in (".log", ".serial"):
            shutil.copy(path, RESULTS / f"{prefix}-{path.name}")
    with (RESULTS / f"{prefix}-outer.dmesg").open("wb") as out:
        subprocess.run(["dmesg"], stdout=out, check=False)


def _was_reset(sources: Sequence[Vm]) -> bool:
    """Has a guest been reset, so that QEMU ended without a word, as -no-reboot has it?"""
    return any(
        not vm.alive()
        and vm.process.returncode == 0
        and not vm.complaint()
        and not vm.guest_trouble()
        for vm in sources
    )


@contextlib.contextmanager
def pair(setup: Setup, title: str) -> Iterator[Pair]:
    """Boots the source until its devices work, and starts the destination."""
    addresses = {kind: assigned(kind) for kind in setup.kinds()}
    progress = Progress(title)
    vms: list[Vm] = []
    with RunDir("nested", keep=False) as directory, contextlib.ExitStack() as stack:
        stack.callback(progress.close)
        try:
            path = directory.path
            devices = [setup.device(kind, a) for kind, (a, _) in addresses.items()]
            for name in ("source", "destination"):
                argv = setup.command_line(name, devices if name == "source" else None)
                vms.append(stack.enter_context(Vm(name, argv, path)))
                if name == "source":
                    run.start(vms[0], progress)
                    run.warm_up(vms[0], setup.config(), progress)
                # Where it has none, QEMU takes the bitmap instead.
                rings = dirty_rings(vms[-1])
                expect(rings == (setup.cpus if setup.dirty_ring else 0), f"{rings} dirty rings")
            yield Pair(setup, vms[0], vms[1], path, addresses, progress)
        except (HarnessError, QmpClosed, QmpError) as error:
            time.sleep(1)  # one that has closed its monitor ends
            words = [str(error)]
            words += [f"{vm.name}: {vm.how_it_ended()}" for vm in vms if not vm.alive()]
            _keep_evidence(directory.path, title, vms)
            code = EXIT_TIMEOUT if isinstance(error, QmpSilent) else EXIT_FAILED
            code = error.code if isinstance(error, HarnessError) else code
            if not isinstance(error, Wrong) and _was_reset(vms[:1]):
                code = EXIT_TIMEOUT  # README.md; no page has been compared
            raise HarnessError(f"{title}: {'; '.join(words)}", code) from error


def with_second_try(body: Callable[[], T], title: str) -> T:
    """One more try for a VM that stood still (README.md), and for nothing else: no lost page."""
    try:
        return body()
    except HarnessError as error:
        if error.code != EXIT_TIMEOUT:
            raise
        print(f"{error}\n{title}: STOOD STILL: once more", flush=True)
        return body()


def main(body: Callable[[], None]) -> int:
    """Runs a script's body; its exit code."""
    try:
        body()
    except HarnessError as error:
        print(error, file=sys.stderr, flush=True)
        return error.code
    return 0
