# SPDX-License-Identifier: MIT
"""One run: boot, migrate under load, stop both sides, compare every byte."""

import contextlib
import json
import re
import shutil
import subprocess
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from . import guest_image
from .base import BUILD, EXIT_REFUSED, EXIT_TIMEOUT, HarnessError, say
from .devices import DISK, NET
from .frames import FrameGenerator
from .linux import BUILT_IN
from .progress import Progress
from .qmp import QmpClosed, QmpError
from .rundir import RunDir
from .topology import PORTS, UNCOVERED
from .vm import GuestError, Vm, VmConfig

CLI = BUILD / "host" / "pvdirty"
MODES = ("clean", "off", "touch", "log")
UNTRACKED = ",x-test-untracked=on"
BLIND = ",x-test-blind=on"

PAGE = 4096
NET_BYTES_PER_SECOND = 2 << 20
BANDWIDTH = 48 << 20
# A downtime that no pass can meet, until the migration has run for a while:
# several passes under load, then it may end.
DOWNTIME_HOLD_MS = 1
DOWNTIME_MS = 2000
MIN_PASSES = 4
MIN_SECONDS = 4.0
BOOT_SECONDS = 180.0
KVM_BOOT_SECONDS = 20.0
WARM_UP_LINES = 4  # of the workload, half a second each
_KNOWS_PVDIRTY = re.compile(r"pvdirty: |\bpvd_")
_STALL = re.compile(r"rcu: INFO: .*stall.*")
RESUME_SWEEPS = 6  # every thread has looked at all that it read at the source


def config_for(mode: str, base: VmConfig) -> VmConfig:
    """The VMs of a mode: the same command line but for what the mode says."""
    options = base.port_options + UNTRACKED
    if mode == "clean":
        return replace(base, topology=UNCOVERED, port_options=options)
    if mode == "off":
        if base.kernel in BUILT_IN:  # pvdirty is there, and is offered nothing.
            options += ",touch=off,bitmap=off,inflight=off"
        return replace(base, load_module=False, port_options=options + BLIND)
    if mode == "touch":
        options += f",bitmap=off,inflight=off{BLIND}"
        return replace(base, port_options=options)
    return replace(base, port_options=options)


@dataclass(frozen=True)
class RunResult:
    """A row of the table; the keys of `runs[]` in the JSON file."""

    mode: str
    driver: str
    kernel: str
    memory_bytes: int
    pages_total: int
    bytes_compared: int
    pages_dma_written: int
    pages_marked: int
    pages_in_flight: int
    pages_lost: int
    pages_uncovered: int
    pages_overmarked: int
    pages_last_pass: int
    answered_all_dirty: int
    passes: int
    ram_bytes_sent: int
    downtime_ms: int
    guest_io_bytes: int

    def as_json(self) -> dict[str, Any]:
        """The object in `runs[]`."""
        return asdict(self)


@dataclass(frozen=True)
class Outcome:
    """A run's row and what only the verdict needs."""

    result: RunResult
    lost_outside_oracle: int
    guest_errors: int
    resumed: bool  # did the destination go on, where it was asked to?
    messages: list[str]  # the plug-in's errors on either side


class MigrationRefused(HarnessError):
    """The source does not start the migration."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the migration was refused: {reason}", EXIT_REFUSED)


def start_source(config: VmConfig, disk: Path, directory: Path, progress: Progress) -> Vm:
    """Starts QEMU; with KVM, waits for the first sign of the guest's kernel.

    /dev/kvm may be there where no kernel boots under it: only trying tells.
    """
    progress.show("boot")
    argv = config.command_line("source", disk, incoming=False)
    if config.accel != "kvm":
        return Vm("source", argv, directory)
    try:
        vm = Vm("source", argv, directory)
        try:
            vm.wait(
                "sign of the guest's kernel",
                lambda: "PVDIRTY init" in vm.serial,
                KVM_BOOT_SECONDS,
                lambda: progress.show("boot"),
            )
        except BaseException:
            vm.kill()
            raise
        return vm
    except GuestError as error:
        if "pvdirty" in str(error):
            raise
        raise HarnessError(f"KVM cannot boot a kernel here ({error}): use --accel tcg") from error


def boot(vm: Vm, config: VmConfig, generator: FrameGenerator, progress: Progress) -> None:
    """Waits until the guest's workload runs and its devices have moved data."""
    start(vm, progress)
    if config.driver(NET):
        generator.start(vm.directory / f"{vm.name}.net")
    warm_up(vm, config, progress)


