# SPDX-License-Identifier: MIT
"""A guest that goes down, or changes, in the middle of a migration.

Each migration first copies all of RAM; then it is held there by a bandwidth that no pass can do
with, while devices write what no harvest has taken. Then comes the event. Under the default policy
the migration must fail with the reason, and the next one succeeds once the guest tracks again.
Under all-dirty it must complete. Every byte of one that completes is compared.
"""

import contextlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from support import expect, expect_nothing_left

from harness import guest_image, run
from harness.frames import FrameGenerator
from harness.progress import Progress
from harness.qmp import QmpError
from harness.rundir import RunDir
from harness.topology import PORTS
from harness.vm import Vm, VmConfig

PASSES = 2
BANDWIDTH = 256 << 20
HOLD_BANDWIDTH = 64 << 10  # bytes per second: less than any guest dirties
HELD_SECONDS = 1.0
HUSH_SECONDS = 0.3
BEFORE_THE_END = ("setup", "active", "device")
ALL_DIRTY = ",on-incomplete=all-dirty"
PLAIN = VmConfig()

# The crash kernel runs the same workload, in memory of its own.
CRASH_KERNEL = "crashkernel=192M"
CRASH_OPTIONS = "nr_cpus=1 reset_devices"
UNBIND = (
    "for d in e1000e virtio-pci; do cd /sys/bus/pci/drivers/$d; "
    "for f in 0000:*; do echo $f >unbind; done; done; cd /"
)
# A module that was pinned is let go a moment later.
REMOVE = "until rmmod pvdirty 2>/dev/null; do usleep 100000; done"
PROBE = "for f in /sys/bus/pci/devices/*; do echo ${f##*/} >/sys/bus/pci/drivers_probe; done"
LISTEN = (
    "load_modules button; "
    "for f in /dev/input/event*; do (dd if=$f bs=24 count=1 >/dev/null 2>&1; poweroff -f) & done"
)


@dataclass(frozen=True)
class Event:
    """What befalls a guest, and what becomes of it."""

    name: str
    happen: Callable[[Vm], Any]
    over: Callable[[Vm, str], bool]  # given what the guest has printed since
    reasons: tuple[str, ...] = ()  # a migration fails for one of them
    prepare: str = ":"  # a line for the guest, before the migration
    recover: str = ""  # another one, until the guest tracks its devices again
    kernel_options: str = ""
    second_kernel: bool = False  # the guest starts it itself
    hush: bool = False  # no link from soon after a panic until the next kernel is ready


def _kexec(action: str, options: str = "") -> str:
    """The line that makes the second kernel ready."""
    command_line = f"$(sed s/{CRASH_KERNEL}// /proc/cmdline) {options}"
    return f'kexec {action} /kexec/vmlinuz /kexec/initrd "{command_line}"'


def _order(line: str) -> Callable[[Vm], Any]:
    return lambda vm: vm.order(line)


def _command(name: str) -> Callable[[Vm], Any]:
    return lambda vm: vm.call(name)


def _said(words: str) -> Callable[[Vm, str], bool]:
    return lambda _vm, printed: words in printed


def _is_off(vm: Vm, _printed: str) -> bool:
    return bool(vm.call("query-status")["status"] == "shutdown")


REBORN = _said("PVDIRTY init")
LEFT = "the port was reset, or the guest left it"

UNLOAD = Event(
    "unload",
    _order(f"killall load; wait; {UNBIND}; {REMOVE}; echo PVDIRTY unloaded"),
    _said("PVDIRTY unloaded"),
    (LEFT, "no driver bound"),
    recover=f"echo PVDIRTY init again; load_module pvdirty.ko; {PROBE}; start_load; "
    "echo PVDIRTY READY",
)
REBOOT = Event("reboot", _order("reboot -f"), REBORN, (LEFT,), recover=":")
KEXEC = Event(
    "kexec",
    _order("kexec boot"),
    REBORN,
    (LEFT,),
    prepare=_kexec("load"),
    recover=":",
    second_kernel=True,
)
CRASH = Event(
    "crash",
    _order("echo c >/proc/sysrq-trigger"),
    REBORN,
    ("a new kernel enumerates the ports",),
    prepare=_kexec("crash", CRASH_OPTIONS),
    recover="dmesg | grep -E 'tracked, driver e1000e|eth0: .PCI' | sed 's/^/PVDIRTY probe /'",
    kernel_options=CRASH_KERNEL,
    second_kernel=True,
    # The NIC has filled what the crashed kernel gave it by then. QEMU 7.2's e1000e ends on an
    # assertion when a new driver switches MSI-X on while frames wait for the old one.
    hush=True,
)
# The same, seen before the crash kernel has come as far as the ports.
CRASH_BEGINS = replace(CRASH, name="crash-begins", over=_said("Kernel panic"), hush=False)
PANIC = Event(
    "panic",
    _order("echo 0 >/proc/sys/kernel/panic; echo c >/proc/sysrq-trigger"),
    _said("end Kernel panic"),
)
RESET = Event("reset", _command("system_reset"), REBORN, (LEFT,), recover=":")
POWER_OFF = Event("power-off", _order("poweroff -f"), _is_off, (LEFT,))
POWER_BUTTON = Event(
    "power-button", _command("system_powerdown"), _is_off, (LEFT,), prepare=LISTEN
)


