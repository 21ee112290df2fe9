# SPDX-License-Identifier: MIT
"""What the operator's policy does in a real QEMU: nothing goes quietly, nothing goes wrong."""

import contextlib
import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from hostile_migration import NET, tracked
from played import DISPLAY, MIB, PAGE, PlayedGuest, command_line, play
from support import expect, expect_nothing_left

from harness import guest_image, run
from harness.frames import FrameGenerator
from harness.progress import Progress
from harness.qmp import QmpError
from harness.rundir import RunDir
from harness.topology import PORTS, UNCOVERED
from harness.vm import Vm, VmConfig

TO_NOWHERE = "exec:cat >/dev/null"
_SMALL = ["-machine", "q35", "-m", "256M"]
_DESTINATION_IS_WELL = bytes((0, 1, 0, 4, 0, 0, 0, 0))  # MIG_RP_MSG_SHUT, its length, 0


@contextlib.contextmanager
def _booted(config: VmConfig) -> Iterator[Vm]:
    progress = Progress("policy")
    generator = FrameGenerator(run.NET_BYTES_PER_SECOND)
    with RunDir("policy", keep=False) as directory, contextlib.ExitStack() as stack:
        stack.callback(generator.stop)
        disk = directory.path / "disk.img"
        shutil.copyfile(guest_image.disk_content(), disk)
        argv = config.command_line("source", disk, incoming=False)
        argv.remove("-no-reboot")
        vm = stack.enter_context(Vm("source", argv, directory.path))
        run.boot(vm, config, generator, progress)
        yield vm
    expect_nothing_left(os.getpid())


def _status(vm: Vm, wanted: set[str], seconds: float = 60) -> dict[str, Any]:
    deadline = time.monotonic() + seconds
    while True:
        info: dict[str, Any] = vm.call("query-migrate")
        if info.get("status") in wanted:
            return info
        expect(time.monotonic() < deadline, f"no {wanted} within {seconds:.0f} s: {info}")
        time.sleep(0.1)


def _expect_failed(vm: Vm, *words: str) -> None:
    info = _status(vm, {"failed", "completed"})
    print(info, flush=True)
    expect(info["status"] == "failed", "it completed")
    for word in ("pvdirty: ", *words):
        expect(word in info["error-desc"], f"no '{word}' in: {info['error-desc']}")


def _add_snapshot_store(vm: Vm) -> None:
    """An empty qcow2 image, where savevm can put its state."""

    def create(**options: Any) -> None:
        vm.call("blockdev-create", **{"job-id": "create", "options": options})
        deadline = time.monotonic() + 10
        while (jobs := vm.call("query-jobs"))[0]["status"] != "concluded":
            expect(time.monotonic() < deadline, f"no image: {jobs}")
            time.sleep(0.05)
        expect("error" not in jobs[0], f"no image: {jobs}")
        vm.call("job-dismiss", id="create")

    create(driver="file", filename="snapshots.qcow2", size=0)
    protocol = {"driver": "file", "node-name": "file1", "filename": "snapshots.qcow2"}
    vm.call("blockdev-add", **protocol)
    create(driver="qcow2", file="file1", size=1 << 20)
    vm.call("blockdev-add", **{"driver": "qcow2", "node-name": "snapshots", "file": "file1"})