def start(vm: Vm, progress: Progress) -> None:
    """Waits until the guest's workload runs.

    A kernel that fails before it knows of pvdirty gets one more try: on a busy machine QEMU's timers
    may be too late for it.
    """
    try:
        _ready(vm, progress)
    except GuestError as error:
        if _KNOWS_PVDIRTY.search(vm.console):
            raise
        say(f"{error}: it did not know of pvdirty yet, so once more\n{vm.console[-2000:]}")
        vm.start_anew()
        _ready(vm, progress)


def _ready(vm: Vm, progress: Progress) -> None:
    def stalls() -> str:
        found = None if _KNOWS_PVDIRTY.search(vm.console) else _STALL.search(vm.console)
        return found.group().strip() if found else ""

    vm.wait(
        "ready guest",
        lambda: "PVDIRTY READY" in vm.console or bool(stalls()),
        BOOT_SECONDS,
        lambda: progress.show("boot"),
    )
    if "PVDIRTY READY" not in vm.console:
        raise GuestError(f"{vm.name}: while waiting for ready guest: {stalls()}")


def warm_up(vm: Vm, config: VmConfig, progress: Progress) -> None:
    """Waits for the workload of the kernel that came to life last, as boot() does."""
    _ready(vm, progress)
    wanted = [device.counter for kind in (NET, DISK) if (device := config.driver(kind))]

    def warm() -> bool:
        values = vm.load().values
        return vm.console.count("PVDIRTY io") >= WARM_UP_LINES and all(
            values.get(w, 0) > 0 for w in wanted
        )

    vm.wait("I/O of the guest", warm, BOOT_SECONDS, lambda: progress.show("warm-up"))


def migrate(source: Vm, memory_bytes: int, progress: Progress) -> dict[str, Any]:
    """Migrates to `unix:migrate` and returns the last answer of query-migrate."""
    source.call(
        "migrate-set-parameters",
        **{"max-bandwidth": BANDWIDTH, "downtime-limit": DOWNTIME_HOLD_MS},
    )
    start = time.monotonic()
    limit = 120 + 60 * memory_bytes / (1 << 30)
    held = True
    try:
        source.call("migrate", uri="unix:migrate")
    except QmpError as error:
        raise MigrationRefused(str(error)) from error
    while True:
        info: dict[str, Any] = source.call("query-migrate")
        ram = info.get("ram", {})
        status = info.get("status")
        if status == "completed":
            return info
        if status in ("failed", "cancelled"):
            reason = source.complaint() or info.get("error-desc", "QEMU gives no reason")
            raise HarnessError(f"the migration failed: {reason}")
        elapsed = time.monotonic() - start
        passes = ram.get("dirty-sync-count", 0)
        if held and passes >= MIN_PASSES and elapsed >= MIN_SECONDS:
            source.call("migrate-set-parameters", **{"downtime-limit": DOWNTIME_MS})
            held = False
        if elapsed > limit:
            source.call("migrate_cancel")
            raise HarnessError(
                f"the migration did not converge in {limit:.0f} s and was cancelled", EXIT_TIMEOUT
            )
        if ram.get("total"):
            left = ram["remaining"]
            progress.show(
                f"pass {passes}", f"{left // PAGE} pages to send", 1 - left / ram["total"]
            )
        time.sleep(0.05)


def stopped(source: Vm, destination: Vm) -> None:
    """Waits until both sides are stopped with the same memory."""
    deadline = time.monotonic() + 60
    while True:
        states = [vm.call("query-status")["status"] for vm in (source, destination)]
        # A guest that had switched itself off is off at the destination.
        if states[0] == "postmigrate" and states[1] in ("paused", "shutdown"):
            return
        if time.monotonic() > deadline:
            raise HarnessError(f"source and destination did not stop: {states}", EXIT_TIMEOUT)
        time.sleep(0.05)