class Guest:
    """A source with a guest under load, and one migration of it after the other."""

    def __init__(self, vm: Vm, config: VmConfig, stack: contextlib.ExitStack) -> None:
        self.vm = vm
        self.config = config
        self.progress = Progress("fault")
        self.generator = FrameGenerator(run.NET_BYTES_PER_SECOND)
        self.destination: Vm | None = None
        self._stack = stack
        self._count = 0
        stack.callback(self.generator.stop)

    def until(self, what: str, condition: Callable[[], Any], seconds: float) -> None:
        """Waits for something while QEMU runs."""
        deadline = time.monotonic() + seconds
        while not condition():
            expect(self.vm.alive(), f"QEMU ended before {what}: {self.vm.complaint()}")
            expect(time.monotonic() < deadline, f"no {what} within {seconds:.0f} s")
            time.sleep(0.05)

    def boot(self) -> None:
        """Waits for the workload."""
        run.boot(self.vm, self.config, self.generator, self.progress)

    def expect_tracked(self, vm: Vm) -> None:
        """The kernel that came to life last tracks its devices, under load."""
        self.until("ready guest", lambda: "PVDIRTY READY" in vm.console, 120)
        vm.call("set_link", name="n0", up=True)
        run.warm_up(vm, self.config, self.progress)
        for port in PORTS:
            why = vm.port(port, "why-incomplete")
            expect(vm.port(port, "complete"), f"{port} is not tracked again: {why}")

    def order(self, line: str) -> None:
        """Has the guest carry out a line, and waits until it has."""
        self.until("ready guest", lambda: "PVDIRTY READY" in self.vm.console, 120)
        before = len(self.vm.serial)
        self.vm.order(f"{line}; echo PVDIRTY done")
        self.until(f"end of '{line}'", lambda: "PVDIRTY done" in self.vm.serial[before:], 60)

    def status(self) -> str:
        """Of the migration."""
        return str(self.vm.call("query-migrate").get("status"))

    def _parameters(self, bandwidth: int, downtime_ms: int) -> None:
        parameters = {"max-bandwidth": bandwidth, "downtime-limit": downtime_ms}
        self.vm.call("migrate-set-parameters", **parameters)

    def start(self, passes: int = PASSES, bandwidth: int = BANDWIDTH) -> None:
        """Starts a migration and holds it where all of RAM has been copied."""
        if self.destination:
            self.destination.kill()
        self._count += 1
        directory = self.vm.directory
        name = f"destination{self._count}"
        argv = self.config.command_line(name, directory / "disk.img", incoming=True)
        self.destination = self._stack.enter_context(Vm(name, argv, directory))
        self._parameters(bandwidth, run.DOWNTIME_HOLD_MS)
        self.vm.call("migrate", uri="unix:migrate")

        def copied() -> bool:
            info = self.vm.call("query-migrate")
            status = info.get("status")
            expect(status in ("setup", "active"), f"the migration ends by itself: {info}")
            return bool(info.get("ram", {}).get("dirty-sync-count", 0) > passes)

        self.until("copy of all RAM", copied, 60)
        self._parameters(HOLD_BANDWIDTH, run.DOWNTIME_HOLD_MS)
        time.sleep(HELD_SECONDS)
        self.expect_held()

    def expect_held(self) -> None:
        """The migration is neither at its end nor beyond it."""
        expect(self.status() == "active", f"the migration is not running: {self.status()}")

    def happen(self, event: Event) -> None:
        """The event, from its cause to the kernel or the state that comes after it."""
        before = len(self.vm.serial)
        event.happen(self.vm)
        if event.hush:
            self.until("panic", lambda: "Kernel panic" in self.vm.serial[before:], 60)
            time.sleep(HUSH_SECONDS)
            self.vm.call("set_link", name="n0", up=False)
        over = partial(event.over, self.vm)
        self.until(f"end of {event.name}", lambda: over(self.vm.serial[before:]), 120)

    def expect_failed(self, reasons: Sequence[str]) -> None:
        """The migration has failed, as was said, and left nothing running."""
        self.until("end of the migration", lambda: self.status() != "active", 10)
        ended = self.vm.call("query-migrate")
        print(ended, flush=True)
        expect(ended["status"] == "failed", f"{ended['status']} without a tracking guest")
        why = ended["error-desc"]
        expect(why.startswith("pvdirty: "), f"whose reason: {why}")
        expect(any(reason in why for reason in reasons), f"none of {reasons}: {why}")
        assert self.destination
        self.until("end of the destination", lambda: not self.destination.alive(), 10)

    def expect_no_start(self) -> None:
        """Nobody tracks the devices: no migration starts."""
        try:
            self.vm.call("migrate", uri="unix:migrate")
        except QmpError as error:
            expect("does not track all DMA" in str(error), f"refused for another reason: {error}")
        else:
            raise AssertionError("a migration starts without a tracking guest")

    def complete(self) -> dict[str, int]:
        """Lets the migration end, which it must do well, and compares every byte.

        Both sides are stopped then.
        """
        assert self.destination
        self._parameters(1 << 30, run.DOWNTIME_MS)
        self.until("end of the migration", lambda: self.status() not in BEFORE_THE_END, 60)
        ended = self.vm.call("query-migrate")
        print(ended, flush=True)
        expect(ended["status"] == "completed", f"it ends with: {ended}")
        run.stopped(self.vm, self.destination)
        directory = self.vm.directory / f"{self.destination.name}.compare"
        directory.mkdir()
        found = run.compare(self.vm, self.destination, directory)
        for name in ("answered-all-dirty", "x-oracle-written", "x-oracle-uncovered"):
            found[name] = int(self.vm.port(PORTS[0], name))
        found = {name: value for name, value in found.items() if isinstance(value, int)}
        print(found, flush=True)
        expect(found["bytes_compared"] >= self.config.memory_bytes, "not all RAM was compared")
        return found

    def complete_equal(self, all_dirty: bool = False) -> None:
        """As complete(), and no page is lost."""
        found = self.complete()
        expect(found["pages_lost"] == 0, f"{found['pages_lost']} pages are lost")
        if all_dirty:
            expect(found["answered-all-dirty"] > 0, "it did not know that it was incomplete")
        else:
            expect(found["answered-all-dirty"] == 0, "a tracked guest was all dirty")
            expect(found["x-oracle-written"] > 0, "the oracle saw no DMA at all")
            expect(found["x-oracle-uncovered"] == 0, "written pages were not covered")

    def resume_source(self) -> None:
        """The source goes on after a migration that completed."""
        assert self.destination
        self.destination.kill()
        self.vm.call("cont")

    def resume_destination(self) -> Vm:
        """The destination goes on instead, without frames until its next kernel is ready."""
        destination = self.destination
        assert destination
        self.generator.stop()
        destination.call("cont")
        self.until("ready guest", lambda: "PVDIRTY READY" in destination.serial, 120)
        self.generator.start(self.vm.directory / f"{destination.name}.net")
        return destination


