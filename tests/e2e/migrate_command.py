# SPDX-License-Identifier: MIT
"""The command `pvdirty migrate` as an operator gives it, against whole QEMUs."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from around import DEVICE_ELSEWHERE
from features import SMALL
from moving import BY_SOCKET, MovingGuest, moving
from played import command_line
from support import expect, expect_nothing_left
from unplugging import without

from harness import guest_image, run
from harness.base import die_with_parent
from harness.devices import DRIVERS
from harness.frames import FrameGenerator
from harness.progress import Progress
from harness.pvdirty import Command, Ended, operator, with_operator
from harness.qmp import connect_unix
from harness.rundir import RunDir
from harness.topology import PORTS
from harness.vm import Vm, VmConfig

LIMIT_SECONDS = 240.0
FAILED, REFUSED, TIMED_OUT, INTERRUPTED = 1, 3, 4, 130
BANDWIDTH = "96M"  # the guest dirties less
WATCHED = "watched.qmp"  # a monitor for `pvdirty status` and `pvdirty watch`
REPLACEMENTS: dict[str, dict[str, str]] = {
    "e1000e": {"id": "new0", "netdev": "n0", "bus": PORTS[0], "romfile": ""},
    "nvme": {"id": "new1", "drive": "d0", "bus": PORTS[1], "serial": "new"},
}
MEMORY = ["-machine", "q35,memory-backend=m0", "-m", "64"]
MEMORY += ["-object", "memory-backend-memfd,id=m0,size=64M,share=on"]
NIC = ["-netdev", "hubport,id=n0,hubid=0", "-device", f"e1000e,id=nic0,netdev=n0,bus={PORTS[0]}"]

# Of a source.
MONITORS = (
    *with_operator([], "source"),
    *("-qmp", f"unix:{WATCHED},server=on,wait=off"),
)


def _covered(vm: Vm) -> list[dict[str, Any]]:
    devices: list[dict[str, Any]] = vm.call("qom-get", path="/pvdirty", property="devices")
    return devices


def _unplugged(*more: str, drivers: tuple[str, ...] = ("e1000e",)) -> Ended:
    """A guest under load moves without its devices and gets others; its memory is compared."""
    config = run.config_for("log", VmConfig(drivers=drivers))
    progress = Progress("unplug")
    with RunDir("unplug", keep=False) as directory, contextlib.ExitStack() as stack:
        path = directory.path
        disk = path / "disk.img"
        shutil.copyfile(guest_image.disk_content(), disk)
        generator = FrameGenerator(run.NET_BYTES_PER_SECOND)
        stack.callback(generator.stop)

        argv = config.command_line("source", disk, incoming=False)
        source = stack.enter_context(Vm("source", with_operator(argv, "source"), path))
        run.boot(source, config, generator, progress)

        argv = config.command_line("destination", disk, incoming=True)
        for name in drivers:
            argv = without(DRIVERS[name], argv)
        destination = stack.enter_context(
            Vm("destination", with_operator(argv, "destination"), path)
        )
        options = ["--bandwidth", BANDWIDTH, "--timeout", "120", *more]
        for name in drivers:
            options += ["--replacement", json.dumps({"driver": name, **REPLACEMENTS[name]})]
        command = Command(path, operator("destination"), "unplug", *options)
        ended = command.end(LIMIT_SECONDS)
        expect(ended.code == 0, f"exit code {ended.code}: {ended.report['message']}")
        run.stopped(source, destination)
        found = run.compare(source, destination, path)
        expect(found["bytes_compared"] >= config.memory_bytes, f"not all is compared: {found}")
        expect(found["pages_lost"] == 0, f"lost: {found['pages_lost']} pages")
        expect(not _covered(source), "a device is left at the source")
        there = {device["id"] for device in _covered(destination)}
        expect(there == {REPLACEMENTS[name]["id"] for name in drivers}, f"replaced by {there}")
        left = set(ended.report["devices"])
        expect(left == {DRIVERS[name].id for name in drivers}, f"{left} have left")
        expect(ended.report["unplugged_ms"] is not None, "not said how long it was away")
        parameters = source.call("query-migrate-parameters")
        expect(parameters["max-bandwidth"] != 96 << 20, "the bandwidth is not as before")
    expect_nothing_left(os.getpid())
    return ended


def unplug() -> None:
    """Devices leave in the middle of a migration that has marked their pages.

    QEMU cannot save the state of one of them.
    """
    ended = _unplugged(drivers=("e1000e", "nvme"))
    expect(ended.report["pages_marked"] > 0, "the devices had nothing to do with the migration")


@contextlib.contextmanager
def _stopped_guest(policy: str) -> Iterator[tuple[Path, Vm]]:
    """A VM whose guest never does anything, and a destination that waits for orders."""
    with RunDir("stopped", keep=False) as directory, contextlib.ExitStack() as stack:
        argv = command_line(MEMORY, [], policy)
        at = argv.index("unix:guest.qmp,server=on,wait=off")
        del argv[at - 1 : at + 5]  # the monitor, and the guest that tests play
        for name in ("source", "destination"):
            mine = [*argv, "-qmp", f"unix:{name}.qmp,server=on,wait=off"]
            mine += NIC if name == "source" else ["-incoming", "defer"]
            vm = stack.enter_context(Vm(name, with_operator(mine, name), directory.path))
            if name == "source":
                source = vm
        yield directory.path, source
    expect_nothing_left(os.getpid())


def _expect_intact(vm: Vm, *ends: str) -> None:
    """The VM has its device, and may be migrated again.

    ends: of its last migration, beside a cancelled one.
    """
    device = _covered(vm)[0]
    expect(device["id"] == "nic0" and device["state"] == "plugged", f"not intact: {device}")
    expect(not device["hold"], "it is still held for")
    expect(
        not vm.call("qom-get", path="/pvdirty", property="holding"), "a migration waits for it still"
    )
    status = vm.call("query-migrate").get("status", "none")
    expect(status in ("none", "cancelled", *ends), f"the migration is {status}")


def stubborn() -> None:
    """Guests that do not let go, operators that change their mind, monitors that are taken."""
    with _stopped_guest("refuse") as (path, source):
        ended = Command(path, operator("destination"), "keep").end(LIMIT_SECONDS)
        expect(ended.code == REFUSED, f"exit code {ended.code} for an untracked device")
        expect("nic0" in ended.report["message"], "the device is not named")
        _expect_intact(source)

    with _stopped_guest("all-dirty") as (path, source):
        other = connect_unix(path / operator("source"))
        try:
            ended = Command(path, operator("destination"), "unplug").end(LIMIT_SECONDS)
        finally:
            other.close()
        expect(ended.code == TIMED_OUT, f"exit code {ended.code} for a monitor that is taken")
        expect("one client at a time" in ended.said, "not said why")

        command = Command(path, operator("destination"), "unplug", "--timeout", "600")
        deadline = time.monotonic() + LIMIT_SECONDS
        while source.call("query-migrate").get("status") != "active":
            expect(command.process.poll() is None, "it ended by itself")
            expect(time.monotonic() < deadline, "no migration")
            time.sleep(0.05)
        command.process.send_signal(signal.SIGINT)
        ended = command.end(LIMIT_SECONDS)
        expect(ended.code == INTERRUPTED, f"exit code {ended.code} after Ctrl-C")
        _expect_intact(source)

        ended = Command(path, "exec:cat >/dev/null", "unplug", "--timeout", "1").end(LIMIT_SECONDS)
        expect(ended.code == TIMED_OUT, f"exit code {ended.code} for a guest that keeps its device")
        expect("does not let go of nic0" in ended.said, "not said why")
        expect(ended.report["status"] == "cancelled", "the migration was not cancelled")
        _expect_intact(source)


def plug_back() -> None:
    """A guest lets go of an xHCI, which QEMU never ends: it gets it again, with its disk."""
    monitor = ("-qmp", f"unix:{operator('source')},server=on,wait=off")
    base = replace(SMALL, drivers=("xhci",), control=True, disk_writes=False, more=monitor)
    with moving("log", base) as guest:
        options = ["--bandwidth", BANDWIDTH, "--timeout", "20"]
        ended = Command(guest.directory, "exec:cat >/dev/null", "unplug", *options).end(LIMIT_SECONDS)
        expect(ended.code == TIMED_OUT, f"exit code {ended.code} for a device that does not end")
        words = "the guest has let go, but QEMU sees no end of disk0"
        expect(words in ended.report["message"], f"another reason: {ended.report['message']}")
        expect(ended.report["plugged_back"] == ["disk0"], "not plugged in again")
        expect(ended.report["status"] == "cancelled", "the migration was not cancelled")
        guest.order("killall load; wait; echo PVDIRTY init again")
        guest.until("tracked device", lambda: bool(guest.covered()["disk0"]["tracked"]))
        guest.order("start_load")
        guest.wait_for_work()
        guest.expect_sound()
    expect_nothing_left(os.getpid())


def _shown(directory: Path, command: str, *more: str) -> subprocess.Popen[bytes]:
    """`pvdirty status` or `pvdirty watch` of the source; what it prints is in a file."""
    with (directory / f"{command}.out").open("wb") as out:
        return subprocess.Popen(
            [run.CLI, command, "--qmp", WATCHED, "--json", *more],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=out,
            preexec_fn=die_with_parent(),
        )


def _printed(directory: Path, command: str) -> str:
    text = (directory / f"{command}.out").read_text()
    print(f"pvdirty {command}:\n{text}", flush=True)
    return text


def _expect_status(guest: MovingGuest) -> None:
    """It says what the VM's own answers say."""
    code = _shown(guest.directory, "status").wait(LIMIT_SECONDS)
    expect(code == 0, f"pvdirty status: exit code {code}")
    status = json.loads(_printed(guest.directory, "status"))
    expect(status["run-state"] == "running" and status["complete"], "not running, or incomplete")
    expect({port["id"] for port in status["ports"]} == set(PORTS), "other ports")
    (device,) = status["devices"]
    expect(device["id"] == "nic0" and device["tracked"], f"another device: {device}")
    expect(device == guest.covered()["nic0"], "another one than the plug-in says")
    expect(status["counters"]["pages-marked"] > 0, "no marks of the migration before")