def compare(source: Vm, destination: Vm, directory: Path) -> dict[str, Any]:
    """All RAM of two stopped VMs, by `pvdirty compare`."""
    dumps = []
    for vm in (source, destination):
        dump = directory / f"{vm.name}.dump"
        dump.mkdir()
        vm.call(
            "qom-set",
            path=f"/machine/peripheral/{PORTS[0]}",
            property="x-test-dump",
            value=str(dump),
        )
        dumps.append(dump)
    report = directory / "compare.json"
    with (directory / "compare.log").open("wb") as log:
        argv = [CLI, "compare", *dumps, "--oracle", "--show", "2", "--json", report]
        status = subprocess.run(argv, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
    if status not in (0, 1) or not report.exists():
        raise HarnessError(
            "pvdirty compare failed: " + (directory / "compare.log").read_text().strip()
        )
    found: dict[str, Any] = json.loads(report.read_text())
    if (status == 0) != (found["pages_lost"] == 0):
        raise HarnessError(f"pvdirty compare ends with {status} and reports {found['pages_lost']}")
    return found


def resume(
    destination: Vm, config: VmConfig, generator: FrameGenerator, progress: Progress
) -> bool:
    """Lets the destination run until its devices work and its data are checked."""
    destination.call("cont")
    if config.driver(NET):
        generator.start(destination.directory / f"{destination.name}.net")
    first = None

    def went_on() -> bool:
        nonlocal first
        load = destination.load()
        if not load.values:
            return False
        first = first or load
        swept = load.values["disk_sweeps"] - first.values["disk_sweeps"]
        received = load.values["net_bytes"] - first.values["net_bytes"]
        return (not config.driver(DISK) or swept >= RESUME_SWEEPS) and (
            not config.driver(NET) or received > 0
        )

    destination.wait(
        "I/O at the destination", went_on, 60, lambda: progress.show("destination runs")
    )
    return True


def run(
    mode: str, driver: str, base: VmConfig, directory: RunDir, progress: Progress
) -> Outcome:
    """One run of a mode; errors are HarnessError."""
    config = config_for(mode, base)
    path = directory.path
    disk = path / "disk.img"
    if config.driver(DISK):
        shutil.copyfile(guest_image.disk_content(), disk)
    generator = FrameGenerator(NET_BYTES_PER_SECOND)
    with contextlib.ExitStack() as stack:
        stack.callback(generator.stop)
        source = stack.enter_context(start_source(config, disk, path, progress))
        try:
            boot(source, config, generator, progress)
            destination = stack.enter_context(
                Vm("destination", config.command_line("destination", disk, incoming=True), path)
            )
            before = source.load()
            try:
                info = migrate(source, config.memory_bytes, progress)
            except HarnessError as error:
                if destination.alive():
                    raise
                # The source only knows that nobody listens any more.
                raise HarnessError(
                    f"{error}; the destination: {destination.complaint()}", error.code
                ) from error
            generator.stop()
            progress.show("stop")
            stopped(source, destination)
            after = source.load()
            progress.show("compare")
            found = compare(source, destination, path)
            stats = {
                name: int(source.port(PORTS[0], name))
                for name in (
                    "x-oracle-written",
                    "x-oracle-marked",
                    "x-oracle-uncovered",
                    "x-oracle-overmarked",
                    "pages-in-flight",
                    "last-pass-pages",
                    "answered-all-dirty",
                )
            }
            errors = after.errors
            resumed = False
            if mode in ("clean", "log"):
                resumed = resume(destination, config, generator, progress)
                errors = destination.load().errors
            messages = [f"{vm.name}: {m}" for vm in (source, destination) for m in vm.messages()]
        except QmpClosed as error:
            complaint = source.complaint() or source.guest_trouble()
            raise HarnessError(f"{error}: {complaint}") from error
    result = RunResult(
        mode=mode,
        driver=driver,
        kernel=config.kernel,
        memory_bytes=config.memory_bytes,
        pages_total=found["pages_total"],
        bytes_compared=found["bytes_compared"],
        pages_dma_written=stats["x-oracle-written"],
        pages_marked=stats["x-oracle-marked"],
        pages_in_flight=stats["pages-in-flight"],
        pages_lost=found["pages_lost"],
        pages_uncovered=stats["x-oracle-uncovered"],
        pages_overmarked=stats["x-oracle-overmarked"],
        pages_last_pass=stats["last-pass-pages"],
        answered_all_dirty=stats["answered-all-dirty"],
        passes=info["ram"]["dirty-sync-count"],
        ram_bytes_sent=info["ram"]["transferred"],
        downtime_ms=info["downtime"],
        guest_io_bytes=after.io_bytes - before.io_bytes,
    )
    outside = found.get("pages_lost_outside_oracle", 0)
    return Outcome(result, outside, errors, resumed, messages)