def _expect_sound(vm: Vm) -> None:
    """The workload has found what it expected."""
    expect(vm.load().errors == 0, f"{vm.load().errors} errors in the guest's data")


@contextlib.contextmanager
def _guest(
    kernel: str,
    event: Event,
    plugin_options: str = "",
    port_options: str = "",
    base: VmConfig = PLAIN,
) -> Iterator[Guest]:
    """A guest under load that is prepared for the event."""
    with RunDir(event.name, keep=False) as directory, contextlib.ExitStack() as stack:
        base = replace(
            base,
            kernel=kernel,
            control=True,
            disk_writes=False,
            kernel_options=event.kernel_options,
            port_options=port_options,
            plugin_options=plugin_options,
        )
        config = run.config_for("log", base)
        if event.second_kernel:
            initrd = guest_image.add_kernel(kernel, directory.path / "initramfs.cpio")
            config = replace(config, initrd=initrd)
        disk = directory.path / "disk.img"
        shutil.copyfile(guest_image.disk_content(), disk)
        progress = Progress(event.name)
        vm = stack.enter_context(run.start_source(config, disk, directory.path, progress))
        guest = Guest(vm, config, stack)
        try:
            guest.boot()
            guest.order(event.prepare)
            yield guest
        except BaseException:
            print(f"--- the end of the guest's console:\n{vm.serial[-6000:]}", flush=True)
            raise
    expect_nothing_left(os.getpid())