def _expect_watched(directory: Path) -> None:
    """Its lines follow the migration and what devices write in it."""
    lines = [json.loads(line) for line in _printed(directory, "watch").splitlines()]
    active = [line for line in lines if line["migration"]["status"] == "active"]
    expect(len(active) >= 2, f"{len(active)} lines of a running migration")
    marked = [line["counters"]["pages-marked"] for line in active]
    expect(marked[-1] > marked[0], f"marks do not grow: {marked}")
    expect(any(line["dma-pages-per-second"] > 0 for line in active), "no rate of these")


def _without_monitors(argv: list[str]) -> list[str]:
    at = argv.index(MONITORS[1]) - 1
    return argv[:at] + argv[at + len(MONITORS) :]


def keep() -> None:
    """By URI; before that to a guest that keeps its device, and a destination that has it elsewhere.

    Each time the source goes on with its device. `pvdirty watch` sees the one that succeeds.
    """
    # Without this driver nobody in the guest hears of ACPI's request.
    deaf = "acpiphp.disable=1"
    base = replace(SMALL, drivers=("e1000e",), more=MONITORS, kernel_options=deaf)
    with moving("log", base) as guest:
        path = guest.directory

        def command(policy: str, *more: str) -> Ended:
            options = ("--bandwidth", BANDWIDTH, *more)
            return Command(path, BY_SOCKET, policy, *options).end(LIMIT_SECONDS)

        def expect_kept() -> None:
            _expect_intact(guest.source, "failed")
            expect(guest.covered()["nic0"]["tracked"], "it is not tracked any more")
            guest.wait_for_work()
            guest.expect_sound()

        guest.receive(change=_without_monitors)
        ended = command("unplug", "--timeout", "3")
        expect(ended.code == TIMED_OUT, f"exit code {ended.code} for a guest that keeps its device")
        expect("does not let go of nic0" in ended.said, "not said why")
        expect_kept()

        guest.receive(change=lambda argv: DEVICE_ELSEWHERE.change(_without_monitors(argv)))
        ended = command("keep")
        expect(ended.code == FAILED, f"exit code {ended.code} for a device that is elsewhere")
        expect(ended.report["status"] == "failed", f"it ends with {ended.report['status']}")
        expect_kept()
        _expect_status(guest)

        guest.receive(change=_without_monitors)
        watch = _shown(path, "watch", "--interval", "100")
        ended = command("keep", "--max-downtime", "200")
        expect(ended.code == 0, f"exit code {ended.code}: {ended.report['message']}")
        expect(ended.report["devices"] == [], "a device has left")
        watch.send_signal(signal.SIGINT)
        code = watch.wait(LIMIT_SECONDS)
        expect(code == 0, f"pvdirty watch: exit code {code} after Ctrl-C")
        _expect_watched(path)
        guest.judge()
        guest.go_on()
    expect_nothing_left(os.getpid())


def practices() -> None:
    """How long the guest is without a device: let go at the end, or before the first page."""
    rows = {"at the end": _unplugged(), "before the first page": _unplugged("--unplug-first")}
    print("| the device is unplugged | guest without it, ms | downtime, ms | all in all, ms | sent |")
    print("|---|---|---|---|---|")
    for practice, ended in rows.items():
        report = ended.report
        times = [report[key] for key in ("unplugged_ms", "downtime_ms", "total_ms")]
        sent = report["ram_bytes_sent"] >> 20
        print(f"| {practice} | {' | '.join(map(str, times))} | {sent} MiB |", flush=True)
    first = rows["before the first page"].report
    away, all_of_it = first["unplugged_ms"], first["total_ms"]
    expect(away >= all_of_it, f"without a device for {away} ms of {all_of_it} ms only")
    late = rows["at the end"].report["unplugged_ms"]
    expect(late < away, f"unplugged at the end: without it for {late} ms, before: {away} ms")


CASES = {
    "command-unplug": unplug,
    "command-keep": keep,
    "command-plug-back": plug_back,
    "command-practices": practices,
    "command-stubborn": stubborn,
}