def all_dirty() -> None:
    """Without a tracking guest, as asked for: said at the start, and every byte is sent."""
    base = VmConfig(load_module=False, plugin_options=",on-incomplete=all-dirty")
    progress = Progress("all-dirty")
    with RunDir("all-dirty", keep=False) as directory:
        outcome = run.run("log", "e1000e+virtio-blk", base, directory, progress)
        log = (directory.path / "source.log").read_text(errors="replace")
    print(outcome, log, flush=True)
    row = outcome.result
    expect(row.pages_dma_written > 0, "no device wrote")
    expect(row.pages_lost == 0, f"{row.pages_lost} pages were lost")
    expect(row.answered_all_dirty > 0, "no harvest answered all-dirty")
    expect(row.pages_last_pass >= row.pages_total * 9 // 10, "not all of RAM was in the last pass")
    warnings = [line for line in log.splitlines() if "warning: pvdirty: " in line]
    expect(len(warnings) == 2, f"not a warning at the start and one at the end: {warnings}")
    expect("all RAM will be sent while the VM is stopped" in warnings[0], warnings[0])
    expect("all RAM is sent while the VM is stopped" in warnings[1], warnings[1])
    for warning in warnings:
        expect("has not registered the port" in warning, f"no reason: {warning}")


def _wait_unregistered(vm: Vm) -> None:
    deadline = time.monotonic() + 10
    while vm.port(PORTS[0], "registered"):
        expect(time.monotonic() < deadline, "still registered after a reset")
        time.sleep(0.1)


def lost_before_the_last_pass() -> None:
    """A guest that is lost after the last round, too late for any pass: the end refuses."""
    with _booted(run.config_for("log", VmConfig())) as vm:
        pause = [{"capability": "pause-before-switchover", "state": True}]
        vm.call("migrate-set-capabilities", capabilities=pause)
        vm.call("migrate-set-parameters", **{"max-bandwidth": 1 << 30, "downtime-limit": 2000})

        # A control: without the reset it completes.
        for reset in (True, False):
            vm.call("migrate", uri=TO_NOWHERE)
            _status(vm, {"pre-switchover"})
            if reset:
                vm.call("system_reset")
                _wait_unregistered(vm)
            vm.call("migrate-continue", state="pre-switchover")
            if not reset:
                info = _status(vm, {"failed", "completed"})
                expect(info["status"] == "completed", f"the control: {info}")
                break
            _expect_failed(vm, "no longer tracks all DMA")
            expect(vm.call("query-status")["status"] == "running", "the source does not run")
            deadline = time.monotonic() + 60
            while not vm.port(PORTS[0], "complete"):
                expect(time.monotonic() < deadline, "the new kernel does not register")
                time.sleep(0.1)


def _set_capability(vm: Vm, name: str) -> None:
    change = [{"capability": name, "state": True}]
    vm.call("migrate-set-capabilities", capabilities=change)


def _said_all_is_sent(vm: Vm) -> int:
    return vm.log.read_text(errors="replace").count("all RAM is sent while the VM is stopped")


def _drain(connection: socket.socket) -> None:
    """Takes a stream to its end, as a destination does."""
    with contextlib.suppress(OSError):
        while connection.recv(1 << 20):
            pass


def _wait_finish_migrate(vm: Vm) -> None:
    deadline = time.monotonic() + 60
    while (state := vm.call("query-status")["status"]) != "finish-migrate":
        expect(time.monotonic() < deadline, f"the source does not wait: {state}")
        time.sleep(0.05)


def _expect_no_early_decision() -> None:
    """Before the last pass, a refresh of the display harvests, and sends nothing yet."""
    with play(command_line(_SMALL, NET + DISPLAY, "all-dirty")) as guest:
        guest.map_display()
        guest.show_screen()
        _set_capability(guest.vm, "pause-before-switchover")
        guest.start_migration()
        guest.wait_migration(("pre-switchover",))
        for _ in range(3):
            guest.harvest()
        said = _said_all_is_sent(guest.vm)
        expect(said == 0, f"said {said} times before the last pass that all RAM is sent")
        guest.vm.call("migrate-continue", state="pre-switchover")
        expect(guest.wait_migration(("completed", "failed")) == "completed", "it failed")
        said = _said_all_is_sent(guest.vm)
        expect(said == 1, f"said {said} times that all RAM is sent")


def _migrate_to(guest: PlayedGuest, server: socket.socket) -> socket.socket:
    """Starts a migration; returns the destination's end."""
    guest.vm.call("migrate-set-parameters", **{"max-bandwidth": 1 << 40})
    guest.vm.call("migrate", uri="unix:destination")
    return server.accept()[0]


def _expect_no_late_decision() -> None:
    """Once the destination has all, what happens to the source's log fails nothing."""
    argv = command_line(_SMALL, NET + DISPLAY)
    with play(argv) as guest, socket.socket(socket.AF_UNIX) as server:
        tracked(guest)
        guest.map_display()
        guest.show_screen()
        server.bind(str(guest.vm.directory / "destination"))
        server.settimeout(60)
        server.listen()
        _set_capability(guest.vm, "return-path")
        with _migrate_to(guest, server) as destination:
            threading.Thread(target=_drain, args=(destination,), daemon=True).start()
            # The BQL is free only when the last pass is over.
            _wait_finish_migrate(guest.vm)
            guest.vm.call("system_reset")  # all is dirty from now on
            _wait_unregistered(guest.vm)
            guest.map_display()
            guest.show_screen()
            guest.harvest()
            destination.sendall(_DESTINATION_IS_WELL)
            ended = guest.wait_migration(("completed", "failed"))
        expect(ended == "completed", f"{guest.migration()}: and the destination runs too")


def only_the_last_pass_decides() -> None:
    """Others sync the dirty log while the VM is stopped to finish: they decide nothing."""
    _expect_no_late_decision()
    _expect_no_early_decision()
    expect_nothing_left(os.getpid())


def unplugged_memory() -> None:
    """All of RAM is sent, but not the part that virtio-mem holds back: it takes no memory."""
    memory = ["-machine", "q35", "-m", "128M,maxmem=4G"]
    memory += ["-object", "memory-backend-ram,id=vm0,size=2G"]
    memory += ["-device", "virtio-mem-pci,memdev=vm0,id=mem0"]
    with play(command_line(memory, NET, "all-dirty")) as guest:
        guest.start_migration()
        expect(guest.wait_migration(("completed", "failed")) == "completed", "it failed")
        pages = guest.vm.port("rp0", "last-pass-pages")
        print(f"{pages} pages in the last pass", flush=True)
        expect(pages >= 128 * MIB // PAGE, "not all of RAM was in the last pass")
        expect(pages < 512 * MIB // PAGE, "unplugged memory was in the last pass")
    expect_nothing_left(os.getpid())


def final_limit() -> None:
    """Pages in flight that the operator's limit does not allow: the migration says so and fails."""
    config = run.config_for("log", VmConfig(drivers=("e1000e",), plugin_options=",final-limit=64K"))
    with _booted(config) as vm:
        vm.call("migrate", uri=TO_NOWHERE)
        _expect_failed(vm, "are in flight, more than the limit of 64 KiB")
        in_flight = vm.port(PORTS[0], "pages-in-flight")
        expect(in_flight > 16, f"only {in_flight} pages are in flight")
        expect(vm.call("query-status")["status"] == "running", "the source does not run")


def _wait_running(vm: Vm) -> None:
    deadline = time.monotonic() + 30
    while (state := vm.call("query-status")["status"]) != "running":
        expect(time.monotonic() < deadline, f"refused, and the source is {state}")
        time.sleep(0.05)


def _savevm(vm: Vm, command: str = "savevm one") -> str:
    said: str = vm.call("human-monitor-command", **{"command-line": command})
    print(f"{command}: {said}", flush=True)
    return said


def _expect_snapshots_without_devices(config: VmConfig) -> None:
    """A control: ports without a device refuse no snapshot, there and back."""
    with RunDir("snapshot", keep=False) as directory:
        argv = config.command_line("source", guest_image.disk_content(), incoming=False)
        with Vm("source", [*argv, "-S"], directory.path) as vm:
            _add_snapshot_store(vm)
            expect(not _savevm(vm), "savevm without a covered device")
            expect(not _savevm(vm, "loadvm one"), "loadvm without a covered device")


def only_pre_copy() -> None:
    """With a covered device, whatever else saves the VM is refused before it begins."""
    config = run.config_for("log", VmConfig(drivers=("e1000e",)))
    _expect_snapshots_without_devices(replace(config, topology=UNCOVERED))
    with _booted(config) as vm:
        _add_snapshot_store(vm)
        for paused in (False, True):
            if paused:
                vm.call("stop")
            said = _savevm(vm)
            expect("Error" in said, f"savevm is taken: {said}")
            expect("pvdirty: savevm cannot be right" in said, f"paused {paused}: {said}")
        vm.call("cont")
        for capability, name in (
            ("postcopy-ram", "post-copy"),
            ("background-snapshot", "a background snapshot"),
            ("x-colo", "COLO"),
        ):
            change = [{"capability": capability, "state": True}]
            try:
                vm.call("migrate-set-capabilities", capabilities=change)
            except QmpError as error:
                print(f"{capability} is not to be had here: {error}", flush=True)
                # The host's kernel may not write-protect by userfaultfd.
                expect(capability == "background-snapshot", str(error))
                continue
            vm.call("migrate", uri=TO_NOWHERE)
            _expect_failed(vm, f"{name} cannot be right")
            _wait_running(vm)
            change[0]["state"] = False
            vm.call("migrate-set-capabilities", capabilities=change)
        # After all these refusals a pre-copy is as good as before.
        vm.call("migrate-set-parameters", **{"max-bandwidth": 1 << 30, "downtime-limit": 2000})
        vm.call("migrate", uri=TO_NOWHERE)
        info = _status(vm, {"failed", "completed"})
        expect(info["status"] == "completed", json.dumps(info))