def _expect_refused(guest: Guest, event: Event) -> None:
    """The migration fails and says why; the next one loses nothing, if there can be one."""
    guest.start()
    guest.happen(event)
    guest.expect_failed(event.reasons)
    if event.over is not REBORN:
        guest.expect_no_start()
    if not event.recover:
        return
    expect(guest.vm.call("query-status")["status"] == "running", "the source stands still")
    guest.order(event.recover)
    guest.expect_tracked(guest.vm)
    guest.start()
    guest.complete_equal()
    _expect_sound(guest.vm)


def refused(event: Event, kernel: str, base: VmConfig = PLAIN) -> None:
    """Under the default policy."""
    with _guest(kernel, event, base=base) as guest:
        _expect_refused(guest, event)


def crash(kernel: str) -> None:
    """What the crashed kernel's buffers get until the driver has reset the NIC is not tracked."""
    with _guest(kernel, CRASH) as guest:
        _expect_refused(guest, CRASH)
        lines = re.findall(r"PVDIRTY probe (.*)", guest.vm.console)
        expect(len(lines) == 2, f"not two lines of the NIC's probe: {lines}")
        expect("tracked" in lines[1], f"it counts as tracked before its driver has it: {lines}")


def unload(kernel: str) -> None:
    """The module goes only when no device needs it: that it is asked to go costs nothing."""
    with _guest(kernel, UNLOAD) as guest:
        guest.start()
        guest.order("rmmod pvdirty; echo PVDIRTY rmmod $?")
        expect("PVDIRTY rmmod 1\n" in guest.vm.console, "a module in use is unloaded")
        guest.expect_held()
        guest.complete_equal()
        guest.resume_source()
        _expect_refused(guest, UNLOAD)


def panic(kernel: str) -> None:
    """A guest that only stands still goes on being tracked, as do its devices."""
    with _guest(kernel, PANIC) as guest:
        guest.start()
        guest.happen(PANIC)
        guest.expect_held()
        guest.complete_equal()


def crash_begins(kernel: str) -> None:
    """Until the crash kernel finds the ports, what the crashed one has registered holds."""
    with _guest(kernel, CRASH_BEGINS) as guest:
        guest.start()
        guest.happen(CRASH_BEGINS)
        guest.vm.call("stop")
        guest.expect_held()
        for port in PORTS:
            expect(guest.vm.port(port, "complete"), "stopped too late: the ports were found")
        guest.complete_equal()
        destination = guest.resume_destination()
        guest.expect_tracked(destination)
        _expect_sound(destination)


def all_dirty(event: Event, kernel: str) -> None:
    """The migration completes with all of RAM in its last pass."""
    with _guest(kernel, event, plugin_options=ALL_DIRTY) as guest:
        guest.start()
        guest.happen(event)
        guest.expect_held()
        guest.complete_equal(all_dirty=True)


def blind(event: Event, kernel: str) -> None:
    """The control: a host that trusts silence loses what devices wrote, and nothing else."""
    with _guest(kernel, event, port_options=run.BLIND) as guest:
        guest.start()
        guest.happen(event)
        guest.expect_held()
        found = guest.complete()
        expect(found["pages_lost"] > 0, "nothing is lost: the judge proves nothing")
        outside = found["pages_lost_outside_oracle"]
        expect(outside == 0, f"{outside} lost pages were not written by a device")


_EVENTS = (UNLOAD, REBOOT, KEXEC, CRASH, RESET, POWER_OFF, POWER_BUTTON)
_CASES: dict[str, Callable[[str], None]] = (
    {f"fault-{event.name}": partial(refused, event) for event in _EVENTS}
    | {f"fault-{event.name}-all-dirty": partial(all_dirty, event) for event in _EVENTS}
    | {f"fault-{event.name}-blind": partial(blind, event) for event in (CRASH, RESET)}
    | {
        "fault-unload": unload,
        "fault-crash": crash,
        "fault-crash-begins": crash_begins,
        "fault-panic": panic,
    }
)
CASES: dict[str, Callable[[], None]] = {
    name + suffix: partial(case, kernel)
    for name, case in _CASES.items()
    for kernel, suffix in (("6.1", ""), ("6.12", "-6.12"))
}
